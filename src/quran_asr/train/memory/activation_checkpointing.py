"""Less memory for a fifth to a third more time: the encoder's layers are run again in the backward pass."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint

from quran_asr.train.model import EncDecHybridRNNTCTCBPEModel


def checkpoint_layers(model: EncDecHybridRNNTCTCBPEModel) -> None:
    """From here on each layer of the encoder keeps its input alone while the model trains.

    Dropout draws the same masks again, so loss and gradients stay what they were. Weights, their names and
    what is saved do not change; neither does anything without gradients.
    """
    for layer in model.encoder.layers:
        layer.forward = _run_again(layer, layer.forward)


def _run_again(layer: torch.nn.Module, plain: Callable[..., Any]) -> Callable[..., Any]:
    def forward(*inputs: Any, **named: Any) -> Any:
        if layer.training and torch.is_grad_enabled():
            return checkpoint(plain, *inputs, use_reentrant=False, **named)
        return plain(*inputs, **named)

    return forward
