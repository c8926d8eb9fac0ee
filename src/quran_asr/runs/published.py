"""Published models to start from, as far as their tensors go.

All three are FastConformer-Large of NVIDIA's model cards (about 114M parameters, 1,024 BPE tokens, 80 mel
bins, 8x subsampling with 256 channels) in the configurations that NeMo ships as
`examples/asr/conf/fastconformer/fast-conformer_transducer_bpe.yaml` (the English one),
`.../hybrid_transducer_ctc/fastconformer_hybrid_transducer_ctc_bpe.yaml` (the Arabic one) and
`.../hybrid_cache_aware_streaming/fastconformer_hybrid_transducer_ctc_bpe_streaming.yaml`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from quran_asr.runs.architecture import Architecture, of_recipe
from quran_asr.runs.schema import Recipe
from quran_asr.runs.transfer_map import Side, TransferMap, transfer_map

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
    source = Side(model.name, model.architecture, model.architecture.shapes(), None)
    return transfer_map(source, Side(recipe.name, ours, ours.shapes(), None))
