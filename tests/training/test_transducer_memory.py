"""Tiles, budgets and masks of the transducer loss: they change memory and nothing else."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from quran_asr.training.loss import joint as transducer_joint
from quran_asr.training.loss import transducer
from quran_asr.training.loss.lattice import Lengths

sys.path.insert(0, str(Path(__file__).parent))
from transducer_cases import Batch, RNNTJoint, same


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


sizes = st.lists(st.tuples(st.integers(1, 9), st.integers(0, 6)), min_size=1, max_size=5)
budgets = st.sampled_from([0, 1000, 20_000, 1 << 30])


def budgeted(block: int, tile: int, kept: int) -> pytest.MonkeyPatch:
    """Give blocks, tiles and kept logits so many bytes, until it is undone."""
    patch = pytest.MonkeyPatch()
    patch.setattr(transducer_joint, "BLOCK_BYTES", {"cpu": block, "cuda": block})
    patch.setattr(transducer_joint, "FEWEST_ROWS", 1)
    patch.setattr(transducer, "TILE_BYTES", {"cpu": tile, "cuda": tile})
    patch.setattr(transducer, "KEPT_BYTES", {"cpu": kept, "cuda": kept})
    return patch


@pytest.mark.slow
@given(sizes, budgets, budgets, budgets, st.sampled_from([None, 1, 2]), st.sampled_from([0.0, 0.3]))
@settings(max_examples=40)
def test_budgets_and_tiles_change_nothing(lengths, block, tile, kept, tile_clips, dropout):
    """Not even the masks of dropout: they belong to the cells, in their order."""
    torch.manual_seed(len(lengths))
    frames, labels = (list(counts) for counts in zip(*lengths, strict=True))
    joint, batch = RNNTJoint(12, dropout).double(), Batch(frames, labels)
    torch.manual_seed(1)
    whole = batch.gradients(joint)
    patch = budgeted(block, tile, kept)
    try:
        torch.manual_seed(1)
        same(batch.gradients(joint, tile_clips=tile_clips), whole, rtol=1e-9, atol=1e-11)
    finally:
        patch.undo()


@given(sizes, st.randoms(use_true_random=False))
@settings(max_examples=25)
def test_clips_do_not_see_each_other(lengths, random):
    """In another order, every clip keeps its loss and its gradient; parameters get the same sum."""
    torch.manual_seed(len(lengths))
    frames, labels = (list(counts) for counts in zip(*lengths, strict=True))
    joint, batch = RNNTJoint(12).double(), Batch(frames, labels)
    loss = batch.loss(joint, tile_clips=2)
    wanted = torch.autograd.grad(loss.sum(), [batch.encoder, batch.prediction, *joint.parameters()])
    order = random.sample(range(len(lengths)), len(lengths))
    other = Batch(frames, labels)
    for name in ("encoder", "prediction"):
        setattr(other, name, getattr(batch, name).detach()[order].requires_grad_())
    other.targets, other.frames, other.labels = batch.targets[order], batch.frames[order], batch.labels[order]
    moved = other.loss(joint, tile_clips=2)
    found = torch.autograd.grad(moved.sum(), [other.encoder, other.prediction, *joint.parameters()])
    same([moved], [loss[order]])
    same(list(found[:2]), [wanted[0][order], wanted[1][order]])
    same(list(found[2:]), list(wanted[2:]), rtol=1e-9, atol=1e-11)


@given(sizes)
@settings(max_examples=25)
def test_gradients_of_logits_sum_to_zero(lengths):
    """A softmax does not see a constant added to all logits: the gradient of the bias sums to 0."""
    torch.manual_seed(len(lengths))
    frames, labels = (list(counts) for counts in zip(*lengths, strict=True))
    joint, batch = RNNTJoint(12).double(), Batch(frames, labels)
    bias = batch.gradients(joint)[-1]
    assert abs(float(bias.sum())) < 1e-11 * (1 + float(bias.abs().sum()))


def test_gradients_can_be_asked_for_twice():
    """What is kept between the passes is not used up by the first."""
    torch.manual_seed(1)
    joint, batch = RNNTJoint(12, 0.3).double(), Batch([5, 7], [2, 4])
    for kept in (0, 1 << 30):
        patch = budgeted(1000, 0, kept)
        loss = batch.loss(joint)
        inputs = [batch.encoder, *joint.parameters()]
        once = torch.autograd.grad(loss.sum(), inputs, retain_graph=True)
        same(list(torch.autograd.grad(3 * loss.sum(), inputs)), [3 * one for one in once])
        patch.undo()


def test_value_alone_draws_the_same_masks():
    joint, batch = RNNTJoint(12, 0.3).double(), Batch([5, 7], [2, 4])
    torch.manual_seed(2)
    wanted = batch.gradients(joint)[0]
    torch.manual_seed(2)
    with torch.no_grad():
        same([batch.loss(joint)], [wanted])


def test_other_random_numbers_in_between_do_not_matter():
    """Masks have a generator of their own, so both passes see the same whatever is drawn between them."""
    joint, batch = RNNTJoint(12, 0.3).double(), Batch([5, 7], [2, 4])
    found = []
    for disturb in (False, True):
        torch.manual_seed(3)
        loss = batch.loss(joint, tile_clips=1)
        if disturb:
            torch.rand(1000)
            torch.manual_seed(77)
        found.append(list(torch.autograd.grad(loss.sum(), [batch.encoder, *joint.parameters()])))
    same(*found)


@given(st.lists(st.tuples(st.integers(1, 50), st.integers(0, 50)), min_size=1, max_size=9))
@settings(max_examples=100)
def test_tiles_take_every_clip_once_and_keep_within_bounds(lengths):
    clips = Lengths(*(tuple(counts) for counts in zip(*lengths, strict=True)))
    for most_clips, most_cells in ((1, 10**9), (3, 10**9), (100, 500), (3, 500), (100, 0)):
        tiles = clips.tiles(most_clips, most_cells)
        taken = [clip for tile in tiles for clip in range(len(lengths))[tile]]
        assert taken == list(range(len(lengths)))
        for tile in tiles:
            counts = clips[tile].cell_counts
            assert 1 <= len(counts) <= most_clips
            assert sum(counts) <= most_cells or len(counts) == 1
