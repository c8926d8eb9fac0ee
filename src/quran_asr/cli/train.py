"""`quran-asr train` and `quran-asr tokenizer`."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from quran_asr.cli.extras import need
from quran_asr.cli.printing import print_finding, print_findings, print_json, progress_bar
from quran_asr.findings import Finding, QuranAsrError

if TYPE_CHECKING:
    from quran_asr.cli.resume import Resumption
    from quran_asr.corpus.select import Selection
    from quran_asr.records import Segment
    from quran_asr.runs.folder import RunFolder
    from quran_asr.runs.schema import Recipe
    from quran_asr.train.loop import Trained


@click.command(
    epilog="Example: quran-asr train laptop --train data/train.jsonl --validation data/validation.jsonl"
)
@click.argument("words", nargs=-1, metavar="[RECIPE] [KEY=VALUE]...")
@click.option(
    "--train", "training", multiple=True, type=click.Path(), help="Manifest to train on; may be repeated."
)
@click.option("--validation", multiple=True, type=click.Path(), help="Manifest to choose checkpoints by.")
@click.option(
    "--resume", type=click.Path(path_type=Path), help="Go on with this run folder (no RECIPE then)."
)
@click.option(
    "--resume-best",
    is_flag=False,
    flag_value="",
    metavar="[RUN]",
    help="Like --resume, from the checkpoint with the lowest val_wer.",
)
@click.option("--json", "as_json", is_flag=True, help="Print how it ended as JSON.")
def train(
    words: tuple[str, ...],
    training: tuple[str, ...],
    validation: tuple[str, ...],
    resume: Path | None,
    resume_best: str | None,
    as_json: bool,
) -> int:
    """Train a recognizer. RECIPE is a name of `quran-asr recipe list` or a file; default: transfer.

    Ctrl-C ends the training after the current step and leaves a run that --resume continues. Several GPUs
    (trainer.devices) are used by as many processes; torchrun and srun start them on several machines.
    """
    need("train")
    from quran_asr.runs.overrides import split_words

    if resume_best and resume is not None:  # the run was named by --resume: this word is an override
        words, resume_best = (*words, resume_best), ""
    name, overrides = split_words(words, default="")
    for key, manifests in (("train_ds", training), ("validation_ds", validation)):
        if manifests:  # JSON is YAML too, and holds any path
            overrides.append(f"model.{key}.manifest_filepath={json.dumps(manifests)}")
    with silent_follower():
        resumed = what_goes_on(name, overrides, resume, resume_best)
        if resumed is not None:
            recipe = resumed.recipe
        else:
            recipe = start_from_checkpoint(load(name or "transfer", overrides))
        return run_training(recipe, resumed, as_json)


def what_goes_on(
    name: str, overrides: list[str], resume: Path | None, resume_best: str | None
) -> Resumption | None:
    """The run that the command line asks to go on with, if it does.

    A `.ckpt` under `exp_manager.resume_from_checkpoint` names its run; the overrides beside it win.
    """
    from quran_asr.cli.resume import resumption

    folder = resume if not resume_best else Path(resume_best)
    if folder is not None:
        if name:
            raise QuranAsrError("--resume takes the run's own recipe", remedy=f"leave out `{name}`")
        return resumption(folder, overrides, checkpoint=None, best=resume_best is not None)
    if resume_best is not None:
        raise QuranAsrError("--resume-best needs a run", remedy="quran-asr train --resume-best RUN")
    given = load(name or "transfer", overrides).exp_manager.resume_from_checkpoint
    if given is None or not given.endswith(".ckpt"):
        return None
    checkpoint = Path(given)
    if not checkpoint.is_file():
        raise QuranAsrError("no such checkpoint", where=given)
    if name:
        click.echo(f"the run of {given} goes on with its own recipe, not `{name}`", err=True)
    run = checkpoint.absolute().parent.parent
    return resumption(run, overrides, checkpoint=checkpoint, best=False)


def start_from_checkpoint(recipe: Recipe) -> Recipe:
    """`exp_manager.resume_from_checkpoint=FILE.nemo` starts a new run from those weights.

    Raises:
        QuranAsrError: it is neither a `.nemo` nor a `.ckpt`.
    """
    given = recipe.exp_manager.resume_from_checkpoint
    if given is None:
        return recipe
    if not given.endswith(".nemo"):
        raise QuranAsrError(
            "neither a .nemo nor a .ckpt", where=f"exp_manager.resume_from_checkpoint={given}", remedy=""
        )
    click.echo(
        f"a .nemo holds no optimizer: a new run starts from the weights of {given}, with a new optimizer and "
        "schedule (its run goes on where it was with `--resume RUN`)",
        err=True,
    )
    exp_manager = replace(recipe.exp_manager, resume_from_checkpoint=None)
    return replace(recipe, exp_manager=exp_manager, init_from_pretrained_model=given)


def run_training(recipe: Recipe, resumed: Resumption | None, as_json: bool) -> int:
    """Look at the data, gather the processes, make or open the run folder, and train."""
    refuse_what_is_not_built(recipe)
    chosen = select_clips(recipe)
    if resumed is None and print_findings(foresee(recipe, *chosen)):
        return 1
    click.echo(describe_data(*chosen), err=True)

    from quran_asr.cli.progress import training_progress
    from quran_asr.cli.resume import go_on_from
    from quran_asr.runs.plan import device_findings
    from quran_asr.train.loop import train as train_recipe
    from quran_asr.train.processes import joined

    trainer = recipe.trainer
    with joined(trainer.devices, trainer.num_nodes, trainer.accelerator) as ranks:
        first = ranks.rank == 0
        if resumed is None:
            if first:
                print_findings(device_findings(recipe, max(1, ranks.size // trainer.num_nodes)))
            run = begin(recipe) if first else None
        else:
            run = resumed.run
            if first:
                recipe = go_on_from(resumed, ranks.size)
        run, recipe = ranks.from_first((run, recipe))
        click.echo(f"run folder {run.path}", err=True)
        fresh = resumed is None or resumed.checkpoint is None
        try:
            if fresh and first:
                pass_gate(recipe, run, chosen[0].kept)
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
                )
        except QuranAsrError:
            if resumed is None and first and not run.metrics.exists():  # it never began: keep no folder
                shutil.rmtree(run.path)
            raise
    return report_end(ended, as_json)


def begin(recipe: Recipe) -> RunFolder:
    """A new run's folder with its recipe."""
    from quran_asr.runs.folder import create_run

    run = create_run(recipe.exp_manager.exp_dir, recipe.name)
    run.write_recipe(recipe)
    return run


def load(name: str, overrides: Sequence[str]) -> Recipe:
    """The recipe of that name or file under these overrides."""
    from quran_asr.runs.recipe import load_recipe

    return load_recipe(name, overrides)


@contextlib.contextmanager
def silent_follower() -> Iterator[None]:
    """Only the first of several processes speaks; what ends another is still said when it ends."""
    torchrun = "WORLD_SIZE" in os.environ and int(os.environ.get("RANK", "0")) > 0
    if not torchrun and int(os.environ.get("SLURM_PROCID", "0")) == 0:
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
@click.option("--to", "folder", required=True, type=click.Path(path_type=Path), help="Folder to write.")
def tokenizer(words: tuple[str, ...], folder: Path) -> int:
    """Make a recipe's BPE tokenizer from all 6,236 verses, and prove that it loses none."""
    need("train")
    from quran_asr.runs.overrides import split_words
    from quran_asr.runs.recipe import load_recipe

    name, overrides = split_words(words, default="transfer")
    recipe = load_recipe(name, overrides)

    from quran_asr.train.tokenizer import train_tokenizer

    made = train_tokenizer(recipe.quran.spelling, recipe.quran.vocabulary_size, folder)
    click.echo(f"{folder}: {made.size} tokens, spelling {recipe.quran.spelling}, no verse lost")
    return 0


def refuse_what_is_not_built(recipe: Recipe) -> None:
    """Say at once what this version cannot do, before anything is read or written."""
    if recipe.init_from_pretrained_model is not None:
        raise QuranAsrError(
            f"this version cannot start from `{recipe.init_from_pretrained_model}` yet",
            where="init_from_pretrained_model",
            remedy="train from random weights: init_from_pretrained_model=null, or the recipes `scratch`, "
            "`small`, `laptop`",
        )


def foresee(recipe: Recipe, training: Selection, validation: Selection) -> list[Finding]:
    """What `plan` says of this training, leakage, and a full disk."""
    from quran_asr.runs.folder import lacking_space
    from quran_asr.runs.plan import Workload, plan

    durations = tuple(segment.duration for segment in training.kept)
    planned = plan(
        recipe, Workload(len(durations), training.hours, durations), devices=recipe.trainer.devices
    )
    keep = recipe.exp_manager.checkpoint_callback_params.save_top_k
    full = lacking_space(recipe.exp_manager.exp_dir, planned.parameters, keep)
    return [*planned.findings, *_shared_clips(training, validation), *([full] if full else [])]


def _shared_clips(training: Selection, validation: Selection) -> list[Finding]:
    trained = {(segment.audio, segment.offset) for segment in training.kept}
    shared = [segment for segment in validation.kept if (segment.audio, segment.offset) in trained]
    if not shared:
        return []
    return [
        Finding(
            "warning",
            "validation-in-training",
            shared[0].audio,
            f"{len(shared)} of {len(validation.kept)} validation clips are trained on too: "
            "their WER says nothing",
            "hold some out with `quran-asr corpus split`",
        )
    ]


def select_clips(recipe: Recipe) -> tuple[Selection, Selection]:
    """The clips of both manifests that the recipe takes; what it leaves out is said on stderr.

    Raises:
        QuranAsrError: a manifest is missing, unreadable, or nothing in it is left.
    """
    from quran_asr.corpus.manifest import read_manifest
    from quran_asr.corpus.select import describe, select

    selections = []
    shortest = recipe.model.train_ds.min_duration
    for what, key, ds in (
        ("training", "train_ds", recipe.model.train_ds),
        ("validation", "validation_ds", recipe.model.validation_ds),
    ):
        if not ds.manifests:
            option = "--train" if what == "training" else "--validation"
            raise QuranAsrError(
                f"no {what} manifest",
                where=f"model.{key}.manifest_filepath",
                remedy=f"give one with {option} FILE (`quran-asr corpus scan` makes one from recordings)",
            )
        segments = []
        for manifest in ds.manifests:
            segments += read_manifest(manifest, recipe.quran.spelling)
        selection = select(segments, shortest=shortest, longest=ds.max_duration)
        limit = ds.max_duration if ds.max_duration is not None else 0.0
        print_findings(describe(selection, what=what, key=f"model.{key}.max_duration", longest=limit))
        if not selection.kept:
            raise QuranAsrError(f"no {what} clip is left", where=str(ds.manifests[0]))
        selections.append(selection)
    return selections[0], selections[1]


def describe_data(training: Selection, validation: Selection) -> str:
    """One line on what is trained on."""
    reciters = len({segment.reciter for segment in training.kept})
    return (
        f"training on {len(training.kept):,} clips ({training.hours:.2f} h, {reciters} reciters), "
        f"validation on {len(validation.kept):,} ({validation.hours:.2f} h)"
    )


def pass_gate(recipe: Recipe, run: RunFolder, segments: Sequence[Segment]) -> None:
    """Stop before a training that cannot learn: a few clips must be learned by heart first.

    Raises:
        QuranAsrError: they were not learned within `quran.overfit_gate_steps`.
    """
    steps = recipe.quran.overfit_gate_steps
    if not steps:
        return
    from quran_asr.train.loop import prepare_tokenizer
    from quran_asr.train.preflight import overfit_gate

    candidates = [segment for segment in segments if segment.verses] or segments
    clips = sorted(candidates, key=lambda segment: segment.duration)[:4]
    with progress_bar("overfit gate", "steps") as show:
        gate = overfit_gate(recipe, prepare_tokenizer(recipe, run), clips, steps, show)
    if not gate.passed:
        raise QuranAsrError(
            f"{len(clips)} clips were not learned by heart in {gate.steps} steps (WER transducer "
            f"{gate.wer:.2f}, CTC {gate.ctc_wer:.2f})",
            remedy="something between audio, text and loss is broken: nothing larger would train either",
        )
    click.echo(
        f"overfit gate passed: {len(clips)} clips by heart after {gate.steps} steps, both decoders WER 0",
        err=True,
    )


def report_end(ended: Trained, as_json: bool) -> int:
    """Say how a training ended; 130 where it was interrupted."""
    best = ended.run.best_nemo()
    if as_json:
        print_json(
            {
                "run": str(ended.run.path),
                "interrupted": ended.interrupted,
                "steps": ended.steps,
                "seconds": round(ended.seconds, 1),
                "val_wer": ended.best_wer,
                "best": None if best is None else str(best),
            }
        )
    elif ended.interrupted:
        click.echo(
            f"interrupted after {ended.steps:,} steps; go on with: quran-asr train --resume {ended.run.path}",
            err=True,
        )
    else:
        click.echo(f"{ended.steps:,} steps in {ended.seconds / 60:.1f} minutes", err=True)
        if best is None or ended.best_wer is None:
            click.echo(
                "no validation was made, so there is no best model: validate more often with "
                "trainer.val_check_interval, or train longer",
                err=True,
            )
        else:
            click.echo(f"best validation WER {ended.best_wer:.4f}: {best}")
    sys.stdout.flush()
    return 130 if ended.interrupted else 0
