"""Manifests: what is read from them, what is refused and where, and that a failed write loses nothing."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import resource
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quran_asr import audio
from quran_asr.corpus.manifest import collect_lines, moved_path, read_lines, read_manifest, write_manifest
from quran_asr.corpus.sources import find_units
from quran_asr.errors import QuranAsrError
from quran_asr.records import VerseRef
from quran_asr.text.quran import load_quran

LETTERS = "قل هو الله أحد"


@pytest.fixture
def clip(tmp_path) -> Path:
    audio.write(tmp_path / "clip.wav", np.zeros(16_000, np.float32))
    return tmp_path / "clip.wav"


def manifest(clip: Path, *lines: dict | str | bytes) -> Path:
    """A manifest beside the clip; a dict is completed to a good line, anything else is written as it is."""
    path = clip.parent / "manifest.jsonl"
    with path.open("wb") as file:
        for line in lines:
            if isinstance(line, dict):
                line = json.dumps({"audio_filepath": "clip.wav", "duration": 1.0, **line}, ensure_ascii=False)
            file.write((line if isinstance(line, bytes) else line.encode()) + b"\n")
    return path


def test_text_is_made_from_the_verses_where_it_is_missing(clip):
    path = manifest(clip, {"verses": ["112:1", "112:2"], "reciter": "somebody", "offset": 0.25})
    [segment] = read_manifest(path, "letters")
    assert segment.text == "قل هو الله أحد الله الصمد"
    assert segment.verses == (VerseRef(112, 1), VerseRef(112, 2))
    assert (segment.audio, segment.offset, segment.duration) == (str(clip), 0.25, 1.0)
    assert (segment.reciter, segment.also_accept) == ("somebody", ())
    [segment] = read_manifest(path, "uthmani")
    assert segment.text == load_quran("uthmani").text([VerseRef(112, 1), VerseRef(112, 2)])


def test_a_plain_nemo_manifest_works(clip):
    path = manifest(clip, {"text": "قُلْ هُوَ اللَّهُ أَحَدٌ", "lang": "ar"}, "", {"text": LETTERS, "offset": None})
    first, second = read_manifest(path, "letters")
    assert first.text == second.text == LETTERS
    assert (first.verses, first.reciter, second.offset) == ((), "", 0.0)


@pytest.mark.parametrize("written", ["uthmani", "diacritized", "letters"])
@pytest.mark.parametrize("asked", ["uthmani", "diacritized", "letters"])
def test_the_text_of_the_verses_in_any_spelling_becomes_the_editions(clip, written, asked):
    refs = [VerseRef(1, 4), VerseRef(2, 255)]  # the editions write both with different letters
    path = manifest(clip, {"text": load_quran(written).text(refs), "verses": [str(ref) for ref in refs]})
    assert read_manifest(path, asked)[0].text == load_quran(asked).text(refs)


def test_a_basmala_glued_to_the_first_verse_is_taken_off(clip):
    glued = f"{load_quran('uthmani').basmala(112)} {load_quran('uthmani').verse(VerseRef(112, 1))}"
    with_verse, text_alone = read_manifest(
        manifest(clip, {"text": glued, "verses": ["112:1"]}, {"text": glued}), "letters"
    )
    assert with_verse.text == LETTERS
    assert text_alone.text.startswith("بسم الله")  # nobody knows whether it is recited


def test_another_text_than_that_of_the_verses_is_the_reference(clip):
    path = manifest(clip, {"text": "هُوَ اللَّهُ", "verses": ["112:1"]})
    assert read_manifest(path, "letters")[0].text == "هو الله"


def test_other_answers_count_as_right(clip):
    path = manifest(clip, {"verses": ["112:1"], "also_accept": [["112:2"], ["112:3", "112:4"]]})
    quran = load_quran("letters")
    assert read_manifest(path, "letters")[0].also_accept == (
        quran.verse(VerseRef(112, 2)),
        quran.text([VerseRef(112, 3), VerseRef(112, 4)]),
    )


GOOD = {"verses": ["112:1"]}
BAD_LINES = {
    "torn": ('{"audio_filepath": "clip.wav", "dura', "torn line"),
    "no JSON": ("clip.wav 1.0 }", "not JSON"),
    "garbage": ("garbage", "not JSON: "),
    "bytes of zero": (b"\0" * 64, "not JSON: "),
    "a list": ("[1, 2]", "not a JSON object"),
    "latin-1": (b'{"text": "\xe9"}', "not UTF-8"),
    "nested": ("[" * 100_000, "not JSON"),
    "long number": ('{"duration": ' + "9" * 5_000 + "}", "not JSON"),
    "NaN": ('{"audio_filepath": "clip.wav", "duration": NaN, "verses": ["112:1"]}', "NaN is not a number"),
    "no path": ({"audio_filepath": None, **GOOD}, "`audio_filepath` is missing"),
    "path of zero bytes": ({"audio_filepath": "a\0b", **GOOD}, "`audio_filepath` is missing or no path"),
    "missing recording": ({"audio_filepath": "other.wav", **GOOD}, "no recording `other.wav`"),
    "a folder": ({"audio_filepath": ".", **GOOD}, "no recording"),
    "no duration": ({"duration": None, **GOOD}, "`duration` is missing"),
    "zero": ({"duration": 0, **GOOD}, "`duration` is 0"),
    "negative": ({"duration": -1.5, **GOOD}, "`duration` is -1.5"),
    "milliseconds": ({"duration": 2e8, **GOOD}, "not between 0 s and a day"),
    "huge": ({"duration": 10**400, **GOOD}, "not between 0 s and a day"),
    "infinite": ('{"audio_filepath": "clip.wav", "duration": 1e999, "verses": ["112:1"]}', "is inf"),
    "text for a number": ({"duration": "1.0", **GOOD}, "`duration` is not a number"),
    "truth for a number": ({"offset": True, **GOOD}, "`offset` is not a number"),
    "negative offset": ({"offset": -0.1, **GOOD}, "`offset` is -0.1"),
    "no words": ({}, "neither `text` nor `verses`"),
    "blank words": ({"text": "  ", "verses": []}, "neither `text` nor `verses`"),
    "latin words": ({"text": "qul huwa"}, "no Arabic letters"),
    "number for words": ({"text": 5}, "`text` must be a string"),
    "no such verse": ({"verses": ["2:287"]}, "there is no verse 2:287"),
    "no such surah": ({"verses": ["115:1"]}, "there is no surah 115"),
    "no verse": ({"verses": ["al-ikhlas"]}, "`al-ikhlas` is not a verse"),
    "one verse alone": ({"verses": "112:1"}, "`verses` is not a list"),
    "numbers for verses": ({"verses": [[112, 1]]}, "`verses` is not a list"),
    "number for a reciter": ({"reciter": 7, **GOOD}, "`reciter` must be a string"),
    "flat answers": ({"also_accept": ["4:44"], **GOOD}, "`also_accept` is not a list"),
    "wrong answer": ({"also_accept": [["4:444"]], **GOOD}, "there is no verse 4:444"),
}


@pytest.mark.parametrize("kind", BAD_LINES)
def test_a_bad_line_is_named_with_its_number(clip, kind):
    line, reason = BAD_LINES[kind]
    path = manifest(clip, GOOD, "", line, GOOD)
    for read in (lambda: read_manifest(path, "letters"), lambda: read_lines(path)):
        with pytest.raises(QuranAsrError) as refused:
            read()
        assert refused.value.where == f"{path}:3"
        assert reason in refused.value.what
        assert "\n" not in refused.value.what
        assert len(refused.value.what) < 200

    segments, findings = read_manifest(path, "letters", on_error="collect")
    assert [segment.text for segment in segments] == [LETTERS, LETTERS]
    assert [(finding.severity, finding.where) for finding in findings] == [("warning", f"{path}:3")]


def test_a_manifest_without_a_good_line_is_an_error_even_when_collecting(clip):
    with pytest.raises(QuranAsrError, match=r"no usable line among 2, the first: .*no Arabic letters"):
        read_manifest(manifest(clip, {"text": "a"}, {"text": "b"}), "letters", on_error="collect")
    for lines in ([], ["", "  "]):
        with pytest.raises(QuranAsrError, match="no usable line among 0"):
            read_manifest(manifest(clip, *lines), "letters", on_error="collect")


def test_what_is_no_manifest_is_reported(clip, tmp_path):
    for path, reason in (
        (tmp_path, "a folder"),
        (tmp_path / "missing.jsonl", "no such manifest"),
        (clip, "not UTF-8|not JSON|more than 1 MB"),
    ):
        with pytest.raises(QuranAsrError, match=reason):
            read_manifest(path, "letters")
    (tmp_path / "endless").write_bytes(b"{" * 3_000_000)
    with pytest.raises(QuranAsrError, match="more than 1 MB"):
        read_manifest(tmp_path / "endless", "letters")


def test_an_unknown_spelling_is_the_callers_mistake_and_not_every_lines(clip):
    with pytest.raises(QuranAsrError, match="no spelling `phonemes`"):
        read_manifest(manifest(clip, GOOD), "phonemes", on_error="collect")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
keys = st.sampled_from(["audio_filepath", "offset", "duration", "text", "verses", "reciter", "also_accept"])


@given(st.dictionaries(keys, json_values))
def test_any_values_are_read_or_refused_in_one_line(tmp_path_factory, values):
    folder = tmp_path_factory.getbasetemp() / "any"
    if not folder.exists():
        audio.write(folder / "clip.wav", np.zeros(1_600, np.float32))
    path = folder / "manifest.jsonl"
    path.write_text(
        json.dumps({"audio_filepath": "clip.wav", "duration": 1.0, "verses": ["112:1"], **values}) + "\n"
    )
    try:
        [segment] = read_manifest(path, "letters")
    except QuranAsrError as refused:
        assert refused.where == f"{path}:1"
        assert "\n" not in refused.what
    else:
        assert segment.text
        assert segment.duration > 0 <= segment.offset


def test_unknown_keys_survive_and_paths_are_found_from_the_new_place(clip, tmp_path, monkeypatch):
    path = manifest(clip, {**GOOD, "mood": {"calm": [1, 2]}, "riwaya": "hafs"})
    monkeypatch.chdir(tmp_path)
    write_manifest("deep/er/copy.jsonl", read_lines(path.name))
    copy = tmp_path / "deep" / "er" / "copy.jsonl"
    written = json.loads(copy.read_text())
    assert written["audio_filepath"] == "../../clip.wav"
    assert written["mood"] == {"calm": [1, 2]}
    assert read_manifest(copy, "letters") == read_manifest(path, "letters")
    monkeypatch.chdir("/")  # the folder that a manifest was written from does not matter
    assert read_manifest(copy, "letters")[0].audio == str(clip)


def test_a_recording_below_the_manifest_keeps_a_path_that_moves_with_it(clip, tmp_path):
    write_manifest(tmp_path / "all.jsonl", [{"audio_filepath": str(clip), "duration": 1.0, **GOOD}])
    moved = tmp_path.with_name("moved")
    tmp_path.rename(moved)
    assert read_manifest(moved / "all.jsonl", "letters")[0].audio == str(moved / "clip.wav")


def test_paths_are_found_through_linked_folders(clip, tmp_path):
    real = tmp_path / "disks" / "one" / "data"
    real.mkdir(parents=True)
    (tmp_path / "data").symlink_to(real)
    write_manifest(tmp_path / "data" / "all.jsonl", [{"audio_filepath": str(clip), "duration": 1.0, **GOOD}])
    for manifest_path in (tmp_path / "data" / "all.jsonl", real / "all.jsonl"):
        assert read_manifest(manifest_path, "letters")[0].audio == str(clip)


def test_the_sidecar_says_what_the_manifest_holds(clip, tmp_path):
    lines = [{"audio_filepath": str(clip), "duration": 1800.0, **GOOD}] * 3
    write_manifest(tmp_path / "all.jsonl", lines, {"edition": "simple"})
    sidecar = json.loads((tmp_path / "all.jsonl.meta.json").read_text())
    assert (sidecar["clips"], sidecar["hours"], sidecar["edition"]) == (3, 1.5, "simple")
    assert sidecar["version"]


def test_a_disk_that_fills_up_leaves_the_old_manifest(clip, tmp_path):
    line = {"audio_filepath": str(clip), "duration": 1.0, **GOOD}
    path = tmp_path / "all.jsonl"
    write_manifest(path, [line])
    old = path.read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))  # the write really fails half-way
    try:
        with pytest.raises(OSError, match="too large"):
            write_manifest(path, [line] * 1_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_bytes() == old
    assert {file.name for file in tmp_path.iterdir()} == {"clip.wav", "all.jsonl", "all.jsonl.meta.json"}


def test_a_disk_that_is_full_at_the_last_moment_leaves_the_old_manifest(clip, tmp_path, monkeypatch):
    line = {"audio_filepath": str(clip), "duration": 1.0, **GOOD}
    path = tmp_path / "all.jsonl"
    write_manifest(path, [line])
    old = path.read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_manifest(path, [line] * 2)
    assert path.read_bytes() == old
    assert len(list(tmp_path.iterdir())) == 3


@pytest.mark.parametrize("key", ["reciter", "text", "audio_filepath", "source", "\\udc00"])
@pytest.mark.parametrize("half", ["\\ud800", "a\\uDFFFb", "\\ude00\\ud83d"])
def test_half_a_character_is_refused_where_it_stands(tmp_path: Path, key: str, half: str) -> None:
    """No report could be written of it, and no terminal could show it."""
    line = '{"audio_filepath": "a.wav", "duration": 1, "verses": ["112:1"]}\n'
    bad = line.replace("}", f', "{key}": "{half}"}}')
    (tmp_path / "a.wav").touch()
    (tmp_path / "all.jsonl").write_text(line + bad, encoding="ascii")
    for read in (read_lines, lambda path: read_manifest(path, "letters")):
        with pytest.raises(
            QuranAsrError, match=r"all\.jsonl:2: not JSON that can be read: .*half a character"
        ):
            read(tmp_path / "all.jsonl")
    segments, findings = read_manifest(tmp_path / "all.jsonl", "letters", on_error="collect")
    assert len(segments) == len(findings) == 1


def test_recordings_that_have_moved_are_found_under_their_new_folder(tmp_path: Path) -> None:
    (tmp_path / "new" / "reciter").mkdir(parents=True)
    audio.write(tmp_path / "new" / "reciter" / "clip.wav", np.zeros(16_000, np.float32))
    line = {"audio_filepath": "/old/data/reciter/clip.wav", "duration": 1.0, "verses": ["112:1"]}
    path = tmp_path / "manifest.jsonl"
    path.write_text(json.dumps(line) + "\n")
    new = str(tmp_path / "new")
    (segment,) = read_manifest(path, "letters", moved=[("/else", "/where"), ("/old/data", new)])
    assert segment.audio == f"{new}/reciter/clip.wav"
    with pytest.raises(QuranAsrError, match="no recording"):
        read_manifest(path, "letters", moved=[("/old/dat", new)])


def test_a_manifest_replaces_manifests_and_no_other_file(clip, tmp_path):
    line = {"audio_filepath": str(clip), "duration": 1.0, "text": LETTERS}
    sound = clip.read_bytes()
    (tmp_path / "notes.txt").write_text("my notes\n")
    (tmp_path / "transcripts.jsonl").write_text(json.dumps({"audio_filepath": "a", "hypothesis": ""}) + "\n")
    for other in (clip, tmp_path / "notes.txt", tmp_path / "transcripts.jsonl"):
        with pytest.raises(QuranAsrError, match="not a manifest"):
            write_manifest(other, [line])
    assert clip.read_bytes() == sound and not (tmp_path / "clip.wav.meta.json").exists()
    plain = tmp_path / "nemo.jsonl"  # of NeMo, without a sidecar
    plain.write_text(json.dumps(line) + "\n")
    write_manifest(plain, [line, line])
    write_manifest(plain, [line])
    assert len(read_lines(plain)) == 1


def _data_below(root: Path, written: str) -> Path:
    """A manifest in `root/data` that names the recording in `root/audio` as it is written."""
    audio.write(root / "audio" / "clip.wav", np.zeros(16_000, np.float32))
    (root / "data").mkdir()
    line = {"audio_filepath": written, "duration": 1.0, "verses": ["112:1"]}
    (root / "data" / "all.jsonl").write_text(json.dumps(line) + "\n")
    return root / "data" / "all.jsonl"


@pytest.mark.parametrize("relative", [True, False])
@pytest.mark.parametrize("new", ["old/moved", "old/a/b", "new", "."])
def test_recordings_are_found_wherever_the_new_folder_lies(tmp_path: Path, relative: bool, new: str) -> None:
    """The manifest moves with them, or is that of a run that goes on for the second time."""
    old, moved = tmp_path / "old", tmp_path / new
    path = _data_below(moved, "../audio/clip.wav" if relative else f"{old}/audio/clip.wav")
    (segment,) = read_manifest(path, "letters", moved=[(str(old), str(moved))])
    assert segment.audio == f"{moved}/audio/clip.wav"
    found = moved_path(str(old / "data" / "all.jsonl"), [(str(old), str(moved))])
    assert found == str(path)
    assert moved_path(found, [(str(old), str(moved))]) == found


def test_folders_that_have_changed_places_are_found(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    path = _data_below(other, "../audio/clip.wav")
    moved = [(str(one), str(other)), (str(other), str(one))]
    assert read_manifest(path, "letters", moved=moved)[0].audio == f"{other}/audio/clip.wav"


def test_a_manifest_that_stays_finds_recordings_that_have_moved(tmp_path: Path) -> None:
    path = _data_below(tmp_path / "old", "../audio/clip.wav")
    (tmp_path / "old" / "disk").mkdir()
    (tmp_path / "old" / "audio").rename(tmp_path / "old" / "disk" / "audio")
    moved = [(str(tmp_path / "old"), str(tmp_path / "old" / "disk"))]
    assert read_manifest(path, "letters", moved=moved)[0].audio == f"{tmp_path}/old/disk/audio/clip.wav"


LINE = '{"audio_filepath": "a.wav", "duration": 1, "text": "x"}'
FOREIGN = {
    "recordings.jsonl": (
        '{"id": "r", "sources": [{"type": "file", "source": "a.wav"}], "sampling_rate": 16000}',
        "a lhotse recording manifest",
        "lhotse cut simple",
    ),
    "supervisions.jsonl": (
        '{"id": "s", "recording_id": "r", "start": 0, "duration": 1, "text": "x"}',
        "a lhotse supervision manifest",
        "lhotse cut simple",
    ),
    "metadata.jsonl": (
        '{"file_name": "a.wav", "text": "x"}',
        "an audio folder of Hugging Face",
        "corpus import",
    ),
    "metadata.csv": ("file_name,text\na.wav,x", "an audio folder of Hugging Face", "corpus import"),
    "quoted.csv": ('\ufeff"File_Name","text"\n"a.wav","x"', "a table", "`file_name`"),
    "data.list": ('{"key": "a", "wav": "a.wav", "txt": "x"}', "a list of WeNet", "rename `wav`"),
    "data.json": (
        '{"utts": {"a": {"input": [], "output": []}}}',
        "the JSON of ESPnet",
        "a line for each utterance",
    ),
    "spread-data.json": (
        '{\n    "utts": {\n        "a": {}}}',
        "the JSON of ESPnet",
        "a line for each utterance",
    ),
    "train.json": (
        '{"a": {"wav": "a.wav", "words": "x", "length": 1.0}}',
        "SpeechBrain",
        "a line for each entry",
    ),
    "spread-train.json": (
        '{\n  "a": {\n    "length": 1.0,\n "wav": "a"}}',
        "SpeechBrain",
        "a line for each entry",
    ),
    "wav.scp": ("a /data/a.wav\nb /data/b.wav", "a wav.scp of Kaldi", "lhotse kaldi import"),
    "pipes.txt": ("a sph2pipe -f wav a.sph |\n", "a wav.scp of Kaldi", "lhotse kaldi import"),
    "tabs.txt": ("a\t/data/a.flac\n", "a wav.scp of Kaldi", "lhotse kaldi import"),
    "commas.csv": ("path,sentence\na.mp3,x", "a table (CSV or TSV)", "`file_name`"),
    "semicolons.txt": ("id;audio;text\n1;a.mp3;x", "a table (CSV or TSV)", "`file_name`"),
    "strange.tsv": ("id\ttake\n1\ta.mp3", "a table (CSV or TSV)", "`file_name`"),
    "array.json": (f"[{LINE}, {LINE}]", "a JSON array", "jq -c '.[]'"),
    "spread-array.json": (f"[\n  {LINE},\n  {LINE}\n]", "a JSON array", "jq -c '.[]'"),
    "endless-array.json": (f"[{', '.join([LINE] * 30_000)}]", "a JSON array", "jq -c '.[]'"),
    "spread.json": (LINE.replace("{", "{\n").replace("}", "\n}"), "line breaks in its objects", "jq -c ."),
    "whisper.jsonl": ('{"audio": "a.wav", "sentence": "x"}', "without `audio_filepath`", "rename the key"),
    "pointer.jsonl": ("version https://git-lfs.github.com/spec/v1\n", "a Git LFS pointer", "git lfs pull"),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_the_layout_of_another_manifest_is_named(tmp_path: Path, name: str) -> None:
    content, layout, remedy = FOREIGN[name]
    path = tmp_path / name
    path.write_text(content, "utf-8")
    for read in (lambda: read_manifest(path, "letters", on_error="collect"), lambda: collect_lines(path)):
        with pytest.raises(
            QuranAsrError, match=f"this is .*{re.escape(layout)}.*, not a manifest"
        ) as refused:
            read()
        assert (refused.value.where, remedy in refused.value.remedy) == (str(path), True)
    if "corpus import" not in refused.value.remedy or "`file_name`" in refused.value.remedy:
        with pytest.raises(QuranAsrError, match=re.escape(layout)) as refused:
            find_units([path])
        assert remedy in refused.value.remedy


@pytest.mark.parametrize(
    "first", [LINE[:40], "{", "[", "clip.wav 1.0 }", "{}", '{"a": {}}', "x, y", "\0" * 99]
)
@pytest.mark.parametrize("ending", ["\n", ""])
def test_a_damaged_first_line_of_a_manifest_is_refused_in_one_line(
    clip: Path, first: str, ending: str
) -> None:
    (clip.parent / "bad.jsonl").write_text(first + ending)
    with pytest.raises(QuranAsrError) as refused:
        read_lines(clip.parent / "bad.jsonl")
    assert "\n" not in refused.value.what
    assert refused.value.remedy


def test_a_torn_first_line_does_not_hide_the_lines_after_it(clip: Path) -> None:
    segments, findings = read_manifest(manifest(clip, LINE[:40], GOOD), "letters", on_error="collect")
    assert (len(segments), len(findings)) == (1, 1)


@given(st.binary(max_size=60), st.sampled_from(["a.jsonl", "a.csv", "wav.scp", "a.parquet"]))
def test_any_beginning_of_a_file_is_refused_in_one_line(tmp_path_factory, content, name):
    path = tmp_path_factory.getbasetemp() / name
    path.write_bytes(content)
    for read in (lambda: read_lines(path), lambda: find_units([path])):
        with contextlib.suppress(QuranAsrError):
            read()
