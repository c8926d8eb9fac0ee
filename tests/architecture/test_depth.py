"""How many of our functions lie between `evaluate` and its kernel: a reader follows them in a few steps."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from quran_asr import audio
from quran_asr.cli.main import main
from quran_asr.records import Segment, Transcript

PACKAGE = Path(__file__).parents[2] / "src" / "quran_asr"
BUDGET = 7
"""Functions from the command to the kernel, the command included."""


def path_here(command: str) -> list[str]:
    """Our functions on the stack from the command inwards; comprehensions are not functions."""
    frame, names = sys._getframe(1), []
    while frame is not None:
        code = frame.f_code
        if Path(code.co_filename).is_relative_to(PACKAGE) and not code.co_name.startswith("<"):
            names.append(f"{Path(code.co_filename).stem}.{code.co_name}")
        frame = frame.f_back
    names.reverse()
    return names[names.index(command) :]


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    audio.write(tmp_path / "112001.wav", np.full(16_000, 0.1, np.float32))
    line = {"audio_filepath": str(tmp_path / "112001.wav"), "duration": 1.0, "verses": ["112:1"]}
    (tmp_path / "test.jsonl").write_text(json.dumps(line) + "\n", encoding="utf-8")
    return tmp_path / "test.jsonl"


def evaluate(manifest: Path, model: Path, *more: str) -> None:
    words = ["evaluate", str(manifest), "--model", str(model), "--to", str(manifest.parent / "out"), *more]
    with pytest.raises(SystemExit) as end:
        main(words)
    assert end.value.code in (0, None)


def test_evaluate_reaches_the_recognizer_in_two_steps(
    manifest: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that of the budget five are left for what `transcribe` has too."""
    paths: list[list[str]] = []

    class Recognizer:
        name, decoder, look_ahead_ms, spelling, edition = "model", "ctc", None, "letters", "simple"
        training_data = None

        def recognize_clips(
            self, segments: list[Segment], on_progress: object = None
        ) -> Iterator[Transcript]:
            paths.append(path_here("evaluate.evaluate"))
            yield Transcript("")

    monkeypatch.setattr("quran_asr.cli.evaluate.load", lambda *_: Recognizer())
    (manifest.parent / "model.nemo").write_bytes(b"not opened")
    evaluate(manifest, manifest.parent / "model.nemo")
    assert paths == [["evaluate.evaluate", "evaluate.evaluate"]], "the command, and the evaluation"


@pytest.mark.slow
def test_evaluate_reaches_the_decoder_of_a_checkpoint_within_the_budget(
    manifest: Path,
    tiny_overrides: tuple[str, ...],
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> None:
    pytest.importorskip("nemo", reason="needs the extra train")
    from quran_asr.config.recipe import load_recipe
    from quran_asr.decoding import ctc
    from quran_asr.training.model import build_model

    tokenizer = request.getfixturevalue("tokenizer")
    model = build_model(load_recipe("quickstart", tiny_overrides), tokenizer.folder)
    model.save_to(str(manifest.parent / "model.nemo"))
    paths: list[list[str]] = []
    greedy = ctc.greedy_piece

    def kernel(*given: object) -> object:
        paths.append(path_here("evaluate.evaluate"))
        return greedy(*given)  # type: ignore[arg-type]

    monkeypatch.setattr("quran_asr.decoding.ctc.greedy_piece", kernel)
    evaluate(manifest, manifest.parent / "model.nemo", "--decoder", "ctc")
    (path,) = paths
    assert len(path) + 1 <= BUDGET, " -> ".join([*path, "ctc.greedy_piece"])
