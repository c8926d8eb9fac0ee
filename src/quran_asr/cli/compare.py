"""`quran-asr compare`: compare recipes, runs or reports; list the runs of a folder."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

import click

from quran_asr.cli.output import echo, print_table
from quran_asr.errors import Finding, QuranAsrError

if TYPE_CHECKING:
    from quran_asr.experiments.comparison.registry import Entry
    from quran_asr.experiments.comparison.reports import NamedReport, PairedErrors
    from quran_asr.experiments.comparison.results import AgainstFirst, Comparison, Mean, VariantCurves
    from quran_asr.experiments.comparison.trials import Conditions, Question, Trial
    from quran_asr.experiments.plots.html_page import Table
    from quran_asr.experiments.run_folder import RunFolder

SHOWN_CHANGES = 3
"""Changes of a run in the table of all runs; --json has them all."""


_decoder = click.option(
    "--decoder",
    type=click.Choice(["transducer", "ctc"]),
    default="transducer",
    show_default=True,
    help="Decoder whose error rates are compared.",
)
_anyway = click.option("--anyway", is_flag=True, help="Compare even if data or settings differ.")
_as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@click.group(epilog="Example: quran-asr compare runs nemo_experiments/small/* --to comparison")
def compare() -> None:
    """Compare recipes, runs or reports with the first of them; list the runs of a folder."""


# Recipes


@compare.command(
    short_help="Train recipes on the same data and seeds, and compare them.",
    epilog="Example: quran-asr compare recipes scratch transfer --train data/train.jsonl "
    "--validation data/validation.jsonl trainer.max_epochs=100 --to comparison",
)
@click.argument("words", nargs=-1, metavar="[RECIPE]... [KEY=VALUE]...")
@click.option(
    "--train", "training", multiple=True, metavar="MANIFEST", help="Training manifest of all recipes."
)
@click.option("--validation", multiple=True, metavar="MANIFEST", help="Validation manifest of all recipes.")
@click.option(
    "--seeds",
    type=click.IntRange(1, 31),
    metavar="N",
    help="Number of trainings of each recipe, with consecutive seeds. Default: 3 (--study augmentation and "
    "voices: 2).",
)
@click.option(
    "--to",
    "folder",
    type=click.Path(path_type=Path),
    metavar="FOLDER",
    help="Folder for trials and results. An interrupted comparison in it is continued; RECIPE may then be "
    "left out.",
)
@click.option(
    "--study",
    metavar="NAME",
    help="A shipped experiment: pretraining, initialization, augmentation or voices.",
)
@click.option(
    "--jobs",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    metavar="N",
    help="Trials that run in parallel.",
)
@_decoder
@_anyway
@click.option(
    "--allow-partial",
    is_flag=True,
    help="Train even if less than 90 % of the encoder is loaded from the pretrained model.",
)
@_as_json
def recipes(
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
    """Train recipes on the same data with the same seeds, and compare their error rates.

    A RECIPE with overrides of its own is one quoted word: "scratch quran.initialization=nemo"; other
    overrides apply to all. Each trial is a process of its own. If the command is stopped or killed, the same
    command continues: finished trials are read, interrupted ones are resumed. The table shows the word error
    rate at 10, 50 and 100 % of the budget, how much sooner each recipe reaches the error rate that both
    reach, and how much lower it ends.
    """
    from quran_asr.cli.output import progress_bar
    from quran_asr.experiments.comparison.trials import Conditions
    from quran_asr.experiments.comparison.variants import split_variants

    named, shared = split_variants(words)
    _refuse_results([one[0] for one in named])
    for key, manifests in (("train_ds", training), ("validation_ds", validation)):
        if manifests:
            shared.append(f"model.{key}.manifest_filepath={json.dumps(manifests)}")
    conditions = Conditions(jobs, allow_partial, _report, progress_bar)
    if study is not None:
        question, place = _study(study, named, shared, seeds, folder, anyway, conditions)
    else:
        question, place = _question(named, shared, seeds, folder, anyway)
    trials, failed = _train(question, place, conditions)
    return _print_trials(question, trials, failed, place, decoder, as_json)


def _refuse_results(names: Sequence[str]) -> None:
    """A run or a report where a recipe is expected is compared by another command."""
    from quran_asr.config.recipe import SHIPPED
    from quran_asr.experiments.comparison.reports import find_report

    for name in names:
        place = Path(name)
        if name in SHIPPED or not place.is_dir():
            continue
        if (place / "recipe.yaml").is_file() or (place / "metrics.jsonl").is_file():
            raise QuranAsrError("is a run, not a recipe", where=name, remedy="quran-asr compare runs RUN RUN")
        if find_report(name) is not None:
            raise QuranAsrError(
                "is a report, not a recipe", where=name, remedy="quran-asr compare reports REPORT REPORT"
            )
        raise QuranAsrError(
            "is a folder, not a recipe",
            where=name,
            remedy=f"a comparison continues with --to {name}; `quran-asr compare list {name}` lists the runs "
            "in a folder",
        )


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
    """The question of a shipped experiment; pretrains where it asks for that."""
    from quran_asr.cli.options import need
    from quran_asr.experiments.comparison.studies import STUDIES, prepare
    from quran_asr.experiments.comparison.trials import INDEX, Question, keep_question
    from quran_asr.files import refuse_foreign

    if name not in STUDIES:
        raise QuranAsrError(f"no study `{name}`", where="--study", remedy=f"one of {', '.join(STUDIES)}")
    given = [word for word in shared if word.startswith(_MANIFESTS)]
    asked = STUDIES[name]
    if named or (asked.parts and given) or anyway:
        raise QuranAsrError(
            "a study has its own recipes and data",
            remedy="leave out RECIPE, --train, --validation and --anyway",
        )
    if not asked.parts and len(given) < len(_MANIFESTS):
        raise QuranAsrError(
            f"the study `{name}` needs recordings of your own",
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
    """What is compared, and the folder where it is kept."""
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
    """Run the trials that have not finished; returns all trials, and those that failed."""
    from quran_asr.cli.options import need
    from quran_asr.experiments.comparison.trials import run_trials, trials_of

    trials = trials_of(folder, question)
    if not all(trial.done for trial in trials):
        need("train")
    return trials, run_trials(folder, trials, conditions)


def _print_trials(
    question: Question,
    trials: Sequence[Trial],
    failed: Sequence[Trial],
    folder: Path,
    decoder: str,
    as_json: bool,
) -> int:
    """Print the comparison of the trials that finished."""
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
            raise QuranAsrError(
                f"no trial of `{variant.name}` has finished",
                where=str(folder),
                remedy="look for the error in the train.log of its trials, and give the same command again",
            )
        runs[variant.name] = [run for _, run in ended]
        curves = tuple(read_curves(run.path) for run in runs[variant.name])
        variants.append(VariantCurves(variant.name, curves, tuple(seed for seed, _ in ended)))
    first = question.variants[0].recipe
    differs = {
        variant.name: [str(change) for change in differences(first, variant.recipe)]
        for variant in question.variants
    }
    _print_comparison(variants, runs, differs, decoder, folder, {"kind": "recipes"}, as_json)
    return print_findings(_failures(failed))


def _failures(trials: Sequence[Trial]) -> list[Finding]:
    from quran_asr.experiments.trials import last_error

    return [
        Finding(
            "error",
            "trial-failed",
            trial.name,
            f"{last_error(trial.log)}; it is excluded from all figures",
            f"its log is {trial.log}; the same command runs it again",
        )
        for trial in trials
    ]


# Runs


@compare.command(
    short_help="Compare finished runs.",
    epilog="Example: quran-asr compare runs nemo_experiments/small/* --to comparison",
)
@click.argument("words", nargs=-1, required=True, metavar="RUN...")
@click.option(
    "--to",
    "folder",
    type=click.Path(path_type=Path),
    metavar="FOLDER",
    help="Folder for the table as JSON, a plot and an HTML report.",
)
@_decoder
@_anyway
@_as_json
def runs(words: tuple[str, ...], folder: Path | None, decoder: str, anyway: bool, as_json: bool) -> int:
    """Compare run folders; runs whose recipes differ only in the seed form one variant.

    Runs on other data, validation clips or budgets are rejected.
    """
    from quran_asr.experiments.comparison import variants as grouping
    from quran_asr.experiments.comparison.trials import INDEX
    from quran_asr.experiments.run_folder import open_run
    from quran_asr.files import refuse_foreign

    if folder is not None:
        refuse_foreign(folder, (INDEX, "result-transducer.json", "result-ctc.json"), "comparison")
    finished = grouping.read_runs([open_run(word) for word in words])
    if len(finished) < 2:
        raise QuranAsrError("there is nothing to compare with", remedy="name at least two runs")
    if not anyway:
        grouping.refuse_unlike_runs(finished)
    groups = grouping.variants_of(finished)
    first = groups[0][1][0].recipe
    differs = {
        variant.name: [str(change) for change in grouping.parting(first, group[0].recipe)]
        for variant, group in groups
    }
    folders = {variant.name: [run.folder for run in group] for variant, group in groups}
    variants = [variant for variant, _ in groups]
    _print_comparison(variants, folders, differs, decoder, folder, {"kind": "runs"}, as_json)
    return 0


# Reports


@compare.command(
    short_help="Compare reports of `evaluate`, clip by clip.",
    epilog="Example: quran-asr compare reports evaluations/small evaluations/large",
)
@click.argument("words", nargs=-1, required=True, metavar="REPORT...")
@_anyway
@_as_json
def reports(words: tuple[str, ...], anyway: bool, as_json: bool) -> int:
    """Compare reports of `evaluate` with the first, by a paired bootstrap over the clips of both.

    REPORT is a report.json or its folder, with the transcripts.jsonl beside it. Reports of other clips,
    decoders or spellings are rejected.
    """
    from quran_asr.cli.output import print_findings, print_json
    from quran_asr.experiments.comparison import reports as compare_reports

    found = []
    for word in words:
        path = compare_reports.find_report(word)
        if path is None:
            raise QuranAsrError("no report.json here", where=word, remedy="quran-asr evaluate writes one")
        found.append(compare_reports.read_report(path))
    if len(found) < 2:
        raise QuranAsrError("there is nothing to compare with", remedy="name at least two reports")
    notes = compare_reports.refuse_unlike(found, anyway=anyway)
    pairs = compare_reports.pair_with_first(found)
    if as_json:
        print_json(compare_reports.as_json(found, pairs))
    else:
        print_reports(found, pairs)
    return print_findings(notes)


# All runs


@compare.command(
    "list",
    short_help="List the runs of a folder, with what each changed.",
    epilog="Example: quran-asr compare list nemo_experiments",
)
@click.argument("folder", type=click.Path(path_type=Path))
@_as_json
def list_runs(folder: Path, as_json: bool) -> int:
    """List all runs below FOLDER, each with its changes from the most similar earlier run."""
    from quran_asr.cli.output import findings_as_json, print_findings, print_json
    from quran_asr.experiments.comparison.registry import read_registry

    entries, findings = read_registry(folder)
    if as_json:
        print_json({"runs": [entry.to_json() for entry in entries], "findings": findings_as_json(findings)})
    else:
        print_registry(entries)
    return print_findings(findings)


# What is printed of recipes and runs


def _print_comparison(
    variants: Sequence[VariantCurves],
    runs: Mapping[str, Sequence[RunFolder]],
    differs: Mapping[str, Sequence[str]],
    decoder: str,
    folder: Path | None,
    head: Mapping[str, Any],
    as_json: bool,
) -> None:
    """Print a comparison, and write its files if a folder is given."""
    from importlib.util import find_spec

    from quran_asr.cli.output import print_json
    from quran_asr.experiments.comparison.results import compare as set_against
    from quran_asr.experiments.comparison.variants import best_clips_paired
    from quran_asr.files import write_json

    comparison = set_against(variants, decoder)
    pairs: dict[str, PairedErrors] = {}
    if decoder == "transducer":  # whose words are in the transcripts of the best validation
        for variant in variants[1:]:
            paired = best_clips_paired(runs[variants[0].name], runs[variant.name])
            if paired is not None:
                pairs[variant.name] = paired
    document = {**head, **comparison.to_json()}
    for variant in document["variants"]:
        variant["differs_from_first"] = list(differs[variant["name"]])
        clips = pairs.get(variant["name"])
        variant["best_clips_against_first"] = None if clips is None else clips.to_json()
    tables = tables_of(comparison, pairs, differs)
    if folder is not None:
        write_json(folder / f"result-{decoder}.json", document)
        if find_spec("matplotlib") is not None:
            from quran_asr.experiments.comparison.plot import draw_comparison

            _report(f"plot and report: {', '.join(map(str, draw_comparison(comparison, folder, tables)))}")
        else:
            _report("no plot: it needs matplotlib, pip install 'quran-asr[plot]'")
    if as_json:
        print_json(document)
    else:
        print_tables(tables)


def tables_of(
    comparison: Comparison, pairs: Mapping[str, PairedErrors], differs: Mapping[str, Sequence[str]]
) -> list[Table]:
    """The error rates of all variants, each compared with the first, and the keys in which they differ.

    Args:
        comparison: of recipes or of runs.
        pairs: by name of the variant, its best validations compared with the first's, clip by clip.
        differs: by name of the variant, the changes from the first.
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
        f"100 % is {comparison.budget:,.0f} {unit}s. In brackets 95 % over seeds (Student's t); ~ is "
        "interpolated between two validations.",
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
                _best(result.against, pairs.get(result.variant.name)),
            )
            for result in comparison.results
            if result.against is not None
        ),
        "Equal WER: the lowest that both reach, mean over seeds. Error rates are relative to the first: "
        "below 1 is better."
        + (" The best WER's interval is over seeds and clips." if pairs else "")
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
    """All tables on stdout, an empty line between; their notes on stderr."""
    for number, table in enumerate(tables):
        if number:
            echo()
        echo(table.title)
        print_table(table.header, table.rows)
        if table.note:
            echo(table.note, err=True)


def print_reports(reports: Sequence[NamedReport], pairs: Sequence[PairedErrors | None]) -> None:
    """One line for each report; each later one is compared with the first."""
    rows = []
    for report, paired in zip(reports, [None, *pairs], strict=True):
        values = report.values
        line = [
            report.place,
            str(values.get("clips")),
            _interval(values.get("wer"), values.get("wer_interval")),
        ]
        line.append(_interval(values.get("cer"), values.get("cer_interval")))
        if paired is None:
            line += ["", "", ""]
        else:
            found = paired.difference
            line.append(_interval(found.difference, found.difference_interval, "+.4f"))
            line.append("x " + _interval(found.ratio, found.ratio_interval, ".2f"))
            line.append(f"{paired.clips} of {max(paired.of_clips)}")
        rows.append(line)
    header = ("report", "clips", "WER", "CER", "difference from the first", "ratio", "common clips")
    print_table(header, rows)
    if any(pairs):
        echo("95 %; differences by a paired bootstrap over the common clips", err=True)
    if not all(pairs):
        echo(
            "transcripts.jsonl is not beside every report: those without it are not compared clip by clip",
            err=True,
        )


def print_registry(entries: Sequence[Entry]) -> None:
    """One line for each run, with its changes from the most similar earlier run."""
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
                (shown or "none") + (f"; and {more} more" if more > 0 else ""),
            )
        )
    print_table(("run", "name", "data", "steps", "best WER", "version", "compared with", "changes"), rows)


def _sooner(against: AgainstFirst, unit: str) -> tuple[str, str, str]:
    if against.note is not None:
        return f"{fmean(against.equal_wer):.3f}", "-", "-"
    ours, theirs = (fmean(reached.place for reached in variant) for variant in (against.first, against.other))
    digits = 1 if unit == "epoch" else 0
    return (
        f"{fmean(against.equal_wer):.3f}",
        f"{theirs:,.{digits}f} instead of {ours:,.{digits}f}",
        ("about " if against.bound else "") + _between(against.times_fewer, ".2f"),
    )


def _best(against: AgainstFirst, paired: PairedErrors | None) -> str:
    if paired is None or paired.difference.ratio is None:
        return f"x {_between(against.best, '.2f')}"
    return "x " + _interval(paired.difference.ratio, paired.difference.ratio_interval, ".2f")


def _rate(mean: Mean | None, mark: str = "") -> str:
    return "-" if mean is None else mark + _between(mean, ".3f")


def _between(mean: Mean, form: str) -> str:
    return _interval(mean.value, mean.interval, form)


def _interval(value: object, interval: object, form: str = ".4f") -> str:
    """`0.1234 [0.1000, 0.1500]`; values in a report are not trusted to be numbers."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return "-"
    bounds = interval if isinstance(interval, list | tuple) and len(interval) == 2 else ()
    if not bounds or not all(isinstance(bound, int | float) for bound in bounds):
        return f"{value:{form}}"
    low, high = (f"{bound:{form}}" if abs(bound) < 1000 else f"{bound:.0e}" for bound in bounds)
    return f"{value:{form}} [{low}, {high}]"


def _report(line: str) -> None:
    echo(line, err=True)
