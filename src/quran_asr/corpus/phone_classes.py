"""Phone classes of Arabic words and their usual durations.

Letters alone predict little: a madd is held four to six times as long as a vowel, the nasal of a doubled noon
twice, verses end on a drawn-out syllable, and the letters before some surahs are read as their names. The
spelling of the mushaf shows nearly all of it.
"""

from __future__ import annotations

import re
from functools import lru_cache

from quran_asr.records import VerseRef
from quran_asr.text.quran import load_quran
from quran_asr.text.spelling import MARKS, spell

KINDS = (
    "verses",
    "vowels",
    "tanwin",
    "long vowels",
    "madds",
    "full madds",
    "sukuns",
    "shaddas",
    "nasals",
    "words",
    "held ends",
    "open ends",
    "surah ends",
)
"""The phone classes, in the order of `SECONDS`."""

PhoneCounts = tuple[float, ...]
"""Count of each of `KINDS`."""

SECONDS: PhoneCounts = (0.24, 0.21, 0.30, 0.16, 1.24, 1.90, 0.16, 0.16, 0.69, 0.03, 0.93, 0.31, 0.85)
"""Seconds per phone of each of `KINDS`: mean of fits to four reciters (docs/results/audit.md). Reciters
differ mostly by one factor, so a fit starts here, and with few clips fits only the factor."""

_LETTERS = "\u0621-\u063a\u0641-\u064a\u0671"
_TATWEEL, _SHADDA, _SUKUN, _MADDAH, _SUPERSCRIPT_ALEF = "\u0640", "\u0651", "\u0652", "\u0653", "\u0670"
_NOON, _MEEM, _BEH, _WAW, _YEH = "\u0646", "\u0645", "\u0628", "\u0648", "\u064a"
_ALEFS, _SMALL_WAW_YEH, _SMALL_MEEMS = "\u0627\u0649", "\u06e5\u06e6", "\u06e2\u06ed"
_HIDING = "تثجدذزسشصضطظفقكبيو"
"""Before these a noon without vowel, or a tanwin, is a nasal that is held. Before noon and meem it is too,
and has a shadda."""

_VOWEL = re.compile("[\u064e-\u0650]")
_TANWIN = re.compile("[\u064b-\u064d]")
_LONG = re.compile(
    f"{_SUPERSCRIPT_ALEF}(?!{_MADDAH})|[{_SMALL_WAW_YEH}](?!{_MADDAH})"
    f"|\u064e[{_ALEFS}](?![{MARKS}])|\u064f{_WAW}(?![{MARKS}])|\u0650[{_YEH}\u0649](?![{MARKS}])"
)
_FULL_MADD = re.compile(f"{_MADDAH}{_TATWEEL}?[{_LETTERS}][{_SHADDA}{_SUKUN}]")
_NASAL = re.compile(
    f"[{_NOON}{_MEEM}]{_SHADDA}|{_NOON}[{_SMALL_MEEMS}]? ?(?=[{_HIDING}])|{_MEEM} ?(?={_BEH})"
    f"|[\u064b-\u064d][{_SMALL_MEEMS}]?[{_ALEFS}]? (?=[{_HIDING}])"
)
_HELD_END = re.compile(f"[{_SUPERSCRIPT_ALEF}{_ALEFS}{_WAW}{_YEH}]{_TATWEEL}?[{_LETTERS}][{MARKS}]*$")
_OPEN_END = re.compile(
    f"\u064b[{_SMALL_MEEMS}]?[{_ALEFS}]?$|\u064e[{_ALEFS}]$|[{_SUPERSCRIPT_ALEF}\u06df]{_MADDAH}?$"
)
_NAMED_LETTERS = re.compile(f"(?:[المصركهيعطسحقن]{_MADDAH}?)+(?= |$)")
_HELD_NAMES = "لمنصقسكع"
"""Letters whose names, such as lam, have a long vowel before a consonant: alone it is held in full."""


@lru_cache(maxsize=8192)
def phones_of_verse(ref: VerseRef) -> PhoneCounts:
    """Count the phones of a verse recited alone.

    Raises:
        QuranAsrError: there is no such verse.
    """
    quran = load_quran("uthmani")
    return _count(quran.verse(ref), ends_surah=ref.ayah == quran.ayahs(ref.surah))


@lru_cache(maxsize=128)
def phones_of_basmala() -> PhoneCounts:
    """Count the phones of the basmala before a surah."""
    return _count(load_quran("uthmani").basmala(2), ends_surah=False)


def phones_of_text(text: str) -> PhoneCounts:
    """Estimate the phones of words whose verse is not known, from the average per letter in the Quran.

    Args:
        text: in any spelling.
    """
    letters = len(spell(text, "letters").replace(" ", ""))
    return tuple(letters * share for share in _phones_per_letter())


@lru_cache(maxsize=1)
def _phones_per_letter() -> PhoneCounts:
    quran = load_quran("letters")
    letters = sum(len(verse.replace(" ", "")) for verse in quran.verses.values())
    counted = [phones_of_verse(ref) for ref in quran.refs]
    return tuple(sum(kind) / letters for kind in zip(*counted, strict=True))


def _count(verse: str, *, ends_surah: bool) -> PhoneCounts:
    """Count in a verse of the Uthmani edition, with a pause after it."""
    words = verse.count(" ") + 1
    named = _NAMED_LETTERS.match(verse)
    held_names = short_names = 0
    if named:
        names = named[0].replace(_MADDAH, "")
        held_names = sum(name in _HELD_NAMES for name in names)
        short_names = len(names) - held_names
        verse = verse[named.end() :].lstrip()
    # A shadda on the first letter joins it to the verse before; a maddah at the end needs a next word.
    verse = re.sub(f"^(.){_SHADDA}", r"\1", verse)
    verse = re.sub(f"{_MADDAH}([\u06df\u06e0]?)$", r"\1", verse)
    nasals = len(_NASAL.findall(verse))
    held_nasals = len(re.findall(f"[{_NOON}{_MEEM}]{_SHADDA}", verse))
    return (
        1.0,
        float(len(_VOWEL.findall(verse)) + held_names + short_names),
        float(len(_TANWIN.findall(verse))),
        float(len(_LONG.findall(verse)) + short_names),
        float(verse.count(_MADDAH) + held_names),
        float(len(_FULL_MADD.findall(verse)) + held_names),
        float(verse.count(_SUKUN) + held_names),
        float(verse.count(_SHADDA) - held_nasals),
        float(nasals),
        float(words),
        float(bool(_HELD_END.search(verse))),
        float(bool(_OPEN_END.search(verse))),
        float(ends_surah),
    )
