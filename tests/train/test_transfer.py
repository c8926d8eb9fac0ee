"""A start from a trained model: what is copied, what stays fresh, and when training refuses."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from quran_asr.findings import QuranAsrError
from quran_asr.runs.schema import Recipe
from quran_asr.runs.transfer_map import TransferMap
from quran_asr.train.archives import read_archive, read_weights
from quran_asr.train.checkpoints import save_nemo
from quran_asr.train.model import EncDecHybridRNNTCTCBPEModel, build_model
from quran_asr.train.tokenizer import Tokenizer, train_tokenizer
from quran_asr.train.transfer import as_table, transfer

sys.path.insert(0, str(Path(__file__).parent))
from full_size import offline_archive

pytestmark = pytest.mark.slow


@pytest.fixture
def model(tiny: Recipe, tokenizer: Tokenizer) -> EncDecHybridRNNTCTCBPEModel:
    torch.manual_seed(1)
    return build_model(tiny, tokenizer.folder)


@pytest.fixture(scope="module")
def other_tokens(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    """As many tokens, other ones."""
    return train_tokenizer("diacritized", 48 + 16, tmp_path_factory.mktemp("other") / "tokenizer")


def start(
    model: EncDecHybridRNNTCTCBPEModel, recipe: Recipe, path: Path, *, allow_partial: bool = False
) -> TransferMap:
    archive = read_archive(path)
    weights = read_weights(archive)
    return transfer(
        model, recipe, archive.config, weights, archive.pieces, path.name, allow_partial=allow_partial
    )


def outcomes(planned: TransferMap) -> dict[str, str]:
    return {tensor.name: tensor.outcome for tensor in planned.tensors}


def test_the_same_kind_and_the_same_tokens_arrive_whole(
    model: EncDecHybridRNNTCTCBPEModel, tiny: Recipe, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    torch.manual_seed(2)
    source = build_model(tiny, tokenizer.folder)
    save_nemo(source, tmp_path / "source.nemo")
    planned = start(model, tiny, tmp_path / "source.nemo")
    assert set(outcomes(planned).values()) == {"copied"}
    assert planned.encoder_share == planned.share == 1.0
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, source.state_dict()[name]), name


def test_with_other_tokens_only_the_blank_of_token_tensors_is_copied(
    model: EncDecHybridRNNTCTCBPEModel, tiny: Recipe, other_tokens: Tokenizer, tmp_path: Path
) -> None:
    """Even where shapes agree: 48 tokens of one spelling are not 48 of another."""
    torch.manual_seed(2)
    source = build_model(tiny, other_tokens.folder)
    save_nemo(source, tmp_path / "source.nemo")
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    planned = start(model, tiny, tmp_path / "source.nemo")
    salvaged = {name for name, outcome in outcomes(planned).items() if outcome == "salvaged"}
    assert salvaged == {
        "decoder.prediction.embed.weight",
        "joint.joint_net.2.weight",
        "joint.joint_net.2.bias",
        "ctc_decoder.decoder_layers.0.weight",
        "ctc_decoder.decoder_layers.0.bias",
    }
    weights = source.state_dict()
    for name, parameter in model.named_parameters():
        if name in salvaged:
            assert torch.equal(parameter[-1], weights[name][-1]), name
            assert torch.equal(parameter[:-1], before[name][:-1]), name
        else:
            assert torch.equal(parameter, weights[name]), name
    assert any(finding.code == "vocabulary" for finding in planned.differences)


def test_equal_shapes_of_other_tokens_stay_fresh(tiny: Recipe, tokenizer: Tokenizer, tmp_path: Path) -> None:
    source = build_model(tiny, tokenizer.folder)
    save_nemo(source, tmp_path / "source.nemo")
    model = build_model(tiny, tokenizer.folder)
    archive = read_archive(tmp_path / "source.nemo")
    assert archive.pieces is not None
    swapped = [archive.pieces[0], archive.pieces[2], archive.pieces[1], *archive.pieces[3:]]
    before = model.joint.joint_net[2].weight.detach().clone()
    transfer(model, tiny, archive.config, read_weights(archive), swapped, "swapped")
    assert torch.equal(model.joint.joint_net[2].weight[:-1], before[:-1])
    assert torch.equal(model.joint.joint_net[2].weight[-1], source.joint.joint_net[2].weight[-1])


def test_an_offline_transducer_into_a_streaming_hybrid(
    model: EncDecHybridRNNTCTCBPEModel, tiny: Recipe, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    offline_archive(tiny, tokenizer.folder, tmp_path / "offline.nemo")
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    planned = start(model, tiny, tmp_path / "offline.nemo")
    found = outcomes(planned)
    assert found["encoder.pre_encode.out.weight"] == "salvaged"
    norms = [name for name in found if ".conv.batch_norm." in name]
    assert len(norms) == 2 * tiny.model.encoder.n_layers
    for name in norms:
        assert found[name] == "fresh"
        assert torch.equal(model.get_parameter(name), before[name]), "a batch norm's scale is no layer norm's"
    assert found["ctc_decoder.decoder_layers.0.weight"] == "fresh"
    assert found["joint.joint_net.2.weight"] == "copied", "the tokens are the same here"
    assert {finding.code for finding in planned.differences} >= {
        "offline-into-causal",
        "norm",
        "feature-normalisation",
    }
    assert any("running_mean" in name for name in planned.unused)
    assert planned.encoder_share > 0.95
    said = as_table(planned)
    assert "encoder.layers" in said
    assert f"{planned.encoder_share:.1%}" in said
    json.dumps(planned.to_json())


def test_too_little_is_refused_and_nothing_is_overwritten(
    tiny: Recipe, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    save_nemo(build_model(tiny, tokenizer.folder), tmp_path / "source.nemo")
    encoder = replace(tiny.model.encoder, d_model=48)
    wider = replace(tiny, model=replace(tiny.model, encoder=encoder))
    model = build_model(wider, tokenizer.folder)
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    with pytest.raises(QuranAsrError, match="of the encoder's parameters would arrive") as refused:
        start(model, wider, tmp_path / "source.nemo")
    assert "--allow-partial" in str(refused.value)
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, before[name]), name
    planned = start(model, wider, tmp_path / "source.nemo", allow_partial=True)
    assert "mismatched" in outcomes(planned).values()
    assert torch.equal(
        model.decoder.prediction["dec_rnn"].lstm.weight_ih_l0,
        read_weights(read_archive(tmp_path / "source.nemo"))["decoder.prediction.dec_rnn.lstm.weight_ih_l0"],
    )


def test_what_is_no_fastconformer_is_named(
    model: EncDecHybridRNNTCTCBPEModel, tiny: Recipe, tokenizer: Tokenizer
) -> None:
    with pytest.raises(QuranAsrError, match="not a FastConformer"):
        transfer(model, tiny, {"encoder": {"_target_": "nemo...ConvASREncoder"}}, {}, None, "quartznet")


@pytest.mark.parametrize("kind", ["offline", "streaming"])
def test_full_size_archives_of_nemos_own_classes(kind: str, tmp_path: Path) -> None:
    """114M parameters: what arrives, that the closed form is right, and what it takes."""
    told = {}
    for what in ("make", "read"):
        done = subprocess.run(
            [sys.executable, str(Path(__file__).with_name("full_size.py")), str(tmp_path), kind, what],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-2000:]
        told = json.loads(done.stdout.splitlines()[-1]) if what == "read" else {}
    print(told)
    assert told["same_shapes"], "the closed form is not what NeMo built"
    assert told["peak_gb"] < 4.0
    if kind == "offline":
        assert told["running"] == 3 * 17
        # 5 tensors by tokens of ours, 2 of which have no counterpart; 34 norms; one salvaged by bins
        assert told["outcomes"] == {
            "copied": 654 - 34 - 1 - 5,
            "salvaged": 1 + 3,
            "fresh": 34 + 2,
            "mismatched": 0,
        }
        assert told["encoder_share"] == pytest.approx(0.9986, abs=1e-4)
        assert told["correlation"] > 0.9
    else:
        assert told["outcomes"] == {"copied": 649, "salvaged": 5, "fresh": 0, "mismatched": 0}
        assert told["encoder_share"] == 1.0
