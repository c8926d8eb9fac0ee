"""`quran-asr corpus pack`: clips in tar shards."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from quran_asr.cli.options import FiniteRange, cluster_option, jobs_option
from quran_asr.cli.output import echo, print_finding, print_findings, print_json, print_table, progress_bar
from quran_asr.errors import Finding

if TYPE_CHECKING:
    from quran_asr.corpus.packing import Codec

_LISTED = 20
"""Dropped clips that are named on the screen."""


@click.command(
    short_help="Write clips to tar shards for large trainings.",
    epilog="Example: quran-asr corpus pack data/train.jsonl --to shards/train --jobs 8",
)
@click.argument("manifest")
@click.option("--to", "folder", required=True, metavar="FOLDER", help="Folder for the shards and manifests.")
@click.option(
    "--shard-hours",
    default=2.0,
    show_default=True,
    type=FiniteRange(0.0, 1000.0, min_open=True),
    metavar="HOURS",
    help="Audio of one shard.",
)
@click.option(
    "--codec",
    default="auto",
    show_default=True,
    type=click.Choice(["auto", "flac", "opus"]),
    help="Format of the clips. flac: 16 kHz, 16 bits. opus: 32 kbit/s. auto: whole MP3, Opus and Vorbis "
    "files as they are, else flac.",
)
@jobs_option
@cluster_option
@click.option("--verify", is_flag=True, help="Compare the checksums of shards that are finished already.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def pack(
    manifest: str,
    folder: str,
    shard_hours: float,
    codec: Codec,
    jobs: int | None,
    cluster: str | None,
    verify: bool,
    as_json: bool,
) -> int:
    """Write the clips of MANIFEST to tar shards: audio_0.tar, audio_1.tar, ...

    Shards are copied and read much faster than many small files. Writes manifest.jsonl, which every command
    takes like any other manifest, and tarred_audio_manifest.json for NeMo; WebDataset reads the shards too.
    Clips are mixed, so that training reads shard after shard. Every shard is read back and compared. The same
    command resumes an interrupted run. Clips that cannot be read are listed and left out; exits 1 then.
    """
    from quran_asr.corpus.packing import pack as pack_manifest
    from quran_asr.corpus.workers import executor

    with executor(jobs, cluster) as pool, progress_bar("packing", "shards") as on_progress:
        report = pack_manifest(
            manifest,
            folder,
            pool,
            hours_per_shard=shard_hours,
            codec=codec,
            verify=verify,
            on_progress=on_progress,
        )
    if as_json:
        print_json(
            {
                "manifest": str(report.manifest),
                "nemo_manifest": str(report.nemo_manifest),
                "nemo_shards": report.nemo_shards,
                "shards": report.shards,
                "kept_shards": report.kept_shards,
                "changed_shards": list(report.changed_shards),
                "clips": report.clips,
                "hours": round(report.hours, 4),
                "bytes": report.bytes,
                "dropped": [{"clip": one.clip, "reason": one.reason} for one in report.dropped],
            }
        )
        return int(bool(report.dropped))
    for file in report.changed_shards:
        message = "its checksum is not the recorded one; it was written again"
        print_finding(Finding("warning", "changed-shard", str(report.manifest.with_name(file)), message, ""))
    print_findings(
        [Finding("warning", "dropped-clip", one.clip, one.reason, "") for one in report.dropped[:_LISTED]]
    )
    if len(report.dropped) > _LISTED:
        more = f"{len(report.dropped) - _LISTED:,} more clips; all are listed in {report.manifest}.meta.json"
        print_findings([Finding("warning", "dropped-clip", "", more, "")])
    print_table(
        ("shards", "clips", "hours", "GB", "finished before", "dropped"),
        [
            (
                report.shards,
                report.clips,
                round(report.hours, 2),
                round(report.bytes / 1e9, 3),
                report.kept_shards,
                len(report.dropped),
            )
        ],
    )
    echo(
        f"for NeMo: tarred_audio_filepaths={report.nemo_shards} manifest_filepath={report.nemo_manifest}",
        err=True,
    )
    echo(f"wrote {report.manifest}", err=True)
    return int(bool(report.dropped))
