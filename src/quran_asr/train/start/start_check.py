"""What a model starts from: does a pretrained model arrive, and does a random one let a signal through?"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

import lightning.pytorch as lightning
import torch
from torch import Tensor, nn

from quran_asr.findings import QuranAsrError
from quran_asr.records import Segment
from quran_asr.runs.checks.outcome import Outcomes, failure, of_finding, passed, warning
from quran_asr.runs.schema import Recipe
from quran_asr.runs.transfer_map import LEAST_ENCODER_SHARE, TransferMap
from quran_asr.train.data.batches import ClipSet, collate, tokenize
from quran_asr.train.model import EncDecHybridRNNTCTCBPEModel, build_model
from quran_asr.train.start.archives import Archive, read_weights
from quran_asr.train.start.initialization import OUTPUT_DEVIATION, initialize
from quran_asr.train.start.transfer import as_table, transfer
from quran_asr.train.tokenizer import Tokenizer

CLIPS = 8
"""That the signal is measured on."""
FARTHEST = 1.5
"""Factor from a deviation of 0.1 behind the subsampling. Scaled by data, other clips gave 0.101 to 0.118 in
18 trials (recitations and synthetic speech; 8, 32 and 256 channels); NeMo's weights 0.013 to 0.071."""


def check_start(
    recipe: Recipe,
    tokenizer: Tokenizer,
    training: Sequence[Segment],
    archive: Archive | None,
    *,
    allow_partial: bool,
    say: Callable[[str], None],
) -> Outcomes:
    """Start a model as the training will, and look at what came of it.

    Args:
        recipe: what to train.
        tokenizer: of the training.
        training: clips for the signal of a random start.
        archive: the pretrained model; None for random weights.
        allow_partial: little of the encoder is enough.
        say: called with the table of what arrives.
    """
    lightning.seed_everything(recipe.quran.seed, verbose=False)
    model = build_model(recipe, tokenizer.folder)
    if archive is not None:
        return _pretrained(model, recipe, archive, allow_partial, say)
    clips = ClipSet(tokenize(training, tokenizer), cache_bytes=0)
    if recipe.quran.initialization == "data":
        initialize(model, clips)
    deviation = signal(model, clips, recipe.quran.seed)
    how = recipe.quran.initialization
    said = f"random weights ({how}): behind the subsampling a deviation of {deviation:.2g}"
    if OUTPUT_DEVIATION / FARTHEST <= deviation <= OUTPUT_DEVIATION * FARTHEST:
        return passed(said)
    return warning(
        f"{said}, far from {OUTPUT_DEVIATION}: such starts have stayed on their plateau for good",
        "quran.initialization=data"
        if how == "nemo"
        else "clips differ much from each other: look for silent or very loud ones (`quran-asr corpus scan`)",
    )


@torch.no_grad()
def signal(model: EncDecHybridRNNTCTCBPEModel, clips: ClipSet, seed: int) -> float:
    """Standard deviation behind the subsampling, about each channel's mean, on some clips.

    Raises:
        QuranAsrError: none of them can be read.
    """
    drawn = random.Random(f"signal {seed}").sample(range(len(clips)), min(CLIPS, len(clips)))
    batch = collate([clips[i] for i in drawn])
    if not batch.indices:
        raise QuranAsrError(batch.unreadable[0][1], where=clips.clips[batch.unreadable[0][0]].segment.audio)
    features, lengths = model.preprocessor(input_signal=batch.audio, length=batch.audio_lengths)
    pre_encode: nn.Module = model.encoder.pre_encode
    out, frames = pre_encode(x=features.transpose(1, 2), lengths=lengths)
    heard = torch.cat([clip[:n] for clip, n in zip(out, frames.tolist(), strict=True)])
    return float(heard.std(dim=0).mean())


def _pretrained(
    model: EncDecHybridRNNTCTCBPEModel,
    recipe: Recipe,
    archive: Archive,
    allow_partial: bool,
    say: Callable[[str], None],
) -> Outcomes:
    name = recipe.init_from_pretrained_model or str(archive.path)
    weights = read_weights(archive)
    planned = transfer(
        model, recipe, archive.config, weights, archive.pieces, name, allow_partial=allow_partial
    )
    say(as_table(planned))
    unlike = _not_arrived(model, weights, planned)
    if unlike:
        return failure(
            f"{len(unlike)} tensors of {name} are not in the model as the map says, the first: {unlike[0]}",
            "the archive holds numbers that are none, or this is a fault of this program: report it",
        )
    message = (
        f"{planned.encoder_share:.1%} of the encoder and {planned.share:.1%} of the model arrive from {name}"
    )
    message = message.replace("%", " %")
    if planned.encoder_share < LEAST_ENCODER_SHARE:
        return warning(
            message, "with this little a start is hardly a pretrained one: take a recipe of its size"
        )
    left_out = [of_finding(one) for one in planned.differences if one.severity == "warning"]
    return [passed(message), *left_out] if left_out else passed(message)


def _not_arrived(
    model: EncDecHybridRNNTCTCBPEModel, weights: dict[str, Tensor], planned: TransferMap
) -> list[str]:
    """Tensors that should equal the source's and do not; NaN equals nothing."""
    held = dict(model.state_dict())
    return [
        tensor.name
        for tensor in planned.tensors
        if tensor.how == "whole"
        and tensor.source is not None
        and not torch.equal(held[tensor.name].float(), weights[tensor.source].float())
    ]
