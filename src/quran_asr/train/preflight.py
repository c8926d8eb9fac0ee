"""Checks before a training that need the model: can it learn one batch by heart?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import lightning.pytorch as lightning
import torch

from quran_asr.records import Segment
from quran_asr.runs.schema import Recipe
from quran_asr.train.batches import Batch, ClipSet, collate, tokenize
from quran_asr.train.cpu import suit_cpu
from quran_asr.train.initialization import initialize
from quran_asr.train.model import build_model
from quran_asr.train.module import TrainingModule
from quran_asr.train.tokenizer import Tokenizer
from quran_asr.train.validation import Validation

GATE_RATE = 2e-3
GATE_WARMUP_STEPS = 30
GATE_CHECK_EVERY = 10


@dataclass(frozen=True, slots=True)
class Gate:
    """What the overfit gate found."""

    passed: bool
    steps: int
    wer: float
    """Of the transducer on the batch, at the last look."""
    ctc_wer: float


def overfit_gate(
    recipe: Recipe,
    tokenizer: Tokenizer,
    clips: Sequence[Segment],
    steps: int,
    on_progress: Callable[[int, int], None] | None = None,
) -> Gate:
    """Learn a few clips by heart with a fresh model of this recipe; what cannot do that cannot train.

    Without dropout, masks and curriculum: the question is whether audio, text, loss and decoders fit
    together, not whether the model generalises. Passed when both decoders recite every clip without error.
    """
    lightning.seed_everything(recipe.quran.seed, verbose=False)
    plain = replace(recipe, quran=replace(recipe.quran, curriculum=None, augment=None))
    chosen = ClipSet(tokenize(clips, tokenizer), cache_bytes=1 << 28)
    batch = collate([chosen[i] for i in range(len(chosen))])
    model = build_model(plain, tokenizer.folder)
    suit_cpu(model)
    if recipe.quran.initialization == "data":
        initialize(model, chosen)
    module = TrainingModule(model, plain, chosen, chosen, lambda finding: None).eval()
    optimizer = torch.optim.AdamW(model.parameters(), lr=GATE_RATE, betas=(0.9, 0.98), weight_decay=0.0)
    gate = Gate(False, 0, 1.0, 1.0)
    for step in range(1, steps + 1):
        optimizer.param_groups[0]["lr"] = GATE_RATE * min(1.0, step / GATE_WARMUP_STEPS)
        transducer, ctc = module.losses(batch)
        assert transducer is not None
        optimizer.zero_grad()
        (0.5 * transducer.mean() + 0.5 * ctc.mean()).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if on_progress is not None:
            on_progress(step, steps)
        if step % GATE_CHECK_EVERY == 0:
            gate = _look(module, batch, clips, step)
            if gate.passed:
                break
    return gate


@torch.no_grad()
def _look(module: TrainingModule, batch: Batch, clips: Sequence[Segment], step: int) -> Gate:
    check = Validation(module.model, module.model.tokenizer.ids_to_text)
    encoded, frames = module.encode(batch)
    check.add(encoded, frames, [segment.text for segment in clips])
    measured = check.measures()
    return Gate(measured["wer"] == 0 == measured["ctc_wer"], step, measured["wer"], measured["ctc_wer"])
