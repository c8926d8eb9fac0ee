"""`quran-asr evaluate` and `quran-asr transcribe`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from quran_asr.cli.extras import need
from quran_asr.cli.printing import print_findings, print_json, print_table, progress_bar
from quran_asr.findings import QuranAsrError

if TYPE_CHECKING:
    from quran_asr.measure.report import Group, Report
    from quran_asr.records import Segment
    from quran_asr.train.recognize import Recognizer

SHOWN_WORST = 3
"""Of the worst clips in the report, so many are shown on the screen."""

SHOWN_EDITS = 10
"""Of each, so many wrong words."""

_decoder = click.option(
    "--decoder",
    type=click.Choice(["transducer", "ctc"]),
    default="transducer",
    show_default=True,
    help="The part of the model that says the words.",
)
_look_ahead = click.option(
    "--look-ahead",
    "look_ahead_ms",
    type=click.IntRange(min=0),
    metavar="MS",
    help="Milliseconds that the model may look ahead; default: its widest.",
)
_as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@click.command(
    epilog="Example: quran-asr evaluate nemo_experiments/laptop/2026-01-31_12-00-00 data/test.jsonl"
)
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("manifest", type=click.Path(path_type=Path))
@_decoder
@_look_ahead
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
    trained_on: Path | None,
    folder: Path | None,
    as_json: bool,
) -> int:
    """Say how well MODEL hears the clips of MANIFEST.

    MODEL is a .nemo file, a .ckpt file of a run, or a run folder (its best checkpoint).
    """
    from quran_asr.corpus.manifest import read_lines, read_manifest
    from quran_asr.measure.evaluate import evaluate as measure
    from quran_asr.measure.evaluate import unreadable_findings, write_report
    from quran_asr.measure.report import Setting
    from quran_asr.measure.training_data import TrainingData, find_training_data

    read_lines(manifest)  # a bad line is said now, not after the model has been loaded
    recognizer = _load(model, decoder, look_ahead_ms)
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
    )
    folder = folder or _default_folder(recognizer, manifest)
    folder.mkdir(parents=True, exist_ok=True)  # fails now rather than when everything has been heard

    with progress_bar("hearing", "clips") as on_progress:
        report, clips = measure(segments, recognizer.recognize, setting, training, on_progress)
    print_findings(unreadable_findings(report))
    if as_json:
        print_json(report.to_json())
    else:
        print_report(report)
    write_report(folder, report, clips)
    click.echo(f"{folder}: report.json and transcripts.jsonl", err=True)
    return 0


@click.command(epilog="Example: quran-asr transcribe model.nemo recitation.mp3 --json")
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="FILE...")
@_decoder
@_look_ahead
@_as_json
def transcribe(
    model: Path, files: tuple[Path, ...], decoder: str, look_ahead_ms: int | None, as_json: bool
) -> int:
    """Write down what is recited in sound files: a line for each, file, tab, words.

    MODEL is a .nemo file, a .ckpt file of a run, or a run folder (its best checkpoint). --json gives the
    times of the words too. A file that cannot be heard is named, and the others are still transcribed.
    """
    from dataclasses import replace

    segments, errors = _as_segments(files)
    answers = []
    if segments:
        recognizer = _load(model, decoder, look_ahead_ms)
        with progress_bar("hearing", "files") as on_progress:
            heard = list(recognizer.recognize(segments, on_progress))
        for segment, answer in zip(segments, heard, strict=True):
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
                    "words": [
                        {
                            "text": word.text,
                            "start": round(word.start, 3),
                            "end": round(word.end, 3),
                            "confidence": word.confidence,
                        }
                        for word in answer.words
                    ],
                }
                for segment, answer in answers
            ]
        )
    else:
        for segment, answer in answers:
            click.echo(f"{segment.audio}\t{answer.text}")
    for error in errors:
        click.echo(f"error: {error}", err=True)
    if errors:
        raise QuranAsrError(f"{len(errors)} of {len(files)} files could not be transcribed")
    return 0


def print_report(report: Report) -> None:
    """The report as a table, rates in percent."""
    setting, whole = report.setting, report.whole
    ahead = "whole recording" if setting.look_ahead_ms is None else f"look-ahead {setting.look_ahead_ms} ms"
    click.echo(f"model     {setting.model}")
    click.echo(f"heard by  {setting.decoder}, {ahead}")
    click.echo(f"spelling  {setting.spelling} ({setting.edition} edition)")
    click.echo(f"clips     {whole.clips:,} of {setting.manifest}, {whole.hours:.2f} h")
    click.echo()
    groups = [("all", whole)]
    for name, group in report.cells.items():
        groups.append(("training data unknown" if name == "unknown" else name, group))
    groups += [(f"reciter {name}", group) for name, group in report.reciters.items()]
    groups += [(f"{name} clips", group) for name, group in report.lengths.items()]
    header = ("", "clips", "words", "WER %", "95 %", "CER %", "95 %", "WER % letters", "CER % letters")
    print_table(header, [(name, *_cells(group)) for name, group in groups])
    click.echo()
    errors = whole.spelled.words.errors
    click.echo(
        f"{errors:,} word errors: {report.spelling_errors:,} of spelling (the letters agree), "
        f"{report.hearing_errors:,} of hearing"
    )
    click.echo(
        f"{report.lost_clips:,} clips lost (less than half of the words heard), "
        f"{report.looping_clips:,} looping (a repetition that was not said), "
        f"{len(report.unreadable):,} unreadable"
    )
    click.echo(f"intervals: {report.interval_method}")
    if "unknown" in report.cells:
        click.echo("which reciters and texts the model knew is unknown: name its training with --trained-on")
    for clip in report.worst[:SHOWN_WORST]:
        segment, score = clip.segment, clip.score
        click.echo()
        where = " ".join(str(verse) for verse in segment.verses)
        click.echo(f"{segment.audio} at {segment.offset:g} s {where}".rstrip())
        click.echo(f"  {score.words.errors} errors in {score.words.said} words")
        click.echo(f"  said:  {score.reference}")
        click.echo(f"  heard: {score.hypothesis}")
        wrong = [edit for edit in score.edits() if edit.kind != "hit"]
        for edit in wrong[:SHOWN_EDITS]:
            if edit.kind == "substitution":
                click.echo(f"    instead of  {edit.said}  heard  {edit.heard}")
            else:
                click.echo(
                    f"    {'added' if edit.kind == 'insertion' else 'left out'}  {edit.heard or edit.said}"
                )
        if len(wrong) > SHOWN_EDITS:
            click.echo(f"    and {len(wrong) - SHOWN_EDITS} more")


def _cells(group: Group) -> tuple[object, ...]:
    def percent(rate: float) -> str:
        return f"{100 * rate:6.2f}" if rate != float("inf") else "     -"

    def between(interval: tuple[float, float] | None) -> str:
        return "-" if interval is None else f"{100 * interval[0]:.2f} to {100 * interval[1]:.2f}"

    spelled, letters = group.spelled, group.letters
    return (
        group.clips,
        spelled.words.said,
        percent(spelled.words.rate),
        between(spelled.wer_interval),
        percent(spelled.characters.rate),
        between(spelled.cer_interval),
        percent(letters.words.rate),
        percent(letters.characters.rate),
    )


def _load(model: Path, decoder: str, look_ahead_ms: int | None) -> Recognizer:
    if not model.exists():
        raise QuranAsrError("no such model", where=str(model), remedy="give a .nemo, a .ckpt or a run folder")
    need("train")
    from quran_asr.train.recognize import load_recognizer

    return load_recognizer(model, decoder, look_ahead_ms)


def _default_folder(recognizer: Recognizer, manifest: Path) -> Path:
    model = Path(recognizer.name)
    if recognizer.training_data is not None:
        place = recognizer.training_data.parent / "evaluations"
    else:
        place = Path("evaluations")
    ahead = "" if recognizer.look_ahead_ms is None else f"--{recognizer.look_ahead_ms}ms"
    return place / model.stem / f"{manifest.stem}--{recognizer.decoder}{ahead}"


def _as_segments(files: tuple[Path, ...]) -> tuple[list[Segment], list[QuranAsrError]]:
    """Whole files as segments, and what is wrong with the others."""
    from quran_asr.audio import probe
    from quran_asr.records import Segment

    segments: list[Segment] = []
    errors: list[QuranAsrError] = []
    for file in files:
        try:
            if file.is_dir():
                raise QuranAsrError("this is a folder", where=str(file), remedy=f"name files: {file}/*.mp3")
            segments.append(Segment(str(file), 0.0, probe(file).seconds, (), "", ""))
        except QuranAsrError as error:
            errors.append(error)
    return segments, errors
