"""Torch, driver, GPUs and precision: is what a recipe asks for here, and does it work?"""

from __future__ import annotations

import platform
import shutil
from pathlib import Path

import torch
import torch.distributed as distributed

from quran_asr.findings import QuranAsrError
from quran_asr.runs.checks.outcome import Outcome, failure, passed, warning
from quran_asr.runs.schema import Recipe

DRIVER = Path("/proc/driver/nvidia/version")
"""There where a driver of NVIDIA's is loaded."""


def training_device(recipe: Recipe) -> torch.device:
    """Where a recipe trains on this machine: its GPU where there is one, unless the recipe wants the CPU."""
    gpu = torch.cuda.is_available() and recipe.trainer.accelerator != "cpu"
    return torch.device("cuda", torch.cuda.current_device()) if gpu else torch.device("cpu")


def torch_environment(recipe: Recipe) -> list[Outcome]:
    """What this machine has for the recipe, and what it lacks."""
    trainer = recipe.trainer
    device = training_device(recipe)
    if device.type == "cpu":
        return _cpu(recipe)
    broken = _broken(device)
    if broken:
        return [
            failure(
                f"{torch.cuda.get_device_name(device)} is here, and torch {torch.__version__} cannot use it: "
                f"{broken}",
                "install a torch build for this GPU (pytorch.org/get-started), or trainer.accelerator=cpu",
            )
        ]
    major, minor = torch.cuda.get_device_capability(device)
    outcomes = [
        passed(
            f"torch {torch.__version__} on {torch.cuda.device_count()} x "
            f"{torch.cuda.get_device_name(device)} (compute capability {major}.{minor}, "
            f"CUDA {torch.version.cuda})"
        )
    ]
    if trainer.precision == "bf16-mixed" and not torch.cuda.is_bf16_supported(including_emulation=False):
        outcomes.append(
            warning("this GPU has no bf16 of its own: it is emulated, and slow", "trainer.precision=32")
        )
    processes = min(trainer.devices, torch.cuda.device_count()) * trainer.num_nodes
    if processes > 1 and not distributed.is_nccl_available():
        outcomes.append(failure("several GPUs need NCCL, which this torch lacks", "trainer.devices=1"))
    return outcomes


def _cpu(recipe: Recipe) -> list[Outcome]:
    here = f"Python {platform.python_version()}, torch {torch.__version__} on the CPU, in fp32"
    if recipe.trainer.accelerator == "cpu":
        return [passed(here)]
    has_driver = DRIVER.exists() or shutil.which("nvidia-smi") is not None
    why, remedy = "no CUDA device here", "trainer.accelerator=auto trains on the CPU"
    if has_driver and torch.version.cuda is None:
        why = f"an NVIDIA driver is here, and this torch ({torch.__version__}) was built without CUDA"
        remedy = "install a CUDA build of torch (pytorch.org/get-started)"
    elif has_driver:
        why = f"an NVIDIA driver is here, and torch (CUDA {torch.version.cuda}) finds no device"
        remedy = (
            "does `nvidia-smi` list one? A driver older than this CUDA, or CUDA_VISIBLE_DEVICES, hides it"
        )
    if recipe.trainer.accelerator == "gpu":
        return [failure(f"trainer.accelerator=gpu: {why}", remedy)]
    return [warning(f"{why}: training would run on the CPU", remedy)] if has_driver else [passed(here)]


def _broken(device: torch.device) -> str:
    """What a first product on a GPU says; empty when it works."""
    try:
        square = torch.full((8, 8), 0.5, device=device)
        total = float((square @ square).sum())
    except RuntimeError as error:
        return str(error).splitlines()[0]
    return "" if total == 128.0 else f"a sum of products gives {total} instead of 128"


def in_one_line(error: RuntimeError) -> QuranAsrError:
    """What torch says of a failure, for people."""
    return QuranAsrError(str(error).strip().splitlines()[0] if str(error).strip() else "torch failed")
