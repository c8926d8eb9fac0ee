"""An exported model as a start: the weights that are read from its graphs are those of the same model."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import Tensor

from quran_asr.config.recipe import load_recipe
from quran_asr.config.schema import Recipe
from quran_asr.decoding.options import Decoding
from quran_asr.errors import QuranAsrError
from quran_asr.evaluation.training_data import TrainingData
from quran_asr.experiments.run_folder import RunFolder
from quran_asr.export.bundle import to_int8, write_unproven
from quran_asr.export.verification import nemo_transcribes
from quran_asr.files import sha256_of
from quran_asr.runtime.bundle import (
    ENCODER,
    JOINT,
    PREDICTION,
    Bundle,
    default_model,
    read_bundle,
    write_description,
)
from quran_asr.runtime.recognizer import Recognizer
from quran_asr.training.bundle_weights import exported_weights, positions, read_exported
from quran_asr.training.model import EncDecHybridRNNTCTCBPEModel, build_model
from quran_asr.training.pretrained import find_pretrained
from quran_asr.training.streaming import model_shape
from quran_asr.training.tokenizer import Tokenizer

MORE = ("model.encoder.n_layers=2", "model.decoder.prednet.pred_rnn_layers=2")


@pytest.fixture(scope="module")
def recipe(tiny_overrides: tuple[str, ...]) -> Recipe:
    return load_recipe("quickstart", [*tiny_overrides, *MORE])


@pytest.fixture(scope="module")
def model(recipe: Recipe, tokenizer: Tokenizer) -> EncDecHybridRNNTCTCBPEModel:
    """Biases and norms begin as zeros and ones, which would hide how they are folded: all are moved."""
    torch.manual_seed(0)
    built = build_model(recipe, tokenizer.folder).eval()
    with torch.no_grad():
        for parameter in built.parameters():
            parameter += 0.2 * torch.randn_like(parameter)
    return built


@pytest.fixture(scope="module")
def exported(model: EncDecHybridRNNTCTCBPEModel, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """In 32-bit floats; nobody writes in it."""
    folder = tmp_path_factory.mktemp("exported")
    (folder / "source.nemo").touch()
    (folder / "bundle").mkdir()
    return write_unproven(model, folder / "source.nemo", model_shape(model, "tiny"), folder / "bundle")


@pytest.fixture(scope="module")
def eight_bits(exported: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return to_int8(exported, tmp_path_factory.mktemp("eight"), "int8-weights")


@pytest.fixture
def copied(exported: Bundle, tmp_path: Path) -> Bundle:
    """To be changed."""
    shutil.copytree(exported.folder, tmp_path / "bundle")
    return read_bundle(tmp_path / "bundle")


def restored(bundle: Bundle, recipe: Recipe, tokenizer: Tokenizer) -> EncDecHybridRNNTCTCBPEModel:
    """NeMo's model with the weights of a bundle and nothing of its own."""
    torch.manual_seed(1)
    built = build_model(recipe, tokenizer.folder).eval()
    weights = exported_weights(read_exported(bundle.folder, xscaling=recipe.model.encoder.xscaling))
    own = {name for name in built.state_dict() if not name.startswith("preprocessor.")}
    assert own == weights.keys()
    built.load_state_dict(weights, strict=False)
    return built


@torch.inference_mode()
def outputs(model: EncDecHybridRNNTCTCBPEModel) -> tuple[Tensor, Tensor, Tensor]:
    """Encoder outputs [B, T, D], CTC and transducer log-probabilities of noise and some tokens."""
    torch.manual_seed(2)
    features, lengths = torch.randn(2, 80, 417), torch.tensor([417, 253])
    encoded, frames = model.encoder(audio_signal=features, length=lengths)
    ctc = model.ctc_decoder(encoder_output=encoded)
    tokens = torch.randint(0, 48, (2, 9))
    predicted, _, _ = model.decoder(targets=tokens, target_length=torch.tensor([9, 9]))
    joined = model.joint.joint(encoded.transpose(1, 2), predicted.transpose(1, 2)).log_softmax(-1)
    inside = [slice(0, int(count)) for count in frames]
    return (
        torch.cat([one[:, part].T for one, part in zip(encoded, inside, strict=True)]),
        torch.cat([one[part] for one, part in zip(ctc, inside, strict=True)]),
        torch.cat([one[part].flatten(0, 1) for one, part in zip(joined, inside, strict=True)]),
    )


def differences(one: EncDecHybridRNNTCTCBPEModel, other: EncDecHybridRNNTCTCBPEModel) -> list[float]:
    return [float((a - b).abs().max()) for a, b in zip(outputs(one), outputs(other), strict=True)]


@pytest.mark.slow
def test_weights_of_a_float_bundle_are_the_same_model(
    model: EncDecHybridRNNTCTCBPEModel, exported: Bundle, recipe: Recipe, tokenizer: Tokenizer
) -> None:
    assert max(differences(model, restored(exported, recipe, tokenizer))) < 1e-4


def test_the_factor_of_the_input_is_where_the_recipe_wants_it(
    model: EncDecHybridRNNTCTCBPEModel, exported: Bundle, recipe: Recipe, tokenizer: Tokenizer
) -> None:
    encoder = replace(recipe.model.encoder, xscaling=False)
    unscaled = replace(recipe, model=replace(recipe.model, encoder=encoder))
    assert max(differences(model, restored(exported, unscaled, tokenizer))) < 1e-4


def test_weights_of_8_bits_are_what_the_runtime_computes_with(
    model: EncDecHybridRNNTCTCBPEModel,
    eight_bits: Bundle,
    recipe: Recipe,
    tokenizer: Tokenizer,
    voice: np.ndarray,
) -> None:
    found = restored(eight_bits, recipe, tokenizer)
    runtime = Recognizer(eight_bits, Decoding(decoder="ctc", pause_seconds=None), 1040)
    with torch.inference_mode():
        scores, _ = nemo_transcribes(found, voice)
    assert np.abs(runtime.emissions([voice]).log_probs - scores).max() < 1e-4
    assert 1e-3 < differences(model, found)[1] < 0.5, "near the floats that were rounded, and not the same"


@pytest.mark.parametrize(("left", "width"), [(70, 256), (70, 512), (20, 32)])
def test_positions_are_nemos(left: int, width: int) -> None:
    from nemo.collections.asr.parts.submodules.multi_head_attention import RelPositionalEncoding

    encoding = RelPositionalEncoding(width, 0.0, 5000, None, 0.0)
    encoding.extend_pe(2 * left, torch.device("cpu"), torch.float32)
    centre = encoding.pe.size(1) // 2
    expected = encoding.pe[0, centre - (2 * left - 1) : centre + left + 1]
    assert torch.allclose(positions(left, width), expected, atol=1e-5)


# What is refused


def refused(folder: Path) -> QuranAsrError:
    with pytest.raises(QuranAsrError) as error:
        read_exported(folder)
    assert error.value.remedy and "\n" not in error.value.what
    return error.value


def rewrite(bundle: Bundle, file: str, change: Callable[[Any], object]) -> None:
    """Change a graph, and describe the bundle again: what a hostile one could be."""
    model = onnx.load(bundle.folder / file)
    change(model.graph)
    onnx.save(model, bundle.folder / file)
    write_description(bundle)


def put(graph: Any, name: str, values: np.ndarray) -> None:
    place = next(one for one in graph.initializer if one.name == name)
    place.CopyFrom(numpy_helper.from_array(values, name))


def test_a_bundle_that_computes_in_integers_is_refused(exported: Bundle, tmp_path: Path) -> None:
    to_int8(exported, tmp_path, "int8")
    assert "computes in integers" in refused(tmp_path).what
    with pytest.raises(QuranAsrError, match="computes in integers"):
        find_pretrained(str(tmp_path))


def test_the_first_format_is_refused(copied: Bundle) -> None:
    write_description(replace(copied, format=1))
    assert "format 1" in refused(copied.folder).what


def test_a_damaged_bundle_is_refused(copied: Bundle) -> None:
    content = bytearray((copied.folder / ENCODER).read_bytes())
    content[len(content) // 2] ^= 1
    (copied.folder / ENCODER).write_bytes(content)
    assert "is damaged" in refused(copied.folder).what


@pytest.mark.parametrize(
    ("file", "change", "what"),
    [
        (ENCODER, lambda graph: graph.initializer.remove(graph.initializer[0]), "no weights `subsampling"),
        (
            ENCODER,
            lambda graph: put(graph, "layers.1.first.enter.bias", np.zeros(7, np.float32)),
            "`encoder.layers.1.feed_forward1.linear1.bias` is (7,)",
        ),
        (
            ENCODER,
            lambda graph: put(graph, "layers.0.attention.enter.bias", np.zeros(9, np.float32)),
            "no training starts from this bundle",
        ),
        (
            ENCODER,
            lambda graph: put(
                graph,
                "layers.0.attention.table",
                np.random.default_rng(0).standard_normal((2, 16, 210)).astype(np.float32),
            ),
            "is of other positions",
        ),
        (
            ENCODER,
            lambda graph: put(graph, "layers.0.attention.table", np.zeros((2, 16, 9), np.float32)),
            "`layers.0.attention.table` is (2, 16, 9)",
        ),
        (
            ENCODER,
            lambda graph: put(graph, "ctc.bias", np.full(49, np.nan, np.float32)),
            "NaN or infinity",
        ),
        (PREDICTION, lambda graph: put(graph, "joint.bias", np.zeros(16)), "no weights `joint.bias`"),
        (JOINT, lambda graph: graph.ClearField("initializer"), "no weights"),
    ],
)
def test_graphs_that_no_export_writes_are_refused(
    copied: Bundle, file: str, change: Callable[[Any], object], what: str
) -> None:
    rewrite(copied, file, change)
    assert what in refused(copied.folder).what


def test_graphs_of_another_model_are_refused(copied: Bundle) -> None:
    shutil.copy(copied.folder / JOINT, copied.folder / PREDICTION)
    write_description(copied)
    assert "no weights `embedding.weight`" in refused(copied.folder).what


def test_what_is_no_graph_is_refused(copied: Bundle) -> None:
    (copied.folder / JOINT).write_bytes(b"\x3a\x04abcd")
    write_description(copied)
    refused(copied.folder)


# How it is named


def test_a_folder_of_a_bundle_is_found_with_the_sum_of_its_description(exported: Bundle) -> None:
    found = find_pretrained(str(exported.folder))
    assert (found.path, found.source) == (exported.folder, "bundle")
    assert found.sha256 == sha256_of(exported.folder / "bundle.json")


def test_default_is_the_model_in_the_package(
    exported: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "default").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("quran_asr.training.pretrained.DEFAULT_MODEL", exported.folder)
    assert find_pretrained("default").path == exported.folder
    monkeypatch.setattr("quran_asr.training.pretrained.DEFAULT_MODEL", tmp_path / "nothing")
    with pytest.raises(QuranAsrError, match="contains no default model"):
        find_pretrained("default")


def test_what_is_nearly_a_bundle_is_named(copied: Bundle) -> None:
    with pytest.raises(QuranAsrError, match="hint: name the folder of the bundle"):
        find_pretrained(str(copied.folder / ENCODER))
    (copied.folder / "bundle.json").unlink()
    with pytest.raises(QuranAsrError, match=r"it has no bundle\.json"):
        find_pretrained(str(copied.folder))


# What people type


@pytest.fixture
def typed(
    in_process: Callable[..., Any], spoken: Path, tiny_overrides: tuple[str, ...], tmp_path: Path
) -> Callable[..., Any]:
    """`quran-asr COMMAND quickstart` with a tiny model of two layers, and its run folder below the place."""

    def run(command: str, *words: str) -> Any:
        manifests = ("--train", str(spoken), "--validation", str(spoken))
        tiny = (*tiny_overrides, *MORE, "quran.curriculum=null", f"exp_manager.exp_dir={tmp_path / 'runs'}")
        overrides = [word for word in tiny if not word.startswith("quran.curriculum.")]
        done = in_process(command, "quickstart", *manifests, *overrides, *words, cwd=tmp_path)
        assert "Traceback" not in done.err, done.err
        return done

    return run


@pytest.mark.slow
def test_a_training_starts_from_a_bundle(typed: Any, eight_bits: Bundle, tmp_path: Path) -> None:
    done = typed(
        "train", f"init_from_pretrained_model={eight_bits.folder}", "trainer.max_steps=2", "--no-preflight"
    )
    assert done.code == 0, done.err
    assert "100.0% of the encoder and 100.0% of the model arrived" in done.err
    (run,) = (tmp_path / "runs").glob("*/*")
    record = RunFolder(run).read_json("transfer.json")
    assert (record["share"], record["from"]) == (1.0, "bundle")
    assert record["sha256"] == sha256_of(eight_bits.folder / "bundle.json")
    assert {tensor["outcome"] for tensor in record["tensors"]} == {"copied"} and not record["unused"]


@pytest.mark.slow
def test_check_tells_what_arrives_from_a_bundle(typed: Any, exported: Bundle) -> None:
    done = typed("check", f"init_from_pretrained_model={exported.folder}", "--gate-steps", "0")
    assert "100.0 % of the encoder and 100.0 % of the model arrive" in done.out, done.out + done.err


@pytest.mark.slow
def test_a_bundle_that_does_not_fit_or_is_damaged_leaves_no_run(
    typed: Any, copied: Bundle, tmp_path: Path
) -> None:
    start = f"init_from_pretrained_model={copied.folder}"
    done = typed("train", start, "model.encoder.d_model=48")
    assert done.code == 2 and "of the encoder's parameters would arrive" in done.err
    assert "hint: use the recipe that it was trained with, `quickstart`" in done.err
    (copied.folder / PREDICTION).write_bytes(b"torn")
    done = typed("train", start)
    assert done.code == 2 and "prediction.onnx: has 4 bytes of" in done.err and "hint:" in done.err
    assert not list((tmp_path / "runs").glob("*/*"))


@pytest.mark.slow
def test_the_model_in_the_package_is_trained_further(
    in_process: Callable[..., Any], spoken: Path, tmp_path: Path
) -> None:
    """The whole `compact`, as it ships: its tokenizer is made again, and all of it arrives."""
    (tmp_path / "default").mkdir()  # stands in nobody's way
    few = tmp_path / "few.jsonl"
    clips = [json.loads(line) for line in spoken.read_text(encoding="utf-8").splitlines()[:2]]
    placed = [clip | {"audio_filepath": str(spoken.parent / clip["audio_filepath"])} for clip in clips]
    few.write_text("".join(f"{json.dumps(clip)}\n" for clip in placed), encoding="utf-8")
    done = in_process(
        *("train", "compact", "--train", few, "--validation", few, "--no-preflight"),
        *("init_from_pretrained_model=default", "~quran.curriculum", "model.optim.lr=3e-4"),
        *("trainer.max_steps=2", "trainer.val_check_interval=2", "model.train_ds.batch_duration=6"),
        *("model.train_ds.num_workers=0", "model.validation_ds.num_workers=0"),
        cwd=tmp_path,
    )
    assert done.code == 0, done.err
    assert "100.0% of the encoder and 100.0% of the model arrived" in done.err
    (run,) = (tmp_path / "nemo_experiments").glob("*/*")
    record = json.loads((run / "transfer.json").read_text(encoding="utf-8"))
    assert (record["source"], record["share"]) == ("default", 1.0)
    assert record["differences"] == []
    data = TrainingData.read(run / "training_data.json")
    before = TrainingData.read(default_model() / "training_data.json")
    assert set(data.reciters) == {*before.reciters, *(clip["reciter"] for clip in clips)}
    assert len(data.manifests) == len(before.manifests) + 1 and set(before.verses) <= set(data.verses)
