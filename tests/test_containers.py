"""Recordings whose header and stream disagree are read whole, or refused by name."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray

from quran_asr import audio
from quran_asr.errors import QuranAsrError
from quran_asr.mp3 import count_frames

RATE = 16_000


def tones(*hertz: int, seconds: float = 1.5, level: float = 0.3) -> NDArray[np.float32]:
    times = np.arange(round(seconds * RATE)) / RATE
    return np.concatenate([(level * np.sin(2 * np.pi * one * times)).astype(np.float32) for one in hertz])


def encoded(samples: NDArray[np.float32], container: str, subtype: str, **options: object) -> bytes:
    memory = io.BytesIO()
    soundfile.write(memory, samples, RATE, format=container, subtype=subtype, **options)
    return memory.getvalue()


def pitches(samples: NDArray[np.float32]) -> list[int]:
    """The strongest frequency in the middle of every stretch of 1.5 s."""
    width = round(1.5 * RATE)
    found = []
    for begin in range(0, len(samples) - width // 2, width):
        middle = samples[begin + width // 4 : begin + width // 2]
        found.append(round(float(np.abs(np.fft.rfft(middle)).argmax()) * RATE / len(middle) / 100) * 100)
    return found


def whole(path: Path) -> NDArray[np.float32]:
    """The recording by every door: `probe`, `read`, stretches and `blocks` agree."""
    seconds = audio.probe(path).seconds
    samples = audio.read(path)
    assert len(samples) / RATE == pytest.approx(seconds, abs=0.001)
    pieces = np.concatenate([block for block, _ in audio.blocks(path, 0.7)])
    assert np.abs(pieces - samples).max() < 1e-4
    stretch = audio.read(path, 0.5, seconds - 0.8)
    assert np.abs(stretch - samples[8000 : 8000 + len(stretch)]).max() < 0.02
    return samples


CONTAINERS = [
    ("WAV", "PCM_16"),
    ("FLAC", "PCM_16"),
    ("OGG", "VORBIS"),
    ("OGG", "OPUS"),
    ("MP3", "MPEG_LAYER_III"),
]


@pytest.mark.parametrize(("container", "subtype"), CONTAINERS, ids=lambda name: name)
def test_files_put_one_after_another_are_read_to_the_end(
    container: str, subtype: str, tmp_path: Path
) -> None:
    path = tmp_path / "joined"
    path.write_bytes(b"".join(encoded(tones(hertz), container, subtype) for hertz in (500, 900, 1400)))
    samples = whole(path)
    assert len(samples) / RATE == pytest.approx(4.5, abs=0.25)  # an MP3 encoder adds some frames to each
    assert pitches(samples) == [500, 900, 1400]


def test_joined_streams_of_unlike_rate_are_refused_by_name(tmp_path: Path) -> None:
    other = io.BytesIO()
    soundfile.write(other, tones(500), 22_050, format="FLAC", subtype="PCM_16")
    path = tmp_path / "joined.flac"
    path.write_bytes(encoded(tones(500), "FLAC", "PCM_16") + other.getvalue())
    with pytest.raises(QuranAsrError, match="2 recordings one after another, of other rates"):
        audio.read(path)


def with_data_size(wav: bytes, claimed: int) -> bytes:
    place = wav.index(b"data") + 4
    return wav[:place] + claimed.to_bytes(4, "little") + wav[place + 4 :]


@pytest.mark.parametrize("claimed", [0, 24_000, 0x7FFF_F000, 0xFFFF_FFFF])
def test_a_wav_is_as_long_as_its_samples(claimed: int, tmp_path: Path) -> None:
    wav = encoded(tones(500, 900), "WAV", "PCM_16")
    path = tmp_path / "streamed.wav"
    path.write_bytes(with_data_size(wav, claimed))
    samples = whole(path)
    assert len(samples) == 3 * RATE
    assert pitches(samples) == [500, 900]


def test_a_chunk_behind_the_samples_of_a_wav_is_not_audio(tmp_path: Path) -> None:
    path = tmp_path / "tagged.wav"
    path.write_bytes(encoded(tones(500), "WAV", "PCM_16") + b"LIST\x10\0\0\0INFOISFT\x04\0\0\0abc\0")
    assert len(audio.read(path)) == round(1.5 * RATE)


def with_total(flac: bytes, total: int) -> bytes:
    info = int.from_bytes(flac[18:26], "big") & ~((1 << 36) - 1)
    return flac[:18] + (info | total).to_bytes(8, "big") + flac[26:]


@pytest.mark.parametrize("total", [0, 20_000])
def test_a_flac_is_as_long_as_its_frames(total: int, tmp_path: Path) -> None:
    flac = encoded(tones(500, 900), "FLAC", "PCM_16")
    path = tmp_path / "streamed.flac"
    path.write_bytes(with_total(flac, total))
    samples = whole(path)
    assert len(samples) == 3 * RATE
    assert pitches(samples) == [500, 900]


def test_bytes_like_the_head_of_a_flac_frame_at_the_very_end(tmp_path: Path) -> None:
    """These end where the block size would follow; a recording ended so."""
    path = tmp_path / "recording.flac"
    path.write_bytes(encoded(tones(500), "FLAC", "PCM_16") + b"\xff\xf9hD\xfd\n+\x1d")
    assert len(audio.read(path)) == round(1.5 * RATE)


def without_header(mp3: bytes) -> bytes:
    """An MP3 without its first frame, which holds the Xing or Info header."""
    second = mp3.index(b"\xff\xf3", 4)
    assert b"Xing" in mp3[:second] or b"Info" in mp3[:second]
    return mp3[second:]


@pytest.mark.parametrize("first", [0.5, 0.0], ids=["loud start", "quiet start"])
def test_an_mp3_of_varying_bit_rate_without_a_header_is_read_whole(first: float, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).standard_normal(6 * RATE).astype(np.float32) * np.float32(0.2)
    noise[: 3 * RATE] *= np.float32(first)
    noise[3 * RATE :] *= np.float32(0.5 - first)
    mp3 = encoded(noise, "MP3", "MPEG_LAYER_III", bitrate_mode="VARIABLE", compression_level=0.2)
    path = tmp_path / "varying.mp3"
    path.write_bytes(without_header(mp3))
    frames = count_frames(path)
    assert frames is not None and not frames.agrees
    assert audio.probe(path).seconds == pytest.approx(6.0, abs=0.2)
    assert len(whole(path)) / RATE == pytest.approx(6.0, abs=0.2)


def test_tags_around_and_between_frames_are_not_frames(tmp_path: Path) -> None:
    mp3 = encoded(tones(500), "MP3", "MPEG_LAYER_III")
    id3 = b"ID3\x04\0\0" + bytes([0, 0, 1, 0]) + bytes(128)
    path = tmp_path / "tagged.mp3"
    path.write_bytes(id3 + mp3 + id3 + mp3 + b"TAG" + bytes(125))
    alone = tmp_path / "alone.mp3"
    alone.write_bytes(mp3)
    twice, once = count_frames(path), count_frames(alone)
    assert twice is not None and once is not None
    assert twice.samples == 2 * once.samples and once.agrees and not twice.agrees
    assert count_frames(Path(__file__)) is None


@pytest.mark.data
def test_the_intact_mp3_that_was_read_by_half(recordings: Path) -> None:
    path = recordings / "inputs" / "vbr-no-xing-loud-start.mp3"
    assert audio.probe(path).seconds == pytest.approx(14.1, abs=0.1)
    assert len(audio.read(path)) / RATE == pytest.approx(14.1, abs=0.1)
