"""MPEG audio frames, counted: how long an MP3 file is, whatever its first frame or a header claims.

MP3 files have no length. A decoder takes it from a Xing or Info header, which may be missing (then it is
guessed from the bit rate of the first frame, wrong where the bit rate varies) or be the header of the first
of several files that were put one after another. Here every frame is counted (ISO/IEC 11172-3, 13818-3), and
a header with the right count can be put before the frames.
"""

from __future__ import annotations

import io
import mmap
from dataclasses import dataclass
from pathlib import Path

_BIT_RATES = {
    (1, 1): (0, 32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (1, 2): (0, 32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (1, 3): (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (2, 1): (0, 32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (2, 2): (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (2, 3): (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
"""Kilobits a second by (MPEG-1 or MPEG-2 and 2.5, layer)."""
_RATES = {3: (44_100, 48_000, 32_000), 2: (22_050, 24_000, 16_000), 0: (11_025, 12_000, 8_000)}
"""Hertz by the two version bits."""
_PADDING = 1 << 16
"""Zero bytes behind the last frame, or between files, that are not damage."""


@dataclass(frozen=True, slots=True)
class _Frame:
    bytes: int
    samples: int
    rate: int
    version: int
    """The two bits: 3 is MPEG-1, 2 is MPEG-2, 0 is MPEG-2.5."""
    layer: int
    mono: bool
    kilobits: int


@dataclass(frozen=True, slots=True)
class Mp3:
    """The frames of a file, summed up."""

    start: int
    """Byte of the first frame with audio."""
    samples: int
    """Of each channel, of all frames."""
    rate: int
    mono: bool
    version: int
    claimed: int | None
    """Samples by the Xing or Info header; None where there is none, or it lacks them."""
    constant: bool
    """Whether all frames have one bit rate: a decoder then knows the length by the size of the file."""

    @property
    def agrees(self) -> bool:
        """Whether a decoder that believes header and first frame reads to the end, within 0.1 s.

        A header that claims more than there is means a truncated file, and is left as it is.
        """
        if self.claimed is None:
            return self.constant
        return self.samples - self.claimed <= self.rate // 10


def count_frames(path: Path) -> Mp3 | None:
    """Count the frames of a file, a Xing, Info or VBRI header left out.

    Returns:
        None where the file is not a row of MPEG audio frames and tags: something else, damaged, of a changing
        rate or free bit rate. The decoder's own judgement is then the better one.
    """
    with path.open("rb") as file:
        if not (size := file.seek(0, io.SEEK_END)):
            return None
        with mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ) as data:
            return _count(data, size)


def _count(data: mmap.mmap, size: int) -> Mp3 | None:
    place, samples, start = 0, 0, -1
    first: _Frame | None = None
    claimed: int | None = None
    bit_rates: set[int] = set()
    while place < size:
        frame = _frame(data[place : place + 4])
        if frame is None:
            after = _behind_tag(data, place, size)
            if after is None:
                return None
            place = after
            continue
        if frame.layer != 3 or (first is not None and frame.rate != first.rate):
            return None
        if place + frame.bytes > size and start >= 0:
            break  # a last frame that is cut off is not decoded
        if _is_header(data, place, frame):
            if first is None:
                claimed = _claimed(data, place, frame)
        else:
            start = place if start < 0 else start
            samples += frame.samples
            bit_rates.add(frame.kilobits)
        first = first or frame
        place += frame.bytes
    if first is None or start < 0:
        return None
    return Mp3(start, samples, first.rate, first.mono, first.version, claimed, len(bit_rates) == 1)


def _frame(head: bytes) -> _Frame | None:
    """A frame header of four bytes; None where it is none."""
    if len(head) < 4 or head[0] != 0xFF or head[1] & 0xE0 != 0xE0:
        return None
    version, layer = head[1] >> 3 & 3, 4 - (head[1] >> 1 & 3)
    rate_index, bit_rate_index = head[2] >> 2 & 3, head[2] >> 4
    if version == 1 or layer == 4 or rate_index == 3 or bit_rate_index in (0, 15):
        return None
    rate = _RATES[version][rate_index]
    kilobits = _BIT_RATES[1 if version == 3 else 2, layer][bit_rate_index]
    padding = head[2] >> 1 & 1
    if layer == 1:
        length = (12_000 * kilobits // rate + padding) * 4
        return _Frame(length, 384, rate, version, 1, head[3] >> 6 == 3, kilobits)
    samples = 576 if layer == 3 and version != 3 else 1152
    length = samples // 8 * 1000 * kilobits // rate + padding
    return _Frame(length, samples, rate, version, layer, head[3] >> 6 == 3, kilobits)


def _is_header(data: mmap.mmap, place: int, frame: _Frame) -> bool:
    """Whether a frame holds no audio but a Xing, Info or VBRI header."""
    xing = place + 4 + _side_bytes(frame.version, frame.mono)
    return data[xing : xing + 4] in (b"Xing", b"Info") or data[place + 36 : place + 40] == b"VBRI"


def _claimed(data: mmap.mmap, place: int, frame: _Frame) -> int | None:
    """Samples that a Xing or Info header claims."""
    begin = place + 4 + _side_bytes(frame.version, frame.mono)
    content = data[begin : begin + 12]
    if content[:4] not in (b"Xing", b"Info") or not content[7] & 1:
        return None
    return int.from_bytes(content[8:12], "big") * frame.samples


def _side_bytes(version: int, mono: bool) -> int:
    """Bytes of a layer III frame's side information."""
    if version == 3:
        return 17 if mono else 32
    return 9 if mono else 17


def _behind_tag(data: mmap.mmap, place: int, size: int) -> int | None:
    """The byte behind a tag (ID3v2, ID3v1, APE) or a stretch of zeros; None where there is neither."""
    head = data[place : place + 32]
    if head.startswith(b"ID3") and len(head) >= 10 and max(head[6:10]) < 0x80:
        return place + 10 + int.from_bytes(head[6:10], "big") - _unused_bits(head[6:10])
    if head.startswith(b"TAG"):
        return place + 128
    if head.startswith(b"APETAGEX") and len(head) == 32:
        return place + 32 + (int.from_bytes(head[12:16], "little") if head[23] & 0x20 else 0)
    if head[:1] == b"\0":
        end = place
        while end < min(size, place + _PADDING) and data[end] == 0:
            end += 1
        return end if end == size or end - place < _PADDING else None
    return None


def _unused_bits(coded: bytes) -> int:
    """What to subtract from a number of four bytes to read it with seven bits a byte, as ID3v2 does."""
    plain = int.from_bytes(coded, "big")
    seven = sum(byte << 7 * (3 - place) for place, byte in enumerate(coded))
    return plain - seven


def info_frame(mp3: Mp3) -> bytes:
    """A layer III frame without audio that holds an Info header with the number of frames."""
    per_frame = 1152 if mp3.version == 3 else 576
    kilobits = 64
    index = _BIT_RATES[1 if mp3.version == 3 else 2, 3].index(kilobits)
    rate_index = _RATES[mp3.version].index(mp3.rate)
    head = bytes(
        [0xFF, 0xE0 | mp3.version << 3 | 1 << 1 | 1, index << 4 | rate_index << 2, 0xC0 if mp3.mono else 0]
    )
    length = per_frame // 8 * 1000 * kilobits // mp3.rate
    content = b"Info" + (1).to_bytes(4, "big") + (mp3.samples // per_frame).to_bytes(4, "big")
    frame = head + bytes(_side_bytes(mp3.version, mp3.mono)) + content
    return frame + bytes(length - len(frame))
