"""Scores of one clip: word and character errors, in the model's spelling and in bare letters.

Both texts are brought to the spelling first. Characters are those of the whole text, **spaces between words
included** and marks as characters of their own, as in jiwer's `cer`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby

import numpy as np
from numpy.typing import NDArray

from quran_asr.evaluation.edit_distance import Edit, align, count_many
from quran_asr.records import Counts
from quran_asr.text.spelling import spell


@dataclass(frozen=True, slots=True)
class ClipScore:
    """Reference and hypothesis of one clip, counted."""

    reference: str
    """In the model's spelling; of several accepted texts the one that counts."""
    hypothesis: str
    """In the model's spelling."""
    words: Counts
    characters: Counts
    letters_words: Counts
    """The same words without their marks."""
    letters_characters: Counts
    spelling_only_errors: int
    """Word errors in which the letters agree: only marks, or where words are joined, differ."""
    recognition_errors: int
    """All other word errors. With `spelling_only_errors` they are `words.errors`."""
    lost: bool
    """Less than half of the reference words are in the hypothesis, by their letters."""
    looping: bool
    """A word or phrase is repeated at once that the reference does not repeat, by letters."""

    def edits(self) -> list[Edit]:
        """The aligned words of both texts; see `align`."""
        return align(self.reference.split(), self.hypothesis.split(), alike=word_letters)


def score_clips(
    references: Sequence[Sequence[str]], hypotheses: Sequence[str], spelling: str
) -> list[ClipScore]:
    """Score many clips: 3,700 in a few seconds.

    Args:
        references: for each clip the texts that count as right; that with the fewest word errors counts (then
            the fewest character errors, then the first).
        hypotheses: for each clip the text of the hypothesis.
        spelling: the model's.

    Raises:
        QuranAsrError: no such spelling.
        ValueError: not as many hypotheses as clips, or a clip without an accepted text.
    """
    pairs = [
        (clip, spell(accepted, spelling), spell(hypothesis, spelling))
        for clip, (texts, hypothesis) in enumerate(zip(references, hypotheses, strict=True))
        for accepted in texts
    ]
    words = count_many((reference.split(), hypothesis.split()) for _, reference, hypothesis in pairs)
    characters = count_many((reference, hypothesis) for _, reference, hypothesis in pairs)
    chosen = [
        min(places, key=lambda place: (words[place].errors, characters[place].errors))
        for _, places in groupby(range(len(pairs)), key=lambda place: pairs[place][0])
    ]
    if len(chosen) != len(references):
        raise ValueError("a clip has no text to compare with")
    letters = [(spell(pairs[place][1], "letters"), spell(pairs[place][2], "letters")) for place in chosen]
    letters_words = count_many((reference.split(), hypothesis.split()) for reference, hypothesis in letters)
    letters_characters = characters if spelling == "letters" else count_many(letters)
    scores = []
    for clip, place in enumerate(chosen):
        reference, hypothesis = pairs[place][1:]
        by_spelling = _spelling_only_errors(reference, hypothesis) if words[place].errors else 0
        scores.append(
            ClipScore(
                reference=reference,
                hypothesis=hypothesis,
                words=words[place],
                characters=characters[place],
                letters_words=letters_words[clip],
                letters_characters=letters_characters[place if spelling == "letters" else clip],
                spelling_only_errors=by_spelling,
                recognition_errors=words[place].errors - by_spelling,
                lost=2 * letters_words[clip].hits < letters_words[clip].reference_length,
                looping=repeated_words(*(text.split() for text in letters[clip])) > 0,
            )
        )
    return scores


def repeated_words(references: Sequence[str], hypotheses: Sequence[str]) -> int:
    """How many words of a hypothesis belong to an immediate repetition that the reference lacks.

    A repetition is a word or phrase at least twice in a row, all its copies count (`a b a b a b c`: six
    words). It counts as recited if the reference has the phrase as many times in a row (`دكا دكا`).
    """
    inside = np.zeros(len(hypotheses), bool)
    number: dict[str, int] = {}
    ids = np.array([number.setdefault(word, len(number)) for word in hypotheses], np.int32)
    reference = f" {' '.join(references)} "
    for period in range(1, len(hypotheses) // 2 + 1):
        same = np.concatenate([[False], ids[:-period] == ids[period:], [False]])
        changes = np.flatnonzero(same[1:] != same[:-1])
        for start, stop in zip(changes[::2].tolist(), changes[1::2].tolist(), strict=True):
            copies = (stop - start) // period + 1
            if copies < 2:
                continue
            # a run of copies may be read from any of its words on: `a b a b a` is `a b` and `b a` twice
            last_start = stop + period - copies * period
            was_recited = any(
                f" {' '.join(hypotheses[begin : begin + copies * period])} " in reference
                for begin in range(start, last_start + 1)
            )
            if not was_recited:
                inside[start : start + copies * period] = True
    return int(inside.sum())


def repeat_share(references: str, hypotheses: str) -> float:
    """Share of a hypothesis's words in a repetition that the reference lacks; 0.0 for no words.

    Over many clips add up `repeated_words` and divide by the hypotheses' words: that is the `repeat_share` of
    `metrics.jsonl`, near 0 in a healthy run, high when a model loops.
    """
    words = hypotheses.split()
    return repeated_words(references.split(), words) / len(words) if words else 0.0


def length_ratio(counts: Counts) -> float | None:
    """Hypothesis words per reference word; None without one. Near 0 when a model has collapsed to blanks."""
    return counts.hypothesis_length / counts.reference_length if counts.reference_length else None


def blank_share(log_probs: Iterable[NDArray[np.float32]]) -> float | None:
    """Share of frames whose best token is the blank, over clips of [frames, vocabulary + 1], blank last.

    None if there is no frame.
    """
    blanks = frames = 0
    for clip in log_probs:
        frames += len(clip)
        blanks += int((clip.argmax(axis=1) == clip.shape[1] - 1).sum())
    return blanks / frames if frames else None


@lru_cache(maxsize=200_000)
def word_letters(word: str) -> str:
    """A word without its marks."""
    return spell(word, "letters")


def _spelling_only_errors(reference: str, hypothesis: str) -> int:
    """Word errors whose letters agree.

    Between two hits a stretch of errors whose letters agree as a whole is spelling (يَا أَيُّهَا as يَاأَيُّهَا:
    only the space differs); in other stretches each word that stands opposite its own letters.
    """
    edits = align(reference.split(), hypothesis.split(), alike=word_letters)
    errors = 0
    for is_hit, stretch in groupby(edits, key=lambda edit: edit.kind == "hit"):
        if is_hit:
            continue
        wrong = [(edit.kind, word_letters(edit.reference), word_letters(edit.hypothesis)) for edit in stretch]
        if "".join(references for _, references, _ in wrong) == "".join(
            hypotheses for _, _, hypotheses in wrong
        ):
            errors += len(wrong)
        else:
            errors += sum(
                kind == "substitution" and references == hypotheses for kind, references, hypotheses in wrong
            )
    return errors
