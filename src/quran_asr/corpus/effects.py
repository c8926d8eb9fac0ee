"""Simulated recording conditions: tempo, silence, rooms, noise, bandwidth, level, clipping.

Used for augmentation in training, and to measure the robustness of a recognizer.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from quran_asr.records import SAMPLE_RATE

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from quran_asr.records import Samples

    FloatArray = NDArray[np.floating[Any]]

BANDS_HZ = SAMPLE_RATE / 2 / 2.0 ** np.arange(7, -1, -1)
"""Bands of the equalizer, an octave apart, 62.5 Hz to 8 kHz."""


_TEMPO_FRAME = 2 * (SAMPLE_RATE // 50)
"""Samples of a frame, half of which overlap the frame before: 40 ms, several periods of any voice."""
_TEMPO_SHIFT = SAMPLE_RATE // 100
"""How far from its place a frame is looked for: 10 ms are a period of the lowest voices."""


def at_tempo(samples: Samples, factor: float) -> Samples:
    """A clip that is `factor` times as fast, with its pitch and its timbre unchanged.

    Frames are put together closer or wider than they were, each from where it fits the one before it best
    (WSOLA: Verhelst and Roelands 1993, "An overlap-add technique based on waveform similarity").

    Args:
        samples: float32 [samples].
        factor: below 1 slower, above 1 faster.

    Returns:
        float32 [samples / factor, rounded].
    """
    if factor == 1.0 or not len(samples):
        return samples
    half, length = _TEMPO_FRAME // 2, round(len(samples) / factor)
    frames = length // half + 2
    window = np.hanning(_TEMPO_FRAME + 1)[:-1].astype(np.float32)
    ends = (_TEMPO_SHIFT + half, 2 * (_TEMPO_FRAME + _TEMPO_SHIFT) + round(half * factor))
    source = np.pad(samples, ends)
    result = np.zeros((frames + 1) * half, np.float32)
    place = _TEMPO_SHIFT
    for frame in range(frames):
        if frame:
            nearest = min(round(frame * half * factor), len(samples) + half)
            region = source[nearest : nearest + 2 * _TEMPO_SHIFT + _TEMPO_FRAME]
            place = nearest + _most_similar(region, source[place + half : place + half + _TEMPO_FRAME])
        result[frame * half :][:_TEMPO_FRAME] += window * source[place : place + _TEMPO_FRAME]
    return result[half : half + length]


def _most_similar(region: Samples, frame: Samples) -> int:
    """Where in a region a frame is found again, by the normalized correlation of every other sample."""
    region, frame = region[::2], frame[::2]
    energies = np.cumsum(np.concatenate([np.zeros(1, np.float32), np.square(region)]), dtype=np.float64)
    energies = energies[len(frame) :] - energies[: -len(frame)]
    similar = np.correlate(region, frame, "valid") / np.sqrt(np.maximum(energies, 0) + 1e-9)
    return 2 * int(np.argmax(similar))


def in_room(samples: Samples, response: Samples) -> Samples:
    """A clip as recorded in a room, float32 and of the same length: the echo after its end is cut."""
    if not len(samples):
        return samples
    size = _fast_length(len(samples) + len(response))
    spectrum = np.fft.rfft(samples, size) * np.fft.rfft(response, size)
    echoing: Samples = np.fft.irfft(spectrum, size)[: len(samples)].astype(np.float32)
    return echoing


def decaying_response(seconds: float, direct_db: float, seed: int = 0) -> Samples:
    """The impulse response of a room: direct sound followed by exponentially decaying noise, of energy 1.

    Args:
        seconds: reverberation time, until 60 dB less are left (Polack's model of a diffuse room, 1988).
        direct_db: energy of the direct sound over that of all echoes.
        seed: of the noise.
    """
    times = np.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    echoes = np.random.default_rng(seed).standard_normal(len(times)) * 10 ** (-3 * times / seconds)
    echoes[: SAMPLE_RATE // 200] = 0.0  # the first wall is not nearer than 5 ms
    echoes *= 10 ** (-direct_db / 20) / np.sqrt(np.square(echoes).sum())
    echoes[0] = 1.0
    response: Samples = (echoes / np.sqrt(np.square(echoes).sum())).astype(np.float32)
    return response


def without_silence(samples: Samples) -> Samples:
    """A clip from 20 ms before it first reaches 2 % of its peak to 20 ms after it last does."""
    loudness = np.abs(samples)
    voiced = np.flatnonzero(loudness >= 0.02 * loudness.max(initial=0.0))
    if not len(voiced):
        return samples
    margin = SAMPLE_RATE // 50
    return samples[max(0, voiced[0] - margin) : voiced[-1] + margin]


def with_silence(samples: Samples, before: float, after: float, drawn: random.Random) -> Samples:
    """A clip with seconds of silence before and after it.

    Half of the silences are digital zeros, the others steady noise 30 to 70 dB below the clip: room tone.
    """
    parts = []
    for seconds in (before, after):
        length = round(seconds * SAMPLE_RATE)
        silence = np.zeros(length, np.float32)
        if length and drawn.random() < 0.5:
            level = np.sqrt(_power(samples)) * 10 ** (-drawn.uniform(30, 70) / 20)
            silence = coloured_noise(length, drawn) * np.float32(level)
        parts.append(silence)
    return np.concatenate([parts[0], samples, parts[1]])


def at_level(samples: Samples, level_db: float) -> Samples:
    """A clip brought to a level, RMS in dB below full scale; peaks may pass 1."""
    power = _power(samples)
    if power <= 0:
        return samples
    return samples * np.float32(10 ** (level_db / 20) / np.sqrt(power))


def overdriven(samples: Samples, decibels: float) -> Samples:
    """A clip whose peaks are cut off this many dB below the highest, with the same peak level as before."""
    peak = float(np.abs(samples).max(initial=0.0))
    if peak <= 0:
        return samples
    most = peak * 10 ** (-decibels / 20)
    clipped: Samples = np.clip(samples, -most, most) * np.float32(peak / most)
    return clipped


def low_pass(samples: Samples, cutoff_hz: float) -> Samples:
    """A clip limited to a bandwidth: the spectrum falls to zero within 300 Hz.

    Published recitations end anywhere between 3.5 and 8 kHz; a model trained on one bandwidth only
    learns the channel with the voice.
    """
    if cutoff_hz >= SAMPLE_RATE / 2:
        return samples
    return _filtered(samples, lambda hertz: np.clip((cutoff_hz + 150 - hertz) / 300, 0, 1))


def equalize(samples: Samples, decibels: Sequence[float]) -> Samples:
    """Equalize: gains of eight octaves (62.5 Hz to 8 kHz), linear in dB between them."""

    def gain_at(hertz: FloatArray) -> FloatArray:
        octaves = np.log2(np.maximum(hertz, BANDS_HZ[0]))
        gains: FloatArray = np.interp(octaves, np.log2(BANDS_HZ), decibels)
        return np.float64(10) ** (gains / 20)

    return _filtered(samples, gain_at)


def with_noise(samples: Samples, snr_db: float, drawn: random.Random) -> Samples:
    """A clip with steady noise, whose power falls by 0 (white) to 6 dB (brown) per octave.

    Args:
        samples: float32 [samples].
        snr_db: power of the clip over that of the noise.
        drawn: draws colour and noise.
    """
    level = np.sqrt(_power(samples)) * 10 ** (-snr_db / 20)
    return samples + coloured_noise(len(samples), drawn) * np.float32(level)


def coloured_noise(length: int, drawn: random.Random) -> Samples:
    """Steady noise of power 1 that falls by 0 (white) to 6 dB (brown) per octave; float32 [length]."""
    white = np.random.default_rng(drawn.getrandbits(64)).standard_normal(length, dtype=np.float32)
    slope = drawn.uniform(0.0, 1.0)
    noise = _filtered(white, lambda hertz: np.maximum(hertz, 20.0) ** -slope)
    return noise / np.float32(np.sqrt(max(_power(noise), 1e-20)))


def _power(samples: Samples) -> float:
    return float(np.mean(np.square(samples, dtype=np.float64))) if len(samples) else 0.0


def _filtered(samples: Samples, gain_at: Callable[[FloatArray], FloatArray]) -> Samples:
    """Filter without delay, with a gain for each frequency in hertz."""
    if not len(samples):
        return samples
    size = _fast_length(len(samples))
    gains = gain_at(np.fft.rfftfreq(size, 1 / SAMPLE_RATE)).astype(np.float32)
    filtered: Samples = np.fft.irfft(np.fft.rfft(samples, size) * gains, size)[: len(samples)].astype(
        np.float32
    )
    return filtered


def _fast_length(length: int) -> int:
    """The next length without a prime factor above 5: others take up to four times as long to transform."""
    while True:
        rest = length
        for factor in (2, 3, 5):
            while rest % factor == 0:
                rest //= factor
        if rest == 1:
            return length
        length += 1
