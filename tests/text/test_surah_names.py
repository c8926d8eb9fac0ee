"""Every surah is found by its name in every spelling of it, and no name is taken for another surah."""

from __future__ import annotations

import re
from itertools import product

import pytest

from quran_asr.text.editions import load_edition
from quran_asr.text.surah_names import _ENGLISH, _OTHER_ARABIC, find_surah, surah_name

ARABIC = dict(enumerate(load_edition("simple").chapter_names, start=1))


ARABIC_WAYS = (
    (("^ال(?! )", ""), ("^ال(?! )", "ٱل")),
    (("[أإآ]", "ا"), ("آ", "ءا"), ("أ", "\u0627\u0654")),
    (("ء", ""), ("ؤ", "و"), ("ئ", "ي"), ("ئ", "ى")),
    (("ة$", "ه"), ("ى$", "ي"), ("ى$", "ا")),
    (("^", "سورة "), ("^", "سوره "), ("^", "سُورَةُ "), ("^(?=ال)", "سورة"), ("$", " ")),
)
LATIN_WAYS = (
    (("^(?:A[lnrstzd]|Ash|Adh|Ath)-", ""), ("-", " ")),
    (("['’]", ""), ("'", "’")),
    (("[aiu](?=[^aiuAIU]*$)", r"\g<0>\g<0>"), ("i(?=n$|m$|r$)", "ee"), ("ah$", "a")),
    (("^", "Surah "), ("^", "surat "), ("$", " ")),
)


def spellings(name: str, ways: tuple[tuple[tuple[str, str], ...], ...]) -> set[str]:
    """Each way of typing a name in combination with each of the others."""
    written = set()
    for chosen in product(*[(("$", ""), *way) for way in ways]):
        typed = name
        for pattern, instead in chosen:
            typed = re.sub(pattern, instead, typed)
        written |= {typed, typed.lower(), typed.upper()}
    return written


@pytest.mark.parametrize("surah", range(1, 115))
def test_a_surah_is_found_by_every_spelling_of_its_names(surah):
    for name in [ARABIC[surah], *filter(None, _OTHER_ARABIC.get(surah, "").split("/"))]:
        for typed in spellings(name, ARABIC_WAYS):
            assert find_surah(typed) == surah, typed
    for typed in spellings(_ENGLISH[surah - 1].split("/")[0], LATIN_WAYS):
        assert find_surah(typed) == surah, typed
    assert find_surah(surah_name(surah).split(" (")[0]) == surah


def test_no_name_of_a_surah_is_taken_for_another():
    for surah, names in enumerate(_ENGLISH, start=1):
        for name in names.split("/"):
            assert find_surah(name) == find_surah(name.lower()) == surah, name


@pytest.mark.parametrize(
    ("typed", "surah"),
    [
        ("النساء", 4),
        ("النسا", 4),
        ("النسآء", 4),
        ("الناس", 114),
        ("آل عمران", 3),
        ("ال عمران", 3),
        ("العمران", 3),
        ("الصفت", 37),  # without the alefs that the mushaf writes small
        ("ٱلصَّـٰٓفَّـٰت", 37),
        ("الحجرت", 49),
        ("القيمة", 75),
        ("الكفرون", 109),
        ("المنفقون", 63),
        ("ابرهيم", 14),
        ("العديت", 100),
        ("الرحمان", 55),
        ("سبأ", 34),
        ("النبأ", 78),
        ("طاها", 20),
        ("ياسين", 36),
        ("يا سين", 36),
        ("سورة صاد", 38),
        ("سورة قاف", 50),
        ("سورة ن", 68),
        ("suratul baqarah", 2),
        ("Suratul-Fatiha", 1),
        ("surat un-nur", 24),
        ("the moon", 54),
        ("the mount", 52),
    ],
)
def test_spellings_of_a_kind_of_their_own(typed, surah):
    assert find_surah(typed) == surah


@pytest.mark.parametrize(
    "word",
    [
        "على",
        "علي",
        "النبي",
        "نعم",
        "الشعر",
        "النسيء",
        "مالك",
        "حزب",
        "سورة",
        "ال",
        "surah",
        "surat",
        "ul",
        "an",
        "bi",
    ],
)
def test_words_that_only_resemble_a_name(word):
    assert find_surah(word) is None
