"""`check_val_every_n_epoch: auto`: the first epoch, every k-th and the last, and the same after a stop."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from quran_asr.config.recipe import load_recipe
from quran_asr.errors import Finding
from quran_asr.experiments.run_folder import RunFolder, create_run
from quran_asr.records import Segment
from quran_asr.training import validation_interval
from quran_asr.training.metrics import Progress
from quran_asr.training.trainer import train

pytestmark = pytest.mark.slow

AUTO = (
    "quran.curriculum=null",
    "model.train_ds.batch_size=6",
    "model.train_ds.batch_duration=null",
    "trainer.max_steps=-1",
    "trainer.max_epochs=7",
    "trainer.val_check_interval=1.0",
    "trainer.check_val_every_n_epoch=auto",
)
"""Seven epochs of two steps."""


def validated(run: RunFolder) -> list[int]:
    return [row["epoch"] for row in run.read_metrics() if row["split"] == "validation"]


def test_some_epochs_go_without_and_a_resumed_run_keeps_to_it(
    spoken: Path,
    segments: list[Segment],
    tiny_overrides: tuple[str, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    measured: list[tuple[float, float, float | None]] = []

    def fixed(validation: float, epoch: float, epochs: float | None) -> int:
        measured.append((validation, epoch, epochs))
        return 4 if len(measured) == 1 else 3

    monkeypatch.setattr(validation_interval, "epochs_between", fixed)
    recipe = load_recipe("quickstart", [*tiny_overrides, *AUTO, f"model.train_ds.manifest_filepath={spoken}"])
    run = create_run(tmp_path, recipe.name)
    run.write_recipe(recipe)
    findings: list[Finding] = []

    def go(stop_at: int, resume: Path | None) -> None:
        def watch(progress: Progress) -> None:
            if progress.step == stop_at and progress.row and progress.row["split"] == "train":
                os.kill(os.getpid(), signal.SIGTERM)

        train(recipe, run, segments, segments[:1], watcher=watch, on_finding=findings.append, resume=resume)

    go(5, None)
    assert validated(run) == [0]
    go(-1, run.last_checkpoint())
    assert validated(run) == [0, 4, 6]
    assert [finding.code for finding in findings].count("validation-interval") == 1, (
        "3 after 4 changes nothing"
    )
    assert "validating every 4 epochs, and in the last" in next(
        f.message for f in findings if "epochs" in f.message
    )
    assert all(validation > 0 < epoch and epochs == 7 for validation, epoch, epochs in measured)
