"""Ranges and verses of equal wording."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quran_asr.errors import QuranAsrError
from quran_asr.records import VerseRef
from quran_asr.text.passages import parse_range, read_passage, read_reference, twins
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


@pytest.mark.parametrize(
    ("written", "parts"),
    [
        *((range_, (range_,)) for range_ in ("36", "2:255", " 2:1-141 ")),
        *(
            (short, ("112", "113", "114"))
            for short in ("112-114", "112 – 114", "112 to 114", "surahs 112-114")
        ),
        *(
            (short, ("112", "113", "114"))
            for short in ("112,113,114", "112, 113 and 114", "١١٢،١١٣،١١٤", "112,113-114,")
        ),
        *(
            (short, ("112", "113", "114"))
            for short in ("Al-Ikhlas - An-Nas", "الإخلاص إلى الناس", "ikhlas, falaq, nas")
        ),
        ("1:1-2:5", ("1", "2:1-5")),
        ("2:286-3:2", ("2:286", "3:1-2")),
        ("1-2:5", ("1", "2:1-5")),
        ("al-baqara 285 - al-imran 5", ("2:285-286", "3:1-5")),
        *(
            (name, ("112",))
            for name in ("Al-Ikhlas", "surat al-ikhlas", "سورة الإخلاص", "Quran 112", "(112)")
        ),
        *((name, ("36",)) for name in ("Ya-Sin", "yaseen", "سورة يس", "s36", "٣٦")),
        *(
            (name, ("2:255",))
            for name in ("ayat al-kursi", "آية الكرسي", "Al-Baqarah, 255", "chapter 2, verse 255")
        ),
        *(
            (name, ("78-114",))
            for name in ("juz 30", "Juz' Amma", "juz ʿamma", "para 30", "جزء عم", "الجزء ٣٠")
        ),
        ("juz 1", ("1", "2:1-141")),
        ("juz 29-30", ("67-77", "78-114")),
        ("78,79", ("78", "79")),
        ("2:255, surah 112", ("2:255", "112")),
        ("2:255,257", ("2:255", "2:257")),  # there are 114 surahs
        ("2:1-5, 110-120, 257", ("2:1-5", "2:110-120", "2:257")),
        ("113:1-3, 112", ("113:1-3", "112")),  # there is no verse 113:112
        ("1, 112, 1, 113", ("1", "112", "1", "113")),  # as in a prayer
    ],
)
def test_passages_as_people_write_them(written, parts):
    wanted = []
    for part in parts:
        first, dash, last = part.partition("-")
        surahs = range(int(first), int(last) + 1) if dash and ":" not in part else [part]
        wanted += [ref for one in surahs for ref in parse_range(str(one))]
    assert read_passage(written) == tuple(wanted)


def test_the_parts_are_the_whole_quran():
    assert sum((read_passage(f"juz {number}") for number in range(1, 31)), ()) == QURAN.refs
    assert read_passage("juz 1-30") == read_passage("1-114") == QURAN.refs


@pytest.mark.parametrize(
    ("written", "message"),
    [
        *(
            (nothing, "names no verses")
            for nothing in ("", " ", ",", "2:", "2:1-", "2:a", "-2", "x", "78,,79", "036.mp3")
        ),
        *(
            (nothing, "names no verses")
            for nothing in ("9" * 5000, "2:255 " * 1000, "juz", "112-", "page 50", "husary")
        ),
        ("115", "there is no surah 115"),
        ("2:287", "surah 2 has 286 verses"),
        ("2:280-290", "there is no verse 2:290"),
        ("2-255", "there is no surah 255"),
        ("juz 31", "there is no juz 31"),
        ("juz 0", "there is no juz 0"),
        ("114-112", "ends before it begins"),
        ("2:286-2:1", "ends before it begins"),
        ("juz 30-29", "ends before it begins"),
        ("78, 115", "there is no surah 115"),
        ("2:255, 112", "`112` after `2:255` may be a surah or a verse"),
        ("2:1-5,7-9", "`7-9` after `2:1-5` may be a surah or a verse"),
    ],
)
def test_passages_that_name_nothing(written, message):
    with pytest.raises(QuranAsrError) as error:
        read_passage(written)
    assert message in error.value.what and error.value.remedy and len(error.value.what) < 200


@given(st.integers(0, 6235), st.integers(0, 6235))
def test_a_passage_from_a_verse_to_another(one, other):
    first, last = sorted((one, other))
    assert read_passage(f"{QURAN.refs[first]}-{QURAN.refs[last]}") == QURAN.refs[first : last + 1]


@given(st.text(alphabet="0123456789:-,–،juzand alNsR٣'\u200f\n", max_size=30))
def test_any_passage_is_read_or_refused(written):
    try:
        assert read_passage(written)
    except QuranAsrError as error:
        assert error.remedy


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
        (
            "2-5",
            "2:5",
        ),  # surah and verse; in `parse_range` and `read_passage` a hyphen is only that of a range
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
