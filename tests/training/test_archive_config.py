"""A stranger's configuration: what opens, and what is refused before NeMo has seen any of it."""

from __future__ import annotations

import copy
import io
import json
import os
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from quran_asr.config.architecture import of_nemo
from quran_asr.config.recipe import load_recipe
from quran_asr.errors import QuranAsrError
from quran_asr.records import Segment
from quran_asr.training.archive_config import parse, rebuild
from quran_asr.training.checkpoints import save_nemo
from quran_asr.training.model import build_model
from quran_asr.training.nemo_archive import CONFIG, LARGEST_CONFIG
from quran_asr.training.recognizer import load_recognizer
from quran_asr.training.tokenizer import Tokenizer

sys.path.insert(0, str(Path(__file__).parent))
from published_configs import PUBLISHED, as_yaml, ctc, hybrid, offline_hybrid

Change = Callable[[dict[str, Any]], None]


@pytest.fixture(scope="module")
def ours(
    tiny_overrides: tuple[str, ...], tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A tiny model of our own, as NeMo saves it."""
    path = tmp_path_factory.mktemp("ours") / "ours.nemo"
    save_nemo(build_model(load_recipe("quickstart", tiny_overrides), tokenizer.folder), path)
    return path


@pytest.fixture
def changed(ours: Path, tmp_path: Path) -> Callable[[Change], Path]:
    """Our archive with another configuration."""

    def repack(change: Change) -> Path:
        path = tmp_path / "stranger.nemo"
        with tarfile.open(ours) as source, tarfile.open(path, "w") as target:
            for member in source:
                file = source.extractfile(member)
                if file is None:
                    continue
                content = file.read()
                if member.name.endswith(CONFIG):
                    config = yaml.safe_load(content)
                    change(config)
                    content = yaml.safe_dump(config, allow_unicode=True).encode()
                member.size = len(content)
                target.addfile(member, io.BytesIO(content))
        return path

    return repack


def test_a_tokenizer_class_in_the_place_of_the_features_runs_nothing(
    changed: Callable[[Change], Path], tmp_path: Path
) -> None:
    """NeMo's own class runs Python from a folder or from the hub, and its name ends in a class's name."""
    planted = tmp_path / "planted"
    planted.mkdir()
    flag = tmp_path / "it-ran"
    (planted / "config.json").write_text(
        json.dumps({"model_type": "planted", "auto_map": {"AutoConfig": "planted.Config"}})
    )
    (planted / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "Planted", "auto_map": {"AutoTokenizer": ["planted.Planted", None]}})
    )
    (planted / "planted.py").write_text(f"import os\nos.mkdir({str(flag)!r})\n")
    path = changed(
        lambda config: config.update(
            preprocessor={
                "_target_": "nemo.collections.common.tokenizers.huggingface.auto_tokenizer.AutoTokenizer",
                "pretrained_model_name": str(planted),
                "trust_remote_code": True,
            }
        )
    )
    with pytest.raises(QuranAsrError) as refused:
        load_recognizer(path)
    assert not flag.exists()
    assert "`preprocessor._target_" in refused.value.what


@pytest.mark.parametrize("section", ["preprocessor", "spec_augment", "encoder", "decoder", "joint"])
def test_the_older_key_cls_writes_no_file(
    changed: Callable[[Change], Path], tmp_path: Path, section: str
) -> None:
    """NeMo turns `cls` into `_target_`, and a function that writes a file is as good as a class."""
    victim = tmp_path / "victim.txt"
    victim.write_text("precious")
    path = changed(
        lambda config: config.update(
            {
                section: {
                    "cls": "nemo.collections.asr.parts.utils.diarization_utils.write_txt",
                    "w_path": str(victim),
                    "val": "overwritten",
                }
            }
        )
    )
    with pytest.raises(QuranAsrError) as refused:
        load_recognizer(path)
    assert victim.read_text() == "precious"
    assert section in refused.value.what


def test_no_folder_is_emptied(changed: Callable[[Change], Path], tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "work.txt").write_text("years")
    path = changed(
        lambda config: config.update(
            spec_augment={
                "cls": "nemo.collections.asr.parts.utils.data_simulation_utils.get_cleaned_base_path",
                "params": {"output_dir": str(precious), "overwrite_output": True},
            }
        )
    )
    with pytest.raises(QuranAsrError, match="spec_augment"):
        load_recognizer(path)
    assert (precious / "work.txt").exists()


@pytest.mark.slow
def test_what_is_refused_is_refused_before_nemo_is_imported(
    changed: Callable[[Change], Path], segments: list[Segment], tmp_path: Path
) -> None:
    path = changed(lambda config: config["encoder"].update(_target_="os.system"))
    for words in (
        ("transcribe", segments[0].audio, "--model", path),
        ("export", path, "--to", tmp_path / "bundle"),
    ):
        done = subprocess.run(
            [sys.executable, "-X", "importtime", "-m", "quran_asr", *map(str, words)],
            capture_output=True,
            text=True,
            check=False,
        )
        lines = [line for line in done.stderr.splitlines() if not line.startswith("import time:")]
        assert (done.returncode, len(lines)) == (2, 2), lines
        assert "encoder._target_: os.system" in lines[0]
        assert not [line for line in done.stderr.splitlines() if line.split("|")[-1].strip() == "nemo"]


# What opens


HANDED_ON = set(
    "sample_rate compute_eval_loss log_prediction rnnt_reduction ctc_reduction skip_nan_grad model_defaults "
    "tokenizer preprocessor spec_augment encoder decoder joint decoding aux_ctc loss target".split()
)


@pytest.mark.parametrize("made", PUBLISHED)
def test_published_models_open_and_only_what_builds_them_is_handed_on(
    made: Callable[[], dict[str, Any]],
) -> None:
    config = made()
    rebuilt = rebuild(parse(as_yaml(config), "here"), "here")
    of_ctc = {"decoding"} if made is ctc else set()
    assert set(rebuilt) == set(config) & HANDED_ON - of_ctc
    assert rebuilt["encoder"] == config["encoder"]
    assert rebuilt["preprocessor"] == config["preprocessor"]
    assert of_nemo(rebuilt, 3, "here") == of_nemo(config, 3, "here")
    assert "/" not in json.dumps({**rebuilt, "tokenizer": None}), "a path of somebody's"


@pytest.mark.slow
@pytest.mark.parametrize("made", [hybrid, offline_hybrid])
def test_nemo_builds_from_what_is_handed_on_what_it_built_from_the_original(
    made: Callable[[], dict[str, Any]], tokenizer: Tokenizer
) -> None:
    from omegaconf import OmegaConf

    from quran_asr.training.model import EncDecHybridRNNTCTCBPEModel

    config = made()
    config["encoder"] |= {"n_layers": 1, "d_model": 32, "n_heads": 2, "subsampling_conv_channels": 8}
    config["model_defaults"]["enc_hidden"] = 32
    for key in ("train_ds", "validation_ds", "test_ds", "optim"):
        del config[key]
    config["tokenizer"] = {"dir": str(tokenizer.folder), "type": "bpe"}
    config["aux_ctc"]["decoder"] |= {"num_classes": -1, "vocabulary": []}
    rebuilt = rebuild(copy.deepcopy(config), "here")
    rebuilt["tokenizer"]["dir"] = config["tokenizer"]["dir"]
    theirs, ours = (
        EncDecHybridRNNTCTCBPEModel(cfg=OmegaConf.create(copy.deepcopy(one))) for one in (config, rebuilt)
    )
    shapes = [{name: t.shape for name, t in model.state_dict().items()} for model in (theirs, ours)]
    assert shapes[0] == shapes[1]
    for part in ("preprocessor", "encoder", "decoder", "joint", "ctc_decoder"):
        assert str(getattr(theirs, part)) == str(getattr(ours, part))
    for key in ("preprocessor", "encoder", "decoder", "joint", "loss"):
        assert theirs.cfg[key] == ours.cfg[key]


# What is refused


@pytest.mark.parametrize(
    ("key", "value", "named"),
    [
        ("preprocessor.cls", "os.system", "preprocessor.cls"),
        ("preprocessor.params", {"a": 1}, "preprocessor.params"),
        ("preprocessor.target", "x", "preprocessor.target"),
        ("preprocessor._partial_", True, "preprocessor._partial_"),
        ("preprocessor._args_", ["x"], "preprocessor._args_"),
        ("preprocessor._convert_", "all", "preprocessor._convert_"),
        ("preprocessor._recursive_", False, "preprocessor._recursive_"),
        ("preprocessor.rng", {"_target_": "random.Random"}, "preprocessor.rng"),
        ("preprocessor.features", "${oc.env:HOME}", "preprocessor.features"),
        ("preprocessor.features", "${encoder.feat_in}", "preprocessor.features"),
        ("preprocessor.features", 10**9, "preprocessor.features"),
        ("preprocessor.features", True, "preprocessor.features"),
        ("preprocessor.window_size", float("nan"), "preprocessor.window_size"),
        ("preprocessor.window_size", float("inf"), "preprocessor.window_size"),
        ("encoder._target_", "nemo.collections.asr.modules.conv_asr.ConformerEncoder", "encoder._target_"),
        ("encoder._target_", "nemo.collections.asr.modules.ConvASREncoder", "encoder._target_"),
        ("encoder._target_", None, "encoder._target_"),
        ("encoder.${oc.env:HOME}", 1, "oc.env"),
        ("encoder.n_layers", 10**9, "encoder.n_layers"),
        ("encoder.att_context_size", [[70, 13]] * 1000, "encoder.att_context_size"),
        ("encoder.\x1b[2J", 1, r"encoder.\x1b[2J"),
        ("decoder.prednet.cls", "x", "decoder.prednet.cls"),
        ("joint.jointnet.activation", "eval", "joint.jointnet.activation"),
        ("decoding.greedy._target_", "x", "decoding.greedy._target_"),
        ("decoding._target_", "x", "decoding._target_"),
        ("aux_ctc.cls", "x", "aux_ctc.cls"),
        ("aux_ctc.decoder._target_", "nemo.collections.asr.modules.RNNTDecoder", "aux_ctc.decoder._target_"),
        ("loss.loss_name", "graph_rnnt", "loss.loss_name"),
        ("loss.warprnnt_numba_kwargs.x", 1, "loss.warprnnt_numba_kwargs.x"),
        ("tokenizer.type", "agg", "tokenizer.type"),
        ("tokenizer.type", "wpe", "tokenizer.type"),
        ("tokenizer.hf_kwargs", {"trust_remote_code": True}, "tokenizer.hf_kwargs"),
        ("tokenizer.custom_tokenizer", {"_target_": "x"}, "tokenizer.custom_tokenizer"),
        ("tokenizer.langs", {}, "tokenizer.langs"),
        ("tokenizer.model_path", "/etc/passwd", "tokenizer.model_path"),
        ("tokenizer.model_path", "https://example.org/x.model", "tokenizer.model_path"),
        ("quran", {"spelling": "x"}, "quran.spelling"),
        ("quran", {"spelling": "letters", "recipe": "${oc.env:HF_TOKEN}"}, "quran.recipe"),
        ("target", "nemo.collections.asr.models.EncDecSpeakerLabelModel", "target"),
        ("target", "nemo.collections.asr.models.ctc_bpe_models.EncDecRNNTBPEModel", "target"),
        ("_target_", "os.system", "_target_"),
        ("cls", "os.system", "cls"),
        ("params", {}, "params"),
        ("model", {}, "model"),
        ("megatron_amp_O2", True, "megatron_amp_O2"),
        ("hparams_file", "/etc/passwd", "hparams_file"),
        ("diarizer", {}, "diarizer"),
    ],
)
def test_keys_and_values_that_no_such_model_has_are_named(key: str, value: Any, named: str) -> None:
    config = hybrid()
    *sections, last = key.split(".") if "${" not in key else key.split(".", 1)
    place = config
    for section in sections:
        place = place[section]
    place[last] = value
    with pytest.raises(QuranAsrError) as refused:
        rebuild(config, "here")
    assert f"`{named}" in refused.value.what or f"{named}" in refused.value.what
    assert refused.value.what.isprintable()
    assert refused.value.remedy


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("a: &a [1]\nb: *a\n", "aliases"),
        ("a: !!python/object/apply:os.system [ls]\n", "not a configuration"),
        ("a: !!python/name:os.system\n", "not a configuration"),
        ("[" * 200_000, "without end"),
        ("{a: " * 100_000, "without end"),
        ("- " * 200_000, "without end"),
        ("a: " + "1:" * 200_000 + "1\n", "too many characters"),
        ("a: " + "9" * 19_000 + "\n", "not a configuration"),
        ("a: 1\n---\nb: 2\n", "not a configuration"),
        ("a: \x00\n", "not a configuration"),
        ("a: [", "not a configuration"),
    ],
    ids=lambda value: value[:20] if isinstance(value, str) else "",
)
def test_yaml_that_expands_is_refused_at_once(text: str, why: str) -> None:
    began = time.process_time()
    with pytest.raises(QuranAsrError, match=why) as refused:
        parse(text.encode(), "here")
    assert time.process_time() - began < 2
    assert "\n" not in refused.value.what


def test_the_largest_configuration_is_read_in_a_second() -> None:
    config = hybrid()
    config["labels"] = [f"piece{number}" for number in range(36_000)]
    text = as_yaml(config)
    assert 400_000 < len(text) < LARGEST_CONFIG

    def seconds() -> float:
        began = time.process_time()
        rebuild(parse(text, "here"), "here")
        return time.process_time() - began

    assert any(seconds() < 3 for _ in range(3))  # a busy machine makes one of them longer, and none shorter


FUZZ = Path(__file__).with_name("fuzz_archive_config.py")


@pytest.mark.slow
def test_thousands_of_mutated_configurations_import_write_start_and_ask_nothing(tmp_path: Path) -> None:
    """In a process of its own: an audit hook cannot be taken back."""
    result = fuzz(tmp_path, 3000)
    assert result["refused"] > 1500
    assert result["passed"] > 500, "what changes nothing of weight must pass, or nothing was tried"


@pytest.mark.slow
def test_what_nemo_builds_of_mutated_configurations_is_a_model_and_nothing_else(
    ours: Path, tmp_path: Path
) -> None:
    result = fuzz(tmp_path, 40, ours)
    assert result["refused"] > 5
    assert result["passed"] > 5


def fuzz(tmp_path: Path, number: int, archive: Path | None = None) -> dict[str, Any]:
    arguments = [str(tmp_path), str(number), *([] if archive is None else [str(archive)])]
    done = subprocess.run(
        [sys.executable, str(FUZZ), *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    assert result["tried"] == number
    assert result["events"] == []
    return result
