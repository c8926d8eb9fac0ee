"""Overfitting, late collapse, plateaus and diverging heads."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from quran_asr.experiments.curves import (
    Curves,
    Point,
    finite,
    level,
    loss_in_words,
    lowest_level,
    noise,
    training_loss,
    values,
)
from quran_asr.experiments.diagnostics.diagnosis import Diagnosis, Evidence, rule, shown
from quran_asr.experiments.diagnostics.forecast import behind_the_best
from quran_asr.experiments.diagnostics.learning_rate import rate_to_try
from quran_asr.experiments.diagnostics.not_learning import STUCK, ignores_audio, stands_still_high
from quran_asr.experiments.log_formats import NOT_IN_TOP

FAR_BELOW = 0.6
"""Training WER over validation WER from which on a rise is overfitting."""
GOOD = 0.15
"""A WER at which a plateau is an end, not a problem."""
LOSS_RISEN = 0.15
"""Share by which a validation loss must have risen where no error rate is known."""
TRAINING_FALLS = 0.95
"""Training loss now over that at the turn of the validation loss, up to which it counts as falling."""
LEAST_BEHIND = 4
"""Validations behind the best before which nothing is made of them."""


@rule("overfitting", explains=("generalization-gap", "plateau", "settled"))
def overfitting(curves: Curves) -> Iterator[Diagnosis]:
    """The validation WER rises while the training WER is far lower, or the training loss still falls."""
    rates = finite(curves.validation.get("wer", ()))
    turn = _turn(rates)
    if turn is None:
        return
    best, now = turn
    evidence = _learned_by_training(curves, now)
    if evidence is None:
        return
    low = min(rates, key=lambda point: point.value or 0.0)
    best_at = f"the best validation was at {curves.place(low.step)}"
    if low.epoch is not None and not curves.in_epochs:
        best_at = f"the best epoch was epoch {low.epoch:.0f} ({curves.place(low.step)})"
    yield Diagnosis(
        "overfitting",
        "error",
        f"the model memorizes its training clips: validation WER about {now:.3f}, up from "
        f"about {best:.3f}; {best_at}{evidence[1]}",
        (*shown("validation.wer", low, *rates[-3:]), *evidence[0]),
        "more epochs than the data can feed: the model fits its training clips better and others worse",
        "use the best checkpoint (it is kept) and stop here; for a better one more recordings and "
        "voices, more "
        "dropout (`model.encoder.dropout`) or augmentation (`model.spec_augment`, `quran.augment`)",
        low.step,
    )


@rule("overfitting")
def overfitting_by_loss(curves: Curves) -> Iterator[Diagnosis]:
    """No WER was measured, and the validation loss rises while that of training falls.

    A warning: a model whose loss rises because it is too sure of its mistakes may still make fewer of them.
    """
    rates = [finite(curves.validation.get(key, ())) for key in ("wer", "ctc_wer", "cer")]
    losses, (name, training) = finite(curves.validation.get("loss", ())), training_loss(curves)
    turn = None if any(rates) else _turn(losses, share=LOSS_RISEN, least=0.0, highest=math.inf)
    if turn is None:
        return
    best, now = turn
    low = min(losses, key=lambda point: point.value or 0.0)
    if now - best < 2 * _recovered_rise([point for point in losses if point.step <= low.step]):
        return
    width = max(1, len(training) // 10)
    until, last = [point for point in training if point.step <= low.step][-width:], training[-width:]
    if not until or last[0].step <= low.step:
        return
    before, after = level(until), level(last)
    spread = 1.25 * noise(values(training)) / math.sqrt(min(len(until), len(last)))
    if after > TRAINING_FALLS * before or before - after < 3 * spread:
        return
    yield Diagnosis(
        "overfitting",
        "warning",
        f"the validation loss rises, about {now:.3g} after {best:.3g} around {curves.place(low.step)}, while "
        f"{loss_in_words(curves, name)} falls from {before:.3g} to {after:.3g}; no error rate is in the log",
        (*shown("validation.loss", low, losses[-1]), *shown(name, until[-1], last[-1])),
        "more epochs than the data can feed: the model fits its training clips better and others worse",
        f"measure the WER of the checkpoint at {curves.place(low.step)} and of the last one: if it rises "
        "too, use the earlier one and stop here; more recordings and voices, dropout or augmentation help",
        low.step,
    )


@rule("late-collapse", explains=("overfitting", "plateau"))
def late_collapse(curves: Curves) -> Iterator[Diagnosis]:
    """A WER that was good has broken down, on training clips too."""
    rates = finite(curves.validation.get("wer", ()))
    if len(rates) < 4:
        return
    low = min(rates[:-2], key=lambda point: point.value or 0.0)
    best, now = low.value or 0.0, min(values(rates[-2:]))
    spread = noise(values(rates))
    if best > 0.7 or now < best + max(0.15, 0.75 * best, 6 * spread):
        return
    train = finite(curves.validation.get("train_wer", ()))
    if (train and level(train[-2:]) < 0.5 * now) or _learned_by_training(curves, now) is not None:
        return  # overfitting, however far
    healthy = next(p for p in reversed(rates) if (p.value or 0.0) <= best + 0.25 * (now - best))
    epoch = "" if low.epoch is None or curves.in_epochs else f", epoch {low.epoch:.0f}"
    yield Diagnosis(
        "late-collapse",
        "error",
        f"the model has collapsed: WER {now:.3f} after {best:.3f} at {curves.place(low.step)}{epoch}",
        shown("validation.wer", low, healthy, *rates[-2:]),
        "a rate that is too high for a model this far, a broken batch, or numbers that overflowed",
        rate_to_try(curves, healthy.step).remedy,
        healthy.step,
    )


@rule("plateau", "settled")
def plateau(curves: Curves) -> Iterator[Diagnosis]:
    """The second half of the validations has brought nothing."""
    rates = finite(curves.validation.get("wer", ()))
    half = len(rates) // 2
    if half < 4 or level(rates[-3:]) >= STUCK or stands_still_high(rates):
        return
    width = max(3, half // 2)
    before, now = level(rates[half - width // 2 - 1 : half + width // 2]), level(rates[-width:])
    if now < 0.96 * before or now > 1.08 * before + 0.01:
        return
    since = rates[half].step
    if now <= GOOD:
        yield Diagnosis(
            "settled", "good", f"WER has settled at {now:.3f} since {curves.place(since)}",
            shown("validation.wer", rates[half], rates[-1]), "", "", rates[half].step,
        )  # fmt: skip
        return
    evidence: tuple[Evidence, ...] = ()
    cause = "the rate has fallen too far, the model is too small for more, or the data are exhausted"
    remedy = (
        "stop here, or continue with changes: more recordings, the recipe `large`, another CTC weight (0.2 "
        "to 0.5), other SpecAugment; look at the worst clips that `quran-asr evaluate` names"
    )
    if now >= 0.5 and (memorized := ignores_audio(curves)) is not None:  # as in `memorized_text`
        _, evidence, cause, remedy = memorized
    yield Diagnosis(
        "plateau",
        "warning",
        f"WER is on a plateau at {now:.3f} since {curves.place(since)}",
        (*shown("validation.wer", rates[half], rates[-1]), *evidence),
        cause,
        remedy,
        rates[half].step,
    )


@rule("no-improvement", explains=("wer-falls", "plateau", "settled"))
def no_improvement(curves: Curves) -> Iterator[Diagnosis]:
    """The second half of the validations has brought none among the best."""
    followed = [key.removesuffix(NOT_IN_TOP) for key in curves.validation if key.endswith(NOT_IN_TOP)]
    for key in sorted(followed, key=lambda name: name != "wer"):
        known, behind = finite(curves.validation.get(key, ())), behind_the_best(curves, key)
        steps = {point.step for point in (*known, *finite(curves.validation[key + NOT_IN_TOP]))}
        if not known or len(behind) < LEAST_BEHIND or 2 * len(behind) < len(steps):
            continue
        name = {"wer": "WER", "ctc_wer": "CTC WER", "cer": "CER"}.get(key, f"validation `{key}`")
        at_end = key == "wer" and level(known[-1:]) <= GOOD
        yield Diagnosis(
            "no-improvement",
            "note" if at_end else "warning",
            f"none of the last {len(behind)} validations, to {curves.place(behind[-1].step)}, was among the "
            f"{level(behind[-1:]):.0f} best; the last that was had {name} {level(known[-1:]):.3f} at "
            f"{curves.place(known[-1].step)}",
            shown(f"validation.{key}", known[-1]),
            "it stands still, or it rises: the log has the values of the best validations alone",
            "watch the folder with the TensorBoard events beside it, which hold every validation; if the WER "
            "rises in them, stop and use the best checkpoint",
            known[-1].step,
        )
        return


@rule("generalization-gap")
def generalization_gap(curves: Curves) -> Iterator[Diagnosis]:
    """The training WER is far below the validation WER, though that does not rise."""
    rates, train = (finite(curves.validation.get(key, ())) for key in ("wer", "train_wer"))
    if min(len(rates), len(train)) < 4:
        return
    now, known = level(rates[-3:]), level(train[-3:])
    if now < 0.1 or known > 0.35 * now or now - known < 0.1:
        return
    yield Diagnosis(
        "generalization-gap",
        "warning",
        f"training clips have WER {known:.3f}, others {now:.3f}",
        (*shown("validation.train_wer", train[-1]), *shown("validation.wer", rates[-1])),
        "the model memorizes voices or texts of the training set",
        "more voices and texts; more dropout (`model.encoder.dropout`) or augmentation "
        "(`model.spec_augment`, `quran.augment`)",
        rates[-1].step,
    )


@rule("drifting-apart")
def drifting_apart(curves: Curves) -> Iterator[Diagnosis]:
    """The WERs of transducer and CTC lie further and further apart."""
    other = {point.step: point.value for point in finite(curves.validation.get("ctc_wer", ()))}
    both = [
        (point, point.value, other[point.step])
        for point in finite(curves.validation.get("wer", ()))
        if point.step in other
    ]
    pairs = [(p, a, b) for p, a, b in both if a is not None and b is not None and min(a, b) < 0.8]
    half = len(pairs) // 2
    if half < 3:
        return
    gaps = [Point(p.step, abs(a - b), p.epoch, p.time) for p, a, b in pairs]
    before, now = level(gaps[:half]), level(gaps[-3:])
    lower = min(min(a, b) for _, a, b in pairs[-3:])
    if now < max(0.05, 0.5 * lower) or now - before < max(0.04, 3 * noise(values(gaps))):
        return
    point, transducer, ctc = pairs[-1]
    worse = "transducer" if transducer > ctc else "CTC head"
    yield Diagnosis(
        "drifting-apart",
        "warning",
        f"transducer (WER {transducer:.3f}) and CTC ({ctc:.3f}) drift apart",
        tuple(
            evidence
            for p, a, b in (pairs[0], pairs[-1])
            for evidence in (
                *shown("validation.wer", Point(p.step, a, p.epoch, p.time)),
                *shown("validation.ctc_wer", Point(p.step, b, p.epoch, p.time)),
            )
        ),
        f"the {worse} no longer keeps up: one loss outweighs the other",
        f"{'lower' if worse == 'transducer' else 'raise'} `model.aux_ctc.ctc_loss_weight` (0.2 to "
        f"0.5), or use `--decoder {'ctc' if worse == 'transducer' else 'transducer'}`",
        point.step,
    )


def _turn(
    rates: Sequence[Point], *, share: float = 0.08, least: float = 0.01, highest: float = STUCK
) -> tuple[float, float] | None:
    """The lowest level of a series and the one it has risen to since; None if it has not.

    Asked over 3 points, which is quick, and over up to half of those since the lowest, which sees a slow rise
    in much noise. Six deviations of a median: the lowest of many medians is low by chance too.

    Args:
        rates: error rates, or losses.
        share: of the lowest level by which it must have risen, and by `least`.
        highest: a lowest level from which on nothing was learned.
    """
    if len(rates) < 6:
        return None
    at, _ = lowest_level(rates, 3)
    spread = 1.25 * noise(values(rates[len(rates) // 4 :]))
    for width in sorted({3, max(3, (len(rates) - at) // 4), max(3, (len(rates) - at) // 2)}):
        at, best = lowest_level(rates, width)
        now = level(rates[-width:])
        late = at + width // 2 < len(rates) - width // 2 - 1 and at < len(rates) - 3
        rise = max(least, share * abs(best), 6 * spread / math.sqrt(width))
        if late and best < highest and now > best and now - best >= rise:
            return best, now
    return None


def _recovered_rise(points: Sequence[Point]) -> float:
    """The largest rise within a series that ends at its lowest: one from which it came back."""
    lowest, most = math.inf, 0.0
    for start in range(len(points) - 2):
        now = level(points[start : start + 3])
        lowest = min(lowest, now)
        most = max(most, now - lowest)
    return most


def _learned_by_training(curves: Curves, now: float) -> tuple[tuple[Evidence, ...], str] | None:
    """Evidence that the training set still improves; None if it does not, or if there is none."""
    train = finite(curves.validation.get("train_wer", ()))
    if len(train) >= 3:
        known = level(train[-min(9, max(3, len(train) // 5)) :])
        if known > FAR_BELOW * now:
            return None
        return shown("validation.train_wer", *train[-2:]), f"; training clips have {known:.3f}"
    losses, validation_losses = (
        finite(curves.training.get("loss", ())),
        finite(curves.validation.get("loss", ())),
    )
    if len(losses) < 6 or 0 < len(validation_losses) < 6:
        return None
    tenth = max(1, len(losses) // 10)
    middle = len(losses) // 2
    before, after = level(losses[middle - tenth : middle]), level(losses[-tenth:])
    if not validation_losses:  # then what training learned must be beyond doubt
        return (
            (shown("training.loss", losses[-1]), "; the loss of training halves")
            if after < before / 2
            else None
        )
    falls = after < 0.95 * before
    low, width = lowest_level(validation_losses, 3)[1], 3
    if not falls or level(validation_losses[-width:]) < 1.05 * low:
        return None
    return shown(
        "validation.loss", validation_losses[-1]
    ), "; its loss rises too while that of training falls"
