"""A trained hybrid as the three graphs that the runtime runs: encoder with CTC head, prediction, joint.

The encoder is NeMo's cache-aware FastConformer written for inference, with the trained weights:

- What is kept between pieces are keys and values, not the layers' inputs: a piece projects its own frames
  only, where NeMo projects the whole left context again for every piece.
- Positions are projected once, when the graph is made.
- The subsampling is fed real history alone, and what lies before the recording is zero behind each of its
  convolutions, as it is for a whole file. So no frame is computed twice and none is dropped.
- The chunk (look-ahead + 1) is an input. A stream is fed a chunk at a time, a whole file many: same numbers.

Equality with NeMo's whole-file pass is checked by `export` before it writes (`train/export_check.py`).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from quran_asr.findings import QuranAsrError
from quran_asr.listen.bundle import Shape
from quran_asr.train.model import EncDecHybridRNNTCTCBPEModel

MASKED = -10_000.0
"""Added to scores that attention must not see, as in NeMo."""


def model_shape(model: EncDecHybridRNNTCTCBPEModel, name: str) -> Shape:
    """How a model's graphs are fed.

    Raises:
        QuranAsrError: the encoder is none that can be fed piece by piece; says which of its keys is why.
    """
    cfg = model.cfg.encoder
    needed = {
        "subsampling": "dw_striding",
        "subsampling_factor": 8,
        "causal_downsampling": True,
        "self_attention_model": "rel_pos",
        "att_context_style": "chunked_limited",
        "conv_norm_type": "layer_norm",
        "conv_context_size": "causal",
    }
    for key, value in needed.items():
        if cfg.get(key) != value:
            raise QuranAsrError(
                f"not a streaming model: encoder.{key} is {cfg.get(key)}, not {value}",
                where=name,
                remedy="train with one of the shipped recipes; `transcribe` and `evaluate` take this model",
            )
    if str(model.cfg.preprocessor.get("normalize", "NA")) not in ("NA", "None", "null"):
        raise QuranAsrError(
            f"features are normalised over the recording (preprocessor.normalize: "
            f"{model.cfg.preprocessor.normalize}), which a stream cannot know",
            where=name,
            remedy="train with model.preprocessor.normalize=NA",
        )
    encoder = model.encoder
    attention = encoder.layers[0].self_attn
    contexts = [(int(left), int(right)) for left, right in encoder.att_context_size_all]
    lefts = {left for left, _ in contexts}
    if len(lefts) != 1 or min(min(context) for context in contexts) < 0:
        raise QuranAsrError(
            f"not a streaming model: its attention contexts are {contexts}",
            where=name,
            remedy="each needs the same number of frames to the left, and a number to the right",
        )
    return Shape(
        layers=len(encoder.layers),
        heads=attention.h,
        head_size=attention.d_k,
        width=int(cfg.d_model),
        kernel=int(cfg.conv_kernel_size),
        left_frames=lefts.pop(),
        look_aheads=tuple(sorted({right for _, right in contexts}, reverse=True)),
        joint_width=model.joint.enc.out_features,
        prediction_layers=model.decoder.pred_rnn_layers,
        prediction_width=model.decoder.pred_hidden,
        max_symbols=int(model.cfg.decoding.greedy.max_symbols),
    )


def _before(index: Tensor, end: Tensor, axes: int) -> Tensor:
    """1.0 where 0 <= index < end, float32 [B, 1.., T, 1..]: index [B, T], end [B]; `axes` 3 or 4."""
    inside = ((index >= 0) & (index < end.unsqueeze(1))).float()
    return inside.unsqueeze(-1) if axes == 3 else inside.unsqueeze(1).unsqueeze(-1)


class Subsampling(nn.Module):
    """The causal convolutions: feature frames 8j - 14 .. 8j become encoder frame j."""

    def __init__(self, model: EncDecHybridRNNTCTCBPEModel) -> None:
        super().__init__()
        self.stages = model.encoder.pre_encode.conv
        self.out = model.encoder.pre_encode.out

    def forward(self, mels: Tensor, begin: Tensor, total: Tensor) -> Tensor:
        """[B, 8n + 7, mels] from feature frame 8 `begin` - 14 on, of `total` in all -> [B, n, width]."""
        index = 8 * begin.unsqueeze(1) - 14 + torch.arange(mels.size(1)).unsqueeze(0)
        end = total
        x = (mels * _before(index, end, 3)).unsqueeze(1)
        first = -14
        for stage in self.stages:
            if isinstance(stage, nn.Conv2d) and stage.stride[0] == 2:
                x = F.pad(x, (stage._left_padding, stage._right_padding, 0, 0))  # frequency alone
                x = F.conv2d(x, stage.weight, stage.bias, stride=2, groups=stage.groups)
                first = (first + 2) // 2
                end = torch.div(end, 2, rounding_mode="floor") + 1
            elif isinstance(stage, nn.Conv2d):
                x = F.conv2d(x, stage.weight, stage.bias)
            else:
                x = stage(x)
                # zero behind each stage, not only before the first: what NeMo's padding does
                per_frame = {-6: 4, -2: 2, 0: 1}[first]
                index = per_frame * begin.unsqueeze(1) + first + torch.arange(x.size(2)).unsqueeze(0)
                x = x * _before(index, end, 4)
        return self.out(x.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]


class Attention(nn.Module):
    """Relative-position attention (Transformer-XL, 3.3) to keys and values that are kept."""

    def __init__(self, attention: nn.Module, positions: Tensor) -> None:
        super().__init__()
        self.heads, self.size = attention.h, attention.d_k
        self.query, self.key, self.value = attention.linear_q, attention.linear_k, attention.linear_v
        self.out = attention.linear_out
        scale = self.size**-0.5
        self.scale = scale
        self.register_buffer("bias_u", attention.pos_bias_u.detach().unsqueeze(1).clone())
        self.register_buffer("bias_v", attention.pos_bias_v.detach().unsqueeze(1).clone())
        projected = attention.linear_pos(positions).view(-1, self.heads, self.size)
        self.register_buffer("positions", (projected.permute(1, 2, 0)).detach().clone())

    def forward(self, x: Tensor, mask: Tensor, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """x [B, n, width], mask [B, 1, n, left + n] (added), keys and values [B, heads, left, size]."""
        batch, n = x.size(0), x.size(1)
        left = keys.size(2)
        split = (batch, n, self.heads, self.size)
        query = self.query(x).view(split).transpose(1, 2)
        keys = torch.cat([keys, self.key(x).view(split).transpose(1, 2)], dim=2)
        values = torch.cat([values, self.value(x).view(split).transpose(1, 2)], dim=2)
        content = torch.matmul(query + self.bias_u, keys.transpose(2, 3))
        # The table holds distances left + most - 1 .. -(most - 1), of which n frames need the middle.
        most = (self.positions.size(2) - left + 1) // 2
        table = self.positions[:, :, most - n : most + n + left - 1]
        position = torch.matmul(query + self.bias_v, table)
        # Skewing: row i begins n - 1 - i further right.
        width = position.size(3)
        position = F.pad(position, (1, 0)).reshape(batch, self.heads, width + 1, n)
        position = position[:, :, 1:].reshape(batch, self.heads, n, width)[:, :, :, : left + n]
        weights = torch.softmax((content + position) * self.scale + mask, dim=-1)
        heard = torch.matmul(weights, values).transpose(1, 2).reshape(batch, n, self.heads * self.size)
        return self.out(heard), keys[:, :, n:], values[:, :, n:]


class Convolution(nn.Module):
    """The convolution module of a layer, in [B, time, channels] throughout."""

    def __init__(self, convolution: nn.Module) -> None:
        super().__init__()
        self.enter = _as_linear(convolution.pointwise_conv1)
        self.leave = _as_linear(convolution.pointwise_conv2)
        self.norm = convolution.batch_norm
        depthwise = convolution.depthwise_conv
        self.register_buffer("taps", depthwise.weight.detach().squeeze(1).t().contiguous())
        self.register_buffer("bias", None if depthwise.bias is None else depthwise.bias.detach().clone())

    def forward(self, x: Tensor, kept: Tensor) -> tuple[Tensor, Tensor]:
        """x [B, n, width], kept [B, kernel - 1, width] from the frames before."""
        n = x.size(1)
        x = torch.cat([kept, F.glu(self.enter(x), dim=-1)], dim=1)
        y = x[:, :n] * self.taps[0]
        for tap in range(1, self.taps.size(0)):
            y = y + x[:, tap : tap + n] * self.taps[tap]
        if self.bias is not None:
            y = y + self.bias
        return self.leave(F.silu(self.norm(y))), x[:, n:]


class Layer(nn.Module):
    """A Conformer layer."""

    def __init__(self, layer: nn.Module, positions: Tensor) -> None:
        super().__init__()
        self.layer = layer
        self.attention = Attention(layer.self_attn, positions)
        self.convolution = Convolution(layer.conv)

    def forward(
        self, x: Tensor, mask: Tensor, keys: Tensor, values: Tensor, kept: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        layer = self.layer
        x = x + layer.fc_factor * _feed_forward(layer.feed_forward1, layer.norm_feed_forward1(x))
        heard, keys, values = self.attention(layer.norm_self_att(x), mask, keys, values)
        x = x + heard
        convolved, kept = self.convolution(layer.norm_conv(x), kept)
        x = x + convolved
        x = x + layer.fc_factor * _feed_forward(layer.feed_forward2, layer.norm_feed_forward2(x))
        return layer.norm_out(x), keys, values, kept


class StreamingEncoder(nn.Module):
    """Encoder, CTC head and the joint's encoder side, for pieces of n frames (n a multiple of the chunk)."""

    def __init__(self, model: EncDecHybridRNNTCTCBPEModel, shape: Shape) -> None:
        super().__init__()
        encoder = model.encoder
        self.left = shape.left_frames
        self.subsampling = Subsampling(model)
        self.scale = float(encoder.pos_enc.xscale or 1.0)
        encoder.pos_enc.extend_pe(2 * self.left, torch.device("cpu"), torch.float32)
        centre = encoder.pos_enc.pe.size(1) // 2
        reach = self.left + self.left - 1
        positions = encoder.pos_enc.pe[0, centre - reach : centre + self.left]
        self.layers = nn.ModuleList(Layer(layer, positions) for layer in encoder.layers)
        self.joint = model.joint.enc
        self.ctc = _as_linear(model.ctc_decoder.decoder_layers[0])

    def forward(
        self,
        mels: Tensor,
        begin: Tensor,
        total: Tensor,
        chunk: Tensor,
        keys: Tensor,
        values: Tensor,
        kept: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """One piece of each of B streams.

        Args:
            mels: float32 [B, 8n + 7, mels], feature frames 8 begin - 14 .. 8 (begin + n - 1).
            begin: int64 [B], encoder frames before this piece; a multiple of the chunk.
            total: int64 [B], feature frames of the recording, or a huge number while it is not known.
            chunk: int64 [], look-ahead in frames + 1.
            keys, values: float32 [B, layers, heads, left, size].
            kept: float32 [B, layers, kernel - 1, width].

        Returns:
            The joint's encoder side [B, n, joint], CTC log-probabilities [B, n, vocabulary + 1], and what
            to give with the next piece.
        """
        x = self.scale * self.subsampling(mels, begin, total)
        mask = self._mask(x.size(1), begin, total, chunk)
        next_keys, next_values, next_kept = [], [], []
        for i, layer in enumerate(self.layers):
            x, key, value, frames = layer(x, mask, keys[:, i], values[:, i], kept[:, i])
            next_keys.append(key)
            next_values.append(value)
            next_kept.append(frames)
        return (
            self.joint(x),
            torch.log_softmax(self.ctc(x), dim=-1),
            torch.stack(next_keys, dim=1),
            torch.stack(next_values, dim=1),
            torch.stack(next_kept, dim=1),
        )

    def _mask(self, n: int, begin: Tensor, total: Tensor, chunk: Tensor) -> Tensor:
        """[B, 1, n, left + n]: 0 where a frame may look, MASKED elsewhere."""
        frames = total
        for _ in range(3):
            frames = torch.div(frames, 2, rounding_mode="floor") + 1
        own = torch.arange(n).unsqueeze(1)
        other = torch.arange(self.left + n).unsqueeze(0) - self.left
        start = torch.div(own, chunk, rounding_mode="floor") * chunk
        reach = torch.div(self.left, chunk, rounding_mode="floor") * chunk
        seen = (other >= start - reach) & (other < start + chunk)
        place = begin.unsqueeze(1) + other
        there = (place >= 0) & (place < frames.unsqueeze(1))
        return (MASKED * (1.0 - (seen.unsqueeze(0) & there.unsqueeze(1)).float())).unsqueeze(1)


class Prediction(nn.Module):
    """A token and the LSTM's state in, the joint's prediction side and the next state out."""

    def __init__(self, model: EncDecHybridRNNTCTCBPEModel) -> None:
        super().__init__()
        self.embedding = model.decoder.prediction["embed"]
        self.lstm = model.decoder.prediction["dec_rnn"].lstm
        self.joint = model.joint.pred

    def forward(self, tokens: Tensor, hidden: Tensor, cell: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """tokens int64 [B], hidden and cell float32 [layers, B, width] -> [B, joint] and the next state."""
        output, (hidden, cell) = self.lstm(self.embedding(tokens).unsqueeze(0), (hidden, cell))
        return self.joint(output[0]), hidden, cell


class Joint(nn.Module):
    """Both sides, projected, in; log-probabilities of the next token out."""

    def __init__(self, model: EncDecHybridRNNTCTCBPEModel) -> None:
        super().__init__()
        self.net = model.joint.joint_net

    def forward(self, encoded: Tensor, predicted: Tensor) -> Tensor:
        """[N, joint] and [N, joint] -> [N, vocabulary + 1], natural log, blank last."""
        return torch.log_softmax(self.net(encoded + predicted), dim=-1)


def _as_linear(convolution: nn.Module) -> nn.Linear:
    """A convolution one frame wide as a matrix, which runtimes multiply faster and can quantise."""
    weight = convolution.weight.detach().squeeze(-1)
    linear = nn.Linear(weight.size(1), weight.size(0), bias=convolution.bias is not None)
    linear.weight.data = weight.clone()
    if convolution.bias is not None:
        linear.bias.data = convolution.bias.detach().clone()
    return linear


def _feed_forward(module: nn.Module, x: Tensor) -> Tensor:
    return module.linear2(F.silu(module.linear1(x)))  # type: ignore[no-any-return]
