"""What a validation costs: seconds for an hour of audio, of a model that speaks as much as a trained one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from quran_asr.train.data.batches import Batch, validation_loader
from quran_asr.train.model import frame_counts
from quran_asr.train.module import TrainingModule
from quran_asr.train.processes import Ranks
from quran_asr.train.step_clock import now

CERTAIN = 1e4
"""Of a score: no other comes near."""


def validation_seconds_per_hour(module: TrainingModule, device: torch.device) -> float:
    """Validate a module's validation clips; CPU seconds on a CPU, seconds of the wall on a GPU.

    Both decoders, the losses and the counting take part; audio that was read before is not read again.
    """
    clips, ds = module.validation_clips, module.recipe.model.validation_ds
    loader = validation_loader(clips, batch_size=ds.batch_size, num_workers=0, pin=False, ranks=Ranks())
    batches: list[Batch] = list(loader)
    module.eval()
    try:
        with torch.no_grad(), talkative(module, batches):
            module.on_validation_start()
            module.validation_step(batches[0].to(device), 0)  # what is made at the first time
            began = now(device)
            for number, batch in enumerate(batches):
                module.validation_step(batch.to(device), number)
            seconds = now(device) - began
    finally:
        module.train()
    return 3600 * seconds / sum(clip.segment.duration for clip in clips.clips)


@contextmanager
def talkative(module: TrainingModule, batches: list[Batch]) -> Iterator[None]:
    """Let the transducer emit about as many tokens as are said in batches, at frames that chance chooses.

    Random weights emit the most symbols that are allowed at every frame, or none, and decoding costs by
    symbols: neither is what a training pays from its first hour on.
    """
    said = sum(sum(batch.labels) for batch in batches)
    frames = sum(int(frame_counts(module.model, batch.samples).sum()) for batch in batches)
    share = said / (said + frames)  # of the joint's answers: each frame ends with a blank
    draw = torch.Generator(module.device).manual_seed(0)

    def choose(layer: nn.Module, inputs: tuple[Tensor, ...], scores: Tensor) -> None:
        emits = torch.rand(scores.shape[:-1], device=scores.device, generator=draw) < share
        scores[..., -1] = torch.where(emits, -CERTAIN, CERTAIN)

    hook = module.model.joint.joint_net[-1].register_forward_hook(choose)
    try:
        yield
    finally:
        hook.remove()
