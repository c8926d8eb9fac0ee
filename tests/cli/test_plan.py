"""`plan`, as it is typed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from quran_asr.cli.main import main


def run(capsys: pytest.CaptureFixture[str], *args: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as end:
        main(["plan", *args])
    out, err = capsys.readouterr()
    return int(end.value.code or 0), out, err


@pytest.fixture(autouse=True)
def known_surroundings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No calibration of this machine, and room on its disk."""
    monkeypatch.setenv("QURAN_ASR_CACHE", str(tmp_path / "cache"))
    room = shutil.disk_usage(tmp_path)._replace(free=10**12)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: room)


def test_the_guides_case(capsys: pytest.CaptureFixture[str]) -> None:
    case = ("transfer", "--clips", "67399", "--hours", "56", "--devices", "2")
    code, out, err = run(capsys, *case)
    assert code == 0
    assert err.startswith("note [offline-into-streaming]")
    assert (
        "stt_en_fastconformer_hybrid_large_streaming_multi (English, streaming): 100.0% of the encoder" in out
    )
    for figure in ("1,054", "527", "52,700", "1.21e-03", "114.75 M", "128 clips", "unknown: name a device"):
        assert figure in out
    measured = ("--batch-seconds", "0.5", "--validation-seconds", "60")
    _, out, err = run(capsys, *case, *measured)
    assert "16 h 18 min, with 100 validations" in out and "8 min 47 s" in out
    assert "the guide has 15 + 2 = 17 hours; this plan comes to 16.3" in err
    code, out, _ = run(capsys, *case, *measured, "--json")
    planned = json.loads(out)
    expected = {
        "clips": 67_399,
        "hours": 56.0,
        "effective_batch": 128,
        "batches_per_epoch": 1054,
        "optimizer_steps_per_epoch": 527,
        "optimizer_steps": 52_700,
        "warmup_epochs": 5.69,
        "parameters": 114_752_514,
        "batch_seconds": 0.5,
        "epoch_seconds": 527.0,
        "audio_times_real_time": 382.5,
        "validation_seconds": 60.0,
        "total_seconds": 58_700.0,
        "checkpoint_bytes": 1_377_030_168,
    }
    assert {key: planned[key] for key in expected} == expected
    assert planned["peak_learning_rate"] == pytest.approx(1.21e-3, rel=5e-3)
    assert {"weights", "gradients", "optimizer", "activations", "joint"} < set(planned["memory_bytes"])
    assert planned["disk_bytes"] > 12 * planned["checkpoint_bytes"]
    assert {"severity", "code", "where", "message", "remedy"} == set(planned["findings"][0])
    codes = [finding["code"] for finding in planned["findings"]]
    guide = ["guide-rate", "guide-warmup", "guide-batches", "guide-steps", "guide-hours", "guide-time"]
    assert codes == ["offline-into-streaming", "short-clips-masked", *guide]
    assert planned["pretrained"][0]["name"] == "stt_en_fastconformer_transducer_large"
    assert planned["pretrained"][0]["encoder_share"] == pytest.approx(0.9986, abs=1e-4)


def test_the_recipe_is_transfer_unless_another_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert json.loads(run(capsys, "--json")[1])["recipe"] == "transfer"
    assert json.loads(run(capsys, "trainer.max_epochs=50", "--json")[1])["recipe"] == "transfer"
    assert json.loads(run(capsys, "small", "--json")[1])["recipe"] == "small"


def test_a_device_gives_time_and_reports_where_it_is_from(capsys: pytest.CaptureFixture[str]) -> None:
    case = ("--clips", "67399", "--hours", "56", "--device", "rtx3090")
    _, out, _ = run(capsys, *case)
    assert "2 x RTX 3090" in out and "an estimate for RTX 3090" in out and "without validation" in out
    code, out, err = run(capsys, *case[:-1], "RTX 3091")
    assert (code, out) == (2, "") and "did you mean `RTX 3090`?" in err


def test_the_validation_set_is_weighed(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "v.jsonl").write_text('{"audio_filepath": "a.wav", "duration": 1800.0, "text": "x"}\n')
    case = ("--clips", "67399", "--hours", "56", "--device", "A100")
    code, out, _ = run(capsys, *case, "--validation", str(tmp_path / "v.jsonl"), "--json")
    assert code == 0 and json.loads(out)["validation_seconds"] > 0


def test_a_broken_calibration_is_reported_and_nothing_fails(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "cache" / "calibration").mkdir(parents=True)
    (tmp_path / "cache" / "calibration" / "h100.json").write_text("{")
    code, _, err = run(capsys, "--clips", "67399", "--hours", "56")
    assert code == 0 and "warning [broken-calibration]" in err


def test_a_full_disk_is_a_warning_here(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(".")._replace(free=10**9)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    code, _, err = run(capsys, "transfer")
    assert code == 0 and "warning [disk-space]" in err and "save_top_k=" in err


def test_a_refused_value_is_a_finding_in_json_and_exits_2(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "transfer", "trainer.precision=16-mixed", "--json")
    found = json.loads(out)["findings"]
    assert code == 2 and "error: override" in err
    assert [(finding["severity"], finding["code"]) for finding in found] == [("error", "refused")]
    assert found[0]["remedy"].startswith("trainer.precision=bf16-mixed")


def test_an_unknown_start_has_no_shares(capsys: pytest.CaptureFixture[str]) -> None:
    words = ("transfer", "init_from_pretrained_model=models/mine.nemo")
    code, out, _ = run(capsys, *words)
    assert code == 0 and "models/mine.nemo: unknown until the archive is read" in out
    _, out, _ = run(capsys, *words, "--json")
    mine = json.loads(out)["pretrained"][0]
    assert (mine["encoder_share"], mine["share"]) == (None, None)


def test_a_start_that_brings_too_little_exits_1(capsys: pytest.CaptureFixture[str]) -> None:
    start = "init_from_pretrained_model=stt_en_fastconformer_hybrid_large_streaming_multi"
    code, out, err = run(capsys, "large", start)
    assert code == 1 and "error [too-little-arrives]" in err
    assert "0.0% of the encoder" in out


def test_findings_go_to_stderr_and_warnings_exit_0(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "before", "--clips", "67399", "--hours", "56")
    assert code == 0
    assert "random-start" not in out and "warning [random-start]" in err and "`scratch`" in err


def test_a_manifest_is_counted(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    manifest = tmp_path / "train.jsonl"
    lines = [{"audio_filepath": f"{n}.wav", "duration": 36.0, "text": "قل"} for n in range(100)]
    lines.append({"audio_filepath": "long.wav", "duration": 7200.0, "text": "قل"})
    manifest.write_text("".join(json.dumps(line) + "\n" for line in lines))
    code, out, _ = run(capsys, "transfer", "--train", str(manifest), "--json")
    planned = json.loads(out)
    assert (code, planned["clips"], planned["hours"], planned["batches_per_epoch"]) == (0, 100, 1.0, 2)
    codes = {finding["code"] for finding in planned["findings"]}
    small = {"long-warmup", "few-steps", "large-vocabulary", "few-hours-for-fresh-decoders"}
    assert codes == {"left-out-clips", "offline-into-streaming", "guide-rate"} | small
    by_recipe = run(capsys, "transfer", f"model.train_ds.manifest_filepath={manifest}", "--json")
    assert json.loads(by_recipe[1])["clips"] == 100


def test_a_manifest_of_clips_that_are_all_too_long_exits_1(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "train.jsonl").write_text('{"audio_filepath": "a.wav", "duration": 7200.0, "text": "x"}\n')
    code, _, err = run(capsys, "transfer", "--train", str(tmp_path / "train.jsonl"))
    assert code == 1 and "error [left-out-clips]" in err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("transfer", "small"), "two recipes"),
        (("transfer", "--clips", "5", "--hours", "0"), "--hours"),
        (("transfer", "--device", "abacus"), "no figures of a device `abacus`"),
        (("transfer", "--clips", "9" * 21, "--hours", "1"), "1<=x<=100000000"),
        (("transfer", "--clips", "5"), "--clips and --hours are given together"),
        (("transfer", "--train", "m", "--clips", "5", "--hours", "1"), "leave out --clips and --hours"),
        (("transfer", "--train", "no/such.jsonl"), "no/such.jsonl"),
        (("transfer", "--train", "torn.jsonl"), "torn.jsonl:2"),
        (("transfer", "--devices", "0"), "--devices"),
    ],
)
def test_wrong_use_is_reported_in_one_line(
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    words: tuple[str, ...],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("torn.jsonl").write_text('{"audio_filepath": "a.wav", "duration": 1.0}\n{"duration": "x"}\n')
    code, out, err = run(capsys, *words)
    assert (code, out) == (2, "")
    assert message in err and "Traceback" not in err


def test_a_manifest_without_a_line_is_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    empty = tmp_path / "empty.jsonl"
    empty.write_text("\n")
    code, out, err = run(capsys, "transfer", "--train", str(empty))
    assert (code, out) == (2, "") and "no line in it" in err


def test_a_manifest_in_the_place_of_a_recipe_is_named_as_one(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    manifest = tmp_path / "m.jsonl"
    manifest.write_text('{"audio_filepath": "a.wav", "duration": 3.0, "verses": ["112:1"]}\n' * 2)
    code, out, err = run(capsys, str(manifest))
    assert (code, out) == (2, "")
    assert "is a manifest, not a recipe" in err and f"hint: --train {manifest}" in err
