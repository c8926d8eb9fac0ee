"""The transducer loss against a sum over every alignment, autograd, and itself."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from quran_asr.errors import QuranAsrError
from quran_asr.training.loss.engine import ENGINES, TorchEngine, disagreement, usable_engine
from quran_asr.training.loss.lattice import lattice_loss
from quran_asr.training.loss.transducer import transducer_loss

sys.path.insert(0, str(Path(__file__).parent))
from transducer_cases import Batch, RNNTJoint, every_alignment, plain_gradients, same


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Tensors this small are slower on several threads, far slower on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


EXAMPLES = 6 if os.environ.get("TRITON_INTERPRET") == "1" else 25
"""An interpreted kernel takes as long as a whole test otherwise."""


@pytest.fixture(params=["torch", "triton"], scope="module")
def engine(request):
    """Triton's kernels run here where its interpreter does: `./test.sh` calls it with CI=true."""
    if request.param == "triton":
        pytest.importorskip("triton", reason="no Triton here: CI=true ./test.sh brings it")
        if os.environ.get("TRITON_INTERPRET") != "1":
            pytest.skip("TRITON_INTERPRET is not 1")
    return request.param


lengths = st.lists(st.tuples(st.integers(1, 6), st.integers(0, 4)), min_size=1, max_size=4)


@given(lengths, st.integers(0, 2**31))
@settings(max_examples=EXAMPLES, deadline=None)
def test_lattice_sums_over_every_alignment(engine, sizes, seed):
    torch.manual_seed(seed)
    frames, labels = (list(counts) for counts in zip(*sizes, strict=True))
    clips, most_frames, most_labels = len(sizes), max(frames) + 1, max(labels) + 1
    blank = torch.rand(clips, most_frames, most_labels + 1, dtype=torch.float64).log()
    label = torch.rand(clips, most_frames, most_labels, dtype=torch.float64).log()
    wanted = [every_alignment(blank[b, :t, : u + 1], label[b, :t, :u]) for b, (t, u) in enumerate(sizes)]
    for clip, (t, u) in enumerate(sizes):
        blank[clip, t:], blank[clip, :, u + 1 :] = torch.nan, torch.nan
        label[clip, t:], label[clip, :, u:] = torch.nan, torch.nan
    counts = torch.tensor(frames), torch.tensor(labels)
    found = lattice_loss(blank, label, *counts, sum_paths=ENGINES[engine]().sum_paths)
    torch.testing.assert_close(found, torch.tensor(wanted, dtype=torch.float64), rtol=1e-11, atol=1e-11)


def test_lattice_gradient_is_the_derivative(engine):
    torch.manual_seed(1)
    blank = torch.randn(3, 4, 4, dtype=torch.float64, requires_grad=True)
    label = torch.randn(3, 4, 3, dtype=torch.float64, requires_grad=True)
    counts = torch.tensor([4, 1, 3]), torch.tensor([3, 2, 0])
    sum_paths = ENGINES[engine]().sum_paths
    assert torch.autograd.gradcheck(
        lambda one, two: lattice_loss(one, two, *counts, sum_paths=sum_paths), (blank, label), fast_mode=True
    )


def test_lattice_gradient_of_padding_is_zero(engine):
    blank = torch.full((1, 3, 3), torch.nan)
    label = torch.full((1, 3, 2), torch.nan)
    blank[0, :2, :2], label[0, :2, :1] = -1.0, -1.5
    blank.requires_grad_(), label.requires_grad_()
    sum_paths = ENGINES[engine]().sum_paths
    lattice_loss(blank, label, torch.tensor([2]), torch.tensor([1]), sum_paths=sum_paths).sum().backward()
    assert blank.grad[0, 2].tolist() == [0, 0, 0] and blank.grad[0, :, 2].tolist() == [0, 0, 0]
    assert label.grad[0, 2].tolist() == [0, 0] and label.grad[0, :, 1].tolist() == [0, 0, 0]
    # Every path takes one blank a frame and the label once.
    assert blank.grad.sum().item() == pytest.approx(-2) and label.grad.sum().item() == pytest.approx(-1)


@pytest.mark.parametrize("tile_clips", [None, 2])
@pytest.mark.parametrize("activation", [nn.ReLU, nn.Tanh], ids=["relu", "any"])
def test_gradient_through_the_joint_is_the_derivative(engine, activation, tile_clips):
    torch.manual_seed(2)
    joint = RNNTJoint(7, activation=activation()).double()
    batch = Batch([3, 1, 2], [2, 1, 0], classes=7)
    tensors = [batch.encoder.detach().nan_to_num(), batch.prediction.detach().nan_to_num()]
    inputs = [one.requires_grad_() for one in tensors]

    def loss(encoder: Tensor, prediction: Tensor, *_: Tensor) -> Tensor:
        rest = (batch.targets, batch.frames, batch.labels)
        return transducer_loss(encoder, prediction, joint, *rest, tile_clips=tile_clips, engine=engine)

    assert torch.autograd.gradcheck(loss, (*inputs, *joint.parameters()), fast_mode=True)


@given(lengths, st.integers(1, 20), st.sampled_from([0.0, 0.005, 0.7]), st.sampled_from([None, 1, 3]))
@settings(max_examples=EXAMPLES, deadline=None)
@pytest.mark.parametrize("activation", [nn.ReLU, nn.Tanh], ids=["relu", "any"])
def test_value_and_gradients_match_plain_autograd(engine, activation, sizes, symbols, fastemit, tile_clips):
    torch.manual_seed(len(sizes) + symbols)
    frames, labels = (list(counts) for counts in zip(*sizes, strict=True))
    joint = RNNTJoint(symbols + 1, activation=activation()).double()
    batch = Batch(frames, labels, classes=symbols + 1)
    found = batch.gradients(joint, fastemit_lambda=fastemit, tile_clips=tile_clips, engine=engine)
    same(found, plain_gradients(batch, joint, fastemit), rtol=1e-9, atol=1e-11)


def test_blocks_of_rows_do_not_change_the_result(monkeypatch):
    torch.manual_seed(3)
    joint, batch = RNNTJoint(12).double(), Batch([9, 20, 4], [6, 10, 3])
    whole = batch.gradients(joint)
    for name in ("joint.BLOCK_BYTES", "transducer.TILE_BYTES", "transducer.KEPT_BYTES"):
        monkeypatch.setattr(f"quran_asr.training.loss.{name}", {"cpu": 0, "cuda": 0})
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


def test_no_labels_at_all_and_single_frames(engine):
    torch.manual_seed(9)
    joint = RNNTJoint(5).double()
    encoder, prediction = torch.randn(2, 3, 5).double(), torch.randn(2, 1, 6).double()
    nothing, none = torch.zeros(2, 0, dtype=torch.int64), torch.tensor([0, 0])
    loss = transducer_loss(encoder, prediction, joint, nothing, torch.tensor([1, 3]), none, engine=engine)
    blanks = joint.joint_after_projection(joint.enc(encoder), joint.pred(prediction))[..., 0, -1]
    torch.testing.assert_close(loss, -torch.stack([blanks[0, 0], blanks[1].sum()]))


@pytest.mark.parametrize("activation", [nn.ReLU, nn.Tanh], ids=["relu", "any"])
def test_half_precision_inputs_give_float32(engine, activation):
    torch.manual_seed(10)
    joint, batch = RNNTJoint(12, activation=activation()), Batch([20, 9], [8, 5], dtype=torch.float32)
    wanted = batch.gradients(joint)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = batch.gradients(joint, engine=engine)
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


def test_value_alone_is_the_same_and_leaves_no_graph(engine):
    torch.manual_seed(13)
    joint, batch = RNNTJoint(12).double(), Batch([5, 7], [2, 4])
    with torch.no_grad():
        value = batch.loss(joint, engine=engine)
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


def test_nan_inside_a_clip_is_seen_and_stays_with_it(engine):
    joint, batch = RNNTJoint(12).double(), Batch([5, 7], [2, 4])
    with torch.no_grad():
        batch.encoder[0, 2] = torch.nan
    loss = batch.loss(joint, engine=engine)
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


def test_engines_agree_on_rows_and_lattices_beyond_a_block(engine):
    """1,040 classes are more than a program takes at a time, 33 labels more than a warp has lanes."""
    assert disagreement(ENGINES[engine](), torch.device("cpu")) < 1


def test_an_engine_that_is_off_is_found_out_and_not_used():
    class Off(TorchEngine):
        def differentiate(self, *given) -> Tensor:
            return super().differentiate(*given) * 1.001

    assert disagreement(TorchEngine(), torch.device("cpu")) == 0
    assert disagreement(Off(), torch.device("cpu")) > 1
    assert usable_engine(torch.device("cpu")) == ("torch", "")
    if not torch.cuda.is_available():
        name, why = usable_engine(torch.device("cuda"))
        assert name == "torch" and why


def test_an_impossible_clip_costs_inf(engine):
    blank, label = torch.zeros(1, 2, 2), torch.full((1, 2, 1), -torch.inf)
    counts = torch.tensor([2]), torch.tensor([1])
    assert lattice_loss(blank, label, *counts, sum_paths=ENGINES[engine]().sum_paths).tolist() == [torch.inf]


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is here")
def test_the_engine_for_gpus_reports_where_it_does_not_run(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    joint, batch = RNNTJoint(12), Batch([5, 7], [2, 4], dtype=torch.float32)
    with pytest.raises(QuranAsrError, match="triton"):
        batch.loss(joint, engine="triton")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("name", ["torch", "triton"])
@pytest.mark.parametrize("tile_clips", [None, 2])
def test_a_gpu_agrees_with_the_cpu(name, tile_clips):
    torch.manual_seed(14)
    joint, batch = RNNTJoint(12).double(), Batch([9, 20, 4], [6, 10, 3])
    wanted = batch.gradients(joint)
    for name in ("encoder", "prediction"):
        setattr(batch, name, getattr(batch, name).detach().cuda().requires_grad_())
    batch.targets, batch.frames, batch.labels = batch.targets.cuda(), batch.frames.cuda(), batch.labels.cuda()
    joint.cuda()
    loss = batch.loss(joint, tile_clips=tile_clips, engine=name)
    inputs = [batch.encoder, batch.prediction, *joint.parameters()]
    found = torch.autograd.grad(loss @ torch.arange(1, 4, device="cuda", dtype=loss.dtype), inputs)
    same([loss.detach().cpu(), *(one.cpu() for one in found)], wanted)
