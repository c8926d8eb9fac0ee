"""`quran-asr corpus import` and `corpus download`: recordings from elsewhere."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from quran_asr.cli.options import FiniteRange, cluster_option, jobs_option, need
from quran_asr.cli.output import echo, print_findings, print_json, print_table, progress_bar
from quran_asr.errors import Finding, QuranAsrError, counted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from quran_asr.corpus.everyayah import DownloadReport, Recitation
    from quran_asr.corpus.importing import Corpus, ImportReport
    from quran_asr.corpus.sources import Role
    from quran_asr.records import VerseRef

_LISTED = 5
"""Dropped rows that are named on the screen for each reason."""


@click.command(
    "import",
    short_help="Make a manifest of a corpus in another layout.",
    epilog="Example: quran-asr corpus import downloads/everyayah/data --to data/everyayah",
)
@click.argument("sources", nargs=-1, required=True, metavar="SOURCE...")
@click.option(
    "--to", "folder", required=True, metavar="FOLDER", help="Folder for manifest.jsonl and the audio."
)
@click.option(
    "--column",
    "columns",
    multiple=True,
    metavar="ROLE=NAME",
    help="The column for audio, text, verse, surah, ayah, reciter, duration or label; an empty NAME for "
    "none. May be repeated. Default: guessed, and shown.",
)
@click.option(
    "--label",
    "labels",
    multiple=True,
    metavar="VALUE",
    help="Take rows with this value in the label column. May be repeated. Default: correct, good, valid, ...",
)
@click.option("--reciter", default="", metavar="NAME", help="Reciter of the rows that name none.")
@jobs_option
@cluster_option
@click.option("--dry-run", is_flag=True, help="Show how the columns are read, and write nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def import_(
    sources: tuple[str, ...],
    folder: str,
    columns: tuple[str, ...],
    labels: tuple[str, ...],
    reciter: str,
    jobs: int | None,
    cluster: str | None,
    dry_run: bool,
    as_json: bool,
) -> int:
    """Make a manifest of SOURCE...: a file, or a folder of such files, of one of these layouts.

    Parquet and arrow files of Hugging Face `datasets`, its audio folders (metadata.csv, metadata.jsonl), zip
    archives of EveryAyah, NeMo's tarred_audio_manifest.json beside its audio_N.tar, lhotse cuts (jsonl,
    jsonl.gz), and tables of Common Voice (tsv). Text that is in the Quran gets its verses. Unusable rows are
    listed with the reason, here and in manifest.jsonl.meta.json. The same command resumes an interrupted run.
    Exits 1 if no row is usable.
    """
    from quran_asr.corpus.importing import import_corpus, look_at, refuse_unused_labels
    from quran_asr.corpus.sources import find_units
    from quran_asr.corpus.workers import executor

    chosen = _chosen(columns)
    units = find_units(sources)
    if any(unit.kind in ("parquet", "arrow") for unit in units):
        need("parquet")
    corpus = look_at(units, chosen)
    refuse_unused_labels(corpus, labels)
    if not as_json or dry_run:
        _show(corpus, as_json)
    if dry_run:
        return 0
    with executor(jobs, cluster) as pool, progress_bar("importing", "parts") as on_progress:
        report = import_corpus(corpus, folder, pool, labels=labels, reciter=reciter, on_progress=on_progress)
    if as_json:
        print_json(_as_json(corpus, report))
    else:
        _print_report(report, folder)
    return int(report.manifest is None)


def _chosen(columns: tuple[str, ...]) -> dict[Role, str]:
    from quran_asr.corpus.sources import ROLES

    chosen: dict[Role, str] = {}
    for written in columns:
        role, equals, name = written.partition("=")
        if not equals or role not in ROLES:
            raise QuranAsrError(
                f"`--column {written}` names no role", remedy=f"write ROLE=NAME; roles are {', '.join(ROLES)}"
            )
        chosen[role] = name
    return chosen


def _show(corpus: Corpus, as_json: bool) -> None:
    if as_json:
        print_json({"layouts": corpus.kinds, "parts": len(corpus.units), "columns": corpus.columns})
        return
    read = ", ".join(f"{role}={name}" for role, name in corpus.columns.items())
    echo(f"{', '.join(corpus.kinds)}: {counted(len(corpus.units), 'part')}; columns: {read}", err=True)
    if corpus.unused:
        echo(f"not used: {', '.join(corpus.unused)}", err=True)


def _print_report(report: ImportReport, folder: str) -> None:
    seen: dict[str, int] = {}
    for one in report.dropped:
        seen[one.reason] = seen.get(one.reason, 0) + 1
        if seen[one.reason] <= _LISTED:
            print_findings([Finding("warning", "dropped-row", one.row, one.detail, "")])
    if report.dropped:
        print_table(("dropped", "rows"), list(report.dropped_by_reason.items()))
    if report.manifest is None:
        echo(f"error: no usable row; nothing was written to {folder}/manifest.jsonl", err=True)
        echo(f"hint: {_remedy(report)}", err=True)
        return
    echo(
        f"kept {counted(report.clips, 'clip')}, {report.hours:.2f} hours, reciters: {report.reciters}, "
        f"with verses: {report.with_verses:,}; dropped {len(report.dropped):,}"
    )
    echo(f"wrote {report.manifest}", err=True)


def _remedy(report: ImportReport) -> str:
    """What to do where no row is usable, by the most frequent reason."""
    from quran_asr.corpus.scan import NO_VERSE

    reason = next(iter(report.dropped_by_reason), "")
    if not reason:
        return "there are files in SOURCE, but no recordings with a known ending among them"
    if reason == NO_VERSE:
        return "recordings in an archive have names such as 002255.mp3, for verse 2:255"
    if reason.startswith(("label `", "no label")):
        return "name the labels to take, --label VALUE, or take all rows: --column label="
    return (
        "see the reasons above; --dry-run shows how the columns are read, and --column ROLE=NAME changes it"
    )


def _as_json(corpus: Corpus, report: ImportReport) -> dict[str, object]:
    return {
        "manifest": None if report.manifest is None else str(report.manifest),
        "layouts": corpus.kinds,
        "columns": corpus.columns,
        "clips": report.clips,
        "hours": round(report.hours, 4),
        "reciters": report.reciters,
        "with_verses": report.with_verses,
        "kept_parts": report.kept_units,
        "dropped_by_reason": report.dropped_by_reason,
        "dropped": [{"row": one.row, "reason": one.reason, "detail": one.detail} for one in report.dropped],
    }


@click.command(
    short_help="Download recitations, verse by verse.",
    epilog="Example: quran-asr corpus download everyayah Alafasy_128kbps --verses 78-114 --to recordings",
)
@click.argument("source", type=click.Choice(["everyayah"]))
@click.argument("reciters", nargs=-1, metavar="RECITER...")
@click.option(
    "--to", "folder", metavar="FOLDER", help="Folder for RECITER/SSSAAA.mp3, as `corpus scan` reads it."
)
@click.option(
    "--verses",
    multiple=True,
    metavar="REF",
    help="Verses such as 112, 78-114, juz 30 or 2:255-257. May be repeated. Default: all 6,236.",
)
@click.option("--list", "list_only", is_flag=True, help="List the reciters that the server offers.")
@click.option(
    "--dry-run", is_flag=True, help="Show how many files would be fetched; ask the server for nothing."
)
@click.option("--from", "address", metavar="URL", help="A mirror. Default: https://everyayah.com/data.")
@click.option(
    "--rate",
    default=4.0,
    show_default=True,
    type=FiniteRange(0.01, 50.0),
    metavar="N",
    help="Maximum number of requests per second.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def download(
    source: str,
    reciters: tuple[str, ...],
    folder: str | None,
    verses: tuple[str, ...],
    list_only: bool,
    dry_run: bool,
    address: str | None,
    rate: float,
    as_json: bool,
) -> int:
    """Download the verses of RECITER... from everyayah.com or a mirror of it.

    Files that are there already are not fetched again, and an interrupted file is resumed. Each
    file is checked: its length, the checksum of the server's list where there is one, and that it is a
    recording and not a web page. Exits 1 if files are missing on the server; they are listed.
    """
    from pathlib import Path

    from quran_asr.corpus import everyayah

    server = everyayah.Server(address or everyayah.SERVER, rate)
    if list_only:
        _print_recitations(everyayah.recitations(server), as_json)
        return 0
    if not reciters or folder is None:
        raise QuranAsrError(
            "no RECITER is named" if not reciters else "no folder is named",
            remedy="--list shows the reciters" if not reciters else "add --to FOLDER",
        )
    refs = _verses(verses)
    if dry_run:
        files, present = everyayah.wanted_files(reciters, refs, Path(folder))
        _print_dry_run(len(files), present, rate, as_json)
        return 0
    everyayah.refuse_unknown(reciters, everyayah.recitations(server))
    with progress_bar("downloading", "files") as on_progress:
        report = everyayah.download(server, reciters, refs, Path(folder), on_progress)
    _print_download(report, folder, as_json)
    return int(bool(report.missing))


def _print_recitations(offered: Sequence[Recitation], as_json: bool) -> None:
    if as_json:
        print_json([{"folder": one.folder, "name": one.name, "bitrate": one.bitrate} for one in offered])
    else:
        rows = [(one.folder, one.name, one.bitrate) for one in offered]
        print_table(("RECITER", "name", "bit rate"), rows)


def _print_dry_run(files: int, present: int, rate: float, as_json: bool) -> None:
    minutes = files / rate / 60
    if as_json:
        print_json({"to_fetch": files, "present": present, "minutes": round(minutes, 1)})
    else:
        echo(f"to fetch: {files:,} files, {minutes:.1f} min or more at {rate:g}/s; there: {present:,}")


def _print_download(report: DownloadReport, folder: str, as_json: bool) -> None:
    if as_json:
        print_json(
            {
                "folder": folder,
                "fetched": report.fetched,
                "bytes": report.bytes,
                "present": report.present,
                "checked": report.checked,
                "missing": [{"url": one.url, "reason": one.reason} for one in report.missing],
            }
        )
        return
    print_findings(
        [Finding("warning", "missing-file", one.url, one.reason, "") for one in report.missing[:_LISTED]]
    )
    echo(
        f"fetched {counted(report.fetched, 'file')}, {report.bytes / 1e6:.1f} MB; "
        f"checksums: {report.checked:,}; there before: {report.present:,}; missing: {len(report.missing):,}"
    )
    echo(f"next: quran-asr corpus scan {folder} --to all.jsonl", err=True)


def _verses(written: tuple[str, ...]) -> list[VerseRef]:
    """The verses of some passages, each once; all where nothing is asked for."""
    from quran_asr.text.passages import read_passage
    from quran_asr.text.quran import load_quran

    refs = [ref for one in written for ref in read_passage(one)]
    return list(dict.fromkeys(refs)) or list(load_quran().refs)
