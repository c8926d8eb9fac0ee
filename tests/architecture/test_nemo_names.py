"""Every NeMo name that `train` leans on exists, and takes the arguments that it is given.

An upgrade of NeMo that renames something fails here, in seconds, and not in the ninth hour of a training.
"""

from __future__ import annotations

import ast
import importlib
import inspect
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow

PACKAGE = Path(__file__).parents[2] / "src" / "quran_asr"
TREES = {
    str(path.relative_to(PACKAGE)): ast.parse(path.read_text("utf-8"))
    for folder in ("training", "export", "benchmark")
    for path in sorted((PACKAGE / folder).rglob("*.py"))
}

ASR = "nemo.collections.asr"
MODEL = f"{ASR}.models:EncDecHybridRNNTCTCBPEModel"
ENCODER = f"{ASR}.modules:ConformerEncoder"
PREDICTION = f"{ASR}.modules:RNNTDecoder"
JOINT = f"{ASR}.modules:RNNTJoint"

METHODS = {
    "preprocessor": (f"{ASR}.modules:AudioToMelSpectrogramPreprocessor", "forward"),
    "spec_augmentation": (f"{ASR}.modules:SpectrogramAugmentation", "forward"),
    "encoder": (ENCODER, "forward"),
    "set_default_att_context_size": (ENCODER, "set_default_att_context_size"),
    "decoder": (PREDICTION, "forward"),
    "ctc_decoder": (f"{ASR}.modules:ConvASRDecoder", "forward"),
    "joint_after_projection": (JOINT, "joint_after_projection"),
    "project_encoder": (JOINT, "project_encoder"),
    "project_prednet": (JOINT, "project_prednet"),
    "rnnt_decoder_predictions_tensor": (
        f"{ASR}.parts.submodules.rnnt_decoding:AbstractRNNTDecoding",
        "rnnt_decoder_predictions_tensor",
    ),
    "change_decoding_strategy": (MODEL, "change_decoding_strategy"),
    "restore_from": (MODEL, "restore_from"),
    "save_to": (MODEL, "save_to"),
}
"""`<something>.NAME(...)` in `train` -> the class and method of NeMo that it reaches."""


def resolve(place: str) -> Any:
    module, _, name = place.partition(":")
    return getattr(importlib.import_module(module), name)


def imported() -> Iterator[tuple[str, str, str]]:
    """File, module and name of every `from nemo... import name`; the name is empty for `import nemo...`."""
    for file, tree in TREES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "nemo":
                yield from ((file, str(node.module), alias.name) for alias in node.names)
            elif isinstance(node, ast.Import):
                yield from (
                    (file, alias.name, "") for alias in node.names if alias.name.split(".")[0] == "nemo"
                )


def calls() -> Iterator[tuple[str, ast.Call, Callable[..., Any], bool]]:
    """File, call, what NeMo runs for it, and whether `self` comes first in its signature."""
    names = {(file, name): f"{module}:{name}" for file, module, name in imported() if name}
    for file, tree in TREES.items():
        for node in ast.walk(tree):
            if not isinstance(node, ast.Call):
                continue
            if isinstance(node.func, ast.Name) and (file, node.func.id) in names:
                yield file, node, resolve(names[file, node.func.id]), False
            elif isinstance(node.func, ast.Attribute) and node.func.attr in METHODS:
                place, method = METHODS[node.func.attr]
                of_class = getattr(resolve(place), method)
                yield file, node, of_class, not inspect.ismethod(of_class)


def test_every_name_that_is_imported_exists() -> None:
    missing = []
    for file, module, name in imported():
        loaded = importlib.import_module(module)
        if name and not hasattr(loaded, name):
            missing.append(f"{file}: {module} has no {name}")
    assert not missing, "\n".join(missing)
    assert any(name == "EncDecHybridRNNTCTCBPEModel" for _, _, name in imported())


def test_every_call_fits_the_signature() -> None:
    wrong, checked = [], set()
    for file, node, called, with_self in calls():
        if any(isinstance(one, ast.Starred) for one in node.args):
            continue
        positional = [None] * (len(node.args) + with_self)
        keywords = {one.arg: None for one in node.keywords if one.arg}
        try:
            inspect.signature(called).bind_partial(*positional, **keywords)
        except TypeError as error:
            wrong.append(f"{file}, line {node.lineno}: {ast.unparse(node.func)}: {error}")
        checked.add(getattr(called, "__qualname__", str(called)))
    assert not wrong, "\n".join(wrong)
    assert {"ConformerEncoder.forward", "RNNTDecoder.forward"} <= checked, checked


def test_a_wrong_keyword_would_be_seen() -> None:
    forward = getattr(resolve(ENCODER), "forward")  # noqa: B009 - as in calls()
    with pytest.raises(TypeError):
        inspect.signature(forward).bind_partial(None, audio_signals=None)
