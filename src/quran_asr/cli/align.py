"""`quran-asr align`: word and verse times of recordings, subtitles and verse clips."""

from __future__ import annotations

import json
import re
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
from quran_asr.cli.options import need
from quran_asr.cli.output import echo, print_error, print_findings, print_table, progress_bar
from quran_asr.errors import QuranAsrError

if TYPE_CHECKING:
    from quran_asr.runtime.alignment import AlignedRecording

SPELLINGS = ("uthmani", "diacritized", "letters")
FORMATS = ("textgrid", "srt", "webvtt", "audacity", "csv")


@click.command(epilog="Example: quran-asr align 036.mp3 --verses 36 --format srt --clips clips/reciter")
@click.argument(
    "recordings", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="RECORDING..."
)
@click.option(
    "--verses",
    metavar="VERSES",
    help="What the recordings contain: 36, Ya-Sin, 2:1-141, 112-114 (surahs), 1:1-2:5, juz 30, or several "
    "with commas between them (78,79). Default: searched in the whole Quran.",
)
@model_option
@click.option(
    "--spelling",
    type=click.Choice(SPELLINGS),
    help="Spelling of the words in all outputs (uthmani: as in the mushaf). Default: the model's.",
)
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object per line, one for each recording.")
@click.option(
    "--format",
    "formats",
    multiple=True,
    type=click.Choice(FORMATS),
    help="Write a file in this format for each recording, named after it.",
)
@click.option(
    "--to",
    "folder",
    type=click.Path(path_type=Path, file_okay=False),
    default=".",
    show_default=True,
    help="Folder for the files of --format.",
)
@click.option(
    "--overwrite",
    is_flag=True,
    help="Replace files that --format wrote for an earlier alignment, though they may have been corrected by "
    "hand. Other files are never replaced.",
)
@click.option(
    "--clips",
    "clips_folder",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="FOLDER",
    help="Cut the verses into clips in FOLDER, named as EveryAyah names them (002255.flac is 2:255). "
    "Clips that are there already are not replaced.",
)
@click.option(
    "--plot",
    "picture",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE.png",
    help="Draw the waveform with words and scores into this file, which is replaced (one recording; needs "
    "the extra `plot`).",
)
def align(
    recordings: tuple[Path, ...],
    verses: str | None,
    model: Path | None,
    spelling: str | None,
    as_json: bool,
    formats: tuple[str, ...],
    folder: Path,
    overwrite: bool,
    clips_folder: Path | None,
    picture: Path | None,
) -> int:
    """Find when each word of each RECORDING is recited.

    Prints a table of verses, formulas (basmala, isti'adha, amin), repeats and speech that is not Quran;
    --json has the words too. Repeated, missing and reordered verses are found as they are recited. Words in
    whose place something else is recognized are listed with both: the reciter is never corrected in silence.
    Recordings may be hours long. Exit code 1 where no verse is found in a recording.
    """
    from quran_asr.files import require_writable
    from quran_asr.text.passages import read_passage

    passage = None if verses is None else read_passage(verses)
    _refuse_equal_names(recordings if formats else ())
    if picture is not None:
        _refuse_picture(picture, recordings)
        need("plot")
    for path in recordings:
        refuse_model(path)
        for name in formats:
            _refuse_existing(_file_of(path, name, folder), name, overwrite=overwrite)
    for target in (folder if formats else None, clips_folder, picture and picture.parent):
        if target is not None:
            require_writable(target)
    nothing, failures = 0, list[QuranAsrError]()
    with as_bundle(named_or_default(model)) as bundle:
        from quran_asr.runtime.alignment import align as find
        from quran_asr.runtime.alignment import in_spelling
        from quran_asr.runtime.alignment_plot import plot_alignment
        from quran_asr.runtime.recognizer import load

        recognizer = load(bundle, decoder="ctc")
        print_findings(level_notes_of_files(recordings))
        with progress_bar("aligning", "recordings") as on_progress:
            for done, path in enumerate(recordings, start=1):
                try:
                    spelled = find(path, passage, recognizer)
                    found = in_spelling(spelled, spelling or spelled.spelling)
                    nothing += not any(segment.verses for segment in found.segments)
                    if as_json:
                        echo(json.dumps(found.to_json(), ensure_ascii=False))
                    else:
                        _print(found)
                    _write_files(found, formats, folder)
                    if picture is not None:
                        plot_alignment(spelled, picture)  # plain fonts lack signs of the mushaf
                        echo(str(picture), err=True)
                    if clips_folder is not None:
                        _write_clips(found, clips_folder)
                except QuranAsrError as error:
                    failures.append(error)
                    continue
                on_progress(done, len(recordings))
    if len(recordings) == 1 and failures:
        raise failures[0]
    for failure in failures:
        print_error(failure)
    if failures:
        raise QuranAsrError(
            f"{len(failures)} of {len(recordings)} recordings could not be aligned",
            remedy="see the errors above; the others were aligned",
        )
    return int(nothing > 0)


def _refuse_picture(picture: Path, recordings: tuple[Path, ...]) -> None:
    if picture.suffix.lower() not in (".png", ".svg", ".pdf"):
        what = "a picture is a .png, .svg or .pdf"
        raise QuranAsrError(what, where=str(picture), remedy="name it so, for example 036.png")
    if len(recordings) > 1:
        raise QuranAsrError("--plot draws one recording", remedy="align them one by one")


def _refuse_equal_names(recordings: tuple[Path, ...]) -> None:
    """Their files would overwrite each other."""
    stems = [path.stem for path in recordings]
    for path in recordings:
        if stems.count(path.stem) > 1:
            raise QuranAsrError(
                f"several recordings are named {path.stem}",
                where=str(path),
                remedy="align them one by one, with another --to for each",
            )


def _print(found: AlignedRecording) -> None:
    from quran_asr.runtime.alignment_formats import label

    echo(found.audio)
    if not found.segments:
        echo("no verse was found")
        return
    rows: list[tuple[float, float, str, object, object]] = [
        (segment.start, segment.end, label(segment), len(segment.words), segment.score)
        for segment in found.segments
    ]
    rows += [(one.start, one.end, "not recognized as Quran", "", "") for one in found.unaligned]
    print_table(
        ("start", "end", "", "words", "score"),
        [
            (f"{start:.2f}", f"{end:.2f}", name, words, "" if score == "" else f"{score:.2f}")
            for start, end, name, words, score in sorted(rows, key=lambda row: row[:2])
        ],
    )
    wrong = [word for word in found.words if word.mismatch is not None]
    if wrong:
        echo("words that were not recognized as they are written")
        print_table(
            ("start", "end", "verse", "written", "recognized"),
            [
                (f"{word.start:.2f}", f"{word.end:.2f}", word.verse or "", word.text, word.mismatch or "-")
                for word in wrong
            ],
        )


def _file_of(recording: Path, name: str, folder: Path) -> Path:
    from quran_asr.runtime.alignment_formats import FORMATS as WRITERS

    return folder / f"{recording.stem}{WRITERS[name].suffix}"


def _refuse_existing(path: Path, name: str, *, overwrite: bool) -> None:
    """A file of an earlier alignment is replaced on demand; a transcript of that name, for example, is not.

    Raises:
        QuranAsrError: the file is there, and may not be replaced.
    """
    from quran_asr.runtime.alignment_formats import FORMATS as WRITERS

    if not path.is_file() or not path.stat().st_size:
        return
    with path.open(encoding="utf-8", errors="replace") as file:
        start = file.read(200)
    if not re.match(WRITERS[name].begins, start):
        raise QuranAsrError(
            "this file exists and was not written by align",
            where=str(path),
            remedy="write elsewhere with --to FOLDER",
        )
    if not overwrite:
        raise QuranAsrError(
            "this file of an earlier alignment exists",
            where=str(path),
            remedy="--overwrite replaces it; --to FOLDER writes elsewhere",
        )


def _write_files(found: AlignedRecording, formats: tuple[str, ...], folder: Path) -> None:
    from quran_asr.files import write_atomically
    from quran_asr.runtime.alignment_formats import FORMATS as WRITERS

    for name in formats:
        folder.mkdir(parents=True, exist_ok=True)
        path = _file_of(Path(found.audio), name, folder)
        write_atomically(path, WRITERS[name].write(found).encode())
        echo(str(path), err=True)


def _write_clips(found: AlignedRecording, folder: Path) -> None:
    from quran_asr.runtime.verse_clips import cut_verses

    result = cut_verses(found, folder)
    echo(f"{folder}: {len(result.clips):,} clips of {found.audio}", err=True)
    for verses, why in (
        (result.incomplete, "not cut, since the reciter went back or left words out"),
        (result.other_words, "not cut, since other words were recognized"),
        (result.repeated, "recited more than once; only the first recitation of these words is cut"),
    ):
        if verses:
            echo(f"{why}: {' '.join(map(str, verses))}", err=True)
