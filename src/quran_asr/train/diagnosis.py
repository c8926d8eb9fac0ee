"""What a training says of a learning rate that changed and of batches that are of no use."""

from __future__ import annotations

import torch

from quran_asr.findings import Finding, QuranAsrError
from quran_asr.train.data.batches import Batch, ClipSet
from quran_asr.train.model import EncDecHybridRNNTCTCBPEModel


def other_rate(before: float, rate: float, step: int, total: int | None) -> Finding:
    """A run goes on at another learning rate than it stopped with."""
    of = "" if total is None else f" of {total:,}"
    return Finding(
        "note",
        "other-rate",
        "model.optim",
        f"the learning rate goes on at {rate:.2e} where it was {before:.2e}: that of step {step:,}{of} in a "
        "training that had been planned like this from its beginning",
        "model.optim.lr=... sets another",
    )


def too_many_useless(
    model: EncDecHybridRNNTCTCBPEModel, clips: ClipSet, batch: Batch | None, number: int, why: str
) -> QuranAsrError:
    """So many batches in a row were skipped that the training ends; `why` is said of the last."""
    indices = () if batch is None else batch.indices[:3]
    return QuranAsrError(
        f"{number} batches in a row were skipped, the last because {why}",
        where=", ".join(clips.clips[i].segment.audio for i in indices),
        remedy=_cause(model, batch),
    )


def _cause(model: EncDecHybridRNNTCTCBPEModel, batch: Batch | None) -> str:
    """What most likely made a batch useless, looked up in this order: weights, audio, rate."""
    broken = [name for name, p in model.named_parameters() if not bool(torch.isfinite(p).all())]
    if broken:
        return (
            f"the weights themselves are broken (first: {broken[0]}): resume from an earlier checkpoint "
            "with a lower rate, `model.optim.lr`"
        )
    if batch is not None and not bool(torch.isfinite(batch.audio).all()):
        return "the audio of these clips holds NaN or infinity: look at them and take them out"
    return "lower `model.optim.lr` or lengthen `model.optim.sched.warmup_steps`"
