"""`quran-asr compare`: recipes, runs or reports set against each other."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from quran_asr.findings import QuranAsrError

if TYPE_CHECKING:
    from quran_asr.runs.compare import Comparison
    from quran_asr.runs.compare_trials import Conditions, Question, Trial


@click.command(
    epilog="Example: quran-asr compare scratch transfer --train data/train.jsonl "
    "--validation data/validation.jsonl trainer.max_epochs=100 --to comparison"
)
@click.argument("words", nargs=-1, metavar="[RECIPE|RUN|REPORT]... [KEY=VALUE]...")
@click.option("--train", "training", multiple=True, metavar="MANIFEST", help="Trained on by all recipes.")
@click.option("--validation", multiple=True, metavar="MANIFEST", help="What all recipes are validated on.")
@click.option(
    "--seeds",
    type=click.IntRange(1, 31),
    help="Trainings of each recipe, with as many seeds in a row; 3 if not given.",
)
@click.option(
    "--to",
    "folder",
    type=click.Path(path_type=Path),
    metavar="FOLDER",
    help="Where trials and results go. The same folder again goes on, and needs no RECIPE then.",
)
@click.option("--study", metavar="NAME", help="A shipped experiment: pretraining or initialization.")
@click.option("--jobs", type=click.IntRange(min=1), default=1, show_default=True, help="Trials at a time.")
@click.option(
    "--decoder",
    type=click.Choice(["transducer", "ctc"]),
    default="transducer",
    show_default=True,
    help="Whose error rate is compared.",
)
@click.option("--anyway", is_flag=True, help="Compare what is unlike, too.")
@click.option("--allow-partial", is_flag=True, help="As of `train`.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def compare(
    words: tuple[str, ...],
    training: tuple[str, ...],
    validation: tuple[str, ...],
    seeds: int | None,
    folder: Path | None,
    study: str | None,
    jobs: int,
    decoder: str,
    anyway: bool,
    allow_partial: bool,
    as_json: bool,
) -> int:
    """Set recipes, runs or reports against the first of them.

    RECIPES are trained on the same data with the same seeds, each trial a process of its own. A recipe with
    overrides of its own is one word: "scratch quran.initialization=nemo"; other overrides are for all. When
    the command is stopped or killed, the same command goes on: finished trials are read, those under way
    are resumed. The table has the word error rate at 10, 50 and 100 % of the budget, how much sooner each
    comes to the error rate that both reach, and how much lower it ends.
    """
    from quran_asr.runs.compare_arms import split_arms

    named, shared = split_arms(words)
    for key, manifests in (("train_ds", training), ("validation_ds", validation)):
        if manifests:
            shared.append(f"model.{key}.manifest_filepath={json.dumps(manifests)}")
    from quran_asr.cli.printing import progress_bar
    from quran_asr.runs.compare_trials import Conditions

    with progress_bar("trials", "steps") as show:
        conditions = Conditions(jobs, allow_partial, _say, show)
        if study is not None:
            if named or training or validation:
                raise QuranAsrError("a study has recipes and data of its own", remedy="leave the others out")
            question, place = _study(study, shared, seeds, folder, conditions)
        else:
            question, place = _question(named, shared, seeds, folder, anyway)
        trials, failed = _train(question, place, conditions)
    return _tell(question, trials, failed, place, decoder, as_json)


def _study(
    name: str, shared: Sequence[str], seeds: int | None, folder: Path | None, conditions: Conditions
) -> tuple[Question, Path]:
    """A shipped experiment, up to its question."""
    from quran_asr.cli.extras import need
    from quran_asr.cli.printing import progress_bar
    from quran_asr.runs.compare_study import STUDIES, prepare
    from quran_asr.runs.compare_trials import Question, keep_question

    if name not in STUDIES:
        raise QuranAsrError(f"no study `{name}`", where="--study", remedy=f"one of {', '.join(STUDIES)}")
    need("train", "speak")
    place = folder or Path("comparisons") / f"study-{name}"
    question = Question(tuple(prepare(STUDIES[name], place, shared, conditions, progress_bar)), seeds or 3)
    keep_question(place, question)
    return question, place


def _question(
    named: Sequence[Sequence[str]],
    shared: Sequence[str],
    seeds: int | None,
    folder: Path | None,
    anyway: bool,
) -> tuple[Question, Path]:
    """What is asked, and the folder where it is kept."""
    from quran_asr.runs.compare_arms import make_arms
    from quran_asr.runs.compare_trials import Question, keep_question, read_question

    if not named and folder is not None and not shared:
        before = read_question(folder)
        question = Question(before.arms, seeds or before.seeds)
    else:
        question = Question(tuple(make_arms(named, shared, anyway=anyway)), seeds or 3)
    place = folder or Path("comparisons") / "--".join(arm.slug for arm in question.arms)[:120]
    keep_question(place, question)
    return question, place


def _train(question: Question, folder: Path, conditions: Conditions) -> tuple[list[Trial], list[Trial]]:
    """Train what is not trained yet; all trials, and those that failed."""
    from quran_asr.cli.extras import need
    from quran_asr.runs.compare_trials import run_trials, trials_of

    trials = trials_of(folder, question)
    if not all(trial.done for trial in trials):
        need("train")
    return trials, run_trials(folder, trials, conditions)


def _tell(
    question: Question,
    trials: Sequence[Trial],
    failed: Sequence[Trial],
    folder: Path,
    decoder: str,
    as_json: bool,
) -> int:
    from quran_asr.cli.printing import print_findings, print_json
    from quran_asr.files import write_atomically

    comparison, told = _told(question, trials, decoder)
    text = json.dumps(told, ensure_ascii=False, indent=2, allow_nan=False) + "\n"
    write_atomically(folder / f"result-{decoder}.json", text.encode())
    if as_json:
        print_json(told)
    else:
        print_comparison(comparison)
    return print_findings(_failures(failed))


def _told(question: Question, trials: Sequence[Trial], decoder: str) -> tuple[Comparison, dict[str, Any]]:
    """The figures of the trials that were trained to their end."""
    from quran_asr.runs.compare import Side
    from quran_asr.runs.compare import compare as set_against
    from quran_asr.runs.compare_arms import differences
    from quran_asr.runs.events import read_curves

    sides = []
    for arm in question.arms:
        runs = [
            (trial.seed, run) for trial in trials if trial.arm == arm and trial.done and (run := trial.run())
        ]
        if not runs:
            raise QuranAsrError(f"no trial of `{arm.name}` was trained to its end")
        curves = tuple(read_curves(run.path) for _, run in runs)
        sides.append(Side(arm.name, curves, tuple(seed for seed, _ in runs)))
    comparison = set_against(sides, decoder)
    told = comparison.to_json()
    for side, arm in zip(told["sides"], question.arms, strict=True):
        first = question.arms[0].recipe
        side["differs_from_first"] = [str(change) for change in differences(first, arm.recipe)]
    return comparison, {"kind": "recipes", **told}


def print_comparison(comparison: Comparison) -> None:
    """Two tables: the error rates of all sides, and each beside the first."""
    from quran_asr.cli.printing import print_table

    amount = f"{comparison.budget:,.0f} {comparison.unit}s"
    click.echo(f"word error rate of the {comparison.decoder}; 100 % are {amount}")
    rows = [
        (
            result.side.name,
            len(result.side.curves),
            *(_rate(rate.mean, "" if rate.measured else "~") for rate in result.rates),
            _rate(result.best),
        )
        for result in comparison.results
    ]
    print_table(("side", "seeds", "at 10 %", "at 50 %", "at 100 %", "best"), rows)
    click.echo()
    first = comparison.results[0].side.name
    against = [(result.side.name, result.against) for result in comparison.results if result.against]
    rows = [
        (name, *_sooner(one, comparison.unit), _ratio(one.end), _ratio(one.best)) for name, one in against
    ]
    header = (
        f"against {first}",
        "equal WER",
        f"{comparison.unit}s to it",
        "times fewer",
        "WER at the end",
        "best WER",
    )
    print_table(header, rows)


def _sooner(against: Any, unit: str) -> tuple[str, str, str]:
    from statistics import fmean

    ours, theirs = (fmean(reached.place for reached in side) for side in (against.first, against.other))
    digits = 1 if unit == "epoch" else 0
    bound = "about " if against.bound else ""
    return (
        f"{fmean(against.equal_wer):.3f}",
        f"{theirs:,.{digits}f} instead of {ours:,.{digits}f}",
        bound + _between(against.times_fewer, ".2f"),
    )


def _rate(mean: Any, mark: str = "") -> str:
    return "-" if mean is None else mark + _between(mean, ".3f")


def _ratio(mean: Any) -> str:
    """`x 0.62 [0.50, 0.77]`"""
    return "x " + _between(mean, ".2f")


def _between(mean: Any, form: str) -> str:
    low_high = "" if mean.interval is None else f" [{mean.interval[0]:{form}}, {mean.interval[1]:{form}}]"
    return f"{mean.value:{form}}{low_high}"


def _failures(trials: Sequence[Trial]) -> list[Any]:
    from quran_asr.findings import Finding

    return [
        Finding(
            "error",
            "trial-failed",
            trial.name,
            f"{(trial.outcome() or {}).get('said', '')}; it is in no figure",
            f"its log is {trial.log}; the same command tries it again",
        )
        for trial in trials
    ]


def _say(line: str) -> None:
    click.echo(line, err=True)
