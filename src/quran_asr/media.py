"""What phones and browsers record and libsndfile does not read: decoded by PyAV (extra `media`).

A container's times are rounded (WebM: to a millisecond) and its length may be missing or be a guess (AAC
streams). Therefore a recording is decoded once when it is opened, and its samples are counted; a table of
where in the samples each second of the container's time lies makes later seeks exact.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypeAlias, cast

import numpy as np

from quran_asr.containers import Link, LinkFile
from quran_asr.errors import QuranAsrError

if TYPE_CHECKING:
    from numpy.typing import NDArray

_WARM_UP_SECONDS = 0.5
"""Decoded and thrown away after a seek: Opus needs 80 ms (RFC 7845, 4.6), AAC two frames, WMA some more."""
_TOLERANCE_SECONDS = 0.1
_MOST_PLANES = 8
_AGAIN = "copy or download it again"


@dataclass(frozen=True, slots=True)
class Medium:
    """A container that PyAV reads."""

    name: str
    """As `AudioInfo.format` has it, in capitals."""
    described: str
    demuxer: str
    """FFmpeg's name of it. FFmpeg is never left to guess: it would also open playlists, which name others."""
    has_length: bool
    """Whether the header holds a length that was not guessed."""
    subtype: str = ""
    """The codec, where `name` is that of a container that holds others which libsndfile reads."""
    rest: bool = False
    """Whether libsndfile reads some such files, and PyAV is for the others."""


_MP4 = Medium("MP4", "MPEG-4 audio (m4a, mp4)", "mov", True)
_MEDIA = (
    (b"\x1aE\xdf\xa3", Medium("WEBM", "WebM or Matroska", "matroska", True)),
    (b"#!AMR", Medium("AMR", "AMR", "amr", False)),
    (b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", Medium("WMA", "Windows Media (wma)", "asf", True)),
    (b"FLV\x01", Medium("FLV", "Flash video", "flv", False)),
)
_AAC = Medium("AAC", "AAC", "aac", False)
_AC3 = Medium("AC3", "Dolby Digital (ac3)", "ac3", False)
_EAC3 = Medium("AC3", "Dolby Digital Plus (eac3)", "eac3", False)
_TS = Medium("TS", "MPEG transport stream (ts)", "mpegts", False)
_AVI = Medium("AVI", "AVI", "avi", False)
_CAF = Medium("CAF", "Core Audio (caf) with compressed audio", "caf", True, rest=True)
_OGG_FLAC = Medium("OGG", "Ogg FLAC", "ogg", False, "FLAC", rest=True)
NAMES = frozenset(
    (_MP4.name, _AAC.name, _AC3.name, _TS.name, _AVI.name, *(medium.name for _, medium in _MEDIA))
)


def medium_of(head: bytes) -> Medium | None:
    """What begins with these bytes (at least 200; more where a tag comes first); None for anything else."""
    if head[4:8] in (b"ftyp", b"moov", b"wide"):  # the last two: QuickTime before there were brands
        return _MP4
    for magic, medium in _MEDIA:
        if head.startswith(magic):
            return medium
    if head[:4] == b"RIFF" and head[8:12] == b"AVI ":
        return _AVI
    if head[:4] == b"caff":
        return _CAF
    if head[:4] == b"OggS" and head[28:33] == b"\x7fFLAC":
        return _OGG_FLAC
    if any(head[i : i + 1] == head[i + each : i + each + 1] == b"G" for i, each in ((0, 188), (4, 192))):
        return _TS  # 188 bytes a packet, or 192 with a time before each (M2TS)
    if head.startswith(b"\x0b\x77") and len(head) > 5:
        return _AC3 if head[5] >> 3 <= 10 else _EAC3  # the version of the bit stream (ATSC A/52)
    if head.startswith(b"ID3") and len(head) > 10:
        size = sum((byte & 0x7F) << 7 * (3 - i) for i, byte in enumerate(head[6:10]))
        head = head[10 + size :]
    # ADTS (ISO/IEC 14496-3): twelve ones, then a layer of 00, which no MPEG audio frame has
    if len(head) > 2 and head[0] == 0xFF and head[1] & 0xF6 == 0xF0 and head[2] >> 2 & 15 < 13:
        return _AAC
    return None


def _pyav(medium: Medium, where: Path) -> Any:
    try:
        import av
    except ImportError:
        raise QuranAsrError(
            f"{medium.described}: reading it needs the extra `media`",
            where=str(where),
            remedy="pip install 'quran-asr[media]', or convert it: ffmpeg -i FILE FILE.flac",
        ) from None
    return av


@dataclass(frozen=True, slots=True)
class _Index:
    """What one pass over a recording found."""

    rate: int
    channels: int
    frames: int
    times: NDArray[np.int64]
    """About one a second: the container's time of a decoded frame, in its time base; rising."""
    places: NDArray[np.int64]
    """The sample at which that frame begins."""


_Decoded: TypeAlias = "tuple[int | None, int, NDArray[np.float32]]"
"""Time in the container's time base, rate in hertz, samples [frames, channels]."""


class MediaSound:
    """The first audio track of a file: what is read of a `soundfile.SoundFile`."""

    def __init__(self, path: Path, link: Link, medium: Medium) -> None:
        """
        Args:
            path: the file.
            link: the part of it that is this recording.
            medium: what `medium_of` says of its first bytes.

        Raises:
            QuranAsrError: the extra is missing, no audio track, damaged or truncated.
        """
        _pyav(medium, path)
        stat = path.stat()
        self._path, self._link, self._medium = path, link, medium
        self._index = _index(path, link, medium, stat.st_size, stat.st_mtime_ns)
        self.samplerate, self.channels = self._index.rate, self._index.channels
        self.frames = self._index.frames
        self.format, self.subtype = medium.name, medium.subtype or medium.name
        self._track: _Track | None = None
        self._decoded: Iterator[_Decoded] = iter(())
        self._waiting = np.zeros((0, self.channels), np.float32)
        """Decoded and not yet read."""
        self._place = 0
        """The sample that is read next."""

    def seek(self, frame: int) -> None:
        """Continue reading at this sample."""
        self._place = frame
        self._waiting = self._waiting[:0]
        self.close()
        self._track = _Track(self._path, self._link, self._medium)
        warm = frame - round(_WARM_UP_SECONDS * self.samplerate)
        entry = int(np.searchsorted(self._index.places, warm, side="right")) - 1
        if entry > 0 and self._go_to(self._track, entry, frame):
            return
        self.close()
        self._track = _Track(self._path, self._link, self._medium)
        self._decoded = self._track.decode()
        self._skip(frame)

    def _go_to(self, track: _Track, entry: int, frame: int) -> bool:
        """Seek by the table; False where the decoder does not pass the frame that it was to find."""
        time = int(self._index.times[entry])
        if not track.seek(time):
            return False
        self._decoded = track.decode()
        for found, _, samples in self._decoded:
            if found is None or found < time:
                continue
            if found > time:
                return False
            self._waiting = samples
            self._skip(frame - int(self._index.places[entry]))
            return True
        return False

    def _skip(self, frames: int) -> None:
        while frames > 0 and len(block := self._take(min(frames, 1 << 16))):
            frames -= len(block)

    def read(self, frames: int, dtype: str = "float32", always_2d: bool = False) -> NDArray[np.float32]:
        """Up to so many samples from the place on, float32 [frames, channels]; of one channel [frames]."""
        if self._track is None:
            self.seek(0)
        block = self._take(max(0, min(frames, self.frames - self._place)))
        self._place += len(block)
        return block if always_2d or self.channels > 1 else block[:, 0]

    def _take(self, frames: int) -> NDArray[np.float32]:
        parts, held = [self._waiting], len(self._waiting)
        while held < frames and (decoded := next(self._decoded, None)) is not None:
            parts.append(decoded[2])
            held += len(decoded[2])
        joined = np.concatenate(parts) if len(parts) > 1 else parts[0]
        self._waiting = joined[frames:].copy()
        return joined[:frames]

    def close(self) -> None:
        """Let go of the file."""
        if self._track is not None:
            self._track.close()
            self._track = None


@lru_cache(maxsize=64)
def _index(path: Path, link: Link, medium: Medium, _size: int, _modified: int) -> _Index:
    track = _Track(path, link, medium)
    try:
        rate = channels = frames = 0
        times: list[int] = []
        places: list[int] = []
        latest: int | None = None
        rising = True
        for time, its_rate, samples in track.decode():
            rate, channels = rate or its_rate, channels or samples.shape[1]
            if (its_rate, samples.shape[1]) != (rate, channels):
                raise QuranAsrError(
                    f"the rate or the channels change at {frames / rate:.2f} s",
                    where=str(path),
                    remedy="convert it: ffmpeg -i FILE FILE.flac",
                )
            if time is not None and (not places or (frames - places[-1] >= rate and time > times[-1])):
                times.append(time)
                places.append(frames)
            rising = rising and (time is None or latest is None or time > latest)
            latest = latest if time is None else time
            frames += len(samples)
        if not rising:  # joined transport streams: a time may stand for several places, and none is sought
            times, places = [], []
        if not frames:
            raise QuranAsrError("no samples in it (empty or truncated)", where=str(path), remedy=_AGAIN)
        if (claimed := track.seconds) is not None and medium.has_length:
            if frames / rate < claimed - _TOLERANCE_SECONDS:
                raise QuranAsrError(
                    f"truncated: {claimed:.1f} s by its header, but only {frames / rate:.1f} s are there",
                    where=str(path),
                    remedy=_AGAIN,
                )
            if medium is _MP4 and frames / rate - claimed < _TOLERANCE_SECONDS:
                frames = min(frames, round(claimed * rate))  # the last frame ends in padding
        return _Index(rate, channels, frames, np.asarray(times, np.int64), np.asarray(places, np.int64))
    finally:
        track.close()


class _Track:
    """The first audio track of a container, open."""

    def __init__(self, path: Path, link: Link, medium: Medium) -> None:
        self._av = _pyav(medium, path)
        self._path, self._medium = path, medium
        self._packer: Any = None
        self._file = io.BufferedReader(LinkFile(path, link), 1 << 16)
        try:
            self._container = self._av.open(
                cast("BinaryIO", self._file), format=medium.demuxer, metadata_errors="ignore"
            )
        except (self._av.FFmpegError, ValueError, UnicodeError) as error:
            self._file.close()
            raise self._refused(f"damaged or truncated ({_reason(error)})", _AGAIN) from None
        if not self._container.streams.audio:
            self.close()
            raise self._refused("no audio track in it", "choose a file that has an audio track")
        self._stream = self._container.streams.audio[0]
        if self._stream.codec_context is None:
            self.close()
            raise self._refused(
                "in a codec that cannot be decoded, or encrypted",
                "export it as flac, mp3 or m4a, without copy protection",
            )

    @property
    def seconds(self) -> float | None:
        """As the header says: of the track where it is known, else of the file."""
        if self._stream.duration is not None and self._stream.time_base is not None:
            return float(self._stream.duration * self._stream.time_base)
        length = self._container.duration
        return None if length is None else length / self._av.time_base

    def seek(self, time: int) -> bool:
        try:
            self._container.seek(time, stream=self._stream, backward=True)
        except self._av.FFmpegError:
            return False
        return True

    def decode(self) -> Iterator[_Decoded]:
        """Frames from here to the end.

        Raises:
            QuranAsrError: damaged. A last packet that was cut off is left out.
        """
        failed: Exception | None = None
        seconds = 0.0
        try:
            for packet in self._container.demux(self._stream):
                if failed is not None and packet.size:
                    break
                try:
                    frames = packet.decode() if failed is None else []
                except self._av.FFmpegError as error:
                    failed = error
                    continue
                for frame in frames:
                    # PyAV 18 looks for a ninth plane where there are eight, and the process ends
                    if frame.format.is_planar and len(frame.layout.channels) >= _MOST_PLANES:
                        frame = self._packed(frame)
                    samples = _as_float(frame)
                    seconds += len(samples) / frame.sample_rate
                    yield frame.pts, frame.sample_rate, samples
            else:
                return
        except self._av.FFmpegError as error:
            failed = error
        raise self._refused(
            f"damaged: it cannot be decoded from {seconds:.2f} s on ({_reason(failed)})", _AGAIN
        )

    def _packed(self, frame: Any) -> Any:
        """A frame with its channels interleaved."""
        if self._packer is None:
            self._packer = self._av.AudioResampler(format=frame.format.packed.name)
        return self._packer.resample(frame)[0]

    def _refused(self, what: str, remedy: str) -> QuranAsrError:
        return QuranAsrError(f"{self._medium.described}, {what}", where=str(self._path), remedy=remedy)

    def close(self) -> None:
        self._container.close()
        self._file.close()


def _as_float(frame: Any) -> NDArray[np.float32]:
    """A decoded frame as float32 [samples, channels], full scale 1."""
    values = frame.to_ndarray()
    samples = values.T if frame.format.is_planar else values.reshape(-1, len(frame.layout.channels))
    zero, scale = 0.0, 1.0
    if samples.dtype.kind == "i":
        scale = -float(np.iinfo(samples.dtype).min)
    elif samples.dtype == np.uint8:
        zero = scale = 128.0
    return np.asarray((samples - np.float32(zero)) / np.float32(scale), np.float32)


def _reason(error: object) -> str:
    text = getattr(error, "strerror", None) or str(error)
    return " ".join(str(text).split()).rstrip(".")[:120] or type(error).__name__
