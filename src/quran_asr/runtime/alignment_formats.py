"""An alignment as a file that other programs open: TextGrid, SRT, WebVTT, Audacity labels, CSV.

Every format shows where something else was recognized than is written, and speech that is not aligned: the
reciter is never corrected in silence.
"""

from __future__ import annotations

import csv
import io
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from html import escape
from itertools import pairwise
from typing import TYPE_CHECKING

from quran_asr.records import TimedWord

if TYPE_CHECKING:
    from quran_asr.decoding.path import AlignedSegment
    from quran_asr.runtime.alignment import AlignedRecording

CUE_SECONDS = 7.0
"""Longest display of a subtitle of more than one word."""
PAUSE_SECONDS = 0.4
"""A subtitle ends at a pause of at least this length,"""
LEAST_CUE_SECONDS = 2.0
"""if it has been shown for at least this long."""
NOTHING = "-"
"""In place of a word where nothing is recognized."""
OTHER_SPEECH = "?"
"""Label of speech that is not aligned."""
OTHER_SPEECH_CUE = "[...]"
"""Its subtitle."""


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
    """Praat's long text format with the interval tiers `verses`, `words` and `recognized`.

    The last one has what was recognized in place of a word, and `?` for speech that is not aligned.
    """
    verses = [(segment.start, segment.end, label(segment)) for segment in recording.segments]
    words = [(word.start, word.end, word.text) for word in recording.words]
    wrong = [word for word in recording.words if word.mismatch is not None]
    recognized = [(word.start, word.end, word.mismatch or NOTHING) for word in wrong]
    recognized += [(start, end, OTHER_SPEECH) for start, end in _unaligned_outside(recording, wrong)]
    tiers = {"verses": verses, "words": words, "recognized": sorted(recognized)}
    end = max([recording.seconds, *(stop for tier in tiers.values() for _, stop, _ in tier)])
    lines = [
        'File type = "ooTextFile"',
        'Object class = "TextGrid"',
        "",
        "xmin = 0",
        f"xmax = {end:.3f}",
        "tiers? <exists>",
        f"size = {len(tiers)}",
        "item []:",
    ]
    for number, (name, labelled) in enumerate(tiers.items(), start=1):
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
    """SubRip: the words, what was recognized in place of one behind it, the reference after each verse."""
    blocks = []
    for number, cue in enumerate(_cues(recording), start=1):
        start, end = (_clock(seconds, ",") for seconds in (cue.words[0].start, cue.words[-1].end))
        text = " ".join([*(_marked(word) for word in cue.words), cue.label]).rstrip()
        blocks.append(f"{number}\n{start} --> {end}\n{text}\n")
    return "\n".join(blocks)


def webvtt(recording: AlignedRecording) -> str:
    """WebVTT with a timestamp before each word, so that players can show the current word."""
    blocks = ["WEBVTT\n"]
    for cue in _cues(recording):
        first, *rest = cue.words
        text = escape(_marked(first), quote=False)
        for word in rest:
            text += f" <{_clock(word.start, '.')}>{escape(_marked(word), quote=False)}"
        start, end = (_clock(seconds, ".") for seconds in (first.start, cue.words[-1].end))
        blocks.append(f"{start} --> {end}\n{text} {cue.label}".rstrip() + "\n")
    return "\n".join(blocks)


def audacity(recording: AlignedRecording) -> str:
    """An Audacity label track: a label for each segment, for each word in whose place something else is
    recognized, and `?` for speech that is not aligned."""
    labels = [(segment.start, segment.end, label(segment)) for segment in recording.segments]
    labels += [(word.start, word.end, _marked(word)) for word in recording.words if word.mismatch is not None]
    labels += [(one.start, one.end, OTHER_SPEECH) for one in recording.unaligned]
    labels.sort(key=lambda one: (one[0], -one[1]))  # a segment before its first word
    return "".join(f"{start:.3f}\t{end:.3f}\t{text}\n" for start, end, text in labels)


def csv_table(recording: AlignedRecording) -> str:
    """Comma-separated values, a row for each word and each stretch of speech that is not aligned.

    Words are counted from 0. `recognized` is empty where the word itself was recognized.
    """
    rows: list[tuple[float, float, tuple[object, ...]]] = []
    for number, segment in enumerate(recording.segments):
        for word in segment.words:
            confidence = "" if word.confidence is None else f"{word.confidence:.4f}"
            recognized = "" if word.mismatch is None else word.mismatch or NOTHING
            place = word.text, word.verse or "", word.index, segment.kind, number
            rows.append((word.start, word.end, (*place, confidence, recognized)))
    rows += [(one.start, one.end, ("", "", "", "unaligned", "", "", "")) for one in recording.unaligned]
    rows.sort(key=lambda row: row[0])
    out = io.StringIO()
    table = csv.writer(out, lineterminator="\n")
    table.writerow(("start", "end", "word", "verse", "index", "kind", "segment", "confidence", "recognized"))
    table.writerows((f"{start:.3f}", f"{end:.3f}", *values) for start, end, values in rows)
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


def _marked(word: TimedWord) -> str:
    """A word as it is written; what was recognized in its place behind it in brackets."""
    return word.text if word.mismatch is None else f"{word.text} [{word.mismatch or NOTHING}]"


def _unaligned_outside(
    recording: AlignedRecording, words: Sequence[TimedWord]
) -> Iterator[tuple[float, float]]:
    """The parts of speech that is not aligned in which none of some words, in order, is recited."""
    for one in recording.unaligned:
        at = one.start
        before = bisect_right(words, at, key=lambda word: word.start)
        until = bisect_left(words, one.end, key=lambda word: word.start)
        for word in words[max(0, before - 1) : until]:
            if at < word.start:
                yield at, word.start
            at = max(at, word.end)
        if at < one.end:
            yield at, one.end


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
    """Subtitles in the order of their times; none is shown during another one."""
    others = [
        TimedWord(OTHER_SPEECH_CUE, start, end)
        for start, end in _unaligned_outside(recording, recording.words)
        if round(start, 3) < round(end, 3)
    ]
    cues = [*_cues_of_words(recording, others), *(_Cue((one,), "") for one in others)]
    return iter(sorted(cues, key=lambda cue: cue.words[0].start))


def _cues_of_words(recording: AlignedRecording, others: Sequence[TimedWord]) -> Iterator[_Cue]:
    parts = [segment for segment in recording.segments if segment.kind == "verse"]
    continues = {id(part) for part, after in pairwise(parts) if after.verses == part.verses}
    others_before = partial(bisect_left, [one.start for one in others])
    for segment in recording.segments:
        shown: list[TimedWord] = []
        for word in segment.words:
            if shown:
                pause = word.start - shown[-1].end >= PAUSE_SECONDS
                long = shown[-1].end - shown[0].start >= LEAST_CUE_SECONDS
                interrupted = others_before(shown[-1].start) < others_before(word.start)
                if (pause and long) or interrupted or word.end - shown[0].start > CUE_SECONDS:
                    yield _Cue(tuple(shown), "")
                    shown = []
            shown.append(word)
        ends = segment.kind == "verse" and id(segment) not in continues
        yield _Cue(tuple(shown), f"({label(segment)})" if ends else "")


def _clock(seconds: float, point: str) -> str:
    """`01:02:03.456`, with the decimal separator of the format."""
    whole, milliseconds = divmod(round(1000 * seconds), 1000)
    return f"{whole // 3600:02}:{whole // 60 % 60:02}:{whole % 60:02}{point}{milliseconds:03}"
