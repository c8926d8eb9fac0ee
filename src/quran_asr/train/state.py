"""The state of a training between two steps: what a checkpoint carries besides weights and optimizer."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from quran_asr.train.batches import Batch
from quran_asr.train.epoch import Stage


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
