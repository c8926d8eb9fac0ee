"""Which words of the two editions are the same word.

The simple edition parts some words that the mushaf joins (يَـٰٓأَيُّهَا is يَا أَيُّهَا), never the other way
round. So each Uthmani word stands against one to three simple words, and a verse with as many words in both
editions pairs off one by one.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass

from quran_asr.records import VerseRef
from quran_asr.text.quran import load_quran
from quran_asr.text.spelling import spell

MOST_PARTS = 3
"""يَبْنَؤُمَّ (20:94) is يَا ابْنَ أُمَّ; no word has more parts."""


@dataclass(frozen=True, slots=True)
class WordPair:
    """One word of the mushaf in the three spellings."""

    uthmani: str
    simple: str
    """The same in the simple edition: one word, or two or three with spaces between."""
    letters: str
    """`simple` without its marks."""
    index: int
    """Place of `uthmani` in the verse's Uthmani words, from 0."""
    simple_index: int
    """Place of the first word of `simple` in the verse's simple words, from 0."""


def word_map(ref: VerseRef) -> tuple[WordPair, ...]:
    """Pair the words of one verse: every word of both editions is there once, in order.

    Raises:
        QuranAsrError: there is no such verse.
    """
    uthmani = load_quran("uthmani").verse(ref).split()
    simple = load_quran("diacritized").verse(ref).split()
    pairs = []
    start = 0
    for index, parts in enumerate(_parts(uthmani, simple)):
        written = " ".join(simple[start : start + parts])
        pairs.append(WordPair(uthmani[index], written, spell(written, "letters"), index, start))
        start += parts
    return tuple(pairs)


def skeleton(word: str) -> str:
    """The consonants of a word, nearly the same in both editions.

    Every alef goes, also one written as waw or yeh with a superscript alef or with a maddah of length; every
    hamza is the bare one, whatever its seat; alef maksura is yeh.

    Args:
        word: in `uthmani` or `diacritized`.
    """
    # U+0622, the hamza with its alef, is one character in the simple edition only
    without_long_a = re.sub("[\u0648\u0649]\u0670|\u0627\u0653", "", word)
    return spell(without_long_a, "letters").translate(_TO_SKELETON)


_TO_SKELETON = str.maketrans("آأإؤئى", "ءءءءءي", "ا")


def _parts(uthmani: list[str], simple: list[str]) -> list[int]:
    """How many simple words each Uthmani word stands for: the division in which most consonants agree."""
    surplus = len(simple) - len(uthmani)
    if not surplus:
        return [1] * len(uthmani)
    left = [skeleton(word) for word in uthmani]
    right = [skeleton(word) for word in simple]
    # best[s]: the least disagreement up to here with s simple words beyond one for each, and its division
    best: dict[int, tuple[int, list[int]]] = {0: (0, [])}
    for index, word in enumerate(left):
        reached: dict[int, tuple[int, list[int]]] = {}
        for used, (disagreement, division) in best.items():
            for parts in range(1, min(MOST_PARTS, surplus - used + 1) + 1):
                start = index + used
                total = disagreement + _unlike(word, "".join(right[start : start + parts]))
                now = used + parts - 1
                if now not in reached or total < reached[now][0]:
                    reached[now] = (total, [*division, parts])
        best = reached
    return best[surplus][1]


def _unlike(left: str, right: str) -> int:
    """Number of letters that one of the two has and the other has not."""
    here, there = Counter(left), Counter(right)
    return (here - there).total() + (there - here).total()
