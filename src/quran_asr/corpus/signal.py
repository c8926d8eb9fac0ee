"""Signal measurements of one clip: level, noise, pauses, clipping, bandwidth.

All measurements share one decoding and one spectrogram, so that an audit costs little more than decoding.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from quran_asr.records import SAMPLE_RATE

if TYPE_CHECKING:
    from quran_asr.records import Samples

BLOCK_SECONDS = 0.01
"""Length of the blocks in which levels are measured."""

WINDOW, HOP = 1024, 256
"""Samples of the spectrogram's Hann window and of its step: 64 and 16 ms."""

SILENCE_DB = -32.0
"""dB below the speech level at which a block is silence."""

SILENCE_DBFS = -70.0
"""Level in dBFS below which a block is silence regardless of the speech level."""

SHORTEST_PAUSE = 0.15
"""Seconds. A shorter gap is part of the speech: a stop consonant, a breath between words."""

EDGE_SECONDS = 0.03
"""Seconds at each end of a clip that show whether it was cut off within a phone."""

FULL_SCALE = 0.99
"""Least magnitude of a clipped sample. Lossy codecs round a flat top, hence below 1."""

_FLAT_RUN = 4
"""Equal samples in a row, near the peak, that make a flat top at any level."""

_NOISE_QUANTILE = 0.1
_HISS_HERTZ = (5_000.0, 7_500.0)
_FLOOR = 1e-12


@dataclass(frozen=True, slots=True)
class Signal:
    """Measurements of one clip's audio."""

    seconds: float
    """Decoded length."""
    peak_db: float
    """Largest sample, dB against full scale; above 0 in what lossy codecs decode of loud audio."""
    level_db: float
    """Root mean square of the whole clip, dB against full scale."""
    speech_db: float
    """Level that the loudest tenth of the 10 ms blocks reach, dB against full scale."""
    clipped_share: float
    """Share of samples at full scale or on a flat top, as stored, in the worst channel."""
    silence_share: float
    """Share of the clip in pauses of at least `SHORTEST_PAUSE`, beginning and end included."""
    longest_pause: float
    """Seconds, beginning and end of the clip left out."""
    lead: float
    """Seconds of silence before the speech."""
    tail: float
    """Seconds of silence after it."""
    speech_seconds: float
    """Seconds that are not in pauses."""
    snr_db: float
    """Estimate of speech against steady noise, dB; see `noise_ratio`."""
    hiss_db: float
    """Steady noise between 5 and 7.5 kHz against the whole, dB; see `hiss`."""
    bandwidth_hz: float
    """Frequency below which 99.9 % of the energy lies; at most 8,000."""
    start_db: float
    """Level of the first 30 ms against `speech_db`, dB; near 0 where a clip begins within a phone."""
    end_db: float
    """The same of the last 30 ms."""


class Clipping:
    """Counts clipped samples in the blocks of a file as it is decoded (`audio.read(on_stored=...)`)."""

    def __init__(self) -> None:
        self._frames = 0
        self._clipped: NDArray[np.int64] | None = None
        self.peak = 0.0

    def __call__(self, block: NDArray[np.float32]) -> None:
        """Count in float32 [frames, channels]."""
        size = np.abs(block)
        peak = float(size.max(initial=0.0))
        clipped = size >= FULL_SCALE
        if peak > 0.05:
            # rows that equal the next `_FLAT_RUN - 1` rows, near the peak
            near = size >= 0.97 * peak
            same = (block[1:] == block[:-1]) & near[1:]
            run = same[2:] & same[1:-1] & same[:-2]
            for start in range(_FLAT_RUN):
                clipped[start : start + len(run)] |= run
        counts = clipped.sum(axis=0)
        self._clipped = counts if self._clipped is None else self._clipped + counts
        self._frames += len(block)
        self.peak = max(self.peak, peak)

    @property
    def share(self) -> float:
        """Share of clipped samples in the worst channel."""
        return float(self._clipped.max()) / self._frames if self._clipped is not None else 0.0


def power_spectra(samples: Samples) -> NDArray[np.float32]:
    """Power spectrogram, float32 [frames, WINDOW // 2 + 1]; a short clip is padded to one frame."""
    if len(samples) < WINDOW:
        samples = np.pad(samples, (0, WINDOW - len(samples)))
    frames = np.lib.stride_tricks.sliding_window_view(samples, WINDOW)[::HOP]
    spectra = np.fft.rfft(frames * _HANN)
    return np.asarray(spectra.real**2 + spectra.imag**2, dtype=np.float32)


_HANN = np.hanning(WINDOW + 1)[:-1].astype(np.float32)


def measure(samples: Samples, power: NDArray[np.float32], clipping: Clipping) -> Signal:
    """Measure one clip.

    Args:
        samples: float32 [samples] at 16 kHz, as `audio.read` gives them.
        power: `power_spectra(samples)`.
        clipping: the counter that has processed the blocks of the clip as stored.
    """
    levels = block_levels(samples)
    speech = float(np.quantile(levels, 0.9))
    silent = levels < max(speech + SILENCE_DB, SILENCE_DBFS)
    pauses = _pauses(silent)
    lead = sum(length for start, length in pauses if start == 0)
    tail = sum(length for start, length in pauses if start and start + length == len(levels))
    inner = [length for start, length in pauses if start and start + length < len(levels)]
    paused = sum(length for _, length in pauses) / len(levels)
    seconds = len(samples) / SAMPLE_RATE
    floor = noise_floor(power)
    edge = int(EDGE_SECONDS * SAMPLE_RATE)
    return Signal(
        seconds=seconds,
        peak_db=_decibel(clipping.peak**2),
        level_db=_decibel(float(np.mean(np.square(samples)))),
        speech_db=speech,
        clipped_share=clipping.share,
        silence_share=paused,
        longest_pause=max(inner, default=0) * BLOCK_SECONDS,
        lead=lead * BLOCK_SECONDS,
        tail=tail * BLOCK_SECONDS,
        speech_seconds=seconds * (1.0 - paused),
        snr_db=noise_ratio(floor, power),
        hiss_db=hiss(floor, power),
        bandwidth_hz=bandwidth(power),
        start_db=_decibel(float(np.mean(np.square(samples[:edge])))) - speech,
        end_db=_decibel(float(np.mean(np.square(samples[-edge:])))) - speech,
    )


def block_levels(samples: Samples) -> NDArray[np.float32]:
    """Level of each 10 ms smoothed over three blocks, dB against full scale, float32 [blocks]."""
    block = int(BLOCK_SECONDS * SAMPLE_RATE)
    whole = samples[: max(1, len(samples) // block) * block]
    whole = np.pad(whole, (0, -len(whole) % block))
    power = np.square(whole.reshape(-1, block)).mean(axis=1)
    around = np.pad(power, 1, mode="edge")
    smooth = (around[:-2] + around[1:-1] + around[2:]) / 3
    return np.asarray(10.0 * np.log10(smooth + _FLOOR), dtype=np.float32)


def noise_floor(power: NDArray[np.float32]) -> NDArray[np.float64]:
    """Noise floor: power that is always present at each frequency, float64 [WINDOW // 2 + 1].

    Speech leaves gaps in time in every frequency; steady noise fills them. The floor is the first decile of
    the smoothed frames (Martin's minimum statistics, IEEE TSAP 9(5), 2001, with a quantile for the
    minimum).
    """
    return np.asarray(np.quantile(_moving_mean(power, 5), _NOISE_QUANTILE, axis=0), dtype=np.float64)


def noise_ratio(floor: NDArray[np.float64], power: NDArray[np.float32]) -> float:
    """Speech against the floor, dB, between -20 and 80.

    The estimate is too low for clean audio: reverberation and long vowels count as noise too.
    """
    noise = float(floor.sum())
    total = float(power.mean(axis=0, dtype=np.float64).sum())
    return float(np.clip(10.0 * np.log10((max(total - noise, 0.0) + _FLOOR) / (noise + _FLOOR)), -20.0, 80.0))


def hiss(floor: NDArray[np.float64], power: NDArray[np.float32]) -> float:
    """The floor between 5 and 7.5 kHz relative to the whole clip, dB, at least -100.

    Reverberation is weak there, so this separates it from noise, unless the bandwidth is lower.
    """
    low, high = (round(hertz * WINDOW / SAMPLE_RATE) for hertz in _HISS_HERTZ)
    total = float(power.mean(axis=0, dtype=np.float64).sum())
    return max(-100.0, _decibel(float(floor[low:high].sum()) / (total + _FLOOR)))


def bandwidth(power: NDArray[np.float32], share: float = 0.999) -> float:
    """Frequency in hertz below which `share` of the energy lies, linear between bins; 0 for pure silence."""
    energy = np.cumsum(power.sum(axis=0, dtype=np.float64))
    if energy[-1] <= _FLOOR:
        return 0.0
    return float(np.interp(share * energy[-1], energy, np.arange(len(energy)) * (SAMPLE_RATE / WINDOW)))


def _moving_mean(power: NDArray[np.float32], width: int) -> NDArray[np.float64]:
    """Mean over `width` frames; over all of them where there are fewer."""
    if len(power) <= width:
        return np.asarray(power.mean(axis=0, keepdims=True, dtype=np.float64))
    sums = np.cumsum(power, axis=0, dtype=np.float64)
    whole: NDArray[np.float64] = np.concatenate([sums[width - 1 : width], sums[width:] - sums[:-width]])
    return np.asarray(whole / width, dtype=np.float64)


def _pauses(silent: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """(first block, blocks) of each run of silence that is long enough."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], silent, [False]]).astype(np.int8)))
    shortest = round(SHORTEST_PAUSE / BLOCK_SECONDS)
    runs = zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True)
    return [(start, end - start) for start, end in runs if end - start >= shortest]


def _decibel(power: float) -> float:
    return float(10.0 * np.log10(power + _FLOOR))
