"""A sweep around trainings that are played by `stand_in.py`: what is made, ended, resumed and reported."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from quran_asr.config.recipe import load_recipe
from quran_asr.errors import Finding, QuranAsrError
from quran_asr.experiments import trials
from quran_asr.experiments.planning.plan import plan
from quran_asr.experiments.sweep.results import Result, result_of
from quran_asr.experiments.sweep.search import Sweep, log_of, open_study, run_sweep, trial_folder
from quran_asr.experiments.sweep.space import read_space
from quran_asr.experiments.trials import Trial, last_line

pytest.importorskip("optuna")

STAND_IN = Path(__file__).with_name("stand_in.py")
CTC = "model.aux_ctc.ctc_loss_weight"
OPTUNA_IS_SLOW_TO_LOAD = """
import json, sys
from pathlib import Path
from quran_asr.experiments import trials
from quran_asr.experiments.sweep.search import Sweep, run_sweep
from quran_asr.experiments.sweep.space import read_space
trials.TRAIN = (sys.executable, sys.argv[1])
fixed, axes = read_space(json.loads(sys.argv[3]))
run_sweep(Sweep("small", fixed, axes, 20, 0, False, 5), Path(sys.argv[2]), lambda *_: None, print)
"""


@pytest.fixture(autouse=True)
def played(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(trials, "TRAIN", (sys.executable, str(STAND_IN)))
    monkeypatch.setattr(trials, "LOOK_SECONDS", 0.01)
    monkeypatch.setenv("STAND_IN_LOG", str(tmp_path / "commands"))


def asked(*words: str, trials: int = 20, seed: int = 0, prune: bool = False) -> Sweep:
    fixed, axes = read_space(words)
    return Sweep("small", fixed, axes, trials, seed, prune, 5)


def made(sweep: Sweep, folder: Path) -> Result:
    run_sweep(sweep, folder, lambda *_: None, pytest.fail)
    return result_of(sweep, folder)


def commands(place: Path) -> list[list[str]]:
    return [json.loads(line) for line in (place / "commands").read_text().splitlines()]


@pytest.mark.slow
def test_a_grid_is_made_once_and_the_best_recipe_is_one_that_trains(tmp_path: Path) -> None:
    sweep, folder = (
        asked(f"{CTC}=0.2,0.5", "model.spec_augment.time_masks=2,5", "quran.seed=3"),
        tmp_path / "s",
    )
    result = made(sweep, folder)
    assert [row.state for row in result.rows] == ["finished"] * 4
    assert [row.wer for row in result.rows] == pytest.approx([0.4, 0.4, 0.7, 0.7])
    assert sorted(tuple(row.values.values()) for row in result.rows) == [
        ("0.2", "2"), ("0.2", "5"), ("0.5", "2"), ("0.5", "5"),
    ]  # fmt: skip
    assert result.importance is None
    assert "4 finished trials for 2 keys, and 8 are wanted" in result.importance_note
    assert made(sweep, folder) == result
    assert len(commands(tmp_path)) == 4, "the second call made nothing again"

    best, run = result.best, Trial(trial_folder(folder, result.rows[0].number)).run()
    assert best is not None and run is not None and result.best_recipe is not None
    written, trained = load_recipe(result.best_recipe), load_recipe(run.recipe)
    assert written == replace(trained, exp_manager=written.exp_manager)
    assert (written.model.aux_ctc.ctc_loss_weight, written.quran.seed) == (0.2, 3)
    assert result.best_recipe.read_text().count("\nbase: small\n") == 1
    assert plan(written).name == written.name


@pytest.mark.slow
def test_differences_have_intervals_of_the_same_clips(tmp_path: Path) -> None:
    """With a weight over 0.3 the stand-in adds a word to each clip, of 4, 2 and 4 words: 12 in 40."""
    result = made(asked(f"{CTC}=0.2,0.3,0.5"), tmp_path / "s")
    best, same, other = result.rows
    assert (best.interval, best.minus_best) == ((0.0, 0.0), None)
    assert same.minus_best == pytest.approx(0.1)
    assert same.minus_best_interval == (0.0, 0.0)
    assert other.interval is not None and other.interval[0] < 12 / 40 < other.interval[1]
    assert other.minus_best_interval == other.interval
    assert "2 reciters" in result.interval_method
    assert (result.importance, result.importance_note[:7]) == (None, "one key")


@pytest.mark.slow
def test_importance_finds_the_key_that_matters(tmp_path: Path) -> None:
    many = made(asked(f"{CTC}=0.1,0.2,0.3,0.4", "model.spec_augment.time_masks=2,5"), tmp_path / "many")
    assert many.importance is not None
    assert many.importance[CTC] == max(many.importance.values()) > 0.9


@pytest.mark.slow
@pytest.mark.alone  # a trial of seconds, which must be ended before it ends by itself
def test_a_hopeless_trial_is_ended_properly_and_cannot_win(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STAND_IN_SECONDS", "0.3")
    result = made(asked(f"{CTC}=0.1,0.2,0.3,0.9", prune=True), tmp_path / "s")
    *finished, hopeless = result.rows
    assert [row.state for row in finished] == ["finished"] * 3
    assert (hopeless.state, hopeless.number) == ("pruned", 3)
    assert hopeless.steps is not None and hopeless.steps < 5
    ended = json.loads((trial_folder(tmp_path / "s", 3) / "ended.json").read_text())
    assert ended["interrupted"], "it was asked to end, and had the time to do so"
    assert made(asked(f"{CTC}=0.1,0.2,0.3,0.9", prune=True), tmp_path / "s") == result
    assert len(commands(tmp_path)) == 4


def wait_until(so: Callable[[], object], seconds: float = 120) -> None:
    until = time.monotonic() + seconds
    while not so():
        assert time.monotonic() < until, "it took too long"
        time.sleep(0.02)


@pytest.mark.slow
@pytest.mark.alone
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT], ids=["killed", "interrupted"])
def test_a_sweep_that_was_stopped_continues_and_counts_no_trial_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: signal.Signals
) -> None:
    """A killed one leaves its training alive: the next call ends that first, and then resumes its run."""
    folder, words = tmp_path / "s", [f"{CTC}=0.1,0.2,0.3"]
    monkeypatch.setenv("STAND_IN_SECONDS", "0.4")
    process = subprocess.Popen(
        [sys.executable, "-c", OPTUNA_IS_SLOW_TO_LOAD, str(STAND_IN), str(folder), json.dumps(words)],
        stderr=subprocess.PIPE,
    )
    metrics = (folder / "trials" / "0001").glob
    wait_until(lambda: any(len(path.read_text().splitlines()) > 1 for path in metrics("*/*/metrics.jsonl")))
    if how == signal.SIGKILL:
        with pytest.raises(QuranAsrError, match="another call works in this folder"):
            made(asked(*words), folder)
    process.send_signal(how)
    process.wait()
    child = json.loads((folder / "trials" / "0001" / "process").read_text())["pid"]
    if how == signal.SIGKILL:
        os.kill(child, 0)  # still there
    result = made(asked(*words), folder)
    assert sorted(row.number for row in result.rows) == [0, 1, 2]
    assert [row.state for row in result.rows] == ["finished"] * 3
    run = Trial(trial_folder(folder, 1)).run()
    assert run is not None
    assert [row["step"] for row in run.read_metrics()] == [1, 2, 3, 4, 5]
    begun = commands(tmp_path)
    assert len(begun) == 4 and begun[2] == ["--resume", str(run.path)]
    with pytest.raises(ProcessLookupError):
        os.kill(child, 0)


@pytest.mark.slow
def test_what_is_sampled_follows_from_the_seed_even_through_a_stop(tmp_path: Path) -> None:
    words = [f"{CTC}=0.1..0.9", "model.optim.lr=1e-5..1e-2:log", "model.spec_augment.time_masks=0..12"]
    whole = made(asked(*words, trials=6), tmp_path / "whole")
    made(asked(*words, trials=3), tmp_path / "parts")
    parts = made(asked(*words, trials=6), tmp_path / "parts")
    other = made(asked(*words, trials=3, seed=1), tmp_path / "other")

    def values(result: Result) -> list[tuple[object, ...]]:
        return [tuple(row.values.values()) for row in sorted(result.rows, key=lambda row: row.number)]

    assert values(whole) == values(parts)
    assert values(whole)[:3] != values(other)
    assert all(1e-5 <= float(lr) <= 1e-2 and isinstance(masks, int) for _, lr, masks in values(whole))  # type: ignore[arg-type]


@pytest.mark.slow
def test_more_combinations_than_trials_are_sampled_and_none_twice(tmp_path: Path) -> None:
    words = [f"{CTC}=0.1,0.2,0.3", "model.spec_augment.time_masks=1,2"]
    assert not asked(*words, trials=5).is_grid
    result = made(asked(*words, trials=5), tmp_path / "s")
    values = [tuple(row.values.values()) for row in result.rows]
    assert len(set(values)) == len(values) == 5
    grown = made(asked(*words, trials=6), tmp_path / "s")  # now they fit: the missing one is made
    assert len({tuple(row.values.values()) for row in grown.rows}) == len(grown.rows) == 6


def test_a_folder_takes_one_sweep_only(tmp_path: Path) -> None:
    made(asked(f"{CTC}=0.1,0.2"), tmp_path / "s")
    with pytest.raises(QuranAsrError, match="holds another sweep: `keys` is another"):
        made(asked(f"{CTC}=0.1,0.3"), tmp_path / "s")
    with pytest.raises(QuranAsrError, match=r"model.optim.lr: 0.001 -> 0.5"):
        made(asked(f"{CTC}=0.1,0.2", "model.optim.lr=0.5"), tmp_path / "s")


def test_while_a_trial_trains_its_log_can_be_read(tmp_path: Path) -> None:
    waited: list[int] = []
    sweep = asked(f"{CTC}=0.1,0.2")
    run_sweep(sweep, tmp_path / "s", lambda *_: None, pytest.fail, waited.append)
    assert set(waited) == {0, 1}
    assert log_of(tmp_path / "s", 0).is_file()
    (tmp_path / "log").write_text("a\nstep 3 of 9\n\nstep 4 o")
    assert last_line(tmp_path / "log") == "step 3 of 9"
    assert last_line(tmp_path / "none") == ""


def test_a_folder_of_somebody_elses_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "notes.txt").write_text("mine")
    with pytest.raises(QuranAsrError, match="is not empty, and no sweep"):
        made(asked(f"{CTC}=0.1,0.2"), tmp_path / "s")
    assert [path.name for path in (tmp_path / "s").iterdir()] == ["notes.txt"]


@pytest.mark.slow
def test_a_trial_that_fails_is_reported_and_made_again_by_the_next_call(tmp_path: Path) -> None:
    findings: list[Finding] = []
    sweep, folder = asked(f"{CTC}=0.1,0.95"), tmp_path / "s"
    run_sweep(sweep, folder, lambda *_: None, findings.append)
    assert [finding.code for finding in findings] == ["failed-trial"]
    assert "the sky fell" in findings[0].message
    rows = result_of(sweep, folder).rows
    assert [(row.state, row.note) for row in rows] == [("finished", ""), ("failed", "the sky fell")]
    run_sweep(sweep, folder, lambda *_: None, findings.append)
    assert len(commands(tmp_path)) == 3


def test_a_sweep_whose_first_trial_fails_ends_there(tmp_path: Path) -> None:
    with pytest.raises(QuranAsrError, match="the first trial failed: the sky fell"):
        made(asked(f"{CTC}=0.95,0.1"), tmp_path / "s")
    assert len(commands(tmp_path)) == 1


def test_a_trial_that_was_killed_while_its_values_were_drawn_is_drawn_again(tmp_path: Path) -> None:
    sweep, folder = asked(f"{CTC}=0.1,0.2"), tmp_path / "s"
    folder.mkdir()
    study = open_study(sweep, folder)
    study.enqueue_trial({CTC: "0.1"})
    study.ask()
    assert sorted(str(row.values[CTC]) for row in made(sweep, folder).rows) == ["0.1", "0.2"]


def test_a_torn_journal_is_repaired(tmp_path: Path) -> None:
    result = made(asked(f"{CTC}=0.1,0.2"), tmp_path / "s")
    journal = tmp_path / "s" / "study.journal"
    journal.write_bytes(journal.read_bytes() + b'{"op_code": 6, "wor')
    (tmp_path / "s" / "study.journal.lock").symlink_to("nowhere")
    assert made(asked(f"{CTC}=0.1,0.2"), tmp_path / "s") == result
