"""Seconds of a training: given, measured, from the table of devices, or reported as unknown."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from quran_asr.config.recipe import load_recipe
from quran_asr.errors import QuranAsrError
from quran_asr.experiments.planning.cost import audio_flops
from quran_asr.experiments.planning.devices import (
    DEVICES,
    Calibration,
    calibration_folder,
    find_device,
    measured_by,
    read_calibrations,
    write_calibration,
)
from quran_asr.experiments.planning.plan import Plan, plan
from quran_asr.experiments.planning.timing import MeasuredSeconds, find_target
from quran_asr.experiments.planning.workload import Workload

TRANSFER = load_recipe("transfer")
GUIDE = Workload(67_399, 56.0)
MEASURED = Calibration("NVIDIA GeForce RTX 3090", "transfer", 96.0, 0.4, 90.0, "2026-11-24")


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("QURAN_ASR_CACHE", str(tmp_path))
    return tmp_path


def forget() -> None:
    for path in calibration_folder().glob("*.json"):
        path.unlink()


def planned(recipe: str, device: str | None, *, validation_hours: float | None = None) -> Plan:
    target = find_target(device, read_calibrations()[0])
    return plan(load_recipe(recipe), GUIDE, 2, target=target, validation_hours=validation_hours)


def test_a_second_of_audio_costs_what_was_reckoned_elsewhere() -> None:
    """9.6 GFLOP at 114M parameters; six operations a parameter and frame are the rule of thumb, and less."""
    assert audio_flops(TRANSFER, 6.0, 9) == pytest.approx(9.6e9, rel=0.02)
    assert 0.85 < 6 * 114.75e6 * 12.5 / audio_flops(TRANSFER, 3.0) < 1.0
    assert audio_flops(load_recipe("small"), 3.0) < audio_flops(TRANSFER, 3.0) / 3


def test_a_longer_clip_costs_more_a_second_for_attention_and_joint() -> None:
    costs = [audio_flops(TRANSFER, seconds) for seconds in (3.0, 10.0, 20.0, 40.0)]
    assert costs == sorted(costs) and costs[-1] < 2 * costs[0]


@pytest.mark.parametrize(
    ("name", "row"),
    [
        ("rtx3090", "RTX 3090"),
        ("3090", "RTX 3090"),
        ("NVIDIA GeForce RTX 4090", "RTX 4090"),
        ("A100", "A100 40GB"),
        ("NVIDIA A100-SXM4-80GB", "A100 80GB"),
        ("NVIDIA H100 80GB HBM3", "H100"),
        ("Tesla V100-SXM2-32GB", "V100 32GB"),
        ("Tesla T4", "T4"),
        ("cpu", "CPU core"),
        ("rtx", None),
        ("", None),
        ("GTX 1080", None),
    ],
)
def test_a_device_is_known_by_what_people_and_drivers_call_it(name: str, row: str | None) -> None:
    found = find_device(name)
    assert (found.name if found else None) == row


def test_every_row_names_its_source_and_finds_itself() -> None:
    for device in DEVICES:
        assert device.source and find_device(device.name) == device
        assert device.speed(32) > 0 and device.speed("bf16-mixed") >= device.speed(32)


def test_an_unknown_device_names_the_nearest() -> None:
    with pytest.raises(QuranAsrError, match="no figures of a device `RTX 5090`") as unknown:
        find_target("RTX 5090", [])
    assert "did you mean `RTX 4090`?" in unknown.value.remedy or "RTX 3090" in unknown.value.remedy
    assert "--batch-seconds" in unknown.value.remedy


def test_the_table_comes_near_what_the_guide_measured() -> None:
    of = planned("transfer", "RTX 3090")
    assert of.batch_seconds is not None and 0.5 / 3 < of.batch_seconds < 0.5 * 3
    assert "an estimate for RTX 3090" in of.batch_seconds_source
    assert of.validation_seconds is None and "--validation" in of.validation_seconds_source
    assert of.total_seconds == pytest.approx(100 * 1054 * of.batch_seconds)
    validated = planned("transfer", "RTX 3090", validation_hours=1.0)
    assert validated.validation_seconds is not None and validated.total_seconds is not None
    assert validated.total_seconds == pytest.approx(of.total_seconds + 100 * validated.validation_seconds)


def test_the_laptops_ninety_minutes() -> None:
    """88 minutes were measured on one core (docs/results/experiments.md)."""
    of = plan(load_recipe("laptop"), Workload(2876, 5.45), target=find_target("cpu", []))
    assert of.total_seconds is not None and 88 * 60 / 2 < of.total_seconds < 88 * 60 * 2


def test_without_a_device_time_is_unknown_and_shows_how_to_know() -> None:
    of = planned("transfer", None)
    assert (of.batch_seconds, of.epoch_seconds, of.total_seconds, of.device) == (None, None, None, None)
    assert "unknown" in of.batch_seconds_source and "--device" in of.batch_seconds_source
    nothing = plan(TRANSFER, None, target=find_target("H100", []))
    assert nothing.batch_seconds is None and "--train" in nothing.batch_seconds_source


def test_what_is_given_wins() -> None:
    write_calibration(MEASURED)
    target = find_target("rtx 3090", read_calibrations()[0])
    of = plan(TRANSFER, GUIDE, 2, target=target, given=MeasuredSeconds(0.5, 60.0))
    assert (of.batch_seconds, of.validation_seconds) == (0.5, 60.0)


def test_the_only_device_that_was_measured_is_taken_unasked() -> None:
    path = write_calibration(MEASURED)
    assert path == calibration_folder() / "nvidia-geforce-rtx-3090.json"
    assert read_calibrations() == ([MEASURED], [])
    of = planned("transfer", None, validation_hours=0.5)
    audio = 56 * 3600 / 1054 / 2
    assert of.device == "RTX 3090" and "2026-11-24" in of.batch_seconds_source
    assert of.batch_seconds == pytest.approx(0.4 * audio / 96.0, rel=1e-6)
    assert of.validation_seconds == 45.0
    write_calibration(replace(MEASURED, device="NVIDIA A100-SXM4-80GB", step_seconds=0.1))
    assert planned("transfer", None).batch_seconds is None, "of two, somebody has to choose"
    assert planned("transfer", "a100 80gb").batch_seconds == pytest.approx(0.1 * audio / 96.0, rel=1e-6)


def test_each_model_keeps_its_entry_and_the_nearest_is_taken() -> None:
    small = replace(MEASURED, model="small", parameters=30_000_000, step_seconds=0.1)
    path = write_calibration(MEASURED)
    write_calibration(small)
    newer = replace(small, step_seconds=0.2, validation_seconds_per_hour=50.0)
    assert write_calibration(newer) == path
    assert json.loads(path.read_text())["step_seconds"] == 0.2, "the latest stands first"
    assert read_calibrations() == ([newer, MEASURED], [])
    assert "scaled from `transfer`" in planned("large", None).batch_seconds_source
    own = measured_by(TRANSFER, MEASURED.device, 96.0, 0.3, None, "2026-11-25")
    assert write_calibration(replace(own, parameters=7)) == path
    assert write_calibration(own) == path
    assert "measured on" in planned("transfer", "rtx3090").batch_seconds_source
    write_calibration(replace(own, precision=32))
    assert len(read_calibrations()[0]) == 5
    assert "2026-11-25" in planned("transfer", "rtx3090").batch_seconds_source
    path.write_text(json.dumps({**json.loads(path.read_text()), "more": [1]}))
    assert [finding.code for finding in read_calibrations()[1]] == ["broken-calibration"]


def test_validation_is_scaled_with_the_model() -> None:
    cost = audio_flops(TRANSFER, GUIDE.mean_seconds)
    write_calibration(replace(MEASURED, model="half", audio_flops=cost / 2))
    assert planned("transfer", None, validation_hours=0.5).validation_seconds == pytest.approx(90.0)


def test_figures_of_another_size_are_scaled_by_operations_or_left_and_that_is_reported() -> None:
    write_calibration(replace(MEASURED, model="small"))
    near = planned("large", "rtx3090")
    codes = [finding.code for finding in near.findings]
    assert "calibration-not-used" in codes, "eleven times as many operations are too many to scale"
    assert "an estimate" in near.batch_seconds_source
    forget()
    write_calibration(replace(MEASURED, model="transfer"))
    large, own = planned("large", "rtx3090"), planned("transfer", "rtx3090")
    assert "scaled from `transfer`" in large.batch_seconds_source
    assert large.batch_seconds is not None and own.batch_seconds is not None
    ratio = audio_flops(load_recipe("large"), GUIDE.mean_seconds)
    ratio /= audio_flops(TRANSFER, GUIDE.mean_seconds)
    # the batches of `large` are half as long
    assert large.batch_seconds / own.batch_seconds == pytest.approx(ratio / 2, rel=1e-2)
    forget()
    write_calibration(replace(MEASURED, model="mine"))
    assert "calibration-not-used" in {finding.code for finding in planned("transfer", "rtx3090").findings}
    write_calibration(replace(MEASURED, model="mine", audio_flops=audio_flops(TRANSFER, 3.0)))
    assert planned("transfer", "rtx3090").batch_seconds is not None
    forget()
    write_calibration(replace(MEASURED, precision=32))
    note = next(f for f in planned("transfer", "rtx3090").findings if f.code == "calibration-not-used")
    assert "precision 32" in note.message


def test_a_device_outside_the_table_is_known_once_it_was_measured() -> None:
    write_calibration(replace(MEASURED, device="Radeon Pro W7900"))
    of = planned("transfer", "radeon pro w7900")
    assert of.device == "Radeon Pro W7900" and of.batch_seconds is not None


def test_what_benchmarks_write_is_complete() -> None:
    made = measured_by(TRANSFER, "NVIDIA L4", 96.0, 0.3, None, "2026-11-24")
    assert (made.model, made.precision) == (TRANSFER.name, "bf16-mixed")
    assert made.audio_flops == audio_flops(TRANSFER, 3.0)
    write_calibration(made)
    assert read_calibrations() == ([made], [])


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{",
        "[" * 100_000,
        '{"device": "x"}',
        json.dumps({"device": "x", "model": "m", "date": "d", "batch_seconds": 0, "step_seconds": 1}),
        '{"device": "x", "model": "m", "date": "d", "batch_seconds": NaN, "step_seconds": 1}',
        '{"device": "x", "model": "m", "date": "d", "batch_seconds": 1, "step_seconds": "1"}',
        '{"device": ["x"], "model": "m", "date": "d", "batch_seconds": 1, "step_seconds": 1}',
    ],
)
def test_a_broken_calibration_is_a_warning_and_not_used(text: str) -> None:
    write_calibration(MEASURED)
    (calibration_folder() / "broken.json").write_text(text)
    (calibration_folder() / "latin.json").write_bytes(b"\xff\xfe")
    found, broken = read_calibrations()
    assert found == [MEASURED]
    assert [finding.code for finding in broken] == ["broken-calibration"] * 2
    assert all("\n" not in finding.message for finding in broken)
    assert math.isfinite(planned("transfer", None).batch_seconds or math.nan)


def test_processes_that_measure_at_once_keep_each_others_figures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QURAN_ASR_CACHE", str(tmp_path))
    code = (
        "import sys\n"
        "from quran_asr.experiments.planning.devices import Calibration, write_calibration\n"
        "for number in range(10):\n"
        "    write_calibration(Calibration('GPU', f'{sys.argv[1]}-{number}', 1.0, 1.0, None, '2026-01-31'))\n"
    )
    processes = [subprocess.Popen([sys.executable, "-c", code, name]) for name in ("a", "b", "c")]
    assert [process.wait(300) for process in processes] == [0, 0, 0]
    found, broken = read_calibrations()
    assert broken == []
    assert len({one.model for one in found}) == 30
    assert [path.name for path in calibration_folder().iterdir()] == ["gpu.json"]
