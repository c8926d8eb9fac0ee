"""The option --model: a bundle, a `.nemo`, a `.ckpt` or a run folder, loaded as a recognizer."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from functools import partial, wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import click

from quran_asr.cli.options import FiniteRange, need
from quran_asr.cli.output import echo
from quran_asr.decoding.options import DECODERS, DEFAULT_DECODER
from quran_asr.errors import Finding, QuranAsrError

if TYPE_CHECKING:
    from quran_asr.records import Samples, Segment, Transcript

RecognizeClips = Callable[..., "Iterator[Transcript | QuranAsrError]"]
"""As `Recognizer.recognize_clips`."""
KINDS = "name a bundle, a .nemo, a .ckpt or a run folder"

model_option = click.option(
    "--model",
    type=click.Path(path_type=Path),
    metavar="MODEL",
    help="A bundle, a .nemo, a .ckpt in its run, or a run folder (its best checkpoint). "
    "Default: the model in the package.",
)
decoder_option = click.option(
    "--decoder",
    type=click.Choice(DECODERS),
    help="Decoder. Default: transducer-beam, or transducer (greedy) for a model that needs whole recordings.",
)
look_ahead_option = click.option(
    "--look-ahead",
    "look_ahead_ms",
    type=click.IntRange(min=0),
    metavar="MS",
    help="Look-ahead of the encoder in milliseconds. Default: the widest of the model.",
)


@dataclass(frozen=True, slots=True)
class LanguageModelOptions:
    """The language model that was asked for; see `runtime.shallow_fusion.load_fusion`."""

    lm: str | None = None
    passage: str | None = None
    lm_weight: float | None = None
    token_bonus: float | None = None

    @property
    def given(self) -> bool:
        return self != LanguageModelOptions()


NO_LANGUAGE_MODEL = LanguageModelOptions()


def language_model_options(command: Callable[..., int]) -> Callable[..., int]:
    """The options of a language model; the command takes them as `language`, `LanguageModelOptions`."""

    @click.option(
        "--lm",
        metavar="FILE|quran",
        help="Language model of `lm build`, or `quran` for the whole Quran. It prefers words of its text, "
        "which may hide errors of the reciter. Default: none, words as recited.",
    )
    @click.option(
        "--passage",
        metavar="VERSES",
        help="Language model of these verses alone instead of --lm, for example 2:1-141, 112-114 or juz 30.",
    )
    @click.option(
        "--lm-weight",
        type=FiniteRange(min=0),
        metavar="WEIGHT",
        help="Weight of the language model. Default: that of `lm tune`, else 0.5.",
    )
    @click.option(
        "--token-bonus",
        type=FiniteRange(min=-100, max=100),
        metavar="BONUS",
        help="Score added for each token. Default: that of `lm tune`, else 1.",
    )
    @wraps(command)
    def with_language(
        lm: str | None,
        passage: str | None,
        lm_weight: float | None,
        token_bonus: float | None,
        **others: Any,
    ) -> int:
        return command(language=LanguageModelOptions(lm, passage, lm_weight, token_bonus), **others)

    return with_language


rescore_option = click.option(
    "--rescore",
    type=click.IntRange(1, 1000),
    metavar="N",
    help="Rescore the N best texts with the language model, instead of searching with it.",
)


class Recognizer(Protocol):
    """What an evaluation needs of a recognizer, with torch or without."""

    name: str
    decoder: str
    look_ahead_ms: int | None
    spelling: str
    training_data: Path | None

    @property
    def edition(self) -> str: ...

    def text_of(self, samples: Samples) -> str: ...

    def recognize_clips(
        self,
        segments: Sequence[Segment],
        on_progress: Callable[[int, int], None] | None = None,
        on_seconds: Callable[[float], None] | None = None,
    ) -> Iterator[Transcript | QuranAsrError]: ...


def named_or_default(model: Path | None) -> Path:
    """The model of the option, or the one in the package.

    Raises:
        QuranAsrError: the named model does not exist, or none is named and the package contains none.
    """
    if model is None:
        from quran_asr.runtime.bundle import default_model

        return default_model()
    if not model.exists():
        raise QuranAsrError("no such model", where=str(model), remedy=KINDS)
    return model


def is_bundle(model: Path) -> bool:
    """Whether the folder is meant as a bundle; reading it finds out what is wrong with it."""
    return any((model / name).is_file() for name in ("bundle.json", "encoder.onnx"))


def refuse_model(path: Path) -> None:
    """Refuse a model where a recording is expected.

    Raises:
        QuranAsrError: it is one; the hint shows the option.
    """
    if path.suffix in (".nemo", ".ckpt") or is_bundle(path) or (path / "recipe.yaml").is_file():
        what = "this is a model, not a recording"
        raise QuranAsrError(what, where=str(path), remedy=f"name the model with --model {path}")


def load(
    model: Path,
    decoder: str | None,
    look_ahead_ms: int | None,
    language: LanguageModelOptions = NO_LANGUAGE_MODEL,
    threads: int | None = None,
) -> Recognizer:
    """A recognizer of whole recordings; torch is imported only for models that are not bundles.

    Args:
        model: a bundle, a `.nemo`, a `.ckpt` or a run folder.
        decoder: one of `DECODERS`; None takes the default of the model.
        look_ahead_ms: one of the model's; None takes the widest.
        language: model of the language, and how it is used; needs a bundle.
        threads: of a bundle's encoder; None takes what ONNX Runtime chooses.

    Raises:
        QuranAsrError: the model cannot be loaded, or lacks the decoder or the look-ahead.
    """
    if is_bundle(model):
        from quran_asr.runtime.recognizer import load as load_bundle

        return load_bundle(
            model,
            decoder=decoder or DEFAULT_DECODER,
            look_ahead_ms=look_ahead_ms,
            threads=threads,
            **asdict(language),
        )
    checkpoint = checkpoint_of(model)
    if language.given:
        raise QuranAsrError(
            "a language model needs a bundle",
            where=str(model),
            remedy=f"`quran-asr export {model} --to FOLDER` makes one",
        )
    need("train")
    refuse_bad_archive(checkpoint)
    from quran_asr.training.recognizer import load_recognizer

    return load_recognizer(model, decoder, look_ahead_ms)


def recognize_lists(recognizer: Recognizer, count: int, rescore: int | None) -> RecognizeClips:
    """`recognize_clips` of a bundle's recognizer with n-best lists, rescored with its language model."""
    from quran_asr.runtime.n_best import recognize_clips_n_best
    from quran_asr.runtime.recognizer import Recognizer as OfBundle

    if not isinstance(recognizer, OfBundle):
        raise QuranAsrError(
            "n-best lists need a bundle",
            where=recognizer.name,
            remedy="`quran-asr export MODEL --to FOLDER` makes one",
        )
    return partial(recognize_clips_n_best, recognizer, count=count, rescore=rescore is not None)


def refuse_rescoring(rescore: int | None, language: LanguageModelOptions) -> None:
    """Refuse to rescore without a language model, before anything is loaded."""
    if rescore is not None and language.lm is None and language.passage is None:
        raise QuranAsrError("`--rescore` needs a language model", remedy="name one with --lm or --passage")


@contextmanager
def as_bundle(model: Path) -> Iterator[Path]:
    """The bundle itself, or a temporary one that is exported from the model.

    Raises:
        QuranAsrError: the model cannot be loaded or cannot stream. Errors about a temporary bundle name the
            checkpoint that it was exported from.
    """
    if is_bundle(model):
        yield model
        return
    checkpoint = checkpoint_of(model)
    command = f"quran-asr export {shlex.quote(str(checkpoint))} --to FOLDER"
    try:
        need("train")
    except QuranAsrError as error:
        raise QuranAsrError(
            f"is not a bundle, and to export it {error.what}",
            where=str(checkpoint),
            remedy=f"{error.remedy}, or where that is installed: {command}",
        ) from None
    refuse_bad_archive(checkpoint)
    import tempfile

    from quran_asr.export.bundle import export

    echo(f"{checkpoint} is not a bundle: it is exported to a temporary one; to keep one: {command}", err=True)
    with tempfile.TemporaryDirectory(prefix="quran-asr-") as folder:
        bundle = Path(folder) / "bundle"
        try:
            export(checkpoint, bundle, on_step=lambda step: echo(f"{step} ...", err=True))
        except QuranAsrError as error:
            what = f"cannot be exported to a bundle: {error.what}"
            raise QuranAsrError(what, where=str(checkpoint), remedy=error.remedy or command) from error
        try:
            yield bundle
        except QuranAsrError as error:
            if error.where != str(bundle):
                raise
            raise QuranAsrError(error.what, where=str(checkpoint), remedy=error.remedy) from None


def checkpoint_of(model: Path) -> Path:
    """The `.nemo` or `.ckpt` itself, or the best of a run folder; nothing is opened, torch is not needed.

    Raises:
        QuranAsrError: the path is a bundle, or neither a checkpoint nor a run.
    """
    from quran_asr.experiments.run_folder import meant_runs, open_run

    if not model.exists():
        raise QuranAsrError("no such model", where=str(model), remedy="name a .nemo, a .ckpt or a run folder")
    if is_bundle(model):
        raise QuranAsrError(
            "this is already a bundle",
            where=str(model),
            remedy="name the .nemo, the .ckpt or the run folder that it was exported from",
        )
    if model.is_dir():
        if not (model / "recipe.yaml").is_file():
            runs = meant_runs(model)
            what = "neither a bundle nor a run: it has no bundle.json and no recipe.yaml"
            raise QuranAsrError(
                what, where=str(model), remedy=f"did you mean {runs[-1].path}?" if runs else KINDS
            )
        return open_run(model).model_file()
    if model.suffix not in (".nemo", ".ckpt"):
        raise QuranAsrError("neither a .nemo nor a .ckpt", where=str(model), remedy=KINDS)
    return model


def refuse_bad_archive(checkpoint: Path) -> None:
    """Refuse what a `.nemo` may not contain before NeMo is imported, which takes ten seconds more.

    Raises:
        QuranAsrError: the archive is refused.
    """
    if checkpoint.suffix == ".nemo":
        from quran_asr.training.nemo_archive import read_archive

        read_archive(checkpoint)


def level_notes(segments: Sequence[Segment]) -> list[Finding]:
    """What is silent, very quiet, clipped, or has cancelling or empty channels: one note for each kind.

    What cannot be read is left to recognition to report.
    """
    from quran_asr.audio import stored
    from quran_asr.level_meter import LevelMeter, summarized

    notes: list[Finding] = []
    for segment in segments:
        meter = LevelMeter()
        with suppress(QuranAsrError, OSError):
            for block in stored(segment.audio, segment.offset, segment.duration or None):
                meter.add(block)
            notes += meter.notes(segment.place)
    return summarized(notes)


def level_notes_of_files(files: Sequence[Path], seconds: float = 0.0) -> list[Finding]:
    """The same of whole files, or of their first seconds."""
    from quran_asr.records import Segment

    return level_notes([Segment(str(file), 0.0, seconds, (), "", "") for file in files])


def rates_of(segments: Sequence[Segment]) -> dict[str, int]:
    """Recording -> stored sample rate in hertz; unreadable ones are left to recognition to report."""
    from quran_asr.audio import probe

    rates: dict[str, int] = {}
    for audio in dict.fromkeys(segment.audio for segment in segments):
        with suppress(QuranAsrError, OSError):
            rates[audio] = probe(audio).rate
    return rates


def low_rate_notes(rates: Mapping[str, int]) -> list[Finding]:
    """One note about all recordings that are stored at less than 16 kHz, or none.

    Args:
        rates: recording -> stored sample rate in hertz.
    """
    from quran_asr.records import SAMPLE_RATE

    low = [(audio, rate) for audio, rate in rates.items() if rate < SAMPLE_RATE]
    if not low:
        return []
    where, rate = low[0]
    stored = f"stored at {rate:,} Hz"
    if len(rates) > 1:
        which = "is" if len(low) == 1 else "are"
        stored = f"{len(low):,} of {len(rates):,} recordings {which} stored at less than {SAMPLE_RATE:,} Hz, "
        stored += f"the first {where} at {rate:,} Hz"
        where, rate = "", max(rate for _, rate in low)
    return [
        Finding(
            "note",
            "low-rate",
            where,
            f"{stored}: it contains nothing above {rate // 2:,} Hz, and a model trained at "
            f"{SAMPLE_RATE:,} Hz may recognize it less well",
            f"use a recording of {SAMPLE_RATE:,} Hz or more; resampling this one adds nothing",
        )
    ]
