"""A run folder, in NeMo's layout: `<exp_dir>/<name>/<date_time>/` with all files of a run."""

from __future__ import annotations

import math
import os
import re
import shutil
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from quran_asr.config.recipe import as_yaml
from quran_asr.config.schema import Recipe
from quran_asr.errors import Finding, QuranAsrError
from quran_asr.files import json_line, named_errors, parse_json, sweep, write_atomically, write_json
from quran_asr.locks import locked

LOCK = ".lock"
"""In the folder of a run while it is trained."""

_RECIPE_HEAD = "# The recipe of this run, resolved. `quran-asr train recipe.yaml` repeats it.\nbase: base\n"
_RESTORE = "restore the file from a copy of the run, or train again with `quran-asr train`"
_OTHER_FOLDER = "name another folder with exp_manager.exp_dir=FOLDER"

_WER = re.compile(r"val_wer=(\d+(?:\.\d+)?)")
_EPOCH = re.compile(r"-epoch=(\d{1,9})")
_BEGAN = re.compile(r"\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d")
_AVERAGE = re.compile(r"-average=(\d{1,9})")


@dataclass(frozen=True, slots=True)
class RunFolder:
    """Where a run's files are. Nothing is made by looking."""

    path: Path

    @property
    def recipe(self) -> Path:
        """The resolved recipe: this file alone repeats the run."""
        return self.path / "recipe.yaml"

    @property
    def tokenizer(self) -> Path:
        return self.path / "tokenizer"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def transcripts(self) -> Path:
        """Transcripts of the best model's validation."""
        return self.path / "transcripts.jsonl"

    @property
    def name(self) -> str:
        """`<name>/<date_time>`"""
        return f"{self.path.parent.name}/{self.path.name}"

    # Writing

    def write_recipe(self, recipe: Recipe) -> None:
        """Keep the resolved recipe. Keys that a later version may add will have the values of its `base`."""
        write_atomically(self.recipe, (_RECIPE_HEAD + as_yaml(recipe)).encode())

    def recipe_is_cut_off(self) -> bool:
        """Whether the end of the recipe is missing: keys that are not there would have their defaults.

        It is written whole, but a copy of the run may lack its end. A cut between two lines of the last
        section is not seen: runs of earlier versions lack keys there too.
        """
        text = self.recipe.read_text(encoding="utf-8", errors="replace")
        return text.startswith(_RECIPE_HEAD) and not (text.endswith("\n") and "\nquran:\n" in text)

    def replace_recipe(self, recipe: Recipe, step: int) -> None:
        """Keep the recipe with which a run continues; the one until then becomes `recipe-to-step-N.yaml`."""
        before = self.recipe.read_bytes()
        self.write_recipe(recipe)
        until = self.path / f"recipe-to-step-{step}.yaml"
        if self.recipe.read_bytes() != before and not until.exists():  # a second change trained no step
            write_atomically(until, before)

    def write_json(self, name: str, value: Any) -> None:
        """Replace a JSON file of the run: whole or not at all. NaN and infinities become null."""
        write_json(self.path / name, _finite(value))

    def append_metrics(self, row: Mapping[str, Any]) -> None:
        """Add a line to `metrics.jsonl` and see it to the disk, whole or not at all.

        A torn last line is taken away first.
        """
        line = json_line(_finite(dict(row)))
        end = None
        try:
            with named_errors(self.metrics), self.metrics.open("ab+") as file:
                _drop_torn_line(file)
                end = file.seek(0, os.SEEK_END)
                file.write(line.encode())
                file.flush()
                os.fsync(file.fileno())
        except OSError:
            if end is not None:
                os.truncate(self.metrics, end)
            raise

    def sweep(self) -> None:
        """Take away what a killed process had begun to write; hidden files of others stay."""
        for folder in (self.path, self.checkpoints):
            sweep(folder)

    def held(self) -> AbstractContextManager[None]:
        """Within this, no other process trains into this folder.

        Raises:
            QuranAsrError: one does; its number and host are named.
        """
        return locked(self.path / LOCK, busy="another process trains this run")

    def rewind_metrics(self, step: int, *, validated: bool) -> None:
        """Make `metrics.jsonl` end where a checkpoint stands, so that no step is written twice.

        Lines behind it move to `metrics.dropped.jsonl`: nothing that was measured is lost.

        Args:
            step: optimizer steps that the checkpoint has made.
            validated: whether the validation after that step was made before it.
        """
        rows = self.read_metrics()
        kept = [
            row
            for row in rows
            if row["step"] < step or (row["step"] == step and (validated or row["split"] == "train"))
        ]
        if not self.metrics.is_file() or (
            len(kept) == len(rows) and self.metrics.read_bytes().endswith(b"\n")
        ):
            return
        dropped = [row for row in rows if row not in kept]
        aside = self.path / "metrics.dropped.jsonl"
        with named_errors(aside), aside.open("a", encoding="utf-8") as file:
            file.write(_as_lines(dropped))
        write_atomically(self.metrics, _as_lines(kept).encode())

    # Reading

    def read_json(self, name: str) -> Any:
        """A JSON file of the run.

        Raises:
            QuranAsrError: missing, or not JSON.
        """
        path = self.path / name
        try:
            return parse_json(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise QuranAsrError("no such file", where=str(path), remedy=_RESTORE) from None
        except ValueError:
            raise QuranAsrError("is not JSON", where=str(path), remedy=_RESTORE) from None

    def read_metrics(self) -> list[dict[str, Any]]:
        """The lines of `metrics.jsonl` in order; none if there is no such file.

        A torn last line is passed over. Where a resumed run trained steps a second time, the second lines
        stand and the first are left out, so that steps only rise within a split.

        Raises:
            QuranAsrError: a line before the last is not a JSON object with `step` and `split`.
        """
        if not self.metrics.is_file():
            return []
        lines = self.metrics.read_text(encoding="utf-8", errors="replace").split("\n")
        rows: list[dict[str, Any]] = []
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            row = _row(line)
            if row is not None:
                rows.append(row)
            elif number < len(lines):
                raise QuranAsrError(
                    "is not a line of metrics", where=f"{self.metrics}:{number}", remedy="remove this line"
                )
        return _without_repeats(rows)

    def best_nemo(self) -> Path | None:
        """The `.nemo` with the lowest `val_wer=` in its name."""
        return _lowest(self.checkpoints.glob("*.nemo"))

    def best_checkpoint(self) -> Path | None:
        """The `.ckpt` with the lowest `val_wer=` in its name."""
        return _lowest(self.checkpoints.glob("*.ckpt"))

    def best_model(self) -> Path | None:
        """The `.nemo` or `.ckpt` with the lowest `val_wer=` in its name; of equal ones the `.nemo`."""
        found = [path for path in (self.best_nemo(), self.best_checkpoint()) if path is not None]
        return min(found, key=rank_of, default=None)

    def last_checkpoint(self) -> Path | None:
        """Where the run can be continued."""
        last = self.checkpoints / "last.ckpt"
        return last if last.is_file() else None

    def model_file(self) -> Path:
        """The model file of a run: its best model, or where there is none its last checkpoint.

        Raises:
            QuranAsrError: it has neither.
        """
        found = self.best_model() or self.last_checkpoint()
        if found is None:
            raise QuranAsrError(
                "the run has no checkpoint yet",
                where=str(self.path),
                remedy="it writes one at each validation",
            )
        return found


def create_run(exp_dir: str | Path, name: str, now: datetime | None = None) -> RunFolder:
    """Make a new run folder; two runs that begin in the same second get two.

    Raises:
        QuranAsrError: the folder cannot be made.
    """
    began = (now or datetime.now()).strftime("%Y-%m-%d_%H-%M-%S")
    parent = Path(exp_dir) / name
    number = 1
    while True:
        path = parent / (began if number == 1 else f"{began}_{number}")
        try:
            path.mkdir(parents=True)
            break
        except FileExistsError:
            if not parent.is_dir():
                raise QuranAsrError(
                    "is a file, not a folder for runs", where=str(parent), remedy=_OTHER_FOLDER
                ) from None
            number += 1
        except OSError as error:
            reason = error.strerror or str(error)
            raise QuranAsrError(
                f"cannot make the run folder ({reason})", where=str(path), remedy=_OTHER_FOLDER
            ) from None
    run = RunFolder(path)
    run.checkpoints.mkdir()
    return run


def open_run(path: str | Path, exp_dir: str | Path = "nemo_experiments") -> RunFolder:
    """An existing run: its folder, or `last` for the last one that was begun under `exp_dir`.

    Raises:
        QuranAsrError: no run there; runs below it are named in the hint.
    """
    if str(path) == "last":
        return last_run(exp_dir)
    folder = Path(path)
    if _is_run(folder):
        return RunFolder(folder)
    below = meant_runs(folder)
    hint = f"did you mean {below[-1].path}?" if below else "name the folder that holds `recipe.yaml`"
    raise QuranAsrError("is not the folder of a run", where=str(path), remedy=hint)


def last_run(exp_dir: str | Path = "nemo_experiments") -> RunFolder:
    """The run that was begun last under `exp_dir`.

    Raises:
        QuranAsrError: there is none.
    """
    runs = runs_below(Path(exp_dir))
    if not runs:
        raise QuranAsrError("holds no run", where=str(exp_dir), remedy="name a run folder, or train one")
    return runs[-1]


def checkpoint_bytes(parameters: int) -> int:
    """Size of a `.ckpt`: float32 weights and AdamW's two moment tensors."""
    return 12 * parameters


def training_bytes(parameters: int, keep: int) -> int:
    """Disk that a run takes: the `keep` best checkpoints, the last, one being written, and the `.nemo` twice.

    Metrics, events and tokenizer are a few megabytes.
    """
    return (keep + 2) * checkpoint_bytes(parameters) + 2 * 4 * parameters


def lacking_space(folder: str | Path, parameters: int, keep: int) -> Finding | None:
    """An error finding if the disk of a folder cannot hold the checkpoints of a training.

    Args:
        folder: where runs are kept; it need not exist yet.
        parameters: of the model.
        keep: best checkpoints that are kept; the last one and one being written come on top.
    """
    needed = training_bytes(parameters, keep)
    existing = Path(folder).absolute()
    while not existing.exists():
        existing = existing.parent
    free = shutil.disk_usage(existing).free
    if free >= needed:
        return None
    return Finding(
        "error",
        "disk-space",
        str(folder),
        f"the checkpoints need {needed / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free",
        "free some space, name another folder with `exp_manager.exp_dir=...`, or keep fewer with "
        "`exp_manager.checkpoint_callback_params.save_top_k=...`",
    )


def _is_run(folder: Path) -> bool:
    return (folder / "recipe.yaml").is_file()


def runs_below(folder: Path) -> list[RunFolder]:
    """Runs one or two folders below, the last begun last."""
    found = [path.parent for pattern in ("*/recipe.yaml", "*/*/recipe.yaml") for path in folder.glob(pattern)]
    return [RunFolder(path) for path in sorted(found, key=lambda path: (path.name, path.stat().st_mtime))]


def meant_runs(folder: Path) -> list[RunFolder]:
    """Runs below a folder that it may stand for: those in NeMo's layout, named by their start time.

    What else lies in `/tmp` or a home folder is a stranger.
    """
    return [run for run in runs_below(folder) if _BEGAN.match(run.path.name)]


def rate_of(path: Path) -> float | None:
    """The `val_wer=` in a checkpoint's name."""
    found = _WER.search(path.stem)
    return float(found.group(1)) if found else None


def epoch_of(path: Path) -> int | None:
    """The `-epoch=` in a checkpoint's name."""
    found = _EPOCH.search(path.stem)
    return int(found.group(1)) if found else None


def average_of(path: Path) -> int | None:
    """The `-average=` in a model's name: of how many checkpoints it is the mean."""
    found = _AVERAGE.search(path.stem)
    return int(found.group(1)) if found else None


def _lowest(paths: Iterable[Path]) -> Path | None:
    """Hidden files are passed over: they are being written."""
    rated = [path for path in paths if rate_of(path) is not None and not path.name.startswith(".")]
    return min(rated, key=rank_of, default=None)


def rank_of(path: Path) -> tuple[float, bool, bool, int, str]:
    """What the models of a run are sorted by: the lowest rate in the name first, those without one last.

    Of equal rates an average comes first (its rate is below that of each single one), then the `.nemo`, then
    the earliest epoch.
    """
    rate = rate_of(path)
    return (
        math.inf if rate is None else rate,
        average_of(path) is None,
        path.suffix != ".nemo",
        epoch_of(path) or 0,
        path.name,
    )


def _as_lines(rows: Iterable[Mapping[str, Any]]) -> str:
    return "".join(map(json_line, rows))


def _row(line: str) -> dict[str, Any] | None:
    try:
        row = parse_json(line)
    except ValueError:
        return None
    whole = isinstance(row, dict) and isinstance(row.get("step"), int) and isinstance(row.get("split"), str)
    return row if whole else None


def _without_repeats(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    lowest = math.inf
    lowest_of: dict[str, float] = {}
    kept = []
    for row in reversed(rows):
        split, step = row["split"], row["step"]
        if step <= lowest and step < lowest_of.get(split, math.inf):
            lowest = lowest_of[split] = step
            kept.append(row)
    return kept[::-1]


def _drop_torn_line(file: Any) -> None:
    """Cut a file that does not end in a newline back to its last whole line."""
    end = file.seek(0, os.SEEK_END)
    if end == 0:
        return
    file.seek(end - 1)
    if file.read(1) == b"\n":
        return
    tail_start = max(0, end - 1_000_000)
    file.seek(tail_start)
    newline = file.read().rfind(b"\n")
    file.truncate(tail_start + newline + 1 if newline >= 0 else 0)


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    return [_finite(item) for item in value] if isinstance(value, list | tuple) else value
