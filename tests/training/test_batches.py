from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from quran_asr.config.recipe import load_recipe
from quran_asr.config.schema import Recipe
from quran_asr.errors import QuranAsrError
from quran_asr.experiments.training_clips import with_windows
from quran_asr.records import Segment
from quran_asr.training.data.batches import Batch, ClipSet, collate, tokenize, training_loader
from quran_asr.training.data.epoch import EpochBatches, plan_epoch
from quran_asr.training.tokenizer import Tokenizer

DURATIONS = st.lists(st.floats(0.2, 40.0), min_size=1, max_size=120)


def training_set(recipe: Recipe) -> dict[str, Any]:
    return {"training": True, "augment": recipe.quran.augment, "seed": recipe.quran.seed}


@given(DURATIONS, st.integers(1, 20), st.floats(5, 60), st.integers(0, 5), st.integers(0, 5))
def test_batches_filled_by_seconds_hold_every_clip_once_and_keep_the_budget(
    durations: list[float], most: int, budget: float, seed: int, epoch: int
) -> None:
    batches = plan_epoch(
        durations, batch_size=most, batch_seconds=budget, longest=None, seed=seed, epoch=epoch
    )
    assert sorted(i for batch in batches for i in batch) == list(range(len(durations)))
    for batch in batches:
        assert 1 <= len(batch) <= most
        padded = max(durations[i] for i in batch) * len(batch)
        assert padded <= budget + 1e-9 or len(batch) == 1


@given(DURATIONS, st.integers(1, 20))
def test_batches_of_a_fixed_size_are_as_many_as_planned(durations: list[float], size: int) -> None:
    batches = plan_epoch(durations, batch_size=size, batch_seconds=None, longest=None, seed=0, epoch=0)
    assert len(batches) == math.ceil(len(durations) / size)
    assert sorted(i for batch in batches for i in batch) == list(range(len(durations)))


def test_the_order_follows_from_seed_and_epoch_alone() -> None:
    def order(seed: int, epoch: int) -> list[list[int]]:
        durations = [1 + i % 7 for i in range(100)]
        return plan_epoch(durations, batch_size=8, batch_seconds=20, longest=None, seed=seed, epoch=epoch)

    assert order(1, 2) == order(1, 2)
    assert order(1, 2) != order(1, 3)
    assert order(1, 2) != order(2, 2)


def test_clips_of_like_length_lie_together() -> None:
    durations = [1 + (i * 37 % 290) / 10 for i in range(1000)]
    batches = plan_epoch(durations, batch_size=64, batch_seconds=120, longest=None, seed=0, epoch=0)
    seconds = sum(durations)
    padded = sum(max(durations[i] for i in batch) * len(batch) for batch in batches)
    assert 1 - seconds / padded < 0.05  # in a random order half would be padding


def test_a_curriculum_admits_short_clips_only() -> None:
    batches = plan_epoch([1, 2, 3, 4], batch_size=8, batch_seconds=None, longest=2.5, seed=0, epoch=0)
    assert sorted(i for batch in batches for i in batch) == [0, 1]


def test_a_resumed_epoch_continues_behind_what_was_done() -> None:
    batches = [[0], [1], [2], [3]]
    rest = EpochBatches(batches[3:], done=3)
    assert list(rest) == [[3]]
    assert len(rest) == 4, "Lightning counts what was done before"


def test_padding_is_on_the_right_and_counted(
    segments: list[Segment], tokenizer: Tokenizer, tiny: Recipe
) -> None:
    clips = ClipSet(tokenize(segments[:3], tokenizer), cache_bytes=0)
    batch = collate([clips[i] for i in range(3)])
    assert batch.audio.shape == (3, int(batch.audio_lengths.max()))
    for row, length in zip(batch.audio, batch.audio_lengths.tolist(), strict=True):
        assert torch.count_nonzero(row[length:]) == 0
        assert torch.count_nonzero(row[:length]) > 0
    assert batch.padding_share == pytest.approx(1 - float(batch.audio_lengths.sum()) / batch.audio.numel())
    assert batch.seconds == pytest.approx(sum(s.duration for s in segments[:3]), abs=0.01)


def test_audio_kept_in_memory_is_what_the_file_holds(
    segments: list[Segment], tokenizer: Tokenizer, tiny: Recipe
) -> None:
    kept = ClipSet(tokenize(segments[:1], tokenizer), cache_bytes=1 << 30)
    first = kept[0][1]
    again = kept[0][1]
    assert not isinstance(first, QuranAsrError)
    assert not isinstance(again, QuranAsrError)
    assert (first == again).all(), "a validation has the same samples every time"

    training = ClipSet(
        tokenize(segments[:1], tokenizer), cache_bytes=1 << 30, training=True, augment=tiny.quran.augment
    )
    assert not isinstance(training[0][1], QuranAsrError)
    in_16_bits = training[0][1]
    assert not isinstance(in_16_bits, QuranAsrError)
    assert abs(first - in_16_bits).max() <= abs(first).max() / 32767


def test_a_clip_that_cannot_be_read_is_listed_and_the_others_are_trained_on(
    segments: list[Segment], tokenizer: Tokenizer, tiny: Recipe
) -> None:
    broken = replace(segments[0], audio="/nowhere/112001.mp3")
    clips = ClipSet(
        tokenize([broken, *segments[1:3]], tokenizer),
        cache_bytes=0,
        training=True,
        augment=tiny.quran.augment,
    )
    batch = collate([clips[i] for i in range(3)])
    assert batch.indices == (1, 2)
    assert len(batch.unreadable) == 1
    assert batch.unreadable == ((0, "no such file"),)
    nothing = collate([clips[0]])
    assert nothing.indices == ()


def test_the_loader_gives_batches_of_the_plan(
    segments: list[Segment], tokenizer: Tokenizer, tiny: Recipe
) -> None:
    clips = ClipSet(
        tokenize(segments, tokenizer), cache_bytes=1 << 30, training=True, augment=tiny.quran.augment
    )
    durations = [segment.duration for segment in segments]
    planned = plan_epoch(durations, batch_size=4, batch_seconds=None, longest=None, seed=0, epoch=0)
    loader = training_loader(clips, EpochBatches(planned), num_workers=0, seed=0, epoch=0, pin=False)
    assert [list(batch.indices) for batch in loader] == planned


@pytest.mark.slow
def test_changes_of_the_audio_follow_from_seed_epoch_and_clip_in_any_process(
    segments: list[Segment], tokenizer: Tokenizer, tiny: Recipe
) -> None:
    everything = [f"{kind}_probability=0.5" for kind in ("lowpass", "noise", "room", "codec")]
    overrides = ["gain_db=6.0", "equalizer_db=6.0", "speed=[0.9,1.0,1.1]", *everything]
    augment = load_recipe("base", [f"quran.augment.{override}" for override in overrides]).quran.augment
    changed = replace(tiny, quran=replace(tiny.quran, augment=augment))

    def batches_of(epoch: int, workers: int) -> list[Batch]:
        clips = ClipSet(
            tokenize(segments, tokenizer), cache_bytes=1 << 30, training=True, augment=changed.quran.augment
        )
        batches = EpochBatches([[0, 1, 2], [3, 4]])
        return list(training_loader(clips, batches, num_workers=workers, seed=1, epoch=epoch, pin=False))

    first = batches_of(0, 0)
    assert all(torch.equal(a.audio, b.audio) for a, b in zip(first, batches_of(0, 2), strict=True))
    assert not any(
        a.audio.shape == b.audio.shape and torch.equal(a.audio, b.audio)
        for a, b in zip(first, batches_of(1, 0), strict=True)
    )


def test_the_audio_of_windows_is_that_of_their_verses(
    segments: list[Segment], tokenizer: Tokenizer, tiny: Recipe
) -> None:
    augment = replace(tiny.quran.augment or load_recipe("base").quran.augment, windows=2)
    recipe = replace(tiny, quran=replace(tiny.quran, augment=augment))
    both = with_windows(segments, recipe.quran, recipe.model.train_ds.max_duration)
    joined = [segment for segment in both if segment.parts]
    assert list(both[: len(segments)]) == segments
    assert joined
    clips = ClipSet(tokenize(both, tokenizer), cache_bytes=1 << 30)
    place = both.index(joined[0])
    alone = [segments.index(part) for part in joined[0].parts]
    assert clips.clips[place].tokens == sum((clips.clips[i].tokens for i in alone), ())
    for _ in range(2):  # decoded, then kept
        samples = clips[place][1]
        assert np.array_equal(samples, np.concatenate([clips[i][1] for i in alone]))
    assert len(clips.store) == len(segments)  # nothing is kept twice


def test_a_text_that_the_tokenizer_does_not_know_is_named(
    segments: list[Segment], tokenizer: Tokenizer
) -> None:
    with pytest.raises(QuranAsrError, match="does not know") as refused:
        tokenize([replace(segments[0], text="قل x")], tokenizer)
    assert refused.value.where == segments[0].audio
