"""Clips packed for a journey and unpacked again; archives that hold something else."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from quran_asr import audio
from quran_asr.corpus.audio_archive import pack, unpack
from quran_asr.corpus.manifest import read_lines, read_manifest
from quran_asr.errors import QuranAsrError

SECONDS = 3.0


@pytest.fixture(scope="module")
def lines(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """Twelve clips: eight stretches of one FLAC file, and four Opus files."""
    folder = tmp_path_factory.mktemp("sound")
    t = np.arange(int(8 * SECONDS * 16_000)) / 16_000
    audio.write(folder / "long.flac", (0.3 * np.sin(2 * np.pi * (200 + 40 * t) * t)).astype(np.float32))
    written = [
        {
            "audio_filepath": "long.flac",
            "offset": SECONDS * i,
            "duration": SECONDS,
            "verses": [f"112:{1 + i % 4}"],
        }
        for i in range(8)
    ]
    for i in range(4):
        clip = audio.read(folder / "long.flac", SECONDS * i + 1, SECONDS)
        (folder / f"{i}.opus").write_bytes(audio.as_opus(clip, 24))
        written.append({"audio_filepath": f"{i}.opus", "duration": SECONDS, "verses": ["1:1"], "secret": "x"})
    (folder / "all.jsonl").write_text("".join(json.dumps(line) + "\n" for line in written))
    return read_lines(folder / "all.jsonl")


def test_what_was_packed_comes_out_as_it_sounded(lines: list[dict[str, Any]], tmp_path: Path) -> None:
    there, back = tmp_path / "kit", tmp_path / "host"
    packed = pack({"train": lines, "test": lines[:2]}, there, budget=1 << 20, hours={}, kilobits=24)
    assert (packed.clips, packed.encoded) == ({"train": 12, "test": 2}, 8), "Opus is taken as it is"
    assert unpack(packed.pieces, back) == 12, "a clip of two parts travels once"
    assert unpack(packed.pieces, back) == 12, "and again, after being cut off"
    (back / "train.jsonl").write_bytes(packed.manifests["train"].read_bytes())
    segments = read_manifest(back / "train.jsonl", "letters")
    assert sorted(len(segment.text) for segment in segments) == sorted(
        len(segment.text) for segment in read_manifest(_written(lines, tmp_path), "letters")
    )
    assert "secret" not in (back / "train.jsonl").read_text()
    first = next(line for line in lines if line.get("offset") == SECONDS)
    original = audio.read(first["audio_filepath"], SECONDS, SECONDS)
    correlations = []
    for segment in segments:
        heard = audio.read(segment.audio, segment.offset, segment.duration)
        assert abs(len(heard) - len(original)) <= 320
        size = min(len(heard), len(original))
        correlations.append(float(np.corrcoef(heard[:size], original[:size])[0, 1]))
    assert max(correlations) > 0.9
    rates = [path.stat().st_size * 8 / 1000 / SECONDS for path in (back / "clips").iterdir()]
    assert 15 < np.mean(rates) < 40, "about 24 kbit/s"


def test_the_budget_holds_and_what_is_left_out_is_a_fair_sample(
    lines: list[dict[str, Any]], tmp_path: Path
) -> None:
    whole = pack({"train": lines}, tmp_path / "whole", budget=1 << 20, hours={}, kilobits=24, largest=40_000)
    assert len(whole.pieces) > 1 and all(path.stat().st_size <= 40_000 for path in whole.pieces)
    half = pack({"train": lines}, tmp_path / "half", budget=whole.bytes // 2, hours={}, kilobits=24)
    assert 2 <= half.clips["train"] < 12 and half.bytes <= whole.bytes // 2
    again = pack({"train": lines}, tmp_path / "again", budget=whole.bytes // 2, hours={}, kilobits=24)
    assert _verses(again.manifests["train"]) == _verses(half.manifests["train"])
    hours = pack({"train": lines}, tmp_path / "hours", budget=1 << 20, hours={"train": 0.0025}, kilobits=24)
    assert hours.clips["train"] == 3
    with pytest.raises(QuranAsrError, match="not one train clip fits"):
        pack({"train": lines}, tmp_path / "none", budget=15_000, hours={}, kilobits=24)


@pytest.mark.parametrize(
    ("name", "kind", "size"),
    [
        ("../../evil.opus", tarfile.REGTYPE, 5),
        ("/tmp/evil.opus", tarfile.REGTYPE, 5),
        ("clips/0123456789abcdef.py", tarfile.REGTYPE, 5),
        ("clips/0123456789abcdef.opus", tarfile.SYMTYPE, 0),
        ("clips/0123456789abcdef.opus", tarfile.LNKTYPE, 0),
        ("clips/0123456789abcdef.opus", tarfile.REGTYPE, 0),
    ],
)
def test_an_archive_with_something_else_is_refused(name: str, kind: bytes, size: int, tmp_path: Path) -> None:
    member = tarfile.TarInfo(name)
    member.type, member.size, member.linkname = kind, size, "/etc/passwd"
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        tar.addfile(member, io.BytesIO(bytes(size)))
    with pytest.raises(QuranAsrError, match="refused"):
        unpack([tmp_path / "a.tar"], tmp_path / "out")
    assert not list(tmp_path.rglob("*.opus")) and not (tmp_path.parent / "evil.opus").exists()


def test_a_torn_archive_is_said(lines: list[dict[str, Any]], tmp_path: Path) -> None:
    packed = pack({"train": lines}, tmp_path, budget=1 << 20, hours={}, kilobits=24)
    torn = tmp_path / "torn.tar"
    torn.write_bytes(packed.pieces[0].read_bytes()[:20_000])
    with pytest.raises(QuranAsrError, match=r"torn|no archive"):
        unpack([torn], tmp_path / "out")


def _verses(manifest: Path) -> list[list[str]]:
    return [json.loads(line)["verses"] for line in manifest.read_text().splitlines()]


def _written(lines: list[dict[str, Any]], folder: Path) -> Path:
    path = folder / "original.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path
