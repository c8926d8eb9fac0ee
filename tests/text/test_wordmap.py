"""The words of both editions side by side, over the whole Quran."""

from __future__ import annotations

from collections import Counter
from functools import lru_cache

import pytest

from quran_asr.errors import QuranAsrError
from quran_asr.records import VerseRef
from quran_asr.text.passages import skeleton, word_map
from quran_asr.text.quran import load_quran
from quran_asr.text.spelling import spell

UTHMANI, SIMPLE = load_quran("uthmani"), load_quran("diacritized")


@pytest.fixture(scope="module")
def maps():
    return {ref: word_map(ref) for ref in UTHMANI.refs}


@pytest.mark.slow
def test_every_word_of_both_editions_is_there_once_and_in_order(maps):
    for ref, pairs in maps.items():
        assert " ".join(pair.uthmani for pair in pairs) == UTHMANI.verse(ref), str(ref)
        assert " ".join(pair.simple for pair in pairs) == SIMPLE.verse(ref), str(ref)
        simple = SIMPLE.verse(ref).split()
        for index, pair in enumerate(pairs):
            assert pair.index == index and " " not in pair.uthmani
            parts = pair.simple.split()
            assert simple[pair.simple_index : pair.simple_index + len(parts)] == parts
            assert pair.letters == spell(pair.simple, "letters")


@lru_cache
def edits(left: str, right: str) -> int:
    """Least insertions, deletions and substitutions: another measure than the one the map is made with."""
    row = list(range(len(right) + 1))
    for i, a in enumerate(left, start=1):
        last, row[0] = row[0], i
        for j, b in enumerate(right, start=1):
            last, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, last + (a != b))
    return row[-1]


@pytest.mark.slow
def test_the_consonants_of_a_pair_agree(maps):
    distances = Counter(
        edits(skeleton(pair.uthmani), "".join(skeleton(word) for word in pair.simple.split()))
        for pairs in maps.values()
        for pair in pairs
    )
    assert distances.total() == 77433
    assert distances[0] == 77283  # the others are twofold lam or yeh, and alef for yeh at an end
    assert max(distances) == 1


def test_how_many_words_the_mushaf_joins(maps):
    joined = [pair for pairs in maps.values() for pair in pairs if " " in pair.simple]
    assert len(joined) == 366
    assert Counter(pair.simple.count(" ") + 1 for pair in joined) == {2: 365, 3: 1}
    assert sum(spell(pair.simple, "letters").split()[0] in ("يا", "ويا") for pair in joined) == 361


@pytest.mark.parametrize(
    ("ref", "uthmani", "simple"),
    [
        ("2:21", "يَـٰٓأَيُّهَا", "يَا أَيُّهَا"),
        ("3:66", "هَـٰٓأَنتُمْ", "هَا أَنتُمْ"),
        ("20:94", "يَبْنَؤُمَّ", "يَا ابْنَ أُمَّ"),
        ("72:16", "وَأَلَّوِ", "وَأَن لَّوِ"),
        ("1:4", "مَـٰلِكِ", "مَالِكِ"),
        ("2:43", "ٱلصَّلَوٰةَ", "الصَّلَاةَ"),
    ],
)
def test_known_pairs(ref, uthmani, simple):
    pairs = {pair.uthmani: pair.simple for pair in word_map(VerseRef.parse(ref))}
    assert pairs[uthmani] == simple


def test_a_verse_that_does_not_exist():
    with pytest.raises(QuranAsrError, match="surah 112 has 4 verses"):
        word_map(VerseRef(112, 5))
