"""Recordings with planted errors: does a recognizer report what was recited, or what the Quran has there?

Each is made from stretches of clips of one reciter, cut between words: a word replaced by another word of
the reciter, a word left out, or two neighbouring words exchanged. So what is recited is known exactly, and
what the Quran has there instead.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from quran_asr.evaluation.edit_distance import align, count
from quran_asr.evaluation.scoring import word_letters
from quran_asr.records import SAMPLE_RATE, Segment, TimedWord

if TYPE_CHECKING:
    from quran_asr.records import Samples

Kind = Literal["replaced", "omitted", "exchanged"]
Outcome = Literal["as recited", "corrected", "other"]
KINDS: tuple[Kind, ...] = ("replaced", "omitted", "exchanged")
FEWEST_WORDS = 4
"""Of a clip: planted words have a neighbour on both sides."""
SEARCH_SECONDS = 0.08
"""A cut is moved by at most so much to where the recording is quietest."""
FRAME_SECONDS = 0.01
FADE_SECONDS = 0.005
"""Stretches fade into each other, so that no cut is audible as a click."""
MOST_GAIN = 4.0
"""A word from another clip is brought to the level of the one that it replaces, at most by this factor."""


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
class PlantedError:
    """A recording with one planted error."""

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
    """One error of each kind in each clip that is long enough, in its inner words.

    Args:
        clips: with their alignments. A replacing word comes from another clip of the same reciter.
        read: gives the audio of a clip, float32 at 16 kHz.
        seed: of the choice of words.
    """
    choose = random.Random(seed)
    by_reciter: dict[str, list[tuple[int, int]]] = {}
    for number, clip in enumerate(clips):
        places = ((number, place) for place in range(1, len(clip.words) - 1))
        by_reciter.setdefault(clip.segment.reciter, []).extend(places)
    for number, clip in enumerate(clips):
        if len(clip.words) < FEWEST_WORDS:
            continue
        letters = [word_letters(word) for word in clip.written]
        samples = read(clip.segment)
        bounds = cut_points(samples, clip.words)
        inner = range(1, len(letters) - 1)

        place = choose.choice(inner)
        others = [
            (other, word)
            for other, word in by_reciter[clip.segment.reciter]
            if other != number and word_letters(clips[other].words[word].text) != letters[place]
        ]
        if others:
            other, word = choose.choice(others)
            donor = read(clips[other].segment)
            start, end = cut_points(donor, clips[other].words)[word : word + 2]
            text = clips[other].words[word].text
            yield _replaced(clip, samples, bounds, place, donor[start:end], text, (other, word))

        yield _omitted(clip, samples, bounds, choose.choice(inner), number)

        pairs = [place for place in inner[:-1] if letters[place] != letters[place + 1]]
        if pairs:
            yield _exchanged(clip, samples, bounds, choose.choice(pairs), number)


def _replaced(
    clip: AlignedClip,
    samples: Samples,
    bounds: Sequence[int],
    place: int,
    recited: Samples,
    text: str,
    source: tuple[int, int],
) -> PlantedError:
    """Another word in the place of one, brought to its level."""
    written = clip.written
    start, end = bounds[place : place + 2]
    stretch = _at_level(recited, samples[start:end])
    return PlantedError(
        "replaced",
        clip.segment,
        join([samples[:start], stretch, samples[end:]]),
        (*written[:place], text, *written[place + 1 :]),
        written,
        range(place, place + 1),
        range(place, place + 1),
        (source,),
    )


def _omitted(
    clip: AlignedClip, samples: Samples, bounds: Sequence[int], place: int, number: int
) -> PlantedError:
    """A word cut out."""
    written = clip.written
    start, end = bounds[place : place + 2]
    return PlantedError(
        "omitted",
        clip.segment,
        join([samples[:start], samples[end:]]),
        (*written[:place], *written[place + 1 :]),
        written,
        range(place - 1, place + 1),
        range(place, place + 1),
        ((number, place - 1), (number, place + 1)),
    )


def _exchanged(
    clip: AlignedClip, samples: Samples, bounds: Sequence[int], place: int, number: int
) -> PlantedError:
    """A word after the one that follows it."""
    written = clip.written
    start, middle, end = bounds[place : place + 3]
    return PlantedError(
        "exchanged",
        clip.segment,
        join([samples[:start], samples[middle:end], samples[start:middle], samples[end:]]),
        (*written[:place], written[place + 1], written[place], *written[place + 2 :]),
        written,
        range(place, place + 2),
        range(place, place + 2),
        ((number, place + 1), (number, place)),
    )


def cut_points(samples: Samples, words: Sequence[TimedWord]) -> list[int]:
    """Samples at which words are parted, [words + 1]: the quietest place near each word's start and the end.

    Args:
        samples: of the clip.
        words: in order, seconds from its beginning.
    """
    frame, reach = round(FRAME_SECONDS * SAMPLE_RATE), round(SEARCH_SECONDS * SAMPLE_RATE)
    energy = np.add.reduceat(samples.astype(np.float64) ** 2, np.arange(0, max(1, len(samples)), frame))
    bounds: list[int] = []
    for seconds in [*(word.start for word in words), words[-1].end]:
        near = round(seconds * SAMPLE_RATE)
        first = max(0, near - reach, bounds[-1] + frame if bounds else 0) // frame
        last = min(len(samples), near + reach) // frame
        quietest = first + int(energy[first : last + 1].argmin()) if first < last else near // frame
        place = min(quietest * frame + frame // 2, len(samples))
        bounds.append(max(place, bounds[-1] if bounds else 0))
    return bounds


def join(stretches: Sequence[Samples]) -> Samples:
    """Stretches one after another, each faded in and out at the cuts."""
    fade = round(FADE_SECONDS * SAMPLE_RATE)
    joined = []
    for nth, stretch in enumerate(stretches):
        part = stretch.copy()
        length = min(fade, len(part))
        ramp = np.linspace(0, 1, length, dtype=np.float32)
        if nth and length:
            part[:length] *= ramp
        if nth < len(stretches) - 1 and length:
            part[-length:] *= ramp[::-1]
        joined.append(part)
    return np.concatenate(joined)


def _at_level(stretch: Samples, like: Samples) -> Samples:
    """A stretch with the root mean square of another one."""
    own, wanted = (float(np.sqrt(np.mean(np.square(part, dtype=np.float64)))) for part in (stretch, like))
    gain = min(max(wanted / own, 1 / MOST_GAIN), MOST_GAIN) if own > 0 and wanted > 0 else 1.0
    return np.asarray(stretch * np.float32(gain), np.float32)


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
    """Are all words that show the error recognized in the clips that they come from?

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
    """Outcomes of the chosen errors, by kind and of all together (`all`)."""
    kept = [
        (error.kind, result) for error, result, taken in zip(errors, outcomes, chosen, strict=True) if taken
    ]
    names = (*KINDS, "all")
    return {name: tally(result for kind, result in kept if name in (kind, "all")) for name in names}


def to_json(tallies: Mapping[str, Tally]) -> dict[str, Any]:
    return {
        kind: {
            "errors": one.errors,
            "as_recited": one.as_recited,
            "corrected": one.corrected,
            "other": one.other,
        }
        for kind, one in tallies.items()
    }
