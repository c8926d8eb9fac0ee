r"""The three spellings, and the conversion of any text to each of them. The only file that changes letters.

`uthmani`
    The spelling of the mushaf, with its reading marks and without marks of pause, prostration or division.
`diacritized`
    Today's spelling with all vowels (Tanzil's simple text).
`letters`
    `diacritized` without its marks.

A verse of the right edition passes unchanged: `spell(verse, "uthmani")` and `spell(verse, "diacritized")`
return Tanzil's own characters, since the order of marks used here is Tanzil's. After a letter:

    small seen, yeh or noon - shadda - vowel or tanwin - filled or empty stop - superscript alef - maddah
    - hamza above - sukun - silent-letter sign - small meem

but on a tatweel, which is only its seat, the hamza comes first. Other text is brought to the same form, from
any order of marks and any Unicode normal form, presentation forms, tatweel used as ornament, invisible and
bidi characters, Persian and Urdu code points for Arabic letters. Digits and punctuation separate
words. NFKC is not used: it would decompose characters that this text needs.

`spell` does not translate. Uthmani text that is converted to `diacritized` or `letters` has today's
characters (alef wasla as alef, small yeh inside a word as yeh, and so on, one by one), but where
the two editions write a word with different letters it does not change: مَـٰلِك becomes ملك, not مالك. If the
verse is known, take it from the edition (`Quran.verse`).
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache

from quran_asr.errors import QuranAsrError
from quran_asr.text.editions import EditionName, load_edition

SPELLINGS = ("uthmani", "diacritized", "letters")

# Characters by name, where the glyph alone would be unreadable or ambiguous.
_TATWEEL, _SUPERSCRIPT_ALEF = "\u0640", "\u0670"
_MADDAH, _HAMZA_ABOVE, _HAMZA_BELOW = "\u0653", "\u0654", "\u0655"
_SMALL_WAW, _SMALL_YEH = "\u06e5", "\u06e6"
_SMALL_HIGH_SEEN, _SMALL_LOW_SEEN, _SMALL_HIGH_YEH, _SMALL_HIGH_NOON = "\u06dc", "\u06e3", "\u06e7", "\u06e8"
_HAMZA, _ALEF, _ALEF_MADDAH, _ALEF_WASLA, _ALEF_MAKSURA = "\u0621", "\u0627", "\u0622", "\u0671", "\u0649"
_SAD, _NOON, _WAW, _YEH, _YEH_HAMZA = "\u0635", "\u0646", "\u0648", "\u064a", "\u0626"
_FULL_SIZE = {_SMALL_WAW: _WAW, _SMALL_YEH: _YEH}

_BASMALA_LETTERS = ["بسم", "الله", "الرحمن", "الرحيم"]
_OTHER_BASMALA_WORDS = {"باسم": "بسم", "الرحمان": "الرحمن"}

_PLAIN_LETTERS = "\u0621-\u063a\u0641-\u064a"  # hamza to ghain, feh to yeh
_VOWELS = "\u064b\u064c\u064d\u064e\u064f\u0650"
_SIMPLE_MARKS = f"{_VOWELS}\u0651\u0652{_SUPERSCRIPT_ALEF}"

_ORDER = (
    f"{_SMALL_HIGH_SEEN}{_SMALL_LOW_SEEN}{_SMALL_HIGH_YEH}{_SMALL_HIGH_NOON}",
    "\u0651",  # shadda
    _VOWELS,
    "\u06ea\u06eb\u06ec",  # imalah, ishmam, tasheel
    _SUPERSCRIPT_ALEF,
    _MADDAH,
    _HAMZA_ABOVE + _HAMZA_BELOW,
    "\u0652",  # sukun
    "\u06df\u06e0",  # letter that is not pronounced
    "\u06e2\u06ed",  # small meem
)
MARKS = "".join(_ORDER)
"""Every mark that can stand on a letter in some spelling."""
_RANK = {mark: rank for rank, marks in enumerate(_ORDER) for mark in marks}

_COMPOSED = {
    ("\u0627", _HAMZA_ABOVE): "\u0623",
    ("\u0627", _HAMZA_BELOW): "\u0625",
    ("\u0648", _HAMZA_ABOVE): "\u0624",
    ("\u064a", _HAMZA_ABOVE): "\u0626",
}
"""Letter and hamza that are one letter in every spelling, as in Unicode's composed form."""

_FROM_OUTSIDE = {
    # taken apart here and put together again letter by letter, so that both normal forms give one result
    "\u0622": "\u0627\u0653",
    "\u0623": "\u0627\u0654",
    "\u0624": "\u0648\u0654",
    "\u0625": "\u0627\u0655",
    "\u0626": "\u064a\u0654",
    # Persian and Urdu code points of letters that the Quran has
    "\u06cc": "\u064a",
    "\u06a9": "\u0643",
    "\u06aa": "\u0643",
    "\u06be": "\u0647",
    "\u06c1": "\u0647",
    "\u06d5": "\u0647",
    "\u06c0": "\u0647\u0654",
    "\u06c2": "\u0647\u0654",
    "\u06c3": "\u0629",
    "\u06d2": "\u064a",
    "\u06d3": "\u064a\u0654",
    # other encodings of the mushaf's marks (King Fahd Complex and its heirs)
    "\u0674": _HAMZA_ABOVE,
    "\u06e1": "\u0652",
    "\u06e4": _MADDAH,
    "\u08f0": "\u064b",
    "\u08f1": "\u064c",
    "\u08f2": "\u064d",
    "\ufdfd": " بِسْمِ اللَّهِ الرَّحْمَٰنِ الرَّحِيمِ ",  # the basmala as one character
    "\u06dd": " ",  # end of verse: a format character for Unicode, but here it separates words
}


class _Outside(dict[int, str]):
    """Code point -> its replacement, for every code point."""

    def __missing__(self, code: int) -> str:
        return _read_character(chr(code))


@lru_cache(maxsize=4096)
def _read_character(char: str) -> str:
    if char in _FROM_OUTSIDE:
        return _FROM_OUTSIDE[char]
    if re.match(f"[{_PLAIN_LETTERS}{MARKS}\u0671{_SMALL_WAW}{_SMALL_YEH}{_TATWEEL} ]", char):
        return char
    if "\ufb50" <= char <= "\ufdff" or "\ufe70" <= char <= "\ufefe":
        plain = unicodedata.normalize("NFKC", char)
        # the stand-alone form of a mark is a space and the mark
        return " " if plain == char else plain.lstrip(" ").translate(_OUTSIDE)
    category = unicodedata.category(char)
    # unknown marks, invisible characters and letters that the Quran lacks; everything else separates words
    return "" if category[0] in "ML" or category == "Cf" else " "


_OUTSIDE = _Outside()

_CANONICAL = {
    # a sufficient test, not a necessary one: the editions' own verses take this fast path
    "uthmani": re.compile(
        f"(?:[\u0621\u0623-\u063a\u0641-\u064a\u0671{_SMALL_WAW}{_SMALL_YEH}]"
        f"(?:(?<={_SAD})[{_SMALL_HIGH_SEEN}{_SMALL_LOW_SEEN}])?\u0651?[{_VOWELS}]?[\u06ea-\u06ec]?"
        f"{_SUPERSCRIPT_ALEF}?{_MADDAH}?\u0652?[\u06df\u06e0]?[\u06e2\u06ed]?"
        f"|{_TATWEEL}(?:{_HAMZA_ABOVE}[{_VOWELS}\u0652]?[\u06e2\u06ed]?|{_SUPERSCRIPT_ALEF}{_MADDAH}?"
        f"|[{_SMALL_HIGH_YEH}{_SMALL_HIGH_NOON}]\u0651?\u0650?)"
        "|(?<=[^ ]) (?=[^ ]))*"
    ),
    "diacritized": re.compile(
        f"(?:[{_PLAIN_LETTERS}]\u0651?[{_VOWELS}]?{_SUPERSCRIPT_ALEF}?\u0652?|(?<=[^ ]) (?=[^ ]))*"
    ),
}

_CLUSTER = re.compile(f"([^{MARKS} ])([{MARKS}]*)")
_MARKS_WITHOUT_LETTER = re.compile(f"(?:^|(?<= ))[{MARKS}]+")
_SIMPLE_MARK = re.compile(f"[{_SIMPLE_MARKS}]")
_HAMZAS = f"{_HAMZA_ABOVE}{_HAMZA_BELOW}"
# A tatweel is a seat if it carries a letter that has no other place in the word; otherwise it is ornament.
_ORNAMENTAL_TATWEEL = {
    "uthmani": re.compile(
        f"{_TATWEEL}(?![{MARKS}]*[{_HAMZAS}{_SUPERSCRIPT_ALEF}{_SMALL_HIGH_YEH}{_SMALL_HIGH_NOON}"
        f"{_SMALL_WAW}{_SMALL_YEH}])"
    ),
    "diacritized": re.compile(f"{_TATWEEL}(?![{MARKS}]*[{_HAMZAS}{_SMALL_HIGH_YEH}{_SMALL_HIGH_NOON}])"),
}
_SMALL_INSIDE = re.compile(f"[{_SMALL_WAW}{_SMALL_YEH}](?=[{MARKS}]*[^{MARKS} ])")


def spell(text: str, spelling: str) -> str:
    """Convert any text to one spelling.

    Args:
        text: words in any order of marks and any encoding; see the top of this file.
        spelling: one of `SPELLINGS`.

    Returns:
        Words with single spaces between, made of `alphabet(spelling)` only. Empty when nothing is left.
        Spelling it again changes nothing.

    Raises:
        QuranAsrError: no such spelling.
    """
    edition_of(spelling)
    if spelling == "letters":
        return _SIMPLE_MARK.sub("", spell(text, "diacritized"))
    if _CANONICAL[spelling].fullmatch(text):
        return text
    text = text.translate(_OUTSIDE)
    text = _ORNAMENTAL_TATWEEL[spelling].sub("", text)
    text = _MARKS_WITHOUT_LETTER.sub("", text)
    if spelling == "uthmani":
        text = _CLUSTER.sub(lambda letter: _uthmani_letter(letter[1], letter[2]), text)
    else:
        text = _SMALL_INSIDE.sub(lambda small: _FULL_SIZE[small[0]], text)
        text = _CLUSTER.sub(lambda letter: _simple_letter(letter[1], letter[2]), text)
    return " ".join(text.split())


def lost_letters(text: str) -> str:
    """The letters of a text that `spell` leaves out in every spelling, each once: Latin, Persian peh, ..."""
    return "".join(
        char
        for char in dict.fromkeys(text)
        if unicodedata.category(char)[0] == "L" and not _read_character(char).strip()
    )


def edition_of(spelling: str) -> EditionName:
    """The edition whose verses have this spelling.

    Raises:
        QuranAsrError: no such spelling.
    """
    if spelling not in SPELLINGS:
        raise QuranAsrError(f"no spelling `{spelling}`", remedy=f"the spellings are {', '.join(SPELLINGS)}")
    return "uthmani" if spelling == "uthmani" else "simple"


@lru_cache(maxsize=3)
def alphabet(spelling: str) -> frozenset[str]:
    """Every character of the Quran in this spelling, the space too.

    Raises:
        QuranAsrError: no such spelling.
    """
    verses = load_edition(edition_of(spelling)).verses.values()
    return frozenset().union(*(spell(verse, spelling) for verse in verses))


def separate_basmala(text: str) -> tuple[str, str]:
    """Separate the basmala from the beginning of a text in any spelling.

    Returns:
        (basmala, rest), both as they were written, without spaces around. The basmala is empty when the text
        does not begin with it, or when nothing else is there: then it is verse 1:1 itself, or part of 27:30.
    """
    words: list[str] = []
    for token in re.finditer(r"\S+", text):
        words += [_OTHER_BASMALA_WORDS.get(word, word) for word in spell(token[0], "letters").split()]
        if words == _BASMALA_LETTERS:
            rest = text[token.end() :].strip()
            return (text[: token.end()].strip(), rest) if spell(rest, "letters") else ("", text.strip())
        if words != _BASMALA_LETTERS[: len(words)]:
            break
    return "", text.strip()


def _compose(base: str, marks: set[str]) -> tuple[str, set[str]]:
    """Compose a letter and its hamza where they are one letter; otherwise it stays a hamza above."""
    if not marks & set(_HAMZAS):
        return base, marks
    hamza = _HAMZA_BELOW if base == _ALEF and _HAMZA_ABOVE not in marks else _HAMZA_ABOVE
    rest = marks - set(_HAMZAS)
    return (_COMPOSED[base, hamza], rest) if (base, hamza) in _COMPOSED else (base, rest | {_HAMZA_ABOVE})


@lru_cache(maxsize=4096)
def _uthmani_letter(base: str, written: str) -> str:
    """One letter with its marks, in the mushaf's spelling."""
    marks = set(written)
    if base != _SAD:  # elsewhere the small seen asks for a pause without breath
        marks -= {_SMALL_HIGH_SEEN, _SMALL_LOW_SEEN}
    letter, marks = _compose(base, marks)
    ordered = _in_order(marks)
    if base == _TATWEEL and _HAMZA_ABOVE in marks:
        ordered = _HAMZA_ABOVE + ordered.replace(_HAMZA_ABOVE, "")
    return letter + ordered


@lru_cache(maxsize=4096)
def _simple_letter(base: str, written: str) -> str:
    """One letter with its marks, in today's spelling; the mushaf's small letters become letters."""
    marks = set(written)
    if base in _FULL_SIZE:  # at the end of a word it lengthens a vowel, unless it has a vowel of its own
        return _FULL_SIZE[base] + _in_order(marks & set(_SIMPLE_MARKS)) if marks & set(_VOWELS) else ""
    letter, marks = _compose(_ALEF if base == _ALEF_WASLA else base, marks)
    if letter == _ALEF and _MADDAH in marks:
        letter = _ALEF_MADDAH
    if letter == _ALEF_MAKSURA and _HAMZA_ABOVE in marks:
        letter, marks = _YEH_HAMZA, marks - {_HAMZA_ABOVE}

    small = (_YEH if _SMALL_HIGH_YEH in marks else "") + (_NOON if _SMALL_HIGH_NOON in marks else "")
    ordered = _in_order(marks & {*_SIMPLE_MARKS, _HAMZA_ABOVE})
    if base == _TATWEEL:  # the seat is dropped; the letter that it carried has the marks
        seated = (_HAMZA if _HAMZA_ABOVE in marks else "") + small
        return seated + ordered.replace(_HAMZA_ABOVE, "")
    return letter + ordered.replace(_HAMZA_ABOVE, _HAMZA) + small


def _in_order(marks: set[str]) -> str:
    return "".join(sorted(marks, key=lambda mark: (_RANK[mark], mark)))
