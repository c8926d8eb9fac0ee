"""`transcripts.jsonl`, written and read back; what stands in it is not trusted."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from quran_asr.errors import QuranAsrError
from quran_asr.evaluation.report import ScoredClip
from quran_asr.evaluation.scoring import score_clips
from quran_asr.evaluation.transcripts import MOST_WORDS, read_transcripts, worst, write_transcripts
from quran_asr.records import Segment, VerseRef

REFERENCES = ["قل هو الله أحد", "الله الصمد", "لم يلد ولم يولد"]
HYPOTHESES = ["قل هو الله", "الله الصمد", "لم ولم يلد يولد"]


def clips() -> list[ScoredClip]:
    scores = score_clips([(text,) for text in REFERENCES], HYPOTHESES, "letters")
    return [
        ScoredClip(Segment(f"/r/{n}.flac", 0.5 * n, 2.0, (VerseRef(112, n),), text, "Ali"), score)
        for n, (text, score) in enumerate(zip(REFERENCES, scores, strict=True), start=1)
    ]


def test_what_was_written_is_read(tmp_path: Path) -> None:
    written = clips()
    write_transcripts(tmp_path / "t.jsonl", written)
    read = read_transcripts(tmp_path / "t.jsonl")
    assert [clip.segment for clip in read] == [clip.segment for clip in written]
    assert [clip.hypothesis for clip in read] == HYPOTHESES
    assert [clip.words for clip in read] == [clip.score.words for clip in written]
    assert [clip.edits() for clip in read] == [clip.score.edits() for clip in written]
    assert [clip.segment.verses[0].ayah for clip in worst(read, 5)] == [3, 1], (
        "most errors first, none without"
    )
    assert len(worst(read, 1)) == 1


GOOD = {"audio_filepath": "a.flac", "offset": 0, "duration": 1, "reference": "قل", "hypothesis": ""}


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("{", "is not a line of transcripts"),
        ("[]", "is not a line of transcripts"),
        ("[" * 100_000, "is not a line of transcripts"),
        (GOOD | {"reference": 3}, "`reference` is missing or no text"),
        (GOOD | {"hypothesis": None}, "`hypothesis` is missing or no text"),
        (GOOD | {"hypothesis": "a " * (MOST_WORDS + 1)}, "more than 10,000 words"),
        (GOOD | {"verses": "1:1"}, "`verses` is not a list"),
        (GOOD | {"verses": ["one"]}, "`one` is not a verse"),
        (GOOD | {"offset": -1}, "`offset` is not a number of seconds"),
        (
            json.dumps(GOOD).replace('"duration": 1', '"duration": NaN'),
            "`duration` is not a number of seconds",
        ),
        (
            json.dumps(GOOD).replace('"duration": 1', f'"duration": 1{"0" * 400}'),
            "`duration` is not a number",
        ),
    ],
)
def test_a_line_that_is_wrong_is_named(tmp_path: Path, line: object, what: str) -> None:
    path = tmp_path / "t.jsonl"
    text = line if isinstance(line, str) else json.dumps(line)
    path.write_text(f"{json.dumps(GOOD)}\n\n{text}\n", encoding="utf-8")
    with pytest.raises(QuranAsrError) as error:
        read_transcripts(path)
    assert what in error.value.what
    assert error.value.where == f"{path}:3"


def test_what_is_not_a_file_of_transcripts_is_reported(tmp_path: Path) -> None:
    (tmp_path / "bytes").write_bytes(b"\xff\xfe\x00")
    for name, what in (("none", "no such file"), (".", "is a folder"), ("bytes", "is not UTF-8")):
        with pytest.raises(QuranAsrError, match=what):
            read_transcripts(tmp_path / name)
