"""Which clips of a manifest a recipe trains on, and what it leaves out: counted and weighed in hours."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from quran_asr.findings import Finding, counted
from quran_asr.records import Segment


@dataclass(frozen=True, slots=True)
class Selection:
    """Clips within the limits of a recipe, and those outside."""

    kept: tuple[Segment, ...]
    too_long: tuple[Segment, ...]
    too_short: tuple[Segment, ...]
    without_text: tuple[Segment, ...]

    @property
    def hours(self) -> float:
        """Of what is kept."""
        return hours(self.kept)


def select(segments: Sequence[Segment], *, shortest: float, longest: float | None) -> Selection:
    """Sort clips by what a recipe takes; `shortest` and `longest` in seconds, None for no limit."""
    kept, too_long, too_short, silent = [], [], [], []
    for segment in segments:
        if not segment.text:
            silent.append(segment)
        elif longest is not None and segment.duration > longest:
            too_long.append(segment)
        elif segment.duration < shortest:
            too_short.append(segment)
        else:
            kept.append(segment)
    return Selection(tuple(kept), tuple(too_long), tuple(too_short), tuple(silent))


def describe(selection: Selection, *, what: str, key: str, longest: float | None) -> list[Finding]:
    """What was left out, one finding for each reason.

    Args:
        what: `training` or `validation`.
        key: dotted key of the limit, named in the remedy.
        longest: the limit in seconds.
    """
    total = sum(
        hours(part)
        for part in (selection.kept, selection.too_long, selection.too_short, selection.without_text)
    )
    findings = []
    if selection.too_long:
        lost = hours(selection.too_long)
        longest_clip = max(segment.duration for segment in selection.too_long)
        findings.append(
            Finding(
                "warning" if lost > 0.1 * total else "note",
                "clips-too-long",
                key,
                f"{counted(len(selection.too_long), f'{what} clip')} over {longest:g} s "
                f"{_are(selection.too_long)} left out: {lost:.2f} of {total:.2f} hours, "
                f"the first {selection.too_long[0].audio}",
                f"raise {key} (the longest has {longest_clip:.0f} s) or cut them at pauses",
            )
        )
    for code, part, why in (
        ("clips-too-short", selection.too_short, "too short"),
        ("clips-without-text", selection.without_text, "without text"),
    ):
        if part:
            findings.append(
                Finding(
                    "note",
                    code,
                    part[0].audio,
                    f"{counted(len(part), f'{what} clip')} {why} {_are(part)} left out "
                    f"({hours(part):.3f} hours)",
                    "",
                )
            )
    return findings


def _are(clips: Sequence[Segment]) -> str:
    return "is" if len(clips) == 1 else "are"


def hours(segments: Sequence[Segment]) -> float:
    """Audio of the segments in hours."""
    return sum(segment.duration for segment in segments) / 3600
