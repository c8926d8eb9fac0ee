"""What a training starts from: random weights, or the model that the recipe or the command line names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from quran_asr.cli.printing import echo, progress_bar
from quran_asr.findings import QuranAsrError

if TYPE_CHECKING:
    from quran_asr.runs.schema import Recipe
    from quran_asr.train.loop import Start


@dataclass(frozen=True, slots=True)
class Wish:
    """How a training is to be begun."""

    allow_partial: bool
    """Little of the encoder may come from the pretrained model."""
    keep_tokens: bool
    """Its tokenizer is taken over."""
    preflight: bool = True
    fit_memory: bool = False
    """The largest batch that fits is looked for."""
    quiet: bool = False
    """Where the model was found need not be said."""


def load(name: str, overrides: Sequence[str]) -> Recipe:
    """The recipe of that name or file under these overrides."""
    from quran_asr.runs.recipe import load_recipe

    return load_recipe(name, overrides)


def start_from_checkpoint(recipe: Recipe) -> Recipe:
    """`exp_manager.resume_from_checkpoint=FILE.nemo` starts a new run from those weights.

    Raises:
        QuranAsrError: it is neither a `.nemo` nor a `.ckpt`.
    """
    given = recipe.exp_manager.resume_from_checkpoint
    if given is None:
        return recipe
    if not given.endswith(".nemo"):
        raise QuranAsrError(
            "neither a .nemo nor a .ckpt", where=f"exp_manager.resume_from_checkpoint={given}", remedy=""
        )
    echo(
        f"a .nemo holds no optimizer: a new run starts from the weights of {given}, with a new optimizer and "
        "schedule (its run goes on where it was with `--resume RUN`)",
        err=True,
    )
    exp_manager = replace(recipe.exp_manager, resume_from_checkpoint=None)
    return replace(recipe, exp_manager=exp_manager, init_from_pretrained_model=given)


def open_start(recipe: Recipe, wish: Wish) -> Start | None:
    """The model that the recipe starts from: found or downloaded, and its archive looked through.

    Raises:
        QuranAsrError: it cannot be had, or its archive is not what it should be.
    """
    name = recipe.init_from_pretrained_model
    if name is None:
        return None
    from quran_asr.train.start.archives import read_archive
    from quran_asr.train.start.pretrained import find_pretrained

    with progress_bar(f"downloading {name}", "bytes") as show:
        found = find_pretrained(name, show)
    if not wish.quiet:
        echo(f"start from {found.path} ({found.source})", err=True)
    archive = read_archive(found.path)
    from quran_asr.train.loop import Start  # imports NeMo, which is for what was not refused

    return Start(found, archive, wish.allow_partial, wish.keep_tokens, lambda text: echo(text, err=True))
