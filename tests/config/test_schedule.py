"""The learning rate: the guide's figures, and equal to NeMo's own schedulers step by step."""

from __future__ import annotations

import warnings
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quran_asr.config.recipe import load_recipe
from quran_asr.config.schedule import learning_rate, peak, transferred_share
from quran_asr.config.schema import Optim

POLYNOMIAL = ("model.optim.sched.name=PolynomialHoldDecayAnnealing", "model.optim.sched.hold_ratio=0.6")
COSINE = ("model.optim.sched.name=CosineAnnealing",)


def optim(*overrides: str) -> Optim:
    return load_recipe("base", overrides).model.optim


@pytest.mark.parametrize(
    ("rate", "warmup", "highest"), [(5.0, 10_000, 2.21e-3), (2.0, 5_000, 1.25e-3), (1.5, 3_000, 1.21e-3)]
)
def test_noams_rate_is_a_multiplier(rate: float, warmup: int, highest: float) -> None:
    noam = optim(f"model.optim.lr={rate}", f"model.optim.sched.warmup_steps={warmup}")
    step, value = peak(noam, 512, 52_700)
    assert (step, value) == (warmup, pytest.approx(highest, rel=5e-3))


CHOSEN = {schedule: optim(*schedule) for schedule in ((), COSINE, POLYNOMIAL)}


@pytest.mark.parametrize("schedule", CHOSEN)
@given(warmup=st.integers(0, 60), total=st.integers(1, 200))
def test_the_peak_is_the_highest_rate_of_the_run(schedule: tuple[str, ...], warmup: int, total: int) -> None:
    chosen = replace(CHOSEN[schedule], sched=replace(CHOSEN[schedule].sched, warmup_steps=warmup))
    rates = [learning_rate(step, chosen, 512, total) for step in range(total)]
    assert peak(chosen, 512, total)[1] == pytest.approx(max(rates))
    assert min(rates) >= 0


def test_a_run_that_ends_in_its_warmup_never_reaches_the_rate() -> None:
    cosine = optim(*COSINE, "model.optim.lr=1e-3", "model.optim.sched.warmup_steps=1000")
    assert peak(cosine, 512, 100) == (99, pytest.approx(1e-3 * 100 / 1001))


@pytest.mark.slow
@pytest.mark.parametrize(
    "overrides",
    [
        (),
        ("model.optim.sched.warmup_steps=0",),
        ("model.optim.sched.warmup_steps=40", "model.optim.sched.min_lr=1e-2"),
        (*COSINE, "model.optim.sched.warmup_steps=30"),
        (*COSINE, "model.optim.sched.warmup_steps=0", "model.optim.sched.min_lr=0.1"),
        (*POLYNOMIAL, "model.optim.sched.warmup_steps=20"),
        (*POLYNOMIAL, "model.optim.sched.warmup_steps=0", "model.optim.sched.power=2.0"),
        (*POLYNOMIAL, "model.optim.sched.warmup_steps=7", "model.optim.sched.hold_ratio=0.0"),
    ],
)
def test_equal_to_nemo(overrides: tuple[str, ...]) -> None:
    lr_scheduler = pytest.importorskip("nemo.core.optim.lr_scheduler", reason="needs the extra train")
    torch = pytest.importorskip("torch")
    chosen, d_model, total = optim(*overrides), 512, 150
    optimizer = torch.optim.AdamW([torch.zeros(1, requires_grad=True)], lr=chosen.lr)
    arguments = {"warmup_steps": chosen.sched.warmup_steps, "min_lr": chosen.sched.min_lr, "max_steps": total}
    if chosen.sched.name == "NoamAnnealing":
        arguments["d_model"] = d_model
    if chosen.sched.name == "PolynomialHoldDecayAnnealing":
        arguments |= {"hold_ratio": chosen.sched.hold_ratio, "power": chosen.sched.power}
    scheduler = getattr(lr_scheduler, chosen.sched.name)(optimizer, **arguments)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for step in range(total + 10):
            theirs = optimizer.param_groups[0]["lr"]
            assert learning_rate(step, chosen, d_model, total) == pytest.approx(theirs, rel=1e-12), step
            optimizer.step()
            scheduler.step()


def test_copied_tensors_rest_then_rise_to_their_share() -> None:
    shares = [
        transferred_share(step, rate=0.3, frozen_steps=10, warmup_steps=4) for step in (0, 9, 10, 11, 14, 500)
    ]
    assert shares == pytest.approx([0.0, 0.0, 0.06, 0.12, 0.3, 0.3])
    assert transferred_share(0, rate=0.3, frozen_steps=0, warmup_steps=4) == 0.3
    assert transferred_share(7, rate=1.0, frozen_steps=0, warmup_steps=0) == 1.0
