"""The number of parameters: figures once counted in built models, and models built here."""

from __future__ import annotations

from pathlib import Path

import pytest

from quran_asr.config.architecture import count_parameters, of_recipe
from quran_asr.config.recipe import load_recipe

OF_3_6_MILLION = (
    "model.encoder.n_layers=8",
    "model.encoder.ff_expansion_factor=4",
    "model.encoder.subsampling_conv_channels=64",
    "model.decoder.prednet.pred_hidden=128",
    "model.joint.jointnet.joint_hidden=256",
    "quran.vocabulary_size=256",
)


@pytest.mark.parametrize(
    ("name", "overrides", "expected"),
    [("transfer", (), 114_752_514), ("quickstart", OF_3_6_MILLION, 3_618_434)],
)
def test_equal_to_models_that_were_built_and_counted(
    name: str, overrides: tuple[str, ...], expected: int
) -> None:
    recipe = load_recipe(name, overrides)
    assert count_parameters(recipe.model, recipe.quran.vocabulary_size) == expected


@pytest.mark.slow
@pytest.mark.parametrize("name", ["quickstart", "small"])
def test_equal_to_a_built_model(name: str, tmp_path: Path) -> None:
    pytest.importorskip("nemo", reason="needs the extra train")
    from quran_asr.training.model import build_model
    from quran_asr.training.tokenizer import train_tokenizer

    recipe = load_recipe(name)
    train_tokenizer(recipe.quran.spelling, recipe.quran.vocabulary_size, tmp_path / "tokenizer")
    built = build_model(recipe, tmp_path / "tokenizer")
    named = {name: tuple(parameter.shape) for name, parameter in built.named_parameters()}
    assert of_recipe(recipe.model, recipe.quran.vocabulary_size).shapes() == named
    counted = sum(parameter.numel() for parameter in built.parameters() if parameter.requires_grad)
    assert count_parameters(recipe.model, recipe.quran.vocabulary_size) == counted


@pytest.mark.slow
@pytest.mark.parametrize(
    "overrides",
    [
        ("model.encoder.use_bias=false",),
        ("model.encoder.causal_downsampling=false", "model.encoder.subsampling_factor=4"),
        ("model.encoder.untie_biases=false", "model.encoder.conv_norm_type=batch_norm"),
        ("model.preprocessor.features=64", "model.encoder.conv_kernel_size=15"),
    ],
)
def test_equal_to_a_built_encoder(overrides: tuple[str, ...]) -> None:
    modules = pytest.importorskip("nemo.collections.asr.modules", reason="needs the extra train")
    from dataclasses import asdict

    model = load_recipe("quickstart", overrides).model
    built = modules.ConformerEncoder(feat_in=model.preprocessor.features, **asdict(model.encoder))
    named = {f"encoder.{name}": tuple(parameter.shape) for name, parameter in built.named_parameters()}
    shapes = of_recipe(model, 10).shapes()
    assert {name: shape for name, shape in shapes.items() if name.startswith("encoder.")} == named
