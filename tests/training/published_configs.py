"""Configurations of published FastConformers, key for key as NeMo saves them, with short vocabularies."""

from __future__ import annotations

from typing import Any

import yaml


class _Plain(getattr(yaml, "CSafeDumper", yaml.SafeDumper)):  # type: ignore[misc]
    """Without the aliases that PyYAML makes of one list in two places."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def as_yaml(config: dict[str, Any]) -> bytes:
    return yaml.dump(config, Dumper=_Plain, allow_unicode=True).encode()


def hybrid() -> dict[str, Any]:
    """`stt_en_fastconformer_hybrid_large_streaming_multi` as NeMo 1.20 saved it, with a short vocabulary."""
    loader = {
        "manifest_filepath": "/data/train.json",
        "sample_rate": 16000,
        "batch_size": 16,
        "shuffle": True,
    }
    vocabulary = ["<unk>", "t", "he"]
    return {
        "sample_rate": 16000,
        "compute_eval_loss": False,
        "log_prediction": True,
        "rnnt_reduction": "mean_volume",
        "skip_nan_grad": False,
        "model_defaults": {"enc_hidden": 512, "pred_hidden": 640, "joint_hidden": 640},
        "train_ds": {
            **loader,
            "is_tarred": True,
            "tarred_audio_filepaths": [["/data/a.tar"]],
            "augmentor": None,
        },
        "validation_ds": {**loader, "use_start_end_token": False},
        "test_ds": {**loader, "manifest_filepath": None},
        "tokenizer": {
            "dir": "/tokenizers/spe_bpe_v1024",
            "type": "bpe",
            "model_path": "nemo:0a_tokenizer.model",
            "vocab_path": "nemo:0b_vocab.txt",
            "spe_tokenizer_vocab": "nemo:0c_tokenizer.vocab",
        },
        "preprocessor": {
            "_target_": "nemo.collections.asr.modules.AudioToMelSpectrogramPreprocessor",
            "sample_rate": 16000,
            "normalize": "NA",
            "window_size": 0.025,
            "window_stride": 0.01,
            "window": "hann",
            "features": 80,
            "n_fft": 512,
            "frame_splicing": 1,
            "dither": 1e-05,
            "pad_to": 0,
        },
        "spec_augment": {
            "_target_": "nemo.collections.asr.modules.SpectrogramAugmentation",
            "freq_masks": 2,
            "time_masks": 10,
            "freq_width": 27,
            "time_width": 0.05,
        },
        "encoder": {
            "_target_": "nemo.collections.asr.modules.ConformerEncoder",
            "feat_in": 80,
            "feat_out": -1,
            "n_layers": 17,
            "d_model": 512,
            "use_bias": True,
            "subsampling": "dw_striding",
            "subsampling_factor": 8,
            "subsampling_conv_channels": 256,
            "causal_downsampling": True,
            "reduction": None,
            "reduction_position": None,
            "reduction_factor": 1,
            "ff_expansion_factor": 4,
            "self_attention_model": "rel_pos",
            "n_heads": 8,
            "att_context_size": [[70, 13], [70, 6], [70, 1], [70, 0]],
            "att_context_style": "chunked_limited",
            "att_context_probs": [0.25, 0.25, 0.25, 0.25],
            "xscaling": True,
            "untie_biases": True,
            "pos_emb_max_len": 5000,
            "conv_kernel_size": 9,
            "conv_norm_type": "layer_norm",
            "conv_context_size": "causal",
            "dropout": 0.1,
            "dropout_pre_encoder": 0.1,
            "dropout_emb": 0.0,
            "dropout_att": 0.1,
            "stochastic_depth_drop_prob": 0.0,
            "stochastic_depth_mode": "linear",
            "stochastic_depth_start_layer": 1,
        },
        "decoder": {
            "_target_": "nemo.collections.asr.modules.RNNTDecoder",
            "normalization_mode": None,
            "random_state_sampling": False,
            "blank_as_pad": True,
            "prednet": {"pred_hidden": 640, "pred_rnn_layers": 1, "t_max": None, "dropout": 0.2},
            "vocab_size": len(vocabulary),
        },
        "joint": {
            "_target_": "nemo.collections.asr.modules.RNNTJoint",
            "log_softmax": None,
            "preserve_memory": False,
            "fuse_loss_wer": True,
            "fused_batch_size": 4,
            "jointnet": {
                "joint_hidden": 640,
                "activation": "relu",
                "dropout": 0.2,
                "encoder_hidden": 512,
                "pred_hidden": 640,
            },
            "num_classes": len(vocabulary),
            "vocabulary": vocabulary,
        },
        "decoding": {
            "strategy": "greedy_batch",
            "greedy": {"max_symbols": 10},
            "beam": {"beam_size": 2, "return_best_hypothesis": False, "tsd_max_sym_exp": 50},
        },
        "aux_ctc": {
            "ctc_loss_weight": 0.3,
            "use_cer": False,
            "ctc_reduction": "mean_batch",
            "decoder": {
                "_target_": "nemo.collections.asr.modules.ConvASRDecoder",
                "feat_in": None,
                "num_classes": len(vocabulary),
                "vocabulary": vocabulary,
            },
            "decoding": {"strategy": "greedy"},
        },
        "interctc": {"loss_weights": [], "apply_at_layers": []},
        "loss": {
            "loss_name": "default",
            "warprnnt_numba_kwargs": {"fastemit_lambda": 0.005, "clamp": -1.0},
        },
        "optim": {
            "name": "adamw",
            "lr": 5.0,
            "betas": [0.9, 0.98],
            "weight_decay": 0.001,
            "sched": {"name": "NoamAnnealing", "d_model": 512, "warmup_steps": 10000, "min_lr": 1e-06},
        },
        "labels": vocabulary,
        "target": "nemo.collections.asr.models.hybrid_rnnt_ctc_bpe_models.EncDecHybridRNNTCTCBPEModel",
        "nemo_version": "1.20.0",
    }


def offline_hybrid() -> dict[str, Any]:
    """`stt_ar_fastconformer_hybrid_large_pc`: the whole recording at once, features normalised."""
    config = hybrid()
    config["preprocessor"] |= {"normalize": "per_feature", "log": True, "pad_value": 0.0}
    config["encoder"] |= {
        "causal_downsampling": False,
        "att_context_size": [-1, -1],
        "att_context_style": "regular",
        "att_context_probs": None,
        "conv_norm_type": "batch_norm",
        "conv_context_size": None,
    }
    return config


def transducer() -> dict[str, Any]:
    """`stt_en_fastconformer_transducer_large`."""
    config = offline_hybrid()
    del config["aux_ctc"], config["interctc"]
    config["target"] = "nemo.collections.asr.models.rnnt_bpe_models.EncDecRNNTBPEModel"
    config["variational_noise"] = {"start_step": 0, "std": 0.0}
    return config


def duration_transducer() -> dict[str, Any]:
    """The `parakeet-tdt` models of NeMo 2.x."""
    config = transducer()
    config["model_defaults"] |= {"tdt_durations": [0, 1, 2, 3, 4], "num_tdt_durations": 5}
    config["joint"]["num_extra_outputs"] = 5
    config["decoding"] |= {"model_type": "tdt", "durations": [0, 1, 2, 3, 4]}
    config["loss"] = {
        "loss_name": "tdt",
        "tdt_kwargs": {
            "fastemit_lambda": 0.0,
            "clamp": -1.0,
            "durations": [0, 1, 2, 3, 4],
            "sigma": 0.02,
            "omega": 0.1,
        },
    }
    config["encoder"] |= {"use_pytorch_sdpa": False, "use_pytorch_sdpa_backends": [], "use_bias": False}
    return config


def ctc() -> dict[str, Any]:
    """`stt_en_fastconformer_ctc_large`."""
    config = offline_hybrid()
    config["decoder"] = config.pop("aux_ctc")["decoder"]
    for key in ("joint", "loss", "model_defaults", "compute_eval_loss", "rnnt_reduction"):
        del config[key]
    config["ctc_reduction"] = "mean_volume"
    config["decoding"] = {"strategy": "greedy", "batch_dim_index": 0, "beam": {"kenlm_path": None}}
    config["target"] = "nemo.collections.asr.models.ctc_bpe_models.EncDecCTCModelBPE"
    return config


PUBLISHED = (hybrid, offline_hybrid, transducer, duration_transducer, ctc)
