"""Presets and tables of the training benchmark."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

SYSTEMS = ("stock", "ours")
PARTS = ("data", "encoder", "prediction", "joint", "loss", "backward", "optimizer")
"""Of a step, in this order. Features and masks count as encoder, CTC as loss."""


@dataclass(frozen=True, slots=True)
class Preset:
    """A model and a batch."""

    about: str
    recipe: str
    overrides: tuple[str, ...]
    clips: int
    """In a batch on a CPU."""
    clips_on_gpu: int
    seconds: tuple[float, float]
    """Range of the lengths of synthetic clips."""


_SMALL = (
    "model.encoder.d_model=128",
    "model.encoder.n_layers=8",
    "model.encoder.n_heads=4",
    "model.encoder.ff_expansion_factor=2",
    "model.encoder.subsampling_conv_channels=64",
    "model.decoder.prednet.pred_hidden=128",
    "model.joint.jointnet.joint_hidden=256",
    "quran.vocabulary_size=256",
)

PRESETS = {
    "cpu": Preset("2.57M parameters, 8 clips of 5-7 s, BPE 256", "base", _SMALL, 8, 8, (5.0, 7.0)),
    "large": Preset(
        "the guide's 114M parameters, 4 clips (32 on a GPU) of 5-7 s, BPE 1024", "base", (), 4, 32, (5.0, 7.0)
    ),
    "small": Preset("the recipe `small`, 30M parameters, 8 clips of 5-7 s", "small", (), 8, 32, (5.0, 7.0)),
    "quickstart": Preset(
        "the recipe `quickstart`, 1.8M parameters, 8 clips of 1-2 s",
        "quickstart",
        (),
        8,
        8,
        (1.0, 2.0),
    ),
}


@dataclass(frozen=True, slots=True)
class StepTime:
    """One training step, from the end of the step before to its own end."""

    seconds: float
    parts: Mapping[str, float]
    """`PARTS`; they add up to `seconds`."""
    loss: float


@dataclass(frozen=True, slots=True)
class LossTime:
    """Joint and loss on one batch of encoder and prediction outputs: seconds of forward and backward pass."""

    joint_loss: float
    loss: float
    """From the given output of the joint to its gradient: the lattice alone."""
    joint: float
    """NeMo's joint alone."""


@dataclass(slots=True)
class Measured:
    """The figures of one system so far."""

    steps: list[StepTime] = field(default_factory=list)
    losses: list[LossTime] = field(default_factory=list)
    loss_peak_bytes: int | None = None
    peak_bytes: int | None = None

    def figures(self, audio_seconds: float, flops: float, peak_flops: float | None) -> dict[str, Any]:
        """Medians in the form of the JSON. Times in seconds; None for what has not been measured yet.

        Args:
            audio_seconds: in a batch, without padding.
            flops: operations of a step (`experiments/planning/cost.py`).
            peak_flops: of the device, a second; None where it is not known.
        """
        steps = [step.seconds for step in self.steps]
        step = _median(steps)
        return {
            "step_seconds": step,
            "step_seconds_range": [min(steps), max(steps)] if steps else None,
            "steps": len(steps),
            "parts": {part: _median([one.parts[part] for one in self.steps]) for part in PARTS},
            "loss_seconds": _median([one.loss for one in self.losses]),
            "joint_loss_seconds": _median([one.joint_loss for one in self.losses]),
            "joint_seconds": _median([one.joint for one in self.losses]),
            "loss_peak_bytes": self.loss_peak_bytes,
            "peak_bytes": self.peak_bytes,
            "audio_hours_per_hour": audio_seconds / step if step else None,
            "utilisation": flops / step / peak_flops if step and peak_flops else None,
        }


COMPARED = {
    "step_seconds": "a step",
    "joint_loss_seconds": "joint + loss",
    "loss_seconds": "the loss (lattice)",
    "loss_peak_bytes": "memory of the loss",
    "peak_bytes": "memory in all",
    "audio_hours_per_hour": "audio-hours an hour",
}


def ratios(stock: Mapping[str, Any], ours: Mapping[str, Any]) -> dict[str, float | None]:
    """Ratios in our favour: less time, less memory, more audio. None where a figure is missing."""
    found: dict[str, float | None] = {}
    for key in COMPARED:
        theirs, mine = stock[key], ours[key]
        if key == "audio_hours_per_hour":
            theirs, mine = mine, theirs
        found[key] = theirs / mine if theirs and mine and mine > 0 else None
    return found


def table(result: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Rows of one preset's figures: name, stock, ours, ratio."""
    stock, ours, ratio = result["stock"], result["ours"], result["ratio"]
    rows: list[tuple[str, ...]] = []
    for key, label in COMPARED.items():
        times = ratio[key]
        shown = "" if times is None else f"{times:.1f}x"
        rows.append((label, _shown(key, stock[key]), _shown(key, ours[key]), shown))
    for part in PARTS:
        shown_values = [_shown("seconds", system["parts"][part]) for system in (stock, ours)]
        rows.append((f"  {part}", *shown_values, ""))
    return rows


def precision_table(result: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Rows of float32 and bf16: name, time of a step, loss after the same steps."""
    names = ("fp32", "bf16")
    return [
        (name, _shown("seconds", result[name]["step_seconds"]), f"{result[name]['loss']:.3f}")
        for name in names
    ]


def growth_table(rows: Sequence[Mapping[str, Any]]) -> list[tuple[str, ...]]:
    """Rows of how cost grows: batch, step of both systems and ratio, memory of the loss of both."""
    shown: list[tuple[str, ...]] = []
    for row in rows:
        stock, ours, times = row["stock"], row["ours"], row["ratio"]["step_seconds"]
        batch = f"{row['times']}: {row['batch']['clips']} clips, {row['batch']['audio_seconds']:.0f} s"
        shown_values = [_shown("seconds", system["step_seconds"]) for system in (stock, ours)]
        memory = [_shown("bytes", system["loss_peak_bytes"]) for system in (stock, ours)]
        shown.append((batch, *shown_values, "" if times is None else f"{times:.1f}x", *memory))
    return shown


def _shown(key: str, value: float | None) -> str:
    if value is None:
        return "-"
    if key.endswith("bytes"):
        return f"{value / 1e6:,.0f} MB"
    if key.endswith("seconds"):
        return f"{1000 * value:,.0f} ms"
    return f"{value:,.1f}"


def _median(values: Sequence[float]) -> float | None:
    return statistics.median(values) if values else None
