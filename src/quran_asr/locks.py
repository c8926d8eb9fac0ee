"""Locks: files that one process at a time makes, that name it, and that do not outlive it."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from quran_asr.errors import QuranAsrError
from quran_asr.files import is_alive, named_errors, started, unfinished_path, write_atomically


@dataclass(frozen=True, slots=True)
class _Holder:
    """The process that made a lock file, as written in it."""

    pid: int
    host: str
    started: str | None
    """When the process began, as the system counts; None where unknown."""


@contextlib.contextmanager
def locked(path: Path, *, busy: str, wait: float = 0.0) -> Iterator[None]:
    """Hold a lock file: made by one process at a time, removed when the block ends.

    The lock of a process of this machine that is gone is taken over. That of another machine is not, as
    nobody here can know whether it still lives.

    Args:
        path: of the lock file; missing folders are made.
        busy: the message where another process holds it, `another training works here`.
        wait: seconds to wait for it first.

    Raises:
        QuranAsrError: another process holds it; it is named.
        OSError: the file cannot be made.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    ours = _Holder(os.getpid(), socket.gethostname(), started(os.getpid()))
    until = time.monotonic() + wait
    while not _take(path, ours):
        content = _read_or_none(path)
        if content is None:
            continue
        holder = _as_holder(content)
        if holder is not None and _is_gone(holder):
            _take_away(path, content)
        elif time.monotonic() < until:
            time.sleep(0.02)
        else:
            who = f"process {holder.pid} on {holder.host}" if holder else "another process"
            raise QuranAsrError(
                f"{busy} ({who})",
                where=str(path.parent),
                remedy=f"wait for it or end it; if it is gone, remove {path}",
            )
    try:
        yield
    finally:
        if _read_or_none(path) == _as_text(ours):  # else somebody removed it, and another has it now
            path.unlink(missing_ok=True)


def name_process(path: Path, pid: int) -> None:
    """Write down a process of this machine, as a lock file names its holder.

    Raises:
        OSError: the file cannot be written.
    """
    write_atomically(path, _as_text(_Holder(pid, socket.gethostname(), started(pid))).encode())


def named_process(path: Path) -> tuple[int, bool] | None:
    """The process that `name_process` wrote down: its number, and whether it is surely that process.

    Not certain where the system does not report when a process began, as numbers are used again. None where
    the process has ended, or belongs to another machine.
    """
    text = _read_or_none(path)
    holder = None if text is None else _as_holder(text)
    if holder is None or holder.host != socket.gethostname() or _is_gone(holder):
        return None
    return holder.pid, holder.started is not None


def _take(path: Path, ours: _Holder) -> bool:
    """Make the lock file; False where there is one."""
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    except FileExistsError:
        return False
    try:
        with named_errors(path), os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(_as_text(ours))
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    return True


def _take_away(path: Path, content: str) -> None:
    """Remove a stale lock. Another process may do the same: what it made meanwhile is put back."""
    aside = unfinished_path(path.parent)
    try:
        path.rename(aside)
    except FileNotFoundError:
        return
    if _read_or_none(aside) != content:
        with contextlib.suppress(OSError):
            os.link(aside, path)
    aside.unlink(missing_ok=True)


def _as_text(holder: _Holder) -> str:
    return json.dumps(asdict(holder)) + "\n"


def _as_holder(content: str) -> _Holder | None:
    """None for a file that is being written, or is not a lock of ours."""
    try:
        values = json.loads(content)
        holder = _Holder(values["pid"], values["host"], values["started"])
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
    fits = isinstance(holder.pid, int) and isinstance(holder.host, str)
    return holder if fits and isinstance(holder.started, str | None) and holder.pid > 0 else None


def _read_or_none(path: Path) -> str | None:
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            return file.read(10_000)
    except FileNotFoundError:
        return None


def _is_gone(holder: _Holder) -> bool:
    if holder.host != socket.gethostname():
        return False
    return not is_alive(holder.pid) or started(holder.pid) != holder.started
