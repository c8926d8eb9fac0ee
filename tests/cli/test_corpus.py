"""`quran-asr corpus`: what it prints, where, and how it exits."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from quran_asr import audio
from quran_asr.cli.main import main
from quran_asr.corpus.manifest import read_manifest


def run(capfd, *args: object) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as end:
        main(["corpus", *map(str, args)])
    out, err = capfd.readouterr()
    return int(end.value.code or 0), out, err


@pytest.fixture
def recorded(tmp_path) -> Path:
    """Two reciters of surah 112 with a broken file each."""
    noise = np.random.default_rng(0).normal(0, 0.1, 5 * 16_000).astype(np.float32)
    for reciter in ("Alafasy_128kbps", "Husary"):
        for ayah in range(1, 4):
            audio.write(tmp_path / "in" / reciter / f"112{ayah:03}.wav", noise[: ayah * 16_000])
        (tmp_path / "in" / reciter / "112004.mp3").write_bytes(b"<!DOCTYPE html><html></html>")
    return tmp_path / "in"


def test_scan_prints_reciters_and_sums_and_names_what_it_drops(capfd, recorded, tmp_path):
    code, out, err = run(capfd, "scan", recorded, "--to", tmp_path / "all.jsonl", "--max-duration", 2.5)
    assert code == 0
    assert out.splitlines()[:4] == [
        "reciter  clips  hours",
        "Alafasy      3  0.00",
        "Husary       3  0.00",
        "kept 6 clips, 0.00 hours, reciters: 2, different verses: 3; dropped 2 (2 a web page, not audio)",
    ]
    assert "over 2.5 s: 2 clips, 0.00 hours (50.0%)" in out
    assert "112003.wav (3 s)" in out
    for reciter in ("Alafasy_128kbps", "Husary"):
        assert f"{recorded}/{reciter}/112004.mp3: a web page, not audio (a failed download?)" in err
    assert len(read_manifest(tmp_path / "all.jsonl", "letters")) == 6


def test_scan_as_json_lists_everything(capfd, recorded, tmp_path):
    code, out, err = run(capfd, "scan", recorded, "--to", tmp_path / "all.jsonl", "--json")
    result = json.loads(out)
    assert (code, err) == (0, "")
    assert (result["clips"], result["kinds"], result["dropped_by_reason"]) == (
        6,
        {"verse": 6},
        {"a web page, not audio": 2},
    )
    assert {Path(drop["file"]).name for drop in result["dropped"]} == {"112004.mp3"}


def test_decoders_do_not_chatter(capfd, tmp_path):
    """libsndfile's mp3 decoder writes to the terminal by itself."""
    import soundfile

    path = tmp_path / "reciter" / "112001.mp3"
    path.parent.mkdir()
    noise = np.random.default_rng(0).normal(0, 0.1, 80_000).astype(np.float32)
    soundfile.write(path, noise, 16_000)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    (tmp_path / "reciter" / "112002.mp3").write_bytes(np.random.default_rng(1).bytes(20_000))
    code, out, err = run(capfd, "scan", tmp_path / "reciter", "--to", tmp_path / "all.jsonl")
    assert (code, out) == (1, "")
    assert [line.split(" ")[0] for line in err.splitlines()] == ["warning", "warning", "error:"]
    assert "truncated" in err
    assert "not an audio file that can be read" in err


def test_a_folder_without_recordings_reports_what_was_looked_for(capfd, tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "notes.txt").write_text("x")
    code, out, err = run(capfd, "scan", tmp_path / "in", "--to", tmp_path / "all.jsonl")
    assert (code, out) == (1, "")
    assert "ignored 1 x other file" in err
    assert "looked for <reciter>/SSSAAA.<ext>" in err
    assert not (tmp_path / "all.jsonl").exists()

    code, out, err = run(capfd, "scan", tmp_path / "nowhere", "--to", tmp_path / "all.jsonl")
    assert (code, out) == (2, "")
    assert err.startswith(f"error: {tmp_path}/nowhere: no such folder\nhint: ")


def test_many_dropped_files_are_all_in_the_sidecar(capfd, recorded, tmp_path):
    for number in range(30):
        (recorded / "Husary" / f"take {number:02}.wav").write_bytes(b"")
    code, _, err = run(capfd, "scan", recorded, "--to", tmp_path / "all.jsonl")
    assert code == 0
    assert err.count("no verse in its name") == 21
    assert "10 more: no verse in its name" in err
    sidecar = json.loads((tmp_path / "all.jsonl.meta.json").read_text())
    assert sidecar["dropped_by_reason"]["no verse in its name"] == 30
    assert sum(drop["reason"] == "no verse in its name" for drop in sidecar["dropped"]) == 30


def test_a_full_disk_is_one_line_and_loses_nothing(capfd, recorded, tmp_path, monkeypatch):
    run(capfd, "scan", recorded, "--to", tmp_path / "all.jsonl")
    old = (tmp_path / "all.jsonl").read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    code, out, err = run(capfd, "scan", recorded / "Husary", "--to", tmp_path / "all.jsonl", "--json")
    assert (code, out) == (2, "")
    assert "No space left on device" in err
    assert "Traceback" not in err
    assert (tmp_path / "all.jsonl").read_bytes() == old


def test_split_writes_both_splits_and_reports_what_they_share(capfd, recorded, tmp_path):
    run(capfd, "scan", recorded, "--to", tmp_path / "all.jsonl")
    code, out, err = run(
        capfd,
        *("split", tmp_path / "all.jsonl", "--by", "reciter"),
        *("--hold-out", "Husary", "--to", tmp_path / "data"),
    )
    assert code == 0
    assert out.splitlines() == [
        "split       clips  hours  reciters  texts  reciter seen  text seen",
        "train           3    0.0         1      3  -             -",
        "validation      3    0.0         1      3  0.0%          100.0%",
    ]
    assert "validation: Husary" in err
    assert {segment.reciter for segment in read_manifest(tmp_path / "data" / "train.jsonl", "letters")} == {
        "Alafasy"
    }

    code, out, _ = run(
        capfd,
        *("split", tmp_path / "all.jsonl", "--by", "verse", "--hold-out", "112:1"),
        *("--test-on", "112:2", "--json", "--to", tmp_path / "data"),
    )
    splits = json.loads(out)["splits"]
    assert code == 0
    assert {name: side["clips"] for name, side in splits.items()} == {"train": 2, "validation": 2, "test": 2}
    assert splits["test"]["seen_texts"] == 0.0

    code, out, err = run(capfd, "split", tmp_path / "all.jsonl", "--by", "verse", "--to", tmp_path / "data")
    assert code == 0
    assert "warning [stale-manifest]" in err


def test_split_of_a_torn_manifest_is_one_line_and_a_hint(capfd, recorded, tmp_path):
    run(capfd, "scan", recorded, "--to", tmp_path / "all.jsonl")
    whole = (tmp_path / "all.jsonl").read_bytes()
    (tmp_path / "all.jsonl").write_bytes(whole[:-40])
    code, out, err = run(capfd, "split", tmp_path / "all.jsonl", "--by", "reciter", "--to", tmp_path / "data")
    assert (code, out) == (2, "")
    assert err.startswith(f"error: {tmp_path}/all.jsonl:6: a torn line (its end is missing)")
    assert err.splitlines()[1:] == ["hint: copy the manifest again, or delete this line"]
    assert not (tmp_path / "data").exists()


def test_synthesize_prints_the_manifest_that_it_wrote(capfd, tmp_path):
    pytest.importorskip("espeakng_loader", reason="needs the extra `speak`")
    code, out, err = run(
        capfd,
        "synthesize",
        "112:1-2",
        "1:1",
        "--voices",
        "ar, ar+f2",
        "--fragments",
        1,
        "--to",
        tmp_path / "spoken",
    )
    assert (code, out, err) == (0, f"{tmp_path}/spoken/manifest.jsonl\n", "")
    assert len(read_manifest(tmp_path / "spoken" / "manifest.jsonl", "letters")) == 12
    code, out, err = run(capfd, "scan", tmp_path / "spoken", "--to", tmp_path / "again.jsonl", "--json")
    assert json.loads(out)["clips"] == 6  # its layout is one that scan knows
    code, out, err = run(capfd, "synthesize", "112:1", "--to", tmp_path / "spoken")
    assert code == 0 and "12 lines of an earlier corpus, now replaced" in err
    for wrong in (["115"], ["112", "--voices", "ar+nobody"], ["112", "--voices", ","]):
        code, out, err = run(capfd, "synthesize", *wrong, "--to", tmp_path / "wrong")
        assert (code, out) == (2, "")
        assert err.startswith("error: ")
    assert not (tmp_path / "wrong").exists()


@pytest.mark.parametrize("command", [[], ["scan"], ["split"], ["synthesize"]])
def test_help_starts_at_once_without_numpy_and_ends_with_an_example(command):
    code = (
        "import sys; from quran_asr.cli.main import main\n"
        "try: main(sys.argv[1:])\n"
        "finally: print('numpy' in sys.modules, 'soundfile' in sys.modules, file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "corpus", *command, "--help"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "False False\n")
    assert " ".join(["Example: quran-asr corpus", *command]) in " ".join(done.stdout.split())


def test_pack_writes_shards_that_other_commands_take(capfd, recorded, tmp_path):
    run(capfd, "scan", recorded, "--to", tmp_path / "all.jsonl")
    code, out, _ = run(
        capfd, "pack", tmp_path / "all.jsonl", "--to", tmp_path / "shards", "--jobs", 1, "--json"
    )
    report = json.loads(out)
    assert (code, report["clips"], report["shards"], report["dropped"]) == (0, 6, 1, [])
    code, out, _ = run(capfd, "pack", tmp_path / "all.jsonl", "--to", tmp_path / "shards", "--jobs", 1)
    assert code == 0
    assert out.split()[-6:] == ["1", "6", "0.0", "0.0", "1", "0"]
    code, out, _ = run(
        capfd, "audit", report["manifest"], "--to", tmp_path / "audited", "--no-cache", "--json"
    )
    assert json.loads(out)["clips"] == 6
    parts = run(capfd, "split", report["manifest"], "--by", "reciter", "--to", tmp_path / "split")
    assert parts[0] == 0
    segments = read_manifest(tmp_path / "split" / "train.jsonl", "letters")
    assert len(audio.read(segments[0].audio)) == round(16_000 * segments[0].duration)


def test_pack_names_clips_that_it_leaves_out(capfd, recorded, tmp_path):
    run(capfd, "scan", recorded, "--to", tmp_path / "all.jsonl")
    (recorded / "Husary" / "112001.wav").write_bytes(b"RIFF")
    code, _, err = run(capfd, "pack", tmp_path / "all.jsonl", "--to", tmp_path / "shards", "--jobs", 1)
    assert code == 1
    assert "dropped-clip" in err and "112001.wav" in err


def test_import_shows_the_columns_and_lists_what_it_drops(capfd, recorded, tmp_path):
    import zipfile

    with zipfile.ZipFile(tmp_path / "Husary_64kbps.zip", "w") as archive:
        for path in sorted((recorded / "Husary").iterdir()):
            archive.write(path, path.name)
    source, to = tmp_path / "Husary_64kbps.zip", tmp_path / "imported"
    code, out, err = run(capfd, "import", source, "--to", to, "--dry-run")
    assert (code, out) == (0, "")
    assert "zip: 1 part; columns: text=text" in err
    assert not to.exists()
    code, out, err = run(capfd, "import", source, "--to", to, "--jobs", 1)
    assert code == 0
    assert "kept 3 clips" in out and "a web page" in out
    code, out, err = run(capfd, "import", source, "--to", to, "--jobs", 1, "--json")
    report = json.loads(out)
    assert (report["clips"], report["with_verses"], report["kept_parts"]) == (3, 3, 1)
    assert len(read_manifest(report["manifest"], "letters")) == 3


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("import", "nothing", "--to", "x"), "no such file or folder"),
        (("import", "nothing", "--to", "x", "--column", "txt=a"), "`--column txt=a` names no role"),
        (("pack", "nothing.jsonl", "--to", "x"), "no such manifest"),
        (("download", "everyayah"), "no RECITER is named"),
        (("download", "everyayah", "A"), "no folder is named"),
        (("download", "everyayah", "../A", "--to", "x", "--dry-run"), "is not the folder of a reciter"),
        (
            ("download", "everyayah", "A", "--to", "x", "--from", "file:///etc", "--dry-run"),
            "address of a server",
        ),
        (
            ("download", "everyayah", "A", "--to", "x", "--verses", "115", "--dry-run"),
            "there is no surah 115",
        ),
    ],
)
def test_wrong_use_of_import_pack_and_download_is_one_line(capfd, tmp_path, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)
    code, out, err = run(capfd, *words)
    assert (code, out) == (2, "")
    assert message in err
    assert "Traceback" not in err


def test_download_shows_what_it_would_fetch(capfd, tmp_path):
    (tmp_path / "A").mkdir()
    (tmp_path / "A" / "112001.mp3").write_bytes(b"x")
    words = ("download", "everyayah", "A", "--to", tmp_path, "--verses", "112-114", "--dry-run", "--json")
    code, out, _ = run(capfd, *words)
    assert (code, json.loads(out)) == (0, {"to_fetch": 14, "present": 1, "minutes": 0.1})
