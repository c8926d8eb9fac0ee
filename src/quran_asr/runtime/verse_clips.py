"""Clips of verses, and of parts of verses between pauses, from an aligned recording.

Clips are cut at the quietest point: between a verse and the words before and after it, or in a pause within
the verse.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from quran_asr import audio
from quran_asr.errors import QuranAsrError
from quran_asr.records import SAMPLE_RATE
from quran_asr.text.quran import load_quran

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from quran_asr.decoding.path import AlignedSegment
    from quran_asr.records import Samples, TimedWord, VerseRef
    from quran_asr.runtime.alignment import AlignedRecording

REACH_SECONDS = 0.8
"""Largest margin around the words of a verse: voices fade, and held vowels end late."""
INSIDE_SECONDS = 0.05
"""Largest margin inside them, since word times are not exact."""
LEVEL_SECONDS = 0.02
"""Window of the level when searching for the quietest point,"""
DIP_SECONDS = 0.1
"""and when searching for pauses: shorter than a pause, longer than the closure of most stops."""
SPEECH_RANGE_DB = 30.0
"""dB below the loudest twentieth of a clip: lower levels are not speech."""
PAUSE_DB = 6.0
"""dB of a pause below the median speech level (in a mosque the echo fades slowly),"""
PAUSE_SECONDS = 0.25
"""and its least length; the closure of a stop is shorter."""
LEAST_SCORE = -1.5
"""Nats per letter of a clip; below it other words are recited."""


@dataclass(frozen=True, slots=True)
class Clip:
    """A verse, or some words of it, in a recording."""

    verse: VerseRef
    words: tuple[TimedWord, ...]
    whole: bool
    """From the first word of the verse to the last."""
    start: float
    """Seconds of the recording."""
    end: float
    edge_db: float
    """How far the louder one of the two cuts is below the median level of the speech: 15 and more in a pause,
    6 to 12 in a reverberant room, little where the reciter continues without a pause."""

    @property
    def seconds(self) -> float:
        return self.end - self.start

    @property
    def name(self) -> str:
        """As EveryAyah names it, `002282`; of a part with its words, counted from 0: `002282-003-016`."""
        stem = f"{self.verse.surah:03}{self.verse.ayah:03}"
        if self.whole:
            return stem
        return f"{stem}-{self.words[0].index or 0:03}-{self.words[-1].index or 0:03}"

    @property
    def score(self) -> float:
        """Nats per letter by which the model prefers other tokens to these words; 0 is best."""
        letters = sum(len(word.text) for word in self.words)
        sure = [(len(word.text), 1.0 if word.confidence is None else word.confidence) for word in self.words]
        return sum(length * math.log(max(confidence, 1e-9)) for length, confidence in sure) / letters

    def has_other_words(self, least_score: float = LEAST_SCORE) -> bool:
        """Whether other words are recognized: in place of one of its words, or by the score of all.

        Args:
            least_score: the poorest `score` with which these words may still be recited.
        """
        return self.score < least_score or any(word.mismatch is not None for word in self.words)


@dataclass(frozen=True, slots=True)
class VerseClip:
    """A file with one verse."""

    verse: VerseRef
    path: Path
    start: float
    """Seconds of the recording."""
    end: float


@dataclass(frozen=True, slots=True)
class VerseClips:
    """The clips that were cut, and the verses that were not."""

    clips: tuple[VerseClip, ...]
    incomplete: tuple[VerseRef, ...]
    """Verses that are never recited from the first word to the last without going back."""
    other_words: tuple[VerseRef, ...]
    """Verses that are recited completely, but other words were recognized in each recitation."""
    repeated: tuple[VerseRef, ...]
    """Verses that are recited completely more than once: only the first recitation in which no other words
    were recognized was cut."""


def cut_verses(recording: AlignedRecording, folder: Path) -> VerseClips:
    """Write a clip for each complete verse, named as EveryAyah names them: `002255.flac` for 2:255.

    Such a folder has one file for each verse: of a verse that is recited several times the first complete
    recitation is taken in which no other words were recognized, and a file of an earlier call is never
    replaced.

    Args:
        recording: aligned.
        folder: for the clips; 16 kHz, mono.

    Raises:
        QuranAsrError: the recording cannot be read; or the folder has one of the clips already, and then none
            is written.
        OSError: the folder cannot be written.
    """
    clips: dict[VerseRef, Clip] = {}
    complete: Counter[VerseRef] = Counter()
    for clip in find_clips(recording):
        complete[clip.verse] += 1
        if clip.verse not in clips and not clip.has_other_words():
            clips[clip.verse] = clip
    present = [path for clip in clips.values() if (path := clip_path(clip, folder)).exists()]
    if present:
        others = f" and {len(present) - 1} more of its clips" if len(present) > 1 else ""
        raise QuranAsrError(
            f"{present[0]}{others} would be overwritten",
            where=recording.audio,
            remedy="cut each recitation to another folder, for example clips/RECITER, or remove the clips",
        )
    folder.mkdir(parents=True, exist_ok=True)
    recited = dict.fromkeys(verse for segment in recording.segments for verse in segment.verses)
    return VerseClips(
        tuple(
            VerseClip(clip.verse, write_clip(recording, clip, folder), clip.start, clip.end)
            for clip in clips.values()
        ),
        tuple(verse for verse in recited if verse not in complete),
        tuple(verse for verse in complete if verse not in clips),
        tuple(verse for verse, times in complete.items() if verse in clips and times > 1),
    )


def clip_path(clip: Clip, folder: Path) -> Path:
    """The file of a clip."""
    return folder / f"{clip.name}.flac"


def write_clip(recording: AlignedRecording, clip: Clip, folder: Path) -> Path:
    """Write the samples of a clip under its name, 16 kHz, mono.

    Raises:
        QuranAsrError: the recording cannot be read.
        OSError: the folder cannot be written.
    """
    path = clip_path(clip, folder)
    audio.write(path, audio.read(recording.audio, clip.start, clip.seconds))
    return path


def find_clips(recording: AlignedRecording, longest: float | None = None) -> Iterator[Clip]:
    """The clips of a recording, in order.

    Args:
        recording: aligned.
        longest: seconds; a longer verse is cut at pauses into as few parts as possible, and what is recited
            of a verse before the reciter goes back or leaves words out is a part as well. A part may still be
            longer, where he makes no pause. None: whole verses only, however long.

    Raises:
        QuranAsrError: the recording cannot be read.
    """
    quran = load_quran(recording.spelling)
    for verse, words in _runs(recording.segments):
        length = len(quran.verse(verse).split())
        whole = len(words) == length
        if not whole and longest is None:
            continue
        sound = _sound_of(recording, words)
        for first, last, start, end in _parts(sound, words, longest):
            yield Clip(
                verse,
                words[first : last + 1],
                whole and last + 1 - first == length,
                start,
                end,
                sound.edge_db(start, end),
            )


def _runs(segments: Iterable[AlignedSegment]) -> Iterator[tuple[VerseRef, tuple[TimedWord, ...]]]:
    """Words of one verse one after another. A reciter who goes back may end a repeat beyond where he was: the
    new words are a segment of their own, and one run with it."""
    verse: VerseRef | None = None
    run: list[TimedWord] = []
    for segment in segments:
        of = segment.verses[0] if segment.verses else None
        continues = of is not None and of == verse and segment.entry == "next"
        if run and not continues:
            if verse is not None:
                yield verse, tuple(run)
            run = []
        verse = of
        run += segment.words
    if run and verse is not None:
        yield verse, tuple(run)


@dataclass(frozen=True, slots=True, eq=False)
class _Sound:
    """The samples around a run of words."""

    samples: Samples
    offset: float
    """Seconds of the recording before them."""
    levels: NDArray[np.float64]
    """dB every 10 ms, each over `DIP_SECONDS`."""
    speech_db: float
    """Median of those that are speech."""

    def quietest(self, start: float, end: float) -> float:
        return self.offset + quietest(self.samples, start - self.offset, end - self.offset)

    def edge_db(self, start: float, end: float) -> float:
        """See `Clip.edge_db`."""
        near = round(DIP_SECONDS / _HOP_SECONDS)
        levels = []
        for time in (start, end):
            place = round((time - self.offset) / _HOP_SECONDS)
            levels.append(float(self.levels[max(0, place - near) : place + near + 1].min()))
        return self.speech_db - max(levels)

    def pause(self, start: float, end: float) -> float | None:
        """The middle of the longest pause between two times of the recording; None if there is none."""
        first = max(0, round((start - self.offset) / _HOP_SECONDS))
        low = self.levels[first : round((end - self.offset) / _HOP_SECONDS)] < self.speech_db - PAUSE_DB
        edges = np.flatnonzero(np.diff(low, prepend=False, append=False)).reshape(-1, 2)
        lengths = edges[:, 1] - edges[:, 0]
        if not len(lengths) or lengths.max() * _HOP_SECONDS < PAUSE_SECONDS:
            return None
        return float(self.offset + (first + edges[lengths.argmax()].mean()) * _HOP_SECONDS)


_HOP_SECONDS = 0.01


def _sound_of(recording: AlignedRecording, words: Sequence[TimedWord]) -> _Sound:
    """The audio of words with the largest margins that a clip may have."""
    first, last = words[0], words[-1]
    others = [(word.start, word.end) for word in recording.words]
    others += [(one.start, one.end) for one in recording.unaligned]
    before = max((end for start, end in others if start < first.start), default=0.0)
    after = min((start for start, _ in others if start > last.start), default=recording.seconds)
    earliest = max(first.start - REACH_SECONDS, before - INSIDE_SECONDS, 0.0)
    latest = min(last.end + REACH_SECONDS, after + INSIDE_SECONDS, recording.seconds)
    samples = audio.read(recording.audio, earliest, max(latest, last.end) - earliest)
    levels = _levels(samples)
    speech = levels[levels > np.percentile(levels, 95) - SPEECH_RANGE_DB]
    return _Sound(samples, earliest, levels, float(np.median(speech)))


def _levels(samples: Samples) -> NDArray[np.float64]:
    hop, half = round(_HOP_SECONDS * SAMPLE_RATE), round(DIP_SECONDS / 2 * SAMPLE_RATE)
    power = np.cumsum(np.append(0.0, samples.astype(np.float64) ** 2))
    middles = np.arange(0, len(samples) + 1, hop)
    low, high = np.maximum(middles - half, 0), np.minimum(middles + half, len(samples))
    means = (power[high] - power[low]) / np.maximum(high - low, 1)
    return np.asarray(10 * np.log10(np.maximum(means, 1e-12)), np.float64)


def _parts(
    sound: _Sound, words: Sequence[TimedWord], longest: float | None
) -> Iterator[tuple[int, int, float, float]]:
    """First and last word, start and end of each clip of a run."""
    start = sound.quietest(sound.offset, words[0].start + INSIDE_SECONDS)
    end = sound.quietest(words[-1].end - INSIDE_SECONDS, sound.offset + len(sound.samples) / SAMPLE_RATE)
    pauses: list[tuple[int, float]] = []
    """(word after it, middle of it)"""
    if longest is not None and end - start > longest:
        for number in range(1, len(words)):
            gap = words[number - 1].end - INSIDE_SECONDS, words[number].start + INSIDE_SECONDS
            pause = sound.pause(*gap)
            if pause is not None:
                pauses.append((number, pause))
    first = 0
    while longest is not None and end - start > longest and pauses:
        near = [pause for pause in pauses if pause[1] - start <= longest]
        word, time = near[-1] if near else pauses[0]
        yield first, word - 1, start, time
        first, start = word, time
        pauses = [pause for pause in pauses if pause[0] > word]
    yield first, len(words) - 1, start, end


def quietest(samples: Samples, start: float, end: float) -> float:
    """The time of the lowest level between two times; the middle of the first such point.

    Args:
        samples: at 16 kHz.
        start: seconds.
        end: seconds.
    """
    width = round(LEVEL_SECONDS * SAMPLE_RATE)
    first = max(0, round(start * SAMPLE_RATE))
    part = samples[first : max(first, round(end * SAMPLE_RATE))].astype(np.float64)
    if len(part) < width:
        return (first + len(part) / 2) / SAMPLE_RATE
    power = np.cumsum(np.append(0.0, part * part))
    levels = power[width:] - power[:-width]
    return float(first + int(levels.argmin()) + width // 2) / SAMPLE_RATE
