"""Ranges and verses of equal wording."""

from __future__ import annotations

import pytest

from quran_asr.errors import QuranAsrError
from quran_asr.records import VerseRef
from quran_asr.text.passages import parse_range, twins
from quran_asr.text.quran import load_quran
from quran_asr.text.spelling import SPELLINGS

QURAN = load_quran()


def refs(*written: str) -> tuple[VerseRef, ...]:
    return tuple(VerseRef.parse(each) for each in written)


def test_ranges():
    assert parse_range("2:255") == refs("2:255")
    assert parse_range(" 2:255-257 ") == refs("2:255", "2:256", "2:257")
    assert parse_range("2:255-255") == refs("2:255")
    assert parse_range("112") == refs("112:1", "112:2", "112:3", "112:4")


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("115", "there is no surah 115"),
        ("0", "there is no surah 0"),
        ("2:287", "surah 2 has 286 verses"),
        ("2:280-290", "there is no verse 2:290"),
        ("2:0", "there is no verse 2:0"),
        ("2:5-3", "ends before it begins"),
        ("", "names no verses"),
        ("2:", "names no verses"),
        ("2:1-", "names no verses"),
        ("2:a", "names no verses"),
        ("-2", "names no verses"),
        ("٢:٣", "names no verses"),
        ("2-3", "names no verses"),
    ],
)
def test_ranges_that_name_nothing(written, message):
    with pytest.raises(QuranAsrError) as error:
        parse_range(written)
    assert message in error.value.what and error.value.remedy


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_verses_of_equal_wording(spelling):
    quran = load_quran(spelling)
    blessing = VerseRef(55, 13)
    assert len(twins(quran, blessing)) == 30
    assert {ref.surah for ref in twins(quran, blessing)} == {55} and blessing not in twins(quran, blessing)
    for one, other in (("30:1", "2:1"), ("26:9", "26:122"), ("37:82", "26:66"), ("81:19", "69:40")):
        assert VerseRef.parse(other) in twins(quran, VerseRef.parse(one))
        assert VerseRef.parse(one) in twins(quran, VerseRef.parse(other))
    assert twins(quran, VerseRef(2, 255)) == ()
    with pytest.raises(QuranAsrError, match="surah 112 has 4 verses"):
        twins(quran, VerseRef(112, 5))
