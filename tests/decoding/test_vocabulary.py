"""Pieces to text and timed words, and the file they live in."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quran_asr.decoding.vocabulary import Vocabulary
from quran_asr.errors import QuranAsrError
from quran_asr.records import Hypothesis, TimedWord

PIECES = ("▁", "▁ق", "ل", "▁هو", "▁الل", "ه", "أحد", "د▁ا")
VOCABULARY = Vocabulary(PIECES)
FRAME = 0.08


def hypothesis_of(*steps: tuple[int, int]) -> Hypothesis:
    return Hypothesis(tuple(token for token, _ in steps), tuple(frame for _, frame in steps), 0.0)


def times(words: tuple[TimedWord, ...]) -> list[tuple[str, float, float]]:
    """In frames."""
    return [(word.text, round(word.start / FRAME, 6), round(word.end / FRAME, 6)) for word in words]


def test_joined_pieces_are_the_text() -> None:
    assert VOCABULARY.text([1, 2, 3, 4, 5]) == "قل هو الله"
    assert VOCABULARY.text([2, 5]) == "له"
    assert VOCABULARY.text([0, 0, 6, 0]) == "أحد"
    assert VOCABULARY.text([]) == ""


def test_a_word_lasts_from_its_first_token_to_a_frame_after_its_last() -> None:
    words = VOCABULARY.words(hypothesis_of((1, 3), (2, 5), (3, 9), (4, 10), (5, 14)), FRAME)
    assert times(words) == [("قل", 3, 6), ("هو", 9, 10), ("الله", 10, 15)]


def test_a_word_ends_where_the_next_one_starts() -> None:
    words = VOCABULARY.words(hypothesis_of((1, 3), (2, 4), (3, 4), (4, 4)), FRAME)
    assert times(words) == [("قل", 3, 4), ("هو", 4, 4), ("الله"[:3], 4, 5)]


def test_a_word_is_as_probable_as_its_tokens_together() -> None:
    log_probs = tuple(math.log(probability) for probability in (0.9, 0.5, 0.8))
    sure = replace(hypothesis_of((1, 3), (2, 4), (3, 4)), log_probs=log_probs)
    assert [word.confidence for word in VOCABULARY.words(sure, FRAME)] == [
        pytest.approx(0.45),
        pytest.approx(0.8),
    ]
    assert [word.confidence for word in VOCABULARY.words(hypothesis_of((1, 3)), FRAME)] == [None]


def test_times_count_from_the_offset() -> None:
    (word,) = VOCABULARY.words(hypothesis_of((3, 10)), FRAME, offset=30.0)
    assert (word.start, word.end) == (pytest.approx(30.8), pytest.approx(30.88))


def test_a_lone_word_start_begins_the_word() -> None:
    assert times(VOCABULARY.words(hypothesis_of((0, 2), (6, 5)), FRAME)) == [("أحد", 2, 6)]


@given(
    st.lists(st.tuples(st.integers(0, len(PIECES) - 1), st.integers(0, 3)), max_size=12),
)
def test_words_are_the_text_in_order_of_time(steps: list[tuple[int, int]]) -> None:
    frame, at = 0, []
    for token, wait in steps:
        frame += wait
        at.append((token, frame))
    hypothesis = hypothesis_of(*at)
    words = VOCABULARY.words(hypothesis, FRAME)
    assert " ".join(word.text for word in words) == VOCABULARY.text(hypothesis.tokens)
    bounds = [time for word in words for time in (word.start, word.end)]
    assert bounds == sorted(bounds)


@pytest.mark.parametrize("token", [-1, len(PIECES)])
def test_a_token_that_is_no_piece_is_refused(token: int) -> None:
    with pytest.raises(QuranAsrError, match=f"token {token} is not in this vocabulary of 8 pieces"):
        VOCABULARY.text([0, token])
    with pytest.raises(QuranAsrError, match="not in this vocabulary"):
        VOCABULARY.words(hypothesis_of((token, 0)), FRAME)


def test_a_file_gives_back_what_was_written(tmp_path: Path) -> None:
    path = tmp_path / "vocabulary.txt"
    vocabulary = Vocabulary(PIECES, tuple(-0.123456 * token for token in range(len(PIECES))))
    vocabulary.write(path)
    assert Vocabulary.read(path) == vocabulary
    assert path.read_text(encoding="utf-8").splitlines()[1] == "▁ق\t-0.123456"
    assert [file.name for file in tmp_path.iterdir()] == ["vocabulary.txt"]


def test_scores_that_are_unknown_fall_with_the_token_as_merges_do(tmp_path: Path) -> None:
    VOCABULARY.write(tmp_path / "v.txt")
    read = Vocabulary.read(tmp_path / "v.txt")
    assert read.pieces == PIECES
    assert list(read.scores) == [-float(token) for token in range(len(PIECES))]


@pytest.mark.parametrize("line", ["قل", "قل\tmany", "\t-1.0", "", "قل\tnan"])
def test_a_bad_line_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "vocabulary.txt"
    path.write_text(f"▁\t0\n{line}\n▁هو\t-2\n", encoding="utf-8")
    with pytest.raises(QuranAsrError) as caught:
        Vocabulary.read(path)
    assert caught.value.where == f"{path}:2"


def test_no_file_an_empty_file_and_another_file_are_refused(tmp_path: Path) -> None:
    (tmp_path / "empty.txt").touch()
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe\x00\x80")
    for name, what in [("none.txt", "cannot read"), ("empty.txt", "empty"), ("binary.txt", "cannot read")]:
        with pytest.raises(QuranAsrError, match=what):
            Vocabulary.read(tmp_path / name)


def test_a_piece_that_would_tear_the_file_is_refused(tmp_path: Path) -> None:
    for piece in ("a\tb", "a\nb", ""):
        with pytest.raises(QuranAsrError, match="cannot be written"):
            Vocabulary(("▁", piece)).write(tmp_path / "v.txt")
    assert list(tmp_path.iterdir()) == []


def test_scores_belong_to_pieces() -> None:
    with pytest.raises(QuranAsrError, match="2 pieces has 1 scores"):
        Vocabulary(("a", "b"), (0.0,))


def test_blank_follows_the_pieces() -> None:
    assert (len(VOCABULARY), VOCABULARY.blank) == (8, 8)
