"""No run is ever lost: killed at any moment, with a full disk or a torn line, it goes on."""

from __future__ import annotations

import json
import os
import random
import resource
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from quran_asr.config.recipe import load_recipe
from quran_asr.errors import QuranAsrError
from quran_asr.experiments.run_folder import RunFolder, create_run
from quran_asr.records import Segment
from quran_asr.training.checkpoints import checkpoint_facts, read_checkpoint
from quran_asr.training.trainer import train

pytestmark = pytest.mark.slow

STEPS, STEPS_OF_ONE_STOP = 210, 56
"""Of a run that is killed twenty times, and of one that is stopped once."""
OVERRIDES = (
    "trainer.accumulate_grad_batches=2",
    "model.train_ds.batch_size=1",
    "trainer.check_val_every_n_epoch=null",
    "trainer.val_check_interval=14",
    "quran.checkpoint_minutes=0.001",
    "quran.curriculum=null",
    "exp_manager.checkpoint_callback_params.save_top_k=2",
)


@pytest.fixture
def new_run(
    spoken: Path, tiny_overrides: tuple[str, ...], tmp_path: Path, request: pytest.FixtureRequest
) -> RunFolder:
    """A run that has not begun, of as many steps as the parameter says."""
    steps = f"trainer.max_steps={request.param}"
    words = [*tiny_overrides, f"model.train_ds.manifest_filepath={spoken}", *OVERRIDES, steps]
    recipe = load_recipe("quickstart", words)
    folder = create_run(tmp_path, recipe.name)
    folder.write_recipe(recipe)
    return folder


def go_on(run: RunFolder, segments: list[Segment]) -> None:
    """What `train --resume` does with a run, from its last checkpoint or from the beginning."""
    last = run.last_checkpoint()
    facts = None if last is None else checkpoint_facts(last)
    run.rewind_metrics(facts.step if facts else 0, validated=facts is not None and facts.validated)
    train(
        load_recipe(run.recipe),
        run,
        segments,
        segments[:2],
        watcher=lambda progress: None,
        on_finding=lambda finding: None,
        resume=last,
    )


def in_a_child(work: Callable[[], object]) -> int:
    """Do it in a process that can be killed; NeMo is loaded there already. Its number."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        work()
        code = 0
    except QuranAsrError:
        code = 2
    except OSError:
        code = 3
    finally:
        os._exit(code)


def ended(child: int, seconds: float) -> int | None:
    """The exit status of a child that ends by itself in time."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.001)
    return None


def kill(child: int) -> None:
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)


def lines(run: RunFolder) -> list[dict[str, object]]:
    return [json.loads(line) for line in run.metrics.read_text(encoding="utf-8").splitlines()]


def check_complete(run: RunFolder, steps: int) -> None:
    rows = lines(run)
    assert [row["step"] for row in rows if row["split"] == "train"] == list(range(1, steps + 1))
    validated = [row["step"] for row in rows if row["split"] == "validation"]
    assert validated == list(range(7, steps + 1, 7)), "every 14 batches are 7 steps"
    kept = sorted(path.name for path in run.checkpoints.iterdir())
    assert len([name for name in kept if name.endswith(".nemo")]) == 1, kept
    assert len([name for name in kept if "val_wer" in name and name.endswith(".ckpt")]) == 2, kept
    assert [name for name in kept if name.startswith(".")] == [], "leftovers of a killed writer"
    for path in run.checkpoints.glob("*.ckpt"):
        read_checkpoint(path)


@pytest.mark.parametrize("new_run", [STEPS], indirect=True)
def test_twenty_kills_at_random_moments_lose_nothing(new_run: RunFolder, segments: list[Segment]) -> None:
    moments = random.Random(10)
    kills, reached = 0, 0
    while kills < 20:
        child = in_a_child(lambda: go_on(new_run, segments))
        if kills % 4 == 3:  # while a checkpoint is being written
            until = time.monotonic() + 120
            while time.monotonic() < until and not list(new_run.checkpoints.glob(".quran-asr-*")):
                pass
            finished = ended(child, 0.0)
        else:
            finished = ended(child, moments.uniform(0.3, 1.5))
        if finished is not None:
            pytest.fail(f"it ended by itself with {finished} before the last kill")
        kill(child)
        kills += 1
        last = new_run.last_checkpoint()
        if last is not None:
            step = checkpoint_facts(last).step  # readable, whole
            assert step >= reached, "what was complete is never lost"
            reached = step
    assert kills == 20, "the run ended too soon"
    assert ended(in_a_child(lambda: go_on(new_run, segments)), 600) == 0
    check_complete(new_run, STEPS)


@pytest.mark.parametrize("new_run", [STEPS_OF_ONE_STOP], indirect=True)
def test_a_full_disk_ends_the_run_and_leaves_it_whole(new_run: RunFolder, segments: list[Segment]) -> None:
    def until_it_is_full() -> None:
        last, limited = new_run.checkpoints / "last.ckpt", []

        def watch(progress: object) -> None:
            if last.exists() and not limited:
                limited.append(True)
                size = last.stat().st_size // 2
                resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

        recipe = load_recipe(new_run.recipe)
        train(recipe, new_run, segments, segments[:2], watcher=watch, on_finding=lambda finding: None)

    assert ended(in_a_child(until_it_is_full), 600) not in (0, None)
    step = checkpoint_facts(new_run.checkpoints / "last.ckpt").step
    assert 0 < step < STEPS_OF_ONE_STOP
    assert ended(in_a_child(lambda: go_on(new_run, segments)), 600) == 0
    check_complete(new_run, STEPS_OF_ONE_STOP)


@pytest.mark.parametrize("new_run", [STEPS_OF_ONE_STOP], indirect=True)
def test_a_torn_last_line_is_written_anew(new_run: RunFolder, segments: list[Segment]) -> None:
    child = in_a_child(lambda: go_on(new_run, segments))
    while not (new_run.metrics.is_file() and len(new_run.read_metrics()) > 20):
        assert ended(child, 0.01) is None
    kill(child)
    whole = new_run.metrics.read_bytes()
    new_run.metrics.write_bytes(whole + b'{"step": 21, "split": "tr')
    assert ended(in_a_child(lambda: go_on(new_run, segments)), 600) == 0
    check_complete(new_run, STEPS_OF_ONE_STOP)
