"""The exact search: the best path through the graph for all frames so far, frame by frame.

Viterbi with token passing. A state's entry is one 64-bit integer: its score in the upper half, and in the
lower half the record of how its word was entered. The maximum of two entries is then the better path and its
history, sums are exact, and no table of frames times states is kept. Records are made at word entries only.
Every `COMMIT_FRAMES` those that no state refers to any more are dropped, and the common prefix of all states
is committed: it can no longer change.

Scores are relative to the blank's, in units of 1 / `UNITS` nat: a blank then costs nothing, and a token's
score and that of the blank after it need one addition between them.

In the whole graph only words that were entered from other words have states of their own. The paths from the
hub into all others are kept once for words that begin alike, see `prefixes`: exactly, at a tenth of the cost.

The state between two calls is a value, see `search_state`. The chunk boundaries change nothing. What it says
about the best path is in `path_ends`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from quran_asr.decoding.graph import NEVER, UNITS, Graph, in_units, window
from quran_asr.decoding.prefixes import ranges
from quran_asr.decoding.search_state import (
    ALIVE,
    DEAD,
    RECORD,
    SCORE,
    SHIFT,
    SearchState,
    places_of_words,
    window_prefixes,
    word_in_graph,
)
from quran_asr.decoding.visits import (
    HUB,
    GrowingRecords,
    Measured,
    Records,
    Visit,
    align_visit,
    common_record,
    mark_ways,
    other_speech,
    visits_until,
)
from quran_asr.errors import QuranAsrError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Int64 = NDArray[np.int64]
    Int32 = NDArray[np.int32]

COMMIT_FRAMES = 64
"""Default number of frames between two commitments."""
DEFAULT_BEAM = 400.0
"""Beam in nats: states that score lower than the best by more are dropped. Far above the cost of a jump."""


@dataclass(frozen=True, slots=True)
class FixedLag:
    """Commits words while other paths are left; paths that differ in them are dropped."""

    frames: int
    """A word that the best path left at least this many frames ago is committed"""
    margin: float = 0.0
    """if all paths without it score lower by this many nats; those that do are dropped in any case."""


def advance(
    graph: Graph,
    state: SearchState,
    log_probs: NDArray[np.floating],
    beam: float = DEFAULT_BEAM,
    commit_frames: int = COMMIT_FRAMES,
    fixed_lag: FixedLag | None = None,
    entering: Int64 | None = None,
) -> tuple[SearchState, tuple[Visit, ...]]:
    """Continue the search.

    Args:
        graph: the one that the state was started with.
        state: before these frames. It is not changed.
        log_probs: [n, vocabulary + 1] natural log, blank last.
        beam: nats below the best state at which a state is dropped; `inf` drops none.
        commit_frames: frames, counted from the beginning of the recording, between two commitments. Fewer
            take more time.
        fixed_lag: commit sooner; None: only the common prefix of all paths within the beam.
        entering: [words of the window] additional units for entering each word from the hub. Only words with
            the greatest of these share entries.

    Returns:
        The state after them, and the visits that can no longer change, in order; each is returned once.

    Raises:
        QuranAsrError: the scores have a wrong shape or hold NaN.
    """
    units = emissions_in_units(log_probs, graph.costs.floor)
    if state.frame and len(state.emissions) and units.shape[1] != state.emissions.shape[1]:
        raise QuranAsrError(
            f"CTC scores of {units.shape[1]} tokens follow {state.emissions.shape[1]}",
            remedy="begin a new search for the scores of another model",
        )
    if _costs(graph).largest_token + 1 >= units.shape[1]:
        raise QuranAsrError(
            f"CTC scores of {units.shape[1]} tokens do not fit the vocabulary of the graph",
            remedy="build the graph with the vocabulary of the model that gives the scores",
        )
    kept = units if not len(state.emissions) else np.concatenate([state.emissions, units])
    run = _Run(graph, state, kept, beam, entering)
    committed: list[Visit] = []
    for row in units:
        run.step(row)
        if run.frame % commit_frames == 0:
            committed += run.collect(fixed_lag)
    return run.state(), tuple(committed)


def refuse_broken(log_probs: NDArray[np.floating]) -> None:
    """Refuse what is not a matrix of CTC scores.

    Raises:
        QuranAsrError: not two dimensions, or a score is NaN.
    """
    if log_probs.ndim != 2 or not log_probs.shape[1]:
        raise QuranAsrError(
            f"CTC scores have the shape {list(log_probs.shape)}, not [frames, tokens]",
            remedy="give natural-log scores as [frames, vocabulary + 1], blank last",
        )
    if np.isnan(log_probs).any():
        raise QuranAsrError(
            f"the CTC scores of frame {int(np.isnan(log_probs).any(1).argmax())} hold NaN",
            remedy="use an earlier checkpoint of the run, or export the model again",
        )


def emissions_in_units(log_probs: NDArray[np.floating], floor: float) -> Int32:
    """CTC scores in the form of the search: [n, vocabulary + 1] units relative to the blank of the frame.

    Raises:
        QuranAsrError: not two dimensions, or a score is NaN.
    """
    refuse_broken(log_probs)
    kept = np.maximum(log_probs.astype(np.float64), -floor)
    units: Int32 = np.rint((kept - kept[:, -1:]) * UNITS).astype(np.int32)
    return units


@dataclass(frozen=True, slots=True, eq=False)
class _Costs:
    """The costs of a graph as they are added to entries. W words."""

    enter: Int64
    """[W]"""
    leave: Int64
    """[W]"""
    chain: Int64
    """[W + 2]; nothing leads to the last two."""
    after_wrong: Int64
    """[W + 2]"""
    arcs: NDArray[np.intp]
    """[2, A]: from word, to word,"""
    arc_costs: Int64
    """[A]"""
    blank_arcs: NDArray[np.intp]
    """[2, B]: the same for arcs on which a blank must come between."""
    blank_arc_costs: Int64
    offsets: NDArray[np.int64]
    """[O]: from a word to those to which the reciter may go back or skip,"""
    local: Int64
    """[O]"""
    inside: Int64
    """[W]: added for going back into a verse."""
    least_leave: int
    """No word leads to the hub for less."""
    near: int
    """Above the hub by at most this much, no end of a word is good enough for going back or skipping."""
    before_apart: NDArray[np.intp]
    """Words from which one can be entered that cannot be entered from the hub."""
    doubled: NDArray[np.bool_]
    """[N]: whether the state before has the same token, inside a word."""
    largest_token: int
    """-1: there is none."""


@lru_cache(maxsize=32)
def _costs(graph: Graph) -> _Costs:
    costs = graph.costs
    plain, blank = (graph.arcs[graph.arcs[:, 3] == needed].T for needed in (0, 1))
    offsets = [-back for back in range(costs.back_words)]
    offsets += [1 + ahead for ahead in range(1, costs.skip_words + 1)]
    local = [costs.back] * costs.back_words + [costs.skip] * costs.skip_words
    reached = graph.enter[graph.local]
    most = int(reached.max()) if len(reached) else 0
    cheapest = min(in_units(costs.back), in_units(costs.skip))
    nowhere = np.full(2, NEVER)
    chain, after_wrong = np.append(graph.chain, nowhere), np.append(graph.after_wrong, nowhere)
    chain[:1] = after_wrong[:2] = NEVER  # no word comes before the first
    apart = np.flatnonzero(graph.enter >= NEVER)
    before = (apart[chain[apart] < NEVER] - 1, apart[after_wrong[apart] < NEVER] - 2)
    doubled = np.zeros(graph.states, np.bool_)
    doubled[graph.doubled] = True
    return _Costs(
        enter=graph.enter << SHIFT,
        leave=graph.leave << SHIFT,
        chain=chain << SHIFT,
        after_wrong=after_wrong << SHIFT,
        arcs=plain[:2],
        arc_costs=plain[2] << SHIFT,
        blank_arcs=blank[:2],
        blank_arc_costs=blank[2] << SHIFT,
        offsets=np.array(offsets, np.int64),
        local=np.array([in_units(cost) for cost in local], np.int64) << SHIFT,
        inside=np.where(graph.index > 0, in_units(costs.back_inside), 0) << SHIFT,
        least_leave=int(graph.leave.min()) << SHIFT,
        near=(cheapest - most) << SHIFT,
        before_apart=np.union1d(*before),
        doubled=doubled,
        largest_token=int(graph.tokens.max(initial=-1)),
    )


class _Run:
    """The arrays of a state while frames are added to it."""

    def __init__(
        self, graph: Graph, state: SearchState, emissions: Int32, beam: float, entering: Int64 | None
    ) -> None:
        self.whole = graph
        self.graph = graph = window(graph, state.low, state.high)
        self.shared = shared = window_prefixes(self.whole, state.low, state.high)
        self.costs = costs = _costs(graph)
        self.low, self.high = state.low, state.high
        self.frame = state.frame
        self.base = state.frame - len(state.emissions)
        """Frame of `emissions[0]`."""
        self.emissions = emissions
        self.non_blank = list(state.non_blank)
        self.words = state.words
        self.tokens = state.tokens.copy()
        self.blanks = state.blanks.copy()
        self.garbage = state.garbage.copy()
        self.shared_tokens = state.shared_tokens.copy()
        self.shared_blanks = state.shared_blanks.copy()
        self.shared_garbage = state.shared_garbage.copy()
        self.hub = state.hub
        self.label = state.label
        self.taken = state.taken
        self.beam = int(min(beam * UNITS, NEVER))
        self.records = GrowingRecords(state.records)
        most = 0 if entering is None else int(entering.max(initial=0))
        self._enter = costs.enter if entering is None else costs.enter + (entering << SHIFT)
        self._enter_shared = (shared.enter + most) << SHIFT
        self._most_enter = (int(shared.enter.max(initial=0)) + most) << SHIFT
        self._near = costs.near - (most << SHIFT)
        self._garbage_in = in_units(graph.costs.garbage) << SHIFT
        self._garbage_token = in_units(graph.costs.garbage_token)
        self._apart = shared.whole == len(shared.ends)
        """[W + 2]: words that cannot be shared."""
        self._lay_out()
        if entering is not None:
            self._apart[np.flatnonzero(entering != most)] = True
            self._separate(np.flatnonzero(self._apart[: graph.words] & (self._number[: graph.words] < 0)))

    def _lay_out(self) -> None:
        """Find the states of the words that have their own."""
        graph, words = self.graph, self.words
        self._first, self._last = places_of_words(graph, words)
        self._states = ranges(graph.first[words], graph.last[words])
        self._token = graph.tokens[self._states]
        self._doubled = np.flatnonzero(self.costs.doubled[self._states])
        self._number = np.full(graph.words + 2, -1)
        """[W + 2]: place of each word in `words`; -1: it has no states of its own."""
        self._number[words] = np.arange(len(words))

    def _separate(self, words: NDArray[np.intp]) -> None:
        """Give states of their own to words, with the entries that they have shared."""
        if not len(words):
            return
        shared = self.shared
        nodes = shared.node[ranges(self.graph.first[words], self.graph.last[words])]
        self.words = np.concatenate([self.words, words])
        self.tokens = np.concatenate([self.tokens, self.shared_tokens[nodes]])
        self.blanks = np.concatenate([self.blanks, self.shared_blanks[nodes]])
        self.garbage = np.concatenate([self.garbage, self.shared_garbage[shared.whole[words]]])
        self._lay_out()

    def _share(self) -> None:
        """Take their own states from words that have only the paths that they share."""
        shared = self.shared
        if not len(shared.ends) or not len(self.words):
            return
        nodes = shared.node[self._states]
        differs = self.tokens != np.append(self.shared_tokens, DEAD)[nodes]
        differs |= self.blanks != np.append(self.shared_blanks, DEAD)[nodes]
        kept = np.logical_or.reduceat(differs, self._first) | self._apart[self.words]
        kept |= self.garbage != np.append(self.shared_garbage, DEAD)[shared.whole[self.words]]
        if kept.all():
            return
        states = np.repeat(kept, self._last - self._first + 1)
        self.words, self.garbage = self.words[kept], self.garbage[kept]
        self.tokens, self.blanks = self.tokens[states], self.blanks[states]
        self._lay_out()

    def step(self, units: Int32) -> None:
        """Add one frame: [vocabulary + 1] units relative to the blank."""
        shared = self.shared
        ends = np.maximum(self._word_tokens(), self.garbage)
        shared_tokens = np.maximum(self.shared_tokens[shared.ends], self.shared_blanks[shared.ends])
        shared_ends = np.maximum(shared_tokens, self.shared_garbage)

        # The hub, for paths that leave here and for paths that enter below
        stayed, hub = self.hub, self._left_for_hub(ends, shared_ends)
        passed = (hub & SCORE) | self.records.add(self.frame, HUB, hub & RECORD)
        firsts = np.maximum(self.tokens[self._first], passed - self._enter[self.words])
        roots = np.maximum(self.shared_tokens[: shared.roots], passed - self._enter_shared)
        reach, near = (passed & SCORE) - self._most_enter, (passed & SCORE) + self._near
        entered, entries = self._entered_from_words(ends, shared_ends, firsts, roots, reach, max(near, ALIVE))
        fresh = entered[self._number[entered] < 0]
        if len(fresh):
            self._separate(fresh)
            firsts = np.append(firsts, np.full(len(fresh), DEAD))
        firsts[self._number[entered]] = entries

        (stays,), (begins,), self.label = other_speech(units[None], self.label, self._garbage_token)
        is_token = self.label != len(units) - 1
        self.garbage += int(stays) << SHIFT
        self.shared_garbage += int(stays) << SHIFT
        if is_token:  # garbage begins with a token, or silence could stand in place of a word
            cost = (int(begins) << SHIFT) - self._garbage_in
            np.maximum(self.garbage, self._word_tokens() + cost, out=self.garbage)
            np.maximum(self.shared_garbage, shared_tokens + cost, out=self.shared_garbage)
        self.non_blank.append(is_token)
        self.hub = max(stayed + (int(stays) << SHIFT), hub + (int(begins) << SHIFT))

        gains = units.astype(np.int64) << SHIFT
        self._next_tokens(firsts, gains)
        if shared.roots:
            self._next_shared_tokens(roots, gains)
        self.frame += 1

    def _next_tokens(self, firsts: Int64, gains: Int64) -> None:
        """The next token, or the same one. `firsts`: [K] entries of the first tokens of words."""
        tokens, both = self.tokens, np.maximum(self.tokens, self.blanks)
        doubled = np.maximum(tokens[self._doubled], self.blanks[self._doubled - 1])
        np.maximum(tokens[1:], both[:-1], out=tokens[1:])
        tokens[self._first] = firsts
        tokens[self._doubled] = doubled
        tokens += np.take(gains, self._token)
        self.blanks = both

    def _next_shared_tokens(self, roots: Int64, gains: Int64) -> None:
        """The same for prefixes. `roots`: [R] entries of the first tokens."""
        shared = self.shared
        tokens, both = self.shared_tokens, np.maximum(self.shared_tokens, self.shared_blanks)
        longer, doubled = tokens[shared.roots :], shared.doubled - shared.roots
        before = np.take(both, shared.parent)
        before[doubled] = self.shared_blanks[shared.parent[doubled]]
        np.maximum(longer, before, out=longer)
        tokens[: shared.roots] = roots
        tokens += np.take(gains, shared.token)
        self.shared_blanks = both

    def _word_tokens(self) -> Int64:
        """[K] entries of the last tokens of words, or blanks after them."""
        return np.maximum(self.tokens[self._last], self.blanks[self._last])

    def _left_for_hub(self, ends: Int64, shared_ends: Int64) -> int:
        """Entry of the hub, after the end of a word where that is better."""
        near = max((self.hub & SCORE) + self.costs.least_leave, ALIVE)
        own, shared = np.flatnonzero(ends > near), np.flatnonzero(shared_ends > near)
        words = np.concatenate([self.words[own], self.shared.left[shared]])
        if not len(words):
            return self.hub
        left = np.concatenate([ends[own], shared_ends[shared]])
        leaving = left - self.costs.leave[words]
        best = int(leaving.argmax())
        if int(leaving[best]) >> SHIFT <= self.hub >> SHIFT:
            return self.hub
        word = word_in_graph(self.whole, self.low, int(words[best]))
        return (int(leaving[best]) & SCORE) | self.records.add(self.frame, word, int(left[best]) & RECORD)

    def _entered_from_words(
        self, ends: Int64, shared_ends: Int64, firsts: Int64, roots: Int64, reach: int, near: int
    ) -> tuple[NDArray[np.intp], Int64]:
        """Words that are better entered from the ends of others than from the hub, and the entries.

        Args:
            ends: [K]
            shared_ends: [C]
            firsts: [K] entries of the first tokens of words.
            roots: [R] of the shared ones.
            reach: the end of a word must be above this to lead to one that can be entered from the hub,
            near: and above this for going back or skipping.
        """
        graph, costs, shared = self.graph, self.costs, self.shared
        good = np.flatnonzero(shared_ends > max(min(near, reach), ALIVE))
        more = np.concatenate([shared.words_of(good), costs.before_apart])
        more = more[self._number[more] < 0]
        whole = shared.whole[more]
        source = np.concatenate([self.words, more])
        end = np.concatenate([ends, shared_ends[whole]])
        garbage = np.concatenate([self.garbage, self.shared_garbage[whole]])

        targets, sources, values = [source + 1], [source], [end - costs.chain[source + 1]]
        if costs.arcs.size:
            arc_source, arc_target = costs.arcs
            targets.append(arc_target)
            sources.append(arc_source)
            values.append(self._of(arc_source, ends, shared_ends, shared.whole) - costs.arc_costs)
        close = np.flatnonzero(end > near)
        if len(close):
            target = source[close, None] + costs.offsets
            there = (target >= 0) & (target < graph.words)
            there &= graph.local[np.where(there, target, 0)]
            targets.append(target[there])
            sources.append(np.broadcast_to(source[close, None], there.shape)[there])
            value = (end[close][:, None] - costs.local)[there]
            value -= np.where(target[there] <= sources[-1], costs.inside[target[there]], 0)
            values.append(value)
        if costs.blank_arcs.size:
            arc_source, arc_target = costs.blank_arcs
            silent = np.maximum(self.blanks[self._last], self.garbage)
            shared_silent = np.maximum(self.shared_blanks[shared.ends], self.shared_garbage)
            targets.append(arc_target)
            sources.append(arc_source + graph.words)
            values.append(self._of(arc_source, silent, shared_silent, shared.whole) - costs.blank_arc_costs)
        targets.append(source + 2)
        sources.append(source + 2 * graph.words)
        values.append(garbage - costs.after_wrong[source + 2])

        target, value = np.concatenate(targets), np.concatenate(values)
        first = self._of(target, firsts, roots, shared.root)
        better = (value & SCORE) > np.maximum(first, ALIVE)
        better &= target < graph.words
        target, value, source = target[better], value[better], np.concatenate(sources)[better]
        order = np.lexsort((value, target))
        last = np.ones(len(order), np.bool_)
        last[:-1] = target[order[1:]] != target[order[:-1]]
        best = order[last]
        times, source = np.divmod(source[best], graph.words)
        source += (source >= graph.formulas) * (self.low - graph.formulas) + times * self.whole.words
        entered = self.records.add_all(self.frame, source, value[best] & RECORD)
        return target[best], (value[best] & SCORE) | entered

    def _of(self, words: NDArray[np.intp], own: Int64, shared: Int64, place: NDArray[np.intp]) -> Int64:
        """Entries of words, those without their own from the place of each among the shared ones."""
        number = self._number[words]
        found: Int64 = np.where(
            number >= 0, np.append(own, DEAD)[number], np.append(shared, DEAD)[place[words]]
        )
        return found

    def collect(self, fixed_lag: FixedLag | None) -> list[Visit]:
        """Drop records that are no longer needed; returns the visits that all open paths have in common."""
        held = self._held()
        if fixed_lag is not None:
            self._drop_others(fixed_lag)
        best = max(self.hub, *(int(entries.max(initial=DEAD)) for entries in held)) >> SHIFT
        self.taken += best
        self.hub = max(self.hub - (best << SHIFT), DEAD)
        lowest = max(-self.beam << SHIFT, ALIVE)
        records = self.records.view()
        marked = np.zeros(len(records.frame), np.bool_)
        marked[self.hub & RECORD] = self.hub > ALIVE
        for entries in held:
            entries -= best << SHIFT
            dead = entries < lowest
            entries[dead] = DEAD
            marked[(entries[~dead] if dead.any() else entries) & RECORD] = True

        common = common_record(records.before, np.flatnonzero(marked))
        visits = visits_until(self.whole, records, common)
        measured = Measured(self.emissions, self.base, np.array(self.non_blank, np.bool_), self.frame)
        committed = [part for visit in visits for part in align_visit(self.whole, visit, measured)]

        mark_ways(records.before, marked, common)
        numbers = np.maximum(np.cumsum(marked, dtype=np.int64) - 1, 0)
        for entries in held:
            renumbered = np.take(numbers, entries & RECORD, mode="clip")
            entries &= SCORE
            entries |= renumbered
        self.hub = (self.hub & SCORE) | int(numbers[self.hub & RECORD])
        before = numbers[records.before[marked]].astype(np.int32)
        before[0] = -1
        self.records = GrowingRecords(Records(records.frame[marked], records.word[marked], before))
        self.non_blank = self.non_blank[len(self.non_blank) - (self.frame - int(records.frame[common])) :]
        self._forget()
        self._share()
        return committed

    def _held(self) -> tuple[Int64, ...]:
        """All entries but the hub's."""
        own = (self.tokens, self.blanks, self.garbage)
        return (*own, self.shared_tokens, self.shared_blanks, self.shared_garbage)

    def _drop_others(self, fixed_lag: FixedLag) -> None:
        """Drop paths that differ from the best one in words that it left long ago."""
        records = self.records.view()
        held = self._held()
        best = max(self.hub, *(int(entries.max(initial=DEAD)) for entries in held))
        shared = best & RECORD
        while shared and records.frame[shared] > self.frame - fixed_lag.frames:
            shared = int(records.before[shared])
        if not shared:
            return
        way = np.arange(len(records.frame))
        while len(later := np.flatnonzero(way > shared)):
            way[later] = records.before[way[later]]
        other = way != shared
        behind = (best & SCORE) - (int(fixed_lag.margin * UNITS) << SHIFT)
        for entries in held:
            entries[other[entries & RECORD] & (entries <= behind)] = DEAD
        if other[self.hub & RECORD] and self.hub <= behind:
            self.hub = DEAD

    def _forget(self) -> None:
        """Drop the emissions of frames before the first word that is not yet committed."""
        records = self.records.view()
        following = records.before == 0
        needed = int(records.frame[0])
        waits = self.hub > ALIVE and self.hub & RECORD == 0
        if waits or (records.word[following] == HUB).any():  # it is the hub that was entered
            needed = int(records.frame[following].min()) if following.any() else self.frame
        if needed > self.base:
            self.emissions = self.emissions[needed - self.base :]
            self.base = needed

    def state(self) -> SearchState:
        records = self.records.view()
        return SearchState(
            frame=self.frame,
            low=self.low,
            high=self.high,
            words=self.words,
            tokens=self.tokens,
            blanks=self.blanks,
            garbage=self.garbage,
            shared_tokens=self.shared_tokens,
            shared_blanks=self.shared_blanks,
            shared_garbage=self.shared_garbage,
            hub=self.hub,
            label=self.label,
            records=Records(records.frame.copy(), records.word.copy(), records.before.copy()),
            emissions=self.emissions[: self.frame - self.base].copy(),
            non_blank=np.array(self.non_blank, np.bool_),
            taken=self.taken,
        )
