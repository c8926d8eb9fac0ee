"""The curves of a training, with level, noise and turning points of a series."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from quran_asr.config.schema import Recipe

_PLACES = frozenset({"step", "epoch", "time", "split"})
"""Keys of a metrics line that give its position."""


@dataclass(frozen=True, slots=True)
class Point:
    """One measurement."""

    step: int
    """Optimizer steps, from 1."""
    value: float | None
    """None: NaN or infinity was measured."""
    epoch: float | None
    """From 0; None where unknown."""
    time: float | None
    """Seconds since the run began; None where unknown."""


Series = tuple[Point, ...]
"""Points whose steps rise."""


@dataclass(frozen=True, slots=True)
class Curves:
    """All series of one training."""

    name: str
    source: str
    """Path of what was read."""
    training: Mapping[str, Series]
    """Under the keys that train lines of `metrics.jsonl` have; other keys as they were found."""
    validation: Mapping[str, Series]
    """Under the keys that validation lines of `metrics.jsonl` have; other keys as they were found."""
    recipe: Recipe | None
    """Of our own runs."""
    encoder_share: float | None = None
    """Share of the encoder's parameters that came from a trained model (`transfer.json`); None: unknown."""
    in_epochs: bool = False
    """Whether the points' steps are epochs, because the steps are unknown."""
    notes: tuple[str, ...] = ()
    """What was assumed about a foreign log, and which of its columns no rule knows."""

    def place(self, step: int) -> str:
        """`step 1,200`, or `epoch 12` where epochs are all that is known."""
        return f"{'epoch' if self.in_epochs else 'step'} {step:,}"

    @property
    def steps(self) -> int:
        """The last step at which anything was measured; 0 without points."""
        return max((s[-1].step for s in self._all() if s), default=0)

    @property
    def epoch(self) -> float | None:
        """The last epoch at which anything was measured, from 0."""
        return max((p.epoch for s in self._all() for p in s[-1:] if p.epoch is not None), default=None)

    @property
    def epochs_done(self) -> float:
        """Epochs until the last point; 0 where unknown. Those of others may be counted from 1."""
        first = min((p.epoch for s in self._all() for p in s[:1] if p.epoch is not None), default=0.0)
        return 0.0 if self.epoch is None else self.epoch + (0 if first >= 1 else 1)

    def _all(self) -> tuple[Series, ...]:
        return (*self.training.values(), *self.validation.values())


def curves_of_rows(
    rows: Iterable[Mapping[str, Any]],
    name: str,
    source: str,
    recipe: Recipe | None = None,
    encoder_share: float | None = None,
) -> Curves:
    """The curves in lines of `metrics.jsonl`.

    `null` is a point without a value, except where nothing was measured: the transducer's loss while CTC is
    trained alone.
    """
    series: dict[str, dict[str, list[Point]]] = {"train": {}, "validation": {}}
    for row in rows:
        kept = series.get(row["split"])
        if kept is None:
            continue
        epoch, time = number(row.get("epoch")), number(row.get("time"))
        for key, value in row.items():
            if key in _PLACES or not (value is None or isinstance(value, int | float)):
                continue
            if value is None and key == "transducer_loss" and row.get("loss") is not None:
                continue
            kept.setdefault(key, []).append(Point(int(row["step"]), number(value), epoch, time))
    training, validation = (
        {key: tuple(points) for key, points in split.items()} for split in series.values()
    )
    return Curves(name, source, training, validation, recipe, encoder_share)


def number(value: Any) -> float | None:
    """A finite number as a float; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        finite = float(value)
    except OverflowError:
        return None
    return finite if math.isfinite(finite) else None


def finite(series: Series) -> list[Point]:
    """The points that hold a number."""
    return [point for point in series if point.value is not None]


def values(points: Sequence[Point]) -> list[float]:
    """Their numbers; points without one are passed over."""
    return [point.value for point in points if point.value is not None]


def level(points: Sequence[Point]) -> float:
    """Median of the values; the points are not empty."""
    return median(values(points))


def last(curves: Curves, key: str, count: int = 3) -> float | None:
    """Median of the last `count` values of a validation series; None with fewer."""
    found = finite(curves.validation.get(key, ()))
    return level(found[-count:]) if len(found) >= count else None


def noise(numbers: Sequence[float]) -> float:
    """Standard deviation of single values about a smooth curve; 0 with fewer than four.

    From the median of the absolute second differences, in which a straight line leaves nothing: for normal
    noise they have a deviation of sqrt(6) times that of a value, and a median of 0.6745 deviations.
    """
    if len(numbers) < 4:
        return 0.0
    second = [abs(a - 2 * b + c) for a, b, c in zip(numbers, numbers[1:], numbers[2:], strict=False)]
    return median(second) / (0.6745 * math.sqrt(6))


def lowest_level(points: Sequence[Point], width: int) -> tuple[int, float]:
    """Where the running median over `width` points is lowest (the middle point), and how low."""
    width = min(width, len(points))
    medians = [level(points[start : start + width]) for start in range(len(points) - width + 1)]
    at = min(range(len(medians)), key=medians.__getitem__)
    return at + width // 2, medians[at]


def quantile(numbers: Sequence[float], share: float) -> float:
    """The value below which a share of the numbers lies; the numbers are not empty."""
    ordered = sorted(numbers)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def thinned(points: Sequence[Point], most: int = 2000) -> Sequence[Point]:
    """At most so many points, evenly chosen, the last among them: rules need the shape, not every line."""
    stride = -(-len(points) // most)
    return points if stride <= 1 else points[(len(points) - 1) % stride :: stride]


def is_falling(points: Sequence[Point], share: float) -> bool | None:
    """Whether the last quarter lies below the one before by a share and by the noise; None: too few."""
    quarter = len(points) // 4
    if quarter < 3:
        return None
    before, now = points[-2 * quarter : -quarter], points[-quarter:]
    fall = level(before) - level(now)
    spread = noise(values(points[-2 * quarter :])) / math.sqrt(quarter)
    return fall > share * abs(level(before)) and fall > 2 * spread


def training_loss(curves: Curves) -> tuple[str, list[Point]]:
    """The series in which a training loss is best compared over time, and its name.

    A curriculum lets clips grow and the transducer join: the loss of a clip rises, CTC a token does not.
    """
    for key in ("ctc_per_token", "loss", "transducer_loss", "ctc_loss"):
        points = finite(curves.training.get(key, ()))
        if points:
            return f"training.{key}", points
    return "training.loss", []


def loss_in_words(curves: Curves, name: str) -> str:
    """What a series that `training_loss` has named is called in a sentence, with its unit.

    The losses of our runs are nats a clip; others' may be sums or means of anything.
    """
    if name == "training.ctc_per_token":
        return "CTC in training (nats a token)"
    return "the training loss" if curves.recipe is None else "the training loss (nats a clip)"
