"""Decoded audio is shared by forked workers, and only as much of it as there is room for."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from quran_asr import audio
from quran_asr.config.schema import Recipe
from quran_asr.records import SAMPLE_RATE, Segment
from quran_asr.training.data.audio_cache import AudioCache
from quran_asr.training.data.batches import Batch, ClipSet, tokenize, training_loader
from quran_asr.training.data.epoch import EpochBatches
from quran_asr.training.tokenizer import Tokenizer


@given(st.lists(st.integers(1, 400), min_size=1, max_size=30), st.integers(0, 20_000), st.booleans())
def test_later_visits_give_the_same_samples_and_no_more_is_kept_than_asked(
    lengths: list[int], room: int, whole: bool
) -> None:
    kind = np.int16 if whole else np.float32
    store = AudioCache([length / SAMPLE_RATE for length in lengths], room, kind)
    draw = np.random.default_rng(0)
    clips = [draw.uniform(-3, 3, length).astype(np.float32) for length in lengths]
    stored = [store.put(i, clip) for i, clip in enumerate(clips)]
    kept = [store.get(i) for i in range(len(clips))]
    for clip, first, later in zip(clips, stored, kept, strict=True):
        assert abs(first - clip).max() <= (3 / 32767 if whole else 0)
        assert later is None or (later.dtype == np.float32 and np.array_equal(first, later))
    held = sum(length for length, later in zip(lengths, kept, strict=True) if later is not None)
    assert held * np.dtype(kind).itemsize <= room
    assert sum(later is not None for later in kept) == len(store)


def test_a_clip_longer_than_in_its_manifest_is_not_kept_and_spoils_no_other() -> None:
    store = AudioCache([0.01, 0.01], 1 << 20, np.float32)
    store.put(1, np.full(160, 2, np.float32))
    assert len(store.put(0, np.ones(1000, np.float32))) == 1000
    assert store.get(0) is None
    assert (store.get(1) == 2).all()


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_the_second_epoch_decodes_nothing_whoever_decoded_the_first(
    segments: list[Segment], tokenizer: Tokenizer, tiny: Recipe, tmp_path: Path, workers: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """A file notes each decoding: memory of a worker would be gone with it."""
    note, read = tmp_path / "decoded", audio.read

    def noted(path: str, offset: float, duration: float) -> object:
        with note.open("a") as file:
            file.write("x")
        return read(path, offset, duration)

    monkeypatch.setattr(audio, "read", noted)

    def batches_of(clips: ClipSet, epoch: int) -> Sequence[Batch]:
        batches = EpochBatches([[i, i + 1] for i in range(0, len(segments), 2)])
        return list(training_loader(clips, batches, num_workers=workers, seed=0, epoch=epoch, pin=False))

    clips = ClipSet(tokenize(segments, tokenizer), cache_bytes=1 << 30, training=True)
    first, second = batches_of(clips, 0), batches_of(clips, 1)
    assert note.stat().st_size == len(segments)
    assert all(torch.equal(a.audio, b.audio) for a, b in zip(first, second, strict=True))
    half = ClipSet(clips.clips, cache_bytes=clips.store.bytes // 2, training=True)
    batches_of(half, 0), batches_of(half, 1)
    assert len(segments) < note.stat().st_size - len(segments) < 2 * len(segments)
