"""The figures of a comparison, on curves whose answers are known."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from statistics import mean as average
from statistics import stdev

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quran_asr.config.recipe import load_recipe
from quran_asr.errors import QuranAsrError
from quran_asr.experiments.comparison.results import VariantCurves, compare, geometric_mean, mean
from quran_asr.experiments.curves import Curves, curves_of_rows


def curves(rates: Sequence[tuple[int, float | None]], key: str = "wer", every: int = 100) -> Curves:
    """Validations of a training that counts steps; an epoch has `every` of them."""
    rows = [
        {"step": step, "epoch": (step - 1) // every, "split": "validation", key: rate} for step, rate in rates
    ]
    return curves_of_rows(rows, "quickstart/x", "x", load_recipe("quickstart"))


def falling(start: float, slope: float, last: int = 1000) -> Curves:
    return curves([(step, start - slope * step) for step in range(100, last + 1, 100)])


def test_rates_at_shares_of_the_budget_are_those_that_were_validated() -> None:
    result = compare(
        [VariantCurves("a", (falling(1.0, 0.0005),), (0,)), VariantCurves("b", (falling(1.0, 0.0008),), (0,))]
    )
    assert (result.unit, result.budget) == ("optimizer step", 1000)
    first, second = result.results
    assert [rate.mean and rate.mean.value for rate in first.rates] == pytest.approx([0.95, 0.75, 0.5])
    assert [rate.mean and rate.mean.value for rate in second.rates] == pytest.approx([0.92, 0.6, 0.2])
    assert all(rate.measured for rate in (*first.rates, *second.rates))


def test_between_validations_a_rate_is_interpolated_and_marked() -> None:
    sparse = VariantCurves("a", (curves([(80, 0.9), (480, 0.5), (1000, 0.3)]),), (0,))
    rates = compare([sparse, VariantCurves("b", (falling(1, 0.0005),), (0,))]).results[0].rates
    assert [rate.measured for rate in rates] == [False, False, True]
    # by hand: 100 is 20 of the 400 steps from 80 to 480, 500 is 20 of the 520 from there
    assert [rate.mean and rate.mean.value for rate in rates] == pytest.approx(
        [0.9 - 0.4 / 20, 0.5 - 0.2 / 26, 0.3]
    )


def test_before_its_first_validation_a_training_has_no_rate() -> None:
    late = VariantCurves("a", (curves([(600, 0.5), (1000, 0.3)]),), (0,))
    wer = compare([late, VariantCurves("b", (falling(1, 0.0005),), (0,))]).to_json()["variants"][0]["wer"]
    assert wer["10%"] is None and wer["50%"] is None and wer["100%"]["mean"] == 0.3


def test_equal_wer_is_reached_so_many_times_sooner() -> None:
    # a comes to 0.5 at its end, step 1,000; b falls twice as fast and is there at step 500
    result = compare(
        [VariantCurves("a", (falling(1, 0.0005),), (0,)), VariantCurves("b", (falling(1, 0.001),), (0,))]
    )
    against = result.results[1].against
    assert against is not None
    assert against.equal_wer == pytest.approx([0.5])
    assert (against.first[0].step, against.other[0].step) == pytest.approx((1000, 500))
    assert (against.first[0].epoch, against.other[0].epoch) == pytest.approx((10, 5))
    assert against.times_fewer.value == pytest.approx(2)
    assert not against.bound


def test_a_worse_variant_needs_more_steps_for_what_it_reaches_itself() -> None:
    result = compare(
        [VariantCurves("a", (falling(1, 0.0009),), (0,)), VariantCurves("b", (falling(1, 0.0003),), (0,))]
    )
    against = result.results[1].against
    assert against is not None
    assert against.equal_wer == pytest.approx([0.7])
    assert against.times_fewer.value == pytest.approx(1 / 3)
    assert against.end.value == pytest.approx(7)


@pytest.mark.parametrize(
    ("last", "who"), [(0.99, "neither variant has"), (0.2, "one of the variants has not")]
)
def test_nothing_is_reached_sooner_where_nothing_was_learned(last: float, who: str) -> None:
    deaf, other = curves([(100, 1.2), (1000, 1.0)]), curves([(100, 1.0), (1000, last)])
    result = compare([VariantCurves("a", (deaf,), (0,)), VariantCurves("b", (other,), (0,))]).to_json()[
        "variants"
    ][1]
    against = result["against_first"]
    assert against["note"] == f"{who} learned (WER >= 0.95)"
    assert against["times_fewer"] is against["first_reached"] is against["reached"] is None
    assert against["end_ratio"]["mean"] == pytest.approx(last)


def test_what_was_there_at_its_first_validation_is_a_bound() -> None:
    quick = VariantCurves("b", (curves([(100, 0.2), (1000, 0.1)]),), (0,))
    against = compare([VariantCurves("a", (falling(1, 0.0005),), (0,)), quick]).results[1].against
    assert against is not None
    assert against.bound and against.other[0].at_first and not against.first[0].at_first


def test_the_budget_is_what_every_training_was_validated_for() -> None:
    short = VariantCurves("b", (falling(1, 0.0005, last=600),), (0,))
    result = compare([VariantCurves("a", (falling(1, 0.0005),), (0,)), short])
    assert result.budget == 600
    assert result.results[0].rates[2].mean == result.results[1].rates[2].mean


def test_the_intervals_are_students_t() -> None:
    values = (0.30, 0.34, 0.41)
    # the textbook's formula, and its quantile for two degrees of freedom
    half = 4.303 * stdev(values) / math.sqrt(3)
    found = mean(values)
    assert found.value == pytest.approx(average(values))
    assert found.interval == pytest.approx((average(values) - half, average(values) + half))
    assert mean([0.3]).interval is None
    assert mean([0.0, 1.0]).interval == pytest.approx((0, 0.5 + 12.706 * stdev([0, 1]) / math.sqrt(2)))


@given(st.lists(st.floats(0.01, 100), min_size=2, max_size=31))
def test_a_ratio_and_its_inverse_have_inverse_intervals(ratios: list[float]) -> None:
    there, back = geometric_mean(ratios), geometric_mean([1 / ratio for ratio in ratios])
    assert there.value == pytest.approx(1 / back.value)
    assert there.interval is not None and back.interval is not None
    low, high = there.interval
    assert low <= there.value * (1 + 1e-9) and high >= there.value * (1 - 1e-9)
    assert back.interval[0] * high == pytest.approx(1, rel=1e-6) or high > 1e300


def test_seeds_are_paired_so_that_what_a_seed_brings_cancels_out() -> None:
    pairs = [(0.8, 0.4), (0.6, 0.3), (0.4, 0.2)]
    variants = [
        VariantCurves(name, tuple(curves([(100, 1.0), (1000, pair[place])]) for pair in pairs), (0, 1, 2))
        for place, name in enumerate("ab")
    ]
    against = compare(variants).results[1].against
    assert against is not None
    assert against.end.value == pytest.approx(0.5)
    assert against.end.interval == pytest.approx((0.5, 0.5))  # every seed says one half
    others = VariantCurves("b", variants[1].curves, (0, 1, 3))
    unpaired = compare([variants[0], others]).results[1].against
    assert unpaired is not None
    assert unpaired.end.interval is None and len(unpaired.end.seeds) == 9
    assert unpaired.end.value == pytest.approx(0.5)


def test_a_variant_without_errors_leaves_json_that_can_be_read() -> None:
    perfect, other = (
        VariantCurves(name, (curves([(100, rate), (200, rate)]),), (0,))
        for name, rate in (("a", 0.0), ("b", 0.5))
    )
    result = compare([perfect, other]).to_json()
    json.dumps(result, allow_nan=False)
    assert result["variants"][1]["against_first"]["end_ratio"]["mean"] is None


def test_a_training_without_this_decoders_rate_is_named() -> None:
    with pytest.raises(QuranAsrError, match="no validation with a ctc error rate"):
        compare(
            [
                VariantCurves("a", (falling(1, 0.0005),), (0,)),
                VariantCurves("b", (falling(1, 0.0005),), (0,)),
            ],
            "ctc",
        )


def test_trainings_by_epochs_are_compared_by_epochs() -> None:
    recipe = load_recipe("transfer")
    variants = []
    for name, every in (("a", 50), ("b", 25)):  # b takes half as many steps for an epoch
        rows = [
            {"step": every * epoch, "epoch": epoch - 1, "split": "validation", "wer": 1 / epoch}
            for epoch in range(1, 11)
        ]
        variants.append(VariantCurves(name, (curves_of_rows(rows, name, name, recipe),), (0,)))
    result = compare(variants)
    assert (result.unit, result.budget) == ("epoch", 10)
    assert [rate.mean and rate.mean.value for rate in result.results[1].rates] == pytest.approx([1, 0.2, 0.1])
    against = result.results[1].against
    assert against is not None and against.times_fewer.value == pytest.approx(1)
    assert (against.first[0].step, against.other[0].step) == pytest.approx((500, 250))
