"""What parity with stock NeMo is tested on: the same weights and batches, and nothing left to chance."""

from __future__ import annotations

from pathlib import Path

from quran_asr.benchmark.clips import in_batches, made_clips
from quran_asr.benchmark.training_worker import Setup, TrainingWorker
from quran_asr.config.recipe import load_recipe
from quran_asr.training.tokenizer import train_tokenizer

CLIPS, SECONDS = 3, (1.0, 2.0)
OVERRIDES = (
    "model.encoder.n_layers=2",
    "model.encoder.d_model=48",
    "model.encoder.n_heads=4",
    "model.encoder.subsampling_conv_channels=8",
    "model.encoder.att_context_size=[[70,13]]",
    "model.encoder.dropout=0",
    "model.encoder.dropout_pre_encoder=0",
    "model.encoder.dropout_att=0",
    "model.decoder.prednet.pred_hidden=32",
    "model.decoder.prednet.dropout=0",
    "model.joint.jointnet.joint_hidden=32",
    "model.joint.jointnet.dropout=0",
    "model.joint.fused_batch_size=2",
    "model.preprocessor.dither=0",
    "model.spec_augment.freq_masks=0",
    "model.spec_augment.time_masks=0",
    "model.loss.warprnnt_numba_kwargs.fastemit_lambda=0",
    "model.optim.lr=0.1",
    "model.optim.sched.warmup_steps=20",
    "model.train_ds.num_workers=0",
    f"model.train_ds.batch_size={CLIPS}",
    "quran.vocabulary_size=48",
    "quran.spelling=letters",
    "trainer.devices=1",
    "trainer.accelerator=cpu",
    "trainer.precision=32",
    "trainer.accumulate_grad_batches=1",
    "trainer.max_epochs=-1",
    "trainer.max_steps=1000000",
    "trainer.check_val_every_n_epoch=null",
    "trainer.val_check_interval=1000000",
    "exp_manager.create_tensorboard_logger=false",
)


def losses(side: str, steps: int, folder: Path) -> list[float]:
    """The loss of each of the first steps of `stock` or `ours`."""
    recipe = load_recipe("base", OVERRIDES)
    tokens = train_tokenizer(recipe.quran.spelling, recipe.quran.vocabulary_size, folder / "tokenizer").folder
    segments = made_clips(CLIPS * steps, SECONDS, recipe.quran.spelling, folder)
    clips = in_batches(segments, CLIPS, folder)
    setup = Setup(side, "base", OVERRIDES, tokens, clips.segments, clips.manifest, "cpu", 1)
    return [step.loss for step in TrainingWorker(setup).train(steps)]
