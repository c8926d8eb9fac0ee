"""Recordings with planted errors: does a recognizer report what was recited, or what the Quran has there?

Each is made from stretches of clips of one reciter, cut between words: a word replaced by another word of
the reciter, a word left out, or two neighbouring words exchanged. So what is recited is known exactly, and
what the Quran has there instead.

Words of connected recitation run into each other, so cutting by itself costs recognition. A control shows
how much: recordings in which a word is replaced by the same word from between other words, so that what is
recited is what the Quran has.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from quran_asr.evaluation.edit_distance import align, count
from quran_asr.evaluation.scoring import word_letters
from quran_asr.records import SAMPLE_RATE, Segment, TimedWord

if TYPE_CHECKING:
    from quran_asr.records import Samples

Kind = Literal["same word", "replaced", "omitted", "exchanged"]
Outcome = Literal["as recited", "corrected", "other"]
CONTROL: Kind = "same word"
ERRORS: tuple[Kind, ...] = ("replaced", "omitted", "exchanged")
FEWEST_WORDS = 4
"""Of a clip: planted words have a neighbour on both sides."""
CUT_SHIFT = -0.06
"""Seconds from the start of an aligned word to where it is cut from the word before it. A model recognizes
the first letter of a word within connected recitation later than behind a pause, where the offset of the
alignment is measured. Chosen on validation clips with `tools/plant_errors.py --cuts`: see
docs/results/language-model.md."""
FADE_SECONDS = 0.02
"""Stretches fade into each other, so that no cut is audible as a click or a gap."""
MOST_GAIN = 4.0
"""A word from elsewhere is brought to the level of the one that it replaces, at most by this factor."""


@dataclass(frozen=True, slots=True)
class AlignedClip:
    """A clip, and when each of its words is recited."""

    segment: Segment
    words: tuple[TimedWord, ...]
    """All words of its reference; seconds from the beginning of the clip."""

    @property
    def written(self) -> tuple[str, ...]:
        return tuple(word.text for word in self.words)


@dataclass(frozen=True, slots=True)
class Stretch:
    """A part of a recording."""

    recording: Samples
    """The whole recording."""
    start: int
    """Sample."""
    end: int
    """Sample behind it."""
    gain: float = 1.0


@dataclass(frozen=True, slots=True)
class PlantedError:
    """A recording with one planted error, or of the control with the words of the Quran."""

    kind: Kind
    segment: Segment
    """The clip that it was made of."""
    samples: Samples
    recited: tuple[str, ...]
    """The words as they are recited."""
    written: tuple[str, ...]
    """The words of the Quran."""
    recited_places: range
    """The words in `recited` that show the error: of an omission the words before and after it."""
    written_places: range
    """The words in `written` that stand there instead."""
    sources: tuple[tuple[int, int], ...]
    """(clip, word) of each word at `recited_places`, where it comes from."""


@dataclass(frozen=True, slots=True)
class Tally:
    """Outcomes of one recognizer on planted errors of one kind."""

    as_recited: int = 0
    corrected: int = 0
    other: int = 0

    @property
    def errors(self) -> int:
        return self.as_recited + self.corrected + self.other


def plant_errors(
    clips: Sequence[AlignedClip], read: Callable[[Segment], Samples], seed: int = 0
) -> Iterator[PlantedError]:
    """The control, if it can be made, and one error of each kind in each clip that is long enough.

    Args:
        clips: with their alignments. Other words come from another clip of the same reciter, the same word
            from anywhere else between two other words.
        read: gives the audio of a clip, float32 at 16 kHz.
        seed: of the choice of words.
    """
    choose = random.Random(seed)
    by_reciter: dict[str, list[tuple[tuple[int, int], list[str]]]] = {}
    """(clip, word) with the letters of the word and of its neighbours."""
    for number, clip in enumerate(clips):
        letters = [word_letters(word) for word in clip.written]
        sources = [((number, at), letters[at - 1 : at + 2]) for at in range(1, len(letters) - 1)]
        by_reciter.setdefault(clip.segment.reciter, []).extend(sources)

    def word_at(source: tuple[int, int]) -> tuple[Stretch, str]:
        clip, word = clips[source[0]], source[1]
        return cut_words(read(clip.segment), clip.words)[word], clip.words[word].text

    for number, clip in enumerate(clips):
        if len(clip.words) < FEWEST_WORDS:
            continue
        letters = [word_letters(word) for word in clip.written]
        cut = cut_words(read(clip.segment), clip.words)
        inner = range(1, len(letters) - 1)
        elsewhere = by_reciter[clip.segment.reciter]

        same = [
            (place, source)
            for place in inner
            for source, around in elsewhere
            if _is_same_word_between_others(around, letters[place - 1 : place + 2])
        ]
        if same:
            place, source = choose.choice(same)
            yield _replaced(CONTROL, clip, cut, place, *word_at(source), source)

        place = choose.choice(inner)
        others = [one for one, (_, word, _) in elsewhere if one[0] != number and word != letters[place]]
        if others:
            source = choose.choice(others)
            yield _replaced("replaced", clip, cut, place, *word_at(source), source)

        yield _omitted(clip, cut, choose.choice(inner), number)

        pairs = [place for place in inner[:-1] if letters[place] != letters[place + 1]]
        if pairs:
            yield _exchanged(clip, cut, choose.choice(pairs), number)


def _is_same_word_between_others(found: Sequence[str], wanted: Sequence[str]) -> bool:
    """Of three words in a row, is the middle one the same and no other?"""
    return [one == other for one, other in zip(found, wanted, strict=True)] == [False, True, False]


def _replaced(
    kind: Kind,
    clip: AlignedClip,
    cut: Sequence[Stretch],
    place: int,
    donor: Stretch,
    text: str,
    source: tuple[int, int],
) -> PlantedError:
    """Another word in the place of one, brought to its level."""
    written = clip.written
    donor = at_level(donor, cut[place])
    return PlantedError(
        kind,
        clip.segment,
        join([*cut[:place], donor, *cut[place + 1 :]]),
        (*written[:place], text, *written[place + 1 :]),
        written,
        range(place, place + 1),
        range(place, place + 1),
        (source,),
    )


def _omitted(clip: AlignedClip, cut: Sequence[Stretch], place: int, number: int) -> PlantedError:
    """A word cut out."""
    written = clip.written
    return PlantedError(
        "omitted",
        clip.segment,
        join([*cut[:place], *cut[place + 1 :]]),
        (*written[:place], *written[place + 1 :]),
        written,
        range(place - 1, place + 1),
        range(place, place + 1),
        ((number, place - 1), (number, place + 1)),
    )


def _exchanged(clip: AlignedClip, cut: Sequence[Stretch], place: int, number: int) -> PlantedError:
    """A word after the one that follows it."""
    written = clip.written
    return PlantedError(
        "exchanged",
        clip.segment,
        join([*cut[:place], cut[place + 1], cut[place], *cut[place + 2 :]]),
        (*written[:place], written[place + 1], written[place], *written[place + 2 :]),
        written,
        range(place, place + 2),
        range(place, place + 2),
        ((number, place + 1), (number, place)),
    )


def cut_words(samples: Samples, words: Sequence[TimedWord], shift: float = CUT_SHIFT) -> list[Stretch]:
    """The words of a clip; the first and the last reach to its ends.

    They are not cut at the quietest point nearby: in connected recitation that is the closure of a stop
    within a word more often than the border of two words.

    Args:
        samples: of the clip.
        words: in order, seconds from its beginning.
        shift: seconds from the start of a word to the cut before it.
    """
    bounds = [0]
    for word in words[1:]:
        place = round((word.start + shift) * SAMPLE_RATE)
        bounds.append(min(max(place, bounds[-1]), len(samples)))
    return [Stretch(samples, *pair) for pair in pairwise([*bounds, len(samples)])]


def join(stretches: Sequence[Stretch]) -> Samples:
    """Stretches one after another, faded into each other over `FADE_SECONDS`.

    Each brings what lies beyond its ends into the fade, so that neighbours of one recording stay as they are.
    """
    half = round(FADE_SECONDS / 2 * SAMPLE_RATE)
    rise = (np.arange(2 * half, dtype=np.float32) + 0.5) / (2 * half)
    joined = np.zeros(sum(one.end - one.start for one in stretches) + 2 * half, np.float32)
    begin = 0
    for nth, one in enumerate(stretches):
        part = _with_margins(one, half) * np.float32(one.gain)
        if nth:
            part[: 2 * half] *= rise
        if nth < len(stretches) - 1:
            part[len(part) - 2 * half :] *= rise[::-1]
        joined[begin : begin + len(part)] += part
        begin += one.end - one.start
    return joined[half : len(joined) - half]


def _with_margins(stretch: Stretch, margin: int) -> Samples:
    """A stretch and what lies beside it; silence beyond the ends of the recording."""
    start, end = stretch.start - margin, stretch.end + margin
    part = stretch.recording[max(0, start) : end]
    return np.pad(part, (max(0, -start), end - max(0, start) - len(part)))


def at_level(stretch: Stretch, like: Stretch) -> Stretch:
    """A stretch with the root mean square of another one."""
    own, wanted = _root_mean_square(stretch), _root_mean_square(like)
    gain = min(max(wanted / own, 1 / MOST_GAIN), MOST_GAIN) if own and wanted else 1.0
    return replace(stretch, gain=gain)


def _root_mean_square(stretch: Stretch) -> float:
    samples = stretch.recording[stretch.start : stretch.end]
    return float(np.sqrt(np.mean(np.square(samples, dtype=np.float64)))) if len(samples) else 0.0


def outcome(error: PlantedError, hypothesis: str) -> Outcome:
    """Does a hypothesis have the planted words as they were recited, or those of the Quran, or others?"""
    found = hypothesis.split()
    if _has(error.recited, error.recited_places, found):
        return "as recited"
    return "corrected" if _has(error.written, error.written_places, found) else "other"


def nearer(error: PlantedError, hypothesis: str) -> Outcome:
    """Is a hypothesis as a whole nearer to the recited words or to those of the Quran, by edited letters?

    Says something of models, too, that recognize few words exactly.
    """
    letters = word_letters(" ".join(hypothesis.split()))
    recited, written = (
        count(word_letters(" ".join(words)), letters).errors for words in (error.recited, error.written)
    )
    if recited == written:
        return "other"
    return "as recited" if recited < written else "corrected"


def _has(reference: Sequence[str], places: range, hypothesis: Sequence[str]) -> bool:
    """Are these words of the reference recognized, by their letters, with nothing between them?"""
    place, inside = 0, False
    for edit in align([word_letters(word) for word in reference], [word_letters(w) for w in hypothesis]):
        if edit.kind == "insertion":
            if inside:
                return False
            continue
        if place in places and edit.kind != "hit":
            return False
        inside = place in places and place + 1 in places
        place += 1
    return True


def recognized_words(clip: AlignedClip, hypothesis: str) -> frozenset[int]:
    """Places of the words of an unedited clip that a hypothesis has, by their letters."""
    reference = [word_letters(word.text) for word in clip.words]
    place, found = 0, set()
    for edit in align(reference, [word_letters(word) for word in hypothesis.split()]):
        if edit.kind == "hit":
            found.add(place)
        place += edit.kind != "insertion"
    return frozenset(found)


def recognizable(error: PlantedError, recognized: Sequence[frozenset[int]]) -> bool:
    """Are all words that show the error recognized in the unedited clips that they come from?

    Args:
        error: the planted error.
        recognized: of each clip, from `recognized_words`.
    """
    return all(word in recognized[clip] for clip, word in error.sources)


def tally(outcomes: Iterable[Outcome]) -> Tally:
    counts = Counter(outcomes)
    return Tally(counts["as recited"], counts["corrected"], counts["other"])


def by_kind(
    errors: Sequence[PlantedError], outcomes: Sequence[Outcome], chosen: Sequence[bool]
) -> dict[str, Tally]:
    """Outcomes of the chosen recordings, by kind; `all` has the errors of all kinds."""
    kept = [
        (error.kind, result) for error, result, taken in zip(errors, outcomes, chosen, strict=True) if taken
    ]
    tallies = {name: tally(result for kind, result in kept if kind == name) for name in (CONTROL, *ERRORS)}
    return tallies | {"all": tally(result for kind, result in kept if kind != CONTROL)}


def to_json(tallies: Mapping[str, Tally]) -> dict[str, Any]:
    return {
        kind.replace(" ", "_"): {
            "errors": one.errors,
            "as_recited": one.as_recited,
            "corrected": one.corrected,
            "other": one.other,
        }
        for kind, one in tallies.items()
    }
