"""Two recognizers on the same clips."""

from __future__ import annotations

import numpy as np
import pytest

from quran_asr.evaluation.confidence import compare_errors, intervals


def test_what_is_hard_for_both_cancels_out() -> None:
    random = np.random.default_rng(3)
    reference_lengths = random.integers(5, 30, 200)
    hard = random.binomial(
        reference_lengths, random.beta(0.5, 2, 200)
    )  # some clips are far harder than others
    better = np.maximum(0, hard - (random.random(200) < 0.3))
    found = compare_errors(hard[None], better[None], reference_lengths, [""] * 200)
    assert found.difference == pytest.approx((better.sum() - hard.sum()) / reference_lengths.sum())
    assert found.difference_interval is not None and found.difference_interval[1] < 0
    # each by itself they overlap
    (first, second) = intervals(
        np.stack([hard, better], 1), np.stack([reference_lengths, reference_lengths], 1), [""] * 200
    )
    assert first is not None and second is not None and second[1] > first[0]


def test_it_agrees_with_the_bootstrap_of_one_rate() -> None:
    """Errors of the first as units of a rate: the same ratio by the other way of drawing."""
    random = np.random.default_rng(5)
    reference_lengths = random.integers(5, 30, 120)
    first, second = random.binomial(reference_lengths, 0.3), random.binomial(reference_lengths, 0.2)
    reciters = [f"r{place % 6}" for place in range(120)]
    found = compare_errors(first[None], second[None], reference_lengths, reciters)
    (ratio,) = intervals(second[:, None], first[:, None], reciters)
    (rise,) = intervals((second - first)[:, None], reference_lengths[:, None], reciters)
    assert found.ratio_interval == pytest.approx(ratio, rel=0.05)
    assert found.difference_interval == pytest.approx(rise, rel=0.1)


def test_seeds_that_differ_widen_the_interval() -> None:
    reference_lengths = np.full(50, 10)
    steady = np.full((3, 50), 3)
    swinging = np.stack([np.full(50, errors) for errors in (1, 3, 5)])
    alike = compare_errors(steady, steady, reference_lengths, [""] * 50)
    unlike = compare_errors(steady, swinging, reference_lengths, [""] * 50)
    assert alike.ratio_interval == (1, 1)
    # the mean of three draws of 1, 3, 5 over 3: with 1,000 draws all of one kind come, 1 in 27 each
    assert unlike.ratio == pytest.approx(1) and unlike.ratio_interval == pytest.approx((1 / 3, 5 / 3))


def test_one_clip_and_no_errors_have_no_interval() -> None:
    reference_lengths = np.array([4])
    one = compare_errors(np.array([[1]]), np.array([[2]]), reference_lengths, [""])
    assert (one.ratio, one.ratio_interval, one.difference_interval) == (2, None, None)
    none = compare_errors(np.zeros((1, 9), int), np.ones((1, 9), int), np.full(9, 4), [""] * 9)
    assert (none.ratio, none.ratio_interval) == (None, None)
    assert none.difference_interval == pytest.approx((0.25, 0.25))
    with pytest.raises(ValueError, match="same clips"):
        compare_errors(np.zeros((1, 2), int), np.zeros((1, 3), int), np.ones(2), ["", ""])
