"""Greedy CTC decoding, of a whole recording or chunk by chunk."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from quran_asr.decoding.decoder import EncoderOutput, Model, SearchResult, patience_of
from quran_asr.decoding.endpoint import Pause
from quran_asr.decoding.options import Decoding
from quran_asr.decoding.partial import NOTHING
from quran_asr.errors import QuranAsrError
from quran_asr.records import Hypothesis


@dataclass(frozen=True, slots=True)
class PathState:
    """State of the best path of one stream."""

    frame: int = 0
    """Frames so far, from the beginning of the stream."""
    running: int | None = None
    """Token of the last frame: repeated in the next frame, it is not a new token. None after a blank."""
    last: int | None = None
    """Frame of the last token or repeat of the utterance; None before its first."""


def greedy(log_probs: NDArray[np.float32]) -> Hypothesis:
    """The tokens of the best path: the best of every frame, repeats as one, blanks dropped.

    Args:
        log_probs: [frames, vocabulary + 1], natural log, blank last.

    Returns:
        Each token with the first frame of its run and its log-probability there; the score is the log
        probability of the path (blanks too), so it is not the log probability of the text, which other
        paths spell as well.

    Raises:
        QuranAsrError: not two dimensions, no column, or a frame with NaN or without any probability.
    """
    return greedy_chunk(log_probs, PathState())[0]


def greedy_chunk(
    log_probs: NDArray[np.float32], state: PathState, pause: Pause | None = None
) -> tuple[Hypothesis, tuple[int, ...], PathState]:
    """The new tokens of one more chunk of a stream; together they are those of `greedy` over the whole.

    Args:
        log_probs: [n, vocabulary + 1], natural log, blank last.
        state: `PathState()` at the beginning, then the state that the last call returned.
        pause: ends an utterance; None: never.

    Returns:
        The tokens with frames counted from the beginning of the stream, the frames at which an utterance was
        over, and the next state.

    Raises:
        QuranAsrError: as in `greedy`.
    """
    check_scores(log_probs)
    best = log_probs.argmax(axis=1)
    peaks = log_probs[np.arange(len(best)), best].astype(np.float64)
    blank = log_probs.shape[1] - 1
    before = np.append(blank if state.running is None else state.running, best)
    places = np.flatnonzero((best != blank) & (best != before[:-1]))
    found = Hypothesis(
        tuple(best[places].tolist()),
        tuple((state.frame + places).tolist()),
        float(peaks.sum()),
        tuple(peaks[places].tolist()),
    )
    ends: list[int] = []
    last = state.last
    for place, is_token in enumerate((best != blank).tolist()):
        frame = state.frame + place
        if is_token:
            last = frame
        elif pause is not None and pause.over(place, frame, last):
            ends.append(frame + 1)
            last = None
    running = None if before[-1] == blank else int(before[-1])
    return found, tuple(ends), PathState(state.frame + len(best), running, last)


def check_scores(log_probs: NDArray[np.float32]) -> None:
    """Check that these are CTC scores.

    Raises:
        QuranAsrError: not two dimensions, no column, or a frame with NaN or without any probability.
    """
    if log_probs.ndim != 2 or log_probs.shape[1] == 0:
        raise QuranAsrError(
            f"CTC scores have the shape {list(log_probs.shape)}, not [frames, vocabulary + 1]",
            remedy="give natural-log scores as [frames, vocabulary + 1], blank last",
        )
    peaks = log_probs.max(axis=1)  # NaN where any score of the frame is
    bad = ~(peaks > -np.inf)
    if bad.any():
        frame = int(bad.argmax())
        holds = "NaN" if np.isnan(peaks[frame]) else "no probability at all"
        raise QuranAsrError(
            f"the CTC scores of frame {frame} hold {holds}",
            remedy="use an earlier checkpoint of the run, or export the model again",
        )


class CtcDecoder:
    """The best path of each stream; see `decoder.Decoder`."""

    def __init__(self, decoding: Decoding, model: Model) -> None:
        self._patience = patience_of(decoding, model)
        self.start = PathState()

    def step(self, chunks: Sequence[EncoderOutput], states: Sequence[PathState]) -> list[SearchResult]:
        results = []
        for chunk, state in zip(chunks, states, strict=True):
            pause = None if self._patience is None else Pause(self._patience, chunk.may_end)
            tokens, ends, after = greedy_chunk(chunk.ctc, state, pause)
            results.append(SearchResult(tokens, ends=ends, state=after))
        return results

    def draft(self, state: PathState) -> Hypothesis:
        return NOTHING
