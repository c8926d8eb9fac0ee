"""Two recognizers on the same clips: how their error rates differ, and how sure that is.

The clips are drawn once for both, so that what is hard for both cancels out (Bisani and Ney, "Bootstrap
estimates for confidence intervals in ASR performance evaluation", ICASSP 2004). Where there are trainings
with several seeds, seeds are drawn too, for each side by itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from quran_asr.measure.interval import DRAWS, FEWEST_RECITERS, Interval


@dataclass(frozen=True, slots=True)
class Difference:
    """A second side beside a first, over the clips of both."""

    rates: tuple[float, float]
    """Errors over units said, of the first and the second; seeds are taken together."""
    difference: float
    """Second minus first."""
    difference_interval: Interval | None
    """95 %; None with fewer than two clips."""
    ratio: float | None
    """Second over first; None where the first has no error."""
    ratio_interval: Interval | None
    """95 %; None with fewer than two clips, or where the first has no error in some draw."""


def compare_errors(
    first: NDArray[np.int64],
    second: NDArray[np.int64],
    said: NDArray[np.int64],
    reciters: Sequence[str],
    seed: int = 0,
) -> Difference:
    """Set the errors of two sides on the same clips against each other.

    Args:
        first: [trainings, clips], word errors.
        second: [trainings, clips]; the number of trainings may differ.
        said: [clips], words said.
        reciters: name of each clip's reciter. With at least five distinct ones reciters are drawn, then
            their clips; with fewer, clips within each reciter.
        seed: the same seed gives the same intervals.

    Raises:
        ValueError: nothing was said, or the numbers of clips differ.
    """
    clips = len(reciters)
    if not first.shape[1] == second.shape[1] == len(said) == clips or said.sum() == 0:
        raise ValueError("the same clips are needed, with words in them")
    rates = tuple(float(errors.sum() / (len(errors) * said.sum())) for errors in (first, second))
    ratio = rates[1] / rates[0] if rates[0] > 0 else None
    if clips < 2:
        return Difference((rates[0], rates[1]), rates[1] - rates[0], None, ratio, None)
    random = np.random.default_rng(seed)
    drawn = np.empty((DRAWS, 2))
    names, of_reciter = np.unique(np.array(reciters), return_inverse=True)
    groups = [np.flatnonzero(of_reciter == reciter) for reciter in range(len(names))]
    for draw in range(DRAWS):
        weights = _draw_clips(random, groups)
        units = weights @ said
        for side, errors in enumerate((first, second)):
            trainings = random.multinomial(len(errors), np.full(len(errors), 1 / len(errors)))
            drawn[draw, side] = trainings @ errors @ weights / (len(errors) * units) if units else np.nan
    drawn = drawn[np.isfinite(drawn).all(axis=1)]
    whole = bool((drawn[:, 0] > 0).all())
    return Difference(
        (rates[0], rates[1]),
        rates[1] - rates[0],
        _bounds(drawn[:, 1] - drawn[:, 0]),
        ratio,
        _bounds(drawn[:, 1] / drawn[:, 0]) if whole else None,
    )


def _draw_clips(random: np.random.Generator, groups: Sequence[NDArray[np.int64]]) -> NDArray[np.int64]:
    """How often each clip is drawn, [clips]; `groups` has the places of each reciter's clips."""
    times = np.ones(len(groups), np.int64)
    if len(groups) >= FEWEST_RECITERS:
        times = random.multinomial(len(groups), np.full(len(groups), 1 / len(groups)))
    weights = np.zeros(sum(map(len, groups)), np.int64)
    for places, often in zip(groups, times, strict=True):
        weights[places] = random.multinomial(often * len(places), np.full(len(places), 1 / len(places)))
    return weights


def _bounds(values: NDArray[np.float64]) -> Interval:
    low, high = np.percentile(values, [2.5, 97.5]).tolist()
    return low, high
