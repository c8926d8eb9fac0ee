"""The table of all runs below a folder."""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from quran_asr.config.recipe import load_recipe
from quran_asr.errors import QuranAsrError
from quran_asr.experiments.comparison.registry import read_registry
from quran_asr.experiments.run_folder import RunFolder, create_run


def a_run(folder: Path, day: int, *overrides: str, sha256: str = "aaaa", wer: float = 0.5) -> RunFolder:
    run = create_run(folder, "quickstart", datetime(2026, 1, 1) + timedelta(days=day))
    run.write_recipe(load_recipe("quickstart", overrides))
    facts = {"path": "/data/train.jsonl", "sha256": sha256, "clips": 10, "hours": 1.5}
    run.write_json("training_data.json", {"manifests": [facts], "reciters": [], "verses": [], "texts": []})
    run.write_json("environment.json", {"quran_asr": "0.1.0"})
    for step, rate in ((100, 0.9), (200, wer), (300, wer + 0.1)):
        run.append_metrics({"step": step, "epoch": 0, "time": 1.0, "split": "train", "loss": 1.0})
        run.append_metrics({"step": step, "epoch": 0, "time": 1.0, "split": "validation", "wer": rate})
    return run


def test_one_change_a_run_is_visible(tmp_path: Path) -> None:
    first = a_run(tmp_path, 0)
    second = a_run(tmp_path, 1, "model.aux_ctc.ctc_loss_weight=0.2", wer=0.25)
    a_run(tmp_path / "deep" / "er", 2, "model.optim.lr=0.01", "quran.seed=1")
    a_run(tmp_path, 3, "model.aux_ctc.ctc_loss_weight=0.2", sha256="bbbb")
    entries, findings = read_registry(tmp_path)
    assert findings == []
    assert [entry.changes for entry in entries[1:]] == [
        ("model.aux_ctc.ctc_loss_weight: 0.4 -> 0.2",),
        ("model.optim.lr: 0.001 -> 0.01", "quran.seed: 0 -> 1"),
        ("data: aaaa -> bbbb",),
    ]
    # each against the nearest of those before it, not merely the last
    assert [entry.against for entry in entries] == ["base", *map(str, (first.path, first.path, second.path))]
    assert "model.encoder.n_layers: 17 -> 6" in entries[0].changes
    described = entries[1].to_json()
    assert (described["steps"], described["best_wer"], described["best_step"], described["version"]) == (
        300,
        0.25,
        200,
        "0.1.0",
    )
    assert (described["data"], described["hours"], described["seed"], described["start"]) == (
        ["data/train.jsonl"],
        1.5,
        0,
        None,
    )


def test_a_broken_run_hides_no_other(tmp_path: Path) -> None:
    a_run(tmp_path, 0)
    torn = a_run(tmp_path, 1)
    torn.recipe.write_text("a: [", encoding="utf-8")
    bomb = a_run(tmp_path, 4)
    bomb.recipe.write_text("a: &a {x: 1}\nb: &b {x: *a, y: *a}\n", encoding="utf-8")
    foreign = a_run(tmp_path, 2)
    foreign.recipe.write_text("quran: {key_of_a_later_version: 3}\n", encoding="utf-8")
    bare = create_run(tmp_path, "quickstart", datetime(2026, 2, 1))
    bare.write_recipe(load_recipe("quickstart"))
    lines = ['{"step": 10, "split": "validation", "wer": null}', "[]", "[" * 100_000, '{"st']
    lines.insert(0, '{"step": 9, "split": "validation", "wer": NaN}')
    bare.metrics.write_text("\n".join(lines), encoding="utf-8")
    hours = '{"manifests": [{"path": "m.jsonl", "hours": NaN}]}'
    (bare.path / "training_data.json").write_text(hours, encoding="utf-8")
    entries, findings = read_registry(tmp_path)
    assert [finding.where for finding in findings] == [str(torn.recipe), str(bomb.recipe)]
    assert [Path(entry.path).name for entry in entries] == [
        "2026-01-01_00-00-00", "2026-01-03_00-00-00", "2026-02-01_00-00-00",
    ]  # fmt: skip
    assert json.dumps(entries[2].to_json(), allow_nan=False)
    assert (entries[2].steps, entries[2].best_wer, entries[2].version) == (10, None, None)
    assert any(change.startswith("quran.key_of_a_later_version: - -> 3") for change in entries[1].changes)


def test_what_holds_no_run_is_reported(tmp_path: Path) -> None:
    with pytest.raises(QuranAsrError, match="no such folder"):
        read_registry(tmp_path / "none")
    (tmp_path / "recipe.yaml").write_text("name: a kit has one too\n", encoding="utf-8")
    with pytest.raises(QuranAsrError, match="holds no run"):
        read_registry(tmp_path)


def test_the_table_is_plain_json(tmp_path: Path) -> None:
    run = a_run(tmp_path, 0)
    run.recipe.write_text(run.recipe.read_text(encoding="utf-8") + "odd: 2026-01-01\n", encoding="utf-8")
    json.dumps([entry.to_json() for entry in read_registry(tmp_path)[0]], allow_nan=False)
