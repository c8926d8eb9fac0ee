"""A run that was stopped goes on as if it had not been."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch

from quran_asr.config.recipe import load_recipe
from quran_asr.corpus.manifest import read_manifest
from quran_asr.corpus.packing import pack
from quran_asr.errors import Finding, QuranAsrError
from quran_asr.experiments.run_folder import RunFolder, create_run
from quran_asr.records import Segment
from quran_asr.training.checkpoints import checkpoint_facts
from quran_asr.training.data import epoch
from quran_asr.training.metrics import Progress
from quran_asr.training.recognizer import load_recognizer
from quran_asr.training.trainer import train

pytestmark = pytest.mark.slow

ALIVE = (
    "model.encoder.dropout=0.1",
    "model.decoder.prednet.dropout=0.2",
    "model.joint.jointnet.dropout=0.2",
    "model.spec_augment.freq_masks=2",
    "model.spec_augment.time_masks=2",
    "model.preprocessor.dither=1.0e-5",
    "model.train_ds.batch_size=1",
    "trainer.accumulate_grad_batches=2",
    "trainer.max_steps=-1",
    "trainer.max_epochs=3",
    "quran.curriculum=null",
    "quran.augment.gain_db=6.0",
    "quran.augment.speed=[0.9,1.0,1.1]",
    "quran.augment.lowpass_probability=0.5",
    "quran.augment.equalizer_db=6.0",
    "quran.augment.level_db=[-40.0,-10.0]",
    *(
        f"quran.augment.{kind}_probability=0.5"
        for kind in ("noise", "room", "codec", "clip", "silence", "tight")
    ),
    "quran.prefix_resets=0.5",
    "quran.prefix_noise=0.2",
    "quran.weight_average=0.9",
)
"""Everything that draws: dropout, masks, dither, look-aheads (four in `quickstart`), changes of the audio and
of what the prediction network reads; and a mean of the weights, which has to go on too."""

Start = Callable[..., RunFolder]


@pytest.fixture
def start(spoken: Path, segments: list[Segment], tiny_overrides: tuple[str, ...], tmp_path: Path) -> Start:
    return starts_in(tmp_path, spoken, segments, tiny_overrides)


@pytest.fixture(scope="module")
def undisturbed(
    spoken: Path,
    segments: list[Segment],
    tiny_overrides: tuple[str, ...],
    tmp_path_factory: pytest.TempPathFactory,
) -> RunFolder:
    """A run that nobody stopped; nobody writes in it."""
    return starts_in(tmp_path_factory.mktemp("undisturbed"), spoken, segments, tiny_overrides)()


def starts_in(place: Path, spoken: Path, segments: list[Segment], tiny_overrides: tuple[str, ...]) -> Start:
    """Train the tiny recipe, in a new run or in one that is resumed, until it ends or `stop` says so."""

    def run(
        *overrides: str,
        resume: RunFolder | None = None,
        stop: Callable[[Progress], bool] = lambda progress: False,
        findings: list[Finding] | None = None,
        clips: Sequence[Segment] = (),
    ) -> RunFolder:
        def watch(progress: Progress) -> None:
            if stop(progress):
                os.kill(os.getpid(), signal.SIGTERM)

        if resume is None:
            words = [*tiny_overrides, f"model.train_ds.manifest_filepath={spoken}", *ALIVE, *overrides]
            recipe = load_recipe("quickstart", words)
            folder = create_run(place, recipe.name)
            folder.write_recipe(recipe)
        else:
            folder = resume
            recipe = load_recipe(folder.recipe, overrides)
        train(
            recipe,
            folder,
            clips or segments,
            segments[:4],
            watcher=watch,
            on_finding=(findings if findings is not None else []).append,
            resume=None if resume is None else resume.last_checkpoint(),
        )
        return folder

    return run


def at_step(step: int) -> Callable[[Progress], bool]:
    return lambda progress: progress.step == step


def numbers(run: RunFolder) -> list[dict[str, Any]]:
    """What was measured, without what the clock says."""
    clock = {
        *("time", "step_seconds", "data_wait_share", "peak_memory_bytes"),
        *("audio_hours_per_hour", "utilisation"),
    }
    return [{key: value for key, value in row.items() if key not in clock} for row in run.read_metrics()]


def steps(run: RunFolder, split: str = "train") -> list[int]:
    return [row["step"] for row in raw(run) if row["split"] == split]


def raw(run: RunFolder) -> Sequence[dict[str, Any]]:
    """The lines as they stand in the file, repeats and all."""
    import json

    return [json.loads(line) for line in run.metrics.read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("stopped_at", [8, 12, 15], ids=["mid-epoch", "end-of-epoch", "mid-epoch-late"])
def test_the_losses_after_a_stop_are_those_of_the_undisturbed_run(
    start: Start, undisturbed: RunFolder, stopped_at: int
) -> None:
    stopped = start(stop=at_step(stopped_at))
    assert steps(stopped)[-1] == stopped_at
    resumed = start(resume=stopped)
    assert steps(resumed) == list(range(1, 19))
    assert numbers(resumed) == numbers(undisturbed)


def test_a_stop_among_shards_changes_nothing(
    start: Start, spoken: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(epoch, "SHARDS_AT_ONCE", 2)
    with ThreadPoolExecutor(1) as pool:
        report = pack(spoken, tmp_path / "shards", pool, hours_per_shard=5 / 3600)
    assert report.shards > 2
    clips = read_manifest(report.manifest, "letters")
    undisturbed = start(clips=clips)
    resumed = start(resume=start(clips=clips, stop=at_step(8)), clips=clips)
    assert steps(resumed) == list(range(1, 19))
    assert numbers(resumed) == numbers(undisturbed)


def test_logged_means_span_a_stop(start: Start) -> None:
    undisturbed = start("trainer.log_every_n_steps=5")
    resumed = start(resume=start("trainer.log_every_n_steps=5", stop=at_step(13)))
    assert numbers(resumed) == numbers(undisturbed)


def test_a_validation_within_an_accumulation_window_shifts_nothing(start: Start) -> None:
    """Its checkpoint carries the gradients that wait."""
    odd = ("trainer.check_val_every_n_epoch=null", "trainer.val_check_interval=5")
    undisturbed = start(*odd)
    stopped = start(*odd, stop=lambda progress: (progress.row or {}).get("split") == "validation")
    resumed = start(resume=stopped)
    assert numbers(resumed) == numbers(undisturbed)


def test_a_curriculum_keeps_the_plan_of_its_epoch(start: Start) -> None:
    curriculum = (
        "quran.curriculum={first_seconds: 2.0, plateau: 0.9, latest_step: 4, growth_steps: 12, "
        "ctc_loss_weight: 0.7}",
    )
    undisturbed = start(*curriculum)
    resumed = start(resume=start(*curriculum, stop=at_step(9)))
    assert numbers(resumed) == numbers(undisturbed)


def test_more_epochs_extend_a_finished_run(start: Start) -> None:
    whole = start("trainer.max_epochs=4", "model.optim.sched.name=NoamAnnealing")
    extended = start("trainer.max_epochs=2", "model.optim.sched.name=NoamAnnealing")
    assert steps(extended)[-1] == 12
    start("trainer.max_epochs=4", resume=extended)
    assert numbers(extended) == numbers(whole)


def test_another_batch_size_trains_the_rest_of_the_epoch_once(start: Start) -> None:
    stopped = start(stop=at_step(8))
    start("model.train_ds.batch_size=2", resume=stopped)
    rows = raw(stopped)
    # 12 clips: six steps of two an epoch, two of them in epoch 1; its other 8 clips are two steps of four
    assert [row["step"] for row in rows if row["split"] == "train" and row["epoch"] == 1] == [7, 8, 9, 10]
    assert [row["step"] for row in rows if row["split"] == "train" and row["epoch"] == 2] == [11, 12, 13]


def test_clips_that_changed_since_are_reported_and_recorded(
    start: Start, spoken: Path, segments: list[Segment]
) -> None:
    own = spoken.with_name("changing.jsonl")
    lines = spoken.read_text("utf-8").splitlines(keepends=True)
    own.write_text("".join(lines[:8]), "utf-8")
    stopped = start(f"model.train_ds.manifest_filepath={own}", stop=at_step(3), clips=segments[:8])
    unchanged: list[Finding] = []
    start(resume=stopped, stop=at_step(5), clips=segments[:8], findings=unchanged)
    assert "changed-data" not in {finding.code for finding in unchanged}
    own.write_text("".join(lines), "utf-8")
    changed: list[Finding] = []
    start(resume=stopped, stop=at_step(7), findings=changed)
    assert str(own) in next(one.message for one in changed if one.code == "changed-data")
    recorded = stopped.read_json("training_data.json")
    assert [manifest["clips"] for manifest in recorded["manifests"]] == [8, len(lines)]


class Planted:
    def __init__(self, flag: Path) -> None:
        self.flag = flag

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.flag),)


@pytest.mark.parametrize("trusting", [False, True])
def test_a_pickle_planted_in_a_checkpoint_runs_on_no_path(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trusting: bool
) -> None:
    if trusting:  # torch's own switch must not open the door
        monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    run = start("trainer.max_epochs=1")
    last = run.checkpoints / "last.ckpt"
    flag = tmp_path / "it-ran"
    torch.save(torch.load(last, weights_only=True) | {"planted": Planted(flag)}, last)
    for use in (
        lambda: start(resume=run),
        lambda: load_recognizer(last),
        lambda: checkpoint_facts(last),
    ):
        with pytest.raises(QuranAsrError, match="not a readable checkpoint"):
            use()
        assert not flag.exists()
    torch.load(last, weights_only=False)
    assert flag.exists(), "loaded without care it does run: the test can fail"
