"""The sign of a stalled start: seen where it is, and not where it is not."""

from __future__ import annotations

import math

from quran_asr.runs.curves import curves_of_rows
from quran_asr.runs.sign import Sign
from quran_asr.runs.signs import judge

Series = list[tuple[int, float | None]]


def stalled(series: Series) -> Sign | None:
    """The verdict on a curve of CTC losses in nats a token."""
    rows = [{"step": step, "split": "train", "loss": 1.0, "ctc_per_token": value} for step, value in series]
    found = [sign for sign in judge(curves_of_rows(rows, "a run", "")) if sign.code == "stalled-start"]
    return found[0] if found else None


def series(at_300: float, at_1000: float, last: int = 1000) -> Series:
    """A loss that falls on a line from step 300 to 1,000, with the swing of single batches."""
    return [
        (step, at_300 + (at_1000 - at_300) * (step - 300) / 700 + 0.15 * math.sin(step))
        for step in range(10, last + 1, 10)
    ]


def test_measured_runs_are_told_apart() -> None:
    assert stalled(series(4.47, 3.77)) is None  # scaled by data: it learned
    finding = stalled(series(4.50, 4.35))  # NeMo's initial weights: it did not
    assert finding is not None
    assert (finding.severity, finding.code) == ("error", "stalled-start")
    assert "quran.seed" in finding.remedy and "20 s" in finding.remedy


def test_nothing_is_said_too_early_or_without_numbers() -> None:
    assert stalled(series(4.5, 4.5, last=990)) is None
    assert stalled([]) is None
    assert stalled([(step, 4.5) for step in range(500, 1010, 10)]) is None  # step 300 is not known
    assert stalled([(step, None) for step in range(10, 1010, 10)]) is None
    assert stalled([(step, math.nan) for step in range(10, 1010, 10)]) is None


def test_a_model_that_has_learned_is_not_stalled() -> None:
    assert stalled(series(0.61, 0.60)) is None


def test_later_steps_do_not_change_the_verdict() -> None:
    early = series(4.5, 4.4)
    assert stalled(early) is not None
    assert stalled([*early, *((step, 1.0) for step in range(1010, 3000, 10))]) is not None


def test_a_rising_loss_is_a_stall() -> None:
    assert stalled(series(4.35, 4.6)) is not None
