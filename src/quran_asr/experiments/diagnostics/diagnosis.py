"""A diagnosis (code, severity, evidence, cause, remedy) and the decorator that makes a function a rule."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from quran_asr.errors import Finding
from quran_asr.experiments.curves import Curves, Point

Severity = Literal["error", "warning", "note", "good"]


@dataclass(frozen=True, slots=True)
class Evidence:
    """One measurement that a diagnosis rests on."""

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
    """Why it is so, or may be; empty for good news."""
    remedy: str
    """What to do; empty when nothing needs doing."""
    step: int | None
    """Where on the curve it is seen."""

    def as_finding(self) -> Finding | None:
        """The diagnosis as a finding while a training runs; None for good news."""
        if self.severity == "good":
            return None
        where = "" if self.step is None else f"step {self.step}"
        return Finding(self.severity, self.code, where, self.message, self.remedy)


def shown(series: str, *points: Point) -> tuple[Evidence, ...]:
    """Points of a series as evidence."""
    return tuple(Evidence(series, point.step, point.value) for point in points)


Judge = Callable[[Curves], Iterator[Diagnosis]]


@dataclass(frozen=True, slots=True)
class Rule:
    """A function that judges curves, and what is known of it before it is called."""

    judge: Judge
    codes: tuple[str, ...]
    """All codes that its diagnoses may have."""
    explains: frozenset[str]
    """Codes of other rules that are not reported where this rule has a diagnosis."""


RULES: list[Rule] = []


def rule(*codes: str, explains: Iterable[str] = ()) -> Callable[[Judge], Judge]:
    """Make a function a rule of `watch`, `plot`, `train` and `quran.stop_on`.

    Args:
        codes: every code that its diagnoses may have.
        explains: codes of other rules that are not reported where this rule has a diagnosis.
    """

    def register(judge: Judge) -> Judge:
        RULES.append(Rule(judge, codes, frozenset(explains)))
        return judge

    return register
