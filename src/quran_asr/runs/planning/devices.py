"""Devices to plan for: their memory, whether they have bf16, and how fast they can be expected to train.

Peaks are dense and with float32 accumulation, from the makers' data sheets, which are named in `source`.
A training reaches a few per cent of them: see `UTILISATION`.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass

from quran_asr.findings import QuranAsrError

UTILISATION = 0.04
"""Share of the tensor cores' peak that training reaches.

300 hours of audio an hour are reported for 114M parameters on an RTX 3090. At 9.6 GFLOP a second of audio
(`flops.py`) that is 2.9 of 71 TFLOP/s. The guide's 0.5 s for 32 clips of 3 s on the same card are 2.6 %.
Between models and loaders this differs by a factor of two and more.
"""
FP32_SLOWER = 2.5
"""bf16 is two to three times as fast as float32 (the guide)."""


@dataclass(frozen=True, slots=True)
class Device:
    """One row of the table."""

    name: str
    memory_bytes: int | None
    """None where it is the machine's."""
    bf16: bool
    """Whether it multiplies bf16 in hardware."""
    peak_flops: float
    """Of its tensor cores in bf16 (fp16 where it has no bf16), a second, dense."""
    source: str
    training_flops: float | None = None
    """Operations a second that training was measured to reach; None to take a share of the peak."""

    def speed(self, precision: int | str) -> float:
        """Operations a second that a training can be expected to reach.

        Args:
            precision: `trainer.precision`.
        """
        if self.training_flops is not None:
            return self.training_flops
        mixed = self.peak_flops * UTILISATION
        return mixed if precision == "bf16-mixed" and self.bf16 else mixed / FP32_SLOWER


def _gpu(name: str, gigabytes: int, peak_tflops: float, source: str, *, bf16: bool = True) -> Device:
    return Device(name, gigabytes << 30, bf16, peak_tflops * 1e12, source)


_GA102 = "NVIDIA Ampere GA102 GPU architecture whitepaper, table 2"
_ADA = "NVIDIA Ada GPU architecture whitepaper, appendix A"
_A100 = "NVIDIA A100 Tensor Core GPU data sheet"
_V100 = "NVIDIA V100 Tensor Core GPU data sheet (fp16)"

DEVICES = (
    _gpu("RTX 3080", 10, 59.5, _GA102),
    _gpu("RTX 3090", 24, 71.0, _GA102),
    _gpu("RTX 4090", 24, 165.2, _ADA),
    _gpu("A10", 24, 125.0, "NVIDIA A10 Tensor Core GPU data sheet"),
    _gpu("A100 40GB", 40, 312.0, _A100),
    _gpu("A100 80GB", 80, 312.0, _A100),
    _gpu("H100", 80, 989.0, "NVIDIA H100 Tensor Core GPU data sheet, SXM, halved for dense"),
    _gpu("H200", 141, 989.0, "NVIDIA H200 Tensor Core GPU data sheet, SXM, halved for dense"),
    _gpu("L4", 24, 121.0, "NVIDIA L4 Tensor Core GPU data sheet, halved for dense"),
    _gpu("L40S", 48, 362.0, "NVIDIA L40S data sheet, dense"),
    _gpu("V100 16GB", 16, 125.0, _V100, bf16=False),
    _gpu("V100 32GB", 32, 125.0, _V100, bf16=False),
    _gpu("T4", 16, 65.0, "NVIDIA T4 data sheet (fp16)", bf16=False),
    Device("CPU core", None, False, 0.0, "docs/results.md: one core of an AMD EPYC, 15 to 37 GFLOP/s", 20e9),
)
"""Where a name has several memories, the smaller comes first and is meant by the short name."""


def find_device(name: str) -> Device | None:
    """The row that a name means, or None: `rtx3090`, `A100`, `NVIDIA GeForce RTX 3090`, `cpu`."""
    asked = words(name)
    exact = [device for device in DEVICES if words(device.name) == asked]
    wider = [device for device in DEVICES if words(device.name) <= asked]
    tells = any(word == "cpu" or re.search(r"\d", word) for word in asked)
    short = [device for device in DEVICES if tells and asked <= words(device.name)]
    return next(iter((*exact, *wider, *short)), None)


def no_such_device(name: str, others: tuple[str, ...] = ()) -> QuranAsrError:
    """What to say of a name that is neither in the table nor among `others`."""
    names = [*(device.name for device in DEVICES), *others]
    folded = {one.casefold(): one for one in names}
    near = difflib.get_close_matches(name.casefold(), folded, n=1, cutoff=0.5)
    hint = f"did you mean `{folded[near[0]]}`? " if near else ""
    return QuranAsrError(
        f"no figures of a device `{name}`",
        where="--device",
        remedy=f"{hint}known are {', '.join(names)}; or say what you measured with --batch-seconds",
    )


def words(name: str) -> frozenset[str]:
    """What identifies a device in its name: `NVIDIA A100-SXM4-80GB` and `a100 80gb` share their words."""
    parts = re.findall(r"[a-z]*\d+[a-z]*|[a-z]+", name.casefold())
    split = [bit for part in parts for bit in (re.findall(r"rtx|\d+", part) if part[:3] == "rtx" else [part])]
    return frozenset(split) - {"nvidia", "geforce", "tesla", "the"}
