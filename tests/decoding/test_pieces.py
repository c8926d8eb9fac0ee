"""Words as tokens: the same as SentencePiece's."""

from __future__ import annotations

import io

import pytest

from quran_asr.decoding.graph import build_graph
from quran_asr.decoding.pieces import PieceEncoder
from quran_asr.findings import QuranAsrError
from quran_asr.text.quran import load_quran


@pytest.mark.slow
def test_pieces_are_those_of_sentencepiece() -> None:
    sentencepiece = pytest.importorskip("sentencepiece")
    quran = load_quran("letters")
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(quran.verses.values()),
        model_writer=model,
        vocab_size=256,
        model_type="bpe",
        character_coverage=1.0,
        normalization_rule_name="identity",
        minloglevel=2,
    )
    processor = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    tokens = range(len(processor))
    encoder = PieceEncoder(
        [processor.id_to_piece(token) for token in tokens], [processor.get_score(token) for token in tokens]
    )
    words = sorted({word for verse in quran.verses.values() for word in verse.split()})
    assert [encoder.encode(word) for word in words] == [tuple(processor.encode(word)) for word in words]


def test_a_vocabulary_that_cannot_spell_the_quran() -> None:
    with pytest.raises(QuranAsrError, match="has no piece for"):
        build_graph(load_quran("letters"), PieceEncoder(["\u2581", "ا", "ل"]))


def test_no_verses() -> None:
    with pytest.raises(QuranAsrError, match="no verses"):
        build_graph(load_quran("letters"), PieceEncoder(["\u2581"]), [])
