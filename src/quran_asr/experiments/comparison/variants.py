"""The variants of a comparison: recipes with their own changes, on the same data and seeds."""

from __future__ import annotations

import hashlib
import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

from quran_asr.config.overrides import parse_override
from quran_asr.config.recipe import load_recipe
from quran_asr.config.recipe_changes import Change, changes
from quran_asr.config.schema import ExpManager, Quran, Recipe
from quran_asr.errors import QuranAsrError
from quran_asr.experiments.planning.workload import read_clips

CADENCE = ("trainer.val_check_interval", "trainer.check_val_every_n_epoch")
"""Keys that say when it is validated; a comparison sets them unless they are given."""
VALIDATIONS = (20, 10, 30, 40)
"""Wished for in the whole budget; each number has validations at 10, 50 and 100 % of it."""


@dataclass(frozen=True, slots=True)
class Variant:
    """One side of a comparison."""

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
                raise QuranAsrError(f"`{word}` cannot be split into words ({error})") from None
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
        read_clips(manifest)  # what is missing or broken is said before what is unlike
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
                raise QuranAsrError(f"`{earlier.name}` and `{variant.name}` would be the same training twice")
            if earlier.slug == variant.slug:
                raise QuranAsrError(
                    f"two sides are called `{variant.name}`", remedy="give a file another name"
                )
        if first.recipe.quran.seed != variant.recipe.quran.seed:
            raise QuranAsrError(
                "the recipes begin with other seeds",
                where="quran.seed",
                remedy="give all of them quran.seed=0",
            )
        if anyway:
            continue
        for what, key, mend in _likenesses():
            ours, theirs = _value(first.recipe, key), _value(variant.recipe, key)
            if ours != theirs:
                raise QuranAsrError(
                    f"`{first.name}` has {ours} and `{variant.name}` {theirs}: {what}",
                    where=key,
                    remedy=f"{mend}, or compare them --anyway",
                )


def manifests_of(recipe: Recipe) -> tuple[str, ...]:
    """What it trains on, then what it validates on.

    Raises:
        QuranAsrError: one of both is not named.
    """
    for option, ds in (("--train", recipe.model.train_ds), ("--validation", recipe.model.validation_ds)):
        if not ds.manifests:
            raise QuranAsrError(f"no manifest is named with {option}", remedy=f"{option} MANIFEST")
    return recipe.model.train_ds.manifests + recipe.model.validation_ds.manifests


def differences(first: Recipe, other: Recipe) -> list[Change]:
    """The keys in which two arms differ, but for where their runs are kept."""
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


def _likenesses() -> Iterator[tuple[str, str, str]]:
    """(why it matters, the key, how it is mended)"""
    budget = "a share of one budget is not one of the other"
    yield budget, "trainer.max_steps", "give all the same, trainer.max_steps=N"
    yield budget, "trainer.max_epochs", "give all the same, trainer.max_epochs=N"
    yield "other words are counted", "quran.spelling", "give all the same, quran.spelling=letters"
    data = "it is not the same data"
    yield data, "model.train_ds.manifest_filepath", "name it for all with --train"
    yield data, "model.validation_ds.manifest_filepath", "name it for all with --validation"
    yield data, "model.validation_ds.max_duration", "give all the same"


def _value(recipe: Recipe, key: str) -> object:
    value: object = recipe
    for name in key.split("."):
        value = getattr(value, name)
    return value


def _absolute(recipe: Recipe) -> Recipe:
    """With manifests and a start that are found from every folder."""
    model = recipe.model
    train, validation = (
        tuple(str(Path(path).absolute()) for path in ds.manifests) or None
        for ds in (model.train_ds, model.validation_ds)
    )
    start = recipe.init_from_pretrained_model
    if start is not None and Path(start).exists():
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
    quran: Quran = replace(recipe.quran, seed=seed)
    place: ExpManager = replace(recipe.exp_manager, exp_dir=str(exp_dir))
    return replace(recipe, quran=quran, exp_manager=place)
