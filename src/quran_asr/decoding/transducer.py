"""Greedy transducer decoding, chunk by chunk.

The state is a value: a call takes a `SearchState` and a chunk of encoded frames and returns the next state,
so streams can be cut anywhere, batched with others, suspended and dropped. The words are those of NeMo's
`greedy_batch` over the whole recording, whatever the chunks.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from quran_asr.decoding.decoder import EncoderOutput, Model, SearchResult, patience_of
from quran_asr.decoding.options import Decoding
from quran_asr.decoding.partial import NOTHING
from quran_asr.errors import QuranAsrError
from quran_asr.records import Hypothesis

Floats = NDArray[np.float32]
Hidden = tuple[Floats, ...]
"""The prediction network's recurrent state, for an LSTM (h, c), each [layers, B, hidden]."""

Predict = Callable[[NDArray[np.int64], Hidden], tuple[Floats, Hidden]]
"""tokens [B], state -> predicted [B, J] (projected for the joint), next state."""

Join = Callable[[Floats, Floats], Floats]
"""encoded [N, J], predicted [N, J] -> log-probabilities [N, V + 1], natural log, blank last."""

FIRST_BLOCK = 4
"""Frames in a call of the joint after a token; without a token each block is twice the last."""
LARGEST_BLOCK = 32
FAR = 1 << 40
"""A frame beyond every chunk."""


@dataclass(frozen=True, slots=True, eq=False)
class SearchState:
    """State of the search of one stream. Its arrays are never modified."""

    hidden: Hidden
    """Each [layers, hidden]."""
    predicted: Floats
    """[J], output of the prediction network after the tokens so far."""
    frame: int = 0
    """Frames searched so far, from the beginning of the stream."""
    last: int | None = None
    """Frame of the utterance's last token; None before its first."""


@dataclass(frozen=True, slots=True, eq=False)
class UtteranceEnd:
    """Condition for the end of an utterance; the next token then starts like the first one of a stream."""

    patience: int
    """Frames since the last token, its own frame included; at least 1."""
    start: SearchState
    """The state that the search returns to, from `start`; its frame is not used."""
    allowed: NDArray[np.bool_] | None = None
    """[B, n]: whether the utterance may end after this frame (not while a vowel is held); None: after any."""


@dataclass(frozen=True, slots=True)
class Step:
    """The result of one chunk of one stream."""

    found: Hypothesis
    """The new tokens, frames counted from the beginning of the stream, with their log-probabilities. The
    score is that of the path through this chunk, including blanks."""
    ends: tuple[int, ...]
    """Frames at which an utterance was over; a token at or after such a frame belongs to the next one."""
    state: SearchState


def start(predict: Predict, empty: Hidden, blank: int) -> SearchState:
    """The state before the first frame: the prediction network has read the blank alone.

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
    """Search one chunk of each of B streams for its most probable tokens.

    A frame is left when blank is its best token or after `max_symbols` tokens, as in NeMo. While
    frames are blank the prediction does not change, so the joint is evaluated on blocks of frames and the
    first token in each is taken: the number of calls grows with the tokens, not with the frames.

    Args:
        encoded: [B, n, J] frames of the encoder, projected for the joint.
        valid: number of valid frames of each stream, at most n.
        states: of each stream.
        predict: the prediction network.
        join: the joint network.
        max_symbols: most tokens in one frame.
        utterance_end: restart after a pause; None: never.

    Raises:
        QuranAsrError: a score is NaN. The states stay valid: the streams without NaN can be searched again.
    """
    batch, width, _ = encoded.shape
    lengths = np.asarray(valid, np.int64)
    if lengths.shape != (batch,) or len(states) != batch or (lengths > width).any() or (lengths < 0).any():
        raise QuranAsrError(
            f"encoded frames of the shape {list(encoded.shape)} do not fit {len(states)} states "
            f"with {lengths.tolist()} frames",
            remedy=f"give each of the {batch} streams a state and 0 to {width} frames",
        )
    if batch == 0:
        return []
    if batch == 1:
        one = encoded[0, : lengths[0]]
        return [_greedy_alone(one, states[0], predict, join, max_symbols, utterance_end)]
    search = _Search(encoded, lengths, states, utterance_end)
    while True:
        room = search.end_utterances()
        rows = np.flatnonzero(search.at < lengths)
        if not len(rows):
            return search.steps(states)
        asked = _Block.of(rows, np.minimum(search.block[rows], room[rows]), search.at[rows])
        answer = join(encoded[asked.row_of, asked.frame_of], search.predicted[asked.row_of])
        emitting, tokens, peaks = search.pass_blanks(asked, answer)
        if len(emitting):
            predicted, hidden = predict(tokens, tuple(part[:, emitting] for part in search.hidden))
            search.emit(emitting, tokens, peaks, predicted, hidden, max_symbols)


def _greedy_alone(
    encoded: Floats,
    state: SearchState,
    predict: Predict,
    join: Join,
    max_symbols: int,
    utterance_end: UtteranceEnd | None,
) -> Step:
    """The same search of one stream. Live chunks have a frame or two, for which the bookkeeping of a batch
    took as long as the networks.
    """
    hidden = tuple(part[:, None] for part in state.hidden)
    predicted = state.predicted[None]
    last = -FAR if state.last is None else state.last - state.frame
    allowed = None
    if utterance_end is not None and utterance_end.allowed is not None and len(encoded):
        allowed = _next_allowed(utterance_end.allowed)[0]
    tokens: list[int] = []
    frames: list[int] = []
    log_probs: list[float] = []
    ends: list[int] = []
    score, at, emitted, block = 0.0, 0, 0, FIRST_BLOCK
    while True:
        room = len(encoded) - at
        if utterance_end is not None and last != -FAR:
            bound = max(last + utterance_end.patience - 1, 0)
            if allowed is not None:
                bound = int(allowed[bound]) if bound < len(allowed) else FAR
            bound += 1
            if at == bound:
                ends.append(state.frame + at)
                predicted = utterance_end.start.predicted[None]
                hidden = tuple(part[:, None] for part in utterance_end.start.hidden)
                last = -FAR
            else:
                room = min(room, bound - at)
        if at >= len(encoded):
            break
        size = min(block, room)
        answer = join(encoded[at : at + size], predicted if size == 1 else predicted.repeat(size, axis=0))
        blank = answer.shape[1] - 1
        blanks = 0
        for token, peak in zip(answer.argmax(axis=1).tolist(), answer.max(axis=1).tolist(), strict=True):
            if math.isnan(peak):
                raise QuranAsrError(
                    f"the transducer's scores of frame {state.frame + at + blanks} hold NaN",
                    remedy="use an earlier checkpoint of the run, or export the model again",
                )
            score += peak
            if token != blank:
                break
            blanks += 1
        emitted = 0 if blanks else emitted
        at += blanks
        if blanks == size:
            block = min(2 * block, LARGEST_BLOCK)
            continue
        block = FIRST_BLOCK
        predicted, hidden = predict(np.array([token], np.int64), hidden)
        tokens.append(token)
        frames.append(state.frame + at)
        log_probs.append(peak)
        last = at
        emitted += 1
        if emitted == max_symbols:
            at, emitted = at + 1, 0
    after = SearchState(
        tuple(part[:, 0] for part in hidden),
        predicted[0],
        state.frame + len(encoded),
        None if last == -FAR else state.frame + last,
    )
    return Step(Hypothesis(tuple(tokens), tuple(frames), score, tuple(log_probs)), tuple(ends), after)


@dataclass(frozen=True, slots=True, eq=False)
class _Block:
    """Frames in one call of the joint: some of each of N streams, one stream after the other."""

    rows: NDArray[np.int64]
    """[N], the streams."""
    starts: NDArray[np.int64]
    """[N], index of each stream's first frame among all."""
    stops: NDArray[np.int64]
    """[N], index after its last."""
    row_of: NDArray[np.int64]
    """[frames], the stream of each."""
    frame_of: NDArray[np.int64]
    """[frames], its index in the chunk."""

    @classmethod
    def of(cls, rows: NDArray[np.int64], size: NDArray[np.int64], at: NDArray[np.int64]) -> _Block:
        """This many frames of each of these streams, from frame `at` of the chunk."""
        stops = size.cumsum()
        starts = stops - size
        frame_of = np.arange(stops[-1]) - np.repeat(starts - at, size)
        return cls(rows, starts, stops, np.repeat(rows, size), frame_of)


class _Search:
    """State of the search of one chunk: arrays over the B streams, modified as it advances."""

    def __init__(
        self,
        encoded: Floats,
        lengths: NDArray[np.int64],
        states: Sequence[SearchState],
        utterance_end: UtteranceEnd | None,
    ) -> None:
        batch, width, _ = encoded.shape
        self.lengths, self.utterance_end = lengths, utterance_end
        self.hidden = tuple(
            np.stack(parts, axis=1) for parts in zip(*(state.hidden for state in states), strict=True)
        )
        self.predicted = np.stack([state.predicted for state in states])
        self.begins = np.array([state.frame for state in states], np.int64)
        self.last = np.array([-FAR if s.last is None else s.last - s.frame for s in states], np.int64)
        self.allowed = None
        if utterance_end is not None and utterance_end.allowed is not None and width:
            self.allowed = _next_allowed(utterance_end.allowed)
        self.at = np.zeros(batch, np.int64)
        """Next frame in the chunk."""
        self.emitted = np.zeros(batch, np.int64)
        """Tokens so far in that frame."""
        self.block = np.full(batch, FIRST_BLOCK, np.int64)
        self.scores = np.zeros(batch)
        self.tokens: list[list[int]] = [[] for _ in states]
        self.frames: list[list[int]] = [[] for _ in states]
        self.log_probs: list[list[float]] = [[] for _ in states]
        self.ends: list[list[int]] = [[] for _ in states]

    def end_utterances(self) -> NDArray[np.int64]:
        """Restart where an utterance is over. Returns [B]: frames until the next end, or the chunk's."""
        room: NDArray[np.int64] = self.lengths - self.at
        if self.utterance_end is None:
            return room
        bounds = _bounds(self.last, self.utterance_end.patience, self.allowed)
        room = np.minimum(room, bounds - self.at)
        over = np.flatnonzero(self.at == bounds)
        for row in over.tolist():
            self.ends[row].append(int(self.begins[row] + self.at[row]))
            self.predicted[row] = self.utterance_end.start.predicted
            for part, fresh in zip(self.hidden, self.utterance_end.start.hidden, strict=True):
                part[:, row] = fresh
        self.last[over] = -FAR
        room[over] = self.lengths[over] - self.at[over]
        return room

    def pass_blanks(
        self, asked: _Block, answer: Floats
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
        """Advance to the first token of each stream, or past the block. Returns (streams with a token, their
        tokens, the log-probabilities of these tokens)."""
        blank = answer.shape[1] - 1
        best = answer.argmax(axis=1)
        peaks = answer[np.arange(len(best)), best].astype(np.float64)
        if np.isnan(peaks).any():  # argmax returns the first NaN of a frame
            bad = int(np.isnan(peaks).argmax())
            row = asked.row_of[bad]
            raise QuranAsrError(
                f"the transducer's scores of stream {row}, frame {self.begins[row] + asked.frame_of[bad]} "
                f"hold NaN",
                remedy="use an earlier checkpoint of the run, or export the model again",
            )
        rows, starts, stops = asked.rows, asked.starts, asked.stops
        tokens_at = np.append(np.flatnonzero(best != blank), stops[-1])
        firsts = np.minimum(
            tokens_at[np.searchsorted(tokens_at, starts)], stops
        )  # first token, or the block's end
        size = stops - starts
        before = np.arange(stops[-1]) < np.repeat(firsts, size)  # the blanks before it
        stream = np.repeat(np.arange(len(rows)), size)
        self.scores[rows] += np.bincount(stream[before], peaks[before], len(rows))
        self.emitted[rows] = np.where(firsts > starts, 0, self.emitted[rows])
        self.at[rows] += firsts - starts
        silent = firsts == stops
        self.block[rows] = np.where(silent, np.minimum(2 * self.block[rows], LARGEST_BLOCK), FIRST_BLOCK)
        places = firsts[~silent]
        return rows[~silent], best[places], peaks[places]

    def emit(
        self,
        emitting: NDArray[np.int64],
        tokens: NDArray[np.int64],
        peaks: NDArray[np.float64],
        predicted: Floats,
        hidden: Hidden,
        max_symbols: int,
    ) -> None:
        """Keep a token of each of these streams, and the output of the prediction network after it."""
        for row, token, peak in zip(emitting.tolist(), tokens.tolist(), peaks.tolist(), strict=True):
            self.tokens[row].append(token)
            self.frames[row].append(int(self.begins[row] + self.at[row]))
            self.log_probs[row].append(peak)
        self.scores[emitting] += peaks
        self.last[emitting] = self.at[emitting]
        self.predicted[emitting] = predicted
        for part, new in zip(self.hidden, hidden, strict=True):
            part[:, emitting] = new
        self.emitted[emitting] += 1
        full = emitting[self.emitted[emitting] == max_symbols]
        self.at[full] += 1
        self.emitted[full] = 0

    def steps(self, states: Sequence[SearchState]) -> list[Step]:
        """The result of the chunk for each stream."""
        return [self._step(row, state) for row, state in enumerate(states)]

    def _step(self, row: int, state: SearchState) -> Step:
        found = Hypothesis(
            tuple(self.tokens[row]),
            tuple(self.frames[row]),
            float(self.scores[row]),
            tuple(self.log_probs[row]),
        )
        last = self.last[row]
        after = replace(
            state,
            hidden=tuple(part[:, row].copy() for part in self.hidden),
            predicted=self.predicted[row].copy(),
            frame=state.frame + int(self.lengths[row]),
            last=None if last == -FAR else int(self.begins[row] + last),
        )
        return Step(found, tuple(self.ends[row]), after)


def _next_allowed(allowed: NDArray[np.bool_]) -> NDArray[np.int64]:
    """[B, n]: the first frame, from each frame on, after which the utterance may end; FAR if none."""
    frames = np.where(allowed, np.arange(allowed.shape[1]), FAR)
    return np.minimum.accumulate(frames[:, ::-1], axis=1)[:, ::-1]


def _bounds(
    last: NDArray[np.int64], patience: int, next_allowed: NDArray[np.int64] | None
) -> NDArray[np.int64]:
    """[B]: the frame at which the utterance is over if no token follows; about FAR where none ends here."""
    earliest = np.maximum(last + patience - 1, 0)
    if next_allowed is not None:
        width = next_allowed.shape[1]
        inside = np.minimum(earliest, width - 1)
        earliest = np.where(earliest < width, next_allowed[np.arange(len(last)), inside], FAR)
    return np.where(last == -FAR, FAR, earliest + 1)


class TransducerDecoder:
    """Greedy search of all streams in one batch; see `decoder.Decoder`."""

    def __init__(self, decoding: Decoding, model: Model) -> None:
        self._model = model
        self._patience = patience_of(decoding, model)
        self._max_symbols = decoding.max_symbols or model.max_symbols
        empty = np.zeros((model.prediction_layers, 1, model.prediction_width), np.float32)
        self.start = start(model.predict, (empty, empty), model.blank)

    def step(self, chunks: Sequence[EncoderOutput], states: Sequence[SearchState]) -> list[SearchResult]:
        if len(chunks) == 1:
            (chunk,) = chunks
            end = None
            if self._patience is not None:
                allowed = np.zeros(len(chunk.joint), np.bool_) if chunk.may_end is None else chunk.may_end
                end = UtteranceEnd(self._patience, self.start, allowed[None])
            step = _greedy_alone(
                chunk.joint, states[0], self._model.predict, self._model.join, self._max_symbols, end
            )
            return [SearchResult(step.found, ends=step.ends, state=step.state)]
        lengths = [len(chunk.joint) for chunk in chunks]
        encoded = np.zeros((len(chunks), max(lengths), chunks[0].joint.shape[1]), np.float32)
        allowed = np.zeros(encoded.shape[:2], np.bool_)
        for row, (chunk, length) in enumerate(zip(chunks, lengths, strict=True)):
            encoded[row, :length] = chunk.joint
            if chunk.may_end is not None:
                allowed[row, :length] = chunk.may_end
        end = None if self._patience is None else UtteranceEnd(self._patience, self.start, allowed)
        steps = greedy(
            encoded,
            lengths,
            states,
            self._model.predict,
            self._model.join,
            max_symbols=self._max_symbols,
            utterance_end=end,
        )
        return [SearchResult(step.found, ends=step.ends, state=step.state) for step in steps]

    def draft(self, state: SearchState) -> Hypothesis:
        return NOTHING
