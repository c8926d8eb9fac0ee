"""Inference speed and latency of the same weights in ONNX Runtime, NeMo and sherpa-onnx.

Each runs in a process of its own (`worker.py`) and is called in turn, round by round; medians are taken.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from quran_asr import audio
from quran_asr.benchmark.runtime_models import Models
from quran_asr.benchmark.runtime_tables import spread, word_delays
from quran_asr.benchmark.worker import Worker, started
from quran_asr.records import SAMPLE_RATE, Segment
from quran_asr.runtime.recognizer import Recognizer

NARROW = 480
"""Look-ahead in milliseconds at which memory and many streams are measured, if the model has it."""


@dataclass(frozen=True, slots=True)
class Task:
    """The measurements to make."""

    models: Models
    files: tuple[str, ...]
    """Recordings as 16 kHz wav files."""
    seconds: float
    """Total length."""
    trained: bool
    """Whether the weights were trained."""
    recited: bool
    """Whether the recordings are recitation; latency is measured only on these, with a trained model."""
    look_aheads_ms: tuple[int, ...]
    rounds: int
    minutes: float
    """Length of the stream whose memory is measured; 0 leaves that out."""
    threads: int
    most_streams: int
    """Most streams to try; 0 leaves that out."""

    @property
    def narrow(self) -> int:
        known = self.look_aheads_ms
        return NARROW if NARROW in known else known[0]

    def chunk(self, look_ahead_ms: int) -> float:
        """Seconds of audio that are encoded at once."""
        return look_ahead_ms / 1000 + self.models.bundle.frame_seconds


Report = Callable[[str], None]


def compare(task: Task, report: Report, keep: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """Measure all recognizers.

    Args:
        task: the measurements.
        report: called with the name of the next measurement.
        keep: called with the figures so far, at each stage.

    Raises:
        QuranAsrError: a worker failed.
    """
    with ExitStack() as processes:
        workers: dict[str, Worker] = {}
        figures: dict[str, dict[str, Any]] = {}
        document = {**_about(task), "workers": figures}
        for name, (module, setup) in _setups(task).items():
            report(f"{name}: cold start to the words of a file")
            began = time.perf_counter()
            loader = f"{__package__}.{module}:load"
            workers[name] = processes.enter_context(started(name, loader, setup, task.threads))
            workers[name]("whole", files=[_about_five_seconds(task.files)])
            wall, cpu = time.perf_counter() - began, workers[name].cpu_seconds
            figures[name] = {
                "cold_start": {"wall_seconds": wall, "cpu_seconds": cpu},
                "memory": {"loaded_bytes": workers[name]("memory")["used"]},
            }
        _speed(task, workers, figures, report)
        keep(document)
        if task.trained and task.recited:
            _latency(task, workers, figures, report)
            keep(document)
        for name, worker in workers.items():
            memory = figures[name]["memory"]
            memory["peak_bytes"] = worker("memory")["peak"]
            if task.minutes:
                report(f"{name}: memory over {task.minutes:g} minutes")
                used = worker("long", files=list(task.files), look_ahead_ms=task.narrow, minutes=task.minutes)
                memory |= {"by_minute_bytes": used, "growth_bytes": used[-1] - used[0]}
            if task.most_streams:
                figures[name]["streams"] = _most_streams(task, name, worker, report)
            keep(document)
    return document


def write_clips(segments: Sequence[Segment], seconds: float, folder: Path) -> tuple[tuple[str, ...], float]:
    """The first recordings, up to this many seconds, as wav files, and their total length."""
    files: list[str] = []
    total = 0.0
    for segment in segments:
        samples = audio.read(segment.audio, segment.offset, segment.duration or None)
        files.append(str(folder / f"{len(files):04}.wav"))
        audio.write(files[-1], samples)
        total += len(samples) / SAMPLE_RATE
        if total >= seconds:
            break
    return tuple(files), total


def _setups(task: Task) -> dict[str, tuple[str, dict[str, Any]]]:
    models, threads = task.models, task.threads
    setups: dict[str, tuple[str, dict[str, Any]]] = {
        "ours": ("worker_ours", {"folder": str(models.bundle.folder)}),
        "ours int8": ("worker_ours", {"folder": str(models.int8.folder)}),
        "nemo": ("worker_nemo", {"model": str(models.archive)}),
    }
    for name, folders in (("sherpa-onnx", models.sherpa), ("sherpa-onnx, NeMo's export", models.stock)):
        if folders:
            paths = {str(ms): str(folder) for ms, folder in folders.items()}
            tails = {str(ms): seconds for ms, seconds in models.tails.items()}
            setups[name] = ("worker_sherpa", {"folders": paths, "tails": tails})
    return {name: (module, {**setup, "threads": threads}) for name, (module, setup) in setups.items()}


def _speed(
    task: Task, workers: Mapping[str, Worker], figures: dict[str, dict[str, Any]], report: Report
) -> None:
    """Real-time factors, whole and per look-ahead: a warm-up round, then the measured ones."""
    files = list(task.files)
    jobs: list[tuple[str, dict[str, Any]]] = [("whole", {"files": files})]
    jobs += [("stream", {"files": files, "look_ahead_ms": ms}) for ms in task.look_aheads_ms]
    for do, arguments in jobs:
        way = f"at {arguments['look_ahead_ms']} ms" if do == "stream" else "files"
        found: dict[str, list[dict[str, Any]]] = {name: [] for name in workers}
        for worker in workers.values():
            worker(do, **{**arguments, "files": files[:1]})
        for number in range(task.rounds):
            for name, worker in workers.items():
                report(f"{name}: {do} {way}, round {number + 1} of {task.rounds}")
                found[name].append(worker(do, **arguments))
        for name, runs in found.items():
            row = {
                f"rtf_{clock}": statistics.median(run[clock] for run in runs) / task.seconds
                for clock in ("cpu", "wall")
            }
            texts = runs[0]["texts"]
            same = sum(a == b for a, b in zip(texts, found["ours"][0]["texts"], strict=True))
            row |= {"words": sum(len(text.split()) for text in texts), "clips_as_ours": same}
            if do == "whole":
                figures[name]["whole"] = row
            else:
                streaming = figures[name].setdefault("streaming", {})
                streaming[str(arguments["look_ahead_ms"])] = row


def _latency(
    task: Task, workers: Mapping[str, Worker], figures: dict[str, dict[str, Any]], report: Report
) -> None:
    recognizer = Recognizer(task.models.bundle, threads=task.threads)
    references = [recognizer.recognize(file).words for file in task.files]
    for ms in task.look_aheads_ms:
        for name, worker in workers.items():
            report(f"{name}: latency at {ms} ms")
            clips = worker("results", files=list(task.files), look_ahead_ms=ms)
            shown: list[float] = []
            committed: list[float] = []
            for words, changes in zip(references, clips, strict=True):
                ends = [(word.text, word.end) for word in words]
                delays = word_delays(ends, changes)
                shown += [delay for delay, _ in delays]
                committed += [delay for _, delay in delays if delay is not None]
            figures[name]["streaming"][str(ms)]["latency"] = {
                "shown": spread(shown),
                "committed": spread(committed),
            }


def _most_streams(task: Task, name: str, worker: Worker, report: Report) -> dict[str, Any]:
    """The most streams that one process advances by a chunk in less than the duration of the chunk."""
    ms, chunk = task.narrow, task.chunk(task.narrow)
    steps: dict[int, float] = {}

    def in_time(count: int) -> bool:
        report(f"{name}: {count} streams at {ms} ms")
        arguments = {"files": list(task.files), "look_ahead_ms": ms, "count": count, "chunk": chunk}
        found = worker("streams", **arguments, steps=task.rounds + 2)
        steps[count] = found["cpu"] / task.threads
        return steps[count] <= chunk

    good, bad = 0, 1
    while bad <= task.most_streams and in_time(bad):
        good, bad = bad, 2 * bad
    while bad <= task.most_streams and bad - good > max(1, good // 8):
        middle = (good + bad) // 2
        good, bad = (middle, bad) if in_time(middle) else (good, middle)
    cores = os.cpu_count() or 1
    return {
        "look_ahead_ms": ms,
        "in_one_process": good,
        "on_all_cores": good * (cores // task.threads),
        "step_seconds": {str(count): seconds for count, seconds in sorted(steps.items())},
    }


def _about(task: Task) -> dict[str, Any]:
    models = task.models
    packages = ("onnxruntime", "torch", "nemo_toolkit", *(("sherpa-onnx",) if models.sherpa else ()))
    return {
        "model": models.bundle.name,
        "trained": task.trained,
        "parameters": models.parameters,
        "look_aheads_ms": list(task.look_aheads_ms),
        "clips": len(task.files),
        "audio_seconds": task.seconds,
        "decoder": "transducer",
        "threads": task.threads,
        "cores": os.cpu_count(),
        "rounds": task.rounds,
        "minutes": task.minutes,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": {package: version(package) for package in packages},
    }


def _about_five_seconds(files: Sequence[str]) -> str:
    return min(files, key=lambda file: abs(Path(file).stat().st_size - 5 * 32_000))
