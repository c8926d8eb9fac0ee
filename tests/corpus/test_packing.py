"""Shards: what others read in them, what is kept and made anew, and that clips sound as they did."""

from __future__ import annotations

import json
import tarfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from quran_asr import audio
from quran_asr.corpus.manifest import read_manifest, write_manifest
from quran_asr.corpus.packing import PackReport, pack
from quran_asr.errors import QuranAsrError
from quran_asr.shards import member_of, read_member
from quran_asr.text.spelling import spell

VERSES = ("112:1", "112:2", "112:3", "112:4")


def tone(hertz: float, seconds: float) -> np.ndarray:
    return (0.3 * np.sin(2 * np.pi * hertz * np.arange(round(16_000 * seconds)) / 16_000)).astype(np.float32)


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    """Twelve clips: flac files, whole Opus files, and stretches of one long recording."""
    folder = tmp_path / "recordings"
    folder.mkdir()
    lines = []
    for number in range(4):
        path = folder / f"{number}.flac"
        audio.write(path, tone(200 + 50 * number, 1.1 + number / 10))
        lines.append({"audio_filepath": str(path), "duration": 1.1 + number / 10, "verses": [VERSES[number]]})
        path = folder / f"{number}.opus"
        path.write_bytes(audio.as_opus(tone(200 + 50 * number, 1.5), 24))
        lines.append({"audio_filepath": str(path), "duration": 1.5, "text": "قل هو", "reciter": "someone"})
    audio.write(folder / "long.wav", np.concatenate([tone(300 + 100 * n, 1.0) for n in range(4)]))
    for number in range(4):
        line = {"audio_filepath": str(folder / "long.wav"), "offset": float(number), "duration": 1.0}
        lines.append({**line, "verses": [VERSES[number]]})
    path = tmp_path / "all.jsonl"
    write_manifest(path, lines)
    return path


def packed(manifest: Path, folder: Path, **options: object) -> PackReport:
    with ThreadPoolExecutor(2) as pool:
        return pack(manifest, folder, pool, hours_per_shard=4 / 3600, **options)  # type: ignore[arg-type]


def test_clips_sound_as_they_did(manifest: Path, tmp_path: Path) -> None:
    report = packed(manifest, tmp_path / "shards")
    assert (report.clips, report.shards, report.dropped) == (12, 4, ())
    before = {(s.text, round(s.duration, 2)): s for s in read_manifest(manifest, "letters")}
    for segment in read_manifest(report.manifest, "letters"):
        original = before[segment.text, round(segment.duration, 2)]
        samples = audio.read(segment.audio, segment.offset, segment.duration)
        assert len(samples) == round(16_000 * segment.duration)
        if member_of(original.audio) is None and original.reciter == "":
            expected = audio.read(original.audio, original.offset, original.duration)
            assert np.abs(samples - expected).max() < 1e-4
        assert audio.probe(segment.audio).seconds == pytest.approx(segment.duration, abs=0.1)


def test_nemo_and_webdataset_find_each_member_by_its_name(manifest: Path, tmp_path: Path) -> None:
    report = packed(manifest, tmp_path / "shards")
    lines = [json.loads(line) for line in report.nemo_manifest.read_text("utf-8").splitlines()]
    assert {line["shard_id"] for line in lines} == set(range(report.shards))
    for number in range(report.shards):
        with tarfile.open(tmp_path / "shards" / f"audio_{number}.tar") as tar:
            names = tar.getnames()
        assert names == [line["audio_filepath"] for line in lines if line["shard_id"] == number]
        assert all(name.count(".") == 1 and "/" not in name for name in names)
    assert all(line["text"] and "offset" not in line for line in lines)
    assert report.nemo_shards.endswith("audio__OP_0..3_CL_.tar")
    webdataset = pytest.importorskip("webdataset")
    shards = [str(path) for path in sorted((tmp_path / "shards").glob("*.tar"))]
    samples = list(webdataset.WebDataset(shards, shardshuffle=False))
    assert {sample["__key__"] for sample in samples} == {
        line["audio_filepath"].split(".")[0] for line in lines
    }


def test_whole_opus_files_are_copied_and_others_become_flac(manifest: Path, tmp_path: Path) -> None:
    report = packed(manifest, tmp_path / "shards")
    for segment in read_manifest(report.manifest, "letters"):
        member = member_of(segment.audio)
        assert member is not None
        assert read_member(member)[:4] == (b"OggS" if segment.reciter else b"fLaC")
    originals = {path.read_bytes() for path in (tmp_path / "recordings").glob("*.opus")}
    kept = {
        read_member(member)
        for segment in read_manifest(report.manifest, "letters")
        if (member := member_of(segment.audio)) and segment.reciter
    }
    assert kept == originals


def test_a_second_run_makes_only_what_is_missing(manifest: Path, tmp_path: Path) -> None:
    folder = tmp_path / "shards"
    first = packed(manifest, folder)
    content = {path.name: path.read_bytes() for path in folder.glob("*.tar")}
    times = {path.name: path.stat().st_mtime_ns for path in folder.glob("*.tar")}
    (folder / "audio_2.tar").unlink()
    again = packed(manifest, folder)
    assert (first.kept_shards, again.kept_shards) == (0, 3)
    assert {path.name: path.read_bytes() for path in folder.glob("*.tar")} == content
    assert (folder / "audio_1.tar").stat().st_mtime_ns == times["audio_1.tar"]


def test_verify_finds_a_byte_that_has_changed(manifest: Path, tmp_path: Path) -> None:
    folder = tmp_path / "shards"
    packed(manifest, folder)
    shard = folder / "audio_0.tar"
    content = bytearray(shard.read_bytes())
    content[700] ^= 1
    shard.write_bytes(content)
    assert packed(manifest, folder).kept_shards == 4
    again = packed(manifest, folder, verify=True)
    assert (again.kept_shards, again.changed_shards) == (3, ("audio_0.tar",))
    assert shard.read_bytes() != content


def test_shards_of_another_manifest_are_not_replaced(manifest: Path, tmp_path: Path) -> None:
    folder = tmp_path / "shards"
    packed(manifest, folder)
    content = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    other = manifest.with_name("other.jsonl")
    other.write_text(manifest.read_text("utf-8").splitlines(keepends=True)[0], "utf-8")
    with pytest.raises(QuranAsrError, match="holds the shards of"):
        packed(other, folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()} == content


def test_fewer_clips_leave_no_shard_of_before(manifest: Path, tmp_path: Path) -> None:
    folder = tmp_path / "shards"
    packed(manifest, folder)
    manifest.write_text("".join(manifest.read_text("utf-8").splitlines(keepends=True)[:3]), "utf-8")
    report = packed(manifest, folder)
    assert sorted(path.name for path in folder.glob("*.tar")) == [
        f"audio_{n}.tar" for n in range(report.shards)
    ]
    assert report.clips == 3


def test_a_clip_that_cannot_be_read_is_named_and_left_out(manifest: Path, tmp_path: Path) -> None:
    (tmp_path / "recordings" / "1.flac").write_bytes(b"<html>not found</html>")
    report = packed(manifest, tmp_path / "shards")
    assert report.clips == 11
    assert [Path(one.clip).name for one in report.dropped] == ["1.flac"]
    assert "a web page" in report.dropped[0].reason


def test_a_recording_that_was_repaired_or_replaced_is_packed_again(manifest: Path, tmp_path: Path) -> None:
    recordings, folder = tmp_path / "recordings", tmp_path / "shards"
    whole = (recordings / "1.flac").read_bytes()
    (recordings / "1.flac").write_bytes(whole[:200])
    assert packed(manifest, folder).clips == 11
    (recordings / "1.flac").write_bytes(whole)
    audio.write(recordings / "0.flac", 2 * tone(200, 1.1))
    again = packed(manifest, folder)
    assert (again.clips, again.dropped) == (12, ())
    (replaced,) = [one for one in read_manifest(again.manifest, "letters") if round(one.duration, 2) == 1.1]
    assert np.abs(audio.read(replaced.audio)).max() > 0.55
    assert packed(manifest, folder).kept_shards == 4


def test_a_folder_of_something_else_is_refused(manifest: Path, tmp_path: Path) -> None:
    with pytest.raises(QuranAsrError, match="is not empty"):
        packed(manifest, manifest.parent / "recordings")


def test_shards_are_not_packed_into_their_own_folder(manifest: Path, tmp_path: Path) -> None:
    """They would be replaced while they are read."""
    folder = tmp_path / "shards"
    report = packed(manifest, folder)
    before = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    with pytest.raises(QuranAsrError, match="in this folder"):
        packed(report.manifest, folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()} == before


def test_a_manifest_of_something_else_is_never_replaced(manifest: Path, tmp_path: Path) -> None:
    folder = tmp_path / "aligned"
    folder.mkdir()
    before = manifest.read_bytes()
    (folder / "manifest.jsonl").write_bytes(before)
    with pytest.raises(QuranAsrError, match="is not empty"):
        packed(manifest, folder)
    assert (folder / "manifest.jsonl").read_bytes() == before


@pytest.mark.parametrize("cut", [0, 600, 1500])
def test_a_shard_that_ends_early_is_no_recording(manifest: Path, tmp_path: Path, cut: int) -> None:
    report = packed(manifest, tmp_path / "shards")
    segment = read_manifest(report.manifest, "letters")[-1]
    member = member_of(segment.audio)
    assert member is not None
    with open(member.shard, "rb+") as file:  # noqa: PTH123
        file.truncate(cut)
    with pytest.raises(QuranAsrError, match="shard ends before") as refused:
        audio.read(segment.audio)
    assert refused.value.where == segment.audio


def test_shards_can_be_packed_again(manifest: Path, tmp_path: Path) -> None:
    first = packed(manifest, tmp_path / "shards")
    again = packed(first.manifest, tmp_path / "again")
    assert again.clips == first.clips
    assert again.dropped == ()


def test_the_same_recording_is_recognized_in_a_shard_and_as_a_file(manifest: Path, tmp_path: Path) -> None:
    from quran_asr.experiments.checks.data import Data
    from quran_asr.experiments.checks.leakage import same_contents

    report = packed(manifest, tmp_path / "shards")
    files, members = (tuple(read_manifest(path, "letters")) for path in (manifest, report.manifest))
    contents = same_contents(Data(files, members))
    whole = {contents[segment.audio] for segment in members if segment.reciter}  # copied as they are
    assert whole == {contents[segment.audio] for segment in files if segment.reciter}
    assert len(whole) == 4


@pytest.mark.slow
def test_nemo_reads_the_shards(manifest: Path, tmp_path: Path) -> None:
    adapters = pytest.importorskip("nemo.collections.common.data.lhotse.nemo_adapters")
    report = packed(manifest, tmp_path / "shards")
    cuts = list(adapters.LazyNeMoTarredIterator(str(report.nemo_manifest), report.nemo_shards))
    ours = {segment.text: segment for segment in read_manifest(report.manifest, "diacritized")}
    assert len(cuts) == report.clips
    for cut in cuts:
        (supervision,) = cut.supervisions
        assert spell(supervision.text, "diacritized") in ours
        assert cut.load_audio().shape[1] == pytest.approx(cut.duration * cut.sampling_rate, abs=1)


@pytest.mark.slow
def test_a_dask_cluster_writes_the_same_shards(manifest: Path, tmp_path: Path) -> None:
    distributed = pytest.importorskip("distributed")
    from quran_asr.corpus.workers import executor

    packed(manifest, tmp_path / "here")
    with (
        distributed.LocalCluster(n_workers=1, processes=False, dashboard_address=None) as cluster,
        executor(address=cluster.scheduler_address) as pool,
    ):
        pack(manifest, tmp_path / "there", pool, hours_per_shard=4 / 3600)
    for path in (tmp_path / "here").glob("*.tar"):
        assert path.read_bytes() == (tmp_path / "there" / path.name).read_bytes()
