"""`quran-asr corpus`: from recordings to manifests; align, audit, split and synthesize them."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from quran_asr.cli.corpus_align import align, workers_of
from quran_asr.cli.corpus_import import download, import_
from quran_asr.cli.corpus_pack import pack
from quran_asr.cli.models import as_bundle, model_option, named_or_default
from quran_asr.cli.options import FiniteRange, cluster_option
from quran_asr.cli.output import echo, findings_as_json, print_findings, print_json, print_table, progress_bar
from quran_asr.errors import Finding, QuranAsrError, counted

if TYPE_CHECKING:
    from quran_asr.corpus.audit import AuditReport
    from quran_asr.corpus.scan import ScanReport


@click.command(
    short_help="Check every clip: signal, speech rate, text, duplicates.",
    epilog="Example: quran-asr corpus audit data/all.jsonl --to data/audited",
)
@click.argument("manifest")
@click.option("--to", "folder", metavar="FOLDER", help="Output folder. Default: the folder of the manifest.")
@click.option(
    "--too-slow",
    default=4.0,
    show_default=True,
    type=FiniteRange(1.0, 50.0),
    metavar="DEVIATIONS",
    help="Reject clips longer than the duration model of the reciter expects, by this many standard "
    "deviations.",
)
@click.option(
    "--too-fast",
    default=3.5,
    show_default=True,
    type=FiniteRange(1.0, 50.0),
    metavar="DEVIATIONS",
    help="The same for clips that are shorter.",
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
    help="Reject clips with more than this share of silence.",
)
@click.option(
    "--workers", type=click.IntRange(1, 1024), metavar="N", help="Processes. Default: one for each core."
)
@click.option(
    "--align",
    "aligned",
    is_flag=True,
    help="Also align each clip with its words, by --model: finds swapped clips and cuts of any length.",
)
@model_option
@cluster_option
@click.option(
    "--no-audio", is_flag=True, help="Make the page without audio, if the recordings may not be shared."
)
@click.option("--no-cache", is_flag=True, help="Ignore the measurements of earlier audits.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def audit(
    manifest: str,
    folder: str | None,
    too_slow: float,
    too_fast: float,
    clipping: float,
    silence: float,
    workers: int | None,
    aligned: bool,
    model: Path | None,
    cluster: str | None,
    no_audio: bool,
    no_cache: bool,
    as_json: bool,
) -> int:
    """Check every clip of MANIFEST; MANIFEST itself is not changed. No model is needed.

    Decodes each clip; measures level, clipping, silence, noise, bandwidth and edges; compares its duration
    with the speech rate of the reciter, and its text with its verses; finds duplicates. Writes clean.jsonl,
    rejects.jsonl (with reasons), audit.jsonl (all measurements) and audit.html. Exits 1 on errors: clips that
    cannot be decoded, duplicates with different words, shifted verse numbers, wrong text.
    """
    from contextlib import nullcontext
    from dataclasses import replace

    from quran_asr.corpus.audit import audit as audit_manifest
    from quran_asr.corpus.audit import write_audit
    from quran_asr.corpus.audit_page import write_page
    from quran_asr.corpus.audit_rules import LIMITS
    from quran_asr.files import cache_folder

    limits = replace(
        LIMITS,
        too_slow=too_slow,
        too_fast=too_fast,
        clipped=clipping,
        clipped_warning=min(clipping, LIMITS.clipped_warning),
        silence_share=silence,
    )
    if model is not None and not aligned:
        raise QuranAsrError("--model is for --align only", remedy="add --align, or leave --model out")
    with (
        as_bundle(named_or_default(model)) if aligned else nullcontext() as bundle,
        workers_of(cluster) as executor,
        progress_bar("measuring", "clips") as on_progress,
    ):
        report = audit_manifest(
            manifest,
            limits=limits,
            workers=workers,
            executor=executor,
            cache=None if no_cache else cache_folder() / "audit.sqlite",
            bundle=bundle.resolve() if bundle is not None else None,
            on_progress=on_progress,
            on_aligned=on_progress,
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
    from quran_asr.corpus.audit_rules import REASONS

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
                "-" if row["speech_rate_scatter"] is None else row["speech_rate_scatter"],
            )
            for row in _reciters(report)
        ],
    )
    if report.reasons:
        echo()
        print_table(
            ("reason", "clips", "action", "meaning"),
            [(code, n, REASONS[code].action, REASONS[code].meaning) for code, n in report.reasons.items()],
        )
    clean, rejects = report.clean, report.rejects
    speed = report.effort.times_real_time
    how = f"measured at {speed:.0f} times real time per core" if speed else "all from the cache"
    echo(
        f"\nkept {counted(len(clean), 'clip')}, {_hours(clean):.2f} hours; rejected {len(rejects):,}, "
        f"{_hours(rejects):.2f} hours; {how}"
    )


_MEDIANS = ("snr_db", "level_db", "bandwidth_hz", "letters_per_second")


def _hours(clips: list[Any]) -> float:
    return float(sum(one.segment.duration for one in clips) / 3600)


def _reciters(report: AuditReport) -> list[dict[str, Any]]:
    """Clips, hours and medians of each reciter."""
    from statistics import median

    from quran_asr.corpus.audit import clip_to_json

    rows = []
    for reciter in sorted({one.segment.reciter for one in report.clips}):
        those = [one for one in report.clips if one.segment.reciter == reciter]
        measured = [clip for clip in map(clip_to_json, those) if clip["signal"]]
        duration_model = report.duration_models.get(reciter)
        row: dict[str, Any] = {
            "reciter": reciter,
            "clips": len(those),
            "hours": round(_hours(those), 3),
            "rejected": sum(not one.kept for one in those),
            "speech_rate_scatter": None if duration_model is None else round(duration_model.scatter, 3),
            "own_speech_rate": bool(duration_model and duration_model.own),
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
        "clips": len(report.clips),
        "hours": round(_hours(list(report.clips)), 4),
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
        "clips_measured": [clip_to_json(one) for one in report.clips],
    }


_LISTED = 20
"""Dropped files that are named on the screen for each reason; all stand in the sidecar."""

_LONGEST_NAMED = 5


@click.group(epilog="Example: quran-asr corpus scan recordings --to data/all.jsonl")
def corpus() -> None:
    """Download, import, scan, align, audit, split, pack or synthesize recordings; makes manifests."""


@corpus.command(
    short_help="Find recordings and write a manifest.",
    epilog="Example: quran-asr corpus scan recordings --to data/all.jsonl",
)
@click.argument("folders", nargs=-1, required=True, metavar="FOLDER...")
@click.option("--to", "manifest", required=True, metavar="MANIFEST", help="The manifest to write.")
@click.option(
    "--max-duration",
    default=40.0,
    show_default=True,
    type=FiniteRange(min=0.0, min_open=True, max=86_400.0),
    metavar="SECONDS",
    help="Report clips over this length. They stay in the manifest.",
)
@click.option(
    "--decode",
    is_flag=True,
    help="Decode every file to its end: slower, finds damage "
    "inside, and silent, very quiet and clipped recordings.",
)
@cluster_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def scan(
    folders: tuple[str, ...],
    manifest: str,
    max_duration: float,
    decode: bool,
    cluster: str | None,
    as_json: bool,
) -> int:
    """Find the recordings in FOLDER... and write a manifest.

    Expects the layout of everyayah.com: RECITER/SSSAAA.mp3 (or wav, flac, ogg, opus; m4a and others with the
    extra `media`), where 002255 is verse 2:255. A FOLDER may contain one reciter or many. Files of the
    basmala (SSS000, bismillah) and the isti'adha (audhubillah) are recognized as such. Unusable files are
    listed with the reason, here and in MANIFEST.meta.json. Exits 1 if no file is usable; then nothing is
    written.
    """
    from quran_asr.corpus.scan import LAYOUT, NO_VERSE
    from quran_asr.corpus.scan import scan as scan_folders
    from quran_asr.level_meter import summarized

    with workers_of(cluster) as executor, progress_bar("scanning", "files") as on_progress:
        report = scan_folders(
            folders,
            manifest,
            max_duration=max_duration,
            decode=decode,
            executor=executor,
            on_progress=on_progress,
        )
    print_findings(summarized(report.notes))
    if as_json:
        print_json(_scan_as_json(report, manifest))
        return int(not report.clips)
    print_findings(_dropped_files(report, manifest))
    if not report.clips:
        echo(f"error: no usable recording in {', '.join(folders)}{_dropped_and_ignored(report)}", err=True)
        if all(drop.reason == NO_VERSE for drop in report.dropped):
            echo(f"hint: looked for {LAYOUT}", err=True)
        return 1
    print_table(
        ("reciter", "clips", "hours"),
        [(name, clips, f"{hours:.2f}") for name, (clips, hours) in report.reciters.items()],
    )
    others = [f"{report.kinds[kind]:,} x {kind}" for kind in ("basmala", "istiadha") if kind in report.kinds]
    echo(
        f"kept {counted(report.clips, 'clip')}, {report.hours:.2f} hours, reciters: {len(report.reciters)}, "
        f"different verses: {report.verses:,}{' and ' + ', '.join(others) if others else ''}"
        f"{_dropped_and_ignored(report)}"
    )
    if report.over_long:
        longest = sorted(report.over_long, key=lambda clip: (-clip.seconds, clip.path))[:_LONGEST_NAMED]
        echo(
            f"over {max_duration:g} s: {counted(len(report.over_long), 'clip')}, "
            f"{report.over_long_hours:.2f} hours "
            f"({report.over_long_hours / report.hours:.1%}), kept; all in {manifest}.meta.json, the longest: "
            + ", ".join(f"{clip.path} ({clip.seconds:.0f} s)" for clip in longest)
        )
    echo(f"wrote {manifest}", err=True)
    return 0


def _dropped_and_ignored(report: ScanReport) -> str:
    """The end of the summary's sentence."""
    parts = []
    if report.dropped:
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in report.dropped_by_reason.items())
        parts.append(f"dropped {len(report.dropped):,} ({reasons})")
    if report.ignored:
        parts.append("ignored " + ", ".join(f"{count:,} x {what}" for what, count in report.ignored.items()))
    return "".join(f"; {part}" for part in parts)


def _dropped_files(report: ScanReport, manifest: str) -> list[Finding]:
    """A warning for each dropped file, the first of each reason; then how many more there are."""
    findings = []
    listed: Counter[str] = Counter()
    for drop in report.dropped:
        listed[drop.reason] += 1
        if listed[drop.reason] <= _LISTED:
            findings.append(Finding("warning", "dropped-recording", str(drop.path), drop.detail, ""))
    for reason, count in listed.items():
        if count > _LISTED:
            message = f"{count - _LISTED:,} more: {reason}"
            all_are = f"all are listed in {manifest}.meta.json" if report.clips else "--json lists all"
            findings.append(Finding("warning", "dropped-recording", "", message, all_are))
    return findings


def _scan_as_json(report: ScanReport, manifest: str) -> dict[str, object]:
    return {
        "manifest": manifest if report.clips else None,
        "clips": report.clips,
        "hours": round(report.hours, 4),
        "kinds": report.kinds,
        "verses": report.verses,
        "reciters": {
            name: {"clips": clips, "hours": round(hours, 4)}
            for name, (clips, hours) in report.reciters.items()
        },
        "dropped_by_reason": report.dropped_by_reason,
        "dropped": [
            {"file": str(drop.path), "reason": drop.reason, "detail": drop.detail} for drop in report.dropped
        ],
        "ignored": report.ignored,
        "max_duration": report.max_duration,
        "over_long": {
            "clips": len(report.over_long),
            "hours": round(report.over_long_hours, 4),
            "files": [{"file": str(clip.path), "seconds": clip.seconds} for clip in report.over_long],
        },
    }


@corpus.command(
    short_help="Split a manifest into training and validation without leakage.",
    epilog="Example: quran-asr corpus split data/all.jsonl --by verse --to data",
)
@click.argument("manifest")
@click.option(
    "--by",
    required=True,
    type=click.Choice(["reciter", "verse"]),
    help="What is held out as a whole: reciters (to measure on unseen voices) or verses (on unseen text).",
)
@click.option(
    "--to", "folder", required=True, metavar="FOLDER", help="Folder for train.jsonl and the others."
)
@click.option(
    "--hold-out",
    multiple=True,
    metavar="NAME",
    help="A reciter, or verses such as 112 or 2:255-257, for validation. May be repeated. Default: random.",
)
@click.option("--test", is_flag=True, help="Also write test.jsonl, a random split of size --share.")
@click.option(
    "--test-on", multiple=True, metavar="NAME", help="Same as --hold-out, for test.jsonl. May be repeated."
)
@click.option(
    "--share",
    default=0.05,
    show_default=True,
    type=FiniteRange(0.0, 1.0, min_open=True, max_open=True),
    metavar="SHARE",
    help="Share of the hours in each random split; it may be larger, since reciters and verses stay whole.",
)
@click.option("--seed", default=0, show_default=True, metavar="N", help="Seed of the random splits.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def split(
    manifest: str,
    by: Literal["reciter", "verse"],
    folder: str,
    hold_out: tuple[str, ...],
    test: bool,
    test_on: tuple[str, ...],
    share: float,
    seed: int,
    as_json: bool,
) -> int:
    """Split MANIFEST into FOLDER/train.jsonl and FOLDER/validation.jsonl without leakage.

    Verses of the same wording (55:13 and its 30 repetitions) count as one. The table shows what the splits
    still share: with --by reciter the text is seen in training, with --by verse the reciters are.
    """
    from quran_asr.corpus.split import split as split_manifest

    wanted = test_on if test or test_on else None
    report = split_manifest(manifest, folder, by=by, hold_out=hold_out, test=wanted, share=share, seed=seed)
    if as_json:
        splits = {
            name: {
                "manifest": str(part.manifest),
                "clips": part.clips,
                "hours": part.hours,
                "reciters": list(part.reciters),
                "texts": part.texts,
                "seen_reciters": part.seen_reciters,
                "seen_texts": part.seen_texts,
            }
            for name, part in report.splits.items()
        }
        print_json({"by": report.by, "seed": report.seed, "splits": splits})
        return 0
    print_table(
        ("split", "clips", "hours", "reciters", "texts", "reciter seen", "text seen"),
        [
            (
                name,
                part.clips,
                round(part.hours, 2),
                len(part.reciters),
                part.texts,
                *(
                    "-" if name == "train" else f"{seen:.1%}"
                    for seen in (part.seen_reciters, part.seen_texts)
                ),
            )
            for name, part in report.splits.items()
        ],
    )
    echo("seen: share of the clips whose reciter, or text, is also in training", err=True)
    for name, part in report.splits.items():
        if name != "train" and by == "reciter":
            echo(f"{name}: {', '.join(part.reciters)}", err=True)
        echo(f"wrote {part.manifest}", err=True)
    for stale in report.stale:
        message = "it belongs to an earlier split and may share clips with the new training set"
        print_findings(
            [Finding("warning", "stale-manifest", str(stale), message, "delete it, or split with --test")]
        )
    return 0


@corpus.command(
    short_help="Synthesize verses with eSpeak NG.",
    epilog="Example: quran-asr corpus synthesize 1 112 --voices ar,ar+f2 --to synthetic",
)
@click.argument("references", nargs=-1, required=True, metavar="REF...")
@click.option(
    "--to", "folder", required=True, metavar="FOLDER", help="Folder for the audio and manifest.jsonl."
)
@click.option(
    "--voices",
    default="ar",
    show_default=True,
    metavar="VOICE,...",
    help="Voices of eSpeak NG: ar, ar+f2, ar+Andy, ...",
)
@click.option(
    "--fragments",
    default=0,
    show_default=True,
    type=click.IntRange(min=0),
    metavar="N",
    help="Also cut this many fragments of one to four words out of each clip.",
)
@click.option(
    "--seed", default=0, show_default=True, metavar="N", help="Seed of the rate and pitch of each clip."
)
def synthesize(references: tuple[str, ...], folder: str, voices: str, fragments: int, seed: int) -> int:
    """Synthesize the verses REF... (2:255, 2:255-257, 112 or Al-Ikhlas, 112-114, juz 30) with eSpeak NG.

    For trying things out: synthetic voices do not recite. Prints the path of the manifest.
    """
    from quran_asr.corpus.synthesis import synthesize_corpus
    from quran_asr.text.passages import read_passage

    refs = [ref for reference in references for ref in read_passage(reference)]
    names = [voice.strip() for voice in voices.split(",") if voice.strip()]
    before = Path(folder) / "manifest.jsonl"
    if before.is_file():
        lines = sum(1 for line in before.read_bytes().splitlines() if line.strip())
        echo(f"{before}: {counted(lines, 'line')} of an earlier corpus, now replaced", err=True)
    with progress_bar("synthesizing", "clips") as on_progress:
        manifest = synthesize_corpus(
            refs, names, folder, seed, fragments_per_verse=fragments, on_progress=on_progress
        )
    echo(manifest)
    return 0


for command in (align, audit, download, import_, pack):
    corpus.add_command(command)
