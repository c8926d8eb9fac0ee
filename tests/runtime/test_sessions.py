"""The sessions of a bundle: what they compute with."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from quran_asr.runtime.bundle import ENCODER, default_model, read_bundle
from quran_asr.runtime.sessions import Sessions


@pytest.mark.slow
def test_weights_stored_in_8_bits_are_computed_with_as_floats(tmp_path: Path) -> None:
    """Against the same graph with its weights as floats."""
    onnx = pytest.importorskip("onnx", reason="needs the extra train")
    import onnxruntime
    from onnx import numpy_helper

    bundle = read_bundle(default_model())
    assert bundle.precision == "int8-weights"
    graph = onnx.load(str(bundle.folder / ENCODER))
    stored = {one.name: one for one in graph.graph.initializer}
    folded = [node for node in graph.graph.node if node.op_type == "DequantizeLinear"]
    for node in folded:
        rounded, scales = (numpy_helper.to_array(stored[name]) for name in node.input)
        axis = node.attribute[0].i
        shape = [-1 if place == axis else 1 for place in range(rounded.ndim)]
        weights = rounded.astype(np.float32) * scales.reshape(shape)
        graph.graph.initializer.append(numpy_helper.from_array(weights, node.output[0]))
        graph.graph.node.remove(node)
    assert len(folded) > 50
    onnx.save(graph, str(tmp_path / ENCODER))
    quiet = onnxruntime.SessionOptions()
    quiet.log_severity_level = 3
    floats = onnxruntime.InferenceSession(str(tmp_path / ENCODER), quiet, providers=["CPUExecutionProvider"])

    sessions = Sessions(bundle, threads=1)
    chunk = bundle.shape.look_aheads[0] + 1
    features = np.random.default_rng(0).normal(size=(1, 8 * chunk + 7, bundle.features.mels))
    mels = features.astype(np.float32)
    (encoded,), _ = sessions.encode(mels, [None], chunk, [sessions.start])
    sessions.encoder = floats
    (expected,), _ = sessions.encode(mels, [None], chunk, [sessions.start])
    np.testing.assert_allclose(encoded.ctc, expected.ctc, atol=2e-4)
