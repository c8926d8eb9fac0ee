"""The trials of a comparison: one for each variant and seed; its folder keeps what is compared."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quran_asr import __version__
from quran_asr.config.recipe import as_yaml, load_recipe
from quran_asr.config.recipe_changes import changes
from quran_asr.config.schema import Recipe
from quran_asr.errors import QuranAsrError, counted
from quran_asr.experiments import trials as runner
from quran_asr.experiments.comparison.variants import Variant, manifests_of, seeded
from quran_asr.experiments.trials import TrialOutcome, last_error, last_lines, working_in
from quran_asr.files import parse_json, sha256_of, write_atomically, write_json

INDEX = "comparison.json"
FORMAT = 1
REPORT_SECONDS = 60.0
"""Seconds between progress lines where stderr is not a terminal."""

_OTHER_FOLDER = "name another folder with --to"


@dataclass(frozen=True, slots=True)
class Question:
    """What a comparison asks, as `comparison.json` keeps it."""

    variants: tuple[Variant, ...]
    """The first is the one that the others are held against."""
    seeds: int
    """Trials of each, with as many seeds in a row."""


@dataclass(frozen=True, slots=True)
class Trial(runner.Trial):
    """The training of one variant with one seed."""

    variant: Variant
    seed: int

    @property
    def name(self) -> str:
        return f"{self.variant.name}, seed {self.seed}"


Progress = Callable[[str, str], AbstractContextManager[Callable[[int, int], None]]]
"""Opens a progress bar with a title and a unit, which is then called with (done, total)."""


@dataclass(frozen=True, slots=True)
class Conditions:
    """How trials are run. Nothing here changes a figure."""

    jobs: int = 1
    """Trials at the same time."""
    allow_partial: bool = False
    """Same as in `train`."""
    report: Callable[[str], None] = lambda text: None
    progress: Progress = lambda title, unit: nullcontext(lambda done, total: None)


def keep_question(folder: Path, question: Question) -> None:
    """Write down what is compared, and refuse a folder that holds trials of other recipes under these names.

    More seeds and more recipes than before are welcome: the trials that are there count.

    Raises:
        QuranAsrError: the folder holds another comparison.
        OSError: a manifest cannot be read.
    """
    data = {
        path: sha256_of(Path(path)) for variant in question.variants for path in manifests_of(variant.recipe)
    }
    before = _read_index(folder) if (folder / INDEX).is_file() else {"data": {}, "variants": []}
    kept = before["data"] if _begun(folder, "*") else {}
    for path, digest in kept.items():
        if data.get(path, digest) != digest:
            raise QuranAsrError("was changed since the first trials", where=path, remedy=_OTHER_FOLDER)
    for variant in question.variants:
        place = folder / "recipes" / f"{variant.slug}.yaml"
        if _begun(folder, variant.slug) and changes(load_recipe(place), variant.recipe):
            raise QuranAsrError(
                f"holds trials of another `{variant.name}`",
                where=str(place),
                remedy=_OTHER_FOLDER,
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
    write_json(folder / INDEX, index)


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
        raise QuranAsrError("is not a comparison", where=str(folder / INDEX), remedy=_OTHER_FOLDER) from None


def trials_of(folder: Path, question: Question) -> list[Trial]:
    """All trials, the first seed of every variant first: a stopped comparison has most to compare."""
    return [
        Trial(folder / "trials" / variant.slug / f"seed-{seed}", variant, seed)
        for number in range(question.seeds)
        for variant in question.variants
        for seed in (variant.recipe.quran.seed + number,)
    ]


def run_trials(folder: Path, trials: Sequence[Trial], conditions: Conditions) -> list[Trial]:
    """Train what is not trained yet; a trial that was cut off continues from its last checkpoint.

    The others continue if a trial fails after it has been validated.

    Returns:
        The trials that failed.

    Raises:
        QuranAsrError: another call works in the folder, or a trial failed before it began or was killed.
        KeyboardInterrupt: SIGINT or SIGTERM came; running trials have written a checkpoint.
    """
    left = [trial for trial in trials if not trial.done]
    if len(left) < len(trials):
        conditions.report(f"{len(trials) - len(left)} of {counted(len(trials), 'trial')} found in {folder}")

    def begin(trial: Trial) -> list[str]:
        conditions.report(
            f"{trial.name}: {'begins' if trial.run() is None else 'continues'}, log {trial.log}"
        )
        recipe = trial.folder / "recipe-of-trial.yaml"
        text = _as_file(seeded(trial.variant.recipe, trial.seed, trial.folder.absolute()))
        write_atomically(recipe, text.encode())
        is_first = trial.seed == trial.variant.recipe.quran.seed  # its preflight holds for the other seeds
        return [
            str(recipe),
            *(["--allow-partial"] if conditions.allow_partial else []),
            *([] if is_first else ["--no-preflight"]),
        ]

    with working_in(folder), conditions.progress("trials", "") as show:
        for trial in left:
            if (trial.result() or {}).get("stopped_by"):  # by a diagnosis: it is tried again
                (trial.folder / "ended.json").unlink()
        clock = _Clock(trials, conditions.report, show)
        runner.run_trials(
            left,
            begin,
            lambda trial, ended: _report(trial, ended, conditions.report),
            jobs=conditions.jobs,
            on_look=lambda _: clock.tick(),
            on_stop=lambda: conditions.report(
                "stopping: each trial in progress writes a checkpoint; the same command continues"
            ),
            environment={"OMP_NUM_THREADS": "1", **os.environ},
        )
    return [trial for trial in trials if not trial.done]


def _report(trial: Trial, ended: TrialOutcome, report: Callable[[str], None]) -> None:
    """Report how a trial ended.

    Raises:
        QuranAsrError: it was killed, interrupted, or failed before its first validation.
    """
    run = trial.run()
    rows = run.read_metrics() if run is not None else []
    rates = [row["wer"] for row in rows if row["split"] == "validation" and row.get("wer") is not None]
    steps = rows[-1]["step"] if rows else 0
    if ended.code == 0:
        best = f"best validation WER {min(rates):.3f}" if rates else "no validation was made"
        report(f"{trial.name}: done after {steps:,} steps, {best}")
        return
    message = ended.error or last_error(trial.log)
    if ended.code < 0 or ended.code == 130 or not rates:
        how = f"was ended by signal {-ended.code}" if ended.code < 0 else f"ended with code {ended.code}"
        raise QuranAsrError(
            f"the trial `{trial.name}` {how}: {message}",
            where=str(trial.log),
            remedy="give the same command again when that is fixed: no finished trial is lost",
        )
    report(f"{trial.name}: failed after {steps:,} steps: {message}")


class _Clock:
    """How far all trials are, and when they will be done."""

    def __init__(
        self, trials: Sequence[Trial], report: Callable[[str], None], show: Callable[[int, int], None]
    ) -> None:
        self._trials, self._notify, self._show = trials, report, show
        self._began = self._reported_at = time.monotonic()
        self._first, self._total = self._made(), sum(map(_size, trials))

    def tick(self) -> None:
        made, now = self._made(), time.monotonic()
        self._show(made, self._total)
        if now - self._reported_at < REPORT_SECONDS or made - self._first < self._total / 100:
            return  # of the first steps no time can be foretold
        self._reported_at = now
        minutes = (self._total - made) * (now - self._began) / (made - self._first) / 60
        self._notify(f"{made / self._total:.0%} of all trials, about {minutes:,.0f} minutes left")

    def _made(self) -> int:
        return sum(_size(trial) if trial.done else _made(trial) for trial in self._trials)


def _size(trial: Trial) -> int:
    """What a trial's budget counts: optimizer steps, or thousandths of an epoch."""
    limit = trial.variant.recipe.trainer
    return limit.max_steps if limit.max_steps > 0 else 1000 * max(1, limit.max_epochs)


def _made(trial: Trial) -> int:
    run = trial.run()
    row = None if run is None else last_row(run.metrics)
    if row is None:
        return 0
    made = row.get("step", 0) if trial.variant.recipe.trainer.max_steps > 0 else 1000 * row.get("epoch", 0)
    return min(_size(trial), int(made))


def last_row(metrics: Path) -> dict[str, Any] | None:
    """The last whole line of a `metrics.jsonl` that may be growing; reads its end alone."""
    try:
        row = parse_json(last_lines(metrics)[-1])
    except (ValueError, IndexError):
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
        raise QuranAsrError("is not JSON", where=str(place), remedy=_OTHER_FOLDER) from None
    if (
        not isinstance(index, dict)
        or index.get("format") != FORMAT
        or not isinstance(index.get("data"), dict)
    ):
        raise QuranAsrError(f"is not a comparison of format {FORMAT}", where=str(place), remedy=_OTHER_FOLDER)
    return index


def _begun(folder: Path, slug: str) -> bool:
    """Whether a trial of this variant has begun."""
    return any(folder.glob(f"trials/{slug}/seed-*/*/*/recipe.yaml"))


def _as_file(recipe: Recipe) -> str:
    return "# One variant of a comparison, resolved.\nbase: base\n" + as_yaml(recipe)
