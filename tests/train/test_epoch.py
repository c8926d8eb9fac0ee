"""Every clip once an epoch: on one process or several, with one set of settings or a change in the middle."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from quran_asr.train.epoch import Stage, plan_epoch, repeated_clips, share_out, stage_batches

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


def test_single_clips_come_twice_rather_than_hold_a_process_up() -> None:
    assert share_out([[0], [1], [2]], 2) == [[[0], [2]], [[1], [0]]]
    assert repeated_clips([[0], [1], [2]], 2) == 1
