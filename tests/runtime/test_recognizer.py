"""With a trained model: streams are scored as whole files are, pauses end lines, and words are words."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import quran_asr
from quran_asr import audio
from quran_asr.decoding.partial import revisions
from quran_asr.runtime.recognizer import results

pytestmark = pytest.mark.slow

VOICE = "espeak-Alex"


@pytest.fixture(scope="module")
def spoken(quickstart: Any) -> Path:
    """The folder of two voices that the model was not trained on, with their manifest."""
    return next(quickstart.folder.glob("corpus/held_out-*"))


def every(nth: int, spoken: Path, folder: Path) -> Path:
    """A manifest of the first clip and each nth after it."""
    lines = [json.loads(line) for line in (spoken / "manifest.jsonl").read_text("utf-8").splitlines()[::nth]]
    for line in lines:
        line["audio_filepath"] = str(spoken / line["audio_filepath"])
    path = folder / "some.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


@pytest.mark.parametrize("decoder", ["transducer", "transducer-beam"])
def test_a_stream_is_scored_as_the_whole_file(
    decoder: str, bundle: Path, spoken: Path, quran_asr: Any, tmp_path: Path
) -> None:
    some = every(6, spoken, tmp_path)
    reports = {}
    for way in ((), ("--streaming",)):
        done = quran_asr(
            *("evaluate", some, "--model", bundle, *way, "--look-ahead", 80, "--decoder", decoder),
            *("--to", tmp_path / "r", "--json"),
        )
        assert done.code == 0, done.err
        reports[bool(way)] = json.loads(done.out)
    whole, streamed = reports[False], reports[True]
    assert (whole["streaming"], streamed["streaming"]) == (False, True)
    assert streamed["wer"] < 0.3
    for key in ("counts", "character_counts", "mostly_deleted", "looping_clips", "clips"):
        assert streamed[key] == whole[key], key
    steadiness = streamed["steadiness"]
    assert steadiness["differing_clips"] == 0
    assert steadiness["replaced"] == 0 or decoder == "transducer-beam"  # greedy search takes nothing back
    words = (
        streamed["counts"]["hits"] + streamed["counts"]["substitutions"] + streamed["counts"]["insertions"]
    )
    assert steadiness["words"] == words and steadiness["grown"] > 0


def test_a_model_that_is_no_bundle_is_exported_for_streaming(
    quickstart: Any, spoken: Path, in_process: Any, tmp_path: Path
) -> None:
    one = every(1_000, spoken, tmp_path)
    run = quickstart.figures["run"]
    done = in_process("evaluate", one, "--model", run, "--streaming", "--to", tmp_path / "report", "--json")
    assert done.code == 0, done.err
    assert "is not a bundle: it is exported to a temporary one" in done.err
    report = json.loads(done.out)
    assert report["model"] == str(run) and report["streaming"] is True
    assert "unknown" not in report["cells"]  # its training data are those of the run


@pytest.mark.parametrize("decoder", ["transducer", "ctc", "ctc-beam", "transducer-beam"])
def test_a_pause_ends_a_line(decoder: str, bundle: Path, spoken: Path) -> None:
    verses = [audio.read(spoken / VOICE / f"11200{ayah}.flac") for ayah in (1, 2)]
    silence = np.zeros(2 * 16_000, np.float32)
    recognizer = quran_asr.load(bundle, decoder=decoder, pause_seconds=0.8)
    shown = list(results(recognizer, np.concatenate([verses[0], silence, verses[1], silence])))
    words = [word for result in shown for word in result.committed]
    ends, before = [], 0
    for result in shown:
        ends += [before + end for end in result.ends]
        before += len(result.committed)
    first = quran_asr.load(bundle, decoder=decoder).recognize(verses[0]).text.split()
    assert len(first) == 4
    assert [word.text for word in words[:4]] == first  # after two seconds of nothing it recognizes worse
    assert ends[0] == 4 and ends[-1] == len(words) > 4
    assert all(a.start <= a.end <= b.end for a, b in pairwise(words))
    assert all(0 < word.confidence <= 1 for word in words)
    assert words[4].start > len(verses[0]) / 16_000 + 1.5


@pytest.mark.parametrize("decoder", ["transducer", "ctc"])
def test_greedy_words_only_grow_while_they_are_recited(decoder: str, bundle: Path, spoken: Path) -> None:
    recognizer = quran_asr.load(bundle, decoder=decoder, look_ahead_ms=0)
    seen = revisions(results(recognizer, audio.read(spoken / VOICE / "103003.flac")))
    assert seen.replaced == 0
    assert seen.grown > 0 and seen.words >= 8
