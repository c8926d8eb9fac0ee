"""Verse ranges, verses of equal wording, and the word map between the two editions."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from functools import lru_cache

from quran_asr.errors import QuranAsrError
from quran_asr.records import VerseRef
from quran_asr.text.quran import Quran, load_quran
from quran_asr.text.spelling import spell
from quran_asr.text.surah_names import find_surah

# The simple edition splits some words that the mushaf joins (يَـٰٓأَيُّهَا is يَا أَيُّهَا), never the other
# way round. So each Uthmani word corresponds to one to three simple words, and a verse with as many words in
# both editions corresponds one to one.

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
    """Pair the words of one verse: every word of both editions occurs once, in order.

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

    Every alef is dropped, also one written as waw or yeh with a superscript alef or with a maddah of length;
    every hamza is the bare one, whatever its seat; alef maksura is yeh.

    Args:
        word: in `uthmani` or `diacritized`.
    """
    # U+0622, the hamza with its alef, is one character in the simple edition only
    without_long_a = re.sub("[\u0648\u0649]\u0670|\u0627\u0653", "", word)
    return spell(without_long_a, "letters").translate(_TO_SKELETON)


_TO_SKELETON = str.maketrans("آأإؤئى", "ءءءءءي", "ا")


def _parts(uthmani: list[str], simple: list[str]) -> list[int]:
    """Number of simple words for each Uthmani word: the division in which most consonants agree."""
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
    """Number of letters that only one of the two has."""
    here, there = Counter(left), Counter(right)
    return (here - there).total() + (there - here).total()


def parse_range(written: str) -> tuple[VerseRef, ...]:
    """The verses that `2:255`, `2:255-257` or `112` (a whole surah) name, in order.

    Raises:
        QuranAsrError: it has another form, or a verse in it does not exist.
    """
    quran = load_quran()
    surah, colon, ayahs = written.strip().partition(":")
    first, dash, last = ayahs.partition("-")
    numbers = [surah] + [first] * bool(colon) + [last] * bool(dash)
    if not all(number.isascii() and number.isdigit() for number in numbers):
        raise QuranAsrError(
            f"`{written}` names no verses", remedy="write 2:255, 2:255-257 or 112 for a whole surah"
        )
    if not colon:
        return tuple(VerseRef(int(surah), ayah) for ayah in range(1, quran.ayahs(int(surah)) + 1))
    begin, end = VerseRef(int(surah), int(first)), VerseRef(int(surah), int(last or first))
    for ref in (begin, end):
        quran.verse(ref)
    if end < begin:
        raise QuranAsrError(f"`{written}` ends before it begins", remedy=f"write {end}-{begin.ayah}")
    return tuple(VerseRef(begin.surah, ayah) for ayah in range(begin.ayah, end.ayah + 1))


_VERSE_WORD = "(?:verses?|ayahs?|ayats?|ayas?|v|ال[آا]ي[ةه]|[آا]ي[ةه]|[آا]يات)"
_NUMBERS = re.compile(
    r"(?:s[uo]+ra[ht]?|سور[ةه])?\s*(\d+)"
    rf"(?:(?:\s*[:./,]\s*|,?\s+(?:{_VERSE_WORD}\s*)?)(\d+)(?:\s*[-–—]\s*(?:(\d+)\s*:\s*)?(\d+))?)?"
)
_NAME_AND_NUMBERS = re.compile(
    rf"(.*?[^\W\d_].*?)[\s,:(\[]*(?:\b{_VERSE_WORD})?[\s.:]*(\d+)(?:\s*[-–—]\s*(\d+))?[\s)\]]*"
)
_NUMBERS_AND_NAME = re.compile(
    rf"{_VERSE_WORD}\s*(\d+)(?:\s*[-–—]\s*(\d+))?,?\s+(?:(?:of|from|in|من)\s+)?(.*[^\W\d_].*)"
)


def read_reference(query: str) -> tuple[VerseRef, ...]:
    """The verses that a reference names: `2:255`, `2:255-257`, `2 255`, `112`, `٢:٢٥٥`, `surah 2 verse 255`,
    `al-baqara 255`, `verse 255 of al-baqara`; empty for anything else.

    Raises:
        QuranAsrError: it is written as a reference, but there is no such verse.
    """
    # int() reads the digits of all scripts
    written = re.sub(r"\d", lambda digit: str(int(digit[0])), query.strip().lower())
    if numbers := _NUMBERS.fullmatch(written):
        surah, first, last_surah, last = numbers.groups()
        if last_surah not in (None, surah):
            raise QuranAsrError(
                f"`{query}` names verses of two surahs", remedy="ask for each surah by itself"
            )
        return parse_range(surah + f":{first}" * bool(first) + f"-{last}" * bool(last))
    if (named := _NAME_AND_NUMBERS.fullmatch(written)) and (surah_number := find_surah(named[1])):
        return parse_range(f"{surah_number}:{named[2]}" + f"-{named[3]}" * bool(named[3]))
    if (named := _NUMBERS_AND_NAME.fullmatch(written)) and (surah_number := find_surah(named[3])):
        return parse_range(f"{surah_number}:{named[1]}" + f"-{named[2]}" * bool(named[2]))
    return ()


def twins(quran: Quran, ref: VerseRef) -> tuple[VerseRef, ...]:
    """The other verses that have the same letters; no recording of the verse alone can distinguish them.

    Raises:
        QuranAsrError: there is no such verse.
    """
    letters = spell(quran.verse(ref), "letters")
    return tuple(other for other in _by_letters(quran)[letters] if other != ref)


@lru_cache(maxsize=3)
def _by_letters(quran: Quran) -> dict[str, list[VerseRef]]:
    places: dict[str, list[VerseRef]] = {}
    for ref, text in quran.verses.items():
        places.setdefault(spell(text, "letters"), []).append(ref)
    return places
