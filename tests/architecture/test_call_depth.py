"""A reader follows a command to its kernel in few functions: ours on the stack are counted there."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from quran_asr import audio
from quran_asr.cli.main import main
from quran_asr.records import Segment, Transcript
from quran_asr.runtime import sessions

PACKAGE = Path(sessions.__file__).parents[1]
BUDGETS = {"train": 8, "transcribe": 6, "listen": 6, "evaluate": 7}
"""Our functions from the command to its kernel, both counted."""
TO_THE_JOINT = {"transducer": 8, "transducer-beam": 11}
"""For `transcribe` and `listen`: a transducer asks the joint network from within its search; a beam search
does so for a block of frames, and again for each text that grows in one."""


def path_from(command: str) -> list[str]:
    """Our functions on the stack of the caller, from the command inwards; comprehensions are none."""
    frame, names = sys._getframe(1), []
    while frame is not None:
        code = frame.f_code
        if Path(code.co_filename).is_relative_to(PACKAGE) and not code.co_name.startswith("<"):
            names.append(f"{Path(code.co_filename).stem}.{code.co_name}")
        frame = frame.f_back
    names.reverse()
    return names[names.index(f"{command}.{command}") :]


def run(*words: object) -> None:
    with pytest.raises(SystemExit) as ended:
        main([str(word) for word in words])
    assert ended.value.code in (0, None)


def within(budget: int, paths: list[list[str]]) -> None:
    assert paths
    longest = max(paths, key=len)
    assert len(longest) <= budget, " -> ".join(longest)


class Counted:
    """An ONNX session that notes the path to it."""

    def __init__(self, session: Any, note: Callable[[], None]) -> None:
        self.session, self.note = session, note

    def run(self, *arguments: Any) -> Any:
        self.note()
        return self.session.run(*arguments)


@pytest.mark.parametrize("decoder", TO_THE_JOINT)
@pytest.mark.parametrize("command", ["transcribe", "listen"])
def test_a_command_reaches_the_networks_of_a_bundle(
    command: str,
    decoder: str,
    small_bundle: Path,
    voice: np.ndarray,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    audio.write(tmp_path / "a.wav", voice[:32_000])
    paths: dict[str, list[list[str]]] = {"encoder.onnx": [], "joint.onnx": []}
    load = sessions._load

    def counted(file: Path, threads: int) -> Any:
        session = load(file, threads)
        if file.name not in paths:
            return session

        def note() -> None:
            path = path_from(command)
            if not any(name.endswith(".run_once") for name in path):  # the warm-up
                paths[file.name].append(path)

        return Counted(session, note)

    monkeypatch.setattr(sessions, "_load", counted)
    run(command, tmp_path / "a.wav", "--model", small_bundle, "--decoder", decoder)
    within(BUDGETS[command], paths["encoder.onnx"])
    within(TO_THE_JOINT[decoder], paths["joint.onnx"])


@pytest.mark.slow
def test_train_reaches_the_loss_kernel(
    spoken: Path, tiny_overrides: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from quran_asr.training.loss.engine import TorchEngine

    paths: list[list[str]] = []
    kernel = TorchEngine.score

    def score(self: TorchEngine, *arguments: Any) -> None:
        path = path_from("train")
        if any(name.endswith(".training_step") for name in path):
            paths.append([*path, "engine.score"])
        kernel(self, *arguments)

    monkeypatch.setattr(TorchEngine, "score", score)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    # The optimizer step runs the last batch of its window from within: windows of two show both ways.
    overrides = [
        *tiny_overrides,
        f"exp_manager.exp_dir={tmp_path}",
        "quran.curriculum=null",
        "trainer.max_steps=1",
        "trainer.accumulate_grad_batches=2",
        "trainer.val_check_interval=2",
    ]
    words = ["--train", spoken, "--validation", spoken, "--no-preflight"]
    run("train", "quickstart", *words, *overrides)
    within(BUDGETS["train"], paths)


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    audio.write(tmp_path / "112001.wav", np.full(16_000, 0.1, np.float32))
    line = {"audio_filepath": str(tmp_path / "112001.wav"), "duration": 1.0, "verses": ["112:1"]}
    (tmp_path / "test.jsonl").write_text(json.dumps(line) + "\n", encoding="utf-8")
    return tmp_path / "test.jsonl"


def test_evaluate_reaches_the_recognizer_in_two_functions(
    manifest: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that five are left of the budget for what `transcribe` has too."""
    paths: list[list[str]] = []

    class Recognizer:
        name, decoder, look_ahead_ms, spelling, edition = "model", "ctc", None, "letters", "simple"
        training_data = None

        def recognize_clips(
            self, segments: list[Segment], on_progress: object = None
        ) -> Iterator[Transcript]:
            paths.append(path_from("evaluate"))
            yield Transcript("")

    monkeypatch.setattr("quran_asr.cli.evaluate.load", lambda *_: Recognizer())
    (manifest.parent / "model.nemo").write_bytes(b"not opened")
    run("evaluate", manifest, "--model", manifest.parent / "model.nemo", "--to", manifest.parent / "out")
    assert paths == [["evaluate.evaluate", "evaluate.evaluate"]], "the command, and the evaluation"


@pytest.mark.slow
def test_evaluate_reaches_the_decoder_of_a_checkpoint(
    manifest: Path, small_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from quran_asr.decoding import ctc

    paths: list[list[str]] = []
    greedy = ctc.greedy_chunk

    def kernel(*given: object) -> object:
        paths.append([*path_from("evaluate"), "ctc.greedy_chunk"])
        return greedy(*given)  # type: ignore[arg-type]

    monkeypatch.setattr("quran_asr.decoding.ctc.greedy_chunk", kernel)
    model = small_bundle.parent / "model.nemo"
    run("evaluate", manifest, "--model", model, "--to", manifest.parent / "out", "--decoder", "ctc")
    within(BUDGETS["evaluate"], paths)
