"""Results of a comparison: error rates by share of the budget, and how much sooner and better.

Every training is judged by its validations. Between two of them the rate is interpolated on a
straight line, and each figure states whether it was measured or interpolated.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean, stdev
from typing import Any

from quran_asr.errors import QuranAsrError
from quran_asr.evaluation.confidence import Interval, rounded, rounded_interval
from quran_asr.experiments.curves import Curves
from quran_asr.experiments.plots.axes import Axis, axes_of, epochs_axis

SHARES = (0.1, 0.5, 1.0)
"""Of the budget, at which error rates are compared."""
EXACT = 0.005
"""A validation within this share of the budget counts as measured there."""
NOT_LEARNED = 0.95
"""A model whose error rate is not below this has not learned: when it got there means nothing."""
DECODERS = {"transducer": "wer", "ctc": "ctc_wer"}

_STUDENT = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228,
    2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086,
    2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
)  # fmt: skip
"""Student's t at 0.975 for 1 to 30 degrees of freedom (NIST/SEMATECH e-Handbook, table 1.3.6.7.2)."""


@dataclass(frozen=True, slots=True)
class VariantCurves:
    """A recipe and its trainings, one a seed."""

    name: str
    curves: tuple[Curves, ...]
    seeds: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Mean:
    """A figure over seeds."""

    value: float
    """The mean; for ratios the geometric mean."""
    interval: Interval | None
    """95 %, Student's t over seeds; None with one seed."""
    seeds: tuple[float, ...]
    """The figure of each seed."""

    def to_json(self) -> dict[str, Any]:
        return {
            "mean": rounded(self.value),
            "interval": rounded_interval(self.interval),
            "seeds": [rounded(value) for value in self.seeds],
        }


@dataclass(frozen=True, slots=True)
class Rate:
    """The error rate of a variant at one share of the budget."""

    share: float
    mean: Mean | None
    """None: no validation had been made by then."""
    measured: bool
    """By a validation there, for every seed; otherwise drawn between the two beside it."""


@dataclass(frozen=True, slots=True)
class RateReached:
    """When a training first came down to an error rate."""

    place: float
    """In units of the budget."""
    step: float
    epoch: float | None
    at_first: bool
    """It was there at its first validation: it may have been earlier."""

    def to_json(self) -> dict[str, Any]:
        epoch = None if self.epoch is None else round(self.epoch, 3)
        return {"step": round(self.step, 1), "epochs": epoch, "or_earlier": self.at_first}


@dataclass(frozen=True, slots=True)
class AgainstFirst:
    """A variant compared with the first."""

    end: Mean
    """Its error rate at the end of the budget over the first's; under 1 is better."""
    best: Mean
    """The same of the best validations."""
    equal_wer: tuple[float, ...]
    """For each seed the rate that both reach: the higher of the two at the end."""
    first: tuple[RateReached, ...]
    """When the first variant came to it, each seed."""
    other: tuple[RateReached, ...]
    highest_of_lower: float
    """Of each seed's two rates at the end the lower one; the highest of these."""
    times_fewer: Mean
    """How many times fewer steps (epochs) this variant needs for it; under 1 it needs more."""

    @property
    def note(self) -> str | None:
        """Why no times are given; None where they are."""
        if max(self.equal_wer) < NOT_LEARNED:
            return None
        who = "neither variant has" if self.highest_of_lower >= NOT_LEARNED else "one of the variants has not"
        return f"{who} learned (WER >= {NOT_LEARNED})"

    @property
    def bound(self) -> bool:
        """Whether some seed was there at its first validation, so that the times are a bound."""
        return any(reached.at_first for reached in (*self.first, *self.other))

    def to_json(self) -> dict[str, Any]:
        note = self.note
        return {
            "end_ratio": self.end.to_json(),
            "best_ratio": self.best.to_json(),
            "equal_wer": [rounded(rate) for rate in self.equal_wer],
            "first_reached": None if note else [reached.to_json() for reached in self.first],
            "reached": None if note else [reached.to_json() for reached in self.other],
            "times_fewer": None if note else {**self.times_fewer.to_json(), "is_bound": self.bound},
            "note": note,
        }


@dataclass(frozen=True, slots=True)
class Result:
    """The figures of one variant."""

    variant: VariantCurves
    rates: tuple[Rate, ...]
    """At `SHARES`."""
    best: Mean
    """The lowest validation within the budget."""
    against: AgainstFirst | None
    """None for the first variant."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """All of it."""

    decoder: str
    unit: str
    """`epoch` or `optimizer step`."""
    budget: float
    """As far as every training has been validated, in that unit."""
    results: tuple[Result, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain values; what is not finite is null."""
        return {
            "decoder": self.decoder,
            "budget": {"unit": self.unit, "amount": round(self.budget, 3)},
            "variants": [
                {
                    "name": result.variant.name,
                    "runs": [curves.source for curves in result.variant.curves],
                    "seeds": list(result.variant.seeds),
                    "wer": {
                        f"{rate.share:.0%}": None
                        if rate.mean is None
                        else {**rate.mean.to_json(), "measured": rate.measured}
                        for rate in result.rates
                    },
                    "best_wer": result.best.to_json(),
                    "against_first": None if result.against is None else result.against.to_json(),
                }
                for result in self.results
            ],
        }


def compare(variants: Sequence[VariantCurves], decoder: str = "transducer") -> Comparison:
    """Compare variants with the first of them.

    Args:
        variants: at least two, each with at least one training that was validated.
        decoder: whose error rate, a key of `DECODERS`.

    Raises:
        QuranAsrError: a training has no validation with this decoder's error rate.
    """
    all_curves = [curves for variant in variants for curves in variant.curves]
    axes = dict(zip(map(id, all_curves), axes_of(all_curves), strict=True))
    series = {id(c): _series(c, decoder, axes[id(c)]) for c in all_curves}
    budget = min(places[-1][0] for places in series.values())
    lines = {key: [point for point in places if point[0] <= budget] for key, places in series.items()}
    for curves in all_curves:
        places, within = series[id(curves)], lines[id(curves)]
        if not within:
            raise QuranAsrError(
                "was first validated when another had ended",
                where=curves.source,
                remedy="validate more often with trainer.val_check_interval",
            )
        end, _ = _at(places, budget)
        if end is not None and within[-1][0] < budget:  # it ends between two validations of this one
            within.append((budget, end))

    def line_of(curves: Curves) -> list[tuple[float, float]]:
        return lines[id(curves)]

    results: list[Result] = []
    for variant in variants:
        rates = tuple(_rate([series[id(c)] for c in variant.curves], budget, share) for share in SHARES)
        best = mean([min(rate for _, rate in line_of(c)) for c in variant.curves])
        against = _against(variants[0], variant, line_of, axes) if results else None
        results.append(Result(variant, rates, best, against))
    unit = axes[id(all_curves[0])].unit
    return Comparison(decoder, unit, budget, tuple(results))


def mean(values: Sequence[float]) -> Mean:
    """Mean with its interval; an error rate cannot be below 0."""
    middle = fmean(values)
    half = _half(values)
    interval = None if half is None else (max(0.0, middle - half), middle + half)
    return Mean(middle, interval, tuple(values))


def geometric_mean(ratios: Sequence[float]) -> Mean:
    """Geometric mean of positive ratios with its interval, which is one of their logarithms."""
    if not all(0 < ratio < math.inf for ratio in ratios):  # an error rate of 0
        return Mean(fmean(ratios), None, tuple(ratios))
    logs = [math.log(ratio) for ratio in ratios]
    middle, half = fmean(logs), _half(logs)
    interval = None if half is None else (math.exp(middle - half), math.exp(middle + half))
    return Mean(math.exp(middle), interval, tuple(ratios))


def _half(values: Sequence[float]) -> float | None:
    """Half the width of the 95 % interval of a mean."""
    if len(values) < 2:
        return None
    quantile = _STUDENT[min(len(values) - 1, len(_STUDENT)) - 1]
    return quantile * stdev(values) / math.sqrt(len(values))


def _series(curves: Curves, decoder: str, axis: Axis) -> list[tuple[float, float]]:
    """(place, error rate) of each validation that has one."""
    points = curves.validation.get(DECODERS[decoder], ())
    found = [(axis.at(point.step), point.value) for point in points if point.value is not None]
    if not found:
        raise QuranAsrError(
            f"has no validation with a {decoder} error rate",
            where=curves.source,
            remedy="it comes with the first validation of a training",
        )
    return found


def _rate(all_series: Sequence[Sequence[tuple[float, float]]], budget: float, share: float) -> Rate:
    found = [_at(series, share * budget, EXACT * budget) for series in all_series]
    rates = [rate for rate, _ in found if rate is not None]
    if len(rates) < len(found):
        return Rate(share, None, False)
    return Rate(share, mean(rates), all(measured for _, measured in found))


def _at(series: Sequence[tuple[float, float]], place: float, near: float = 0.0) -> tuple[float | None, bool]:
    """(error rate at a place, whether it was measured within `near` of it); None before the first."""
    distance, rate = min((abs(x - place), y) for x, y in series)
    if distance <= near:
        return rate, True
    for (x_a, y_a), (x_b, y_b) in pairwise(series):
        if x_a <= place <= x_b:
            return y_a + (place - x_a) * (y_b - y_a) / (x_b - x_a), False
    return None, False


def _against(
    first: VariantCurves,
    other: VariantCurves,
    line_of: Callable[[Curves], list[tuple[float, float]]],
    axes: Mapping[int, Axis],
) -> AgainstFirst:
    pairs = _pairs(first, other)
    ends = [(line_of(a)[-1][1], line_of(b)[-1][1]) for a, b in pairs]
    bests = [(min(y for _, y in line_of(a)), min(y for _, y in line_of(b))) for a, b in pairs]
    targets = tuple(max(end) for end in ends)
    reached = [
        (_reached(a, line_of(a), target, axes[id(a)]), _reached(b, line_of(b), target, axes[id(b)]))
        for (a, b), target in zip(pairs, targets, strict=True)
    ]
    same = set(first.seeds) == set(other.seeds)
    figures = (
        [_ratio(theirs, ours) for ours, theirs in ends],
        [_ratio(theirs, ours) for ours, theirs in bests],
        [ours.place / theirs.place for ours, theirs in reached],
    )
    end, best, times = (_paired(values, same) for values in figures)
    firsts, others = (tuple(column) for column in zip(*reached, strict=True))
    return AgainstFirst(end, best, targets, firsts, others, max(min(pair) for pair in ends), times)


def _pairs(first: VariantCurves, other: VariantCurves) -> list[tuple[Curves, Curves]]:
    """By seed; where the seeds differ every training with every other."""
    ours, theirs = (dict(zip(variant.seeds, variant.curves, strict=True)) for variant in (first, other))
    if ours.keys() == theirs.keys():
        return [(ours[seed], theirs[seed]) for seed in ours]
    return [(a, b) for a in first.curves for b in other.curves]


def _paired(values: Sequence[float], same_seeds: bool) -> Mean:
    """Where each was paired with every other the pairs are not independent: no interval is given."""
    found = geometric_mean(values)
    return found if same_seeds else Mean(found.value, None, found.seeds)


def _ratio(over: float, under: float) -> float:
    if under > 0:
        return over / under
    return 1.0 if over == 0 else math.inf


def _reached(curves: Curves, line: Sequence[tuple[float, float]], target: float, axis: Axis) -> RateReached:
    """The first place at which the straight lines between validations are down at the target."""
    place, at_first = line[0][0], True
    if line[0][1] > target:
        at_first = False
        for (x_a, y_a), (x_b, y_b) in pairwise(line):
            if y_b <= target:
                place = x_a + (x_b - x_a) * (y_a - target) / (y_a - y_b)
                break
        else:  # its end is the target, but for rounding
            place = line[-1][0]
    step = axis.step_of(place)
    epochs = epochs_axis(curves)
    return RateReached(place, step, None if epochs is None else epochs.at(step), at_first)
