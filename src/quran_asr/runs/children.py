"""Processes of a kit, a comparison or a sweep: none outlives the call, each is stopped as Ctrl-C would."""

from __future__ import annotations

import ctypes
import fcntl
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from quran_asr.findings import QuranAsrError

_LIBC = ctypes.CDLL(None)


class StopAskedError(Exception):
    """SIGINT or SIGTERM came."""


def start(
    words: Sequence[str], output: Path, environment: Mapping[str, str] | None = None
) -> subprocess.Popen[bytes]:
    """A child in a group of its own, so that Ctrl-C reaches it once, through us; it never outlives us.

    Args:
        words: the command.
        output: file that what it says is added to.
        environment: of the child; None: ours.
    """
    with output.open("ab") as file:
        return subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            env=environment,
            process_group=0,
            preexec_fn=_die_with_parent,
        )


def _die_with_parent() -> None:
    """Linux ends this process when the one that started it is gone (prctl(2), PR_SET_PDEATHSIG = 1)."""
    _LIBC.prctl(1, signal.SIGKILL)


def stop(process: subprocess.Popen[bytes], grace: float) -> None:
    """As Ctrl-C would: a training writes its checkpoint. Then without asking."""
    process.send_signal(signal.SIGINT)
    try:
        process.wait(grace)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


@contextmanager
def alone(work: Path) -> Iterator[None]:
    """Two calls on one folder would train into one run."""
    with (work / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise QuranAsrError(
                "an earlier call still works here",
                where=str(work),
                remedy="wait for it, or end it",
            ) from None
        yield


@contextmanager
def asked_to_stop() -> Iterator[None]:
    def ask(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise StopAskedError

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
