"""`import quran_asr` in somebody's program: it changes nothing there, and is ready within a second."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import quran_asr
from quran_asr import audio

STATE = """
import json, logging, os, signal, sys, threading, warnings

def state():
    return {
        "environment": dict(os.environ),
        "folder": os.getcwd(),
        "handlers": [repr(one) for one in logging.root.handlers],
        "loggers": sorted(logging.root.manager.loggerDict),
        "level": logging.root.level,
        "filters": [repr(one) for one in warnings.filters],
        "signals": {str(one): repr(signal.getsignal(one)) for one in signal.valid_signals()},
        "threads": [one.name for one in threading.enumerate()],
        "hooks": [repr(one) for one in (sys.excepthook, sys.displayhook, sys.stdout, sys.stderr)],
        "path": list(sys.path),
        "recursion": sys.getrecursionlimit(),
        "locale": __import__("locale").setlocale(0),
    }
"""


def python(code: str, *words: str) -> str:
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout


def test_importing_changes_nothing_in_the_host_program() -> None:
    out = python(
        STATE + "import typing\nbefore, modules = state(), set(sys.modules)\n"
        "import quran_asr\nquran_asr.__version__\ndir(quran_asr)\n"
        "print(json.dumps([before == state(), sorted(set(sys.modules) - modules)]))"
    )
    same, new = json.loads(out)
    assert same
    assert set(new) <= {"__future__", "quran_asr"}


def test_hearing_changes_nothing_in_it_either(small_bundle: Path, voice: np.ndarray, tmp_path: Path) -> None:
    """Loading brings numpy, and other people's packages have loggers; no more than that."""
    audio.write(tmp_path / "a.wav", voice)
    out = python(
        STATE + "import numpy, onnxruntime, soundfile, soxr\nbefore = state()\n"
        "import quran_asr\nrecognizer = quran_asr.load(sys.argv[1])\n"
        "text = recognizer.recognize(sys.argv[2]).text\nafter = state()\n"
        "heavy = {'torch', 'click', 'rich', 'nemo'} & set(sys.modules)\n"
        "print(json.dumps([[key for key in before if before[key] != after[key]], sorted(heavy), text]))",
        str(small_bundle),
        str(tmp_path / "a.wav"),
    )
    changed, heavy, text = json.loads(out)
    assert (changed, heavy) == ([], [])
    assert text == quran_asr.load(small_bundle).recognize(tmp_path / "a.wav").text


@pytest.mark.alone
def test_the_first_words_come_within_a_second(small_bundle: Path, voice: np.ndarray, tmp_path: Path) -> None:
    """Processor time from the start of Python, so that others' work on the machine does not count."""
    audio.write(tmp_path / "a.wav", voice)
    code = (
        "import sys, time, quran_asr\nquran_asr.load(sys.argv[1]).recognize(sys.argv[2])\n"
        "print(time.process_time())"
    )
    words = (str(small_bundle), str(tmp_path / "a.wav"))
    assert any(float(python(code, *words)) < 1.0 for _ in range(5))  # the first may have to compile


def test_the_names_of_the_front_door() -> None:
    from quran_asr.runtime import alignment, recognizer
    from quran_asr.text import quran

    assert quran_asr.Recognizer is recognizer.Recognizer
    assert quran_asr.load is recognizer.load
    assert isinstance(quran_asr.load_quran("letters"), quran_asr.Quran)
    assert quran_asr.load_quran is quran.load_quran
    assert quran_asr.align is alignment.align
    assert quran_asr.identify is alignment.identify
    assert set(quran_asr.__all__) <= set(dir(quran_asr))
    with pytest.raises(AttributeError, match="no attribute 'lod'"):
        quran_asr.lod  # noqa: B018


def test_a_stream_is_fed_as_the_first_page_shows(small_bundle: Path, voice: np.ndarray) -> None:
    recognizer = quran_asr.load(str(small_bundle))
    stream = recognizer.stream()
    certain = []
    for start in range(0, len(voice), 1_600):
        certain += stream.accept(voice[start : start + 1_600]).committed
    certain += stream.finish().committed
    assert tuple(certain) == stream.transcript.words
    assert stream.transcript.text == recognizer.recognize(voice).text


@pytest.mark.parametrize("wrong", [None, 5, b"a.wav", np.zeros(160, np.float32), ["a.wav"]], ids=str)
def test_what_is_no_file_name_is_refused_in_one_line(wrong: Any) -> None:
    for function in (quran_asr.transcribe, quran_asr.identify, quran_asr.align):
        with pytest.raises(quran_asr.QuranAsrError, match="name of a file") as refused:
            function(wrong)
        assert "recognize(samples, rate)" in refused.value.remedy


def test_other_wrong_arguments_are_errors_too(small_bundle: Path, voice: np.ndarray, tmp_path: Path) -> None:
    audio.write(tmp_path / "a.wav", voice)
    recognizer = quran_asr.load(small_bundle, decoder="ctc")
    for wrong in (
        {"folder": 5},
        {"lm": "quran", "lm_weight": "1"},
        {"lm": "quran", "token_bonus": True},
        {"temperature": "2"},
        {"temperature": 0},
    ):
        with pytest.raises(quran_asr.QuranAsrError, match=f"{[*wrong][-1]} is"):
            quran_asr.load(**wrong)
    with pytest.raises(quran_asr.QuranAsrError, match="none: no such folder"):
        quran_asr.load(tmp_path / "none")
    for verses in (small_bundle, 1.5, [112], {"112": 1}):
        with pytest.raises(quran_asr.QuranAsrError, match="verses come as"):
            quran_asr.align(tmp_path / "a.wav", verses, recognizer)
    found = quran_asr.align(tmp_path / "a.wav", ["112:1", "112:2"], recognizer)
    same = quran_asr.align(tmp_path / "a.wav", "112:1-2", recognizer)
    assert found.to_json() == same.to_json()
    with pytest.raises(quran_asr.QuranAsrError, match="chunks of samples, not NoneType"):
        list(quran_asr.follow(None, recognizer))  # type: ignore[arg-type]
    with pytest.raises(quran_asr.QuranAsrError):
        list(quran_asr.follow(tmp_path / "a.wav", recognizer, at=112))  # type: ignore[arg-type]
    for samples in (None, "a", ["a", "b"], (voice, 16_000), [[0.1], [0.1, 0.2]]):
        with pytest.raises(quran_asr.QuranAsrError, match=r"no samples|no such file"):
            recognizer.recognize(samples)  # type: ignore[arg-type]
    with pytest.raises(quran_asr.QuranAsrError, match="its rate is '16000'"):
        recognizer.recognize(voice, "16000")  # type: ignore[arg-type]


@pytest.mark.slow
def test_one_array_is_followed_as_one_chunk(small_bundle: Path, voice: np.ndarray) -> None:
    recognizer = quran_asr.load(small_bundle, decoder="ctc")
    assert list(quran_asr.follow(voice, recognizer)) == list(quran_asr.follow([voice], recognizer))


def test_the_temperature_reaches_the_search(small_bundle: Path, voice: np.ndarray) -> None:
    """Softer distributions of random weights hold no text that is more probable than none."""
    texts = [quran_asr.load(small_bundle, temperature=each).text_of(voice) for each in (0.5, 2, None)]
    assert texts[0] != texts[1] == texts[2]
