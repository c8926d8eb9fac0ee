"""Counts against jiwer, against a table walked by hand, and against the alignment itself."""

from __future__ import annotations

import random
import time
from functools import lru_cache

import jiwer
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quran_asr.evaluation import edit_distance
from quran_asr.evaluation.edit_distance import align, count, count_many, total
from quran_asr.records import Counts

WORDS = st.lists(st.sampled_from(["قل", "هو", "الله", "أحد", "الصمد"]), max_size=9)


def best_by_recursion(reference: list[str], hypothesis: list[str]) -> tuple[int, int]:
    """Fewest errors, and the most hits among alignments with so few: all alignments tried."""

    @lru_cache(None)
    def best(row: int, column: int) -> tuple[int, int]:
        """(errors, minus hits) of the rest."""
        if row == len(reference) or column == len(hypothesis):
            return len(reference) - row + len(hypothesis) - column, 0
        ways = []
        for down, right in ((1, 0), (0, 1), (1, 1)):
            errors, misses = best(row + down, column + right)
            if down and right and reference[row] == hypothesis[column]:
                ways.append((errors, misses - 1))
            else:
                ways.append((errors + 1, misses))
        return min(ways)

    errors, misses = best(0, 0)
    return errors, -misses


@given(WORDS, WORDS)
def test_fewest_errors_then_most_hits(reference: list[str], hypothesis: list[str]) -> None:
    counts = count(reference, hypothesis)
    assert (counts.errors, counts.hits) == best_by_recursion(reference, hypothesis)
    assert (counts.reference_length, counts.hypothesis_length) == (len(reference), len(hypothesis))
    assert min(counts.hits, counts.substitutions, counts.insertions, counts.deletions) >= 0


@given(st.lists(st.tuples(WORDS, WORDS), max_size=8))
def test_many_are_counted_as_one_by_one(pairs: list[tuple[list[str], list[str]]]) -> None:
    assert count_many(pairs) == [count(*pair) for pair in pairs]


@settings(deadline=None)
@given(st.lists(st.tuples(WORDS.filter(bool), WORDS), min_size=1, max_size=5))
def test_rates_are_those_of_jiwer(pairs: list[tuple[list[str], list[str]]]) -> None:
    reference = [" ".join(pair[0]) for pair in pairs]
    hypothesis = [" ".join(pair[1]) for pair in pairs]
    words = total(count_many(pairs))
    characters = total(count_many(zip(reference, hypothesis, strict=True)))
    assert words.rate == pytest.approx(jiwer.wer(reference, hypothesis), abs=1e-12)
    assert characters.rate == pytest.approx(jiwer.cer(reference, hypothesis), abs=1e-12)


@given(WORDS, WORDS)
def test_an_alignment_is_what_was_counted_and_gives_both_texts_back(
    reference: list[str], hypothesis: list[str]
) -> None:
    edits = align(reference, hypothesis)
    assert [edit.reference for edit in edits if edit.reference] == reference
    assert [edit.hypothesis for edit in edits if edit.hypothesis] == hypothesis
    kinds = [edit.kind for edit in edits]
    assert count(reference, hypothesis) == Counts(
        kinds.count("hit"), kinds.count("substitution"), kinds.count("insertion"), kinds.count("deletion")
    )
    for edit in edits:
        assert (edit.kind == "hit") == (edit.reference == edit.hypothesis)
        assert (edit.kind == "insertion") == (not edit.reference)
        assert (edit.kind == "deletion") == (not edit.hypothesis)


@pytest.mark.parametrize("hypothesis", ["x كِتَب", "كِتَب x"])
def test_words_that_are_alike_stand_opposite_each_other(hypothesis: str) -> None:
    edits = align(["كَتَبَ"], hypothesis.split(), alike=lambda word: "كتب" if word.startswith("ك") else word)
    assert ("substitution", "كَتَبَ", "كِتَب") in [(edit.kind, edit.reference, edit.hypothesis) for edit in edits]


def test_alike_never_costs_an_error_or_a_hit() -> None:
    reference, hypothesis = ["a", "A", "b", "c"], ["A", "b", "C", "a"]
    edits = align(reference, hypothesis, alike=str.lower)
    assert sum(edit.kind == "hit" for edit in edits) == count(reference, hypothesis).hits
    assert sum(edit.kind != "hit" for edit in edits) == count(reference, hypothesis).errors


def test_empty_reference_and_empty_hypothesis() -> None:
    assert count([], []) == Counts()
    assert count_many([]) == []
    assert align([], []) == []
    assert count("", "قل") == Counts(insertions=2)
    assert count("قل", "") == Counts(deletions=2)
    assert total([]) == Counts()


def test_marks_are_characters_of_their_own() -> None:
    assert count("قُلْ", "قل") == Counts(hits=2, deletions=2)


@pytest.mark.slow
def test_lengths_that_need_wide_integers_are_counted_right() -> None:
    # base * (n + m) passes 2**31 here, beyond 32 bits
    reference = "ا" * 33_000
    assert count(reference, reference[:-1] + "بب") == Counts(hits=32_999, substitutions=1, insertions=1)


def test_a_batch_boundary_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    source = random.Random(3)
    pairs = [
        tuple("".join(source.choices("ابت ", k=source.randrange(40))) for _ in range(2)) for _ in range(60)
    ]
    whole = count_many(pairs)
    monkeypatch.setattr(edit_distance, "CELLS", 90)
    assert count_many(pairs) == whole


@pytest.mark.slow
def test_a_benchmark_of_long_verses_is_scored_in_seconds() -> None:
    source = random.Random(5)
    reference = ["".join(source.choices("ابتثجحخد ", k=min(1000, 20 + i // 5))) for i in range(3_700)]
    hypothesis = ["".join(c for c in text if source.random() > 0.1) for text in reference]
    began = time.process_time()
    counts = total(count_many(zip(reference, hypothesis, strict=True)))
    assert time.process_time() - began < 12  # 2.3 s on one core of 2026; the room is for a busy machine
    assert counts.reference_length == sum(map(len, reference))
