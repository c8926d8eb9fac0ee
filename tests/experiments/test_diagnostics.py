"""Diagnostics of recorded curves, of made ones, and of curves that show nothing."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quran_asr.config.recipe import load_recipe
from quran_asr.config.schedule import peak
from quran_asr.errors import QuranAsrError
from quran_asr.experiments.curve_files import read_curves
from quran_asr.experiments.curves import Curves, curves_of_rows
from quran_asr.experiments.diagnostics import diagnosis, rules
from quran_asr.experiments.diagnostics.diagnosis import Diagnosis
from quran_asr.experiments.diagnostics.forecast import forecast
from quran_asr.experiments.diagnostics.learning_rate import rate_to_try
from quran_asr.experiments.diagnostics.rules import diagnose
from quran_asr.experiments.planning.plan import plan
from quran_asr.experiments.run_folder import create_run
from quran_asr.training.diagnostics import DiagnosticsCallback

RECORDED = Path(__file__).parent / "curves"
sys.path.insert(0, str(Path(__file__).parents[2] / "tools"))

from synthetic_curves import HEALTHY, SICK, made  # noqa: E402

Series = list[tuple[int, float | None]]


def codes(curves: Curves, *severities: str) -> set[str]:
    return {
        diagnosis.code
        for diagnosis in diagnose(curves)
        if diagnosis.severity in (severities or ("error", "warning", "note"))
    }


def recorded(name: str) -> Curves:
    """Lines of a run that was made, under its recipe."""
    rows = [json.loads(line) for line in (RECORDED / name).read_text().splitlines()]
    return curves_of_rows(rows, name, name, load_recipe("quickstart"))


# Recorded


def test_a_run_that_really_diverged() -> None:
    """`quran-asr train quickstart model.optim.lr=3e-2 ...warmup_steps=1500 trainer.max_steps=1500`."""
    (diagnosis,) = [
        diagnosis for diagnosis in diagnose(recorded("diverging.jsonl")) if diagnosis.severity == "error"
    ]
    assert diagnosis.code == "divergence"
    assert diagnosis.step is not None and diagnosis.step < 400
    assert {evidence.series for evidence in diagnosis.evidence} == {"training.ctc_per_token"}
    assert "`model.optim.lr=0.00" in diagnosis.remedy  # the recipe's own, which learns, is 0.001


@pytest.mark.parametrize("until", [300, 600, 900, 1200, 1500])
def test_a_run_that_really_learned_alarms_at_no_time(until: int) -> None:
    """The same clips with the recipe as it is: losses of a clip rise while the curriculum lets clips grow."""
    whole = recorded("healthy.jsonl")
    rows = [json.loads(line) for line in (RECORDED / "healthy.jsonl").read_text().splitlines()]
    part = [row for row in rows if row["step"] <= until]
    assert codes(curves_of_rows(part, "part", "", whole.recipe), "error", "warning") == set()


def test_a_run_of_hours_is_well_and_its_gap_is_named() -> None:
    """The laptop run of docs/results/experiments.md: training clips at 0.04, others at 0.32 and falling."""
    curves = read_curves(RECORDED / "laptop.csv")
    assert codes(curves, "error") == set()
    assert codes(curves, "warning") == {"generalization-gap"}
    assert "wer-falls" in codes(curves, "good")


def test_measured_starts_are_distinguished() -> None:
    """CTC nats a token of two runs on recitations: weights scaled by data, and NeMo's initial ones."""
    assert codes(read_curves(RECORDED / "plateau-left.csv")) == set()
    assert codes(read_curves(RECORDED / "plateau-kept.csv")) == {"stalled-start"}


# Synthetic: a few seeds here, a hundred in docs/results/diagnostics.md (`python tools/diagnostics_study.py`)


@pytest.mark.parametrize("kind", HEALTHY)
@pytest.mark.parametrize("seed", range(3))
def test_healthy_curves_alarm_neither_at_their_end_nor_before(kind: str, seed: int) -> None:
    for until in (0.3, 1.0):
        assert codes(made(kind, seed).curves(until), "error") == set(), until


@pytest.mark.parametrize("kind", SICK)
@pytest.mark.parametrize("seed", [3, 4])
def test_each_sickness_is_named(kind: str, seed: int) -> None:
    diagnostics = [
        diagnosis for diagnosis in diagnose(made(kind, seed).curves()) if diagnosis.code == SICK[kind][0]
    ]
    assert len(diagnostics) == 1
    (diagnosis,) = diagnostics
    assert diagnosis.message and diagnosis.cause
    assert diagnosis.step is not None
    assert diagnosis.evidence or diagnosis.code.startswith("stuck")


def test_overfitting_names_the_best_epoch() -> None:
    rates = [0.5, 0.3, 0.2, 0.15, 0.12, 0.10, 0.11, 0.12, 0.13, 0.14, 0.15, 0.16]
    curves = validations(wer=rates, train_wer=[0.8 * rate for rate in rates[:5]] + [0.02] * 7)
    (diagnosis,) = [diagnosis for diagnosis in diagnose(curves) if diagnosis.severity == "error"]
    assert diagnosis.code == "overfitting"
    assert "the best epoch was epoch 5 (step 600)" in diagnosis.message
    assert diagnosis.step == 600


def test_a_good_flat_tail_is_good() -> None:
    rates = [0.5, 0.2, 0.1] + [0.05, 0.052, 0.048, 0.051, 0.05, 0.049] * 8
    diagnostics = diagnose(validations(wer=rates, train_wer=[0.9 * rate for rate in rates]))
    assert {diagnosis.code for diagnosis in diagnostics} == {"settled", "small-gap"}
    assert {diagnosis.severity for diagnosis in diagnostics} == {"good"}


def test_one_bad_validation_is_not_a_collapse_and_two_are() -> None:
    rates = [0.5, 0.3, 0.2, 0.15, 0.12, 0.10, 0.1]
    assert codes(validations(wer=[*rates, 0.9])) == set()
    assert codes(validations(wer=[*rates, 0.9, 0.95])) == {"late-collapse"}


@pytest.mark.parametrize("validated", [True, False])
def test_a_rise_far_above_the_best_is_no_collapse_while_training_goes_on(validated: bool) -> None:
    rates = [0.8 - 0.07 * at for at in range(11)] + [0.1 + 0.025 * at for at in range(1, 11)]
    sick = [2.0 - 0.15 * at for at in range(11)] + [0.5 + 0.1 * at for at in range(1, 11)]
    rows: list[dict[str, Any]] = []
    for at, (rate, loss) in enumerate(zip(rates, sick, strict=True), start=1):
        rows += [
            {"step": 100 * at - 50, "epoch": at - 1, "split": "train", "loss": 3.0 * 0.8**at},
            {"step": 100 * at, "epoch": at - 1, "split": "validation", "wer": rate},
        ]
        if validated:
            rows[-1]["loss"] = loss
    assert codes(curves_of_rows(rows, "a run", ""), "error") == {"overfitting"}
    for row in rows[-12:]:  # where the training gets worse too, the model has collapsed
        if row["split"] == "train":
            row["loss"] = 4.0
    assert "late-collapse" in codes(curves_of_rows(rows, "a run", ""), "error")


def test_one_nan_is_a_note_and_many_are_an_error() -> None:
    losses: list[float | None] = [50 / n for n in range(1, 200)]
    assert codes(training(loss=[*losses[:100], None, *losses[100:]])) == {"not-a-number"}
    assert codes(training(loss=[*losses[:100], None, *losses[100:]]), "error") == set()
    assert codes(training(loss=[*losses, None, None, None]), "error") == {"not-a-number"}


# WER at 1, whatever the loss does


def of_csv(folder: Path, place: str, every: int, rows: int, loss: Callable[[int], float]) -> Curves:
    """A CSV of a training whose WER is 1.0 at every row."""
    path = folder / "stuck.csv"
    lines = [f"{every * at},{loss(at)},1.0" for at in range(1, rows + 1)]
    path.write_text("\n".join([f"{place},train_loss,val_wer", *lines]))
    return read_curves(path)


@pytest.mark.parametrize("rows", [25, 30, 31, 40, 60])
@pytest.mark.parametrize("loss", [lambda at: 8.0 + at % 3, lambda at: 50 * math.exp(-at / 25) + 5])
def test_wer_1_is_stuck_where_epochs_are_all_that_is_known(
    tmp_path: Path, rows: int, loss: Callable[[int], float]
) -> None:
    curves = of_csv(tmp_path, "epoch", 1, rows, loss)
    assert codes(curves, "error") == {"stuck-wer"}
    assert f"to epoch {rows}" in next(
        diagnosis.message for diagnosis in diagnose(curves) if diagnosis.severity == "error"
    )


def test_wer_1_is_stuck_after_many_steps_whatever_the_loss_does(tmp_path: Path) -> None:
    falls = lambda at: 34 * math.exp(-at / 12) + 5  # noqa: E731
    assert codes(of_csv(tmp_path, "step", 500, 20, falls), "error") == {"stuck-wer"}


def test_wer_1_is_not_an_alarm_while_a_random_start_is_young(tmp_path: Path) -> None:
    """The guide expects one at 0.95 to 1.00 for ten epochs."""
    falls = lambda at: 50 * math.exp(-at / 25) + 5  # noqa: E731
    assert codes(of_csv(tmp_path, "epoch", 1, 12, falls)) == set()
    assert codes(of_csv(tmp_path, "step", 200, 20, falls)) == set()


def test_wer_1_is_not_an_alarm_where_epochs_are_a_few_steps(tmp_path: Path) -> None:
    rows = [{"step": 5 * at, "epoch": at - 1, "split": "validation", "wer": 1.0} for at in range(1, 61)]
    assert codes(curves_of_rows(rows, "a run", "")) == set()


@pytest.mark.parametrize(("steps", "severity"), [(150, "note"), (2000, "error")])
def test_a_run_that_has_ended_at_wer_1_reports_it(steps: int, severity: str) -> None:
    recipe = load_recipe("quickstart", [f"trainer.max_steps={steps}"])
    rows: list[dict[str, Any]] = [
        {"step": at, "epoch": 0, "split": "train", "loss": 50 * math.exp(-at / steps)}
        for at in range(steps // 50, steps + 1, steps // 50)
    ]
    for at in range(steps // 5, steps + 1, steps // 5):
        rows.append({"step": at, "epoch": 0, "split": "validation", "wer": 1.0, "ctc_wer": 1.0})
    young = curves_of_rows([row for row in rows if row["step"] <= 0.8 * steps], "a run", "", recipe)
    assert codes(young) == set()
    assert "over" not in forecast(young, ()).reason
    curves = curves_of_rows(rows, "a run", "", recipe)
    (diagnosis,) = [diagnosis for diagnosis in diagnose(curves) if diagnosis.severity != "good"]
    assert (diagnosis.code, diagnosis.severity) == (
        "ended-at-wer-1" if severity == "note" else "stuck-wer",
        severity,
    )
    assert "few-steps" in diagnosis.remedy or severity == "error"
    reason = forecast(curves, diagnose(curves)).reason
    assert reason.startswith("the run is over" if severity == "note" else "no forecast after `stuck-wer`")


# A loss that only falls


@settings(max_examples=200, deadline=None)
@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=120), st.sampled_from([1, 100, 500]))
def test_a_loss_that_only_falls_is_never_an_error(losses: list[float], every: int) -> None:
    rows = [
        {"step": every * (at + 1), "split": "train", "loss": value}
        for at, value in enumerate(sorted(losses, reverse=True))
    ]
    assert codes(curves_of_rows(rows, "a run", ""), "error") == set()


@pytest.mark.parametrize("rows", [10, 20, 21, 30, 40, 60, 200])
def test_a_loss_that_falls_as_losses_do_is_never_an_error(rows: int) -> None:
    falls: list[float | None] = [20 * math.exp(-at * 500 / 1500) + 2 for at in range(1, rows + 1)]
    assert codes(training(loss=falls)) == set()


def test_losses_have_units() -> None:
    rows = [
        {"step": step, "split": "train", "loss": 900 / step, "ctc_per_token": 90 / step}
        for step in range(10, 400, 10)
    ]
    recipe = load_recipe("quickstart")
    (token,) = [s for s in diagnose(curves_of_rows(rows, "", "", recipe)) if s.code == "loss-falls"]
    assert "nats a token" in token.message
    for row in rows:
        del row["ctc_per_token"]
    (clip,) = [s for s in diagnose(curves_of_rows(rows, "", "", recipe)) if s.code == "loss-falls"]
    assert "nats a clip" in clip.message
    (foreign,) = [s for s in diagnose(curves_of_rows(rows, "", "")) if s.code == "loss-falls"]
    assert "nats" not in foreign.message  # another's loss may be a sum, a mean, or of another kind


# Which rate to try


def test_the_rate_to_try_is_half_of_what_was_borne() -> None:
    """By hand for Noam: 1.5 / sqrt(512 * 3000) = 1.2103e-3 at the peak; half of it is lr 0.75."""
    recipe = load_recipe("transfer")
    _, highest = peak(recipe.model.optim, 512, 100_000)
    rows: list[dict[str, Any]] = [
        {"step": step, "split": "train", "loss": 1.0, "learning_rate": highest * min(step / 3000, 1.0)}
        for step in range(100, 6001, 100)
    ]
    curves = curves_of_rows(rows, "a run", "", recipe)
    after = rate_to_try(curves, 5000)
    assert after.setting == 0.75
    assert after.peak == pytest.approx(1.2103e-3 / 2, rel=1e-3)
    during = rate_to_try(curves, 1000)  # the warm-up had come to a third of its peak
    assert during.setting == 0.25
    assert during.peak is not None
    assert during.peak * math.sqrt(512 * 3000) == pytest.approx(0.25, rel=1e-3)
    assert "model.optim.lr" not in rate_to_try(replace(curves, recipe=None), 1000).remedy


def test_without_rates_half_is_the_remedy() -> None:
    assert "half the learning rate" in rate_to_try(training(loss=[1.0]), 1).remedy


# The start that stalls


def stalled(series: Series) -> Diagnosis | None:
    """The verdict on a curve of CTC losses in nats a token."""
    rows = [{"step": step, "split": "train", "loss": 1.0, "ctc_per_token": value} for step, value in series]
    found = [
        diagnosis
        for diagnosis in diagnose(curves_of_rows(rows, "a run", ""))
        if diagnosis.code == "stalled-start"
    ]
    return found[0] if found else None


def falling(at_300: float, at_1000: float, last: int = 1000) -> Series:
    """A loss that falls on a line from step 300 to 1,000, with the swing of single batches."""
    return [
        (step, at_300 + (at_1000 - at_300) * (step - 300) / 700 + 0.15 * math.sin(step))
        for step in range(10, last + 1, 10)
    ]


def test_a_stall_is_reported_with_its_remedy() -> None:
    diagnosis = stalled(falling(4.50, 4.35))
    assert diagnosis is not None
    assert diagnosis.severity == "error"
    assert "quran.seed" in diagnosis.remedy and "20 s" in diagnosis.remedy
    assert [evidence.step for evidence in diagnosis.evidence] == [300, 1000]


def test_nothing_is_reported_too_early_or_without_numbers() -> None:
    assert stalled(falling(4.5, 4.5, last=990)) is None
    assert stalled([]) is None
    assert stalled([(step, 4.5) for step in range(500, 1010, 10)]) is None  # step 300 is not known
    assert stalled([(step, None) for step in range(10, 1010, 10)]) is None


def test_a_model_that_has_learned_is_not_stalled() -> None:
    assert stalled(falling(0.61, 0.60)) is None


def test_later_steps_do_not_change_the_verdict() -> None:
    early = falling(4.5, 4.4)
    assert stalled([*early, *((step, 1.0) for step in range(1010, 3000, 10))]) is not None


def test_a_rising_loss_is_a_stall() -> None:
    assert stalled(falling(4.35, 4.6)) is not None


def validations(**series: list[float]) -> Curves:
    """A validation every 100 steps and epoch."""
    count = len(series["wer"])
    rows = [
        {"step": 100 * (at + 1), "epoch": at, "split": "validation", **{k: v[at] for k, v in series.items()}}
        for at in range(count)
    ]
    return curves_of_rows(rows, "a run", "")


def training(**series: list[float | None]) -> Curves:
    """A line every 10 steps."""
    rows = [
        {"step": 10 * (at + 1), "split": "train", **{key: values[at] for key, values in series.items()}}
        for at in range(len(next(iter(series.values()))))
    ]
    return curves_of_rows(rows, "a run", "")


# Anything may stand in a file


@pytest.mark.slow
@settings(max_examples=40, deadline=None)
@given(st.data())
def test_no_curve_breaks_a_rule(data: st.DataObject) -> None:
    """Whatever numbers come, in whatever lengths: diagnoses or none, and a forecast or a reason."""
    keys = {
        "train": (
            "loss",
            "ctc_per_token",
            "learning_rate",
            "gradient_norm",
            "skipped_batches",
            "token_entropy",
        ),
        "validation": ("wer", "ctc_wer", "cer", "train_wer", "loss", "blank_share", "length_ratio"),
    }
    value = st.one_of(
        st.none(), st.floats(0, 2), st.floats(allow_nan=False, allow_infinity=False), st.just(0.0)
    )
    rows: list[dict[str, Any]] = []
    for split, names in keys.items():
        chosen = data.draw(st.lists(st.sampled_from(names), unique=True))
        steps = data.draw(st.integers(0, 60))
        every = data.draw(st.integers(1, 10**6))
        rows += [
            {"step": every * at, "epoch": at, "split": split, **{key: data.draw(value) for key in chosen}}
            for at in range(1, steps + 1)
        ]
    recipe = data.draw(st.sampled_from([None, *map(load_recipe, ("transfer", "quickstart"))]))
    curves = curves_of_rows(rows, "any", "", recipe)
    diagnostics = diagnose(curves)
    assert len({diagnosis.code for diagnosis in diagnostics}) == len(diagnostics)
    ahead = forecast(curves, ())
    assert ahead.reason or all(0 <= e.low <= e.wer <= e.high for e in ahead.expected)
    json.dumps([asdict(diagnosis) for diagnosis in diagnostics], allow_nan=False)


# A rule is one function


def test_a_rule_is_one_decorated_function(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diagnosis, "RULES", rules.all_rules().copy())
    monkeypatch.setattr(rules, "RULES", diagnosis.RULES)

    @diagnosis.rule("too-quick", explains=("settled",))
    def too_quick(curves: Curves) -> Iterator[Diagnosis]:
        yield Diagnosis("too-quick", "warning", "learned in no time", (), "", "", 1)

    rates = [0.5, 0.2, 0.1] + [0.05, 0.052, 0.048, 0.051, 0.05, 0.049] * 8
    assert codes(validations(wer=rates), "good", "warning") == {"too-quick"}


def test_every_code_is_declared() -> None:
    for kind in (*HEALTHY, *SICK):
        assert {diagnosis.code for diagnosis in diagnose(made(kind, 1).curves())} <= rules.codes()


def test_a_code_that_no_diagnostic_has_is_an_error_of_the_plan() -> None:
    recipe = load_recipe("quickstart", ["quran.stop_on=[divergence,overfiting]"])
    (finding,) = [f for f in plan(recipe, None).findings if f.code == "unknown-diagnostic"]
    assert (finding.severity, finding.where) == ("error", "quran.stop_on")
    assert "overfiting" in finding.message and "`overfitting`" in finding.remedy


def test_a_training_refuses_a_code_that_no_diagnostic_has(tmp_path: Path) -> None:
    recipe = load_recipe("quickstart", ["quran.stop_on=[overfiting]"])
    run = create_run(tmp_path, "quickstart", datetime(2026, 11, 24))
    with pytest.raises(QuranAsrError, match="`overfiting` is not a diagnostic"):
        DiagnosticsCallback(run, recipe, [], lambda finding: None)
