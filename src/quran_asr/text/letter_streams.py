"""The words of the Quran as long strings without spaces, and searches in them.

There is one string for each level of spelling, each with fewer distinctions between letters. Without spaces,
missing and extra spaces of a query and verse boundaries do not matter; a match must begin and end at word
boundaries.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

from quran_asr.text.quran import load_quran
from quran_asr.text.spelling import MARKS
from quran_asr.text.transliteration import TANWIN, consonants

SHORTEST_WITH_TYPO = 4
"""Letters: in shorter queries a typo would give another word."""

SHORTEST_WITH_TYPO_AFTER_PREFIX = 8
"""Letters: shorter ones with both are other words."""

SHORTEST_OF_SEVERAL_WORDS = 3
"""Letters: shorter queries are one whole word, without a prefix."""


@dataclass(frozen=True, slots=True, eq=False)
class Stream:
    """All words of the Quran in one string without spaces."""

    edition: str
    """The spelling whose words these are: `letters` or `uthmani`."""
    text: str
    starts: list[int]
    """Where each word begins in `text`, and the length of `text`; words without a letter here begin where the
    next one does."""
    borders: frozenset[int]
    """The same as a set."""


def alike(same: dict[str, str], ignored: str = "") -> dict[int, str]:
    """A table for `str.translate`: characters that count as another one, and characters that do not count."""
    return {ord(char): other for char, other in [*same.items(), *((char, "") for char in ignored)]}


_TYPED_SEATS = {"آ": "ا", "أ": "ا", "إ": "ا", "ؤ": "و", "ئ": "ي", "ى": "ي", "ة": "ه"}
_MUSHAF_LETTERS = alike({"\u0671": "ا"}, ignored=f"\u0640{MARKS}\u06e5\u06e6")
TABLES = {
    "letters": alike({}),
    "typed": alike(_TYPED_SEATS, ignored="ء"),
    "typed endings": alike(_TYPED_SEATS, ignored="ء"),
    "consonants": alike({"ى": "ي", "ة": "ه"}, ignored="اآأإءؤئ"),
    # كتـٰب is not كتب, though they have the same letters
    "mushaf and small alef": {code: same for code, same in _MUSHAF_LETTERS.items() if code != 0x670},
    "mushaf": _MUSHAF_LETTERS,
    "mushaf typed": _MUSHAF_LETTERS | alike(_TYPED_SEATS, ignored="ء"),
}
"""Letters that are equal in each stream: every step drops a distinction that people write differently.
`typed endings` also has alef for yeh and alef maksura at the end of a word (الزنى, الزنا; على, علي): too much
for a first search, since أنا and إني are then one word. `consonants` has no alef and no hamza with its seat,
where spellings differ most (مسؤولا, مسئولا)."""

ONLY_IN_MUSHAF = frozenset(
    "\u0640\u0671\u06dc\u06df\u06e0\u06e2\u06e3\u06e5\u06e6\u06e7\u06e8\u06ea\u06eb\u06ec\u06ed"
)


def fold(name: str, words: str) -> str:
    """Words or verses as they are in a stream of `TABLES`, with their spaces."""
    folded = words.translate(TABLES[name])
    return re.sub("ي(?![^ \n])", "ا", folded) if name == "typed endings" else folded


@lru_cache(maxsize=len(TABLES) + 2)
def load_stream(name: str) -> Stream:
    """One of `TABLES`, or `pronunciation`: what `transliteration.consonants` makes of the words."""
    if name in ("pronunciation", "pronunciation without tanwin"):
        edition = "letters"  # word by word the same as `diacritized`
        spaced = consonants(all_words("diacritized")).replace(
            TANWIN, TANWIN if name == "pronunciation" else ""
        )
    else:
        edition = "uthmani" if name.startswith("mushaf") else "letters"
        spaced = fold(name, all_words(edition))
    words = spaced.replace("\n", " ").split(" ")
    starts = [0]
    for word in words:
        starts.append(starts[-1] + len(word))
    return Stream(edition, "".join(words), starts, frozenset(starts))


def all_words(spelling: str) -> str:
    """All verses, a line each."""
    if spelling == "letters":  # much faster than to spell every verse
        return all_words("diacritized").translate(_WITHOUT_MARKS)
    return "\n".join(load_quran(spelling).verses.values())


_WITHOUT_MARKS = alike({}, ignored=MARKS)


@lru_cache(maxsize=2)
def verse_starts(edition: str) -> list[int]:
    """The number of words before each verse."""
    starts = [0]
    for verse in load_quran("uthmani" if edition == "uthmani" else "diacritized").verses.values():
        starts.append(starts[-1] + verse.count(" ") + 1)
    return starts


@dataclass(frozen=True, slots=True)
class Place:
    """Words of one edition, counted from the beginning of the Quran; the last one included."""

    stream: Stream
    first: int
    last: int


def occurrences(stream: Stream, letters: str) -> Iterator[Place]:
    """Matches of letters as one or more whole words."""
    if len(letters) < SHORTEST_OF_SEVERAL_WORDS:
        for number in numbers_by_word(stream).get(letters, ()):
            yield Place(stream, number, number)
    else:
        for start in _starts_of(stream.text, letters):
            if start in stream.borders and start + len(letters) in stream.borders:
                yield _place(stream, start, start + len(letters))


@lru_cache(maxsize=len(TABLES) + 1)
def numbers_by_word(stream: Stream) -> dict[str, list[int]]:
    """Position of each word, by the number of words before it; only words that have a letter here."""
    numbers: dict[str, list[int]] = {}
    for number, (start, end) in enumerate(pairwise(stream.starts)):
        if end > start:
            numbers.setdefault(stream.text[start:end], []).append(number)
    return numbers


def _place(stream: Stream, start: int, end: int) -> Place:
    return Place(stream, bisect_right(stream.starts, start) - 1, bisect_left(stream.starts, end) - 1)


PREFIX = "[وف]?[بلكسا]?(?:ا?ل)?"
"""Prefixes that are written as one word with the next: and, so, by, for, like, will, does, the. The article
without its alef stands after ل (للحي)."""
_IS_PREFIX = re.compile(PREFIX)


def pattern_places(stream: Stream, pattern: str) -> list[Place]:
    """Matches of a pattern that end with a word and begin with a word or after its prefix."""
    places = []
    compiled, text = re.compile(pattern), stream.text
    found = compiled.search(text)
    while found:
        start = found.start()
        end = _end_of_word(stream, compiled, start, found.end())
        place = _place(stream, start, end)
        if end in stream.borders and _IS_PREFIX.fullmatch(text, stream.starts[place.first], start):
            places.append(place)
            found = compiled.search(text, end)
        else:  # another match may begin inside this one
            found = compiled.search(text, start + 1)
    return places


def _end_of_word(stream: Stream, pattern: re.Pattern[str], start: int, end: int) -> int:
    """The end of a match, or of a shorter one that ends with a word: the last letter that a pattern may have
    is often the first of the next word."""
    border = bisect_right(stream.starts, end) - 1
    while end not in stream.borders and stream.starts[border] > start:
        if pattern.fullmatch(stream.text, start, stream.starts[border]):
            return stream.starts[border]
        border -= 1
    return end


def _is_after_prefix(stream: Stream, start: int) -> bool:
    word = stream.starts[bisect_right(stream.starts, start) - 1]
    return _IS_PREFIX.fullmatch(stream.text, word, start) is not None


def typo_places(name: str, letters: Sequence[str], after_prefix: bool = False) -> list[Place]:
    """Matches of whole words with `letters` up to one letter wrong, missing, extra, or swapped with the next.

    The typo is in the first or the second half, so the other half matches exactly.

    Args:
        letters: for each letter, those that it may represent.
        after_prefix: also where the first word has a prefix before these letters.
    """
    if len(letters) < (SHORTEST_WITH_TYPO_AFTER_PREFIX if after_prefix else SHORTEST_WITH_TYPO):
        return []
    stream, backwards = load_stream(name), _backwards(name)

    def begins(start: int) -> bool:
        return start in stream.borders or (after_prefix and _is_after_prefix(stream, start))

    middle = len(letters) // 2
    spans = set()
    for start in _starts_of(stream.text, letters[:middle]):
        if begins(start):
            for end in _ends_with_typo(stream.text, start + middle, letters[middle:]):
                spans.add((start, end))
    size, tail = len(stream.text), letters[middle:][::-1]
    for start in _starts_of(backwards, tail):
        if size - start in stream.borders:
            for end in _ends_with_typo(backwards, start + len(tail), letters[:middle][::-1]):
                spans.add((size - end, size - start))
    return [
        _place(stream, start, end)
        for start, end in sorted(spans)
        if end in stream.borders and end > start and begins(start)
    ]


def _starts_of(text: str, letters: Sequence[str]) -> Iterator[int]:
    """Matches of letters, including overlapping ones."""
    if all(len(letter) == 1 for letter in letters):
        wanted = "".join(letters)
        start = text.find(wanted)
        while start >= 0:
            yield start
            start = text.find(wanted, start + 1)
    else:
        pattern = "".join(f"[{letter}]" for letter in letters)
        yield from (found.start() for found in re.finditer(f"(?={pattern})", text))


@lru_cache(maxsize=3)
def _backwards(name: str) -> str:
    return load_stream(name).text[::-1]


def _ends_with_typo(text: str, start: int, letters: Sequence[str]) -> Iterator[int]:
    """The ends of matches from `start` that equal `letters` up to one typo."""
    same = 0
    while same < len(letters) and text[start + same : start + same + 1] in letters[same]:
        if start + same >= len(text):
            return
        same += 1
    at, rest = start + same, letters[same:]
    if not rest:
        yield from (at - 1, at + 1)  # the last letter is missing, or one follows
        return
    tries = [(at + 1, rest[1:]), (at + 1, rest), (at, rest[1:])]  # wrong, extra, missing
    if len(rest) > 1 and text[at : at + 1] in rest[1] and text[at + 1 : at + 2] in rest[0]:
        tries.append((at + 2, rest[2:]))
    for begin, wanted in tries:
        if all(text[begin + i : begin + i + 1] in wanted[i] for i in range(len(wanted))):
            yield begin + len(wanted)
