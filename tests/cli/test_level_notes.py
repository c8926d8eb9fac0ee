"""What is wrong with the level of a recording is reported by every command that takes one."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from quran_asr.cli.main import main
from quran_asr.corpus.effects import overdriven

pytestmark = pytest.mark.slow  # a bundle is made

KINDS = {
    "silent": "silent: nothing in it is louder",
    "very-quiet": "very quiet: its loud parts are at",
    "clipped": "clipped: ",
    "cancelling-channels": "its channels cancel each other",
    "empty-channel": "1 of its 2 channels is empty",
}


@pytest.fixture
def faulty(voice: np.ndarray, tmp_path: Path) -> dict[str, Path]:
    """A recording of each kind, and a sound one."""
    nothing = np.zeros_like(voice)
    sounds = {
        "sound": voice,
        "silent": nothing,
        "very-quiet": voice * 10 ** (-50 / 20),
        "clipped": overdriven(voice, 12.0) * 0.9,
        "cancelling-channels": np.stack([voice, -voice], axis=1),
        "empty-channel": np.stack([voice, nothing], axis=1),
    }
    for name, samples in sounds.items():
        soundfile.write(tmp_path / f"{name}.wav", samples, 16_000, subtype="FLOAT")
    return {name: tmp_path / f"{name}.wav" for name in sounds}


def run(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str]:
    with pytest.raises(SystemExit) as end:
        main([str(word) for word in words])
    return int(end.value.code or 0), " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_is_noted_by_name(
    kind: str, faulty: dict[str, Path], small_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, err = run(capsys, "transcribe", faulty[kind], "--model", small_bundle)
    assert code == 0
    assert f"{faulty[kind]}: {KINDS[kind]}" in err
    assert [other for other, words in KINDS.items() if words in err] == [kind]


@pytest.mark.parametrize("command", ["listen", "identify", "align"])
def test_every_command_that_takes_a_recording_notes_it(
    command: str, faulty: dict[str, Path], small_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, err = run(capsys, command, faulty["clipped"], "--model", small_bundle)
    assert f"{faulty['clipped']}: {KINDS['clipped']}" in err
    _, err = run(capsys, command, faulty["sound"], "--model", small_bundle)
    assert not [kind for kind, words in KINDS.items() if words in err]


def test_many_clips_have_one_note_for_each_kind(
    faulty: dict[str, Path], small_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = tmp_path / "test.jsonl"
    names = ["sound", "clipped", "silent", "clipped", "clipped"]
    lines = [
        {
            "audio_filepath": str(faulty[name]),
            "offset": 0.5,
            "duration": 3.0,
            "verses": ["112:1"],
            "reciter": "a",
        }
        for name in names
    ]
    manifest.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    _, err = run(capsys, "evaluate", manifest, "--model", small_bundle, "--to", tmp_path / "out")
    assert f"{faulty['clipped']} at 0.5 s: {KINDS['clipped']}" in err
    assert "(and 2 recordings more like it)" in err
    assert err.count(KINDS["clipped"]) == 1
    assert KINDS["silent"] in err


def test_a_scan_that_decodes_notes_it(
    faulty: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "Husary_128kbps"
    folder.mkdir()
    for verse, name in enumerate(("clipped", "very-quiet", "sound"), start=1):
        faulty[name].rename(folder / f"11200{verse}.wav")
    for more, noted in ((["--decode"], True), ([], False)):
        code, err = run(capsys, "corpus", "scan", folder, "--to", tmp_path / "all.jsonl", *more)
        assert code == 0
        assert (f"{folder / '112001.wav'}: {KINDS['clipped']}" in err) is noted
        assert (f"{folder / '112002.wav'}: {KINDS['very-quiet']}" in err) is noted
