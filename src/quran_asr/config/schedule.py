"""The learning rate at every optimizer step, as NeMo 3.0's schedulers compute it; no torch."""

from __future__ import annotations

import math
from collections.abc import Callable

from quran_asr.config.schema import Optim

Schedule = Callable[[int, Optim, int, int], float]
"""Arguments and result of `learning_rate`."""
SCHEDULES: dict[str, Schedule] = {}
"""Every value of `model.optim.sched.name`."""


def schedule(name: str) -> Callable[[Schedule], Schedule]:
    """Make a function the schedule of this name. The rate must be highest where the warm-up ends."""

    def register(rate: Schedule) -> Schedule:
        SCHEDULES[name] = rate
        return rate

    return register


def learning_rate(step: int, optim: Optim, d_model: int, total_steps: int) -> float:
    """The rate with which the next optimizer step is made.

    Args:
        step: optimizer steps already done, from 0 (the scheduler's `last_epoch`).
        optim: `model.optim` of a recipe.
        d_model: width of the encoder; only Noam looks at it.
        total_steps: optimizer steps of the whole training; Noam does not look at it.
    """
    return SCHEDULES[optim.sched.name](step, optim, d_model, total_steps)


def transferred_share(step: int, *, rate: float, frozen_steps: int, warmup_steps: int) -> float:
    """Share of the learning rate that applies to transferred tensors in the next optimizer step.

    0 while they are frozen. AdamW has no moments for them when they are released, and its first steps are as
    long as the rate, whatever the gradient: so the share rises over as many steps as the warm-up has.

    Args:
        step: optimizer steps already done, from 0.
        rate: the share in the end (`quran.copied_rate`).
        frozen_steps: optimizer steps for which they are frozen (`quran.unfreeze_after`).
        warmup_steps: of the schedule.
    """
    if step < frozen_steps:
        return 0.0
    if not frozen_steps:
        return rate
    return rate * min(1.0, (step - frozen_steps + 1) / (warmup_steps + 1))


def peak(optim: Optim, d_model: int, total_steps: int) -> tuple[int, float]:
    """The step at which the rate is highest, and that rate.

    A run that ends during its warm-up peaks at its last step.
    """
    step = min(optim.sched.warmup_steps, max(total_steps - 1, 0))
    return step, learning_rate(step, optim, d_model, total_steps)


@schedule("NoamAnnealing")
def _noam(step: int, optim: Optim, d_model: int, total_steps: int) -> float:
    """lr / sqrt(d_model) * min(1 / sqrt(step), step / warmup^1.5): a multiplier, not a rate."""
    step = max(1, step)
    warmup = optim.sched.warmup_steps
    rise = step / warmup**1.5 if warmup else math.inf
    rate = optim.lr * min(1 / math.sqrt(step), rise) / math.sqrt(d_model)
    return max(rate, optim.sched.min_lr) if step > warmup else rate


def _warming(step: int, optim: Optim) -> float | None:
    warmup = optim.sched.warmup_steps
    return optim.lr * (step + 1) / (warmup + 1) if warmup > 0 and step <= warmup else None


@schedule("CosineAnnealing")
def _cosine(step: int, optim: Optim, d_model: int, total_steps: int) -> float:
    warming = _warming(step, optim)
    if warming is not None:
        return warming
    low, warmup = optim.sched.min_lr, optim.sched.warmup_steps
    if step > total_steps or total_steps <= warmup:
        return low
    done = (step - warmup) / (total_steps - warmup)
    return low + (optim.lr - low) * 0.5 * (1 + math.cos(math.pi * done))


@schedule("PolynomialHoldDecayAnnealing")
def _hold_and_decay(step: int, optim: Optim, d_model: int, total_steps: int) -> float:
    warming = _warming(step, optim)
    if warming is not None:
        return warming
    low = optim.sched.min_lr
    held_until = int((optim.sched.hold_ratio or 0.0) * total_steps) + optim.sched.warmup_steps
    if step < held_until:
        return optim.lr
    if step > total_steps or total_steps <= held_until:
        return low
    done = (step - held_until) / (total_steps - held_until)
    return low + (optim.lr - low) * math.pow(1 - done, optim.sched.power)
