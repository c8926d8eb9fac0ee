"""Checks of the machine: disk, memory, cores, data loaders."""

from __future__ import annotations

import math
import multiprocessing
import os
import platform
import shutil
from pathlib import Path

from quran_asr.config.architecture import count_parameters
from quran_asr.config.schema import Recipe, TrainData
from quran_asr.experiments.checks.data import Data
from quran_asr.experiments.checks.outcome import Outcome, failure, of_finding, passed, warning
from quran_asr.experiments.run_folder import checkpoint_bytes, lacking_space
from quran_asr.records import SAMPLE_RATE

MOST_OF_MEMORY = 0.5
"""Share of the free memory that decoded audio may take."""
BATCHES_AHEAD = 2
"""Batches that each worker of a loader keeps ready (torch's default)."""
SHARED_MEMORY = Path("/dev/shm")


def disk_space(recipe: Recipe) -> Outcome:
    """Whether the runs' folder can be written, and has room for the checkpoints that are kept."""
    folder = Path(recipe.exp_manager.exp_dir).absolute()
    existing = folder
    while not existing.exists():
        existing = existing.parent
    if not (existing.is_dir() and os.access(existing, os.W_OK)):
        what = "may not be written" if existing.is_dir() else "is not a folder"
        return failure(f"{existing} {what}", "name another folder: exp_manager.exp_dir=...")
    parameters = count_parameters(recipe.model, recipe.quran.vocabulary_size)
    keep = recipe.exp_manager.checkpoint_callback_params.save_top_k
    full = lacking_space(folder, parameters, keep)
    if full is not None:
        return of_finding(full)
    free = shutil.disk_usage(existing).free
    size = checkpoint_bytes(parameters)
    return passed(f"{format_bytes(free)} free for {keep} checkpoints of {format_bytes(size)}")


def machine(recipe: Recipe, data: Data) -> list[Outcome]:
    """Cores for the loaders, memory for decoded audio, and room for batches between processes."""
    cores, free = available_cores(), available_memory()
    outcomes = []
    workers = max(recipe.model.train_ds.num_workers, recipe.model.validation_ds.num_workers)
    if workers > cores:
        outcomes.append(
            warning(
                f"{workers} workers load data on {cores} cores",
                " ".join(
                    f"model.{ds}.num_workers={max(0, cores - 1)}" for ds in ("train_ds", "validation_ds")
                ),
            )
        )
    if workers and not _forks():
        outcomes.append(
            warning(
                "processes are not forked here: every worker loads torch again in each epoch",
                "model.train_ds.num_workers=0 model.validation_ds.num_workers=0",
            )
        )
    if workers:
        outcomes += _shared_memory(recipe.model.train_ds, workers)
    asked_gb = recipe.quran.audio_cache_gb
    outcomes += _cache(asked_gb, audio_budget(asked_gb), data)
    if not outcomes:
        memory = "" if free is None else f", {format_bytes(free)} of memory free"
        return [passed(f"Python {platform.python_version()}, {cores} cores for {workers} workers{memory}")]
    return outcomes


def available_memory() -> int | None:
    """Bytes that this process can still take, in its control group too; None where unknown."""
    limits = []
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        limits += [1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")]
    except OSError:
        pass
    try:
        group = Path("/sys/fs/cgroup")
        most = (group / "memory.max").read_text().strip()
        if most != "max":
            limits.append(int(most) - int((group / "memory.current").read_text()))
    except (OSError, ValueError):
        pass
    return min(limits, default=None)


def available_cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _forks() -> bool:
    method = multiprocessing.get_start_method(allow_none=True) or multiprocessing.get_all_start_methods()[0]
    return method == "fork"


def _shared_memory(train: TrainData, workers: int) -> list[Outcome]:
    """Workers hand batches over in shared memory, of which containers have 64 MB by default."""
    if not SHARED_MEMORY.is_dir():
        return []
    seconds = max(train.batch_duration or train.batch_size * train.max_duration, train.max_duration)
    needed = round(4 * SAMPLE_RATE * seconds) * BATCHES_AHEAD * max(1, workers)
    free = shutil.disk_usage(SHARED_MEMORY).free
    if free >= needed:
        return []
    return [
        warning(
            f"{workers} workers may need {format_bytes(needed)} of shared memory, and {format_bytes(free)} "
            "are free: training would end with a bus error",
            "start the container with --ipc=host or --shm-size, or use fewer model.train_ds.num_workers",
        )
    ]


def audio_budget(asked_gb: float) -> int:
    """Bytes that decoded training audio may take on this machine; validation may take a quarter beside it."""
    asked, free = round(asked_gb * 1e9), available_memory()
    return asked if free is None else min(asked, round(MOST_OF_MEMORY * free / 1.25))


def _cache(asked_gb: float, budget: int, data: Data) -> list[Outcome]:
    """Whether decoded audio stays in memory: 16 bits a sample of training, 32 of validation."""
    training, _ = (sum(segment.duration for segment in split) for _, split in data.splits)
    needed = 2 * SAMPLE_RATE * training
    if needed <= budget:
        return []
    free = available_memory()
    lacking = free is not None and budget < asked_gb * 1e9
    return [
        warning(
            f"{format_bytes(budget)} of the {format_bytes(needed)} of training audio stay decoded in memory; "
            "the rest is decoded in every epoch, and a GPU may wait for it",
            "a machine with more free memory, or more model.train_ds.num_workers"
            if lacking
            else f"quran.audio_cache_gb={math.ceil(needed / 1e8) / 10:g}",
        )
    ]


def format_bytes(number: float) -> str:
    """Bytes in readable form."""
    return f"{number / 1e9:.1f} GB" if number >= 1e9 else f"{number / 1e6:.0f} MB"
