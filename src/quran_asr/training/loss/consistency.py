"""Consistency of CTC between two views of the same clips."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def consistency_loss(scores: Tensor, frames: Tensor) -> Tensor:
    """How far two views of each clip disagree about every frame, nats [B].

    Half the sum of both Kullback-Leibler divergences over the frames; each view is drawn to the other as it
    stands, whose gradient is not followed (Z. Yao et al., "CR-CTC: Consistency regularization on CTC for
    improved speech recognition", arXiv:2410.05101, equation 3).

    Args:
        scores: [2 B, T, V + 1], natural log: the clips in one view, then in the other.
        frames: int64 [2 B], those of each clip that are not padding.
    """
    first, second = scores.float().chunk(2)
    each = 0.5 * (_divergence(first, second.detach()) + _divergence(second, first.detach()))
    valid = torch.arange(scores.shape[1], device=scores.device) < frames.chunk(2)[0][:, None]
    return each.masked_fill(~valid, 0.0).sum(dim=1)


def _divergence(scores: Tensor, target: Tensor) -> Tensor:
    """Kullback-Leibler divergence of `scores` from `target`, [B, T, V + 1] each -> [B, T]."""
    return functional.kl_div(scores, target, reduction="none", log_target=True).sum(dim=2)
