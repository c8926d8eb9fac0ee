"""Every finding of a plan: it appears, the words of its hint are applied, and it is gone."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import takewhile
from typing import Any

import pytest

from quran_asr.config.recipe import RecipeError, load_recipe
from quran_asr.errors import Finding
from quran_asr.experiments.planning.devices import find_device
from quran_asr.experiments.planning.plan import Plan, plan
from quran_asr.experiments.planning.timing import Target
from quran_asr.experiments.planning.workload import Workload, weigh

GUIDE = Workload(67_399, 56.0)
LONG = Workload(40_000, 200.0)
"""Clips of 18 s: no masks to warn of."""
STREAMING = "init_from_pretrained_model=stt_en_fastconformer_hybrid_large_streaming_multi"


def target(device: str | None) -> Target | None:
    return None if device is None else Target(device, find_device(device))


def words_of(finding: Finding) -> list[str]:
    """The overrides with which a hint begins."""
    words = [word.rstrip(",;") for word in takewhile(lambda word: "=" in word, finding.remedy.split())]
    assert words, f"{finding.code} names no override: {finding.remedy}"
    return words


@dataclass(frozen=True)
class Case:
    code: str
    recipe: str
    overrides: tuple[str, ...] = ()
    work: Any = LONG
    """A workload, seconds of clips and their text, or None."""
    devices: int | None = None
    device: str | None = None
    then: tuple[str, ...] = ()
    """What follows from the correction, and is reported next."""

    def plan(self, *more: str) -> Plan:
        recipe = load_recipe(self.recipe, (*self.overrides, *more))
        work = weigh(self.work[0], recipe, self.work[1]) if isinstance(self.work, tuple) else self.work
        return plan(recipe, work, self.devices, target=target(self.device))


FIFTY_LONG = ([35.0] * 1000 + [55.0] * 800, None)
LONG_CLIPS = ([39.0] * 20_000, None)
FEW_WORDS = ([15.0] * 9000, ["بسم الله الرحمن الرحيم"] * 9000)

CASES = [
    Case("random-start", "before"),
    Case("random-start", "large"),
    Case("few-steps", "before", work=GUIDE),
    Case("few-steps", "before", work=None),
    Case("few-steps", "transfer", ("trainer.max_epochs=10",)),
    Case("few-steps", "transfer", ("trainer.max_epochs=-1", "trainer.max_steps=5000")),
    Case("few-steps", "transfer", ("trainer.max_steps=5000",)),
    Case("few-steps", "transfer", ("trainer.max_epochs=10", "trainer.max_steps=5000")),
    Case("few-steps", "laptop", ("trainer.max_steps=500",)),
    Case("few-steps", "small", ("trainer.max_epochs=1",)),
    Case("high-learning-rate", "before"),
    Case("high-learning-rate", "transfer", ("model.optim.lr=2.0",)),
    Case("high-learning-rate", "large", ("model.optim.lr=5",)),
    Case("high-learning-rate", "small", ("model.optim.lr=5e-3",)),
    Case("low-learning-rate", "transfer", ("model.optim.lr=1e-4", "model.optim.sched.min_lr=0")),
    Case("low-learning-rate", "scratch", ("model.optim.lr=1e-3", "model.optim.sched.min_lr=0")),
    Case("long-warmup", "before"),
    Case("long-warmup", "transfer", ("model.optim.sched.warmup_steps=10000",)),
    Case("long-warmup", "transfer", work=Workload(2000, 30.0)),
    Case("long-warmup", "quickstart", ("model.optim.sched.warmup_steps=900",)),
    Case("short-warmup", "transfer", ("model.optim.sched.warmup_steps=200",)),
    Case("small-batch", "before"),
    Case("small-batch", "transfer", ("model.train_ds.batch_duration=60",)),
    Case("small-batch", "transfer", ("trainer.accumulate_grad_batches=1",), devices=1),
    Case("full-precision", "before"),
    Case("full-precision", "before", device="RTX 3090"),
    Case("no-bf16", "transfer", device="V100 32GB"),
    Case("other-devices", "transfer", devices=1),
    Case("other-devices", "transfer", devices=3),
    Case("does-not-fit", "transfer", work=LONG_CLIPS, device="RTX 3090"),
    Case("does-not-fit", "large", work=LONG_CLIPS, device="RTX 3090"),
    Case("does-not-fit", "small", work=LONG_CLIPS, device="RTX 3080"),
    Case("short-clips-masked", "transfer", work=GUIDE),
    Case("left-out-clips", "transfer", work=FIFTY_LONG),
    Case("large-vocabulary", "transfer", work=FEW_WORDS),
    Case("few-hours-for-fresh-decoders", "transfer", work=Workload(4000, 20.0)),
    Case("offline-into-streaming", "transfer"),
    Case("offline-into-streaming", "low-memory"),
    Case("never-unfrozen", "recommended", ("quran.unfreeze_after=50000",)),
    Case("too-little-arrives", "large", (STREAMING,), then=("random-start", "few-steps")),
    Case("too-little-arrives", "small", (STREAMING,)),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.code}-{case.recipe}-{len(case.overrides)}")
def test_the_words_of_the_hint_fix_it_and_break_nothing(case: Case) -> None:
    before = {finding.code: finding for finding in case.plan().findings}
    assert case.code in before
    after = {finding.code for finding in case.plan(*words_of(before[case.code])).findings}
    assert case.code not in after
    assert after - set(before) == set(case.then)


def test_whoever_follows_every_hint_of_the_failed_configuration_ends_without_warnings() -> None:
    overrides: list[str] = []
    for _ in range(8):
        found = plan(load_recipe("before", overrides), GUIDE).findings
        serious = [finding for finding in found if finding.severity != "note"]
        if not serious:
            break
        overrides += words_of(serious[0])
    assert serious == []
    recipe = load_recipe("before", overrides)
    assert recipe.effective_batch == 128 and recipe.trainer.precision == "bf16-mixed"


@pytest.mark.parametrize(
    ("override", "reason"),
    [
        ("trainer.precision=16-mixed", "pass the largest fp16 number"),
        ("trainer.precision=16", "pass the largest fp16 number"),
        ("trainer.precision=fp16", "pass the largest fp16 number"),
        ("model.encoder.att_context_size=[[70,14],[70,0]]", "70 is not a multiple of 14 + 1"),
        ("model.encoder.att_context_size=[[-1,-1]]", "no unlimited context"),
        ("model.encoder.att_context_probs=[0.5,0.5,0.5,0.5]", "not 4 that sum to 2"),
        ("model.encoder.att_context_probs=[0.5,0.5]", "must be 4 shares"),
    ],
)
def test_what_training_cannot_do_is_refused_with_a_reason_and_the_word_that_fixes_it(
    override: str, reason: str
) -> None:
    with pytest.raises(RecipeError, match="override") as refused:
        load_recipe("transfer", [override])
    mistake = refused.value.mistakes[0]
    assert reason in mistake.what.replace("\n", " ")
    word = next(word.rstrip(",") for word in mistake.remedy.split() if "=" in word)
    assert load_recipe("transfer", [override, word])


def test_small_recipes_are_not_measured_by_the_advice_for_big_ones() -> None:
    cpu = target("cpu")
    spoken = Workload(1400, 1.0)
    assert plan(load_recipe("quickstart"), spoken, target=cpu).findings == ()
    assert plan(load_recipe("laptop"), Workload(2876, 5.45), target=cpu).findings == ()
    masks = plan(load_recipe("small"), Workload(20_000, 30.0), target=target("RTX 3090")).findings
    assert [finding.code for finding in masks] == ["short-clips-masked"]


def test_a_step_of_the_guide_fits_its_cards_and_long_clips_do_not() -> None:
    guide = plan(load_recipe("transfer"), GUIDE, 2, target=target("RTX 3090"))
    assert "does-not-fit" not in {finding.code for finding in guide.findings}
    long = Case("does-not-fit", "transfer", work=LONG_CLIPS, device="rtx3090").plan()
    found = next(finding for finding in long.findings if finding.code == "does-not-fit")
    assert "32 clips of 39 s" in found.message and "24" in found.message
    assert "recipe `low-memory`" in found.remedy or "accumulate_grad_batches" in found.remedy


def test_text_that_no_token_stands_for_is_an_error() -> None:
    recipe = load_recipe("transfer")
    work = weigh([5.0] * 9000, recipe, ["بسم الله پ"] * 9000)
    found = [finding for finding in plan(recipe, work).findings if finding.code == "unknown-characters"]
    assert [finding.severity for finding in found] == ["error"] and "U+067E" in found[0].message


def test_the_share_of_hours_left_out_decides_how_loud_it_is() -> None:
    recipe = load_recipe("transfer")

    def severity(durations: list[float]) -> str:
        found = plan(recipe, weigh(durations, recipe)).findings
        return next(finding.severity for finding in found if finding.code == "left-out-clips")

    assert severity([15.0] * 1000 + [50.0]) == "note"
    assert severity([15.0] * 1000 + [50.0] * 100) == "warning"
    assert severity([50.0]) == "error"
