"""Where the text of the guide and what follows from its configuration differ."""

from __future__ import annotations

from quran_asr.findings import Finding
from quran_asr.runs.planning.plan import Plan
from quran_asr.runs.schema import Recipe

CLIPS, BATCHES, EPOCHS = 67_399, 1054, 100
"""Of the guide's case: batches an epoch on each of two GPUs."""
RECIPES = ("transfer", "before")
"""Those that are the guide's own."""


def guide_notes(asked: str, recipe: Recipe, planned: Plan) -> list[Finding]:
    """What the guide says otherwise, with the figures of this plan. Notes: nothing needs doing.

    Args:
        asked: the recipe as it was named.
    """
    notes = []
    if asked in RECIPES:
        notes += _rate(asked)
    if planned.clips == CLIPS:
        notes += [
            *_warmup(asked, recipe, planned),
            *_batches(planned),
            *_steps(asked, recipe, planned),
            *_hours(planned),
            *_time(planned),
        ]
    return [Finding("note", code, where, message, "") for code, where, message in notes]


def _rate(asked: str) -> list[tuple[str, str, str]]:
    if asked == "before":
        return []
    message = (
        "the guide gives the rate as 1.5 and as 2.0, the warm-up as 3,000 and as 5,000 steps: at d_model 512 "
        "they peak at 1.21e-03 and 1.25e-03, hardly apart"
    )
    return [("guide-rate", "model.optim.lr", message)]


def _warmup(asked: str, recipe: Recipe, planned: Plan) -> list[tuple[str, str, str]]:
    per_epoch, batches = planned.optimizer_steps_per_epoch, planned.batches_per_epoch
    if asked not in RECIPES or not per_epoch or not batches or per_epoch == batches:
        return []
    warmup = recipe.model.optim.sched.warmup_steps
    message = (
        f"a warm-up of {warmup:,} steps is {warmup / batches:.1f} epochs of batches, as the guide counts, "
        f"and {warmup / per_epoch:.1f} epochs of optimizer steps, which is what counts"
    )
    return [("guide-warmup", "model.optim.sched.warmup_steps", message)]


def _batches(planned: Plan) -> list[tuple[str, str, str]]:
    if planned.batches_per_epoch != BATCHES:
        return []
    message = (
        "the guide has 1,053 batches an epoch: 67,399 / 64 = 1,053.1, and the last, smaller one counts too"
    )
    return [("guide-batches", "model.train_ds.batch_size", message)]


def _steps(asked: str, recipe: Recipe, planned: Plan) -> list[tuple[str, str, str]]:
    steps = planned.optimizer_steps
    where = "trainer.accumulate_grad_batches"
    if asked == "before" and planned.epochs == 10 and steps:
        message = f"the guide counts 10,530 updates in 10 epochs; batches of 16 x 2 clips make it {steps:,}"
        return [("guide-steps", where, message)]
    if planned.batches_per_epoch != BATCHES or planned.epochs != EPOCHS or not steps:
        return []
    message = (
        "the guide's 105,300 updates in 100 epochs are batches; with accumulation "
        f"{recipe.trainer.accumulate_grad_batches} they are {steps:,} optimizer steps"
    )
    return [("guide-steps", where, message)]


def _hours(planned: Plan) -> list[tuple[str, str, str]]:
    if planned.hours is None or planned.hours > 100:
        return []
    mean, hours = planned.hours * 3600 / CLIPS, planned.hours
    message = f"the guide calls its {CLIPS:,} clips about 200 h; at {mean:.1f} s each they are {hours:.0f} h"
    return [("guide-hours", "", message)]


def _time(planned: Plan) -> list[tuple[str, str, str]]:
    if planned.total_seconds is None or planned.epochs != EPOCHS or planned.validation_seconds is None:
        return []
    hours = planned.total_seconds / 3600
    return [("guide-time", "", f"the guide says 15 + 2 = 17 hours; this plan comes to {hours:.1f}")]
