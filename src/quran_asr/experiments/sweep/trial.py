"""One trial of a sweep: a training in its own process, watched through its run folder.

A trial's folder holds its run, what the process said (`train.log`), how it ended (`ended.json`) and a lock
that the process holds for as long as it lives: a sweep that was killed leaves a training behind, and the next
call must neither train beside it nor take it for finished.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from quran_asr.errors import QuranAsrError
from quran_asr.experiments.run_folder import RunFolder, runs_below
from quran_asr.files import parse_json

TRAIN = (sys.executable, "-m", "quran_asr", "train")
"""The command of a trial."""
LOOK_SECONDS = 0.5
"""How often `metrics.jsonl` is looked at."""
LAST_WORDS_SECONDS = 600.0
"""How long a training that was asked to end may take to write its last checkpoint."""

Judge = Callable[[int, float], bool]
"""Called with (step, WER) of each validation, in order; True ends the trial."""


@dataclass(frozen=True, slots=True)
class Ended:
    """How a trial's process ended."""

    code: int
    reported: dict[str, Any] | None
    """What `train --json` printed."""
    pruned_at: int | None
    """The step of the validation after which it was ended; None where it was left to its end."""
    complaint: str
    """The last line that it said, where it failed."""

    @property
    def finished(self) -> bool:
        """It trained to its end."""
        return self.code == 0 and self.reported is not None


def run_of(folder: Path) -> RunFolder | None:
    """The run of a trial, once there is one."""
    runs = runs_below(folder)
    return runs[-1] if runs else None


def reported_by(folder: Path) -> dict[str, Any] | None:
    """How the training of a trial ended, if it did."""
    try:
        reported = parse_json((folder / "ended.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return reported if isinstance(reported, dict) and "interrupted" in reported else None


def run_trial(
    folder: Path, words: Sequence[str], diagnose: Judge, on_wait: Callable[[], None] = lambda: None
) -> Ended:
    """Train a trial, or go on with it, until it ends or `judge` ends it.

    Args:
        folder: of the trial; its run lies in it.
        words: what follows `quran-asr train` where it begins anew.
        judge: sees every validation once, those of an earlier call too.
        on_wait: called at every look while it trains.

    Raises:
        KeyboardInterrupt: this process was asked to stop; so was the training, which has ended.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder / "lock", lambda: (folder / "process").read_text(encoding="utf-8")) as lock:
        reported = reported_by(folder)
        seen = _Validations(folder, diagnose)
        if reported is not None and not reported["interrupted"]:
            seen.look()
            return Ended(0 if reported.get("stopped_by") is None else 1, reported, None, "")
        if seen.look() is not None:  # it was to be ended when the sweep was killed
            return Ended(130, reported, seen.pruned_at, "")
        with _started(folder, words, lock) as process:
            while process.poll() is None:
                time.sleep(LOOK_SECONDS)
                on_wait()
                if seen.look() is not None and process.poll() is None:
                    process.send_signal(signal.SIGTERM)
                    process.wait()
        reported = reported_by(folder)
        if process.returncode == 0:
            seen.look()
            return Ended(0, reported, None, "")
        return Ended(process.returncode, reported, seen.pruned_at, _last_line(folder / "train.log"))


@contextlib.contextmanager
def _started(folder: Path, words: Sequence[str], lock: IO[str]) -> Iterator[subprocess.Popen[bytes]]:
    """The process of a trial; an interrupt of ours is handed on once, and waited for."""
    run = run_of(folder)
    command = [*TRAIN, *(words if run is None else ["--resume", str(run.path)]), "--json"]
    (folder / "ended.json").unlink(missing_ok=True)
    with (folder / "ended.json").open("wb") as out, (folder / "train.log").open("ab") as log:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=log,
            start_new_session=True,  # Ctrl-C comes from us, once: a second one would lose the checkpoint
            pass_fds=(lock.fileno(),),
        )
    (folder / "process").write_text(str(process.pid), encoding="utf-8")
    try:
        yield process
    except BaseException:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait()
        except KeyboardInterrupt:
            process.kill()
            process.wait()
        raise


class _Validations:
    """The validations of a trial's run, each shown to the judge once."""

    def __init__(self, folder: Path, diagnose: Judge) -> None:
        self.folder = folder
        self.diagnose = diagnose
        self.last = 0
        self.pruned_at: int | None = None

    def look(self) -> int | None:
        """Show what is new; the step at which the judge ended the trial."""
        run = run_of(self.folder)
        if run is None or self.pruned_at is not None:
            return self.pruned_at
        for row in run.read_metrics():
            if row["split"] == "validation" and row["step"] > self.last and row["wer"] is not None:
                self.last = row["step"]
                if self.diagnose(row["step"], row["wer"]):
                    self.pruned_at = row["step"]
                    return self.pruned_at
        return None


@contextlib.contextmanager
def locked(path: Path, holder: Callable[[], str] | None = None) -> Iterator[IO[str]]:
    """Hold a lock that ends with the processes that have it, whatever kills them.

    Args:
        path: of the lock.
        holder: gives the number of the process that may still hold it, which is then asked to end; None
            refuses instead.

    Raises:
        QuranAsrError: it is held, and by nobody whom we may end.
    """
    import fcntl  # not on Windows, where everything else of this package is imported too

    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if holder is None:
                raise QuranAsrError("another sweep works in this folder", where=str(path.parent)) from None
            _wait_for_end(file, holder(), path)
        yield file


def _wait_for_end(file: IO[str], number: str, path: Path) -> None:
    import fcntl

    if number.strip().isdigit() and _is_training(int(number)):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(int(number), signal.SIGTERM)
    until = time.monotonic() + LAST_WORDS_SECONDS
    while time.monotonic() < until:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            time.sleep(LOOK_SECONDS)
    raise QuranAsrError(
        f"a training of an earlier call (process {number.strip()}) does not end", where=str(path.parent)
    )


def _is_training(number: int) -> bool:
    """Whether a process is one of ours, as far as the system tells: numbers are used again."""
    try:
        words = Path(f"/proc/{number}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return not Path("/proc/self").exists()
    return {word.encode() for word in TRAIN[1:]} <= set(words)


def last_error_lines(log: Path) -> str:
    """The last whole line of a log that may be growing; reads its end alone."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - 8192))
            lines = file.read().decode("utf-8", "replace").split("\n")[:-1]
    except OSError:
        return ""
    return next((line.strip() for line in reversed(lines) if line.strip()), "")[:300]


def _last_line(log: Path) -> str:
    """The error that a process ended with, else the last that it said."""
    lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines()]
    errors = [line for line in lines if line.startswith("error")]
    message = errors or [line for line in lines if line and not line.startswith("hint:")]
    return message[-1].removeprefix("error: ")[:300] if message else "it said nothing"
