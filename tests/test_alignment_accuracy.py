"""`tools/alignment_accuracy.py`: what the published times mark as repeats."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tools"))
from alignment_accuracy import marked_repeats


def stretch(start: float, first: int, last: int) -> dict[str, float]:
    return {"start": start, "word_from": first, "word_to": last}


def test_going_back_is_marked_once_however_often_the_reciter_pauses_then() -> None:
    again = [stretch(3, 1, 7), stretch(5, 8, 16)]
    verse = {"verse": "64:11", "segments": [stretch(1, 1, 12), stretch(2, 13, 16), *again]}
    following = {"verse": "64:12", "segments": [stretch(7, 1, 4), stretch(8, 4, 6)]}
    assert marked_repeats({"verses": [verse, following]}) == [("64:11", 3), ("64:12", 8)]


def test_a_stretch_over_the_end_of_a_verse_may_go_back_too() -> None:
    joined = [
        {"start": 1, "word_from": "85:14:1", "word_to": "85:15:3"},
        {"start": 3, "word_from": "85:15:1", "word_to": "85:16:3"},
        {"start": 5, "word_from": "85:17:1", "word_to": "85:18:2"},
    ]
    verses = [{"verse": f"85:{ayah}", "segments": []} for ayah in range(14, 19)]
    assert marked_repeats({"verses": verses, "joined": joined}) == [("85:15", 3)]
