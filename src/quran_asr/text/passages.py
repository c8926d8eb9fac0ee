"""Verse ranges and passages, verses of equal wording, and the word map between the two editions."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from dataclasses import dataclass
from functools import lru_cache

from quran_asr.errors import QuranAsrError
from quran_asr.records import VerseRef
from quran_asr.text.editions import SURAHS
from quran_asr.text.quran import Quran, load_quran
from quran_asr.text.spelling import spell
from quran_asr.text.surah_names import find_named_verses, find_surah

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

    The strict form, for data; `read_passage` reads what people write where a command asks for verses.

    Raises:
        QuranAsrError: it has another form, or a verse in it does not exist.
    """
    quran = load_quran()
    surah, colon, ayahs = written.strip().partition(":")
    first, dash, last = ayahs.partition("-")
    numbers = [surah] + [first] * bool(colon) + [last] * bool(dash)
    if not all(number.isascii() and number.isdigit() and len(number) < 10 for number in numbers):
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


_NUMBER_WORD = r"(?:(?:رقم|no\.?|number|#)\s*)?"
_VERSE_WORD = r"(?:verses?|ayahs?|ayats?|ayas?|vv?|(?:ال)?[آأا]ي(?:[ةه]|ات))"
_SURAH_WORD = r"(?:s[uo]+ra[ht]?|(?:ال)?سور[ةه]|chapter|ch|s)"
_DASH = "[-‐‑‒–—−]"
_BETWEEN = r"[\s:;,.،؛/()\[\]{}﴿﴾‐‑‒–—−-]"
"""What may stand between a surah and a verse."""
_VERSE = rf"(?:{_VERSE_WORD}{_BETWEEN}*{_NUMBER_WORD})"
_TO = rf"\s*(?:{_DASH}|to|through|[إا]ل[ىي]|حتى)\s*"
_VERSES = rf"(?P<first>\d+)(?:{_TO}(?:(?P<last_surah>\d+)\s*:\s*)?(?P<last>\d+))?"
_REFERENCES = [
    re.compile(pattern)
    for pattern in (
        rf"(?:{_SURAH_WORD}{_BETWEEN}*{_NUMBER_WORD})?(?P<surah>\d+)(?:(?:{_BETWEEN}+{_VERSE}?|{_VERSE}){_VERSES})?",
        rf"(?P<surah>.*?[^\W\d_].*?){_BETWEEN}*(?:\b{_VERSE})?{_BETWEEN}*(?:\b(?:from|من)\s+)?{_VERSES}",
        rf"{_VERSE}{_VERSES},?\s+(?:(?:of|from|in|من)\s+)?(?P<surah>.*[^\W\d_].*)",
    )
]
LONGEST_REFERENCE = 100
"""Characters: in longer text the patterns would be tried at thousands of places."""
_SOURCE = re.compile(
    r"(?:(?:the|holy|noble)\s+)*(?:(?:al[-\s]?)?(?:q[uo]r['’‘`ʾʼ]?[aā]+n|koran)|q\.?\s?s|q"
    rf"|(?:ال)?قر[آأا]ن(?:\s+الكريم)?)(?![^\W\d_]){_BETWEEN}*(?=.*\d)|{_VERSE}(?=\d+\s*[:/]\s*\d)"
)
"""What people write before a reference."""


def read_reference(query: str) -> tuple[VerseRef, ...]:
    """The verses that a reference names; empty for anything else.

    `2:255`, `2:255-257`, `112`, `٢:٢٥٥`, `surah 2 verse 255`, `al-baqara 255`, `verse 255 of al-baqara`.
    Brackets and punctuation around it do not matter, nor `Quran`, `QS` or `Q` before it. Between surah and
    verse may stand a space or other punctuation. A hyphen, too: `2-5` is 2:5, since a range of surahs is not
    a reference; after a surah's name or a verse it is that of a range.

    Raises:
        QuranAsrError: it is written as a reference, but there is no such verse.
    """
    written = _bare(query)
    if len(written) > LONGEST_REFERENCE or not re.search(r"\d", written):
        return ()
    if source := _SOURCE.match(written):
        written = written[source.end() :]
    for pattern in _REFERENCES:
        read = pattern.fullmatch(written)
        if read and (surah := _surah_number(query, read["surah"])):
            if read["last_surah"] and numbers_in(read["last_surah"]) != [surah]:
                raise _of_two_surahs(query)
            verses = f":{read['first']}" * bool(read["first"]) + f"-{read['last']}" * bool(read["last"])
            return parse_range(surah + verses)
    return ()


_LIST = re.compile(r"\s*[,،;؛]\s*|\s+(?:and|&|\+)\s+", re.IGNORECASE)
"""What stands between the items of a list."""
_NUMBERS = re.compile(rf"(?:s|surahs?\s+)?(\d+)(?::(\d+))?(?:{_TO}(?:(\d+):)?(\d+))?", re.IGNORECASE)
_HAMZA = "['’‘`ʿʾʻ]"
_PART = re.compile(
    rf"(?:juz[az]?{_HAMZA}?|para|sipara|(?:ال)?جز[ءو]?)\s*{_NUMBER_WORD}{_HAMZA}?"
    rf"(?P<first>\d+|amma|عم|tabarak|تبارك)(?:{_TO}(?P<last>\d+))?",
    re.IGNORECASE,
)
_NAMED_PARTS = {"amma": 30, "عم": 30, "tabarak": 29, "تبارك": 29}
_PART_STARTS = (
    *("1:1", "2:142", "2:253", "3:93", "4:24", "4:148", "5:82", "6:111", "7:88", "8:41"),
    *("9:93", "11:6", "12:53", "15:1", "17:1", "18:75", "21:1", "23:1", "25:21", "27:56"),
    *("29:46", "33:31", "36:28", "39:32", "41:47", "46:1", "51:31", "58:1", "67:1", "78:1"),
)
"""The first verse of each of the 30 parts (juz), as in Tanzil's metadata."""


def read_passage(written: str) -> tuple[VerseRef, ...]:
    """The verses that people name where a command asks for verses, in the order in which they are named.

    A verse, a range or a surah as in `parse_range`; `112-114` (surahs), `1:1-2:5`, `Al-Ikhlas`,
    `الفلق - الناس`, `juz 30`, `ayat al-kursi`; what `read_reference` reads; and lists of these, `78,79`, in
    which a number is a surah, or above 114 a verse of the surah before it.

    Raises:
        QuranAsrError: a part of it names no verses, or some that do not exist; or a number in a list may be
            a surah or another verse of the surah before it.
    """
    # without the invisible marks of direction that come along when Arabic is copied
    shown = "".join(
        char for char in unicodedata.normalize("NFKC", written) if unicodedata.category(char) != "Cf"
    )
    plain = re.sub(_DASH, "-", _ascii_digits(shown)).strip()
    items = _LIST.split(plain.rstrip(" ,،;؛"))
    if not all(items) or max(map(len, items)) > LONGEST_REFERENCE:
        raise _no_verses(written)
    verses: list[VerseRef] = []
    before = ""
    for item in items:
        number = re.fullmatch(r"(\d+)(?:-(\d+))?", item)
        if ":" in before and number and int(number[1]) <= load_quran().ayahs(surah := verses[-1].surah):
            if int(number[2] or number[1]) <= SURAHS:
                raise QuranAsrError(
                    f"`{item}` after `{before}` may be a surah or a verse",
                    remedy=f"write {surah}:{item} for verses, surah {item} for a surah",
                )
            item = f"{surah}:{item}"
        try:
            verses += _verses_of(item)
        except QuranAsrError:
            # a comma may also stand between a surah and its verse: Al-Baqarah, 255
            if len(items) == 2 and (reference := _reference(plain)):
                return reference
            raise
        before = item
    return tuple(verses)


def _verses_of(item: str) -> tuple[VerseRef, ...]:
    """The verses of one item of a passage.

    Raises:
        QuranAsrError: it names none, or some that do not exist.
    """
    if numbers := _NUMBERS.fullmatch(item):
        surah, ayah, last_surah, last = numbers.groups()
        if ayah and not last_surah:
            return parse_range(f"{surah}:{ayah}" + f"-{last}" * bool(last))
        first = parse_range(f"{surah}:{ayah}" if ayah else surah)
        return _between(item, first, parse_range(f"{last_surah}:{last}" if last_surah else last or surah))
    if part := _PART.fullmatch(item):
        begin = _NAMED_PARTS.get(part["first"].lower()) or int(part["first"])
        return _between(item, _part(begin), _part(int(part["last"] or begin)))
    if not re.search(r"\d", item):
        surah_number = find_surah(item)
        if surah_number or (named := find_named_verses(item)):
            return parse_range(str(surah_number or named))
    for dash in re.finditer(_TO, item):
        left, right = item[: dash.start()], item[dash.end() :]
        if not right.isdigit() and (first := _named(left)) and (last_verses := _named(right)):
            return _between(item, first, last_verses)
    reference = () if item.startswith("-") else read_reference(item)  # it lacks its beginning
    if not reference:
        raise _no_verses(item)
    return reference


def _between(item: str, first: tuple[VerseRef, ...], last: tuple[VerseRef, ...]) -> tuple[VerseRef, ...]:
    """All verses from the first of some to the last of others.

    Raises:
        QuranAsrError: they end before they begin.
    """
    if last[-1] < first[0]:
        raise QuranAsrError(f"`{item}` ends before it begins", remedy="write the earlier verses first")
    refs = load_quran().refs
    return refs[refs.index(first[0]) : refs.index(last[-1]) + 1]


def _part(number: int) -> tuple[VerseRef, ...]:
    """The verses of a part (juz).

    Raises:
        QuranAsrError: there is no such part.
    """
    if not 1 <= number <= len(_PART_STARTS):
        raise QuranAsrError(f"there is no juz {number}", remedy=f"they are 1 to {len(_PART_STARTS)}")
    refs = load_quran().refs
    places = [*(refs.index(VerseRef.parse(start)) for start in _PART_STARTS), len(refs)]
    return refs[places[number - 1] : places[number]]


def _named(item: str) -> tuple[VerseRef, ...]:
    """The same as `_verses_of`, empty where it names no verses."""
    try:
        return _verses_of(item)
    except QuranAsrError:
        return ()


def _reference(written: str) -> tuple[VerseRef, ...]:
    """The same as `read_reference`, empty where there is no such verse."""
    try:
        return read_reference(written)
    except QuranAsrError:
        return ()


def _no_verses(written: str) -> QuranAsrError:
    shown = written if len(written) <= LONGEST_REFERENCE else f"{written[:LONGEST_REFERENCE]}..."
    return QuranAsrError(
        f"`{shown}` names no verses",
        remedy="write 2:255, 2:1-141, 112 or Al-Ikhlas for a surah, 112-114, 1:1-2:5, juz 30, or some of "
        "these with commas between them",
    )


def numbers_in(text: str) -> list[str]:
    """The numbers in a text, in ASCII digits without leading zeros."""
    return [number.lstrip("0") or "0" for number in re.findall(r"\d+", _ascii_digits(text))]


def without_citations(words: str) -> str:
    """Words without the numbers of verses and the references in brackets after them, as in `﴿١﴾`,
    `[البقرة: 255]`; unchanged where only one word would be left: `page (50)`.

    Raises:
        QuranAsrError: a reference in brackets names a verse that does not exist.
    """
    rest = _BRACKETS.sub(lambda group: " " if _is_citation(group[0]) else group[0], words)
    return rest if len(rest.split()) > 1 else words


_BRACKETS = re.compile(r"[(\[{﴿][^()\[\]{}﴿﴾]*\d[^()\[\]{}﴿﴾]*[)\]}﴾]|\u06dd\s*\d+")


def _is_citation(group: str) -> bool:
    return _bare(group).isdigit() or bool(read_reference(group))


def _bare(query: str) -> str:
    """Lower case and ASCII digits, without marks, invisible characters and punctuation around it."""
    composed = unicodedata.normalize("NFKC", query).lower()
    shown = "".join(char for char in composed if unicodedata.category(char) not in ("Mn", "Cf"))
    # a colon or hyphen at the end announces more
    return re.sub(r"^\W+|[^\w:‐‑‒–—−-]+$", "", _ascii_digits(shown.replace("\u0640", "")))


def _ascii_digits(text: str) -> str:
    # int() reads the digits of all scripts
    return re.sub(r"\d", lambda digit: str(int(digit[0])), text)


def _surah_number(query: str, written: str) -> str:
    """The surah that is written as a number, or as a name with or without its number beside it; empty: none.

    Raises:
        QuranAsrError: the number is not that of the name.
    """
    if written.isdigit():
        return numbers_in(written)[0]
    found = find_surah(written)
    if found and {*numbers_in(written)} - {str(found)}:
        raise _of_two_surahs(query)
    return str(found or "")


def _of_two_surahs(query: str) -> QuranAsrError:
    return QuranAsrError(f"`{query}` names verses of two surahs", remedy="ask for each surah by itself")


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
