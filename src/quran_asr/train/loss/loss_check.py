"""Does the transducer loss compute what it should on the device that trains?

A lattice so small that every alignment can be written down: its loss is their sum, its gradient autograd's.
"""

from __future__ import annotations

import math
from itertools import combinations

import torch
from torch import Tensor

from quran_asr.runs.checks.outcome import Outcome, failure, passed
from quran_asr.train.loss.transducer_loss import transducer_loss
from quran_asr.train.model import RNNTJoint

TOLERANCE = 1e-3
"""Relative; float32 on a GPU keeps 1e-5, its TF32 products 1e-3."""
_FRAMES, _LABELS, _WIDTH, _CLASSES = 4, 2, 8, 5


def check_loss(device: torch.device) -> Outcome:
    """Compare value and gradient with the sum over all alignments."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        joint = RNNTJoint(
            jointnet={
                "encoder_hidden": _WIDTH,
                "pred_hidden": _WIDTH,
                "joint_hidden": _WIDTH,
                "activation": "relu",
            },
            num_classes=_CLASSES - 1,
        ).to(device)
        encoder = torch.randn(1, _FRAMES, _WIDTH).to(device).requires_grad_()
        prediction = torch.randn(1, _LABELS + 1, _WIDTH).to(device).requires_grad_()
    targets = torch.tensor([[1, 3]], device=device)
    frames, labels = torch.tensor([_FRAMES], device=device), torch.tensor([_LABELS], device=device)
    joint.eval()
    loss = transducer_loss(encoder, prediction, joint, targets, frames, labels).sum()
    gradients = torch.autograd.grad(loss, [encoder, prediction])
    logits = joint.joint_after_projection(joint.project_encoder(encoder), joint.project_prednet(prediction))
    expected = _by_enumeration(logits[0].double().log_softmax(dim=-1), targets[0].tolist())
    expected_gradients = torch.autograd.grad(expected, [encoder, prediction])
    value, right = float(loss.detach()), float(expected.detach())
    wrong = not math.isclose(value, right, rel_tol=TOLERANCE) or any(
        float((one - other).abs().max()) > TOLERANCE * float(other.abs().max())
        for one, other in zip(gradients, expected_gradients, strict=True)
    )
    said = f"{value:.4f} nats, by all its alignments {right:.4f}"
    if wrong:
        return failure(
            f"the transducer loss or its gradient is wrong on {device.type}: a small lattice costs {said}",
            "this is a fault of this installation: train on another device, and report it",
        )
    return passed(f"the transducer loss of a small lattice on {device.type} is {said}; gradients agree")


def _by_enumeration(scores: Tensor, targets: list[int]) -> Tensor:
    """Minus the log of the sum over all alignments. scores [T, U + 1, V + 1], natural log, blank last."""
    steps = scores.shape[0] + len(targets)
    alignments = []
    for places in combinations(range(steps - 1), len(targets)):  # the last step is a blank
        t = u = 0
        parts = []
        for step in range(steps):
            if step in places:
                parts.append(scores[t, u, targets[u]])
                u += 1
            else:
                parts.append(scores[t, u, -1])
                t += 1
        alignments.append(torch.stack(parts).sum())
    return -torch.logsumexp(torch.stack(alignments), dim=0)
