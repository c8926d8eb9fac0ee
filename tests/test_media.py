"""What phones and browsers record: made with PyAV's encoders, read through the doors of `audio`."""

from __future__ import annotations

import sys
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from quran_asr import audio
from quran_asr.corpus.scan import scan
from quran_asr.errors import QuranAsrError
from quran_asr.runtime.audio_input import blocks_of_file

av = pytest.importorskip("av", reason="needs the extra media")


class Kind(NamedTuple):
    """A container with a codec."""

    container: str
    codec: str
    rate: int
    format: str
    """As `audio.probe` names it."""
    bit_rate: int | None = None
    video: bool = False
    delay: int = 0
    """Most samples by which the sound comes late (3gp: early), as its container does not say it right."""


KINDS = {
    "recording.m4a": Kind("ipod", "aac", 44_100, "mp4"),
    "phone.m4a": Kind("ipod", "aac", 16_000, "mp4"),
    "lossless.m4a": Kind("ipod", "alac", 44_100, "mp4"),
    "video.mp4": Kind("mp4", "aac", 48_000, "mp4", video=True),
    "recording.3gp": Kind("3gp", "libopencore_amrnb", 8_000, "mp4", 12_200, delay=10),
    "recording.amr": Kind("amr", "libopencore_amrnb", 8_000, "amr", 12_200, delay=80),
    "recording.aac": Kind("adts", "aac", 44_100, "aac", delay=1024),
    "browser.webm": Kind("webm", "libopus", 48_000, "webm"),
    "recording.mka": Kind("matroska", "aac", 44_100, "webm", delay=1024),
    "recording.wma": Kind("asf", "wmav2", 44_100, "wma", 96_000, delay=2048),
    "recording.ac3": Kind("ac3", "ac3", 44_100, "ac3", 128_000, delay=1536),
    "recording.ts": Kind("mpegts", "aac", 44_100, "ts", delay=1024),
    "recording.avi": Kind("avi", "aac", 44_100, "avi", delay=1024),
    "recording.oga": Kind("ogg", "flac", 44_100, "flac"),
}


def write(path: Path, kind: Kind, samples: np.ndarray, channels: int = 1) -> Path:
    """Encode float32 [samples] at the kind's rate, the same in each channel."""
    layout = "mono" if channels == 1 else "stereo"
    with av.open(str(path), "w", format=kind.container) as container:
        sound = container.add_stream(kind.codec, rate=kind.rate, layout=layout)
        if kind.bit_rate:
            sound.bit_rate = kind.bit_rate
        if kind.video:
            picture = container.add_stream("mpeg4", rate=10)
            picture.width, picture.height, picture.pix_fmt = 32, 32, "yuv420p"
            for i in range(int(len(samples) / kind.rate * 10)):
                image = av.VideoFrame.from_ndarray(np.full((48, 32), 16, np.uint8), format="yuv420p")
                image.pts = i
                container.mux(picture.encode(image))
            container.mux(picture.encode())
        for start in range(0, len(samples), 4096):
            block = np.repeat(samples[None, start : start + 4096].astype(np.float32), channels, axis=0)
            frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(block), format="fltp", layout=layout)
            frame.sample_rate, frame.pts, frame.time_base = kind.rate, start, Fraction(1, kind.rate)
            container.mux(sound.encode(frame))
        container.mux(sound.encode())
    return path


def band_noise(seconds: float, rate: int, seed: int = 0) -> np.ndarray:
    """Noise below 1.5 kHz, which speech codecs keep, with a level that goes up and down like speech."""
    spectrum = np.fft.rfft(np.random.default_rng(seed).normal(0, 1, round(seconds * rate)))
    hertz = np.fft.rfftfreq(round(seconds * rate), 1 / rate)
    spectrum[(hertz < 200) | (hertz > 1500)] = 0
    noise = np.fft.irfft(spectrum, round(seconds * rate))
    swell = 0.6 + 0.4 * np.sin(2 * np.pi * 3 * np.arange(len(noise)) / rate)
    return (0.3 * noise * swell / np.abs(noise).max()).astype(np.float32)


def lag_of(samples: np.ndarray, source: np.ndarray) -> int:
    """By how many samples the first comes later than the second."""
    size = 1 << (len(samples) + len(source)).bit_length()
    both = np.fft.rfft(samples, size) * np.fft.rfft(source, size).conj()
    lag = int(np.fft.irfft(both, size).argmax())
    return lag if lag < size // 2 else lag - size


@pytest.fixture(scope="module", params=KINDS)
def stored(request, tmp_path_factory) -> tuple[Path, Kind, np.ndarray]:
    """(file, kind, source at 16 kHz) of 4.37 s."""
    kind = KINDS[request.param]
    source = band_noise(4.37, kind.rate)
    path = tmp_path_factory.mktemp("media") / request.param
    return write(path, kind, source), kind, audio.resample(source, kind.rate)


def test_the_samples_are_those_of_the_source_and_in_time(stored):
    path, kind, source = stored
    info = audio.probe(path)
    assert (info.format, info.rate, info.channels) == (kind.format, kind.rate, 1)
    samples = audio.read(path)
    delay = kind.delay * 16_000 / kind.rate
    packet = 2 * 2048 * 16_000 / kind.rate if kind.delay else 2  # without a length the last packet is whole
    assert info.seconds == pytest.approx(len(samples) / 16_000, abs=1e-4)
    shortest = len(source) - (
        2 if kind.format != "wma" else delay
    )  # FFmpeg's WMA encoder drops its last packet
    assert shortest <= len(samples) <= len(source) + packet
    lag = lag_of(samples, source)
    assert abs(lag) <= delay + 1
    middle = slice(3_000, len(source) - 3_000)
    correlation = np.corrcoef(np.roll(samples, -lag)[middle], source[middle])[0, 1]
    assert correlation > (0.88 if "amr" in kind.codec else 0.98)


@settings(max_examples=8)
@given(offset=st.floats(0.0, 4.0), duration=st.floats(0.05, 2.0))
def test_a_stretch_is_that_part_of_the_whole_to_the_sample(stored, offset, duration):
    path, kind, _ = stored
    if kind.rate != 16_000:  # the resampler has its own edges: compared at the stored rate, below
        offset, duration = round(offset * 100) / 100, max(0.05, round(duration * 100) / 100)
    duration = min(duration, audio.probe(path).seconds - offset)
    whole: list[np.ndarray] = []
    part: list[np.ndarray] = []
    audio.read(path, on_stored=whole.append)
    audio.read(path, offset, duration, on_stored=part.append)
    expected = np.concatenate(whole)[round(offset * kind.rate) :][: len(np.concatenate(part))]
    assert len(np.concatenate(part)) == pytest.approx(duration * kind.rate, abs=1)
    # a decoder that starts in the middle makes noise of its own (AAC) and settles within half a second
    np.testing.assert_allclose(np.concatenate(part), expected, atol=0.02)


@pytest.mark.slow
def test_long_recordings_are_found_by_seeking(tmp_path):
    for name in ("recording.m4a", "browser.webm", "recording.wma", "recording.aac", "recording.amr"):
        kind = KINDS[name]
        path = write(tmp_path / name, kind, band_noise(40.0, kind.rate))
        whole: list[np.ndarray] = []
        audio.read(path, on_stored=whole.append)
        for offset in (0.0, 0.7, 13.37, 29.99, 38.0):
            part: list[np.ndarray] = []
            audio.read(path, offset, 1.5, on_stored=part.append)
            expected = np.concatenate(whole)[round(offset * kind.rate) :][: len(part[0])]
            np.testing.assert_allclose(np.concatenate(part), expected, atol=0.02, err_msg=f"{name} {offset}")


def test_blocks_are_the_whole(stored):
    path, _, _ = stored
    joined = np.concatenate(list(blocks_of_file(path, 0.3)))
    np.testing.assert_allclose(joined, audio.read(path), atol=1e-4)


def test_channels_are_averaged(tmp_path):
    kind = KINDS["recording.m4a"]
    path = write(tmp_path / "stereo.m4a", kind, band_noise(1.0, kind.rate), channels=2)
    assert audio.probe(path).channels == 2
    assert len(audio.read(path)) == 16_000


@pytest.mark.parametrize("name", KINDS)
def test_files_one_after_another_are_read_to_the_end(tmp_path, name):
    kind = KINDS[name]
    first = write(tmp_path / f"1-{name}", kind, band_noise(1.5, kind.rate))
    second = write(tmp_path / f"2-{name}", kind, band_noise(2.1, kind.rate, seed=1))
    both = tmp_path / name
    both.write_bytes(first.read_bytes() + second.read_bytes())
    seconds = audio.probe(first).seconds + audio.probe(second).seconds
    assert audio.probe(both).seconds == pytest.approx(seconds, abs=0.03)
    later = audio.read(both, audio.probe(first).seconds)
    assert np.corrcoef(later[:24_000], audio.read(second)[:24_000])[0, 1] > 0.95


@pytest.mark.parametrize("function", [audio.probe, audio.read])
@pytest.mark.parametrize(
    "name", [name for name in KINDS if not name.endswith((".amr", ".aac", ".ac3", ".ts"))]
)
def test_a_truncated_file_is_refused_and_not_read_as_a_shorter_one(tmp_path, name, function):
    kind = KINDS[name]
    whole = write(tmp_path / name, kind, band_noise(6.0, kind.rate)).read_bytes()
    for share in (0.02, 0.3, 0.6, 0.9):
        (tmp_path / name).write_bytes(whole[: round(len(whole) * share)])
        with pytest.raises(QuranAsrError, match=r"truncated|damaged") as refused:
            function(tmp_path / name)
        assert "\n" not in refused.value.what


def test_a_stream_without_a_length_that_is_cut_off_is_read_to_its_last_whole_packet(tmp_path):
    for name in ("recording.amr", "recording.aac"):
        kind = KINDS[name]
        path = write(tmp_path / name, kind, band_noise(4.0, kind.rate))
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2 + 7])
        assert audio.probe(path).seconds == pytest.approx(2.0, abs=0.3)


@settings(max_examples=15)
@given(data=st.data())
def test_damaged_bytes_give_samples_or_one_clear_line(stored, tmp_path_factory, data):
    path, _, _ = stored
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 5))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    damaged = tmp_path_factory.mktemp("damaged") / path.name
    damaged.write_bytes(content)
    try:
        samples = audio.read(damaged)
    except QuranAsrError as error:
        assert "\n" not in error.what
    else:
        assert len(samples)


def test_a_video_without_sound_is_named(tmp_path):
    with av.open(str(tmp_path / "silent.mp4"), "w", format="mp4") as container:
        picture = container.add_stream("mpeg4", rate=10)
        picture.width, picture.height, picture.pix_fmt = 32, 32, "yuv420p"
        image = av.VideoFrame.from_ndarray(np.full((48, 32), 16, np.uint8), format="yuv420p")
        container.mux(picture.encode(image))
        container.mux(picture.encode())
    with pytest.raises(QuranAsrError, match="no audio track in it"):
        audio.probe(tmp_path / "silent.mp4")


@pytest.mark.parametrize(
    ("name", "named"),
    [
        ("recording.m4a", "MPEG-4"),
        ("recording.3gp", "MPEG-4"),
        ("recording.amr", "AMR"),
        ("recording.aac", "AAC"),
        ("browser.webm", "WebM"),
        ("recording.wma", "Windows Media"),
        ("recording.ac3", "Dolby Digital"),
        ("recording.ts", "MPEG transport stream"),
        ("recording.avi", "AVI"),
        ("recording.oga", "Ogg FLAC"),
    ],
)
def test_without_the_extra_one_line_names_the_format_and_the_extra(tmp_path, monkeypatch, name, named):
    kind = KINDS[name]
    path = write(tmp_path / name, kind, band_noise(0.5, kind.rate))
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(QuranAsrError, match=f"{named}.*needs the extra `media`") as refused:
        audio.read(path)
    assert "pip install 'quran-asr[media]'" in refused.value.remedy


def test_a_scan_takes_verses_from_a_phone(tmp_path):
    folder = tmp_path / "reciter"
    folder.mkdir()
    for number, name in enumerate(("recording.m4a", "browser.webm", "recording.3gp", "recording.mka"), 1):
        kind = KINDS[name]
        write(folder / f"11200{number}{Path(name).suffix}", kind, band_noise(3.0, kind.rate))
    report = scan([folder], tmp_path / "all.jsonl")
    assert (report.clips, list(report.dropped)) == (4, [])


def test_a_core_audio_file_that_libsndfile_refuses_is_read_by_pyav(tmp_path):
    path = write(tmp_path / "recording.caf", Kind("caf", "alac", 44_100, "caf"), band_noise(2.0, 44_100))
    assert audio.probe(path).format == "caf"
    assert audio.probe(path).seconds == pytest.approx(2.0, abs=0.1)
    soundfile.write(tmp_path / "plain.caf", band_noise(2.0, 44_100), 44_100, subtype="ALAC_16")
    assert audio.probe(tmp_path / "plain.caf").seconds == pytest.approx(2.0, abs=0.001)


def test_without_the_extra_libsndfile_still_reads_its_own_core_audio_files(tmp_path, monkeypatch):
    refused = write(tmp_path / "recording.caf", Kind("caf", "alac", 44_100, "caf"), band_noise(1.0, 44_100))
    soundfile.write(tmp_path / "plain.caf", band_noise(1.0, 44_100), 44_100, subtype="ALAC_16")
    monkeypatch.setitem(sys.modules, "av", None)
    assert len(audio.read(tmp_path / "plain.caf")) == 16_000
    with pytest.raises(QuranAsrError, match=r"Core Audio.*needs the extra `media`"):
        audio.read(refused)


def test_eight_channels_are_averaged(tmp_path):
    """PyAV looks for a ninth, and ended the process."""
    sound = np.repeat((20_000 * band_noise(2.0, 44_100))[:, None], 8, axis=1).astype(np.int16)
    path = tmp_path / "surround.aac"
    with av.open(str(path), "w", format="adts") as container:
        stream = container.add_stream("aac", rate=44_100, layout="7.1")
        frame = av.AudioFrame.from_ndarray(sound.reshape(1, -1), format="s16", layout="7.1")
        frame.sample_rate, frame.pts = 44_100, 0
        resampler = av.AudioResampler(format="fltp", layout="7.1", rate=44_100, frame_size=1024)
        for block in resampler.resample(frame) + resampler.resample(None):
            container.mux(stream.encode(block))
        container.mux(stream.encode())
    assert audio.probe(path).channels == 8
    assert audio.read(path)[4_000:24_000].std() > 0.01
