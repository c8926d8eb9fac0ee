"""The overfit gate: a few clips must be learned by heart before a training begins."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import islice

import lightning.pytorch as lightning
import torch

from quran_asr.findings import QuranAsrError
from quran_asr.records import Segment
from quran_asr.runs.architecture import of_recipe
from quran_asr.runs.checks.outcome import Outcome, failure, passed
from quran_asr.runs.schema import Recipe
from quran_asr.train.cpu import suit_cpu
from quran_asr.train.data.batches import Batch, ClipSet, collate, tokenize
from quran_asr.train.model import build_model
from quran_asr.train.module import TrainingModule
from quran_asr.train.start.initialization import initialize
from quran_asr.train.tokenizer import Tokenizer
from quran_asr.train.validation import Validation

GATE_CLIPS = 4
GATE_RATE, GATE_WIDTH = 2e-3, 128
"""Peak learning rate at this `d_model`; falls with the root of the width."""
GATE_WARMUP_STEPS = 30
GATE_CHECK_EVERY = 10
STILL = 0.9
"""Share of the first loss above which nothing was learned."""
IMPOSSIBLE = -1e-3
"""Minus the log of a probability is not below 0, rounding apart."""
_SILENT = 1e-4


@dataclass(frozen=True, slots=True)
class Gate:
    """What the overfit gate found."""

    passed: bool
    steps: int
    wer: float
    """Of the transducer on the batch, at the last look."""
    ctc_wer: float
    first_loss: float = math.nan
    """Mean of both losses over the clips, nats."""
    last_loss: float = math.nan
    silent: int = 0
    """Clips without sound."""


def gate_clips(recipe: Recipe, tokenizer: Tokenizer, training: Sequence[Segment]) -> list[Segment]:
    """The shortest clips that CTC can learn, each with words of its own where there are enough.

    One text for all would be learned without listening. Fragments are taken where there are no whole verses.
    """
    built = of_recipe(recipe.model, tokenizer.size)
    whole = [segment for segment in training if segment.verses] or training
    by_length = sorted(whole, key=lambda segment: segment.duration)
    chosen: dict[str, Segment] = {}
    for segment in by_length:
        tokens = tokenizer.encode(segment.text)
        if built.frames(segment.duration) >= 2 * len(tokens):
            chosen.setdefault(segment.text, segment)
        if len(chosen) == GATE_CLIPS:
            break
    rest = (segment for segment in by_length if segment not in chosen.values())
    return [*chosen.values(), *islice(rest, GATE_CLIPS - len(chosen))]


def overfit_gate(
    recipe: Recipe,
    tokenizer: Tokenizer,
    clips: Sequence[Segment],
    steps: int,
    on_progress: Callable[[int, int], None] | None = None,
    device: torch.device | None = None,
) -> Gate:
    """Learn a few clips by heart with a fresh model of this recipe; what cannot do that cannot train.

    Without dropout, masks and curriculum: the question is whether audio, text, loss and decoders fit
    together, not whether the model generalises. Passed when both decoders recite every clip without error.

    Raises:
        QuranAsrError: a clip has a character that the tokenizer lacks, or none can be read.
    """
    lightning.seed_everything(recipe.quran.seed, verbose=False)
    plain = replace(recipe, quran=replace(recipe.quran, curriculum=None, augment=None))
    chosen = ClipSet(tokenize(clips, tokenizer), cache_bytes=1 << 28)
    batch = collate([chosen[i] for i in range(len(chosen))])
    if not batch.indices:
        raise QuranAsrError(batch.unreadable[0][1], where=clips[batch.unreadable[0][0]].audio)
    texts = [clips[i].text for i in batch.indices]
    silent = int((batch.audio.abs().amax(dim=1) < _SILENT).sum())
    model = build_model(plain, tokenizer.folder)
    suit_cpu(model)
    if recipe.quran.initialization == "data":
        initialize(model, chosen)
    module = TrainingModule(model, plain, chosen, chosen, lambda finding: None).eval()
    if device is not None:
        module, batch = module.to(device), batch.to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=GATE_RATE, betas=(0.9, 0.98), weight_decay=0.0)
    peak = GATE_RATE * min(1.0, math.sqrt(GATE_WIDTH / recipe.model.encoder.d_model))
    gate = Gate(False, 0, 1.0, 1.0, silent=silent)
    for step in range(1, steps + 1):
        optimizer.param_groups[0]["lr"] = peak * min(1.0, step / GATE_WARMUP_STEPS)
        optimizer.zero_grad()
        with torch.backends.cudnn.flags(enabled=False):  # its LSTM has no gradient without dropout
            transducer, ctc = module.losses(batch)
            assert transducer is not None
            loss = 0.5 * transducer.mean() + 0.5 * ctc.mean()
            loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        now = float(loss.detach())
        gate = replace(gate, steps=step, last_loss=now, first_loss=now if step == 1 else gate.first_loss)
        if on_progress is not None:
            on_progress(step, steps)
        if not math.isfinite(now) or now < IMPOSSIBLE:
            break
        if step % GATE_CHECK_EVERY == 0 or step == steps:
            wer, ctc_wer = _look(module, batch, texts)
            gate = replace(gate, passed=wer == 0 == ctc_wer, wer=wer, ctc_wer=ctc_wer)
            if gate.passed:
                break
    return gate


def judge(gate: Gate, clips: int) -> Outcome:
    """What a gate says of the training, and the likeliest cause where it failed."""
    if gate.passed:
        return passed(f"{clips} clips by heart after {gate.steps} steps, both decoders WER 0")
    fell = f"the loss went from {gate.first_loss:.3g} to {gate.last_loss:.3g}"
    message = (
        f"{clips} clips were not learned by heart in {gate.steps} steps (WER transducer {gate.wer:.2f}, "
        f"CTC {gate.ctc_wer:.2f}; {fell})"
    )
    return failure(message, _cause(gate, clips))


def _cause(gate: Gate, clips: int) -> str:
    if gate.silent:
        return f"{gate.silent} of them have no sound: look at the recordings (`quran-asr corpus scan`)"
    if not math.isfinite(gate.last_loss):
        return "the loss is no finite number: a clip has more tokens than frames, or its audio is broken"
    if gate.last_loss < IMPOSSIBLE:
        return "a loss below 0 is no probability's: the loss of this installation is broken"
    if gate.last_loss > STILL * gate.first_loss:
        return (
            "nothing is learned at all: loss, gradients or weights of this model or installation are broken"
        )
    return (
        "it learns, but not by heart: do the texts belong to the recordings? If they do, give it more "
        f"steps (--gate-steps {2 * gate.steps})"
    )


@torch.no_grad()
def _look(module: TrainingModule, batch: Batch, texts: Sequence[str]) -> tuple[float, float]:
    """WER of transducer and CTC."""
    check = Validation(module.model, module.model.tokenizer.ids_to_text)
    encoded, frames = module.encode(batch)
    check.add(encoded, frames, texts, batch.indices)
    measured = check.measures()
    return measured["wer"], measured["ctc_wer"]
