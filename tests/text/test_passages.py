"""Ranges, verses of equal wording, and finding words however they are typed."""

from __future__ import annotations

import pytest

from quran_asr.errors import QuranAsrError
from quran_asr.records import VerseRef
from quran_asr.text.passages import NEAREST, find, parse_range, twins
from quran_asr.text.quran import load_quran
from quran_asr.text.spelling import SPELLINGS

QURAN = load_quran()


def refs(*written: str) -> tuple[VerseRef, ...]:
    return tuple(VerseRef.parse(each) for each in written)


def places(words: str, spelling: str = "diacritized") -> list[str]:
    return [str(match.ref) for match in find(load_quran(spelling), words)]


def test_ranges():
    assert parse_range("2:255") == refs("2:255")
    assert parse_range(" 2:255-257 ") == refs("2:255", "2:256", "2:257")
    assert parse_range("2:255-255") == refs("2:255")
    assert parse_range("112") == refs("112:1", "112:2", "112:3", "112:4")


@pytest.mark.parametrize(
    ("written", "said"),
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
def test_ranges_that_name_nothing(written, said):
    with pytest.raises(QuranAsrError) as error:
        parse_range(written)
    assert said in error.value.what and error.value.remedy


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


@pytest.mark.parametrize("words", ["قل هو الله أحد", "قُلْ هُوَ اللَّهُ أَحَدٌ", "قُلْ هُوَ ٱللَّهُ أَحَدٌ", "قل هو الله احد"])
def test_a_verse_is_found_however_it_is_typed(words):
    (match,) = find(QURAN, words)
    assert match.ref == VerseRef(112, 1) and match.exact
    assert match.text == "قُلْ هُوَ اللَّهُ أَحَدٌ"
    assert " ".join(match.words) == match.text


def test_every_verse_is_found_by_its_own_words_in_both_editions():
    for ref in QURAN.refs[3::1039]:
        for spelling in SPELLINGS:
            found = find(QURAN, load_quran(spelling).verse(ref))
            assert ref in [match.ref for match in found if match.exact], f"{ref} {spelling}"


def test_only_whole_words_standing_together_are_exact():
    matches = find(QURAN, "الحي القيوم")
    assert [str(match.ref) for match in matches] == ["2:255", "3:2"]
    assert all(match.exact and match.words == ("الْحَيُّ", "الْقَيُّومُ") for match in matches)
    assert "20:111" not in places("الحي القيوم")  # لِلْحَيِّ الْقَيُّومِ


def test_letters_that_are_there_go_before_letters_that_might_be_meant():
    assert len(places("إلى")) > 300 and set(places("إلى")) < set(places("الى"))
    assert set(places("أن")) | set(places("إن")) <= set(places("ان"))
    assert places("أن") != places("إن")


def test_the_mushafs_signs_are_looked_up_in_the_mushaf():
    book, wrote = places("كِتَـٰبٌ"), places("كتب")
    assert "2:89" in book and "2:183" not in book  # كِتَابٌ and كُتِبَ
    assert "2:183" in wrote and "2:89" not in wrote
    assert "2:43" in places("ٱلصلوة") and places("الصلوة") == places("ٱلصلوة")
    assert places("آدم") == places("ادم")
    assert "2:31" in places("ءَادَمَ") and set(places("ءَادَمَ")) <= set(places("آدم"))


def test_found_words_are_shown_in_the_spelling_that_was_asked():
    (match,) = find(load_quran("uthmani"), "يا ابن أم لا")
    assert match.words == ("يَبْنَؤُمَّ", "لَا") and match.text == load_quran("uthmani").verse(VerseRef(20, 94))
    (match,) = find(QURAN, "يَبْنَؤُمَّ لَا تَأْخُذْ")
    assert match.words == ("يَا", "ابْنَ", "أُمَّ", "لَا", "تَأْخُذْ")
    assert find(load_quran("letters"), "الحي القيوم")[0].words == ("الحي", "القيوم")


def test_the_nearest_verses_when_no_verse_has_the_words_together():
    matches = find(QURAN, "الله نور السماوات وما في الأرض كمشكاة فيها مصباح")
    assert matches[0].ref == VerseRef(24, 35) and not matches[0].exact
    assert matches[0].words[:3] == ("اللَّهُ", "نُورُ", "السَّمَاوَاتِ")
    assert len(matches) <= NEAREST
    assert [len(m.words) for m in matches] == sorted((len(m.words) for m in matches), reverse=True)
    assert places("الرحمان علي العرش استوي")[0] == "20:5"


def test_words_that_are_nowhere_near():
    assert find(QURAN, "خزعبلات") == ()
    assert find(QURAN, "قل خزعبلات شعشعانية") == ()


def test_what_is_not_arabic_is_wrong_use():
    for words in ("hello", "", "١٢٣", "\u064e"):
        with pytest.raises(QuranAsrError, match="no Arabic word"):
            find(QURAN, words)
