"""The local alignment against a slow and plain one, and the part of a graph that it leads to."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from quran_asr.decoding.graph import UNITS, Graph, Kind, build_graph, part
from quran_asr.decoding.path import Clock, align_path
from quran_asr.decoding.path_ends import finish
from quran_asr.decoding.places import STEPS, local_scores, neighbourhood
from quran_asr.decoding.search import advance
from quran_asr.decoding.search_state import start

sys.path.insert(0, str(Path(__file__).parent))
from spoken import FRAME, QURAN, TOKENIZER, Speech, verse
from test_search import graphs


def slow_local_scores(graph: Graph, log_probs: np.ndarray) -> list[float]:
    """Token by token, in steps."""
    blank = log_probs.shape[1] - 1
    kept = np.maximum(log_probs, -graph.costs.floor)
    arcs = [(int(a), int(b), round(int(cost) * STEPS / UNITS)) for a, b, cost, _ in graph.arcs]
    arcs += [(w - 1, w, round(int(graph.chain[w]) * STEPS / UNITS)) for w in range(1, graph.words)]
    spoken = [-np.inf] * graph.states
    paused = [-np.inf] * graph.states
    best = [-np.inf] * graph.words
    label = -1
    for frame in kept:
        now = int(frame.argmax())
        begins = now not in (label, blank)
        other = frame[now] - graph.costs.garbage_token * begins
        gains = np.rint((np.rint((frame - frame[blank]) * UNITS) / UNITS - other + frame[blank]) * STEPS)
        label = now
        ends = [max(spoken[last], paused[last]) for last in graph.last]
        new = []
        for word in range(graph.words):
            for state in range(graph.first[word], graph.last[word] + 1):
                ways = [spoken[state]]
                if state > graph.first[word]:
                    ways.append(paused[state - 1])
                    if state not in graph.doubled:
                        ways.append(spoken[state - 1])
                else:
                    ways.append(-round(int(graph.enter[word]) * STEPS / UNITS))
                    ways += [ends[source] - cost for source, target, cost in arcs if target == word]
                new.append(max(ways) + gains[graph.tokens[state]])
        paused = [max(a, b) + gains[blank] for a, b in zip(spoken, paused, strict=True)]
        spoken = new
        best = [
            max(old, spoken[last], paused[last]) for old, last in zip(best, graph.last.tolist(), strict=True)
        ]
    return [one / STEPS for one in best]


@settings(max_examples=60, deadline=None)
@given(graphs(), st.integers(0, 2**32 - 1), st.integers(1, 25))
def test_no_local_path_is_better(graph: Graph, seed: int, frames: int) -> None:
    """Scores are whole steps, so that nothing is rounded; a path that costs 1,000 nats is none."""
    random = np.random.default_rng(seed)
    log_probs = -random.integers(1, 60, (frames, int(graph.tokens.max()) + 2)) / STEPS
    found = local_scores(graph, log_probs.astype(np.float32))
    slow = slow_local_scores(graph, log_probs)
    for one, other in zip(found.tolist(), slow, strict=True):
        assert one == other or (one < -1000 and other < -1000)


def test_the_search_in_the_neighbourhood_is_the_search_in_everything() -> None:
    """97:4-5, other speech, 112:1-2 twice: two places, one with a repeat."""
    graph = build_graph(QURAN, TOKENIZER, [ref for ref in QURAN.refs if ref.surah >= 78])
    speech = Speech().say(verse("97:4")).say(verse("97:5")).babble(3).say(verse("112:1")).say(verse("112:2"))
    scores = speech.pause(0.5).say(verse("112:1")).say(verse("112:2")).pause(0.5).log_probs()
    ends = [_last_word(graph, place) for place in ("97:5", "112:2")]
    near = part(graph, [(end - 40, end + 40) for end in ends])
    assert near.words < graph.words / 5
    found = []
    for searched in (near, graph):
        state, visits = advance(searched, start(searched), scores)
        found.append(align_path(searched, (*visits, *finish(searched, state)), Clock(FRAME)))
    assert found[0] == found[1]
    assert [segment.kind for segment in found[0].segments] == [*4 * ["verse"], *2 * ["repeat"]]


def _last_word(graph: Graph, place: str) -> int:
    here = np.array([str(graph.refs[verse]) == place for verse in graph.verse])
    return int(np.flatnonzero(here & (graph.kind == Kind.VERSE))[-1])


def test_a_long_recording_is_searched_in_everything() -> None:
    graph = build_graph(QURAN, TOKENIZER, [ref for ref in QURAN.refs if ref.surah >= 78])
    scores = local_scores(graph, Speech().say(verse("97:4")).log_probs())
    assert neighbourhood(graph, scores, tokens=5000) is graph
