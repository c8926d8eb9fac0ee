"""MP3 files with something between, before or behind their frames: read whole, or refused by name."""

from __future__ import annotations

import io
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from quran_asr import audio
from quran_asr.containers import LinkFile, links
from quran_asr.errors import QuranAsrError
from quran_asr.mp3 import count_frames

SECONDS = 1.5


def encoded(samples: NDArray[np.float32], rate: int, **options: object) -> bytes:
    memory = io.BytesIO()
    soundfile.write(memory, samples, rate, format="MP3", subtype="MPEG_LAYER_III", **options)
    return memory.getvalue()


@cache
def tone(hertz: int, rate: int = 16_000, channels: int = 1, seconds: float = SECONDS) -> bytes:
    times = np.arange(round(seconds * rate)) / rate
    sound = (0.3 * np.sin(2 * np.pi * hertz * times)).astype(np.float32)
    return encoded(np.repeat(sound[:, None], channels, axis=1), rate, bitrate_mode="CONSTANT")


@cache
def varying() -> bytes:
    """6 s of loud, then faint noise of varying bit rate, without the header that says how long it is."""
    noise = np.random.default_rng(0).standard_normal(96_000).astype(np.float32) * np.float32(0.1)
    noise[48_000:] *= np.float32(0.01)
    mp3 = encoded(noise, 16_000, bitrate_mode="VARIABLE", compression_level=0.2)
    return mp3[mp3.index(b"\xff\xf3", 4) :]


def length(path: Path) -> float:
    """Seconds, as `probe`, `read` and `blocks` agree."""
    seconds = audio.probe(path).seconds
    samples = audio.read(path)
    assert len(samples) / 16_000 == pytest.approx(seconds, abs=0.001)
    pieces = [audio.resample(block, rate) for block, rate in audio.blocks(path, 100.0)]
    assert np.abs(np.concatenate(pieces) - samples).max() < 1e-4
    return seconds


def pitch(path: Path, offset: float) -> int:
    stretch = audio.read(path, offset, 0.4)
    return round(float(np.abs(np.fft.rfft(stretch)).argmax()) / 0.4 / 20) * 20


ID3 = b"ID3\x04\0\0" + bytes([0, 0, 1, 0]) + bytes(128)
ID3V1 = b"TAG" + b"A" * 125
APE = b"APETAGEX" + b"\xd0\x07\0\0" + b"\x20\0\0\0" + bytes(4) + b"\0\0\0\xa0" + bytes(8) + bytes(32)
LYRICS = b"LYRICSBEGIN" + b"IND0000200" + b"word " * 300 + b"001521LYRICS200"


@pytest.mark.parametrize(
    "tail",
    [b"\n", LYRICS + ID3V1, LYRICS, b"\r\n\r\n" + b"text " * 2000, "نص".encode() * 900, bytes(3000), ID3],
    ids=["newline", "lyrics and tag", "lyrics", "text", "Arabic text", "zeros", "ID3"],
)
def test_whatever_stands_behind_the_frames_the_recording_is_read_whole(tail: bytes, tmp_path: Path) -> None:
    for name, mp3 in (("varying", varying()), ("constant", tone(500))):
        plain, path = tmp_path / f"{name}-plain", tmp_path / name
        plain.write_bytes(mp3)
        path.write_bytes(mp3 + tail)
        assert length(path) == pytest.approx(length(plain), abs=0.03)


@pytest.mark.parametrize(
    "head",
    [b"\n", np.random.default_rng(1).bytes(50), APE, APE[:-32], ID3, ID3 + bytes(3000), ID3 + b"\n"],
    ids=["newline", "junk", "APE", "APE with a wrong size", "ID3", "ID3 and zeros", "ID3 and newline"],
)
def test_whatever_stands_before_the_frames_the_recording_is_read_whole(head: bytes, tmp_path: Path) -> None:
    plain, path = tmp_path / "plain", tmp_path / "recording"
    for mp3 in (varying(), tone(500)):
        plain.write_bytes(mp3)
        path.write_bytes(head + mp3)
        assert length(path) == pytest.approx(length(plain), abs=0.08)  # without the encoder's delay removed


def test_a_file_that_begins_within_a_frame_is_read_from_the_next_one_on(tmp_path: Path) -> None:
    path = tmp_path / "recording"
    path.write_bytes(varying()[50:])
    assert length(path) == pytest.approx(6.0, abs=0.15)


@pytest.mark.parametrize(
    "between",
    [b"", b"\n", bytes(1000), bytes(70_000), b"junk" * 500, ID3V1, ID3V1 + ID3, APE[:-32] + b"\0" * 32],
    ids=["nothing", "newline", "1,000 zeros", "70,000 zeros", "junk", "tag", "tags", "APE"],
)
@pytest.mark.parametrize(("rate", "channels"), [(16_000, 1), (44_100, 1), (16_000, 2), (8_000, 1)])
def test_joined_files_are_read_whole_whatever_is_between(
    between: bytes, rate: int, channels: int, tmp_path: Path
) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    first.write_bytes(tone(500))
    second.write_bytes(tone(900, rate, channels))
    path = tmp_path / "joined"
    path.write_bytes(tone(500) + between + tone(900, rate, channels))
    alone = audio.probe(first).seconds + audio.probe(second).seconds
    info = audio.probe(path)
    assert (info.rate, info.channels) == (16_000, 1)
    assert length(path) == pytest.approx(alone, abs=0.2)  # the encoder's delay is heard here
    assert (pitch(path, 0.5), pitch(path, info.seconds - 1.0)) == (500, 900)


@pytest.mark.slow
@settings(max_examples=10, deadline=None)
@given(
    parts=st.lists(
        st.tuples(
            st.sampled_from([(500, 16_000, 1), (900, 44_100, 1), (700, 16_000, 2), (600, 8_000, 1)]),
            st.sampled_from([b"", b"\n", bytes(700), bytes(70_000), b"junk" * 40, ID3V1, ID3V1 + ID3, ID3]),
        ),
        min_size=1,
        max_size=5,
    )
)
def test_no_frame_of_any_part_is_lost(
    parts: list[tuple[tuple[int, int, int], bytes]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / "joined.mp3"
    expected = 0.0
    for (hertz, rate, channels), _ in parts:
        path.write_bytes(tone(hertz, rate, channels))
        alone = count_frames(path)
        assert alone is not None and alone.claimed == alone.samples
        expected += alone.samples / rate
    path.write_bytes(b"".join(tone(*kind) + behind for kind, behind in parts))
    frames = count_frames(path)
    assert frames is not None and frames.damage is None
    assert sum(run.samples / run.rate for run in frames.runs) == pytest.approx(expected, abs=1e-6)
    delays = sum(529 / run.rate for run in frames.runs)  # the decoder takes its own away
    # of a single file it takes the encoder's delay and padding away, too
    tolerance = 0.01 if links(path) else 0.3
    assert audio.probe(path).seconds == pytest.approx(expected - delays, abs=tolerance)


def test_forty_joined_files_keep_the_end_of_the_last(tmp_path: Path) -> None:
    """A decoder takes the header of each further file for a frame, and the end came out that much short."""
    path = tmp_path / "joined.mp3"
    path.write_bytes(tone(500, seconds=0.3) * 40 + tone(900))
    seconds = audio.probe(path).seconds
    assert pitch(path, seconds - 0.7) == 900
    samples = audio.read(path)
    assert len(samples) / 16_000 == pytest.approx(seconds, abs=0.001)


@pytest.mark.slow
def test_hundreds_of_parts_of_changing_channels_need_few_open_files(tmp_path: Path) -> None:
    path = tmp_path / "joined.mp3"
    path.write_bytes((tone(500, 16_000, 1, 0.1) + tone(900, 16_000, 2, 0.1)) * 300)
    assert len(links(path)) == 600
    assert audio.probe(path).seconds > 60


DAMAGED = {
    "a hole without a header": (lambda mp3: mp3[:9_000] + mp3[13_000:], "are not MPEG audio"),
    "random bytes": (
        lambda mp3: mp3[:9_000] + np.random.default_rng(0).bytes(6_000) + mp3[15_000:],
        "are not MPEG audio",
    ),
    "zeros within": (lambda mp3: mp3[:9_000] + bytes(6_000) + mp3[15_000:], "are not MPEG audio"),
    "random bytes at the end": (
        lambda mp3: mp3[:15_000] + np.random.default_rng(0).bytes(9_000),
        "are not MPEG audio",
    ),
    "many zeros at the end": (lambda mp3: mp3 + bytes(200_000), "are not MPEG audio"),
    "random bytes first": (
        lambda mp3: np.random.default_rng(0).bytes(20_000) + mp3[15_000:],
        "are not MPEG audio",
    ),
}


@pytest.mark.parametrize("function", [audio.probe, audio.read])
@pytest.mark.parametrize("kind", DAMAGED)
def test_a_hole_is_never_read_over_in_silence(kind: str, function: object, tmp_path: Path) -> None:
    change, what = DAMAGED[kind]
    path = tmp_path / "damaged.mp3"
    path.write_bytes(change(varying()))
    with pytest.raises(QuranAsrError, match=what) as refused:
        function(path)  # type: ignore[operator]
    assert refused.value.remedy


@pytest.mark.parametrize("behind", [b"", b"\n", bytes(1_000)], ids=["next", "newline", "zeros"])
def test_a_first_file_that_is_cut_off_is_truncated(behind: bytes, tmp_path: Path) -> None:
    path = tmp_path / "joined.mp3"
    first = tone(500)
    path.write_bytes(first[: round(len(first) * 0.6) + 1] + behind + tone(900))
    with pytest.raises(QuranAsrError, match=r"truncated: \d\.\d of 1\.\d s are there"):
        audio.read(path)


def claiming(mp3: bytes, share: float) -> bytes:
    place = max(mp3[:200].find(b"Info"), mp3[:200].find(b"Xing")) + 8
    frames = round(int.from_bytes(mp3[place : place + 4], "big") * share)
    return mp3[:place] + frames.to_bytes(4, "big") + mp3[place + 4 :]


@pytest.mark.parametrize("tail", [b"", b"\n", LYRICS])
@pytest.mark.parametrize("share", [0.0, 0.5])
def test_a_header_that_claims_too_little_is_not_believed(share: float, tail: bytes, tmp_path: Path) -> None:
    path = tmp_path / "recording.mp3"
    path.write_bytes(claiming(tone(500), share) + tail)
    assert length(path) == pytest.approx(SECONDS, abs=0.15)


def test_a_header_that_counts_the_joined_files_behind_it_too_is_right(tmp_path: Path) -> None:
    path = tmp_path / "joined.mp3"
    path.write_bytes(claiming(tone(500), 2.0) + tone(900))
    assert length(path) == pytest.approx(2 * SECONDS, abs=0.3)
    path.write_bytes(claiming(tone(500), 2.0))
    with pytest.raises(QuranAsrError, match="truncated"):
        audio.read(path)


@given(data=st.data())
def test_a_link_is_its_header_and_its_stretches(data: st.DataObject, tmp_path_factory: object) -> None:
    path = tmp_path_factory.getbasetemp() / "joined.mp3"  # type: ignore[attr-defined]
    path.write_bytes(tone(500) + b"\n" + tone(900) + ID3V1 + tone(500))
    (link,) = links(path)
    content = path.read_bytes()
    edges = [link.start, *(edge for hole in link.left_out for edge in hole), link.end]
    expected = link.header + b"".join(
        content[start:end] for start, end in zip(edges[::2], edges[1::2], strict=True)
    )
    file = LinkFile(path, link)
    start = data.draw(st.integers(0, len(expected) + 10))
    size = data.draw(st.integers(0, len(expected)))
    file.seek(start)
    assert file.read(size) == expected[start : start + size]
    file.close()


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"PAR1" + tone(500), "a parquet file"),
        (b"name".ljust(257, b"\0") + b"ustar\0" + bytes(249) + tone(500), "a tar archive"),
        (np.random.default_rng(0).bytes(100_000), "not an audio file"),
        (b"\xff" * 100_000, "not an audio file"),
    ],
)
def test_what_only_holds_frames_is_not_an_mp3(content: bytes, what: str, tmp_path: Path) -> None:
    path = tmp_path / "recording.mp3"
    path.write_bytes(content)
    with pytest.raises(QuranAsrError, match=what):
        audio.read(path)
