"""One process at a time has a lock; that of a process that is gone holds nobody up."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from quran_asr.errors import QuranAsrError
from quran_asr.files import started
from quran_asr.locks import locked, name_process, named_process

HOLD = """
import pathlib, sys, time
from quran_asr.locks import locked
with locked(pathlib.Path(sys.argv[1]), busy="somebody works here"):
    print("held", flush=True)
    time.sleep(60)
"""

COUNT = """
import pathlib, sys
from quran_asr.locks import locked
place = pathlib.Path(sys.argv[1])
for _ in range(int(sys.argv[2])):
    with locked(place.with_name(".lock"), busy="somebody counts", wait=60):
        place.write_text(str(int(place.read_text()) + 1))
"""


def holder(lock: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(lock)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_a_second_one_is_refused_with_the_holder(tmp_path: Path) -> None:
    lock = tmp_path / "run" / ".lock"
    process = holder(lock)
    try:
        with (
            pytest.raises(QuranAsrError, match="somebody works here") as refused,
            locked(lock, busy="somebody works here"),
        ):
            pytest.fail("both hold it")
        assert f"process {process.pid} on {socket.gethostname()}" in str(refused.value)
        assert refused.value.where == str(lock.parent)
        assert str(lock) in refused.value.remedy
        assert json.loads(lock.read_text())["pid"] == process.pid
    finally:
        process.kill()
        process.wait()


def test_it_is_gone_afterwards_also_after_an_error(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), locked(tmp_path / ".lock", busy="busy"):
        assert (tmp_path / ".lock").exists()
        with pytest.raises(QuranAsrError), locked(tmp_path / ".lock", busy="busy"):
            pytest.fail("a process holds it twice")
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def test_the_lock_of_a_killed_process_is_taken_over(tmp_path: Path) -> None:
    process = holder(tmp_path / ".lock")
    process.kill()
    assert (tmp_path / ".lock").exists()
    with locked(tmp_path / ".lock", busy="busy", wait=60):  # until it has ended; nobody waits for it
        assert json.loads((tmp_path / ".lock").read_text())["pid"] == os.getpid()
    process.wait()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux reports when a process began")
def test_a_number_that_another_process_has_now_does_not_hold_it(tmp_path: Path) -> None:
    content = {"pid": os.getpid(), "host": socket.gethostname(), "started": "1"}
    assert started(os.getpid()) != "1"
    (tmp_path / ".lock").write_text(json.dumps(content))
    with locked(tmp_path / ".lock", busy="busy"):
        pass


@pytest.mark.parametrize(
    "content",
    [
        json.dumps({"pid": 1, "host": "another machine", "started": "5"}),
        "",
        "notes of mine",
        "[" * 9_000,
        json.dumps({"pid": "1", "host": socket.gethostname(), "started": None}),
        json.dumps({"pid": -1, "host": socket.gethostname(), "started": None}),
    ],
)
def test_what_cannot_be_known_to_be_stale_is_left(tmp_path: Path, content: str) -> None:
    (tmp_path / ".lock").write_text(content)
    with pytest.raises(QuranAsrError, match="busy"), locked(tmp_path / ".lock", busy="busy"):
        pytest.fail("taken")
    assert (tmp_path / ".lock").read_text() == content


def test_one_that_was_removed_by_hand_and_taken_by_another_stays(tmp_path: Path) -> None:
    with locked(tmp_path / ".lock", busy="busy"):
        (tmp_path / ".lock").write_text("another's")
    assert (tmp_path / ".lock").read_text() == "another's"


def test_many_that_wait_for_it_have_it_in_turn(tmp_path: Path) -> None:
    count = tmp_path / "count"
    count.write_text("0")
    stale = {"pid": 2**22 - 3, "host": socket.gethostname(), "started": "1"}
    (tmp_path / ".lock").write_text(json.dumps(stale))  # all of them find it
    command = [sys.executable, "-c", COUNT, str(count), "25"]
    processes = [subprocess.Popen(command) for _ in range(4)]
    assert [process.wait(300) for process in processes] == [0, 0, 0, 0]
    assert count.read_text() == "100"
    assert [path.name for path in tmp_path.iterdir()] == ["count"]


def test_waiting_ends(tmp_path: Path) -> None:
    process = holder(tmp_path / ".lock")
    began = time.monotonic()
    with pytest.raises(QuranAsrError), locked(tmp_path / ".lock", busy="busy", wait=0.3):
        pytest.fail("taken")
    assert 0.3 <= time.monotonic() - began < 60
    process.send_signal(signal.SIGKILL)
    process.wait()


def test_a_process_is_named_for_as_long_as_it_lives(tmp_path: Path) -> None:
    place = tmp_path / "process"
    assert named_process(place) is None
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    name_process(place, process.pid)
    assert named_process(place) == (process.pid, started(process.pid) is not None)
    there = json.loads(place.read_text())
    for other in ({"host": "elsewhere"}, {"started": "1"}):  # another machine's, or its number given again
        place.write_text(json.dumps(there | other))
        assert named_process(place) is None
    name_process(place, process.pid)
    process.kill()
    process.wait()
    assert named_process(place) is None
