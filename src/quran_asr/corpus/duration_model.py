"""Expected duration of a clip from its text and its reciter's speech rate.

The expected duration is a sum over phones (`phone_classes.py`), fitted for each reciter so that outliers
weigh little. The score is log(measured / expected) in units of the reciter's own scatter.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from quran_asr.corpus.phone_classes import SECONDS, PhoneCounts, phones_of_basmala, phones_of_verse
from quran_asr.records import VerseRef
from quran_asr.text.quran import load_quran

FEWEST = 20
"""Clips from which the speech rate of a reciter is fitted. Others are judged by all clips together."""

LEAST_SCATTER = 0.05
"""The scatter of log durations is taken as at least this: synthetic voices repeat themselves."""

LEAST_EVIDENCE = 12.0
"""Nats by which a run of verses must fit the neighbouring verses better than its own to count as shifted."""

LEAST_RUN = 3
"""Verses of a run that is called shifted."""

_ROUNDS = 30
_PRIOR_CLIPS = 4.0
_SHORTEST = 0.3
_BULK, _OF_BULK = 2.0, 0.8796
"""Deviations that delimit the bulk of the clips; deviation of a normal distribution truncated there."""
_TAILS = 4.0
"""Degrees of freedom of Student's t for the residuals: outliers are expected."""


@dataclass(frozen=True, slots=True)
class DurationModel:
    """The speech rate of one reciter."""

    seconds: PhoneCounts
    """Seconds of each kind of phone, in the order of `phone_classes.KINDS`."""
    scatter: float
    """Robust standard deviation of log(measured / expected), from the median absolute deviation."""
    clips: int
    """Number of clips that it was fitted to."""
    own: bool
    """False where the reciter has fewer than `FEWEST` clips and all reciters were taken together."""

    def expected(self, phones: PhoneCounts) -> float:
        """Seconds that these phones should take; at least 0.3."""
        total = sum(count * each for count, each in zip(phones, self.seconds, strict=True))
        return max(_SHORTEST, total)

    def deviation(self, seconds: float, phones: PhoneCounts) -> float:
        """log(measured / expected) in units of `scatter`: above 0 slower, below 0 faster than usual."""
        return float(np.log(max(seconds, 1e-3) / self.expected(phones))) / self.scatter


def fit_duration_model(phones: Sequence[PhoneCounts], seconds: Sequence[float]) -> DurationModel:
    """Fit the seconds of each kind of phone.

    Iteratively reweighted least squares on relative errors with Huber's weights, regularized towards
    `SECONDS` times one factor: with few clips only the factor is fitted, with hundreds the data dominate.

    Args:
        phones: of each clip.
        seconds: of each clip, silence at its ends left out.

    Raises:
        ValueError: no clips.
    """
    counts = np.asarray(phones, dtype=np.float64)
    measured = np.maximum(np.asarray(seconds, dtype=np.float64), 1e-3)
    if not len(measured):
        raise ValueError("no clips to fit a speech rate to")
    usual = np.asarray(SECONDS)
    start = usual * float(np.median(measured / np.maximum(counts @ usual, _SHORTEST)))
    fitted: NDArray[np.float64] = start
    scatter = 0.15
    weights = 1.0 / np.maximum(counts @ start, _SHORTEST)
    for _ in range(_ROUNDS):
        weighted = counts * weights[:, None]
        prior = np.diag(_PRIOR_CLIPS * (scatter / start) ** 2)
        against = weighted.T @ (measured * weights) + prior @ start
        fitted = np.asarray(np.linalg.solve(weighted.T @ weighted + prior, against), dtype=np.float64)
        expected = np.maximum(counts @ fitted, _SHORTEST)
        residuals = np.log(measured / expected)
        scatter = max(LEAST_SCATTER, _scatter(residuals))
        huber = np.minimum(1.0, 1.5 * scatter / np.maximum(np.abs(residuals), 1e-9))
        weights = np.sqrt(huber) / expected
    return DurationModel(tuple(float(value) for value in fitted), scatter, len(measured), own=True)


def _scatter(residuals: NDArray[np.float64]) -> float:
    """Standard deviation of the bulk: from the median absolute deviation, then without the outliers.

    If a quarter of the clips is wrong, the first step alone is a quarter too large.
    """
    scatter = 1.4826 * float(np.median(np.abs(residuals - np.median(residuals))))
    for _ in range(10):
        bulk = residuals[np.abs(residuals) <= _BULK * scatter]
        if len(bulk) < len(residuals) / 2:
            break
        scatter = min(scatter, float(np.sqrt(np.mean(bulk**2))) / _OF_BULK)
    return scatter


@dataclass(frozen=True, slots=True)
class RecitedVerse:
    """One verse in one clip."""

    index: int
    """Index of the clip, for the caller."""
    ref: VerseRef
    seconds: float
    """Silence at the ends left out."""


@dataclass(frozen=True, slots=True)
class ShiftedVerses:
    """A run of verses whose clips fit the verses beside theirs."""

    clips: tuple[int, ...]
    """`RecitedVerse.index` of each, in the order of the verses."""
    first: VerseRef
    last: VerseRef
    by: int
    """The clip named n holds verse n + `by`."""
    evidence: float
    """Nats by which the shifted numbering explains the durations better."""


def find_shifted(verses: Sequence[RecitedVerse], duration_model: DurationModel) -> list[ShiftedVerses]:
    """Runs of one reciter's verses in which the numbering is off by one.

    One verse that fits its neighbour better means little; a run of them adds up. For each surah and direction
    the run with the largest sum of log-likelihood ratios is found (Kadane's algorithm), until none is left
    that reaches `LEAST_EVIDENCE`.
    """
    found: list[ShiftedVerses] = []
    for surah in sorted({verse.ref.surah for verse in verses}):
        inside = sorted((v for v in verses if v.ref.surah == surah), key=lambda v: (v.ref, v.index))
        own = np.array([_likelihood(duration_model, v.seconds, phones_of_verse(v.ref)) for v in inside])
        gains = {
            by: np.array([_likelihood(duration_model, v.seconds, _neighbour(v.ref, by)) for v in inside])
            - own
            for by in (1, -1)
        }
        taken = np.zeros(len(inside), dtype=bool)
        while True:
            runs = [(*_best_run(np.where(taken, -1e9, gain)), by) for by, gain in gains.items()]
            evidence, start, end, by = max(runs)
            if evidence < LEAST_EVIDENCE:
                break
            taken[start:end] = True
            if end - start >= LEAST_RUN:
                run = inside[start:end]
                found.append(
                    ShiftedVerses(
                        tuple(v.index for v in run), run[0].ref, run[-1].ref, by, round(evidence, 1)
                    )
                )
    return sorted(found, key=lambda shift: (shift.first, shift.last, shift.by))


def _neighbour(ref: VerseRef, by: int) -> PhoneCounts | None:
    """Phones of the verse before or after; the basmala precedes the first."""
    ayah = ref.ayah + by
    if ayah == 0:
        return phones_of_basmala()
    if ayah > load_quran("uthmani").ayahs(ref.surah):
        return None
    return phones_of_verse(VerseRef(ref.surah, ayah))


def _likelihood(duration_model: DurationModel, seconds: float, phones: PhoneCounts | None) -> float:
    """Log of Student's t density, up to a constant; that of an outlier where there is no such verse."""
    deviation = 4.0 if phones is None else duration_model.deviation(seconds, phones)
    return -(_TAILS + 1) / 2 * float(np.log1p(deviation**2 / _TAILS))


def _best_run(gains: NDArray[np.float64]) -> tuple[float, int, int]:
    """(sum, start, end) of the run with the largest sum."""
    best = (0.0, 0, 0)
    total, start = 0.0, 0
    for place, gain in enumerate(gains.tolist()):
        if total <= 0.0:
            total, start = 0.0, place
        total += gain
        if total > best[0]:
            best = (total, start, place + 1)
    return best
