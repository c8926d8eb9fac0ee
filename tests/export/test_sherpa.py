"""The folder for sherpa-onnx: its graphs give what the model gives, and the PyPI package runs it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from quran_asr.audio import read
from quran_asr.config.recipe import load_recipe
from quran_asr.errors import QuranAsrError
from quran_asr.export.sherpa import FLOOR, nemo_features, tail_seconds, window_frames, write_sherpa
from quran_asr.records import SAMPLE_RATE, Segment
from quran_asr.runtime.bundle import Shape
from quran_asr.training.model import (
    EncDecHybridRNNTCTCBPEModel,
    build_model,
    frame_counts,
    look_aheads,
    set_look_ahead,
)
from quran_asr.training.recognizer import OfflineRecognizer
from quran_asr.training.streaming import model_shape
from quran_asr.training.tokenizer import Tokenizer

sherpa_onnx = pytest.importorskip("sherpa_onnx", reason="needs the extra dev")
pytestmark = pytest.mark.slow

LEAD = 80
"""Samples of silence that put sherpa's frames where NeMo has them."""
LOOK_AHEAD = 1
"""Encoder frames: the narrowest window but one, so that a short clip has many."""


@pytest.fixture(scope="module")
def model(tiny_overrides: tuple[str, ...], tokenizer: Tokenizer) -> EncDecHybridRNNTCTCBPEModel:
    """Random weights that say now a token, now blank; never `<unk>`, which no trained model says."""
    torch.manual_seed(3)
    recipe = load_recipe("quickstart", [*tiny_overrides, "model.decoding.greedy.max_symbols=10"])
    model = build_model(recipe, tokenizer.folder).eval()
    last, ctc = model.joint.joint_net[-1], model.ctc_decoder.decoder_layers[0]
    with torch.no_grad():
        for weight in (last.weight, ctc.weight, model.joint.enc.weight, model.joint.pred.weight):
            weight.mul_(6.0)
        encoded, predicted = torch.randn(500, 1, 32), torch.randn(500, 1, 16) / 4
        logits = model.joint.joint_net(model.joint.enc(encoded) + model.joint.pred(predicted))[:, 0]
        last.bias[-1] += (logits[:, :-1].amax(1) - logits[:, -1]).quantile(0.7)
        last.bias[0] = ctc.bias[0] = -1e4
    return model


@pytest.fixture(scope="module")
def shape(model: EncDecHybridRNNTCTCBPEModel) -> Shape:
    return model_shape(model, "tiny")


@pytest.fixture(scope="module")
def folder(
    model: EncDecHybridRNNTCTCBPEModel, shape: Shape, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    folder = tmp_path_factory.mktemp("sherpa")
    write_sherpa(model, shape, folder, LOOK_AHEAD)
    return folder


def recognizer(folder: Path, head: str) -> Any:
    if head == "ctc":
        return sherpa_onnx.OnlineRecognizer.from_nemo_ctc(
            tokens=str(folder / "tokens.txt"), model=str(folder / "model.onnx"), num_threads=1
        )
    names = {name: str(folder / f"{name}.onnx") for name in ("encoder", "decoder", "joiner")}
    return sherpa_onnx.OnlineRecognizer.from_transducer(
        tokens=str(folder / "tokens.txt"), num_threads=1, **names
    )


def listen(recognizer: Any, samples: NDArray[np.float32], piece: int) -> tuple[Any, NDArray[np.float32]]:
    """sherpa's result and the features it computed, for a recording that comes in pieces."""
    stream = recognizer.create_stream()
    features = recognizer.create_stream()
    for start in range(0, len(samples), piece):
        stream.accept_waveform(SAMPLE_RATE, samples[start : start + piece])
        while recognizer.is_ready(stream):
            recognizer.decode_stream(stream)
    stream.input_finished()
    while recognizer.is_ready(stream):
        recognizer.decode_stream(stream)
    features.accept_waveform(SAMPLE_RATE, samples)
    features.input_finished()
    count = (len(samples) + 80) // 160
    return (
        recognizer.get_result_all(stream),
        np.array(features.get_frames(0, count), np.float32).reshape(count, -1),
    )


@torch.inference_mode()
def whole_file(model: EncDecHybridRNNTCTCBPEModel, mels: Tensor) -> tuple[Tensor, Tensor]:
    """NeMo's encoder over all of [B, T, mels] at the look-ahead of the folder."""
    set_look_ahead(model, look_aheads(model)[80 * LOOK_AHEAD])
    lengths = torch.full((mels.size(0),), mels.size(1))
    encoded, frames = model.encoder(audio_signal=mels.transpose(1, 2), length=lengths)
    return encoded, frames


@pytest.mark.parametrize(("head", "file"), [("transducer", "encoder.onnx"), ("ctc", "model.onnx")])
def test_windows_give_the_frames_of_the_whole_file_from_the_first_to_the_last(
    model: EncDecHybridRNNTCTCBPEModel, folder: Path, head: str, file: str
) -> None:
    session = onnxruntime.InferenceSession(folder / file, providers=["CPUExecutionProvider"])
    metadata = session.get_modelmeta().custom_metadata_map
    window = int(metadata["window_size"])
    assert window == int(metadata["chunk_shift"]) == window_frames(LOOK_AHEAD) == 16

    def zeros(name: str, streams: int) -> NDArray[np.float32]:
        return np.zeros((streams, *(int(metadata[f"{name}_dim{i}"]) for i in (1, 2, 3))), np.float32)

    generator = np.random.default_rng(0)
    streams, windows = 2, 9
    signal = generator.normal(-6, 3, (streams, windows * window, 80)).clip(FLOOR).astype(np.float32)
    channel, time = zeros("cache_last_channel", streams), zeros("cache_last_time", streams)
    begin = np.zeros(streams, np.int64)
    pieces = []
    for start in range(0, windows * window, window):
        output, lengths, channel, time, begin = session.run(
            None,
            {
                "audio_signal": signal[:, start : start + window].transpose(0, 2, 1),
                "length": np.full(streams, window),
                "cache_last_channel": channel,
                "cache_last_time": time,
                "cache_last_channel_len": begin,
            },
        )
        assert lengths.tolist() == [output.shape[1 if head == "ctc" else 2]] * streams
        pieces.append(output)

    encoded, frames = whole_file(model, nemo_features(torch.from_numpy(signal)))
    # beside what whole windows hold, the whole file has one frame that looks past its end
    assert frames.tolist() == [windows * window // 8 + 1] * streams
    with torch.inference_mode():
        if head == "ctc":
            expected = model.ctc_decoder(encoder_output=encoded)
            joined = np.concatenate(pieces, axis=1)
            np.testing.assert_array_equal(joined[:, ::2], joined[:, 1::2])
            joined = joined[:, ::2]
        else:
            expected = model.joint.enc(encoded.transpose(1, 2))
            joined = np.concatenate(pieces, axis=2).transpose(0, 2, 1)
    # a masked token has about -10,000, whose float32 neighbours are 1e-3 away
    np.testing.assert_allclose(joined, expected[:, :-1].numpy(), rtol=1e-6, atol=1e-4)
    assert np.abs(joined).max() > 0.1


@pytest.mark.parametrize("head", ["transducer", "ctc"])
def test_the_package_gives_the_tokens_of_nemos_search_at_their_times(
    model: EncDecHybridRNNTCTCBPEModel, folder: Path, segments: list[Segment], head: str
) -> None:
    search = OfflineRecognizer(model, "tiny", head, 80 * LOOK_AHEAD)
    package = recognizer(folder, head)
    tokens = 0
    for segment in segments[:3]:
        samples = np.concatenate([read(segment.audio), np.zeros(round(SAMPLE_RATE * 0.5), np.float32)])
        result, features = listen(package, samples, piece=1001)
        window = window_frames(LOOK_AHEAD)
        covered = (len(features) - 1) // window * window  # a window is taken when a frame more is there
        encoded, frames = whole_file(model, nemo_features(torch.from_numpy(features[None, :covered])))
        with torch.inference_mode():
            hypothesis = (search._transducer if head == "transducer" else search._ctc)(encoded, frames - 1)[0]
        pieces = [search.vocabulary.pieces[token].replace("▁", " ") for token in hypothesis.tokens]
        assert list(result.tokens) == pieces
        assert result.text.split() == search.vocabulary.text(hypothesis.tokens).split()
        times = [0.08 * frame for frame in hypothesis.frames]
        np.testing.assert_allclose(result.timestamps, times, atol=1e-5)
        tokens += len(pieces)
    assert tokens > 15  # blanks alone would prove nothing


def test_features_of_the_package_are_nemos_behind_half_a_hop_of_silence(
    model: EncDecHybridRNNTCTCBPEModel, folder: Path, segments: list[Segment]
) -> None:
    package = recognizer(folder, "ctc")
    samples = read(segments[0].audio)
    with torch.inference_mode():
        features, frames = model.preprocessor(
            input_signal=torch.from_numpy(samples)[None], length=torch.tensor([len(samples)])
        )
    nemo = features[0, :, : int(frames)].T

    def distance(lead: int) -> float:
        _, raw = listen(package, np.concatenate([np.zeros(lead, np.float32), samples]), piece=len(samples))
        ours = nemo_features(torch.from_numpy(raw)[None])[0, : len(nemo)]
        return float((ours - nemo).abs().mean())

    assert distance(LEAD) < 0.05 < 0.3 < distance(0)


def test_tail_seconds_is_the_least_silence_that_gives_every_frame(
    model: EncDecHybridRNNTCTCBPEModel, folder: Path
) -> None:
    package = recognizer(folder, "ctc")
    tail = round(tail_seconds(LOOK_AHEAD) * SAMPLE_RATE)

    def lost(samples: int, appended: int) -> bool:
        stream = package.create_stream()
        stream.accept_waveform(SAMPLE_RATE, np.zeros(samples + appended, np.float32))
        stream.input_finished()
        frames = 0
        while package.is_ready(stream):
            package.decode_stream(stream)
            frames += LOOK_AHEAD + 1
        return frames < int(frame_counts(model, [samples])[0])

    lengths = range(160 * 40, 160 * 40 + 160 * window_frames(LOOK_AHEAD))
    assert not any(lost(samples, tail) for samples in [*lengths[::160], *lengths[159::160]])
    assert any(lost(samples, tail - 1) for samples in lengths[::160])


def test_a_look_ahead_that_the_model_lacks_is_refused(
    model: EncDecHybridRNNTCTCBPEModel, shape: Shape, tmp_path: Path
) -> None:
    with pytest.raises(QuranAsrError, match="no look-ahead of 240 ms") as caught:
        write_sherpa(model, shape, tmp_path / "out", 3)
    assert "1040 ms, 480 ms, 80 ms, 0 ms" in str(caught.value.remedy)
    with pytest.raises(QuranAsrError, match="no head `rnnt`"):
        write_sherpa(model, shape, tmp_path / "out", 1, ("rnnt",))
    assert not (tmp_path / "out").exists()


def test_a_folder_of_one_head_holds_what_that_head_needs(
    model: EncDecHybridRNNTCTCBPEModel, shape: Shape, tmp_path: Path
) -> None:
    write_sherpa(model, shape, tmp_path, 0, ("ctc",))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.onnx", "tokens.txt"]
    onnx.checker.check_model(onnx.load(tmp_path / "model.onnx"))
    lines = (tmp_path / "tokens.txt").read_text(encoding="utf-8").splitlines()
    assert lines[-1] == f"<blk> {model.tokenizer.vocab_size}"
    assert len(lines) == model.tokenizer.vocab_size + 1
