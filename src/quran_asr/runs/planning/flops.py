"""How many floating-point operations a clip costs, in closed form: what utilisation is counted with.

Counted are the products of the model as NeMo computes it for a clip without padding, two operations for
each multiply-add. Everything that is not a product (normalisation, activations, softmax, features, lattice)
is left out, as is usual. A training step costs three forward passes: one, and two for the gradients of inputs
and weights (J. Kaplan et al., arXiv:2001.08361, section 2.1). Utilisation is these operations a second over
the device's peak (A. Chowdhery et al., arXiv:2204.02311, appendix B): work that is done twice, or on padding,
does not count.
"""

from __future__ import annotations

import math

from quran_asr.runs.architecture import Architecture, of_recipe
from quran_asr.runs.planning.workload import WORDS_A_SECOND, expected_tokens
from quran_asr.runs.schema import Recipe

FORWARD_PASSES = 3
"""Of a training step, in the cost of one forward pass."""


def audio_flops(recipe: Recipe, seconds: float, tokens: float | None = None) -> float:
    """Operations of a training step for each second of audio, in clips of so many seconds.

    Args:
        recipe: the model.
        seconds: of a clip; attention and joint grow with its square.
        tokens: of a clip; None for the average of recitation.
    """
    said = expected_tokens(recipe, WORDS_A_SECOND * seconds) if tokens is None else tokens
    return training_flops(of_recipe(recipe.model, recipe.quran.vocabulary_size), seconds, said) / seconds


def training_flops(model: Architecture, seconds: float, tokens: float) -> float:
    """Operations of one training step, for one clip of so many seconds and tokens."""
    return FORWARD_PASSES * forward_flops(model, seconds, tokens)


def forward_flops(model: Architecture, seconds: float, tokens: float) -> float:
    """Operations of one forward pass, for one clip: subsampling, encoder, CTC head, transducer."""
    frames = round(seconds / model.window[1]) + 1
    flops, frames = _subsampling(model, frames)
    flops += model.n_layers * _layer(model, frames)
    if model.kind != "transducer":
        flops += _product(frames, model.d_model, model.tokens + 1)
    if model.kind != "ctc":
        flops += _transducer(model, frames, tokens)
    return flops


def encoder_frames(model: Architecture, frames: int) -> int:
    """Frames that the subsampling leaves of so many feature frames."""
    for _ in range(int(math.log2(model.subsampling))):
        frames = _halved(model, frames)
    return frames


def _subsampling(model: Architecture, frames: int) -> tuple[float, int]:
    """Operations, and the frames that are left: 3 x 3 convolutions, by channel after the first."""
    flops, bins, kernel = 0.0, model.features, 9
    for stage in range(int(math.log2(model.subsampling))):
        frames, bins = _halved(model, frames), _halved(model, bins)
        flops += _product(frames * bins, kernel, model.channels)
        if stage:
            flops += _product(frames * bins, model.channels, model.channels)
    return flops + _product(frames, model.channels * bins, model.d_model), frames


def _layer(model: Architecture, frames: int) -> float:
    """Two feed-forward modules, attention with relative positions, convolution module.

    Attention is counted as dense, because a limited context is masked, not left out, in training.
    """
    width, positions = model.d_model, 2 * frames - 1
    feed_forward = 2 * 2 * _product(frames, width, model.ff_expansion * width)
    projections = 4 * _product(frames, width, width) + _product(positions, width, width)
    attention = 2 * _product(frames, width, frames) + _product(frames, width, positions)
    pointwise = _product(frames, width, 2 * width) + _product(frames, width, width)
    return feed_forward + projections + attention + pointwise + _product(frames, model.kernel, width)


def _transducer(model: Architecture, frames: int, tokens: float) -> float:
    """LSTM of the prediction network, both projections, and a row of logits for each cell of the lattice."""
    hidden, joined, steps = model.pred_hidden, model.joint_hidden, tokens + 1
    lstm = 2 * model.pred_layers * _product(steps, hidden, 4 * hidden)
    projections = _product(frames, model.d_model, joined) + _product(steps, hidden, joined)
    return lstm + projections + _product(frames * steps, joined, model.tokens + 1)


def _product(rows: float, inner: int, columns: int) -> float:
    return 2.0 * rows * inner * columns


def _halved(model: Architecture, length: int) -> int:
    """As `Architecture.bins`: kernel 3, stride 2; causal padding is 2 + 1, else 1 + 1."""
    return length // 2 + 1 if model.causal_downsampling else (length - 1) // 2 + 1
