"""Word starts at the end of a pause, where the level of the recording rises.

A model says when it recognizes a word, in frames of some 80 ms and with a delay of its own. Behind a pause
the recording shows more exactly where the word begins.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from quran_asr.decoding.path import Unaligned
from quran_asr.records import SAMPLE_RATE

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from quran_asr.decoding.path import Alignment
    from quran_asr.records import Samples, TimedWord

STEP_SECONDS = 0.01
PAUSE_SECONDS = 0.2
"""Least duration of a pause; the closure of a stop is shorter."""
LEAST_DIP_DB = 12.0
"""Least drop of the level in a pause below that of the word after it, as in published verse times."""
MOST_DIP_DB = 50.0
"""Drop beyond which audio counts as digital silence."""
BEFORE_SECONDS, BEHIND_SECONDS = 0.5, 0.9
"""Distance of a rise before and after the start that the model found, which may lie in the breath before."""
WORD_SECONDS = 1.0
"""The level of a word is that of the loudest tenth of this duration."""
_STEP = round(STEP_SECONDS * SAMPLE_RATE)
_SILENCE_DB = -120.0


@dataclass(slots=True)
class Levels:
    """The level of a recording that comes in blocks. Three hours are 4 MB."""

    _parts: list[NDArray[np.float32]]
    _rest: Samples

    def __init__(self) -> None:
        self._parts = []
        self._rest = np.zeros(0, np.float32)

    def noted(self, blocks: Iterable[Samples]) -> Iterator[Samples]:
        """The same blocks, 16 kHz. Their levels are added."""
        for block in blocks:
            samples = np.concatenate([self._rest, block])
            whole = len(samples) // _STEP * _STEP
            power = np.square(samples[:whole].reshape(-1, _STEP), dtype=np.float64).mean(axis=1)
            self._parts.append((10 * np.log10(power + 10 ** (_SILENCE_DB / 10))).astype(np.float32))
            self._rest = samples[whole:]
            yield block

    def decibels(self) -> NDArray[np.float32]:
        """[n] dB below full scale, one for each whole `STEP_SECONDS` so far."""
        return np.concatenate([np.zeros(0, np.float32), *self._parts])


def at_rises(alignment: Alignment, levels: NDArray[np.float32]) -> Alignment:
    """The same alignment, with words behind a pause beginning where the level rises.

    A start is moved by less than `BEHIND_SECONDS`, never behind the end of its word, and only if there is a
    pause. A word before it that would end later than the new start ends there. Unaligned stretches end where
    words begin. Nothing ends after the recording, as the last frame of the scores may.

    Args:
        alignment: of a recording.
        levels: of the same recording, as `Levels` gives them.
    """
    starts: list[float] = []
    for segment in alignment.segments:
        for word in segment.words:
            pause_from = starts[-1] if starts else 0.0
            starts.append(_rise(levels, word.start, pause_from, word.end))
    recording_end = len(levels) * STEP_SECONDS
    following = iter([*starts[1:], recording_end])
    moved = iter(starts)
    segments = tuple(
        replace(one, words=tuple(_moved(word, next(moved), next(following)) for word in one.words))
        for one in alignment.segments
    )
    words = [word for segment in segments for word in segment.words]
    between = (_between(words, replace(one, end=min(one.end, recording_end))) for one in alignment.unaligned)
    return replace(
        alignment, segments=segments, unaligned=tuple(one for one in between if one.start < one.end)
    )


def _between(words: Sequence[TimedWord], stretch: Unaligned) -> Unaligned:
    """The longest part of a stretch that no word takes; of no length if words take all of it."""
    before = bisect_right(words, stretch.start, key=lambda word: word.start) - 1
    at, longest = stretch.start, Unaligned(stretch.start, stretch.start)
    for word in words[max(0, before) :]:
        longest = max(longest, Unaligned(at, min(word.start, stretch.end)), key=_seconds)
        at = max(at, word.end)
        if at >= stretch.end:
            return longest
    return max(longest, Unaligned(at, stretch.end), key=_seconds)


def _seconds(stretch: Unaligned) -> float:
    return stretch.end - stretch.start


def _moved(word: TimedWord, start: float, next_start: float) -> TimedWord:
    return replace(word, start=start, end=max(start, min(word.end, next_start)))


def _rise(levels: NDArray[np.float32], start: float, pause_from: float, end: float) -> float:
    """Where the level rises out of a pause near a start; the start itself if it does not.

    Args:
        levels: of the recording.
        start: seconds.
        pause_from: start of the word before; the pause is behind it.
        end: of the word; it cannot begin behind that.
    """
    at = round(start / STEP_SECONDS)
    pause = round(PAUSE_SECONDS / STEP_SECONDS)
    low = max(0, at - round(BEFORE_SECONDS / STEP_SECONDS) - pause)
    near = levels[low : at + round(BEHIND_SECONDS / STEP_SECONDS)]
    word = levels[at : at + round(WORD_SECONDS / STEP_SECONDS)]
    if len(near) <= pause or not len(word):
        return start
    loud = float(np.percentile(word, 90))
    dip = min(loud - float(np.convolve(near, np.full(5, 0.2), "valid").min()), MOST_DIP_DB)
    if dip < LEAST_DIP_DB:
        return start
    quiet = near < loud - dip / 2
    long = np.convolve(quiet, np.ones(pause, np.int64), "valid") == pause  # [i]: quiet from i to i + pause
    rises = low + pause + np.flatnonzero(long[:-1] & ~quiet[pause:])
    seconds = rises * STEP_SECONDS
    rises = rises[(seconds - PAUSE_SECONDS >= pause_from) & (seconds < end)]
    if not len(rises):
        return start
    return float(rises[np.abs(rises - at).argmin()]) * STEP_SECONDS
