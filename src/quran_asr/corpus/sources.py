"""Corpora in other layouts: the content of a folder or file, and its rows one by one.

All input is untrusted. Sizes are checked before anything is unpacked, no name in an archive becomes a path on
this machine, and no code or address in a file is run or fetched.
"""

from __future__ import annotations

import csv
import gzip
import os
import re
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, Literal, TypeAlias

from quran_asr.corpus.manifest import (
    AUDIO_FOLDER,
    LFS_POINTER,
    LHOTSE_CUTS,
    NEMO_TARRED,
    foreign_file,
    foreign_layout,
    named_foreign,
)
from quran_asr.corpus.scan import SOUND_ENDINGS, Recording, classify, reciter_of
from quran_asr.errors import QuranAsrError
from quran_asr.files import parse_json
from quran_asr.shards import Member
from quran_asr.tarfiles import TORN, open_tar
from quran_asr.text.surah_names import find_surah

Kind: TypeAlias = Literal["parquet", "arrow", "zip", "nemo-tarred", "lhotse", "common-voice", "audio-folder"]

LARGEST_FILE = 512 << 20
"""Bytes of one recording."""
LARGEST_GROWTH = 100
"""Largest compression ratio of a recording in a zip archive: audio hardly compresses."""
LARGEST_ROW_GROUP = 8 << 30
"""Bytes of a row group of a parquet file, unpacked. The largest of tarteel-ai/everyayah take about 1 GB."""
MOST_MEMBERS = 1_000_000
ROWS_A_UNIT = 500
_LONGEST_LINE = 1 << 20
_SAMPLE = 200
"""Rows from which columns are guessed."""
_AGAIN = "copy or download it again"
SHARDED = "sharded_manifests"
"""The folder, beside the shards, in which NeMo has a manifest for each shard."""
MISSING = "its recording is missing"
"""The problem of a row whose recording may be there when the import is repeated."""

Role: TypeAlias = Literal["audio", "text", "verse", "surah", "ayah", "reciter", "duration", "label"]
ROLES: tuple[Role, ...] = ("audio", "text", "verse", "surah", "ayah", "reciter", "duration", "label")
_NAMES: dict[Role, str] = {
    "audio": "audio recording speech wav file_name",
    "text": "text sentence transcription transcript ayah_text aya_text verse_text text_uthmani arabic_text "
    "uthmani arabic aya ayah verse",
    "verse": "verse_key verse_ref ayah_key ref reference verses verse_id",
    "surah": "surah sura surah_number surah_id sura_id surah_no chapter chapter_id surah_name",
    "ayah": "ayah aya ayah_number aya_number ayah_id aya_id ayah_no aya_no verse_number verse_no verse "
    "numberinsurah",
    "reciter": "reciter reciter_name reciter_id qari speaker speaker_id client_id",
    "duration": "duration duration_seconds duration_s",
    "label": "final_label quality_label is_correct is_valid label quality status",
}
"""Names of columns, the most reliable first."""
GOOD_LABELS = frozenset("correct good valid accepted verified true".split())
"""Labels of a quality column whose rows are taken by default."""
_BAD_LABELS = frozenset(
    "in_correct incorrect wrong bad invalid rejected false in_complete incomplete not_related_quran "
    "not_match_aya multiple_aya".split()
)
READ_BY_LAYOUT: dict[Kind, frozenset[str]] = {
    "lhotse": frozenset(("offset",)),
    "nemo-tarred": frozenset(("audio_filepath", "offset", "shard_id")),
    "common-voice": frozenset(("path", "offset")),
    "audio-folder": frozenset(("offset",)),
}
"""Columns that are read without a role."""
_LABEL_COLUMNS = frozenset("final_label quality_label is_correct is_valid".split())
"""Columns that hold labels of quality whatever their values are; `label`, `quality` and `status` may hold the
class of something else, or a bit rate."""


@dataclass(frozen=True, slots=True)
class Row:
    """A recording, or a segment of one, and its metadata."""

    name: str
    """Its position in the source, for messages."""
    audio: bytes | str | None
    """The bytes of the recording, or its path."""
    values: Mapping[str, Any]
    """Column -> value."""
    problem: str = ""
    """Why there is no recording."""
    archive: str = ""
    """Its reciter by the name of its archive, where neither a column nor the user names one."""


@dataclass(frozen=True, slots=True)
class Unit:
    """A part of a corpus that is imported as one job: a parquet file, an archive, or a few hundred rows."""

    kind: Kind
    path: Path
    rows: tuple[dict[str, Any], ...] = ()
    """Rows, in layouts that store them separately from the recordings."""
    first_row: int = 0
    root: Path | None = None
    """Of a zip archive: the folder whose name stands for the reciter of the recordings at its top."""


def find_units(sources: Sequence[str | Path]) -> list[Unit]:
    """The units of corpora in known layouts, in the order of the sources.

    Raises:
        QuranAsrError: no known layout, or a list of recordings is damaged or empty.
    """
    units = []
    for source in sources:
        found = _units_of(Path(source).absolute())
        if not found:
            raise QuranAsrError(
                "no row in it", where=str(source), remedy="leave it out, or copy or download it again"
            )
        units += found
    return _with_reciter_folders(units)


def _with_reciter_folders(units: Sequence[Unit]) -> list[Unit]:
    """EveryAyah has `000_versebyverse.zip` in the folder of every reciter: such a name is not a reciter's."""
    archives: dict[str, list[Path]] = {}
    for unit in units:
        if unit.kind == "zip":
            archives.setdefault(unit.path.stem, []).append(unit.path.parent)
    return [
        replace(unit, root=_reciter_folder(unit.path, archives[unit.path.stem]))
        if unit.kind == "zip"
        else unit
        for unit in units
    ]


def _reciter_folder(archive: Path, folders: Sequence[Path]) -> Path:
    """The folder that stands for the reciter of an archive; it need not exist.

    Args:
        folders: of all archives with the same name.
    """
    own = archive.parent / archive.stem
    named = [folder for folder in archive.parents if reciter_of(("", folder.name))]
    if not reciter_of(("", archive.stem)) or archive.stem.startswith("000_"):
        return next(iter(named), own)
    if len(set(folders)) > 1:
        common = Path(os.path.commonpath(folders))
        return next((folder for folder in named if common in folder.parents), own)
    return own


def _units_of(source: Path) -> list[Unit]:
    if source.is_file():
        return _units_of_file(source)
    if not source.is_dir():
        raise QuranAsrError(
            "no such file or folder", where=str(source), remedy="check the name and the folder"
        )
    for kind, pattern in (("parquet", "*.parquet"), ("arrow", "*.arrow"), ("zip", "*.zip")):
        files = [path for path in sorted(source.rglob(pattern)) if path.is_file()]
        found = [path for path in files if not path.name.startswith(("cache-", "."))]
        if found:
            for path in found:
                _refuse_pointer(path)
            return [Unit(kind, path) for path in found]  # type: ignore[arg-type]
    for name in ("validated.tsv", "train.tsv"):
        if (source / name).is_file():
            return _units_of_file(source / name)
    listing = [*source.glob("tarred_audio_manifest*.json"), *source.glob("*cuts*.jsonl*")]
    listing = listing or [*source.glob(f"{SHARDED}/manifest_*.json")]
    if listing:
        return [unit for path in sorted(listing) for unit in _units_of_file(path)]
    metadata = {
        path.parent: path
        for name in ("metadata.jsonl", "metadata.csv")
        for path in source.rglob(name)
        if path.is_file() and (foreign := foreign_file(path)) and foreign.layout == AUDIO_FOLDER
    }
    if metadata:
        return [unit for _, path in sorted(metadata.items()) for unit in _units_of_file(path)]
    raise QuranAsrError(
        "no parquet, arrow or zip file, no Common Voice table, no tarred_audio_manifest.json, "
        "no lhotse cuts, no metadata.csv",
        where=str(source),
        remedy="name the file that lists the recordings; "
        f"for RECITER/SSSAAA.mp3: quran-asr corpus scan {source}",
    )


def _units_of_file(path: Path) -> list[Unit]:
    with path.open("rb") as file:
        head = file.read(8)
    if head.startswith(b"PAR1"):
        return [Unit("parquet", path)]
    if head.startswith(b"PK"):
        return [Unit("zip", path)]
    _refuse_pointer(path)
    if path.suffix == ".arrow":
        return [Unit("arrow", path)]
    foreign = foreign_file(path)
    if foreign and foreign.layout == AUDIO_FOLDER:
        return list(_audio_folder(path))
    if foreign and not foreign.can_be_imported:
        raise QuranAsrError(
            f"this is {foreign.layout}: import does not read it", where=str(path), remedy=foreign.remedy
        )
    if path.suffix == ".tsv":
        return list(_common_voice(path))
    first = next(_json_lines(path), None)
    layout = None if first is None else foreign_layout(first[1])
    if layout == LHOTSE_CUTS:
        return list(_by_rows("lhotse", path, (line for _, line in _json_lines(path))))
    if layout == NEMO_TARRED:
        return list(_tarred(path))
    named = None if layout is None else named_foreign(layout, path)
    if named and not named.can_be_imported:  # packed: plain files have been named above
        raise QuranAsrError(
            f"this is {named.layout}: import does not read it", where=str(path), remedy=named.remedy
        )
    if first is not None and "audio_filepath" in first[1]:
        raise QuranAsrError(
            "a NeMo manifest: every command takes it as it is", where=str(path), remedy="no import is needed"
        )
    raise QuranAsrError(
        "not a corpus in a known layout",
        where=str(path),
        remedy="known: parquet and arrow of Hugging Face, zip of EveryAyah, NeMo's tarred manifest, "
        "lhotse cuts, Common Voice tsv, metadata.csv of Hugging Face",
    )


def _refuse_pointer(path: Path) -> None:
    foreign = foreign_file(path)
    if foreign and foreign.layout == LFS_POINTER:
        raise QuranAsrError(f"this is {foreign.layout}", where=str(path), remedy=foreign.remedy)


def _by_rows(kind: Kind, path: Path, rows: Iterator[dict[str, Any]]) -> Iterator[Unit]:
    first = 0
    while chunk := tuple(islice(rows, ROWS_A_UNIT)):
        yield Unit(kind, path, chunk, first)
        first += len(chunk)


def _json_lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    packed = path.suffix == ".gz"
    try:
        with gzip.open(path) if packed else path.open("rb") as file:
            for number, raw in enumerate(iter(lambda: file.readline(_LONGEST_LINE + 1), b""), start=1):
                if len(raw) > _LONGEST_LINE:
                    raise QuranAsrError(
                        "a line of more than 1 MB",
                        where=f"{path}:{number}",
                        remedy="name the file that lists the recordings, with one JSON object on each line",
                    )
                if raw.strip():
                    values = parse_json(raw)
                    if not isinstance(values, dict):
                        raise ValueError("is not a JSON object")
                    yield number, values
    except (ValueError, EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise QuranAsrError(
            f"not JSON lines that can be read ({error})",
            where=str(path),
            remedy="copy the file again, or see `quran-asr corpus import --help` for the layouts",
        ) from None


def _common_voice(path: Path) -> Iterator[Unit]:
    rows = _table(path, delimiter="\t", quoting=csv.QUOTE_NONE)
    columns = next(rows)
    if not {"path", "sentence"} <= set(columns):
        raise QuranAsrError(
            "not a table of Common Voice: it lacks the columns `path` and `sentence`",
            where=str(path),
            remedy=f"its columns are {', '.join(columns)[:200]}",
        )
    yield from _by_rows("common-voice", path, rows)


def _audio_folder(path: Path) -> Iterator[Unit]:
    """Recordings beside their metadata, as `datasets` loads them with `audiofolder`."""
    with path.open("rb") as file:
        head = file.readline(_LONGEST_LINE)
    if head.lstrip(b"\xef\xbb\xbf \t").startswith(b"{"):
        rows: Iterator[dict[str, Any]] = (line for _, line in _json_lines(path))
    else:
        rows = _table(path, delimiter="\t" if b"\t" in head else ",")
        next(rows)  # the columns
    yield from _by_rows("audio-folder", path, rows)


def _table(path: Path, **dialect: Any) -> Iterator[dict[str, Any]]:
    """The columns as keys, then the rows; cells beyond the last column are left out."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = csv.DictReader(file, **dialect)
            yield dict.fromkeys(rows.fieldnames or ())
            for row in rows:
                yield {name: cell for name, cell in row.items() if name is not None}
    except (UnicodeDecodeError, csv.Error) as error:
        raise QuranAsrError(
            f"not a table that can be read ({error})",
            where=str(path),
            remedy="save it as UTF-8 with tabs between the columns, or download it again",
        ) from None


def _tarred(path: Path) -> Iterator[Unit]:
    """A unit for each shard, with the lines of its clips."""
    by_shard: dict[int, list[dict[str, Any]]] = {}
    for number, line in _json_lines(path):
        shard = line.get("shard_id")
        if not isinstance(shard, int) or isinstance(shard, bool) or not 0 <= shard < MOST_MEMBERS:
            raise QuranAsrError(
                "`shard_id` is not a number",
                where=f"{path}:{number}",
                remedy="write the N of the clip's audio_N.tar, without quotes",
            )
        by_shard.setdefault(shard, []).append(line)
    for shard, lines in sorted(by_shard.items()):
        tar = path.parent / f"audio_{shard}.tar"
        if not tar.is_file() and path.parent.name == SHARDED:
            tar = path.parent.parent / tar.name
        if not tar.is_file():
            raise QuranAsrError(
                f"the shard audio_{shard}.tar is missing",
                where=str(path.parent),
                remedy=f"copy it into this folder, beside {path.name}",
            )
        yield Unit("nemo-tarred", tar, tuple(lines))


# Rows


def read_rows(unit: Unit, columns: Mapping[Role, str]) -> Iterator[Row]:
    """The rows of a unit.

    Args:
        columns: from `guess_columns` or the user; of a columnar file only these are read.

    Raises:
        QuranAsrError: the unit cannot be read at all.
    """
    reader = {
        "parquet": _parquet_rows,
        "arrow": _arrow_rows,
        "zip": _zip_rows,
        "nemo-tarred": _tarred_rows,
        "lhotse": _lhotse_rows,
        "common-voice": _common_voice_rows,
        "audio-folder": _audio_folder_rows,
    }[unit.kind]
    return reader(unit, columns)


def _parquet_rows(unit: Unit, columns: Mapping[Role, str]) -> Iterator[Row]:
    import pyarrow
    from pyarrow import parquet

    try:
        # no pre-buffering: a row group of a gigabyte is read page by page
        with parquet.ParquetFile(unit.path, pre_buffer=False, buffer_size=1 << 20) as file:
            for number in range(file.metadata.num_row_groups):
                if file.metadata.row_group(number).total_byte_size > LARGEST_ROW_GROUP:
                    raise QuranAsrError(
                        f"refused: row group {number} unpacks to more than {LARGEST_ROW_GROUP:,} bytes",
                        where=str(unit.path),
                        remedy="write the file again with smaller row groups, for example of 1,000 rows",
                    )
            wanted = [name for name in file.schema_arrow.names if name in columns.values()]
            number = 0
            for batch in file.iter_batches(batch_size=16, columns=wanted):
                batch.validate(full=True)
                for values in batch.to_pylist():
                    yield _with_audio(unit.path, number, values, columns)
                    number += 1
    except (pyarrow.ArrowException, OSError, ValueError) as error:  # names that are not UTF-8
        raise QuranAsrError(
            f"not a parquet file that can be read ({_first_line(error)})", where=str(unit.path), remedy=_AGAIN
        ) from None


def _arrow_rows(unit: Unit, columns: Mapping[Role, str]) -> Iterator[Row]:
    import pyarrow

    try:
        number = 0
        with pyarrow.memory_map(str(unit.path)) as source:
            for batch in _batches(source):
                present = [name for name in batch.schema.names if name in columns.values()]
                chosen = batch.select(present)
                for start in range(0, len(chosen), 16):
                    for values in chosen.slice(start, 16).to_pylist():
                        yield _with_audio(unit.path, number, values, columns)
                        number += 1
    except (pyarrow.ArrowException, OSError, ValueError) as error:  # names that are not UTF-8
        raise QuranAsrError(
            f"not an arrow file that can be read ({_first_line(error)})", where=str(unit.path), remedy=_AGAIN
        ) from None


def _batches(source: Any) -> Iterator[Any]:
    """Both kinds of arrow files; `datasets` writes streams. Unchecked offsets would crash the process."""
    import pyarrow

    try:
        batches = iter(pyarrow.ipc.open_stream(source))
    except pyarrow.ArrowInvalid:
        source.seek(0)
        file = pyarrow.ipc.open_file(source)
        batches = map(file.get_batch, range(file.num_record_batches))
    for batch in batches:
        batch.validate(full=True)
        yield batch


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:160]


def _with_audio(path: Path, number: int, values: dict[str, Any], columns: Mapping[Role, str]) -> Row:
    """`datasets` stores audio as {bytes, path}; others as bytes, or as a path relative to the file."""
    name = f"{path}, row {number}"
    cell = values.pop(columns.get("audio", ""), None)
    if isinstance(cell, dict):
        content, place = cell.get("bytes"), cell.get("path")
    else:
        content, place = (cell, None) if isinstance(cell, bytes) else (None, cell)
    if isinstance(content, bytes):
        if len(content) > LARGEST_FILE:
            return Row(name, None, values, f"a recording of {len(content):,} bytes")
        return Row(name, content, values)
    if isinstance(place, str) and place:
        return _beside(name, path.parent, place, values)
    return Row(name, None, values, "no audio in it")


def _beside(name: str, folder: Path, place: str, values: Mapping[str, Any]) -> Row:
    """A recording below a folder; a path outside it is refused."""
    try:
        path = (folder / place).resolve()
        if not path.is_relative_to(folder.resolve()):
            return Row(name, None, values, "its path leads out of the corpus")
        if not path.is_file():
            return Row(name, None, values, MISSING)
    except (OSError, ValueError):
        return Row(name, None, values, "its path cannot be read")
    return Row(name, str(path), values)


def _zip_rows(unit: Unit, columns: Mapping[Role, str]) -> Iterator[Row]:
    try:
        with zipfile.ZipFile(unit.path) as archive:
            infos = archive.infolist()
            if len(infos) > MOST_MEMBERS:
                raise QuranAsrError(
                    f"refused: more than {MOST_MEMBERS:,} files",
                    where=str(unit.path),
                    remedy="split it into archives with fewer files",
                )
            for info in infos:
                path = Path(info.filename)
                # macOS adds `__MACOSX/._002255.mp3`, which is not a recording
                if not info.is_dir() and path.suffix.lower() in SOUND_ENDINGS and path.name[0] != ".":
                    yield _zip_row(unit, archive, info)
    except (zipfile.BadZipFile, OSError, EOFError, ValueError, NotImplementedError) as error:
        raise QuranAsrError(
            f"not a zip archive that can be read ({_first_line(error)})",
            where=str(unit.path),
            remedy=_AGAIN,
        ) from None


def _zip_row(unit: Unit, archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> Row:
    name = f"{unit.path}: {info.filename}"
    parts = Path(info.filename).parts
    if Path(info.filename).is_absolute() or ".." in parts:
        return Row(name, None, {}, "its path leads out of the archive")
    root = unit.root or unit.path.parent / unit.path.stem
    found = classify(root / info.filename, root)
    if not isinstance(found, Recording):
        return Row(name, None, {}, getattr(found, "detail", "not a recording"))
    reciter = found.reciter if len(parts) > 1 else ""
    values = {"text": found.text, "verses": [str(ref) for ref in found.verses], "reciter": reciter}
    if info.file_size > min(LARGEST_FILE, LARGEST_GROWTH * info.compress_size + (1 << 20)):
        return Row(
            name, None, values, f"refused: unpacks from {info.compress_size:,} to {info.file_size:,} bytes"
        )
    try:
        with archive.open(info) as file:
            content = file.read(info.file_size + 1)
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, NotImplementedError) as error:
        return Row(name, None, values, f"damaged or encrypted ({_first_line(error)})")
    return Row(name, content, values, archive=found.reciter)


def _tarred_rows(unit: Unit, columns: Mapping[Role, str]) -> Iterator[Row]:
    """Clips stay in their shard: the manifest refers to the segment of it."""
    members: dict[str, Member] = {}
    try:
        with open_tar(unit.path) as archive:
            if archive.packed:
                raise QuranAsrError("a gzipped shard", where=str(unit.path), remedy="unpack it with gunzip")
            for member in archive.members(MOST_MEMBERS):
                if member.isreg() and not member.sparse:
                    members[Path(member.name).name] = Member(str(unit.path), member.offset_data, member.size)
    except TORN as error:
        raise QuranAsrError(
            f"not a tar archive that can be read ({_first_line(error)})", where=str(unit.path), remedy=_AGAIN
        ) from None
    for line in unit.rows:
        written = str(line.get("audio_filepath"))
        # NeMo's notation for more segments of one member
        found = members.get(Path(written).name) or members.get(
            re.sub(r"-sub\d+(?=\.\w+$)", "", Path(written).name)
        )
        name = f"{unit.path}: {written[:200]}"
        if found is None:
            yield Row(name, None, line, "not in its shard")
        elif not 0 < found.size <= LARGEST_FILE:
            yield Row(name, None, line, f"a recording of {found.size:,} bytes")
        else:
            yield Row(name, str(found), line)


def _lhotse_rows(unit: Unit, columns: Mapping[Role, str]) -> Iterator[Row]:
    for number, cut in enumerate(unit.rows, start=unit.first_row + 1):
        name = f"{unit.path}, cut {number}"
        try:
            supervisions = cut.get("supervisions") or []
            customs = [one.get("custom") or {} for one in supervisions]
            values: dict[str, Any] = {
                **(cut.get("custom") or {}),
                # of several only what is true of all: the verse of the first is not that of the cut
                **{
                    key: value
                    for custom in customs[:1]
                    for key, value in custom.items()
                    if all(other.get(key) == value for other in customs)
                },
                "text": " ".join(one["text"] for one in supervisions if one.get("text")),
                "reciter": next((one["speaker"] for one in supervisions if one.get("speaker")), ""),
                "offset": cut.get("start", 0.0),
                "duration": cut["duration"],
            }
            if cut.get("type") not in (None, "MonoCut"):
                yield Row(
                    name, None, values, f"a {cut.get('type')} is not read: export cuts of one recording"
                )
                continue
            (audio,) = cut["recording"]["sources"]
            if audio.get("type") != "file":
                yield Row(
                    name, None, values, f"audio of type {str(audio.get('type'))[:20]!r} is not fetched or run"
                )
                continue
            path = Path(audio["source"])
            beside = path if path.is_absolute() else unit.path.parent / path
            found = next((one for one in (beside, path.absolute()) if one.is_file()), None)
            yield Row(name, str(found), values) if found else Row(name, None, values, MISSING)
        except (AttributeError, KeyError, TypeError, ValueError, OSError):
            yield Row(name, None, {}, "not a cut with one recording")


def _common_voice_rows(unit: Unit, columns: Mapping[Role, str]) -> Iterator[Row]:
    clips = unit.path.parent / "clips"
    for number, values in enumerate(unit.rows, start=unit.first_row + 2):
        yield _beside(f"{unit.path}:{number}", clips, str(values.get("path") or ""), values)


def _audio_folder_rows(unit: Unit, columns: Mapping[Role, str]) -> Iterator[Row]:
    for number, values in enumerate(unit.rows, start=unit.first_row + 1):
        place = str(values.get(columns.get("audio", "file_name")) or "")
        yield _beside(f"{unit.path}, row {number}", unit.path.parent, place, values)


# Columns


def guess_columns(units: Sequence[Unit]) -> tuple[tuple[str, ...], dict[Role, str]]:
    """All columns of the first unit that has a row, and their roles by name and by the first values.

    Raises:
        QuranAsrError: no unit has a row, or one cannot be read.
    """
    names, sample = next((found for found in map(_sample, units) if found[1]), ((), []))
    if not sample:
        raise QuranAsrError(
            "no row in it", where=str(units[0].path), remedy="leave it out, or copy or download it again"
        )
    plain = {re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_"): name for name in reversed(names)}
    guessed: dict[Role, str] = {}
    for role in ROLES:
        for known in _NAMES[role].split():
            name = plain.get(known)
            if (
                name is not None
                and name not in guessed.values()
                and (known in _LABEL_COLUMNS or _fits(role, [row.get(name) for row in sample]))
            ):
                guessed[role] = name
                break
    return names, guessed


def _sample(unit: Unit) -> tuple[tuple[str, ...], list[Mapping[str, Any]]]:
    """The columns, and the first rows without their audio."""
    if unit.kind == "zip":
        return ("text", "verses", "reciter"), [{"text": "ا", "verses": ["1:1"], "reciter": "a"}]
    if unit.kind == "lhotse":
        rows = [row.values for row in islice(_lhotse_rows(unit, {}), _SAMPLE)]
    elif unit.kind in ("nemo-tarred", "common-voice", "audio-folder"):
        rows = list(unit.rows[:_SAMPLE])
    else:
        return _columnar_sample(unit)
    return tuple(dict.fromkeys(str(name) for row in rows for name in row)), rows


def _columnar_sample(unit: Unit) -> tuple[tuple[str, ...], list[Mapping[str, Any]]]:
    import pyarrow
    from pyarrow import parquet

    try:
        if unit.kind == "parquet":
            with parquet.ParquetFile(unit.path, pre_buffer=False) as file:
                schema = file.schema_arrow
                small = _without_audio(schema)
                count = min(file.metadata.num_rows, _SAMPLE)
                batches = file.iter_batches(batch_size=_SAMPLE, columns=small) if small else iter(())
                first = next(batches, None)
                if first is not None:
                    first.validate(full=True)
                rows = [{}] * count if first is None else first.to_pylist()
        else:
            with pyarrow.memory_map(str(unit.path)) as source:
                batch = next((one for one in _batches(source) if one.num_rows), None)
                if batch is None:
                    return (), []
                schema = batch.schema
                small = _without_audio(schema)
                count = min(batch.num_rows, _SAMPLE)
                rows = batch.select(small).slice(0, _SAMPLE).to_pylist() if small else [{}] * count
    except (pyarrow.ArrowException, OSError, ValueError) as error:  # names that are not UTF-8
        raise QuranAsrError(
            f"cannot be read ({_first_line(error)})", where=str(unit.path), remedy=_AGAIN
        ) from None
    heavy = [name for name in schema.names if name not in _without_audio(schema)]
    return tuple(schema.names), [{**row, **dict.fromkeys(heavy, b"")} for row in rows]


def _without_audio(schema: Any) -> list[str]:
    from pyarrow import types

    return [
        field.name
        for field in schema
        if not (
            types.is_struct(field.type) or types.is_binary(field.type) or types.is_large_binary(field.type)
        )
    ]


def _fits(role: Role, values: Sequence[Any]) -> bool:
    """Whether values fit the role of a column: `aya` is a number in one corpus and text in another."""
    known = [value for value in values if value not in (None, "")]
    if not known:
        return role in ("audio", "reciter")
    share = sum(_is_a(role, value) for value in known) / len(known)
    return share > 0 if role == "label" else share >= 0.5


def number_of(value: Any) -> str:
    """What a cell has as a number, without a fraction of 0: pandas makes 255.0 of a column with gaps."""
    written = str(value).strip()
    return written.removesuffix(".0") if written.removesuffix(".0").isdigit() else written


def _is_a(role: Role, value: Any) -> bool:
    if role == "audio":
        return isinstance(value, bytes | str)
    if role == "text":
        return (
            isinstance(value, str)
            and not value.strip().isdigit()
            and bool(re.search("[\u0621-\u064a]", value))
        )
    if role == "label":
        return isinstance(value, str | bool) and str(value).strip().lower() in GOOD_LABELS | _BAD_LABELS
    if role == "ayah":
        return number_of(value).isdigit()
    if role == "surah":
        return number_of(value).isdigit() or (isinstance(value, str) and find_surah(value) is not None)
    if role == "verse":
        first = value[0] if isinstance(value, list) and value else value
        return bool(re.fullmatch(r"\s*\d{1,3}:\d{1,3}(-\d{1,3})?\s*", str(first)))
    if role == "duration":
        return isinstance(value, int | float) and not isinstance(value, bool)
    return isinstance(value, int | str) or number_of(value).isdigit()
