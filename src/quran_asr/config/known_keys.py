"""Keys of NeMo and Lightning that this package does not act on, with what to use instead."""

from __future__ import annotations

INSTEAD = {
    "init_from_nemo_model": "`init_from_pretrained_model` takes the path of a .nemo file too",
    "init_from_ptl_ckpt": "continue a run with `quran-asr train --resume RUN`",
    "hydra": "a recipe is read without Hydra; leave the section out",
    "model.model_defaults": "write the numbers under `model.decoder.prednet` and `model.joint.jointnet`",
    "model.test_ds": "test with `quran-asr evaluate MANIFEST --model MODEL`",
    "model.interctc": "there is one CTC loss: `model.aux_ctc.ctc_loss_weight`",
    "model.skip_nan_grad": "batches with NaN are always skipped: `quran.max_skipped_batches` is the limit",
    "model.log_prediction": "`quran-asr evaluate` shows hypotheses; leave it out",
    "model.compute_eval_loss": "the validation loss is always computed; leave it out",
    "model.rnnt_reduction": "losses are means over clips; leave it out",
    "model.ctc_reduction": "losses are means over clips; leave it out",
    "model.use_cer": "CER is always measured beside WER; leave it out",
    "model.loss.loss_name": "the transducer loss is this program's own; leave it out",
    "model.loss.warprnnt_numba_kwargs.clamp": "use `trainer.gradient_clip_val`",
    "model.aux_ctc.decoder": "the CTC head is one linear layer over the vocabulary; leave it out",
    "model.aux_ctc.decoding": "CTC is decoded greedily in validation; leave it out",
    "model.aux_ctc.use_cer": "CER is always measured beside WER; leave it out",
    "model.aux_ctc.ctc_reduction": "losses are means over clips; leave it out",
    "model.decoding.strategy": "validation decodes greedily; leave it out",
    "model.decoding.beam": "validation decodes greedily; leave it out",
    "model.decoding.greedy.max_symbols_per_step": "use `model.decoding.greedy.max_symbols`",
    "model.joint.fuse_loss_wer": "`model.joint.fused_batch_size` alone decides: null for all clips at once",
    "model.joint.preserve_memory": "use a smaller `model.joint.fused_batch_size`",
    "model.joint.jointnet.encoder_hidden": "it is `model.encoder.d_model`",
    "model.joint.jointnet.pred_hidden": "it is `model.decoder.prednet.pred_hidden`",
    "model.encoder.feat_in": "it is `model.preprocessor.features`",
    "model.encoder.feat_out": "it is `model.encoder.d_model`",
    "model.encoder.att_chunk_context_size": "use `model.encoder.att_context_size`",
    "model.preprocessor.sample_rate": "use `model.sample_rate`",
    "model.preprocessor.n_window_size": "use `model.preprocessor.window_size`, in seconds",
    "model.preprocessor.n_window_stride": "use `model.preprocessor.window_stride`, in seconds",
    "model.optim.args": "write the values under `model.optim` itself",
    "model.optim.sched.args": "write the values under `model.optim.sched` itself",
    "model.optim.sched.d_model": "it is `model.encoder.d_model`",
    "model.optim.sched.max_steps": "use `trainer.max_steps` or `trainer.max_epochs`",
    "model.optim.sched.warmup_ratio": "use `model.optim.sched.warmup_steps`",
    "model.optim.sched.hold_steps": "use `model.optim.sched.hold_ratio`",
    "model.tokenizer.model_path": "use `model.tokenizer.dir`, the folder of the tokenizer",
    "model.train_ds.shuffle": "training batches are always shuffled; leave it out",
    "model.train_ds.use_lhotse": "batches are made by length without Lhotse; `model.train_ds.batch_duration`"
    " fills them by seconds",
    "model.train_ds.perturb_speed": "use `quran.augment`",
    "model.train_ds.augmentor": "use `quran.augment`",
    "model.train_ds.lowpass_prob": "use `quran.augment.lowpass_probability`",
    "model.train_ds.lowpass_frequencies_interval": "use `quran.augment.lowpass_hz`",
    "model.train_ds.seed": "use `quran.seed`",
    "model.train_ds.sample_rate": "use `model.sample_rate`",
    "model.train_ds.tarred_audio_filepaths": "name a manifest in `model.train_ds.manifest_filepath`",
    "model.train_ds.is_tarred": "name a manifest in `model.train_ds.manifest_filepath`",
    "model.train_ds.trim_silence": "cut recordings with `offset` and `duration` in the manifest",
    "model.train_ds.bucketing_strategy": "batches are always made of clips of like length; leave it out",
    "model.train_ds.use_bucketing": "batches are always made of clips of like length; leave it out",
    "model.train_ds.num_buckets": "batches are always made of clips of like length; leave it out",
    "trainer.resume_from_checkpoint": "use `exp_manager.resume_from_checkpoint`",
    "trainer.gpus": "use `trainer.devices`",
    "trainer.strategy": "training uses every device that is there; leave it out",
    "trainer.enable_checkpointing": "checkpoints are always written; leave it out",
    "trainer.logger": "use `exp_manager.create_tensorboard_logger`",
    "trainer.enable_progress_bar": "it is shown on a terminal and nowhere else; leave it out",
    "trainer.default_root_dir": "use `exp_manager.exp_dir`",
    "trainer.max_time": "use `trainer.max_steps`",
    "trainer.overfit_batches": "use `quran.overfit_gate_steps`",
    "trainer.num_sanity_val_steps": "validation is tried before training only by `check`; leave it out",
    "exp_manager.name": "use `name`",
    "exp_manager.explicit_log_dir": "use `exp_manager.exp_dir`",
    "exp_manager.resume_if_exists": "continue a run with `quran-asr train --resume RUN`",
    "exp_manager.resume_ignore_no_checkpoint": "continue a run with `quran-asr train --resume RUN`",
    "exp_manager.create_checkpoint_callback": "checkpoints are always written; leave it out",
    "exp_manager.create_early_stopping_callback": "the best checkpoints are kept; end it with `max_epochs`",
    "exp_manager.checkpoint_callback_params.always_save_nemo": "the best model is always kept as .nemo too",
    "exp_manager.checkpoint_callback_params.save_best_model": "the best model is always kept as .nemo too",
    "exp_manager.checkpoint_callback_params.filename": "files are named <name>--val_wer=...; see `name`",
    "exp_manager.checkpoint_callback_params.save_last": "the last checkpoint is always kept; leave it out",
}
"""Key -> what to use instead. A key under a named section is answered by the section's line."""


def instead_of(key: str) -> str | None:
    """What to use instead of a NeMo key that is refused; None for a key that is not listed here."""
    for section in _upwards(key):
        same_for_training = section.replace("model.validation_ds.", "model.train_ds.")
        advice = INSTEAD.get(section) or INSTEAD.get(same_for_training)
        if advice is not None:
            return advice
    if key.rpartition(".")[2] == "_target_":
        return "the classes are chosen by this program; leave it out"
    return None


def _upwards(key: str) -> list[str]:
    names = key.split(".")
    return [".".join(names[:depth]) for depth in range(len(names), 0, -1)]
