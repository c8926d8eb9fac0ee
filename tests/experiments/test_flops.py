"""The closed form of a model's operations, against torch's own counter."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from quran_asr.config.architecture import of_recipe
from quran_asr.config.recipe import load_recipe
from quran_asr.experiments.planning.cost import encoder_frames, forward_flops, training_flops

SMALL = (
    "model.encoder.n_layers=2",
    "model.encoder.d_model=48",
    "model.encoder.n_heads=4",
    "model.encoder.subsampling_conv_channels=8",
    "model.decoder.prednet.pred_hidden=24",
    "model.decoder.prednet.pred_rnn_layers=2",
    "model.joint.jointnet.joint_hidden=40",
    "quran.vocabulary_size=64",
)


@pytest.mark.slow
@pytest.mark.parametrize("overrides", [(), ("model.encoder.causal_downsampling=false",)])
def test_equal_to_what_torch_counts(overrides: tuple[str, ...], tmp_path: Path) -> None:
    torch = pytest.importorskip("torch", reason="needs the extra train")
    from torch.utils.flop_counter import FlopCounterMode

    from quran_asr.training.model import build_model
    from quran_asr.training.tokenizer import train_tokenizer

    recipe = load_recipe("base", [*SMALL, *overrides])
    train_tokenizer(recipe.quran.spelling, 64, tmp_path / "tokenizer")
    model = build_model(recipe, tmp_path / "tokenizer")
    architecture = of_recipe(recipe.model, 64)
    seconds, tokens = 3.1, 17
    features, lengths = torch.randn(1, 80, 311), torch.tensor([311])
    targets, counts = torch.zeros(1, tokens, dtype=torch.int64), torch.tensor([tokens])
    # oneDNN's LSTM is one operation that the counter does not know
    with torch.backends.mkldnn.flags(enabled=False), FlopCounterMode(display=False) as counter:
        encoded, frames = model.encoder(audio_signal=features, length=lengths)
        scores = model.ctc_decoder(encoder_output=encoded)
        predicted, _, _ = model.decoder(targets=targets, target_length=counts)
        joined = model.joint.joint(encoded.transpose(1, 2), predicted.transpose(1, 2))
        forward = counter.get_total_flops()
        (joined.sum() + scores.sum()).backward()
    assert int(frames[0]) == encoder_frames(architecture, 311)
    assert forward_flops(architecture, seconds, tokens) == pytest.approx(forward, rel=1e-6)
    # a little less than three times: what comes first passes no gradient on
    assert training_flops(architecture, seconds, tokens) == pytest.approx(counter.get_total_flops(), rel=0.1)


def test_the_known_cost_of_the_large_model() -> None:
    """About 9.6 GFLOP for a second of audio at 114M, counted earlier with clips of 6 s and 9 tokens."""
    recipe = load_recipe("transfer")
    architecture = of_recipe(recipe.model, recipe.quran.vocabulary_size)
    assert training_flops(architecture, 6.0, 9) / 6.0 == pytest.approx(9.6e9, rel=0.02)


def test_longer_clips_cost_more_than_in_proportion() -> None:
    """Attention and lattice grow with the product of two lengths."""
    architecture = of_recipe(load_recipe("transfer").model, 1024)
    short, long = training_flops(architecture, 5.0, 25), training_flops(architecture, 20.0, 100)
    assert long > 4.5 * short


def test_a_model_without_a_transducer_costs_less() -> None:
    whole = of_recipe(load_recipe("quickstart").model, 96)
    ctc = dataclasses.replace(whole, kind="ctc")
    assert forward_flops(ctc, 5.0, 20) < forward_flops(whole, 5.0, 20)
