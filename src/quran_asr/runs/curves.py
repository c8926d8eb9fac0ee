"""The curves of a training: what was measured at which step, whoever trained it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from quran_asr.runs.schema import Recipe

_PLACES = frozenset({"step", "epoch", "time", "split"})
"""Keys of a line of metrics that say where it stands."""


@dataclass(frozen=True, slots=True)
class Point:
    """One measurement."""

    step: int
    """Optimizer steps, from 1."""
    value: float | None
    """None: NaN or infinity was measured."""
    epoch: float | None
    """From 0; None where nothing says it."""
    time: float | None
    """Seconds since the run began; None where nothing says it."""


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
    """Whether the points' steps are epochs, because nothing says the steps."""

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
        """Epochs until the last point; 0 where nothing says it. Those of others may be counted from 1."""
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
