"""Muon for the encoder's matrices and AdamW for all else, as one optimizer with one state."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from quran_asr.training.cpu import multiplies_bf16

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
    """

    def __init__(
        self, groups: Iterable[dict[str, Any]], matrices: Iterable[nn.Parameter], **settings: Any
    ) -> None:
        """`groups` and `settings` are AdamW's; `matrices`: the parameters [R, C] or [R, C, 1] for Muon."""
        super().__init__(groups, **settings)
        self._matrices = {id(parameter) for parameter in matrices}

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One update of all parameters that have a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        gradients: list[tuple[nn.Parameter, Tensor]] = []
        for group in self.param_groups:
            for parameter in group["params"]:
                if id(parameter) in self._matrices and parameter.grad is not None:
                    gradients.append((parameter, parameter.grad))
                    self._update(parameter, parameter.grad, group["lr"], group["weight_decay"])
                    parameter.grad = None  # AdamW passes over it
        super().step()
        for parameter, gradient in gradients:
            parameter.grad = gradient
        return loss

    def _update(self, parameter: nn.Parameter, gradient: Tensor, rate: float, decay: float) -> None:
        state = self.state[parameter]
        if not state:  # as AdamW makes it, so that it can continue from it
            state["step"] = torch.zeros((), dtype=torch.float32, device=parameter.device)
            state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(parameter), torch.zeros_like(parameter)
        usable: Tensor = 1 - getattr(self, "found_inf", torch.zeros((), device=parameter.device))
        momentum = state["exp_avg"]
        momentum.lerp_(torch.where(usable > 0, gradient, momentum), 1 - MOMENTUM)
        direction = torch.lerp(torch.where(usable > 0, gradient, momentum), momentum, MOMENTUM)
        rows, columns = parameter.shape[:2]
        size = ADAMW_SIZE * max(rows, columns) ** 0.5
        step = orthogonalized(direction.reshape(rows, columns)).reshape(parameter.shape)
        parameter.mul_(1 - usable * rate * decay).sub_(usable * rate * size * step)
