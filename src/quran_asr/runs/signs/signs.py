"""Signs that a training goes well or wrong: every rule, asked one after the other."""

from __future__ import annotations

from quran_asr.runs.curves import Curves
from quran_asr.runs.signs.sign import Evidence, Sign
from quran_asr.runs.signs.signs_pace import clipping, data_wait, good_signs, guides_course
from quran_asr.runs.signs.signs_rate import divergence, not_a_number
from quran_asr.runs.signs.signs_start import stalled_start
from quran_asr.runs.signs.signs_stuck import learned_by_heart, stuck
from quran_asr.runs.signs.signs_validation import (
    drifting_apart,
    generalization_gap,
    late_collapse,
    overfitting,
    plateau,
)

__all__ = ["Evidence", "Sign", "judge"]

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
    good_signs,
)
ORDER = ("error", "warning", "note", "good")
SAYS_MORE = {
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


def judge(curves: Curves) -> tuple[Sign, ...]:
    """What the curves show; errors first, then warnings, notes and good signs."""
    found = [sign for rule in RULES for sign in rule(curves)]
    explained: set[str] = set().union(*(SAYS_MORE.get(sign.code, set()) for sign in found))
    return tuple(
        sorted(
            (sign for sign in found if sign.code not in explained),
            key=lambda sign: ORDER.index(sign.severity),
        )
    )
