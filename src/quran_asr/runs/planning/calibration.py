"""How fast a device trained when it was measured: one file a device in the cache, one entry a model size.

`$QURAN_ASR_CACHE/calibration/<device>.json`, see docs/formats.md.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from quran_asr.files import cache_folder, parse_json, write_atomically
from quran_asr.findings import Finding, QuranAsrError
from quran_asr.locks import locked
from quran_asr.runs.parameters import count_parameters
from quran_asr.runs.planning.flops import audio_flops
from quran_asr.runs.schema import Recipe

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
    """Of the model; None in entries that do not tell."""

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
        document = {**asdict(calibration), **({"more": more} if more else {})}
        text = json.dumps(document, ensure_ascii=False, indent=2, allow_nan=False) + "\n"
        write_atomically(path, text.encode())
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
        raise QuranAsrError("`more` is no list of objects", remedy=remedy)
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
        raise QuranAsrError(f"`{key}` is no text", remedy=remedy)
    return " ".join(text.split())[:100]


def _positive(values: dict[str, Any], key: str, remedy: str) -> float:
    number = values.get(key)
    if isinstance(number, int | float) and not isinstance(number, bool) and 0 < number < math.inf:
        return float(number)
    raise QuranAsrError(f"`{key}` is no positive number", remedy=remedy)
