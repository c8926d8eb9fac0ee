"""The map of a transfer, on closed-form shapes: what arrives, what does not, and what it is called."""

from __future__ import annotations

import json
import math
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quran_asr.config.architecture import Architecture
from quran_asr.experiments.planning.starting_point import OFFLINE, STREAMING
from quran_asr.experiments.transfer_map import (
    FIRST,
    OUT,
    TOKEN_INDEXED,
    ModelLayout,
    Tensor,
    TransferMap,
    transfer_map,
)

TINY = replace(
    STREAMING, n_layers=2, d_model=16, n_heads=2, channels=4, pred_hidden=8, joint_hidden=8, tokens=5
)
OURS = ("a", "b", "c", "d", "e")
THEIRS = ("a", "b", "c", "e", "d")
RUNNING = {"running_mean": (512,), "running_var": (512,), "num_batches_tracked": ()}


def side(
    of: Architecture, pieces: tuple[str, ...] | None = None, more: dict[str, Any] | None = None
) -> ModelLayout:
    return ModelLayout("a model", of, of.shapes() | (more or {}), pieces)


def outcomes(planned: TransferMap) -> Counter[str]:
    return Counter(tensor.outcome for tensor in planned.tensors)


def by_name(planned: TransferMap) -> dict[str, Tensor]:
    return {tensor.name: tensor for tensor in planned.tensors}


def codes(planned: TransferMap) -> set[str]:
    return {finding.code for finding in planned.differences}


def test_the_guides_start_by_the_figures_that_were_counted() -> None:
    """705 and 656 tensors, of which 653 agree in name and shape; two of these are the features' own."""
    theirs, ours = OFFLINE.shapes(), STREAMING.shapes()
    buffers_of_features, statistics = 2, 3 * 17
    assert len(theirs) + buffers_of_features + statistics == 705
    assert len(ours) + buffers_of_features == 656
    same = [name for name, shape in ours.items() if theirs.get(name) == shape]
    assert len(same) + buffers_of_features == 653
    assert [name for name in ours if name in theirs and theirs[name] != ours[name]] == [OUT]
    assert theirs[OUT] == (512, 2560) and ours[OUT] == (512, 2816)
    assert round(sum(map(math.prod, theirs.values())) / 1e6, 2) == 114.10
    assert sum(map(math.prod, ours.values())) == 114_752_514


def test_offline_into_streaming() -> None:
    planned = transfer_map(side(OFFLINE), side(STREAMING))
    # fresh: 17 layers' norms and the CTC head; salvaged: the bins, and the blank of three tensors
    assert outcomes(planned) == {"copied": 614, "fresh": 34 + 2, "salvaged": 1 + 3}
    assert planned.encoder_share == pytest.approx(0.99864, abs=1e-5)
    assert planned.share == pytest.approx(0.98269, abs=1e-5)
    found = by_name(planned)
    assert found[OUT].reason == "10 into 11 frequency bins, shifted by one"
    assert (found[OUT].parameters, found[OUT].arrived) == (512 * 2816, 512 * 2560)
    norm = found["encoder.layers.16.conv.batch_norm.bias"]
    assert (norm.outcome, norm.arrived) == ("fresh", 0) and "batch_norm into layer_norm" in norm.reason
    assert found["ctc_decoder.decoder_layers.0.weight"].source is None
    assert found["decoder.prediction.dec_rnn.lstm.weight_hh_l0"].outcome == "copied"
    assert found["joint.enc.weight"].outcome == found["joint.pred.bias"].outcome == "copied"
    named = {"offline-into-causal", "norm", "feature-normalisation", "attention", "vocabulary"}
    assert codes(planned) == named


def test_streaming_into_streaming_differs_in_tokens_alone() -> None:
    planned = transfer_map(side(STREAMING), side(STREAMING))
    assert outcomes(planned) == {"copied": 649, "salvaged": 5}
    assert (planned.encoder_share, codes(planned)) == (1.0, {"vocabulary"})
    assert planned.share == pytest.approx(0.98399, abs=1e-5)


def test_equal_shapes_of_other_tokens_keep_only_the_blank() -> None:
    same = transfer_map(side(TINY, OURS), side(TINY, OURS))
    assert set(outcomes(same)) == {"copied"} and same.share == 1.0 and codes(same) == set()
    other = transfer_map(side(TINY, THEIRS), side(TINY, OURS))
    blanks = [tensor for tensor in other.tensors if tensor.how == "blank"]
    assert len(blanks) == len(TOKEN_INDEXED)
    assert all(tensor.arrived * (TINY.tokens + 1) == tensor.parameters for tensor in blanks)
    unknown = transfer_map(side(TINY, None), side(TINY, None))
    assert [tensor.how for tensor in unknown.tensors] == [tensor.how for tensor in other.tensors]


def test_no_first_row_is_taken_where_the_width_differs() -> None:
    wider = replace(TINY, pred_hidden=12)
    embedding = by_name(transfer_map(side(wider, THEIRS), side(TINY, OURS)))[
        "decoder.prediction.embed.weight"
    ]
    assert (embedding.outcome, embedding.how) == ("fresh", "none")


def test_a_ctc_models_head_is_a_ctc_head_and_the_rest_is_fresh() -> None:
    planned = transfer_map(side(replace(TINY, kind="ctc"), THEIRS), side(TINY, OURS))
    head = by_name(planned)["ctc_decoder.decoder_layers.0.weight"]
    assert (head.source, head.how) == ("decoder.decoder_layers.0.weight", "blank")
    assert planned.encoder_share == 1.0
    assert {t.outcome for t in planned.tensors if t.name.startswith(("decoder.", "joint."))} == {"fresh"}
    assert codes(planned) == {"vocabulary"}, "what it lacks is not called another size"


def test_a_joint_without_dropout_has_the_same_output_layer_under_another_number() -> None:
    planned = transfer_map(side(replace(TINY, joint_dropout=False), OURS), side(TINY, OURS))
    assert by_name(planned)["joint.joint_net.2.weight"].source == "joint.joint_net.1.weight"
    assert planned.share == 1.0


def test_other_mel_bins_are_not_taken_for_the_bin_of_the_padding() -> None:
    """88 mel bins leave 11 behind the subsampling, as 80 with causal padding do."""
    planned = transfer_map(side(OFFLINE), side(replace(OFFLINE, features=88)))
    assert by_name(planned)[OUT].outcome == "mismatched"
    assert "mel-bins" in codes(planned)
    planned = transfer_map(side(replace(OFFLINE, features=88)), side(STREAMING))
    assert (by_name(planned)[OUT].outcome, by_name(planned)[OUT].arrived) == ("fresh", 0)
    assert "other frequency bins" in by_name(planned)[OUT].reason


def test_128_mel_bins_do_not_fit_80() -> None:
    planned = transfer_map(side(replace(STREAMING, features=128)), side(STREAMING))
    assert by_name(planned)[OUT].outcome == "mismatched"
    assert codes(planned) == {"mel-bins", "vocabulary"}


def test_attention_of_another_number_of_heads_is_not_copied_though_its_shapes_agree() -> None:
    planned = transfer_map(side(STREAMING), side(replace(STREAMING, n_heads=4)))
    query = by_name(planned)["encoder.layers.0.self_attn.linear_q.weight"]
    assert (query.outcome, query.arrived) == ("fresh", 0) and "8 heads into 4" in query.reason
    assert planned.encoder_share < 0.9


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"window": (0.032, 0.01)}, "window"),
        ({"subsampling": 4}, "subsampling"),
        ({"channels": 8}, "channels"),
        ({"causal_downsampling": False}, "causal-downsampling"),
        ({"causal_convolution": False}, "causal-convolution"),
        ({"attention": "regular"}, "attention"),
        ({"n_layers": 1}, "layers"),
        ({"n_layers": 3}, "layers-left-out"),
        ({"d_model": 32}, "width"),
        ({"ff_expansion": 2}, "feed-forward"),
        ({"kernel": 5}, "kernel"),
        ({"norm": "batch_norm"}, "norm"),
        ({"normalize": "per_feature"}, "feature-normalisation"),
        ({"xscaling": False}, "xscaling"),
        ({"use_bias": False}, "use-bias"),
        ({"untie_biases": False}, "position-biases"),
        ({"pred_hidden": 12}, "prediction-network"),
        ({"pred_layers": 2}, "prediction-layers"),
        ({"joint_hidden": 12}, "joint"),
    ],
)
def test_each_difference_has_its_own_name(change: dict[str, Any], code: str) -> None:
    assert codes(transfer_map(side(replace(TINY, **change), OURS), side(TINY, OURS))) == {code}


def test_the_part_of_the_source_that_is_left_out_is_reported() -> None:
    six, three = (side(replace(STREAMING, n_layers=layers)) for layers in (6, 3))
    planned = transfer_map(six, three)
    assert planned.encoder_share == 1.0
    parameters = [
        sum(math.prod(shape) for name, shape in one.shapes.items() if name.startswith("encoder."))
        for one in (six, three)
    ]
    assert planned.source_share == pytest.approx(parameters[1] / parameters[0])
    difference = planned.differences[0]
    assert (difference.severity, difference.code) == ("warning", "layers-left-out")
    assert "3 of its 6 layers are left out" in difference.message
    assert transfer_map(six, six).source_share == 1.0


def test_a_larger_encoder_is_fresh_or_mismatched_and_counted_as_such() -> None:
    deeper = transfer_map(side(STREAMING), side(replace(STREAMING, n_layers=24)))
    assert outcomes(deeper)["fresh"] == 7 * len([n for n in STREAMING.shapes() if ".layers.0." in n])
    assert deeper.encoder_share < 0.9
    wider = transfer_map(side(STREAMING), side(replace(STREAMING, d_model=768)))
    assert outcomes(wider)["mismatched"] > 600
    assert wider.encoder_share < 0.01


def test_running_statistics_go_with_batch_norms_and_are_not_parameters() -> None:
    named = {f"encoder.layers.0.conv.batch_norm.{what}": shape for what, shape in RUNNING.items()}
    ours = replace(STREAMING, norm="batch_norm")
    planned = transfer_map(side(OFFLINE, None, named), side(ours, None, named))
    for name in named:
        tensor = by_name(planned)[name]
        assert (tensor.outcome, tensor.how, tensor.parameters) == ("copied", "whole", 0)
        assert name not in planned.unused
    parameters = sum(math.prod(shape) for shape in ours.shapes().values())
    assert sum(tensor.parameters for tensor in planned.tensors) == parameters
    into_layer_norms = transfer_map(side(OFFLINE, None, named), side(STREAMING))
    assert set(into_layer_norms.unused) >= set(named)


def test_the_level_of_features_is_folded_only_where_it_is_known_and_needed() -> None:
    def how(theirs: Architecture, known: bool) -> set[str]:
        planned = transfer_map(side(theirs), side(STREAMING), level_known=known)
        return {by_name(planned)[name].how for name in FIRST}

    assert how(OFFLINE, True) == {"level"}
    assert how(OFFLINE, False) == how(STREAMING, True) == {"whole"}


def test_transfer_json_has_every_tensor_and_the_table_adds_up() -> None:
    planned = transfer_map(side(OFFLINE), side(STREAMING))
    written = json.loads(json.dumps(planned.to_json()))
    assert [tensor["name"] for tensor in written["tensors"]] == list(STREAMING.shapes())
    cells = [cell for module in written["modules"].values() for cell in module.values()]
    assert sum(cell["tensors"] for cell in cells) == 654
    assert sum(cell["parameters"] for cell in cells) == 114_752_514
    assert written["modules"]["encoder.pre_encode"]["salvaged"] == {"tensors": 1, "parameters": 512 * 2816}
    assert {finding["code"] for finding in written["differences"]} == codes(planned)


ARCHITECTURES = st.builds(
    replace,
    st.just(TINY),
    kind=st.sampled_from(["transducer", "hybrid", "ctc"]),
    features=st.sampled_from([64, 80, 88, 128]),
    normalize=st.sampled_from(["NA", "per_feature"]),
    n_layers=st.integers(1, 3),
    d_model=st.sampled_from([16, 32]),
    n_heads=st.sampled_from([2, 4]),
    channels=st.sampled_from([4, 8]),
    subsampling=st.sampled_from([4, 8]),
    causal_downsampling=st.booleans(),
    kernel=st.sampled_from([5, 9]),
    norm=st.sampled_from(["batch_norm", "layer_norm"]),
    use_bias=st.booleans(),
    untie_biases=st.booleans(),
    pred_hidden=st.sampled_from([8, 12]),
    joint_dropout=st.booleans(),
)


@settings(deadline=None)
@given(source=ARCHITECTURES, target=ARCHITECTURES, same=st.booleans(), level=st.booleans())
def test_whatever_meets_whatever_only_what_fits_is_written(
    source: Architecture, target: Architecture, same: bool, level: bool
) -> None:
    target = replace(target, kind="hybrid")
    there, ours = side(source, OURS if same else THEIRS), side(target, OURS)
    planned = transfer_map(there, ours, level_known=level)
    assert [tensor.name for tensor in planned.tensors] == list(ours.shapes)
    assert 0.0 <= planned.share <= 1.0 and 0.0 <= planned.encoder_share <= 1.0
    for tensor in planned.tensors:
        assert (tensor.how == "none") == (tensor.arrived == 0)
        assert (tensor.outcome in ("copied", "salvaged")) == (tensor.how != "none")
        if tensor.how == "none":
            continue
        assert tensor.source is not None
        from_, to = there.shapes[tensor.source], ours.shapes[tensor.name]
        if tensor.how in ("whole", "level"):
            assert from_ == to
        elif tensor.how == "blank":
            assert from_[1:] == to[1:]
        else:
            assert to[1] - from_[1] == source.channels == target.channels
    if planned.share == 1.0:
        assert same and (source.norm, source.n_heads) == (target.norm, target.n_heads)
