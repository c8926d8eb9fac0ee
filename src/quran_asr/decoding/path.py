"""A path through the graph in readable form: words with times, in segments of one verse each."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Literal

import numpy as np

from quran_asr.decoding.graph import Graph, Kind
from quran_asr.decoding.visits import HUB, LEAST_TOKENS, Visit
from quran_asr.records import TimedWord, VerseRef

if TYPE_CHECKING:
    from numpy.typing import NDArray

SegmentKind = Literal["verse", "repeat", "basmala", "istiadha", "amin", "sadaqa"]
Entry = Literal["start", "next", "back", "skip", "jump"]

MERGED_SECONDS = 1.0
"""Stretches of other speech that are closer are merged."""
LEAST_GAIN = 5.0
"""Nats by which words without a jump between them must be better than other speech, in a text of up to
`WORDS_OF_LEAST_GAIN` words: one short word in noise is not a passage of the Quran. In a longer text more
words fit by chance, so the logarithm of its length is added: 11.7 nats in the whole Quran."""
WORDS_OF_LEAST_GAIN = 100
MOST_FRAMES_APART = 25
"""Frames (2 s) after the first letter of a word within which the second one follows; the longest vowels are
held behind a later letter."""


@dataclass(frozen=True, slots=True)
class AlignedSegment:
    """Words of one verse, or of one formula, recited one after another."""

    verses: tuple[VerseRef, ...]
    """The verse; empty for a formula."""
    words: tuple[TimedWord, ...]
    kind: SegmentKind
    """`repeat`: words that were already recited just before."""
    entry: Entry
    """How it follows the words before: `next` in the text, `back` or `skip` by a few words, or `jump`."""
    score: float
    """Nats per token by which the model prefers other tokens to these words; 0 is best."""

    @property
    def start(self) -> float:
        """Seconds."""
        return self.words[0].start

    @property
    def end(self) -> float:
        """Seconds."""
        return self.words[-1].end


@dataclass(frozen=True, slots=True)
class Unaligned:
    """A stretch of speech that is not Quran, or not recognized as such."""

    start: float
    """Seconds."""
    end: float


@dataclass(frozen=True, slots=True)
class Alignment:
    """A recording aligned with the text."""

    segments: tuple[AlignedSegment, ...]
    unaligned: tuple[Unaligned, ...]


@dataclass(frozen=True, slots=True)
class Clock:
    """Conversion of frames to seconds."""

    frame_seconds: float
    offset: float = 0.0
    """Seconds of frame 0."""
    start_shift: float = 0.0
    """Seconds from the first frame of the first phone of a word to where the word is taken to begin."""
    end_shift: float = 0.0
    """Seconds from the end of the last frame of its last token to where the word is taken to end."""

    def seconds(self, frame: int) -> float:
        return self.offset + frame * self.frame_seconds


@dataclass(frozen=True, slots=True)
class PathWord:
    """A word of a path, and how it follows the one before."""

    visit: Visit
    node: int
    place: int
    """Number in the text of the graph, see `text_places`; -1 in a formula."""
    word: TimedWord
    kind: SegmentKind
    entry: Entry
    loss: float
    tokens: int


@dataclass(frozen=True, slots=True)
class Reached:
    """How far a path has advanced in the text."""

    last: int = -1
    """Number of its last word in the text of the graph; -1: none yet."""
    first: int = -1
    """The smallest number since the last jump."""
    furthest: int = -1
    """The greatest number since then."""
    skipped: frozenset[int] = frozenset()
    """The numbers between them that were not recited."""


def align_path(
    graph: Graph,
    visits: Iterable[Visit],
    clock: Clock,
    mismatches: Mapping[Visit, str] | None = None,
    apart: Mapping[Visit, Visit] | None = None,
) -> Alignment:
    """A path as segments and the stretches between them.

    Args:
        graph: of the search.
        visits: the whole path, as `advance` and `finish` gave it.
        clock: of the recording.
        mismatches: what was recognized in place of some words, see `mismatch.mismatches`.
        apart: words that are set apart from other speech beside them, see `mismatch.set_apart`.
    """
    path = tuple(visits)
    words, _ = path_words(graph, path, clock)
    doubtful = _doubtful(graph, words)
    if doubtful or apart:
        path = tuple(visit if visit in doubtful else (apart or {}).get(visit, visit) for visit in path)
        words, _ = path_words(graph, [visit for visit in path if visit not in doubtful], clock)
    if mismatches:
        words = tuple(
            replace(one, word=replace(one.word, mismatch=mismatches.get(one.visit))) for one in words
        )
    segments: list[AlignedSegment] = []
    open_segment: list[PathWord] = []
    for word in words:
        if open_segment and not _continues(graph, open_segment[-1], word):
            segments.append(_segment(graph, open_segment))
            open_segment = []
        open_segment.append(word)
    if open_segment:
        segments.append(_segment(graph, open_segment))
    return Alignment(tuple(segments), tuple(_other_speech(path, doubtful, clock)))


def path_words(
    graph: Graph, visits: Iterable[Visit], clock: Clock, reached: Reached | None = None
) -> tuple[tuple[PathWord, ...], Reached]:
    """The words of a path, or of one more part of it.

    Args:
        graph: of the search.
        visits: of the part.
        clock: of the recording.
        reached: before the part; None at the beginning of the path.

    Returns:
        The words, and how far the path has advanced.
    """
    places = text_places(graph)
    reached = reached or Reached()
    last, first, furthest, skipped = reached.last, reached.first, reached.furthest, reached.skipped
    words = [visit for visit in visits if visit.word != HUB and visit.tokens]
    found: list[PathWord] = []
    for number, visit in enumerate(words):
        node = visit.word
        place = int(places[node])
        kind: SegmentKind = _KINDS[Kind(int(graph.kind[node]))]
        entry: Entry = "next"
        if kind == "verse":
            entry = _entry(graph, last, place)
            if entry == "jump" or place < first or last < 0:  # also back to what was not recited before
                first, furthest, skipped = place, place - 1, frozenset()
            if place <= furthest and place not in skipped:
                kind = "repeat"
            skipped = skipped.union(range(furthest + 1, place)) - {place}
            last, furthest = place, max(furthest, place)
        start = max(0.0, clock.seconds(_first_frame(graph, visit)) + clock.start_shift)
        until = clock.seconds(visit.tokens[-1][1]) + clock.end_shift
        if number + 1 < len(words):
            until = min(until, clock.seconds(_first_frame(graph, words[number + 1])) + clock.start_shift)
        verse = int(graph.verse[node])
        word = TimedWord(
            graph.texts[node],
            start,
            max(start, until),
            confidence=math.exp(-visit.loss / len(visit.tokens)),
            verse=graph.refs[verse] if kind in ("verse", "repeat") else None,
            index=int(graph.index[node]),
        )
        found.append(PathWord(visit, node, place, word, kind, entry, visit.loss, len(visit.tokens)))
    return tuple(found), Reached(last, first, furthest, skipped)


def _first_frame(graph: Graph, visit: Visit) -> int:
    """The frame in which the first phone of a word is recognized; a bare word start may come much earlier, in
    a breath, and the first letter in speech before the word that is hardly recognized, such as a basmala. In
    place of a wrong word, the first run counts as one, too."""
    silent = graph.tokens[graph.first[visit.word]] == graph.word_start
    tokens = visit.tokens[1 if silent and len(visit.tokens) > 1 else 0 :]
    if len(tokens) > 1 and tokens[1][0] - tokens[0][1] > MOST_FRAMES_APART and not visit.wrong:
        return tokens[1][0]
    return tokens[0][0]


@lru_cache(maxsize=4)
def text_places(graph: Graph) -> NDArray[np.int64]:
    """[W]: number of each word in the text of the graph; -1 for formulas. Spellings of one word share it."""
    is_text = graph.kind == Kind.VERSE
    same = np.zeros(graph.words, np.bool_)
    same[1:] = (graph.verse[1:] == graph.verse[:-1]) & (graph.index[1:] == graph.index[:-1])
    numbers = np.cumsum(is_text & ~same) - 1
    return np.where(is_text, numbers, -1)


def _entry(graph: Graph, last: int, place: int) -> Entry:
    step = place - last
    if last < 0:
        return "start"
    if step == 1:
        return "next"
    if -graph.costs.back_words < step <= 0:
        return "back"
    return "skip" if 1 < step <= graph.costs.skip_words + 1 else "jump"


def _continues(graph: Graph, before: PathWord, recited: PathWord) -> bool:
    same = before.kind == recited.kind and graph.verse[before.node] == graph.verse[recited.node]
    if before.kind in ("verse", "repeat"):
        return bool(same) and recited.entry == "next"
    return bool(same) and graph.index[recited.node] > graph.index[before.node]


def _segment(graph: Graph, recited: list[PathWord]) -> AlignedSegment:
    first = recited[0]
    verses = (first.word.verse,) if first.word.verse is not None else ()
    loss = sum(one.loss for one in recited) / sum(one.tokens for one in recited)
    return AlignedSegment(verses, tuple(one.word for one in recited), first.kind, first.entry, -loss)


def _doubtful(graph: Graph, words: Sequence[PathWord]) -> set[Visit]:
    """Words that other speech explains nearly as well.

    All words without a jump between them are judged together, and only if they fail, each run of successive
    words on its own: words that were forced on other speech take no others with them.
    """

    text = int((graph.kind == Kind.VERSE).sum())
    least = LEAST_GAIN + math.log(max(1.0, text / WORDS_OF_LEAST_GAIN))

    def fails(some: Sequence[PathWord]) -> bool:
        return sum(graph.costs.garbage_token * one.tokens - one.loss for one in some) < least

    return {
        recited.visit
        for place in _runs(words, ("start", "jump"))
        if fails(place)
        for run in _runs(place, ("start", "jump", "back", "skip"))
        if fails(run)
        for recited in run
    }


def _runs(words: Sequence[PathWord], begins: Sequence[Entry]) -> list[list[PathWord]]:
    """The words in runs, each of which begins with one of these entries."""
    runs: list[list[PathWord]] = []
    for recited in words:
        if not runs or recited.entry in begins:
            runs.append([])
        runs[-1].append(recited)
    return runs


def _other_speech(path: tuple[Visit, ...], doubtful: set[Visit], clock: Clock) -> Iterator[Unaligned]:
    stretches: list[tuple[int, int, int]] = []
    for visit in path:
        if (visit.word == HUB or visit in doubtful) and visit.tokens:
            stretches.append((visit.tokens[0][0], visit.tokens[-1][1], len(visit.tokens)))
            continue
        if visit.before is not None:
            stretches.append((*visit.before, LEAST_TOKENS))
        if visit.garbage is not None:
            stretches.append((visit.garbage, visit.end, LEAST_TOKENS))
    merged: list[tuple[int, int, int]] = []
    for start, end, tokens in stretches:
        if merged and (start - merged[-1][1]) * clock.frame_seconds < MERGED_SECONDS:
            start, tokens = merged[-1][0], merged.pop()[2] + tokens
        merged.append((start, end, tokens))
    for start, end, tokens in merged:
        if tokens >= LEAST_TOKENS:
            yield Unaligned(clock.seconds(start), clock.seconds(end))


_KINDS: dict[Kind, SegmentKind] = {
    Kind.VERSE: "verse",
    Kind.BASMALA: "basmala",
    Kind.ISTIADHA: "istiadha",
    Kind.AMIN: "amin",
    Kind.SADAQA: "sadaqa",
}
