"""What makes a CPU train faster without changing a value or a saved model: see docs/performance.md."""

from __future__ import annotations

import ctypes
import os
import sys

import torch

from quran_asr.train.cpu_layers import exchange_layers
from quran_asr.train.model import EncDecHybridRNNTCTCBPEModel

SMALL = 5_000_000
"""Parameters under which one CPU thread is as fast as several."""
FEW_CHANNELS = 64
"""Channels of the subsampling up to which oneDNN works faster on them where they lie last."""
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4
"""Parameters of glibc's `mallopt` (man 3 mallopt)."""


def suit_cpu(model: EncDecHybridRNNTCTCBPEModel) -> None:
    """Settle threads, memory, layout and layers for training this model, which lies on the CPU.

    The convolutions of a small model's subsampling keep their channels last, which oneDNN works on faster. Of
    256 channels it does not.
    """
    choose_threads(model)
    keep_freed_memory()
    exchange_layers(model)
    if model.cfg.encoder.subsampling_conv_channels <= FEW_CHANNELS:
        model.encoder.pre_encode.to(memory_format=torch.channels_last)


def multiplies_bf16() -> bool:
    """Whether this CPU multiplies matrices in bf16 several times as fast as in float32 (Intel AMX)."""
    return bool(torch.cpu.get_capabilities().get("amx_bf16", False))


def choose_threads(model: EncDecHybridRNNTCTCBPEModel) -> None:
    """One CPU thread for small models, unless `OMP_NUM_THREADS` says otherwise.

    At 1.8M parameters a second thread brings nothing on an idle machine, and on a busy one the threads wait
    for each other: a step then takes many times as long.
    """
    if "OMP_NUM_THREADS" not in os.environ and model.num_weights < SMALL:
        torch.set_num_threads(1)


def keep_freed_memory() -> bool:
    """Tell glibc's malloc to give nothing back to the system while this process trains.

    By default every tensor of some megabytes is mapped anew, and the system clears its pages at first touch:
    a quarter of a step's time with small models. What the process holds at its height hardly changes.

    Returns:
        Whether it could be told: False where there is no glibc, which changes nothing else.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # musl has none
        return False
    return bool(mallopt(_M_MMAP_MAX, 0) and mallopt(_M_TRIM_THRESHOLD, 2**31 - 1))
