"""Every recipe key that the installed NeMo and Lightning know, from their signatures and dataclasses.

Keys that NeMo reads from a dictionary by name have no signature and stand in READ_BY_NAME.
"""

from __future__ import annotations

import dataclasses
import inspect

READ_BY_NAME = {
    "": "name model trainer exp_manager init_from_nemo_model init_from_pretrained_model init_from_ptl_ckpt"
    " tarred_audio_filepaths hydra",
    "model": "sample_rate train_ds validation_ds test_ds tokenizer preprocessor spec_augment encoder decoder"
    " joint decoding aux_ctc loss optim interctc model_defaults compute_eval_loss log_prediction"
    " skip_nan_grad rnnt_reduction use_cer variational_noise graph_module normalize_encoder_norm"
    " normalize_decoder_norm normalize_joint_norm normalize_joint_txu labels nemo_version target"
    " adapters streaming_cfg wer use_k2 ctc_reduction",
    "model.train_ds": "augmentor bucketing_strategy bucketing_weights channel_selector is_tarred"
    " is_concat concat_sampling_technique concat_sampling_temperature concat_sampling_probabilities"
    " concat_shuffle shuffle_n labels normalize_transcripts parser unk_index blank_index int_values"
    " tarred_shard_strategy use_dali max_utts return_sample_id use_semi_sorted_batching"
    " use_start_end_token trim_silence use_lhotse do_transcribe global_rank world_size drop_last"
    " pin_memory num_workers is_code_switched",
    "model.tokenizer": "dir type model_path vocab_path custom_tokenizer langs cfg update_tokenizer",
    "model.decoder.prednet": "pred_hidden pred_rnn_layers dropout t_max rnn_hidden_size forget_gate_bias"
    " weights_init_scale hidden_hidden_bias_scale norm",
    "model.joint.jointnet": "joint_hidden activation dropout encoder_hidden pred_hidden",
    "model.aux_ctc": "ctc_loss_weight use_cer ctc_reduction decoder decoding",
    "model.decoding.greedy": "max_symbols",
    "model.loss": "loss_name warprnnt_numba_kwargs tdt_kwargs multiblank_rnnt_kwargs graph_rnnt_kwargs"
    " graph_w_transducer_kwargs",
    "model.loss.warprnnt_numba_kwargs": "fastemit_lambda clamp",
    "model.optim": "name args sched",
    "model.optim.sched": "name args d_model monitor reduce_on_plateau iters_per_batch t_max_epochs"
    " t_accumulate_grad_batches t_limit_train_batches t_num_workers warmup_steps warmup_ratio hold_steps"
    " hold_ratio constant_steps constant_ratio last_epoch",
}


def nemo_keys() -> set[str]:
    """All of them, dotted."""
    import lightning.pytorch as pl
    from nemo.collections.asr import modules
    from nemo.collections.asr.data.audio_to_text import AudioToBPEDataset
    from nemo.collections.asr.parts.submodules import ctc_decoding, rnnt_decoding, rnnt_greedy_decoding
    from nemo.collections.common.data.lhotse.dataloader import LhotseDataLoadingConfig
    from nemo.core.config.optimizers import AdamWParams
    from nemo.core.optim import lr_scheduler
    from nemo.utils.exp_manager import CallbackParams, ExpManagerConfig

    schedulers = [
        lr_scheduler.NoamAnnealing,
        lr_scheduler.CosineAnnealing,
        lr_scheduler.PolynomialHoldDecayAnnealing,
    ]
    found: dict[str, set[str]] = {
        "trainer": _arguments(pl.Trainer),
        "exp_manager": _fields(ExpManagerConfig),
        "exp_manager.checkpoint_callback_params": _fields(CallbackParams),
        "model.preprocessor": _arguments(modules.AudioToMelSpectrogramPreprocessor) | {"_target_"},
        "model.spec_augment": _arguments(modules.SpectrogramAugmentation) | {"_target_"},
        "model.encoder": _arguments(modules.ConformerEncoder) | {"_target_"},
        "model.decoder": _arguments(modules.RNNTDecoder) | {"_target_"},
        "model.joint": _arguments(modules.RNNTJoint) | {"_target_"},
        "model.decoding": _fields(rnnt_decoding.RNNTBPEDecodingConfig),
        "model.decoding.greedy": _fields(rnnt_greedy_decoding.GreedyBatchedRNNTInferConfig)
        | _fields(rnnt_greedy_decoding.GreedyRNNTInferConfig),
        "model.aux_ctc.decoding": _fields(ctc_decoding.CTCBPEDecodingConfig),
        "model.aux_ctc.decoder": _arguments(modules.ConvASRDecoder) | {"_target_"},
        "model.train_ds": _arguments(AudioToBPEDataset) | _fields(LhotseDataLoadingConfig),
        "model.optim": _fields(AdamWParams),
        "model.optim.sched": set().union(*(_arguments(scheduler) for scheduler in schedulers)),
    }
    for section, names in READ_BY_NAME.items():
        found.setdefault(section, set()).update(names.split())
    found["model.optim.sched"].discard("optimizer")
    for data in ("model.validation_ds", "model.test_ds"):
        found[data] = found["model.train_ds"]
    return {
        f"{section}.{name}" if section else name
        for section, names in found.items()
        for name in names - {"kwargs"}
    }


def _arguments(kind: type) -> set[str]:
    """Arguments of a class and of the bases to which its **kwargs go."""
    names: set[str] = set()
    for cls in kind.__mro__:
        if "__init__" not in vars(cls):
            continue
        parameters = inspect.signature(cls.__init__).parameters
        names |= {name for name in parameters if name != "self"}
        if not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
            break
    return names


def _fields(kind: type) -> set[str]:
    return {field.name for field in dataclasses.fields(kind)}
