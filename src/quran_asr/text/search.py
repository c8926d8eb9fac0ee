"""Search of the Quran by words as people type them: Arabic, Latin letters, references, surah names.

A query is searched in one level of spelling after the other, the strictest first.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from quran_asr.errors import QuranAsrError
from quran_asr.records import VerseRef
from quran_asr.text.letter_streams import (
    ONLY_IN_MUSHAF,
    PREFIX,
    SHORTEST_OF_SEVERAL_WORDS,
    Place,
    alike,
    all_words,
    fold,
    load_stream,
    numbers_by_word,
    occurrences,
    pattern_places,
    typo_places,
    verse_starts,
)
from quran_asr.text.passages import numbers_in, parse_range, read_reference, without_citations, word_map
from quran_asr.text.quran import Quran, load_quran
from quran_asr.text.spelling import lost_letters, spell
from quran_asr.text.surah_names import find_named_verses, find_surah, surah_name
from quran_asr.text.transliteration import TANWIN, Consonant, likeness, read_latin, read_letter_names

Kind = Literal["reference", "surah", "exact", "spelling", "prefix", "transliteration", "typo", "partial"]

NEAREST = 10
"""Number of verses that `find` returns when none has the words together."""

LEAST_LIKENESS = 0.6
"""Words whose consonants are those of a transliteration and whose vowels are others: قال is not `qul`."""


@dataclass(frozen=True, slots=True)
class Match:
    """A match of a query."""

    refs: tuple[VerseRef, ...]
    """The verse, or several verses if the words cross a verse boundary; all verses of a surah."""
    text: str
    """The verses in the spelling of the Quran that was searched; for a surah its name."""
    words: tuple[str, ...]
    """The matching words, in the same spelling; empty for references and surahs."""
    kind: Kind
    """How it matches: as a `reference`, the name of a `surah`, letter by letter (`exact`), in another
    `spelling`, with a `prefix` like و, ب or ال more or less before a word, as a `transliteration` in Latin
    letters, with one letter wrong, missing, extra or swapped (`typo`), or `partial`: only some of the words,
    or others between them."""

    @property
    def place(self) -> str:
        """`2:255`, `112:1-2`."""
        first, last = self.refs[0], self.refs[-1]
        return str(first) if first == last else f"{first}-{last.ayah}"


def find(quran: Quran, query: str) -> tuple[Match, ...]:
    """Find the verses that match a query.

    Arabic words may be spelled as in the simple edition, as in the mushaf, or as people type: without vowels,
    hamzas and spaces, with yeh for alef maksura, with heh for teh marbuta. These levels are tried one after
    the other, and the first that finds the words together returns all verses in which they are; then with
    additional or missing prefixes, then with one typo. If none does, the `NEAREST` verses with most of the
    words in their order, more than half of them. Latin letters are read as a reference, a surah name, or a
    transliteration. The names of the letters before some surahs (`الف لام ميم`) are these letters.

    Args:
        quran: in the spelling of the result.
        query: `2:255`, `(Quran 2:255-257)`, `112`, `al-baqara 255`, `البقرة`, `Ya-Sin`, `آية الكرسي`, Arabic
            words, or Arabic words in Latin letters. Numbers of verses and references in brackets after
            several words do not count.

    Returns:
        The best first, within one kind in the order of the mushaf; transliterations by phonetic similarity.
        Empty when nothing is near.

    Raises:
        QuranAsrError: `query` has no letter, it mixes Arabic and other letters, it has a number that names
            no verse, or it is the reference of a verse that does not exist.
    """
    if refs := read_reference(find_named_verses(query) or query):
        return tuple(Match((ref,), quran.verse(ref), (), "reference") for ref in refs)
    surah = _surah(query)
    query = without_citations(query)
    if unread := _unread_number(query, surah):
        raise QuranAsrError(
            f"the number {unread} in `{' '.join(query.split())[:80]}` names no verse",
            remedy="write 2:255, 2:255-257, 112 or al-baqara 255 by itself, or words without numbers; "
            "a juz or a page cannot be looked up",
        )
    letters = spell(query, "letters")
    consonants_asked = () if letters else read_latin(query)
    if not letters and not consonants_asked and not surah:
        raise QuranAsrError(
            f"`{query}` has no word to look for",
            remedy="write Arabic words, a transliteration, a surah name or 2:255",
        )
    if letters and (lost := lost_letters(query)):
        raise QuranAsrError(
            f"`{query}` has letters that the Quran does not have: {lost}",
            remedy="write all of it in Arabic letters, or all in Latin letters",
        )
    found = _find_arabic(quran, query) if letters else _find_latin(quran, query)
    if surah:  # words that only resemble the name are not a match
        found = tuple(match for match in found if match.kind not in ("typo", "partial"))
    return surah + found


def _surah(name: str) -> tuple[Match, ...]:
    number = find_surah(name)
    return (Match(parse_range(str(number)), surah_name(number), (), "surah"),) if number else ()


def _unread_number(query: str, surah: tuple[Match, ...]) -> str:
    """The first number in a query that is not a reference, but for that of the surah which it names."""
    named = str(surah[0].refs[0].surah) if surah else ""
    return next((number[:20] for number in numbers_in(query) if number != named), "")


def _find_arabic(quran: Quran, query: str) -> tuple[Match, ...]:
    letters, marked = spell(query, "letters"), spell(query, "uthmani")
    strictest: Kind = "exact"
    if (named := read_letter_names(letters)) != letters:
        letters, marked, strictest = named, named, "spelling"
    whole: list[tuple[str, str, Kind]] = [
        ("letters", letters, strictest),
        ("typed", letters, "spelling"),
        ("mushaf", marked, "spelling"),
        ("mushaf typed", marked, "spelling"),
        ("typed endings", letters, "spelling"),
    ]
    if not ONLY_IN_MUSHAF.isdisjoint(marked):
        whole = [("mushaf and small alef", marked, "exact"), ("mushaf", marked, "spelling"), whole[1]]
    for name, written, kind in whole:
        if found := _whole(quran, name, written, kind):
            return found
    return (
        _prefixed(quran, "typed", letters)
        or _whole(quran, "consonants", letters, "spelling")
        or _prefixed(quran, "typed endings", letters)
        or _both(_prefixed(quran, "consonants", letters), _with_typo(quran, "typed", letters))
        or _with_typo(quran, "consonants", letters)
        or _with_typo(quran, "typed", letters, after_prefix=True)
        or _nearest(quran, letters)
    )


def _both(first: tuple[Match, ...], others: tuple[Match, ...]) -> tuple[Match, ...]:
    """Two readings of a query that are equally likely: these matches, then the others in other verses."""
    known = {match.refs for match in first}
    return first + tuple(match for match in others if match.refs not in known)


def _whole(quran: Quran, name: str, written: str, kind: Kind) -> tuple[Match, ...]:
    """Matches of the letters of whole words; only those with the same spaces if there are any.

    With other spaces the kind is `spelling`.
    """
    phrase = fold(name, written)
    stream = load_stream(name)
    places = list(occurrences(stream, phrase.replace(" ", "")))
    parted = [place for place in places if place.last - place.first == phrase.count(" ")]
    if same := [place for place in parted if _has_words(place, phrase.split(" "))]:
        return _matches(quran, same, kind)
    return _matches(quran, places, "spelling")


def _has_words(place: Place, words: Sequence[str]) -> bool:
    stream, first = place.stream, place.first
    return all(
        stream.text[stream.starts[first + i] : stream.starts[first + i + 1]] == word
        for i, word in enumerate(words)
    )


def _prefixed(quran: Quran, name: str, letters: str) -> tuple[Match, ...]:
    """Matches of the words with a prefix before some of them, or without their article."""
    words = [word.removeprefix("ال") if len(word) > 4 else word for word in letters.split()]
    translated = [re.escape(fold(name, word)) for word in words]
    if len("".join(translated)) < SHORTEST_OF_SEVERAL_WORDS:
        return ()
    return _matches(quran, pattern_places(load_stream(name), PREFIX.join(translated)), "prefix")


def _with_typo(quran: Quran, name: str, letters: str, after_prefix: bool = False) -> tuple[Match, ...]:
    written = fold(name, letters).replace(" ", "")
    return _matches(quran, typo_places(name, list(written), after_prefix), "typo")


def _find_latin(quran: Quran, query: str) -> tuple[Match, ...]:
    asked = read_latin(query)
    required = [consonant.letters for consonant in asked if not consonant.optional]
    found = _pronounced(quran, query, asked) or _pronounced(quran, query, read_latin(query, loose=True))
    if found or len(required) < SHORTEST_OF_SEVERAL_WORDS:
        return found
    return _by_likeness(quran, query, typo_places("pronunciation without tanwin", required), "typo")


def _pronounced(quran: Quran, query: str, asked: Sequence[Consonant]) -> tuple[Match, ...]:
    """Matches of consonants; of few only as one whole word."""
    pronounced = load_stream("pronunciation")
    pattern = f"{TANWIN}?".join(_pattern(consonant) for consonant in asked) + f"{TANWIN}?"
    if sum(not consonant.optional for consonant in asked) < SHORTEST_OF_SEVERAL_WORDS:
        words = numbers_by_word(pronounced)
        one = re.findall(f"^{pattern}$", "\n".join(words), re.MULTILINE)  # one call: 15,000 take longer
        numbers = sorted(number for word in one for number in words[word])
        return _by_likeness(quran, query, [Place(pronounced, n, n) for n in numbers], "transliteration")
    places = pattern_places(pronounced, pattern)
    begins = re.compile(pattern)
    whole = [place for place in places if begins.match(pronounced.text, pronounced.starts[place.first])]
    return _by_likeness(quran, query, whole or places, "transliteration")


def _pattern(consonant: Consonant) -> str:
    one = f"[{consonant.letters}]"
    if consonant.apart:
        one = f"(?:{one}|[{consonant.apart[0]}][{consonant.apart[1]}])"
    return one + "?" * consonant.optional + "{1,2}" * consonant.doubled


def _by_likeness(quran: Quran, query: str, places: Iterable[Place], kind: Kind) -> tuple[Match, ...]:
    """Matches that are phonetically similar to the query, vowels too, the most similar first."""
    likely: dict[str, float] = {}
    ranked = []
    for place in places:
        words = " ".join(_flat_words("diacritized")[place.first : place.last + 1])
        if words not in likely:
            likely[words] = likeness(query, words)
        if likely[words] >= LEAST_LIKENESS:
            ranked.append((-likely[words], place.first, place))
    return _matches(quran, [place for _, _, place in sorted(ranked, key=lambda item: item[:2])], kind)


@lru_cache(maxsize=1)
def _verses_by_word() -> tuple[list[list[str]], dict[str, list[int]]]:
    """The words of each verse as consonants, and the verses that have a word, once for each time."""
    verses = [line.split(" ") for line in all_words("letters").translate(_NEARLY).split("\n")]
    having: dict[str, list[int]] = {}
    for number, words in enumerate(verses):
        for word in words:
            having.setdefault(word, []).append(number)
    return verses, having


_NEARLY = alike({"ؤ": "و", "ئ": "ي", "ى": "ي", "ة": "ه"}, ignored="اآأإء")


def _nearest(quran: Quran, letters: str) -> tuple[Match, ...]:
    """The verses that have most of the words in their order."""
    verses, having = _verses_by_word()
    wanted = letters.translate(_NEARLY).split()
    # The words that two texts share in any order bound those that they share in order.
    bound: Counter[int] = Counter()
    for word, times in Counter(wanted).items():
        for verse, there in Counter(having.get(word, ())).items():
            bound[verse] += min(times, there)
    likely = sorted(
        (verse for verse in bound if 2 * bound[verse] > len(wanted)), key=lambda v: (-bound[v], v)
    )
    places = {verse: _common_places(wanted, verses[verse]) for verse in likely[:100]}
    near = [verse for verse in places if 2 * len(places[verse]) > len(wanted)]
    near.sort(key=lambda verse: (-len(places[verse]), len(verses[verse]), verse))
    found = []
    for verse in near[:NEAREST]:
        ref, first = quran.refs[verse], verse_starts("letters")[verse]
        words = [
            word
            for place in places[verse]
            for word in _place_words(quran, Place(load_stream("letters"), first + place, first + place))
        ]
        found.append(Match((ref,), quran.verse(ref), tuple(words), "partial"))
    return tuple(found)


def _common_places(wanted: list[str], verse: list[str]) -> list[int]:
    """Places in the verse of the most wanted words that keep their order; others may be between."""
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


def _matches(quran: Quran, places: Iterable[Place], kind: Kind) -> tuple[Match, ...]:
    """The verses of matches, each once; matches that cross into the next surah do not count."""
    matches: dict[tuple[int, int], Match | None] = {}
    for place in places:
        starts = verse_starts(place.stream.edition)
        verses = bisect_right(starts, place.first) - 1, bisect_right(starts, place.last)
        if verses not in matches:
            refs = quran.refs[slice(*verses)]
            one_surah = refs[0].surah == refs[-1].surah
            matches[verses] = (
                Match(refs, quran.text(refs), _place_words(quran, place), kind) if one_surah else None
            )
    return tuple(match for match in matches.values() if match)


@lru_cache(maxsize=3)
def _flat_words(spelling: str) -> list[str]:
    return [word for verse in load_quran(spelling).verses.values() for word in verse.split(" ")]


def _place_words(quran: Quran, place: Place) -> tuple[str, ...]:
    """The words of a match in the spelling of `quran`."""
    edition = place.stream.edition
    if (quran.edition_name == "uthmani") == (edition == "uthmani"):
        return tuple(_flat_words(quran.spelling)[place.first : place.last + 1])
    starts = verse_starts(edition)
    words: list[str] = []
    verse = bisect_right(starts, place.first) - 1
    while starts[verse] <= place.last:
        for pair in word_map(quran.refs[verse]):
            first = starts[verse] + (pair.index if edition == "uthmani" else pair.simple_index)
            last = first if edition == "uthmani" else first + pair.simple.count(" ")
            if first <= place.last and place.first <= last:
                words += (
                    [pair.uthmani] if edition == "letters" else spell(pair.simple, quran.spelling).split()
                )
        verse += 1
    return tuple(words)
