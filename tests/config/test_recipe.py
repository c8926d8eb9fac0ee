"""Recipes: what the shipped ones hold, how files and bases are laid over each other, and what is refused."""

from __future__ import annotations

import string
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from quran_asr.config.recipe import SHIPPED, RecipeError, as_plain, as_yaml, load_recipe, resolve
from quran_asr.config.schema import Augment
from quran_asr.config.validation import known_keys
from quran_asr.errors import QuranAsrError

BASE = load_recipe("base")


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The place of a recipe of one's own, in the working folder."""
    monkeypatch.chdir(tmp_path)
    return Path("mine.yaml")


def refusal(name: str | Path, *overrides: str) -> str:
    with pytest.raises(QuranAsrError) as caught:
        load_recipe(name, overrides)
    return str(caught.value)


def test_transfer_is_the_guides_optimized_configuration() -> None:
    recipe = load_recipe("transfer")
    model, trainer = recipe.model, recipe.trainer
    assert recipe.name == "FastConformer-Hybrid-Transducer-CTC-BPE-Streaming"
    assert recipe.init_from_pretrained_model == "stt_en_fastconformer_transducer_large"
    assert (trainer.max_epochs, trainer.devices, trainer.accumulate_grad_batches) == (100, 2, 2)
    assert (model.train_ds.batch_size, recipe.effective_batch) == (32, 128)
    assert (trainer.precision, trainer.gradient_clip_val) == ("bf16-mixed", 1.0)
    assert (model.optim.name, model.optim.lr) == ("adamw", 1.5)
    assert (model.optim.sched.name, model.optim.sched.warmup_steps) == ("NoamAnnealing", 3000)
    assert recipe.exp_manager.checkpoint_callback_params.save_top_k == 10
    assert model.loss.warprnnt_numba_kwargs.fastemit_lambda == 0.001
    assert (model.aux_ctc.ctc_loss_weight, model.joint.fused_batch_size) == (0.3, 8)
    assert (model.encoder.n_layers, model.encoder.d_model) == (17, 512)
    assert model.encoder.att_context_size == ((70, 13), (70, 6), (70, 1), (70, 0))
    assert model.train_ds.max_duration == 40.0
    assert (recipe.quran.spelling, recipe.quran.vocabulary_size) == ("diacritized", 1024)


def test_the_other_recipes_differ_in_their_keys_alone() -> None:
    before, large, low = load_recipe("before"), load_recipe("large"), load_recipe("low-memory")
    assert (before.init_from_pretrained_model, before.trainer.max_epochs) == (None, 10)
    assert (before.model.optim.lr, before.model.optim.sched.warmup_steps) == (5.0, 10_000)
    assert (before.effective_batch, before.trainer.precision) == (32, 32)
    assert (large.model.encoder.n_layers, large.model.encoder.d_model) == (24, 768)
    assert large.init_from_pretrained_model is None
    assert (low.model.train_ds.batch_size, low.trainer.accumulate_grad_batches) == (16, 4)
    assert low.model.joint.fused_batch_size == 4
    assert low.effective_batch == load_recipe("transfer").effective_batch == 128
    assert load_recipe("scratch").trainer.max_epochs == 200
    assert load_recipe("scratch").name == load_recipe("transfer").name
    assert load_recipe("quickstart").quran.curriculum is not None
    assert load_recipe("laptop").model.optim.sched.hold_ratio == 0.6


def test_recommended_keeps_the_guides_model_and_trains_it_gently() -> None:
    ours, guide = load_recipe("recommended"), load_recipe("transfer")
    for part in ("encoder", "decoder", "joint", "preprocessor", "tokenizer", "train_ds", "aux_ctc", "loss"):
        assert getattr(ours.model, part) == getattr(guide.model, part), part
    assert ours.effective_batch == guide.effective_batch and ours.name == guide.name
    assert ours.model.train_ds.max_duration == 40.0
    assert ours.init_from_pretrained_model == "stt_en_fastconformer_hybrid_large_streaming_multi"
    optim, sched, steps = ours.model.optim, ours.model.optim.sched, ours.trainer.max_steps
    assert sched.name == "CosineAnnealing"
    share = ours.quran.copied_rate
    assert (optim.lr * share, sched.min_lr * share) == pytest.approx((1e-4, 5e-6)), "what was learned"
    assert 0.01 <= sched.warmup_steps / steps <= 0.02 and ours.trainer.max_epochs == -1
    assert ours.quran.unfreeze_after > 0 and ours.quran.copied_rate < 1 and ours.quran.average >= 2


def test_a_number_of_batches_counts_across_epochs_by_default() -> None:
    def every(*words: str) -> object:
        return load_recipe("small", words).trainer.check_val_every_n_epoch

    assert every() == "auto"
    assert every("trainer.val_check_interval=0.5") == "auto"
    assert every("trainer.val_check_interval=150") is None
    assert every("trainer.val_check_interval=150", "trainer.check_val_every_n_epoch=2") == 2


def test_the_small_variants_of_the_experiment_have_the_same_settings() -> None:
    examples = Path(__file__).parents[2] / "examples"
    ours, guides = (load_recipe(examples / f"small-{name}.yaml") for name in ("recommended", "transfer"))
    large = load_recipe("recommended")
    assert ours.quran.average == large.quran.average and ours.quran.copied_rate < 1
    shares = [
        (recipe.quran.unfreeze_after / steps, recipe.model.optim.sched.warmup_steps / steps)
        for recipe, steps in ((ours, ours.trainer.max_steps), (large, large.trainer.max_steps))
    ]
    assert shares[0] == pytest.approx(shares[1])
    assert ours.model.encoder == guides.model.encoder == load_recipe("quickstart").model.encoder
    assert ours.trainer == guides.trainer


@pytest.mark.parametrize(
    ("name", "override", "message"),
    [
        ("base", "quran.unfreeze_after=5", "a random start copies nothing"),
        ("base", "quran.copied_rate=0.5", "a random start copies nothing"),
        ("recommended", "init_from_pretrained_model=null", "a random start copies nothing"),
        ("transfer", "quran.copied_rate=0", "must be above 0"),
        ("transfer", "quran.average=1", "of one is not a mean"),
        ("transfer", "quran.average=11", "`save_top_k` keeps 10"),
    ],
)
def test_keys_of_the_start_that_would_have_no_effect_are_refused(
    name: str, override: str, message: str
) -> None:
    assert message in refusal(name, override)
    load_recipe("base", ["quran.copied_rate=0.5", "exp_manager.resume_from_checkpoint=best.nemo"])


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_recipe_opens_with_its_command_and_resolves_completely(name: str) -> None:
    resolved = resolve(name)
    path = Path(resolve.__code__.co_filename).parent.parent / "recipes" / f"{name}.yaml"
    opening = path.read_text(encoding="utf-8").split("\nbase:")[0]
    assert opening.startswith("# ") and "#   quran-asr " in opening
    leaves = {
        key for key, kind in known_keys().items() if not any(k.startswith(f"{key}.") for k in known_keys())
    }
    missing = leaves - set(resolved.origin)
    assert all(key.startswith("quran.curriculum.") for key in missing)
    files = {origin.rpartition(":")[0] for origin in resolved.origin.values()}
    assert "base.yaml" in files and files <= {f"{shipped}.yaml" for shipped in SHIPPED}


def test_an_overlay_of_the_package_holds_only_what_differs_from_its_base() -> None:
    for name in SHIPPED[1:]:
        path = Path(resolve.__code__.co_filename).parent.parent / "recipes" / f"{name}.yaml"
        under = resolve(yaml.safe_load(path.read_text(encoding="utf-8"))["base"])
        over = resolve(name)
        flat_under, flat_over = flat(as_plain(under.recipe)), flat(as_plain(over.recipe))
        for key, origin in over.origin.items():
            # A curriculum is written whole: half of one says nothing.
            if origin.startswith(f"{name}.yaml:") and ".curriculum." not in key:
                assert flat_over[key] != flat_under.get(key, "off"), f"{name} repeats {key}"


def flat(values: dict[str, object], prefix: str = "") -> dict[str, object]:
    found: dict[str, object] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            found |= flat(value, f"{prefix}{key}.")
        else:
            found[prefix + key] = value
    return found


def test_the_origin_of_a_value_is_the_line_that_wrote_it(mine: Path) -> None:
    mine.write_text("# mine\nbase: transfer\nmodel:\n  optim:\n    lr: 2.0\n")
    resolved = resolve("mine.yaml", ["trainer.max_epochs=5"])
    assert resolved.recipe.model.optim.lr == 2.0
    assert resolved.origin["model.optim.lr"] == "mine.yaml:5"
    assert resolved.origin["trainer.max_epochs"] == "command line"
    assert resolved.origin["init_from_pretrained_model"].startswith("transfer.yaml:")


def test_a_base_is_found_beside_the_recipe_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes/a.yaml").write_text("base: b.yaml\nname: a\n")
    (tmp_path / "recipes/b.yaml").write_text("base: small\nname: b\ntrainer: {max_epochs: 7}\n")
    recipe = load_recipe(tmp_path / "recipes/a.yaml")
    assert (recipe.name, recipe.trainer.max_epochs, recipe.model.encoder.d_model) == ("a", 7, 256)


def test_an_unknown_key_is_refused_as_promised(mine: Path) -> None:
    mine.write_text("base: base\n" + "#\n" * 9 + "model:\n  optim:\n    sched:\n      warmup_step: 3\n")
    assert refusal(mine) == (
        "recipe `mine.yaml`, line 14: unknown key `model.optim.sched.warmup_step`\n"
        "hint: did you mean `model.optim.sched.warmup_steps`?"
    )


def test_all_mistakes_are_named_at_once(mine: Path) -> None:
    mine.write_text(
        "base: base\ntrainer:\n  max_epoch: 3\n  devices: two\nmodel:\n  train_ds:\n    shuffle: true\n"
    )
    with pytest.raises(RecipeError) as caught:
        load_recipe(mine, ["model.optim.lr=-1"])
    text = str(caught.value)
    assert len(caught.value.mistakes) == text.count("\nerror: ") + 1 == 4
    for message in (
        "line 3: unknown key `trainer.max_epoch`\nhint: did you mean `trainer.max_epochs`?",
        "line 4: `trainer.devices` must be a whole number, not `two`",
        "line 7: `model.train_ds.shuffle` is NeMo's, but nothing here acts on it\nhint: training batches are",
        "override `model.optim.lr=-1`: `model.optim.lr` must be above 0, not -1",
    ):
        assert message in text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("trainer:\n  devices: 1\n  devices: 2\n", "line 4: key `devices` is set here and in line 3"),
        ("trainer: [1\n", "mine.yaml`, line 3"),
        ("model: &m\n  sample_rate: 16000\n", "anchors (&, *) are not used"),
        ("model: 5\n", "`model` is a section with the keys sample_rate, train_ds"),
        ("model:\n", "line 2: `model` must not be empty"),
        ("model:\n  optim:\n    lr: {a: 1}\n", "`model.optim.lr` holds one value, not a section"),
        ("model:\n  optim:\n    lr: true\n", "must be a number, not true"),
        ("model:\n  optim:\n    lr: '1.5'\n", "must be a number, not `1.5`\nhint: write it without quotes"),
        ("model:\n  optim:\n    betas: [0.9]\n", "must be a list of 2, not [0.9]"),
        ("model:\n  optim:\n    betas: [0.9, 1.2]\n", "must be at most 1, not 1.2"),
        ("model:\n  optim:\n    lr: .nan\n", "must be a number, not `.nan`"),
        ("trainer:\n  devices: 1.0\n", "must be a whole number, not 1.0"),
        ("trainer:\n  devices: 0\n", "must be at least 1, not 0"),
        ("trainer:\n  precision: 16-mixed\n", "hint: trainer.precision=bf16-mixed"),
        ("trainer:\n  val_check_interval: 1.5\n", "must be at most 1, not 1.5"),
        ("trainer:\n  val_check_interval: often\n", "must be a whole number or a number, not `often`"),
        ("model:\n  encoder:\n    subsampling_factor: 3\n", "must be 2, 4, 8 or 16, not 3"),
        ("quran:\n  spelling: letter\n", "hint: did you mean `letters`?"),
        ("quran:\n  curriculum: {plateau: 4}\n", "`quran.curriculum` lacks `first_seconds`"),
        ("model:\n  optim:\n    lr: !!python/object:os.system 1\n", "the tag"),
        ("model:\n  optim: [{lr: 1}]\n", "a mapping inside a list"),
        ("name: ${oc.env:HOME}\n", "`${oc.env:HOME}` is not allowed"),
        ("name: ${model.nothing}\n", "`${model.nothing}` refers to nothing"),
        ("name: ${name}\n", "`${name}` refers to itself"),
        ("name: ${model.optim}\n", "refers to nothing"),
        ("name: a/b\n", "cannot name files"),
        ("model:\n  encoder:\n    n_heads: 7\n", "7 does not divide d_model 512"),
        ("model:\n  encoder:\n    att_context_size: [[70, 12]]\n", "70 is not a multiple of 12 + 1"),
        ("model:\n  encoder:\n    att_context_size: [[-1, 13]]\n", "no unlimited context"),
        ("model:\n  encoder:\n    att_context_probs: [0.5, 0.5]\n", "must be 4 shares that sum to 1"),
        ("model:\n  train_ds:\n    min_duration: 50\n", "not below max_duration 40"),
        (
            "quran: {consistency: 0.2}\nmodel:\n  spec_augment: {freq_masks: 0, time_masks: 0}\n",
            "both views are the same",
        ),
        ("model:\n  optim:\n    sched: {hold_ratio: 0.5}\n", "but the schedule is NoamAnnealing"),
        ("model:\n  optim:\n    sched: {min_lr: 2.0}\n", "above `model.optim.lr`"),
        ("trainer: {max_epochs: -1}\n", "training would never end"),
        ("trainer: {max_epochs: 0}\n", "nothing would be trained"),
    ],
)
def test_a_bad_value_is_refused_with_its_place(mine: Path, text: str, expected: str) -> None:
    mine.write_text(f"base: base\n{text}")
    message = refusal(mine)
    assert expected in message
    assert "recipe `mine.yaml`, line" in message
    assert "Traceback" not in message


def test_a_file_without_base_must_have_every_key(mine: Path) -> None:
    mine.write_text("name: alone\n")
    message = refusal(mine)
    assert "98 keys have no value" in message or "keys have no value: `init_from_pretrained_model`" in message
    assert "begin the file with `base: base`" in message


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("transfr", "no recipe `transfr`\nhint: did you mean `transfer`?"),
        ("nowhere/at-all.yaml", "no recipe `nowhere/at-all.yaml`"),
        (".", "is a folder"),
    ],
)
def test_a_recipe_that_is_not_there_is_named(mine: Path, name: str, message: str) -> None:
    assert message in refusal(name)


def test_bases_in_a_circle_and_broken_bytes_are_refused(mine: Path) -> None:
    mine.write_text("base: other.yaml\n")
    Path("other.yaml").write_text("base: mine.yaml\n")
    assert "is its own base" in refusal(mine)
    mine.write_bytes(b"base: \xff\xfe\n")
    assert "is not UTF-8 text" in refusal(mine)
    mine.write_text("base: [base]\n")
    assert "`base` names one recipe" in refusal(mine)
    mine.write_text("base: bse\n")
    assert "mine.yaml`, line 1: no recipe `bse`\nhint: did you mean `base`?" in refusal(mine)


def test_numbers_are_read_as_everybody_means_them(mine: Path) -> None:
    mine.write_text(
        "base: base\nname: 2024\nmodel:\n  optim: {lr: 1e-3, sched: {min_lr: 0, warmup_steps: 1_000}}\n"
    )
    recipe = load_recipe(mine)
    assert recipe.name == "2024"
    assert (recipe.model.optim.lr, recipe.model.optim.sched.min_lr) == (1e-3, 0.0)
    assert isinstance(recipe.model.optim.sched.min_lr, float)
    assert recipe.model.optim.sched.warmup_steps == 1000


def test_a_reference_keeps_the_type_of_what_it_names(mine: Path) -> None:
    mine.write_text(
        "base: base\nname: run-${quran.spelling}-${quran.vocabulary_size}\n"
        "model:\n  decoder:\n    prednet:\n      pred_hidden: ${model.joint.jointnet.joint_hidden}\n"
    )
    recipe = load_recipe(mine, ["model.joint.jointnet.joint_hidden=320"])
    assert recipe.name == "run-diacritized-1024"
    assert recipe.model.decoder.prednet.pred_hidden == 320


def test_one_look_ahead_may_be_written_as_in_nemo() -> None:
    recipe = load_recipe("base", ["model.encoder.att_context_size=[70,13]"])
    assert recipe.model.encoder.att_context_size == ((70, 13),)


def test_manifests_are_a_tuple_however_they_are_written() -> None:
    def of(word: str) -> tuple[str, ...]:
        return load_recipe("base", [f"model.train_ds.manifest_filepath={word}"]).model.train_ds.manifests

    assert of("null") == ()
    assert of("a.jsonl") == ("a.jsonl",)
    assert of("[a.jsonl, b.jsonl]") == ("a.jsonl", "b.jsonl")


@pytest.mark.parametrize("name", SHIPPED)
def test_the_resolved_recipe_alone_repeats_the_run(name: str, tmp_path: Path) -> None:
    recipe = load_recipe(name)
    (tmp_path / "recipe.yaml").write_text(as_yaml(recipe), encoding="utf-8")
    assert load_recipe(tmp_path / "recipe.yaml") == recipe
    assert yaml.safe_load(as_yaml(recipe)) == as_plain(recipe)  # plain YAML 1.1 reads the same


@pytest.mark.slow
@settings(max_examples=40)
@given(
    text=st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), min_size=1).filter(
        lambda text: "${" not in text
    ),
    rate=st.floats(min_value=1e-300, max_value=1e300, exclude_min=True),
)
def test_any_text_and_number_survive_writing_and_reading(
    tmp_path_factory: pytest.TempPathFactory, text: str, rate: float
) -> None:
    recipe = replace(
        BASE,
        init_from_pretrained_model=text,
        model=replace(BASE.model, optim=replace(BASE.model.optim, lr=rate)),
    )
    path = tmp_path_factory.getbasetemp() / "written.yaml"
    path.write_text(as_yaml(recipe), encoding="utf-8", newline="")
    try:
        read = load_recipe(path)
    except RecipeError as error:  # a rate below min_lr is refused, not misread
        assert "above `model.optim.lr`" in str(error)
    else:
        assert read == recipe


@settings(max_examples=40)
@given(st.text(string.printable, max_size=60))
def test_no_text_makes_a_recipe_fail_with_anything_but_a_message(
    tmp_path_factory: pytest.TempPathFactory, text: str
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.yaml"
    path.write_text(f"base: base\n{text}", encoding="utf-8")
    try:
        load_recipe(path)
    except QuranAsrError as error:
        assert str(error)


def test_augmentations_are_off_by_default_and_in_base() -> None:
    assert BASE.quran.augment == Augment()
    assert load_recipe("base", ["quran.augment={gain_db: 6.0}"]).quran.augment == Augment(gain_db=6.0)
