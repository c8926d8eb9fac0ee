"""One training step and one validation: a thin LightningModule around a stock NeMo model."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any, NamedTuple

import lightning.pytorch as lightning
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader

from quran_asr.config.architecture import of_recipe
from quran_asr.config.schema import Recipe
from quran_asr.errors import Finding, QuranAsrError
from quran_asr.experiments.planning.cost import training_flops
from quran_asr.records import SAMPLE_RATE
from quran_asr.training.curriculum import Curriculum, token_entropy
from quran_asr.training.data.batches import Batch, ClipSet, Item, training_loader, validation_loader
from quran_asr.training.data.epoch import EpochBatches, Stage, stage_batches
from quran_asr.training.distributed import Ranks
from quran_asr.training.loss.consistency import consistency_loss
from quran_asr.training.loss.transducer import transducer_loss
from quran_asr.training.model import (
    EncDecHybridRNNTCTCBPEModel,
    checkpoint_layers,
    frame_counts,
    frame_seconds,
)
from quran_asr.training.optimizer import Gradients, ParamGroups, WeightAverage, make_room_for_moments
from quran_asr.training.out_of_memory import Limit, OomGuard, is_out_of_memory
from quran_asr.training.state import (
    EpochProgress,
    Resumed,
    StepMeans,
    random_states,
    resumed_from,
    set_random_states,
    settle_batches,
)
from quran_asr.training.validation import Validation


def other_rate(before: float, rate: float, step: int, total: int | None) -> Finding:
    """A run continues at another learning rate than it stopped with."""
    of = "" if total is None else f" of {total:,}"
    return Finding(
        "note",
        "other-rate",
        "model.optim",
        f"the learning rate continues at {rate:.2e} where it was {before:.2e}: that of step {step:,}{of} in "
        "a training that had been planned like this from its beginning",
        "model.optim.lr=... sets another",
    )


def too_many_useless(
    model: EncDecHybridRNNTCTCBPEModel, clips: ClipSet, batch: Batch | None, number: int, why: str
) -> QuranAsrError:
    """So many batches in a row were skipped that the training ends; `why` is that of the last."""
    indices = () if batch is None else batch.indices[:3]
    return QuranAsrError(
        f"{number} batches in a row were skipped, the last because {why}",
        where=", ".join(clips.clips[i].segment.audio for i in indices),
        remedy=_cause(model, batch),
    )


def _cause(model: EncDecHybridRNNTCTCBPEModel, batch: Batch | None) -> str:
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


def first_audible_frame(audio: Tensor, samples_per_frame: int) -> Tensor:
    """The encoder frame in which each clip first reaches 1 % of its peak. audio [B, samples] -> [B]."""
    loudness = audio.abs()
    audible = loudness >= 0.01 * loudness.amax(dim=1, keepdim=True)
    return audible.to(torch.uint8).argmax(dim=1) // samples_per_frame


def blanks_while_silent(scores: Tensor, frame: Tensor) -> Tensor:
    """CTC scores under which nothing but blanks may stand up to and in a frame.

    A start from random weights may put the first token of every clip into one of its first frames, which
    are easily distinguished from all others. With a wide look-ahead that costs nothing; without one the model
    then guesses how a recitation begins (in one of three quickstarts 111 of 134 first words were wrong).
    While a clip is silent, nothing has been recited.

    Args:
        scores: [B, T, V + 1], natural log, blank last.
        frame: [B], the last silent frame of each clip.
    """
    silent = torch.arange(scores.shape[1], device=scores.device) <= frame[:, None]
    token = torch.arange(scores.shape[2], device=scores.device) < scores.shape[2] - 1
    return scores.masked_fill(silent[:, :, None] & token, -1e4)


# A transducer's prediction network sees the tokens before the next one. Trained on whole verses it learns
# the text: it fails where a recording continues with another verse, and it corrects the reciter. Two
# changes of its input prevent that. It restarts at a word in the middle of a clip, as
# the decoder does behind a pause; and some tokens are others than those recited, as after a recognition
# error.


def restarts(clips: Sequence[Sequence[int]], begins_word: Sequence[bool], share: float) -> list[int]:
    """How many tokens come before the place where the prediction network restarts; 0: it does not.

    Drawn from Python's generator, which checkpoints keep.

    Args:
        clips: the tokens of each clip.
        begins_word: whether a token begins a word, by its id.
        share: of the clips, 0 to 1.
    """
    starts = []
    for tokens in clips:
        places = [place for place, token in enumerate(tokens) if place and begins_word[token]]
        starts.append(random.choice(places) if share and places and random.random() < share else 0)
    return starts


def with_wrong_tokens(tokens: Tensor, share: float, vocabulary: int) -> Tensor:
    """Tokens, int64 [B, U], of which a share is replaced by any of the vocabulary, equally likely."""
    if not share:
        return tokens
    wrong = torch.rand(tokens.shape, device=tokens.device) < share
    return torch.where(wrong, torch.randint_like(tokens, vocabulary), tokens)


class Losses(NamedTuple):
    """Of each clip of a batch, nats [B]; of two views the mean."""

    transducer: Tensor | None
    """None if it was not asked for."""
    ctc: Tensor
    consistency: Tensor | None
    """Between two views; None where there is one."""


class TrainingModule(lightning.LightningModule):
    """Drives preprocessor, encoder, prediction network, joint and CTC head of a held model."""

    def __init__(
        self,
        model: EncDecHybridRNNTCTCBPEModel,
        recipe: Recipe,
        training: ClipSet,
        validation: ClipSet,
        on_finding: Callable[[Finding], None],
        ranks: Ranks = Ranks(),  # noqa: B008 - frozen
        total_steps: int | None = None,
        limit: Limit | None = None,
        copied: frozenset[str] = frozenset(),
    ) -> None:
        """`total_steps`: optimizer steps of the whole training; None where no limit is set.

        `copied`: parameters of the model that the recipe treats apart (see `training/optimizer.py`).
        """
        super().__init__()
        self.ranks = ranks
        self.on_finding = on_finding
        self._reported_unreadable: set[str] = set()
        self.model = model
        self.recipe = recipe
        self.training_clips = training
        self.validation_clips = validation
        train_subset = sorted(random.Random(0).sample(range(len(training)), min(16, len(training))))
        self.train_subset = ClipSet([training.clips[i] for i in train_subset], cache_bytes=1 << 28)
        self.curriculum = Curriculum(token_entropy(clip.tokens for clip in training.clips))
        self.means = StepMeans()
        self.gradients = Gradients(model, recipe.trainer.accumulate_grad_batches)
        self.architecture = of_recipe(recipe.model, recipe.quran.vocabulary_size)
        self.validations: list[Validation] = []
        self.total_steps = total_steps
        self.groups = ParamGroups(
            model,
            recipe.model.optim,
            recipe.model.encoder.d_model,
            total_steps,
            copied=copied,
            copied_rate=recipe.quran.copied_rate,
            frozen_steps=recipe.quran.unfreeze_after,
            ranks=ranks,
        )
        self.progress = EpochProgress()
        self.validated_at = -1
        self.engine = "torch"
        """Of the transducer loss."""
        self._resumed: Resumed | None = None
        self._frames_agree: bool | None = None
        if recipe.quran.activation_checkpointing:
            checkpoint_layers(model)
        pieces = [model.tokenizer.ids_to_tokens([token])[0] for token in range(model.tokenizer.vocab_size)]
        self._begins_word = [piece.startswith("▁") for piece in pieces]
        self.weight_average = WeightAverage(recipe.quran.weight_average, model.parameters())
        self.oom_guard = OomGuard(ranks, limit)
        self.out_of_memory = False
        """The optimizer step at hand cannot be made: a checkpoint is of the one before."""
        self._before_the_step: dict[str, Any] = {}

    def train_dataloader(self) -> DataLoader[Item]:
        """Called again for every epoch, because the curriculum may admit longer clips."""
        if self._resumed is None or not self._resumed.stages:
            plain = self.recipe.quran.curriculum is not None and self.curriculum.left_at is None
            self.progress = EpochProgress((self.stage(self._longest_clip(), plain=plain),))
        else:
            self.progress = EpochProgress(self._resumed.stages, self._resumed.counted)
            self._resumed.stages = ()
        now = self.progress.stages[-1]
        self.training_clips.set_plain(now.plain)
        durations = self.training_clips.seconds(now.seed, self.current_epoch)
        stages, shards = self.progress.stages, self.training_clips.shards
        batches = stage_batches(durations, stages, self.current_epoch, self.ranks.rank, shards)
        return training_loader(
            self.training_clips,
            EpochBatches(batches[now.done :], self.progress.counted),
            num_workers=self.recipe.model.train_ds.num_workers,
            seed=now.seed,
            epoch=self.current_epoch,
            pin=self.device.type == "cuda",
        )

    def _longest_clip(self) -> float | None:
        durations = [clip.segment.duration for clip in self.training_clips.clips]
        settings, longest = self.recipe.quran.curriculum, self.recipe.model.train_ds.max_duration
        return self.curriculum.longest_clip(settings, self.global_step, longest, durations)

    def ctc_weight(self, step: int) -> float:
        """Weight of the CTC loss in an optimizer step, counted from 1."""
        last = self.recipe.model.aux_ctc.ctc_loss_weight
        return self.curriculum.ctc_weight(self.recipe.quran.curriculum, step, self.total_steps, last)

    def stage(self, longest: float | None, *, plain: bool = False) -> Stage:
        """An epoch's beginning under the recipe's settings."""
        ds = self.recipe.model.train_ds
        seed = self.recipe.quran.seed
        window = self.ranks.size * self.recipe.trainer.accumulate_grad_batches
        return Stage(
            seed, ds.batch_size, ds.batch_duration, longest, self.ranks.size, window=window, plain=plain
        )

    def val_dataloader(self) -> list[DataLoader[Item]]:
        ds = self.recipe.model.validation_ds
        pin = self.device.type == "cuda"
        return [
            validation_loader(
                clips, batch_size=ds.batch_size, num_workers=ds.num_workers, pin=pin, ranks=self.ranks
            )
            for clips in (self.validation_clips, self.train_subset)
        ]

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
        return batch.to(device)

    def configure_optimizers(self) -> dict[str, Any]:
        return self.groups.configure_optimizers()

    def on_train_start(self) -> None:
        """What a checkpoint does not decide, and what only now has its place."""
        optimizer, rate = self.trainer.optimizers[0], self.groups.rate(self.global_step)
        before = optimizer.param_groups[0]["lr"]
        self.groups.apply_recipe(optimizer, self.global_step)
        resumed = self._resumed
        if resumed is None:
            return
        if abs(rate - before) > 0.01 * before:
            self.on_finding(other_rate(before, rate, self.global_step, self.total_steps))
        if resumed.means is not None:
            elapsed = resumed.means.pop("elapsed")
            self.means = StepMeans(**resumed.means, began=time.perf_counter() - elapsed)
        for parameter, gradient in zip(self.model.parameters(), resumed.gradients, strict=False):
            parameter.grad = None if gradient is None else gradient.to(parameter.device)
        if resumed.gradients:
            self.gradients.usable.fill_(resumed.window["usable"])
            self.gradients.norm.fill_(resumed.window["norm"])
        if resumed.random is not None:
            set_random_states(resumed.random, self.device)

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        self.groups.freeze(self.global_step)
        self.oom_guard.begin(batch)
        with self.oom_guard:
            self.gradients.begin(batch_idx % self.recipe.trainer.accumulate_grad_batches)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor | None:
        """The weighted loss, mean over clips, or None for a batch without clips. Waits for no device.

        Among several processes it does wait, to put 0 in the place of a loss that is not finite: the others'
        gradients are not to suffer. A curriculum waits too: the loss decides how it continues.
        """
        self._report_unreadable(batch, self.training_clips)
        if batch_idx % self.recipe.trainer.accumulate_grad_batches == 0:
            self._before_the_step = asdict(self.curriculum)
        step = self.global_step + 1
        weight = self.ctc_weight(step)
        loss = transducer = each_ctc = None
        with self.oom_guard:
            self.oom_guard.admit(batch)
            if batch.indices:
                transducer, each_ctc, consistency = self.losses(batch, with_transducer=weight < 1.0)
                loss = each_ctc.mean()
                if consistency is not None:
                    loss = loss + self.recipe.quran.consistency * consistency.mean()
                if transducer is not None:
                    loss = weight * loss + (1 - weight) * transducer.mean()
        ctc = tokens = 0.0
        if loss is not None and each_ctc is not None:
            finite = self.gradients.finite_loss = torch.isfinite(loss.detach())
            clips = [self.training_clips.clips[i] for i in batch.indices]
            flops = sum(training_flops(self.architecture, c.segment.duration, len(c.tokens)) for c in clips)
            flops *= self.recipe.quran.views
            self.means.add(batch, loss, transducer, each_ctc, flops, finite)
            if self.recipe.quran.curriculum is not None and bool(finite):
                ctc, tokens = float(each_ctc.sum()), float(sum(batch.labels))
            if self.ranks.size > 1 and not bool(finite):
                loss = None
        if self.recipe.quran.curriculum is not None:  # all processes have to decide alike
            ctc, tokens = self.ranks.total([ctc, tokens])
        if tokens:
            self.curriculum.observe(self.recipe.quran.curriculum, step, ctc / tokens)
        if loss is None and self.ranks.size > 1:  # the others wait for this one's gradients: let them be 0
            loss = 0.0 * torch.stack([parameter.sum() for parameter in self.model.parameters()]).sum()
        return loss

    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        """Gradients, where there is memory for them."""
        with self.oom_guard:
            loss.backward(*args, **kwargs)  # type: ignore[no-untyped-call]

    def losses(
        self,
        batch: Batch,
        encoded_batch: tuple[Tensor, Tensor] | None = None,
        *,
        with_transducer: bool = True,
    ) -> Losses:
        """Losses of each clip; `encoded_batch`: from `encode`, where that has been called."""
        encoded, on_device = encoded_batch or self.encode(batch)
        views = len(encoded) // len(batch.labels)
        if views > 1:
            batch = batch.repeated(views)
        frames, labels = self._known_frames(batch, on_device), torch.tensor(batch.labels)
        ctc_scores = self.model.ctc_decoder(encoder_output=encoded)
        if self.recipe.quran.curriculum is not None:
            per_frame = round(SAMPLE_RATE * frame_seconds(self.model))
            ctc_scores = blanks_while_silent(ctc_scores, first_audible_frame(batch.audio, per_frame))
        ctc = functional.ctc_loss(
            ctc_scores.transpose(0, 1).float(),
            batch.tokens,
            frames,
            labels,
            blank=ctc_scores.shape[-1] - 1,
            reduction="none",
            zero_infinity=True,
        )
        consistency = consistency_loss(ctc_scores, on_device) if views > 1 else None
        ctc = ctc.view(views, -1).mean(dim=0)
        if not with_transducer:
            return Losses(None, ctc, consistency)
        transducer = transducer_loss(
            encoded.transpose(1, 2),
            self._predicted(batch),
            self.model.joint,
            batch.tokens,
            frames,
            labels,
            fastemit_lambda=self.recipe.model.loss.warprnnt_numba_kwargs.fastemit_lambda,
            tile_clips=self.recipe.model.joint.fused_batch_size,
            engine=self.engine,
        )
        return Losses(transducer.view(views, -1).mean(dim=0), ctc, consistency)

    def _predicted(self, batch: Batch) -> Tensor:
        """Output of the prediction network after each prefix of the tokens, [B, U + 1, H]."""
        prefix, starts = batch.tokens, [0] * len(batch.labels)
        if self.training:
            quran = self.recipe.quran
            prefix = with_wrong_tokens(prefix, quran.prefix_noise, len(self._begins_word))
            if quran.prefix_resets:
                clips = [self.training_clips.clips[index].tokens for index in batch.indices]
                starts = restarts(clips, self._begins_word, quran.prefix_resets)
        output, _, _ = self.model.decoder(targets=prefix, target_length=batch.token_lengths)
        predicted: Tensor = output.transpose(1, 2)
        rows = [row for row, start in enumerate(starts) if start]
        if not rows:
            return predicted
        rest = nn.utils.rnn.pad_sequence([prefix[row, starts[row] :] for row in rows], batch_first=True)
        lengths = batch.token_lengths[rows] - torch.tensor([starts[row] for row in rows], device=rest.device)
        restarted, _, _ = self.model.decoder(targets=rest, target_length=lengths)
        joined = [
            torch.cat([predicted[row, : starts[row]], again[: predicted.shape[1] - starts[row]]])
            for row, again in zip(rows, restarted.transpose(1, 2), strict=True)
        ]
        return predicted.index_copy(0, torch.tensor(rows, device=predicted.device), torch.stack(joined))

    def _known_frames(self, batch: Batch, frames: Tensor) -> Tensor:
        """Frames [B] of the encoder's output, in this process's memory: computed, where that was right once.

        Losses have to know them, and reading them from a GPU would wait for the encoder.
        """
        computed = frame_counts(self.model, batch.samples)
        if self._frames_agree is None:
            self._frames_agree = torch.equal(computed, frames.cpu())
        return computed if self._frames_agree else frames.cpu()

    def encode(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Encoder output [B, D, T] and frames [B]; SpecAugment and a random look-ahead in training.

        Then B counts the clips once for each view: all of them in the first, all again in the second.
        """
        features, lengths = self.model.preprocessor(input_signal=batch.audio, length=batch.audio_lengths)
        views = self.recipe.quran.views
        if self.training and views > 1:
            features, lengths = features.repeat(views, 1, 1), lengths.repeat(views)
        if self.training and self.model.spec_augmentation is not None:
            features = self.model.spec_augmentation(input_spec=features, length=lengths)
        encoded, frames = self.model.encoder(audio_signal=features, length=lengths)
        return encoded, frames

    def on_after_backward(self) -> None:
        """A finite loss can still have gradients that are not; those must not reach the accumulated rest."""
        alone = self.ranks.size == 1
        accumulates = self.recipe.trainer.accumulate_grad_batches > 1
        ends = not alone and accumulates and not self._in_window()
        with self.oom_guard:
            self.gradients.diagnose(self.ranks.average if ends else None, alone)

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """The last place where a lack of memory leaves the weights as they are."""
        with self.oom_guard:
            make_room_for_moments(optimizer)
        self.gradients.decide(optimizer)
        self.means.add_norm(self.gradients.norm)
        self.means.steps += 1

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """By the norm that is known already."""
        if gradient_clip_val:
            self.gradients.clip(gradient_clip_val)

    def _report_unreadable(self, batch: Batch, clips: ClipSet) -> None:
        for index, why in batch.unreadable:
            audio = clips.clips[index].segment.audio
            if audio in self._reported_unreadable:
                continue
            self._reported_unreadable.add(audio)
            self.on_finding(
                Finding("warning", "unreadable-clip", audio, f"left out of every batch: {why}", "")
            )

    @property
    def skipped_batches(self) -> int:
        """Of the whole training; to know it waits for the device."""
        return self.gradients.skipped

    def stop_if_all_is_skipped(self, batch: Batch | None) -> None:
        """Give up where too many batches in a row were of no use; `batch` is the last. Waits for the device.

        Raises:
            QuranAsrError: with what most likely is the cause.
        """
        count, why, still = self.gradients.skipped_in_a_row()
        if count < self.recipe.quran.max_skipped_batches:
            return
        raise too_many_useless(self.model, self.training_clips, batch if still else None, count, why)

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:
        if (batch_idx + 1) % self.recipe.trainer.accumulate_grad_batches == 0 or self.trainer.is_last_batch:
            self.weight_average.update(self.model.parameters(), self.global_step)

    def on_validation_start(self) -> None:
        self.weight_average.exchange(self.model.parameters())
        kept = set(self.model.state_dict())
        statistics = [
            buffer
            for name, buffer in self.model.named_buffers()
            if name in kept and buffer.is_floating_point()
        ]
        self.ranks.collect(statistics, [0] * len(statistics))  # those of the first are in the checkpoints
        tokenizer = self.model.tokenizer
        self.validations = [Validation(self.model, tokenizer.ids_to_text) for _ in range(2)]

    def validation_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        clip_set = (self.validation_clips, self.train_subset)[dataloader_idx]
        self._report_unreadable(batch, clip_set)
        if not batch.indices:
            return
        self._validate_batch(batch, clip_set, dataloader_idx)

    def _validate_batch(self, batch: Batch, clip_set: ClipSet, which: int) -> None:
        """Decode and count a batch; in halves where it does not fit into memory."""
        try:
            with torch.autocast(self.device.type, enabled=False):
                encoded, frames = self.encode(batch)
                texts = [clip_set.clips[i].segment.text for i in batch.indices]
                losses = self.losses(batch, (encoded, frames)) if which == 0 else None
                self.validations[which].add(encoded, frames, texts, batch.indices)
                if losses is not None and losses.transducer is not None:
                    weight = self.recipe.model.aux_ctc.ctc_loss_weight
                    self.validations[which].add_loss((1 - weight) * losses.transducer + weight * losses.ctc)
            return
        except (RuntimeError, MemoryError) as error:  # nothing of the batch was counted: that comes last
            if not is_out_of_memory(error) or len(batch.indices) == 1:
                raise
        for half in batch.halves():
            self._validate_batch(half, clip_set, which)

    def on_validation_epoch_end(self) -> None:
        """Leaves what was measured in `trainer.callback_metrics`, where checkpoints and metrics find it."""
        for validation in self.validations:
            validation.join(self.ranks)
        measured = self.validations[0].measures()
        measured["train_wer"] = self.validations[1].measures()["wer"]
        for name, value in measured.items():
            key = {"wer": "val_wer", "ctc_wer": "val_wer_ctc"}.get(name, f"val_{name}")
            self.log(key, value, logger=False)  # `training/metrics.py` writes it, at the right step

    def on_validation_end(self) -> None:
        self.weight_average.exchange(self.model.parameters())

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        done = settle_batches(
            checkpoint["loops"]["fit_loop"],
            self.recipe.trainer.accumulate_grad_batches if self.out_of_memory else None,
        )
        stages = [asdict(stage) for stage in self.progress.stages]
        stages[-1]["done"] += done - self.progress.counted
        means = asdict(self.means)
        means["elapsed"] = time.perf_counter() - means.pop("began")
        means["sums"] = means["sums"].cpu()
        checkpoint["quran_asr"] = {
            "curriculum": self._before_the_step if self.out_of_memory else asdict(self.curriculum),
            "skipped_batches": self.skipped_batches,
            "random": self.ranks.gather(random_states(self.device)),
            "stages": stages,
            "accumulation": self.recipe.trainer.accumulate_grad_batches,
            "means": means,
            "validated": self.validated_at == self.global_step,
        }
        checkpoint["state_dict"].update(
            zip(self._parameter_names(), self.weight_average.trained(self.model), strict=True)
        )
        checkpoint["quran_asr"]["weight_average"] = self.weight_average.averaged(self.model)
        if self._in_window() and not self.out_of_memory:
            gradients = [None if p.grad is None else p.grad.detach().clone() for p in self.model.parameters()]
            self.ranks.average([gradient for gradient in gradients if gradient is not None])
            window = {"usable": int(self.gradients.usable), "norm": float(self.gradients.norm)}
            checkpoint["quran_asr"] |= {"gradients": gradients, "window": window}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        state = checkpoint["quran_asr"]
        self.curriculum = Curriculum(**state["curriculum"])
        self.gradients.skipped = state["skipped_batches"]
        self.validated_at = int(checkpoint["global_step"]) if state["validated"] else -1
        weights = [checkpoint["state_dict"][name] for name in self._parameter_names()]
        self.weight_average.restore(state.get("weight_average") or weights)
        counts = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]["current"]
        window = self.recipe.trainer.accumulate_grad_batches
        last = state["stages"][-1]
        now = self.stage(last["longest"], plain=last.get("plain", False))
        self._resumed = resumed_from(state, counts, now, window, self.ranks)

    def _parameter_names(self) -> list[str]:
        """As they stand in a checkpoint's `state_dict`."""
        return [f"model.{name}" for name, _ in self.model.named_parameters()]

    def _in_window(self) -> bool:
        """Whether gradients of some batches wait for the others of an accumulation window."""
        progress = self.trainer.fit_loop.epoch_loop.batch_progress
        window = self.recipe.trainer.accumulate_grad_batches
        return progress.current.ready % window != 0 and not progress.is_last_batch
