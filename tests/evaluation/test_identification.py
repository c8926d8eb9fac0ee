"""How identified verses are scored."""

from __future__ import annotations

import pytest

from quran_asr.errors import QuranAsrError
from quran_asr.evaluation.identification import identification_table, score_places
from quran_asr.records import Segment, VerseRef
from quran_asr.text.quran import load_quran

QURAN = load_quran("letters")


def refs(written: str) -> tuple[VerseRef, ...]:
    return tuple(VerseRef.parse(one) for one in written.split())


def clip(verses: str, reciter: str = "husary", also_accept: tuple[str, ...] = ()) -> Segment:
    other = tuple(QURAN.text(refs(one)) for one in also_accept)
    return Segment("clip.flac", 0.0, 5.0, refs(verses), QURAN.text(refs(verses)), reciter, other)


@pytest.mark.parametrize(
    ("recited", "found", "outcome", "recall", "precision"),
    [
        ("2:255", ("2:255",), "exact", 1, 1),
        ("2:255", (), "nothing", 0, 0),
        ("2:255", ("3:2",), "wrong", 0, 0),
        ("112:1 112:2", ("112:1",), "partial", 0.5, 1),
        ("112:1", ("112:1 112:2",), "partial", 1, 0.5),
        ("112:1 112:2", ("112:2 112:1",), "partial", 1, 1),
        ("55:13", ("55:16",), "exact", 1, 1),
        ("109:3 109:4", ("109:5 109:4",), "exact", 1, 1),
        ("109:2", ("112:1", "109:2"), "exact", 1, 1),
        ("112:1 112:1", ("112:1",), "partial", 0.5, 1),
    ],
)
def test_outcomes(
    recited: str, found: tuple[str, ...], outcome: str, recall: float, precision: float
) -> None:
    """55:13 and 55:16, 109:3 and 109:5 have the same words; the last place but one is of equal wording."""
    scored = score_places(clip(recited), tuple(refs(place) for place in found), "letters")
    assert (scored.outcome, scored.recall, scored.precision) == (outcome, recall, precision)


def test_other_verses_that_are_accepted_are_exact() -> None:
    scored = score_places(clip("3:23", also_accept=("4:44",)), (refs("4:44"),), "letters")
    assert (scored.outcome, scored.recall, scored.precision) == ("exact", 1, 1)


def test_the_table_counts_by_reciter_and_lists_what_was_missed() -> None:
    unnamed = Segment("b.flac", 0.0, 5.0, (), QURAN.text(refs("112:1")), "husary")
    clips = [clip("112:1"), clip("112:2", ""), unnamed, clip("112:3"), clip("112:4")]
    answers = [(refs("112:1"),), (refs("113:1"),), QuranAsrError("cannot be read"), ()]
    done: list[tuple[int, int]] = []
    table = identification_table(
        clips, lambda named: answers[: len(named)], "letters", lambda *counts: done.append(counts)
    )
    written = table.to_json()
    assert {key: written[key] for key in ("clips", "exact", "partial", "wrong", "nothing")} == {
        "clips": 3,
        "exact": 1,
        "partial": 0,
        "wrong": 1,
        "nothing": 1,
    }
    assert written["recall"] == pytest.approx(1 / 3, abs=1e-6)
    assert written["reciters"]["unknown"]["wrong"] == 1 and written["reciters"]["husary"]["exact"] == 1
    assert [(one["verses"], one["found"]) for one in written["missed"]] == [
        (["112:2"], ["113:1"]),
        (["112:4"], []),
    ]
    assert done[-1] == (4, 4)
    with pytest.raises(QuranAsrError, match="names its verses"):
        identification_table([unnamed], lambda named: [], "letters")
