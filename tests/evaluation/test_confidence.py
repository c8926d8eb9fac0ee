"""Intervals against theory, and what they must and must not contain."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from quran_asr.evaluation import confidence
from quran_asr.evaluation.confidence import intervals, method


def column(values: list[int] | NDArray[np.int64]) -> NDArray[np.int64]:
    return np.array(values, np.int64).reshape(-1, 1)


def test_clips_of_one_word_give_the_interval_of_a_share() -> None:
    random = np.random.default_rng(1)
    wrong = (random.uniform(size=2_000) < 0.2).astype(np.int64)
    ((low, high),) = intervals(column(wrong), column([1] * 2_000), ["one"] * 2_000)  # type: ignore[misc]
    deviation = np.sqrt(wrong.mean() * (1 - wrong.mean()) / 2_000)
    assert low == pytest.approx(wrong.mean() - 1.96 * deviation, abs=0.3 * deviation)
    assert high == pytest.approx(wrong.mean() + 1.96 * deviation, abs=0.3 * deviation)


def test_reciters_that_differ_make_the_interval_wide() -> None:
    """Ten reciters of 200 clips, each always right or always wrong: only the reciters say anything."""
    reciters = [f"reciter {i % 10}" for i in range(2_000)]
    wrong = [int(i % 10 < 5) for i in range(2_000)]
    ((low, high),) = intervals(column(wrong), column([1] * 2_000), reciters)  # type: ignore[misc]
    expected = 1.96 * 0.5 / np.sqrt(10)  # of ten draws of a coin
    assert (high - low) / 2 == pytest.approx(expected, rel=0.15)
    few = ["a" if i % 10 < 5 else "b" for i in range(2_000)]
    assert intervals(column(wrong), column([1] * 2_000), few) == [(0.5, 0.5)]


def test_long_clips_weigh_by_their_words() -> None:
    # rate of sums: 100 of 1,000 words; the average of the clips' rates would be about 0.5
    errors, reference_lengths = column([100, 1] * 50), column([1_000, 1] * 50)
    ((low, high),) = intervals(errors, reference_lengths, ["one"] * 100)  # type: ignore[misc]
    assert low < 5_050 / 50_050 < high < 0.11


def test_what_cannot_be_known_is_none() -> None:
    assert intervals(column([1]), column([4]), ["a"]) == [None]
    assert intervals(np.zeros((0, 2), np.int64), np.zeros((0, 2), np.int64), []) == [None, None]
    assert intervals(column([1, 2]), column([0, 0]), ["a", "a"]) == [None]
    low, high = intervals(column([1, 0]), column([2, 0]), ["a", "a"])[0]  # type: ignore[misc]
    assert (low, high) == (0.5, 0.5)  # draws without a reference word are left out


def test_the_same_seed_gives_the_same_interval_however_it_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(2)
    reference_lengths = random.integers(1, 30, (90, 3))
    errors = random.binomial(reference_lengths, 0.3)
    reciters = [f"r{i % 6}" for i in range(90)]
    whole = intervals(errors, reference_lengths, reciters)
    assert intervals(errors, reference_lengths, reciters) == whole
    assert intervals(errors, reference_lengths, reciters, seed=1) != whole
    monkeypatch.setattr(confidence, "_ROOM", 1_000)
    assert intervals(errors, reference_lengths, reciters) == whole


def test_the_method_is_reported() -> None:
    assert "over 5 reciters, then their clips" in method(list("abcde"))
    assert "clips within 4 reciters" in method(list("abcdd"))
    assert "too few reciters" in method(["", ""]) and "1 reciter," in method(["", ""])
