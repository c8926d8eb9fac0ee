"""`recipe new`: a short commented overlay over a shipped recipe, and the summary of each."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from quran_asr.config.overrides import parse_override
from quran_asr.config.recipe import SHIPPED, as_plain, as_scalar, find, resolve
from quran_asr.errors import QuranAsrError
from quran_asr.files import write_atomically

OFTEN_CHANGED = (
    "name",
    "model.train_ds.batch_size",
    "model.train_ds.max_duration",
    "model.joint.fused_batch_size",
    "model.aux_ctc.ctc_loss_weight",
    "model.optim.lr",
    "model.optim.sched.warmup_steps",
    "trainer.devices",
    "trainer.max_epochs",
    "trainer.accumulate_grad_batches",
    "quran.spelling",
    "quran.vocabulary_size",
    "quran.seed",
)
"""Keys that a new recipe shows, commented out, with the values of its base."""


def summary(name: str) -> str:
    """The first sentence of a recipe's opening comment.

    Raises:
        QuranAsrError: no such recipe.
    """
    lines = []
    for line in find(name)[0].read_text(encoding="utf-8").splitlines():
        text = line.removeprefix("#").strip()
        if not line.startswith("#") or not text:
            break
        lines.append(text)
    sentence, full_stop, _ = " ".join(lines).partition(". ")
    return sentence + full_stop.strip()


def write_starter(file: Path, base: str, words: Sequence[str]) -> None:
    """Write a recipe with the overrides, and the other keys that are often changed as comments.

    Raises:
        QuranAsrError: the file already exists, or base and overrides do not make a recipe.
    """
    if file.exists():
        raise QuranAsrError("already exists", where=str(file), remedy="choose another name, or remove it")
    if str(file) in SHIPPED:
        raise QuranAsrError(f"`{file}` is the name of a shipped recipe", remedy=f"call it {file}.yaml")
    for word in words:
        parse_override(word)  # `recipe new FILE transfer` names no override: an error
    resolved = resolve(base, words)
    changed = {key for key, origin in resolved.origin.items() if origin == "command line"}
    shown = sorted(changed | set(OFTEN_CHANGED), key=list(resolved.origin).index)
    values = _picked(as_plain(resolved.recipe), shown)
    named = base if base in SHIPPED else os.path.relpath(base, file.parent)
    lines = [
        f"# Like `{base}`, but ... (write here what this recipe is for).",
        "#",
        f"#   quran-asr train {file} --train data/train.jsonl --validation data/validation.jsonl",
        f"base: {as_scalar(named)}",
        "",
        "# Remove the # in front of what you want to change; `quran-asr recipe show base` lists every key.",
        *_nested(values, changed, ""),
    ]
    write_atomically(file, ("\n".join(lines) + "\n").encode())


def _picked(values: dict[str, Any], keys: Sequence[str], prefix: str = "") -> dict[str, Any]:
    """The nested values without the keys that are not wanted."""
    picked: dict[str, Any] = {}
    for name, value in values.items():
        key = prefix + name
        if key in keys:
            picked[name] = value
        elif isinstance(value, dict) and (inner := _picked(value, keys, f"{key}.")):
            picked[name] = inner
    return picked


def _nested(values: dict[str, Any], changed: set[str], prefix: str) -> Iterator[str]:
    """YAML lines; a line is a comment unless something in it is changed."""
    indent = "  " * prefix.count(".")
    for name, value in values.items():
        key = prefix + name
        live = any(other == key or other.startswith(f"{key}.") for other in changed)
        mark = "" if live else "# "
        if isinstance(value, dict):
            yield f"{indent}{mark}{name}:"
            yield from _nested(value, changed, f"{key}.")
        else:
            yield f"{indent}{mark}{name}: {as_scalar(value)}"
