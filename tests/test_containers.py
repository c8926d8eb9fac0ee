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
    ("AU", "PCM_16"),
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


@pytest.mark.parametrize(
    ("container", "subtype"),
    [("FLAC", "PCM_16"), ("WAV", "PCM_16"), ("OGG", "VORBIS")],
    ids=lambda name: name,
)
@pytest.mark.parametrize(("rate", "channels"), [(22_050, 1), (44_100, 2), (8_000, 1), (16_000, 2)])
def test_joined_streams_of_unlike_rate_or_channels_are_read_at_those_of_the_first(
    container: str, subtype: str, rate: int, channels: int, tmp_path: Path
) -> None:
    times = np.arange(round(1.5 * rate)) / rate
    other = np.repeat((0.3 * np.sin(2 * np.pi * 900 * times))[:, None], channels, axis=1)
    second = io.BytesIO()
    soundfile.write(second, other, rate, format=container, subtype=subtype)
    path = tmp_path / "joined"
    path.write_bytes(
        encoded(tones(500), container, subtype) + second.getvalue() + encoded(tones(1400), container, subtype)
    )
    assert (audio.probe(path).rate, audio.probe(path).channels) == (RATE, 1)
    samples = whole(path)
    assert len(samples) == pytest.approx(4.5 * RATE, abs=2)
    assert pitches(samples) == [500, 900, 1400]
    expected = tones(900)[2_000:-2_000]
    heard = samples[round(1.5 * RATE) :][2_000 : 2_000 + len(expected)]
    assert np.abs(heard - expected).max() < (0.06 if container == "OGG" else 0.001)  # in time, as loud


@pytest.mark.parametrize("offset", [1.5, 1.6, 1.75, 2.9])
def test_a_stretch_of_a_part_of_another_rate_is_that_part_of_the_whole(offset: float, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).normal(0, 0.1, 66_150)
    second = io.BytesIO()
    soundfile.write(second, noise, 44_100, format="WAV", subtype="FLOAT")
    path = tmp_path / "joined.wav"
    path.write_bytes(encoded(tones(500), "WAV", "FLOAT") + second.getvalue())
    samples = audio.read(path)
    stretch = audio.read(path, offset)
    assert np.abs(stretch - samples[round(offset * RATE) :]).max() < 1e-4


@pytest.mark.parametrize(
    "container", ["WAV", "WAVEX", "RF64", "W64", "AIFF", "AU", "CAF", "NIST", "VOC", "AVR", "MAT5"]
)
@pytest.mark.parametrize("function", [audio.probe, audio.read])
def test_half_a_file_of_plain_samples_is_truncated(container: str, function: object, tmp_path: Path) -> None:
    content = encoded(tones(500, 900), container, "PCM_16")
    path = tmp_path / "recording"
    path.write_bytes(content)
    assert len(whole(path)) == 3 * RATE
    for share in (0.3, 0.97):
        path.write_bytes(content[: round(len(content) * share)])
        with pytest.raises(QuranAsrError, match="truncated"):
            function(path)  # type: ignore[operator]


def resized(content: bytes, name: bytes, claimed: int, order: str = "little") -> bytes:
    place = content.index(name) + 4
    return content[:place] + claimed.to_bytes(4, order) + content[place + 4 :]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("container", "name", "order"),
    [("WAV", b"data", "little"), ("AIFF", b"SSND", "big")],
    ids=["wav", "aiff"],
)
def test_samples_that_are_missing_by_their_own_size_are_missed(
    container: str, name: bytes, order: str, tmp_path: Path
) -> None:
    content = encoded(tones(500), container, "PCM_16")
    path = tmp_path / "recording"
    path.write_bytes(resized(content, name, 2 * len(content), order))
    with pytest.raises(QuranAsrError, match=r"truncated: [\d,]+ of [\d,]+ bytes are there"):
        audio.probe(path)


def test_the_last_of_joined_wav_files_may_be_truncated(tmp_path: Path) -> None:
    wav = encoded(tones(500), "WAV", "PCM_16")
    path = tmp_path / "joined.wav"
    path.write_bytes(wav + wav[: len(wav) // 2])
    with pytest.raises(QuranAsrError, match="truncated"):
        audio.read(path)


def test_an_au_file_of_unknown_length_is_read_to_its_end(tmp_path: Path) -> None:
    content = encoded(tones(500), "AU", "PCM_16")
    path = tmp_path / "recording.au"
    path.write_bytes(content[:8] + b"\xff" * 4 + content[12:])
    assert len(audio.read(path)) == round(1.5 * RATE)


@pytest.mark.parametrize("claimed", [0, 8_000])
def test_an_au_file_with_more_samples_than_its_header_claims_is_read_whole(
    claimed: int, tmp_path: Path
) -> None:
    content = encoded(tones(500, 900), "AU", "PCM_16")
    path = tmp_path / "recording.au"
    path.write_bytes(content[:8] + claimed.to_bytes(4, "big") + content[12:])
    assert pitches(whole(path)) == [500, 900]


ID3 = b"ID3\x04\0\0" + bytes([0, 0, 1, 0]) + bytes(128)


@pytest.mark.parametrize("total", [0, 20_000, 48_000])
def test_a_tag_before_a_flac_changes_nothing(total: int, tmp_path: Path) -> None:
    path = tmp_path / "tagged.flac"
    path.write_bytes(ID3 + with_total(encoded(tones(500, 900), "FLAC", "PCM_16"), total))
    samples = whole(path)
    assert len(samples) == 3 * RATE
    assert pitches(samples) == [500, 900]


@pytest.mark.parametrize("container", ["WAV", "AIFF"])
def test_a_codec_that_cannot_seek_is_read_from_its_beginning(container: str, tmp_path: Path) -> None:
    path = tmp_path / "phone"
    content = encoded(tones(500, 900), container, "GSM610")
    path.write_bytes(content)
    samples = whole(path)
    assert len(samples) == pytest.approx(3 * RATE, abs=640)
    assert pitches(samples)[:2] == [500, 900]
    if container == "WAV":
        path.write_bytes(content + content)
        assert len(whole(path)) == 2 * len(samples)


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
