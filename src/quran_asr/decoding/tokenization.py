"""Text to tokens without sentencepiece: byte-pair merges by the scores of the vocabulary."""

from __future__ import annotations

from functools import lru_cache

from quran_asr.decoding.vocabulary import WORD_START, Vocabulary
from quran_asr.errors import QuranAsrError


class Tokenizer:
    """The token sequence that SentencePiece's BPE gives, from `vocabulary.txt` alone.

    Starting from single characters, the adjacent pair that forms the piece of the highest score is merged,
    the leftmost first, until no pair forms a piece (Sennrich et al. 2016, in SentencePiece's order).
    """

    def __init__(self, vocabulary: Vocabulary) -> None:
        """
        Args:
            vocabulary: pieces with their scores.

        Raises:
            QuranAsrError: the vocabulary has no scores, so the order of the merges is unknown.
        """
        if not vocabulary.scores:
            raise QuranAsrError("the vocabulary has no scores", remedy="export the model again")
        self.vocabulary = vocabulary
        self._tokens = {piece: token for token, piece in enumerate(vocabulary.pieces)}
        self._encode_word = lru_cache(maxsize=1 << 15)(self._merge)

    def encode(self, text: str) -> tuple[int, ...]:
        """The tokens of a text whose words are separated by spaces.

        Raises:
            QuranAsrError: a character that no piece has.
        """
        return tuple(token for word in text.split() for token in self._encode_word(word))

    def _merge(self, word: str) -> tuple[int, ...]:
        known, scores = self._tokens, self.vocabulary.scores
        pieces = list(WORD_START + word)
        while len(pieces) > 1:
            merges = [
                (-scores[token], place)
                for place in range(len(pieces) - 1)
                if (token := known.get(pieces[place] + pieces[place + 1])) is not None
            ]
            if not merges:
                break
            place = min(merges)[1]
            pieces[place : place + 2] = [pieces[place] + pieces[place + 1]]
        missing = next((piece for piece in pieces if piece not in known), None)
        if missing is not None:
            raise QuranAsrError(
                f"the model's vocabulary has no `{missing}`, which `{word}` needs",
                remedy="give the text in the model's spelling",
            )
        return tuple(known[piece] for piece in pieces)
