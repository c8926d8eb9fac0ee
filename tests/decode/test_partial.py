"""Words as they come: what is committed never changes, and together it is the text of the whole."""

from __future__ import annotations

from itertools import accumulate

from hypothesis import given
from hypothesis import strategies as st

from quran_asr.decode.partial import Moment, OpenWords, Revisions, hear, revisions
from quran_asr.decode.vocabulary import Vocabulary
from quran_asr.records import Hypothesis, TimedWord

VOCABULARY = Vocabulary(("▁", "▁ق", "ل", "▁هو", "▁الل", "ه", "أحد", "د▁ا", "م▁"))
FRAME = 0.08
tokens_with_waits = st.lists(st.tuples(st.integers(0, len(VOCABULARY) - 1), st.integers(0, 6)), max_size=14)


def heard(steps: list[tuple[int, int]]) -> Hypothesis:
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


def moments_of(pieces: list[list[tuple[int, int]]], ends: tuple[int, ...] = ()) -> list[Moment]:
    state, moments = OpenWords(), []
    for nth, piece in enumerate(pieces):
        moment, state = hear(state, heard(piece), VOCABULARY, FRAME, ends=ends, final=nth == len(pieces) - 1)
        moments.append(moment)
    return moments


@given(tokens_with_waits, st.data())
def test_however_it_is_cut_the_words_are_those_of_the_whole(
    steps: list[tuple[int, int]], data: st.DataObject
) -> None:
    at = timed(steps)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(at)), max_size=5)))
    moments = moments_of([at[a:b] for a, b in zip([0, *cuts], [*cuts, len(at)], strict=True)])
    assert sum((moment.committed for moment in moments), ()) == VOCABULARY.words(heard(at), FRAME)
    for nth, moment in enumerate(moments):  # what is shown is always what was found so far
        committed = [text for earlier in moments[: nth + 1] for text in texts(earlier.committed)]
        upto = [*cuts, len(at)][nth]
        assert committed + texts(moment.partial) == VOCABULARY.text([t for t, _ in at[:upto]]).split()
        assert len(moment.partial) <= 1


def test_a_word_waits_for_the_next_one() -> None:
    first, second, third = moments_of([[(1, 0), (2, 2)], [(3, 5)], []])
    assert (texts(first.committed), texts(first.partial)) == ([], ["قل"])
    assert (texts(second.committed), texts(second.partial)) == (["قل"], ["هو"])
    assert (texts(third.committed), texts(third.partial)) == (["هو"], [])


def test_a_pause_commits_the_word_and_the_next_token_starts_a_new_one() -> None:
    (moment, state) = hear(OpenWords(), heard([(3, 1), (1, 4), (2, 30)]), VOCABULARY, FRAME, ends=(17,))
    assert (texts(moment.committed), texts(moment.partial)) == (["هو", "ق"], ["ل"])
    (after, _) = hear(state, heard([(5, 32)]), VOCABULARY, FRAME, ends=(60,))
    assert (texts(after.committed), texts(after.partial)) == (["له"], [])
    assert after.committed[0].start == 30 * FRAME


def test_what_a_beam_may_take_back_is_never_committed() -> None:
    state = OpenWords()
    moment, state = hear(state, heard([(1, 0)]), VOCABULARY, FRAME, tail=heard([(2, 1), (3, 2), (4, 3)]))
    assert (texts(moment.committed), texts(moment.partial)) == ([], ["قل", "هو", "الل"])
    moment, state = hear(state, heard([(3, 2)]), VOCABULARY, FRAME, tail=heard([(5, 4)]))
    assert (texts(moment.committed), texts(moment.partial)) == (["ق"], ["هوه"])


def test_revisions_tell_growth_from_change() -> None:
    def moment(committed: str, partial: str) -> Moment:
        return Moment(
            tuple(TimedWord(text, 0, 0) for text in committed.split()),
            tuple(TimedWord(text, 0, 0) for text in partial.split()),
        )

    steady = [moment("", "قل"), moment("قل", "هو"), moment("هو", "")]
    assert revisions(steady) == Revisions(words=2)
    growing = [moment("", "ق"), moment("", "قل"), moment("قل هو", "")]
    assert revisions(growing) == Revisions(words=2, grown=1)
    changing = [moment("", "قل هي"), moment("قل", "هو الله"), moment("هو", "")]
    assert revisions(changing) == Revisions(words=2, replaced=2)
