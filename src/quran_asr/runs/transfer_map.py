"""The map of a transfer: which tensor of a trained model goes where in ours, and which does not, and why.

Made from names, shapes and configurations alone. `plan` makes it of published models, `train` of an archive
at hand, and then copies exactly what it says.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from quran_asr.findings import Finding
from quran_asr.runs.architecture import Architecture, Shape

LEAST_ENCODER_SHARE = 0.9
"""Of the encoder's parameters: with less a start is not a pretrained one."""

OUT = "encoder.pre_encode.out.weight"
TOKEN_INDEXED = (
    "decoder.prediction.embed.weight",
    "joint.joint_net.out.weight",
    "joint.joint_net.out.bias",
    "ctc_decoder.decoder_layers.0.weight",
    "ctc_decoder.decoder_layers.0.bias",
)
"""Row k belongs to token k, the last to the blank: between tokenizers only that one means the same."""

Outcome = Literal["copied", "salvaged", "fresh", "mismatched"]
How = Literal["whole", "bins", "blank", "none"]


@dataclass(frozen=True, slots=True)
class Side:
    """A model on one side of a transfer."""

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
            "modules": {
                module: {outcome: {"tensors": n, "parameters": p} for outcome, (n, p) in row.items()}
                for module, row in self.table().items()
            },
            "differences": [asdict(finding) for finding in self.differences],
            "tensors": [asdict(tensor) for tensor in self.tensors],
            "unused": list(self.unused),
        }


def transfer_map(source: Side, target: Side) -> TransferMap:
    """Decide for every tensor of the target where its values come from."""
    there = {_role(name, source.architecture): name for name in source.shapes}
    same_tokens = source.pieces is not None and source.pieces == target.pieces
    tensors = tuple(
        _decide(name, shape, there.get(_role(name, target.architecture)), source, target, same_tokens)
        for name, shape in target.shapes.items()
    )
    used = {tensor.source for tensor in tensors if tensor.arrived}
    unused = tuple(name for name in source.shapes if name not in used)
    return TransferMap(source.name, tensors, unused, tuple(_differences(source, target, same_tokens)))


def _decide(
    name: str, shape: Shape, found: str | None, source: Side, target: Side, same_tokens: bool
) -> Tensor:
    size = math.prod(shape)
    if found is None:
        return Tensor(name, None, "fresh", "none", size, 0, "the source has no such tensor")
    there, role = source.shapes[found], _role(name, target.architecture)
    if role in TOKEN_INDEXED and not same_tokens:
        if there[1:] != shape[1:]:
            return Tensor(name, found, "fresh", "none", size, 0, "other tokens and another width")
        row = math.prod(shape[1:])
        return Tensor(
            name, found, "salvaged", "blank", size, row, "other tokens: only the blank's row is copied"
        )
    if ".conv.batch_norm." in name and source.architecture.norm != target.architecture.norm:
        kinds = f"{source.architecture.norm} into {target.architecture.norm}"
        return Tensor(name, found, "fresh", "none", size, 0, f"same name, other meaning: {kinds}")
    if there == shape:
        return Tensor(name, found, "copied", "whole", size, size, "")
    channels = target.architecture.channels
    if name == OUT and channels == source.architecture.channels and there[1] == shape[1] - channels:
        arrived = math.prod(there)
        bins = f"{there[1] // channels} into {shape[1] // channels} frequency bins, shifted by one"
        return Tensor(name, found, "salvaged", "bins", size, arrived, bins)
    shapes = f"{'x'.join(map(str, there))} does not fit {'x'.join(map(str, shape))}"
    return Tensor(name, found, "mismatched", "none", size, 0, shapes)


def _differences(source: Side, target: Side, same_tokens: bool) -> Iterator[Finding]:
    theirs, ours = source.architecture, target.architecture

    def note(code: str, message: str) -> Finding:
        return Finding("note", code, source.name, message, "")

    if ours.causal_downsampling and not theirs.causal_downsampling:
        yield note(
            "offline-into-causal",
            "its convolutions see the future, ours do not: the copied ones have to learn to do without",
        )
    elif ours.attention != theirs.attention:
        yield note("attention", f"it attends `{theirs.attention}`, ours `{ours.attention}`")
    if ours.norm != theirs.norm:
        yield note(
            "norm", f"{theirs.norm} there, {ours.norm} here: those of {ours.n_layers} layers start fresh"
        )
    if ours.normalize != theirs.normalize:
        yield note(
            "feature-normalisation",
            f"its features are normalised `{theirs.normalize}`, ours `{ours.normalize}` (a stream has no "
            "whole recording to normalise by)",
        )
    for what, there, here in (
        ("mel bins", theirs.features, ours.features),
        ("window and stride in seconds", theirs.window, ours.window),
        ("layers", theirs.n_layers, ours.n_layers),
        ("d_model", theirs.d_model, ours.d_model),
        ("attention heads", theirs.n_heads, ours.n_heads),
        ("convolution kernel", theirs.kernel, ours.kernel),
        ("subsampling channels", theirs.channels, ours.channels),
        ("scaled input (xscaling)", theirs.xscaling, ours.xscaling),
        ("biases (use_bias)", theirs.use_bias, ours.use_bias),
        ("biases of position per layer (untie_biases)", theirs.untie_biases, ours.untie_biases),
        ("prediction network", theirs.pred_hidden, ours.pred_hidden),
        ("joint", theirs.joint_hidden, ours.joint_hidden),
    ):
        if there != here and there:
            yield note("shape", f"{what}: {there} there, {here} here")
    if not same_tokens:
        yield note(
            "vocabulary",
            f"{theirs.tokens} other tokens: embedding, joint output and CTC head start fresh, blank apart",
        )


def _role(name: str, architecture: Architecture) -> str:
    """One name for what means the same in every kind of model."""
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
