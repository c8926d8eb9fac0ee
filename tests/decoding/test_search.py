"""The exact search against a dense one that is slow and plain."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from quran_asr.decoding.graph import NEVER, UNITS, Costs, Graph
from quran_asr.decoding.path_ends import best_end, best_in_words, best_total, finish, score, word_ends
from quran_asr.decoding.search import advance, emissions_in_units
from quran_asr.decoding.search_state import SearchState, start
from quran_asr.decoding.visits import Visit

sys.path.insert(0, str(Path(__file__).parent))
import dense_search as dense


@st.composite
def graphs(draw: st.DrawFn) -> Graph:
    """A few words of a few tokens, with all kinds of arcs or without them."""
    vocabulary = draw(st.integers(1, 3))
    words = draw(
        st.lists(st.lists(st.integers(0, vocabulary - 1), min_size=1, max_size=3), min_size=1, max_size=5)
    )
    count = len(words)
    first = np.cumsum([0, *map(len, words)])[:-1]
    tokens = np.concatenate(words).astype(np.intp)
    last = np.append(first[1:], len(tokens)) - 1
    doubled = [i for i in range(1, len(tokens)) if tokens[i] == tokens[i - 1] and i not in first]
    cost = st.integers(0, 6 * UNITS)
    open_or_not = st.one_of(cost, st.just(NEVER))
    arcs = draw(
        st.lists(
            st.tuples(st.integers(0, count - 1), st.integers(0, count - 1), cost, st.integers(0, 1)),
            max_size=4,
        )
    )
    few = draw(st.lists(open_or_not, min_size=1, max_size=2))  # words with the same cost share prefixes
    enter = draw(st.lists(st.sampled_from(few) | open_or_not, min_size=count, max_size=count))
    wrong = draw(st.lists(open_or_not, min_size=count, max_size=count))
    costs = Costs(
        back=draw(st.floats(0, 6)),
        back_words=draw(st.integers(0, 3)),
        back_inside=draw(st.floats(0, 3)),
        skip=draw(st.floats(0, 6)),
        skip_words=draw(st.integers(0, 2)),
        garbage=draw(st.one_of(st.floats(0, 6), st.just(np.inf))),
        garbage_token=draw(st.floats(0, 6)),
    )
    return Graph(
        tokens=tokens,
        first=first.astype(np.intp),
        last=last.astype(np.intp),
        doubled=np.array(doubled, np.intp),
        enter=np.array(enter, np.int64),
        leave=np.array(draw(st.lists(open_or_not, min_size=count, max_size=count)), np.int64),
        chain=np.array(draw(st.lists(open_or_not, min_size=count, max_size=count)), np.int64),
        after_wrong=np.array(wrong, np.int64),
        arcs=np.array(arcs, np.int64).reshape(-1, 4),
        local=np.array(draw(st.lists(st.booleans(), min_size=count, max_size=count))),
        kind=np.zeros(count, np.int8),
        verse=np.zeros(count, np.int32),
        index=np.array(draw(st.lists(st.integers(0, 1), min_size=count, max_size=count)), np.int32),
        texts=("word",) * count,
        refs=(),
        costs=costs,
    )


def emissions(seed: int, frames: int, tokens: int, sharpness: float = 3.0) -> np.ndarray:
    """Log-probabilities [frames, tokens] of which the blank, the last one, is often the best."""
    logits = np.random.default_rng(seed).normal(0, sharpness, (frames, tokens))
    logits[:, -1] += 1
    return (logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))).astype(np.float32)


def searched(
    graph: Graph, log_probs: np.ndarray, cuts: list[int], commit_frames: int
) -> tuple[SearchState, tuple[Visit, ...], int]:
    """The last state, the whole path, and how many of its visits had been committed."""
    state, visits = start(graph), ()
    for begin, end in zip([0, *cuts], [*cuts, len(log_probs)], strict=True):
        state, committed = advance(
            graph, state, log_probs[begin:end], beam=np.inf, commit_frames=commit_frames
        )
        visits += committed
    return state, visits + finish(graph, state), len(visits)


@settings(max_examples=150, deadline=None)
@given(graphs(), st.integers(0, 2**32 - 1), st.integers(1, 40), st.integers(1, 12))
def test_no_path_is_better(graph: Graph, seed: int, frames: int, commit_frames: int) -> None:
    log_probs = emissions(seed, frames, int(graph.tokens.max()) + 2)
    units = emissions_in_units(log_probs, graph.costs.floor)
    state, path, _ = searched(graph, log_probs, [], commit_frames)
    best = dense.best_score(graph, units)
    assert score(state, best_end(graph, state).entry) == dense.nats(best)
    assert dense.path_score(graph, units, path) == best
    inside = best_in_words(graph, state)
    ended = score(state, best_end(graph, state, inside_word=True).entry)  # among equals, entries differ
    assert ended == best_total(state) == score(state, max(int(inside.max()), state.hub))
    assert (word_ends(graph, state) <= inside).all()


@settings(max_examples=100, deadline=None)
@given(graphs(), st.integers(0, 2**32 - 1), st.integers(1, 40), st.integers(1, 12), st.data())
def test_chunks_change_nothing(
    graph: Graph, seed: int, frames: int, commit_frames: int, data: st.DataObject
) -> None:
    log_probs = emissions(seed, frames, int(graph.tokens.max()) + 2)
    cuts = sorted(data.draw(st.lists(st.integers(0, frames), max_size=5)))
    whole, path, committed = searched(graph, log_probs, [], commit_frames)
    state, same_path, as_many = searched(graph, log_probs, cuts, commit_frames)
    assert (same_path, as_many) == (path, committed)
    for name in ("words", "tokens", "blanks", "garbage", "emissions"):
        assert np.array_equal(getattr(state, name), getattr(whole, name))
    for name in ("shared_tokens", "shared_blanks", "shared_garbage"):
        assert np.array_equal(getattr(state, name), getattr(whole, name))
    assert (state.hub, state.taken, state.label) == (whole.hub, whole.taken, whole.label)


@settings(max_examples=100, deadline=None)
@given(graphs(), st.integers(0, 2**32 - 1), st.integers(1, 40), st.integers(1, 12), st.data())
def test_no_path_is_better_where_entering_some_words_costs_more_or_less(
    graph: Graph, seed: int, frames: int, commit_frames: int, data: st.DataObject
) -> None:
    log_probs = emissions(seed, frames, int(graph.tokens.max()) + 2)
    far = data.draw(st.integers(0, 3 * UNITS))
    more = st.just(far) | st.integers(-3 * UNITS, far)
    entering = np.array(data.draw(st.lists(more, min_size=graph.words, max_size=graph.words)), np.int64)
    state, visits = advance(
        graph, start(graph), log_probs, beam=np.inf, commit_frames=commit_frames, entering=entering
    )
    enter = np.where(graph.enter < NEVER, graph.enter + entering, NEVER)
    units = emissions_in_units(log_probs, graph.costs.floor)
    best = dense.best_score(replace(graph, enter=enter), units)
    assert score(state, best_end(graph, state).entry) == dense.nats(best)
    path = visits + finish(graph, state)
    assert dense.path_score(replace(graph, enter=enter), units, path) == best
