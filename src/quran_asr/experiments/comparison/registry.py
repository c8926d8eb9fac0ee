"""A table of all runs below a folder: changes, data, results.

Recipes of runs are read as plain values: a run of another version, whose recipe this one would refuse, has
its line too.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from quran_asr.config.recipe import as_plain, load_recipe
from quran_asr.errors import Finding, QuranAsrError
from quran_asr.experiments.curves import number
from quran_asr.experiments.run_folder import RunFolder
from quran_asr.files import parse_json

NOT_COMPARED = (
    *("base", "name", "exp_manager.exp_dir"),
    *("model.train_ds.manifest_filepath", "model.validation_ds.manifest_filepath"),
)
"""Keys that hold a run's location or follow from its data."""
BASE = "base"
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_QUOTED = re.compile(r'"(?:[^"\\]|\\.)*"')
_ALIAS = re.compile(r"(?:^|[\s\[{,:])[*&]\w", re.MULTILINE)
_MOST_BYTES = 1_000_000
"""Of a recipe; one of ours has 3,000."""
_RESTORE = "restore the recipe.yaml of this run from a copy, or move its folder elsewhere"


@dataclass(frozen=True, slots=True)
class Entry:
    """A run in the table."""

    path: str
    name: str
    """`<name>/<date_time>`"""
    began: str
    """The name of its folder, which sorts by time."""
    against: str
    """Path of the earlier run that differs least; `base`, the recipe, for the first."""
    changes: tuple[str, ...]
    """`key: before -> now` against that; between runs their data count as the key `data`."""
    start: str | None
    """What it started from; None: random weights."""
    data: tuple[str, ...]
    """Names of the training manifests."""
    hours: float | None
    seed: int | None
    steps: int
    """The last step that was measured."""
    best_wer: float | None
    best_step: int | None
    version: str | None

    def to_json(self) -> dict[str, Any]:
        values = {key: list(v) if isinstance(v, tuple) else v for key, v in asdict(self).items()}
        return {"run": values.pop("path"), **values}


def read_registry(folder: Path) -> tuple[list[Entry], list[Finding]]:
    """All runs below a folder, however deep, in the order in which they began.

    Returns:
        The runs, and a warning for each that cannot be read.

    Raises:
        QuranAsrError: no such folder, or no run in it.
    """
    if not folder.is_dir():
        what = "a file, not a folder with runs" if folder.exists() else "no such folder"
        raise QuranAsrError(what, where=str(folder), remedy="name a folder, for example nemo_experiments")
    places = sorted(_runs(folder), key=lambda path: (path.name, str(path)))
    if not places:
        raise QuranAsrError("holds no run", where=str(folder), remedy="`quran-asr train` makes them")
    entries: list[Entry] = []
    earlier: list[tuple[str, dict[str, str]]] = []
    findings = []
    for place in places:
        try:
            values = _recipe(place)
            entry, compared = _entry(place, values, earlier)
        except QuranAsrError as error:
            findings.append(Finding("warning", "unreadable-run", error.where, error.what, error.remedy))
            continue
        entries.append(entry)
        earlier.append((str(place), compared))
    return entries, findings


def _runs(folder: Path) -> Iterator[Path]:
    """Folders with a recipe and checkpoints; nothing within one is another. Links are not followed."""
    for place, below, names in os.walk(folder):
        below[:] = [name for name in below if not name.startswith(".")]
        if "recipe.yaml" in names and "checkpoints" in below:
            below.clear()
            yield Path(place)


def _entry(
    place: Path, values: dict[str, Any], earlier: Sequence[tuple[str, dict[str, str]]]
) -> tuple[Entry, dict[str, str]]:
    """The line of a run, and what later runs are compared with."""
    run = RunFolder(place)
    manifests = _manifests(place)
    data, hours = _data(values, manifests)
    compared = {key: _shown(value) for key, value in values.items() if key not in NOT_COMPARED}
    against, changed = BASE, _changes(_base(), compared)
    compared["data"] = ", ".join(str(facts.get("sha256", ""))[:8] for facts in manifests) or ", ".join(data)
    for path, before in reversed(earlier):  # of equally near ones the last
        found = _changes(before, compared)
        if against == BASE or len(found) < len(changed):
            against, changed = path, found
    rates, steps = _rates(run.metrics)
    best_step, best = min(rates, key=lambda point: (point[1], point[0]), default=(None, None))
    start, seed = values.get("init_from_pretrained_model"), values.get("quran.seed")
    return (
        Entry(
            path=str(place),
            name=run.name,
            began=place.name,
            against=against,
            changes=changed,
            start=None if start is None else str(start),
            data=data,
            hours=hours,
            seed=seed if isinstance(seed, int) else None,
            steps=steps,
            best_wer=None if best is None else round(best, 6),
            best_step=best_step,
            version=_version(place),
        ),
        compared,
    )


@cache
def _base() -> dict[str, str]:
    leaves = dict(_leaves(as_plain(load_recipe(BASE))))
    return {key: _shown(value) for key, value in leaves.items() if key not in NOT_COMPARED}


def _changes(before: dict[str, str], now: dict[str, str]) -> tuple[str, ...]:
    keys = (key for key in {**before, **now} if before.get(key) != now.get(key))
    return tuple(f"{key}: {before.get(key, '-')} -> {now.get(key, '-')}" for key in keys)


def _recipe(place: Path) -> dict[str, Any]:
    """Dotted key -> value. Raises QuranAsrError for what is not a recipe."""
    path = place / "recipe.yaml"
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise QuranAsrError("is too large for a recipe", where=str(path), remedy=_RESTORE)
        text = path.read_text(encoding="utf-8")
        if _ALIAS.search(_QUOTED.sub("", text)):  # a few of them can stand for billions of values
            raise QuranAsrError("has anchors, which no recipe has", where=str(path), remedy=_RESTORE)
        values = yaml.load(text, Loader=_LOADER)
    except (OSError, ValueError, RecursionError, yaml.YAMLError):
        raise QuranAsrError("cannot be read as a recipe", where=str(path), remedy=_RESTORE) from None
    if not isinstance(values, dict):
        raise QuranAsrError("is not a recipe", where=str(path), remedy=_RESTORE)
    return dict(_leaves(values))


def _leaves(section: dict[Any, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in section.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _shown(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text)


def _json(path: Path) -> dict[str, Any]:
    try:
        facts = parse_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return facts if isinstance(facts, dict) else {}


def _manifests(place: Path) -> list[dict[str, Any]]:
    facts = _json(place / "training_data.json").get("manifests")
    return [one for one in facts if isinstance(one, dict)] if isinstance(facts, list) else []


def _data(
    values: dict[str, Any], manifests: Sequence[dict[str, Any]]
) -> tuple[tuple[str, ...], float | None]:
    """Names of the training manifests, and their hours."""
    hours = [facts["hours"] for facts in manifests if number(facts.get("hours")) is not None]
    named = values.get("model.train_ds.manifest_filepath") or []
    paths = [facts.get("path", "") for facts in manifests] or (named if isinstance(named, list) else [named])
    names = tuple("/".join(Path(str(path)).parts[-2:]) for path in paths)
    return names, round(sum(hours), 3) if hours else None


def _version(place: Path) -> str | None:
    version = _json(place / "environment.json").get("quran_asr")
    return version if isinstance(version, str) else None


def _rates(metrics: Path) -> tuple[list[tuple[int, float]], int]:
    """(step, WER) of each validation, and the last step. Only the lines that are needed are parsed."""
    try:
        lines = metrics.read_bytes().split(b"\n")
    except OSError:
        return [], 0
    rates, last = [], 0
    for line in lines:
        if b'"validation"' in line and (row := _row(line)) is not None:
            wer = number(row.get("wer"))
            if wer is not None:
                rates.append((row["step"], wer))
    for line in reversed(lines):
        if (row := _row(line)) is not None:
            last = row["step"]
            break
    return rates, last


def _row(line: bytes) -> dict[str, Any] | None:
    try:
        row = parse_json(line)
    except (ValueError, RecursionError):
        return None
    return row if isinstance(row, dict) and isinstance(row.get("step"), int) else None
