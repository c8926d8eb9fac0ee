"""Shallow fusion of a language model: shared by the CTC and transducer beams, and tuned on validation clips.

The score of a text is acoustic + lm_weight * language model + token_bonus * tokens (shallow fusion; natural
logs). The bonus compensates for the cost that a language model adds with every token.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

from quran_asr.decoding.language_model import LanguageModel
from quran_asr.errors import QuranAsrError
from quran_asr.records import Counts, Hypothesis

Doubles = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Tail:
    """The tokens of one text in a beam after the prefix that all texts share."""

    tokens: tuple[int, ...] = ()
    frames: tuple[int, ...] = ()
    """Frame of each token, from the beginning of the stream."""
    log_probs: tuple[float, ...] = ()
    """Log probability of each token in that frame, by the acoustic model alone."""

    def grown(self, token: int, frame: int, log_prob: float) -> Tail:
        return Tail((*self.tokens, token), (*self.frames, frame), (*self.log_probs, log_prob))

    def followed_by(self, other: Tail) -> Tail:
        return Tail(self.tokens + other.tokens, self.frames + other.frames, self.log_probs + other.log_probs)

    def from_token(self, place: int) -> Tail:
        return Tail(self.tokens[place:], self.frames[place:], self.log_probs[place:])


NO_TOKENS = Tail()


@dataclass(frozen=True, slots=True)
class Candidate:
    """An entry of an n-best list."""

    hypothesis: Hypothesis
    """Its score is the total score, by which the list is sorted."""
    acoustic: float
    """Natural log of the probability of the text by the acoustic model, all its alignments in the beam."""


@dataclass(frozen=True, slots=True, eq=False)
class Fusion:
    """A language model combined with an acoustic model.

    Raises:
        QuranAsrError: a weight without a model, or a weight or bonus that is not a finite number.
    """

    model: LanguageModel | None = None
    lm_weight: float = 0.0
    """0 leaves the model out."""
    token_bonus: float = 0.0
    """Added for every token; may be negative."""
    begins_sentence: bool = True
    """Whether a recording begins like a sentence, or anywhere in the text. After a pause the language model
    continues from the text before it, which decides whether a sentence begins there: reciters also pause
    within verses."""

    def __post_init__(self) -> None:
        if not (np.isfinite(self.lm_weight) and np.isfinite(self.token_bonus) and self.lm_weight >= 0):
            raise QuranAsrError(
                f"lm_weight is {self.lm_weight} and token_bonus {self.token_bonus}",
                remedy="give finite numbers, the weight not below 0",
            )
        if self.lm_weight and self.model is None:
            raise QuranAsrError("lm_weight is given without a language model", remedy="name one with --lm")

    @property
    def start(self) -> int:
        """The language model's state at the beginning of a recording."""
        return self.model.start if self.model is not None and self.begins_sentence else 0

    def rows(self, states: Ints, vocabulary_size: int) -> tuple[Doubles, Ints]:
        """The contribution of each token to the score of a text in each of K states, and the states after it.

        Returns:
            [K, V] float64 and [K, V].
        """
        if self.model is None or not self.lm_weight:
            shape = len(states), vocabulary_size
            return np.full(shape, self.token_bonus), np.zeros(shape, np.int64)
        log_probs, following = self.model.scores(states)
        return self.lm_weight * log_probs.astype(np.float64) + self.token_bonus, following.astype(np.int64)


NO_FUSION = Fusion()
EXCLUDED = -228.0
"""Natural log of the probability that rescoring gives a token which the language model excludes: about 1e-99,
as in ARPA files."""


def rescore(candidates: Sequence[Candidate], fusion: Fusion) -> list[Candidate]:
    """Rescore an n-best list with another language model or other weights.

    Args:
        candidates: of one utterance, from its beginning.
        fusion: replaces the one of the search.
    """
    whole = np.array([candidate.acoustic for candidate in candidates])
    texts = [candidate.hypothesis.tokens for candidate in candidates]
    whole += fusion.token_bonus * np.array([len(text) for text in texts])
    if fusion.model is not None and fusion.lm_weight:
        scored = fusion.model.score_sequences(texts, start=fusion.start, end=False)
        whole += fusion.lm_weight * np.array([np.maximum(score, EXCLUDED).sum() for score in scored])
    return [
        Candidate(_rescored(candidates[place].hypothesis, float(whole[place])), candidates[place].acoustic)
        for place in np.argsort(-whole, kind="stable").tolist()
    ]


def _rescored(hypothesis: Hypothesis, score: float) -> Hypothesis:
    return Hypothesis(hypothesis.tokens, hypothesis.frames, score, hypothesis.log_probs)


def shared_tokens(tails: Sequence[Tail]) -> int:
    """Length in tokens of the common prefix of these texts."""
    shared = 0
    for tokens in zip(*(tail.tokens for tail in tails), strict=False):
        if len(set(tokens)) > 1:
            break
        shared += 1
    return shared


def joined(tails: Sequence[Tail], score: float) -> Hypothesis:
    """Concatenate tails of one text."""
    return Hypothesis(
        tuple(token for tail in tails for token in tail.tokens),
        tuple(frame for tail in tails for frame in tail.frames),
        score,
        tuple(log_prob for tail in tails for log_prob in tail.log_probs),
    )


WEIGHTS = (0.0, 0.3, 0.5, 0.7, 1.0, 1.4)
BONUSES = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0)
PARTS = 16
"""The clips are decoded in so many parts; after each of them, points that are clearly worse are dropped."""
CLEARLY = 2.0
"""A point is clearly worse if it is behind the best one by so many standard errors of their difference."""


@dataclass(frozen=True, slots=True)
class TuningPoint:
    """One pair of settings and the errors made with it."""

    lm_weight: float
    token_bonus: float
    words: Counts
    characters: Counts
    clips: int
    """Clips that were decoded: fewer than all if the point was dropped."""


def tune(
    model: LanguageModel,
    evaluate: Callable[[Fusion, Sequence[int]], Sequence[tuple[Counts, Counts]]],
    clips: int,
    weights: Sequence[float] = WEIGHTS,
    bonuses: Sequence[float] = BONUSES,
    on_progress: Callable[[int, int], None] | None = None,
    *,
    whole_grid: bool = False,
) -> list[TuningPoint]:
    """Try every weight with every bonus.

    The points race (Maron and Moore 1994, "Hoeffding races"): all decode a part of the clips, chosen by a
    fixed seed, and those that are clearly behind the best so far, clip by clip, do not decode the next one.

    Args:
        model: the language model.
        evaluate: decodes some clips of the validation set, given by their numbers, from stored encoder
            outputs, and counts the errors of each in words and in characters.
        clips: number of clips.
        weights: of the language model.
        bonuses: for every token.
        on_progress: called with the clips decoded so far, of all points together, and the most there will be.
        whole_grid: every point decodes all clips.

    Returns:
        All points, the best first: most clips, fewest word errors, fewest character errors, smallest weight.

    Raises:
        QuranAsrError: no weight or no bonus to try, or an invalid one.
    """
    if not weights or not bonuses:
        raise QuranAsrError("no weight or no bonus to try", remedy="give at least one of each")
    grid = [Fusion(model, weight, bonus) for weight, bonus in product(weights, bonuses)]
    counts: list[list[tuple[Counts, Counts]]] = [[] for _ in grid]
    racing = list(range(len(grid)))
    order = random.Random(0).sample(range(clips), clips)
    size = -(-clips // PARTS)
    done = 0
    for first in range(0, clips, size):
        part = order[first : first + size]
        for point in racing:
            counts[point] += evaluate(grid[point], part)
            done += len(part)
            if on_progress is not None:
                on_progress(done, done + sum(clips - len(counts[other]) for other in racing))
        if not whole_grid:
            racing = _not_clearly_worse(racing, counts)
    points = [
        TuningPoint(
            fusion.lm_weight,
            fusion.token_bonus,
            sum((words for words, _ in found), Counts()),
            sum((characters for _, characters in found), Counts()),
            len(found),
        )
        for fusion, found in zip(grid, counts, strict=True)
    ]
    return sorted(
        points,
        key=lambda p: (-p.clips, p.words.errors, p.characters.errors, p.lm_weight, abs(p.token_bonus)),
    )


def _not_clearly_worse(racing: Sequence[int], counts: Sequence[Sequence[tuple[Counts, Counts]]]) -> list[int]:
    """The points whose word errors, clip by clip, may turn out to be no more than those of the best so far.

    A sum of n independent differences has the standard error sqrt(sum of their squares) if their mean is 0.
    """
    errors = np.array([[words.errors for words, _ in counts[point]] for point in racing])
    behind = errors - errors[errors.sum(axis=1).argmin()]
    most = CLEARLY * np.sqrt(np.square(behind).sum(axis=1))
    return [point for point, kept in zip(racing, behind.sum(axis=1) <= most, strict=True) if kept]
