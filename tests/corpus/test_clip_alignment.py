"""Clips that do not fit their words: what the alignment scores say, and what an audit makes of them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from quran_asr import audio
from quran_asr.corpus.audit_rules import LIMITS, judge_alignments
from quran_asr.corpus.clip_alignment import ClipAlignment, recited_words
from quran_asr.corpus.manifest import write_manifest
from quran_asr.records import Segment, VerseRef
from quran_asr.text.passages import parse_range
from quran_asr.text.quran import load_quran

GOOD = [ClipAlignment(-0.3 + shift, -0.5 + shift, -0.4, 40) for shift in (-0.2, 0.0, 0.1, 0.2)]


def codes(*clips: ClipAlignment | None, deviation: float | None = 0.0) -> list[str]:
    deviations = [0.0] * len(GOOD) + [deviation] * len(clips)
    judged = judge_alignments([*GOOD, *clips], deviations, LIMITS)
    return [reason.code if reason else "" for reason in judged][len(GOOD) :]


def test_other_words_and_missing_words_are_distinguished() -> None:
    swapped, start_cut, end_cut = (
        ClipAlignment(-7.0, -8.0, -6.0, 40),
        ClipAlignment(-2.0, -6.0, -0.3, 40),
        ClipAlignment(-2.0, -0.3, -6.0, 40),
    )
    found = codes(swapped, start_cut, end_cut, None, GOOD[0])
    assert found == ["other-words", "words-missing", "words-missing", "", ""]
    (reason,) = [one for one in judge_alignments([*GOOD, end_cut], [0.0] * 5, LIMITS) if one]
    assert "at the end" in reason.detail and reason.action == "reject"


def test_words_that_are_all_there_are_not_called_other_words() -> None:
    more_after, more_in_between, as_much_as_a_cut = (
        ClipAlignment(-7.0, -0.4, -27.0, 40, extra=6.6),
        ClipAlignment(-3.5, -0.4, -0.4, 40, extra=3.1),
        ClipAlignment(-7.0, -0.4, -27.0, 40, extra=3.0),
    )
    assert codes(more_after, more_in_between, as_much_as_a_cut) == [
        "extra-words",
        "extra-words",
        "other-words",
    ]
    long_verse, cut_with_some_noise = (
        ClipAlignment(-1.8, -0.4, -6.4, 90, extra=1.5),
        ClipAlignment(-1.8, -0.4, -6.4, 90, extra=0.4),
    )
    assert codes(long_verse, cut_with_some_noise) == ["extra-words", "words-missing"]
    (reason,) = [one for one in judge_alignments([*GOOD, more_after], [0.0] * 5, LIMITS) if one]
    assert "-0.4 without the other speech" in reason.detail and reason.action == "reject"


def test_a_reciter_whose_clips_are_all_wrong_is_not_usual() -> None:
    wrong = [ClipAlignment(-7.0, -8.0, -6.0, 40)] * 5
    assert [reason.code for reason in judge_alignments(wrong, [0.0] * 5, LIMITS) if reason] == 5 * [
        "other-words"
    ]
    assert judge_alignments([None], [None], LIMITS) == [None] and judge_alignments([], [], LIMITS) == []


def test_a_poor_end_counts_sooner_in_a_clip_that_is_too_short() -> None:
    poor = ClipAlignment(-0.8, -0.5, -2.2, 40)
    assert codes(poor, deviation=-1.5) == ["words-missing"]
    assert codes(poor, deviation=1.5) == codes(poor, deviation=None) == [""]
    assert codes(GOOD[0], deviation=-1.5) == [""]


def segment(verse: str, text: str = "") -> Segment:
    ref = VerseRef.parse(verse)
    words = text or load_quran("letters").verse(ref)
    return Segment(audio="", offset=0.0, duration=1.0, verses=(ref,), text=words, reciter="")


def test_letters_are_named_and_parts_keep_their_words() -> None:
    assert recited_words(segment("2:1"), "letters") == ["ألف", "لام", "ميم"]
    assert recited_words(segment("112:1"), "letters") == load_quran("letters").verse(VerseRef(112, 1)).split()
    assert recited_words(segment("112:1", "هو الله"), "letters") == ["هو", "الله"]


@pytest.mark.slow
def test_an_audit_with_a_model(small_bundle: Path, voice: np.ndarray, quran_asr, tmp_path: Path) -> None:
    """Random weights: what they find is arbitrary, that each clip is aligned is not."""
    for ayah in (1, 2):
        path = tmp_path / "in" / "reader" / f"11200{ayah}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        audio.write(path, voice[: 48_000 * ayah])
    done = quran_asr("corpus", "scan", tmp_path / "in", "--to", tmp_path / "all.jsonl")
    assert done.code == 0, done.err
    where = ("corpus", "audit", tmp_path / "all.jsonl", "--no-cache", "--no-audio")
    refused = quran_asr(*where, "--model", small_bundle)
    assert refused.code == 2 and "--align" in refused.err
    done = quran_asr(*where, "--align", "--model", small_bundle)
    assert done.code in (0, 1), done.err
    lines = [json.loads(line) for line in (tmp_path / "audit.jsonl").read_text("utf-8").splitlines()]
    assert len(lines) == 2 and all(line["alignment"]["score"] <= 0 for line in lines)


@pytest.mark.data
@pytest.mark.slow
def test_a_clip_with_more_than_its_words_is_called_so(recordings: Path, quran_asr, tmp_path: Path) -> None:
    """Short surahs by one reciter: four with more speech, one that is cut, one of another verse."""
    folder = recordings / "recitations" / "abdullah-basfar"
    verses = [ref for surah in (109, 110, 112, 113, 114) for ref in parse_range(str(surah))]
    sound = {str(ref): audio.read(folder / f"{ref.surah:03}{ref.ayah:03}.opus") for ref in verses}
    half = len(sound["113:5"]) // 2
    clips = {
        **sound,
        "110:1": np.concatenate([sound["110:1"], sound["110:2"]]),
        "114:2": np.concatenate([sound["114:1"], sound["114:2"]]),
        "113:3": np.concatenate([sound["113:2"], sound["113:3"], sound["113:4"]]),
        "113:5": np.concatenate([sound["113:5"][:half], sound["112:1"], sound["113:5"][half:]]),
        "114:5": sound["114:5"][: len(sound["114:5"]) // 2],
        "112:4": sound["109:6"],
    }
    lines = []
    for verse, samples in clips.items():
        path = tmp_path / f"{verse.replace(':', '-')}.wav"
        audio.write(path, samples)
        lines.append({"audio_filepath": str(path), "duration": len(samples) / 16_000, "verses": [verse]})
    write_manifest(tmp_path / "all.jsonl", lines)
    done = quran_asr("corpus", "audit", tmp_path / "all.jsonl", "--align", "--no-cache", "--no-audio")
    assert done.code == 1, done.err
    found = {}
    for line in map(json.loads, (tmp_path / "audit.jsonl").read_text("utf-8").splitlines()):
        codes = {reason["code"] for reason in line["reasons"]}
        found[line["verses"][0]] = codes & {"extra-words", "other-words", "words-missing"}
        assert 0 <= line["alignment"]["extra"] <= -line["alignment"]["score"] + 1e-3
    with_more = {verse for verse, codes in found.items() if codes == {"extra-words"}}
    assert with_more == {"110:1", "113:3", "113:5", "114:2"}
    assert found["112:4"] == {"other-words"} and found["114:5"] <= {"other-words", "words-missing"}
    assert "[extra-words]" in done.err
