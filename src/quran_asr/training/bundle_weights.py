"""The weights of a bundle as NeMo names them, so that a training can start from an exported model.

`export` folds many parameters of the training into few matrices (`export/graphs.py`). Here each folding is
undone. The numbers are not always those of the training, but the model is: its log-probabilities are those of
the bundle. What a graph cannot tell apart is chosen: biases of queries are in the two biases of relative
attention, and the projection of positions is the smallest that gives the stored table.

Matrices that are stored in 8 bits are read as ONNX Runtime reads them, as integer times scale.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import Tensor

from quran_asr.config.architecture import of_nemo
from quran_asr.config.recipe import SHIPPED
from quran_asr.errors import QuranAsrError
from quran_asr.runtime.bundle import (
    AGAIN,
    ENCODER,
    JOINT,
    PREDICTION,
    Bundle,
    Shape,
    read_bundle,
)
from quran_asr.runtime.sessions import refuse_external
from quran_asr.training.pretrained import refuse_unreadable

if TYPE_CHECKING:
    from numpy.typing import NDArray

FEED_FORWARD = 0.5
"""What NeMo multiplies the output of a feed-forward module with; the graph has it in the matrix."""
SMALLEST = 1e-6
"""Singular values of the matrix of positions, relative to the largest, below which there is only rounding.

With left contexts of 70 frames 60 values of 256 are above it (512 wide: 74), and the next is 20 times as
small. Taken further, the weights become three times as large at 1e-8, and the table no more exact.
"""
LARGEST_MISFIT = 1e-3
"""Of the table of positions from the weights that are read from it, relative to its largest value. Graphs of
`export` have 1e-5."""
NORMS = ("norm_feed_forward1", "norm_self_att", "norm_conv", "norm_feed_forward2", "norm_out")
"""Of a layer, in the order in which the graph numbers them."""


@dataclass(frozen=True, slots=True)
class ExportedModel:
    """A bundle that was looked through, as a model to start from. It holds no weights."""

    path: Path
    """Its folder."""
    config: Mapping[str, Any]
    """What its `model_config.yaml` would say of the architecture."""
    pieces: tuple[str, ...]
    """Its tokens without the blank, in the order of their ids."""


def read_exported(folder: Path, *, xscaling: bool = True) -> ExportedModel:
    """Look a bundle through: its weights are read, compared with its description, and let go.

    Args:
        folder: of the bundle.
        xscaling: whether the model to be started multiplies the encoder's input by sqrt(d_model); the bundle
            has that factor in its matrix, so either is the same model.

    Raises:
        QuranAsrError: no bundle, damaged, of format 1, computing in integers, or with other graphs than
            `export` writes.
    """
    bundle = read_bundle(folder)
    refuse_unreadable(bundle)
    weights = _read_weights(bundle, xscaling)
    config = _config(bundle, weights, xscaling)
    shapes = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    expected = of_nemo(config, len(bundle.vocabulary), str(folder)).shapes()
    for name in sorted(shapes.keys() | expected.keys()):
        if shapes.get(name) != expected.get(name):
            raise _foreign(folder, f"`{name}` is {shapes.get(name)} where {expected.get(name)} is expected")
    return ExportedModel(folder, config, bundle.vocabulary.pieces)


def exported_weights(model: ExportedModel) -> dict[str, Tensor]:
    """The state dict of NeMo's `EncDecHybridRNNTCTCBPEModel`, float32 on the CPU, without the features'.

    Raises:
        QuranAsrError: as `read_exported`; the bundle may have changed since.
    """
    return _read_weights(read_bundle(model.path), bool(model.config["encoder"]["xscaling"]))


def _read_weights(bundle: Bundle, xscaling: bool) -> dict[str, Tensor]:
    folder, shape = bundle.folder, bundle.shape
    encoder, prediction, joint = (read_graph(folder / name) for name in (ENCODER, PREDICTION, JOINT))
    if "layers.0.first.enter.bias" not in encoder.constants:
        raise _foreign(encoder.path, "its layers have no biases (`use_bias: false`)")
    try:
        weights = _subsampling(encoder, math.sqrt(shape.width) if xscaling else 1.0)
        for number in range(shape.layers):
            weights |= _layer(encoder, number, shape)
        weights |= _heads(encoder) | _prediction_network(prediction, shape) | _joint(joint)
    except (RuntimeError, ValueError, IndexError) as error:  # of torch, where shapes do not fit
        reason = next(iter(str(error).splitlines()), type(error).__name__)[:100]
        raise _foreign(folder, reason) from None
    for name, tensor in weights.items():
        if not torch.isfinite(tensor).all():
            raise QuranAsrError(f"`{name}` holds NaN or infinity", where=str(folder), remedy=AGAIN)
    return {name: tensor.contiguous() for name, tensor in weights.items()}


def _config(bundle: Bundle, weights: Mapping[str, Tensor], xscaling: bool) -> dict[str, Any]:
    """The architecture in NeMo's keys; what the description lacks is seen from the weights."""
    shape, features = bundle.shape, bundle.features
    wide = weights["encoder.layers.0.feed_forward1.linear1.weight"].size(0)
    recipe = bundle.provenance.get("recipe")
    return {
        "quran": {"spelling": bundle.spelling, "recipe": recipe if recipe in SHIPPED else None},
        "preprocessor": {
            "features": features.mels,
            "window_size": features.window / features.sample_rate,
            "window_stride": features.hop / features.sample_rate,
            "normalize": "NA",
        },
        "encoder": {
            "_target_": "nemo.collections.asr.modules.ConformerEncoder",
            "n_layers": shape.layers,
            "d_model": shape.width,
            "n_heads": shape.heads,
            "ff_expansion_factor": wide // shape.width,
            "subsampling_conv_channels": weights["encoder.pre_encode.conv.0.weight"].size(0),
            "subsampling_factor": shape.subsampling,
            "causal_downsampling": True,
            "att_context_style": "chunked_limited",
            "conv_context_size": "causal",
            "conv_kernel_size": shape.kernel,
            "conv_norm_type": "layer_norm",
            "use_bias": True,
            "untie_biases": True,
            "xscaling": xscaling,
        },
        "decoder": {
            "prednet": {"pred_hidden": shape.prediction_width, "pred_rnn_layers": shape.prediction_layers}
        },
        "joint": {
            "jointnet": {
                "joint_hidden": shape.joint_width,
                "dropout": 0.1 if "joint.joint_net.2.weight" in weights else 0.0,  # decides its number alone
            }
        },
        "aux_ctc": {},
    }


# A graph


@dataclass(frozen=True, slots=True)
class Graph:
    """The constants of a graph by the names that the exported module has for its parameters."""

    path: Path
    constants: Mapping[str, NDArray[Any]]
    """Matrices are [outputs, inputs], whatever the graph multiplies by."""
    lstm: tuple[tuple[NDArray[Any], NDArray[Any], NDArray[Any]], ...]
    """Of each LSTM in its order: W [1, 4 hidden, inputs], R [1, 4 hidden, hidden], B [1, 8 hidden]."""

    def tensor(self, name: str) -> Tensor:
        """A constant, float32, as a tensor of its own.

        Raises:
            QuranAsrError: the graph has none of that name, or of another type.
        """
        found = self.constants.get(name)
        if found is None or found.dtype != np.float32:
            raise _foreign(self.path, f"it has no weights `{name}`")
        return torch.from_numpy(found.copy())

    def linear(self, name: str, ours: str, scale: float = 1.0) -> dict[str, Tensor]:
        """Weight and bias of a part, multiplied by `scale`, under the name that NeMo has for it."""
        return {f"{ours}.{kind}": self.tensor(f"{name}.{kind}") * scale for kind in ("weight", "bias")}

    def pointwise(self, name: str, ours: str) -> dict[str, Tensor]:
        """As `linear`, for what is a convolution of kernel 1 in NeMo: weights [outputs, inputs, 1]."""
        found = self.linear(name, ours)
        return found | {f"{ours}.weight": found[f"{ours}.weight"].unsqueeze(-1)}


def read_graph(path: Path) -> Graph:
    """The constants of a graph; nothing in it is run, and no other file is opened.

    Raises:
        QuranAsrError: no ONNX graph, or with weights in other files.
    """
    refuse_external(path)
    try:
        graph = onnx.load_model(str(path), load_external_data=False).graph
        constants = {one.name: numpy_helper.to_array(one) for one in graph.initializer}
        for node in graph.node:
            if node.op_type == "Identity" and node.input[0] in constants:  # equal constants are stored once
                constants[node.output[0]] = constants[node.input[0]]
            elif node.op_type == "DequantizeLinear":
                constants[node.output[0]] = _dequantized(node, constants)
        constants |= _matrices(graph.node, constants)
        lstm = tuple(
            (constants[node.input[1]], constants[node.input[2]], constants[node.input[3]])
            for node in graph.node
            if node.op_type == "LSTM"
        )
    except Exception as error:  # protobuf and onnx raise classes of their own
        reason = next(iter(str(error).splitlines()), type(error).__name__)[:100]
        raise _foreign(path, reason) from None
    return Graph(path, constants, lstm)


def _dequantized(node: Any, constants: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
    """A matrix of `quantize_weights`: int8 [a, b] times the scale of its row or column, without offset."""
    if len(node.input) != 2 or not (node.input[0] in constants and node.input[1] in constants):
        raise ValueError("a dequantization that `export` does not write")
    integers, scales = constants[node.input[0]], constants[node.input[1]]
    axis = next((attribute.i for attribute in node.attribute if attribute.name == "axis"), 1)
    if integers.ndim != 2 or axis not in (0, 1) or scales.shape != (integers.shape[axis],):
        raise ValueError("8-bit weights whose scales do not fit")
    floats: NDArray[Any] = integers.astype(np.float32) * np.expand_dims(scales, 1 - axis)
    return floats


def _matrices(nodes: Any, constants: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Every matrix [outputs, inputs] that something is multiplied by, under the name that its bias has.

    The exporter renames matrices that it transposes (`onnx::MatMul_1195`), and never a bias.
    """
    added = {name: node for node in nodes if node.op_type == "Add" for name in node.input}
    found = {}
    for node in nodes:
        if node.op_type not in ("Gemm", "MatMul") or node.input[1] not in constants:
            continue
        matrix = constants[node.input[1]]
        if matrix.ndim != 2:
            continue
        biases = list(node.input[2:])
        if node.op_type == "MatMul" and node.output[0] in added:
            biases = [name for name in added[node.output[0]].input if name in constants]
        transposed = any(attribute.name == "transB" and attribute.i for attribute in node.attribute)
        for bias in biases:
            found[f"{bias.removesuffix('.bias')}.weight"] = matrix if transposed else matrix.T
    return found


def _foreign(path: Path, reason: str) -> QuranAsrError:
    return QuranAsrError(
        f"no training starts from this bundle: {reason}",
        where=str(path),
        remedy="export the model again, or start from its .nemo",
    )


# The foldings, undone


def _subsampling(graph: Graph, scale: float) -> dict[str, Tensor]:
    """The convolutions as they are; the output layer without the factor of the encoder's input."""
    ours = "encoder.pre_encode"
    found = graph.linear("subsampling.out", f"{ours}.out", 1 / scale)
    for stage in (0, 2, 3, 5, 6):
        found |= graph.linear(f"subsampling.stages.{stage}", f"{ours}.conv.{stage}")
    return found


def _layer(graph: Graph, number: int, shape: Shape) -> dict[str, Tensor]:
    name, ours = f"layers.{number}", f"encoder.layers.{number}"
    found: dict[str, Tensor] = {}
    for place, norm in enumerate(NORMS):
        found |= graph.linear(f"{name}.norms.{place}", f"{ours}.{norm}")
    for half, module in (("first", "feed_forward1"), ("second", "feed_forward2")):
        found |= graph.linear(f"{name}.{half}.enter", f"{ours}.{module}.linear1")
        found |= graph.linear(f"{name}.{half}.leave", f"{ours}.{module}.linear2", 1 / FEED_FORWARD)
    return (
        found
        | _attention(graph, f"{name}.attention", f"{ours}.self_attn", shape)
        | _convolution(graph, f"{name}.convolution", f"{ours}.conv")
    )


def _attention(graph: Graph, name: str, ours: str, shape: Shape) -> dict[str, Tensor]:
    """Query, key and value out of their common product, and both biases of relative attention.

    The product has the scale 1 / sqrt(head size) in its query, [3 width, width], and the bias for contents,
    with the query's own, in its bias. The query's own is zero here: it is in both biases, [heads, size].
    """
    scale = shape.head_size**-0.5
    query, key, value = graph.tensor(f"{name}.enter.weight").chunk(3)
    content, key_bias, value_bias = graph.tensor(f"{name}.enter.bias").chunk(3)
    contents = content.view(shape.heads, shape.head_size) / scale
    shift = graph.tensor(f"{name}.shift").squeeze(1) / scale
    return {
        f"{ours}.linear_q.weight": query / scale,
        f"{ours}.linear_q.bias": torch.zeros(shape.width),
        f"{ours}.linear_k.weight": key,
        f"{ours}.linear_k.bias": key_bias,
        f"{ours}.linear_v.weight": value,
        f"{ours}.linear_v.bias": value_bias,
        f"{ours}.pos_bias_u": contents,
        f"{ours}.pos_bias_v": contents + shift,
        f"{ours}.linear_pos.weight": _position_weights(graph, f"{name}.table", shape),
        **graph.linear(f"{name}.out", f"{ours}.linear_out"),
    }


def _position_weights(graph: Graph, name: str, shape: Shape) -> Tensor:
    """`linear_pos` [width, width] of a table of projected positions [heads, size, 3 left].

    Sines and cosines of 3 left distances are nearly dependent: of the many matrices that give the table, this
    is the smallest, by the singular values that are more than rounding.
    """
    left, width = shape.left_frames, shape.width
    table = graph.tensor(name)
    if table.shape != (shape.heads, shape.head_size, 3 * left):
        raise _foreign(graph.path, f"its `{name}` is {tuple(table.shape)}")
    wanted = table.permute(2, 0, 1).reshape(3 * left, width).double()
    found = positions(left, width).double()
    u, values, v = torch.linalg.svd(found, full_matrices=False)
    rank = int((values > SMALLEST * values[0]).sum())
    weight = v[:rank].T @ ((u[:, :rank].T @ wanted) / values[:rank, None])
    misfit = (found @ weight - wanted).abs().max()
    if not misfit <= LARGEST_MISFIT * max(1.0, float(wanted.abs().max())):
        raise _foreign(graph.path, f"its `{name}` is of other positions")
    projection: Tensor = weight.T.float()
    return projection


def positions(left: int, width: int) -> Tensor:
    """NeMo's encoding of the distances 2 left - 1 .. -left: float32 [3 left, width], sines and cosines."""
    distances = torch.arange(2 * left - 1, -left - 1, -1, dtype=torch.float32)[:, None]
    rates = torch.exp(torch.arange(0, width, 2, dtype=torch.float32) * -(math.log(10_000.0) / width))
    return torch.stack([torch.sin(distances * rates), torch.cos(distances * rates)], dim=2).flatten(1)


def _convolution(graph: Graph, name: str, ours: str) -> dict[str, Tensor]:
    """Value and gate together again, as pointwise convolutions; taps [width, 1, 1, kernel] in one dimension.

    Its layer norm is called `batch_norm` in NeMo, whatever it is.
    """
    parts = [graph.pointwise(f"{name}.{part}", "part") for part in ("value", "gate")]
    joined = {kind: torch.cat([part[f"part.{kind}"] for part in parts]) for kind in ("weight", "bias")}
    return {
        f"{ours}.pointwise_conv1.weight": joined["weight"],
        f"{ours}.pointwise_conv1.bias": joined["bias"],
        f"{ours}.depthwise_conv.weight": graph.tensor(f"{name}.taps").squeeze(2),
        f"{ours}.depthwise_conv.bias": graph.tensor(f"{name}.bias"),
        **graph.linear(f"{name}.norm", f"{ours}.batch_norm"),
        **graph.pointwise(f"{name}.leave", f"{ours}.pointwise_conv2"),
    }


def _heads(graph: Graph) -> dict[str, Tensor]:
    """CTC head [tokens + 1, width, 1], and what the joint gets of the encoder [joint, width]."""
    return graph.pointwise("ctc", "ctc_decoder.decoder_layers.0") | graph.linear("joint", "joint.enc")


def _prediction_network(graph: Graph, shape: Shape) -> dict[str, Tensor]:
    """Embedding [tokens + 1, hidden], the layers of the LSTM, and what the joint gets of it."""
    ours = "decoder.prediction"
    found = {f"{ours}.embed.weight": graph.tensor("embedding.weight"), **graph.linear("joint", "joint.pred")}
    if len(graph.lstm) != shape.prediction_layers:
        raise _foreign(graph.path, f"it has {len(graph.lstm)} LSTM of {shape.prediction_layers}")
    for layer, parts in enumerate(graph.lstm):
        inputs, hidden, biases = (torch.from_numpy(part[0].copy()) for part in parts)
        of_inputs, of_hidden = biases.chunk(2)
        lstm = f"{ours}.dec_rnn.lstm"
        found |= {
            f"{lstm}.weight_ih_l{layer}": _gates(inputs),
            f"{lstm}.weight_hh_l{layer}": _gates(hidden),
            f"{lstm}.bias_ih_l{layer}": _gates(of_inputs),
            f"{lstm}.bias_hh_l{layer}": _gates(of_hidden),
        }
    return found


def _gates(stacked: Tensor) -> Tensor:
    """[4 hidden, ...] in ONNX's order (input, output, forget, cell) into torch's (i, f, cell, o)."""
    enter, leave, forget, cell = stacked.chunk(4)
    return torch.cat([enter, forget, cell, leave])


def _joint(graph: Graph) -> dict[str, Tensor]:
    """The output of the joint [tokens + 1, joint]; its number says whether dropout stands before it."""
    number = 2 if "net.2.weight" in graph.constants else 1
    return graph.linear(f"net.{number}", f"joint.joint_net.{number}")
