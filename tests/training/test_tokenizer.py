from __future__ import annotations

from pathlib import Path

import pytest

from quran_asr.decoding.vocabulary import Vocabulary
from quran_asr.errors import QuranAsrError
from quran_asr.text.quran import load_quran
from quran_asr.training.tokenizer import Tokenizer, copy_tokenizer, train_tokenizer, unknown_tokens


@pytest.mark.slow
@pytest.mark.parametrize(("spelling", "size"), [("letters", 96), ("diacritized", 1024), ("uthmani", 256)])
def test_every_verse_survives_and_none_is_unknown(spelling: str, size: int, tmp_path: Path) -> None:
    tokenizer = train_tokenizer(spelling, size, tmp_path / "tokenizer")
    quran = load_quran(spelling)
    verses = [quran.verse(ref) for ref in quran.refs]
    assert tokenizer.size == size
    assert [v for v in verses if tokenizer.decode(tokenizer.encode(v)) != v] == []
    assert unknown_tokens(tokenizer, verses) == []
    # the runtime joins pieces without sentencepiece
    vocabulary = Vocabulary(tokenizer.pieces)
    assert [v for v in verses if vocabulary.text(tokenizer.encode(v)) != v] == []


def test_a_letter_that_is_not_arabic_is_unknown(tokenizer: Tokenizer) -> None:
    assert unknown_tokens(tokenizer, ["قل هو", "قل x هو"]) == ["قل x هو"]


def test_fewer_tokens_than_letters_are_refused_and_nothing_is_left(tmp_path: Path) -> None:
    with pytest.raises(QuranAsrError, match="too few") as refused:
        train_tokenizer("letters", 20, tmp_path / "tokenizer")
    assert "use at least" in refused.value.remedy
    assert list(tmp_path.iterdir()) == []


def test_more_tokens_than_the_text_has_are_refused(tmp_path: Path) -> None:
    with pytest.raises(QuranAsrError, match="no tokenizer of 500000 tokens"):
        train_tokenizer("letters", 500_000, tmp_path / "tokenizer")
    assert list(tmp_path.iterdir()) == []


def test_a_copy_gives_the_same_tokens(tokenizer: Tokenizer, tmp_path: Path) -> None:
    copy = copy_tokenizer(tokenizer.folder, tmp_path / "copy")
    assert copy.pieces == tokenizer.pieces
    assert (tmp_path / "copy" / "vocab.txt").read_text() == (tokenizer.folder / "vocab.txt").read_text()


def test_a_folder_without_a_tokenizer_and_a_broken_one_are_refused(tmp_path: Path) -> None:
    with pytest.raises(QuranAsrError, match=r"no `tokenizer\.model`"):
        Tokenizer(tmp_path)
    (tmp_path / "tokenizer.model").write_bytes(b"not a model")
    with pytest.raises(QuranAsrError, match="not a SentencePiece model"):
        Tokenizer(tmp_path)


def test_another_tokenizer_is_not_replaced(tmp_path: Path) -> None:
    first = train_tokenizer("letters", 48, tmp_path).pieces
    with pytest.raises(QuranAsrError, match="holds another tokenizer"):
        train_tokenizer("letters", 64, tmp_path)
    assert train_tokenizer("letters", 48, tmp_path).pieces == first
