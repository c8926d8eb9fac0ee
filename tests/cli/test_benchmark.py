"""`quran-asr benchmark training`: a tiny model through the whole comparison, and what it writes."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from quran_asr.benchmark.training_tables import (
    COMPARED,
    PARTS,
    LossTime,
    Measured,
    StepTime,
    growth_table,
    ratios,
    table,
)
from quran_asr.cli.main import main

TINY = (
    "model.encoder.n_layers=1",
    "model.encoder.d_model=32",
    "model.encoder.n_heads=2",
    "model.encoder.subsampling_conv_channels=8",
    "model.decoder.prednet.pred_hidden=16",
    "model.joint.jointnet.joint_hidden=16",
    "quran.vocabulary_size=48",
    "quran.spelling=letters",
)


def run(*args: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(args)
    return int(ended.value.code or 0)


@pytest.mark.slow
def test_both_systems_with_a_tiny_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("nemo", reason="needs the extra train")
    monkeypatch.setenv("QURAN_ASR_CACHE", str(tmp_path / "cache"))
    written = tmp_path / "figures.json"
    command = ("benchmark", "training", "--device", "cpu", "--preset", "quickstart", "--clips", "2")
    assert run(*command, "--rounds", "1", "--steps", "2", "--to", str(written), "--json", *TINY) == 0
    out, err = capfd.readouterr()
    figures = json.loads(out)
    assert figures == json.loads(written.read_text("utf-8"))
    promised = {"clock", "stock", "ours", "ratio", "more", "preset", "device", "batch", "lattice"}
    assert figures.keys() >= promised
    assert figures["clock"] == "cpu"
    assert figures["batch"]["clips"] == 2
    stock, ours = figures["stock"], figures["ours"]
    for system in (stock, ours):
        assert system["steps"] == 2
        assert all(0 < system[key] < math.inf for key in COMPARED), system
        assert system["parts"].keys() == set(PARTS)
        assert all(0 <= seconds < math.inf for seconds in system["parts"].values())
        fastest, slowest = system["step_seconds_range"]
        assert fastest <= system["step_seconds"] <= slowest
        audio = figures["batch"]["audio_seconds"] / system["step_seconds"]
        assert system["audio_hours_per_hour"] == pytest.approx(audio)
    assert figures["ratio"].keys() == COMPARED.keys()
    for key, ratio in figures["ratio"].items():  # how many times better ours is
        more_is_better = key == "audio_hours_per_hour"
        better = ours[key] / stock[key] if more_is_better else stock[key] / ours[key]
        assert ratio == pytest.approx(better)
    (kept,) = (tmp_path / "cache" / "calibration").glob("*.json")
    calibration = json.loads(kept.read_text("utf-8"))
    assert calibration["step_seconds"] == figures["ours"]["step_seconds"]
    assert calibration["batch_seconds"] == pytest.approx(figures["batch"]["audio_seconds"])
    assert calibration["validation_seconds_per_hour"] == figures["validation_seconds_per_hour"]
    assert 0 < calibration["validation_seconds_per_hour"] < math.inf
    assert "round 1 of 1" in err


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("--preset", "huge"), "no preset `huge`"),
        (("scratch",), "`scratch` is not an override"),
        (("--device", "cpu", "model.encoder.n_layer=3"), "n_layers"),
    ],
)
def test_wrong_use_is_reported_before_anything_starts(
    args: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("nemo", reason="needs the extra train")
    assert run("benchmark", "training", *args) == 2
    assert message in capsys.readouterr().err


def figures_of(step: float, loss: float, bytes_: int | None) -> dict[str, Any]:
    parts = dict.fromkeys(PARTS, step / len(PARTS))
    measured = Measured(
        [StepTime(step, parts, 1.0), StepTime(3 * step, parts, 1.0), StepTime(1.1 * step, parts, 1.0)],
        [LossTime(2 * loss, loss, loss)],
        bytes_,
        bytes_,
    )
    return measured.figures(audio_seconds=44.0, flops=1e12, peak_flops=1e13)


def test_medians_ratios_and_utilisation() -> None:
    stock, ours = figures_of(10.0, 5.0, 4000), figures_of(1.0, 0.05, 1000)
    assert ours["step_seconds"] == 1.1, "the median, not the mean"
    assert ours["step_seconds_range"] == [1.0, 3.0]
    assert ours["utilisation"] == pytest.approx(1e12 / 1.1 / 1e13)
    better = ratios(stock, ours)
    assert better["step_seconds"] == pytest.approx(10)
    assert better["loss_seconds"] == pytest.approx(100)
    assert better["loss_peak_bytes"] == 4
    assert better["audio_hours_per_hour"] == pytest.approx(10)


def test_what_was_not_measured_yet_is_a_dash() -> None:
    nothing = Measured().figures(audio_seconds=44.0, flops=1e12, peak_flops=None)
    figures = {"stock": nothing, "ours": nothing, "ratio": ratios(nothing, nothing)}
    assert all(row[1:] == ("-", "-", "") for row in table(figures))
    batch = {"clips": 8, "audio_seconds": 48.0}
    assert growth_table([{"times": "1x", "batch": batch, **figures}])[0][0] == "1x: 8 clips, 48 s"
