"""Sample-rate conversion of a stream, and files read block by block."""

from __future__ import annotations

import itertools
import tracemalloc

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from quran_asr import audio
from quran_asr.errors import QuranAsrError
from quran_asr.runtime.audio_input import blocks_of_file
from quran_asr.runtime.resampling import Resampler

RATES = [4_000, 8_000, 11_025, 16_000, 22_050, 44_100, 48_000, 96_000, 192_000]


def hiss(frames: int, channels: int = 1) -> np.ndarray:
    noise = np.random.default_rng(frames).standard_normal((frames, channels)) * 0.2
    return np.clip(noise, -1, 1).astype(np.float32)


def streamed(samples: np.ndarray, rate: int, cuts: list[int]) -> np.ndarray:
    resampler = Resampler(rate)
    pieces = [
        resampler.push(samples[start:end]) for start, end in itertools.pairwise([0, *cuts, len(samples)])
    ]
    return np.concatenate([*pieces, resampler.finish()])


@given(st.data())
def test_a_stream_cut_anywhere_is_the_file_as_audio_reads_it(data):
    rate = data.draw(st.one_of(st.sampled_from(RATES), st.integers(4_000, 192_000)))
    frames = data.draw(st.integers(0, 30_000))
    samples = hiss(frames, data.draw(st.integers(1, 3)))
    cuts = sorted(data.draw(st.lists(st.integers(0, frames), max_size=8)))
    whole = audio.resample(audio.mono(samples), rate)
    resampled = streamed(samples, rate, cuts)
    assert resampled.dtype == np.float32
    np.testing.assert_allclose(resampled, whole, atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("rate", "most"),
    [(4_000, 0.24), (8_000, 0.120), (16_000, 0.0), (44_100, 0.042), (48_000, 0.040), (192_000, 0.09)],
)
def test_little_is_held_back(rate, most):
    resampler, came = Resampler(rate), 0
    for _ in range(200):
        came += len(resampler.push(hiss(rate // 100)))
        assert resampler.samples_seen / rate - came / 16_000 <= most


def test_16_bit_samples_are_what_a_wav_of_them_holds(tmp_path):
    whole = (hiss(5_000, 2) * 32_767).astype(np.int16)
    soundfile.write(tmp_path / "whole.wav", whole, 44_100, subtype="PCM_16")
    np.testing.assert_array_equal(streamed(whole, 44_100, [7, 1_000]), audio.read(tmp_path / "whole.wav"))


def test_float64_and_peaks_above_one_are_kept():
    samples = 3 * hiss(1_000)[:, 0].astype(np.float64)
    np.testing.assert_array_equal(streamed(samples, 16_000, [10]), samples.astype(np.float32))


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize(
    ("value", "message", "hint"),
    [
        (np.nan, "1.50 s a sample is not a number (nan)", ""),
        (-np.inf, "1.50 s a sample is not a number (-inf)", ""),
        (-20_000.0, "1.50 s a sample is -20000, and audio lies within -1 and 1", "int16"),
    ],
)
def test_what_is_no_sound_is_refused_with_its_second(value, message, hint, channels):
    samples = hiss(44_100, channels)
    resampler = Resampler(44_100, where="phone call")
    resampler.push(samples)
    samples[22_050, -1] = value
    with pytest.raises(QuranAsrError) as refused:
        resampler.push(samples if channels > 1 else samples[:, 0])
    assert message in refused.value.what
    assert hint in refused.value.remedy
    assert refused.value.where == "phone call"


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        (np.zeros(10, np.uint8), "uint8"),
        (np.zeros(10, np.complex64), "complex64"),
        (np.zeros((2, 1_000), np.float32), "[2, 1000]"),
        (np.zeros((1, 1, 1), np.float32), "[1, 1, 1]"),
        (np.zeros((5, 0), np.float32), "[5, 0]"),
        (np.float32(0.5), "[]"),
    ],
)
def test_another_type_or_shape_is_refused(samples, message):
    with pytest.raises(QuranAsrError, match=r"samples come as") as refused:
        Resampler(16_000).push(samples)
    assert message in refused.value.what


@pytest.mark.parametrize("rate", [0, -1, 3_999, 192_001])
def test_rates_that_no_sound_card_has_are_refused(rate):
    with pytest.raises(QuranAsrError, match="is accepted"):
        Resampler(rate)


@pytest.mark.parametrize("rate", [16_000, 44_100])
def test_no_sound_comes_after_the_end(rate):
    resampler = Resampler(rate)
    resampler.push(hiss(100))
    resampler.finish()
    assert len(resampler.finish()) == 0
    with pytest.raises(QuranAsrError, match="after its end"):
        resampler.push(hiss(100))


@pytest.mark.parametrize("seconds", [0.08, 1.0, 1e9])
@pytest.mark.parametrize(
    ("container", "subtype", "rate", "channels"),
    [
        ("WAV", "PCM_16", 16_000, 1),
        ("FLAC", "PCM_16", 22_050, 2),
        ("MP3", "MPEG_LAYER_III", 44_100, 2),
        ("OGG", "VORBIS", 8_000, 1),
        ("OGG", "OPUS", 48_000, 2),
    ],
)
def test_the_pieces_of_a_file_are_the_file(tmp_path, container, subtype, rate, channels, seconds):
    path = tmp_path / "recording"
    soundfile.write(path.open("wb"), hiss(3 * rate + 17, channels), rate, format=container, subtype=subtype)
    pieces = list(blocks_of_file(path, seconds))
    assert all(0 < len(piece) <= 16_000 * min(seconds, 4) + 1_000 for piece in pieces)
    assert len(pieces) >= min(3 / seconds, 20)
    np.testing.assert_allclose(np.concatenate(pieces), audio.read(path), atol=1e-6, rtol=0)


@pytest.mark.slow
def test_ten_minutes_need_no_more_memory_than_one(tmp_path):
    def peak(minutes: int) -> int:
        path = tmp_path / f"{minutes}.flac"
        with soundfile.SoundFile(path, "w", 22_050, 2) as sound:
            for _ in range(minutes * 6):
                sound.write(np.zeros((220_500, 2), np.float32))
        peaks = []
        for _ in range(3):
            tracemalloc.start()
            read = sum(len(piece) for piece in blocks_of_file(path))
            peaks.append(tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()
            assert read == minutes * 60 * 16_000
        return min(peaks)  # now and then the interpreter enlarges a table of its own, by 1 or 2 MB

    assert peak(10) < peak(1) + 50_000
    assert peak(1) < 2_000_000


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"<!DOCTYPE html><html><body>404 Not Found</body></html>", "web page"),
        (b"", "empty"),
        (b"nothing that sounds" * 50, "not an audio file"),
    ],
)
def test_an_mp3_that_is_none_says_what_it_is(tmp_path, content, message):
    path = tmp_path / "001001.mp3"
    path.write_bytes(content)
    with pytest.raises(QuranAsrError, match=message) as refused:
        next(blocks_of_file(path))
    assert refused.value.where == str(path)


def test_a_truncated_file_gives_what_is_there_and_then_says_so(tmp_path):
    path = tmp_path / "cut.mp3"
    soundfile.write(path, hiss(441_000), 44_100)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    pieces = blocks_of_file(path)
    blocks = [next(pieces) for _ in range(3)]
    assert sum(map(len, blocks)) > 40_000
    with pytest.raises(QuranAsrError, match=r"truncated: 5\.0 of 10\.0 s are there"):
        list(pieces)


def test_a_sample_that_is_no_number_is_named_with_its_file_and_second(tmp_path):
    samples = hiss(48_000)
    samples[36_000] = np.nan
    soundfile.write(tmp_path / "nan.wav", samples, 16_000, subtype="FLOAT")
    with pytest.raises(QuranAsrError, match=r"at 2\.25 s a sample is not a number") as refused:
        list(blocks_of_file(tmp_path / "nan.wav", 0.5))
    assert refused.value.where.endswith("nan.wav")


@pytest.mark.parametrize(
    ("frames", "rate", "seconds", "message"),
    [
        (1, 192_000, 1.0, "too short: 1 samples"),
        (4_000, 3_000, 1.0, "3000 Hz"),
        (4_000, 16_000, 0.0, "no block lasts"),
        (4_000, 16_000, float("nan"), "no block lasts"),
    ],
)
def test_unusual_files_and_pieces_are_refused(tmp_path, frames, rate, seconds, message):
    path = tmp_path / "unusual.wav"
    soundfile.write(path, hiss(frames), rate)
    with pytest.raises(QuranAsrError, match=message):
        list(blocks_of_file(path, seconds))


@pytest.mark.data
def test_a_recording_piece_by_piece(recordings):
    for path in sorted((recordings / "recitations").glob("*/*.opus"))[::500]:
        np.testing.assert_allclose(
            np.concatenate(list(blocks_of_file(path, 0.08))), audio.read(path), atol=1e-6, rtol=0
        )
