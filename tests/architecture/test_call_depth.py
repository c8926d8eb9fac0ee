"""A reader follows a command to the network in few steps: our functions on the stack are counted there."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from quran_asr import audio
from quran_asr.cli.main import _run as run
from quran_asr.runtime import sessions

PACKAGE = Path(sessions.__file__).parents[1]


class Counted:
    """An ONNX session that notes our functions on the stack, from the command down."""

    def __init__(self, session: Any, stacks: list[list[str]]) -> None:
        self.session, self.stacks = session, stacks

    def run(self, *arguments: Any) -> Any:
        names, frame = [], sys._getframe(1)
        while frame is not None:
            if Path(frame.f_code.co_filename).is_relative_to(PACKAGE):
                names.append(frame.f_code.co_name)
            frame = frame.f_back
        self.stacks.append(names[::-1])
        return self.session.run(*arguments)


@pytest.mark.parametrize("command", ["transcribe", "listen"])
def test_few_functions_lie_between_a_command_and_the_networks(
    command: str, small_bundle: Path, voice: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    audio.write(tmp_path / "a.wav", voice[:32_000])
    stacks: dict[str, list[list[str]]] = {}
    load = sessions._load

    def counted(path: Path, threads: int) -> Counted:
        return Counted(load(path, threads), stacks.setdefault(path.name, []))

    monkeypatch.setattr(sessions, "_load", counted)
    assert run([command, str(tmp_path / "a.wav"), "--model", str(small_bundle)]) == 0
    for name, most in (("encoder.onnx", 6), ("joint.onnx", 8)):
        called = [stack[stack.index(command) :] for stack in stacks[name] if "run_once" not in stack]
        assert called, name
        assert max(map(len, called)) <= most, max(called, key=len)
