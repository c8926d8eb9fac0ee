"""Models of the Quran, of passages and of text files, over the tokens of a vocabulary."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest

from quran_asr.decoding.quran_language_model import (
    build_passage_model,
    build_quran_model,
    build_text_model,
    held_out_perplexity,
    perplexity,
    quran_texts,
    text_perplexity,
)
from quran_asr.decoding.tokenization import Tokenizer
from quran_asr.decoding.vocabulary import WORD_START, Vocabulary
from quran_asr.errors import QuranAsrError
from quran_asr.text.quran import load_quran


@pytest.fixture(scope="module")
def vocabulary() -> Vocabulary:
    """Letters, and the commonest beginnings of words and pairs of letters with scores, as BPE has them."""
    quran = load_quran("letters")
    letters = sorted({letter for verse in quran.verses.values() for letter in verse if letter != " "})
    merges = ("ال", "▁و", "▁ال", "▁م", "ين", "ون", "ها", "▁ف", "نا", "هم", "▁ب", "كم")
    pieces = ("<unk>", *merges, WORD_START, *letters)
    return Vocabulary(pieces, (0.0, *(-float(nth) for nth in range(len(pieces) - 1))))


@pytest.mark.slow
@pytest.mark.parametrize("vocabulary_size", [48, 256])
def test_tokens_are_those_of_sentencepiece(vocabulary_size: int, tmp_path: Path) -> None:
    sentencepiece = pytest.importorskip("sentencepiece", reason="needs sentencepiece")
    verses = list(load_quran("letters").verses.values())
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(verses),
        model_prefix=str(tmp_path / "model"),
        model_type="bpe",
        vocab_size=vocabulary_size,
        character_coverage=1.0,
        normalization_rule_name="identity",
        bos_id=-1,
        eos_id=-1,
        minloglevel=2,
    )
    theirs = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "model.model"))
    size = theirs.get_piece_size()
    tokenizer = Tokenizer(
        Vocabulary(
            tuple(theirs.id_to_piece(token) for token in range(size)),
            tuple(theirs.get_score(token) for token in range(size)),
        )
    )
    assert [list(tokenizer.encode(verse)) for verse in verses] == theirs.encode(verses)


def test_what_the_vocabulary_cannot_write_is_refused(vocabulary: Vocabulary) -> None:
    tokenizer = Tokenizer(vocabulary)
    with pytest.raises(QuranAsrError, match="has no `x`, which `xب` needs"):
        tokenizer.encode("قل xب")
    with pytest.raises(QuranAsrError, match="no scores"):
        Tokenizer(Vocabulary(vocabulary.pieces))


def test_the_whole_quran_fits_into_ten_megabytes(vocabulary: Vocabulary, tmp_path: Path) -> None:
    model = build_quran_model(vocabulary, "letters")
    model.write(tmp_path / "quran.npz")
    assert model.order == 6
    assert (tmp_path / "quran.npz").stat().st_size < 10e6
    model.check_vocabulary(vocabulary.pieces)
    states = np.random.default_rng(0).integers(0, len(model.first) - 1, 500)
    log_probs, _ = model.scores(states)
    total = np.exp(log_probs.astype(np.float64)).sum(axis=1) + np.exp(model.end_scores(states))
    np.testing.assert_allclose(total, 1, atol=1e-5)


@pytest.mark.slow
def test_held_out_surahs_are_harder_than_those_in_the_counts(vocabulary: Vocabulary) -> None:
    surahs = (36, 67, 114)
    closed = perplexity(
        build_quran_model(vocabulary, "letters"),
        quran_texts(Tokenizer(vocabulary), "letters", surahs),
        vocabulary,
    )
    open_ = held_out_perplexity(vocabulary, "letters", surahs)
    assert (closed.tokens, closed.words) == (open_.tokens, open_.words)
    quran = load_quran("letters")
    words = sum(len(quran.verse(ref).split()) for ref in quran.refs if ref.surah in surahs)
    assert open_.words == words + 3 * 4  # and three basmalas
    assert 2 * closed.per_token < open_.per_token < len(vocabulary) / 2
    assert open_.per_word > 5 * open_.per_token


@pytest.mark.alone
def test_a_passage_is_a_model_of_its_own_in_a_tenth_of_a_second(vocabulary: Vocabulary) -> None:
    load_quran("letters")  # read once, whatever is asked of it
    times = []
    for _ in range(5):
        begin = time.process_time()
        model = build_passage_model(vocabulary, "letters", "2:1-141")
        times.append(time.process_time() - begin)
    assert min(times) < 0.1
    tokenizer = Tokenizer(vocabulary)
    quran = load_quran("letters")
    inside = [[tokenizer.encode(quran.verse(ref)) for ref in quran.refs[7 + 100 : 7 + 120]]]
    outside = quran_texts(tokenizer, "letters", [19])
    assert perplexity(model, inside, vocabulary).per_token < 3
    assert perplexity(model, outside, vocabulary).per_token > 6


def test_a_passage_of_several_surahs_has_the_basmala_of_each(vocabulary: Vocabulary) -> None:
    model = build_passage_model(vocabulary, "letters", "Al-Falaq - An-Nas")
    one = build_passage_model(vocabulary, "letters", "113")
    surahs = quran_texts(Tokenizer(vocabulary), "letters", [113, 114])
    in_a_row = [[sentence for text in surahs for sentence in text]]
    assert perplexity(model, in_a_row, vocabulary).per_token < 1.2
    assert perplexity(one, in_a_row, vocabulary).per_token > 2


def test_a_text_file_becomes_a_model(vocabulary: Vocabulary, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("قُلْ هُوَ اللَّهُ أَحَدٌ\n\nقل أعوذ برب الناس\n", encoding="utf-8")
    model = build_text_model(vocabulary, "letters", text, order=4)
    found = text_perplexity(model, vocabulary, "letters", text)
    assert found.words == 8
    assert found.per_token < 3
    text.write_text("\n", encoding="utf-8")
    with pytest.raises(QuranAsrError, match="the text is empty"):
        build_text_model(vocabulary, "letters", text)
    with pytest.raises(QuranAsrError, match="cannot read the text"):
        build_text_model(vocabulary, "letters", tmp_path / "missing.txt")
    text.write_text("قل هو الله أحد\nقل hello پل\n", encoding="utf-8")
    with pytest.raises(QuranAsrError, match="letters that the Quran does not have: heloپ") as refused:
        build_text_model(vocabulary, "letters", text)
    assert refused.value.where == f"{text}:2"


@pytest.mark.parametrize("surahs", [(), range(1, 115), (115,)])
def test_surahs_that_cannot_be_held_out_are_refused(vocabulary: Vocabulary, surahs: range) -> None:
    with pytest.raises(QuranAsrError):
        held_out_perplexity(vocabulary, "letters", surahs)
