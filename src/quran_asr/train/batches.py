"""Training batches: clips of similar length together, every clip once an epoch, a position to resume from."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from quran_asr import audio
from quran_asr.findings import QuranAsrError
from quran_asr.records import SAMPLE_RATE, Segment
from quran_asr.runs.schema import Recipe
from quran_asr.train.augment import augment
from quran_asr.train.tokenizer import Tokenizer

if TYPE_CHECKING:
    from quran_asr.records import Samples

JITTER = 0.1
"""Share by which lengths are blurred before sorting, so that batches differ from epoch to epoch."""


@dataclass(frozen=True, slots=True)
class Clip:
    """A segment with the tokens that are to be heard in it."""

    segment: Segment
    tokens: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Batch:
    """What one step works on; padding is on the right and zero."""

    audio: Tensor
    """float32 [B, samples]."""
    audio_lengths: Tensor
    """int64 [B], samples."""
    tokens: Tensor
    """int64 [B, U]."""
    token_lengths: Tensor
    """int64 [B]."""
    indices: tuple[int, ...]
    """Places of the clips in the set they come from."""
    unreadable: tuple[tuple[int, str], ...] = ()
    """Clips that should be here, and why their audio could not be read."""

    def to(self, device: torch.device) -> Batch:
        return self._with(lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> Batch:
        """Called by the DataLoader where a GPU is fed."""
        return self._with(lambda tensor: tensor.pin_memory())

    def _with(self, move: Callable[[Tensor], Tensor]) -> Batch:
        return replace(
            self,
            audio=move(self.audio),
            audio_lengths=move(self.audio_lengths),
            tokens=move(self.tokens),
            token_lengths=move(self.token_lengths),
        )

    @property
    def seconds(self) -> float:
        """Audio without padding."""
        return float(self.audio_lengths.sum()) / SAMPLE_RATE

    @property
    def padding_share(self) -> float:
        """Share of the samples that is padding."""
        return 1.0 - float(self.audio_lengths.sum()) / max(1, self.audio.numel())


Item: TypeAlias = "tuple[int, Samples | QuranAsrError, tuple[int, ...]]"
"""Place of a clip, its samples or why there are none, its tokens."""


class ClipSet(Dataset[Item]):
    """Clips with their audio; decoded audio stays in memory up to a budget.

    Decoding Opus on one core is slower than training a small model on it, so the second epoch should not
    decode again. Training audio is kept in 16 bits of each clip's own peak: half the memory, and levels
    above 1 survive. Other audio is kept as it was read, so that every validation hears the same.
    """

    def __init__(self, clips: Sequence[Clip], *, cache_bytes: int, recipe: Recipe | None = None) -> None:
        """`recipe` is given for training sets, whose audio its `quran.augment` changes at every visit."""
        self.clips = tuple(clips)
        self.recipe = recipe
        self._cache: dict[int, tuple[np.ndarray, float]] = {}
        self._room = cache_bytes

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, index: int) -> Item:
        """A clip that cannot be read gives its error instead of ending a training at hour nine."""
        try:
            samples = self._samples(index)
        except QuranAsrError as error:
            return index, error, self.clips[index].tokens
        if self.recipe is not None and self.recipe.quran.augment is not None:
            samples = augment(samples, self.recipe.quran.augment)
        return index, samples, self.clips[index].tokens

    def _samples(self, index: int) -> Samples:
        kept = self._cache.get(index)
        if kept is not None:
            stored, step = kept
            return stored * np.float32(step)
        segment = self.clips[index].segment
        samples = audio.read(segment.audio, segment.offset, segment.duration)
        stored, step = (samples, 1.0) if self.recipe is None else _in_16_bits(samples)
        if stored.nbytes <= self._room:
            self._room -= stored.nbytes
            self._cache[index] = stored, step
        return samples


def _in_16_bits(samples: Samples) -> tuple[np.ndarray, float]:
    """Whole numbers, and what to multiply them by."""
    step = max(float(np.abs(samples).max(initial=0.0)), 1e-9) / 32767
    return np.round(samples / np.float32(step)).astype(np.int16), step


def collate(items: Sequence[Item]) -> Batch:
    """Pad clips to the longest of the batch; what could not be read is listed in it."""
    heard = [(index, clip, tokens) for index, clip, tokens in items if not isinstance(clip, QuranAsrError)]
    unreadable = [(index, clip.what) for index, clip, _ in items if isinstance(clip, QuranAsrError)]
    lengths = torch.tensor([len(samples) for _, samples, _ in heard], dtype=torch.int64)
    padded = torch.zeros(len(heard), int(lengths.max()) if heard else 0)
    for row, (_, samples, _) in zip(padded, heard, strict=True):
        row[: len(samples)] = torch.from_numpy(samples)
    token_lengths = torch.tensor([len(tokens) for _, _, tokens in heard], dtype=torch.int64)
    tokens = torch.zeros(len(heard), int(token_lengths.max()) if heard else 0, dtype=torch.int64)
    for row, (_, _, spoken) in zip(tokens, heard, strict=True):
        row[: len(spoken)] = torch.tensor(spoken, dtype=torch.int64)
    indices = tuple(index for index, _, _ in heard)
    return Batch(padded, lengths, tokens, token_lengths, indices, tuple(unreadable))


def plan_epoch(
    durations: Sequence[float],
    *,
    batch_size: int,
    batch_seconds: float | None,
    longest: float | None,
    seed: int,
    epoch: int,
) -> list[list[int]]:
    """Batches of one epoch as places in `durations`, shuffled; every admitted clip stands in exactly one.

    Args:
        durations: seconds of each clip.
        batch_size: clips a batch; with `batch_seconds`, the most clips a batch.
        batch_seconds: padded seconds a batch, or None. A clip longer than this is a batch of its own.
        longest: clips longer than this wait for a later epoch (the curriculum); None admits all.
        seed, epoch: what the order depends on, and nothing else.
    """
    random_order = random.Random(f"{seed}/{epoch}")
    admitted = [i for i, seconds in enumerate(durations) if longest is None or seconds <= longest]
    blurred = {i: durations[i] * (1 + random_order.uniform(-JITTER, JITTER)) for i in admitted}
    admitted.sort(key=lambda i: blurred[i])
    batches: list[list[int]] = []
    current: list[int] = []
    widest = 0.0
    for i in admitted:
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
    random_order.shuffle(batches)
    return batches


class EpochBatches:
    """The batch sampler of one epoch: a list of batches, from a position on.

    Its length is that of the whole epoch: Lightning counts the batches done before a resume too.
    """

    def __init__(self, batches: Sequence[list[int]], skip: int = 0) -> None:
        self._batches = batches
        self._skip = skip

    def __iter__(self) -> Iterator[list[int]]:
        return iter(self._batches[self._skip :])

    def __len__(self) -> int:
        return len(self._batches)


def training_loader(
    clips: ClipSet, recipe: Recipe, *, epoch: int, longest: float | None, skip: int, pin: bool
) -> DataLoader[Item]:
    """The batches of one epoch, without the first `skip` (which a resumed run has done)."""
    ds = recipe.model.train_ds
    batches = plan_epoch(
        [clip.segment.duration for clip in clips.clips],
        batch_size=ds.batch_size,
        batch_seconds=ds.batch_duration,
        longest=longest,
        seed=recipe.quran.seed,
        epoch=epoch,
    )
    return _loader(clips, EpochBatches(batches, skip), ds.num_workers, pin)


def validation_loader(clips: ClipSet, *, batch_size: int, num_workers: int, pin: bool) -> DataLoader[Item]:
    """The same batches every time, sorted by length."""
    order = sorted(range(len(clips)), key=lambda i: clips.clips[i].segment.duration)
    batches = [order[i : i + batch_size] for i in range(0, len(order), batch_size)]
    return _loader(clips, EpochBatches(batches), num_workers, pin)


def tokenize(segments: Sequence[Segment], tokenizer: Tokenizer) -> list[Clip]:
    """Clips in the order of the segments.

    Raises:
        QuranAsrError: a text that the tokenizer does not know, with the clip's name.
    """
    clips = []
    unknown = tokenizer.processor.unk_id()
    for segment in segments:
        tokens = tokenizer.encode(segment.text)
        if unknown in tokens:
            raise QuranAsrError(
                f"a text has characters that the tokenizer does not know: {segment.text}",
                where=segment.audio,
                remedy="check `quran.spelling` and the manifest's `text`",
            )
        clips.append(Clip(segment, tuple(tokens)))
    return clips


def _loader(clips: ClipSet, batches: EpochBatches, workers: int, pin: bool) -> DataLoader[Item]:
    """A loader of `Batch`es (torch types it by what the set holds)."""
    return DataLoader(clips, batch_sampler=batches, collate_fn=collate, num_workers=workers, pin_memory=pin)
