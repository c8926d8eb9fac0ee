"""A start from a trained model: what is copied, what stays fresh, and when training refuses."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn.functional import conv2d

from quran_asr.audio import read
from quran_asr.config.schema import Recipe
from quran_asr.errors import QuranAsrError
from quran_asr.experiments.run_folder import create_run
from quran_asr.experiments.transfer_map import FIRST, TransferMap
from quran_asr.records import Segment
from quran_asr.training.checkpoints import save_nemo
from quran_asr.training.data.batches import ClipSet, tokenize
from quran_asr.training.initialization import as_table, feature_level, sample_features, transfer
from quran_asr.training.model import EncDecHybridRNNTCTCBPEModel, build_model
from quran_asr.training.nemo_archive import read_archive, read_weights
from quran_asr.training.pretrained import Pretrained
from quran_asr.training.tokenizer import Tokenizer, train_tokenizer
from quran_asr.training.trainer import Start, start_from

sys.path.insert(0, str(Path(__file__).parent))
from full_size import make_full_size, offline_archive

pytestmark = pytest.mark.slow


@pytest.fixture
def model(tiny: Recipe, tokenizer: Tokenizer) -> EncDecHybridRNNTCTCBPEModel:
    torch.manual_seed(1)
    return build_model(tiny, tokenizer.folder)


@pytest.fixture(scope="module")
def other_tokens(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    """Other tokens, and more of them."""
    return train_tokenizer("diacritized", 48 + 16, tmp_path_factory.mktemp("other") / "tokenizer")


def start(
    model: EncDecHybridRNNTCTCBPEModel, recipe: Recipe, path: Path, *, allow_partial: bool = False
) -> TransferMap:
    archive = read_archive(path)
    weights = read_weights(archive)
    return transfer(
        model, recipe.model, archive.config, weights, archive.pieces, path.name, allow_partial=allow_partial
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
    transfer(model, tiny.model, archive.config, read_weights(archive), swapped, "swapped")
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
        assert torch.equal(model.get_parameter(name), before[name]), (
            "a batch norm's scale is not a layer norm's"
        )
    assert found["ctc_decoder.decoder_layers.0.weight"] == "fresh"
    assert found["joint.joint_net.2.weight"] == "copied", "the tokens are the same here"
    assert {finding.code for finding in planned.differences} >= {
        "offline-into-causal",
        "norm",
        "feature-normalisation",
    }
    assert any("running_mean" in name for name in planned.unused)
    assert planned.encoder_share > 0.95
    table = as_table(planned)
    assert "encoder.layers" in table
    assert f"{planned.encoder_share:.1%}" in table
    json.dumps(planned.to_json())


def correlation(theirs: Tensor, ours: Tensor) -> float:
    """Of outputs [frames, width] about their means; a causal subsampling's are one frame later.

    With the means, which are most of what random weights give, nearly everything would correlate at 0.98.
    """
    frames = min(len(theirs), len(ours) - 1)
    pair = [theirs[:frames], ours[1 : frames + 1]]
    return float(torch.corrcoef(torch.stack([(x - x.mean(dim=0)).flatten() for x in pair]))[0, 1])


@torch.no_grad()
def test_the_shift_and_the_features_level_bring_the_subsampling_nearer_to_the_source(
    tiny: Recipe, tokenizer: Tokenizer, segments: list[Segment], tmp_path: Path
) -> None:
    """On speech: random weights, then those of the source without the shift, with it, and on raw features.

    As many channels as at full size: with eight the draw decides.
    """
    from nemo.collections.asr.models import EncDecRNNTBPEModel

    torch.manual_seed(1)
    encoder = replace(tiny.model.encoder, subsampling_conv_channels=256)
    wide = replace(tiny, model=replace(tiny.model, encoder=encoder))
    offline_archive(wide, tokenizer.folder, tmp_path / "offline.nemo")
    source = EncDecRNNTBPEModel.restore_from(str(tmp_path / "offline.nemo"), map_location="cpu").eval()
    samples = torch.from_numpy(read(segments[0].audio))[None]
    length = torch.tensor([samples.shape[1]])
    model = build_model(wide, tokenizer.folder).eval()
    normalised, frames = source.preprocessor(input_signal=samples, length=length)
    raw, _ = model.preprocessor(input_signal=samples, length=length)
    wanted, _ = source.encoder.pre_encode(normalised.transpose(1, 2), frames)

    def nearness(features: Tensor) -> float:
        found, _ = model.encoder.pre_encode(features.transpose(1, 2), frames)
        return correlation(wanted[0], found[0])

    archive = read_archive(tmp_path / "offline.nemo")
    arguments = (model, wide.model, archive.config, read_weights(archive), archive.pieces, "offline")
    random_start = nearness(normalised)
    transfer(*arguments)
    shifted, raw_features = nearness(normalised), nearness(raw)
    out = model.encoder.pre_encode.out.weight
    out.copy_(out.view(out.shape[0], -1, 11).roll(-1, dims=2).reshape(out.shape))
    columns = nearness(normalised)

    mean, deviation = feature_level(raw, frames)
    planned = transfer(*arguments, level=(mean, deviation))
    folded = nearness(raw)
    losses = f"{random_start=:.3f} {columns=:.3f} {shifted=:.3f} {raw_features=:.3f} {folded=:.3f}"
    print(losses)
    assert abs(random_start) < 0.15 < columns < shifted - 0.05, losses
    assert raw_features < folded - 0.05, losses
    assert {tensor.name for tensor in planned.tensors if tensor.how == "level"} == set(FIRST)
    first, theirs = model.encoder.pre_encode.conv[0], source.encoder.pre_encode.conv[0]
    inside = conv2d(raw[:, None], first.weight, first.bias)
    expected = conv2d((raw[:, None] - mean) / deviation, theirs.weight, theirs.bias)
    assert torch.allclose(inside, expected, atol=1e-4), "folding is exact away from the borders"


def test_a_training_from_normalised_features_folds_the_level_of_its_clips_in(
    tiny: Recipe, tokenizer: Tokenizer, segments: list[Segment], tmp_path: Path
) -> None:
    """The start that a run makes, not only the function: raw features must mean what normalised ones did."""
    offline_archive(tiny, tokenizer.folder, tmp_path / "offline.nemo")
    archive = read_archive(tmp_path / "offline.nemo")
    clips = ClipSet(tokenize(segments, tokenizer), cache_bytes=1 << 24)
    model = build_model(tiny, tokenizer.folder)
    run = create_run(tmp_path / "runs", "tiny")
    pretrained = Pretrained("offline", tmp_path / "offline.nemo", "0" * 64, "file")
    tables: list[str] = []
    start_from(Start(pretrained, archive, False, False, tables.append), model, tiny.model, run, clips)
    theirs = read_weights(archive)[FIRST[0]]
    mean, deviation = feature_level(*sample_features(model, clips))
    assert torch.allclose(model.encoder.pre_encode.conv[0].weight * deviation, theirs, atol=1e-6)
    assert abs(mean) > 1 and deviation > 1, "log energies, not normalised ones"
    tensors = {tensor["name"]: tensor for tensor in run.read_json("transfer.json")["tensors"]}
    assert {tensors[name]["how"] for name in FIRST} == {"level"}
    assert "folded in" in tensors[FIRST[0]]["reason"]


def test_the_features_level_leaves_padding_out() -> None:
    torch.manual_seed(0)
    features, lengths = 5 + 3 * torch.randn(2, 80, 40), torch.tensor([40, 25])
    features[1, :, 25:] = 100.0
    frames = torch.cat([features[0].flatten(), features[1, :, :25].flatten()])
    expected = (float(frames.mean()), float(frames.std()))
    assert feature_level(features, lengths) == pytest.approx(expected, rel=1e-4)


def test_running_statistics_come_with_batch_norms(tiny: Recipe, tokenizer: Tokenizer, tmp_path: Path) -> None:
    """Their scales would mean nothing without them."""
    batch_norms = replace(
        tiny, model=replace(tiny.model, encoder=replace(tiny.model.encoder, conv_norm_type="batch_norm"))
    )
    source = build_model(batch_norms, tokenizer.folder)
    norm = source.encoder.layers[0].conv.batch_norm
    norm.running_mean.fill_(0.25)
    norm.running_var.fill_(4.0)
    norm.num_batches_tracked.fill_(7)
    save_nemo(source, tmp_path / "source.nemo")
    model = build_model(batch_norms, tokenizer.folder)
    planned = start(model, batch_norms, tmp_path / "source.nemo")
    ours = model.encoder.layers[0].conv.batch_norm
    for name, buffer in norm.named_buffers():
        assert torch.equal(getattr(ours, name), buffer), name
    assert planned.share == 1.0 and not planned.unused
    assert sum(tensor.parameters for tensor in planned.tensors) == model.num_weights


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


def test_what_is_not_a_fastconformer_is_named(
    model: EncDecHybridRNNTCTCBPEModel, tiny: Recipe, tokenizer: Tokenizer
) -> None:
    with pytest.raises(QuranAsrError, match="not a FastConformer"):
        transfer(model, tiny.model, {"encoder": {"_target_": "nemo...ConvASREncoder"}}, {}, None, "quartznet")


@pytest.mark.parametrize("kind", ["offline", "streaming"])
def test_full_size_archives_of_nemos_own_classes(kind: str, tmp_path: Path) -> None:
    """114M parameters: what arrives, that the closed form is right, and what it takes, in another process."""
    make_full_size(tmp_path, kind)
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("full_size.py")), str(tmp_path), kind],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    result = json.loads(done.stdout.splitlines()[-1])
    print(result)
    assert result["same_shapes"], "the closed form is not what NeMo built"
    assert result["peak_gb"] < 4.0
    if kind == "offline":
        assert result["running"] == 3 * 17
        # 5 tensors by tokens of ours, 2 of which have no counterpart; 34 norms; one salvaged by bins
        assert result["outcomes"] == {
            "copied": 654 - 34 - 1 - 5,
            "salvaged": 1 + 3,
            "fresh": 34 + 2,
            "mismatched": 0,
        }
        assert result["encoder_share"] == pytest.approx(0.9986, abs=1e-4)
        assert result["correlation"] > 0.9  # of noise through random weights; 0.99 on speech
        assert abs(result["correlation_of_a_random_start"]) < 0.1
    else:
        assert result["outcomes"] == {"copied": 649, "salvaged": 5, "fresh": 0, "mismatched": 0}
        assert result["encoder_share"] == 1.0
