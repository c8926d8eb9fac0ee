"""What is measured under which condition, with recognizers whose weaknesses are known."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from quran_asr import audio
from quran_asr.errors import QuranAsrError
from quran_asr.evaluation.report import ScoredClip, Setting
from quran_asr.evaluation.scoring import score_clips
from quran_asr.evaluation.stress import (
    GROUPS,
    STRESS_NAME,
    StressRow,
    chosen_groups,
    joined_pairs,
    stress,
    stress_json,
    write_stress,
)
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


def named(rows: list[StressRow]) -> dict[str, StressRow]:
    return {row.condition: row for row in rows}


def test_a_recognizer_that_withstands_everything_meets_every_goal(segments: list[Segment]) -> None:
    shown: list[tuple[int, int]] = []
    rows = stress(segments, listener, "letters", on_progress=lambda *at: shown.append(at))
    assert shown == [(done, len(rows)) for done in range(1, len(rows) + 1)]
    assert {row.met for row in rows} == {None, True}
    assert [(row.group, row.condition) for row in rows[:4]] == [
        ("clips", "as they are"),
        ("joined", "in pairs"),
        ("joined", "all of a reciter"),
        ("silence", "0 s before"),
    ]
    assert {row.group for row in rows} == {"clips", *GROUPS}
    words = {row.rates.words.reference_length for row in rows}
    assert words == {sum(len(segment.text.split()) for segment in segments)}
    assert rows[0].clean is None and rows[1].clean == 0.0
    assert rows[1].rates.wer_interval == (0.0, 0.0)


def test_weaknesses_are_found_where_they_are(segments: list[Segment]) -> None:
    def deaf_to_quiet(samples: NDArray[np.float32]) -> str:
        return listener(samples, threshold=0.05)

    def forgets(samples: NDArray[np.float32]) -> str:
        return listener(samples, longest=1.7)

    rows = named(stress(segments, deaf_to_quiet, "letters"))
    assert rows["peak -35 dBFS"].met is False and rows["peak -35 dBFS"].rates.words.hits == 0
    assert rows["peak 0 dBFS"].met is True
    assert rows["all of a reciter"].met is True
    rows = named(stress(segments, forgets, "letters"))
    assert rows["as they are"].rates.words.errors == 0
    assert rows["in pairs"].met is False
    assert rows["all of a reciter"].rates.words.errors > rows["in pairs"].rates.words.errors
    line = rows["in pairs"].to_json()
    assert line["met"] is False and line["wer"] > 0.02 and line["goal"] == 0.02
    assert line["relative"] is None  # of nothing

    def slips(samples: NDArray[np.float32]) -> str:
        return " ".join(listener(samples).split()[: 1 if len(samples) > 20_000 else 2])

    rows = named(stress(segments, slips, "letters"))
    clean, late = rows["as they are"], rows["2 s before"]
    assert late.relative == pytest.approx(late.rates.words.rate / clean.rates.words.rate - 1)
    assert late.relative is not None and late.relative > 0 and late.met is False


def test_one_recording_of_each_of_few_reciters_has_no_interval(segments: list[Segment]) -> None:
    """Drawn within each reciter, every draw is the same: an interval of no width would look certain."""
    rows = named(stress(segments, lambda samples: "", "letters", ("joined",)))
    assert rows["all of a reciter"].rates.wer_interval is None
    assert rows["in pairs"].rates.wer_interval is not None


def test_the_rows_are_chosen_by_name_and_come_out_the_same_twice(segments: list[Segment]) -> None:
    seen: list[bytes] = []

    def keep(samples: NDArray[np.float32]) -> str:
        seen.append(samples.tobytes())
        return ""

    rows = stress(segments[:2], keep, "letters", ("level", "noise", "room"))
    assert {row.group for row in rows} == {"clips", "level", "noise", "room"}
    assert len(rows) == 8
    first, seen[:] = seen.copy(), []
    stress(segments[:2], keep, "letters", ("level", "noise", "room"))
    assert seen == first
    with pytest.raises(QuranAsrError, match="no stress condition `nois`") as refused:
        chosen_groups("level,nois")
    assert "joined, silence, level, noise, room, telephone, mp3, voice" in refused.value.remedy
    assert chosen_groups("all") == GROUPS
    assert chosen_groups("level, joined") == ("level", "joined")


def test_rows_of_the_same_measurement_are_kept_and_no_others(segments: list[Segment], tmp_path: Path) -> None:
    setting = Setting("m", "ctc", 80, "letters", "simple", "a.jsonl", language_model={"lm": "quran"})

    def measure(group: str, setting: Setting = setting, text: str = "", clips: int = 2) -> list[str]:
        """The conditions that the file then has."""
        rows = stress(segments[:clips], lambda samples: text, "letters", (group,))
        before = write_stress(tmp_path, stress_json(rows, setting, segments[:clips]))
        stored = json.loads((tmp_path / STRESS_NAME).read_text("utf-8"))
        assert {row["group"] for row in stored["rows"]} == {"clips", group, *before}
        return [row["condition"] for row in stored["rows"]]

    clean, *noise = measure("noise")
    assert len(noise) == 2
    assert measure("joined") == [clean, "in pairs", "all of a reciter", *noise]  # in the order of `GROUPS`
    assert measure("noise") == [clean, "in pairs", "all of a reciter", *noise]
    for other in (
        {"setting": replace(setting, look_ahead_ms=160)},
        {"setting": replace(setting, streaming=True)},
        {"setting": replace(setting, language_model=None)},
        {"setting": replace(setting, manifest="b.jsonl")},
        {"text": "الله"},  # the model is another one
        {"clips": 3},  # the manifest has changed
    ):
        measure("noise")
        assert measure("joined", **other) == [clean, "in pairs", "all of a reciter"]
    for damaged in ("", "[]", "{}", '{"rows": 1}', '{"rows": [{}]}'):
        (tmp_path / STRESS_NAME).write_text(damaged)
        assert measure("noise") == [clean, *noise]


def test_conditions_are_what_they_are_called(segments: list[Segment]) -> None:
    seen: list[NDArray[np.float32]] = []

    def keep(samples: NDArray[np.float32]) -> str:
        seen.append(samples)
        return ""

    rows = stress(segments[:1], keep, "letters")
    by_name = {row.condition: samples for row, samples in zip(rows, seen, strict=True)}
    clip = by_name["as they are"]
    assert len(by_name["2 s before"]) - len(by_name["0 s before"]) == 32_000
    assert not by_name["2 s before"][:32_000].any()
    assert np.abs(by_name["peak -35 dBFS"]).max() == pytest.approx(10 ** (-35 / 20), rel=1e-5)
    assert np.abs(by_name["peak 0 dBFS"]).max() == pytest.approx(1.0, rel=1e-5)
    assert np.abs(clip).max() / np.abs(clip[np.abs(by_name["clipped x4"]) < 0.1]).max() == pytest.approx(
        4, rel=0.1
    )
    for name, decibels in (("noise at 20 dB", 20), ("noise at 10 dB", 10)):
        noise = by_name[name] - clip
        ratio = 10 * np.log10(np.mean(clip**2) / np.mean(noise**2))
        assert ratio == pytest.approx(decibels, abs=0.2)
    for name in ("room, 0.5 s", "telephone band", "MP3, 32 kbit/s"):
        assert len(by_name[name]) == len(clip)
        assert 0.3 < np.corrcoef(by_name[name], clip)[0, 1] < 1 - 1e-6
    for factor in (1.2, 1.4):
        higher = by_name[f"voice {factor:g} times as high"]
        assert len(higher) == pytest.approx(len(clip), abs=1)
        tones = zip(np.array_split(higher, 4), np.array_split(clip, 4), strict=True)
        for raised, own in tones:
            assert strongest_hertz(raised) == pytest.approx(factor * strongest_hertz(own), rel=0.02)


def strongest_hertz(samples: NDArray[np.float32]) -> float:
    spectrum = np.abs(np.fft.rfft(samples * np.hanning(len(samples))))
    return float(np.argmax(spectrum) * 16_000 / len(samples))


def scored(segments: list[Segment]) -> list[ScoredClip]:
    texts = [listener(audio.read(segment.audio)) for segment in segments]
    scores = score_clips([(segment.text,) for segment in segments], texts, "letters")
    return [ScoredClip(segment, score) for segment, score in zip(segments, scores, strict=True)]


def test_every_evaluation_has_pairs_of_clips_beside_the_same_clips_alone(segments: list[Segment]) -> None:
    clips = scored(segments)  # three of each of two reciters: one pair of each
    joined = joined_pairs(clips, lambda samples: listener(samples, longest=1.7), "letters")
    assert joined is not None
    assert joined.clips == 4
    assert joined.alone.words.errors == 0
    assert joined.in_pairs.words.errors > 0
    assert joined.alone.words.reference_length == joined.in_pairs.words.reference_length
    assert joined_pairs([clips[0], clips[3]], listener, "letters") is None


def test_nothing_to_measure_and_recordings_that_are_gone(tmp_path: Path) -> None:
    with pytest.raises(QuranAsrError, match="no clips"):
        stress([], listener, "letters")
    gone = Segment(str(tmp_path / "gone.wav"), 0.0, 1.0, (), "قل", "a")
    with pytest.raises(QuranAsrError):
        stress([gone], listener, "letters")
