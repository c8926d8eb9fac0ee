"""Optimizer with parameter groups, schedule and freezing; gradient checks and clipping before the step.

"Copied" tensors are those of the encoder, which knows the audio whatever the tokens are. Prediction network
and joint work on the tokens' embedding: where that is fresh, because the tokens are others, they have to
are trained from the beginning and count as fresh, whatever their origin.

Which tensors came stands in the run's `transfer.json`; whether they are frozen and how fast they learn
follows from recipe and step. So a resumed run is the one that was stopped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from quran_asr.config.schedule import learning_rate, transferred_share
from quran_asr.config.schema import Optim, Quran
from quran_asr.errors import Finding
from quran_asr.experiments.run_folder import RunFolder
from quran_asr.training.distributed import Ranks
from quran_asr.training.muon import Muon, hidden_matrices

WHOLE = ("whole", "level", "bins")
"""How a tensor came (see `transfer_map.How`) of which all values, or nearly all, are the start's."""


EMBEDDING = "decoder.prediction.embed.weight"


def is_staged(quran: Quran) -> bool:
    """Whether copied tensors are to learn otherwise than fresh ones."""
    return quran.copied_rate != 1.0 or quran.unfreeze_after > 0


def transferred_names(run: RunFolder, on_finding: Callable[[Finding], None]) -> frozenset[str]:
    """The tensors of a run that came from its start, for a recipe that `is_staged`.

    Where nothing at all is fresh, as in a start that keeps its tokens, there is nothing to protect from: all
    tensors learn at the recipe's rate, and a finding reports it.

    Raises:
        QuranAsrError: the run has no `transfer.json`.
    """
    tensors = run.read_json("transfer.json")["tensors"]
    names = frozenset(str(one["name"]) for one in tensors if one["how"] in WHOLE)
    if EMBEDDING not in names:
        names = frozenset(name for name in names if name.startswith("encoder."))
    if names >= {str(one["name"]) for one in tensors}:
        message = "every tensor came from the start: none is fresh, so all learn at the same rate from step 1"
        on_finding(Finding("note", "nothing-fresh", "quran.copied_rate", message, ""))
        return frozenset()
    return names


class ParamGroups:
    """The parameters of a model as the optimizer's groups: the fresh ones first, then the copied."""

    def __init__(
        self,
        model: nn.Module,
        optim: Optim,
        width: int,
        total_steps: int | None,
        *,
        copied: frozenset[str] = frozenset(),
        copied_rate: float = 1.0,
        frozen_steps: int = 0,
        ranks: Ranks = Ranks(),  # noqa: B008 - frozen
    ) -> None:
        """Groups of a model.

        Args:
            model: whose parameters are optimized.
            optim: optimizer and schedule.
            width: of the encoder (`d_model`).
            total_steps: optimizer steps of the whole training; None where no limit is set.
            copied: names of parameters that came from the start; empty makes one group.
            copied_rate: share of the learning rate for these.
            frozen_steps: optimizer steps for which these are frozen.
            ranks: the processes of the training, which share an optimizer's work.
        """
        self.model = model
        self.optim = optim
        self.width = width
        self.total_steps = total_steps
        self.copied = copied
        self.copied_share = copied_rate
        self.frozen_steps = frozen_steps
        self.ranks = ranks

    def parameters(self) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
        """Fresh and copied, each in the order of the model."""
        named = list(self.model.named_parameters())
        return [p for name, p in named if name not in self.copied], self._copied(named)

    def _copied(self, named: Iterable[tuple[str, nn.Parameter]]) -> list[nn.Parameter]:
        return [parameter for name, parameter in named if name in self.copied]

    def configure_optimizers(self) -> dict[str, Any]:
        """The optimizer and its schedule, as Lightning takes them."""
        groups = [{"params": group} for group in self.parameters() if group]
        settings: dict[str, Any] = {
            "lr": 1.0,
            "betas": self.optim.betas,
            "weight_decay": self.optim.weight_decay,
            "fused": True,
        }
        optimizer = (
            Muon(groups, hidden_matrices(self.model), self.ranks, **settings)
            if self.optim.name == "muon"
            else torch.optim.AdamW(groups, **settings)
        )
        rates: list[Callable[[int], float]] = [self.rate, self.copied_rate]
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, rates[: len(groups)])
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def rate(self, step: int) -> float:
        """Of fresh tensors, after this many optimizer steps."""
        return learning_rate(step, self.optim, self.width, self.total_steps or 1)

    def copied_rate(self, step: int) -> float:
        """Of copied ones."""
        return self.rate(step) * transferred_share(
            step,
            rate=self.copied_share,
            frozen_steps=self.frozen_steps,
            warmup_steps=self.optim.sched.warmup_steps,
        )

    def apply_recipe(self, optimizer: torch.optim.Optimizer, step: int) -> None:
        """Set rate, betas and weight decay of the groups for this step, whatever a checkpoint had."""
        optim = self.optim
        for group, rate in zip(optimizer.param_groups, (self.rate, self.copied_rate), strict=False):
            group["lr"], group["betas"], group["weight_decay"] = rate(step), optim.betas, optim.weight_decay

    def freeze(self, step: int) -> None:
        """Freeze copied tensors before they are due: no gradient, no moments, no backward pass."""
        if not self.copied or not self.frozen_steps:
            return
        moving = step >= self.frozen_steps
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


# Whether a batch can be used is known on its device only, and asking would make this process wait for all
# that a GPU was given. So the answer stays there: sums that accumulate are chosen by it, and AdamW's fused
# kernel does nothing where its `found_inf` is set, as with torch's `GradScaler`. Counts are read when a
# line is written.

_TOTAL, _IN_A_ROW, _LONGEST, _BY_LOSS = range(4)


class Gradients:
    """The gradients of a model's parameters, through windows of batches that make one optimizer step."""

    def __init__(self, model: nn.Module, window: int) -> None:
        """`window`: batches behind an optimizer step."""
        self.model = model
        self.parameters = list(model.parameters())
        self.window = window
        self.norm = torch.zeros(())
        """Of all gradients together, float32; 0 where no batch of the window could be used."""
        self.usable = torch.zeros((), dtype=torch.int64)
        """Batches of the window that could be used."""
        self.finite_loss = torch.ones((), dtype=torch.bool)
        """Of the current batch; set by whoever computes its loss."""
        self._skips = torch.zeros(4, dtype=torch.int64)
        self._kept: list[Tensor | None] = []

    def begin(self, place: int) -> None:
        """A batch begins, in this place of its window."""
        self.parameters = list(self.model.parameters())  # others, perhaps, since the model has moved
        device = self.parameters[0].device
        self.norm, self.usable, self._skips = (
            one.to(device, non_blocking=True) for one in (self.norm, self.usable, self._skips)
        )
        self.finite_loss = torch.ones((), dtype=torch.bool, device=device)
        self._kept = []
        if place == 0:
            self.norm, self.usable = torch.zeros_like(self.norm), torch.zeros_like(self.usable)
        else:
            self._kept = [None if p.grad is None else p.grad.detach().clone() for p in self.parameters]

    def diagnose(self, average: Callable[[Sequence[Tensor]], None] | None = None, alone: bool = True) -> None:
        """After a backward pass: take back what it brought unless loss and gradients are finite.

        Args:
            average: given where a window of several processes ends: averages what was kept over them, which
                DDP has not done yet. To know whether it is needed, this process waits.
            alone: whether this is the only process. Among several a loss that is not finite has been replaced
                before, since the others' gradients count.
        """
        found = [p.grad for p in self.parameters if p.grad is not None]
        if not found:
            return
        norm = torch.nn.utils.get_total_norm(found)
        finite = torch.isfinite(norm)
        good = finite & self.finite_loss
        self._count(good)
        use = good if alone else finite
        if average is not None and not bool(use):
            average([before for before in self._kept if before is not None])
            any_usable = self.usable.clamp(max=1).float()
            average([any_usable])
            self.usable = (any_usable > 0).long()
            self.norm = torch.nn.utils.get_total_norm([one for one in self._kept if one is not None])
        if self.window > 1:
            kept = self._kept or [None] * len(self.parameters)
            for parameter, before in zip(self.parameters, kept, strict=True):
                if parameter.grad is None:
                    continue
                if before is None:
                    parameter.grad.masked_fill_(~use, 0)
                else:
                    torch.where(use, parameter.grad, before, out=parameter.grad)
        self.norm = torch.where(use, norm, self.norm)
        self.usable = self.usable + use

    def decide(self, optimizer: torch.optim.Optimizer) -> None:
        """Before an optimizer step: let it do nothing where no batch of the window could be used."""
        optimizer.found_inf = (self.usable == 0).float()  # type: ignore[attr-defined]

    def clip(self, most: float) -> None:
        """Scale the gradients so that their norm is at most this; values as torch's `clip_grad_norm_`."""
        torch.nn.utils.clip_grads_with_norm_(self.parameters, most, self.norm)

    def _count(self, good: Tensor) -> None:
        total, row, longest, by_loss = self._skips.unbind()
        row = torch.where(good, 0, row + 1)
        by_loss = torch.where(good, by_loss, (~self.finite_loss).long())
        self._skips = torch.stack([total + ~good, row, torch.maximum(longest, row), by_loss])

    # --- what was skipped: reading it waits for the device ------------------------------------------

    @property
    def skipped(self) -> int:
        """Batches of the whole training that could not be used."""
        return int(self._skips[_TOTAL])

    @skipped.setter
    def skipped(self, batches: int) -> None:
        self._skips[_TOTAL] = batches

    def skipped_in_a_row(self) -> tuple[int, str, bool]:
        """Most in a row since the last call, why the last one was skipped, whether skipping continues."""
        counts: list[int] = self._skips.tolist()
        self._skips[_LONGEST] = counts[_IN_A_ROW]
        what = "loss is not a finite number" if counts[_BY_LOSS] else "gradients are not finite numbers"
        return counts[_LONGEST], f"its {what}", counts[_IN_A_ROW] > 0


# With every optimizer step the mean moves by a share of 1 - decay towards the weights (exponential moving
# average; Polyak and Juditsky 1992). It is what is validated and what is written as `.nemo`; training goes
# on with the weights themselves.


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
        """Continue with the mean of a checkpoint."""
        if self.decay:
            self._other = [tensor.clone() for tensor in averaged]

    def _to(self, weights: Sequence[Tensor]) -> None:
        """Follow a model to its device."""
        if self._other[0].device != weights[0].device:
            self._other = [
                other.to(weight.device) for other, weight in zip(self._other, weights, strict=True)
            ]
