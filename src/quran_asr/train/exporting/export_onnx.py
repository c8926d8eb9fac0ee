"""The graphs as ONNX files, in 32-bit floats or with 8-bit matrices."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from quran_asr.files import full_disk_named
from quran_asr.listen.bundle import JOINT, PREDICTION, TOKENIZER, Shape
from quran_asr.listen.sessions import UNKNOWN
from quran_asr.train.exporting.export_graph import Joint, Prediction, StreamingEncoder
from quran_asr.train.model import EncDecHybridRNNTCTCBPEModel

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
        folder / TOKENIZER,
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
    sides = torch.zeros(2, shape.joint_width)
    write_graph(
        Joint(model), {"encoded": sides, "predicted": sides.clone()}, ("log_probs",), {}, folder / JOINT
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
        outputs: names of what comes back.
        axes: which axes vary, by name; the first one of what is not named here, unless it is a number.
        path: the file.
    """
    named = {name: dict(axes.get(name, {0: "batch"})) for name in (*inputs, *outputs)}
    for name, value in inputs.items():
        if value.ndim == 0:
            del named[name]
    with warnings.catch_warnings(), torch.inference_mode(), full_disk_named(path):
        warnings.simplefilter("ignore")  # on constants that are meant as such, and on the exporter's age
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

    What flows between them stays 32-bit float and is rounded to 8 bits at each matrix, with a scale of its
    own each time (dynamic quantisation): no recordings are needed to prepare it. Weights use 7 of the 8 bits:
    processors without VNNI add two products in 16 bits, which 8 would overflow; it costs no word.
    """
    from onnxruntime.quantization import QuantType, quantize_dynamic

    logging.disable(logging.WARNING)  # it warns of a preparation that these graphs do not need
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
