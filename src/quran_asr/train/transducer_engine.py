"""What the transducer loss asks of an engine, and the engine that torch's own operations make.

An engine does what is done for each row of logits and for each lattice. Matrix products stay outside: they are
torch's on every device. All engines get the same rows, so they can be compared number by number.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from quran_asr.train.transducer_lattice import Cells, occupancies


class Engine(Protocol):
    """Three steps between logits and their gradient. A row belongs to a cell; there are n rows of C classes."""

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
        """The gradient [n, C] of the loss with respect to each row: softmax * (blanks + said) - the arcs.

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
        blanks, said = arcs
        found = logits.to(normaliser.dtype).sub_(normaliser[:, None]).exp_().mul_((blanks + said)[:, None])
        found[:, blank] -= blanks
        found.scatter_add_(1, following[:, None], -said[:, None])
        return found.to(logits.dtype)


ENGINES: dict[str, type[Engine]] = {"torch": TorchEngine}
"""The engines by name."""
