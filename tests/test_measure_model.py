"""The tables of `tools/measure_model.py`, from reports that are there already."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from quran_asr.evaluation.report import ScoredClip, Setting, make_report
from quran_asr.evaluation.scoring import score_clips
from quran_asr.evaluation.stress import StressRow, stress_json
from quran_asr.records import Segment

TOOL = Path(__file__).parents[1] / "tools" / "measure_model.py"
WORDS = "قل هو الله احد"
SETTING = Setting("bundle", "ctc", 0, "letters", "simple")


def clips(wrong: int) -> list[ScoredClip]:
    """Two clips of two reciters each, with so many of 16 words wrong."""
    texts = [" ".join(WORDS.split()[: 4 - (place < wrong)]) for place in range(4)]
    scores = score_clips([(WORDS,)] * 4, texts, "letters")
    return [
        ScoredClip(Segment(f"{place}.wav", 0.0, 2.0, (), WORDS, "ab"[place % 2]), score)
        for place, score in enumerate(scores)
    ]


def bundle(folder: Path, checksum: str) -> Path:
    folder.mkdir()
    (folder / "bundle.json").write_text(json.dumps({"look_aheads_ms": [1040, 0], "sha256": checksum * 64}))
    return folder


@pytest.fixture
def measured(tmp_path: Path) -> Path:
    """All reports of one set."""
    bundle(tmp_path / "int8", "1")
    bundle(tmp_path / "exact", "2")
    for name, checksum, wrong in (("bundle", "1", 2), ("float", "2", 1)):
        report = make_report(clips(wrong), SETTING)
        for decoder in ("transducer-beam", "transducer", "ctc"):
            for ms in (1040, 0):
                for way in ("whole-files", "streaming"):
                    folder = tmp_path / "out" / f"{name}-{checksum * 12}" / "set" / f"{decoder}-{ms}ms-{way}"
                    folder.mkdir(parents=True)
                    (folder / "report.json").write_text(json.dumps(report.to_json()))
            rates = report.whole.spelled
            rows = [
                StressRow("clips", "as they are", rates, None),
                StressRow("joined", "in pairs", rates, rates.words.rate),
            ]
            folder = tmp_path / "out" / f"{name}-{checksum * 12}" / "set" / f"{decoder}-1040ms-stress"
            folder.mkdir(parents=True)
            stressed = stress_json(rows, SETTING, [clip.segment for clip in clips(wrong)])
            (folder / "stress.json").write_text(json.dumps(stressed))
    return tmp_path


def run(folder: Path, *more: str) -> subprocess.CompletedProcess[str]:
    words = ["int8", "--float", "exact", "--set", "set=set.jsonl", "--stress", "set", "--to", "out", *more]
    return subprocess.run(
        [sys.executable, str(TOOL), *words],
        cwd=folder,
        capture_output=True,
        encoding="utf-8",
        timeout=300,
        check=False,
    )


def test_reports_that_exist_become_tables_and_are_not_made_again(measured: Path) -> None:
    done = run(measured)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""  # nothing was evaluated
    lines = done.stdout.splitlines()
    for decoder in ("transducer-beam", "transducer", "ctc"):
        for title in (
            f"bundle, {decoder}, whole files",
            f"bundle, {decoder}, streaming",
            f"float, {decoder}, whole files",
        ):
            assert f"### {title}: WER / CER in % (95 % intervals)" in lines
    assert "| set | transducer | 1040 ms | +6.25 |" in lines  # one word of sixteen
    start = lines.index("### bundle, ctc, whole files: WER / CER in % (95 % intervals)")
    table = lines[start + 2 : start + 7]
    assert table[0] == "|  | 1040 ms | 0 ms |"
    assert [line.split(" | ")[0] for line in table[2:]] == ["| set", "| set: a", "| set: b"]
    assert table[2].startswith("| set | 12.50 (")
    assert "### bundle, ctc, 1040 ms, set: conditions" in lines
    assert any(
        line.startswith("| in pairs | 12.50 (") and line.endswith("| +0.0 % | met |") for line in lines
    )


def test_one_that_is_missing_is_measured(measured: Path) -> None:
    missing = measured / "out" / f"bundle-{'1' * 12}" / "set" / "ctc-0ms-streaming" / "report.json"
    missing.unlink()
    done = run(measured)
    assert done.returncode == 2  # there is no such manifest here
    assert done.stdout == ""
    assert "evaluate set.jsonl --model int8 --decoder ctc --look-ahead 0" in done.stderr
    assert "--streaming" in done.stderr
    assert "set.jsonl: no such manifest" in done.stderr
