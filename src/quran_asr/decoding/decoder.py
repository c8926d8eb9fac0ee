"""The interface of the decoders: encoder scores in, tokens out, chunk by chunk, for several streams at once.

A decoder is one class in the file of its algorithm and one line in `options.DECODERS`.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from quran_asr.decoding.endpoint import frames_of
from quran_asr.decoding.options import BEAM_TEMPERATURE, DECODERS, Decoding
from quran_asr.decoding.partial import NOTHING

N_BEST_PROBABILITY = 1e-6
"""An n-best list keeps texts down to this share of the best one's probability: with the share used for
streams, most lists had one text."""

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from quran_asr.decoding.fusion import Candidate
    from quran_asr.records import Hypothesis

    Float32 = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Model:
    """What a decoder needs of a model besides the scores of its encoder."""

    predict: Callable[[NDArray[np.int64], tuple[Float32, ...]], tuple[Float32, tuple[Float32, ...]]]
    """The prediction network: tokens [B], state -> predicted [B, joint width], next state."""
    join: Callable[[Float32, Float32], Float32]
    """The joint network: encoded and predicted, [N, joint width] each -> log-probabilities
    [N, vocabulary + 1], natural log, blank last."""
    prediction_layers: int
    prediction_width: int
    """The state of the prediction network: two arrays [layers, B, width]."""
    blank: int
    max_symbols: int
    """Most tokens in one frame."""
    frame_seconds: float
    """Seconds of audio per encoder frame."""
    beam_temperature: float = BEAM_TEMPERATURE
    """Of `transducer-beam`, see `Decoding.temperature`."""


@dataclass(frozen=True, slots=True)
class EncoderOutput:
    """The encoder's outputs for n frames of one stream."""

    joint: Float32
    """[n, joint width]: the joint network's encoder side."""
    ctc: Float32
    """[n, vocabulary + 1] log-probabilities, natural log, blank last."""
    may_end: NDArray[np.bool_] | None = None
    """[n]: whether the signal level allows an utterance to end after this frame; None: no utterance ends."""


@dataclass(frozen=True, slots=True)
class SearchResult:
    """The result of one chunk of one stream."""

    tokens: Hypothesis = NOTHING
    """New tokens, which are final."""
    draft: Hypothesis = NOTHING
    """The tokens after them, which may still change."""
    ends: tuple[int, ...] = ()
    """Frames at which an utterance was over."""
    state: Any = None
    """The decoder's state after the chunk; None where nothing was searched."""


class Decoder(Protocol):
    """A search that continues from chunk to chunk. It keeps no state of the streams: states are values."""

    start: Any
    """State of a stream before its first frame."""

    def step(self, chunks: Sequence[EncoderOutput], states: Sequence[Any]) -> list[SearchResult]:
        """Search one chunk of each of several streams.

        Raises:
            QuranAsrError: a score is NaN; all states stay valid.
        """

    def draft(self, state: Any) -> Hypothesis:
        """The tokens of a state that may still change."""


class BeamDecoder(Decoder, Protocol):
    """A decoder that keeps several texts."""

    def n_best(self, whole: EncoderOutput, count: int, *, rescoring: bool = False) -> list[Candidate]:
        """The most probable texts of a whole recording, the best first, at most `count`.

        Texts are kept to the end here, down to N_BEST_PROBABILITY; a stream drops those that differ in words
        that are final.

        Args:
            whole: the encoder's outputs for the recording.
            count: length of the list; the beam is at least so wide.
            rescoring: search without the language model, and sort the list with it afterwards.

        Raises:
            QuranAsrError: a score is NaN.
        """


def build_decoder(decoding: Decoding, model: Model) -> Decoder:
    """The decoder that the options name, for a model."""
    module, _, name = DECODERS[decoding.decoder].partition(":")
    decoder: Decoder = getattr(importlib.import_module(module), name)(decoding, model)
    return decoder


def patience_of(decoding: Decoding, model: Model) -> int | None:
    """Frames without a token after which an utterance is over; None: utterances do not end."""
    seconds = decoding.pause_seconds
    return None if seconds is None else frames_of(seconds, model.frame_seconds)
