"""From CTC scores to final words and the current position, chunk by chunk. State in, new state out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar

from quran_asr.decoding.follow import (
    LIVE,
    FollowState,
    finish_following,
    follow,
    lead,
    open_path,
    start_following,
)
from quran_asr.decoding.graph import Graph, build_graph
from quran_asr.decoding.path import (
    Clock,
    Entry,
    PathWord,
    Reached,
    SegmentKind,
    path_words,
    text_places,
)
from quran_asr.decoding.tokenization import Tokenizer
from quran_asr.decoding.visits import HUB, Visit
from quran_asr.errors import QuranAsrError
from quran_asr.records import VerseRef
from quran_asr.text.passages import word_map
from quran_asr.text.quran import load_quran

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

KNOWN_WORDS = 3
"""Words in a row that must agree with a position before it is shown; fewer fit somewhere by chance,"""
SURE_WORDS, SURE_NATS = 2, 3.0
"""or so many if no other position comes within this many nats."""
BEAM = 60.0
"""Nats: three times the cost of a jump. With the beam used for files, words would wait long until no other
path is left."""


@dataclass(frozen=True, slots=True, order=True)
class WordRef:
    """A word of the mushaf: `2:255:4` is the fifth word of verse 2:255."""

    verse: VerseRef
    index: int
    """Place in the verse's Uthmani words, from 0."""

    def __str__(self) -> str:
        return f"{self.verse}:{self.index}"

    @classmethod
    def parse(cls, written: str) -> WordRef:
        """Read `2:255` (its first word) or `2:255:4`.

        Raises:
            QuranAsrError: it is neither, or the Quran has no such verse or word.
        """
        parts = written.split(":")
        index = parts.pop() if len(parts) == 3 else "0"
        if not (index.isascii() and index.isdigit() and len(index) < 4):
            raise QuranAsrError(f"`{written}` is not a word", remedy="write surah:verse:index, as in 2:255:0")
        verse = VerseRef.parse(":".join(parts))
        if int(index) >= len(load_quran("uthmani").verse(verse).split()):
            raise QuranAsrError(f"there is no word {written}", remedy="words are counted from 0")
        return cls(verse, int(index))


@dataclass(frozen=True, slots=True)
class Position:
    """The likely position of the reciter. Replaces the previous one; each part of it may still change."""

    type: ClassVar[str] = "position"
    time: float
    """Seconds of audio so far."""
    word: WordRef | None
    """The current word; None: no Quran is being recited, or the position is not known yet."""
    pending: tuple[WordRef, ...]
    """Recited since the last final word, in order, the current word included."""


@dataclass(frozen=True, slots=True)
class FinalWord:
    """A recited word. It is final."""

    word: WordRef | None
    """None: of a formula that is not part of the text."""
    text: str
    """In the model's spelling."""
    start: float
    """Seconds from the beginning of the session."""
    end: float
    confidence: float
    """0 to 1: geometric mean, over the word's tokens, of their probability relative to the best token."""
    kind: SegmentKind
    entry: Entry
    """How it follows the words before."""
    skipped: tuple[WordRef, ...] = ()
    """Words that were left out just before it."""


@dataclass(frozen=True, slots=True)
class Words:
    """More final words. The words of a session are those of all these messages, in order."""

    type: ClassVar[str] = "words"
    time: float
    """Seconds of audio so far."""
    words: tuple[FinalWord, ...]


Update = Position | Words


@dataclass(frozen=True, eq=False)
class Text:
    """The text that is followed, and the words that are displayed."""

    graph: Graph
    words: tuple[WordRef, ...]
    """Of each word of the graph's text, in order: the word of the mushaf that it is, or is a part of."""

    @cached_property
    def nodes(self) -> dict[WordRef, int]:
        """The word of the graph with which each word of the mushaf begins."""
        nodes: dict[WordRef, int] = {}
        for node, place in enumerate(text_places(self.graph).tolist()):
            if place >= 0:
                nodes.setdefault(self.words[place], node)
        return nodes


def build_text(tokenizer: Tokenizer, spelling: str) -> Text:
    """The whole Quran in the spelling and with the vocabulary of a model.

    Raises:
        QuranAsrError: the vocabulary cannot spell a word.
    """
    quran = load_quran(spelling)
    words: list[WordRef] = []
    for ref in quran.refs:
        count = len(quran.verse(ref).split())
        if quran.edition_name == "uthmani":
            words += [WordRef(ref, index) for index in range(count)]
        else:
            parts = [(pair.index, len(pair.simple.split())) for pair in word_map(ref)]
            words += [WordRef(ref, index) for index, number in parts for _ in range(number)]
    return Text(build_graph(quran, tokenizer), tuple(words))


@dataclass(frozen=True, slots=True, eq=False)
class Tracking:
    """State of a recitation."""

    search: FollowState
    reached: Reached = field(default_factory=Reached)
    row: int = 0
    """Final words in a row, without a jump between."""
    held: tuple[PathWord, ...] = ()
    """Final words that have not been emitted yet: too few in a row, or parts of a word of the mushaf."""
    given: int = -1
    """Number in the text of the last emitted word; -1: none."""
    position: tuple[WordRef | None, tuple[WordRef, ...]] = (None, ())
    """The last one emitted."""


def start_tracking(text: Text, at: WordRef | None = None) -> Tracking:
    """The state before the first frame.

    Args:
        text: to be followed.
        at: where the recitation is expected to begin; None: anywhere.

    Raises:
        QuranAsrError: there is no such word.
    """
    if at is None:
        return Tracking(start_following(text.graph))
    if at not in text.nodes:
        raise QuranAsrError(f"there is no word {at}", remedy="write surah:verse:index, as in 2:255:0")
    return Tracking(start_following(text.graph, text.nodes[at]), row=KNOWN_WORDS)


def track(
    text: Text, state: Tracking, log_probs: NDArray[np.float32], frame_seconds: float
) -> tuple[Tracking, tuple[Update, ...]]:
    """Process more frames.

    Args:
        text: as in `start_tracking`.
        state: before these frames.
        log_probs: [n, vocabulary + 1] natural log, blank last.
        frame_seconds: of the model.

    Returns:
        The state after them, and what is new.

    Raises:
        QuranAsrError: the scores have a wrong shape or hold NaN.
    """
    if not len(log_probs):
        return state, ()
    clock = Clock(frame_seconds)
    search, visits = follow(text.graph, state.search, log_probs, BEAM, LIVE)
    state, messages = _with_final(text, replace(state, search=search), visits, clock)
    position = _position(text, state, clock)
    if position != state.position:
        time = clock.seconds(search.latest.frame)
        messages = (*messages, Position(time, *position))
    return replace(state, position=position), messages


def finish_tracking(text: Text, state: Tracking, frame_seconds: float) -> tuple[Update, ...]:
    """The recitation has ended: the last words, final."""
    _, visits = finish_following(text.graph, state.search, BEAM, LIVE)
    state, messages = _with_final(text, state, visits, Clock(frame_seconds))
    words = _final_words(text, state.held, state.given)
    time = frame_seconds * state.search.latest.frame
    return (*messages, Words(time, words)) if words else messages


def _with_final(
    text: Text, state: Tracking, visits: Sequence[Visit], clock: Clock
) -> tuple[Tracking, tuple[Update, ...]]:
    """Add final visits; returns the words that can be emitted."""
    new, reached = path_words(text.graph, visits, clock, state.reached)
    row, held, given = state.row, list(state.held), state.given
    ready: list[FinalWord] = []
    for word in new:
        is_text = word.place >= 0
        if is_text and word.entry == "jump":
            if row >= KNOWN_WORDS:
                ready += _final_words(text, held, given)
                given, held = _last_place(held, given), []
            held = [one for one in held if one.place < 0]
            row = 0
        row += is_text
        held.append(word)
        if row >= KNOWN_WORDS and not _is_part(text, word):
            ready += _final_words(text, held, given)
            given, held = _last_place(held, given), []
    state = replace(state, reached=reached, row=row, held=tuple(held), given=given)
    time = clock.seconds(state.search.latest.frame)
    return state, (Words(time, tuple(ready)),) if ready else ()


def _is_part(text: Text, word: PathWord) -> bool:
    """Whether the word of the mushaf continues in the next word of the graph's text."""
    following = word.place + 1
    return 0 < following < len(text.words) and text.words[following] == text.words[word.place]


def _last_place(words: Iterable[PathWord], given: int) -> int:
    return [given, *(word.place for word in words if word.place >= 0)][-1]


def _final_words(text: Text, words: Sequence[PathWord], given: int) -> tuple[FinalWord, ...]:
    """Words of the graph as words of the mushaf."""
    groups: list[list[PathWord]] = []
    for word in words:
        before = groups[-1][-1] if groups else None
        if (
            before is not None
            and word.place >= 0
            and word.place == before.place + 1
            and _is_part(text, before)
        ):
            groups[-1].append(word)
        else:
            groups.append([word])
    found = []
    for group in groups:
        first = group[0]
        skipped: tuple[WordRef, ...] = ()
        if first.entry == "skip":
            between = dict.fromkeys(text.words[given + 1 : first.place])
            skipped = tuple(ref for ref in between if ref not in {text.words[given], text.words[first.place]})
        given = _last_place(group, given)
        found.append(
            FinalWord(
                word=text.words[first.place] if first.place >= 0 else None,
                text=" ".join(part.word.text for part in group),
                start=first.word.start,
                end=group[-1].word.end,
                confidence=min(part.word.confidence or 0.0 for part in group),
                kind=first.kind,
                entry=first.entry,
                skipped=skipped,
            )
        )
    return tuple(found)


def _position(text: Text, state: Tracking, clock: Clock) -> tuple[WordRef | None, tuple[WordRef, ...]]:
    """The current word, and all words recited since the last emitted one."""
    path = open_path(text.graph, state.search)
    open_words, _ = path_words(text.graph, path, clock, state.reached)
    pending = [text.words[word.place] for word in state.held if word.place >= 0]
    row = state.row
    for word in open_words:
        if word.place < 0:
            continue
        if word.entry == "jump":
            pending = pending if row >= KNOWN_WORDS else []
            row = 0
        row += 1
        if not pending or pending[-1] != text.words[word.place]:
            pending.append(text.words[word.place])
    sure = SURE_WORDS <= row < KNOWN_WORDS and lead(text.graph, state.search) >= SURE_NATS
    if row < KNOWN_WORDS and not sure:
        return None, tuple(pending[: max(0, len(pending) - row)])
    in_hub = bool(path) and path[-1].word == HUB
    if in_hub or (open_words and open_words[-1].place < 0):
        return None, tuple(pending)
    return pending[-1] if pending else text.words[state.given], tuple(pending)
