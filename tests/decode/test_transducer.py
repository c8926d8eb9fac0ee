"""Greedy search over blocks and pieces against the search by its definition: the whole, frame by frame."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from quran_asr.decode.transducer import Hidden, Step, UtteranceEnd, greedy, start
from quran_asr.records import Hypothesis

V, J, H = 5, 6, 4
Floats = NDArray[np.float32]


class Networks:
    """A small recurrent prediction network and a joint of random weights, which count their calls."""

    def __init__(self, seed: int, talkative: float) -> None:
        random = np.random.default_rng(seed)
        self.embedding = random.normal(size=(V + 1, H))
        self.embedding[V] = 0
        self.recurrent, self.project = random.normal(size=(H, H)), random.normal(size=(H, J))
        self.out = random.normal(size=(J, V + 1))
        self.bias = np.array([0.0] * V + [-talkative])
        self.frames_joined = self.join_calls = self.predict_calls = 0

    def predict(self, tokens: NDArray[np.int64], hidden: Hidden) -> tuple[Floats, Hidden]:
        self.predict_calls += 1
        (h,) = hidden
        h = np.tanh(self.embedding[tokens] + h[0] @ self.recurrent + 0.1)
        return np.asarray(h @ self.project, np.float32), (np.asarray(h[None], np.float32),)

    def join(self, encoded: Floats, predicted: Floats) -> Floats:
        self.join_calls += 1
        self.frames_joined += len(encoded)
        logits = np.tanh(encoded + predicted) @ self.out + self.bias
        return np.asarray(logits - np.log(np.exp(logits).sum(axis=1, keepdims=True)), np.float32)

    def start(self):  # type: ignore[no-untyped-def]
        return start(self.predict, (np.zeros((1, 1, H), np.float32),), V)


def frame_by_frame(
    networks: Networks, encoded: Floats, max_symbols: int, patience: int | None = None
) -> tuple[list[int], list[int], list[float], list[int]]:
    """Tokens, frames, log-probabilities and ends, one frame and one token at a time."""
    begin = networks.predict(np.array([V]), (np.zeros((1, 1, H), np.float32),))
    (predicted, hidden), last = begin, None
    tokens, frames, log_probs, ends = [], [], [], []
    for t, frame in enumerate(encoded):
        for _ in range(max_symbols):
            scores = networks.join(frame[None], predicted)[0]
            best = int(scores.argmax())
            if best == V:
                break
            tokens.append(best)
            frames.append(t)
            log_probs.append(float(scores[best]))
            last = t
            predicted, hidden = networks.predict(np.array([best]), hidden)
        if patience is not None and last is not None and t + 1 == last + patience:
            ends.append(t + 1)
            (predicted, hidden), last = begin, None
    return tokens, frames, log_probs, ends


def whole(parts: list[Step]) -> tuple[Hypothesis, tuple[int, ...]]:
    found = [part.found for part in parts]
    return Hypothesis(
        sum((f.tokens for f in found), ()),
        sum((f.frames for f in found), ()),
        sum(f.score for f in found),
        sum((f.log_probs for f in found), ()),
    ), sum((part.ends for part in parts), ())


@given(
    st.integers(0, 10_000),
    st.floats(-1, 6),
    st.lists(st.lists(st.integers(0, 50), max_size=4), min_size=1, max_size=4),
    st.integers(1, 3),
    st.one_of(st.none(), st.integers(1, 6)),
)
def test_any_cut_and_any_batch_give_the_search_frame_by_frame(
    seed: int, blank: float, pieces: list[list[int]], max_symbols: int, patience: int | None
) -> None:
    """`pieces[stream]` are the lengths of its pieces; streams of a batch differ in theirs."""
    networks = Networks(seed, -blank)
    random = np.random.default_rng(seed)
    sounds = [np.asarray(random.normal(size=(sum(lengths), J)), np.float32) for lengths in pieces]
    end = None if patience is None else UtteranceEnd(patience, networks.start())
    states = [networks.start() for _ in pieces]
    steps: list[list[Step]] = [[] for _ in pieces]
    for nth in range(max(map(len, pieces))):
        valid = [lengths[nth] if nth < len(lengths) else 0 for lengths in pieces]
        batch = np.full((len(pieces), max(valid), J), np.nan, np.float32)  # padding must not be read
        for row, (sound, lengths) in enumerate(zip(sounds, pieces, strict=True)):
            batch[row, : valid[row]] = sound[sum(lengths[:nth]) :][: valid[row]]
        found = greedy(
            batch, valid, states, networks.predict, networks.join, max_symbols=max_symbols, utterance_end=end
        )
        states = [step.state for step in found]
        for row, step in enumerate(found):
            steps[row].append(step)
    for sound, parts in zip(sounds, steps, strict=True):
        tokens, frames, log_probs, ends = frame_by_frame(networks, sound, max_symbols, patience)
        found_all, found_ends = whole(parts)
        assert found_all.tokens == tuple(tokens)
        assert found_all.frames == tuple(frames)
        assert found_ends == tuple(ends)
        np.testing.assert_allclose(found_all.log_probs, log_probs, rtol=1e-4, atol=1e-5)
        assert found_all.score <= sum(log_probs) + 1e-3  # the blanks cost something too
