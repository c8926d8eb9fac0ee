"""What a clip counts: jiwer's rates, kinds of error, lost and looping clips."""

from __future__ import annotations

import random

import jiwer
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quran_asr.errors import QuranAsrError
from quran_asr.evaluation.edit_distance import total
from quran_asr.evaluation.scoring import blank_share, length_ratio, repeat_share, repeated_words, score_clips
from quran_asr.records import Counts
from quran_asr.text.quran import load_quran
from quran_asr.text.spelling import spell

IKHLAS = "قُلْ هُوَ اللَّهُ أَحَدٌ"


def one(references: str, hypotheses: str, spelling: str = "diacritized"):  # type: ignore[no-untyped-def]
    (score,) = score_clips([[references]], [hypotheses], spelling)
    return score


def test_rates_over_verses_are_those_of_jiwer_in_both_spellings() -> None:
    source = random.Random(7)
    quran = load_quran("diacritized")
    references = [quran.verse(ref) for ref in source.sample(quran.refs, 120)]
    hypotheses = []
    for verse in references:  # drop, replace and repeat characters, so that words and marks go wrong
        noisy = [source.choice(["", char, char * 2, source.choice(verse)]) if source.random() < 0.08 else char
                 for char in verse]  # fmt: skip
        hypotheses.append(spell("".join(noisy), "diacritized"))
    scores = score_clips([[verse] for verse in references], hypotheses, "diacritized")
    bare_references = [spell(verse, "letters") for verse in references]
    bare_hypotheses = [spell(text, "letters") for text in hypotheses]
    for counts, rate in [
        (total(score.words for score in scores), jiwer.wer(references, hypotheses)),
        (total(score.characters for score in scores), jiwer.cer(references, hypotheses)),
        (total(score.letters_words for score in scores), jiwer.wer(bare_references, bare_hypotheses)),
        (total(score.letters_characters for score in scores), jiwer.cer(bare_references, bare_hypotheses)),
    ]:
        assert 0 < rate < 1
        assert counts.rate == pytest.approx(rate, abs=1e-12)
    for score in scores:
        assert score.spelling_only_errors + score.recognition_errors == score.words.errors


def test_spaces_are_characters() -> None:
    assert one("قل هو", "قلهو", "letters").characters == Counts(hits=4, deletions=1)


def test_a_wrong_vowel_is_spelling_only_and_another_word_a_recognition_error() -> None:
    score = one(IKHLAS, "قُلِ هُوَ اللَّهُ الصَّمَدُ")
    assert (score.words, score.spelling_only_errors, score.recognition_errors) == (Counts(2, 2), 1, 1)
    assert score.letters_words == Counts(3, 1)


@pytest.mark.parametrize("hypotheses", ["بَلْ قُلِ هُوَ اللَّهُ أَحَدٌ", "قُلِ بَلْ هُوَ اللَّهُ أَحَدٌ"])
def test_which_word_was_added_does_not_hide_a_spelling_error(hypotheses: str) -> None:
    score = one(IKHLAS, hypotheses)
    assert (score.spelling_only_errors, score.recognition_errors) == (1, 1)


def test_words_that_are_only_joined_are_spelling_errors() -> None:
    score = one("يَا أَيُّهَا النَّاسُ اعْبُدُوا", "يَاأَيُّهَا النَّاسُ اعْبُدُوا")
    assert (score.words.errors, score.spelling_only_errors, score.recognition_errors) == (2, 2, 0)


def test_in_letters_all_errors_are_recognition_errors() -> None:
    score = one(IKHLAS, "قل هي الله", "letters")
    assert (score.spelling_only_errors, score.recognition_errors) == (0, 2)
    assert (score.words, score.characters) == (score.letters_words, score.letters_characters)


def test_both_texts_are_brought_to_the_spelling_first() -> None:
    assert one("قُلْ هُوَ", "قل  هو", "letters").words == Counts(hits=2)
    # shadda and vowel in the other order are the same word
    assert one("اللَّهُ", "الل\u064e\u0651هُ").words == Counts(hits=1)


def test_the_accepted_text_with_the_fewest_errors_counts() -> None:
    (score,) = score_clips([["الم ذلك الكتاب", "الم", "الم الله لا إله"]], ["الم الله"], "letters")
    assert (score.reference, score.words) == ("الم", Counts(hits=1, insertions=1))
    (score,) = score_clips([["كتاب قل", "كتب قل"]], ["كتبت قل"], "letters")  # both 1 word: fewer characters
    assert score.reference == "كتب قل"
    first, second = score_clips([["قل", "هو"], ["هو"]], ["هو", "قل"], "letters")
    assert (first.words, second.words) == (Counts(hits=1), Counts(substitutions=1))
    assert (first.letters_characters, second.letters_characters) == (Counts(2), Counts(0, 2))


def test_empty_texts() -> None:
    assert one("", "قل").words == Counts(insertions=1)
    assert one("قل", "").words == Counts(deletions=1)
    nothing = one("", "")
    assert (nothing.words, nothing.lost, nothing.looping) == (Counts(), False, False)
    assert score_clips([], [], "letters") == []


def test_wrong_use_is_refused() -> None:
    with pytest.raises(ValueError, match="no text"):
        score_clips([[], ["قل"]], ["قل", "قل"], "letters")
    with pytest.raises(ValueError, match="zip"):
        score_clips([["قل"]], [], "letters")
    with pytest.raises(QuranAsrError, match="no spelling"):
        score_clips([["قل"]], ["قل"], "latin")


def test_a_clip_is_lost_when_less_than_half_of_its_words_are_right_by_letters() -> None:
    assert one(IKHLAS, "قُلْ").lost
    assert not one(IKHLAS, "قُلْ هُوَ").lost
    assert not one(IKHLAS, "قل هو").lost  # no mark is right, and half of the words are recognized
    assert one(IKHLAS, "").lost


@pytest.mark.parametrize(
    ("references", "hypotheses", "words"),
    [
        ("a b c", "a b c", 0),
        ("a b c", "a a b c", 2),
        ("a b c", "a b a b a b c", 6),
        ("a b c", "a b a b c c", 6),
        ("dakka dakka", "dakka dakka", 0),  # the Quran's own (89:21)
        ("x dakka dakka y", "dakka dakka dakka", 3),
        ("a b a b c", "a b a b a", 0),  # recited twice, and begun once more
        ("ab ab", "b b", 2),  # part of a word is not a word
        ("a b", "a b c a b", 0),  # not at once
        ("", "a a", 2),
        ("a", "", 0),
        ("a", "a", 0),
        ("q r", "a b c a b c b c", 8),
    ],
)
def test_words_inside_a_repetition_that_the_reference_lacks(
    references: str, hypotheses: str, words: int
) -> None:
    assert repeated_words(references.split(), hypotheses.split()) == words


@given(st.lists(st.sampled_from("abc"), max_size=10), st.lists(st.sampled_from("abc"), max_size=10))
def test_repetitions_are_found_by_trying_every_place(references: list[str], hypotheses: list[str]) -> None:
    """Every stretch of the form X X is tried; it was not recited if no reading of its whole run was."""
    text = " ".join(references)
    inside: set[int] = set()
    for period in range(1, len(hypotheses) // 2 + 1):
        for start in range(len(hypotheses) - 2 * period + 1):
            first = start
            while first > 0 and hypotheses[first - 1] == hypotheses[first - 1 + period]:
                first -= 1
            if (
                hypotheses[start : start + period] != hypotheses[start + period : start + 2 * period]
                or first != start
            ):
                continue
            end = start + period
            while end < len(hypotheses) and hypotheses[end] == hypotheses[end - period]:
                end += 1
            copies = (end - start) // period
            readings = [
                hypotheses[at : at + copies * period] for at in range(start, end - copies * period + 1)
            ]
            if not any(f" {' '.join(reading)} " in f" {text} " for reading in readings):
                inside.update(range(start, start + copies * period))
    assert repeated_words(references, hypotheses) == len(inside)


@pytest.mark.slow
def test_the_quran_has_no_repetition_of_its_own() -> None:
    quran = load_quran("letters")
    verses = [quran.verse(ref).split() for ref in quran.refs]
    assert sum(repeated_words([], verse) > 0 for verse in verses) > 10
    assert all(repeated_words(verse, verse) == 0 for verse in verses)


def test_a_looping_clip_is_seen_through_its_marks() -> None:
    assert one(IKHLAS, "قُلْ هُوَ هُوِ اللَّهُ أَحَدٌ").looping
    assert not one(IKHLAS, IKHLAS).looping


def test_figures_of_a_training() -> None:
    assert repeat_share("a b", "a b b b") == 0.75
    assert repeat_share("a b", "") == 0.0
    assert length_ratio(Counts(hits=2, insertions=1, deletions=2)) == 0.75
    assert length_ratio(Counts(insertions=1)) is None
    clips = [np.log(np.array([[0.1, 0.9], [0.8, 0.2]], np.float32)), np.zeros((0, 2), np.float32)]
    assert blank_share(clips) == 0.5
    assert blank_share([]) is None
