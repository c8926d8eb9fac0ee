"""Language models of the Quran: the whole of it, a passage, or any text; and how well they predict.

The Quran is a closed text: a model of all of it has seen every verse, so its perplexity there says nothing
about other text. `held_out_perplexity` excludes surahs from the counts and measures on them.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from quran_asr.decoding.language_model import LanguageModel
from quran_asr.decoding.ngram_estimation import Smoothing, Text, estimate
from quran_asr.decoding.tokenization import Tokenizer
from quran_asr.decoding.vocabulary import WORD_START, Vocabulary
from quran_asr.errors import QuranAsrError
from quran_asr.text.editions import SURAHS
from quran_asr.text.passages import parse_range, read_passage
from quran_asr.text.quran import load_quran
from quran_asr.text.spelling import lost_letters, spell

DEFAULT_ORDER = 6
DEFAULT_SMOOTHING: Smoothing = "witten-bell"
"""For a closed text, whose n-grams are all known, it leaves less probability to unseen ones."""


@dataclass(frozen=True, slots=True)
class Perplexity:
    """Perplexity of a model on some texts, without the ends of their sentences."""

    log_prob: float
    """Natural log of the probability of all tokens."""
    tokens: int
    words: int

    @property
    def per_token(self) -> float:
        """Infinite where the model excludes a token, or all but excludes many."""
        return _exp(-self.log_prob / max(1, self.tokens))

    @property
    def per_word(self) -> float:
        return _exp(-self.log_prob / max(1, self.words))


def _exp(exponent: float) -> float:
    try:
        return math.exp(exponent)
    except OverflowError:
        return math.inf


def build_quran_model(
    vocabulary: Vocabulary,
    spelling: str,
    *,
    order: int = DEFAULT_ORDER,
    smoothing: Smoothing = DEFAULT_SMOOTHING,
    without: Collection[int] = (),
) -> LanguageModel:
    """A model of the whole Quran, verse after verse, the basmala before each surah that has one.

    Args:
        vocabulary: the acoustic model's pieces with their scores.
        spelling: the acoustic model's.
        order: length of the longest n-grams, in tokens.
        smoothing: see `estimate`.
        without: surahs to leave out.

    Raises:
        QuranAsrError: no such spelling, surah or order, or a vocabulary that cannot write the text.
    """
    texts = quran_texts(Tokenizer(vocabulary), spelling, [s for s in _surahs() if s not in set(without)])
    return estimate(texts, len(vocabulary), order=order, smoothing=smoothing, pieces=tuple(vocabulary.pieces))


def build_passage_model(
    vocabulary: Vocabulary, spelling: str, passage: str, *, order: int = DEFAULT_ORDER
) -> LanguageModel:
    """A model of one passage, for applications that know which one is recited.

    Args:
        vocabulary: the acoustic model's pieces with their scores.
        spelling: the acoustic model's.
        passage: as `read_passage` reads it: `2:1-141`, `112-114`; before a surah's first verse its basmala
            counts as a sentence.
        order: length of the longest n-grams, in tokens.

    Raises:
        QuranAsrError: no such passage or spelling, or a vocabulary that cannot write the text.
    """
    quran, tokenizer = load_quran(spelling), Tokenizer(vocabulary)
    sentences: list[tuple[int, ...]] = []
    for verse in read_passage(passage):
        if verse.ayah == 1 and (basmala := quran.basmala(verse.surah)):
            sentences.append(tokenizer.encode(basmala))
        sentences.append(tokenizer.encode(quran.verse(verse)))
    return estimate(
        [sentences],
        len(vocabulary),
        order=order,
        smoothing=DEFAULT_SMOOTHING,
        pieces=tuple(vocabulary.pieces),
    )


def build_text_model(
    vocabulary: Vocabulary,
    spelling: str,
    path: Path,
    *,
    order: int = DEFAULT_ORDER,
    smoothing: Smoothing = DEFAULT_SMOOTHING,
) -> LanguageModel:
    """A model of a text file, a sentence a line, brought to the acoustic model's spelling.

    Raises:
        QuranAsrError: the file cannot be read or is empty, or has a character that the vocabulary lacks
            (`file:line`).
    """
    texts = [[sentence] for sentence in _sentences(Tokenizer(vocabulary), spelling, path)]
    return estimate(texts, len(vocabulary), order=order, smoothing=smoothing, pieces=tuple(vocabulary.pieces))


def held_out_perplexity(
    vocabulary: Vocabulary,
    spelling: str,
    surahs: Collection[int],
    *,
    order: int = DEFAULT_ORDER,
    smoothing: Smoothing = DEFAULT_SMOOTHING,
) -> Perplexity:
    """Perplexity on surahs of a model of all others.

    Raises:
        QuranAsrError: as `build_quran_model`; or no surah or all are held out.
    """
    if not surahs or len(set(surahs)) >= SURAHS:
        raise QuranAsrError("hold out at least one surah, and not all", remedy="for example 12,36,67")
    model = build_quran_model(vocabulary, spelling, order=order, smoothing=smoothing, without=surahs)
    return perplexity(model, quran_texts(Tokenizer(vocabulary), spelling, surahs), vocabulary)


def perplexity(model: LanguageModel, texts: Sequence[Text], vocabulary: Vocabulary) -> Perplexity:
    """Perplexity of a model on texts, each continued from sentence to sentence.

    Raises:
        QuranAsrError: a token that the model lacks.
    """
    whole = [[token for sentence in text for token in sentence] for text in texts]
    scores = model.score_sequences(whole, end=False)
    starts = {token for token, piece in enumerate(vocabulary.pieces) if piece.startswith(WORD_START)}
    return Perplexity(
        float(sum(score.sum() for score in scores)),
        sum(len(text) for text in whole),
        sum(token in starts for text in whole for token in text),
    )


def quran_texts(tokenizer: Tokenizer, spelling: str, surahs: Collection[int]) -> list[Text]:
    """The tokens of surahs: of each its verses, after the basmala where there is one.

    Raises:
        QuranAsrError: no such spelling or surah, or a vocabulary that cannot write the text.
    """
    quran = load_quran(spelling)
    texts: list[Text] = []
    for surah in sorted(set(surahs)):
        basmala = quran.basmala(surah)
        sentences = [tokenizer.encode(basmala)] if basmala else []
        sentences += [tokenizer.encode(quran.verse(ref)) for ref in parse_range(str(surah))]
        texts.append(sentences)
    return texts


def text_perplexity(model: LanguageModel, vocabulary: Vocabulary, spelling: str, path: Path) -> Perplexity:
    """Perplexity on a text file, a sentence a line. Errors as `build_text_model`."""
    sentences = _sentences(Tokenizer(vocabulary), spelling, path)
    return perplexity(model, [[sentence] for sentence in sentences], vocabulary)


def _surahs() -> range:
    return range(1, SURAHS + 1)


def _sentences(tokenizer: Tokenizer, spelling: str, path: Path) -> list[tuple[int, ...]]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        why = "it is not UTF-8" if isinstance(error, UnicodeDecodeError) else error.strerror
        remedy = "name a text file in UTF-8, one sentence per line"
        raise QuranAsrError(f"cannot read the text: {why}", where=str(path), remedy=remedy) from error
    sentences = []
    for number, line in enumerate(lines, start=1):
        if letters := lost_letters(line):
            raise QuranAsrError(
                f"letters that the Quran does not have: {letters}",
                where=f"{path}:{number}",
                remedy="write these words in Arabic letters, or remove the line",
            )
        try:
            tokens = tokenizer.encode(spell(line, spelling))
        except QuranAsrError as error:
            raise QuranAsrError(error.what, where=f"{path}:{number}", remedy=error.remedy) from error
        if tokens:
            sentences.append(tokens)
    if not sentences:
        raise QuranAsrError(
            "the text is empty",
            where=str(path),
            remedy="write one sentence per line into it, or leave out FILE to use the Quran",
        )
    return sentences
