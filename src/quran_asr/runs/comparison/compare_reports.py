"""Reports of `evaluate` set against the first of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quran_asr.files import parse_json
from quran_asr.findings import Finding, QuranAsrError
from quran_asr.measure.evaluate import REPORT_NAME
from quran_asr.measure.transcripts import TRANSCRIPTS_NAME, HeardClip
from quran_asr.runs.comparison.compare_clips import Beside, Key, clips_of, set_beside
from quran_asr.runs.curves import number

LIKE = ("spelling", "edition", "decoder")
"""Keys in which reports must agree, or other things are counted."""
NOTED = ("look_ahead_ms", "streaming")
"""Keys whose difference may be what is asked for; it is said."""


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_rate(value: Any) -> bool:
    return value is None or ((found := number(value)) is not None and found >= 0)


def _is_interval(value: Any) -> bool:
    return value is None or (
        isinstance(value, list) and len(value) == 2 and all(number(bound) is not None for bound in value)
    )


_KINDS: Mapping[str, tuple[str, Callable[[Any], bool]]] = {
    **dict.fromkeys(
        ("model", "manifest", "spelling", "edition", "decoder"),
        ("text", lambda value: isinstance(value, str)),
    ),
    "clips": ("a count", _is_count),
    "hours": ("a number of hours", lambda value: value is not None and _is_rate(value)),
    "look_ahead_ms": ("a count or null", lambda value: value is None or _is_count(value)),
    "streaming": ("true or false", lambda value: isinstance(value, bool)),
    **dict.fromkeys(("wer", "cer"), ("a rate or null", _is_rate)),
    **dict.fromkeys(("wer_interval", "cer_interval"), ("two numbers or null", _is_interval)),
}
"""What the keys that are compared hold."""


@dataclass(frozen=True, slots=True)
class Told:
    """A report, and its clips where `transcripts.jsonl` lies beside it."""

    place: str
    values: Mapping[str, Any]
    clips: dict[Key, HeardClip] | None

    @property
    def wer(self) -> float | None:
        return number(self.values.get("wer"))


def find_report(word: str) -> Path | None:
    """The file of a report that a word names: itself, or in the folder `evaluate` wrote."""
    place = Path(word)
    if place.is_dir():
        return place / REPORT_NAME if (place / REPORT_NAME).is_file() else None
    return place if place.suffix == ".json" and place.is_file() else None


def read_report(path: Path) -> Told:
    """Read a report and the transcripts beside it.

    Raises:
        QuranAsrError: it is no report, a key holds what it should not, or the transcripts beside it cannot
            be read.
    """
    try:
        values = parse_json(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError):
        raise QuranAsrError("is not JSON", where=str(path)) from None
    if not isinstance(values, dict) or not {"wer", "model", *LIKE} <= values.keys():
        raise QuranAsrError(
            "is not a report", where=str(path), remedy="`quran-asr evaluate MODEL MANIFEST` makes one"
        )
    for key, (kind, fits) in _KINDS.items():
        if key in values and not fits(values[key]):
            raise QuranAsrError(
                f"`{key}` is not {kind}", where=str(path), remedy="evaluate again: `quran-asr evaluate`"
            )
    beside = path.parent / TRANSCRIPTS_NAME
    return Told(str(path), values, clips_of(beside) if beside.is_file() else None)


def refuse_unlike(reports: Sequence[Told], *, anyway: bool) -> list[Finding]:
    """Stop where the reports count other things; what may be meant is returned as notes.

    Raises:
        QuranAsrError: spelling, edition, decoder or clips differ, and `anyway` was not given.
    """
    first, notes = reports[0], []
    for other in reports[1:]:
        unlike = [key for key in LIKE if first.values.get(key) != other.values.get(key)]
        said = "; ".join(
            f"{key} {first.values.get(key)} and {other.values.get(key)}" for key in unlike
        ) or _other_clips(first, other)
        if said and not anyway:
            raise QuranAsrError(
                f"is not like {first.place}: {said}", where=other.place, remedy="compare them --anyway"
            )
        noted = [key for key in NOTED if first.values.get(key) != other.values.get(key)]
        said = "; ".join(
            [said, *(f"{key} {first.values.get(key)} and {other.values.get(key)}" for key in noted)]
        ).removeprefix("; ")
        if said:
            notes.append(Finding("note", "unlike-reports", other.place, f"beside {first.place}: {said}", ""))
    return notes


def beside_first(reports: Sequence[Told]) -> list[Beside | None]:
    """Each later report beside the first, clip by clip; None where transcripts are not at hand for both."""
    first = reports[0].clips
    return [
        None if first is None or other.clips is None else set_beside([first], [other.clips])
        for other in reports[1:]
    ]


def as_json(reports: Sequence[Told], besides: Sequence[Beside | None]) -> dict[str, Any]:
    """Plain values of all of it."""
    keys = ("model", "manifest", *LIKE, *NOTED, "clips", "wer", "wer_interval", "cer", "cer_interval")
    return {
        "kind": "reports",
        "sides": [
            {
                "report": told.place,
                **{key: told.values.get(key) for key in keys},
                "against_first": None if beside is None else beside.to_json(),
            }
            for told, beside in zip(reports, [None, *besides], strict=True)
        ],
    }


def _other_clips(first: Told, other: Told) -> str:
    """What is unlike in the clips, empty when nothing is known to be."""
    if first.clips is not None and other.clips is not None:
        both = len(first.clips.keys() & other.clips.keys())
        if both < max(len(first.clips), len(other.clips)):
            return f"{len(first.clips)} and {len(other.clips)} clips, {both} of them the same"
        return ""
    for key in ("clips", "hours"):
        if first.values.get(key) != other.values.get(key):
            return f"{first.values.get(key)} and {other.values.get(key)} {key}"
    return ""
