"""`quran-asr identify`: which verses recordings hold."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from quran_asr.cli.models import (
    as_bundle,
    level_notes_of_files,
    model_option,
    named_or_default,
    refuse_model,
)
from quran_asr.cli.output import echo, print_error, print_findings, progress_bar
from quran_asr.errors import QuranAsrError

if TYPE_CHECKING:
    from quran_asr.runtime.alignment import IdentifiedRecording

ALTERNATIVES = 2
"""So many other places are printed; --json has more."""


@click.command(epilog="Example: quran-asr identify recitation.mp3")
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="FILE...")
@model_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object per line, one for each file.")
def identify(files: tuple[Path, ...], model: Path | None, as_json: bool) -> int:
    """Find the verses that each FILE contains.

    Prints a line for each file, separated by tabs: the file, its verses, and two figures in nats: by how much
    the verses exceed the threshold that recordings without Quran do not reach (evidence), and by how much
    they fit better than the next best place (margin). A recording of up to two minutes in which nothing is
    found is played slower and faster and searched again. Exits 1 if nothing in the Quran fits a file.
    """
    for file in files:
        refuse_model(file)
    nothing, failures = 0, list[QuranAsrError]()
    with as_bundle(named_or_default(model)) as bundle:
        from quran_asr.runtime.alignment import identify as find
        from quran_asr.runtime.recognizer import load

        recognizer = load(bundle, decoder="ctc")
        print_findings(level_notes_of_files(files))
        with progress_bar("identifying", "files") as on_progress:
            for done, file in enumerate(files, start=1):
                try:
                    found = find(file, recognizer)
                except QuranAsrError as error:
                    failures.append(error)
                else:
                    nothing += not found.verses
                    echo(json.dumps(found.to_json(), ensure_ascii=False) if as_json else _line(found))
                on_progress(done, len(files))
    if len(files) == 1 and failures:
        raise failures[0]
    for failure in failures:
        print_error(failure)
    if failures:
        raise QuranAsrError(
            f"{len(failures)} of {len(files)} files could not be identified",
            remedy="each error above has its hint",
        )
    return int(nothing > 0)


def _line(found: IdentifiedRecording) -> str:
    place = found.place
    if not place.verses:
        return f"{found.audio}\t-\tnothing in the Quran fits (evidence {place.evidence:.1f})"
    notes = [f"evidence {place.evidence:.1f}", f"margin {place.margin:.1f}"]
    if found.agreement is not None:
        notes.insert(1, f"agreement of the transducer {found.agreement:.1f}")
    if place.equal:
        same = (" ".join(map(str, other.verses)) for other in place.equal)
        notes.append(f"same words: {', '.join(same)}")
    elif place.alternatives:
        others = (" ".join(map(str, other.verses)) for other in place.alternatives[:ALTERNATIVES])
        notes.append(f"next best: {', '.join(others)}")
    return f"{found.audio}\t{' '.join(map(str, place.verses))}\t{'; '.join(notes)}"
