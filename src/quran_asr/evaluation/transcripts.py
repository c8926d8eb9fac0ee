"""`transcripts.jsonl`: reference and hypothesis of every clip, written by every evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quran_asr.errors import QuranAsrError
from quran_asr.evaluation.edit_distance import Edit, align, count_many
from quran_asr.evaluation.report import ScoredClip
from quran_asr.evaluation.scoring import word_letters
from quran_asr.files import json_line, parse_json, write_atomically
from quran_asr.records import Counts, Segment, VerseRef

TRANSCRIPTS_NAME = "transcripts.jsonl"

MOST_WORDS = 10_000
"""In a text; the longest surah has about 6,100. To lay two texts beside each other takes a byte a pair."""

MOST_SECONDS = 1e9

_AGAIN = "remove the file, or write it again with `quran-asr evaluate`"


@dataclass(frozen=True, slots=True)
class TranscribedClip:
    """A line of `transcripts.jsonl`, as far as it shows what went wrong."""

    segment: Segment
    """Its `text` is the reference."""
    hypothesis: str
    words: Counts
    """Of the words of both texts as they are written."""

    def edits(self) -> list[Edit]:
        """The aligned words of both texts; see `align`."""
        return align(self.segment.text.split(), self.hypothesis.split(), alike=word_letters)


def write_transcripts(path: Path, clips: Sequence[ScoredClip]) -> None:
    """A line for each clip, atomically."""
    text = "".join(json_line(clip.to_json()) for clip in clips)
    write_atomically(path, text.encode(errors="backslashreplace"))  # a file name that is not UTF-8


def read_transcripts(path: Path) -> list[TranscribedClip]:
    """The clips in their order; what stands in the file is not trusted.

    Raises:
        QuranAsrError: no such file, or a line that is not one of transcripts, with `file:line`.
    """
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except FileNotFoundError:
        raise QuranAsrError("no such file", where=str(path), remedy="`quran-asr evaluate` makes it") from None
    except IsADirectoryError:
        raise QuranAsrError("is a folder", where=str(path), remedy=f"name a {TRANSCRIPTS_NAME}") from None
    except UnicodeDecodeError:
        raise QuranAsrError("is not UTF-8 text", where=str(path), remedy=_AGAIN) from None
    segments: list[Segment] = []
    transcribed: list[str] = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            segment, text = _clip(parse_json(line))
        except (ValueError, RecursionError, QuranAsrError) as error:
            what, remedy = "is not a line of transcripts", _AGAIN
            if isinstance(error, QuranAsrError):
                what, remedy = error.what, error.remedy
            raise QuranAsrError(what, where=f"{path}:{number}", remedy=remedy) from None
        segments.append(segment)
        transcribed.append(text)
    counts = count_many(
        (segment.text.split(), text.split()) for segment, text in zip(segments, transcribed, strict=True)
    )
    return [TranscribedClip(*clip) for clip in zip(segments, transcribed, counts, strict=True)]


def worst(clips: Sequence[TranscribedClip], number: int) -> list[TranscribedClip]:
    """Up to so many clips with the most word errors; of equal ones the shorter text first."""
    wrong = [clip for clip in clips if clip.words.errors]
    return sorted(wrong, key=lambda clip: (-clip.words.errors, clip.words.reference_length))[:number]


def _clip(values: Any) -> tuple[Segment, str]:
    if not isinstance(values, dict):
        raise ValueError
    texts = [values.get(key) for key in ("audio_filepath", "reference", "hypothesis")]
    for key, text in zip(("audio_filepath", "reference", "hypothesis"), texts, strict=True):
        if not isinstance(text, str):
            raise QuranAsrError(f"`{key}` is missing or no text", remedy=_AGAIN)
        if len(text.split()) > MOST_WORDS:
            raise QuranAsrError(f"`{key}` has more than {MOST_WORDS:,} words", remedy="remove this line")
    audio, reference, transcribed = (str(text) for text in texts)
    verses = values.get("verses") or []
    if not isinstance(verses, list) or not all(isinstance(verse, str) for verse in verses):
        raise QuranAsrError(
            "`verses` is not a list of verses", remedy='write a list such as ["112:1"], or leave `verses` out'
        )
    reciter = values.get("reciter") or ""
    segment = Segment(
        audio=audio,
        offset=_seconds(values, "offset"),
        duration=_seconds(values, "duration"),
        verses=tuple(VerseRef.parse(verse) for verse in verses),
        text=reference,
        reciter=reciter if isinstance(reciter, str) else "",
    )
    return segment, transcribed


def _seconds(values: dict[str, Any], key: str) -> float:
    value = values.get(key, 0)
    # false for NaN too
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < MOST_SECONDS:
        raise QuranAsrError(
            f"`{key}` is not a number of seconds", remedy=f"write seconds from 0, or leave `{key}` out"
        )
    return float(value)
