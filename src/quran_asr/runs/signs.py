"""Signs that a training goes well or wrong: every rule, asked one after the other."""

from __future__ import annotations

from quran_asr.runs.curves import Curves
from quran_asr.runs.sign import Evidence, Sign
from quran_asr.runs.signs_start import stalled_start

__all__ = ["Evidence", "Sign", "judge"]

RULES = (stalled_start,)


def judge(curves: Curves) -> tuple[Sign, ...]:
    """What the curves show; errors first, then warnings, notes and good signs."""
    found = [sign for rule in RULES for sign in rule(curves)]
    order = ("error", "warning", "note", "good")
    return tuple(sorted(found, key=lambda sign: order.index(sign.severity)))
