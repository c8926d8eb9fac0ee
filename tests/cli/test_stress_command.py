"""`evaluate --stress`, through the command."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from quran_asr import audio
from quran_asr.cli.main import main
from quran_asr.runtime.recognizer import load

pytestmark = pytest.mark.slow  # a bundle is made


@pytest.fixture
def manifest(small_bundle: Path, voice: np.ndarray, tmp_path: Path) -> Path:
    """Two clips whose reference is what the bundle gives: as they are, nothing is wrong."""
    lines = []
    for number, samples in enumerate((voice[:48_000], voice[30_000:90_000])):
        path = tmp_path / f"{number}.wav"
        audio.write(path, samples)
        text = load(small_bundle).recognize(audio.read(path)).text
        seconds = len(samples) / 16_000
        lines.append({"audio_filepath": str(path), "duration": seconds, "text": text, "reciter": "a"})
    (tmp_path / "test.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")
    return tmp_path / "test.jsonl"


def run(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as end:
        main(["evaluate", *map(str, words)])
    out, err = capsys.readouterr()
    return int(end.value.code or 0), out, err


def test_rows_are_measured_written_and_printed(
    manifest: Path, small_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    to = manifest.parent / "out"
    model = ("--model", small_bundle, "--to", to)
    code, out, _ = run(capsys, manifest, *model, "--stress", "level,noise", "--json")
    measured = json.loads(out)
    assert measured == json.loads((to / "stress.json").read_text("utf-8"))
    assert not (to / "report.json").exists()
    assert [row["group"] for row in measured["rows"]] == ["clips", *["level"] * 4, *["noise"] * 2]
    assert measured["rows"][0]["wer"] == 0.0
    assert code == int(any(row["met"] is False for row in measured["rows"]))
    _, out, err = run(capsys, manifest, *model, "--streaming", "--stress", "level,noise")
    assert [line.split("  ")[0] for line in out.splitlines() if "noise" in line] == [
        "noise at 20 dB",
        "noise at 10 dB",
    ]
    assert "stress.json" in err
    streamed = json.loads((to / "stress.json").read_text("utf-8"))
    assert streamed["streaming"] is True
    assert [row["wer"] for row in streamed["rows"]] == [row["wer"] for row in measured["rows"]]


def test_every_evaluation_has_clips_joined_in_pairs(
    manifest: Path, small_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    to = manifest.parent / "out"
    code, out, _ = run(capsys, manifest, "--model", small_bundle, "--to", to)
    assert code == 0
    assert "joined clips: WER" in out and "of the first 2 in pairs, 0.00 % of the same alone" in out
    assert json.loads((to / "report.json").read_text("utf-8"))["joined"]["clips"] == 2


def test_an_unknown_row_is_refused_before_anything_is_read(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "none.jsonl", "--stress", "levle")
    assert (code, out) == (2, "")
    assert "no stress condition `levle`" in err and "joined, silence, level" in err
