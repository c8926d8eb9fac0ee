"""`quran-asr watch`: diagnose the curves of a training, once or continuously."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from quran_asr.cli.options import FiniteRange
from quran_asr.cli.output import echo

if TYPE_CHECKING:
    from quran_asr.experiments.curves import Curves
    from quran_asr.experiments.diagnostics.diagnosis import Diagnosis
    from quran_asr.experiments.diagnostics.forecast import Forecast


@click.command(epilog="Example: quran-asr watch last")
@click.argument("run")
@click.option("--follow", is_flag=True, help="Keep watching and report what is new until the run ends.")
@click.option(
    "--every",
    default=10.0,
    type=FiniteRange(0.1, 86_400.0),
    show_default=True,
    metavar="SECONDS",
    help="Interval of --follow.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON; with --follow one line at each change.")
def watch(run: str, follow: bool, every: float, as_json: bool) -> int:
    """Diagnose a training by its curves: each diagnosis with evidence, cause and remedy; then a forecast.

    RUN is a run folder, `last`, TensorBoard events, a CSV (Lightning, Weights & Biases, a notebook's
    table), `trainer_state.json`, or a text log of NeMo, icefall or ESPnet. Exits 1 if there is an error
    among the diagnoses.
    """
    from quran_asr.experiments.curve_files import read_curves
    from quran_asr.experiments.diagnostics.forecast import forecast
    from quran_asr.experiments.diagnostics.rules import diagnose
    from quran_asr.experiments.run_folder import last_run

    path = last_run().path if run == "last" else Path(run)
    curves = read_curves(path)
    for note in curves.notes:
        echo(f"note: {note}", err=True)
    if follow:
        return _follow(path, every, as_json)
    diagnostics = diagnose(curves)
    ahead = forecast(curves, diagnostics)
    if as_json:
        from quran_asr.cli.output import print_json

        print_json(_as_json(curves, diagnostics, ahead))
    else:
        echo(_progress(curves))
        for diagnosis in diagnostics:
            echo(_paragraph(diagnosis, _counted_in(curves)))
        echo(_ahead(ahead, _counted_in(curves)))
    return int(any(diagnosis.severity == "error" for diagnosis in diagnostics))


def _follow(path: Path, every: float, as_json: bool) -> int:
    """Read the curves at intervals until the run ends."""
    import json

    from quran_asr.errors import QuranAsrError
    from quran_asr.experiments.curve_files import read_curves
    from quran_asr.experiments.diagnostics.forecast import forecast
    from quran_asr.experiments.diagnostics.rules import diagnose

    shown_codes: set[str] = set()
    seen: tuple[Any, ...] = ()
    while True:
        try:
            curves = read_curves(path)
        except QuranAsrError as error:  # deleted, or just being replaced
            echo(f"warning: {error}", err=True)
            time.sleep(every)
            continue
        now = (
            curves.steps,
            sum(map(len, curves.training.values())),
            sum(map(len, curves.validation.values())),
        )
        diagnostics = diagnose(curves)
        ahead = forecast(curves, diagnostics)
        if now != seen:
            if seen and now[0] < seen[0]:
                echo(f"the run was rewound to step {now[0]:,}", err=True)
                shown_codes = set()
            seen = now
            if as_json:
                echo(json.dumps(_as_json(curves, diagnostics, ahead), ensure_ascii=False, allow_nan=False))
            else:
                echo(_progress(curves))
                for diagnosis in diagnostics:
                    if diagnosis.code not in shown_codes:
                        echo(_paragraph(diagnosis, _counted_in(curves)))
            gone = shown_codes - {diagnosis.code for diagnosis in diagnostics}
            if gone and not as_json:
                echo(f"no longer seen: {', '.join(sorted(gone))}")
            shown_codes = {diagnosis.code for diagnosis in diagnostics}
        end = _over(curves, diagnostics)
        if end:
            echo(end, err=True)
            if not as_json:
                echo(_ahead(ahead, _counted_in(curves)))
            return int(any(diagnosis.severity == "error" for diagnosis in diagnostics))
        time.sleep(every)


def _over(curves: Curves, diagnostics: tuple[Diagnosis, ...]) -> str:
    """Why the run is over, by its recipe; empty while it continues."""
    from quran_asr.experiments.diagnostics.forecast import is_over

    if curves.recipe is None:
        return ""
    if is_over(curves):
        trainer = curves.recipe.trainer
        in_steps = 0 < trainer.max_steps <= curves.steps
        planned = (
            f"step {curves.steps:,} of {trainer.max_steps:,}" if in_steps else f"{trainer.max_epochs} epochs"
        )
        return f"the run is over: {planned}"
    ended = [diagnosis.code for diagnosis in diagnostics if diagnosis.code in curves.recipe.quran.stop_on]
    return f"the run is over: its recipe stops it on `{ended[0]}`" if ended else ""


def _progress(curves: Curves) -> str:
    """The progress of the run in one line."""
    from quran_asr.experiments.diagnostics.forecast import behind_the_best, planned_end

    end = planned_end(curves)
    of = f" of {end:,}" if end is not None and end >= curves.steps else ""
    parts = [f"{curves.name}: {_counted_in(curves)} {curves.steps:,}{of}"]
    if curves.epoch is not None and not curves.in_epochs:
        parts.append(f"epoch {curves.epoch:.0f}")
    for series, key, name in (
        (curves.training, "loss", "loss"),
        (curves.training, "ctc_per_token", "CTC"),
        (curves.validation, "wer", "WER"),
        (curves.validation, "ctc_wer", "CTC WER"),
        (curves.validation, "train_wer", "on training clips"),
    ):
        points = series.get(key, ())
        if points:
            value = points[-1].value
            shown = (
                "not a number"
                if value is None
                else f"{value:.3f}"
                if series is curves.validation
                else f"{value:.4g}"
            )
            behind = series is curves.validation and behind_the_best(curves, key)
            at = f" at {curves.place(points[-1].step)}" if behind else ""
            parts.append(f"{name} {shown}{_unit(curves, key)}{at}")
    return ", ".join(parts)


def _unit(curves: Curves, key: str) -> str:
    """Of a loss in our runs; others' may be sums or means of anything."""
    if key == "ctc_per_token":
        return " nats a token"
    return " nats a clip" if key == "loss" and curves.recipe is not None else ""


def _value(value: float | None) -> str:
    return "NaN" if value is None else f"{value:.4g}"


def _counted_in(curves: Curves) -> str:
    return "epoch" if curves.in_epochs else "step"


def _paragraph(diagnosis: Diagnosis, unit: str) -> str:
    """A diagnosis for a person to read."""
    lines = [f"{diagnosis.severity} [{diagnosis.code}] {diagnosis.message}"]
    if diagnosis.severity != "good":
        measured = ", ".join(
            f"{e.series.partition('.')[2]} {_value(e.value)} at {unit} {e.step:,}" for e in diagnosis.evidence
        )
        lines += [f"  evidence: {measured}"] if measured else []
    lines += [f"  cause: {diagnosis.cause}"] if diagnosis.cause else []
    lines += [f"  hint: {diagnosis.remedy}"] if diagnosis.remedy else []
    return "\n".join(lines)


def _ahead(ahead: Forecast, unit: str) -> str:
    if not ahead.expected:
        return f"forecast: {ahead.reason}"
    parts = [
        f"WER {e.wer:.3f} ({e.low:.3f} to {e.high:.3f}) at {unit} {e.step:,} ({e.label})"
        for e in ahead.expected
    ]
    return f"forecast at the present course, with 90 % intervals: {'; '.join(parts)}"


def _as_json(curves: Curves, diagnostics: tuple[Diagnosis, ...], ahead: Forecast) -> dict[str, Any]:
    from dataclasses import asdict

    from quran_asr.experiments.diagnostics.forecast import INTERVAL

    return {
        "run": curves.source,
        "unit": _counted_in(curves),
        "steps": None if curves.in_epochs else curves.steps,
        "epochs": curves.steps if curves.in_epochs and curves.epoch is None else curves.epoch,
        "diagnostics": [asdict(diagnosis) for diagnosis in diagnostics],
        "forecast": {
            "interval": INTERVAL,
            "expected": [asdict(expected) for expected in ahead.expected],
            "reason": ahead.reason or None,
        },
    }
