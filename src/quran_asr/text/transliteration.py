"""The words of the Quran by their pronounced consonants, and queries in Latin letters converted to these.

People write Arabic in Latin letters in many ways (`rahman`, `rahmaan`; `ilayhi`, `ilaihi`; `ar-rahman`,
`al-rahman`), but nearly all agree in the consonants. So the Quran is reduced to the pronounced consonants,
each Latin consonant matches the Arabic ones that people write with it, and vowels only rank the matches.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from difflib import SequenceMatcher
from functools import lru_cache
from itertools import groupby

TANWIN = "~"
"""Represents the n of a tanwin in `consonants`, which people write or leave out."""

_VOWELS = "\u064b\u064c\u064d\u064e\u064f\u0650"
_SHADDA = "\u0651"
_SUN_LETTERS = "تثدذرزسشصضطظلن"

_LETTER_NAMES = {
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
_SPELLED_OUT = re.compile(f"(?<![^ \n])[{''.join(_LETTER_NAMES)}]+(?![^ \n])")
"""الم, يس, ق: the only words without a vowel sign. They are read letter by letter."""

_BY_NAME = {
    re.sub("[\u064b-\u0652]", "", name.replace("أ", "ا")): letter for letter, name in _LETTER_NAMES.items()
}
_READ_BY_LETTER = frozenset("الم المص الر المر كهيعص طه طسم طس يس ص حم عسق حمعسق ق ن".split())


def read_letter_names(letters: str) -> str:
    """The letters before some surahs where their names are written: الم for `الف لام ميم`, with or without
    hamzas. Other words stay as they are.

    Args:
        letters: words in the spelling `letters`.
    """
    words: list[str] = []
    for named, run in groupby(letters.split(), key=lambda word: _bare_name(word) in _BY_NAME):
        written = list(run)
        joined = "".join(_BY_NAME[_bare_name(word)] for word in written) if named else ""
        words += [joined] if joined in _READ_BY_LETTER else written
    return " ".join(words)


def _bare_name(word: str) -> str:
    return word.replace("أ", "ا").removesuffix("ء")


# alefs, hamzas and ain are omitted, or written with marks that people leave out
_SILENT = dict.fromkeys(map(ord, "اأإآءؤئىٱع\u064e\u064f\u0650\u0651\u0652\u0670"), "")
_TANWINS = dict.fromkeys(map(ord, "\u064b\u064c\u064d"), TANWIN)


def consonants(diacritized: str) -> str:
    """The consonants that are pronounced, in Arabic letters.

    Without long vowels, diphthongs, hamza and ain, and without the l of the article before a sun letter.
    Spaces and line feeds stay, so that words can be counted; a word may become empty.

    Args:
        diacritized: words in the spelling `diacritized`.
    """
    text = _SPELLED_OUT.sub(lambda word: "".join(_LETTER_NAMES[letter] for letter in word[0]), diacritized)
    text = re.sub(f"ل(?=[{_SUN_LETTERS}]{_SHADDA})", "", text)
    text = re.sub(f"[وي](?![{_VOWELS}{_SHADDA}])", "", text)
    text = re.sub("ة(?=[^ \n]*(?:\n|$))", "ه", text)
    return text.translate(_SILENT | _TANWINS)


@dataclass(frozen=True, slots=True)
class Consonant:
    """One consonant of a query."""

    letters: str
    """The Arabic letters that it may represent."""
    doubled: bool = False
    """Written twice: one letter with a shadda, or two letters where words meet."""
    optional: bool = False
    apart: tuple[str, str] | None = None
    """The letters of two consonants that are written like this one: those of s and h in `ashab`."""


# The longer spelling first. z and s also represent the interdental letters, as in Turkey, Iran and
# Indonesia.
_WRITTEN = {
    "sh": "ش",
    "sy": "ش",
    "ch": "شخ",
    "kh": "خ",
    "gh": "غ",
    "dz": "ذز",
    "ts": "ث",
    "th": "ثذةت",
    "dh": "ذظضد",
    "zh": "ظذ",
    "b": "ب",
    "p": "ب",
    "t": "تطة",
    "j": "ج",
    "g": "غجق",
    "h": "هحة",
    "d": "دضذ",
    "r": "ر",
    "z": "زذظض",
    "s": "سصث",
    "f": "ف",
    "q": "ق",
    "k": "كقخ",
    "c": "جك",
    "x": "خ",
    "l": "ل",
    "m": "م",
    "n": "ن" + TANWIN,
    "w": "و",
    "v": "و",
    "y": "ي",
}
_TOKEN = re.compile("|".join([*_WRITTEN, "L", "H", "[aeiou]+"]))


def plain_latin(query: str) -> str:
    """Lower-case words of a to z: without accents, apostrophes, hyphens and other marks."""
    decomposed = unicodedata.normalize("NFKD", query.casefold())
    bare = re.sub("[\u0300-\u036f’‘'`ʿʾʻʼˈ]", "", decomposed)
    return " ".join(re.sub("[^a-z]+", " ", bare).split())


def read_latin(query: str, *, loose: bool = False) -> tuple[Consonant, ...]:
    """The consonants of words in Latin letters, as `consonants` for the Quran.

    Args:
        query: the words.
        loose: also read what is less often meant: s and h in `ashab`, no consonant for the y of `shay'in` (a
            diphthong before a hamza), a teh marbuta where a word ends in a (`hasana`), one doubled consonant
            in the kkh of `musakkharat`, and an article before a sun letter in `walshams`.
    """
    # before a sun letter the l of the article is written by some and never pronounced
    latin = re.sub(r"(?<=[aeiou])l(?= [tdrzsn])", "L", plain_latin(query))
    latin = re.sub(r"\b([aeiu])l(?=[tdrzsn])", r"\1L", latin)
    if loose:
        latin = re.sub(r"([dgkstz])(?=\1h)", "", latin)
        latin = re.sub(r"\b([wfbkl][aiu]{1,2})l(?=[tdrzsn])", r"\1L", latin)
        latin = re.sub(r"(?<=[a-z]a)\b", "H", latin)
    latin = latin.replace(" ", "")
    tokens = _TOKEN.findall(latin)
    read: list[Consonant] = []
    for index, token in enumerate(tokens):
        following = tokens[index + 1] if index + 1 < len(tokens) else ""
        before = tokens[index - 1] if index else ""
        vowel_follows = following[:1] in set("aeiou") and following != ""
        if token[0] in "aeiou":
            if re.fullmatch("[iy]+[aeu]+|ii+", token):
                read.append(Consonant("ي", optional=True))
            elif re.fullmatch("[uo]+[aei]+", token):
                read.append(Consonant("و", optional=True))
        elif token in "wvy" and not vowel_follows and following != token:
            # second half of a diphthong (yawm, alayhim), or the long vowel of `iy`, `uw`
            if not following and before:
                read.append(Consonant(_WRITTEN[token], optional=True))
        elif token == before:
            read[-1:] = [Consonant(_WRITTEN[token], doubled=True)]
        elif loose and token in ("w", "y") and before.endswith("a"):
            read.append(Consonant(_WRITTEN[token], optional=True))
        elif loose and len(token) == 2:
            apart = _WRITTEN[token[0]], _WRITTEN.get(token[1], "")
            read.append(Consonant(_WRITTEN[token], apart=apart if all(apart) else None))
        else:
            read.append(Consonant(_WRITTEN[token.lower()], optional=token in "LH"))
    return tuple(read)


def likeness(query: str, diacritized: str) -> float:
    """Phonetic similarity of a query in Latin letters and words of the Quran, vowels included: 0 to 1."""
    phones, words = _phones(query), _romanized(diacritized)
    at_pause = re.sub("[aiu]n?$", "", words)
    return max(
        SequenceMatcher(None, phones, words, autojunk=False).ratio(),
        SequenceMatcher(None, phones, at_pause, autojunk=False).ratio(),
    )


_ROMAN = {
    **dict(zip("بتثجحخدذرزسشصضطظغفقكلمنهوي", "bt3jh5d4rzscsdtzgfqklmnhwy", strict=True)),
    **dict(zip("ةآ\u064e\u064f\u0650\u0670", "taauia", strict=True)),
    **dict(zip("\u064b\u064c\u064d", ("an", "un", "in"), strict=True)),
}
"""One character per phone: 3 is th, 4 dh, 5 kh, c sh."""


@lru_cache(maxsize=4096)
def _romanized(diacritized: str) -> str:
    text = _SPELLED_OUT.sub(lambda word: "".join(_LETTER_NAMES[letter] for letter in word[0]), diacritized)
    text = re.sub(f"ل(?=[{_SUN_LETTERS}]{_SHADDA})", "", text)
    text = re.sub(f"(?<=\u0650)ي(?![{_VOWELS}{_SHADDA}])|(?<=\u064f)و(?![{_VOWELS}{_SHADDA}])", "", text)
    return _ONCE.sub(r"\1", "".join(_ROMAN.get(char, "") for char in text))


def _phones(query: str) -> str:
    latin = plain_latin(query).replace(" ", "")
    for written, same in _PHONES:
        latin = re.sub(written, same, latin)
    return _ONCE.sub(r"\1", latin)


_ONCE = re.compile(r"(.)\1+")


_PHONES = (
    ("sh|sy", "c"),
    ("th|ts", "3"),
    ("dh|dz", "4"),
    ("kh", "5"),
    ("gh", "g"),
    ("ee|iy(?![aeiou])", "i"),
    ("oo|ou|uw(?![aeiou])", "u"),
    ("e", "i"),
    ("o", "u"),
    ("(?<=a)i", "y"),
    ("(?<=a)u", "w"),
)
