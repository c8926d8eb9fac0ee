"""From tokens that arrive chunk by chunk to final words and partial words."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from quran_asr.decoding.vocabulary import WORD_START, Vocabulary
from quran_asr.records import Hypothesis, TimedWord

NOTHING = Hypothesis((), (), 0.0)


@dataclass(frozen=True, slots=True)
class StreamingResult:
    """The words to display after a chunk of audio."""

    committed: tuple[TimedWord, ...]
    """Words that are final from now on. They follow those of earlier results and never change."""
    partial: tuple[TimedWord, ...]
    """All words after the committed ones, which may still change."""
    ends: tuple[int, ...] = ()
    """Places in `committed` before which an utterance ended: 2 is between its second and third word."""


@dataclass(frozen=True, slots=True)
class OpenWords:
    """The tokens after the committed words: the state that is carried from one chunk to the next."""

    tokens: Hypothesis = NOTHING
    committed: int = 0
    """Words at the beginning of `tokens` that are committed: a piece may end one word and start the next."""


def add_tokens(
    state: OpenWords,
    found: Hypothesis,
    vocabulary: Vocabulary,
    frame_seconds: float,
    *,
    draft: Hypothesis = NOTHING,
    ends: Sequence[int] = (),
    final: bool = False,
) -> tuple[StreamingResult, OpenWords]:
    """Add new tokens of a stream to its words.

    A word is committed when the next one has begun, when the utterance is over, or when the audio ends:
    tokens are never revoked, but more of them may make the last word longer.

    Args:
        state: `OpenWords()` at the beginning of a stream, then the state that the last call returned.
        found: the new tokens, frames counted from the beginning of the stream.
        vocabulary: the model's pieces.
        frame_seconds: seconds of a frame.
        tail: tokens after the found ones that may be taken back (a beam search's best guess).
        ends: frames at which an utterance was over; tokens from there on belong to the next one, which begins
            with a new word whatever its first piece.
        final: the audio has ended.
    """
    committed: list[TimedWord] = []
    places: list[int] = []
    rest = found
    for end in ends:
        cut = next((i for i, frame in enumerate(rest.frames) if frame >= end), len(rest.frames))
        words = vocabulary.words(_joined(state.tokens, _part(rest, 0, cut)), frame_seconds)
        committed.extend(words[state.committed :])
        places.append(len(committed))
        rest, state = _part(rest, cut, len(rest.frames)), OpenWords()
    tokens = _joined(state.tokens, rest)
    words = vocabulary.words(_joined(tokens, draft), frame_seconds)
    if final:
        return StreamingResult((*committed, *words[state.committed :]), (), tuple(places)), OpenWords()
    certain = max(len(vocabulary.text(tokens.tokens).split()) - 1, state.committed)
    committed.extend(words[state.committed : certain])
    return StreamingResult(tuple(committed), words[certain:], tuple(places)), _last_word(tokens, vocabulary)


def _last_word(tokens: Hypothesis, vocabulary: Vocabulary) -> OpenWords:
    """The tokens from the one in which the last word starts.

    One pass from the end: a model that emits no word start for minutes makes one word of thousands of tokens.
    """
    has_letters = False
    for place in reversed(range(len(tokens.tokens))):
        piece = vocabulary.pieces[tokens.tokens[place]]
        _, start, begun = piece.partition(WORD_START)
        if start and (has_letters or begun.replace(WORD_START, "")):
            pieces = (vocabulary.pieces[token] for token in tokens.tokens[place:])
            words = len("".join(pieces).replace(WORD_START, " ").split())
            return OpenWords(_part(tokens, place, len(tokens.tokens)), words - 1)
        has_letters = has_letters or bool(piece.replace(WORD_START, ""))
    return OpenWords(tokens, 0)


def _joined(first: Hypothesis, second: Hypothesis) -> Hypothesis:
    return Hypothesis(
        first.tokens + second.tokens,
        first.frames + second.frames,
        first.score + second.score,
        first.log_probs + second.log_probs,
    )


def _part(whole: Hypothesis, begin: int, end: int) -> Hypothesis:
    """Some tokens of a hypothesis; its score stays with the whole."""
    return Hypothesis(whole.tokens[begin:end], whole.frames[begin:end], 0.0, whole.log_probs[begin:end])


@dataclass(frozen=True, slots=True)
class Revisions:
    """Stability of the partial words of a stream."""

    words: int = 0
    """Words that were committed in the end."""
    grown: int = 0
    """Times that a word already shown became longer."""
    replaced: int = 0
    """Times that a word already shown was replaced or removed."""

    def __add__(self, other: Revisions) -> Revisions:
        return Revisions(self.words + other.words, self.grown + other.grown, self.replaced + other.replaced)


def revisions(results: Iterable[StreamingResult]) -> Revisions:
    """Count how often a displayed partial word changed, over all results of a stream in order."""
    words = grown = replaced = 0
    shown: list[str] = []
    for result in results:
        words += len(result.committed)
        now = [word.text for word in (*result.committed, *result.partial)]
        for place, before in enumerate(shown):
            if place >= len(now) or not now[place].startswith(before):
                replaced += 1
            elif now[place] != before:
                grown += 1
        shown = now[len(result.committed) :]
    return Revisions(words, grown, replaced)
