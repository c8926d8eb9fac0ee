"""`quran-asr corpus`: recordings in, manifests out."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Literal

import click

from quran_asr.cli.audit import audit
from quran_asr.cli.numbers import FiniteRange
from quran_asr.cli.printing import echo, print_findings, print_json, print_table, progress_bar
from quran_asr.findings import Finding, counted

if TYPE_CHECKING:
    from quran_asr.corpus.scan import ScanReport

_LISTED = 20
"""Dropped files that are named on the screen for each reason; all stand in the sidecar."""

_LONGEST_NAMED = 5


@click.group(epilog="Example: quran-asr corpus scan recordings --to data/all.jsonl")
def corpus() -> None:
    """Make manifests: from recordings, from a synthetic voice, into training and validation sets."""


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
    help="Count, name and weigh the clips over this length. They stay in the manifest.",
)
@click.option(
    "--decode", is_flag=True, help="Decode every file to its end: finds damage inside, takes longer."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def scan(folders: tuple[str, ...], manifest: str, max_duration: float, decode: bool, as_json: bool) -> int:
    """Find the recordings in FOLDER... and write a manifest.

    The layout is that of everyayah.com: RECITER/SSSAAA.mp3 (or wav, flac, ogg, opus), where 002255 is verse
    2:255. A FOLDER may be one reciter's or hold many. The basmala (SSS000, bismillah) and the isti'adha
    (audhubillah) are kept as what they are. What cannot be used is listed with its reason, here and in
    MANIFEST.meta.json. Exits 1 when nothing can be used; then nothing is written.
    """
    from quran_asr.corpus.scan import scan as scan_folders
    from quran_asr.corpus.sources import LAYOUT, NO_VERSE

    with progress_bar("looking at recordings", "files") as on_progress:
        report = scan_folders(
            folders, manifest, max_duration=max_duration, decode=decode, on_progress=on_progress
        )
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
        [(name, clips, round(hours, 2)) for name, (clips, hours) in report.reciters.items()],
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
            said = f"{count - _LISTED:,} more: {reason}"
            all_are = f"all are listed in {manifest}.meta.json" if report.clips else "--json lists all"
            findings.append(Finding("warning", "dropped-recording", "", said, all_are))
    return findings


def _scan_as_json(report: ScanReport, manifest: str) -> dict[str, object]:
    return {
        "manifest": manifest if report.clips else None,
        "clips": report.clips,
        "hours": report.hours,
        "kinds": report.kinds,
        "verses": report.verses,
        "reciters": {
            name: {"clips": clips, "hours": hours} for name, (clips, hours) in report.reciters.items()
        },
        "dropped_by_reason": report.dropped_by_reason,
        "dropped": [
            {"file": str(drop.path), "reason": drop.reason, "detail": drop.detail} for drop in report.dropped
        ],
        "ignored": report.ignored,
        "max_duration": report.max_duration,
        "over_long": {
            "clips": len(report.over_long),
            "hours": report.over_long_hours,
            "files": [{"file": str(clip.path), "seconds": clip.seconds} for clip in report.over_long],
        },
    }


@corpus.command(
    short_help="Divide a manifest into training and validation, without leaks.",
    epilog="Example: quran-asr corpus split data/all.jsonl --by verse --to data",
)
@click.argument("manifest")
@click.option(
    "--by",
    required=True,
    type=click.Choice(["reciter", "verse"]),
    help="What is held out whole: reciters (how well are unseen voices heard?) or verses (unseen words?).",
)
@click.option("--to", "folder", required=True, metavar="FOLDER", help="Where train.jsonl and the others go.")
@click.option(
    "--hold-out",
    multiple=True,
    metavar="NAME",
    help="A reciter, or verses such as 112 or 2:255-257, for validation; may be given again. Default: drawn.",
)
@click.option("--test", is_flag=True, help="Also make test.jsonl, drawn as --share says.")
@click.option("--test-on", multiple=True, metavar="NAME", help="The same as --hold-out, for test.jsonl.")
@click.option(
    "--share",
    default=0.05,
    show_default=True,
    type=FiniteRange(0.0, 1.0, min_open=True, max_open=True),
    help="Share of the hours that each drawn set gets; a reciter or a verse is never cut, so it can be more.",
)
@click.option("--seed", default=0, show_default=True, help="Another seed draws others.")
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
    """Divide MANIFEST into FOLDER/train.jsonl and FOLDER/validation.jsonl without leaks.

    Verses of the same wording (55:13 and its 30 twins) count as one. The table says what the sides still
    share: with --by reciter the words are seen in training, with --by verse the voices are.
    """
    from quran_asr.corpus.split import split as split_manifest

    wanted = test_on if test or test_on else None
    report = split_manifest(manifest, folder, by=by, hold_out=hold_out, test=wanted, share=share, seed=seed)
    if as_json:
        sides = {
            name: {
                "manifest": str(side.manifest),
                "clips": side.clips,
                "hours": side.hours,
                "reciters": list(side.reciters),
                "texts": side.texts,
                "seen_reciters": side.seen_reciters,
                "seen_texts": side.seen_texts,
            }
            for name, side in report.sides.items()
        }
        print_json({"by": report.by, "seed": report.seed, "sides": sides})
        return 0
    print_table(
        ("side", "clips", "hours", "reciters", "texts", "reciter seen", "words seen"),
        [
            (
                name,
                side.clips,
                round(side.hours, 2),
                len(side.reciters),
                side.texts,
                *(
                    "-" if name == "train" else f"{seen:.1%}"
                    for seen in (side.seen_reciters, side.seen_texts)
                ),
            )
            for name, side in report.sides.items()
        ],
    )
    echo("seen: share of the clips whose reciter, or words, are in training too", err=True)
    for name, side in report.sides.items():
        if name != "train" and by == "reciter":
            echo(f"{name}: {', '.join(side.reciters)}", err=True)
        echo(f"wrote {side.manifest}", err=True)
    for stale in report.stale:
        said = "it is of an earlier split and may share clips with the new training set"
        print_findings(
            [Finding("warning", "stale-manifest", str(stale), said, "delete it, or split with --test")]
        )
    return 0


@corpus.command(
    short_help="Have verses spoken by synthetic voices.",
    epilog="Example: quran-asr corpus speak 1 112 --voices ar,ar+f2 --to spoken",
)
@click.argument("references", nargs=-1, required=True, metavar="REF...")
@click.option("--to", "folder", required=True, metavar="FOLDER", help="Where sound and manifest.jsonl go.")
@click.option(
    "--voices", default="ar", show_default=True, metavar="VOICE,...", help="ar, ar+f2, ar+Andy, ..."
)
@click.option(
    "--fragments",
    default=0,
    show_default=True,
    type=click.IntRange(min=0),
    help="Also so many pieces of one to four words out of each clip.",
)
@click.option("--seed", default=0, show_default=True, help="Draws rate and pitch of each clip.")
def speak(references: tuple[str, ...], folder: str, voices: str, fragments: int, seed: int) -> int:
    """Have the verses REF... (2:255, 2:255-257, or 112 for a whole surah) spoken by a synthetic voice.

    This is for trying things out: eSpeak's voices do not recite. Prints the path of the manifest.
    """
    from pathlib import Path

    from quran_asr.corpus.speak import speak_corpus
    from quran_asr.text.passages import parse_range

    refs = [ref for reference in references for ref in parse_range(reference)]
    names = [voice.strip() for voice in voices.split(",") if voice.strip()]
    before = Path(folder) / "manifest.jsonl"
    if before.is_file():
        lines = sum(1 for line in before.read_bytes().splitlines() if line.strip())
        echo(f"{before}: {counted(lines, 'line')} of an earlier corpus, now replaced", err=True)
    with progress_bar("speaking", "clips") as on_progress:
        manifest = speak_corpus(
            refs, names, folder, seed, fragments_per_verse=fragments, on_progress=on_progress
        )
    echo(manifest)
    return 0


corpus.add_command(audit)
