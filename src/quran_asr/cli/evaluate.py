"""`quran-asr evaluate`: error rates of a model on a manifest."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from quran_asr.cli.models import (
    NO_LANGUAGE_MODEL,
    LanguageModelOptions,
    RecognizeClips,
    as_bundle,
    decoder_option,
    language_model_options,
    level_notes,
    load,
    look_ahead_option,
    low_rate_notes,
    model_option,
    named_or_default,
    rates_of,
    recognize_lists,
    refuse_rescoring,
    rescore_option,
)
from quran_asr.cli.output import echo, print_findings, print_json, print_table, progress_bar
from quran_asr.decoding.options import DEFAULT_DECODER
from quran_asr.errors import QuranAsrError, counted

if TYPE_CHECKING:
    from quran_asr.cli.models import Recognizer
    from quran_asr.evaluation.identification import IdentificationTable
    from quran_asr.evaluation.report import Group, Report, Setting, StreamingStability
    from quran_asr.evaluation.stress import StressRow
    from quran_asr.evaluation.training_data import TrainingData
    from quran_asr.records import Samples, Segment
    from quran_asr.runtime.recognizer import Replay

SHOWN_WORST = 3
"""Of the worst clips in the report, how many are shown on the screen."""

PLANTED_NAME = "planted_errors.json"

SHOWN_EDITS = 10
"""Of each, how many wrong words."""


@click.command(
    epilog="Example: quran-asr evaluate data/test.jsonl --model nemo_experiments/compact/2026-01-31_12-00-00"
)
@click.argument("manifest", type=click.Path(path_type=Path))
@model_option
@decoder_option
@look_ahead_option
@language_model_options
@rescore_option
@click.option(
    "--planted-errors",
    is_flag=True,
    help="With --lm: also recognize recordings with planted errors, and compare with the recognition without "
    "a language model.",
)
@click.option(
    "--streaming",
    is_flag=True,
    help="Recognize each clip as a stream, in chunks of the look-ahead, as in live use.",
)
@click.option(
    "--identify",
    "identifies",
    is_flag=True,
    help="Also find the verses of each clip in the whole Quran, and count how many are right.",
)
@click.option(
    "--trained-on",
    type=click.Path(path_type=Path),
    metavar="MANIFEST|RUN",
    help="Training data of the model, if the model does not record them itself.",
)
@click.option(
    "--to",
    "folder",
    type=click.Path(path_type=Path),
    metavar="FOLDER",
    help="Folder for report.json and transcripts.jsonl. Default: `evaluations` in the run folder, or in the "
    "working folder if the model is not in a run.",
)
@click.option(
    "--stress",
    "stressed",
    is_flag=False,
    flag_value="all",
    metavar="[ROWS]",
    help="Measure robustness instead: the clips joined, after silence, at other levels, with noise, in a "
    "room, over a telephone, as MP3 and in higher voices, compared with the clips as they are. ROWS "
    "selects, as in `joined,level`.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
def evaluate(
    manifest: Path,
    model: Path | None,
    decoder: str | None,
    look_ahead_ms: int | None,
    language: LanguageModelOptions,
    rescore: int | None,
    planted_errors: bool,
    streaming: bool,
    identifies: bool,
    trained_on: Path | None,
    folder: Path | None,
    stressed: str | None,
    as_json: bool,
) -> int:
    """Compute WER and CER of a model on MANIFEST.

    Reports error rates with 95 % intervals, by reciter, clip length, and whether reciter and text were in the
    training data. --streaming also reports which clips differ from whole-file recognition and how often
    words on the screen were revised; --identify how many clips have all of their verses found (exact), some,
    wrong ones or nothing. For both, models other than bundles are first exported to a temporary bundle.
    Unreadable clips are excluded; then the exit code is 1. --stress writes stress.json and ends with 1 where
    a goal is missed.

    Without --lm and --passage the words are those recited. A language model lowers the error rates of correct
    recitation and hides errors of the reciter: --planted-errors measures both. In recordings made of the
    clips a word is replaced by another word of the same reciter, a word is left out, or two words are
    exchanged; the report has the share recognized as recited, and the share corrected to the Quran's text. A
    control, a word replaced by the same word from between other words, shows what cutting alone costs.
    """
    from dataclasses import replace

    from quran_asr.corpus.manifest import read_lines, read_manifest
    from quran_asr.corpus.text_check import unknown_characters_of
    from quran_asr.evaluation.evaluate import evaluate as measure
    from quran_asr.evaluation.evaluate import unreadable_findings, write_report
    from quran_asr.evaluation.report import Setting
    from quran_asr.evaluation.stress import chosen_groups, joined_pairs

    _refuse_a_file(folder)
    refuse_rescoring(rescore, language)
    _refuse_planted_errors(planted_errors, language, streaming=streaming, rescore=rescore)
    if stressed is not None and (planted_errors or rescore is not None):
        raise QuranAsrError(
            "`--stress` is measured by itself", remedy="leave out --planted-errors and --rescore"
        )
    if rescore is not None and streaming:
        raise QuranAsrError("`--rescore` applies to whole recordings", remedy="leave out --streaming")
    groups = chosen_groups(stressed or "all")
    read_lines(manifest)  # a bad line is reported now, not after the model has been loaded
    if foreign := unknown_characters_of([manifest]):
        print_findings([foreign])
    model = named_or_default(model)
    with _recognizer(model, decoder, look_ahead_ms, language, streaming) as found:
        recognizer, replay = found
        segments = read_manifest(manifest, recognizer.spelling)
        training = _training_data(recognizer, trained_on)
        setting = Setting(
            model=recognizer.name,
            decoder=recognizer.decoder,
            look_ahead_ms=recognizer.look_ahead_ms,
            spelling=recognizer.spelling,
            edition=recognizer.edition,
            manifest=str(manifest),
            streaming=streaming,
            language_model=_described(recognizer, language, rescore),
        )
        folder = folder or _default_folder(recognizer, setting)
        folder.mkdir(parents=True, exist_ok=True)  # fails now rather than after the recognition
        print_findings([*low_rate_notes(rates_of(segments)), *level_notes(segments)])
        one = recognizer if replay is None else replay
        if stressed is not None:
            return _stress(one, segments, setting, groups, folder, as_json)
        if planted_errors:
            return _compare(recognizer, segments, setting, folder, as_json)
        recognize: RecognizeClips = one.recognize_clips
        if rescore is not None:
            recognize = recognize_lists(recognizer, rescore, rescore)

        def text_of(samples: Samples) -> str:
            return one.text_of(samples) if rescore is None else _rescored(recognizer, samples, rescore)

        with progress_bar("recognizing", "clips") as on_progress:
            report, clips = measure(segments, recognize, setting, training, on_progress)
        joined = joined_pairs(clips, text_of, recognizer.spelling)
        report = replace(report, joined=joined)
    if replay is not None:
        report = replace(report, steadiness=_stability(replay))
    if identifies:
        report = replace(report, identification=_identification(model, segments))
    write_report(folder, report, clips)  # before anything is printed: recognition takes the time
    code = print_findings(unreadable_findings(report))
    if as_json:
        print_json(report.to_json())
    else:
        print_report(report)
    echo(f"{folder}: report.json and transcripts.jsonl", err=True)
    return code


def _refuse_planted_errors(
    planted_errors: bool, language: LanguageModelOptions, *, streaming: bool, rescore: int | None
) -> None:
    """What is compared is a search with and one without a language model, of whole recordings."""
    if not planted_errors:
        return
    if language.lm is None and language.passage is None:
        raise QuranAsrError("`--planted-errors` compares with a language model", remedy="add --lm quran")
    if streaming or rescore is not None:
        option = "--streaming" if streaming else "--rescore"
        raise QuranAsrError(f"`--planted-errors` and `{option}` do not go together", remedy="leave one out")


def _compare(
    recognizer: Recognizer, segments: list[Segment], setting: Setting, folder: Path, as_json: bool
) -> int:
    """Evaluate without and with the language model, and on planted errors; the reports are those with it."""

    from quran_asr.cli.lm_comparison import compare, print_comparison
    from quran_asr.evaluation.evaluate import unreadable_findings, write_report
    from quran_asr.files import write_json
    from quran_asr.runtime.recognizer import Recognizer as OfBundle

    if not isinstance(recognizer, OfBundle):
        raise QuranAsrError(
            "planted errors need a bundle",
            where=recognizer.name,
            remedy="`quran-asr export MODEL --to FOLDER` makes one",
        )
    comparison = compare(recognizer, segments, setting)
    write_report(folder, comparison.fused, comparison.fused_clips)
    write_json(folder / PLANTED_NAME, comparison.to_json())
    code = print_findings(unreadable_findings(comparison.fused))
    if as_json:
        print_json(comparison.to_json())
    else:
        print_comparison(comparison)
    echo(f"{folder}: report.json, transcripts.jsonl and {PLANTED_NAME}", err=True)
    return code


def _rescored(recognizer: Recognizer, samples: Samples, count: int) -> str:
    """The text of samples, found as `recognize_lists` finds that of clips."""
    from typing import cast

    from quran_asr.runtime.n_best import rescored_text
    from quran_asr.runtime.recognizer import Recognizer as OfBundle

    return rescored_text(cast(OfBundle, recognizer), samples, count)


def _described(
    recognizer: Recognizer, language: LanguageModelOptions, rescore: int | None
) -> dict[str, Any] | None:
    """The language model for the report, with the weights that were used."""
    if not language.given:
        return None
    from quran_asr.runtime.recognizer import Recognizer as OfBundle

    if not isinstance(recognizer, OfBundle) or (fusion := recognizer.decoding.fusion) is None:
        return None
    return {
        "lm": language.lm,
        "passage": language.passage,
        "lm_weight": fusion.lm_weight,
        "token_bonus": fusion.token_bonus,
        "rescored": rescore,
    }


@contextmanager
def _recognizer(
    model: Path,
    decoder: str | None,
    look_ahead_ms: int | None,
    language: LanguageModelOptions = NO_LANGUAGE_MODEL,
    streaming: bool = False,
) -> Iterator[tuple[Recognizer, Replay | None]]:
    """The recognizer, and for an evaluation of streaming what feeds it the clips as streams."""
    if not streaming:
        yield load(model, decoder, look_ahead_ms, language), None
        return
    with as_bundle(model) as bundle:
        from quran_asr.runtime.recognizer import Replay
        from quran_asr.runtime.recognizer import load as load_bundle

        recognizer = load_bundle(
            bundle, decoder=decoder or DEFAULT_DECODER, look_ahead_ms=look_ahead_ms, **asdict(language)
        )
        if bundle != model:
            recognizer.name, recognizer.training_data = _origin(model)
        yield recognizer, Replay(recognizer)


def _stress(
    recognizer: Recognizer | Replay,
    segments: Sequence[Segment],
    setting: Setting,
    groups: Sequence[str],
    folder: Path,
    as_json: bool,
) -> int:
    """Measure, write and print the robustness of a model; 1 where a goal is missed."""
    from quran_asr.evaluation.stress import STRESS_NAME, stress, stress_json, write_stress

    with progress_bar("recognizing", "conditions") as on_progress:
        rows = stress(segments, recognizer.text_of, setting.spelling, groups, on_progress)
    measured = stress_json(rows, setting, segments)
    kept = write_stress(folder, measured)
    if as_json:
        print_json(measured)
    else:
        _print_setting(setting)
        echo(f"clips     {len(segments):,} of {setting.manifest}, {measured['hours']:.2f} h")
        echo()
        header = ("", "WER %", "95 %", "CER %", "95 %", "WER vs. clean", "goal")
        print_table(header, [_stress_cells(row) for row in rows])
        echo(f"intervals: {measured['interval_method']}")
    before = f", which keeps what was measured before: {', '.join(kept)}" if kept else ""
    echo(f"{folder}: {STRESS_NAME}{before}", err=True)
    return int(any(row.met is False for row in rows))


def _stress_cells(row: StressRow) -> tuple[object, ...]:
    rates = row.rates
    relative = "" if row.relative is None else f"{100 * row.relative:+.1f} %"
    goal = "" if row.most is None else f"{100 * row.most:.2f} {'met' if row.met else 'missed'}"
    return (
        row.condition,
        _percent(rates.words.rate),
        _between(rates.wer_interval),
        _percent(rates.characters.rate),
        _between(rates.cer_interval),
        relative,
        goal,
    )


def _training_data(recognizer: Recognizer, trained_on: Path | None) -> TrainingData | None:
    """What the model was trained on; None if that is unknown."""
    from quran_asr.evaluation.training_data import TrainingData, find_training_data

    if trained_on is not None:
        return find_training_data(trained_on, recognizer.spelling)
    if recognizer.training_data is not None:
        return TrainingData.read(recognizer.training_data)
    return None


def _identification(model: Path, segments: Sequence[Segment]) -> IdentificationTable:
    """Which verses are found, with one search of the whole Quran for each clip."""
    from quran_asr.evaluation.identification import identification_table

    with as_bundle(model) as bundle:
        from quran_asr.runtime.alignment import identify_clips
        from quran_asr.runtime.recognizer import load as load_bundle

        recognizer = load_bundle(bundle, decoder="ctc")
        with progress_bar("identifying", "clips") as on_progress:
            return identification_table(
                segments,
                lambda clips: identify_clips(recognizer, clips),
                recognizer.spelling,
                on_progress,
            )


def _stability(replay: Replay) -> StreamingStability:
    """How streaming differed from whole-file recognition; the clips that differ are listed on stderr."""
    from quran_asr.evaluation.report import StreamingStability

    for segment in replay.differing:
        echo(f"{segment.audio} at {segment.offset:g} s: words differ from whole-file recognition", err=True)
    revisions = replay.revisions
    return StreamingStability(len(replay.differing), revisions.words, revisions.grown, revisions.replaced)


def print_report(report: Report) -> None:
    """The report as a table, rates in percent."""
    setting, whole = report.setting, report.whole
    _print_setting(setting)
    echo(f"clips     {whole.clips:,} of {setting.manifest}, {whole.hours:.2f} h")
    echo()
    groups = [("all", whole)]
    for name, group in report.cells.items():
        groups.append(("training data unknown" if name == "unknown" else name, group))
    groups += [(f"reciter {name}", group) for name, group in report.reciters.items()]
    groups += [(f"{name} clips", group) for name, group in report.lengths.items()]
    header = ("", "clips", "words", "WER %", "95 %", "CER %", "95 %", "WER % letters", "CER % letters")
    print_table(header, [(name, *_cells(group)) for name, group in groups])
    echo()
    errors = whole.spelled.words.errors
    echo(
        f"{counted(errors, 'word error')}: {counted(report.recognition_errors, 'recognition error')}, "
        f"{report.spelling_only_errors:,} spelling-only (the letters agree)"
    )
    echo(
        f"{counted(report.mostly_deleted, 'clip')} mostly deleted (under half of the words recognized), "
        f"{report.looping_clips:,} looping (a repetition that is not in the reference), "
        f"{len(report.unreadable):,} unreadable"
    )
    if report.joined is not None:
        joined = report.joined
        echo(
            f"joined clips: WER {100 * joined.in_pairs.words.rate:.2f} % "
            f"({_between(joined.in_pairs.wer_interval)}) of the first {joined.clips:,} in pairs, "
            f"{100 * joined.alone.words.rate:.2f} % of the same alone"
        )
    if report.steadiness is not None:
        print_stability(report.steadiness)
    if report.identification is not None:
        print_identification(report.identification)
    echo(f"intervals: {report.interval_method}")
    if "unknown" in report.cells:
        echo("the training data of the model are unknown: name them with --trained-on")
    for clip in report.worst[:SHOWN_WORST]:
        segment, score = clip.segment, clip.score
        echo()
        where = " ".join(str(verse) for verse in segment.verses)
        echo(f"{segment.audio} at {segment.offset:g} s {where}".rstrip())
        echo(f"  {counted(score.words.errors, 'error')} in {counted(score.words.reference_length, 'word')}")
        echo(f"  reference:  {score.reference}")
        echo(f"  hypothesis: {score.hypothesis}")
        wrong = [edit for edit in score.edits() if edit.kind != "hit"]
        for edit in wrong[:SHOWN_EDITS]:
            words = " -> ".join(word for word in (edit.reference, edit.hypothesis) if word)
            echo(f"    {edit.kind:<12}  {words}")
        if len(wrong) > SHOWN_EDITS:
            echo(f"    and {len(wrong) - SHOWN_EDITS} more")


def _print_setting(setting: Setting) -> None:
    ahead = "whole recording" if setting.look_ahead_ms is None else f"look-ahead {setting.look_ahead_ms} ms"
    echo(f"model     {setting.model}")
    echo(f"decoder   {setting.decoder}, {ahead}{', streaming' if setting.streaming else ''}")
    if (language := setting.language_model) is not None:
        name = language["lm"] or f"passage {language['passage']}"
        weights = f"weight {language['lm_weight']:g}, token bonus {language['token_bonus']:g}"
        echo(f"language  {name}, {weights}: errors of the reciter may be corrected")
    echo(f"spelling  {setting.spelling} ({setting.edition} edition)")


def print_stability(stability: StreamingStability) -> None:
    """How often streaming revised what was on the screen, in two lines."""
    echo(f"{stability.differing_clips:,} clips whose words differ from whole-file recognition")
    echo(
        f"{stability.words:,} words shown: {stability.grown:,} times one was extended, "
        f"{stability.replaced:,} times one was replaced or removed"
    )


def print_identification(table: IdentificationTable) -> None:
    """Which verses were found, of all clips and by reciter; rates in percent."""
    from quran_asr.evaluation.identification import OUTCOMES

    groups = [("all", table.whole), *((f"reciter {name}", counts) for name, counts in table.reciters.items())]
    echo()
    print_table(
        ("identified", "clips", *OUTCOMES, "recall %", "precision %"),
        [
            (
                name,
                counts.clips,
                *counts.outcomes.values(),
                f"{100 * counts.recall:.1f}",
                f"{100 * counts.precision:.1f}",
            )
            for name, counts in groups
        ],
    )
    echo()


def _percent(rate: float) -> str:
    return f"{100 * rate:6.2f}" if rate != float("inf") else "     -"


def _between(interval: tuple[float, float] | None) -> str:
    return "-" if interval is None else f"{100 * interval[0]:.2f} to {100 * interval[1]:.2f}"


def _cells(group: Group) -> tuple[object, ...]:
    spelled, letters = group.spelled, group.letters
    return (
        group.clips,
        spelled.words.reference_length,
        _percent(spelled.words.rate),
        _between(spelled.wer_interval),
        _percent(spelled.characters.rate),
        _between(spelled.cer_interval),
        _percent(letters.words.rate),
        _percent(letters.characters.rate),
    )


def _origin(model: Path) -> tuple[str, Path | None]:
    """The name of the model that a bundle was exported from, and its training data."""
    from quran_asr.evaluation.training_data import FILE_NAME

    run = model if model.is_dir() else model.parent.parent
    known = run / FILE_NAME
    return str(model), known if known.is_file() else None


def _default_folder(recognizer: Recognizer, setting: Setting) -> Path:
    model, manifest = Path(recognizer.name), Path(setting.manifest)
    place = Path("evaluations")  # for a bundle too: its folder belongs to the export alone
    known = recognizer.training_data
    if known is not None and (known.parent / "recipe.yaml").is_file():
        place = known.parent / place
    name = model.resolve().name if model.is_dir() else model.stem
    ahead = "" if setting.look_ahead_ms is None else f"--{setting.look_ahead_ms}ms"
    way = "--streaming" if setting.streaming else ""
    way += "--lm" if setting.language_model is not None else ""
    folder = place / name / f"{manifest.stem}--{setting.decoder}{ahead}{way}"
    number = 2
    while _of_something_else(folder, setting):  # another report is never overwritten
        folder = folder.with_name(f"{manifest.stem}--{setting.decoder}{ahead}{way}--{number}")
        number += 1
    return folder


def _of_something_else(folder: Path, setting: Setting) -> bool:
    """Whether a folder has a report on another model, manifest or language model, or with other weights."""
    from quran_asr.evaluation.evaluate import REPORT_NAME
    from quran_asr.evaluation.stress import STRESS_NAME
    from quran_asr.files import parse_json

    language = None if setting.language_model is None else dict(setting.language_model)
    for name in (REPORT_NAME, STRESS_NAME):
        try:
            report = parse_json((folder / name).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        if not isinstance(report, dict):
            return True
        before = report.get("model"), report.get("manifest"), report.get("language_model")
        if before != (setting.model, setting.manifest, language):
            return True
    return False


def _refuse_a_file(folder: Path | None) -> None:
    """A folder that cannot be made is reported now, not after the model has been loaded."""
    for place in () if folder is None else (folder, *folder.parents):
        if place.exists():
            if not place.is_dir():
                what = "is a file, and reports are written to a folder"
                remedy = "name a folder with --to; it is created if needed"
                raise QuranAsrError(what, where=str(place), remedy=remedy)
            return
