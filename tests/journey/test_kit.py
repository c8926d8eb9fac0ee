"""A kit from the first command to the last: made, run, killed, gone on with, brought back, heard.

In this environment, whose packages stand for those of the host, so that nothing is fetched. A clean one, with
wheels and without a network, is rehearsed by `tools/rehearse_kit.sh`.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from quran_asr.corpus.speak import speak_corpus
from quran_asr.files import sha256_of
from quran_asr.records import VerseRef
from quran_asr.runs.kits import kit_stages
from quran_asr.runs.kits.kit import read_index, read_results
from quran_asr.train.half import read_model

pytestmark = pytest.mark.slow

TINY = """model.encoder.n_layers=1 model.encoder.d_model=32 model.encoder.n_heads=2
model.encoder.subsampling_conv_channels=8 model.decoder.prednet.pred_hidden=16
model.joint.jointnet.joint_hidden=16 model.decoding.greedy.max_symbols=3 quran.vocabulary_size=48
quran.curriculum.first_seconds=3.0 quran.overfit_gate_steps=0 trainer.log_every_n_steps=1
trainer.max_steps=60 trainer.val_check_interval=10 quran.checkpoint_minutes=0.01""".split()
SHORT = ("--benchmark", "--preset quickstart --rounds 1 --steps 1")


def quran_asr(*words: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "quran_asr", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_a_kit_survives_a_kill_and_its_model_hears(tmp_path: Path) -> None:
    spoken = speak_corpus(
        [VerseRef(112, ayah) for ayah in range(1, 5)], ["ar", "ar+f2"], tmp_path / "s", seed=0
    )
    host = tmp_path / "host.txt"
    host.write_text("".join(f"{d.name}=={d.version}\n" for d in importlib.metadata.distributions()))
    kit, work, to = tmp_path / "kit", tmp_path / "work", tmp_path / "to"
    manifests = ["--train", spoken, "--validation", spoken]
    made = quran_asr(
        "kit", "quickstart", *TINY, *manifests, *SHORT, "--host-packages", host, "--to", kit, "--max-mib", 64
    )
    assert made.returncode == 0, made.stderr
    assert "\ntotal " in made.stdout and not list(kit.glob("wheels/*"))
    assert read_index(kit, "kit.json")["audio"]["clips"] == {"train": 8, "validation": 8, "test": 8}
    again = quran_asr(
        "kit", "quickstart", *TINY, *manifests, "--host-packages", host, "--to", kit, "--max-mib", 1
    )
    assert again.returncode == 2 and "--max-mib" in again.stderr, again.stderr
    assert "Invalid value" not in again.stderr
    assert (
        quran_asr(
            "kit", "quickstart", *TINY, *manifests, *SHORT, "--host-packages", host, "--to", kit
        ).returncode
        == 0
    ), "a kit may be made again in its folder"

    command = [
        sys.executable,
        "-m",
        "quran_asr",
        "kit",
        "--run",
        kit,
        "--work",
        work,
        "--to",
        to,
        "--every",
        "0.05",
    ]
    first = subprocess.Popen([*map(str, command)], stderr=subprocess.DEVNULL)
    until = time.monotonic() + 600
    while time.monotonic() < until and not list(work.glob("runs/*/*/checkpoints/last.ckpt")):
        assert first.poll() is None
        time.sleep(0.1)
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    time.sleep(0.5)
    assert "train" not in json.loads((work / "state.json").read_text())["stages"]
    if (to / "results").exists():
        read_index(to / "results", "results.json")

    done = subprocess.run([*map(str, command)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr + (work / "log.txt").read_text()[-3000:]
    assert "finished: bring back" in done.stderr
    assert len(list(work.glob("runs/*/*"))) == 1, "the same run went on"
    results = to / "results"
    sizes = {path.name: path.stat().st_size for path in results.iterdir()}
    assert len(sizes) <= 8 and max(sizes.values()) < 16 << 20 and sum(sizes.values()) <= 60 << 20
    assert {"results.json", "run.tar.gz", "curves.png", "report.json", "weights-1.part"} <= sizes.keys()
    index, _ = read_results(results)
    assert index["calls"] == 2 and index["stages"]["evaluate"]["state"] == "done"

    run = tmp_path / "back"
    collected = quran_asr("kit", "--collect", results, "--to", run, "--json")
    assert collected.returncode == 0, collected.stderr
    model = Path(json.loads(collected.stdout)["model"])
    assert model.parent == run / "checkpoints" and "val_wer=" in model.name
    steps = [json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert max(steps) == 60
    heard = quran_asr("evaluate", run, spoken, "--to", tmp_path / "evaluation")
    assert heard.returncode == 0, heard.stderr
    # A model after 60 steps babbles, and its error rate with it: the weights themselves are compared.
    (before,) = work.glob("runs/*/*/checkpoints/*.nemo")
    there, here = read_model(before), read_model(model)
    assert there.keys() == here.keys()
    for name, tensor in there.items():
        torch.testing.assert_close(here[name], tensor, rtol=2**-11, atol=2**-25, msg=name)


def test_when_the_minutes_are_up_the_training_stops_and_the_results_are_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The clock leaps to their end once there is a checkpoint: so no machine is too slow for it."""
    spoken = speak_corpus([VerseRef(112, 1), VerseRef(112, 2)], ["ar"], tmp_path / "s", seed=0)
    host, kit, work, to = (tmp_path / name for name in ("host.txt", "kit", "work", "to"))
    host.write_text("".join(f"{d.name}=={d.version}\n" for d in importlib.metadata.distributions()))
    endless = [*TINY, "trainer.max_steps=1000000", "--train", spoken, "--validation", spoken]
    made = quran_asr("kit", "quickstart", *endless, "--host-packages", host, "--to", kit)
    assert made.returncode == 0, made.stderr
    work.mkdir()
    measured = {"kit": sha256_of(kit / "kit.json"), "stages": {"benchmark": {"state": "done"}}, "calls": 0}
    (work / "state.json").write_text(json.dumps(measured))
    began, minutes, said = time.time(), 100.0, list[str]()
    call = kit_stages.Host(kit, work, to, began + 60 * minutes, 60 * minutes, 1e9, None, said.append)

    def leaping() -> float:
        leap = 60 * minutes - call.reserve if list(work.glob("runs/*/*/checkpoints/last.ckpt")) else 0.0
        return time.time() + leap

    monkeypatch.setattr(kit_stages, "time", SimpleNamespace(**vars(time) | {"time": leaping}))
    assert kit_stages.run_kit(call) == 0, said
    assert said[-1].startswith("not finished: the same command goes on from here"), said
    index, _ = read_results(to / "results")
    assert index["stages"]["train"]["state"] == "cut"
    assert index["model"]["parameters"] > 0 and (to / "results" / "weights-1.part").is_file()
    collected = quran_asr("kit", "--collect", to / "results", "--to", tmp_path / "back", "--json")
    assert collected.returncode == 0, collected.stderr
    (run,) = work.glob("runs/*/*")
    steps = [json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert 0 < max(steps) < 1_000_000
