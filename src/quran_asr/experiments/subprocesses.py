"""Subprocesses of a comparison or sweep: they end with their parent and stop as on Ctrl-C."""

from __future__ import annotations

import ctypes
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from quran_asr.files import named_errors
from quran_asr.locks import locked


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
    dying = _dying_with_parent() if sys.platform == "linux" else None
    with named_errors(output), output.open("ab") as file:
        return subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            env=environment,
            process_group=0 if sys.platform != "win32" else None,
            preexec_fn=dying,
        )


def _dying_with_parent() -> Callable[[], None]:
    """What has Linux end a process when the one that started it is gone (prctl(2), PR_SET_PDEATHSIG = 1)."""
    libc = ctypes.CDLL(None)
    return lambda: libc.prctl(1, signal.SIGKILL)


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
    with locked(work / ".lock", busy="an earlier call still works here"):
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
