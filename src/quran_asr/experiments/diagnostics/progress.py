"""Throughput, progress against the guide's course, and good news."""

from __future__ import annotations

from collections.abc import Iterator
from statistics import fmean

from quran_asr.experiments.curves import (
    Curves,
    Point,
    finite,
    is_falling,
    level,
    loss_in_words,
    noise,
    training_loss,
    values,
)
from quran_asr.experiments.diagnostics.diagnosis import Diagnosis, rule, shown
from quran_asr.experiments.diagnostics.forecast import MANY_BEHIND, behind_the_best

Band = tuple[int, int, float, float]
"""From epoch, to epoch, lowest WER, highest WER."""

EXPECTED_PRETRAINED: tuple[Band, ...] = (
    (0, 10, 0.40, 0.50),
    (10, 30, 0.25, 0.35),
    (30, 50, 0.18, 0.25),
    (50, 80, 0.12, 0.18),
    (80, 100, 0.10, 0.15),
)
EXPECTED_RANDOM: tuple[Band, ...] = (
    (0, 10, 0.95, 1.00),
    (10, 30, 0.60, 0.80),
    (30, 50, 0.30, 0.50),
    (50, 80, 0.15, 0.30),
    (80, 100, 0.10, 0.20),
)


def band_at(epoch: float, pretrained: bool) -> Band | None:
    """The band of an epoch, counted from 0; of one that ends a band that band. None behind the last."""
    bands = EXPECTED_PRETRAINED if pretrained else EXPECTED_RANDOM
    return next((band for band in bands if epoch <= band[1]), None)


WAITING = 0.2
"""Share of the time spent waiting for batches from which on a faster disk would help."""
LEAST_LINES = 20


@rule("clipping")
def clipping(curves: Curves) -> Iterator[Diagnosis]:
    """The gradient is cut at every step: the rate, not the gradient, decides how far steps go."""
    clip = 0.0 if curves.recipe is None else curves.recipe.trainer.gradient_clip_val
    norms = finite(curves.training.get("gradient_norm", ()))[-100:]
    if not clip or len(norms) < LEAST_LINES or min(values(norms)) <= clip:
        return
    yield Diagnosis(
        "clipping",
        "note",
        f"the gradient is clipped at every step: its norm is {level(norms):.3g}, the limit {clip:g}",
        shown("training.gradient_norm", norms[0], norms[-1]),
        "losses are sums over a clip, so gradients are large; AdamW does not mind while the loss falls",
        "" if is_falling(training_loss(curves)[1], 0.0) else "the loss does not fall: try half the rate",
        norms[-1].step,
    )


@rule("data-wait")
def data_wait(curves: Curves) -> Iterator[Diagnosis]:
    """Training waits for its batches."""
    shares = finite(curves.training.get("data_wait_share", ()))[-50:]
    if len(shares) < LEAST_LINES // 2:
        return
    mean = fmean(values(shares))
    if mean < WAITING:
        return
    yield Diagnosis(
        "data-wait",
        "warning",
        f"{mean:.0%} of the time is spent waiting for batches",
        shown("training.data_wait_share", shares[0], shares[-1]),
        "recordings are read and decoded more slowly than the model takes them",
        "raise `model.train_ds.num_workers` or `quran.audio_cache_gb`, or keep the recordings as "
        "FLAC or WAV of 16 kHz on a local disk",
        shares[-1].step,
    )


@rule("guides-course", "behind-the-guide")
def guides_course(curves: Curves) -> Iterator[Diagnosis]:
    """Where the WER stands against the guide's expectation for full-size trainings counted in epochs."""
    recipe, rates = curves.recipe, finite(curves.validation.get("wer", ()))
    if recipe is None or recipe.trainer.max_steps != -1 or not rates or rates[-1].epoch is None:
        return
    pretrained = recipe.init_from_pretrained_model is not None
    epoch = rates[-1].epoch + 1
    band = band_at(epoch, pretrained)
    if band is None or epoch < 2:
        return
    begin, end, low, high = band
    now = level(rates[-3:])
    start = "pretrained" if pretrained else "random"
    expected = f"the guide expects {low:.2f} to {high:.2f} from epoch {begin} to {end} (a {start} start)"
    evidence = shown("validation.wer", rates[-1])
    if now <= high:
        place = "ahead of" if now < low else "on"
        yield Diagnosis(
            "guides-course", "good", f"WER {now:.3f} is {place} the guide's course: {expected}",
            evidence, "", "", rates[-1].step,
        )  # fmt: skip
    else:
        yield Diagnosis(
            "behind-the-guide",
            "note",
            f"WER {now:.3f} is behind the guide's course: {expected}",
            evidence,
            "other data, another size or another batch than the guide's 67,399 clips, 114M and 128",
            "",
            rates[-1].step,
        )


@rule("loss-falls", "both-losses-fall", "wer-falls", "small-gap")
def good_news(curves: Curves) -> Iterator[Diagnosis]:
    """What the guide expects: losses and WER fall, and the training WER is a little lower."""
    name, losses = training_loss(curves)
    if is_falling(losses, 0.03):
        quarter = len(losses) // 4
        early, late = level(losses[:quarter]), level(losses[-quarter:])
        message = f"{loss_in_words(curves, name)} falls steadily: about {early:.3g} at first, {late:.3g} now"
        yield _good("loss-falls", message, name, losses[0], losses[-1])
    both = [finite(curves.training.get(key, ())) for key in ("transducer_loss", "ctc_loss")]
    if all(is_falling(series, 0.02) for series in both):
        message = "both losses fall, the transducer's and CTC's"
        yield _good("both-losses-fall", message, "training.ctc_loss", both[1][0], both[1][-1])
    rates = finite(curves.validation.get("wer", ()))
    if len(rates) < 2:
        return
    first, now = rates[0].value or 0.0, level(rates[-2:])
    before = level(rates[-5:-2] or rates[:1])
    if (
        len(behind_the_best(curves)) < MANY_BEHIND
        and now < 0.97 * before
        and before - now > min(noise(values(rates[-8:])), 0.2 * before)
        and now < 0.97 * first
    ):
        message = f"validation WER falls: {first:.3f} at first, about {now:.3f} now"
        yield _good("wer-falls", message, "validation.wer", rates[0], rates[-1])
    train = finite(curves.validation.get("train_wer", ()))
    if len(train) >= 2:
        now, known = level(rates[-3:]), level(train[-3:])
        if known <= now < 0.8 and now - known <= max(0.03, 0.4 * now):
            message = f"training clips are little better than others: WER {known:.3f} and {now:.3f}"
            yield _good("small-gap", message, "validation.train_wer", train[-1])


def _good(code: str, message: str, series: str, *points: Point) -> Diagnosis:
    found = shown(series, *points)
    return Diagnosis(code, "good", message, found, "", "", found[-1].step)
