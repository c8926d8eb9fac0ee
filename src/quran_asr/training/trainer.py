"""Training: from a recipe and segments to a run folder with checkpoints."""

from __future__ import annotations

import logging
import math
import platform
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning.pytorch as lightning
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.strategies import DDPStrategy

from quran_asr import __version__
from quran_asr.config.architecture import of_nemo
from quran_asr.config.schema import Model, Quran, Recipe
from quran_asr.errors import Finding, QuranAsrError
from quran_asr.evaluation.training_data import FILE_NAME as TRAINING_DATA_FILE
from quran_asr.evaluation.training_data import TrainingData
from quran_asr.experiments.checks.machine import audio_budget
from quran_asr.experiments.diagnostics.diagnosis import Diagnosis
from quran_asr.experiments.run_folder import RunFolder
from quran_asr.experiments.training_clips import with_windows
from quran_asr.files import named_errors
from quran_asr.records import Segment
from quran_asr.training.averaging import average_at_end
from quran_asr.training.bundle_weights import ExportedModel
from quran_asr.training.checkpoints import Checkpoints, Interrupted, WeightsOnlyCheckpoints, checkpoint_facts
from quran_asr.training.cpu import multiplies_bf16, suit_cpu
from quran_asr.training.data.audio_cache import FORKS
from quran_asr.training.data.batches import ClipSet, tokenize
from quran_asr.training.data.epoch import Stage, planned_batches, repeated_clips, stage_batches
from quran_asr.training.diagnostics import DiagnosticsCallback
from quran_asr.training.distributed import Ranks, training_device
from quran_asr.training.initialization import (
    as_table,
    feature_level,
    initialize,
    sample_features,
    trained_weights,
    transfer,
)
from quran_asr.training.loss.engine import usable_engine
from quran_asr.training.memory import MemoryBudget, fit_memory, release_free_memory
from quran_asr.training.metrics import Metrics, Watcher
from quran_asr.training.model import EncDecHybridRNNTCTCBPEModel, build_model
from quran_asr.training.module import TrainingModule
from quran_asr.training.nemo_archive import Archive, extract_tokenizer
from quran_asr.training.optimizer import is_staged, transferred_names
from quran_asr.training.out_of_memory import DoesNotFit, Limit, with_smaller_batches
from quran_asr.training.pretrained import Pretrained
from quran_asr.training.tokenizer import Tokenizer, make_tokenizer
from quran_asr.training.validation_interval import ValidationInterval


@dataclass(frozen=True, slots=True)
class Trained:
    """How a training ended."""

    run: RunFolder
    interrupted: bool
    steps: int
    seconds: float
    best_wer: float | None
    """Lowest validation WER of the transducer; None before the first validation."""
    stopped_by: Diagnosis | None = None
    """The diagnosis of `quran.stop_on` that ended it, in the first process."""


@dataclass(frozen=True, slots=True)
class Start:
    """The trained model that a run starts from."""

    pretrained: Pretrained
    archive: Archive | ExportedModel
    allow_partial: bool
    """Start even where little of the encoder arrives."""
    keep_tokens: bool
    """Take over its tokenizer: the task stays the same. Of an archive only: a bundle has the pieces alone."""
    report: Callable[[str], None]
    """Called with the table of what arrived."""


def train(
    recipe: Recipe,
    run: RunFolder,
    training: Sequence[Segment],
    validation: Sequence[Segment],
    *,
    watcher: Watcher,
    on_finding: Callable[[Finding], None],
    resume: Path | None = None,
    ranks: Ranks = Ranks(),  # noqa: B008 - frozen
    start: Start | None = None,
    memory: MemoryBudget | None = None,
    limit: Limit | None = None,
) -> Trained:
    """Train a recipe on these segments; the run folder exists and is filled.

    Args:
        resume: a `.ckpt` of the run to resume from.
        watcher: called after every optimizer step and validation.
        on_finding: called with findings while it trains.
        ranks: this process among those of the training; all of them call this.
        start: the trained model that a new run starts from; None starts from random weights.
        memory: fill it with the largest batch that fits, and keep that in the run's recipe.
        limit: asked before every batch, for memory that is smaller than the machine's.

    Raises:
        QuranAsrError: nothing to train on, a text that the tokenizer lacks, a start of which too little
            arrives, a clip that does not fit into memory alone, or a run that only yields NaN.
    """
    began = time.perf_counter()
    first = ranks.rank == 0
    if first:
        run.sweep()
        prepare_tokenizer(recipe, run, start)
    ranks.from_first(None)
    tokenizer = Tokenizer(run.tokenizer)
    device = training_device(recipe.trainer.accelerator)
    training = with_windows(training, recipe.quran, recipe.model.train_ds.max_duration)
    if memory is not None:
        recipe = fit_memory(recipe, tokenizer, training, device, memory, on_finding, ranks)
        write_recipe(run, recipe, None if resume is None else checkpoint_facts(resume).step, ranks)

    lightning.seed_everything(recipe.quran.seed, verbose=False)
    processes = max(1, ranks.size // recipe.trainer.num_nodes)
    training_set, validation_set = clip_sets(recipe, tokenizer, training, validation, processes)
    training_set.set_plain(recipe.quran.curriculum is not None)
    model = build_model(recipe, run.tokenizer)
    if device.type == "cpu":
        suit_cpu(model)
    engine = choose_engine(device, ranks, on_finding)
    if first:
        manifests = [Path(manifest) for manifest in recipe.model.train_ds.manifests]
        began_with = None if start is None or resume is not None else start.pretrained.training_data
        record_training_data(run, training, manifests, resume is not None, on_finding, began_with)
    if first and resume is None:
        run.write_json("environment.json", environment(ranks, engine))
        set_first_weights(model, recipe, run, training_set, start)
    copied = copied_parameters(run, recipe.quran, ranks, on_finding)
    if not first:  # weights come from the first; what is drawn from here on is each one's own
        lightning.seed_everything(recipe.quran.seed + 1_000_003 * ranks.rank, verbose=False)

    durations = [segment.duration for segment in training]
    while True:  # once, and again with smaller batches after each one that does not fit into memory
        steps = total_steps(recipe, durations, ranks.size, training_set.shards)
        module = TrainingModule(
            model, recipe, training_set, validation_set, on_finding, ranks, steps, limit, copied
        )
        module.engine = engine
        if first and ranks.size > 1:
            report_repeated_clips(module, on_finding)
        rows = run.read_metrics()
        diagnostics, checkpoints, callbacks = make_callbacks(recipe, run, rows, watcher, on_finding, ranks)
        interrupted, failure = False, None
        with checkpoints.listening(), quiet(), named_errors(run.path):
            trainer = make_trainer(recipe, run, callbacks, on_finding, ranks, last_step(rows))
            try:
                trainer.fit(module, ckpt_path=None if resume is None else str(resume))
            except Interrupted:
                interrupted = diagnostics.stopped_by is None
            except DoesNotFit as error:  # `last.ckpt` is from the step before
                failure = DoesNotFit(error.indices, error.why)  # without frames, which hold tensors
        if failure is None:
            break
        step = trainer.global_step
        recipe, finding = with_smaller_batches(recipe, training_set, failure, step, ranks.size)
        on_finding(finding)
        write_recipe(run, recipe, step, ranks)
        resume = run.last_checkpoint()
        del module, trainer, callbacks, checkpoints, diagnostics
        free_training_state(model)

    best = None if checkpoints.best_wer == math.inf else checkpoints.best_wer
    stopped_by = diagnostics.stopped_by
    if first and recipe.quran.average and not interrupted and stopped_by is None:
        best = average_at_end(run, validation, trainer.global_step, best, on_finding)
    seconds = time.perf_counter() - began
    return Trained(run, interrupted, trainer.global_step, seconds, best, stopped_by)


def write_recipe(run: RunFolder, recipe: Recipe, step: int | None, ranks: Ranks) -> None:
    """Let the run continue with this recipe from a step on; None: from its beginning."""
    if ranks.rank == 0:
        if step is None:
            run.write_recipe(recipe)
        else:
            run.replace_recipe(recipe, step)
    ranks.from_first(None)


def set_first_weights(
    model: EncDecHybridRNNTCTCBPEModel, recipe: Recipe, run: RunFolder, clips: ClipSet, start: Start | None
) -> None:
    """The weights of a new run: those of a trained model, or random ones scaled as the recipe wants it."""
    if start is not None:
        start_from(start, model, recipe.model, run, clips)
    elif recipe.quran.initialization == "data":
        initialize(model, clips)


def copied_parameters(
    run: RunFolder, quran: Quran, ranks: Ranks, on_finding: Callable[[Finding], None]
) -> frozenset[str]:
    """Names of the parameters from a trained model, where the recipe treats them apart."""
    staged = ranks.rank == 0 and is_staged(quran)
    copied: frozenset[str] = ranks.from_first(transferred_names(run, on_finding) if staged else frozenset())
    return copied


def make_callbacks(
    recipe: Recipe,
    run: RunFolder,
    rows: Sequence[Mapping[str, Any]],
    watcher: Watcher,
    on_finding: Callable[[Finding], None],
    ranks: Ranks,
) -> tuple[DiagnosticsCallback, Checkpoints, list[lightning.Callback]]:
    """The diagnostics, the checkpoints, and all of Lightning's callbacks in their order.

    `rows`: the lines of `metrics.jsonl` from earlier sessions of the run.
    """
    diagnostics = DiagnosticsCallback(run, recipe, rows, on_finding)
    checkpoints = Checkpoints(
        run,
        recipe.name,
        ranks,
        diagnostics,
        keep=recipe.exp_manager.checkpoint_callback_params.save_top_k,
        every_minutes=recipe.quran.checkpoint_minutes,
        best_wer=lowest_wer(rows),
    )
    metrics = Metrics(run, watcher, diagnostics, float(rows[-1]["time"]) if rows else 0.0)
    callbacks: list[lightning.Callback] = [metrics, checkpoints]
    if recipe.trainer.check_val_every_n_epoch == "auto":
        callbacks.insert(1, ValidationInterval(on_finding))
    return diagnostics, checkpoints, callbacks


def free_training_state(model: EncDecHybridRNNTCTCBPEModel) -> None:
    """Free what an attempt that ran out of memory still holds, so that the next one has all of it."""
    model.trainer = None  # Lightning hung it there, and with it the module and AdamW's moments
    model.zero_grad(set_to_none=True)
    release_free_memory()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def record_training_data(
    run: RunFolder,
    training: Sequence[Segment],
    manifests: Sequence[Path],
    resumed: bool,
    on_finding: Callable[[Finding], None],
    began_with: Path | None = None,
) -> None:
    """Write `training_data.json`; a resumed run adds to it what has changed in the manifests.

    Args:
        run: of the training.
        training: the clips.
        manifests: where they are from.
        resumed: the run has a file of its own already.
        on_finding: called where the manifests have changed since.
        began_with: the same file of the trained model that a new run starts from: its reciters and texts are
            not unseen.
    """
    trained_on = TrainingData.from_segments(training, manifests)
    if began_with is not None:
        trained_on = TrainingData.read(began_with).joined(trained_on)
    file = run.path / TRAINING_DATA_FILE
    if resumed and file.is_file():
        before = TrainingData.read(file)
        trained_on = before.joined(trained_on)
        if trained_on == before:
            return
        changed = ", ".join(one.path for one in trained_on.manifests[len(before.manifests) :]) or "the clips"
        message = (
            f"{changed} changed since this run began: the rest of the epoch is planned from the new clips, "
            f"and {TRAINING_DATA_FILE} lists what was trained on before and after"
        )
        on_finding(Finding("warning", "changed-data", "model.train_ds.manifest_filepath", message, ""))
    run.write_json(TRAINING_DATA_FILE, trained_on.to_json())


def choose_engine(device: torch.device, ranks: Ranks, on_finding: Callable[[Finding], None]) -> str:
    """The engine of the transducer loss, chosen by the first process; a slow one is reported."""
    engine, instead = ranks.from_first(usable_engine(device) if ranks.rank == 0 else None)
    if instead:
        message = f"the transducer loss uses `{engine}`: {instead}"
        on_finding(Finding("warning", "slower-loss", "", message, ""))
    return str(engine)


def last_step(rows: Sequence[Mapping[str, Any]]) -> int:
    """The last optimizer step among rows of `metrics.jsonl`; 0 without any."""
    return max((row["step"] for row in rows), default=0)


def lowest_wer(rows: Sequence[Mapping[str, Any]]) -> float | None:
    """Of the validations among rows of `metrics.jsonl`."""
    measured = [row["wer"] for row in rows if row["split"] == "validation" and row["wer"] is not None]
    return min(measured, default=None)


def report_repeated_clips(module: TrainingModule, on_finding: Callable[[Finding], None]) -> None:
    """Report how many clips come twice in an epoch so that all processes have equally many batches."""
    training_set, stage = module.training_clips, module.stage(None)
    durations = [clip.segment.duration for clip in training_set.clips]
    batches = planned_batches(durations, stage, 0, shards=training_set.shards)
    twice = repeated_clips(batches, stage.ranks)
    if twice:
        clips = "1 clip comes" if twice == 1 else f"{twice} clips come"
        message = f"{clips} twice in an epoch: {stage.ranks} processes are to have equally many batches"
        on_finding(Finding("note", "repeated-clips", "trainer.devices", message, ""))


def total_steps(
    recipe: Recipe, durations: Sequence[float], ranks: int, shards: Sequence[int] = ()
) -> int | None:
    """Optimizer steps of the whole training, None without a limit. It decides how the rate falls.

    Counted from the plan of the first epoch with all its clips, whatever the curriculum admits: a run that
    is resumed has to come to the same number.
    """
    limits = [recipe.trainer.max_steps] if recipe.trainer.max_steps > 0 else []
    if recipe.trainer.max_epochs > 0:
        ds = recipe.model.train_ds
        stage = Stage(recipe.quran.seed, ds.batch_size, ds.batch_duration, None, ranks)
        batches = len(stage_batches(durations, [stage], 0, 0, shards))
        limits.append(recipe.trainer.max_epochs * math.ceil(batches / recipe.trainer.accumulate_grad_batches))
    return min(limits, default=None)


def start_from(
    start: Start, model: EncDecHybridRNNTCTCBPEModel, settings: Model, run: RunFolder, clips: ClipSet
) -> None:
    """Bring a trained model's weights into ours, and leave in `transfer.json` what became of each tensor."""
    level = None
    theirs = of_nemo(start.archive.config, 0, start.pretrained.name).normalize
    if (theirs, settings.preprocessor.normalize) == ("per_feature", "NA"):
        level = feature_level(*sample_features(model, clips))
    planned = transfer(
        model,
        settings,
        start.archive.config,
        trained_weights(start.archive),
        start.archive.pieces,
        start.pretrained.name,
        allow_partial=start.allow_partial,
        level=level,
    )
    source = {"path": str(start.pretrained.path), "sha256": start.pretrained.sha256}
    run.write_json("transfer.json", planned.to_json() | {"from": start.pretrained.source, **source})
    start.report(as_table(planned))


def prepare_tokenizer(recipe: Recipe, run: RunFolder, start: Start | None = None) -> Tokenizer:
    """The run's own tokenizer: there already, of the start, of the recipe's folder, or trained on the Quran.

    Raises:
        QuranAsrError: the start's tokens are to be kept, and the recipe wants another number of them.
    """
    if (run.tokenizer / "tokenizer.model").is_file():
        return Tokenizer(run.tokenizer)
    own = recipe.model.tokenizer.dir
    if start is not None and start.keep_tokens and isinstance(start.archive, Archive) and own is None:
        tokens = len(start.archive.pieces or ())
        if tokens != recipe.quran.vocabulary_size:
            raise QuranAsrError(
                f"{start.pretrained.name} has {tokens} tokens, and the recipe wants "
                f"{recipe.quran.vocabulary_size}",
                where="quran.vocabulary_size",
                remedy=f"quran.vocabulary_size={tokens}; or start with other tokens: "
                f"init_from_pretrained_model={start.pretrained.path}",
            )
        extract_tokenizer(start.archive, run.tokenizer)
        return Tokenizer(run.tokenizer)
    quran = recipe.quran
    return make_tokenizer(run.tokenizer, quran.spelling, quran.vocabulary_size, own)


def clip_sets(
    recipe: Recipe,
    tokenizer: Tokenizer,
    training: Sequence[Segment],
    validation: Sequence[Segment],
    processes: int = 1,
) -> tuple[ClipSet, ClipSet]:
    """Both sets, tokenized; `processes` of this machine share the memory for what they decode."""
    budget = audio_budget(recipe.quran.audio_cache_gb) // processes
    shares = [
        budget // part if FORKS or not workers else 0  # other workers would not see it
        for part, workers in (
            (1, recipe.model.train_ds.num_workers),
            (4, recipe.model.validation_ds.num_workers),
        )
    ]
    return (
        ClipSet(
            tokenize(training, tokenizer),
            cache_bytes=shares[0],
            training=True,
            augment=recipe.quran.augment,
            seed=recipe.quran.seed,
        ),
        ClipSet(tokenize(validation, tokenizer), cache_bytes=shares[1]),
    )


def make_trainer(
    recipe: Recipe,
    run: RunFolder,
    callbacks: Sequence[lightning.Callback],
    on_finding: Callable[[Finding], None],
    ranks: Ranks,
    done: int,
) -> lightning.Trainer:
    """Lightning's trainer for what is there: GPUs or the CPU, in as many processes as there are."""
    settings, exp = recipe.trainer, recipe.exp_manager
    gpu = training_device(settings.accelerator).type == "cuda"
    if settings.accelerator == "gpu" and not gpu:
        raise QuranAsrError("no CUDA device here", where="trainer.accelerator", remedy="use auto or cpu")
    precision: Any = settings.precision
    if precision == "bf16-mixed" and not gpu and not multiplies_bf16():
        precision = 32
        message = "this CPU is not one with fast bf16 (AMX or AVX-512): it trains in float32"
        on_finding(Finding("note", "fp32-on-cpu", "trainer.precision", message, ""))
    every = settings.check_val_every_n_epoch
    logger = None
    if exp.create_tensorboard_logger:
        logger = TensorBoardLogger(save_dir=str(run.path), name="", version="", purge_step=done + 1)
    strategy: Any = "auto"
    if ranks.size > 1:
        # a curriculum begins with CTC alone: prediction network and joint get no gradient; nor do frozen
        some_rest = recipe.quran.curriculum is not None or recipe.quran.unfreeze_after > 0
        # NeMo's table of positions grows with the longest clip of each process: as a buffer of another size
        # it would end the training. Running statistics are collected before validations (`module.py`).
        strategy = DDPStrategy(find_unused_parameters=some_rest, broadcast_buffers=False)
    return lightning.Trainer(
        accelerator="gpu" if gpu else "cpu",
        devices=max(1, ranks.size // settings.num_nodes),
        num_nodes=settings.num_nodes if ranks.size > 1 else 1,
        strategy=strategy,
        max_epochs=settings.max_epochs,
        max_steps=settings.max_steps,
        precision=precision,
        accumulate_grad_batches=settings.accumulate_grad_batches,
        gradient_clip_val=settings.gradient_clip_val or None,
        val_check_interval=settings.val_check_interval,
        check_val_every_n_epoch=1 if every == "auto" else every,
        log_every_n_steps=settings.log_every_n_steps,
        reload_dataloaders_every_n_epochs=1,
        use_distributed_sampler=False,
        num_sanity_val_steps=0,
        enable_progress_bar=False,
        enable_model_summary=False,
        logger=logger or False,
        callbacks=list(callbacks),
        enable_checkpointing=False,
        plugins=[WeightsOnlyCheckpoints(), ranks.environment()],
    )


def environment(ranks: Ranks, engine: str) -> dict[str, Any]:
    """What a run was made with; `engine` computes its transducer loss."""
    import nemo

    gpu = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "quran_asr": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "torch": torch.__version__,
        "lightning": lightning.__version__,
        "nemo": nemo.__version__,
        "processes": ranks.size,
        "threads": torch.get_num_threads(),
        "gpus": gpu,
        "transducer_loss": engine,
    }


class quiet(warnings.catch_warnings):  # noqa: N801 - used like a function
    """Lightning's advice about workers, logging intervals and the like: none of it is for our users."""

    def __enter__(self) -> Any:
        entered = super().__enter__()
        warnings.simplefilter("ignore")
        for name in ("lightning", "pytorch_lightning"):  # some package imports Lightning's old name too
            for logger in (
                f"{name}.pytorch",
                f"{name}.utilities.rank_zero",
                f"{name}.pytorch.utilities.rank_zero",
            ):
                logging.getLogger(logger).setLevel(logging.ERROR)
        return entered
