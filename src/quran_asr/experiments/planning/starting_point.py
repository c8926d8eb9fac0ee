"""Published models, and what a pretrained model brings to a recipe."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from quran_asr.config.architecture import Architecture, of_recipe
from quran_asr.config.schema import Recipe, Trainer
from quran_asr.errors import Finding, Severity
from quran_asr.experiments.transfer_map import (
    LAYERS_LEFT_OUT,
    LEAST_ENCODER_SHARE,
    ModelLayout,
    TransferMap,
    transfer_map,
)

# All three are FastConformer-Large of NVIDIA's model cards (about 114M parameters, 1,024 BPE tokens, 80 mel
# bins, 8x subsampling with 256 channels) in the configurations that NeMo ships as
# `examples/asr/conf/fastconformer/fast-conformer_transducer_bpe.yaml` (the English one),
# `.../hybrid_transducer_ctc/fastconformer_hybrid_transducer_ctc_bpe.yaml` (the Arabic one) and
# `.../hybrid_cache_aware_streaming/fastconformer_hybrid_transducer_ctc_bpe_streaming.yaml`.

OFFLINE = Architecture(
    kind="transducer",
    tokens=1024,
    features=80,
    normalize="per_feature",
    window=(0.025, 0.01),
    n_layers=17,
    d_model=512,
    n_heads=8,
    ff_expansion=4,
    channels=256,
    subsampling=8,
    causal_downsampling=False,
    causal_convolution=False,
    attention="regular",
    kernel=9,
    norm="batch_norm",
    use_bias=True,
    untie_biases=True,
    xscaling=True,
    pred_hidden=640,
    pred_layers=1,
    joint_hidden=640,
    joint_dropout=True,
)
STREAMING = replace(
    OFFLINE,
    kind="hybrid",
    normalize="NA",
    causal_downsampling=True,
    causal_convolution=True,
    attention="chunked_limited",
    norm="layer_norm",
)


@dataclass(frozen=True, slots=True)
class Published:
    """A model that a recipe can name under `init_from_pretrained_model`."""

    name: str
    language: str
    streams: bool
    architecture: Architecture


PUBLISHED = {
    model.name: model
    for model in (
        Published("stt_en_fastconformer_transducer_large", "English", False, OFFLINE),
        Published("stt_en_fastconformer_hybrid_large_streaming_multi", "English", True, STREAMING),
        Published(
            "stt_ar_fastconformer_hybrid_large_pcd_v1.0", "Arabic", False, replace(OFFLINE, kind="hybrid")
        ),
    )
}


def published(name: str) -> Published | None:
    """The model of that name, with or without its owner; None if it is none of these."""
    return PUBLISHED.get(name.removeprefix("nvidia/"))


def what_arrives(model: Published, recipe: Recipe) -> TransferMap:
    """The map of a transfer into a recipe's model, whose tokens are never those of the source."""
    ours = of_recipe(recipe.model, recipe.quran.vocabulary_size)
    source = ModelLayout(model.name, model.architecture, model.architecture.shapes(), None)
    return transfer_map(source, ModelLayout(recipe.name, ours, ours.shapes(), None))


BIG = 50_000_000
"""Parameters from which advice for GPUs with hours of audio holds; smaller recipes are made for less."""
EPOCHS_FROM_RANDOM = 200
EPOCHS_FROM_PRETRAINED = 50
GUIDE_STEPS_PER_EPOCH = 527
"""Optimizer steps of an epoch of the guide: its advice in epochs means so many steps each."""
GUIDE_BATCH = 128
"""Clips behind each of them."""
STEPS_OF_SMALL = 1_000
"""Optimizer steps by which a small model that learns has left its plateau: no training is shorter."""
STREAMING_START = "stt_en_fastconformer_hybrid_large_streaming_multi"
FITTING_ENCODER = "model.encoder.n_layers=17 model.encoder.d_model=512 model.encoder.n_heads=8"
"""Of every published start, beside what the recipes have in common."""
TOO_LITTLE = "too-little-arrives"
IN_PACKAGE = "default"
"""What a recipe calls the model that ships in the package; a folder of that name is `./default`."""


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


def start_findings(
    recipe: Recipe, parameters: int, steps: int | None, steps_per_epoch: int | None, effective_batch: int
) -> list[Finding]:
    """What is amiss with where a recipe starts from, and how far it goes from there."""
    pretrained, big = recipe.init_from_pretrained_model is not None, parameters >= BIG
    findings: list[Finding] = []
    if pretrained:
        findings += _arrival_findings(recipe)
    elif big:
        findings += _random_start(recipe)
    findings += _never_unfrozen(recipe.quran.unfreeze_after, steps)
    if big:
        findings += _too_few_steps(recipe.trainer, pretrained, steps, steps_per_epoch, effective_batch)
    elif not pretrained:
        findings += _too_few_steps_of_small(recipe.trainer, steps)
    return findings


def _never_unfrozen(frozen: int, steps: int | None) -> list[Finding]:
    if steps is None or not 0 < steps <= frozen:
        return []
    message = f"tensors copied from the start are frozen for {frozen:,} steps, and the training has {steps:,}"
    remedy = f"quran.unfreeze_after={steps // 50}; or train longer"
    return [Finding("warning", "never-unfrozen", "quran.unfreeze_after", message, remedy)]


def _random_start(recipe: Recipe) -> list[Finding]:
    trainer = recipe.trainer
    enough = trainer.max_epochs >= EPOCHS_FROM_RANDOM or trainer.max_epochs == -1
    slow = (
        "training starts from random weights: WER stays near 1.0 for the first epochs, and "
        f"{EPOCHS_FROM_RANDOM} epochs are needed where a pretrained start needs 50 to 100"
    )
    remedy = f"init_from_pretrained_model={STREAMING_START}, or the recipe `transfer`"
    if not enough and recipe.name != "scratch":
        remedy += "; from random weights on purpose, the recipe `scratch`"
    if what_arrives(PUBLISHED[STREAMING_START], recipe).encoder_share < LEAST_ENCODER_SHARE:
        encoder = recipe.model.encoder
        slow += (
            f"; no published encoder has {encoder.n_layers} layers of {encoder.d_model}, so this one cannot "
            "start from any"
        )
        remedy = (
            f"{FITTING_ENCODER} init_from_pretrained_model={STREAMING_START}, or the recipe `transfer`; "
            "this size pays with hundreds of hours only"
        )
    severity: Severity = "note" if enough else "warning"
    return [Finding(severity, "random-start", "init_from_pretrained_model", slow, remedy)]


def _too_few_steps(
    trainer: Trainer, pretrained: bool, steps: int | None, steps_per_epoch: int | None, effective_batch: int
) -> list[Finding]:
    """By steps where they are known: an epoch of little data moves little. Else by the guide's epochs.

    A step counts by its clips, against the guide's 128: what counts is how many clips are seen.
    """
    epochs = EPOCHS_FROM_PRETRAINED if pretrained else EPOCHS_FROM_RANDOM
    begin = "a pretrained start" if pretrained else "a random start"
    severity: Severity = "note" if pretrained else "warning"
    if steps is None:
        if not 0 < trainer.max_epochs < epochs:
            return []
        message = f"{trainer.max_epochs} epochs are few for {begin}, which takes {epochs}"
        return [Finding(severity, "few-steps", "trainer.max_epochs", message, f"trainer.max_epochs={epochs}")]
    worth = effective_batch / GUIDE_BATCH
    wanted = epochs * GUIDE_STEPS_PER_EPOCH
    if steps == 0 or steps * worth >= 0.99 * wanted:
        return []
    message = (
        f"{steps:,} optimizer steps of {effective_batch} clips are few for {begin}: about {wanted:,} of "
        f"{GUIDE_BATCH} are wanted, as in the guide's {epochs} epochs"
    )
    remedies = []
    if trainer.max_epochs > 0 and steps_per_epoch:
        enough = math.ceil(0.995 * wanted / worth / steps_per_epoch)
        remedies.append(f"trainer.max_epochs={max(trainer.max_epochs, enough)}")
    if trainer.max_steps > 0:
        remedies.append(f"trainer.max_steps={max(trainer.max_steps, math.ceil(wanted / worth))}")
    remedy = " ".join(remedies) + (
        "; or more clips" if (steps_per_epoch or wanted) < GUIDE_STEPS_PER_EPOCH else ""
    )
    return [Finding(severity, "few-steps", "trainer.max_epochs", message, remedy)]


def _too_few_steps_of_small(trainer: Trainer, steps: int | None) -> list[Finding]:
    if not steps or steps >= STEPS_OF_SMALL:
        return []
    message = f"{steps:,} optimizer steps are few for a random start: no model has left its plateau by then"
    remedies = []
    if trainer.max_epochs > 0:
        remedies.append(f"trainer.max_epochs={math.ceil(trainer.max_epochs * 2 * STEPS_OF_SMALL / steps)}")
    if trainer.max_steps > 0:
        remedies.append(f"trainer.max_steps={2 * STEPS_OF_SMALL}")
    return [Finding("warning", "few-steps", "trainer.max_epochs", message, " ".join(remedies))]


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
                "this encoder has another size, so training would still start from random weights",
                "init_from_pretrained_model=null starts at random on purpose; the encoder of `transfer` "
                "(17 layers, d_model 512) can start from it",
            )
        ]
    left_out = [
        replace(one, where="model.encoder.n_layers")
        for one in arriving.differences
        if one.code == LAYERS_LEFT_OUT
    ]
    if left_out:
        return left_out
    if known.streams or not recipe.model.encoder.causal_downsampling:
        return []
    better = PUBLISHED[STREAMING_START]
    brings = what_arrives(better, recipe)
    return [
        Finding(
            "note",
            "offline-into-streaming",
            "init_from_pretrained_model",
            f"{known.name} is an offline model and this recipe streams: {arriving.encoder_share:.1%} of the "
            "encoder arrives, but its convolutions and attention have seen the future, its features were "
            f"normalized, and the norms of {recipe.model.encoder.n_layers} layers start fresh; from "
            f"{better.name} {brings.encoder_share:.1%} arrives and means the same here",
            f"init_from_pretrained_model={better.name}",
        )
    ]
