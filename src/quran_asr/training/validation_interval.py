"""`trainer.check_val_every_n_epoch: auto`: how many epochs pass between validations."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

import lightning.pytorch as lightning

from quran_asr.errors import Finding
from quran_asr.experiments.planning.timing import SHARE, epochs_between
from quran_asr.training.data.batches import Batch
from quran_asr.training.module import TrainingModule

NEVER = sys.maxsize


class ValidationInterval(lightning.Callback):
    """Stands before what writes checkpoints, so that they hold it: a resumed run validates as before.

    A validation's time begins with its checkpoint and ends before the one of its result.
    """

    def __init__(self, on_finding: Callable[[Finding], None]) -> None:
        self._on_finding = on_finding
        self.between = 1
        """Epochs from one with validations to the next."""
        self.due = 0
        """The next epoch with validations, counted from 0."""
        self._epoch_began: float | None = None
        self._last_batch_ended = 0.0
        self._validations = 0.0

    def state_dict(self) -> dict[str, Any]:
        return {"between": self.between, "due": self.due}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.between, self.due = int(state_dict["between"]), int(state_dict["due"])

    def on_train_epoch_start(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        assert isinstance(module, TrainingModule)
        whole = trainer.fit_loop.epoch_loop.batch_progress.current.processed == 0
        self._epoch_began = time.perf_counter() if whole else None  # of a part nothing is learned
        self._validations = 0.0
        due = trainer.current_epoch >= self.due or self._is_last(trainer, module)
        trainer.check_val_every_n_epoch = 1 if due else NEVER

    def on_train_batch_end(
        self,
        trainer: lightning.Trainer,
        module: lightning.LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
    ) -> None:
        self._last_batch_ended = time.perf_counter()

    def on_validation_end(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        assert isinstance(module, TrainingModule)
        now = time.perf_counter()
        before, this = self._validations, now - self._last_batch_ended
        self._validations += this
        if self._epoch_began is None or not trainer.fit_loop.epoch_loop.batch_progress.is_last_batch:
            return
        training = self._last_batch_ended - self._epoch_began - before
        steps = trainer.num_training_batches / trainer.accumulate_grad_batches
        whole = None if module.total_steps is None else module.total_steps / steps
        between = module.ranks.from_first(epochs_between(self._validations, training, whole))
        if between > self.between or 2 * between <= self.between:  # a little less changes nothing
            self.between = between
            self._report(training)

    def on_train_epoch_end(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        if trainer.check_val_every_n_epoch != NEVER:
            self.due = trainer.current_epoch + self.between

    def _is_last(self, trainer: lightning.Trainer, module: TrainingModule) -> bool:
        """Whether no other epoch comes after this one, or none that is whole."""
        if 0 < (trainer.max_epochs or -1) <= trainer.current_epoch + 1:
            return True
        if module.total_steps is None:
            return False
        steps = -(-int(trainer.num_training_batches) // trainer.accumulate_grad_batches)
        return bool(module.total_steps - trainer.global_step < 2 * steps)

    def _report(self, training: float) -> None:
        one = "every epoch" if self.between == 1 else f"every {self.between} epochs, and in the last"
        message = (
            f"validating {one}: a validation takes {self._validations:.1f} s, an epoch {training:.1f} s, and "
            f"validations are to take up to {SHARE:.0%} of the time"
        )
        where = "trainer.check_val_every_n_epoch"
        self._on_finding(Finding("note", "validation-interval", where, message, ""))
