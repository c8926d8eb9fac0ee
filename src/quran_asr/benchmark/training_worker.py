"""A worker of the training benchmark: stock NeMo's training or ours, in a process of its own.

Both train the same weights on the same batches. Stock runs its own `training_step`, loss, data loader,
optimizer and schedule, with the guide's fused joint; ours is what `quran-asr train` runs. Both go through
Lightning's `Trainer.fit`.
"""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import lightning.pytorch as lightning
import torch
from omegaconf import OmegaConf
from torch import Tensor, nn

from quran_asr.benchmark.loss import peak_bytes
from quran_asr.benchmark.training_tables import PARTS, LossTime, StepTime
from quran_asr.config.recipe import load_recipe
from quran_asr.config.schema import Recipe
from quran_asr.experiments.run_folder import RunFolder
from quran_asr.records import Segment
from quran_asr.training.cpu import suit_cpu
from quran_asr.training.data.batches import Batch, ClipSet, tokenize, validation_loader
from quran_asr.training.distributed import Ranks
from quran_asr.training.loss.engine import usable_engine
from quran_asr.training.loss.lattice import lattice_loss
from quran_asr.training.loss.transducer import transducer_loss
from quran_asr.training.model import EncDecHybridRNNTCTCBPEModel, build_model, frame_counts, model_config
from quran_asr.training.module import TrainingModule
from quran_asr.training.tokenizer import Tokenizer
from quran_asr.training.trainer import make_trainer, quiet


def now(device: torch.device) -> float:
    """Seconds of the process on a CPU, of the wall on a GPU, all work done."""
    if device.type == "cpu":
        return time.process_time()
    torch.cuda.synchronize(device)
    return time.perf_counter()


@dataclass
class Clock(lightning.Callback):
    """Divides each step into parts: the time between two marks belongs to the part that the later one names.

    On a GPU marks are events in its stream, so that only the end of a step waits for them.
    """

    device: torch.device
    model: EncDecHybridRNNTCTCBPEModel
    steps: list[StepTime] = field(default_factory=list)
    _marks: list[tuple[str, Any]] = field(default_factory=list)

    def mark(self, part: str) -> None:
        self._marks.append((part, self._now()))

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Marks the beginning and end of the parts of a forward pass."""
        model = self.model
        begins = ((model.decoder, "loss"), (model.joint, "loss"), (model.loss, "joint"))
        ends = (
            (model.encoder, "encoder"),
            (model.decoder, "prediction"),
            (model.joint, "loss"),
            (model.loss, "loss"),
        )
        hooks = [
            *(
                module.register_forward_pre_hook(lambda *_, part=part: self.mark(part))
                for module, part in begins
            ),
            *(module.register_forward_hook(lambda *_, part=part: self.mark(part)) for module, part in ends),
        ]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def on_train_start(self, trainer: Any, module: Any) -> None:
        self._marks = [("", self._now())]

    def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, batch_idx: int) -> None:
        self.mark("data")

    def on_before_zero_grad(self, trainer: Any, module: Any, optimizer: Any) -> None:
        self.mark("loss")

    def on_before_backward(self, trainer: Any, module: Any, loss: Any) -> None:
        self.mark("optimizer")

    def on_after_backward(self, trainer: Any, module: Any) -> None:
        self.mark("backward")

    def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        loss = float(outputs["loss"])
        self.mark("optimizer")
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        parts = dict.fromkeys(PARTS, 0.0)
        for (_, before), (part, after) in zip(self._marks, self._marks[1:], strict=False):
            parts[part] += after - before if self.device.type == "cpu" else before.elapsed_time(after) / 1000
        self.steps.append(StepTime(sum(parts.values()), parts, loss))
        self._marks = [("", self._now())]

    def _now(self) -> Any:
        if self.device.type == "cpu":
            return time.process_time()
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record()
        return event


CERTAIN = 1e4
"""Of a score: no other comes near."""


def validation_seconds_per_hour(module: TrainingModule, device: torch.device) -> float:
    """Validate a module's validation clips; CPU seconds on a CPU, seconds of the wall on a GPU.

    Includes both decoders, the losses and the error counts; audio that is cached is not read again.
    """
    clips, ds = module.validation_clips, module.recipe.model.validation_ds
    loader = validation_loader(clips, batch_size=ds.batch_size, num_workers=0, pin=False, ranks=Ranks())
    batches: list[Batch] = list(loader)
    module.eval()
    try:
        with torch.no_grad(), talkative(module, batches):
            module.on_validation_start()
            module.validation_step(batches[0].to(device), 0)  # allocations of the first call
            began = now(device)
            for number, batch in enumerate(batches):
                module.validation_step(batch.to(device), number)
            seconds = now(device) - began
    finally:
        module.train()
    return 3600 * seconds / sum(clip.segment.duration for clip in clips.clips)


@contextmanager
def talkative(module: TrainingModule, batches: list[Batch]) -> Iterator[None]:
    """Let the transducer emit about as many tokens as the batches have, at random frames.

    Random weights emit the maximum number of symbols at every frame, or none, and the cost of decoding grows
    with the symbols: neither is typical of a training after its first hour.
    """
    tokens = sum(sum(batch.labels) for batch in batches)
    frames = sum(int(frame_counts(module.model, batch.samples).sum()) for batch in batches)
    share = tokens / (tokens + frames)  # of the joint's outputs: each frame ends with a blank
    draw = torch.Generator(module.device).manual_seed(0)

    def choose(layer: nn.Module, inputs: tuple[Tensor, ...], scores: Tensor) -> None:
        emits = torch.rand(scores.shape[:-1], device=scores.device, generator=draw) < share
        scores[..., -1] = torch.where(emits, -CERTAIN, CERTAIN)

    hook = module.model.joint.joint_net[-1].register_forward_hook(choose)
    try:
        yield
    finally:
        hook.remove()


@dataclass(frozen=True, slots=True)
class Setup:
    """The setup of a worker."""

    system: str
    recipe: str
    overrides: tuple[str, ...]
    tokenizer: Path
    segments: tuple[Segment, ...]
    manifest: Path
    """The same in the order of our batches, for NeMo."""
    device: str
    """`cpu` or `cuda`"""
    threads: int


@contextmanager
def load(setup: Setup) -> Iterator[TrainingWorker]:
    """For `benchmark.worker`."""
    with quiet():
        yield TrainingWorker(setup)


class TrainingWorker:
    """Stock NeMo's model or ours, and its measurements."""

    def __init__(self, setup: Setup) -> None:
        self.setup = setup
        self.device = torch.device(setup.device)
        self.recipe = load_recipe(setup.recipe, setup.overrides)
        if self.device.type == "cpu":
            torch.set_num_threads(setup.threads)
        lightning.seed_everything(self.recipe.quran.seed, verbose=False)
        if setup.system == "stock":
            self.model = build_stock(self.recipe, setup.tokenizer, setup.manifest)
            self.engine = "warprnnt_numba"
            self.module: lightning.LightningModule = self.model
        else:
            self.engine, _ = usable_engine(self.device)
            self.model = build_model(self.recipe, setup.tokenizer)
            if self.device.type == "cpu":
                suit_cpu(self.model)
            clips = tokenize(setup.segments, Tokenizer(setup.tokenizer))
            quran = self.recipe.quran
            training = ClipSet(
                clips,
                cache_bytes=int(quran.audio_cache_gb * 1e9),
                training=True,
                augment=quran.augment,
                seed=quran.seed,
            )
            module = TrainingModule(
                self.model, self.recipe, training, training, lambda finding: None, total_steps=1_000_000
            )
            module.engine = self.engine
            self.module = module

    def describe(self) -> dict[str, Any]:
        """The model, and the shapes of the first batch: both workers must report the same."""
        encoder, _, frames, targets, labels = self._loss_inputs()
        weights = sum(float(p.detach().double().abs().sum()) for p in self.model.parameters())
        name = torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else "CPU core"
        return {
            "parameters": sum(p.numel() for p in self.model.parameters()),
            "weights": round(weights, 3),
            "shape": [
                len(encoder),
                int(frames.max()),
                int(labels.max()),
                self.model.joint.num_classes_with_blank,
            ],
            "tokens": int(labels.sum()),
            "targets": int(targets.sum()),
            "device": name,
        }

    def steps(self, count: int, precision: str | int | None = None) -> list[StepTime]:
        """Train `count` steps after one that is not counted."""
        return self.train(count + 1, precision)[1:]

    def train(self, count: int, precision: str | int | None = None) -> list[StepTime]:
        """Train `count` steps, all of them counted."""
        clock = Clock(self.device, self.model)
        with clock.listening():
            self._fit(count, clock, precision or self.recipe.trainer.precision)
        return clock.steps

    def loss(self) -> LossTime:
        """Joint and loss once, forward and backward, after one warm-up."""
        inputs = self._loss_inputs()
        logits = self._logits(*inputs).requires_grad_()
        works: tuple[Callable[[], None], ...] = (
            lambda: self._joint_loss(*inputs),
            lambda: self._loss(logits, *inputs),
            lambda: self._joint(*inputs),
        )
        if not self._warm:
            for work in works:
                work()
            self._warm = True
        return LossTime(*(self._timed(work) for work in works))

    def validation(self) -> float:
        """Of ours: seconds of validation per hour of audio."""
        assert isinstance(self.module, TrainingModule)
        return validation_seconds_per_hour(self.module.to(self.device), self.device)

    def memory(self) -> tuple[int | None, int]:
        """Peak bytes of joint and loss, and of all training so far."""
        inputs = self._loss_inputs()
        self._joint_loss(*inputs)
        return peak_bytes(lambda: self._joint_loss(*inputs), self.device), self._peak

    # --- training -----------------------------------------------------------------------------------

    _peak = 0
    _warm = False

    def _fit(self, steps: int, clock: Clock, precision: str | int) -> None:
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        random.seed(self.recipe.quran.seed)  # the same look-aheads in both
        if self.setup.system == "stock":
            trainer = lightning.Trainer(
                accelerator="gpu" if self.device.type == "cuda" else "cpu",
                devices=1,
                max_steps=steps,
                precision=precision if self.device.type == "cuda" else 32,
                gradient_clip_val=self.recipe.trainer.gradient_clip_val or None,
                log_every_n_steps=1_000_000_000,  # NeMo decodes a batch whenever it logs: not timed here
                limit_val_batches=0,
                num_sanity_val_steps=0,
                logger=False,
                enable_checkpointing=False,
                enable_progress_bar=False,
                enable_model_summary=False,
                callbacks=[clock],
            )
        else:
            words = (*self.setup.overrides, f"trainer.max_steps={steps}", f"trainer.precision={precision}")
            recipe = load_recipe(self.setup.recipe, words)
            trainer = make_trainer(recipe, RunFolder(Path()), [clock], lambda finding: None, Ranks(), 0)
        trainer.fit(self.module)
        if self.device.type == "cuda":
            self._peak = int(torch.cuda.max_memory_allocated(self.device))
            self.model.to(self.device)
        else:
            import resource  # not on Windows

            self._peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (
                1 if sys.platform == "darwin" else 1024
            )

    # --- joint and loss alone -------------------------------------------------------------------------

    def _loss_inputs(self) -> tuple[torch.Tensor, ...]:
        """Encoder output [B, D, T], prediction [B, P, U + 1], frames [B], targets [B, U], labels [B]."""
        model = self.model.to(self.device)
        audio, lengths, targets, labels = self._first_batch()
        with torch.no_grad(), self._autocast():
            features, lengths = model.preprocessor(input_signal=audio, length=lengths)
            encoder, frames = model.encoder(audio_signal=features, length=lengths)
            prediction, _, _ = model.decoder(targets=targets, target_length=labels)
        outputs = [one.detach().clone().requires_grad_() for one in (encoder, prediction)]
        return (*outputs, frames, targets, labels)

    def _first_batch(self) -> list[torch.Tensor]:
        if self.setup.system == "stock":
            batch = next(iter(self.model.train_dataloader()))
        else:
            assert isinstance(self.module, TrainingModule)
            first: Any = next(iter(self.module.train_dataloader()))
            batch = (first.audio, first.audio_lengths, first.tokens, first.token_lengths)
        return [tensor.to(self.device) for tensor in batch]

    def _joint_loss(self, encoder: Any, prediction: Any, frames: Any, targets: Any, labels: Any) -> None:
        with self._autocast():
            if self.setup.system == "stock":
                loss, *_ = self.model.joint(
                    encoder_outputs=encoder,
                    decoder_outputs=prediction,
                    encoder_lengths=frames,
                    transcripts=targets,
                    transcript_lengths=labels,
                    compute_wer=False,
                )
            else:
                loss = transducer_loss(
                    encoder.transpose(1, 2),
                    prediction.transpose(1, 2),
                    self.model.joint,
                    targets,
                    frames,
                    labels,
                    fastemit_lambda=self.recipe.model.loss.warprnnt_numba_kwargs.fastemit_lambda,
                    tile_clips=self.recipe.model.joint.fused_batch_size,
                    engine=self.engine,
                ).mean()
        loss.backward()
        self._forget_gradients(encoder, prediction)

    def _loss(
        self, scores: Any, encoder: Any, prediction: Any, frames: Any, targets: Any, labels: Any
    ) -> None:
        """From the joint's output [B, T, U + 1, V + 1] to its gradient: log-probabilities on a CPU."""
        if self.setup.system == "stock":
            loss = self.model.loss(
                log_probs=scores, targets=targets, input_lengths=frames, target_lengths=labels
            )
        else:
            log_probs = scores if self.device.type == "cpu" else scores.float().log_softmax(-1)
            blank = torch.full_like(targets[:, :1], scores.shape[3] - 1)
            onward = torch.stack([blank.expand(-1, scores.shape[2]), torch.cat([targets, blank], 1)], -1)
            arcs = log_probs.gather(3, onward[:, None].expand(-1, scores.shape[1], -1, -1))
            lambda_ = self.recipe.model.loss.warprnnt_numba_kwargs.fastemit_lambda
            loss = lattice_loss(
                arcs[..., 0], arcs[:, :, :-1, 1], frames, labels, fastemit_lambda=lambda_
            ).mean()
        loss.backward()
        scores.grad = None

    @torch.no_grad()
    def _logits(self, encoder: Any, prediction: Any, *_: Any) -> torch.Tensor:
        with self._autocast():
            logits: torch.Tensor = self.model.joint.joint(encoder.transpose(1, 2), prediction.transpose(1, 2))
        return logits

    def _joint(self, encoder: Any, prediction: Any, frames: Any, targets: Any, labels: Any) -> None:
        """NeMo's joint forward and backward, in the tiles in which stock calls it."""
        clips = self.recipe.model.joint.fused_batch_size or len(encoder)
        for first in range(0, len(encoder), clips):
            tile = slice(first, first + clips)
            frame_count, label_count = int(frames[tile].max()), int(labels[tile].max())
            f = encoder[tile, :, :frame_count].transpose(1, 2)
            g = prediction[tile, :, : label_count + 1].transpose(1, 2)
            with self._autocast():
                logits = self.model.joint.joint(f, g)
            logits.backward(torch.ones_like(logits))
        self._forget_gradients(encoder, prediction)

    def _forget_gradients(self, *inputs: torch.Tensor) -> None:
        self.model.zero_grad(set_to_none=True)
        for one in inputs:
            one.grad = None

    def _autocast(self) -> torch.autocast:
        mixed = self.device.type == "cuda" and self.recipe.trainer.precision == "bf16-mixed"
        return torch.autocast(self.device.type, torch.bfloat16, enabled=mixed)

    def _timed(self, work: Callable[[], None]) -> float:
        before = now(self.device)
        work()
        return now(self.device) - before


def build_stock(recipe: Recipe, tokenizer: Path, manifest: Path) -> EncDecHybridRNNTCTCBPEModel:
    """The recipe's model as NeMo's users configure it: fused joint and loss, its own loader and schedule."""
    config = model_config(recipe, tokenizer)
    config["joint"] |= {"fuse_loss_wer": True, "fused_batch_size": recipe.model.joint.fused_batch_size or 8}
    config["train_ds"] = {
        "manifest_filepath": str(manifest),
        "sample_rate": recipe.model.sample_rate,
        "batch_size": recipe.model.train_ds.batch_size,
        "shuffle": False,  # the manifest is in the order of our batches
        "num_workers": recipe.model.train_ds.num_workers,
        "pin_memory": True,
        "max_duration": None,
        "min_duration": None,
    }
    sched = recipe.model.optim.sched
    config["optim"]["sched"] = {
        "name": sched.name,
        "warmup_steps": sched.warmup_steps,
        "min_lr": sched.min_lr,
    }
    if sched.name == "NoamAnnealing":
        config["optim"]["sched"]["d_model"] = recipe.model.encoder.d_model
    model = EncDecHybridRNNTCTCBPEModel(cfg=OmegaConf.create(config))
    model.setup_training_data(OmegaConf.create(config["train_ds"]))
    return model
