"""The README's way on real recordings: scan, split, plan, train a few steps, resume, evaluate, transcribe.

The training is a process of its own, as typed; what comes after it is run in this one.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.data]


def test_from_a_folder_of_recordings_to_words(
    quran_asr, in_process, recordings: Path, tmp_path: Path
) -> None:
    reciter = recordings / "recitations" / "fares-abbad"
    scanned = quran_asr("corpus", "scan", reciter, "--to", tmp_path / "all.jsonl")
    assert scanned.code == 0, scanned.err
    lines = [json.loads(line) for line in (tmp_path / "all.jsonl").read_text().splitlines()]
    assert len(lines) == 43
    assert {line["reciter"] for line in lines} == {"fares-abbad"}

    split = quran_asr(
        "corpus", "split", tmp_path / "all.jsonl", "--by", "verse", "--share", 0.2, "--to", tmp_path / "data"
    )
    assert split.code == 0, split.err
    train, validation = tmp_path / "data" / "train.jsonl", tmp_path / "data" / "validation.jsonl"

    plan = quran_asr("plan", "laptop", "--train", train, "--json")
    assert plan.code == 0, plan.err
    assert json.loads(plan.out)["clips"] == len(train.read_text().splitlines())

    overrides = [f"exp_manager.exp_dir={tmp_path / 'runs'}", "trainer.log_every_n_steps=1"]
    begun = quran_asr(
        "train", "laptop", "--train", train, "--validation", validation, "--json",
        "trainer.max_steps=6", "trainer.val_check_interval=3", *overrides,
    )  # fmt: skip
    assert begun.code == 0, begun.err
    ended = json.loads(begun.out)
    assert ended["steps"] == 6

    resumed = in_process("train", "--resume", ended["run"], "trainer.max_steps=9", "--json")
    assert resumed.code == 0, resumed.err
    assert json.loads(resumed.out)["steps"] == 9
    rows = [json.loads(line) for line in (Path(ended["run"]) / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if row["split"] == "train"] == list(range(1, 10))
    assert [row["step"] for row in rows if row["split"] == "validation"] == [3, 6, 9], "none is made twice"

    evaluated = in_process(
        *("evaluate", validation, "--model", ended["run"], "--json", "--to", tmp_path / "evaluation")
    )
    assert evaluated.code == 0, evaluated.err
    report = json.loads(evaluated.out)
    assert report["clips"] == len(validation.read_text().splitlines())
    assert set(report["cells"]) == {"seen_reciter/unseen_text"}

    transcribed = in_process("transcribe", next(reciter.glob("112*.opus")), "--model", ended["run"])
    assert transcribed.code == 0, transcribed.err
    assert transcribed.out.count("\t") == 1


def test_published_test_sets_are_read_as_they_are(recordings: Path) -> None:
    from quran_asr.corpus.manifest import read_manifest

    for name, clips in (("verses-44", 44), ("verses-43", 43), ("studio-173", 173), ("volunteers-80", 80)):
        segments = read_manifest(recordings / "eval" / name / "manifest.jsonl", "letters")
        assert len(segments) == clips
        assert all(segment.text for segment in segments)
    nisa = next(
        segment
        for segment in read_manifest(recordings / "eval" / "verses-44" / "manifest.jsonl", "letters")
        if segment.audio.endswith("nisa_51.opus")
    )
    assert len(nisa.also_accept) == 1
