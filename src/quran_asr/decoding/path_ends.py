"""Where the paths of a search end: the best path so far, what it is worth, and whether others are near it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from quran_asr.decoding.graph import UNITS, Graph, window
from quran_asr.decoding.search_state import (
    ALIVE,
    DEAD,
    RECORD,
    SHIFT,
    SearchState,
    entries_of_words,
    number_in_window,
    places_of_words,
    window_prefixes,
    word_in_graph,
)
from quran_asr.decoding.visits import HUB, Measured, Visit, align_visit, visits_until

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Int64 = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class PathEnd:
    """The end of a path."""

    entry: int
    word: int
    """Of the graph; `HUB` for the hub."""
    tokens: int | None = None
    """How many of the word's tokens it has; None: all."""


def finish(graph: Graph, state: SearchState, inside_word: bool = False) -> tuple[Visit, ...]:
    """The rest of the best path, after all visits that were committed. Arguments as `best_end`."""
    return trace(graph, state, best_end(graph, state, inside_word))


def best_end(graph: Graph, state: SearchState, inside_word: bool = False) -> PathEnd:
    """The end of the best path.

    Args:
        graph: the one that the state was started with.
        state: the last one.
        inside_word: whether the path may end within a word, as in an unfinished recording. It does so in any
            case where no other path is left.
    """
    ends = word_ends(graph, state)
    word = int(ends.argmax())
    best = PathEnd(int(ends[word]), word_in_graph(graph, state.low, word))
    if state.hub >> SHIFT > best.entry >> SHIFT:
        best = PathEnd(state.hub, HUB)
    if inside_word or best.entry < ALIVE:  # a fixed lag may leave only paths within words
        inside = _best_inside(graph, state)
        if inside.entry >> SHIFT > best.entry >> SHIFT:
            best = inside
    return best


def _best_inside(graph: Graph, state: SearchState) -> PathEnd:
    """The end of the best path within a word."""
    part, shared = window(graph, state.low, state.high), window_prefixes(graph, state.low, state.high)
    found = PathEnd(DEAD, HUB)
    if len(state.tokens):
        entries = np.maximum(state.tokens, state.blanks)
        place = int(entries.argmax())
        first, last = places_of_words(part, state.words)
        number = int(np.searchsorted(last, place))
        word = word_in_graph(graph, state.low, int(state.words[number]))
        found = PathEnd(int(entries[place]), word, place - int(first[number]) + 1)
    if len(state.shared_tokens):
        entries = np.maximum(state.shared_tokens, state.shared_blanks)
        prefix = int(entries.argmax())
        if entries[prefix] > found.entry:
            found = PathEnd(int(entries[prefix]), int(shared.word[prefix]), int(shared.depth[prefix]))
    return found


def end_ahead(graph: Graph, state: SearchState, end: PathEnd, nats: float) -> PathEnd:
    """The end of the path that has all of the next word too, if it is worse by at most so many nats.

    A word that the model hardly recognizes scores little better than silence; the best path then stays at
    the word before until the one after it is recognized.

    Args:
        graph: the one that the state was started with.
        state: the last one.
        end: of the best path.
        nats: at most.
    """
    following = end.word + 1
    if end.word == HUB or end.tokens is not None or not state.low < following < state.high:
        return end
    entry = int(word_ends(graph, state)[number_in_window(graph, state, following)])
    came_from = int(state.records.word[entry & RECORD])
    if entry >> SHIFT < (end.entry >> SHIFT) - nats * UNITS or came_from % graph.words != end.word:
        return end
    return PathEnd(entry, following)


def stands_alone(graph: Graph, state: SearchState, end: PathEnd, nats: float) -> bool:
    """Whether all paths that differ from the best one are worse by more than so many nats.

    Those that only continue it do not differ, unless they have half of another word: in a breath the model
    often emits a word start.

    Args:
        graph: the one that the state was started with.
        state: the last one.
        end: of the best path; False if it is not behind a whole word.
        nats: as many.
    """
    if end.word == HUB or end.tokens is not None:
        return False
    part, word = window(graph, state.low, state.high), number_in_window(graph, state, end.word)
    same = np.arange(len(state.records.frame)) == end.entry & RECORD
    before = np.maximum(state.records.before, 0)
    while len(onward := np.flatnonzero(same[before] & ~same)):
        same[onward] = True
    lengths = part.last - part.first + 1
    in_first_half = np.arange(part.states) - np.repeat(part.first, lengths) < np.repeat(lengths // 2, lengths)
    in_first_half[part.first[word] : part.last[word] + 1] = True
    tokens, blanks, garbage = entries_of_words(graph, state, np.arange(part.words))
    entries = np.maximum(tokens, blanks)
    entries[in_first_half & same[entries & RECORD]] = DEAD
    garbage[word] = DEAD if same[garbage[word] & RECORD] else garbage[word]
    hub = DEAD if same[state.hub & RECORD] else state.hub
    others = max(int(entries.max()), int(garbage.max()), hub)
    return others >> SHIFT < (end.entry >> SHIFT) - nats * UNITS


def word_ends(graph: Graph, state: SearchState) -> Int64:
    """[W] entries of the paths that end with each word of the window."""
    part, shared = window(graph, state.low, state.high), window_prefixes(graph, state.low, state.high)
    last = np.maximum(state.shared_tokens[shared.ends], state.shared_blanks[shared.ends])
    ends = np.append(np.maximum(last, state.shared_garbage), DEAD)[shared.whole[: part.words]]
    _, places = places_of_words(part, state.words)
    last = np.maximum(state.tokens[places], state.blanks[places])
    ends[state.words] = np.maximum(last, state.garbage)
    return ends


def best_in_words(graph: Graph, state: SearchState) -> Int64:
    """[W] entries of the best path that is in each word of the window, or in other speech after it."""
    part, shared = window(graph, state.low, state.high), window_prefixes(graph, state.low, state.high)
    entries = np.maximum(state.shared_tokens, state.shared_blanks)
    best, prefix = np.maximum(entries[shared.ends], state.shared_garbage), shared.ends.copy()
    while len(longer := np.flatnonzero(prefix >= shared.roots)):
        prefix[longer] = shared.parent[prefix[longer] - shared.roots]
        best = np.maximum(best, entries[prefix])
    found = np.append(best, DEAD)[shared.whole[: part.words]]
    if len(state.words):
        first, _ = places_of_words(part, state.words)
        own = np.maximum.reduceat(np.maximum(state.tokens, state.blanks), first)
        found[state.words] = np.maximum(own, state.garbage)
    return found


def score(state: SearchState, entry: int) -> float:
    """Nats of a path relative to one of blanks only."""
    return ((entry >> SHIFT) + state.taken) / UNITS


def best_total(state: SearchState) -> float:
    """Nats of the best of all paths, wherever it is, relative to one of blanks only."""
    own = (state.tokens, state.blanks, state.garbage)
    shared = (state.shared_tokens, state.shared_blanks, state.shared_garbage)
    return score(state, max(state.hub, *(int(part.max(initial=DEAD)) for part in (*own, *shared))))


def trace(graph: Graph, state: SearchState, end: PathEnd) -> tuple[Visit, ...]:
    """The visits of one path after all that were committed."""
    record = end.entry & RECORD
    visits = visits_until(graph, state.records, record)
    last = Visit(end.word, int(state.records.frame[record]), state.frame)
    measured = Measured(state.emissions, state.frame - len(state.emissions), state.non_blank, state.frame)
    aligned = [part for visit in visits for part in align_visit(graph, visit, measured)]
    return (*aligned, *align_visit(graph, last, measured, end.tokens))
