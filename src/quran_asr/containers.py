"""Containers whose header and stream disagree: how long a recording is, by what the file holds.

A header can be written before the length is known (streamed WAV and FLAC), describe only the first of several
files that were put one after another (WAV, FLAC, MP3, the chained streams of Ogg), or be missing (MP3). A
decoder that believes it reads a part of the recording and reports nothing. Here the stream itself is looked
at, and where its content differs from its header, the decoder is given a header that is right. Where a
header claims more than there is, or an MP3 file has a hole, `damage` says so.
"""

from __future__ import annotations

import io
import math
import mmap
import re
from bisect import bisect_right
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Literal

from quran_asr.mp3 import Mp3, Run, count_frames, info_frame

_FLAC = b"fLaC\0\0\0\x22"
_WHOLE_FILES = (
    b"#!AMR\n",
    b"#!AMR-WB\n",
    b"\x30\x26\xb2\x75\x8e\x66\xcf\x11\xa6\xd9\x00\xaa\x00\x62\xce\x6c",
    b"\x1aE\xdf\xa3",
)
"""How AMR, Windows Media and Matroska (WebM) files begin, also where one stands behind another."""
_NO_MP3 = (
    *(b"RIFF", b"RIFX", b"RF64", b"BW64", b"riff", b"FORM", b".snd", b"dns.", b"caff"),
    *(b"FLV", b"\x0b\x77", b"\0\0\x01\xba", b"NIST_1A\n", b"Creative Voi", b"2BIT", b"MATLAB 5.0"),
)
"""How other files begin that may hold MPEG frames, or bytes like them: also AC-3 and MPEG program streams."""
_TRANSPORT = ((0, 188), (4, 192))
"""Where the first and how far apart the sync bytes `G` of an MPEG transport stream are; the second: M2TS."""
_W64_RIFF = b"riff\x2e\x91\xcf\x11\xa5\xd6\x28\xdb\x04\xc1\x00\x00"
_UNKNOWN = 0x7FFF_0000
"""From here on a size of 32 bits means that it was not known; so does 0."""
_SPARE = 64
"""Bytes that a size may be too large: some programs count a header too many."""
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
    left_out: tuple[tuple[int, int], ...] = ()
    """Bytes between the two that the decoder is not given: (first, behind the last), rising."""


def links(path: Path) -> tuple[Link, ...]:
    """The streams of a file one after another, where the decoder cannot be given the file as it is.

    Returns:
        Empty where the header agrees with the stream, or where nothing better than the header is known.
    """
    stat = path.stat()
    return _links(path, stat.st_size, stat.st_mtime_ns)


def damage(path: Path) -> str | None:
    """What is missing of a file by its headers or its frames, which a decoder does not report.

    Returns:
        The reason, `truncated: ...` or `damaged: ...`; None where nothing is known to be missing.
    """
    stat = path.stat()
    found = _links(path, stat.st_size, stat.st_mtime_ns)
    if not stat.st_size:
        return None
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        if _may_be_mp3(data):
            frames = _frames(path, stat.st_size, stat.st_mtime_ns)
            return frames.damage if frames is not None else None
        for begin in [link.start for link in found if not link.header] or [_behind_id3(data)]:
            for claimed, there in _sizes(data, begin, stat.st_size):
                if claimed > there + _SPARE:
                    return f"truncated: {there:,} of {claimed:,} bytes are there"
    return None


@lru_cache(maxsize=256)
def _links(path: Path, size: int, modified: int) -> tuple[Link, ...]:
    if size < 44:
        return ()
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        begin = _behind_id3(data)
        if data[begin : begin + 4] == b"RIFF" and data[begin + 8 : begin + 12] == b"WAVE":
            return _wav(data, begin, size)
        if data[begin : begin + 4] == b"fLaC":
            return _flac(data, begin, size)
        if data[begin : begin + 4] == b"OggS":
            return _ogg(data, begin, size)
        if data[begin : begin + 4] in (b".snd", b"dns."):
            return _au(data, begin, size)
        if data[4:8] == b"ftyp":
            return _mp4(data, size)
        for magic in _WHOLE_FILES:
            if data[: len(magic)] == magic:
                return _joined(data, magic, size)
        if not _may_be_mp3(data):
            return ()
    return _mp3(_frames(path, size, modified), size)


@lru_cache(maxsize=256)
def _frames(path: Path, _size: int, _modified: int) -> Mp3 | None:
    return count_frames(path)


def _behind_id3(data: mmap.mmap) -> int:
    """The byte behind the ID3 tags (version 2) that a file of any kind may begin with."""
    place = 0
    while data[place : place + 3] == b"ID3" and len(head := data[place : place + 10]) == 10:
        place += 10 + sum((byte & 0x7F) << 7 * (9 - i) for i, byte in enumerate(head) if i >= 6)
    return place


def _may_be_mp3(data: mmap.mmap) -> bool:
    """Whether the first bytes, behind tags, are not those of another kind of file."""
    head = data[:192]
    begin = _behind_id3(data)
    start = data[begin : begin + 12]
    if start.startswith((b"fLaC", b"OggS", *_NO_MP3, *_WHOLE_FILES)) or head[4:8] in (
        b"ftyp",
        b"moov",
        b"wide",
    ):
        return False
    if start[:1] == b"\xff" and start[1:2] and start[1] & 0xF6 == 0xF0:  # ADTS, which no MPEG audio is
        return False
    return not any(head[i : i + 1] == head[i + each : i + each + 1] == b"G" for i, each in _TRANSPORT)


def _sizes(data: mmap.mmap, begin: int, size: int) -> list[tuple[int, int]]:
    """Bytes of a file and of its samples by its header, where it names them, and how many there are."""
    magic = data[begin : begin + 4]
    if magic in (b"RIFF", b"RIFX"):
        return _chunk_sizes(data, begin, size, "little" if magic == b"RIFF" else "big", b"data")
    if magic == b"FORM":
        return _chunk_sizes(data, begin, size, "big", b"SSND")
    if magic in (b".snd", b"dns."):
        offset, claimed = (
            int.from_bytes(data[place : place + 4], "big" if magic == b".snd" else "little")
            for place in (begin + 4, begin + 8)
        )
        return [(claimed, size - begin - offset)] if claimed < _UNKNOWN else []
    if magic in (b"RF64", b"BW64") and data[begin + 12 : begin + 16] == b"ds64":
        whole, samples = _long(data, begin + 20), _long(data, begin + 28)
        found = _chunk_sizes(data, begin, size, "little", b"data")
        start = _chunk(data, begin, size, "little", b"data")
        found += [(whole + 8, size - begin), (samples, size - start)]
        return [(claimed, there) for claimed, there in found if claimed < 1 << 62]
    if magic == b"caff":
        place = begin + 8
        while place + 12 <= size and data[place : place + 4] != b"data":
            place += 12 + int.from_bytes(data[place + 4 : place + 12], "big")
        claimed = int.from_bytes(data[place + 4 : place + 12], "big")
        return [(claimed, size - place - 12)] if place + 12 <= size and claimed < 1 << 62 else []
    if data[begin : begin + 16] == _W64_RIFF:
        found = [(_long(data, begin + 16), size - begin)]
        place = begin + 40
        while place + 24 <= size and data[place : place + 4] != b"data":
            place += max(24, _long(data, place + 16) + 7 & ~7)
        if place + 24 <= size:
            found.append((_long(data, place + 16), size - place))
        return [(claimed, there) for claimed, there in found if claimed < 1 << 62]
    return _rare_sizes(data, begin, size)


def _rare_sizes(data: mmap.mmap, begin: int, size: int) -> list[tuple[int, int]]:
    """Those of formats that libsndfile reads to the end of the file, whatever their header claims.

    IRCAM, PVF and PAF have no length in their header: of them nothing can be known to be missing.
    """
    head = data[begin : begin + 1024]
    if head.startswith(b"NIST_1A\n"):
        fields = dict(re.findall(rb"(\w+) -i (\d{1,12})\b", head))
        names = (b"sample_count", b"sample_n_bytes", b"channel_count")
        if b"shorten" in head or not all(name in fields for name in names):
            return []
        header = head[8:16].strip()
        claimed = math.prod(int(fields[name]) for name in names)
        return [(claimed, size - begin - int(header))] if header.isdigit() else []
    if head.startswith(b"Creative Voice File"):
        return _block_sizes(data, begin + int.from_bytes(head[20:22], "little"), size, begin)
    if head.startswith(b"2BIT"):
        channels, bits = 1 + (head[12:14] != b"\0\0"), int.from_bytes(head[14:16], "big")
        return [(int.from_bytes(head[26:30], "big") * channels * bits // 8, size - begin - 128)]
    if head.startswith(b"MATLAB 5.0 MAT-file"):
        order: Literal["little", "big"] = "little" if head[126:128] == b"IM" else "big"
        place, found = begin + 128, list[tuple[int, int]]()
        while place + 8 <= size:
            length = int.from_bytes(data[place + 4 : place + 8], order)
            found.append((place + 8 + length - begin, size - begin))
            place += 8 + length
        return found
    return []


def _block_sizes(data: mmap.mmap, place: int, size: int, begin: int) -> list[tuple[int, int]]:
    """Of a VOC file, where each of its blocks ends."""
    found: list[tuple[int, int]] = []
    while place + 4 <= size and data[place]:  # 0 is the end
        place += 4 + int.from_bytes(data[place + 1 : place + 4], "little")
        found.append((place - begin, size - begin))
    return found


def _chunk_sizes(
    data: mmap.mmap, begin: int, size: int, order: Literal["little", "big"], name: bytes
) -> list[tuple[int, int]]:
    """Those of a file of chunks, the samples in the chunk of this name."""
    found = [(int.from_bytes(data[begin + 4 : begin + 8], order) + 8, size - begin)]
    start = _chunk(data, begin, size, order, name)
    if start < size:
        found.append((int.from_bytes(data[start - 4 : start], order), size - start))
    return [(claimed, there) for claimed, there in found if claimed < _UNKNOWN]


def _chunk(data: mmap.mmap, begin: int, size: int, order: Literal["little", "big"], name: bytes) -> int:
    """The first byte of a chunk's content; `size` or more if it is not there."""
    place = begin + 12
    while place + 8 <= size and data[place : place + 4] != name:
        length = int.from_bytes(data[place + 4 : place + 8], order)
        place += 8 + length + length % 2
    return place + 8


def _wav(data: mmap.mmap, begin: int, size: int) -> tuple[Link, ...]:
    """WAV files one after another, or one whose `data` chunk is longer than its header claims, or unknown."""
    start = _chunk(data, begin, size, "little", b"data")
    place = start - 8
    if start >= size:
        return ()
    claimed, there = _little(data, place + 4), size - start
    if claimed > there:
        return ()  # truncated, which `damage` reports; or of unknown length, and libsndfile reads to the end
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


def _au(data: mmap.mmap, begin: int, size: int) -> tuple[Link, ...]:
    """AU files one after another, or one with more samples than its header claims: nothing else follows."""
    magic = data[begin : begin + 4]
    order: Literal["little", "big"] = "big" if magic == b".snd" else "little"
    starts = [begin]
    while True:
        offset, claimed = (int.from_bytes(data[starts[-1] + i : starts[-1] + i + 4], order) for i in (4, 8))
        behind = starts[-1] + offset + claimed
        if offset < 24 or claimed >= _UNKNOWN or data[behind : behind + 4] != magic:
            break
        starts.append(behind)
    if len(starts) > 1 or claimed >= _UNKNOWN or behind + _SPARE >= size:
        return _cut(starts, size)
    start = begin + offset
    header = data[begin : begin + 8] + (size - start).to_bytes(4, order) + data[begin + 12 : start]
    return (Link(header, start, size),)


def _flac(data: mmap.mmap, begin: int, size: int) -> tuple[Link, ...]:
    """FLAC files one after another, or one whose header has no length or a shorter one than its frames."""
    starts = [begin]
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


def _ogg(data: mmap.mmap, begin: int, size: int) -> tuple[Link, ...]:
    """Chained Ogg streams (RFC 3533, 4): a page that begins a stream, behind pages that do not."""
    starts, begins, place = [begin], True, begin
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


def _mp3(frames: Mp3 | None, size: int) -> tuple[Link, ...]:
    """The frames of each rate and number of channels, without tags and whatever else lies between them."""
    if frames is None or frames.agrees:
        return ()
    return tuple(_mp3_link(run) for run in frames.runs)


def _mp3_link(run: Run) -> Link:
    left_out = tuple((before[1], after[0]) for before, after in pairwise(run.pieces))
    # of layers I and II all frames have one bit rate, which a decoder computes the length from
    header = info_frame(run) if run.layer == 3 else b""
    return Link(header, run.pieces[0][0], run.pieces[-1][1], left_out)


def _little(data: mmap.mmap, place: int) -> int:
    return int.from_bytes(data[place : place + 4], "little")


def _long(data: mmap.mmap, place: int) -> int:
    return int.from_bytes(data[place : place + 8], "little")


class LinkFile(io.RawIOBase):
    """A link as a file: its header, then its part of the file. Reads and seeks."""

    def __init__(self, path: Path, link: Link) -> None:
        super().__init__()
        self._file = path.open("rb")
        self._header = link.header
        edges = [link.start, *(edge for hole in link.left_out for edge in hole), link.end]
        self._starts = edges[::2]
        """Bytes of the file at which a stretch begins that is read."""
        lengths = [end - start for start, end in zip(self._starts, edges[1::2], strict=True)]
        self._ends = list(accumulate(lengths, initial=len(link.header)))
        """Places at which the header and each stretch end."""
        self._size = self._ends[-1]
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
        content = self._header[self._place : self._place + wanted]
        while len(content) < wanted:
            place = self._place + len(content)
            stretch = bisect_right(self._ends, place) - 1
            self._file.seek(self._starts[stretch] + place - self._ends[stretch])
            more = self._file.read(min(wanted - len(content), self._ends[stretch + 1] - place))
            if not more:  # the file has become shorter
                break
            content += more
        buffer[: len(content)] = content
        self._place += len(content)
        return len(content)

    def close(self) -> None:
        self._file.close()
        super().close()
