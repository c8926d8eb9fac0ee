"""The SentencePiece vocabulary of a model: tokens to text and to timed words."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from quran_asr.errors import QuranAsrError
from quran_asr.files import write_atomically
from quran_asr.records import Hypothesis, TimedWord

WORD_START = "\u2581"
"""SentencePiece's mark for the space before a word."""
AGAIN = "export the model again, or copy its bundle again"


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """The pieces of a tokenizer, by token number. Joining them gives the text: no sentencepiece needed."""

    pieces: tuple[str, ...]
    """Piece of token 0, 1, ...; the blank is not among them, it is token `len(pieces)`."""
    scores: tuple[float, ...] = ()
    """SentencePiece's score of each piece (higher merges first); empty when unknown."""

    def __post_init__(self) -> None:
        if self.scores and len(self.scores) != len(self.pieces):
            raise QuranAsrError(
                f"a vocabulary of {len(self.pieces)} pieces has {len(self.scores)} scores",
                remedy="give a score for each piece, or leave the scores out",
            )

    def __len__(self) -> int:
        return len(self.pieces)

    @property
    def blank(self) -> int:
        return len(self.pieces)

    def text(self, tokens: Sequence[int]) -> str:
        """The text of a token sequence, words separated by one space.

        Raises:
            QuranAsrError: a token that the vocabulary lacks.
        """
        joined = "".join(self._piece(token) for token in tokens)
        return " ".join(joined.replace(WORD_START, " ").split())

    def words(
        self, hypothesis: Hypothesis, frame_seconds: float, offset: float = 0.0
    ) -> tuple[TimedWord, ...]:
        """The words of a hypothesis with their times; `" ".join` of their texts is `text(tokens)`.

        A word starts at the frame of its first token and ends one frame after its last token, or where
        the next word starts if that is sooner. `offset` is the time of frame 0 in seconds.

        The confidence of a word is its probability, the product of its tokens'; None where the hypothesis has
        none. With the quickstart model on clean and noisy speech the product separated correct from wrong
        words better than the lowest token probability with every decoder (area under the curve 0.85 against
        0.83 for the transducer, 0.96 against 0.95 for CTC). The geometric mean is better still on clean
        speech (0.83 against 0.82; 0.92 against 0.90) and worse on noise (0.76 against 0.80; 0.75 against
        0.83).
        """
        texts: list[str] = []
        firsts: list[int] = []
        lasts: list[int] = []
        sums: list[float] = []
        log_probs = hypothesis.log_probs or (math.nan,) * len(hypothesis.tokens)
        for token, frame, log_prob in zip(hypothesis.tokens, hypothesis.frames, log_probs, strict=True):
            for nth, part in enumerate(self._piece(token).split(WORD_START)):
                if nth or not texts:  # this part follows a word start
                    texts.append("")
                    firsts.append(frame)
                    lasts.append(frame)
                    sums.append(0.0)
                if part:
                    texts[-1] += part
                    lasts[-1] = frame
                if nth or part:  # the piece belongs to this word, if only as its start
                    sums[-1] += log_prob
        words: list[TimedWord] = []
        bound = math.inf  # where the next word starts
        for text, first, last, log_prob in zip(
            texts[::-1], firsts[::-1], lasts[::-1], sums[::-1], strict=True
        ):
            if text:
                end = min(last + 1, bound)
                times = offset + first * frame_seconds, offset + end * frame_seconds
                confidence = math.exp(min(log_prob, 0.0)) if hypothesis.log_probs else None
                words.append(TimedWord(text, *times, confidence))
                bound = first
        return tuple(words[::-1])

    @classmethod
    def read(cls, path: Path) -> Vocabulary:
        """Read a `vocabulary.txt`: `piece<TAB>score` a line, token 0 first.

        Raises:
            QuranAsrError: no such file, or a line that is not a piece and a number, by `file:line`.
        """
        try:
            lines = path.read_text(encoding="utf-8").split("\n")
        except (OSError, UnicodeDecodeError) as error:
            raise QuranAsrError("cannot read the vocabulary", where=str(path), remedy=AGAIN) from error
        if lines[-1] == "":
            lines.pop()
        if not lines:
            raise QuranAsrError("the vocabulary is empty", where=str(path), remedy=AGAIN)
        pieces, scores = [], []
        for number, line in enumerate(lines, start=1):
            piece, tab, score = line.partition("\t")
            try:
                value = float(score)
            except ValueError:
                value = math.nan
            if not (piece and tab and math.isfinite(value)):
                raise QuranAsrError(
                    f"`{line}` is not a piece, a tab and its score", where=f"{path}:{number}", remedy=AGAIN
                )
            pieces.append(piece)
            scores.append(value)
        return cls(tuple(pieces), tuple(scores))

    def write(self, path: Path) -> None:
        """Write `vocabulary.txt`, atomically. Unknown scores are written as minus the token's number."""
        scores = self.scores or tuple(-float(token) for token in range(len(self.pieces)))
        for token, piece in enumerate(self.pieces):
            if not piece or "\t" in piece or "\n" in piece:
                raise QuranAsrError(
                    f"token {token}, `{piece!r}`, cannot be written into a vocabulary file",
                    remedy="train again with a tokenizer of `quran-asr tokenizer --to FOLDER`",
                )
        lines = (f"{piece}\t{score!r}\n" for piece, score in zip(self.pieces, scores, strict=True))
        write_atomically(path, "".join(lines).encode())

    def _piece(self, token: int) -> str:
        if not 0 <= token < len(self.pieces):  # a negative number would silently count from the end
            raise QuranAsrError(
                f"token {token} is not in this vocabulary of {len(self.pieces)} pieces",
                remedy="use the vocabulary of the model that gave the tokens",
            )
        return self.pieces[token]
