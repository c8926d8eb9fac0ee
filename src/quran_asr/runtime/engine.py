"""The networks and the decoder of a bundle: recognizes the buffered audio of many streams at once."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import chain
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from quran_asr.decoding.decoder import EncoderOutput, Model, SearchResult, build_decoder
from quran_asr.decoding.partial import StreamingResult
from quran_asr.errors import QuranAsrError
from quran_asr.runtime.sessions import Sessions, run_once

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from quran_asr.decoding.options import Decoding
    from quran_asr.records import Samples
    from quran_asr.runtime.bundle import Bundle
    from quran_asr.runtime.stream import StreamState

    Float32 = NDArray[np.float32]


class Networks(Protocol):
    """The networks of a model, run chunk by chunk: `Sessions`, or those of a model in torch."""

    @property
    def start(self) -> Any:
        """The encoder's cache for a stream before its first frame; its `frames` are 0."""

    def encode(
        self, features: Float32, totals: Sequence[int | None], chunk: int, states: Sequence[Any]
    ) -> tuple[list[EncoderOutput], list[Any]]: ...

    def predict(
        self, tokens: NDArray[np.int64], state: tuple[Float32, ...]
    ) -> tuple[Float32, tuple[Float32, ...]]: ...

    def join(self, encoded: Float32, predicted: Float32) -> Float32: ...


class Engine:
    """Loaded networks with one decoder. It holds no state of the streams, so threads may share it."""

    def __init__(
        self, bundle: Bundle, decoding: Decoding, threads: int = 0, networks: Networks | None = None
    ) -> None:
        """
        Args:
            bundle: describes the model.
            decoding: the decoder.
            threads: of the encoder; see `Sessions`.
            networks: None loads the graphs of the bundle.

        Raises:
            QuranAsrError: as `Sessions`.
        """
        self.bundle = bundle
        self.sessions: Networks
        if networks is None:
            self.sessions = sessions = Sessions(bundle, threads)
            run_once(sessions)
        else:
            self.sessions = networks
        self.model = Model(
            predict=self.sessions.predict,
            join=self.sessions.join,
            prediction_layers=bundle.shape.prediction_layers,
            prediction_width=bundle.shape.prediction_width,
            blank=bundle.vocabulary.blank,
            max_symbols=bundle.shape.max_symbols,
            frame_seconds=bundle.frame_seconds,
            beam_temperature=bundle.beam_temperature,
        )
        self.decoder = build_decoder(decoding, self.model)
        self._utterances_end = decoding.pause_seconds is not None

    def advance(self, streams: Sequence[StreamState]) -> list[StreamingResult]:
        """Recognize the buffered audio of several streams; chunks of one size are encoded together.

        A stream that fails gets its `error` and an empty result; the others are not affected.

        Returns:
            For each stream, in their order, the words that are now final and those that may change.
        """
        results = [StreamingResult((), ()) for _ in streams]
        moved: set[int] = set()
        while groups := _groups(streams):
            for members, frames in groups:
                chosen = [streams[i] for i in members]
                taken = [stream.take(frames) for stream in chosen]
                features = taken[0][None] if len(taken) == 1 else np.stack(taken)
                encoded = self._encode(chosen, features)
                for i, found in zip(members, self._search(chosen, encoded), strict=True):
                    moved.add(i)
                    if found is not None:
                        results[i] = _joined(results[i], streams[i].put(found))
        for i, stream in enumerate(streams):
            if i not in moved and stream.error is None:
                draft = self.decoder.draft(stream.search)
                results[i] = stream.wait() or stream.put(SearchResult(draft=draft))
        return results

    def emissions(self, stream: StreamState, blocks: Iterable[Samples]) -> Iterator[Float32]:
        """The CTC scores of a recording that arrives in chunks, as soon as they are available.

        Args:
            stream: a new one.
            blocks: float32 [samples] at 16 kHz.

        Yields:
            Log-probabilities [n, vocabulary + 1], blank last.

        Raises:
            QuranAsrError: a sample is NaN or far too large, or the model's scores are NaN.
        """
        for block in chain(blocks, (None,)):
            if block is None:
                stream.end()
            else:
                stream.push(block)
            yield self.encode(stream).ctc

    def encode(self, stream: StreamState) -> EncoderOutput:
        """The encoder's outputs for the buffered audio of a stream, without decoding it.

        Raises:
            QuranAsrError: the stream failed, now or earlier.
        """
        joint = [np.zeros((0, self.bundle.shape.joint_width), np.float32)]
        ctc = [np.zeros((0, len(self.bundle.vocabulary) + 1), np.float32)]
        may_end = [np.zeros(0, np.bool_)]
        while frames := stream.ready():
            features = stream.take(frames)
            (encoded,) = self._encode([stream], features[None])
            if encoded is not None:
                joint.append(encoded.joint)
                ctc.append(encoded.ctc)
                if encoded.may_end is not None:
                    may_end.append(encoded.may_end)
        if stream.error is not None:
            raise stream.error
        allowed = np.concatenate(may_end) if self._utterances_end else None
        return EncoderOutput(np.concatenate(joint), np.concatenate(ctc), allowed)

    def _encode(self, streams: Sequence[StreamState], features: Float32) -> list[EncoderOutput | None]:
        """Encode features [streams, frames, mels], one chunk each; None for a stream whose scores are NaN."""
        encoded, following = self.sessions.encode(
            features,
            [stream.total for stream in streams],
            streams[0].chunk,
            [stream.encoder for stream in streams],
        )
        if all(math.isfinite(one.joint.sum()) and not math.isnan(one.ctc.sum()) for one in encoded):
            for stream, state in zip(streams, following, strict=True):
                stream.encoder = state
            if not self._utterances_end:
                return [*encoded]
            each = zip(streams, features, encoded, strict=True)
            return [
                replace(one, may_end=stream.may_end(frames)[: len(one.ctc)]) for stream, frames, one in each
            ]
        if len(streams) == 1:
            streams[0].error = _not_a_number(streams[0], "encoder")
            return [None]
        # each alone: an `int8` graph scales a batch as one, so the NaN of one stream spreads to the others
        alone = zip(streams, features, strict=True)
        return [one for stream, frames in alone for one in self._encode([stream], frames[None])]

    def _search(
        self, streams: Sequence[StreamState], encoded: Sequence[EncoderOutput | None]
    ) -> list[SearchResult | None]:
        """One chunk each; None for a stream without one, or whose scores are NaN."""
        alive = [(stream, one) for stream, one in zip(streams, encoded, strict=True) if one is not None]
        if not alive:
            return [None] * len(streams)
        try:
            found = self.decoder.step([one for _, one in alive], [stream.search for stream, _ in alive])
        except QuranAsrError as error:
            if len(streams) == 1:
                streams[0].error = _not_a_number(streams[0], error.what)
                return [None]
            each = zip(streams, encoded, strict=True)
            return [result for stream, one in each for result in self._search([stream], [one])]
        for (stream, _), result in zip(alive, found, strict=True):
            stream.search = result.state
        results = iter(found)
        return [None if one is None else next(results) for one in encoded]


def _groups(streams: Sequence[StreamState]) -> list[tuple[list[int], int]]:
    """Indices of the streams that can be encoded together, and the number of frames of each."""
    groups: dict[tuple[int, int], list[int]] = {}
    for i, stream in enumerate(streams):
        if frames := stream.ready():
            groups.setdefault((stream.chunk, frames), []).append(i)
    return [(members, frames) for (_, frames), members in groups.items()]


def _joined(before: StreamingResult, new: StreamingResult) -> StreamingResult:
    ends = tuple(len(before.committed) + end for end in new.ends)
    return StreamingResult(before.committed + new.committed, new.partial, before.ends + ends)


def _not_a_number(stream: StreamState, who: str) -> QuranAsrError:
    seconds = stream.encoder.frames * stream.bundle.frame_seconds
    return QuranAsrError(
        f"from about {seconds:.1f} s on the model's scores are not numbers ({who})",
        where=stream.where,
        remedy="begin a new stream; if it happens again, export the model again",
    )
