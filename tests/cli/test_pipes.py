"""The command in a shell: a reader that goes away, no reader at all, Ctrl-C before it has begun."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest


def shell(line: str) -> subprocess.CompletedProcess[str]:
    command = f"{sys.executable} -m quran_asr"
    return subprocess.run(
        ["bash", "-c", line.replace("quran-asr", command)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def test_a_reader_that_has_seen_enough_is_not_an_error() -> None:
    done = shell("quran-asr text show 2 | head -1 >/dev/null; echo ${PIPESTATUS[0]}")
    assert done.stdout.strip() == "0"
    assert "Traceback" not in done.stderr


def test_a_closed_output_is_not_a_traceback() -> None:
    assert "Traceback" not in shell("quran-asr text show 112 >&-").stderr


PRESS = "import os, signal; os.kill(os.getpid(), signal.SIGINT)"
BROKEN = f"""
try:
    {PRESS}
except KeyboardInterrupt as error:
    raise ImportError("initialization failed") from error
"""


MODULE, SCRIPT = ["-m", "quran_asr"], ["-c", "from quran_asr.__main__ import main; main()"]


@pytest.mark.parametrize(
    ("begin", "package", "way"),
    [
        (MODULE, "click", PRESS),
        (MODULE, "click", f"exec({PRESS!r})"),
        (MODULE, "soundfile", f"exec({PRESS!r})"),
        (MODULE, "soundfile", BROKEN),
        (SCRIPT, "click", PRESS),
    ],
)
def test_ctrl_c_while_packages_are_imported_is_quiet(
    begin: list[str], package: str, way: str, tmp_path: Path
) -> None:
    """click is wanted before any code of ours can stand ready, soundfile by `listen`.

    An interrupt within `exec` is remembered by CPython until the end; pybind11 wraps one in an ImportError.
    """
    (tmp_path / f"{package}.py").write_text(way)
    done = subprocess.run(
        [sys.executable, *begin, "listen", "a.wav", "--model", str(tmp_path)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "interrupted\n")
