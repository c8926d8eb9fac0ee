"""Trials of a comparison or sweep: trainings in processes of their own that can be stopped and resumed.

A trial's folder holds its run, its log (`train.log`), its result (`ended.json`, the output of `train --json`)
and the process that trains it (`process`). A call that is killed leaves its trainings alive: the next call
has them write a checkpoint and end before it resumes them.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any, TypeVar

from quran_asr.errors import QuranAsrError
from quran_asr.experiments.run_folder import RunFolder, runs_below
from quran_asr.files import named_errors, parse_json
from quran_asr.locks import locked, name_process, named_process

TRAIN = (sys.executable, "-m", "quran_asr", "train")
"""The command of a trial."""
LOOK_SECONDS = 0.3
"""How often processes and `metrics.jsonl` are looked at."""
GRACE_SECONDS = 600.0
"""How long a training that is asked to end may take: it finishes its step or validation, then saves."""


@dataclass(frozen=True, slots=True)
class Trial:
    """One training."""

    folder: Path

    @property
    def log(self) -> Path:
        return self.folder / "train.log"

    def run(self) -> RunFolder | None:
        """The run that was begun last, if one was."""
        found = runs_below(self.folder) if self.folder.is_dir() else []
        return found[-1] if found else None

    def result(self) -> dict[str, Any] | None:
        """What `train --json` printed; None where it was killed, failed or has not ended."""
        try:
            result = parse_json((self.folder / "ended.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return result if isinstance(result, dict) and "interrupted" in result else None

    @property
    def done(self) -> bool:
        """Whether it trained to its end."""
        result = self.result()
        return result is not None and not result["interrupted"] and result.get("stopped_by") is None


@dataclass(frozen=True, slots=True)
class TrialOutcome:
    """How a trial ended."""

    code: int
    """Of its process."""
    result: dict[str, Any] | None
    """What `train --json` printed."""
    pruned_at: int | None
    """The step of the validation after which it was pruned."""
    error: str
    """The last error in its log, where it failed."""


TrialT = TypeVar("TrialT", bound=Trial)


@contextmanager
def working_in(folder: Path) -> Iterator[None]:
    """Hold a folder against other calls; SIGTERM raises KeyboardInterrupt, as Ctrl-C does.

    Raises:
        QuranAsrError: another call works in the folder.
    """

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    with locked(folder / ".lock", busy="another call works in this folder"), named_errors(folder):
        before = signal.signal(signal.SIGTERM, interrupt)
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, before)


def run_trials(
    trials: Sequence[TrialT],
    begin: Callable[[TrialT], Sequence[str]],
    end: Callable[[TrialT, TrialOutcome], None],
    *,
    jobs: int = 1,
    judge: Callable[[TrialT, int, float], bool] | None = None,
    on_look: Callable[[Iterable[TrialT]], None] = lambda running: None,
    on_stop: Callable[[], None] = lambda: None,
    environment: Mapping[str, str] | None = None,
) -> None:
    """Train trials, each until it ends or `judge` prunes it; those that were stopped earlier are resumed.

    Args:
        trials: begun in this order.
        begin: called before a trial begins or is resumed; returns what follows `quran-asr train` where there
            is not a run to resume.
        end: called with each trial that has ended; what it raises stops the others.
        jobs: trials at the same time.
        judge: called with (trial, step, WER) of every validation once, in order, those of earlier calls too;
            True prunes the trial.
        on_look: called with the trials under way, several times a second.
        on_stop: called before running trials are asked to end because of an interrupt.
        environment: of the trainings; None for that of this process.

    Raises:
        QuranAsrError: a training of an earlier call does not end.
        KeyboardInterrupt: this process was interrupted. Running trials have ended with a checkpoint; a second
            interrupt, or 10 minutes, ends them without. On Windows they always end without, and continue
            from their last one.
    """
    left = list(trials)
    running: dict[TrialT, _Training] = {}
    try:
        while left or running:
            while left and len(running) < jobs:
                trial = left.pop(0)
                see = None if judge is None else partial(judge, trial)
                running[trial] = _Training(trial, begin(trial), see, environment)
            for trial, training in list(running.items()):
                ended = training.look()
                if ended is not None:
                    del running[trial]
                    end(trial, ended)
            if running:
                on_look(running)
                time.sleep(LOOK_SECONDS)
    except KeyboardInterrupt:
        on_stop()
        raise
    finally:
        _stop([training.process for training in running.values() if training.process is not None])


class _Training:
    """A trial under way. It has no process where an earlier call left nothing to train."""

    def __init__(
        self,
        trial: Trial,
        words: Sequence[str],
        judge: Callable[[int, float], bool] | None,
        environment: Mapping[str, str] | None,
    ) -> None:
        trial.folder.mkdir(parents=True, exist_ok=True)
        _end_orphan(trial.folder)
        self.process: subprocess.Popen[bytes] | None = None
        self._trial, self._judge, self._last_step = trial, judge, 0
        self._pruned_at: int | None = None
        result = trial.result()
        if not self._judge_validations() and (result is None or result["interrupted"]):
            self.process = _start(trial, words, environment)

    def look(self) -> TrialOutcome | None:
        """How the trial ended; None while it trains."""
        if self.process is not None and self.process.poll() is None:
            if self._judge_validations():
                self.process.terminate()
            return None
        result = self._trial.result()
        if result is None or result["interrupted"]:
            code = 130 if self.process is None else self.process.returncode
            return TrialOutcome(code, result, self._pruned_at, last_error(self._trial.log))
        self._judge_validations()
        code = 0 if result.get("stopped_by") is None else 1
        return TrialOutcome(code, result, None, "")  # it ended by itself before it was pruned

    def _judge_validations(self) -> bool:
        """Show new validations to the judge; True where it now prunes the trial."""
        run = self._trial.run()
        if self._judge is None or run is None or self._pruned_at is not None:
            return False
        for row in run.read_metrics():
            if row["split"] == "validation" and row["step"] > self._last_step and row.get("wer") is not None:
                self._last_step = row["step"]
                if self._judge(row["step"], row["wer"]):
                    self._pruned_at = row["step"]
                    return True
        return False


def _start(
    trial: Trial, words: Sequence[str], environment: Mapping[str, str] | None
) -> subprocess.Popen[bytes]:
    run = trial.run()
    command = [*TRAIN, *(words if run is None else ["--resume", str(run.path)]), "--json"]
    result = trial.folder / "ended.json"
    result.unlink(missing_ok=True)
    with result.open("wb") as out, trial.log.open("ab") as log:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=log,
            env=environment,
            # Ctrl-C reaches it through us, once: a second one would cost the checkpoint.
            start_new_session=True,
            creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),
        )
    name_process(trial.folder / "process", process.pid)
    return process


def _stop(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    """Ask processes to end, all at once; kill those that have not after the grace or at a second Ctrl-C."""
    try:
        for process in processes:
            process.terminate()
        until = time.monotonic() + GRACE_SECONDS
        for process in processes:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(max(0.0, until - time.monotonic()))
    finally:
        for process in processes:
            process.kill()
            process.wait()


def _end_orphan(folder: Path) -> None:
    """End the training that a killed call left in a trial's folder.

    Raises:
        QuranAsrError: it does not end, or may be another process (where there is no /proc).
    """
    place = folder / "process"
    until = time.monotonic() + GRACE_SECONDS
    asked = False
    while (found := named_process(place)) is not None:
        pid, is_sure = found
        if not is_sure or time.monotonic() > until:
            raise QuranAsrError(
                f"a training of an earlier call (process {pid}) is still running",
                where=str(folder),
                remedy=f"end it; if process {pid} is another program, remove {place}",
            )
        if not asked:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
            asked = True
        time.sleep(LOOK_SECONDS)


def last_lines(path: Path, *, growing: bool = True) -> list[str]:
    """The lines in the last 8 KiB of a file, none if it is not there.

    Args:
        path: of the file.
        growing: leave out a last line that is not whole yet.
    """
    try:
        with path.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - 8192))
            lines = file.read().decode("utf-8", "replace").split("\n")
    except OSError:
        return []
    return lines[:-1] if growing else lines


def last_line(log: Path) -> str:
    """The last whole line of a log that is not empty, cut to 300 characters."""
    return next((line.strip() for line in reversed(last_lines(log)) if line.strip()), "")[:300]


def last_error(log: Path) -> str:
    """Why a training ended: the last line that begins with `error`, else its last but for hints."""
    lines = [line.strip() for line in last_lines(log, growing=False)]
    errors = [line for line in lines if line.startswith("error")]
    others = [line for line in lines if line and not line.startswith("hint:")]
    return next(iter((errors or others)[-1:]), "no message").removeprefix("error: ")[:300]
