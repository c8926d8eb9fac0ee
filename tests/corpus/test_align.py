"""Recordings to clips: which are used, what is written, and what an interruption costs."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quran_asr import audio
from quran_asr.corpus import align as corpus_align
from quran_asr.corpus.align import Limits, Source, align_recordings, find_sources
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

    def known(recording: str, verses: Sequence[VerseRef] | None, recognizer: object) -> AlignedRecording:
        if Path(recording).read_bytes() != Path(surah.audio).read_bytes():
            audio.read(recording)
        holds = verses and Source(recording, "", tuple(verses)).holds
        asked.append(f"{Path(recording).name} {holds}")
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


def test_what_was_not_the_fault_of_a_recording_is_tried_again(
    surah: AlignedRecording, aligner: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "in" / "reader").mkdir(parents=True)
    (tmp_path / "in" / "reader" / "098.flac").write_bytes(Path(surah.audio).read_bytes())
    in_the_way = tmp_path / "out" / "reader"
    in_the_way.parent.mkdir()
    (tmp_path / "out" / "recordings.jsonl").touch()
    in_the_way.touch()  # no folder can be made here
    first = run(tmp_path, tmp_path / "in")
    ((audio_file, error),) = first.failed
    assert Path(audio_file).name == "098.flac" and str(in_the_way) in error and first.clips == 0
    in_the_way.unlink()
    again = run(tmp_path, tmp_path / "in")
    assert (again.resumed, again.failed) == (0, ()) and again.clips
    assert run(tmp_path, tmp_path / "in").resumed == 1


def test_a_damaged_recording_that_was_taken_away_is_no_failure(
    surah: AlignedRecording, aligner: list[str], tmp_path: Path
) -> None:
    place = tmp_path / "in" / "reader"
    place.mkdir(parents=True)
    (place / "098.flac").write_bytes(Path(surah.audio).read_bytes())
    (place / "100.flac").write_bytes(b"")
    assert [Path(name).name for name, _ in run(tmp_path, place).failed] == ["100.flac"]
    (place / "100.flac").unlink()
    again = run(tmp_path, place)
    assert (again.resumed, again.failed) == (1, ()) and again.clips


def test_sources_of_folders_and_manifests(tmp_path: Path) -> None:
    for name in ("Reader_128kbps/036.mp3", "Reader_128kbps/evening.mp3", "Other/002.opus", "Other/notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    found = [(Path(one.audio).name, one.reciter, one.holds) for one in find_sources([tmp_path])]
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
    found = find_sources([manifest])
    assert [one.holds for one in found] == ["36", "2:1-2, 2:141", ""]
    assert found[1].verses == (VerseRef(2, 1), VerseRef(2, 2), VerseRef(2, 141))
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


def sources_of(folder: Path, *lines: dict[str, object]) -> list[Source]:
    manifest = folder / "lines.jsonl"
    named = [{"audio_filepath": "a.mp3", "reciter": "Reader", **line} for line in lines]
    manifest.write_text("".join(json.dumps(line) + "\n" for line in named))
    return find_sources([manifest])


@pytest.mark.parametrize(
    ("verses", "holds"),
    [
        ([*parse_range("112"), *parse_range("113")], "112, 113"),
        ([*parse_range("112:3-4"), *parse_range("113:1-2")], "112:3-4, 113:1-2"),
        ([VerseRef(112, 1), VerseRef(112, 3), VerseRef(112, 2)], "112:1, 112:3, 112:2"),
        ([VerseRef(112, 3), VerseRef(112, 1)], "112:3, 112:1"),
        ([VerseRef(112, 1), VerseRef(112, 1), VerseRef(112, 2)], "112:1, 112:1-2"),
    ],
)
def test_the_passage_is_every_verse_of_the_line_in_its_order(
    verses: list[VerseRef], holds: str, tmp_path: Path
) -> None:
    (source,) = sources_of(tmp_path, {"verses": [str(verse) for verse in verses]})
    assert source.verses == tuple(verses) and source.holds == holds


@given(st.lists(st.sampled_from(QURAN.refs), min_size=1, max_size=12))
def test_any_passage_can_be_written_and_read_again(verses: list[VerseRef]) -> None:
    holds = Source("a.mp3", "Reader", tuple(verses)).holds
    assert [verse for part in holds.split(", ") for verse in parse_range(part)] == verses


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ({"verses": ["112:1", "112:5"]}, "112"),
        ({"verses": ["112"]}, "not a verse"),
        ({"verses": 36}, "not a list"),
        ({"surah": True}, "`surah` is not a number"),
        ({"offset": -1}, "`offset` is not a number of seconds"),
        ({"offset": "20"}, "`offset` is not a number of seconds"),
        ({"duration": 0}, "`duration` is 0"),
        ({"duration": True}, "`duration` is not a number of seconds"),
        ({"duration": 1e9}, "`duration` is not a number of seconds"),
        ({"audio_filepath": "a\0.mp3"}, "not a path"),
        ({"reciter": "a\0b"}, "not a name for a folder"),
    ],
)
def test_a_wrong_line_is_named(line: dict[str, object], what: str, tmp_path: Path) -> None:
    with pytest.raises(QuranAsrError, match=what) as error:
        sources_of(tmp_path, {"audio_filepath": "other.mp3"}, line)
    assert error.value.where == f"{tmp_path / 'lines.jsonl'}:2" and error.value.remedy


def test_a_line_is_a_stretch_of_a_recording(tmp_path: Path) -> None:
    first, second, last = sources_of(
        tmp_path,
        {"duration": 20.5, "surah": 112},
        {"offset": 20.3, "duration": 40, "surah": 113},
        {"offset": 60.3, "duration": None, "surah": 114},
    )
    assert [one.stretch for one in (first, second, last)] == [(0.0, 20.5), (20.3, 40.0), (60.3, None)]
    assert first.folder == second.folder == "Reader"
    unknown = sources_of(tmp_path, {"duration": 20}, {"offset": 20.3, "duration": 40})
    assert [one.folder for one in unknown] == ["Reader/a", "Reader/a-20.3"]


@pytest.mark.parametrize(
    ("one", "other", "what"),
    [
        ({}, {}, "this recording is named twice"),
        ({"duration": 40}, {"offset": 10, "duration": 35}, "most of this stretch is named twice"),
        ({}, {"offset": 10, "duration": 35}, "most of this stretch is named twice"),
        ({"offset": 5}, {"offset": 300}, "most of this stretch is named twice"),
        ({"duration": 20, "surah": 112}, {"offset": 20, "surah": 112}, "clips of 112:1 would have the names"),
    ],
)
def test_a_stretch_that_is_named_twice_is_refused(
    one: dict[str, object], other: dict[str, object], what: str, tmp_path: Path
) -> None:
    with pytest.raises(QuranAsrError, match=what) as error:
        sources_of(tmp_path, {"surah": 112, **one}, {"surah": 113, **other})
    assert "a.mp3" in (error.value.where or "") and error.value.remedy


@pytest.mark.parametrize("to", ["in", "in/reader", "elsewhere/../in", "."])
def test_clips_are_never_written_among_the_recordings(
    surah: AlignedRecording, aligner: list[str], to: str, tmp_path: Path
) -> None:
    place = tmp_path / "in" / "reader"
    place.mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    (place / "098.flac").write_bytes(Path(surah.audio).read_bytes())
    walked = place if to in (".", "in") else tmp_path / "in"
    if to == "in/reader":
        walked = place
    if to == ".":  # RECITER/SSSAAA.flac is in the folder of recordings, which is called like the reciter
        place.rename(tmp_path / "reader")
        walked = tmp_path / "reader"
    with (
        ThreadPoolExecutor(1) as executor,
        pytest.raises(QuranAsrError, match="among the recordings") as error,
    ):
        align_recordings([walked], tmp_path / to, tmp_path / "bundle", executor=executor)
    assert "--to" in error.value.remedy and not aligner
    assert [path.name for path in tmp_path.rglob("*.flac")] == ["098.flac"]


def test_a_folder_of_clips_within_that_of_the_recordings_is_left_out(
    surah: AlignedRecording, aligner: list[str], tmp_path: Path
) -> None:
    place = tmp_path / "in" / "reader"
    place.mkdir(parents=True)
    (place / "098.flac").write_bytes(Path(surah.audio).read_bytes())
    to = tmp_path / "in" / "aligned"
    for done_before in (0, 1):
        with ThreadPoolExecutor(1) as executor:
            report = align_recordings([tmp_path / "in"], to, tmp_path / "bundle", executor=executor)
        assert report.resumed == done_before and [one.recordings for one in report.reciters] == [1]
    assert aligner == ["098.flac 98"] and list((to / "reader").glob("098*.flac"))


@pytest.fixture(scope="module")
def two_surahs(recordings: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, float]]:
    """112 and 113 in one recording, each verse once, in this order, and where each begins in it."""
    folder = recordings / "recitations" / "abdullah-basfar"
    pause = np.zeros(8_000, np.float32)
    pieces, starts, length = [pause], {}, 8_000
    for ref in [*parse_range("112"), *parse_range("113")]:
        samples = audio.read(folder / f"{ref.surah:03}{ref.ayah:03}.opus")
        starts[str(ref)] = length / 16_000
        pieces += [samples, pause]
        length += len(samples) + len(pause)
    starts["end"] = length / 16_000
    path = tmp_path_factory.mktemp("two") / "both.wav"
    audio.write(path, np.concatenate(pieces))
    return path, starts


def clips_of(folder: Path) -> dict[str, tuple[float, float]]:
    """Verse -> start and end in the recording, of the clips in the manifest; each verse occurs once."""
    lines = [json.loads(line) for line in (folder / "manifest.jsonl").read_text("utf-8").splitlines()]
    clips = {
        line["verses"][0]: (line["source"]["start"], line["source"]["end"])
        for line in lines
        if "verses" in line
    }
    assert len({line["audio_filepath"] for line in lines}) == len(lines) >= len(clips)
    return clips


@pytest.mark.data
@pytest.mark.slow
def test_stretches_and_passages_of_two_surahs(
    two_surahs: tuple[Path, dict[str, float]], quran_asr, tmp_path: Path
) -> None:
    """The clips of a stretch lie within it; their times are those of the recording."""
    recording, starts = two_surahs
    verses = [verse for verse in starts if verse != "end"]
    border, to = starts["113:1"] - 0.25, tmp_path / "out"

    def lines(*some: dict[str, object]) -> Path:
        path = tmp_path / "all.jsonl"
        named = [{"audio_filepath": str(recording), "reciter": "reader", **one} for one in some]
        path.write_text("".join(json.dumps(one) + "\n" for one in named))
        return path

    def near(clips: dict[str, tuple[float, float]]) -> bool:
        after = dict(zip(verses, [*verses[1:], "end"], strict=True))
        return all(
            starts[verse] - 0.6 < start < starts[verse] + 0.4 and abs(end - starts[after[verse]]) < 0.9
            for verse, (start, end) in clips.items()
        )

    done = quran_asr("corpus", "align", lines({"verses": verses}), "--to", to, "--json")
    assert done.code == 0, done.err
    whole = clips_of(to)
    assert list(whole) == verses and near(whole)
    assert json.loads((to / "recordings.jsonl").read_text())["holds"] == "112, 113"

    stretches = (
        {"duration": border, "surah": 112},
        {"offset": border, "duration": starts["end"] - border, "verses": verses[4:]},
    )
    done = quran_asr("corpus", "align", lines(*stretches), "--to", to, "--json")
    assert done.code == 0, done.err
    clips = clips_of(to)  # the two stretches replace the recording
    assert list(clips) == verses and near(clips)
    assert all(border <= start for verse, (start, _) in clips.items() if verse in verses[4:])
    written = audio.read(to / "reader" / "113002.flac")
    start, end = clips["113:2"]
    assert len(written) == pytest.approx((end - start) * 16_000, abs=32)
    assert np.abs(written[:16_000] - audio.read(recording, start, 1.0)).max() < 1e-3
    done = quran_asr("corpus", "align", lines(*stretches), "--to", to, "--json")
    assert json.loads(done.out)["resumed"] == 2 and clips_of(to) == clips

    wrong = lines({"offset": border, "surah": 109}, {"offset": 0, "duration": 0.4, "verses": ["112:2"]})
    done = quran_asr("corpus", "align", wrong, "--to", tmp_path / "wrong", "--json")
    (other,) = json.loads(done.out)["other_passages"]
    assert (other["expected"], other["found"]) == ("109", "113:1-5")


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
