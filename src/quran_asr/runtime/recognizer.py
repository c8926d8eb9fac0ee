"""A bundle as a recognizer: whole recordings, streams, and files streamed as if live."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from numbers import Integral
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from quran_asr import audio
from quran_asr.decoding.options import Decoding
from quran_asr.decoding.partial import Revisions, StreamingResult, revisions
from quran_asr.errors import QuranAsrError
from quran_asr.records import SAMPLE_RATE, Emissions, Segment, Transcript
from quran_asr.runtime.audio_input import blocks_of_file
from quran_asr.runtime.bundle import TRAINING_DATA, Bundle, read_bundle
from quran_asr.runtime.decoder import Piece, Search, SearchResult
from quran_asr.runtime.sessions import Encoded, Sessions, run_once
from quran_asr.runtime.stream import Stream
from quran_asr.text.spelling import edition_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from quran_asr.records import Samples

FILE_SECONDS = 60.0
"""Of a file, so much is in memory at once."""
MOST_THREADS = 1024


class Recognizer:
    """Hears recitation with one decoder at one look-ahead. Safe to share between threads; streams are not."""

    def __init__(
        self,
        bundle: Bundle,
        decoding: Decoding | None = None,
        look_ahead_ms: int | None = None,
        threads: int | None = None,
    ) -> None:
        """See `load`."""
        self.bundle = bundle
        self.decoding = decoding or Decoding(pause_seconds=None)
        self._look_ahead = bundle.look_ahead(look_ahead_ms)
        self.sessions = Sessions(bundle, threads or 0)
        run_once(self.sessions)
        self._search = Search(self.sessions, self.decoding)
        # What an evaluation writes into its report
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
            sound: a file (wav, flac, mp3, ogg, opus), or samples as `Stream.accept` takes them.
            rate: hertz of the samples; a file knows its own.
            where: the samples are from, named in errors.

        Raises:
            QuranAsrError: it cannot be read, or is no sound.
        """
        if isinstance(sound, str | Path):
            stream = self.stream(where=str(sound))
            for piece in blocks_of_file(sound, FILE_SECONDS):
                stream.accept(piece)
        else:
            stream = self.stream(where=where)
            stream.push(sound, rate)
        stream.finish()
        return stream.transcript

    def recognize_clips(
        self, segments: Sequence[Segment], on_progress: Callable[[int, int], None] | None = None
    ) -> Iterator[Transcript | QuranAsrError]:
        """One answer a segment, in their order; audio that cannot be read gives the error itself."""
        for done, segment in enumerate(segments, start=1):
            try:
                samples = audio.read(segment.audio, segment.offset, segment.duration or None)
                yield self.recognize(samples, where=segment.place)
            except QuranAsrError as error:
                yield error
            if on_progress is not None:
                on_progress(done, len(segments))

    def emissions(self, pieces: Iterable[Samples]) -> Emissions:
        """The CTC scores of a recording that comes in pieces: float32 samples at 16 kHz."""
        stream = self.stream()
        scores = [np.zeros((0, len(self.bundle.vocabulary) + 1), np.float32)]
        for piece in pieces:
            stream.push(piece)
            scores.append(self.encode(stream))
        stream.end()
        scores.append(self.encode(stream))
        return Emissions(np.concatenate(scores), self.bundle.frame_seconds)

    def encode(self, stream: Stream) -> NDArray[np.float32]:
        """The CTC scores [n, vocabulary + 1] of what waits in a stream, without decoding it.

        Raises:
            QuranAsrError: the stream failed, now or before.
        """
        scores = [np.zeros((0, len(self.bundle.vocabulary) + 1), np.float32)]
        while frames := stream.ready():
            features = stream.take(frames)[None]
            scores.extend(one.ctc for one in self._encode([stream], features) if one is not None)
        if stream.error is not None:
            raise stream.error
        return np.concatenate(scores)

    def stream(self, look_ahead_ms: int | None = None, where: str = "") -> Stream:
        """A new recording that will come piece by piece.

        Args:
            look_ahead_ms: instead of the recognizer's own.
            where: named in errors.
        """
        ahead = self._look_ahead if look_ahead_ms is None else self.bundle.look_ahead(look_ahead_ms)
        return Stream(self, ahead + 1, self._search.start, where)

    def advance(self, streams: Sequence[Stream]) -> list[StreamingResult]:
        """Hear what waits in each of several streams; pieces of one size are encoded together.

        A stream that fails gets its `error` and an empty moment, and its neighbours go on as if alone.

        Returns:
            Of each stream, in their order, what became certain and what may change.
        """
        if len({id(stream) for stream in streams}) < len(streams):
            raise QuranAsrError("a stream is named twice: its pieces follow each other")
        if any(stream.recognizer is not self for stream in streams):
            raise QuranAsrError("a stream of another recognizer", remedy="let that one advance it")
        results = [StreamingResult((), ()) for _ in streams]
        moved: set[int] = set()
        while True:
            groups: dict[tuple[int, int], list[int]] = {}  # (chunk, frames) -> streams
            for i, stream in enumerate(streams):
                if frames := stream.ready():
                    groups.setdefault((stream.chunk, frames), []).append(i)
            if not groups:
                break
            for (_, frames), members in groups.items():
                for i, found in zip(members, self._step([streams[i] for i in members], frames), strict=True):
                    self._show(results, i, streams[i], found)
                    moved.add(i)
        for i, stream in enumerate(streams):
            if i not in moved and stream.error is None:
                if (shown := stream.wait()) is not None:
                    results[i] = shown
                else:
                    self._show(results, i, stream, self._search.waiting(stream.search))
        return results

    @property
    def chunk_samples(self) -> int:
        """Samples at 16 kHz that the encoder takes at once: 80 ms and the look-ahead."""
        bundle = self.bundle
        return (self._look_ahead + 1) * bundle.shape.subsampling * bundle.features.hop

    def _show(
        self, results: list[StreamingResult], i: int, stream: Stream, found: SearchResult | None
    ) -> None:
        if found is not None:
            result = stream.put(found)
            before = results[i].committed
            ends = tuple(len(before) + end for end in result.ends)
            results[i] = StreamingResult(before + result.committed, result.partial, results[i].ends + ends)

    def _step(self, streams: Sequence[Stream], frames: int) -> list[SearchResult | None]:
        """One piece of each; None for a stream that failed."""
        features = np.stack([stream.take(frames) for stream in streams])
        encoded = self._encode(streams, features)
        answers: list[SearchResult | None] = [None] * len(streams)
        alive: list[int] = []
        pieces: list[Piece] = []
        for i, (stream, own, one) in enumerate(zip(streams, features, encoded, strict=True)):
            if one is not None:
                allowed = stream.may_end(own)[: len(one.ctc)] if self._search.ends_utterances else None
                alive.append(i)
                pieces.append(Piece(one, allowed))
        for i, found in zip(alive, self._find([streams[i] for i in alive], pieces), strict=True):
            answers[i] = found
        return answers

    def _encode(self, streams: Sequence[Stream], pieces: NDArray[np.float32]) -> list[Encoded | None]:
        encoded, following = self.sessions.encode(
            pieces,
            [stream.total for stream in streams],
            streams[0].chunk,
            [stream.encoder for stream in streams],
        )
        if all(np.isfinite(one.joint).all() and not np.isnan(one.ctc).any() for one in encoded):
            for stream, state in zip(streams, following, strict=True):
                stream.encoder = state
            return [*encoded]
        if len(streams) == 1:
            streams[0].error = _no_numbers(streams[0], "encoder")
            return [None]
        # each alone: an 8-bit graph scales a batch as one, so one stream's NaN is in its neighbours too
        return [
            one
            for stream, piece in zip(streams, pieces, strict=True)
            for one in self._encode([stream], piece[None])
        ]

    def _find(self, streams: Sequence[Stream], pieces: Sequence[Piece]) -> list[SearchResult | None]:
        """What the search finds; where it fails for one stream, each is searched alone."""
        try:
            found = self._search.step(pieces, [stream.search for stream in streams])
        except QuranAsrError as error:
            if len(streams) > 1:
                each = zip(streams, pieces, strict=True)
                return [one for stream, piece in each for one in self._find([stream], [piece])]
            streams[0].error = _no_numbers(streams[0], error.what)
            return [None]
        for stream, one in zip(streams, found, strict=True):
            assert one.state is not None
            stream.search = one.state
        return [*found]


def _no_numbers(stream: Stream, who: str) -> QuranAsrError:
    seconds = stream.encoder.frames * stream.recognizer.bundle.frame_seconds
    return QuranAsrError(
        f"from about {seconds:.1f} s on the model's scores are no numbers ({who})",
        where=stream.where,
        remedy="begin a new stream; if it happens again, export the model again",
    )


def _is_whole(value: object) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


def load(
    folder: str | Path,
    *,
    decoder: str = "transducer",
    look_ahead_ms: int | None = None,
    pause_seconds: float | None = None,
    threads: int | None = None,
) -> Recognizer:
    """A recognizer from a bundle.

    Args:
        folder: what `quran-asr export` wrote.
        decoder: `transducer`, `ctc` or `ctc-beam`.
        look_ahead_ms: one of the model's look-aheads; None takes the widest.
        pause_seconds: of a stream, the silence after which its words so far are final and the search starts
            anew, above 0 and at most 3600; None never does.
        threads: of the encoder, at most 1024; None or 0 takes what ONNX Runtime chooses.

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
    decoding = Decoding(decoder=decoder, pause_seconds=pause_seconds)
    whole_threads = None if threads is None else int(threads)
    return Recognizer(read_bundle(Path(folder)), decoding, look_ahead_ms, whole_threads)


def results(recognizer: Recognizer, samples: Samples, where: str = "") -> Iterator[StreamingResult]:
    """What a listener is shown of a recording that comes a chunk at a time, to its end.

    Args:
        recognizer: hears it, at its own look-ahead.
        samples: float32 [samples], mono at 16 kHz.
        where: they are from, named in errors.

    Raises:
        QuranAsrError: a sample is no sound.
    """
    stream = recognizer.stream(where=where)
    size = recognizer.chunk_samples
    for start in range(0, len(samples), size):
        yield stream.accept(samples[start : start + size])
    yield stream.finish()


class Replay:
    """A recognizer for evaluations that hears every clip as a stream and, beside it, as a whole."""

    def __init__(self, recognizer: Recognizer) -> None:
        self.recognizer = recognizer
        self.differing: list[Segment] = []
        """Clips whose words are others than those of the whole file."""
        self.revisions = Revisions()
        """How steady the partial words were, over all clips so far."""

    def recognize_clips(
        self, segments: Sequence[Segment], on_progress: Callable[[int, int], None] | None = None
    ) -> Iterator[Transcript | QuranAsrError]:
        """One answer a segment, in their order; audio that cannot be read gives the error itself."""
        for done, segment in enumerate(segments, start=1):
            try:
                yield self._hear(segment)
            except QuranAsrError as error:
                yield error
            if on_progress is not None:
                on_progress(done, len(segments))

    def _hear(self, segment: Segment) -> Transcript:
        samples = audio.read(Path(segment.audio), segment.offset, segment.duration or None)
        shown = list(results(self.recognizer, samples, segment.place))
        words = tuple(word for result in shown for word in result.committed)
        text = " ".join(word.text for word in words)
        if text != self.recognizer.recognize(samples, where=segment.place).text:
            self.differing.append(segment)
        self.revisions += revisions(shown)
        return Transcript(text, words)
