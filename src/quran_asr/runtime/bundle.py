"""A bundle: the folder with an exported model.

`bundle.json` lists the other files with their hashes, the feature settings, the encoder's inputs, and the
provenance of the model. A bundle may come from an untrusted source: names in it must be plain file names,
numbers must be within bounds, and every file must match its hash before it is loaded.
"""

from __future__ import annotations

import hashlib
import json
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from quran_asr.decoding.options import BEAM_TEMPERATURE, check_temperature
from quran_asr.decoding.vocabulary import Vocabulary
from quran_asr.errors import QuranAsrError
from quran_asr.files import parse_json, sha256_of, write_atomically
from quran_asr.records import SAMPLE_RATE
from quran_asr.runtime.features import FeatureSettings
from quran_asr.text.spelling import SPELLINGS

FORMAT = 2
"""Version of the layout. A reader refuses newer versions. The encoder of format 1 has other inputs."""
DESCRIPTION = "bundle.json"
ENCODER, PREDICTION, JOINT, VOCABULARY = "encoder.onnx", "prediction.onnx", "joint.onnx", "vocabulary.txt"
TRAINING_DATA = "training_data.json"
"""The training data; not every bundle has it."""
NEEDED = (ENCODER, PREDICTION, JOINT, VOCABULARY)
AGAIN = "export the model again, or copy the whole folder again"
DEFAULT_MODEL = Path(__file__).parent.parent / "models" / "default"
"""Package data: the bundle that commands use when no model is named."""
MOST_CACHED = 1 << 26
"""Largest size of the encoder's cache in numbers; a model of 114M parameters has 1 << 20."""


@dataclass(frozen=True, slots=True)
class Shape:
    """Shapes of the graphs' inputs."""

    layers: int
    heads: int
    head_size: int
    width: int
    """Channels of a layer (`d_model`)."""
    kernel: int
    """Kernel size of a layer's convolution in frames."""
    left_frames: int
    """Left context of the attention in frames, and the largest chunk."""
    look_aheads: tuple[int, ...]
    """Right contexts that the model was trained with, in frames, the widest first."""
    joint_width: int
    prediction_layers: int
    prediction_width: int
    max_symbols: int
    """Most tokens in one frame; more would be a model in an endless loop."""
    subsampling: int = 8
    """Feature frames to one encoder frame."""

    def __post_init__(self) -> None:
        looks = self.look_aheads
        numbers = [value for name, value in asdict(self).items() if name != "look_aheads"]
        whole = all(isinstance(number, int) for number in (*numbers, *looks))
        sane = whole and all(1 <= number <= 65_536 for number in numbers)
        sane = sane and self.subsampling == 8 and self.head_size * self.heads == self.width
        sane = sane and bool(looks) and all(0 <= look < self.left_frames for look in looks)
        sane = sane and self.layers * self.left_frames * self.width <= MOST_CACHED
        if not sane or list(looks) != sorted(set(looks), reverse=True):
            raise QuranAsrError("no model has this shape", where="shape", remedy=AGAIN)


@dataclass(frozen=True, slots=True)
class Bundle:
    """The content of `bundle.json`."""

    folder: Path
    name: str
    spelling: str
    features: FeatureSettings
    shape: Shape
    vocabulary: Vocabulary
    precision: str
    """Of the encoder's matrices: `float32`, `int8`, or `int8-weights` (stored in 8 bits, computed in 32)."""
    provenance: Mapping[str, Any]
    """Which model, recipe, data and version it was made from."""
    figures: Mapping[str, Any]
    """Measurements of the export."""
    beam_temperature: float = BEAM_TEMPERATURE
    """Of `transducer-beam`, see `Decoding.temperature`."""
    format: int = FORMAT

    def __post_init__(self) -> None:
        check_temperature(self.beam_temperature)

    @property
    def frame_seconds(self) -> float:
        """Seconds of audio per encoder frame."""
        return self.shape.subsampling * self.features.hop / self.features.sample_rate

    @property
    def look_aheads_ms(self) -> tuple[int, ...]:
        """The look-aheads in milliseconds, the widest first."""
        return tuple(self.milliseconds(frames) for frames in self.shape.look_aheads)

    def milliseconds(self, frames: int) -> int:
        return round(1000 * self.frame_seconds * frames)

    def look_ahead(self, milliseconds: int | None) -> int:
        """Frames of a look-ahead; None takes the widest.

        Raises:
            QuranAsrError: the model was not trained for it; names those that it has.
        """
        if milliseconds is None:
            return self.shape.look_aheads[0]
        for frames in self.shape.look_aheads:
            if self.milliseconds(frames) == milliseconds:
                return frames
        known = ", ".join(f"{ms} ms" for ms in self.look_aheads_ms)
        raise QuranAsrError(
            f"the model has no look-ahead of {milliseconds} ms",
            where=str(self.folder),
            remedy=f"it has: {known}",
        )


def is_bundle(folder: Path) -> bool:
    return (folder / DESCRIPTION).is_file()


def default_model() -> Path:
    """The folder of the bundle that ships in the package.

    Raises:
        QuranAsrError: this installation has none.
    """
    if not is_bundle(DEFAULT_MODEL):
        raise QuranAsrError(
            "this installation contains no default model",
            remedy="name one with --model: a bundle, a .nemo, a .ckpt or a run folder",
        )
    return DEFAULT_MODEL


def read_bundle(folder: Path) -> Bundle:
    """Read and check a bundle: every required file is present, complete and unchanged.

    Raises:
        QuranAsrError: no bundle, made by a newer version, or damaged; names the file.
    """
    described = _description(folder)
    files = described.get("files")
    if not isinstance(files, dict):
        raise QuranAsrError("lists no files", where=str(folder / DESCRIPTION), remedy=AGAIN)
    for name in files:
        if name in ("", ".", "..") or "/" in name or "\\" in name or not name.isprintable():
            what = f"lists `{ascii(name)[1:-1]}`, which is not a plain file name"
            raise QuranAsrError(what, where=str(folder / DESCRIPTION), remedy=AGAIN)
    for name in NEEDED:
        if name not in files:
            raise QuranAsrError(f"lists no {name}", where=str(folder / DESCRIPTION), remedy=AGAIN)
        _check_file(folder / name, files[name])
    vocabulary = _vocabulary(folder / VOCABULARY)
    try:
        shape = dict(described["shape"])
        bundle = Bundle(
            folder=folder,
            name=str(described["name"]),
            spelling=str(described["spelling"]),
            features=FeatureSettings(**described["features"]),
            shape=Shape(**(shape | {"look_aheads": tuple(shape["look_aheads"])})),
            vocabulary=vocabulary,
            precision=str(described["precision"]),
            provenance=dict(described.get("provenance") or {}),
            figures=dict(described.get("figures") or {}),
            beam_temperature=float(described.get("beam_temperature", BEAM_TEMPERATURE)),
            format=int(described["format"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        what = f"is not a bundle's description: {error!s}"
        raise QuranAsrError(what, where=str(folder / DESCRIPTION), remedy=AGAIN) from error
    except QuranAsrError as error:
        where = ": ".join(filter(None, (str(folder / DESCRIPTION), error.where)))
        raise QuranAsrError(error.what, where=where, remedy=AGAIN) from error
    if bundle.spelling not in SPELLINGS:
        raise QuranAsrError(f"no spelling `{bundle.spelling}`", where=str(folder / DESCRIPTION), remedy=AGAIN)
    if bundle.features.sample_rate != SAMPLE_RATE:
        what = f"needs audio at {bundle.features.sample_rate:,} Hz instead of {SAMPLE_RATE:,}"
        raise QuranAsrError(what, where=str(folder / DESCRIPTION), remedy=AGAIN)
    return bundle


def write_description(bundle: Bundle, extra: Sequence[str] = ()) -> None:
    """Write `bundle.json` into the bundle's folder, where the other files are already.

    Args:
        bundle: what to describe.
        extra: additional files whose checksums are recorded, relative to the folder.
    """
    described = {
        "format": bundle.format,
        "name": bundle.name,
        "spelling": bundle.spelling,
        "precision": bundle.precision,
        "look_aheads_ms": list(bundle.look_aheads_ms),
        "frame_seconds": bundle.frame_seconds,
        "beam_temperature": bundle.beam_temperature,
        "features": asdict(bundle.features),
        "shape": {field.name: getattr(bundle.shape, field.name) for field in fields(Shape)},
        "files": {name: _record(bundle.folder / name) for name in (*NEEDED, *extra)},
        "provenance": dict(bundle.provenance),
        "figures": dict(bundle.figures),
    }
    text = json.dumps(sealed(described), indent=2, ensure_ascii=False) + "\n"
    write_atomically(bundle.folder / DESCRIPTION, text.encode())


def sealed(described: Mapping[str, Any]) -> dict[str, Any]:
    """A description with a checksum of its content: one changed setting would spoil every word."""
    content = {key: value for key, value in described.items() if key != "sha256"}
    canonical = json.dumps(content, sort_keys=True, ensure_ascii=True, separators=(",", ":"))
    return {**content, "sha256": hashlib.sha256(canonical.encode()).hexdigest()}


def _description(folder: Path) -> dict[str, Any]:
    path = folder / DESCRIPTION
    try:
        described = parse_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise QuranAsrError(
            "no bundle: it has no bundle.json" if folder.exists() else "no such folder",
            where=str(folder),
            remedy="`quran-asr export MODEL --to FOLDER` makes one",
        ) from error
    except (OSError, ValueError, RecursionError) as error:
        raise QuranAsrError("cannot be read", where=str(path), remedy=AGAIN) from error
    version = described.get("format") if isinstance(described, dict) else None
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise QuranAsrError("is not a bundle's description", where=str(path), remedy=AGAIN)
    if version > FORMAT:
        raise QuranAsrError(
            f"bundle of format {version}; this version reads up to {FORMAT}",
            where=str(path),
            remedy="install a newer quran-asr",
        )
    if described.get("sha256") != sealed(described)["sha256"]:
        raise QuranAsrError("was changed: its checksum is another", where=str(path), remedy=AGAIN)
    return described  # type: ignore[no-any-return]


def _vocabulary(path: Path) -> Vocabulary:
    """Pieces are printed on terminals, so they must not contain control characters."""
    try:
        vocabulary = Vocabulary.read(path)
    except QuranAsrError as error:
        raise QuranAsrError(error.what, where=error.where, remedy=AGAIN) from error
    for number, piece in enumerate(vocabulary.pieces, start=1):
        if any(unicodedata.category(letter) == "Cc" for letter in piece):
            raise QuranAsrError("a piece holds control characters", where=f"{path}:{number}", remedy=AGAIN)
    return vocabulary


def _record(path: Path) -> dict[str, Any]:
    return {"bytes": path.stat().st_size, "sha256": sha256_of(path)}


def _check_file(path: Path, recorded: object) -> None:
    if not isinstance(recorded, dict):
        raise QuranAsrError(f"no checksum of {path.name}", where=str(path.parent / DESCRIPTION), remedy=AGAIN)
    if not path.is_file():
        raise QuranAsrError("is missing from the bundle", where=str(path), remedy=AGAIN)
    size = path.stat().st_size
    if size != recorded.get("bytes"):
        expected_bytes = recorded.get("bytes")
        raise QuranAsrError(
            f"has {size:,} bytes of {expected_bytes:,}" if isinstance(expected_bytes, int) else "has no size",
            where=str(path),
            remedy=AGAIN,
        )
    if sha256_of(path) != recorded.get("sha256"):
        raise QuranAsrError("is damaged: its checksum is another", where=str(path), remedy=AGAIN)
