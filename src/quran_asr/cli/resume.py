"""`quran-asr train --resume`: which run goes on, from where, and what changes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from quran_asr.cli.printing import echo, print_finding, print_json
from quran_asr.findings import Finding, QuranAsrError, counted

if TYPE_CHECKING:
    from quran_asr.runs.folder import RunFolder
    from quran_asr.runs.schema import Recipe


@dataclass(frozen=True, slots=True)
class Resumption:
    """A run that goes on."""

    run: RunFolder
    recipe: Recipe
    checkpoint: Path | None
    """None: it was stopped before its first checkpoint, and begins again in its folder."""
    chosen: frozenset[str]
    """Keys that this command line gives."""


def resumption(folder: Path, overrides: Sequence[str], *, checkpoint: Path | None, best: bool) -> Resumption:
    """Open a run to go on with; overrides win over its recipe.

    Args:
        folder: the run.
        overrides: as on the command line.
        checkpoint: a `.ckpt` of the run; None takes the last.
        best: take the one with the lowest `val_wer` instead.

    Raises:
        QuranAsrError: no run, no such checkpoint, or a change that the run cannot take.
    """
    from quran_asr.runs.folder import open_run
    from quran_asr.runs.overrides import parse_override
    from quran_asr.runs.recipe import load_recipe
    from quran_asr.runs.resume import changes, refuse_impossible

    run = open_run(folder)
    before = load_recipe(run.recipe)
    recipe = load_recipe(run.recipe, overrides)
    recipe = replace(recipe, exp_manager=replace(recipe.exp_manager, resume_from_checkpoint=None))
    changed = changes(before, recipe)
    refuse_impossible(changed)
    if best:
        checkpoint = run.best_checkpoint()
        if checkpoint is None:
            raise QuranAsrError(
                "the run has no validated checkpoint",
                where=str(folder),
                remedy="go on from its last: --resume",
            )
    elif checkpoint is None:
        checkpoint = run.last_checkpoint()
    chosen = frozenset(parse_override(word).key for word in overrides)
    made, limit = made_of_limit(recipe, checkpoint)
    if "trainer.max_steps" in chosen and made is not None and made >= limit:
        raise QuranAsrError(
            f"the run has made {counted(made, 'step')} already",
            where=f"trainer.max_steps={limit}",
            remedy=f"a number over {made}",
        )
    for change in changed:
        echo(f"override {change}", err=True)
    return Resumption(run, recipe, checkpoint, chosen)


def made_of_limit(recipe: Recipe, checkpoint: Path | None) -> tuple[int | None, int]:
    """(steps that a checkpoint has made, `trainer.max_steps`); None where no limit of steps can be reached.

    A limit of epochs is left to the training: how many steps an epoch has is known with its data alone.
    """
    from quran_asr.runs.checkpoints import steps_made

    limit = recipe.trainer.max_steps
    return (steps_made(checkpoint) if checkpoint is not None and limit > 0 else None), limit


def has_ended(resumed: Resumption, as_json: bool) -> bool:
    """Whether a run has nothing left to do, which is said: no model is loaded for it.

    One whose last validation is missing still has that to do.
    """
    made, limit = made_of_limit(resumed.recipe, resumed.checkpoint)
    if made is None or made < limit or resumed.checkpoint != resumed.run.last_checkpoint():
        return False
    validations = [row for row in resumed.run.read_metrics() if row["split"] == "validation"]
    if not any(row["step"] == made for row in validations) or _average_is_due(resumed, made):
        return False
    echo(
        f"the run has made its {counted(made, 'step')} already; to go on, give trainer.max_steps=N with more"
        + (" (and trainer.max_epochs=N, which ends it too)" if resumed.recipe.trainer.max_epochs > 0 else ""),
        err=True,
    )
    if as_json:
        best = resumed.run.best_nemo()
        rates = [row["wer"] for row in validations if row["wer"] is not None]
        print_json(
            {
                "run": str(resumed.run.path),
                "interrupted": False,
                "stopped_by": None,
                "steps": made,
                "seconds": 0.0,
                "val_wer": min(rates, default=None),
                "best": None if best is None else str(best),
            }
        )
    return True


def _average_is_due(resumed: Resumption, made: int) -> bool:
    """Whether the run was stopped between its last validation and its average."""
    if not resumed.recipe.quran.average:
        return False
    try:
        return bool(resumed.run.read_json("average.json").get("step") != made)
    except QuranAsrError:
        return True


def go_on_from(resumed: Resumption, ranks: int) -> Recipe:
    """Put the run's files back to where its checkpoint stands, and keep its effective batch.

    Args:
        resumed: what goes on.
        ranks: processes that train now.

    Returns:
        The recipe with which it goes on; it is the run's own from here on.

    Raises:
        QuranAsrError: the checkpoint cannot be read.
    """
    from quran_asr.train.checkpoints import checkpoint_facts

    run, recipe = resumed.run, resumed.recipe
    step = 0
    if resumed.checkpoint is None:
        echo("the run has no checkpoint yet: it begins again, in the same folder", err=True)
        run.rewind_metrics(0, validated=False)
    else:
        facts = checkpoint_facts(resumed.checkpoint)
        step = facts.step
        given = {"trainer.accumulate_grad_batches", "model.train_ds.batch_size"} & resumed.chosen
        if facts.ranks != ranks:
            if not given:
                recipe = keep_effective_batch(recipe, facts.ranks, ranks)
            print_finding(other_processes(facts.ranks, ranks, facts.effective_batch, recipe))
        run.rewind_metrics(step, validated=facts.validated)
        echo(f"going on after step {step:,} from {resumed.checkpoint}", err=True)
    run.replace_recipe(recipe, step)
    return recipe


def keep_effective_batch(recipe: Recipe, before: int, now: int) -> Recipe:
    """The recipe with the accumulation (and batch size, if need be) that keeps the clips behind a step."""
    from quran_asr.runs.planning.plan import keep_effective_batch as fit

    nodes = recipe.trainer.num_nodes
    then = replace(recipe, trainer=replace(recipe.trainer, devices=before, num_nodes=1))
    accumulation, clips = fit(then, now)
    return replace(
        recipe,
        trainer=replace(recipe.trainer, accumulate_grad_batches=accumulation, num_nodes=nodes),
        model=replace(recipe.model, train_ds=replace(recipe.model.train_ds, batch_size=clips)),
    )


def other_processes(before: int, now: int, effective_batch: int, recipe: Recipe) -> Finding:
    """What is kept and what is not when a run goes on with more or fewer processes."""
    accumulation, clips = recipe.trainer.accumulate_grad_batches, recipe.model.train_ds.batch_size
    reached = accumulation * clips * now
    keeps = "is kept" if reached == effective_batch else f"becomes {reached}"
    return Finding(
        "note",
        "other-processes",
        "trainer.devices",
        f"the run had {_processes(before)} and has {_processes(now)} now: its effective batch of "
        f"{effective_batch} {keeps} (trainer.accumulate_grad_batches={accumulation} "
        f"model.train_ds.batch_size={clips}), every clip still comes once in the epoch; the order of the "
        "clips and what is drawn (dropout, masks, look-aheads) are no longer those of an undisturbed run",
        "",
    )


def _processes(number: int) -> str:
    return "1 process" if number == 1 else f"{number} processes"
