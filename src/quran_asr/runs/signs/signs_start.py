"""A start that leads nowhere: CTC stays on its plateau."""

from __future__ import annotations

from collections.abc import Iterator

from quran_asr.runs.curves import Curves, Point, Series
from quran_asr.runs.signs.sign import Sign, shown

STALL_CHECKED_FROM = 300
STALL_CHECKED_AT = 1000
"""Optimizer steps between which the CTC loss must have fallen by `STALL_FALL`."""
STALL_FALL = 0.05
LEARNED = 2.0
"""Nats of CTC a token under which a model has left the plateau of saying nothing (3 to 4.5 nats)."""
ON_PLATEAU = 0.85
"""Share of the tokens' entropy, where the plateau lies, above which CTC has not left it."""
_SPAN = 100
"""Steps over which a loss is averaged: single batches swing by more than 5 %."""


def stalled_start(curves: Curves) -> Iterator[Sign]:
    """The CTC loss at step 1,000 is not 5 % below its value at step 300, and still on its plateau.

    Nothing is said before step 1,000, or where the curve says nothing of step 300.
    """
    series = curves.training.get("ctc_per_token", ())
    if curves.in_epochs or not series or series[-1].step < STALL_CHECKED_AT:
        return
    early, late = _mean(series, STALL_CHECKED_FROM), _mean(series, STALL_CHECKED_AT)
    if early is None or late is None or late <= (1 - STALL_FALL) * early:
        return
    entropy = _mean(curves.training.get("token_entropy", ()), STALL_CHECKED_AT)
    if late < LEARNED or (entropy is not None and late < ON_PLATEAU * entropy):
        return
    yield Sign(
        "stalled-start",
        "error",
        f"training has stalled: the CTC loss is {late:.2f} nats a token at step {STALL_CHECKED_AT:,} and was "
        f"{early:.2f} at step {STALL_CHECKED_FROM}",
        shown(
            "training.ctc_per_token",
            Point(STALL_CHECKED_FROM, round(early, 4), None, None),
            Point(STALL_CHECKED_AT, round(late, 4), None, None),
        ),
        "the model says the same for every recording: its batches are too small or too few, or its first "
        "weights were an unlucky draw",
        "stop and start again with another `quran.seed`, with batches of at least 20 s and 6 clips "
        "(`model.train_ds.batch_duration`), `quran.initialization=data` and, on a CPU or with little audio, "
        "a smaller `quran.vocabulary_size`",
        STALL_CHECKED_AT,
    )


def _mean(series: Series, step: int) -> float | None:
    """Mean over the `_SPAN` steps that end at `step`; None without a number there."""
    near = [p.value for p in series if step - _SPAN < p.step <= step and p.value is not None]
    return sum(near) / len(near) if near else None
