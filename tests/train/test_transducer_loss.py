"""The transducer loss against a sum over every alignment, autograd, and itself."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from quran_asr.findings import QuranAsrError
from quran_asr.train.transducer_lattice import lattice_loss
from quran_asr.train.transducer_loss import transducer_loss


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Tensors this small are slower on several threads, far slower on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


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
    for said_at in itertools.combinations_with_replacement(range(frames), labels):
        score = sum(float(label[t, u]) for u, t in enumerate(said_at))
        score += sum(float(blank[t, sum(at <= t for at in said_at)]) for t in range(frames))
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


lengths = st.lists(st.tuples(st.integers(1, 6), st.integers(0, 4)), min_size=1, max_size=4)


@given(lengths, st.integers(0, 2**31))
@settings(max_examples=25, deadline=None)
def test_lattice_sums_over_every_alignment(sizes, seed):
    torch.manual_seed(seed)
    frames, labels = (list(counts) for counts in zip(*sizes, strict=True))
    clips, most_frames, most_labels = len(sizes), max(frames) + 1, max(labels) + 1
    blank = torch.rand(clips, most_frames, most_labels + 1, dtype=torch.float64).log()
    label = torch.rand(clips, most_frames, most_labels, dtype=torch.float64).log()
    wanted = [every_alignment(blank[b, :t, : u + 1], label[b, :t, :u]) for b, (t, u) in enumerate(sizes)]
    for clip, (t, u) in enumerate(sizes):
        blank[clip, t:], blank[clip, :, u + 1 :] = torch.nan, torch.nan
        label[clip, t:], label[clip, :, u:] = torch.nan, torch.nan
    found = lattice_loss(blank, label, torch.tensor(frames), torch.tensor(labels))
    torch.testing.assert_close(found, torch.tensor(wanted, dtype=torch.float64), rtol=1e-11, atol=1e-11)


def test_lattice_gradient_is_the_derivative():
    torch.manual_seed(1)
    blank = torch.randn(3, 4, 4, dtype=torch.float64, requires_grad=True)
    label = torch.randn(3, 4, 3, dtype=torch.float64, requires_grad=True)
    counts = torch.tensor([4, 1, 3]), torch.tensor([3, 2, 0])
    assert torch.autograd.gradcheck(lambda one, two: lattice_loss(one, two, *counts), (blank, label))


def test_lattice_gradient_of_padding_is_zero():
    blank = torch.full((1, 3, 3), torch.nan)
    label = torch.full((1, 3, 2), torch.nan)
    blank[0, :2, :2], label[0, :2, :1] = -1.0, -1.5
    blank.requires_grad_(), label.requires_grad_()
    lattice_loss(blank, label, torch.tensor([2]), torch.tensor([1])).sum().backward()
    assert blank.grad[0, 2].tolist() == [0, 0, 0] and blank.grad[0, :, 2].tolist() == [0, 0, 0]
    assert label.grad[0, 2].tolist() == [0, 0] and label.grad[0, :, 1].tolist() == [0, 0, 0]
    # Every path takes one blank a frame and the label once.
    assert blank.grad.sum().item() == pytest.approx(-2) and label.grad.sum().item() == pytest.approx(-1)


@pytest.mark.parametrize("tile_clips", [None, 2])
@pytest.mark.parametrize("activation", [nn.ReLU, nn.Tanh], ids=["relu", "any"])
def test_gradient_through_the_joint_is_the_derivative(activation, tile_clips):
    torch.manual_seed(2)
    joint = RNNTJoint(7, activation=activation()).double()
    batch = Batch([3, 1, 2], [2, 1, 0], classes=7)
    tensors = [batch.encoder.detach().nan_to_num(), batch.prediction.detach().nan_to_num()]
    inputs = [one.requires_grad_() for one in tensors]

    def loss(encoder: Tensor, prediction: Tensor, *_: Tensor) -> Tensor:
        rest = (batch.targets, batch.frames, batch.labels)
        return transducer_loss(encoder, prediction, joint, *rest, tile_clips=tile_clips)

    assert torch.autograd.gradcheck(loss, (*inputs, *joint.parameters()), fast_mode=True)


@given(lengths, st.integers(1, 20), st.sampled_from([0.0, 0.005, 0.7]), st.sampled_from([None, 1, 3]))
@settings(max_examples=25, deadline=None)
@pytest.mark.parametrize("activation", [nn.ReLU, nn.Tanh], ids=["relu", "any"])
def test_value_and_gradients_match_plain_autograd(activation, sizes, symbols, fastemit, tile_clips):
    torch.manual_seed(len(sizes) + symbols)
    frames, labels = (list(counts) for counts in zip(*sizes, strict=True))
    joint = RNNTJoint(symbols + 1, activation=activation()).double()
    batch = Batch(frames, labels, classes=symbols + 1)
    found = batch.gradients(joint, fastemit_lambda=fastemit, tile_clips=tile_clips)
    same(found, plain_gradients(batch, joint, fastemit), rtol=1e-9, atol=1e-11)


def test_blocks_of_rows_do_not_change_the_result(monkeypatch):
    torch.manual_seed(3)
    joint, batch = RNNTJoint(12).double(), Batch([9, 20, 4], [6, 10, 3])
    whole = batch.gradients(joint)
    for name, value in (("transducer_joint.BLOCK_BYTES", 0), ("transducer_loss.TILE_BYTES", 0)):
        monkeypatch.setattr(f"quran_asr.train.{name}", {"cpu": value, "cuda": value})
        same(batch.gradients(joint), whole)
    same(whole, plain_gradients(batch, joint))


def test_cells_that_no_likely_path_visits_are_left_out_without_harm():
    torch.manual_seed(4)
    joint, batch = RNNTJoint(30), Batch([90, 70], [30, 40], classes=30, dtype=torch.float32)
    with torch.no_grad():
        joint.joint_net[-1].weight *= 12
    found = batch.gradients(joint)
    exact = Batch([90, 70], [30, 40], classes=30)
    exact.encoder, exact.prediction = (
        batch.encoder.detach().double().requires_grad_(),
        batch.prediction.detach().double().requires_grad_(),
    )
    exact.targets = batch.targets
    wanted = exact.gradients(joint.double())
    for one, other in zip(found, wanted, strict=True):
        assert (one.double() - other).norm() <= 2e-6 * other.norm()


@pytest.mark.parametrize("activation", [nn.ReLU, nn.Tanh], ids=["relu", "any"])
def test_dropout_is_drawn_once(activation):
    """The gradient belongs to the mask of the value: a small step changes the value as it says."""
    joint, batch = RNNTJoint(9, 0.4, activation()).double(), Batch([6, 5, 3], [3, 4, 1], classes=9)
    for tile_clips in (None, 1, 2):
        torch.manual_seed(5)
        value, *gradients = batch.gradients(joint, tile_clips=tile_clips)
        weights = torch.arange(1, 4, dtype=torch.float64)
        shift = torch.randn_like(joint.joint_net[-1].weight)
        with torch.no_grad():
            joint.joint_net[-1].weight += 1e-6 * shift
            torch.manual_seed(5)
            moved = batch.loss(joint, tile_clips=tile_clips)
            joint.joint_net[-1].weight -= 1e-6 * shift
        predicted = (gradients[-2] * shift).sum() * 1e-6
        assert ((moved - value) @ weights).item() == pytest.approx(predicted.item(), rel=1e-4)
        torch.manual_seed(6)
        assert not torch.equal(batch.loss(joint, tile_clips=tile_clips), value)
        joint.eval()
        same([batch.loss(joint)], [plain_gradients(batch, joint)[0]])
        joint.train()


def test_dropout_does_not_depend_on_tiles():
    joint, batch = RNNTJoint(9, 0.3).double(), Batch([6, 5, 3], [3, 4, 1], classes=9)
    results = []
    for tile_clips in (None, 1, 2):
        torch.manual_seed(7)
        results.append(batch.gradients(joint, tile_clips=tile_clips))
    same(results[1], results[0])
    same(results[2], results[0])


def test_dropout_keeps_the_expected_share_and_scale():
    """All hidden values are one, and the only logit is their mean: it shows how many were kept."""
    joint = RNNTJoint(2, 0.25)
    with torch.no_grad():
        for parameter in joint.parameters():
            parameter.zero_()
        joint.enc.bias += 1
        joint.joint_net[-1].weight[0] += 1 / 8
    torch.manual_seed(8)
    clips = 4000
    zeros = torch.zeros(clips, 1, 5), torch.zeros(clips, 1, 6)
    nothing = torch.zeros(clips, 0, dtype=torch.int64)
    ones, none = torch.ones(clips, dtype=torch.int64), torch.zeros(clips, dtype=torch.int64)
    loss = transducer_loss(*zeros, joint, nothing, ones, none)
    logit = loss.expm1().log()
    assert logit.mean().item() == pytest.approx(1.0, abs=0.02)
    kept = (logit * 8 * 0.75).round()
    assert (kept / 8).mean().item() == pytest.approx(0.75, abs=0.01)
    assert kept.unique().numel() > 5


def test_no_labels_at_all_and_single_frames():
    torch.manual_seed(9)
    joint = RNNTJoint(5).double()
    encoder, prediction = torch.randn(2, 3, 5).double(), torch.randn(2, 1, 6).double()
    nothing, none = torch.zeros(2, 0, dtype=torch.int64), torch.tensor([0, 0])
    loss = transducer_loss(encoder, prediction, joint, nothing, torch.tensor([1, 3]), none)
    blanks = joint.joint_after_projection(joint.enc(encoder), joint.pred(prediction))[..., 0, -1]
    torch.testing.assert_close(loss, -torch.stack([blanks[0, 0], blanks[1].sum()]))


@pytest.mark.parametrize("activation", [nn.ReLU, nn.Tanh], ids=["relu", "any"])
def test_half_precision_inputs_give_float32(activation):
    torch.manual_seed(10)
    joint, batch = RNNTJoint(12, activation=activation()), Batch([20, 9], [8, 5], dtype=torch.float32)
    wanted = batch.gradients(joint)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = batch.gradients(joint)
    assert mixed[0].dtype == torch.float32
    assert [one.dtype for one in mixed] == [one.dtype for one in wanted]
    for one, other in zip(mixed, wanted, strict=True):
        assert (one - other).norm() <= 0.03 * other.norm()
    blank, label = torch.randn(1, 9, 4).log_softmax(-1), torch.randn(1, 9, 3).log_softmax(-1)
    counts = torch.tensor([9]), torch.tensor([3])
    narrow = lattice_loss(blank.bfloat16(), label.bfloat16(), *counts)
    assert narrow.dtype == torch.float32
    torch.testing.assert_close(
        narrow, lattice_loss(blank.bfloat16().float(), label.bfloat16().float(), *counts)
    )


def test_any_callable_that_returns_logits():
    torch.manual_seed(11)
    joint, batch = RNNTJoint(12).double(), Batch([5, 7], [2, 4])

    def logits(encoder: Tensor, prediction: Tensor) -> Tensor:
        hidden = joint.enc(encoder).unsqueeze(2) + joint.pred(prediction).unsqueeze(1)
        return joint.joint_net(hidden) + 3

    torch.testing.assert_close(batch.loss(logits), batch.loss(joint))
    torch.testing.assert_close(batch.loss(logits, tile_clips=1), batch.loss(joint))


def test_a_subclass_with_its_own_joint_is_asked():
    class Doubled(RNNTJoint):
        def joint_after_projection(self, encoder: Tensor, prediction: Tensor) -> Tensor:
            return 2 * super().joint_after_projection(encoder, prediction)

    torch.manual_seed(12)
    joint, batch = Doubled(12).double(), Batch([5, 7], [2, 4])
    same(batch.gradients(joint), plain_gradients(batch, joint))


def test_value_alone_is_the_same_and_leaves_no_graph():
    torch.manual_seed(13)
    joint, batch = RNNTJoint(12).double(), Batch([5, 7], [2, 4])
    with torch.no_grad():
        value = batch.loss(joint)
    assert not value.requires_grad
    torch.testing.assert_close(value, batch.gradients(joint)[0])


def test_frozen_parts_get_no_gradient():
    joint, batch = RNNTJoint(12).double(), Batch([5, 7], [2, 4])
    whole = batch.gradients(joint)
    for parameter in joint.parameters():
        parameter.requires_grad_(False)
    loss = batch.loss(joint)
    found = torch.autograd.grad(loss @ torch.tensor([1.0, 2.0]).double(), [batch.encoder, batch.prediction])
    same(list(found), whole[1:3])


def test_nan_inside_a_clip_is_seen_and_stays_with_it():
    joint, batch = RNNTJoint(12).double(), Batch([5, 7], [2, 4])
    with torch.no_grad():
        batch.encoder[0, 2] = torch.nan
    loss = batch.loss(joint)
    assert loss.isnan().tolist() == [True, False]
    gradient = torch.autograd.grad(loss.sum(), batch.encoder)[0]
    assert gradient[0].isnan().any() and not gradient[1].isnan().any()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"frames": [5, 0]}, "clip 1 has 0 frames"),
        ({"frames": [9, 7]}, "clip 0 has 9 frames"),
        ({"labels": [2, 6]}, "clip 1 has 6 labels"),
        ({"labels": [-1, 4]}, "clip 0 has -1 labels"),
        ({"frames": [5]}, "2 clips need as many"),
        ({"targets": [[1, 2, 0, 0, 0], [1, 11, 0, 0, 0]]}, "clip 1: target 1 is 11; labels go from 0 to 10"),
        ({"targets": [[1, -1, 0, 0, 0], [1, 1, 0, 0, 0]]}, "clip 0: target 1 is -1"),
        ({"targets": [[1, 2]]}, "do not fit together"),
        ({"engine": "abacus"}, "`abacus`"),
        ({"tile_clips": 0}, "at least one clip"),
        ({"fastemit_lambda": -0.1}, "fastemit_lambda"),
    ],
)
@pytest.mark.parametrize("activation", [nn.ReLU, nn.Tanh], ids=["relu", "any"])
def test_what_cannot_be_is_refused_by_name(activation, change, message):
    joint, batch = RNNTJoint(12, activation=activation()).double(), Batch([5, 7], [2, 4])
    options = {}
    for name, value in change.items():
        if isinstance(value, list):
            setattr(batch, name, torch.tensor(value))
        else:
            options[name] = value
    with pytest.raises(QuranAsrError, match=message):
        batch.loss(joint, **options)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("tile_clips", [None, 2])
def test_a_gpu_agrees_with_the_cpu(tile_clips):
    torch.manual_seed(14)
    joint, batch = RNNTJoint(12).double(), Batch([9, 20, 4], [6, 10, 3])
    wanted = batch.gradients(joint)
    for name in ("encoder", "prediction"):
        setattr(batch, name, getattr(batch, name).detach().cuda().requires_grad_())
    batch.targets, batch.frames, batch.labels = batch.targets.cuda(), batch.frames.cuda(), batch.labels.cuda()
    joint.cuda()
    loss = batch.loss(joint, tile_clips=tile_clips)
    inputs = [batch.encoder, batch.prediction, *joint.parameters()]
    found = torch.autograd.grad(loss @ torch.arange(1, 4, device="cuda", dtype=loss.dtype), inputs)
    same([loss.detach().cpu(), *(one.cpu() for one in found)], wanted)
