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
    from quran_asr.experiments.checkpoints import Saved
    from quran_asr.experiments.run_folder import RunFolder
    from quran_asr.records import Segment
    from quran_asr.training.averaging import Averaging, MeasuredModel


@click.command(epilog="Example: quran-asr checkpoints last --average 5")
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--best", is_flag=True, help="Print the path of the best .ckpt alone.")
@click.option(
    "--average",
    "average_count",
    type=click.IntRange(min=2),
    metavar="K",
    help="Average the K best .ckpt, measure it, and keep it as .nemo only if its WER is lower.",
)
@click.option(
    "--keep",
    type=click.IntRange(min=1),
    metavar="K",
    help="Delete all but the K best .ckpt, last.ckpt and the best .nemo.",
)
@click.option("--export", "exporting", is_flag=True, help="Have the best model as a stock .nemo.")
@click.option(
    "--validation",
    multiple=True,
    type=click.Path(),
    help="Manifest for --average; default: the run's own. May be repeated.",
)
@click.option(
    "--to",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="The .nemo that --average or --export writes.",
)
@click.option("--yes", is_flag=True, help="--keep does not ask.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def checkpoints(
    run: Path,
    best: bool,
    average_count: int | None,
    keep: int | None,
    exporting: bool,
    validation: tuple[str, ...],
    to: Path | None,
    yes: bool,
    as_json: bool,
) -> int:
    """List what RUN has kept, by WER; or do one thing with it.

    RUN is a run folder, or `last`. A training may go on meanwhile.
    """
    from quran_asr.experiments.checkpoints import saved_in
    from quran_asr.experiments.run_folder import open_run

    asked = {"--best": best, "--average": average_count, "--keep": keep, "--export": exporting}
    _refuse_wrong_use([option for option, value in asked.items() if value], validation, to, yes)
    folder = open_run(run)
    saved = saved_in(folder)
    print_findings([_torn(one) for one in saved if one.torn is not None])
    if best:
        return print_best(folder, saved, as_json)
    if average_count is not None:
        return average(folder, saved, average_count, validation, to, as_json)
    if keep is not None:
        return thin_out(folder, saved, keep, yes, as_json)
    if exporting:
        return export(folder, saved, to, as_json)
    return print_list(folder, saved, as_json)


def _refuse_wrong_use(asked: list[str], validation: tuple[str, ...], to: Path | None, yes: bool) -> None:
    if len(asked) > 1:
        raise QuranAsrError(f"{' and '.join(asked)} are different tasks", remedy="give one of them")
    for given, option, tasks in (
        (validation, "--validation", ("--average",)),
        (to, "--to", ("--average", "--export")),
        (yes, "--yes", ("--keep",)),
    ):
        if given and (not asked or asked[0] not in tasks):
            raise QuranAsrError(f"{option} belongs to {' and '.join(tasks)}", remedy=f"leave out {option}")
    if to is not None and to.suffix != ".nemo":
        raise QuranAsrError("a model's archive ends in .nemo", where=str(to))
    if to is not None and to.exists() and asked == ["--average"]:
        raise QuranAsrError("is there already", where=str(to), remedy="name another file, or remove it")


def _torn(one: Saved) -> Finding:
    return Finding("warning", "broken-checkpoint", str(one.path), f"{one.torn}; it is passed over", "")


def print_list(run: RunFolder, saved: Sequence[Saved], as_json: bool) -> int:
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
        echo("no checkpoint yet: a training writes one at each validation", err=True)
        return 0
    header = ("file", "epoch", "step", "WER %", "CTC WER %", "CER %", "MB", "written", "")
    print_table(header, [_row(one, "; ".join(notes[one.path])) for one in saved])
    return 0


def _row(one: Saved, note: str) -> tuple[str, ...]:
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


def print_best(run: RunFolder, saved: Sequence[Saved], as_json: bool) -> int:
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
        "has no whole checkpoint with a rate in its name",
        where=str(run.path),
        remedy="a training writes one at each validation",
    )


def average(
    run: RunFolder,
    saved: Sequence[Saved],
    count: int,
    validation: tuple[str, ...],
    to: Path | None,
    as_json: bool,
) -> int:
    """Average the best checkpoints and say whether that helped; 0 either way."""
    from quran_asr.experiments.checkpoints import averageable, best_of

    usable = averageable(saved)
    best = best_of(saved)
    if len(usable) < count or best is None:
        raise QuranAsrError(
            f"has {counted(len(usable), 'whole checkpoint')} with a rate in the name: too few for {count}",
            where=str(run.path),
            remedy=f"--average {len(usable)}"
            if len(usable) > 1
            else "train on: one comes at each validation",
        )
    need("train")
    segments = validation_clips(run, validation)
    echo(
        f"averaging {count} checkpoints, then hearing {len(segments):,} clips with {best.path.name} and with "
        "the average",
        err=True,
    )
    from quran_asr.training.averaging import keep_if_better, mean_weights

    averaged = [one.path for one in usable[:count]]
    with progress_bar("averaging", "files") as on_progress:
        weights = mean_weights(averaged, on_progress)
    with progress_bar("hearing", "clips") as on_progress:
        found = keep_if_better(
            run,
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
            remedy="name it where it is now: --validation MANIFEST",
        ) from error
    chosen = select(segments, shortest=recipe.model.train_ds.min_duration, longest=ds.max_duration)
    print_findings(
        describe(chosen, what="validation", key="model.validation_ds.max_duration", longest=ds.max_duration)
    )
    if not chosen.kept:
        raise QuranAsrError("no validation clip", where=str(run.recipe), remedy="--validation MANIFEST")
    return list(chosen.kept)


def print_averaging(found: Averaging) -> None:
    """Both models' counts, their difference with its interval, and what was done."""

    def row(name: str, measured: MeasuredModel) -> tuple[object, ...]:
        words = measured.words
        return (
            name, measured.clips, words.reference_length, words.substitutions, words.insertions,
            words.deletions,
            f"{100 * words.rate:.2f}",
        )  # fmt: skip

    header = ("", "clips", "words", "substituted", "added", "left out", "WER %")
    print_table(
        header,
        [row(found.best.model.name, found.best), row(f"average of {len(found.averaged)}", found.average)],
    )
    interval = "no interval from so few clips"
    if found.interval is not None:
        interval = f"{100 * found.interval[0]:+.2f} to {100 * found.interval[1]:+.2f}"
    echo()
    echo(f"average minus best: {100 * found.difference:+.2f} points ({interval})")
    echo(f"interval: {found.interval_method}; the same clips drawn for both")
    if found.within_noise:
        echo("the difference is within the noise of these clips")
    if found.written is None:
        how = "equal" if found.difference == 0 else "not better"
        echo(f"{how}: the average is not kept, {found.best.model} stays the best")
    elif found.ranked:
        echo(f"better: kept as {found.written}, the run's best model now")
    else:
        echo(f"better: kept as {found.written}")


def thin_out(run: RunFolder, saved: Sequence[Saved], keep: int, yes: bool, as_json: bool) -> int:
    """Delete all but the best, after asking."""
    from quran_asr.experiments.checkpoints import freed, prune

    pruning = prune(saved, keep)
    for one in pruning.foreign:
        echo(f"{one.path.name} stays: its name says no rate", err=True)
    for one in pruning.dropped:
        echo(f"{'deleting' if yes else 'to delete'}  {one.path.name}  {one.size / 1e6:,.1f} MB", err=True)
    deleted: list[Saved] = []
    if pruning.dropped:
        if not yes:
            if not sys.stdin.isatty():
                raise QuranAsrError(
                    f"{len(pruning.dropped)} files would be deleted, and nobody is here to ask",
                    where=str(run.checkpoints),
                    remedy="say it with --yes",
                )
            if not click.confirm(f"delete {_files(pruning.dropped)}?", err=True):
                echo("nothing was deleted", err=True)
                return 0
        for one in pruning.dropped:
            try:
                one.path.unlink()
                deleted.append(one)
            except FileNotFoundError:
                echo(f"{one.path.name} was gone already", err=True)
    if as_json:
        print_json(
            {
                "kept": [str(one.path) for one in pruning.kept],
                "deleted": [str(one.path) for one in deleted],
                "freed_bytes": freed(deleted),
            }
        )
    elif deleted:
        echo(f"deleted {_files(deleted)}, {freed(deleted) / 1e6:,.1f} MB freed")
    else:
        echo("nothing to delete")
    return 0


def _files(saved: Sequence[Saved]) -> str:
    return "1 file" if len(saved) == 1 else f"{len(saved)} files"


def export(run: RunFolder, saved: Sequence[Saved], to: Path | None, as_json: bool) -> int:
    """Have the run's best model as a `.nemo`, written once."""
    from quran_asr.experiments.checkpoints import best_of, copy_model

    best = best_of(saved)
    if best is None:
        raise _no_checkpoint(run)
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
        echo(f"{target}: is there already, the best model of the run")
    return 0


def _export_checkpoint(checkpoint: Path, target: Path, *, fresh: bool) -> bool:
    """Build the model and write it; False where it is there already.

    Args:
        checkpoint: a `.ckpt` of the run.
        target: the `.nemo`.
        fresh: what stands there is known to be no whole archive, and may be replaced.
    """
    need("train")
    echo(f"building the model of {checkpoint.name}", err=True)
    from quran_asr.training.averaging import export as write
    from quran_asr.training.averaging import same_model

    if target.exists() and not fresh:
        if same_model(target, checkpoint):
            return False
        raise QuranAsrError(
            "is there already and holds another model", where=str(target), remedy="name another, or remove it"
        )
    write(checkpoint, target)
    return True


def _nemo_name(checkpoint: Saved) -> Path:
    """`x--val_wer=0.1234-epoch=5.ckpt` -> `x--val_wer=0.1234.nemo`"""
    return checkpoint.path.with_name(f"{checkpoint.path.stem.rsplit('-epoch=', 1)[0]}.nemo")
