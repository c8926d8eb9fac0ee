"""A run that continues from another folder, with moved data or a torn checkpoint. No model is loaded."""

from __future__ import annotations

import contextlib
import json
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest

from quran_asr import audio
from quran_asr.cli.train import clips_of, moved_folders, resumption, with_absolute_paths
from quran_asr.config.recipe import load_recipe
from quran_asr.errors import QuranAsrError
from quran_asr.experiments.run_folder import RunFolder, create_run


def checkpoint(path: Path, step: int) -> Path:
    content = {"epoch": 1, "global_step": step, "state_dict": {}}
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{path.stem}/data.pkl", pickle.dumps(content, protocol=2))
    return path


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunFolder:
    """Begun in `tmp_path` with the manifest `data/m.jsonl`, which names its recording by an absolute path."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    noise = np.random.default_rng(0).normal(0, 0.1, 48_000).astype(np.float32)
    audio.write(tmp_path / "data" / "clip.wav", noise)
    line = {"audio_filepath": str(tmp_path / "data" / "clip.wav"), "duration": 3.0, "verses": ["112:1"]}
    (tmp_path / "data" / "m.jsonl").write_text(json.dumps(line) + "\n")
    names = [f"model.{key}.manifest_filepath=data/m.jsonl" for key in ("train_ds", "validation_ds")]
    run = create_run(tmp_path / "runs", "small")
    run.write_recipe(with_absolute_paths(load_recipe("quickstart", names)))
    checkpoint(run.checkpoints / "small--val_wer=0.2000-epoch=1.ckpt", 100)
    checkpoint(run.checkpoints / "small--val_wer=0.3000-epoch=2.ckpt", 200)
    checkpoint(run.checkpoints / "last.ckpt", 300)
    return run


def test_a_run_continues_from_another_working_folder(run, tmp_path, monkeypatch):
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    resumed = resumption(run.path, [], checkpoint=None, best=False)
    assert resumed.checkpoint == run.checkpoints / "last.ckpt"
    training, _ = clips_of(resumed.recipe, resumed)
    assert [segment.audio for segment in training.kept] == [str(tmp_path / "data" / "clip.wav")]


def test_data_that_has_moved_is_found_under_its_new_root(run, tmp_path):
    (tmp_path / "data").rename(tmp_path / "disk")
    resumed = resumption(run.path, [], checkpoint=None, best=False)
    with pytest.raises(QuranAsrError, match="no such manifest") as refused:
        clips_of(resumed.recipe, resumed)
    assert "--data-root OLD=NEW" in refused.value.remedy
    moved = moved_folders([f"{tmp_path}/data={tmp_path}/disk"])
    resumed = resumption(run.path, [], checkpoint=None, best=False, moved=moved)
    training, validation = clips_of(resumed.recipe, resumed)
    assert training.kept[0].audio == validation.kept[0].audio == str(tmp_path / "disk" / "clip.wav")


@pytest.mark.parametrize("root", ["data", "=new", "old=", "old=missing"])
def test_a_root_that_is_none_is_refused(root, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(QuranAsrError, match=r"OLD=NEW|no such folder"):
        moved_folders([root])


def test_a_torn_last_checkpoint_gives_way_to_the_newest_whole_one(run, capfd):
    last = run.checkpoints / "last.ckpt"
    last.write_bytes(last.read_bytes()[:-50])
    newest = run.checkpoints / "small--val_wer=0.3000-epoch=2.ckpt"
    assert resumption(run.path, [], checkpoint=None, best=False).checkpoint == newest
    err = capfd.readouterr().err
    assert f"warning [torn-checkpoint] {last}: torn" in err and f"continues from {newest}" in err
    best = resumption(run.path, [], checkpoint=None, best=True).checkpoint
    assert best == run.checkpoints / "small--val_wer=0.2000-epoch=1.ckpt"


def test_a_torn_best_checkpoint_gives_way_to_the_next_best_and_is_named(run, capfd):
    torn = run.checkpoints / "small--val_wer=0.2000-epoch=1.ckpt"
    worse = run.checkpoints / "small--val_wer=0.4000-epoch=3.ckpt"
    for path in (torn, worse):
        path.write_bytes(b"PK")
    best = resumption(run.path, [], checkpoint=None, best=True).checkpoint
    assert best == run.checkpoints / "small--val_wer=0.3000-epoch=2.ckpt"
    err = capfd.readouterr().err
    assert f"warning [torn-checkpoint] {torn}: torn" in err and f"continues from {best}" in err
    assert str(worse) not in err


def test_a_recipe_whose_end_is_missing_is_a_warning(run, capfd):
    assert resumption(run.path, [], checkpoint=None, best=False).recipe.trainer.max_steps == 2000
    assert capfd.readouterr().err == ""
    whole = run.recipe.read_text()
    for kept in ("model:\n", "\ntrainer:\n", "\nquran:\n  spelling:", "\n  average: 0"):
        run.recipe.write_text(whole[: whole.index(kept) + len(kept)])
        with contextlib.suppress(QuranAsrError):  # a key without a value
            resumption(run.path, [], checkpoint=None, best=False)
        shown = capfd.readouterr().err
        assert f"warning [recipe-cut-off] {run.recipe}: the end of the run's recipe is missing" in shown
    run.recipe.write_text("base: quickstart")  # written by hand
    resumption(run.path, [], checkpoint=None, best=False)
    assert "recipe-cut-off" not in capfd.readouterr().err


def test_the_manifests_of_a_run_still_cannot_change(run):
    same = "model.train_ds.manifest_filepath=data/m.jsonl"
    assert resumption(run.path, [same], checkpoint=None, best=False).recipe.model.train_ds.manifests
    with pytest.raises(QuranAsrError, match="a resumed run keeps"):
        resumption(run.path, ["model.train_ds.manifest_filepath=other.jsonl"], checkpoint=None, best=False)
