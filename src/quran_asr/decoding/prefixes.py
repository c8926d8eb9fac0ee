"""The beginnings of the words of a graph, each once for all words that have it.

Most paths of a search enter a word from the hub. Words with the same first tokens and the same cost of entry
then have the same paths in those tokens, whatever comes before them in the text. So these paths are kept for
prefixes, the nodes of a tree: of the whole Quran there are a tenth as many as states. Only words that are
also entered on another path need states of their own.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from quran_asr.decoding.graph import NEVER, Graph

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, eq=False)
class Prefixes:
    """The trees, one for each cost of entry: P prefixes, the R of one token first; C whole words."""

    token: NDArray[np.intp]
    """[P]: the last token of each prefix."""
    parent: NDArray[np.intp]
    """[P - R]: each prefix without its last token; those of one token have none."""
    doubled: NDArray[np.intp]
    """Prefixes whose last two tokens are the same."""
    word: NDArray[np.intp]
    """[P]: the first word of the graph with this prefix."""
    depth: NDArray[np.intp]
    """[P]: tokens of it."""
    enter: NDArray[np.int64]
    """[R]: cost of entry from the hub."""
    ends: NDArray[np.intp]
    """[C]: prefixes that are whole words. Words of one spelling and one cost of entry are one of these."""
    left: NDArray[np.intp]
    """[C]: the first word of the graph that is this one and costs least to leave for the hub."""
    members: NDArray[np.intp]
    """Words of the graph, ordered by their whole word;"""
    bounds: NDArray[np.intp]
    """[C + 1]: where those of each begin in `members`."""
    node: NDArray[np.intp]
    """[N]: prefix of each state of the graph; P if its word cannot be entered from the hub."""
    root: NDArray[np.intp]
    """[W + 2]: prefix of one token of each word; R if it has none, or if there is no such word."""
    whole: NDArray[np.intp]
    """[W + 2]: whole word of each word; C if it has none, or if there is no such word."""
    apart: NDArray[np.intp]
    """Words that share nothing."""

    @property
    def roots(self) -> int:
        return len(self.enter)

    def words_of(self, whole: NDArray[np.intp]) -> NDArray[np.intp]:
        """The words of the graph that are one of these whole words."""
        return self.members[ranges(self.bounds[whole], self.bounds[whole + 1] - 1)]


def ranges(first: NDArray[np.intp], last: NDArray[np.intp]) -> NDArray[np.intp]:
    """The numbers `first[0]` to `last[0]`, `first[1]` to `last[1]`, and so on."""
    lengths = last - first + 1
    ends = np.cumsum(lengths)
    total = int(ends[-1]) if len(ends) else 0
    return np.repeat(first - ends + lengths, lengths) + np.arange(total)


@lru_cache(maxsize=4)
def prefixes(graph: Graph) -> Prefixes:
    """The prefixes of all words that can be entered from the hub."""
    return _prefixes(graph, np.flatnonzero(graph.enter < NEVER))


@lru_cache(maxsize=32)
def no_prefixes(graph: Graph) -> Prefixes:
    """None: no word shares anything."""
    return _prefixes(graph, np.zeros(0, np.intp))


def _prefixes(graph: Graph, words: NDArray[np.intp]) -> Prefixes:
    costs, above = np.unique(graph.enter[words], return_inverse=True)
    longest = int((graph.last - graph.first).max(initial=-1)) + 1
    tokens = int(graph.tokens.max(initial=0)) + 1
    node = np.full(graph.states, -1)
    token, parent, word, depth = [], [], [], []
    enter, count = costs[:0], 0
    for level in range(longest):
        states = graph.first[words] + level
        key, index, inverse = np.unique(
            above * tokens + graph.tokens[states], return_index=True, return_inverse=True
        )
        token.append(key % tokens)
        word.append(words[index])
        depth.append(np.full(len(key), level + 1))
        if level:
            parent.append(key // tokens)
        else:
            enter = costs[key // tokens]
        node[states] = count + inverse
        longer = graph.last[words] > states
        words, above = words[longer], count + inverse[longer]
        count += len(key)
    nothing = np.zeros(0, np.intp)
    joined_token, joined_parent = np.concatenate([nothing, *token]), np.concatenate([nothing, *parent])
    roots = len(enter)
    same = joined_token[roots:] == joined_token[joined_parent]

    end = node[graph.last]
    words = np.flatnonzero(end >= 0)
    ends, whole = np.unique(end[words], return_inverse=True)
    order = np.lexsort((graph.leave[words], whole))
    bounds = np.searchsorted(whole[order], np.arange(len(ends) + 1))
    left = words[order[bounds[:-1]]]
    apart = np.flatnonzero(end < 0)
    node[node < 0] = count
    return Prefixes(
        token=joined_token,
        parent=joined_parent,
        doubled=np.flatnonzero(same) + roots,
        word=np.concatenate([nothing, *word]),
        depth=np.concatenate([nothing, *depth]),
        enter=enter,
        ends=ends,
        left=left,
        members=words[order],
        bounds=bounds,
        node=node,
        root=_of_words(graph, words, node[graph.first[words]], roots),
        whole=_of_words(graph, words, whole, len(ends)),
        apart=apart,
    )


def _of_words(graph: Graph, words: NDArray[np.intp], values: NDArray[np.intp], none: int) -> NDArray[np.intp]:
    """[W + 2] values of some words, `none` for the others and behind the last word."""
    found = np.full(graph.words + 2, none)
    found[words] = values
    return found
