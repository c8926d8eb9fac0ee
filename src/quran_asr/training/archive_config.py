"""A stranger's `model_config.yaml`, rebuilt from a schema: nothing of it reaches NeMo as it was written.

NeMo makes of a configuration whatever it names: any class of its own, with any argument, under `_target_`, or
under the older `target`, `cls` and `params`. A tokenizer class among them runs Python from the hub, others
write and delete files. So a configuration is not searched for what is known to be dangerous. It must consist
of the keys below, which are those of the published FastConformers from NeMo 1.x to 3.0 and of our own models;
values are numbers within bounds, true, false, null or words of a list; and the result is built from the
checked values alone.

Bounds are far beyond every published model, and keep what is built within a machine's memory.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from quran_asr.errors import QuranAsrError
from quran_asr.text.spelling import SPELLINGS

MODELS = {
    "EncDecHybridRNNTCTCBPEModel": "hybrid_rnnt_ctc_bpe_models",
    "EncDecRNNTBPEModel": "rnnt_bpe_models",
    "EncDecCTCModelBPE": "ctc_bpe_models",
}
"""Class -> its module below `nemo.collections.asr.models`."""
DEEPEST = 20
"""Levels of a configuration; the published ones have 6."""
LONGEST_PLAIN = 20_000
"""Characters of a value without quotes, of which YAML tries whether it is a number or a date."""
FAST: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""YAML's loader in C where there is one; both build plain values only."""


class InvalidValue(Exception):  # noqa: N818 - a sentence's end, made an error by `rebuild`
    """A key or value that no configuration of such a model has."""


@dataclass(frozen=True, slots=True)
class OneOf:
    """One of some words, numbers, true, false or null."""

    choices: tuple[Any, ...]

    def fit(self, value: Any, key: str) -> Any:
        for choice in self.choices:
            if type(value) is type(choice) and value == choice:
                return choice
        raise InvalidValue(f"`{key}: {shown(value)}` is not one of {', '.join(map(str, self.choices))}")


@dataclass(frozen=True, slots=True)
class Number:
    """A number within bounds."""

    low: float
    high: float
    whole: bool = False
    optional: bool = False

    def fit(self, value: Any, key: str) -> Any:
        if value is None and self.optional:
            return None
        if type(value) is int or (type(value) is float and not self.whole):
            if self.low <= value <= self.high:
                return value
            raise InvalidValue(f"`{key}: {shown(value)}` is not between {self.low:g} and {self.high:g}")
        kind = "a whole number" if self.whole else "a number"
        raise InvalidValue(f"`{key}: {shown(value)}` is not {kind}")


@dataclass(frozen=True, slots=True)
class ListOf:
    """A list of up to `most`."""

    of: Check
    most: int = 32

    def fit(self, value: Any, key: str) -> Any:
        if not isinstance(value, list) or len(value) > self.most:
            raise InvalidValue(f"`{key}: {shown(value)}` is not a list of up to {self.most}")
        return [self.of.fit(item, key) for item in value]


@dataclass(frozen=True, slots=True)
class AnyOf:
    """What one of several checks takes."""

    checks: tuple[Check, ...]

    def fit(self, value: Any, key: str) -> Any:
        for check in self.checks:
            try:
                return check.fit(value, key)
            except InvalidValue:
                continue
        raise InvalidValue(f"`{key}: {shown(value)}` has no value that is known")


@dataclass(frozen=True, slots=True)
class Artifact:
    """`nemo:NAME`, a file of the archive itself."""

    def fit(self, value: Any, key: str) -> Any:
        if value is None or (isinstance(value, str) and value.startswith("nemo:") and "${" not in value):
            return value
        raise InvalidValue(f"`{key}: {shown(value)}` is not a file of the archive")


@dataclass(frozen=True, slots=True)
class Text:
    """A short printable text, for people."""

    def fit(self, value: Any, key: str) -> Any:
        if isinstance(value, str) and len(value) <= 200 and value.isprintable() and "${" not in value:
            return value
        raise InvalidValue(f"`{key}: {shown(value)}` is not a short text")


@dataclass(frozen=True, slots=True)
class Dropped:
    """Anything at all: it is handed to nobody."""

    def fit(self, value: Any, key: str) -> Any:
        raise NotImplementedError


@dataclass(frozen=True, slots=True)
class Section:
    """A mapping with these keys and no others."""

    keys: Mapping[str, Check]
    needed: tuple[str, ...] = ()
    target: str = ""
    """The class of `nemo.collections.asr.modules` that it makes."""
    optional: bool = False
    """Whether null may stand in its place."""

    def fit(self, value: Any, key: str) -> Any:
        if value is None and self.optional:
            return None
        if not isinstance(value, dict):
            raise InvalidValue(f"`{key}: {shown(value)}` is not a section")
        inside = f"{key}." if key else ""
        rebuilt: dict[str, Any] = {}
        if self.target:
            rebuilt["_target_"] = self._class(value, inside)
        for name, held in value.items():
            if name == "_target_" and self.target:
                continue
            check = self.keys.get(name) if isinstance(name, str) else None
            if check is None:
                raise InvalidValue(f"`{inside}{shown(name)}` is a key that no such model has")
            if not isinstance(check, Dropped):
                if isinstance(held, str) and "${" in held:
                    raise InvalidValue(f"`{inside}{name}: {shown(held)}` is an interpolation")
                rebuilt[name] = check.fit(held, f"{inside}{name}")
        for name in self.needed:
            if name not in rebuilt:
                raise InvalidValue(f"`{inside}{name}` is missing")
        return rebuilt

    def _class(self, value: dict[Any, Any], inside: str) -> str:
        named = value.get("_target_")
        if not isinstance(named, str):
            raise InvalidValue(f"`{inside}_target_` is missing: it should be {self.target}")
        module, _, name = named.rpartition(".")
        modules = "nemo.collections.asr.modules"
        if name != self.target or module not in (modules, f"{modules}.{_MODULES[name]}"):
            raise InvalidValue(f"`{inside}_target_: {shown(named)}` is not NeMo's {self.target}")
        return f"{modules}.{name}"


def shown(value: Any) -> str:
    """A value in an error: short, and without what steers a terminal."""
    try:
        written = ascii(value)
    except ValueError:  # Python writes no number of more than 4,300 digits
        return "a number of thousands of digits"
    return written.strip("'\"")[:60] if isinstance(value, str) else written[:60]


Check = OneOf | Number | ListOf | AnyOf | Artifact | Text | Dropped | Section

_MODULES = {
    "AudioToMelSpectrogramPreprocessor": "audio_preprocessing",
    "SpectrogramAugmentation": "audio_preprocessing",
    "ConformerEncoder": "conformer_encoder",
    "RNNTDecoder": "rnnt",
    "RNNTJoint": "rnnt",
    "ConvASRDecoder": "conv_asr",
}


FLAG = OneOf((True, False))
MAYBE = OneOf((True, False, None))
SHARE = Number(0, 1)
SIZE = Number(1, 16_384, whole=True)
COUNT = Number(0, 10_000, whole=True)
SCALE = Number(-1e6, 1e6)
NULL = OneOf((None,))
DROPPED = Dropped()
PAIR = ListOf(Number(-1, 10_000, whole=True), most=2)
REDUCTION = OneOf(("mean_batch", "mean_volume", "mean", "sum", None))
DURATIONS = ListOf(Number(0, 64, whole=True))

PREPROCESSOR = Section(
    {
        "sample_rate": Number(8000, 48_000, whole=True),
        "window_size": Number(0.001, 1),
        "window_stride": Number(0.001, 1),
        "n_window_size": Number(1, 48_000, whole=True, optional=True),
        "n_window_stride": Number(1, 48_000, whole=True, optional=True),
        "window": OneOf(("hann", "hamming", "blackman", "bartlett")),
        "normalize": OneOf(("per_feature", "all_features", "NA", None)),
        "n_fft": Number(16, 16_384, whole=True, optional=True),
        "preemph": Number(0, 1, optional=True),
        "features": Number(1, 512, whole=True),
        "lowfreq": Number(0, 24_000),
        "highfreq": Number(0, 24_000, optional=True),
        "log": FLAG,
        "log_zero_guard_type": OneOf(("add", "clamp")),
        "log_zero_guard_value": AnyOf((Number(0, 1), OneOf(("tiny", "eps")))),
        "dither": Number(0, 1),
        "pad_to": Number(0, 4096, whole=True),
        "frame_splicing": Number(1, 16, whole=True),
        "exact_pad": FLAG,
        "pad_value": SCALE,
        "mag_power": Number(0.1, 4),
        "rng": NULL,
        "nb_augmentation_prob": SHARE,
        "nb_max_freq": Number(0, 24_000),
        "mel_norm": OneOf(("slaney", None)),
        "use_torchaudio": OneOf((False,)),
        "stft_exact_pad": FLAG,
        "stft_conv": FLAG,
    },
    target="AudioToMelSpectrogramPreprocessor",
)
SPEC_AUGMENT = Section(
    {
        "freq_masks": COUNT,
        "time_masks": COUNT,
        "freq_width": COUNT,
        "time_width": Number(0, 10_000),
        "rect_masks": COUNT,
        "rect_time": COUNT,
        "rect_freq": COUNT,
        "rng": NULL,
        "mask_value": SCALE,
        "use_vectorized_spec_augment": FLAG,
        "use_numba_spec_augment": FLAG,
    },
    target="SpectrogramAugmentation",
    optional=True,
)
ENCODER = Section(
    {
        "feat_in": Number(1, 512, whole=True),
        "feat_out": Number(-1, 16_384, whole=True),
        "n_layers": Number(1, 200, whole=True),
        "d_model": SIZE,
        "use_bias": FLAG,
        "subsampling": OneOf(("dw_striding", "striding", "vggnet", "stacking", "stacking_norm")),
        "subsampling_factor": OneOf((1, 2, 4, 8, 16)),
        "subsampling_conv_channels": Number(-1, 16_384, whole=True),
        "subsampling_conv_chunking_factor": Number(-1, 1024, whole=True),
        "causal_downsampling": FLAG,
        "reduction": OneOf((None, "pooling", "striding")),
        "reduction_position": Number(-1, 200, whole=True, optional=True),
        "reduction_factor": Number(1, 16, whole=True),
        "ff_expansion_factor": Number(1, 16, whole=True),
        "self_attention_model": OneOf(("rel_pos", "rel_pos_local_attn", "abs_pos")),
        "n_heads": Number(1, 256, whole=True),
        "att_context_size": AnyOf((PAIR, ListOf(PAIR), NULL)),
        "att_context_probs": AnyOf((ListOf(SHARE), NULL)),
        "att_context_style": OneOf(("regular", "chunked_limited")),
        "att_chunk_context_size": NULL,
        "xscaling": FLAG,
        "untie_biases": FLAG,
        "pos_emb_max_len": Number(1, 20_000, whole=True),
        "conv_kernel_size": Number(1, 255, whole=True),
        "conv_norm_type": OneOf(("batch_norm", "layer_norm", "instance_norm")),
        "conv_context_size": AnyOf((OneOf(("causal", None)), PAIR)),
        "conv_context_style": OneOf(("regular",)),
        "dropout": SHARE,
        "dropout_pre_encoder": SHARE,
        "dropout_emb": SHARE,
        "dropout_att": SHARE,
        "stochastic_depth_drop_prob": SHARE,
        "stochastic_depth_mode": OneOf(("linear", "uniform")),
        "stochastic_depth_start_layer": Number(1, 200, whole=True),
        "global_tokens": COUNT,
        "global_tokens_spacing": Number(1, 10_000, whole=True),
        "global_attn_separate": FLAG,
        "use_pytorch_sdpa": FLAG,
        "use_pytorch_sdpa_backends": AnyOf(
            (ListOf(OneOf(("MATH", "FLASH_ATTENTION", "EFFICIENT_ATTENTION"))), NULL)
        ),
        "sync_max_audio_length": FLAG,
    },
    needed=("feat_in", "n_layers", "d_model"),
    target="ConformerEncoder",
)
PREDICTION = Section(
    {
        "normalization_mode": OneOf((None, "batch", "layer")),
        "random_state_sampling": FLAG,
        "blank_as_pad": FLAG,
        "vocab_size": DROPPED,
        "prednet": Section(
            {
                "pred_hidden": SIZE,
                "pred_rnn_layers": Number(1, 16, whole=True),
                "rnn_hidden_size": Number(-1, 16_384, whole=True),
                "t_max": Number(1, 100_000, whole=True, optional=True),
                "dropout": Number(0, 1, optional=True),
                "forget_gate_bias": Number(-100, 100, optional=True),
                "weights_init_scale": Number(0, 100),
                "hidden_hidden_bias_scale": Number(0, 100),
            },
            needed=("pred_hidden", "pred_rnn_layers"),
        ),
    },
    needed=("prednet",),
    target="RNNTDecoder",
)
JOINT = Section(
    {
        "log_softmax": MAYBE,
        "preserve_memory": FLAG,
        "fuse_loss_wer": FLAG,
        "fused_batch_size": Number(-1, 10_000, whole=True, optional=True),
        "experimental_fuse_loss_wer": MAYBE,
        "masking_prob": Number(-1, 1),
        "num_classes": DROPPED,
        "vocabulary": DROPPED,
        "num_extra_outputs": Number(0, 64, whole=True),
        "jointnet": Section(
            {
                "joint_hidden": SIZE,
                "encoder_hidden": SIZE,
                "pred_hidden": SIZE,
                "activation": OneOf(("relu", "sigmoid", "tanh")),
                "dropout": SHARE,
            },
            needed=("joint_hidden", "activation"),
        ),
    },
    needed=("jointnet",),
    target="RNNTJoint",
)
CTC_HEAD = Section(
    {
        "feat_in": Number(1, 16_384, whole=True, optional=True),
        "num_classes": DROPPED,
        "vocabulary": DROPPED,
        "init_mode": OneOf(("xavier_uniform", "xavier_normal", "kaiming_uniform", "kaiming_normal")),
        "add_blank": OneOf((True,)),
    },
    target="ConvASRDecoder",
)


TOKENIZER = Section(
    {
        "dir": DROPPED,
        "type": OneOf(("bpe",)),
        "model_path": Artifact(),
        "vocab_path": Artifact(),
        "spe_tokenizer_vocab": Artifact(),
        "update_tokenizer": DROPPED,
        "special_tokens": NULL,
    },
    needed=("type",),
)
TRANSDUCER_DECODING = Section(
    {
        "greedy": Section(
            {
                "max_symbols": Number(1, 1000, whole=True, optional=True),
                "max_symbols_per_step": Number(1, 1000, whole=True, optional=True),
                **dict.fromkeys(
                    "preserve_alignments preserve_frame_confidence tdt_include_token_duration "
                    "tdt_include_duration_confidence confidence_method_cfg confidence_measure_cfg "
                    "loop_labels use_cuda_graph_decoder ngram_lm_model ngram_lm_alpha boosting_tree "
                    "boosting_tree_alpha enable_per_stream_biasing".split(),
                    DROPPED,
                ),
            },
            optional=True,
        ),
        **dict.fromkeys(
            "strategy model_type durations big_blank_durations compute_hypothesis_token_set "
            "preserve_alignments tdt_include_token_duration confidence_cfg fused_batch_size "
            "compute_timestamps compute_langs word_seperator segment_seperators segment_gap_threshold "
            "rnnt_timestamp_type beam temperature strip_lang_tags lang_tag_pattern".split(),
            DROPPED,
        ),
    },
    optional=True,
)
"""All is decoded greedily; the rest, files of language models among it, is left out."""
LOSS = Section(
    {
        "loss_name": OneOf(("default", "warprnnt_numba", "tdt")),
        "warprnnt_numba_kwargs": Section(
            {"fastemit_lambda": Number(0, 1), "clamp": Number(-1, 1e6)}, optional=True
        ),
        "tdt_kwargs": Section(
            {
                "fastemit_lambda": Number(0, 1),
                "clamp": Number(-1, 1e6),
                "durations": DURATIONS,
                "sigma": Number(0, 100),
                "omega": SHARE,
            },
            optional=True,
        ),
    },
    optional=True,
)
AUX_CTC = Section(
    {
        "ctc_loss_weight": SHARE,
        "use_cer": FLAG,
        "ctc_reduction": REDUCTION,
        "decoder": CTC_HEAD,
        "decoding": DROPPED,
    },
    needed=("decoder",),
)
DEFAULTS = Section(
    {
        "enc_hidden": SIZE,
        "pred_hidden": SIZE,
        "joint_hidden": SIZE,
        "tdt_durations": DURATIONS,
        "num_tdt_durations": Number(0, 64, whole=True),
    },
)
QURAN = Section({"spelling": OneOf(tuple(SPELLINGS)), "recipe": Text()}, optional=True)
"""What our own models declare."""

COMMON: dict[str, Check] = {
    "sample_rate": Number(8000, 48_000, whole=True),
    "compute_eval_loss": FLAG,
    "log_prediction": FLAG,
    "skip_nan_grad": FLAG,
    "use_cer": FLAG,
    "rnnt_reduction": REDUCTION,
    "ctc_reduction": REDUCTION,
    "quran": QURAN,
    "model_defaults": DEFAULTS,
    "tokenizer": TOKENIZER,
    "preprocessor": PREPROCESSOR,
    "spec_augment": SPEC_AUGMENT,
    "encoder": ENCODER,
    **dict.fromkeys(
        "target nemo_version labels train_ds validation_ds test_ds optim interctc variational_noise".split(),
        DROPPED,
    ),
}
TRANSDUCER: dict[str, Check] = {
    "decoder": PREDICTION,
    "joint": JOINT,
    "decoding": TRANSDUCER_DECODING,
    "loss": LOSS,
}
NEEDED = ("preprocessor", "encoder", "decoder")
OF_MODEL = {
    "EncDecHybridRNNTCTCBPEModel": Section(
        COMMON | TRANSDUCER | {"aux_ctc": AUX_CTC}, needed=(*NEEDED, "joint", "aux_ctc", "model_defaults")
    ),
    "EncDecRNNTBPEModel": Section(COMMON | TRANSDUCER, needed=(*NEEDED, "joint", "model_defaults")),
    "EncDecCTCModelBPE": Section(COMMON | {"decoder": CTC_HEAD, "decoding": DROPPED}, needed=NEEDED),
}
"""Model class -> its whole configuration."""


def parse(content: bytes, where: str) -> Any:
    """The plain values of a YAML file; nothing in it is expanded.

    Raises:
        QuranAsrError: not YAML, or YAML with anchors, tags or a depth that no configuration has.
    """
    try:
        text = content.decode("utf-8")
        depth = 0
        for event in yaml.parse(text, Loader=FAST):  # flat, so that no depth is too deep to be refused
            if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) is not None:
                raise _refused("aliases in the configuration", where)
            if isinstance(event, yaml.CollectionStartEvent):
                depth += 1
            elif isinstance(event, yaml.CollectionEndEvent):
                depth -= 1
            elif (
                isinstance(event, yaml.ScalarEvent) and event.implicit[0] and len(event.value) > LONGEST_PLAIN
            ):
                raise _refused("a value of too many characters", where)
            if depth > DEEPEST:
                raise _refused("sections within sections without end", where)
        return yaml.load(text, Loader=FAST)
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError, ValueError, OverflowError) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)[:80]
        raise QuranAsrError(
            f"not a configuration ({reason})",
            where=where,
            remedy="fetch or copy the archive again, or use another model",
        ) from None


def rebuild(config: Any, where: str) -> dict[str, Any]:
    """The configuration of a FastConformer, rebuilt from its known keys.

    Args:
        config: plain values, as `parse` gives them.
        where: its file, for errors.

    Returns:
        The same keys and values in NeMo's order of sections, without data, optimizer and vocabulary: NeMo
        takes the vocabulary from the tokenizer.

    Raises:
        QuranAsrError: another model, or a key or value that such a model does not have; names it.
    """
    if not isinstance(config, dict):
        raise _refused("the configuration is not a mapping", where)
    named = config.get("target")
    if not isinstance(named, str):
        raise QuranAsrError(
            "names no model class (`target`)",
            where=where,
            remedy="use a .nemo that NeMo or `quran-asr train` wrote",
        )
    module, _, name = named.rpartition(".")
    models = "nemo.collections.asr.models"
    if name not in MODELS or module not in (models, f"{models}.{MODELS[name]}"):
        raise _refused(f"`target: {shown(named)}` is not {', '.join(MODELS)}", where)
    try:
        rebuilt: dict[str, Any] = OF_MODEL[name].fit(config, "")
    except InvalidValue as error:
        raise _refused(str(error), where) from None
    rebuilt["target"] = f"{models}.{MODELS[name]}.{name}"
    if "joint" in rebuilt:
        rebuilt["decoding"] = _greedily(rebuilt.get("decoding"))
    if "aux_ctc" in rebuilt:
        rebuilt["aux_ctc"]["decoding"] = {"strategy": "greedy_batch"}
    for head in (rebuilt["decoder"], rebuilt.get("aux_ctc", {}).get("decoder", {})):
        if head.get("_target_", "").endswith("ConvASRDecoder"):
            head |= {"num_classes": -1, "vocabulary": []}
    return rebuilt


def _greedily(decoding: dict[str, Any] | None) -> dict[str, Any]:
    """NeMo's greedy search, as many symbols a frame as the model's own."""
    greedy = (decoding or {}).get("greedy") or {}
    symbols = greedy.get("max_symbols") or greedy.get("max_symbols_per_step") or 10
    return {
        "strategy": "greedy_batch",
        "preserve_alignments": False,
        "greedy": {"max_symbols": symbols, "use_cuda_graph_decoder": False},
    }


def _refused(why: str, where: str) -> QuranAsrError:
    return QuranAsrError(
        f"refused: {why}",
        where=where,
        remedy="use a FastConformer with a transducer or CTC decoder, published or trained here",
    )
