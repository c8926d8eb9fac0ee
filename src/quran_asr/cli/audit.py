"""`quran-asr corpus audit`: which clips are fit to train on, and why the others are not."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from quran_asr.cli.numbers import FiniteRange
from quran_asr.cli.printing import (
    echo,
    findings_as_json,
    print_findings,
    print_json,
    print_table,
    progress_bar,
)
from quran_asr.findings import counted

if TYPE_CHECKING:
    from quran_asr.corpus.audit import AuditReport


@click.command(
    short_help="Measure and judge every clip: sound, pace, text, copies.",
    epilog="Example: quran-asr corpus audit data/all.jsonl --to data/audited",
)
@click.argument("manifest")
@click.option(
    "--to", "folder", metavar="FOLDER", help="Where the results go. Default: the folder of the manifest."
)
@click.option(
    "--too-slow",
    default=4.0,
    show_default=True,
    type=FiniteRange(1.0, 50.0),
    metavar="DEVIATIONS",
    help="Reject clips that last so many of the reciter's deviations longer than their words take.",
)
@click.option(
    "--too-fast",
    default=3.5,
    show_default=True,
    type=FiniteRange(1.0, 50.0),
    metavar="DEVIATIONS",
    help="The same of clips that are shorter.",
)
@click.option(
    "--clipping",
    default=0.012,
    show_default=True,
    type=FiniteRange(0.0, 1.0),
    metavar="SHARE",
    help="Reject clips with more than this share of samples at full scale.",
)
@click.option(
    "--silence",
    default=0.33,
    show_default=True,
    type=FiniteRange(0.0, 1.0),
    metavar="SHARE",
    help="Reject clips of which more than this share is silent.",
)
@click.option("--workers", type=click.IntRange(1, 1024), help="Processes. Default: one for each processor.")
@click.option("--no-audio", is_flag=True, help="A page without players: recordings may not be passed on.")
@click.option("--no-cache", is_flag=True, help="Measure again what an earlier audit has measured.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def audit(
    manifest: str,
    folder: str | None,
    too_slow: float,
    too_fast: float,
    clipping: float,
    silence: float,
    workers: int | None,
    no_audio: bool,
    no_cache: bool,
    as_json: bool,
) -> int:
    """Measure and judge every clip of MANIFEST. No model is needed, and nothing in it is changed.

    Each clip is decoded; level, clipping, silence, noise, bandwidth and its edges are measured; its length is
    compared with what its words take this reciter; copies are found; its text is compared with its verses.
    Writes clean.jsonl, rejects.jsonl (with the reasons), audit.jsonl (all measurements) and audit.html.
    Exits 1 on errors: clips that do not decode, copies with other words, shifted numbering, wrong text.
    """
    from dataclasses import replace
    from pathlib import Path

    from quran_asr.corpus.audit import audit as audit_manifest
    from quran_asr.corpus.audit import write_audit
    from quran_asr.corpus.audit_page import write_page
    from quran_asr.corpus.verdict import LIMITS
    from quran_asr.files import cache_folder

    limits = replace(
        LIMITS,
        too_slow=too_slow,
        too_fast=too_fast,
        clipped=clipping,
        clipped_warning=min(clipping, LIMITS.clipped_warning),
        silence_share=silence,
    )
    with progress_bar("measuring", "clips") as on_progress:
        report = audit_manifest(
            manifest,
            limits=limits,
            workers=workers,
            cache=None if no_cache else cache_folder() / "audit.sqlite",
            on_progress=on_progress,
        )
    to = Path(folder) if folder is not None else Path(manifest).parent
    page = to / "audit.html"
    replaced = [*([page] if page.exists() else []), *write_audit(report, to)]
    write_page(report, page, with_audio=not no_audio)
    if as_json:
        print_json(_as_json(report, to))
        return int(any(finding.severity == "error" for finding in report.findings))
    code = print_findings(report.findings)
    _print_tables(report)
    for path in replaced:
        echo(f"replaced {path}", err=True)
    for name in ("clean.jsonl", "rejects.jsonl", "audit.jsonl", "audit.html"):
        if to / name not in replaced:
            echo(f"wrote {to / name}", err=True)
    return code


def _print_tables(report: AuditReport) -> None:
    from quran_asr.corpus.verdict import REASONS

    print_table(
        (
            "reciter",
            "clips",
            "hours",
            "rejected",
            "SNR dB",
            "level dB",
            "bandwidth Hz",
            "letters/s",
            "scatter",
        ),
        [
            (
                row["reciter"] or "(no name)",
                row["clips"],
                row["hours"],
                row["rejected"],
                *("-" if row[key] is None else row[key] for key in _MEDIANS),
                "-" if row["pace_scatter"] is None else row["pace_scatter"],
            )
            for row in _reciters(report)
        ],
    )
    if report.reasons:
        echo()
        print_table(
            ("reason", "clips", "verdict", "meaning"),
            [(code, n, REASONS[code].action, REASONS[code].meaning) for code, n in report.reasons.items()],
        )
    clean, rejects = report.clean, report.rejects
    speed = report.effort.times_real_time
    how = f"measured at {speed:.0f} times real time a core" if speed else "all from the cache"
    echo(
        f"\nkept {counted(len(clean), 'clip')}, {_hours(clean):.2f} hours; rejected {len(rejects):,}, "
        f"{_hours(rejects):.2f} hours; {how}"
    )


_MEDIANS = ("snr_db", "level_db", "bandwidth_hz", "letters_per_second")


def _hours(verdicts: list[Any]) -> float:
    return float(sum(one.segment.duration for one in verdicts) / 3600)


def _reciters(report: AuditReport) -> list[dict[str, Any]]:
    """Clips, hours and medians of each reciter."""
    from statistics import median

    from quran_asr.corpus.audit import clip_to_json

    rows = []
    for reciter in sorted({one.segment.reciter for one in report.verdicts}):
        those = [one for one in report.verdicts if one.segment.reciter == reciter]
        measured = [clip for clip in map(clip_to_json, those) if clip["signal"]]
        pace = report.paces.get(reciter)
        row: dict[str, Any] = {
            "reciter": reciter,
            "clips": len(those),
            "hours": round(_hours(those), 3),
            "rejected": sum(not one.kept for one in those),
            "pace_scatter": None if pace is None else round(pace.scatter, 3),
            "pace_of_his_own": bool(pace and pace.own),
        }
        for key in _MEDIANS:
            values = [clip["signal"].get(key, clip.get(key)) for clip in measured]
            row[key] = round(median(values), 0 if key == "bandwidth_hz" else 1) if values else None
        rows.append(row)
    return rows


def _as_json(report: AuditReport, to: Any) -> dict[str, Any]:
    from quran_asr.corpus.audit import clip_to_json

    effort = report.effort
    speed = effort.times_real_time
    return {
        "manifest": str(report.manifest),
        "clips": len(report.verdicts),
        "hours": round(_hours(list(report.verdicts)), 4),
        "clean": {
            "manifest": str(to / "clean.jsonl"),
            "clips": len(report.clean),
            "hours": round(_hours(report.clean), 4),
        },
        "rejects": {
            "manifest": str(to / "rejects.jsonl"),
            "clips": len(report.rejects),
            "hours": round(_hours(report.rejects), 4),
        },
        "reasons": report.reasons,
        "reciters": {row.pop("reciter"): row for row in _reciters(report)},
        "findings": findings_as_json(report.findings),
        "effort": {
            "measured": effort.clips,
            "cached": effort.cached,
            "cpu_seconds": round(effort.cpu_seconds, 2),
            "times_real_time": None if speed is None else round(speed, 1),
        },
        "page": str(to / "audit.html"),
        "clips_measured": [clip_to_json(one) for one in report.verdicts],
    }
