"""Starts a model from a trained one, tensor by tensor, as the transfer map says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from quran_asr.findings import QuranAsrError
from quran_asr.runs.architecture import of_nemo, of_recipe
from quran_asr.runs.schema import Recipe
from quran_asr.runs.transfer_map import LEAST_ENCODER_SHARE, Side, TransferMap, transfer_map
from quran_asr.train.model import EncDecHybridRNNTCTCBPEModel


@torch.no_grad()
def transfer(
    model: EncDecHybridRNNTCTCBPEModel,
    recipe: Recipe,
    config: Mapping[str, Any],
    weights: Mapping[str, Tensor],
    pieces: Sequence[str] | None,
    name: str,
    *,
    allow_partial: bool = False,
) -> TransferMap:
    """Copy what fits of another model's weights into ours; nothing is written when it refuses.

    Args:
        model: ours, built with our vocabulary; changed in place.
        recipe: what it was built from.
        config: the other model's `model_config.yaml`, plain values.
        weights: its state dict.
        pieces: its tokens without the blank; None if it has no subwords.
        name: what to call it.
        allow_partial: start even with little of the encoder.

    Raises:
        QuranAsrError: less than 90 % of our encoder's parameters would arrive.
    """
    parameters = dict(model.named_parameters())
    vocabulary = tuple(model.tokenizer.ids_to_tokens(range(model.tokenizer.vocab_size)))
    ours = Side(
        recipe.name,
        of_recipe(recipe.model, len(vocabulary)),
        {name: tuple(tensor.shape) for name, tensor in parameters.items()},
        vocabulary,
    )
    theirs = Side(
        name,
        of_nemo(config, len(pieces) if pieces is not None else 0, name),
        {key: tuple(tensor.shape) for key, tensor in weights.items() if not key.startswith("preprocessor.")},
        None if pieces is None else tuple(pieces),
    )
    planned = transfer_map(theirs, ours)
    if planned.encoder_share < LEAST_ENCODER_SHARE and not allow_partial:
        raise QuranAsrError(
            f"only {planned.encoder_share:.1%} of the encoder's parameters would arrive: "
            f"{_largest_obstacle(planned)}",
            where=f"init_from_pretrained_model={name}",
            remedy="use a recipe of the same size (`transfer` for the -large models), or --allow-partial to "
            "start with this little",
        )
    for tensor in planned.tensors:
        if tensor.how == "none" or tensor.source is None:
            continue
        target, source = parameters[tensor.name], weights[tensor.source].to(torch.float32)
        if tensor.how == "whole":
            target.copy_(source)
        elif tensor.how == "blank":
            target[-1].copy_(source[-1])
        else:
            _shift_bins(target, source, recipe.model.encoder.subsampling_conv_channels)
    return planned


def as_table(planned: TransferMap) -> str:
    """The map as a person reads it: a line for each module, then what differs."""
    outcomes = ("copied", "salvaged", "fresh", "mismatched")
    header = f"{'':20}" + "".join(f"{outcome:>21}" for outcome in outcomes)
    lines = [f"start from {planned.source} (tensors, parameters)", header]
    for module, row in planned.table().items():
        cells = (row.get(outcome, [0, 0]) for outcome in outcomes)
        lines.append(f"{module:20}" + "".join(f"{n:>8,} {p:>12,}" if n else f"{'-':>21}" for n, p in cells))
    lines += [f"  {finding.code}: {finding.message}" for finding in planned.differences]
    lines.append(f"{planned.encoder_share:.1%} of the encoder and {planned.share:.1%} of the model arrived")
    return "\n".join(lines)


def _shift_bins(target: Tensor, source: Tensor, channels: int) -> None:
    """Causal padding gives one frequency bin more, at the low end: it starts at zero, the others move up.

    target [D, channels x (F + 1)], source [D, channels x F].
    """
    width = target.shape[0]
    spread = target.view(width, channels, -1)
    spread[:, :, 0] = 0.0
    spread[:, :, 1:] = source.view(width, channels, -1)


def _largest_obstacle(planned: TransferMap) -> str:
    lost = [t for t in planned.tensors if t.name.startswith("encoder.") and t.arrived < t.parameters]
    worst = max(lost, key=lambda tensor: tensor.parameters - tensor.arrived)
    return f"{len(lost)} tensors do not fit, e.g. {worst.name} ({worst.reason})"
