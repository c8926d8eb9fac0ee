"""A bundle as a recognizer: recordings in, words out; whole or while they come, one or many."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from quran_asr import audio
from quran_asr.decode.options import Decoding
from quran_asr.decode.partial import Moment
from quran_asr.findings import QuranAsrError
from quran_asr.listen.bundle import Bundle, read_bundle
from quran_asr.listen.search import Found, Piece, Search
from quran_asr.listen.sessions import Encoded, Sessions
from quran_asr.listen.sources import pieces_of
from quran_asr.listen.stream import Stream
from quran_asr.records import SAMPLE_RATE, Emissions, Segment, Transcript
from quran_asr.text.spelling import edition_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from quran_asr.records import Samples

FILE_SECONDS = 30.0
"""Of a file are decoded at once, so that an hour needs no more memory than a minute."""


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
        self._search = Search(self.sessions, self.decoding)
        # What an evaluation writes into its report
        self.name = str(bundle.folder)
        self.decoder = self.decoding.decoder
        self.look_ahead_ms: int | None = bundle.milliseconds(self._look_ahead)
        self.spelling = bundle.spelling
        self.edition = edition_of(bundle.spelling)
        self.training_data: Path | None = None

    def recognize(self, sound: str | Path | NDArray[Any], rate: int = SAMPLE_RATE) -> Transcript:
        """The words of one recording, with their times.

        Args:
            sound: a file (wav, flac, mp3, ogg, opus), or samples as `Stream.accept` takes them.
            rate: hertz of the samples; a file knows its own.

        Raises:
            QuranAsrError: it cannot be read, or is no sound.
        """
        if isinstance(sound, str | Path):
            stream = self.stream(where=str(sound))
            for piece in pieces_of(sound, FILE_SECONDS):
                stream.accept(piece)
        else:
            stream = self.stream()
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
                yield self.recognize(samples)
            except QuranAsrError as error:
                yield error
            if on_progress is not None:
                on_progress(done, len(segments))

    def emissions(self, pieces: Iterable[Samples]) -> Emissions:
        """The CTC scores of a recording that comes in pieces: float32 samples at 16 kHz."""
        stream = self.stream()
        width = len(self.bundle.vocabulary) + 1
        scores = [np.zeros((0, width), np.float32)]

        def encode() -> None:
            while frames := stream.ready():
                scores.extend(one.ctc for one in self._encode([stream], stream.take(frames)[None]))

        for piece in pieces:
            stream.push(piece)
            encode()
        stream.end()
        encode()
        return Emissions(np.concatenate(scores), self.bundle.frame_seconds)

    def stream(self, look_ahead_ms: int | None = None, where: str = "") -> Stream:
        """A new recording that will come piece by piece.

        Args:
            look_ahead_ms: instead of the recognizer's own.
            where: named in errors.
        """
        ahead = self._look_ahead if look_ahead_ms is None else self.bundle.look_ahead(look_ahead_ms)
        return Stream(self, ahead + 1, self._search.start, where)

    def advance(self, streams: Sequence[Stream]) -> list[Moment]:
        """Hear what waits in each of several streams; pieces of one size are encoded together.

        A stream that fails gets its `error` and an empty moment, and its neighbours go on as if alone.

        Returns:
            Of each stream, in their order, what became certain and what may change.
        """
        moments = [Moment((), ()) for _ in streams]
        moved: set[int] = set()
        while True:
            groups: dict[tuple[int, int], list[int]] = {}
            for i, stream in enumerate(streams):
                if frames := stream.ready():
                    groups.setdefault((stream.chunk, frames), []).append(i)
            if not groups:
                break
            for (_, frames), members in groups.items():
                for i, found in zip(members, self._step([streams[i] for i in members], frames), strict=True):
                    self._show(moments, i, streams[i], found)
                    moved.add(i)
        for i, stream in enumerate(streams):
            if i not in moved and stream.error is None:
                self._show(moments, i, stream, Found())
        return moments

    def _show(self, moments: list[Moment], i: int, stream: Stream, found: Found | None) -> None:
        if found is not None:
            moment = stream.put(found)
            moments[i] = Moment(moments[i].committed + moment.committed, moment.partial)

    def _step(self, streams: Sequence[Stream], frames: int) -> list[Found | None]:
        """One piece of each; None for a stream that failed."""
        features = np.stack([stream.take(frames) for stream in streams])
        pieces = [
            Piece(encoded, stream.may_end(own)[: len(encoded.ctc)] if self._search.ends_utterances else None)
            for stream, own, encoded in zip(streams, features, self._encode(streams, features), strict=True)
        ]
        try:
            return [*self._searched(streams, pieces)]
        except QuranAsrError:
            pass
        answers: list[Found | None] = []
        for stream, piece in zip(streams, pieces, strict=True):
            try:
                answers += self._searched([stream], [piece])
            except QuranAsrError as error:
                stream.error = error
                answers.append(None)
        return answers

    def _encode(self, streams: Sequence[Stream], features: NDArray[np.float32]) -> list[Encoded]:
        states = [stream.encoder for stream in streams]
        encoded, following = self.sessions.encode(
            features, [stream.total for stream in streams], streams[0].chunk, states
        )
        for stream, state in zip(streams, following, strict=True):
            stream.encoder = state
        return encoded

    def _searched(self, streams: Sequence[Stream], pieces: Sequence[Piece]) -> list[Found]:
        found = self._search.step(pieces, [stream.search for stream in streams])
        for stream, one in zip(streams, found, strict=True):
            assert one.state is not None
            stream.search = one.state
        return found


def load(
    folder: str | Path,
    *,
    decoder: str = "transducer",
    look_ahead_ms: int | None = None,
    threads: int | None = None,
) -> Recognizer:
    """A recognizer from a bundle.

    Args:
        folder: what `quran-asr export` wrote.
        decoder: `transducer`, `ctc` or `ctc-beam`.
        look_ahead_ms: one of the model's look-aheads; None takes the widest.
        threads: of the encoder; None takes what ONNX Runtime chooses.

    Raises:
        QuranAsrError: no bundle, a damaged or newer one, or the model lacks what is asked for.
    """
    decoding = Decoding(decoder=decoder, pause_seconds=None)
    return Recognizer(read_bundle(Path(folder)), decoding, look_ahead_ms, threads)
