"""The state of a training between two steps: what a checkpoint carries besides weights and optimizer."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from quran_asr.findings import Finding
from quran_asr.train.batches import Batch
from quran_asr.train.epoch import Stage
from quran_asr.train.transducer_lattice import sent

SUMS = (
    *("batches", "clips", "tokens", "transducer_clips", "audio_seconds", "padding", "flops"),
    *("transducer", "ctc", "loss", "gradient_norm"),
)
"""What `StepMeans.sums` holds."""


@dataclass(slots=True)
class StepMeans:
    """Sums since the last line of `metrics.jsonl`; those of losses are read when it is written."""

    sums: Tensor = field(default_factory=lambda: torch.zeros(len(SUMS), dtype=torch.float64))
    """Of usable losses, float64, on the device that computes them."""
    steps: int = 0
    waited: float = 0.0
    began: float = field(default_factory=time.perf_counter)

    def add(
        self,
        batch: Batch,
        loss: Tensor,
        transducer: Tensor | None,
        ctc: Tensor,
        flops: float,
        finite: Tensor,
    ) -> None:
        """Take in one batch unless its loss is not `finite`, bool []; waits for nothing.

        Args:
            batch: what was trained on.
            loss: its loss, [].
            transducer: the transducer's loss of each clip, [B], if it was computed.
            ctc: CTC's, [B].
            flops: operations that it took.
            finite: of the loss.
        """
        clips = len(batch.indices)
        heard_by_transducer = clips if transducer is not None else 0
        known = [1, clips, sum(batch.labels), heard_by_transducer, batch.seconds, batch.padding_share, flops]
        values = [torch.zeros_like(loss) if transducer is None else transducer.sum(), ctc.sum(), loss]
        row = torch.cat(
            [
                sent(torch.tensor(known, dtype=torch.float64), loss.device),
                torch.stack([value.detach().double() for value in (*values, torch.zeros_like(loss))]),
            ]
        )
        self.sums = sent(self.sums, loss.device) + torch.where(finite, row, 0.0)

    def add_norm(self, norm: Tensor) -> None:
        """Take in the norm of one step's gradients, []; waits for nothing."""
        self.sums = sent(self.sums, norm.device)
        self.sums[-1] += norm


@dataclass(frozen=True, slots=True)
class EpochProgress:
    """How the batches of the epoch at hand came about."""

    stages: tuple[Stage, ...] = ()
    """The last one is trained now; its `done` is where this process began with it."""
    counted: int = 0
    """Batches that Lightning counted in this epoch before."""


@dataclass(slots=True)
class Resumed:
    """What a checkpoint said, until there is a place for it."""

    stages: tuple[Stage, ...]
    counted: int
    means: dict[str, Any] | None
    gradients: Sequence[Tensor | None]
    window: dict[str, Any]
    """Beside `gradients`: how many batches stand behind them, and their norm."""
    random: dict[str, Any] | None
    """None where the number of processes has changed: nobody's states fit."""


def random_states(device: torch.device) -> dict[str, Any]:
    """What Python's, torch's and the GPU's generators will draw next, in types that a checkpoint may hold."""
    states = {"python": random.getstate(), "torch": torch.get_rng_state()}
    return states | ({"cuda": torch.cuda.get_rng_state(device)} if device.type == "cuda" else {})


def set_random_states(states: dict[str, Any], device: torch.device) -> None:
    """Put back what `random_states` gave."""
    version, internal, gauss = states["python"]
    random.setstate((version, tuple(internal), gauss))
    torch.set_rng_state(states["torch"])
    if device.type == "cuda" and "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"], device)


def other_rate(before: float, rate: float, step: int, total: int | None) -> Finding:
    """What to say where a resumed training goes on at another rate than its checkpoint had."""
    of = "" if total is None else f" of {total:,}"
    return Finding(
        "note",
        "other-rate",
        "model.optim",
        f"the learning rate goes on at {rate:.2e} where it was {before:.2e}: that of step {step:,}{of} in a "
        "training that had been planned like this from its beginning",
        "model.optim.lr=... sets another",
    )
