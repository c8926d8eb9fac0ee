"""Exit after Ctrl-C: one word, exit code 130. Imports nothing slow."""

from __future__ import annotations

import os
import signal
import sys
import threading
from types import FrameType
from typing import NoReturn


class TerminatedError(SystemExit):
    """SIGTERM or SIGHUP came. On its way up it takes temporary folders, unfinished files and locks along."""


def clean_up_when_terminated() -> None:
    """Have SIGTERM and SIGHUP raise `TerminatedError` where they would end this process at once.

    Where one is ignored, as under `nohup`, it stays ignored; commands that have a way of their own to stop
    (a training, a sweep) put that over it. A process that is forked from this one ends as it did before: what
    is temporary is not its own.
    """
    owner = os.getpid()

    def end(number: int, frame: FrameType | None) -> None:
        if os.getpid() != owner:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        signal.signal(number, signal.SIG_IGN)
        raise TerminatedError(128 + number)

    if threading.current_thread() is not threading.main_thread():
        return
    for name in ("SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)  # Windows has no SIGHUP
        if number is not None and signal.getsignal(number) == signal.SIG_DFL:
            signal.signal(number, end)


def end_interrupted() -> NoReturn:
    """Report it and exit with 130.

    Where Ctrl-C came inside an `exec` or `eval` of text, as dataclasses and named tuples are made with,
    CPython remembers that and ends by the signal in place of the code; the next `exec` makes it forget.
    """
    exec("")
    print("interrupted", file=sys.stderr)
    sys.exit(130)


def is_interrupt(error: BaseException | None) -> bool:
    """Whether an error is Ctrl-C, or an import that it broke: extension modules raise that it `failed`."""
    while isinstance(error, ImportError):
        error = error.__cause__
    return isinstance(error, KeyboardInterrupt)
