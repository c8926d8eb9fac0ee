"""How many parameters a recipe's model has, in closed form: `plan` needs no torch for it."""

from __future__ import annotations

import math

from quran_asr.runs.schema import Encoder, Model


def count_parameters(model: Model, vocabulary_size: int) -> int:
    """Trainable parameters of NeMo's `EncDecHybridRNNTCTCBPEModel` with this model section.

    Args:
        model: the recipe's `model`.
        vocabulary_size: BPE tokens, without the blank.
    """
    symbols = vocabulary_size + 1  # the blank
    width = model.encoder.d_model
    predicted, joined = model.decoder.prednet.pred_hidden, model.joint.jointnet.joint_hidden
    layers = model.decoder.prednet.pred_rnn_layers
    prediction = symbols * predicted + layers * 4 * (2 * predicted * predicted + 2 * predicted)
    joint = _linear(width, joined) + _linear(predicted, joined) + _linear(joined, symbols)
    ctc = _linear(width, symbols)
    return count_encoder(model.encoder, model.preprocessor.features) + prediction + joint + ctc


def count_encoder(encoder: Encoder, features: int) -> int:
    """Trainable parameters of the encoder alone, for `features` mel bins."""
    width = encoder.d_model
    shared = 0 if encoder.untie_biases else 2 * width
    return _subsampling(encoder, features) + encoder.n_layers * _layer(encoder) + shared


def _subsampling(encoder: Encoder, features: int) -> int:
    channels = encoder.subsampling_conv_channels
    halvings = int(math.log2(encoder.subsampling_factor))
    bins = features
    for _ in range(halvings):  # kernel 3, stride 2; causal padding is 2 + 1, else 1 + 1
        bins = bins // 2 + 1 if encoder.causal_downsampling else (bins - 1) // 2 + 1
    first = _linear(9, channels)
    later = (halvings - 1) * (_linear(9, 1) * channels + _linear(channels, channels))
    return first + later + _linear(channels * bins, encoder.d_model)


def _layer(encoder: Encoder) -> int:
    width, bias = encoder.d_model, encoder.use_bias
    wide = width * encoder.ff_expansion_factor
    norms = 5 * 2 * width
    feed_forward = 2 * (_linear(width, wide, bias) + _linear(wide, width, bias))
    position = width * width + (2 * width if encoder.untie_biases else 0)
    attention = 4 * _linear(width, width, bias) + position
    convolution = (
        _linear(width, 2 * width, bias)
        + _linear(encoder.conv_kernel_size, 1, bias) * width
        + 2 * width  # its norm
        + _linear(width, width, bias)
    )
    return norms + feed_forward + attention + convolution


def _linear(inputs: int, outputs: int, bias: bool = True) -> int:
    return inputs * outputs + (outputs if bias else 0)
