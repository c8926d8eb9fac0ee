"""Worst clips on a page: both texts are whole, what manifests say is not trusted, the sound is right."""

from __future__ import annotations

import base64
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from quran_asr import audio
from quran_asr.evaluation.edit_distance import align
from quran_asr.evaluation.scoring import word_letters
from quran_asr.experiments.plots.worst_clips import Players, Recordings, alignment, worst_clips

WORDS = ["قُلْ", "هُوَ", "اللَّهُ", "أَحَدٌ", "الصَّمَدُ", "<b>&amp;", "يَا"]


class Read(HTMLParser):
    """The words of both rows, and the kinds of the pairs, as a browser would read them."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.reference: list[str] = []
        self.hypothesis: list[str] = []
        self.kinds: list[str] = []
        self.marked: list[str] = []
        self.tags: set[str] = set()
        self._row: list[str] | None = None
        self._in_mark = False
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        names = (dict(attrs).get("class") or "").split()
        if "pair" in names:
            self.kinds.append(names[1])
        if "reference" in names or "hypothesis" in names:
            row = self.reference if "reference" in names else self.hypothesis
            self._row = None if "gap" in names else row
            if self._row is not None:
                self._row.append("")
        if "aside" in names:
            self._row = None
        self._in_mark = tag == "mark"

    def handle_endtag(self, tag: str) -> None:
        self._in_mark = False
        if tag == "span":
            self._row = None

    def handle_data(self, data: str) -> None:
        if self._row is not None:
            self._row[-1] += data
        if self._in_mark:
            self.marked.append(data)


def read(reference: str, hypothesis: str) -> Read:
    return Read(alignment(align(reference.split(), hypothesis.split(), alike=word_letters)))


@given(st.lists(st.sampled_from(WORDS), max_size=6), st.lists(st.sampled_from(WORDS), max_size=6))
def test_both_texts_stand_whole_in_their_rows(reference: list[str], hypothesis: list[str]) -> None:
    page = read(" ".join(reference), " ".join(hypothesis))
    assert (page.reference, page.hypothesis) == (reference, hypothesis)
    assert page.tags <= {"div", "span", "mark"}


def test_errors_are_distinguished_and_the_letters_that_differ_are_marked() -> None:
    page = read("قُلْ هُوَ اللَّهُ أَحَدٌ اللَّهُ الصَّمَدُ", "قُلْ يَا هُوَ اللَّهِ أَحَدٌ اللَّهُ")
    assert page.kinds == ["hit", "insertion", "hit", "marks", "hit", "hit", "deletion"]
    assert page.marked == ["هُ", "هِ"], "the letter with its mark, never a mark alone"
    page = read("الصمد", "الصبد")
    assert (page.kinds, page.marked) == (["substitution"], ["م", "ب"])


def test_a_long_stretch_of_right_words_is_passed_over_and_a_word_without_end_is_cut() -> None:
    reference = " ".join(["قل"] * 50)
    page = alignment(align(reference.split(), f"{reference} هو".split()))
    assert "44 words right" in page
    assert len(Read(page).reference) == 6
    assert len(read("قل", "ب" * 5000).hypothesis[0]) == 41


# Audio


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    """Four seconds of 44.1 kHz stereo: silence, then in the third second a tone of 440 Hz."""
    time = np.arange(4 * 44_100) / 44_100
    tone = np.where((time >= 2) & (time < 3), 0.5 * np.sin(2 * np.pi * 440 * time), 0.0)
    path = tmp_path / "112001.flac"
    soundfile.write(path, np.stack([tone, tone], axis=1), 44_100)
    return path


def transcripts(folder: Path, *clips: dict[str, object]) -> Path:
    good = {"offset": 2.0, "duration": 1.0, "reference": "قل هو", "hypothesis": "قل"}
    path = folder / "transcripts.jsonl"
    path.write_text("\n".join(json.dumps(good | clip) for clip in clips), encoding="utf-8")
    return path


def test_a_player_holds_the_stretch_of_its_clip(recording: Path) -> None:
    path = transcripts(recording.parent, {"audio_filepath": str(recording)})
    page = worst_clips(path, 12, Players(Recordings([recording.parent])))
    (data,) = re.findall(r'<audio controls[^>]+src="data:audio/mpeg;base64,([^"]+)"', page)
    samples, rate = soundfile.read(io.BytesIO(base64.b64decode(data)))
    assert (samples.ndim, rate) == (1, 16_000)
    assert len(samples) / rate == pytest.approx(1.0, abs=0.15), "an encoder pads"
    spectrum = np.abs(np.fft.rfft(samples))
    assert np.fft.rfftfreq(len(samples), 1 / rate)[spectrum.argmax()] == pytest.approx(440, abs=2)
    assert np.abs(samples).max() == pytest.approx(0.5, abs=0.1)
    assert "1 error in 2 words" in page


def test_where_there_is_not_a_sound_the_page_explains_why(recording: Path) -> None:
    path = transcripts(
        recording.parent,
        {"audio_filepath": "/nowhere/1.mp3", "reference": "قل هو الله أحد"},
        {"audio_filepath": str(recording), "offset": 9.0},
        {"audio_filepath": str(recording), "duration": 4000.0},
        {"audio_filepath": "/dev/zero"},
    )
    page = worst_clips(path, 12, Players(Recordings([Path("/")])))
    assert page.count("<audio") == 0
    for why in ("no such file", "the stretch begins at 9.00 s", "clips of up to 300 s", "not a regular file"):
        assert f"No audio: {why}" in page


def test_a_page_takes_in_so_much_audio_and_none_if_it_shall_not(recording: Path) -> None:
    path = transcripts(recording.parent, *[{"audio_filepath": str(recording)}] * 3)
    one = len(audio.as_mp3(audio.read(recording, 2.0, 1.0)))
    page = worst_clips(path, 12, Players(Recordings([recording.parent]), left=2 * one))
    assert page.count("<audio") == 2
    assert page.count("No audio: the page has no room for more") == 1
    assert "audio" not in worst_clips(path, 12, Players(Recordings([recording.parent]), wanted=False))


def test_what_a_manifest_has_is_text_and_nothing_else(tmp_path: Path) -> None:
    evil = '"><script>alert(1)</script>'
    path = transcripts(
        tmp_path,
        {
            "audio_filepath": f"/x/{evil}",
            "reciter": evil,
            "reference": evil,
            "hypothesis": f"<img src=x {evil}",
        },
    )
    page = worst_clips(path, 12, Players(Recordings([])))
    assert "script" not in Read(page).tags and "img" not in Read(page).tags
    assert "&lt;script&gt;" in page


def test_a_page_without_errors_reports_it(tmp_path: Path) -> None:
    path = transcripts(tmp_path, {"audio_filepath": "a", "hypothesis": "قل هو"})
    assert "Every word of 1 clips is right" in worst_clips(path, 12, Players(Recordings([])))


def manifest(path: Path, *recordings: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps({"audio_filepath": str(one), "duration": 1.0}) for one in recordings]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def embedded(path: Path, recordings: Recordings) -> int:
    return worst_clips(path, 12, Players(recordings)).count("<audio")


def test_a_recording_outside_of_the_run_and_its_manifests_is_not_passed_on(
    recording: Path, tmp_path: Path
) -> None:
    run, corpus = tmp_path / "run", tmp_path / "corpus"
    run.mkdir()
    path = transcripts(tmp_path, {"audio_filepath": str(recording)})
    assert embedded(path, Recordings([run])) == 0
    assert "neither in the run nor in its manifests" in worst_clips(path, 12, Players(Recordings([run])))
    assert embedded(path, Recordings([tmp_path])) == 1
    assert embedded(path, Recordings([run], [manifest(corpus / "train.jsonl", recording)])) == 1
    assert embedded(path, Recordings([run], [manifest(corpus / "train.jsonl", tmp_path / "other.wav")])) == 0
    assert embedded(path, Recordings([run], [tmp_path / "missing.jsonl"])) == 0
    # a test set beside the training set, as `corpus split` writes them
    assert embedded(path, Recordings([run], [manifest(tmp_path / "train.jsonl", tmp_path / "a.wav")])) == 1


def test_a_run_that_came_with_its_own_manifest_opens_nothing_else(recording: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "link.flac").symlink_to(recording)
    for name in (str(recording), "../112001.flac", "link.flac"):
        path = transcripts(run, {"audio_filepath": name})
        assert embedded(path, Recordings([run], [manifest(run / "train.jsonl", recording)])) == 0, name
