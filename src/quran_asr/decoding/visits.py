"""The visits of a path: the words that it goes through, and the frames of their tokens.

While the search runs it records only how words were entered. From the last record of a path its visits
follow, without tokens. Once the path is decided, `align_visit` finds the frames of the tokens of each.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from quran_asr.decoding.forced import force
from quran_asr.decoding.graph import NEVER, UNITS, Graph, in_units

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Int64 = NDArray[np.int64]
    Int32 = NDArray[np.int32]

HUB = -1
"""The hub, in place of a word."""

LEAST_TOKENS = 3
"""Fewer tokens than this are noise, not speech."""
LEAST_LOSS = 8.0
"""Nats: a word that loses less is recited as it is written."""
_IMPOSSIBLE = -(1 << 30)
"""Units of a state without a path."""


@dataclass(frozen=True, slots=True)
class AmidSpeech:
    """A word for which the search took other speech beside it, too: where it is without that speech."""

    tokens: tuple[tuple[int, int], ...]
    """As in `Visit`."""
    before: tuple[int, int] | None
    """First frame of the other speech before the word and frame after it; None: there is none."""
    behind: tuple[int, int] | None
    """The same behind it."""
    loss: float
    """Of the word alone."""


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
    before: tuple[int, int] | None = None
    """First frame of other speech before the word and frame after it. The search finds it only behind."""
    amid: AmidSpeech | None = field(default=None, compare=False)
    """Of a word that loses much in speech that need not belong to it."""


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


class GrowingRecords:
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


def common_record(before: NDArray[np.int32], held: NDArray[np.intp]) -> int:
    """The last common ancestor of these records."""
    while len(held) > 1:
        held = np.unique(np.where(held > held[0], before[held], held))
    return int(held[0])


def mark_ways(before: NDArray[np.int32], marked: NDArray[np.bool_], common: int) -> None:
    """Mark all records on the paths from `common` to the marked ones."""
    fresh = np.flatnonzero(marked)
    while len(fresh):
        fresh = np.unique(before[fresh[fresh > common]])
        fresh = fresh[~marked[fresh]]
        marked[fresh] = True


def visits_until(graph: Graph, records: Records, last: int) -> list[Visit]:
    """The visits of one path up to a record, without the tokens of their words."""
    found = []
    while last:
        before = int(records.before[last])
        how, word = divmod(int(records.word[last]), graph.words) if records.word[last] >= 0 else (0, HUB)
        frames = int(records.frame[before]), int(records.frame[last])
        found.append(Visit(word, *frames, silent=how == 1, wrong=how == 2))
        last = before
    return found[::-1]


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
    begins[frames.argmax(axis=1) == frames.shape[1] - 1] = _IMPOSSIBLE

    now = np.full(states, _IMPOSSIBLE)
    now[0] = gains[0, 0]  # a word begins with its first token
    ways = np.full((3, states), _IMPOSSIBLE)
    chosen = np.zeros((len(frames), states), np.int64)
    for t in range(1, len(frames)):
        ways[0] = now
        ways[1, 1:] = now[:-1] - from_one[1:]
        ways[2, 2:] = now[:-2] - from_two[2:]
        ways[1:, -1] += begins[t]
        chosen[t] = ways.argmax(axis=0)
        now = ways.max(axis=0) + gains[t]

    if visit.wrong:
        now[-3:-1] = _IMPOSSIBLE
    elif visit.silent:
        now[-3] = _IMPOSSIBLE
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
    if tokens is None and not visit.wrong and loss >= LEAST_LOSS:
        aligned = replace(aligned, amid=_amid_speech(frames, spelt, visit.start))
    if not visit.wrong or strange is None:
        return (aligned,)
    in_place = _runs(frames[strange - visit.start :], strange)
    other = Visit(
        visit.word + 1, strange, visit.end, in_place, wrong=True, loss=costs.garbage_token * len(in_place)
    )
    return replace(aligned, end=strange, garbage=None, wrong=False), other


def _amid_speech(units: Int64, spelt: NDArray[np.intp], first: int) -> AmidSpeech | None:
    """A word amid other speech; None where there is none. `first` is the first frame."""
    forced = force((units / UNITS).astype(np.float32), spelt.tolist(), amid_speech=True)
    if forced is None:
        return None
    spans = forced.spans + first
    runs = _runs(units, first)
    before = [run for run in runs if run[1] <= spans[0, 0]]
    behind = [run for run in runs if run[0] >= spans[-1, 1]]
    if max(len(before), len(behind)) < LEAST_TOKENS:
        return None
    return AmidSpeech(
        tuple((int(begin), int(end)) for begin, end in spans),
        (before[0][0], before[-1][1]) if len(before) >= LEAST_TOKENS else None,
        (behind[0][0], behind[-1][1]) if len(behind) >= LEAST_TOKENS else None,
        float(forced.losses.sum()),
    )


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
