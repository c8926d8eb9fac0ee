"""The best path against the collapse rule, written another way."""

from __future__ import annotations

from itertools import groupby, pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from quran_asr.decoding.ctc import PathState, greedy, greedy_chunk
from quran_asr.errors import QuranAsrError

BLANK = 4


def scores_of(path: list[int], seed: int = 0) -> NDArray[np.float32]:
    """Log probabilities [frames, 5] whose best token in each frame is that of the path."""
    random = np.random.default_rng(seed)
    logits = random.normal(size=(len(path), BLANK + 1))
    logits[np.arange(len(path)), path] = logits.max(axis=1, initial=0) + random.uniform(0.01, 3, len(path))
    return np.asarray(logits - np.log(np.exp(logits).sum(axis=1, keepdims=True)), np.float32)


@given(st.lists(st.integers(0, BLANK), max_size=30), st.integers(0, 99))
def test_repeats_are_one_and_blanks_are_none(path: list[int], seed: int) -> None:
    runs = [(token, [frame for frame, _ in run]) for token, run in groupby(enumerate(path), lambda at: at[1])]
    hypothesis = greedy(scores_of(path, seed))
    assert hypothesis.tokens == tuple(token for token, _ in runs if token != BLANK)
    assert hypothesis.frames == tuple(frames[0] for token, frames in runs if token != BLANK)


@given(st.lists(st.integers(0, BLANK), max_size=30))
def test_the_score_is_that_of_the_path(path: list[int]) -> None:
    log_probs = scores_of(path)
    score = sum(float(log_probs[frame, token]) for frame, token in enumerate(path))
    assert greedy(log_probs).score == pytest.approx(score, abs=1e-9)


@given(st.lists(st.integers(0, BLANK), max_size=30), st.lists(st.integers(0, 30), max_size=6))
def test_a_cut_changes_nothing(path: list[int], cuts: list[int]) -> None:
    log_probs = scores_of(path)
    state, parts = PathState(), []
    for begin, end in pairwise([0, *sorted(min(cut, len(path)) for cut in cuts), len(path)]):
        found, _, state = greedy_chunk(log_probs[begin:end], state)
        parts.append(found)
    whole = greedy(log_probs)
    assert [token for part in parts for token in part.tokens] == list(whole.tokens)
    assert [frame for part in parts for frame in part.frames] == list(whole.frames)
    assert [number for part in parts for number in part.log_probs] == list(whole.log_probs)
    assert sum(part.score for part in parts) == pytest.approx(whole.score)


def test_a_blank_parts_equal_tokens() -> None:
    assert greedy(scores_of([1, 1, BLANK, 1, 2, 2, 1])).tokens == (1, 1, 2, 1)
    assert greedy(scores_of([1, 1, BLANK, 1, 2, 2, 1])).frames == (0, 3, 4, 6)


def test_blanks_only_and_no_frames_say_nothing() -> None:
    assert greedy(scores_of([BLANK] * 7)).tokens == ()
    empty = greedy(np.zeros((0, BLANK + 1), np.float32))
    assert (empty.tokens, empty.frames, empty.score) == ((), (), 0.0)


def test_tokens_are_plain_numbers() -> None:
    hypothesis = greedy(scores_of([1, 2]))
    assert [type(number) for number in hypothesis.tokens + hypothesis.frames] == [int] * 4


def test_what_are_no_scores_is_refused() -> None:
    log_probs = scores_of([1, 2, 3])
    log_probs[2, 0] = np.nan
    with pytest.raises(QuranAsrError, match="frame 2 hold NaN"):
        greedy(log_probs)
    for shape in [(3,), (2, 3, 5), (3, 0)]:
        with pytest.raises(QuranAsrError, match="shape"):
            greedy(np.zeros(shape, np.float32))
