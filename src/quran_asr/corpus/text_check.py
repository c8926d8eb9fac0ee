"""Checks of manifest text: Arabic, equal to the named verses, known characters."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from quran_asr.corpus.manifest import each_line
from quran_asr.corpus.phone_classes import PhoneCounts, phones_of_basmala, phones_of_text, phones_of_verse
from quran_asr.errors import Finding
from quran_asr.records import Segment, VerseRef
from quran_asr.text.quran import load_quran
from quran_asr.text.spelling import SPELLINGS, alphabet, lost_letters, separate_basmala, spell

_HARMLESS = frozenset("\u0640\u06de\u06e9\u06dd\u200c\u200d\u200e\u200f\ufeff\n\t\r") | frozenset(
    chr(code) for code in range(0x06D6, 0x06DD)
)
"""Tatweel, marks of pause, division and prostration, joiners: every spelling leaves them out."""


def check_text(values: Mapping[str, Any], segment: Segment) -> list[tuple[str, str]]:
    """Problems of the text of a line.

    Args:
        values: the line as it was written.
        segment: the same line as it was read, in `letters`.

    Returns:
        (code, detail) of each reason; codes are those of `audit_rules.REASONS`.
    """
    written = values.get("text") or ""
    reasons = _characters(written)
    if written.strip() and segment.verses:
        theirs = load_quran("letters").text(segment.verses)
        if segment.text != theirs:
            reasons.append(("text-differs", f"not the words of {_names(segment.verses)}"))
        elif separate_basmala(written)[0] and not separate_basmala(theirs)[0]:
            reasons.append(("basmala-in-text", "the words before it are taken as not recited"))
        elif not _has_its_marks(written, segment):
            reasons.append(("marks-differ", f"the letters of {_names(segment.verses)} with other marks"))
    return reasons


def phones_of_segment(segment: Segment) -> PhoneCounts:
    """The phones of the words of a clip."""
    quran = load_quran("letters")
    verses = segment.verses
    if not verses or segment.text != quran.text(verses):
        if segment.text == spell(quran.basmala(2), "letters"):
            return phones_of_basmala()
        known = _verse_of_letters().get(segment.text)
        if known is None:
            return phones_of_text(segment.text)
        verses = (known,)
    return tuple(sum(kind) for kind in zip(*map(phones_of_verse, verses), strict=True))


@lru_cache(maxsize=1)
def _verse_of_letters() -> dict[str, VerseRef]:
    return {text: ref for ref, text in reversed(load_quran("letters").verses.items())}


def _characters(written: str) -> list[tuple[str, str]]:
    known = alphabet("uthmani") | alphabet("diacritized") | _HARMLESS
    odd = sorted(set(written) - known)
    # Letters that the spelling converts, such as a Persian kaf, become Arabic letters.
    foreign = [char for char in odd if unicodedata.category(char)[0] == "L" and not spell(char, "letters")]
    rest = [char for char in odd if char not in foreign]
    reasons = []
    if foreign:
        reasons.append(("foreign-letters", _named(foreign)))
    if rest:
        reasons.append(("odd-characters", _named(rest)))
    return reasons


def _named(characters: list[str]) -> str:
    shown = [f"U+{ord(char):04X} {unicodedata.name(char, '')}".rstrip() for char in characters[:5]]
    more = f" and {len(characters) - 5} more" if len(characters) > 5 else ""
    return ", ".join(shown) + more


def _names(verses: tuple[VerseRef, ...]) -> str:
    return str(verses[0]) if len(verses) == 1 else f"{verses[0]} to {verses[-1]}"


def _has_its_marks(written: str, segment: Segment) -> bool:
    return any(spell(written, one) == load_quran(one).text(segment.verses) for one in SPELLINGS)


MOST_SHOWN = 12


def unknown_characters_of(manifests: Sequence[str | Path]) -> Finding | None:
    """A warning where texts as written have letters that their references lack; None where none has.

    Unusable lines are skipped: reading the manifest reports them.

    Raises:
        QuranAsrError: a manifest is missing.
    """
    first, count = "", 0
    found: dict[str, None] = {}
    for manifest in manifests:
        for where, values in each_line(Path(manifest)):
            text = values.get("text")
            letters = lost_letters(text) if isinstance(text, str) else ""
            if letters:
                first = first or where
                count += 1
                found.update(dict.fromkeys(letters))
    if not count:
        return None
    shown = " ".join(f"`{letter}`" for letter in list(found)[:MOST_SHOWN])
    more = f" and {len(found) - MOST_SHOWN} more" if len(found) > MOST_SHOWN else ""
    return Finding(
        "warning",
        "foreign-letters",
        first,
        f"{count:,} {'text has' if count == 1 else 'texts have'} letters that the Quran does not have, and "
        f"that are left out of the reference: {shown}{more}",
        "write these words in Arabic letters, or remove the line; whole verses need only `verses`",
    )
