"""Muon: orthogonal updates for the encoder's matrices, AdamW's for all else, one state for both."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, distributed, nn
from torch.multiprocessing.spawn import spawn

from quran_asr.config.recipe import load_recipe
from quran_asr.training import muon
from quran_asr.training.distributed import Ranks
from quran_asr.training.model import build_model
from quran_asr.training.muon import ADAMW_SIZE, Muon, hidden_matrices, orthogonalized, shared_out
from quran_asr.training.tokenizer import Tokenizer

SETTINGS = {"lr": 0.01, "betas": (0.9, 0.98), "weight_decay": 0.1, "fused": True}


def nearest(matrix: Tensor) -> Tensor:
    """The nearest orthogonal matrix, by its definition."""
    left, _, right = torch.linalg.svd(matrix.double(), full_matrices=False)
    return (left @ right).float()


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 1000), st.integers(2, 64), st.integers(2, 64), st.floats(1e-6, 1e4))
def test_a_matrix_comes_close_to_the_nearest_orthogonal_one(
    seed: int, rows: int, columns: int, scale: float
) -> None:
    torch.manual_seed(seed)
    left, right = (
        torch.linalg.qr(torch.randn(rows, rows))[0],
        torch.linalg.qr(torch.randn(columns, columns))[0],
    )
    rank = min(rows, columns)
    values = torch.logspace(0, -1.5, rank)
    matrix = scale * (left[:, :rank] * values) @ right[:rank]
    found = orthogonalized(matrix)
    assert found.shape == matrix.shape and found.dtype == torch.float32
    singular = torch.linalg.svdvals(found)
    assert float(singular.min()) > 0.3
    assert float(singular.max()) < 1.7
    assert float(torch.cosine_similarity(found.flatten(), nearest(matrix).flatten(), dim=0)) > 0.85


def test_nothing_becomes_nothing() -> None:
    assert torch.equal(orthogonalized(torch.zeros(3, 5)), torch.zeros(3, 5))


@pytest.mark.parametrize("fast", [True, False])
def test_bf16_is_used_only_where_a_cpu_is_fast_with_it(fast: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(muon, "multiplies_bf16", lambda: fast)
    found = orthogonalized(torch.randn(6, 9, generator=torch.Generator().manual_seed(1)))
    assert torch.equal(found, found.bfloat16().float()) == fast


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.matrix = nn.Parameter(torch.randn(8, 6))
        self.convolution = nn.Parameter(torch.randn(6, 4, 1))
        self.bias = nn.Parameter(torch.randn(5))

    def muon(self, ranks: Ranks = Ranks()) -> Muon:  # noqa: B008 - frozen
        return Muon([{"params": list(self.parameters())}], [self.matrix, self.convolution], ranks, **SETTINGS)

    def give_gradients(self, seed: int) -> None:
        torch.manual_seed(seed)
        for parameter in self.parameters():
            parameter.grad = torch.randn_like(parameter)


def test_a_step_has_the_size_of_one_of_adamw_and_other_parameters_are_adamws() -> None:
    ours, theirs = Small(), Small()
    muon, adamw = ours.muon(), torch.optim.AdamW(theirs.parameters(), **SETTINGS)  # type: ignore[arg-type]
    for seed in range(5):
        before = ours.matrix.detach().clone()
        for one, optimizer in ((ours, muon), (theirs, adamw)):
            one.give_gradients(seed)
            optimizer.step()
        assert torch.equal(ours.bias, theirs.bias)
        step = (before * (1 - 0.01 * 0.1) - ours.matrix.detach()) / 0.01
        # rows of an orthogonal [8, 6] have a root mean square of 1 / sqrt(8)
        assert float(step.square().mean().sqrt()) == pytest.approx(ADAMW_SIZE, rel=0.4)
        assert ours.matrix.grad is not None, "gradients stay until they are cleared"


def test_a_step_that_is_to_be_left_out_changes_nothing() -> None:
    model = Small()
    muon = model.muon()
    model.give_gradients(0)
    muon.step()
    before = [p.detach().clone() for p in model.parameters()]
    momentum = muon.state[model.matrix]["exp_avg"].clone()
    for parameter in model.parameters():
        assert parameter.grad is not None
        parameter.grad.fill_(torch.nan)
    muon.found_inf = torch.ones(())  # type: ignore[attr-defined]
    muon.step()
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    assert torch.equal(momentum, muon.state[model.matrix]["exp_avg"])


def test_a_run_goes_on_from_its_state_and_adamw_can_take_it_over() -> None:
    whole, first = Small(), Small()
    one = whole.muon()
    for seed in range(6):
        whole.give_gradients(seed)
        one.step()
    other = first.muon()
    for seed in range(3):
        first.give_gradients(seed)
        other.step()
    second = Small()
    second.load_state_dict(first.state_dict())
    resumed, adamw = second.muon(), torch.optim.AdamW(first.parameters(), **SETTINGS)  # type: ignore[arg-type]
    resumed.load_state_dict(other.state_dict())
    adamw.load_state_dict(other.state_dict())
    for seed in range(3, 6):
        second.give_gradients(seed)
        resumed.step()
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), second.parameters(), strict=True))
    first.give_gradients(3)
    adamw.step()
    assert all(bool(p.isfinite().all()) for p in first.parameters())


def test_the_matrices_are_those_inside_the_encoder(tokenizer: Tokenizer) -> None:
    recipe = load_recipe("quickstart", ["quran.vocabulary_size=48"])
    model = build_model(recipe, tokenizer.folder)
    chosen = {id(p) for p in hidden_matrices(model)}
    names = {name for name, p in model.named_parameters() if id(p) in chosen}
    assert all(name.startswith("encoder.layers.") for name in names)
    assert "encoder.layers.0.self_attn.linear_q.weight" in names
    assert "encoder.layers.0.feed_forward1.linear1.weight" in names
    assert "encoder.layers.0.conv.pointwise_conv1.weight" in names
    assert not any("depthwise" in name or "pos_bias" in name or "norm" in name for name in names)


@pytest.mark.parametrize("processes", [1, 2, 3, 8])
def test_the_work_is_shared_out_evenly(processes: int) -> None:
    shapes = [(256, 1024), (1024, 256), (256, 256), (512, 256)] * 8
    owners = shared_out(shapes, processes)
    loads = [0] * processes
    for owner, shape in zip(owners, shapes, strict=True):
        loads[owner] += min(shape) ** 2 * max(shape)
    assert max(loads) <= 1.1 * sum(loads) / processes
    assert shared_out([], processes) == []


@pytest.mark.slow
def test_processes_that_share_the_work_make_the_steps_of_one(tmp_path: Path) -> None:
    alone = Small()
    muon = alone.muon()
    for seed in range(3):
        alone.give_gradients(seed)
        muon.step()
    spawn(_steps_of_one_of_two, (str(tmp_path),), nprocs=2)  # type: ignore[no-untyped-call]
    for rank in range(2):
        together = torch.load(tmp_path / f"{rank}.pt")
        assert all(torch.equal(alone.state_dict()[name], kept) for name, kept in together.items())


def _steps_of_one_of_two(rank: int, folder: str) -> None:
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    model = Small()
    muon = model.muon(Ranks(rank, 2))
    for seed in range(3):
        model.give_gradients(seed)
        muon.step()
    torch.save(model.state_dict(), Path(folder) / f"{rank}.pt")
    distributed.destroy_process_group()
