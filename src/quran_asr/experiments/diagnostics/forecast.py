"""Forecast of the validation WER, with an interval.

Error rates fall like a power of the steps above a floor, w(s) = c + a (s - s0)^-b, as learning curves do
(Hestness et al. 2017, arXiv:1712.00409). Exponent and beginning are laid on a grid; for each, floor and
height are a line, fitted by least squares under the noise of counts (variance in proportion to w). The weight
of each fit is the root of its likelihood, and the interval is that of the mixture: wide where the data do not
distinguish the shapes. The root and `SPREAD` were chosen on made curves so that 90 % intervals hold some 90 %
of what came (docs/results/diagnostics.md has it on others).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

from quran_asr.experiments.curves import Curves, Point, finite, values
from quran_asr.experiments.diagnostics.diagnosis import Diagnosis
from quran_asr.experiments.log_formats import NOT_IN_TOP

LEAST = 6
"""Validations below `LEFT` before which there is no forecast."""
LEFT = 0.9
"""A WER under which a model has left the plateau at 1."""
INTERVAL = 0.9
"""Probability of a validation between `low` and `high`, the quantiles 0.05 and 0.95."""
SPREAD = 1.5
"""Factor on the deviations of the fits: curves are not quite power laws."""
FACTORS = (1.25, 2.0)
EXPONENTS = (0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0)
BEGINNINGS = (-12.0, -6.0, -3.0, -1.5, -0.7, -0.2, 0.3, 0.7, 0.95)
"""Where the power law begins, in steps of the first validation that counts."""
RISING = frozenset(
    {"not-a-number", "divergence", "late-collapse", "overfitting", "no-improvement", "stuck-memorized-text"}
)
"""Diagnoses after which a falling curve means nothing."""
MANY_BEHIND = 3
"""Validations since the last one whose value is in the log, from which on the course is unknown."""


@dataclass(frozen=True, slots=True)
class Expected:
    """The WER at a later step."""

    step: int
    label: str
    """`1.25x`, `2x` or `end`."""
    wer: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Forecast:
    """What continuing would bring."""

    step: int
    """Where the training stands."""
    expected: tuple[Expected, ...]
    """Empty where there is no forecast."""
    reason: str
    """Why there is no forecast; empty otherwise."""


@dataclass(frozen=True, slots=True)
class _Fit:
    """One power law: w = floor + height * x with x = (s - beginning)^-exponent, and how sure it is."""

    exponent: float
    beginning: float
    floor: float
    height: float
    centre: float
    """Weighted mean of x."""
    square: float
    """Weighted sum of squares of x about it."""
    total: float
    """Sum of the weights."""
    variance: float
    """Of a measurement, over its w."""
    weight: float
    """Of this fit among the others."""

    def at(self, step: float) -> tuple[float, float]:
        """WER at a step, and its deviation."""
        x = (step - self.beginning) ** -self.exponent
        away = (x - self.centre) ** 2 / self.square if self.square > 0 else 0.0
        return self.floor + self.height * x, SPREAD * math.sqrt(self.variance * (1 / self.total + away))


def forecast(curves: Curves, diagnostics: Sequence[Diagnosis]) -> Forecast:
    """The WER to expect at 1.25 and 2 times the steps, and at the planned end."""
    step = curves.steps
    for diagnosis in diagnostics:
        if diagnosis.code in RISING or diagnosis.code.startswith("stuck-"):
            return Forecast(step, (), f"no forecast after `{diagnosis.code}`")
    behind = behind_the_best(curves)
    if len(behind) >= MANY_BEHIND:
        count = f"the WER of the last {len(behind)} validations"
        return Forecast(step, (), f"no forecast: {count} is not in the log")
    rates = finite(curves.validation.get("wer", ()))
    above = max((i for i, point in enumerate(rates) if (point.value or 0.0) >= LEFT), default=-1)
    after = [point for point in rates[above + 1 :] if point.step > 0]
    if after and after[-1].value == 0:
        return Forecast(step, (), "no forecast: the last validation has no error")
    rates = [point for point in after if (point.value or 0.0) > 0]
    if len(rates) < LEAST:
        reason = "the run is over without a forecast" if is_over(curves) else "no forecast yet"
        return Forecast(step, (), f"{reason}: {len(rates)} validations under {LEFT}, {LEAST} are needed")
    fits = _fits(rates)
    targets = [(round(factor * rates[-1].step), f"{factor:g}x") for factor in FACTORS]
    end = planned_end(curves)
    if end is not None:
        targets.append((end, "end"))
    targets = [(at, label) for at, label in targets if at > step]
    if not targets:
        last_place = curves.place(rates[-1].step)
        return Forecast(step, (), f"no forecast: the last validation was at {last_place} of {step:,}")
    expected = []
    for at, label in targets:
        low, middle, high = (_quantile(fits, at, q) for q in (0.05, 0.5, 0.95))
        expected.append(Expected(at, label, round(middle, 4), round(low, 4), round(high, 4)))
    return Forecast(step, tuple(expected), "")


def behind_the_best(curves: Curves, key: str = "wer") -> list[Point]:
    """The validations since the last with a value, where a log holds the values of the best ones alone.

    Args:
        curves: of the training.
        key: of the validation series.

    Returns:
        Points whose value is the number of best ones that the log follows.
    """
    known = finite(curves.validation.get(key, ()))
    since = known[-1].step if known else -1
    return [point for point in finite(curves.validation.get(key + NOT_IN_TOP, ())) if point.step > since]


def planned_end(curves: Curves) -> int | None:
    """The optimizer step at which the recipe ends the training; None where that is not known."""
    if curves.recipe is None:
        return None
    trainer = curves.recipe.trainer
    limits = [trainer.max_steps] if trainer.max_steps > 0 else []
    if trainer.max_epochs > 0 and (per_epoch := steps_per_epoch(curves)) is not None:
        limits.append(round(per_epoch * trainer.max_epochs))
    return min(limits, default=None)


def is_over(curves: Curves) -> bool:
    """Whether the training has come to the end that its recipe plans; not where that is not known."""
    end = planned_end(curves)
    if curves.recipe is None or end is None:
        return False
    if 0 < curves.recipe.trainer.max_steps <= curves.steps:
        return True
    # an epoch's length is an estimate; after the last one the model is validated
    return bool(curves.validation.get("wer")) and curves.steps >= end - 1


def steps_per_epoch(curves: Curves) -> float | None:
    """Optimizer steps in an epoch, from the last step of the last whole one; None before its end is seen."""
    series = curves.training.get("loss") or curves.validation.get("wer") or ()
    placed = [(point.step, point.epoch) for point in series if point.epoch is not None]
    if not placed or placed[-1][1] < 1:
        return None
    last = placed[-1][1]
    return (
        max(step for step, epoch in placed if epoch < last) / math.floor(last)
        if placed[0][1] < last
        else None
    )


def _fits(rates: Sequence[Point]) -> list[_Fit]:
    first = rates[0].step
    found = [_fit(rates, exponent, first * share) for exponent in EXPONENTS for share in BEGINNINGS]
    best = max(fit.weight for fit in found)
    return [fit for fit in found if fit.weight > 1e-4 * best]


def _fit(rates: Sequence[Point], exponent: float, beginning: float) -> _Fit:
    """Weighted least squares; neither floor nor height may be negative."""
    xs = [(point.step - beginning) ** -exponent for point in rates]
    ys = values(rates)
    weights = [1 / y for y in ys]
    total = sum(weights)
    centre = sum(w * x for w, x in zip(weights, xs, strict=True)) / total
    middle = sum(w * y for w, y in zip(weights, ys, strict=True)) / total
    square = sum(w * (x - centre) ** 2 for w, x in zip(weights, xs, strict=True))
    products = sum(w * (x - centre) * (y - middle) for w, x, y in zip(weights, xs, ys, strict=True))
    height = max(0.0, products / square) if square > 0 else 0.0
    floor = middle - height * centre
    if floor < 0:
        floor = 0.0
        height = sum(w * x * y for w, x, y in zip(weights, xs, ys, strict=True))
        height /= sum(w * x * x for w, x in zip(weights, xs, strict=True))
    rest = sum(w * (y - floor - height * x) ** 2 for w, x, y in zip(weights, xs, ys, strict=True))
    freedom = len(rates) - 3
    variance = max(rest / freedom, 1e-7)
    weight = variance ** (-freedom / 4)
    return _Fit(exponent, beginning, floor, height, centre, square, total, variance, weight)


def _quantile(fits: Sequence[_Fit], step: int, share: float) -> float:
    """Of the mixture, with the noise of a single validation on top, by bisection."""
    normal, total = NormalDist(), sum(fit.weight for fit in fits)
    parts = []
    for fit in fits:
        mean, deviation = fit.at(step)
        spread = math.hypot(deviation, math.sqrt(fit.variance * max(mean, 1e-4)))
        parts.append((fit.weight / total, mean, max(spread, 1e-6)))
    low, high = 0.0, 2.0
    for _ in range(40):
        middle = (low + high) / 2
        below = sum(weight * normal.cdf((middle - mean) / spread) for weight, mean, spread in parts)
        low, high = (low, middle) if below >= share else (middle, high)
    return high
