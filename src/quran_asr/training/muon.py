"""Muon for the encoder's matrices and AdamW for all else, as one optimizer with one state."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from quran_asr.training.cpu import multiplies_bf16
from quran_asr.training.distributed import EXCHANGED, Ranks

# Muon (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/) moves a matrix by the nearest
# orthogonal matrix to its momentum: all directions move by the same amount, where AdamW is led by the few
# with the largest gradients. Liu et al. (arXiv 2502.16982) scale that step to the size of one of AdamW's, so
# that both share a learning rate and a weight decay.
#
# The nearest orthogonal matrix comes from iterations of an odd polynomial that need nothing but matrix
# products. These are the first four of Amsel et al. (arXiv 2505.16932), each the best for the interval that
# the one before leaves; the divisor keeps bf16's rounding from leaving that interval.

_POLYNOMIALS = tuple(
    (a / 1.01, b / 1.01**3, c / 1.01**5)
    for a, b, c in (
        (8.28721201814563, -23.595886519098837, 17.300387312530933),
        (4.107059111542203, -2.9478499167379106, 0.5448431082926601),
        (3.9486908534822946, -2.908902115962949, 0.5518191394370137),
        (3.3184196573706015, -2.488488024314874, 0.51004894012372),
    )
)
Chosen = tuple[nn.Parameter, Tensor, dict[str, Any]]
"""A matrix, its gradient, and the optimizer's group that it is in."""

MOMENTUM = 0.95
ADAMW_SIZE = 0.2
"""Root mean square of an AdamW step at rate 1, which Muon's steps are scaled to (arXiv 2502.16982)."""


def orthogonalized(matrix: Tensor) -> Tensor:
    """A matrix [R, C] with its singular values brought close to 1; float32.

    Singular values of more than about 1/500 of the Frobenius norm end between 0.4 and 1.6; smaller ones end
    smaller, and 0 stays 0.
    """
    tall = matrix.shape[0] > matrix.shape[1]
    # A CPU without instructions for bf16 emulates it: a step of 13M parameters took minutes.
    fast = matrix.device.type != "cpu" or multiplies_bf16()
    x = (matrix.mT if tall else matrix).to(torch.bfloat16 if fast else torch.float32)
    x = (x / (1.01 * x.norm() + 1e-7)).contiguous()
    for a, b, c in _POLYNOMIALS:
        squared = x @ x.mT
        x = torch.addmm(x, torch.addmm(squared, squared, squared, beta=b, alpha=c), x, beta=a)
    return (x.mT if tall else x).float()


def hidden_matrices(model: nn.Module) -> list[nn.Parameter]:
    """The matrices inside the encoder's layers; convolutions of width 1 are matrices, too."""
    return [
        parameter
        for name, parameter in model.named_parameters()
        if name.startswith("encoder.layers.")
        and name.endswith(".weight")
        and parameter.ndim >= 2
        and parameter.numel() == parameter.shape[0] * parameter.shape[1]
    ]


class Muon(torch.optim.AdamW):
    """AdamW in which the updates of some matrices are Muon's.

    Muon's momentum stands where AdamW keeps its first moment, so a run can change from one to the other and
    back. As with AdamW's fused kernel, nothing changes in a step for which `found_inf` is 1.

    Several processes share the work: each makes the orthogonal matrices of a part of the parameters, and gets
    the others from the processes that make them.
    """

    def __init__(
        self,
        groups: Iterable[dict[str, Any]],
        matrices: Iterable[nn.Parameter],
        ranks: Ranks = Ranks(),  # noqa: B008 - frozen
        **settings: Any,
    ) -> None:
        """`groups` and `settings` are AdamW's; `matrices`: the parameters [R, C] or [R, C, 1] for Muon."""
        super().__init__(groups, **settings)
        self._matrices = {id(parameter) for parameter in matrices}
        self._ranks = ranks

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One update of all parameters that have a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        chosen = [
            (parameter, parameter.grad, group)
            for group in self.param_groups
            for parameter in group["params"]
            if id(parameter) in self._matrices and parameter.grad is not None
        ]
        for part in self._parts(chosen):
            steps = self._steps([(parameter, gradient) for parameter, gradient, _ in part])
            for (parameter, _, group), step in zip(part, steps, strict=True):
                usable, rate = self._usable(parameter), group["lr"]
                size = ADAMW_SIZE * max(parameter.shape[:2]) ** 0.5
                parameter.mul_(1 - usable * rate * group["weight_decay"])
                parameter.sub_(usable * rate * size * step.view_as(parameter))
                parameter.grad = None  # AdamW passes over it
        super().step()
        for parameter, gradient, _ in chosen:
            parameter.grad = gradient
        return loss

    def _parts(self, chosen: Sequence[Chosen]) -> Iterator[list[Chosen]]:
        """Parameters whose matrices are in memory together: one, or with several processes an exchange."""
        part: list[Chosen] = []
        numbers = 0
        for one in chosen:
            if part and (self._ranks.size == 1 or numbers + one[0].numel() > EXCHANGED):
                yield part
                part, numbers = [], 0
            part.append(one)
            numbers += one[0].numel()
        if part:
            yield part

    def _steps(self, chosen: Sequence[tuple[nn.Parameter, Tensor]]) -> list[Tensor]:
        """The orthogonal matrix [R, C] of each parameter with this gradient."""
        directions = [self._direction(*one) for one in chosen]
        owners = shared_out([direction.shape for direction in directions], self._ranks.size)
        steps = [
            orthogonalized(direction) if owner == self._ranks.rank else torch.empty_like(direction)
            for direction, owner in zip(directions, owners, strict=True)
        ]
        self._ranks.collect(steps, owners)
        return steps

    def _direction(self, parameter: nn.Parameter, gradient: Tensor) -> Tensor:
        """Nesterov's momentum [R, C], after this gradient has been added to it."""
        state = self.state[parameter]
        if not state:  # as AdamW makes it, so that it can continue from it
            state["step"] = torch.zeros((), dtype=torch.float32, device=parameter.device)
            state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(parameter), torch.zeros_like(parameter)
        momentum, is_usable = state["exp_avg"], self._usable(parameter) > 0
        momentum.lerp_(torch.where(is_usable, gradient, momentum), 1 - MOMENTUM)
        direction = torch.lerp(torch.where(is_usable, gradient, momentum), momentum, MOMENTUM)
        return direction.reshape(parameter.shape[:2])

    def _usable(self, parameter: nn.Parameter) -> Tensor:
        """1, or 0 in a step that is to be left out."""
        usable: Tensor = 1 - getattr(self, "found_inf", torch.zeros((), device=parameter.device))
        return usable


def shared_out(shapes: Sequence[Sequence[int]], processes: int) -> list[int]:
    """For each matrix the process that makes it orthogonal, so that all have about as much work."""
    work = [min(shape) ** 2 * max(shape) for shape in shapes]
    owners, loads = [0] * len(work), [0] * processes
    for place in sorted(range(len(work)), key=lambda place: -work[place]):
        owners[place] = loads.index(min(loads))
        loads[owners[place]] += work[place]
    return owners
