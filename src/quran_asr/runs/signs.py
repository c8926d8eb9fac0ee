"""Signs that a training goes wrong, read from its numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence

from quran_asr.findings import Finding

STALL_CHECKED_FROM = 300
STALL_CHECKED_AT = 1000
"""Optimizer steps between which the CTC loss must have fallen by `STALL_FALL`."""
STALL_FALL = 0.05
LEARNED = 2.0
"""Nats of CTC a token under which a model has left the plateau of saying nothing (3 to 4.5 nats)."""
_SPAN = 100
"""Steps over which a loss is averaged: single batches swing by more than 5 %."""


def stalled(ctc_per_token: Sequence[tuple[int, float | None]]) -> Finding | None:
    """Whether a start from random weights has stalled.

    Args:
        ctc_per_token: (optimizer step, CTC loss in nats a token) in the order of the steps; None and NaN
            are passed over.

    Returns:
        An error finding if the CTC loss at step 1,000 is not 5 % below its value at step 300 and still on
        its plateau; None before step 1,000, where the series says nothing of step 300, or when all is well.
    """
    early = _mean(ctc_per_token, STALL_CHECKED_FROM)
    late = _mean(ctc_per_token, STALL_CHECKED_AT)
    if early is None or late is None or max(step for step, _ in ctc_per_token) < STALL_CHECKED_AT:
        return None
    if late < LEARNED or late <= (1 - STALL_FALL) * early:
        return None
    return Finding(
        "error",
        "stalled-start",
        f"step {STALL_CHECKED_AT}",
        f"training has stalled: the CTC loss is {late:.2f} nats a token at step {STALL_CHECKED_AT:,} and was "
        f"{early:.2f} at step {STALL_CHECKED_FROM}",
        "stop and start again with another `quran.seed`, with batches of at least 20 s and 6 clips "
        "(`model.train_ds.batch_duration`), `quran.initialization=data` and, on a CPU or with little audio, "
        "a smaller `quran.vocabulary_size`",
    )


def _mean(series: Sequence[tuple[int, float | None]], step: int) -> float | None:
    """Mean over the `_SPAN` steps that end at `step`; None without a number there."""
    near = [
        value
        for at, value in series
        if step - _SPAN < at <= step and value is not None and math.isfinite(value)
    ]
    return sum(near) / len(near) if near else None
