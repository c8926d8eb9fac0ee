"""The files of checkpoints: permissions, and two exports at once, with a model of random weights."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from quran_asr.config.recipe import load_recipe
from quran_asr.errors import QuranAsrError
from quran_asr.export.bundle import export
from quran_asr.locks import locked
from quran_asr.training.checkpoints import WeightsOnlyCheckpoints, keep_among_best, save_nemo
from quran_asr.training.model import build_model
from quran_asr.training.tokenizer import Tokenizer

pytestmark = pytest.mark.slow


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_checkpoints_follow_the_umask_and_keep_the_mode_that_they_were_given(
    tmp_path: Path, tokenizer: Tokenizer, tiny_overrides: tuple[str, ...]
) -> None:
    """Others of a group that trains together can read them, and one that was made private stays private."""
    model = build_model(load_recipe("quickstart", tiny_overrides), tokenizer.folder)
    before = os.umask(0o027)
    try:
        WeightsOnlyCheckpoints().save_checkpoint({"state_dict": {}}, tmp_path / "last.ckpt")
        keep_among_best(tmp_path / "last.ckpt", "small", 0.5, 1, 2)
        save_nemo(model, tmp_path / "small--val_wer=0.5.nemo")
        assert [mode(path) for path in tmp_path.iterdir()] == [0o640] * 3
        for path in tmp_path.iterdir():
            path.chmod(0o600)
        WeightsOnlyCheckpoints().save_checkpoint({"state_dict": {}}, tmp_path / "last.ckpt")
        save_nemo(model, tmp_path / "small--val_wer=0.5.nemo")
        assert [mode(path) for path in tmp_path.iterdir()] == [0o600] * 3
    finally:
        os.umask(before)


def test_two_exports_to_one_folder_do_not_mix(
    tmp_path: Path, tokenizer: Tokenizer, tiny_overrides: tuple[str, ...]
) -> None:
    model = build_model(load_recipe("quickstart", tiny_overrides), tokenizer.folder)
    save_nemo(model, tmp_path / "model.nemo")
    place = tmp_path / "place"
    place.mkdir()
    (place / ".bundle.unfinished").write_text("a user's own")
    with (
        locked(place / ".bundle.lock", busy=""),
        pytest.raises(QuranAsrError, match=r"another export writes here \(process"),
    ):
        export(tmp_path / "model.nemo", place / "bundle")
    assert sorted(path.name for path in place.iterdir()) == [".bundle.unfinished"]
    for _ in range(2):
        export(tmp_path / "model.nemo", place / "bundle")
        assert sorted(path.name for path in place.iterdir()) == [".bundle.unfinished", "bundle"]
