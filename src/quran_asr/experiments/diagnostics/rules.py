"""All diagnostic rules, applied one after the other.

A rule is a function with the decorator `rule` in any file of this folder; nothing else names it.
"""

from __future__ import annotations

import difflib
import pkgutil
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from quran_asr.errors import QuranAsrError
from quran_asr.experiments.curves import Curves
from quran_asr.experiments.diagnostics.diagnosis import RULES, Diagnosis, Rule

ORDER = ("error", "warning", "note", "good")


def all_rules() -> list[Rule]:
    """The rules of all files here. Imported at the first call: most of what reads a recipe applies none."""
    for module in sorted(module.name for module in pkgutil.iter_modules([str(Path(__file__).parent)])):
        if module != "rules":
            import_module(f"{__package__}.{module}")
    return RULES


def codes() -> frozenset[str]:
    """What `quran.stop_on` may name."""
    return frozenset(code for rule in all_rules() for code in rule.codes)


def diagnose(curves: Curves) -> tuple[Diagnosis, ...]:
    """What the curves show: errors first, then warnings, notes and good news."""
    found: list[Diagnosis] = []
    explained: set[str] = set()
    for rule in all_rules():
        diagnoses = list(rule.judge(curves))
        found += diagnoses
        if diagnoses:
            explained |= rule.explains
    return tuple(
        sorted(
            (diagnosis for diagnosis in found if diagnosis.code not in explained),
            key=lambda diagnosis: ORDER.index(diagnosis.severity),
        )
    )


def unknown_codes(named: Sequence[str]) -> list[QuranAsrError]:
    """An error for each code that no rule has."""
    errors = []
    for code in named:
        if code not in (known := sorted(codes())):
            near = difflib.get_close_matches(code, known, n=1, cutoff=0.6)
            remedy = f"did you mean `{near[0]}`?" if near else f"one of {', '.join(known)}"
            errors.append(
                QuranAsrError(f"`{code}` is not a diagnostic", where="quran.stop_on", remedy=remedy)
            )
    return errors
