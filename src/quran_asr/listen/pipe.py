"""Sound from a pipe: 16-bit samples as they come, as `ffmpeg -f s16le -` writes them."""

from __future__ import annotations

import os
import select
import sys
import time
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from quran_asr.findings import QuranAsrError

BLOCK_BYTES = 1 << 16
HEAD_BYTES = 2048
"""Looked at before anything is heard, 64 ms at 16 kHz: the first frame of an MP3 and the next header."""
_FILES = {
    b"RIFF": "wav",
    b"OggS": "ogg",
    b"fLaC": "flac",
    b"ID3": "mp3",
    b"<!doctype": "a web page",
    b"<html": "a web page",
    b"<head": "a web page",
    b"<?xml": "a web page",
    b"<script": "a web page",
    b"<!--": "a web page",
}
"""How files begin that are no bare samples; a recording begins so once in millions."""
_MP3_KILOBITS = {
    True: (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    False: (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
"""MPEG-1 or MPEG-2, layer III -> rates that the header's indices 1 to 14 mean (ISO/IEC 11172-3, 13818-3)."""
_MP3_HERTZ = {True: (44_100, 48_000, 32_000), False: (22_050, 24_000, 16_000)}


def piped(descriptor: int, *, stall_seconds: float = 10.0, where: str = "-") -> Iterator[NDArray[np.int16]]:
    """Samples until the writer closes the pipe.

    Args:
        descriptor: what to read; mono, 16 bits, little-endian.
        stall_seconds: nothing for so long is an error (not on Windows, which cannot wait for a pipe).
        where: named in errors.

    Yields:
        int16 [samples], as many as are there; never none.

    Raises:
        QuranAsrError: a file comes instead of samples, or nothing comes.
    """
    rest = _head(descriptor, stall_seconds, where)
    _refuse_file(rest, where)
    if len(rest) < 2:
        raise QuranAsrError("no sound came", where=where, remedy="look at what writes into the pipe")
    new = b""
    while True:
        data = rest + new
        whole = len(data) // 2 * 2
        rest = data[whole:]
        if whole:
            yield np.frombuffer(data[:whole], "<i2").astype(np.int16, copy=False)
        new = _read(descriptor, stall_seconds, where)
        if not new:
            return


def _head(descriptor: int, stall_seconds: float, where: str) -> bytes:
    """The first bytes, however small the pieces are in which they come."""
    head = b""
    while len(head) < HEAD_BYTES and (new := _read(descriptor, stall_seconds, where)):
        head += new
    return head


def _read(descriptor: int, seconds: float, where: str) -> bytes:
    """What there is, at least a byte; none at the end. Waits are short, so that Ctrl-C is answered."""
    until = time.monotonic() + seconds
    while sys.platform != "win32" and not select.select([descriptor], [], [], 0.1)[0]:
        if time.monotonic() >= until:
            raise QuranAsrError(
                f"no sound has come for {seconds:g} s",
                where=where,
                remedy="look at what writes into the pipe",
            )
    return os.read(descriptor, BLOCK_BYTES)


def _refuse_file(head: bytes, where: str) -> None:
    if (what := _file_kind(head)) is not None:
        raise QuranAsrError(
            f"{what} comes, and bare 16-bit samples are read from a pipe",
            where=where,
            remedy="name the file itself, or: ffmpeg -i FILE -f s16le -ac 1 -ar 16000 - | ...",
        )


def _file_kind(head: bytes) -> str | None:
    """What file begins so; None of samples."""
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    for magic, what in _FILES.items():
        if head.startswith(magic) or (what == "a web page" and text.startswith(magic)):
            return what
    if head[4:8] == b"ftyp":
        return "mp4"
    return "mp3" if _is_mp3(head) else None


def _is_mp3(head: bytes) -> bool:
    """Two bytes alone (FF FB, FA, F3 or F2) may be a sample: the header must be one and another follow."""
    length = _mp3_frame(head)
    return length is not None and (len(head) < length + 2 or head[length : length + 2] == head[:2])


def _mp3_frame(head: bytes) -> int | None:
    """Bytes of the frame of layer III that begins here; None where none does."""
    if len(head) < 4 or head[0] != 0xFF or head[1] not in (0xFB, 0xFA, 0xF3, 0xF2):
        return None
    first = head[1] >= 0xFA
    bitrate, rate = head[2] >> 4, head[2] >> 2 & 3
    if not 1 <= bitrate <= 14 or rate == 3:
        return None
    bits = _MP3_KILOBITS[first][bitrate - 1] * 1000
    return (144 if first else 72) * bits // _MP3_HERTZ[first][rate] + (head[2] >> 1 & 1)
