"""The Quran in one spelling: verses, words, basmalas."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

from quran_asr.errors import QuranAsrError
from quran_asr.records import VerseRef
from quran_asr.text.editions import SURAHS, EditionName, load_edition
from quran_asr.text.spelling import edition_of, spell


@dataclass(frozen=True, slots=True, eq=False)
class Quran:
    """All verses of one edition in one spelling. Made by `load_quran`."""

    spelling: str
    """One of `spelling.SPELLINGS`."""
    edition_name: EditionName
    """The edition that the spelling is made from."""
    refs: tuple[VerseRef, ...]
    """All 6,236 verses, in the order of the mushaf."""
    verses: dict[VerseRef, str]
    basmalas: dict[int, str]
    lengths: tuple[int, ...]
    """Number of verses of each surah; surah 1 is `lengths[0]`."""

    def verse(self, ref: VerseRef) -> str:
        """The words of one verse, separated by single spaces; never with the basmala before verse 1.

        Raises:
            QuranAsrError: there is no such verse.
        """
        try:
            return self.verses[ref]
        except KeyError:
            last = self.ayahs(ref.surah)
            raise QuranAsrError(
                f"there is no verse {ref}: surah {ref.surah} has {last} verses",
                remedy=f"write {ref.surah}:1 to {ref.surah}:{last}",
            ) from None

    def text(self, refs: Iterable[VerseRef]) -> str:
        """The words of several verses in the given order, joined by a space.

        Raises:
            QuranAsrError: one of them does not exist.
        """
        return " ".join(self.verse(ref) for ref in refs)

    def ayahs(self, surah: int) -> int:
        """How many verses a surah has.

        Raises:
            QuranAsrError: there is no such surah.
        """
        if not 1 <= surah <= SURAHS:
            raise QuranAsrError(f"there is no surah {surah}", remedy=f"surahs are numbered 1 to {SURAHS}")
        return self.lengths[surah - 1]

    def basmala(self, surah: int) -> str:
        """The basmala before verse 1 of a surah; empty for 1 (there it is verse 1) and 9 (it has none).

        Raises:
            QuranAsrError: there is no such surah.
        """
        self.ayahs(surah)
        return self.basmalas.get(surah, "")


def load_quran(spelling: str = "diacritized") -> Quran:
    """Read the Quran in one spelling. The same object is returned for the same spelling.

    Raises:
        QuranAsrError: no such spelling, or the text file is damaged.
    """
    return _load(spelling)


@lru_cache(maxsize=3)
def _load(spelling: str) -> Quran:
    edition = load_edition(edition_of(spelling))
    lengths = [0] * SURAHS
    for ref in edition.verses:
        lengths[ref.surah - 1] += 1
    verses, basmalas = edition.verses, edition.basmalas
    if spelling == "letters":  # the others are those that the editions are written in
        verses = {ref: spell(verse, spelling) for ref, verse in verses.items()}
        basmalas = {surah: spell(basmala, spelling) for surah, basmala in basmalas.items()}
    return Quran(
        spelling=spelling,
        edition_name=edition.name,
        refs=tuple(edition.verses),
        verses=verses,
        basmalas=basmalas,
        lengths=tuple(lengths),
    )
