"""Reads curves: a run folder, TensorBoard events of any NeMo run, or a CSV."""

from __future__ import annotations

import csv
import logging
import re
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median

from quran_asr.config.recipe import load_recipe
from quran_asr.config.schema import Recipe
from quran_asr.errors import QuranAsrError
from quran_asr.experiments.curves import Curves, Point, Series, curves_of_rows, number, values
from quran_asr.experiments.run_folder import RunFolder, meant_runs

TRAINING_TAGS = {
    "train_loss": "loss",
    "train_rnnt_loss": "transducer_loss",
    "train_ctc_loss": "ctc_loss",
    "lr-AdamW": "learning_rate",
    "lr": "learning_rate",
    "grad_norm": "gradient_norm",
    "train_step_timing in s": "step_seconds",
}
"""Tags of NeMo, Lightning and ours -> keys of our train lines."""
VALIDATION_TAGS = {
    "val_wer_ctc": "ctc_wer",
    "training_batch_wer": "train_wer",
    "train_wer": "train_wer",
    "wer": "wer",
    "ctc_wer": "ctc_wer",
    "cer": "cer",
    "blank_share": "blank_share",
    "repeat_share": "repeat_share",
    "length_ratio": "length_ratio",
}
"""Tags -> keys of our validation lines; besides these every `val_KEY` and `validation_KEY` is KEY."""
_PLACES = frozenset({"step", "epoch", "time", "global_step", "hp_metric"})
_RATES = frozenset({"wer", "ctc_wer", "wer_ctc", "cer", "train_wer", "training_batch_wer"})
MOST_RATE = 3.0
"""Median of an error rate, as a fraction, above which it must be percent."""
_LARGEST_CSV = 200_000_000
"""Bytes."""


def read_curves(path: Path) -> Curves:
    """The curves of a training.

    Args:
        path: a run folder or its `metrics.jsonl`; a folder with TensorBoard event files, or one such file;
            a CSV file (docs/reference/formats.md says which columns).

    Raises:
        QuranAsrError: nothing there that holds curves, or it cannot be read.
    """
    if path.is_file():
        if path.name == "metrics.jsonl":
            return _of_run(RunFolder(path.parent))
        if "tfevents" in path.name:
            return _of_events(path.parent.name, path, [path])
        return _of_csv(path)
    if not path.is_dir():
        raise QuranAsrError("no such run", where=str(path))
    if (path / "metrics.jsonl").is_file() or (path / "recipe.yaml").is_file():
        return _of_run(RunFolder(path))
    below = meant_runs(path)
    if below:
        raise QuranAsrError(
            "is not the folder of a run", where=str(path), remedy=f"did you mean {below[-1].path}?"
        )
    files = _event_files(path)
    if not files:
        raise QuranAsrError(
            "holds neither `metrics.jsonl` nor TensorBoard events",
            where=str(path),
            remedy="name a run folder, an event file or a CSV",
        )
    return _of_events(path.name, path, files)


def _of_run(run: RunFolder) -> Curves:
    share = None
    if (run.path / "transfer.json").is_file():
        arrived = run.read_json("transfer.json")
        share = number(arrived.get("encoder_share")) if isinstance(arrived, dict) else None
    return curves_of_rows(run.read_metrics(), run.name, str(run.path), _recipe(run), share)


def _recipe(run: RunFolder) -> Recipe | None:
    """None for one of another version: the curves can be judged without it."""
    try:
        return load_recipe(run.recipe)
    except QuranAsrError:
        return None


# Event files


def _event_files(folder: Path) -> list[Path]:
    """Those of one run, the oldest first: NeMo moves those of earlier sessions to `run_0`, `run_1` ...

    Raises:
        QuranAsrError: they lie in several folders below, each a run of its own.
    """
    earlier = [path for path in folder.glob("run_*/*tfevents*") if path.is_file()]
    here = [path for path in folder.glob("*tfevents*") if path.is_file()]
    if here or earlier:
        return sorted([*earlier, *here], key=_begun)
    below = sorted({path.parent for path in folder.rglob("*tfevents*") if path.is_file()})
    if len(below) > 1:
        raise QuranAsrError(
            f"holds {len(below)} runs", where=str(folder), remedy=f"name one of them, for example {below[-1]}"
        )
    return sorted(below[0].glob("*tfevents*"), key=_begun) if below else []


def _begun(path: Path) -> tuple[int, str]:
    """The seconds that stand in an event file's name."""
    seconds = re.search(r"tfevents\.(\d{1,18})", path.name)
    return (int(seconds.group(1)) if seconds else 0, path.name)


def _of_events(name: str, source: Path, files: Sequence[Path]) -> Curves:
    """Later files win: a resumed run goes over steps again that an earlier session had made."""
    scalars: dict[str, dict[int, tuple[float, float]]] = {}
    for file in files:
        found = _scalars(file)
        first = min((step for points in found.values() for step, _, _ in points), default=0)
        for tag, points in scalars.items():
            scalars[tag] = {step: point for step, point in points.items() if step < first}
        for tag, triples in found.items():
            scalars.setdefault(tag, {}).update({step: (time, value) for step, time, value in triples})
    began = min((time for points in scalars.values() for time, _ in points.values()), default=0.0)
    epochs = sorted((step, value) for step, (_, value) in scalars.get("epoch", {}).items())
    series = {
        tag: tuple(
            Point(step, number(value), _epoch_at(step, epochs), time - began)
            for step, (time, value) in sorted(points.items())
        )
        for tag, points in scalars.items()
    }
    if not any(tag not in _PLACES for tag in series):
        raise QuranAsrError("holds no scalars", where=str(source))
    return _named(series, name, source)


def _scalars(file: Path) -> dict[str, list[tuple[int, float, float]]]:
    """Tag -> (step, wall time, value) of an event file."""
    try:
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    except ImportError:
        raise QuranAsrError(
            "reading event files needs tensorboard, which is not installed",
            where=str(file),
            remedy="pip install 'quran-asr[plot]'",
        ) from None
    logging.getLogger("tensorboard").setLevel(logging.ERROR)
    try:
        events = EventAccumulator(str(file), size_guidance={"scalars": 0, "tensors": 1, "images": 1})
        events.Reload()
        return {
            tag: [
                (int(event.step), float(event.wall_time), float(event.value)) for event in events.Scalars(tag)
            ]
            for tag in events.Tags()["scalars"]
        }
    except Exception as error:  # tensorboard and protobuf raise a dozen kinds for bytes that are no events
        reason = next(iter(str(error).splitlines()), type(error).__name__)[:100]
        raise QuranAsrError(f"not a readable event file ({reason})", where=str(file)) from None


def _epoch_at(step: int, epochs: Sequence[tuple[int, float]]) -> float | None:
    at = bisect_right(epochs, (step, float("inf")))
    return epochs[at - 1][1] if at else (epochs[0][1] if epochs else None)


# CSV


def _of_csv(path: Path) -> Curves:
    try:
        if path.stat().st_size > _LARGEST_CSV:
            raise QuranAsrError("is too large for a CSV of curves", where=str(path))
        with path.open(encoding="utf-8-sig", newline="") as file:
            header, rows = _table(csv.reader(file), path)
    except UnicodeDecodeError:
        raise QuranAsrError("is neither a CSV in UTF-8 nor an event file", where=str(path)) from None
    except csv.Error as error:
        raise QuranAsrError(f"not a readable CSV ({error})", where=str(path)) from None
    exported = re.search(r"tag-(.+)\.csv$", path.name)
    if header == ["wall time", "step", "value"] and exported:  # as TensorBoard's page saves one curve
        header = ["time", "step", exported.group(1)]
    if "step" not in header and "epoch" not in header:
        raise QuranAsrError(
            "has no column `step` or `epoch`", where=str(path), remedy="the first line names the columns"
        )
    series: dict[str, dict[int, Point]] = {}
    for line, row in rows:
        cells = dict(zip(header, row, strict=False))
        step, epoch, time = (_cell(cells.get(key, ""), f"{path}:{line}") for key in ("step", "epoch", "time"))
        at = step if step is not None else epoch
        if at is None:
            raise QuranAsrError("has no step", where=f"{path}:{line}")
        validated = cells.get("split", "").strip() == "validation"
        for key, cell in cells.items():
            if key in _PLACES or key == "split" or not cell.strip():
                continue
            tag = f"val_{key}" if validated and key not in VALIDATION_TAGS else key
            value = _cell(cell, f"{path}:{line}")
            series.setdefault(tag, {})[int(at)] = Point(int(at), value, epoch, time)
    if not series:
        raise QuranAsrError("holds no numbers", where=str(path))
    curves = {tag: tuple(sorted(points.values(), key=_step)) for tag, points in series.items()}
    for tag, points in curves.items():
        _refuse_percent(tag, points, path)
    return replace(_named(curves, path.stem, path), in_epochs="step" not in header)


def _refuse_percent(tag: str, points: Series, path: Path) -> None:
    """A rate of 20.5 is one of percent: models that babble pass 3 errors a word at times, not at most."""
    rates = values(points)
    if tag.removeprefix("validation_").removeprefix("val_") not in _RATES or not rates:
        return
    if median(rates) > MOST_RATE:
        raise QuranAsrError(
            f"`{tag}` looks like percent (from {rates[0]:g} to {rates[-1]:g})",
            where=str(path),
            remedy="error rates are fractions, 0.205 for 20.5 %: divide the column by 100",
        )


def _table(lines: Iterable[list[str]], path: Path) -> tuple[list[str], list[tuple[int, list[str]]]]:
    numbered = [
        (number, row) for number, row in enumerate(lines, start=1) if any(cell.strip() for cell in row)
    ]
    if not numbered:
        raise QuranAsrError("is empty", where=str(path))
    header = [cell.strip() for cell in numbered[0][1]]
    return [name.lower() if name.lower() in _PLACES | {"wall time", "value"} else name for name in header], (
        numbered[1:]
    )


def _cell(cell: str, where: str) -> float | None:
    if not cell.strip():
        return None
    try:
        return number(float(cell))
    except ValueError:
        raise QuranAsrError(f"`{cell.strip()[:40]}` is no number", where=where) from None


def _step(point: Point) -> int:
    return point.step


# Names


def _named(series: Mapping[str, Series], name: str, source: Path) -> Curves:
    """Series under their tags as curves under our keys."""
    training: dict[str, Series] = {}
    validation: dict[str, Series] = {}
    for tag, points in series.items():
        if tag in _PLACES:
            continue
        bare = re.fullmatch(r"(?:val|validation)_(.+)", tag)
        if tag in VALIDATION_TAGS:
            validation.setdefault(VALIDATION_TAGS[tag], points)
        elif bare:
            validation.setdefault(bare.group(1), points)
        else:
            training.setdefault(TRAINING_TAGS.get(tag, tag), points)
    return Curves(name, str(source), training, validation, None)
