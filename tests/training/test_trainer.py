"""Training itself, with a real tiny model on real speech."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from quran_asr.config.recipe import load_recipe
from quran_asr.config.schema import Recipe
from quran_asr.errors import Finding, QuranAsrError
from quran_asr.evaluation.edit_distance import total
from quran_asr.evaluation.transcripts import read_transcripts
from quran_asr.experiments.run_folder import RunFolder, create_run, open_run
from quran_asr.records import Segment
from quran_asr.training.data.batches import Batch, ClipSet, collate, tokenize
from quran_asr.training.model import build_model
from quran_asr.training.module import TrainingModule
from quran_asr.training.recognizer import load_recognizer
from quran_asr.training.tokenizer import Tokenizer
from quran_asr.training.trainer import Trained, train

Go = Callable[..., tuple[Trained, list[Finding]]]


@pytest.fixture
def go(spoken: Path, segments: list[Segment], tiny_overrides: tuple[str, ...], tmp_path: Path) -> Go:
    """Train the tiny recipe with overrides."""

    def run(*overrides: str, clips: list[Segment] | None = None) -> tuple[Trained, list[Finding]]:
        recipe = load_recipe(
            "quickstart",
            [
                *tiny_overrides,
                f"model.train_ds.manifest_filepath={spoken}",
                "trainer.max_steps=6",
                "trainer.val_check_interval=3",
                *overrides,
            ],
        )
        folder = create_run(tmp_path, recipe.name)
        folder.write_recipe(recipe)
        findings: list[Finding] = []
        ended = train(
            recipe,
            folder,
            clips or segments,
            segments[:4],
            watcher=lambda progress: None,
            on_finding=findings.append,
        )
        return ended, findings

    return run


TRAIN_KEYS = {
    "step", "epoch", "time", "split", "loss", "transducer_loss", "ctc_loss", "learning_rate",
    "gradient_norm",
    "audio_seconds", "padding_share", "data_wait_share", "step_seconds", "peak_memory_bytes",
    "skipped_batches", "audio_hours_per_hour", "utilisation",
}  # fmt: skip
VALIDATION_KEYS = {
    "step", "epoch", "time", "split", "wer", "ctc_wer", "cer", "loss", "train_wer", "blank_share",
    "repeat_share", "length_ratio",
}  # fmt: skip


@pytest.mark.slow
def test_a_run_folder_holds_what_is_promised(go: Go, segments: list[Segment]) -> None:
    ended, _ = go()
    run = ended.run
    assert ended.steps == 6
    assert not ended.interrupted

    rows = run.read_metrics()
    training = [row for row in rows if row["split"] == "train"]
    validation = [row for row in rows if row["split"] == "validation"]
    assert [row["step"] for row in training] == [1, 2, 3, 4, 5, 6]
    assert [row["step"] for row in validation] == [3, 6]
    assert training[0].keys() >= TRAIN_KEYS
    assert validation[0].keys() >= VALIDATION_KEYS
    assert training[0]["epoch"] == 0
    assert sorted(row["time"] for row in rows) == [row["time"] for row in rows]
    rates = [row["learning_rate"] for row in training]
    assert rates == sorted(rates), "warming up"

    names = sorted(path.name for path in run.checkpoints.iterdir())
    best = min(row["wer"] for row in validation)
    assert f"quickstart--val_wer={best:.4f}.nemo" in names
    assert sum(name.endswith(".nemo") for name in names) == 1
    assert "last.ckpt" in names
    assert any(re.fullmatch(r"quickstart--val_wer=\d\.\d{4}-epoch=\d+.*\.ckpt", name) for name in names)
    assert not [name for name in names if name.startswith(".")]
    for name in ("recipe.yaml", "environment.json", "training_data.json", "tokenizer/tokenizer.model"):
        assert (run.path / name).is_file(), name
    transcripts = read_transcripts(run.transcripts)
    assert [clip.segment.audio for clip in transcripts] == [segment.audio for segment in segments[:4]]
    # tokens that are no letters are errors in the one and fall out of the other
    assert total(clip.words for clip in transcripts).rate == pytest.approx(best, rel=0.1), (
        "of the best validation"
    )
    data = json.loads((run.path / "training_data.json").read_text())
    assert data["verses"] == ["112:1", "112:2", "112:3", "112:4"]
    assert data["reciters"] == ["espeak", "espeak-f2", "espeak-m1"]
    assert list(run.path.glob("events.out.tfevents.*"))
    assert load_recipe(run.recipe) == load_recipe(run.path / "recipe.yaml")


@pytest.mark.slow
def test_event_files_carry_nemos_tags(go: Go) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    ended, _ = go()
    events = EventAccumulator(str(ended.run.path))
    events.Reload()
    tags = set(events.Tags()["scalars"])
    assert {"train_loss", "learning_rate", "val_wer", "val_wer_ctc", "training_batch_wer"} <= tags


@pytest.mark.slow
def test_the_guides_one_liner_finds_the_best_model(go: Go, tmp_path: Path) -> None:
    ended, _ = go()
    code = (
        f"import re, glob; print(min(glob.glob(r'{tmp_path}/quickstart/*/checkpoints/*.nemo'), "
        "key=lambda p: float(re.search(r'val_wer=([\\d.]+)', p.rsplit('.', 1)[0]).group(1))))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == str(ended.run.best_nemo())


@pytest.mark.slow
def test_a_clip_that_breaks_is_named_once_and_training_continues(go: Go, segments: list[Segment]) -> None:
    broken = replace(segments[0], audio="/nowhere/112001.mp3")
    ended, findings = go(clips=[broken, *segments[1:]])
    assert ended.steps == 6
    named = [finding for finding in findings if finding.code == "unreadable-clip"]
    assert [finding.where for finding in named] == ["/nowhere/112001.mp3"]


def module_of(tiny: Recipe, tokenizer: Tokenizer, segments: list[Segment], clips: int = 4) -> TrainingModule:
    torch.manual_seed(0)
    chosen = ClipSet(tokenize(segments[:clips], tokenizer), cache_bytes=1 << 30)
    return TrainingModule(build_model(tiny, tokenizer.folder), tiny, chosen, chosen, lambda finding: None)


def batch_of(module: TrainingModule, *indices: int) -> Batch:
    return collate([module.training_clips[i] for i in indices])


@pytest.mark.slow
def test_a_batch_with_nan_is_skipped_and_the_accumulated_rest_survives(
    go: Go, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Batch 1 of the window has a gradient, batch 2 is NaN: the step must be made with batch 1's gradient."""
    whole = TrainingModule.losses
    calls = 0

    def losses(self: TrainingModule, *given: Any, **asked: Any) -> object:
        nonlocal calls
        found = whole(self, *given, **asked)
        if self.training:
            calls += 1
            if calls % 2 == 0:
                found = found._replace(ctc=found.ctc * float("nan"))
        return found

    norms: list[float] = []
    before = TrainingModule.on_before_optimizer_step

    def note(self: TrainingModule, optimizer: torch.optim.Optimizer) -> None:
        norms.append(sum(float(p.grad.norm()) for p in self.model.parameters() if p.grad is not None))
        before(self, optimizer)

    monkeypatch.setattr(TrainingModule, "losses", losses)
    monkeypatch.setattr(TrainingModule, "on_before_optimizer_step", note)
    ended, _ = go(
        "trainer.accumulate_grad_batches=2",
        "trainer.max_steps=3",
        "model.train_ds.batch_size=2",
        "quran.curriculum.first_seconds=20",  # all 12 clips: three windows of two batches
    )
    rows = [row for row in ended.run.read_metrics() if row["split"] == "train"]
    assert rows[-1]["skipped_batches"] == 3
    assert len(norms) == 3
    assert all(0 < norm < 1e6 for norm in norms)


@pytest.mark.slow
def test_gradients_that_are_not_finite_give_way_to_the_accumulated_ones(
    tiny: Recipe, tokenizer: Tokenizer, segments: list[Segment]
) -> None:
    recipe = replace(tiny, trainer=replace(tiny.trainer, accumulate_grad_batches=2))
    module = module_of(recipe, tokenizer, segments)
    parameters = list(module.model.parameters())
    for parameter in parameters:
        parameter.grad = torch.ones_like(parameter)
    module.on_train_batch_start(batch_of(module, 0), 1)
    parameters[3].grad = torch.full_like(parameters[3], float("inf"))
    module.on_after_backward()
    assert module.skipped_batches == 1
    assert all(torch.equal(p.grad, torch.ones_like(p)) for p in parameters if p.grad is not None)
    assert all(p.grad is not None for p in parameters)


@pytest.mark.slow
def test_nothing_but_nan_stops_with_a_diagnosis(go: Go, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = TrainingModule.losses

    def losses(self: TrainingModule, *given: Any, **asked: Any) -> object:
        found = whole(self, *given, **asked)
        return found._replace(ctc=found.ctc * float("nan"))

    monkeypatch.setattr(TrainingModule, "losses", losses)
    with pytest.raises(QuranAsrError, match="5 batches in a row were skipped") as stopped:
        go("quran.max_skipped_batches=5", "trainer.max_steps=50")
    assert "model.optim.lr" in stopped.value.remedy


@pytest.mark.slow
def test_clips_that_can_none_be_read_are_one_error(go: Go, segments: list[Segment]) -> None:
    nowhere = [replace(segment, audio=f"/nowhere/{i}.mp3") for i, segment in enumerate(segments)]
    with pytest.raises(QuranAsrError, match="none of 12 training clips can be read"):
        go(clips=nowhere)


@pytest.mark.slow
def test_a_stalled_start_is_reported_once_while_it_trains(go: Go, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rule is tested in tests/experiments/test_diagnostics.py; here its thousand steps are four."""
    from quran_asr.experiments.diagnostics import not_learning

    monkeypatch.setattr(not_learning, "STALL_CHECKED_FROM", 1)
    monkeypatch.setattr(not_learning, "STALL_CHECKED_AT", 4)
    monkeypatch.setattr(not_learning, "STALL_FALL", 0.9)
    monkeypatch.setattr(not_learning, "_SPAN", 1)
    _, findings = go("trainer.max_steps=9")
    (stalled,) = [finding for finding in findings if finding.code == "stalled-start"]
    assert stalled.severity == "error"
    assert "quran.seed" in stalled.remedy


@pytest.mark.slow
def test_a_diagnosis_of_stop_on_ends_the_training_and_resume_continues(
    spoken: Path, tiny_overrides: tuple[str, ...], in_process: Callable[..., Any], tmp_path: Path
) -> None:
    """A rate at which nothing can be learned; the sign comes at a validation, after 20 lines of training."""
    wild = ["model.optim.lr=1.0", "model.optim.sched.warmup_steps=60", "trainer.gradient_clip_val=0"]
    ended = in_process(
        *("train", "quickstart", "--train", spoken, "--validation", spoken, *tiny_overrides, *wild),
        *(f"exp_manager.exp_dir={tmp_path}", "trainer.max_steps=400", "--json"),
        *("trainer.val_check_interval=30", "quran.stop_on=[divergence,not-a-number]"),
    )
    assert ended.code == 1, ended.err
    result = json.loads(ended.out)
    assert result["stopped_by"] in ("divergence", "not-a-number")
    assert not result["interrupted"]
    assert 20 <= result["steps"] < 400
    assert f"error [{result['stopped_by']}]" in ended.err
    run = open_run(result["run"])
    assert run.last_checkpoint() is not None
    assert max(row["step"] for row in run.read_metrics()) == result["steps"]
    watched = in_process("watch", run.path, "--json")
    assert watched.code == 1
    assert result["stopped_by"] in [diagnosis["code"] for diagnosis in json.loads(watched.out)["diagnostics"]]

    go_on = in_process("train", "--resume", run.path, f"trainer.max_steps={result['steps'] + 40}")
    assert go_on.code == 0, go_on.err  # the sign that it was resumed with does not end it again
    assert max(row["step"] for row in run.read_metrics()) == result["steps"] + 40


@pytest.mark.slow
def test_loss_and_weights_follow_from_the_seed(go: Go) -> None:
    first, _ = go("trainer.max_steps=3")
    second, _ = go("trainer.max_steps=3")
    third, _ = go("trainer.max_steps=3", "quran.seed=1")
    losses = [
        [row["loss"] for row in ended.run.read_metrics() if row["split"] == "train"]
        for ended in (first, second, third)
    ]
    assert losses[0] == losses[1]
    assert losses[0] != losses[2]


@pytest.mark.slow
def test_ctrl_c_leaves_a_run_that_resume_continues(
    spoken: Path, tiny_overrides: tuple[str, ...], in_process: Callable[..., Any], tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "quran_asr"]
    overrides = [*tiny_overrides, f"exp_manager.exp_dir={tmp_path}", "trainer.val_check_interval=1000"]
    begin = [*command, "train", "quickstart", "--train", str(spoken), "--validation", str(spoken)]
    process = subprocess.Popen(
        [*begin, *overrides, "trainer.max_steps=100000"], stderr=subprocess.PIPE, text=True
    )
    run = wait_for_steps(tmp_path, process, 5)
    process.send_signal(signal.SIGINT)
    _, message = process.communicate(timeout=300)
    assert process.returncode == 130, message
    assert f"--resume {run.path}" in message
    assert "Traceback" not in message
    reached = max(row["step"] for row in run.read_metrics())

    go_on = in_process("train", "--resume", run.path, f"trainer.max_steps={reached + 4}")
    assert go_on.code == 0, go_on.err
    raw = [json.loads(line) for line in run.metrics.read_text().splitlines()]
    steps = [row["step"] for row in raw if row["split"] == "train"]
    assert steps == list(range(1, reached + 5)), "no step is doubled or missing"


def wait_for_steps(place: Path, process: subprocess.Popen[str], steps: int) -> RunFolder:
    until = time.monotonic() + 600
    while time.monotonic() < until:
        assert process.poll() is None, process.stderr.read() if process.stderr else ""
        for folder in place.glob("quickstart/*/"):
            if (folder / "recipe.yaml").is_file():
                run = open_run(folder)
                if len(run.read_metrics()) >= steps:
                    return run
        time.sleep(0.2)
    raise AssertionError(f"no {steps} steps in ten minutes")


@pytest.mark.slow
def test_a_checkpoint_gives_the_words_of_its_nemo(go: Go, segments: list[Segment]) -> None:
    ended, _ = go()
    best = ended.run.best_nemo()
    checkpoint = ended.run.best_checkpoint()
    assert best is not None
    assert checkpoint is not None
    answers = [
        [answer.text for answer in load_recognizer(path).recognize_clips(segments[:3])]  # type: ignore[union-attr]
        for path in (best, checkpoint, ended.run.path)
    ]
    assert answers[0] == answers[1] == answers[2]
