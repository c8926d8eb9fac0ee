"""The measurements of the runtime benchmark, the same for all recognizers, in the worker's process."""

from __future__ import annotations

import os
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
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
PIECE_SECONDS = 0.02
"""Audio handed over at a time where latency is measured."""


@dataclass(frozen=True, slots=True)
class Shown:
    """The output of a recognizer after a step."""

    audio_seconds: float
    """Seconds of audio that it has consumed."""
    texts: Sequence[str]
    """Of each stream, all words so far."""
    committed: Sequence[int] | None = None
    """How many of these words can no longer change; None if the recognizer does not report it."""


class Recognizer(Protocol):
    """A recognizer that is measured. It uses as many threads as its setup asks for."""

    def whole(self, files: Sequence[str]) -> list[str]:
        """The words of each file, at the widest look-ahead."""

    def listen(self, recordings: Sequence[Samples], look_ahead_ms: int, piece: int | None) -> Iterator[Shown]:
        """Recognize streams in parallel; the last step comes after their end.

        Args:
            recordings: float32 at 16 kHz, all of the same length.
            look_ahead_ms: one of the model's.
            piece: samples to pass at a time; None takes the chunk of the look-ahead.
        """


class RuntimeWorker:
    """The measurements; each method is called from the benchmark's process."""

    def __init__(self, recognizer: Recognizer) -> None:
        self._recognizer = recognizer

    def whole(self, files: list[str]) -> dict[str, Any]:
        """Recognize whole files: texts, CPU and wall seconds."""
        with Timer() as timer:
            texts = self._recognizer.whole(files)
        return {"texts": texts, **timer.figures}

    def stream(self, files: list[str], look_ahead_ms: int) -> dict[str, Any]:
        """Recognize files one after another, each as a stream, chunk by chunk as fast as possible."""
        recordings = [audio.read(file) for file in files]
        texts = []
        with Timer() as timer:
            for recording in recordings:
                *_, last = self._recognizer.listen([recording], look_ahead_ms, None)
                texts.append(last.texts[0])
        return {"texts": texts, **timer.figures}

    def results(self, files: list[str], look_ahead_ms: int) -> list[list[dict[str, Any]]]:
        """Of each file, each change: seconds of audio so far, CPU seconds of the step, words."""
        found = []
        for file in files:
            changes: list[dict[str, Any]] = []
            steps = self._recognizer.listen(
                [audio.read(file)], look_ahead_ms, round(PIECE_SECONDS * SAMPLE_RATE)
            )
            before: tuple[str, int | None] = ("", None)
            began = time.process_time()
            for shown in steps:
                spent = time.process_time() - began
                now = (shown.texts[0], None if shown.committed is None else shown.committed[0])
                if now != before:
                    changes.append(
                        {
                            "audio_seconds": shown.audio_seconds,
                            "cpu": spent,
                            "text": now[0],
                            "committed": now[1],
                        }
                    )
                    before = now
                began = time.process_time()
            found.append(changes)
        return found

    def long(self, files: list[str], look_ahead_ms: int, minutes: float) -> list[int]:
        """Memory in bytes that is in use during one long stream: at the end of each minute."""
        recording = repeated(files, 60 * minutes)
        used: list[int] = []
        for shown in self._recognizer.listen([recording], look_ahead_ms, None):
            if shown.audio_seconds >= 60 * (len(used) + 1):
                used.append(resident_bytes())
        return used or [resident_bytes()]

    def streams(
        self, files: list[str], look_ahead_ms: int, count: int, chunk: float, steps: int
    ) -> dict[str, Any]:
        """Median CPU and wall seconds to advance `count` streams by one chunk (seconds)."""
        seconds = chunk * (steps + WARM_UP + 2)
        recording = repeated(files, seconds + count)
        shifted = [recording[i * SAMPLE_RATE :][: round(seconds * SAMPLE_RATE)] for i in range(count)]
        cpu, wall = [], []
        following = self._recognizer.listen(shifted, look_ahead_ms, None)
        for number in range(WARM_UP + steps):
            with Timer() as timer:
                next(following)
            if number >= WARM_UP:
                cpu.append(timer.figures["cpu"])
                wall.append(timer.figures["wall"])
        return {"cpu": statistics.median(cpu), "wall": statistics.median(wall)}

    def memory(self) -> dict[str, int]:
        """Bytes in use, and the peak."""
        return {"used": resident_bytes(), "peak": peak_bytes()}


class Timer:
    """CPU and wall seconds of this process between begin and end."""

    def __enter__(self) -> Timer:
        self._began = (time.process_time(), time.perf_counter())
        return self

    def __exit__(self, *_: object) -> None:
        cpu, wall = self._began
        self.figures = {"cpu": time.process_time() - cpu, "wall": time.perf_counter() - wall}


def repeated(files: Sequence[str], seconds: float) -> Samples:
    """The recordings one after another, repeated up to this many seconds, float32."""
    once = np.concatenate([audio.read(file) for file in files])
    return np.resize(once, round(seconds * SAMPLE_RATE))


def resident_bytes() -> int:
    """Memory of this process that is in use now; where the system does not report it, the peak."""
    status = Path("/proc/self/statm")
    if status.is_file():
        return int(status.read_text().split()[1]) * os.sysconf("SC_PAGESIZE")
    return peak_bytes()


def peak_bytes() -> int:
    """The peak memory of this process.

    Not from `getrusage` on Linux, which reports the parent's peak if that was higher.
    """
    status = Path("/proc/self/status")
    if status.is_file():
        lines = status.read_text().splitlines()
        return next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))
    import resource  # not on Windows

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
