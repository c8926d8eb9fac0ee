"""Error rates that stay high, and starts that stall or fall back, distinguished by other measurements."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from quran_asr.experiments.curves import (
    Curves,
    Point,
    Series,
    finite,
    is_falling,
    last,
    level,
    lowest_level,
    noise,
    training_loss,
    values,
)
from quran_asr.experiments.diagnostics.diagnosis import Diagnosis, Evidence, rule, shown
from quran_asr.experiments.diagnostics.forecast import is_over

STALL_CHECKED_FROM = 300
STALL_CHECKED_AT = 1000
"""Optimizer steps between which the CTC loss must have fallen by `STALL_FALL`."""
STALL_FALL = 0.05
LEARNED = 2.0
"""Nats of CTC a token under which a model has left its first plateau, of blanks alone (3 to 4.5 nats)."""
ON_PLATEAU = 0.85
"""Share of the tokens' entropy, where the plateau lies, above which CTC has not left it."""
_SPAN = 100
"""Steps over which a loss is averaged: single batches swing by more than 5 %."""


@rule("stalled-start", explains=("fell-back",))
def stalled_start(curves: Curves) -> Iterator[Diagnosis]:
    """The CTC loss at step 1,000 is not 5 % below its value at step 300, and still on its plateau.

    There is no diagnosis before step 1,000, or where the curve lacks step 300.
    """
    series = curves.training.get("ctc_per_token", ())
    if curves.in_epochs or not series or series[-1].step < STALL_CHECKED_AT:
        return
    early, late = _mean(series, STALL_CHECKED_FROM), _mean(series, STALL_CHECKED_AT)
    if early is None or late is None or late <= (1 - STALL_FALL) * early:
        return
    entropy = _mean(curves.training.get("token_entropy", ()), STALL_CHECKED_AT)
    if late < LEARNED or (entropy is not None and late < ON_PLATEAU * entropy):
        return
    yield Diagnosis(
        "stalled-start",
        "error",
        f"training has stalled: the CTC loss is {late:.2f} nats a token at step {STALL_CHECKED_AT:,} and was "
        f"{early:.2f} at step {STALL_CHECKED_FROM}",
        shown(
            "training.ctc_per_token",
            Point(STALL_CHECKED_FROM, round(early, 4), None, None),
            Point(STALL_CHECKED_AT, round(late, 4), None, None),
        ),
        "the model emits the same for every recording: its batches are too small or too few, or its first "
        "weights were an unlucky draw",
        "stop and start again with another `quran.seed`, with batches of at least 20 s and 6 clips "
        "(`model.train_ds.batch_duration`), `quran.initialization=data` and, on a CPU or with little audio, "
        "a smaller `quran.vocabulary_size`",
        STALL_CHECKED_AT,
    )


FALL_SPAN = 300
"""Steps over which the CTC loss is averaged to see it fall and rise: half of what a start needs to leave."""
FALL_SPANS = 5
"""Spans after step 300 before which there is no diagnosis."""
FELL_BACK = 0.4
"""Share of what the loss had fallen that it must have risen again."""
FALL_SURE = 2.0
"""Deviations of a span by which it must have risen."""


@rule("fell-back")
def fell_back(curves: Curves) -> Iterator[Diagnosis]:
    """The CTC loss had begun to leave its plateau, and has risen back to it before anything was learned."""
    series = [p for p in finite(curves.training.get("ctc_per_token", ())) if p.step > STALL_CHECKED_FROM]
    rates = [last(curves, key, 1) for key in ("wer", "ctc_wer")]
    if curves.in_epochs or any(rate is not None and rate < STUCK for rate in rates):
        return
    spans = _spans(series)
    if len(spans) < FALL_SPANS:
        return
    first, now = spans[0], spans[-1]
    low = min(spans[:-1], key=lambda point: point.value or 0.0)
    at_first, lowest, risen = (level([point]) for point in (first, low, now))
    risen = (risen + level([spans[-2]])) / 2
    fall, rise = at_first - lowest, risen - lowest
    if lowest < LEARNED or fall < STALL_FALL * at_first or rise < FELL_BACK * fall:
        return
    entropy = _mean(curves.training.get("token_entropy", ()), now.step)
    if rise < FALL_SURE * noise(values(spans)) or (entropy is not None and risen < ON_PLATEAU * entropy):
        return
    yield Diagnosis(
        "fell-back",
        "error",
        f"the start has fallen back: the CTC loss fell from {at_first:.2f} to {lowest:.2f} nats a token at "
        f"step {low.step:,} and is {risen:.2f} again at step {now.step:,}",
        shown("training.ctc_per_token", first, low, now),
        "the model had begun to distinguish recordings and emits the same for all again: longer clips "
        "came, of which one or two fill a batch, or the learning rate rose too far",
        "start again with batches of at least 48 s and 6 clips (`model.train_ds.batch_duration`), and with "
        "long clips late (`model.train_ds.max_duration`, `quran.curriculum`)",
        low.step,
    )


def _spans(series: Sequence[Point]) -> list[Point]:
    """Means over `FALL_SPAN` steps, at the last step of each."""
    spans: dict[int, list[Point]] = {}
    for point in series:
        spans.setdefault((point.step - 1) // FALL_SPAN, []).append(point)
    return [
        Point(points[-1].step, sum(values(points)) / len(points), points[-1].epoch, points[-1].time)
        for points in spans.values()
    ]


def _mean(series: Series, step: int) -> float | None:
    """Mean over the `_SPAN` steps that end at `step`; None without a number there."""
    near = [p.value for p in series if step - _SPAN < p.step <= step and p.value is not None]
    return sum(near) / len(near) if near else None


STUCK = 0.95
"""A WER that has never been lower is stuck."""
HARDLY_ANY = 0.8
"""A WER at which hardly a word is right: a plateau there is a failed start, not an end."""
STILL = 0.96
"""Last WER over that of the middle of the training from which on it is a plateau."""
LOSSES_APART = 0.1
"""Transducer loss over CTC loss: a model that uses the audio has them within a factor of 3."""
LEAST_STEPS = 1000
LEAST_VALIDATIONS = 4
EPOCHS_PRETRAINED = 5
"""The guide expects a pretrained start at 0.50 or less within ten epochs."""
EPOCHS_RANDOM = 10
"""The guide expects a random start at 0.95 to 1.00 for ten epochs."""
EPOCHS_GUIDE = 30
"""From here on a falling loss does not excuse the WER (the guide: check the data)."""
EPOCHS_ENOUGH = 15
"""The same where epochs are long: the guide expects a random start at 0.80 or less after ten."""
STEPS_AN_EPOCH_COUNTS = 3000
"""Before, epochs are short, and a random start may need more of them."""
STEPS_ENOUGH = 5000
"""The same where no epoch is known: about the first ten epochs of the guide."""
VALIDATIONS_ENOUGH = 5
ALMOST_EMPTY = 0.15
"""Words of the hypotheses per word of the references."""
SILENT = 0.97
"""Share of blank frames; speech at 80 ms a frame has some 0.6 to 0.9."""
BABBLING = 1.8
"""Words of the hypotheses per word of the references."""
LOOPING = 0.3
"""Share of repeated words."""


@rule(
    "stuck-nothing-loaded",
    "stuck-wrong-text",
    "stuck-token-loops",
    "stuck-blank-collapse",
    "stuck-ignores-audio",
    "stuck-wer",
    "ended-at-wer-1",
    "not-learning",
)
def stuck(curves: Curves) -> Iterator[Diagnosis]:
    """Nothing was ever learned: an error if it should have been by now, a note if the run ended before."""
    rates = finite(curves.validation.get("wer", ()))
    if not rates or not (min(values(rates)) >= STUCK or stands_still_high(rates)):
        return
    other = values(finite(curves.validation.get("ctc_wer", ())))
    if other and min(other) < 0.9:  # the CTC head recognizes: see `memorized_text` and `drifting_apart`
        return
    diagnosis = _error(curves, rates)
    if diagnosis is None and is_over(curves):
        diagnosis = _ended(rates)
    if diagnosis is None and stands_still_high(rates) and min(values(rates)) < STUCK:
        diagnosis = None if is_falling(training_loss(curves)[1], 0.03) else _still(curves, rates)
    if diagnosis is not None:
        yield diagnosis


def stands_still_high(rates: Sequence[Point]) -> bool:
    """Whether a WER at which hardly a word is right has not fallen for half of the training."""
    half = len(rates) // 2
    if half < LEAST_VALIDATIONS:
        return False
    width = max(3, half // 2)
    before, now = level(rates[half - width // 2 - 1 : half + width // 2]), level(rates[-width:])
    return now >= HARDLY_ANY and now >= STILL * before and lowest_level(rates, 3)[1] >= HARDLY_ANY


def _still(curves: Curves, rates: Sequence[Point]) -> Diagnosis:
    since = rates[len(rates) // 2].step
    return Diagnosis(
        "not-learning",
        "warning",
        f"WER is on a plateau at {level(rates[-3:]):.2f} since {curves.place(since)}: hardly a word is right",
        shown("validation.wer", rates[0], rates[-1]),
        "nothing has been learned yet: this is not the end of a training but a start that failed, or "
        "one that is too young to judge",
        "look at the training losses (CTC a token and the transducer's), and train for ten epochs or 5,000 "
        "steps; start pretrained (`init_from_pretrained_model`) to be quicker",
        since,
    )


def _error(curves: Curves, rates: Sequence[Point]) -> Diagnosis | None:
    if len(rates) < LEAST_VALIDATIONS or not _is_late(curves):
        return None
    found = _nothing_loaded(curves) or _wrong_text(curves) or _loops(curves) or _blanks(curves)
    found = found or ignores_audio(curves)
    if found is None:
        if _still_learns(curves, rates):
            return None
        found = (
            "stuck-wer",
            (),
            "nothing is learned: text or tokenizer do not fit the audio, the start is random, the "
            "rate is too high, or there were too few optimizer steps",
            "listen to some clips with their texts, and ask `quran-asr plan` about the recipe; start "
            "pretrained (`init_from_pretrained_model`), and pass `quran.overfit_gate_steps=150` first",
        )
    code, evidence, cause, remedy = found
    if code in ("stuck-token-loops", "stuck-blank-collapse") and _still_learns(curves, rates):
        return None
    place = f"{'epoch' if curves.in_epochs else 'step'} {rates[-1].step:,}"
    epoch = "" if rates[-1].epoch is None or curves.in_epochs else f" (epoch {rates[-1].epoch:.0f})"
    best = min(values(rates))
    stuck_at = "1" if best >= STUCK else f"{level(rates[-3:]):.2f}"
    return Diagnosis(
        code,
        "error",
        f"WER is stuck at {stuck_at}: never below {best:.2f} in {len(rates)} validations to {place}{epoch}",
        (*shown("validation.wer", rates[0], rates[-1]), *evidence),
        cause,
        remedy,
        rates[-1].step,
    )


def _ended(rates: Sequence[Point]) -> Diagnosis:
    count = f"{len(rates)} validation{'s' if len(rates) > 1 else ''}"
    return Diagnosis(
        "ended-at-wer-1",
        "note",
        f"the run is over at WER {rates[-1].value:.2f}: {rates[-1].step:,} steps with {count} are too few to "
        "decide whether anything is wrong",
        shown("validation.wer", rates[0], rates[-1]),
        "a random start keeps WER 1 for hundreds of steps with little data, for thousands with much",
        "train longer: raise `trainer.max_steps` or `trainer.max_epochs` (`quran-asr plan` shows under "
        "`few-steps` how far), or start pretrained (`init_from_pretrained_model`)",
        rates[-1].step,
    )


@rule("stuck-memorized-text", explains=("drifting-apart", "plateau"))
def memorized_text(curves: Curves) -> Iterator[Diagnosis]:
    """The transducer emits memorized texts whatever the audio: loss low, WER high, CTC far better."""
    rates, ctc = (finite(curves.validation.get(key, ())) for key in ("wer", "ctc_wer"))
    if min(len(rates), len(ctc)) < LEAST_VALIDATIONS or not _has_trained(curves):
        return
    now, ctc_now = level(rates[-3:]), level(ctc[-3:])
    before = level(rates[-6:-3] or rates[:1])
    if now < 0.5 or ctc_now > 0.6 * now or now < 0.93 * before:
        return
    losses = finite(curves.training.get("transducer_loss", ())) or finite(curves.training.get("loss", ()))
    if len(losses) >= 10:
        part = max(3, len(losses) // 10)
        if level(losses[-part:]) > 0.35 * max(values(losses[: 2 * part])):
            return
    yield Diagnosis(
        "stuck-memorized-text",
        "error",
        f"the transducer stays at WER {now:.2f} while CTC reaches {ctc_now:.2f} and the training loss is low",
        (
            *shown("validation.wer", *rates[-3:]),
            *shown("validation.ctc_wer", *ctc[-3:]),
            *shown("training.transducer_loss", *losses[-1:]),
        ),
        "the transducer has memorized the texts and emits them whatever the audio: few texts, "
        "whole verses only, or a large prediction network",
        "add fragments of 1 to 4 words and more texts, raise `model.decoder.prednet.dropout` (0.3), lower "
        "`pred_hidden`, begin with CTC (`quran.curriculum` as in the recipe quickstart); use `--decoder ctc` "
        "until then",
        rates[-1].step,
    )


Found = tuple[str, tuple[Evidence, ...], str, str]


def _has_trained(curves: Curves) -> bool:
    """Whether anything can be asked of the training; where epochs are all that is known, ten stand for it."""
    return curves.epochs_done >= EPOCHS_RANDOM if curves.in_epochs else curves.steps >= LEAST_STEPS


def _is_late(curves: Curves) -> bool:
    """Whether this training should have left WER 1 by now."""
    if not (curves.in_epochs or curves.steps >= LEAST_STEPS):
        return False
    if _by_steps(curves):
        assert curves.recipe is not None
        return curves.steps >= 0.5 * curves.recipe.trainer.max_steps
    if curves.epoch is None:
        return curves.steps >= STEPS_ENOUGH
    return curves.epochs_done >= (EPOCHS_PRETRAINED if _is_pretrained(curves) else EPOCHS_RANDOM)


def _still_learns(curves: Curves, rates: Sequence[Point]) -> bool:
    """Whether the loss still falls, and it may yet be patience that is missing."""
    if len(rates) >= VALIDATIONS_ENOUGH and _is_very_late(curves):
        return False
    return is_falling(training_loss(curves)[1], 0.03) is True


def _is_very_late(curves: Curves) -> bool:
    """Whether a falling loss no longer excuses the WER."""
    if _by_steps(curves):
        return is_over(curves) or curves.steps >= STEPS_ENOUGH
    if curves.epoch is None:
        return curves.steps >= STEPS_ENOUGH
    if curves.epochs_done >= EPOCHS_GUIDE:
        return True
    enough = EPOCHS_RANDOM if _is_pretrained(curves) else EPOCHS_ENOUGH
    return curves.epochs_done >= enough and (curves.in_epochs or curves.steps >= STEPS_AN_EPOCH_COUNTS)


def _by_steps(curves: Curves) -> bool:
    """Whether the recipe ends the training after so many steps, not epochs."""
    recipe = curves.recipe
    return recipe is not None and recipe.trainer.max_steps > 0 and recipe.trainer.max_epochs == -1


def _is_pretrained(curves: Curves) -> bool:
    return curves.recipe is not None and curves.recipe.init_from_pretrained_model is not None


def _nothing_loaded(curves: Curves) -> Found | None:
    recipe = curves.recipe
    if recipe is None or recipe.init_from_pretrained_model is None or (curves.encoder_share or 0) >= 0.5:
        return None
    arrived = "nothing" if curves.encoder_share is None else f"{curves.encoder_share:.0%} of the encoder"
    return (
        "stuck-nothing-loaded",
        (),
        f"{arrived} arrived from {recipe.init_from_pretrained_model}: this is a random start",
        "look at transfer.json in the run folder, and start again from a model of the same size without "
        "--allow-partial",
    )


def _wrong_text(curves: Curves) -> Found | None:
    train, letters = last(curves, "train_wer"), last(curves, "cer")
    remedy = (
        "compare text and audio of some clips of both manifests (`quran-asr evaluate MANIFEST --model RUN` "
        "shows references and hypotheses); check `quran.spelling` and `model.tokenizer.dir`"
    )
    if train is not None and train < 0.5:
        return (
            "stuck-wrong-text",
            shown("validation.train_wer", *finite(curves.validation["train_wer"])[-3:]),
            f"training clips have WER {train:.2f}: the validation's texts are spelled differently or "
            "belong to other recordings, or the training has too few texts to learn from",
            remedy,
        )
    if letters is not None and letters < 0.35:
        return (
            "stuck-wrong-text",
            shown("validation.cer", *finite(curves.validation["cer"])[-3:]),
            f"letters are right (CER {letters:.2f}), words never: marks or spaces are spelled differently",
            remedy,
        )
    costs, entropy = (finite(curves.training.get(key, ())) for key in ("ctc_per_token", "token_entropy"))
    if (curves.encoder_share or 0) >= 0.9 and costs and entropy:
        cost = level(costs[-10:])
        if cost > 0.9 * level(entropy):
            return (
                "stuck-wrong-text",
                shown("training.ctc_per_token", costs[0], costs[-1]),
                f"the trained encoder arrived, yet CTC costs {cost:.2f} nats a token, what the "
                "tokens cost without any audio: texts and recordings do not belong together",
                remedy,
            )
    return None


def ignores_audio(curves: Curves) -> Found | None:
    """Code, evidence, cause and remedy where the transducer's loss is low and CTC's is not: the
    texts were learned, the audio was not.

    Both are losses of the same texts, so their ratio needs no unit; where nats a token are known, CTC must
    be on its plateau too.
    """
    losses = [finite(curves.training.get(key, ())) for key in ("transducer_loss", "ctc_loss")]
    if min(map(len, losses)) < 5:
        return None
    transducer, ctc = (level(series[-max(5, len(series) // 10) :]) for series in losses)
    costs = finite(curves.training.get("ctc_per_token", ()))
    if transducer > LOSSES_APART * ctc or (costs and level(costs[-10:]) < LEARNED):
        return None
    return (
        "stuck-ignores-audio",
        (*shown("training.transducer_loss", losses[0][-1]), *shown("training.ctc_loss", losses[1][-1])),
        f"the transducer's training loss is {transducer:.3g} and CTC's {ctc:.3g}: the prediction network has "
        "memorized the training texts, and the encoder ignores the audio",
        "start with CTC alone (`quran.curriculum`) or a larger `model.aux_ctc.ctc_loss_weight`, or "
        "pretrained (`init_from_pretrained_model`); raise `model.decoder.prednet.dropout`; add texts, "
        "fragments among them",
    )


def _loops(curves: Curves) -> Found | None:
    repeated, length = last(curves, "repeat_share"), last(curves, "length_ratio")
    if (repeated or 0) < LOOPING and (length or 0) < BABBLING:
        return None
    return (
        "stuck-token-loops",
        tuple(
            evidence
            for key in ("repeat_share", "length_ratio")
            for evidence in shown(f"validation.{key}", *finite(curves.validation.get(key, ()))[-2:])
        ),
        "the transducer emits the same tokens again and again instead of advancing to the next frame",
        "look at some transcripts with `quran-asr transcribe`; start with CTC alone "
        "(`quran.curriculum`), lower "
        "`model.optim.lr`, and keep `model.decoding.greedy.max_symbols` at 10 or less",
    )


def _blanks(curves: Curves) -> Found | None:
    blank, length = last(curves, "blank_share"), last(curves, "length_ratio")
    if (blank or 0) < SILENT and (length is None or length > ALMOST_EMPTY):
        return None
    return (
        "stuck-blank-collapse",
        tuple(
            evidence
            for key in ("blank_share", "length_ratio")
            for evidence in shown(f"validation.{key}", *finite(curves.validation.get(key, ()))[-2:])
        ),
        "the model emits nothing: blank in every frame is the easiest answer, and it never left it",
        "start pretrained, or with short clips and CTC first (`quran.curriculum`); batches of at "
        "least 20 s and "
        "6 clips, a longer warm-up, a smaller `quran.vocabulary_size`, another `quran.seed`",
    )
