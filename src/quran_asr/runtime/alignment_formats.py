"""An alignment as a file that other programs open: TextGrid, SRT, WebVTT, Audacity labels, CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from quran_asr.decoding.path import AlignedSegment
    from quran_asr.records import TimedWord
    from quran_asr.runtime.alignment import AlignedRecording

CUE_SECONDS = 7.0
"""Longest display of a subtitle of more than one word."""
PAUSE_SECONDS = 0.4
"""A subtitle ends at a pause of at least this length,"""
LEAST_CUE_SECONDS = 2.0
"""if it has been shown for at least this long."""


@dataclass(frozen=True, slots=True)
class Format:
    """A kind of file."""

    suffix: str
    write: Callable[[AlignedRecording], str]
    begins: str
    """Pattern of the beginning of such a file, to know one of an earlier alignment by."""


@dataclass(frozen=True, slots=True)
class _Cue:
    """Words that are displayed together."""

    words: tuple[TimedWord, ...]
    label: str
    """After the last word of a verse, its reference; otherwise empty."""


def textgrid(recording: AlignedRecording) -> str:
    """Praat's long text format with two interval tiers, `verses` and `words`."""
    verses = [(segment.start, segment.end, label(segment)) for segment in recording.segments]
    words = [(word.start, word.end, word.text) for word in recording.words]
    end = max([recording.seconds, *(stop for _, stop, _ in (*verses, *words))])
    lines = [
        'File type = "ooTextFile"',
        'Object class = "TextGrid"',
        "",
        "xmin = 0",
        f"xmax = {end:.3f}",
        "tiers? <exists>",
        "size = 2",
        "item []:",
    ]
    for number, (name, labelled) in enumerate((("verses", verses), ("words", words)), start=1):
        intervals = list(_without_gaps(labelled, end))
        lines += [
            f"    item [{number}]:",
            '        class = "IntervalTier"',
            f'        name = "{name}"',
            "        xmin = 0",
            f"        xmax = {end:.3f}",
            f"        intervals: size = {len(intervals)}",
        ]
        for place, (start, stop, text) in enumerate(intervals, start=1):
            quoted = text.replace('"', '""')
            lines += [
                f"        intervals [{place}]:",
                f"            xmin = {start:.3f}",
                f"            xmax = {stop:.3f}",
                f'            text = "{quoted}"',
            ]
    return "\n".join(lines) + "\n"


def srt(recording: AlignedRecording) -> str:
    """SubRip: the words as they are recited, with the reference after each verse."""
    blocks = []
    for number, cue in enumerate(_cues(recording), start=1):
        start, end = (_clock(seconds, ",") for seconds in (cue.words[0].start, cue.words[-1].end))
        text = " ".join([*(word.text for word in cue.words), cue.label]).rstrip()
        blocks.append(f"{number}\n{start} --> {end}\n{text}\n")
    return "\n".join(blocks)


def webvtt(recording: AlignedRecording) -> str:
    """WebVTT with a timestamp before each word, so that players can show the current word."""
    blocks = ["WEBVTT\n"]
    for cue in _cues(recording):
        first, *rest = cue.words
        text = escape(first.text, quote=False)
        for word in rest:
            text += f" <{_clock(word.start, '.')}>{escape(word.text, quote=False)}"
        start, end = (_clock(seconds, ".") for seconds in (first.start, cue.words[-1].end))
        blocks.append(f"{start} --> {end}\n{text} {cue.label}".rstrip() + "\n")
    return "\n".join(blocks)


def audacity(recording: AlignedRecording) -> str:
    """An Audacity label track: a label for each segment, `?` for speech that is not aligned."""
    labels = [(segment.start, segment.end, label(segment)) for segment in recording.segments]
    labels += [(one.start, one.end, "?") for one in recording.unaligned]
    return "".join(f"{start:.3f}\t{end:.3f}\t{text}\n" for start, end, text in sorted(labels))


def csv_table(recording: AlignedRecording) -> str:
    """Comma-separated values, a row for each word; words are counted from 0."""
    out = io.StringIO()
    rows = csv.writer(out, lineterminator="\n")
    rows.writerow(("start", "end", "word", "verse", "index", "kind", "segment", "confidence"))
    for number, segment in enumerate(recording.segments):
        for word in segment.words:
            confidence = "" if word.confidence is None else f"{word.confidence:.4f}"
            times = f"{word.start:.3f}", f"{word.end:.3f}"
            rows.writerow((*times, word.text, word.verse or "", word.index, segment.kind, number, confidence))
    return out.getvalue()


FORMATS = {
    "textgrid": Format(".TextGrid", textgrid, 'File type = "ooTextFile"'),
    "srt": Format(".srt", srt, r"1\n\d+:\d\d:\d\d,\d+ --> "),
    "webvtt": Format(".vtt", webvtt, "WEBVTT"),
    "audacity": Format(".txt", audacity, r"\d+\.\d+\t\d+\.\d+\t"),
    "csv": Format(".csv", csv_table, "start,end,word,verse,"),
}


def label(segment: AlignedSegment) -> str:
    """A segment in a few characters: `2:255`, `2:255 again`, or the name of a formula."""
    verse = " ".join(str(verse) for verse in segment.verses)
    return {"verse": verse, "repeat": f"{verse} again"}.get(segment.kind, segment.kind)


def _without_gaps(
    labelled: Sequence[tuple[float, float, str]], end: float
) -> Iterator[tuple[float, float, str]]:
    """The intervals with empty ones between them, as a tier needs them: from 0 to the end."""
    at = 0.0
    for start, stop, text in ((round(start, 3), round(stop, 3), text) for start, stop, text in labelled):
        start = max(start, at)
        if stop <= start:
            continue
        if start > at:
            yield at, start, ""
        yield start, stop, text
        at = stop
    if round(end, 3) > at:
        yield at, end, ""


def _cues(recording: AlignedRecording) -> Iterator[_Cue]:
    parts = [segment for segment in recording.segments if segment.kind == "verse"]
    continues = {id(part) for part, after in pairwise(parts) if after.verses == part.verses}
    for segment in recording.segments:
        shown: list[TimedWord] = []
        for word in segment.words:
            if shown:
                pause = word.start - shown[-1].end >= PAUSE_SECONDS
                long = shown[-1].end - shown[0].start >= LEAST_CUE_SECONDS
                if (pause and long) or word.end - shown[0].start > CUE_SECONDS:
                    yield _Cue(tuple(shown), "")
                    shown = []
            shown.append(word)
        ends = segment.kind == "verse" and id(segment) not in continues
        yield _Cue(tuple(shown), f"({label(segment)})" if ends else "")


def _clock(seconds: float, point: str) -> str:
    """`01:02:03.456`, with the decimal separator of the format."""
    whole, milliseconds = divmod(round(1000 * seconds), 1000)
    return f"{whole // 3600:02}:{whole // 60 % 60:02}:{whole % 60:02}{point}{milliseconds:03}"
