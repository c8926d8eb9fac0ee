"""Streaming resampler: any rate and channel count to mono at 16 kHz.

Whatever the chunks, the result equals that of `audio.read` for the same audio in a file: the same mean of the
channels, the same filter (soxr's HQ). Invalid audio is refused here, before it reaches a recognizer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import soxr

from quran_asr import audio
from quran_asr.errors import QuranAsrError
from quran_asr.records import SAMPLE_RATE

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from quran_asr.records import Samples

LOWEST_RATE, HIGHEST_RATE = 4_000, 192_000
"""Hertz: from telephone speech to the highest rate of audio devices."""

MOST_CHANNELS = 64

MOST_MAGNITUDE = 1e3
"""Audio is about [-1, 1] and may overshoot; 16-bit integers passed as float soon exceed this."""


class Resampler:
    """Sample-rate conversion of one stream.

    The filter works in blocks and holds back up to 40 ms of audio at 44.1 and 48 kHz, up to 90 ms at others,
    up to 120 ms at 8 and 240 ms at 4 kHz, and nothing at 16 kHz (measured).

    Args:
        rate: hertz of what will be pushed, 4,000 to 192,000.
        where: named in errors, for example the file.

    Raises:
        QuranAsrError: a rate outside that range.
    """

    def __init__(self, rate: int, where: str = "") -> None:
        if not isinstance(rate, int | float | np.number) or not LOWEST_RATE <= rate <= HIGHEST_RATE:
            given = f"{rate:,} Hz" if isinstance(rate, int | float) else repr(rate)
            raise QuranAsrError(
                f"its rate is {given}; {LOWEST_RATE:,} to {HIGHEST_RATE:,} is accepted",
                where=where,
                remedy="give the rate at which it was recorded, in hertz",
            )
        self.rate = rate
        self.where = where
        self.samples_seen = 0
        """Frames pushed so far, at `rate`."""
        self._ended = False
        self._stream = (
            None
            if rate == SAMPLE_RATE
            else soxr.ResampleStream(rate, SAMPLE_RATE, 1, dtype="float32", quality="HQ")
        )

    def push(self, samples: NDArray[Any]) -> Samples:
        """Convert more audio.

        Args:
            samples: int16, or float in about [-1, 1] (peaks above are kept); [frames] or [frames, channels];
                any number of frames, also none.

        Returns:
            float32 [samples] at 16 kHz, those that are complete; perhaps none.

        Raises:
            QuranAsrError: another type or shape, a sample that is NaN or infinite or far too large (with
                the second), or audio after the end.
        """
        if self._ended:
            raise QuranAsrError(
                "more audio after its end", where=self.where, remedy="make a new `Resampler` for more audio"
            )
        mono = self._mono(_array(samples, self.where))
        self.samples_seen += len(mono)
        if self._stream is None:
            return mono
        return np.asarray(self._stream.resample_chunk(mono), dtype=np.float32)

    def finish(self) -> Samples:
        """End the audio; returns the samples that the filter still held, float32 [samples]."""
        nothing = np.zeros(0, dtype=np.float32)
        if self._ended or self._stream is None:
            self._ended = True
            return nothing
        self._ended = True
        return np.asarray(self._stream.resample_chunk(nothing, last=True), dtype=np.float32)

    def _mono(self, samples: NDArray[Any]) -> Samples:
        if samples.ndim not in (1, 2) or (samples.ndim == 2 and not 1 <= samples.shape[1] <= MOST_CHANNELS):
            raise QuranAsrError(
                f"samples come as {list(samples.shape)}",
                where=self.where,
                remedy=f"give [frames] or [frames, channels], with at most {MOST_CHANNELS} channels",
            )
        if samples.dtype == np.int16:
            floats = samples.astype(np.float32) / np.float32(32_768)
        elif samples.dtype.kind == "f":
            self._refuse_invalid(samples)
            floats = samples.astype(np.float32, copy=False)
        else:
            raise QuranAsrError(
                f"samples come as {samples.dtype}", where=self.where, remedy="give int16 or float32 samples"
            )
        return audio.mono(floats[:, None] if floats.ndim == 1 else floats)

    def _refuse_invalid(self, samples: NDArray[np.floating[Any]]) -> None:
        sane = np.abs(samples) <= MOST_MAGNITUDE  # false for NaN too
        if sane.all():
            return
        first = int(np.argmin(sane if sane.ndim == 1 else sane.all(axis=1)))
        at = f"at {(self.samples_seen + first) / self.rate:.2f} s"
        value = samples[first] if samples.ndim == 1 else samples[first][~sane[first]][0]
        if not np.isfinite(value):
            raise QuranAsrError(
                f"{at} a sample is not a number ({value})",
                where=self.where,
                remedy="look at what makes the samples: audio is finite and lies within -1 and 1",
            )
        raise QuranAsrError(
            f"{at} a sample is {value:.6g}, and audio lies within -1 and 1",
            where=self.where,
            remedy="give 16-bit samples as int16, or divide them by 32,768",
        )


def _array(samples: Any, where: str) -> NDArray[Any]:
    """What a caller gave as samples, as an array of numbers.

    Raises:
        QuranAsrError: it is something else.
    """
    try:
        array = np.asarray(samples)
    except ValueError:  # parts of different lengths
        array = np.asarray(None)
    if array.dtype.kind in "OSU" or (array.ndim == 0 and not isinstance(samples, np.generic)):
        raise QuranAsrError(
            f"no samples: {type(samples).__name__}",
            where=where,
            remedy="give a file's name, or an array of int16 or float32 samples",
        )
    return array
