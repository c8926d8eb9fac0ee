"""Finished runs as variants of a comparison: runs that differ only in the seed are one variant."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quran_asr.config.recipe import load_recipe
from quran_asr.config.recipe_changes import Change
from quran_asr.config.schema import Recipe
from quran_asr.errors import QuranAsrError
from quran_asr.experiments.comparison.reports import Beside, Key, clips_of, set_beside
from quran_asr.experiments.comparison.results import VariantCurves
from quran_asr.experiments.comparison.variants import differences
from quran_asr.experiments.curve_files import read_curves
from quran_asr.experiments.curves import Curves
from quran_asr.experiments.run_folder import RunFolder
from quran_asr.files import parse_json

_NO_DIFFERENCE = ("quran.seed", "model.train_ds.manifest_filepath", "model.validation_ds.manifest_filepath")
"""Keys that do not part sides: data are compared by what they hold."""


@dataclass(frozen=True, slots=True)
class Trained:
    """A run that is compared."""

    folder: RunFolder
    recipe: Recipe
    curves: Curves


def read_runs(folders: Sequence[RunFolder]) -> list[Trained]:
    """Read recipes and curves.

    Raises:
        QuranAsrError: a recipe or the metrics cannot be read, or a run is named twice.
    """
    places = [run.path.resolve() for run in folders]
    for place, run in enumerate(folders):
        if run.path.resolve() in places[:place]:
            raise QuranAsrError("is named twice", where=str(run.path))
    return [Trained(run, load_recipe(run.recipe), read_curves(run.path)) for run in folders]


def refuse_unlike(runs: Sequence[Trained]) -> None:
    """Stop where the runs learned from other data, were validated on other clips, or count other words.

    Raises:
        QuranAsrError: one of these.
    """
    first = runs[0]
    for other in runs[1:]:
        for what, ours, theirs in (
            ("training data", _training(first), _training(other)),
            ("spelling", first.recipe.quran.spelling, other.recipe.quran.spelling),
            ("validation clips", *_validation(first, other)),
        ):
            if ours != theirs:
                raise QuranAsrError(
                    f"has other {what} than {first.folder.path}",
                    where=str(other.folder.path),
                    remedy="compare them --anyway",
                )


def variants_of(runs: Sequence[Trained]) -> list[tuple[VariantCurves, list[Trained]]]:
    """The sides in the order in which they are named, each with its runs.

    Raises:
        QuranAsrError: there is but one, or a seed comes twice in one.
    """
    groups: list[list[Trained]] = []
    for run in runs:
        home = next((group for group in groups if not parting(group[0].recipe, run.recipe)), None)
        if home is None:
            groups.append([run])
        else:
            home.append(run)
    variants = []
    for group in groups:
        seeds = tuple(run.recipe.quran.seed for run in group)
        if len(set(seeds)) < len(seeds):
            raise QuranAsrError("two runs of one recipe have the same seed", where=str(group[-1].folder.path))
        names = [other[0].folder.name for other in groups]
        name = group[0].folder.name
        if names.count(name) > 1:  # begun in the same second, or a copy
            name = str(group[0].folder.path)
        variants.append((VariantCurves(name, tuple(run.curves for run in group), seeds), group))
    if len(variants) < 2:
        raise QuranAsrError("the runs differ in the seed alone", remedy="name runs of two recipes")
    return variants


def parting(first: Recipe, other: Recipe) -> list[Change]:
    """The changes that make another side of a run."""
    return [change for change in differences(first, other) if change.key not in _NO_DIFFERENCE]


def best_beside(first: Sequence[RunFolder], second: Sequence[RunFolder]) -> Beside | None:
    """The best validations of two sides clip by clip; None where a run left no transcripts, or others."""
    variants = [_transcripts(first), _transcripts(second)]
    if variants[0] is None or variants[1] is None:
        return None
    return set_beside(variants[0], variants[1])


def _transcripts(runs: Sequence[RunFolder]) -> list[dict[Key, Any]] | None:
    places = [run.transcripts for run in runs]
    return [clips_of(place) for place in places] if all(map(Path.is_file, places)) else None


def _training(run: Trained) -> Any:
    """Hashes of the manifests; where there are none (an older run), their paths."""
    try:
        recorded = parse_json((run.folder.path / "training_data.json").read_text(encoding="utf-8"))
        hashes = sorted(manifest["sha256"] for manifest in recorded["manifests"])
    except (OSError, ValueError, KeyError, TypeError):
        hashes = []
    return hashes or list(run.recipe.model.train_ds.manifests)


def _validation(first: Trained, other: Trained) -> tuple[Any, Any]:
    """Their clips where both left transcripts, else the manifests of their recipes."""
    if first.folder.transcripts.is_file() and other.folder.transcripts.is_file():
        ours, theirs = (clips_of(run.folder.transcripts) for run in (first, other))
        if first.recipe.quran.spelling == other.recipe.quran.spelling:
            return ours.keys(), theirs.keys()
    return first.recipe.model.validation_ds.manifests, other.recipe.model.validation_ds.manifests
