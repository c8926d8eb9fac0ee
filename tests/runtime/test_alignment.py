"""Recordings against the Quran: the API, the files that other programs open, and verse clips."""

from __future__ import annotations

import csv
import json
import math
import re
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import quran_asr
from quran_asr import audio
from quran_asr.decoding.graph import FORMULAS, Graph, Kind, build_graph
from quran_asr.decoding.identify import Identification, nothing, spelled
from quran_asr.decoding.path import Alignment
from quran_asr.errors import QuranAsrError
from quran_asr.records import VerseRef
from quran_asr.runtime import bundle as bundles
from quran_asr.runtime.alignment import START_SHIFT, AlignedRecording, align_scores, in_spelling, search_graph
from quran_asr.runtime.alignment_formats import FORMATS
from quran_asr.runtime.verse_clips import cut_verses, quietest
from quran_asr.text.passages import parse_range
from quran_asr.text.quran import load_quran
from quran_asr.text.spelling import spell

sys.path.insert(0, str(Path(__file__).parents[1] / "decoding"))
from spoken import FRAME, QURAN, TOKENIZER, Speech, formula, verse


@pytest.fixture(scope="module")
def last_part() -> Graph:
    """Surahs 78 to 114."""
    return build_graph(QURAN, TOKENIZER, [ref for ref in QURAN.refs if ref.surah >= 78])


@pytest.fixture(scope="module")
def speech() -> Speech:
    """Basmala, 97:1-3 with the end of 97:3 again, other speech, 97:4-5."""
    spoken = Speech().pause(0.5).say(formula(Kind.BASMALA)).pause(0.5)
    spoken.say(verse("97:1")).pause(0.4).say(verse("97:2")).pause(0.4).say(verse("97:3"))
    spoken.pause(0.6).say(verse("97:3")[3:]).pause(0.4).babble(5)
    return spoken.pause(0.5).say(verse("97:4")).pause(0.4).say(verse("97:5")).pause(1)


@pytest.fixture(scope="module")
def recording(last_part: Graph, speech: Speech) -> AlignedRecording:
    scores = speech.log_probs()
    return as_recording(align_scores(last_part, [scores], FRAME, follow_place=False), len(scores) * FRAME)


def as_recording(alignment: Alignment, seconds: float) -> AlignedRecording:
    return AlignedRecording("097.mp3", "spoken", "letters", seconds, alignment.segments, alignment.unaligned)


@pytest.mark.slow
@pytest.mark.parametrize("follow_place", [False, True])
def test_words_are_where_they_were_recited_however_the_scores_are_cut(
    follow_place: bool, last_part: Graph, speech: Speech
) -> None:
    scores = speech.log_probs()
    whole = align_scores(last_part, [scores], FRAME, follow_place=follow_place)
    starts = [word.start for segment in whole.segments for word in segment.words]
    assert starts == pytest.approx([start + START_SHIFT for start in speech.starts], abs=FRAME + 1e-6)
    assert [segment.kind for segment in whole.segments] == [
        "basmala",
        *3 * ["verse"],
        "repeat",
        *2 * ["verse"],
    ]
    for size in (1, 7, 100):
        pieces = np.split(scores, range(size, len(scores), size))
        assert align_scores(last_part, pieces, FRAME, follow_place=follow_place) == whole


@pytest.mark.parametrize("follow_place", [False, True])
def test_two_doubtful_tokens_in_silence_are_not_a_verse(follow_place: bool) -> None:
    """68:1 begins with one letter; here other tokens are likelier."""
    graph = build_graph(QURAN, TOKENIZER, [ref for ref in QURAN.refs if ref.surah >= 68])
    letter = Speech(sharpness=8).pause(2).say(verse("68:1")[:1]).pause(3).log_probs()
    other = Speech(sharpness=8).pause(2).babble(0.32).pause(3).log_probs()
    mixed = np.logaddexp(letter + np.log(0.4), other + np.log(0.6))
    assert align_scores(graph, [mixed], FRAME, follow_place=follow_place) == Alignment((), ())
    scores = Speech(sharpness=8).pause(2).say(verse("68:1")).pause(3).log_probs()
    (segment,) = align_scores(graph, [scores], FRAME, follow_place=follow_place).segments
    assert [str(one) for one in segment.verses] == ["68:1"]


def test_the_json_of_an_alignment(recording: AlignedRecording) -> None:
    written = json.loads(json.dumps(recording.to_json(), allow_nan=False))
    assert list(written) == ["audio_filepath", "model", "segments", "unaligned"]
    assert written["audio_filepath"] == "097.mp3" and written["model"] == "spoken"
    first, second, *_, last = written["segments"]
    assert (first["kind"], first["verses"], first["words"][0]["verse"]) == ("basmala", [], None)
    assert set(second) == {"verses", "words", "start", "end", "kind", "score"}
    assert set(second["words"][0]) == {*("word", "verse", "index", "start", "end", "confidence", "mismatch")}
    assert second["verses"] == ["97:1"] and [word["index"] for word in second["words"]] == list(range(5))
    assert " ".join(word["word"] for word in last["words"]) == " ".join(verse("97:5"))
    (other,) = written["unaligned"]
    assert set(other) == {"start", "end", "reason"}


def test_a_word_that_is_recited_otherwise_is_marked_with_both(last_part: Graph) -> None:
    """Two letters of the fourth word of 97:1 are others; right words are not marked, however it is cut."""
    words = verse("97:1")
    wrong = words[3][:-2] + "سن"
    speech = Speech(sharpness=10).pause(0.5).say([*words[:3], wrong, *words[4:]]).pause(0.4)
    scores = speech.say(verse("97:2")).pause(0.5).log_probs()
    for size in (len(scores), 7):
        pieces = np.split(scores, range(size, len(scores), size))
        found = align_scores(last_part, pieces, FRAME, follow_place=False, vocabulary=TOKENIZER.vocabulary)
        written = as_recording(found, 9.0).to_json()["segments"]
        assert [word["word"] for word in written[0]["words"]] == words
        marked = [word["mismatch"] for segment in written for word in segment["words"]]
        assert marked[3] == {"written": words[3], "recognized": wrong}
        assert {one for place, one in enumerate(marked) if place != 3} == {None}


@pytest.mark.parametrize("place", [1, 3, 5])
def test_another_word_in_place_of_one_is_marked_on_that_word_alone(last_part: Graph, place: int) -> None:
    """Also at the beginning and the end of a verse that others follow."""
    words = verse("98:2")
    other = "والقمر"
    speech = Speech(sharpness=10).pause(0.5).say(verse("98:1")).pause(0.4)
    speech.say([*words[:place], other, *words[place + 1 :]]).pause(0.4).say(verse("98:3")).pause(0.5)
    scores = speech.log_probs()
    for size in (len(scores), 7):
        pieces = np.split(scores, range(size, len(scores), size))
        found = align_scores(last_part, pieces, FRAME, follow_place=False, vocabulary=TOKENIZER.vocabulary)
        assert found.unaligned == ()
        written = [
            word for segment in as_recording(found, 9.0).to_json()["segments"] for word in segment["words"]
        ]
        assert [word["word"] for word in written] == [*verse("98:1"), *words, *verse("98:3")]
        marked = {at: word["mismatch"] for at, word in enumerate(written) if word["mismatch"]}
        at = len(verse("98:1")) + place
        assert marked == {at: {"written": words[place], "recognized": other}}
        spoken = speech.starts[at] + START_SHIFT
        assert written[at]["start"] == pytest.approx(spoken, abs=2 * FRAME)


@pytest.mark.slow
@pytest.mark.data
def test_a_passage_is_named_as_people_name_it(recordings: Path, quran_asr: Any) -> None:
    recording = recordings / "surahs" / "ahmad-al-ajmi" / "112.opus"
    words = ("align", recording, "--json", "--verses")
    done = [quran_asr(*words, verses) for verses in ("112-114", "Al-Ikhlas - An-Nas")]
    assert done[0].code == 0 and done[0].out == done[1].out
    segments = json.loads(done[0].out)["segments"]
    assert [one["verses"] for one in segments if one["verses"]] == [[f"112:{ayah}"] for ayah in range(1, 5)]
    refused = quran_asr(*words, "2:255,112")
    assert refused.code == 2 and "may be a surah or a verse" in refused.err and "write 2:112" in refused.err


def beside(words: list[str], added: str, place: int, weight: float = 0.97) -> np.ndarray:
    """Scores of a verse in which something is added before the word at a place, not very clearly: so other
    speech, which costs more, is taken for a part of a word."""
    said, silent = (Speech(sharpness=10).pause(0.5) for _ in range(2))
    length = 2 * len(TOKENIZER.encode(added)) * FRAME
    said.say(words[:place]).pause(0.16).say([added]).pause(0.16).say(words[place:])
    silent.say(words[:place]).pause(0.16).pause(length).pause(0.16).say(words[place:])
    scores = [one.pause(0.4).say(verse("97:2")).pause(0.5).log_probs() for one in (said, silent)]
    return np.logaddexp(scores[0] + np.log(weight), scores[1] + np.log(1 - weight))


@pytest.mark.parametrize("added", ["قمر", "هدى", "عسق", "فلا"])
@pytest.mark.parametrize("place", [1, 3])  # behind short words
def test_other_speech_beside_a_word_is_not_a_mismatch_of_the_word(
    last_part: Graph, added: str, place: int
) -> None:
    words = verse("97:1")
    scores = beside(words, added, place)
    for size in (len(scores), 7):
        pieces = np.split(scores, range(size, len(scores), size))
        found = align_scores(last_part, pieces, FRAME, follow_place=False, vocabulary=TOKENIZER.vocabulary)
        recited = [word for segment in found.segments for word in segment.words]
        assert [word.text for word in recited] == [*words, *verse("97:2")]
        assert [word.mismatch for word in recited] == [None] * len(recited)
        (other,) = found.unaligned
        begin = (
            round(0.5 / FRAME) + 2 * sum(len(TOKENIZER.encode(word)) for word in words[:place]) + 2
        ) * FRAME
        assert begin - FRAME < other.start and other.end < begin + 2 * (len(added) + 3) * FRAME
        before, behind = recited[place - 1 : place + 1]
        assert before.end < other.start + 0.1 and other.end + START_SHIFT < behind.start + FRAME


def test_a_letter_beside_a_word_is_no_other_speech(last_part: Graph) -> None:
    """It may be a mistake in the word itself, which stays marked."""
    scores = beside(verse("97:1"), "ق", 3, weight=0.99)
    found = align_scores(last_part, [scores], FRAME, follow_place=False, vocabulary=TOKENIZER.vocabulary)
    assert any(word.mismatch for segment in found.segments for word in segment.words)
    assert not found.unaligned


@pytest.mark.parametrize(("place", "beside_place"), [(2, 3), (3, 3)])
def test_a_wrong_word_beside_other_speech_stays_marked(
    last_part: Graph, place: int, beside_place: int
) -> None:
    words = verse("97:1")
    wrong = words[place][:-2] + "سن"
    scores = beside([*words[:place], wrong, *words[place + 1 :]], "قمر", beside_place)
    found = align_scores(last_part, [scores], FRAME, follow_place=False, vocabulary=TOKENIZER.vocabulary)
    marked = [word.mismatch for segment in found.segments for word in segment.words]
    assert marked[place] is not None and wrong in marked[place]
    assert {one for at, one in enumerate(marked) if at != place} == {None}


def test_a_word_that_is_left_out_is_missing_or_marked_and_none_beside_it(last_part: Graph) -> None:
    words = verse("98:2")
    speech = Speech(sharpness=10).say(words[:3]).pause(0.6).say(words[4:]).pause(0.4).say(verse("98:3"))
    found = align_scores(
        last_part, [speech.log_probs()], FRAME, follow_place=False, vocabulary=TOKENIZER.vocabulary
    )
    aligned = {(str(w.verse), w.index): w.mismatch for segment in found.segments for w in segment.words}
    assert aligned.pop(("98:2", 3), "missing") is not None
    expected = [("98:2", 0), ("98:2", 1), ("98:2", 2), ("98:2", 4), ("98:2", 5)]
    assert aligned == dict.fromkeys(expected + [("98:3", at) for at in range(len(verse("98:3")))])


def test_formulas_at_the_end_are_other_in_json(last_part: Graph) -> None:
    speech = Speech().say(verse("112:4")).pause(0.4).say(formula(Kind.SADAQA)).pause(0.5)
    found = as_recording(align_scores(last_part, [speech.log_probs()], FRAME, follow_place=False), 9.0)
    assert [segment["kind"] for segment in found.to_json()["segments"]] == ["verse", "other"]


def intervals(written: str) -> list[list[tuple[float, float, str]]]:
    """The tiers of a TextGrid."""
    pattern = re.compile(r'intervals \[\d+\]:\s+xmin = (\S+)\s+xmax = (\S+)\s+text = "((?:[^"]|"")*)"')
    return [
        [(float(start), float(end), text) for start, end, text in pattern.findall(tier)]
        for tier in written.split("IntervalTier")[1:]
    ]


@pytest.mark.slow
@settings(max_examples=25)
@given(
    st.lists(st.sampled_from(["97:1", "97:2", "98:1", "112:1", "babble", "pause"]), min_size=1, max_size=6)
)
def test_tiers_cover_the_recording_and_subtitles_follow_each_other(
    last_part: Graph, parts: list[str]
) -> None:
    speech = Speech().pause(0.3)
    for part in parts:
        if part == "babble":
            speech.babble(3)
        elif part == "pause":
            speech.pause(1)
        else:
            speech.say(verse(part))
    scores = speech.log_probs()
    found = as_recording(
        align_scores(last_part, [scores], FRAME, follow_place=False), max(1, len(scores)) * FRAME
    )
    for tier in intervals(FORMATS["textgrid"].write(found)):
        assert tier[0][0] == 0 and tier[-1][1] == pytest.approx(found.seconds, abs=1e-3)
        assert all(one[1] == other[0] for one, other in pairwise(tier))
        assert all(start < end for start, end, _ in tier)
    words = [text for *_, text in intervals(FORMATS["textgrid"].write(found))[1] if text]
    assert words == [word.text for word in found.words]
    for name in ("srt", "webvtt"):
        times = re.findall(r"(\d\d):(\d\d):(\d\d)[,.](\d\d\d)(?: |\n)", FORMATS[name].write(found))
        seconds = [int(h) * 3600 + int(m) * 60 + int(s) + int(ms) / 1000 for h, m, s, ms in times]
        assert seconds == sorted(seconds)


def test_subtitles_have_the_words_and_end_verses_with_their_place(recording: AlignedRecording) -> None:
    written = FORMATS["srt"].write(recording)
    numbers = re.findall(r"^(\d+)\n\d\d:", written, re.MULTILINE)
    assert numbers == [str(number) for number in range(1, len(numbers) + 1)]
    assert re.findall(r"\((\d+:\d+)\)", written) == [f"97:{ayah}" for ayah in range(1, 6)]
    lines = re.findall(r"--> .*\n(.*)\n", written)
    assert lines.count("[...]") == len(recording.unaligned) == 1
    shown = " ".join(line for line in lines if line != "[...]")
    assert re.sub(r" \(\d+:\d+\)", "", shown) == " ".join(word.text for word in recording.words)
    assert FORMATS["webvtt"].write(recording).startswith("WEBVTT\n\n00:00:0")


def test_words_in_the_spelling_of_the_mushaf() -> None:
    """2:21 begins with two words that the mushaf joins, 2:20 has as many in both editions."""
    graph = build_graph(QURAN, TOKENIZER, parse_range("2:20-21"))
    speech = Speech().say(verse("2:20")).pause(0.5).say(verse("2:21")).pause(0.5).say(verse("2:21")[:5])
    scores = speech.pause(0.5).say(formula(Kind.SADAQA)).log_probs()
    found = as_recording(align_scores(graph, [scores], FRAME, follow_place=False), len(scores) * FRAME)
    for spelling in ("uthmani", "diacritized"):
        quran = quran_asr.load_quran(spelling)
        first, second, again, closing = in_spelling(found, spelling).segments
        assert " ".join(word.text for word in first.words) == quran.verse(VerseRef(2, 20))
        assert " ".join(word.text for word in second.words) == quran.verse(VerseRef(2, 21))
        assert [word.index for word in second.words] == list(range(len(second.words)))
        assert (second.start, second.end) == (found.segments[1].start, found.segments[1].end)
        assert again.kind == "repeat" and again.words[0].text == second.words[0].text
        assert [word.text for word in closing.words] == spell(FORMULAS[Kind.SADAQA], spelling).split()
    assert in_spelling(found, "letters") is found
    with pytest.raises(QuranAsrError, match="uthmani cannot"):
        in_spelling(in_spelling(found, "uthmani"), "letters")


def test_labels_and_rows(recording: AlignedRecording) -> None:
    labels = [line.split("\t") for line in FORMATS["audacity"].write(recording).splitlines()]
    assert [text for *_, text in labels] == "basmala|97:1|97:2|97:3|97:3 again|?|97:4|97:5".split("|")
    rows = list(csv.DictReader(FORMATS["csv"].write(recording).splitlines()))
    words = [row for row in rows if row["kind"] != "unaligned"]
    assert [row["word"] for row in words] == [word.text for word in recording.words]
    assert len(rows) == len(words) + 1
    assert [row["kind"] for row in rows if row["verse"] == "97:3"] == 6 * ["verse"] + 3 * ["repeat"]


def test_files_of_an_alignment_are_known_by_their_beginning(recording: AlignedRecording) -> None:
    written = {name: one.write(recording) for name, one in FORMATS.items()}
    for name, one in FORMATS.items():
        assert [other for other in written if re.match(one.begins, written[other])] == [name]
        assert not re.match(one.begins, "قل هو الله أحد\nالله الصمد\n")


def test_clips_of_complete_verses_are_cut_in_the_pauses(
    recording: AlignedRecording, speech: Speech, tmp_path: Path
) -> None:
    """The sound is loud wherever a word is recited."""
    samples = np.full(round(recording.seconds * 16_000), 1e-4, np.float32)
    for word in recording.words:
        samples[round((word.start - START_SHIFT) * 16_000) : round((word.end + 0.05) * 16_000)] = 0.3
    audio.write(tmp_path / "097.flac", samples)
    found = AlignedRecording(
        str(tmp_path / "097.flac"),
        "spoken",
        "letters",
        recording.seconds,
        recording.segments,
        recording.unaligned,
    )
    done = cut_verses(found, tmp_path / "clips" / "reciter")
    assert [clip.path.name for clip in done.clips] == [f"09700{ayah}.flac" for ayah in range(1, 6)]
    assert done.incomplete == () and done.repeated == ()
    for clip in done.clips:
        sound = audio.read(clip.path)
        assert len(sound) / 16_000 == pytest.approx(clip.end - clip.start, abs=1e-3)
        assert np.abs(sound[:160]).max() < 1e-3 and np.abs(sound[-160:]).max() < 1e-3
        (segment,) = [one for one in found.segments if one.verses == (clip.verse,) and one.kind == "verse"]
        assert clip.start < segment.start - START_SHIFT and clip.end > segment.end


def test_a_clip_never_replaces_another(last_part: Graph, tmp_path: Path) -> None:
    """Of a verse that is recited twice the first recitation is cut and the other one is named; files that
    are there already are left alone, and none is added to them."""
    speech = (
        Speech().say(verse("97:1")).pause(0.6).say(verse("97:2")).pause(0.6).say(verse("97:2")).pause(0.5)
    )
    scores = speech.log_probs()
    found = as_recording(align_scores(last_part, [scores], FRAME, follow_place=False), len(scores) * FRAME)
    audio.write(tmp_path / "097.flac", np.full(round(found.seconds * 16_000), 0.1, np.float32))
    found = replace(found, audio=str(tmp_path / "097.flac"))
    done = cut_verses(found, tmp_path / "clips")
    assert [clip.path.name for clip in done.clips] == ["097001.flac", "097002.flac"]
    assert done.clips[1].start < speech.starts[9] and [str(one) for one in done.repeated] == ["97:2"]

    (tmp_path / "clips" / "097001.flac").unlink()
    before = (tmp_path / "clips" / "097002.flac").read_bytes()
    with pytest.raises(QuranAsrError, match=r"097002\.flac") as refused:
        cut_verses(found, tmp_path / "clips")
    assert "another folder" in refused.value.remedy
    assert [path.name for path in (tmp_path / "clips").iterdir()] == ["097002.flac"]
    assert (tmp_path / "clips" / "097002.flac").read_bytes() == before


def test_a_verse_that_is_never_recited_in_one_go_is_not_cut(last_part: Graph, tmp_path: Path) -> None:
    words = verse("98:5")
    speech = Speech().say(words[:11]).pause(0.6).say(words[7:]).pause(0.5)
    scores = speech.log_probs()
    found = as_recording(align_scores(last_part, [scores], FRAME, follow_place=False), len(scores) * FRAME)
    done = cut_verses(found, tmp_path / "clips")
    assert done.clips == () and [str(one) for one in done.incomplete] == ["98:5"]


def test_the_quietest_point() -> None:
    samples = np.full(16_000, 0.5, np.float32)
    samples[8_000:8_800] = 0.01
    assert 0.5 <= quietest(samples, 0.1, 0.9) <= 0.55
    assert 0.1 <= quietest(samples, 0.1, 0.105) <= 0.105


def test_without_a_model_in_the_package_one_must_be_named(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setattr(bundles, "DEFAULT_MODEL", tmp_path / "default")
    with pytest.raises(QuranAsrError, match="no default model") as refused:
        quran_asr.identify("recitation.mp3")
    assert "--model" in refused.value.remedy
    (tmp_path / "default").mkdir()
    (tmp_path / "default" / "bundle.json").write_text("{}")
    assert bundles.default_model() == tmp_path / "default"


@pytest.mark.slow
def test_the_commands_print_json_and_name_what_cannot_be_read(
    small_bundle: Path, voice: np.ndarray, quran_asr: Any, tmp_path: Path
) -> None:
    """With random weights nothing is found, or anything; each file has its line."""
    audio.write(tmp_path / "a.wav", voice)
    (tmp_path / "b.wav").write_bytes(b"")
    for command, key in (("identify", "hypothesis"), ("align", "segments")):
        done = quran_asr(command, tmp_path / "a.wav", "--model", small_bundle, "--json")
        assert done.code in (0, 1), done.err
        (line,) = done.out.splitlines()
        assert json.loads(line)["audio_filepath"] == str(tmp_path / "a.wav") and key in json.loads(line)
        done = quran_asr(command, tmp_path / "b.wav", tmp_path / "a.wav", "--model", small_bundle)
        assert done.code == 2 and "b.wav: an empty file" in done.err and str(tmp_path / "a.wav") in done.out
    (tmp_path / "a.txt").write_text("my transcript\n")
    words = ("align", tmp_path / "a.wav", "--model", small_bundle, "--format", "audacity", "--to", tmp_path)
    done = quran_asr(*words)
    assert done.code == 2 and "not written by align" in done.err
    done = quran_asr(*words, "--overwrite")
    assert done.code == 2 and "not written by align" in done.err
    assert (tmp_path / "a.txt").read_text() == "my transcript\n"
    (tmp_path / "a.txt").write_text("0.50\t1.00\t1:1 corrected by hand\n")
    done = quran_asr(*words)
    assert done.code == 2 and "--overwrite replaces it" in done.err
    assert "corrected by hand" in (tmp_path / "a.txt").read_text()
    done = quran_asr(*words, "--overwrite")
    assert done.code in (0, 1) and "corrected by hand" not in (tmp_path / "a.txt").read_text()


@pytest.mark.slow
@pytest.mark.data
def test_a_recitation_that_is_too_fast_is_found_played_slower(recordings: Path, tmp_path: Path) -> None:
    lines = [
        json.loads(line) for line in (recordings / "recitations" / "index.jsonl").read_text().splitlines()
    ]
    chosen = [line for line in lines if line["reciter"] == "mishary-alafasy" and 5 < line["duration"] < 9][:8]
    recognizer = quran_asr.load(decoder="ctc")
    speeds = []
    for number, line in enumerate(chosen):
        samples = audio.read(recordings / "recitations" / line["audio_filepath"])
        fast = tmp_path / f"{number}.wav"
        audio.write(fast, audio.resample(samples, 16_000, 7_200))  # 2.2 times as fast, and higher
        found = quran_asr.identify(fast, recognizer)
        assert not found.verses or line["verses"] == [str(verse) for verse in found.verses]
        if found.verses:
            speeds.append(found.speed)
            assert found.to_json()["speed"] == found.speed
    assert 0.85 in speeds and not {1.1, 1.2} & set(speeds)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("by_ctc", "again", "expected"),
    [
        (("112:1", 0.5), [], (1.0, None)),  # the transducer is not asked
        (None, [("2:255", -2.0, -2.9)], (1.0, -2.9)),  # it agrees: other speeds are not tried
        (None, [("2:255", -2.0, -3.1), ("2:255", -1.0, -4.0), *[None] * 3], (0.85, -4.0)),
        (None, [None, ("2:255", 1.0, -9.1), None, ("2:255", 2.0, -40.0), None], None),
        (None, [None, ("2:255", 5.0, -40.0), None, ("112:1", 2.0, -40.0), None], None),  # alone
        (None, [None, ("2:255", 5.0, -40.0), None, None, ("2:255", -2.0, -40.0)], (0.85, -40.0)),
        (None, [("2:255", -1.0, -40.0), None, ("2:255", 4.0, -40.0), None, None], (0.92, -40.0)),
        (None, [None, ("2:255", 2.0, -40.0), ("2:255", 2.5, -40.0), None, None], None),
        (None, [None, ("2:255", 1.0, -5.0), ("2:255", 2.0, -5.0), ("112:1", 1.5, 0.0), None], (0.92, -5.0)),
    ],
)
def test_what_ctc_leaves_open_the_transducer_decides(
    by_ctc: tuple[str, float] | None,
    again: list[tuple[str, float, float] | None],
    expected: tuple[float, float | None] | None,
    small_bundle: Path,
    voice: np.ndarray,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    answers = iter([by_ctc, *again])
    agreements = iter(answer[2] for answer in again if answer is not None)

    def identify(_: object, __: object, least: float = 0.0) -> Identification:
        answer = next(answers)
        if answer is None or answer[1] < least:
            return nothing(-9.0)
        return Identification((VerseRef.parse(answer[0]),), 0, 0, 0.0, answer[1], math.inf, (), ())

    monkeypatch.setattr("quran_asr.decoding.identify.identify", identify)
    monkeypatch.setattr("quran_asr.runtime.alignment.agreement", lambda *_: next(agreements))
    audio.write(tmp_path / "a.wav", voice)
    found = quran_asr.identify(tmp_path / "a.wav", small_bundle)
    assert ((found.speed, found.agreement) if found.verses else None) == expected
    assert found.to_json()["agreement"] == (expected[1] if expected else None)
    assert next(answers, "all were asked for") == "all were asked for"


def test_the_tokens_of_a_place_are_those_of_its_words(small_bundle: Path) -> None:
    recognizer = quran_asr.load(small_bundle)
    graph, vocabulary = search_graph(recognizer), recognizer.bundle.vocabulary
    quran = load_quran(recognizer.spelling)
    for refs, first, last in (("112:1-4", 1, 2), ("97:5", 1, 3), ("113:5-114:1", 0, 3)):
        verses = tuple(parse_range(refs)) if "-114" not in refs else (VerseRef(113, 5), VerseRef(114, 1))
        place = Identification(verses, first, last, 0.0, 0.0, math.inf, (), ())
        words = [quran.verse(ref).split() for ref in verses]
        words[-1] = words[-1][: last + 1]
        words[0] = words[0][first:]
        expected = " ".join(word for verse in words for word in verse)
        assert vocabulary.text(spelled(graph, place)) == expected


@pytest.mark.slow
def test_an_evaluation_counts_identified_verses(
    small_bundle: Path, voice: np.ndarray, quran_asr: Any, tmp_path: Path
) -> None:
    """With random weights nothing is right; each clip has an outcome, in the report and on the screen."""
    audio.write(tmp_path / "a.wav", voice)
    line = {"audio_filepath": "a.wav", "duration": len(voice) / 16_000, "verses": ["112:1"], "reciter": "x"}
    (tmp_path / "two.jsonl").write_text(f"{json.dumps(line)}\n{json.dumps(line)}\n")
    arguments = ("evaluate", tmp_path / "two.jsonl", "--model", small_bundle, "--decoder", "ctc")
    done = quran_asr(*arguments, "--identify", "--to", tmp_path / "report", "--json")
    assert done.code == 0, done.err
    report = json.loads(done.out)
    assert json.loads((tmp_path / "report" / "report.json").read_text("utf-8")) == report
    counts = report["identification"]
    assert counts["clips"] == 2 == sum(counts[name] for name in ("exact", "partial", "wrong", "nothing"))
    assert list(counts["reciters"]) == ["x"]
    shown = quran_asr(*arguments, "--identify", "--to", tmp_path / "report")
    assert "identified" in shown.out and "precision %" in shown.out


@pytest.fixture(scope="module")
def interim(recordings: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("nemo", reason="a bundle is made with the training packages")
    from quran_asr.export.bundle import export

    folder = tmp_path_factory.mktemp("interim") / "bundle"
    export(recordings / "models" / "interim.nemo", folder)
    return folder


@pytest.mark.slow
@pytest.mark.data
def test_real_recordings(interim: Path, recordings: Path) -> None:
    recognizer = quran_asr.load(interim, decoder="ctc")
    found = quran_asr.identify(recordings / "eval" / "verses-44" / "002255.opus", recognizer)
    assert [str(one) for one in found.verses] == ["2:255"]
    surah = recordings / "alignment" / "nabil-al-rifai" / "097.opus"
    for verses in ("97", None):
        aligned = quran_asr.align(surah, verses, recognizer)
        starts = {
            str(one.verses[0]): one.start
            for one in aligned.segments
            if one.kind == "verse" and one.words[0].index == 0
        }
        for line in (recordings / "alignment" / "times.jsonl").read_text("utf-8").splitlines():
            times = json.loads(line)
            if times["audio_filepath"] == "nabil-al-rifai/097.opus":
                for known in times["verses"]:
                    if "speech_start" in known:
                        assert starts[known["verse"]] == pytest.approx(known["speech_start"], abs=0.5)


@pytest.mark.slow
def test_a_picture_has_a_row_for_each_stretch(recording: AlignedRecording, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    from quran_asr.runtime.alignment_plot import ROW_SECONDS, plot_alignment

    audio.write(tmp_path / "097.flac", np.full(round(recording.seconds * 16_000), 0.1, np.float32))
    found = replace(recording, audio=str(tmp_path / "097.flac"))
    plot_alignment(found, tmp_path / "097.svg")
    written = (tmp_path / "097.svg").read_text("utf-8")
    assert written.count('<g id="axes_') == math.ceil(recording.seconds / ROW_SECONDS)
    plot_alignment(replace(found, segments=(), unaligned=()), tmp_path / "nothing.png")
    assert (tmp_path / "nothing.png").read_bytes().startswith(b"\x89PNG")


def test_a_picture_is_of_one_recording_and_a_known_format(quran_asr: Any, tmp_path: Path) -> None:
    for words, what in (
        (("a.mp3", "--plot", "a.txt"), "a .png"),
        (("a.mp3", "b.mp3", "--plot", "a.png"), "one"),
    ):
        done = quran_asr("align", *words, cwd=tmp_path)
        assert done.code == 2 and what in done.err
