"""Bootstrap confidence intervals of error rates and of their differences, over reciters and clips.

The clips are drawn once for both, so that what is hard for both cancels out (Bisani and Ney, "Bootstrap
estimates for confidence intervals in ASR performance evaluation", ICASSP 2004). Where there are trainings
with several seeds, seeds are drawn too, for each model by itself.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

# Words of one clip and clips of one reciter are alike, so whole reciters are drawn, then clips of the
# reciters drawn; the counts of what was drawn are summed and make one rate a draw.

Interval = tuple[float, float]

FEWEST_RECITERS = 5
"""With fewer reciters, clips are drawn within each reciter, and the report states it."""

DRAWS = 1_000
"""The bounds at 2.5 and 97.5 % are then themselves off by about 2 % of the width of the interval."""

_ROOM = 4_000_000
"""Clips times draws that are drawn at once."""


def method(reciters: Sequence[str]) -> str:
    """In words, how `intervals` draws when the clips are by these reciters."""
    distinct = len(set(reciters))
    if distinct >= FEWEST_RECITERS:
        return f"95 %, bootstrap over {distinct} reciters, then their clips, {DRAWS} draws"
    names = "1 reciter" if distinct == 1 else f"{distinct} reciters"
    return (
        f"95 %, bootstrap over clips within {names}, {DRAWS} draws: "
        "too few reciters to estimate how much other reciters would differ"
    )


def intervals(
    errors: NDArray[np.int64], reference_lengths: NDArray[np.int64], reciters: Sequence[str], seed: int = 0
) -> list[Interval | None]:
    """95 % intervals of the rates errors / reference units.

    Args:
        errors: [clips, rates], errors of each clip for each rate asked.
        reference_lengths: [clips, rates], units of the references.
        reciters: name of each clip's reciter; clips without a name count as of one reciter.
        seed: the same seed gives the same intervals.

    Returns:
        For each rate (low, high), or None with fewer than two clips, empty references, or few reciters of
        whom none has two clips: each draw would be the same.
    """
    if len(reciters) < 2:
        return [None] * errors.shape[1]
    random = np.random.default_rng(seed)
    names, of_reciter, clips_of = np.unique(np.array(reciters), return_inverse=True, return_counts=True)
    if len(names) < FEWEST_RECITERS and clips_of.max() < 2:
        return [None] * errors.shape[1]
    if len(names) >= FEWEST_RECITERS:
        times = random.multinomial(len(names), np.full(len(names), 1 / len(names)), size=DRAWS)
    else:
        times = np.ones((DRAWS, len(names)), np.int64)
    both = np.concatenate([errors, reference_lengths], axis=1).astype(np.float64)
    drawn = np.zeros((DRAWS, both.shape[1]))
    for reciter in range(len(names)):
        clips = both[of_reciter == reciter]
        rows = max(1, _ROOM // len(clips))
        for start in range(0, DRAWS, rows):
            # a reciter drawn k times gives k times as many clips as he has, each drawn at random
            amounts = times[start : start + rows, reciter] * len(clips)
            places = np.repeat(np.arange(len(amounts)) * len(clips), amounts)
            places += random.integers(len(clips), size=len(places))
            picked = np.bincount(places, minlength=len(amounts) * len(clips))
            drawn[start : start + rows] += picked.reshape(len(amounts), len(clips)) @ clips
    found: list[Interval | None] = []
    for rate in range(errors.shape[1]):
        units = drawn[:, errors.shape[1] + rate]
        rates = drawn[units > 0, rate] / units[units > 0]
        if len(rates):
            low, high = np.percentile(rates, [2.5, 97.5]).tolist()
            found.append((low, high))
        else:
            found.append(None)
    return found


@dataclass(frozen=True, slots=True)
class Difference:
    """A second model beside a first, over the clips of both."""

    rates: tuple[float, float]
    """Errors per reference unit, of the first and the second; seeds are taken together."""
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
    reference_lengths: NDArray[np.int64],
    reciters: Sequence[str],
    seed: int = 0,
) -> Difference:
    """Compare the errors of two models on the same clips.

    Args:
        first: [trainings, clips], word errors.
        second: [trainings, clips]; the number of trainings may differ.
        reference_lengths: [clips], words of the references.
        reciters: name of each clip's reciter. With at least five distinct ones reciters are drawn, then
            their clips; with fewer, clips within each reciter.
        seed: the same seed gives the same intervals.

    Raises:
        ValueError: the references are empty, or the numbers of clips differ.
    """
    clips = len(reciters)
    if (
        not first.shape[1] == second.shape[1] == len(reference_lengths) == clips
        or reference_lengths.sum() == 0
    ):
        raise ValueError("the same clips are needed, with words in them")
    rates = tuple(float(errors.sum() / (len(errors) * reference_lengths.sum())) for errors in (first, second))
    ratio = rates[1] / rates[0] if rates[0] > 0 else None
    if clips < 2:
        return Difference((rates[0], rates[1]), rates[1] - rates[0], None, ratio, None)
    random = np.random.default_rng(seed)
    drawn = np.empty((DRAWS, 2))
    names, of_reciter = np.unique(np.array(reciters), return_inverse=True)
    groups = [np.flatnonzero(of_reciter == reciter) for reciter in range(len(names))]
    for draw in range(DRAWS):
        weights = _draw_clips(random, groups)
        units = weights @ reference_lengths
        for model, errors in enumerate((first, second)):
            trainings = random.multinomial(len(errors), np.full(len(errors), 1 / len(errors)))
            drawn[draw, model] = trainings @ errors @ weights / (len(errors) * units) if units else np.nan
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


def rounded(figure: float) -> float | None:
    """A figure of a report to six places; None for what JSON cannot hold."""
    return round(figure, 6) if math.isfinite(figure) else None


def rounded_interval(interval: Interval | None) -> list[float | None] | None:
    return None if interval is None else [rounded(bound) for bound in interval]
