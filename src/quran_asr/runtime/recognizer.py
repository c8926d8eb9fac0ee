"""A bundle as a recognizer: whole recordings, streams, and files streamed as if live."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from numbers import Integral
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from quran_asr import audio
from quran_asr.decoding.options import BEAMS, DEFAULT_DECODER, PAUSE_SECONDS, Decoding
from quran_asr.decoding.partial import Revisions, StreamingResult, revisions
from quran_asr.errors import QuranAsrError
from quran_asr.records import SAMPLE_RATE, Emissions, Segment, Transcript
from quran_asr.runtime.audio_input import blocks_of_file
from quran_asr.runtime.bundle import TRAINING_DATA, Bundle, default_model, read_bundle
from quran_asr.runtime.engine import Engine, Networks
from quran_asr.runtime.stream import StreamState
from quran_asr.text.spelling import edition_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from quran_asr.decoding.language_model import LanguageModel
    from quran_asr.records import Samples

FILE_SECONDS = 60.0
"""Seconds of a file in memory at once."""
MOST_THREADS = 1024


class Stream(StreamState):
    """A recording that is recognized while it arrives. Made by `Recognizer.stream`."""

    def __init__(self, engine: Engine, chunk: int, where: str = "") -> None:
        super().__init__(engine.bundle, chunk, engine.sessions.start, engine.decoder.start, where)
        self.engine = engine

    def accept(self, samples: NDArray[Any], rate: int = SAMPLE_RATE) -> StreamingResult:
        """Recognize more of the recording: the words that are certain now, and those that may change.

        Args:
            samples: any number of them: int16, or float in about [-1, 1]; [samples] or [samples, channels].
            rate: hertz, the same for the whole stream; resampled on the fly.

        Raises:
            QuranAsrError: a sample is NaN or far too large, the rate changes, the model gives scores that
                are not numbers, or the stream has ended. The stream is then over; committed words stay in
                `words`.
        """
        self.push(samples, rate)
        (result,) = self.engine.advance([self])
        return self._unless_failed(result)

    def finish(self) -> StreamingResult:
        """End the recording: all remaining words are committed.

        Raises:
            QuranAsrError: the stream failed, now or earlier.
        """
        self.end()
        (result,) = self.engine.advance([self])
        return self._unless_failed(result)

    def _unless_failed(self, result: StreamingResult) -> StreamingResult:
        if self.error is not None:
            raise self.error
        return result


class Recognizer:
    """Recognizes recitation with one decoder at one look-ahead. Threads may share it, but not its streams."""

    def __init__(
        self,
        bundle: Bundle,
        decoding: Decoding | None = None,
        look_ahead_ms: int | None = None,
        threads: int | None = None,
        networks: Networks | None = None,
    ) -> None:
        """See `load`; `networks` replace the graphs of the bundle, see `Engine`."""
        self.bundle = bundle
        self.decoding = decoding or Decoding()
        self._look_ahead = bundle.look_ahead(look_ahead_ms)
        self.engine = Engine(bundle, self.decoding, threads or 0, networks)
        # Recorded in evaluation reports
        self.name = str(bundle.folder)
        self.decoder = self.decoding.decoder
        self.look_ahead_ms: int | None = bundle.milliseconds(self._look_ahead)
        self.spelling = bundle.spelling
        self.edition = edition_of(bundle.spelling)
        known = bundle.folder / TRAINING_DATA
        self.training_data = known if known.is_file() else None

    def recognize(
        self, sound: str | Path | NDArray[Any], rate: int = SAMPLE_RATE, where: str = ""
    ) -> Transcript:
        """The words of one recording, with their times.

        Args:
            sound: a file as `audio.read` takes it, or samples as `Stream.accept` takes them.
            rate: hertz of the samples; not needed for a file.
            where: the samples are from, named in errors.

        Raises:
            QuranAsrError: it cannot be read, or is not audio.
        """
        if isinstance(sound, str | Path):
            return self.recognize_blocks(blocks_of_file(sound, FILE_SECONDS), where=str(sound))
        return self.recognize_blocks([sound], rate, where)

    def recognize_blocks(
        self,
        blocks: Iterable[NDArray[Any]],
        rate: int = SAMPLE_RATE,
        where: str = "",
        on_seconds: Callable[[float], None] | None = None,
    ) -> Transcript:
        """As `recognize`, for a recording that arrives in chunks, which need not be in memory together."""
        stream = self.stream(where=where)
        waiting = 0.0
        for block in blocks:
            if waiting:  # the last chunk is encoded with the end: a short recording is one pass
                self.engine.advance([stream])
                if on_seconds is not None:
                    on_seconds(waiting)
            stream.push(block, rate)
            waiting = len(block) / rate
        stream.end()
        self.engine.advance([stream])
        if on_seconds is not None:
            on_seconds(waiting)
        if stream.error is not None:
            raise stream.error
        return stream.transcript

    def text_of(self, samples: Samples) -> str:
        """The words of a recording, float32 [samples] at 16 kHz."""
        return self.recognize(samples).text

    def recognize_clips(
        self,
        segments: Sequence[Segment],
        on_progress: Callable[[int, int], None] | None = None,
        on_seconds: Callable[[float], None] | None = None,
    ) -> Iterator[Transcript | QuranAsrError]:
        """One result per segment, in order; the error itself for audio that cannot be read.

        Args:
            segments: of any length: no more than a minute of each is in memory.
            on_progress: called with (done, segments) after each.
            on_seconds: called with the seconds of audio that were recognized since the last call.
        """
        for done, segment in enumerate(segments, start=1):
            try:
                yield self.recognize_blocks(_blocks(segment), where=segment.place, on_seconds=on_seconds)
            except QuranAsrError as error:
                yield error
            if on_progress is not None:
                on_progress(done, len(segments))

    def emissions(self, blocks: Iterable[Samples], where: str = "") -> Emissions:
        """The CTC scores of a recording that arrives in chunks: float32 samples at 16 kHz."""
        nothing = np.zeros((0, len(self.bundle.vocabulary) + 1), np.float32)
        return Emissions(np.concatenate([nothing, *self.scores(blocks, where)]), self.bundle.frame_seconds)

    def scores(self, blocks: Iterable[Samples], where: str = "") -> Iterator[NDArray[np.float32]]:
        """The same as `emissions`, [n, vocabulary + 1] at a time, as soon as they are available."""
        return self.engine.emissions(self.stream(where=where), blocks)

    def encode(self, stream: Stream) -> NDArray[np.float32]:
        """The CTC scores of the buffered audio of a stream, see `Engine.encode`."""
        return self.engine.encode(stream).ctc

    def stream(self, look_ahead_ms: int | None = None, where: str = "") -> Stream:
        """A new recording that will arrive in chunks.

        Args:
            look_ahead_ms: instead of the recognizer's own.
            where: named in errors.
        """
        ahead = self._look_ahead if look_ahead_ms is None else self.bundle.look_ahead(look_ahead_ms)
        return Stream(self.engine, ahead + 1, where)

    def advance(self, streams: Sequence[Stream]) -> list[StreamingResult]:
        """Recognize the buffered audio of several streams, see `Engine.advance`.

        Raises:
            QuranAsrError: a stream is named twice, or belongs to another recognizer.
        """
        if len({id(stream) for stream in streams}) < len(streams):
            raise QuranAsrError(
                "a stream is named twice: its chunks follow each other",
                remedy="name each stream once in a call of `advance`",
            )
        if any(stream.engine is not self.engine for stream in streams):
            raise QuranAsrError("a stream of another recognizer", remedy="let that one advance it")
        return self.engine.advance(streams)

    @property
    def chunk_samples(self) -> int:
        """Samples at 16 kHz that the encoder takes at once: 80 ms and the look-ahead."""
        bundle = self.bundle
        return (self._look_ahead + 1) * bundle.shape.subsampling * bundle.features.hop


def _blocks(segment: Segment) -> Iterator[Samples]:
    duration = segment.duration or None
    if duration is not None and duration <= FILE_SECONDS:
        yield audio.read(segment.audio, segment.offset, duration)
    else:
        yield from blocks_of_file(segment.audio, FILE_SECONDS, segment.offset, duration)


def _is_whole(value: object) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


def load(
    folder: str | Path | None = None,
    *,
    decoder: str = DEFAULT_DECODER,
    look_ahead_ms: int | None = None,
    pause_seconds: float | None = PAUSE_SECONDS,
    threads: int | None = None,
    lm: str | Path | LanguageModel | None = None,
    passage: str | None = None,
    lm_weight: float | None = None,
    token_bonus: float | None = None,
    temperature: float | None = None,
) -> Recognizer:
    """A recognizer from a bundle.

    Args:
        folder: of a bundle (`quran-asr export`); None takes the model of the package.
        decoder: `transducer-beam`, `transducer` (greedy, faster), `ctc` or `ctc-beam`.
        look_ahead_ms: one of the model's look-aheads; None takes the widest.
        pause_seconds: the pause after which the words so far are final and the search restarts, above 0
            and at most 3600; None never does.
        threads: of the encoder, at most 1024; None or 0 leaves the choice to ONNX Runtime.
        lm: language model: `quran`, an `.npz` or `.arpa` of `quran-asr lm build`, or a model. `transducer`
            and `ctc` become their beam searches. Without it the words are as recited; with it they are
            drawn to its text.
        passage, lm_weight, token_bonus: see `shallow_fusion.load_fusion`.
        temperature: of the distributions in `transducer-beam`, see `Decoding`; None takes the model's.

    Raises:
        QuranAsrError: no bundle, a damaged or newer one, a setting out of its range, or the model lacks what
            is asked for.
    """
    if look_ahead_ms is not None and not _is_whole(look_ahead_ms):
        raise QuranAsrError(
            f"look_ahead_ms is {look_ahead_ms!r}", remedy="give a whole number of milliseconds, or None"
        )
    if threads is not None and not (_is_whole(threads) and 0 <= threads <= MOST_THREADS):
        raise QuranAsrError(
            f"threads is {threads!r}", remedy=f"give a whole number from 0 to {MOST_THREADS}, or None"
        )
    numbers = {"lm_weight": lm_weight, "token_bonus": token_bonus, "temperature": temperature}
    for name, number in numbers.items():
        if number is not None and (
            isinstance(number, bool) or not isinstance(number, int | float | np.number)
        ):
            raise QuranAsrError(f"{name} is {number!r}", remedy="give a finite number, or None")
    if folder is not None and not isinstance(folder, str | Path):
        raise QuranAsrError(f"folder is {folder!r}", remedy="give the folder of a bundle, or None")
    bundle = read_bundle(default_model() if folder is None else Path(folder))
    fusion = None
    if any(given is not None for given in (lm, passage, lm_weight, token_bonus)):
        from quran_asr.runtime.shallow_fusion import load_fusion  # most recognizers have no language model

        fusion = load_fusion(
            bundle, decoder, lm=lm, passage=passage, lm_weight=lm_weight, token_bonus=token_bonus
        )
    searched = decoder if fusion is None else BEAMS.get(decoder, decoder)
    decoding = Decoding(searched, pause_seconds=pause_seconds, fusion=fusion, temperature=temperature)
    whole_threads = None if threads is None else int(threads)
    return Recognizer(bundle, decoding, look_ahead_ms, whole_threads)


def transcribe(audio: str | Path, model: str | Path | Recognizer | None = None) -> Transcript:
    """The words of a recording, with their times.

    Args:
        audio: wav, flac, mp3, ogg or opus; with the extra `media` also m4a, mp4, webm and others.
        model: a bundle, or a recognizer that is loaded already; None takes the model of the package.

    Raises:
        QuranAsrError: no such recording, no such model, or the package has none.
    """
    require_file_name(audio)
    recognizer = model if isinstance(model, Recognizer) else load(model)
    return recognizer.recognize(audio)


def require_file_name(audio: object) -> None:
    """Refuse samples, and anything else that does not name a file.

    Raises:
        QuranAsrError: it does not.
    """
    if not isinstance(audio, str | Path):
        raise QuranAsrError(
            f"a recording is the name of a file, not {type(audio).__name__}",
            remedy="quran_asr.load().recognize(samples, rate) takes samples",
        )


def results(recognizer: Recognizer, samples: Samples, where: str = "") -> Iterator[StreamingResult]:
    """The results to display for a recording that arrives in chunks, to its end.

    Args:
        recognizer: recognizes it, at its own look-ahead.
        samples: float32 [samples], mono at 16 kHz.
        where: they are from, named in errors.

    Raises:
        QuranAsrError: a sample is not audio.
    """
    stream = recognizer.stream(where=where)
    size = recognizer.chunk_samples
    for start in range(0, len(samples), size):
        yield stream.accept(samples[start : start + size])
    yield stream.finish()


class Replay:
    """A recognizer for evaluations that recognizes every clip both as a stream and as a whole."""

    def __init__(self, recognizer: Recognizer) -> None:
        self.recognizer = recognizer
        self.differing: list[Segment] = []
        """Clips whose words differ from those of the whole file."""
        self.revisions = Revisions()
        """Stability of the partial words, over all clips so far."""

    def text_of(self, samples: Samples) -> str:
        """The words of a stream of a recording, float32 [samples] at 16 kHz."""
        shown = results(self.recognizer, samples)
        return " ".join(word.text for result in shown for word in result.committed)

    def recognize_clips(
        self, segments: Sequence[Segment], on_progress: Callable[[int, int], None] | None = None
    ) -> Iterator[Transcript | QuranAsrError]:
        """One result per segment, in order; the error itself for audio that cannot be read."""
        for done, segment in enumerate(segments, start=1):
            try:
                yield self._recognize(segment)
            except QuranAsrError as error:
                yield error
            if on_progress is not None:
                on_progress(done, len(segments))

    def _recognize(self, segment: Segment) -> Transcript:
        samples = audio.read(Path(segment.audio), segment.offset, segment.duration or None)
        shown = list(results(self.recognizer, samples, segment.place))
        words = tuple(word for result in shown for word in result.committed)
        text = " ".join(word.text for word in words)
        if text != self.recognizer.recognize(samples, where=segment.place).text:
            self.differing.append(segment)
        self.revisions += revisions(shown)
        return Transcript(text, words)
