"""What recognition leaves on a machine: nothing."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np

from quran_asr import audio


def test_recognition_leaves_no_file_of_onnxruntime(
    small_bundle: Path, voice: np.ndarray, tmp_path: Path
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    audio.write(tmp_path / "one.wav", voice)
    command = [sys.executable, "-m", "quran_asr", "transcribe", "one.wav", "--model", str(small_bundle)]
    places = {name: str(home) for name in ("HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME")}
    unset = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    subprocess.run(command, cwd=tmp_path, env=unset | places, check=True, timeout=300, capture_output=True)
    assert not [path for path in home.rglob("*") if "onnxruntime" in str(path).lower()]
