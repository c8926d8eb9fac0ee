"""The command in a shell: a reader that goes away, no reader at all."""

from __future__ import annotations

import subprocess
import sys


def shell(line: str) -> subprocess.CompletedProcess[str]:
    command = f"{sys.executable} -m quran_asr"
    return subprocess.run(
        ["bash", "-c", line.replace("quran-asr", command)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_a_reader_that_has_seen_enough_is_no_error() -> None:
    done = shell("quran-asr text show 2 | head -1 >/dev/null; echo ${PIPESTATUS[0]}")
    assert done.stdout.strip() == "0"
    assert "Traceback" not in done.stderr


def test_a_closed_output_is_no_traceback() -> None:
    assert "Traceback" not in shell("quran-asr text show 112 >&-").stderr
