"""CTC scores of words that nobody recited: exact truth for the search."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from quran_asr.decoding.graph import FORMULAS, Kind
from quran_asr.decoding.tokenization import Tokenizer
from quran_asr.decoding.vocabulary import WORD_START, Vocabulary
from quran_asr.records import VerseRef
from quran_asr.text.quran import load_quran
from quran_asr.text.spelling import alphabet, spell

QURAN = load_quran("letters")
PIECES = [WORD_START, *sorted(alphabet("letters") - {" "})]
TOKENIZER = Tokenizer(Vocabulary(tuple(PIECES), (0.0,) * len(PIECES)))
BLANK = len(PIECES)
FRAME = 0.08


def verse(place: str) -> list[str]:
    return QURAN.verse(VerseRef.parse(place)).split()


def formula(kind: Kind) -> list[str]:
    return spell(FORMULAS[kind], "letters").split()


class Speech:
    """Words one after another, every token one frame and every second frame blank."""

    def __init__(self, sharpness: float = 6.0, noise: float = 1.0, seed: int = 0) -> None:
        self._labels: list[int] = []
        self._sharpness, self._noise, self._seed = sharpness, noise, seed
        self.starts: list[float] = []
        """Seconds at which the first letter of each word is recited, behind the bare word start."""

    def say(self, words: Sequence[str]) -> Speech:
        for word in words:
            self.starts.append((len(self._labels) + 2) * FRAME)
            for token in TOKENIZER.encode(word):
                self._labels += [token, BLANK]
        return self

    def pause(self, seconds: float) -> Speech:
        self._labels += [BLANK] * round(seconds / FRAME)
        return self

    def babble(self, seconds: float) -> Speech:
        """Tokens in random order."""
        random = np.random.default_rng(self._seed + len(self._labels))
        for _ in range(round(seconds / FRAME / 2)):
            self._labels += [int(random.integers(0, BLANK)), BLANK]
        return self

    def log_probs(self) -> np.ndarray:
        """[frames, vocabulary + 1] float32."""
        random = np.random.default_rng(self._seed)
        logits = random.normal(0, self._noise, (len(self._labels), BLANK + 1))
        logits[np.arange(len(self._labels)), self._labels] += self._sharpness
        return (logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))).astype(np.float32)
