"""The Triton kernels compile for real GPUs. That takes a compiler and an assembler, but no GPU."""

from __future__ import annotations

import os

import pytest

from quran_asr.training.loss import triton_engine

pytest.importorskip("triton", reason="no Triton here: CI=true ./test.sh brings it")
if os.environ.get("TRITON_INTERPRET") == "1":
    pytest.skip("the interpreter compiles nothing", allow_module_level=True)

ROWS = {"following": "*i64", "blank": "i32", "classes": "i32"}
LATTICE = {
    **dict.fromkeys(("blank", "label"), "*fp32"),
    **dict.fromkeys(("starts", "frames", "labels"), "*i64"),
    "cells": "i32",
    **dict.fromkeys(("nodes", "likelihood"), "*fp64"),
}
CALLS = {
    "score": {"logits": "*bf16", **ROWS}
    | dict.fromkeys(("blank_scores", "label_scores", "normaliser"), "*fp32"),
    "differentiate": {"logits": "*bf16", **ROWS}
    | dict.fromkeys(("normaliser", "blanks", "label_arcs"), "*fp32"),
    "sum_paths": LATTICE,
    "occupancies": LATTICE | dict.fromkeys(("blanks", "label_arcs"), "*fp32"),
}
"""Arguments of each kernel and their types in a training with bf16."""


@pytest.mark.parametrize("capability", [80, 90])
@pytest.mark.parametrize("name", list(CALLS))
def test_kernels_compile_for_gpus(name, capability, monkeypatch, tmp_path):
    from triton import compile as compiled
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    source = ASTSource(
        fn=getattr(triton_engine.kernels, name),
        signature={**CALLS[name], "BLOCK": "constexpr"},
        constexprs={"BLOCK": 64},
    )
    binary = compiled(source, target=GPUTarget("cuda", capability, 32), options={"num_warps": 2})
    assert len(binary.asm["cubin"]) > 1000
