"""A diagnosis: code, severity, evidence in the curves, cause and remedy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from quran_asr.errors import Finding
from quran_asr.experiments.curves import Point

Severity = Literal["error", "warning", "note", "good"]


@dataclass(frozen=True, slots=True)
class Evidence:
    """One measurement that a sign rests on."""

    series: str
    """`training.KEY` or `validation.KEY`."""
    step: int
    value: float | None


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """What a rule saw."""

    code: str
    """Stable kebab-case name."""
    severity: Severity
    message: str
    """One sentence: what is so."""
    evidence: tuple[Evidence, ...]
    cause: str
    """Why it is so, or may be; empty for good signs."""
    remedy: str
    """What to do; empty when nothing needs doing."""
    step: int | None
    """Where on the curve it is seen."""

    def as_finding(self) -> Finding | None:
        """The sign as a finding while a training runs; None for a good one."""
        if self.severity == "good":
            return None
        where = "" if self.step is None else f"step {self.step}"
        return Finding(self.severity, self.code, where, self.message, self.remedy)


def shown(series: str, *points: Point) -> tuple[Evidence, ...]:
    """Points of a series as evidence."""
    return tuple(Evidence(series, point.step, point.value) for point in points)
