"""A trained hybrid as three ONNX graphs: encoder with CTC head, prediction, joint; float32 or int8.

The encoder is NeMo's cache-aware FastConformer written for inference, with the trained weights:

- The cache between chunks holds keys and values, not the layers' inputs: a chunk projects its own frames
  only, where NeMo projects the whole left context again for every chunk.
- Positions are projected once, when the graph is made.
- The subsampling gets real history only, and frames before the recording are zero after each of its
  convolutions, as they are for a whole file. So no frame is computed twice and none is dropped.
- Separate parameters of the training are folded: query, key and value are one product, factors and biases are
  in the matrices. All frames of all streams are rows of one matrix, which runtimes fuse best.
- What may be seen of what depends on the chunk (look-ahead + 1) and on where the recording begins and ends:
  it is an input, which the runtime computes once for many chunks. A stream is processed one chunk at a time,
  a whole file many at once, with the same numbers.
- Additions are one operation with the normalization after them: for a chunk of one frame, the number of
  operations costs more than the arithmetic.

`export` verifies equality with NeMo's whole-file pass before it writes (`verification.py`).
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Mapping
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
from quran_asr.runtime.sessions import Context
from quran_asr.training.model import EncDecHybridRNNTCTCBPEModel


class Subsampling(nn.Module):
    """The causal convolutions: feature frames 8j - 14 .. 8j become encoder frame j."""

    def __init__(self, model: EncDecHybridRNNTCTCBPEModel) -> None:
        super().__init__()
        self.stages = model.encoder.pre_encode.conv
        out, scale = model.encoder.pre_encode.out, float(model.encoder.pos_enc.xscale or 1.0)
        self.out = _linear(scale * out.weight, scale * _bias(out))

    def forward(self, mels: Tensor, valid_2: Tensor, valid_4: Tensor) -> Tensor:
        """[B, 8n + 7, mels] -> [B, n, width]; what each stage but the last gives is multiplied by `valid`."""
        x = mels.unsqueeze(1)
        valid = iter((valid_2, valid_4))
        for stage in self.stages:
            if isinstance(stage, nn.Conv2d) and stage.stride[0] == 2:
                padding = (int(stage._left_padding), int(stage._right_padding))  # type: ignore[arg-type]
                x = F.pad(x, (*padding, 0, 0))  # frequency alone
                x = F.conv2d(x, stage.weight, stage.bias, stride=2, groups=stage.groups)
            elif isinstance(stage, nn.Conv2d):
                x = F.conv2d(x, stage.weight, stage.bias)
            else:
                x = stage(x)
                # zero after each stage, not only before the first, as NeMo's padding does
                if (inside := next(valid, None)) is not None:
                    x = x * inside
        return self.out(x.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]


@dataclass(frozen=True, slots=True)
class LayerContext:
    """Values shared by all layers, computed once."""

    batch: int
    frames: int
    """n, of each stream"""
    mask: Tensor
    """[B, 1, 1, n, left + n], added to scores: 0 where a frame may look, MASKED elsewhere."""
    columns: Tensor
    """int64 [B, 1, heads, n, left + n]: the column of the table of positions for each score."""


class Attention(nn.Module):
    """Relative-position attention (Transformer-XL, 3.3) with cached keys and values.

    Query, key and value are one product. The query's bias is part of the two biases of relative attention,
    the first of which is the product's; the key's adds a constant to all scores of a frame, which softmax
    removes; the value's is unchanged, since the weights sum to one, and is added after the output matrix.
    """

    def __init__(self, attention: Any, positions: Tensor) -> None:
        super().__init__()
        self.heads, self.size = attention.h, attention.d_k
        query, key, value = attention.linear_q, attention.linear_k, attention.linear_v
        scale = self.size**-0.5
        own = _bias(query).view(self.heads, self.size)
        content = (scale * (attention.pos_bias_u + own)).flatten()
        self.enter = _linear(
            torch.cat([scale * query.weight, key.weight, value.weight]),
            F.pad(content, (0, key.weight.size(0) + value.weight.size(0))),
        )
        self.out = _linear(
            attention.linear_out.weight,
            _bias(attention.linear_out) + attention.linear_out.weight @ _bias(value),
        )
        self.shift: Tensor
        """From a query with the bias for contents to one with the bias for positions."""
        self.register_buffer("shift", scale * (attention.pos_bias_v - attention.pos_bias_u).unsqueeze(1))
        self.table: Tensor
        """[heads, size, 3 left], for the distances 2 left - 1 .. -left."""
        table = attention.linear_pos(positions).view(-1, self.heads, self.size)
        self.register_buffer("table", table.permute(1, 2, 0).contiguous())

    def forward(
        self, x: Tensor, context: LayerContext, keys: Tensor, values: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """x [B n, width], keys and values [B, 1, heads, left, size] -> [B n, width], new keys and values."""
        split = self.enter(x).view(context.batch, context.frames, 3, self.heads, self.size)
        query, key, value = torch.split(split.permute(0, 2, 3, 1, 4), 1, dim=1)
        content = torch.matmul(query, torch.cat([keys, key], dim=3).transpose(3, 4))
        position = torch.gather(torch.matmul(query + self.shift, self.table), 4, context.columns)
        weights = torch.softmax(content + position + context.mask, dim=-1)
        attended = torch.matmul(weights, torch.cat([values, value], dim=3))
        return self.out(attended.permute(0, 3, 1, 2, 4).reshape(-1, self.heads * self.size)), key, value


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
        self.register_buffer("taps", depthwise.weight.detach().unsqueeze(2).clone())
        self.register_buffer("bias", None if depthwise.bias is None else depthwise.bias.detach().clone())

    def forward(self, x: Tensor, context: LayerContext, kept: Tensor) -> tuple[Tensor, Tensor]:
        """x [B n, width], kept [B, 1, kernel - 1, width] before -> [B n, width], kept and x together."""
        width = self.taps.size(0)
        x = (self.value(x) * torch.sigmoid(self.gate(x))).view(context.batch, 1, context.frames, width)
        x = torch.cat([kept, x], dim=2)
        # As an image one pixel high: ONNX Runtime has a kernel for depthwise convolution in two dimensions,
        # channels last. As nine shifted products it took 3 to 8 times as long, in one dimension 5 to 40.
        image = x.permute(0, 3, 1, 2)
        y = F.conv2d(image, self.taps, self.bias, groups=width).permute(0, 2, 3, 1).reshape(-1, width)
        return self.leave(F.silu(self.norm(y))), x


class FeedForward(nn.Module):
    """Two products; the factor one half is part of the second."""

    def __init__(self, module: Any, factor: float) -> None:
        super().__init__()
        self.enter = module.linear1
        self.leave = _linear(factor * module.linear2.weight, factor * _bias(module.linear2))

    def forward(self, x: Tensor) -> Tensor:
        return self.leave(F.silu(self.enter(x)))  # type: ignore[no-any-return]


class _AddAndNormalize(torch.autograd.Function):
    """Addition and layer normalization, one operation of ONNX Runtime: most of a live chunk's time is not
    arithmetic but the number of operations."""

    @staticmethod
    def forward(
        _: Any, x: Tensor, added: Tensor, weight: Tensor, bias: Tensor, epsilon: float
    ) -> tuple[Tensor, Tensor]:
        total = x + added
        return F.layer_norm(total, weight.shape, weight, bias, epsilon), total

    @staticmethod
    def symbolic(graph: Any, x: Any, added: Any, weight: Any, bias: Any, epsilon: float) -> tuple[Any, Any]:
        normalized, _, _, total = graph.op(
            "com.microsoft::SkipLayerNormalization", x, added, weight, bias, epsilon_f=epsilon, outputs=4
        )
        normalized.setType(x.type())
        total.setType(x.type())
        return normalized, total


def _add_and_normalize(x: Tensor, added: Tensor, norm: nn.Module) -> tuple[Tensor, Tensor]:
    """The sum, normalized, and the sum itself."""
    assert isinstance(norm, nn.LayerNorm)
    apply: Callable[..., tuple[Tensor, Tensor]] = _AddAndNormalize.apply
    return apply(x, added, norm.weight, norm.bias, norm.eps)


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
        self, x: Tensor, context: LayerContext, keys: Tensor, values: Tensor, kept: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """x [B n, width] and a stream's keys, values and kept frames -> x, new keys and values, kept."""
        added = self.first(self.norms[0](x))
        normalized, x = _add_and_normalize(x, added, self.norms[1])
        added, keys, values = self.attention(normalized, context, keys, values)
        normalized, x = _add_and_normalize(x, added, self.norms[2])
        added, kept = self.convolution(normalized, context, kept)
        normalized, x = _add_and_normalize(x, added, self.norms[3])
        x, _ = _add_and_normalize(x, self.second(normalized), self.norms[4])
        return x, keys, values, kept


class StreamingEncoder(nn.Module):
    """Encoder, CTC head and the joint's encoder input, for chunks of n frames (n a multiple of the chunk)."""

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
        valid_2: Tensor,
        valid_4: Tensor,
        mask: Tensor,
        columns: Tensor,
        keys: Tensor,
        values: Tensor,
        kept: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """One chunk of each of B streams.

        Args:
            mels: float32 [B, 8n + 7, mels], zeros before and after the recording.
            valid_2, valid_4, mask, columns: as in `runtime.sessions.Context`.
            keys, values: float32 [B, layers, heads, left, size].
            kept: float32 [B, layers, kernel - 1, width].

        Returns:
            The joint's encoder input [B, n, joint], CTC log-probabilities [B, n, vocabulary + 1], keys and
            values of this chunk [B, layers, heads, n, size], and what to keep for the next one. The caller
            appends keys and values to its own: a graph would copy all of them once more.
        """
        shape = self.shape
        x = self.subsampling(mels, valid_2, valid_4)
        batch, n = x.size(0), x.size(1)
        context = LayerContext(
            batch, n, mask, columns.expand(batch, 1, shape.heads, n, shape.left_frames + n)
        )
        x = x.view(-1, shape.width)
        caches = zip(*(torch.split(cache, 1, dim=1) for cache in (keys, values, kept)), strict=True)
        new_keys, new_values, extended = [], [], []
        for layer, cache in zip(self.layers, caches, strict=True):
            x, key, value, frames = layer(x, context, *cache)
            new_keys.append(key)
            new_values.append(value)
            extended.append(frames)
        return (
            self.joint(x).view(batch, n, -1),
            torch.log_softmax(self.ctc(x), dim=-1).view(batch, n, -1),
            torch.cat(new_keys, dim=1),
            torch.cat(new_values, dim=1),
            torch.cat(extended, dim=1)[:, :, 1 - shape.kernel :],
        )


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
    context = Context.of(shape.left_frames, frames, frames, [0, 0], [None, None]).inputs
    cache = torch.zeros(2, shape.layers, shape.heads, shape.left_frames, shape.head_size)
    write_graph(
        StreamingEncoder(model, shape),
        {
            "mels": torch.zeros(2, 8 * frames + 7, mels),
            **{name: torch.from_numpy(value) for name, value in context.items()},
            "keys": cache,
            "values": cache.clone(),
            "kept": torch.zeros(2, shape.layers, shape.kernel - 1, shape.width),
        },
        ("joint_encoded", "ctc", "new_keys", "new_values", "next_kept"),
        {
            "mels": {0: "batch", 1: "features"},
            "valid_2": {0: "batch", 2: "halves"},
            "valid_4": {0: "batch", 2: "quarters"},
            "mask": {0: "batch", 3: "frames", 4: "seen"},
            "columns": {3: "frames", 4: "seen"},
            "joint_encoded": {0: "batch", 1: "frames"},
            "ctc": {0: "batch", 1: "frames"},
            "new_keys": {0: "batch", 3: "frames"},
            "new_values": {0: "batch", 3: "frames"},
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

    graph = onnx.load(source).graph
    matrices = {one.name for one in graph.initializer if len(one.dims) == 2}
    constants = {one.name for one in graph.initializer}
    # The tables of positions are a matrix for each head, which has no kernel in 8 bits.
    excluded = [
        node.name for node in graph.node if node.op_type == "MatMul" and node.input[1] in constants - matrices
    ]
    logging.disable(logging.WARNING)  # warns about a preprocessing step that these graphs do not need
    try:
        with full_disk_named(target, source.stat().st_size):
            quantize_dynamic(
                source,
                target,
                op_types_to_quantize=["MatMul"],
                nodes_to_exclude=excluded,
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
