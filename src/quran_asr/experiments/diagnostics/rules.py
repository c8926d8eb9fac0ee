"""All diagnostic rules, applied one after the other."""

from __future__ import annotations

from quran_asr.experiments.curves import Curves
from quran_asr.experiments.diagnostics.diagnosis import Diagnosis, Evidence
from quran_asr.experiments.diagnostics.learning_rate import divergence, not_a_number
from quran_asr.experiments.diagnostics.not_learning import learned_by_heart, stalled_start, stuck
from quran_asr.experiments.diagnostics.progress import clipping, data_wait, good_news, guides_course
from quran_asr.experiments.diagnostics.validation import (
    drifting_apart,
    generalization_gap,
    late_collapse,
    overfitting,
    plateau,
)

__all__ = ["Diagnosis", "Evidence", "diagnose"]

RULES = (
    not_a_number,
    stalled_start,
    stuck,
    learned_by_heart,
    late_collapse,
    divergence,
    overfitting,
    generalization_gap,
    plateau,
    drifting_apart,
    clipping,
    data_wait,
    guides_course,
    good_news,
)
ORDER = ("error", "warning", "note", "good")
EXPLAINED_BY = {
    "late-collapse": {"overfitting", "plateau"},
    "divergence": {
        "overfitting",
        "stalled-start",
        "stuck-wer",
        "stuck-blank-collapse",
        "stuck-token-loops",
        "plateau",
    },
    "overfitting": {"generalization-gap", "plateau"},
    "stuck-learned-by-heart": {"drifting-apart", "plateau"},
}
"""A sign -> signs that it explains, which then go without saying."""


def diagnose(curves: Curves) -> tuple[Diagnosis, ...]:
    """What the curves show; errors first, then warnings, notes and good signs."""
    found = [diagnosis for rule in RULES for diagnosis in rule(curves)]
    explained: set[str] = set().union(*(EXPLAINED_BY.get(diagnosis.code, set()) for diagnosis in found))
    return tuple(
        sorted(
            (diagnosis for diagnosis in found if diagnosis.code not in explained),
            key=lambda diagnosis: ORDER.index(diagnosis.severity),
        )
    )
