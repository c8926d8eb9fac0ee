"""The two text files: the published ones, whole, and refused when changed."""

from __future__ import annotations

from importlib.resources import files

import pytest

from quran_asr.errors import QuranAsrError
from quran_asr.records import VerseRef
from quran_asr.text.editions import load_edition, read_edition

EDITIONS = ("uthmani", "simple")


@pytest.mark.parametrize("name", EDITIONS)
def test_an_edition_is_the_whole_quran_in_order(name):
    edition = load_edition(name)
    assert len(edition.verses) == 6236
    assert len(edition.chapter_names) == 114
    assert list(edition.verses) == sorted(edition.verses)
    assert {ref.surah for ref in edition.verses} == set(range(1, 115))
    assert max(ref.ayah for ref in edition.verses if ref.surah == 2) == 286
    assert edition.chapter_names[0] == "الفاتحة" and edition.chapter_names[113] == "الناس"


def test_words_are_those_of_the_file():
    assert sum(len(verse.split()) for verse in load_edition("uthmani").verses.values()) == 77433
    assert sum(len(verse.split()) for verse in load_edition("simple").verses.values()) == 77800
    assert load_edition("simple").verses[VerseRef(112, 1)] == "قُلْ هُوَ اللَّهُ أَحَدٌ"
    assert load_edition("uthmani").verses[VerseRef(112, 1)] == "قُلْ هُوَ ٱللَّهُ أَحَدٌ"


@pytest.mark.parametrize("name", EDITIONS)
def test_the_basmala_stands_beside_verse_1_and_not_in_it(name):
    edition = load_edition(name)
    assert set(edition.basmalas) == set(range(1, 115)) - {1, 9}
    with_shadda = {surah for surah, basmala in edition.basmalas.items() if basmala[1] == "\u0651"}
    assert with_shadda == {95, 97}
    plain = edition.verses[VerseRef(1, 1)]
    assert {
        basmala.replace("\u0651", "", basmala[1] == "\u0651") for basmala in edition.basmalas.values()
    } == {plain}
    assert not any(
        verse.startswith(plain[:3]) and plain in verse
        for ref, verse in edition.verses.items()
        if ref != VerseRef(1, 1)
    )


@pytest.mark.parametrize("name", EDITIONS)
def test_the_publishers_terms_come_with_the_text(name):
    edition = load_edition(name)
    assert edition.title in edition.notice
    assert "CHANGING IT IS NOT ALLOWED" in edition.notice
    assert "-->" not in edition.notice and "<sura" not in edition.notice
    assert edition.link == "https://tanzil.net"


def test_a_changed_file_is_refused():
    content = (files("quran_asr.text") / "data" / "quran-simple.xml").read_bytes()
    assert len(read_edition("simple", content, where="a.xml").verses) == 6236
    changed = content.replace("أَحَدٌ".encode(), "أَحَدُ".encode(), 1)
    assert changed != content
    with pytest.raises(QuranAsrError, match="not the text that Tanzil published") as error:
        read_edition("simple", changed, where="a.xml")
    assert error.value.where == "a.xml" and error.value.remedy
    with pytest.raises(QuranAsrError, match="not the text"):
        read_edition("uthmani", content, where="a.xml")


def test_an_edition_that_does_not_exist():
    with pytest.raises(QuranAsrError, match="no edition `warsh`") as error:
        load_edition("warsh")
    assert "uthmani, simple" in error.value.remedy
