"""Triton kernels of the transducer loss: one pass over rows of logits, and one program for each lattice.

Sums over classes are made in the type of the tensor that is written, those over paths in float64: a lattice is
small beside its logits, and long sums of logarithms are not. Rows of any number of classes and lattices of any
size up to Triton's largest block (2**20 labels) are handled; offsets are 64 bits wide.

No annotations are postponed here: Triton reads `constexpr` off the functions themselves.
"""

import triton
import triton.language as tl


@triton.jit
def score(logits, following, blank, classes, blank_scores, label_scores, normaliser, BLOCK: tl.constexpr):  # noqa: N803
    """Program i: log-probabilities of blank and of the following label, and the log of the sum, of row i.

    One pass: each lane keeps its own maximum and the sum relative to it (M. Milakov and N. Gimelshein,
    arXiv:1805.02867, algorithm 3).
    """
    row = tl.program_id(0).to(tl.int64)
    kind = normaliser.dtype.element_ty
    logits += row * classes
    best = tl.full((BLOCK,), float("-inf"), kind)
    total = tl.zeros((BLOCK,), kind)
    for first in range(0, classes, BLOCK):
        at = first + tl.arange(0, BLOCK)
        value = tl.load(logits + at, mask=at < classes, other=float("-inf")).to(kind)
        higher = tl.maximum(best, value)
        finite = tl.where(higher == float("-inf"), 0.0, higher)
        total = total * tl.exp(best - finite) + tl.exp(value - finite)
        best = higher
    top = tl.max(best, 0)
    finite = tl.where(top == float("-inf"), 0.0, top)
    log_sum = finite + tl.log(tl.sum(total * tl.exp(best - finite), 0))
    tl.store(normaliser + row, log_sum)
    tl.store(blank_scores + row, tl.load(logits + blank).to(kind) - log_sum)
    tl.store(label_scores + row, tl.load(logits + tl.load(following + row)).to(kind) - log_sum)


@triton.jit
def differentiate(logits, following, blank, classes, normaliser, blanks, said, BLOCK: tl.constexpr):  # noqa: N803
    """Program i: overwrite row i of logits with softmax * (blanks + said) - the arcs."""
    row = tl.program_id(0).to(tl.int64)
    logits += row * classes
    log_sum = tl.load(normaliser + row)
    through_blank, through_label = tl.load(blanks + row), tl.load(said + row)
    label = tl.load(following + row)
    for first in range(0, classes, BLOCK):
        at = first + tl.arange(0, BLOCK)
        value = tl.load(logits + at, mask=at < classes, other=float("-inf")).to(log_sum.dtype)
        found = tl.exp(value - log_sum) * (through_blank + through_label)
        found -= tl.where(at == blank, through_blank, 0.0)
        found -= tl.where(at == label, through_label, 0.0)
        tl.store(logits + at, found.to(logits.dtype.element_ty), mask=at < classes)


@triton.jit
def _then(move, reached, next_move, next_reached):
    """Two stretches of a frame as one: the cost of going all the way, and the sum of what reaches its end."""
    moved = reached + next_move
    top = tl.maximum(moved, next_reached)
    finite = tl.where(top == float("-inf"), 0.0, top)
    return move + next_move, finite + tl.log(tl.exp(moved - finite) + tl.exp(next_reached - finite))


@triton.jit
def sum_paths(
    blank,
    label,
    starts,
    frames,
    labels,
    cells,
    nodes,
    likelihood,
    BLOCK: tl.constexpr,  # noqa: N803
):
    """Program (clip, direction): alpha of the clip's lattice (0) or beta (1), frame by frame.

    Lane u holds the label u, read backwards U - u. Within a frame, labels lead from lane to lane: a prefix
    sum whose operator is `_then`. The blank of a cell lies behind its alpha and is part of its beta.
    """
    clip = tl.program_id(0)
    backwards = tl.program_id(1)
    lane = tl.arange(0, BLOCK)
    start = tl.load(starts + clip)
    count, last = tl.load(frames + clip).to(tl.int32), tl.load(labels + clip).to(tl.int32)
    inside = lane <= last
    column = tl.where(backwards == 1, last - lane, lane)
    node = nodes + backwards * cells + start
    reached = tl.where(lane == 0, 0.0, float("-inf")).to(tl.float64)
    for step in range(0, count):
        frame = tl.where(backwards == 1, count - 1 - step, step)
        cell = frame * (last + 1) + column
        through = tl.load(blank + start + cell, mask=inside, other=0.0).to(tl.float64)
        # The label that leads into a lane leaves the lane before it: forwards, that is another cell.
        move = tl.load(
            label + start + cell - 1 + backwards, mask=inside & (lane > 0), other=float("-inf")
        ).to(tl.float64)
        reached += tl.where(backwards == 1, through, 0.0)
        _, reached = tl.associative_scan((move, reached), 0, _then)
        tl.store(node + cell, reached, mask=inside)
        reached += tl.where(backwards == 1, 0.0, through)
    if backwards == 0:
        tl.store(likelihood + clip, tl.sum(tl.where(lane == last, reached, 0.0), 0))


@triton.jit
def occupancies(
    blank,
    label,
    starts,
    frames,
    labels,
    cells,
    nodes,
    likelihood,
    blanks,
    said,
    BLOCK: tl.constexpr,  # noqa: N803
):
    """Program (frame, clip): share of the paths that take the arcs of the frame's cells (Graves, eq. 20)."""
    frame = tl.program_id(0)
    clip = tl.program_id(1)
    count, last = tl.load(frames + clip).to(tl.int32), tl.load(labels + clip).to(tl.int32)
    if frame < count:
        lane = tl.arange(0, BLOCK)
        inside = lane <= last
        cell = tl.load(starts + clip) + frame.to(tl.int64) * (last + 1) + lane
        next_last = tl.where(frame + 1 < count, last, -1)
        alpha = tl.load(nodes + cell, mask=inside, other=float("-inf")) - tl.load(likelihood + clip)
        after = tl.load(nodes + cells + cell + last + 1, mask=lane <= next_last, other=float("-inf"))
        after = tl.where((lane == last) & (lane > next_last), 0.0, after)
        arc = tl.load(blank + cell, mask=inside, other=0.0).to(tl.float64)
        tl.store(blanks + cell, tl.exp(alpha + arc + after).to(blanks.dtype.element_ty), mask=inside)
        after = tl.load(nodes + cells + cell + 1, mask=lane < last, other=float("-inf"))
        arc = tl.load(label + cell, mask=lane < last, other=float("-inf")).to(tl.float64)
        tl.store(said + cell, tl.exp(alpha + arc + after).to(said.dtype.element_ty), mask=inside)
