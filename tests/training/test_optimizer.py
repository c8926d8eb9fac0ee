"""Tensors that came from a trained start: frozen at first, then at their own rate, exactly through a stop."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from quran_asr.config.recipe import load_recipe
from quran_asr.errors import Finding
from quran_asr.experiments.run_folder import RunFolder, create_run, open_run
from quran_asr.records import Segment
from quran_asr.training.checkpoints import model_weights, read_checkpoint, save_nemo
from quran_asr.training.metrics import Progress
from quran_asr.training.model import build_model
from quran_asr.training.nemo_archive import read_archive, read_weights
from quran_asr.training.optimizer import EMBEDDING, WHOLE
from quran_asr.training.pretrained import Pretrained
from quran_asr.training.tokenizer import train_tokenizer
from quran_asr.training.trainer import Start, train

pytestmark = pytest.mark.slow

STAGED = (
    "quran.curriculum=null",
    "model.encoder.dropout=0.1",
    "model.train_ds.batch_size=2",
    "trainer.accumulate_grad_batches=2",
    "trainer.max_steps=9",
    "trainer.max_epochs=-1",
    "trainer.check_val_every_n_epoch=null",
    "trainer.val_check_interval=6",
    "model.optim.sched={warmup_steps: 2, min_lr: 1.0e-6}",
    "exp_manager.checkpoint_callback_params.save_top_k=9",
    "quran.unfreeze_after=4",
    "quran.copied_rate=0.25",
)
"""Validations, and so checkpoints, at steps 3, 6 and 9; copied tensors move from step 5 on."""


@pytest.fixture(scope="module")
def source(tiny_overrides: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of the same size with other tokens."""
    place = tmp_path_factory.mktemp("source")
    tokens = train_tokenizer("letters", 60, place / "tokenizer")
    recipe = load_recipe("quickstart", [*tiny_overrides, "quran.vocabulary_size=60"])
    torch.manual_seed(7)
    save_nemo(build_model(recipe, tokens.folder), place / "source.nemo")
    return place / "source.nemo"


Go = Callable[..., RunFolder]


@pytest.fixture
def go(
    spoken: Path, segments: list[Segment], tiny_overrides: tuple[str, ...], source: Path, tmp_path: Path
) -> Go:
    return goes_in(tmp_path, spoken, segments, tiny_overrides, source)


@pytest.fixture(scope="module")
def undisturbed(
    spoken: Path,
    segments: list[Segment],
    tiny_overrides: tuple[str, ...],
    source: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> RunFolder:
    """A run that nobody stopped; nobody writes in it."""
    return goes_in(tmp_path_factory.mktemp("undisturbed"), spoken, segments, tiny_overrides, source)()


def goes_in(
    place: Path, spoken: Path, segments: list[Segment], tiny_overrides: tuple[str, ...], source: Path
) -> Go:
    """Train the tiny recipe from the source, in a new run or one that is resumed, to the end or to a step."""

    def run(
        *overrides: str,
        resume: RunFolder | None = None,
        stop_at: int | None = None,
        keep_tokens: bool = False,
        findings: list[Finding] | None = None,
    ) -> RunFolder:
        def watch(progress: Progress) -> None:
            if progress.step == stop_at:
                os.kill(os.getpid(), signal.SIGTERM)

        words = [
            *(*tiny_overrides, *STAGED, *overrides),
            f"model.train_ds.manifest_filepath={spoken}",
            f"init_from_pretrained_model={source}",
        ]
        recipe = load_recipe("quickstart", words) if resume is None else load_recipe(resume.recipe)
        folder = create_run(place, recipe.name) if resume is None else resume
        if resume is None:
            folder.write_recipe(recipe)
        train(
            recipe,
            folder,
            segments,
            segments[:4],
            watcher=watch,
            on_finding=(findings if findings is not None else []).append,
            resume=None if resume is None else resume.last_checkpoint(),
            start=Start(
                Pretrained("source", source, "0" * 64, "file"),
                read_archive(source),
                False,
                keep_tokens,
                lambda table: None,
            )
            if resume is None
            else None,
        )
        return folder

    return run


def rows(run: RunFolder) -> list[dict[str, Any]]:
    return [row for row in run.read_metrics() if row["split"] == "train"]


def weights_at(run: RunFolder) -> dict[int, dict[str, Tensor]]:
    """Step -> the model's weights, of every checkpoint that was kept."""
    found = {}
    for path in run.checkpoints.glob("*.ckpt"):
        weights = {name: tensor.clone() for name, tensor in model_weights(path).items()}
        found[step_of(path)] = weights
    return found


def step_of(checkpoint: Path) -> int:
    return int(read_checkpoint(checkpoint)["global_step"])


def parted(run: RunFolder) -> tuple[set[str], set[str]]:
    """Names of copied and of fresh parameters, by `transfer.json`."""
    tensors = run.read_json("transfer.json")["tensors"]
    came = {tensor["name"] for tensor in tensors if tensor["how"] in WHOLE}
    copied = {name for name in came if name.startswith("encoder.")}
    fresh = {tensor["name"] for tensor in tensors} - copied
    assert copied and {"ctc_decoder.decoder_layers.0.weight", EMBEDDING} <= fresh
    assert "joint.enc.weight" in came & fresh, "it came, and has to learn anew with other tokens"
    return copied, fresh


def test_copied_tensors_stand_still_while_frozen_and_move_after(undisturbed: RunFolder, source: Path) -> None:
    run = undisturbed
    copied, fresh = parted(run)
    before, at = read_weights(read_archive(source)), weights_at(run)
    assert sorted(at) == [3, 6, 9]
    for name in copied:
        assert torch.equal(at[3][name], before[name]), f"{name} moved while it was frozen"
        assert not torch.equal(at[6][name], before[name]), f"{name} did not move afterwards"
    assert all(not torch.equal(at[3][name], at[6][name]) for name in fresh)
    (early,) = (path for path in run.checkpoints.glob("*.ckpt") if step_of(path) == 3)
    moments = read_checkpoint(early)["optimizer_states"][0]["state"]
    assert len(moments) == len(fresh), "frozen tensors have no gradient, not only no rate"

    # 0 until step 4 is made, then up over as many steps as the warm-up has (2), to a quarter of the rate
    shares = [row["copied_learning_rate"] / row["learning_rate"] for row in rows(run)]
    assert shares == pytest.approx([0, 0, 0, 0.25 / 3, 0.5 / 3, 0.25, 0.25, 0.25, 0.25])
    groups = read_checkpoint(run.checkpoints / "last.ckpt")["optimizer_states"][0]["param_groups"]
    assert [len(group["params"]) for group in groups] == [len(fresh), len(copied)]
    assert groups[1]["lr"] == pytest.approx(0.25 * groups[0]["lr"])


def test_the_share_is_that_of_the_steps_themselves(go: Go, source: Path) -> None:
    """AdamW's first step has the length of the rate, whatever the gradient: it can be measured."""
    words = ("quran.unfreeze_after=0", "trainer.max_steps=1", "model.optim.weight_decay=0.0")
    moved = {}
    for share in (1.0, 0.25):
        run = go(*words, f"quran.copied_rate={share}", "trainer.val_check_interval=2")
        copied, _ = parted(run)
        before, (after,) = read_weights(read_archive(source)), weights_at(run).values()
        moved[share] = max(float((after[name] - before[name]).abs().max()) for name in copied)
        assert rows(run)[0]["copied_learning_rate"] == (
            None if share == 1.0 else pytest.approx(share * rows(run)[0]["learning_rate"])
        )
    assert moved[0.25] == pytest.approx(0.25 * moved[1.0], rel=1e-3)


@pytest.mark.parametrize("stopped_at", [2, 4, 7], ids=["frozen", "thawing", "moving"])
def test_a_stop_changes_nothing(go: Go, undisturbed: RunFolder, stopped_at: int) -> None:
    resumed = go(resume=go(stop_at=stopped_at))
    clock = ("time", "step_seconds", "data_wait_share", "peak_memory_bytes", "audio_hours_per_hour")
    outcomes = [
        [{key: value for key, value in row.items() if key not in clock} for row in run.read_metrics()]
        for run in (undisturbed, resumed)
    ]
    assert [row["step"] for row in rows(resumed)] == list(range(1, 10))
    assert outcomes[0] == outcomes[1]
    last = [model_weights(run.checkpoints / "last.ckpt") for run in (undisturbed, resumed)]
    assert all(torch.equal(last[0][name], last[1][name]) for name in last[0])


def test_where_nothing_is_fresh_all_learn_alike_and_that_is_reported(go: Go) -> None:
    findings: list[Finding] = []
    run = go("quran.vocabulary_size=60", "trainer.max_steps=2", keep_tokens=True, findings=findings)
    assert "nothing-fresh" in {finding.code for finding in findings}
    assert [row["copied_learning_rate"] for row in rows(run)] == [None, None]
    assert not torch.equal(weights_at(run)[2]["joint.enc.weight"], torch.zeros(()))


def test_two_processes_freeze_and_unfreeze_as_one_does(
    spoken: Path,
    tiny_overrides: tuple[str, ...],
    source: Path,
    tmp_path: Path,
    in_process: Callable[..., Any],
    quran_asr: Callable[..., Any],
) -> None:
    """DDP is built before anything is frozen, and has to gather the gradients of what thaws."""
    words = [
        *("quickstart", "--train", str(spoken), "--validation", str(spoken), *tiny_overrides, *STAGED),
        *(f"init_from_pretrained_model={source}", f"exp_manager.exp_dir={tmp_path}"),
        *("model.encoder.att_context_size=[[70,13]]", "model.encoder.att_context_probs=null"),
        *("model.encoder.dropout=0.0", "model.decoder.prednet.dropout=0.0"),
        *("model.joint.jointnet.dropout=0.0", "model.preprocessor.dither=0.0", "trainer.accelerator=cpu"),
        *("model.train_ds.batch_duration=null", "model.loss.warprnnt_numba_kwargs.fastemit_lambda=0.0"),
        "trainer.max_steps=7",
    ]
    runs = []
    for alone in (True, False):
        parts = ("trainer.devices=1",) if alone else ("trainer.devices=2", "trainer.val_check_interval=3")
        command = in_process if alone else quran_asr
        accumulate = f"trainer.accumulate_grad_batches={2 if alone else 1}"
        done = command("train", *words, *parts, accumulate, "--no-preflight", "--json")
        assert done.code == 0, done.err
        runs.append(open_run(json.loads(done.out)["run"]))
    one, two = map(rows, runs)
    assert [row["step"] for row in one] == [row["step"] for row in two] == list(range(1, 8))
    for a, b in zip(one, two, strict=True):
        for key in ("loss", "gradient_norm", "copied_learning_rate"):
            assert a[key] == pytest.approx(b[key], rel=2e-3), (a["step"], key)
    assert one[5]["copied_learning_rate"] > 0


def test_a_training_ends_with_the_average_that_its_recipe_wants(go: Go) -> None:
    findings: list[Finding] = []
    run = go("quran.average=3", findings=findings)
    average = run.read_json("average.json")
    assert (average["step"], len(average["averaged"])) == (9, 3)
    assert [finding.code for finding in findings].count("average") == 1
    kept = [path for path in run.checkpoints.glob("*.nemo") if "-average=3" in path.name]
    assert average["kept"] == bool(kept) == (average["average"]["wer"] < average["best"]["wer"])
    assert len(list(run.checkpoints.glob("*.nemo"))) == 1
