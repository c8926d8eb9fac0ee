"""NeMo's joint network with a ReLU, cell by cell: logits in small blocks, made again for their gradient.

A joint adds the encoder's output in frame t to that of the prediction network after u labels, and maps the
sum to a row of logits. Most of the work and of the memory of a transducer's loss are these rows: here only
those of cells inside the lattices are made, and only a block of them exists at a time.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from quran_asr.training.loss.engine import Engine
from quran_asr.training.loss.lattice import Cells, accumulator, free_to_read

BLOCK_BYTES = {"cpu": 2 << 20, "cuda": 32 << 20}
"""Logits that exist at a time. A CPU has them in its cache; a GPU needs more rows to be busy."""
FEWEST_ROWS = 64
"""So many at a time, whatever a row takes."""


@dataclass(frozen=True, slots=True)
class OutputLayer:
    """The linear layer at the end of the joint, padded to V' classes, and the dropout before it.

    The vocabulary is padded to a multiple of eight: products with 257 columns are up to three times slower.
    """

    weight: Tensor
    """[V', H], already divided by 1 - dropout, so that hidden values need not be."""
    bias: Tensor
    """[V'], -inf for the classes that are padding: their probability and gradient are 0."""
    blank: int
    dropped: int
    """Of 65,536 hidden values this many are dropped."""
    seed: int
    """Of the masks of dropout."""

    @classmethod
    def of(
        cls, weight: Tensor, bias: Tensor | None, kind: torch.dtype, dropout: float, seed: int
    ) -> OutputLayer:
        """Pad weight [V + 1, H] and bias [V + 1] and convert them to `kind`."""
        dropped = round(dropout * 65536)
        spare = -weight.shape[0] % 8
        bias = weight.new_zeros(weight.shape[0]) if bias is None else bias
        return cls(
            functional.pad(weight / (1 - dropped / 65536), (0, 0, 0, spare)).to(kind),
            functional.pad(bias, (0, spare), value=-torch.inf).to(kind),
            weight.shape[0] - 1,
            dropped,
            seed,
        )

    @property
    def scale(self) -> float:
        """Share of the hidden values that dropout keeps. The gradient of `weight` is to be divided by it."""
        return 1 - self.dropped / 65536

    @property
    def block_rows(self) -> int:
        """Rows of logits that fill a block."""
        room = BLOCK_BYTES.get(self.weight.device.type, BLOCK_BYTES["cuda"])
        return max(FEWEST_ROWS, room // (self.weight.shape[0] * self.weight.element_size()))


class Masks:
    """Which hidden values dropout keeps, one block of rows after another.

    The masks are drawn twice, before the value and before the gradient, and kept nowhere: a generator of
    their own starts from the same seed each time. Rows are asked for in the same order both times.
    """

    def __init__(self, layer: OutputLayer) -> None:
        self.dropped, self.width = layer.dropped, layer.weight.shape[1]
        self.generator = None
        if layer.dropped:
            self.generator = torch.Generator(layer.weight.device).manual_seed(layer.seed)

    def draw(self, rows: int) -> Tensor | None:
        """The mask of the next rows, bool [rows, H]; None without dropout.

        Sixteen random bits a value, drawn four at a time: ten times faster on a CPU than `bernoulli_`.
        """
        if self.generator is None:
            return None
        bits = torch.empty(
            (rows, -(-self.width // 4)), dtype=torch.int64, device=self.generator.device
        ).random_(-(2**63), None, generator=self.generator)
        return bits.view(torch.int16)[:, : self.width] >= self.dropped - 32768


@dataclass(frozen=True, slots=True)
class Sums:
    """Sums of gradients, float32 or better."""

    encoder: Tensor
    """[B, T, H]"""
    prediction: Tensor
    """[B, U + 1, H]"""
    weight: Tensor
    """[V', H]"""
    bias: Tensor
    """[V']"""

    @classmethod
    def zeros(cls, encoder: Tensor, prediction: Tensor, layer: OutputLayer) -> Sums:
        """Nothing summed yet."""
        exact = accumulator(layer.weight.dtype)
        given = (encoder, prediction, layer.weight, layer.bias)
        # Not `zeros_like`: it copies strides, and flattening would then give a copy.
        return cls(*(one.new_zeros(one.shape, dtype=exact) for one in given))

    def of(self, tile: slice) -> Sums:
        """The sums for some of the clips, the same memory."""
        return Sums(self.encoder[tile], self.prediction[tile], self.weight, self.bias)


@dataclass(frozen=True, slots=True)
class Rows:
    """The rows of one tile's cells."""

    encoder: Tensor
    """Projected, [b, T, H]."""
    prediction: Tensor
    """Projected, [b, U + 1, H]."""
    layer: OutputLayer
    cells: Cells
    following: Tensor
    """The label that leads out of each cell, [N]."""
    engine: Engine

    def blocks(self) -> Iterator[slice]:
        """Slices of the N cells."""
        size = self.layer.block_rows
        return (slice(first, first + size) for first in range(0, len(self.following), size))

    def _places(self, which: Tensor | slice) -> tuple[Tensor, Tensor]:
        """Where the chosen cells read in the flattened encoder [b T] and prediction [b (U + 1)]."""
        clip = self.cells.clip[which]
        frame = clip * self.encoder.shape[1] + self.cells.frame[which]
        return frame, clip * self.prediction.shape[1] + self.cells.emitted[which]

    def _hidden(self, places: tuple[Tensor, Tensor], mask: Tensor | None) -> Tensor:
        frame, emitted = places
        hidden = self.encoder.flatten(0, 1).index_select(0, frame)
        hidden += self.prediction.flatten(0, 1).index_select(0, emitted)
        hidden.relu_()
        if mask is not None:
            hidden *= mask
        return hidden

    def logits(self, block: slice, masks: Masks, out: Tensor | None) -> Tensor:
        """Logits [n, V'] of a block of cells, written to `out` where it is given."""
        hidden = self._hidden(self._places(block), masks.draw(len(self.following[block])))
        return torch.addmm(self.layer.bias, hidden, self.layer.weight.t(), out=out)

    def add_gradients(
        self,
        masks: Masks,
        normaliser: Tensor,
        arcs: tuple[Tensor, Tensor],
        counted: Tensor,
        kept: Tensor | None,
        sums: Sums,
    ) -> None:
        """Add the gradients of the `counted` cells, bool [N], given what flows through arcs, [N].

        On a GPU those of all cells: to leave some out, this process would have to know how many.
        """
        layer = self.layer
        exact = sums.weight.dtype
        into_encoder, into_prediction = sums.encoder.flatten(0, 1), sums.prediction.flatten(0, 1)
        for block in self.blocks():
            mask = masks.draw(len(self.following[block]))
            which: Tensor | slice = block
            if free_to_read(counted.device):
                within = counted[block].nonzero()[:, 0]
                if not len(within):
                    continue
                which = within + block.start
                mask = None if mask is None else mask[within]
            places = self._places(which)
            hidden = self._hidden(places, mask)
            if kept is None:
                logits = torch.addmm(layer.bias, hidden, layer.weight.t())
            else:
                logits = kept[which].clone() if isinstance(which, slice) else kept.index_select(0, which)
            flow = arcs[0][which], arcs[1][which]
            of_logits = self.engine.differentiate(
                logits, self.following[which], layer.blank, normaliser[which], flow
            )
            if hidden.dtype == exact:
                sums.weight.addmm_(of_logits.t(), hidden)
            else:
                sums.weight.add_(of_logits.t() @ hidden)
            sums.bias.add_(of_logits.sum(0, dtype=exact))
            # A value that ReLU or dropout has set to zero passes nothing on.
            of_hidden = of_logits @ layer.weight
            torch.ops.aten.threshold_backward.grad_input(of_hidden, hidden, 0, grad_input=of_hidden)
            into_encoder.index_add_(0, places[0], of_hidden.to(exact))
            into_prediction.index_add_(0, places[1], of_hidden.to(exact))
