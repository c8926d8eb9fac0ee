"""How `quran-asr compare` says what it found: tables for the screen and for the page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import TYPE_CHECKING

from quran_asr.cli.printing import echo, print_table

if TYPE_CHECKING:
    from quran_asr.runs.comparison.compare import Against, Comparison, Mean
    from quran_asr.runs.comparison.compare_clips import Beside
    from quran_asr.runs.comparison.compare_reports import Told
    from quran_asr.runs.comparison.registry import Entry
    from quran_asr.runs.plots.page import Table

SHOWN_CHANGES = 3
"""Of a run in the table of all runs; --json has them all."""


def tables_of(
    comparison: Comparison, besides: Mapping[str, Beside], differs: Mapping[str, Sequence[str]]
) -> list[Table]:
    """The error rates of all sides, each beside the first, and in which keys they differ.

    Args:
        comparison: of recipes or of runs.
        besides: by name of the side, its best validations beside the first's, clip by clip.
        differs: by name of the side, the changes against the first.
    """
    from quran_asr.runs.plots.page import Table

    unit = comparison.unit
    rates = Table(
        f"Word error rate, {comparison.decoder}",
        ("side", "seeds", "at 10 %", "at 50 %", "at 100 %", "best"),
        tuple(
            (
                result.side.name,
                str(len(result.side.curves)),
                *(_rate(rate.mean, "" if rate.measured else "~") for rate in result.rates),
                _rate(result.best),
            )
            for result in comparison.results
        ),
        f"100 % are {comparison.budget:,.0f} {unit}s. In brackets 95 % over seeds (Student's t); ~ stands "
        "between two validations.",
    )
    first = comparison.results[0].side.name
    against = Table(
        f"Against {first}",
        ("side", "equal WER", f"{unit}s to it", "times fewer", "WER at the end", "best WER"),
        tuple(
            (
                result.side.name,
                *_sooner(result.against, unit),
                f"x {_between(result.against.end, '.2f')}",
                _best(result.against, besides.get(result.side.name)),
            )
            for result in comparison.results
            if result.against is not None
        ),
        "Equal WER: the one that both reach, mean over seeds. Error rates as parts of the first side's: "
        "under 1 is better."
        + (" The best WER's interval is over seeds and clips." if besides else "")
        + "".join(
            f" {result.side.name} and {first}: {result.against.note}; no times are given."
            for result in comparison.results
            if result.against is not None and result.against.note is not None
        ),
    )
    changed = Table(
        f"Differs from {first}",
        ("side", "key"),
        tuple((name, change) for name, changes in differs.items() for change in changes),
    )
    return [rates, against, *([changed] if changed.rows else [])]


def print_tables(tables: Sequence[Table]) -> None:
    """All of them on stdout, an empty line between; what they mean on stderr."""
    for number, table in enumerate(tables):
        if number:
            echo()
        echo(table.title)
        print_table(table.header, table.rows)
        if table.note:
            echo(table.note, err=True)


def print_reports(reports: Sequence[Told], besides: Sequence[Beside | None]) -> None:
    """A line for each report, and each later one beside the first."""
    rows = []
    for told, beside in zip(reports, [None, *besides], strict=True):
        values = told.values
        line = [
            told.place,
            str(values.get("clips")),
            _interval(values.get("wer"), values.get("wer_interval")),
        ]
        line.append(_interval(values.get("cer"), values.get("cer_interval")))
        if beside is None:
            line += ["", "", ""]
        else:
            found = beside.difference
            line.append(_interval(found.difference, found.difference_interval, "+.4f"))
            line.append("x " + _interval(found.ratio, found.ratio_interval, ".2f"))
            line.append(f"{beside.clips} of {max(beside.of_clips)}")
        rows.append(line)
    header = ("report", "clips", "WER", "CER", "against the first", "as a part of it", "clips of both")
    print_table(header, rows)
    if any(besides):
        echo("95 %; differences by a paired bootstrap over the clips of both", err=True)
    if not all(besides):
        echo(
            "transcripts.jsonl is not beside every report: those are not set beside the first clip by clip",
            err=True,
        )


def print_registry(entries: Sequence[Entry]) -> None:
    """A line for each run; what it changed against the earlier run that is nearest."""
    numbers = {entry.path: str(number) for number, entry in enumerate(entries, start=1)}
    rows = []
    for entry in entries:
        shown = "; ".join(entry.changes[:SHOWN_CHANGES])
        more = len(entry.changes) - SHOWN_CHANGES
        rows.append(
            (
                int(numbers[entry.path]),
                entry.name,
                f"{', '.join(entry.data) or '-'}" + ("" if entry.hours is None else f", {entry.hours:.2f} h"),
                entry.steps,
                "-" if entry.best_wer is None else f"{entry.best_wer:.4f}",
                entry.version or "-",
                numbers.get(entry.against, entry.against),
                (shown or "nothing") + (f"; and {more} more" if more > 0 else ""),
            )
        )
    print_table(("run", "name", "data", "steps", "best WER", "version", "against", "changes"), rows)


def _sooner(against: Against, unit: str) -> tuple[str, str, str]:
    if against.note is not None:
        return f"{fmean(against.equal_wer):.3f}", "-", "-"
    ours, theirs = (fmean(reached.place for reached in side) for side in (against.first, against.other))
    digits = 1 if unit == "epoch" else 0
    return (
        f"{fmean(against.equal_wer):.3f}",
        f"{theirs:,.{digits}f} instead of {ours:,.{digits}f}",
        ("about " if against.bound else "") + _between(against.times_fewer, ".2f"),
    )


def _best(against: Against, beside: Beside | None) -> str:
    if beside is None or beside.difference.ratio is None:
        return f"x {_between(against.best, '.2f')}"
    return "x " + _interval(beside.difference.ratio, beside.difference.ratio_interval, ".2f")


def _rate(mean: Mean | None, mark: str = "") -> str:
    return "-" if mean is None else mark + _between(mean, ".3f")


def _between(mean: Mean, form: str) -> str:
    return _interval(mean.value, mean.interval, form)


def _interval(value: object, interval: object, form: str = ".4f") -> str:
    """`0.1234 [0.1000, 0.1500]`; what stands in a report is not trusted to be numbers."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return "-"
    bounds = interval if isinstance(interval, list | tuple) and len(interval) == 2 else ()
    if not bounds or not all(isinstance(bound, int | float) for bound in bounds):
        return f"{value:{form}}"
    low, high = (f"{bound:{form}}" if abs(bound) < 1000 else f"{bound:.0e}" for bound in bounds)
    return f"{value:{form}} [{low}, {high}]"
