"""`quran-asr sweep`: hyperparameter search."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from quran_asr.cli.options import need
from quran_asr.cli.output import echo

if TYPE_CHECKING:
    from quran_asr.experiments.sweep.results import Result, Row
    from quran_asr.experiments.sweep.search import OnTrial, OnWait, Sweep
    from quran_asr.experiments.sweep.space import Value

DEFAULT_TRIALS = 20
REPORT_SECONDS = 60.0
"""Seconds between lines on the progress of a trial."""


@click.command(
    epilog="Example: quran-asr sweep compact model.aux_ctc.ctc_loss_weight=0.2,0.3,0.4,0.5 "
    "trainer.max_steps=4000 --train data/train.jsonl --validation data/validation.jsonl"
)
@click.argument("words", nargs=-1, metavar="[RECIPE] KEY=V1,V2,... [KEY=LOW..HIGH]... [KEY=VALUE]...")
@click.option(
    "--train",
    "training",
    multiple=True,
    type=click.Path(),
    metavar="MANIFEST",
    help="Training manifest. May be repeated.",
)
@click.option(
    "--validation",
    multiple=True,
    type=click.Path(),
    metavar="MANIFEST",
    help="Validation manifest; its WER ranks the trials. May be repeated.",
)
@click.option(
    "--trials",
    type=click.IntRange(min=1),
    default=DEFAULT_TRIALS,
    show_default=True,
    metavar="N",
    help="Number of trials. Up to this many combinations of listed values are all tried; more, and ranges, "
    "are sampled.",
)
@click.option(
    "--to",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="FOLDER",
    help="Folder for trials and results. Default: sweeps/RECIPE. The same command continues there.",
)
@click.option(
    "--seed", type=click.IntRange(min=0), default=0, show_default=True, metavar="N", help="Sampling seed."
)
@click.option("--no-prune", is_flag=True, help="Train every trial to its end, however it compares.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def sweep(
    words: tuple[str, ...],
    training: tuple[str, ...],
    validation: tuple[str, ...],
    trials: int,
    to: Path | None,
    seed: int,
    no_prune: bool,
    as_json: bool,
) -> int:
    """Search hyperparameters: train RECIPE with different values of some keys, and rank the trials by WER.

    KEY=V1,V2,V3 lists values, KEY=LOW..HIGH is a range (KEY=LOW..HIGH:log a logarithmic one), and KEY=VALUE
    applies to all trials. Commas in brackets belong to one value: quran.augment.speed=[1.0],[0.9,1.1] lists
    two lists; quote a string with a comma. Each trial is a training of its own with the same seed. A trial
    worse than the median of the others at the same step is stopped. After Ctrl-C the same command continues.

    The guide's experiments:

    \b
      quran-asr sweep transfer model.aux_ctc.ctc_loss_weight=0.2,0.3,0.4,0.5 --train T --validation V
      quran-asr sweep transfer model.spec_augment.time_masks=2,5,10 model.spec_augment.freq_masks=1,2
        --train T --validation V
    """
    from quran_asr.cli.output import print_finding, print_json
    from quran_asr.experiments.sweep.results import result_of, write_result
    from quran_asr.experiments.sweep.search import run_sweep

    asked = _asked(words, training, validation, trials, seed, not no_prune)
    folder = to or Path("sweeps") / Path(asked.recipe).stem
    _announce(asked, folder)
    with _shown(folder) as (on_trial, on_wait):
        try:
            run_sweep(asked, folder, on_trial, print_finding, on_wait)
        except KeyboardInterrupt:
            echo(f"stopped; the same command continues in {folder}", err=True)
            raise
    result = result_of(asked, folder)
    write_result(result, asked, folder)
    if as_json:
        print_json(result.to_json(asked, folder))
    else:
        print_result(result)
    return 0 if result.best is not None else 1


def _asked(
    words: tuple[str, ...],
    training: tuple[str, ...],
    validation: tuple[str, ...],
    trials: int,
    seed: int,
    prune: bool,
) -> Sweep:
    """The sweep, after everything that can be checked beforehand."""
    import json

    from quran_asr.cli.training_setup import describe_data, select_clips
    from quran_asr.config.overrides import split_words
    from quran_asr.config.recipe import SHIPPED, find, load_recipe
    from quran_asr.experiments.planning.plan import plan
    from quran_asr.experiments.planning.workload import weigh_manifests
    from quran_asr.experiments.sweep.search import Sweep
    from quran_asr.experiments.sweep.space import read_space, refuse_impossible

    name, overrides = split_words(words, default="transfer")
    find(name)
    fixed, axes = read_space(overrides)
    recipe_name = name if name in SHIPPED else str(Path(name).absolute())
    for key, manifests in (("train_ds", training), ("validation_ds", validation)):
        if manifests:
            whole = json.dumps([str(Path(manifest).absolute()) for manifest in manifests])
            fixed = (*fixed, f"model.{key}.manifest_filepath={whole}")
    refuse_impossible(name, fixed, axes)
    need("train", "sweep")
    recipe = load_recipe(name, fixed)
    echo(describe_data(recipe, *select_clips(recipe)), err=True)
    work = weigh_manifests(recipe.model.train_ds.manifests, recipe)
    return Sweep(recipe_name, fixed, axes, trials, seed, prune, plan(recipe, work).optimizer_steps)


def _announce(asked: Sweep, folder: Path) -> None:
    from quran_asr.cli.output import print_finding
    from quran_asr.config.recipe import load_recipe
    from quran_asr.errors import Finding, counted

    how = "every combination" if asked.is_grid else "sampled"
    steps = "" if asked.steps is None else f" of {asked.steps:,} steps"
    echo(f"{counted(asked.number, 'trial')}{steps}, {how}, in {folder}", err=True)
    if asked.prune and load_recipe(asked.recipe, asked.overrides).trainer.check_val_every_n_epoch == "auto":
        print_finding(
            Finding(
                "note",
                "unlike-validations",
                "trainer.check_val_every_n_epoch",
                "auto validates by the clock: trials are measured at different steps, and few are pruned",
                "trainer.check_val_every_n_epoch=1",
            )
        )


@contextmanager
def _shown(folder: Path) -> Iterator[tuple[OnTrial, OnWait]]:
    """Lines on each trial, where its log is and its latest line now and then; a bar on a terminal.

    Validations have lines of their own where there is no terminal.
    """
    from quran_asr.cli.output import progress_bar
    from quran_asr.experiments.sweep.search import log_of
    from quran_asr.experiments.trials import last_line

    terminal = sys.stderr.isatty()
    reported_at, reported = time.monotonic(), ""
    with progress_bar("trials", "trials") as bar:

        def show(done: int, trials: int, number: int, values: Mapping[str, Value], wer: float | None) -> None:
            nonlocal reported_at
            bar(done, trials)
            if wer is None or not terminal:
                reported_at = time.monotonic()
                log = log_of(folder, number)
                message = f"started, log {log}" if wer is None else f"validation WER {wer:.4f}"
                echo(f"trial {number} ({done} of {trials} done): {_as_words(values)}: {message}", err=True)

        def wait(number: int) -> None:
            nonlocal reported_at, reported
            if time.monotonic() - reported_at < REPORT_SECONDS:
                return
            reported_at = time.monotonic()
            line = last_line(log_of(folder, number))
            if line and line != reported:
                reported = line
                echo(f"trial {number}: {line}", err=True)

        yield show, wait


def _as_words(values: Mapping[str, Value]) -> str:
    return " ".join(f"{key.rpartition('.')[2]}={_short(value)}" for key, value in values.items())


def _short(value: Value) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def print_result(result: Result) -> None:
    """The table of trials, what mattered, and the file of the best recipe."""
    from quran_asr.cli.output import print_table

    if not result.rows:
        echo("there was no trial", err=True)
        return
    keys = list(result.rows[0].values)
    header = ("trial", *_names(keys), "WER %", "95 %", "minus best", "95 %", "steps", "minutes", "")
    print_table(header, [_line(row, keys) for row in result.rows])
    echo(f"intervals: {result.interval_method}; differences by a paired bootstrap over the same clips")
    echo("importance of the keys: " + _importance(result))
    if result.best_recipe is not None:
        echo(f"best recipe: {result.best_recipe}")
    else:
        echo("no trial has finished: there is no best recipe")


def _names(keys: list[str]) -> list[str]:
    """The last part of each key, the whole key where that is not enough."""
    last = [key.rpartition(".")[2] for key in keys]
    return [name if last.count(name) == 1 else key for name, key in zip(last, keys, strict=True)]


def _line(row: Row, keys: list[str]) -> tuple[str, ...]:
    def percent(rate: float | None, form: str) -> str:
        return "-" if rate is None else format(100 * rate, form)

    def spread(interval: tuple[float, float] | None, form: str) -> str:
        return "-" if interval is None else " to ".join(format(100 * bound, form) for bound in interval)

    return (
        str(row.number),
        *(_short(row.values[key]) for key in keys),
        percent(row.wer, ".2f"),
        spread(row.interval, ".2f"),
        percent(row.minus_best, "+.2f"),
        spread(row.minus_best_interval, "+.2f"),
        "-" if row.steps is None else f"{row.steps:,}",
        "-" if row.seconds is None else f"{row.seconds / 60:.1f}",
        f"{'' if row.state == 'finished' else row.state} {row.note}".strip(),
    )


def _importance(result: Result) -> str:
    if result.importance is None:
        return result.importance_note
    shares = ", ".join(f"{key} {share:.0%}" for key, share in result.importance.items())
    return f"{shares} ({result.importance_note})"
