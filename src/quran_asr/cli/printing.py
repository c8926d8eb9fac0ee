"""How every command prints: data on stdout, everything else on stderr; JSON, tables, findings, progress."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

import click

from quran_asr.findings import Finding, printable


def echo(message: object = "", *, err: bool = False, nl: bool = True) -> None:
    """Print a line on stdout or stderr. Names and words come from anywhere: none of them moves a cursor.

    Everything that a command prints goes through here, or through `printable`.
    """
    click.echo(printable(str(message)), err=err, nl=nl)


def print_error(error: object) -> None:
    """The one line with which a command fails, and its hint, on stderr."""
    echo(f"error: {error}", err=True)


def print_json(value: Any) -> None:
    """One JSON document on stdout; NaN and infinities are refused, Arabic stays Arabic."""
    echo(json.dumps(value, ensure_ascii=False, indent=2, allow_nan=False))


def print_table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Aligned columns on stdout; numbers to the right."""
    cells = [[printable(str(cell)).replace("\n", "\\n") for cell in row] for row in rows]
    widths = [max(len(line[i]) for line in [list(header), *cells]) for i in range(len(header))]
    numeric = [
        bool(rows) and all(isinstance(row[i], int | float) for row in rows) for i in range(len(header))
    ]
    for line in [list(header), *cells]:
        padded = [
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(line, widths, numeric, strict=True)
        ]
        echo("  ".join(padded).rstrip())


def print_finding(finding: Finding) -> None:
    """One finding on stderr: what is so, and what to do."""
    where = f" {finding.where}:" if finding.where else ""
    echo(f"{finding.severity} [{finding.code}]{where} {finding.message}", err=True)
    if finding.remedy:
        echo(f"  hint: {finding.remedy}", err=True)


def print_findings(findings: Sequence[Finding]) -> int:
    """Findings on stderr, and the exit code that follows from them: 1 if one is an error, else 0."""
    for finding in findings:
        print_finding(finding)
    return int(any(finding.severity == "error" for finding in findings))


def findings_as_json(findings: Sequence[Finding]) -> list[dict[str, str]]:
    return [asdict(finding) for finding in findings]


OnProgress = Callable[[int, int], None]
"""Called with (done, total) by every function that can take more than two seconds."""


@contextmanager
def progress_bar(title: str, unit: str = "") -> Iterator[OnProgress]:
    """A bar with rate and time left on stderr when that is a terminal; silent otherwise."""
    if not sys.stderr.isatty():
        yield lambda done, total: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(title, total=None, rate="")

        def show(done: int, total: int) -> None:
            speed = bar.tasks[0].finished_speed or bar.tasks[0].speed
            rate = f"{speed:.1f} {unit}/s".replace(" /", "/") if speed else ""
            bar.update(task, completed=done, total=total, rate=rate)

        yield show
