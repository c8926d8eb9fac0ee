"""`quran-asr checkpoints`: list, average, prune or export the checkpoints of a run."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from quran_asr.cli.options import need
from quran_asr.cli.output import echo, print_findings, print_json, print_table, progress_bar
from quran_asr.errors import Finding, QuranAsrError, counted

if TYPE_CHECKING:
    from quran_asr.experiments.checkpoints import CheckpointFile
    from quran_asr.experiments.run_folder import RunFolder
    from quran_asr.records import Segment
    from quran_asr.training.averaging import AverageResult, MeasuredModel


_run = click.argument("run", type=click.Path(path_type=Path))
_as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@click.group(epilog="Example: quran-asr checkpoints list last")
def checkpoints() -> None:
    """List, average, prune or export the checkpoints of a run.

    RUN is a run folder, or `last`. A training may be running at the same time.
    """


@checkpoints.command(
    "list",
    short_help="List checkpoints by WER.",
    epilog="Example: quran-asr checkpoints list last",
)
@_run
@click.option("--best", is_flag=True, help="Print only the path of the best .ckpt.")
@_as_json
def list_checkpoints(run: Path, best: bool, as_json: bool) -> int:
    """List the checkpoints of RUN by validation WER. RUN is a run folder, or `last`."""
    folder, saved = _opened(run)
    return print_best(folder, saved, as_json) if best else print_list(folder, saved, as_json)


@checkpoints.command(
    short_help="Average the best checkpoints; kept only if the WER is lower.",
    epilog="Example: quran-asr checkpoints average last --count 5",
)
@_run
@click.option(
    "--count",
    type=click.IntRange(min=2),
    default=5,
    show_default=True,
    metavar="K",
    help="Number of checkpoints to average, the best by validation WER.",
)
@click.option(
    "--validation",
    multiple=True,
    type=click.Path(),
    metavar="MANIFEST",
    help="Clips to measure on. Default: the validation manifests of the run. May be repeated.",
)
@click.option(
    "--to",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="The .nemo to write. Default: beside the checkpoints.",
)
@_as_json
def average(run: Path, count: int, validation: tuple[str, ...], to: Path | None, as_json: bool) -> int:
    """Average the K best checkpoints of RUN, measure the average, and keep it only if its WER is lower.

    RUN is a run folder, or `last`. Exits 0 whether or not the average is kept.
    """
    from quran_asr.experiments.checkpoints import averageable, best_of

    _refuse_other_suffix(to)
    if to is not None and to.exists():
        raise QuranAsrError("already exists", where=str(to), remedy="name another file, or delete it")
    folder, saved = _opened(run)
    usable = averageable(saved)
    best = best_of(saved)
    if len(usable) < count or best is None:
        raise QuranAsrError(
            f"has {counted(len(usable), 'whole checkpoint')} with a WER in the name, fewer than {count}",
            where=str(folder.path),
            remedy=f"--count {len(usable)}"
            if len(usable) > 1
            else "train on: each validation writes a checkpoint",
        )
    need("train")
    segments = validation_clips(folder, validation)
    echo(
        f"averaging {count} checkpoints; then recognizing {len(segments):,} clips with {best.path.name} and "
        "with the average",
        err=True,
    )
    from quran_asr.training.averaging import keep_if_better, mean_weights

    averaged = [one.path for one in usable[:count]]
    with progress_bar("averaging", "files") as on_progress:
        weights = mean_weights(averaged, on_progress)
    with progress_bar("recognizing", "clips") as on_progress:
        found = keep_if_better(
            folder,
            weights,
            averaged,
            best.path,
            segments,
            own_clips=not validation,
            to=to,
            on_progress=on_progress,
        )
    if as_json:
        print_json(found.to_json())
    else:
        print_averaging(found)
    return 0


@checkpoints.command(
    short_help="Delete all but the best checkpoints.",
    epilog="Example: quran-asr checkpoints prune last --keep 3",
)
@_run
@click.option(
    "--keep",
    type=click.IntRange(min=1),
    required=True,
    metavar="K",
    help="Number of .ckpt files to keep, the best by validation WER.",
)
@click.option("--yes", is_flag=True, help="Do not ask for confirmation.")
@_as_json
def prune(run: Path, keep: int, yes: bool, as_json: bool) -> int:
    """Delete all checkpoints of RUN but the K best, last.ckpt and the best .nemo, after asking.

    RUN is a run folder, or `last`.
    """
    from quran_asr.experiments.checkpoints import freed_bytes
    from quran_asr.experiments.checkpoints import prune as choose

    folder, saved = _opened(run)
    pruning = choose(saved, keep)
    for one in pruning.foreign:
        echo(f"{one.path.name} is kept: its name contains no WER", err=True)
    for one in pruning.dropped:
        echo(f"{'deleting' if yes else 'to delete'}  {one.path.name}  {one.size / 1e6:,.1f} MB", err=True)
    deleted: list[CheckpointFile] = []
    if pruning.dropped:
        if not yes:
            if not sys.stdin.isatty():
                raise QuranAsrError(
                    f"{_files(pruning.dropped)} would be deleted, and there is no terminal to ask on",
                    where=str(folder.checkpoints),
                    remedy="confirm with --yes",
                )
            if not click.confirm(f"delete {_files(pruning.dropped)}?", err=True):
                echo("nothing was deleted", err=True)
                return 0
        for one in pruning.dropped:
            try:
                one.path.unlink()
                deleted.append(one)
            except FileNotFoundError:
                echo(f"{one.path.name} no longer exists", err=True)
    if as_json:
        print_json(
            {
                "kept": [str(one.path) for one in pruning.kept],
                "deleted": [str(one.path) for one in deleted],
                "freed_bytes": freed_bytes(deleted),
            }
        )
    elif deleted:
        echo(f"deleted {_files(deleted)}, {freed_bytes(deleted) / 1e6:,.1f} MB freed")
    else:
        echo("nothing to delete")
    return 0


@checkpoints.command(
    short_help="Write the best model as a stock .nemo.",
    epilog="Example: quran-asr checkpoints export last --to quran.nemo",
)
@_run
@click.option(
    "--to",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="The .nemo to write. Default: beside the checkpoints.",
)
@_as_json
def export(run: Path, to: Path | None, as_json: bool) -> int:
    """Write the best model of RUN as a stock .nemo, unless it already exists.

    RUN is a run folder, or `last`.
    """
    from quran_asr.experiments.checkpoints import best_of, copy_model

    _refuse_other_suffix(to)
    folder, saved = _opened(run)
    best = best_of(saved)
    if best is None:
        raise _no_checkpoint(folder)
    target = to or (best.path if best.is_nemo else _nemo_name(best))
    if best.is_nemo:
        wrote = target != best.path and copy_model(best.path, target)
    else:
        wrote = _export_checkpoint(best.path, target, fresh=to is None)
    if as_json:
        print_json({"model": str(best.path), "file": str(target), "written": wrote})
    elif wrote:
        echo(f"{target}: written from {best.path.name}")
    else:
        echo(f"{target}: already exists, the best model of the run")
    return 0


def _opened(run: Path) -> tuple[RunFolder, list[CheckpointFile]]:
    """The run and its checkpoints; broken ones are reported."""
    from quran_asr.experiments.checkpoints import saved_in
    from quran_asr.experiments.run_folder import open_run

    folder = open_run(run)
    saved = saved_in(folder)
    print_findings(
        [
            Finding("warning", "broken-checkpoint", str(one.path), f"{one.torn}; it is ignored", "")
            for one in saved
            if one.torn is not None
        ]
    )
    return folder, saved


def _refuse_other_suffix(to: Path | None) -> None:
    if to is not None and to.suffix != ".nemo":
        raise QuranAsrError("the file name must end in .nemo", where=str(to), remedy="write --to NAME.nemo")


def print_list(run: RunFolder, saved: Sequence[CheckpointFile], as_json: bool) -> int:
    """The table of a run's checkpoints."""
    from quran_asr.experiments.checkpoints import best_of, source_of

    best, checkpoint = best_of(saved), best_of(saved, suffix=".ckpt")
    nemo = best_of(saved, suffix=".nemo")
    notes: dict[Path, list[str]] = {one.path: [] for one in saved}
    for one in saved:
        if one.torn is not None:
            notes[one.path].append(f"broken: {one.torn}")
        if one is best:
            notes[one.path].append("best")
        if one.average is not None:
            notes[one.path].append(f"mean of {one.average} checkpoints")
        elif one.is_nemo and (source := source_of(one, saved)) is not None:
            notes[one.path].append(f"model of {source.path.name}")
            notes[source.path].append("as .nemo")
    if as_json:
        print_json(
            {
                "run": str(run.path),
                "best": None if best is None else str(best.path),
                "best_checkpoint": None if checkpoint is None else str(checkpoint.path),
                "best_nemo": None if nemo is None else str(nemo.path),
                "checkpoints": [
                    one.to_json() | {"nemo": one.is_nemo, "note": "; ".join(notes[one.path])} for one in saved
                ],
            }
        )
        return 0
    if not saved:
        echo("no checkpoint yet: each validation writes one", err=True)
        return 0
    header = ("file", "epoch", "step", "WER %", "CTC WER %", "CER %", "MB", "written", "")
    print_table(header, [_row(one, "; ".join(notes[one.path])) for one in saved])
    return 0


def _row(one: CheckpointFile, note: str) -> tuple[str, ...]:
    def percent(rate: float | None) -> str:
        return "-" if rate is None else f"{100 * rate:6.2f}"

    exact = one.measured.get("wer")
    return (
        one.path.name,
        "-" if one.epoch is None else str(one.epoch),
        "-" if one.step is None else f"{one.step:,}",
        percent(one.wer if exact is None else exact),
        percent(one.measured.get("ctc_wer")),
        percent(one.measured.get("cer")),
        f"{one.size / 1e6:,.1f}",
        datetime.fromtimestamp(one.modified).strftime("%Y-%m-%d %H:%M"),
        note,
    )


def print_best(run: RunFolder, saved: Sequence[CheckpointFile], as_json: bool) -> int:
    """The path of the best `.ckpt`; as JSON that of the best `.nemo` too."""
    from quran_asr.experiments.checkpoints import best_of

    checkpoint, nemo = best_of(saved, suffix=".ckpt"), best_of(saved, suffix=".nemo")
    if checkpoint is None:
        raise _no_checkpoint(run)
    if as_json:
        print_json({"checkpoint": str(checkpoint.path), "nemo": None if nemo is None else str(nemo.path)})
    else:
        echo(checkpoint.path)
    return 0


def _no_checkpoint(run: RunFolder) -> QuranAsrError:
    return QuranAsrError(
        "has no whole checkpoint with a WER in its name",
        where=str(run.path),
        remedy="each validation of a training writes one",
    )


def validation_clips(run: RunFolder, manifests: tuple[str, ...]) -> list[Segment]:
    """The clips of a run's validations, or of other manifests, within the limits of its recipe.

    Raises:
        QuranAsrError: a manifest is missing or unreadable, or nothing is left.
    """
    from quran_asr.config.recipe import load_recipe
    from quran_asr.corpus.manifest import read_manifest
    from quran_asr.experiments.training_clips import describe, select

    recipe = load_recipe(run.recipe)
    ds = recipe.model.validation_ds
    try:
        segments = [
            segment
            for manifest in manifests or ds.manifests
            for segment in read_manifest(manifest, recipe.quran.spelling)
        ]
    except QuranAsrError as error:
        if manifests:
            raise
        raise QuranAsrError(
            f"the run's validation manifest cannot be used: {error.what}",
            where=error.where,
            remedy="give its present place: --validation MANIFEST",
        ) from error
    chosen = select(segments, shortest=recipe.model.train_ds.min_duration, longest=ds.max_duration)
    print_findings(
        describe(chosen, what="validation", key="model.validation_ds.max_duration", longest=ds.max_duration)
    )
    if not chosen.kept:
        raise QuranAsrError("no validation clip", where=str(run.recipe), remedy="--validation MANIFEST")
    return list(chosen.kept)


def print_averaging(found: AverageResult) -> None:
    """Both models' counts, their difference with its interval, and what was done."""

    def row(name: str, measured: MeasuredModel) -> tuple[object, ...]:
        words = measured.words
        return (
            name, measured.clips, words.reference_length, words.substitutions, words.insertions,
            words.deletions,
            f"{100 * words.rate:.2f}",
        )  # fmt: skip

    header = ("", "clips", "words", "substitutions", "insertions", "deletions", "WER %")
    print_table(
        header,
        [row(found.best.model.name, found.best), row(f"average of {len(found.averaged)}", found.average)],
    )
    interval = "too few clips for an interval"
    if found.interval is not None:
        interval = f"{100 * found.interval[0]:+.2f} to {100 * found.interval[1]:+.2f}"
    echo()
    echo(f"average minus best: {100 * found.difference:+.2f} points ({interval})")
    echo(f"interval: {found.interval_method}; both models are resampled on the same clips")
    if found.within_noise:
        echo("the difference is within the noise of these clips")
    if found.written is None:
        how = "equal" if found.difference == 0 else "not better"
        echo(f"{how}: the average is not kept, {found.best.model} remains the best")
    elif found.ranked:
        echo(f"better: kept as {found.written}, now the best model of the run")
    else:
        echo(f"better: kept as {found.written}")


def _files(saved: Sequence[CheckpointFile]) -> str:
    return "1 file" if len(saved) == 1 else f"{len(saved)} files"


def _export_checkpoint(checkpoint: Path, target: Path, *, fresh: bool) -> bool:
    """Build the model and write it; False if the target already holds it.

    Args:
        checkpoint: a `.ckpt` of the run.
        target: the `.nemo`.
        fresh: whatever exists at the target is known not to be a whole archive, and may be replaced.
    """
    need("train")
    echo(f"building the model of {checkpoint.name}", err=True)
    from quran_asr.training.averaging import export as write
    from quran_asr.training.averaging import same_model

    if target.exists() and not fresh:
        if same_model(target, checkpoint):
            return False
        raise QuranAsrError(
            "already exists and is another model", where=str(target), remedy="name another file, or delete it"
        )
    write(checkpoint, target)
    return True


def _nemo_name(checkpoint: CheckpointFile) -> Path:
    """`x--val_wer=0.1234-epoch=5.ckpt` -> `x--val_wer=0.1234.nemo`"""
    return checkpoint.path.with_name(f"{checkpoint.path.stem.rsplit('-epoch=', 1)[0]}.nemo")
