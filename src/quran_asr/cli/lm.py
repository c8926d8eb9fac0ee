"""`quran-asr lm`: build a language model over a model's tokens, evaluate it, tune its weight."""

from __future__ import annotations

from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from quran_asr.cli.models import as_bundle, decoder_option, look_ahead_option, model_option, named_or_default
from quran_asr.cli.options import FiniteRange, need
from quran_asr.cli.output import echo, print_error, print_json, print_table, progress_bar
from quran_asr.decoding.options import BEAMS, DEFAULT_DECODER
from quran_asr.errors import QuranAsrError, counted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from quran_asr.decoding.fusion import Fusion, TuningPoint
    from quran_asr.decoding.language_model import LanguageModel
    from quran_asr.records import Counts, Segment
    from quran_asr.runtime.recognizer import Recognizer
    from quran_asr.runtime.tuning_progress import TuningProgress

HELD_OUT = "12,36,67"
WEIGHTS, BONUSES = "0,0.3,0.5,0.7,1,1.4", "0,0.5,1,1.5,2,3"
SHOWN = 5
"""Of the best points of a grid, how many are printed."""

order_option = click.option(
    "--order",
    type=click.IntRange(1, 16),
    default=6,
    metavar="N",
    show_default=True,
    help="Length of the longest n-grams, in tokens.",
)
smoothing_option = click.option(
    "--smoothing",
    type=click.Choice(["witten-bell", "kneser-ney"]),
    default="witten-bell",
    show_default=True,
    help="Witten-Bell suits the Quran, a closed text; modified Kneser-Ney suits open text.",
)


class Numbers(click.ParamType):  # type: ignore[type-arg]  # not generic in click before 8.4
    """Finite numbers of a range, with commas between."""

    name = "numbers"

    def __init__(self, each: FiniteRange) -> None:
        self.each = each

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if isinstance(value, tuple):
            return value
        try:
            numbers = [float(part) for part in value.split(",")]
        except ValueError:
            self.fail(f"`{value}` is not numbers with commas between", param, ctx)
        return tuple(self.each.convert(number, param, ctx) for number in numbers)


@click.group(epilog="Example: quran-asr lm build --model bundle --to quran-lm")
def lm() -> None:
    """Build, evaluate and tune language models."""


@lm.command(
    short_help="Build an n-gram model of the Quran, or of other text.",
    epilog="Example: quran-asr lm build --model bundle --to quran-lm",
)
@click.argument("file", required=False, type=click.Path(path_type=Path), metavar="[FILE]")
@model_option
@order_option
@smoothing_option
@click.option(
    "--to",
    type=click.Path(path_type=Path),
    metavar="NAME",
    help="Name of the files without their endings; with `.npz` or `.arpa` that file alone is written. "
    "Default: quran-lm, or that of FILE.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def build(
    file: Path | None, model: Path | None, order: int, smoothing: Any, to: Path | None, as_json: bool
) -> int:
    """Build an n-gram model of the Quran, or of the text in FILE, one sentence per line.

    The n-grams are of the tokens of MODEL, in its spelling. Writes NAME.npz, which this package reads, and
    NAME.arpa, which NeMo and KenLM read. `--lm quran` reads `quran-lm.npz` in a bundle's folder if present.
    """
    from quran_asr.decoding.arpa import write_arpa
    from quran_asr.decoding.quran_language_model import build_quran_model, build_text_model
    from quran_asr.runtime.bundle import read_bundle

    name = Path(file.stem if file else "quran-lm") if to is None else to
    if name.name in ("", ".."):
        raise QuranAsrError("names a folder", where=f"--to {name}", remedy="add a name: --to FOLDER/NAME")
    both = [name.with_name(f"{name.name}{ending}") for ending in (".npz", ".arpa")]
    paths = [name] if name.suffix in (".npz", ".arpa") else both
    for path in paths:
        _refuse_other_file(path, file)
    with as_bundle(named_or_default(model)) as folder:
        bundle = read_bundle(folder)
    if file is None:
        made = build_quran_model(bundle.vocabulary, bundle.spelling, order=order, smoothing=smoothing)
    else:
        made = build_text_model(bundle.vocabulary, bundle.spelling, file, order=order, smoothing=smoothing)
    for path in paths:
        if path.suffix == ".npz":
            made.write(path)
        else:
            write_arpa(made, path)
    if as_json:
        files = {str(path): path.stat().st_size for path in paths}
        print_json({"order": order, "smoothing": smoothing, "ngrams": list(made.sizes), "files": files})
        return 0
    echo(f"{sum(made.sizes):,} n-grams up to length {made.order}, {smoothing}, {bundle.spelling} spelling")
    for path in paths:
        echo(f"{path}  {_size(path)}")
    return 0


def _size(path: Path) -> str:
    size = path.stat().st_size
    return f"{size / 1e6:.1f} MB" if size >= 1e5 else f"{size / 1e3:.1f} kB"


def _refuse_other_file(path: Path, text: Path | None) -> None:
    """A language model replaces an older one, never its own text or another file.

    Raises:
        QuranAsrError: the file is there and is something else.
    """
    if path.exists() and ((text is not None and path.samefile(text)) or not _is_language_model(path)):
        what = "this file exists and is not a language model of an earlier call"
        raise QuranAsrError(what, where=str(path), remedy="name another: --to NAME")


def _is_language_model(path: Path) -> bool:
    from quran_asr.decoding.language_model import read_language_model

    if path.suffix == ".arpa":
        with path.open("rb") as file:
            return b"\\data\\" in file.read(10_000)
    try:
        read_language_model(path)
    except QuranAsrError:
        return False
    return True


@lm.command(
    short_help="Compute perplexity on held-out surahs or other text.",
    epilog="Example: quran-asr lm evaluate --model bundle --held-out 12,36,67",
)
@click.argument("file", required=False, type=click.Path(path_type=Path), metavar="[FILE]")
@model_option
@click.option(
    "--held-out",
    default=HELD_OUT,
    show_default=True,
    metavar="SURAHS",
    help="Surahs that are left out of the counts and measured on.",
)
@click.option(
    "--lm", "language", metavar="LM", help="With FILE: evaluate this model instead of the whole Quran's."
)
@order_option
@smoothing_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def evaluate(
    file: Path | None,
    model: Path | None,
    held_out: str,
    language: str | None,
    order: int,
    smoothing: Any,
    as_json: bool,
) -> int:
    """Compute the perplexity of a language model on held-out surahs, or on the text in FILE.

    Without FILE two models of the Quran are compared on the same surahs: one that was estimated on all other
    surahs, one on the whole text. The second was estimated on the text that it predicts, so its perplexity
    shows only how closed the text is, and nothing about text outside of it.
    """
    from quran_asr.decoding.quran_language_model import (
        build_quran_model,
        held_out_perplexity,
        perplexity,
        quran_texts,
        text_perplexity,
    )
    from quran_asr.decoding.tokenization import Tokenizer
    from quran_asr.runtime.bundle import read_bundle
    from quran_asr.runtime.shallow_fusion import QURAN, read_model

    if language is not None and file is None:
        raise QuranAsrError("`--lm` applies to a FILE", remedy="name the text to measure on")
    if file is not None and _is_given("held_out"):
        raise QuranAsrError(
            "`--held-out` does not apply to a FILE",
            remedy="leave out --held-out, or the FILE to measure on surahs",
        )
    estimated = [f"--{name}" for name in ("order", "smoothing") if _is_given(name)]
    if language is not None and estimated:
        raise QuranAsrError(
            f"`{estimated[0]}` does not apply beside `--lm`, a model that is finished",
            remedy=f"leave out {estimated[0]}, or --lm to measure the whole Quran's model",
        )
    surahs = _surahs(held_out)
    with as_bundle(named_or_default(model)) as folder:
        bundle = read_bundle(folder)
    vocabulary, spelling = bundle.vocabulary, bundle.spelling
    if file is not None:
        name = language or QURAN
        if estimated:
            measured = build_quran_model(vocabulary, spelling, order=order, smoothing=smoothing)
        else:
            measured = read_model(bundle, name)
            order, smoothing = measured.order, None  # a finished model does not show how it was smoothed
        found = {f"{file}, model {name}": text_perplexity(measured, vocabulary, spelling, file)}
    else:
        whole = build_quran_model(vocabulary, spelling, order=order, smoothing=smoothing)
        texts = quran_texts(Tokenizer(vocabulary), spelling, surahs)
        out = held_out_perplexity(vocabulary, spelling, surahs, order=order, smoothing=smoothing)
        found = {
            f"surahs {held_out}, left out of the counts": out,
            f"surahs {held_out}, in the counts": perplexity(whole, texts, vocabulary),
        }
    if as_json:
        rows = [
            {
                "text": name,
                "perplexity_per_token": one.per_token if isfinite(one.per_token) else None,
                "perplexity_per_word": one.per_word if isfinite(one.per_word) else None,
                "tokens": one.tokens,
                "words": one.words,
            }
            for name, one in found.items()
        ]
        print_json({"order": order, "smoothing": smoothing, "rows": rows})
        return 0
    print_table(
        ("", "tokens", "words", "perplexity per token", "per word"),
        [
            (name, one.tokens, one.words, round(one.per_token, 2), round(one.per_word, 1))
            for name, one in found.items()
        ],
    )
    return 0


@lm.command(
    short_help="Choose weight and token bonus on validation clips.",
    epilog="Example: quran-asr lm tune bundle data/validation.jsonl",
)
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("manifest", type=click.Path(path_type=Path))
@decoder_option
@look_ahead_option
@click.option("--lm", "language", default="quran", show_default=True, metavar="LM", help="Language model.")
@click.option(
    "--weights",
    type=Numbers(FiniteRange(min=0)),
    default=WEIGHTS,
    show_default=True,
    help="Weights of the language model.",
)
@click.option(
    "--bonuses",
    type=Numbers(FiniteRange(min=-100, max=100)),
    default=BONUSES,
    show_default=True,
    help="Token bonuses.",
)
@click.option(
    "--whole-grid",
    is_flag=True,
    help="Decode all clips with every pair, for the whole curve; takes longer.",
)
@click.option("--json", "as_json", is_flag=True, help="Print all points as JSON.")
def tune(
    model: Path,
    manifest: Path,
    decoder: str | None,
    look_ahead_ms: int | None,
    language: str,
    weights: tuple[float, ...],
    bonuses: tuple[float, ...],
    whole_grid: bool,
    as_json: bool,
) -> int:
    """Choose the weight of a language model and the token bonus on the validation clips of MANIFEST.

    MODEL is a bundle. Every weight is tried with every bonus; the encoder runs once, and pairs that are
    clearly worse than the best so far are dropped after a part of the clips. The pair with the fewest word
    errors is stored in `fusion.json` in the bundle's folder, where `transcribe`, `listen` and `evaluate` find
    it, with a plot of the error rates next to it. MANIFEST must not contain clips of a later evaluation. The
    same command resumes an interrupted run.
    """
    from quran_asr.corpus.manifest import read_manifest
    from quran_asr.experiments.plots.tuning import plot_tuning
    from quran_asr.runtime.recognizer import load
    from quran_asr.runtime.shallow_fusion import described, read_model, write_tuned
    from quran_asr.runtime.tuning_progress import tuning_progress

    need("plot")
    beam = BEAMS[decoder or DEFAULT_DECODER]
    recognizer = load(model, decoder=beam, look_ahead_ms=look_ahead_ms)
    read = read_model(recognizer.bundle, language)
    segments = read_manifest(manifest, recognizer.spelling)
    with tuning_progress(recognizer, read, segments) as progress:
        if progress.encoded_clips:
            echo(
                f"resuming: {counted(progress.encoded_clips, 'clip')} encoded, "
                f"{counted(progress.evaluated_clips, 'decoding')} made before",
                err=True,
            )
        points, clips = _race(recognizer, read, segments, progress, weights, bonuses, whole_grid=whole_grid)
        if not clips:
            raise QuranAsrError(
                "none of the clips can be read",
                where=str(manifest),
                remedy="fix or replace the recordings: `quran-asr corpus audit MANIFEST` checks each",
            )
        best = points[0]
        values = {
            "lm_weight": best.lm_weight,
            "token_bonus": best.token_bonus,
            "wer": best.words.rate,
            "cer": best.characters.rate,
            "clips": clips,
            "manifest": manifest.name,
            **described(recognizer.bundle, language, read),
            "look_ahead_ms": recognizer.look_ahead_ms,
        }
        stored = write_tuned(recognizer.bundle, beam, values)
    curve = stored.with_name(f"fusion-{beam}.png")
    plot_tuning(
        curve,
        [(p.lm_weight, p.token_bonus, p.words.rate, p.clips == clips) for p in points],
        f"{beam}, {language}, {recognizer.look_ahead_ms} ms, {clips:,} clips of {manifest.name}",
    )
    if not best.lm_weight:
        what = f"with weight 0 the language model {language} does not change what {beam} recognizes"
        echo(f"note: {what}; --lm-weight sets another weight", err=True)
    if as_json:
        rows = [
            {
                "lm_weight": point.lm_weight,
                "token_bonus": point.token_bonus,
                "wer": point.words.rate,
                "cer": point.characters.rate,
                "clips": point.clips,
            }
            for point in points
        ]
        print_json({"decoder": beam, **values, "points": rows})
        return 0
    without = [point for point in points if not point.lm_weight and not point.token_bonus]
    _print_points([*points[:SHOWN], *(point for point in without if point not in points[:SHOWN])])
    echo(f"{stored}: weight {best.lm_weight:g}, token bonus {best.token_bonus:g}", err=True)
    echo(f"{curve}: the curve", err=True)
    return 0


def _race(
    recognizer: Recognizer,
    model: LanguageModel,
    segments: Sequence[Segment],
    progress: TuningProgress,
    weights: Sequence[float],
    bonuses: Sequence[float],
    *,
    whole_grid: bool,
) -> tuple[list[TuningPoint], int]:
    """All pairs of weight and bonus, the best first, and how many clips can be read; 0: no pairs either."""
    from dataclasses import replace

    from quran_asr.decoding.fusion import tune
    from quran_asr.evaluation.scoring import score_clips
    from quran_asr.runtime.n_best import decode

    pieces, references = [], []
    with progress_bar("encoding", "clips") as on_progress:
        for number, segment in enumerate(segments):
            try:
                pieces.append(progress.encoded(recognizer, segment, number))
                references.append((segment.text, *segment.also_accept))
            except QuranAsrError as error:
                print_error(error)
            on_progress(number + 1, len(segments))
    if not pieces:
        return [], 0

    def errors_with(fusion: Fusion, clips: Sequence[int]) -> list[tuple[Counts, Counts]]:
        decoding = replace(recognizer.decoding, fusion=fusion)
        texts = list(decode(recognizer, [pieces[clip] for clip in clips], decoding))
        scores = score_clips([references[clip] for clip in clips], texts, recognizer.spelling)
        return [(score.words, score.characters) for score in scores]

    evaluate = progress.remembering(errors_with)
    with progress_bar("tuning", "clips") as on_progress:
        points = tune(model, evaluate, len(pieces), weights, bonuses, on_progress, whole_grid=whole_grid)
    return points, len(pieces)


def _print_points(points: list[TuningPoint]) -> None:
    print_table(
        ("weight", "token bonus", "WER %", "CER %", "clips"),
        [
            (
                point.lm_weight,
                point.token_bonus,
                round(100 * point.words.rate, 2),
                round(100 * point.characters.rate, 2),
                point.clips,
            )
            for point in points
        ],
    )


def _is_given(option: str) -> bool:
    """Whether an option of the command was written, though perhaps with its default."""
    return click.get_current_context().get_parameter_source(option) is not ParameterSource.DEFAULT


def _surahs(written: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in written.split(","))
    except ValueError:
        raise QuranAsrError(
            f"`{written}` is not a list of surah numbers", where="--held-out", remedy="for example 12,36,67"
        ) from None
