"""`quran-asr benchmark runtime`: a tiny model through the whole comparison, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from quran_asr.cli.main import main

TINY = (
    "model.encoder.n_layers=1",
    "model.encoder.d_model=32",
    "model.encoder.n_heads=2",
    "model.encoder.subsampling_conv_channels=8",
    "model.decoder.prednet.pred_hidden=16",
    "model.joint.jointnet.joint_hidden=16",
    "quran.vocabulary_size=48",
)


def run(*args: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(args)
    return int(ended.value.code or 0)


@pytest.mark.slow
def test_all_systems_with_a_tiny_model(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("nemo", reason="needs the extra train")
    pytest.importorskip("sherpa_onnx", reason="needs sherpa-onnx")
    few = ("--seconds", "4", "--rounds", "1", "--minutes", "0.1", "--look-ahead", "480", "--streams", "2")
    written = tmp_path / "figures.json"
    command = ("benchmark", "runtime", "--preset", "quickstart", *few, "--to", str(written), "--json")
    assert run(*command, *TINY) == 0
    out, err = capfd.readouterr()
    figures = json.loads(out)
    assert figures == json.loads(written.read_text("utf-8"))
    assert figures["preset"] == "quickstart"
    assert not figures["trained"]
    assert figures["look_aheads_ms"] == [480]
    assert list(figures["workers"]) == [
        "ours",
        "ours int8",
        "nemo",
        "sherpa-onnx",
        "sherpa-onnx, NeMo's export",
    ]
    for name, side in figures["workers"].items():
        assert side["cold_start"]["cpu_seconds"] > 0, name
        assert side["whole"]["rtf_cpu"] > 0, name
        assert side["streaming"]["480"]["rtf_cpu"] > 0, name
        assert side["memory"].keys() == {"loaded_bytes", "peak_bytes", "by_minute_bytes", "growth_bytes"}
        assert side["streams"]["in_one_process"] in (0, 1, 2), name
    ours, nemo = figures["workers"]["ours"], figures["workers"]["nemo"]
    assert ours["whole"]["words"] > 0, "a model that emits nothing would hide the cost of its tokens"
    assert nemo["whole"]["clips_as_ours"] == figures["clips"], "the same weights give the same words"
    assert nemo["streaming"]["480"]["clips_as_ours"] == figures["clips"]
    assert ours["memory"]["peak_bytes"] < nemo["memory"]["peak_bytes"] / 2
    assert ours["memory"]["loaded_bytes"] < nemo["memory"]["loaded_bytes"] / 2, "no torch in our worker"
    assert "nemo: stream at 480 ms, round 1 of 1" in err


def test_what_it_refuses(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert run("benchmark", "runtime") == 2
    assert run("benchmark", "runtime", "--preset", "60M") == 2
    assert run("benchmark", "runtime", "--model", str(tmp_path), "--preset", "30M") == 2
    assert run("benchmark", "runtime", "--model", str(tmp_path), "model.encoder.n_layers=1") == 2
    errors = capsys.readouterr().err
    assert "give either --model or --preset" in errors
    assert "no preset `60M`" in errors
    assert "overrides a preset" in errors


def test_what_it_refuses_of_a_model_before_anything_is_written(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert run("benchmark", "runtime", "--preset", "30M", "--look-ahead", "77") == 2
    assert (
        capsys.readouterr().err == "error: --preset 30M: the model has no look-ahead of 77 ms\n"
        "hint: it has: 1040 ms, 480 ms, 80 ms, 0 ms\n"
    )
    (tmp_path / "bundle.json").write_text("{}")
    for command in (
        ("benchmark", "runtime", "--model", str(tmp_path)),
        ("export", str(tmp_path), "--to", "b2"),
    ):
        assert run(*command) == 2
        message = capsys.readouterr().err
        assert "this is already a bundle" in message and "that it was exported from" in message
