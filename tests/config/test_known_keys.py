"""Keys of NeMo and Lightning: refused with what to use instead, and true to the installed versions."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from quran_asr.config.known_keys import INSTEAD, instead_of
from quran_asr.config.validation import known_keys as recipe_keys

NOT_IN_THE_INSTALLED_VERSION: frozenset[str] = frozenset({"trainer.gpus", "trainer.resume_from_checkpoint"})
"""Keys of older versions of NeMo and Lightning, which published configurations still hold."""


def test_no_key_that_is_accepted_is_refused() -> None:
    assert not set(INSTEAD) & set(recipe_keys())


def test_what_is_to_be_used_instead_exists() -> None:
    for key, advice in INSTEAD.items():
        for quoted in advice.split("`")[1::2]:
            if "." in quoted and " " not in quoted and "/" not in quoted:
                assert quoted in recipe_keys(), f"{key}: {advice}"


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("trainer.resume_from_checkpoint", "exp_manager.resume_from_checkpoint"),
        ("trainer.strategy", "every device"),
        ("model.train_ds.use_lhotse", "batch_duration"),
        ("model.validation_ds.use_lhotse", "batch_duration"),
        ("model.loss.loss_name", "leave it out"),
        ("model.encoder._target_", "classes are chosen"),
        ("model.interctc.loss_weights", "aux_ctc.ctc_loss_weight"),
        ("model.test_ds.batch_size", "quran-asr evaluate"),
    ],
)
def test_a_nemo_key_is_answered(key: str, message: str) -> None:
    assert message in (instead_of(key) or "")


def test_a_key_that_is_not_listed_is_not_answered() -> None:
    assert instead_of("model.optim.learning_rate") is None
    assert instead_of("trainer.maxepochs") is None
    assert instead_of("model.encoder.stochastic_depth_drop_prob") is None


@pytest.mark.slow
def test_accepted_and_refused_keys_are_those_of_the_installed_nemo_and_lightning() -> None:
    """Recipes use NeMo's names, so that an upgrade that renames one fails here."""
    pytest.importorskip("nemo", reason="needs the extra train")
    spec = importlib.util.spec_from_file_location("nemo_keys", Path(__file__).with_name("nemo_keys.py"))
    assert spec is not None and spec.loader is not None
    collector = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(collector)
    nemo = collector.nemo_keys()
    assert {key for key in recipe_keys() if not key.startswith("quran")} - nemo == set()
    assert len(INSTEAD) > 50
    assert set(INSTEAD) - nemo <= NOT_IN_THE_INSTALLED_VERSION
