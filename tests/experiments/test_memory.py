"""The closed form of a step's memory: what it must grow with, and what it must not."""

from __future__ import annotations

import pytest

from quran_asr.config.recipe import load_recipe
from quran_asr.experiments.planning.cost import Batch, Memory, step_memory
from quran_asr.experiments.planning.plan import as_json, plan
from quran_asr.experiments.planning.workload import Workload, weigh
from quran_asr.experiments.run_folder import checkpoint_bytes, training_bytes


def memory(recipe: str, *overrides: str, clips: int = 32, seconds: float = 3.0, **more: int) -> Memory:
    return step_memory(load_recipe(recipe, overrides), Batch(clips, seconds), **more)


def test_weights_gradients_and_moments_are_four_four_and_eight_bytes_a_parameter() -> None:
    parameters = 114_752_514
    of = memory("transfer", "trainer.accumulate_grad_batches=1")
    assert of.weights == 4 * parameters + 4 * (2 * 5000 - 1) * 512, "and the table of positions"
    assert (of.gradients, of.optimizer) == (4 * parameters, 8 * parameters)
    assert memory("transfer").gradients == 8 * parameters, "a copy is kept while batches accumulate"
    assert memory("transfer", devices=2).gradients == 12 * parameters, "and DDP's buckets"
    assert of.total == of.weights + of.optimizer + of.activations + of.joint, "gradients arise as those go"
    assert memory("transfer").total == of.total + 8 * parameters, "but what has accumulated stands"
    assert memory("transfer", "trainer.accumulate_grad_batches=1", clips=1).total == 16 * parameters + (
        of.weights - 4 * parameters
    )


def test_a_layer_keeps_what_was_read_off_its_saved_tensors() -> None:
    """float32 on a CPU, 4 clips of 76 frames, 6 layers of 128: by hooks on saved tensors 203.27 bytes a
    frame, layer and width, 21.93 of them the table of positions, which is there once."""
    settings = ("model.encoder.dropout=0.1", "model.encoder.dropout_att=0.1")
    six, twelve = (
        step_memory(load_recipe("quickstart", (*settings, layers)), Batch(4, 6.0), cpu=True)
        for layers in ("model.encoder.n_layers=6", "model.encoder.n_layers=12")
    )
    counted = (203.271 - 21.928) * 6 * 4 * 76 * 128
    assert twelve.activations - six.activations == pytest.approx(counted, rel=0.03)


def test_half_precision_halves_what_layers_keep_and_not_the_weights() -> None:
    full, half = memory("transfer", "trainer.precision=32"), memory("transfer")
    assert full.weights == half.weights and full.optimizer == half.optimizer
    copy = 2 * 114_752_514
    assert 0.5 < (half.activations - copy) / full.activations < 0.75


def test_smaller_tiles_and_smaller_batches_take_less() -> None:
    tiles = [memory("transfer", f"model.joint.fused_batch_size={n}", seconds=20.0).joint for n in (4, 8, 32)]
    assert tiles == sorted(tiles) and tiles[0] < tiles[2] / 4
    one, two = memory("transfer", clips=16), memory("transfer", clips=32)
    copy = 2 * 114_752_514
    assert two.activations - copy == pytest.approx(2 * (one.activations - copy), rel=1e-3)
    assert memory("transfer", "quran.vocabulary_size=256").joint < memory("transfer").joint


def test_attention_grows_with_the_square_of_the_length() -> None:
    copy = 2 * 114_752_514
    short, long = (memory("transfer", seconds=seconds).activations - copy for seconds in (10.0, 40.0))
    assert long > 5 * short


def test_the_batch_of_the_longest_clips_is_weighed() -> None:
    recipe = load_recipe("transfer")
    of = plan(recipe, weigh([3.0] * 990 + [30.0] * 10, recipe))
    assert of.memory_batch == "32 clips of 30 s, of the longest"
    filled = load_recipe("small")
    assert plan(filled, weigh([3.0] * 990 + [30.0], filled)).memory_batch.startswith("16 clips of 30 s")
    assert "of average length" in plan(recipe, Workload(67_399, 56.0)).memory_batch
    assert plan(recipe).memory_batch.startswith("32 clips of 40 s")


def test_bytes_in_json_and_on_disk() -> None:
    of = plan(load_recipe("transfer"))
    parts = as_json(of)["memory_bytes"]
    assert set(parts) == {"weights", "gradients", "optimizer", "activations", "joint", "total"}
    assert parts["total"] == of.memory_bytes.total
    assert of.checkpoint_bytes == checkpoint_bytes(of.parameters) == pytest.approx(1.4e9, rel=0.02)
    assert of.disk_bytes == training_bytes(of.parameters, 10) == 12 * of.checkpoint_bytes + 8 * of.parameters
