"""Candidate places of a recording in the whole Quran, at a fraction of the cost of the search.

A local alignment (Smith and Waterman, J Mol Biol 147, 1981): a path enters at any word, follows the text and
ends at any word. Other speech before and after it scores 0, as does a path of other speech only. There are no
jumps, no repeats and no times, only the best score that ends with each word. That takes one number for each
token of the Quran, and eighths of a nat in 16 bits are precise enough to select places.

The scores of all wrong places also show what score chance can reach.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from quran_asr.decoding.graph import UNITS, Graph, part
from quran_asr.decoding.search import emissions_in_units

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Int16 = NDArray[np.int16]

STEPS = 8
"""Score steps per nat."""
MOST_STEPS = 24_000
"""Higher scores are not distinguished: 3,000 nats, some minutes of recitation."""
DEAD_STEPS = -12_000
MOST_PLACES = 24
"""Places that are searched in detail,"""
WORDS_AROUND = 60
"""and words before their first and after their last word that are included."""


def local_scores(graph: Graph, log_probs: NDArray[np.floating]) -> NDArray[np.float64]:
    """The score of the best path that ends with each word, without jumps.

    Args:
        graph: of the whole Quran, or of a passage.
        log_probs: CTC scores [n, vocabulary + 1], natural log, blank last.

    Returns:
        [W] nats by which the path is better than one of other speech only, at most 3,000.

    Raises:
        QuranAsrError: the scores have a wrong shape or hold NaN.
    """
    enter, chain, arc_costs = _costs(graph)
    sources, targets = graph.arcs[:, 0], graph.arcs[:, 1]
    tokens = np.full(graph.states, DEAD_STEPS, np.int16)
    blanks, both = tokens.copy(), tokens.copy()
    best = np.full(graph.words, DEAD_STEPS, np.int16)
    ends, firsts = best.copy(), best.copy()
    for row in _against_other_speech(graph, log_probs):
        np.maximum(tokens, blanks, out=both)
        np.take(both, graph.last, out=ends, mode="clip")
        np.maximum(best, ends, out=best)
        np.take(tokens, graph.first, out=firsts, mode="clip")
        np.maximum(firsts, -enter, out=firsts)
        np.maximum(firsts[1:], ends[:-1] - chain[1:], out=firsts[1:])
        np.maximum.at(firsts, targets, ends[sources] - arc_costs)
        doubled = np.maximum(tokens[graph.doubled], blanks[graph.doubled - 1])
        np.maximum(tokens[1:], both[:-1], out=tokens[1:])
        tokens[graph.first] = firsts
        tokens[graph.doubled] = doubled
        tokens += _gains(graph, row)
        np.clip(tokens, DEAD_STEPS, MOST_STEPS, out=tokens)
        np.clip(both, DEAD_STEPS, MOST_STEPS, out=blanks)
        blanks += np.int16(row[-1])
    np.maximum(best, np.maximum(tokens, blanks)[graph.last], out=best)
    return best / STEPS


def other_speech(
    graph: Graph, log_probs: NDArray[np.floating]
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """[n] scores of frames in other speech, nats relative to their blank; and whether a token begins."""
    units = emissions_in_units(log_probs, graph.costs.floor)
    labels = units.argmax(axis=1)
    begins = (labels != np.append(-1, labels[:-1])) & (labels != units.shape[1] - 1)
    return units.max(axis=1) / UNITS - graph.costs.garbage_token * begins, begins


def neighbourhood(graph: Graph, scores: NDArray[np.float64], tokens: int) -> Graph:
    """The part of a graph that contains the best places; all of it if that is only a little more.

    Args:
        graph: of the scores.
        scores: as `local_scores` gives them.
        tokens: of the recording; they bound the length of a path in words.
    """
    before = tokens + WORDS_AROUND
    if before * MOST_PLACES > graph.words or scores.max() >= MOST_STEPS / STEPS:
        return graph
    near = np.zeros(graph.words, np.bool_)
    places = 0
    for word in np.argsort(-scores, kind="stable").tolist():
        if word >= graph.formulas and not near[word]:
            near[max(graph.formulas, word - before) : word + WORDS_AROUND] = True
            places += 1
            if places == MOST_PLACES:
                break
    edges = np.flatnonzero(np.diff(near, prepend=False, append=False))
    return part(graph, [(low, high) for low, high in edges.reshape(-1, 2).tolist()])


def _against_other_speech(graph: Graph, log_probs: NDArray[np.floating]) -> NDArray[np.int8]:
    """[n, vocabulary + 1] steps by which each token is better than other speech."""
    units = emissions_in_units(log_probs, graph.costs.floor)
    other, _ = other_speech(graph, log_probs)
    relative = np.rint((units / UNITS - other[:, None]) * STEPS)
    steps: NDArray[np.int8] = np.clip(relative, -127, 127).astype(np.int8)
    return steps


def _gains(graph: Graph, row: NDArray[np.int8]) -> NDArray[np.int8]:
    """[N]: the score of each state's token. A table of bytes is many times faster than indexing."""
    if len(row) > 256:
        return row[graph.tokens]
    return np.frombuffer(_token_bytes(graph).translate(row.tobytes().ljust(256, b"\0")), np.int8)


@lru_cache(maxsize=2)
def _token_bytes(graph: Graph) -> bytes:
    return graph.tokens.astype(np.uint8).tobytes()


@lru_cache(maxsize=2)
def _costs(graph: Graph) -> tuple[Int16, Int16, Int16]:
    """Costs of entering each word, of coming from the previous word, and of the other arcs, in steps."""

    def in_steps(units: NDArray[np.int64]) -> Int16:
        steps: Int16 = np.minimum(np.rint(units * (STEPS / UNITS)), -DEAD_STEPS).astype(np.int16)
        return steps

    return in_steps(graph.enter), in_steps(graph.chain), in_steps(graph.arcs[:, 2])
