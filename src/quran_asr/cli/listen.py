"""`quran-asr listen`: words while they are recited, from a microphone, a pipe or a file."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from quran_asr.cli.models import (
    LanguageModelOptions,
    as_bundle,
    decoder_option,
    language_model_options,
    level_notes_of_files,
    look_ahead_option,
    low_rate_notes,
    model_option,
    named_or_default,
    refuse_model,
)
from quran_asr.cli.options import FiniteRange
from quran_asr.cli.output import Json, Lines, Screen, View, echo, print_findings
from quran_asr.decoding.options import DEFAULT_DECODER, PAUSE_SECONDS
from quran_asr.errors import QuranAsrError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from quran_asr.records import Samples
    from quran_asr.runtime.audio_input import Backend
    from quran_asr.runtime.recognizer import Recognizer
    from quran_asr.runtime.tracking import WordRef

PIPE = "-"
NOTED_SECONDS = 600.0
"""Of a file, so much is measured before the first word: it shows what is wrong with the rest."""
APPLIES = {
    "device": ("--device", ("a microphone",)),
    "rate": ("--rate", ("a pipe",)),
    "stall_seconds": ("--stall", ("a microphone", "a pipe")),
    "real_time": ("--real-time", ("a file",)),
}
"""Parameter -> its option, and the kinds of input it applies to."""


@click.command(epilog="Example: quran-asr listen recitation.mp3 --look-ahead 480")
@click.argument("file", required=False, metavar="[FILE]")
@model_option
@click.option("--microphone", is_flag=True, help="Transcribe the microphone until Ctrl-C.")
@click.option("--device", metavar="NAME", help="Microphone: its number or a part of its name.")
@decoder_option
@look_ahead_option
@language_model_options
@click.option(
    "--pause",
    "pause_seconds",
    type=FiniteRange(min=0, max=3600),
    default=PAUSE_SECONDS,
    show_default=True,
    metavar="SECONDS",
    help="A pause of this length ends an utterance; 0: no pause does.",
)
@click.option("--real-time", is_flag=True, help="Read a file no faster than it was recorded.")
@click.option(
    "--rate",
    type=click.IntRange(8_000, 192_000),
    default=16_000,
    show_default=True,
    metavar="HERTZ",
    help="Sample rate of piped PCM.",
)
@click.option(
    "--stall",
    "stall_seconds",
    type=FiniteRange(min=0.1),
    default=10.0,
    show_default=True,
    metavar="SECONDS",
    help="Fail after this long without audio from a microphone or pipe.",
)
@click.option(
    "--follow",
    "follow_quran",
    is_flag=True,
    help="Find the place in the Quran and print its Uthmani words as they are recited. The look-ahead is "
    "then the widest up to 500 ms by default.",
)
@click.option(
    "--at", metavar="VERSE", help="With --follow: where the recitation is expected to begin, as in 36:1."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON, one object a line.")
def listen(
    file: str | None,
    model: Path | None,
    microphone: bool,
    device: str | None,
    decoder: str | None,
    look_ahead_ms: int | None,
    language: LanguageModelOptions,
    pause_seconds: float,
    real_time: bool,
    rate: int,
    stall_seconds: float,
    follow_quran: bool,
    at: str | None,
    as_json: bool,
) -> int:
    """Transcribe FILE, a microphone or a pipe live, word by word.

    On a terminal final words are plain and words that may still change are dim. Elsewhere each word is
    printed when it is final, one line for each utterance. FILE - reads 16-bit mono PCM from a pipe. Models
    other than bundles are first exported to a temporary bundle. With --follow a line is a verse: repeated
    words stand in (), words left out in []. Ctrl-C prints the words so far and exits with 130, or with 0 for
    a microphone.
    """
    if microphone == (file is not None):
        raise QuranAsrError("give either a FILE or --microphone", remedy="quran-asr listen recitation.mp3")
    _refuse_with_follow(follow_quran, at)
    place = None if at is None else _place(at)
    _refuse_what_does_not_apply("a microphone" if microphone else "a pipe" if file == PIPE else "a file")
    source = None if microphone or file == PIPE else _existing(str(file))
    backend = _backend() if microphone else None
    with as_bundle(named_or_default(model)) as bundle:
        from quran_asr.runtime.following import load_for_following
        from quran_asr.runtime.recognizer import load

        if follow_quran:
            recognizer = load_for_following(bundle, look_ahead_ms)
        else:
            recognizer = load(
                bundle,
                decoder=decoder or DEFAULT_DECODER,
                look_ahead_ms=look_ahead_ms,
                pause_seconds=pause_seconds or None,
                **asdict(language),
            )
        if source is not None:
            print_findings(level_notes_of_files([source], NOTED_SECONDS))
            rate = recognizer.bundle.features.sample_rate
            pieces = _of_file(recognizer, source, real_time)
        elif backend is not None:
            rate = recognizer.bundle.features.sample_rate
            pieces = _of_microphone(backend, device, stall_seconds)
        else:
            pieces = _of_pipe(stall_seconds)
        where = "" if source is None else str(source)
        if follow_quran:
            interrupted = _follow(recognizer, pieces, rate, where, place, as_json)
        else:
            interrupted = _listen(recognizer, pieces, rate, where, _view(as_json))
    return 130 if interrupted and not microphone else 0


def _listen(
    recognizer: Recognizer, pieces: Iterator[NDArray[Any]], rate: int, where: str, view: View
) -> bool:
    """Show the words; True if Ctrl-C ended the stream. Final words stay on the screen whatever happens."""
    stream = recognizer.stream(where=where)
    seconds, begun = 0.0, time.monotonic()
    with Interruption() as interruption:
        try:
            while (piece := interruption.wait_for(pieces)) is not None:
                seconds += len(piece) / rate
                view.show(stream.accept(piece, rate), seconds)
            view.show(stream.finish(), seconds)
        finally:
            view.end()
    took = time.monotonic() - begun
    echo(f"{seconds:.1f} s of audio, {len(stream.words):,} words, in {took:.1f} s", err=True)
    return interruption.asked


def _follow(
    recognizer: Recognizer,
    pieces: Iterator[NDArray[Any]],
    rate: int,
    where: str,
    place: WordRef | None,
    as_json: bool,
) -> bool:
    """Show the place in the Quran; True if Ctrl-C ended the stream."""
    from quran_asr.cli.following import FollowJson, FollowLines, FollowScreen
    from quran_asr.runtime.following import Follower

    follower = Follower(recognizer, place, where)
    view: FollowJson | FollowLines
    if as_json:
        view = FollowJson(sys.stdout)
    elif sys.stdout.isatty() and os.environ.get("TERM", "dumb") != "dumb":
        view = FollowScreen(
            sys.stdout, shutil.get_terminal_size().columns, colour="NO_COLOR" not in os.environ
        )
    else:
        view = FollowLines(sys.stdout)
    with Interruption() as interruption:
        try:
            while (piece := interruption.wait_for(pieces)) is not None:
                view.show(follower.accept(piece, rate))
            view.show(follower.finish())
        finally:
            view.end()
    return interruption.asked


class Interruption:
    """Ctrl-C takes effect between two chunks, so that it tears nothing; a second one does not wait."""

    def __init__(self) -> None:
        self.asked = False
        self._waiting = False
        self._before: Any = None

    def __enter__(self) -> Interruption:
        self._before = signal.signal(signal.SIGINT, self._ask)
        return self

    def __exit__(self, *error: object) -> None:
        signal.signal(signal.SIGINT, self._before)

    def wait_for(self, pieces: Iterator[NDArray[Any]]) -> NDArray[Any] | None:
        """The next piece; None where there is none or Ctrl-C was pressed."""
        if self.asked:
            return None
        try:
            self._waiting = True
            return next(pieces, None)
        except KeyboardInterrupt:
            return None
        finally:
            self._waiting = False

    def _ask(self, number: int, frame: FrameType | None) -> None:
        again, self.asked = self.asked, True
        if again or self._waiting:
            raise KeyboardInterrupt


def _of_file(recognizer: Recognizer, path: Path, real_time: bool) -> Iterator[Samples]:
    """Chunks of the size that the encoder takes at once."""
    from quran_asr.runtime.audio_input import blocks_of_file

    rate = recognizer.bundle.features.sample_rate
    begun, played = time.monotonic(), 0
    for piece in blocks_of_file(path, recognizer.chunk_samples / rate):
        played += len(piece)
        if real_time:
            time.sleep(max(0.0, begun + played / rate - time.monotonic()))
        yield piece


def _backend() -> Backend:
    """A missing library is reported now, not after the model has been loaded."""
    from quran_asr.runtime.audio_input import load_backend

    return load_backend()


def _of_microphone(backend: Backend, device: str | None, stall_seconds: float) -> Iterator[Samples]:
    """Chunks of the microphone; a line says that it listens once the first audio has arrived."""
    from quran_asr.runtime.audio_input import microphone

    chosen = int(device) if device is not None and device.isdigit() else device
    warned = False
    for piece in microphone(
        chosen, stall_seconds=stall_seconds, tell=lambda message: echo(message, err=True), backend=backend
    ):
        if not warned:
            echo("listening; Ctrl-C ends it", err=True)
            warned = True
        yield piece


def _of_pipe(stall_seconds: float) -> Iterator[NDArray[Any]]:
    from quran_asr.runtime.audio_input import piped

    if sys.stdin is None or sys.stdin.isatty():
        raise QuranAsrError(
            "no audio is piped into this command",
            remedy="ffmpeg -i FILE -f s16le -ac 1 -ar 16000 - | quran-asr listen -",
        )
    return piped(sys.stdin.fileno(), stall_seconds=stall_seconds)


def _refuse_with_follow(follow_quran: bool, at: str | None) -> None:
    if at is not None and not follow_quran:
        raise QuranAsrError("`--at` applies to --follow", remedy="add --follow")
    context = click.get_current_context()
    for name, option in (("decoder", "--decoder"), ("pause_seconds", "--pause")):
        if follow_quran and context.get_parameter_source(name) is ParameterSource.COMMANDLINE:
            raise QuranAsrError(
                f"`{option}` does not apply to --follow, which searches the text of the Quran",
                remedy=f"leave out {option}, or --follow",
            )


def _place(at: str) -> WordRef:
    """The word where the recitation is expected to begin.

    Raises:
        QuranAsrError: it names no verse, or one that the Quran does not have.
    """
    from quran_asr.runtime.tracking import WordRef

    return WordRef.parse(at)


def _refuse_what_does_not_apply(source: str) -> None:
    """An option that would be ignored is a misunderstanding."""
    context = click.get_current_context()
    for name, (option, places) in APPLIES.items():
        if source not in places and context.get_parameter_source(name) is ParameterSource.COMMANDLINE:
            raise QuranAsrError(
                f"`{option}` applies to {' or '.join(places)}, and the input is {source}",
                remedy="leave it out",
            )


def _existing(file: str) -> Path:
    """An unreadable file is reported now, not after the model has been loaded."""
    from quran_asr.audio import probe

    path = Path(file)
    refuse_model(path)
    print_findings(low_rate_notes({file: probe(path).rate}))
    return path


def _view(as_json: bool) -> View:
    if as_json:
        return Json(sys.stdout)
    if sys.stdout.isatty() and os.environ.get("TERM", "dumb") != "dumb":
        width = shutil.get_terminal_size().columns
        return Screen(sys.stdout, width, colour="NO_COLOR" not in os.environ)
    return Lines(sys.stdout)
