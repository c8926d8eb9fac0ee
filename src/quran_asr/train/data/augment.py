"""Changes to training audio that a recognizer should not notice: the speaker's pace, the room, the channel.

They come in the order in which sound meets them: pace, room, noise, bandwidth and tone, codec, level.
SpecAugment's masks are NeMo's and stand in the recipe under `model.spec_augment`.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from quran_asr import audio
from quran_asr.records import SAMPLE_RATE
from quran_asr.runs.schema import Augment
from quran_asr.train.data.codecs import CODECS, through
from quran_asr.train.data.rooms import in_room

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from quran_asr.records import Samples

    FloatArray = NDArray[np.floating[Any]]

_BANDS_HZ = SAMPLE_RATE / 2 / 2.0 ** np.arange(7, -1, -1)
"""An octave apart, 62.5 Hz to 8 kHz: where the tone is bent."""


def augment(
    samples: Samples, settings: Augment, drawn: random.Random, rooms: Sequence[Samples] = ()
) -> Samples:
    """A changed copy of a clip. Whoever gives the generator decides what is drawn.

    Args:
        samples: float32 [samples].
        settings: what is drawn, and how often.
        drawn: the generator.
        rooms: impulse responses to choose from, of `train.rooms.impulse_responses`.

    Returns:
        float32 [samples], of the same length but for the pace.
    """
    factor = drawn.choice(settings.speed)
    if factor != 1.0:
        samples = audio.resample(samples, round(SAMPLE_RATE * factor))
    if rooms and settings.room_probability > drawn.random():
        samples = in_room(samples, drawn.choice(rooms))
    if settings.noise_probability > drawn.random():
        samples = with_noise(samples, drawn.uniform(*settings.noise_snr_db), drawn)
    if settings.lowpass_probability > drawn.random():
        samples = low_pass(samples, drawn.uniform(*settings.lowpass_hz))
    if settings.equalizer_db:
        bent = [drawn.uniform(-settings.equalizer_db, settings.equalizer_db) for _ in _BANDS_HZ]
        samples = equalize(samples, bent)
    if settings.codec_probability > drawn.random():
        samples = through(drawn.choice(CODECS), samples)
    if settings.gain_db:
        samples = samples * np.float32(10 ** (drawn.uniform(-settings.gain_db, settings.gain_db) / 20))
    return samples


def low_pass(samples: Samples, cutoff_hz: float) -> Samples:
    """What a recording of that bandwidth keeps: the spectrum falls to nothing within 300 Hz.

    Published recitations end anywhere between 3.5 and 8 kHz; a model that has heard one bandwidth only
    learns the channel with the voice.
    """
    if cutoff_hz >= SAMPLE_RATE / 2:
        return samples
    return _filtered(samples, lambda hertz: np.clip((cutoff_hz + 150 - hertz) / 300, 0, 1))


def equalize(samples: Samples, decibels: Sequence[float]) -> Samples:
    """Another tone: the gains of eight octaves (62.5 Hz to 8 kHz), with straight lines between in dB."""

    def gain_at(hertz: FloatArray) -> FloatArray:
        octaves = np.log2(np.maximum(hertz, _BANDS_HZ[0]))
        gains: FloatArray = np.interp(octaves, np.log2(_BANDS_HZ), decibels)
        return np.float64(10) ** (gains / 20)

    return _filtered(samples, gain_at)


def with_noise(samples: Samples, snr_db: float, drawn: random.Random) -> Samples:
    """Steady noise beneath a clip: its power falls by 0 (white) to 6 dB (brown) an octave.

    Args:
        samples: float32 [samples].
        snr_db: power of the clip over that of the noise.
        drawn: draws colour and noise.
    """
    white = np.random.default_rng(drawn.getrandbits(64)).standard_normal(len(samples), dtype=np.float32)
    slope = drawn.uniform(0.0, 1.0)
    noise = _filtered(white, lambda hertz: np.maximum(hertz, 20.0) ** -slope)
    level = np.sqrt(_power(samples) / max(_power(noise), 1e-20) / 10 ** (snr_db / 10))
    return samples + noise * np.float32(level)


def _power(samples: Samples) -> float:
    return float(np.mean(np.square(samples, dtype=np.float64))) if len(samples) else 0.0


def _filtered(samples: Samples, gain_at: Callable[[FloatArray], FloatArray]) -> Samples:
    """A filter without delay, as its gain at each frequency in hertz."""
    from scipy import fft

    if not len(samples):
        return samples
    size = fft.next_fast_len(
        len(samples), real=True
    )  # lengths with large prime factors take four times as long
    gains = gain_at(np.fft.rfftfreq(size, 1 / SAMPLE_RATE)).astype(np.float32)
    filtered: Samples = fft.irfft(fft.rfft(samples, size) * gains, size)[: len(samples)]
    return filtered
