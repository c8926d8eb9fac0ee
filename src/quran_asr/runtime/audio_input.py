"""Audio inputs of a stream: microphone (PortAudio, extra `mic`), pipe of 16-bit samples, file in blocks.

PortAudio's thread puts blocks of 80 ms, one encoder frame, into a queue; the iterator takes them out. It
reports audio that was lost, and a microphone that is silent or muted.
"""

from __future__ import annotations

import os
import queue
import select
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from quran_asr import audio
from quran_asr.errors import QuranAsrError
from quran_asr.records import SAMPLE_RATE
from quran_asr.runtime.resampling import Resampler

if TYPE_CHECKING:
    from quran_asr.records import Samples

BLOCK_SECONDS = 0.08

_QUEUE_BLOCKS = 750
"""A minute: a recognizer that lags further behind will not catch up, and memory must be bounded."""

_QUIET_SECONDS = 3.0
"""Even a silent room has noise; only a muted or blocked microphone gives zeros for this long."""

_REPORT_EVERY_SECONDS = 5.0


class Backend(Protocol):
    """The part of the module `sounddevice` that is used."""

    InputStream: Callable[..., Any]
    PortAudioError: type[Exception]

    def query_devices(self, device: int | str | None = None, kind: str | None = None) -> Any: ...
    def check_input_settings(self, *, device: int, channels: int, dtype: str, samplerate: float) -> None: ...


@dataclass(frozen=True, slots=True)
class InputDevice:
    """A microphone or line that can be listened to."""

    index: int
    name: str
    channels: int
    rate: int
    """Hertz, its own."""


def load_backend() -> Backend:
    """The module `sounddevice`.

    Raises:
        QuranAsrError: the package or the PortAudio library is missing; it says what to install.
    """
    try:
        import sounddevice
    except ImportError:
        raise QuranAsrError(
            "listening to a microphone needs sounddevice, which the core install leaves out",
            remedy="pip install 'quran-asr[mic]'",
        ) from None
    except OSError:  # the package is there; on Linux it brings no library
        raise QuranAsrError(
            "the PortAudio library is not installed",
            remedy="sudo apt install libportaudio2, or the portaudio package of this system",
        ) from None
    backend: Backend = sounddevice
    return backend


def input_devices(backend: Backend | None = None) -> tuple[InputDevice, ...]:
    """All input devices, perhaps none.

    Raises:
        QuranAsrError: as `load_backend`.
    """
    devices = (backend or load_backend()).query_devices()
    return tuple(_input_device(device) for device in devices if device["max_input_channels"] > 0)


def microphone(
    device: int | str | None = None,
    *,
    stall_seconds: float = 5.0,
    tell: Callable[[str], None] = lambda message: None,
    backend: Backend | None = None,
) -> Iterator[Samples]:
    """Listen until the caller stops iterating; closing the iterator closes the microphone.

    Args:
        device: number or part of the name, as `input_devices` lists them; None is the system's default.
        stall_seconds: no data for this long is an error.
        tell: called with one line when audio was lost (at most every five seconds), or when there are only
            zeros.
        backend: another module like `sounddevice`.

    Yields:
        float32 [samples], mono at 16 kHz, about 80 ms at a time.

    Raises:
        QuranAsrError: as `load_backend`; no such device; one that cannot be opened; one that falls silent for
            `stall_seconds` or is unplugged.
    """
    backend = backend or load_backend()
    chosen = _chosen(backend, device)
    rate, channels = _mode(backend, chosen)
    arrivals = _Arrivals()
    try:
        stream = backend.InputStream(
            device=chosen.index,
            samplerate=rate,
            channels=channels,
            dtype="float32",
            blocksize=round(BLOCK_SECONDS * rate),
            callback=arrivals.take,
            finished_callback=arrivals.end,
        )
        with stream:
            yield from _blocks_of(arrivals, Resampler(rate, where=chosen.name), stall_seconds, tell)
    except backend.PortAudioError as error:
        raise QuranAsrError(
            f"cannot be listened to ({_one_line(error)})",
            where=chosen.name,
            remedy="close other programs that use it, or choose another microphone",
        ) from None


class _Arrivals:
    """Data passed from PortAudio's thread to ours."""

    def __init__(self) -> None:
        self.blocks: queue.Queue[NDArray[np.float32]] = queue.Queue(_QUEUE_BLOCKS)
        self.lost = 0
        """Number of times that audio was lost. Only PortAudio's thread writes it."""
        self.ended = False

    def take(self, block: NDArray[np.float32], frames: int, when: object, status: Any) -> None:
        if status.input_overflow:
            self.lost += 1
        try:
            self.blocks.put_nowait(block.copy())  # PortAudio uses its memory again
        except queue.Full:
            self.lost += 1

    def end(self) -> None:
        self.ended = True


def _blocks_of(
    arrivals: _Arrivals, resampler: Resampler, stall_seconds: float, tell: Callable[[str], None]
) -> Iterator[Samples]:
    reported, next_report, only_zeros = 0, 0.0, True
    while True:
        block = _next_block(arrivals, stall_seconds, resampler.where)
        piece = resampler.push(block)
        seconds = resampler.samples_seen / resampler.rate
        if arrivals.lost > reported and seconds >= next_report:
            tell(
                f"{resampler.where}: at {seconds:.1f} s audio was lost {_times(arrivals.lost - reported)}: "
                "this computer does not keep up"
            )
            reported, next_report = arrivals.lost, seconds + _REPORT_EVERY_SECONDS
        if only_zeros:
            only_zeros = not block.any()
            if only_zeros and seconds >= _QUIET_SECONDS:
                tell(f"{resampler.where}: gives only zeros: is it muted, or forbidden to this program?")
                only_zeros = False
        if len(piece):
            yield piece


def _next_block(arrivals: _Arrivals, stall_seconds: float, name: str) -> NDArray[np.float32]:
    """The next block; waits are short, so that Ctrl-C works on every system."""
    waits = max(1, round(stall_seconds / 0.1))
    for _ in range(waits):
        try:
            return arrivals.blocks.get(timeout=min(0.1, stall_seconds))
        except queue.Empty:
            if arrivals.ended:
                raise QuranAsrError(
                    "the microphone has gone (unplugged?)",
                    where=name,
                    remedy="plug it in and run the same command again",
                ) from None
    raise QuranAsrError(
        f"no audio has come for {stall_seconds:g} s",
        where=name,
        remedy="plug it in again, or choose another microphone",
    )


def _chosen(backend: Backend, device: int | str | None) -> InputDevice:
    try:
        return _input_device(backend.query_devices(device, "input"))
    except (ValueError, backend.PortAudioError):
        names = "; ".join(f"{one.index} {one.name}" for one in input_devices(backend))
    if not names:
        raise QuranAsrError(
            "this computer has no microphone that can be listened to",
            remedy="connect one, or read a pipe: quran-asr listen -",
        )
    if device is None:
        raise QuranAsrError("the system has no default microphone", remedy=f"choose one of: {names}")
    raise QuranAsrError(f"`{device}` is not one microphone", remedy=f"choose one of: {names}")


def _mode(backend: Backend, device: InputDevice) -> tuple[int, int]:
    """Rate and channels in which the device can be opened: 16 kHz mono where the system converts."""
    for rate in (SAMPLE_RATE, device.rate):
        for channels in (1, min(2, device.channels)):
            try:
                backend.check_input_settings(
                    device=device.index, channels=channels, dtype="float32", samplerate=rate
                )
            except backend.PortAudioError:
                continue
            return rate, channels
    return device.rate, device.channels  # opening it reports the reason


def _input_device(described: dict[str, Any]) -> InputDevice:
    return InputDevice(
        index=int(described["index"]),
        name=str(described["name"]),
        channels=int(described["max_input_channels"]),
        rate=round(described["default_samplerate"]),
    )


def _times(number: int) -> str:
    return "once" if number == 1 else f"{number:,} times"


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


BLOCK_BYTES = 1 << 16
HEAD_BYTES = 2048
"""Looked at before anything is recognized, 64 ms at 16 kHz: the first frame of an MP3 and the next header."""
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
"""First bytes of file formats; raw samples begin with these once in millions of recordings."""
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
        stall_seconds: no data for this long is an error (not on Windows, which cannot wait for a pipe).
        where: named in errors.

    Yields:
        int16 [samples], as many as are available; never empty.

    Raises:
        QuranAsrError: a file arrives instead of samples, or no data arrives.
    """
    rest = _head(descriptor, stall_seconds, where)
    _refuse_file(rest, where)
    if len(rest) < 2:
        raise QuranAsrError("no audio came", where=where, remedy="look at what writes into the pipe")
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
    """The first bytes, however small the reads are."""
    head = b""
    while len(head) < HEAD_BYTES and (new := _read(descriptor, stall_seconds, where)):
        head += new
    return head


def _read(descriptor: int, seconds: float, where: str) -> bytes:
    """The available bytes, at least one; empty at the end. Waits are short, so that Ctrl-C works."""
    until = time.monotonic() + seconds
    while sys.platform != "win32" and not select.select([descriptor], [], [], 0.1)[0]:
        if time.monotonic() >= until:
            raise QuranAsrError(
                f"no audio has come for {seconds:g} s",
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
    """The file format that begins with these bytes; None for samples."""
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    for magic, what in _FILES.items():
        if head.startswith(magic) or (what == "a web page" and text.startswith(magic)):
            return what
    if head[4:8] == b"ftyp":
        return "mp4"
    return "mp3" if _is_mp3(head) else None


def _is_mp3(head: bytes) -> bool:
    """Two bytes (FF FB, FA, F3 or F2) may be a sample: the header must be valid, and another must follow."""
    length = _mp3_frame(head)
    return length is not None and (len(head) < length + 2 or head[length : length + 2] == head[:2])


def _mp3_frame(head: bytes) -> int | None:
    """Bytes of the layer III frame that begins here; None if none does."""
    if len(head) < 4 or head[0] != 0xFF or head[1] not in (0xFB, 0xFA, 0xF3, 0xF2):
        return None
    first = head[1] >= 0xFA
    bitrate, rate = head[2] >> 4, head[2] >> 2 & 3
    if not 1 <= bitrate <= 14 or rate == 3:
        return None
    bits = _MP3_KILOBITS[first][bitrate - 1] * 1000
    return (144 if first else 72) * bits // _MP3_HERTZ[first][rate] + (head[2] >> 1 & 1)


def blocks_of_file(
    path: str | Path, seconds: float = 1.0, offset: float = 0.0, duration: float | None = None
) -> Iterator[Samples]:
    """An audio file in blocks; joined, the blocks are what `audio.read` returns.

    Args:
        path: any audio file that `audio.read` takes, of 8 to 192 kHz.
        seconds: approximate length of a block: the filter for other rates has blocks of its own.
        offset: seconds into the file.
        duration: seconds; None reads to the end.

    Yields:
        float32 [samples], mono at 16 kHz; none is empty.

    Raises:
        QuranAsrError: not an audio file, empty, or of an unusual rate, before the first block; damaged,
            truncated, or with a sample that is not a number, when that block is read.
    """
    resampler: Resampler | None = None
    given = 0
    for block, rate in audio.blocks(path, seconds, offset, duration):
        resampler = resampler or Resampler(rate, where=str(path))
        if len(piece := resampler.push(block)):
            given += len(piece)
            yield piece
    if resampler is None:  # `blocks` yields one or refuses the file
        return
    if len(piece := resampler.finish()):
        yield piece
    elif not given:
        raise QuranAsrError(
            f"too short: {resampler.samples_seen} samples at {resampler.rate} Hz",
            where=str(path),
            remedy="use a longer recording or a longer stretch of it",
        )
