"""Clips in tar archives of bounded size, encoded as Ogg Opus; pack and unpack.

The content of an archive is checked before it is written: only plain files of bounded size with the names
that a manifest of this program contains.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import tarfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quran_asr import audio
from quran_asr.corpus.manifest import write_manifest
from quran_asr.errors import QuranAsrError
from quran_asr.files import unfinished_path, write_atomically
from quran_asr.tarfiles import TORN, open_tar

LARGEST_PIECE = 40 << 20
"""Bytes of one archive."""
LARGEST_CLIP = 16 << 20
MOST_CLIPS = 100_000
_CLIP = re.compile(r"clips/[0-9a-f]{16}\.opus")
_TAR_BLOCK, _TAR_END = 512, 10_240
_KEPT_KEYS = frozenset(
    "duration text verses reciter riwaya source kind also_accept part_of id category".split()
)
"""Keys of a manifest line that are kept; `audio_filepath` and `offset` are replaced."""


@dataclass(frozen=True, slots=True)
class Packed:
    """The content of the archives."""

    pieces: tuple[Path, ...]
    manifests: dict[str, Path]
    """`train`, `validation`, ... -> its manifest."""
    clips: dict[str, int]
    hours: dict[str, float]
    of_hours: dict[str, float]
    """Hours that were offered."""
    bytes: int
    """Archives and manifests."""
    encoded: int
    """Clips that were re-encoded; the others already were Opus of that rate and are copied."""


def pack(
    parts: dict[str, Sequence[dict[str, Any]]],
    folder: Path,
    *,
    budget: int,
    hours: dict[str, float],
    kilobits: int,
    largest: int = LARGEST_PIECE,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Packed:
    """Pack clips into `folder` until the bytes or the hours are used up.

    The order of clips depends on their names alone and mixes reciters and verses: both the packed and the
    remaining clips are fair samples of the whole.

    Args:
        parts: manifest lines with absolute paths, by part; the first part takes what the others leave.
        budget: bytes of all archives together, manifests included.
        hours: limit for each part; a part without an entry takes all that fits.
        kilobits: of Opus, a second.
        largest: bytes of one archive.
        on_progress: called with (bytes written, bytes allowed).

    Raises:
        QuranAsrError: a recording cannot be read, or not one clip of a part fits.
    """
    writer = _Pieces(folder, largest)
    encoded = 0
    kept: dict[str, list[dict[str, Any]]] = {name: [] for name in parts}
    seconds = dict.fromkeys(parts, 0.0)
    text_bytes = 0
    taken: dict[tuple[str, float, float], str] = {}
    for name in [*list(parts)[1:], *list(parts)[:1]]:  # the small parts first, complete if they fit
        limit = 3600 * hours.get(name, float("inf"))
        for line in sorted(parts[name], key=lambda line: (_order(line), line["audio_filepath"])):
            if seconds[name] + line["duration"] > limit:
                continue
            key = (line["audio_filepath"], line.get("offset") or 0.0, line["duration"])
            data = b""
            if key not in taken:
                data, reencoded = _as_opus(line, kilobits)
                encoded += reencoded
            cost = (_in_tar(len(data)) if data else 0) + 2 * len(json.dumps(line))
            if writer.bytes + text_bytes + cost + _TAR_END > budget:
                break
            if key not in taken:
                taken[key] = writer.add(data)
            text_bytes += 2 * len(json.dumps(line))
            seconds[name] += line["duration"]
            kept[name].append(_travelling(line) | {"audio_filepath": str(folder / taken[key])})
            on_progress(writer.bytes, budget)
        if parts[name] and not kept[name]:
            raise QuranAsrError(
                f"not one {name} clip fits into the {budget / 2**20:.1f} MiB left for audio",
                remedy="raise --max-mib, or give the packages of your host with --host-packages",
            )
    pieces = writer.close()
    manifests = {}
    for name, lines in kept.items():
        manifests[name] = folder / f"{name}.jsonl"
        write_manifest(manifests[name], lines, {"packed": f"Ogg Opus, {kilobits} kbit/s"})
    return Packed(
        pieces,
        manifests,
        {name: len(lines) for name, lines in kept.items()},
        {name: value / 3600 for name, value in seconds.items()},
        {name: sum(line["duration"] for line in lines) / 3600 for name, lines in parts.items()},
        sum(path.stat().st_size for path in (*pieces, *manifests.values())),
        encoded,
    )


def unpack(pieces: Iterable[Path], folder: Path) -> int:
    """Write the clips of archives below `folder`, which may hold some of them already; their number.

    Raises:
        QuranAsrError: an archive is truncated, or contains anything but clips.
    """
    count = 0
    for piece in pieces:
        try:
            with open_tar(piece) as tar:
                for member in tar.members(MOST_CLIPS):
                    if not (member.isreg() and _CLIP.fullmatch(member.name)):
                        raise QuranAsrError(f"refused: `{member.name[:60]}` is not a clip", where=str(piece))
                    if not 0 < member.size <= LARGEST_CLIP:
                        raise QuranAsrError(f"refused: {member.size:,} bytes in one clip", where=str(piece))
                    target = folder / member.name
                    if not (target.is_file() and target.stat().st_size == member.size):
                        data = b"".join(tar.read(member))
                        if len(data) != member.size:
                            raise QuranAsrError("is torn", where=str(piece))
                        _write_plainly(target, data)
                    count += 1
        except TORN as error:
            raise QuranAsrError(f"no archive that can be read ({error})", where=str(piece)) from None
    return count


def _write_plainly(target: Path, data: bytes) -> None:
    """Whole or not at all, without waiting for the disk: the archive is still there."""
    unfinished = unfinished_path(target.parent)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with unfinished.open("xb") as file:
            file.write(data)
        unfinished.replace(target)
    except OSError as error:  # not the archive's fault
        raise QuranAsrError(f"cannot be written ({error.strerror})", where=str(target)) from None
    finally:
        unfinished.unlink(missing_ok=True)


class _Pieces:
    """Writes archives; starts a new one when the next clip would make the current one too large."""

    def __init__(self, folder: Path, largest: int) -> None:
        self.folder, self.largest = folder, largest
        self.bytes = 0
        self._names: set[str] = set()
        self._paths: list[Path] = []
        self._begin()

    def add(self, data: bytes) -> str:
        """Its name is derived from its content, so that equal clips are stored once."""
        name = f"clips/{hashlib.sha256(data).hexdigest()[:16]}.opus"
        if name in self._names:
            return name
        self._names.add(name)
        if self._memory.tell() + _in_tar(len(data)) + _TAR_END > self.largest:
            self._finish()
        member = tarfile.TarInfo(name)  # no owner, no time: the same clips give the same bytes
        member.size, member.mode = len(data), 0o644
        self._tar.addfile(member, io.BytesIO(data))
        self.bytes += _in_tar(len(data))
        return name

    def close(self) -> tuple[Path, ...]:
        self._finish()
        return tuple(self._paths)

    def _finish(self) -> None:
        held = self._memory.tell()
        self._tar.close()
        if held:
            path = self.folder / f"audio-{len(self._paths) + 1}.tar"
            write_atomically(path, self._memory.getvalue())
            self._paths.append(path)
        self._begin()

    def _begin(self) -> None:
        self._memory = io.BytesIO()
        self._tar = tarfile.TarFile(fileobj=self._memory, mode="w", format=tarfile.USTAR_FORMAT)


def _in_tar(size: int) -> int:
    return _TAR_BLOCK + -(-size // _TAR_BLOCK) * _TAR_BLOCK


def _order(line: dict[str, Any]) -> str:
    """Hash of the last two path components of its recording and its position: no folders of this machine."""
    path = Path(line["audio_filepath"])
    key = f"{path.parent.name}/{path.name} {line.get('offset') or 0} {line['duration']}"
    return hashlib.sha256(key.encode()).hexdigest()


def _travelling(line: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in line.items() if key in _KEPT_KEYS}


def _as_opus(line: dict[str, Any], kilobits: int) -> tuple[bytes, bool]:
    """A clip as Opus, and whether it was re-encoded: a second lossy step would gain nothing."""
    path, offset, duration = Path(line["audio_filepath"]), line.get("offset") or 0.0, line["duration"]
    size = os.stat(path).st_size  # noqa: PTH116
    if not offset and size <= 1.25 * 125 * kilobits * duration + 2_000:
        info = audio.probe(path)
        if info.format == "opus" and abs(info.seconds - duration) <= audio.TOLERANCE_SECONDS:
            return path.read_bytes(), False
    return audio.as_opus(audio.read(path, offset, duration), kilobits), True
