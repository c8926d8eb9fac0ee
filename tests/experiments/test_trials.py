"""The runner of trials, around trainings that are played by `stand_in.py`."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path

import pytest

from quran_asr import locks
from quran_asr.errors import QuranAsrError
from quran_asr.experiments import trials
from quran_asr.experiments.comparison import trials as comparison
from quran_asr.experiments.comparison.variants import make_variants
from quran_asr.experiments.trials import Trial, TrialOutcome, run_trials

STAND_IN = Path(__file__).with_name("stand_in.py")
COMPARE = """
import sys
from pathlib import Path
from quran_asr.experiments import trials
from quran_asr.experiments.comparison.trials import Conditions, read_question, run_trials, trials_of
trials.TRAIN = (sys.executable, sys.argv[1])
folder = Path(sys.argv[2])
run_trials(folder, trials_of(folder, read_question(folder)), Conditions())
"""


@pytest.fixture(autouse=True)
def played(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(trials, "TRAIN", (sys.executable, str(STAND_IN)))
    monkeypatch.setattr(trials, "LOOK_SECONDS", 0.01)
    monkeypatch.setenv("STAND_IN_LOG", str(tmp_path / "commands"))


def words(trial: Trial) -> list[str]:
    return [
        "small",
        f"model.aux_ctc.ctc_loss_weight={trial.folder.name}",
        f"exp_manager.exp_dir={trial.folder}",
    ]


def test_trials_train_at_the_same_time(tmp_path: Path) -> None:
    ended: dict[str, TrialOutcome] = {}
    most = 0

    def look(running: Iterable[Trial]) -> None:
        nonlocal most
        most = max(most, len(list(running)))

    three = [Trial(tmp_path / weight) for weight in ("0.1", "0.2", "0.3")]
    run_trials(three, words, lambda t, e: ended.update({t.folder.name: e}), jobs=2, on_look=look)
    assert most == 2
    assert sorted(ended) == ["0.1", "0.2", "0.3"]
    assert all(one.code == 0 and one.result is not None for one in ended.values())
    assert all(trial.done for trial in three)


def test_a_trial_that_stops_the_others_costs_them_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STAND_IN_SECONDS", "10")

    def end(trial: Trial, ended: TrialOutcome) -> None:
        raise QuranAsrError(ended.error)

    good, bad = Trial(tmp_path / "0.1"), Trial(tmp_path / "0.95")

    def begin(trial: Trial) -> list[str]:
        if trial == bad:  # the other has a run by now, and takes signals
            while good.run() is None:
                pass
        return words(trial)

    with pytest.raises(QuranAsrError, match="the sky fell"):
        run_trials([good, bad], begin, end, jobs=2)
    result = good.result()
    assert result is None or result["interrupted"]
    assert not good.done and good.run() is not None
    assert locks.named_process(good.folder / "process") is None, "it has ended"


def test_an_orphan_that_may_be_another_program_is_named_not_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on macOS and Windows, which do not say when a process began."""
    monkeypatch.setattr(locks, "started", lambda pid: None)
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        locks.name_process(tmp_path / "process", process.pid)
        with pytest.raises(QuranAsrError, match=f"process {process.pid}.* is still running"):
            run_trials([Trial(tmp_path)], words, lambda trial, ended: pytest.fail("it ran"))
        assert process.poll() is None
    finally:
        process.kill()
        process.wait()


def lives(pid: int) -> bool:
    """Whether a process runs. An ended one stays as a zombie until whoever adopted it asks for its status."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.slow
def test_a_killed_comparison_is_resumed_where_its_training_got_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The training outlives the comparison: the next call ends it first, and then continues its run."""
    monkeypatch.setenv("STAND_IN_SECONDS", "4")  # the orphan would train for another 16 s
    manifest = tmp_path / "m.jsonl"
    manifest.write_text('{"audio_filepath": "a.flac", "duration": 1.0, "text": "قل"}\n', encoding="utf-8")
    data = [f"model.{key}.manifest_filepath={manifest}" for key in ("train_ds", "validation_ds")]
    folder = tmp_path / "comparison"
    variants = make_variants([["quickstart"], ["quickstart", "model.optim.lr=0.01"]], data)
    question = comparison.Question(tuple(variants), 1)
    comparison.keep_question(folder, question)
    first, second = comparison.trials_of(folder, question)
    parent = subprocess.Popen([sys.executable, "-c", COMPARE, str(STAND_IN), str(folder)])
    try:
        until = time.monotonic() + 300
        while (run := first.run()) is None or not run.read_metrics():
            assert parent.poll() is None and time.monotonic() < until
            time.sleep(0.02)
    finally:
        parent.send_signal(signal.SIGKILL)
        parent.wait()
    orphan = json.loads((first.folder / "process").read_text())["pid"]
    assert lives(orphan)
    monkeypatch.setenv("STAND_IN_SECONDS", "0.02")
    messages: list[str] = []
    assert comparison.run_trials(folder, [first, second], comparison.Conditions(report=messages.append)) == []
    assert messages[0].startswith("quickstart, seed 0: continues")
    assert not lives(orphan)
    assert first.run() == run, "no second one was begun"
    for trial in (first, second):
        ended = trial.run()
        assert ended is not None and [row["step"] for row in ended.read_metrics()] == [1, 2, 3, 4, 5]
    messages.clear()
    assert comparison.run_trials(folder, [first, second], comparison.Conditions(report=messages.append)) == []
    assert messages == [f"2 of 2 trials found in {folder}"]
