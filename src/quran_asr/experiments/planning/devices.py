"""Known devices, and the measured speed of this one.

`$QURAN_ASR_CACHE/calibration/<device>.json`, see docs/reference/formats.md.
"""

from __future__ import annotations

import difflib
import math
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from quran_asr.config.architecture import count_parameters
from quran_asr.config.schema import Recipe
from quran_asr.errors import Finding, QuranAsrError
from quran_asr.experiments.planning.cost import audio_flops
from quran_asr.files import cache_folder, parse_json, write_json
from quran_asr.locks import locked

# Peaks are dense and with float32 accumulation, from the makers' data sheets, which are named in `source`.
# A training reaches a few per cent of them: see `UTILISATION`.

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
    Device("CPU core", None, False, 0.0, "one core of an AMD EPYC, 11 to 43 GFLOP/s: docs/results/", 20e9),
)
"""Where a name has several memories, the smaller comes first and is meant by the short name."""


def find_device(name: str) -> Device | None:
    """The row that a name means, or None: `rtx3090`, `A100`, `NVIDIA GeForce RTX 3090`, `cpu`."""
    asked = words(name)
    exact = [device for device in DEVICES if words(device.name) == asked]
    wider = [device for device in DEVICES if words(device.name) <= asked]
    is_specific = any(word == "cpu" or re.search(r"\d", word) for word in asked)
    short = [device for device in DEVICES if is_specific and asked <= words(device.name)]
    return next(iter((*exact, *wider, *short)), None)


def no_such_device(name: str, others: tuple[str, ...] = ()) -> QuranAsrError:
    """The error for a name that is neither in the table nor among `others`."""
    names = [*(device.name for device in DEVICES), *others]
    folded = {one.casefold(): one for one in names}
    near = difflib.get_close_matches(name.casefold(), folded, n=1, cutoff=0.5)
    hint = f"did you mean `{folded[near[0]]}`? " if near else ""
    return QuranAsrError(
        f"no figures of a device `{name}`",
        where="--device",
        remedy=f"{hint}known are {', '.join(names)}; or give a measured --batch-seconds",
    )


def words(name: str) -> frozenset[str]:
    """What identifies a device in its name: `NVIDIA A100-SXM4-80GB` and `a100 80gb` share their words."""
    parts = re.findall(r"[a-z]*\d+[a-z]*|[a-z]+", name.casefold())
    split = [bit for part in parts for bit in (re.findall(r"rtx|\d+", part) if part[:3] == "rtx" else [part])]
    return frozenset(split) - {"nvidia", "geforce", "tesla", "the"}


ALIKE = 3.0
"""Figures of a model that costs up to so many times more or less a second of audio are scaled."""


@dataclass(frozen=True, slots=True)
class Calibration:
    """What was measured of one device."""

    device: str
    """Its name, e.g. as torch gives it."""
    model: str
    """The recipe that was measured."""
    batch_seconds: float
    """Seconds of audio in a batch on one device."""
    step_seconds: float
    """Seconds that forward and backward pass of such a batch took, and its share of the optimizer's step."""
    validation_seconds_per_hour: float | None
    """Seconds that the validation of an hour of audio took; None where it was not measured."""
    date: str
    """ISO 8601."""
    audio_flops: float | None = None
    """Operations that a second of audio cost (`flops.audio_flops`); None for a shipped recipe."""
    precision: int | str | None = None
    """`trainer.precision` of the measurement."""
    parameters: int | None = None
    """Of the model; None in entries without it."""

    def replaces(self, other: Calibration) -> bool:
        """Whether the other is an earlier measurement of the same."""
        sizes = self.parameters, other.parameters
        same = self.model == other.model if None in sizes else sizes[0] == sizes[1]
        return same and self.device == other.device and self.precision == other.precision


def calibration_folder() -> Path:
    """Where they are kept; it need not exist."""
    return cache_folder() / "calibration"


def write_calibration(calibration: Calibration) -> Path:
    """Keep what was measured, first in the device's file; earlier entries of other models stay behind it.

    Raises:
        QuranAsrError: another process has been writing there for ten seconds.
        OSError: it cannot be written.
    """
    name = re.sub(r"[^a-z0-9]+", "-", calibration.device.casefold()).strip("-") or "device"
    path = calibration_folder() / f"{name}.json"
    # Read, changed and written by one process at a time: what another one measured meanwhile is kept.
    with locked(path.with_name(f".{name}.lock"), busy="another process writes a calibration", wait=10):
        try:
            before = _read(path)
        except QuranAsrError:  # none yet, or one that `plan` has already called broken
            before = []
        more = [asdict(one) for one in before if not calibration.replaces(one)]
        write_json(path, {**asdict(calibration), **({"more": more} if more else {})})
    return path


def measured_by(
    recipe: Recipe,
    device: str,
    audio_seconds: float,
    step_seconds: float,
    validation: float | None,
    date: str,
) -> Calibration:
    """A calibration of a recipe's training, complete.

    Args:
        audio_seconds: of a batch on one device.
        step_seconds: that such a batch took.
        validation: seconds that an hour of validation took.
    """
    mean = audio_seconds / recipe.model.train_ds.batch_size
    cost = audio_flops(recipe, max(mean, 0.1))
    precision = recipe.trainer.precision
    parameters = count_parameters(recipe.model, recipe.quran.vocabulary_size)
    return Calibration(
        device, recipe.name, audio_seconds, step_seconds, validation, date, cost, precision, parameters
    )


def read_calibrations() -> tuple[list[Calibration], list[Finding]]:
    """All that are stored, by device, the latest first, and a warning for each file that is none."""
    found: list[Calibration] = []
    broken: list[Finding] = []
    folder = calibration_folder()
    for path in sorted(folder.glob("*.json")) if folder.is_dir() else []:
        try:
            found += _read(path)
        except QuranAsrError as error:
            what = f"{error.what}; it is not used"
            broken.append(Finding("warning", "broken-calibration", str(path), what, error.remedy))
    return found, broken


def scale(calibration: Calibration, ours: float, theirs: float) -> float | None:
    """Seconds of training for a second of audio of a model; None if it is too unlike the measured one.

    Args:
        ours: operations that a second of its audio costs.
        theirs: the same of the measured model.
    """
    ratio = ours / theirs
    if not 1 / ALIKE <= ratio <= ALIKE:
        return None
    return ratio * calibration.step_seconds / calibration.batch_seconds


def _read(path: Path) -> list[Calibration]:
    remedy = "measure the device again, or remove the file"
    try:
        values = parse_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        raise QuranAsrError("is not a JSON file that can be read", remedy=remedy) from None
    if not isinstance(values, dict):
        raise QuranAsrError("is not a JSON object", remedy=remedy)
    more = values.get("more", [])
    if not isinstance(more, list) or not all(isinstance(entry, dict) for entry in more):
        raise QuranAsrError("`more` is not a list of objects", remedy=remedy)
    return [_entry(entry, remedy) for entry in (values, *more)]


def _entry(values: dict[str, Any], remedy: str) -> Calibration:
    def number(key: str) -> float | None:
        return None if values.get(key) is None else _positive(values, key, remedy)

    parameters, precision = number("parameters"), values.get("precision")
    return Calibration(
        device=_named(values, "device", remedy),
        model=_named(values, "model", remedy),
        batch_seconds=_positive(values, "batch_seconds", remedy),
        step_seconds=_positive(values, "step_seconds", remedy),
        validation_seconds_per_hour=number("validation_seconds_per_hour"),
        date=_named(values, "date", remedy),
        audio_flops=number("audio_flops"),
        precision=precision if precision in (32, "bf16-mixed") else None,
        parameters=None if parameters is None else round(parameters),
    )


def _named(values: dict[str, Any], key: str, remedy: str) -> str:
    text = values.get(key)
    if not isinstance(text, str) or not text.strip():
        raise QuranAsrError(f"`{key}` must be a string", remedy=remedy)
    return " ".join(text.split())[:100]


def _positive(values: dict[str, Any], key: str, remedy: str) -> float:
    number = values.get(key)
    if isinstance(number, int | float) and not isinstance(number, bool) and 0 < number < math.inf:
        return float(number)
    raise QuranAsrError(f"`{key}` is not a positive number", remedy=remedy)
