"""Verse clips from an aligned recording, cut where it is quietest between the words."""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from quran_asr import audio
from quran_asr.records import SAMPLE_RATE
from quran_asr.text.quran import load_quran

if TYPE_CHECKING:
    from quran_asr.decoding.path import AlignedSegment
    from quran_asr.records import Samples, VerseRef
    from quran_asr.runtime.alignment import AlignedRecording

REACH_SECONDS = 0.8
"""So far outside the words of a verse a clip may begin and end: sounds fade, and held vowels end late."""
INSIDE_SECONDS = 0.05
"""So far inside them, since word times are not exact."""
LEVEL_SECONDS = 0.02
"""The level is measured over so long."""


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
    """What was cut, and what was not."""

    clips: tuple[VerseClip, ...]
    incomplete: tuple[VerseRef, ...]
    """Verses that are never recited from the first word to the last without going back."""


def cut_verses(recording: AlignedRecording, folder: Path, skip: Container[VerseRef] = ()) -> VerseClips:
    """Write a clip for each complete verse, named as EveryAyah names them: `002255.flac` for 2:255.

    Of a verse that is recited several times the first complete recitation is taken.

    Args:
        recording: aligned.
        folder: for the clips; 16 kHz, mono.
        skip: verses to leave out.

    Raises:
        QuranAsrError: the recording cannot be read.
        OSError: the folder cannot be written.
    """
    quran = load_quran(recording.spelling)
    complete: dict[VerseRef, int] = {}
    recited: dict[VerseRef, None] = {}
    for place, segment in enumerate(recording.segments):
        for verse in segment.verses:
            recited.setdefault(verse)
            if [word.index for word in segment.words] == list(range(len(quran.verse(verse).split()))):
                complete.setdefault(verse, place)
    folder.mkdir(parents=True, exist_ok=True)
    clips = []
    for verse, place in complete.items():
        if verse not in skip:
            start, end, samples = _clip(recording, place)
            path = folder / f"{verse.surah:03}{verse.ayah:03}.flac"
            audio.write(path, samples)
            clips.append(VerseClip(verse, path, start, end))
    return VerseClips(tuple(clips), tuple(verse for verse in recited if verse not in complete))


def _clip(recording: AlignedRecording, place: int) -> tuple[float, float, Samples]:
    """Start and end of a segment's clip in seconds of the recording, and its samples."""
    segment = recording.segments[place]
    earliest = max(segment.start - REACH_SECONDS, _end_of_others(recording, segment) - INSIDE_SECONDS, 0.0)
    latest = min(
        segment.end + REACH_SECONDS, _start_of_others(recording, segment) + INSIDE_SECONDS, recording.seconds
    )
    latest = max(latest, segment.end)
    samples = audio.read(recording.audio, earliest, latest - earliest)
    first = quietest(samples, 0.0, segment.start + INSIDE_SECONDS - earliest)
    last = quietest(samples, segment.end - INSIDE_SECONDS - earliest, latest - earliest)
    return earliest + first, earliest + last, samples[round(first * SAMPLE_RATE) : round(last * SAMPLE_RATE)]


def _end_of_others(recording: AlignedRecording, segment: AlignedSegment) -> float:
    """Where the speech before a segment ends."""
    return max((end for start, end in _speech(recording) if start < segment.start), default=0.0)


def _start_of_others(recording: AlignedRecording, segment: AlignedSegment) -> float:
    """Where the speech after a segment begins."""
    starts = (start for start, _ in _speech(recording) if start > segment.start)
    return min(starts, default=recording.seconds)


def _speech(recording: AlignedRecording) -> list[tuple[float, float]]:
    """Start and end of all segments and of what is not aligned."""
    spans = [(segment.start, segment.end) for segment in recording.segments]
    return spans + [(other.start, other.end) for other in recording.unaligned]


def quietest(samples: Samples, start: float, end: float) -> float:
    """Where between two times the level is lowest; the middle of the first such place.

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
