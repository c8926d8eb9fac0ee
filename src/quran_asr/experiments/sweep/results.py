"""Results of a sweep: trials by WER with intervals, importance of keys, the best recipe."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quran_asr.config.overrides import parse_override
from quran_asr.config.recipe import SHIPPED, as_plain, as_scalar, resolve
from quran_asr.errors import QuranAsrError, counted
from quran_asr.evaluation.confidence import Interval, intervals, method
from quran_asr.evaluation.transcripts import TranscribedClip, read_transcripts
from quran_asr.experiments.sweep.search import Sweep, open_study, trial_folder
from quran_asr.experiments.sweep.space import Value, words_of
from quran_asr.experiments.trials import Trial
from quran_asr.files import write_atomically, write_json

if TYPE_CHECKING:
    import optuna

TRIALS_A_KEY = 4
"""Finished trials for each key under which no importance is given."""

_MANIFESTS = ("model.train_ds.manifest_filepath", "model.validation_ds.manifest_filepath")


@dataclass(frozen=True, slots=True)
class Row:
    """One trial."""

    number: int
    state: str
    """`finished`, `pruned`, `stopped`, `failed`, or `unfinished` where the sweep was interrupted."""
    values: dict[str, Value]
    wer: float | None
    """Lowest of its validations."""
    interval: Interval | None
    """95 %, of the clips of that validation."""
    minus_best: float | None
    """Its WER minus the best trial's."""
    minus_best_interval: Interval | None
    """95 %, over the same clips, drawn in pairs."""
    steps: int | None
    seconds: float | None
    run: str | None
    note: str
    """Why it ended, if not by itself."""


@dataclass(frozen=True, slots=True)
class Result:
    """All of them."""

    rows: tuple[Row, ...]
    """The finished ones first, by WER; then the others by number."""
    importance: dict[str, float] | None
    """Share of the variance of WER that a key explains; None where it is not known."""
    importance_note: str
    """How it was computed, or why not."""
    interval_method: str
    best_recipe: Path | None

    @property
    def best(self) -> Row | None:
        """The finished trial with the lowest WER."""
        return self.rows[0] if self.rows and self.rows[0].state == "finished" else None

    def to_json(self, sweep: Sweep, folder: Path) -> dict[str, Any]:
        """What `sweep --json` prints, and `results.json` holds."""
        best = self.best
        return {
            "folder": str(folder),
            "recipe": sweep.recipe,
            "keys": [axis.key for axis in sweep.axes],
            "grid": sweep.is_grid,
            "trials": [asdict(row) for row in self.rows],
            "best": None if best is None else best.number,
            "best_recipe": None if self.best_recipe is None else str(self.best_recipe),
            "importance": self.importance,
            "importance_note": self.importance_note,
            "interval_method": self.interval_method,
        }


def result_of(sweep: Sweep, folder: Path) -> Result:
    """Read what the trials of a folder have left, and write the best recipe."""
    study = open_study(sweep, folder)
    keys = {axis.key for axis in sweep.axes}
    known = [trial for trial in study.get_trials(deepcopy=False) if trial.params.keys() == keys]
    trials = [trial for trial in known if "same_as" not in trial.user_attrs]
    states = {trial.number: _state(trial) for trial in trials}
    order = sorted(
        trials,
        key=lambda t: (states[t.number] != "finished", t.value if t.value is not None else 0.0, t.number),
    )
    clips_of = {t.number: _transcripts(folder, t.number) for t in order}
    best = order[0] if order and states[order[0].number] == "finished" else None
    rows = tuple(_row(folder, trial, states[trial.number], clips_of, best) for trial in order)
    importance, note = _importance(sweep, study)
    some = next((clips for clips in clips_of.values() if clips), ())
    return Result(
        rows,
        importance,
        note,
        method([clip.segment.reciter for clip in some]) if some else "no clips to draw",
        _write_best(sweep, folder, rows[0]) if best is not None else None,
    )


def write_result(result: Result, sweep: Sweep, folder: Path) -> None:
    """Keep what `--json` prints beside the trials."""
    write_json(folder / "results.json", result.to_json(sweep, folder))


def _state(trial: optuna.trial.FrozenTrial) -> str:
    from optuna.trial import TrialState

    if "stopped_by" in trial.user_attrs:
        return "stopped"
    named = {TrialState.COMPLETE: "finished", TrialState.PRUNED: "pruned", TrialState.FAIL: "failed"}
    return named.get(trial.state, "unfinished")


def _transcripts(folder: Path, number: int) -> tuple[TranscribedClip, ...]:
    """The transcripts of the best validation of a trial; none where it made none."""
    run = Trial(trial_folder(folder, number)).run()
    if run is None or not run.transcripts.is_file():
        return ()
    return tuple(read_transcripts(run.transcripts))


def _row(
    folder: Path,
    trial: optuna.trial.FrozenTrial,
    state: str,
    clips_of: Mapping[int, Sequence[TranscribedClip]],
    best: optuna.trial.FrozenTrial | None,
) -> Row:
    run = Trial(trial_folder(folder, trial.number)).run()
    rows = run.read_metrics() if run is not None else []
    rates = [row["wer"] for row in rows if row["split"] == "validation" and row["wer"] is not None]
    clips = clips_of[trial.number]
    difference = spread = None
    if best is not None and best is not trial and state == "finished":
        difference, spread = trial.value - best.value, _paired_interval(clips, clips_of[best.number])
    note = trial.user_attrs.get("failed") or trial.user_attrs.get("stopped_by") or ""
    if state == "pruned":
        note = f"at step {trial.user_attrs.get('pruned_at', '?')}"
    return Row(
        number=trial.number,
        state=state,
        values=dict(trial.params),
        wer=trial.value if trial.value is not None else min(rates, default=None),
        interval=_interval([clip.words.errors for clip in clips], clips),
        minus_best=difference,
        minus_best_interval=spread,
        steps=max((row["step"] for row in rows), default=None),
        seconds=max((row["time"] for row in rows), default=None),
        run=None if run is None else str(run.path),
        note=str(note),
    )


def _interval(errors: Sequence[int], clips: Sequence[TranscribedClip]) -> Interval | None:
    """Of errors over reference words, by clip; see `confidence.intervals`."""
    import numpy as np

    if not clips:
        return None
    reference_lengths = np.array([[clip.words.reference_length] for clip in clips], np.int64)
    reciters = [clip.segment.reciter for clip in clips]
    return intervals(np.array(errors, np.int64)[:, None], reference_lengths, reciters)[0]


def _paired_interval(clips: Sequence[TranscribedClip], best: Sequence[TranscribedClip]) -> Interval | None:
    """Of WER minus the best's; None where the clips differ."""
    if [clip.segment for clip in clips] != [clip.segment for clip in best]:
        return None
    return _interval([a.words.errors - b.words.errors for a, b in zip(clips, best, strict=True)], clips)


def _importance(sweep: Sweep, study: optuna.Study) -> tuple[dict[str, float] | None, str]:
    """fANOVA (Hutter, Hoos, Leyton-Brown 2014) over the finished trials, by Optuna."""
    import optuna
    from optuna.trial import TrialState

    finished = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    if len(sweep.axes) == 1:
        return None, "one key: there is nothing to weigh it against"
    wanted = TRIALS_A_KEY * len(sweep.axes)
    if len(finished) < wanted:
        so_far = f"{counted(len(finished), 'finished trial')} for {len(sweep.axes)} keys"
        return None, f"unknown: {so_far}, and {wanted} are wanted"
    if len({trial.value for trial in finished}) == 1:
        return None, "unknown: all finished trials have the same WER"
    try:
        evaluator = optuna.importance.FanovaImportanceEvaluator(seed=sweep.seed)
        found = optuna.importance.get_param_importances(study, evaluator=evaluator)
    except ImportError:
        return None, "unknown: Optuna's fANOVA needs scikit-learn (pip install scikit-learn)"
    return dict(found), f"fANOVA over {len(finished)} finished trials"


# The best recipe


def _write_best(sweep: Sweep, folder: Path, best: Row) -> Path:
    """The winner as an overlay that `train` takes: the recipe, the overrides of all trials, its values.

    Manifests are left out: whoever trains it names them.
    """
    path = folder / "best.yaml"
    fixed = [word for word in sweep.overrides if parse_override(word).key not in _MANIFESTS]
    resolved = resolve(sweep.recipe, [*fixed, *words_of(best.values)])
    changed = {key for key, origin in resolved.origin.items() if origin == "command line"}
    base = sweep.recipe if sweep.recipe in SHIPPED else os.path.relpath(sweep.recipe, folder.resolve())
    wer = "?" if best.wer is None else f"{best.wer:.4f}"
    lines = [
        f"# The best of a sweep: trial {best.number}, validation WER {wer}. Keys that were varied:",
        *(f"#   {key}={value}" for key, value in best.values.items()),
        "#",
        f"#   quran-asr train {path} --train TRAIN.jsonl --validation VALIDATION.jsonl",
        f"base: {as_scalar(base)}",
        *_lines(as_plain(resolved.recipe), changed, ""),
    ]
    write_atomically(path, ("\n".join(lines) + "\n").encode())
    if resolve(path).recipe != resolved.recipe:
        raise QuranAsrError(
            "does not hold the recipe of its trial",
            where=str(path),
            remedy=f"train with the recipe.yaml below {trial_folder(folder, best.number)} instead",
        )
    return path


def _lines(values: Mapping[str, Any], changed: set[str], prefix: str) -> Iterator[str]:
    """The YAML of the keys that were changed."""
    indent = "  " * prefix.count(".")
    for name, value in values.items():
        key = prefix + name
        if isinstance(value, dict):
            inner = list(_lines(value, changed, f"{key}."))
            if inner:
                yield f"{indent}{name}:"
                yield from inner
        elif key in changed or (value is None and any(c.startswith(f"{key}.") for c in changed)):
            yield f"{indent}{name}: {as_scalar(value)}"
