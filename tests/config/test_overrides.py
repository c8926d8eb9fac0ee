"""Overrides as in Hydra: what each sign does, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from quran_asr.config.overrides import split_words
from quran_asr.config.recipe import load_recipe, resolve
from quran_asr.errors import QuranAsrError


def refusal(*overrides: str, recipe: str = "transfer") -> str:
    with pytest.raises(QuranAsrError) as caught:
        load_recipe(recipe, overrides)
    return str(caught.value)


def test_the_guides_overrides_for_little_memory_keep_the_effective_batch() -> None:
    recipe = load_recipe(
        "transfer",
        [
            "model.train_ds.batch_size=16",
            "trainer.accumulate_grad_batches=4",
            "model.joint.fused_batch_size=4",
        ],
    )
    assert (recipe.effective_batch, recipe.model.joint.fused_batch_size) == (128, 4)


@pytest.mark.parametrize(
    ("word", "value"),
    [
        ("model.optim.lr=2", 2.0),
        ("++model.optim.lr=1e-3", 1e-3),
        ("model.optim={lr: 3.0}", 3.0),
        ("model.optim={lr:3.0,weight_decay:0.0}", 3.0),  # as Hydra writes mappings
    ],
)
def test_a_value_is_set(word: str, value: float) -> None:
    recipe = load_recipe("transfer", [word])
    assert recipe.model.optim.lr == value
    assert recipe.model.optim.betas == (0.9, 0.98)  # the rest of the section stays


def test_later_overrides_win_and_values_may_contain_equals() -> None:
    recipe = load_recipe(
        "transfer",
        ["quran.seed=1", "quran.seed=2", "exp_manager.resume_from_checkpoint=a/x--val_wer=0.1-epoch=2.ckpt"],
    )
    assert recipe.quran.seed == 2
    assert recipe.exp_manager.resume_from_checkpoint == "a/x--val_wer=0.1-epoch=2.ckpt"


def test_what_may_be_absent_can_be_removed_and_added_again() -> None:
    assert load_recipe("quickstart", ["~quran.curriculum"]).quran.curriculum is None
    assert load_recipe("transfer", ["~init_from_pretrained_model"]).init_from_pretrained_model is None
    whole = "quran.curriculum={first_seconds:1,plateau:0.9,latest_step:3,growth_steps:4,ctc_loss_weight:0.5}"
    curriculum = load_recipe("transfer", [whole]).quran.curriculum
    assert curriculum is not None and curriculum.growth_steps == 4
    with pytest.raises(QuranAsrError, match="has another value"):
        load_recipe("transfer", ["~init_from_pretrained_model=another"])


@pytest.mark.parametrize(
    ("word", "message"),
    [
        (
            "+trainer.devices=1",
            "`trainer.devices` has a value already\nhint: leave out the +: trainer.devices=1",
        ),
        ("+trainer.device=1", "unknown key `trainer.device`\nhint: did you mean `trainer.devices`?"),
        ("trainer.device=1", "unknown key `trainer.device`\nhint: did you mean `trainer.devices`?"),
        ("++trainer.device=1", "unknown key `trainer.device`"),
        ("~trainer.device", "unknown key `trainer.device`"),
        ("~trainer.devices", "`trainer.devices` cannot be removed"),
        ("warmup_steps=1", "hint: did you mean `model.optim.sched.warmup_steps`?"),
        ("model.train_ds.max_duration", "no recipe `model.train_ds.max_duration`"),
        ("model.optim.lr=[1", "is not a YAML value"),
        ("model.optim.lr=", "must be a number"),
        ("=1", "`` is not a key"),
        ("model..lr=1", "`model..lr` is not a key"),
        (
            "quran.curriculum.plateau=3",
            "hint: turn it on as a whole: 'quran.curriculum={first_seconds: ..., ",
        ),
        ("model.optim={lr: 1, rate: 2}", "unknown key `model.optim.rate`"),
        ("model.tokenizer.dir=${oc.env:HOME}", "reads nothing from its surroundings"),
    ],
)
def test_a_wrong_override_is_refused(word: str, message: str) -> None:
    with pytest.raises(QuranAsrError) as caught:
        load_recipe(*split_words([word, *(["transfer"] if "=" in word or "~" in word else [])]))
    assert message in str(caught.value)


def test_wrong_overrides_are_all_named() -> None:
    message = refusal("trainer.device=1", "model.optim.lr=fast", "+quran.seed=1")
    assert message.count("override `") == 3


def test_words_are_parted_into_recipe_and_overrides(tmp_path: Path) -> None:
    assert split_words(["a=1", "small", "~b"]) == ("small", ["a=1", "~b"])
    assert split_words(["a=1"], default="transfer") == ("transfer", ["a=1"])
    odd = tmp_path / "lr=2.yaml"
    odd.write_text("base: base\n")
    assert split_words([str(odd)]) == (str(odd), [])
    with pytest.raises(QuranAsrError, match="two recipes: `small` and `large`"):
        split_words(["small", "large"])
    with pytest.raises(QuranAsrError, match="no recipe is named"):
        split_words([])


def test_an_overridden_key_reports_it() -> None:
    origin = resolve("transfer", ["model.optim={lr: 2.0}", "~init_from_pretrained_model"]).origin
    assert origin["model.optim.lr"] == origin["init_from_pretrained_model"] == "command line"
    assert origin["model.optim.weight_decay"].startswith("base.yaml:")


def test_an_override_may_be_longer_than_the_name_of_a_file() -> None:
    speeds = f"quran.augment.speed=[{','.join(['0.95'] * 100)}]"
    assert split_words(["laptop", speeds]) == ("laptop", [speeds])
    assert len(load_recipe("laptop", [speeds]).quran.augment.speed) == 100


@pytest.mark.parametrize(
    ("recipe", "word"),
    [
        ("laptop", "trainer.max_steps=-1"),
        ("compact", "model.encoder.d_model=101"),
        ("compact", "model.optim.sched.name=CosineAnnealing"),
        ("compact", "model.optim.lr=1e-9"),
        ("compact", "model.train_ds.max_duration=0.1"),
        ("compact", "model.preprocessor.window_size=0.2"),
        ("recommended", "exp_manager.checkpoint_callback_params.save_top_k=2"),
        ("recommended", "~init_from_pretrained_model"),
    ],
)
def test_the_override_that_contradicts_the_recipe_is_named(recipe: str, word: str) -> None:
    assert refusal(word, recipe=recipe).startswith(f"override `{word}`: ")


def test_the_recipe_that_contradicts_its_base_is_named(tmp_path: Path) -> None:
    mine = tmp_path / "mine.yaml"
    mine.write_text("base: compact\nmodel:\n  optim:\n    lr: 1.0e-9\n")
    assert refusal(recipe=str(mine)).startswith(f"recipe `{mine}`, line 4: `model.optim.sched.min_lr`")


@pytest.mark.parametrize("value", ["nan", "inf", "\u0661"])
def test_what_no_quotes_surround_is_not_to_be_written_without_them(value: str) -> None:
    assert "quotes" not in refusal(f"model.optim.lr={value}")
