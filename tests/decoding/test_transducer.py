"""Greedy search over blocks and pieces against the search by its definition: the whole, frame by frame."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from quran_asr.decoding.transducer import Hidden, SearchState, Step, UtteranceEnd, greedy, start
from quran_asr.errors import QuranAsrError
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

    def start(self) -> SearchState:
        return start(self.predict, (np.zeros((1, 1, H), np.float32),), V)


def frame_by_frame(
    networks: Networks,
    encoded: Floats,
    max_symbols: int,
    patience: int | None,
    allowed: NDArray[np.bool_],
) -> tuple[Hypothesis, list[int]]:
    """The path and the ends, one frame and one token at a time."""
    begin = networks.predict(np.array([V]), (np.zeros((1, 1, H), np.float32),))
    (predicted, hidden), last = begin, None
    tokens, frames, log_probs, ends = [], [], [], []
    score = 0.0
    for t, frame in enumerate(encoded):
        for _ in range(max_symbols):
            scores = networks.join(frame[None], predicted)[0]
            best = int(scores.argmax())
            score += float(scores[best])
            if best == V:
                break
            tokens.append(best)
            frames.append(t)
            log_probs.append(float(scores[best]))
            last = t
            predicted, hidden = networks.predict(np.array([best]), hidden)
        if patience is not None and last is not None and t + 1 >= last + patience and allowed[t]:
            ends.append(t + 1)
            (predicted, hidden), last = begin, None
    return Hypothesis(tuple(tokens), tuple(frames), score, tuple(log_probs)), ends


def together(parts: list[Step]) -> Hypothesis:
    found = [part.found for part in parts]
    return Hypothesis(
        sum((f.tokens for f in found), ()),
        sum((f.frames for f in found), ()),
        sum(f.score for f in found),
        sum((f.log_probs for f in found), ()),
    )


@pytest.mark.slow
@given(
    st.integers(0, 10_000),
    st.floats(-1, 6),
    st.lists(st.lists(st.integers(0, 50), max_size=4), min_size=1, max_size=4),
    st.integers(1, 3),
    st.one_of(st.none(), st.integers(1, 6)),
    st.sampled_from([None, 0.2, 0.8]),
)
def test_any_cut_and_any_batch_give_the_search_frame_by_frame(
    seed: int,
    blank: float,
    pieces: list[list[int]],
    max_symbols: int,
    patience: int | None,
    silence: float | None,
) -> None:
    """`pieces[stream]` are the lengths of its pieces; streams of a batch differ in theirs."""
    networks = Networks(seed, -blank)
    random = np.random.default_rng(seed)
    begin = networks.start()
    sounds = [np.asarray(random.normal(size=(sum(lengths), J)), np.float32) for lengths in pieces]
    allowed = [random.random(len(sound)) < (1.0 if silence is None else silence) for sound in sounds]
    states = [begin for _ in pieces]
    steps: list[list[Step]] = [[] for _ in pieces]
    for nth in range(max(map(len, pieces))):
        valid = [lengths[nth] if nth < len(lengths) else 0 for lengths in pieces]
        batch = np.full((len(pieces), max(valid), J), np.nan, np.float32)  # padding must not be read
        may_end = np.ones((len(pieces), max(valid)), np.bool_)
        for row, lengths in enumerate(pieces):
            begins = sum(lengths[:nth])
            batch[row, : valid[row]] = sounds[row][begins : begins + valid[row]]
            may_end[row, : valid[row]] = allowed[row][begins : begins + valid[row]]
        end = None
        if patience is not None:
            end = UtteranceEnd(patience, begin, None if silence is None else may_end)
        found = greedy(
            batch, valid, states, networks.predict, networks.join, max_symbols=max_symbols, utterance_end=end
        )
        states = [step.state for step in found]
        for row, step in enumerate(found):
            steps[row].append(step)
    for sound, mask, parts in zip(sounds, allowed, steps, strict=True):
        expected, ends = frame_by_frame(networks, sound, max_symbols, patience, mask)
        searched = together(parts)
        assert (searched.tokens, searched.frames) == (expected.tokens, expected.frames)
        assert [end for part in parts for end in part.ends] == ends
        np.testing.assert_allclose(searched.log_probs, expected.log_probs, rtol=1e-4, atol=1e-5)
        assert searched.score == pytest.approx(expected.score, rel=1e-4, abs=1e-4)


def test_calls_grow_with_the_tokens_and_not_with_frames_or_streams() -> None:
    networks = Networks(1, talkative=-4.0)
    sound = np.asarray(np.random.default_rng(5).normal(size=(1, 400, J)), np.float32)
    (alone,) = greedy(sound, [400], [networks.start()], networks.predict, networks.join)
    count = len(alone.found.tokens)
    calls = networks.join_calls
    assert 5 < count < 40
    assert calls < 5 * count + 20
    assert networks.predict_calls == count + 1
    greedy(sound.repeat(64, axis=0), [400] * 64, [networks.start()] * 64, networks.predict, networks.join)
    assert networks.join_calls == 2 * calls


def test_streams_without_nan_continue_from_the_same_states() -> None:
    networks = Networks(2, talkative=-1.0)
    good = np.asarray(np.random.default_rng(5).normal(size=(2, 12, J)), np.float32)
    (first, second) = greedy(good, [12, 12], [networks.start()] * 2, networks.predict, networks.join)
    (expected, _) = greedy(good, [12, 12], [first.state, second.state], networks.predict, networks.join)
    broken = good.copy()
    broken[1, 3, 0] = np.nan
    with pytest.raises(QuranAsrError, match="stream 1, frame 15 hold NaN"):
        greedy(broken, [12, 12], [first.state, second.state], networks.predict, networks.join)
    (again,) = greedy(good[:1], [12], [first.state], networks.predict, networks.join)
    assert again.found.tokens == expected.found.tokens


def test_what_does_not_fit_together_is_refused() -> None:
    networks = Networks(0, 0.0)
    encoded = np.zeros((1, 4, J), np.float32)
    for valid, states in [([5], 1), ([-1], 1), ([4, 4], 1), ([4], 2)]:
        with pytest.raises(QuranAsrError, match=r"shape \[1, 4, 6\] do not fit"):
            greedy(encoded, valid, [networks.start()] * states, networks.predict, networks.join)
    assert greedy(encoded[:0], [], [], networks.predict, networks.join) == []
