"""A running mean of the weights, which recognises better than the weights of any single step.

With every optimizer step the mean moves by a share of 1 - decay towards the weights (exponential moving
average; Polyak and Juditsky 1992). It is what is validated and what is written as `.nemo`; training goes on
with the weights themselves.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn


class WeightAverage:
    """The mean of a model's parameters, and the parameters while the mean stands in the model."""

    def __init__(self, decay: float, parameters: Iterable[nn.Parameter]) -> None:
        """`decay`: share of the mean that stays at each step; 0 keeps no mean."""
        self.decay = decay
        self._other: list[Tensor] = [p.detach().clone() for p in parameters] if decay else []
        self._exchanged = False

    @torch.no_grad()
    def update(self, parameters: Iterable[nn.Parameter], step: int) -> None:
        """Take in the weights after an optimizer step; early steps count more, so that the mean follows."""
        if self.decay:
            decay = min(self.decay, (1 + step) / (10 + step))
            weights = [parameter.detach() for parameter in parameters]
            self._to(weights)
            torch._foreach_lerp_(self._other, weights, 1 - decay)

    @torch.no_grad()
    def exchange(self, parameters: Iterable[nn.Parameter]) -> None:
        """Put the mean into the model, or the weights back."""
        if not self.decay:
            return
        weights = list(parameters)
        self._to(weights)
        for parameter, other in zip(weights, self._other, strict=True):
            kept = parameter.detach().clone()
            parameter.copy_(other)
            other.copy_(kept)
        self._exchanged = not self._exchanged

    def trained(self, model: nn.Module) -> list[Tensor]:
        """The weights that are trained, wherever they lie now."""
        return self._other if self._exchanged else [p.detach() for p in model.parameters()]

    def averaged(self, model: nn.Module) -> list[Tensor]:
        """The mean; empty where none is kept."""
        return [p.detach() for p in model.parameters()] if self._exchanged else self._other

    def restore(self, averaged: Sequence[Tensor]) -> None:
        """Go on with the mean of a checkpoint."""
        if self.decay:
            self._other = [tensor.clone() for tensor in averaged]

    def _to(self, weights: Sequence[Tensor]) -> None:
        """Follow a model to its device."""
        if self._other[0].device != weights[0].device:
            self._other = [
                other.to(weight.device) for other, weight in zip(self._other, weights, strict=True)
            ]
