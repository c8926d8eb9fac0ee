"""The map of a transfer: which tensor of a pretrained model goes where, which does not, and why.

Made from names, shapes and configurations alone. `plan` makes it of published models, `train` of an archive
at hand, and then copies exactly that.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from quran_asr.config.architecture import Architecture, Shape
from quran_asr.errors import Finding

LEAST_ENCODER_SHARE = 0.9
"""Of the encoder's parameters: with less a start is not a pretrained one."""

OUT = "encoder.pre_encode.out.weight"
FIRST = ("encoder.pre_encode.conv.0.weight", "encoder.pre_encode.conv.0.bias")
"""The convolution that meets the features."""
TOKEN_INDEXED = (
    "decoder.prediction.embed.weight",
    "joint.joint_net.out.weight",
    "joint.joint_net.out.bias",
    "ctc_decoder.decoder_layers.0.weight",
    "ctc_decoder.decoder_layers.0.bias",
)
"""Row k belongs to token k, the last to the blank: between tokenizers only that one means the same."""

RUNNING = ("running_mean", "running_var", "num_batches_tracked")
"""Statistics of a batch norm: copied too, but not parameters."""

LAYERS_LEFT_OUT = "layers-left-out"
_FACTS = (
    ("mel-bins", "mel bins", "features"),
    ("window", "window and stride in seconds", "window"),
    ("subsampling", "subsampling factor", "subsampling"),
    ("channels", "subsampling channels", "channels"),
    ("causal-downsampling", "causal subsampling", "causal_downsampling"),
    ("causal-convolution", "causal convolutions", "causal_convolution"),
    ("attention", "attention", "attention"),
    ("layers", "layers", "n_layers"),
    ("width", "d_model", "d_model"),
    ("heads", "attention heads", "n_heads"),
    ("feed-forward", "feed-forward expansion", "ff_expansion"),
    ("kernel", "convolution kernel", "kernel"),
    ("xscaling", "scaled input (xscaling)", "xscaling"),
    ("use-bias", "biases (use_bias)", "use_bias"),
    ("position-biases", "biases of position per layer (untie_biases)", "untie_biases"),
    ("prediction-network", "prediction network", "pred_hidden"),
    ("prediction-layers", "prediction network's layers", "pred_layers"),
    ("joint", "joint", "joint_hidden"),
)
"""What two models may differ in: code, name, attribute of `Architecture`."""

Outcome = Literal["copied", "salvaged", "fresh", "mismatched"]
How = Literal["whole", "bins", "blank", "level", "none"]


@dataclass(frozen=True, slots=True)
class ModelLayout:
    """One of the two models of a transfer."""

    name: str
    architecture: Architecture
    shapes: Mapping[str, Shape]
    pieces: tuple[str, ...] | None
    """Of its tokenizer; None where it is not known, which never equals another's."""


@dataclass(frozen=True, slots=True)
class Tensor:
    """What becomes of one tensor of ours."""

    name: str
    source: str | None
    """Its name over there."""
    outcome: Outcome
    how: How
    parameters: int
    """0 for running statistics."""
    arrived: int
    """Parameters that come from the source."""
    reason: str


@dataclass(frozen=True, slots=True)
class TransferMap:
    """All of them, and what the two models differ in."""

    source: str
    tensors: tuple[Tensor, ...]
    unused: tuple[str, ...]
    """Tensors of the source that have no place in ours."""
    differences: tuple[Finding, ...]
    source_share: float
    """Share of the source's encoder that is used: a smaller encoder leaves the rest of what was learned."""

    @property
    def encoder_share(self) -> float:
        """Share of our encoder's parameters that arrive."""
        return _share([tensor for tensor in self.tensors if tensor.name.startswith("encoder.")])

    @property
    def share(self) -> float:
        """Share of all our parameters that arrive."""
        return _share(self.tensors)

    def table(self) -> dict[str, dict[str, list[int]]]:
        """Module -> outcome -> [tensors, parameters], in the order of the model."""
        rows: dict[str, dict[str, list[int]]] = {}
        for tensor in self.tensors:
            row = rows.setdefault(_module(tensor.name), {})
            cell = row.setdefault(tensor.outcome, [0, 0])
            cell[0] += 1
            cell[1] += tensor.parameters
        return rows

    def to_json(self) -> dict[str, Any]:
        """What `transfer.json` holds."""
        return {
            "source": self.source,
            "encoder_share": self.encoder_share,
            "share": self.share,
            "source_encoder_share": self.source_share,
            "modules": {
                module: {outcome: {"tensors": n, "parameters": p} for outcome, (n, p) in row.items()}
                for module, row in self.table().items()
            },
            "differences": [asdict(finding) for finding in self.differences],
            "tensors": [asdict(tensor) for tensor in self.tensors],
            "unused": list(self.unused),
        }


def transfer_map(source: ModelLayout, target: ModelLayout, *, level_known: bool = False) -> TransferMap:
    """Decide for every tensor of the target where its values come from.

    Args:
        source: the trained model.
        target: ours.
        level_known: the clips' mean log-mel is at hand, so a source that was fed normalized features can
            have it folded into its first convolution.
    """
    there = {_role(name, source.architecture): name for name in source.shapes}
    same_tokens = source.pieces is not None and source.pieces == target.pieces
    tensors = tuple(
        _decide(
            name, shape, there.get(_role(name, target.architecture)), source, target, same_tokens, level_known
        )
        for name, shape in target.shapes.items()
    )
    used = {tensor.source for tensor in tensors if tensor.how != "none"}
    unused = tuple(name for name in source.shapes if name not in used)
    share = _used_share(source, used)
    differences = (
        *_left_out_layers(source, target, share),
        *_differences(source, target, same_tokens),
    )
    return TransferMap(source.name, tensors, unused, differences, share)


def _used_share(source: ModelLayout, used: set[str | None]) -> float:
    sizes = {
        name: math.prod(shape)
        for name, shape in source.shapes.items()
        if name.startswith("encoder.") and not name.endswith(RUNNING)
    }
    return sum(size for name, size in sizes.items() if name in used) / max(1, sum(sizes.values()))


def _left_out_layers(source: ModelLayout, target: ModelLayout, share: float) -> Iterator[Finding]:
    """A part of an encoder was not trained to be one: its last layers made what the heads understood."""
    there, here = source.architecture.n_layers, target.architecture.n_layers
    if there > here:
        yield Finding(
            "warning",
            LAYERS_LEFT_OUT,
            source.name,
            f"{there - here} of its {there} layers are left out, so {share:.1%} of its encoder is used: its "
            "first layers alone were never an encoder",
            f"model.encoder.n_layers={there}",
        )


def _decide(
    name: str,
    shape: Shape,
    found: str | None,
    source: ModelLayout,
    target: ModelLayout,
    same_tokens: bool,
    level_known: bool,
) -> Tensor:
    size = 0 if name.endswith(RUNNING) else math.prod(shape)
    if found is None:
        return Tensor(name, None, "fresh", "none", size, 0, "the source has no such tensor")
    there, theirs, ours = source.shapes[found], source.architecture, target.architecture
    if _role(name, ours) in TOKEN_INDEXED and not same_tokens:
        if there[1:] != shape[1:]:
            return Tensor(name, found, "fresh", "none", size, 0, "other tokens and another width")
        row = math.prod(shape[1:])
        return Tensor(
            name, found, "salvaged", "blank", size, row, "other tokens: only the blank's row is copied"
        )
    meaning = _other_meaning(name, theirs, ours)
    if meaning is not None and there == shape:
        return Tensor(name, found, "fresh", "none", size, 0, f"same name, other meaning: {meaning}")
    if name == OUT and _one_bin_more(there, shape, theirs, ours):
        bins = f"{there[1] // ours.channels} into {shape[1] // ours.channels} frequency bins, shifted by one"
        return Tensor(name, found, "salvaged", "bins", size, math.prod(there), bins)
    if there != shape:
        shapes = f"{'x'.join(map(str, there))} does not fit {'x'.join(map(str, shape))}"
        return Tensor(name, found, "mismatched", "none", size, 0, shapes)
    if name in FIRST and level_known and (theirs.normalize, ours.normalize) == ("per_feature", "NA"):
        folded = "normalized features there: the clips' mean and deviation are folded in"
        return Tensor(name, found, "salvaged", "level", size, size, folded)
    return Tensor(name, found, "copied", "whole", size, size, "")


def _other_meaning(name: str, theirs: Architecture, ours: Architecture) -> str | None:
    """Why values of the same shape would not do there what they do here; None if they would."""
    if ".conv.batch_norm." in name and theirs.norm != ours.norm:
        return f"{theirs.norm} into {ours.norm}"
    if ".self_attn." in name and theirs.n_heads != ours.n_heads:
        return f"{theirs.n_heads} heads into {ours.n_heads}"
    if ".self_attn.pos_bias_" in name and theirs.untie_biases and not ours.untie_biases:
        return "a bias of one layer into one for all"
    bins = (theirs.features, theirs.causal_downsampling), (ours.features, ours.causal_downsampling)
    if name == OUT and bins[0] != bins[1]:
        return "other frequency bins"
    return None


def _one_bin_more(there: Shape, shape: Shape, theirs: Architecture, ours: Architecture) -> bool:
    """The same mel bins behind a subsampling that became causal: its padding adds a bin at the low end."""
    became_causal = ours.causal_downsampling and not theirs.causal_downsampling
    same = (theirs.features, theirs.channels, theirs.subsampling) == (
        ours.features,
        ours.channels,
        ours.subsampling,
    )
    return became_causal and same and there == (shape[0], shape[1] - ours.channels)


def _differences(source: ModelLayout, target: ModelLayout, same_tokens: bool) -> Iterator[Finding]:
    theirs, ours = source.architecture, target.architecture

    def note(code: str, message: str) -> Finding:
        return Finding("note", code, source.name, message, "")

    reported = set()
    offline = not theirs.causal_downsampling and not theirs.causal_convolution
    if ours.causal_downsampling and ours.causal_convolution and offline:
        reported = {"causal-downsampling", "causal-convolution"}
        yield note(
            "offline-into-causal",
            "its convolutions see the future, ours do not: the copied ones have to learn to do without",
        )
    if ours.norm != theirs.norm:
        yield note(
            "norm", f"{theirs.norm} there, {ours.norm} here: those of {ours.n_layers} layers start fresh"
        )
    if ours.normalize != theirs.normalize:
        yield note(
            "feature-normalisation",
            f"its features are normalized `{theirs.normalize}`, ours `{ours.normalize}` (a stream has no "
            "whole recording to normalize by)",
        )
    if theirs.n_layers >= ours.n_layers:  # more layers are reported separately
        reported.add("layers")
    if theirs.kind == "ctc":  # it has neither
        reported |= {"prediction-network", "prediction-layers", "joint"}
    for code, what, attribute in _FACTS:
        there, here = getattr(theirs, attribute), getattr(ours, attribute)
        if there != here and code not in reported:
            yield note(code, f"{what}: {there} there, {here} here")
    if not same_tokens:
        yield note(
            "vocabulary",
            f"{theirs.tokens} other tokens: embedding, joint output and CTC head start fresh, blank apart",
        )


def _role(name: str, architecture: Architecture) -> str:
    """One name for what means the same in every kind of model."""
    if name.startswith("joint.joint_net."):  # thousands of names are asked for
        name = re.sub(r"^joint\.joint_net\.\d+\.", "joint.joint_net.out.", name)
    return (
        f"ctc_{name}" if architecture.kind == "ctc" and name.startswith("decoder.decoder_layers.") else name
    )


def _module(name: str) -> str:
    parts = name.split(".")
    if parts[0] == "encoder":
        return "encoder.pre_encode" if parts[1] == "pre_encode" else "encoder.layers"
    return {"decoder": "prediction network", "joint": "joint", "ctc_decoder": "CTC head"}[parts[0]]


def _share(tensors: Any) -> float:
    total = sum(tensor.parameters for tensor in tensors)
    return sum(tensor.arrived for tensor in tensors) / total if total else 0.0
