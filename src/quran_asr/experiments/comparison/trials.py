"""The trainings of a comparison: one process and one folder each, so that a killed comparison resumes."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quran_asr import __version__
from quran_asr.config.recipe import as_yaml, load_recipe
from quran_asr.config.recipe_changes import changes
from quran_asr.config.schema import Recipe
from quran_asr.errors import QuranAsrError, counted
from quran_asr.experiments.comparison.variants import Variant, manifests_of, seeded
from quran_asr.experiments.run_folder import RunFolder, runs_below
from quran_asr.experiments.subprocesses import StopAskedError, alone, asked_to_stop, start
from quran_asr.files import named_errors, parse_json, write_atomically

INDEX = "comparison.json"
FORMAT = 1
GRACE_SECONDS = 120.0
"""A training that is asked to stop ends after its step, or its validation, and writes a checkpoint."""
SAID_EVERY = 60.0
"""Seconds between lines on how far it is, where stderr is no terminal."""


@dataclass(frozen=True, slots=True)
class Question:
    """What a comparison asks, as `comparison.json` keeps it."""

    variants: tuple[Variant, ...]
    """The first is the one that the others are held against."""
    seeds: int
    """Trials of each, with as many seeds in a row."""


@dataclass(frozen=True, slots=True)
class Trial:
    """One training."""

    variant: Variant
    seed: int
    folder: Path

    @property
    def name(self) -> str:
        return f"{self.variant.name}, seed {self.seed}"

    @property
    def recipe(self) -> Path:
        return self.folder / "recipe-of-trial.yaml"

    @property
    def log(self) -> Path:
        return self.folder / "log.txt"

    def run(self) -> RunFolder | None:
        """The run that was begun last, if one was."""
        found = runs_below(self.folder) if self.folder.is_dir() else []
        return found[-1] if found else None

    def outcome(self) -> dict[str, Any] | None:
        """How it ended: `{"state": "done" | "failed", "code", "said"}`; None while it has not."""
        try:
            recorded = parse_json((self.folder / "trial.json").read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):
            return None
        return recorded if isinstance(recorded, dict) else None

    @property
    def done(self) -> bool:
        recorded = self.outcome()
        return recorded is not None and recorded.get("state") == "done"


Progress = Callable[[str, str], AbstractContextManager[Callable[[int, int], None]]]
"""Opens a progress bar with a title and a unit, which is then called with (done, total)."""


@dataclass(frozen=True, slots=True)
class Conditions:
    """How trials are run. Nothing here changes a figure."""

    jobs: int = 1
    """Trials at the same time."""
    allow_partial: bool = False
    """Same as in `train`."""
    say: Callable[[str], None] = lambda text: None
    progress: Progress = lambda title, unit: nullcontext(lambda done, total: None)


def keep_question(folder: Path, question: Question) -> None:
    """Write down what is compared, and refuse a folder that holds trials of other recipes under these names.

    More seeds and more recipes than before are welcome: the trials that are there count.

    Raises:
        QuranAsrError: the folder holds another comparison, or a manifest is not there.
    """
    data = {path: _sha256(path) for variant in question.variants for path in manifests_of(variant.recipe)}
    before = _read_index(folder) if (folder / INDEX).is_file() else {"data": {}, "variants": []}
    other = "name another folder with --to"
    kept = before["data"] if _begun(folder, "*") else {}
    for path, digest in kept.items():
        if data.get(path, digest) != digest:
            raise QuranAsrError("was changed since the first trials", where=path, remedy=other)
    for variant in question.variants:
        place = folder / "recipes" / f"{variant.slug}.yaml"
        if _begun(folder, variant.slug) and changes(load_recipe(place), variant.recipe):
            raise QuranAsrError(
                f"holds trials of another `{variant.name}`",
                where=str(place),
                remedy=other,
            )
        write_atomically(place, _as_file(variant.recipe).encode())
    index = {
        "format": FORMAT,
        "version": __version__,
        "variants": [
            {"name": variant.name, "recipe": f"recipes/{variant.slug}.yaml"} for variant in question.variants
        ],
        "seeds": question.seeds,
        "data": {**kept, **data},
    }
    write_atomically(folder / INDEX, (json.dumps(index, ensure_ascii=False, indent=2) + "\n").encode())


def read_question(folder: Path) -> Question:
    """The question of an earlier call.

    Raises:
        QuranAsrError: the folder holds no comparison, or one that this version cannot read.
    """
    index = _read_index(folder)
    try:
        variants = []
        for recorded in index["variants"]:
            place = (folder / recorded["recipe"]).resolve()
            if not place.is_relative_to(folder.resolve()):
                raise ValueError
            variants.append(Variant(str(recorded["name"]), load_recipe(place)))
        return Question(tuple(variants), int(index["seeds"]))
    except (KeyError, TypeError, ValueError):
        raise QuranAsrError("is not a comparison", where=str(folder / INDEX)) from None


def trials_of(folder: Path, question: Question) -> list[Trial]:
    """All trials: the first seed of every arm, then the second, so that a stopped comparison says most."""
    return [
        Trial(
            variant,
            variant.recipe.quran.seed + number,
            folder / "trials" / variant.slug / f"seed-{variant.recipe.quran.seed + number}",
        )
        for number in range(question.seeds)
        for variant in question.variants
    ]


def run_trials(folder: Path, trials: Sequence[Trial], conditions: Conditions) -> list[Trial]:
    """Train what is not trained yet; a trial that was cut off goes on from its last checkpoint.

    A trial whose training failed after it had been validated is kept as failed, and the others go on.

    Returns:
        The trials that failed.

    Raises:
        QuranAsrError: another call works in the folder, or a trial failed before it began or was killed.
        KeyboardInterrupt: SIGINT or SIGTERM came; running trials have written a checkpoint.
    """
    left = [trial for trial in trials if not trial.done]
    if len(left) < len(trials):
        conditions.say(f"{len(trials) - len(left)} of {counted(len(trials), 'trial')} found in {folder}")
    folder.mkdir(parents=True, exist_ok=True)
    clock = _Clock(trials, conditions)
    running: dict[Trial, subprocess.Popen[bytes]] = {}
    with alone(folder), named_errors(folder), asked_to_stop(), conditions.progress("trials", "") as show:
        try:
            while left or running:
                while left and len(running) < conditions.jobs:
                    trial = left.pop(0)
                    running[trial] = _begin(trial, conditions)
                for trial, process in list(running.items()):
                    if process.poll() is not None:
                        del running[trial]
                        _end(trial, process.returncode, conditions)
                clock.tick(running, show)
                time.sleep(0.3)
        except StopAskedError:
            conditions.say("stopping: each trial in progress writes a checkpoint; the same command goes on")
            raise KeyboardInterrupt from None
        finally:
            _stop(list(running.values()))
    return [trial for trial in trials if not trial.done]


def _begin(trial: Trial, conditions: Conditions) -> subprocess.Popen[bytes]:
    run = trial.run()
    words = [sys.executable, "-m", "quran_asr", "train"]
    trial.folder.mkdir(parents=True, exist_ok=True)
    if run is not None:
        words += ["--resume", str(run.path)]
    else:
        text = _as_file(seeded(trial.variant.recipe, trial.seed, trial.folder.absolute()))
        write_atomically(trial.recipe, text.encode())
        words.append(str(trial.recipe))
        words += ["--allow-partial"] if conditions.allow_partial else []
        first = trial.seed == trial.variant.recipe.quran.seed
        words += [] if first else ["--no-preflight"]  # what was looked at for the first seed holds for all
    conditions.say(f"{trial.name}: {'begins' if run is None else 'goes on'}, log {trial.log}")
    return start(words, trial.log, one_thread())


def _stop(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    """As Ctrl-C would, all at once; without asking those that have not ended after the grace."""
    for process in processes:
        process.send_signal(signal.SIGINT)
    until = time.monotonic() + GRACE_SECONDS
    for process in processes:
        try:
            process.wait(max(0.0, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def one_thread() -> Mapping[str, str]:
    """The environment of a trial: one thread, unless the caller's environment says otherwise."""
    return {"OMP_NUM_THREADS": "1", **os.environ}


def _end(trial: Trial, code: int, conditions: Conditions) -> None:
    run = trial.run()
    rows = run.read_metrics() if run is not None else []
    rates = [row["wer"] for row in rows if row["split"] == "validation" and row.get("wer") is not None]
    if code == 0:
        write_outcome(trial.folder, {"state": "done", "code": 0, "message": ""})
        best = f"best validation WER {min(rates):.3f}" if rates else "no validation was made"
        conditions.say(f"{trial.name}: done after {rows[-1]['step'] if rows else 0:,} steps, {best}")
        return
    message = last_error(trial.log)
    if code < 0 or code == 130 or not rates:
        how = f"was ended by signal {-code}" if code < 0 else f"ended with code {code}"
        raise QuranAsrError(
            f"the trial `{trial.name}` {how}: {message}",
            where=str(trial.log),
            remedy="give the same command again when that is mended: no finished trial is lost",
        )
    write_outcome(trial.folder, {"state": "failed", "code": code, "message": message})
    conditions.say(f"{trial.name}: failed after {rows[-1]['step']:,} steps: {message}")


def write_outcome(folder: Path, recorded: Mapping[str, Any]) -> None:
    write_atomically(folder / "trial.json", (json.dumps(recorded, ensure_ascii=False) + "\n").encode())


def last_error(log: Path) -> str:
    """The line that says why a process ended: the last that begins with `error`, else its last."""
    lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines()]
    lines = [line for line in lines if line]
    errors = [line for line in lines if line.startswith("error")]
    return (errors or lines or ["it said nothing"])[-1][:300]


class _Clock:
    """How far all trials are, and when they will be done."""

    def __init__(self, trials: Sequence[Trial], conditions: Conditions) -> None:
        self._trials, self._conditions = trials, conditions
        self._began = self._said = time.monotonic()
        self._done = {trial: self._size(trial) if trial.done else self._made(trial) for trial in trials}
        self._first = sum(self._done.values())
        self._total = sum(self._size(trial) for trial in trials)

    def tick(
        self, running: Mapping[Trial, subprocess.Popen[bytes]], show: Callable[[int, int], None]
    ) -> None:
        for trial in self._trials:
            if trial in running:
                self._done[trial] = self._made(trial)
            elif trial.done:
                self._done[trial] = self._size(trial)
        done, now = sum(self._done.values()), time.monotonic()
        show(done, self._total)
        if now - self._said < SAID_EVERY or done - self._first < self._total / 100:
            return  # of the first steps no time can be foretold
        self._said = now
        minutes = (self._total - done) * (now - self._began) / (done - self._first) / 60
        self._conditions.say(f"{done / self._total:.0%} of all trials, about {minutes:,.0f} minutes left")

    @staticmethod
    def _size(trial: Trial) -> int:
        """What a trial's budget counts: optimizer steps, or thousandths of an epoch."""
        limit = trial.variant.recipe.trainer
        return limit.max_steps if limit.max_steps > 0 else 1000 * max(1, limit.max_epochs)

    def _made(self, trial: Trial) -> int:
        run = trial.run()
        row = None if run is None else last_row(run.metrics)
        if row is None:
            return 0
        steps = trial.variant.recipe.trainer.max_steps > 0
        made = row.get("step", 0) if steps else 1000 * row.get("epoch", 0)
        return min(self._size(trial), int(made))


def last_row(metrics: Path) -> dict[str, Any] | None:
    """The last whole line of a `metrics.jsonl` that may be growing; reads its end alone."""
    try:
        with metrics.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - 8192))
            lines = file.read().split(b"\n")[:-1]
        row = parse_json(lines[-1])
    except (OSError, ValueError, IndexError):
        return None
    return row if isinstance(row, dict) else None


def _read_index(folder: Path) -> dict[str, Any]:
    place = folder / INDEX
    try:
        index = parse_json(place.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise QuranAsrError(
            "holds no comparison", where=str(folder), remedy="name two recipes, runs or reports"
        ) from None
    except ValueError:
        raise QuranAsrError("is not JSON", where=str(place)) from None
    if (
        not isinstance(index, dict)
        or index.get("format") != FORMAT
        or not isinstance(index.get("data"), dict)
    ):
        raise QuranAsrError(f"is not a comparison of format {FORMAT}", where=str(place))
    return index


def _begun(folder: Path, slug: str) -> bool:
    """Whether a trial of this side has begun."""
    return any(folder.glob(f"trials/{slug}/seed-*/*/*/recipe.yaml"))


def _as_file(recipe: Recipe) -> str:
    return "# One side of a comparison, resolved.\nbase: base\n" + as_yaml(recipe)


def _sha256(path: str) -> str:
    try:
        return hashlib.sha256(Path(path).read_bytes()).hexdigest()
    except OSError as error:
        raise QuranAsrError(error.strerror or str(error), where=path) from None
