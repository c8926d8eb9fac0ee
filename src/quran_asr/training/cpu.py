"""Faster training on a CPU without changing a value or a saved model; see docs/results/performance.md."""

from __future__ import annotations

import ctypes
import os
import sys

import torch
from torch import Tensor, nn
from torch.nn import functional

from quran_asr.training.model import CausalConv1D, CausalConv2D, EncDecHybridRNNTCTCBPEModel


class PointwiseConv1d(nn.Conv1d):
    """A convolution of width 1 as the matrix product that it is; torch's own unfolds its input first."""

    def forward(self, input: Tensor) -> Tensor:
        """[B, C, T] -> [B, D, T]"""
        weight = self.weight.squeeze(2)
        return functional.linear(input.transpose(1, 2), weight, self.bias).transpose(1, 2)


class Float32Conv1d(CausalConv1D):
    """A depthwise convolution that autocast leaves in float32: torch has no fast bf16 gradient for it."""

    def forward(self, x: Tensor, cache: Tensor | None = None) -> Tensor:
        """[B, C, T] -> [B, C, T], float32."""
        with torch.autocast(x.device.type, enabled=False):
            convolved: Tensor = super().forward(x.float(), cache=cache)
            return convolved


class Float32Conv2d(nn.Conv2d):
    """Likewise, for the subsampling's convolutions that are not causal."""

    def forward(self, input: Tensor) -> Tensor:
        """[B, C, T, F] -> [B, D, T', F'], float32."""
        with torch.autocast(input.device.type, enabled=False):
            return super().forward(input.float())


class Float32CausalConv2d(CausalConv2D):
    """Likewise, for the causal ones."""

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, T, F] -> [B, D, T', F'], float32."""
        with torch.autocast(x.device.type, enabled=False):
            convolved: Tensor = super().forward(x.float())
            return convolved


class BitDropout(nn.Dropout):
    """Dropout whose masks take 16 random bits a number; torch's own draws them one by one.

    `p` is rounded to 1/65,536, and what remains is scaled by exactly that.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Any shape."""
        dropped = round(65_536 * self.p)
        if not self.training or dropped in (0, 65_536):
            return super().forward(input)
        words = torch.empty((input.numel() + 3) // 4, dtype=torch.int64).random_(-(2**63), None)
        kept = words.view(torch.int16)[: input.numel()].view(input.shape) >= dropped - 32_768
        return input * kept.to(input.dtype).mul_(65_536 / (65_536 - dropped))


_FLOAT32: dict[type[nn.Module], type[nn.Module]] = {
    CausalConv1D: Float32Conv1d,
    CausalConv2D: Float32CausalConv2d,
    nn.Conv2d: Float32Conv2d,
}


def exchange_layers(model: nn.Module) -> None:
    """Let the layers above stand for torch's in a model on the CPU; its parameters and their names stay."""
    for layer in model.modules():
        if type(layer) is nn.Dropout and not layer.inplace:
            layer.__class__ = BitDropout
        elif type(layer) is nn.Conv1d and _is_pointwise(layer):
            layer.__class__ = PointwiseConv1d
        elif type(layer) in _FLOAT32:
            layer.__class__ = _FLOAT32[type(layer)]


def _is_pointwise(layer: nn.Conv1d) -> bool:
    return (layer.kernel_size, layer.stride, layer.padding, layer.groups) == ((1,), (1,), (0,), 1)


SMALL = 5_000_000
"""Parameters under which one CPU thread is as fast as several."""
FEW_CHANNELS = 64
"""Channels of the subsampling up to which oneDNN works faster on them where they lie last."""
PRIMITIVE_CACHE = "ONEDNN_PRIMITIVE_CACHE_CAPACITY"
# oneDNN compiles a kernel for every shape that it meets and keeps 1,024 of them by default: fewer than ten
# batches of different lengths need, so that an eighth of a step went into compiling. It reads this once.
os.environ.setdefault(PRIMITIVE_CACHE, "8192")
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
    """Whether this CPU has instructions to multiply matrices in bf16: Intel's AMX, or AVX-512's bf16.

    With AMX a product is several times as fast as in float32, with AVX-512's instructions about twice.
    """
    known = torch.cpu.get_capabilities()
    return bool(known.get("amx_bf16") or known.get("avx512_bf16"))


def choose_threads(model: EncDecHybridRNNTCTCBPEModel) -> None:
    """One CPU thread for small models, unless `OMP_NUM_THREADS` is set.

    At 1.8M parameters a second thread brings nothing on an idle machine, and on a busy one the threads wait
    for each other: a step then takes many times as long.
    """
    if "OMP_NUM_THREADS" not in os.environ and model.num_weights < SMALL:
        torch.set_num_threads(1)


def keep_freed_memory() -> bool:
    """Make glibc's malloc give nothing back to the system while this process trains.

    By default every tensor of some megabytes is mapped again, and the system clears its pages at first touch:
    a quarter of a step's time with small models. What the process holds at its height hardly changes.

    Returns:
        Whether it took effect: False where there is no glibc, which changes nothing else.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # musl has none
        return False
    return bool(mallopt(_M_MMAP_MAX, 0) and mallopt(_M_TRIM_THRESHOLD, 2**31 - 1))
