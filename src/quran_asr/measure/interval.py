"""How sure a rate is: bootstrap intervals over reciters and their clips.

Words of one clip and clips of one reciter are alike, so whole reciters are drawn, then clips of the reciters
drawn; the counts of what was drawn are summed and make one rate a draw.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Interval = tuple[float, float]

FEWEST_RECITERS = 5
"""With fewer, reciters cannot be drawn sensibly: clips are drawn within each reciter, and that is said."""

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
        "too few reciters to say how far other reciters would differ"
    )


def intervals(
    errors: NDArray[np.int64], said: NDArray[np.int64], reciters: Sequence[str], seed: int = 0
) -> list[Interval | None]:
    """95 % intervals of the rates errors / said.

    Args:
        errors: [clips, rates], errors of each clip for each rate asked.
        said: [clips, rates], units said.
        reciters: name of each clip's reciter; clips without a name count as of one reciter.
        seed: the same seed gives the same intervals.

    Returns:
        For each rate (low, high), or None with fewer than two clips or nothing said.
    """
    if len(reciters) < 2:
        return [None] * errors.shape[1]
    random = np.random.default_rng(seed)
    names, of_reciter = np.unique(np.array(reciters), return_inverse=True)
    if len(names) >= FEWEST_RECITERS:
        times = random.multinomial(len(names), np.full(len(names), 1 / len(names)), size=DRAWS)
    else:
        times = np.ones((DRAWS, len(names)), np.int64)
    both = np.concatenate([errors, said], axis=1).astype(np.float64)
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
