"""Recordings to clips: which are used, what is written, and what an interruption costs."""

from __future__ import annotations

import json
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from quran_asr import audio
from quran_asr.corpus import align as corpus_align
from quran_asr.corpus.align import Limits, align_recordings, find_sources
from quran_asr.corpus.audit import audit
from quran_asr.corpus.manifest import read_manifest
from quran_asr.decoding.graph import build_graph
from quran_asr.errors import QuranAsrError
from quran_asr.records import VerseRef
from quran_asr.runtime.alignment import AlignedRecording, align_scores
from quran_asr.runtime.verse_clips import find_clips
from quran_asr.text.passages import parse_range

sys.path.insert(0, str(Path(__file__).parents[1] / "decoding"))
from spoken import FRAME, QURAN, TOKENIZER, Speech, verse


def recited(speech: Speech, verses: str, path: Path, spelled: str = "letters") -> AlignedRecording:
    """The alignment of words that nobody recited, and a recording that is loud where they are."""
    scores = speech.log_probs()
    graph = build_graph(QURAN, TOKENIZER, parse_range(verses))
    found = align_scores(graph, [scores], FRAME, follow_place=False)
    samples = np.random.default_rng(0).normal(0, 1e-4, round(len(scores) * FRAME * 16_000)).astype(np.float32)
    loud = np.abs(scores.argmax(axis=1) - scores.shape[1] + 1) > 0
    runs = np.repeat(loud | np.roll(loud, 1), round(FRAME * 16_000))
    samples[runs] += np.sin(np.arange(runs.sum()) / 8).astype(np.float32) * 0.3
    path.parent.mkdir(parents=True, exist_ok=True)
    audio.write(path, samples)
    return AlignedRecording(
        str(path), "spoken", spelled, len(samples) / 16_000, found.segments, found.unaligned
    )


@pytest.fixture(scope="module")
def surah(tmp_path_factory: pytest.TempPathFactory) -> AlignedRecording:
    """98:1-3 with pauses, 98:4 and the beginning of 98:5 in one go, then all of 98:5 with a pause in it."""
    speech = (
        Speech().pause(0.5).say(verse("98:1")).pause(0.5).say(verse("98:2")).pause(0.5).say(verse("98:3"))
    )
    speech.pause(0.5).say(verse("98:4")).say(verse("98:5")[:5]).pause(0.8)
    speech.say(verse("98:5")[:9]).pause(0.6).say(verse("98:5")[9:]).pause(0.5)
    return recited(speech, "98", tmp_path_factory.mktemp("in") / "reader" / "098.flac")


def test_a_long_verse_is_cut_at_its_pauses(surah: AlignedRecording) -> None:
    whole = list(find_clips(surah))
    assert [clip.name for clip in whole] == ["098001", "098002", "098003", "098004", "098005"]
    last = whole[-1]
    parts = [clip for clip in find_clips(surah, last.seconds - 1) if clip.verse == VerseRef(98, 5)]
    assert [clip.name for clip in parts] == ["098005-000-004", "098005-000-008", "098005-009-015"]
    _, first, second = parts
    assert (first.start, second.end) == (last.start, last.end) and first.end == second.start
    assert [word.text for word in (*first.words, *second.words)] == verse("98:5")
    assert first.words[-1].end < first.end < second.words[0].start


def test_cuts_without_a_pause_stand_out(surah: AlignedRecording) -> None:
    edges = {clip.name: clip.edge_db for clip in find_clips(surah)}
    assert min(edges[name] for name in ("098001", "098002", "098003", "098005")) > 15
    assert edges["098004"] < 5


@pytest.fixture
def aligner(surah: AlignedRecording, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """`align` knows this one recording, needs no model, and notes what it was asked for."""
    asked: list[str] = []

    def known(recording: str, verses: str | None, recognizer: object) -> AlignedRecording:
        if Path(recording).read_bytes() != Path(surah.audio).read_bytes():
            audio.read(recording)
        asked.append(f"{Path(recording).name} {verses}")
        return surah

    monkeypatch.setattr(corpus_align, "align", known)
    monkeypatch.setattr(corpus_align, "_recognizer", lambda bundle: None)
    (tmp_path / "bundle").mkdir()
    for name in ("bundle.json", "encoder.onnx"):
        (tmp_path / "bundle" / name).write_text("{}")
    return asked


def run(tmp_path: Path, place: Path, limits: Limits | None = None) -> corpus_align.AlignReport:
    with ThreadPoolExecutor(1) as executor:
        return align_recordings(
            [place], tmp_path / "out", tmp_path / "bundle", limits=limits, executor=executor
        )


def test_the_manifest_has_the_words_of_each_clip(
    surah: AlignedRecording, aligner: list[str], tmp_path: Path
) -> None:
    long = next(clip.seconds for clip in find_clips(surah) if clip.name == "098005") - 1
    report = run(tmp_path, Path(surah.audio).parent, Limits(longest=long))
    assert aligner == ["098.flac 98"]
    segments = {Path(one.audio).stem: one for one in read_manifest(report.manifest, "letters")}
    assert segments["098001"].text == QURAN.verse(VerseRef(98, 1))
    assert segments["098005-009-015"].text.split() == verse("98:5")[9:]
    assert {one.reciter for one in segments.values()} == {"reader"}
    for one in segments.values():
        assert one.duration <= long and audio.probe(one.audio).seconds == pytest.approx(
            one.duration, abs=1e-3
        )
    (reader,) = report.reciters
    assert reader.clips == len(segments) and reader.fits and reader.left_out["no pause beside it"] >= 1
    assert reader.left_out["not recognized"] == 3
    reasons = {reason.code for one in audit(report.manifest, workers=1).clips for reason in one.reasons}
    assert "text-differs" not in reasons and "shifted-numbering" not in reasons


def test_a_manifest_of_something_else_is_never_replaced(
    surah: AlignedRecording, aligner: list[str], tmp_path: Path
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "manifest.jsonl").write_text("{}\n")
    with pytest.raises(QuranAsrError, match="is not empty"):
        run(tmp_path, Path(surah.audio).parent)
    assert (tmp_path / "out" / "manifest.jsonl").read_text() == "{}\n" and not aligner


def test_finished_recordings_are_not_done_again(
    surah: AlignedRecording, aligner: list[str], tmp_path: Path
) -> None:
    place = tmp_path / "in" / "reader"
    place.mkdir(parents=True)
    for name in ("098", "099"):
        (place / f"{name}.flac").write_bytes(Path(surah.audio).read_bytes())
    (place / "100.flac").write_bytes(b"")
    first = run(tmp_path, place)
    assert aligner == ["098.flac 98", "099.flac 99", "099.flac None"]
    assert [Path(name).name for name, _ in first.failed] == ["100.flac"]
    assert [(Path(name).name, *passages) for name, *passages in first.others] == [
        ("099.flac", "99", "98:1-5")
    ]
    manifest = first.manifest.read_bytes()
    journal = first.manifest.parent / "recordings.jsonl"
    lines = journal.read_bytes().splitlines(keepends=True)
    torn = next(number for number, line in enumerate(lines) if b"098.flac" in line)
    lines.append(lines.pop(torn)[:-40])
    journal.write_bytes(b"".join(lines))
    again = run(tmp_path, place)
    assert aligner[3:] == ["098.flac 98"] and again.resumed == 2 and again.others == first.others
    assert again.manifest.read_bytes() == manifest
    next(first.manifest.parent.glob("*/098001.flac")).unlink()
    run(tmp_path, place)  # both recordings had a clip of this name here
    assert aligner[4:] == ["098.flac 98", "099.flac 99", "099.flac None"]
    assert list(first.manifest.parent.glob("*/098001.flac"))
    run(tmp_path, place, Limits(score=-0.9))
    assert len(aligner) == 10


def test_sources_of_folders_and_manifests(tmp_path: Path) -> None:
    for name in ("Reader_128kbps/036.mp3", "Reader_128kbps/evening.mp3", "Other/002.opus", "Other/notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    found = [(Path(one.audio).name, one.reciter, one.verses) for one in find_sources([tmp_path])]
    assert sorted(found) == [
        ("002.opus", "Other", "2"),
        ("036.mp3", "Reader", "36"),
        ("evening.mp3", "Reader", ""),
    ]
    lines = [
        {"audio_filepath": "a.mp3", "reciter": "somebody", "surah": 36},
        {"audio_filepath": "b.mp3", "verses": ["2:1", "2:2", "2:141"]},
        {"audio_filepath": "c.mp3"},
    ]
    manifest = tmp_path / "all.jsonl"
    manifest.write_text("".join(json.dumps(line) + "\n" for line in lines))
    holds = [one.verses for one in find_sources([manifest])]
    assert holds == ["36", "2:1-141", ""] and parse_range(holds[1])[-1] == VerseRef(2, 141)
    for bad, what in (
        ({"surah": 115}, "115"),
        ({"verses": "36"}, "not a list"),
        ({"audio_filepath": 3}, "path"),
    ):
        manifest.write_text(json.dumps({"audio_filepath": "a.mp3", **bad}))
        with pytest.raises(QuranAsrError, match=what):
            find_sources([manifest])
    with pytest.raises(QuranAsrError, match="named twice"):
        find_sources([tmp_path / "Other", tmp_path / "Other"])


@pytest.mark.parametrize(
    ("lines", "what"),
    [
        (({"surah": 36}, {"surah": 36}), "clips of 36:1 would have the names of those of"),
        (({"surah": 36}, {"verses": ["36:10"]}), "clips of 36:10 would have the names"),
        (({}, {}), "its clips would have the names"),
        (({"surah": 36, "reciter": "../../elsewhere"},), "not a name for a folder"),
        (({"reciter": ".."},), "not a name for a folder"),
    ],
)
def test_recordings_cannot_replace_clips_of_others(
    lines: tuple[dict[str, object], ...], what: str, tmp_path: Path
) -> None:
    manifest = tmp_path / "all.jsonl"
    named = [
        {"audio_filepath": f"{number}/a.mp3", "reciter": "Reader", **line}
        for number, line in enumerate(lines)
    ]
    manifest.write_text("".join(json.dumps(line) + "\n" for line in named))
    with pytest.raises(QuranAsrError, match=what):
        find_sources([manifest])


def test_clips_of_unknown_passages_lie_in_a_folder_of_each_recording(tmp_path: Path) -> None:
    for name in ("Reader/036.mp3", "Reader/evening.mp3", "Reader/morning.mp3"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    found = [one.folder for one in find_sources([tmp_path])]
    assert found == ["Reader", "Reader/evening", "Reader/morning"]


@pytest.mark.slow
def test_on_a_cluster_of_two_processes(
    small_bundle: Path, voice: np.ndarray, quran_asr, tmp_path: Path
) -> None:
    """Random weights find nothing, or anything; each recording has its line, and a file is scanned."""
    distributed = pytest.importorskip("distributed")
    place = tmp_path / "in" / "reader"
    place.mkdir(parents=True)
    for name in ("112", "113", "114"):
        audio.write(place / f"{name}.wav", voice)
    audio.write(place / "112001.wav", voice)
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, dashboard_address=None, host="127.0.0.1"
    ) as cluster:
        address = cluster.scheduler_address
        where = ("--cluster", address)
        done = quran_asr("corpus", "align", place, "--to", tmp_path / "out", "--model", small_bundle, *where)
        assert done.code in (0, 1), done.err
        done = quran_asr("corpus", "scan", place, "--to", tmp_path / "all.jsonl", *where)
        assert done.code == 0, done.err
        done = quran_asr("corpus", "audit", tmp_path / "all.jsonl", "--no-cache", *where)
        assert done.code in (0, 1), done.err
    lines = [json.loads(line) for line in (tmp_path / "out" / "recordings.jsonl").read_text().splitlines()]
    assert sorted(Path(line["audio_filepath"]).name for line in lines) == [
        "112.wav",
        "112001.wav",
        "113.wav",
        "114.wav",
    ]
    assert not any(line["error"] for line in lines)
    assert len((tmp_path / "audit.jsonl").read_text().splitlines()) == 1


@pytest.mark.slow
def test_a_cluster_that_does_not_answer_is_one_line(quran_asr, tmp_path: Path) -> None:
    pytest.importorskip("distributed")
    audio.write(tmp_path / "112001.wav", np.zeros(16_000, np.float32))
    done = quran_asr(
        "corpus", "scan", tmp_path, "--to", tmp_path / "all.jsonl", "--cluster", "tcp://127.0.0.1:9"
    )
    assert done.code == 2 and "no Dask scheduler answers" in done.err and "Traceback" not in done.err
