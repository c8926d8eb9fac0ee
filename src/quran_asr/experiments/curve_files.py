"""Reads curves: a run folder, TensorBoard events, or a table or log of another toolkit."""

from __future__ import annotations

import csv
import io
import logging
import re
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median

from quran_asr.config.recipe import load_recipe
from quran_asr.config.schema import Recipe
from quran_asr.errors import QuranAsrError
from quran_asr.experiments.curves import Curves, Point, Series, curves_of_rows, number, values
from quran_asr.experiments.log_formats import (
    BOOKKEEPING,
    READABLE,
    Log,
    cells_of,
    cells_of_json_lines,
    columns_of,
    delimiter_of,
    is_a_bound,
    name_of,
    read_text,
    read_trainer_state,
)
from quran_asr.experiments.run_folder import RunFolder, meant_runs

_PLACES = frozenset({"step", "epoch", "time", "global_step", "hp_metric"})
MOST_RATE = 3.0
"""Median of an error rate, as a fraction, above which it must be percent."""
LEAST_PERCENT = 1.3
"""Lowest error rate of a Hugging Face log from which on it must be percent: no model stays above 130 %."""
_LARGEST = 200_000_000
"""Bytes."""


def read_curves(path: Path) -> Curves:
    """The curves of a training.

    Args:
        path: a run folder or its `metrics.jsonl`; a folder with TensorBoard event files, or one such file;
            a folder or file of the Hugging Face Trainer; a table or a text log
            (listed in docs/reference/formats.md).

    Raises:
        QuranAsrError: nothing there that holds curves, or it cannot be read.
    """
    if path.is_file():
        if path.name == "metrics.jsonl":
            return _of_run(RunFolder(path.parent))
        if "tfevents" in path.name:
            return _of_events(path.parent.name, path, [path])
        return _of_file(path)
    if not path.is_dir():
        raise QuranAsrError(
            "no such run", where=str(path), remedy="`quran-asr compare list` shows the runs that are here"
        )
    if (path / "metrics.jsonl").is_file() or (path / "recipe.yaml").is_file():
        return _of_run(RunFolder(path))
    below = meant_runs(path)
    if below:
        raise QuranAsrError(
            "is not the folder of a run", where=str(path), remedy=f"did you mean {below[-1].path}?"
        )
    states = [path / "trainer_state.json", *path.glob("checkpoint-*/trainer_state.json")]
    states = [state for state in states if state.is_file()]
    if states:
        return _of_log(read_trainer_state(max(states, key=_saved_at)), path)
    files = _event_files(path)
    if not files:
        raise QuranAsrError(
            "holds neither `metrics.jsonl` nor TensorBoard events", where=str(path), remedy=READABLE
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
        raise QuranAsrError("holds no scalars", where=str(source), remedy="name a log that has curves")
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
    except Exception as error:  # tensorboard and protobuf raise a dozen kinds for bytes that are not events
        reason = next(iter(str(error).splitlines()), type(error).__name__)[:100]
        raise QuranAsrError(
            f"not a readable event file ({reason})",
            where=str(file),
            remedy="copy the file again, or take it out of the folder",
        ) from None


def _epoch_at(step: int, epochs: Sequence[tuple[int, float]]) -> float | None:
    at = bisect_right(epochs, (step, float("inf")))
    return epochs[at - 1][1] if at else (epochs[0][1] if epochs else None)


# Files of other toolkits

_NOTHING = ("", "No log")
"""Cells without a number; the second in a table of the Hugging Face Trainer before the first loss."""


def _of_file(path: Path) -> Curves:
    if path.suffix == ".wandb":
        raise QuranAsrError(
            "is the binary log of Weights & Biases, which is not read",
            where=str(path),
            remedy="export the run's history or a panel as CSV",
        )
    if path.stat().st_size > _LARGEST:
        raise QuranAsrError(
            "is too large for a table or log of curves",
            where=str(path),
            remedy=f"export its curves to a CSV of at most {_LARGEST // 1_000_000} MB",
        )
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise QuranAsrError(
            "is neither a CSV in UTF-8 nor an event file", where=str(path), remedy=READABLE
        ) from None
    if (cells := cells_of_json_lines(text)) is not None:
        return _of_table(path, cells)
    if path.suffix == ".json":
        return _of_log(read_trainer_state(path), path)
    try:
        log = read_text(text)
    except QuranAsrError as error:
        raise QuranAsrError(error.what, where=str(path), remedy=error.remedy) from None
    return _of_log(log, path) if log is not None else _of_table(path, _cells(text))


def _saved_at(state: Path) -> tuple[bool, int]:
    """The newest of a folder: the one beside the model, or that of the last checkpoint."""
    step = re.fullmatch(r"checkpoint-(\d{1,18})", state.parent.name)
    return (step is None, int(step.group(1)) if step else 0)


def _of_log(log: Log, path: Path) -> Curves:
    in_epochs = any(row.step is None for row in log.rows)
    series: dict[str, dict[int, Point]] = {}
    for row in log.rows:
        at = int(row.epoch or 0) if row.step is None else row.step
        for tag, value in row.values.items():
            series.setdefault(tag, {})[at] = Point(at, number(value), row.epoch, None)
    if not series:
        raise QuranAsrError(
            f"is a log of {log.toolkit} without measurements yet",
            where=str(path),
            remedy="try again when the training has logged its first values",
        )
    curves = {tag: tuple(sorted(points.values(), key=_step)) for tag, points in series.items()}
    return _judged(curves, path, in_epochs=in_epochs, notes=log.notes, percent=log.percent)


def _of_table(path: Path, lines: Iterable[list[str]]) -> Curves:
    """A CSV, a table that was copied from a notebook or a model card, or lines of JSON."""
    try:
        header, rows = _table(lines, path)
    except csv.Error as error:
        raise QuranAsrError(
            f"not a readable CSV ({error})", where=str(path), remedy="export it again, or name another log"
        ) from None
    exported = re.search(r"tag-(.+)\.csv$", path.name)
    if [name.lower() for name in header] == ["wall time", "step", "value"] and exported:
        header = ["time", "step", exported.group(1)]  # as TensorBoard's page saves one curve
    try:
        columns = columns_of(header)
    except QuranAsrError as error:
        raise QuranAsrError(error.what, where=str(path), remedy=f"{error.remedy}; {READABLE}") from None
    twice = [tag for tag, times in Counter(columns.tags).items() if tag and times > 1]
    if twice:
        raise QuranAsrError(
            f"has two columns `{twice[0]}`", where=str(path), remedy="rename one, or leave it out"
        )
    places = {columns.step, columns.epoch, columns.time}
    split = next((at for at, tag in enumerate(columns.tags) if tag.lower() == "split"), None)
    series: dict[str, dict[int, Point]] = {}
    place_column = columns.epoch if columns.step is None else columns.step
    for line, row in rows:
        cells = [*row, *[""] * (len(header) - len(row))]
        if place_column is not None and cells[place_column].strip() == header[place_column]:
            raise QuranAsrError(
                "is a second header, with other columns than the first",
                where=f"{path}:{line}",
                remedy="put what follows it into a file of its own",
            )
        step, epoch, time = (
            None if at is None else _cell(cells[at], f"{path}:{line}")
            for at in (columns.step, columns.epoch, columns.time)
        )
        at = step if columns.step is not None else epoch
        if at is None:
            if columns.step is not None and not any(
                cells[i].strip() for i in range(len(header)) if i not in places
            ):
                continue
            raise QuranAsrError(
                "has no step" if columns.step is not None else "has no epoch",
                where=f"{path}:{line}",
                remedy="fill in the cell, or remove the line",
            )
        validated = split is not None and cells[split].strip() == "validation"
        for place, (tag, cell) in enumerate(zip(columns.tags, cells, strict=False)):
            if place in places or place == split or cell.strip() in _NOTHING or is_a_bound(tag):
                continue
            if BOOKKEEPING.fullmatch(tag.lower()) and name_of(tag) is None:
                continue
            named = name_of(tag)
            if validated and named is not None and named.split == "training":
                tag = f"val_{tag}"
            value = _cell(cell, f"{path}:{line}")
            series.setdefault(tag, {})[int(at)] = Point(int(at), value, epoch, time)
    if not series:
        raise QuranAsrError("holds no numbers", where=str(path), remedy="name a log that has curves")
    curves = {tag: tuple(sorted(points.values(), key=_step)) for tag, points in series.items()}
    in_epochs, notes = columns.step is None, columns.notes
    if in_epochs and any(point.epoch != point.step for points in curves.values() for point in points):
        notes += (f"`{header[place_column or 0]}` has parts of epochs: the last row of each epoch counts",)
    return _judged(curves, path, in_epochs=in_epochs, notes=notes, percent=columns.percent)


def _judged(
    series: Mapping[str, Series], path: Path, *, in_epochs: bool, notes: Sequence[str], percent: bool
) -> Curves:
    """Curves of a file, with notes on percent and on columns that nothing looks at."""
    notes, scaled = list(notes), dict(series)
    for tag, points in series.items():
        if percent and _is_rate(tag) and _looks_like_percent(points):
            scaled[tag] = tuple(
                replace(point, value=None if point.value is None else point.value / 100) for point in points
            )
            notes.append(f"`{tag}` is taken for percent, as in the examples of the Hugging Face Trainer")
        elif not percent:
            _refuse_impossible(tag, points, path)
    unknown = [tag for tag in scaled if (name := name_of(tag)) is not None and not name.known]
    if unknown:
        notes.append(f"columns that no diagnostic knows: {', '.join(f'`{tag}`' for tag in unknown)}")
    return replace(_named(scaled, path.stem, path), in_epochs=in_epochs, notes=tuple(notes))


def _is_rate(tag: str) -> bool:
    name = name_of(tag)
    return name is not None and name.split == "validation" and name.key.rpartition("_")[2] in ("wer", "cer")


def _looks_like_percent(points: Series) -> bool:
    rates = values(points)
    return bool(rates) and (median(rates) > MOST_RATE or min(rates) > LEAST_PERCENT)


def _refuse_impossible(tag: str, points: Series, path: Path) -> None:
    """A rate of 20.5 is one of percent: models that babble pass 3 errors a word at times, not at most."""
    rates = values(points)
    if not _is_rate(tag) or not rates:
        return
    if min(rates) < 0:
        raise QuranAsrError(
            f"`{tag}` is below 0 at step {next(one.step for one in points if (one.value or 0) < 0):,}",
            where=str(path),
            remedy="error rates are errors over words: name a log of error rates, or rename the column",
        )
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
        raise QuranAsrError("is empty", where=str(path), remedy="name a log that has curves")
    header = [cell.strip() for cell in numbered[0][1]]
    # a log that a later session was appended to has its header again
    return header, [(number, row) for number, row in numbered[1:] if [cell.strip() for cell in row] != header]


def _cells(text: str) -> Iterator[list[str]]:
    lines = text.splitlines()
    delimiter = delimiter_of(next((line for line in lines if line.strip()), ""))
    if delimiter == "|":
        return (cells for _, cells in cells_of(lines, delimiter))
    return csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)


def _cell(cell: str, where: str) -> float | None:
    if cell.strip() in _NOTHING:
        return None
    try:
        return number(float(cell))
    except ValueError:
        raise QuranAsrError(
            f"`{cell.strip()[:40]}` is not a number",
            where=where,
            remedy="write a number, leave the cell empty, or remove the column",
        ) from None


def _step(point: Point) -> int:
    return point.step


# Names


def _named(series: Mapping[str, Series], name: str, source: Path) -> Curves:
    """Series under their tags as curves under our keys."""
    training: dict[str, Series] = {}
    validation: dict[str, Series] = {}
    for tag, points in series.items():
        named = name_of(tag)
        if named is not None and tag not in _PLACES:
            split = validation if named.split == "validation" else training
            split.setdefault(named.key, points)
    return Curves(name, str(source), training, validation, None)
