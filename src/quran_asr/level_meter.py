"""Properties of a recording before it is recognized: silence, level, clipping, channels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from quran_asr.errors import Finding, counted

if TYPE_CHECKING:
    from numpy.typing import NDArray

SILENT_DB = -80.0
"""Peak, in dB below full scale, under which nothing is in a recording."""
QUIET_DB = -50.0
"""Level of the loud parts under which a recording is very quiet: 16 bits leave 8 to the signal."""
CLIPPED_SHARE = 0.002
"""Share of samples within 1 % of the peak. In clips of twelve reciters it is at most 0.0004; what cuts the
peaks off makes it a hundred times more, and a lossy codec behind it hides that."""
FEWEST_CLIPPED = 10
"""Samples at the peak: of a very short recording one is more than that share."""
LOUDEST = 8.0
"""Peak beyond which samples are wrongly scaled: decoders of lossy files overshoot full scale by far less."""
CANCELLING = 0.05
"""Power of the mean of the channels over the mean power of the channels."""
EMPTY = 1e-5
"""Power of a channel over that of the loudest one."""


@dataclass(slots=True)
class LevelMeter:
    """Takes in a recording block by block, as its file holds it."""

    peak: float = 0.0
    samples: int = 0
    _near_peak: int = 0
    _power: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    """Sum of squares of each channel."""
    _mixed: float = 0.0
    """Sum of squares of the mean of the channels."""
    _loudest: float = 0.0
    """Mean square of the loudest block."""
    _range: tuple[float, float] = (math.inf, -math.inf)
    """Lowest and highest sample."""
    _finite: bool = True

    def add(self, block: NDArray[np.float32]) -> None:
        """Take in float32 [frames, channels]."""
        if not len(block):
            return
        self._finite = self._finite and bool(np.isfinite(block).all())
        self._range = min(self._range[0], float(block.min())), max(self._range[1], float(block.max()))
        loud = np.abs(block)
        peak = float(loud.max())
        if peak > self.peak * 1.01:
            self._near_peak = 0
        self.peak = max(self.peak, peak)
        self._near_peak += int((loud >= 0.99 * self.peak).sum())
        self.samples += block.size
        power = np.square(block, dtype=np.float64).sum(axis=0)
        self._power = power if not len(self._power) else self._power + power
        self._mixed += float(np.square(block.mean(axis=1, dtype=np.float64)).sum())
        self._loudest = max(self._loudest, float(power.max()) / len(block))

    def notes(self, where: str) -> list[Finding]:
        """What a user should know of the recording named `where`, the most serious first."""

        def note(code: str, message: str, remedy: str) -> Finding:
            return Finding("note", code, where, message, remedy)

        if not self._finite:  # an error that whoever reads the samples reports
            return []
        if not self.samples or _decibels(self.peak**2) < SILENT_DB:
            return [note("silent", "silent: nothing in it is louder than -80 dBFS", "check the microphone")]
        if self._range[0] == self._range[1]:
            return [note("silent", "silent: all of its samples are the same", "check the microphone")]
        found = []
        channels = len(self._power)
        loudest = float(self._power.max())
        if channels > 1 and self._mixed < CANCELLING * float(self._power.mean()):
            found.append(
                note(
                    "cancelling-channels",
                    "its channels cancel each other: little is left of their mean, which is recognized",
                    "use one channel: ffmpeg -i FILE -af 'pan=mono|c0=c0' ONE.flac",
                )
            )
        elif channels > 1 and float(self._power.min()) < EMPTY * loudest:
            empty = int((self._power < EMPTY * loudest).sum())
            verb = "is" if empty == 1 else "are"
            found.append(note("empty-channel", f"{empty} of its {channels} channels {verb} empty", ""))
        if self._near_peak > max(CLIPPED_SHARE * self.samples, FEWEST_CLIPPED):
            share = 100 * self._near_peak / self.samples
            message = f"clipped: {share:.1f} % of its samples are at the peak; words may be missed"
            found.append(note("clipped", message, "record at a lower level"))
        if self.peak > LOUDEST:
            message = f"its peak is {self.peak:.0f} times full scale"
            found.append(note("over-full-scale", message, "scale its samples to between -1 and 1"))
        if _decibels(self._loudest) < QUIET_DB:
            message = f"very quiet: its loud parts are at {_decibels(self._loudest):.0f} dBFS"
            found.append(note("very-quiet", message, "record at a higher level"))
        return found


def summarized(notes: Sequence[Finding]) -> list[Finding]:
    """One note for each kind: the first recording of which it holds, and how many more there are."""
    by_code: dict[str, list[Finding]] = {}
    for note in notes:
        by_code.setdefault(note.code, []).append(note)
    found = []
    for first, *others in by_code.values():
        more = f" (and {counted(len(others), 'recording')} more like it)" if others else ""
        found.append(replace(first, message=first.message + more))
    return found


def _decibels(power: float) -> float:
    return 10 * math.log10(power) if power > 0 else -math.inf
