"""A learning rate that is too high: the loss rises, oscillates or is not a number; which rate to try."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from quran_asr.experiments.curves import (
    Curves,
    Point,
    finite,
    level,
    loss_in_words,
    lowest_level,
    noise,
    quantile,
    thinned,
    training_loss,
    values,
)
from quran_asr.experiments.diagnostics.diagnosis import Diagnosis, Evidence, rule, shown

LEAST_LINES = 20
"""Training lines before which its loss is not judged."""
RISE = 1.5
"""The loss over its lowest level at which it has risen."""
SHARE_LOST = 0.12
"""Share of what had been learned, in loss, that a rise must have lost."""
SWING = 4.0
"""The 90 % quantile of a stretch over its 10 % quantile from which on a loss swings."""
NOT_A_NUMBER = 3
"""Lines with NaN, or with batches skipped for it, that are too many."""


@rule(
    "divergence",
    explains=(
        "overfitting",
        "stalled-start",
        "stuck-wer",
        "stuck-blank-collapse",
        "stuck-token-loops",
        "plateau",
    ),
)
def divergence(curves: Curves) -> Iterator[Diagnosis]:
    """The training loss has risen for good, or swings: what was learned is lost again and again."""
    name, points = training_loss(curves)
    if len(points) < LEAST_LINES:
        return
    points, loss = list(thinned(points)), loss_in_words(curves, name)
    if _still_improves(curves):
        return
    spread = 1.25 * noise([math.log(max(value, 1e-9)) for value in values(points)])
    first = level(points[:5])
    for width in (max(5, len(points) // 20), len(points) // 8):
        at, best = lowest_level(points, width)
        now = level(points[-width:])
        learned = max(0.0, first - best)
        risen = now > best and now >= RISE * best and now - best >= SHARE_LOST * learned
        risen = risen or (now > best and learned >= 0.1 * first and now - best >= 0.5 * learned)
        sure = math.log(max(now, 1e-9) / max(best, 1e-9)) >= 5 * spread / math.sqrt(width)
        if risen and sure and at < len(points) - width:
            last = points[-1]
            yield _too_high(
                curves,
                f"{loss} rises: {now:.3g} now, {best:.3g} around {curves.place(points[at].step)}",
                shown(name, points[0], points[at], last),
                points[at].step,
            )
            return
    stretch = points[-max(LEAST_LINES, len(points) // 5) :]
    low, high = (quantile(values(stretch), share) for share in (0.1, 0.9))
    # a loss that only falls has two levels too, but does not swing
    swings = high >= SWING * low and _climbed(stretch) >= high - low > 0
    if swings and high - best >= 0.25 * learned and _wilder_than_before(points, len(stretch)):
        worst = max(stretch, key=lambda point: point.value or 0.0)
        yield _too_high(
            curves,
            f"{loss} swings between {low:.3g} and {high:.3g} since {curves.place(stretch[0].step)}",
            shown(name, points[at], stretch[0], worst, stretch[-1]),
            stretch[0].step,
        )


def _still_improves(curves: Curves) -> bool:
    """Whether the last two validations are about the best: then a rising loss is not a worse model."""
    rates = values(finite(curves.validation.get("wer", ())))
    return len(rates) >= 4 and max(rates[-2:]) <= 1.1 * min(rates) and rates[-1] < 0.9


def _wilder_than_before(points: Sequence[Point], width: int) -> bool:
    """Whether the last stretch jumps more than the calmest one before it; yes where there is none."""
    starts = range(0, len(points) - 2 * width + 1, max(1, width // 2))
    before = [_jumps(points[start : start + width]) for start in starts]
    return not before or _jumps(points[-width:]) >= 2 * min(before)


def _climbed(points: Sequence[Point]) -> float:
    """Sum of all rises from one point to the next."""
    return sum(max(0.0, b - a) for a, b in pairwise(values(points)))


def _jumps(points: Sequence[Point]) -> float:
    logs = [math.log(max(value, 1e-9)) for value in values(points)]
    return math.sqrt(sum((b - a) ** 2 for a, b in pairwise(logs)) / max(1, len(logs) - 1))


def _too_high(curves: Curves, message: str, evidence: tuple[Evidence, ...], step: int) -> Diagnosis:
    return Diagnosis(
        "divergence",
        "error",
        message,
        evidence,
        "the learning rate is too high for these batches: steps throw the weights about",
        rate_to_try(curves, step).remedy,
        step,
    )


@dataclass(frozen=True, slots=True)
class Rate:
    """A learning rate to try."""

    peak: float | None
    """Highest rate of the schedule; None where the curves hold no rate."""
    setting: float | None
    """What `model.optim.lr` must be for it; None without a recipe."""
    remedy: str


def rate_to_try(curves: Curves, healthy: int) -> Rate:
    """Half of the rate at which training was last healthy.

    While the rate was still rising, the peak must stay at half of what was borne then; once it had been
    through its peak, half of the peak. With NoamAnnealing `model.optim.lr` is a multiplier: the peak is
    lr / sqrt(d_model * warmup_steps) (Vaswani et al. 2017, section 5.3, scaled by lr as NeMo does).

    Args:
        curves: of the training.
        healthy: optimizer step at which it was last well.
    """
    rates = finite(curves.training.get("learning_rate", ()))
    borne = [point for point in rates if point.step <= healthy] or rates[:1]
    resume = "continue from the best checkpoint (`quran-asr train --resume-best RUN`)"
    if not rates:
        return Rate(None, None, f"try half the learning rate; {resume} or start again")
    peak = max(values(borne)) / 2
    at_step = f"{values(borne)[-1]:.2e} at {curves.place(borne[-1].step)}"
    recipe = curves.recipe
    if recipe is None:
        remedy = (
            f"the rate was {at_step}: try a peak of {peak:.1e} (with NoamAnnealing the peak is "
            "lr / sqrt(d_model * warmup_steps)), or a longer warm-up"
        )
        return Rate(peak, None, remedy)
    optim, setting = recipe.model.optim, peak
    if optim.sched.name == "NoamAnnealing":
        setting = peak * math.sqrt(recipe.model.encoder.d_model * max(1, optim.sched.warmup_steps))
    setting = float(f"{setting:.2g}")
    remedy = (
        f"the rate was {at_step}: try `model.optim.lr={setting:g}` (a peak of {peak:.1e}); {resume} with it"
    )
    return Rate(peak, setting, remedy)


@rule("not-a-number")
def not_a_number(curves: Curves) -> Iterator[Diagnosis]:
    """Losses, gradients or validations that are not finite, or batches skipped because theirs were not."""
    lost: list[tuple[str, Point]] = [
        (f"training.{key}", point)
        for key in ("loss", "gradient_norm")
        for point in curves.training.get(key, ())
        if point.value is None
    ]
    lost += [("validation.loss", p) for p in curves.validation.get("loss", ()) if p.value is None]
    skipped = finite(curves.training.get("skipped_batches", ()))
    lost += [
        ("training.skipped_batches", now)
        for before, now in pairwise(skipped)
        if (now.value or 0) > (before.value or 0)
    ]
    steps = sorted({point.step for _, point in lost})
    if not steps:
        return
    lines = max(len(curves.training.get("loss", ())), 1)
    ended_so = all(point.value is None for point in curves.training.get("loss", ())[-2:]) and lines > 1
    repeated = ended_so or (len(steps) >= NOT_A_NUMBER and len(steps) >= 0.01 * lines)
    evidence = tuple(e for name, point in lost[-5:] for e in shown(name, point))
    count = f"{len(steps)} times" if len(steps) > 1 else "once"
    rate = rate_to_try(curves, steps[0] - 1)
    yield Diagnosis(
        "not-a-number",
        "error" if repeated else "note",
        f"loss or gradient was NaN or infinite {count}, first at {curves.place(steps[0])}",
        evidence,
        "the rate is too high, gradients are not clipped, the precision is fp16, or some audio is broken"
        if repeated
        else "a single batch: its step was skipped",
        f"set `trainer.gradient_clip_val=1.0` and `trainer.precision=bf16-mixed` or 32; {rate.remedy}"
        if repeated
        else "",
        steps[0],
    )
