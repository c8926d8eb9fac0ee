"""Training speed of stock NeMo and of this package, in turn, on the same weights and batches.

Each runs in a process of its own (`worker.py`), so that neither's memory, threads or settings touch the
other's. They are called in turn, round by round, and medians are taken: other load on the machine affects
both.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from quran_asr.benchmark.clips import Clips, chosen_clips, in_batches, made_clips
from quran_asr.benchmark.training_tables import SYSTEMS, Measured, Preset, StepTime, ratios
from quran_asr.benchmark.training_worker import Setup
from quran_asr.benchmark.worker import Worker, started
from quran_asr.config.architecture import of_recipe
from quran_asr.config.recipe import load_recipe
from quran_asr.config.schema import Recipe
from quran_asr.errors import QuranAsrError
from quran_asr.experiments.planning.cost import training_flops
from quran_asr.experiments.planning.devices import Calibration, find_device, measured_by
from quran_asr.records import Segment
from quran_asr.training.tokenizer import Tokenizer, train_tokenizer

AFTER_STEPS = 500
"""In which float32 and bf16 are compared on a GPU."""
LAST_LOSSES = 20
"""Number of final steps over which the loss is averaged."""
GROWTH = (2, 4)


@dataclass(frozen=True, slots=True)
class Task:
    """The measurements to make."""

    preset: Preset
    overrides: tuple[str, ...]
    """Of the command line; they win."""
    device: str
    """`cpu` or `cuda`"""
    clips: int
    seconds: tuple[float, float]
    manifests: tuple[str, ...]
    """Clips are drawn from these; without any they are synthetic."""
    rounds: int
    steps: int
    """In a round."""
    threads: int = 1

    def words(self) -> tuple[str, ...]:
        """Overrides of the recipe: one process, one batch per step, steps only."""
        return (
            *self.preset.overrides,
            "quran.seed=0",
            f"model.train_ds.batch_size={self.clips}",
            "model.train_ds.batch_duration=null",
            "quran.curriculum=null",
            *(() if self.device == "cuda" else ("model.train_ds.num_workers=0",)),
            "model.train_ds.max_duration=1000",
            "trainer.devices=1",
            f"trainer.accelerator={'gpu' if self.device == 'cuda' else 'cpu'}",
            f"trainer.precision={'bf16-mixed' if self.device == 'cuda' else 32}",
            "trainer.accumulate_grad_batches=1",
            "trainer.max_epochs=-1",
            "trainer.max_steps=1000000",
            "trainer.check_val_every_n_epoch=null",
            "trainer.val_check_interval=1000000000",
            "exp_manager.create_tensorboard_logger=false",
            *self.overrides,
        )

    @property
    def recipe(self) -> Recipe:
        return load_recipe(self.preset.recipe, self.words())


OnResult = Callable[[dict[str, Any]], None]
"""Called with the figures so far, whenever there are more of them."""


def compare(
    task: Task, report: Callable[[str], None], on_result: OnResult, *, alone: bool = True
) -> dict[str, Any]:
    """Measure stock NeMo and ours on a preset.

    Args:
        report: called with the name of the next measurement.
        alone: also time joint and loss alone, and one of our validations.

    Raises:
        QuranAsrError: there are no clips, or a worker failed.
    """
    with prepared(task) as (clips, tokenizer):
        about = _about(task, clips, tokenizer)
        measured = {system: Measured() for system in SYSTEMS}

        def result() -> dict[str, Any]:
            costs = (about["batch"]["audio_seconds"], about["batch"]["flops"], about.get("peak_flops"))
            figures = {system: measured[system].figures(*costs) for system in SYSTEMS}
            return {**about, **figures, "ratio": ratios(figures["stock"], figures["ours"])}

        with ExitStack() as processes:
            workers = {}
            for system in SYSTEMS:
                report(f"starting {system}")
                workers[system] = processes.enter_context(_worker(task, system, clips, tokenizer.folder))
            about |= _same(workers, task)
            for number in range(task.rounds):
                for system in SYSTEMS:
                    report(f"{system}: round {number + 1} of {task.rounds}, {task.steps} steps")
                    measured[system].steps += workers[system]("steps", task.steps)
                    on_result(result())
            for number in range(task.rounds if alone else 0):
                for system in SYSTEMS:
                    report(f"{system}: joint and loss alone, {number + 1} of {task.rounds}")
                    measured[system].losses.append(workers[system]("loss"))
                    on_result(result())
            if alone:
                report("ours: a validation")
                about["validation_seconds_per_hour"] = workers["ours"]("validation")
            for system in SYSTEMS:
                report(f"{system}: memory of the loss")
                measured[system].loss_peak_bytes, measured[system].peak_bytes = workers[system]("memory")
            on_result(result())
        return result()


def available(device: str) -> str:
    """The device of `auto`, `cpu` or `cuda`: `cpu` or `cuda`.

    Raises:
        QuranAsrError: a GPU is requested, and torch finds none.
    """
    gpu = torch.cuda.is_available()
    if device == "cuda" and not gpu:
        raise QuranAsrError("no CUDA device was found", where="--device cuda", remedy="use auto or cpu")
    return ("cuda" if gpu else "cpu") if device == "auto" else device


def grown(task: Task) -> Iterator[tuple[str, Task]]:
    """The task with more clips, and with longer ones."""
    for times in GROWTH:
        yield f"{times}x clips", replace(task, clips=times * task.clips, rounds=1, steps=1)
    for times in GROWTH:
        low, high = task.seconds
        longer = (times * low, times * high)
        yield f"{times}x length", replace(task, seconds=longer, rounds=1, steps=1, manifests=())


def calibration(task: Task, figures: dict[str, Any]) -> Calibration:
    """The calibration of this device for `plan`: the speed of our training."""
    batch, step = figures["batch"]["audio_seconds"], figures["ours"]["step_seconds"]
    validation = figures["validation_seconds_per_hour"]
    return measured_by(task.recipe, figures["device"], batch, step, validation, figures["date"][:10])


def precisions(task: Task, report: Callable[[str], None], steps: int = AFTER_STEPS) -> dict[str, Any]:
    """Our training in float32 and in bf16 from the same weights: time of a step, loss after equal steps."""
    found: dict[str, Any] = {}
    with prepared(task) as (clips, tokenizer):
        for name, precision in (("fp32", 32), ("bf16", "bf16-mixed")):
            report(f"ours in {name}: {steps} steps")
            with _worker(task, "ours", clips, tokenizer.folder) as worker:
                timed: list[StepTime] = worker("steps", steps, precision)
            last, times = timed[-LAST_LOSSES:], sorted(step.seconds for step in timed)
            found[name] = {
                "step_seconds": times[len(times) // 2],
                "loss": sum(step.loss for step in last) / len(last),
                "steps": steps,
            }
    return {**found, "ratio": found["fp32"]["step_seconds"] / found["bf16"]["step_seconds"]}


@contextlib.contextmanager
def prepared(task: Task) -> Iterator[tuple[Clips, Tokenizer]]:
    """Tokenizer and clips in a temporary folder: a batch to warm up, and one for each step."""
    recipe = task.recipe
    with tempfile.TemporaryDirectory(prefix="quran-asr-benchmark-") as made:
        folder = Path(made)
        tokenizer = train_tokenizer(recipe.quran.spelling, recipe.quran.vocabulary_size, folder / "tokenizer")
        count = task.clips * (task.steps + 1)
        segments: Sequence[Segment]
        if task.manifests:
            segments = chosen_clips(task.manifests, count, recipe.quran.spelling)
        else:
            segments = made_clips(count, task.seconds, recipe.quran.spelling, folder)
        yield in_batches(segments, task.clips, folder), tokenizer


def _worker(
    task: Task, system: str, clips: Clips, tokenizer: Path
) -> contextlib.AbstractContextManager[Worker]:
    """The process of stock NeMo or of ours."""
    setup = Setup(
        system,
        task.preset.recipe,
        task.words(),
        tokenizer,
        clips.segments,
        clips.manifest,
        task.device,
        task.threads,
    )
    return started(system, f"{__package__}.training_worker:load", setup, task.threads)


def _about(task: Task, clips: Clips, tokenizer: Tokenizer) -> dict[str, Any]:
    """Description of the task next to the figures: means over the counted batches."""
    recipe = task.recipe
    architecture = of_recipe(recipe.model, recipe.quran.vocabulary_size)
    counted = [segment for batch in clips.batches[1:] for segment in batch]
    batches = len(clips.batches) - 1
    flops = [training_flops(architecture, s.duration, len(tokenizer.encode(s.text))) for s in counted]
    return {
        "clock": task.device,
        "precision": str(recipe.trainer.precision),
        "threads": task.threads if task.device == "cpu" else None,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "clips_from": list(task.manifests) or "made",
        "batch": {
            "clips": task.clips,
            "audio_seconds": sum(s.duration for s in counted) / batches,
            "flops": sum(flops) / batches,
        },
    }


def _same(workers: dict[str, Worker], task: Task) -> dict[str, Any]:
    """The model and first batch as reported by both.

    Raises:
        QuranAsrError: they differ, so that a comparison would be meaningless.
    """
    described = {name: worker("describe") for name, worker in workers.items()}
    if described["stock"] != described["ours"]:
        raise QuranAsrError(
            f"stock NeMo and ours do not train the same: {described['stock']} and {described['ours']}",
            where=task.preset.about,
            remedy="leave out the overrides (KEY=VALUE); if it happens again, report this line",
        )
    ours = described["ours"]
    clips, frames, labels, classes = ours["shape"]
    lattice = {"clips": clips, "frames": frames, "labels": labels, "classes": classes}
    known = find_device(ours["device"]) if task.device == "cuda" else None
    return {
        "device": ours["device"],
        "peak_flops": None if known is None else known.peak_flops,
        "parameters": ours["parameters"],
        "lattice": lattice,
    }
