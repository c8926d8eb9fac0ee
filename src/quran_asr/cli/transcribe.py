"""`quran-asr transcribe`: the words of recordings, with times."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from quran_asr.cli.models import (
    LanguageModelOptions,
    decoder_option,
    language_model_options,
    level_notes,
    load,
    look_ahead_option,
    low_rate_notes,
    model_option,
    named_or_default,
    recognize_lists,
    refuse_model,
    refuse_rescoring,
    rescore_option,
)
from quran_asr.cli.output import echo, print_error, print_findings, print_json, progress_bar, word_json
from quran_asr.decoding.options import BEAMS
from quran_asr.errors import QuranAsrError

if TYPE_CHECKING:
    from quran_asr.records import Segment


@click.command(epilog="Example: quran-asr transcribe recitation.mp3 --json")
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="FILE...")
@model_option
@decoder_option
@look_ahead_option
@language_model_options
@rescore_option
@click.option(
    "--n-best",
    type=click.IntRange(1, 1000),
    metavar="N",
    help="With --json: also the N most probable texts of each file, with their scores.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON, with the times of the words.")
def transcribe(
    files: tuple[Path, ...],
    model: Path | None,
    decoder: str,
    look_ahead_ms: int | None,
    language: LanguageModelOptions,
    n_best: int | None,
    rescore: int | None,
    as_json: bool,
) -> int:
    """Transcribe audio files.

    Prints one line for each FILE: the file, a tab, the words. A file that cannot be transcribed is reported,
    the others are still transcribed, and the exit code is 2. Words are printed as recited; --lm and --passage
    give fewer errors for a reciter who makes none, and hide some of those that are made.
    """
    for file in files:
        refuse_model(file)
    if n_best is not None and not as_json:
        raise QuranAsrError("`--n-best` applies to --json", remedy="add --json")
    refuse_rescoring(rescore, language)
    segments, rates, errors = _as_segments(files)
    results = []
    if segments:
        listed = max(n_best or 0, rescore or 0)
        decoder = BEAMS[decoder] if listed else decoder
        recognizer = load(named_or_default(model), decoder, look_ahead_ms, language)
        print_findings([*low_rate_notes(rates), *level_notes(segments)])
        recognize = recognize_lists(recognizer, listed, rescore) if listed else recognizer.recognize_clips
        with progress_bar("transcribing", "files") as on_progress:
            answers = list(recognize(segments, on_progress))
        for segment, answer in zip(segments, answers, strict=True):
            if isinstance(answer, QuranAsrError):
                errors.append(answer)
            else:
                results.append((segment, replace(answer, text=" ".join(answer.text.split()))))
    if len(files) == 1 and errors:
        raise errors[0]
    if as_json:
        print_json(
            [
                {
                    "audio_filepath": segment.audio,
                    "text": transcript.text,
                    "words": [word_json(word) for word in transcript.words],
                    **({"n_best": [asdict(one) for one in transcript.n_best[:n_best]]} if n_best else {}),
                }
                for segment, transcript in results
            ]
        )
    else:
        for segment, transcript in results:
            echo(f"{segment.audio}\t{transcript.text}")
    for error in errors:
        print_error(error)
    if errors:
        raise QuranAsrError(f"{len(errors)} of {len(files)} files could not be transcribed")
    return 0


def _as_segments(files: tuple[Path, ...]) -> tuple[list[Segment], dict[str, int], list[QuranAsrError]]:
    """Whole files as segments, their stored sample rates in hertz, and what is wrong with the others."""
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
