"""Tar archives from outside, plain or gzipped, read within limits.

`tarfile` reads a GNU long name or a pax header whole, whatever size it claims: 3 MB of gzip become 3 GiB of
memory before the first member is seen. Here every read is bounded before `tarfile` makes it, and so is the
number of members. Other compressions than gzip are not opened.
"""

from __future__ import annotations

import gzip
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

from quran_asr.errors import QuranAsrError

LARGEST_READ = 1 << 16
"""Bytes of one read, and so of one header. A pax header of NeMo's archives takes 512."""
LARGEST_GROWTH = 10
"""Unpacked over packed: weights hardly compress, what grows more is a bomb."""
ALWAYS_ROOM = 5_000_000
"""Bytes that may be unpacked of the smallest archive."""
TORN = (tarfile.TarError, EOFError, OSError, zlib.error, ValueError, OverflowError, RecursionError)
"""What `tarfile` and `gzip` raise at a torn or hostile archive; thousands of chained headers recurse."""


@dataclass(frozen=True, slots=True)
class Tar:
    """An archive that is open for reading."""

    path: Path
    packed: bool
    """Whether it is gzipped."""
    room: int
    """Bytes that may be unpacked of it."""
    file: tarfile.TarFile

    def members(self, most: int) -> Iterator[tarfile.TarInfo]:
        """Its members in their order.

        Raises:
            QuranAsrError: more than `most`, one that was cut off, or more bytes than there is room for.
        """
        on_disk = self.path.stat().st_size
        size = 0
        for count, member in enumerate(self.file, start=1):
            if count > most:
                raise _refused(f"more than {most:,} files", self.path)
            if not self.packed and member.offset_data + member.size > on_disk:
                raise QuranAsrError(
                    "it was cut off",
                    where=f"{self.path}: {ascii(member.name)[1:-1][:80]}",
                    remedy="get the file again",
                )
            size += max(0, member.size)
            if size > self.room:
                raise _too_much(self.room, self.path)
            yield member

    def read(self, member: tarfile.TarInfo) -> Iterator[bytes]:
        """What a member holds, piece by piece; fewer bytes than `member.size` where it is torn."""
        source = self.file.extractfile(member)
        while source is not None and (block := source.read(LARGEST_READ)):
            yield block


@contextmanager
def open_tar(path: Path, room: int | None = None) -> Iterator[Tar]:
    """Open an archive for reading.

    Args:
        path: of the file.
        room: bytes that may be unpacked of it; by default ten times its size.

    Raises:
        QuranAsrError: within the block too: it holds more than it should.
        tarfile.TarError, OSError, ...: one of `TORN`, within the block too; it is not a tar, or not whole.
    """
    with path.open("rb") as raw:
        packed = raw.read(2) == b"\x1f\x8b"
        raw.seek(0)
        room = LARGEST_GROWTH * path.stat().st_size + ALWAYS_ROOM if room is None else room
        source = cast(IO[bytes], gzip.GzipFile(fileobj=raw, mode="rb")) if packed else raw
        bounded = cast(IO[bytes], _Bounded(source, room, path))
        with tarfile.TarFile(fileobj=bounded, mode="r") as file:
            yield Tar(path, packed, room, file)


class _Bounded:
    """A file that reads little at a time and not beyond its room."""

    def __init__(self, file: IO[bytes], room: int, path: Path) -> None:
        self._file = file
        self._room = room
        self._path = path

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= LARGEST_READ:
            raise _refused(f"a header of {size:,} bytes", self._path)
        self._check(self._file.tell() + size)
        return self._file.read(size)

    def seek(self, offset: int) -> int:
        self._check(offset)
        return self._file.seek(offset)

    def tell(self) -> int:
        return self._file.tell()

    def seekable(self) -> bool:
        return True

    def _check(self, position: int) -> None:
        # Headers and padding of the members come on top of what they hold; a plain file ends by itself.
        if position > self._room + ALWAYS_ROOM:
            raise _too_much(self._room, self._path)


def is_archive(path: Path) -> bool:
    """Whether a file begins as a tar with something in it, plain or gzipped."""
    try:
        with open_tar(path) as archive:
            return archive.file.next() is not None
    except (QuranAsrError, *TORN):
        return False


def _too_much(room: int, path: Path) -> QuranAsrError:
    return _refused(f"too much in it: it unpacks to more than {room:,} bytes", path)


def _refused(why: str, path: Path) -> QuranAsrError:
    return QuranAsrError(f"refused: {why}", where=str(path), remedy="do not use this archive")
