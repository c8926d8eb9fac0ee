"""Padded batches of clips with their audio, and the data loaders."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from quran_asr import audio
from quran_asr.config.schema import Augment
from quran_asr.errors import QuranAsrError
from quran_asr.records import SAMPLE_RATE, Segment
from quran_asr.shards import member_of
from quran_asr.training.data.audio_cache import FORKS, AudioCache
from quran_asr.training.data.augmentation import augment as augmented
from quran_asr.training.data.augmentation import draw_timing, impulse_responses, without_changes
from quran_asr.training.data.epoch import EpochBatches
from quran_asr.training.distributed import Ranks
from quran_asr.training.tokenizer import Tokenizer

if TYPE_CHECKING:
    from quran_asr.records import Samples


@dataclass(frozen=True, slots=True)
class Clip:
    """A segment with its tokens."""

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
    samples: tuple[int, ...] = ()
    """`audio_lengths` for this process to read, wherever the tensors lie: nobody waits for a GPU."""
    labels: tuple[int, ...] = ()
    """`token_lengths`, likewise."""

    def __post_init__(self) -> None:
        if not self.samples:
            object.__setattr__(self, "samples", tuple(self.audio_lengths.tolist()))
            object.__setattr__(self, "labels", tuple(self.token_lengths.tolist()))

    def to(self, device: torch.device) -> Batch:
        return self._with(lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> Batch:
        """Called by the DataLoader where a GPU is fed."""
        return self._with(lambda tensor: tensor.pin_memory())

    def halves(self) -> tuple[Batch, Batch]:
        """The first clips and the others, each padded to its own longest."""
        middle = len(self.indices) // 2
        return self._rows(slice(0, middle)), self._rows(slice(middle, None))

    def repeated(self, times: int) -> Batch:
        """All clips, and all of them again."""
        moved = self._with(lambda tensor: tensor.repeat(times, *[1] * (tensor.ndim - 1)))
        return replace(
            moved, indices=self.indices * times, samples=self.samples * times, labels=self.labels * times
        )

    def _rows(self, rows: slice) -> Batch:
        lengths, tokens = self.audio_lengths[rows], self.token_lengths[rows]
        return Batch(
            self.audio[rows, : int(lengths.max())],
            lengths,
            self.tokens[rows, : int(tokens.max())],
            tokens,
            self.indices[rows],
        )

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
        return sum(self.samples) / SAMPLE_RATE

    @property
    def padding_share(self) -> float:
        """Share of the samples that is padding."""
        return 1.0 - sum(self.samples) / max(1, self.audio.numel())


Item: TypeAlias = "tuple[int, Samples | QuranAsrError, tuple[int, ...]]"
"""Place of a clip, its samples or why there are none, its tokens."""


class ClipSet(Dataset[Item]):
    """Clips with their audio; decoded audio stays in memory up to a budget, whoever decoded it.

    Decoding is slower than training, so the second epoch should not decode again. Training audio is kept in
    16 bits, other audio as it was read, so that every validation uses the same samples. What does not fit is
    decoded at each visit.
    """

    def __init__(
        self,
        clips: Sequence[Clip],
        *,
        cache_bytes: int,
        training: bool = False,
        augment: Augment | None = None,
        seed: int = 0,
    ) -> None:
        """A set of clips.

        Args:
            clips: in the order of their indices.
            cache_bytes: most memory for decoded audio.
            training: keep the audio in 16 bits.
            augment: changes of the audio, drawn again at every visit.
            seed: of the simulated rooms.
        """
        self.clips = tuple(clips)
        self.settings = augment
        self.augment = augment
        """Changes of the clips in the current epoch."""
        self.changes_follow = ""
        """Seed and epoch: with the clip they decide what its audio is changed by, in whatever process."""
        self.rooms: tuple[Samples, ...] = ()
        if augment is not None and augment.room_probability:
            self.rooms = impulse_responses(augment.room_seconds, seed)
        stretches = dict.fromkeys(part for clip in self.clips for part in _parts(clip.segment))
        self._places = {stretch: place for place, stretch in enumerate(stretches)}
        kind = np.int16 if training else np.float32
        self.shards = _shards(self.clips)
        """Number of the shard that holds each clip; empty where all are files of their own."""
        self.store = AudioCache([stretch.duration for stretch in stretches], cache_bytes, kind)

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, index: int) -> Item:
        """A clip that cannot be read gives its error instead of ending a training at hour nine."""
        try:
            clips = [self._samples(part) for part in _parts(self.clips[index].segment)]
        except QuranAsrError as error:
            return index, error, self.clips[index].tokens
        samples = np.concatenate(clips) if len(clips) > 1 else clips[0]
        if self.augment is not None:
            drawn = random.Random(f"{self.changes_follow}/{index}")
            samples = augmented(samples, self.augment, drawn, self.rooms)
        return index, samples, self.clips[index].tokens

    def seconds(self, seed: int, epoch: int) -> list[float]:
        """How long each clip is in an epoch, once its changes have been made."""
        lengths = [clip.segment.duration for clip in self.clips]
        if self.augment is None:
            return lengths
        return [
            draw_timing(self.augment, random.Random(f"{seed}/{epoch}/{index}")).seconds(length)
            for index, length in enumerate(lengths)
        ]

    def set_plain(self, plain: bool) -> None:
        """Switch the changes of the audio off or on."""
        self.augment = without_changes(self.settings) if plain and self.settings else self.settings

    def _samples(self, stretch: Segment) -> Samples:
        place = self._places[stretch]
        kept = self.store.get(place)
        if kept is not None:
            return kept
        return self.store.put(place, audio.read(stretch.audio, stretch.offset, stretch.duration))


def _parts(segment: Segment) -> tuple[Segment, ...]:
    """The stretches of recordings behind a clip."""
    return segment.parts or (segment,)


def _shards(clips: Sequence[Clip]) -> tuple[int, ...]:
    members = [member_of(clip.segment.audio) for clip in clips]
    names = [member.shard if member else "" for member in members]
    numbers = {name: number for number, name in enumerate(dict.fromkeys(names))}
    return tuple(numbers[name] for name in names) if any(members) else ()


def collate(items: Sequence[Item]) -> Batch:
    """Pad clips to the longest of the batch; what could not be read is listed in it."""
    clips = [(index, clip, tokens) for index, clip, tokens in items if not isinstance(clip, QuranAsrError)]
    unreadable = [(index, clip.what) for index, clip, _ in items if isinstance(clip, QuranAsrError)]
    lengths = torch.tensor([len(samples) for _, samples, _ in clips], dtype=torch.int64)
    padded = torch.zeros(len(clips), int(lengths.max()) if clips else 0)
    for row, (_, samples, _) in zip(padded, clips, strict=True):
        row[: len(samples)] = torch.from_numpy(samples)
    token_lengths = torch.tensor([len(tokens) for _, _, tokens in clips], dtype=torch.int64)
    tokens = torch.zeros(len(clips), int(token_lengths.max()) if clips else 0, dtype=torch.int64)
    for row, (_, _, reference) in zip(tokens, clips, strict=True):
        row[: len(reference)] = torch.tensor(reference, dtype=torch.int64)
    indices = tuple(index for index, _, _ in clips)
    return Batch(padded, lengths, tokens, token_lengths, indices, tuple(unreadable))


def training_loader(
    clips: ClipSet, batches: EpochBatches, *, num_workers: int, seed: int, epoch: int, pin: bool
) -> DataLoader[Item]:
    """The batches of one epoch. Changes of the audio follow from seed, epoch and clip alone."""
    clips.changes_follow = f"{seed}/{epoch}"
    return _loader(clips, batches, num_workers, pin)


def validation_loader(
    clips: ClipSet, *, batch_size: int, num_workers: int, pin: bool, ranks: Ranks
) -> DataLoader[Item]:
    """The same batches every time, sorted by length; every process has equally many, the last ones empty."""
    order = sorted(range(len(clips)), key=lambda i: clips.clips[i].segment.duration)
    batches = [order[i : i + batch_size] for i in range(0, len(order), batch_size)]
    batches += [[] for _ in range(-len(batches) % ranks.size)]
    return _loader(clips, EpochBatches(batches[ranks.rank :: ranks.size]), num_workers, pin)


def tokenize(segments: Sequence[Segment], tokenizer: Tokenizer) -> list[Clip]:
    """Clips in the order of the segments.

    Raises:
        QuranAsrError: a text that the tokenizer does not know, with the clip's name.
    """
    clips = []
    for segment in segments:
        tokens = tokenizer.encode(segment.text)
        if tokenizer.unknown in tokens:
            raise QuranAsrError(
                f"a text has characters that the tokenizer does not know: {segment.text}",
                where=segment.audio,
                remedy="check `quran.spelling` and the manifest's `text`",
            )
        clips.append(Clip(segment, tuple(tokens)))
    return clips


def _loader(clips: ClipSet, batches: EpochBatches, workers: int, pin: bool) -> DataLoader[Item]:
    """A loader of `Batch`es (torch types it by what the set holds), two ahead in each worker.

    Workers are forked, so that they share what the set keeps. Where a GPU is fed, batches lie in page-locked
    memory, so that nothing waits while one is copied there. The loader's generator is its own: one that is
    made again on resume must not draw from the one of dropout.
    """
    return DataLoader(
        clips,
        batch_sampler=batches,
        collate_fn=collate,
        num_workers=workers,
        multiprocessing_context="fork" if workers and FORKS else None,
        pin_memory=pin,
        generator=torch.Generator(),
    )
