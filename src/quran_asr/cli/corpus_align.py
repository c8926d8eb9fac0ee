"""`quran-asr corpus align`: whole surahs to verse clips and a manifest."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from quran_asr.cli.models import as_bundle, model_option, named_or_default
from quran_asr.cli.options import FiniteRange, cluster_option
from quran_asr.cli.output import echo, print_error, print_findings, print_json, print_table, progress_bar
from quran_asr.errors import Finding, QuranAsrError, counted

if TYPE_CHECKING:
    from concurrent.futures import Executor

    from quran_asr.corpus.align import AlignReport


def workers_of(address: str | None) -> AbstractContextManager[Executor | None]:
    """The executor of --cluster; None where the work is done here."""
    if address is None:
        return nullcontext()
    from quran_asr.corpus.workers import cluster

    return cluster(address)


@click.command(
    short_help="Cut whole surahs into verse clips.",
    epilog="Example: quran-asr corpus align surahs --to data/aligned --jobs 4",
)
@click.argument(
    "places", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="MANIFEST|FOLDER..."
)
@click.option(
    "--to",
    "folder",
    required=True,
    type=click.Path(path_type=Path, file_okay=False),
    metavar="FOLDER",
    help="Folder for manifest.jsonl, recordings.jsonl and the clips.",
)
@model_option
@click.option(
    "--jobs", default=1, show_default=True, type=click.IntRange(1, 1024), metavar="N", help="Processes."
)
@cluster_option
@click.option(
    "--longest",
    default=30.0,
    show_default=True,
    type=FiniteRange(1.0, 3600.0),
    metavar="SECONDS",
    help="Cut longer verses at pauses into several clips.",
)
@click.option(
    "--score",
    "least_score",
    default=-1.5,
    show_default=True,
    type=FiniteRange(-50.0, 0.0),
    metavar="NATS",
    help="Leave out clips with a lower alignment score than this, in nats a letter.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def align(
    places: tuple[Path, ...],
    folder: Path,
    model: Path | None,
    jobs: int,
    cluster: str | None,
    longest: float,
    least_score: float,
    as_json: bool,
) -> int:
    """Align whole surahs with the text, and cut them into clips of verses with a manifest.

    Expects RECITER/SSS.mp3 (or wav, flac, ogg, opus), where 036 is surah 36; files with other names are
    searched in the whole Quran. A manifest names what a recording holds by `surah` or `verses`, and a
    stretch of a recording by `offset` and `duration`. Clips are named as EveryAyah names them:
    RECITER/002255.flac; parts of long verses with their words, 002282-000-016.flac; those of a file with
    another name in a folder of its own, RECITER/NAME/002255.flac.
    Clips whose alignment is poor are left out, and listed with the reason in recordings.jsonl. A recording
    that holds another surah than its name is reported with the one it holds. Run the same command again to
    continue after an interruption. Exit code 1 if no clip can be used or a recording cannot
    be read.
    """
    from quran_asr.corpus.align import Limits, align_recordings

    limits = Limits(longest=longest, score=least_score)
    with (
        as_bundle(named_or_default(model)) as bundle,
        workers_of(cluster) as executor,
        progress_bar("aligning", "recordings") as on_progress,
    ):
        report = align_recordings(
            places,
            folder,
            bundle.resolve(),
            limits=limits,
            jobs=jobs,
            executor=executor,
            on_progress=on_progress,
        )
    if as_json:
        print_json(
            {
                "manifest": str(report.manifest),
                "resumed": report.resumed,
                "reciters": [asdict(one) for one in report.reciters],
                "failed": [{"audio_filepath": audio, "error": error} for audio, error in report.failed],
                "other_passages": [
                    {"audio_filepath": audio, "expected": expected, "found": found}
                    for audio, expected, found in report.others
                ],
            }
        )
    else:
        _print(report)
    remedy = "name what it holds by `surah` or `verses` in a manifest"
    print_findings(
        [
            Finding("warning", "other-passage", audio, f"{found} is recited in it, not {expected}", remedy)
            for audio, expected, found in report.others
        ]
    )
    remedy = "replace the recording, correct its line, or make room, and run the same command again"
    for audio, error in report.failed:
        print_error(QuranAsrError(error, where=audio, remedy=remedy))
    return int(not report.clips or bool(report.failed))


def _print(report: AlignReport) -> None:
    print_table(
        ("reciter", "recordings", "hours", "clips", "usable hours", "share", "score", "fits", "left out"),
        [
            (
                one.reciter,
                one.recordings,
                f"{one.hours:.2f}",
                one.clips,
                f"{one.usable_hours:.2f}",
                f"{one.usable_hours / one.hours:.0%}" if one.hours else "-",
                "-" if one.score is None else f"{one.score:.2f}",
                "-" if one.fits is None else "yes" if one.fits else "no",
                ", ".join(f"{count} {reason}" for reason, count in one.left_out.items()),
            )
            for one in report.reciters
        ],
    )
    if report.resumed:
        echo(f"{counted(report.resumed, 'recording')} finished before", err=True)
    hours = sum(one.usable_hours for one in report.reciters)
    echo(f"{counted(report.clips, 'clip')}, {hours:.2f} hours")
    echo(f"wrote {report.manifest}", err=True)
