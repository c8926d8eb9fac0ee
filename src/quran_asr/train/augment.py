"""Changes to training audio that a recognizer should not notice: speed, level and bandwidth.

SpecAugment's masks are NeMo's and stand in the recipe under `model.spec_augment`.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import numpy as np

from quran_asr import audio
from quran_asr.records import SAMPLE_RATE
from quran_asr.runs.schema import Augment

if TYPE_CHECKING:
    from quran_asr.records import Samples


def augment(samples: Samples, settings: Augment, drawn: random.Random) -> Samples:
    """A changed copy of a clip. Whoever gives the generator decides what is drawn."""
    factor = drawn.choice(settings.speed)
    if factor != 1.0:
        samples = audio.resample(samples, round(SAMPLE_RATE * factor))
    if settings.lowpass_probability > drawn.random():
        low, high = settings.lowpass_hz
        samples = low_pass(samples, drawn.uniform(low, high))
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
    spectrum = np.fft.rfft(samples)
    hertz = np.fft.rfftfreq(len(samples), 1 / SAMPLE_RATE)
    spectrum *= np.clip((cutoff_hz + 150 - hertz) / 300, 0, 1)
    return np.fft.irfft(spectrum, n=len(samples)).astype(np.float32)
