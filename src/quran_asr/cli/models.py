"""MODEL arguments: a `.nemo`, a `.ckpt`, a run folder or a bundle, each loaded as a recognizer."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import click

from quran_asr.cli.options import need
from quran_asr.cli.output import echo
from quran_asr.decoding.options import DECODERS
from quran_asr.errors import Finding, QuranAsrError

if TYPE_CHECKING:
    from quran_asr.records import Segment, Transcript

KINDS = "give a .nemo, a .ckpt, a run folder or a bundle"

decoder_option = click.option(
    "--decoder",
    type=click.Choice(DECODERS),
    default="transducer",
    show_default=True,
    help="Decoder (ctc-beam: bundles only).",
)
look_ahead_option = click.option(
    "--look-ahead",
    "look_ahead_ms",
    type=click.IntRange(min=0),
    metavar="MS",
    help="Milliseconds that the model may look ahead; default: its widest.",
)


class Recognizer(Protocol):
    """What a measurement asks of a recognizer, with torch or without."""

    name: str
    decoder: str
    look_ahead_ms: int | None
    spelling: str
    training_data: Path | None

    @property
    def edition(self) -> str: ...

    def recognize_clips(
        self, segments: Sequence[Segment], on_progress: Callable[[int, int], None] | None = None
    ) -> Iterator[Transcript | QuranAsrError]: ...


def is_bundle(model: Path) -> bool:
    """Whether it is meant as one; what is wrong with it, reading it will tell."""
    return any((model / name).is_file() for name in ("bundle.json", "encoder.onnx"))


def load(model: Path, decoder: str, look_ahead_ms: int | None) -> Recognizer:
    """A recognizer of whole recordings; torch is imported for what is no bundle only.

    Raises:
        QuranAsrError: nothing loadable there, or it lacks what is asked for.
    """
    _refuse_nothing(model)
    if is_bundle(model):
        from quran_asr.runtime.recognizer import load as load_bundle

        return load_bundle(model, decoder=decoder, look_ahead_ms=look_ahead_ms)
    refuse_what_is_no_model(model)
    if decoder == "ctc-beam":
        raise QuranAsrError(
            "only a bundle is heard with ctc-beam",
            where=str(model),
            remedy=f"`quran-asr export {model} --to FOLDER` makes one",
        )
    need("train")
    look_through(model)
    from quran_asr.training.recognizer import load_recognizer

    return load_recognizer(model, decoder, look_ahead_ms)


@contextmanager
def as_bundle(model: Path) -> Iterator[Path]:
    """The bundle itself, or one that is made of the model for as long as it is needed.

    Raises:
        QuranAsrError: nothing loadable there, or nothing that streams; what goes wrong with a bundle that is
            made for once is said of its checkpoint.
    """
    _refuse_nothing(model)
    if is_bundle(model):
        yield model
        return
    refuse_what_is_no_model(model)
    from quran_asr.experiments.run_folder import open_run

    checkpoint = open_run(model).model_file() if model.is_dir() else model
    command = f"quran-asr export {shlex.quote(str(checkpoint))} --to FOLDER"
    try:
        need("train")
    except QuranAsrError as error:
        raise QuranAsrError(
            f"is no bundle; without one {error.what}",
            where=str(checkpoint),
            remedy=f"{error.remedy}, or where that is installed: {command}",
        ) from None
    look_through(checkpoint)
    import tempfile

    from quran_asr.export.bundle import export

    echo(f"{checkpoint} is not a bundle: it is exported to a temporary one; to keep one: {command}", err=True)
    with tempfile.TemporaryDirectory(prefix="quran-asr-") as folder:
        bundle = Path(folder) / "bundle"
        try:
            export(checkpoint, bundle, on_step=lambda step: echo(f"{step} ...", err=True))
        except QuranAsrError as error:
            what = f"no bundle can be made of it: {error.what}"
            raise QuranAsrError(what, where=str(checkpoint), remedy=error.remedy or command) from error
        try:
            yield bundle
        except QuranAsrError as error:
            if error.where != str(bundle):
                raise
            raise QuranAsrError(error.what, where=str(checkpoint), remedy=error.remedy) from None


def look_through(model: Path) -> None:
    """Refuse what no `.nemo` may hold before NeMo is imported, which also takes ten seconds more.

    Raises:
        QuranAsrError: it, or the best one of a run, is refused.
    """
    from quran_asr.experiments.run_folder import open_run

    path = open_run(model).model_file() if model.is_dir() else model
    if path.suffix == ".nemo":
        from quran_asr.training.nemo_archive import read_archive

        read_archive(path)


def _refuse_nothing(model: Path) -> None:
    if not model.exists():
        raise QuranAsrError("no such model", where=str(model), remedy=KINDS)


def refuse_bundle(model: Path) -> None:
    """Where what a bundle is made from is wanted."""
    if is_bundle(model):
        raise QuranAsrError(
            "this is a bundle already",
            where=str(model),
            remedy="name the .nemo, the .ckpt or the run that it was made from",
        )


def refuse_what_is_no_model(model: Path) -> None:
    """What is no bundle must at least look like a run or a checkpoint; torch is not needed to see that."""
    _refuse_nothing(model)
    if model.is_dir() and not (model / "recipe.yaml").is_file():
        from quran_asr.experiments.run_folder import meant_runs

        runs = meant_runs(model)
        what = "neither a bundle nor a run: it has no bundle.json and no recipe.yaml"
        raise QuranAsrError(
            what, where=str(model), remedy=f"did you mean {runs[-1].path}?" if runs else KINDS
        )
    if model.is_file() and model.suffix not in (".nemo", ".ckpt"):
        raise QuranAsrError("neither a .nemo nor a .ckpt", where=str(model), remedy=KINDS)


def rates_of(segments: Sequence[Segment]) -> dict[str, int]:
    """Recording -> hertz as stored; those that cannot be read are for the hearing to name."""
    from quran_asr.audio import probe

    rates: dict[str, int] = {}
    for audio in dict.fromkeys(segment.audio for segment in segments):
        with suppress(QuranAsrError, OSError):
            rates[audio] = probe(audio).rate
    return rates


def low_rate_notes(rates: Mapping[str, int]) -> list[Finding]:
    """One note of all recordings that are stored at less than 16 kHz; none if none is.

    Args:
        rates: recording -> hertz as stored.
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
            f"{stored}: nothing above {rate // 2:,} Hz is in it, and a model trained at {SAMPLE_RATE:,} Hz "
            "may hear it worse",
            f"take a recording of {SAMPLE_RATE:,} Hz or more; converting this one adds nothing",
        )
    ]
