"""`quran-asr transcribe`: the words of recordings, with times."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from quran_asr.cli.models import (
    LanguageModelOptions,
    Recognizer,
    decoder_option,
    is_bundle,
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
from quran_asr.cli.output import (
    OnProgress,
    echo,
    print_error,
    print_findings,
    print_json,
    progress_bar,
    word_json,
)
from quran_asr.decoding.options import BEAMS, DEFAULT_DECODER
from quran_asr.errors import QuranAsrError

if TYPE_CHECKING:
    from quran_asr.records import Alternative, Segment, Transcript


@click.command(epilog="Example: quran-asr transcribe recitation.mp3 --json")
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="FILE...")
@model_option
@decoder_option
@look_ahead_option
@click.option(
    "--workers",
    type=click.IntRange(1, 1024),
    metavar="N",
    help="Processes that transcribe several files at once (bundles only). Default: one for each core.",
)
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
    decoder: str | None,
    look_ahead_ms: int | None,
    workers: int | None,
    language: LanguageModelOptions,
    n_best: int | None,
    rescore: int | None,
    as_json: bool,
) -> int:
    """Transcribe audio files of any length.

    Prints one line for each FILE: the file, a tab, the words. A file that cannot be transcribed is reported,
    the others are still transcribed, and the exit code is 2. With the extra `media` FILE can also be m4a,
    mp4, 3gp, aac, webm, wma or amr. Words are printed as recited; --lm and --passage lower the error
    rate, but may hide errors of the reciter.
    """
    for file in files:
        refuse_model(file)
    if n_best is not None and not as_json:
        raise QuranAsrError("`--n-best` applies to --json", remedy="add --json")
    refuse_rescoring(rescore, language)
    segments, rates, errors = _as_segments(files)
    results = []
    if segments:
        from quran_asr.experiments.checks.machine import available_cores
        from quran_asr.runtime.parallel import recognize_in_processes

        path = named_or_default(model)
        listed = max(n_best or 0, rescore or 0)
        processes = min(workers or available_cores(), len(segments)) if is_bundle(path) and not listed else 1
        recognize: Callable[..., Iterable[Transcript | QuranAsrError]]
        if processes > 1:
            one = partial(load, path, decoder, look_ahead_ms, language, threads=1)
            _note_weight_0(one(), language)  # what is wrong with the model is reported once, and here
            recognize = partial(recognize_in_processes, one, workers=processes)
        elif listed:
            recognizer = load(path, BEAMS[decoder or DEFAULT_DECODER], look_ahead_ms, language)
            _note_weight_0(recognizer, language)
            recognize = recognize_lists(recognizer, listed, rescore)
        else:
            recognizer = load(path, decoder, look_ahead_ms, language)
            _note_weight_0(recognizer, language)
            recognize = recognizer.recognize_clips
        print_findings([*low_rate_notes(rates), *level_notes(segments)])
        with progress_bar("transcribing", "s") as on_progress:
            on_seconds = _counter(sum(segment.duration for segment in segments), on_progress)
            answers = recognize(segments) if listed else recognize(segments, on_seconds=on_seconds)
            for segment, answer in zip(segments, answers, strict=True):
                if listed:
                    on_seconds(segment.duration)
                if isinstance(answer, QuranAsrError):
                    errors.append(answer)
                elif as_json:
                    results.append(_json(segment, answer, n_best))
                else:
                    echo(f"{segment.audio}\t{' '.join(answer.text.split())}")
    if len(files) == 1 and errors:
        raise errors[0]
    if as_json:
        print_json(results)
    for error in errors:
        print_error(error)
    if errors:
        raise QuranAsrError(
            f"{len(errors)} of {len(files)} files could not be transcribed",
            remedy="each error above has its hint",
        )
    return 0


def _note_weight_0(recognizer: Recognizer, language: LanguageModelOptions) -> None:
    """A language model that was asked for and was tuned to weight 0 would otherwise do nothing in silence."""
    if not language.given or language.lm_weight is not None:
        return
    from quran_asr.runtime.recognizer import Recognizer as OfBundle

    fusion = recognizer.decoding.fusion if isinstance(recognizer, OfBundle) else None
    if fusion is not None and fusion.lm_weight == 0:
        named = language.lm or f"of {language.passage}"
        echo(
            f"note: `lm tune` found weight 0 best, with which the language model {named} changes nothing; "
            "--lm-weight sets another weight",
            err=True,
        )


def _json(segment: Segment, transcript: Transcript, n_best: int | None) -> dict[str, Any]:
    return {
        "audio_filepath": segment.audio,
        "text": " ".join(transcript.text.split()),
        "words": [word_json(word) for word in transcript.words],
        **({"n_best": [_alternative_json(one) for one in transcript.n_best[:n_best]]} if n_best else {}),
    }


def _alternative_json(one: Alternative) -> dict[str, Any]:
    return {
        "text": one.text,
        "score": round(one.score, 3),
        "acoustic_score": round(one.acoustic_score, 3),
    }


def _counter(total: float, on_progress: OnProgress) -> Callable[[float], None]:
    """What adds up seconds of audio for a progress bar."""
    done = 0.0

    def count(seconds: float) -> None:
        nonlocal done
        done += seconds
        on_progress(round(done), round(total))

    return count


def _as_segments(files: tuple[Path, ...]) -> tuple[list[Segment], dict[str, int], list[QuranAsrError]]:
    """Whole files as segments, their stored sample rates in hertz, and what is wrong with the others."""
    from quran_asr.audio import probe
    from quran_asr.records import Segment

    segments: list[Segment] = []
    rates: dict[str, int] = {}
    errors: list[QuranAsrError] = []
    for file in files:
        try:
            info = probe(file)
            segments.append(Segment(str(file), 0.0, info.seconds, (), "", ""))
            rates[str(file)] = info.rate
        except QuranAsrError as error:
            errors.append(error)
    return segments, rates, errors
