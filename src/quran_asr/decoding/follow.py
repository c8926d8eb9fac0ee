"""The search of the whole Quran at the cost of a passage: only a window, once the position is known.

Where the position is known, the next interval is searched in a window around it. The path is then judged: if
it loses more against the best token of every frame than a jump costs and `TOLERANCE` nats a token, or if it
has other speech, all intervals whose visits have not been emitted yet are searched again in the whole Quran.
So the error of the window is bounded: it misses only a jump that gains less than that.

`Timing` decides how soon visits are emitted; then they never change. As in `search`, the state is a value,
and the chunk boundaries change nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from quran_asr.decoding.graph import UNITS, Graph, Kind
from quran_asr.decoding.path_ends import (
    best_end,
    best_in_words,
    best_total,
    end_ahead,
    finish,
    score,
    stands_alone,
    trace,
)
from quran_asr.decoding.search import DEFAULT_BEAM, FixedLag, advance, emissions_in_units
from quran_asr.decoding.search_state import SearchState, move, start
from quran_asr.decoding.visits import HUB, Visit

if TYPE_CHECKING:
    from numpy.typing import NDArray

TOLERANCE = 1.2
"""Nats a token that a path may lose before it is doubted."""
KNOWN_WORDS = 6
"""Committed words in a row after which the position is known."""
WORDS_BEHIND = 200
WORDS_AHEAD = 600
NEAR_EDGE = 100
"""Distance in words from the edge of the window at which it is moved."""
DOUBT_FRAMES = 64
"""Frames after a doubt for which the whole Quran is searched."""
SAME_PLACE = 8
"""Words: paths whose ends are closer than this differ in how far the reciter is, not in where he is."""
NEAR_WORDS = 30
NEAR_NATS = 3.0
FAR_WORDS, FAR_NATS = 1000, 4.0
"""A jump by d words costs log(1 + d / `NEAR_WORDS`) - `NEAR_NATS` nats in addition, from `FAR_WORDS` on
`FAR_NATS`: reciters jump within a surah far more often than to another one, and a cheaper jump is noticed
sooner. Far words all cost the same, so that the search can keep their paths together."""
AHEAD_NATS = 3.0
"""The open path may be worse than the best one by so many nats if it has one more whole word: reciters
continue more often than they stop before a word."""
PAUSE_NATS = 10.0
"""At a pause the last word is emitted only if every path without it is worse by more."""
CLEAR_NATS = 20.0
"""While the position is not known a word is committed early only if no other path is closer: two places with
the same wording stay open until a word distinguishes them."""


@dataclass(frozen=True, slots=True)
class Timing:
    """When visits are emitted."""

    interval: int
    """Frames between two judgements."""
    held: int
    """Intervals after which visits are emitted,"""
    most_held: int
    """or at most, while the path is in doubt and may have to be searched again."""
    lag: int | None = None
    """Frames after which a word of the best path is committed, see `FixedLag`; None: only once no other path
    is left."""
    pause: int | None = None
    """Frames without any token after which the last word is emitted too, if the place is known and no other
    path is near, see `PAUSE_NATS`; None: never before the next word has begun."""
    near: bool = False
    """Do near jumps cost less than far ones, once the place is known? Of two places with the same wording the
    nearer one is taken then. See `NEAR_WORDS`."""


ALIGNING = Timing(interval=64, held=1, most_held=1)
"""For recordings: visits are emitted when no other path is left, some intervals of 5 s later."""
LIVE = Timing(interval=8, held=1, most_held=6, lag=16, pause=20, near=True)
"""For live use: at 0.08 s per frame a word is emitted about 3 s after its end, 2 s into a pause, later only
while the path is in doubt."""


@dataclass(frozen=True, slots=True, eq=False)
class Interval:
    """Frames that were searched."""

    frames: NDArray[np.float32]
    """[n, vocabulary + 1]"""
    after: SearchState
    """The state after them."""
    visits: tuple[Visit, ...]
    """Committed in them."""
    excess: float = 0.0
    """Nats beyond `TOLERANCE` that the path lost in it, and in the intervals before it unless they gained."""


@dataclass(frozen=True, slots=True)
class Place:
    """The position of the reciter."""

    word: int | None = None
    """Last committed word of the text."""
    row: int = 0
    """Committed words in a row."""

    @property
    def known(self) -> bool:
        return self.row >= KNOWN_WORDS


@dataclass(frozen=True, slots=True, eq=False)
class FollowState:
    """State of a recording that is followed."""

    judged: SearchState
    """Before the open intervals."""
    place: Place
    """There."""
    open: tuple[Interval, ...] = ()
    """Intervals whose visits have not been emitted yet; the last one may not be full."""
    doubted: int = -DOUBT_FRAMES
    """Frame of the last doubt."""
    given: int = 0
    """Frame until which all words were emitted at a pause. Whatever the search finds before it later on is
    not emitted again."""

    @property
    def latest(self) -> SearchState:
        """After all frames so far."""
        return self.open[-1].after if self.open else self.judged


def start_following(graph: Graph, word: int | None = None) -> FollowState:
    """The state before the first frame.

    Args:
        graph: of the whole Quran, or of a passage.
        word: of the graph, near which the recitation is expected to begin; None: anywhere. It may
            nevertheless begin elsewhere.
    """
    return FollowState(start(graph), Place() if word is None else Place(word, KNOWN_WORDS))


def open_path(graph: Graph, state: FollowState) -> tuple[Visit, ...]:
    """The current path after all emitted visits, the best one or nearly so, see `AHEAD_NATS`.

    It may still change.
    """
    latest = state.latest
    end = end_ahead(graph, latest, best_end(graph, latest, inside_word=True), AHEAD_NATS)
    return _not_given(state, (*_searched(state), *trace(graph, latest, end)))


def lead(graph: Graph, state: FollowState) -> float:
    """Nats by which the best path as it is now is ahead of all those that end at another place.

    Another place is more than `SAME_PLACE` words away, or the hub.
    """
    latest = state.latest
    entries = best_in_words(graph, latest)
    word = int(entries.argmax())
    best, hub = score(latest, int(entries[word])), score(latest, latest.hub)
    entries[max(0, word - SAME_PLACE) : word + SAME_PLACE + 1] = entries.min()
    return best - max(hub, score(latest, int(entries.max())))


def follow(
    graph: Graph,
    state: FollowState,
    log_probs: NDArray[np.float32],
    beam: float = DEFAULT_BEAM,
    timing: Timing = ALIGNING,
) -> tuple[FollowState, tuple[Visit, ...]]:
    """Continue the search: arguments, result and errors as in `search.advance`.

    Args:
        timing: the same for the whole recording.
    """
    given: list[Visit] = []
    while len(log_probs):
        if not state.open or len(state.open[-1].frames) == timing.interval:
            begun = _window_for(graph, state)
            state = replace(state, open=(*state.open, Interval(log_probs[:0], begun, ())))
        *full, last = state.open
        chunk, log_probs = np.split(log_probs, [timing.interval - len(last.frames)])
        before = replace(state, open=tuple(full))
        state = replace(state, open=(*full, _searched_on(graph, before, last, chunk, beam, timing)))
        if len(state.open[-1].frames) == timing.interval:
            state = _judged(graph, state, beam, timing)
            state, visits = _emitted(graph, state, timing)
            given += visits
    return state, tuple(given)


def finish_following(
    graph: Graph, state: FollowState, beam: float = DEFAULT_BEAM, timing: Timing = ALIGNING
) -> tuple[SearchState, tuple[Visit, ...]]:
    """The recording has ended.

    Returns:
        The last state of the search, and all visits that have not been emitted before.
    """
    state = _judged(graph, state, beam, timing) if state.open else state
    return state.latest, _not_given(state, (*_searched(state), *finish(graph, state.latest)))


def _searched(state: FollowState) -> tuple[Visit, ...]:
    """The committed visits that have not been emitted yet."""
    return tuple(visit for interval in state.open for visit in interval.visits)


def _not_given(state: FollowState, visits: tuple[Visit, ...]) -> tuple[Visit, ...]:
    """Without words that were emitted at a pause: those that have their middle token before it."""
    return tuple(
        visit
        for visit in visits
        if visit.word == HUB or not visit.tokens or visit.tokens[len(visit.tokens) // 2][0] >= state.given
    )


def _searched_on(
    graph: Graph,
    before: FollowState,
    interval: Interval,
    frames: NDArray[np.float32],
    beam: float,
    timing: Timing,
) -> Interval:
    """An interval with more frames. `before`: the state before the interval."""
    place, state = _latest_place(graph, before), interval.after
    fixed_lag = None if timing.lag is None else FixedLag(timing.lag, 0.0 if place.known else CLEAR_NATS)
    entering = _distance_costs(graph, state, place, timing)
    after, visits = advance(graph, state, frames, beam, timing.interval, fixed_lag, entering)
    return Interval(np.concatenate([interval.frames, frames]), after, interval.visits + visits)


def _distance_costs(
    graph: Graph, state: SearchState, place: Place, timing: Timing
) -> NDArray[np.int64] | None:
    """[words of the window] units that a jump to each word costs besides, for its distance from the place."""
    if not timing.near or place.word is None or not place.known:
        return None
    words = np.r_[: graph.formulas, state.low : state.high]
    distance = np.abs(words - place.word)
    costs = np.where(distance < FAR_WORDS, np.log1p(distance / NEAR_WORDS) - NEAR_NATS, FAR_NATS)
    costs[: graph.formulas] = 0.0  # formulas outside the text are at no place
    units: NDArray[np.int64] = np.rint(costs * UNITS).astype(np.int64)
    return units


def _judged(graph: Graph, state: FollowState, beam: float, timing: Timing) -> FollowState:
    """The same, or its open intervals searched in the whole Quran if the path is doubtful."""
    *full, last = state.open
    before = full[-1] if full else Interval(last.frames[:0], state.judged, ())
    last = replace(last, excess=max(0.0, before.excess) + _excess(graph, before.after, last))
    state = replace(state, open=(*full, last))
    if _everything(graph, state.latest):
        return state
    if last.excess <= graph.costs.leave_word and not _has_other_speech(graph, before.after, last):
        return state
    again = FollowState(
        move(graph, state.judged, graph.formulas, graph.words),
        state.place,
        doubted=state.latest.frame,
        given=state.given,
    )
    for interval in state.open:
        fresh = Interval(interval.frames[:0], again.latest, ())
        fresh = _searched_on(graph, again, fresh, interval.frames, beam, timing)
        again = replace(again, open=(*again.open, fresh))
    return replace(again, judged=state.judged)


def _emitted(graph: Graph, state: FollowState, timing: Timing) -> tuple[FollowState, tuple[Visit, ...]]:
    """The visits of the first intervals, if they are old enough, and the state without those."""
    given: tuple[Visit, ...] = ()
    doubtful = state.open[-1].excess > graph.costs.leave_word / 2 and not _everything(graph, state.latest)
    while len(state.open) > (timing.most_held if doubtful else timing.held):
        first, *later = state.open
        given += first.visits
        place = _place(graph, state.place, first.visits)
        state = replace(state, judged=first.after, place=place, open=tuple(later))
    given = _not_given(state, given)
    if not doubtful and _at_pause(graph, state, timing):
        given += _not_given(state, (*_searched(state), *finish(graph, state.latest)))
        state = replace(state, given=state.latest.frame)
    return state, given


def _at_pause(graph: Graph, state: FollowState, timing: Timing) -> bool:
    """Whether the reciter has paused behind a word, and nothing else can have been recited last."""
    latest = state.latest
    if timing.pause is None or not _latest_place(graph, state).known:
        return False
    recent = latest.non_blank[-timing.pause :]
    if len(recent) < timing.pause or recent.any():
        return False
    return stands_alone(graph, latest, best_end(graph, latest), PAUSE_NATS)


def _latest_place(graph: Graph, state: FollowState) -> Place:
    place = state.place
    for interval in state.open:
        place = _place(graph, place, interval.visits)
    return place


def _window_for(graph: Graph, state: FollowState) -> SearchState:
    """The latest state, in the window that the next interval is to be searched in."""
    place, latest = _latest_place(graph, state), state.latest
    at = place.word
    if at is None or not place.known or latest.frame - state.doubted < DOUBT_FRAMES:
        return latest
    low, high = latest.low, latest.high
    inside = low + NEAR_EDGE <= at or low == graph.formulas
    if not _everything(graph, latest) and inside and (at < high - NEAR_EDGE or high == graph.words):
        return latest
    return move(graph, latest, max(graph.formulas, at - WORDS_BEHIND), min(graph.words, at + WORDS_AHEAD))


def _everything(graph: Graph, state: SearchState) -> bool:
    return (state.low, state.high) == (graph.formulas, graph.words)


def _excess(graph: Graph, before: SearchState, interval: Interval) -> float:
    """Nats by which the path is worse than the best token of every frame, less `TOLERANCE` for each token."""
    units = emissions_in_units(interval.frames, graph.costs.floor)
    labels = units.argmax(axis=1)
    tokens = int(((labels[1:] != labels[:-1]) & (labels[1:] != units.shape[1] - 1)).sum())
    lost = float(units.max(axis=1).sum()) / UNITS - (best_total(interval.after) - best_total(before))
    return lost - TOLERANCE * tokens


def _has_other_speech(graph: Graph, before: SearchState, interval: Interval) -> bool:
    path = (*interval.visits, *finish(graph, interval.after, inside_word=True))
    return any(visit.word == HUB and visit.end > before.frame for visit in path)


def _place(graph: Graph, place: Place, visits: tuple[Visit, ...]) -> Place:
    """The position after some more visits."""
    word, row = place.word, place.row
    for visit in visits:
        if visit.word == HUB:
            row = 0
        elif graph.kind[visit.word] == Kind.VERSE:
            word, row = visit.word, row + 1
    return Place(word, row)
