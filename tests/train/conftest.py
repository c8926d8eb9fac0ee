"""A tiny recipe and a tiny spoken corpus, shared by the tests of this room."""

from __future__ import annotations

from pathlib import Path

import pytest

from quran_asr.corpus.manifest import read_manifest
from quran_asr.corpus.speak import speak_corpus
from quran_asr.records import Segment, VerseRef
from quran_asr.runs.recipe import load_recipe
from quran_asr.runs.schema import Recipe
from quran_asr.train.tokenizer import Tokenizer, train_tokenizer

TINY = (
    "model.encoder.n_layers=1",
    "model.encoder.d_model=32",
    "model.encoder.n_heads=2",
    "model.encoder.subsampling_conv_channels=8",
    "model.decoder.prednet.pred_hidden=16",
    "model.joint.jointnet.joint_hidden=16",
    "model.decoding.greedy.max_symbols=3",
    "quran.vocabulary_size=48",
    "quran.curriculum.first_seconds=3.0",
    "quran.overfit_gate_steps=0",
    "trainer.log_every_n_steps=1",
)
"""Overrides of `quickstart` for a model that trains in seconds and learns nothing."""


@pytest.fixture(scope="session")
def tiny_overrides() -> tuple[str, ...]:
    return TINY


@pytest.fixture(scope="session")
def spoken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A manifest of 112:1-4 by three voices."""
    refs = [VerseRef(112, ayah) for ayah in range(1, 5)]
    return speak_corpus(refs, ["ar", "ar+m1", "ar+f2"], tmp_path_factory.mktemp("spoken"), seed=0)


@pytest.fixture(scope="session")
def segments(spoken: Path) -> list[Segment]:
    return read_manifest(spoken, "letters")


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return train_tokenizer("letters", 48, tmp_path_factory.mktemp("tokens") / "tokenizer")


@pytest.fixture
def tiny(spoken: Path) -> Recipe:
    return load_recipe("quickstart", [*TINY, f"model.train_ds.manifest_filepath={spoken}"])
