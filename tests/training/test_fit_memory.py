"""`--fit-memory`: the largest batch that fits, and the clips behind a step as they were."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from quran_asr.config.recipe import load_recipe
from quran_asr.config.schema import Recipe
from quran_asr.errors import Finding, QuranAsrError
from quran_asr.records import Segment
from quran_asr.training.memory import COMFORT, MemoryBudget, fit_memory, worst_batches
from quran_asr.training.out_of_memory import budgets, half_batch
from quran_asr.training.tokenizer import Tokenizer

BASE = load_recipe("quickstart", ["quran.vocabulary_size=48"])


def recipe(clips: int, accumulation: int, seconds: float | None = None) -> Recipe:
    data = replace(BASE.model.train_ds, batch_size=clips, batch_duration=seconds)
    trainer = replace(BASE.trainer, accumulate_grad_batches=accumulation)
    return replace(BASE, model=replace(BASE.model, train_ds=data), trainer=trainer)


@given(st.integers(1, 96), st.integers(1, 8), st.none() | st.floats(1.0, 900.0))
def test_a_smaller_batch_keeps_the_effective_batch(
    clips: int, accumulation: int, seconds: float | None
) -> None:
    given_recipe = recipe(clips, accumulation, seconds)
    choices = budgets(given_recipe)
    sizes = [one.model.train_ds.batch_size for one in choices]
    assert sizes == sorted(set(sizes), reverse=True) and {1, clips, clips * accumulation} <= set(sizes)
    for one in choices:
        times = one.trainer.accumulate_grad_batches
        assert one.effective_batch == given_recipe.effective_batch
        assert one.trainer.val_check_interval == max(1, round(400 * times / accumulation))
        if seconds is not None:
            assert one.model.train_ds.batch_duration == pytest.approx(seconds * accumulation / times)
    half = half_batch(given_recipe)
    assert (half is None) == (clips == 1)
    if half is not None:
        assert half.model.train_ds.batch_size <= clips / 2
        if clips % 2 == 0:
            assert half.trainer.accumulate_grad_batches == 2 * accumulation


def test_short_clips_are_tried_where_they_make_larger_batches() -> None:
    seconds, tokens = [30.0, 30.0, *[14.0] * 30, *[7.0] * 60], [60, 60, *[40] * 30, *[25] * 60]
    data, augment = recipe(64, 1, 60.0).model.train_ds, BASE.quran.augment
    by_seconds = worst_batches(data, augment, seconds, tokens)
    assert [(len(one), max(one.seconds)) for one in by_seconds] == [(2, 30.0)]
    dense = [60, 60, *[200] * 30, *[25] * 60]
    by_seconds = worst_batches(data, augment, seconds, dense)
    assert [(len(one), max(one.seconds)) for one in by_seconds] == [(2, 30.0), (4, 14.0)]


@pytest.mark.slow
@pytest.mark.alone  # a process that has trained much keeps freed memory, and measures less
def test_the_largest_batch_that_fits_is_taken(tokenizer: Tokenizer, segments: list[Segment]) -> None:
    clips = [replace(segments[0], duration=4.0)] * 16
    findings: list[Finding] = []
    cpu = torch.device("cpu")

    def fitted(megabytes: float) -> tuple[int, int]:
        findings.clear()
        budget = MemoryBudget(round(1e6 * megabytes))
        found = fit_memory(recipe(8, 2), tokenizer, clips, cpu, budget, findings.append)
        return found.model.train_ds.batch_size, found.trainer.accumulate_grad_batches

    assert fitted(100_000) == (16, 1), "all the clips of a step at once"
    needs = {int(one.message.split()[0]): size(one.message) for one in findings[:-1]}
    assert fitted((needs[8] + needs[16]) / 2 / COMFORT) == (8, 2), "half of them fit, with room to spare"
    assert "model.train_ds.batch_size=8 " in findings[-1].message
    assert "the effective batch is 16 as before" in findings[-1].message
    with pytest.raises(QuranAsrError, match=r"one clip of 4\.0 s does not fit into 1 MB"):
        fitted(1)


def size(message: str) -> float:
    """Megabytes."""
    number, unit = message.split(" take ")[1].split()[:2]
    return float(number) * {"GB": 1e3, "MB": 1.0}[unit]


@pytest.mark.slow
@pytest.mark.gpu
def test_on_a_gpu_the_chosen_batch_trains_and_the_next_larger_does_not(
    tokenizer: Tokenizer, segments: list[Segment]
) -> None:
    """The allocator is given 2 GB: what is chosen under that limit must be run within it."""
    device = torch.device("cuda")
    total = torch.cuda.get_device_properties(device).total_memory
    torch.cuda.set_per_process_memory_fraction(2e9 / total)
    try:
        clips = [replace(segments[0], duration=20.0)] * 512
        asked = recipe(512, 1)
        findings: list[Finding] = []
        found = fit_memory(asked, tokenizer, clips, device, MemoryBudget(2_000_000_000), findings.append)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert 1 <= found.model.train_ds.batch_size < 512
    assert found.effective_batch == asked.effective_batch
    assert any("out of memory" in one.message for one in findings)
