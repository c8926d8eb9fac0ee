"""`evaluate` and `transcribe` with a bundle: what is left out, where it is written, what the sound lacks."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from quran_asr import audio
from quran_asr.cli.main import main
from quran_asr.runtime.bundle import default_model, read_bundle
from quran_asr.runtime.shallow_fusion import write_tuned


@pytest.fixture
def clips(voice: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A manifest of three recordings in the working folder: 16 kHz, and two of a telephone's 8 kHz."""
    monkeypatch.chdir(tmp_path)
    audio.write("a.wav", voice[:48_000])
    for name in ("b", "c"):
        audio.write(f"{name}.wav", audio.resample(voice[:48_000], 16_000, 8_000), 8_000)
    lines = [
        {"audio_filepath": f"{name}.wav", "duration": 3.0, "verses": [f"112:{place}"], "reciter": "one"}
        for place, name in enumerate("abc", start=1)
    ]
    Path("m.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return Path("m.jsonl")


def run(capfd: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as end:
        main([str(word) for word in words])
    out, err = capfd.readouterr()
    return int(end.value.code or 0), out, err


@pytest.mark.slow
def test_audio_of_a_low_rate_is_recognized_with_one_note(small_bundle, clips, capfd) -> None:
    lacks = (
        "8,000 Hz: it contains nothing above 4,000 Hz, "
        "and a model trained at 16,000 Hz may recognize it less well"
    )
    for command in ("transcribe", "listen"):
        assert "low-rate" not in run(capfd, command, "a.wav", "--model", small_bundle)[2]
        # with random weights greedy search writes words, beam search none
        code, out, err = run(capfd, command, "b.wav", "--model", small_bundle, "--decoder", "transducer")
        assert code == 0 and out
        assert f"note [low-rate] b.wav: stored at {lacks}\n" in err and err.count("note [") == 1
    code, _, err = run(capfd, "transcribe", "--model", small_bundle, "a.wav", "b.wav", "c.wav")
    assert code == 0 and err.count("note [") == 1
    assert "note [low-rate] 2 of 3 recordings are stored at less than 16,000 Hz, the first b.wav at " in err


@pytest.mark.parametrize("more", [(), ("--workers", 1), ("--json", "--n-best", 2)])
def test_a_language_model_that_was_tuned_to_weight_0_is_noted(more, clips, tmp_path, capfd) -> None:
    bundle = Path(shutil.copytree(default_model(), tmp_path / "bundle"))
    tuned = {"lm_weight": 0.0, "token_bonus": 0.0, "lm": "quran", "wer": 0.1}
    write_tuned(read_bundle(bundle), "transducer-beam", tuned)
    words = ("transcribe", "a.wav", "b.wav", "--model", bundle, "--passage", "112", *more)
    code, _, err = run(capfd, *words)
    assert code == 0 and err.count("found weight 0 best") == 1
    assert "found weight 0" not in run(capfd, *words, "--lm-weight", "0")[2]
    assert "found weight 0" not in run(capfd, "transcribe", "a.wav", "--model", bundle)[2]


@pytest.mark.parametrize("way", [(), ("--streaming",)], ids=["whole", "streaming"])
def test_a_manifest_with_sound_of_a_low_rate_is_noted_once(way, small_bundle, clips, capfd) -> None:
    code, out, err = run(capfd, "evaluate", clips, "--model", small_bundle, *way, "--to", "r", "--json")
    assert code == 0 and json.loads(out)["clips"] == 3
    assert err.count("note [low-rate]") == 1 and "2 of 3 recordings" in err


def test_clips_that_cannot_be_recognized_are_a_finding_and_the_report_is_of_the_others(
    small_bundle, clips, capfd
) -> None:
    for name in ("b", "c"):
        Path(f"{name}.wav").write_bytes(b"")
    code, out, err = run(capfd, "evaluate", clips, "--model", small_bundle, "--to", "r", "--json")
    assert code == 1
    assert "error [unreadable-clips] m.jsonl:2: 2 of 3 clips could not be read and are excluded" in err
    assert err.count("unreadable-clips") == 1 and "an empty file" in err
    written = json.loads(Path("r/report.json").read_text(encoding="utf-8"))
    assert written == json.loads(out)
    assert written["clips"] == 1 and len(written["unreadable"]) == 2
    assert len(Path("r/transcripts.jsonl").read_text(encoding="utf-8").splitlines()) == 1


@pytest.mark.parametrize("place", ["file", "file/deeper/still"])
def test_a_report_is_not_written_where_a_file_is(place: str, clips, capfd) -> None:
    """Said before the model is looked at, which here is none."""
    Path("file").write_text("mine")
    Path("model.nemo").write_bytes(b"not opened")
    code, out, err = run(capfd, "evaluate", clips, "--model", "model.nemo", "--to", place)
    assert (code, out) == (2, "")
    assert err == (
        "error: file: is a file, and reports are written to a folder\n"
        "hint: name a folder with --to; it is created if needed\n"
    )
    assert Path("file").read_text() == "mine"
