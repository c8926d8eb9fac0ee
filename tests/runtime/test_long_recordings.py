"""Recordings of hours and many recordings at once: memory, order, and an end by Ctrl-C."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile

from quran_asr import audio
from quran_asr.records import Segment
from quran_asr.runtime.recognizer import load

PEAK = """
import resource, sys
from quran_asr.cli.main import _run
code = _run(sys.argv[1:])
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024, file=sys.stderr)
sys.exit(code)
"""


def written(path: Path, voice: np.ndarray, minutes: float) -> Path:
    """A recording at 44.1 kHz, written piece by piece."""
    piece = audio.resample(voice, 16_000, 44_100)
    subtype = "VORBIS" if path.suffix == ".ogg" else "PCM_16"
    with soundfile.SoundFile(path, "w", 44_100, 1, subtype) as file:
        for _ in range(round(minutes * 10)):
            file.write(piece)
    return path


@pytest.mark.slow
@pytest.mark.parametrize("ending", ["wav", "flac", "ogg"])
def test_memory_does_not_grow_with_the_recording(small_bundle, voice, tmp_path, ending):
    def peak(minutes: float) -> int:
        path = written(tmp_path / f"{minutes}.{ending}", voice, minutes)
        words = ["transcribe", str(path), "--model", str(small_bundle), "--decoder", "ctc"]
        done = subprocess.run(
            [sys.executable, "-c", PEAK, *words], capture_output=True, text=True, check=True
        )
        return int(done.stderr.split()[-1])

    assert peak(30.0) < peak(3.0) + 40, "MB"


@pytest.mark.slow
def test_a_recording_in_blocks_has_the_words_of_the_whole(small_bundle, voice, tmp_path, monkeypatch):
    path = tmp_path / "a.wav"
    audio.write(path, np.tile(voice, 4))
    recognizer = load(small_bundle)
    (whole,) = recognizer.recognize_clips([Segment(str(path), 0.5, 20.0, (), "", "")])
    monkeypatch.setattr("quran_asr.runtime.recognizer.FILE_SECONDS", 3.0)
    seconds: list[float] = []
    segment = Segment(str(path), 0.5, 20.0, (), "", "")
    (in_blocks,) = recognizer.recognize_clips([segment], on_seconds=seconds.append)
    assert whole.words and in_blocks.text == whole.text
    assert [(word.start, word.end) for word in in_blocks.words] == [(w.start, w.end) for w in whole.words]
    confidences = [word.confidence for word in whole.words]
    assert [word.confidence for word in in_blocks.words] == pytest.approx(confidences, abs=1e-4)
    assert len(seconds) > 5 and sum(seconds) == pytest.approx(20.0)


@pytest.mark.slow
def test_files_in_parallel_come_in_order_and_as_one_by_one(small_bundle, voice, tmp_path):
    files = []
    for number, seconds in enumerate((6, 1, 3, 2)):
        audio.write(tmp_path / f"{number}.wav", voice[number * 500 :][: seconds * 16_000])
        files.append(str(tmp_path / f"{number}.wav"))
    torn = tmp_path / "torn.flac"
    audio.write(torn, voice)
    torn.write_bytes(torn.read_bytes()[:-20_000])
    command = [sys.executable, "-m", "quran_asr", "transcribe", *files[:2], str(torn), *files[2:]]
    command += ["--model", str(small_bundle), "--json"]
    printed = []
    for workers in ("1", "3"):
        done = subprocess.run([*command, "--workers", workers], capture_output=True, text=True, check=False)
        assert done.returncode == 2 and "torn.flac: " in done.stderr
        assert "Traceback" not in done.stderr
        printed.append(json.loads(done.stdout))
    assert printed[0] == printed[1]
    assert [one["audio_filepath"] for one in printed[0]] == files


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="Windows has no process groups like these")
def test_ctrl_c_ends_all_processes_with_one_word(small_bundle, voice, tmp_path):
    files = [str(written(tmp_path / f"{number}.wav", voice, 30.0)) for number in range(3)]
    command = [sys.executable, "-m", "quran_asr", "transcribe", *files, "--model", str(small_bundle)]
    process = subprocess.Popen(
        [*command, "--workers", "2"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    until = time.monotonic() + 300
    while len(children.read_text().split()) < 2 and time.monotonic() < until:
        time.sleep(0.1)
    time.sleep(1.0)
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=300)
    assert (process.returncode, out, err.strip()) == (130, "", "interrupted")
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)
