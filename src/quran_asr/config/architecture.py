"""Architecture and size of a FastConformer: tensor names and shapes from a recipe or a NeMo configuration.

The names are those of NeMo 3.0's state dicts, so that `plan` can predict without torch what a start
brings, and `train` can recognize a foreign archive.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from quran_asr.config.schema import Model
from quran_asr.errors import QuranAsrError
from quran_asr.records import SAMPLE_RATE

Shape = tuple[int, ...]
Kind = Literal["transducer", "hybrid", "ctc"]


@dataclass(frozen=True, slots=True)
class Architecture:
    """The facts that decide a model's tensors, and those that decide what they mean."""

    kind: Kind
    tokens: int
    """Without the blank."""
    features: int
    """Mel bins."""
    normalize: str
    """`NA`, or how features are normalised over a recording (`per_feature`)."""
    window: tuple[float, float]
    """Seconds: window, stride."""
    n_layers: int
    d_model: int
    n_heads: int
    ff_expansion: int
    channels: int
    """Of the convolutional subsampling."""
    subsampling: int
    causal_downsampling: bool
    causal_convolution: bool
    attention: str
    """`regular` sees the whole recording, `chunked_limited` streams."""
    kernel: int
    norm: str
    """Of the convolution module: `batch_norm` or `layer_norm`."""
    use_bias: bool
    untie_biases: bool
    xscaling: bool
    pred_hidden: int
    pred_layers: int
    joint_hidden: int
    joint_dropout: bool

    def shapes(self) -> dict[str, Shape]:
        """Every parameter by its name in the state dict, with its shape."""
        named = dict(self._encoder())
        if self.kind != "ctc":
            named |= dict(self._transducer())
        if self.kind != "transducer":
            head = "decoder" if self.kind == "ctc" else "ctc_decoder"
            named[f"{head}.decoder_layers.0.weight"] = (self.tokens + 1, self.d_model, 1)
            named[f"{head}.decoder_layers.0.bias"] = (self.tokens + 1,)
        return named

    @property
    def bins(self) -> int:
        """Frequency bins behind the subsampling: kernel 3, stride 2; causal padding is 2 + 1, else 1 + 1."""
        return self._subsampled(self.features)

    def frames(self, seconds: float) -> int:
        """Encoder frames of a clip of this length: NeMo's features have one frame a stride, rounded down."""
        stride = round(SAMPLE_RATE * self.window[1])
        return self._subsampled(round(SAMPLE_RATE * seconds) // stride)

    def _subsampled(self, size: int) -> int:
        for _ in range(self._halvings):
            size = size // 2 + 1 if self.causal_downsampling else (size - 1) // 2 + 1
        return size

    @property
    def _halvings(self) -> int:
        return int(math.log2(self.subsampling))

    def _encoder(self) -> Iterator[tuple[str, Shape]]:
        start, channels, width = "encoder.pre_encode", self.channels, self.d_model
        yield from _linear(f"{start}.out", (width, channels * self.bins))
        yield from _linear(f"{start}.conv.0", (channels, 1, 3, 3))
        for stage in range(1, self._halvings):
            yield from _linear(f"{start}.conv.{3 * stage - 1}", (channels, 1, 3, 3))
            yield from _linear(f"{start}.conv.{3 * stage}", (channels, channels, 1, 1))
        for layer in range(self.n_layers):
            yield from self._layer(f"encoder.layers.{layer}")

    def _layer(self, name: str) -> Iterator[tuple[str, Shape]]:
        width, wide, bias = self.d_model, self.d_model * self.ff_expansion, self.use_bias
        for half in ("feed_forward1", "feed_forward2"):
            yield from _linear(f"{name}.norm_{half}", (width,))
            yield from _linear(f"{name}.{half}.linear1", (wide, width), bias)
            yield from _linear(f"{name}.{half}.linear2", (width, wide), bias)
        yield from _linear(f"{name}.norm_conv", (width,))
        yield from _linear(f"{name}.conv.pointwise_conv1", (2 * width, width, 1), bias)
        yield from _linear(f"{name}.conv.depthwise_conv", (width, 1, self.kernel), bias)
        yield from _linear(f"{name}.conv.batch_norm", (width,))
        yield from _linear(f"{name}.conv.pointwise_conv2", (width, width, 1), bias)
        yield from _linear(f"{name}.norm_self_att", (width,))
        if self.untie_biases or name.endswith(".0"):  # tied, all layers share those of the first
            for which in "uv":
                yield f"{name}.self_attn.pos_bias_{which}", (self.n_heads, width // self.n_heads)
        for part in "qkv":
            yield from _linear(f"{name}.self_attn.linear_{part}", (width, width), bias)
        yield from _linear(f"{name}.self_attn.linear_out", (width, width), bias)
        yield f"{name}.self_attn.linear_pos.weight", (width, width)
        yield from _linear(f"{name}.norm_out", (width,))

    def _transducer(self) -> Iterator[tuple[str, Shape]]:
        hidden, joined = self.pred_hidden, self.joint_hidden
        yield "decoder.prediction.embed.weight", (self.tokens + 1, hidden)
        for layer in range(self.pred_layers):
            for which in ("ih", "hh"):
                yield f"decoder.prediction.dec_rnn.lstm.weight_{which}_l{layer}", (4 * hidden, hidden)
                yield f"decoder.prediction.dec_rnn.lstm.bias_{which}_l{layer}", (4 * hidden,)
        yield from _linear("joint.pred", (joined, hidden))
        yield from _linear("joint.enc", (joined, self.d_model))
        yield from _linear(f"joint.joint_net.{2 if self.joint_dropout else 1}", (self.tokens + 1, joined))


def of_recipe(model: Model, tokens: int) -> Architecture:
    """What a recipe builds."""
    encoder, decoder, joint = model.encoder, model.decoder.prednet, model.joint.jointnet
    return Architecture(
        kind="hybrid",
        tokens=tokens,
        features=model.preprocessor.features,
        normalize=model.preprocessor.normalize,
        window=(model.preprocessor.window_size, model.preprocessor.window_stride),
        n_layers=encoder.n_layers,
        d_model=encoder.d_model,
        n_heads=encoder.n_heads,
        ff_expansion=encoder.ff_expansion_factor,
        channels=encoder.subsampling_conv_channels,
        subsampling=encoder.subsampling_factor,
        causal_downsampling=encoder.causal_downsampling,
        causal_convolution=encoder.conv_context_size == "causal",
        attention=encoder.att_context_style,
        kernel=encoder.conv_kernel_size,
        norm=encoder.conv_norm_type,
        use_bias=encoder.use_bias,
        untie_biases=encoder.untie_biases,
        xscaling=encoder.xscaling,
        pred_hidden=decoder.pred_hidden,
        pred_layers=decoder.pred_rnn_layers,
        joint_hidden=joint.joint_hidden,
        joint_dropout=joint.dropout > 0,
    )


def of_nemo(config: Mapping[str, Any], tokens: int, where: str) -> Architecture:
    """What a `model_config.yaml` describes; keys that are missing have NeMo's defaults.

    Args:
        config: its plain values, from outside.
        tokens: of its vocabulary, without the blank.
        where: the archive, for errors.

    Raises:
        QuranAsrError: no FastConformer with a transducer or CTC decoder, or a value that is none.
    """
    try:
        encoder, features = config["encoder"], config["preprocessor"]
        if not str(encoder.get("_target_", "")).endswith("ConformerEncoder"):
            raise KeyError("encoder")
        transducer = "joint" in config
        prednet = config["decoder"]["prednet"] if transducer else {}
        jointnet = config["joint"]["jointnet"] if transducer else {}
        return Architecture(
            kind=("hybrid" if "aux_ctc" in config else "transducer") if transducer else "ctc",
            tokens=tokens,
            features=int(features.get("features", 64)),
            normalize=str(features.get("normalize", "per_feature")),
            window=(float(features.get("window_size", 0.02)), float(features.get("window_stride", 0.01))),
            n_layers=int(encoder["n_layers"]),
            d_model=int(encoder["d_model"]),
            n_heads=int(encoder.get("n_heads", 4)),
            ff_expansion=int(encoder.get("ff_expansion_factor", 4)),
            channels=int(encoder.get("subsampling_conv_channels", -1)),
            subsampling=int(encoder.get("subsampling_factor", 4)),
            causal_downsampling=bool(encoder.get("causal_downsampling", False)),
            causal_convolution=encoder.get("conv_context_size") == "causal",
            attention=str(encoder.get("att_context_style", "regular")),
            kernel=int(encoder.get("conv_kernel_size", 31)),
            norm=str(encoder.get("conv_norm_type", "batch_norm")),
            use_bias=bool(encoder.get("use_bias", True)),
            untie_biases=bool(encoder.get("untie_biases", True)),
            xscaling=bool(encoder.get("xscaling", True)),
            pred_hidden=int(prednet.get("pred_hidden", 0)),
            pred_layers=int(prednet.get("pred_rnn_layers", 1)),
            joint_hidden=int(jointnet.get("joint_hidden", 0)),
            joint_dropout=bool(jointnet.get("dropout", 0.0)),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise QuranAsrError(
            f"not a FastConformer with a transducer or CTC decoder (`{error}` in its configuration)",
            where=where,
            remedy="start from a FastConformer, e.g. stt_en_fastconformer_hybrid_large_streaming_multi",
        ) from None


def _linear(name: str, weight: Shape, bias: bool = True) -> Iterator[tuple[str, Shape]]:
    yield f"{name}.weight", weight
    if bias:
        yield f"{name}.bias", weight[:1]


def count_parameters(model: Model, vocabulary_size: int) -> int:
    """Trainable parameters of NeMo's `EncDecHybridRNNTCTCBPEModel` with this model section.

    Args:
        model: the recipe's `model`.
        vocabulary_size: BPE tokens, without the blank.
    """
    return sum(math.prod(shape) for shape in of_recipe(model, vocabulary_size).shapes().values())
