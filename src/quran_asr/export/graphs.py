"""A trained hybrid as three ONNX graphs: encoder with CTC head, prediction, joint; float32 or int8.

The encoder is NeMo's cache-aware FastConformer written for inference, with the trained weights:

- The cache between chunks holds keys and values, not the layers' inputs: a chunk projects its own frames
  only, where NeMo projects the whole left context again for every chunk.
- Positions are projected once, when the graph is made.
- The subsampling gets real history only, and frames before the recording are zero after each of its
  convolutions, as they are for a whole file. So no frame is computed twice and none is dropped.
- Separate parameters of the training are folded: query, key and value are one product, factors and biases are
  in the matrices. All frames of all streams are rows of one matrix, which runtimes fuse best.
- The chunk (look-ahead + 1) is an input. A stream is processed one chunk at a time, a whole file many at
  once, with the same numbers.

`export` verifies equality with NeMo's whole-file pass before it writes (`verification.py`).
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
import torch.nn.functional as F
from onnx import helper, numpy_helper
from torch import Tensor, nn

from quran_asr.files import full_disk_named
from quran_asr.runtime.bundle import ENCODER, JOINT, PREDICTION, Shape
from quran_asr.runtime.sessions import UNKNOWN
from quran_asr.training.model import EncDecHybridRNNTCTCBPEModel

MASKED = -10_000.0
"""Added to scores that attention must not see, as in NeMo."""


def _before(index: Tensor, end: Tensor, axes: int) -> Tensor:
    """1.0 where 0 <= index < end, float32 [B, 1.., T, 1..]: index [B, T], end [B]; `axes` 3 or 4."""
    inside = ((index >= 0) & (index < end.unsqueeze(1))).float()
    return inside.unsqueeze(-1) if axes == 3 else inside.unsqueeze(1).unsqueeze(-1)


class Subsampling(nn.Module):
    """The causal convolutions: feature frames 8j - 14 .. 8j become encoder frame j."""

    def __init__(self, model: EncDecHybridRNNTCTCBPEModel) -> None:
        super().__init__()
        self.stages = model.encoder.pre_encode.conv
        out, scale = model.encoder.pre_encode.out, float(model.encoder.pos_enc.xscale or 1.0)
        self.out = _linear(scale * out.weight, scale * _bias(out))

    def forward(self, mels: Tensor, begin: Tensor, total: Tensor) -> Tensor:
        """[B, 8n + 7, mels] from feature frame 8 `begin` - 14 on, of `total` in all -> [B, n, width]."""
        index = 8 * begin.unsqueeze(1) - 14 + torch.arange(mels.size(1)).unsqueeze(0)
        end = total
        x = (mels * _before(index, end, 3)).unsqueeze(1)
        first = -14
        for stage in self.stages:
            if isinstance(stage, nn.Conv2d) and stage.stride[0] == 2:
                padding = (int(stage._left_padding), int(stage._right_padding))  # type: ignore[arg-type]
                x = F.pad(x, (*padding, 0, 0))  # frequency alone
                x = F.conv2d(x, stage.weight, stage.bias, stride=2, groups=stage.groups)
                first = (first + 2) // 2
                end = torch.div(end, 2, rounding_mode="floor") + 1
            elif isinstance(stage, nn.Conv2d):
                x = F.conv2d(x, stage.weight, stage.bias)
            else:
                x = stage(x)
                # zero after each stage, not only before the first, as NeMo's padding does
                per_frame = {-6: 4, -2: 2, 0: 1}[first]
                index = per_frame * begin.unsqueeze(1) + first + torch.arange(x.size(2)).unsqueeze(0)
                x = x * _before(index, end, 4)
        return self.out(x.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]


@dataclass(frozen=True, slots=True)
class Piece:
    """Values shared by all layers, computed once."""

    batch: int
    frames: int
    """n, of each stream"""
    left: int
    mask: Tensor
    """[B, 1, n, left + n], added to scores: 0 where a frame may look, MASKED elsewhere."""


class Attention(nn.Module):
    """Relative-position attention (Transformer-XL, 3.3) with cached keys and values.

    Query, key and value are one product without a bias. The query's is part of the two biases of
    relative attention; the key's adds a constant to all scores of a frame, which softmax removes; the value's
    is unchanged, since the weights sum to one, and is added after the output matrix.
    """

    def __init__(self, attention: Any, positions: Tensor) -> None:
        super().__init__()
        self.heads, self.size = attention.h, attention.d_k
        query, key, value = attention.linear_q, attention.linear_k, attention.linear_v
        scale = self.size**-0.5
        self.enter = _linear(torch.cat([scale * query.weight, key.weight, value.weight]))
        self.out = _linear(
            attention.linear_out.weight,
            _bias(attention.linear_out) + attention.linear_out.weight @ _bias(value),
        )
        own = _bias(query).view(self.heads, self.size)
        self.register_buffer("content_bias", scale * (attention.pos_bias_u + own).unsqueeze(1))
        self.register_buffer("position_bias", scale * (attention.pos_bias_v + own).unsqueeze(1))
        self.table: Tensor
        table = attention.linear_pos(positions).view(-1, self.heads, self.size)
        self.register_buffer("table", table.permute(1, 2, 0).contiguous())

    def forward(self, x: Tensor, piece: Piece, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """x [B n, width], keys and values [B, heads, left, size] -> [B n, width], new keys and values."""
        batch, n, left = piece.batch, piece.frames, piece.left
        split = self.enter(x).view(batch, n, 3 * self.heads, self.size).transpose(1, 2)
        query, key, value = split.split(self.heads, dim=1)
        content = torch.matmul(query + self.content_bias, torch.cat([keys, key], dim=2).transpose(2, 3))
        # The table holds distances 2 left - 1 .. -left; n frames need the middle of it.
        table = self.table[:, :, left - n : 2 * left + n]
        position = torch.matmul(query + self.position_bias, table)
        # Skewing: row i begins n - 1 - i further right, so rows one shorter begin where they should.
        width = left + 2 * n - 1
        position = position.view(batch, self.heads, n * (width + 1))[:, :, n - 1 : n - 1 + n * width]
        position = position.view(batch, self.heads, n, width)[:, :, :, : left + n]
        weights = torch.softmax(content + position + piece.mask, dim=-1)
        attended = torch.matmul(weights, torch.cat([values, value], dim=2))
        return self.out(attended.transpose(1, 2).reshape(-1, self.heads * self.size)), key, value


class Convolution(nn.Module):
    """The convolution module of a layer."""

    def __init__(self, convolution: Any) -> None:
        super().__init__()
        # Two products, where training has one that is split in two
        self.value, self.gate = _as_linears(convolution.pointwise_conv1, 2)
        (self.leave,) = _as_linears(convolution.pointwise_conv2, 1)
        self.norm = convolution.batch_norm
        depthwise = convolution.depthwise_conv
        self.taps: Tensor
        self.bias: Tensor | None
        self.register_buffer("taps", depthwise.weight.detach().unsqueeze(-1).clone())
        self.register_buffer("bias", None if depthwise.bias is None else depthwise.bias.detach().clone())

    def forward(self, x: Tensor, piece: Piece, kept: Tensor) -> tuple[Tensor, Tensor]:
        """x [B n, width], kept [B, kernel - 1, width] before -> [B n, width], the next cache."""
        width, before = self.taps.size(0), self.taps.size(2) - 1
        x = (self.value(x) * torch.sigmoid(self.gate(x))).view(piece.batch, piece.frames, width)
        x = torch.cat([kept, x], dim=1)
        # As an image one pixel wide: ONNX Runtime has a kernel for depthwise convolution in two dimensions,
        # channels last. As nine shifted products it took 3 to 8 times as long, in one dimension 5 to 40.
        image = x.unsqueeze(2).permute(0, 3, 1, 2)
        y = F.conv2d(image, self.taps, self.bias, groups=width).permute(0, 2, 3, 1).reshape(-1, width)
        return self.leave(F.silu(self.norm(y))), x[:, -before:]


class FeedForward(nn.Module):
    """Two products; the factor one half is part of the second."""

    def __init__(self, module: Any, factor: float) -> None:
        super().__init__()
        self.enter = module.linear1
        self.leave = _linear(factor * module.linear2.weight, factor * _bias(module.linear2))

    def forward(self, x: Tensor) -> Tensor:
        return self.leave(F.silu(self.enter(x)))  # type: ignore[no-any-return]


class Layer(nn.Module):
    """A Conformer layer, on the frames of all streams in one row: [B n, width]."""

    def __init__(self, layer: Any, positions: Tensor) -> None:
        super().__init__()
        self.norms = nn.ModuleList(
            [
                layer.norm_feed_forward1,
                layer.norm_self_att,
                layer.norm_conv,
                layer.norm_feed_forward2,
                layer.norm_out,
            ]
        )
        self.first = FeedForward(layer.feed_forward1, layer.fc_factor)
        self.attention = Attention(layer.self_attn, positions)
        self.convolution = Convolution(layer.conv)
        self.second = FeedForward(layer.feed_forward2, layer.fc_factor)

    def forward(
        self, x: Tensor, piece: Piece, keys: Tensor, values: Tensor, kept: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """x [B n, width] and a stream's keys, values and kept frames -> x, new keys and values, kept."""
        x = x + self.first(self.norms[0](x))
        attended, keys, values = self.attention(self.norms[1](x), piece, keys, values)
        x = x + attended
        convolved, kept = self.convolution(self.norms[2](x), piece, kept)
        x = x + convolved
        x = x + self.second(self.norms[3](x))
        return self.norms[4](x), keys, values, kept


class StreamingEncoder(nn.Module):
    """Encoder, CTC head and the joint's encoder input, for pieces of n frames (n a multiple of the chunk)."""

    def __init__(self, model: EncDecHybridRNNTCTCBPEModel, shape: Shape) -> None:
        super().__init__()
        encoder = model.encoder
        self.shape = shape
        self.subsampling = Subsampling(model)
        left = shape.left_frames
        encoder.pos_enc.extend_pe(2 * left, torch.device("cpu"), torch.float32)
        centre = encoder.pos_enc.pe.size(1) // 2
        positions = encoder.pos_enc.pe[0, centre - (2 * left - 1) : centre + left + 1]
        self.layers = nn.ModuleList(Layer(layer, positions) for layer in encoder.layers)
        self.joint = model.joint.enc
        (self.ctc,) = _as_linears(model.ctc_decoder.decoder_layers[0], 1)

    def forward(
        self,
        mels: Tensor,
        begin: Tensor,
        total: Tensor,
        chunk: Tensor,
        keys: Tensor,
        values: Tensor,
        kept: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """One chunk of each of B streams.

        Args:
            mels: float32 [B, 8n + 7, mels], feature frames 8 begin - 14 .. 8 (begin + n - 1).
            begin: int64 [B], encoder frames before this chunk; a multiple of its size.
            total: int64 [B], feature frames of the recording, or a huge number while it is not known.
            chunk: int64 [], look-ahead in frames + 1.
            keys, values: float32 [B, layers, heads, left, size].
            kept: float32 [B, layers, kernel - 1, width].

        Returns:
            The joint's encoder input [B, n, joint], CTC log-probabilities [B, n, vocabulary + 1], and the
            cache for the next chunk.
        """
        x = self.subsampling(mels, begin, total)
        batch, n = x.size(0), x.size(1)
        piece = Piece(batch, n, self.shape.left_frames, self._mask(n, begin, total, chunk))
        x = x.view(-1, self.shape.width)
        new_keys, new_values, next_kept = [], [], []
        for i, layer in enumerate(self.layers):
            x, key, value, frames = layer(x, piece, keys[:, i], values[:, i], kept[:, i])
            new_keys.append(key)
            new_values.append(value)
            next_kept.append(frames)
        shape = self.shape
        return (
            self.joint(x).view(batch, n, -1),
            torch.log_softmax(self.ctc(x), dim=-1).view(batch, n, -1),
            self._latest(keys, new_keys, n),
            self._latest(values, new_values, n),
            torch.cat(next_kept, dim=1).view(batch, shape.layers, shape.kernel - 1, shape.width),
        )

    def _latest(self, before: Tensor, new: list[Tensor], n: int) -> Tensor:
        """[B, layers, heads, left, size] from those before and each layer's new [B, heads, n, size]."""
        shape = self.shape
        added = torch.cat(new, dim=1).view(-1, shape.layers, shape.heads, n, shape.head_size)
        return torch.cat([before[:, :, :, n:], added], dim=3)

    def _mask(self, n: int, begin: Tensor, total: Tensor, chunk: Tensor) -> Tensor:
        """[B, 1, n, left + n]: 0 where a frame may look, MASKED elsewhere."""
        left = self.shape.left_frames
        frames = total
        for _ in range(3):
            frames = torch.div(frames, 2, rounding_mode="floor") + 1
        own = torch.arange(n).unsqueeze(1)
        other = torch.arange(left + n).unsqueeze(0) - left
        start = torch.div(own, chunk, rounding_mode="floor") * chunk
        reach = torch.div(left, chunk, rounding_mode="floor") * chunk
        seen = (other >= start - reach) & (other < start + chunk)
        place = begin.unsqueeze(1) + other
        there = (place >= 0) & (place < frames.unsqueeze(1))
        return (MASKED * (1.0 - (seen.unsqueeze(0) & there.unsqueeze(1)).float())).unsqueeze(1)


class Prediction(nn.Module):
    """A token and the LSTM's state in, the joint's prediction input and the next state out."""

    def __init__(self, model: EncDecHybridRNNTCTCBPEModel) -> None:
        super().__init__()
        self.embedding = model.decoder.prediction["embed"]
        self.lstm = model.decoder.prediction["dec_rnn"].lstm
        self.joint = model.joint.pred

    def forward(self, tokens: Tensor, hidden: Tensor, cell: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """tokens int64 [B], hidden and cell float32 [layers, B, width] -> [B, joint] and the next state."""
        output, (hidden, cell) = self.lstm(self.embedding(tokens).unsqueeze(0), (hidden, cell))
        return self.joint(output[0]), hidden, cell


class Joint(nn.Module):
    """Both inputs, projected, in; log-probabilities of the next token out."""

    def __init__(self, model: EncDecHybridRNNTCTCBPEModel) -> None:
        super().__init__()
        self.net = model.joint.joint_net

    def forward(self, encoded: Tensor, predicted: Tensor) -> Tensor:
        """[N, joint] and [N, joint] -> [N, vocabulary + 1], natural log, blank last."""
        return torch.log_softmax(self.net(encoded + predicted), dim=-1)


def _linear(weight: Tensor, bias: Tensor | None = None) -> nn.Linear:
    linear = nn.Linear(weight.size(1), weight.size(0), bias=bias is not None)
    linear.weight.data = weight.detach().clone()
    if bias is not None:
        linear.bias.data = bias.detach().clone()
    return linear


def _bias(linear: Any) -> Tensor:
    bias: Tensor | None = linear.bias
    return torch.zeros(linear.weight.size(0)) if bias is None else bias


def _as_linears(convolution: Any, parts: int) -> list[nn.Linear]:
    """A pointwise convolution as matrices, each for a part of its output."""
    weight, bias = convolution.weight.squeeze(-1), _bias(convolution)
    return [_linear(*part) for part in zip(weight.chunk(parts), bias.chunk(parts), strict=True)]


OPSET = 17
"""The first with layer normalisation as one operation; runtimes of 2022 and later read it."""


def write_graphs(model: EncDecHybridRNNTCTCBPEModel, shape: Shape, folder: Path) -> None:
    """Write encoder, prediction network and joint of a model in evaluation mode into a folder."""
    mels, frames = int(model.cfg.preprocessor.features), shape.look_aheads[0] + 1
    cache = torch.zeros(2, shape.layers, shape.heads, shape.left_frames, shape.head_size)
    write_graph(
        StreamingEncoder(model, shape),
        {
            "mels": torch.zeros(2, 8 * frames + 7, mels),
            "begin": torch.zeros(2, dtype=torch.int64),
            "total": torch.full((2,), UNKNOWN),
            "chunk": torch.tensor(frames),
            "keys": cache,
            "values": cache.clone(),
            "kept": torch.zeros(2, shape.layers, shape.kernel - 1, shape.width),
        },
        ("joint_encoded", "ctc", "next_keys", "next_values", "next_kept"),
        {
            "mels": {0: "batch", 1: "features"},
            "joint_encoded": {0: "batch", 1: "frames"},
            "ctc": {0: "batch", 1: "frames"},
        },
        folder / ENCODER,
    )
    state = torch.zeros(shape.prediction_layers, 2, shape.prediction_width)
    middle = {1: "batch"}
    write_graph(
        Prediction(model),
        {"tokens": torch.zeros(2, dtype=torch.int64), "hidden": state, "cell": state.clone()},
        ("predicted", "next_hidden", "next_cell"),
        {"hidden": middle, "cell": middle, "next_hidden": middle, "next_cell": middle},
        folder / PREDICTION,
    )
    inputs = torch.zeros(2, shape.joint_width)
    write_graph(
        Joint(model), {"encoded": inputs, "predicted": inputs.clone()}, ("log_probs",), {}, folder / JOINT
    )


def write_graph(
    module: nn.Module,
    inputs: Mapping[str, Tensor],
    outputs: tuple[str, ...],
    axes: Mapping[str, Mapping[int, str]],
    path: Path,
) -> None:
    """Write one graph.

    Args:
        module: in evaluation mode, on the CPU.
        inputs: examples by name, in the order of `forward`.
        outputs: names of the outputs.
        axes: dynamic axes by name; the first axis of tensors not named here, unless they are scalars.
        path: the file.
    """
    named = {name: dict(axes.get(name, {0: "batch"})) for name in (*inputs, *outputs)}
    for name, value in inputs.items():
        if value.ndim == 0:
            del named[name]
    with warnings.catch_warnings(), torch.inference_mode(), full_disk_named(path):
        warnings.simplefilter("ignore")  # about intended constants, and about the age of the exporter
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)
        torch.onnx.export(
            module.eval(),
            tuple(inputs.values()),
            str(path),
            dynamo=False,
            opset_version=OPSET,
            input_names=list(inputs),
            output_names=list(outputs),
            dynamic_axes=named,
        )


def quantize(source: Path, target: Path) -> None:
    """Write a graph with its matrices as 8-bit integers, a scale for each column.

    Activations stay 32-bit floats and are rounded to 8 bits at each matrix, with a scale computed each time
    (dynamic quantisation), so no calibration recordings are needed. Weights use 7 of the 8 bits: processors
    without VNNI add two products in 16 bits, which 8 bits would overflow; no word changed for it.
    """
    from onnxruntime.quantization import QuantType, quantize_dynamic

    logging.disable(logging.WARNING)  # warns about a preprocessing step that these graphs do not need
    try:
        with full_disk_named(target, source.stat().st_size):
            quantize_dynamic(
                source,
                target,
                op_types_to_quantize=["MatMul"],
                per_channel=True,
                reduce_range=True,
                weight_type=QuantType.QInt8,
            )
    finally:
        logging.disable(logging.NOTSET)


def quantize_weights(source: Path, target: Path) -> None:
    """Write a graph whose matrices are stored as 8-bit integers, a scale for each output.

    ONNX Runtime converts them to 32-bit floats when it loads the graph. It is no faster than the floats, and
    nearly as accurate: with `quantize` a model of 13M parameters lost 3 points of WER where this lost 0.6,
    and its words depended on how a recording is cut into chunks, since each chunk has scales of its own.
    """
    model = onnx.load(source)
    graph = model.graph
    weights = {one.name: one for one in graph.initializer}
    outputs: dict[str, int] = {}
    for node in graph.node:
        if node.op_type in ("MatMul", "Gemm") and node.input[1] in weights:
            transposed = any(attribute.name == "transB" and attribute.i for attribute in node.attribute)
            outputs[node.input[1]] = 0 if transposed else 1
    for name, axis in outputs.items():
        matrix = numpy_helper.to_array(weights[name])
        if matrix.ndim != 2:
            continue
        scales = np.maximum(np.abs(matrix).max(axis=1 - axis), 1e-12).astype(np.float32) / 127
        rounded = np.rint(matrix / np.expand_dims(scales, 1 - axis)).astype(np.int8)
        graph.initializer.remove(weights[name])
        stored = [f"{name}_int8", f"{name}_scales"]
        graph.initializer.extend(map(numpy_helper.from_array, (rounded, scales), stored))
        graph.node.insert(0, helper.make_node("DequantizeLinear", stored, [name], axis=axis))
    with full_disk_named(target, source.stat().st_size):
        onnx.save(model, target)
