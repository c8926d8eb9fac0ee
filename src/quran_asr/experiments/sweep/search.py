"""A sweep: trainings of one recipe with other values, chosen and pruned by Optuna.

Everything that a second call needs to continue is in the folder: the request (`sweep.json`), the recipe of
then (`sweep-recipe.yaml`), Optuna's journal (`study.journal`), and a folder for each trial. A trial counts
once its end stands in the journal; one that was under way is resumed.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quran_asr.config.recipe import as_yaml, load_recipe
from quran_asr.config.recipe_changes import changes
from quran_asr.errors import Finding, QuranAsrError
from quran_asr.experiments.sweep.space import Axis, Value, ValueList, combinations, grid, words_of
from quran_asr.experiments.trials import Trial, TrialOutcome, run_trials, working_in
from quran_asr.files import parse_json, refuse_foreign, write_atomically, write_json

if TYPE_CHECKING:
    import optuna

FIRST_UNPRUNED = 3
"""Trials that are left to their end whatever they do: there is no median before."""
UNPRUNED_SHARE = 0.25
"""Of a trial's steps, before which none is ended: early results mean little."""
MOST_DRAWS = 50
"""Times that the sampler may come to a trial that was made already; then there is nothing new to try."""


@dataclass(frozen=True, slots=True)
class Sweep:
    """What is asked of a sweep."""

    recipe: str
    """A shipped name, or the absolute path of a file."""
    overrides: tuple[str, ...]
    """For every trial, manifests included."""
    axes: tuple[Axis, ...]
    trials: int
    seed: int
    prune: bool
    steps: int | None
    """Optimizer steps of a trial; None where that is not known."""

    @property
    def is_grid(self) -> bool:
        """Every combination is tried, because there are not more than trials."""
        size = combinations(self.axes)
        return size is not None and size <= self.trials

    @property
    def number(self) -> int:
        """Trials that are to be made."""
        return (combinations(self.axes) or 0) if self.is_grid else self.trials


Report = Callable[[Finding], None]
OnTrial = Callable[[int, int, int, Mapping[str, Value], float | None], None]
"""Called with (trials done, trials, number of the trial at hand, its values, its last WER)."""


OnWait = Callable[[int], None]
"""Called with the number of the trial at hand, twice a second while it trains."""


def run_sweep(
    sweep: Sweep, folder: Path, on_trial: OnTrial, report: Report, on_wait: OnWait = lambda number: None
) -> None:
    """Make the trials that the folder's journal lacks.

    Raises:
        QuranAsrError: the folder holds another sweep, another call works there, or no trial begins.
        KeyboardInterrupt: asked to stop; the trial at hand is resumed by the next call.
    """
    refuse_foreign(folder, ("sweep.json", "sweep-recipe.yaml", "study.journal", ".lock"), "sweep")
    with working_in(folder):
        _keep_request(sweep, folder)
        _repair_journal(folder / "study.journal")
        study = open_study(sweep, folder)
        _enqueue(sweep, study)
        failed = 0
        while (trial := _next(sweep, study, failed)) is not None:
            ended = _train(sweep, folder, study, trial, on_trial, on_wait)
            failed += not _record(study, trial, ended, str(log_of(folder, trial.number)), report)


def trial_folder(folder: Path, number: int) -> Path:
    """Where a trial lies; numbers begin at 0."""
    return folder / "trials" / f"{number:04d}"


def log_of(folder: Path, number: int) -> Path:
    """The result of a trial's training."""
    return Trial(trial_folder(folder, number)).log


# What was asked


def _keep_request(sweep: Sweep, folder: Path) -> None:
    """Keep what is asked beside the trials, or find that it is what they were made for.

    Raises:
        QuranAsrError: they were made for something else.
    """
    recipe = load_recipe(sweep.recipe, sweep.overrides)
    asked = {
        "recipe": sweep.recipe,
        "overrides": list(sweep.overrides),
        "keys": {axis.key: _axis_as_json(axis) for axis in sweep.axes},
        "seed": sweep.seed,
    }
    kept, place = folder / "sweep-recipe.yaml", folder / "sweep.json"
    if place.is_file() and kept.is_file():
        try:
            before = parse_json(place.read_text(encoding="utf-8"))
        except ValueError:
            raise QuranAsrError("is not JSON", where=str(place), remedy="another --to FOLDER") from None
        recipe_then = load_recipe(kept)
        what = [f"`{key}` is another" for key in ("recipe", "keys", "seed") if before.get(key) != asked[key]]
        what += map(str, changes(recipe_then, recipe))
        if what or recipe_then != recipe:
            why = "; ".join(what[:3]) or "its recipe is another"
            raise QuranAsrError(
                f"holds another sweep: {why}", where=str(folder), remedy="another --to FOLDER"
            )
    text = "# The recipe that all trials have in common.\nbase: base\n" + as_yaml(recipe)
    write_atomically(kept, text.encode())
    asked |= {"trials": sweep.trials, "prune": sweep.prune}
    write_json(place, asked)


def _axis_as_json(axis: Axis) -> dict[str, Any]:
    return {key: list(v) if isinstance(v, tuple) else v for key, v in asdict(axis).items() if key != "key"}


# Optuna


def open_study(sweep: Sweep, folder: Path) -> optuna.Study:
    """The study in a folder's journal, made if there is none."""
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    pruner = optuna.pruners.NopPruner()
    if sweep.prune:
        pruner = optuna.pruners.MedianPruner(
            n_startup_trials=FIRST_UNPRUNED, n_warmup_steps=int(UNPRUNED_SHARE * (sweep.steps or 0))
        )
    return optuna.create_study(
        storage=JournalStorage(JournalFileBackend(str(folder / "study.journal"))),
        study_name="sweep",
        direction="minimize",
        pruner=pruner,
        load_if_exists=True,
    )


def _repair_journal(journal: Path) -> None:
    """After a kill or a full disk: take away a torn last line and a lock, while ours keeps others out."""
    journal.with_name(f"{journal.name}.lock").unlink(missing_ok=True)
    if not journal.is_file():
        return
    whole = journal.read_bytes()
    end = whole.rfind(b"\n") + 1
    if end < len(whole):
        write_atomically(journal, whole[:end])


def _distributions(sweep: Sweep) -> dict[str, Any]:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    found: dict[str, Any] = {}
    for axis in sweep.axes:
        if isinstance(axis, ValueList):
            found[axis.key] = CategoricalDistribution(axis.values)
        elif axis.whole:
            found[axis.key] = IntDistribution(int(axis.low), int(axis.high), log=axis.log)
        else:
            found[axis.key] = FloatDistribution(axis.low, axis.high, log=axis.log)
    return found


def _enqueue(sweep: Sweep, study: optuna.Study) -> None:
    """Let wait what is still to be made and known already: a grid's combinations, and trials that failed."""
    from optuna.trial import TrialState

    for frozen in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        if not _is_drawn(sweep, frozen):
            study.tell(frozen.number, state=TrialState.FAIL)
    known = study.get_trials(deepcopy=False)
    taken = [_values(trial) for trial in known if trial.state != TrialState.FAIL]
    failed = [_values(t) for t in known if "failed" in t.user_attrs]
    for values in [*failed, *(grid(sweep.axes) if sweep.is_grid else ())]:
        if values not in taken:
            taken.append(values)
            study.enqueue_trial(values)


def _values(trial: optuna.trial.FrozenTrial) -> dict[str, Value]:
    """Of one that waits too."""
    return dict(trial.system_attrs.get("fixed_params") or trial.params)


def _is_drawn(sweep: Sweep, trial: optuna.trial.FrozenTrial) -> bool:
    """Whether all values of a trial stand in the journal: a kill may come between them."""
    return set(trial.params) == {axis.key for axis in sweep.axes}


def _next(sweep: Sweep, study: optuna.Study, failed: int) -> optuna.Trial | None:
    """The trial that is under way, the next that waits, or a new one; None when all are made.

    `failed`: trials of this call that failed; they are made again by the next.
    """
    import optuna
    from optuna.trial import TrialState

    for frozen in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        return optuna.Trial(study, frozen._trial_id)
    for draw in range(MOST_DRAWS):
        known = study.get_trials(deepcopy=False)
        made = [t for t in known if t.state in (TrialState.COMPLETE, TrialState.PRUNED)]
        waiting = any(t.state == TrialState.WAITING for t in known)
        if not waiting and (sweep.is_grid or len(made) + failed >= sweep.trials):
            return None
        # The n-th trial is drawn alike whether the sweep was stopped before it or not.
        seed = sweep.seed * 1_000_003 + len(known)
        study.sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=max(4, sweep.trials // 3))
        if draw:  # the sampler would insist
            study.sampler = optuna.samplers.RandomSampler(seed=seed)
        trial = study.ask(_distributions(sweep))
        twin = next((t for t in made if t.params == trial.params), None)
        if twin is None:
            return trial
        trial.set_user_attr("same_as", twin.number)
        study.tell(trial, state=TrialState.FAIL)
        if combinations(sweep.axes) is not None:
            left = [values for values in grid(sweep.axes) if values not in map(_values, known)]
            if not left:
                return None
            study.enqueue_trial(random.Random(seed).choice(left))
    return None


# A trial


def _train(
    sweep: Sweep,
    folder: Path,
    study: optuna.Study,
    trial: optuna.Trial,
    on_trial: OnTrial,
    on_wait: OnWait,
) -> TrialOutcome:
    """Train one trial until it ends or is pruned."""
    from optuna.trial import TrialState

    values = dict(trial.params)
    place = trial_folder(folder, trial.number)
    done = len(study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED)))
    reported = set(study.trials[trial.number].intermediate_values)

    def judge(_: Trial, step: int, wer: float) -> bool:
        if step not in reported:
            trial.report(wer, step)
            reported.add(step)
        on_trial(done, sweep.number, trial.number, values, wer)
        return bool(trial.should_prune())

    on_trial(done, sweep.number, trial.number, values, None)
    words = [
        sweep.recipe,
        *sweep.overrides,
        *words_of(values),
        f"exp_manager.exp_dir={json.dumps(str(place))}",
    ]
    ends: list[TrialOutcome] = []
    try:
        load_recipe(words[0], words[1:])
        run_trials(
            [Trial(place)],
            lambda _: words,
            lambda _, ended: ends.append(ended),
            judge=judge,
            on_look=lambda _: on_wait(trial.number),
        )
    except QuranAsrError as error:
        return TrialOutcome(2, None, None, error.what)
    return ends[0]


def _record(study: optuna.Study, trial: optuna.Trial, ended: TrialOutcome, log: str, report: Report) -> bool:
    """Write the end of a trial into the journal; False where it failed."""
    from optuna.trial import TrialState

    result = ended.result or {}
    if ended.pruned_at is not None:
        trial.set_user_attr("pruned_at", ended.pruned_at)
        study.tell(trial, state=TrialState.PRUNED)
        return True
    if result.get("interrupted"):
        raise QuranAsrError(
            f"trial {trial.number} was ended by another process",
            where=log,
            remedy="the same command continues",
        )
    if ended.code == 0 and result.get("val_wer") is not None:
        study.tell(trial, result["val_wer"])
        return True
    if result.get("stopped_by"):  # its value until then informs the sampler
        trial.set_user_attr("stopped_by", result["stopped_by"])
        study.tell(trial, state=TrialState.PRUNED)
        return True
    error = ended.error or "it made no validation"
    trial.set_user_attr("failed", error)
    study.tell(trial, state=TrialState.FAIL)
    if not study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED)):
        raise QuranAsrError(
            f"the first trial failed: {error}", where=log, remedy="fix that; the same command continues"
        )
    report(Finding("warning", "failed-trial", log, f"trial {trial.number} failed: {error}", ""))
    return False
