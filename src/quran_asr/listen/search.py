"""From the encoder's scores to tokens, with the decoder that was asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from quran_asr.decode import ctc, transducer
from quran_asr.decode.options import Decoding
from quran_asr.decode.partial import NOTHING
from quran_asr.listen.sessions import Encoded, Sessions
from quran_asr.records import Hypothesis

SearchState = transducer.SearchState | ctc.BestPath | ctc.Beams


@dataclass(frozen=True, slots=True)
class Found:
    """What a piece brought to one stream."""

    tokens: Hypothesis = NOTHING
    """New ones, which stay."""
    tail: Hypothesis = NOTHING
    """All after them that may still change."""
    ends: tuple[int, ...] = ()
    """Frames at which an utterance was over."""
    state: SearchState | None = None


class Search:
    """A decoder over the sessions of a bundle. It keeps nothing of the streams."""

    def __init__(self, sessions: Sessions, decoding: Decoding) -> None:
        self._sessions = sessions
        self._decoding = decoding
        shape = sessions.bundle.shape
        empty = np.zeros((shape.prediction_layers, 1, shape.prediction_width), np.float32)
        self.start: SearchState
        raise NotImplementedError
