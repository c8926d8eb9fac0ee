"""The search over the whole Quran at the price of a passage: only the neighbourhood, once the place is known.

Where the place is known the next interval is searched in a window around it. Its path is then judged: if it
loses more against the best token of every frame than a jump costs and `TOLERANCE` nats a token, or if it has
other speech, this interval and the one before are searched again in the whole Quran. So what the window can
miss is bounded: a jump out of it that gains less than that in each interval.

Visits are given out an interval later. As in `search`, the state is a value, and chunks change nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from quran_asr.decoding.graph import UNITS, Graph, Kind
from quran_asr.decoding.search import (
    DEFAULT_BEAM,
    HUB,
    SearchState,
    Visit,
    advance,
    best_total,
    emissions_in_units,
    finish,
    move,
    start,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

INTERVAL = 64
"""Frames."""
TOLERANCE = 1.2
"""Nats a token that a path may lose before it is doubted."""
KNOWN_WORDS = 6
"""So many committed words in a row, and the place is known."""
WORDS_BEHIND = 200
WORDS_AHEAD = 600
NEAR_EDGE = 100
"""So many words from the edge of the window it is moved."""


@dataclass(frozen=True, slots=True, eq=False)
class Interval:
    """Frames that were searched."""

    frames: NDArray[np.float32]
    """[n, vocabulary + 1]"""
    after: SearchState
    """The state after them."""
    visits: tuple[Visit, ...]
    """Committed in them."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where the reciter is."""

    word: int | None = None
    """Last committed word of the text."""
    row: int = 0
    """Committed words in a row."""

    @property
    def known(self) -> bool:
        return self.row >= KNOWN_WORDS


@dataclass(frozen=True, slots=True, eq=False)
class FollowState:
    """What is known of a recording that is followed."""

    judged: SearchState
    """Before the open intervals."""
    place: Place
    """There."""
    open: tuple[Interval, ...] = ()
    """At most two, and one that is not full."""

    @property
    def latest(self) -> SearchState:
        """After all frames so far."""
        return self.open[-1].after if self.open else self.judged


def start_following(graph: Graph, word: int | None = None) -> FollowState:
    """The state before the first frame.

    Args:
        graph: of the whole Quran, or of a passage.
        word: of the graph, near which the recitation is expected to begin; None: anywhere. It may begin
            elsewhere all the same.
    """
    return FollowState(start(graph), Place() if word is None else Place(word, KNOWN_WORDS))


def open_path(graph: Graph, state: FollowState) -> tuple[Visit, ...]:
    """The best path as it is now, after all visits that were given out. It may still change."""
    searched = tuple(visit for interval in state.open for visit in interval.visits)
    return (*searched, *finish(graph, state.latest, inside_word=True))


def follow(
    graph: Graph, state: FollowState, log_probs: NDArray[np.float32], beam: float = DEFAULT_BEAM
) -> tuple[FollowState, tuple[Visit, ...]]:
    """Search on: arguments, result and errors as `search.advance` has them."""
    given: list[Visit] = []
    while len(log_probs):
        if not state.open or len(state.open[-1].frames) == INTERVAL:
            begun = _window_for(graph, state)
            state = replace(state, open=(*state.open, Interval(log_probs[:0], begun, ())))
        *full, last = state.open
        chunk, log_probs = np.split(log_probs, [INTERVAL - len(last.frames)])
        state = replace(state, open=(*full, _searched_on(graph, last, chunk, beam)))
        if len(state.open[-1].frames) == INTERVAL:
            state = _judged(graph, state, beam)
            if len(state.open) == 2:
                first, second = state.open
                given += first.visits
                state = FollowState(first.after, _place(graph, state.place, first.visits), (second,))
    return state, tuple(given)


def finish_following(
    graph: Graph, state: FollowState, beam: float = DEFAULT_BEAM
) -> tuple[SearchState, tuple[Visit, ...]]:
    """The recording has ended.

    Returns:
        The last state of the search, and all visits that were not given out before.
    """
    state = _judged(graph, state, beam) if state.open else state
    committed = tuple(visit for interval in state.open for visit in interval.visits)
    return state.latest, (*committed, *finish(graph, state.latest))


def _searched_on(graph: Graph, interval: Interval, frames: NDArray[np.float32], beam: float) -> Interval:
    after, visits = advance(graph, interval.after, frames, beam, INTERVAL)
    return Interval(np.concatenate([interval.frames, frames]), after, interval.visits + visits)


def _judged(graph: Graph, state: FollowState, beam: float) -> FollowState:
    """The same, or its open intervals searched in the whole Quran if the path of the last is doubtful."""
    before = state.open[-2].after if len(state.open) > 1 else state.judged
    if _everything(graph, state.latest) or not _doubtful(graph, before, state.open[-1]):
        return state
    after = move(graph, state.judged, graph.formulas, graph.words)
    again: list[Interval] = []
    for interval in state.open:
        again.append(_searched_on(graph, Interval(interval.frames[:0], after, ()), interval.frames, beam))
        after = again[-1].after
    return replace(state, open=tuple(again))


def _window_for(graph: Graph, state: FollowState) -> SearchState:
    """The latest state, in the window that the next interval is to be searched in."""
    place = state.place
    for interval in state.open:
        place = _place(graph, place, interval.visits)
    at, latest = place.word, state.latest
    if at is None or not place.known:
        return latest
    low, high = latest.low, latest.high
    inside = low + NEAR_EDGE <= at or low == graph.formulas
    if not _everything(graph, latest) and inside and (at < high - NEAR_EDGE or high == graph.words):
        return latest
    return move(graph, latest, max(graph.formulas, at - WORDS_BEHIND), min(graph.words, at + WORDS_AHEAD))


def _everything(graph: Graph, state: SearchState) -> bool:
    return (state.low, state.high) == (graph.formulas, graph.words)


def _doubtful(graph: Graph, before: SearchState, interval: Interval) -> bool:
    units = emissions_in_units(interval.frames, graph.costs.floor)
    labels = units.argmax(axis=1)
    tokens = int(((labels[1:] != labels[:-1]) & (labels[1:] != units.shape[1] - 1)).sum())
    lost = float(units.max(axis=1).sum()) / UNITS - (best_total(interval.after) - best_total(before))
    if lost > graph.costs.leave_word + TOLERANCE * tokens:
        return True
    path = (*interval.visits, *finish(graph, interval.after))
    return any(visit.word == HUB and visit.end > before.frame for visit in path)


def _place(graph: Graph, place: Place, visits: tuple[Visit, ...]) -> Place:
    """The place after some more visits."""
    word, row = place.word, place.row
    for visit in visits:
        if visit.word == HUB:
            row = 0
        elif graph.kind[visit.word] == Kind.VERSE:
            word, row = visit.word, row + 1
    return Place(word, row)
