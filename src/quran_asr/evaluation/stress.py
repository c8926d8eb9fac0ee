"""What a recognizer withstands: the same clips joined, with silence, at other levels, noisy and encoded.

Every condition is measured on the same clips as the clips as they are, so that the differences are those of
the condition. The goals are those that a recognizer in use has to meet: nobody cuts a recording into verses,
starts it with a quarter of a second of silence, and has the level of a studio.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from quran_asr import audio
from quran_asr.audio import Codec
from quran_asr.corpus.effects import (
    decaying_response,
    in_room,
    low_pass,
    overdriven,
    with_noise,
    without_silence,
)
from quran_asr.errors import QuranAsrError
from quran_asr.evaluation.scoring import score_clips
from quran_asr.records import SAMPLE_RATE, Counts

if TYPE_CHECKING:
    from quran_asr.records import Samples, Segment

Recognize = Callable[["Samples"], str]
"""Text of a recording, float32 [samples] at 16 kHz."""

MOST_POINTS = 2.0
"""Points of WER that clips may lose when they are joined."""
MOST_RELATIVE = 0.10
"""Share by which WER may grow with silence before a clip and with its level."""
LONGEST_JOINED = 300.0
"""Seconds of a recording that all clips of a reciter are joined to."""
MP3_32 = Codec("MP3", "MPEG_LAYER_III", SAMPLE_RATE, 0.85, 1105)
GSM = Codec("WAV", "GSM610", 8000)


@dataclass(frozen=True, slots=True)
class StressRow:
    """One condition, measured."""

    group: str
    """`clips`, `joined`, `silence`, `level` or `channel`."""
    condition: str
    way: str
    """How it was recognized: `whole file`, or a stream with its look-ahead."""
    words: Counts
    characters: Counts
    baseline: float | None
    """WER of the clips as they are, recognized in the same way; None for that row itself."""

    @property
    def met(self) -> bool | None:
        """Whether the goal of the condition is met; None where it has none."""
        if self.baseline is None:
            return None
        if self.group == "joined":
            return self.words.rate <= self.baseline + MOST_POINTS / 100
        if self.group in ("silence", "level"):
            return self.words.rate <= self.baseline * (1 + MOST_RELATIVE)
        return None

    def to_json(self) -> dict[str, Any]:
        """As JSON holds it; rates are fractions."""
        return {
            "group": self.group,
            "condition": self.condition,
            "way": self.way,
            "words": self.words.reference_length,
            "wer": self.words.rate,
            "cer": self.characters.rate,
            "baseline_wer": self.baseline,
            "met": self.met,
        }


Change = Callable[["Samples", int], "Samples"]
"""A clip and its number, which seeds what is random -> the clip under the condition."""


def _silence(seconds: float) -> Change:
    silence = np.zeros(round(seconds * SAMPLE_RATE), np.float32)
    return lambda clip, _: np.concatenate([silence, clip])


def _peak(decibels: float) -> Change:
    return lambda clip, _: clip * np.float32(10 ** (decibels / 20) / max(np.abs(clip).max(initial=0.0), 1e-9))


def _noise(decibels: float) -> Change:
    return lambda clip, number: with_noise(clip, decibels, random.Random(number))


CONDITIONS: tuple[tuple[str, str, Change], ...] = (
    ("silence", "starts at once", lambda clip, _: without_silence(clip)),
    *(("silence", f"{seconds:g} s before", _silence(seconds)) for seconds in (0.1, 0.2, 0.33, 0.5, 1.0, 2.0)),
    *(("level", f"peak {decibels:g} dBFS", _peak(decibels)) for decibels in (0.0, -10.0, -20.0, -35.0)),
    ("level", "clipped by 12 dB", lambda clip, _: overdriven(clip, 12.0)),
    ("channel", "noise at 20 dB", _noise(20.0)),
    ("channel", "noise at 10 dB", _noise(10.0)),
    ("channel", "room, 0.5 s", lambda clip, number: in_room(clip, decaying_response(0.5, 3.0, number))),
    ("channel", "telephone band", lambda clip, _: audio.through(GSM, low_pass(clip, 3400.0))),
    ("channel", "MP3, 32 kbit/s", lambda clip, _: audio.through(MP3_32, clip)),
)
"""Group, name and change of every condition that single clips are put into."""


@dataclass(frozen=True, slots=True)
class _Recording:
    reciter: str
    text: str
    samples: Samples


def stress(
    segments: Sequence[Segment],
    ways: Mapping[str, Recognize],
    spelling: str,
    on_progress: Callable[[int, int], None] | None = None,
) -> list[StressRow]:
    """Measure all conditions.

    Joined clips are recognized in every way, the other conditions in the first. Clips are joined reciter by
    reciter in the order of the manifest: in pairs, and all in recordings of up to five minutes.

    Args:
        segments: clips with their text.
        ways: names of the ways to recognize, the whole file first.
        spelling: that is counted in.
        on_progress: called with (rows measured, all rows).

    Raises:
        QuranAsrError: a clip cannot be read, or none is given.
    """
    if not segments:
        raise QuranAsrError("no clips to measure", remedy="give a manifest with clips")
    clips = [
        _Recording(segment.reciter, segment.text, audio.read(segment.audio, segment.offset, segment.duration))
        for segment in segments
    ]
    joined = (("joined", "in pairs", _joined(clips, 2)), ("joined", "all of a reciter", _joined(clips, None)))
    first = next(iter(ways))
    rows: list[StressRow] = []
    count = len(ways) * (1 + len(joined)) + len(CONDITIONS)

    def measure(group: str, name: str, way: str, recordings: Sequence[_Recording]) -> None:
        texts = [ways[way](recording.samples) for recording in recordings]
        scores = score_clips([(recording.text,) for recording in recordings], texts, spelling)
        words = sum((score.words for score in scores), Counts())
        characters = sum((score.characters for score in scores), Counts())
        baseline = next((row.words.rate for row in rows if (row.group, row.way) == ("clips", way)), None)
        rows.append(StressRow(group, name, way, words, characters, baseline))
        if on_progress is not None:
            on_progress(len(rows), count)

    for way in ways:
        measure("clips", "as they are", way, clips)
        for group, name, recordings in joined:
            measure(group, name, way, recordings)
    for group, name, change in CONDITIONS:
        changed = [
            _Recording(clip.reciter, clip.text, change(clip.samples, number))
            for number, clip in enumerate(clips)
        ]
        measure(group, name, first, changed)
    return rows


def _joined(clips: Sequence[_Recording], most: int | None) -> list[_Recording]:
    """Clips of one reciter behind each other, at most so many, or as many as five minutes hold."""
    found: list[list[_Recording]] = []
    for reciter in dict.fromkeys(clip.reciter for clip in clips):
        current: list[_Recording] = []
        for clip in clips:
            if clip.reciter != reciter:
                continue
            seconds = sum(len(one.samples) for one in (*current, clip)) / SAMPLE_RATE
            if current and (len(current) == most or seconds > LONGEST_JOINED):
                found.append(current)
                current = []
            current.append(clip)
        found.append(current)
    return [
        _Recording(
            group[0].reciter,
            " ".join(clip.text for clip in group),
            np.concatenate([clip.samples for clip in group]),
        )
        for group in found
    ]
