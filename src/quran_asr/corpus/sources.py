"""What a recording is by its name, in the layout of everyayah.com: `<reciter>/SSSAAA.<ext>`."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from quran_asr.findings import QuranAsrError
from quran_asr.records import VerseRef
from quran_asr.text.quran import load_quran

LAYOUT = "<reciter>/SSSAAA.<ext>, such as Alafasy_128kbps/002255.mp3 for verse 2:255"

SOUND_ENDINGS = frozenset(
    (
        ".mp3",
        ".wav",
        ".flac",
        ".ogg",
        ".oga",
        ".opus",
        ".m4a",
        ".aac",
        ".mp4",
        ".wma",
        ".webm",
        ".amr",
        ".aiff",
    )
)
"""A file with one of these is expected to be a recording. What it really is, `audio.probe` says."""

_ARCHIVE_ENDINGS = frozenset((".zip", ".rar", ".7z", ".tar", ".gz", ".tgz", ".bz2", ".xz"))

ISTIADHA = "أَعُوذُ بِاللَّهِ مِنَ الشَّيْطَانِ الرَّجِيمِ"
"""What is said before reciting; not a verse."""

_QUALITY = re.compile(r"[_\- ]*\d+ ?k(?:b|bps|bit|bits)?(?=$|[_\- ])", re.IGNORECASE)
_NO_RECITER = re.compile(
    r"\d+|mp3|wav|flac|ogg|opus|audio|verse[_-]?by[_-]?verse|verses|ayahs?", re.IGNORECASE
)
_OTHER_RIWAYA = re.compile(r"(?:^|[^a-z])(warsh|qaloo?n|qalun)(?:[^a-z]|$)", re.IGNORECASE)
_TRANSLATION = re.compile(r"(?:translations?|english|multilanguage)(?:[^a-z]|$)", re.IGNORECASE)

NO_VERSE = "no verse in its name"

Kind = Literal["verse", "basmala", "istiadha"]


@dataclass(frozen=True, slots=True)
class Recording:
    """A file whose name says what is recited in it."""

    path: Path
    reciter: str
    kind: Kind
    verses: tuple[VerseRef, ...]
    """Empty for the basmala before a surah and for the isti'adha: they are no verses."""
    text: str
    """In the spelling `diacritized`."""


@dataclass(frozen=True, slots=True)
class Dropped:
    """A recording that is not used, and why."""

    path: Path
    reason: str
    """The kind of reason, equal for equal cases, so that they can be counted."""
    detail: str
    """One sentence about this file."""


@dataclass(frozen=True, slots=True)
class Ignored:
    """A file that is no recording by its name."""

    path: Path
    what: str
    """`archive` or `other file`."""


def walk(folder: Path) -> Iterator[Recording | Dropped | Ignored]:
    """Every file under a folder, hidden ones left out, in the order of names; links are followed once.

    Raises:
        QuranAsrError: there is no such folder.
    """
    if not folder.is_dir():
        what = "a file, not a folder of recordings" if folder.exists() else "no such folder"
        raise QuranAsrError(what, where=str(folder), remedy=f"the layout is {LAYOUT}")
    seen: set[str] = set()
    for place, folders, files in os.walk(folder, followlinks=True):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        real = os.path.realpath(place)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        for name in sorted(files):
            if not name.startswith("."):
                yield classify(Path(place, name), folder)


def classify(path: Path, scanned: Path) -> Recording | Dropped | Ignored:
    """What a file is by its name and by the folders between it and the scanned one (that one included)."""
    try:
        str(path).encode()
    except UnicodeEncodeError:  # a manifest could not name it
        shown = Path(os.fsencode(path).decode(errors="replace"))
        return Dropped(shown, "name is not UTF-8", "rename the file or its folder")
    ending = path.suffix.lower()
    if ending not in SOUND_ENDINGS:
        return Ignored(path, "archive" if ending in _ARCHIVE_ENDINGS else "other file")
    folders = (scanned.resolve().name, *path.parent.relative_to(scanned).parts)
    for folder in folders:
        if other := _OTHER_RIWAYA.search(folder):
            return Dropped(
                path, "another riwaya than Hafs", f"its folder says {other[1]}: other words and numbers"
            )
        if _TRANSLATION.match(folder):
            return Dropped(path, "a translation", f"its folder is called {folder}")
    reciter = _reciter(folders)
    stem = path.stem.lower()
    quran = load_quran("diacritized")
    if stem in ("audhubillah", "bismillah"):
        text = ISTIADHA if stem == "audhubillah" else quran.verse(VerseRef(1, 1))
        return Recording(path, reciter, "istiadha" if stem == "audhubillah" else "basmala", (), text)
    if not re.fullmatch(r"[0-9]{6}", stem):
        return Dropped(path, NO_VERSE, NO_VERSE)
    ref = VerseRef(int(stem[:3]), int(stem[3:]))
    try:
        if ref.ayah == 0:
            basmala = quran.basmala(ref.surah)
            if not basmala:
                return Dropped(path, "no such verse", f"no basmala stands before surah {ref.surah}")
            return Recording(path, reciter, "basmala", (), basmala)
        return Recording(path, reciter, "verse", (ref,), quran.verse(ref))
    except QuranAsrError as error:
        return Dropped(path, "no such verse", error.what)


def _reciter(folders: tuple[str, ...]) -> str:
    """The nearest folder that names somebody: `Alafasy_128kbps`, `Alafasy/128kbps`, `Alafasy/002` are one."""
    for folder in reversed(folders):
        name = _QUALITY.sub("", folder).strip("_- ")
        if name and not _NO_RECITER.fullmatch(name):
            return name
    return folders[0]
