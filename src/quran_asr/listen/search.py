"""From the encoder's scores to tokens, with the decoder that was asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from quran_asr.decode import transducer
from quran_asr.decode.options import Decoding
from quran_asr.decode.partial import NOTHING
from quran_asr.listen.sessions import Encoded, Sessions
from quran_asr.records import Hypothesis

SearchState = transducer.SearchState


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
        shape, vocabulary = sessions.bundle.shape, sessions.bundle.vocabulary
        empty = np.zeros((shape.prediction_layers, 1, shape.prediction_width), np.float32)
        self._transducer = transducer.start(sessions.predict, (empty, empty), vocabulary.blank)
        self.start: SearchState = self._transducer

    def step(self, encoded: Sequence[Encoded], states: Sequence[SearchState]) -> list[Found]:
        """Search a piece of each of several streams.

        Raises:
            QuranAsrError: a score is NaN; all states stay good.
        """
        lengths = [len(one.joint) for one in encoded]
        joint = np.zeros((len(encoded), max(lengths), self._sessions.bundle.shape.joint_width), np.float32)
        for row, one in zip(joint, encoded, strict=True):
            row[: len(one.joint)] = one.joint
        steps = transducer.greedy(
            joint,
            lengths,
            states,
            self._sessions.predict,
            self._sessions.join,
            max_symbols=self._decoding.max_symbols,
        )
        return [Found(step.found, ends=step.ends, state=step.state) for step in steps]
