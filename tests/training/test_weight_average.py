"""The running mean of the weights: its values, where it stands when, and that a stop does not disturb it."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from quran_asr.training.optimizer import WeightAverage


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
