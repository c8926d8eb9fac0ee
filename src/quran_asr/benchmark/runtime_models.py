"""The models of the runtime benchmark: one set of weights in the format of each worker."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnx
import torch

from quran_asr.benchmark.runtime_tables import refuse_other_look_aheads
from quran_asr.config.recipe import load_recipe
from quran_asr.export.bundle import to_int8, write_unproven
from quran_asr.export.sherpa import tail_seconds, write_sherpa
from quran_asr.records import SAMPLE_RATE
from quran_asr.runtime.bundle import Bundle, Shape
from quran_asr.training.model import EncDecHybridRNNTCTCBPEModel, build_model, look_aheads, set_look_ahead
from quran_asr.training.recognizer import load_model, restore
from quran_asr.training.streaming import model_shape
from quran_asr.training.tokenizer import train_tokenizer
from quran_asr.training.trainer import quiet

TOKEN_SHARE = 0.04
"""Share of frames in which a model with random weights emits a token or more, as on speech."""


@dataclass(frozen=True, slots=True)
class Models:
    """Where each runtime finds the same weights."""

    bundle: Bundle
    int8: Bundle
    archive: Path
    sherpa: Mapping[int, Path]
    """By look-ahead in milliseconds; empty where sherpa-onnx is not installed."""
    stock: Mapping[int, Path]
    """NeMo's own export, adapted for sherpa-onnx as its scripts do."""
    tails: Mapping[int, float]
    """Seconds of silence that sherpa-onnx needs at the end of a recording."""
    parameters: int


def prepare(
    model: EncDecHybridRNNTCTCBPEModel, source: Path, folder: Path, milliseconds: Sequence[int] | None
) -> Models:
    """Write a model in the format of each runtime.

    Args:
        model: in evaluation mode, on the CPU.
        source: the file it came from.
        folder: where to write.
        milliseconds: look-aheads to export; None takes all.

    Raises:
        QuranAsrError: not a streaming model, or without one of the look-aheads.
    """
    refuse_other_look_aheads(milliseconds or (), tuple(look_aheads(model)), str(source))
    shape = model_shape(model, str(source))
    for name in ("bundle", "int8"):
        (folder / name).mkdir(parents=True)
    bundle = write_unproven(model, source, shape, folder / "bundle")
    wanted = bundle.look_aheads_ms if milliseconds is None else milliseconds
    frames = {ms: bundle.look_ahead(ms) for ms in wanted}
    sherpa: dict[int, Path] = {}
    stock: dict[int, Path] = {}
    if find_spec("sherpa_onnx") is not None:
        for ms, ahead in frames.items():
            sherpa[ms] = folder / "sherpa" / str(ms)
            sherpa[ms].mkdir(parents=True)
            write_sherpa(model, shape, sherpa[ms], ahead, heads=("transducer",))
    archive = source
    if source.suffix != ".nemo":
        archive = folder / "model.nemo"
        model.save_to(str(archive))
    for ms, ours in sherpa.items():
        stock[ms] = folder / "stock" / str(ms)
        stock[ms].mkdir(parents=True)
        (stock[ms] / "tokens.txt").write_bytes((ours / "tokens.txt").read_bytes())
        write_stock(restore(archive).eval(), shape, stock[ms], ms)
    return Models(
        bundle=bundle,
        int8=to_int8(bundle, folder / "int8"),
        archive=archive,
        sherpa=sherpa,
        stock=stock,
        tails={ms: tail_seconds(ahead) for ms, ahead in frames.items()},
        parameters=sum(parameter.numel() for parameter in model.parameters()),
    )


def load(path: Path) -> tuple[EncDecHybridRNNTCTCBPEModel, Path]:
    """A trained model, ready to be written, and its file. Errors as `load_model`."""
    model, source = load_model(path)
    return model.eval(), source


def made_up(recipe: str, overrides: Sequence[str], folder: Path) -> tuple[EncDecHybridRNNTCTCBPEModel, Path]:
    """A model of a recipe's size with random weights, and the archive it was written to.

    Its words mean nothing, but it emits about as many as a trained one: the bias of the blank is set so that
    on noise one frame in 25 emits tokens.
    """
    chosen = load_recipe(recipe, tuple(overrides))
    tokenizer = train_tokenizer(
        chosen.quran.spelling, chosen.quran.vocabulary_size, folder / "tokenizer"
    ).folder
    torch.manual_seed(0)
    model = build_model(chosen, tokenizer).eval()
    _emit_now_and_then(model)
    path = folder / "model.nemo"
    model.save_to(str(path))
    return model, path


@torch.inference_mode()
def _emit_now_and_then(model: EncDecHybridRNNTCTCBPEModel) -> None:
    noise = np.random.default_rng(0).normal(0.0, 0.05, 20 * SAMPLE_RATE).astype(np.float32)
    features, lengths = model.preprocessor(
        input_signal=torch.from_numpy(noise)[None], length=torch.tensor([len(noise)])
    )
    encoded, _ = model.encoder(audio_signal=features, length=lengths)
    silent, _ = model.decoder.predict(None, None, add_sos=False, batch_size=1)
    joint = model.joint
    hidden = joint.enc(encoded.transpose(1, 2)) + joint.pred(silent)
    scores = joint.joint_net(hidden)[0]
    lead = scores[:, :-1].max(dim=1).values - scores[:, -1]
    joint.joint_net[-1].bias[-1] += torch.quantile(lead, 1 - TOKEN_SHARE)


def write_stock(model: EncDecHybridRNNTCTCBPEModel, shape: Shape, folder: Path, milliseconds: int) -> None:
    """NeMo's own cache-aware export with the metadata that sherpa-onnx's script for such models adds.

    Args:
        model: is changed by the export, and of no further use.
    """
    set_look_ahead(model, look_aheads(model)[milliseconds])
    model.encoder.setup_streaming_params()
    streaming = model.encoder.streaming_cfg
    chunk, before = streaming.chunk_size[1], streaming.pre_encode_cache_size[1]
    with quiet(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.set_export_config({"decoder_type": "rnnt", "cache_support": "True"})
        model.encoder.export(str(folder / "encoder.onnx"))
        model.decoder.export(str(folder / "decoder.onnx"))
        model.joint.export(str(folder / "joiner.onnx"))
    metadata = {
        "model_type": "EncDecHybridRNNTCTCBPEModel",
        "version": 1,
        "vocab_size": model.tokenizer.vocab_size,
        "window_size": chunk + before,
        "chunk_shift": chunk,
        "normalize_type": "",
        "subsampling_factor": 8,
        "cache_last_channel_dim1": shape.layers,
        "cache_last_channel_dim2": streaming.last_channel_cache_size,
        "cache_last_channel_dim3": shape.width,
        "cache_last_time_dim1": shape.layers,
        "cache_last_time_dim2": shape.width,
        "cache_last_time_dim3": shape.kernel - 1,
        "pred_rnn_layers": shape.prediction_layers,
        "pred_hidden": shape.prediction_width,
    }
    graph = onnx.load(str(folder / "encoder.onnx"))
    del graph.metadata_props[:]
    for key, value in metadata.items():
        graph.metadata_props.add(key=key, value=str(value))
    onnx.save(graph, str(folder / "encoder.onnx"))
