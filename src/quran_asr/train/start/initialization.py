"""Initial weights for encoders that start at random.

As NeMo draws them, every stage of the convolutional subsampling shrinks the signal, and the CTC loss sits
on its plateau of about 4.4 nats a token for hundreds of steps, on real recordings for good. Scaling each
stage by what it does to a batch of training clips (data-dependent initialisation: Krähenbühl et al. 2016,
arXiv:1511.06856) cures it. Only initial values change: architecture and archives stay stock.
"""

from __future__ import annotations

import random

import torch
from torch import Tensor, nn

from quran_asr.findings import QuranAsrError
from quran_asr.train.data.batches import ClipSet, collate
from quran_asr.train.model import EncDecHybridRNNTCTCBPEModel

CLIPS = 32
"""Clips that the subsampling is scaled by."""
OUTPUT_DEVIATION = 0.1
"""Deviation after the last linear layer; the encoder multiplies by sqrt(d_model) behind it."""


def initialize(model: EncDecHybridRNNTCTCBPEModel, clips: ClipSet) -> None:
    """Scale the subsampling of a model with random weights by some of its training clips.

    Raises:
        QuranAsrError: none of them can be read.
    """
    scale_subsampling(model.encoder.pre_encode, *sample_features(model, clips))


@torch.no_grad()
def sample_features(model: EncDecHybridRNNTCTCBPEModel, clips: ClipSet) -> tuple[Tensor, Tensor]:
    """Log-mel features of some training clips: float32 [clips, features, frames], int64 [clips] frames.

    Raises:
        QuranAsrError: none of them can be read.
    """
    chosen = random.Random(0).sample(range(len(clips)), min(CLIPS, len(clips)))
    batch = collate([clips[i] for i in chosen])
    if not batch.indices:
        raise QuranAsrError(
            f"none of {len(chosen)} training clips can be read, the first: {batch.unreadable[0][1]}",
            where=clips.clips[batch.unreadable[0][0]].segment.audio,
            remedy="`quran-asr corpus scan` lists what is wrong with each file",
        )
    features, lengths = model.preprocessor(input_signal=batch.audio, length=batch.audio_lengths)
    return features, lengths


@torch.no_grad()
def scale_subsampling(pre_encode: nn.Module, features: Tensor, lengths: Tensor) -> None:
    """Give every channel of the subsampling mean 0 and deviation 1 on these clips, the output 0.1.

    Args:
        pre_encode: NeMo's `ConvSubsampling` (`conv` and `out`), changed in place.
        features: float32 [clips, features, frames], log-mel as the model sees them.
        lengths: int64 [clips], frames of each clip.
    """
    # One long signal without padding: padded zeros would count as loud frames among log energies.
    signal = torch.cat([clip[:, :n] for clip, n in zip(features, lengths.tolist(), strict=True)], dim=1)
    x = signal.t()[None, None]  # [1, 1, frames, features]
    for stage in pre_encode.conv:  # type: ignore[union-attr]
        if isinstance(stage, nn.Conv2d):
            y = stage(x)
            _standardize(stage, y.mean(dim=(0, 2, 3)), y.std(dim=(0, 2, 3)), 1.0)
        x = stage(x)
    frames, channels = x.shape[2], x.shape[1]
    x = x.transpose(1, 2).reshape(frames, channels * x.shape[3])
    out = pre_encode.out
    assert isinstance(out, nn.Linear)
    y = out(x)
    _standardize(out, y.mean(dim=0), y.std(dim=0), OUTPUT_DEVIATION)


def _standardize(layer: nn.Conv2d | nn.Linear, mean: Tensor, deviation: Tensor, target: float) -> None:
    scale = target / deviation.clamp_min(1e-5)
    layer.weight.mul_(scale.view(-1, *[1] * (layer.weight.dim() - 1)))
    if layer.bias is not None:
        layer.bias.sub_(mean).mul_(scale)
