"""Where a training starts from: what a pretrained model brings to a recipe, and what is amiss."""

from __future__ import annotations

from dataclasses import dataclass

from quran_asr.findings import Finding
from quran_asr.runs.published import PUBLISHED, Published, published, what_arrives
from quran_asr.runs.schema import Recipe
from quran_asr.runs.transfer_map import LEAST_ENCODER_SHARE

BIG = 50_000_000
"""Parameters from which advice for GPUs with hours of audio holds; smaller recipes are made for less."""
EPOCHS_FROM_RANDOM = 200
EPOCHS_FROM_PRETRAINED = 50
TOO_LITTLE = "too-little-arrives"


@dataclass(frozen=True, slots=True)
class Arrival:
    """What a start from one model would bring to the recipe's."""

    name: str
    language: str | None
    streams: bool | None
    encoder_share: float | None
    """Share of our encoder's parameters; None until an archive is read, where the model is not known."""
    share: float | None
    """Share of all our parameters."""


def arrivals(recipe: Recipe) -> tuple[Arrival, ...]:
    """The recipe's start first, then the other published models; empty for a random start."""
    name = recipe.init_from_pretrained_model
    if name is None:
        return ()
    known = published(name)
    chosen = Arrival(name, None, None, None, None) if known is None else _arrival(known, recipe)
    return (chosen, *(_arrival(model, recipe) for model in PUBLISHED.values() if model is not known))


def _arrival(model: Published, recipe: Recipe) -> Arrival:
    arriving = what_arrives(model, recipe)
    return Arrival(
        model.name,
        model.language,
        model.streams,
        round(arriving.encoder_share, 4),
        round(arriving.share, 4),
    )


def start_findings(recipe: Recipe, parameters: int) -> list[Finding]:
    """What is amiss with where a recipe starts from."""
    epochs = recipe.trainer.max_epochs
    if recipe.init_from_pretrained_model is not None:
        if recipe.trainer.max_steps == -1 and 0 < epochs < EPOCHS_FROM_PRETRAINED:
            return [
                Finding(
                    "note",
                    "few-epochs",
                    "trainer.max_epochs",
                    f"{epochs} epochs are few: a pretrained start takes {EPOCHS_FROM_PRETRAINED} to 100",
                    f"trainer.max_epochs={EPOCHS_FROM_PRETRAINED * 2}",
                ),
                *_arrival_findings(recipe),
            ]
        return _arrival_findings(recipe)
    if parameters < BIG:
        return []
    enough = epochs >= EPOCHS_FROM_RANDOM or epochs == -1
    found = [
        Finding(
            "note" if enough else "warning",
            "random-start",
            "init_from_pretrained_model",
            f"training starts from random weights: WER stays near 1.0 for the first epochs, and "
            f"{EPOCHS_FROM_RANDOM} epochs are needed where a pretrained start needs 50 to 100",
            "use the recipe `transfer`; from random weights on purpose, the recipe `scratch`",
        )
    ]
    if not enough:
        found.append(
            Finding(
                "warning",
                "few-epochs",
                "trainer.max_epochs",
                f"{epochs} epochs are too few from random weights",
                f"trainer.max_epochs={EPOCHS_FROM_RANDOM}, as in the recipe `scratch`",
            )
        )
    return found


def _arrival_findings(recipe: Recipe) -> list[Finding]:
    """By the map of the transfer, for models whose configuration is published."""
    name = recipe.init_from_pretrained_model
    known = None if name is None else published(name)
    if known is None:
        return []
    arriving = what_arrives(known, recipe)
    if arriving.encoder_share < LEAST_ENCODER_SHARE:
        return [
            Finding(
                "error",
                TOO_LITTLE,
                "init_from_pretrained_model",
                f"{arriving.encoder_share:.1%} of the encoder's parameters would come from {known.name}: "
                "this encoder has another size, and training would start at random all the same",
                "use the encoder of `transfer` (17 layers, d_model 512), or start at random on purpose: "
                "init_from_pretrained_model=null",
            )
        ]
    if known.streams or not recipe.model.encoder.causal_downsampling:
        return []
    better = PUBLISHED["stt_en_fastconformer_hybrid_large_streaming_multi"]
    brings = what_arrives(better, recipe)
    return [
        Finding(
            "note",
            "offline-into-streaming",
            "init_from_pretrained_model",
            f"{known.name} is an offline model and this recipe streams: {arriving.encoder_share:.1%} of the "
            "encoder arrives, but its convolutions and attention have seen the future, its features were "
            f"normalised, and the norms of {recipe.model.encoder.n_layers} layers start fresh; from "
            f"{better.name} {brings.encoder_share:.1%} arrives and means the same here",
            f"init_from_pretrained_model={better.name}",
        )
    ]
