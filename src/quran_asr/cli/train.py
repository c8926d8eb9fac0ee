"""`quran-asr train` and `quran-asr tokenizer`: start or resume a training."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from quran_asr.cli.options import need
from quran_asr.cli.output import echo, print_finding, print_findings, print_json
from quran_asr.cli.training_setup import (
    StartOptions,
    describe_data,
    load,
    open_start,
    select_clips,
    start_from_checkpoint,
    train_preflight,
)
from quran_asr.errors import Finding, QuranAsrError, counted

if TYPE_CHECKING:
    from quran_asr.config.schema import Recipe
    from quran_asr.corpus.manifest import Moved
    from quran_asr.experiments.run_folder import RunFolder
    from quran_asr.experiments.training_clips import Selection
    from quran_asr.training.distributed import Ranks
    from quran_asr.training.trainer import Trained


@dataclass(frozen=True, slots=True)
class Resumption:
    """A run to resume."""

    run: RunFolder
    recipe: Recipe
    checkpoint: Path | None
    """None: it was stopped before its first checkpoint, and begins again in its folder."""
    chosen: frozenset[str]
    """Keys that this command line gives."""
    moved: Moved = ()
    """Folders in which its data lay, and where they are now."""


def resumption(
    folder: Path, overrides: Sequence[str], *, checkpoint: Path | None, best: bool, moved: Moved = ()
) -> Resumption:
    """Open a run to resume; overrides win over its recipe.

    Args:
        folder: the run.
        overrides: as on the command line.
        checkpoint: a `.ckpt` of the run; None takes the last.
        best: take the one with the lowest `val_wer` instead.
        moved: folders in which its data lay, and where they are now.

    Raises:
        QuranAsrError: no run, no such checkpoint, or a change that the run cannot take.
    """
    from quran_asr.config.overrides import parse_override
    from quran_asr.config.recipe import load_recipe
    from quran_asr.config.recipe_changes import changes, refuse_impossible
    from quran_asr.experiments.checkpoints import best_of, newest_whole, saved_in
    from quran_asr.experiments.run_folder import open_run, rank_of

    run = open_run(folder)
    if run.recipe_is_cut_off():
        print_finding(
            Finding(
                "warning",
                "recipe-cut-off",
                str(run.recipe),
                "the end of the run's recipe is missing: its last keys have their defaults",
                "copy `recipe.yaml` again, or give the missing keys on the command line",
            )
        )
    before = with_absolute_paths(load_recipe(run.recipe), moved)
    recipe = with_absolute_paths(load_recipe(run.recipe, overrides), moved)
    recipe = replace(recipe, exp_manager=replace(recipe.exp_manager, resume_from_checkpoint=None))
    changed = changes(before, recipe)
    refuse_impossible(changed)
    if best:
        files = saved_in(run)
        saved = best_of(files, suffix=".ckpt")
        checkpoint = None if saved is None else saved.path
        if checkpoint is None:
            raise QuranAsrError(
                "the run has no validated checkpoint",
                where=str(folder),
                remedy="resume from its last: --resume",
            )
        for one in files:
            if one.torn and one.ranked and not one.is_nemo and rank_of(one.path) < rank_of(checkpoint):
                print_finding(
                    Finding(
                        "warning",
                        "torn-checkpoint",
                        str(one.path),
                        f"{one.torn}; the run continues from {checkpoint}, the best whole checkpoint",
                        "copy the file again if there is a whole one elsewhere",
                    )
                )
    elif checkpoint is None:
        checkpoint, damage = newest_whole(run)
        if damage is not None:
            print_finding(
                Finding(
                    "warning",
                    "torn-checkpoint",
                    str(run.last_checkpoint()),
                    f"{damage}; the run continues from {checkpoint}, the newest whole checkpoint",
                    "steps after it are trained again",
                )
            )
    chosen = frozenset(parse_override(word).key for word in overrides)
    made, limit = made_of_limit(recipe, checkpoint)
    if "trainer.max_steps" in chosen and made is not None and made >= limit:
        raise QuranAsrError(
            f"the run has made {counted(made, 'step')} already",
            where=f"trainer.max_steps={limit}",
            remedy=f"give a number above {made}",
        )
    for change in changed:
        echo(f"override {change}", err=True)
    return Resumption(run, recipe, checkpoint, chosen, moved)


def with_absolute_paths(recipe: Recipe, moved: Moved = ()) -> Recipe:
    """The recipe with manifests, and a start from a file, that are found from any working folder."""
    from quran_asr.corpus.manifest import moved_path
    from quran_asr.experiments.planning.starting_point import IN_PACKAGE

    def absolute(path: str) -> str:
        return moved_path(os.path.abspath(path), moved)  # noqa: PTH100 - `..` through links stays

    def absolutes(manifests: tuple[str, ...]) -> str | tuple[str, ...] | None:
        found = tuple(map(absolute, manifests))
        return found[0] if len(found) == 1 else found or None

    model = recipe.model
    training = replace(model.train_ds, manifest_filepath=absolutes(model.train_ds.manifests))
    validation = replace(model.validation_ds, manifest_filepath=absolutes(model.validation_ds.manifests))
    start = recipe.init_from_pretrained_model
    if start not in (None, IN_PACKAGE) and Path(absolute(start)).exists():
        start = absolute(start)
    return replace(
        recipe,
        model=replace(model, train_ds=training, validation_ds=validation),
        init_from_pretrained_model=start,
    )


def made_of_limit(recipe: Recipe, checkpoint: Path | None) -> tuple[int | None, int]:
    """(steps that a checkpoint has made, `trainer.max_steps`); None where no limit of steps can be reached.

    A limit of epochs is left to the training: how many steps an epoch has is known with its data alone.
    """
    from quran_asr.experiments.checkpoints import steps_made

    limit = recipe.trainer.max_steps
    return (steps_made(checkpoint) if checkpoint is not None and limit > 0 else None), limit


def has_ended(resumed: Resumption, as_json: bool) -> bool:
    """Whether a run has nothing left to do, which is reported: no model is loaded for it.

    One whose last validation is missing still has that to do.
    """
    made, limit = made_of_limit(resumed.recipe, resumed.checkpoint)
    if made is None or made < limit or resumed.checkpoint != resumed.run.last_checkpoint():
        return False
    validations = [row for row in resumed.run.read_metrics() if row["split"] == "validation"]
    if not any(row["step"] == made for row in validations) or _average_is_due(resumed, made):
        return False
    echo(
        f"the run has made its {counted(made, 'step')} already; to continue, raise trainer.max_steps=N"
        + (
            " (and trainer.max_epochs=N, which also ends it)" if resumed.recipe.trainer.max_epochs > 0 else ""
        ),
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


def recipe_to_resume(resumed: Resumption, ranks: int) -> Recipe:
    """Put the run's files back to where its checkpoint stands, and keep its effective batch.

    Args:
        resumed: the run to resume.
        ranks: processes that train now.

    Returns:
        The recipe with which it continues; it is the run's own from here on.

    Raises:
        QuranAsrError: the checkpoint cannot be read.
    """
    from quran_asr.training.checkpoints import checkpoint_facts

    run, recipe = resumed.run, resumed.recipe
    step = 0
    if resumed.checkpoint is None:
        echo("the run has no checkpoint yet: it starts over, in the same folder", err=True)
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
        echo(f"resuming after step {step:,} from {resumed.checkpoint}", err=True)
    run.replace_recipe(recipe, step)
    return recipe


def keep_effective_batch(recipe: Recipe, before: int, now: int) -> Recipe:
    """The recipe with the accumulation (and batch size, if need be) that keeps the clips behind a step."""
    from quran_asr.experiments.planning.plan import divide_batch

    data, trainer = recipe.model.train_ds, recipe.trainer
    behind_a_step = data.batch_size * trainer.accumulate_grad_batches * before
    accumulation, clips = divide_batch(behind_a_step, data.batch_size, now)
    return replace(
        recipe,
        trainer=replace(trainer, accumulate_grad_batches=accumulation),
        model=replace(recipe.model, train_ds=replace(data, batch_size=clips)),
    )


def other_processes(before: int, now: int, effective_batch: int, recipe: Recipe) -> Finding:
    """What is kept and what is not when a run is resumed with more or fewer processes."""
    accumulation, clips = recipe.trainer.accumulate_grad_batches, recipe.model.train_ds.batch_size
    reached = accumulation * clips * now
    keeps = "is kept" if reached == effective_batch else f"becomes {reached}"
    return Finding(
        "note",
        "other-processes",
        "trainer.devices",
        f"the run had {_processes(before)} and now has {_processes(now)}: its effective batch of "
        f"{effective_batch} {keeps} (trainer.accumulate_grad_batches={accumulation} "
        f"model.train_ds.batch_size={clips}), and each epoch still contains every clip once; the order of "
        "the clips and random draws (dropout, masks, look-aheads) differ from an uninterrupted run",
        "",
    )


def _processes(number: int) -> str:
    return "1 process" if number == 1 else f"{number} processes"


@click.command(
    epilog="Example: quran-asr train compact --train data/train.jsonl --validation data/validation.jsonl"
)
@click.argument("words", nargs=-1, metavar="[RECIPE] [KEY=VALUE]...")
@click.option(
    "--train",
    "training",
    multiple=True,
    type=click.Path(),
    metavar="MANIFEST",
    help="Training manifest. May be repeated.",
)
@click.option(
    "--validation",
    multiple=True,
    type=click.Path(),
    metavar="MANIFEST",
    help="Validation manifest; its WER chooses checkpoints. May be repeated.",
)
@click.option(
    "--resume",
    type=click.Path(path_type=Path),
    metavar="RUN",
    help="Resume this run from its last checkpoint (without RECIPE).",
)
@click.option(
    "--resume-best",
    is_flag=False,
    flag_value="",
    metavar="[RUN]",
    help="Resume from the checkpoint with the lowest validation WER.",
)
@click.option(
    "--data-root",
    "roots",
    multiple=True,
    metavar="OLD=NEW",
    help="With --resume: manifests and recordings of the folder OLD are now in NEW. May be repeated.",
)
@click.option(
    "--allow-partial",
    is_flag=True,
    help="Start even if less than 90 % of the encoder is loaded from the pretrained model.",
)
@click.option(
    "--fit-memory",
    is_flag=True,
    help="Find the largest batch that fits in memory; accumulation keeps the effective batch size.",
)
@click.option("--no-preflight", is_flag=True, help="Skip the checks of `quran-asr check`.")
@click.option("--json", "as_json", is_flag=True, help="Print the outcome as JSON.")
def train(
    words: tuple[str, ...],
    training: tuple[str, ...],
    validation: tuple[str, ...],
    resume: Path | None,
    resume_best: str | None,
    roots: tuple[str, ...],
    allow_partial: bool,
    fit_memory: bool,
    no_preflight: bool,
    as_json: bool,
) -> int:
    """Train a model. RECIPE is a name of `quran-asr recipe list` or a file; default: transfer.

    Ctrl-C stops after the current step; --resume continues the run. Each GPU (trainer.devices) gets a
    process; torchrun and srun start them on several machines.
    """
    need("train")
    from quran_asr.config.overrides import split_words

    if resume_best and resume is not None:  # the run was named by --resume: this word is an override
        words, resume_best = (*words, resume_best), ""
    name, overrides = split_words(words, default="")
    for key, manifests in (("train_ds", training), ("validation_ds", validation)):
        if manifests:  # JSON is YAML too, and holds any path
            overrides.append(f"model.{key}.manifest_filepath={json.dumps(manifests)}")
    with silent_follower():
        resumed = run_to_resume(name, overrides, resume, resume_best, moved_folders(roots))
        if roots and resumed is None:
            raise QuranAsrError("--data-root needs a run to resume", remedy="name it: --resume RUN")
        if resumed is not None:
            if has_ended(resumed, as_json):
                return 0
            start_options = StartOptions(allow_partial, False, not no_preflight, fit_memory)
            return run_training(resumed.recipe, resumed, start_options, as_json)
        recipe = load(name or "transfer", overrides)
        keep_tokens = recipe.exp_manager.resume_from_checkpoint is not None
        start_options = StartOptions(allow_partial, keep_tokens, not no_preflight, fit_memory)
        return run_training(start_from_checkpoint(recipe), None, start_options, as_json)


def moved_folders(roots: Sequence[str]) -> list[tuple[str, str]]:
    """(old, new) absolute folders of `OLD=NEW`.

    Raises:
        QuranAsrError: one is not written so, or its new folder does not exist.
    """
    moved = []
    for root in roots:
        old, equals, new = root.partition("=")
        if not (old and equals and new):
            raise QuranAsrError("is not OLD=NEW", where=f"--data-root {root}", remedy="name two folders")
        if not Path(new).is_dir():
            raise QuranAsrError(
                "no such folder",
                where=f"--data-root {root}: {new}",
                remedy="name the folder that holds the recordings now, as NEW in OLD=NEW",
            )
        moved.append((os.path.abspath(old), os.path.abspath(new)))  # noqa: PTH100
    return moved


def run_to_resume(
    name: str, overrides: list[str], resume: Path | None, resume_best: str | None, moved: Moved
) -> Resumption | None:
    """The run that the command line asks to resume, if any.

    A `.ckpt` under `exp_manager.resume_from_checkpoint` names its run; the overrides beside it win.
    """

    folder = resume if not resume_best else Path(resume_best)
    if folder is not None:
        if name:
            raise QuranAsrError("--resume uses the recipe of the run", remedy=f"leave out `{name}`")
        return resumption(folder, overrides, checkpoint=None, best=resume_best is not None, moved=moved)
    if resume_best is not None:
        raise QuranAsrError("--resume-best needs a run", remedy="quran-asr train --resume-best RUN")
    given = load(name or "transfer", overrides).exp_manager.resume_from_checkpoint
    if given is None or not given.endswith(".ckpt"):
        return None
    checkpoint = Path(given)
    if not checkpoint.is_file():
        raise QuranAsrError(
            "no such checkpoint",
            where=given,
            remedy="name a .ckpt of a run; `quran-asr checkpoints list RUN` lists them",
        )
    if not zipfile.is_zipfile(checkpoint):
        raise QuranAsrError("is not a checkpoint, or is truncated", where=given, remedy="name a whole .ckpt")
    if name:
        echo(f"the run of {given} is resumed with its own recipe, not `{name}`", err=True)
    run = checkpoint.absolute().parent.parent
    return resumption(run, overrides, checkpoint=checkpoint, best=False, moved=moved)


def run_training(
    recipe: Recipe, resumed: Resumption | None, start_options: StartOptions, as_json: bool
) -> int:
    """Check everything, gather the processes, make or open the run folder, and train.

    A run that is resumed was checked when it began.
    """
    fresh = resumed is None or resumed.checkpoint is None
    name = recipe.init_from_pretrained_model
    if fresh and name is not None and not is_follower():
        from quran_asr.training.pretrained import refuse_impossible_start

        refuse_impossible_start(name)
    chosen = clips_of(recipe, resumed)
    echo(describe_data(recipe, *chosen), err=True)
    with contextlib.ExitStack() as until_the_end:
        look = None
        if fresh and start_options.preflight and not is_follower():
            look = until_the_end.enter_context(train_preflight(recipe, start_options, chosen))
        well = look is None or look.light()
        if not well and not is_launched():
            return 1
        from quran_asr.cli.output import training_progress
        from quran_asr.training.distributed import joined

        trainer = recipe.trainer
        ranks = until_the_end.enter_context(joined(trainer.devices, trainer.num_nodes, trainer.accelerator))
        if look is not None and well:
            well = look.heavy()
        if not ranks.from_first(well):
            return 1
        from quran_asr.training.memory import MemoryBudget
        from quran_asr.training.trainer import train as train_recipe

        start = None
        if ranks.rank == 0 and fresh:
            start = look.from_train.started() if look is not None else open_start(recipe, start_options)
        run, recipe = until_the_end.enter_context(run_folder(recipe, resumed, ranks))
        echo(f"run folder {run.path}", err=True)
        if look is not None:
            look.tokenizer_for(run)
        with training_progress() as watcher:
            ended = train_recipe(
                recipe,
                run,
                chosen[0].kept,
                chosen[1].kept,
                watcher=watcher,
                on_finding=print_finding,
                resume=None if resumed is None else resumed.checkpoint,
                ranks=ranks,
                start=start,
                memory=MemoryBudget() if start_options.fit_memory else None,
            )
    return report_end(ended, as_json)


def clips_of(recipe: Recipe, resumed: Resumption | None) -> tuple[Selection, Selection]:
    """As `select_clips`; where a resumed run does not find its data, the hint says how to name the place."""
    try:
        return select_clips(recipe, () if resumed is None else resumed.moved)
    except QuranAsrError as error:
        if resumed is None or not error.what.startswith(("no such manifest", "no recording")):
            raise
        remedy = "if the data has moved: --data-root OLD=NEW names the folder where it was and where it is"
        raise QuranAsrError(error.what, where=error.where, remedy=remedy) from error


@contextlib.contextmanager
def run_folder(
    recipe: Recipe, resumed: Resumption | None, ranks: Ranks
) -> Iterator[tuple[RunFolder, Recipe]]:
    """The run's folder, held by the first process, and the recipe with which all of them train.

    A new folder goes again if an error comes before the first line of its `metrics.jsonl`.
    """
    from quran_asr.experiments.planning.plan import device_findings

    run = None if resumed is None else resumed.run
    with contextlib.ExitStack() as held:
        if ranks.rank == 0:
            if run is None:
                print_findings(device_findings(recipe, max(1, ranks.size // recipe.trainer.num_nodes)))
                run = begin(recipe)
            held.enter_context(run.held())
            if resumed is not None:
                recipe = recipe_to_resume(resumed, ranks.size)
        run, recipe = ranks.from_first((run, recipe))
        try:
            yield run, recipe
        except QuranAsrError:
            if resumed is None and ranks.rank == 0 and not run.metrics.exists():
                shutil.rmtree(run.path)
            raise


def begin(recipe: Recipe) -> RunFolder:
    """A new run's folder with its recipe."""
    from quran_asr.experiments.run_folder import create_run

    run = create_run(recipe.exp_manager.exp_dir, recipe.name)
    run.write_recipe(with_absolute_paths(recipe))
    return run


def is_launched() -> bool:
    """Whether torchrun or SLURM started this process as one of several."""
    return "WORLD_SIZE" in os.environ or int(os.environ.get("SLURM_NTASKS", "1")) > 1


def is_follower() -> bool:
    """Whether this process is one of several, and not the first."""
    torchrun = "WORLD_SIZE" in os.environ and int(os.environ.get("RANK", "0")) > 0
    return torchrun or int(os.environ.get("SLURM_PROCID", "0")) > 0


@contextlib.contextmanager
def silent_follower() -> Iterator[None]:
    """Only the first of several processes reports; what ends another is still reported when it ends."""
    if not is_follower():
        yield
        return
    with (
        Path(os.devnull).open("w") as nothing,
        contextlib.redirect_stdout(nothing),
        contextlib.redirect_stderr(nothing),
    ):
        yield


@click.command(epilog="Example: quran-asr tokenizer transfer --to tokenizers/diacritized-1024")
@click.argument("words", nargs=-1, metavar="[RECIPE] [KEY=VALUE]...")
@click.option(
    "--to", "folder", required=True, type=click.Path(path_type=Path), metavar="FOLDER", help="Output folder."
)
def tokenizer(words: tuple[str, ...], folder: Path) -> int:
    """Train the BPE tokenizer of a recipe on all 6,236 verses, and verify that it reproduces each."""
    need("train")
    from quran_asr.config.overrides import split_words
    from quran_asr.config.recipe import load_recipe

    name, overrides = split_words(words, default="transfer")
    recipe = load_recipe(name, overrides)

    from quran_asr.training.tokenizer import train_tokenizer

    made = train_tokenizer(recipe.quran.spelling, recipe.quran.vocabulary_size, folder)
    echo(f"{folder}: {made.size} tokens, spelling {recipe.quran.spelling}, every verse reproduced")
    return 0


def report_end(ended: Trained, as_json: bool) -> int:
    """Report how a training ended; 130 if interrupted, 1 if a diagnosis of `quran.stop_on` ended it."""
    from quran_asr.experiments.run_folder import average_of, rate_of

    best = ended.run.best_nemo()
    if as_json:
        print_json(
            {
                "run": str(ended.run.path),
                "interrupted": ended.interrupted,
                "stopped_by": None if ended.stopped_by is None else ended.stopped_by.code,
                "steps": ended.steps,
                "seconds": round(ended.seconds, 1),
                "val_wer": ended.best_wer,
                "best": None if best is None else str(best),
            }
        )
    elif ended.stopped_by is not None:
        echo(
            f"stopped after {ended.steps:,} steps by `{ended.stopped_by.code}` (quran.stop_on); diagnose it "
            f"with: quran-asr watch {ended.run.path}; "
            f"continue with: quran-asr train --resume {ended.run.path}",
            err=True,
        )
    elif ended.interrupted:
        echo(
            f"interrupted after {ended.steps:,} steps; "
            f"continue with: quran-asr train --resume {ended.run.path}",
            err=True,
        )
    else:
        echo(f"{ended.steps:,} steps in {ended.seconds / 60:.1f} minutes", err=True)
        if best is None or ended.best_wer is None:
            echo(
                "there was no validation, so there is no best model: validate more often with "
                "trainer.val_check_interval, or train longer",
                err=True,
            )
        elif average_of(best) is not None and (rate_of(best) or 0.0) < round(ended.best_wer, 4):
            echo(f"best validation WER {ended.best_wer:.4f}; the best model is still {best}")
        else:
            echo(f"best validation WER {ended.best_wer:.4f}: {best}")
    sys.stdout.flush()
    if ended.stopped_by is not None:
        return 1
    return 130 if ended.interrupted else 0
