"""`quran-asr evaluate` and `quran-asr transcribe`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from quran_asr.cli.models import as_bundle, decoder_option, load, look_ahead_option, low_rate_notes, rates_of
from quran_asr.cli.output import echo, print_findings, print_json, print_table, progress_bar, word_json
from quran_asr.errors import QuranAsrError

if TYPE_CHECKING:
    from quran_asr.cli.models import Recognizer
    from quran_asr.evaluation.report import Group, Report, Steadiness
    from quran_asr.records import Segment
    from quran_asr.runtime.recognizer import Replay

SHOWN_WORST = 3
"""Of the worst clips in the report, so many are shown on the screen."""

SHOWN_EDITS = 10
"""Of each, so many wrong words."""

_as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@click.command(
    epilog="Example: quran-asr evaluate nemo_experiments/laptop/2026-01-31_12-00-00 data/test.jsonl"
)
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("manifest", type=click.Path(path_type=Path))
@decoder_option
@look_ahead_option
@click.option(
    "--streaming",
    is_flag=True,
    help="Hear each clip as a stream, in pieces of the look-ahead, as it is deployed.",
)
@click.option(
    "--trained-on",
    type=click.Path(path_type=Path),
    metavar="MANIFEST|RUN",
    help="What the model was trained on, where the model does not say it itself.",
)
@click.option(
    "--to",
    "folder",
    type=click.Path(path_type=Path),
    help="Folder for report.json and transcripts.jsonl; default: under `evaluations` in the run folder, "
    "or here if the model is in no run.",
)
@_as_json
def evaluate(
    model: Path,
    manifest: Path,
    decoder: str,
    look_ahead_ms: int | None,
    streaming: bool,
    trained_on: Path | None,
    folder: Path | None,
    as_json: bool,
) -> int:
    """Compute WER and CER of MODEL on MANIFEST.

    MODEL is a .nemo file, a .ckpt file of a run, a run folder (its best checkpoint), or a bundle. --streaming
    scores what a listener gets live, and says which clips differ from the whole file and how often a word
    that was already shown changed; what is no bundle is exported for it first. Clips that cannot be heard are
    in no count, and then the exit code is 1.
    """
    from quran_asr.corpus.manifest import read_lines
    from quran_asr.corpus.text_check import unknown_characters_of

    _refuse_a_file(folder)
    read_lines(manifest)  # a bad line is said now, not after the model has been loaded
    if foreign := unknown_characters_of([manifest]):
        print_findings([foreign])
    if not streaming:
        recognizer = load(model, decoder, look_ahead_ms)
        return _evaluate(recognizer, None, manifest, trained_on, folder, as_json)
    with as_bundle(model) as bundle:
        from quran_asr.runtime.recognizer import Replay
        from quran_asr.runtime.recognizer import load as load_bundle

        model_file = load_bundle(bundle, decoder=decoder, look_ahead_ms=look_ahead_ms)
        if bundle != model:
            model_file.name, model_file.training_data = _origin(model)
        return _evaluate(model_file, Replay(model_file), manifest, trained_on, folder, as_json)


def _evaluate(
    recognizer: Recognizer,
    replay: Replay | None,
    manifest: Path,
    trained_on: Path | None,
    folder: Path | None,
    as_json: bool,
) -> int:
    """Hear, print and write; with a replay it is the one that hears."""
    from dataclasses import replace

    from quran_asr.corpus.manifest import read_manifest
    from quran_asr.evaluation.evaluate import evaluate as measure
    from quran_asr.evaluation.evaluate import unreadable_findings, write_report
    from quran_asr.evaluation.report import Setting, Steadiness
    from quran_asr.evaluation.training_data import TrainingData, find_training_data

    segments = read_manifest(manifest, recognizer.spelling)
    training = None
    if trained_on is not None:
        training = find_training_data(trained_on, recognizer.spelling)
    elif recognizer.training_data is not None:
        training = TrainingData.read(recognizer.training_data)
    setting = Setting(
        model=recognizer.name,
        decoder=recognizer.decoder,
        look_ahead_ms=recognizer.look_ahead_ms,
        spelling=recognizer.spelling,
        edition=recognizer.edition,
        manifest=str(manifest),
        streaming=replay is not None,
    )
    folder = folder or _default_folder(recognizer, manifest, streaming=replay is not None)
    folder.mkdir(parents=True, exist_ok=True)  # fails now rather than when everything has been heard

    print_findings(low_rate_notes(rates_of(segments)))
    hear = recognizer.recognize_clips if replay is None else replay.recognize_clips
    with progress_bar("hearing", "clips") as on_progress:
        report, clips = measure(segments, hear, setting, training, on_progress)
    if replay is not None:
        seen = replay.revisions
        steadiness = Steadiness(len(replay.differing), seen.words, seen.grown, seen.replaced)
        report = replace(report, steadiness=steadiness)
        for segment in replay.differing:
            echo(f"{segment.audio} at {segment.offset:g} s: other words than from the whole file", err=True)
    write_report(folder, report, clips)  # before anything is printed: hearing takes the time
    code = print_findings(unreadable_findings(report))
    if as_json:
        print_json(report.to_json())
    else:
        print_report(report)
    echo(f"{folder}: report.json and transcripts.jsonl", err=True)
    return code


@click.command(epilog="Example: quran-asr transcribe model.nemo recitation.mp3 --json")
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="FILE...")
@decoder_option
@look_ahead_option
@_as_json
def transcribe(
    model: Path, files: tuple[Path, ...], decoder: str, look_ahead_ms: int | None, as_json: bool
) -> int:
    """Write down what is recited in sound files: a line for each, file, tab, words.

    MODEL is a .nemo file, a .ckpt file of a run, a run folder (its best checkpoint), or a bundle. --json
    gives the times of the words too. A file that cannot be heard is named, and the others are still
    transcribed.
    """
    from dataclasses import replace

    segments, rates, errors = _as_segments(files)
    answers = []
    if segments:
        recognizer = load(model, decoder, look_ahead_ms)
        print_findings(low_rate_notes(rates))
        with progress_bar("hearing", "files") as on_progress:
            transcribed = list(recognizer.recognize_clips(segments, on_progress))
        for segment, answer in zip(segments, transcribed, strict=True):
            if isinstance(answer, QuranAsrError):
                errors.append(answer)
            else:
                answers.append((segment, replace(answer, text=" ".join(answer.text.split()))))
    if len(files) == 1 and errors:
        raise errors[0]
    if as_json:
        print_json(
            [
                {
                    "audio_filepath": segment.audio,
                    "text": answer.text,
                    "words": [word_json(word) for word in answer.words],
                }
                for segment, answer in answers
            ]
        )
    else:
        for segment, answer in answers:
            echo(f"{segment.audio}\t{answer.text}")
    for error in errors:
        echo(f"error: {error}", err=True)
    if errors:
        raise QuranAsrError(f"{len(errors)} of {len(files)} files could not be transcribed")
    return 0


def print_report(report: Report) -> None:
    """The report as a table, rates in percent."""
    setting, whole = report.setting, report.whole
    ahead = "whole recording" if setting.look_ahead_ms is None else f"look-ahead {setting.look_ahead_ms} ms"
    echo(f"model     {setting.model}")
    echo(f"heard by  {setting.decoder}, {ahead}{', as a stream' if setting.streaming else ''}")
    echo(f"spelling  {setting.spelling} ({setting.edition} edition)")
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
        f"{errors:,} word errors: {report.spelling_only_errors:,} of spelling (the letters agree), "
        f"{report.recognition_errors:,} of hearing"
    )
    echo(
        f"{report.mostly_deleted:,} clips lost (less than half of the words heard), "
        f"{report.looping_clips:,} looping (a repetition that was not said), "
        f"{len(report.unreadable):,} unreadable"
    )
    if report.steadiness is not None:
        print_steadiness(report.steadiness)
    echo(f"intervals: {report.interval_method}")
    if "unknown" in report.cells:
        echo("which reciters and texts the model knew is unknown: name its training with --trained-on")
    for clip in report.worst[:SHOWN_WORST]:
        segment, score = clip.segment, clip.score
        echo()
        where = " ".join(str(verse) for verse in segment.verses)
        echo(f"{segment.audio} at {segment.offset:g} s {where}".rstrip())
        echo(f"  {score.words.errors} errors in {score.words.reference_length} words")
        echo(f"  said:  {score.reference}")
        echo(f"  heard: {score.hypothesis}")
        wrong = [edit for edit in score.edits() if edit.kind != "hit"]
        for edit in wrong[:SHOWN_EDITS]:
            if edit.kind == "substitution":
                echo(f"    instead of  {edit.reference}  heard  {edit.hypothesis}")
            else:
                echo(
                    f"    {'added' if edit.kind == 'insertion' else 'left out'}  "
                    f"{edit.hypothesis or edit.reference}"
                )
        if len(wrong) > SHOWN_EDITS:
            echo(f"    and {len(wrong) - SHOWN_EDITS} more")


def print_steadiness(steadiness: Steadiness) -> None:
    """What a listener saw of a stream, in two lines."""
    echo(f"{steadiness.differing_clips:,} clips with other words than from the whole file")
    echo(
        f"{steadiness.words:,} words shown: {steadiness.grown:,} times one grew while it was said, "
        f"{steadiness.replaced:,} times one became another or went"
    )


def _cells(group: Group) -> tuple[object, ...]:
    def percent(rate: float) -> str:
        return f"{100 * rate:6.2f}" if rate != float("inf") else "     -"

    def between(interval: tuple[float, float] | None) -> str:
        return "-" if interval is None else f"{100 * interval[0]:.2f} to {100 * interval[1]:.2f}"

    spelled, letters = group.spelled, group.letters
    return (
        group.clips,
        spelled.words.reference_length,
        percent(spelled.words.rate),
        between(spelled.wer_interval),
        percent(spelled.characters.rate),
        between(spelled.cer_interval),
        percent(letters.words.rate),
        percent(letters.characters.rate),
    )


def _origin(model: Path) -> tuple[str, Path | None]:
    """The name of the model that a bundle was made from, and what it was trained on."""
    from quran_asr.evaluation.training_data import FILE_NAME

    run = model if model.is_dir() else model.parent.parent
    known = run / FILE_NAME
    return str(model), known if known.is_file() else None


def _default_folder(recognizer: Recognizer, manifest: Path, streaming: bool) -> Path:
    model = Path(recognizer.name)
    place = Path("evaluations")  # of a bundle too: its folder is an export's alone
    known = recognizer.training_data
    if known is not None and (known.parent / "recipe.yaml").is_file():
        place = known.parent / place
    name = model.resolve().name if model.is_dir() else model.stem
    ahead = "" if recognizer.look_ahead_ms is None else f"--{recognizer.look_ahead_ms}ms"
    way = "--streaming" if streaming else ""
    folder = place / name / f"{manifest.stem}--{recognizer.decoder}{ahead}{way}"
    number = 2
    while _of_something_else(folder, recognizer.name, manifest):  # never over another one's report
        folder = folder.with_name(f"{manifest.stem}--{recognizer.decoder}{ahead}{way}--{number}")
        number += 1
    return folder


def _of_something_else(folder: Path, model: str, manifest: Path) -> bool:

    from quran_asr.evaluation.evaluate import REPORT_NAME
    from quran_asr.files import parse_json

    try:
        report = parse_json((folder / REPORT_NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return not isinstance(report, dict) or (report.get("model"), report.get("manifest")) != (
        model,
        str(manifest),
    )


def _refuse_a_file(folder: Path | None) -> None:
    """A folder that cannot be made is said now, not after the model has been loaded."""
    for place in () if folder is None else (folder, *folder.parents):
        if place.exists():
            if not place.is_dir():
                what = "a file, and reports are written into a folder"
                remedy = "name a folder with --to; it is made if it is not there"
                raise QuranAsrError(what, where=str(place), remedy=remedy)
            return


def _as_segments(files: tuple[Path, ...]) -> tuple[list[Segment], dict[str, int], list[QuranAsrError]]:
    """Whole files as segments, their rates in hertz as stored, and what is wrong with the others."""
    from quran_asr.audio import probe
    from quran_asr.records import Segment

    segments: list[Segment] = []
    rates: dict[str, int] = {}
    errors: list[QuranAsrError] = []
    for file in files:
        try:
            if file.is_dir():
                raise QuranAsrError("this is a folder", where=str(file), remedy=f"name files: {file}/*.mp3")
            info = probe(file)
            segments.append(Segment(str(file), 0.0, info.seconds, (), "", ""))
            rates[str(file)] = info.rate
        except QuranAsrError as error:
            errors.append(error)
    return segments, rates, errors
