"""Verse ranges, verses of equal wording, text search, and the word map between the two editions."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

from quran_asr.errors import QuranAsrError
from quran_asr.records import VerseRef
from quran_asr.text.quran import Quran, load_quran
from quran_asr.text.spelling import MARKS, spell

# The simple edition parts some words that the mushaf joins (يَـٰٓأَيُّهَا is يَا أَيُّهَا), never the other
# way round. So each Uthmani word stands against one to three simple words, and a verse with as many words in
# both editions pairs off one by one.

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


NEAREST = 10
"""How many verses `find` gives when none has the words exactly."""


@dataclass(frozen=True, slots=True)
class Match:
    """A verse in which words were found."""

    ref: VerseRef
    text: str
    """The verse, in the spelling of the Quran that was searched."""
    words: tuple[str, ...]
    """Those of its words that were looked for, in the same spelling."""
    exact: bool
    """All words stand there, one after the other; otherwise only some do, or others stand between."""


def parse_range(written: str) -> tuple[VerseRef, ...]:
    """The verses that `2:255`, `2:255-257` or `112` (a whole surah) name, in order.

    Raises:
        QuranAsrError: it is written otherwise, or a verse in it does not exist.
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


def twins(quran: Quran, ref: VerseRef) -> tuple[VerseRef, ...]:
    """The other verses that have the same letters; no recording of the verse alone can tell them apart.

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


def find(quran: Quran, words: str) -> tuple[Match, ...]:
    """Where words stand in the Quran.

    Vowels do not count. The words may be spelt as in the simple edition, as in the mushaf, or as people type:
    without hamzas, with yeh for alef maksura, with heh for teh marbuta. These ways are tried one after the
    other, and the first that finds the words standing together gives all verses in which they do. If none
    does, the `NEAREST` verses with most of the words in their order, more than half of them; there no alef
    or hamza counts.

    Args:
        words: one or more Arabic words.

    Returns:
        In the order of the mushaf; where no verse has them all together, the nearest first. Empty when none
        is near.

    Raises:
        QuranAsrError: there is no Arabic letter in `words`.
    """
    if not spell(words, "letters"):
        raise QuranAsrError(f"`{words}` has no Arabic word to look for")
    return _together(quran, words) or _nearest(quran, words)


def _together(quran: Quran, words: str) -> tuple[Match, ...]:
    """The verses in which the words stand one after the other."""
    simple, mushaf = load_quran("letters"), load_quran("uthmani")
    letters, signs = spell(words, "letters"), spell(words, "uthmani")
    in_mushaf = (mushaf, signs, _MUSHAF_LETTERS)
    if _ONLY_IN_MUSHAF.isdisjoint(signs):
        ways = [(simple, letters, _ALL_DIFFER), (simple, letters, _AS_TYPED), in_mushaf]
    else:  # كتـٰب is no كتب, though they have the same letters
        ways = [(mushaf, signs, _MUSHAF_LETTERS_AND_ALEF), in_mushaf, (simple, letters, _AS_TYPED)]
    for edition, wanted, alike in ways:
        phrase = f" {wanted.translate(alike)} "
        found = []
        for ref, verse in edition.verses.items():
            compared = f" {verse.translate(alike)} "
            if (place := compared.find(phrase)) >= 0:
                first = compared.count(" ", 0, place)
                where = range(first, first + phrase.count(" ") - 1)
                found.append(Match(ref, quran.verse(ref), _written(quran, edition, ref, where), exact=True))
        if found:
            return tuple(found)
    return ()


def _nearest(quran: Quran, words: str) -> tuple[Match, ...]:
    """The verses that have most of the words in their order."""
    simple = load_quran("letters")
    wanted = spell(words, "letters").translate(_CONSONANTS).split()
    verses = {ref: verse.translate(_CONSONANTS).split(" ") for ref, verse in simple.verses.items()}
    # What two texts share regardless of order is a bound on what they share in order.
    bound = {ref: (Counter(wanted) & Counter(verse)).total() for ref, verse in verses.items()}
    likely = sorted((ref for ref in bound if 2 * bound[ref] > len(wanted)), key=lambda ref: -bound[ref])
    places = {ref: _common_places(wanted, verses[ref]) for ref in likely[:100]}
    near = [ref for ref in places if 2 * len(places[ref]) > len(wanted)]
    near.sort(key=lambda ref: (-len(places[ref]), len(verses[ref]), ref))
    return tuple(
        Match(ref, quran.verse(ref), _written(quran, simple, ref, places[ref]), exact=False)
        for ref in near[:NEAREST]
    )


def _alike(same: dict[str, str], ignored: str = "") -> dict[int, str]:
    """A table for `str.translate`: characters that count as another one, and characters that do not count."""
    return {ord(char): other for char, other in [*same.items(), *((char, "") for char in ignored)]}


_ALL_DIFFER = _alike({})
_AS_TYPED = _alike({"آ": "ا", "أ": "ا", "إ": "ا", "ؤ": "و", "ئ": "ي", "ى": "ي", "ة": "ه"})
_CONSONANTS = _alike({"ؤ": "و", "ئ": "ي", "ى": "ي", "ة": "ه"}, ignored="اآأإء")
_MUSHAF_LETTERS = _alike({"\u0671": "ا"}, ignored=f"\u0640{MARKS}\u06e5\u06e6")
_MUSHAF_LETTERS_AND_ALEF = {code: same for code, same in _MUSHAF_LETTERS.items() if code != 0x670}
_ONLY_IN_MUSHAF = frozenset(
    "\u0640\u0671\u06dc\u06df\u06e0\u06e2\u06e3\u06e5\u06e6\u06e7\u06e8\u06ea\u06eb\u06ec\u06ed"
)


def _common_places(wanted: list[str], verse: list[str]) -> list[int]:
    """Places in the verse of the most wanted words that keep their order; others may stand between."""
    # longest[i][j]: number of words that wanted[i:] and verse[j:] share in order
    longest = [[0] * (len(verse) + 1) for _ in range(len(wanted) + 1)]
    for i in reversed(range(len(wanted))):
        for j in reversed(range(len(verse))):
            if wanted[i] == verse[j]:
                longest[i][j] = longest[i + 1][j + 1] + 1
            else:
                longest[i][j] = max(longest[i + 1][j], longest[i][j + 1])
    places, i, j = [], 0, 0
    while i < len(wanted) and j < len(verse):
        if wanted[i] == verse[j]:
            places.append(j)
            i, j = i + 1, j + 1
        elif longest[i + 1][j] >= longest[i][j + 1]:
            i += 1
        else:
            j += 1
    return places


def _written(quran: Quran, searched: Quran, ref: VerseRef, places: Iterable[int]) -> tuple[str, ...]:
    """Words of a verse as `quran` writes them, by their places in the edition that was searched."""
    if quran.edition_name == searched.edition_name:
        words = quran.verse(ref).split()
        return tuple(words[place] for place in places)
    asked = set(places)
    found = []
    for pair in word_map(ref):
        simple_places = range(pair.simple_index, pair.simple_index + len(pair.simple.split()))
        if quran.edition_name == "uthmani" and not asked.isdisjoint(simple_places):
            found.append(pair.uthmani)
        elif quran.edition_name == "simple" and pair.index in asked:
            found += spell(pair.simple, quran.spelling).split()
    return tuple(found)
