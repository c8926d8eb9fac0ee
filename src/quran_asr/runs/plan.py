"""What a training will be, before it begins: steps, batch, peak rate, parameters, and what is amiss.

Nothing here needs torch, a GPU or the audio itself.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from quran_asr.findings import Finding, QuranAsrError
from quran_asr.runs.parameters import count_parameters
from quran_asr.runs.plan_start import BIG, Arrival, arrivals, start_findings
from quran_asr.runs.schedule import peak
from quran_asr.runs.schema import Recipe, TrainData

HIGHEST_RATE = 2e-3
"""Peak learning rate above which this encoder under AdamW has been seen to diverge (2.21e-3)."""
LEAST_BATCH = 64
"""Clips behind an optimizer step under which the gradient of a big model is noisy."""
LONGEST_WARMUP = 0.25
"""Share of all optimizer steps."""


@dataclass(frozen=True, slots=True)
class Workload:
    """What there is to train on."""

    clips: int
    hours: float
    durations: tuple[float, ...] | None = None
    """Seconds of each clip that is kept, where the manifest is known."""
    left_out_clips: int = 0
    left_out_hours: float = 0.0
    """Of clips longer or shorter than the recipe admits."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What follows from a recipe and a workload; None where that needs clips that are not known."""

    name: str
    """Of the recipe's runs."""
    devices: int
    clips: int | None
    hours: float | None
    effective_batch: int
    """Clips behind an optimizer step; where batches are filled by seconds, the average."""
    batches_per_epoch: int | None
    """On each device."""
    optimizer_steps_per_epoch: int | None
    optimizer_steps: int | None
    epochs: float | None
    peak_learning_rate: float | None
    peak_step: int | None
    parameters: int
    pretrained: tuple[Arrival, ...]
    """What the recipe's start brings, then what other published models would; empty without a start."""
    findings: tuple[Finding, ...]


def read_durations(manifest: str | Path) -> list[float]:
    """Seconds of each clip of a manifest, and nothing else of it: a plan needs no recordings at hand.

    Raises:
        QuranAsrError: the file cannot be read, or a line has no duration.
    """
    try:
        lines = Path(manifest).read_text(encoding="utf-8").split("\n")  # not splitlines: U+2028 is text
    except (OSError, UnicodeDecodeError) as error:
        reason = "is not UTF-8 text" if isinstance(error, UnicodeDecodeError) else error.strerror
        raise QuranAsrError(str(reason), where=str(manifest)) from None
    durations = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            seconds = json.loads(line)["duration"]
        except (ValueError, KeyError, TypeError, RecursionError):
            seconds = None
        known = isinstance(seconds, int | float) and not isinstance(seconds, bool)
        if not (known and 0 < seconds < math.inf):
            raise QuranAsrError("has no `duration` in seconds", where=f"{manifest}:{number}")
        durations.append(float(seconds))
    return durations


def weigh(durations: Sequence[float], recipe: Recipe) -> Workload:
    """The workload of clips of these seconds: what the recipe's limits keep, and what they leave out."""
    data = recipe.model.train_ds
    kept = tuple(seconds for seconds in durations if data.min_duration <= seconds <= data.max_duration)
    left_out = sum(durations) - sum(kept)
    return Workload(len(kept), sum(kept) / 3600, kept, len(durations) - len(kept), max(0.0, left_out) / 3600)


def plan(recipe: Recipe, work: Workload | None = None, devices: int | None = None) -> Plan:
    """Compute a plan.

    Args:
        recipe: what to train.
        work: what to train on; None leaves everything that depends on it open.
        devices: GPUs to plan for; None takes the number that the recipe was made for.
    """
    devices = devices or recipe.trainer.devices
    trainer = recipe.trainer
    batches = _batches(recipe, work, devices) if work is not None else None
    steps_per_epoch = math.ceil(batches / trainer.accumulate_grad_batches) if batches is not None else None
    steps = _total_steps(recipe, steps_per_epoch)
    peak_step, peak_rate = _peak(recipe, steps)
    parameters = count_parameters(recipe.model, recipe.quran.vocabulary_size)
    effective = _effective_batch(recipe, work, batches, devices)
    findings = [
        *start_findings(recipe, parameters),
        *_rate_findings(recipe, peak_rate, steps, parameters),
        *_batch_findings(recipe, effective, parameters),
        *device_findings(recipe, devices),
        *_left_out_findings(recipe, work),
    ]
    return Plan(
        name=recipe.name,
        devices=devices,
        clips=work.clips if work else None,
        hours=round(work.hours, 3) if work else None,
        effective_batch=effective,
        batches_per_epoch=batches,
        optimizer_steps_per_epoch=steps_per_epoch,
        optimizer_steps=steps,
        epochs=round(steps / steps_per_epoch, 2) if steps and steps_per_epoch else None,
        peak_learning_rate=peak_rate,
        peak_step=peak_step,
        parameters=parameters,
        pretrained=arrivals(recipe),
        findings=tuple(findings),
    )


def keep_effective_batch(recipe: Recipe, devices: int) -> tuple[int, int]:
    """Accumulation and clips a GPU with which another number of GPUs has the recipe's effective batch.

    Where the number does not divide it, those that come nearest.
    """
    wanted, nodes = recipe.effective_batch, recipe.trainer.num_nodes
    most = recipe.model.train_ds.batch_size
    workers = devices * nodes
    if 2 * wanted <= most * workers:  # so many GPUs that each takes less than half of its clips
        return 1, max(1, wanted // workers)
    choices = []
    for batch in range(most, most // 2, -1):
        accumulation = max(1, round(wanted / (batch * workers)))
        choices.append((abs(accumulation * batch * workers - wanted), accumulation, batch))
    _, accumulation, batch = min(choices, key=lambda choice: (choice[0], choice[1]))
    return accumulation, batch


def _batches(recipe: Recipe, work: Workload, devices: int) -> int:
    """Batches on each device in an epoch in which every clip comes once."""
    data, workers = recipe.model.train_ds, devices * recipe.trainer.num_nodes
    if data.batch_duration is None:
        return math.ceil(math.ceil(work.clips / workers) / data.batch_size)
    if work.durations is not None:
        return math.ceil(_filled_batches(work.durations, data) / workers)
    mean = work.hours * 3600 / work.clips if work.clips else data.batch_duration
    per_batch = min(data.batch_size, max(1.0, data.batch_duration / max(mean, data.min_duration, 0.01)))
    return math.ceil(work.clips / per_batch / workers)


def _filled_batches(durations: Sequence[float], data: TrainData) -> int:
    """Batches when clips sorted by length are laid together up to the padded seconds."""
    assert data.batch_duration is not None
    batches = clips = 0
    for seconds in sorted(durations):
        if clips == 0 or clips >= data.batch_size or seconds * (clips + 1) > data.batch_duration:
            batches, clips = batches + 1, 0
        clips += 1
    return batches


def _total_steps(recipe: Recipe, steps_per_epoch: int | None) -> int | None:
    limits = []
    if recipe.trainer.max_steps > 0:
        limits.append(recipe.trainer.max_steps)
    if recipe.trainer.max_epochs > 0 and steps_per_epoch is not None:
        limits.append(recipe.trainer.max_epochs * steps_per_epoch)
    elif recipe.trainer.max_epochs > 0:
        return None
    return min(limits) if limits else None


def _peak(recipe: Recipe, steps: int | None) -> tuple[int | None, float | None]:
    """Where the rate is highest; without a number of steps, for a training longer than its warm-up."""
    sched = recipe.model.optim.sched
    total = 4 * sched.warmup_steps + 4 if steps is None else steps
    return peak(recipe.model.optim, recipe.model.encoder.d_model, total)


def _effective_batch(recipe: Recipe, work: Workload | None, batches: int | None, devices: int) -> int:
    trainer, data = recipe.trainer, recipe.model.train_ds
    joined = devices * trainer.num_nodes * trainer.accumulate_grad_batches
    if data.batch_duration is not None and work is not None and batches:
        return max(1, round(work.clips / batches * trainer.accumulate_grad_batches))
    return data.batch_size * joined


# What is amiss


def _rate_findings(
    recipe: Recipe, peak_rate: float | None, steps: int | None, parameters: int
) -> list[Finding]:
    optim = recipe.model.optim
    found = []
    if peak_rate is not None and peak_rate > HIGHEST_RATE:
        noam = optim.sched.name == "NoamAnnealing"
        found.append(
            Finding(
                "warning",
                "high-learning-rate",
                "model.optim.lr",
                f"the learning rate peaks at {peak_rate:.2e}"
                + (f" (Noam's {optim.lr:g} is a multiplier)" if noam else "")
                + ": too high for this encoder",
                "model.optim.lr=1.5 model.optim.sched.warmup_steps=3000 peaks at 1.21e-03"
                if noam and recipe.model.encoder.d_model == 512
                else ("lower `model.optim.lr`" if noam else "model.optim.lr=1.0e-3"),
            )
        )
    warmup = optim.sched.warmup_steps
    if steps and warmup > LONGEST_WARMUP * steps:
        share = warmup / steps
        what = (
            "is longer than the training: the rate never reaches its peak"
            if share > 1
            else f"takes {share:.0%} of the training"
        )
        better = 3000 if parameters >= BIG and steps >= 12_000 else max(1, steps // 10)
        found.append(
            Finding(
                "warning",
                "long-warmup",
                "model.optim.sched.warmup_steps",
                f"a warm-up of {warmup:,} of {steps:,} optimizer steps {what}",
                f"model.optim.sched.warmup_steps={better}, or train longer",
            )
        )
    return found


def _batch_findings(recipe: Recipe, effective: int, parameters: int) -> list[Finding]:
    if parameters < BIG:
        return []
    found = []
    if effective < LEAST_BATCH:
        found.append(
            Finding(
                "warning",
                "small-batch",
                "model.train_ds.batch_size",
                f"an effective batch of {effective} clips gives noisy gradients",
                "32 clips a GPU and accumulation to 128: model.train_ds.batch_size=32 "
                "trainer.accumulate_grad_batches=2 on two GPUs",
            )
        )
    if recipe.trainer.precision == 32:
        found.append(
            Finding(
                "warning",
                "full-precision",
                "trainer.precision",
                "float32 is two to three times slower than bf16-mixed, which loses no accuracy",
                "trainer.precision=bf16-mixed",
            )
        )
    return found


def device_findings(recipe: Recipe, devices: int) -> list[Finding]:
    """What to change where there are more or fewer GPUs than the recipe was made for."""
    if devices == recipe.trainer.devices:
        return []
    trainer, batch = recipe.trainer, recipe.model.train_ds.batch_size
    now = batch * devices * trainer.num_nodes * trainer.accumulate_grad_batches
    if now == recipe.effective_batch:
        return []
    accumulation, clips = keep_effective_batch(recipe, devices)
    reached = accumulation * clips * devices * trainer.num_nodes
    change = f"trainer.accumulate_grad_batches={accumulation}"
    if clips != batch:
        change += f" model.train_ds.batch_size={clips}"
    keeps = "keeps it" if reached == recipe.effective_batch else f"comes nearest, with {reached}"
    return [
        Finding(
            "warning",
            "other-devices",
            "trainer.devices",
            f"the recipe was made for {_gpus(trainer.devices)} and an effective batch of "
            f"{recipe.effective_batch}; on {_gpus(devices)} it is {now}",
            f"{change} {keeps}",
        )
    ]


def _left_out_findings(recipe: Recipe, work: Workload | None) -> list[Finding]:
    if work is None or not work.left_out_clips:
        return []
    data = recipe.model.train_ds
    return [
        Finding(
            "note" if work.clips else "error",
            "left-out-clips",
            "model.train_ds.max_duration",
            f"{work.left_out_clips:,} clips with {work.left_out_hours:.2f} h are left out: longer than "
            f"{data.max_duration:g} s or shorter than {data.min_duration:g} s",
            "cut long recordings at verses, or raise `model.train_ds.max_duration`",
        )
    ]


def as_json(planned: Plan) -> dict[str, Any]:
    """The plan as `plan --json` prints it."""
    return asdict(planned)


def _gpus(number: int) -> str:
    return "1 GPU" if number == 1 else f"{number} GPUs"
