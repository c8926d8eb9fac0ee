"""One quickstart for all journeys: a real model whose own error is small, trained once in a test run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest


@dataclass(frozen=True)
class Done:
    code: int
    out: str
    err: str


Command = Callable[..., Done]


@pytest.fixture(scope="session")
def quran_asr() -> Command:
    """Run the real command in a process of its own."""

    def run(*words: object, cwd: Path | None = None, timeout: float = 600) -> Done:
        done = subprocess.run(
            [sys.executable, "-m", "quran_asr", *map(str, words)],
            capture_output=True,
            text=True,
            cwd=cwd,
            timeout=timeout,
            check=False,
            env={**os.environ, "COLUMNS": "110"},
        )
        return Done(done.returncode, done.stdout, done.stderr)

    return run


@dataclass(frozen=True)
class Quickstart:
    figures: dict[str, Any]
    said: str
    folder: Path


@pytest.fixture(scope="session")
def quickstart(quran_asr: Command, tmp_path_factory: pytest.TempPathFactory) -> Quickstart:
    """`quran-asr quickstart --json`, whole."""
    folder = tmp_path_factory.mktemp("quickstart")
    done = quran_asr("quickstart", "--to", folder / "quickstart", "--json", timeout=1500)
    assert done.code == 0, done.err
    return Quickstart(json.loads(done.out), done.err, folder / "quickstart")
