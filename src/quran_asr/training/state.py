"""The state of a training between two steps that a checkpoint carries besides weights and optimizer."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from quran_asr.training.data.batches import Batch
from quran_asr.training.data.epoch import Stage
from quran_asr.training.distributed import Ranks
from quran_asr.training.loss.lattice import sent

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
        transducer_clips = clips if transducer is not None else 0
        known = [1, clips, sum(batch.labels), transducer_clips, batch.seconds, batch.padding_share, flops]
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
    """The state of a checkpoint, until it can be applied."""

    stages: tuple[Stage, ...]
    counted: int
    means: dict[str, Any] | None
    gradients: Sequence[Tensor | None]
    window: dict[str, Any]
    """Beside `gradients`: how many batches stand behind them, and their norm."""
    random: dict[str, Any] | None
    """None where the number of processes has changed: nobody's states fit."""


def resumed_from(
    state: Mapping[str, Any], counts: dict[str, int], now: Stage, window: int, ranks: Ranks
) -> Resumed:
    """The state of a checkpoint for a training that continues under the settings of `now`.

    Args:
        state: what `TrainingModule` wrote into the checkpoint.
        counts: Lightning's of the batches of the epoch; set to as many as the optimizer steps take now.
        now: a stage of the epoch under the settings of now, with the clips that the last one admitted.
        window: batches of a process behind an optimizer step.
        ranks: the processes of now.
    """
    stages = tuple(Stage(**stage) for stage in state["stages"])
    counted, window_then = counts["processed"], state["accumulation"]
    same = now.same_plan(stages[-1]) and window == window_then
    if not same:
        counted = math.ceil(counted / window_then) * window
        counts.update(dict.fromkeys(counts, counted))
    if not now.same_plan(stages[-1]):
        stages = (*stages, now)
    states = state["random"]
    return Resumed(
        stages=stages,
        counted=counted,
        means=state["means"] if same else None,
        gradients=state.get("gradients", ()) if same else (),
        window=state.get("window", {}),
        random=states[ranks.rank] if len(states) == ranks.size else None,
    )


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


def settle_batches(loops: dict[str, Any], again: int | None) -> int:
    """Set where the training continues from what Lightning counted in a checkpoint.

    Written at the end of a batch, Lightning would count that batch as unfinished and shift the epoch, and it
    would begin the next validation behind the batches of the last.

    Args:
        loops: of the checkpoint's fit loop; changed in place.
        again: batches of a window, where the one at hand is to begin again; None where it continues.

    Returns:
        Batches of the epoch that are done.
    """
    counts = loops["epoch_loop.batch_progress"]
    over = 0 if again is None else counts["current"]["processed"] % again
    for which in ("current", "total"):
        done = counts[which]["processed"] - over
        given_up = () if again is None else ("ready", "started", "processed")
        counts[which].update(dict.fromkeys((*given_up, "completed"), done))
    done = loops["epoch_loop.val_loop.batch_progress"]["current"]
    done.update(dict.fromkeys(done, 0))
    return int(counts["current"]["processed"])
