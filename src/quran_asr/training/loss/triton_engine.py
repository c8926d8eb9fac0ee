"""The engine of the transducer loss for CUDA: each step is one Triton kernel.

Against torch's operations it saves the passes over the logits in between (softmax, choice of two classes, and
gradient in place: one reading each), and a launch for every anti-diagonal of the lattice. It needs Triton,
which torch's builds for CUDA bring along, and neither numba nor NVVM. With TRITON_INTERPRET=1 it runs on a
CPU, slowly: that is how it is tested where there is no GPU.
"""

from __future__ import annotations

import os

import torch
from torch import Tensor

from quran_asr.errors import QuranAsrError
from quran_asr.training.loss.lattice import Cells, accumulator, sent

try:
    import triton

    from quran_asr.training.loss import triton_kernels as kernels
except ImportError:  # torch's builds for the CPU come without it
    triton = None

_WIDEST_ROW = 1024
"""Classes that a program of `score` and `differentiate` takes at a time."""


class TritonEngine:
    """Runs on CUDA, and in Triton's interpreter."""

    def __init__(self) -> None:
        if triton is None:
            raise QuranAsrError(
                "the transducer loss engine `triton` needs the package triton",
                remedy="torch's builds for CUDA bring it along; use `torch` on a CPU",
            )

    def score(self, logits: Tensor, following: Tensor, blank: int, scores: Tensor) -> None:
        """One program a row."""
        rows, classes = logits.shape
        block, warps = _row_block(classes)
        task = (logits.contiguous(), following, blank, classes, *scores.unbind())
        with _device_of(logits):
            kernels.score[(rows,)](*task, BLOCK=block, num_warps=warps)

    def sum_paths(
        self, blank: Tensor, label: Tensor, cells: Cells, gradient: bool
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """One program a clip and direction, then one a frame."""
        blank, label, lengths = blank.contiguous(), label.contiguous(), cells.lengths
        clips, count = len(lengths.frame_counts), len(blank)
        sizes = torch.tensor([lengths.cell_counts, lengths.frame_counts, lengths.label_counts])
        sizes[0] = sizes[0].cumsum(0) - sizes[0]
        starts, frames, labels = sent(sizes, blank.device).unbind()
        directions = 2 if gradient else 1
        nodes = blank.new_empty((directions, count), dtype=torch.float64)
        likelihood = nodes.new_empty(clips)
        block = max(32, triton.next_power_of_2(max(lengths.label_counts) + 1))
        warps = max(1, min(8, block // 64))
        lattice = (blank, label, starts, frames, labels, count, nodes, likelihood)
        with _device_of(blank):
            kernels.sum_paths[(clips, directions)](*lattice, BLOCK=block, num_warps=warps)
            if not gradient:
                return likelihood, None, None
            kind = accumulator(blank.dtype)
            blanks, label_arcs = torch.empty_like(blank, dtype=kind), torch.empty_like(blank, dtype=kind)
            grid = (max(lengths.frame_counts), clips)
            kernels.occupancies[grid](*lattice, blanks, label_arcs, BLOCK=block, num_warps=warps)
        return likelihood, blanks, label_arcs

    def differentiate(
        self, logits: Tensor, following: Tensor, blank: int, normaliser: Tensor, arcs: tuple[Tensor, Tensor]
    ) -> Tensor:
        """One program a row, in place."""
        rows, classes = logits.shape
        block, warps = _row_block(classes)
        logits, flow = logits.contiguous(), [one.contiguous() for one in (normaliser, *arcs)]
        task = (logits, following, blank, classes, *flow)
        with _device_of(logits):
            kernels.differentiate[(rows,)](*task, BLOCK=block, num_warps=warps)
        return logits


def _row_block(classes: int) -> tuple[int, int]:
    """Lanes and warps for a row of so many classes."""
    block = min(_WIDEST_ROW, triton.next_power_of_2(classes))
    return block, max(1, block // 256)


def _device_of(tensor: Tensor) -> torch.cuda.device_of:
    """Kernels run on the current device: make it the tensor's."""
    if not tensor.is_cuda and os.environ.get("TRITON_INTERPRET") != "1":
        raise QuranAsrError(
            f"the transducer loss engine `triton` runs on CUDA, not on `{tensor.device}`",
            remedy="use `torch` there",
        )
    return torch.cuda.device_of(tensor)  # type: ignore[no-untyped-call]
