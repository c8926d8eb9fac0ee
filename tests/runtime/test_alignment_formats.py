"""What was recognized otherwise than written, and other speech: in files for other programs, and in clips."""

from __future__ import annotations

import csv
import math
import re
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quran_asr import audio
from quran_asr.decoding.graph import build_graph
from quran_asr.decoding.path import AlignedSegment, Unaligned
from quran_asr.records import TimedWord, VerseRef
from quran_asr.runtime.alignment import AlignedRecording, align_scores, in_spelling
from quran_asr.runtime.alignment_formats import FORMATS
from quran_asr.runtime.verse_clips import LEAST_SCORE, cut_verses, find_clips
from quran_asr.text.passages import parse_range

sys.path.insert(0, str(Path(__file__).parents[1] / "decoding"))
from spoken import FRAME, QURAN, TOKENIZER, Speech, verse

OTHER = "والقمر"
Interval = tuple[float, float, str]


@pytest.fixture(scope="module")
def recording() -> AlignedRecording:
    """98:1, 98:2 with another word in place of its fourth one, other speech, 98:3."""
    words = verse("98:2")
    speech = Speech(sharpness=10).pause(0.5).say(verse("98:1")).pause(0.4)
    speech.say([*words[:3], OTHER, *words[4:]]).pause(1.5).babble(4).pause(1.5)
    scores = speech.say(verse("98:3")).pause(0.5).log_probs()
    graph = build_graph(QURAN, TOKENIZER, parse_range("98"))
    found = align_scores(graph, [scores], FRAME, follow_place=False, vocabulary=TOKENIZER.vocabulary)
    seconds = len(scores) * FRAME
    made = AlignedRecording("098.mp3", "spoken", "letters", seconds, found.segments, found.unaligned)
    assert [word.mismatch for word in made.words if word.mismatch is not None] == [OTHER]
    assert len(made.unaligned) == 1
    return made


def wrong_word(recording: AlignedRecording) -> TimedWord:
    return next(word for word in recording.words if word.mismatch is not None)


def with_mismatch(recording: AlignedRecording, recognized: str | None) -> AlignedRecording:
    """The same, with something else in place of the wrong word."""
    segments = tuple(
        replace(
            one,
            words=tuple(
                word if word.mismatch is None else replace(word, mismatch=recognized) for word in one.words
            ),
        )
        for one in recording.segments
    )
    return replace(recording, segments=segments)


def tiers(written: str) -> dict[str, list[Interval]]:
    """Those of a TextGrid by name."""
    pattern = re.compile(r'intervals \[\d+\]:\s+xmin = (\S+)\s+xmax = (\S+)\s+text = "((?:[^"]|"")*)"')
    found = {}
    for tier in written.split("IntervalTier")[1:]:
        (name,) = re.findall(r'name = "(.*)"', tier)
        (size,) = re.findall(r"intervals: size = (\d+)", tier)
        found[name] = [(float(start), float(end), text) for start, end, text in pattern.findall(tier)]
        assert len(found[name]) == int(size)
    assert re.findall(r"^size = (\d+)", written, re.MULTILINE) == [str(len(found))]
    return found


def test_rows_name_what_was_recognized_and_other_speech(recording: AlignedRecording) -> None:
    rows = list(csv.DictReader(FORMATS["csv"].write(recording).splitlines()))
    words = [row for row in rows if row["kind"] != "unaligned"]
    assert [row["word"] for row in words] == [word.text for word in recording.words]
    wrong = wrong_word(recording)
    assert {row["word"]: row["recognized"] for row in rows if row["recognized"]} == {wrong.text: OTHER}
    (other,) = (row for row in rows if row["kind"] == "unaligned")
    (stretch,) = recording.unaligned
    times = {"start": f"{stretch.start:.3f}", "end": f"{stretch.end:.3f}"}
    assert other == {**dict.fromkeys(other, ""), **times, "kind": "unaligned"}
    starts = [float(row["start"]) for row in rows]
    assert starts == sorted(starts)


def test_a_tier_has_what_was_recognized_and_other_speech(recording: AlignedRecording) -> None:
    found = tiers(FORMATS["textgrid"].write(recording))
    assert list(found) == ["verses", "words", "recognized"]
    (stretch,), wrong = recording.unaligned, wrong_word(recording)
    assert [one for one in found["recognized"] if one[2]] == [
        (pytest.approx(wrong.start, abs=1e-3), pytest.approx(wrong.end, abs=1e-3), OTHER),
        (pytest.approx(stretch.start, abs=1e-3), pytest.approx(stretch.end, abs=1e-3), "?"),
    ]


def test_labels_and_subtitles_show_what_was_recognized(recording: AlignedRecording) -> None:
    wrong = wrong_word(recording)
    marked = f"{wrong.text} [{OTHER}]"
    labels = [line.split("\t") for line in FORMATS["audacity"].write(recording).splitlines()]
    assert [text for *_, text in labels] == ["98:1", "98:2", marked, "?", "98:3"]
    assert labels[2][:2] == [f"{wrong.start:.3f}", f"{wrong.end:.3f}"]
    for name in ("srt", "webvtt"):
        written = re.sub(r"<[\d:.]+>", "", FORMATS[name].write(recording))
        assert written.count(marked) == 1
        shown = [line for line in written.splitlines() if "[" in line]
        assert len(shown) == 2 and shown[1] == "[...]", "other speech has a subtitle of its own"
    assert "[" not in FORMATS["srt"].write(replace(with_mismatch(recording, None), unaligned=()))


def test_a_word_in_whose_place_nothing_is_recognized_is_marked_too(recording: AlignedRecording) -> None:
    silent = with_mismatch(recording, "")
    written = {name: one.write(silent) for name, one in FORMATS.items()}
    marked = f"{wrong_word(silent).text} [-]"
    assert all(marked in written[name] for name in ("srt", "webvtt", "audacity"))
    assert [text for *_, text in tiers(written["textgrid"])["recognized"] if text] == ["-", "?"]
    rows = csv.DictReader(written["csv"].splitlines())
    assert [row["recognized"] for row in rows if row["recognized"]] == ["-"]


def test_words_in_the_spelling_of_the_mushaf_keep_what_was_recognized(recording: AlignedRecording) -> None:
    found = in_spelling(recording, "uthmani")
    for name, one in FORMATS.items():
        assert OTHER in one.write(found), name


@st.composite
def recordings(draw: st.DrawFn) -> AlignedRecording:
    """Words one after another, and stretches of other speech that begin and end anywhere."""
    at, segments = draw(st.integers(0, 20)) / 100, []
    for _ in range(draw(st.integers(0, 3))):
        words = []
        for index in range(draw(st.integers(1, 4))):
            start = at + draw(st.integers(0, 150)) / 100
            at = start + draw(st.integers(1, 90)) / 100
            mismatch = draw(st.sampled_from([None, None, "", OTHER, f'{OTHER} "']))
            words.append(TimedWord("كلمة", start, at, 0.5, VerseRef(98, 1), index, mismatch))
        segments.append(AlignedSegment((VerseRef(98, 1),), tuple(words), "verse", "next", -0.1))
    at += 1
    edges = sorted(draw(st.sets(st.integers(0, round(at * 100)), max_size=8)))
    others = [Unaligned(start / 100, end / 100) for start, end in zip(edges[::2], edges[1::2], strict=False)]
    return AlignedRecording("098.mp3", "spoken", "letters", at, tuple(segments), tuple(others))


@settings(max_examples=50)
@given(recordings())
def test_files_are_valid_wherever_other_speech_lies(recording: AlignedRecording) -> None:
    written = {name: one.write(recording) for name, one in FORMATS.items()}
    wrong = [word for word in recording.words if word.mismatch is not None]
    found = tiers(written["textgrid"])
    for tier in found.values():
        assert tier[0][0] == 0 and tier[-1][1] == pytest.approx(recording.seconds, abs=1e-3)
        assert all(one[1] == other[0] for one, other in pairwise(tier))
        assert all(start < end for start, end, _ in tier)
    shown = [one for one in found["recognized"] if one[2] not in ("", "?")]
    assert shown == [
        (
            pytest.approx(word.start, abs=1e-3),
            pytest.approx(word.end, abs=1e-3),
            (word.mismatch or "-").replace('"', '""'),
        )
        for word in wrong
    ]
    question = [(start, end) for start, end, text in found["recognized"] if text == "?"]
    covered = [*question, *((word.start, word.end) for word in wrong)]
    for other in recording.unaligned:
        middle = (other.start + other.end) / 2 + 0.0005
        assert any(start - 2e-3 <= middle <= end + 2e-3 for start, end in covered)
    assert sum(end - start for start, end in question) <= sum(
        other.end - other.start for other in recording.unaligned
    ) + 1e-3 * (1 + len(question))

    for name in ("srt", "webvtt"):
        times = re.findall(r"(\d\d):(\d\d):(\d\d)[,.](\d\d\d)(?: |\n|>)", written[name])
        seconds = [int(h) * 3600 + int(m) * 60 + int(s) + int(ms) / 1000 for h, m, s, ms in times]
        assert name == "webvtt" or seconds == sorted(seconds)
        text = re.sub(r"<[\d:.]+>", "", written[name])
        assert len(re.findall(r"كلمة \[", text)) == len(wrong)
        cues = re.findall(r"(\S+) --> (\S+)", written[name])
        assert all(start < end for start, end in cues)
        assert all(one[1] <= other[0] for one, other in pairwise(cues))
    assert written["audacity"].count(" [") == len(wrong)
    labels = [line.split("\t") for line in written["audacity"].splitlines()]
    starts = [float(start) for start, *_ in labels]
    assert starts == sorted(starts) and {len(one) for one in labels} <= {3}
    rows = list(csv.DictReader(written["csv"].splitlines()))
    assert len([row for row in rows if row["kind"] == "unaligned"]) == len(recording.unaligned)
    assert len([row for row in rows if row["recognized"]]) == len(wrong)


def test_other_speech_between_two_words_divides_their_subtitle() -> None:
    words = tuple(
        TimedWord(text, start, start + 0.4, 0.5, VerseRef(112, 2), index)
        for index, (text, start) in enumerate((("الله", 0.0), ("الصمد", 0.7)))
    )
    segment = AlignedSegment((VerseRef(112, 2),), words, "verse", "start", -0.1)
    found = AlignedRecording("a.mp3", "spoken", "letters", 2.0, (segment,), (Unaligned(0.3, 0.8),))
    assert re.findall(r"\d\d,(\d+) --> \S+,(\d+)\n(.*)", FORMATS["srt"].write(found)) == [
        ("000", "400", "الله"),
        ("400", "700", "[...]"),
        ("700", "100", "الصمد (112:2)"),
    ]


@pytest.mark.slow
def test_a_picture_shows_what_was_recognized(recording: AlignedRecording, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    from quran_asr.runtime.alignment_plot import plot_alignment

    audio.write(tmp_path / "098.flac", np.full(math.ceil(recording.seconds * 16_000), 0.1, np.float32))
    found = replace(recording, audio=str(tmp_path / "098.flac"))
    counts = []
    for one in (found, with_mismatch(found, None)):
        plot_alignment(one, tmp_path / "098.svg")
        counts.append((tmp_path / "098.svg").read_text("utf-8").count("#b91c1c"))
    assert counts[0] == 1 + counts[1]


def recited(parts: list[tuple[str, float, str | None]], folder: Path) -> AlignedRecording:
    """Verses one after another, with the confidence of their words and what the second word is taken for."""
    segments, at = [], 0.5
    for place, confidence, mismatch in parts:
        ref, words = VerseRef.parse(place), []
        for index, text in enumerate(verse(place)):
            other = mismatch if index == 1 else None
            words.append(TimedWord(text, at, at + 0.4, confidence, ref, index, other))
            at += 0.5
        segments.append(AlignedSegment((ref,), tuple(words), "verse", "jump", 0.0))
        at += 0.5
    audio.write(folder / "112.flac", np.full(round(at * 16_000), 0.1, np.float32))
    return AlignedRecording(str(folder / "112.flac"), "spoken", "letters", at, tuple(segments), ())


def test_a_verse_in_which_other_words_are_recognized_is_named_and_not_cut(tmp_path: Path) -> None:
    """By one other word, by none in its place, or by a poor score of all, even if each is the likeliest."""
    parts = [("112:1", 0.9, None), ("112:2", 0.9, OTHER), ("112:3", 0.9, ""), ("112:4", 0.1, None)]
    found = recited([*parts, ("113:1", 0.0, None)], tmp_path)
    done = cut_verses(found, tmp_path / "clips")
    assert [clip.path.name for clip in done.clips] == ["112001.flac"]
    assert [path.name for path in (tmp_path / "clips").iterdir()] == ["112001.flac"]
    assert [str(one) for one in done.other_words] == ["112:2", "112:3", "112:4", "113:1"]
    assert done.incomplete == done.repeated == ()
    assert [clip.has_other_words() for clip in find_clips(found)] == [False, True, True, True, True]
    assert [clip.score < LEAST_SCORE for clip in find_clips(found)] == [False, False, False, True, True]
    assert [clip.has_other_words(-3.0) for clip in find_clips(found)][2:4] == [True, False]


def test_of_several_recitations_the_first_with_the_words_of_the_verse_is_cut(tmp_path: Path) -> None:
    parts = [("112:1", 0.9, OTHER), ("112:2", 0.9, None), ("112:1", 0.9, None), ("112:2", 0.9, OTHER)]
    found = recited([*parts, ("112:3", 0.9, OTHER), ("112:3", 0.9, OTHER)], tmp_path)
    done = cut_verses(found, tmp_path / "clips")
    starts = {str(clip.verse): clip.start for clip in done.clips}
    assert list(starts) == ["112:2", "112:1"]
    assert starts["112:2"] < found.segments[1].start and starts["112:1"] > found.segments[1].start
    assert [str(one) for one in done.repeated] == ["112:1", "112:2"]
    assert [str(one) for one in done.other_words] == ["112:3"]


def test_a_clip_that_is_there_does_not_matter_to_a_verse_that_is_not_cut(tmp_path: Path) -> None:
    (tmp_path / "clips").mkdir()
    (tmp_path / "clips" / "112002.flac").write_bytes(b"corrected")
    done = cut_verses(recited([("112:2", 0.9, OTHER)], tmp_path), tmp_path / "clips")
    assert not done.clips and (tmp_path / "clips" / "112002.flac").read_bytes() == b"corrected"
