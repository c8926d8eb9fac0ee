"""Export targets: a row in a table and the function that it names are all that a new one takes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from quran_asr.config.recipe import load_recipe
from quran_asr.errors import QuranAsrError
from quran_asr.export import bundle
from quran_asr.training.checkpoints import save_nemo
from quran_asr.training.model import build_model
from quran_asr.training.tokenizer import Tokenizer


def write_phone(model: object, shape: object, folder: Path, look_ahead_frames: int) -> None:
    folder.mkdir(parents=True)
    (folder / "frames").write_text(str(look_ahead_frames))


def test_an_unknown_target_is_refused_with_those_that_there_are(tmp_path: Path) -> None:
    with pytest.raises(QuranAsrError, match="no export target `phone`") as refused:
        bundle.export(tmp_path / "model.nemo", tmp_path / "bundle", targets=("sherpa", "phone"))
    assert refused.value.remedy == "use sherpa"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_row_of_the_table_is_written_for_each_look_ahead(
    tiny_overrides: tuple[str, ...], tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    save_nemo(
        build_model(load_recipe("quickstart", tiny_overrides), tokenizer.folder), tmp_path / "model.nemo"
    )

    monkeypatch.setitem(bundle.TARGETS, "phone", f"{__name__}:write_phone")
    made = bundle.export(tmp_path / "model.nemo", tmp_path / "bundle", targets=("phone",))
    written = {file.parent.name: file.read_text() for file in made.folder.glob("phone/*/frames")}
    assert written == {f"{80 * frames}ms": str(frames) for frames in made.shape.look_aheads}
    assert not (made.folder / "sherpa").exists()
