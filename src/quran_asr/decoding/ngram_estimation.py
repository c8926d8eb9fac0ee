"""Estimate an n-gram model: interpolated modified Kneser-Ney, Witten-Bell where that cannot be estimated.

Modified Kneser-Ney as Chen and Goodman 1998 (equations 23 to 27) and KenLM's `lmplz` (Heafield et al. 2013)
define it: counts of all but the longest n-grams and those that begin a sentence are numbers of distinct
tokens before them; three discounts for each length; every length is interpolated with the next shorter one,
the shortest with a uniform distribution over the tokens seen and one unknown token. Witten-Bell is method C
of Witten and Bell 1991, interpolated.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from quran_asr.decoding.language_model import MOST_ORDER, Ints, LanguageModel, Level, assemble
from quran_asr.errors import QuranAsrError

Doubles = NDArray[np.float64]
Smoothing = Literal["kneser-ney", "witten-bell"]
Text = Sequence[Sequence[int]]
"""Consecutive sentences: the tokens of each. An n-gram may cross from one into the next."""

ANY = 0
"""An n-gram of any length that ends here is counted."""


@dataclass(frozen=True, slots=True)
class _Counts:
    """The n-grams of one length, sorted by (prefix, token)."""

    prefix: Ints
    token: Ints
    suffix: Ints
    """Index in the previous level of the n-gram without its first token."""
    begins: NDArray[np.bool_]
    """Whether it begins a sentence."""
    raw: Ints
    """Occurrences."""


def estimate(
    texts: Sequence[Text],
    vocabulary_size: int,
    *,
    order: int = 6,
    smoothing: Smoothing = "kneser-ney",
    pieces: tuple[str, ...] = (),
) -> LanguageModel:
    """Estimate a model from token sequences.

    Tokens that the texts lack share the probability of the unknown token.

    Args:
        texts: the sentences of each. A text of one sentence is counted as usual; where sentences follow
            each other (verses of a surah), n-grams across the border are counted too, and each sentence can
            begin and end on its own.
        vocabulary_size: V; tokens are 0 to V - 1.
        order: length of the longest n-grams.
        smoothing: `kneser-ney` falls back to `witten-bell` at a length whose discounts cannot be estimated
            (no n-gram of count 1, 2 or 3, or a discount outside of 0 to the count).
        pieces: of the vocabulary, to be stored with the model.

    Raises:
        QuranAsrError: no token at all, a token outside the vocabulary, or an order outside 1 to MOST_ORDER.
    """
    if not 1 <= order <= MOST_ORDER:
        raise QuranAsrError(f"order is {order}", remedy=f"give a whole number from 1 to {MOST_ORDER}")
    counts = _count(texts, vocabulary_size, order)
    levels: list[Level] = []
    below = unknown = 0.0
    probability: Doubles = np.zeros(0)
    first_state = 1
    gammas: list[Doubles] = []
    for n, level in enumerate(counts):
        longest = n == order - 1
        if smoothing == "witten-bell" or longest:
            adjusted = level.raw
        else:
            before = np.bincount(counts[n + 1].suffix, minlength=len(level.token))
            adjusted = np.where(level.begins, level.raw, before)
        if n == 0:
            adjusted = np.where(level.begins, 0, adjusted)
        contexts = len(counts[n - 1].token) if n else 1
        discounts = None if smoothing == "witten-bell" else _discounts(adjusted)
        share, gamma = _smooth(adjusted, level.prefix, contexts, discounts)
        if n == 0:
            seen = adjusted > 0
            unseen = ~seen
            unseen[-1] = False  # the beginning of a sentence is never predicted
            below = float(gamma[0]) / (int(seen.sum()) + 1)
            probability = np.where(seen, share + below, below / max(1, int(unseen.sum())))
            unknown = -np.inf if unseen.any() else float(np.log(below)) if below else -np.inf
            probability[-1] = 0.0
            suffix: Ints = np.zeros(len(level.token), np.int64)
        else:
            probability = share + gamma[level.prefix] * probability[level.suffix]
            suffix = level.suffix + first_state
            first_state += contexts
        gammas.append(gamma)
        with np.errstate(divide="ignore"):
            log_prob = np.log(probability)
        levels.append(Level(level.prefix, level.token, suffix, log_prob, np.zeros(len(level.token))))
    for n in range(order - 1):
        levels[n].backoff[:] = np.log(gammas[n + 1])
    return assemble(levels, vocabulary_size, unknown, pieces)


def _count(texts: Sequence[Text], vocabulary_size: int, order: int) -> list[_Counts]:
    """All n-grams up to `order` with their occurrences."""
    end, begin = vocabulary_size, vocabulary_size + 1
    width = vocabulary_size + 2
    parts: list[list[int]] = []
    masks: list[list[int]] = []
    for text in texts:
        sentences = [list(sentence) for sentence in text if len(sentence)]
        if not sentences:
            continue
        whole = [token for sentence in sentences for token in sentence]
        if min(whole) < 0 or max(whole) >= vocabulary_size:
            raise QuranAsrError(
                f"a token is outside the vocabulary of {vocabulary_size}",
                remedy="use the model's own tokenizer",
            )
        parts.append([-1, begin, *whole, end])
        masks.append([ANY] * len(parts[-1]))
        border = 0
        for sentence in sentences[:-1]:  # each can end, and the next can begin, as if it were alone
            border += len(sentence)
            context = whole[max(0, border - order + 1) : border]
            parts.append([-1, *context, end])
            masks.append([-1] * (len(context) + 1) + [ANY])
            following = whole[border : border + order - 1]
            parts.append([-1, begin, *following])
            masks.append([-1, *range(1, len(following) + 2)])
    if not parts:
        raise QuranAsrError("the text for the language model is empty", remedy="give at least one sentence")
    sequence = np.array([token for part in parts for token in part], np.int64)
    counted = np.array([length for mask in masks for length in mask], np.int64)
    names = np.arange(width, dtype=np.int64)
    taken = (sequence >= 0) & ((counted == ANY) | (counted == 1))
    raw = np.bincount(sequence[taken], minlength=width)
    levels = [_Counts(np.zeros(width, np.int64), names, names * 0, names == begin, raw)]
    ending = sequence  # of the n-gram that ends at each place; -1 where none of this length does
    for n in range(2, order + 1):
        places = np.flatnonzero((ending[:-1] >= 0) & (sequence[1:] >= 0)) + 1
        keys, number = np.unique(ending[places - 1] * width + sequence[places], return_inverse=True)
        prefix, token = keys // width, keys % width
        suffix = np.zeros(len(keys), np.int64)
        suffix[number] = ending[places]
        taken = (counted[places] == ANY) | (counted[places] == n)
        raw = np.bincount(number[taken], minlength=len(keys))
        levels.append(_Counts(prefix, token, suffix, levels[-1].begins[prefix], raw))
        ending = np.full(len(sequence), -1, np.int64)
        ending[places] = number
    return levels


def _discounts(counts: Ints) -> tuple[float, float, float] | None:
    """Discounts of counts of 1, 2, and 3 or more (Chen and Goodman, equation 26); None: no estimate."""
    t = np.bincount(np.minimum(counts, 5), minlength=6)[1:5].astype(np.float64)
    if (t[:3] == 0).any():
        return None
    y = t[0] / (t[0] + 2 * t[1])
    discounts = tuple(k - (k + 1) * y * t[k] / t[k - 1] for k in (1, 2, 3))
    if not all(0 < discount <= k for k, discount in enumerate(discounts, start=1)):
        return None
    return discounts[0], discounts[1], discounts[2]


def _smooth(
    counts: Ints, prefix: Ints, contexts: int, discounts: tuple[float, float, float] | None
) -> tuple[Doubles, Doubles]:
    """The discounted probability of each n-gram in its context, and the weight of the shorter context."""
    total = np.bincount(prefix, counts, contexts)
    safe = np.maximum(total, 1)
    if discounts is None:
        kinds = np.bincount(prefix[counts > 0], minlength=contexts)
        whole = np.maximum(total + kinds, 1)
        share, left = counts / whole[prefix], kinds / whole
    else:
        discount = np.array([0.0, *discounts])[np.minimum(counts, 3)]
        share = (counts - discount) / safe[prefix]
        left = np.bincount(prefix, discount, contexts) / safe
    return share, np.where(total > 0, left, 1.0)
