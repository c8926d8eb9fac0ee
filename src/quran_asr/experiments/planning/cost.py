"""Floating-point operations and memory of a training step, in closed form.

What is counted is what PyTorch keeps for the backward pass of NeMo 3.0's modules, read off their saved
tensors (`torch.autograd.graph.saved_tensors_hooks`), and what our transducer loss works in. Predicted and
measured peaks on a CPU: docs/results/performance.md; on a GPU none was measured. Not counted: what libraries
take for themselves (a CUDA context, workspaces), fragmentation, and validation.

With B clips of T encoder frames, L layers of width d, h heads, a feed-forward expansion e, bytes are

    layer       B T d (a + 2 e f) + 3 kinds of B h T^2
    subsampling B C (sum over its stages of frames x bins, twice or thrice)

where a and f sum up the tensors that a layer keeps: inputs of norms and linear layers, masks of dropout,
queries, keys, values and positions. They depend on what is kept in which precision (`_Kept`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from quran_asr.config.architecture import Architecture, count_parameters, of_recipe
from quran_asr.config.schema import Encoder, Recipe
from quran_asr.experiments.planning.workload import WORDS_A_SECOND, expected_tokens

# Counted are the products of the model as NeMo computes it for a clip without padding, two operations for
# each multiply-add. Everything that is not a product (normalisation, activations, softmax, features,
# lattice) is left out, as is usual. A training step costs three forward passes: one, and two for the
# gradients of inputs and weights (J. Kaplan et al., arXiv:2001.08361, section 2.1). Utilisation is these
# operations a second over the device's peak (A. Chowdhery et al., arXiv:2204.02311, appendix B): work that
# is done twice, or on padding, does not count.

FORWARD_PASSES = 3
"""Of a training step, in the cost of one forward pass."""


def audio_flops(recipe: Recipe, seconds: float, tokens: float | None = None) -> float:
    """Operations of a training step for each second of audio, in clips of so many seconds.

    Args:
        recipe: the model.
        seconds: of a clip; attention and joint grow with its square.
        tokens: of a clip; None for the average of recitation.
    """
    token_count = expected_tokens(recipe.quran, WORDS_A_SECOND * seconds) if tokens is None else tokens
    flops = training_flops(of_recipe(recipe.model, recipe.quran.vocabulary_size), seconds, token_count)
    return recipe.quran.views * flops / seconds


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


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes of a training step on one device."""

    weights: int
    """float32, and the table of positions."""
    gradients: int
    """With the copy that is kept while batches accumulate, and DDP's buckets on several devices."""
    optimizer: int
    """AdamW's two moment tensors."""
    activations: int
    """What the encoder and the decoders keep for the backward pass."""
    joint: int
    """What joint and transducer loss work in, for the clips of one tile, and their gradients."""
    total: int
    """At the height of a step. New gradients arise while activations go: not all parts are there at once."""


@dataclass(frozen=True, slots=True)
class Batch:
    """The batch whose step is weighed."""

    clips: int
    seconds: float
    """Of its longest clip: all are padded to it."""
    tokens: float | None = None
    """Of a clip; None for the average of recitation."""


@dataclass(frozen=True, slots=True)
class _Kept:
    """Bytes that one value takes in each role."""

    value: int
    """Outputs of linear layers and convolutions, and inputs that are their copies."""
    norm: int
    """Inputs of norms, of the softmax and of the loss."""
    mask: int
    """A dropout mask's entry."""
    copies: int
    """Copies of the input of queries, keys and values."""


_CPU = _Kept(value=4, norm=4, mask=4, copies=1)
_GPU_FLOAT32 = _Kept(value=4, norm=4, mask=1, copies=1)
_GPU_BF16 = _Kept(value=2, norm=4, mask=1, copies=3)
"""Autocast keeps norms and softmax in float32, and converts an input for each layer that reads it."""


def step_memory(recipe: Recipe, batch: Batch, *, cpu: bool = False, devices: int = 1) -> Memory:
    """Bytes that a training step takes on each device.

    Args:
        batch: the largest batch.
        cpu: whether it trains on a CPU, in float32 whatever the recipe's precision.
        devices: processes that share the training.
    """
    model, encoder = recipe.model, recipe.model.encoder
    parameters = count_parameters(model, recipe.quran.vocabulary_size)
    mixed = recipe.trainer.precision == "bf16-mixed"
    kept = _CPU if cpu else _GPU_BF16 if mixed else _GPU_FLOAT32
    accumulates = recipe.trainer.accumulate_grad_batches > 1
    standing = 2 * accumulates + (devices * recipe.trainer.num_nodes > 1)  # copies that outlast a batch
    arising = 0 if accumulates else 1
    positions = 4 * (2 * encoder.pos_emb_max_len - 1) * encoder.d_model
    half = 0 if cpu or not mixed else 2 * parameters  # the weights as autocast converts them
    features = model.preprocessor.features
    frame = model.preprocessor.window_stride * encoder.subsampling_factor
    frames = batch.seconds / frame + 1
    token_count = batch.tokens
    if token_count is None:
        token_count = expected_tokens(recipe.quran, WORDS_A_SECOND * batch.seconds)
    clips = batch.clips * recipe.quran.views
    activations = clips * (
        _layers(encoder, frames, kept, checkpointing=recipe.quran.activation_checkpointing)
        + _subsampling_values(encoder, features, frames, kept)
        + _decoders(recipe, frames, token_count)
    )
    last = 0.0
    if recipe.quran.activation_checkpointing:  # then the height is at the end of the backward pass: all
        # gradients are there, what the subsampling has kept, and two gradients of its first stage
        stage, _ = _stages(encoder, features, frames)[0]
        last = clips * (_subsampling_values(encoder, features, frames, kept) + 2 * stage * kept.value)
    weights, moment_bytes = 4 * parameters + positions, 8 * parameters
    kept_back, joint = (
        round(activations + half),
        round(_joint(recipe, clips, frames, token_count, cpu=cpu)),
    )
    return Memory(
        weights=weights,
        gradients=4 * parameters * (standing + arising),
        optimizer=moment_bytes,
        activations=kept_back,
        joint=joint,
        total=weights
        + moment_bytes
        + 4 * parameters * standing
        + max(kept_back + joint, 4 * parameters * arising + round(last)),
    )


def _layers(encoder: Encoder, frames: float, kept: _Kept, *, checkpointing: bool) -> float:
    """Of one clip. Read off `ConformerLayer`, relative positions, layer norm in the convolution module."""
    hidden = 1 if encoder.dropout else 0
    wide = 2 * encoder.ff_expansion_factor
    a = 6 * kept.norm  # inputs of five norms and of the convolution's
    a += (5 + kept.copies) * kept.value  # feed-forward (2), attention's output, pointwise (2); q, k and v
    a += 4 * kept.value + 2 * kept.value  # queries twice, keys, values; positions, two a frame
    a += 2 * kept.value + kept.value + kept.norm  # gated linear unit, depthwise convolution, Swish
    a += 4 * hidden * kept.mask
    f = kept.value + kept.value + hidden * kept.mask  # Swish and second linear layer of a feed-forward module
    squares = kept.norm + kept.value + (kept.mask if encoder.dropout_att else 0)  # softmax, weights, mask
    if not encoder.dropout_att:
        squares = kept.norm + (kept.value if kept.value != kept.norm else 0)
    per_layer = frames * encoder.d_model * (a + wide * f) + encoder.n_heads * frames**2 * squares
    if checkpointing:  # each layer's input, and one layer that is run again
        return encoder.n_layers * frames * encoder.d_model * kept.norm + per_layer
    return encoder.n_layers * per_layer


def _subsampling_values(encoder: Encoder, features: int, frames: float, kept: _Kept) -> float:
    """Of one clip: ReLU's output and its padded copy at each stage, and what the pointwise layer reads."""
    values = (frames * encoder.subsampling_factor + 3) * (features + 3)
    stages = _stages(encoder, features, frames)
    for stage, (area, padded) in enumerate(stages):
        values += area * (1 if stage == 0 else 2) + (padded if stage < len(stages) - 1 else area)
    return values * kept.value


def _stages(encoder: Encoder, features: int, frames: float) -> list[tuple[float, float]]:
    """Values of one clip at each stage of the subsampling, as they are and padded."""
    length, bins = frames * encoder.subsampling_factor, features
    found = []
    for _ in range(int(math.log2(encoder.subsampling_factor))):
        length, bins = length / 2, bins // 2 + 1
        channels = encoder.subsampling_conv_channels
        found.append((channels * length * bins, channels * (length + 3) * (bins + 3)))
    return found


def _decoders(recipe: Recipe, frames: float, token_count: float) -> float:
    """Of one clip: CTC's scores three times in float32, its sums, and the prediction network's gates."""
    classes = recipe.quran.vocabulary_size + 1
    prediction = 10 * recipe.model.decoder.prednet.pred_hidden * recipe.model.decoder.prednet.pred_rnn_layers
    ctc = 3 * frames * classes + frames * (2 * token_count + 1)
    return 4 * (ctc + (token_count + 1) * prediction + frames * recipe.model.encoder.d_model)


def _joint(recipe: Recipe, clips: int, frames: float, token_count: float, *, cpu: bool) -> float:
    """`transducer_loss.py`: rows of the cells of a tile, and gradients of every clip.

    On a CPU rows are made in blocks of 2 MB, on a GPU for all cells of a tile at once.
    """
    width, classes = recipe.model.joint.jointnet.joint_hidden, -(-(recipe.quran.vocabulary_size + 1) // 8) * 8
    value = 2 if recipe.trainer.precision == "bf16-mixed" and not cpu else 4
    tile = min(recipe.model.joint.fused_batch_size or clips, clips)
    cells = tile * frames * (token_count + 1)
    rows = min(cells, max(64, 2**19 / classes)) if cpu else cells
    known = 4 * cells * classes if cells * classes <= 2**23 else 0
    mask = (3 if recipe.model.joint.jointnet.dropout else 0) * cells * width  # bits of 16, then a truth value
    lattice = 150 * cells + 48 * tile * (frames + token_count) * (token_count + 2)  # places and float64 sums
    work = rows * (2 * width * value + classes * (value + 4)) + known + mask + lattice
    gradients = 4 * clips * ((frames + token_count + 1) * width + classes * width)
    projected = 2 * value * clips * (frames + token_count + 1) * width
    return work + 2 * gradients + projected
