"""How the quickstart ends, where there is a model in the package and where there is none."""

from __future__ import annotations

from pathlib import Path

import pytest

from quran_asr.cli.main import COMMANDS
from quran_asr.cli.quickstart import next_steps


def test_it_says_what_to_do_with_a_recording_of_ones_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("quran_asr.runtime.bundle.DEFAULT_MODEL", tmp_path)
    assert next_steps() == ""
    (tmp_path / "bundle.json").write_text("{}")
    commands = [line.split()[1] for line in next_steps().splitlines() if line.startswith("  quran-asr")]
    assert commands == ["transcribe", "identify"]
    assert set(commands) <= set(COMMANDS)
