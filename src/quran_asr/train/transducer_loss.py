"""The exact transducer loss through NeMo's joint, fast enough to train with on a CPU.

`transducer_lattice.py` sums over the alignments. What is left is the joint network, which makes a row of
logits for each cell of each clip's lattice: most of the work, by far. What makes it fast, and small:

- Rows are made for cells inside the lattices only, never for padding, and block by block in the same buffers:
  a block stays in a CPU's cache. Rows of a small tile are remembered, those of a large one are made twice.
- The gradient is formed in the forward pass, for an upstream gradient of 1, and scaled in the backward pass.
  Autograd keeps nothing in between, and dropout draws its mask once.
- Cells whose occupancy is too small to count in the sums of gradients are left out of them. The more a model
  has learned, the more these are.
- The vocabulary is padded to a multiple of eight: products with 257 columns are up to three times slower.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from quran_asr.findings import QuranAsrError
from quran_asr.train.transducer_lattice import (
    Cells,
    Lengths,
    accumulator,
    cell_loss,
    check_targets,
    occupancies,
)

ENGINES = ("torch",)
"""The implementations that `transducer_loss` can be asked for."""
_CACHED_LOGITS = 2**19
"""Logits of a block on a CPU: 2 MB in float32."""
_KNOWN_LOG_PROBS = 2**23
"""Up to so many log-probabilities of a tile are remembered for its gradient: 32 MB in float32."""


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
        encoder: what the encoder says, [B, T, D]. NeMo's encoder gives [B, D, T]: transpose it first.
        prediction: what the prediction network says after 0 to U labels, [B, U + 1, P]; transposed likewise.
        joint: maps [b, T, D] and [b, U + 1, P] to [b, T, U + 1, V + 1]; blank is the last class.
        targets: label numbers below V, integers [B, U].
        frames: how many of the T frames each clip has, integers [B], at least 1.
        labels: how many of the U labels each clip has, integers [B], may be 0.
        fastemit_lambda: weight of FastEmit. It changes the gradients only, never the value.
        tile_clips: clips that are evaluated at a time, which bounds the memory; None takes all at once. With
            another joint than the ReLU one, it is evaluated again in the backward pass.
        engine: one of `ENGINES`.

    Returns:
        The loss of each clip, [B], float32 (float64 where `encoder` is float64).

    Raises:
        QuranAsrError: shapes that do not fit, an unknown engine, or the number of the first clip whose
            frames, labels or targets are out of range.
    """
    if engine not in ENGINES:
        raise QuranAsrError(f"unknown transducer loss engine `{engine}`", remedy=f"use {', '.join(ENGINES)}")
    if tile_clips is not None and tile_clips < 1:
        raise QuranAsrError(f"a tile holds at least one clip, not {tile_clips}")
    three = encoder.dim() == prediction.dim() == 3 and len(encoder) == len(prediction)
    if not three or targets.shape != (len(encoder), prediction.shape[1] - 1):
        given = ", ".join(str(list(one.shape)) for one in (encoder, prediction, targets))
        raise QuranAsrError(f"{given} do not fit together as [B, T, D], [B, U + 1, P] and [B, U]")
    lengths = Lengths.checked(frames, labels, encoder.shape[:2], targets.shape[1], fastemit_lambda)

    too_late = torch.arange(encoder.shape[1]) >= lengths.frames[:, None]
    too_far = (torch.arange(prediction.shape[1]) > lengths.labels[:, None]).to(encoder.device)
    encoder = encoder.masked_fill(too_late[..., None].to(encoder.device), 0)
    prediction = prediction.masked_fill(too_far[..., None], 0)
    targets = targets.to(encoder.device, torch.int64).masked_fill(too_far[:, 1:], 0)

    relu = None
    if hasattr(joint, "joint_after_projection"):
        projected: Any = joint
        encoder, prediction = projected.project_encoder(encoder), projected.project_prednet(prediction)
        joint, relu = projected.joint_after_projection, _relu_joint(projected)
    clips = tile_clips or len(encoder)
    if relu is not None:
        dropout, linear = relu
        check_targets(targets, linear.out_features - 1)
        options = _Options(fastemit_lambda, dropout, clips, torch.is_grad_enabled())
        loss: Tensor = _ReluJointLoss.apply(  # type: ignore[no-untyped-call]
            encoder, prediction, linear.weight, linear.bias, targets, lengths, options
        )
        return loss

    losses = []
    for tile in lengths.tiles(clips):
        part = lengths[tile]
        most_frames, most_labels = max(part.frame_counts), max(part.label_counts)
        outputs = encoder[tile, :most_frames], prediction[tile, : most_labels + 1]
        task = (joint, *outputs, targets[tile, :most_labels], part, fastemit_lambda)
        if clips < len(encoder) and torch.is_grad_enabled():
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
) -> Tensor:
    """Loss [b] of one tile through any joint: autograd differentiates all but the lattice."""
    logits = joint(encoder, prediction)
    expected = [*encoder.shape[:2], prediction.shape[1]]
    if logits.dim() != 4 or list(logits.shape[:3]) != expected:
        raise QuranAsrError(f"the joint gave {list(logits.shape)} instead of {[*expected, 'V + 1']}")
    check_targets(targets, logits.shape[3] - 1)
    cells = Cells.of(lengths, logits.device)
    rows = logits[cells.clip, cells.frame, cells.said]
    with torch.autocast(logits.device.type, enabled=False):
        log_probs = rows.log_softmax(-1, dtype=accumulator(rows.dtype))
        label = log_probs.gather(1, cells.next_label(targets)[:, None])[:, 0]
        return cell_loss(log_probs[:, -1], label, cells, fastemit_lambda)


def _relu_joint(joint: Any) -> tuple[float, nn.Linear] | None:
    """Dropout and output layer of NeMo's joint if all it does is add, ReLU, drop and multiply."""
    method = getattr(type(joint).joint_after_projection, "__qualname__", "")
    layers = list(getattr(joint, "joint_net", ()))
    kinds = [type(layer) for layer in layers]
    if method != "RNNTJoint.joint_after_projection":
        return None
    if kinds not in ([nn.ReLU, nn.Linear], [nn.ReLU, nn.Dropout, nn.Linear]):
        return None
    masks = joint.training and joint.masking_prob > 0
    if masks or joint.is_adapter_available() or joint.temperature != 1 or joint.num_extra_outputs:
        return None
    dropout = layers[1].p if len(layers) == 3 and layers[1].training else 0.0
    return (dropout, layers[-1]) if dropout < 1 else None


@dataclass(frozen=True, slots=True)
class _Options:
    """What `_ReluJointLoss` is told beside tensors."""

    fastemit_lambda: float
    dropout: float
    """Share of the hidden values that is dropped, below 1; 0 outside training."""
    tile_clips: int
    gradient: bool


class _ReluJointLoss(torch.autograd.Function):
    """Loss [B] from projected outputs and the parameters of ReLU, dropout and one linear layer.

    The gradient of any weighted sum of the clips' losses is the weighted sum of their gradients, so those are
    formed before the weights are known: that is why weight and bias have a gradient for each clip.
    """

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
        ctx.kinds = [None if one is None else one.dtype for one in (encoder, prediction, weight, bias)]
        ctx.classes = weight.shape[0]
        with torch.autocast(device, enabled=False):
            layer = _OutputLayer.of(weight, bias, kind, options.dropout)
            gradients = _Gradients.zeros(encoder, prediction, layer) if options.gradient else None
            losses = []
            for tile in lengths.tiles(options.tile_clips):
                part = None if gradients is None else gradients[tile]
                outputs = encoder[tile].to(kind), prediction[tile].to(kind)
                losses.append(
                    _tile_loss(*outputs, layer, targets[tile], lengths[tile], options.fastemit_lambda, part)
                )
        if gradients is not None:
            ctx.save_for_backward(gradients.encoder, gradients.prediction, gradients.weight, gradients.bias)
        return torch.cat(losses)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        encoder, prediction, weight, bias = ctx.saved_tensors
        each = upstream[0].to(encoder.dtype)
        encoder, prediction = encoder * each[:, None, None], prediction * each[:, None, None]
        weight = torch.tensordot(each, weight, dims=1)[: ctx.classes]
        bias = (each @ bias)[: ctx.classes]
        found = zip((encoder, prediction, weight, bias), ctx.kinds, strict=True)
        return (*(None if kind is None else gradient.to(kind) for gradient, kind in found), None, None, None)


@dataclass(frozen=True, slots=True)
class _OutputLayer:
    """The linear layer at the end of the joint, padded to V' classes, and the dropout before it."""

    weight: Tensor
    """[V', H], already divided by 1 - dropout, so that hidden values need not be."""
    bias: Tensor
    """[V'], -inf for the classes that are padding: their probability and gradient are 0."""
    blank: int
    dropped: int
    """Of 65,536 hidden values this many are dropped."""

    @classmethod
    def of(cls, weight: Tensor, bias: Tensor | None, kind: torch.dtype, dropout: float) -> _OutputLayer:
        """Pad weight [V + 1, H] and bias [V + 1] and convert them to `kind`."""
        dropped = round(dropout * 65536)
        spare = -weight.shape[0] % 8
        bias = weight.new_zeros(weight.shape[0]) if bias is None else bias
        return cls(
            functional.pad(weight / (1 - dropped / 65536), (0, 0, 0, spare)).to(kind),
            functional.pad(bias, (0, spare), value=-torch.inf).to(kind),
            weight.shape[0] - 1,
            dropped,
        )

    def kept(self, cells: int) -> Tensor | None:
        """Which hidden values dropout keeps, [cells, H]; None without dropout.

        Sixteen random bits a value, drawn four at a time: ten times faster on a CPU than `bernoulli_`.
        """
        if not self.dropped:
            return None
        values = cells * self.weight.shape[1]
        bits = torch.empty(-(-values // 4), dtype=torch.int64, device=self.weight.device).random_(
            -(2**63), None
        )
        return (bits.view(torch.int16)[:values] >= self.dropped - 32768).view(cells, -1)


@dataclass(frozen=True, slots=True)
class _Gradients:
    """Sums of the gradients of each clip's loss, float32 or better."""

    encoder: Tensor
    """[B, T, H]"""
    prediction: Tensor
    """[B, U + 1, H]"""
    weight: Tensor
    """[B, V', H]"""
    bias: Tensor
    """[B, V']"""

    @classmethod
    def zeros(cls, encoder: Tensor, prediction: Tensor, layer: _OutputLayer) -> _Gradients:
        """Nothing summed yet."""
        exact = accumulator(layer.weight.dtype)
        weight = layer.weight.new_zeros((len(encoder), *layer.weight.shape), dtype=exact)
        return cls(
            torch.zeros_like(encoder, dtype=exact),
            torch.zeros_like(prediction, dtype=exact),
            weight,
            torch.zeros_like(weight[..., 0]),
        )

    def __getitem__(self, clips: slice) -> _Gradients:
        return _Gradients(self.encoder[clips], self.prediction[clips], self.weight[clips], self.bias[clips])


class _Rows:
    """Makes rows of hidden values and of logits for cells of one tile, always in the same memory."""

    def __init__(
        self, encoder: Tensor, prediction: Tensor, layer: _OutputLayer, cells: Cells, remember: bool
    ) -> None:
        self.layer = layer
        self.encoder, self.prediction = encoder.flatten(0, 1), prediction.flatten(0, 1)
        self.frame = cells.clip * encoder.shape[1] + cells.frame
        self.said = cells.clip * prediction.shape[1] + cells.said
        self.kept = layer.kept(len(cells.clip))
        (classes, width), most = layer.weight.shape, len(cells.clip)
        self.size = min(most, max(64, _CACHED_LOGITS // classes)) if encoder.device.type == "cpu" else most
        self.values, self.spare = encoder.new_empty((2, self.size, width))
        self.logits = encoder.new_empty((self.size, classes))
        self.room = encoder.new_empty((self.size, classes), dtype=accumulator(encoder.dtype))
        remember &= most * classes <= _KNOWN_LOG_PROBS
        self.known = self.room.new_empty((most, classes)) if remember else None

    def hidden(self, which: Tensor) -> Tensor:
        """Hidden values [n, H] of the cells `which` [n]."""
        hidden = torch.index_select(self.encoder, 0, self.frame[which], out=self.values[: len(which)])
        hidden += torch.index_select(self.prediction, 0, self.said[which], out=self.spare[: len(which)])
        hidden.relu_()
        if self.kept is not None:
            hidden *= self.kept.index_select(0, which)
        return hidden

    def log_probs(self, hidden: Tensor, room: Tensor) -> Tensor:
        """Log-probabilities [n, V'] of n cells, written into `room`."""
        weight = self.layer.weight.t()
        logits = torch.addmm(self.layer.bias, hidden, weight, out=self.logits[: len(hidden)])
        return torch.log_softmax(logits, -1, dtype=room.dtype, out=room)

    def probabilities(self, which: Tensor, hidden: Tensor) -> Tensor:
        """Probabilities [n, V'] of the cells `which` [n], once their log-probabilities have been made."""
        room = self.room[: len(which)]
        if self.known is None:
            return self.log_probs(hidden, room).exp_()
        return torch.index_select(self.known, 0, which, out=room).exp_()


def _tile_loss(
    encoder: Tensor,
    prediction: Tensor,
    layer: _OutputLayer,
    targets: Tensor,
    lengths: Lengths,
    fastemit_lambda: float,
    gradients: _Gradients | None,
) -> Tensor:
    """Loss [b] of one tile from projected outputs [b, T, H] and [b, U + 1, H]; adds to its `gradients`."""
    cells = Cells.of(lengths, encoder.device)
    rows = _Rows(encoder, prediction, layer, cells, remember=gradients is not None)
    following = cells.next_label(targets)[:, None]
    arcs = rows.room.new_empty((len(cells.clip), 2))
    for which in torch.split(torch.arange(len(arcs), device=encoder.device), rows.size):
        block = slice(int(which[0]), int(which[-1]) + 1)
        room = rows.room[: len(which)] if rows.known is None else rows.known[block]
        log_probs = rows.log_probs(rows.hidden(which), room)
        arcs[block, :1] = log_probs[:, layer.blank, None]
        arcs[block, 1:] = log_probs.gather(1, following[block])

    likelihood, blanks, said = occupancies(arcs[:, 0], arcs[:, 1], cells, gradients is not None)
    if gradients is not None and blanks is not None and said is not None:
        said = said * (1 + fastemit_lambda)
        _add_gradients(rows, blanks.to(arcs.dtype), said.to(arcs.dtype), cells.clip, following, gradients)
    return (-likelihood).to(arcs.dtype)


def _add_gradients(
    rows: _Rows, blanks: Tensor, said: Tensor, clip: Tensor, following: Tensor, gradients: _Gradients
) -> None:
    """Add the gradients of the cells' rows, given what flows through their arcs, [N] each.

    The gradient of a row of logits is softmax * (blanks + said) - the arcs. Its entries sum to at most twice
    the cell's occupancy, and the occupancies of a clip sum to T + U. So what is left out of a lattice of
    10,000 cells is below 2e-5 in float32, which is less than one rounding of that sum. NaN stays in.
    """
    layer, occupancy = rows.layer, blanks + said
    scale = 1 - layer.dropped / 65536
    counted = ~(occupancy < torch.finfo(occupancy.dtype).eps / 128)
    into_encoder, into_prediction = gradients.encoder.flatten(0, 1), gradients.prediction.flatten(0, 1)
    for which in torch.split(counted.nonzero()[:, 0], rows.size):
        hidden = rows.hidden(which)
        of_logits = rows.probabilities(which, hidden).mul_(occupancy[which, None])
        of_logits[:, layer.blank] -= blanks[which]
        of_logits.scatter_add_(1, following[which], -said[which, None])

        narrow, first = of_logits.to(hidden.dtype), 0
        for number, count in enumerate(torch.bincount(clip[which]).tolist()):
            part = slice(first, first + count)
            if count:
                gradients.weight[number] += (narrow[part].t() @ hidden[part]) / scale
                gradients.bias[number] += of_logits[part].sum(0)
            first += count

        # A value that ReLU or dropout has set to zero passes nothing on.
        of_hidden = torch.mm(narrow, layer.weight, out=rows.spare[: len(which)])
        torch.ops.aten.threshold_backward.grad_input(of_hidden, hidden, 0, grad_input=of_hidden)
        into_encoder.index_add_(0, rows.frame[which], of_hidden.to(into_encoder.dtype))
        into_prediction.index_add_(0, rows.said[which], of_hidden.to(into_prediction.dtype))
