"""How a training looks while it runs: a bar on a terminal, a line now and then in a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from quran_asr.cli.printing import echo

if TYPE_CHECKING:
    from quran_asr.train.metrics import Progress, Watcher

LOG_SECONDS = 20.0
"""At most one line in this time where stderr is no terminal; validations are always shown."""


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
        f"{row['audio_hours_per_hour']:,.0f} audio-hours an hour{used}, padding {row['padding_share']:.0%}, "
        f"waiting for data {row['data_wait_share']:.0%}, {row['peak_memory_bytes'] / 1e9:.1f} GB"
    )
    return (
        f"loss {row['loss']:.1f} (transducer {transducer}, CTC {row['ctc_loss']:.1f}, "
        f"{row['ctc_per_token']:.2f} a token)  rate {row['learning_rate']:.1e}  {clock}"
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
        self._said = 0.0

    def show(self, progress: Progress) -> None:
        now = time.monotonic()
        if self._first_step is None:
            self._first_step = progress.step
        row = progress.row
        if row is None:
            return
        if row["split"] == "validation":
            echo(validation_line(row), err=True)
        elif now - self._said >= LOG_SECONDS:
            self._said = now
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
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
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
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("training", total=None, line="")

        def show(progress: Any) -> None:
            row = progress.row
            if row is not None and row["split"] == "validation":
                bar.console.print(validation_line(row), highlight=False)
            if row is not None and row["split"] == "train":
                bar.update(task, line=training_line(row))
            bar.update(task, completed=progress.step, total=progress.total_steps)

        yield show
