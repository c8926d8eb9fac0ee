"""The words of the Quran as one graph of a CTC model's tokens.

The nodes are words in the order of the mushaf, each a chain of tokens. The end of a word leads to the next.
Optional formulas follow between two surahs (sadaqa Allahu al-azim, isti'adha, basmala), and amin after 1:7.
Each exists once more outside the text, so that it can be recited anywhere. Two more kinds of state have no
words:

hub
    one state outside the Quran: for the beginning, other speech, and every jump.
garbage
    one state after each word: other speech, after which the reciter continues where he was, or one word
    later: then it stands in place of that word, which was recited differently.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from quran_asr.decoding.tokenization import Tokenizer
from quran_asr.decoding.vocabulary import WORD_START
from quran_asr.errors import QuranAsrError
from quran_asr.records import VerseRef
from quran_asr.text.quran import Quran
from quran_asr.text.spelling import spell

if TYPE_CHECKING:
    from numpy.typing import NDArray

UNITS = 1024
"""Units per nat. Scores are integers, so that sums are exact in any order."""
NEVER = 1 << 29
"""Cost in units of an arc that does not exist."""


class Kind(IntEnum):
    """The kind of text that a word belongs to."""

    VERSE = 0
    BASMALA = 1
    ISTIADHA = 2
    AMIN = 3
    SADAQA = 4


FORMULAS = {
    Kind.ISTIADHA: "أَعُوذُ بِاللَّهِ مِنَ الشَّيْطَانِ الرَّجِيمِ",
    Kind.BASMALA: "بِسْمِ اللَّهِ الرَّحْمَٰنِ الرَّحِيمِ",
    Kind.AMIN: "آمِين",
    Kind.SADAQA: "صَدَقَ اللَّهُ الْعَظِيمُ",
}
"""What is recited beside the text, in Tanzil's simple spelling."""

LETTER_NAMES = {
    "ا": "أَلِفْ",
    "ل": "لَامْ",
    "م": "مِيمْ",
    "ص": "صَادْ",
    "ر": "رَا",
    "ك": "كَافْ",
    "ه": "هَا",
    "ي": "يَا",
    "ع": "عَيْنْ",
    "ط": "طَا",
    "س": "سِينْ",
    "ح": "حَا",
    "ق": "قَافْ",
    "ن": "نُونْ",
}
"""How the letters at the beginning of 29 surahs are recited, in Tanzil's simple spelling."""

SURAHS_WITH_LETTERS = frozenset(
    (2, 3, 7, *range(10, 16), 19, 20, *range(26, 33), 36, 38, *range(40, 47), 50, 68)
)


@dataclass(frozen=True, slots=True)
class Costs:
    """Costs of the arcs in nats, 0 or more; `inf` removes an arc."""

    enter_verse: float = 0.0
    """From the hub to the first word of a verse or of a formula between surahs."""
    enter_word: float = 5.0
    """From the hub into a verse."""
    enter_formula: float = 2.0
    """From the hub to a formula outside the text."""
    leave_formula: float = 2.0
    """From a formula outside the text to the hub."""
    leave_verse: float = 12.0
    """From the last word of a verse to the hub."""
    leave_word: float = 14.0
    """From any other word to the hub. A jump costs this and an entry."""
    back: float = 9.0
    """To a word at most `back_words` before the next one: a repetition."""
    back_words: int = 24
    back_inside: float = 2.0
    """Added where that is not the first word of its verse. Two verses in a row often begin alike: going back
    to the first of them is not to be taken for the second one, left after some words."""
    skip: float = 18.0
    """To a word at most `skip_words` after the next one: an omission."""
    skip_words: int = 4
    formula: float = 3.0
    """Into a formula between surahs, or amin."""
    garbage: float = 6.0
    """Into the garbage state after a word."""
    wrong_word: float = 0.0
    """From the garbage after a word to the word after the next: it stands in place of the next word."""
    garbage_token: float = 2.5
    """For each token that the model emits in other speech; its frames score as the best token does."""
    floor: float = 16.0
    """Floor of a token's score in a frame, so that one frame cannot break a path."""


@dataclass(frozen=True, slots=True, eq=False)
class Graph:
    """States: N tokens in W words. All costs in `UNITS`, at least 0, `NEVER` where there is no arc."""

    tokens: NDArray[np.intp]
    """[N]: the model's token of each state."""
    first: NDArray[np.intp]
    """[W]: first state of each word, ascending."""
    last: NDArray[np.intp]
    """[W]"""
    doubled: NDArray[np.intp]
    """States inside a word whose token is that of the state before: a blank must come between."""
    enter: NDArray[np.int64]
    """[W]: from the hub into each word."""
    leave: NDArray[np.int64]
    """[W]: from each word to the hub."""
    chain: NDArray[np.int64]
    """[W]: from the word before into each word."""
    after_wrong: NDArray[np.int64]
    """[W]: into each word from the garbage two words before, which stands in place of the word between."""
    arcs: NDArray[np.int64]
    """[A, 4]: (from word, to word, cost, 1 if a blank must come between) of further arcs."""
    local: NDArray[np.bool_]
    """[W]: whether it can be reached by going back or skipping."""
    kind: NDArray[np.int8]
    """[W]: `Kind` of each word."""
    verse: NDArray[np.int32]
    """[W]: place in `refs`; of a formula between surahs that of the adjacent verse, else -1."""
    index: NDArray[np.int32]
    """[W]: place of the word in its verse or formula, from 0. Two spellings of one word have the same."""
    texts: tuple[str, ...]
    """[W]"""
    refs: tuple[VerseRef, ...]
    costs: Costs
    formulas: int = 0
    """Words of the formulas outside the text; they come first."""
    word_start: int = -1
    """The vocabulary's bare word start, a token without letters; -1: it has none."""

    @property
    def words(self) -> int:
        return len(self.first)

    @property
    def states(self) -> int:
        return len(self.tokens)

    def spelt(self, word: int) -> NDArray[np.intp]:
        """The tokens of one word."""
        return self.tokens[self.first[word] : self.last[word] + 1]


@lru_cache(maxsize=32)
def window(graph: Graph, low: int, high: int) -> Graph:
    """The part of a graph that has the formulas outside the text and the words `low` to `high` - 1."""
    if (low, high) == (graph.formulas, graph.words):
        return graph
    return part(graph, [(low, high)])


def part(graph: Graph, ranges: Sequence[tuple[int, int]]) -> Graph:
    """The formulas outside the text and some ranges of words, ascending: from word, to the word before.

    Ranges do not follow each other: from one to the next leads only a jump, or an arc of the graph. So near
    the edge of a range, where going back would lead into the range before, words cannot be gone back to.
    """
    words = np.r_[(slice(0, graph.formulas), *(slice(low, high) for low, high in ranges))]
    number = np.full(graph.words, -1)
    number[words] = np.arange(len(words))
    all_lengths = graph.last - graph.first + 1
    states = np.flatnonzero(np.repeat(number >= 0, all_lengths))
    lengths = all_lengths[words]
    last = np.cumsum(lengths) - 1
    chain, local = graph.chain[words].copy(), graph.local[words].copy()
    after_wrong = graph.after_wrong[words].copy()
    for low, high in ranges:
        begin, end = int(number[low]), int(number[high - 1]) + 1
        if low > graph.formulas:
            chain[begin] = NEVER
            after_wrong[begin : begin + 2] = NEVER
            local[begin : begin + graph.costs.skip_words + 1] = False
        if end < len(words):
            local[max(begin, end - graph.costs.back_words) : end] = False
    arcs = graph.arcs[(number[graph.arcs[:, :2]] >= 0).all(axis=1)].copy()
    arcs[:, :2] = number[arcs[:, :2]]
    doubled = np.zeros(graph.states, np.bool_)
    doubled[graph.doubled] = True
    return Graph(
        tokens=graph.tokens[states],
        first=last - lengths + 1,
        last=last,
        doubled=np.flatnonzero(doubled[states]),
        enter=graph.enter[words],
        leave=graph.leave[words],
        chain=chain,
        after_wrong=after_wrong,
        arcs=arcs,
        local=local,
        kind=graph.kind[words],
        verse=graph.verse[words],
        index=graph.index[words],
        texts=tuple(graph.texts[word] for word in words.tolist()),
        refs=graph.refs,
        costs=graph.costs,
        formulas=graph.formulas,
        word_start=graph.word_start,
    )


def build_graph(
    quran: Quran,
    tokenizer: Tokenizer,
    verses: Iterable[VerseRef] | None = None,
    costs: Costs | None = None,
) -> Graph:
    """The graph of the whole Quran, or of a passage.

    Args:
        quran: in the spelling of the model.
        tokenizer: of the model's vocabulary.
        verses: the passage, in the order in which it is expected; None: the whole Quran.
        costs: of the arcs.

    Raises:
        QuranAsrError: a verse does not exist, none is given, or the vocabulary cannot spell a word.
    """
    refs = quran.refs if verses is None else tuple(verses)
    if not refs:
        raise QuranAsrError(
            "no verses to search in", remedy="name at least one verse, in a manifest under `verses`"
        )
    builder = _Builder(quran, tokenizer, costs or Costs())
    for kind in (Kind.ISTIADHA, Kind.BASMALA, Kind.SADAQA):
        builder.free_formula(kind)
    formulas = len(builder.first)
    for place, ref in enumerate(refs):
        new_surah = not place or refs[place - 1].surah != ref.surah
        if new_surah and place:
            builder.formula(Kind.SADAQA, place - 1)
        if new_surah and ref.ayah == 1:
            builder.formula(Kind.ISTIADHA, place)
            if quran.basmala(ref.surah):
                builder.formula(Kind.BASMALA, place)
        builder.add_verse(ref, place)
        if ref == VerseRef(1, 7):
            builder.formula(Kind.AMIN, place)
    builder.formula(Kind.SADAQA, len(refs) - 1)
    return builder.graph(refs, formulas)


@dataclass(slots=True)
class _Builder:
    """Adds words in order. `open` are the words after which the next one may come."""

    quran: Quran
    tokenizer: Tokenizer
    costs: Costs
    open: list[int] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    first: list[int] = field(default_factory=list)
    doubled: list[int] = field(default_factory=list)
    enter: list[float] = field(default_factory=list)
    leave: list[float] = field(default_factory=list)
    chain: list[float] = field(default_factory=list)
    arcs: list[tuple[int, int, int, int]] = field(default_factory=list)
    kind: list[int] = field(default_factory=list)
    verse: list[int] = field(default_factory=list)
    index: list[int] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    spelt: dict[str, tuple[int, ...]] = field(default_factory=dict)

    def add_verse(self, ref: VerseRef, place: int) -> None:
        costs = self.costs
        words = self.quran.verse(ref).split()
        letters = letter_names(ref, words[0], self.quran.spelling)
        for index, word in enumerate(words):
            enter = costs.enter_word if index else costs.enter_verse
            leave = costs.leave_word if index + 1 < len(words) else costs.leave_verse
            spellings = [(word, word)]
            if letters and not index:
                spellings.append((word, letters))
            before = self.open
            self.open = [
                self._add(text, recited, before, 0.0, enter, leave, Kind.VERSE, place, index)
                for text, recited in spellings
            ]

    def formula(self, kind: Kind, place: int) -> None:
        """Add a formula that may be recited here."""
        before = self.open
        costs = self.costs
        words = spell(FORMULAS[kind], self.quran.spelling).split()
        enters = kind in (Kind.ISTIADHA, Kind.BASMALA)
        for index, word in enumerate(words):
            enter = costs.enter_formula if enters and not index else np.inf
            follows = self.open if index else before
            cost = 0.0 if index else costs.formula
            leave = costs.leave_verse if index + 1 == len(words) else np.inf
            self.open = [self._add(word, word, follows, cost, enter, leave, kind, place, index)]
        self.open = [*before, *self.open]

    def free_formula(self, kind: Kind) -> None:
        """Add a formula that may be recited anywhere: from the hub and back to it."""
        words = spell(FORMULAS[kind], self.quran.spelling).split()
        before: list[int] = []
        for index, word in enumerate(words):
            enter = np.inf if index else self.costs.enter_formula
            leave = self.costs.leave_formula if index + 1 == len(words) else np.inf
            before = [self._add(word, word, before, 0.0, enter, leave, kind, -1, index)]

    def _add(
        self,
        text: str,
        recited: str,
        before: Sequence[int],
        cost: float,
        enter: float,
        leave: float,
        kind: Kind,
        verse: int,
        index: int,
    ) -> int:
        word = len(self.first)
        state = len(self.tokens)
        tokens = self.spelt.get(recited)
        if tokens is None:
            tokens = tuple(token for part in recited.split() for token in self.tokenizer.encode(part))
            self.spelt[recited] = tokens
        chained = np.inf
        for other in before:
            same = self._last_token(other) == tokens[0]
            if other == word - 1 and not same:
                chained = cost
            else:
                self.arcs.append((other, word, in_units(cost), same))
        self.tokens += tokens
        self.first.append(state)
        self.doubled += [state + i for i in range(1, len(tokens)) if tokens[i] == tokens[i - 1]]
        self.enter.append(enter)
        self.leave.append(leave)
        self.chain.append(chained)
        self.kind.append(kind)
        self.verse.append(verse)
        self.index.append(index)
        self.texts.append(text)
        return word

    def _last_token(self, word: int) -> int:
        end = self.first[word + 1] if word + 1 < len(self.first) else len(self.tokens)
        return self.tokens[end - 1]

    def _after_wrong(self) -> NDArray[np.int64]:
        """Where the two words before a word lead to it one after the other, and the second is of a verse."""
        follows = _all_in_units(self.chain)
        for source, target, cost, _ in self.arcs:
            if source == target - 1:
                follows[target] = cost
        costs: NDArray[np.int64] = np.full(len(follows), NEVER)
        both = (follows[1:-1] < NEVER) & (follows[2:] < NEVER)
        both &= np.array(self.kind[1:-1]) == Kind.VERSE
        both &= np.array(self.index[1:-1]) != np.array(self.index[2:])
        total = in_units(self.costs.wrong_word) + follows[1:-1] + follows[2:]
        costs[2:][both] = np.minimum(total, NEVER)[both]
        return costs

    def graph(self, refs: tuple[VerseRef, ...], formulas: int) -> Graph:
        first = np.array(self.first, np.intp)
        pieces = self.tokenizer.vocabulary.pieces
        return Graph(
            tokens=np.array(self.tokens, np.intp),
            first=first,
            last=np.append(first[1:], len(self.tokens)).astype(np.intp) - 1,
            doubled=np.array(self.doubled, np.intp),
            enter=_all_in_units(self.enter),
            leave=_all_in_units(self.leave),
            chain=_all_in_units(self.chain),
            after_wrong=self._after_wrong(),
            arcs=np.array(self.arcs, np.int64).reshape(-1, 4),
            local=np.array(self.kind) == Kind.VERSE,
            kind=np.array(self.kind, np.int8),
            verse=np.array(self.verse, np.int32),
            index=np.array(self.index, np.int32),
            texts=tuple(self.texts),
            refs=refs,
            costs=self.costs,
            formulas=formulas,
            word_start=pieces.index(WORD_START) if WORD_START in pieces else -1,
        )


def letter_names(ref: VerseRef, word: str, spelling: str) -> str:
    """The names of the letters of a first word that is recited letter by letter; empty for any other word."""
    begins = ref.ayah == 1 and ref.surah in SURAHS_WITH_LETTERS
    if not begins and ref != VerseRef(42, 2):
        return ""
    names = (LETTER_NAMES[letter] for letter in spell(word, "letters"))
    return spell(" ".join(names), spelling)


def in_units(cost: float) -> int:
    """A cost in nats, perhaps infinite, in `UNITS`."""
    return int(min(NEVER, cost * UNITS + 0.5))


def _all_in_units(costs: list[float]) -> NDArray[np.int64]:
    return np.minimum(np.array(costs) * UNITS + 0.5, NEVER).astype(np.int64)
