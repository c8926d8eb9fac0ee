"""Triton kernels of the transducer loss: one pass over rows of logits, and one program for each lattice.

Sums over classes are made in the type of the tensor that is written, those over paths in float64: a lattice
is small beside its logits, and long sums of logarithms are not. Rows of any number of classes and lattices of
any size up to Triton's largest block (2**20 labels) are handled; offsets are 64 bits wide.

No annotations are postponed here: Triton reads `constexpr` off the functions themselves.
"""

import triton
import triton.language as tl


@triton.jit
def score(logits, following, blank, classes, blank_scores, label_scores, normaliser, BLOCK: tl.constexpr):
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
def differentiate(logits, following, blank, classes, normaliser, blanks, label_arcs, BLOCK: tl.constexpr):
    """Program i: overwrite row i of logits with softmax * (blanks + labels) - the arcs."""
    row = tl.program_id(0).to(tl.int64)
    logits += row * classes
    log_sum = tl.load(normaliser + row)
    through_blank, through_label = tl.load(blanks + row), tl.load(label_arcs + row)
    label = tl.load(following + row)
    for first in range(0, classes, BLOCK):
        at = first + tl.arange(0, BLOCK)
        value = tl.load(logits + at, mask=at < classes, other=float("-inf")).to(log_sum.dtype)
        found = tl.exp(value - log_sum) * (through_blank + through_label)
        found -= tl.where(at == blank, through_blank, 0.0)
        found -= tl.where(at == label, through_label, 0.0)
        tl.store(logits + at, found.to(logits.dtype.element_ty), mask=at < classes)


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
    BLOCK: tl.constexpr,
):
    """Program (clip, direction): alpha (0) or beta (1) of the clip's lattice, anti-diagonal by anti-diagonal.

    Read backwards, (T - 1 - t, U - u) takes the place of (t, u), and beta obeys the recursion of alpha. Lane
    u holds the node that has been reached in column u. Arcs arrive from another cell, or, read backwards,
    belong to the cell itself. In frame 0 nothing arrives by a blank, unless it is read backwards.
    """
    clip = tl.program_id(0)
    backwards = tl.program_id(1)
    lane = tl.arange(0, BLOCK)
    start = tl.load(starts + clip)
    count, last = tl.load(frames + clip).to(tl.int32), tl.load(labels + clip).to(tl.int32)
    node = nodes + backwards.to(tl.int64) * cells + start
    earlier = tl.where(lane > 0, lane - 1, 0)
    reached = tl.where(lane == 0, 0.0, float("-inf")).to(tl.float64)
    for diagonal in range(0, count + last):
        frame = diagonal - lane
        inside = (frame >= 0) & (frame < count) & (lane <= last)
        forth = frame * (last + 1) + lane
        cell = tl.where(backwards == 1, count * (last + 1) - 1 - forth, forth)
        below, left = cell - (1 - backwards) * (last + 1), cell - (1 - backwards)
        arrives, follows = inside & (frame + backwards > 0), inside & (lane > 0)
        by_blank = reached + tl.load(blank + start + below, mask=arrives, other=0.0)
        by_label = tl.load(label + start + left, mask=follows, other=float("-inf"))
        by_label += tl.gather(reached, earlier, 0)
        # Comparisons, because `maximum` may drop a NaN; it has to arrive at the end.
        higher = tl.where(by_blank > by_label, by_blank, by_label)
        lower = tl.where(by_blank > by_label, by_label, by_blank)
        gap = tl.where(higher == lower, 0.0, lower - higher)  # both may be -inf
        reached = higher + tl.log(1.0 + tl.exp(gap))
        tl.store(node + cell, reached, mask=inside)
    if backwards == 0:
        reached += tl.load(blank + start + count * (last + 1) - 1).to(tl.float64)
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
    label_arcs,
    BLOCK: tl.constexpr,
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
        tl.store(label_arcs + cell, tl.exp(alpha + arc + after).to(label_arcs.dtype.element_ty), mask=inside)
