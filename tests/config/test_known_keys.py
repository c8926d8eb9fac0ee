"""Keys that NeMo and Lightning know: refused with what to use instead, and true to the installed versions."""

from __future__ import annotations

import importlib.util
import json
from importlib.metadata import version
from pathlib import Path

import pytest

from quran_asr.config import known_keys
from quran_asr.config.known_keys import INSTEAD, instead_of, nemo_keys
from quran_asr.config.validation import known_keys as recipe_keys

ROOT = Path(__file__).parent.parent.parent


def test_every_key_of_ours_outside_quran_is_nemos_too() -> None:
    assert {key for key in recipe_keys() if not key.startswith("quran")} - nemo_keys() == set()


def test_no_key_that_is_accepted_is_refused() -> None:
    assert not set(INSTEAD) & set(recipe_keys())


def test_what_is_to_be_used_instead_exists() -> None:
    for key, advice in INSTEAD.items():
        for quoted in advice.split("`")[1::2]:
            if "." in quoted and " " not in quoted and "/" not in quoted:
                assert quoted in recipe_keys(), f"{key}: {advice}"


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ("trainer.resume_from_checkpoint", "exp_manager.resume_from_checkpoint"),
        ("trainer.strategy", "every device"),
        ("model.train_ds.use_lhotse", "batch_duration"),
        ("model.validation_ds.use_lhotse", "batch_duration"),
        ("model.loss.loss_name", "leave it out"),
        ("model.encoder._target_", "classes are chosen"),
        ("model.encoder.stochastic_depth_drop_prob", "leave it out"),
        ("model.interctc.loss_weights", "aux_ctc.ctc_loss_weight"),
        ("model.test_ds.batch_size", "quran-asr evaluate"),
    ],
)
def test_a_nemo_key_is_answered(key: str, said: str) -> None:
    assert said in (instead_of(key) or "")


def test_a_key_that_nobody_knows_is_not_nemos() -> None:
    assert instead_of("model.optim.learning_rate") is None
    assert instead_of("trainer.maxepochs") is None


@pytest.mark.slow
def test_the_list_is_what_nemo_and_lightning_say() -> None:
    pytest.importorskip("nemo", reason="needs the extra train")
    spec = importlib.util.spec_from_file_location("make_known_keys", ROOT / "tools/make_known_keys.py")
    assert spec is not None and spec.loader is not None
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    written = json.loads(Path(known_keys.__file__).with_suffix(".json").read_text())
    assert written["nemo_toolkit"].rpartition(".")[0] == version("nemo_toolkit").rpartition(".")[0]
    assert written["keys"] == tool.collect(), "run: python tools/make_known_keys.py"
