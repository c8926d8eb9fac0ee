"""`quran-asr watch`: what the curves of a training say, once or as it goes on."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from quran_asr.cli.numbers import FiniteRange
from quran_asr.cli.printing import echo

if TYPE_CHECKING:
    from quran_asr.runs.curves import Curves
    from quran_asr.runs.signs.outlook import Outlook
    from quran_asr.runs.signs.sign import Sign


@click.command(epilog="Example: quran-asr watch last")
@click.argument("run")
@click.option("--follow", is_flag=True, help="Go on reading, and say what is new, until the run is over.")
@click.option("--every", default=10.0, type=FiniteRange(0.1, 86_400.0), help="Seconds between looks.  [10]")
@click.option("--json", "as_json", is_flag=True, help="Print as JSON; with --follow a line at each change.")
def watch(run: str, follow: bool, every: float, as_json: bool) -> int:
    """Say how a training goes: good signs and bad ones, each with evidence, cause and remedy.

    RUN is a run folder, `last`, a folder or file of TensorBoard events of any NeMo run, or a CSV. Exits 1
    if there is a sign of severity error.
    """
    from quran_asr.runs.events import read_curves
    from quran_asr.runs.folder import last_run
    from quran_asr.runs.signs.outlook import outlook
    from quran_asr.runs.signs.signs import judge

    path = last_run().path if run == "last" else Path(run)
    curves = read_curves(path)
    if follow:
        return _follow(path, every, as_json)
    signs = judge(curves)
    ahead = outlook(curves, signs)
    if as_json:
        from quran_asr.cli.printing import print_json

        print_json(_as_json(curves, signs, ahead))
    else:
        echo(_progress(curves))
        for sign in signs:
            echo(_paragraph(sign, _counted_in(curves)))
        echo(_ahead(ahead, _counted_in(curves)))
    return int(any(sign.severity == "error" for sign in signs))


def _follow(path: Path, every: float, as_json: bool) -> int:
    """Look again and again; end when the run is over."""
    import json

    from quran_asr.findings import QuranAsrError
    from quran_asr.runs.events import read_curves
    from quran_asr.runs.signs.outlook import outlook
    from quran_asr.runs.signs.signs import judge

    told: set[str] = set()
    seen: tuple[Any, ...] = ()
    while True:
        try:
            curves = read_curves(path)
        except QuranAsrError as error:  # taken away, or just being replaced: say so and look again
            echo(f"warning: {error}", err=True)
            time.sleep(every)
            continue
        now = (
            curves.steps,
            sum(map(len, curves.training.values())),
            sum(map(len, curves.validation.values())),
        )
        signs = judge(curves)
        ahead = outlook(curves, signs)
        if now != seen:
            if seen and now[0] < seen[0]:
                echo(f"the run went back to step {now[0]:,}", err=True)
                told = set()
            seen = now
            if as_json:
                echo(json.dumps(_as_json(curves, signs, ahead), ensure_ascii=False, allow_nan=False))
            else:
                echo(_progress(curves))
                for sign in signs:
                    if sign.code not in told:
                        echo(_paragraph(sign, _counted_in(curves)))
            gone = told - {sign.code for sign in signs}
            if gone and not as_json:
                echo(f"no longer seen: {', '.join(sorted(gone))}")
            told = {sign.code for sign in signs}
        end = _over(curves, signs)
        if end:
            echo(end, err=True)
            if not as_json:
                echo(_ahead(ahead, _counted_in(curves)))
            return int(any(sign.severity == "error" for sign in signs))
        time.sleep(every)


def _over(curves: Curves, signs: tuple[Sign, ...]) -> str:
    """Why the run is over, where its recipe tells; empty while it goes on."""
    from quran_asr.runs.signs.outlook import is_over

    if curves.recipe is None:
        return ""
    if is_over(curves):
        trainer = curves.recipe.trainer
        in_steps = 0 < trainer.max_steps <= curves.steps
        planned = (
            f"step {curves.steps:,} of {trainer.max_steps:,}" if in_steps else f"{trainer.max_epochs} epochs"
        )
        return f"the run is over: {planned}"
    ended = [sign.code for sign in signs if sign.code in curves.recipe.quran.stop_on]
    return f"the run is over: its recipe stops it on `{ended[0]}`" if ended else ""


def _progress(curves: Curves) -> str:
    """Where the run stands, in one line."""
    from quran_asr.runs.signs.outlook import planned_end

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
                "no number"
                if value is None
                else f"{value:.3f}"
                if series is curves.validation
                else f"{value:.4g}"
            )
            parts.append(f"{name} {shown}{_unit(curves, key)}")
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


def _paragraph(sign: Sign, unit: str) -> str:
    """A sign as a person reads it."""
    lines = [f"{sign.severity} [{sign.code}] {sign.message}"]
    if sign.severity != "good":
        measured = ", ".join(
            f"{e.series.partition('.')[2]} {_value(e.value)} at {unit} {e.step:,}" for e in sign.evidence
        )
        lines += [f"  seen in: {measured}"] if measured else []
    lines += [f"  cause: {sign.cause}"] if sign.cause else []
    lines += [f"  hint: {sign.remedy}"] if sign.remedy else []
    return "\n".join(lines)


def _ahead(ahead: Outlook, unit: str) -> str:
    if not ahead.expected:
        return f"outlook: {ahead.reason}"
    parts = [
        f"WER {e.wer:.3f} ({e.low:.3f} to {e.high:.3f}) at {unit} {e.step:,} ({e.label})"
        for e in ahead.expected
    ]
    return f"outlook, going on like this, with 90 % intervals: {'; '.join(parts)}"


def _as_json(curves: Curves, signs: tuple[Sign, ...], ahead: Outlook) -> dict[str, Any]:
    from dataclasses import asdict

    return {
        "run": curves.source,
        "steps": curves.steps,
        "epochs": curves.epoch,
        "signs": [asdict(sign) for sign in signs],
        "outlook": {
            "interval": 0.9,
            "expected": [asdict(expected) for expected in ahead.expected],
            "reason": ahead.reason or None,
        },
    }
