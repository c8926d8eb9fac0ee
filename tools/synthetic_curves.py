"""Curves of trainings that never were, well and sick, from seeds: the rules of `watch` are tried on them.

The shapes follow runs that were made: a power law with a floor for error rates, a plateau before a random
start learns, lognormal noise of 3 to 25 % on losses, word counts of a validation as its noise, a loss that
rises while a curriculum lets clips grow. What a sickness looks like is drawn wide, not where a rule looks.
"""

from __future__ import annotations

import math
import random
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

from quran_asr.config.recipe import load_recipe
from quran_asr.config.schedule import learning_rate
from quran_asr.config.schema import Recipe
from quran_asr.experiments.curves import Curves, curves_of_rows

ENTROPY = 4.2
"""Nats a token of a vocabulary as the quickstart's."""


@dataclass
class Story:
    """How a training goes, as functions of the share of it that is done (0 to 1)."""

    recipe: Recipe | None
    steps: int
    validations: int
    epochs: float
    wer: Callable[[float], float]
    loss: Callable[[float], float]
    """Of the first loss, 1.0 at the start."""
    draw: random.Random
    train_wer: Callable[[float], float] | None = None
    ctc_wer: Callable[[float], float] | None = None
    extra: dict[str, Callable[[float], float | None]] = field(default_factory=dict)
    """More series, `training.KEY` or `validation.KEY`."""
    lines: int = 400
    training_noise: float = 0.1
    words: int = 5000
    """Of the validation: the fewer, the noisier its WER."""
    first_loss: float = 80.0
    share: float | None = None
    rates: bool = True

    def rows(self, until: float = 1.0) -> list[dict[str, Any]]:
        """The lines of its `metrics.jsonl`, up to a share of it."""
        every = max(1, self.steps // self.lines)
        validate = max(1, self.steps // self.validations)
        rows: list[dict[str, Any]] = []
        for step in range(1, int(self.steps * until) + 1):
            done = step / self.steps
            place = {"step": step, "epoch": int(done * self.epochs), "time": 0.5 * step}
            if step % every == 0:
                rows.append({**place, "split": "train", **self._training(done, step)})
            if step % validate == 0:
                rows.append({**place, "split": "validation", **self._validation(done)})
        return rows

    def curves(self, until: float = 1.0) -> Curves:
        """What `watch` would read."""
        return curves_of_rows(self.rows(until), "made", "made", self.recipe, self.share)

    def _training(self, done: float, step: int) -> dict[str, Any]:
        noise = self.draw.lognormvariate(0, self.training_noise)
        loss = self.first_loss * self.loss(done) * noise
        row: dict[str, Any] = {"loss": loss, "transducer_loss": 1.1 * loss, "ctc_loss": 0.9 * loss}
        if self.recipe is not None:
            row |= {"gradient_norm": 0.6 * self.draw.lognormvariate(0, 0.4), "data_wait_share": 0.02}
            row |= {"token_entropy": ENTROPY, "ctc_per_token": ENTROPY * self.loss(done) * noise**0.5}
            row["skipped_batches"] = 0
            if self.rates:
                width, optim = self.recipe.model.encoder.d_model, self.recipe.model.optim
                row["learning_rate"] = learning_rate(step, optim, width, self.steps)
        return row | self._extra("training.", done)

    def _validation(self, done: float) -> dict[str, Any]:
        wer = self._observed(self.wer(done))
        row: dict[str, Any] = {"wer": wer, "cer": 0.7 * wer**1.8, "loss": self.first_loss * self.loss(done)}
        ctc = self.ctc_wer or (lambda share: 1.1 * self.wer(share))
        row["ctc_wer"] = self._observed(min(1.0, ctc(done)))
        if self.recipe is not None:
            row |= {"blank_share": 0.75, "repeat_share": 0.01, "length_ratio": 0.97}
        if self.train_wer is not None:  # on 16 clips of some ten words
            row["train_wer"] = max(0.0, self.train_wer(done) + self.draw.gauss(0, 0.02))
        return row | self._extra("validation.", done)

    def _extra(self, split: str, done: float) -> dict[str, Any]:
        return {key.removeprefix(split): f(done) for key, f in self.extra.items() if key.startswith(split)}

    def _observed(self, rate: float) -> float:
        """Errors come in bunches: twice the variance of single words."""
        spread = math.sqrt(2 * max(rate * (1 - min(rate, 0.98)), 1e-5) / self.words)
        return max(0.0, rate + self.draw.gauss(0, spread))


@cache
def recipe(name: str, *overrides: str) -> Recipe:
    return load_recipe(name, overrides)


def power(first: float, floor: float, speed: float, exponent: float) -> Callable[[float], float]:
    """From `first` down to a floor: floor + (first - floor) (1 + speed t)^-exponent."""
    return lambda done: floor + (first - floor) * (1 + speed * done) ** -exponent


def after(start: float, late: Callable[[float], float], early: float) -> Callable[[float], float]:
    """A plateau until `start`, then another curve that begins there."""
    return lambda done: early if done < start else late(done - start)


# Healthy


def pretrained(draw: random.Random) -> Story:
    wer = power(
        draw.uniform(0.7, 1.0), draw.uniform(0.04, 0.12), draw.uniform(20, 200), draw.uniform(0.5, 1.0)
    )
    share = draw.uniform(0.45, 0.95)
    return Story(
        recipe("transfer"), 12_000, draw.choice([20, 50, 100]), 100, wer,
        power(1.0, draw.uniform(0.005, 0.03), draw.uniform(50, 400), draw.uniform(0.7, 1.2)), draw,
        train_wer=lambda done: share * wer(done), words=draw.choice([1000, 5000, 20_000]),
        training_noise=draw.uniform(0.03, 0.15), share=1.0,
    )  # fmt: skip


def from_random(draw: random.Random) -> Story:
    """WER 1.0 for 3 to 9 of 100 epochs, while the loss already falls."""
    start = draw.uniform(0.03, 0.09)
    falling = power(1.0, draw.uniform(0.08, 0.15), draw.uniform(8, 30), draw.uniform(0.8, 1.3))
    wer = after(start, falling, 1.0)
    share = draw.uniform(0.5, 0.95)
    return Story(
        recipe("scratch", "trainer.max_epochs=100"), 12_000, draw.choice([50, 100]), 100, wer,
        power(1.0, draw.uniform(0.01, 0.05), draw.uniform(20, 80), draw.uniform(0.5, 0.8)), draw,
        train_wer=lambda done: min(1.0, share * wer(done) if done > start else 1.0),
        words=draw.choice([1000, 5000, 20_000]), training_noise=draw.uniform(0.03, 0.15),
    )  # fmt: skip


def small_and_fast(draw: random.Random) -> Story:
    """The quickstart: five validations, a curriculum in which the loss of a clip rises at first."""
    start = draw.uniform(0.12, 0.3)
    wer = after(start, power(1.0, 0.03, draw.uniform(15, 40), draw.uniform(1.0, 1.6)), 1.0)
    story = Story(
        recipe("quickstart"), 2000, draw.choice([5, 10]), 20, wer,
        power(1.0, 0.01, draw.uniform(6, 12), draw.uniform(0.9, 1.3)), draw,
        train_wer=lambda done: 0.9 * wer(done), words=700, lines=200, training_noise=draw.uniform(0.1, 0.25),
    )  # fmt: skip
    grown = draw.uniform(2.0, 4.0)
    clip = lambda done: 15 * story.loss(done) ** 0.5 * (1 + grown * min(1.0, done / 0.4))  # noqa: E731
    story.extra["training.loss"] = lambda done: clip(done) * draw.lognormvariate(0, 0.2)
    story.extra["training.transducer_loss"] = lambda done: 1.1 * clip(done) if done > 0.1 else None
    story.extra["training.gradient_norm"] = lambda done: draw.uniform(30, 120)
    return story


def flat_tail(draw: random.Random) -> Story:
    """Good after a third of the way, then nothing for long."""
    floor = draw.uniform(0.02, 0.12)
    story = pretrained(draw)
    wer = power(1.0, floor, draw.uniform(300, 1500), draw.uniform(1.2, 2.0))
    share = draw.uniform(0.4, 0.9)
    return replace(
        story, wer=wer, train_wer=lambda done: share * wer(done), validations=draw.choice([100, 200]),
        loss=power(1.0, draw.uniform(0.002, 0.01), draw.uniform(300, 1000), draw.uniform(1.0, 1.5)),
        ctc_wer=None,
    )  # fmt: skip


def noisy_nemo(draw: random.Random) -> Story:
    """Somebody's NeMo run: losses of single batches, few words to validate on, nothing else known."""
    story = pretrained(draw) if draw.random() < 0.6 else from_random(draw)
    return replace(
        story, recipe=None, share=None, train_wer=None, training_noise=draw.uniform(0.25, 0.45), words=600
    )


def curriculum(draw: random.Random) -> Story:
    """The laptop's recipe: hours on a CPU; at the end training clips are known far better than others."""
    start = draw.uniform(0.03, 0.1)
    wer = after(start, power(1.0, draw.uniform(0.1, 0.25), draw.uniform(2, 5), draw.uniform(0.9, 1.4)), 1.0)
    return replace(
        small_and_fast(draw), recipe=recipe("laptop"), steps=24_000, validations=12, epochs=29, wer=wer,
        train_wer=lambda done: max(0.04, wer(done) - 0.3 * done), words=3000, lines=600, ctc_wer=None,
    )  # fmt: skip


def few_lines(draw: random.Random) -> Story:
    """A table of 8 to 60 lines, in which the loss only falls, from steeply to hardly."""
    lines = draw.randint(8, 60)
    speed = draw.uniform(0.3, 12)
    return replace(
        noisy_nemo(draw), loss=lambda done: 0.02 + math.exp(-speed * done), training_noise=0.0,
        lines=lines, validations=lines,
        wer=power(1.0, draw.uniform(0.04, 0.12), draw.uniform(5, 50), 1.0), ctc_wer=None,
    )  # fmt: skip


HEALTHY: dict[str, Callable[[random.Random], Story]] = {
    "pretrained": pretrained,
    "from random weights": from_random,
    "small and fast": small_and_fast,
    "long flat tail": flat_tail,
    "noisy NeMo run": noisy_nemo,
    "curriculum": curriculum,
    "few lines": few_lines,
}


# Sick


def stalled_start(draw: random.Random) -> Story:
    slope = draw.uniform(0.0, 0.02)
    return replace(
        small_and_fast(draw), steps=3000, validations=7, wer=lambda done: 1.0, train_wer=lambda done: 1.0,
        loss=lambda done: 1.0 - slope * done, training_noise=draw.uniform(0.03, 0.12),
        extra={"validation.blank_share": lambda done: 0.98},
    )  # fmt: skip


def stuck_at_one(draw: random.Random) -> Story:
    """A loss that falls to what saying nothing costs, and a WER that never moves."""
    story = Story(
        recipe("scratch"), 8000, draw.choice([15, 30]), draw.uniform(15, 60),
        lambda done: draw.uniform(0.98, 1.0),
        power(1.0, draw.uniform(0.5, 0.9), draw.uniform(200, 900), 1.5), draw, ctc_wer=lambda done: 1.0,
        train_wer=lambda done: 1.0, training_noise=draw.uniform(0.05, 0.2),
    )  # fmt: skip
    costs = power(3.0, draw.uniform(0.96, 1.03), 300, 1.5)
    story.extra["training.ctc_per_token"] = lambda done: ENTROPY * costs(done) * draw.lognormvariate(0, 0.04)
    return story


def stuck_while_loss_falls(draw: random.Random) -> Story:
    """Somebody's table: the loss falls and falls, and no word is ever right."""
    return replace(
        stuck_at_one(draw), recipe=None, train_wer=None, epochs=draw.uniform(16, 60),
        loss=power(1.0, draw.uniform(0.0, 0.1), draw.uniform(1, 30), draw.uniform(0.5, 1.0)), extra={},
    )  # fmt: skip


def nothing_loaded(draw: random.Random) -> Story:
    return replace(stuck_at_one(draw), recipe=recipe("transfer"), share=draw.choice([None, 0.0, 0.2]))


def wrong_text(draw: random.Random) -> Story:
    story = stuck_at_one(draw)
    story.loss = power(1.0, 0.05, 60, 0.9)
    del story.extra["training.ctc_per_token"]
    kind = draw.choice(["validation", "spelling", "pairs"])
    if kind == "validation":
        story.train_wer = power(1.0, draw.uniform(0.05, 0.3), 80, 1.0)
    elif kind == "spelling":
        letters = draw.uniform(0.05, 0.3)
        story.extra["validation.cer"] = lambda done: letters + draw.gauss(0, 0.01)
    else:
        story = replace(story, recipe=recipe("transfer"), share=1.0, loss=power(1.0, 0.97, 300, 1.5))
    return story


def blank_collapse(draw: random.Random) -> Story:
    story, blank = stuck_at_one(draw), draw.uniform(0.975, 1.0)
    story.extra["validation.blank_share"] = lambda done: min(1.0, blank + draw.gauss(0, 0.003))
    story.extra["validation.length_ratio"] = lambda done: draw.uniform(0.0, 0.12)
    return story


def token_loops(draw: random.Random) -> Story:
    story, times = stuck_at_one(draw), draw.uniform(2, 5)
    story.wer = lambda done: draw.uniform(1.0, times)
    story.extra["validation.length_ratio"] = lambda done: times * draw.uniform(0.9, 1.1)
    story.extra["validation.repeat_share"] = lambda done: draw.uniform(0.35, 0.8)
    return story


def memorized_text(draw: random.Random) -> Story:
    high, ctc = draw.uniform(0.65, 1.0), power(1.0, draw.uniform(0.05, 0.3), draw.uniform(30, 100), 1.0)
    return replace(
        pretrained(draw), wer=after(0.1, power(1.0, high, 50, 1.0), 1.0), ctc_wer=ctc, train_wer=None,
        loss=power(1.0, draw.uniform(0.01, 0.1), draw.uniform(30, 100), 1.0),
    )  # fmt: skip


def _diverging(draw: random.Random, story: Story, at: float) -> Story:
    wer, loss, train = story.wer, story.loss, story.train_wer or story.wer
    target, pace = draw.uniform(0.5, 1.2), draw.uniform(0.02, 0.1)
    goes = lambda done: 1 - math.exp(-max(0.0, done - at) / pace)  # noqa: E731
    story.loss = lambda done: loss(done) + (target - loss(done)) * goes(done)
    story.wer = lambda done: wer(done) + (1.0 - wer(done)) * goes(done)
    story.train_wer = lambda done: train(done) + (1.0 - train(done)) * goes(done)
    return story


def divergence_rising(draw: random.Random) -> Story:
    story = draw.choice([pretrained, from_random, noisy_nemo, curriculum])(draw)
    story = _diverging(draw, story, draw.uniform(0.1, 0.7))
    story.extra.pop("training.loss", None)
    return story


def divergence_swinging(draw: random.Random) -> Story:
    """The loss is thrown far up again and again."""
    story = draw.choice([pretrained, from_random])(draw)
    loss, wer, at = story.loss, story.wer, draw.uniform(0.1, 0.6)
    wild = lambda done: draw.uniform(0, 1) ** 2 if done > at else 0.0  # noqa: E731
    story.loss = lambda done: loss(done) + draw.uniform(0.7, 1.3) * wild(done)
    story.wer = lambda done: min(1.2, wer(done) + draw.uniform(0.2, 0.8) * (done > at))
    return story


def not_a_number(draw: random.Random) -> Story:
    story, at = pretrained(draw), draw.uniform(0.2, 0.8)
    how = draw.choice(["all", "some", "skipped"])
    loss, seen = story.loss, [0]
    if how == "skipped":

        def skipped(done: float) -> float:
            seen[0] += done > at and draw.random() < 0.3
            return seen[0]

        story.extra["training.skipped_batches"] = skipped
    else:
        chance = 1.0 if how == "all" else 0.1
        story.extra["training.loss"] = lambda done: (
            None if done > at and draw.random() < chance else story.first_loss * loss(done)
        )
    return story


def overfitting(draw: random.Random) -> Story:
    story = draw.choice([pretrained, from_random])(draw)
    wer, at = story.wer, draw.uniform(0.25, 0.6)
    climb = draw.uniform(0.25, 0.8)
    story.wer = lambda done: wer(done) + wer(at) * climb * max(0.0, done - at) / (1 - at)
    known = draw.uniform(0.02, 0.3)
    if draw.random() < 0.7:
        story.train_wer = lambda done: wer(done) * max(known, 1 - 1.5 * done)
    else:  # nobody asked the training clips, but the losses say it
        story.train_wer = None
        story.extra["validation.loss"] = lambda done: 80 * (story.loss(done) + 0.05 + 0.1 * max(0, done - at))
    return story


def late_collapse(draw: random.Random) -> Story:
    story, at = draw.choice([pretrained, flat_tail])(draw), draw.uniform(0.6, 0.85)
    wer, loss = story.wer, story.loss
    bad = draw.uniform(0.6, 1.0)
    story.wer = lambda done: wer(done) if done < at else bad
    story.train_wer = lambda done: 0.8 * wer(done) if done < at else bad
    worse = draw.uniform(1.0, 8.0)  # it need not show in the training loss
    story.loss = lambda done: loss(done) * (worse if done > at else 1.0)
    return story


def plateau(draw: random.Random) -> Story:
    story, high = pretrained(draw), draw.uniform(0.25, 0.6)
    story.wer = power(1.0, high, draw.uniform(300, 900), 1.5)
    story.train_wer = lambda done: 0.8 * story.wer(done)
    return story


def generalization_gap(draw: random.Random) -> Story:
    story, known = pretrained(draw), draw.uniform(0.02, 0.25)
    story.wer = power(0.9, draw.uniform(0.2, 0.35), draw.uniform(8, 20), 0.8)
    story.train_wer = lambda done: known * story.wer(done)
    return story


def drifting_apart(draw: random.Random) -> Story:
    story, wide = pretrained(draw), draw.uniform(0.8, 2.0)
    wer = story.wer
    story.ctc_wer = lambda done: wer(done) * (1.1 + wide * done) + 0.06 * done
    if draw.random() < 0.5:
        story.wer, story.ctc_wer = story.ctc_wer, wer
        story.train_wer = None
    return story


def clipping(draw: random.Random) -> Story:
    story, norm = pretrained(draw), draw.uniform(3, 100)
    story.extra["training.gradient_norm"] = lambda done: norm * draw.uniform(0.6, 1.5)
    return story


def data_wait(draw: random.Random) -> Story:
    story, share = pretrained(draw), draw.uniform(0.25, 0.8)
    story.extra["training.data_wait_share"] = lambda done: share * draw.uniform(0.8, 1.2)
    return story


SICK: dict[str, tuple[str, Callable[[random.Random], Story]]] = {
    "start that stalls": ("stalled-start", stalled_start),
    "nothing loaded": ("stuck-nothing-loaded", nothing_loaded),
    "wrong text or tokenizer": ("stuck-wrong-text", wrong_text),
    "blank collapse": ("stuck-blank-collapse", blank_collapse),
    "token loops": ("stuck-token-loops", token_loops),
    "memorized text": ("stuck-memorized-text", memorized_text),
    "stuck, nothing else known": ("stuck-wer", stuck_at_one),
    "stuck while the loss falls": ("stuck-wer", stuck_while_loss_falls),
    "divergence, rising": ("divergence", divergence_rising),
    "divergence, swinging": ("divergence", divergence_swinging),
    "NaN or infinity": ("not-a-number", not_a_number),
    "overfitting": ("overfitting", overfitting),
    "late collapse": ("late-collapse", late_collapse),
    "plateau": ("plateau", plateau),
    "training far better than validation": ("generalization-gap", generalization_gap),
    "heads drift apart": ("drifting-apart", drifting_apart),
    "clipping at every step": ("clipping", clipping),
    "waiting for data": ("data-wait", data_wait),
}
"""What is wrong -> the code that must be reported, and the curves."""


def made(kind: str, seed: int) -> Story:
    """The training of a kind that a seed draws."""
    draw = random.Random(seed * 7919 + zlib.crc32(kind.encode()))
    return HEALTHY[kind](draw) if kind in HEALTHY else SICK[kind][1](draw)
