"""`quran-asr plot`: the curves of runs as a picture and a page."""

from __future__ import annotations

import click


@click.command(epilog="Example: quran-asr plot last --out curves")
@click.argument("runs", metavar="[RUN]...", nargs=-1)
@click.option("--out", metavar="FOLDER", help="Where to write; the folder of the first run if not given.")
def plot(runs: tuple[str, ...], out: str | None) -> int:
    """Draw losses, word error rates and learning rate: curves.png and report.html.

    RUN is the folder of a run, or `last` for the last one under nemo_experiments, which is also drawn if
    none is named. Several runs are laid over each other.
    """
    from pathlib import Path

    from quran_asr.runs.folder import open_run
    from quran_asr.runs.plot import render_report

    opened = [open_run(run) for run in runs or ("last",)]
    written = render_report(opened, Path(out) if out is not None else opened[0].path)
    for path in written:
        click.echo(path)
    return 0
