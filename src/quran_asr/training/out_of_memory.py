"""Out of memory: continue from the step before with smaller batches and the same effective batch."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from dataclasses import dataclass, replace
from types import TracebackType

import torch

from quran_asr.config.schema import Recipe
from quran_asr.errors import Finding, QuranAsrError
from quran_asr.records import Segment
from quran_asr.training.data.batches import Batch, ClipSet
from quran_asr.training.distributed import Ranks


def budgets(recipe: Recipe) -> list[Recipe]:
    """The recipe with every batch that divides its effective batch without rest, the largest first.

    Clips a batch times accumulation is the same in all of them. Where batches are filled by seconds, so is
    seconds a batch times accumulation. An interval of validation that counts batches is stretched along.
    """
    data, trainer = recipe.model.train_ds, recipe.trainer
    behind_a_step = data.batch_size * trainer.accumulate_grad_batches
    return [
        _with_accumulation(recipe, behind_a_step // clips, clips)
        for clips in range(behind_a_step, 0, -1)
        if behind_a_step % clips == 0
    ]


def half_batch(recipe: Recipe) -> Recipe | None:
    """The recipe with the largest batch of at most half the clips; None where a batch is one clip already."""
    most = recipe.model.train_ds.batch_size // 2
    return next((one for one in budgets(recipe) if one.model.train_ds.batch_size <= most), None)


def batch_overrides(recipe: Recipe) -> str:
    """The batch of a recipe as overrides."""
    data = recipe.model.train_ds
    seconds = "" if data.batch_duration is None else f" model.train_ds.batch_duration={data.batch_duration:g}"
    return (
        f"model.train_ds.batch_size={data.batch_size}{seconds} "
        f"trainer.accumulate_grad_batches={recipe.trainer.accumulate_grad_batches}"
    )


def _with_accumulation(recipe: Recipe, accumulation: int, clips: int) -> Recipe:
    data, trainer = recipe.model.train_ds, recipe.trainer
    times = accumulation / trainer.accumulate_grad_batches
    seconds = None if data.batch_duration is None else data.batch_duration / times
    interval = trainer.val_check_interval
    if isinstance(interval, int):
        interval = max(1, round(interval * times))
    return replace(
        recipe,
        model=replace(recipe.model, train_ds=replace(data, batch_size=clips, batch_duration=seconds)),
        trainer=replace(trainer, accumulate_grad_batches=accumulation, val_check_interval=interval),
    )


Limit = Callable[[Batch], None]
"""Called with every batch before its forward pass; raises `torch.OutOfMemoryError` if it is too much."""


LACKING = (
    "can't allocate memory",  # torch's allocator on a CPU
    "could not create a primitive",  # all that oneDNN reports where it gets no memory
    "bad_alloc",
    "CUDA error: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
)
"""Messages of a plain `RuntimeError` that mean a lack of memory."""


class DoesNotFit(Exception):  # noqa: N818 - not an error yet: a smaller batch may fit
    """A training batch was out of memory. The optimizer step that it belongs to was not made."""

    def __init__(self, indices: tuple[int, ...], why: str) -> None:
        """`indices`: the clips of the batch."""
        super().__init__(why)
        self.indices = indices
        self.why = why


@dataclass(slots=True)
class OomGuard:
    """Context of work on training batches for which the memory may not suffice.

    Raises on exit:
        DoesNotFit: the work was out of memory, and this process trains alone.
        QuranAsrError: it was, and other processes wait for this one's gradients: in the middle of their
            exchange nothing informs them that there are none.
    """

    ranks: Ranks
    limit: Limit | None = None
    batch: Batch | None = None
    """At hand."""

    def begin(self, batch: Batch) -> None:
        """What comes next is done for this batch."""
        self.batch = batch

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None or not is_out_of_memory(error):
            return
        traceback.clear_frames(trace)  # they hold the tensors that are to be freed
        why = next(iter(str(error).splitlines()), "") or "out of memory"
        if self.ranks.size > 1:
            raise QuranAsrError(
                f"a batch does not fit into memory ({why[:200]})",
                where="model.train_ds.batch_size",
                remedy="`quran-asr train --resume RUN --fit-memory` finds one that fits, and continues",
            ) from None
        indices = () if self.batch is None else self.batch.indices
        self.batch = None
        raise DoesNotFit(indices, why) from None

    def admit(self, batch: Batch) -> None:
        """Ask the limit that was given, if one was."""
        if self.limit is not None:
            self.limit(batch)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that a GPU or the machine has no memory left."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(message in str(error) for message in LACKING)


def with_smaller_batches(
    recipe: Recipe, clips: ClipSet, failure: DoesNotFit, step: int, ranks: int
) -> tuple[Recipe, Finding]:
    """The recipe with half the batch and the same effective batch, and a finding about it.

    Raises:
        QuranAsrError: a single clip was too much, or a batch holds no more than one.
    """
    segments = [clips.clips[i].segment for i in failure.indices]
    smaller = half_batch(recipe) if len(segments) > 1 else None
    if smaller is None:
        raise _one_clip_too_much(segments, failure)
    longest = max(segment.duration for segment in segments)
    behind = recipe.model.train_ds.batch_size * recipe.trainer.accumulate_grad_batches * ranks
    what = (
        f"{len(segments)} clips of up to {longest:.1f} s were out of memory after step {step:,}: continuing "
        f"from that step with {batch_overrides(smaller)}; the effective batch of {behind} is kept, and "
        f"recipe-to-step-{step}.yaml is the recipe until here ({failure.why[:200]})"
    )
    return smaller, Finding("warning", "out-of-memory", "model.train_ds.batch_size", what, "")


def _one_clip_too_much(segments: list[Segment], failure: DoesNotFit) -> QuranAsrError:
    if not segments:
        return QuranAsrError(
            f"out of memory without any clip: {failure.why}", remedy="train a smaller recipe"
        )
    longest = max(segments, key=lambda segment: segment.duration)
    shorter = max(1.0, 0.75 * longest.duration)
    return QuranAsrError(
        f"one clip of {longest.duration:.1f} s alone does not fit into memory ({failure.why[:200]})",
        where=longest.audio,
        remedy=f"leave longer clips out in a new run, model.train_ds.max_duration={shorter:.1f}; or take a "
        "smaller recipe (`quran-asr recipe list`); what was trained is in the run's last.ckpt",
    )
