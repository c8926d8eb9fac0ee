"""The learning rate at every optimizer step, as NeMo 3.0's schedulers compute it; no torch."""

from __future__ import annotations

import math

from quran_asr.config.schema import Optim, Recipe


def learning_rate(step: int, optim: Optim, d_model: int, total_steps: int) -> float:
    """The rate with which the next optimizer step is made.

    Args:
        step: optimizer steps already done, from 0 (the scheduler's `last_epoch`).
        optim: `model.optim` of a recipe.
        d_model: width of the encoder; only Noam looks at it.
        total_steps: optimizer steps of the whole training; Noam does not look at it.
    """
    if optim.sched.name == "NoamAnnealing":
        return _noam(step, optim, d_model)
    if optim.sched.name == "CosineAnnealing":
        return _cosine(step, optim, total_steps)
    return _hold_and_decay(step, optim, total_steps)


def transferred_share(step: int, recipe: Recipe) -> float:
    """Share of the rate at which tensors that came from the start learn in the next optimizer step.

    0 while they are frozen. Then AdamW knows nothing of them yet, so the share rises over as many steps as
    the warm-up has: its first steps are as long as the rate, whatever the gradient.

    Args:
        step: optimizer steps already done, from 0.
        recipe: its `quran.copied_rate` and `quran.unfreeze_after` decide.
    """
    frozen, rate = recipe.quran.unfreeze_after, recipe.quran.copied_rate
    if step < frozen:
        return 0.0
    if not frozen:
        return rate
    return rate * min(1.0, (step - frozen + 1) / (recipe.model.optim.sched.warmup_steps + 1))


def peak(optim: Optim, d_model: int, total_steps: int) -> tuple[int, float]:
    """The step at which the rate is highest, and that rate.

    A run that ends during its warm-up peaks at its last step.
    """
    last = max(total_steps - 1, 0)
    if optim.sched.name == "NoamAnnealing":
        step = max(1, optim.sched.warmup_steps)
    else:
        step = optim.sched.warmup_steps
    step = min(step, last)
    return step, learning_rate(step, optim, d_model, total_steps)


def _noam(step: int, optim: Optim, d_model: int) -> float:
    """lr / sqrt(d_model) * min(1 / sqrt(step), step / warmup^1.5): a multiplier, not a rate."""
    step = max(1, step)
    warmup = optim.sched.warmup_steps
    rise = step / warmup**1.5 if warmup else math.inf
    rate = optim.lr * min(1 / math.sqrt(step), rise) / math.sqrt(d_model)
    return max(rate, optim.sched.min_lr) if step > warmup else rate


def _warming(step: int, optim: Optim) -> float | None:
    warmup = optim.sched.warmup_steps
    return optim.lr * (step + 1) / (warmup + 1) if warmup > 0 and step <= warmup else None


def _cosine(step: int, optim: Optim, total_steps: int) -> float:
    warming = _warming(step, optim)
    if warming is not None:
        return warming
    low, warmup = optim.sched.min_lr, optim.sched.warmup_steps
    if step > total_steps or total_steps <= warmup:
        return low
    done = (step - warmup) / (total_steps - warmup)
    return low + (optim.lr - low) * 0.5 * (1 + math.cos(math.pi * done))


def _hold_and_decay(step: int, optim: Optim, total_steps: int) -> float:
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
