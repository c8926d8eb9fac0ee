from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from quran_asr.config.schema import Recipe
from quran_asr.errors import QuranAsrError
from quran_asr.training.checkpoints import WeightsOnlyCheckpoints, read_checkpoint, save_nemo
from quran_asr.training.model import build_model, look_aheads, set_look_ahead
from quran_asr.training.tokenizer import Tokenizer


class _Planted:
    def __init__(self, flag: Path) -> None:
        self.flag = flag

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.flag),)


@pytest.mark.parametrize("trusting", [False, True])
def test_a_pickle_planted_in_a_checkpoint_does_not_run(
    trusting: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if trusting:  # torch's own switch must not open the door
        monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    flag = tmp_path / "it-ran"
    torch.save({"state_dict": {}, "planted": _Planted(flag)}, tmp_path / "bad.ckpt")
    with pytest.raises(QuranAsrError, match="not a readable checkpoint"):
        read_checkpoint(tmp_path / "bad.ckpt")
    assert not flag.exists()


@pytest.mark.parametrize("content", [b"", b"<html>", b"PK\x03\x04 torn"])
def test_a_torn_checkpoint_is_one_clear_error(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "torn.ckpt"
    path.write_bytes(content)
    with pytest.raises(QuranAsrError, match="not a readable checkpoint") as refused:
        read_checkpoint(path)
    assert refused.value.where == str(path)
    with pytest.raises(QuranAsrError, match="no such checkpoint"):
        read_checkpoint(tmp_path / "missing.ckpt")


def test_a_checkpoint_that_cannot_be_written_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "last.ckpt"
    files = WeightsOnlyCheckpoints()
    files.save_checkpoint({"state_dict": {"a": torch.ones(2)}}, path)

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        files.save_checkpoint({"state_dict": {"a": torch.zeros(2)}}, path)
    assert torch.equal(files.load_checkpoint(path)["state_dict"]["a"], torch.ones(2))
    assert [p.name for p in tmp_path.iterdir()] == ["last.ckpt"]


@pytest.mark.slow
def test_a_nemo_restores_without_this_package_and_with_the_widest_look_ahead(
    tiny: Recipe, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    model = build_model(tiny, tokenizer.folder)
    set_look_ahead(model, look_aheads(model)[0])
    path = tmp_path / "model.nemo"
    save_nemo(model, path)
    assert list(model.encoder.att_context_size) == [70, 0], "saving does not change the model at hand"

    script = f"""
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "quran_asr":
            raise ImportError("this process has no quran_asr")
sys.meta_path.insert(0, Refuse())
import torch
from nemo.collections.asr.models import ASRModel
model = ASRModel.restore_from({str(path)!r}, map_location="cpu")
torch.save(model.state_dict(), {str(tmp_path / "weights.pt")!r})
print(type(model).__name__, list(model.encoder.att_context_size), "quran_asr" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.splitlines()[-1] == "EncDecHybridRNNTCTCBPEModel [70, 13] False"
    weights = torch.load(tmp_path / "weights.pt", weights_only=True)
    assert weights.keys() == model.state_dict().keys()
    for name, tensor in model.state_dict().items():
        assert torch.equal(weights[name], tensor), name
