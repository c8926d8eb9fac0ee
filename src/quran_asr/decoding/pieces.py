"""Words as the tokens of a model: byte-pair encoding by the vocabulary's scores, without sentencepiece."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from quran_asr.findings import QuranAsrError

SPACE = "\u2581"
"""SentencePiece's sign for the space before a word."""


class PieceEncoder:
    """Splits words into the pieces of one vocabulary as SentencePiece's BPE does.

    Args:
        pieces: the piece of token 0, 1, ...
        scores: SentencePiece's score of each piece, the higher merges first; empty: earlier pieces first.
    """

    def __init__(self, pieces: Sequence[str], scores: Sequence[float] = ()) -> None:
        ranked = scores or [-float(token) for token in range(len(pieces))]
        self._tokens = {piece: token for token, piece in enumerate(pieces)}
        self._scores = dict(zip(pieces, ranked, strict=True))

    def encode(self, word: str) -> tuple[int, ...]:
        """The tokens of one word (no space in it), the space before it included.

        Raises:
            QuranAsrError: the vocabulary has no piece for one of its characters.
        """
        symbols = [SPACE, *word]
        while len(symbols) > 1:
            merged = [a + b for a, b in pairwise(symbols)]
            best = max(merged, key=lambda piece: self._scores.get(piece, -float("inf")))
            if best not in self._scores:
                break
            place = merged.index(best)
            symbols[place : place + 2] = [best]
        try:
            return tuple(self._tokens[symbol] for symbol in symbols)
        except KeyError as missing:
            raise QuranAsrError(
                f"the model's vocabulary has no piece for {missing.args[0]!r} of `{word}`",
                remedy="use the spelling that the model was trained on",
            ) from None
