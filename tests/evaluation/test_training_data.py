"""What was trained on: the file, and which clips of a test it makes known."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from quran_asr import audio
from quran_asr.errors import QuranAsrError
from quran_asr.evaluation.training_data import TrainingData, cells, find_training_data
from quran_asr.records import Segment, VerseRef
from quran_asr.text.quran import load_quran


def clip(reciter: str, *verses: str, text: str = "") -> Segment:
    refs = tuple(VerseRef.parse(verse) for verse in verses)
    return Segment("a.wav", 0.0, 1.0, refs, text or load_quran("diacritized").text(refs), reciter)


def trained(*segments: Segment) -> TrainingData:
    return TrainingData.from_segments(segments)


def test_reciters_and_texts_are_seen_or_not() -> None:
    training = trained(clip("husary", "112:1"), clip("husary", "112:2"), clip("minshawi", "113:1"))
    asked = [
        clip("husary", "112:1"),
        clip("husary", "112:1", "112:2"),
        clip("husary", "112:1", "112:3"),  # one verse is new
        clip("afasy", "113:1"),
        clip("afasy", "114:1"),
        clip("", "114:1"),
    ]
    assert cells(asked, training) == [
        "seen_reciter/seen_text",
        "seen_reciter/seen_text",
        "seen_reciter/unseen_text",
        "unseen_reciter/seen_text",
        "unseen_reciter/unseen_text",
        "unknown_reciter/unseen_text",
    ]


def test_a_twin_is_the_same_text() -> None:
    training = trained(clip("husary", "55:13"))
    assert cells([clip("afasy", "55:77")], training) == ["unseen_reciter/seen_text"]
    # 3:2 stands inside 2:255, which is another verse
    assert cells([clip("afasy", "3:2")], trained(clip("husary", "2:255"))) == ["unseen_reciter/unseen_text"]


def test_clips_without_verses_are_found_by_their_words() -> None:
    training = trained(
        clip("husary", "112:1"), clip("husary", "112:2"), clip("husary", text="مَالِكِ يَوْمِ الدِّينِ")
    )
    asked = [
        clip("husary", text="هُوَ اللَّهُ أَحَدٌ اللَّهُ الصَّمَدُ"),  # from one verse into the next
        clip("husary", text="هُوَ اللَّهُ الصَّمَدُ"),  # a word between is left out
        clip("husary", text="اللَّهُ الصَّمَ"),  # part of a word
        clip("husary", "1:4"),  # trained on as a text without its verse
        clip("husary", text="يَوْمِ الدِّينِ"),
        clip("husary", text="الدِّينِ قُلْ"),  # what does not follow each other
    ]
    seen = [cell.removeprefix("seen_reciter/") == "seen_text" for cell in cells(asked, training)]
    assert seen == [True, False, False, True, True, False]


def test_verses_with_one_missing_between_them_are_not_consecutive() -> None:
    training = trained(clip("husary", "112:1"), clip("husary", "112:3"))
    ahad, lam = (load_quran("letters").verse(VerseRef(112, ayah)).split() for ayah in (1, 3))
    over_the_gap = clip("husary", text=f"{ahad[-1]} {lam[0]}")
    assert cells([over_the_gap], training) == ["seen_reciter/unseen_text"]


def test_nothing_is_claimed_of_what_is_unknown() -> None:
    assert cells([clip("husary", "112:1")], None) == ["unknown"]
    unnamed = trained(clip("", "112:1"), clip("husary", "112:1"))
    assert cells([clip("afasy", "112:2"), clip("husary", "112:2")], unnamed) == [
        "unknown_reciter/unseen_text",
        "seen_reciter/unseen_text",
    ]


def manifest_in(folder: Path) -> Path:
    audio.write(folder / "a.wav", np.zeros(16_000, np.float32))
    lines = [
        {"audio_filepath": "a.wav", "duration": 0.9, "verses": ["113:1"], "reciter": "minshawi"},
        {"audio_filepath": "a.wav", "duration": 0.9, "verses": ["2:255"], "reciter": "husary"},
        {"audio_filepath": "a.wav", "duration": 0.9, "text": "قُلْ هُوَ", "reciter": "husary"},
    ]
    path = folder / "train.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


def test_the_file_lists_what_was_trained_on(tmp_path: Path) -> None:
    manifest = manifest_in(tmp_path)
    training = TrainingData.from_segments(
        [clip("minshawi", "113:1"), clip("husary", "2:255"), clip("husary", text="قُلْ هُوَ")], [manifest]
    )
    assert training.to_json() == {
        "manifests": [
            {
                "path": str(manifest),
                "sha256": hashlib.sha256(manifest.read_bytes()).hexdigest(),
                "clips": 3,
                "hours": 0.00075,
            }
        ],
        "reciters": ["husary", "minshawi"],
        "verses": ["2:255", "113:1"],
        "texts": ["قل هو"],
    }
    file = tmp_path / "training_data.json"
    file.write_text(json.dumps(training.to_json()), encoding="utf-8")
    assert TrainingData.read(file) == training
    for place in (tmp_path, file, manifest):  # run folder, its file, the manifest: all say the same
        assert find_training_data(place, "diacritized") == training


def test_data_that_was_trained_on_later_is_added(tmp_path: Path) -> None:
    manifest = manifest_in(tmp_path)
    before = TrainingData.from_segments([clip("minshawi", "113:1"), clip("husary", "2:255")], [manifest])
    assert before.joined(before) == before
    manifest.write_text(manifest.read_text("utf-8") * 2, "utf-8")
    later = TrainingData.from_segments([clip("husary", "1:1"), clip("alafasy", text="قُلْ هُوَ")], [manifest])
    both = before.joined(later)
    assert both.reciters == ("alafasy", "husary", "minshawi")
    assert [str(verse) for verse in both.verses] == ["1:1", "2:255", "113:1"]
    assert both.texts == ("قل هو",)
    assert [one.clips for one in both.manifests] == [3, 6], "the same path with other contents"


def test_a_file_without_it_is_refused(tmp_path: Path) -> None:
    with pytest.raises(QuranAsrError, match="no such file"):
        TrainingData.read(tmp_path / "training_data.json")
    with pytest.raises(QuranAsrError, match="so it is not a run"):
        find_training_data(tmp_path, "letters")
    with pytest.raises(QuranAsrError, match="no such manifest"):
        find_training_data(tmp_path / "train.jsonl", "letters")
    for text in ("{", "[]", "{}", '{"manifests": [], "reciters": [], "verses": ["x"], "texts": []}', "3"):
        (tmp_path / "training_data.json").write_text(text)
        with pytest.raises(QuranAsrError, match="does not record the training data of a model"):
            find_training_data(tmp_path, "letters")
