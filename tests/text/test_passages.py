"""Ranges and verses of equal wording."""

from __future__ import annotations

import pytest

from quran_asr.errors import QuranAsrError
from quran_asr.records import VerseRef
from quran_asr.text.passages import parse_range, read_reference, twins
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
        ("9" * 5000, "names no verses"),
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


@pytest.mark.parametrize(
    "middle",
    ["2:255", "2：255", "2;255", "2؛255", "2،255", "2-255", "2 – 255", "٢:٢٥٥", "2 : 255", "002:255"],
)
def test_references_with_what_people_write_around_them(middle):
    for before in ("", "(", "[", "{", "﴿", '"', "«", "Quran ", "The Holy Qur'an, ", "Qurʾān ", "• "):
        for after in ("", ")", "]", "}", "﴾", '"', "»", ".", " !", "؟"):
            assert read_reference(before + middle + after) == refs("2:255"), before + middle + after


@pytest.mark.parametrize(
    "written",
    [
        *("Q 2:255", "Q2:255", "q.2:255", "QS 2:255", "QS. 2: 255", "Q.S. 2:255", "Q.S. Al-Baqarah: 255"),
        *("Koran 2:255", "Al-Quran 2:255", "القرآن 2:255", "القرآن الكريم ٢:٢٥٥", "QS Al-Baqarah [2]: 255"),
        *(
            "(Quran 2:255)",
            "(Al-Baqarah, 255)",
            "{البقرة 255}",
            "﴿البقرة: ٢٥٥﴾",
            "[البقرة/255]",
            "البقرة (255)",
        ),
        *("سورةالبقرة 255", "سورةالبقرة٢٥٥", "سُورَةُ الْبَقَرَةِ آيَة 255", "البقرة أية 255", "البقرة الآية رقم 255"),
        *("آية 2:255", "الآية ٢:٢٥٥", "verse 2:255", "ayah 2:255", "v. 2:255", "s2:255", "ch. 2 v. 255"),
        *(
            "chapter 2, verse 255",
            "2v255",
            "Surah 2 (Al-Baqarah) verse 255",
            "Al-Baqarah 2:255",
            "البقرة 2:255",
        ),
        *("al-baqara-255", "Al-Baqarah;255", "\u200f2:255\u200e", "الآية 255 من سورة البقرة", "2:255-2:255"),
        *(
            "verse 255 of Al-Baqarah (2)",
            "002:255-002:255",
            "verse no. 255 of al-baqara",
            "２：２５５",
            "۲:۲۵۵",
        ),
    ],
)
def test_references_as_people_write_them(written):
    assert read_reference(written) == refs("2:255")


@pytest.mark.parametrize(
    ("written", "wanted"),
    [
        ("2-5", "2:5"),  # surah and verse; in `parse_range` a hyphen is only that of a range
        ("2-255-257", "2:255-257"),
        ("(2:255-257).", "2:255-257"),
        ("Qur'an 2:255–257", "2:255-257"),
        ("2:255 to 257", "2:255-257"),
        ("2:255 إلى 257", "2:255-257"),
        ("الآيات 285-286 من سورة البقرة", "2:285-286"),
        ("البقرة من 255 إلى 257", "2:255-257"),
        ("سوره النساء ايه ٣٤", "4:34"),
        ("النساء 1", "4:1"),
        ("Quran 112", "112"),
        ("(112)", "112"),
        ("سورة٢", "2"),
        ("112.", "112"),
    ],
)
def test_references_to_other_verses(written, wanted):
    assert read_reference(written) == parse_range(wanted)


@pytest.mark.parametrize(
    "written",
    [
        "",
        "()",
        "2:",
        "2:255-",
        "-",
        "Q",
        "Quran",
        "Juz 30",
        "page 50",
        "آية 255",
        "verse 255",
        "verses 5-7",
        "2:255 " * 1000,
        "2:255:3",
        "qaf",
        "1 2 3 4",
    ],
)
def test_what_is_not_a_reference(written):
    assert read_reference(written) == ()


@pytest.mark.parametrize(
    "written", ["al-baqara 3:255", "البقرة 3:255", "Surah 3 (Al-Baqarah) verse 255", "2:5-3:4"]
)
def test_references_to_two_surahs(written):
    with pytest.raises(QuranAsrError, match="two surahs"):
        read_reference(written)
