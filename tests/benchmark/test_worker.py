"""A worker in a process of its own: answers, errors, and what it leaves of the command's output."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from quran_asr.benchmark.worker import started
from quran_asr.errors import QuranAsrError

LOADER = "worker_stand_in:load"
STAND_IN = """
import os
from contextlib import contextmanager


class Counter:
    def __init__(self, start):
        self.count = start

    def add(self, number, *, times=1):
        print("libraries print")
        self.count += number * times
        return self.count

    def environment(self):
        return os.environ["OMP_NUM_THREADS"], os.getpid()

    def fail(self):
        raise ValueError("out of range")

    def leave(self):
        os._exit(3)


@contextmanager
def load(start):
    if start is None:
        raise RuntimeError("no model")
    yield Counter(start)
"""


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    (tmp_path / "worker_stand_in.py").write_text(STAND_IN)
    monkeypatch.syspath_prepend(tmp_path)  # a spawned process gets the path of this one
    yield


def test_calls_are_answered_by_one_object_in_another_process(
    stand_in: None, capfd: pytest.CaptureFixture[str]
) -> None:
    before = os.environ.get("OMP_NUM_THREADS")
    with started("counter", LOADER, 5, threads=3) as worker:
        assert worker("add", 2) == 7
        assert worker("add", 2, times=3) == 13
        threads, process = worker("environment")
        assert (threads, process != os.getpid(), worker.cpu_seconds > 0) == ("3", True, True)
        with pytest.raises(QuranAsrError, match="counter failed in `fail`: ValueError: out of range"):
            worker("fail")
    assert os.environ.get("OMP_NUM_THREADS") == before
    out, err = capfd.readouterr()
    assert out == "" and err.count("libraries print") == 2, "stdout belongs to the command"


@pytest.mark.parametrize(
    ("setup", "method", "message"),
    [
        (None, "add", "counter failed in `start`: RuntimeError: no model"),
        (1, "leave", "counter failed in `leave`: its process ended"),
    ],
)
def test_a_worker_that_does_not_start_or_dies_is_named(
    stand_in: None, setup: int | None, method: str, message: str
) -> None:
    with pytest.raises(QuranAsrError, match=message), started("counter", LOADER, setup, threads=1) as worker:
        worker(method)
