"""Reports of `evaluate` compared with the first of them, and paired word errors clip by clip."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quran_asr.errors import Finding, QuranAsrError
from quran_asr.evaluation.confidence import Difference, compare_errors, rounded_interval
from quran_asr.evaluation.evaluate import REPORT_NAME
from quran_asr.evaluation.transcripts import TRANSCRIPTS_NAME, TranscribedClip, read_transcripts
from quran_asr.experiments.curves import number
from quran_asr.files import parse_json

Key = tuple[str, float, float, str]
"""What makes a clip the same: file name with its folder, offset and duration in seconds, reference."""

_MADE_BY = "`quran-asr evaluate MANIFEST --model MODEL` makes one"


@dataclass(frozen=True, slots=True)
class PairedErrors:
    """The word errors of two variants on the clips of both."""

    clips: int
    of_clips: tuple[int, int]
    """Clips of each."""
    difference: Difference

    def to_json(self) -> dict[str, Any]:
        found = self.difference
        return {
            "clips": self.clips,
            "of_clips": list(self.of_clips),
            "wer": [round(rate, 6) for rate in found.rates],
            "difference": round(found.difference, 6),
            "difference_interval": rounded_interval(found.difference_interval),
            "ratio": None if found.ratio is None else round(found.ratio, 6),
            "ratio_interval": rounded_interval(found.ratio_interval),
        }


def clips_of(transcripts: Path) -> dict[Key, TranscribedClip]:
    """The clips of a `transcripts.jsonl`.

    Raises:
        QuranAsrError: it cannot be read.
    """
    return {
        ("/".join(Path(clip.segment.audio).parts[-2:]), clip.segment.offset, clip.segment.duration,
         clip.segment.text): clip
        for clip in read_transcripts(transcripts)
    }  # fmt: skip


def pair_errors(
    first: Sequence[dict[Key, TranscribedClip]], second: Sequence[dict[Key, TranscribedClip]]
) -> PairedErrors | None:
    """Pair the word errors of two variants clip by clip, each of one or several trainings.

    Returns:
        None where no clip with words in it is in all.
    """
    both = [key for key in first[0] if all(key in clips for clips in (*first, *second))]
    if not any(first[0][key].words.reference_length for key in both):
        return None
    import numpy as np

    errors = [
        np.array([[clips[key].words.errors for key in both] for clips in variant], np.int64)
        for variant in (first, second)
    ]
    reference_lengths = np.array([first[0][key].words.reference_length for key in both], np.int64)
    reciters = [first[0][key].segment.reciter for key in both]
    found = compare_errors(errors[0], errors[1], reference_lengths, reciters)
    return PairedErrors(len(both), (len(first[0]), len(second[0])), found)


LIKE = ("spelling", "edition", "decoder")
"""Keys in which reports must agree, or other things are counted."""
NOTED = ("look_ahead_ms", "streaming")
"""Keys whose difference may be what is asked for; it is reported."""


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
class NamedReport:
    """A report, and its clips where `transcripts.jsonl` lies beside it."""

    place: str
    values: Mapping[str, Any]
    clips: dict[Key, TranscribedClip] | None

    @property
    def wer(self) -> float | None:
        return number(self.values.get("wer"))


def find_report(word: str) -> Path | None:
    """The file of a report that a word names: itself, or in the folder `evaluate` wrote."""
    place = Path(word)
    if place.is_dir():
        return place / REPORT_NAME if (place / REPORT_NAME).is_file() else None
    return place if place.suffix == ".json" and place.is_file() else None


def read_report(path: Path) -> NamedReport:
    """Read a report and the transcripts beside it.

    Raises:
        QuranAsrError: it is not a report, a key holds what it should not, or the transcripts beside it cannot
            be read.
    """
    try:
        values = parse_json(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError):
        raise QuranAsrError("is not JSON", where=str(path), remedy=_MADE_BY) from None
    if not isinstance(values, dict) or not {"wer", "model", *LIKE} <= values.keys():
        raise QuranAsrError("is not a report", where=str(path), remedy=_MADE_BY)
    for key, (kind, fits) in _KINDS.items():
        if key in values and not fits(values[key]):
            raise QuranAsrError(
                f"`{key}` is not {kind}", where=str(path), remedy="evaluate again: `quran-asr evaluate`"
            )
    beside = path.parent / TRANSCRIPTS_NAME
    return NamedReport(str(path), values, clips_of(beside) if beside.is_file() else None)


def refuse_unlike(reports: Sequence[NamedReport], *, anyway: bool) -> list[Finding]:
    """Stop where the reports count other things; what may be meant is returned as notes.

    Raises:
        QuranAsrError: spelling, edition, decoder or clips differ, and `anyway` was not given.
    """
    first, notes = reports[0], []
    for other in reports[1:]:
        unlike = [key for key in LIKE if first.values.get(key) != other.values.get(key)]
        message = "; ".join(
            f"{key} {first.values.get(key)} and {other.values.get(key)}" for key in unlike
        ) or _other_clips(first, other)
        if message and not anyway:
            raise QuranAsrError(
                f"is not like {first.place}: {message}", where=other.place, remedy="compare them --anyway"
            )
        noted = [key for key in NOTED if first.values.get(key) != other.values.get(key)]
        message = "; ".join(
            [message, *(f"{key} {first.values.get(key)} and {other.values.get(key)}" for key in noted)]
        ).removeprefix("; ")
        if message:
            notes.append(
                Finding("note", "unlike-reports", other.place, f"beside {first.place}: {message}", "")
            )
    return notes


def pair_with_first(reports: Sequence[NamedReport]) -> list[PairedErrors | None]:
    """Each later report paired with the first, clip by clip; None without transcripts of both."""
    first = reports[0].clips
    return [
        None if first is None or other.clips is None else pair_errors([first], [other.clips])
        for other in reports[1:]
    ]


def as_json(reports: Sequence[NamedReport], pairs: Sequence[PairedErrors | None]) -> dict[str, Any]:
    """Plain values of all of it."""
    keys = ("model", "manifest", *LIKE, *NOTED, "clips", "wer", "wer_interval", "cer", "cer_interval")
    return {
        "kind": "reports",
        "variants": [
            {
                "report": report.place,
                **{key: report.values.get(key) for key in keys},
                "against_first": None if paired is None else paired.to_json(),
            }
            for report, paired in zip(reports, [None, *pairs], strict=True)
        ],
    }


def _other_clips(first: NamedReport, other: NamedReport) -> str:
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
