"""A joint network, ragged batches, and the transducer loss by the plainest means."""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor, nn

from quran_asr.training.loss.transducer import transducer_loss


class RNNTJoint(nn.Module):
    """NeMo's joint, as far as the loss sees it. The test beside this one uses NeMo's own."""

    masking_prob = -1.0
    temperature = 1.0
    num_extra_outputs = 0

    def __init__(self, classes: int, dropout: float = 0.0, activation: nn.Module | None = None) -> None:
        super().__init__()
        self.enc, self.pred = nn.Linear(5, 8), nn.Linear(6, 8)
        drop = [nn.Dropout(dropout)] if dropout else []
        self.joint_net = nn.Sequential(activation or nn.ReLU(inplace=True), *drop, nn.Linear(8, classes))

    def is_adapter_available(self) -> bool:
        return False

    def project_encoder(self, encoder: Tensor) -> Tensor:
        return self.enc(encoder)

    def project_prednet(self, prediction: Tensor) -> Tensor:
        return self.pred(prediction)

    def joint_after_projection(self, encoder: Tensor, prediction: Tensor) -> Tensor:
        return self.joint_net(encoder.unsqueeze(2) + prediction.unsqueeze(1)).log_softmax(-1)


class Batch:
    """Random outputs and targets; NaN and impossible labels wherever there is padding."""

    def __init__(self, frames: list[int], labels: list[int], classes: int = 12, dtype=torch.float64) -> None:
        clips, most_frames, most_labels = len(frames), max(frames) + 1, max(labels) + 1
        self.encoder = torch.randn(clips, most_frames, 5, dtype=dtype)
        self.prediction = torch.randn(clips, most_labels + 1, 6, dtype=dtype)
        self.targets = torch.randint(0, classes - 1, (clips, most_labels))
        for clip, (t, u) in enumerate(zip(frames, labels, strict=True)):
            self.encoder[clip, t:] = torch.nan
            self.prediction[clip, u + 1 :] = torch.nan
            self.targets[clip, u:] = -7
        self.encoder.requires_grad_()
        self.prediction.requires_grad_()
        self.frames, self.labels = torch.tensor(frames), torch.tensor(labels)

    def loss(self, joint, **options) -> Tensor:
        tensors = (self.targets, self.frames, self.labels)
        return transducer_loss(self.encoder, self.prediction, joint, *tensors, **options)

    def gradients(self, joint: nn.Module, **options) -> list[Tensor]:
        """Loss and the gradients of a sum in which every clip has another weight."""
        loss = self.loss(joint, **options)
        weights = torch.arange(1, len(loss) + 1, dtype=loss.dtype)
        inputs = [self.encoder, self.prediction, *joint.parameters()]
        return [loss.detach(), *torch.autograd.grad(loss @ weights, inputs)]


def every_alignment(blank: Tensor, label: Tensor) -> float:
    """Minus the log of the sum over all paths through blank [T, U + 1] and label [T, U], one by one."""
    frames, labels = label.shape
    total = []
    for emitted_at in itertools.combinations_with_replacement(range(frames), labels):
        score = sum(float(label[t, u]) for u, t in enumerate(emitted_at))
        score += sum(float(blank[t, sum(at <= t for at in emitted_at)]) for t in range(frames))
        total.append(score)
    return -math.log(sum(math.exp(score) for score in total))


def arcs_of(batch: Batch, joint: RNNTJoint, clip: int) -> tuple[Tensor, Tensor]:
    """Log-probabilities of one clip's arcs by the plainest means."""
    frames, labels = int(batch.frames[clip]), int(batch.labels[clip])
    encoder = joint.enc(batch.encoder[clip : clip + 1, :frames])
    prediction = joint.pred(batch.prediction[clip : clip + 1, : labels + 1])
    log_probs = joint.joint_after_projection(encoder, prediction)[0].log_softmax(-1)
    targets = batch.targets[clip, :labels]
    return log_probs[:, :, -1], log_probs[:, :-1].gather(2, targets.expand(frames, -1)[..., None])[..., 0]


def loss_by_autograd(blank: Tensor, label: Tensor) -> Tensor:
    """The recursion of one clip, cell by cell."""
    frames, labels = label.shape
    alpha: dict[tuple[int, int], Tensor] = {(0, 0): blank.new_zeros(())}
    for t, u in itertools.product(range(frames), range(labels + 1)):
        into = []
        if t:
            into.append(alpha[t - 1, u] + blank[t - 1, u])
        if u:
            into.append(alpha[t, u - 1] + label[t, u - 1])
        if into:
            alpha[t, u] = torch.logsumexp(torch.stack(into), 0)
    return -(alpha[frames - 1, labels] + blank[frames - 1, labels])


def plain_gradients(batch: Batch, joint: RNNTJoint, fastemit_lambda: float = 0.0) -> list[Tensor]:
    """What `Batch.gradients` returns, by autograd through the plain recursion.

    FastEmit as its definition has it: label arcs pass on 1 + lambda times the gradient.
    """
    losses = []
    for clip in range(len(batch.frames)):
        blank, label = arcs_of(batch, joint, clip)
        if label.requires_grad:
            label.register_hook(lambda gradient: gradient * (1 + fastemit_lambda))
        losses.append(loss_by_autograd(blank, label))
    loss = torch.stack(losses)
    weights = torch.arange(1, len(loss) + 1, dtype=loss.dtype)
    inputs = [batch.encoder, batch.prediction, *joint.parameters()]
    return [loss.detach(), *torch.autograd.grad(loss @ weights, inputs)]


def same(one: list[Tensor], other: list[Tensor], **tolerances) -> None:
    for left, right in zip(one, other, strict=True):
        torch.testing.assert_close(left, right, **tolerances)
