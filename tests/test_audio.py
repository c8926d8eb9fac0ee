"""Sound files in, samples out: codecs, rates, channels, and everything that calls itself a recording."""

from __future__ import annotations

import io
import json
import math
import os
import resource
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from quran_asr import audio
from quran_asr.errors import QuranAsrError

CODECS = {
    "wav": ("WAV", "PCM_16", 16_000),
    "float": ("WAV", "FLOAT", 44_100),
    "flac": ("FLAC", "PCM_16", 22_050),
    "mp3": ("MP3", "MPEG_LAYER_III", 44_100),
    "vorbis": ("OGG", "VORBIS", 8_000),
    "opus": ("OGG", "OPUS", 48_000),
}


def tone(seconds: float, rate: int, hertz: float = 440.0) -> np.ndarray:
    return (0.4 * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


def encoded(codec: str, samples: np.ndarray, rate: int) -> bytes:
    container, subtype, _ = CODECS[codec]
    memory = io.BytesIO()
    soundfile.write(memory, samples, rate, format=container, subtype=subtype)
    return memory.getvalue()


def loudest_hertz(samples: np.ndarray) -> float:
    spectrum = np.abs(np.fft.rfft(samples * np.hanning(len(samples))))
    return float(np.fft.rfftfreq(len(samples), 1 / 16_000)[spectrum.argmax()])


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("codec", CODECS)
def test_every_codec_rate_and_channel_count_comes_out_alike(tmp_path, codec, channels):
    rate = CODECS[codec][2]
    sound = np.repeat(tone(1.5, rate)[:, None], channels, axis=1)
    path = tmp_path / "recording"
    path.write_bytes(encoded(codec, sound, rate))

    info = audio.probe(path)
    assert (info.rate, info.channels) == (rate, channels)
    assert info.format == {"float": "wav"}.get(codec, codec)
    assert info.seconds == pytest.approx(1.5, abs=0.01)

    samples = audio.read(path)
    assert samples.dtype == np.float32
    assert samples.ndim == 1
    assert len(samples) == pytest.approx(24_000, abs=160)
    assert loudest_hertz(samples) == pytest.approx(440, abs=1)
    middle = samples[8_000:16_000]
    assert float(np.sqrt(np.mean(middle**2))) == pytest.approx(0.4 / math.sqrt(2), rel=0.05)


def test_channels_are_averaged(tmp_path):
    left = tone(1.0, 16_000)
    soundfile.write(tmp_path / "one-sided.wav", np.stack([left, 0 * left], 1), 16_000, subtype="FLOAT")
    soundfile.write(tmp_path / "opposed.wav", np.stack([left, -left], 1), 16_000, subtype="FLOAT")
    np.testing.assert_allclose(audio.read(tmp_path / "one-sided.wav"), left / 2, atol=1e-7)
    assert not audio.read(tmp_path / "opposed.wav").any()


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("name", ["002255.mp3", "002255.wav", "002255.RAW", "002255.flac", "002255"])
def test_the_name_is_not_trusted(tmp_path, codec, name):
    path = tmp_path / name
    path.write_bytes(encoded(codec, tone(0.5, 16_000), 16_000))
    assert audio.probe(path).format == {"float": "wav"}.get(codec, codec)
    assert loudest_hertz(audio.read(path)) == pytest.approx(440, abs=3)


@pytest.mark.parametrize("codec", ["wav", "flac", "vorbis", "mp3", "opus"])
def test_a_stretch_is_that_part_of_the_whole(tmp_path, codec):
    rate = 16_000
    noise = np.random.default_rng(0).normal(0, 0.1, 4 * rate).astype(np.float32)
    path = tmp_path / "recording"
    path.write_bytes(encoded(codec, noise, rate))
    whole, part = audio.read(path), audio.read(path, offset=1.25, duration=0.5)
    assert len(part) == rate // 2
    # lossy decoders start a little differently after a seek
    settled = slice(1_000, None) if codec in ("opus", "mp3") else slice(None)
    expected = whole[20_000 : 20_000 + rate // 2]
    np.testing.assert_allclose(part[settled], expected[settled], atol=1e-2 if codec == "opus" else 1e-4)


def test_a_stretch_is_taken_at_the_native_rate(tmp_path):
    rising = np.repeat(np.arange(10) / 10, 44_100).astype(np.float32)  # a step each second
    soundfile.write(tmp_path / "steps.wav", rising, 44_100)
    samples = audio.read(tmp_path / "steps.wav", offset=7.0, duration=1.0)
    assert len(samples) == 16_000
    assert samples[2_000:-2_000] == pytest.approx(0.7, abs=1e-3)


def test_a_rounded_duration_may_end_a_little_after_the_file(tmp_path):
    audio.write(tmp_path / "clip.wav", tone(1.0, 16_000))
    assert len(audio.read(tmp_path / "clip.wav", 0.5, 0.55)) == 8_000
    with pytest.raises(QuranAsrError, match=r"ends at 1\.70 s, the file at 1\.00 s"):
        audio.read(tmp_path / "clip.wav", 0.5, 1.2)
    with pytest.raises(QuranAsrError, match=r"begins at 1\.00 s, the file ends at 1\.00 s"):
        audio.read(tmp_path / "clip.wav", 1.0)


@pytest.mark.parametrize(
    ("offset", "duration"), [(-1.0, None), (math.nan, None), (0.0, 0.0), (0.0, -1.0), (0.0, math.inf)]
)
def test_a_stretch_that_is_none_is_refused(tmp_path, offset, duration):
    audio.write(tmp_path / "clip.wav", tone(1.0, 16_000))
    with pytest.raises(QuranAsrError, match="no stretch"):
        audio.read(tmp_path / "clip.wav", offset, duration)


WEB_PAGE = b"\xef\xbb\xbf\n <!DOCTYPE html><html><body>404</body></html>" * 40
NO_RECORDINGS = {
    "web page": (WEB_PAGE, "a web page"),
    "empty": (b"", "an empty file"),
    "zeros": (bytes(40_000), "only zero bytes"),
    "zip": (b"PK\x03\x04" + bytes(100), "a zip archive"),
    "lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n", "a Git LFS pointer"),
    "m4a": (b"\x00\x00\x00\x20ftypM4A " + bytes(100), "MPEG-4 audio"),
    "text": ("قل هو الله أحد".encode() * 100, "not an audio file"),
    "no samples": (encoded("wav", np.zeros(0, np.float32), 16_000), "no samples"),
}


@pytest.mark.parametrize("function", [audio.probe, audio.read])
@pytest.mark.parametrize("kind", NO_RECORDINGS)
def test_what_is_not_a_recording_is_named(tmp_path, kind, function):
    content, reason = NO_RECORDINGS[kind]
    path = tmp_path / "002255.mp3"
    path.write_bytes(content)
    with pytest.raises(QuranAsrError, match=reason) as refused:
        function(path)
    assert refused.value.where == str(path)
    assert "\n" not in refused.value.what


@pytest.mark.parametrize("function", [audio.probe, audio.read])
@pytest.mark.parametrize("codec", CODECS)
def test_a_truncated_file_is_refused_and_not_read_as_a_shorter_one(tmp_path, codec, function):
    rate = CODECS[codec][2]
    # real speech does not fit one page or frame; noise does not either
    noise = np.random.default_rng(0).normal(0, 0.1, 6 * rate).astype(np.float32)
    whole = encoded(codec, noise, rate)
    path = tmp_path / "recording"
    for share in (0.3, 0.6, 0.9):
        path.write_bytes(whole[: round(len(whole) * share)])
        with pytest.raises(QuranAsrError, match="truncated"):
            function(path)


@pytest.mark.parametrize(
    ("codec", "function"), [("flac", audio.read), ("vorbis", audio.probe), ("opus", audio.probe)]
)
def test_damage_in_the_middle_is_found(tmp_path, codec, function):
    noise = np.random.default_rng(0).normal(0, 0.1, 16_000 * 20).astype(np.float32)
    damaged = bytearray(encoded(codec, noise, 16_000))
    middle = len(damaged) // 2
    damaged[middle : middle + 300] = bytes(range(150)) * 2
    path = tmp_path / "recording"
    path.write_bytes(damaged)
    with pytest.raises(QuranAsrError, match="damaged"):
        function(path)


def test_a_missing_file_a_folder_and_a_pipe_are_not_recordings(tmp_path):
    os.mkfifo(tmp_path / "pipe.wav")  # opening it would wait for ever
    wrong = (("missing.wav", "no such file"), (".", "this is a folder"), ("pipe.wav", "not a regular file"))
    for name, what in wrong:
        with pytest.raises(QuranAsrError, match=what) as refused:
            audio.probe(tmp_path / name)
        assert refused.value.remedy


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_samples_that_are_not_numbers_are_refused(tmp_path, value):
    samples = tone(0.1, 16_000)
    samples[700] = value
    soundfile.write(tmp_path / "nan.wav", samples, 16_000, subtype="FLOAT")
    with pytest.raises(QuranAsrError, match="not numbers"):
        audio.read(tmp_path / "nan.wav")
    with pytest.raises(QuranAsrError, match="NaN"):
        audio.write(tmp_path / "again.wav", samples)
    assert not (tmp_path / "again.wav").exists()


def test_a_header_that_claims_hours_allocates_no_hours(tmp_path):
    claimed = bytearray(encoded("flac", tone(0.5, 16_000), 16_000))
    # STREAMINFO keeps the number of samples in the 36 bits that end at byte 26
    claimed[21] |= 0x0F
    claimed[22:26] = b"\xff" * 4
    path = tmp_path / "claims.flac"
    path.write_bytes(claimed)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for function in (audio.probe, audio.read):
        with pytest.raises(QuranAsrError):
            function(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # KiB; it claims 250 GiB


WHOLE = {
    codec: encoded(codec, np.random.default_rng(0).normal(0, 0.1, 16_000).astype(np.float32), 16_000)
    for codec in CODECS
}


@given(st.data())
def test_damaged_bytes_give_samples_or_one_clear_line(tmp_path_factory, data):
    content = bytearray(WHOLE[data.draw(st.sampled_from(sorted(WHOLE)))])
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.one_of(st.integers(0, 120), st.integers(0, len(content) - 1))) % len(content)
        if data.draw(st.booleans()):
            content[place] = data.draw(st.integers(0, 255))
        else:
            content[place:] = content[place + data.draw(st.integers(1, 50)) :] or b"?"
    path = tmp_path_factory.getbasetemp() / "damaged"
    path.write_bytes(content)
    for function in (audio.probe, audio.read):
        try:
            answer = function(path)
        except QuranAsrError as refused:
            assert refused.where == str(path)
            assert "\n" not in refused.what
        else:
            assert not isinstance(answer, np.ndarray) or (len(answer) and np.isfinite(answer).all())


def test_an_mp3_in_whose_hole_the_decoder_gets_lost_is_refused(tmp_path):
    """After this cut a seek ends beyond the end, and soundfile asks numpy for fewer than no samples."""
    path = tmp_path / "hole.mp3"
    path.write_bytes(WHOLE["mp3"][:3_313] + WHOLE["mp3"][3_342:])
    with pytest.raises(QuranAsrError, match=r"damaged|truncated"):
        audio.probe(path)


def test_peaks_above_one_survive_reading_and_are_scaled_for_writing(tmp_path):
    loud = 3 * tone(0.5, 16_000)
    soundfile.write(tmp_path / "loud.wav", loud, 16_000, subtype="FLOAT")
    samples = audio.read(tmp_path / "loud.wav")
    np.testing.assert_array_equal(samples, loud)
    audio.write(tmp_path / "scaled.wav", samples)
    np.testing.assert_allclose(audio.read(tmp_path / "scaled.wav"), loud / loud.max(), atol=1e-4)


@pytest.mark.parametrize("name", ["clip.wav", "clip.flac"])
def test_what_is_written_is_read_back(tmp_path, name):
    samples = np.array([0.0, 1.0, -1.0, 0.5, -0.25] * 100, np.float32)  # a peak of exactly 1 must not wrap
    audio.write(tmp_path / "new folder" / name, samples)
    np.testing.assert_allclose(audio.read(tmp_path / "new folder" / name), samples, atol=1e-4)
    assert [file.name for file in (tmp_path / "new folder").iterdir()] == [name]


def test_only_wav_and_flac_are_written(tmp_path):
    with pytest.raises(QuranAsrError, match=r"only \.wav and \.flac"):
        audio.write(tmp_path / "clip.mp3", tone(0.1, 16_000))


def test_a_disk_that_fills_up_leaves_the_old_file(tmp_path):
    path = tmp_path / "clip.wav"
    audio.write(path, tone(0.1, 16_000))
    old = path.read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))  # the write really fails half-way
    try:
        with pytest.raises(OSError, match="too large"):
            audio.write(path, tone(2.0, 16_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_bytes() == old
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.slow
@pytest.mark.data
def test_real_recordings_are_all_whole_and_read_fast(recordings: Path):
    clips = sorted((recordings / "recitations").glob("*/*.opus"))
    assert len(clips) > 4_000
    index = (recordings / "recitations" / "index.jsonl").read_text("utf-8").splitlines()
    expected = {line["audio_filepath"]: line["duration"] for line in map(json.loads, index)}
    for clip in clips:
        name = f"{clip.parent.name}/{clip.name}"
        assert audio.probe(clip).seconds == pytest.approx(expected[name], abs=0.01), name
    some = clips[::100]
    start = time.process_time()
    seconds = sum(len(audio.read(clip)) for clip in some) / 16_000
    assert seconds / (time.process_time() - start) > 50, "times real time on one core; 400 is usual"


@pytest.mark.slow
@pytest.mark.parametrize("rate", [16_000, 48_000])
def test_the_last_packet_of_an_opus_file_is_whole_wherever_a_block_ends(tmp_path, rate):
    path = tmp_path / "recording.opus"
    memory = io.BytesIO()
    soundfile.write(memory, tone(1.1, rate), rate, format="OGG", subtype="OPUS")
    path.write_bytes(memory.getvalue())
    whole = soundfile.read(path, dtype="float32")[0]
    for left in range(1, rate // 8, rate // 800):  # frames after the end of the first block
        blocks = list(audio.blocks(path, (len(whole) - left) / rate))
        assert {rate} == {each for _, each in blocks}
        np.testing.assert_array_equal(np.concatenate([block for block, _ in blocks]), whole)


def test_a_stretch_of_an_mp3_of_low_bit_rate_is_audible_from_its_first_sample(tmp_path):
    """Its decoder needs bytes of earlier frames, which a seek passes over."""
    memory = io.BytesIO()
    sound = tone(3.0, 16_000)
    soundfile.write(
        memory,
        sound,
        16_000,
        format="MP3",
        subtype="MPEG_LAYER_III",
        compression_level=0.9,
        bitrate_mode="CONSTANT",
    )
    path = tmp_path / "low.mp3"
    path.write_bytes(memory.getvalue())
    whole = audio.read(path)
    for offset in (0.05, 0.5, 1.0, 2.5):
        stretch = audio.read(path, offset, 0.4)
        begin = round(offset * 16_000)
        assert np.abs(stretch - whole[begin : begin + len(stretch)]).max() < 1e-3
