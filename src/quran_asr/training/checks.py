"""Checks with torch before a training: environment, loss, starting weights, overfit gate."""

from __future__ import annotations

import math
import platform
import random
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import combinations, islice
from pathlib import Path

import lightning.pytorch as lightning
import torch
import torch.distributed as distributed
from torch import Tensor, nn

from quran_asr.config.architecture import of_recipe
from quran_asr.config.schema import Model, Recipe, Trainer
from quran_asr.errors import QuranAsrError
from quran_asr.experiments.checks.outcome import Outcome, Outcomes, failure, of_finding, passed, warning
from quran_asr.experiments.transfer_map import LEAST_ENCODER_SHARE, TransferMap
from quran_asr.records import Segment
from quran_asr.training.bundle_weights import ExportedModel
from quran_asr.training.cpu import multiplies_bf16, suit_cpu
from quran_asr.training.data.batches import Batch, ClipSet, collate, tokenize
from quran_asr.training.distributed import training_device
from quran_asr.training.initialization import (
    OUTPUT_DEVIATION,
    as_table,
    initialize,
    trained_weights,
    transfer,
)
from quran_asr.training.loss.transducer import transducer_loss
from quran_asr.training.model import EncDecHybridRNNTCTCBPEModel, RNNTJoint, build_model
from quran_asr.training.module import TrainingModule
from quran_asr.training.nemo_archive import Archive
from quran_asr.training.tokenizer import Tokenizer
from quran_asr.training.validation import Validation

DRIVER = Path("/proc/driver/nvidia/version")
"""There where a driver of NVIDIA's is loaded."""


def torch_environment(trainer: Trainer) -> list[Outcome]:
    """What this machine has of what a recipe's `trainer` asks for, and what it lacks."""
    device = training_device(trainer.accelerator)
    if device.type == "cpu":
        return _cpu(trainer)
    broken = _broken(device)
    if broken:
        return [
            failure(
                f"{torch.cuda.get_device_name(device)} is here, and torch {torch.__version__} cannot use it: "
                f"{broken}",
                "install a torch build for this GPU (pytorch.org/get-started), or trainer.accelerator=cpu",
            )
        ]
    major, minor = torch.cuda.get_device_capability(device)
    outcomes = [
        passed(
            f"torch {torch.__version__} on {torch.cuda.device_count()} x "
            f"{torch.cuda.get_device_name(device)} (compute capability {major}.{minor}, "
            f"CUDA {torch.version.cuda})"
        )
    ]
    if trainer.precision == "bf16-mixed" and not torch.cuda.is_bf16_supported(including_emulation=False):
        outcomes.append(
            warning("this GPU has no bf16 of its own: it is emulated, and slow", "trainer.precision=32")
        )
    processes = min(trainer.devices, torch.cuda.device_count()) * trainer.num_nodes
    if processes > 1 and not distributed.is_nccl_available():
        outcomes.append(failure("several GPUs need NCCL, which this torch lacks", "trainer.devices=1"))
    return outcomes


def _cpu(trainer: Trainer) -> list[Outcome]:
    precision = "bf16" if trainer.precision == "bf16-mixed" and multiplies_bf16() else "fp32"
    here = f"Python {platform.python_version()}, torch {torch.__version__} on the CPU, in {precision}"
    accelerator = trainer.accelerator
    if accelerator == "cpu":
        return [passed(here)]
    has_driver = DRIVER.exists() or shutil.which("nvidia-smi") is not None
    why, remedy = "no CUDA device here", "trainer.accelerator=auto trains on the CPU"
    if has_driver and torch.version.cuda is None:
        why = f"an NVIDIA driver is here, and this torch ({torch.__version__}) was built without CUDA"
        remedy = "install a CUDA build of torch (pytorch.org/get-started)"
    elif has_driver:
        why = f"an NVIDIA driver is here, and torch (CUDA {torch.version.cuda}) finds no device"
        remedy = (
            "does `nvidia-smi` list one? A driver older than this CUDA, or CUDA_VISIBLE_DEVICES, hides it"
        )
    if accelerator == "gpu":
        return [failure(f"trainer.accelerator=gpu: {why}", remedy)]
    return [warning(f"{why}: training would run on the CPU", remedy)] if has_driver else [passed(here)]


def _broken(device: torch.device) -> str:
    """The error of a first product on a GPU; empty when it works."""
    try:
        square = torch.full((8, 8), 0.5, device=device)
        total = float((square @ square).sum())
    except RuntimeError as error:
        return str(error).splitlines()[0]
    return "" if total == 128.0 else f"a sum of products gives {total} instead of 128"


def in_one_line(error: RuntimeError) -> QuranAsrError:
    """Torch's message of a failure, in one line."""
    return QuranAsrError(
        str(error).strip().splitlines()[0] if str(error).strip() else "torch failed",
        remedy="check torch, driver and free memory; trainer.accelerator=cpu trains without the GPU",
    )


# A lattice so small that every alignment can be written down: its loss is their sum, its gradient
# autograd's.

TOLERANCE = 1e-3
"""Relative; float32 on a GPU keeps 1e-5, its TF32 products 1e-3."""
_FRAMES, _LABELS, _WIDTH, _CLASSES = 4, 2, 8, 5


def check_loss(device: torch.device) -> Outcome:
    """Compare value and gradient with the sum over all alignments."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        joint = RNNTJoint(
            jointnet={
                "encoder_hidden": _WIDTH,
                "pred_hidden": _WIDTH,
                "joint_hidden": _WIDTH,
                "activation": "relu",
            },
            num_classes=_CLASSES - 1,
        ).to(device)
        encoder = torch.randn(1, _FRAMES, _WIDTH).to(device).requires_grad_()
        prediction = torch.randn(1, _LABELS + 1, _WIDTH).to(device).requires_grad_()
    targets = torch.tensor([[1, 3]], device=device)
    frames, labels = torch.tensor([_FRAMES], device=device), torch.tensor([_LABELS], device=device)
    joint.eval()
    loss = transducer_loss(encoder, prediction, joint, targets, frames, labels).sum()
    gradients = torch.autograd.grad(loss, [encoder, prediction])
    logits = joint.joint_after_projection(joint.project_encoder(encoder), joint.project_prednet(prediction))
    expected = _by_enumeration(logits[0].double().log_softmax(dim=-1), targets[0].tolist())
    expected_gradients = torch.autograd.grad(expected, [encoder, prediction])
    value, right = float(loss.detach()), float(expected.detach())
    wrong = not math.isclose(value, right, rel_tol=TOLERANCE) or any(
        float((one - other).abs().max()) > TOLERANCE * float(other.abs().max())
        for one, other in zip(gradients, expected_gradients, strict=True)
    )
    message = f"{value:.4f} nats, by all its alignments {right:.4f}"
    if wrong:
        return failure(
            f"the transducer loss or its gradient is wrong on {device.type}: a small lattice costs {message}",
            "this is a fault of this installation: train on another device, and report it",
        )
    return passed(f"the transducer loss of a small lattice on {device.type} is {message}; gradients agree")


def _by_enumeration(scores: Tensor, targets: list[int]) -> Tensor:
    """Minus the log of the sum over all alignments. scores [T, U + 1, V + 1], natural log, blank last."""
    steps = scores.shape[0] + len(targets)
    alignments = []
    for places in combinations(range(steps - 1), len(targets)):  # the last step is a blank
        t = u = 0
        parts = []
        for step in range(steps):
            if step in places:
                parts.append(scores[t, u, targets[u]])
                u += 1
            else:
                parts.append(scores[t, u, -1])
                t += 1
        alignments.append(torch.stack(parts).sum())
    return -torch.logsumexp(torch.stack(alignments), dim=0)


CLIPS = 8
"""That the signal is measured on."""
FARTHEST = 1.5
"""Factor from a deviation of 0.1 behind the subsampling. Scaled by data, other clips gave 0.101 to 0.118 in
18 trials (recitations and synthetic speech; 8, 32 and 256 channels); NeMo's weights 0.013 to 0.071."""


def check_start(
    recipe: Recipe,
    tokenizer: Tokenizer,
    training: Sequence[Segment],
    archive: Archive | ExportedModel | None,
    *,
    allow_partial: bool,
    report: Callable[[str], None],
) -> Outcomes:
    """Start a model as the training will, and look at what came of it.

    Args:
        recipe: what to train.
        tokenizer: of the training.
        training: clips for the signal of a random start.
        archive: the pretrained model, or its bundle; None for random weights.
        allow_partial: little of the encoder is enough.
        report: called with the table of what arrives.
    """
    lightning.seed_everything(recipe.quran.seed, verbose=False)
    model = build_model(recipe, tokenizer.folder)
    if archive is not None:
        name = recipe.init_from_pretrained_model or str(archive.path)
        return _pretrained(model, recipe.model, name, archive, allow_partial, report)
    clips = ClipSet(tokenize(training, tokenizer), cache_bytes=0)
    if recipe.quran.initialization == "data":
        initialize(model, clips)
    deviation = signal(model, clips, recipe.quran.seed)
    how = recipe.quran.initialization
    message = f"random weights ({how}): the output of the subsampling has a deviation of {deviation:.2g}"
    if OUTPUT_DEVIATION / FARTHEST <= deviation <= OUTPUT_DEVIATION * FARTHEST:
        return passed(message)
    return warning(
        f"{message}, far from {OUTPUT_DEVIATION}: such starts have stayed on their plateau for good",
        "quran.initialization=data"
        if how == "nemo"
        else "clips differ much from each other: look for silent or very loud ones (`quran-asr corpus scan`)",
    )


@torch.no_grad()
def signal(model: EncDecHybridRNNTCTCBPEModel, clips: ClipSet, seed: int) -> float:
    """Standard deviation behind the subsampling, about each channel's mean, on some clips.

    Raises:
        QuranAsrError: none of them can be read.
    """
    drawn = random.Random(f"signal {seed}").sample(range(len(clips)), min(CLIPS, len(clips)))
    batch = collate([clips[i] for i in drawn])
    if not batch.indices:
        raise QuranAsrError(
            batch.unreadable[0][1],
            where=clips.clips[batch.unreadable[0][0]].segment.audio,
            remedy="`quran-asr corpus scan` lists what is wrong with each file",
        )
    features, lengths = model.preprocessor(input_signal=batch.audio, length=batch.audio_lengths)
    pre_encode: nn.Module = model.encoder.pre_encode
    out, frames = pre_encode(x=features.transpose(1, 2), lengths=lengths)
    frames_out = torch.cat([clip[:n] for clip, n in zip(out, frames.tolist(), strict=True)])
    return float(frames_out.std(dim=0).mean())


def _pretrained(
    model: EncDecHybridRNNTCTCBPEModel,
    settings: Model,
    name: str,
    archive: Archive | ExportedModel,
    allow_partial: bool,
    report: Callable[[str], None],
) -> Outcomes:
    weights = trained_weights(archive)
    planned = transfer(
        model, settings, archive.config, weights, archive.pieces, name, allow_partial=allow_partial
    )
    report(as_table(planned))
    unlike = _not_arrived(model, weights, planned)
    if unlike:
        return failure(
            f"{len(unlike)} tensors of {name} are not in the model as planned, the first: {unlike[0]}",
            "the archive contains NaN or infinity, or this is a bug: report it",
        )
    message = (
        f"{planned.encoder_share:.1%} of the encoder and {planned.share:.1%} of the model arrive from {name}"
    )
    message = message.replace("%", " %")
    if planned.encoder_share < LEAST_ENCODER_SHARE:
        return warning(
            message, "with this little a start is hardly a pretrained one: take a recipe of its size"
        )
    left_out = [of_finding(one) for one in planned.differences if one.severity == "warning"]
    return [passed(message), *left_out] if left_out else passed(message)


def _not_arrived(
    model: EncDecHybridRNNTCTCBPEModel, weights: dict[str, Tensor], planned: TransferMap
) -> list[str]:
    """Tensors that should equal the source's and do not; NaN equals nothing."""
    held = dict(model.state_dict())
    return [
        tensor.name
        for tensor in planned.tensors
        if tensor.how == "whole"
        and tensor.source is not None
        and not torch.equal(held[tensor.name].float(), weights[tensor.source].float())
    ]


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
class GateResult:
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
    """Silent clips."""


def gate_clips(settings: Model, tokenizer: Tokenizer, training: Sequence[Segment]) -> list[Segment]:
    """The shortest clips that CTC can learn, each with words of its own where there are enough.

    One text for all would be learned without listening. Fragments are taken where there are no whole verses.
    """
    built = of_recipe(settings, tokenizer.size)
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
) -> GateResult:
    """Overfit a few clips with a fresh model of this recipe; what cannot do that cannot train.

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
        raise QuranAsrError(
            batch.unreadable[0][1],
            where=clips[batch.unreadable[0][0]].audio,
            remedy="`quran-asr corpus scan` lists what is wrong with each file",
        )
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
    gate = GateResult(False, 0, 1.0, 1.0, silent=silent)
    for step in range(1, steps + 1):
        optimizer.param_groups[0]["lr"] = peak * min(1.0, step / GATE_WARMUP_STEPS)
        optimizer.zero_grad()
        with torch.backends.cudnn.flags(enabled=False):  # its LSTM has no gradient without dropout
            transducer, ctc, _ = module.losses(batch)
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


def diagnose(gate: GateResult, clips: int) -> Outcome:
    """The outcome of a gate, with the likeliest cause where it failed."""
    if gate.passed:
        return passed(f"{clips} clips learned after {gate.steps} steps, both decoders WER 0")
    fell = f"the loss went from {gate.first_loss:.3g} to {gate.last_loss:.3g}"
    message = (
        f"{clips} clips were not learned in {gate.steps} steps (WER transducer {gate.wer:.2f}, "
        f"CTC {gate.ctc_wer:.2f}; {fell})"
    )
    return failure(message, _cause(gate, clips))


def _cause(gate: GateResult, clips: int) -> str:
    if gate.silent:
        return f"{gate.silent} of them are silent: look at the recordings (`quran-asr corpus scan`)"
    if not math.isfinite(gate.last_loss):
        return "the loss is not finite: a clip has more tokens than frames, or its audio is broken"
    if gate.last_loss < IMPOSSIBLE:
        return "a loss below 0 is not of a probability: the loss of this installation is broken"
    if gate.last_loss > STILL * gate.first_loss:
        return (
            "nothing is learned at all: loss, gradients or weights of this model or installation are broken"
        )
    return (
        "it learns, but too slowly: do the texts belong to the recordings? If they do, give it more "
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
