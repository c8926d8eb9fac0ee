"""What a sweep varies: how it is written, and what is refused before anything is trained."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quran_asr.config.recipe import load_recipe
from quran_asr.errors import QuranAsrError
from quran_asr.experiments.sweep.space import (
    ValueList,
    ValueRange,
    combinations,
    grid,
    read_space,
    refuse_impossible,
    split_values,
    words_of,
)

CTC = "model.aux_ctc.ctc_loss_weight"


def test_values_ranges_and_what_holds_for_all() -> None:
    fixed, axes = read_space(
        [f"{CTC}=0.2,0.3", "model.optim.lr=1e-4..1e-2:log", "model.spec_augment.time_masks=2..10",
         "model.optim.betas=[0.9,0.98]", "trainer.max_steps=4000", "~quran.curriculum"]
    )  # fmt: skip
    assert fixed == ("model.optim.betas=[0.9,0.98]", "trainer.max_steps=4000", "~quran.curriculum")
    assert axes == (
        ValueList(CTC, ("0.2", "0.3")),
        ValueRange("model.optim.lr", 1e-4, 1e-2, log=True, whole=False),
        ValueRange("model.spec_augment.time_masks", 2, 10, log=False, whole=True),
    )
    assert combinations(axes) is None
    assert combinations(axes[:1]) == 2


def test_lists_sections_and_quoted_texts_are_one_value_each() -> None:
    assert split_values("[1.0],[0.9,1.1]") == ["[1.0]", "[0.9,1.1]"]
    assert split_values("{time_masks: 2, time_width: 0.05},{time_masks: 10}") == [
        "{time_masks: 2, time_width: 0.05}",
        "{time_masks: 10}",
    ]
    assert split_values("""'a,b',"c,d",e""") == ["'a,b'", '"c,d"', "e"]
    _, axes = read_space(["model.spec_augment={time_masks: 2, freq_masks: 1},{time_masks: 5}"])
    recipes = [load_recipe("base", words_of(values)).model.spec_augment for values in grid(axes)]
    assert [(masks.time_masks, masks.freq_masks) for masks in recipes] == [(2, 1), (5, 2)]
    _, axes = read_space(["quran.augment.speed=[1.0],[0.9,1.1]"])
    speeds = [load_recipe("base", words_of(values)).quran.augment for values in grid(axes)]
    assert [augment.speed for augment in speeds if augment] == [(1.0,), (0.9, 1.1)]


@given(st.lists(st.lists(st.integers(0, 99), min_size=1, max_size=3), min_size=1, max_size=5))
def test_lists_are_parted_as_they_were_joined(lists: list[list[int]]) -> None:
    assert split_values(",".join(map(str, lists))) == [str(one) for one in lists]


def test_a_grid_has_every_combination_once_and_the_last_key_changes_first() -> None:
    _, axes = read_space([f"{CTC}=0.2,0.5", "model.spec_augment.time_masks=2,5,10"])
    found = [tuple(values.values()) for values in grid(axes)]
    assert found[:3] == [("0.2", "2"), ("0.2", "5"), ("0.2", "10")]
    assert len(set(found)) == len(found) == combinations(axes) == 6


def test_a_range_of_small_numbers_reaches_the_recipe_as_numbers() -> None:
    assert words_of({"model.optim.lr": 1e-05}) == ["model.optim.lr=1.0e-05"]
    assert load_recipe("small", [*words_of({"model.optim.lr": 1e-05})]).model.optim.lr == 1e-05


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["trainer.max_steps=5"], "nothing is varied"),
        ([f"{CTC}=0.2,0.2"], "listed twice"),
        (["model.optim.lr=1e-3,2e-3,0.001"], "listed twice"),
        (["quran.seed=1,1.0"], "listed twice"),
        ([f"{CTC}=0.2,"], "a value is empty"),
        ([f"{CTC}=0.2,0.3", f"{CTC}=0.4"], "is given twice"),
        (["quran.spelling=letters,uthmani"], "cannot be varied"),
        (["model.validation_ds.max_duration=5,10"], "cannot be varied"),
        ([f"{CTC}=0.2,0.3", "exp_manager.exp_dir=x"], "not for a sweep"),
        (["quran.spelling=1..2"], "no number"),
        (["model.spec_augment.time_masks=0.5..2"], "whole numbers"),
        *(
            ([f"{CTC}={text}"], "is not a range")
            for text in ("1..", "1..inf", "1..3..5", "1e-4..1e-2:lin", "..2")
        ),
        (["model.optim.lr=2..1"], "the range is empty"),
        (["model.optim.lr=0..1:log"], "above 0"),
        (["model.optim.lrr=0..1"], "unknown key `model.optim.lrr`"),
    ],
)
def test_what_is_refused(words: list[str], message: str) -> None:
    with pytest.raises(QuranAsrError, match=message):
        read_space(words)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["model.aux_ctc.ctc_loss_weigth=0.2,0.3"], "did you mean `model.aux_ctc.ctc_loss_weight`"),
        ([f"{CTC}=0.2,1.3"], "must be at most 1, not 1.3"),
        ([f"{CTC}=0.2..1.3"], "must be at most 1, not 1.3"),
        (["model.encoder.n_heads=4,8", "model.encoder.d_model=256,500"], "does not divide d_model 500"),
        ([f"{CTC}=0.2,0.3", "trainer.max_steps=0"], "nothing would be trained"),
    ],
)
def test_the_recipe_loader_reports_what_is_wrong(words: list[str], message: str) -> None:
    fixed, axes = read_space(words)
    with pytest.raises(QuranAsrError, match=message):
        refuse_impossible("small", fixed, axes)
