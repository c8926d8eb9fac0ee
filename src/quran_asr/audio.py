"""Audio files: probe, read, resample, write. With `media`, the only module that decodes or encodes audio.

What a file is, its first bytes say; its name is not trusted. Whatever the rate and the channels, samples
come out mono at 16 kHz, as float32 and without clipping: peaks above 1, which lossy codecs make, are kept.
"""

from __future__ import annotations

import io
import math
import mmap
import os
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from quran_asr.containers import Link, LinkFile, damage, links
from quran_asr.errors import QuranAsrError
from quran_asr.files import write_atomically
from quran_asr.media import NAMES as MEDIA
from quran_asr.media import MediaSound, Medium, medium_of
from quran_asr.records import SAMPLE_RATE
from quran_asr.shards import as_file

if TYPE_CHECKING:
    from quran_asr.records import Samples

READ_FORMATS = "wav, flac, mp3, ogg and opus are read, m4a and others with the extra `media`; else convert it"
"""Remedy for what is not audio."""

_AGAIN = "copy or download it again"
_AGAIN_OR_CONVERT = f"{_AGAIN}, or convert it: ffmpeg -i FILE FILE.flac"
_FROM_SOURCE = "export it again from its source as 16-bit wav or flac"
_WITHIN = "correct `offset` and `duration` in the manifest, or copy the recording again"
_CLEAR = "clear them first: numpy.nan_to_num(samples, posinf=0, neginf=0)"

TOLERANCE_SECONDS = 0.1
"""Decoders and manifests round lengths; a file that falls short by more than this is truncated."""

_BLOCK_FRAMES = 1 << 22
"""Frames that `read` decodes at a time (95 s at 44.1 kHz): a header that claims a day allocates no day."""

_TAIL_SECONDS = 0.2

_LONGEST_PACKET_SECONDS = 0.12
"""Of Opus (RFC 6716)."""

_MP3_WARM_UP_SECONDS = 0.6
"""An MP3 frame may need what up to 511 bytes of earlier frames hold: after a seek, 0.3 s of a recording of
24 kbit/s came out wrong (libsndfile 1.2.2)."""

_FILTER_SECONDS = 0.25
"""More than the resampler's filter takes in, also at the lowest rate."""

_LOWEST_RATE, _HIGHEST_RATE = 4_000, 768_000
"""Hertz. Others come from damaged headers; resampling from 1 Hz would fill the memory."""


@dataclass(frozen=True, slots=True)
class AudioInfo:
    """What a sound file holds."""

    seconds: float
    rate: int
    """Hertz, as stored."""
    channels: int
    format: str
    """`wav`, `flac`, `mp3`, `opus`, `vorbis`, or libsndfile's own name in small letters; of what PyAV decodes
    the container: `mp4`, `aac`, `webm`, `wma`, `amr`, `flv`, `ac3`, `ts`, `avi`."""


def probe(path: str | Path) -> AudioInfo:
    """Look at a sound file without decoding more than its end, which a truncated file lacks.

    Of an Ogg file (opus, vorbis) the checksum of every page is checked too: its decoders put silence where
    a page is damaged, and say nothing. In other formats damage in the middle shows when they are read, or
    not at all (wav).

    Raises:
        QuranAsrError: missing, empty, not audio, truncated, or without samples; it says which.
    """
    with as_file(Path(path)) as file, _opened(file) as sound:
        rate, frames = sound.samplerate, sound.frames
        if sound.format == "OGG":
            _refuse_damaged_pages(file)
        if sound.format not in ("WAV", "WAVEX", "OGG", *MEDIA):  # of these `_opened` knows it, sooner
            tail = min(frames, int(_TAIL_SECONDS * rate) + 1)
            sound.seek(frames - tail)
            if len(sound.read(tail, dtype="float32")) < tail - int(TOLERANCE_SECONDS * rate):
                raise QuranAsrError(
                    f"truncated: its header claims {frames / rate:.1f} s, and the end is missing",
                    where=str(path),
                    remedy=_AGAIN,
                )
        return AudioInfo(frames / rate, rate, sound.channels, _format(sound))


def read(
    path: str | Path,
    offset: float = 0.0,
    duration: float | None = None,
    *,
    on_stored: Callable[[NDArray[np.float32]], None] | None = None,
) -> Samples:
    """Samples of a file or of a stretch of it, mono at 16 kHz.

    Channels are averaged, other rates are resampled with soxr's HQ filter.

    Args:
        path: wav, flac, mp3, ogg or opus at any rate; with the extra `media` m4a, mp4, 3gp, aac, webm,
            wma, amr, ac3, ts and avi, too.
        offset: seconds into the file.
        duration: seconds; None reads to the end.
        on_stored: called with each block of samples as the file holds them, float32 [frames, channels] at
            its own rate: what mixing and resampling would hide (clipping) is seen there.

    Returns:
        float32 [samples], at least one.

    Raises:
        QuranAsrError: as `probe`; also when decoding fails, when the stretch lies outside the file, or when
            a sample is NaN or infinite.
    """
    with as_file(Path(path)) as file, _opened(file) as sound:
        rate = sound.samplerate
        start, wanted = _stretch(sound, path, offset, duration)
        stored = _joined(list(_mono_blocks(sound, start, wanted, _BLOCK_FRAMES, on_stored)))
    _refuse_shortfall(path, len(stored), wanted, rate)
    if not np.isfinite(stored).all():
        raise QuranAsrError(
            "holds samples that are not numbers (NaN or infinite)", where=str(path), remedy=_FROM_SOURCE
        )
    samples = resample(stored, rate)
    if not len(samples):
        raise QuranAsrError(
            f"too short: {len(stored)} samples at {rate} Hz",
            where=str(path),
            remedy="use a longer recording or a longer stretch of it",
        )
    return samples


def _stretch(sound: Sound, path: str | Path, offset: float, duration: float | None) -> tuple[int, int]:
    """First frame and number of frames of a stretch in seconds, which must lie in the file."""
    if not (math.isfinite(offset) and offset >= 0 and (duration is None or 0 < duration < math.inf)):
        raise QuranAsrError(
            f"no stretch begins at {offset} s and lasts {duration} s",
            where=str(path),
            remedy="give an offset of at least 0 s and a duration above 0 s",
        )
    rate = sound.samplerate
    start = round(offset * rate)
    if start >= sound.frames:
        raise QuranAsrError(
            f"the stretch begins at {offset:.2f} s, the file ends at {sound.frames / rate:.2f} s",
            where=str(path),
            remedy=_WITHIN,
        )
    end = sound.frames if duration is None else start + max(1, round(duration * rate))
    if end > sound.frames + TOLERANCE_SECONDS * rate:
        raise QuranAsrError(
            f"the stretch ends at {end / rate:.2f} s, the file at {sound.frames / rate:.2f} s",
            where=str(path),
            remedy=_WITHIN,
        )
    return start, min(end, sound.frames) - start


def blocks(
    path: str | Path, seconds: float, offset: float = 0.0, duration: float | None = None
) -> Iterator[tuple[Samples, int]]:
    """A file or a stretch of it block by block, at its own rate; no more than one block is in memory.

    Args:
        path: as in `read`, as are `offset` and `duration`.
        seconds: length of a block; the last may be shorter, or up to 120 ms longer.
        offset: seconds into the file.
        duration: seconds; None reads to the end.

    Yields:
        The block, float32 [samples], channels averaged, and its rate in hertz. The samples are not checked
        for NaN.

    Raises:
        QuranAsrError: as `probe`, before the first block; when decoding fails or ends too early, after what
            could be decoded.
    """
    if not 0 < seconds < math.inf:
        raise QuranAsrError(
            f"no block lasts {seconds} s", where=str(path), remedy="give a number of seconds above 0"
        )
    with as_file(Path(path)) as file, _opened(file) as sound:
        rate, decoded = sound.samplerate, 0
        start, wanted = _stretch(sound, path, offset, duration)
        for block in _mono_blocks(sound, start, wanted, max(1, round(min(seconds, wanted / rate) * rate))):
            decoded += len(block)
            yield block, rate
    _refuse_shortfall(path, decoded, wanted, rate)


def stored(
    path: str | Path, offset: float = 0.0, duration: float | None = None
) -> Iterator[NDArray[np.float32]]:
    """A file or a stretch of it as it holds it, block by block: float32 [frames, channels] at its own rate.

    Args:
        path: as in `read`.
        offset: seconds into the file.
        duration: seconds; None goes to the end, and what lies beyond the end is left out.

    Raises:
        QuranAsrError: as `probe`, before the first block.
    """
    with as_file(Path(path)) as file, _opened(file) as sound:
        start = min(round(offset * sound.samplerate), sound.frames)
        left = sound.frames - start
        wanted = left if duration is None else min(left, round(duration * sound.samplerate))
        latest: list[NDArray[np.float32]] = []
        for _ in _mono_blocks(sound, start, wanted, _BLOCK_FRAMES, latest.append):
            yield latest.pop()


def read_blocks(
    path: str | Path, seconds: float, offset: float = 0.0, duration: float | None = None
) -> Iterator[Samples]:
    """What `read` gives, about so many seconds at a time; arguments and errors as `read` and `blocks`."""
    stream: soxr.ResampleStream | None = None
    for block, rate in blocks(path, seconds, offset, duration):
        if not np.isfinite(block).all():
            raise QuranAsrError(
                "holds samples that are not numbers (NaN or infinite)", where=str(path), remedy=_FROM_SOURCE
            )
        if rate == SAMPLE_RATE:
            yield block
            continue
        if stream is None:
            stream = soxr.ResampleStream(rate, SAMPLE_RATE, 1, dtype="float32", quality="HQ")
        yield np.asarray(stream.resample_chunk(block), np.float32)
    if stream is not None:
        yield np.asarray(stream.resample_chunk(np.zeros(0, np.float32), last=True), np.float32)


def _refuse_shortfall(path: str | Path, decoded: int, wanted: int, rate: int) -> None:
    if not decoded or wanted - decoded > TOLERANCE_SECONDS * rate:
        raise QuranAsrError(
            f"truncated or damaged: {decoded / rate:.2f} of {wanted / rate:.2f} s can be decoded",
            where=str(path),
            remedy=_AGAIN,
        )


def mono(samples: NDArray[np.float32]) -> Samples:
    """The mean of the channels: float32 [frames, channels] in, float32 [frames] out."""
    one = samples[:, 0] if samples.shape[1] == 1 else samples.mean(axis=1, dtype=np.float32)
    return np.ascontiguousarray(one)


def resample(samples: Samples, rate: int, to: int = SAMPLE_RATE) -> Samples:
    """The same sound at another rate: float32 [samples] at `rate` Hz in, at `to` Hz out."""
    if rate == to:
        return samples
    return np.asarray(soxr.resample(samples, rate, to, quality="HQ"), dtype=np.float32)


def write(path: str | Path, samples: Samples, rate: int = SAMPLE_RATE) -> None:
    """Write mono samples as 16-bit wav or flac, by the name's ending; whole or not at all.

    Samples are scaled down if their peak is above 1, and otherwise left as they are.

    Raises:
        QuranAsrError: another ending, or samples that are not finite numbers.
        OSError: the disk is full, or the folder cannot be written.
    """
    path = Path(path)
    container = {".wav": "WAV", ".flac": "FLAC"}.get(path.suffix.lower())
    if container is None:
        raise QuranAsrError(
            "only .wav and .flac files are written",
            where=str(path),
            remedy="choose a name that ends in .wav or .flac",
        )
    peak = float(np.abs(samples).max(initial=0.0))
    if not math.isfinite(peak):
        raise QuranAsrError(
            "the samples to write hold NaN or infinite values", where=str(path), remedy=_CLEAR
        )
    # Rounded here and not by libsndfile, whose scale (32,768) would wrap or clip a peak of exactly 1.
    whole = np.rint(samples * (32_767 / max(1.0, peak))).astype(np.int16)
    memory = io.BytesIO()
    soundfile.write(memory, whole, rate, format=container, subtype="PCM_16")
    write_atomically(path, memory.getvalue())


def as_mp3(samples: Samples, rate: int = SAMPLE_RATE) -> bytes:
    """Mono samples as an MP3 file, which every browser plays; about 6 kB a second.

    Samples are scaled down if their peak is above 1.

    Raises:
        QuranAsrError: this build of libsndfile writes no MP3, or the samples are not finite numbers.
    """
    peak = float(np.abs(samples).max(initial=0.0))
    if not math.isfinite(peak):
        raise QuranAsrError("the samples to write hold NaN or infinite values", remedy=_CLEAR)
    if "MP3" not in soundfile.available_formats():
        raise QuranAsrError("libsndfile here writes no MP3", remedy="install version 1.1 or later of it")
    memory = io.BytesIO()
    soundfile.write(memory, samples / max(1.0, peak), rate, format="MP3", subtype="MPEG_LAYER_III")
    return memory.getvalue()


def as_flac(samples: Samples, rate: int = SAMPLE_RATE) -> bytes:
    """Mono samples as a FLAC file of 16 bits; scaled down if their peak is above 1.

    Raises:
        QuranAsrError: the samples are not finite numbers.
    """
    peak = float(np.abs(samples).max(initial=0.0))
    if not math.isfinite(peak):
        raise QuranAsrError("the samples to write hold NaN or infinite values", remedy=_CLEAR)
    memory = io.BytesIO()
    soundfile.write(memory, samples / max(1.0, peak), rate, format="FLAC", subtype="PCM_16")
    return memory.getvalue()


def as_opus(samples: Samples, kilobits: int, rate: int = SAMPLE_RATE) -> bytes:
    """Mono samples as an Ogg Opus file of about so many kilobits a second.

    Samples are scaled down if their peak is above 1.

    Raises:
        QuranAsrError: this build of libsndfile writes no Opus, or the samples are not finite numbers.
    """
    peak = float(np.abs(samples).max(initial=0.0))
    if not math.isfinite(peak):
        raise QuranAsrError("the samples to write hold NaN or infinite values", remedy=_CLEAR)
    if "OPUS" not in soundfile.available_subtypes("OGG"):
        raise QuranAsrError("libsndfile here writes no Opus", remedy="install version 1.0.29 or later of it")
    # libsndfile makes a level of 0 to 1 into 256 to 6 kbit/s (ogg_opus.c).
    level = min(1.0, max(0.0, 1.0 - (1000 * kilobits - 6000) / 250_000))
    memory = io.BytesIO()
    whole = samples / max(1.0, peak)
    soundfile.write(memory, whole, rate, format="OGG", subtype="OPUS", compression_level=level)
    return memory.getvalue()


def _mono_blocks(
    sound: Sound,
    start: int,
    frames: int,
    at_once: int,
    on_stored: Callable[[NDArray[np.float32]], None] | None = None,
) -> Iterator[Samples]:
    """Up to `frames` frames from `start`, channels averaged; fewer where the file ends early.

    The last block takes a remainder of up to 120 ms with it, the longest Opus packet: libsndfile (1.2.2)
    gives wrong samples when a read continues inside the last packet of an Opus file.
    """
    remainder = round(_LONGEST_PACKET_SECONDS * sound.samplerate)
    warm_up = min(start, round(_MP3_WARM_UP_SECONDS * sound.samplerate)) if sound.format == "MP3" else 0
    if start > warm_up:  # not every decoder can seek, and this one was just opened
        sound.seek(start - warm_up)
    if warm_up:
        sound.read(warm_up, dtype="float32")
    while frames > 0:
        wanted = at_once if frames - at_once > remainder else frames
        block = sound.read(wanted, dtype="float32", always_2d=True)
        if not len(block):
            break
        if on_stored:
            on_stored(block)
        yield mono(block)
        frames -= len(block)


def _no_file(path: Path) -> QuranAsrError:
    if path.is_dir():
        return QuranAsrError("this is a folder", where=str(path), remedy=f"name files: {path}/*.mp3")
    if path.exists():
        return QuranAsrError("not a regular file", where=str(path), remedy="copy what it gives into a file")
    remedy = "`quran-asr listen -` reads a pipe" if str(path) == "-" else "check the name and the folder"
    return QuranAsrError("no such file", where=str(path), remedy=remedy)


def _joined(blocks: list[Samples]) -> Samples:
    if len(blocks) == 1:
        return blocks[0]
    return np.concatenate(blocks) if blocks else np.zeros(0, dtype=np.float32)


@contextmanager
def _opened(path: Path) -> Iterator[Sound]:
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
                        "no samples in it (empty or truncated)", where=str(path), remedy=_AGAIN
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
    remedy = _AGAIN if what.startswith("truncated") else _AGAIN_OR_CONVERT
    return QuranAsrError(what, where=str(path), remedy=remedy)


def _refuse_rate(path: Path, rate: int) -> None:
    if not _LOWEST_RATE <= rate <= _HIGHEST_RATE:
        raise QuranAsrError(
            f"damaged: its rate would be {rate} Hz",
            where=str(path),
            remedy=f"{_AGAIN}, or convert it: ffmpeg -i FILE -ar 16000 FILE.flac",
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
        while left > 0 and len(block := self.read(min(left, _BLOCK_FRAMES), dtype="float32")):
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
            block = self._part.read(min(self._left, _BLOCK_FRAMES), dtype="float32", always_2d=True)
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
        raise QuranAsrError("only zero bytes (an unfinished download?)", where=where, remedy=_AGAIN)
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
        raise QuranAsrError("truncated: its last page is cut off", where=str(path), remedy=_AGAIN)
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
            remedy=_AGAIN,
        )


_MIRRORED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))
"""Each byte with its bits in the other order."""


def _refuse_damaged_pages(path: Path) -> None:
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
                f"damaged: the page at byte {start:,} has a wrong checksum", where=str(path), remedy=_AGAIN
            )
        start = end


def _format(sound: Sound) -> str:
    codec = sound.subtype if sound.format == "OGG" else sound.format
    return str(codec).lower().removesuffix("ex")  # WAVEX is a wav with a longer header


@dataclass(frozen=True, slots=True)
class Codec:
    """A way to store sound, in libsndfile's names."""

    format: str
    subtype: str
    rate: int
    """Hertz at which it is stored."""
    compression: float | None = None
    """0 to 1, where the codec can be asked; 1 is smallest."""
    delay: int = 0
    """Samples that come before the sound when it is decoded."""


CODECS = (
    Codec("MP3", "MPEG_LAYER_III", SAMPLE_RATE, 0.9, 1105),  # constant, 24 kbit/s
    Codec("OGG", "VORBIS", SAMPLE_RATE, 1.0),
    Codec("WAV", "GSM610", 8000),  # mobile telephony, 13 kbit/s
)
"""Opus is not among them: its encoder takes four to twelve times as long as these."""


def through(codec: Codec, samples: Samples) -> Samples:
    """What is left of a clip.

    Args:
        codec: one of `CODECS`.
        samples: float32 [samples]. What comes near full scale is made softer for the codec, and loud again.

    Returns:
        float32, as long as the clip and in time with it; nothing and what is no number come back as they are.
    """
    if not len(samples) or not np.isfinite(samples).all():  # LAME would end the process
        return samples
    stored = samples
    if codec.rate != SAMPLE_RATE:
        stored = resample(samples, SAMPLE_RATE, codec.rate)
    # After resampling, which overshoots: beyond full scale 16 bits wrap around.
    peak = np.float32(max(1.0, 1.05 * float(np.abs(stored).max(initial=0.0))))
    stored = stored / peak
    file = io.BytesIO()
    soundfile.write(
        file,
        stored,
        codec.rate,
        codec.subtype,
        format=codec.format,
        compression_level=codec.compression,
        bitrate_mode="CONSTANT" if codec.format == "MP3" else None,
    )
    file.seek(0)
    decoded, _ = soundfile.read(file, dtype="float32")
    if codec.rate != SAMPLE_RATE:
        decoded = resample(decoded, codec.rate)
    whole = np.zeros(len(samples), np.float32)
    decoded = decoded[codec.delay : codec.delay + len(samples)]
    whole[: len(decoded)] = decoded * peak
    return whole
