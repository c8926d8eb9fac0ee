"""Words as they come: what is committed never changes, and together it is the text of the whole."""

from __future__ import annotations

from itertools import accumulate

from hypothesis import given
from hypothesis import strategies as st

from quran_asr.decoding.partial import OpenWords, Revisions, StreamingResult, add_tokens, revisions
from quran_asr.decoding.vocabulary import Vocabulary
from quran_asr.records import Hypothesis, TimedWord

VOCABULARY = Vocabulary(("▁", "▁ق", "ل", "▁هو", "▁الل", "ه", "أحد", "د▁ا", "م▁"))
FRAME = 0.08
tokens_with_waits = st.lists(st.tuples(st.integers(0, len(VOCABULARY) - 1), st.integers(0, 6)), max_size=14)


def hypothesis_of(steps: list[tuple[int, int]]) -> Hypothesis:
    """From (token, frame)s; the probability of a token says its place."""
    return Hypothesis(
        tuple(token for token, _ in steps),
        tuple(frame for _, frame in steps),
        0.0,
        tuple(-0.01 * frame for _, frame in steps),
    )


def timed(steps: list[tuple[int, int]]) -> list[tuple[int, int]]:
    return list(zip((token for token, _ in steps), accumulate(wait for _, wait in steps), strict=True))


def texts(words: tuple[TimedWord, ...]) -> list[str]:
    return [word.text for word in words]


def moments_of(pieces: list[list[tuple[int, int]]], ends: tuple[int, ...] = ()) -> list[StreamingResult]:
    state, results = OpenWords(), []
    for nth, piece in enumerate(pieces):
        result, state = add_tokens(
            state, hypothesis_of(piece), VOCABULARY, FRAME, ends=ends, final=nth == len(pieces) - 1
        )
        results.append(result)
    return results


@given(tokens_with_waits, st.data())
def test_however_it_is_cut_the_words_are_those_of_the_whole(
    steps: list[tuple[int, int]], data: st.DataObject
) -> None:
    at = timed(steps)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(at)), max_size=5)))
    results = moments_of([at[a:b] for a, b in zip([0, *cuts], [*cuts, len(at)], strict=True)])
    assert sum((result.committed for result in results), ()) == VOCABULARY.words(hypothesis_of(at), FRAME)
    for nth, result in enumerate(results):  # what is shown is always what was found so far
        committed = [text for earlier in results[: nth + 1] for text in texts(earlier.committed)]
        upto = [*cuts, len(at)][nth]
        assert committed + texts(result.partial) == VOCABULARY.text([t for t, _ in at[:upto]]).split()
        assert len(result.partial) <= 1


def test_a_word_waits_for_the_next_one() -> None:
    first, second, third = moments_of([[(1, 0), (2, 2)], [(3, 5)], []])
    assert (texts(first.committed), texts(first.partial)) == ([], ["قل"])
    assert (texts(second.committed), texts(second.partial)) == (["قل"], ["هو"])
    assert (texts(third.committed), texts(third.partial)) == (["هو"], [])


def test_a_pause_commits_the_word_and_the_next_token_starts_a_new_one() -> None:
    (result, state) = add_tokens(
        OpenWords(), hypothesis_of([(3, 1), (1, 4), (2, 30)]), VOCABULARY, FRAME, ends=(17,)
    )
    assert (texts(result.committed), texts(result.partial)) == (["هو", "ق"], ["ل"])
    (after, _) = add_tokens(state, hypothesis_of([(5, 32)]), VOCABULARY, FRAME, ends=(60,))
    assert (texts(after.committed), texts(after.partial)) == (["له"], [])
    assert after.committed[0].start == 30 * FRAME


def test_what_a_beam_may_take_back_is_never_committed() -> None:
    state = OpenWords()
    result, state = add_tokens(
        state, hypothesis_of([(1, 0)]), VOCABULARY, FRAME, draft=hypothesis_of([(2, 1), (3, 2), (4, 3)])
    )
    assert (texts(result.committed), texts(result.partial)) == ([], ["قل", "هو", "الل"])
    result, state = add_tokens(
        state, hypothesis_of([(3, 2)]), VOCABULARY, FRAME, draft=hypothesis_of([(5, 4)])
    )
    assert (texts(result.committed), texts(result.partial)) == (["ق"], ["هوه"])


def test_revisions_tell_growth_from_change() -> None:
    def result(committed: str, partial: str) -> StreamingResult:
        return StreamingResult(
            tuple(TimedWord(text, 0, 0) for text in committed.split()),
            tuple(TimedWord(text, 0, 0) for text in partial.split()),
        )

    steady = [result("", "قل"), result("قل", "هو"), result("هو", "")]
    assert revisions(steady) == Revisions(words=2)
    growing = [result("", "ق"), result("", "قل"), result("قل هو", "")]
    assert revisions(growing) == Revisions(words=2, grown=1)
    changing = [result("", "قل هي"), result("قل", "هو الله"), result("هو", "")]
    assert revisions(changing) == Revisions(words=2, replaced=2)


class CountedPieces(tuple[str, ...]):
    """Counts how often a piece is looked up."""

    looked_up = 0

    def __getitem__(self, place):  # type: ignore[no-untyped-def]
        type(self).looked_up += 1
        return super().__getitem__(place)


def test_a_word_that_does_not_end_is_passed_through_once() -> None:
    """A model that emits no word start for minutes: looking back from each token took hours."""
    vocabulary = Vocabulary(CountedPieces(("▁ق", "ل")))
    long = hypothesis_of([(1, frame) for frame in range(3000)])
    _, state = add_tokens(OpenWords(), long, vocabulary, FRAME)
    assert len(state.tokens.tokens) == 3000
    assert CountedPieces.looked_up < 10 * 3000
