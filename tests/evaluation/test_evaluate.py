"""From clips and a recognizer to a report and its files."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jiwer
import pytest

from quran_asr.errors import QuranAsrError
from quran_asr.evaluation.evaluate import evaluate, unreadable_findings, write_report
from quran_asr.evaluation.report import Setting, make_report
from quran_asr.evaluation.training_data import TrainingData
from quran_asr.records import Segment, Transcript, VerseRef
from quran_asr.text.quran import load_quran

SETTING = Setting("toy.nemo", "ctc", 1040, "diacritized", "simple", "test.jsonl")
DESIGNED = """
    model decoder look_ahead_ms streaming spelling edition clips hours counts wer wer_interval cer
    cer_interval letters spelling_only_errors recognition_errors cells reciters lengths worst
    mostly_deleted looping_clips
"""


def clip(verse: str, reciter: str = "husary", seconds: float = 6.0) -> Segment:
    ref = VerseRef.parse(verse)
    return Segment(
        f"{reciter}/{verse}.wav", 0.0, seconds, (ref,), load_quran("diacritized").verse(ref), reciter
    )


def recognizer_of(*answers: str | QuranAsrError):  # type: ignore[no-untyped-def]
    def recognize(segments: Sequence[Segment]) -> Iterator[Transcript | QuranAsrError]:
        for answer in answers:
            yield Transcript(answer) if isinstance(answer, str) else answer

    return recognize


VERSES = ["112:1", "112:2", "112:3", "112:4", "2:3"]
SEGMENTS = [clip(verse, reciter) for reciter in ("husary", "afasy") for verse in VERSES]


def hypotheses_with_errors() -> list[str]:
    """Every clip but the first without its last word, the last one repeating its first word."""
    texts = [segment.text for segment in SEGMENTS]
    hypothesis = [texts[0]] + [" ".join(text.split()[:-1]) for text in texts[1:]]
    hypothesis[-1] = f"{hypothesis[-1].split()[0]} {hypothesis[-1]}"
    return hypothesis


def report_of_errors() -> dict[str, Any]:
    training = TrainingData.from_segments([clip("112:1"), clip("112:2")])
    report, _ = evaluate(SEGMENTS, recognizer_of(*hypotheses_with_errors()), SETTING, training)
    return report.to_json()


def test_a_report_has_every_key_that_others_rely_on_and_is_plain_json() -> None:
    report = report_of_errors()
    assert not set(DESIGNED.split()) - set(report)
    assert json.loads(json.dumps(report, allow_nan=False)) == report
    assert (report["model"], report["decoder"], report["look_ahead_ms"]) == ("toy.nemo", "ctc", 1040)
    assert (report["spelling"], report["edition"], report["streaming"]) == ("diacritized", "simple", False)


def test_rates_are_made_from_summed_counts() -> None:
    report = report_of_errors()
    reference, hypothesis = [clip.text for clip in SEGMENTS], hypotheses_with_errors()
    assert report["wer"] == pytest.approx(jiwer.wer(reference, hypothesis), abs=1e-6)
    assert report["cer"] == pytest.approx(jiwer.cer(reference, hypothesis), abs=1e-6)
    assert report["counts"] == {"hits": 37, "substitutions": 0, "insertions": 1, "deletions": 9}
    assert report["letters"]["counts"] == report["counts"]
    assert report["letters"]["cer"] != report["cer"]
    assert report["clips"] == 10
    assert report["hours"] == pytest.approx(60 / 3600, abs=1e-6)
    assert (report["spelling_only_errors"], report["recognition_errors"]) == (0, 10)
    assert report["looping_clips"] == 1
    assert report["mostly_deleted"] == 0
    low, high = report["wer_interval"]
    assert low < report["wer"] < high


def test_groups_hold_each_clip_once() -> None:
    report = report_of_errors()
    for groups in ("cells", "reciters", "lengths"):
        assert sum(group["clips"] for group in report[groups].values()) == 10
        for key in report["counts"]:
            assert sum(group["counts"][key] for group in report[groups].values()) == report["counts"][key]
    assert {name: group["clips"] for name, group in report["cells"].items()} == {
        "seen_reciter/seen_text": 2,
        "seen_reciter/unseen_text": 3,
        "unseen_reciter/seen_text": 2,
        "unseen_reciter/unseen_text": 3,
    }
    assert set(report["reciters"]) == {"husary", "afasy"}
    assert {name: group["clips"] for name, group in report["lengths"].items()} == {"short": 8, "medium": 2}
    assert report["lengths"]["short"]["reference_words"] == [0, 5]
    assert "clips within 2 reciters" in report["interval_method"]


def test_training_that_is_unknown_is_reported() -> None:
    report, _ = evaluate(SEGMENTS[:2], recognizer_of("", ""), SETTING)
    assert set(report.to_json()["cells"]) == {"unknown"}


def test_the_worst_clips_come_first_with_their_words_opposite_each_other() -> None:
    segments = [clip("112:1"), clip("112:2"), clip("112:3")]
    hypothesis = ["قُلْ هُوَ", "اللَّهُ الصَّمَدُ", "لَمْ يَلِدْ قَالَ يُولَدْ"]
    report, _ = evaluate(segments, recognizer_of(*hypothesis), SETTING)
    worst = report.to_json()["worst"]
    assert [clip["verses"] for clip in worst] == [["112:1"], ["112:3"]]
    _, huwa, allahu, ahad = segments[0].text.split()
    assert worst[0]["alignment"][1:] == [
        {"kind": "hit", "reference": huwa, "hypothesis": huwa},
        {"kind": "deletion", "reference": allahu, "hypothesis": ""},
        {"kind": "deletion", "reference": ahad, "hypothesis": ""},
    ]
    assert worst[1]["alignment"][2] == {"kind": "substitution", "reference": "وَلَمْ", "hypothesis": "قَالَ"}


def test_other_texts_that_are_accepted_count_as_right() -> None:
    segment = Segment("a.wav", 0, 1, (), "الم ذلك", "husary", also_accept=("طه", "الم"))
    report, clips = evaluate([segment], recognizer_of("الم"), SETTING)
    assert report.to_json()["wer"] == 0.0
    assert clips[0].score.reference == "الم"


def test_unreadable_clips_are_listed_and_in_no_count() -> None:
    broken = QuranAsrError("the file is empty", where="husary/112:2.wav")
    report, clips = evaluate(SEGMENTS[:3], recognizer_of(SEGMENTS[0].text, broken, SEGMENTS[2].text), SETTING)
    reference = report.to_json()
    assert (reference["clips"], reference["wer"], len(clips)) == (2, 0.0, 2)
    (listed,) = reference["unreadable"]
    assert (listed["audio_filepath"], listed["reason"]) == ("husary/112:2.wav", "the file is empty")
    (finding,) = unreadable_findings(report)
    assert finding.severity == "error"
    assert finding.message == "1 of 3 clips could not be read and is excluded: the file is empty"
    assert "112:2.wav" in finding.where  # its line, where the manifest is there
    with pytest.raises(QuranAsrError, match="none of 1 clip can be read; the first: the file is empty"):
        evaluate(SEGMENTS[1:2], recognizer_of(broken), SETTING)
    with pytest.raises(QuranAsrError, match="no clip"):
        evaluate([], recognizer_of(), SETTING)


@pytest.mark.parametrize("answers", [1, 3])
def test_answers_that_do_not_fit_the_clips_are_refused(answers: int) -> None:
    with pytest.raises(ValueError, match="zip"):
        evaluate(SEGMENTS[:2], recognizer_of(*["قل"] * answers), SETTING)


def test_answers_are_taken_one_by_one() -> None:
    asked: list[int] = []
    done: list[tuple[int, int]] = []

    def recognize(segments: Sequence[Segment]) -> Iterable[Transcript]:
        for place, segment in enumerate(segments):
            asked.append(place)
            assert len(done) == place  # the clip before has been reported
            yield Transcript(segment.text)

    evaluate(SEGMENTS[:3], recognize, SETTING, on_progress=lambda *at: done.append(at))
    assert done == [(1, 3), (2, 3), (3, 3)]


def test_empty_references_give_no_rate_and_no_nan() -> None:
    silence = Segment("a.wav", 0.0, 0.0, (), "", "")
    report, _ = evaluate([silence, silence], recognizer_of("قل", ""), SETTING)
    reference = report.to_json()
    json.dumps(reference, allow_nan=False)
    assert (reference["wer"], reference["cer"], reference["wer_interval"], reference["letters"]["wer"]) == (
        None,
        None,
        None,
        None,
    )
    assert reference["counts"]["insertions"] == 1
    assert set(reference["reciters"]) == {"unknown"}
    json.dumps(make_report([], SETTING).to_json(), allow_nan=False)


def test_report_and_transcripts_are_written_to_one_folder(tmp_path: Path) -> None:
    report, clips = evaluate(SEGMENTS, recognizer_of(*hypotheses_with_errors()), SETTING)
    folder = tmp_path / "new" / "folder"
    write_report(folder, report, clips)
    write_report(folder, report, clips)  # twice: replaced, not appended
    assert sorted(file.name for file in folder.iterdir()) == ["report.json", "transcripts.jsonl"]
    assert json.loads((folder / "report.json").read_text(encoding="utf-8")) == report.to_json()
    lines = [
        json.loads(line) for line in (folder / "transcripts.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    assert [line["hypothesis"] for line in lines] == hypotheses_with_errors()
    assert [line["reference"] for line in lines] == [segment.text for segment in SEGMENTS]
    assert lines[1]["counts"] == {"hits": 1, "substitutions": 0, "insertions": 0, "deletions": 1}
    assert (lines[1]["audio_filepath"], lines[1]["verses"]) == ("husary/112:2.wav", ["112:2"])
    assert (lines[-1]["looping"], lines[-1]["reciter"], lines[-1]["duration"]) == (True, "afasy", 6.0)
