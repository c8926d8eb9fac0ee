"""What `train` finds in its manifests."""

from __future__ import annotations

from typing import TYPE_CHECKING

from quran_asr.cli.printing import print_finding, print_findings
from quran_asr.findings import QuranAsrError, counted

if TYPE_CHECKING:
    from quran_asr.corpus.select import Selection
    from quran_asr.runs.schema import Recipe


def select_clips(recipe: Recipe) -> tuple[Selection, Selection]:
    """The clips of both manifests that the recipe takes; what it leaves out is said on stderr.

    Raises:
        QuranAsrError: a manifest is missing, unreadable, or nothing in it is left.
    """
    from quran_asr.corpus.foreign import foreign_letters
    from quran_asr.corpus.manifest import read_manifest
    from quran_asr.corpus.select import describe, select

    selections = []
    shortest = recipe.model.train_ds.min_duration
    for what, key, ds in (
        ("training", "train_ds", recipe.model.train_ds),
        ("validation", "validation_ds", recipe.model.validation_ds),
    ):
        if not ds.manifests:
            option = "--train" if what == "training" else "--validation"
            raise QuranAsrError(
                f"no {what} manifest",
                where=f"model.{key}.manifest_filepath",
                remedy=f"give one with {option} FILE (`quran-asr corpus scan` makes one from recordings)",
            )
        segments = []
        for manifest in ds.manifests:
            segments += read_manifest(manifest, recipe.quran.spelling)
        selection = select(segments, shortest=shortest, longest=ds.max_duration)
        limit = ds.max_duration if ds.max_duration is not None else 0.0
        print_findings(describe(selection, what=what, key=f"model.{key}.max_duration", longest=limit))
        if not selection.kept:
            raise QuranAsrError(f"no {what} clip is left", where=str(ds.manifests[0]))
        selections.append(selection)
    foreign = foreign_letters(recipe.model.train_ds.manifests + recipe.model.validation_ds.manifests)
    if foreign is not None:
        print_finding(foreign)
    return selections[0], selections[1]


def describe_data(recipe: Recipe, training: Selection, validation: Selection) -> str:
    """One line on what is trained on."""
    from quran_asr.corpus.select import hours
    from quran_asr.runs.planning.windows import with_windows

    reciters = counted(len({segment.reciter for segment in training.kept}), "reciter")
    joined = with_windows(training.kept, recipe)[len(training.kept) :]
    more = f" and on {counted(len(joined), 'window')} of consecutive verses ({hours(joined):.2f} h)"
    return (
        f"training on {counted(len(training.kept), 'clip')} ({training.hours:.2f} h, {reciters})"
        f"{more if joined else ''}, validation on {len(validation.kept):,} ({validation.hours:.2f} h)"
    )
