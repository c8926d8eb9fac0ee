"""One training step and one validation: a thin LightningModule that holds a stock NeMo model."""

from __future__ import annotations

import math
import random
import time
from collections import deque
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import lightning.pytorch as lightning
import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.data import DataLoader

from quran_asr.findings import Finding, QuranAsrError
from quran_asr.records import SAMPLE_RATE
from quran_asr.runs.schedule import learning_rate
from quran_asr.runs.schema import Recipe
from quran_asr.train.batches import Batch, ClipSet, Item, training_loader, validation_loader
from quran_asr.train.curriculum import Curriculum, token_entropy
from quran_asr.train.model import EncDecHybridRNNTCTCBPEModel, frame_seconds
from quran_asr.train.transducer_loss import transducer_loss
from quran_asr.train.validation import Validation


@dataclass(slots=True)
class StepMeans:
    """Sums since the last line of `metrics.jsonl`."""

    batches: int = 0
    clips: int = 0
    tokens: int = 0
    transducer: float = 0.0
    transducer_clips: int = 0
    ctc: float = 0.0
    loss: float = 0.0
    audio_seconds: float = 0.0
    padding: float = 0.0
    gradient_norm: float = 0.0
    steps: int = 0
    waited: float = 0.0
    began: float = field(default_factory=time.perf_counter)


class TrainingModule(lightning.LightningModule):
    """Drives preprocessor, encoder, prediction network, joint and CTC head of a held model."""

    def __init__(
        self,
        model: EncDecHybridRNNTCTCBPEModel,
        recipe: Recipe,
        training: ClipSet,
        validation: ClipSet,
        on_finding: Callable[[Finding], None],
    ) -> None:
        super().__init__()
        self.on_finding = on_finding
        self._told_unreadable: set[str] = set()
        self.model = model
        self.recipe = recipe
        self.training_clips = training
        self.validation_clips = validation
        handful = sorted(random.Random(0).sample(range(len(training)), min(16, len(training))))
        self.handful = ClipSet([training.clips[i] for i in handful], cache_bytes=1 << 28)
        self.curriculum = Curriculum(token_entropy(clip.tokens for clip in training.clips))
        self.means = StepMeans()
        self.skipped_batches = 0
        self.skipped_in_a_row = 0
        self.ctc_history: deque[tuple[int, float]] = deque(maxlen=2000)
        self.validations: list[Validation] = []
        self.total_steps: int | None = None
        self._resume_at_batch = 0
        self._kept_gradients: list[Tensor | None] = []

    # --- data ---------------------------------------------------------------------------------------

    def train_dataloader(self) -> DataLoader[Item]:
        """Called anew for every epoch, because the curriculum may admit longer clips."""
        skip, self._resume_at_batch = self._resume_at_batch, 0
        longest = self.curriculum.longest_seconds(self.recipe, self.global_step)
        shortest = min(clip.segment.duration for clip in self.training_clips.clips)
        if longest is not None:
            longest = max(longest, 1.5 * shortest)  # a curriculum that admits nothing would be no training
        return training_loader(
            self.training_clips,
            self.recipe,
            epoch=self.current_epoch,
            longest=longest,
            skip=skip,
            pin=self.device.type == "cuda",
        )

    def val_dataloader(self) -> list[DataLoader[Item]]:
        ds = self.recipe.model.validation_ds
        pin = self.device.type == "cuda"
        return [
            validation_loader(clips, batch_size=ds.batch_size, num_workers=ds.num_workers, pin=pin)
            for clips in (self.validation_clips, self.handful)
        ]

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
        return batch.to(device)

    # --- optimization -------------------------------------------------------------------------------

    def configure_optimizers(self) -> dict[str, Any]:
        optim, d_model = self.recipe.model.optim, self.recipe.model.encoder.d_model
        steps = int(self.trainer.estimated_stepping_batches)
        self.total_steps = steps if steps > 0 and not math.isinf(steps) else None
        total = self.total_steps or 1
        optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=1.0, betas=optim.betas, weight_decay=optim.weight_decay
        )
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: learning_rate(step, optim, d_model, total)
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        if self.recipe.trainer.accumulate_grad_batches > 1:
            self._kept_gradients = [
                None if p.grad is None else p.grad.detach().clone() for p in self.model.parameters()
            ]

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor | None:
        """The weighted loss, mean over clips, or None for a batch that yields no finite number."""
        self._tell_unreadable(batch, self.training_clips)
        if not batch.indices:
            return None
        step = self.global_step + 1
        weight = self.curriculum.ctc_weight(self.recipe, step, self.total_steps)
        transducer, ctc = self.losses(batch, with_transducer=weight < 1.0)
        loss = ctc.mean() if transducer is None else weight * ctc.mean() + (1 - weight) * transducer.mean()
        if not bool(torch.isfinite(loss)):
            self._skip("its loss is not a finite number", batch)
            return None
        self.skipped_in_a_row = 0
        means = self.means
        means.batches += 1
        means.clips += len(batch.indices)
        means.tokens += int(batch.token_lengths.sum())
        means.ctc += float(ctc.sum())
        if transducer is not None:
            means.transducer += float(transducer.sum())
            means.transducer_clips += len(batch.indices)
        means.loss += float(loss)
        means.audio_seconds += batch.seconds
        means.padding += batch.padding_share
        self.curriculum.observe(self.recipe, step, float(ctc.sum()) / max(1, int(batch.token_lengths.sum())))
        return loss

    def losses(self, batch: Batch, *, with_transducer: bool = True) -> tuple[Tensor | None, Tensor]:
        """Transducer and CTC loss of each clip in nats, [B] each; the first is None unless asked for."""
        encoded, frames = self.encode(batch)
        ctc_scores = self.model.ctc_decoder(encoder_output=encoded)
        if self.recipe.quran.curriculum is not None:
            per_frame = round(SAMPLE_RATE * frame_seconds(self.model))
            ctc_scores = silent_until(ctc_scores, first_sound(batch.audio, per_frame))
        ctc = functional.ctc_loss(
            ctc_scores.transpose(0, 1).float(),
            batch.tokens,
            frames,
            batch.token_lengths,
            blank=ctc_scores.shape[-1] - 1,
            reduction="none",
            zero_infinity=True,
        )
        if not with_transducer:
            return None, ctc
        predicted, _, _ = self.model.decoder(targets=batch.tokens, target_length=batch.token_lengths)
        transducer = transducer_loss(
            encoded.transpose(1, 2),
            predicted.transpose(1, 2),
            self.model.joint,
            batch.tokens,
            frames,
            batch.token_lengths,
            fastemit_lambda=self.recipe.model.loss.warprnnt_numba_kwargs.fastemit_lambda,
            tile_clips=self.recipe.model.joint.fused_batch_size,
        )
        return transducer, ctc

    def encode(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Encoder output [B, D, T] and frames [B]; SpecAugment and a random look-ahead in training."""
        features, lengths = self.model.preprocessor(input_signal=batch.audio, length=batch.audio_lengths)
        if self.training and self.model.spec_augmentation is not None:
            features = self.model.spec_augmentation(input_spec=features, length=lengths)
        encoded, frames = self.model.encoder(audio_signal=features, length=lengths)
        return encoded, frames

    def on_after_backward(self) -> None:
        """A finite loss can still have gradients that are not; those must not reach the accumulated rest."""
        gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
        if not gradients or bool(torch.isfinite(torch.stack(torch._foreach_norm(gradients))).all()):
            return
        kept = self._kept_gradients or [None] * sum(1 for _ in self.model.parameters())
        for parameter, before in zip(self.model.parameters(), kept, strict=True):
            parameter.grad = before
        self._skip("its gradients are not finite numbers", None)

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
        if gradients:
            norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
            self.means.gradient_norm += float(norm)
        self.means.steps += 1

    def _tell_unreadable(self, batch: Batch, clips: ClipSet) -> None:
        for index, why in batch.unreadable:
            audio = clips.clips[index].segment.audio
            if audio in self._told_unreadable:
                continue
            self._told_unreadable.add(audio)
            self.on_finding(
                Finding("warning", "unreadable-clip", audio, f"left out of every batch: {why}", "")
            )

    def _skip(self, why: str, batch: Batch | None) -> None:
        self.skipped_batches += 1
        self.skipped_in_a_row += 1
        if self.skipped_in_a_row < self.recipe.quran.max_skipped_batches:
            return
        names = (
            ""
            if batch is None
            else ", ".join(self.training_clips.clips[i].segment.audio for i in batch.indices[:3])
        )
        raise QuranAsrError(
            f"{self.skipped_in_a_row} batches in a row were skipped, the last because {why}",
            where=names,
            remedy=_diagnosis(self.model, batch),
        )

    # --- validation ---------------------------------------------------------------------------------

    def on_validation_start(self) -> None:
        tokenizer = self.model.tokenizer
        self.validations = [Validation(self.model, tokenizer.ids_to_text) for _ in range(2)]

    def validation_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        clip_set = (self.validation_clips, self.handful)[dataloader_idx]
        self._tell_unreadable(batch, clip_set)
        if not batch.indices:
            return
        with torch.autocast(self.device.type, enabled=False):
            encoded, frames = self.encode(batch)
            self.validations[dataloader_idx].add(
                encoded, frames, [clip_set.clips[i].segment.text for i in batch.indices]
            )
            if dataloader_idx == 0:
                transducer, ctc = self.losses(batch)
                assert transducer is not None
                weight = self.recipe.model.aux_ctc.ctc_loss_weight
                self.validations[0].add_loss(weight * ctc + (1 - weight) * transducer)

    def on_validation_epoch_end(self) -> None:
        """Leaves what was measured in `trainer.callback_metrics`, where checkpoints and metrics find it."""
        measured = self.validations[0].measures()
        measured["train_wer"] = self.validations[1].measures()["wer"]
        for name, value in measured.items():
            key = {"wer": "val_wer", "ctc_wer": "val_wer_ctc"}.get(name, f"val_{name}")
            self.log(key, value, sync_dist=True)

    # --- checkpoints --------------------------------------------------------------------------------

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["quran_asr"] = {
            "curriculum": asdict(self.curriculum),
            "skipped_batches": self.skipped_batches,
            "ctc_history": list(self.ctc_history),
            "python_random": random.getstate(),
            "torch_random": torch.get_rng_state(),
            "batches_done": int(self.trainer.fit_loop.epoch_loop.batch_progress.current.processed),
        }
        # Written at the end of a batch, Lightning would count that batch as unfinished and shift the epoch.
        progress = checkpoint.get("loops", {}).get("fit_loop", {}).get("epoch_loop.batch_progress")
        if progress is not None:
            for counts in (progress["current"], progress["total"]):
                counts["completed"] = counts["processed"]

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        state = checkpoint["quran_asr"]
        self.curriculum = Curriculum(**state["curriculum"])
        self.skipped_batches = state["skipped_batches"]
        self.ctc_history.extend(tuple(pair) for pair in state["ctc_history"])
        version, internal, gauss = state["python_random"]
        random.setstate((version, tuple(internal), gauss))
        torch.set_rng_state(state["torch_random"])
        self._resume_at_batch = state["batches_done"]


def first_sound(audio: Tensor, samples_per_frame: int) -> Tensor:
    """The encoder frame in which each clip first reaches 1 % of its peak. audio [B, samples] -> [B]."""
    loudness = audio.abs()
    heard = loudness >= 0.01 * loudness.amax(dim=1, keepdim=True)
    return heard.to(torch.uint8).argmax(dim=1) // samples_per_frame


def silent_until(scores: Tensor, frame: Tensor) -> Tensor:
    """CTC scores under which nothing but blanks may stand up to and in a frame.

    A start from random weights may put the first token of every clip into one of its first frames, which
    are easily told from all others. With a wide look-ahead that costs nothing; without one the model then
    guesses how a recitation begins (in one of three quickstarts 111 of 134 first words were wrong at 0 ms).
    Before anything sounds, nothing can have been heard.

    Args:
        scores: [B, T, V + 1], natural log, blank last.
        frame: [B], the last silent frame of each clip.
    """
    silent = torch.arange(scores.shape[1], device=scores.device) <= frame[:, None]
    token = torch.arange(scores.shape[2], device=scores.device) < scores.shape[2] - 1
    return scores.masked_fill(silent[:, :, None] & token, -1e4)


def _diagnosis(model: EncDecHybridRNNTCTCBPEModel, batch: Batch | None) -> str:
    """What most likely made a batch useless, looked up in this order: weights, audio, rate."""
    broken = [name for name, p in model.named_parameters() if not bool(torch.isfinite(p).all())]
    if broken:
        return (
            f"the weights themselves are broken (first: {broken[0]}): resume from an earlier checkpoint "
            "with a lower rate, `model.optim.lr`"
        )
    if batch is not None and not bool(torch.isfinite(batch.audio).all()):
        return "the audio of these clips holds NaN or infinity: look at them and take them out"
    return "lower `model.optim.lr` or lengthen `model.optim.sched.warmup_steps`"
