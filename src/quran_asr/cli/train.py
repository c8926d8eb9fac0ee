"""`quran-asr train` and `quran-asr tokenizer`."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from quran_asr.cli.clips import describe_data, foresee, select_clips
from quran_asr.cli.extras import need
from quran_asr.cli.printing import print_finding, print_findings, print_json, progress_bar
from quran_asr.findings import QuranAsrError

if TYPE_CHECKING:
    from quran_asr.cli.resume import Resumption
    from quran_asr.records import Segment
    from quran_asr.runs.folder import RunFolder
    from quran_asr.runs.schema import Recipe
    from quran_asr.train.loop import Start, Trained


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
@click.option(
    "--allow-partial",
    is_flag=True,
    help="Start even if less than 90 % of the encoder comes from the pretrained model.",
)
@click.option("--json", "as_json", is_flag=True, help="Print how it ended as JSON.")
def train(
    words: tuple[str, ...],
    training: tuple[str, ...],
    validation: tuple[str, ...],
    resume: Path | None,
    resume_best: str | None,
    allow_partial: bool,
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
            return run_training(resumed.recipe, resumed, Wish(allow_partial, keep_tokens=False), as_json)
        recipe = load(name or "transfer", overrides)
        keep_tokens = recipe.exp_manager.resume_from_checkpoint is not None
        return run_training(start_from_checkpoint(recipe), None, Wish(allow_partial, keep_tokens), as_json)


@dataclass(frozen=True, slots=True)
class Wish:
    """How a pretrained start is to be taken."""

    allow_partial: bool
    keep_tokens: bool


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


def run_training(recipe: Recipe, resumed: Resumption | None, wish: Wish, as_json: bool) -> int:
    """Look at the data, gather the processes, make or open the run folder, and train."""
    from quran_asr.runs.plan_start import TOO_LITTLE

    chosen = select_clips(recipe)
    foreseen = foresee(recipe, *chosen)
    if wish.allow_partial:
        foreseen = [finding for finding in foreseen if finding.code != TOO_LITTLE]
    if resumed is None and print_findings(foreseen):
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
        fresh = resumed is None or resumed.checkpoint is None
        start = open_start(recipe, wish) if first and fresh else None
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
        try:
            if fresh and first:
                pass_gate(recipe, run, chosen[0].kept, start)
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
                )
        except QuranAsrError:
            if resumed is None and first and not run.metrics.exists():  # it never began: keep no folder
                shutil.rmtree(run.path)
            raise
    return report_end(ended, as_json)


def open_start(recipe: Recipe, wish: Wish) -> Start | None:
    """The model that the recipe starts from: found or downloaded, and its archive looked through.

    Raises:
        QuranAsrError: it cannot be had, or its archive is not what it should be.
    """
    name = recipe.init_from_pretrained_model
    if name is None:
        return None
    from quran_asr.train.archives import read_archive
    from quran_asr.train.loop import Start
    from quran_asr.train.pretrained import find_pretrained

    with progress_bar(f"downloading {name}", "bytes") as show:
        found = find_pretrained(name, show)
    click.echo(f"start from {found.path} ({found.source})", err=True)
    archive = read_archive(found.path)
    return Start(
        found, archive, wish.allow_partial, wish.keep_tokens, lambda text: click.echo(text, err=True)
    )


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


def pass_gate(
    recipe: Recipe, run: RunFolder, segments: Sequence[Segment], start: Start | None = None
) -> None:
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
        gate = overfit_gate(recipe, prepare_tokenizer(recipe, run, start), clips, steps, show)
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
    """Say how a training ended; 130 where it was interrupted, 1 where a sign of `quran.stop_on` ended it."""
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
        click.echo(
            f"stopped after {ended.steps:,} steps by `{ended.stopped_by.code}` (quran.stop_on); look at it "
            f"with: quran-asr watch {ended.run.path}; go on with: quran-asr train --resume {ended.run.path}",
            err=True,
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
    if ended.stopped_by is not None:
        return 1
    return 130 if ended.interrupted else 0
