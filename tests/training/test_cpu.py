"""What stands for torch's layers on a CPU: the same values and gradients, dropout at the same rate."""

from __future__ import annotations

import copy

import torch
from torch import nn

from quran_asr.config.schema import Recipe
from quran_asr.training.cpu import BitDropout, PointwiseConv1d, exchange_layers
from quran_asr.training.model import build_model
from quran_asr.training.tokenizer import Tokenizer


def test_a_models_values_gradients_and_names_stay(tiny: Recipe, tokenizer: Tokenizer) -> None:
    stock = build_model(tiny, tokenizer.folder).encoder.train()
    for layer in stock.modules():
        if isinstance(layer, nn.Dropout):
            layer.p = 0.0
    stock.set_default_att_context_size([70, 13])
    ours = copy.deepcopy(stock)
    exchange_layers(ours)
    assert any(type(layer) is PointwiseConv1d for layer in ours.modules())
    assert any(type(layer) is BitDropout for layer in ours.modules())
    assert ours.state_dict().keys() == stock.state_dict().keys()
    mels, lengths = torch.randn(2, 80, 200), torch.tensor([200, 150])
    outputs = []
    for encoder in (stock, ours):
        torch.manual_seed(0)
        encoder.att_context_size_all = [[70, 13]]
        encoder.att_context_probs = [1.0]
        encoded, _ = encoder(audio_signal=mels, length=lengths)
        encoded.square().mean().backward()
        outputs.append(encoded)
    torch.testing.assert_close(*outputs)
    for (name, one), other in zip(stock.named_parameters(), ours.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, msg=name)


def test_dropout_drops_its_share_and_keeps_the_mean() -> None:
    torch.manual_seed(0)
    ones = torch.ones(3, 111, 1001, requires_grad=True)
    for p in (0.1, 0.5, 0.9):
        dropped = BitDropout(p)(ones)
        kept = dropped != 0
        spread = (p * (1 - p) / ones.numel()) ** 0.5
        assert abs(float(kept.float().mean()) - (1 - p)) < 5 * spread + 2**-16
        torch.testing.assert_close(
            dropped[kept], torch.full_like(dropped[kept], 1 / (1 - p)), rtol=2e-4, atol=0
        )
        (gradient,) = torch.autograd.grad(dropped.sum(), ones)
        torch.testing.assert_close(gradient, dropped)
        neighbours = (kept[..., 1:] & kept[..., :-1]).float().mean()
        assert abs(float(neighbours) - (1 - p) ** 2) < 0.01, "neighbours are independent"
    for p in (0.0, 1.0):
        torch.testing.assert_close(BitDropout(p)(ones), nn.Dropout(p)(ones))
    assert BitDropout(0.5).eval()(ones) is ones
    assert BitDropout(0.5)(torch.zeros(0)).shape == (0,)
