"""Audio: probe, read, resample, write.

Whatever a file's rate and channels, samples come out mono at 16 kHz, as float32 and without clipping: peaks
above 1, which lossy codecs make, are kept.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from quran_asr.errors import QuranAsrError
from quran_asr.files import write_atomically
from quran_asr.media import NAMES as MEDIA
from quran_asr.records import SAMPLE_RATE
from quran_asr.shards import as_file
from quran_asr.sound_files import AGAIN, BLOCK_FRAMES, Sound, opened, refuse_damaged_pages
from quran_asr.sound_files import TOLERANCE_SECONDS as TOLERANCE_SECONDS
from quran_asr.sound_files import mono as mono

if TYPE_CHECKING:
    from quran_asr.records import Samples

_FROM_SOURCE = "export it again from its source as 16-bit wav or flac"
_WITHIN = "correct `offset` and `duration` in the manifest, or copy the recording again"
_CLEAR = "clear them first: numpy.nan_to_num(samples, posinf=0, neginf=0)"

_TAIL_SECONDS = 0.2

_LONGEST_PACKET_SECONDS = 0.12
"""Of Opus (RFC 6716)."""

_MP3_WARM_UP_SECONDS = 0.6
"""An MP3 frame may need what up to 511 bytes of earlier frames hold: after a seek, 0.3 s of a recording of
24 kbit/s came out wrong (libsndfile 1.2.2)."""


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
    with as_file(Path(path)) as file, opened(file) as sound:
        rate, frames = sound.samplerate, sound.frames
        if sound.format == "OGG":
            refuse_damaged_pages(file)
        if sound.format not in ("WAV", "WAVEX", "OGG", *MEDIA):  # of these `opened` knows it, sooner
            tail = min(frames, int(_TAIL_SECONDS * rate) + 1)
            sound.seek(frames - tail)
            if len(sound.read(tail, dtype="float32")) < tail - int(TOLERANCE_SECONDS * rate):
                raise QuranAsrError(
                    f"truncated: its header claims {frames / rate:.1f} s, and the end is missing",
                    where=str(path),
                    remedy=AGAIN,
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
    with as_file(Path(path)) as file, opened(file) as sound:
        rate = sound.samplerate
        start, wanted = _stretch(sound, path, offset, duration)
        stored = _joined(list(_mono_blocks(sound, start, wanted, BLOCK_FRAMES, on_stored)))
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
    with as_file(Path(path)) as file, opened(file) as sound:
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
    with as_file(Path(path)) as file, opened(file) as sound:
        start = min(round(offset * sound.samplerate), sound.frames)
        left = sound.frames - start
        wanted = left if duration is None else min(left, round(duration * sound.samplerate))
        latest: list[NDArray[np.float32]] = []
        for _ in _mono_blocks(sound, start, wanted, BLOCK_FRAMES, latest.append):
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
            remedy=AGAIN,
        )


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


def _joined(blocks: list[Samples]) -> Samples:
    if len(blocks) == 1:
        return blocks[0]
    return np.concatenate(blocks) if blocks else np.zeros(0, dtype=np.float32)


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
