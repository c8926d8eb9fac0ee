"""Prefixes: each once, and all words spelled by theirs."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from hypothesis import given, settings

from quran_asr.decoding.graph import NEVER, Graph, build_graph
from quran_asr.decoding.prefixes import no_prefixes, prefixes

sys.path.insert(0, str(Path(__file__).parent))
from spoken import QURAN, TOKENIZER
from test_search import graphs


@settings(max_examples=100, deadline=None)
@given(graphs())
def test_a_word_is_spelled_by_its_prefixes(graph: Graph) -> None:
    found = prefixes(graph)
    for word in range(graph.words):
        nodes = found.node[graph.first[word] : graph.last[word] + 1].tolist()
        if graph.enter[word] >= NEVER:
            assert nodes == [len(found.token)] * len(nodes) and word in found.apart
            continue
        assert found.token[nodes].tolist() == graph.spelt(word).tolist()
        assert nodes[0] == found.root[word] and found.enter[nodes[0]] == graph.enter[word]
        assert found.parent[np.array(nodes[1:], int) - found.roots].tolist() == nodes[:-1]
        assert found.ends[found.whole[word]] == nodes[-1]
        assert word in found.words_of(found.whole[word : word + 1])


@settings(max_examples=100, deadline=None)
@given(graphs())
def test_a_prefix_exists_once_for_each_cost(graph: Graph) -> None:
    beginnings = {
        (int(graph.enter[word]), tuple(graph.spelt(word)[:length].tolist()))
        for word in np.flatnonzero(graph.enter < NEVER)
        for length in range(1, len(graph.spelt(word)) + 1)
    }
    assert len(prefixes(graph).token) == len(beginnings)
    assert len(no_prefixes(graph).token) == 0


def test_a_surah_has_fewer_prefixes_than_states() -> None:
    graph = build_graph(QURAN, TOKENIZER, [ref for ref in QURAN.refs if ref.surah == 36])
    assert len(prefixes(graph).token) < graph.states / 2
