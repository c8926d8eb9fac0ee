"""Expected training time: measured, else from the device table, else unknown."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from quran_asr.config.architecture import count_parameters
from quran_asr.config.recipe import SHIPPED, load_recipe
from quran_asr.config.schema import Quran, Recipe
from quran_asr.errors import Finding
from quran_asr.experiments.planning.cost import audio_flops
from quran_asr.experiments.planning.devices import (
    Calibration,
    Device,
    find_device,
    no_such_device,
    scale,
    words,
)
from quran_asr.experiments.planning.workload import Workload, expected_tokens

HOW_TO_KNOW = "name a device with --device, or give a measured --batch-seconds"
FORWARD_SHARE = 1 / 3
"""Of a training step: validation has no backward pass, which costs twice the forward pass."""


@dataclass(frozen=True, slots=True)
class Target:
    """The device that is planned for, as far as it is known."""

    name: str
    row: Device | None
    """Of the table."""
    calibrations: tuple[Calibration, ...] = ()
    """What was measured of it, the latest of each model first."""

    @property
    def is_cpu(self) -> bool:
        """Whether it is known not to be a GPU."""
        return self.row is not None and self.row.name == "CPU core"


@dataclass(frozen=True, slots=True)
class MeasuredSeconds:
    """Seconds that somebody measured; None where nobody did."""

    batch_seconds: float | None = None
    """Of a batch on each device."""
    validation_seconds: float | None = None
    """Of one validation."""


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds, None where unknown, and where each is from."""

    batch_seconds: float | None
    batch_source: str
    validation_seconds: float | None
    """Of one validation."""
    validation_source: str


def find_target(name: str | None, calibrations: Sequence[Calibration]) -> Target | None:
    """The device of that name, measured or in the table; without a name the only one that was measured.

    Raises:
        QuranAsrError: nothing is known of a device of that name; the nearest name is in the hint.
    """
    if name is None:
        of_one = tuple(calibrations)
        if len({one.device for one in of_one}) != 1:
            return None
        row = find_device(of_one[0].device)
        return Target(row.name if row else of_one[0].device, row, of_one)
    row = find_device(name)
    asked = words(name)
    measured = [one for one in calibrations if asked and asked <= words(one.device)]
    measured += [one for one in calibrations if row is not None and find_device(one.device) == row]
    if row is None and not measured:
        raise no_such_device(name, tuple(one.device for one in calibrations))
    known = row or find_device(measured[0].device)
    first = tuple(one for one in measured if one.device == measured[0].device)
    return Target(known.name if known else measured[0].device, known, tuple(dict.fromkeys(first)))


def timing(
    recipe: Recipe,
    work: Workload | None,
    batch_audio: float | None,
    target: Target | None,
    given: MeasuredSeconds,
    validation_hours: float | None,
) -> tuple[Timing, list[Finding]]:
    """Seconds of a batch and of a validation, from the best source that there is.

    Args:
        batch_audio: seconds of audio in an average batch on one device; None where the clips are not known.
        validation_hours: None where they are not known.
    """
    found: list[Finding] = []
    batch, source = given.batch_seconds, "as given"
    per_hour = None
    if batch is None:
        batch, source, per_hour, found = _batch(recipe, work, batch_audio, target)
    validation, validation_source = given.validation_seconds, "as given"
    if validation is None:
        validation, validation_source = _validation(validation_hours, per_hour, batch, batch_audio, source)
    return Timing(batch, source, validation, validation_source), found


def _batch(
    recipe: Recipe, work: Workload | None, batch_audio: float | None, target: Target | None
) -> tuple[float | None, str, float | None, list[Finding]]:
    """Seconds of a batch, their source, measured seconds of an hour of validation, and what is amiss."""
    if work is None or batch_audio is None:
        return None, "unknown: name the clips with --train, or with --clips and --hours", None, []
    if target is None:
        return None, f"unknown: {HOW_TO_KNOW}", None, []
    found: list[Finding] = []
    cost = audio_flops(recipe, work.mean_seconds, _tokens(recipe.quran, work))
    measured = _nearest(recipe, target, cost, work)
    if measured is not None:
        theirs = _cost(measured, work)
        share = None if theirs is None else scale(measured, cost, theirs)
        if measured.precision not in (None, _precision(recipe, target)):
            found.append(_unused(measured, f"in precision {measured.precision}"))
        elif share is not None:
            how = "measured" if _same_model(recipe, measured) else f"scaled from `{measured.model}`"
            source = f"{how} on {measured.device}, {measured.date}"
            per_hour = measured.validation_seconds_per_hour
            if per_hour is not None and theirs is not None:
                per_hour *= cost / theirs
            return share * batch_audio, source, per_hour, found
        else:
            why = "a model that is not known here" if theirs is None else "a model of quite another size"
            found.append(_unused(measured, why))
    if target.row is None:
        return None, f"unknown: {HOW_TO_KNOW}", None, found
    speed = target.row.speed(recipe.trainer.precision)
    source = f"an estimate for {target.row.name}, right to a factor of two or three"
    return batch_audio * cost / speed, source, None, found


def _validation(
    hours: float | None, per_hour: float | None, batch: float | None, batch_audio: float | None, source: str
) -> tuple[float | None, str]:
    if hours is None:
        return (
            None,
            "unknown: name its clips with --validation, or give --validation-seconds",
        )
    if per_hour is not None:
        return hours * per_hour, source
    if batch is None or not batch_audio:
        return None, f"unknown: {HOW_TO_KNOW}"
    return hours * 3600 * FORWARD_SHARE * batch / batch_audio, "a third of a training step for the same audio"


def _tokens(quran: Quran, work: Workload) -> float | None:
    return expected_tokens(quran, work.words / work.clips) if work.words and work.clips else None


def _nearest(recipe: Recipe, target: Target, cost: float, work: Workload) -> Calibration | None:
    """Of what was measured, this model, else the one of the nearest cost; in the training's precision if any.

    Args:
        cost: operations of a second of audio of the recipe's own model.
    """

    def distance(one: Calibration) -> tuple[bool, bool, float]:
        theirs = _cost(one, work)
        other_precision = one.precision not in (None, _precision(recipe, target))
        far = math.inf if theirs is None else abs(math.log(cost / theirs))
        return other_precision, not _same_model(recipe, one), far

    return min(target.calibrations, key=distance, default=None)


def _same_model(recipe: Recipe, measured: Calibration) -> bool:
    own = count_parameters(recipe.model, recipe.quran.vocabulary_size)
    return measured.model == recipe.name and measured.parameters in (None, own)


def _cost(measured: Calibration, work: Workload) -> float | None:
    return measured.audio_flops or _shipped_cost(measured.model, work)


def _shipped_cost(model: str, work: Workload) -> float | None:
    """Operations of a second of audio, where a calibration names no more than a shipped recipe."""
    named = {one: load_recipe(one) for one in SHIPPED if one == model or load_recipe(one).name == model}
    recipe = named.get(model) or next(iter(named.values()), None)
    return None if recipe is None else audio_flops(recipe, work.mean_seconds)


def _precision(recipe: Recipe, target: Target) -> int | str:
    """In which it would train there: a CPU trains in float32."""
    return 32 if target.is_cpu else recipe.trainer.precision


def _unused(measured: Calibration, why: str) -> Finding:
    return Finding(
        "note",
        "calibration-not-used",
        measured.device,
        f"what was measured on {measured.date} is of `{measured.model}`, {why}: it is not used",
        "measure this recipe there, or give --batch-seconds",
    )


SHARE = 0.03
"""The most of the time of training that validations may take."""


def epochs_between(validation_seconds: float, epoch_seconds: float, epochs: float | None) -> int:
    """The smallest k with which validations in the first epoch, every k-th and the last take up to `SHARE`.

    Args:
        validation_seconds: of all validations in an epoch that has some.
        epoch_seconds: of an epoch's training.
        epochs: in the whole training; None where no limit is set. Where even first and last are too much,
            k is as many.
    """
    if validation_seconds <= 0 or epoch_seconds <= 0:
        return 1
    if epochs is None:
        return max(1, math.ceil(validation_seconds / (SHARE * epoch_seconds)))
    if epochs * validation_seconds <= SHARE * epochs * epoch_seconds:
        return 1
    room = SHARE * epochs * epoch_seconds - 2 * validation_seconds
    if room <= 0:
        return max(1, math.ceil(epochs))
    return min(max(1, math.ceil(epochs)), math.ceil(epochs * validation_seconds / room))


def validated_epochs(between: int, epochs: int) -> int:
    """How many of so many epochs have validations: the first, every one `between` later, and the last."""
    every = -(-epochs // between)
    return every + (epochs > 1 and (epochs - 1) % between > 0)
