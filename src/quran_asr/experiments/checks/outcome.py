"""The outcome of a check: passed, or what is wrong and what to do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from quran_asr.errors import Finding

Status = Literal["pass", "note", "warning", "failure", "skipped"]

_STATUS: dict[str, Status] = {"error": "failure", "warning": "warning", "note": "note"}


@dataclass(frozen=True, slots=True)
class Outcome:
    """One result of a check."""

    status: Status
    message: str
    """One sentence: what is so."""
    remedy: str = ""
    """One sentence or command: what to do. Empty when nothing needs doing."""
    code: str = ""
    """Stable name where it is not the check's own."""


Outcomes = Outcome | Sequence[Outcome]


def passed(message: str) -> Outcome:
    return Outcome("pass", message)


def warning(message: str, remedy: str) -> Outcome:
    return Outcome("warning", message, remedy)


def failure(message: str, remedy: str) -> Outcome:
    return Outcome("failure", message, remedy)


def skipped(message: str, remedy: str = "") -> Outcome:
    return Outcome("skipped", message, remedy)


def of_finding(finding: Finding) -> Outcome:
    """A finding of another room, under its own code."""
    where = f"{finding.where}: " if finding.where else ""
    return Outcome(_STATUS[finding.severity], where + finding.message, finding.remedy, finding.code)


def some_of(part: int, whole: int) -> str:
    """`3 of 2,899 (0.1 %)`"""
    return f"{part:,} of {whole:,} ({part / max(1, whole):.1%})".replace("%", " %")
