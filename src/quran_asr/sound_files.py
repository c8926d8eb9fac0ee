"""Opening audio files: one decoder for all containers, and the refusal of what is not audio or incomplete.

What a file is, its first bytes say; its name is not trusted.
"""

from __future__ import annotations

import io
import math
import mmap
import os
import zlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from quran_asr.containers import Link, LinkFile, damage, links
from quran_asr.errors import QuranAsrError
from quran_asr.media import MediaSound, Medium, medium_of

if TYPE_CHECKING:
    from quran_asr.records import Samples

READ_FORMATS = "wav, flac, mp3, ogg and opus are read, m4a and others with the extra `media`; else convert it"
"""Remedy for what is not audio."""

AGAIN = "copy or download it again"
_AGAIN_OR_CONVERT = f"{AGAIN}, or convert it: ffmpeg -i FILE FILE.flac"

TOLERANCE_SECONDS = 0.1
"""Decoders and manifests round lengths; a file that falls short by more than this is truncated."""

BLOCK_FRAMES = 1 << 22
"""Frames that `read` decodes at a time (95 s at 44.1 kHz): a header that claims a day allocates no day."""

_FILTER_SECONDS = 0.25
"""More than the resampler's filter takes in, also at the lowest rate."""

_LOWEST_RATE, _HIGHEST_RATE = 4_000, 768_000
"""Hertz. Others come from damaged headers; resampling from 1 Hz would fill the memory."""


@contextmanager
def opened(path: Path) -> Iterator[Sound]:
    """A sound file that has samples, opened by descriptor: libsndfile then cannot go by the name.

    What is missing of it is raised when everything that is there has been read, or the decoder gives up.
    """
    what_is_missing = None
    try:
        if not path.is_file():
            raise _no_file(path)
        with path.open("rb", buffering=0) as file:
            medium = medium_of(file.read(1 << 16) or b"")
            file.seek(0)
            if medium is None:
                _refuse_other_files(path, file)
                file.seek(0)
            what_is_missing = damage(path)
            with _decoder(path, file, medium) as sound:
                _refuse_rate(path, sound.samplerate)
                if sound.format == "OGG" and isinstance(sound, soundfile.SoundFile | MediaSound):
                    _refuse_lost_pages(path, file, sound)
                if sound.frames <= 0:
                    raise QuranAsrError(
                        "no samples in it (empty or truncated)", where=str(path), remedy=AGAIN
                    )
                yield sound
            if what_is_missing is not None:  # only now: what is there can be listened to
                raise _incomplete(path, what_is_missing)
    except PermissionError:
        raise QuranAsrError(
            "may not be read (permission denied)",
            where=str(path),
            remedy="change the permissions of the file or of its folder",
        ) from None
    except ValueError:  # soundfile's, of a seek in a damaged mp3 that went beyond the end
        raise QuranAsrError(
            "damaged: the decoder lost its place", where=str(path), remedy=_AGAIN_OR_CONVERT
        ) from None
    except soundfile.LibsndfileError as error:
        if what_is_missing is not None:
            raise _incomplete(path, what_is_missing) from None
        reason = error.error_string.strip().rstrip(".")
        # What libsndfile says of a stream that its mp3 reader gave up on; it would mislead.
        if "not a regular file" in reason or "not recognised" in reason:
            what = "not an audio file that can be read, or damaged"
            raise QuranAsrError(what, where=str(path), remedy=READ_FORMATS) from None
        raise QuranAsrError(
            f"damaged or truncated (decoder: {reason})", where=str(path), remedy=_AGAIN_OR_CONVERT
        ) from None


def _incomplete(path: Path, what: str) -> QuranAsrError:
    remedy = AGAIN if what.startswith("truncated") else _AGAIN_OR_CONVERT
    return QuranAsrError(what, where=str(path), remedy=remedy)


def _refuse_rate(path: Path, rate: int) -> None:
    if not _LOWEST_RATE <= rate <= _HIGHEST_RATE:
        raise QuranAsrError(
            f"damaged: its rate would be {rate} Hz",
            where=str(path),
            remedy=f"{AGAIN}, or convert it: ffmpeg -i FILE -ar 16000 FILE.flac",
        )


@contextmanager
def _decoder(path: Path, file: io.FileIO, medium: Medium | None) -> Iterator[Sound]:
    """A decoder of a file, or of its streams one after another where its header does not tell of them."""
    chain = links(path)
    if medium is not None and medium.rest and _libsndfile_reads(file):
        medium = None
    if chain:
        with closing(_Chain(path, chain, medium)) as sounds:
            yield sounds
    elif medium is not None:
        with _part(path, Link(b"", 0, os.fstat(file.fileno()).st_size), medium) as part:
            yield part
    else:
        with _Forward(file.fileno(), closefd=False) as sound:
            yield sound


def _libsndfile_reads(file: io.FileIO) -> bool:
    try:
        with soundfile.SoundFile(file.fileno(), closefd=False):
            return True
    except soundfile.LibsndfileError:
        return False
    finally:
        file.seek(0)


@contextmanager
def _part(path: Path, link: Link, medium: Medium | None) -> Iterator[soundfile.SoundFile | MediaSound]:
    if medium is not None:
        with closing(MediaSound(path, link, medium)) as sound:
            yield sound
    else:
        with closing(LinkFile(path, link)) as stream, _Forward(stream) as sound:
            yield sound


class _Forward(soundfile.SoundFile):  # type: ignore[misc]
    """An audio file that continues to read at its current position.

    `soundfile` seeks to that place after every read of a file that can seek, and an MP3 decoder then lacks
    what the frames before left for the next one: a click at the end of every block.
    """

    def seekable(self) -> bool:
        return False

    def seek(self, frames: int, whence: int = io.SEEK_SET) -> int:
        """Continue at this frame; some decoders (GSM) can only decode up to it, from the beginning."""
        if super().seekable():
            return int(super().seek(frames, whence))
        left = frames
        while left > 0 and len(block := self.read(min(left, BLOCK_FRAMES), dtype="float32")):
            left -= len(block)
        return frames - left


class _Chain:
    """Recordings one after another as one: what is read of a `soundfile.SoundFile`.

    All have the rate and the channels of the first; one at a time is open.
    """

    def __init__(self, path: Path, chain: Sequence[Link], medium: Medium | None) -> None:
        self._path, self._chain, self._medium = path, chain, medium
        self._lengths: list[int] = []
        """Frames of each part, at the rate of the first."""
        for link in chain:
            with _part(path, link, medium) as part:
                _refuse_rate(path, part.samplerate)
                if not self._lengths:
                    self.samplerate, self.channels = part.samplerate, part.channels
                    self.format, self.subtype = part.format, part.subtype
                self._lengths.append(round(part.frames * self.samplerate / part.samplerate))
        self.frames = sum(self._lengths)
        self._opened = ExitStack()
        self._open(0)

    def _open(self, at: int, frame: int = 0) -> None:
        """Continue at this frame of this part."""
        self._opened.close()
        part = self._opened.enter_context(_part(self._path, self._chain[at], self._medium))
        self._part: Sound = part
        if (part.samplerate, part.channels) != (self.samplerate, self.channels):
            self._part = _Converted(part, self.samplerate, self.channels)
        if frame:
            self._part.seek(frame)
        self._at = at
        self._left = self._lengths[at] - frame
        """Frames of the part that are still to come."""

    def seek(self, frame: int) -> None:
        at = 0
        while frame >= self._lengths[at] and at + 1 < len(self._lengths):
            frame -= self._lengths[at]
            at += 1
        self._open(at, min(frame, self._lengths[at]))

    def read(self, frames: int, dtype: str, always_2d: bool = False) -> NDArray[np.float32]:
        """Up to so many frames from the place on, float32 [frames, channels]; of one channel [frames]."""
        found = [np.zeros((0, self.channels), np.float32)]
        while frames > 0:
            if not self._left:
                if self._at + 1 == len(self._lengths):
                    break
                self._open(self._at + 1)
                continue
            wanted = min(frames, self._left)
            block = self._part.read(wanted, dtype=dtype, always_2d=True)
            found.append(block)
            frames -= len(block)
            self._left -= len(block)
            if len(block) < wanted:
                break
        joined = np.concatenate(found)
        return joined if always_2d or self.channels > 1 else joined[:, 0]

    def close(self) -> None:
        self._opened.close()


class _Converted:
    """A recording at the rate and with the channels of another: what `_Chain` reads."""

    def __init__(self, part: soundfile.SoundFile | MediaSound, rate: int, channels: int) -> None:
        self._part, self.samplerate, self.channels = part, rate, channels
        self.format, self.subtype = part.format, part.subtype
        self.frames = round(part.frames * rate / part.samplerate)
        self._start_at(0)

    def _start_at(self, frame: int) -> None:
        self._stream = soxr.ResampleStream(
            self._part.samplerate, self.samplerate, self.channels, dtype="float32", quality="HQ"
        )
        self._left = self._part.frames - frame
        """Frames of the part that are still to come."""
        self._waiting = np.zeros((0, self.channels), np.float32)
        """Resampled and not yet read."""

    def seek(self, frame: int) -> None:
        """Continue at this frame; called once, on a part that was just opened."""
        # from a frame that both rates have, so long before that the filter does not see the edge
        both = math.gcd(self._part.samplerate, self.samplerate)
        common = max(0, int((frame / self.samplerate - _FILTER_SECONDS) * both))
        if common:
            self._part.seek(common * self._part.samplerate // both)
        self._start_at(common * self._part.samplerate // both)
        self.read(frame - common * self.samplerate // both)

    def read(self, frames: int, dtype: str = "float32", always_2d: bool = True) -> NDArray[np.float32]:
        while len(self._waiting) < frames and self._left > 0:
            block = self._part.read(min(self._left, BLOCK_FRAMES), dtype="float32", always_2d=True)
            if not len(block):
                break
            self._left -= len(block)
            if block.shape[1] != self.channels:
                block = np.repeat(mono(block)[:, None], self.channels, axis=1)
            more = self._stream.resample_chunk(block, last=self._left <= 0)
            if self._left <= 0:  # the resampler may round the length down
                more = np.concatenate([more, np.repeat(more[-1:], 2, axis=0)])
            self._waiting = np.concatenate([self._waiting, more.reshape(-1, self.channels)])
        found, self._waiting = self._waiting[:frames], self._waiting[frames:]
        return found


Sound: TypeAlias = "soundfile.SoundFile | MediaSound | _Chain | _Converted"

_NOT_AUDIO = (
    (b"PK\x03\x04", "a zip archive, not audio", "unpack it"),
    (b"\x1f\x8b", "a gzip archive, not audio", "unpack it"),
    (b"Rar!", "a rar archive, not audio", "unpack it"),
    (b"7z\xbc\xaf", "a 7z archive, not audio", "unpack it"),
    (b"version https://git-lfs", "a Git LFS pointer, not the recording itself", "run `git lfs pull`"),
    (b"PAR1", "a parquet file, not audio", "unpack its recordings"),
    (b"ADIF", "AAC, which is not read", "convert it: ffmpeg -i FILE FILE.flac"),
    (b"%PDF", "a PDF document, not audio", "name the recording instead"),
)
"""First bytes, what they mean, remedy."""


def _refuse_other_files(path: Path, file: io.FileIO) -> None:
    """Name what libsndfile would call by a wrong name."""
    size = os.fstat(file.fileno()).st_size
    head = file.read(4096) or b""
    where = str(path)
    if not size:
        raise QuranAsrError("an empty file", where=where, remedy="copy or download it again")
    if not head.strip(b"\0"):
        raise QuranAsrError("only zero bytes (an unfinished download?)", where=where, remedy=AGAIN)
    for magic, what, remedy in _NOT_AUDIO:
        if head.startswith(magic):
            raise QuranAsrError(what, where=where, remedy=remedy)
    if head[257:262] == b"ustar":
        raise QuranAsrError("a tar archive, not audio", where=where, remedy="unpack it")
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if text.startswith((b"<!doctype", b"<html", b"<head", b"<?xml", b"<script", b"<!--")):
        remedy = "download it again, and open it in a browser to see the server's answer"
        raise QuranAsrError("a web page, not audio (a failed download?)", where=where, remedy=remedy)


def _refuse_lost_pages(path: Path, file: io.FileIO, sound: soundfile.SoundFile | MediaSound) -> None:
    """Refuse an Ogg file that is cut off or has a damaged page: libsndfile just ends there, in silence.

    A page is at most 65,307 bytes and ends with its position in samples, at bytes 6 to 13 (RFC 3533).
    """
    size = os.fstat(file.fileno()).st_size
    # pread leaves the place where libsndfile reads alone
    head, tail = (os.pread(file.fileno(), 65_307, max(0, start)) for start in (0, size - 65_307))
    last = tail[tail.rfind(b"OggS") :]
    if len(last) < 27 or len(last) < 27 + last[26] + sum(last[27 : 27 + last[26]]):
        raise QuranAsrError("truncated: its last page is cut off", where=str(path), remedy=AGAIN)
    positions = []
    start = 0
    while head[start : start + 4] == b"OggS" and len(head) > start + 27:
        positions.append(int.from_bytes(head[start + 6 : start + 14], "little", signed=True))
        lengths = head[start + 27 : start + 27 + head[start + 26]]
        start += 27 + len(lengths) + sum(lengths)
    first_sound = next((position for position in positions if position > 0), None)
    if first_sound is None:
        return
    # Opus counts at 48 kHz whatever the rate. A stream cut from a longer one does not begin at 0.
    rate = 48_000 if sound.subtype == "OPUS" else sound.samplerate
    at_least = (int.from_bytes(last[6:14], "little", signed=True) - first_sound) / rate
    if sound.frames / sound.samplerate < at_least - TOLERANCE_SECONDS:
        raise QuranAsrError(
            f"damaged: only {sound.frames / sound.samplerate:.2f} of {at_least:.2f} s can be decoded",
            where=str(path),
            remedy=AGAIN,
        )


_MIRRORED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))
"""Each byte with its bits in the other order."""


def refuse_damaged_pages(path: Path) -> None:
    """Check the checksum of every page of an Ogg file."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        _check_pages(path, content)


def _check_pages(path: Path, content: mmap.mmap) -> None:
    start = 0
    while (start := content.find(b"OggS", start)) >= 0:
        lengths = content[start + 27 : start + 27 + content[start + 26]]
        end = start + 27 + len(lengths) + sum(lengths)
        page = content[start : start + 22] + bytes(4) + content[start + 26 : end]
        # Ogg counts bits from the other end than zlib, and inverts neither at the beginning nor at the end
        mirrored = zlib.crc32(page.translate(_MIRRORED), 0xFFFF_FFFF) ^ 0xFFFF_FFFF
        if int(f"{mirrored:032b}"[::-1], 2) != int.from_bytes(content[start + 22 : start + 26], "little"):
            raise QuranAsrError(
                f"damaged: the page at byte {start:,} has a wrong checksum", where=str(path), remedy=AGAIN
            )
        start = end


def _no_file(path: Path) -> QuranAsrError:
    if path.is_dir():
        return QuranAsrError("this is a folder", where=str(path), remedy=f"name files: {path}/*.mp3")
    if path.exists():
        return QuranAsrError("not a regular file", where=str(path), remedy="copy what it gives into a file")
    remedy = "`quran-asr listen -` reads a pipe" if str(path) == "-" else "check the name and the folder"
    return QuranAsrError("no such file", where=str(path), remedy=remedy)


def mono(samples: NDArray[np.float32]) -> Samples:
    """The mean of the channels: float32 [frames, channels] in, float32 [frames] out."""
    one = samples[:, 0] if samples.shape[1] == 1 else samples.mean(axis=1, dtype=np.float32)
    return np.ascontiguousarray(one)
