"""The x axis that several trainings share, and thinning of long curves."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from quran_asr.errors import QuranAsrError
from quran_asr.experiments.curves import Curves, Point, Series

MOST_POINTS = 300
"""Drawn of one series; on a phone a picture is about as many pixels wide."""


@dataclass(frozen=True, slots=True)
class Axis:
    """Brings the optimizer steps of one training to places on the x axis."""

    unit: str
    """`epoch` or `optimizer step`."""
    knots: tuple[tuple[float, float], ...] = ()
    """(step, epochs done by then), rising, with straight lines between. Empty: steps stand for themselves."""

    def at(self, step: float) -> float:
        """The place of a step."""
        if not self.knots:
            return step
        right = min(max(1, bisect_right(self.knots, (step, math.inf))), len(self.knots) - 1)
        (step_a, epoch_a), (step_b, epoch_b) = self.knots[right - 1], self.knots[right]
        return epoch_a + (step - step_a) * (epoch_b - epoch_a) / (step_b - step_a)

    def step_of(self, place: float) -> float:
        """The step that stands at a place, not rounded."""
        if not self.knots:
            return place
        right = min(max(1, bisect_right(self.knots, place, key=_epochs_done)), len(self.knots) - 1)
        (step_a, epoch_a), (step_b, epoch_b) = self.knots[right - 1], self.knots[right]
        return step_a + (place - epoch_a) * (step_b - step_a) / (epoch_b - epoch_a)


@dataclass(frozen=True, slots=True)
class Line:
    """A series ready to be drawn; a place without a number has NaN and is a gap."""

    x: tuple[float, ...]
    y: tuple[float, ...]
    low: tuple[float, ...] = ()
    """Of a thinned series the lowest number that went into each mean in `y`; else empty."""
    high: tuple[float, ...] = ()

    @property
    def numbers(self) -> list[tuple[float, float]]:
        """The places that have a number."""
        return [(x, y) for x, y in zip(self.x, self.y, strict=True) if math.isfinite(y)]


def axes_of(curves: Sequence[Curves]) -> list[Axis]:
    """An axis for each training, all in the same unit.

    Epochs where every training has been through one and counts by them; optimizer steps otherwise, so also
    where a recipe has `trainer.max_steps`. Logs that hold nothing but epochs keep them as they count them.

    Raises:
        QuranAsrError: one training holds nothing but epochs, and another counts by steps.
    """
    if all(training.in_epochs for training in curves):
        return [Axis("epoch") for _ in curves]
    knots = [_epochs(training) for training in curves]
    in_steps = any(c.recipe is not None and c.recipe.trainer.max_steps != -1 for c in curves)
    if in_steps or not all(knots):
        for training in curves:
            if training.in_epochs:
                raise QuranAsrError(
                    "names epochs and no steps: it cannot be laid over trainings that count by steps",
                    where=training.source,
                    remedy="draw it by itself, or add its steps",
                )
        return [Axis("optimizer step") for _ in curves]
    return [Axis("epoch", found) for found in knots]


def epochs_axis(curves: Curves) -> Axis | None:
    """Brings the steps of a training to the epochs done by then; None where no epoch has ended."""
    knots = _epochs(curves)
    return Axis("epoch", knots) if knots else None


def line(points: Series, axis: Axis, most: int = MOST_POINTS) -> Line:
    """Points as a line; of more than `most` the means of neighbours, with the lowest and the highest."""
    if len(points) <= most:
        values = (math.nan if point.value is None else point.value for point in points)
        return Line(tuple(axis.at(point.step) for point in points), tuple(values))
    groups = [points[len(points) * i // most : len(points) * (i + 1) // most] for i in range(most)]
    found = [[p.value for p in group if p.value is not None and math.isfinite(p.value)] for group in groups]
    return Line(
        tuple(axis.at(group[-1].step) for group in groups),
        tuple(fmean(values) if values else math.nan for values in found),
        tuple(min(values, default=math.nan) for values in found),
        tuple(max(values, default=math.nan) for values in found),
    )


def _epochs_done(knot: tuple[float, float]) -> float:
    return knot[1]


def _epochs(curves: Curves) -> tuple[tuple[float, float], ...]:
    """Steps at which epochs ended; empty where no epoch has. Taken from the longest series."""
    points = max((*curves.training.values(), *curves.validation.values()), key=len, default=())
    if not points or any(point.epoch is None for point in points):
        return ()
    if any(point.epoch != math.floor(point.epoch or 0) for point in points):  # already counted in parts
        return _rising([(float(point.step), point.epoch or 0.0) for point in points])
    return _rising([(0.0, 0.0), *_ends(points)])


def _ends(points: Sequence[Point]) -> list[tuple[float, float]]:
    """(last step of an epoch, epochs done by then), from points whose epochs are whole and count from 0."""
    last = {int(point.epoch or 0): float(point.step) for point in points}
    latest = max(last)
    if latest == 0:
        return []
    ends = [(step, epoch + 1.0) for epoch, step in sorted(last.items()) if epoch < latest]
    step, done = ends[-1]
    # the last one may be under way: it is taken to be as long as those before it
    share = (last[latest] - step) / max(1.0, step / done)
    return [*ends, (last[latest], latest + min(1.0, share))] if share > 0 else ends


def _rising(knots: Sequence[tuple[float, float]]) -> tuple[tuple[float, float], ...]:
    kept: list[tuple[float, float]] = []
    for step, epoch in knots:
        if not kept or (step > kept[-1][0] and epoch > kept[-1][1]):
            kept.append((step, epoch))
    return tuple(kept) if len(kept) > 1 else ()
