"""The tutorial's commands after the quickstart, run as they stand on the page."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "tutorial" / "first-model.md").read_text(encoding="utf-8")

pytestmark = pytest.mark.slow


def commands(heading: str) -> str:
    """All blocks under a heading, as one script."""
    section = PAGE.partition(f"## {heading}\n")[2].partition("\n## ")[0]
    return "\n".join(re.findall(r"^```bash\n(.*?)^```", section, re.MULTILINE | re.DOTALL))


def test_transcribe_export_and_listen(quickstart, tmp_path: Path) -> None:
    (tmp_path / "quickstart").symlink_to(quickstart.folder)
    program = tmp_path / "bin" / "quran-asr"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m quran_asr "$@"\n', encoding="utf-8")
    program.chmod(0o755)
    done = subprocess.run(
        ["bash", "-euc", commands("2. Transcribe a recording")],
        cwd=tmp_path,
        env={**os.environ, "PATH": f"{program.parent}{os.pathsep}{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        timeout=1500,
    )
    assert done.returncode == 0, done.stderr
    assert "001007.flac\t" in done.stdout
    assert '"words"' in done.stdout
    assert (tmp_path / "bundle" / "bundle.json").is_file()
