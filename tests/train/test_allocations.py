"""What the counter of allocations sees."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch", reason="needs the extra train")

from quran_asr.train.allocations import peak_allocated  # noqa: E402

DEVICES = [torch.device("cpu"), pytest.param(torch.device("cuda"), marks=pytest.mark.gpu)]
MEGABYTE = 2**18  # values of float32


@pytest.mark.parametrize("device", DEVICES, ids=str)
def test_the_height_is_counted_not_the_sum(device: torch.device) -> None:
    def work() -> None:
        for _ in range(3):
            first = torch.zeros(MEGABYTE, device=device)
            second = first + 1
            second.view(2, -1).mul_(2)  # neither a view nor a change in place takes memory
            del first, second

    assert peak_allocated(work, device) == pytest.approx(2 * 2**20, rel=0.01)


@pytest.mark.parametrize("device", DEVICES, ids=str)
def test_what_was_there_before_does_not_count(device: torch.device) -> None:
    there = torch.zeros(8 * MEGABYTE, device=device)
    assert peak_allocated(lambda: there.add_(1), device) == 0
    assert peak_allocated(lambda: there[:MEGABYTE].clone(), device) == pytest.approx(2**20, rel=0.01)


@pytest.mark.parametrize("device", DEVICES, ids=str)
def test_the_backward_pass_is_seen(device: torch.device) -> None:
    weight = torch.ones(MEGABYTE, device=device, requires_grad=True)
    # exp keeps its result, and the gradient is made beside it
    assert peak_allocated(lambda: weight.exp().sum().backward(), device) >= 2 * 2**20
