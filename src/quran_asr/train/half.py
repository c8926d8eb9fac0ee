"""Weights in half precision and in parts, for a way back on which little may be carried; and joined again.

Matrices and convolutions become float16: 11 bits of precision, and magnitudes up to 65,504. Vectors, buffers
of the preprocessor and tensors with a value outside that range stay as they are.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from quran_asr.files import write_atomically
from quran_asr.findings import QuranAsrError
from quran_asr.runs.folder import RunFolder, rate_of
from quran_asr.runs.kits.kit import PART_BYTES
from quran_asr.runs.recipe import load_recipe
from quran_asr.train.checkpoints import model_weights, save_nemo
from quran_asr.train.model import build_model
from quran_asr.train.recognize import put_weights
from quran_asr.train.start.archives import read_archive, read_weights


def halved(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors, those that may in float16."""
    small: dict[str, Tensor] = {}
    for name, tensor in weights.items():
        small[name] = tensor
        if tensor.dtype == torch.float32 and tensor.dim() > 1 and not name.startswith("preprocessor."):
            half = tensor.half()
            if bool(torch.isfinite(half).all()):
                small[name] = half
    return small


def read_model(path: Path) -> dict[str, Tensor]:
    """The model's tensors in a `.nemo` or a `.ckpt`.

    Raises:
        QuranAsrError: it cannot be read.
    """
    return read_weights(read_archive(path)) if path.suffix == ".nemo" else model_weights(path)


def write_parts(weights: Mapping[str, Tensor], folder: Path, part_bytes: int = PART_BYTES) -> list[Path]:
    """`weights-1.part`, `weights-2.part`, ...: one file of tensors, cut into pieces."""
    memory = io.BytesIO()
    torch.save({name: tensor.contiguous().clone() for name, tensor in halved(weights).items()}, memory)
    view = memory.getbuffer()
    paths = []
    for number, start in enumerate(range(0, len(view), part_bytes), start=1):
        path = folder / f"weights-{number}.part"
        write_atomically(path, bytes(view[start : start + part_bytes]))
        paths.append(path)
    return paths


def join_parts(parts: Sequence[Path]) -> dict[str, Tensor]:
    """Tensors of parts in order, in float32 again. What they hold does not run.

    Raises:
        QuranAsrError: not the parts of one file, or more than tensors in them.
    """
    memory = io.BytesIO(b"".join(part.read_bytes() for part in parts))
    where = str(parts[0].parent)
    try:
        loaded = torch.load(memory, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises a dozen kinds for a torn or hostile file
        said = next(iter(str(error).splitlines()), type(error).__name__)[:100]
        raise QuranAsrError(f"its parts are no weights ({said})", where=where) from None
    plain = isinstance(loaded, dict) and all(
        isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in loaded.items()
    )
    if not plain:
        raise QuranAsrError("its parts hold more than tensors by name", where=where)
    return {name: t.float() if t.dtype == torch.float16 else t for name, t in loaded.items()}


def nemo_from_parts(run: RunFolder, parts: Sequence[Path], name: str) -> Path:
    """Build the run's model with these weights and keep it in its `checkpoints` as a stock `.nemo`.

    Args:
        run: its folder with recipe and tokenizer.
        parts: of the weights.
        name: of the file they were made from; its `val_wer=` goes on.

    Raises:
        QuranAsrError: the weights do not fit the recipe.
    """
    weights = join_parts(parts)
    recipe = load_recipe(run.recipe)
    model = build_model(recipe, run.tokenizer)
    put_weights(model, weights, parts[0])
    rate = rate_of(Path(name))
    target = run.checkpoints / f"{recipe.name}--{'last' if rate is None else f'val_wer={rate:.4f}'}.nemo"
    run.checkpoints.mkdir(exist_ok=True)
    save_nemo(model, target)
    return target
