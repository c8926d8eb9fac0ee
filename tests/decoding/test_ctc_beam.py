"""Prefix beam search against the sum over all alignments, and against itself in pieces."""

from __future__ import annotations

from collections import defaultdict
from itertools import groupby, product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from quran_asr.decoding.ctc import greedy
from quran_asr.decoding.ctc_beam import beam_chunk, start
from quran_asr.decoding.endpoint import Pause
from quran_asr.errors import QuranAsrError
from quran_asr.records import Hypothesis


def random_scores(seed: int, frames: int, vocabulary: int, sharpness: float = 1.0) -> NDArray[np.float32]:
    logits = np.random.default_rng(seed).normal(size=(frames, vocabulary + 1)) * sharpness
    return np.asarray(logits - np.log(np.exp(logits).sum(axis=1, keepdims=True)), np.float32)


def all_texts(log_probs: NDArray[np.float32]) -> dict[tuple[int, ...], float]:
    """Probability of every text: the sum over all alignments, each collapsed by the rule."""
    blank = log_probs.shape[1] - 1
    texts: dict[tuple[int, ...], float] = defaultdict(float)
    for path in product(range(blank + 1), repeat=len(log_probs)):
        text = tuple(token for token, _ in groupby(path) if token != blank)
        texts[text] += float(np.exp(sum(float(log_probs[t, token]) for t, token in enumerate(path))))
    return texts


def search(
    log_probs: NDArray[np.float32], cuts: list[int], **options: object
) -> tuple[Hypothesis, tuple[int, ...]]:
    state, found, ends = start(log_probs.shape[1] - 1), [], ()
    cuts = sorted(min(cut, len(log_probs)) for cut in cuts)
    bounds = [0, *cuts, len(log_probs)]
    for nth in range(len(bounds) - 1):
        piece, more, state = beam_chunk(
            log_probs[bounds[nth] : bounds[nth + 1]], state, final=nth == len(bounds) - 2, **options
        )
        found.append(piece)
        ends += more
    return Hypothesis(
        sum((f.tokens for f in found), ()),
        sum((f.frames for f in found), ()),
        sum(f.score for f in found),
        sum((f.log_probs for f in found), ()),
    ), ends


@given(st.integers(0, 10_000), st.integers(1, 5), st.integers(1, 3), st.floats(0.2, 4))
def test_texts_that_are_dropped_could_not_have_won(
    seed: int, frames: int, vocabulary: int, sharpness: float
) -> None:
    """Impossible tokens empty the beam of short texts; then those that fell behind for good are dropped."""
    log_probs = random_scores(seed, frames, vocabulary, sharpness)
    random = np.random.default_rng(seed)
    log_probs[random.random(log_probs.shape) < 0.5] = -np.inf
    log_probs[np.arange(frames), random.integers(0, vocabulary + 1, frames)] = -0.5  # one is always possible
    exact = all_texts(log_probs)
    found, _ = search(log_probs, [], beam=10_000, least_probability=0)
    assert exact[found.tokens] == pytest.approx(max(exact.values()), rel=1e-5)
    assert found.score == pytest.approx(np.log(max(exact.values())), abs=1e-5)


@given(st.integers(0, 10_000), st.integers(1, 5), st.integers(1, 3), st.floats(0.2, 4))
def test_a_full_beam_knows_the_probability_of_every_text(
    seed: int, frames: int, vocabulary: int, sharpness: float
) -> None:
    log_probs = random_scores(seed, frames, vocabulary, sharpness)
    exact = all_texts(log_probs)
    found, _, state = beam_chunk(log_probs, start(vocabulary), beam=10_000, least_probability=0)
    assert found.tokens == ()  # the text without tokens stays in the beam, so nothing is shared
    scores = np.logaddexp(state.in_blank, state.in_token)
    searched = {tail.tokens: float(np.exp(score)) for tail, score in zip(state.tails, scores, strict=True)}
    assert searched.keys() == exact.keys()
    assert [searched[text] for text in exact] == pytest.approx(list(exact.values()), rel=1e-5)
    assert sum(searched.values()) == pytest.approx(1, rel=1e-5)
    assert found.score == pytest.approx(np.log(max(exact.values())), abs=1e-5)


@given(
    st.integers(0, 10_000),
    st.integers(0, 40),
    st.lists(st.integers(0, 40), max_size=5),
    st.integers(1, 6),
    st.sampled_from([0.0, 0.01, 0.2]),
    st.one_of(st.none(), st.integers(1, 4)),
)
def test_a_cut_changes_nothing(
    seed: int, frames: int, cuts: list[int], beam: int, least: float, patience: int | None
) -> None:
    log_probs = random_scores(seed, frames, 4, 2.0)
    options = {
        "beam": beam,
        "least_probability": least,
        "pause": None if patience is None else Pause(patience),
    }
    whole, ends = search(log_probs, [], **options)
    cut, cut_ends = search(log_probs, cuts, **options)
    assert (cut.tokens, cut.frames, cut.log_probs, cut_ends) == (
        whole.tokens,
        whole.frames,
        whole.log_probs,
        ends,
    )
    assert cut.score == pytest.approx(whole.score)
    assert list(whole.frames) == sorted(set(whole.frames))
    assert all(0 <= frame < frames for frame in whole.frames)


@given(st.integers(0, 10_000), st.lists(st.integers(0, 4), max_size=30))
def test_where_there_is_no_doubt_it_says_what_the_best_path_says(seed: int, path: list[int]) -> None:
    log_probs = random_scores(seed, len(path), 4)
    log_probs[np.arange(len(path)), path] += 12
    log_probs -= np.log(np.exp(log_probs).sum(axis=1, keepdims=True))
    best, (found, _) = greedy(log_probs), search(log_probs, [], beam=4)
    assert found.tokens == best.tokens
    assert found.score == pytest.approx(best.score, abs=0.1)
    later = zip(found.frames, best.frames, strict=True)
    assert all(peak >= first for peak, first in later)  # of a run its peak, not its first frame


def test_many_alignments_beat_the_single_best() -> None:
    """Two frames, blank 0.6 and `a` 0.4: the best path is silence (0.36), the best text is `a` (0.64)."""
    log_probs = np.log(np.array([[0.4, 0.6]] * 2, np.float32))
    assert greedy(log_probs).tokens == ()
    found, _ = search(log_probs, [])
    assert found.tokens == (0,)
    assert np.exp(found.score) == pytest.approx(0.64)


def test_what_all_beams_share_is_given_out_and_memory_does_not_grow() -> None:
    log_probs = random_scores(3, 1_000, 6, 3.0)
    state, given_out, longest = start(6), 0, 0
    for begin in range(0, 1_000, 7):
        found, _, state = beam_chunk(log_probs[begin : begin + 7], state)
        given_out += len(found.tokens)
        longest = max(longest, *(len(tail.tokens) for tail in state.tails))
    assert given_out > 600
    assert longest < 30


def test_an_utterance_ends_with_its_best_text() -> None:
    quiet = [[0.01, 0.99]] * 5
    log_probs = np.log(np.array([[0.1, 0.9], [0.9, 0.1], *quiet, [0.6, 0.4], *quiet], np.float32))
    found, ends = search(log_probs, [], pause=Pause(4))
    assert (found.tokens, found.frames, ends) == ((0, 0), (1, 7), (5, 11))
    never = np.zeros(len(log_probs), np.bool_)
    assert search(log_probs, [], pause=Pause(4, never))[1] == ()


def test_what_are_no_scores_is_refused() -> None:
    log_probs = random_scores(0, 4, 3)
    log_probs[2] = -np.inf
    with pytest.raises(QuranAsrError, match="frame 2 hold no probability"):
        beam_chunk(log_probs, start(3))
    log_probs[1, 3] = np.nan
    with pytest.raises(QuranAsrError, match="frame 1 hold NaN"):
        beam_chunk(log_probs, start(3))
