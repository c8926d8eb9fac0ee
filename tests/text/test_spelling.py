"""The three spellings: over the whole Quran, over any text, and sign by sign."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quran_asr.errors import QuranAsrError
from quran_asr.records import VerseRef
from quran_asr.text.editions import load_edition
from quran_asr.text.quran import load_quran
from quran_asr.text.spelling import SPELLINGS, alphabet, edition_of, separate_basmala, spell

EDITIONS = {name: load_edition(name) for name in ("uthmani", "simple")}
FORMS = ("NFC", "NFD")
FROM_OUTSIDE = (
    "\u0640\u0655\u06cc\u06a9\u06d6\u06dd\u06de\u200c\u200f\ufeff\u00a0\n1٣،ﻻﷲ﷽ﱠپa\u06e1\u06c0\u06d3\u0674ﷺ"
)
ARABIC_LIKE = st.text(
    st.sampled_from(sorted({*FROM_OUTSIDE, *alphabet("uthmani"), *alphabet("diacritized")})), max_size=16
)
ANY_TEXT = ARABIC_LIKE | st.text(max_size=16)


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("name", EDITIONS)
def test_every_verse_stays_spelt_and_in_the_alphabet(name, spelling):
    for ref, verse in EDITIONS[name].verses.items():
        spelt = spell(verse, spelling)
        assert spell(spelt, spelling) == spelt, str(ref)
        assert alphabet(spelling).issuperset(spelt), str(ref)


@pytest.mark.slow
@pytest.mark.parametrize("spelling", ["uthmani", "diacritized"])
def test_a_verse_of_its_edition_loses_nothing_in_any_normal_form(spelling):
    for ref, verse in EDITIONS[edition_of(spelling)].verses.items():
        assert spell(verse, spelling) == verse, str(ref)
        for form in FORMS:
            assert spell(unicodedata.normalize(form, verse), spelling) == verse, f"{ref} {form}"


@pytest.mark.slow
@pytest.mark.parametrize("name", EDITIONS)
def test_letters_are_diacritized_without_marks(name):
    for ref, verse in EDITIONS[name].verses.items():
        diacritized = spell(verse, "diacritized")
        assert spell(verse, "letters") == spell(diacritized, "letters"), str(ref)
        bare = "".join(char for char in diacritized if not unicodedata.combining(char))
        assert spell(verse, "letters") == bare, str(ref)


def test_alphabets():
    assert len(alphabet("uthmani")) == 62
    assert len(alphabet("diacritized")) == 46
    assert alphabet("letters") == {c for c in alphabet("diacritized") if not unicodedata.combining(c)}
    assert all(" " in alphabet(spelling) for spelling in SPELLINGS)
    assert not {"\u0640", "\u0671", "\u0653"} & alphabet("diacritized")


@settings(max_examples=600, deadline=None)
@given(ANY_TEXT, st.sampled_from(SPELLINGS))
def test_any_text_is_spelt_once_and_for_all(text, spelling):
    spelt = spell(text, spelling)
    assert alphabet(spelling).issuperset(spelt)
    assert spell(spelt, spelling) == spelt
    assert spelt == " ".join(spelt.split())


@settings(max_examples=600, deadline=None)
@given(ARABIC_LIKE, st.sampled_from(SPELLINGS))
def test_normal_forms_do_not_matter(text, spelling):
    assert {spell(unicodedata.normalize(form, text), spelling) for form in FORMS} == {spell(text, spelling)}


@settings(max_examples=400, deadline=None)
@given(ANY_TEXT, ANY_TEXT, st.sampled_from(SPELLINGS))
def test_words_are_spelt_alone_as_in_company(left, right, spelling):
    together = spell(f"{left} {right}", spelling)
    assert together == f"{spell(left, spelling)} {spell(right, spelling)}".strip(" ")


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(list(EDITIONS["simple"].verses.values())), st.data())
def test_the_order_of_marks_does_not_matter(verse, data):
    shuffled, run = [], []
    for char in [*verse, " "]:
        if unicodedata.combining(char):
            run.append(char)
            continue
        shuffled += [*(data.draw(st.permutations(run)) if len(run) > 1 else run), char]
        run = []
    assert spell("".join(shuffled), "diacritized") == verse


@pytest.mark.parametrize(
    ("outside", "letters"),
    [
        ("ﻗُﻞْ ﻫُﻮَ ﷲ", "قل هو الله"),  # presentation forms
        ("﷽", "بسم الله الرحمن الرحيم"),
        ("قـــل هـو", "قل هو"),  # tatweel as ornament
        ("\u202bقل\u200c هو\u200f\ufeff", "قل هو"),  # bidi and joining characters
        ("علی کل شیء", "علي كل شيء"),  # Persian yeh and keheh
        ("قل\u00a0هو\n\tالله", "قل هو الله"),
        ("﴿قُلْ هُوَ﴾ ﴿١﴾ الله،أحد (1)", "قل هو الله أحد"),
        ("هُدًى ۛ لِّلْمُتَّقِينَ ۝٢ ۞ الم", "هدى للمتقين الم"),
        ("\u0627\u0653\u0645\u0646 \u0627\u0655\u0646 \u0633\u0648\u0654\u0644", "آمن إن سؤل"),
        ("1:1 Quran", ""),
        ("", ""),
        (" \u064e ", ""),  # a mark without a letter
    ],
)
def test_text_from_outside(outside, letters):
    assert spell(outside, "letters") == letters


def test_one_order_of_marks():
    assert spell("ر\u0651\u064e", "diacritized") == spell("ر\u064e\u0651", "diacritized") == "ر\u0651\u064e"
    assert spell("ه\u0670\u064eذا", "diacritized") == "ه\u064e\u0670ذا"
    assert spell("ـ\u064e\u0654", "uthmani") == "\u0640\u0654\u064e"


def test_pause_marks_go_and_reading_marks_stay():
    paused = "وَيَبْصُۜطُ عِوَجَا ۜ رَيْبَ ۛ فِيهِ ۩"
    assert spell(paused, "uthmani") == "وَيَبْصُۜطُ عِوَجَا رَيْبَ فِيهِ".replace("صُۜ", "ص\u06dc\u064f")
    assert spell("عِوَجَاۜ قَيِّمًا", "uthmani") == spell("عِوَجَا قَيِّمًا", "uthmani")  # the small seen is a pause
    for place in ((11, 41), (12, 11), (41, 44), (21, 88), (52, 37), (2, 72)):
        verse = EDITIONS["uthmani"].verses[VerseRef(*place)]
        assert spell(verse.replace(" ", " \u06d6 "), "uthmani") == verse


@pytest.mark.parametrize(
    ("mushaf", "today"),
    [
        ("ٱلدِّينِ", "الدِّينِ"),
        ("دَاوُۥدَ", "دَاوُودَ"),  # a small waw inside a word is a letter
        ("لَهُۥ بِهِۦٓ", "لَهُ بِهِ"),  # at its end it lengthens
        ("ءَاتَىٰنِۦَ", "ءَاتَىٰنِيَ"),  # unless it has a vowel
        ("ٱلنَّبِيِّـۧنَ", "النَّبِيِّينَ"),
        ("نُـۨجِى", "نُنجِى"),
        ("شَيْـًٔا", "شَيْءًا"),
        ("أَلِيمٌۢ مِنۢ قَالُوا۟", "أَلِيمٌ مِن قَالُوا"),
        ("مَـٰلِكِ", "مَٰلِكِ"),  # another letter in the simple edition: not pretended
    ],
)
def test_uthmani_marks_in_todays_characters(mushaf, today):
    assert spell(mushaf, "diacritized") == today


def test_separating_the_basmala_from_every_first_verse():
    for edition in EDITIONS.values():
        for surah, basmala in edition.basmalas.items():
            verse = edition.verses[VerseRef(surah, 1)]
            for form in FORMS:
                glued = unicodedata.normalize(form, f"{basmala} {verse}")
                found, rest = separate_basmala(glued)
                assert spell(found, "letters") == "بسم الله الرحمن الرحيم"
                assert f"{found} {rest}" == glued and spell(rest, "letters") == spell(verse, "letters")


@pytest.mark.parametrize(
    "basmala",
    [
        "بسم الله الرحمن الرحيم",
        "باسم الله الرحمان الرحيم",
        "﷽",
        "﴿ بِّسْمِ ٱللَّهِ ٱلرَّحْمَٰنِ ٱلرَّحِيمِ ١ ﴾",
        "بِسۡمِ ٱللَّهِ ٱلرَّحۡمَٰنِ ٱلرَّحِيمِ",
    ],
)
def test_basmalas_from_outside(basmala):
    found, rest = separate_basmala(f"  {basmala} قل هو الله احد ")
    assert spell(found, "letters") and rest.endswith("قل هو الله احد")
    assert "رحيم" not in spell(rest, "letters") and spell(rest, "letters") == "قل هو الله احد"


def test_verses_have_no_basmala_to_separate():
    for edition in EDITIONS.values():
        for ref, verse in edition.verses.items():
            assert separate_basmala(verse) == ("", verse), str(ref)
    assert separate_basmala("بسم الله الرحمن الرحيم (1)") == ("", "بسم الله الرحمن الرحيم (1)")
    assert separate_basmala("بسم الله الرحمن") == ("", "بسم الله الرحمن")
    assert separate_basmala("بسم الله مجراها") == ("", "بسم الله مجراها")
    assert separate_basmala("") == ("", "")


def test_a_spelling_that_does_not_exist():
    for ask in (lambda: spell("قل", "simple"), lambda: edition_of("x"), lambda: alphabet("x")):
        with pytest.raises(QuranAsrError, match="no spelling"):
            ask()


def test_every_spelling_names_its_edition():
    assert [edition_of(spelling) for spelling in SPELLINGS] == ["uthmani", "simple", "simple"]
    assert all(load_quran(spelling).edition_name == edition_of(spelling) for spelling in SPELLINGS)
