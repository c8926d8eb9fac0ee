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

The state between two calls is a value, `SearchState`. The chunk boundaries change nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from quran_asr.decoding.graph import NEVER, UNITS, Graph, in_units, window
from quran_asr.decoding.prefixes import Prefixes, no_prefixes, prefixes, ranges
from quran_asr.errors import QuranAsrError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Int64 = NDArray[np.int64]
    Int32 = NDArray[np.int32]

HUB = -1
"""The hub, in place of a word."""
COMMIT_FRAMES = 64
"""Default number of frames between two commitments."""
DEFAULT_BEAM = 400.0
"""Beam in nats: states that score lower than the best by more are dropped. Far above the cost of a jump."""

_SHIFT = 32
_RECORD = (1 << _SHIFT) - 1
_SCORE = ~_RECORD
_DEAD = -(1 << 30) << _SHIFT
"""Entry of a state without a path."""
_ALIVE = -(1 << 29) << _SHIFT
"""The least entry that has a path."""


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
    """First frame and frame after the last of every token. Blanks or garbage follow the last one. In the hub
    these are the runs of frames in which the model emits a token, in place of a wrong word the runs of one
    token each."""
    garbage: int | None = None
    """Frame from which the rest of the visit is garbage; None: there is none."""
    silent: bool = False
    """Whether a blank or garbage had to separate the word from the next one."""
    wrong: bool = False
    """Whether other speech stands in place of the word."""
    loss: float = 0.0
    """Nats by which the word (without garbage after it) scores less than the best token of every frame."""


@dataclass(frozen=True, slots=True, eq=False)
class Records:
    """How words were entered. The number of a record is greater than that of its predecessor."""

    frame: NDArray[np.int32]
    """[R]: at this frame a word or the hub was entered,"""
    word: NDArray[np.int32]
    """[R]: from this word (`HUB`: the hub; number of words + w: from word w after a blank; twice the number
    of words + w: from the garbage behind word w that stands in place of the next),"""
    before: NDArray[np.int32]
    """[R]: which had been entered by this record; -1 for the first one."""


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


@dataclass(frozen=True, slots=True)
class FixedLag:
    """Commits words while other paths are left; paths that differ in them are dropped."""

    frames: int
    """A word that the best path left at least this many frames ago is committed"""
    margin: float = 0.0
    """if all paths without it score lower by this many nats; those that do are dropped in any case."""


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
        tokens=np.full(states, _DEAD),
        blanks=np.full(states, _DEAD),
        garbage=np.full(len(words), _DEAD),
        shared_tokens=np.full(len(shared.token), _DEAD),
        shared_blanks=np.full(len(shared.token), _DEAD),
        shared_garbage=np.full(len(shared.ends), _DEAD),
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
    new, shared = window(graph, low, high), _prefixes(graph, low, high)
    kept = np.r_[: graph.formulas, max(low, state.low) : max(low, state.low, min(high, state.high))]
    entries = _entries(graph, state, _in_window(graph, state.low, kept))
    kept = _in_window(graph, low, kept)
    words = np.union1d(kept, shared.apart)
    first, last = _places(new, words)
    at = np.searchsorted(words, kept)
    places, states = ranges(first[at], last[at]), int((last - first + 1).sum())

    def moved(entries: Int64, size: int, places: NDArray[np.intp]) -> Int64:
        everything = np.full(size, _DEAD)
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
        shared_tokens=np.full(len(shared.token), _DEAD),
        shared_blanks=np.full(len(shared.token), _DEAD),
        shared_garbage=np.full(len(shared.ends), _DEAD),
    )


def _prefixes(graph: Graph, low: int, high: int) -> Prefixes:
    """The prefixes that words of a window share: none unless it is the whole graph."""
    part = window(graph, low, high)
    return prefixes(graph) if part is graph else no_prefixes(part)


def _places(graph: Graph, words: NDArray[np.intp]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """First and last place of each of these words among the states of all of them, word by word."""
    lengths = graph.last[words] - graph.first[words] + 1
    ends = np.cumsum(lengths)
    return ends - lengths, ends - 1


def _entries(graph: Graph, state: SearchState, words: NDArray[np.intp]) -> tuple[Int64, Int64, Int64]:
    """Entries of some words of the window, their own or shared: tokens and blanks, word by word; garbage."""
    part, shared = window(graph, state.low, state.high), _prefixes(graph, state.low, state.high)
    nodes = shared.node[ranges(part.first[words], part.last[words])]
    tokens, blanks = (np.append(kept, _DEAD)[nodes] for kept in (state.shared_tokens, state.shared_blanks))
    garbage = np.append(state.shared_garbage, _DEAD)[shared.whole[words]]
    number = np.full(part.words, -1)
    number[state.words] = np.arange(len(state.words))
    own = np.flatnonzero(number[words] >= 0)
    source = number[words[own]]
    (first, last), (own_first, own_last) = _places(part, words), _places(part, state.words)
    to, places = ranges(first[own], last[own]), ranges(own_first[source], own_last[source])
    tokens[to], blanks[to], garbage[own] = state.tokens[places], state.blanks[places], state.garbage[source]
    return tokens, blanks, garbage


def _in_window(graph: Graph, low: int, words: NDArray[np.intp]) -> NDArray[np.intp]:
    """Numbers in a window of words of the graph."""
    return np.where(words < graph.formulas, words, words - low + graph.formulas)


def refuse_broken(log_probs: NDArray[np.floating]) -> None:
    """Refuse what is not a matrix of CTC scores.

    Raises:
        QuranAsrError: not two dimensions, or a score is NaN.
    """
    if log_probs.ndim != 2 or not log_probs.shape[1]:
        raise QuranAsrError(f"CTC scores have the shape {list(log_probs.shape)}, not [frames, tokens]")
    if np.isnan(log_probs).any():
        raise QuranAsrError(f"the CTC scores of frame {int(np.isnan(log_probs).any(1).argmax())} hold NaN")


def emissions_in_units(log_probs: NDArray[np.floating], floor: float) -> Int32:
    """CTC scores in the form of the search: [n, vocabulary + 1] units relative to the blank of the frame.

    Raises:
        QuranAsrError: not two dimensions, or a score is NaN.
    """
    refuse_broken(log_probs)
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
        raise QuranAsrError(f"CTC scores of {units.shape[1]} tokens follow {state.emissions.shape[1]}")
    if _costs(graph).largest_token + 1 >= units.shape[1]:
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
    best = PathEnd(int(ends[word]), _word(graph, state.low, word))
    if state.hub >> _SHIFT > best.entry >> _SHIFT:
        best = PathEnd(state.hub, HUB)
    if inside_word or best.entry < _ALIVE:  # a fixed lag may leave only paths within words
        inside = _best_inside(graph, state)
        if inside.entry >> _SHIFT > best.entry >> _SHIFT:
            best = inside
    return best


def _best_inside(graph: Graph, state: SearchState) -> PathEnd:
    """The end of the best path within a word."""
    part, shared = window(graph, state.low, state.high), _prefixes(graph, state.low, state.high)
    found = PathEnd(_DEAD, HUB)
    if len(state.tokens):
        entries = np.maximum(state.tokens, state.blanks)
        place = int(entries.argmax())
        first, last = _places(part, state.words)
        number = int(np.searchsorted(last, place))
        word = _word(graph, state.low, int(state.words[number]))
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
    came_from = int(state.records.word[entry & _RECORD])
    if entry >> _SHIFT < (end.entry >> _SHIFT) - nats * UNITS or came_from % graph.words != end.word:
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
    same = np.arange(len(state.records.frame)) == end.entry & _RECORD
    before = np.maximum(state.records.before, 0)
    while len(onward := np.flatnonzero(same[before] & ~same)):
        same[onward] = True
    lengths = part.last - part.first + 1
    in_first_half = np.arange(part.states) - np.repeat(part.first, lengths) < np.repeat(lengths // 2, lengths)
    in_first_half[part.first[word] : part.last[word] + 1] = True
    tokens, blanks, garbage = _entries(graph, state, np.arange(part.words))
    entries = np.maximum(tokens, blanks)
    entries[in_first_half & same[entries & _RECORD]] = _DEAD
    garbage[word] = _DEAD if same[garbage[word] & _RECORD] else garbage[word]
    hub = _DEAD if same[state.hub & _RECORD] else state.hub
    others = max(int(entries.max()), int(garbage.max()), hub)
    return others >> _SHIFT < (end.entry >> _SHIFT) - nats * UNITS


def number_in_window(graph: Graph, state: SearchState, word: int) -> int:
    """The number that a word of the graph has in the window of a state."""
    return word if word < graph.formulas else word - state.low + graph.formulas


def _word(graph: Graph, low: int, number: int) -> int:
    """The word of the graph that has a number in a window."""
    return number if number < graph.formulas else number - graph.formulas + low


def word_ends(graph: Graph, state: SearchState) -> Int64:
    """[W] entries of the paths that end with each word of the window."""
    part, shared = window(graph, state.low, state.high), _prefixes(graph, state.low, state.high)
    last = np.maximum(state.shared_tokens[shared.ends], state.shared_blanks[shared.ends])
    ends = np.append(np.maximum(last, state.shared_garbage), _DEAD)[shared.whole[: part.words]]
    _, places = _places(part, state.words)
    last = np.maximum(state.tokens[places], state.blanks[places])
    ends[state.words] = np.maximum(last, state.garbage)
    return ends


def best_in_words(graph: Graph, state: SearchState) -> Int64:
    """[W] entries of the best path that is in each word of the window, or in other speech after it."""
    part, shared = window(graph, state.low, state.high), _prefixes(graph, state.low, state.high)
    entries = np.maximum(state.shared_tokens, state.shared_blanks)
    best, prefix = np.maximum(entries[shared.ends], state.shared_garbage), shared.ends.copy()
    while len(longer := np.flatnonzero(prefix >= shared.roots)):
        prefix[longer] = shared.parent[prefix[longer] - shared.roots]
        best = np.maximum(best, entries[prefix])
    found = np.append(best, _DEAD)[shared.whole[: part.words]]
    if len(state.words):
        first, _ = _places(part, state.words)
        own = np.maximum.reduceat(np.maximum(state.tokens, state.blanks), first)
        found[state.words] = np.maximum(own, state.garbage)
    return found


def score(state: SearchState, entry: int) -> float:
    """Nats of a path relative to one of blanks only."""
    return ((entry >> _SHIFT) + state.taken) / UNITS


def best_total(state: SearchState) -> float:
    """Nats of the best of all paths, wherever it is, relative to one of blanks only."""
    own = (state.tokens, state.blanks, state.garbage)
    shared = (state.shared_tokens, state.shared_blanks, state.shared_garbage)
    return score(state, max(state.hub, *(int(part.max(initial=_DEAD)) for part in (*own, *shared))))


def trace(graph: Graph, state: SearchState, end: PathEnd) -> tuple[Visit, ...]:
    """The visits of one path after all that were committed."""
    record = end.entry & _RECORD
    visits = _visits(graph, state.records, record)
    last = Visit(end.word, int(state.records.frame[record]), state.frame)
    measured = Measured(state.emissions, state.frame - len(state.emissions), state.non_blank, state.frame)
    aligned = [part for visit in visits for part in align_visit(graph, visit, measured)]
    return (*aligned, *align_visit(graph, last, measured, end.tokens))


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
        enter=graph.enter << _SHIFT,
        leave=graph.leave << _SHIFT,
        chain=chain << _SHIFT,
        after_wrong=after_wrong << _SHIFT,
        arcs=plain[:2],
        arc_costs=plain[2] << _SHIFT,
        blank_arcs=blank[:2],
        blank_arc_costs=blank[2] << _SHIFT,
        offsets=np.array(offsets, np.int64),
        local=np.array([in_units(cost) for cost in local], np.int64) << _SHIFT,
        inside=np.where(graph.index > 0, in_units(costs.back_inside), 0) << _SHIFT,
        least_leave=int(graph.leave.min()) << _SHIFT,
        near=(cheapest - most) << _SHIFT,
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
        self.shared = shared = _prefixes(self.whole, state.low, state.high)
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
        self.records = _Growing(state.records)
        most = 0 if entering is None else int(entering.max(initial=0))
        self._enter = costs.enter if entering is None else costs.enter + (entering << _SHIFT)
        self._enter_shared = (shared.enter + most) << _SHIFT
        self._most_enter = (int(shared.enter.max(initial=0)) + most) << _SHIFT
        self._near = costs.near - (most << _SHIFT)
        self._garbage_in = in_units(graph.costs.garbage) << _SHIFT
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
        self._first, self._last = _places(graph, words)
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
        differs = self.tokens != np.append(self.shared_tokens, _DEAD)[nodes]
        differs |= self.blanks != np.append(self.shared_blanks, _DEAD)[nodes]
        kept = np.logical_or.reduceat(differs, self._first) | self._apart[self.words]
        kept |= self.garbage != np.append(self.shared_garbage, _DEAD)[shared.whole[self.words]]
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
        passed = (hub & _SCORE) | self.records.add(self.frame, HUB, hub & _RECORD)
        firsts = np.maximum(self.tokens[self._first], passed - self._enter[self.words])
        roots = np.maximum(self.shared_tokens[: shared.roots], passed - self._enter_shared)
        reach, near = (passed & _SCORE) - self._most_enter, (passed & _SCORE) + self._near
        entered, entries = self._entered_from_words(
            ends, shared_ends, firsts, roots, reach, max(near, _ALIVE)
        )
        fresh = entered[self._number[entered] < 0]
        if len(fresh):
            self._separate(fresh)
            firsts = np.append(firsts, np.full(len(fresh), _DEAD))
        firsts[self._number[entered]] = entries

        (stays,), (begins,), self.label = other_speech(units[None], self.label, self._garbage_token)
        is_token = self.label != len(units) - 1
        self.garbage += int(stays) << _SHIFT
        self.shared_garbage += int(stays) << _SHIFT
        if is_token:  # garbage begins with a token, or silence could stand in place of a word
            cost = (int(begins) << _SHIFT) - self._garbage_in
            np.maximum(self.garbage, self._word_tokens() + cost, out=self.garbage)
            np.maximum(self.shared_garbage, shared_tokens + cost, out=self.shared_garbage)
        self.non_blank.append(is_token)
        self.hub = max(stayed + (int(stays) << _SHIFT), hub + (int(begins) << _SHIFT))

        gains = units.astype(np.int64) << _SHIFT
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
        near = max((self.hub & _SCORE) + self.costs.least_leave, _ALIVE)
        own, shared = np.flatnonzero(ends > near), np.flatnonzero(shared_ends > near)
        words = np.concatenate([self.words[own], self.shared.left[shared]])
        if not len(words):
            return self.hub
        left = np.concatenate([ends[own], shared_ends[shared]])
        leaving = left - self.costs.leave[words]
        best = int(leaving.argmax())
        if int(leaving[best]) >> _SHIFT <= self.hub >> _SHIFT:
            return self.hub
        word = _word(self.whole, self.low, int(words[best]))
        return (int(leaving[best]) & _SCORE) | self.records.add(self.frame, word, int(left[best]) & _RECORD)

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
        good = np.flatnonzero(shared_ends > max(min(near, reach), _ALIVE))
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
        better = (value & _SCORE) > np.maximum(first, _ALIVE)
        better &= target < graph.words
        target, value, source = target[better], value[better], np.concatenate(sources)[better]
        order = np.lexsort((value, target))
        last = np.ones(len(order), np.bool_)
        last[:-1] = target[order[1:]] != target[order[:-1]]
        best = order[last]
        times, source = np.divmod(source[best], graph.words)
        source += (source >= graph.formulas) * (self.low - graph.formulas) + times * self.whole.words
        entered = self.records.add_all(self.frame, source, value[best] & _RECORD)
        return target[best], (value[best] & _SCORE) | entered

    def _of(self, words: NDArray[np.intp], own: Int64, shared: Int64, place: NDArray[np.intp]) -> Int64:
        """Entries of words, those without their own from the place of each among the shared ones."""
        number = self._number[words]
        found: Int64 = np.where(
            number >= 0, np.append(own, _DEAD)[number], np.append(shared, _DEAD)[place[words]]
        )
        return found

    def collect(self, fixed_lag: FixedLag | None) -> list[Visit]:
        """Drop records that are no longer needed; returns the visits that all open paths have in common."""
        held = self._held()
        if fixed_lag is not None:
            self._drop_others(fixed_lag)
        best = max(self.hub, *(int(entries.max(initial=_DEAD)) for entries in held)) >> _SHIFT
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
        measured = Measured(self.emissions, self.base, np.array(self.non_blank, np.bool_), self.frame)
        committed = [part for visit in visits for part in align_visit(self.whole, visit, measured)]

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
        best = max(self.hub, *(int(entries.max(initial=_DEAD)) for entries in held))
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
        """Drop the emissions of frames before the first word that is not yet committed."""
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
    """The stored frames of visits that are to be aligned."""

    emissions: Int32
    """[F, vocabulary + 1] units."""
    base: int
    """Frame of `emissions[0]`."""
    non_blank: NDArray[np.bool_]
    """[S]"""
    end: int
    """Frame after the last of `non_blank`."""


def align_visit(
    graph: Graph, visit: Visit, measured: Measured, tokens: int | None = None
) -> tuple[Visit, ...]:
    """Align the tokens of a word within its visit, by the same scores and costs as the search.

    Args:
        graph: of the search.
        visit: as the records have it.
        measured: from the visit's start on; of a visit of the hub only `non_blank`.
        tokens: how many of the word's tokens were recited; None: all, and perhaps garbage after them.

    Returns:
        The visit; and one of the next word, where garbage stands in place of it.
    """
    if visit.word == HUB:
        first = measured.end - len(measured.non_blank)
        edges = np.flatnonzero(
            np.diff(measured.non_blank[visit.start - first : visit.end - first], prepend=0, append=0)
        )
        runs = (edges + visit.start).reshape(-1, 2).tolist()
        return (replace(visit, tokens=tuple((begin, end) for begin, end in runs)),)
    costs = graph.costs
    spelt = graph.spelt(visit.word)[:tokens]
    frames = measured.emissions[visit.start - measured.base : visit.end - measured.base].astype(np.int64)
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
    begins[frames.argmax(axis=1) == frames.shape[1] - 1] = _DEAD >> _SHIFT

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

    if visit.wrong:
        now[-3:-1] = _DEAD >> _SHIFT
    elif visit.silent:
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
    aligned = replace(visit, tokens=spans, garbage=strange, loss=float(loss))
    if not visit.wrong or strange is None:
        return (aligned,)
    in_place = _runs(frames[strange - visit.start :], strange)
    other = Visit(
        visit.word + 1, strange, visit.end, in_place, wrong=True, loss=costs.garbage_token * len(in_place)
    )
    return replace(aligned, end=strange, garbage=None, wrong=False), other


def _runs(units: Int64, first: int) -> tuple[tuple[int, int], ...]:
    """First frame and frame after the last of every token that is the best; `first` is the first frame."""
    labels = units.argmax(axis=1)
    begins = np.flatnonzero(np.append(True, labels[1:] != labels[:-1]))
    ends = np.append(begins[1:], len(labels))
    non_blank = labels[begins] != units.shape[1] - 1
    return tuple(zip((begins[non_blank] + first).tolist(), (ends[non_blank] + first).tolist(), strict=True))


def other_speech(units: NDArray[np.integer], label: int, token_cost: int) -> tuple[Int64, Int64, int]:
    """Scores of frames as other speech: their best token, less a cost for each token that begins.

    Args:
        units: [n, vocabulary + 1]
        label: best token of the previous frame; -1: none.
        token_cost: in units.

    Returns:
        Units [n] of a path that was in other speech before, units [n] of one that enters it with the frame
        (and pays for a token that continues), and the best token of the last frame.
    """
    labels = units.argmax(axis=1)
    before = np.append(label, labels)
    best: Int64 = units[np.arange(len(units)), labels].astype(np.int64)
    is_token = labels != units.shape[1] - 1
    begins = is_token & (labels != before[:-1])
    return best - begins * token_cost, best - is_token * token_cost, int(before[-1])


def _visits(graph: Graph, records: Records, last: int) -> list[Visit]:
    """The visits of one path up to a record, without the tokens of their words."""
    found = []
    while last:
        before = int(records.before[last])
        how, word = divmod(int(records.word[last]), graph.words) if records.word[last] >= 0 else (0, HUB)
        frames = int(records.frame[before]), int(records.frame[last])
        found.append(Visit(word, *frames, silent=how == 1, wrong=how == 2))
        last = before
    return found[::-1]


def _common(before: NDArray[np.int32], held: NDArray[np.intp]) -> int:
    """The last common ancestor of these records."""
    while len(held) > 1:
        held = np.unique(np.where(held > held[0], before[held], held))
    return int(held[0])


def _mark_ways(before: NDArray[np.int32], marked: NDArray[np.bool_], common: int) -> None:
    """Mark all records on the paths from `common` to the marked ones."""
    fresh = np.flatnonzero(marked)
    while len(fresh):
        fresh = np.unique(before[fresh[fresh > common]])
        fresh = fresh[~marked[fresh]]
        marked[fresh] = True
