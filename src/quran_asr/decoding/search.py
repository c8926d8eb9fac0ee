"""The exact search: the best way through the graph for all frames so far, frame by frame.

Viterbi with token passing. A state's entry is one 64-bit integer: its score in the upper half, and in the
lower half the record of how its word was entered. The maximum of two entries is then the better path with its
history, sums are exact, and no table of frames times states is kept. Records are made at word entries only.
Every `COMMIT_FRAMES` those that no state holds any more are dropped, and what all states have in common is
committed: it can no longer change.

Scores are relative to the blank's, in units of 1 / `UNITS` nat: a blank then costs nothing, and a token's
score and that of the blank after it need one addition between them.

Everything between two calls is a value, `SearchState`. How the frames are cut into chunks changes nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from quran_asr.decoding.graph import NEVER, UNITS, Graph, in_units, window
from quran_asr.errors import QuranAsrError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Int64 = NDArray[np.int64]
    Int32 = NDArray[np.int32]

HUB = -1
"""In place of a word: the hub."""
COMMIT_FRAMES = 64
"""So many frames lie between two commitments, unless something else is asked for."""
DEFAULT_BEAM = 400.0
"""Nats behind the best state at which a state is dropped. Far more than any jump costs."""

_SHIFT = 32
_RECORD = (1 << _SHIFT) - 1
_SCORE = ~_RECORD
_DEAD = -(1 << 30) << _SHIFT
"""Entry of a state without a path."""
_ALIVE = -(1 << 29) << _SHIFT
"""Entries from here on have a path."""


@dataclass(frozen=True, slots=True)
class Visit:
    """A word, or a stretch in the hub, on a path."""

    word: int
    """Of the graph; `HUB` for the hub."""
    start: int
    """Frame of entry, from the beginning of the recording."""
    end: int
    """Frame at which it was left; `start` where the hub was only passed."""
    tokens: tuple[tuple[int, int], ...] = ()
    """First frame and frame after the last of every token. Behind the last one come blanks, or garbage. In
    the hub these are the runs of frames in which the model says anything."""
    garbage: int | None = None
    """Frame from which on the rest of the visit is garbage; None: there is none."""
    silent: bool = False
    """A blank or garbage had to come between the word and the next one."""
    loss: float = 0.0
    """Nats by which the word (without garbage behind it) scores less than the best token of every frame."""


@dataclass(frozen=True, slots=True, eq=False)
class Records:
    """How words were entered. A record's number is greater than that of the one before it."""

    frame: NDArray[np.int32]
    """[R]: at this frame a word or the hub was entered,"""
    word: NDArray[np.int32]
    """[R]: from this word (`HUB`: the hub; number of words + w: from word w after a blank),"""
    before: NDArray[np.int32]
    """[R]: which had been entered by this record; -1 for the first one."""


@dataclass(frozen=True, slots=True, eq=False)
class SearchState:
    """All that the search knows after some frames. N tokens and W words of its window."""

    frame: int
    """Frames so far."""
    low: int
    """First word of the graph that is searched, besides the formulas outside the text."""
    high: int
    """Word after the last one."""
    tokens: Int64
    """[N] entries: the frame before was this token."""
    blanks: Int64
    """[N] entries: the frame before was a blank behind this token."""
    garbage: Int64
    """[W] entries: the frame before was other speech behind this word."""
    hub: int
    """Entry of the hub."""
    label: int
    """Best token of the frame before; -1 at the beginning."""
    records: Records
    emissions: Int32
    """[F, vocabulary + 1]: those frames that the open paths differ in, and perhaps some before; in units."""
    spoken: NDArray[np.bool_]
    """[S]: is a token better than the blank? Of all frames since the last committed visit."""
    taken: int
    """Units that were taken from all entries so far, to keep them small."""


@dataclass(frozen=True, slots=True)
class FixedLag:
    """Words are committed though other paths are left: those in which they differ are dropped."""

    frames: int
    """A word of the best path that the path left so long ago, or longer, is committed"""
    margin: float = 0.0
    """if all paths without it are so many nats behind; those of them that are, are dropped in any case."""


def start(graph: Graph) -> SearchState:
    """The state before the first frame: in the hub."""
    first = Records(np.zeros(1, np.int32), np.full(1, HUB, np.int32), np.full(1, -1, np.int32))
    return SearchState(
        frame=0,
        low=graph.formulas,
        high=graph.words,
        tokens=np.full(graph.states, _DEAD),
        blanks=np.full(graph.states, _DEAD),
        garbage=np.full(graph.words, _DEAD),
        hub=0,
        label=-1,
        records=first,
        emissions=np.zeros((0, 0), np.int32),
        spoken=np.zeros(0, np.bool_),
        taken=0,
    )


def move(graph: Graph, state: SearchState, low: int, high: int) -> SearchState:
    """Search on in another window: the words `low` to `high` - 1. Paths in words outside it are dropped."""
    if (low, high) == (state.low, state.high):
        return state
    old, new = window(graph, state.low, state.high), window(graph, low, high)
    words = np.r_[: graph.formulas, max(low, state.low) : max(low, state.low, min(high, state.high))]

    def moved(entries: Int64, size: int, source: NDArray[np.intp], target: NDArray[np.intp]) -> Int64:
        kept = np.full(size, _DEAD)
        kept[target] = entries[source]
        return kept

    from_word, to_word = _in_window(graph, state.low, words), _in_window(graph, low, words)
    from_state, to_state = _states(old, from_word), _states(new, to_word)
    return replace(
        state,
        low=low,
        high=high,
        tokens=moved(state.tokens, new.states, from_state, to_state),
        blanks=moved(state.blanks, new.states, from_state, to_state),
        garbage=moved(state.garbage, new.words, from_word, to_word),
    )


def _in_window(graph: Graph, low: int, words: NDArray[np.intp]) -> NDArray[np.intp]:
    """Numbers in a window of words of the graph."""
    return np.where(words < graph.formulas, words, words - low + graph.formulas)


def _states(graph: Graph, words: NDArray[np.intp]) -> NDArray[np.intp]:
    """All states of words."""
    inside = np.zeros(graph.words, np.bool_)
    inside[words] = True
    return np.flatnonzero(np.repeat(inside, graph.last - graph.first + 1))


def emissions_in_units(log_probs: NDArray[np.floating], floor: float) -> Int32:
    """CTC scores as the search takes them: [n, vocabulary + 1] units relative to the blank of the frame.

    Raises:
        QuranAsrError: not two dimensions, or a score is NaN.
    """
    if log_probs.ndim != 2 or not log_probs.shape[1]:
        raise QuranAsrError(f"CTC scores have the shape {list(log_probs.shape)}, not [frames, tokens]")
    if np.isnan(log_probs).any():
        raise QuranAsrError(f"the CTC scores of frame {int(np.isnan(log_probs).any(1).argmax())} hold NaN")
    kept = np.maximum(log_probs.astype(np.float64), -floor)
    units: Int32 = np.rint((kept - kept[:, -1:]) * UNITS).astype(np.int32)
    return units


def advance(
    graph: Graph,
    state: SearchState,
    log_probs: NDArray[np.floating],
    beam: float = DEFAULT_BEAM,
    commit_frames: int = COMMIT_FRAMES,
    fixed_lag: FixedLag | None = None,
    entering: Int64 | None = None,
) -> tuple[SearchState, tuple[Visit, ...]]:
    """Search on.

    Args:
        graph: the one that the state was started with.
        state: before these frames. It is not changed.
        log_probs: [n, vocabulary + 1] natural log, blank last.
        beam: nats behind the best state at which a state is dropped; `inf` drops none.
        commit_frames: frames, counted from the beginning of the recording, between two commitments. Less
            costs more time.
        fixed_lag: commit sooner; None: only what all paths within the beam have in common.
        entering: [words of the window] units that entering each word from the hub costs besides.

    Returns:
        The state after them, and the visits that can no longer change, in order; each one comes once.

    Raises:
        QuranAsrError: the scores have a wrong shape or hold NaN.
    """
    units = emissions_in_units(log_probs, graph.costs.floor)
    if state.frame and len(state.emissions) and units.shape[1] != state.emissions.shape[1]:
        raise QuranAsrError(f"CTC scores of {units.shape[1]} tokens follow {state.emissions.shape[1]}")
    if graph.states and int(graph.tokens.max()) + 1 >= units.shape[1]:
        raise QuranAsrError(f"CTC scores of {units.shape[1]} tokens do not fit the vocabulary of the graph")
    kept = units if not len(state.emissions) else np.concatenate([state.emissions, units])
    run = _Run(graph, state, kept, beam, entering)
    committed: list[Visit] = []
    for row in units:
        run.step(row)
        if run.frame % commit_frames == 0:
            committed += run.collect(fixed_lag)
    return run.state(), tuple(committed)


@dataclass(frozen=True, slots=True)
class PathEnd:
    """Where a path ends."""

    entry: int
    word: int
    """Of the graph; `HUB` for the hub."""
    tokens: int | None = None
    """How many of the word's tokens it has; None: all."""


def finish(graph: Graph, state: SearchState, inside_word: bool = False) -> tuple[Visit, ...]:
    """The rest of the best path, after all visits that were committed. Arguments as `best_end`."""
    return trace(graph, state, best_end(graph, state, inside_word))


def best_end(graph: Graph, state: SearchState, inside_word: bool = False) -> PathEnd:
    """Where the best path ends.

    Args:
        graph: the one that the state was started with.
        state: the last one.
        inside_word: may the path end within a word, as while a recording goes on? It does so in any case
            where no other path is left.
    """
    part = window(graph, state.low, state.high)
    ends = word_ends(graph, state)
    word = int(ends.argmax())
    best = PathEnd(int(ends[word]), _word(graph, state.low, word))
    if state.hub >> _SHIFT > best.entry >> _SHIFT:
        best = PathEnd(state.hub, HUB)
    if inside_word or best.entry < _ALIVE:  # a fixed lag may leave nothing but paths within words
        entries = np.maximum(state.tokens, state.blanks)
        place = int(entries.argmax())
        if int(entries[place]) >> _SHIFT > best.entry >> _SHIFT:
            word = int(np.searchsorted(part.first, place, "right")) - 1
            token = place - int(part.first[word]) + 1
            best = PathEnd(int(entries[place]), _word(graph, state.low, word), token)
    return best


def _word(graph: Graph, low: int, number: int) -> int:
    """The word of the graph that has a number in a window."""
    return number if number < graph.formulas else number - graph.formulas + low


def word_ends(graph: Graph, state: SearchState) -> Int64:
    """[W] entries of the paths that end with each word of the window."""
    last = window(graph, state.low, state.high).last
    said = np.maximum(state.tokens[last], state.blanks[last])
    return np.maximum(said, state.garbage)


def score(state: SearchState, entry: int) -> float:
    """Nats of a path relative to one of blanks only."""
    return ((entry >> _SHIFT) + state.taken) / UNITS


def best_total(state: SearchState) -> float:
    """Nats of the best of all paths, wherever it is, relative to one of blanks only."""
    entries = (state.tokens, state.blanks, state.garbage)
    return score(state, max(state.hub, *(int(part.max()) for part in entries)))


def trace(graph: Graph, state: SearchState, end: PathEnd) -> tuple[Visit, ...]:
    """The visits of one path after all that were committed."""
    record = end.entry & _RECORD
    visits = _visits(graph, state.records, record)
    last = Visit(end.word, int(state.records.frame[record]), state.frame)
    heard = Measured(state.emissions, state.frame - len(state.emissions), state.spoken, state.frame)
    aligned = [align_visit(graph, visit, heard) for visit in visits]
    return (*aligned, align_visit(graph, last, heard, end.tokens))


class _Run:
    """The arrays of a state while frames are added to it."""

    def __init__(
        self, graph: Graph, state: SearchState, emissions: Int32, beam: float, entering: Int64 | None
    ) -> None:
        self.whole = graph
        self.graph = graph = window(graph, state.low, state.high)
        self.low, self.high = state.low, state.high
        costs = graph.costs
        self.frame = state.frame
        self.base = state.frame - len(state.emissions)
        """Frame of `emissions[0]`."""
        self.emissions = emissions
        self.spoken = list(state.spoken)
        self.tokens = state.tokens.copy()
        self.blanks = state.blanks.copy()
        self.garbage = state.garbage.copy()
        self.hub = state.hub
        self.label = state.label
        self.taken = state.taken
        self.beam = int(min(beam * UNITS, NEVER))
        self.records = _Growing(state.records)
        self._both = np.empty_like(self.tokens)
        self._gains = np.empty_like(self.tokens)
        self._said, self._ends, self._entries, self._firsts = (np.empty_like(self.garbage) for _ in range(4))
        # Costs as they are added to entries
        self._enter = (graph.enter if entering is None else graph.enter + entering) << _SHIFT
        self._leave = graph.leave << _SHIFT
        self._chain = graph.chain[1:] << _SHIFT
        plain, blank = (graph.arcs[graph.arcs[:, 3] == needed].T for needed in (0, 1))
        self._arcs, self._arc_costs = plain[:2], plain[2] << _SHIFT
        self._blank_arcs, self._blank_arc_costs = blank[:2], blank[2] << _SHIFT
        offsets = [-back for back in range(costs.back_words)]
        offsets += [1 + ahead for ahead in range(1, costs.skip_words + 1)]
        self._offsets = np.array(offsets, np.int64)
        local = [costs.back] * costs.back_words + [costs.skip] * costs.skip_words
        self._local_costs = np.array([in_units(cost) for cost in local], np.int64) << _SHIFT
        reached = graph.enter[graph.local]
        most = int(reached.max()) if len(reached) else 0
        cheapest = min(in_units(costs.back), in_units(costs.skip))
        self._near = min(int(graph.leave.min()), cheapest - most) << _SHIFT
        self._garbage_in = in_units(costs.garbage) << _SHIFT
        self._garbage_token = in_units(costs.garbage_token)

    def step(self, units: Int32) -> None:
        """Add one frame: [vocabulary + 1] units relative to the blank."""
        graph, tokens, both = self.graph, self.tokens, self._both
        np.maximum(tokens, self.blanks, out=both)
        np.take(both, graph.last, out=self._said, mode="clip")
        ends = np.maximum(self._said, self.garbage, out=self._ends)

        # The hub, for those who leave here and for those who enter below
        near = np.flatnonzero(ends > max((self.hub & _SCORE) + self._near, _ALIVE))
        stayed, hub = self.hub, self.hub
        if len(near):
            leaving = ends[near] - self._leave[near]
            best = int(leaving.argmax())
            if int(leaving[best]) >> _SHIFT > hub >> _SHIFT:
                word = int(near[best])
                left = self.records.add(
                    self.frame, _word(self.whole, self.low, word), int(ends[word]) & _RECORD
                )
                hub = (int(leaving[best]) & _SCORE) | left
        passed = self.records.add(self.frame, HUB, hub & _RECORD)
        entries = np.subtract((hub & _SCORE) | passed, self._enter, out=self._entries)
        firsts = np.take(tokens, graph.first, out=self._firsts, mode="clip")
        np.maximum(firsts, entries, out=firsts)
        self._enter_from_words(near)

        # One token on, or staying
        doubled = np.maximum(tokens[graph.doubled], self.blanks[graph.doubled - 1])
        np.maximum(tokens[1:], both[:-1], out=tokens[1:])
        tokens[graph.first] = firsts
        tokens[graph.doubled] = doubled
        np.take(units.astype(np.int64) << _SHIFT, graph.tokens, out=self._gains, mode="clip")
        tokens += self._gains
        self.blanks, self._both = both, self.blanks

        (goes_on,), (begins,), self.label = other_speech(units[None], self.label, self._garbage_token)
        self.garbage += int(goes_on) << _SHIFT
        self._said += (int(begins) << _SHIFT) - self._garbage_in
        np.maximum(self.garbage, self._said, out=self.garbage)
        self.spoken.append(self.label != len(units) - 1)
        self.hub = max(stayed + (int(goes_on) << _SHIFT), hub + (int(begins) << _SHIFT))
        self.frame += 1

    def _enter_from_words(self, near: NDArray[np.intp]) -> None:
        """Enter words from the ends of others, where that is better than from the hub; into `_firsts`.

        Args:
            near: words whose ends are good enough for going back and skipping.
        """
        graph, ends, firsts = self.graph, self._ends, self._firsts
        following = np.flatnonzero(ends[:-1] > firsts[1:])
        targets = [following + 1, self._arcs[1]]
        sources = [following, self._arcs[0]]
        values = [ends[following] - self._chain[following], ends[self._arcs[0]] - self._arc_costs]
        if len(near):
            target = near[:, None] + self._offsets
            there = (target >= 0) & (target < graph.words)
            there &= graph.local[np.where(there, target, 0)]
            targets.append(target[there])
            sources.append(np.broadcast_to(near[:, None], there.shape)[there])
            values.append((ends[near][:, None] - self._local_costs)[there])
        if len(self._blank_arcs[0]):
            source, target = self._blank_arcs
            targets.append(target)
            sources.append(source + graph.words)
            behind = np.maximum(self.blanks[graph.last[source]], self.garbage[source])
            values.append(behind - self._blank_arc_costs)
        target, value = np.concatenate(targets), np.concatenate(values)
        better = np.flatnonzero((value & _SCORE) > np.maximum(firsts[target], _ALIVE))
        if not len(better):
            return
        target, value, source = target[better], value[better], np.concatenate(sources)[better]
        order = np.lexsort((value, target))
        best = order[np.append(target[order[1:]] != target[order[:-1]], True)]
        source = source[best]
        silent = source >= graph.words
        source -= silent * graph.words
        source += (source >= graph.formulas) * (self.low - graph.formulas) + silent * self.whole.words
        entered = self.records.add_all(self.frame, source, value[best] & _RECORD)
        firsts[target[best]] = (value[best] & _SCORE) | entered

    def collect(self, fixed_lag: FixedLag | None) -> list[Visit]:
        """Drop what is no longer needed; the visits that all open paths have in common."""
        held = (self.tokens, self.blanks, self.garbage)
        if fixed_lag is not None:
            self._drop_others(fixed_lag)
        best = max(self.hub >> _SHIFT, *(int(entries.max()) >> _SHIFT for entries in held))
        self.taken += best
        self.hub = max(self.hub - (best << _SHIFT), _DEAD)
        lowest = max(-self.beam << _SHIFT, _ALIVE)
        records = self.records.view()
        marked = np.zeros(len(records.frame), np.bool_)
        marked[self.hub & _RECORD] = self.hub > _ALIVE
        for entries in held:
            entries -= best << _SHIFT
            dead = entries < lowest
            entries[dead] = _DEAD
            marked[(entries[~dead] if dead.any() else entries) & _RECORD] = True

        common = _common(records.before, np.flatnonzero(marked))
        visits = _visits(self.whole, records, common)
        heard = Measured(self.emissions, self.base, np.array(self.spoken, np.bool_), self.frame)
        committed = [align_visit(self.whole, visit, heard) for visit in visits]

        _mark_ways(records.before, marked, common)
        numbers = np.maximum(np.cumsum(marked, dtype=np.int64) - 1, 0)
        for entries in held:
            renumbered = np.take(numbers, entries & _RECORD, mode="clip")
            entries &= _SCORE
            entries |= renumbered
        self.hub = (self.hub & _SCORE) | int(numbers[self.hub & _RECORD])
        before = numbers[records.before[marked]].astype(np.int32)
        before[0] = -1
        self.records = _Growing(Records(records.frame[marked], records.word[marked], before))
        self.spoken = self.spoken[len(self.spoken) - (self.frame - int(records.frame[common])) :]
        self._forget()
        return committed

    def _drop_others(self, fixed_lag: FixedLag) -> None:
        """Drop paths that do not share with the best one the words that it left long ago."""
        records = self.records.view()
        held = (self.tokens, self.blanks, self.garbage)
        best = max(self.hub, *(int(entries.max()) for entries in held))
        shared = best & _RECORD
        while shared and records.frame[shared] > self.frame - fixed_lag.frames:
            shared = int(records.before[shared])
        if not shared:
            return
        way = np.arange(len(records.frame))
        while len(later := np.flatnonzero(way > shared)):
            way[later] = records.before[way[later]]
        other = way != shared
        behind = (best & _SCORE) - (int(fixed_lag.margin * UNITS) << _SHIFT)
        for entries in held:
            entries[other[entries & _RECORD] & (entries <= behind)] = _DEAD
        if other[self.hub & _RECORD] and self.hub <= behind:
            self.hub = _DEAD

    def _forget(self) -> None:
        """Drop the emissions of frames that lie before every word that is not yet committed."""
        records = self.records.view()
        following = records.before == 0
        needed = int(records.frame[0])
        waits = self.hub > _ALIVE and self.hub & _RECORD == 0
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
            tokens=self.tokens,
            blanks=self.blanks,
            garbage=self.garbage,
            hub=self.hub,
            label=self.label,
            records=Records(records.frame.copy(), records.word.copy(), records.before.copy()),
            emissions=self.emissions[: self.frame - self.base].copy(),
            spoken=np.array(self.spoken, np.bool_),
            taken=self.taken,
        )


class _Growing:
    """Records to which more are added."""

    def __init__(self, records: Records) -> None:
        self.count = len(records.frame)
        self._columns = np.empty((3, self.count + 1024), np.int32)
        self._columns[:, : self.count] = records.frame, records.word, records.before

    def add(self, frame: int, word: int, before: int) -> int:
        self._reserve(1)
        self._columns[:, self.count] = frame, word, before
        self.count += 1
        return self.count - 1

    def add_all(self, frame: int, words: Int64, before: Int64) -> Int64:
        self._reserve(len(words))
        begin, self.count = self.count, self.count + len(words)
        self._columns[0, begin : self.count] = frame
        self._columns[1, begin : self.count] = words
        self._columns[2, begin : self.count] = before
        return np.arange(begin, self.count)

    def view(self) -> Records:
        frame, word, before = self._columns[:, : self.count]
        return Records(frame, word, before)

    def _reserve(self, more: int) -> None:
        if self.count + more > self._columns.shape[1]:
            room = np.empty((3, 2 * (self.count + more)), np.int32)
            room[:, : self.count] = self._columns[:, : self.count]
            self._columns = room


@dataclass(frozen=True, slots=True, eq=False)
class Measured:
    """What is kept of the frames of visits that are to be aligned."""

    emissions: Int32
    """[F, vocabulary + 1] units."""
    base: int
    """Frame of `emissions[0]`."""
    spoken: NDArray[np.bool_]
    """[S]"""
    end: int
    """Frame after the last of `spoken`."""


def align_visit(graph: Graph, visit: Visit, heard: Measured, tokens: int | None = None) -> Visit:
    """Where in its visit a word has its tokens, by the same scores and costs as the search.

    Args:
        graph: of the search.
        visit: as the records have it.
        heard: from the visit's start on; of a visit of the hub only `spoken`.
        tokens: how many of the word's tokens are said; None: all, and perhaps garbage behind.
    """
    if visit.word == HUB:
        first = heard.end - len(heard.spoken)
        edges = np.flatnonzero(
            np.diff(heard.spoken[visit.start - first : visit.end - first], prepend=0, append=0)
        )
        runs = (edges + visit.start).reshape(-1, 2).tolist()
        return replace(visit, tokens=tuple((begin, end) for begin, end in runs))
    costs = graph.costs
    spelt = graph.spelt(visit.word)[:tokens]
    frames = heard.emissions[visit.start - heard.base : visit.end - heard.base].astype(np.int64)
    # States in order: token 0, its blank, token 1, its blank, ..., garbage. Each is reached from itself and,
    # at these costs, from the state before and the one before that.
    states = 2 * len(spelt) + 1
    from_one, from_two = np.zeros(states, np.int64), np.full(states, NEVER)
    from_two[2:-1:2][spelt[1:] != spelt[:-1]] = 0
    from_one[-1] = from_two[-1] = in_units(costs.garbage) if tokens is None else NEVER
    gains = np.zeros((len(frames), states), np.int64)
    gains[:, :-1:2] = frames[:, spelt]
    gains[:, -1], begins, _ = other_speech(frames, -1, in_units(costs.garbage_token))
    begins -= gains[:, -1]

    now = np.full(states, _DEAD >> _SHIFT)
    now[0] = gains[0, 0]  # a word begins with its first token
    ways = np.full((3, states), _DEAD >> _SHIFT)
    chosen = np.zeros((len(frames), states), np.int64)
    for t in range(1, len(frames)):
        ways[0] = now
        ways[1, 1:] = now[:-1] - from_one[1:]
        ways[2, 2:] = now[:-2] - from_two[2:]
        ways[1:, -1] += begins[t]
        chosen[t] = ways.argmax(axis=0)
        now = ways.max(axis=0) + gains[t]

    if visit.silent:
        now[-3] = _DEAD >> _SHIFT
    place = states - 3 + int(now[-3:].argmax())
    path = np.empty(len(frames), np.int64)
    for t in reversed(range(len(frames))):
        path[t] = place
        place -= chosen[t, place]
    begins = np.searchsorted(path, np.arange(states)) + visit.start
    ends = np.searchsorted(path, np.arange(states), "right") + visit.start
    spans = tuple(zip(begins[:-1:2].tolist(), ends[:-1:2].tolist(), strict=True))
    strange = int(begins[-1]) if begins[-1] < visit.end else None
    inside = np.arange(len(frames)) < (visit.end if strange is None else strange) - visit.start
    loss = (frames.max(axis=1) - gains[np.arange(len(frames)), path])[inside].sum() / UNITS
    return replace(visit, tokens=spans, garbage=strange, loss=float(loss))


def other_speech(units: NDArray[np.integer], label: int, token_cost: int) -> tuple[Int64, Int64, int]:
    """What frames score as other speech: their best token, less a cost for each token that begins.

    Args:
        units: [n, vocabulary + 1]
        label: best token of the frame before; -1: none.
        token_cost: in units.

    Returns:
        Units [n] of a path that was in other speech before, units [n] of one that enters it with the frame
        (and pays for a token that goes on), and the best token of the last frame.
    """
    labels = units.argmax(axis=1)
    before = np.append(label, labels)
    best: Int64 = units[np.arange(len(units)), labels].astype(np.int64)
    speaks = labels != units.shape[1] - 1
    return best - (speaks & (labels != before[:-1])) * token_cost, best - speaks * token_cost, int(before[-1])


def _visits(graph: Graph, records: Records, last: int) -> list[Visit]:
    """The visits of one path up to a record, without the tokens of their words."""
    found = []
    while last:
        before = int(records.before[last])
        word, silent = int(records.word[last]), False
        if word >= graph.words:
            word, silent = word - graph.words, True
        frames = int(records.frame[before]), int(records.frame[last])
        found.append(Visit(word, *frames, silent=silent))
        last = before
    return found[::-1]


def _common(before: NDArray[np.int32], held: NDArray[np.intp]) -> int:
    """The last record that is on the way to all of these."""
    while len(held) > 1:
        held = np.unique(np.where(held > held[0], before[held], held))
    return int(held[0])


def _mark_ways(before: NDArray[np.int32], marked: NDArray[np.bool_], common: int) -> None:
    """Mark all records on the way from `common` to those that are marked."""
    fresh = np.flatnonzero(marked)
    while len(fresh):
        fresh = np.unique(before[fresh[fresh > common]])
        fresh = fresh[~marked[fresh]]
        marked[fresh] = True
