"""A worker of the runtime benchmark: one recognizer in a process of its own, driven line by line.

The process holds what its side needs and nothing else, so its memory is the side's. It reads a command a
line, JSON, and answers in one. A side knows two things: to hear whole files, and to hear recordings that come
piece by piece. Everything that is measured is measured here, the same way for all.
"""

from __future__ import annotations

import json
import os
import signal
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from quran_asr import audio
from quran_asr.records import SAMPLE_RATE

if TYPE_CHECKING:
    from quran_asr.records import Samples

WARM_UP = 2
"""Steps of many streams before those that are timed."""
PIECE = 0.02
"""Seconds of sound handed over at a time where latency is measured."""


@dataclass(frozen=True, slots=True)
class Shown:
    """What a side shows after a step."""

    heard: float
    """Seconds of sound that it needed so far."""
    texts: Sequence[str]
    """Of each stream, all words so far."""
    committed: Sequence[int] | None = None
    """How many of these words can no longer change; None where a side does not tell."""


class RuntimeWorker(Protocol):
    """A recogniser that is measured. It uses as many threads as its process was told."""

    def whole(self, files: Sequence[str]) -> list[str]:
        """The words of each file, at the widest look-ahead."""

    def listen(self, sounds: Sequence[Samples], look_ahead_ms: int, piece: int | None) -> Iterator[Shown]:
        """Hear streams side by side, the last of what is shown after their end.

        Args:
            sounds: float32 at 16 kHz, of one length.
            look_ahead_ms: one of the model's.
            piece: samples to hand over at a time; None takes what the look-ahead needs at once.
        """


def serve(load: Callable[[dict[str, Any]], RuntimeWorker]) -> None:
    """Load a side from the JSON in the first argument, then answer until the input ends.

    A command names a function below and its arguments. The answer holds what the function gave, and the CPU
    and wall seconds that the process has used so far.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that asks; it ends this one
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what libraries print goes to stderr
    side: RuntimeWorker | None = None
    for line in sys.stdin:
        try:
            command = json.loads(line)
            if side is None:
                side = load(json.loads(sys.argv[1]))
            answer = {"answer": COMMANDS[command.pop("do")](side, **command)}
        except Exception as error:  # said by the process that asked
            answer = {"error": f"{type(error).__name__}: {error}"}
        answer["cpu"] = time.process_time()
        print(json.dumps(answer), file=answers, flush=True)


def whole(side: RuntimeWorker, files: list[str]) -> dict[str, Any]:
    """Hear files."""
    with Timer() as timer:
        texts = side.whole(files)
    return {"texts": texts, **timer.figures}


def stream(side: RuntimeWorker, files: list[str], look_ahead_ms: int) -> dict[str, Any]:
    """Hear files one after another as a stream each, a chunk at a time, as fast as it goes."""
    sounds = [audio.read(file) for file in files]
    texts = []
    with Timer() as timer:
        for sound in sounds:
            *_, last = side.listen([sound], look_ahead_ms, None)
            texts.append(last.texts[0])
    return {"texts": texts, **timer.figures}


def results(side: RuntimeWorker, files: list[str], look_ahead_ms: int) -> list[list[dict[str, Any]]]:
    """Of each file, whenever words changed: seconds of sound so far, seconds of CPU for that step, words."""
    found = []
    for file in files:
        sound = audio.read(file)
        changes: list[dict[str, Any]] = []
        steps = side.listen([sound], look_ahead_ms, round(PIECE * SAMPLE_RATE))
        before: tuple[str, int | None] = ("", None)
        began = time.process_time()
        for shown in steps:
            spent = time.process_time() - began
            now = (shown.texts[0], None if shown.committed is None else shown.committed[0])
            if now != before:
                changes.append({"heard": shown.heard, "cpu": spent, "text": now[0], "committed": now[1]})
                before = now
            began = time.process_time()
        found.append(changes)
    return found


def long(side: RuntimeWorker, files: list[str], look_ahead_ms: int, minutes: float) -> list[int]:
    """Memory in bytes that is in use while one stream goes on: at the end of each minute."""
    sound = repeated(files, 60 * minutes)
    used: list[int] = []
    for shown in side.listen([sound], look_ahead_ms, None):
        if shown.heard >= 60 * (len(used) + 1):
            used.append(resident_bytes())
    return used or [resident_bytes()]


def streams(
    side: RuntimeWorker, files: list[str], look_ahead_ms: int, count: int, chunk: float, steps: int
) -> dict[str, Any]:
    """Median CPU and wall seconds in which `count` streams are taken one chunk (seconds) further."""
    seconds = chunk * (steps + WARM_UP + 2)
    sound = repeated(files, seconds + count)
    shifted = [sound[i * SAMPLE_RATE :][: round(seconds * SAMPLE_RATE)] for i in range(count)]
    cpu, wall = [], []
    following = side.listen(shifted, look_ahead_ms, None)
    for number in range(WARM_UP + steps):
        with Timer() as timer:
            next(following)
        if number >= WARM_UP:
            cpu.append(timer.figures["cpu"])
            wall.append(timer.figures["wall"])
    return {"cpu": statistics.median(cpu), "wall": statistics.median(wall)}


def memory(side: RuntimeWorker) -> dict[str, int]:
    """Bytes that are in use, and the most that ever were."""
    del side
    return {"used": resident_bytes(), "peak": peak_bytes()}


COMMANDS: dict[str, Callable[..., Any]] = {
    "whole": whole,
    "stream": stream,
    "results": results,
    "long": long,
    "streams": streams,
    "memory": memory,
}


class Timer:
    """CPU seconds of this process, and seconds of the clock, between beginning and end."""

    def __enter__(self) -> Timer:
        self._began = (time.process_time(), time.perf_counter())
        return self

    def __exit__(self, *_: object) -> None:
        cpu, wall = self._began
        self.figures = {"cpu": time.process_time() - cpu, "wall": time.perf_counter() - wall}


def repeated(files: Sequence[str], seconds: float) -> Samples:
    """The recordings one after another, again from the first, float32 of so many seconds."""
    once = np.concatenate([audio.read(file) for file in files])
    return np.resize(once, round(seconds * SAMPLE_RATE))


def resident_bytes() -> int:
    """Memory of this process that is in use now; where the system does not tell, the most that ever was."""
    status = Path("/proc/self/statm")
    if status.is_file():
        return int(status.read_text().split()[1]) * os.sysconf("SC_PAGESIZE")
    return peak_bytes()


def peak_bytes() -> int:
    """The most memory that this process ever had in use.

    On Linux `getrusage` tells that of the process which started this one, where that was more.
    """
    status = Path("/proc/self/status")
    if status.is_file():
        lines = status.read_text().splitlines()
        return next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))
    import resource  # not on Windows

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
