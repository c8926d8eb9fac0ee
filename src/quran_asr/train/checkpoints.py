"""What is kept of a run: the best checkpoints by validation WER, the last one, and the best as `.nemo`.

A `.ckpt` is Lightning's and continues a training; a `.nemo` is NeMo's and is the model alone. Every file
is written beside its place and renamed, so that whoever looks finds a whole file or none.
"""

from __future__ import annotations

import contextlib
import os
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import lightning.pytorch as lightning
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.plugins.io import TorchCheckpointIO

from quran_asr.findings import QuranAsrError
from quran_asr.runs.folder import RunFolder
from quran_asr.train.batches import Batch
from quran_asr.train.model import EncDecHybridRNNTCTCBPEModel, look_aheads, set_look_ahead
from quran_asr.train.module import TrainingModule


class Interrupted(Exception):  # noqa: N818 - not an error: someone asked for it
    """Training was asked to stop; the last checkpoint is written."""


class WeightsOnlyCheckpoints(TorchCheckpointIO):
    """Lightning's checkpoint files, written atomically and read without running what they hold."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        with _beside(target) as temporary:
            with temporary.open("wb") as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(target)

    def load_checkpoint(self, path: Any, map_location: Any = None, **_: Any) -> dict[str, Any]:
        return read_checkpoint(Path(path))


def read_checkpoint(path: Path) -> dict[str, Any]:
    """A `.ckpt` as tensors and plain values; a pickle in it does not run.

    Raises:
        QuranAsrError: missing, torn, or holding more than weights.
    """
    if not path.is_file():
        raise QuranAsrError("no such checkpoint", where=str(path))
    try:
        loaded: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises a dozen kinds for a torn or hostile file
        raise QuranAsrError(
            f"not a readable checkpoint ({_first_line(error)})",
            where=str(path),
            remedy="use another checkpoint of the run",
        ) from error
    if not isinstance(loaded, dict) or "state_dict" not in loaded:
        raise QuranAsrError("a checkpoint without weights (`state_dict`)", where=str(path))
    return loaded


def save_nemo(model: EncDecHybridRNNTCTCBPEModel, path: Path) -> None:
    """Write a stock `.nemo` atomically, with the widest look-ahead as its default."""
    contexts = list(look_aheads(model).values())
    chosen = list(model.encoder.att_context_size)
    set_look_ahead(model, contexts[0])
    with _beside(path, suffix=".nemo") as temporary:
        model.save_to(str(temporary))
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    set_look_ahead(model, chosen)


class Checkpoints(lightning.Callback):
    """Keeps `last.ckpt`, writes the `.nemo` of a new best, and stops cleanly when asked."""

    def __init__(self, run: RunFolder, recipe_name: str, best_wer: float | None = None) -> None:
        self.run = run
        self.name = recipe_name
        self.best_wer = float("inf") if best_wer is None else best_wer
        self.asked_to_stop: str | None = None
        self._validation_batches: int | float | None = None

    @property
    def last(self) -> Path:
        return self.run.checkpoints / "last.ckpt"

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Within this, SIGINT and SIGTERM end the training after the current step; a second one at once."""

        def ask(number: int, frame: FrameType | None) -> None:
            if self.asked_to_stop is not None:
                raise KeyboardInterrupt
            self.asked_to_stop = signal.Signals(number).name

        before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def on_train_epoch_start(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        # A checkpoint that was written around a validation would otherwise begin with half of that one again.
        if trainer.fit_loop.restarting:
            self._validation_batches = trainer.limit_val_batches
            trainer.limit_val_batches = 0

    def on_train_batch_start(
        self, trainer: lightning.Trainer, module: lightning.LightningModule, batch: Batch, batch_idx: int
    ) -> None:
        if self._validation_batches is not None:
            trainer.limit_val_batches, self._validation_batches = self._validation_batches, None

    def on_train_batch_end(
        self,
        trainer: lightning.Trainer,
        module: lightning.LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
    ) -> None:
        window = trainer.accumulate_grad_batches
        if self.asked_to_stop and ((batch_idx + 1) % window == 0 or trainer.is_last_batch):
            self._save_last(trainer)
            raise Interrupted(self.asked_to_stop)

    def on_validation_batch_end(
        self,
        trainer: lightning.Trainer,
        module: lightning.LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if self.asked_to_stop and not trainer.sanity_checking:
            raise Interrupted(self.asked_to_stop)  # `last.ckpt` was written when the validation began

    def on_validation_start(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        if not trainer.sanity_checking:
            self._save_last(trainer)

    def on_validation_end(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        assert isinstance(module, TrainingModule)
        if trainer.sanity_checking:
            return
        wer = module.validations[0].measures()["wer"]
        if wer < self.best_wer:
            self.best_wer = wer
            self._write_best(module, wer)

    def on_train_end(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        self._save_last(trainer)

    def _save_last(self, trainer: lightning.Trainer) -> None:
        trainer.save_checkpoint(self.last)

    def _write_best(self, module: TrainingModule, wer: float) -> None:
        older = sorted(self.run.checkpoints.glob("*.nemo"))
        best = self.run.checkpoints / f"{self.name}--val_wer={wer:.4f}.nemo"
        save_nemo(module.model, best)
        for path in older:
            if path != best:
                path.unlink(missing_ok=True)


def keep_best(run: RunFolder, recipe_name: str, keep: int) -> ModelCheckpoint:
    """Lightning's top-k by validation WER, under names that NeMo's readers know."""
    return ModelCheckpoint(
        dirpath=run.checkpoints,
        filename=f"{recipe_name}--{{val_wer:.4f}}-{{epoch}}",
        monitor="val_wer",
        mode="min",
        save_top_k=keep,
        save_on_train_epoch_end=False,
    )


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)[:100]


@contextlib.contextmanager
def _beside(target: Path, suffix: str = ".tmp") -> Iterator[Path]:
    """A temporary place in the target's folder that is gone when the block ends."""
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.stem[:40]}-", suffix=suffix)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)
