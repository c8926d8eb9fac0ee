"""The variants of a comparison: recipes to train on the same data and seeds, or runs that are finished."""

from __future__ import annotations

import hashlib
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from operator import attrgetter
from pathlib import Path
from typing import Any

from quran_asr.config.overrides import parse_override
from quran_asr.config.recipe import load_recipe
from quran_asr.config.recipe_changes import Change, changes
from quran_asr.config.schema import Recipe
from quran_asr.errors import QuranAsrError
from quran_asr.experiments.comparison.reports import Key, PairedErrors, clips_of, pair_errors
from quran_asr.experiments.comparison.results import VariantCurves
from quran_asr.experiments.curve_files import read_curves
from quran_asr.experiments.curves import Curves
from quran_asr.experiments.planning.starting_point import IN_PACKAGE
from quran_asr.experiments.planning.workload import read_clips
from quran_asr.experiments.run_folder import RunFolder
from quran_asr.files import parse_json

CADENCE = ("trainer.val_check_interval", "trainer.check_val_every_n_epoch")
"""Keys that set when it is validated; a comparison sets them unless they are given."""
VALIDATIONS = (20, 10, 30, 40)
"""Preferred numbers of validations in the whole budget; each has one at 10, 50 and 100 % of it."""

_BUDGET = "a share of one budget is not one of the other"
_ALIKE = (
    ("trainer.max_steps", _BUDGET, "give all the same budget, trainer.max_steps=N"),
    ("trainer.max_epochs", _BUDGET, "give all the same budget, trainer.max_epochs=N"),
    ("quran.spelling", "other words are counted", "give all the same spelling, quran.spelling=letters"),
    ("model.train_ds.manifest_filepath", "it is not the same data", "name it for all with --train"),
    ("model.validation_ds.manifest_filepath", "it is not the same data", "name it for all with --validation"),
    ("model.validation_ds.max_duration", "it is not the same data", "give all the same limit"),
)  # fmt: skip
"""Keys in which recipes must agree, why, and the remedy."""


@dataclass(frozen=True, slots=True)
class Variant:
    """One variant of a comparison."""

    name: str
    """As it was asked for: the recipe, and its own overrides after it."""
    recipe: Recipe
    """With the overrides of all and its own; its seed is that of the first trial."""

    @property
    def slug(self) -> str:
        """The name as one that a folder may have."""
        slug = re.sub(r"[^\w.=+-]+", "-", self.name).strip("-.") or "recipe"
        if len(slug) <= 100:
            return slug
        return f"{slug[:90]}-{hashlib.sha256(self.name.encode()).hexdigest()[:8]}"


def split_variants(words: Sequence[str]) -> tuple[list[list[str]], list[str]]:
    """Part the words of a command line into recipes and the overrides of all.

    Args:
        words: a recipe, `"RECIPE KEY=VALUE ..."` as one word for a recipe with overrides of its own, or an
            override of all.

    Returns:
        ([recipe, its own overrides ...] for each, overrides of all).
    """
    variants: list[list[str]] = []
    shared: list[str] = []
    for word in words:
        if not word.strip():
            raise QuranAsrError("a word is empty", remedy="name a recipe, a run or a report, or leave it out")
        first = word.split()[0]
        if _is_there(word):
            variants.append([word])
        elif first.startswith("~") or "=" in first:
            shared.append(word)
        else:
            try:
                variants.append(shlex.split(word))
            except ValueError as error:
                raise QuranAsrError(
                    f"`{word}` cannot be split into words ({error})",
                    remedy='write "RECIPE KEY=VALUE", and close every quote inside it',
                ) from None
    return variants, shared


def _is_there(word: str) -> bool:
    try:
        return Path(word).exists()
    except OSError:  # longer than a name may be: a recipe with many overrides
        return False


def make_variants(
    words: Sequence[Sequence[str]], shared: Sequence[str], *, anyway: bool = False
) -> list[Variant]:
    """Load the recipes of a comparison, and refuse those that no comparison can be made of.

    Args:
        words: for each a recipe and its own overrides, which win over those of all.
        shared: overrides of all.
        anyway: take recipes that differ in data, spelling or budget too.

    Raises:
        QuranAsrError: a recipe, override or manifest is wrong, there are fewer than two, two are the same,
            or they are unlike.
    """
    variants = []
    for recipe, *own in words:
        given = {parse_override(word).key for word in (*shared, *own)}
        loaded = _absolute(load_recipe(recipe, [*shared, *own]))
        if not given & set(CADENCE):
            loaded = with_cadence(loaded)
        name = Path(recipe).stem if recipe.endswith((".yaml", ".yml")) else recipe
        variants.append(Variant(" ".join([name, *own]), loaded))
    for manifest in dict.fromkeys(path for variant in variants for path in manifests_of(variant.recipe)):
        read_clips(manifest)  # what is missing or broken comes before what is unlike
    refuse_unlike(variants, anyway=anyway)
    return variants


def refuse_unlike(variants: Sequence[Variant], *, anyway: bool) -> None:
    """Stop before time is spent on what could not be compared.

    Raises:
        QuranAsrError: fewer than two, two that are the same, or an unlike pair.
    """
    if len(variants) < 2:
        raise QuranAsrError(
            "there is nothing to compare with", remedy="name two recipes, runs or reports, or more"
        )
    first = variants[0]
    for place, variant in enumerate(variants[1:], start=1):
        for earlier in variants[:place]:
            if not changes(earlier.recipe, variant.recipe):
                raise QuranAsrError(
                    f"`{earlier.name}` and `{variant.name}` would be the same training twice",
                    remedy='leave one of them out, or give it an override of its own: "RECIPE KEY=VALUE"',
                )
            if earlier.slug == variant.slug:
                raise QuranAsrError(
                    f"two variants are called `{variant.name}`", remedy="give a file another name"
                )
        if first.recipe.quran.seed != variant.recipe.quran.seed:
            raise QuranAsrError(
                "the recipes begin with other seeds",
                where="quran.seed",
                remedy="give all of them quran.seed=0",
            )
        if anyway:
            continue
        for key, what, remedy in _ALIKE:
            ours, theirs = map(attrgetter(key), (first.recipe, variant.recipe))
            if ours != theirs:
                raise QuranAsrError(
                    f"`{first.name}` has {ours} and `{variant.name}` {theirs}: {what}",
                    where=key,
                    remedy=f"{remedy}, or compare them --anyway",
                )


def manifests_of(recipe: Recipe) -> tuple[str, ...]:
    """What it trains on, then what it validates on.

    Raises:
        QuranAsrError: one of both is not named.
    """
    for option, ds in (("--train", recipe.model.train_ds), ("--validation", recipe.model.validation_ds)):
        if not ds.manifests:
            raise QuranAsrError(f"no manifest is named with {option}", remedy=f"give one: {option} MANIFEST")
    return recipe.model.train_ds.manifests + recipe.model.validation_ds.manifests


def differences(first: Recipe, other: Recipe) -> list[Change]:
    """The keys in which two variants differ, but for where their runs are kept."""
    return [change for change in changes(first, other) if change.key not in ("name", "exp_manager.exp_dir")]


def with_cadence(recipe: Recipe) -> Recipe:
    """The recipe, validating where 10, 50 and 100 % of its budget are, about twenty times in all.

    Where no whole number of batches or epochs does that it is validated as near as can be.
    """
    trainer = recipe.trainer
    if trainer.max_steps > 0:
        batches = trainer.max_steps * trainer.accumulate_grad_batches
        number = next((n for n in VALIDATIONS if batches % n == 0), VALIDATIONS[0])
        every = max(1, batches // number)
        return replace(
            recipe, trainer=replace(trainer, val_check_interval=every, check_val_every_n_epoch=None)
        )
    number = next(
        (
            n
            for n in VALIDATIONS
            if Fraction(trainer.max_epochs, n).numerator == 1 or trainer.max_epochs % n == 0
        ),
        trainer.max_epochs,
    )
    every_epochs = Fraction(trainer.max_epochs, number)
    share = 1.0 if every_epochs >= 1 else float(every_epochs)
    return replace(
        recipe,
        trainer=replace(trainer, val_check_interval=share, check_val_every_n_epoch=max(1, int(every_epochs))),
    )


def _absolute(recipe: Recipe) -> Recipe:
    """With manifests and a start that are found from every folder."""
    model = recipe.model
    train, validation = (
        tuple(str(Path(path).absolute()) for path in ds.manifests) or None
        for ds in (model.train_ds, model.validation_ds)
    )
    start = recipe.init_from_pretrained_model
    if start not in (None, IN_PACKAGE) and Path(start).exists():
        start = str(Path(start).absolute())
    return replace(
        recipe,
        init_from_pretrained_model=start,
        model=replace(
            model,
            train_ds=replace(model.train_ds, manifest_filepath=train),
            validation_ds=replace(model.validation_ds, manifest_filepath=validation),
        ),
    )


def seeded(recipe: Recipe, seed: int, exp_dir: Path) -> Recipe:
    """The recipe of one trial."""
    return replace(
        recipe,
        quran=replace(recipe.quran, seed=seed),
        exp_manager=replace(recipe.exp_manager, exp_dir=str(exp_dir)),
    )


# Finished runs: those that differ only in the seed are one variant

_NO_DIFFERENCE = ("quran.seed", "model.train_ds.manifest_filepath", "model.validation_ds.manifest_filepath")
"""Keys that make no other variant: data are compared by what they hold."""


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
            raise QuranAsrError("is named twice", where=str(run.path), remedy="name each run once")
    return [Trained(run, load_recipe(run.recipe), read_curves(run.path)) for run in folders]


def refuse_unlike_runs(runs: Sequence[Trained]) -> None:
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
    """The variants in the order in which they are named, each with its runs.

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
            raise QuranAsrError(
                "two runs of one recipe have the same seed",
                where=str(group[-1].folder.path),
                remedy="leave one of them out, or train one again with quran.seed=N",
            )
        names = [other[0].folder.name for other in groups]
        name = group[0].folder.name
        if names.count(name) > 1:  # begun in the same second, or a copy
            name = str(group[0].folder.path)
        variants.append((VariantCurves(name, tuple(run.curves for run in group), seeds), group))
    if len(variants) < 2:
        raise QuranAsrError("the runs differ in the seed alone", remedy="name runs of two recipes")
    return variants


def parting(first: Recipe, other: Recipe) -> list[Change]:
    """The changes that make a run another variant."""
    return [change for change in differences(first, other) if change.key not in _NO_DIFFERENCE]


def best_clips_paired(first: Sequence[RunFolder], second: Sequence[RunFolder]) -> PairedErrors | None:
    """The best validations of two variants clip by clip; None where a run left no transcripts, or others."""
    variants = [_transcripts(first), _transcripts(second)]
    if variants[0] is None or variants[1] is None:
        return None
    return pair_errors(variants[0], variants[1])


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
