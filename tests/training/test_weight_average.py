"""The running mean of the weights: its values, where it stands when, and that a stop does not disturb it."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import nn

from quran_asr.config.recipe import load_recipe
from quran_asr.errors import QuranAsrError
from quran_asr.experiments.run_folder import create_run
from quran_asr.records import Segment
from quran_asr.training.averaging import export, mean_weights, same_model
from quran_asr.training.checkpoints import model_weights
from quran_asr.training.nemo_archive import read_archive, read_weights
from quran_asr.training.optimizer import WeightAverage
from quran_asr.training.trainer import train


def test_the_mean_is_the_weighted_sum_of_all_steps() -> None:
    torch.manual_seed(0)
    layer = nn.Linear(3, 2).double()
    average = WeightAverage(0.9, layer.parameters())
    expected = layer.weight.detach().clone()
    for step in range(1, 200):
        with torch.no_grad():
            layer.weight.add_(torch.randn(2, 3))
        average.update(layer.parameters(), step)
        decay = min(0.9, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * layer.weight.detach()
    torch.testing.assert_close(average.averaged(layer)[0], expected)


def test_mean_and_weights_change_places_and_come_back() -> None:
    layer = nn.Linear(3, 2)
    average = WeightAverage(0.9, layer.parameters())
    with torch.no_grad():
        layer.weight.add_(1.0)
    trained, mean = layer.weight.detach().clone(), average.averaged(layer)[0].clone()
    average.exchange(layer.parameters())
    torch.testing.assert_close(layer.weight.detach(), mean)
    torch.testing.assert_close(average.trained(layer)[0], trained)
    torch.testing.assert_close(average.averaged(layer)[0], mean)
    average.exchange(layer.parameters())
    torch.testing.assert_close(layer.weight.detach(), trained)
    torch.testing.assert_close(average.averaged(layer)[0], mean)


def test_without_a_decay_nothing_is_kept_or_changed() -> None:
    layer = nn.Linear(3, 2)
    before = copy.deepcopy(layer.state_dict())
    average = WeightAverage(0.0, layer.parameters())
    average.update(layer.parameters(), 1)
    average.exchange(layer.parameters())
    assert average.averaged(layer) == []
    for name, tensor in layer.state_dict().items():
        torch.testing.assert_close(tensor, before[name])


@pytest.mark.parametrize("decay", [0.5, 0.999])
def test_a_mean_continues_from_a_checkpoint(decay: float) -> None:
    layer = nn.Linear(3, 2)
    average = WeightAverage(decay, layer.parameters())
    resumed = WeightAverage(decay, nn.Linear(3, 2).parameters())
    resumed.restore([tensor.clone() for tensor in average.averaged(layer)])
    for step in range(1, 5):
        with torch.no_grad():
            layer.weight.mul_(1.5)
        average.update(layer.parameters(), step)
        resumed.update(layer.parameters(), step)
    torch.testing.assert_close(average.averaged(layer), resumed.averaged(layer))


@pytest.mark.slow
def test_a_checkpoint_is_the_model_that_was_validated(
    spoken: Path, segments: list[Segment], tiny_overrides: tuple[str, ...], tmp_path: Path
) -> None:
    """The `.ckpt` and the `.nemo` of a step are one model: the running mean, not the weights in training."""
    recipe = load_recipe(
        "quickstart",
        [
            *tiny_overrides,
            f"model.train_ds.manifest_filepath={spoken}",
            "model.encoder.conv_norm_type=batch_norm",  # statistics stand among the parameters
            "quran.weight_average=0.9",
            "trainer.max_steps=3",
            "trainer.check_val_every_n_epoch=null",
            "trainer.val_check_interval=3",
        ],
    )
    run = create_run(tmp_path, recipe.name)
    run.write_recipe(recipe)
    train(recipe, run, segments, segments[:4], watcher=lambda _: None, on_finding=print)
    nemo, checkpoint = run.best_nemo(), run.best_checkpoint()
    assert nemo is not None and checkpoint is not None
    assert same_model(nemo, checkpoint)
    expected = read_weights(read_archive(nemo))
    trained = torch.load(checkpoint, weights_only=True)["state_dict"]
    assert not all(torch.equal(trained[f"model.{name}"], tensor) for name, tensor in expected.items())

    export(checkpoint, tmp_path / "exported.nemo")
    assert same_model(tmp_path / "exported.nemo", checkpoint)
    mean = mean_weights([checkpoint, checkpoint])
    assert all(torch.equal(mean[name], tensor) for name, tensor in expected.items())


def test_a_mean_of_other_parameters_than_the_weights_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "odd.ckpt"
    weights = {"model.a": torch.zeros(2), "model.b": torch.zeros(3)}
    torch.save({"state_dict": weights, "quran_asr": {"weight_average": [torch.ones(4)]}}, path)
    with pytest.raises(QuranAsrError, match="running mean") as refused:
        model_weights(path)
    assert refused.value.where == str(path)
