"""`plan`, as it is typed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from quran_asr.cli.main import main


def run(capsys: pytest.CaptureFixture[str], *args: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as end:
        main(["plan", *args])
    out, err = capsys.readouterr()
    return int(end.value.code or 0), out, err


def test_the_guides_case(capsys: pytest.CaptureFixture[str]) -> None:
    case = ("transfer", "--clips", "67399", "--hours", "56", "--devices", "2")
    code, out, err = run(capsys, *case)
    assert code == 0
    assert err.startswith("note [offline-into-streaming]")
    assert (
        "stt_en_fastconformer_hybrid_large_streaming_multi (English, streaming): 100.0% of the encoder" in out
    )
    for said in ("1,054", "527", "52,700", "1.21e-03", "114.75 M", "128 clips"):
        assert said in out
    code, out, _ = run(capsys, *case, "--json")
    planned = json.loads(out)
    expected = {
        "clips": 67_399,
        "hours": 56.0,
        "effective_batch": 128,
        "batches_per_epoch": 1054,
        "optimizer_steps_per_epoch": 527,
        "optimizer_steps": 52_700,
        "parameters": 114_752_514,
    }
    assert {key: planned[key] for key in expected} == expected
    assert planned["peak_learning_rate"] == pytest.approx(1.21e-3, rel=5e-3)
    assert [finding["code"] for finding in planned["findings"]] == ["offline-into-streaming"]
    assert planned["pretrained"][0]["name"] == "stt_en_fastconformer_transducer_large"
    assert planned["pretrained"][0]["encoder_share"] == pytest.approx(0.9986, abs=1e-4)


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
    lines = [{"audio_filepath": f"{n}.wav", "duration": 36.0, "text": "x"} for n in range(100)]
    lines.append({"audio_filepath": "long.wav", "duration": 7200.0, "text": "x"})
    manifest.write_text("".join(json.dumps(line) + "\n" for line in lines))
    code, out, _ = run(capsys, "transfer", "--train", str(manifest), "--json")
    planned = json.loads(out)
    assert (code, planned["clips"], planned["hours"], planned["batches_per_epoch"]) == (0, 100, 1.0, 2)
    codes = {finding["code"] for finding in planned["findings"]}
    assert codes == {"left-out-clips", "long-warmup", "offline-into-streaming"}
    by_recipe = run(capsys, "transfer", f"model.train_ds.manifest_filepath={manifest}", "--json")
    assert json.loads(by_recipe[1])["clips"] == 100


def test_a_manifest_of_clips_that_are_all_too_long_exits_1(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "train.jsonl").write_text('{"audio_filepath": "a.wav", "duration": 7200.0, "text": "x"}\n')
    code, _, err = run(capsys, "transfer", "--train", str(tmp_path / "train.jsonl"))
    assert code == 1 and "error [left-out-clips]" in err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "no recipe is named"),
        (("transfer", "--clips", "5"), "--clips and --hours belong together"),
        (("transfer", "--train", "m", "--clips", "5", "--hours", "1"), "leave out --clips and --hours"),
        (("transfer", "--train", "no/such.jsonl"), "no/such.jsonl"),
        (("transfer", "--train", "torn.jsonl"), "torn.jsonl:2"),
        (("transfer", "--devices", "0"), "--devices"),
    ],
)
def test_wrong_use_is_said_in_a_line(
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    words: tuple[str, ...],
    said: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("torn.jsonl").write_text('{"audio_filepath": "a.wav", "duration": 1.0}\n{"duration": "x"}\n')
    code, out, err = run(capsys, *words)
    assert (code, out) == (2, "")
    assert said in err and "Traceback" not in err
