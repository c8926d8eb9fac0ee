"""Folders of recordings: what each file is taken for, and that nothing is dropped in silence."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import soundfile

from quran_asr import audio
from quran_asr.corpus.manifest import read_manifest
from quran_asr.corpus.scan import ISTIADHA, Dropped, Ignored, Recording, ScanReport, classify, scan
from quran_asr.errors import QuranAsrError
from quran_asr.records import VerseRef
from quran_asr.text.quran import load_quran

NOISE = np.random.default_rng(0).normal(0, 0.1, 60 * 16_000).astype(np.float32)


def record(path: Path, seconds: float = 1.0, seed: int = 0) -> Path:
    """A recording in the format that the name asks for."""
    path.parent.mkdir(parents=True, exist_ok=True)
    samples = np.roll(NOISE, seed * 1_000)[: round(seconds * 16_000)]
    container, subtype = {
        ".mp3": ("MP3", "MPEG_LAYER_III"),
        ".opus": ("OGG", "OPUS"),
        ".ogg": ("OGG", "VORBIS"),
        ".wav": ("WAV", "PCM_16"),
        ".flac": ("FLAC", "PCM_16"),
    }[path.suffix.lower()]
    soundfile.write(path, samples, 16_000, format=container, subtype=subtype)
    return path


def dropped(report: ScanReport) -> dict[str, str]:
    return {drop.path.name: drop.reason for drop in report.dropped}


def test_every_format_of_several_reciters_becomes_a_line(tmp_path):
    for number, name in enumerate(
        ("001001.mp3", "001002.wav", "001003.FLAC", "001004.ogg", "001005.opus"), 1
    ):
        record(tmp_path / "all" / "Alafasy_128kbps" / name, seconds=number)
    stereo = np.stack([NOISE[:44_100], NOISE[:44_100]], 1)
    (tmp_path / "all" / "Husary").mkdir()
    soundfile.write(tmp_path / "all" / "Husary" / "114006.mp3", stereo, 44_100)
    report = scan([tmp_path / "all"], tmp_path / "data" / "all.jsonl")
    assert (report.clips, report.verses, report.dropped) == (6, 6, ())
    assert report.hours * 3600 == pytest.approx(1 + 2 + 3 + 4 + 5 + 1, abs=0.1)
    assert {name: clips for name, (clips, _) in report.reciters.items()} == {"Alafasy": 5, "Husary": 1}
    segments = read_manifest(tmp_path / "data" / "all.jsonl", "letters")
    assert [segment.verses[0] for segment in segments] == [VerseRef(1, ayah) for ayah in range(1, 6)] + [
        VerseRef(114, 6)
    ]
    for segment in segments:
        assert segment.text == load_quran("letters").verse(segment.verses[0])
        assert len(audio.read(segment.audio, segment.offset, segment.duration)) == pytest.approx(
            segment.duration * 16_000, abs=1_600
        )


def test_broken_files_are_listed_with_their_reasons_and_the_rest_is_kept(tmp_path):
    folder = tmp_path / "reciter"
    record(folder / "112001.mp3")
    (folder / "112002.mp3").write_bytes(b"<html><body>404</body></html>")
    (folder / "112003.wav").write_bytes(b"")
    flac = record(folder / "112004.flac", 5.0)
    flac.write_bytes(flac.read_bytes()[:50_000])
    record(folder / "002287.wav")
    record(folder / "115001.wav")
    record(folder / "surah2.wav")
    (folder / "113001.m4a").write_bytes(b"\x00\x00\x00\x20ftypM4A " + bytes(100))
    (folder / "000_versebyverse.zip").write_bytes(b"PK\x03\x04")
    (folder / "readme.txt").write_text("hello")
    (folder / ".DS_Store").write_text("")
    report = scan([folder], tmp_path / "all.jsonl")
    assert report.clips == 1
    reasons = dropped(report)
    assert reasons == {
        "112002.mp3": "a web page, not audio",
        "112003.wav": "an empty file",
        "112004.flac": reasons["112004.flac"],
        "002287.wav": "no such verse",
        "115001.wav": "no such verse",
        "surah2.wav": "no verse in its name",
        "113001.m4a": "MPEG-4 audio",
    }
    assert "truncated" in reasons["112004.flac"]
    assert report.dropped_by_reason["no such verse"] == 2
    assert report.ignored == {"archive": 1, "other file": 1}
    sidecar = json.loads((tmp_path / "all.jsonl.meta.json").read_text())
    assert len(sidecar["dropped"]) == 7
    assert "surah 2 has 286 verses" in next(
        drop["detail"] for drop in sidecar["dropped"] if drop["file"].endswith("002287.wav")
    )
    assert (sidecar["edition"], sidecar["spelling"]) == ("simple", "diacritized")


def test_formulas_before_a_surah_are_recognized(tmp_path):
    folder = tmp_path / "reciter"
    for seed, name in enumerate(
        ("audhubillah.mp3", "Bismillah.MP3", "002000.mp3", "001001.mp3", "009000.mp3")
    ):
        record(folder / name, seed=seed)
    report = scan([folder], tmp_path / "all.jsonl")
    assert report.kinds == {"istiadha": 1, "basmala": 2, "verse": 1}
    assert dropped(report) == {"009000.mp3": "no such verse"}  # surah 9 has no basmala
    lines = [json.loads(line) for line in (tmp_path / "all.jsonl").read_text().splitlines()]
    formulas = {Path(line["audio_filepath"]).name: line for line in lines if not line["verses"]}
    assert {name: line["kind"] for name, line in formulas.items()} == {
        "audhubillah.mp3": "istiadha",
        "Bismillah.MP3": "basmala",
        "002000.mp3": "basmala",
    }
    texts = {
        Path(segment.audio).name: segment.text for segment in read_manifest(tmp_path / "all.jsonl", "letters")
    }
    assert texts["audhubillah.mp3"] == "أعوذ بالله من الشيطان الرجيم"
    assert texts["Bismillah.MP3"] == texts["002000.mp3"] == texts["001001.mp3"] == "بسم الله الرحمن الرحيم"


def test_the_same_basmala_before_many_surahs_is_kept_once(tmp_path):
    first = record(tmp_path / "reciter" / "002000.mp3")
    for surah in range(3, 8):
        (tmp_path / "reciter" / f"{surah:03}000.mp3").write_bytes(first.read_bytes())
    record(tmp_path / "reciter" / "010000.mp3", seed=1)
    report = scan([tmp_path / "reciter"], tmp_path / "all.jsonl")
    assert report.kinds == {"basmala": 2}
    assert report.dropped_by_reason == {"a copy": 5}


def test_a_verse_in_several_qualities_and_formats_is_kept_once_and_the_better_one(tmp_path):
    record(tmp_path / "Alafasy_64kbps" / "112001.mp3", 1.0)
    better = record(tmp_path / "Alafasy_128kbps" / "112001.wav", 1.0)
    broken = tmp_path / "Alafasy" / "192kbps" / "112001.mp3"
    broken.parent.mkdir(parents=True)
    broken.write_bytes(b"<html>" + bytes(200_000))  # larger, but no recording
    report = scan([tmp_path], tmp_path / "all.jsonl")
    assert report.clips == 1
    assert list(report.reciters) == ["Alafasy"]
    assert read_manifest(tmp_path / "all.jsonl", "letters")[0].audio == str(better)
    assert report.dropped_by_reason == {"a copy": 1, "a web page, not audio": 1}


def test_clips_over_the_limit_are_kept_counted_named_and_weighed(tmp_path):
    record(tmp_path / "reciter" / "112001.wav", 9.0)
    record(tmp_path / "reciter" / "112002.wav", 27.0)
    report = scan([tmp_path / "reciter"], tmp_path / "all.jsonl", max_duration=20)
    assert report.clips == 2
    assert [(clip.path.name, clip.seconds) for clip in report.over_long] == [("112002.wav", 27.0)]
    assert report.over_long_hours / report.hours == pytest.approx(0.75)


def test_damage_inside_is_found_when_asked_to_decode(tmp_path):
    path = record(tmp_path / "reciter" / "112001.flac", 5.0)
    record(tmp_path / "reciter" / "112002.flac", 5.0)
    content = bytearray(path.read_bytes())
    content[70_000:70_400] = bytes(400)
    path.write_bytes(content)
    assert scan([tmp_path / "reciter"], tmp_path / "all.jsonl").clips == 2
    report = scan([tmp_path / "reciter"], tmp_path / "all.jsonl", decode=True)
    assert report.clips == 1
    assert "112001.flac" in dropped(report)


def test_scanning_twice_gives_the_same_bytes_on_any_executor(tmp_path):
    for surah in (112, 113, 114):
        for ayah in range(1, 5):
            record(tmp_path / "in" / f"reciter-{surah}" / f"{surah}{ayah:03}.wav", 0.2)
    (tmp_path / "in" / "reciter-112" / "112003.wav").write_bytes(b"")
    done: list[tuple[int, int]] = []
    scan([tmp_path / "in"], tmp_path / "all.jsonl", on_progress=lambda *step: done.append(step))
    first = [(tmp_path / name).read_bytes() for name in ("all.jsonl", "all.jsonl.meta.json")]
    assert done[-1] == (12, 12)
    with ThreadPoolExecutor(3) as threads:
        scan([tmp_path / "in"], tmp_path / "all.jsonl", executor=threads)
    assert [(tmp_path / name).read_bytes() for name in ("all.jsonl", "all.jsonl.meta.json")] == first


def test_linked_folders_are_followed_and_circles_end(tmp_path):
    record(tmp_path / "elsewhere" / "112001.wav")
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "back").symlink_to(tmp_path / "in")
    report = scan([tmp_path / "in"], tmp_path / "all.jsonl")
    assert (report.clips, report.dropped) == (1, ())
    assert list(report.reciters) == ["linked"]


def test_a_folder_inside_another_is_scanned_once(tmp_path):
    record(tmp_path / "all" / "good" / "112001.wav")
    folders = [tmp_path / "all", tmp_path / "all" / "good", tmp_path / "all"]
    report = scan(folders, tmp_path / "all.jsonl")
    assert (report.clips, report.dropped) == (1, ())


def test_another_file_is_refused_before_the_recordings_are_read(tmp_path):
    notes = tmp_path / "notes.txt"
    notes.write_text("my notes\n")
    with pytest.raises(QuranAsrError, match="not a manifest"):
        scan([tmp_path / "no such folder"], notes)


def test_nothing_usable_writes_nothing_and_leaves_the_old_manifest(tmp_path):
    record(tmp_path / "good" / "112001.wav")
    scan([tmp_path / "good"], tmp_path / "all.jsonl")
    old = (tmp_path / "all.jsonl").read_bytes()
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "112001.wav").write_bytes(b"")
    assert scan([tmp_path / "bad"], tmp_path / "all.jsonl").clips == 0
    assert (tmp_path / "all.jsonl").read_bytes() == old
    with pytest.raises(QuranAsrError, match="no such folder"):
        scan([tmp_path / "nowhere"], tmp_path / "all.jsonl")
    with pytest.raises(QuranAsrError, match="a file, not a folder"):
        scan([tmp_path / "all.jsonl"], tmp_path / "all.jsonl")


@pytest.mark.parametrize(
    ("path", "reciter"),
    [
        ("Alafasy_128kbps/002255.mp3", "Alafasy"),
        ("Alafasy/128kbps/002255.mp3", "Alafasy"),
        ("Alafasy/mp3/002/002255.mp3", "Alafasy"),
        ("Husary_128kbps_Mujawwad/002255.mp3", "Husary_Mujawwad"),
        ("ahmed_ibn_ali_al_ajamy_128kbps/002255.mp3", "ahmed_ibn_ali_al_ajamy"),
        ("yasser-salama/002255.opus", "yasser-salama"),
        ("002255.mp3", "scanned"),
        ("64kbps/002255.mp3", "scanned"),
    ],
)
def test_the_reciter_is_the_nearest_folder_that_names_somebody(tmp_path, path, reciter):
    recording = classify(tmp_path / "scanned" / path, tmp_path / "scanned")
    assert isinstance(recording, Recording)
    assert (recording.reciter, recording.verses) == (reciter, (VerseRef(2, 255),))


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("warsh/warsh_ibrahim_aldosary_128kbps/002255.mp3", "another riwaya than Hafs"),
        ("Qaloon-Hudhaify/002255.mp3", "another riwaya than Hafs"),
        ("translations/urdu_shamshad_ali_khan_46kbps/002255.mp3", "a translation"),
        ("English/Sahih_Intnl_Ibrahim_Walk_192kbps/002255.mp3", "a translation"),
        ("Alafasy/2255.mp3", "no verse in its name"),
        ("Alafasy/٠٠٢٢٥٥.mp3", "no verse in its name"),
        ("Alafasy/002255 (1).mp3", "no verse in its name"),
        ("Alafasy/000001.mp3", "no such verse"),
        ("Alafasy/001000.mp3", "no such verse"),
    ],
)
def test_other_words_are_not_taken_for_a_verse(tmp_path, path, reason):
    drop = classify(tmp_path / path, tmp_path)
    assert isinstance(drop, Dropped)
    assert drop.reason == reason


def test_names_that_only_sound_like_it_are_reciters(tmp_path):
    assert isinstance(classify(tmp_path / "Warshaba" / "002255.mp3", tmp_path), Recording)
    assert isinstance(classify(tmp_path / "index.jsonl", tmp_path), Ignored)


def test_the_istiadha_is_spelled_as_the_quran_spells_these_words():
    words = " ".join(load_quran("diacritized").verses.values()).split()
    assert set(ISTIADHA.split()) <= set(words)


@pytest.mark.slow
@pytest.mark.data
def test_real_recordings_are_scanned_whole(recordings, tmp_path):
    report = scan([recordings / "recitations"], tmp_path / "all.jsonl")
    index = [json.loads(line) for line in (recordings / "recitations" / "index.jsonl").open()]
    assert (report.clips, report.dropped) == (len(index), ())
    by_place = {(line["reciter"], tuple(line["verses"])): line["duration"] for line in index}
    lines = [json.loads(line) for line in (tmp_path / "all.jsonl").open()]
    assert {(line["reciter"], tuple(line["verses"])) for line in lines} == set(by_place)
    for line in lines:
        assert line["duration"] == pytest.approx(by_place[line["reciter"], tuple(line["verses"])], abs=0.01)
