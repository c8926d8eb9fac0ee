"""Output of all commands: data on stdout, the rest on stderr; JSON, tables, findings, progress, words."""

from __future__ import annotations

import json
import sys
import time
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Protocol, TextIO

import click

from quran_asr.errors import Finding, printable

if TYPE_CHECKING:
    import rich.progress

    from quran_asr.decoding.partial import StreamingResult
    from quran_asr.records import TimedWord
    from quran_asr.training.metrics import Progress, Watcher


def echo(
    message: object = "", *, err: bool = False, nl: bool = True, label: str = "", colour: str | None = None
) -> None:
    """Print a line on stdout or stderr. Names and words come from anywhere: none of them moves a cursor.

    Everything that a command prints goes through here, or through `printable`. `label` comes before the
    message, in a colour where the terminal has any.
    """
    styled = click.style(printable(label), fg=colour) if label else ""
    with _without_bar(err):
        click.echo(styled + printable(str(message)), err=err, nl=nl)


_bars: list[rich.progress.Progress] = []
"""The progress bars that are on the terminal, the newest last."""


@contextmanager
def _without_bar(err: bool) -> Iterator[None]:
    """Take the bar away while a line is printed on its terminal.

    rich's own way, a stand-in for `sys.stdout`, has no effect here: click writes to the file behind it.
    """
    bar = _bars[-1] if _bars and (err or sys.stdout.isatty()) else None
    if bar is not None:
        bar.stop()
    yield
    if bar is not None:
        bar.start()


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
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
    )
    with _bar_of(columns) as bar:
        task = bar.add_task(title, total=None, rate="")

        def show(done: int, total: int) -> None:
            speed = bar.tasks[0].finished_speed or bar.tasks[0].speed
            rate = f"{speed:.1f} {unit}/s".replace(" /", "/") if speed else ""
            bar.update(task, completed=done, total=total, rate=rate)

        yield show


@contextmanager
def _bar_of(columns: Sequence[Any]) -> Iterator[Any]:
    """A rich bar on stderr that goes when it is done; `echo` prints above it meanwhile."""
    from rich.console import Console
    from rich.progress import Progress

    with Progress(
        *columns,
        console=Console(stderr=True),
        transient=True,
        redirect_stdout=False,
        redirect_stderr=False,
    ) as bar:
        _bars.append(bar)
        try:
            yield bar
        finally:
            _bars.remove(bar)


LOG_SECONDS = 20.0
"""At most one line in this time where stderr is not a terminal; validations are always shown."""


@contextmanager
def training_progress() -> Iterator[Watcher]:
    """A callable for `train`'s `watcher`; writes to stderr."""
    if sys.stderr.isatty():
        yield from _bar()
    else:
        yield _Log().show


def training_line(row: Mapping[str, Any]) -> str:
    """Losses, rate and speed of one line of `metrics.jsonl`."""
    transducer = "-" if row["transducer_loss"] is None else f"{row['transducer_loss']:.1f}"
    used = "" if row.get("utilisation") is None else f", {row['utilisation']:.0%} of the GPU's peak"
    clock = (
        f"{row['audio_hours_per_hour']:,.0f} audio-hours per hour{used}, padding {row['padding_share']:.0%}, "
        f"waiting for data {row['data_wait_share']:.0%}, {row['peak_memory_bytes'] / 1e9:.1f} GB"
    )
    return (
        f"loss {row['loss']:.1f} (transducer {transducer}, CTC {row['ctc_loss']:.1f}, "
        f"{row['ctc_per_token']:.2f} per token)  rate {row['learning_rate']:.1e}  {clock}"
    )


def validation_line(row: Mapping[str, Any]) -> str:
    """Error rates of one validation."""
    return (
        f"validation at step {row['step']}: WER transducer {row['wer']:.3f}, CTC {row['ctc_wer']:.3f}, "
        f"CER {row['cer']:.3f}, on training clips {row['train_wer']:.3f}"
    )


class _Log:
    def __init__(self) -> None:
        self._began = time.monotonic()
        self._first_step: int | None = None
        self._logged_at = 0.0

    def show(self, progress: Progress) -> None:
        now = time.monotonic()
        if self._first_step is None:
            self._first_step = progress.step
        row = progress.row
        if row is None:
            return
        if row["split"] == "validation":
            echo(validation_line(row), err=True)
        elif now - self._logged_at >= LOG_SECONDS:
            self._logged_at = now
            left = _time_left(progress, self._first_step, now - self._began)
            of = "" if progress.total_steps is None else f"/{progress.total_steps}"
            echo(f"step {progress.step}{of}, epoch {progress.epoch}: {training_line(row)}{left}", err=True)


def _time_left(progress: Progress, first_step: int, seconds: float) -> str:
    done = progress.step - first_step
    if progress.total_steps is None or done <= 0:
        return ""
    left = (progress.total_steps - progress.step) * seconds / done
    return f"  {int(left) // 3600}:{int(left) // 60 % 60:02d}:{int(left) % 60:02d} left"


def _bar() -> Iterator[Watcher]:
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("training"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[line]}"),
    )
    with _bar_of(columns) as bar:
        task = bar.add_task("training", total=None, line="")

        def show(progress: Any) -> None:
            row = progress.row
            if row is not None and row["split"] == "validation":
                bar.console.print(validation_line(row), highlight=False)
            if row is not None and row["split"] == "train":
                bar.update(task, line=training_line(row))
            bar.update(task, completed=progress.step, total=progress.total_steps)

        yield show


DIM, PLAIN, REWRITE = "\x1b[2m", "\x1b[0m", "\r\x1b[K"


class View(Protocol):
    """Shows a stream to someone."""

    def show(self, result: StreamingResult, seconds: float) -> None:
        """The result of the audio up to so many seconds."""

    def end(self) -> None:
        """The stream has ended; everything has been shown."""


def word_json(word: TimedWord) -> dict[str, Any]:
    """A word with its times in seconds, as every command prints it."""
    return {
        "text": word.text,
        "start": round(word.start, 3),
        "end": round(word.end, 3),
        "confidence": None if word.confidence is None else round(word.confidence, 4),
    }


class Lines:
    """For files and pipes: one line for each utterance, each word written when it is final."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._begun = False

    def show(self, result: StreamingResult, seconds: float) -> None:
        for words, over in utterances(result):
            for word in words:
                self._out.write(f"{' ' if self._begun else ''}{printable(word.text)}")
                self._begun = True
            if over:
                self.end()
        self._out.flush()

    def end(self) -> None:
        if self._begun:
            self._out.write("\n")
            self._out.flush()
        self._begun = False


class Screen:
    """For a terminal: final words plain, those that may change dim, rewritten in place.

    The order of letters is the terminal's: words are written as they follow each other, from right to left
    where it can. A line that is full is left, so that rewriting never reaches over more than one.
    """

    def __init__(self, out: TextIO, width: int, colour: bool) -> None:
        """`width`: columns of the terminal. Without colour, what may change stands in brackets."""
        self._out = out
        self._width = max(20, width) - 1
        self._dim = (DIM, PLAIN) if colour else ("[", "]")
        self._line: list[str] = []

    def show(self, result: StreamingResult, seconds: float) -> None:
        for words, over in utterances(result):
            for word in words:
                text = printable(word.text)
                if self._line and columns([*self._line, text]) > self._width:
                    self._leave_line()
                self._line.append(text)
            if over:
                self._leave_line()
        before, after = self._dim
        room = self._width - columns(self._line) - 3
        tentative: list[str] = []
        for word in result.partial:
            text = printable(word.text)
            if columns([*tentative, text]) > room:
                break
            tentative.append(text)
        shown = [*self._line, before + " ".join(tentative) + after] if tentative else self._line
        self._out.write(REWRITE + " ".join(shown))
        self._out.flush()

    def end(self) -> None:
        self._leave_line()
        self._out.flush()

    def _leave_line(self) -> None:
        self._out.write(REWRITE + "".join(f"{' '.join(self._line)}\n" if self._line else ""))
        self._line = []


class Json:
    """For programs: one line per change."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._partial: list[str] = []

    def show(self, result: StreamingResult, seconds: float) -> None:
        partial = [word.text for word in result.partial]
        if not result.committed and not result.ends and partial == self._partial:
            return
        self._partial = partial
        line = {
            "time": round(seconds, 3),
            "committed": [word_json(word) for word in result.committed],
            "partial": [word_json(word) for word in result.partial],
            "utterance_ends": list(result.ends),
        }
        self._out.write(printable(json.dumps(line, ensure_ascii=False, allow_nan=False)) + "\n")
        self._out.flush()

    def end(self) -> None:
        pass


def utterances(result: StreamingResult) -> list[tuple[Sequence[TimedWord], bool]]:
    """The committed words by utterance, and whether it is over."""
    parts: list[tuple[Sequence[TimedWord], bool]] = []
    begin = 0
    for end in result.ends:
        parts.append((result.committed[begin:end], True))
        begin = end
    return [*parts, (result.committed[begin:], False)]


def columns(words: Sequence[str]) -> int:
    """Columns that words with a space between them take; marks above and below letters take none."""
    return sum(unicodedata.category(letter) not in ("Mn", "Me", "Cf") for letter in " ".join(words))
