"""`quran-asr sweep`: what it refuses, and one small sweep of real trainings, stopped and gone on with."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from quran_asr.cli import options
from quran_asr.cli.main import main
from quran_asr.config.recipe import load_recipe
from quran_asr.corpus.synthesis import synthesize_corpus
from quran_asr.records import VerseRef

CTC = "model.aux_ctc.ctc_loss_weight"
TINY = (
    "model.encoder.n_layers=1", "model.encoder.d_model=32", "model.encoder.n_heads=2",
    "model.encoder.subsampling_conv_channels=8", "model.decoder.prednet.pred_hidden=16",
    "model.joint.jointnet.joint_hidden=16", "model.decoding.greedy.max_symbols=3",
    "quran.vocabulary_size=48", "quran.curriculum=null", "quran.overfit_gate_steps=0",
    "trainer.max_steps=60", "trainer.val_check_interval=20",
)  # fmt: skip


def refused(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    with pytest.raises(SystemExit) as ended:
        main(["sweep", *map(str, words)])
    message = capsys.readouterr().err
    assert ended.value.code == 2, message
    assert "Traceback" not in message
    return message


def test_wrong_keys_and_values_are_refused_by_the_loaders_own_words(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    data = ("--train", "t.jsonl", "--validation", "v.jsonl")
    message = refused(capsys, "laptop", "model.aux_ctc.ctc_weight=0.2,0.3", *data)
    assert "unknown key `model.aux_ctc.ctc_weight`" in message
    assert "must be at most 1, not 1.5" in refused(capsys, "laptop", f"{CTC}=0.2,1.5", *data)
    assert "no recipe `labtop`" in refused(capsys, "labtop", f"{CTC}=0.2,0.5", *data)
    assert "nothing is varied" in refused(capsys, "laptop", *data)
    assert "t.jsonl" in refused(capsys, "laptop", f"{CTC}=0.2,0.5", *data)
    assert "no training manifest" in refused(capsys, "laptop", f"{CTC}=0.2,0.5")
    assert not (tmp_path / "sweeps").exists()


def test_without_optuna_one_line_names_what_to_install(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(options, "find_spec", lambda name: None if name == "optuna" else name)
    message = refused(capsys, "laptop", f"{CTC}=0.2,0.5")
    assert "this command needs optuna" in message
    assert "pip install 'quran-asr[train,sweep]'" in message


@pytest.mark.slow
def test_a_sweep_of_real_trainings_is_stopped_and_continues(tmp_path: Path) -> None:
    refs = [VerseRef(112, ayah) for ayah in range(1, 5)]
    spoken = synthesize_corpus(refs, ["ar", "ar+f2"], tmp_path / "spoken", seed=0)
    command = [
        *(sys.executable, "-m", "quran_asr", "sweep", "quickstart", *TINY, "model.optim.lr=1.0e-4,1.0e-2"),
        *("--train", str(spoken), "--validation", str(spoken), "--to", "s", "--json"),
    ]
    process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    first = tmp_path / "s" / "trials" / "0000"
    until = time.monotonic() + 600
    while not any(path.stat().st_size for path in first.glob("*/*/metrics.jsonl")):
        assert process.poll() is None and time.monotonic() < until, process.communicate()[1]
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    message = process.communicate(timeout=600)[1]
    assert process.returncode == 130, message
    assert "the same command continues" in message
    with pytest.raises(ProcessLookupError):
        os.kill(json.loads((first / "process").read_text())["pid"], 0)

    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=1200, check=False)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert [trial["state"] for trial in result["trials"]] == ["finished"] * 2
    assert len(list(first.glob("*/*/recipe.yaml"))) == 1, "resumed, not begun again"
    assert [trial["steps"] for trial in result["trials"]] == [60, 60]
    assert json.loads((tmp_path / "s" / "results.json").read_text()) == result
    best = result["trials"][0]
    assert best["number"] == result["best"] and best["interval"][0] <= best["interval"][1]
    recipe = load_recipe(tmp_path / result["best_recipe"])
    assert recipe.model.optim.lr == float(best["values"]["model.optim.lr"])
    planned = subprocess.run(
        [*command[:3], "plan", result["best_recipe"]],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert planned.returncode == 0, planned.stderr
