"""Names of one reciter, as folders and people write them, and names of different ones."""

from __future__ import annotations

from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quran_asr.corpus.split import may_be_one

SAME = (
    ("mishary-alafasy", "Mishari Al-Afasy"),
    ("Alafasy_128kbps", "mishary-alafasy"),
    ("مشاري العفاسي", "Mishary al-Afasi"),
    ("Husary_64kbps", "Mahmoud Khalil Al-Husary"),
    ("Abdul_Basit_Murattal_192kbps", "AbdulBasit Mujawwad"),
    ("yasser-al-dosari", "Yasir Ad-Dossary"),
    ("yasser-al-dosari", "ياسر الدوسري"),
    ("Sa'ad al-Ghamidi", "saad_el_ghamdi"),
    ("Ghamadi_40kbps", "ghamdi"),
    ("Mishary Alafasy", "Mishary Alafsy"),
    ("Sheikh Fares Abbad", "fares-abbad"),
    ("Minshawy_Murattal_128kbps", "minshawi"),
)
"""EveryAyah's folder names among them."""

DIFFERENT = (
    ("yasser-al-dosari", "yasser-salama"),
    ("Mahmoud Al-Husary", "Mahmoud Hussein"),
    ("speaker 1", "speaker 2"),
    ("ar+m1", "ar+m7"),
    ("ar", "ar+f2"),
    ("spk-a", "spk-e"),
    ("ar+Andy", "ar+Annie"),
    ("Abdul Basit", "Abdullah Basfar"),
    ("", "mishary-alafasy"),
    ("ahmed-allhdan", "fares-abbad"),
)


@pytest.mark.parametrize(("one", "other"), SAME)
def test_one_reciter_under_two_names(one: str, other: str) -> None:
    assert may_be_one(one, other)
    assert may_be_one(other, one)


@pytest.mark.parametrize(("one", "other"), DIFFERENT)
def test_two_reciters(one: str, other: str) -> None:
    assert not may_be_one(one, other)


def test_the_voices_of_the_spoken_corpus_are_all_different() -> None:
    from quran_asr.corpus.synthesis import VOICES

    assert [pair for pair in combinations(VOICES, 2) if may_be_one(*pair)] == []


@given(st.text(max_size=30), st.text(max_size=30))
def test_any_two_texts_have_an_answer_in_either_order(one: str, other: str) -> None:
    assert may_be_one(one, other) == may_be_one(other, one)
