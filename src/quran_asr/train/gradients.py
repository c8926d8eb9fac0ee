"""Gradients between backward pass and optimizer step: judged, kept back and clipped where they lie.

Whether a batch can be used is known on its device only, and asking would make this process wait for all that
a GPU was given. So the answer stays there: sums that accumulate are chosen by it, and AdamW's fused kernel
does nothing where its `found_inf` says so, as with torch's `GradScaler`. Counts are read when a line is
written.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

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
        """Of the batch at hand; whoever computes its loss says so."""
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

    def judge(self, average: Callable[[Sequence[Tensor]], None] | None = None, alone: bool = True) -> None:
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
        """Most in a row since this was last asked, why the last one was skipped, whether it still goes on."""
        counts: list[int] = self._skips.tolist()
        self._skips[_LONGEST] = counts[_IN_A_ROW]
        what = "loss is not a finite number" if counts[_BY_LOSS] else "gradients are not finite numbers"
        return counts[_LONGEST], f"its {what}", counts[_IN_A_ROW] > 0
