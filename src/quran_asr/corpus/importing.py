"""Import of corpora in other layouts: recordings and a manifest.

Recordings inside parquet, arrow and zip files become files below `audio/`; those that are files, or members
of plain tar shards, stay where they are. A finished unit has a record, and is not read again when the command
is repeated. Unused rows are listed with the reason.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import Executor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from quran_asr import audio
from quran_asr.corpus.manifest import LONGEST_SECONDS, write_manifest
from quran_asr.corpus.sources import (
    GOOD_LABELS,
    MISSING,
    READ_BY_LAYOUT,
    ROLES,
    Kind,
    Role,
    Row,
    Unit,
    guess_columns,
    number_of,
    read_rows,
)
from quran_asr.errors import QuranAsrError
from quran_asr.files import parse_json, refuse_foreign, sweep, unfinished_path, write_atomically
from quran_asr.locks import locked
from quran_asr.records import VerseRef
from quran_asr.shards import is_recording, state_of
from quran_asr.text.passages import parse_range
from quran_asr.text.quran import load_quran
from quran_asr.text.search import find
from quran_asr.text.spelling import separate_basmala, spell
from quran_asr.text.surah_names import find_surah

MANIFEST, RECORDS, AUDIO = "manifest.jsonl", "imported", "audio"
_ENDINGS = {"vorbis": "ogg"}
"""Format -> file suffix, where it differs."""
SHORTEST_PART = 4
"""Words of a part of a verse, where no surah is named. Of 5,575 runs of four words in Arabic translations of
programs none is in exactly one place of the Quran, of 7,849 runs of three words one is, of two words 37."""


@dataclass(frozen=True, slots=True)
class DroppedRow:
    """A row that is not in the manifest, and why."""

    row: str
    reason: str
    """The same for the same cause, so that rows can be counted by it."""
    detail: str


@dataclass(frozen=True, slots=True)
class Corpus:
    """A corpus in another layout, and the meaning of its columns."""

    units: tuple[Unit, ...]
    names: tuple[str, ...]
    """All columns of its first unit that has rows."""
    columns: dict[Role, str]

    @property
    def kinds(self) -> tuple[Kind, ...]:
        return tuple(dict.fromkeys(unit.kind for unit in self.units))

    @property
    def unused(self) -> tuple[str, ...]:
        """The columns of `names` that are not read."""
        read = {"verses", *self.columns.values()}
        read = read.union(*(READ_BY_LAYOUT.get(kind, frozenset()) for kind in self.kinds))
        return tuple(name for name in self.names if name not in read)


@dataclass(frozen=True, slots=True)
class ImportReport:
    """The result of an import."""

    manifest: Path | None
    """None if no row could be used; then nothing was written."""
    clips: int
    hours: float
    reciters: int
    with_verses: int
    """Clips whose text occurs in exactly one place of the Quran."""
    dropped: tuple[DroppedRow, ...]
    kept_units: int
    """Units finished by an earlier run."""

    @property
    def dropped_by_reason(self) -> dict[str, int]:
        return dict(Counter(one.reason for one in self.dropped).most_common())


def look_at(units: Sequence[Unit], chosen: Mapping[Role, str]) -> Corpus:
    """Decide what the columns of a corpus mean.

    Args:
        units: of `sources.find_units`, at least one.
        chosen: columns named by the user; an empty name means that there is none.

    Raises:
        QuranAsrError: a chosen column does not exist, or neither text nor verses are found.
    """
    names, guessed = guess_columns(units)
    where = str(units[0].path)
    for role, name in chosen.items():
        if name and name not in names:
            raise QuranAsrError(
                f"no column `{name}` for {role}", where=where, remedy=f"there are {', '.join(names)}"
            )
    columns = {role: name for role in ROLES if (name := chosen.get(role, guessed.get(role, "")))}
    if not {"text", "verse", "ayah"} & set(columns) and "verses" not in names:
        raise QuranAsrError(
            "no column seems to hold text or verses",
            where=where,
            remedy=f"name it: --column text=NAME; there are {', '.join(names)}",
        )
    return Corpus(tuple(units), names, columns)


def refuse_unused_labels(corpus: Corpus, labels: Collection[str]) -> None:
    """Refuse labels that no column would be compared with.

    Raises:
        QuranAsrError: there are labels, and no label column is in use.
    """
    if labels and "label" not in corpus.columns:
        raise QuranAsrError(
            f"no label column is in use, so `--label {next(iter(labels))}` would be ignored",
            where=str(corpus.units[0].path),
            remedy=f"name it: --column label=NAME; there are {', '.join(corpus.names)}",
        )


def import_corpus(
    corpus: Corpus,
    folder: str | Path,
    executor: Executor,
    *,
    labels: Collection[str] = (),
    reciter: str = "",
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> ImportReport:
    """Write the recordings of a corpus and a manifest of them.

    Args:
        folder: missing, empty, or of an earlier call, which is continued.
        executor: where units are imported, one per job.
        labels: rows with these values in the label column are taken; empty for `GOOD_LABELS`.
        reciter: for rows that name none.
        on_progress: called with (units done, units).

    Raises:
        QuranAsrError: a unit cannot be read at all, `folder` has other content, a job's process died, or
            there are labels without a label column.
        OSError: the disk is full; finished units are kept.
    """
    refuse_unused_labels(corpus, labels)
    folder = Path(folder).absolute()
    refuse_foreign(folder, (RECORDS,), "folder of an import")
    (folder / RECORDS).mkdir(parents=True, exist_ok=True)
    taken = frozenset(label.strip().lower() for label in labels) or GOOD_LABELS
    with locked(folder / RECORDS / "lock", busy="another process imports into this folder"):
        sweep(folder)
        sweep(folder / RECORDS)
        jobs = {
            executor.submit(_import_unit, unit, folder, corpus.columns, taken, reciter): number
            for number, unit in enumerate(corpus.units)
        }
        records: dict[int, Path] = {}
        kept = 0
        try:
            for job in as_completed(jobs):
                records[jobs[job]], was_there = job.result()
                kept += was_there
                on_progress(len(records), len(jobs))
        except BrokenProcessPool as error:
            raise QuranAsrError(
                "a process that read the corpus died (out of memory, or a decoder crashed)",
                remedy="run the same command again with fewer --jobs: finished parts are kept",
            ) from error
        finally:
            for job in jobs:
                job.cancel()
        return _write_manifest(folder, [records[number] for number in sorted(records)], corpus, kept)


def _write_manifest(folder: Path, records: Sequence[Path], corpus: Corpus, kept: int) -> ImportReport:
    lines: list[dict[str, Any]] = []
    dropped: list[DroppedRow] = []
    for path in records:
        record = parse_json(path.read_bytes())
        lines += record["lines"]
        dropped += [DroppedRow(**one) for one in record["dropped"]]
    report = ImportReport(
        manifest=folder / MANIFEST if lines else None,
        clips=len(lines),
        hours=sum(line["duration"] for line in lines) / 3600,
        reciters=len({line["reciter"] for line in lines if "reciter" in line}),
        with_verses=sum("verses" in line for line in lines),
        dropped=tuple(dropped),
        kept_units=kept,
    )
    if report.manifest:
        meta = {
            "made_by": "corpus import",
            "layouts": list(corpus.kinds),
            "columns": corpus.columns,
            "dropped_by_reason": report.dropped_by_reason,
            "dropped": [{"row": one.row, "reason": one.reason, "detail": one.detail} for one in dropped],
        }
        write_manifest(report.manifest, lines, meta)
    return report


def _import_unit(
    unit: Unit, folder: Path, columns: Mapping[Role, str], labels: frozenset[str], reciter: str
) -> tuple[Path, bool]:
    """Import a unit unless it is finished; returns the path of its record, and whether it was finished."""
    stat = unit.path.stat()
    facts = [str(unit.path), stat.st_size, stat.st_mtime_ns, unit.first_row, unit.rows, dict(columns)]
    facts += [sorted(labels), reciter, *([str(unit.root)] if unit.root else [])]
    key = hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()[:16]
    record = folder / RECORDS / f"{key}.json"
    if _is_finished(record):
        return record, True
    lines: list[dict[str, Any]] = []
    dropped: list[dict[str, str]] = []
    recordings: dict[str, list[int] | None] = {}
    for number, row in enumerate(read_rows(unit, columns)):
        if isinstance(row.audio, str):
            recordings[row.audio] = state_of(row.audio)
        try:
            lines.append(_line(row, folder / AUDIO / key, number, columns, labels, reciter))
        except _UnusableRowError as error:
            dropped.append({"row": row.name, "reason": error.reason, "detail": error.detail})
    values = {"lines": lines, "dropped": dropped, "recordings": recordings}
    write_atomically(record, json.dumps(values, ensure_ascii=False).encode())
    return record, False


def _is_finished(record: Path) -> bool:
    """Whether a unit was imported, its recordings are the same, and none that was missing may be there."""
    try:
        content = parse_json(record.read_bytes())
        if any(one["reason"] == MISSING for one in content["dropped"]):
            return False
        recordings = content.get("recordings", {})  # older records have none
        return all(is_recording(line["audio_filepath"]) for line in content["lines"]) and all(
            state_of(path) == state for path, state in recordings.items()
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):  # missing or damaged
        return False


class _UnusableRowError(Exception):
    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(reason)
        self.reason, self.detail = reason, detail or reason


def _line(
    row: Row, folder: Path, number: int, columns: Mapping[Role, str], labels: frozenset[str], reciter: str
) -> dict[str, Any]:
    """The manifest line of a row. Cheap checks come first."""
    if "label" in columns:
        value = row.values.get(columns["label"])
        label = "" if value is None else str(value).strip()
        if label.lower() not in labels:
            raise _UnusableRowError(f"label `{label}`" if label else "no label")
    if row.problem or row.audio is None:
        raise _UnusableRowError(_kind_of(row.problem) or "no audio in it", row.problem)
    text, verses = _content(row.values, columns)
    offset, duration = _stretch(row)
    try:
        path, seconds = _stored(row.audio, folder, number)
    except QuranAsrError as error:
        raise _UnusableRowError(_kind_of(error.what), error.what) from None
    if duration is None:
        duration = seconds - offset
    if duration <= 0 or offset + duration > seconds + audio.TOLERANCE_SECONDS:
        raise _UnusableRowError("a stretch beyond the end of its recording")
    name = number_of(row.values.get(columns.get("reciter", "reciter")) or "") or reciter or row.archive
    return {
        "audio_filepath": path,
        "offset": offset,
        "duration": round(duration, 4),
        "text": text,
        **({"verses": verses} if verses else {}),
        **({"reciter": name} if name else {}),
    }


def _kind_of(problem: str) -> str:
    """A problem without its details; the colon of `112:5` does not begin any."""
    return re.split(r":\s| \(", problem)[0]


def _stretch(row: Row) -> tuple[float, float | None]:
    """Offset and seconds if the layout has segments of recordings; otherwise the whole recording.

    A column with durations of whole recordings is not needed: the recording itself is measured.
    """
    if isinstance(row.audio, bytes) or "offset" not in row.values:
        return 0.0, None
    offset, duration = row.values["offset"] or 0.0, row.values.get("duration")
    for value in (offset, duration):
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if value is not None and not (number and 0 <= value <= LONGEST_SECONDS):
            raise _UnusableRowError("an offset or duration that is not in seconds")
    return float(offset), None if duration is None else float(duration)


def _stored(content: bytes | str, folder: Path, number: int) -> tuple[str, float]:
    """Path and seconds of a recording that can be read; bytes become a file named by what they are."""
    if isinstance(content, str):
        return content, audio.probe(content).seconds
    folder.mkdir(parents=True, exist_ok=True)
    unfinished = unfinished_path(folder)
    try:
        unfinished.write_bytes(content)
        try:
            info = audio.probe(unfinished)
        except QuranAsrError as error:
            raise QuranAsrError(error.what, remedy=error.remedy) from None
        target = folder / f"{number:06d}.{_ENDINGS.get(info.format, info.format)}"
        unfinished.replace(target)
    finally:
        unfinished.unlink(missing_ok=True)
    return str(target), info.seconds


# Text and verses


def _content(values: Mapping[str, Any], columns: Mapping[Role, str]) -> tuple[str, list[str]]:
    """Text as written, and its verses where they are known."""
    written = values.get(columns.get("text", "text"))
    text = " ".join(written.split()) if isinstance(written, str) else ""
    if text and not spell(text, "letters"):
        raise _UnusableRowError("its text has no Arabic letters", f"its text is {text[:60]!r}")
    verses = values.get("verses")
    named = tuple(map(str, verses)) if isinstance(verses, list) and verses else _named(values, columns)
    if named:
        refs = tuple(ref for name in named for ref in _parsed(name))
        verse_text = load_quran("diacritized").text(refs)
        if not text:
            return verse_text, [str(ref) for ref in refs]
        if _same(text, verse_text):
            return text, [str(ref) for ref in refs]
        if columns.get("text") and spell(text, "letters") not in spell(verse_text, "letters"):
            raise _UnusableRowError("its text is not that of its verse", f"{', '.join(named)}: {text[:80]}")
        return text, [str(ref) for ref in refs]  # a part of a verse
    if not text:
        raise _UnusableRowError("neither text nor verse")
    return text, [str(ref) for ref in _place(text, _surah(values, columns))]


def _named(values: Mapping[str, Any], columns: Mapping[Role, str]) -> tuple[str, ...]:
    """The verse named by the columns."""
    if verse := values.get(columns.get("verse", "")):
        return (str(verse[0] if isinstance(verse, list) else verse).strip(),)
    surah, ayah = _surah(values, columns), number_of(values.get(columns.get("ayah", ""), ""))
    return (f"{surah}:{int(ayah)}",) if surah and ayah.isdigit() else ()


def _surah(values: Mapping[str, Any], columns: Mapping[Role, str]) -> int | None:
    written = number_of(values.get(columns.get("surah", "")) or "")
    return int(written) if written.isdigit() else (find_surah(written) if written else None)


def _parsed(name: str) -> tuple[VerseRef, ...]:
    try:
        return parse_range(name)
    except QuranAsrError as error:
        raise _UnusableRowError("no such verse", error.what) from None


def _same(text: str, verse_text: str) -> bool:
    """Whether two texts have the same letters, in either edition, a basmala before them apart."""
    for one in (text, separate_basmala(text)[1]):
        if one and spell(one, "letters") == spell(verse_text, "letters"):
            return True
    return _typed(text) == _typed(verse_text)


def _typed(text: str) -> str:
    """Letters without hamzas and spaces, in which typed spellings differ most."""
    return spell(text, "letters").translate(_TYPED)


_TYPED = str.maketrans("أإآىةؤئ", "ااايهوي", "ء ")


@lru_cache(maxsize=100_000)
def _place(text: str, surah: int | None) -> tuple[VerseRef, ...]:
    """The verses that a text is, or is part of, if there is one such place (of that surah); otherwise none.

    Whole verses come before parts of others: 1:1 is a part of 27:30. A short part is as likely an ordinary
    phrase, except in a row that names a surah.
    """
    try:
        matches = find(load_quran("diacritized"), text)
    except QuranAsrError:
        return ()
    places = [
        match
        for match in matches
        if match.kind in ("exact", "spelling") and surah in (None, match.refs[0].surah)
    ]
    if whole := [match for match in places if " ".join(match.words) == match.text]:
        return whole[0].refs if len(whole) == 1 else ()
    if len(places) == 1 and (surah or len(places[0].words) >= SHORTEST_PART):
        return places[0].refs
    return ()
