"""What people type to go on with a run, each as typed."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from quran_asr.config.recipe import load_recipe
from quran_asr.corpus.synthesis import synthesize_corpus
from quran_asr.experiments.checkpoints import steps_made
from quran_asr.experiments.run_folder import RunFolder, open_run
from quran_asr.records import VerseRef

pytestmark = pytest.mark.slow

TINY = (
    "model.encoder.n_layers=1",
    "model.encoder.d_model=32",
    "model.encoder.n_heads=2",
    "model.encoder.subsampling_conv_channels=8",
    "model.decoder.prednet.pred_hidden=16",
    "model.joint.jointnet.joint_hidden=16",
    "model.decoding.greedy.max_symbols=3",
    "quran.vocabulary_size=48",
    "quran.curriculum=null",
    "quran.overfit_gate_steps=0",
    "trainer.log_every_n_steps=1",
    "trainer.max_steps=6",
    "trainer.val_check_interval=2",
    "name=FastConformer-Hybrid-Transducer-CTC-BPE-Streaming",
)

ONE_LINER = (
    "import glob, re; from pathlib import Path; "
    "print(min(glob.glob('nemo_experiments/FastConformer-Hybrid-Transducer-CTC-BPE-Streaming/*/"
    "checkpoints/*.nemo'), "
    "key=lambda p: float(re.search(r'val_wer=([\\d.]+)', Path(p).stem).group(1))))"
)
"""The guide's, over the runs of a folder."""


Train = Callable[..., Any]


@pytest.fixture(scope="module")
def train(in_process: Callable[..., Any]) -> Train:
    """Type `quran-asr train` and some words in a folder."""

    def typed(place: Path, *words: str) -> Any:
        done = in_process("train", *words, cwd=place)
        assert "Traceback" not in done.err, done.err
        return done

    return typed


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, train: Train) -> Path:
    """A folder in which somebody trained: a manifest, and a run of six steps under `nemo_experiments`."""
    place = tmp_path_factory.mktemp("place")
    synthesize_corpus(
        [VerseRef(112, ayah) for ayah in range(1, 5)], ["ar", "ar+m1"], place / "spoken", seed=0
    )
    done = train(place, "quickstart", *MANIFESTS, *TINY)
    assert done.code == 0, done.err
    return place


MANIFESTS = ("--train", "spoken/manifest.jsonl", "--validation", "spoken/manifest.jsonl")


def the_run(place: Path) -> RunFolder:
    return open_run(min((place / "nemo_experiments").glob("*/*/recipe.yaml")).parent)


def steps(run: RunFolder) -> list[int]:
    return [row["step"] for row in run.read_metrics() if row["split"] == "train"]


def one_liner(place: Path) -> str:
    found = subprocess.run(
        [sys.executable, "-c", ONE_LINER], capture_output=True, text=True, check=True, cwd=place
    )
    return found.stdout.strip()


def test_the_one_liner_finds_the_best_model_and_a_new_run_starts_from_it(place: Path, train: Train) -> None:
    best = one_liner(place)
    assert best.endswith(".nemo")
    words = ["quickstart", *MANIFESTS, *TINY, "exp_manager.exp_dir=from-nemo", "trainer.max_steps=1"]
    done = train(place, *words, f"exp_manager.resume_from_checkpoint={best}", "--json")
    assert done.code == 0, done.err
    assert "a new run starts from the weights" in done.err
    assert "new optimizer" in done.err
    assert "100.0% of the encoder and 100.0% of the model arrived" in done.err
    run = open_run(place / json.loads(done.out)["run"])
    transfer = run.read_json("transfer.json")
    assert transfer["share"] == 1.0
    assert re.fullmatch("[0-9a-f]{64}", transfer["sha256"])
    assert {tensor["outcome"] for tensor in transfer["tensors"]} == {"copied"}
    assert steps(run) == [1]


def test_a_ckpt_is_resumed_and_overrides_beside_it_win_and_are_listed(place: Path, train: Train) -> None:
    run = the_run(place)
    before = max(steps(run))
    last = run.checkpoints / "last.ckpt"
    done = train(
        place,
        f"exp_manager.resume_from_checkpoint={last}",
        f"trainer.max_steps={before + 2}",
        "model.optim.lr=5.0e-4",
    )
    assert done.code == 0, done.err
    assert f"override trainer.max_steps: {before} -> {before + 2}" in done.err
    assert "override model.optim.lr: 0.001 -> 0.0005" in done.err
    assert "resuming after step" in done.err
    assert steps(run) == list(range(1, before + 3))
    assert load_recipe(run.recipe).model.optim.lr == 5e-4
    assert load_recipe(run.path / f"recipe-to-step-{before}.yaml").model.optim.lr == 1e-3


def test_a_run_that_has_made_its_steps_reports_it_and_loads_no_model(place: Path, train: Train) -> None:
    run = the_run(place)
    made = max(steps(run))
    before = run.recipe.read_bytes()
    done = train(place, "--resume", str(run.path))
    assert (done.code, done.out) == (0, "")
    assert f"the run has made its {made} steps already" in done.err
    assert "trainer.max_steps=N" in done.err and "resuming after" not in done.err
    result = json.loads(train(place, "--resume", str(run.path), "--json").out)
    assert (result["run"], result["steps"], result["best"]) == (str(run.path), made, str(run.best_nemo()))
    done = train(place, "--resume", str(run.path), f"trainer.max_steps={made - 1}")
    assert done.code == 2
    assert f"has made {made} steps already" in done.err
    assert run.recipe.read_bytes() == before


@pytest.mark.parametrize("typed", [("--resume-best", "RUN"), ("--resume", "RUN", "--resume-best")])
def test_resume_best_starts_at_the_lowest_rate(place: Path, train: Train, typed: tuple[str, ...]) -> None:
    run = the_run(place)
    best = run.best_checkpoint()
    assert best is not None
    done = train(place, *(str(run.path) if word == "RUN" else word for word in typed))
    assert done.code == 0, done.err
    assert f"from {best}" in done.err
    assert steps(run) == list(range(1, max(steps(run)) + 1))


@pytest.mark.parametrize(
    ("override", "why"),
    [
        ("model.encoder.d_model=64", "other weights are needed"),
        ("quran.vocabulary_size=64", "other weights are needed"),
        ("model.train_ds.manifest_filepath=other.jsonl", "begin a new run for other data"),
        ("init_from_pretrained_model=stt_en_fastconformer_transducer_large", "begin a new run"),
    ],
)
def test_what_a_run_was_begun_with_stays(place: Path, train: Train, override: str, why: str) -> None:
    before = the_run(place).recipe.read_bytes()
    done = train(place, "--resume", str(the_run(place).path), override)
    assert done.code == 2
    assert why in done.err
    assert the_run(place).recipe.read_bytes() == before


def test_a_run_without_a_checkpoint_begins_again_in_its_folder(
    place: Path, train: Train, tmp_path: Path
) -> None:
    words = [
        "quickstart",
        *MANIFESTS,
        *TINY,
        f"exp_manager.exp_dir={tmp_path}",
        "trainer.max_steps=2",
        "--json",
    ]
    done = train(place, *words)
    run = open_run(json.loads(done.out)["run"])
    for path in run.checkpoints.iterdir():
        path.unlink()
    done = train(place, "--resume", str(run.path))
    assert done.code == 0, done.err
    assert "it starts over, in the same folder" in done.err
    assert steps(run) == [1, 2]


def test_a_checkpoint_of_nothing_is_refused(place: Path, train: Train) -> None:
    done = train(place, "exp_manager.resume_from_checkpoint=missing.ckpt")
    assert done.code == 2
    assert "no such checkpoint" in done.err
    done = train(place, *MANIFESTS, "exp_manager.resume_from_checkpoint=weights.pt")
    assert done.code == 2
    assert "neither a .nemo nor a .ckpt" in done.err


def test_a_pretrained_start_that_does_not_fit_is_refused_and_leaves_nothing(
    place: Path, train: Train
) -> None:
    best = one_liner(place)
    words = ["quickstart", *MANIFESTS, *TINY, "model.encoder.d_model=48", "exp_manager.exp_dir=refused"]
    done = train(place, *words, f"init_from_pretrained_model={best}")
    assert done.code == 2
    assert "of the encoder's parameters would arrive" in done.err
    assert not list((place / "refused").glob("*/*"))
    done = train(
        place, *words, f"init_from_pretrained_model={best}", "--allow-partial", "trainer.max_steps=1"
    )
    assert done.code == 0, done.err


def test_two_processes_never_train_one_run(place: Path, train: Train) -> None:
    """The second reports who trains, the first goes on, and one that was killed holds nobody up."""
    done = train(place, "quickstart", *MANIFESTS, *TINY, "name=alone")
    assert done.code == 0, done.err
    run = open_run(max((place / "nemo_experiments" / "alone").iterdir()))
    words = [
        "train",
        "--resume",
        str(run.path),
        "trainer.max_steps=100000",
        "trainer.val_check_interval=50000",
    ]
    command = [sys.executable, "-m", "quran_asr", *words]
    with (place / "first.log").open("wb") as log:
        first = subprocess.Popen(command, cwd=place, stdout=log, stderr=log)
    try:
        until = time.monotonic() + 600
        while len(steps(run)) < 12 and time.monotonic() < until:
            time.sleep(0.05)
        second = train(place, "--resume", str(run.path), "trainer.max_steps=100000")
        assert second.code == 2
        assert "another process trains this run" in second.err
        assert f"process {first.pid} on " in second.err
        assert first.poll() is None
    finally:
        first.kill()
        first.wait()
    assert (run.path / ".lock").exists()
    lines = run.metrics.read_text().splitlines()
    numbers = [row["step"] for row in map(json.loads, lines[:-1]) if row["split"] == "train"]
    assert numbers == sorted(set(numbers)), "a step was written twice"
    third = train(place, "--resume", str(run.path), "trainer.max_steps=8", "trainer.val_check_interval=2")
    assert third.code == 0, third.err
    assert not list(run.path.rglob(".*"))


def test_a_run_goes_on_from_another_folder_with_moved_data_and_a_torn_checkpoint(
    place: Path, train: Train, tmp_path: Path
) -> None:
    run = open_run(shutil.copytree(the_run(place).path, tmp_path / "elsewhere" / "run"))
    for manifest in load_recipe(run.recipe).model.train_ds.manifests:
        assert Path(manifest).is_absolute()
    last = run.checkpoints / "last.ckpt"
    last.write_bytes(last.read_bytes()[:-1000])
    best = max(run.checkpoints.glob("*val_wer*.ckpt"), key=lambda path: steps_made(path) or 0)
    words = ["--resume", str(run.path), f"trainer.max_steps={max(steps(run)) + 1}"]
    moved = (place / "spoken").rename(tmp_path / "data")
    try:
        done = train(tmp_path, *words)
        assert done.code == 2
        assert "no such manifest" in done.err and "--data-root OLD=NEW" in done.err
        done = train(tmp_path, *words, "--data-root", f"{place / 'spoken'}={moved}")
    finally:
        moved.rename(place / "spoken")
    assert done.code == 0, done.err
    assert "warning [torn-checkpoint]" in done.err
    assert f"from {best}" in done.err
    assert load_recipe(run.recipe).model.train_ds.manifests == (str(moved / "manifest.jsonl"),)
