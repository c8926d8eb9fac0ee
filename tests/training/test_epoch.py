"""Every clip once an epoch: on one process or several, with one set of settings or a change in the middle."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quran_asr.training.data.epoch import (
    SHARDS_AT_ONCE,
    Stage,
    plan_epoch,
    repeated_clips,
    share_out,
    stage_batches,
)

DURATIONS = st.lists(st.floats(0.2, 40.0), min_size=1, max_size=80)
RANKS = st.integers(1, 5)


def stage(batch_size: int, ranks: int, batch_seconds: float | None = None) -> Stage:
    return Stage(0, batch_size, batch_seconds, None, ranks)


@given(DURATIONS, st.integers(1, 12), RANKS)
def test_processes_get_equally_many_batches_and_every_clip_is_theirs(
    durations: list[float], batch_size: int, ranks: int
) -> None:
    shares = [stage_batches(durations, [stage(batch_size, ranks)], 3, rank) for rank in range(ranks)]
    assert len({len(share) for share in shares}) == 1
    times = Counter(i for share in shares for batch in share for i in batch)
    assert set(times) == set(range(len(durations)))
    repeated = sum(times.values()) - len(durations)
    assert repeated <= ranks - 1
    planned = plan_epoch(durations, batch_size=batch_size, batch_seconds=None, longest=None, seed=0, epoch=3)
    assert repeated == repeated_clips(planned, ranks)
    assert len(shares[0]) == -(-len(durations) // (batch_size * ranks)), "ceil(clips / (batch x ranks))"
    assert all(1 <= len(batch) <= batch_size for share in shares for batch in share)


@given(DURATIONS, st.integers(1, 12), st.integers(1, 12), RANKS, RANKS, st.data())
def test_what_is_trained_before_a_change_is_not_trained_again(
    durations: list[float], size: int, other_size: int, ranks: int, other_ranks: int, data: st.DataObject
) -> None:
    first = stage(size, ranks)
    whole = [stage_batches(durations, [first], 0, rank) for rank in range(ranks)]
    done = data.draw(st.integers(0, len(whole[0])))
    then = [replace(first, done=done), stage(other_size, other_ranks)]
    before = {i for share in whole for batch in share[:done] for i in batch}
    after = [
        i for rank in range(other_ranks) for batch in stage_batches(durations, then, 0, rank) for i in batch
    ]
    assert before | set(after) == set(range(len(durations)))
    assert not before & set(after)
    assert len(after) - len(set(after)) <= other_ranks - 1


def test_one_process_with_accumulation_and_two_without_train_the_same_windows() -> None:
    durations = [1.0 + i % 7 for i in range(24)]
    alone = stage_batches(durations, [stage(4, 1)], 0, 0)
    first, second = (stage_batches(durations, [stage(4, 2)], 0, rank) for rank in (0, 1))
    assert [alone[k : k + 2] for k in range(0, 6, 2)] == [[a, b] for a, b in zip(first, second, strict=True)]


@given(DURATIONS, st.integers(1, 6), RANKS, st.integers(1, 3), st.integers(0, 5))
def test_windows_of_neighbours_lose_no_clip_and_one_process_trains_the_same(
    durations: list[float], size: int, ranks: int, accumulation: int, epoch: int
) -> None:
    window = ranks * accumulation
    alone = stage_batches(durations, [replace(stage(size, 1), window=window)], epoch, 0)
    assert sorted(i for batch in alone for i in batch) == list(range(len(durations)))
    several = replace(stage(size, ranks), window=window)
    shares = [stage_batches(durations, [several], epoch, rank) for rank in range(ranks)]
    whole = len(alone) // window * accumulation
    together = [shares[k % ranks][k // ranks] for k in range(ranks * whole)]
    if len(alone) % ranks == 0:  # else the largest batches are halved
        assert together == alone[: len(together)]


@pytest.mark.slow
def test_processes_wait_little_for_each_other() -> None:
    """Step by step, the padded seconds of all processes differ by a few percent."""
    drawn = random.Random(0)
    durations = [min(40.0, drawn.lognormvariate(1.8, 0.8)) for _ in range(20000)]
    for settings in (stage(32, 4), stage(64, 4, 240.0)):
        shares = [stage_batches(durations, [replace(settings, window=8)], 0, rank) for rank in range(4)]
        padded = [[len(b) * max(durations[i] for i in b) for b in share] for share in shares]
        waiting = 1 - sum(map(sum, padded)) / (4 * sum(map(max, zip(*padded, strict=True))))
        assert waiting < 0.06
        assert 1 - sum(durations) / sum(map(sum, padded)) < 0.05, "padding"


def test_single_clips_come_twice_rather_than_hold_a_process_up() -> None:
    assert share_out([[0], [1], [2]], 2) == [[[0], [2]], [[1], [0]]]
    assert repeated_clips([[0], [1], [2]], 2) == 1


sharded = st.lists(st.tuples(st.floats(0.5, 40.0), st.integers(0, 40)), min_size=1, max_size=200)


@given(sharded, st.integers(1, 9), st.integers(1, 3), st.integers(0, 5), st.integers(0, 30))
def test_shards_are_trained_a_few_at_a_time_and_resumed_exactly(
    clips: list[tuple[float, int]], batch_size: int, window: int, epoch: int, done: int
) -> None:
    durations, shards = [seconds for seconds, _ in clips], [shard for _, shard in clips]
    settings = replace(stage(batch_size, 1), window=window)
    batches = stage_batches(durations, [settings], epoch, 0, shards)
    assert sorted(i for batch in batches for i in batch) == list(range(len(clips)))
    assert batches == stage_batches(durations, [settings], epoch, 0, shards)
    rest = stage_batches(durations, [replace(settings, done=done), stage(5, 2)], epoch, 0, shards)
    other = stage_batches(durations, [replace(settings, done=done), stage(5, 2)], epoch, 1, shards)
    trained = {i for batch in batches[:done] for i in batch}
    assert {i for batch in rest + other for i in batch} == set(range(len(clips))) - trained


def test_shards_are_not_opened_again_once_others_have_begun() -> None:
    durations, shards = [1.0 + i % 7 for i in range(4000)], [i % 40 for i in range(4000)]
    batches = stage_batches(durations, [stage(8, 1)], 0, 0, shards)
    first = {
        shard: min(n for n, b in enumerate(batches) if any(shards[i] == shard for i in b))
        for shard in range(40)
    }
    last = {
        shard: max(n for n, b in enumerate(batches) if any(shards[i] == shard for i in b))
        for shard in range(40)
    }
    for n in range(len(batches)):
        assert sum(first[shard] <= n <= last[shard] for shard in range(40)) <= SHARDS_AT_ONCE
    other = stage_batches(durations, [stage(8, 1)], 1, 0, shards)
    assert other != batches
