"""The Quran in a spelling: verses by place, and clear words about places that do not exist."""

from __future__ import annotations

import subprocess
import sys

import pytest

from quran_asr.errors import QuranAsrError
from quran_asr.records import VerseRef
from quran_asr.text.editions import load_edition
from quran_asr.text.quran import load_quran
from quran_asr.text.spelling import SPELLINGS


def test_verses_in_each_spelling():
    ref = VerseRef(1, 4)
    assert load_quran("uthmani").verse(ref) == "مَـٰلِكِ يَوْمِ ٱلدِّينِ"
    assert load_quran("diacritized").verse(ref) == "مَالِكِ يَوْمِ الدِّينِ"
    assert load_quran("letters").verse(ref) == "مالك يوم الدين"


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_all_verses_are_there(spelling):
    quran = load_quran(spelling)
    assert len(quran.refs) == 6236 and len(set(quran.refs)) == 6236
    assert all(quran.verse(ref) for ref in quran.refs)
    assert sum(quran.ayahs(surah) for surah in range(1, 115)) == 6236
    assert quran.spelling == spelling
    assert quran.edition_name == ("uthmani" if spelling == "uthmani" else "simple")


def test_the_spellings_of_the_editions_are_the_published_characters():
    assert load_quran("uthmani").verses == load_edition("uthmani").verses
    assert load_quran("diacritized").verses == load_edition("simple").verses


def test_the_same_spelling_is_the_same_object():
    assert load_quran() is load_quran("diacritized") is load_quran(spelling="diacritized")


def test_several_verses_are_joined_in_the_order_asked():
    quran = load_quran("letters")
    refs = [VerseRef(112, 2), VerseRef(112, 1), VerseRef(112, 2)]
    assert quran.text(refs) == "الله الصمد قل هو الله أحد الله الصمد"
    assert quran.text([]) == ""


def test_the_basmala_is_given_on_request():
    quran = load_quran("letters")
    assert quran.basmala(2) == quran.basmala(95) == quran.verse(VerseRef(1, 1)) == "بسم الله الرحمن الرحيم"
    assert quran.basmala(1) == quran.basmala(9) == ""


@pytest.mark.parametrize(
    ("ref", "message", "hint"),
    [
        (VerseRef(2, 287), "there is no verse 2:287: surah 2 has 286 verses", "2:1 to 2:286"),
        (VerseRef(112, 0), "there is no verse 112:0: surah 112 has 4 verses", "112:1 to 112:4"),
        (VerseRef(115, 1), "there is no surah 115", "1 to 114"),
        (VerseRef(0, 1), "there is no surah 0", "1 to 114"),
    ],
)
def test_a_verse_that_does_not_exist(ref, message, hint):
    with pytest.raises(QuranAsrError) as error:
        load_quran("letters").verse(ref)
    assert error.value.what == message
    assert hint in error.value.remedy
    with pytest.raises(QuranAsrError, match="there is no"):
        load_quran("letters").text([VerseRef(1, 1), ref])


def test_a_spelling_that_does_not_exist():
    with pytest.raises(QuranAsrError, match="no spelling `plain`") as error:
        load_quran("plain")
    assert "uthmani, diacritized, letters" in error.value.remedy


def test_the_text_needs_no_numpy():
    code = (
        "import sys; from quran_asr.text import editions, passages, quran, spelling;"
        "quran.load_quran(); print([m for m in ('numpy', 'torch', 'omegaconf', 'click') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
