"""The plan: the guide's figures, other data and devices, and each cause of the guide's failure."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quran_asr.config.recipe import load_recipe
from quran_asr.experiments.planning.plan import Plan, divide_batch, plan
from quran_asr.experiments.planning.starting_point import PUBLISHED
from quran_asr.experiments.planning.timing import MeasuredSeconds
from quran_asr.experiments.planning.workload import Workload, weigh
from quran_asr.training.data.epoch import Stage, stage_batches

TRANSFER = load_recipe("transfer")
GUIDE = Workload(67_399, 56.0)


def planned(name: str, *overrides: str, work: Workload | None = GUIDE, devices: int | None = None) -> Plan:
    return plan(load_recipe(name, overrides), work, devices)


def codes(of: Plan) -> dict[str, str]:
    return {finding.code: finding.severity for finding in of.findings}


def test_the_guides_case() -> None:
    of = planned("transfer", devices=2)
    assert (of.batches_per_epoch, of.optimizer_steps_per_epoch, of.optimizer_steps) == (1054, 527, 52_700)
    assert (of.effective_batch, of.parameters, of.clips, of.hours) == (128, 114_752_514, 67_399, 56.0)
    assert of.peak_learning_rate == pytest.approx(1.5 * 512**-0.5 * 3000**-0.5, rel=1e-9)
    assert of.peak_learning_rate == pytest.approx(1.21e-3, rel=5e-3)
    assert of.warmup_epochs == 5.69
    notes = {"offline-into-streaming": "note", "short-clips-masked": "note"}
    assert codes(of) == notes, "the guide's start is an offline model, and its clips are short"


def test_the_guides_seventeen_hours() -> None:
    measured = MeasuredSeconds(batch_seconds=0.5, validation_seconds=60.0)
    of = plan(TRANSFER, GUIDE, 2, given=measured)
    assert (of.epoch_seconds, of.validations) == (527.0, 100)
    assert of.total_seconds == 100 * (1054 * 0.5 + 60)
    assert of.total_seconds / 3600 == pytest.approx(16.3, abs=0.01)
    of = plan(load_recipe("transfer", ["trainer.check_val_every_n_epoch=auto"]), GUIDE, 2, given=measured)
    assert of.validations == 21, "one in five epochs, and the last: 60 s x 21 are 2.4 % of 100 x 527 s"


def test_validations_are_counted_as_the_trainer_makes_them() -> None:
    def validations(*overrides: str) -> int | None:
        return planned("transfer", *overrides).validations

    assert validations("trainer.val_check_interval=0.25") == 400
    assert validations("trainer.val_check_interval=500") == 200, "two in each epoch of 1,054 batches"
    assert validations("trainer.check_val_every_n_epoch=4") == 25
    across = ("trainer.check_val_every_n_epoch=null", "trainer.val_check_interval=1000")
    assert validations(*across) == 105


def test_each_cause_of_the_failed_configuration_is_named_with_its_remedy() -> None:
    of = planned("before")
    assert set(codes(of)) == {
        "random-start",
        "few-steps",
        "high-learning-rate",
        "long-warmup",
        "small-batch",
        "full-precision",
        "short-clips-masked",
    }
    by_code = {finding.code: finding for finding in of.findings}
    assert "`scratch`" in by_code["random-start"].remedy
    assert "2.21e-03" in by_code["high-learning-rate"].message
    assert by_code["few-steps"].remedy == "trainer.max_epochs=200", "a step of 32 clips is worth a quarter"


def test_the_remedies_help() -> None:
    mended = planned(
        "before",
        "init_from_pretrained_model=stt_en_fastconformer_transducer_large",
        "trainer.max_epochs=100",
        "model.optim.lr=1.5",
        "model.optim.sched.warmup_steps=3000",
        "model.train_ds.batch_size=32",
        "trainer.accumulate_grad_batches=2",
        "trainer.precision=bf16-mixed",
    )
    assert set(codes(mended)) == {"offline-into-streaming", "short-clips-masked"}
    streaming = "init_from_pretrained_model=stt_en_fastconformer_hybrid_large_streaming_multi"
    assert planned("transfer", streaming, "model.spec_augment.time_masks=2").findings == ()
    assert mended.optimizer_steps == planned("transfer").optimizer_steps


def test_a_random_start_on_purpose_is_a_note() -> None:
    slow = Workload(20_000, 100.0)
    assert codes(planned("scratch", work=slow)) == {"random-start": "note", "few-steps": "warning"}
    assert codes(planned("scratch")) == {"random-start": "note", "short-clips-masked": "note"}
    [note] = [finding for finding in planned("scratch").findings if finding.code == "random-start"]
    assert "`scratch`" not in note.remedy, "it is that recipe"
    assert codes(planned("small", work=slow)) == codes(planned("quickstart")) == {}


@pytest.mark.parametrize(
    ("devices", "remedy"),
    [
        (1, "trainer.devices=1 trainer.accumulate_grad_batches=4 keeps it"),
        (4, "trainer.devices=4 trainer.accumulate_grad_batches=1 keeps it"),
        (8, "trainer.devices=8 trainer.accumulate_grad_batches=1 model.train_ds.batch_size=16 keeps it"),
        (
            3,
            "trainer.devices=3 trainer.accumulate_grad_batches=2 model.train_ds.batch_size=21 "
            "comes nearest, with 126",
        ),
    ],
)
def test_another_number_of_gpus_keeps_the_effective_batch(devices: int, remedy: str) -> None:
    findings = planned("transfer", devices=devices).findings
    assert [finding.remedy for finding in findings if finding.code == "other-devices"] == [remedy]


@given(devices=st.integers(1, 128), batch=st.integers(1, 64), accumulation=st.integers(1, 8))
def test_the_named_accumulation_never_needs_more_memory(devices: int, batch: int, accumulation: int) -> None:
    wanted = 2 * batch * accumulation
    times, clips = divide_batch(wanted, batch, devices)
    assert 1 <= clips <= batch and times >= 1
    # Off by half of what the GPUs take at once, at most; never off at all where the clips can be dealt out.
    assert abs(times * clips * devices - wanted) <= max(devices, clips * devices / 2)


def test_steps_are_counted_by_whichever_limit_comes_first() -> None:
    assert planned("transfer", "trainer.max_steps=1000").optimizer_steps == 1000
    assert planned("transfer", "trainer.max_steps=90000").optimizer_steps == 52_700
    only_steps = planned("transfer", "trainer.max_steps=1054", "trainer.max_epochs=-1")
    assert (only_steps.optimizer_steps, only_steps.epochs) == (1054, 2.0)


def test_without_data_the_rest_is_still_reported() -> None:
    of = planned("transfer", work=None)
    assert (of.clips, of.batches_per_epoch, of.optimizer_steps) == (None, None, None)
    assert (of.effective_batch, of.parameters) == (128, 114_752_514)
    assert of.peak_learning_rate == pytest.approx(1.21e-3, rel=5e-3)


def test_batches_by_seconds_are_filled_by_seconds() -> None:
    recipe = load_recipe("laptop")  # 24 s, at most 16 clips
    assert plan(recipe, weigh([6.0] * 40, recipe)).batches_per_epoch == 10  # 4 of 6 s
    assert plan(recipe, weigh([0.5] * 40, recipe)).batches_per_epoch == 3  # 16 at most
    assert plan(recipe, Workload(40, 40 * 6.0 / 3600)).batches_per_epoch == 10
    mixed = plan(recipe, weigh([6.0] * 40, recipe))
    assert mixed.effective_batch == 4


@pytest.mark.slow
@settings(max_examples=40, deadline=None)
@given(
    durations=st.lists(st.floats(0.5, 39.0), min_size=1, max_size=400),
    batch=st.integers(1, 40),
    devices=st.integers(1, 5),
)
def test_an_epoch_has_the_batches_that_training_makes(
    durations: list[float], batch: int, devices: int
) -> None:
    def made(seconds: float | None) -> int:
        return len(stage_batches(durations, [Stage(0, batch, seconds, None, devices)], 0, 0))

    model, train_ds = TRANSFER.model, TRANSFER.model.train_ds
    fixed = replace(TRANSFER, model=replace(model, train_ds=replace(train_ds, batch_size=batch)))
    assert plan(fixed, weigh(durations, fixed), devices).batches_per_epoch == made(None)
    by_seconds = replace(
        fixed, model=replace(fixed.model, train_ds=replace(fixed.model.train_ds, batch_duration=60.0))
    )
    planned_batches = plan(by_seconds, weigh(durations, by_seconds), devices).batches_per_epoch
    assert planned_batches is not None
    # lengths are blurred before sorting, differently in each epoch
    assert abs(planned_batches - made(60.0)) <= 2 + 0.15 * made(60.0)


def test_what_the_limits_leave_out_is_weighed_in_hours() -> None:
    recipe = load_recipe("transfer")
    work = weigh([3600.0, 10.0, 20.0, 0.01], recipe)
    assert (work.clips, work.left_out_clips) == (2, 2)
    assert work.hours == pytest.approx(30 / 3600)
    assert work.left_out_hours == pytest.approx(1.0, abs=1e-4)
    left_out = [f for f in plan(recipe, work).findings if f.code == "left-out-clips"]
    assert "2 clips with 1.00 h" in left_out[0].message


def test_a_warmup_longer_than_the_training_is_reported() -> None:
    of = planned("transfer", work=Workload(500, 1.0))
    assert "never reaches its peak" in next(f.message for f in of.findings if f.code == "long-warmup")
    assert of.peak_learning_rate is not None and of.peak_learning_rate < 1e-3


def test_a_set_that_the_limits_empty_is_planned_as_nothing() -> None:
    recipe = load_recipe("transfer")
    of = plan(recipe, weigh([100.0], recipe))
    assert of.optimizer_steps == 0
    assert codes(of)["left-out-clips"] == "error"


def test_what_each_published_start_brings_by_the_map() -> None:
    brought = {arrival.name: arrival for arrival in planned("transfer").pretrained}
    assert next(iter(brought)) == "stt_en_fastconformer_transducer_large", "the recipe's own comes first"
    assert len(brought) == 3
    offline, streaming = (
        brought["stt_en_fastconformer_transducer_large"],
        brought["stt_en_fastconformer_hybrid_large_streaming_multi"],
    )
    assert (offline.streams, streaming.streams) == (False, True)
    assert streaming.encoder_share == 1.0
    # 17 norms of 2 x 512 and one of 11 bins of 256 x 512 stay behind
    lost = 17 * 2 * 512 + 256 * 512
    assert offline.encoder_share == round(1 - lost / 108_893_184, 4)
    arabic = brought["stt_ar_fastconformer_hybrid_large_pcd_v1.0"]
    assert (arabic.language, arabic.streams) == ("Arabic", False)
    assert (arabic.encoder_share, arabic.share) == (offline.encoder_share, offline.share) == (0.9986, 0.9827)
    assert planned("scratch").pretrained == ()
    unknown = planned("transfer", "init_from_pretrained_model=somebody/else").pretrained[0]
    assert (unknown.name, unknown.encoder_share) == ("somebody/else", None)


def test_an_encoder_of_another_size_is_an_error() -> None:
    of = planned("large", "init_from_pretrained_model=stt_en_fastconformer_hybrid_large_streaming_multi")
    assert codes(of)["too-little-arrives"] == "error"


@pytest.mark.parametrize("name", PUBLISHED)
@pytest.mark.parametrize("recipe", ["large", "small"])
def test_every_published_start_is_too_small_for_large_and_too_large_for_small(recipe: str, name: str) -> None:
    of = planned(recipe, f"init_from_pretrained_model=nvidia/{name}")
    assert codes(of)["too-little-arrives"] == "error" and "offline-into-streaming" not in codes(of)
    share = of.pretrained[0].encoder_share
    assert share is not None and share < 0.06


@pytest.mark.parametrize("name", ["models/mine.nemo", "someone/else", "nemo_experiments/small/2026-11-24"])
def test_of_other_starts_nothing_is_claimed(name: str) -> None:
    of = planned("transfer", f"init_from_pretrained_model={name}")
    assert set(codes(of)) == {"short-clips-masked"}
    assert (of.pretrained[0].encoder_share, of.pretrained[0].share) == (None, None)
    assert [arrival.name for arrival in of.pretrained[1:]] == list(PUBLISHED)


def test_a_larger_batch_sees_as_many_clips_in_fewer_steps() -> None:
    work = Workload(200_000, 500.0)
    of = plan(load_recipe("large"), work, 8)
    assert of.optimizer_steps is not None and of.optimizer_steps < 200 * 527
    assert of.optimizer_steps * of.effective_batch > 200 * 527 * 128
    assert "few-steps" not in codes(of)


def test_a_training_that_ends_before_its_first_validation_is_noted() -> None:
    short = planned("quickstart", "trainer.max_steps=5")
    assert short.validations == 0
    (finding,) = [one for one in short.findings if one.code == "no-validation"]
    assert "ends after 5 steps" in finding.message and finding.severity == "warning"
    assert "no-validation" not in {one.code for one in planned("quickstart").findings}


def test_recordings_longer_than_clips_may_be_are_an_error() -> None:
    surahs = planned("compact", work=Workload(clips=114, hours=60.0))
    (finding,) = [one for one in surahs.findings if one.code == "left-out-clips"]
    assert finding.severity == "error" and "1,895 s" in finding.message
