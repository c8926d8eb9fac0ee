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
_FILES = {
    b"RIFF": "wav",
    b"OggS": "ogg",
    b"fLaC": "flac",
    b"ID3": "mp3",
    b"<!DO": "a web page",
    b"<htm": "a web page",
}
"""How files begin that are no bare samples; a recording begins so once in millions."""


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
    rest = b""
    first = True
    while True:
        _wait(descriptor, stall_seconds, where)
        new = os.read(descriptor, BLOCK_BYTES)
        if not new:
            return
        if first:
            _refuse_file(new, where)
            first = False
        data = rest + new
        whole = len(data) // 2 * 2
        rest = data[whole:]
        if whole:
            yield np.frombuffer(data[:whole], "<i2").astype(np.int16, copy=False)


def _wait(descriptor: int, seconds: float, where: str) -> None:
    """Until there is something to read; in short waits, so that Ctrl-C is answered on every system."""
    if sys.platform == "win32":
        return
    until = time.monotonic() + seconds
    while not select.select([descriptor], [], [], 0.1)[0]:
        if time.monotonic() >= until:
            raise QuranAsrError(
                f"no sound has come for {seconds:g} s",
                where=where,
                remedy="look at what writes into the pipe",
            )


def _refuse_file(begin: bytes, where: str) -> None:
    for magic, what in _FILES.items():
        if begin.startswith(magic):
            raise QuranAsrError(
                f"{what} comes, and bare 16-bit samples are read from a pipe",
                where=where,
                remedy="name the file itself, or: ffmpeg -i FILE -f s16le -ac 1 -ar 16000 - | ...",
            )
