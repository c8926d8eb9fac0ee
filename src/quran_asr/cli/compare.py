"""`quran-asr compare`: compare recipes, runs or reports; list all runs of a folder."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any, Literal

import click

from quran_asr.cli.output import echo, print_table
from quran_asr.errors import Finding, QuranAsrError

if TYPE_CHECKING:
    from quran_asr.experiments.comparison.registry import Entry
    from quran_asr.experiments.comparison.reports import Beside, Told
    from quran_asr.experiments.comparison.results import Against, Comparison, Mean, VariantCurves
    from quran_asr.experiments.comparison.trials import Conditions, Question, Trial
    from quran_asr.experiments.plots.html_page import Table
    from quran_asr.experiments.run_folder import RunFolder

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
    from quran_asr.experiments.plots.html_page import Table

    unit = comparison.unit
    rates = Table(
        f"Word error rate, {comparison.decoder}",
        ("variant", "seeds", "at 10 %", "at 50 %", "at 100 %", "best"),
        tuple(
            (
                result.variant.name,
                str(len(result.variant.curves)),
                *(_rate(rate.mean, "" if rate.measured else "~") for rate in result.rates),
                _rate(result.best),
            )
            for result in comparison.results
        ),
        f"100 % are {comparison.budget:,.0f} {unit}s. In brackets 95 % over seeds (Student's t); ~ stands "
        "between two validations.",
    )
    first = comparison.results[0].variant.name
    against = Table(
        f"Against {first}",
        ("variant", "equal WER", f"{unit}s to it", "times fewer", "WER at the end", "best WER"),
        tuple(
            (
                result.variant.name,
                *_sooner(result.against, unit),
                f"x {_between(result.against.end, '.2f')}",
                _best(result.against, besides.get(result.variant.name)),
            )
            for result in comparison.results
            if result.against is not None
        ),
        "Equal WER: the one that both reach, mean over seeds. Error rates as parts of the first side's: "
        "under 1 is better."
        + (" The best WER's interval is over seeds and clips." if besides else "")
        + "".join(
            f" {result.variant.name} and {first}: {result.against.note}; no times are given."
            for result in comparison.results
            if result.against is not None and result.against.note is not None
        ),
    )
    changed = Table(
        f"Differs from {first}",
        ("variant", "key"),
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
    ours, theirs = (fmean(reached.place for reached in variant) for variant in (against.first, against.other))
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
@click.option("--anyway", is_flag=True, help="Compare even if data or settings differ.")
@click.option("--allow-partial", is_flag=True, help="Same as in `train`.")
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
    of `evaluate`, with the transcripts beside them. Incompatible runs are rejected.
    """
    if registry is not None:
        if words or study or training or validation or seeds or folder or allow_partial or anyway:
            raise QuranAsrError("--all lists the runs of a folder", remedy="leave the other words out")
        return _list_all(registry, as_json)
    from quran_asr.experiments.comparison.variants import split_variants

    named, shared = split_variants(words)
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
    from quran_asr.cli.output import progress_bar
    from quran_asr.experiments.comparison.trials import Conditions

    conditions = Conditions(jobs, allow_partial, _say, progress_bar)
    if study is not None:
        question, place = _study(study, named, shared, seeds, folder, anyway, conditions)
    else:
        question, place = _question(named, shared, seeds, folder, anyway)
    trials, failed = _train(question, place, conditions)
    return _tell_trials(question, trials, failed, place, decoder, as_json)


def _kind(named: Sequence[Sequence[str]]) -> Kind:
    """What the words name, all of them the same."""
    from quran_asr.config.recipe import SHIPPED
    from quran_asr.experiments.comparison.reports import find_report

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
    from quran_asr.cli.options import need
    from quran_asr.experiments.comparison.studies import STUDIES, prepare
    from quran_asr.experiments.comparison.trials import INDEX, Question, keep_question
    from quran_asr.files import refuse_foreign

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
    from quran_asr.experiments.comparison.trials import INDEX, Question, keep_question, read_question
    from quran_asr.experiments.comparison.variants import make_variants
    from quran_asr.files import refuse_foreign

    if folder is not None:
        refuse_foreign(folder, (INDEX, "recipes"), "comparison")
    if not named and folder is not None and not shared:
        before = read_question(folder)
        question = Question(before.variants, seeds or before.seeds)
    else:
        question = Question(tuple(make_variants(named, shared, anyway=anyway)), seeds or 3)
    place = folder or Path("comparisons") / "--".join(variant.slug for variant in question.variants)[:120]
    refuse_foreign(place, (INDEX, "recipes"), "comparison")
    keep_question(place, question)
    return question, place


def _train(question: Question, folder: Path, conditions: Conditions) -> tuple[list[Trial], list[Trial]]:
    """Train what is not trained yet; all trials, and those that failed."""
    from quran_asr.cli.options import need
    from quran_asr.experiments.comparison.trials import run_trials, trials_of

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
    from quran_asr.cli.output import print_findings
    from quran_asr.experiments.comparison.results import VariantCurves
    from quran_asr.experiments.comparison.variants import differences
    from quran_asr.experiments.curve_files import read_curves

    variants, runs = [], {}
    for variant in question.variants:
        ended = [
            (t.seed, run) for t in trials if t.variant == variant and t.done and (run := t.run()) is not None
        ]
        if not ended:
            raise QuranAsrError(f"no trial of `{variant.name}` was trained to its end", where=str(folder))
        runs[variant.name] = [run for _, run in ended]
        curves = tuple(read_curves(run.path) for run in runs[variant.name])
        variants.append(VariantCurves(variant.name, curves, tuple(seed for seed, _ in ended)))
    first = question.variants[0].recipe
    differs = {
        variant.name: [str(change) for change in differences(first, variant.recipe)]
        for variant in question.variants
    }
    _tell(variants, runs, differs, decoder, folder, {"kind": "recipes"}, as_json)
    return print_findings(_failures(failed))


def _failures(trials: Sequence[Trial]) -> list[Finding]:
    from quran_asr.experiments.trials import last_error

    return [
        Finding(
            "error",
            "trial-failed",
            trial.name,
            f"{last_error(trial.log)}; it is in no figure",
            f"its log is {trial.log}; the same command tries it again",
        )
        for trial in trials
    ]


# Runs, and what is told of recipes and runs


def _compare_runs(
    words: Sequence[str], folder: Path | None, decoder: str, anyway: bool, as_json: bool
) -> int:
    from quran_asr.experiments.comparison import variants
    from quran_asr.experiments.comparison.trials import INDEX
    from quran_asr.experiments.run_folder import open_run
    from quran_asr.files import refuse_foreign

    if folder is not None:
        refuse_foreign(folder, (INDEX, "result-transducer.json", "result-ctc.json"), "comparison")
    runs = variants.read_runs([open_run(word) for word in words])
    if len(runs) < 2:
        raise QuranAsrError("there is nothing to compare with", remedy="name two runs, or more")
    if not anyway:
        variants.refuse_unlike_runs(runs)
    groups = variants.variants_of(runs)
    first = groups[0][1][0].recipe
    differs = {
        variant.name: [str(change) for change in variants.parting(first, group[0].recipe)]
        for variant, group in groups
    }
    folders = {variant.name: [run.folder for run in group] for variant, group in groups}
    _tell([variant for variant, _ in groups], folders, differs, decoder, folder, {"kind": "runs"}, as_json)
    return 0


def _tell(
    variants: Sequence[VariantCurves],
    runs: Mapping[str, Sequence[RunFolder]],
    differs: Mapping[str, Sequence[str]],
    decoder: str,
    folder: Path | None,
    head: Mapping[str, Any],
    as_json: bool,
) -> None:
    """Print a comparison, and leave its files in the folder if there is one."""
    from importlib.util import find_spec

    from quran_asr.cli.output import print_json
    from quran_asr.experiments.comparison.results import compare as set_against
    from quran_asr.experiments.comparison.variants import best_beside
    from quran_asr.files import write_atomically

    comparison = set_against(variants, decoder)
    besides: dict[str, Beside] = {}
    if decoder == "transducer":  # whose words stand in the transcripts of the best validation
        for variant in variants[1:]:
            beside = best_beside(runs[variants[0].name], runs[variant.name])
            if beside is not None:
                besides[variant.name] = beside
    document = {**head, **comparison.to_json()}
    for variant in document["variants"]:
        variant["differs_from_first"] = list(differs[variant["name"]])
        clips = besides.get(variant["name"])
        variant["best_clips_against_first"] = None if clips is None else clips.to_json()
    tables = tables_of(comparison, besides, differs)
    if folder is not None:
        text = json.dumps(document, ensure_ascii=False, indent=2, allow_nan=False) + "\n"
        write_atomically(folder / f"result-{decoder}.json", text.encode())
        if find_spec("matplotlib") is not None:
            from quran_asr.experiments.comparison.plot import draw_comparison

            _say(f"picture and page: {', '.join(map(str, draw_comparison(comparison, folder, tables)))}")
        else:
            _say("no picture: it needs matplotlib, pip install 'quran-asr[plot]'")
    if as_json:
        print_json(document)
    else:
        print_tables(tables)


# Reports, and all runs


def _compare_reports(words: Sequence[str], anyway: bool, as_json: bool) -> int:
    from quran_asr.cli.output import print_findings, print_json
    from quran_asr.experiments.comparison import reports as compare_reports

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
    from quran_asr.cli.output import findings_as_json, print_findings, print_json
    from quran_asr.experiments.comparison.registry import read_registry

    entries, findings = read_registry(folder)
    if as_json:
        print_json({"runs": [entry.to_json() for entry in entries], "findings": findings_as_json(findings)})
    else:
        print_registry(entries)
    return print_findings(findings)


def _say(line: str) -> None:
    echo(line, err=True)
