"""Overfitting in logs that hold losses alone: seen where there is one, not in noise."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quran_asr.experiments.curve_files import read_curves
from quran_asr.experiments.curves import Curves, curves_of_rows
from quran_asr.experiments.diagnostics.diagnosis import Diagnosis
from quran_asr.experiments.diagnostics.rules import diagnose

Shape = Callable[[float], float]
"""Of the share of the training that is done."""


def falls(done: float) -> float:
    return 0.05 + math.exp(-6 * done)


def settles(done: float) -> float:
    return 0.3 + 0.7 * math.exp(-20 * done)


def turns(done: float) -> float:
    """A third of its lowest level above it in the end."""
    return settles(done) + 0.15 * max(0.0, done - 0.3)


def made(
    validation: Shape, training: Shape = falls, *, noise: float = 0.0, wander: float = 0.0, count: int = 40,
    seed: int = 0,
) -> Curves:  # fmt: skip
    """Losses alone, five lines of training for each validation.

    Args:
        noise: deviation of the logarithm of each validation.
        wander: that of its slow wandering (an autoregression with 0.8).
    """
    draw, away, rows = random.Random(seed), 0.0, []
    for at in range(1, count + 1):
        away = 0.8 * away + 0.6 * draw.gauss(0, wander)
        for step in range(50 * at - 40, 50 * at + 1, 10):
            value = training(step / (50 * count)) * draw.lognormvariate(0, 0.15)
            rows.append({"step": step, "split": "train", "loss": value})
        value = validation(at / count) * math.exp(away + draw.gauss(0, noise))
        rows.append({"step": 50 * at, "split": "validation", "loss": value})
    return curves_of_rows(rows, "a run", "")


def cut(curves: Curves, until: int) -> Curves:
    rows = [
        {"step": point.step, "split": split, "loss": point.value}
        for split, series in (("train", curves.training), ("validation", curves.validation))
        for point in series["loss"]
        if point.step <= until
    ]
    return curves_of_rows(rows, "a run", "")


def overfits(curves: Curves) -> list[Diagnosis]:
    return [diagnosis for diagnosis in diagnose(curves) if diagnosis.code == "overfitting"]


@pytest.mark.parametrize("noise", [0.0, 0.01, 0.05])
def test_a_validation_loss_that_rises_while_training_learns_is_a_warning(noise: float) -> None:
    for seed in range(10):
        (found,) = overfits(made(turns, noise=noise, seed=seed))
        assert found.severity == "warning"
        assert "no error rate is in the log" in found.message and "WER" in found.remedy
        assert found.step is not None and 300 <= found.step <= 1200


@pytest.mark.slow
@pytest.mark.parametrize("validation", [falls, settles, lambda done: 1.0], ids=["falls", "settles", "flat"])
@pytest.mark.parametrize(
    ("noise", "wander", "most"),
    [(0.01, 0.0, 0), (0.05, 0.0, 0), (0.2, 0.0, 1), (0.0, 0.02, 0), (0.0, 0.03, 2)],
)
def test_noise_is_not_overfitting(validation: Shape, noise: float, wander: float, most: int) -> None:
    """Of 40 curves, each judged on the way too."""
    alarms = 0
    for seed in range(40):
        curves = made(validation, noise=noise, wander=wander, seed=seed)
        alarms += any(overfits(cut(curves, until)) for until in (600, 1000, 1500, 2000))
    assert alarms <= most


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=60),
    st.lists(st.floats(0, 1e6), min_size=1, max_size=60),
)
def test_a_validation_loss_that_never_rises_is_never_overfitting(
    losses: list[float], training: list[float]
) -> None:
    rows = [
        {"step": 10 * at, "split": split, "loss": value}
        for split, values in (("validation", sorted(losses, reverse=True)), ("train", training))
        for at, value in enumerate(values, start=1)
    ]
    assert overfits(curves_of_rows(rows, "a run", "")) == []


def test_a_rise_of_both_losses_or_with_a_falling_error_rate_is_no_overfitting() -> None:
    assert overfits(made(turns, training=turns)) == []
    curves = made(turns)
    rows = [
        {"step": point.step, "split": split, "loss": point.value, "cer": 20 / point.step}
        for split, series in (("train", curves.training), ("validation", curves.validation))
        for point in series["loss"]
    ]
    assert overfits(curves_of_rows(rows, "a run", "")) == []


def test_losses_alone_in_a_csv_and_in_a_log_of_icefall(tmp_path: Path) -> None:
    """A row an epoch; and batches, with a validation at the end of each epoch."""
    table, lines = ["epoch,step,train_loss,val_loss"], []
    for epoch in range(1, 41):
        train, valid = 30 * 0.85**epoch + 0.3, 36 * 0.8**epoch + 5 + 1.2 * max(0, epoch - 8)
        table.append(f"{epoch},{100 * epoch},{train},{valid}")
        for batch in range(0, 500, 50):
            losses = f"loss={train:.4g}, pruned_loss={train:.4g}, over 5000.00 frames. "
            lines.append(f"Epoch {epoch}, batch {batch}, loss[{losses}], tot_loss[{losses}], lr: 3.00e-03")
        lines.append(f"INFO Epoch {epoch}, validation: loss={valid:.4g}, over 944034.00 frames. ")
    (tmp_path / "losses.csv").write_text("\n".join(table))
    (tmp_path / "log-train").write_text("\n".join(lines))
    for name, place in (("losses.csv", "step 900"), ("log-train", "step 4,451")):
        (found,) = overfits(read_curves(tmp_path / name))
        assert f"around {place}," in found.message
