"""The plan of a training: steps, batch size, peak learning rate, memory, time, findings.

Nothing here needs torch, a GPU or the audio itself.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from quran_asr.config.architecture import count_parameters
from quran_asr.config.schedule import peak
from quran_asr.config.schema import Quran, Recipe, TrainData, Trainer
from quran_asr.errors import Finding
from quran_asr.experiments.planning.cost import Batch, Memory, step_memory
from quran_asr.experiments.planning.recipe_findings import (
    batch_findings,
    data_findings,
    memory_findings,
    precision_findings,
    rate_findings,
    stop_findings,
    validation_findings,
    warmup_findings,
)
from quran_asr.experiments.planning.starting_point import Arrival, arrivals, start_findings
from quran_asr.experiments.planning.timing import (
    MeasuredSeconds,
    Target,
    Timing,
    epochs_between,
    timing,
    validated_epochs,
)
from quran_asr.experiments.planning.workload import Workload, expected_tokens
from quran_asr.experiments.run_folder import checkpoint_bytes, training_bytes


@dataclass(frozen=True, slots=True)
class Plan:
    """What follows from a recipe, a workload and a device; None where that needs what is not known."""

    name: str
    """Of the recipe's runs."""
    devices: int
    device: str | None
    clips: int | None
    hours: float | None
    effective_batch: int
    """Clips behind an optimizer step; where batches are filled by seconds, the average."""
    batches_per_epoch: int | None
    """On each device."""
    optimizer_steps_per_epoch: int | None
    optimizer_steps: int | None
    epochs: float | None
    warmup_epochs: float | None
    peak_learning_rate: float | None
    peak_step: int | None
    parameters: int
    memory_bytes: Memory
    """On each device, in the step of `memory_batch`."""
    memory_batch: str
    """Which batch was weighed."""
    batch_seconds: float | None
    """Of forward and backward pass of one batch on each device."""
    batch_seconds_source: str
    epoch_seconds: float | None
    """Of the batches of an epoch, without validation."""
    audio_times_real_time: float | None
    """Audio that all devices together take in a second, in seconds: what disks, network and decoders must
    bring."""
    validation_seconds: float | None
    """Of one validation."""
    validation_seconds_source: str
    validations: int | None
    """In the whole training."""
    total_seconds: float | None
    """Batches and validations; batches alone where the time of a validation is not known."""
    checkpoint_bytes: int
    disk_bytes: int
    """Of all that a run keeps."""
    pretrained: tuple[Arrival, ...]
    """What the recipe's start brings, then what other published models would; empty without a start."""
    findings: tuple[Finding, ...]


def plan(
    recipe: Recipe,
    work: Workload | None = None,
    devices: int | None = None,
    *,
    target: Target | None = None,
    given: MeasuredSeconds = MeasuredSeconds(),  # noqa: B008 - frozen
    validation_hours: float | None = None,
) -> Plan:
    """Compute a plan.

    Args:
        recipe: what to train.
        work: what to train on; None leaves everything that depends on it open.
        devices: GPUs to plan for; None takes the number that the recipe was made for.
        target: what kind of device; None leaves time open.
        given: seconds that were measured elsewhere; they win over all other sources.
        validation_hours: audio of every validation.
    """
    model, trainer = recipe.model, recipe.trainer
    devices = devices or trainer.devices
    pretrained = recipe.init_from_pretrained_model is not None
    batches = _batches(model.train_ds, work, devices * trainer.num_nodes) if work is not None else None
    steps_per_epoch = math.ceil(batches / trainer.accumulate_grad_batches) if batches is not None else None
    steps = _total_steps(trainer, steps_per_epoch)
    epochs = steps / steps_per_epoch if steps and steps_per_epoch else None
    warmup = model.optim.sched.warmup_steps
    # Without a number of steps, the peak of a training longer than its warm-up.
    total = 4 * warmup + 4 if steps is None else steps
    peak_step, peak_rate = peak(model.optim, model.encoder.d_model, total)
    parameters = count_parameters(model, recipe.quran.vocabulary_size)
    effective = _effective_batch(trainer, model.train_ds, work, batches, devices)
    weighed, which = _largest_batch(model.train_ds, recipe.quran, work)
    cpu = target.is_cpu if target else trainer.accelerator == "cpu"
    memory = step_memory(recipe, weighed, cpu=cpu, devices=devices)
    audio = None
    if work is not None and batches:
        audio = work.hours * 3600 / batches / (devices * trainer.num_nodes)
    times, unused = timing(recipe, work, audio, target, given, validation_hours)
    validations = _validations(trainer, batches, epochs, times)
    epoch = _times(times.batch_seconds, batches)
    findings = [
        *start_findings(recipe, parameters, steps, steps_per_epoch, effective),
        *stop_findings(recipe.quran.stop_on),
        *rate_findings(model, pretrained, peak_rate, steps),
        *warmup_findings(model, pretrained, steps, steps_per_epoch, parameters),
        *batch_findings(model.train_ds, trainer, effective, parameters, devices),
        *precision_findings(trainer, parameters, target),
        *device_findings(recipe, devices),
        *memory_findings(recipe, weighed, which, target, devices),
        *data_findings(model, recipe.quran, pretrained, work, parameters),
        *unused,
        *(validation_findings(trainer, steps) if validations == 0 else ()),
    ]
    return Plan(
        name=recipe.name,
        devices=devices,
        device=target.name if target else None,
        clips=work.clips if work else None,
        hours=round(work.hours, 3) if work else None,
        effective_batch=effective,
        batches_per_epoch=batches,
        optimizer_steps_per_epoch=steps_per_epoch,
        optimizer_steps=steps,
        epochs=round(epochs, 2) if epochs else None,
        warmup_epochs=round(warmup / steps_per_epoch, 2) if steps_per_epoch else None,
        peak_learning_rate=peak_rate,
        peak_step=peak_step,
        parameters=parameters,
        memory_bytes=memory,
        memory_batch=which,
        batch_seconds=times.batch_seconds,
        batch_seconds_source=times.batch_source,
        epoch_seconds=epoch,
        audio_times_real_time=round(work.hours * 3600 / epoch, 1) if work and epoch else None,
        validation_seconds=times.validation_seconds,
        validation_seconds_source=times.validation_source,
        validations=validations,
        total_seconds=_total_seconds(times, batches, epochs, validations),
        checkpoint_bytes=checkpoint_bytes(parameters),
        disk_bytes=training_bytes(parameters, recipe.exp_manager.checkpoint_callback_params.save_top_k),
        pretrained=arrivals(recipe),
        findings=tuple(findings),
    )


def as_json(planned: Plan) -> dict[str, Any]:
    """The plan as `plan --json` prints it."""
    return asdict(planned)


# Batches and steps


def _batches(data: TrainData, work: Workload, workers: int) -> int:
    """Batches on each of so many devices in an epoch in which every clip comes once."""
    if data.batch_duration is None:
        return math.ceil(math.ceil(work.clips / workers) / data.batch_size)
    if work.durations is not None:
        return math.ceil(_filled_batches(work.durations, data) / workers)
    return math.ceil(work.clips / _clips_by_seconds(data, work.mean_seconds) / workers)


def _filled_batches(durations: Sequence[float], data: TrainData) -> int:
    """Batches when clips sorted by length are laid together up to the padded seconds."""
    assert data.batch_duration is not None
    batches = clips = 0
    for seconds in sorted(durations):
        if clips == 0 or clips >= data.batch_size or seconds * (clips + 1) > data.batch_duration:
            batches, clips = batches + 1, 0
        clips += 1
    return batches


def _clips_by_seconds(data: TrainData, seconds: float) -> float:
    """Clips of so many seconds in a batch that is filled by seconds."""
    assert data.batch_duration is not None
    return min(data.batch_size, max(1.0, data.batch_duration / max(seconds, data.min_duration, 0.01)))


def _total_steps(trainer: Trainer, steps_per_epoch: int | None) -> int | None:
    limits = [trainer.max_steps] if trainer.max_steps > 0 else []
    if trainer.max_epochs > 0:
        if steps_per_epoch is None:
            return None
        limits.append(trainer.max_epochs * steps_per_epoch)
    return min(limits, default=None)


def _effective_batch(
    trainer: Trainer, data: TrainData, work: Workload | None, batches: int | None, devices: int
) -> int:
    joined = devices * trainer.num_nodes * trainer.accumulate_grad_batches
    if data.batch_duration is not None and work is not None and batches:
        return max(1, round(work.clips / batches * trainer.accumulate_grad_batches))
    return data.batch_size * joined


# Memory


def _largest_batch(data: TrainData, quran: Quran, work: Workload | None) -> tuple[Batch, str]:
    """The batch whose step takes the most memory as far as the clips are known, and how to call it."""
    tokens = None
    if work is None or not work.clips:
        seconds, what = data.max_duration, "of the longest that the recipe takes"
    elif work.durations is None:
        seconds, what = work.mean_seconds, "of average length: longer ones take more"
    else:
        seconds, what = max(work.durations), "of the longest"
        if work.most_words:
            tokens = expected_tokens(quran, work.most_words)
    clips = data.batch_size
    if data.batch_duration is not None:
        clips = max(1, math.floor(_clips_by_seconds(data, seconds)))
    if work is not None and work.clips:
        clips = min(clips, work.clips)
    return Batch(clips, seconds, tokens), f"{clips} clip{'s'[: clips != 1]} of {seconds:.3g} s, {what}"


# Time


def _validations(trainer: Trainer, batches: int | None, epochs: float | None, times: Timing) -> int | None:
    if not batches or epochs is None:
        return None
    if trainer.check_val_every_n_epoch is None:
        return math.floor(epochs * batches / trainer.val_check_interval)
    share = isinstance(trainer.val_check_interval, float)
    each = 1 / trainer.val_check_interval if share else batches // trainer.val_check_interval
    if trainer.check_val_every_n_epoch == "auto":
        training = (times.batch_seconds or 0.0) * batches
        between = epochs_between((times.validation_seconds or 0.0) * math.floor(each), training, epochs)
        return validated_epochs(between, math.floor(epochs)) * math.floor(each)
    return math.floor(epochs / trainer.check_val_every_n_epoch * math.floor(each))


def _total_seconds(
    times: Timing, batches: int | None, epochs: float | None, validations: int | None
) -> float | None:
    epoch = _times(times.batch_seconds, batches)
    if epoch is None or epochs is None:
        return None
    return epoch * epochs + (times.validation_seconds or 0.0) * (validations or 0)


def _times(seconds: float | None, number: int | None) -> float | None:
    return None if seconds is None or number is None else seconds * number


# Other devices than the recipe was made for


def device_findings(recipe: Recipe, devices: int) -> list[Finding]:
    """What to change where there are more or fewer GPUs than the recipe was made for."""
    if devices == recipe.trainer.devices:
        return []
    trainer, batch = recipe.trainer, recipe.model.train_ds.batch_size
    now = batch * devices * trainer.num_nodes * trainer.accumulate_grad_batches
    if now == recipe.effective_batch:
        return []
    workers = devices * trainer.num_nodes
    accumulation, clips = divide_batch(recipe.effective_batch, batch, workers)
    reached = accumulation * clips * workers
    change = f"trainer.devices={devices} trainer.accumulate_grad_batches={accumulation}"
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


def divide_batch(wanted: int, most: int, workers: int) -> tuple[int, int]:
    """Accumulation and clips of a batch with which so many processes have an effective batch.

    Where their number does not divide it, those that come nearest.

    Args:
        wanted: clips behind an optimizer step.
        most: clips of a batch on one device.
    """
    if 2 * wanted <= most * workers:  # so many GPUs that each takes less than half of its clips
        return 1, max(1, wanted // workers)
    choices = []
    for batch in range(most, most // 2, -1):
        accumulation = max(1, round(wanted / (batch * workers)))
        choices.append((abs(accumulation * batch * workers - wanted), accumulation, batch))
    _, accumulation, batch = min(choices, key=lambda choice: (choice[0], choice[1]))
    return accumulation, batch


def _gpus(number: int) -> str:
    return "1 GPU" if number == 1 else f"{number} GPUs"


CLIPS, BATCHES, EPOCHS = 67_399, 1054, 100
"""Of the guide's case: batches an epoch on each of two GPUs."""
RECIPES = ("transfer", "before")
"""Those that are the guide's own."""


def guide_notes(asked: str, recipe: Recipe, planned: Plan) -> list[Finding]:
    """Where the guide differs, with the figures of this plan. Notes: nothing needs doing.

    Args:
        asked: the recipe as it was named.
    """
    return [
        Finding("note", code, where, message, "") for code, where, message in _notes(asked, recipe, planned)
    ]


def _notes(asked: str, recipe: Recipe, planned: Plan) -> Iterator[tuple[str, str, str]]:
    """Code, key and message of each."""
    if asked == "transfer":
        yield (
            "guide-rate",
            "model.optim.lr",
            "the guide gives the rate as 1.5 and as 2.0, the warm-up as 3,000 and as 5,000 steps: at d_model "
            "512 they peak at 1.21e-03 and 1.25e-03, hardly apart",
        )
    if planned.clips != CLIPS:
        return
    per_epoch, batches = planned.optimizer_steps_per_epoch, planned.batches_per_epoch
    if asked in RECIPES and per_epoch and batches and per_epoch != batches:
        warmup = recipe.model.optim.sched.warmup_steps
        yield (
            "guide-warmup",
            "model.optim.sched.warmup_steps",
            f"a warm-up of {warmup:,} steps is {warmup / batches:.1f} epochs of batches, as the guide "
            f"counts, and {warmup / per_epoch:.1f} epochs of optimizer steps, which is what counts",
        )
    if batches == BATCHES:
        message = (
            "the guide has 1,053 batches an epoch: 67,399 / 64 = 1,053.1, and the last, smaller one counts"
        )
        yield "guide-batches", "model.train_ds.batch_size", f"{message} too"
    steps, accumulation = planned.optimizer_steps, recipe.trainer.accumulate_grad_batches
    if asked == "before" and planned.epochs == 10 and steps:
        message = f"the guide counts 10,530 updates in 10 epochs; batches of 16 x 2 clips make it {steps:,}"
        yield "guide-steps", "trainer.accumulate_grad_batches", message
    elif batches == BATCHES and planned.epochs == EPOCHS and steps:
        message = "the guide's 105,300 updates in 100 epochs are batches; with accumulation "
        message += f"{accumulation} they are {steps:,} optimizer steps"
        yield "guide-steps", "trainer.accumulate_grad_batches", message
    if planned.hours is not None and planned.hours <= 100:
        mean, hours = planned.hours * 3600 / CLIPS, planned.hours
        message = (
            f"the guide calls its {CLIPS:,} clips about 200 h; at {mean:.1f} s each they are {hours:.0f} h"
        )
        yield "guide-hours", "", message
    if (
        planned.total_seconds is not None
        and planned.epochs == EPOCHS
        and planned.validation_seconds is not None
    ):
        hours = planned.total_seconds / 3600
        yield "guide-time", "", f"the guide has 15 + 2 = 17 hours; this plan comes to {hours:.1f}"
