"""What may be set against each other, when it is validated, and what a comparison's folder keeps."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quran_asr.config.recipe import load_recipe
from quran_asr.errors import QuranAsrError
from quran_asr.experiments.comparison.studies import PRETRAINED, STUDIES
from quran_asr.experiments.comparison.trials import (
    Question,
    keep_question,
    last_row,
    read_question,
    trials_of,
)
from quran_asr.experiments.comparison.variants import (
    Variant,
    differences,
    make_variants,
    split_variants,
    with_cadence,
)
from quran_asr.experiments.run_folder import create_run
from quran_asr.experiments.trials import last_error


def manifest(folder: Path, name: str) -> str:
    path = folder / f"{name}.jsonl"
    path.write_text('{"audio_filepath": "a.flac", "duration": 1.0, "text": "قل"}\n', encoding="utf-8")
    return str(path)


@pytest.fixture
def data(tmp_path: Path) -> list[str]:
    return [
        f"model.{key}.manifest_filepath={manifest(tmp_path, key)}" for key in ("train_ds", "validation_ds")
    ]


def test_a_recipe_may_carry_overrides_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("my recipe.yaml").write_text("base: quickstart\n", encoding="utf-8")
    words = [
        "scratch",
        "scratch quran.seed=1 'name=a b'",
        "my recipe.yaml",
        "trainer.max_steps=4",
        "~quran.augment",
    ]
    assert split_variants(words) == (
        [["scratch"], ["scratch", "quran.seed=1", "name=a b"], ["my recipe.yaml"]],
        ["trainer.max_steps=4", "~quran.augment"],
    )


def test_a_variant_may_be_longer_than_a_name_of_a_file() -> None:
    word = "laptop " + " ".join(f"quran.augment.lowpass_hz=[{2500 + n},8000]" for n in range(12))
    assert len(word) > 255
    assert split_variants([word])[0] == [word.split()]


def test_an_empty_word_is_refused() -> None:
    with pytest.raises(QuranAsrError, match="a word is empty"):
        split_variants(["laptop", "  "])


def test_own_overrides_win_and_are_what_differs(data: list[str]) -> None:
    made_variants = make_variants(
        [["quickstart"], ["quickstart", "model.optim.lr=0.002"]], [*data, "model.optim.lr=0.001"]
    )
    assert [variant.recipe.model.optim.lr for variant in made_variants] == [0.001, 0.002]
    assert [change.key for change in differences(made_variants[0].recipe, made_variants[1].recipe)] == [
        "model.optim.lr"
    ]
    assert made_variants[1].name == "quickstart model.optim.lr=0.002"
    assert made_variants[1].slug == "quickstart-model.optim.lr=0.002"


def test_a_section_that_one_variant_lacks_is_one_difference(data: list[str]) -> None:
    made_variants = make_variants(
        [["quickstart"], ["quickstart", "quran.curriculum=null", "~quran.augment"]], data
    )
    there = [str(change) for change in differences(made_variants[0].recipe, made_variants[1].recipe)]
    assert there == [
        "quran.curriculum: {first_seconds: 1.2, ...} -> null",
        "quran.augment: {gain_db: 0.0, ...} -> null",
    ]
    back = [change.key for change in differences(made_variants[1].recipe, made_variants[0].recipe)]
    assert back == ["quran.curriculum", "quran.augment"]


@pytest.mark.parametrize("name", sorted(name for name in STUDIES if not STUDIES[name].voices))
def test_the_variants_of_a_shipped_study_can_be_compared(name: str, data: list[str]) -> None:
    study = STUDIES[name]
    variants = [[word.replace(PRETRAINED, "a.nemo") for word in variant] for variant in study.variants]
    assert len(make_variants(variants, [*study.shared, *data])) == len(study.variants)


@pytest.mark.parametrize(
    ("variants", "message"),
    [
        ([["quickstart"]], "nothing to compare with"),
        ([["quickstart"], ["quickstart", "quran.seed=0"]], "same training twice"),
        ([["quickstart"], ["quickstart", "quran.seed=1"]], "other seeds"),
        ([["quickstart"], ["quickstart", "trainer.max_steps=9"]], "a share of one budget"),
        ([["quickstart"], ["quickstart", "quran.spelling=uthmani"]], "other words are counted"),
        ([["quickstart"], ["quickstart", "model.train_ds.manifest_filepath=x.jsonl"]], "not the same data"),
        ([["quickstart"], ["quickstart", "model.optim.lrr=1"]], "unknown key"),
        ([["quickstart"], ["quickstart", "trainer.max_steps=-1"]], "would never end"),
    ],
)
def test_what_no_comparison_can_be_made_of_is_refused(
    variants: list[list[str]],
    message: str,
    data: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    manifest(tmp_path, "x")
    with pytest.raises(QuranAsrError, match=message):
        make_variants(variants, data)


def test_two_files_of_one_name_are_refused(tmp_path: Path, data: list[str]) -> None:
    for place, rate in (("a", 0.1), ("b", 0.2)):
        (tmp_path / place).mkdir()
        text = f"base: quickstart\nmodel: {{optim: {{lr: {rate}}}}}\n"
        (tmp_path / place / "mine.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(QuranAsrError, match="two variants are called `mine`"):
        make_variants([[str(tmp_path / place / "mine.yaml")] for place in "ab"], data)


def test_unlike_budgets_are_compared_anyway_on_demand(data: list[str]) -> None:
    variants = [["scratch"], ["transfer"]]
    with pytest.raises(QuranAsrError, match=r"trainer.max_epochs.*--anyway|budget"):
        make_variants(variants, data)
    assert len(make_variants(variants, data, anyway=True)) == 2
    assert len(make_variants(variants, [*data, "trainer.max_epochs=100"])) == 2


@given(st.integers(1, 5000), st.integers(1, 8))
def test_the_shares_of_a_budget_of_steps_are_validated(tens: int, accumulation: int) -> None:
    words = [f"trainer.max_steps={10 * tens}", f"trainer.accumulate_grad_batches={accumulation}"]
    trainer = with_cadence(load_recipe("quickstart", words)).trainer
    batches = 10 * tens * accumulation
    for share in (batches // 10, batches // 2, batches):
        assert share % trainer.val_check_interval == 0
    assert trainer.check_val_every_n_epoch is None
    assert 10 <= batches // trainer.val_check_interval <= 40


@pytest.mark.parametrize(
    ("epochs", "every", "share"), [(100, 5, 1.0), (200, 10, 1.0), (30, 3, 1.0), (5, 1, 0.25), (7, 1, 1.0)]
)
def test_the_shares_of_a_budget_of_epochs_are_validated(epochs: int, every: int, share: float) -> None:
    trainer = with_cadence(load_recipe("transfer", [f"trainer.max_epochs={epochs}"])).trainer
    assert (trainer.check_val_every_n_epoch, trainer.val_check_interval) == (every, share)


def test_a_cadence_that_is_given_stays(data: list[str]) -> None:
    made_variants = make_variants(
        [["quickstart"], ["quickstart", "model.optim.lr=1e-4"]], [*data, "trainer.val_check_interval=7"]
    )
    assert [variant.recipe.trainer.val_check_interval for variant in made_variants] == [7, 7]


def test_a_folder_keeps_its_question_and_takes_more_seeds(tmp_path: Path, data: list[str]) -> None:
    made_variants = tuple(make_variants([["quickstart"], ["quickstart", "quran.initialization=nemo"]], data))
    keep_question(tmp_path, Question(made_variants, 2))
    assert read_question(tmp_path) == Question(made_variants, 2)
    keep_question(tmp_path, Question(made_variants, 3))
    names = [(trial.variant.name, trial.seed) for trial in trials_of(tmp_path, read_question(tmp_path))]
    assert len(names) == 6 and names[:2] == [
        (variant.name, 0) for variant in made_variants
    ]  # all variants before the next seed


def test_a_folder_of_other_trials_is_refused(tmp_path: Path, data: list[str]) -> None:
    made_variants = make_variants([["quickstart"], ["quickstart", "quran.initialization=nemo"]], data)
    keep_question(tmp_path, Question(tuple(made_variants), 1))
    other = make_variants(
        [["quickstart"], ["quickstart", "quran.initialization=nemo"]], [*data, "model.optim.lr=0.5"]
    )
    keep_question(tmp_path, Question(tuple(other), 1))  # nothing was trained yet
    keep_question(tmp_path, Question(tuple(made_variants), 1))
    begun = trials_of(tmp_path, Question(tuple(made_variants), 1))[0]
    create_run(begun.folder, "quickstart").write_recipe(begun.variant.recipe)
    with pytest.raises(QuranAsrError, match="trials of another `quickstart`"):
        keep_question(tmp_path, Question(tuple(other), 1))
    Path(data[0].partition("=")[2]).write_text("{}\n", encoding="utf-8")
    with pytest.raises(QuranAsrError, match="was changed since the first trials"):
        keep_question(tmp_path, Question(tuple(made_variants), 1))


ESCAPE = '{"format": 1, "data": {}, "variants": [{"name": "a", "recipe": "../../x.yaml"}], "seeds": 1}'


@pytest.mark.parametrize(
    "index", ["", "[]", "{}", '{"format": 1}', ESCAPE, '{"format": 1, "data": {}, "variants": 3, "seeds": 1}']
)
def test_what_is_not_a_comparison_is_reported_in_one_line(tmp_path: Path, index: str) -> None:
    (tmp_path / "comparison.json").write_text(index, encoding="utf-8")
    with pytest.raises(QuranAsrError, match=r"is not JSON|is not a comparison"):
        read_question(tmp_path)


def test_a_manifest_is_needed(tmp_path: Path) -> None:
    made_variants = (Variant("a", load_recipe("quickstart")), Variant("b", load_recipe("laptop")))
    with pytest.raises(QuranAsrError, match="--train"):
        keep_question(tmp_path, Question(made_variants, 1))


def test_a_trial_knows_how_it_ended(tmp_path: Path, data: list[str]) -> None:
    made_variants = make_variants([["quickstart"], ["quickstart", "quran.initialization=nemo"]], data)
    trial = trials_of(tmp_path, Question(tuple(made_variants), 1))[0]
    assert trial.result() is None and not trial.done
    trial.folder.mkdir(parents=True)
    ended = trial.folder / "ended.json"
    for interrupted, stopped_by in ((True, None), (False, "diverged")):
        ended.write_text(json.dumps({"interrupted": interrupted, "stopped_by": stopped_by}), encoding="utf-8")
        assert trial.result() is not None and not trial.done
    ended.write_text('{"interrupted": false, "stopped_by": null}', encoding="utf-8")
    assert trial.done
    ended.write_text('{"interrupted": fal', encoding="utf-8")
    assert not trial.done  # torn: it is asked again


def test_the_end_of_growing_files_is_read(tmp_path: Path) -> None:
    metrics = tmp_path / "metrics.jsonl"
    assert last_row(metrics) is None
    metrics.write_text('{"step": 1}\n{"step": 2}\n{"ste', encoding="utf-8")
    assert last_row(metrics) == {"step": 2}
    log = tmp_path / "train.log"
    log.write_text("step 1\nerror: no such file\nhint: look\n", encoding="utf-8")
    assert last_error(log) == "no such file"
    log.write_text("\n", encoding="utf-8")
    assert last_error(log) == "no message"
