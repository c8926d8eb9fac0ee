"""The two editions of the Quran's text in the package: Tanzil's Uthmani and simple files.

The files are stored byte for byte as Tanzil publishes them. A modified file is refused, so that no result
rests on an edited text. Any conversion happens after reading, in `spelling.py`.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from typing import Literal
from xml.etree import ElementTree

from quran_asr.errors import QuranAsrError
from quran_asr.records import VerseRef

EditionName = Literal["uthmani", "simple"]

SURAHS = 114
VERSES = 6236

TITLES = {
    "uthmani": "Tanzil Quran Text (Uthmani, Version 1.1)",
    "simple": "Tanzil Quran Text (Simple, Version 1.1)",
}
CHECKSUMS = {
    "uthmani": "dc4e68cb5a6645c5d938517ceb4c3d2c0373adb84cc514874f30d7bc22cb3f07",
    "simple": "c41ea2e6d18d07dbf58f9575bde74397c47daedc03e052ee47d10e03d7c19556",
}
LINK = "https://tanzil.net"


@dataclass(frozen=True, slots=True, eq=False)
class Edition:
    """One published text of the Quran, exactly as published."""

    name: EditionName
    title: str
    """The publisher's name for it, with its version."""
    notice: str
    """The publisher's copyright notice and terms of use, which must accompany the text."""
    link: str
    """Address at which the publisher maintains the text."""
    verses: dict[VerseRef, str]
    """All 6,236 verses in order. Only 1:1 begins with the basmala."""
    chapter_names: tuple[str, ...]
    """In Arabic; surah 1 is `chapter_names[0]`."""
    basmalas: dict[int, str]
    """Surah -> the basmala written before its first verse: 112 surahs, all but 1 (there it is verse 1) and 9.
    Surahs 95 and 97 write it with a shadda on the ba."""


@lru_cache(maxsize=2)
def load_edition(name: EditionName) -> Edition:
    """Read one edition.

    Args:
        name: `uthmani` (the spelling of the mushaf) or `simple` (today's spelling, with all vowels).

    Raises:
        QuranAsrError: no such edition, or its file is missing or is not the published one.
    """
    if name not in CHECKSUMS:
        raise QuranAsrError(f"no edition `{name}`", remedy=f"the editions are {', '.join(CHECKSUMS)}")
    source = files("quran_asr.text") / "data" / f"quran-{name}.xml"
    try:
        content = source.read_bytes()
    except OSError as error:
        raise _damaged(str(source), f"cannot be read ({error.strerror or error})") from error
    return read_edition(name, content, where=str(source))


def read_edition(name: EditionName, content: bytes, *, where: str) -> Edition:
    """Make an edition from the bytes of its file.

    Raises:
        QuranAsrError: the bytes are not those that Tanzil published.
    """
    found = hashlib.sha256(content).hexdigest()
    if found != CHECKSUMS[name]:
        raise _damaged(where, f"is not the text that Tanzil published (sha256 {found[:12]}...)")

    written = content.decode("utf-8")
    notice = written[written.index("<!--") + len("<!--") : written.index("-->")].strip()
    surahs = list(ElementTree.fromstring(content))
    verses: dict[VerseRef, str] = {}
    basmalas: dict[int, str] = {}
    for number, surah in enumerate(surahs, start=1):
        for ayah, verse in enumerate(surah, start=1):
            verses[VerseRef(number, ayah)] = verse.attrib["text"]
            if "bismillah" in verse.attrib:
                basmalas[number] = verse.attrib["bismillah"]
    if len(surahs) != SURAHS or len(verses) != VERSES:
        raise _damaged(where, f"has {len(surahs)} surahs and {len(verses)} verses, not {SURAHS} and {VERSES}")
    names = tuple(surah.attrib["name"] for surah in surahs)
    return Edition(name, TITLES[name], notice, LINK, verses, names, basmalas)


def _damaged(where: str, what: str) -> QuranAsrError:
    return QuranAsrError(f"the text of the Quran {what}", where=where, remedy="install quran-asr again")
