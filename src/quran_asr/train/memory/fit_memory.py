"""The largest batch that fits into memory, found by trying, with the clips behind a step as they were."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch

from quran_asr.findings import Finding, QuranAsrError
from quran_asr.records import Segment
from quran_asr.runs.planning.batch_budget import budgets, words
from quran_asr.runs.schema import Recipe
from quran_asr.train.cpu import choose_threads
from quran_asr.train.data.batches import Clip, ClipSet
from quran_asr.train.memory.heaviest_batch import COMFORT, Shape, Trial, heaviest, in_words
from quran_asr.train.memory.resident import give_back
from quran_asr.train.model import build_model
from quran_asr.train.module import TrainingModule
from quran_asr.train.processes import Ranks
from quran_asr.train.tokenizer import Tokenizer

LENGTHS = (1.0, 0.5, 0.25)
"""Shares of the longest clip up to which the worst batch is tried: shorter clips make larger batches."""


@dataclass(frozen=True, slots=True)
class MemoryBudget:
    """A wish for the largest batch that fits."""

    bytes: int | None = None
    """Into so many; None: into what is free on the device of the training."""


def fit_memory(
    recipe: Recipe,
    tokenizer: Tokenizer,
    training: Sequence[Segment],
    device: torch.device,
    budget: MemoryBudget,
    on_finding: Callable[[Finding], None],
    ranks: Ranks = Ranks(),  # noqa: B008 - frozen
) -> Recipe:
    """The recipe with the largest batch of which the worst ones fit; all processes come to the same.

    Forward pass, backward pass and optimizer step are made with noise, as the recipe's model makes them. Of
    the batches that divide the effective batch, the largest is taken of which the worst batch of each length
    needs no more than `COMFORT` of the memory. On a CPU long batches are reckoned from short ones.

    Args:
        recipe: what is to be trained.
        tokenizer: of the training.
        training: the clips.
        device: where the training takes place.
        budget: the memory.
        on_finding: told what was tried, and what was chosen.
        ranks: the processes of the training.

    Raises:
        QuranAsrError: a single clip does not fit.
    """
    clips = [Clip(segment, tuple(tokenizer.encode(segment.text))) for segment in training]
    choices = budgets(recipe)
    number, free = _largest_that_fits(recipe, choices, clips, tokenizer, device, budget, ranks, on_finding)
    give_back()  # the model that was tried with
    if device.type == "cuda":
        torch.cuda.empty_cache()
    if free is None:
        on_finding(_note("how much memory is free is unknown here: the batch stays as it is"))
        return recipe
    number = max(ranks.gather(number))
    if number == len(choices):
        longest = max(training, key=lambda segment: segment.duration)
        raise QuranAsrError(
            f"a batch of one clip of {longest.duration:.1f} s does not fit into {in_words(free)}",
            where=longest.audio,
            remedy=f"leave long clips out, model.train_ds.max_duration={max(1.0, longest.duration / 2):.1f}; "
            "or take a smaller recipe (`quran-asr recipe list`)",
        )
    fitted: Recipe = choices[number]
    behind = fitted.model.train_ds.batch_size * fitted.trainer.accumulate_grad_batches * ranks.size
    on_finding(
        _note(
            f"{words(fitted)} is the largest batch that fits into {COMFORT:.0%} of {in_words(free)}; the "
            f"effective batch is {behind} as before"
        )
    )
    return fitted


def _largest_that_fits(
    recipe: Recipe,
    choices: Sequence[Recipe],
    clips: Sequence[Clip],
    tokenizer: Tokenizer,
    device: torch.device,
    budget: MemoryBudget,
    ranks: Ranks,
    on_finding: Callable[[Finding], None],
) -> tuple[int, int | None]:
    """The place of the first choice that fits, their number if none does; and the memory, None if unknown."""
    few = ClipSet(clips[:1], cache_bytes=0)
    model = build_model(recipe, tokenizer.folder)
    choose_threads(model)
    module = TrainingModule(model, recipe, few, few, lambda finding: None).to(device).train()
    trial = Trial(module, recipe, device)
    free = trial.free if budget.bytes is None else budget.bytes
    if free is None:
        return 0, None
    if device.type == "cpu" and budget.bytes is None:
        free //= ranks.size
    seconds, tokens = [clip.segment.duration for clip in clips], [len(clip.tokens) for clip in clips]
    tried: dict[Shape, int] = {}

    def fits(choice: Recipe) -> bool:
        for shape in worst_batches(choice, seconds, tokens):
            if shape not in tried:
                tried[shape], how = trial.needs(shape)
                on_finding(_note(f"{shape} take {in_words(tried[shape])} ({how})"))
            if tried[shape] > COMFORT * free:
                return False
        return True

    return bisect_left(choices, True, key=fits), free


def worst_batches(recipe: Recipe, seconds: Sequence[float], tokens: Sequence[int]) -> list[Shape]:
    """The batches that can take the most memory: of each length, but none that another surpasses in all.

    Args:
        recipe: its limits fill the batches.
        seconds: of each clip.
        tokens: of each clip.
    """
    worst: list[Shape] = []
    for shape in _of_each_length(recipe, seconds, tokens):
        if not any(
            one.padded_seconds >= shape.padded_seconds
            and one.lattice >= shape.lattice
            and max(one.seconds) >= max(shape.seconds)
            for one in worst
        ):
            worst.append(shape)
    return worst


def _of_each_length(recipe: Recipe, seconds: Sequence[float], tokens: Sequence[int]) -> Iterator[Shape]:
    for share in LENGTHS:
        chosen = [i for i, length in enumerate(seconds) if length <= share * max(seconds)]
        if chosen:
            yield from heaviest(recipe, [seconds[i] for i in chosen], [tokens[i] for i in chosen])


def _note(message: str) -> Finding:
    return Finding("note", "fit-memory", "", message, "")
