"""What `train` and `quickstart` say before anything heavy is loaded: wrong use, wrong input."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from quran_asr.cli.main import main


class Done:
    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """Run a command that must end before torch is imported."""
    monkeypatch.chdir(tmp_path)
    before = "torch" in sys.modules

    def run(*words: object) -> Done:
        with pytest.raises(SystemExit) as ended:
            main([str(word) for word in words])
        printed = capsys.readouterr()
        assert "Traceback" not in printed.err
        assert before or "torch" not in sys.modules, "reported too late: torch was loaded first"
        return Done(int(ended.value.code or 0), printed.out, printed.err)

    return run


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    """Two clips of real sound."""
    import numpy as np

    from quran_asr import audio

    lines = []
    for ayah in (1, 2):
        noise = np.random.default_rng(ayah).normal(0, 0.1, 16_000).astype(np.float32)
        audio.write(tmp_path / f"11200{ayah}.wav", noise)
        lines.append({"audio_filepath": f"11200{ayah}.wav", "duration": 1.0, "verses": [f"112:{ayah}"]})
    path = tmp_path / "all.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_no_manifest_names_the_option_and_the_command_that_makes_one(command) -> None:
    done = command("train", "laptop")
    assert done.code == 2
    assert "no training manifest" in done.err
    assert "--train" in done.err
    assert "quran-asr corpus scan" in done.err


def test_a_manifest_that_is_not_there(command, tmp_path: Path) -> None:
    done = command("train", "laptop", "--train", "nowhere.jsonl", "--validation", "nowhere.jsonl")
    assert done.code == 2
    assert "nowhere.jsonl" in done.err


def test_a_torn_line_is_named_by_file_and_line(command, manifest: Path) -> None:
    with manifest.open("a") as file:
        file.write('{"audio_filepath": "112003.wa')
    done = command("train", "laptop", "--train", manifest, "--validation", manifest)
    assert done.code == 2
    assert f"{manifest.name}:3" in done.err


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ({"audio_filepath": "112001.wav", "duration": 1.0, "verses": ["2:287"]}, "2:287"),
        ({"audio_filepath": "112001.wav", "duration": -1.0, "verses": ["112:1"]}, "duration"),
        ({"duration": 1.0, "verses": ["112:1"]}, "audio_filepath"),
    ],
)
def test_a_wrong_line_is_named(command, manifest: Path, line: dict[str, object], message: str) -> None:
    manifest.write_text(json.dumps(line) + "\n")
    done = command("train", "laptop", "--train", manifest, "--validation", manifest)
    assert done.code == 2
    assert message in done.err
    assert f"{manifest.name}:1" in done.err


def test_an_empty_manifest(command, manifest: Path) -> None:
    manifest.write_text("")
    done = command("train", "laptop", "--train", manifest, "--validation", manifest)
    assert done.code == 2
    assert manifest.name in done.err


def test_clips_over_the_limit_are_counted_named_and_weighed(command, manifest: Path) -> None:
    done = command(
        "train", "laptop", "--train", manifest, "--validation", manifest, "model.train_ds.max_duration=0.5"
    )
    assert done.code == 2  # nothing is left
    assert "2 training clips over 0.5 s are left out" in done.err
    assert "of 0.00 hours" in done.err
    assert "112001.wav" in done.err
    assert "no training clip is left" in done.err


def test_an_unknown_key_has_its_near_name(command) -> None:
    done = command("train", "laptop", "model.optim.sched.warmup_step=5")
    assert done.code == 2
    assert "unknown key" in done.err
    assert "model.optim.sched.warmup_steps" in done.err


def test_resume_of_what_is_not_a_run_and_with_a_recipe(command, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert command("train", "--resume", "empty").code == 2
    done = command("train", "laptop", "--resume", "empty")
    assert done.code == 2
    assert "leave out `laptop`" in done.err


def test_a_resumed_run_keeps_its_data(command, manifest: Path, tmp_path: Path) -> None:
    from quran_asr.config.recipe import load_recipe
    from quran_asr.experiments.run_folder import create_run

    run = create_run(tmp_path / "runs", "laptop")
    run.write_recipe(load_recipe("laptop", [f"model.train_ds.manifest_filepath=[{manifest}]"]))
    (run.checkpoints / "last.ckpt").write_bytes(b"")
    done = command("train", "--resume", run.path, "--train", "other.jsonl")
    assert done.code == 2
    assert "a resumed run keeps" in done.err
    assert "begin a new run for other data" in done.err


@pytest.mark.parametrize(("before", "now"), [("0.2", "0.0"), ("0.0", "0.2")])
def test_a_resumed_run_keeps_the_modules_of_its_joint_network(
    command, tmp_path: Path, before: str, now: str
) -> None:
    from quran_asr.config.recipe import load_recipe
    from quran_asr.experiments.run_folder import create_run

    run = create_run(tmp_path / "runs", "laptop")
    run.write_recipe(load_recipe("laptop", [f"model.joint.jointnet.dropout={before}"]))
    (run.checkpoints / "last.ckpt").write_bytes(b"")
    written = run.recipe.read_bytes()
    refused = command("train", "--resume", run.path, f"model.joint.jointnet.dropout={now}")
    assert refused.code == 2
    assert f"model.joint.jointnet.dropout: a resumed run cannot change {before} to {now}" in refused.err
    assert run.recipe.read_bytes() == written


def test_validation_clips_that_are_trained_on_are_reported(command, manifest: Path, monkeypatch) -> None:
    import shutil
    from types import SimpleNamespace

    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=0))  # ends before torch
    done = command("train", "laptop", "--train", manifest, "--validation", manifest)
    assert "2 of 2 (100.0 %) validation clips are trained on too" in done.err


def test_a_full_disk_is_foreseen(command, manifest: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import shutil
    from types import SimpleNamespace

    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1_000_000))
    done = command("train", "laptop", "--train", manifest, "--validation", manifest)
    assert done.code == 1
    assert "[disk-space]" in done.err
    assert not Path("nemo_experiments").exists()


def test_quickstart_takes_no_other_recipe(command) -> None:
    done = command("quickstart", "laptop")
    assert done.code == 2
    assert "quran-asr train laptop" in done.err
