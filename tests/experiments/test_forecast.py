"""What continuing would bring, against curves whose end is known."""

from __future__ import annotations

from typing import Any

import pytest

from quran_asr.config.recipe import load_recipe
from quran_asr.experiments.curves import Curves, curves_of_rows
from quran_asr.experiments.diagnostics.diagnosis import Diagnosis
from quran_asr.experiments.diagnostics.forecast import forecast, planned_end


def falling(count: int, every: int = 100, **recipe: Any) -> Curves:
    """0.05 + 0.8 (1 + step / 300)^-1, with a ripple of half a percent of itself."""
    rows = [
        {"step": step, "epoch": (step - 1) // 500, "split": "validation", "wer": truth(step) * (1 + ripple)}
        for at in range(1, count + 1)
        for step, ripple in [(every * at, 0.005 * (-1) ** at)]
    ]
    return curves_of_rows(rows, "a run", "", recipe.get("recipe"))


def truth(step: float) -> float:
    return 0.05 + 0.8 / (1 + step / 300)


def test_a_power_law_is_found_again() -> None:
    ahead = forecast(falling(30), ())
    assert [(e.step, e.label) for e in ahead.expected] == [(3750, "1.25x"), (6000, "2x")]
    for expected in ahead.expected:
        assert expected.wer == pytest.approx(truth(expected.step), abs=0.006)
        assert expected.low < truth(expected.step) < expected.high
    near, far = ahead.expected
    assert (near.high - near.low) / near.wer < (far.high - far.low) / far.wer  # further on less is known


def test_fewer_validations_give_wider_intervals() -> None:
    few, many = (forecast(falling(count), ()).expected[0] for count in (8, 60))
    assert many.high - many.low < few.high - few.low


def test_the_planned_end_is_named() -> None:
    recipe = load_recipe("quickstart", ["trainer.max_steps=9000"])
    assert forecast(falling(30, recipe=recipe), ()).expected[-1].label == "end"
    epochs = falling(30, recipe=load_recipe("transfer"))
    assert planned_end(epochs) == 50_000  # 100 epochs of 500 steps


def test_where_there_is_no_forecast_the_reason_is_given() -> None:
    assert "6 are needed" in forecast(falling(5), ()).reason
    assert forecast(curves_of_rows([], "", ""), ()).expected == ()
    rows = [
        {"step": at, "split": "validation", "wer": max(0.0, 0.8 - at / 1000)} for at in range(100, 2000, 100)
    ]
    assert "no error" in forecast(curves_of_rows(rows, "", ""), ()).reason
    sick = Diagnosis("divergence", "error", "", (), "", "", None)
    assert forecast(falling(30), [sick]).reason == "no forecast after `divergence`"
