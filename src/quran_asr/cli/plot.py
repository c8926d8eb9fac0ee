"""`quran-asr plot`: curves of runs as figures and an HTML page."""

from __future__ import annotations

from pathlib import Path

import click

from quran_asr.cli.output import echo


@click.command(epilog="Example: quran-asr plot last --out curves")
@click.argument("runs", metavar="[RUN]...", nargs=-1)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    metavar="FOLDER",
    help="Output folder. Default: the folder of the first run.",
)
@click.option(
    "--transcripts",
    multiple=True,
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Show the worst clips of this transcripts.jsonl of `evaluate` instead of those of the best "
    "validation. May be repeated.",
)
@click.option("--no-audio", is_flag=True, help="Do not include the audio of the worst clips in the page.")
@click.option("--json", "as_json", is_flag=True, help="Print the file names as JSON.")
def plot(
    runs: tuple[str, ...], out: Path | None, transcripts: tuple[Path, ...], no_audio: bool, as_json: bool
) -> int:
    """Plot the curves of runs: PNG files, and report.html, a self-contained page.

    RUN is a run folder, `last` for the latest one under nemo_experiments (the default), a folder or file of
    TensorBoard events of any NeMo run, or a CSV. Several runs share the axes. The page shows losses, word
    error rates, learning rate, gradient norm and throughput, the diagnostics of `watch`, and the worst clips
    with their audio.
    """
    from quran_asr.cli.output import print_json, progress_bar
    from quran_asr.experiments.curve_files import read_curves
    from quran_asr.experiments.plots.report import render_report
    from quran_asr.experiments.run_folder import open_run

    places = [open_run(run).path if run == "last" else Path(run) for run in runs or ("last",)]
    curves = [read_curves(place) for place in places]
    beside = places[0] if places[0].is_dir() else places[0].parent
    with progress_bar("plotting", "figures") as on_progress:
        written = render_report(
            curves,
            out or beside,
            transcripts=transcripts or None,
            audio=not no_audio,
            on_progress=on_progress,
        )
    if as_json:
        print_json({"pictures": [str(path) for path in written.pictures], "page": str(written.page)})
    else:
        for path in (*written.pictures, written.page):
            echo(path)
    return 0
