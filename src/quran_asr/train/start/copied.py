"""Tensors that came from a trained start: frozen at first, and learning at a rate of their own.

Meant are those of the encoder, which knows sounds whatever the tokens are. Prediction network and joint work
on what the tokens' embedding says: where that is fresh, because the tokens are others, they have to learn
anew and count as fresh, however they came.

Which tensors came stands in the run's `transfer.json`; whether they are frozen and how fast they learn
follows from recipe and step. So a run that goes on is the one that was stopped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import nn

from quran_asr.findings import Finding
from quran_asr.runs.folder import RunFolder
from quran_asr.runs.schedule import copied_share, learning_rate
from quran_asr.runs.schema import Recipe

WHOLE = ("whole", "level", "bins")
"""How a tensor came (see `transfer_map.How`) of which all values, or nearly all, are the start's."""


EMBEDDING = "decoder.prediction.embed.weight"


def is_staged(recipe: Recipe) -> bool:
    """Whether copied tensors are to learn otherwise than fresh ones."""
    return recipe.quran.copied_rate != 1.0 or recipe.quran.unfreeze_after > 0


def copied_names(recipe: Recipe, run: RunFolder, on_finding: Callable[[Finding], None]) -> frozenset[str]:
    """The copied tensors of a run whose recipe treats them apart; none where it does not.

    Where nothing at all is fresh, as in a start that keeps its tokens, there is nothing to protect from:
    everything learns at the recipe's rate, and that is said.

    Raises:
        QuranAsrError: the run has no `transfer.json`.
    """
    if not is_staged(recipe):
        return frozenset()
    tensors = run.read_json("transfer.json")["tensors"]
    names = frozenset(str(one["name"]) for one in tensors if one["how"] in WHOLE)
    if EMBEDDING not in names:
        names = frozenset(name for name in names if name.startswith("encoder."))
    if names >= {str(one["name"]) for one in tensors}:
        message = "every tensor came from the start: none is fresh, so all learn at the same rate from step 1"
        on_finding(Finding("note", "nothing-fresh", "quran.copied_rate", message, ""))
        return frozenset()
    return names


class Groups:
    """The parameters of a model as AdamW's groups: the fresh ones first, then the copied."""

    def __init__(
        self, model: nn.Module, recipe: Recipe, copied: frozenset[str], total_steps: int | None
    ) -> None:
        """`copied`: names of parameters; empty makes one group."""
        self.model = model
        self.recipe = recipe
        self.copied = copied
        self.total_steps = total_steps

    def parameters(self) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
        """Fresh and copied, each in the order of the model."""
        named = list(self.model.named_parameters())
        return [p for name, p in named if name not in self.copied], self._copied(named)

    def _copied(self, named: Iterable[tuple[str, nn.Parameter]]) -> list[nn.Parameter]:
        return [parameter for name, parameter in named if name in self.copied]

    def optimizer(self) -> tuple[torch.optim.AdamW, torch.optim.lr_scheduler.LambdaLR]:
        """AdamW and its schedule."""
        optim = self.recipe.model.optim
        groups = [{"params": group} for group in self.parameters() if group]
        optimizer = torch.optim.AdamW(
            groups, lr=1.0, betas=optim.betas, weight_decay=optim.weight_decay, fused=True
        )
        rates: list[Callable[[int], float]] = [self.rate, self.copied_rate]
        return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, rates[: len(groups)])

    def rate(self, step: int) -> float:
        """Of fresh tensors, after this many optimizer steps."""
        optim, width = self.recipe.model.optim, self.recipe.model.encoder.d_model
        return learning_rate(step, optim, width, self.total_steps or 1)

    def copied_rate(self, step: int) -> float:
        """Of copied ones."""
        return self.rate(step) * copied_share(step, self.recipe)

    def settle(self, optimizer: torch.optim.Optimizer, step: int) -> None:
        """Give the groups what the recipe says at this step, whatever a checkpoint said."""
        optim = self.recipe.model.optim
        for group, rate in zip(optimizer.param_groups, (self.rate, self.copied_rate), strict=False):
            group["lr"], group["betas"], group["weight_decay"] = rate(step), optim.betas, optim.weight_decay

    def freeze(self, step: int) -> None:
        """Let copied tensors stand still before they are due: no gradient, no moments, no backward pass."""
        if not self.copied or not self.recipe.quran.unfreeze_after:
            return
        moving = step >= self.recipe.quran.unfreeze_after
        for parameter in self._copied(self.model.named_parameters()):
            if parameter.requires_grad != moving:
                parameter.requires_grad_(moving)


def make_room_for_moments(optimizer: torch.optim.Optimizer) -> None:
    """Take and give back the memory of moments that AdamW has yet to make.

    It makes them group by group between updates: were memory to run out then, half of a step would be made.
    """
    lacking = [
        torch.empty((2, *parameter.shape), dtype=parameter.dtype, device=parameter.device)
        for group in optimizer.param_groups
        for parameter in group["params"]
        if parameter.grad is not None and not optimizer.state.get(parameter)
    ]
    del lacking
