"""What the transducer loss asks of an engine, and the engine that torch's own operations make.

An engine does what is done for each row of logits and for each lattice. Matrix products stay outside: they
are torch's on every device. All engines get the same rows, so they can be compared number by number.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from quran_asr.errors import QuranAsrError
from quran_asr.training.loss.lattice import Cells, Lengths, occupancies
from quran_asr.training.loss.triton_engine import TritonEngine


class Engine(Protocol):
    """Three steps between logits and their gradient. A row belongs to a cell; there are n rows of C
    classes."""

    def score(self, logits: Tensor, following: Tensor, blank: int, scores: Tensor) -> None:
        """Write the log-probabilities of each row's blank and label, and the row's normaliser.

        Args:
            logits: [n, C], any float type.
            following: the class of the label that leads out of the cell, int64 [n].
            blank: the class of blank.
            scores: written, float32 or float64 [3, n]: blank, label, log of the sum of exp(logits).
        """

    def sum_paths(
        self, blank: Tensor, label: Tensor, cells: Cells, gradient: bool
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Sum over all paths: see `transducer_lattice.occupancies`."""

    def differentiate(
        self, logits: Tensor, following: Tensor, blank: int, normaliser: Tensor, arcs: tuple[Tensor, Tensor]
    ) -> Tensor:
        """The gradient [n, C] of the loss with respect to each row: softmax * (blanks + labels) - the arcs.

        Args:
            logits: [n, C]. May be overwritten with the result.
            following: as above.
            blank: as above.
            normaliser: as `score` wrote it, [n].
            arcs: what flows through the blanks and through the labels, [n] each, typed as `normaliser`.
        """


class TorchEngine:
    """Runs wherever torch does."""

    def score(self, logits: Tensor, following: Tensor, blank: int, scores: Tensor) -> None:
        """`log_softmax` is one pass on a CPU, `logsumexp` several."""
        log_probs = torch.log_softmax(logits, -1, dtype=scores.dtype)
        scores[0] = log_probs[:, blank]
        scores[1] = log_probs.gather(1, following[:, None])[:, 0]
        scores[2] = logits[:, blank] - scores[0]

    def sum_paths(
        self, blank: Tensor, label: Tensor, cells: Cells, gradient: bool
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Anti-diagonal by anti-diagonal."""
        return occupancies(blank, label, cells, gradient)

    def differentiate(
        self, logits: Tensor, following: Tensor, blank: int, normaliser: Tensor, arcs: tuple[Tensor, Tensor]
    ) -> Tensor:
        """Row by row in the type of the normaliser."""
        blanks, label_arcs = arcs
        found = (
            logits.to(normaliser.dtype).sub_(normaliser[:, None]).exp_().mul_((blanks + label_arcs)[:, None])
        )
        found[:, blank] -= blanks
        found.scatter_add_(1, following[:, None], -label_arcs[:, None])
        return found.to(logits.dtype)


ENGINES: dict[str, type[Engine]] = {"torch": TorchEngine, "triton": TritonEngine}
"""The engines by name."""


def usable_engine(device: torch.device) -> tuple[str, str]:
    """The engine to train with on this device, and why not a faster one.

    On CUDA that is `triton`, once it has computed what `torch` computes on a few small lattices. A training
    is too long, and its loss too quiet about errors, to find that out on the way. The kernels are compiled
    meanwhile, which takes some seconds.
    """
    if device.type != "cuda":
        return "torch", ""
    try:
        difference = disagreement(TritonEngine(), device)
    except QuranAsrError as error:
        return "torch", str(error)
    except Exception as error:  # whatever Triton, its compiler and the driver raise
        return "torch", f"Triton fails here: {' '.join(str(error).split())[:200]}"
    if not difference <= 1:
        return "torch", f"Triton's kernels are off by {difference:.1g} times the rounding here"
    return "triton", ""


def disagreement(engine: Engine, device: torch.device) -> float:
    """Largest difference between an engine's results and torch's, in shares of what rounding explains.

    Looked at on one small ragged batch, with logits in float32 and in bfloat16.
    """
    generator = torch.Generator().manual_seed(0)
    cells, plain = Cells.of(Lengths((5, 1, 3), (33, 0, 4)), device), TorchEngine()
    following = torch.randint(0, 1030, (len(cells.clip),), generator=generator).to(device)
    drawn = torch.randn(len(following), 1040, generator=generator).to(device)
    differences = []
    for logits in (drawn, drawn.bfloat16()):
        found = []
        for one in (plain, engine):
            scores = drawn.new_empty(3, len(following))
            one.score(logits, following, 1030, scores)
            likelihood, blanks, label_arcs = one.sum_paths(scores[0], scores[1], cells, True)
            assert blanks is not None and label_arcs is not None
            flow = blanks.to(scores.dtype), label_arcs.to(scores.dtype)
            gradient = one.differentiate(logits.clone(), following, 1030, scores[2], flow)
            found.append((scores, likelihood / likelihood.abs().max(), *flow, gradient))
        for one_of, other in zip(*found, strict=True):
            rounding = max(1e-4, 2 * torch.finfo(other.dtype).eps)
            differences.append((one_of.double() - other.double()).abs().max() / rounding)
    return float(torch.stack(differences).max())
