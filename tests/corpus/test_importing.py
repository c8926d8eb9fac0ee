"""Corpora in the layouts of others: what is taken, what is dropped and why, and what stays out."""

from __future__ import annotations

import csv
import gzip
import io
import json
import tarfile
import zipfile
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from quran_asr import audio
from quran_asr.cli.main import main
from quran_asr.corpus import sources
from quran_asr.corpus.importing import ImportReport, import_corpus, look_at
from quran_asr.corpus.manifest import read_lines, read_manifest
from quran_asr.corpus.sources import find_units
from quran_asr.errors import QuranAsrError
from quran_asr.records import VerseRef
from quran_asr.text.quran import load_quran

SECOND = (0.3 * np.sin(np.arange(16_000) / 10)).astype(np.float32)
FLAC, OPUS, MP3 = audio.as_flac(SECOND), audio.as_opus(SECOND, 24), audio.as_mp3(SECOND)


def verse(place: str, spelling: str = "diacritized") -> str:
    return load_quran(spelling).verse(VerseRef.parse(place))


def imported(
    source: Path, folder: Path, columns: dict[Any, str] | None = None, **options: Any
) -> ImportReport:
    with ThreadPoolExecutor(2) as pool:
        return import_corpus(look_at(find_units([source]), columns or {}), folder, pool, **options)


def parquet_of(path: Path, rows: list[dict[str, Any]]) -> Path:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    return path


def reasons(report: ImportReport) -> dict[str, int]:
    return report.dropped_by_reason


def test_everyayah_in_parquet(tmp_path: Path) -> None:
    """The columns of tarteel-ai/everyayah: audio, duration, text, reciter."""
    rows = [
        {
            "audio": {"bytes": content, "path": "x"},
            "duration": 1.0,
            "text": verse(place, spelling),
            "reciter": "husary",
        }
        for content, place, spelling in [
            (FLAC, "112:1", "uthmani"),
            (OPUS, "2:255", "uthmani"),
            (MP3, "55:13", "diacritized"),
            (FLAC, "112:2", "letters"),
        ]
    ]
    rows.append({**rows[0], "audio": {"bytes": b"<html>404</html>", "path": "x"}})
    rows.append({**rows[0], "audio": {"bytes": None, "path": "../../etc/passwd"}})
    parquet_of(tmp_path / "in" / "data" / "train-00000.parquet", rows)
    report = imported(tmp_path / "in", tmp_path / "out")
    assert report.manifest is not None
    lines = read_lines(report.manifest)
    assert [line.get("verses") for line in lines] == [["112:1"], ["2:255"], None, ["112:2"]]
    assert [line["reciter"] for line in lines] == ["husary"] * 4
    assert [Path(line["audio_filepath"]).suffix for line in lines] == [".flac", ".opus", ".mp3", ".flac"]
    assert Path(lines[0]["audio_filepath"]).read_bytes() == FLAC
    assert reasons(report) == {"a web page, not audio": 1, "its path leads out of the corpus": 1}
    assert len(read_manifest(report.manifest, "uthmani")) == 4
    again = imported(tmp_path / "in", tmp_path / "out")
    assert (again.kept_units, again.clips) == (1, 4)


def test_crowd_labels_decide_which_rows_are_taken(tmp_path: Path) -> None:
    """The columns of RetaSy/quranic_audio_dataset: Surah and Aya as words, and a quality label."""
    rows = [
        {
            "audio": {"bytes": FLAC, "path": "x"},
            "Surah": "Al-Ikhlas",
            "Aya": verse("112:1"),
            "duration_ms": 1000,
            "final_label": label,
            "reciter_id": "7",
        }
        for label in ("correct", "in_correct", "not_related_quran", None)
    ]
    path = parquet_of(tmp_path / "train.parquet", rows)
    assert look_at(find_units([path]), {}).columns == {
        "audio": "audio",
        "text": "Aya",
        "surah": "Surah",
        "reciter": "reciter_id",
        "label": "final_label",
    }
    report = imported(path, tmp_path / "out")
    assert report.clips == report.with_verses == 1
    assert reasons(report) == {"label `in_correct`": 1, "label `not_related_quran`": 1, "no label": 1}
    assert imported(path, tmp_path / "all", {"label": ""}).clips == 4
    assert imported(path, tmp_path / "bad", labels=["in_correct"]).clips == 1


def test_surah_and_ayah_numbers_without_text(tmp_path: Path) -> None:
    rows = [{"audio": {"bytes": FLAC, "path": None}, "surah": 112, "ayah": ayah} for ayah in (1, 2, 9)]
    report = imported(parquet_of(tmp_path / "a.parquet", rows), tmp_path / "out", reciter="Maher")
    assert report.manifest is not None
    assert [line["text"] for line in read_lines(report.manifest)] == [verse("112:1"), verse("112:2")]
    assert reasons(report) == {"no such verse": 1}
    assert report.reciters == 1


def test_numbers_of_a_column_with_gaps_are_numbers(tmp_path: Path) -> None:
    cell = {"bytes": FLAC, "path": None}
    rows = [{"audio": cell, "surah": 55.0, "ayah": float(ayah), "reciter_id": 7.0} for ayah in (13, 16)]
    rows.append({"audio": cell, "surah": None, "ayah": None, "reciter_id": None})
    report = imported(parquet_of(tmp_path / "a.parquet", rows), tmp_path / "out")
    assert report.manifest is not None
    assert [(line["verses"], line["reciter"]) for line in read_lines(report.manifest)] == [
        (["55:13"], "7"),
        (["55:16"], "7"),
    ]
    assert reasons(report) == {"neither text nor verse": 1}


def test_a_verse_that_its_text_contradicts_is_dropped(tmp_path: Path) -> None:
    row = {"audio": {"bytes": FLAC, "path": None}, "verse_key": "112:1", "text": verse("2:255")}
    part = {**row, "text": "قل هو الله"}
    report = imported(parquet_of(tmp_path / "a.parquet", [row, part]), tmp_path / "out")
    assert report.manifest is not None
    assert reasons(report) == {"its text is not that of its verse": 1}
    (line,) = read_lines(report.manifest)
    assert (line["verses"], line["text"]) == (["112:1"], "قل هو الله")


def test_a_datasets_folder(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    table = pyarrow.Table.from_pylist([{"audio": {"bytes": FLAC, "path": None}, "sentence": verse("112:3")}])
    for writer, name in (
        (pyarrow.ipc.new_stream, "data-00000-of-00001.arrow"),
        (pyarrow.ipc.new_file, "b.arrow"),
    ):
        with pyarrow.OSFile(str(tmp_path / name), "wb") as sink, writer(sink, table.schema) as out:
            out.write_table(table)
    report = imported(tmp_path, tmp_path / "out")
    assert (report.clips, report.with_verses) == (2, 2)


def test_an_arrow_file_with_offsets_beyond_its_end_is_refused(tmp_path: Path) -> None:
    """pyarrow believes offsets, and the process would die of reading there."""
    pyarrow = pytest.importorskip("pyarrow")
    table = pyarrow.table({"audio": [FLAC], "text": ["x" * 12_345]})
    path = tmp_path / "data.arrow"
    with pyarrow.OSFile(str(path), "wb") as sink, pyarrow.ipc.new_stream(sink, table.schema) as out:
        out.write_table(table)
    offsets, beyond = (np.array([0, end], np.int32).tobytes() for end in (12_345, 1 << 30))
    before, found, after = path.read_bytes().rpartition(offsets)  # the first is of the metadata
    assert found
    path.write_bytes(before + beyond + after)
    with pytest.raises(QuranAsrError) as refused:
        imported(tmp_path, tmp_path / "out")
    assert refused.value.where == str(path)


def test_a_column_name_that_is_not_utf_8_is_refused(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    table = pyarrow.table({"audio": [FLAC], "sentence": [verse("112:1")]})
    path = tmp_path / "data.arrow"
    with pyarrow.OSFile(str(path), "wb") as sink, pyarrow.ipc.new_stream(sink, table.schema) as out:
        out.write_table(table)
    path.write_bytes(path.read_bytes().replace(b"sentence", b"sent\xffnce"))
    with pytest.raises(QuranAsrError) as refused:
        imported(tmp_path, tmp_path / "out")
    assert refused.value.where == str(path)


def test_columns_can_be_named(tmp_path: Path) -> None:
    rows = [{"audio": {"bytes": FLAC, "path": None}, "odd": verse("112:1"), "n": 1}]
    path = parquet_of(tmp_path / "a.parquet", rows)
    with pytest.raises(QuranAsrError, match="no column seems to hold text"):
        look_at(find_units([path]), {})
    with pytest.raises(QuranAsrError, match="no column `nope` for text") as refused:
        look_at(find_units([path]), {"text": "nope"})
    assert refused.value.remedy == "there are audio, odd, n"
    assert imported(path, tmp_path / "out", {"text": "odd"}).with_verses == 1


@pytest.mark.parametrize("cut", [0, 3, 100, -20])
def test_a_torn_parquet_file_is_named(tmp_path: Path, cut: int) -> None:
    path = parquet_of(
        tmp_path / "a.parquet", [{"audio": {"bytes": FLAC, "path": None}, "text": verse("112:1")}]
    )
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(QuranAsrError) as refused:
        imported(tmp_path, tmp_path / "out")
    assert refused.value.where == str(path)


def test_a_row_group_that_unpacks_to_too_much_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "LARGEST_ROW_GROUP", 1000)
    parquet_of(tmp_path / "a.parquet", [{"audio": {"bytes": FLAC, "path": None}, "text": verse("112:1")}])
    with pytest.raises(QuranAsrError, match="refused: row group 0 unpacks to more than 1,000 bytes"):
        imported(tmp_path, tmp_path / "out")


def test_a_recording_that_is_too_large_is_dropped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "LARGEST_FILE", 1000)
    rows = [{"audio": {"bytes": FLAC, "path": None}, "text": verse("112:1")}]
    report = imported(parquet_of(tmp_path / "a.parquet", rows), tmp_path / "out")
    assert (report.clips, report.manifest) == (0, None)
    assert not (tmp_path / "out" / "manifest.jsonl").exists()


def zip_of(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def test_a_zip_of_everyayah(tmp_path: Path) -> None:
    path = zip_of(
        tmp_path / "Alafasy_128kbps.zip",
        {"001001.mp3": MP3, "112001.mp3": MP3, "readme.txt": b"x", "../112002.mp3": MP3, "999999.mp3": MP3},
    )
    report = imported(path, tmp_path / "out")
    assert report.manifest is not None
    lines = read_lines(report.manifest)
    assert [(line["verses"], line["reciter"]) for line in lines] == [
        (["1:1"], "Alafasy"),
        (["112:1"], "Alafasy"),
    ]
    assert reasons(report) == {"its path leads out of the archive": 1, "there is no surah 999": 1}
    assert not (tmp_path / "112002.mp3").exists()


def test_what_macos_adds_to_an_archive_is_no_recording(tmp_path: Path) -> None:
    content = {"a/112001.mp3": MP3, "__MACOSX/a/._112001.mp3": b"\0\5\x16\7", "a/.112002.mp3": b"x"}
    report = imported(zip_of(tmp_path / "a.zip", content), tmp_path / "out")
    assert (report.clips, report.dropped) == (1, ())


def test_a_reciter_who_is_named_wins_over_the_name_of_the_archive_but_not_over_a_folder(
    tmp_path: Path,
) -> None:
    path = zip_of(tmp_path / "juz-30.zip", {"112001.mp3": MP3, "Alafasy_128kbps/112002.mp3": MP3})
    report = imported(path, tmp_path / "out", reciter="saud-al-shuraim")
    assert report.manifest is not None
    found = {line["verses"][0]: line["reciter"] for line in read_lines(report.manifest)}
    assert found == {"112:1": "saud-al-shuraim", "112:2": "Alafasy"}


@pytest.mark.slow
def test_a_zip_bomb_and_a_damaged_member_are_dropped(tmp_path: Path) -> None:
    path = zip_of(tmp_path / "a.zip", {"112001.mp3": bytes(200 << 20), "112002.mp3": MP3, "112003.mp3": MP3})
    content = bytearray(path.read_bytes())
    content[content.rfind(b"112003.mp3", 0, content.find(b"PK\x01\x02")) + 200] ^= 255
    path.write_bytes(content)
    report = imported(path, tmp_path / "out")
    assert report.clips == 1
    assert reasons(report) == {"refused": 1, "damaged or encrypted": 1}


def test_nemo_shards_stay_where_they_are(tmp_path: Path) -> None:
    lines = []
    with tarfile.open(tmp_path / "audio_0.tar", "w") as tar:
        for number in range(3):
            member = tarfile.TarInfo(f"clip{number}.flac")
            member.size = len(FLAC)
            tar.addfile(member, io.BytesIO(FLAC))
            text = verse(f"112:{number + 1}")
            lines.append({"audio_filepath": member.name, "duration": 1.0, "text": text, "shard_id": 0})
    lines.append({**lines[0], "audio_filepath": "clip0-sub1.flac", "offset": 0.5, "duration": 0.5})
    lines.append({**lines[0], "audio_filepath": "none.flac"})
    listing = tmp_path / "tarred_audio_manifest.json"
    listing.write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")
    report = imported(tmp_path, tmp_path / "out")
    assert report.manifest is not None
    segments = read_manifest(report.manifest, "letters")
    assert [len(audio.read(s.audio, s.offset, s.duration)) for s in segments] == [16_000] * 3 + [8_000]
    assert reasons(report) == {"not in its shard": 1}
    assert not (tmp_path / "out" / "audio").exists()
    with pytest.raises(QuranAsrError, match="this is the manifest of NeMo's tarred datasets") as refused:
        read_manifest(listing, "letters")
    assert refused.value.remedy == f"quran-asr corpus import {listing} --to FOLDER"


def lhotse_cut(source: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {
        "id": "a",
        "start": 0.25,
        "duration": 0.5,
        "channel": 0,
        "supervisions": [
            {"id": "a", "start": 0, "duration": 0.5, "text": verse("112:1"), "speaker": "husary"}
        ],
        "recording": {
            "id": "r",
            "sources": [source],
            "sampling_rate": 16000,
            "num_samples": 16000,
            "duration": 1.0,
        },
        "type": "MonoCut",
        **more,
    }


def test_a_folder_with_the_name_of_a_file_is_looked_into(tmp_path: Path) -> None:
    """Spark writes a folder with parts."""
    row = {"audio": {"bytes": FLAC, "path": None}, "text": verse("112:1")}
    parquet_of(tmp_path / "in" / "all.parquet" / "part-0.parquet", [row])
    assert imported(tmp_path / "in", tmp_path / "out").clips == 1


@pytest.mark.parametrize("source", ["a" * 5000, "a\0b", "", "."])
def test_a_cut_with_a_path_that_no_file_has_is_dropped(tmp_path: Path, source: str) -> None:
    (tmp_path / "a.flac").write_bytes(FLAC)
    cuts = [lhotse_cut({"type": "file", "channels": [0], "source": one}) for one in (source, "a.flac")]
    (tmp_path / "cuts.jsonl").write_text("".join(json.dumps(cut) + "\n" for cut in cuts))
    report = imported(tmp_path / "cuts.jsonl", tmp_path / "out")
    assert (report.clips, len(report.dropped)) == (1, 1)


@pytest.mark.parametrize("packed", [False, True])
def test_lhotse_cuts(tmp_path: Path, packed: bool) -> None:
    (tmp_path / "a.flac").write_bytes(FLAC)
    cuts = [
        lhotse_cut({"type": "file", "channels": [0], "source": "a.flac"}),
        lhotse_cut({"type": "command", "channels": [0], "source": f"touch {tmp_path / 'ran'}"}),
        lhotse_cut({"type": "url", "channels": [0], "source": "http://example.com/a.flac"}),
        lhotse_cut({"type": "file", "channels": [0], "source": "a.flac"}, type="MixedCut"),
        {"id": "a", "recording": 3, "start": 0, "duration": 1.0},
    ]
    text = "".join(json.dumps(cut) + "\n" for cut in cuts).encode()
    path = tmp_path / ("cuts.jsonl.gz" if packed else "cuts.jsonl")
    path.write_bytes(gzip.compress(text) if packed else text)
    report = imported(path, tmp_path / "out")
    assert report.manifest is not None
    (line,) = read_lines(report.manifest)
    assert (line["offset"], line["duration"], line["verses"], line["reciter"]) == (
        0.25,
        0.5,
        ["112:1"],
        "husary",
    )
    assert len(report.dropped) == 4
    assert not (tmp_path / "ran").exists()
    with pytest.raises(QuranAsrError, match="gzipped file" if packed else "this is a lhotse cut manifest"):
        read_manifest(path, "letters")


def test_a_cut_with_several_verses_has_all_of_them(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.flac").write_bytes(FLAC)
    cut = lhotse_cut({"type": "file", "channels": [0], "source": "a.flac"})
    cut["supervisions"] = [
        {"text": verse(place), "speaker": "husary", "custom": {"verse_key": place, "riwaya": "hafs"}}
        for place in ("112:1", "112:2")
    ]
    (tmp_path / "cuts.jsonl").write_text(json.dumps(cut) + "\n", "utf-8")
    with pytest.raises(SystemExit, match="0"):
        main(["corpus", "import", str(tmp_path / "cuts.jsonl"), "--to", str(tmp_path / "out")])
    (line,) = read_lines(tmp_path / "out" / "manifest.jsonl")
    assert line["verses"] == ["112:1", "112:2"]
    assert "not used: riwaya\n" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("name", "row", "named"),
    [
        (
            "a.jsonl.gz",
            {"recording_id": "r", "start": 0, "duration": 1.0, "text": "x"},
            "a lhotse supervision",
        ),
        ("b.jsonl.gz", {"id": "r", "sources": [], "sampling_rate": 16000}, "a lhotse recording manifest"),
    ],
)
def test_half_a_lhotse_corpus_is_named(tmp_path: Path, name: str, row: dict[str, Any], named: str) -> None:
    (tmp_path / name).write_bytes(gzip.compress(json.dumps(row).encode() + b"\n"))
    with pytest.raises(QuranAsrError, match=named) as refused:
        find_units([tmp_path / name])
    assert "lhotse cut simple" in refused.value.remedy


def test_shards_of_webdataset_are_named(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "0.tar", "w") as tar:
        for name, content in (("a.flac", FLAC), ("a.txt", b"x")):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    for read in (lambda path: find_units([path]), lambda path: read_manifest(path, "letters")):
        with pytest.raises(QuranAsrError, match="this is a tar archive"):
            read(tmp_path / "0.tar")


def test_manifests_of_single_shards_are_read(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "audio_0.tar", "w") as tar:
        member = tarfile.TarInfo("a.flac")
        member.size = len(FLAC)
        tar.addfile(member, io.BytesIO(FLAC))
    folder = tmp_path / "sharded_manifests"
    folder.mkdir()
    row = {"audio_filepath": "a.flac", "duration": 1.0, "text": verse("112:1"), "shard_id": 0}
    (folder / "manifest_0.json").write_text(json.dumps(row) + "\n")
    for number, source in enumerate((tmp_path, folder / "manifest_0.json")):
        assert imported(source, tmp_path / f"out{number}").clips == 1


def test_common_voice(tmp_path: Path) -> None:
    (tmp_path / "clips").mkdir()
    (tmp_path / "clips" / "a.mp3").write_bytes(MP3)
    (tmp_path / "secret.mp3").write_bytes(MP3)
    rows = [
        ("7", "a.mp3", "مرحبا بالعالم"),
        ("7", "../secret.mp3", "سلام"),
        ("7", "b.mp3", "سلام"),
        ("7", "a.mp3", "hi"),
    ]
    with (tmp_path / "validated.tsv").open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file, delimiter="\t")
        table.writerows([("client_id", "path", "sentence"), *rows])
    report = imported(tmp_path, tmp_path / "out")
    assert report.manifest is not None
    (line,) = read_lines(report.manifest)
    assert (line["text"], line["reciter"], line.get("verses")) == ("مرحبا بالعالم", "7", None)
    assert reasons(report) == {
        "its path leads out of the corpus": 1,
        "its recording is missing": 1,
        "its text has no Arabic letters": 1,
    }
    with pytest.raises(QuranAsrError, match="this is a table of Common Voice, not a manifest"):
        read_manifest(tmp_path / "validated.tsv", "letters")


def test_a_folder_of_recordings_is_for_scan(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    with pytest.raises(QuranAsrError) as refused:
        look_at(find_units([tmp_path / "in"]), {})
    assert "quran-asr corpus scan" in refused.value.remedy


def test_a_manifest_needs_no_import(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"audio_filepath": "a.wav", "duration": 1, "text": "x"}\n')
    with pytest.raises(QuranAsrError, match="every command takes it as it is"):
        look_at(find_units([tmp_path / "a.jsonl"]), {})


def run(capfd: pytest.CaptureFixture[str], *words: object) -> tuple[int, str]:
    """The exit code of `corpus import`, and what it writes to stderr."""
    with pytest.raises(SystemExit) as end:
        main(["corpus", "import", *map(str, words)])
    return int(end.value.code or 0), capfd.readouterr().err


def labelled(path: Path, column: str, labels: list[Any]) -> Path:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    audio_of = {"bytes": FLAC, "path": None}
    columns = {"audio": [audio_of] * len(labels), "text": [verse("112:1")] * len(labels), column: labels}
    parquet.write_table(pyarrow.table(columns), path)
    return path


@pytest.mark.parametrize(
    ("column", "labels", "kept"),
    [
        ("final_label", ["in_correct"] * 220 + ["correct"] * 2, 2),
        ("final_label", [None] * 220 + ["correct"], 1),
        ("final_label", ["so-so", "meh"], 0),
        ("quality_label", [1, 0, 0], 0),
        ("is_correct", [True, False, True], 2),
        ("label", ["in_correct"] * 220 + ["correct"] * 3, 3),
        ("status", ["rejected", "accepted"], 1),
        ("label", [3, 0], 2),  # the number of a class, of the reciter perhaps
        ("quality", ["128 kbit", "64 kbit"], 2),
    ],
)
def test_a_label_column_counts_whatever_its_first_labels_are(
    tmp_path: Path, column: str, labels: list[Any], kept: int
) -> None:
    report = imported(labelled(tmp_path / "a.parquet", column, labels), tmp_path / "out")
    assert (report.clips, len(report.dropped)) == (kept, len(labels) - kept)


def test_labels_that_are_numbers_or_truths_can_be_named(tmp_path: Path) -> None:
    numbers = labelled(tmp_path / "numbers.parquet", "label", [0, 1, 1])
    assert imported(numbers, tmp_path / "ones", {"label": "label"}, labels=["1"]).clips == 2
    assert imported(numbers, tmp_path / "zeros", {"label": "label"}, labels=["0"]).clips == 1
    truths = labelled(tmp_path / "truths.parquet", "is_correct", [True, False, False])
    assert imported(truths, tmp_path / "wrong", labels=["False"]).clips == 2


def test_labels_without_a_label_column_are_refused(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = labelled(tmp_path / "a.parquet", "label", [0, 1])
    with pytest.raises(QuranAsrError, match="no label column is in use"):
        imported(path, tmp_path / "out", labels=["correct"])
    with pytest.raises(QuranAsrError, match="no label column is in use"):
        imported(path, tmp_path / "out", {"label": ""}, labels=["correct"])
    for more in ((), ("--dry-run",)):
        code, err = run(capfd, path, "--to", tmp_path / "out", "--label", "correct", *more)
        assert code == 2
        assert "hint: name it: --column label=NAME; there are audio, text, label" in err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("source", ["in", "in/Alafasy_128kbps", "in/Alafasy_128kbps/000_versebyverse.zip"])
def test_archives_that_name_no_reciter_have_that_of_their_folder(tmp_path: Path, source: str) -> None:
    for reciter in ("Alafasy_128kbps", "Husary_64kbps"):
        (tmp_path / "in" / reciter).mkdir(parents=True)
        zip_of(tmp_path / "in" / reciter / "000_versebyverse.zip", {"112001.mp3": MP3})
    report = imported(tmp_path / source, tmp_path / "out")
    assert report.manifest is not None
    found = [line["reciter"] for line in read_lines(report.manifest)]
    assert found == (["Alafasy", "Husary"] if source == "in" else ["Alafasy"])


@pytest.mark.parametrize("name", ["juz-30.zip", "verses.zip", "128kbps.zip", "000.zip"])
def test_archives_of_one_name_are_not_one_reciter(tmp_path: Path, name: str) -> None:
    for reciter in ("Alafasy", "Husary"):
        (tmp_path / "in" / reciter / "mp3").mkdir(parents=True)
        zip_of(tmp_path / "in" / reciter / "mp3" / name, {"112001.mp3": MP3})
    report = imported(tmp_path / "in", tmp_path / "out")
    assert report.manifest is not None
    assert [line["reciter"] for line in read_lines(report.manifest)] == ["Alafasy", "Husary"]


def test_an_archive_in_the_folder_of_another_riwaya_is_not_taken(tmp_path: Path) -> None:
    (tmp_path / "warsh_ibrahim_64kbps").mkdir()
    path = zip_of(tmp_path / "warsh_ibrahim_64kbps" / "000_versebyverse.zip", {"112001.mp3": MP3})
    assert imported(path, tmp_path / "out").clips == 0


def test_a_repeated_import_makes_again_what_was_deleted(tmp_path: Path) -> None:
    rows = [
        {"audio": {"bytes": FLAC, "path": None}, "text": verse(place)}
        for place in ("112:1", "112:2", "112:3")
    ]
    parquet_of(tmp_path / "in" / "a.parquet", rows[:2])
    parquet_of(tmp_path / "in" / "b.parquet", rows[2:])
    first = imported(tmp_path / "in", tmp_path / "out")
    assert first.manifest is not None
    manifest = first.manifest.read_bytes()
    Path(read_lines(first.manifest)[0]["audio_filepath"]).unlink()
    again = imported(tmp_path / "in", tmp_path / "out")
    assert again.manifest is not None
    assert (again.clips, again.kept_units) == (3, 1)
    assert again.manifest.read_bytes() == manifest
    assert len(read_manifest(again.manifest, "letters")) == 3


def test_a_repeated_import_from_a_folder_that_was_renamed_is_whole(tmp_path: Path) -> None:
    path = parquet_of(
        tmp_path / "a.parquet", [{"audio": {"bytes": FLAC, "path": None}, "text": verse("112:1")}]
    )
    imported(path, tmp_path / "out")
    (tmp_path / "out").rename(tmp_path / "other")
    report = imported(path, tmp_path / "other")
    assert report.manifest is not None
    assert len(read_manifest(report.manifest, "letters")) == 1


def test_a_record_that_is_torn_is_made_again(tmp_path: Path) -> None:
    path = parquet_of(
        tmp_path / "a.parquet", [{"audio": {"bytes": FLAC, "path": None}, "text": verse("112:1")}]
    )
    imported(path, tmp_path / "out")
    for content in (b"", b'{"lines": [', b"[]", b'{"lines": [{}]}'):
        for record in (tmp_path / "out" / "imported").glob("*.json"):
            record.write_bytes(content)
        report = imported(path, tmp_path / "out")
        assert (report.clips, report.kept_units) == (1, 0)


def common_voice_of(folder: Path, sentences: list[str], clips: int) -> Path:
    (folder / "clips").mkdir(parents=True, exist_ok=True)
    for number in range(clips):
        (folder / "clips" / f"{number}.mp3").write_bytes(MP3)
    rows = [f"7\t{number}.mp3\t{sentence}" for number, sentence in enumerate(sentences)]
    (folder / "validated.tsv").write_text("\n".join(["client_id\tpath\tsentence", *rows]) + "\n", "utf-8")
    return folder


def test_recordings_that_were_missing_are_looked_for_again(tmp_path: Path) -> None:
    sentences = [verse("112:1"), verse("112:2")]
    source = common_voice_of(tmp_path / "in", sentences, clips=1)
    assert reasons(imported(source, tmp_path / "out")) == {"its recording is missing": 1}
    (source / "clips" / "1.mp3").write_bytes(MP3)
    assert imported(source, tmp_path / "out").clips == 2
    (source / "clips" / "0.mp3").unlink()
    assert reasons(imported(source, tmp_path / "out")) == {"its recording is missing": 1}


def test_recordings_that_were_repaired_or_replaced_are_read_again(tmp_path: Path) -> None:
    source = common_voice_of(tmp_path / "in", [verse("112:1"), verse("112:2")], clips=2)
    (source / "clips" / "1.mp3").write_bytes(MP3[:500])
    assert imported(source, tmp_path / "out").clips == 1
    (source / "clips" / "1.mp3").write_bytes(MP3)
    (source / "clips" / "0.mp3").write_bytes(audio.as_mp3(np.tile(SECOND, 2)))
    report = imported(source, tmp_path / "out")
    assert report.manifest is not None
    assert [round(line["duration"]) for line in read_lines(report.manifest)] == [2, 1]
    assert imported(source, tmp_path / "out").kept_units == 1


@pytest.mark.parametrize(
    ("text", "verses"),
    [
        ("مرحبا بكم", None),  # in 38:60 after لا
        ("لم يكن لها", None),
        ("السلام عليكم ورحمة الله", None),
        (verse("1:1"), ["1:1"]),  # in 27:30 too
        (verse("1:2"), ["1:2"]),  # in 10:10 too
        (verse("103:1"), ["103:1"]),
        (verse("55:13"), None),  # 31 verses
        (f"{verse('112:1')} {verse('112:2')}", ["112:1", "112:2"]),
        ("الله لا إله إلا هو الحي القيوم لا تأخذه", ["2:255"]),
        ("وسع كرسيه السماوات والأرض", ["2:255"]),
        ("كرسيه السماوات والأرض", None),
    ],
)
def test_verses_are_found_for_whole_verses_and_for_long_parts(
    tmp_path: Path, text: str, verses: list[str] | None
) -> None:
    report = imported(common_voice_of(tmp_path / "in", [text], clips=1), tmp_path / "out")
    assert report.manifest is not None
    (line,) = read_lines(report.manifest)
    assert line.get("verses") == verses


def test_a_short_part_has_its_verse_where_its_surah_is_named(tmp_path: Path) -> None:
    row = {"audio": {"bytes": FLAC, "path": None}, "Surah": "البقرة", "Aya": "كرسيه السماوات"}
    report = imported(parquet_of(tmp_path / "a.parquet", [row]), tmp_path / "out")
    assert report.manifest is not None
    assert read_lines(report.manifest)[0]["verses"] == ["2:255"]


@pytest.mark.slow
@pytest.mark.parametrize("spelling", ["diacritized", "uthmani", "letters"])
def test_the_text_of_any_verse_is_that_verse_or_several(tmp_path: Path, spelling: str) -> None:
    quran = load_quran(spelling)
    chosen = quran.refs[::25]
    source = common_voice_of(tmp_path / "in", [quran.verse(ref) for ref in chosen], clips=len(chosen))
    report = imported(source, tmp_path / "out")
    assert report.manifest is not None
    times = Counter(load_quran("letters").verses.values())
    for ref, line in zip(chosen, read_lines(report.manifest), strict=True):
        once = times[load_quran("letters").verse(ref)] == 1
        assert line.get("verses") == ([str(ref)] if once else None), ref


AUDIO_FOLDERS = {
    "metadata.csv": 'file_name,speaker,transcription\na.flac,7,"{}"\nno.flac,7,{}\n../b.flac,7,{}\n',
    "metadata.jsonl": '{{"file_name": "a.flac", "speaker": 7, "text": "{}"}}\n'
    '{{"file_name": "no.flac", "text": "{}"}}\n{{"file_name": "../b.flac", "text": "{}"}}\n',
}


@pytest.mark.parametrize("name", AUDIO_FOLDERS)
@pytest.mark.parametrize("by_file", [False, True])
def test_an_audio_folder_of_hugging_face(tmp_path: Path, name: str, by_file: bool) -> None:
    for split, place in (("train", "112:1"), ("test", "112:2")):
        (tmp_path / "in" / split).mkdir(parents=True)
        (tmp_path / "in" / split / "a.flac").write_bytes(FLAC)
        (tmp_path / "in" / "b.flac").write_bytes(FLAC)
        rows = AUDIO_FOLDERS[name].format(*[verse(place)] * 3)
        (tmp_path / "in" / split / name).write_text(rows, "utf-8")
    report = imported(tmp_path / "in" / "train" / name if by_file else tmp_path / "in", tmp_path / "out")
    assert report.manifest is not None
    found = [(line["verses"], line["reciter"]) for line in read_lines(report.manifest)]
    assert found == [(["112:1"], "7")] if by_file else [(["112:2"], "7"), (["112:1"], "7")]
    parts = 1 if by_file else 2
    assert reasons(report) == {
        "its recording is missing": parts,
        "its path leads out of the corpus": parts,
    }
    assert not (tmp_path / "out" / "audio").exists()


def test_a_table_with_uneven_rows_is_read(tmp_path: Path) -> None:
    source = common_voice_of(tmp_path / "in", [verse("112:1"), f"{verse('112:2')}\textra\tmore"], clips=2)
    report = imported(source, tmp_path / "out")
    assert (report.clips, report.with_verses) == (2, 2)


@pytest.mark.parametrize("columns", [[], [3]])
def test_a_table_without_columns_is_refused(tmp_path: Path, columns: list[int]) -> None:
    (tmp_path / "metadata.csv").write_text("\n".join(map(str, columns)))
    with pytest.raises(QuranAsrError):
        imported(tmp_path / "metadata.csv", tmp_path / "out")


def test_a_dropped_row_names_the_whole_verse(tmp_path: Path) -> None:
    path = zip_of(tmp_path / "Alafasy.zip", {"112005.mp3": MP3, "112001.mp3": MP3})
    report = imported(path, tmp_path / "out")
    assert reasons(report) == {"there is no verse 112:5": 1}


def test_a_torn_shard_names_its_member_without_quotes(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "audio_0.tar", "w") as tar:
        member = tarfile.TarInfo("clip.flac")
        member.size = len(FLAC)
        tar.addfile(member, io.BytesIO(FLAC))
    line = {"audio_filepath": "clip.flac", "duration": 1.0, "text": verse("112:1"), "shard_id": 0}
    (tmp_path / "tarred_audio_manifest.json").write_text(json.dumps(line) + "\n")
    with (tmp_path / "audio_0.tar").open("r+b") as file:
        file.truncate(1024)
    with pytest.raises(QuranAsrError, match="it was cut off") as refused:
        imported(tmp_path, tmp_path / "out")
    assert refused.value.where == f"{tmp_path}/audio_0.tar: clip.flac"


@pytest.mark.parametrize(
    ("column", "value", "hint"),
    [
        ("final_label", "so-so", "--label VALUE"),
        ("verse_key", "2:255", "--column ROLE=NAME"),
    ],
)
def test_an_import_without_a_usable_row_gives_a_hint(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], column: str, value: str, hint: str
) -> None:
    path = labelled(tmp_path / "a.parquet", column, [value])
    code, err = run(capfd, path, "--to", tmp_path / "out", "--jobs", 1)
    error, _, remedy = err.rpartition("\nhint: ")
    assert code == 1
    assert "error: no usable row; nothing was written" in error
    assert hint in remedy


def test_an_archive_without_a_usable_recording_gives_a_hint(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for name, hint in (("112.mp3", "002255.mp3"), ("notes.txt", "no recordings with a known ending")):
        path = zip_of(tmp_path / "Alafasy.zip", {name: MP3})
        code, err = run(capfd, path, "--to", tmp_path / name, "--jobs", 1)
        assert code == 1
        assert hint in err.rpartition("\nhint: ")[2]


def test_a_parquet_file_without_rows_is_named_as_such(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    (tmp_path / "in").mkdir()
    nothing = pyarrow.table({"audio": pyarrow.array([], "binary"), "text": pyarrow.array([], "string")})
    parquet.write_table(nothing, tmp_path / "in" / "a.parquet")
    with pytest.raises(QuranAsrError, match="no row in it") as refused:
        imported(tmp_path / "in", tmp_path / "out")
    assert refused.value.where == str(tmp_path / "in" / "a.parquet")
    parquet_of(
        tmp_path / "in" / "b.parquet", [{"audio": {"bytes": FLAC, "path": None}, "text": verse("112:1")}]
    )
    assert imported(tmp_path / "in", tmp_path / "out").clips == 1


def test_an_arrow_file_that_begins_without_rows_is_read(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    rows = pyarrow.Table.from_pylist([{"audio": {"bytes": FLAC, "path": None}, "text": verse("112:1")}])
    (batch,) = rows.to_batches()
    (tmp_path / "in").mkdir()
    for name, batches in (("a.arrow", [batch.slice(0, 0)]), ("b.arrow", [batch.slice(0, 0), batch])):
        with (
            pyarrow.OSFile(str(tmp_path / "in" / name), "wb") as sink,
            pyarrow.ipc.new_stream(sink, rows.schema) as out,
        ):
            for one in batches:
                out.write_batch(one)
    assert imported(tmp_path / "in", tmp_path / "out").clips == 1


@pytest.mark.parametrize(
    "name", ["a.parquet", "a.arrow", "a.zip", "tarred_audio_manifest.json", "cuts.jsonl.gz"]
)
@pytest.mark.parametrize("by_file", [False, True])
def test_a_pointer_of_git_lfs_is_named(tmp_path: Path, name: str, by_file: bool) -> None:
    path = tmp_path / "in" / name
    path.parent.mkdir()
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:abc\nsize 33\n")
    with pytest.raises(QuranAsrError, match="a Git LFS pointer") as refused:
        imported(path if by_file else path.parent, tmp_path / "out")
    assert (refused.value.where, refused.value.remedy.startswith("git lfs pull")) == (str(path), True)
