"""What is measured under which condition, with recognizers whose weaknesses are known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from quran_asr import audio
from quran_asr.errors import QuranAsrError
from quran_asr.evaluation.stress import StressRow, stress
from quran_asr.records import Segment

WORDS = ("قل", "هو", "الله", "احد")
TONES = (400, 700, 1100, 1600)


def tone(hertz: int, seconds: float = 0.4) -> NDArray[np.float32]:
    times = np.arange(round(seconds * 16_000)) / 16_000
    return (0.1 * np.sin(2 * np.pi * hertz * times)).astype(np.float32)


@pytest.fixture(scope="module")
def segments(tmp_path_factory: pytest.TempPathFactory) -> list[Segment]:
    """Six clips of two reciters; each of four words is a tone of its own."""
    folder = tmp_path_factory.mktemp("tones")
    found = []
    for number in range(6):
        samples = np.concatenate([tone(hertz) for hertz in TONES[number % 4 :]])
        path = folder / f"{number}.flac"
        audio.write(path, samples)
        text = " ".join(WORDS[number % 4 :])
        found.append(Segment(str(path), 0.0, len(samples) / 16_000, (), text, "ab"[number // 3]))
    return found


def listener(samples: NDArray[np.float32], *, threshold: float = 1e-4, longest: float = 1e9) -> str:
    """Writes the word of the loudest of the four tones wherever it changes; ignores what is too quiet."""
    words: list[str] = []
    spectra = np.abs(np.fft.rfft(samples[: len(samples) // 1600 * 1600].reshape(-1, 1600), axis=1))
    for place, spectrum in enumerate(spectra):
        powers = spectrum[[hertz // 10 for hertz in TONES]] / 800
        word = WORDS[int(powers.argmax())] if powers.max() > threshold else ""
        if word and place * 0.1 < longest and (not words or words[-1] != word):
            words.append(word)
    return " ".join(words)


def named(rows: list[StressRow]) -> dict[tuple[str, str], StressRow]:
    return {(row.condition, row.way): row for row in rows}


def test_a_recognizer_that_withstands_everything_meets_every_goal(segments: list[Segment]) -> None:
    shown: list[tuple[int, int]] = []
    rows = stress(
        segments, {"whole file": listener, "stream": listener}, "letters", lambda *at: shown.append(at)
    )
    assert shown == [(done, len(rows)) for done in range(1, len(rows) + 1)]
    assert {row.met for row in rows} == {None, True}
    assert [(row.group, row.condition, row.way) for row in rows[:4]] == [
        ("clips", "as they are", "whole file"),
        ("joined", "in pairs", "whole file"),
        ("joined", "all of a reciter", "whole file"),
        ("clips", "as they are", "stream"),
    ]
    words = {row.words.reference_length for row in rows if row.way == "whole file"}
    assert words == {sum(len(segment.text.split()) for segment in segments)}
    assert rows[0].baseline is None and rows[1].baseline == 0.0


def test_weaknesses_are_found_where_they_are(segments: list[Segment]) -> None:
    def deaf_to_quiet(samples: NDArray[np.float32]) -> str:
        return listener(samples, threshold=0.05)

    def forgets(samples: NDArray[np.float32]) -> str:
        return listener(samples, longest=1.7)

    rows = named(stress(segments, {"a": deaf_to_quiet, "b": forgets}, "letters"))
    assert rows["peak -35 dBFS", "a"].met is False and rows["peak -35 dBFS", "a"].words.hits == 0
    assert rows["peak 0 dBFS", "a"].met is True
    assert rows["all of a reciter", "a"].met is True
    assert rows["as they are", "b"].words.errors == 0
    assert rows["in pairs", "b"].met is False
    assert rows["all of a reciter", "b"].words.errors > rows["in pairs", "b"].words.errors
    line = rows["in pairs", "b"].to_json()
    assert line["met"] is False and line["wer"] > 0.02 and line["baseline_wer"] == 0.0


def test_conditions_are_what_they_are_called(segments: list[Segment]) -> None:
    seen: list[NDArray[np.float32]] = []

    def keep(samples: NDArray[np.float32]) -> str:
        seen.append(samples)
        return ""

    rows = stress(segments[:1], {"whole file": keep}, "letters")
    by_name = {row.condition: samples for row, samples in zip(rows, seen, strict=True)}
    clip = by_name["as they are"]
    assert len(by_name["2 s before"]) - len(clip) == 32_000 and not by_name["2 s before"][:32_000].any()
    assert np.abs(by_name["peak -35 dBFS"]).max() == pytest.approx(10 ** (-35 / 20), rel=1e-5)
    assert np.abs(by_name["peak 0 dBFS"]).max() == pytest.approx(1.0, rel=1e-5)
    for name, decibels in (("noise at 20 dB", 20), ("noise at 10 dB", 10)):
        noise = by_name[name] - clip
        ratio = 10 * np.log10(np.mean(clip**2) / np.mean(noise**2))
        assert ratio == pytest.approx(decibels, abs=0.2)
    for name in ("room, 0.5 s", "telephone band", "MP3, 32 kbit/s"):
        assert len(by_name[name]) == len(clip)
        assert 0.3 < np.corrcoef(by_name[name], clip)[0, 1] < 1 - 1e-6


def test_nothing_to_measure_and_recordings_that_are_gone(tmp_path: Path) -> None:
    with pytest.raises(QuranAsrError, match="no clips"):
        stress([], {"whole file": listener}, "letters")
    gone = Segment(str(tmp_path / "gone.wav"), 0.0, 1.0, (), "قل", "a")
    with pytest.raises(QuranAsrError):
        stress([gone], {"whole file": listener}, "letters")
