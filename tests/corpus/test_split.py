"""Splits: whole reciters or whole wordings on one side, and an honest word on what the sides share."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quran_asr import audio
from quran_asr.corpus.manifest import read_lines, write_manifest
from quran_asr.corpus.split import split
from quran_asr.errors import QuranAsrError
from quran_asr.records import VerseRef
from quran_asr.text.passages import parse_range, twins
from quran_asr.text.quran import load_quran

RECITERS = ("alafasy", "husary", "minshawi", "salama")


def corpus(folder: Path, *others: dict) -> Path:
    """Four reciters who recite surahs 1, 55 (31 equal verses) and 112; then the given lines."""
    lines = []
    for reciter in RECITERS:
        for ref in [ref for surah in ("1", "55", "112") for ref in parse_range(surah)]:
            path = folder / reciter / f"{ref.surah:03}{ref.ayah:03}.wav"
            lines.append(
                {"audio_filepath": str(path), "duration": 2.0, "verses": [str(ref)], "reciter": reciter}
            )
    for other in others:
        path = folder / other.pop("file")
        lines.append({"audio_filepath": str(path), "duration": 2.0, **other})
    for line in lines:
        Path(line["audio_filepath"]).parent.mkdir(parents=True, exist_ok=True)
        if not Path(line["audio_filepath"]).exists():
            Path(line["audio_filepath"]).write_bytes(b"not looked at")
    write_manifest(folder / "all.jsonl", lines)
    return folder / "all.jsonl"


def side(folder: Path, name: str) -> list[dict]:
    return read_lines(folder / f"{name}.jsonl")


def test_by_reciter_whole_reciters_are_held_out(tmp_path):
    report = split(corpus(tmp_path), tmp_path / "out", by="reciter", hold_out=["husary"], test=["salama"])
    for name, reciters in (
        ("train", {"alafasy", "minshawi"}),
        ("validation", {"husary"}),
        ("test", {"salama"}),
    ):
        assert {line["reciter"] for line in side(tmp_path / "out", name)} == reciters
        assert set(report.splits[name].reciters) == reciters
    assert sum(part.clips for part in report.splits.values()) == 4 * (7 + 78 + 4)
    assert (report.splits["validation"].seen_reciters, report.splits["validation"].seen_texts) == (0.0, 1.0)
    assert report.splits["validation"].hours == pytest.approx(89 * 2 / 3600)


def test_by_verse_a_wording_is_held_out_with_its_twins_and_of_all_reciters(tmp_path):
    report = split(corpus(tmp_path), tmp_path / "out", by="verse", hold_out=["55:13", "112:1-2"])
    held_out = {ref for line in side(tmp_path / "out", "validation") for ref in line["verses"]}
    equal = {"55:13", *(str(ref) for ref in twins(load_quran("letters"), VerseRef(55, 13)))}
    assert len(equal) == 31
    assert held_out == equal | {"112:1", "112:2"}
    assert report.splits["validation"].clips == 4 * 33
    assert report.splits["validation"].texts == 3
    assert (report.splits["validation"].seen_reciters, report.splits["validation"].seen_texts) == (1.0, 0.0)


def test_joined_verses_parts_of_verses_and_plain_texts_go_with_their_words(tmp_path):
    manifest = corpus(
        tmp_path,
        {"file": "x/long.wav", "verses": ["112:2", "112:3"], "reciter": "x"},
        {"file": "x/part.wav", "text": "كفوا أحد", "part_of": ["112:4"], "reciter": "x"},
        {"file": "x/plain.wav", "text": "قُلْ هُوَ اللَّهُ أَحَدٌ", "reciter": "x"},
        {"file": "x/basmala.wav", "text": "بِسْمِ اللَّهِ الرَّحْمَٰنِ الرَّحِيمِ", "verses": []},
    )
    split(manifest, tmp_path / "out", by="verse", hold_out=["112:2", "112:4", "112:1", "1:1"])
    training = side(tmp_path / "out", "train")
    assert not any("112:3" in line.get("verses", []) for line in training)  # joined to 112:2 by one clip
    names = {Path(line["audio_filepath"]).name for line in side(tmp_path / "out", "validation")}
    assert names == {"long.wav", "part.wav", "plain.wav", "basmala.wav"} | {
        f"112{ayah:03}.wav" for ayah in range(1, 5)
    } | {"001001.wav"}


def test_one_recording_is_never_on_two_sides(tmp_path):
    pieces = [
        {"file": "x/112.wav", "verses": [f"112:{ayah}"], "offset": 2.0 * ayah, "reciter": "x"}
        for ayah in range(1, 5)
    ]
    split(corpus(tmp_path, *pieces), tmp_path / "out", by="verse", hold_out=["112:1"])
    held_out = {ref for line in side(tmp_path / "out", "validation") for ref in line["verses"]}
    assert held_out == {"112:1", "112:2", "112:3", "112:4"}

    pieces = [{"file": "x/112.wav", "verses": ["112:1"], "reciter": name} for name in ("x", "y")]
    with pytest.raises(QuranAsrError, match="is listed under two reciters, x and y"):
        split(corpus(tmp_path, *pieces), tmp_path / "out", by="reciter", hold_out=["x"])


@pytest.mark.slow
@settings(max_examples=25)
@given(
    by=st.sampled_from(["reciter", "verse"]),
    share=st.floats(0.01, 0.4),
    seed=st.integers(0, 2**32),
    test=st.booleans(),
)
def test_whatever_is_drawn_every_clip_is_on_one_side_and_nothing_leaks(
    tmp_path_factory, by, share, seed, test
):
    folder = tmp_path_factory.getbasetemp() / "drawn"
    manifest = folder / "all.jsonl"
    if not manifest.exists():
        corpus(folder)
    split(manifest, folder / "out", by=by, share=share, seed=seed, test=[] if test else None)
    names = ["train", "validation", *(["test"] if test else [])]
    splits = [side(folder / "out", name) for name in names]
    quran = load_quran("letters")
    together = [line["audio_filepath"] for lines in splits for line in lines]
    assert sorted(together) == sorted(line["audio_filepath"] for line in read_lines(manifest))
    axis = [
        {
            line["reciter"] if by == "reciter" else quran.verse(VerseRef.parse(line["verses"][0]))
            for line in lines
        }
        for lines in splits
    ]
    for number, one in enumerate(axis):
        assert one
        for other in axis[number + 1 :]:
            assert not one & other
    if by == "verse":
        assert len(splits[1]) >= share * len(together)


def test_a_seed_draws_the_same_and_another_seed_others(tmp_path):
    manifest = corpus(tmp_path)
    drawn = {}
    for name, seed in (("one", 1), ("two", 1), ("other", 2)):
        split(manifest, tmp_path / name, by="verse", seed=seed, share=0.1)
        drawn[name] = (tmp_path / name / "validation.jsonl").read_bytes()
    assert drawn["one"] == drawn["two"] != drawn["other"]


def test_what_cannot_be_split_is_refused_and_nothing_is_written(tmp_path):
    manifest = corpus(tmp_path)

    def refuse(match: str, **wanted) -> QuranAsrError:
        with pytest.raises(QuranAsrError, match=match) as refused:
            split(manifest, tmp_path / "out", **wanted)
        assert not (tmp_path / "out").exists()
        return refused.value

    assert "alafasy, husary" in refuse("no reciter `sudais`", by="reciter", hold_out=["sudais"]).remedy
    refuse(r"no clip of 113", by="verse", hold_out=["113"])
    refuse(r"names no verses", by="verse", hold_out=["husary"])
    refuse("requested for validation and for test", by="reciter", hold_out=["husary"], test=["husary"])
    refuse("nothing is left for train", by="reciter", hold_out=RECITERS)
    refuse("share of 1.5", by="verse", share=1.5)
    lines = [line for line in read_lines(manifest) if line["reciter"] == "husary"]
    write_manifest(manifest, lines)
    refuse("nothing is left for validation", by="reciter")
    write_manifest(manifest, [{**lines[0], "reciter": ""}, *lines[1:]])
    refuse("1 of 89 clips name no reciter", by="reciter")


def test_the_new_manifests_find_their_recordings_and_say_where_they_are_from(tmp_path):
    for name in ("a", "b"):
        audio.write(tmp_path / "in" / name / "112001.wav", np.zeros(1_600, np.float32))
    lines = [
        {"audio_filepath": str(tmp_path / "in" / name / "112001.wav"), "duration": 0.1, "verses": ["112:1"]}
        | {"reciter": name, "kept": name}
        for name in ("a", "b")
    ]
    write_manifest(tmp_path / "in" / "all.jsonl", lines)
    split(tmp_path / "in" / "all.jsonl", tmp_path / "far" / "away", by="reciter", hold_out=["a"], seed=7)
    [line] = side(tmp_path / "far" / "away", "validation")
    assert line["kept"] == "a"
    assert len(audio.read(line["audio_filepath"])) == 1_600
    written = (tmp_path / "far" / "away" / "validation.jsonl").read_text()
    assert json.loads(written)["audio_filepath"] == "../../in/a/112001.wav"
    sidecar = json.loads((tmp_path / "far" / "away" / "validation.jsonl.meta.json").read_text())
    assert (sidecar["from"], sidecar["seed"], sidecar["split"]) == ("all.jsonl", 7, "validation")


def test_an_old_test_set_beside_a_new_split_is_noticed(tmp_path):
    manifest = corpus(tmp_path)
    assert split(manifest, tmp_path / "out", by="verse", test=[]).stale == ()
    assert split(manifest, tmp_path / "out", by="verse", seed=9).stale == (tmp_path / "out" / "test.jsonl",)


def test_a_split_never_replaces_the_manifest_that_is_split(tmp_path):
    manifest = corpus(tmp_path)
    inside = manifest.rename(tmp_path / "train.jsonl")
    before = inside.read_bytes()
    with pytest.raises(QuranAsrError, match="would replace the manifest"):
        split(inside, tmp_path, by="verse")
    assert inside.read_bytes() == before and not (tmp_path / "validation.jsonl").exists()
