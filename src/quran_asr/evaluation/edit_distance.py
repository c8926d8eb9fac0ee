"""Edit distance between reference and hypothesis: counts of operations, and the alignment.

Of all alignments with the fewest errors the one with the most hits counts. So hits, substitutions,
insertions and deletions are well defined, not an accident of how a table is walked.

How: let S be the best gain of a path through the table of prefixes, where an insertion or a deletion gains
0, a substitution B and a hit 2B + 1. A path of e errors and h hits over n and m units gains
B(n + m - e) + h, and h < B: the largest S has the fewest errors and, among those, the most hits, and both can
be read from S without walking back. Many pairs are counted in one batch: 3,700 verses in half a second.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from quran_asr.records import Counts

Ids = NDArray[np.int32]

CELLS = 50_000
"""Cells filled at once: with more they leave the processor's cache, with fewer Python is the cost."""


@dataclass(frozen=True, slots=True)
class Edit:
    """One step of an alignment."""

    kind: Literal["hit", "substitution", "insertion", "deletion"]
    reference: str
    """The unit of the reference; empty for an insertion."""
    hypothesis: str
    """The unit of the hypothesis; empty for a deletion."""


def count(reference: Sequence[str], hypothesis: Sequence[str]) -> Counts:
    """Hits and errors between two sequences of words, or two strings as sequences of characters."""
    return count_many([(reference, hypothesis)])[0]


def count_many(pairs: Iterable[tuple[Sequence[str], Sequence[str]]]) -> list[Counts]:
    """`count` of every (reference, hypothesis), in order; far faster than one by one."""
    number: dict[str, int] = {}
    ids = [
        (_ids(reference_ids, number), _ids(hypothesis_ids, number)) for reference_ids, hypothesis_ids in pairs
    ]
    counts: list[Counts] = [Counts()] * len(ids)
    # pairs of like length together, so that little of a batch is padding; longest first
    order = sorted(range(len(ids)), key=lambda place: -len(ids[place][0]) - len(ids[place][1]))
    start = 0
    while start < len(order):
        width, stop = 0, start
        while stop < len(order):
            width = max(width, *(len(units) + 1 for units in ids[order[stop]]))
            if stop > start and width * (stop + 1 - start) > CELLS:
                break
            stop += 1
        batch = order[start:stop]
        for place, counted in zip(batch, _count_batch([ids[place] for place in batch]), strict=True):
            counts[place] = counted
        start = stop
    return counts


def align(
    reference: Sequence[str], hypothesis: Sequence[str], alike: Callable[[str], object] | None = None
) -> list[Edit]:
    """The edit operations that turn the reference into the hypothesis, in order; they sum to `count`.

    Of the alignments that `count` counts, the one that puts the most units of equal `alike(unit)` opposite
    each other is given (`alike` may strip marks, so that a word stands opposite its other spelling).
    Takes one byte for each pair of units.
    """
    number: dict[str, int] = {}
    reference_ids, hypothesis_ids = _ids(reference, number), _ids(hypothesis, number)
    kin: dict[object, int] = {}
    reference_classes, hypothesis_classes = reference_ids, hypothesis_ids
    if alike is not None:
        reference_classes = np.array([kin.setdefault(alike(unit), len(kin)) for unit in reference], np.int32)
        hypothesis_classes = np.array(
            [kin.setdefault(alike(unit), len(kin)) for unit in hypothesis], np.int32
        )
    moves = _moves(reference_ids, hypothesis_ids, reference_classes, hypothesis_classes)
    edits: list[Edit] = []
    row, column = len(reference_ids), len(hypothesis_ids)
    while row or column:
        move = moves[row, column] if row and column else (_UP if row else _LEFT)
        if move == _DIAGONAL:
            row, column = row - 1, column - 1
            same = reference_ids[row] == hypothesis_ids[column]
            edits.append(Edit("hit" if same else "substitution", reference[row], hypothesis[column]))
        elif move == _UP:
            row -= 1
            edits.append(Edit("deletion", reference[row], ""))
        else:
            column -= 1
            edits.append(Edit("insertion", "", hypothesis[column]))
    return edits[::-1]


def total(counts: Iterable[Counts]) -> Counts:
    """The sum of counts: the only way in which clips become one rate."""
    return sum(counts, start=Counts())


_DIAGONAL, _UP, _LEFT = 0, 1, 2


def _ids(units: Sequence[str], number: dict[str, int]) -> Ids:
    """Units as numbers; equal units have equal numbers. A string is its code points."""
    if isinstance(units, str):
        return np.frombuffer(units.encode("utf-32-le", "surrogatepass"), np.int32)
    return np.array([number.setdefault(unit, len(number)) for unit in units], np.int32)


def _count_batch(pairs: Sequence[tuple[Ids, Ids]]) -> list[Counts]:
    """Counts of pairs sorted from long to short by the sum of their lengths, all tables in one array.

    Filled by anti-diagonals: cell (i, j) of diagonal k = i + j needs only the diagonals k - 1 and k - 2.
    The cells beyond a pair's own lengths hold nonsense that never flows back.
    """
    reference_lengths = np.array([len(reference_ids) for reference_ids, _ in pairs])
    hypothesis_lengths = np.array([len(hypothesis_ids) for _, hypothesis_ids in pairs])
    lengths = reference_lengths + hypothesis_lengths
    rows, columns = int(reference_lengths.max()), int(hypothesis_lengths.max())
    base = min(rows, columns) + 1
    kind = np.int32 if base * (rows + columns + 2) < 2**31 else np.int64
    reference_ids = np.full((len(pairs), rows), -1, np.int32)
    hypothesis_backwards = np.full((len(pairs), columns), -2, np.int32)
    for place, (reference, hypothesis) in enumerate(pairs):
        reference_ids[place, : len(reference)] = reference
        hypothesis_backwards[place, columns - len(hypothesis) :] = hypothesis[::-1]
    before = np.zeros((len(pairs), rows + 1), kind)  # diagonal k - 2, gains by row; then k
    last = np.zeros_like(before)  # diagonal k - 1
    final = np.zeros(len(pairs), np.int64)
    # lengths fall: only the first going[k] pairs reach diagonal k
    going = np.searchsorted(-lengths, -np.arange(lengths[0] + 2), side="right")
    for k in range(2, int(lengths[0]) + 1):
        active = slice(0, going[k])
        first, end = max(1, k - columns), min(rows, k - 1) + 1
        opposite = slice(columns - k + first, columns - k + end)
        step = np.multiply(
            reference_ids[active, first - 1 : end - 1] == hypothesis_backwards[active, opposite],
            kind(base + 1),
        )
        step += kind(base)
        step += before[active, first - 1 : end - 1]
        np.maximum(step, last[active, first - 1 : end - 1], out=step)
        np.maximum(step, last[active, first:end], out=before[active, first:end])
        before, last = last, before
        done = np.arange(going[k + 1], going[k])
        final[done] = last[done, reference_lengths[done]]
    hits = final % base
    errors = lengths - final // base
    # n + m = 2 hits + 2 substitutions + deletions + insertions
    substitutions = lengths - errors - 2 * hits
    deletions = reference_lengths - hits - substitutions
    insertions = hypothesis_lengths - hits - substitutions
    table = np.stack([hits, substitutions, insertions, deletions], axis=1).tolist()
    return [Counts(*line) for line in table]


def _moves(
    reference_ids: Ids, hypothesis_ids: Ids, reference_classes: Ids, hypothesis_classes: Ids
) -> NDArray[np.uint8]:
    """The last step of the best path to every pair of prefixes, [reference + 1, hypothesis + 1]."""
    base = min(len(reference_ids), len(hypothesis_ids)) + 1
    moves = np.zeros((len(reference_ids) + 1, len(hypothesis_ids) + 1), np.uint8)
    gains = np.zeros(len(hypothesis_ids) + 1, np.int64)
    for row in range(len(reference_ids)):
        step = np.full(len(hypothesis_ids), base**2, np.int64)
        step[hypothesis_classes == reference_classes[row]] += 1
        step[hypothesis_ids == reference_ids[row]] = 2 * base**2 + base
        step += gains[:-1]
        up = gains[1:]
        best = np.zeros_like(gains)
        np.maximum.accumulate(np.maximum(step, up), out=best[1:])
        moves[row + 1, 1:] = np.where(step == best[1:], _DIAGONAL, np.where(up == best[1:], _UP, _LEFT))
        gains = best
    return moves
