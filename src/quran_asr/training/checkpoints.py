"""Checkpoints: the best by validation WER, the last, and the best as `.nemo`.

A `.ckpt` is Lightning's and continues a training; a `.nemo` is NeMo's and is the model alone. Every file
is written beside its place and renamed, so that whoever looks finds a whole file or none.
"""

from __future__ import annotations

import contextlib
import math
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import lightning.pytorch as lightning
import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO
from torch import Tensor

from quran_asr.errors import QuranAsrError
from quran_asr.evaluation.transcripts import write_transcripts
from quran_asr.experiments.run_folder import RunFolder, rank_of, rate_of
from quran_asr.files import full_disk_named, replacing
from quran_asr.training.data.batches import Batch
from quran_asr.training.diagnostics import DiagnosticsCallback
from quran_asr.training.distributed import Ranks
from quran_asr.training.model import EncDecHybridRNNTCTCBPEModel, look_aheads, set_look_ahead
from quran_asr.training.module import TrainingModule
from quran_asr.training.out_of_memory import DoesNotFit


class Interrupted(Exception):  # noqa: N818 - not an error: someone asked for it
    """Training was asked to stop; the last checkpoint is written."""


class WeightsOnlyCheckpoints(TorchCheckpointIO):
    """Lightning's checkpoint files, written atomically and read without running what they hold."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        target = Path(path)
        with replacing(target) as temporary, full_disk_named(target), temporary.open("wb") as file:
            torch.save(checkpoint, file)

    def load_checkpoint(self, path: Any, map_location: Any = None, **_: Any) -> dict[str, Any]:
        return read_checkpoint(Path(path))


def read_checkpoint(path: Path, *, mapped: bool = False) -> dict[str, Any]:
    """A `.ckpt` as tensors and plain values; a pickle in it does not run.

    Args:
        path: the file.
        mapped: leave the tensors in the file until they are touched; only those looked at cost memory.

    Raises:
        QuranAsrError: missing, torn, or holding more than weights.
    """
    if not path.is_file():
        raise QuranAsrError(
            "no such checkpoint",
            where=str(path),
            remedy="a training that continues replaces its own: look again",
        )
    try:
        loaded: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except Exception as error:  # torch raises a dozen kinds for a torn or hostile file
        raise QuranAsrError(
            f"not a readable checkpoint ({_first_line(error)})",
            where=str(path),
            remedy="use another checkpoint of the run",
        ) from error
    if not isinstance(loaded, dict) or "state_dict" not in loaded:
        raise QuranAsrError(
            "a checkpoint without weights (`state_dict`)",
            where=str(path),
            remedy="name a .ckpt that `quran-asr train` wrote",
        )
    return loaded


def model_weights(path: Path) -> dict[str, Tensor]:
    """The model's tensors in a `.ckpt`, named as the model names them; mapped from the file.

    Of a training that keeps a running mean of the weights, these are the mean: the model that was validated
    and that the `.nemo` of the same step holds.

    Raises:
        QuranAsrError: as `read_checkpoint`, no weights of a model in it, or a mean of other parameters.
    """
    checkpoint = read_checkpoint(path, mapped=True)
    state = checkpoint["state_dict"]
    weights = {
        str(name).removeprefix("model."): tensor
        for name, tensor in (state.items() if isinstance(state, dict) else ())
        if str(name).startswith("model.") and isinstance(tensor, Tensor)
    }
    if not weights:
        raise QuranAsrError(
            "a checkpoint without weights of a model",
            where=str(path),
            remedy="name a .ckpt that `quran-asr train` wrote",
        )
    mean = checkpoint.get("quran_asr", {}).get("weight_average", [])
    return weights | _running_mean(weights, mean, path)


def _running_mean(weights: dict[str, Tensor], mean: Sequence[Tensor], path: Path) -> dict[str, Tensor]:
    """The mean of each parameter by its name.

    Both are in the order of the model's modules, but `weights` also holds buffers, which have no mean: the
    constants of the features and the statistics of batch norms. No buffer has the shape of the parameter
    that comes next.
    """
    named: dict[str, Tensor] = {}
    left = list(mean)
    for name, tensor in weights.items():
        if left and left[0].shape == tensor.shape:
            named[name] = left.pop(0)
    if left:
        raise QuranAsrError(
            f"its running mean of the weights does not fit them: {len(left)} of {len(mean)} tensors are left",
            where=str(path),
            remedy="use another checkpoint of the run",
        )
    return named


@dataclass(frozen=True, slots=True)
class CheckpointFacts:
    """Where a checkpoint stands, and how it was trained."""

    step: int
    """Optimizer steps made."""
    validated: bool
    """Whether the validation after that step was made."""
    ranks: int
    effective_batch: int


def checkpoint_facts(path: Path) -> CheckpointFacts:
    """Read what a resume has to know of a `.ckpt`.

    Raises:
        QuranAsrError: unreadable, or not written by this program.
    """
    loaded = read_checkpoint(path)
    try:
        state = loaded["quran_asr"]
        stage = state["stages"][-1]
        return CheckpointFacts(
            step=int(loaded["global_step"]),
            validated=bool(state["validated"]),
            ranks=int(stage["ranks"]),
            effective_batch=int(stage["batch_size"] * stage["ranks"] * state["accumulation"]),
        )
    except (KeyError, IndexError, TypeError, ValueError):
        raise QuranAsrError(
            "holds weights, but no training state of this version",
            where=str(path),
            remedy="start a new run from the run's .nemo: init_from_pretrained_model=FILE.nemo",
        ) from None


def save_nemo(model: EncDecHybridRNNTCTCBPEModel, path: Path) -> None:
    """Write a stock `.nemo` atomically, with the widest look-ahead as its default."""
    contexts = list(look_aheads(model).values())
    chosen = list(model.encoder.att_context_size)
    set_look_ahead(model, contexts[0])
    needed = sum(tensor.nbytes for tensor in model.state_dict().values())
    with replacing(path, suffix=".nemo") as temporary, full_disk_named(path, needed):
        model.save_to(str(temporary))
    set_look_ahead(model, chosen)


def replace_nemo(model: EncDecHybridRNNTCTCBPEModel, target: Path) -> None:
    """Write a model to the folder of its run's others; every `.nemo` there with a higher rate goes."""
    save_nemo(model, target)
    for path in target.parent.glob("*.nemo"):
        if rate_of(path) is not None and rank_of(path) > rank_of(target):
            path.unlink(missing_ok=True)


class Checkpoints(lightning.Callback):
    """Keeps `last.ckpt`, the best ones and the `.nemo` of the best, and stops cleanly when asked."""

    def __init__(
        self,
        run: RunFolder,
        name: str,
        ranks: Ranks,
        diagnostics_callback: DiagnosticsCallback,
        *,
        keep: int,
        every_minutes: float,
        best_wer: float | None = None,
    ) -> None:
        """Of a run.

        Args:
            run: its folder.
            name: what checkpoint files begin with.
            ranks: the processes of the training.
            diagnostics_callback: may end the training.
            keep: best checkpoints that are kept.
            every_minutes: `last.ckpt` is also written this often between validations.
            best_wer: the lowest validation WER before a resume.
        """
        self.run = run
        self.name = name
        self.keep = keep
        self.every_seconds = 60 * every_minutes
        self.ranks = ranks
        self.diagnostics_callback = diagnostics_callback
        self.best_wer = float("inf") if best_wer is None else best_wer
        self.asked_to_stop: str | None = None
        self._ask: Callable[[int, FrameType | None], None] | None = None
        self._saved_at = time.monotonic()
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
        self._ask = ask
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def on_train_start(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        # Lightning has laid its own handler for SIGTERM over ours by now, which ends with exit code 1.
        if self._ask is not None:
            signal.signal(signal.SIGTERM, self._ask)

    def on_train_epoch_start(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        # Lightning validates where a checkpoint stands at a validation, which may have been made already, and
        # takes the beginning of an epoch for such a place.
        assert isinstance(module, TrainingModule)
        begins = trainer.fit_loop.epoch_loop.batch_progress.current.processed == 0
        if trainer.fit_loop.restarting and (begins or module.validated_at == trainer.global_step):
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
        if (batch_idx + 1) % trainer.accumulate_grad_batches and not trainer.is_last_batch:
            return
        stop = self._must_stop()
        due = self.ranks.from_first(time.monotonic() - self._saved_at >= self.every_seconds)
        if stop or due or self._is_the_end(trainer):
            self._save_last(trainer)
        if stop:
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
        if self._must_stop():
            raise Interrupted(self.asked_to_stop)  # `last.ckpt` was written when the validation began

    def on_validation_start(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        self._save_last(trainer)

    def on_validation_end(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        assert isinstance(module, TrainingModule)
        wer = module.validations[0].measures()["wer"]
        if wer < self.best_wer:
            self.best_wer = wer
            if self.ranks.rank == 0:
                self._write_best(module, wer)
        self._save_last(trainer)
        if self.ranks.rank == 0 and not math.isnan(wer):
            keep_among_best(self.last, self.name, wer, trainer.current_epoch, self.keep)
        if self._must_stop():
            raise Interrupted(self.asked_to_stop)

    def on_exception(
        self, trainer: lightning.Trainer, module: lightning.LightningModule, exception: BaseException
    ) -> None:
        if isinstance(exception, DoesNotFit):  # in all processes alike
            assert isinstance(module, TrainingModule)
            module.out_of_memory = True
            self._save_last(trainer)

    def _must_stop(self) -> bool:
        """Whether any process was asked to stop, or the first one has a diagnosis that ends the training."""
        return self.ranks.any(
            self.asked_to_stop is not None or self.diagnostics_callback.stopped_by is not None
        )

    def _is_the_end(self, trainer: lightning.Trainer) -> bool:
        """Whether this was the last batch: a training can be resumed from its end too."""
        if 0 < trainer.max_steps <= trainer.global_step:
            return True
        return bool(trainer.is_last_batch and 0 < (trainer.max_epochs or -1) <= trainer.current_epoch + 1)

    def _save_last(self, trainer: lightning.Trainer) -> None:
        trainer.save_checkpoint(self.last)
        self._saved_at = time.monotonic()

    def _write_best(self, module: TrainingModule, wer: float) -> None:
        """The folder decides, not this training: an average of checkpoints may be better than all of them."""
        target = self.run.checkpoints / f"{self.name}--val_wer={wer:.4f}.nemo"
        best = self.run.best_nemo()
        if best is None or best == target or rank_of(target) < rank_of(best):
            replace_nemo(module.model, target)
        segments = [clip.segment for clip in module.validation_clips.clips]
        transcripts = module.validations[0].transcripts(segments, module.recipe.quran.spelling)
        write_transcripts(self.run.transcripts, transcripts)


def keep_among_best(last: Path, name: str, wer: float, epoch: int, keep: int) -> None:
    """Give the last checkpoint a second name under its WER if it is one of the `keep` best; drop the worst.

    What is kept is read from the folder, so that a killed run leaves no checkpoint that nobody counts.
    """
    folder = last.parent
    target = folder / f"{name}--val_wer={wer:.4f}-epoch={epoch}.ckpt"
    others = sorted(
        (rate, path)
        for path in folder.glob("*.ckpt")
        if (rate := rate_of(path)) is not None and path != target
    )
    if len(others) >= keep and round(wer, 4) > others[keep - 1][0]:
        return
    with replacing(target) as temporary:
        temporary.unlink()
        try:
            os.link(last, temporary)  # the next `last.ckpt` is another file: this one stays
        except OSError:  # a file system without links
            shutil.copyfile(last, temporary)
    for _, path in others[keep - 1 :]:
        path.unlink(missing_ok=True)


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)[:100]
