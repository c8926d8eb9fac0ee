"""What training a second of audio costs, in floating-point operations, in closed form.

Counted are multiplications with weights and between activations, 2 operations each, in the modules of NeMo's
`ConformerEncoder` (`conformer_modules.py`, `multi_head_attention.py`, `subsampling.py`), the decoders and the
joint; a backward pass costs twice the forward pass (J. Kaplan et al., arXiv:2001.08361, section 2.1).
Normalisation, activation functions and the lattice are left out: they cost time, but few operations.
"""

from __future__ import annotations

import math

from quran_asr.runs.architecture import Architecture, of_recipe
from quran_asr.runs.schema import Recipe
from quran_asr.runs.workload import WORDS_A_SECOND, expected_tokens

JOINT_PASSES = 4
"""Forward, forward again for the gradient, and the gradients of rows and weights (`transducer_loss.py`)."""


def training_flops(recipe: Recipe, seconds: float, tokens: float | None = None) -> float:
    """Operations of forward and backward pass of one clip, divided by its seconds.

    Args:
        recipe: the model.
        seconds: of the clip; attention and joint grow with its square.
        tokens: of the clip; None for the average of recitation.
    """
    model = of_recipe(recipe.model, recipe.quran.vocabulary_size)
    frames = seconds / frame_seconds(recipe)
    said = expected_tokens(recipe, WORDS_A_SECOND * seconds) if tokens is None else tokens
    once = frames * _encoder(model, frames) + _subsampling(model, seconds)
    once += frames * model.d_model * (model.tokens + 1)  # CTC
    once += (said + 1) * 8 * model.pred_layers * model.pred_hidden**2
    once += model.joint_hidden * (frames * model.d_model + (said + 1) * model.pred_hidden)
    cells = frames * (said + 1) * model.joint_hidden * (model.tokens + 1)
    return 2 * (3 * once + JOINT_PASSES * cells) / seconds


def frame_seconds(recipe: Recipe) -> float:
    """Of an encoder frame."""
    return recipe.model.preprocessor.window_stride * recipe.model.encoder.subsampling_factor


def _encoder(model: Architecture, frames: float) -> float:
    """Multiplications of one frame in all layers: attention meets every frame of the clip, masked or not."""
    width, wide = model.d_model, model.d_model * model.ff_expansion
    feed_forward = 2 * 2 * width * wide
    attention = 4 * width**2 + 4 * frames * width  # content, positions (two a frame), values
    convolution = 3 * width**2 + model.kernel * width
    return model.n_layers * (feed_forward + attention + convolution)


def _subsampling(model: Architecture, seconds: float) -> float:
    """Of a clip: a 3 x 3 convolution, then depthwise 3 x 3 and pointwise, halving time and bins each time."""
    length, bins = seconds / model.window[1], model.features
    total = 0.0
    for stage in range(int(math.log2(model.subsampling))):
        length, bins = length / 2, (bins // 2 + 1 if model.causal_downsampling else (bins + 1) // 2)
        total += length * bins * model.channels * (9 if stage == 0 else 9 + model.channels)
    return total + length * bins * model.channels * model.d_model
