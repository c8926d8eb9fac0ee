"""The state of the exact search between two calls: the best path to each state of the graph, as a value.

A state's entry is one 64-bit integer: the score of its best path in the upper half, and in the lower half the
record of how its word was entered. A state can be moved to another window of the graph.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from quran_asr.decoding.graph import Graph, window
from quran_asr.decoding.prefixes import Prefixes, no_prefixes, prefixes, ranges
from quran_asr.decoding.visits import HUB, Records

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Int64 = NDArray[np.int64]
    Int32 = NDArray[np.int32]

SHIFT = 32
RECORD = (1 << SHIFT) - 1
"""The bits of an entry that hold its record,"""
SCORE = ~RECORD
"""and those that hold its score, in units shifted by `SHIFT`."""
DEAD = -(1 << 30) << SHIFT
"""Entry of a state without a path."""
ALIVE = -(1 << 29) << SHIFT
"""The least entry that has a path."""


@dataclass(frozen=True, slots=True, eq=False)
class SearchState:
    """State of the search after some frames. N tokens of the K words that have entries of their own; P
    prefixes and C whole words that the other words of the window share."""

    frame: int
    """Frames so far."""
    low: int
    """First word of the graph that is searched, besides the formulas outside the text."""
    high: int
    """Word after the last one."""
    words: NDArray[np.intp]
    """[K]: numbers in the window of the words that have entries of their own."""
    tokens: Int64
    """[N] entries, word by word: the previous frame was this token."""
    blanks: Int64
    """[N] entries: the previous frame was a blank after this token."""
    garbage: Int64
    """[K] entries: the previous frame was other speech after this word."""
    shared_tokens: Int64
    """[P] entries, as are the next two."""
    shared_blanks: Int64
    """[P]"""
    shared_garbage: Int64
    """[C]"""
    hub: int
    """Entry of the hub."""
    label: int
    """Best token of the previous frame; -1 at the beginning."""
    records: Records
    emissions: Int32
    """[F, vocabulary + 1] units: the frames in which the open paths differ, and perhaps some before."""
    non_blank: NDArray[np.bool_]
    """[S]: whether a token is better than the blank, for all frames since the last committed visit."""
    taken: int
    """Units subtracted from all entries so far, to keep them small."""


def start(graph: Graph) -> SearchState:
    """The state before the first frame: in the hub."""
    first = Records(np.zeros(1, np.int32), np.full(1, HUB, np.int32), np.full(1, -1, np.int32))
    shared = prefixes(graph)
    words = shared.apart
    states = len(ranges(graph.first[words], graph.last[words]))
    return SearchState(
        frame=0,
        low=graph.formulas,
        high=graph.words,
        words=words,
        tokens=np.full(states, DEAD),
        blanks=np.full(states, DEAD),
        garbage=np.full(len(words), DEAD),
        shared_tokens=np.full(len(shared.token), DEAD),
        shared_blanks=np.full(len(shared.token), DEAD),
        shared_garbage=np.full(len(shared.ends), DEAD),
        hub=0,
        label=-1,
        records=first,
        emissions=np.zeros((0, 0), np.int32),
        non_blank=np.zeros(0, np.bool_),
        taken=0,
    )


def move(graph: Graph, state: SearchState, low: int, high: int) -> SearchState:
    """Continue in another window: the words `low` to `high` - 1. Paths in words outside it are dropped."""
    if (low, high) == (state.low, state.high):
        return state
    new, shared = window(graph, low, high), window_prefixes(graph, low, high)
    kept = np.r_[: graph.formulas, max(low, state.low) : max(low, state.low, min(high, state.high))]
    entries = entries_of_words(graph, state, _in_window(graph, state.low, kept))
    kept = _in_window(graph, low, kept)
    words = np.union1d(kept, shared.apart)
    first, last = places_of_words(new, words)
    at = np.searchsorted(words, kept)
    places, states = ranges(first[at], last[at]), int((last - first + 1).sum())

    def moved(entries: Int64, size: int, places: NDArray[np.intp]) -> Int64:
        everything = np.full(size, DEAD)
        everything[places] = entries
        return everything

    return replace(
        state,
        low=low,
        high=high,
        words=words,
        tokens=moved(entries[0], states, places),
        blanks=moved(entries[1], states, places),
        garbage=moved(entries[2], len(words), at),
        shared_tokens=np.full(len(shared.token), DEAD),
        shared_blanks=np.full(len(shared.token), DEAD),
        shared_garbage=np.full(len(shared.ends), DEAD),
    )


def window_prefixes(graph: Graph, low: int, high: int) -> Prefixes:
    """The prefixes that words of a window share: none unless it is the whole graph."""
    part = window(graph, low, high)
    return prefixes(graph) if part is graph else no_prefixes(part)


def places_of_words(graph: Graph, words: NDArray[np.intp]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """First and last place of each of these words among the states of all of them, word by word."""
    lengths = graph.last[words] - graph.first[words] + 1
    ends = np.cumsum(lengths)
    return ends - lengths, ends - 1


def entries_of_words(graph: Graph, state: SearchState, words: NDArray[np.intp]) -> tuple[Int64, Int64, Int64]:
    """Entries of some words of the window, their own or shared: tokens and blanks, word by word; garbage."""
    part, shared = window(graph, state.low, state.high), window_prefixes(graph, state.low, state.high)
    nodes = shared.node[ranges(part.first[words], part.last[words])]
    tokens, blanks = (np.append(kept, DEAD)[nodes] for kept in (state.shared_tokens, state.shared_blanks))
    garbage = np.append(state.shared_garbage, DEAD)[shared.whole[words]]
    number = np.full(part.words, -1)
    number[state.words] = np.arange(len(state.words))
    own = np.flatnonzero(number[words] >= 0)
    source = number[words[own]]
    (first, last), (own_first, own_last) = places_of_words(part, words), places_of_words(part, state.words)
    to, places = ranges(first[own], last[own]), ranges(own_first[source], own_last[source])
    tokens[to], blanks[to], garbage[own] = state.tokens[places], state.blanks[places], state.garbage[source]
    return tokens, blanks, garbage


def _in_window(graph: Graph, low: int, words: NDArray[np.intp]) -> NDArray[np.intp]:
    """Numbers in a window of words of the graph."""
    return np.where(words < graph.formulas, words, words - low + graph.formulas)


def number_in_window(graph: Graph, state: SearchState, word: int) -> int:
    """The number that a word of the graph has in the window of a state."""
    return word if word < graph.formulas else word - state.low + graph.formulas


def word_in_graph(graph: Graph, low: int, number: int) -> int:
    """The word of the graph that has a number in a window."""
    return number if number < graph.formulas else number - graph.formulas + low
