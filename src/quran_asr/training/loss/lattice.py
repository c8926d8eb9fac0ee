"""The transducer lattice: the sum over all alignments of a clip's labels to its frames, and its gradient.

The lattice of a clip with T frames and U labels (A. Graves, arXiv:1211.3711, section 2.4) has a cell (t, u)
for every frame t < T and every number of labels u <= U so far. From a cell, `blank` leads to (t + 1, u)
and label u leads to (t, u + 1). The loss is minus the logarithm of the summed probability of all paths from
(0, 0) to the end, which is the blank out of (T - 1, U). In Graves' equations, from zero and in logarithms:

    alpha(t, u) = logaddexp(alpha(t - 1, u) + blank(t - 1, u), alpha(t, u - 1) + label(t, u - 1))     (eq. 16)
    log Pr(y|x) = alpha(T - 1, U) + blank(T - 1, U)                                                   (eq. 17)
    beta(t, u)  = logaddexp(beta(t + 1, u) + blank(t, u), beta(t, u + 1) + label(t, u))               (eq. 18)
    -d loss / d blank(t, u) = exp(alpha(t, u) + blank(t, u) + beta(t + 1, u) - log Pr(y|x))           (eq. 20)

and likewise for `label`. The right of eq. 20 is the share of the paths that take the arc: its
occupancy. FastEmit (arXiv:2010.11148) multiplies the gradient of every label arc by 1 + lambda.

Only cells inside the lattices exist here: they are packed as N rows, clip by clip, without padding. All cells
of an anti-diagonal t + u of all clips are one vector operation.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from quran_asr.errors import QuranAsrError

CELL_BYTES = 256
"""What one cell takes while a tile's lattice is summed: indices, arcs and nodes in float64. Measured,
upwards."""

Occupancies = Callable[[Tensor, Tensor, "Cells", bool], tuple[Tensor, Tensor | None, Tensor | None]]
"""A sum over all paths, as `occupancies` below describes it."""


def lattice_loss(
    blank: Tensor,
    label: Tensor,
    frames: Tensor,
    labels: Tensor,
    *,
    fastemit_lambda: float = 0.0,
    sum_paths: Occupancies | None = None,
) -> Tensor:
    """The transducer loss of each clip from the log-probabilities of its lattice's arcs, in nats.

    Args:
        blank: log-probability of blank in cell (t, u), [B, T, U + 1].
        label: log-probability of label u in cell (t, u), [B, T, U].
        frames: how many of the T frames each clip has, [B], at least 1.
        labels: how many of the U labels each clip has, [B], may be 0.
        fastemit_lambda: the gradient with respect to `label` is multiplied by 1 + this.
        sum_paths: another implementation of `occupancies`.

    Returns:
        The loss of each clip, [B], float32 (float64 where `blank` is float64).

    Raises:
        QuranAsrError: shapes that do not fit, or the number of the first clip whose lengths are out of range.
    """
    if blank.dim() != 3 or label.shape != (*blank.shape[:2], blank.shape[2] - 1):
        shapes = f"blank {list(blank.shape)}, label {list(label.shape)}"
        raise QuranAsrError(
            f"the lattice takes blank [B, T, U + 1] and label [B, T, U], not {shapes}",
            remedy="give `blank` one place more than `label` in the last of three dimensions",
        )
    lengths = Lengths.checked(frames, labels, blank.shape[:2], label.shape[2], fastemit_lambda)
    cells = Cells.of(lengths, blank.device)
    loss: Tensor = _LatticeLoss.apply(  # type: ignore[no-untyped-call]
        blank, label, cells, fastemit_lambda, sum_paths or occupancies, torch.is_grad_enabled()
    )
    return loss


@dataclass(frozen=True, slots=True)
class Lengths:
    """Frames and labels of each clip, checked."""

    frame_counts: tuple[int, ...]
    """Frames of each clip, at least 1."""
    label_counts: tuple[int, ...]
    """Labels of each clip, at least 0."""

    @classmethod
    def checked(
        cls, frames: Tensor, labels: Tensor, room: Sequence[int], most_labels: int, fastemit_lambda: float
    ) -> Lengths:
        """The lengths as numbers; refuses those that do not fit into `room` [B, T] and [B, most_labels]."""
        if not fastemit_lambda >= 0:
            raise QuranAsrError(
                f"fastemit_lambda is {fastemit_lambda}; it cannot be below 0",
                remedy="set `fastemit_lambda` to 0 or more",
            )
        clips, most_frames = room
        if frames.shape != (clips,) or labels.shape != (clips,) or not clips:
            given = f"{list(frames.shape)} and {list(labels.shape)}"
            raise QuranAsrError(
                f"{clips} clips need as many numbers of frames and of labels, not {given}",
                remedy="give `frames` and `labels` one number per clip, and at least one clip",
            )
        frame_counts, label_counts = frames.tolist(), labels.tolist()
        for clip, count in enumerate(frame_counts):
            if not 1 <= count <= most_frames:
                raise QuranAsrError(
                    f"clip {clip} has {count} frames; the encoder gave room for 1 to {most_frames}",
                    remedy="correct `frames`, or raise model.train_ds.min_duration for clips without a frame",
                )
        for clip, count in enumerate(label_counts):
            if not 0 <= count <= most_labels:
                raise QuranAsrError(
                    f"clip {clip} has {count} labels; there is room for 0 to {most_labels}",
                    remedy="correct `labels`, or pad `targets` to the longest clip",
                )
        return cls(tuple(frame_counts), tuple(label_counts))

    @property
    def frames(self) -> Tensor:
        """Frames of each clip, [B]."""
        return torch.tensor(self.frame_counts)

    @property
    def labels(self) -> Tensor:
        """Labels of each clip, [B]."""
        return torch.tensor(self.label_counts)

    @property
    def cell_counts(self) -> list[int]:
        """Cells of each clip's lattice."""
        return [t * (u + 1) for t, u in zip(self.frame_counts, self.label_counts, strict=True)]

    def tiles(self, most_clips: int, most_cells: int) -> list[slice]:
        """Consecutive clips that have at most so many cells together; a clip with more stands alone."""
        found, first, cells = [], 0, 0
        for clip, more in enumerate(self.cell_counts):
            if clip > first and (clip - first == most_clips or cells + more > most_cells):
                found.append(slice(first, clip))
                first, cells = clip, 0
            cells += more
        return [*found, slice(first, len(self.frame_counts))]

    def __getitem__(self, clips: slice) -> Lengths:
        return Lengths(self.frame_counts[clips], self.label_counts[clips])


@dataclass(frozen=True, slots=True)
class Cells:
    """The N cells inside the lattices of some clips, ordered by clip, then frame, then label."""

    lengths: Lengths
    clip: Tensor
    """Which clip the cell belongs to, [N]."""
    frame: Tensor
    """t of the cell, [N]."""
    emitted: Tensor
    """u of the cell, [N]."""
    last: Tensor
    """Whether no label is left (u = U), [N]."""

    @classmethod
    def of(cls, lengths: Lengths, device: torch.device) -> Cells:
        """All cells with t < T and u <= U of each clip."""
        counts = torch.tensor(lengths.cell_counts)
        first = sent(counts.cumsum(0) - counts, device)
        clip = torch.repeat_interleave(sent(counts, device), output_size=sum(lengths.cell_counts))
        width = (sent(lengths.labels, device) + 1)[clip]
        within = torch.arange(len(clip), device=device) - first[clip]
        frame = torch.div(within, width, rounding_mode="floor")
        emitted = within - frame * width
        return cls(lengths, clip, frame, emitted, emitted == width - 1)

    def next_label(self, targets: Tensor) -> Tensor:
        """The label that leads out of each cell, [N], of targets [B, U]; 0 where none is left."""
        return functional.pad(targets, (0, 1))[self.clip, self.emitted].masked_fill(self.last, 0)


def check_targets(targets: Tensor, classes: int) -> None:
    """Refuse label numbers outside 0 to V - 1. Padding has been set to 0 before.

    On a GPU nothing waits for the answer: there a wrong number ends the process with an assertion of CUDA's.
    """
    outside = (targets < 0) | (targets >= classes)
    if not free_to_read(targets.device):
        torch._assert_async(~outside.any(), f"labels go from 0 to {classes - 1}")
        return
    wrong = outside.nonzero()
    if len(wrong):
        clip, place = wrong[0].tolist()
        number = int(targets[clip, place])
        raise QuranAsrError(
            f"clip {clip}: target {place} is {number}; labels go from 0 to {classes - 1}",
            remedy="use the tokenizer with which the model was made",
        )


def occupancies(
    blank: Tensor, label: Tensor, cells: Cells, gradient: bool
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Sum over all paths, anti-diagonal by anti-diagonal, forwards and backwards at once.

    A node (t, u) lies on anti-diagonal d = t + u in column u + 1; column 0 is a wall at -inf, which makes the
    shift by one label a plain slice. The end of a clip is its node (T, U). Read backwards, (T - t, U - u)
    takes the place of (t, u), and beta obeys the recursion of alpha: each clip stands twice, so C = 2B.

    Args:
        blank: log-probability of each cell's blank, [N].
        label: log-probability of each cell's label, [N]; not read where the cell is its clip's last label.
        cells: where they stand.
        gradient: whether occupancies are wanted; if not, only alpha is computed.

    Returns:
        log Pr(y|x) [B] and the occupancies of blanks [N] and labels [N], in float64 where the device has it.
    """
    device = blank.device
    # 64 bits cost a few milliseconds more here and keep the rounding of the long sums out of the occupancies.
    kind = torch.float32 if device.type == "mps" else torch.float64
    blank, label = blank.to(kind), label.to(kind).masked_fill(cells.last, -torch.inf)
    clips, frames, labels = len(cells.lengths.label_counts), cells.lengths.frames, cells.lengths.labels
    counts = cells.lengths
    depth = max(map(sum, zip(counts.frame_counts, counts.label_counts, strict=True)))
    width = (
        max(counts.label_counts) + 2
    )  # The last takes the arcs of cells that have no label: they are -inf.
    columns = 2 * clips if gradient else clips
    frames, labels = sent(frames, device), sent(labels, device)

    # arcs[d, 0] and arcs[d, 1] hold the labels and the blanks that lead to the nodes of anti-diagonal d.
    arcs = blank.new_full((depth + 1, 2, width, columns), -torch.inf)
    into = ((cells.frame + cells.emitted + 1) * 2 * width + cells.emitted) * columns + cells.clip
    flat = arcs.view(-1)
    flat[into + columns] = label
    flat[into + width * columns] = blank
    if gradient:
        remaining = labels[cells.clip] - cells.emitted
        diagonal = frames[cells.clip] - cells.frame + remaining
        onward = (diagonal * 2 * width + remaining) * columns + cells.clip + clips
        flat[onward] = label
        flat[onward + width * columns] = blank

    nodes = blank.new_full((depth + 1, width + 1, columns), -torch.inf)
    nodes[0, 1] = 0
    before = nodes.as_strided(
        (depth + 1, 2, width, columns), ((width + 1) * columns, columns, columns, 1)
    )  # before[d, 0] is the nodes one label earlier, before[d, 1] the nodes themselves: a view of both.
    reached = nodes[:, 1:].unbind()
    for previous, arriving, node in zip(before.unbind(), arcs.unbind()[1:], reached[1:], strict=False):
        arriving += previous
        torch.logaddexp(arriving[0], arriving[1], out=node)

    likelihood = nodes[frames + labels, labels + 1, torch.arange(clips, device=device)]
    if not gradient:
        return likelihood, None, None
    here = ((cells.frame + cells.emitted) * (width + 1) + cells.emitted + 1) * columns + cells.clip
    forward = nodes.view(-1)[here] - likelihood[cells.clip]
    # The loop has left blank + beta(t + 1, u) and label + beta(t, u + 1) in the arcs of mirrored nodes.
    return likelihood, (forward + flat[onward + width * columns]).exp(), (forward + flat[onward]).exp()


class _LatticeLoss(torch.autograd.Function):
    """Loss [B] from the log-probabilities of arcs, [B, T, U + 1] and [B, T, U]."""

    @staticmethod
    def forward(
        ctx: Any,
        blank: Tensor,
        label: Tensor,
        cells: Cells,
        fastemit_lambda: float,
        sum_paths: Occupancies,
        gradient: bool,
    ) -> Tensor:
        place = (cells.clip, cells.frame, cells.emitted)
        arcs = blank[place], functional.pad(label, (0, 1))[place]
        likelihood, blanks, label_arcs = sum_paths(*arcs, cells, gradient)
        ctx.weight, ctx.kind, ctx.room = 1 + fastemit_lambda, blank.dtype, blank.shape
        ctx.save_for_backward(blanks, label_arcs, *place)
        return (-likelihood).to(accumulator(blank.dtype))

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        blanks, label_arcs, *place = ctx.saved_tensors
        share = -upstream[0].to(blanks.dtype)[place[0]]
        of_blank = blanks.new_zeros(ctx.room, dtype=ctx.kind)
        of_label = torch.zeros_like(of_blank)
        of_blank[tuple(place)] = (share * blanks).to(ctx.kind)
        of_label[tuple(place)] = (share * label_arcs * ctx.weight).to(ctx.kind)
        return of_blank, of_label[..., :-1], None, None, None, None


def free_to_read(device: torch.device) -> bool:
    """Whether a value can be read without waiting; a GPU would finish all that it was given before."""
    return device.type == "cpu"


def sent(numbers: Tensor, device: torch.device) -> Tensor:
    """A few numbers of this process's, on a device, without waiting for it."""
    return numbers.to(device, non_blocking=True)


def accumulator(kind: torch.dtype) -> torch.dtype:
    """The type of sums over values of this type: float32 or better."""
    return torch.float64 if kind == torch.float64 else torch.float32
