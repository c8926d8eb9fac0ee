"""Containers whose header and stream disagree: how long a recording is, by what the file holds.

A header can be written before the length is known (streamed WAV and FLAC), describe only the first of several
files that were put one after another (WAV, FLAC, MP3, the chained streams of Ogg), or be missing (MP3). A
decoder that believes it reads a part of the recording and reports nothing. Here the stream itself is looked
at, and where its content differs from its header, the decoder is given a header that is right.
"""

from __future__ import annotations

import io
import mmap
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from quran_asr.mp3 import count_frames, info_frame

_FLAC = b"fLaC\0\0\0\x22"
_WHOLE_FILES = (
    b"#!AMR\n",
    b"#!AMR-WB\n",
    b"\x30\x26\xb2\x75\x8e\x66\xcf\x11\xa6\xd9\x00\xaa\x00\x62\xce\x6c",
    b"\x1aE\xdf\xa3",
)
"""How AMR, Windows Media and Matroska (WebM) files begin, also where one stands behind another."""
_LAST_FLAC_FRAME = 1 << 18
"""Bytes at the end of a FLAC file within which its last frame begins."""


@dataclass(frozen=True, slots=True)
class Link:
    """One stream of a file, as it is given to the decoder."""

    header: bytes
    """Put before the rest in place of what the file has there; empty: nothing is replaced."""
    start: int
    """Byte of the file at which the rest begins."""
    end: int


def links(path: Path) -> tuple[Link, ...]:
    """The streams of a file one after another, where the decoder cannot be given the file as it is.

    Returns:
        Empty where the header agrees with the stream, or where nothing better than the header is known.
    """
    stat = path.stat()
    return _links(path, stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=256)
def _links(path: Path, size: int, _modified: int) -> tuple[Link, ...]:
    if size < 44:
        return ()
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        if data[:4] == b"RIFF" and data[8:12] == b"WAVE":
            return _wav(data, 0, size)
        if data[:4] == b"fLaC":
            return _flac(data, size)
        if data[:4] == b"OggS":
            return _ogg(data, size)
        if data[4:8] == b"ftyp":
            return _mp4(data, size)
        for magic in _WHOLE_FILES:
            if data[: len(magic)] == magic:
                return _joined(data, magic, size)
    return _mp3(path, size)


def _wav(data: mmap.mmap, begin: int, size: int) -> tuple[Link, ...]:
    """WAV files one after another, or one whose `data` chunk is longer than its header claims, or unknown."""
    place = begin + 12
    while place + 8 <= size and data[place : place + 4] != b"data":
        place += 8 + _little(data, place + 4) + _little(data, place + 4) % 2
    start = place + 8
    if start >= size:
        return ()
    claimed, there = _little(data, place + 4), size - start
    if claimed > there:
        return ()  # truncated, which `audio` reports; or of unknown length, and libsndfile reads to the end
    behind = start + claimed + claimed % 2
    if claimed and data[behind : behind + 4] == b"RIFF":
        rest = _wav(data, behind, size) or (Link(b"", behind, size),)
        return (Link(b"", begin, behind), *rest)
    if claimed and (behind >= size or _is_chunk(data, behind, size)):
        return ()
    header = bytearray(data[begin:start])
    header[4:8] = min(size - begin - 8, 0xFFFF_FFFF).to_bytes(4, "little")
    header[place + 4 - begin : place + 8 - begin] = there.to_bytes(4, "little")
    return (Link(bytes(header), start, size),)


def _is_chunk(data: mmap.mmap, place: int, size: int) -> bool:
    """Whether a RIFF chunk, or no more than a few bytes of padding, stands here."""
    name = data[place : place + 4]
    named = len(name) == 4 and all(0x20 <= byte < 0x7F for byte in name)
    return size - place < 8 or (named and place + 8 + _little(data, place + 4) <= size + 1)


def _flac(data: mmap.mmap, size: int) -> tuple[Link, ...]:
    """FLAC files one after another, or one whose header has no length or a shorter one than its frames."""
    starts = [0]
    while (place := data.find(_FLAC, starts[-1] + 42)) >= 0:
        starts.append(place)
    ends = [*starts[1:], size]
    found = [_flac_link(data, start, end) for start, end in zip(starts, ends, strict=True)]
    return tuple(found) if len(found) > 1 or found[0].header else ()


def _flac_link(data: mmap.mmap, start: int, end: int) -> Link:
    info = int.from_bytes(data[start + 18 : start + 26], "big")
    claimed = info & ((1 << 36) - 1)
    fixed = int.from_bytes(data[start + 8 : start + 10], "big")  # smallest block, which all but the last have
    total = _last_flac_sample(data, max(start + 42, end - _LAST_FLAC_FRAME), end, fixed)
    if total is None or total <= claimed:  # a header that claims more means a truncated file
        return Link(b"", start, end)
    header = bytearray(data[start : start + 42])
    header[18:26] = (info & ~((1 << 36) - 1) | total).to_bytes(8, "big")
    return Link(bytes(header), start + 42, end)


def _last_flac_sample(data: mmap.mmap, first: int, end: int, fixed: int) -> int | None:
    """Samples up to the end of the last frame; a frame header is known by its CRC-8 (RFC 9639, 9.1)."""
    place = end
    while (place := data.rfind(b"\xff", first, place)) >= 0:
        total = _flac_frame_end(data[place : place + 16], fixed)
        if total is not None:
            return total
    return None


def _flac_frame_end(head: bytes, fixed: int) -> int | None:
    if len(head) < 6 or head[0] != 0xFF or head[1] & 0xFE != 0xF8:
        return None
    size_code, rate_code = head[2] >> 4, head[2] & 15
    if size_code == 0 or rate_code == 15 or head[3] & 1:
        return None
    length = max(1, 8 - (head[4] ^ 0xFF).bit_length()) if head[4] >= 0xC0 else 1
    number = head[4] & (0x7F if length == 1 else 0x7F >> length)
    for byte in head[5 : 4 + length]:
        number = number << 6 | byte & 0x3F
    place = 4 + length
    if size_code in (6, 7):
        wide = size_code - 5
        block, place = int.from_bytes(head[place : place + wide], "big") + 1, place + wide
    else:
        block = 192 if size_code == 1 else 576 << size_code - 2 if size_code < 6 else 256 << size_code - 8
    place += {12: 1, 13: 2, 14: 2}.get(rate_code, 0)
    if place >= len(head) or _crc8(head[:place]) != head[place]:
        return None
    variable = bool(head[1] & 1)
    return (number if variable else number * fixed) + block


def _crc8(content: bytes) -> int:
    crc = 0
    for byte in content:
        crc ^= byte
        for _ in range(8):
            crc = crc << 1 ^ 0x107 if crc & 0x80 else crc << 1
    return crc & 0xFF


def _ogg(data: mmap.mmap, size: int) -> tuple[Link, ...]:
    """Chained Ogg streams (RFC 3533, 4): a page that begins a stream, behind pages that do not."""
    starts, begins, place = [0], True, 0
    while place + 27 < size and data[place : place + 4] == b"OggS":
        first = bool(data[place + 5] & 2)
        if first and not begins:
            starts.append(place)
        begins = first
        lengths = data[place + 27 : place + 27 + data[place + 26]]
        place += 27 + len(lengths) + sum(lengths)
    return _cut(starts, size)


def _mp4(data: mmap.mmap, size: int) -> tuple[Link, ...]:
    """MPEG-4 files one after another: a box `ftyp` behind other boxes (ISO/IEC 14496-12, 4.2)."""
    starts, place = [0], 0
    while place + 8 <= size:
        length = int.from_bytes(data[place : place + 4], "big")
        if data[place + 4 : place + 8] == b"ftyp" and place:
            starts.append(place)
        if length == 1:
            length = int.from_bytes(data[place + 8 : place + 16], "big")
        if length < 8:  # 0: to the end of the file
            break
        place += length
    return _cut(starts, size)


def _joined(data: mmap.mmap, magic: bytes, size: int) -> tuple[Link, ...]:
    """Files one after another of a format whose first bytes do not come up within it."""
    starts, place = [0], 0
    while (place := data.find(magic, place + len(magic))) >= 0:
        # Matroska's four bytes alone could be sound: behind them stands the kind of document
        if len(magic) > 4 or b"\x42\x82" in data[place : place + 64]:
            starts.append(place)
    return _cut(starts, size)


def _cut(starts: list[int], size: int) -> tuple[Link, ...]:
    if len(starts) == 1:
        return ()
    return tuple(Link(b"", start, end) for start, end in zip(starts, [*starts[1:], size], strict=True))


def _mp3(path: Path, size: int) -> tuple[Link, ...]:
    frames = count_frames(path)
    return () if frames is None or frames.agrees else (Link(info_frame(frames), frames.start, size),)


def _little(data: mmap.mmap, place: int) -> int:
    return int.from_bytes(data[place : place + 4], "little")


class LinkFile(io.RawIOBase):
    """A link as a file: its header, then its part of the file. Reads and seeks."""

    def __init__(self, path: Path, link: Link) -> None:
        super().__init__()
        self._file = path.open("rb")
        self._link = link
        self._size = len(link.header) + link.end - link.start
        self._place = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: self._size}[whence]
        self._place = max(0, start + offset)
        return self._place

    def tell(self) -> int:
        return self._place

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        wanted = max(0, min(len(buffer), self._size - self._place))
        content = self._link.header[self._place : self._place + wanted]
        if len(content) < wanted:
            self._file.seek(self._link.start + self._place + len(content) - len(self._link.header))
            content += self._file.read(wanted - len(content))
        buffer[: len(content)] = content
        self._place += len(content)
        return len(content)

    def close(self) -> None:
        self._file.close()
        super().close()
