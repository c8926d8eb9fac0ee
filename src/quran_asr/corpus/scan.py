"""Builds a manifest from folders of recordings; reports every skipped file."""

from __future__ import annotations

import hashlib
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from quran_asr import audio
from quran_asr.corpus.manifest import refuse_other_file, write_manifest
from quran_asr.corpus.workers import processes
from quran_asr.errors import Finding, QuranAsrError
from quran_asr.level_meter import LevelMeter
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
        ".weba",
        ".mka",
        ".mkv",
        ".mov",
        ".3gp",
        ".amr",
        ".aiff",
        ".aif",
        ".au",
        ".caf",
        ".w64",
        ".ac3",
        ".avi",
    )
)
"""Suffixes of files that are expected to be recordings; `audio.probe` checks it."""

_ARCHIVE_ENDINGS = frozenset((".zip", ".rar", ".7z", ".tar", ".gz", ".tgz", ".bz2", ".xz"))

ISTIADHA = "أَعُوذُ بِاللَّهِ مِنَ الشَّيْطَانِ الرَّجِيمِ"
"""What is recited before a passage; not a verse."""

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
    """A file whose name gives its passage."""

    path: Path
    reciter: str
    kind: Kind
    verses: tuple[VerseRef, ...]
    """Empty for the basmala before a surah and for the isti'adha, which are not verses."""
    text: str
    """In the spelling `diacritized`."""


@dataclass(frozen=True, slots=True)
class Dropped:
    """A recording that is not used, and why."""

    path: Path
    reason: str
    """The kind of reason, by which files can be counted."""
    detail: str
    """One sentence about this file."""


@dataclass(frozen=True, slots=True)
class Ignored:
    """A file that by its name is not a recording."""

    path: Path
    what: str
    """`archive` or `other file`."""


def walk(folder: Path) -> Iterator[Recording | Dropped | Ignored]:
    """Every file under a folder except hidden ones, in the order of names; links are followed once.

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
    """The content of a file by its name and by the folders from the scanned one down to it."""
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
                path, "another riwaya than Hafs", f"its folder is {other[1]}: other words and numbers"
            )
        if _TRANSLATION.match(folder):
            return Dropped(path, "a translation", f"its folder is called {folder}")
    reciter = reciter_of(folders)
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
                return Dropped(path, "no such verse", f"no basmala precedes surah {ref.surah}")
            return Recording(path, reciter, "basmala", (), basmala)
        return Recording(path, reciter, "verse", (ref,), quran.verse(ref))
    except QuranAsrError as error:
        return Dropped(path, "no such verse", error.what)


def reciter_of(folders: Sequence[str]) -> str:
    """The nearest folder that names a reciter: `Alafasy_128kbps`, `Alafasy/128kbps` and `Alafasy/002`
    agree."""
    for folder in reversed(folders):
        name = _QUALITY.sub("", folder).strip("_- ")
        if name and not _NO_RECITER.fullmatch(name):
            return name
    return folders[0]


_CHUNK = 64
"""Files that one process checks between two reports."""


@dataclass(frozen=True, slots=True)
class LongClip:
    """A clip longer than recipes admit."""

    path: Path
    seconds: float


@dataclass(frozen=True, slots=True)
class ScanReport:
    """The result of a scan."""

    clips: int
    """Lines of the manifest; if 0, no manifest was written."""
    hours: float
    kinds: dict[str, int]
    """Number of clips of each kind: `verse`, `basmala` (before a surah), `istiadha`."""
    reciters: dict[str, tuple[int, float]]
    """Reciter -> (clips, hours)."""
    verses: int
    """Different verses."""
    dropped: tuple[Dropped, ...]
    """Recordings that are not in the manifest."""
    ignored: dict[str, int]
    """Counts of files that by their names are not recordings."""
    max_duration: float
    """Seconds."""
    over_long: tuple[LongClip, ...]
    """Clips longer than that. They are in the manifest; the recipe of a training excludes them."""
    notes: tuple[Finding, ...] = ()
    """Notes on decoded clips: silent, very quiet, clipped, or with channels that cancel."""

    @property
    def dropped_by_reason(self) -> dict[str, int]:
        return dict(Counter(drop.reason for drop in self.dropped).most_common())

    @property
    def over_long_hours(self) -> float:
        return sum(clip.seconds for clip in self.over_long) / 3600


def _outermost(folders: Sequence[str | Path]) -> list[str | Path]:
    """Without those inside another one or named twice: each file is looked at once."""
    places = [Path(folder).resolve() for folder in folders]
    return [
        folder
        for number, (folder, place) in enumerate(zip(folders, places, strict=True))
        if place not in places[:number] and not any(other in place.parents for other in places)
    ]


def scan(
    folders: Sequence[str | Path],
    to: str | Path,
    *,
    max_duration: float = 40.0,
    decode: bool = False,
    executor: Executor | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> ScanReport:
    """Find recordings in EveryAyah's layout, check each, and write a manifest of the readable ones.

    The same folders give the same bytes. The basmala before a surah (`SSS000`, `bismillah`) and the
    isti'adha (`audhubillah`) become lines with their text and no verses. Of a verse that a
    reciter has in two qualities or formats, the larger file is kept.

    Args:
        folders: each a reciter's folder, or a folder with reciters' folders at any depth.
        to: the manifest; missing folders are created.
        max_duration: seconds; longer clips are kept and reported.
        decode: decode every file to its end, which also finds damage in the middle (some 400 times real
            time for each processor); otherwise only its beginning and end are read.
        executor: where files are checked; a process for each processor if None.
        on_progress: called with (files checked, files).

    Raises:
        QuranAsrError: a folder does not exist, or `to` is something else than a manifest.
        OSError: the manifest cannot be written; an old one is untouched.
    """
    refuse_other_file(to)
    found = [what for folder in _outermost(folders) for what in walk(Path(folder))]
    recordings = [what for what in found if isinstance(what, Recording)]
    dropped = [what for what in found if isinstance(what, Dropped)]
    seconds, broken, notes = _look(recordings, decode, executor, on_progress)
    dropped += broken
    kept, copies = _without_copies([what for what in recordings if what.path in seconds])
    dropped += copies
    lines = {str(what.path) for what in kept}
    report = ScanReport(
        clips=len(kept),
        hours=sum(seconds[what.path] for what in kept) / 3600,
        kinds=dict(Counter(what.kind for what in kept)),
        reciters=_reciters(kept, seconds),
        verses=len({what.verses for what in kept if what.verses}),
        dropped=tuple(sorted(dropped, key=lambda drop: (drop.reason, drop.path))),
        ignored=dict(sorted(Counter(what.what for what in found if isinstance(what, Ignored)).items())),
        max_duration=max_duration,
        notes=tuple(note for note in notes if note.where in lines),
        over_long=tuple(
            LongClip(what.path, seconds[what.path]) for what in kept if seconds[what.path] > max_duration
        ),
    )
    if kept:
        write_manifest(to, [_line(what, seconds[what.path]) for what in kept], _meta(report))
    return report


def _look(
    recordings: Sequence[Recording],
    decode: bool,
    executor: Executor | None,
    on_progress: Callable[[int, int], None] | None,
) -> tuple[dict[Path, float], list[Dropped], list[Finding]]:
    """(seconds of each readable file, the other files, notes on the decoded ones)."""
    paths = [what.path for what in recordings]
    chunks = [paths[start : start + _CHUNK] for start in range(0, len(paths), _CHUNK)]
    own = executor is None and bool(chunks)
    pool = processes(min(os.cpu_count() or 1, len(chunks))) if own else executor
    seconds: dict[Path, float] = {}
    broken: list[Dropped] = []
    notes: list[Finding] = []
    try:
        for done in as_completed([pool.submit(_look_at, chunk, decode) for chunk in chunks] if pool else []):
            for path, length, what, found in done.result():
                notes += found
                if length is None:
                    broken.append(Dropped(path, what.split(":")[0].split(" (")[0], what))
                else:
                    seconds[path] = length
            if on_progress:
                on_progress(len(seconds) + len(broken), len(paths))
    except BrokenProcessPool as error:
        raise QuranAsrError(
            "a process that looked at recordings died (out of memory, or a decoder crashed)",
            remedy="scan the folders one by one to find the file",
        ) from error
    finally:
        if own and pool:
            pool.shutdown(cancel_futures=True)
    return seconds, broken, sorted(notes, key=lambda note: note.where)


def _look_at(paths: Sequence[Path], decode: bool) -> list[tuple[Path, float | None, str, list[Finding]]]:
    """(path, its seconds or None, its error, its note) of each."""
    looked: list[tuple[Path, float | None, str, list[Finding]]] = []
    for path in paths:
        try:
            length = audio.probe(path).seconds
            meter = LevelMeter()
            if decode:
                audio.read(path, on_stored=meter.add)
            looked.append((path, length, "", meter.notes(str(path)) if decode else []))
        except QuranAsrError as error:
            looked.append((path, None, error.what, []))
        except OSError as error:
            looked.append((path, None, error.strerror or str(error), []))
    return looked


def _without_copies(recordings: Iterable[Recording]) -> tuple[list[Recording], list[Dropped]]:
    """One file per verse and reciter, and one per recording of a formula: (kept in order, dropped).

    EveryAyah has most reciters in several qualities, and the same basmala before 112 surahs.
    """
    by_size = sorted(recordings, key=lambda what: (-what.path.stat().st_size, what.path))
    first: dict[tuple[object, ...], Recording] = {}
    dropped = []
    for what in by_size:
        same = what.verses or hashlib.sha256(what.path.read_bytes()).hexdigest()
        taken = first.setdefault((what.reciter, what.text, same), what)
        if taken is not what:
            dropped.append(Dropped(what.path, "a copy", f"the same reciter and words as {taken.path}"))
    return sorted(first.values(), key=lambda what: (what.reciter, what.verses, what.path)), dropped


def _reciters(kept: Iterable[Recording], seconds: dict[Path, float]) -> dict[str, tuple[int, float]]:
    reciters: dict[str, tuple[int, float]] = {}
    for what in kept:
        clips, hours = reciters.get(what.reciter, (0, 0.0))
        reciters[what.reciter] = (clips + 1, hours + seconds[what.path] / 3600)
    return reciters


def _line(what: Recording, seconds: float) -> dict[str, Any]:
    return {
        "audio_filepath": str(what.path),
        "offset": 0.0,
        "duration": round(seconds, 4),
        "text": what.text,
        "verses": [str(ref) for ref in what.verses],
        "reciter": what.reciter,
        "riwaya": "hafs",
        **({} if what.kind == "verse" else {"kind": what.kind}),
    }


def _meta(report: ScanReport) -> dict[str, Any]:
    quran = load_quran("diacritized")
    return {
        "made_by": "corpus scan",
        "spelling": quran.spelling,
        "edition": quran.edition_name,
        "kinds": report.kinds,
        "verses": report.verses,
        "reciters": {
            name: {"clips": clips, "hours": round(hours, 4)}
            for name, (clips, hours) in report.reciters.items()
        },
        "max_duration": report.max_duration,
        "over_long": [
            {"file": str(clip.path), "seconds": round(clip.seconds, 2)} for clip in report.over_long
        ],
        "dropped_by_reason": report.dropped_by_reason,
        "dropped": [
            {"file": str(drop.path), "reason": drop.reason, "detail": drop.detail} for drop in report.dropped
        ],
        "ignored": report.ignored,
    }
