"""Manifests: one JSON object per line, each a segment of a recording with the words recited in it.

NeMo manifests are valid; ours have more keys (`verses`, `reciter`, `riwaya`, `source`), and unknown keys are
preserved. Manifests come from many sources, so every value is validated.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal, overload

from quran_asr import __version__
from quran_asr.errors import Finding, QuranAsrError
from quran_asr.files import json_line, parse_json, write_atomically, write_json
from quran_asr.records import Segment, VerseRef
from quran_asr.shards import is_recording
from quran_asr.text.quran import load_quran
from quran_asr.text.spelling import SPELLINGS, edition_of, separate_basmala, spell

LONGEST_SECONDS = 24 * 3600.0
"""A segment longer than a day is a wrong unit (samples or milliseconds for seconds)."""

_LONGEST_LINE = 1 << 20

MADE_BY = "`quran-asr corpus scan FOLDER --to MANIFEST` makes one"
"""Remedy where a manifest is missing, empty or another file."""
GIVE_PATH = "give the path of the recording, absolute or relative to the manifest's folder"
"""Remedy where a line names no recording."""

Moved = Sequence[tuple[str, str]]
"""(old, new) absolute folders: files named under the first are found under the second."""


@overload
def read_manifest(path: str | Path, spelling: str, *, moved: Moved = ()) -> list[Segment]: ...
@overload
def read_manifest(
    path: str | Path, spelling: str, *, on_error: Literal["raise"], moved: Moved = ()
) -> list[Segment]: ...
@overload
def read_manifest(
    path: str | Path, spelling: str, *, on_error: Literal["collect"], moved: Moved = ()
) -> tuple[list[Segment], list[Finding]]: ...
def read_manifest(
    path: str | Path, spelling: str, *, on_error: Literal["raise", "collect"] = "raise", moved: Moved = ()
) -> list[Segment] | tuple[list[Segment], list[Finding]]:
    """The segments of a manifest, with their text in one spelling.

    Where a line names verses and its text is that of these verses in any spelling (a basmala before them
    apart), or missing, the text comes from the edition of that spelling. Any other text, for example of a
    part of a verse, is converted to the spelling.

    Args:
        path: the manifest. Relative audio paths are relative to its folder.
        spelling: one of `text.spelling.SPELLINGS`.
        on_error: `collect` leaves out bad lines and returns a warning for each beside the segments.
        moved: old and new folders of recordings.

    Raises:
        QuranAsrError: the manifest is missing or has no line; or a line is truncated, lacks a key, holds a
            wrong value or names a verse or a recording that does not exist (`file:line`). With `collect` only
            if no line is good.
    """
    edition_of(spelling)  # a wrong spelling is an error of the caller, not of every line
    path = Path(path)
    folder = os.path.realpath(path.parent)
    segments: list[Segment] = []
    findings: list[Finding] = []
    for number, raw in _lines(path):
        try:
            segments.append(_segment(_parse(raw), folder, spelling, moved=moved))
        except QuranAsrError as error:
            where = f"{path}:{number}"
            if on_error == "raise":
                raise QuranAsrError(error.what, where=where, remedy=error.remedy) from None
            findings.append(Finding("warning", "manifest-line", where, error.what, error.remedy))
    if not segments:
        first = f", the first: {findings[0].where}, {findings[0].message}" if findings else ""
        raise QuranAsrError(f"no usable line among {len(findings)}{first}", where=str(path), remedy=MADE_BY)
    return segments if on_error == "raise" else (segments, findings)


def read_lines(path: str | Path) -> list[dict[str, Any]]:
    """The lines of a manifest as they were written, every key kept, each checked as by `read_manifest`.

    `audio_filepath` is made absolute.

    Raises:
        QuranAsrError: as `read_manifest`.
    """
    path = Path(path)
    folder = os.path.realpath(path.parent)
    lines: list[dict[str, Any]] = []
    for number, raw in _lines(path):
        try:
            values = _parse(raw)
            segment = _segment(values, folder, "letters")
        except QuranAsrError as error:
            raise QuranAsrError(error.what, where=f"{path}:{number}", remedy=error.remedy) from None
        lines.append({**values, "audio_filepath": segment.audio})
    if not lines:
        raise QuranAsrError("no line in it", where=str(path), remedy=MADE_BY)
    return lines


def find_line(manifests: Sequence[str | Path], segment: Segment) -> str:
    """`file:line` of the first line with this segment of this recording; its audio if there is none."""
    for manifest in manifests:
        path = Path(manifest)
        folder = os.path.realpath(path.parent)
        for number, raw in _lines(path):
            try:
                values = _parse(raw)
                same = _resolved(str(values.get("audio_filepath")), folder) == segment.audio
                if same and (_seconds(values, "offset", default=0.0) == segment.offset):
                    return f"{path}:{number}"
            except QuranAsrError:
                continue
    return segment.audio


def collect_lines(path: str | Path) -> tuple[list[tuple[dict[str, Any], Segment]], list[Finding]]:
    """The lines of a manifest that may contain errors, for validation.

    Returns:
        (each line as it was written, `audio_filepath` made absolute, with its segment in `letters`; an error
        for each invalid line). A missing recording is not an error here.

    Raises:
        QuranAsrError: the manifest is missing, is not a manifest, or has no line.
    """
    path = Path(path)
    folder = os.path.realpath(path.parent)
    lines: list[tuple[dict[str, Any], Segment]] = []
    findings: list[Finding] = []
    for number, raw in _lines(path):
        try:
            values = _parse(raw)
            segment = _segment(values, folder, "letters", must_exist=False)
            lines.append(({**values, "audio_filepath": segment.audio}, segment))
        except QuranAsrError as error:
            findings.append(Finding("error", "manifest-line", f"{path}:{number}", error.what, error.remedy))
    if not lines and not findings:
        raise QuranAsrError("no line in it", where=str(path), remedy=MADE_BY)
    return lines, findings


def each_line(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """(`file:line`, its keys) of every line that is a JSON object; others are skipped.

    Raises:
        QuranAsrError: no such manifest, or not a manifest.
    """
    for number, raw in _lines(path):
        with contextlib.suppress(QuranAsrError):
            yield f"{path}:{number}", _parse(raw)


def parse_lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """(number, keys) of every line, numbers from 1; the values of the keys have not been checked.

    Raises:
        QuranAsrError: no such manifest, not a manifest, or a line that is not a JSON object.
    """
    for number, raw in _lines(path):
        try:
            values = _parse(raw)
        except QuranAsrError as error:
            raise QuranAsrError(error.what, where=f"{path}:{number}", remedy=error.remedy) from None
        yield number, values


def write_manifest(
    path: str | Path, lines: Sequence[Mapping[str, Any]], meta: Mapping[str, Any] | None = None
) -> None:
    """Write a manifest and its sidecar `<path>.meta.json`, each atomically.

    Args:
        path: missing folders are created.
        lines: `audio_filepath` absolute or relative to the working folder; it is written relative to `path`.
        meta: keys of the sidecar besides `version`, `clips` and `hours`.

    Raises:
        QuranAsrError: `path` is a folder, or empty, or a file that is not a manifest.
        OSError: the disk is full, or the folder cannot be written; the old manifest is untouched.
    """
    refuse_other_file(path)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    relative = _relative_to(path.parent)
    written = [{**line, "audio_filepath": relative(str(line["audio_filepath"]))} for line in lines]
    text = "".join(map(json_line, written))
    hours = sum(float(line["duration"]) for line in lines) / 3600
    sidecar = {"version": __version__, "clips": len(lines), "hours": round(hours, 4), **(meta or {})}
    # The sidecar first: if the disk fills up in between, the manifest is still the old one.
    write_json(sidecar_of(path), sidecar)
    write_atomically(path, text.encode())


def refuse_other_file(path: str | Path) -> None:
    """A manifest replaces an older one, never a recording or a note; known before the work for it begins.

    Raises:
        QuranAsrError: it is a folder or empty, or the file is there and does not begin with a line of a
            manifest.
    """
    if not str(path) or Path(path).is_dir():
        raise QuranAsrError(
            "is not a name for a manifest", where=str(path), remedy="name a file, for example all.jsonl"
        )
    path = Path(path)
    if not path.is_file() or sidecar_of(path).is_file():
        return
    with path.open("rb") as file:
        first = file.readline(_LONGEST_LINE)
    try:
        keys = _parse(first) if first.strip() else {"audio_filepath": ""}
        is_manifest = "audio_filepath" in keys and "hypothesis" not in keys
    except QuranAsrError:
        is_manifest = False
    if not is_manifest:
        raise QuranAsrError(
            "this file exists and is not a manifest", where=str(path), remedy="name another file"
        )


def sidecar_of(manifest: Path) -> Path:
    """The path of a manifest's sidecar."""
    return manifest.with_name(manifest.name + ".meta.json")


def require_file(path: Path) -> None:
    """Refuse a manifest that is not there.

    Raises:
        QuranAsrError: no such manifest, or a folder.
    """
    if not path.is_file():
        what = "a folder, not a manifest" if path.is_dir() else "no such manifest"
        raise QuranAsrError(what, where=str(path), remedy=MADE_BY)


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """(number, the line) of every line that is not blank, numbers from 1."""
    require_file(path)
    with path.open("rb") as file:
        for number, raw in enumerate(iter(lambda: file.readline(_LONGEST_LINE + 1), b""), start=1):
            if number == 1:
                raw = raw.removeprefix(b"\xef\xbb\xbf")
                _refuse_foreign(path, raw)
            if len(raw) > _LONGEST_LINE:
                raise QuranAsrError(
                    "a line of more than 1 MB: this is not a manifest",
                    where=f"{path}:{number}",
                    remedy=MADE_BY,
                )
            if raw.strip():
                yield number, raw


LFS_POINTER = "a Git LFS pointer, not the file itself"
LHOTSE_CUTS = "a lhotse cut manifest"
NEMO_TARRED = "the manifest of NeMo's tarred datasets"
COMMON_VOICE = "a table of Common Voice"
AUDIO_FOLDER = "the metadata of an audio folder of Hugging Face"
_RECORDINGS, _SUPERVISIONS = "a lhotse recording manifest", "a lhotse supervision manifest"
_WENET, _ESPNET, _SPEECHBRAIN = "a list of WeNet", "the JSON of ESPnet", "the JSON of SpeechBrain"
_TAR = "a tar archive"
_KALDI, _TABLE, _ARRAY = "a wav.scp of Kaldi", "a table (CSV or TSV)", "a JSON array"
_SPREAD = "JSON with line breaks in its objects"
_OTHER_KEYS = "JSON lines without `audio_filepath`"

_FOREIGN_FILES = (
    (b"PAR1", "a parquet file"),
    (b"PK\x03\x04", "a zip archive"),
    (b"\x1f\x8b", "a gzipped file, such as lhotse cuts"),
    (b"ARROW1", "an arrow file"),
    (b"version https://git-lfs", LFS_POINTER),
)
"""First bytes -> the file format."""

_IMPORT = "quran-asr corpus import FILE --to FOLDER"
_CUTS = "make cuts of the recordings and supervisions (lhotse cut simple), and import those"
_KEYS = "`audio_filepath`, `duration` in seconds and `text`"
_REMEDIES = {
    LFS_POINTER: "git lfs pull in its folder, or download it again",
    _TAR: "name the manifest beside it (tarred_audio_manifest.json), or unpack it and scan its folder: "
    "quran-asr corpus scan FOLDER --to MANIFEST",
    _RECORDINGS: _CUTS,
    _SUPERVISIONS: _CUTS,
    _WENET: "rename `wav` to `audio_filepath` and `txt` to `text`, and add `duration` in seconds",
    _ESPNET: f"write a line for each utterance: a JSON object with {_KEYS}",
    _SPEECHBRAIN: f"write a line for each entry: a JSON object with {_KEYS}",
    _KALDI: "make cuts of its folder (lhotse kaldi import, then lhotse cut simple), and import those",
    _TABLE: f"name the column of recordings `file_name`, put commas or tabs between columns, and {_IMPORT}",
    _ARRAY: "write each object on a line of its own: jq -c '.[]' FILE > manifest.jsonl",
    _OTHER_KEYS: f"rename the key with the path of the recording; each line has {_KEYS}",
    _SPREAD: "write each object on a line of its own: jq -c . FILE > manifest.jsonl",
}
"""What to do about a layout that `corpus import` does not read as it is."""

_AUDIO_KEYS = ("audio", "path", "audio_path", "audio_file", "wav", "wav_path", "filename", "file", "url")
"""Keys and columns with the recording in other lists."""
_IN_ESPNET = re.compile(rb'\s*\{\s*"utts"\s*:')
_IN_SPEECHBRAIN = re.compile(rb'\s*\{\s*"[^"]*"\s*:\s*\{[^{}]*"(?:wav|length|words)"\s*:')
_IN_KALDI = re.compile(
    rb"[^\s{\[]\S*\s+(?:\S.*\.(?:wav|flac|mp3|ogg|opus|sph|ark:\d+)|.*\|)\s*", re.IGNORECASE
)


@dataclass(frozen=True, slots=True)
class Foreign:
    """A file that is not a manifest."""

    layout: str
    """As in `this is ..., not a manifest`."""
    remedy: str

    @property
    def can_be_imported(self) -> bool:
        """Whether `corpus import` reads it as it is."""
        return self.layout not in _REMEDIES


def foreign_file(path: Path) -> Foreign | None:
    """The layout of a file by its beginning, if it is known and not that of a manifest."""
    with path.open("rb") as file:
        return _foreign(path, file.readline(_LONGEST_LINE).removeprefix(b"\xef\xbb\xbf"))


def _foreign(path: Path, first: bytes) -> Foreign | None:
    """As `foreign_file`, by its first line."""
    layout = next((what for magic, what in _FOREIGN_FILES if first.startswith(magic)), None)
    if first[257:262] == b"ustar":
        layout = _TAR
    if layout is None:
        try:
            layout = foreign_layout(_parse(first))
        except QuranAsrError:
            layout = _layout_of_text(path, first)
    return None if layout is None else named_foreign(layout, path)


def named_foreign(layout: str, path: Path) -> Foreign:
    """A file of a layout of `foreign_layout`, and what to do about it."""
    return Foreign(layout, _REMEDIES.get(layout, _IMPORT).replace("FILE", str(path)))


def foreign_layout(values: Mapping[str, Any]) -> str | None:
    """The format that a line belongs to, if it is known and not that of a manifest."""
    keys = set(values)
    if ("recording" in keys and {"start", "supervisions"} & keys) or values.get("type") == "MixedCut":
        return LHOTSE_CUTS
    if "audio_filepath" in keys:
        return NEMO_TARRED if "shard_id" in keys else None
    if "file_name" in keys:
        return AUDIO_FOLDER
    if {"sources", "sampling_rate"} <= keys:
        return _RECORDINGS
    if {"recording_id", "start", "duration"} <= keys:
        return _SUPERVISIONS
    if {"key", "wav"} <= keys:
        return _WENET
    if isinstance(values.get("utts"), dict):
        return _ESPNET
    if values and all(
        isinstance(one, dict) and {"wav", "length", "words"} & set(one) for one in values.values()
    ):
        return _SPEECHBRAIN
    return None if keys.isdisjoint(_AUDIO_KEYS) else _OTHER_KEYS


def _layout_of_text(path: Path, first: bytes) -> str | None:
    """The layout of a file whose first line is not a JSON object."""
    line = first.strip()
    if line == b"[" or line.startswith(b"[{"):
        return _ARRAY
    if line.startswith(b"{"):
        with path.open("rb") as file:
            head = file.read(1 << 16).removeprefix(b"\xef\xbb\xbf")
        if _IN_ESPNET.match(head):
            return _ESPNET
        if _IN_SPEECHBRAIN.match(head):
            return _SPEECHBRAIN
        return _SPREAD if line == b"{" else None
    if path.name == "wav.scp" or (len(line) < 1 << 12 and _IN_KALDI.fullmatch(line)):
        return _KALDI
    separator = next((one for one in (b"\t", b";", b",") if one in line), b"\0")
    columns = {cell.strip(b' "').decode(errors="replace") for cell in line.split(separator)}
    if separator == b"\t" and {"path", "sentence"} <= columns:
        return COMMON_VOICE
    if "file_name" in columns and separator != b";":
        return AUDIO_FOLDER
    lowered = {column.lower() for column in columns}
    is_table = len(columns) > 1 and not lowered.isdisjoint({*_AUDIO_KEYS, "file_name", "audio_filepath"})
    return _TABLE if is_table or (line and path.suffix.lower() in (".csv", ".tsv")) else None


def _refuse_foreign(path: Path, first: bytes) -> None:
    """Name the format if its first line is known, and what to do."""
    if foreign := _foreign(path, first):
        raise QuranAsrError(
            f"this is {foreign.layout}, not a manifest", where=str(path), remedy=foreign.remedy
        )


def _refuse_constant(constant: str) -> Any:
    raise QuranAsrError(f"{constant} is not a number", remedy=f"write a finite number instead of {constant}")


_DECODER = json.JSONDecoder(parse_constant=_refuse_constant)


def _parse(raw: bytes) -> dict[str, Any]:
    try:
        values = parse_json(raw, _DECODER)
    except UnicodeDecodeError:
        raise QuranAsrError("not UTF-8 text", remedy=MADE_BY) from None
    except json.JSONDecodeError as error:
        begun = raw.lstrip().startswith(b"{")  # nothing else can be truncated unnoticed
        torn = begun and not (raw.endswith(b"\n") and raw.rstrip().endswith(b"}"))
        what = "a torn line (its end is missing)" if torn else "not JSON"
        remake = "correct the line, or make a manifest: quran-asr corpus scan FOLDER --to MANIFEST"
        raise QuranAsrError(
            f"{what}: {error.msg.lower()} at character {error.pos + 1}",
            remedy="copy the manifest again, or delete this line" if torn else remake,
        ) from None
    except ValueError as error:  # nested too deep, half a character, a number with thousands of digits
        raise QuranAsrError(
            f"not JSON that can be read: {error}", remedy="correct or delete this line"
        ) from None
    if not isinstance(values, dict):
        raise QuranAsrError("not a JSON object", remedy='a line looks like {"audio_filepath": ..., ...}')
    return values


def _segment(
    values: dict[str, Any], folder: str, spelling: str, *, must_exist: bool = True, moved: Moved = ()
) -> Segment:
    verses = _verses(values.get("verses"), "verses")
    written = values.get("audio_filepath")
    if not isinstance(written, str) or not written or "\0" in written:
        raise QuranAsrError("`audio_filepath` is missing or no path", remedy=GIVE_PATH)
    audio = moved_path(_resolved(written, folder), moved)
    if must_exist and not is_recording(audio):
        raise QuranAsrError(
            f"no recording `{written}`", remedy="relative paths begin at the manifest's folder"
        )
    offset = _seconds(values, "offset", default=0.0)
    duration = _seconds(values, "duration", default=None)
    if not duration:
        raise QuranAsrError(
            "`duration` is 0", remedy="write the length of the clip in seconds, or delete the line"
        )
    reciter = values.get("reciter")
    if not isinstance(reciter, str | None):
        raise QuranAsrError(
            "`reciter` must be a string", remedy="write the name in quotes, or leave `reciter` out"
        )
    also_accept = values.get("also_accept") or []
    if not isinstance(also_accept, list):
        raise QuranAsrError(
            '`also_accept` is not a list of lists of verses, such as [["4:44"]]',
            remedy="write lists inside a list, or leave `also_accept` out",
        )
    quran = load_quran(spelling)
    return Segment(
        audio=audio,
        offset=offset,
        duration=duration,
        verses=verses,
        text=_text(values.get("text"), verses, spelling),
        reciter=reciter or "",
        also_accept=tuple(quran.text(_verses(other, "also_accept")) for other in also_accept),
    )


def _text(written: object, verses: tuple[VerseRef, ...], spelling: str) -> str:
    if not isinstance(written, str | None):
        raise QuranAsrError(
            "`text` must be a string",
            remedy="write the words in quotes, or leave `text` out and list `verses`",
        )
    if not (written or "").strip():
        if not verses:
            raise QuranAsrError(
                "neither `text` nor `verses` names what is recited",
                remedy='add the words as "text", or the verses as "verses": ["112:1"]',
            )
        return load_quran(spelling).text(verses)
    assert written is not None
    if verses and _is_text_of(written, verses, spelling):
        return load_quran(spelling).text(verses)
    text = spell(written, spelling)
    if not text:
        raise QuranAsrError(
            f"`text` has no Arabic letters: {written[:40]!r}",
            remedy="write the words in Arabic script, or leave `text` out and list `verses`",
        )
    return text


def _is_text_of(written: str, verses: tuple[VerseRef, ...], asked: str) -> bool:
    """Whether a text is that of these verses in one of the spellings, a basmala before them apart."""
    likely_first = sorted(SPELLINGS, key=lambda name: name != asked)

    def is_theirs(text: str) -> bool:
        return any(spell(text, spelling) == load_quran(spelling).text(verses) for spelling in likely_first)

    if is_theirs(written):
        return True
    basmala, rest = separate_basmala(written)
    return bool(basmala) and is_theirs(rest)


def _verses(value: object, key: str) -> tuple[VerseRef, ...]:
    if value is None:
        return ()
    if not isinstance(value, list) or not all(isinstance(ref, str) for ref in value):
        raise QuranAsrError(
            f'`{key}` is not a list of verses, such as ["112:1"]',
            remedy="write each reference in quotes, inside brackets",
        )
    verses = tuple(VerseRef.parse(ref) for ref in value)
    for ref in verses:
        load_quran("letters").verse(ref)
    return verses


def _seconds(values: dict[str, Any], key: str, default: float | None) -> float:
    value = values.get(key, default)
    if value is None:
        if default is not None:
            return default
        raise QuranAsrError(f"`{key}` is missing", remedy=f'add it in seconds, for example "{key}": 4.2')
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise QuranAsrError(
            f"`{key}` is not a number of seconds: {str(value)[:40]!r}",
            remedy=f'write a plain number of seconds, for example "{key}": 4.2',
        )
    if not 0 <= value <= LONGEST_SECONDS:  # false for NaN too
        raise QuranAsrError(
            f"`{key}` is {str(value)[:20]}: not between 0 s and a day",
            remedy="write it in seconds, not in milliseconds or samples",
        )
    return float(value)


def moved_path(path: str, moved: Moved) -> str:
    """The new location of an absolute path: the first old folder that contains it is replaced.

    A path in a new folder may have been written, or found from a manifest, after the move: where a new folder
    lies in an old one, it is replaced only if that leads to a file.
    """
    for old, new in moved:
        if _is_inside(path, old):
            found = os.path.join(new, os.path.relpath(path, old))  # noqa: PTH118 - thousands of lines
            is_new = any(_is_inside(path, folder) for _, folder in moved)
            return path if is_new and not (os.path.exists(found) or is_recording(found)) else found  # noqa: PTH110
    return path


def _is_inside(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip(os.sep) + os.sep)


def _resolved(audio: str, folder: str) -> str:
    """A manifest's path made absolute; `..` at its beginning climbs from `folder`, which has no links."""
    joined = os.path.join(folder, audio)  # noqa: PTH118
    return joined if "/../" in audio.lstrip("./") else os.path.normpath(joined)


def _relative_to(folder: Path) -> Callable[[str], str]:
    """A path relative to `folder`, valid from there also through links."""
    lexical, physical = os.path.abspath(folder), os.path.realpath(folder)  # noqa: PTH100

    @cache  # thousands of recordings, few folders
    def relative_folder(place: str) -> str:
        near = os.path.relpath(os.path.abspath(place), lexical)  # noqa: PTH100
        if near.split(os.sep, 1)[0] != os.pardir:
            return near
        # `..` starts from the real location of a linked folder
        return os.path.relpath(os.path.realpath(place), physical)

    def relative(audio: str) -> str:
        place, name = os.path.split(audio)
        return os.path.normpath(os.path.join(relative_folder(place), name))  # noqa: PTH118

    return relative
