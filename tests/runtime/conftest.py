"""A small bundle with random weights: it hears nothing, but says much, and every change shows in that."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from quran_asr.runtime.bundle import sealed

SMALL = (
    "model.encoder.n_layers=1",
    "model.encoder.d_model=32",
    "model.encoder.n_heads=2",
    "model.encoder.subsampling_conv_channels=8",
    "model.decoder.prednet.pred_hidden=16",
    "model.joint.jointnet.joint_hidden=16",
    "quran.vocabulary_size=48",
)


@pytest.fixture(scope="session")
def small_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Made as every bundle: `export` of a `.nemo`."""
    pytest.importorskip("nemo", reason="a bundle is made with the training packages")
    import torch

    from quran_asr.config.recipe import load_recipe
    from quran_asr.export.bundle import export
    from quran_asr.training.model import build_model
    from quran_asr.training.tokenizer import train_tokenizer

    folder = tmp_path_factory.mktemp("small")
    tokenizer = train_tokenizer("letters", 48, folder / "tokenizer")
    torch.manual_seed(0)
    model = build_model(load_recipe("quickstart", SMALL), tokenizer.folder)
    model.save_to(str(folder / "model.nemo"))
    export(folder / "model.nemo", folder / "bundle")
    return folder / "bundle"


@pytest.fixture(scope="session")
def voice() -> np.ndarray:
    """Six seconds that come and go like speech, float32 at 16 kHz."""
    draw = np.random.default_rng(3)
    seconds = np.arange(96_000) / 16_000
    loudness = 0.2 * np.abs(np.sin(2 * np.pi * 1.3 * seconds))
    tone = np.sign(np.sin(2 * np.pi * (110 + 30 * np.sin(seconds)) * seconds))
    return (loudness * (tone + 0.5 * draw.standard_normal(len(seconds)))).astype(np.float32)


@pytest.fixture
def redescribe() -> Callable[..., None]:
    """Change `bundle.json` so that the checksums are those of the files as they are now."""

    def change(folder: Path, edit: Callable[[dict[str, Any]], None] = lambda described: None) -> None:
        path = folder / "bundle.json"
        described = json.loads(path.read_text(encoding="utf-8"))
        for name in described["files"]:
            content = (folder / name).read_bytes()
            record = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
            described["files"][name] = record
        edit(described)
        path.write_text(json.dumps(sealed(described)), encoding="utf-8")

    return change
