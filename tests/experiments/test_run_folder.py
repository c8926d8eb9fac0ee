"""Run folders: made once each, found again, and whole whatever happens while they are written."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from datetime import datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quran_asr import files
from quran_asr.config.recipe import load_recipe
from quran_asr.errors import QuranAsrError
from quran_asr.experiments.run_folder import (
    LOCK,
    RunFolder,
    checkpoint_bytes,
    create_run,
    lacking_space,
    last_run,
    open_run,
)

NOON = datetime(2026, 11, 23, 12, 0, 0)


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    made = create_run(tmp_path / "nemo_experiments", "small", NOON)
    made.write_recipe(load_recipe("small"))
    return made


def row(step: int, split: str = "train", **values: object) -> dict[str, object]:
    return {"step": step, "epoch": 0, "time": float(step), "split": split, **values}


def test_the_layout_is_nemos(run: RunFolder, tmp_path: Path) -> None:
    assert run.path == tmp_path / "nemo_experiments/small/2026-11-23_12-00-00"
    assert run.name == "small/2026-11-23_12-00-00"
    assert run.checkpoints.is_dir()
    assert load_recipe(run.recipe) == load_recipe("small")


def test_a_run_that_was_begun_before_a_key_existed_can_continue(run: RunFolder) -> None:
    older = run.recipe.read_text(encoding="utf-8").replace("  stop_on: []\n", "")
    assert "stop_on" not in older
    run.recipe.write_text(older, encoding="utf-8")
    assert load_recipe(run.recipe) == load_recipe("small")


def test_two_runs_of_the_same_second_get_two_folders(run: RunFolder, tmp_path: Path) -> None:
    second = create_run(tmp_path / "nemo_experiments", "small", NOON)
    assert second.path != run.path
    assert second.path.parent == run.path.parent


def test_runs_are_found_again(run: RunFolder, tmp_path: Path) -> None:
    exp_dir = tmp_path / "nemo_experiments"
    later = create_run(exp_dir, "large", NOON.replace(hour=13))
    later.write_recipe(load_recipe("large"))
    assert open_run(run.path) == run
    assert last_run(exp_dir) == open_run("last", exp_dir) == later
    with pytest.raises(QuranAsrError, match=re.escape(f"did you mean {run.path}?")):
        open_run(run.path.parent)
    stranger = tmp_path / "kit" / "k2"
    stranger.mkdir(parents=True)
    (stranger / "recipe.yaml").write_text("base: small\n")
    for folder in (tmp_path, stranger.parent):
        with pytest.raises(QuranAsrError, match="is not the folder of a run") as refused:
            open_run(folder)
        assert "k2" not in refused.value.remedy
    with pytest.raises(QuranAsrError, match="holds no run"):
        last_run(tmp_path / "nowhere")
    with pytest.raises(QuranAsrError, match="is not the folder of a run"):
        open_run(tmp_path / "nowhere")


def test_a_folder_that_cannot_be_made_is_reported(tmp_path: Path) -> None:
    (tmp_path / "small").write_text("a file")
    with pytest.raises(QuranAsrError, match=r"small: is a file|cannot make the run folder"):
        create_run(tmp_path, "small", NOON)


def test_metrics_come_back_and_nan_is_null(run: RunFolder) -> None:
    run.append_metrics(row(10, loss=1.5))
    run.append_metrics(row(20, loss=float("nan"), parts=[float("inf"), 1.0]))
    assert run.read_metrics() == [row(10, loss=1.5), row(20, loss=None, parts=[None, 1.0])]
    for line in run.metrics.read_text().splitlines():
        json.loads(line, parse_constant=lambda constant: pytest.fail(constant))


def test_a_torn_last_line_is_passed_over_and_repaired(run: RunFolder) -> None:
    run.append_metrics(row(10))
    with run.metrics.open("a") as file:
        file.write('{"step": 20, "spl')
    assert run.read_metrics() == [row(10)]
    run.append_metrics(row(20))
    assert run.read_metrics() == [row(10), row(20)]
    assert run.metrics.read_text().count("\n") == 2


@pytest.mark.slow
@given(cut=st.integers(1, 200))
def test_a_file_cut_anywhere_keeps_its_whole_lines(
    tmp_path_factory: pytest.TempPathFactory, cut: int
) -> None:
    run = RunFolder(tmp_path_factory.mktemp("run"))
    rows = [row(step, loss=step / 7) for step in (10, 20, 30)]
    for each in rows:
        run.append_metrics(each)
    whole = run.metrics.read_bytes()
    run.metrics.write_bytes(whole[:-cut] if cut < len(whole) else b"")
    kept = run.metrics.read_bytes().count(b"\n")
    run.append_metrics(row(40))
    assert run.read_metrics()[:kept] == rows[:kept]
    assert run.read_metrics()[-1] == row(40)


def test_a_torn_line_in_the_middle_is_named(run: RunFolder) -> None:
    run.metrics.write_text(f'{json.dumps(row(10))}\n{{"step": 2\n{json.dumps(row(20))}\n')
    with pytest.raises(QuranAsrError, match=r"metrics\.jsonl:2: is not a line of metrics"):
        run.read_metrics()


def test_steps_trained_again_after_a_resume_count_once(run: RunFolder) -> None:
    for step in (10, 20, 30):
        run.append_metrics(row(step, loss=1.0))
    run.append_metrics(row(30, "validation", wer=0.9))
    for step in (20, 30):
        run.append_metrics(row(step, loss=2.0))
    run.append_metrics(row(30, "validation", wer=0.8))
    assert run.read_metrics() == [
        row(10, loss=1.0),
        row(20, loss=2.0),
        row(30, loss=2.0),
        row(30, "validation", wer=0.8),
    ]


def test_a_validation_after_the_point_of_resume_is_forgotten_too(run: RunFolder) -> None:
    run.append_metrics(row(20))
    run.append_metrics(row(20, "validation", wer=0.5))
    run.append_metrics(row(10))
    assert run.read_metrics() == [row(10)]


def test_the_best_is_chosen_by_the_rate_in_the_name(run: RunFolder) -> None:
    assert run.best_nemo() is run.best_checkpoint() is run.last_checkpoint() is None
    for name in (
        "small--val_wer=0.2000-epoch=3.ckpt",
        "small--val_wer=0.0999-epoch=12.ckpt",
        "small--val_wer=1.0000-epoch=0.ckpt",
        "small--val_wer=0.0999.nemo",
        "last.ckpt",
    ):
        (run.checkpoints / name).touch()
    best, nemo, last = run.best_checkpoint(), run.best_nemo(), run.last_checkpoint()
    assert best is not None and best.name == "small--val_wer=0.0999-epoch=12.ckpt"
    assert nemo is not None and nemo.name == "small--val_wer=0.0999.nemo"
    assert last is not None and last.name == "last.ckpt"


def test_the_guides_one_liner_finds_the_same_file(run: RunFolder) -> None:
    for wer in ("0.3100", "0.1200", "0.2400"):
        (run.checkpoints / f"{load_recipe('transfer').name}--val_wer={wer}.nemo").touch()
    chosen = min(
        run.checkpoints.glob("*.nemo"),
        key=lambda path: float(re.search(r"val_wer=([\d.]+)", path.stem).group(1)),  # type: ignore[union-attr]
    )
    assert chosen == run.best_nemo()


@pytest.mark.parametrize(
    ("files", "best"),
    [
        (["x--val_wer=0.2000.nemo", "x--val_wer=0.2000-epoch=3.ckpt"], "x--val_wer=0.2000.nemo"),
        (["x--val_wer=0.2000.nemo", "x--val_wer=0.1000-epoch=4.ckpt"], "x--val_wer=0.1000-epoch=4.ckpt"),
        (["x--val_wer=0.1900-average=5.nemo", "x--val_wer=0.1950.nemo"], "x--val_wer=0.1900-average=5.nemo"),
        (["x--val_wer=0.2000-average=5.nemo", "x--val_wer=0.2000.nemo"], "x--val_wer=0.2000-average=5.nemo"),
        (
            ["x--val_wer=0.2000-epoch=9.ckpt", "x--val_wer=0.2000-epoch=10.ckpt"],
            "x--val_wer=0.2000-epoch=9.ckpt",
        ),
        ([".x--val_wer=0.0100-abc.nemo", "x--val_wer=0.2000.nemo"], "x--val_wer=0.2000.nemo"),
    ],
)
def test_the_best_model_is_the_one_with_the_lowest_rate_whatever_its_kind(
    run: RunFolder, files: list[str], best: str
) -> None:
    for name in files:
        (run.checkpoints / name).touch()
    found = run.best_model()
    assert found is not None and found.name == best


def test_json_is_whole_or_not_there(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    run.write_json("transfer.json", {"loaded": 1, "share": float("nan"), "text": "قل"})
    assert run.read_json("transfer.json") == {"loaded": 1, "share": None, "text": "قل"}

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        run.write_json("transfer.json", {"loaded": 2})
    monkeypatch.setattr(files.os, "fsync", os.fsync)
    assert run.read_json("transfer.json")["loaded"] == 1
    assert {path.name for path in run.path.iterdir()} == {"transfer.json", "recipe.yaml", "checkpoints"}


def test_json_that_is_missing_or_torn_is_named(run: RunFolder) -> None:
    with pytest.raises(QuranAsrError, match=r"environment\.json: no such file"):
        run.read_json("environment.json")
    (run.path / "environment.json").write_text("{")
    with pytest.raises(QuranAsrError, match="is not JSON"):
        run.read_json("environment.json")


def test_disk_space_is_weighed_before_training(tmp_path: Path) -> None:
    assert checkpoint_bytes(114_752_514) == pytest.approx(1.4e9, rel=0.03)
    assert lacking_space(tmp_path / "not" / "yet", 1000, 10) is None
    finding = lacking_space(tmp_path, 10**15, 10)
    assert finding is not None
    assert (finding.severity, finding.code) == ("error", "disk-space")


def test_a_run_is_trained_by_one_process_at_a_time(run: RunFolder) -> None:
    with run.held():
        with pytest.raises(QuranAsrError, match="another process trains this run") as refused, run.held():
            pytest.fail("both train")
        assert f"process {os.getpid()} on" in str(refused.value)
        assert refused.value.where == str(run.path)
    with run.held():
        pass
    assert not (run.path / LOCK).exists()


def test_a_sweep_takes_away_what_killed_trainings_left_and_nothing_else(run: RunFolder) -> None:
    theirs = [run.path / ".git", run.path / ".notes", run.checkpoints / ".last-abcdefgh.tmp"]
    for path in theirs:
        path.write_text("a user's own")
    living = files.unfinished_path(run.checkpoints)
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    left = living.with_name(living.name.replace(f"-{os.getpid()}-", f"-{ended.pid}-"))
    for path in (living, left):
        path.write_bytes(b"half a checkpoint")
    run.sweep()
    assert all(path.exists() for path in (*theirs, living))
    assert not left.exists()
