"""The two doors at the root, `train_nemo_optimized.sh` and `plot_training_results.py`, and `plot`.

The training that they start stands in for itself: a Python on PATH that writes down what it was asked.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from quran_asr.cli.main import main
from quran_asr.config.recipe import load_recipe
from quran_asr.experiments.run_folder import create_run

ROOT = Path(__file__).parent.parent.parent
SCRIPT = ROOT / "train_nemo_optimized.sh"

pytestmark = pytest.mark.skipif(not SCRIPT.exists(), reason="needs the checkout")
needs_matplotlib = pytest.mark.skipif(
    not __import__("importlib.util").util.find_spec("matplotlib"), reason="needs the extra plot"
)

STAND_IN = """#!/bin/sh
case "$2" in
  *find_spec*) exit {trains} ;;
esac
shift 2
for word in "$@"; do echo "$word"; done
"""


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """A working folder with both manifests."""
    (tmp_path / "data").mkdir()
    for name in ("train", "validation"):
        (tmp_path / f"data/{name}.jsonl").write_text("{}\n")
    return tmp_path


def door(
    folder: Path, *words: str, script: Path = SCRIPT, trains: bool = True
) -> subprocess.CompletedProcess[str]:
    """Run the script in a folder, with a Python that has the package or lacks it."""
    programs = folder / "programs"
    programs.mkdir(exist_ok=True)
    for name in ("python3", "python"):
        (programs / name).write_text(STAND_IN.format(trains=0 if trains else 1))
        (programs / name).chmod(0o755)
    environment = {**os.environ, "PATH": f"{programs}:/usr/bin:/bin"}
    environment.pop("PRETRAINED_MODEL", None)
    return subprocess.run(
        ["bash", str(script), *words],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )


def commented_out(folder: Path) -> Path:
    """The script with its PRETRAINED_MODEL line commented out, as the guide says."""
    text = SCRIPT.read_text(encoding="utf-8")
    line = 'PRETRAINED_MODEL="stt_en_fastconformer_transducer_large"\n'
    assert text.count(f"\n{line}") == 1
    copy = folder / "train_from_scratch.sh"
    copy.write_text(text.replace(f"\n{line}", f"\n# {line}"))
    return copy


def test_it_opens_with_the_three_settings() -> None:
    settings = [line for line in SCRIPT.read_text().splitlines() if line and not line.startswith("#")][:3]
    assert settings == [
        'PRETRAINED_MODEL="stt_en_fastconformer_transducer_large"',
        "TRAIN_MANIFEST=data/train.jsonl",
        "VALIDATION_MANIFEST=data/validation.jsonl",
    ]


def test_it_trains_transfer_with_the_overrides(here: Path) -> None:
    done = door(here, "trainer.max_epochs=50", "name=a b")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        "train",
        "transfer",
        "init_from_pretrained_model=stt_en_fastconformer_transducer_large",
        *("--train", "data/train.jsonl", "--validation", "data/validation.jsonl"),
        *("trainer.max_epochs=50", "name=a b"),
    ]
    overrides = [word for word in done.stdout.splitlines() if "=" in word and " " not in word]
    assert load_recipe("transfer", overrides).trainer.max_epochs == 50


def test_without_the_pretrained_model_it_trains_from_scratch_and_reports_it(here: Path) -> None:
    done = door(here, script=commented_out(here))
    assert done.returncode == 0
    assert done.stdout.splitlines()[:3] == ["train", "scratch", "--train"]
    assert "warning" in done.stderr and "`scratch`" in done.stderr
    assert load_recipe("scratch").name == load_recipe("transfer").name


def test_missing_manifests_exit_2_with_what_to_run(here: Path) -> None:
    (here / "data/validation.jsonl").unlink()
    done = door(here)
    assert (done.returncode, done.stdout) == (2, "")
    assert "error: no such manifest: data/validation.jsonl\n" in done.stderr
    commands = [line.split() for line in done.stderr.splitlines() if line.startswith("  quran-asr")]
    assert [command[1:3] for command in commands] == [["corpus", "scan"], ["corpus", "split"]]


def test_manifests_may_be_named_by_overrides(here: Path) -> None:
    shutil.rmtree(here / "data")
    words = ("model.train_ds.manifest_filepath=a.jsonl", "model.validation_ds.manifest_filepath=b.jsonl")
    done = door(here, *words)
    assert done.returncode == 0
    assert "--train" not in done.stdout
    assert done.stdout.splitlines()[-2:] == list(words)


def test_without_the_package_its_own_environment_is_used_or_the_way_to_get_it_shown(here: Path) -> None:
    copy = here / "train.sh"
    shutil.copy(SCRIPT, copy)
    done = door(here, script=copy, trains=False)
    assert done.returncode == 2
    assert "error: quran-asr is not installed\nhint: run " in done.stderr
    own = here / ".venv/bin/python"
    own.parent.mkdir(parents=True)
    own.write_text(STAND_IN.format(trains=0))
    own.chmod(0o755)
    done = door(here, script=copy, trains=False)
    assert (done.returncode, done.stdout.splitlines()[:2]) == (0, ["train", "transfer"])


def make_run(folder: Path, name: str = "quickstart") -> Path:
    run = create_run(folder / "nemo_experiments", name)
    run.write_recipe(load_recipe(name))
    for step in range(10, 100, 10):
        run.append_metrics({"step": step, "epoch": 0, "time": step, "split": "train", "loss": 100 / step})
    return run.path


@needs_matplotlib
def test_plot_draws_the_last_run(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(here)
    monkeypatch.chdir(here)
    with pytest.raises(SystemExit) as end:
        main(["plot"])
    assert (end.value.code or 0) == 0
    printed = capsys.readouterr().out.splitlines()
    relative = run.relative_to(here)
    files = ("curves.png", "losses.png", "throughput.png", "report.html")
    assert printed == [str(relative / name) for name in files]
    assert (run / "curves.png").stat().st_size > 10_000


def test_plot_without_a_run_reports_it(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(here)
    with pytest.raises(SystemExit) as end:
        main(["plot"])
    assert end.value.code == 2
    assert "error: nemo_experiments: holds no run" in capsys.readouterr().err


@needs_matplotlib
def test_plot_prints_json_and_names_a_file_that_is_not_there(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(here)
    monkeypatch.chdir(here)
    with pytest.raises(SystemExit) as end:
        main(["plot", str(run), "--out", "pictures", "--json"])
    assert (end.value.code or 0) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["page"] == "pictures/report.html"
    assert all((here / picture).is_file() for picture in printed["pictures"])
    with pytest.raises(SystemExit) as end:
        main(["plot", str(run.parent)])
    assert end.value.code == 2
    assert f"hint: did you mean {run}?" in capsys.readouterr().err
    for words in (["nowhere"], [str(run), "--transcripts", "nowhere"]):
        with pytest.raises(SystemExit) as end:
            main(["plot", *words, "--out", "other"])
        assert end.value.code == 2
        assert capsys.readouterr().err.startswith("error: nowhere: no such")
    assert not (here / "other").exists()


@needs_matplotlib
def test_the_plot_door_draws_the_named_run(here: Path) -> None:
    run = make_run(here)
    done = subprocess.run(
        [sys.executable, str(ROOT / "plot_training_results.py"), str(run), "--out", "pictures"],
        cwd=here,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert (here / "pictures/report.html").is_file()


def test_the_plot_door_without_the_package_uses_its_own_environment(here: Path) -> None:
    copy = here / "plot_training_results.py"
    shutil.copy(ROOT / "plot_training_results.py", copy)
    bare = [sys.executable, "-S", "-I", str(copy), "last"]  # no site-packages
    done = subprocess.run(bare, cwd=here, capture_output=True, text=True, timeout=300)
    assert done.returncode == 2
    assert done.stderr.startswith("error: quran-asr is not installed\nhint: ")
    own = here / ".venv/bin/python"
    own.parent.mkdir(parents=True)
    own.write_text('#!/bin/sh\necho "$@"\n')
    own.chmod(0o755)
    done = subprocess.run(bare, cwd=here, capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stdout.split()) == (0, [str(copy), "last"])
