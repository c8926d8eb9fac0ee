"""`quran-asr watch`: its lines, its JSON, its exit codes, and following a run that grows."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from quran_asr.cli.main import main
from quran_asr.config.recipe import load_recipe
from quran_asr.experiments.run_folder import RunFolder, create_run

RECORDED = Path(__file__).parents[1] / "experiments" / "curves"


def watch(*words: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(["watch", *words])
    assert isinstance(ended.value.code, int)
    return ended.value.code


def a_run(folder: Path, *overrides: str) -> RunFolder:
    run = create_run(folder, "quickstart", datetime(2026, 11, 24))
    run.write_recipe(load_recipe("quickstart", overrides))
    return run


def lines(run: RunFolder, first: int, last: int, value: float) -> None:
    """A train line every 10 steps with a falling loss, and a validation every 100."""
    for step in range(first, last + 1, 10):
        base: dict[str, Any] = {"step": step, "epoch": step // 500, "time": step / 10}
        run.append_metrics({**base, "split": "train", "loss": 5000 / step, "ctc_per_token": 400 / step})
        if step % 100 == 0:
            run.append_metrics({**base, "split": "validation", "wer": value * 100 / step, "ctc_wer": 0.5})


def test_a_bad_run_exits_1_with_evidence_cause_and_remedy(capsys: pytest.CaptureFixture[str]) -> None:
    assert watch(str(RECORDED / "plateau-kept.csv")) == 1
    text = capsys.readouterr().out
    assert "error [stalled-start]" in text
    assert "evidence: ctc_per_token 4.5 at step 300" in text
    assert "cause: " in text and "hint: " in text


def test_a_good_run_exits_0_with_a_forecast(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = a_run(tmp_path)
    lines(run, 10, 1000, 0.8)
    assert watch(str(run.path)) == 0
    text = capsys.readouterr().out
    assert text.startswith("quickstart/2026-11-24_00-00-00: step 1,000 of 2,000, epoch 2, loss 5 nats a clip")
    assert "CTC 0.4 nats a token, WER 0.080" in text
    assert "good [wer-falls]" in text
    assert "at step 2,000 (end)" in text


def test_json_has_every_key_that_is_promised(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = a_run(tmp_path)
    lines(run, 10, 1000, 0.8)
    assert watch(str(run.path), "--json") == 0
    result = json.loads(capsys.readouterr().out)
    assert set(result) == {"run", "unit", "steps", "epochs", "diagnostics", "forecast"}
    assert (result["run"], result["steps"], result["epochs"]) == (str(run.path), 1000, 2)
    for diagnosis in result["diagnostics"]:
        assert set(diagnosis) == {"code", "severity", "message", "evidence", "cause", "remedy", "step"}
        assert all(set(evidence) == {"series", "step", "value"} for evidence in diagnosis["evidence"])
    assert {expected["label"] for expected in result["forecast"]["expected"]} == {"1.25x", "2x", "end"}


def test_what_is_not_a_run_exits_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert watch(str(tmp_path)) == 2
    assert "error: " in capsys.readouterr().err


@pytest.mark.parametrize("every", ["nan", "inf", "0"])
def test_seconds_that_are_not_wait_exit_2(every: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert watch(str(RECORDED / "laptop.csv"), "--every", every) == 2
    assert "--every" in capsys.readouterr().err


def test_where_only_epochs_are_known_they_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "stuck.csv"
    path.write_text("epoch,val_wer\n" + "".join(f"{epoch},1.0\n" for epoch in range(1, 32)))
    assert watch(str(path)) == 1
    text = capsys.readouterr().out
    assert text.startswith("stuck: epoch 31, WER 1.000")
    assert "evidence: wer 1 at epoch 1, wer 1 at epoch 31" in text
    assert "step " not in text


def test_rates_in_percent_exit_2_with_what_is_wanted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "percent.csv"
    path.write_text("step,val_wer\n" + "".join(f"{100 * at},{82 / at + 10}\n" for at in range(1, 12)))
    assert watch(str(path)) == 2
    message = capsys.readouterr().err
    assert "val_wer" in message and "percent" in message and "fractions" in message
    path.write_text("step,val_wer\n100,4.0\n200,1.9\n300,1.2\n")  # loops make more words than were recited
    assert watch(str(path)) == 0


def test_following_reports_what_is_new_once_and_ends_with_the_run(tmp_path: Path) -> None:
    run = a_run(tmp_path, "trainer.max_steps=1500")
    lines(run, 10, 600, 0.8)
    process = following(run.path)
    assert process.stdout is not None
    text = read_until(process, "wer-falls")
    with run.metrics.open("a") as file:
        file.write('{"step": 610, "spl')  # a line that is being written
    lines(run, 610, 900, 0.8)
    text += read_until(process, "step 900")
    run.rewind_metrics(700, validated=True)  # a resume that went back
    text += read_until(process, "step 700")
    lines(run, 710, 1500, 0.8)
    text += process.communicate(timeout=300)[0]
    assert process.returncode == 0, text
    assert "the run is over: step 1,500 of 1,500" in text
    assert "Traceback" not in text
    assert text.index("the run was rewound to step 700") > text.index("step 900")
    assert text.split("was rewound")[0].count("[wer-falls]") == 1


def test_ctrl_c_ends_following_with_130(tmp_path: Path) -> None:
    run = a_run(tmp_path)
    lines(run, 10, 100, 0.8)
    process = following(run.path)
    read_until(process, "step 100")
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=300) == 130


def following(run: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-u", "-m", "quran_asr", "watch", str(run), "--follow", "--every", "0.2"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def read_until(process: subprocess.Popen[str], word: str) -> str:
    """What it says up to a word; a process that ends instead fails."""
    assert process.stdout is not None
    text, until = "", time.monotonic() + 300
    while word not in text:
        line = process.stdout.readline()
        assert line and time.monotonic() < until, text
        text += line
    return text
