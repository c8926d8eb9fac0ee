"""The audit of a manifest: every kind of fault, planted in a synthetic corpus and in real recordings."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from quran_asr import audio
from quran_asr.cli.main import main
from quran_asr.corpus.audit import AuditReport, audit, write_audit
from quran_asr.corpus.audit_rules import REASONS
from quran_asr.corpus.manifest import read_lines, read_manifest, write_manifest
from quran_asr.corpus.synthesis import Engine
from quran_asr.errors import QuranAsrError
from quran_asr.text.passages import parse_range
from quran_asr.text.quran import load_quran

ROOT = Path(__file__).parents[2]
RATE = 16_000


@pytest.fixture(scope="module")
def spoken(tmp_path_factory) -> Path:
    """Surahs 78 and 87 by one voice at one rate: 59 clips."""
    pytest.importorskip("espeakng_loader", reason="needs the extra `speak`")
    folder = tmp_path_factory.mktemp("spoken")
    quiet = np.random.default_rng(0).normal(0, 1e-4, 1600).astype(np.float32)
    lines = []
    with Engine() as engine:
        for ref in [*parse_range("78"), *parse_range("87")]:
            words = load_quran("diacritized").verse(ref).split()
            samples, _ = engine.synthesize_words(words, "ar+m3", 150, 50)
            path = folder / f"{ref.surah:03}{ref.ayah:03}.flac"
            audio.write(path, np.concatenate([quiet, samples, quiet]))
            seconds = (len(samples) + 3200) / RATE
            line = {"audio_filepath": str(path), "duration": seconds, "verses": [str(ref)]}
            lines.append({**line, "reciter": "espeak-m3"})
    write_manifest(folder / "manifest.jsonl", lines)
    return folder / "manifest.jsonl"


@pytest.fixture(scope="module")
def audited(spoken, tmp_path_factory) -> tuple[AuditReport, dict[str, str]]:
    """The same corpus with one fault of each kind: (report, verse -> what was planted)."""
    folder = tmp_path_factory.mktemp("faulty")
    lines = {line["verses"][0]: line for line in read_lines(spoken)}
    draw = np.random.default_rng(1)

    def change(verse: str, kind: str, samples: np.ndarray) -> None:
        path = folder / f"{kind}.flac"
        audio.write(path, samples.astype(np.float32))
        lines[verse] |= {"audio_filepath": str(path), "duration": len(samples) / RATE, "planted": kind}

    def sound(verse: str) -> np.ndarray:
        return audio.read(lines[verse]["audio_filepath"])

    def rms(samples: np.ndarray) -> float:
        return float(np.sqrt(np.mean(np.square(samples))))

    x = sound("78:40")
    change("78:40", "half-speed", audio.resample(x, 8_000))
    x = sound("78:38")
    change("78:38", "cut", x[int(0.4 * len(x)) :])
    x = sound("78:37")
    change("78:37", "noise", x + 0.5 * rms(x) * draw.normal(size=len(x)))
    x = sound("78:36").copy()
    x[len(x) // 4 : -len(x) // 4] = 0
    change("78:36", "silence", x)
    change("78:35", "all-silent", np.zeros(3 * RATE))
    x = sound("78:33")
    change("78:33", "clipped", np.clip(x / np.quantile(np.abs(x), 0.95), -1, 1))
    change("87:14", "copied", 0.4 * sound("78:27")[700:])
    # 87:1 to 87:9 hold the verse after theirs
    following = [lines[f"87:{ayah + 1}"]["audio_filepath"] for ayah in range(1, 10)]
    for ayah, path in enumerate(following, start=1):
        lines[f"87:{ayah}"] |= {"audio_filepath": path, "duration": audio.probe(path).seconds}
        lines[f"87:{ayah}"]["planted"] = "shifted"
    del lines["87:10"]
    swapped = {"78:2": "78:39", "78:39": "78:2"}
    paths = {verse: lines[other]["audio_filepath"] for verse, other in swapped.items()}
    for verse, path in paths.items():
        lines[verse] |= {"audio_filepath": path, "duration": audio.probe(path).seconds, "planted": "swapped"}
    write_manifest(folder / "all.jsonl", list(lines.values()))
    planted = {verse: line["planted"] for verse, line in lines.items() if "planted" in line}
    return audit(folder / "all.jsonl", workers=1), planted


def codes(report: AuditReport, verse: str) -> set[str]:
    (one,) = [one for one in report.clips if str(one.segment.verses[0]) == verse]
    return {reason.code for reason in one.reasons if reason.action == "reject"}


@pytest.mark.slow
def test_what_was_spoken_without_a_fault_is_kept(spoken):
    report = audit(spoken, workers=1)
    assert [one.name for one in report.rejects] == []
    assert not [finding for finding in report.findings if finding.severity == "error"]
    assert report.duration_models["espeak-m3"].own and report.duration_models["espeak-m3"].clips == 59


@pytest.mark.slow
@pytest.mark.parametrize(
    ("verse", "expected"),
    [
        ("78:40", "too-slow"),
        ("78:38", "cut-off"),
        ("78:37", "noise"),
        ("78:36", "silence"),
        ("78:35", "silent"),
        ("78:33", "clipping"),
        ("87:14", "duplicate-conflict"),
        ("78:27", "duplicate-conflict"),
        ("78:2", "too-slow"),
        ("78:39", "too-fast"),
    ],
)
def test_a_planted_fault_is_found_by_its_name(audited, verse, expected):
    assert expected in codes(audited[0], verse)


def test_a_run_of_shifted_verses_is_found_as_a_run(audited):
    report, _ = audited
    shifted = [one for one in report.clips if "shifted-numbering" in {r.code for r in one.reasons}]
    verses = {str(one.segment.verses[0]) for one in shifted}
    assert len(verses & {f"87:{ayah}" for ayah in range(1, 10)}) >= 6
    assert len(verses) <= 11
    assert any(finding.code == "shifted-numbering" for finding in report.findings)


def test_clips_without_a_fault_are_kept_beside_the_others(audited):
    report, planted = audited
    wrong = [one.name for one in report.rejects if str(one.segment.verses[0]) not in planted]
    assert set(wrong) <= {"espeak-m3 78:27", "espeak-m3 87:11"}  # the original of the copy; a run's border


def run(capfd, *args: object) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as end:
        main(["corpus", "audit", *map(str, args)])
    out, err = capfd.readouterr()
    return int(end.value.code or 0), out, err


@pytest.fixture
def small(tmp_path, monkeypatch) -> Path:
    """Lines that are good, of wrong text, with Latin letters, of a missing file, of no sound, and torn."""
    monkeypatch.setenv("QURAN_ASR_CACHE", str(tmp_path / "cache"))
    draw = np.random.default_rng(0)
    for name, seconds in (("a", 2.0), ("b", 3.0), ("c", 2.5)):
        time = np.arange(int(seconds * RATE)) / RATE
        syllables = np.repeat(draw.permutation([0, 0, 0, 1, 1, 1, 1, 1, 1, 1]), len(time) // 10)
        hum = 0.3 * syllables * np.sin(2 * np.pi * draw.uniform(200, 900) * time)
        audio.write(tmp_path / "in" / f"{name}.wav", hum.astype(np.float32))
    (tmp_path / "in" / "page.mp3").write_bytes(b"<!DOCTYPE html>")
    lines = [
        {"audio_filepath": "a.wav", "duration": 2.0, "verses": ["112:1"], "mine": {"kept": [1]}},
        {"audio_filepath": "b.wav", "duration": 3.0, "verses": ["112:2"], "text": "قل أعوذ برب الفلق"},
        {"audio_filepath": "c.wav", "duration": 2.5, "verses": ["112:4"], "text": "ولم يكن له كفوا أحد abc"},
        {"audio_filepath": "gone.wav", "duration": 2.5, "verses": ["112:3"], "reciter": "<b>x</b>"},
        {"audio_filepath": "page.mp3", "duration": 2.5, "verses": ["112:3"], "extra": 7},
    ]
    text = "".join(json.dumps(line) + "\n" for line in lines) + '{"audio_filepath": "a.w'
    (tmp_path / "in" / "all.jsonl").write_text(text, encoding="utf-8")
    return tmp_path / "in" / "all.jsonl"


def test_faulty_lines_are_verdicts_and_every_key_survives(capfd, small, tmp_path):
    before = small.read_bytes()
    code, out, err = run(capfd, small, "--to", tmp_path / "out" / "deep", "--workers", 1, "--no-audio")
    assert code == 1
    assert "all.jsonl:6: a torn line" in err
    assert "kept 1 clip," in out and "rejected 4" in out
    assert small.read_bytes() == before
    (kept,) = read_lines(tmp_path / "out" / "deep" / "clean.jsonl")
    assert kept["mine"] == {"kept": [1]}
    assert kept["audio_filepath"] == str(small.parent / "a.wav")
    raw = (tmp_path / "out" / "deep" / "rejects.jsonl").read_text("utf-8").splitlines()
    rejects = {line["audio_filepath"]: line for line in map(json.loads, raw)}
    found = {
        Path(path).name: [
            reason["code"] for reason in line["audit"]["reasons"] if reason["action"] == "reject"
        ]
        for path, line in rejects.items()
    }
    assert found == {
        "b.wav": ["text-differs"],
        "c.wav": ["foreign-letters"],
        "gone.wav": ["missing"],
        "page.mp3": ["unreadable"],
    }
    assert rejects["../../in/page.mp3"]["extra"] == 7
    page = (tmp_path / "out" / "deep" / "audit.html").read_text("utf-8")
    assert "&lt;b&gt;x&lt;/b&gt;" in page and "<b>x</b>" not in page
    assert "default-src 'none'" in page and "<audio" not in page and "http:" not in page


def test_a_line_that_says_more_than_its_recording_has_is_the_lines_fault(capfd, small, tmp_path):
    long = small.with_name("long.jsonl")
    long.write_text(json.dumps({"audio_filepath": "a.wav", "duration": 60.0, "verses": ["112:1"]}) + "\n")
    code, _, err = run(capfd, long, "--to", tmp_path / "out", "--workers", 1)
    assert code == 1
    assert "[past-the-end]" in err and "`duration`" in err and "cannot be decoded" not in err


def test_the_page_plays_the_worst_clips_unless_asked_otherwise(capfd, small, tmp_path):
    run(capfd, small, "--to", tmp_path / "out", "--workers", 1)
    page = (tmp_path / "out" / "audit.html").read_text("utf-8")
    assert page.count("<audio controls") == 2  # of the two rejected clips that have audio


def test_json_has_all_and_a_second_audit_measures_nothing_again(capfd, small, tmp_path):
    code, out, _ = run(capfd, small, "--to", tmp_path / "out", "--json")
    first = json.loads(out)
    assert code == 1
    assert (first["clips"], first["clean"]["clips"], first["rejects"]["clips"]) == (5, 1, 4)
    assert first["reasons"] == {
        "missing": 1,
        "unreadable": 1,
        "text-differs": 1,
        "foreign-letters": 1,
    }
    assert first["effort"]["measured"] == 5 and first["effort"]["cached"] == 0
    _, out, _ = run(capfd, small, "--to", tmp_path / "out", "--json")
    second = json.loads(out)
    assert second["effort"]["cached"] == 3  # what cannot be read is tried again
    for report in (first, second):
        report.pop("effort")
    assert first == second


def test_every_key_and_reason_is_described(capfd, small, tmp_path):
    page = (ROOT / "docs" / "reference" / "formats.md").read_text("utf-8")
    text = page.partition("## Audit")[2].partition("\n## ")[0]
    described = set(re.findall(r'[`"]([\w.-]+)[`"]', text))
    _, out, _ = run(capfd, small, "--to", tmp_path / "out", "--json")
    result = json.loads(out)
    (whole,) = [clip for clip in result["clips_measured"] if clip["verdict"] == "keep"]
    reciter = result["reciters"][""]
    keys = {*result, *result["clean"], *result["effort"], *reciter, *whole, *whole["signal"], *REASONS}
    for clip in result["clips_measured"]:
        keys |= {key for reason in clip["reasons"] for key in reason}
    assert keys - described == set()


def test_no_file_of_somebody_else_is_replaced(capfd, small, tmp_path):
    theirs = tmp_path / "out" / "clean.jsonl"
    theirs.parent.mkdir()
    theirs.write_text("mine\n", encoding="utf-8")
    code, _, err = run(capfd, small, "--to", theirs.parent)
    assert code == 2 and "no audit wrote it" in err and "--to FOLDER" in err
    assert theirs.read_text("utf-8") == "mine\n"
    assert list(theirs.parent.iterdir()) == [theirs]
    theirs.unlink()
    run(capfd, small, "--to", theirs.parent)
    code, _, err = run(capfd, small, "--to", theirs.parent)
    assert code == 1 and f"replaced {theirs}" in err
    with pytest.raises(QuranAsrError, match="no audit wrote it"):
        write_audit(audit(theirs, workers=1), theirs.parent)  # it would replace what it has read


def test_a_manifest_that_is_none_exits_2(capfd, tmp_path):
    assert run(capfd, tmp_path / "none.jsonl")[0] == 2
    (tmp_path / "bad.jsonl").write_text("no json\n{}\n", encoding="utf-8")
    code, _, err = run(capfd, tmp_path / "bad.jsonl")
    assert code == 2 and "no usable line among 2" in err


@pytest.mark.data
@pytest.mark.slow
def test_faults_planted_in_real_recitations_are_found(recordings, tmp_path):
    """350 clips of one reciter; the figures over all reciters stand in docs/results/audit.md."""
    lines = [
        line
        for line in read_lines(recordings / "recitations" / "index.jsonl")
        if line["reciter"] == "ahmed-allhdan" and int(line["verses"][0].split(":")[0]) > 85
    ]
    write_manifest(tmp_path / "some.jsonl", lines)
    tool = [sys.executable, str(ROOT / "tools" / "plant_faults.py")]
    planting = [*tool, "plant", str(tmp_path / "some.jsonl"), "--to", str(tmp_path / "p"), "--seed", "3"]
    subprocess.run([*planting, "--share", "0.03"], check=True)
    report = audit(tmp_path / "p" / "manifest.jsonl")
    write_audit(report, tmp_path / "p")
    faults = [json.loads(line) for line in (tmp_path / "p" / "faults.jsonl").read_text("utf-8").splitlines()]
    planted = {fault["verse"]: fault["kind"] for fault in faults}
    rejected = {str(one.segment.verses[0]) for one in report.rejects}
    for kind, least in {
        "silence": 0.9,
        "clipped": 0.8,
        "half-speed": 0.8,
        "noise": 0.8,
        "cut": 0.5,
        "copied": 0.6,
        "swapped": 0.2,
    }.items():
        those = {verse for verse, its in planted.items() if its == kind}
        assert len(those & rejected) / len(those) >= least, kind
    assert len(rejected - set(planted)) <= 0.06 * len(lines)
    assert len(read_manifest(tmp_path / "p" / "clean.jsonl", "letters")) == len(report.clean)
    scored = subprocess.run([*tool, "score", str(tmp_path / "p")], check=True, capture_output=True, text=True)
    assert "| half-speed |" in scored.stdout
