from __future__ import annotations

import random

import numpy as np
import pytest

from quran_asr.runs.schema import Augment
from quran_asr.train.augment import augment, low_pass


def tone(hertz: float) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    return (0.5 * np.sin(2 * np.pi * hertz * np.arange(16_000) / 16_000)).astype(np.float32)


def test_low_pass_keeps_what_is_below_and_removes_what_is_above() -> None:
    mixed = tone(1000) + tone(6000)
    passed = low_pass(mixed, 4000)
    assert passed.dtype == np.float32
    assert np.abs(passed - tone(1000)).max() < 0.01
    assert np.array_equal(low_pass(mixed, 8000), mixed)


def test_gain_stays_in_its_range_and_both_ways() -> None:
    drawn = random.Random(0)
    settings = Augment(gain_db=6.0, lowpass_probability=0.0, lowpass_hz=(3000.0, 8000.0), speed=(1.0,))
    peaks = [np.abs(augment(tone(500), settings, drawn)).max() / 0.5 for _ in range(200)]
    assert 10 ** (-6 / 20) <= min(peaks) < 0.6
    assert 1.8 < max(peaks) <= 10 ** (6 / 20) + 1e-6


def test_speed_changes_the_length() -> None:
    drawn = random.Random(0)
    settings = Augment(gain_db=0.0, lowpass_probability=0.0, lowpass_hz=(3000.0, 8000.0), speed=(0.9, 1.1))
    lengths = sorted({len(augment(tone(500), settings, drawn)) for _ in range(20)})
    assert lengths == pytest.approx([16_000 / 1.1, 16_000 / 0.9], abs=2)


def test_nothing_asked_nothing_changed_and_the_source_is_never_written_to() -> None:
    source = tone(500)
    before = source.copy()
    off = Augment(gain_db=0.0, lowpass_probability=0.0, lowpass_hz=(3000.0, 8000.0), speed=(1.0,))
    assert np.array_equal(augment(source, off, random.Random(0)), before)
    on = Augment(gain_db=9.0, lowpass_probability=1.0, lowpass_hz=(3000.0, 4000.0), speed=(0.9,))
    augment(source, on, random.Random(0))
    assert np.array_equal(source, before)


def test_the_same_seed_draws_the_same() -> None:
    settings = Augment(gain_db=9.0, lowpass_probability=0.5, lowpass_hz=(3000.0, 4000.0), speed=(0.9, 1.0))

    def draw() -> list[float]:
        drawn = random.Random(7)
        return [float(np.abs(augment(tone(500), settings, drawn)).sum()) for _ in range(5)]

    assert draw() == draw()
