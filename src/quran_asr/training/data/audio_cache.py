"""Decoded audio in shared memory of the data loader's processes.

A GPU trains on audio thousands of times faster than it passes, and no CPU decodes it that fast. So each clip
is decoded once, in whatever worker, and kept in anonymous shared memory that forked workers see as their
own: workers may live for an epoch only, the audio stays. Pages are taken when they are written, and no file
system is involved (containers have 64 MB of /dev/shm).
"""

from __future__ import annotations

import math
import mmap
import multiprocessing
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from quran_asr.records import SAMPLE_RATE

if TYPE_CHECKING:
    from quran_asr.records import Samples

FORKS = "fork" in multiprocessing.get_all_start_methods()
"""Whether workers can see what this process has in memory."""
_SPARE_SAMPLES = 8
"""Rounding at the two ends of a stretch, at the file's rate and at ours."""


class AudioCache:
    """A place for the samples of each clip, as far as there is room; clip by clip, in their order."""

    def __init__(self, seconds: Sequence[float], room: int, kind: type[np.int16] | type[np.float32]) -> None:
        """Nothing is there yet.

        Args:
            seconds: of each clip.
            room: bytes that all samples together may take.
            kind: int16 keeps samples in 16 bits of each clip's own peak: half the memory, and levels above 1
                survive. float32 keeps them as they are.
        """
        self.kind = np.dtype(kind)
        sizes = [math.ceil(length * SAMPLE_RATE) + _SPARE_SAMPLES for length in seconds]
        self._slots: dict[int, slice] = {}
        samples = 0
        for clip, size in enumerate(sizes):
            if (samples + size) * self.kind.itemsize <= room:
                self._slots[clip] = slice(samples, samples + size)
                samples += size
        try:
            self._samples = _shared(samples, self.kind)
        except (OSError, OverflowError, ValueError):  # a system that promises no memory it does not have
            self._slots, self._samples = {}, np.empty(0, self.kind)
        self._steps = _shared(len(sizes), np.dtype(np.float32))
        self._lengths = _shared(len(sizes), np.dtype(np.int64))

    def __len__(self) -> int:
        """Clips that there is room for."""
        return len(self._slots)

    @property
    def bytes(self) -> int:
        """What those clips take once they are there."""
        return int(self._samples.nbytes)

    def get(self, clip: int) -> Samples | None:
        """The samples of a clip, float32 [samples], a copy; None where nobody has brought them yet."""
        length = int(self._lengths[clip])
        if not length:
            return None
        start = self._slots[clip].start
        return _as_float(self._samples[start : start + length], self._steps[clip])

    def put(self, clip: int, samples: Samples) -> Samples:
        """Keep the samples of a clip if there is room; gives them as later visits will get them."""
        stored: NDArray[Any] = samples
        step = np.float32(1)
        if self.kind == np.int16:
            step = np.float32(max(float(np.abs(samples).max(initial=0.0)), 1e-9) / 32767)
            stored = np.round(samples / step).astype(np.int16)
        slot = self._slots.get(clip)
        if slot is not None and len(stored) <= slot.stop - slot.start:
            self._samples[slot.start : slot.start + len(stored)] = stored
            self._steps[clip] = step
            self._lengths[clip] = len(stored)  # last: from here on it is there
        return _as_float(stored, step)


def _as_float(stored: NDArray[Any], step: np.float32) -> Samples:
    decoded: Samples = stored * step
    return decoded


def _shared(count: int, kind: np.dtype[Any]) -> NDArray[Any]:
    """Zeros that this process and those forked from it share."""
    return np.frombuffer(mmap.mmap(-1, max(1, count) * kind.itemsize), kind, count)
