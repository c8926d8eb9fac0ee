"""MPEG audio frames, counted: how long an MP3 file is, whatever its first frame or a header claims.

MP3 files have no length. A decoder takes it from a Xing or Info header, which may be missing (then it is
guessed from the bit rate of the first frame, wrong where the bit rate varies) or be the header of the first
of several files that were put one after another. Here every frame is counted (ISO/IEC 11172-3, 13818-3), and
a header with the right count can be put before the frames.

Between the frames stand tags, headers of further files and bytes that are none of these. The count continues
behind them, where several headers follow one another; what a decoder is given are the frames alone. Bytes
that may have been frames are named as damage.
"""

from __future__ import annotations

import io
import mmap
import re
from dataclasses import dataclass, field
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
"""Zero bytes behind the last frame that are not damage, and bytes within which the first frame begins."""
_TOLERANCE_SECONDS = 0.1
"""What a header may claim more than there is, and what may be lost in bytes that are no frames."""
_ROUNDING = 1e-6
_ENTRY = re.compile(rb"\xff[\xe2-\xe7\xf2-\xff][\x10-\xef]|ID3[\x02-\x04]|APETAGEX|TAG")
"""What a frame or a tag begins with."""
_TAGS = (b"ID3", b"TAG", b"APE")


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

    @property
    def kind(self) -> tuple[int, int, int, bool]:
        """What a decoder needs to be the same in all frames."""
        return self.version, self.layer, self.rate, self.mono


@dataclass(slots=True)
class Run:
    """Frames of one rate and number of channels, one after another but for what stands between them."""

    rate: int
    mono: bool
    version: int
    layer: int
    samples: int = 0
    """Of each channel, of all frames."""
    pieces: list[tuple[int, int]] = field(default_factory=list)
    """The bytes of the file that are frames with audio: (first, behind the last), rising."""
    bit_rates: set[int] = field(default_factory=set)
    longest: int = 0
    """Bytes of its longest frame."""

    def add(self, place: int, frame: _Frame) -> None:
        """Take in a frame with audio."""
        self.samples += frame.samples
        self.bit_rates.add(frame.kilobits)
        self.longest = max(self.longest, frame.bytes)
        start = self.pieces.pop()[0] if self.pieces and self.pieces[-1][1] == place else place
        self.pieces.append((start, place + frame.bytes))

    def drop(self, place: int, frame: _Frame) -> None:
        """Let go of the last frame, which begins at this byte."""
        self.samples -= frame.samples
        start = self.pieces.pop()[0]
        if start < place:
            self.pieces.append((start, place))

    @property
    def kind(self) -> tuple[int, int, int, bool]:
        """As that of its frames."""
        return self.version, self.layer, self.rate, self.mono

    @property
    def constant(self) -> bool:
        """Whether all frames have one bit rate: a decoder then knows the length by the size."""
        return len(self.bit_rates) == 1


@dataclass(frozen=True, slots=True)
class Mp3:
    """The frames of a file, summed up."""

    runs: tuple[Run, ...]
    claimed: int | None
    """Samples by the Xing or Info header; None where there is none, or it lacks them."""
    behind: int
    """Bytes behind the last frame."""
    starts_whole: bool
    """Whether the file begins with a frame or an ID3 tag."""
    damage: str | None
    """Why the frames are not a whole recording; None if they are."""

    @property
    def samples(self) -> int:
        """Of each channel, of all frames, each at its own rate."""
        return sum(run.samples for run in self.runs)

    @property
    def agrees(self) -> bool:
        """Whether a decoder that is given the file as it is reads to the end, within 0.1 s."""
        first = self.runs[0]
        if len(self.runs) > 1 or len(first.pieces) > 1 or not self.starts_whole:
            return False
        if self.claimed is not None:
            return abs(first.samples - self.claimed) <= _TOLERANCE_SECONDS * first.rate
        start, end = first.pieces[0]
        lasts = first.samples / first.rate
        return first.constant and self.behind * lasts / (end - start) <= _TOLERANCE_SECONDS


@dataclass(frozen=True, slots=True)
class _Gap:
    """Bytes that are neither frames nor tags."""

    start: int
    end: int
    before: float
    """Seconds of audio before it."""
    cuts: bool
    """Whether it begins with a part of a frame, whose rest is missing."""


@dataclass(slots=True)
class _Scan:
    """What a pass over the bytes found."""

    runs: list[Run] = field(default_factory=list)
    seconds: float = 0.0
    """Of all frames with audio."""
    headers: list[tuple[int | None, int, float]] = field(default_factory=list)
    """Of each Xing, Info or VBRI header: samples claimed, their rate, seconds of audio before it."""
    gaps: list[_Gap] = field(default_factory=list)
    beginnings: set[int] = field(default_factory=set)
    """Bytes at which a file begins: an ID3 tag, a header, a frame of another rate or number of channels."""


def count_frames(path: Path) -> Mp3 | None:
    """Count the frames of a file, Xing, Info and VBRI headers left out.

    Returns:
        None where the file is not MPEG audio, or of free bit rate. The decoder's own judgement is then the
        better one.
    """
    with path.open("rb") as file:
        if not (size := file.seek(0, io.SEEK_END)):
            return None
        with mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ) as data:
            scan = _scan(data, size)
            scan.runs = [run for run in scan.runs if run.samples]
            if not scan.runs:
                return None
            behind_tag = (_behind_tag(data, 0, size) or 0) if data[:3] == b"ID3" else 0
            begin = scan.runs[0].pieces[0][0]
            return Mp3(
                tuple(scan.runs),
                scan.headers[0][0] if scan.headers and scan.headers[0][2] == 0 else None,
                size - scan.runs[-1].pieces[-1][1],
                _frame(data[behind_tag : behind_tag + 4]) is not None
                and all(gap.start > begin for gap in scan.gaps),
                _damage(scan, data, size),
            )


def _scan(data: mmap.mmap, size: int) -> _Scan:
    scan = _Scan()
    place = 0
    latest: tuple[int, _Frame] | None = None
    """The frame that ends at `place`, if one does."""
    while place < size:
        frame = _frame(data[place : place + 4])
        continues = frame is not None and bool(scan.runs) and scan.runs[-1].kind == frame.kind
        if frame is not None and (continues or _in_step(data, place, size)):
            if place + frame.bytes > size:
                break  # a last frame that is cut off is not decoded
            if not continues:
                if scan.runs:
                    scan.beginnings.add(place)
                scan.runs.append(Run(frame.rate, frame.mono, frame.version, frame.layer))
            latest = place, frame
            if _is_header(data, place, frame):
                scan.headers.append((_claimed(data, place, frame), frame.rate, scan.seconds))
                scan.beginnings.add(place)
                latest = None
            else:
                scan.runs[-1].add(place, frame)
                scan.seconds += frame.samples / frame.rate
            place += frame.bytes
        elif (after := _behind_tag(data, place, size)) is not None:
            if data[place : place + 3] == b"ID3":  # the other tags stand at the end
                scan.beginnings.add(place)
            place, latest = after, None
        else:
            begin = place if latest is None else latest[0] + 4
            found = _next_entry(data, begin, size if scan.runs else min(size, begin + _PADDING))
            cut_off = latest is not None and found < place
            if latest is not None and cut_off:
                place = latest[0]
                scan.runs[-1].drop(*latest)
                scan.seconds -= latest[1].samples / latest[1].rate
            if not scan.runs and found == min(size, begin + _PADDING):
                return scan
            scan.gaps.append(_Gap(place, found, scan.seconds, cut_off))
            place, latest = found, None
    return scan


def _damage(scan: _Scan, data: mmap.mmap, size: int) -> str | None:
    """What is missing, by the headers or by bytes that may have been frames."""
    if any(run.layer != 3 and not run.constant for run in scan.runs):
        return "MPEG audio of layer I or II whose bit rate changes; its length is unknown"
    ends = [*(before for _, _, before in scan.headers[1:]), scan.seconds]
    whole: list[tuple[float, float]] = []
    """Seconds from and to which all is there that a header claims."""
    for (claimed, rate, before), end in zip(scan.headers, ends, strict=False):
        if claimed is None:
            continue
        lasts, there = claimed / rate, end - before
        # the header of a joined file may count what follows, up to the end, too
        counts_all = abs(lasts - (scan.seconds - before)) <= _TOLERANCE_SECONDS
        if lasts - there > _TOLERANCE_SECONDS and not counts_all:
            return f"truncated: {there:.1f} of {lasts:.1f} s are there"
        if lasts - there < _ROUNDING or abs(lasts - (scan.seconds - before)) < _ROUNDING:
            whole.append((before, end))
    longest = max(run.longest for run in scan.runs)
    audio = sum(end - start for run in scan.runs for start, end in run.pieces)
    lost = []
    for gap in scan.gaps:
        if any(before < gap.before <= end for before, end in whole) or _is_harmless(scan, gap, data):
            continue
        lost.append(gap)
        # within a recording it may be what is left of a hole of any size
        within = 0 < gap.before < scan.seconds and not _is_text(data[gap.start : gap.end])
        if within and (gap.cuts or data[gap.start : gap.end].strip(b"\0")):
            return f"damaged: {gap.end - gap.start:,} bytes from byte {gap.start:,} on are not MPEG audio"
    if sum(gap.end - gap.start for gap in lost) > max(longest, _TOLERANCE_SECONDS * audio / scan.seconds):
        worst = max(lost, key=lambda gap: gap.end - gap.start)
        return f"damaged: {worst.end - worst.start:,} bytes from byte {worst.start:,} on are not MPEG audio"
    return None


def _is_harmless(scan: _Scan, gap: _Gap, data: mmap.mmap) -> bool:
    """Whether bytes stand between files, or before or behind all frames, and were none."""
    content = data[gap.start : min(gap.end, gap.start + 4 * _PADDING)]
    zeros = len(content) <= _PADDING and not content.strip(b"\0")
    if gap.before >= scan.seconds:
        return zeros or (gap.start + len(content) == gap.end and _is_text(content))
    return gap.end in scan.beginnings or (zeros and gap.before == 0 and gap.start > 0)


def _is_text(content: bytes) -> bool:
    bare = content.rstrip(b"\0")
    if not bare or len(content) - len(bare) > _PADDING:
        return False
    try:
        text = bare.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return all(letter >= " " or letter in "\t\r\n\f" for letter in text)


def _next_entry(data: mmap.mmap, place: int, end: int) -> int:
    """Where the next tag begins, or the next frame that others follow; `end` where neither does."""
    while (found := _ENTRY.search(data, place, end)) is not None:
        place = found.start()
        if _in_step(data, place, len(data)) or _behind_tag(data, place, len(data)) is not None:
            return place
        place += 1
    return end


def _in_step(data: mmap.mmap, place: int, size: int) -> bool:
    """Whether a frame is here and two more of its kind follow, or the end or a tag does."""
    first = frame = _frame(data[place : place + 4])
    begin = place
    for _ in range(2):
        if first is None or frame is None or frame.kind != first.kind:
            return False
        place += frame.bytes
        if place >= size:
            return place == size or place - frame.bytes > begin
        if data[place : place + 3] in _TAGS:
            return True
        frame = _frame(data[place : place + 4])
    return first is not None and frame is not None and frame.kind == first.kind


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
    """The byte behind a tag (ID3v2, ID3v1, APE); None where there is none, or its length is wrong."""
    head = data[place : place + 32]
    if head.startswith(b"ID3") and len(head) >= 10 and max(head[6:10]) < 0x80:
        after = place + 10 + int.from_bytes(head[6:10], "big") - _unused_bits(head[6:10])
    elif head.startswith(b"TAG"):
        after = min(size, place + 128)
    elif head.startswith(b"APETAGEX") and len(head) == 32:
        after = place + 32 + (int.from_bytes(head[12:16], "little") if head[23] & 0x20 else 0)
    else:
        return None
    behind = data[after : after + 4]
    fits = after == size or behind[:1] == b"\0" or behind[:3] in _TAGS or _frame(behind) is not None
    return after if fits else None


def _unused_bits(coded: bytes) -> int:
    """What to subtract from a number of four bytes to read it with seven bits a byte, as ID3v2 does."""
    plain = int.from_bytes(coded, "big")
    seven = sum(byte << 7 * (3 - place) for place, byte in enumerate(coded))
    return plain - seven


def info_frame(run: Run) -> bytes:
    """A layer III frame without audio that holds an Info header with the number of frames."""
    per_frame = 1152 if run.version == 3 else 576
    kilobits = 64
    index = _BIT_RATES[1 if run.version == 3 else 2, 3].index(kilobits)
    rate_index = _RATES[run.version].index(run.rate)
    head = bytes(
        [0xFF, 0xE0 | run.version << 3 | 1 << 1 | 1, index << 4 | rate_index << 2, 0xC0 if run.mono else 0]
    )
    length = per_frame // 8 * 1000 * kilobits // run.rate
    content = b"Info" + (1).to_bytes(4, "big") + (run.samples // per_frame).to_bytes(4, "big")
    frame = head + bytes(_side_bytes(run.version, run.mono)) + content
    return frame + bytes(length - len(frame))
