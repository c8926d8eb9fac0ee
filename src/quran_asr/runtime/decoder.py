"""From encoder scores to tokens, with the chosen decoder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import numpy as np

from quran_asr.decoding import ctc, ctc_beam, transducer
from quran_asr.decoding.endpoint import Pause, frames_of
from quran_asr.decoding.options import Decoding
from quran_asr.decoding.partial import NOTHING
from quran_asr.records import Hypothesis
from quran_asr.runtime.sessions import Encoded, Sessions

if TYPE_CHECKING:
    from numpy.typing import NDArray

SearchState = transducer.SearchState | ctc.PathState | ctc_beam.BeamState


@dataclass(frozen=True, slots=True)
class Piece:
    """What the encoder says of a piece of one stream."""

    encoded: Encoded
    may_end: NDArray[np.bool_] | None = None
    """[n]: does the sound allow an utterance to end after this frame? None: utterances do not end."""


@dataclass(frozen=True, slots=True)
class SearchResult:
    """What a piece brought to one stream."""

    tokens: Hypothesis = NOTHING
    """New ones, which stay."""
    draft: Hypothesis = NOTHING
    """All after them that may still change."""
    ends: tuple[int, ...] = ()
    """Frames at which an utterance was over."""
    state: SearchState | None = None
    """To go on from; None where nothing was searched."""


class Search:
    """A decoder over the sessions of a bundle. It keeps nothing of the streams."""

    def __init__(self, sessions: Sessions, decoding: Decoding) -> None:
        self._sessions = sessions
        self._decoding = decoding
        bundle = sessions.bundle
        seconds = decoding.pause_seconds
        self._patience = None if seconds is None else frames_of(seconds, bundle.frame_seconds)
        self.start: SearchState
        """Of a stream before its first frame."""
        if decoding.decoder == "transducer":
            empty = np.zeros((bundle.shape.prediction_layers, 1, bundle.shape.prediction_width), np.float32)
            self.start = transducer.start(sessions.predict, (empty, empty), bundle.vocabulary.blank)
        elif decoding.decoder == "ctc":
            self.start = ctc.PathState()
        else:
            self.start = ctc_beam.BeamState()

    @property
    def ends_utterances(self) -> bool:
        return self._patience is not None

    def waiting(self, state: SearchState) -> SearchResult:
        """What is known where no new piece came: nothing new, and the same that may change."""
        draft = state.best if isinstance(state, ctc_beam.BeamState) else NOTHING
        return SearchResult(draft=draft)

    def step(self, pieces: Sequence[Piece], states: Sequence[SearchState]) -> list[SearchResult]:
        """Search a piece of each of several streams.

        Raises:
            QuranAsrError: a score is NaN; all states stay good.
        """
        if self._decoding.decoder == "transducer":
            return self._transducer(pieces, cast(Sequence[transducer.SearchState], states))
        return [self._ctc(piece, state) for piece, state in zip(pieces, states, strict=True)]

    def _transducer(
        self, pieces: Sequence[Piece], states: Sequence[transducer.SearchState]
    ) -> list[SearchResult]:
        lengths = [len(piece.encoded.joint) for piece in pieces]
        encoded = np.zeros((len(pieces), max(lengths), self._sessions.bundle.shape.joint_width), np.float32)
        for row, piece in zip(encoded, pieces, strict=True):
            row[: len(piece.encoded.joint)] = piece.encoded.joint
        end = None
        if self._patience is not None:
            allowed = np.zeros(encoded.shape[:2], np.bool_)
            for may, piece in zip(allowed, pieces, strict=True):
                if piece.may_end is not None:
                    may[: len(piece.may_end)] = piece.may_end
            end = transducer.UtteranceEnd(self._patience, cast(transducer.SearchState, self.start), allowed)
        steps = transducer.greedy(
            encoded,
            lengths,
            states,
            self._sessions.predict,
            self._sessions.join,
            max_symbols=self._decoding.max_symbols or self._sessions.bundle.shape.max_symbols,
            utterance_end=end,
        )
        return [SearchResult(step.found, ends=step.ends, state=step.state) for step in steps]

    def _ctc(self, piece: Piece, state: SearchState) -> SearchResult:
        pause = None if self._patience is None else Pause(self._patience, piece.may_end)
        scores = piece.encoded.ctc
        if isinstance(state, ctc_beam.BeamState):
            tokens, ends, beams = ctc_beam.beam_piece(
                scores,
                state,
                beam=self._decoding.beam,
                least_probability=self._decoding.least_probability,
                pause=pause,
            )
            return SearchResult(tokens, beams.best, ends, beams)
        assert isinstance(state, ctc.PathState)
        tokens, ends, path = ctc.greedy_piece(scores, state, pause)
        return SearchResult(tokens, ends=ends, state=path)
