"""Builds the stock NeMo model of a recipe; nothing here subclasses or changes it.

What is built is `EncDecHybridRNNTCTCBPEModel`: a FastConformer encoder, a transducer and a CTC head. Every
archive that is written is therefore stock and restores in NeMo without this package.
"""

from __future__ import annotations

import dataclasses
import logging
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

with warnings.catch_warnings():  # NeMo's start-up messages mean nothing to our users
    warnings.simplefilter("ignore")
    logging.getLogger("nv_one_logger").setLevel(logging.CRITICAL)
    from nemo.collections.asr.models import EncDecHybridRNNTCTCBPEModel
    from nemo.collections.asr.modules import RNNTJoint
    from nemo.collections.asr.parts.submodules.causal_convs import CausalConv1D, CausalConv2D
    from nemo.utils import logging as nemo_logging

from quran_asr.config.schema import Recipe
from quran_asr.records import SAMPLE_RATE

nemo_logging.setLevel(logging.ERROR)

__all__ = [
    "CausalConv1D",
    "CausalConv2D",
    "EncDecHybridRNNTCTCBPEModel",
    "RNNTJoint",
    "build_model",
    "frame_counts",
    "frame_seconds",
    "look_aheads",
    "set_look_ahead",
]


def build_model(recipe: Recipe, tokenizer_folder: Path) -> EncDecHybridRNNTCTCBPEModel:
    """The recipe's model with NeMo's random initial weights, on the CPU, in training mode."""
    from omegaconf import OmegaConf

    with warnings.catch_warnings():  # torch on the dropout of a one-layer LSTM, which NeMo applies itself
        warnings.simplefilter("ignore")
        model = EncDecHybridRNNTCTCBPEModel(cfg=OmegaConf.create(model_config(recipe, tokenizer_folder)))
    # NeMo's encoder would ask all processes for their longest clip in every pass, also where one has none
    model.encoder.sync_max_audio_length = False
    return model


def model_config(recipe: Recipe, tokenizer_folder: Path) -> dict[str, Any]:
    """NeMo's `model` section, complete. `quran` beside it is ours; NeMo carries it along untouched."""
    model = recipe.model
    encoder = dataclasses.asdict(model.encoder)
    contexts = encoder.pop("att_context_size")
    probabilities = encoder.pop("att_context_probs")
    return {
        "sample_rate": SAMPLE_RATE,
        "compute_eval_loss": False,
        "log_prediction": False,
        "rnnt_reduction": "mean_batch",
        "skip_nan_grad": False,
        "quran": {"spelling": recipe.quran.spelling, "recipe": recipe.name},
        "model_defaults": {
            "enc_hidden": model.encoder.d_model,
            "pred_hidden": model.decoder.prednet.pred_hidden,
            "joint_hidden": model.joint.jointnet.joint_hidden,
        },
        # Stock NeMo's `transcribe` looks into it; without a manifest nothing is opened.
        "validation_ds": {"manifest_filepath": None, "shuffle": False, "use_start_end_token": False},
        "tokenizer": {"dir": str(tokenizer_folder), "type": model.tokenizer.type},
        "preprocessor": {
            "_target_": "nemo.collections.asr.modules.AudioToMelSpectrogramPreprocessor",
            "sample_rate": SAMPLE_RATE,
            **dataclasses.asdict(model.preprocessor),
        },
        "spec_augment": {
            "_target_": "nemo.collections.asr.modules.SpectrogramAugmentation",
            **dataclasses.asdict(model.spec_augment),
        },
        "encoder": {
            "_target_": "nemo.collections.asr.modules.ConformerEncoder",
            "feat_in": model.preprocessor.features,
            "feat_out": -1,
            **encoder,
            "att_context_size": [list(context) for context in contexts],
            "att_context_probs": None if probabilities is None else list(probabilities),
        },
        "decoder": {
            "_target_": "nemo.collections.asr.modules.RNNTDecoder",
            "normalization_mode": None,
            "random_state_sampling": False,
            "blank_as_pad": True,
            "prednet": {**dataclasses.asdict(model.decoder.prednet), "t_max": None},
        },
        "joint": {
            "_target_": "nemo.collections.asr.modules.RNNTJoint",
            "log_softmax": None,
            "preserve_memory": False,
            # The joint stays plain: the loss makes its tiles itself.
            "fuse_loss_wer": False,
            "fused_batch_size": model.joint.fused_batch_size or -1,
            "jointnet": dataclasses.asdict(model.joint.jointnet),
        },
        "decoding": {
            "strategy": "greedy_batch",
            "preserve_alignments": False,
            "greedy": {"max_symbols": model.decoding.greedy.max_symbols, "use_cuda_graph_decoder": False},
        },
        "aux_ctc": {
            "ctc_loss_weight": model.aux_ctc.ctc_loss_weight,
            "use_cer": False,
            "ctc_reduction": "mean_batch",
            "decoder": {
                "_target_": "nemo.collections.asr.modules.ConvASRDecoder",
                "feat_in": model.encoder.d_model,
                "num_classes": -1,
                "vocabulary": [],
            },
            "decoding": {"strategy": "greedy_batch"},
        },
        "loss": {
            "loss_name": "default",
            "warprnnt_numba_kwargs": {
                "fastemit_lambda": model.loss.warprnnt_numba_kwargs.fastemit_lambda,
                "clamp": -1.0,
            },
        },
        "optim": {
            "name": "adamw",  # NeMo has no Muon
            "lr": model.optim.lr,
            "betas": list(model.optim.betas),
            "weight_decay": model.optim.weight_decay,
        },
    }


def frame_seconds(model: EncDecHybridRNNTCTCBPEModel) -> float:
    """Seconds of audio behind one encoder frame (0.08 for the shipped recipes)."""
    return float(model.cfg.preprocessor.window_stride) * int(model.encoder.subsampling_factor)


def frame_counts(model: EncDecHybridRNNTCTCBPEModel, samples: Sequence[int]) -> Tensor:
    """Encoder frames of clips with so many samples, int64 [B] on the CPU, without running anything.

    A frame of features begins at every hop. Each stage of the subsampling has kernel 3 and stride 2, over
    frames that are padded by 2 + 1 (causal) or 1 + 1.
    """
    encoder = model.encoder
    hop = round(float(model.cfg.preprocessor.window_stride) * SAMPLE_RATE)
    padding = 3 if model.cfg.encoder.causal_downsampling else 2
    counts = torch.tensor(samples, dtype=torch.int64) // hop
    for _ in range(int(encoder.subsampling_factor).bit_length() - 1):
        counts = (counts + padding - 3) // 2 + 1
    return counts


def look_aheads(model: EncDecHybridRNNTCTCBPEModel) -> dict[int, list[int]]:
    """Look-ahead in milliseconds -> attention context of the encoder, widest first.

    An unlimited right context (an offline model) counts as -1.
    """
    contexts = [list(context) for context in model.encoder.att_context_size_all]
    stride_ms = round(1000 * frame_seconds(model))
    by_ms = {context[1] * stride_ms if context[1] >= 0 else -1: context for context in contexts}
    return dict(sorted(by_ms.items(), key=lambda item: -(item[0] if item[0] >= 0 else 1 << 30)))


def set_look_ahead(model: EncDecHybridRNNTCTCBPEModel, context: list[int]) -> None:
    """Make inference look ahead as far as `context` allows. It sticks: set the first one before saving."""
    if len(model.encoder.att_context_size_all) > 1:
        model.encoder.set_default_att_context_size(list(context))


def checkpoint_layers(model: EncDecHybridRNNTCTCBPEModel) -> None:
    """From here on each layer of the encoder keeps its input alone while the model trains.

    Dropout draws the same masks again, so loss and gradients stay what they were. Weights, their names and
    what is saved do not change; neither does anything without gradients.
    """
    for layer in model.encoder.layers:
        layer.forward = _run_again(layer, layer.forward)


def _run_again(layer: torch.nn.Module, plain: Callable[..., Any]) -> Callable[..., Any]:
    def forward(*inputs: Any, **named: Any) -> Any:
        if layer.training and torch.is_grad_enabled():
            return checkpoint(plain, *inputs, use_reentrant=False, **named)
        return plain(*inputs, **named)

    return forward
