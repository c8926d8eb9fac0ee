"""`metrics.jsonl`, TensorBoard and progress of a training."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import lightning.pytorch as lightning
import torch

from quran_asr.experiments.planning.devices import find_device
from quran_asr.experiments.run_folder import RunFolder
from quran_asr.training.data.batches import Batch
from quran_asr.training.diagnostics import LOOK_EVERY, DiagnosticsCallback
from quran_asr.training.module import TrainingModule
from quran_asr.training.state import SUMS, StepMeans

TENSORBOARD_TAGS = {
    "epoch": "epoch",
    "loss": "train_loss",
    "transducer_loss": "train_rnnt_loss",
    "ctc_loss": "train_ctc_loss",
    "learning_rate": "learning_rate",
    "gradient_norm": "gradient_norm",
    "wer": "val_wer",
    "ctc_wer": "val_wer_ctc",
    "cer": "val_cer",
    "train_wer": "training_batch_wer",
    "step_seconds": "train_step_timing in s",
}
"""Our keys under the tags that readers of NeMo's event files know; other keys keep their names."""


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a training is; what a progress bar or a log line is made from."""

    step: int
    total_steps: int | None
    epoch: int
    row: Mapping[str, Any] | None
    """The line that was just written to `metrics.jsonl`, if one was."""


Watcher = Callable[[Progress], None]


class Metrics(lightning.Callback):
    """Writes a line every `trainer.log_every_n_steps` optimizer steps and at every validation."""

    def __init__(
        self,
        run: RunFolder,
        watcher: Watcher,
        diagnostics_callback: DiagnosticsCallback,
        seconds_before: float,
    ) -> None:
        """`seconds_before`: how long earlier sessions of a resumed run took."""
        self.run = run
        self.watcher = watcher
        self.diagnostics_callback = diagnostics_callback
        self.began = time.perf_counter() - seconds_before
        self._waiting_since = self._validation_began = time.perf_counter()
        self._last_step = self._looked_at = -1
        self._step_ended: torch.cuda.Event | None = None
        """Reached once a GPU has done all it was given: while it works, waiting for data costs nothing."""

    def on_train_start(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        assert isinstance(module, TrainingModule)
        module.means = StepMeans()
        self._waiting_since = time.perf_counter()
        self._last_step = self._looked_at = trainer.global_step

    def on_train_batch_start(
        self, trainer: lightning.Trainer, module: lightning.LightningModule, batch: Batch, batch_idx: int
    ) -> None:
        assert isinstance(module, TrainingModule)
        if self._step_ended is None or self._step_ended.query():  # type: ignore[no-untyped-call]
            module.means.waited += time.perf_counter() - self._waiting_since

    def on_train_batch_end(
        self,
        trainer: lightning.Trainer,
        module: lightning.LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
    ) -> None:
        assert isinstance(module, TrainingModule)
        step = trainer.global_step
        row = None
        if step != self._last_step:
            self._last_step = step
            if step % module.recipe.trainer.log_every_n_steps == 0:
                module.stop_if_all_is_skipped(batch)
                row = self._training_row(trainer, module, step)
                if module.ranks.rank == 0:
                    self._write(trainer, row)
                    if step - self._looked_at >= LOOK_EVERY:
                        self._look(step)
                module.means = StepMeans()
            self.watcher(Progress(step, module.total_steps, trainer.current_epoch, row))
        if module.device.type == "cuda":
            self._step_ended = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._step_ended.record()
        self._waiting_since = time.perf_counter()

    def on_validation_start(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        self._validation_began = time.perf_counter()
        if isinstance(module, TrainingModule):
            module.stop_if_all_is_skipped(None)

    def on_validation_end(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        assert isinstance(module, TrainingModule)
        if trainer.sanity_checking:
            return
        module.validated_at = trainer.global_step
        measured = module.validations[0].measures()
        row = {
            "step": trainer.global_step,
            "epoch": trainer.current_epoch,
            "time": self._time(),
            "split": "validation",
            **measured,
            "train_wer": module.validations[1].measures()["wer"],
        }
        if module.ranks.rank == 0:
            self._write(trainer, row)
            self._look(trainer.global_step)
        self.watcher(Progress(trainer.global_step, module.total_steps, trainer.current_epoch, row))
        # neither step time nor waiting for data: the clock of the steps stood still
        self._waiting_since = time.perf_counter()
        module.means.began += self._waiting_since - self._validation_began

    def _training_row(self, trainer: lightning.Trainer, module: TrainingModule, step: int) -> dict[str, Any]:
        means = module.means
        own = means.sums.tolist()  # here this process waits for the device
        gradient_norm, skipped = own[-1], module.skipped_batches
        summed = dict(zip((*SUMS, "skipped"), module.ranks.total([*own, skipped]), strict=True))
        seconds = time.perf_counter() - means.began
        clips, tokens, audio_seconds = summed["clips"], summed["tokens"], summed["audio_seconds"]
        by_transducer, flops = summed["transducer_clips"], summed["flops"]
        batches = summed["batches"]
        batches, steps = max(1, batches), max(1, means.steps)
        return {
            "step": step,
            "epoch": trainer.current_epoch,
            "time": self._time(),
            "split": "train",
            "loss": summed["loss"] / batches,
            "transducer_loss": summed["transducer"] / by_transducer if by_transducer else None,
            "ctc_loss": summed["ctc"] / max(1, clips),
            "ctc_per_token": summed["ctc"] / tokens if tokens else math.nan,
            "token_entropy": module.curriculum.token_entropy,
            "ctc_weight": module.ctc_weight(step),
            "learning_rate": float(trainer.optimizers[0].param_groups[0]["lr"]),
            "copied_learning_rate": module.groups.copied_rate(step) if module.groups.copied else None,
            "gradient_norm": gradient_norm / steps,
            "audio_seconds": audio_seconds / steps,
            "padding_share": summed["padding"] / batches,
            "data_wait_share": means.waited / seconds if seconds > 0 else 0.0,
            "step_seconds": seconds / steps,
            "audio_hours_per_hour": audio_seconds / seconds if seconds > 0 else 0.0,
            "utilisation": self._utilisation(module, flops / seconds if seconds > 0 else 0.0),
            "peak_memory_bytes": _peak_memory(module.device),
            "skipped_batches": int(summed["skipped"]),
        }

    def _look(self, step: int) -> None:
        self._looked_at = step
        self.diagnostics_callback.look()

    def _utilisation(self, module: TrainingModule, flops: float) -> float | None:
        """Model FLOPs a second over the peak of all devices (`planning/flops.py`); None where not known."""
        if module.device.type != "cuda":
            return None
        device = find_device(torch.cuda.get_device_name(module.device))
        return None if device is None else flops / (device.peak_flops * module.ranks.size)

    def _write(self, trainer: lightning.Trainer, row: dict[str, Any]) -> None:
        self.run.append_metrics(row)
        self.diagnostics_callback.add(row)
        if trainer.logger is not None:
            numbers = {
                _tag(key, row["split"]): value
                for key, value in row.items()
                if isinstance(value, float | int) and key not in ("step", "time")
            }
            trainer.logger.log_metrics(numbers, step=row["step"])

    def _time(self) -> float:
        return round(time.perf_counter() - self.began, 3)


def _tag(key: str, split: str) -> str:
    if split == "validation" and key == "loss":
        return "val_loss"
    return TENSORBOARD_TAGS.get(key, f"val_{key}" if split == "validation" else key)


def _peak_memory(device: torch.device) -> int:
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    import resource  # not on Windows

    kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return kilobytes * (1 if sys.platform == "darwin" else 1024)
