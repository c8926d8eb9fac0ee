"""Two processes on the CPU train what one does, and a run moves between one and two."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from quran_asr.evaluation.transcripts import read_transcripts
from quran_asr.experiments.run_folder import RunFolder, open_run

pytestmark = pytest.mark.slow

PLAIN = (
    "quran.curriculum=null",
    "model.encoder.att_context_size=[[70,13]]",
    "model.encoder.att_context_probs=null",
    "model.encoder.dropout=0.0",
    "model.encoder.dropout_pre_encoder=0.0",
    "model.encoder.dropout_att=0.0",
    "model.decoder.prednet.dropout=0.0",
    "model.joint.jointnet.dropout=0.0",
    "model.spec_augment.freq_masks=0",
    "model.spec_augment.time_masks=0",
    "model.preprocessor.dither=0.0",
    "quran.augment.gain_db=0.0",
    "quran.augment.lowpass_probability=0.0",
    "model.train_ds.batch_size=2",
    "model.train_ds.batch_duration=null",
    "model.loss.warprnnt_numba_kwargs.fastemit_lambda=0.0",
    "trainer.max_steps=-1",
    "trainer.max_epochs=4",
    "trainer.val_check_interval=1.0",
    "trainer.check_val_every_n_epoch=1",
)
"""12 clips in batches of two: three optimizer steps an epoch at an effective batch of 4; nothing is drawn."""

Command = Callable[..., Any]

TWO = ("trainer.devices=2", "trainer.accelerator=cpu", "trainer.accumulate_grad_batches=1")
ONE = ("trainer.devices=1", "trainer.accelerator=cpu", "trainer.accumulate_grad_batches=2")


@pytest.fixture
def words(spoken: Path, tiny_overrides: tuple[str, ...], tmp_path: Path) -> list[str]:
    manifests = ["--train", str(spoken), "--validation", str(spoken)]
    return ["quickstart", *manifests, *tiny_overrides, *PLAIN, f"exp_manager.exp_dir={tmp_path}"]


def train(command: Command, *words: str) -> tuple[RunFolder, str]:
    done = command("train", *words, "--json")
    assert done.code == 0, done.err
    assert "Traceback" not in done.err, done.err
    return open_run(json.loads(done.out)["run"]), done.err


def measured(run: RunFolder) -> list[dict[str, Any]]:
    return run.read_metrics()


def same_losses(one: RunFolder, other: RunFolder) -> None:
    for a, b in zip(measured(one), measured(other), strict=True):
        assert (a["split"], a["step"], a["epoch"]) == (b["split"], b["step"], b["epoch"])
        for key in (
            "loss",
            "transducer_loss",
            "ctc_loss",
            "learning_rate",
            "gradient_norm",
            "wer",
            "ctc_wer",
        ):
            if key in a:
                assert a[key] == pytest.approx(b[key], rel=2e-3), (a["step"], key)


def test_two_processes_have_the_losses_of_one_and_a_run_goes_from_one_to_two_and_back(
    words: list[str],
    in_process: Command,
    quran_asr: Command,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Where one process trains, it is this one."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    alone, _ = train(in_process, *words, *ONE)
    together, message = train(quran_asr, *words, *TWO)
    assert len([row for row in measured(alone) if row["split"] == "train"]) == 12
    same_losses(alone, together)
    assert message.count("run folder") == 1, "only the first process reports"
    assert together.read_json("environment.json")["processes"] == 2
    clips, clips_alone = (read_transcripts(run.transcripts) for run in (together, alone))
    assert [clip.segment for clip in clips] == [clip.segment for clip in clips_alone], "each clip once"

    moving, _ = train(in_process, *words, *ONE, "trainer.max_epochs=2")
    _, message = train(quran_asr, "--resume", str(moving.path), "trainer.max_epochs=3", *TWO[:2])
    assert "its effective batch of 4 is kept" in message
    assert "differ from an uninterrupted run" in message
    assert "trainer.accumulate_grad_batches=1" in message
    _, message = train(in_process, "--resume", str(moving.path), "trainer.max_epochs=4", *ONE[:2])
    assert "its effective batch of 4 is kept" in message
    same_losses(alone, moving)


def test_torchrun_starts_a_training_and_clips_that_come_twice_are_reported(
    words: list[str], spoken: Path
) -> None:
    odd = spoken.with_name("odd.jsonl")
    odd.write_text("".join(spoken.read_text("utf-8").splitlines(keepends=True)[:5]), "utf-8")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    done = subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"),
            *("--master-port", str(port), "-m", "quran_asr", "train"),
            *(*words, *TWO, "trainer.max_epochs=1", "--train", str(odd), "model.train_ds.batch_size=1"),
            # Clips that are longer than this make NeMo's table of positions grow, in each process by itself.
            "model.encoder.pos_emb_max_len=20",
            "model.encoder.conv_norm_type=batch_norm",
        ],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("run folder") == 1
    assert done.stderr.count("1 clip comes twice in an epoch") == 1, done.stderr
    assert "best validation WER" in done.stdout


def test_a_signal_to_the_first_process_stops_both_with_a_checkpoint(words: list[str], tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "quran_asr", "train", *words, *TWO, "trainer.max_epochs=10000"],
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    until = time.monotonic() + 600
    while not any(path.stat().st_size for path in tmp_path.glob("quickstart/*/metrics.jsonl")):
        assert process.poll() is None, process.stderr.read() if process.stderr else ""
        assert time.monotonic() < until
        time.sleep(0.2)
    process.send_signal(signal.SIGTERM)
    _, message = process.communicate(timeout=120)  # ten thousand epochs would take hours
    assert process.returncode == 130, message
    assert "continue with: quran-asr train --resume" in message
    assert list(tmp_path.glob("quickstart/*/checkpoints/last.ckpt"))


def test_several_machines_need_a_launcher(words: list[str], in_process: Command) -> None:
    done = in_process("train", *words, "trainer.num_nodes=2")
    assert done.code == 2
    assert "torchrun or srun" in done.err
