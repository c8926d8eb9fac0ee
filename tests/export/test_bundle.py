"""A bundle gives what NeMo gives: every look-ahead, any chunks, one stream or many. With a trained model."""

from __future__ import annotations

import json
import shutil
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from quran_asr import audio
from quran_asr.decoding import ctc
from quran_asr.decoding.options import Decoding
from quran_asr.errors import QuranAsrError
from quran_asr.runtime.bundle import read_bundle
from quran_asr.runtime.recognizer import Recognizer

pytestmark = pytest.mark.slow

LOOK_AHEADS = (1040, 480, 80, 0)


@pytest.fixture(scope="module")
def model(quickstart: Any) -> Any:
    from quran_asr.training.recognizer import load_model

    return load_model(Path(quickstart.figures["run"]))[0].eval()


@pytest.fixture(scope="module")
def sounds(quickstart: Any) -> dict[str, np.ndarray]:
    """Verses by a voice not in the training; the longest reach far beyond the left context (5.6 s)."""
    folder = next(quickstart.folder.glob("corpus/held_out-*/espeak-Alex"))
    clips = {name: audio.read(folder / f"{name}.flac") for name in ("112001", "103003", "114004", "001007")}
    loud = np.concatenate(list(clips.values()))
    return {
        **clips,
        "four verses": loud,
        "cut in mid-word": loud[:7_777],
        "one sample": loud[8_000:8_001],
        "a feature frame less one sample": loud[8_000:8_159],
        "shorter than an encoder frame": loud[8_000:9_001],
        "silence": np.zeros(20_000, np.float32),
        "nothing": np.zeros(0, np.float32),
    }


@pytest.fixture(scope="module")
def expected(model: Any, sounds: dict[str, np.ndarray]) -> dict[tuple[int, str], Any]:
    """What NeMo's own whole-file pass says: (log-probabilities, transducer tokens)."""
    from quran_asr.export.verification import nemo_transcribes
    from quran_asr.training.model import look_aheads, set_look_ahead

    contexts = look_aheads(model)
    assert tuple(contexts) == LOOK_AHEADS
    emissions = {}
    for ms in reversed(LOOK_AHEADS):  # ends with the widest, as it began
        set_look_ahead(model, contexts[ms])
        for name, samples in sounds.items():
            emissions[ms, name] = nemo_transcribes(model, samples)
    return emissions


def recognizer(bundle: Path, decoder: str, ms: int) -> Recognizer:
    return Recognizer(read_bundle(bundle), Decoding(decoder=decoder, pause_seconds=None), ms)


def in_pieces(samples: np.ndarray, size: int) -> list[np.ndarray]:
    bounds = [*range(0, len(samples), size), len(samples)]
    return [samples[a:b] for a, b in pairwise(bounds)]


def test_the_model_recognizes(quickstart: Any) -> None:
    """Sameness of a model that says blank alone would prove nothing."""
    rates = quickstart.figures["wer"]["held_out"]
    assert max(rates[f"{decoder} {ms} ms"] for decoder in ("transducer", "ctc") for ms in (1040, 0)) < 0.3


@pytest.mark.parametrize("ms", LOOK_AHEADS)
@pytest.mark.parametrize("size", [160, 1_001, 16_000, 1 << 30])
def test_log_probabilities_are_nemos(
    ms: int, size: int, bundle: Path, sounds: dict[str, np.ndarray], expected: dict[Any, Any]
) -> None:
    runtime = recognizer(bundle, "ctc", ms)
    for name, samples in sounds.items():
        scores, _ = expected[ms, name]
        got = runtime.emissions(in_pieces(samples, size)).log_probs
        assert got.shape == scores.shape, name
        assert np.abs(got - scores).max(initial=0.0) < 1e-3, name


@pytest.mark.parametrize("ms", LOOK_AHEADS)
@pytest.mark.parametrize("decoder", ["transducer", "ctc"])
def test_words_are_nemos_whole_in_pieces_and_in_company(
    ms: int, decoder: str, bundle: Path, sounds: dict[str, np.ndarray], expected: dict[Any, Any]
) -> None:
    runtime = recognizer(bundle, decoder, ms)
    pieces = runtime.bundle.vocabulary
    right = {}
    for name in sounds:
        scores, tokens = expected[ms, name]
        right[name] = pieces.text(tokens if decoder == "transducer" else ctc.greedy(scores).tokens)
    assert right["four verses"].count(" ") >= 12
    for name, samples in sounds.items():
        assert runtime.recognize(samples).text == right[name], name
        for size in (160, 1_001, 16_000) if len(samples) > 1 else (1,):
            stream = runtime.stream()
            for piece in in_pieces(samples, size):
                stream.accept(piece)
            stream.finish()
            assert stream.transcript.text == right[name], (name, size)
    # all at once, each in pieces of its own size, so that their pieces become ready at different times
    streams = {name: runtime.stream() for name in sounds}
    cuts = {name: in_pieces(samples, 1_000 + 777 * i) for i, (name, samples) in enumerate(sounds.items())}
    while any(cuts.values()):
        for name, waiting in cuts.items():
            if waiting:
                streams[name].push(waiting.pop(0))
            else:
                streams[name].end()
        runtime.advance(list(streams.values()))
    for stream in streams.values():
        stream.end()
    runtime.advance(list(streams.values()))
    assert {name: stream.transcript.text for name, stream in streams.items()} == right


def test_sample_by_sample(bundle: Path, sounds: dict[str, np.ndarray], expected: dict[Any, Any]) -> None:
    samples = sounds["cut in mid-word"]
    got = recognizer(bundle, "ctc", 0).emissions(in_pieces(samples, 1)).log_probs
    assert np.abs(got - expected[0, "cut in mid-word"][0]).max() < 1e-3


def test_one_kind_of_8_bits_is_chosen(in_process: Any, tmp_path: Path) -> None:
    done = in_process("export", "any.nemo", "--to", tmp_path / "to", "--int8", "--int8-weights")
    assert done.code == 2
    assert "`--int8` and `--int8-weights` exclude each other" in done.err
    done = in_process("export", "any.nemo", "--to", tmp_path / "to", "--beam-temperature", 0)
    assert (done.code, "'--beam-temperature': 0.0 is not in the range" in done.err) == (2, True)


def test_int8_weights_are_nearly_as_exact_as_floats(quickstart: Any, in_process: Any, tmp_path: Path) -> None:
    folder = tmp_path / "int8"
    done = in_process(
        "export",
        quickstart.figures["run"],
        "--to",
        folder,
        "--int8-weights",
        "--json",
        "--beam-temperature",
        1.5,
    )
    assert done.code == 0, done.err
    cost = json.loads(done.out)["figures"]["int8"]
    assert cost["size_ratio"] < 0.5
    assert abs(cost["wer"] - cost["wer_float"]) < 0.01
    assert 0 < cost["largest_difference"] < 0.5
    assert cost["pieces_same"] == cost["pieces"]
    written = read_bundle(folder)
    assert (written.precision, written.beam_temperature) == ("int8-weights", 1.5)
    assert "temperature of the beam search: 1.5" in (folder / "MODEL_CARD.md").read_text(encoding="utf-8")


def test_int8_reports_what_it_costs(quickstart: Any, in_process: Any, tmp_path: Path) -> None:
    folder = tmp_path / "int8"
    done = in_process("export", quickstart.figures["run"], "--to", folder, "--int8", "--json")
    assert done.code == 0, done.err
    cost = json.loads(done.out)["figures"]["int8"]
    assert cost["size_ratio"] < 0.5
    assert 0 <= cost["wer"] < cost["wer_float"] + 0.1
    assert cost["clips"] > 50
    assert 0 < cost["largest_difference"] < 2
    assert cost["pieces_same"] >= cost["pieces"] - 1
    assert read_bundle(folder).precision == "int8"
    assert f"{cost['wer']:.4f}" in (folder / "MODEL_CARD.md").read_text(encoding="utf-8")


def test_a_graph_that_is_not_the_model_is_not_written(
    quickstart: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from quran_asr.export import bundle as export
    from quran_asr.export import graphs

    whole = graphs.StreamingEncoder.forward

    def broken(self: Any, *given: Any) -> Any:
        joint, scores, *kept = whole(self, *given)
        return joint, scores + 0.01, *kept

    monkeypatch.setattr(graphs.StreamingEncoder, "forward", broken)
    with pytest.raises(QuranAsrError, match="differs by"):
        export.export(Path(quickstart.figures["run"]), tmp_path / "bundle")
    assert list(tmp_path.iterdir()) == []


def test_another_folder_is_not_written_over(quickstart: Any, in_process: Any, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    done = in_process("export", quickstart.figures["run"], "--to", tmp_path)
    assert done.code == 2
    assert "the folder already holds other files" in done.err
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_what_an_export_did_not_write_is_not_taken_away(
    quickstart: Any, bundle: Path, in_process: Any, tmp_path: Path
) -> None:
    mine = tmp_path / "bundle"
    shutil.copytree(bundle, mine)
    (mine / "notes.txt").write_text("mine")
    done = in_process("export", quickstart.figures["run"], "--to", mine)
    assert done.code == 2
    assert "the folder already holds other files: notes.txt" in done.err
    assert (mine / "notes.txt").read_text() == "mine"
    done = in_process("export", quickstart.figures["run"], "--to", ".", cwd=tmp_path)
    assert done.code == 2
    assert "this is the working folder" in done.err
