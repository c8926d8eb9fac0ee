"""Initial weights: random, or transferred tensor by tensor from a pretrained model."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from quran_asr.config.architecture import of_nemo, of_recipe
from quran_asr.config.recipe import SHIPPED
from quran_asr.config.schema import Model
from quran_asr.errors import QuranAsrError
from quran_asr.experiments.transfer_map import (
    FIRST,
    LEAST_ENCODER_SHARE,
    RUNNING,
    ModelLayout,
    TransferMap,
    transfer_map,
)
from quran_asr.training.bundle_weights import ExportedModel, exported_weights
from quran_asr.training.data.batches import ClipSet, collate
from quran_asr.training.model import EncDecHybridRNNTCTCBPEModel
from quran_asr.training.nemo_archive import Archive, read_weights

# As NeMo draws them, every stage of the convolutional subsampling shrinks the signal, and the CTC loss sits
# on its plateau of about 4.4 nats a token for hundreds of steps, on real recordings for good. Scaling each
# stage by what it does to a batch of training clips (data-dependent initialisation: Krähenbühl et al. 2016,
# arXiv:1511.06856) cures it. Only initial values change: architecture and archives stay stock.

CLIPS = 32
"""Clips that the subsampling is scaled by."""
OUTPUT_DEVIATION = 0.1
"""Deviation after the last linear layer; the encoder multiplies by sqrt(d_model) behind it."""


def initialize(model: EncDecHybridRNNTCTCBPEModel, clips: ClipSet) -> None:
    """Scale the subsampling of a model with random weights by some of its training clips.

    Raises:
        QuranAsrError: none of them can be read.
    """
    scale_subsampling(model.encoder.pre_encode, *sample_features(model, clips))


@torch.no_grad()
def sample_features(model: EncDecHybridRNNTCTCBPEModel, clips: ClipSet) -> tuple[Tensor, Tensor]:
    """Log-mel features of some training clips: float32 [clips, features, frames], int64 [clips] frames.

    Raises:
        QuranAsrError: none of them can be read.
    """
    chosen = random.Random(0).sample(range(len(clips)), min(CLIPS, len(clips)))
    batch = collate([clips[i] for i in chosen])
    if not batch.indices:
        raise QuranAsrError(
            f"none of {len(chosen)} training clips can be read, the first: {batch.unreadable[0][1]}",
            where=clips.clips[batch.unreadable[0][0]].segment.audio,
            remedy="`quran-asr corpus scan` lists what is wrong with each file",
        )
    features, lengths = model.preprocessor(input_signal=batch.audio, length=batch.audio_lengths)
    return features, lengths


@torch.no_grad()
def scale_subsampling(pre_encode: nn.Module, features: Tensor, lengths: Tensor) -> None:
    """Give every channel of the subsampling mean 0 and deviation 1 on these clips, the output 0.1.

    Args:
        pre_encode: NeMo's `ConvSubsampling` (`conv` and `out`), changed in place.
        features: float32 [clips, features, frames], log-mel as the model sees them.
        lengths: int64 [clips], frames of each clip.
    """
    # One long signal without padding: padded zeros would count as loud frames among log energies.
    signal = torch.cat([clip[:, :n] for clip, n in zip(features, lengths.tolist(), strict=True)], dim=1)
    x = signal.t()[None, None]  # [1, 1, frames, features]
    for stage in pre_encode.conv:  # type: ignore[union-attr]
        if isinstance(stage, nn.Conv2d):
            y = stage(x)
            _standardize(stage, y.mean(dim=(0, 2, 3)), y.std(dim=(0, 2, 3)), 1.0)
        x = stage(x)
    frames, channels = x.shape[2], x.shape[1]
    x = x.transpose(1, 2).reshape(frames, channels * x.shape[3])
    out = pre_encode.out
    assert isinstance(out, nn.Linear)
    y = out(x)
    _standardize(out, y.mean(dim=0), y.std(dim=0), OUTPUT_DEVIATION)


def _standardize(layer: nn.Conv2d | nn.Linear, mean: Tensor, deviation: Tensor, target: float) -> None:
    scale = target / deviation.clamp_min(1e-5)
    layer.weight.mul_(scale.view(-1, *[1] * (layer.weight.dim() - 1)))
    if layer.bias is not None:
        layer.bias.sub_(mean).mul_(scale)


def trained_weights(source: Archive | ExportedModel) -> dict[str, Tensor]:
    """The state dict of a trained model, on the CPU: of an archive, or what a bundle's graphs have of it.

    Raises:
        QuranAsrError: it cannot be read.
    """
    return exported_weights(source) if isinstance(source, ExportedModel) else read_weights(source)


@torch.no_grad()
def transfer(
    model: EncDecHybridRNNTCTCBPEModel,
    settings: Model,
    config: Mapping[str, Any],
    weights: Mapping[str, Tensor],
    pieces: Sequence[str] | None,
    name: str,
    *,
    allow_partial: bool = False,
    level: tuple[float, float] | None = None,
) -> TransferMap:
    """Copy what fits of another model's weights into ours; nothing is written when it refuses.

    Args:
        model: ours, built with our vocabulary; changed in place.
        settings: `model` of the recipe that it was built from.
        config: the other model's `model_config.yaml`, plain values.
        weights: its state dict.
        pieces: its tokens without the blank; None if it has no subwords.
        name: what to call it.
        allow_partial: start even with little of the encoder.
        level: mean and deviation of the log-mel features to be trained on, see `feature_level`. A source that
            was fed normalised features then starts nearer to what it was.

    Raises:
        QuranAsrError: less than 90 % of our encoder's parameters would arrive.
    """
    held = dict(model.named_parameters()) | _running_statistics(model)
    vocabulary = tuple(model.tokenizer.ids_to_tokens(range(model.tokenizer.vocab_size)))
    ours = ModelLayout(
        "ours",
        of_recipe(settings, len(vocabulary)),
        {key: tuple(tensor.shape) for key, tensor in held.items()},
        vocabulary,
    )
    theirs = ModelLayout(
        name,
        of_nemo(config, len(pieces) if pieces is not None else 0, name),
        {key: tuple(tensor.shape) for key, tensor in weights.items() if not key.startswith("preprocessor.")},
        None if pieces is None else tuple(pieces),
    )
    planned = transfer_map(theirs, ours, level_known=level is not None)
    if planned.encoder_share < LEAST_ENCODER_SHARE and not allow_partial:
        raise QuranAsrError(
            f"only {planned.encoder_share:.1%} of the encoder's parameters would arrive: "
            f"{_largest_obstacle(planned)}",
            where=f"init_from_pretrained_model={name}",
            remedy=f"{_fitting_recipe(config)}, or --allow-partial to start with this little",
        )
    for tensor in planned.tensors:
        if tensor.how == "none" or tensor.source is None:
            continue
        target, source = held[tensor.name], weights[tensor.source].to(torch.float32)
        if tensor.how in ("whole", "level"):
            target.copy_(source)
        elif tensor.how == "blank":
            target[-1].copy_(source[-1])
        else:
            _shift_bins(target, source, settings.encoder.subsampling_conv_channels)
    if level is not None and any(tensor.how == "level" for tensor in planned.tensors):
        _fold_level(held[FIRST[0]], held[FIRST[1]], *level)
    return planned


def feature_level(features: Tensor, lengths: Tensor) -> tuple[float, float]:
    """Mean and deviation of log-mel features over all their bins and frames.

    Args:
        features: float32 [clips, features, frames], as the model sees them.
        lengths: int64 [clips], frames of each clip; what lies behind is padding and does not count.
    """
    frames = torch.arange(features.shape[2], device=lengths.device)[None] < lengths[:, None]
    values = features.transpose(1, 2)[frames]
    return float(values.mean()), float(values.std())


def as_table(planned: TransferMap) -> str:
    """The map as a person reads it: a line for each module, then what differs."""
    outcomes = ("copied", "salvaged", "fresh", "mismatched")
    header = f"{'':20}" + "".join(f"{outcome:>21}" for outcome in outcomes)
    lines = [f"start from {planned.source} (tensors, parameters)", header]
    for module, row in planned.table().items():
        cells = (row.get(outcome, [0, 0]) for outcome in outcomes)
        lines.append(f"{module:20}" + "".join(f"{n:>8,} {p:>12,}" if n else f"{'-':>21}" for n, p in cells))
    lines += [
        f"  {'warning: ' if finding.severity == 'warning' else ''}{finding.message}"
        for finding in planned.differences
    ]
    lines.append(f"{planned.encoder_share:.1%} of the encoder and {planned.share:.1%} of the model arrived")
    return "\n".join(lines)


def _running_statistics(model: EncDecHybridRNNTCTCBPEModel) -> dict[str, Tensor]:
    """Of our batch norms: without them their copied scales would mean nothing."""
    return {name: buffer for name, buffer in model.named_buffers() if name.endswith(RUNNING)}


def _fold_level(weight: Tensor, bias: Tensor, mean: float, deviation: float) -> None:
    """Let a convolution [C, 1, 3, 3] for (x - mean) / deviation take x itself; borders excepted.

    In the same trial outputs on raw features correlate with the source's at 0.97 to 0.98 instead of 0.62 to
    0.75 (about the means 0.45 to 0.50 instead of 0.14 to 0.32).
    """
    bias.sub_(weight.sum(dim=(1, 2, 3)) * (mean / deviation))
    weight.div_(deviation)


def _shift_bins(target: Tensor, source: Tensor, channels: int) -> None:
    """Causal padding gives one frequency bin more, at the low end: it starts at zero, the others move up.

    On recitations, through eight draws of random full-size weights, the outputs correlate with the source's
    at 0.984 to 0.990, without the shift at 0.972 to 0.982, and at 0.95 where that bin stays as drawn. Most of
    this are the channels' means: about them it is 0.60 to 0.68, without the shift 0.31 to 0.41.

    target [D, channels x (F + 1)], source [D, channels x F].
    """
    width = target.shape[0]
    spread = target.view(width, channels, -1)
    spread[:, :, 0] = 0.0
    spread[:, :, 1:] = source.view(width, channels, -1)


def _fitting_recipe(config: Mapping[str, Any]) -> str:
    """What a model of ours was trained with is known; other models are large."""
    recipe = (config.get("quran") or {}).get("recipe")
    if recipe in SHIPPED:
        return f"use the recipe that it was trained with, `{recipe}`"
    return "use a recipe of the same size (`transfer` for the -large models)"


def _largest_obstacle(planned: TransferMap) -> str:
    lost = [t for t in planned.tensors if t.name.startswith("encoder.") and t.arrived < t.parameters]
    worst = max(lost, key=lambda tensor: tensor.parameters - tensor.arrived)
    return f"{len(lost)} tensors do not fit, e.g. {worst.name} ({worst.reason})"
