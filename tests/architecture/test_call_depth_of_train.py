"""How many of our functions a reader of `train` follows from the command to the loss kernel."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest

import quran_asr
from quran_asr.cli.main import main
from quran_asr.training.loss.engine import TorchEngine

PACKAGE = Path(quran_asr.__file__).parent
MOST = 8
"""Functions of this package from the command to the kernel, both counted."""


@pytest.mark.slow
def test_train_reaches_the_loss_kernel_in_few_functions(
    spoken: Path, tiny_overrides: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    captured: list[list[str]] = []
    kernel = TorchEngine.score

    def score(self: TorchEngine, *args: object) -> None:
        frames = [frame for frame in inspect.stack(context=0) if PACKAGE in Path(frame.filename).parents]
        captured.append([frame.function for frame in reversed(frames)] + ["score"])
        kernel(self, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(TorchEngine, "score", score)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    # The optimizer step runs the last batch of its window from within: windows of two show both ways.
    overrides = [
        *tiny_overrides,
        f"exp_manager.exp_dir={tmp_path}",
        "quran.curriculum=null",
        "trainer.max_steps=1",
        "trainer.accumulate_grad_batches=2",
        "trainer.val_check_interval=2",
    ]
    with pytest.raises(SystemExit) as ended:
        words = ["--train", str(spoken), "--validation", str(spoken), "--no-preflight"]
        main(["train", "quickstart", *words, *overrides])
    assert ended.value.code == 0
    chains = {tuple(chain[chain.index("train") :]) for chain in captured if "training_step" in chain}
    assert chains
    for chain in chains:
        assert len(chain) <= MOST, " -> ".join(chain)
