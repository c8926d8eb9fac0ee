"""`quran-asr compare`: recipes, runs or reports set against each other; all runs of a folder in a table."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from quran_asr.cli.printing import echo
from quran_asr.findings import Finding, QuranAsrError

if TYPE_CHECKING:
    from quran_asr.runs.comparison.compare import Side
    from quran_asr.runs.comparison.compare_clips import Beside
    from quran_asr.runs.comparison.compare_trials import Conditions, Question, Trial
    from quran_asr.runs.folder import RunFolder

Kind = Literal["recipe", "run", "report"]


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
    help="Trainings of each recipe, with as many seeds in a row; 3 if not given (--study augmentation: 2).",
)
@click.option(
    "--to",
    "folder",
    type=click.Path(path_type=Path),
    metavar="FOLDER",
    help="Where trials and results go. The same folder again goes on, and needs no RECIPE then.",
)
@click.option(
    "--study",
    metavar="NAME",
    help="A shipped experiment: pretraining, initialization or augmentation.",
)
@click.option("--jobs", type=click.IntRange(min=1), default=1, show_default=True, help="Trials at a time.")
@click.option(
    "--decoder",
    type=click.Choice(["transducer", "ctc"]),
    default="transducer",
    show_default=True,
    help="Whose error rate is compared.",
)
@click.option(
    "--all",
    "registry",
    type=click.Path(path_type=Path),
    metavar="FOLDER",
    help="A table of all runs below this folder instead.",
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
    registry: Path | None,
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

    RUNS are run folders; those whose recipes differ in the seed alone are taken together. REPORTS are those
    of `evaluate`, with the transcripts beside them. What is unlike is refused.
    """
    if registry is not None:
        if words or study or training or validation or seeds or folder or allow_partial or anyway:
            raise QuranAsrError("--all lists the runs of a folder", remedy="leave the other words out")
        return _list_all(registry, as_json)
    from quran_asr.runs.comparison.compare_arms import split_arms

    named, shared = split_arms(words)
    kind = _kind(named)
    if kind != "recipe" and (shared or training or validation or seeds or study):
        raise QuranAsrError(
            f"{kind}s are compared as they are", remedy="leave out overrides, --train, --seeds and the like"
        )
    if kind == "report":
        if folder is not None:
            raise QuranAsrError("reports leave no files", where="--to", remedy="leave it out")
        return _compare_reports([one[0] for one in named], anyway, as_json)
    if kind == "run":
        return _compare_runs([one[0] for one in named], folder, decoder, anyway, as_json)
    for key, manifests in (("train_ds", training), ("validation_ds", validation)):
        if manifests:
            shared.append(f"model.{key}.manifest_filepath={json.dumps(manifests)}")
    from quran_asr.cli.printing import progress_bar
    from quran_asr.runs.comparison.compare_trials import Conditions

    conditions = Conditions(jobs, allow_partial, _say, progress_bar)
    if study is not None:
        question, place = _study(study, named, shared, seeds, folder, anyway, conditions)
    else:
        question, place = _question(named, shared, seeds, folder, anyway)
    trials, failed = _train(question, place, conditions)
    return _tell_trials(question, trials, failed, place, decoder, as_json)


def _kind(named: Sequence[Sequence[str]]) -> Kind:
    """What the words name, all of them the same."""
    from quran_asr.runs.comparison.compare_reports import find_report
    from quran_asr.runs.recipe import SHIPPED

    def kind_of(word: str) -> Kind:
        place = Path(word)
        if word in SHIPPED:
            return "recipe"
        if word == "last" or (place / "recipe.yaml").is_file() or (place / "metrics.jsonl").is_file():
            return "run"
        if find_report(word) is not None:
            return "report"
        if place.is_dir():
            raise QuranAsrError(
                "is neither a run nor holds a report",
                where=word,
                remedy=f"a comparison goes on with `quran-asr compare --to {word}`; all runs below a folder "
                f"are listed by `quran-asr compare --all {word}`",
            )
        return "recipe"

    kinds = [(words[0], kind_of(words[0])) for words in named]
    for word, kind in kinds:
        if kind != kinds[0][1]:
            raise QuranAsrError(
                f"`{kinds[0][0]}` is a {kinds[0][1]} and `{word}` a {kind}: they cannot be compared"
            )
    return kinds[0][1] if kinds else "recipe"


# Recipes

_MANIFESTS = ("model.train_ds.manifest_filepath=", "model.validation_ds.manifest_filepath=")


def _study(
    name: str,
    named: Sequence[Sequence[str]],
    shared: Sequence[str],
    seeds: int | None,
    folder: Path | None,
    anyway: bool,
    conditions: Conditions,
) -> tuple[Question, Path]:
    """A shipped experiment, up to its question."""
    from quran_asr.cli.extras import need
    from quran_asr.files import refuse_foreign
    from quran_asr.runs.comparison.compare_study import STUDIES, prepare
    from quran_asr.runs.comparison.compare_trials import INDEX, Question, keep_question

    if name not in STUDIES:
        raise QuranAsrError(f"no study `{name}`", where="--study", remedy=f"one of {', '.join(STUDIES)}")
    given = [word for word in shared if word.startswith(_MANIFESTS)]
    asked = STUDIES[name]
    if named or (asked.parts and given) or anyway:
        raise QuranAsrError("a study has recipes and data of its own", remedy="leave the others out")
    if not asked.parts and len(given) < len(_MANIFESTS):
        raise QuranAsrError(
            f"the study `{name}` asks about recordings of yours",
            remedy="give manifests with --train (some reciters) and --validation (others)",
        )
    need("train", *(["speak"] if asked.parts else []))
    place = folder or Path("comparisons") / f"study-{name}"
    refuse_foreign(place, (INDEX, "corpus"), "comparison")
    question = Question(tuple(prepare(asked, place, shared, conditions)), seeds or asked.seeds)
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
    from quran_asr.files import refuse_foreign
    from quran_asr.runs.comparison.compare_arms import make_arms
    from quran_asr.runs.comparison.compare_trials import INDEX, Question, keep_question, read_question

    if folder is not None:
        refuse_foreign(folder, (INDEX, "recipes"), "comparison")
    if not named and folder is not None and not shared:
        before = read_question(folder)
        question = Question(before.arms, seeds or before.seeds)
    else:
        question = Question(tuple(make_arms(named, shared, anyway=anyway)), seeds or 3)
    place = folder or Path("comparisons") / "--".join(arm.slug for arm in question.arms)[:120]
    refuse_foreign(place, (INDEX, "recipes"), "comparison")
    keep_question(place, question)
    return question, place


def _train(question: Question, folder: Path, conditions: Conditions) -> tuple[list[Trial], list[Trial]]:
    """Train what is not trained yet; all trials, and those that failed."""
    from quran_asr.cli.extras import need
    from quran_asr.runs.comparison.compare_trials import run_trials, trials_of

    trials = trials_of(folder, question)
    if not all(trial.done for trial in trials):
        need("train")
    return trials, run_trials(folder, trials, conditions)


def _tell_trials(
    question: Question,
    trials: Sequence[Trial],
    failed: Sequence[Trial],
    folder: Path,
    decoder: str,
    as_json: bool,
) -> int:
    """The figures of the trials that were trained to their end."""
    from quran_asr.cli.printing import print_findings
    from quran_asr.runs.comparison.compare import Side
    from quran_asr.runs.comparison.compare_arms import differences
    from quran_asr.runs.events import read_curves

    sides, runs = [], {}
    for arm in question.arms:
        ended = [(t.seed, run) for t in trials if t.arm == arm and t.done and (run := t.run()) is not None]
        if not ended:
            raise QuranAsrError(f"no trial of `{arm.name}` was trained to its end", where=str(folder))
        runs[arm.name] = [run for _, run in ended]
        curves = tuple(read_curves(run.path) for run in runs[arm.name])
        sides.append(Side(arm.name, curves, tuple(seed for seed, _ in ended)))
    first = question.arms[0].recipe
    differs = {arm.name: [str(change) for change in differences(first, arm.recipe)] for arm in question.arms}
    _tell(sides, runs, differs, decoder, folder, {"kind": "recipes"}, as_json)
    return print_findings(_failures(failed))


def _failures(trials: Sequence[Trial]) -> list[Finding]:
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


# Runs, and what is told of recipes and runs


def _compare_runs(
    words: Sequence[str], folder: Path | None, decoder: str, anyway: bool, as_json: bool
) -> int:
    from quran_asr.files import refuse_foreign
    from quran_asr.runs.comparison import compare_runs
    from quran_asr.runs.comparison.compare_trials import INDEX
    from quran_asr.runs.folder import open_run

    if folder is not None:
        refuse_foreign(folder, (INDEX, "result-transducer.json", "result-ctc.json"), "comparison")
    runs = compare_runs.read_runs([open_run(word) for word in words])
    if len(runs) < 2:
        raise QuranAsrError("there is nothing to compare with", remedy="name two runs, or more")
    if not anyway:
        compare_runs.refuse_unlike(runs)
    groups = compare_runs.sides_of(runs)
    first = groups[0][1][0].recipe
    differs = {
        side.name: [str(change) for change in compare_runs.parting(first, group[0].recipe)]
        for side, group in groups
    }
    folders = {side.name: [run.folder for run in group] for side, group in groups}
    _tell([side for side, _ in groups], folders, differs, decoder, folder, {"kind": "runs"}, as_json)
    return 0


def _tell(
    sides: Sequence[Side],
    runs: Mapping[str, Sequence[RunFolder]],
    differs: Mapping[str, Sequence[str]],
    decoder: str,
    folder: Path | None,
    head: Mapping[str, Any],
    as_json: bool,
) -> None:
    """Print a comparison, and leave its files in the folder if there is one."""
    from importlib.util import find_spec

    from quran_asr.cli.compare_told import print_tables, tables_of
    from quran_asr.cli.printing import print_json
    from quran_asr.files import write_atomically
    from quran_asr.runs.comparison.compare import compare as set_against
    from quran_asr.runs.comparison.compare_runs import best_beside

    comparison = set_against(sides, decoder)
    besides: dict[str, Beside] = {}
    if decoder == "transducer":  # whose words stand in the transcripts of the best validation
        for side in sides[1:]:
            beside = best_beside(runs[sides[0].name], runs[side.name])
            if beside is not None:
                besides[side.name] = beside
    told = {**head, **comparison.to_json()}
    for side in told["sides"]:
        side["differs_from_first"] = list(differs[side["name"]])
        clips = besides.get(side["name"])
        side["best_clips_against_first"] = None if clips is None else clips.to_json()
    tables = tables_of(comparison, besides, differs)
    if folder is not None:
        text = json.dumps(told, ensure_ascii=False, indent=2, allow_nan=False) + "\n"
        write_atomically(folder / f"result-{decoder}.json", text.encode())
        if find_spec("matplotlib") is not None:
            from quran_asr.runs.comparison.compare_plot import draw_comparison

            _say(f"picture and page: {', '.join(map(str, draw_comparison(comparison, folder, tables)))}")
        else:
            _say("no picture: it needs matplotlib, pip install 'quran-asr[plot]'")
    if as_json:
        print_json(told)
    else:
        print_tables(tables)


# Reports, and all runs


def _compare_reports(words: Sequence[str], anyway: bool, as_json: bool) -> int:
    from quran_asr.cli.compare_told import print_reports
    from quran_asr.cli.printing import print_findings, print_json
    from quran_asr.runs.comparison import compare_reports

    found = [compare_reports.find_report(word) for word in words]
    reports = [compare_reports.read_report(path) for path in found if path is not None]
    if len(reports) < 2:
        raise QuranAsrError("there is nothing to compare with", remedy="name two reports, or more")
    notes = compare_reports.refuse_unlike(reports, anyway=anyway)
    besides = compare_reports.beside_first(reports)
    if as_json:
        print_json(compare_reports.as_json(reports, besides))
    else:
        print_reports(reports, besides)
    return print_findings(notes)


def _list_all(folder: Path, as_json: bool) -> int:
    from quran_asr.cli.compare_told import print_registry
    from quran_asr.cli.printing import findings_as_json, print_findings, print_json
    from quran_asr.runs.comparison.registry import read_registry

    entries, findings = read_registry(folder)
    if as_json:
        print_json({"runs": [entry.to_json() for entry in entries], "findings": findings_as_json(findings)})
    else:
        print_registry(entries)
    return print_findings(findings)


def _say(line: str) -> None:
    echo(line, err=True)
