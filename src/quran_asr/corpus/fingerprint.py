"""Audio fingerprints: duplicates despite another codec, gain, rate or trimming, without comparing all pairs.

Every 16 ms of audio has a code of 24 bits: whether the energy difference of neighbouring bands grows or
falls (Haitsma and Kalker, "A highly robust audio fingerprinting system", ISMIR 2002). A subset of the codes,
selected by the code itself so that both copies select the same, goes into an index; the codes of copies match
there at one constant offset.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from quran_asr.corpus.signal import HOP, WINDOW
from quran_asr.records import SAMPLE_RATE

FRAME_SECONDS = HOP / SAMPLE_RATE

_BANDS = 25
_LOWEST, _HIGHEST = 200.0, 3400.0
"""Hertz: a band that every recording has, including 8 kHz telephone recordings."""
_SMOOTHED = 16
"""Frames over which energy is summed, so that copies may begin anywhere between two frames."""
_STEP = 4
_KEPT = 4
"""One code in this many is kept."""
_CROWDED = 24
"""Codes in more clips than this, such as silence or a hum, are ignored."""
_FEWEST = 5
"""Codes that two copies must share at one offset,"""
_LEAST_SHARE = 0.06
"""and their share of the codes in the shorter overlap."""
_LEAST_IN_A_HALF = 0.15
"""Least share of the matches in each half of the overlap: two clips of a synthetic voice that only begin
with the same words are not copies."""


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """The fingerprint of one clip: its kept codes."""

    frames: NDArray[np.uint32]
    """Ascending; a frame is 16 ms."""
    codes: NDArray[np.uint32]
    """One for each of `frames`."""
    length: int
    """Frames of the clip."""


@dataclass(frozen=True, slots=True)
class Copy:
    """Two clips that share audio."""

    first: int
    second: int
    """Indexes of the clips, `first` below `second`."""
    later: float
    """Seconds: audio at t in `first` is at t + `later` in `second`."""
    overlap: float
    """Shared part of the shorter clip, 0 to 1."""
    overlap_of_longer: float
    """Shared part of the longer clip, 0 to 1."""
    matches: float
    """Share of the kept codes in the overlap that are equal."""


def fingerprint(power: NDArray[np.float32]) -> Fingerprint:
    """Make the fingerprint of a clip.

    Args:
        power: `signal.power_spectra` of it.
    """
    banded = np.add.reduceat(power, _BAND_STARTS, axis=1)[:, :-1]
    sums = np.cumsum(banded, axis=0, dtype=np.float64)
    if len(sums) <= _SMOOTHED + _STEP:
        none = np.zeros(0, dtype=np.uint32)
        return Fingerprint(none, none, len(power))
    smooth = np.log(sums[_SMOOTHED:] - sums[:-_SMOOTHED] + 1e-9)
    across = np.diff(smooth, axis=1)
    growing = across[_STEP:] > across[:-_STEP]
    codes = (growing @ _WEIGHTS).astype(np.uint32)
    kept = np.flatnonzero((codes * np.uint32(2654435761)) >> np.uint32(16) & np.uint32(_KEPT - 1) == 0)
    return Fingerprint(kept.astype(np.uint32), codes[kept], len(power))


def _band_starts() -> NDArray[np.intp]:
    edges = np.geomspace(_LOWEST, _HIGHEST, _BANDS + 1) * WINDOW / SAMPLE_RATE
    starts = np.maximum(
        np.round(edges).astype(np.intp), np.round(edges[0]).astype(np.intp) + np.arange(len(edges))
    )
    return np.asarray(starts, dtype=np.intp)


_BAND_STARTS = _band_starts()
_WEIGHTS = 1 << np.arange(_BANDS - 1, dtype=np.int64)


def find_copies(prints: Sequence[Fingerprint]) -> list[Copy]:
    """Pairs of clips that share most of the shorter one's audio, in order.

    Time and memory grow with the hours of audio, not with the pairs.
    """
    if not prints:
        return []
    codes = np.concatenate([one.codes for one in prints])
    frames = np.concatenate([one.frames for one in prints]).astype(np.int64)
    clips = np.repeat(np.arange(len(prints)), [len(one.codes) for one in prints])
    # Of a code that a clip repeats (a held vowel) only the first occurrence counts.
    order = np.lexsort((frames, clips, codes))
    codes, frames, clips = codes[order], frames[order], clips[order]
    first = np.ones(len(codes), dtype=bool)
    first[1:] = (codes[1:] != codes[:-1]) | (clips[1:] != clips[:-1])
    codes, frames, clips = codes[first], frames[first], clips[first]
    votes: dict[tuple[int, int], list[tuple[int, int]]] = defaultdict(list)
    bounds = np.flatnonzero(np.concatenate([[True], codes[1:] != codes[:-1], [True]]))
    sizes = np.diff(bounds)
    for group in np.flatnonzero((sizes > 1) & (sizes <= _CROWDED)).tolist():
        inside = range(int(bounds[group]), int(bounds[group + 1]))
        for a in inside:
            for b in range(a + 1, inside.stop):
                votes[int(clips[a]), int(clips[b])].append((int(frames[a]), int(frames[b] - frames[a])))
    copies = []
    for (a, b), meetings in sorted(votes.items()):
        if len(meetings) >= _FEWEST and (copy := _aligned(prints, a, b, meetings)):
            copies.append(copy)
    return copies


def _aligned(
    prints: Sequence[Fingerprint], a: int, b: int, meetings: Sequence[tuple[int, int]]
) -> Copy | None:
    """The overlap of two clips at the offset of most matches (frame in a, offset)."""
    places, distances = np.asarray(meetings).T
    values, counts = np.unique(distances, return_counts=True)
    near = np.array([counts[np.abs(values - value) <= 1].sum() for value in values])
    best = int(near.argmax())
    agreed, later = int(near[best]), int(values[best])
    if agreed < _FEWEST:
        return None
    lengths = prints[a].length, prints[b].length
    start, end = max(0, -later), min(lengths[0], lengths[1] - later)
    there = min(
        int(((prints[a].frames >= start) & (prints[a].frames < end)).sum()),
        int(((prints[b].frames >= start + later) & (prints[b].frames < end + later)).sum()),
    )
    matches = agreed / max(there, 1)
    overlap = (end - start) / min(lengths)
    agreeing = places[np.abs(distances - later) <= 1]
    early = float((agreeing < (start + end) / 2).mean())
    if matches < _LEAST_SHARE or overlap < 0.5 or min(early, 1 - early) < _LEAST_IN_A_HALF:
        return None
    return Copy(a, b, later * FRAME_SECONDS, overlap, (end - start) / max(lengths), min(1.0, matches))
