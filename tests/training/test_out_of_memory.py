"""A batch that does not fit into memory: halved, accumulated twice, and nothing lost or trained twice."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from quran_asr.config.recipe import load_recipe
from quran_asr.errors import Finding, QuranAsrError
from quran_asr.experiments.run_folder import RunFolder, create_run
from quran_asr.records import SAMPLE_RATE, Segment
from quran_asr.training.data.batches import Batch
from quran_asr.training.distributed import Ranks
from quran_asr.training.module import TrainingModule
from quran_asr.training.out_of_memory import OomGuard
from quran_asr.training.trainer import train

pytestmark = pytest.mark.slow

SETTINGS = (
    "quran.curriculum=null",
    "model.train_ds.batch_size=4",
    "model.train_ds.batch_duration=null",
    "trainer.max_steps=-1",
    "trainer.max_epochs=2",
    "trainer.check_val_every_n_epoch=1",
    "trainer.val_check_interval=1.0",
)
"""12 clips in three steps of four an epoch."""


class Memory:
    """Fails once with the batch after so many, and from then on with all that are as large."""

    def __init__(self, enough_until: int, seconds: float = math.inf) -> None:
        self.enough_until = enough_until
        self.seconds = seconds
        self.admitted: list[tuple[int, ...]] = []
        self.refused: list[tuple[int, ...]] = []

    def __call__(self, batch: Batch) -> None:
        padded = batch.audio.numel() / SAMPLE_RATE
        if len(self.admitted) == self.enough_until and self.seconds == math.inf:
            self.seconds = 0.9 * padded
        if padded > self.seconds:
            self.refused.append(batch.indices)
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        self.admitted.append(batch.indices)


Run = Callable[..., tuple[RunFolder, list[Finding]]]


@pytest.fixture
def run(spoken: Path, segments: list[Segment], tiny_overrides: tuple[str, ...], tmp_path: Path) -> Run:
    def start(
        *overrides: str, memory: Memory | None = None, resume: RunFolder | None = None
    ) -> tuple[RunFolder, list[Finding]]:
        if resume is None:
            words = [*tiny_overrides, f"model.train_ds.manifest_filepath={spoken}", *SETTINGS, *overrides]
            recipe = load_recipe("quickstart", words)
            folder = create_run(tmp_path, recipe.name)
            folder.write_recipe(recipe)
        else:
            folder, recipe = resume, load_recipe(resume.recipe, overrides)
        findings: list[Finding] = []
        train(
            recipe,
            folder,
            segments,
            segments[:2],
            watcher=lambda progress: None,
            on_finding=findings.append,
            resume=None if resume is None else resume.last_checkpoint(),
            limit=memory,
        )
        return folder, findings

    return start


def rows(run: RunFolder) -> list[tuple[str, int, int]]:
    lines = [json.loads(line) for line in run.metrics.read_text(encoding="utf-8").splitlines()]
    return [(line["split"], line["epoch"], line["step"]) for line in lines]


UNDISTURBED = [
    row
    for epoch in range(2)
    for row in (*(("train", epoch, 3 * epoch + k) for k in (1, 2, 3)), ("validation", epoch, 3 * epoch + 3))
]


@pytest.mark.parametrize("good", [0, 3, 4], ids=["first-batch", "begin-of-epoch", "mid-epoch"])
def test_a_training_continues_with_half_the_batch_and_the_same_steps(run: Run, good: int) -> None:
    memory = Memory(good)
    folder, findings = run(memory=memory)
    assert [one.code for one in findings if one.severity == "warning"] == ["out-of-memory"]
    message = next(one.message for one in findings if one.code == "out-of-memory")
    assert "model.train_ds.batch_size=2 trainer.accumulate_grad_batches=2" in message
    assert f"after step {good}:" in message and "effective batch of 4 is kept" in message
    assert rows(folder) == UNDISTURBED
    assert Counter(i for batch in memory.admitted for i in batch) == dict.fromkeys(range(12), 2)
    assert {len(batch) for batch in memory.admitted[good:]} == {2}
    now, before = (load_recipe(folder.path / name) for name in ("recipe.yaml", f"recipe-to-step-{good}.yaml"))
    assert (now.model.train_ds.batch_size, now.trainer.accumulate_grad_batches) == (2, 2)
    assert (before.model.train_ds.batch_size, before.trainer.accumulate_grad_batches) == (4, 1)
    if good == 4:
        run("trainer.max_epochs=3", resume=folder)
        assert rows(folder)[len(UNDISTURBED) :][-1] == ("validation", 2, 9)


@pytest.mark.parametrize("where", ["forward", "backward"])
def test_a_window_that_was_begun_begins_again(run: Run, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    """What its first batches had gathered is dropped: they are trained once, in the new window."""
    memory = Memory(5 if where == "forward" else 10_000)
    if where == "backward":
        backward, calls = Tensor.backward, []

        def fails_once(loss: Tensor, *args: Any, **kwargs: Any) -> None:
            calls.append(loss)
            if len(calls) == 6:
                raise torch.OutOfMemoryError("CUDA out of memory.")
            backward(loss, *args, **kwargs)

        monkeypatch.setattr(Tensor, "backward", fails_once)
    folder, _ = run("model.train_ds.batch_size=2", "trainer.accumulate_grad_batches=2", memory=memory)
    assert rows(folder) == UNDISTURBED
    begun = slice(4, 5 if where == "forward" else 6)
    made = memory.admitted[: begun.start] + memory.admitted[begun.stop :]
    assert Counter(i for batch in made for i in batch) == dict.fromkeys(range(12), 2)
    assert set(map(len, made[4:])) == {1}


def test_one_clip_that_is_too_much_is_named(run: Run, segments: list[Segment]) -> None:
    memory = Memory(0, seconds=0.0)
    with pytest.raises(QuranAsrError, match=r"one clip of .* s alone does not fit") as caught:
        run(memory=memory)
    assert [len(batch) for batch in memory.refused] == [4, 2, 1]
    clip = segments[memory.refused[-1][0]]
    assert caught.value.where == clip.audio and f"{clip.duration:.1f} s" in caught.value.what
    assert "model.train_ds.max_duration=" in caught.value.remedy


def test_a_validation_batch_is_halved(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, _ = run("trainer.max_epochs=1")
    encode = TrainingModule.encode

    def small(self: TrainingModule, batch: Batch) -> tuple[Tensor, Tensor]:
        if not self.training and len(batch.indices) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return encode(self, batch)

    monkeypatch.setattr(TrainingModule, "encode", small)
    halves, _ = run("trainer.max_epochs=1")
    measured = [
        next(row for row in one.read_metrics() if row["split"] == "validation") for one in (whole, halves)
    ]
    for key in ("wer", "ctc_wer", "cer", "loss"):
        assert measured[0][key] == pytest.approx(measured[1][key], rel=1e-4), key


def test_among_several_processes_it_ends_with_what_to_do() -> None:
    with (
        pytest.raises(QuranAsrError, match="does not fit into memory") as refused,
        OomGuard(Ranks(0, 2)),
    ):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
    assert "--fit-memory" in refused.value.remedy
