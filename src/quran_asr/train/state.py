"""The state of a training between two steps: what a checkpoint carries besides weights and optimizer."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from quran_asr.train.batches import Batch
from quran_asr.train.epoch import Stage
from quran_asr.train.processes import Ranks


@dataclass(slots=True)
class StepMeans:
    """Sums since the last line of `metrics.jsonl`."""

    batches: int = 0
    clips: int = 0
    tokens: float = 0
    transducer: float = 0.0
    transducer_clips: int = 0
    ctc: float = 0.0
    loss: float = 0.0
    audio_seconds: float = 0.0
    padding: float = 0.0
    flops: float = 0.0
    gradient_norm: float = 0.0
    steps: int = 0
    waited: float = 0.0
    began: float = field(default_factory=time.perf_counter)

    def add(self, batch: Batch, loss: Tensor, transducer: Tensor | None, ctc: float, tokens: float) -> None:
        """Take in one batch: its loss, the transducer's of each clip, the sum of CTC's, its tokens."""
        self.batches += 1
        self.clips += len(batch.indices)
        self.tokens += tokens
        self.ctc += ctc
        if transducer is not None:
            self.transducer += float(transducer.sum())
            self.transducer_clips += len(batch.indices)
        self.loss += float(loss)
        self.audio_seconds += batch.seconds
        self.padding += batch.padding_share


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
    random: dict[str, Any] | None
    """None where the number of processes has changed: nobody's states fit."""


def resumed_from(
    state: Mapping[str, Any], counts: dict[str, int], now: Stage, window: int, ranks: Ranks
) -> Resumed:
    """What a checkpoint says to a training that goes on under the settings of `now`.

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
