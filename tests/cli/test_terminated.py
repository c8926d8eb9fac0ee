"""SIGTERM and SIGHUP end a command as an error would: nothing temporary is left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

COMMAND = """
import os, pathlib, signal, sys, time
import click
from quran_asr.cli import main
from quran_asr.files import replacing, temporary_folder
from quran_asr.locks import locked

@main.cli.command()
def long():
    place = pathlib.Path(sys.argv[1])
    lock = locked(place / ".lock", busy="")
    with temporary_folder() as folder, replacing(place / "report.json") as report, lock:
        (folder / "large").write_bytes(bytes(1000))
        report.write_bytes(b"half")
        {before}
        print("working", flush=True)
        for _ in range(600): time.sleep(0.1)  # a signal just before one long sleep waits for its end

main.COMMANDS["long"] = ("__main__:long", "")
sys.modules["__main__"].long = long
main.main(["long"])
"""


def started(tmp_path: Path, before: str = "pass") -> subprocess.Popen[str]:
    for name in ("tmp", "place"):
        (tmp_path / name).mkdir()
    process = subprocess.Popen(
        [sys.executable, "-c", COMMAND.replace("{before}", before), str(tmp_path / "place")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(tmp_path / "tmp")},
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "working\n"
    return process


def left(tmp_path: Path) -> list[str]:
    return sorted(path.name for name in ("tmp", "place") for path in (tmp_path / name).iterdir())


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_nothing_temporary_is_left(tmp_path: Path, number: signal.Signals) -> None:
    process = started(tmp_path)
    assert len(left(tmp_path)) == 3
    process.send_signal(number)
    _, err = process.communicate(timeout=300)
    assert process.returncode == (130 if number == signal.SIGINT else 128 + number)
    assert err == ("interrupted\n" if number == signal.SIGINT else "terminated\n")
    assert left(tmp_path) == []


def test_what_is_ignored_stays_ignored(tmp_path: Path) -> None:
    """As under `nohup`."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        process = started(tmp_path)
    finally:
        signal.signal(signal.SIGHUP, before)
    process.send_signal(signal.SIGHUP)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.5)
    process.terminate()
    process.communicate(timeout=300)
    assert left(tmp_path) == []


def test_a_worker_that_is_ended_takes_nothing_of_its_parent_along(tmp_path: Path) -> None:
    fork = (
        "child = os.fork()\n"
        "        if child == 0: time.sleep(60); os._exit(0)\n"
        "        time.sleep(0.3)  # Python drops signals that come while it forks\n"
        "        os.kill(child, signal.SIGTERM)\n"
        "        assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGTERM\n"
    )
    process = started(tmp_path, fork)
    assert len(left(tmp_path)) == 3
    process.terminate()
    process.communicate(timeout=300)
    assert process.returncode == 143
    assert left(tmp_path) == []
