"""The exact transducer loss through NeMo's joint: fast on a CPU, in memory that does not grow with the batch.

`transducer_lattice.py` sums over the alignments. What is left is the joint network, which makes a row of
logits for each cell of each clip's lattice: most of the work, by far. `transducer_joint.py` makes rows for
cells inside the lattices only, block by block, so that few exist at a time. They are needed twice: for the
log-probabilities of the arcs, and, once all of a clip's are known, for the gradient. Where all rows of a
batch fit into a budget they are kept in between. Where they do not, they are made again, and what is kept is
the normaliser of each row and what flows through its two arcs. Cells through which too little flows to count
in the sums of gradients are left out of them. The more a model has learned, the more these are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from quran_asr.errors import QuranAsrError
from quran_asr.training.loss.engine import ENGINES, Engine
from quran_asr.training.loss.joint import Masks, OutputLayer, Rows, Sums
from quran_asr.training.loss.lattice import CELL_BYTES, Cells, Lengths, accumulator, check_targets, sent

TILE_BYTES = {"cpu": 8 << 20, "cuda": 128 << 20}
"""For the lattices of the clips that are evaluated at a time, or for what another joint makes of them."""
KEPT_BYTES = {"cpu": 32 << 20, "cuda": 128 << 20}
"""For logits that are kept for the gradient. A batch with more has them made again."""
_ANY_JOINT_CELL_BYTES = 4 * 1024
"""Logits of a cell of a joint that is only called: 1,024 classes in float32."""


def transducer_loss(
    encoder: Tensor,
    prediction: Tensor,
    joint: Callable[[Tensor, Tensor], Tensor],
    targets: Tensor,
    frames: Tensor,
    labels: Tensor,
    *,
    fastemit_lambda: float = 0.0,
    tile_clips: int | None = None,
    engine: str = "torch",
) -> Tensor:
    """Minus the log-probability of each clip's labels, summed over all alignments, in nats.

    NeMo's `RNNTJoint` is taken apart: its projections run once, and with its usual ReLU its output layer is
    evaluated as described above; its `log_softmax` setting does not matter then. A joint of NeMo's with
    another activation, adapters or a subclass's changes is called as `joint_after_projection`, anything else
    as `joint(encoder, prediction)`, tile by tile. Both may return logits or log-probabilities. Logits are
    cheaper: what is normalised already is normalised once more, with the same result.

    Gradients reach `encoder`, `prediction` and the parameters of `joint`, once (no second derivatives).
    Padding has no influence, whatever it holds. Half precision and autocast are computed as given up to the
    logits, and from there in float32 or better. Dropout in the joint is rounded to a multiple of 1/65536. A
    clip that no path can produce has the loss inf and gradients NaN.

    Args:
        encoder: output of the encoder, [B, T, D]. NeMo's encoder gives [B, D, T]: transpose it first.
        prediction: output of the prediction network after 0 to U labels, [B, U + 1, P]; transposed likewise.
        joint: maps [b, T, D] and [b, U + 1, P] to [b, T, U + 1, V + 1]; blank is the last class.
        targets: label numbers below V, integers [B, U].
        frames: how many of the T frames each clip has, integers [B], at least 1. They are read: on the CPU
            nothing waits for them, whatever the device of the rest.
        labels: how many of the U labels each clip has, integers [B], may be 0; likewise.
        fastemit_lambda: weight of FastEmit. It changes the gradients only, never the value.
        tile_clips: most clips that are evaluated at a time. A tile also ends where its lattices, or the
            logits of another joint than the ReLU one, would need more than `TILE_BYTES`; a clip alone may.
            Such another joint is evaluated again in the backward pass if there are several tiles.
        engine: one of `ENGINES`: `torch`, or `triton` on a GPU.

    Returns:
        The loss of each clip, [B], float32 (float64 where `encoder` is float64).

    Raises:
        QuranAsrError: shapes that do not fit, an unknown engine, or the number of the first clip whose
            frames, labels or targets are out of range.
    """
    if engine not in ENGINES:
        raise QuranAsrError(f"unknown transducer loss engine `{engine}`", remedy=f"use {', '.join(ENGINES)}")
    steps = ENGINES[engine]()
    if tile_clips is not None and tile_clips < 1:
        raise QuranAsrError(
            f"a tile holds at least one clip, not {tile_clips}",
            remedy="set model.joint.fused_batch_size, `tile_clips` here, to 1 or more",
        )
    three = encoder.dim() == prediction.dim() == 3 and len(encoder) == len(prediction)
    if not three or targets.shape != (len(encoder), prediction.shape[1] - 1):
        given = ", ".join(str(list(one.shape)) for one in (encoder, prediction, targets))
        raise QuranAsrError(
            f"{given} do not fit together as [B, T, D], [B, U + 1, P] and [B, U]",
            remedy="give `prediction` one place more than `targets`, for the same B clips",
        )
    lengths = Lengths.checked(frames, labels, encoder.shape[:2], targets.shape[1], fastemit_lambda)

    too_late = torch.arange(encoder.shape[1]) >= lengths.frames[:, None]
    too_far = torch.arange(prediction.shape[1]) > lengths.labels[:, None]
    too_late, too_far = sent(too_late, encoder.device), sent(too_far, encoder.device)
    encoder = encoder.masked_fill(too_late[..., None], 0)
    prediction = prediction.masked_fill(too_far[..., None], 0)
    targets = targets.to(encoder.device, torch.int64).masked_fill(too_far[:, 1:], 0)

    relu = None
    if hasattr(joint, "joint_after_projection"):
        projected: Any = joint
        encoder, prediction = projected.project_encoder(encoder), projected.project_prednet(prediction)
        joint, relu = projected.joint_after_projection, _relu_joint(projected)
    room = _budget(TILE_BYTES, encoder.device)
    clips = tile_clips or len(encoder)
    if relu is not None:
        dropout, linear = relu
        check_targets(targets, linear.out_features - 1)
        tiles = lengths.tiles(clips, room // CELL_BYTES)
        seed = (
            int(torch.randint(2**62, ()).numpy()) if dropout else 0
        )  # from the generator that checkpoints know
        options = _Options(steps, fastemit_lambda, dropout, seed, tiles, torch.is_grad_enabled())
        loss: Tensor = _ReluJointLoss.apply(  # type: ignore[no-untyped-call]
            encoder, prediction, linear.weight, linear.bias, targets, lengths, options
        )
        return loss

    losses = []
    tiles = lengths.tiles(clips, room // _ANY_JOINT_CELL_BYTES)
    for tile in tiles:
        part = lengths[tile]
        most_frames, most_labels = max(part.frame_counts), max(part.label_counts)
        outputs = encoder[tile, :most_frames], prediction[tile, : most_labels + 1]
        task = (joint, *outputs, targets[tile, :most_labels], part, fastemit_lambda, steps)
        if len(tiles) > 1 and torch.is_grad_enabled():
            losses.append(checkpoint(_any_joint_loss, *task, use_reentrant=False, preserve_rng_state=True))
        else:
            losses.append(_any_joint_loss(*task))
    return torch.cat(losses)


def _any_joint_loss(
    joint: Callable[[Tensor, Tensor], Tensor],
    encoder: Tensor,
    prediction: Tensor,
    targets: Tensor,
    lengths: Lengths,
    fastemit_lambda: float,
    engine: Engine,
) -> Tensor:
    """Loss [b] of one tile through any joint: autograd differentiates the joint, and only that."""
    logits = joint(encoder, prediction)
    expected = [*encoder.shape[:2], prediction.shape[1]]
    if logits.dim() != 4 or list(logits.shape[:3]) != expected:
        raise QuranAsrError(
            f"the joint gave {list(logits.shape)} instead of {[*expected, 'V + 1']}",
            remedy="give a joint that returns [b, T, U + 1, V + 1], blank last",
        )
    check_targets(targets, logits.shape[3] - 1)
    cells = Cells.of(lengths, logits.device)
    rows = logits[cells.clip, cells.frame, cells.emitted]
    options = (engine, fastemit_lambda, torch.is_grad_enabled())
    loss: Tensor = _RowsLoss.apply(  # type: ignore[no-untyped-call]
        rows, cells.next_label(targets), cells, *options
    )
    return loss


class _RowsLoss(torch.autograd.Function):
    """Loss [b] from the logits [N, V + 1] of a tile's cells."""

    @staticmethod
    def forward(
        ctx: Any,
        rows: Tensor,
        following: Tensor,
        cells: Cells,
        engine: Engine,
        fastemit_lambda: float,
        gradient: bool,
    ) -> Tensor:
        scores = rows.new_empty((3, len(rows)), dtype=accumulator(rows.dtype))
        engine.score(rows, following, rows.shape[1] - 1, scores)
        likelihood, *arcs = engine.sum_paths(scores[0], scores[1], cells, gradient)
        ctx.engine, ctx.fastemit_lambda = engine, fastemit_lambda
        ctx.save_for_backward(rows, following, cells.clip, scores[2], *arcs)
        return (-likelihood).to(scores.dtype)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        rows, following, clip, normaliser, *occupancies = ctx.saved_tensors
        flow = _flow(occupancies, upstream[0], clip, ctx.fastemit_lambda, normaliser.dtype)
        found = ctx.engine.differentiate(rows.clone(), following, rows.shape[1] - 1, normaliser, flow)
        return found, None, None, None, None, None


def _flow(
    occupancies: Sequence[Tensor], upstream: Tensor, clip: Tensor, fastemit_lambda: float, kind: torch.dtype
) -> tuple[Tensor, Tensor]:
    """What the gradient [B] of the losses sends through blanks and labels, [N] each.

    FastEmit multiplies it by 1 + lambda in the labels' arcs.
    """
    blanks, label_arcs = occupancies
    each = upstream[clip].to(blanks.dtype)
    return (each * blanks).to(kind), (each * label_arcs * (1 + fastemit_lambda)).to(kind)


def _budget(budgets: dict[str, int], device: torch.device) -> int:
    """Bytes on this device; an unknown one counts as a GPU."""
    return budgets.get(device.type, budgets["cuda"])


def _relu_joint(joint: Any) -> tuple[float, nn.Linear] | None:
    """Dropout and output layer of NeMo's joint if all it does is add, ReLU, drop and multiply."""
    method = getattr(type(joint).joint_after_projection, "__qualname__", "")
    layers = list(getattr(joint, "joint_net", ()))
    if method != "RNNTJoint.joint_after_projection" or len(layers) not in (2, 3):
        return None
    # Dropout may be a subclass: on a CPU a faster one stands in for torch's.
    if type(layers[0]) is not nn.ReLU or type(layers[-1]) is not nn.Linear:
        return None
    if len(layers) == 3 and not isinstance(layers[1], nn.Dropout):
        return None
    masks = joint.training and joint.masking_prob > 0
    if masks or joint.is_adapter_available() or joint.temperature != 1 or joint.num_extra_outputs:
        return None
    dropout = layers[1].p if len(layers) == 3 and layers[1].training else 0.0
    return (dropout, layers[-1]) if dropout < 1 else None


@dataclass(frozen=True, slots=True)
class _Options:
    """Arguments of `_ReluJointLoss` besides tensors."""

    engine: Engine
    fastemit_lambda: float
    dropout: float
    """Share of the hidden values that is dropped, below 1; 0 outside training."""
    seed: int
    """Of dropout's masks."""
    tiles: list[slice]
    """Clips that are evaluated at a time."""
    gradient: bool


class _ReluJointLoss(torch.autograd.Function):
    """Loss [B] from projected outputs and the parameters of ReLU, dropout and one linear layer."""

    @staticmethod
    def forward(
        ctx: Any,
        encoder: Tensor,
        prediction: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        lengths: Lengths,
        options: _Options,
    ) -> Tensor:
        device = encoder.device.type
        kind = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else encoder.dtype
        if kind == torch.float16:
            kind = torch.float32  # float16 would lose small gradients: the loss scale comes only later.
        layer = OutputLayer.of(weight, bias, kind, options.dropout, options.seed)
        bytes_of_logits = sum(lengths.cell_counts) * layer.bias.nbytes
        keep = options.gradient and bytes_of_logits <= _budget(KEPT_BYTES, encoder.device)
        masks, losses, known = Masks(layer), [], []
        with torch.autocast(device, enabled=False):
            for tile in options.tiles:
                rows = _rows(encoder[tile], prediction[tile], layer, targets[tile], lengths[tile], options)
                scores = encoder.new_empty((3, len(rows.following)), dtype=accumulator(kind))
                kept = rows.encoder.new_empty((scores.shape[1], len(layer.bias))) if keep else None
                for block in rows.blocks():
                    logits = rows.logits(block, masks, None if kept is None else kept[block])
                    options.engine.score(logits, rows.following[block], layer.blank, scores[:, block])
                likelihood, blanks, label_arcs = options.engine.sum_paths(
                    scores[0], scores[1], rows.cells, options.gradient
                )
                losses.append((-likelihood).to(scores.dtype))
                if blanks is not None and label_arcs is not None:
                    scores[0], scores[1] = blanks, label_arcs
                    known += [scores, kept]
        ctx.lengths, ctx.options, ctx.kind = lengths, options, kind
        ctx.save_for_backward(encoder, prediction, weight, bias, targets, *known)
        return torch.cat(losses)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        encoder, prediction, weight, bias, targets, *known = ctx.saved_tensors
        options, lengths = ctx.options, ctx.lengths
        with torch.autocast(encoder.device.type, enabled=False):
            layer = OutputLayer.of(weight, bias, ctx.kind, options.dropout, options.seed)
            masks, sums = Masks(layer), Sums.zeros(encoder, prediction, layer)
            for tile, scores, logits in zip(options.tiles, known[::2], known[1::2], strict=True):
                blanks, label_arcs, normaliser = scores
                rows = _rows(encoder[tile], prediction[tile], layer, targets[tile], lengths[tile], options)
                # The entries of a row's gradient sum to at most twice what flows through the cell, and that
                # sums to T + U over a clip. So what is left out of a lattice of 10,000 cells is below 2e-5 in
                # float32, which is less than one rounding of that sum. NaN stays in.
                counted = ~(blanks + label_arcs < torch.finfo(blanks.dtype).eps / 128)
                flow = _flow(
                    (blanks, label_arcs),
                    upstream[0][tile],
                    rows.cells.clip,
                    options.fastemit_lambda,
                    normaliser.dtype,
                )
                rows.add_gradients(masks, normaliser, flow, counted, logits, sums.of(tile))
        found = (
            sums.encoder.to(encoder.dtype),
            sums.prediction.to(prediction.dtype),
            (sums.weight[: len(weight)] / layer.scale).to(weight.dtype),
            None if bias is None else sums.bias[: len(bias)].to(bias.dtype),
        )
        return (*found, None, None, None)


def _rows(
    encoder: Tensor,
    prediction: Tensor,
    layer: OutputLayer,
    targets: Tensor,
    lengths: Lengths,
    options: _Options,
) -> Rows:
    """The rows of one tile."""
    cells = Cells.of(lengths, encoder.device)
    kind = layer.weight.dtype
    return Rows(
        encoder.to(kind), prediction.to(kind), layer, cells, cells.next_label(targets), options.engine
    )
