"""Transducer scores in, tokens out: greedy search that goes on from piece to piece.

The search is a value: a `SearchState` goes in with a piece of encoded frames and the next one comes out, so
streams can be cut anywhere, batched with others, set aside and dropped. The words are those of NeMo's
`greedy_batch` over the whole, however it was cut.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from quran_asr.findings import QuranAsrError
from quran_asr.records import Hypothesis

Floats = NDArray[np.float32]
Hidden = tuple[Floats, ...]
"""The prediction network's recurrent state, for an LSTM (h, c), each [layers, B, hidden]."""

Predict = Callable[[NDArray[np.int64], Hidden], tuple[Floats, Hidden]]
"""tokens [B], state -> predicted [B, J] (projected for the joint), next state."""

Join = Callable[[Floats, Floats], Floats]
"""encoded [N, J], predicted [N, J] -> log-probabilities [N, V + 1], natural log, blank last."""

FIRST_BLOCK = 4
"""Frames that the joint is asked for after a token; while there is none, each block is twice the last."""
LARGEST_BLOCK = 32
FAR = 1 << 40
"""A frame that no piece has."""


@dataclass(frozen=True, slots=True, eq=False)
class SearchState:
    """Where the search of one stream stands. Its arrays are never written to."""

    hidden: Hidden
    """Each [layers, hidden]."""
    predicted: Floats
    """[J], what the prediction network says after the tokens so far."""
    frame: int = 0
    """Frames searched so far, from the beginning of the stream."""
    last: int | None = None
    """Frame of the utterance's last token; None before its first."""


@dataclass(frozen=True, slots=True, eq=False)
class UtteranceEnd:
    """When an utterance is over: the next token then starts as the first one of a stream did."""

    patience: int
    """Frames without a token after the last one, itself counted; at least 1."""
    start: SearchState
    """What the search goes back to, from `start`; its frame is not used."""
    allowed: NDArray[np.bool_] | None = None
    """[B, n]: may the utterance end after this frame? (Not while a vowel is held.) None: after any."""


@dataclass(frozen=True, slots=True)
class Step:
    """What one piece brought to one stream."""

    found: Hypothesis
    """The new tokens, frames counted from the beginning of the stream, with their log-probabilities. The
    score is that of the path through this piece, blanks too."""
    ends: tuple[int, ...]
    """Frames at which an utterance was over; a token at or after such a frame belongs to the next one."""
    state: SearchState


def start(predict: Predict, empty: Hidden, blank: int) -> SearchState:
    """The state before the first frame: the prediction network has heard the blank alone.

    Args:
        predict: the prediction network.
        empty: its state before anything, each [layers, 1, hidden] of zeros.
        blank: the blank's token number, which is the size of the vocabulary.
    """
    predicted, hidden = predict(np.array([blank], np.int64), empty)
    return SearchState(tuple(part[:, 0] for part in hidden), predicted[0])


def greedy(
    encoded: Floats,
    valid: Sequence[int],
    states: Sequence[SearchState],
    predict: Predict,
    join: Join,
    *,
    max_symbols: int = 10,
    utterance_end: UtteranceEnd | None = None,
) -> list[Step]:
    """Search one piece of each of B streams for its most probable tokens.

    A frame is left when blank is its best token or when it has said `max_symbols` tokens, as in NeMo. While
    frames say blank the prediction does not change, so the joint is asked for blocks of frames and the first
    token in each is taken: calls grow with the tokens, not with the frames.

    Args:
        encoded: [B, n, J] frames of the encoder, projected for the joint.
        valid: how many of the n frames each stream has.
        states: of each stream.
        predict: the prediction network.
        join: the joint network.
        max_symbols: most tokens in one frame.
        utterance_end: start anew after a pause; None searches through.

    Raises:
        QuranAsrError: a score is NaN. The states stay good: the streams without NaN can be searched again.
    """
    batch, width, _ = encoded.shape
    lengths = np.asarray(valid, np.int64)
    if lengths.shape != (batch,) or len(states) != batch or (lengths > width).any() or (lengths < 0).any():
        raise QuranAsrError(
            f"encoded frames of the shape {list(encoded.shape)} do not fit {len(states)} states "
            f"with {lengths.tolist()} frames"
        )
    if batch == 0:
        return []
    hidden = tuple(np.stack(parts, axis=1) for parts in zip(*(state.hidden for state in states), strict=True))
    predicted = np.stack([state.predicted for state in states])
    begins = np.array([state.frame for state in states], np.int64)
    last = np.array([-FAR if s.last is None else s.last - s.frame for s in states], np.int64)
    allowed = None
    if utterance_end is not None and utterance_end.allowed is not None and width:
        allowed = _next_allowed(utterance_end.allowed)

    at = np.zeros(batch, np.int64)  # next frame in the piece
    said = np.zeros(batch, np.int64)  # tokens in that frame
    block = np.full(batch, FIRST_BLOCK, np.int64)
    tokens: list[list[int]] = [[] for _ in states]
    frames: list[list[int]] = [[] for _ in states]
    log_probs: list[list[float]] = [[] for _ in states]
    ends: list[list[int]] = [[] for _ in states]
    scores = np.zeros(batch)

    while True:
        room = lengths - at
        if utterance_end is not None:
            bounds = _bounds(last, utterance_end.patience, allowed)
            room = np.minimum(room, bounds - at)
            over = np.flatnonzero(at == bounds)
            for row in over.tolist():
                ends[row].append(int(begins[row] + at[row]))
                predicted[row] = utterance_end.start.predicted
                for part, fresh in zip(hidden, utterance_end.start.hidden, strict=True):
                    part[:, row] = fresh
            last[over] = -FAR
            room[over] = lengths[over] - at[over]
        rows = np.flatnonzero(at < lengths)
        if not len(rows):
            break
        size = np.minimum(block[rows], room[rows])
        stops = size.cumsum()
        starts = stops - size
        row_of = np.repeat(rows, size)
        frame_of = np.arange(stops[-1]) - np.repeat(starts - at[rows], size)
        answer = join(encoded[row_of, frame_of], predicted[row_of])
        blank = answer.shape[1] - 1
        best = answer.argmax(axis=1)
        peaks = answer[np.arange(len(best)), best].astype(np.float64)
        if np.isnan(peaks).any():  # argmax answers with the first NaN of a frame
            bad = int(np.isnan(peaks).argmax())
            raise QuranAsrError(
                f"the transducer's scores of stream {row_of[bad]}, "
                f"frame {begins[row_of[bad]] + frame_of[bad]} hold NaN"
            )
        spoken = np.append(np.flatnonzero(best != blank), stops[-1])
        firsts = np.minimum(spoken[np.searchsorted(spoken, starts)], stops)  # first token, or the block's end
        sums = np.append(0.0, peaks.cumsum())
        scores[rows] += sums[firsts] - sums[starts]  # the blanks before it
        said[rows] = np.where(firsts > starts, 0, said[rows])
        at[rows] += firsts - starts
        silent = firsts == stops
        block[rows] = np.where(silent, np.minimum(2 * block[rows], LARGEST_BLOCK), FIRST_BLOCK)

        speaking, places = rows[~silent], firsts[~silent]
        if not len(speaking):
            continue
        for row, place in zip(speaking.tolist(), places.tolist(), strict=True):
            tokens[row].append(int(best[place]))
            frames[row].append(int(begins[row] + at[row]))
            log_probs[row].append(float(peaks[place]))
        scores[speaking] += peaks[places]
        last[speaking] = at[speaking]
        predicted[speaking], renewed = predict(best[places], tuple(part[:, speaking] for part in hidden))
        for part, new in zip(hidden, renewed, strict=True):
            part[:, speaking] = new
        said[speaking] += 1
        full = speaking[said[speaking] == max_symbols]
        at[full] += 1
        said[full] = 0

    return [
        Step(
            Hypothesis(tuple(tokens[row]), tuple(frames[row]), float(scores[row]), tuple(log_probs[row])),
            tuple(ends[row]),
            replace(
                state,
                hidden=tuple(part[:, row].copy() for part in hidden),
                predicted=predicted[row].copy(),
                frame=state.frame + int(lengths[row]),
                last=None if last[row] == -FAR else int(begins[row] + last[row]),
            ),
        )
        for row, state in enumerate(states)
    ]


def _next_allowed(allowed: NDArray[np.bool_]) -> NDArray[np.int64]:
    """[B, n]: the first frame from each on behind which the utterance may end; FAR where there is none."""
    frames = np.where(allowed, np.arange(allowed.shape[1]), FAR)
    return np.minimum.accumulate(frames[:, ::-1], axis=1)[:, ::-1]


def _bounds(
    last: NDArray[np.int64], patience: int, next_allowed: NDArray[np.int64] | None
) -> NDArray[np.int64]:
    """[B]: the frame at which the utterance is over if it says no more; about FAR where none ends here."""
    earliest = np.maximum(last + patience - 1, 0)
    if next_allowed is not None:
        width = next_allowed.shape[1]
        inside = np.minimum(earliest, width - 1)
        earliest = np.where(earliest < width, next_allowed[np.arange(len(last)), inside], FAR)
    return np.where(last == -FAR, FAR, earliest + 1)
