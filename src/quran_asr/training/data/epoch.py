"""Batches of an epoch: which clips, on which process, and where to resume.

The plan of an epoch depends on its number, the seed and the settings alone, so a checkpoint needs to keep
no list: what was done follows from the settings under which it was done. Where a run continues with other
settings (batch size, number of processes), the clips that were done are left out of the new plan, and every
clip still comes once in the epoch.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace

JITTER = 0.04
"""Share by which lengths are blurred before sorting, so that batches differ from epoch to epoch.

On 67,399 lengths drawn from real verses, in batches of 32, padding is 4 % of the frames; with 0.1 it was 9 %.
"""

SHARDS_AT_ONCE = 8
"""Shards whose clips are trained together before the next ones are read. `corpus pack` puts two hours by
chance into each: batches of like length still come from 16 hours, and 1 GB is read in sequence."""


@dataclass(frozen=True, slots=True)
class Stage:
    """A stretch of an epoch that is trained under one set of settings."""

    seed: int
    batch_size: int
    batch_seconds: float | None
    longest: float | None
    ranks: int
    """Processes that share the batches."""
    done: int = 0
    """Batches of each process that are trained."""
    window: int = 1
    """Batches behind an optimizer step, of all processes together."""
    plain: bool = False
    """Clips come without the recipe's changes of the audio, as the curriculum begins."""

    def same_plan(self, other: Stage) -> bool:
        """Whether both make the same batches."""
        return replace(self, done=0) == replace(other, done=0)


def plan_epoch(
    durations: Sequence[float],
    *,
    batch_size: int,
    batch_seconds: float | None,
    longest: float | None,
    seed: int,
    epoch: int,
    without: Collection[int] = (),
    window: int = 1,
    shards: Sequence[int] = (),
) -> list[list[int]]:
    """Batches of one epoch as places in `durations`, shuffled; every admitted clip stands in exactly one.

    Batches of like length fall into one optimizer step, so that no process waits long for another.

    Args:
        durations: seconds of each clip.
        batch_size: clips a batch; with `batch_seconds`, the most clips a batch.
        batch_seconds: padded seconds a batch, or None. A clip longer than this is a batch of its own.
        longest: clips longer than this wait for a later epoch (the curriculum); None admits all.
        seed, epoch: what the order depends on, and nothing else.
        without: clips that were trained in this epoch already.
        window: batches behind an optimizer step.
        shards: the shard that holds each clip. Shards are then trained in an order by chance, a few at a
            time, so that disks are read in sequence. Empty: any clip may follow any other.
    """
    random_order = random.Random(f"{seed}/{epoch}")
    left_out = frozenset(without)
    admitted = [
        i
        for i, seconds in enumerate(durations)
        if (longest is None or seconds <= longest) and i not in left_out
    ]
    batches: list[list[int]] = []
    over: list[list[int]] = []
    for near in _read_together(admitted, shards, random_order):
        like = _of_like_length(near, durations, batch_size, batch_seconds, random_order)
        whole, rest = _shuffled(like, window, random_order)
        batches += whole
        over += rest
    return batches + over


def _read_together(
    admitted: list[int], shards: Sequence[int], random_order: random.Random
) -> Sequence[list[int]]:
    """The clips of `SHARDS_AT_ONCE` shards after those of others; all clips where there are no shards."""
    if not shards:
        return [admitted]
    order = sorted({shards[i] for i in admitted})
    random_order.shuffle(order)
    turn = {shard: place // SHARDS_AT_ONCE for place, shard in enumerate(order)}
    together: list[list[int]] = [[] for _ in range(-(-len(order) // SHARDS_AT_ONCE))]
    for i in admitted:
        together[turn[shards[i]]].append(i)
    return together


def _of_like_length(
    clips: list[int],
    durations: Sequence[float],
    batch_size: int,
    batch_seconds: float | None,
    random_order: random.Random,
) -> list[list[int]]:
    """Batches that follow each other by length."""
    blurred = {i: durations[i] * (1 + random_order.uniform(-JITTER, JITTER)) for i in clips}
    batches: list[list[int]] = []
    current: list[int] = []
    widest = 0.0
    for i in sorted(clips, key=lambda i: blurred[i]):
        full = len(current) >= batch_size
        if batch_seconds is not None and current:
            full = full or max(widest, durations[i]) * (len(current) + 1) > batch_seconds
        if full:
            batches.append(current)
            current, widest = [], 0.0
        current.append(i)
        widest = max(widest, durations[i])
    if current:
        batches.append(current)
    return batches


def _shuffled(
    batches: list[list[int]], window: int, random_order: random.Random
) -> tuple[list[list[int]], list[list[int]]]:
    """Batches that are sorted by length, in groups of `window` neighbours, and those that fill no group."""
    over = len(batches) % window
    begin = random_order.randrange(len(batches) - over + 1)
    last, rest = batches[begin : begin + over], batches[:begin] + batches[begin + over :]
    groups = [rest[i : i + window] for i in range(0, len(rest), window)]
    random_order.shuffle(groups)
    return [batch for group in groups for batch in group], last


def share_out(batches: Sequence[list[int]], ranks: int) -> list[list[list[int]]]:
    """The batches of each process, equally many: batch k goes to process k mod `ranks`.

    Where their number does not divide, the largest batches are halved until it does; only where nothing is
    left to halve does a clip come twice, at most `ranks - 1` of them.
    """
    shared = [list(batch) for batch in batches]
    while shared and len(shared) % ranks:
        largest = max(range(len(shared)), key=lambda k: (len(shared[k]), k))  # the last: it fills no window
        half = len(shared[largest]) // 2
        if half:
            shared.append(shared[largest][half:])
            shared[largest] = shared[largest][:half]
        else:
            shared.append(list(shared[len(shared) % ranks - 1]))
    return [shared[rank::ranks] for rank in range(ranks)]


def repeated_clips(batches: Sequence[list[int]], ranks: int) -> int:
    """How many clips come twice in an epoch so that all processes have equally many batches."""
    planned = sum(len(batch) for batch in batches)
    return sum(len(batch) for rank in share_out(batches, ranks) for batch in rank) - planned


def stage_batches(
    durations: Sequence[float], stages: Sequence[Stage], epoch: int, rank: int, shards: Sequence[int] = ()
) -> list[list[int]]:
    """The batches of one process in the last of an epoch's stages, from the stage's beginning."""
    trained: set[int] = set()
    for stage in stages[:-1]:
        for batches in share_out(planned_batches(durations, stage, epoch, trained, shards), stage.ranks):
            trained.update(i for batch in batches[: stage.done] for i in batch)
    now = stages[-1]
    return share_out(planned_batches(durations, now, epoch, trained, shards), now.ranks)[rank]


class EpochBatches:
    """The batch sampler of one epoch: the batches that are left, after as many that were trained.

    Its length counts those too: Lightning counts the batches done before a resume.
    """

    def __init__(self, batches: Sequence[list[int]], done: int = 0) -> None:
        self._batches = batches
        self._done = done

    def __iter__(self) -> Iterator[list[int]]:
        return iter(self._batches)

    def __len__(self) -> int:
        return self._done + len(self._batches)


def planned_batches(
    durations: Sequence[float],
    stage: Stage,
    epoch: int,
    trained: Collection[int] = (),
    shards: Sequence[int] = (),
) -> list[list[int]]:
    """The batches of an epoch under a stage's settings, of all processes together."""
    return plan_epoch(
        durations,
        batch_size=stage.batch_size,
        batch_seconds=stage.batch_seconds,
        longest=stage.longest,
        seed=stage.seed,
        epoch=epoch,
        without=trained,
        window=stage.window,
        shards=shards,
    )
