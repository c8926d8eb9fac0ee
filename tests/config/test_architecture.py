"""Names and shapes in closed form, against the state dicts of NeMo's own classes."""

from __future__ import annotations

import math
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from quran_asr.config.architecture import Architecture, of_nemo, of_recipe
from quran_asr.config.recipe import load_recipe
from quran_asr.errors import QuranAsrError
from quran_asr.experiments.planning.starting_point import OFFLINE, PUBLISHED, STREAMING

TINY = (
    "model.encoder.n_layers=2",
    "model.encoder.d_model=32",
    "model.encoder.n_heads=2",
    "model.encoder.subsampling_conv_channels=8",
    "model.decoder.prednet.pred_hidden=16",
    "model.joint.jointnet.joint_hidden=16",
    "quran.vocabulary_size=48",
)


def test_the_recipe_transfer_builds_the_streaming_checkpoints_architecture() -> None:
    assert of_recipe(load_recipe("transfer").model, 1024) == STREAMING


def test_published_models_differ_from_it_in_these_facts_alone() -> None:
    def differing(one: Architecture, other: Architecture) -> set[str]:
        return {key for key, value in asdict(one).items() if value != asdict(other)[key]}

    offline = {
        "normalize",
        "causal_downsampling",
        "causal_convolution",
        "attention",
        "norm",
    }
    arabic = PUBLISHED["stt_ar_fastconformer_hybrid_large_pcd_v1.0"].architecture
    assert differing(OFFLINE, STREAMING) == offline | {"kind"}
    assert differing(arabic, STREAMING) == offline


@pytest.mark.parametrize(
    ("features", "causal", "bins"), [(80, False, 10), (80, True, 11), (128, False, 16), (128, True, 17)]
)
def test_bins_behind_the_subsampling(features: int, causal: bool, bins: int) -> None:
    assert replace(OFFLINE, features=features, causal_downsampling=causal).bins == bins


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"encoder": {"_target_": "nemo.collections.asr.modules.ConvASREncoder"}, "preprocessor": {}},
        {"encoder": {"_target_": "nemo.collections.asr.modules.ConformerEncoder"}, "preprocessor": {}},
        {"encoder": None, "preprocessor": None},
        {"encoder": "ConformerEncoder", "preprocessor": {}},
    ],
)
def test_what_is_not_a_fastconformer_is_refused_in_a_line(config: dict[str, Any]) -> None:
    with pytest.raises(QuranAsrError, match="not a FastConformer") as refused:
        of_nemo(config, 10, "odd.nemo")
    assert "odd.nemo" in str(refused.value) and "\n" not in str(refused.value).split("hint")[0].strip()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["transducer", "hybrid", "ctc"])
@pytest.mark.parametrize("norm", ["batch_norm", "layer_norm"])
def test_names_and_shapes_are_nemos(kind: str, norm: str, tmp_path: Path) -> None:
    """All three classes; what is a buffer and no parameter are a batch norm's statistics alone."""
    pytest.importorskip("nemo", reason="needs the extra train")
    from nemo.collections.asr.models import EncDecCTCModelBPE, EncDecHybridRNNTCTCBPEModel, EncDecRNNTBPEModel
    from omegaconf import OmegaConf

    from quran_asr.training.model import model_config
    from quran_asr.training.tokenizer import train_tokenizer

    recipe = load_recipe("quickstart", [*TINY, f"model.encoder.conv_norm_type={norm}"])
    tokenizer = train_tokenizer("letters", 48, tmp_path / "tokenizer")
    config = model_config(recipe, tokenizer.folder)
    if kind == "transducer":
        del config["aux_ctc"]
        config["encoder"] |= {
            "causal_downsampling": False,
            "att_context_size": [-1, -1],
            "att_context_probs": None,
            "att_context_style": "regular",
            "conv_context_size": None,
        }
    elif kind == "ctc":
        config["decoder"] = config["aux_ctc"]["decoder"]
        for key in ("aux_ctc", "joint", "loss", "decoding"):
            del config[key]
    classes = {
        "transducer": EncDecRNNTBPEModel,
        "hybrid": EncDecHybridRNNTCTCBPEModel,
        "ctc": EncDecCTCModelBPE,
    }
    built = classes[kind](cfg=OmegaConf.create(config))
    described = of_nemo(config, 48, "built")
    assert described.kind == kind
    parameters = {name: tuple(tensor.shape) for name, tensor in built.named_parameters()}
    assert described.shapes() == parameters
    assert sum(map(math.prod, parameters.values())) == built.num_weights
    others = set(built.state_dict()) - set(parameters)
    statistics = {name for name in others if not name.startswith("preprocessor.")}
    endings = {name.rsplit(".", 1)[-1] for name in statistics}
    expected = {"running_mean", "running_var", "num_batches_tracked"} if norm == "batch_norm" else set()
    assert endings == expected and len(statistics) == 2 * len(expected)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["transfer", "low-memory", "large"])
def test_the_big_recipes_encoders_are_nemos(name: str) -> None:
    """With two of their layers, which are all alike."""
    modules = pytest.importorskip("nemo.collections.asr.modules", reason="needs the extra train")
    model = load_recipe(name, ["model.encoder.n_layers=2"]).model
    built = modules.ConformerEncoder(feat_in=model.preprocessor.features, **asdict(model.encoder))
    named = {f"encoder.{key}": tuple(parameter.shape) for key, parameter in built.named_parameters()}
    shapes = of_recipe(model, 10).shapes()
    assert {key: shape for key, shape in shapes.items() if key.startswith("encoder.")} == named
