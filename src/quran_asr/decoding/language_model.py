"""An n-gram language model over the tokens of an acoustic model, as arrays.

A state is an integer: the longest context of the model that is a suffix of the text so far. Scores of all
tokens in many states come from one call, with the back-off resolved in numpy, so that a beam search makes one
call for all of its hypotheses. Probabilities are natural logarithms everywhere except in ARPA files.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from quran_asr.errors import QuranAsrError
from quran_asr.files import write_atomically

Ints = NDArray[np.int64]
Floats = NDArray[np.float32]

FORMAT = 1
"""Version of the `.npz` layout."""
ROOT = 0
"""The state of the empty context."""
MOST_ORDER = 16


@dataclass(frozen=True, slots=True)
class Level:
    """All n-grams of one length, sorted by (prefix, token), as `assemble` takes them."""

    prefix: Ints
    """[n] index of the n-gram without its last token in the previous level; 0 in the first level."""
    token: Ints
    """[n] last token: 0 to V - 1, V for the end of a sentence, V + 1 for its beginning (first level only)."""
    suffix: Ints
    """[n] state of the longest n-gram of the model that is a proper suffix of this one."""
    log_prob: NDArray[np.float64]
    """[n] natural log; -inf for the beginning of a sentence."""
    backoff: NDArray[np.float64]
    """[n] natural log of the weight of shorter contexts after this one; not used in the last level."""


@dataclass(frozen=True, slots=True, eq=False)
class LanguageModel:
    """A back-off n-gram model. A states count S, A n-grams, V tokens; S - 1 n-grams are shorter than `order`.

    The n-grams are sorted by the state of their context and, within it, by their last token. Made by
    `assemble`, `read_language_model`, `ngram_estimation.estimate` or `arpa.read_arpa`.
    """

    order: int
    vocabulary_size: int
    """V, without the blank."""
    tokens: NDArray[np.uint16]
    """[A] last token of each n-gram, as in `Level`."""
    log_probs: Floats
    """[A]"""
    targets: NDArray[np.int32]
    """[A] state after the n-gram."""
    first: NDArray[np.int32]
    """[S + 1] first n-gram of each state."""
    backoff_states: NDArray[np.int32]
    """[S] the state of the next shorter context; of ROOT itself."""
    backoffs: Floats
    """[S] natural log of that context's weight; 0 for ROOT."""
    contexts: NDArray[np.int32]
    """[S, order - 1] states of each state's contexts, the shortest first, itself last; ROOT before them where
    there are fewer."""
    weights: Floats
    """[S, order] log of the weight of the empty context in each state, then of each of `contexts`."""
    sizes: tuple[int, ...]
    """Number of n-grams of each length."""
    unknown: float = -np.inf
    """Log probability of anything that is not one of the V tokens."""
    pieces: tuple[str, ...] = ()
    """The vocabulary it was built for; empty when unknown (ARPA)."""

    @property
    def start(self) -> int:
        """The state at the beginning of a sentence."""
        return self.vocabulary_size + 2 if self.order > 1 else ROOT

    def check_vocabulary(self, pieces: Sequence[str]) -> None:
        """Check that the model is over these tokens: a wrong encoding would ruin every word.

        Raises:
            QuranAsrError: another number of tokens, or other pieces.
        """
        if len(pieces) != self.vocabulary_size:
            raise QuranAsrError(
                f"the language model has {self.vocabulary_size} tokens, the acoustic model {len(pieces)}",
                remedy="build it for this model: quran-asr lm build --model MODEL",
            )
        if self.pieces and tuple(pieces) != self.pieces:
            raise QuranAsrError(
                "the language model was built for another tokenizer",
                remedy="build it for this model: quran-asr lm build --model MODEL",
            )

    def scores(self, states: NDArray[np.integer]) -> tuple[Floats, NDArray[np.int32]]:
        """Score every token in each of B states.

        Args:
            states: [B].

        Returns:
            Log probabilities [B, V] float32 and the state after each token, [B, V] int32.
        """
        count, size, width = len(states), self.vocabulary_size, self.vocabulary_size + 2
        log_probs = self.log_probs[:width] + self.weights[states, 0, None]
        targets = np.repeat(self.targets[None, :width], count, axis=0)
        # The n-grams of the shortest contexts come first, so that those of longer ones replace them.
        contexts, weights = self.contexts[states].ravel(), self.weights[states, 1:].ravel()
        begins = self.first[contexts]
        lengths = np.where(contexts == ROOT, 0, self.first[contexts + 1] - begins)
        ends = lengths.cumsum()
        if len(ends) and ends[-1]:
            item = np.repeat(np.arange(len(contexts)), lengths)
            arcs = np.arange(ends[-1]) + (begins - ends + lengths)[item]
            places = item // (self.order - 1) * width + self.tokens[arcs]
            log_probs.ravel()[places] = self.log_probs[arcs] + weights[item]
            targets.ravel()[places] = self.targets[arcs]
        return log_probs[:, :size], targets[:, :size]

    def score_sequences(
        self, sequences: Sequence[Sequence[int]], *, start: int | None = None, end: bool = True
    ) -> list[NDArray[np.float64]]:
        """Log probability of each token of each sequence, and of its end.

        Args:
            sequences: tokens below V.
            start: state before each first token; None takes the beginning of a sentence, ROOT no context.
            end: the last entry is the end of the sentence.

        Returns:
            Of each sequence [tokens + 1], or [tokens] without `end`.

        Raises:
            QuranAsrError: a token that the model lacks.
        """
        width = self.vocabulary_size + 2
        texts = [np.asarray([*text, *([width - 2] if end else [])], np.int64) for text in sequences]
        for text in texts:
            if len(text) and (text.min() < 0 or text.max() >= width - 1):
                raise QuranAsrError(
                    f"the language model has no token {int(text.max())}", remedy="use the same tokenizer"
                )
        keys = np.repeat(np.arange(len(self.first) - 1), np.diff(self.first)) * width + self.tokens
        lengths = np.array([len(text) for text in texts], np.int64)
        found = np.zeros((len(texts), lengths.max(initial=0)))
        states = np.full(len(texts), self.start if start is None else start, np.int64)
        for place in range(found.shape[1]):
            rows = np.flatnonzero(lengths > place)
            tokens = np.array([texts[row][place] for row in rows.tolist()], np.int64)
            found[rows, place], states[rows] = self._follow(keys, states[rows], tokens)
        return [scores[:length] for scores, length in zip(found, lengths.tolist(), strict=True)]

    def end_scores(self, states: NDArray[np.integer]) -> Floats:
        """Log probability that the sentence ends in each state, [B]."""
        width = self.vocabulary_size + 2
        keys = np.repeat(np.arange(len(self.first) - 1), np.diff(self.first)) * width + self.tokens
        ends = np.full(len(states), width - 2, np.int64)
        return self._follow(keys, np.asarray(states, np.int64), ends)[0].astype(np.float32)

    def _follow(self, keys: Ints, states: Ints, tokens: Ints) -> tuple[NDArray[np.float64], Ints]:
        """Log probability of one token in each state, and the states after them."""
        width = self.vocabulary_size + 2
        log_probs, after = np.zeros(len(states)), np.zeros(len(states), np.int64)
        open_rows, contexts = np.arange(len(states)), states.copy()
        while len(open_rows):
            wanted = contexts[open_rows] * width + tokens[open_rows]
            places = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
            hit = keys[places] == wanted
            rows, arcs = open_rows[hit], places[hit]
            log_probs[rows] += self.log_probs[arcs]
            after[rows] = self.targets[arcs]
            open_rows = open_rows[~hit]
            log_probs[open_rows] += self.backoffs[contexts[open_rows]]
            contexts[open_rows] = self.backoff_states[contexts[open_rows]]
        return log_probs, after

    def write(self, path: Path) -> None:
        """Write the `.npz`, atomically: what can be derived (the links between states) is left out."""
        buffer = io.BytesIO()
        np.savez(
            buffer,
            format=np.array(FORMAT),
            vocabulary_size=np.array(self.vocabulary_size),
            sizes=np.array(self.sizes, np.int64),
            tokens=self.tokens if self.vocabulary_size > 253 else self.tokens.astype(np.uint8),
            log_probs=self.log_probs,
            children=np.diff(self.first).astype(np.uint16),
            backoffs=self.backoffs,
            unknown=np.array(self.unknown),
            pieces=np.frombuffer("\n".join(self.pieces).encode(), np.uint8),
        )
        write_atomically(path, buffer.getvalue())


def assemble(
    levels: Sequence[Level], vocabulary_size: int, unknown: float = -np.inf, pieces: tuple[str, ...] = ()
) -> LanguageModel:
    """Make the arrays of a model from its n-grams, level by level.

    Args:
        levels: of 1-grams, 2-grams, ...; the first has all V + 2 tokens, in their order.
        vocabulary_size: V.
        unknown: log probability of anything else.
        pieces: of the vocabulary.
    """
    sizes = tuple(len(level.token) for level in levels)
    first_of_level = np.cumsum([0, 1, *sizes])  # states of contexts of length 0, 1, ...
    states = int(first_of_level[len(levels)])
    parents = np.concatenate(
        [np.zeros(sizes[0], np.int64)]
        + [first_of_level[n] + level.prefix for n, level in enumerate(levels[1:], start=1)]
    )
    first = np.zeros(states + 1, np.int64)
    np.cumsum(np.bincount(parents, minlength=states), out=first[1:])
    backoff_states, backoffs = np.zeros(states, np.int64), np.zeros(states)
    for n, level in enumerate(levels[:-1], start=1):
        own = slice(first_of_level[n], first_of_level[n + 1])
        backoff_states[own], backoffs[own] = level.suffix, level.backoff
    targets = np.concatenate([np.arange(1, states), levels[-1].suffix])
    if len(levels) == 1:
        targets = np.zeros(sizes[0], np.int64)
    # A state without n-grams that gives all weight to the shorter context is that shorter context.
    alike = (np.diff(first) == 0) & (backoffs == 0.0)
    alike[ROOT] = False
    for _ in levels:
        targets = np.where(alike[targets], backoff_states[targets], targets)
    contexts = np.zeros((states, len(levels) - 1), np.int32)
    weights = np.zeros((states, len(levels)), np.float32)
    state = np.arange(states)
    for column in range(len(levels) - 1, 0, -1):
        contexts[:, column - 1] = state
        weights[:, column - 1] = weights[:, column] + backoffs[state]
        state = backoff_states[state]
    return LanguageModel(
        order=len(levels),
        vocabulary_size=vocabulary_size,
        tokens=np.concatenate([level.token for level in levels]).astype(np.uint16),
        log_probs=np.concatenate([level.log_prob for level in levels]).astype(np.float32),
        targets=targets.astype(np.int32),
        first=first.astype(np.int32),
        backoff_states=backoff_states.astype(np.int32),
        backoffs=backoffs.astype(np.float32),
        contexts=contexts,
        weights=weights,
        sizes=sizes,
        unknown=unknown,
        pieces=pieces,
    )


def read_language_model(path: Path) -> LanguageModel:
    """Read the `.npz` that `LanguageModel.write` wrote.

    Raises:
        QuranAsrError: no such file, of a newer version, or not such a model.
    """
    remedy = "build it again: quran-asr lm build"
    try:
        with np.load(path, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
        version = int(arrays["format"])
        if version <= FORMAT:
            return _from_arrays(arrays)
    except FileNotFoundError as error:
        raise QuranAsrError(
            "no such language model",
            where=str(path),
            remedy="`quran` is the one in the package; `quran-asr lm build` makes others",
        ) from error
    except (OSError, ValueError, KeyError, TypeError, IndexError, EOFError, zipfile.BadZipFile) as error:
        raise QuranAsrError("is not a language model", where=str(path), remedy=remedy) from error
    raise QuranAsrError(
        f"language model of format {version}; this version reads up to {FORMAT}",
        where=str(path),
        remedy="install a newer quran-asr",
    )


def _from_arrays(arrays: dict[str, NDArray[np.generic]]) -> LanguageModel:
    """Derive the links between the states. Raises ValueError where the arrays are inconsistent."""
    size = int(arrays["vocabulary_size"])
    sizes = tuple(int(n) for n in arrays["sizes"])
    tokens = arrays["tokens"].astype(np.int64)
    log_probs, backoffs = arrays["log_probs"].astype(np.float64), arrays["backoffs"].astype(np.float64)
    children = arrays["children"].astype(np.int64)
    pieces = tuple(arrays["pieces"].tobytes().decode().split("\n")) if arrays["pieces"].size else ()
    bounds = np.cumsum([0, *sizes])
    states = 1 + int(bounds[-2])
    fit = (
        1 <= len(sizes) <= MOST_ORDER
        and 1 <= size < 65_534
        and sizes[0] == size + 2
        and len(tokens) == len(log_probs) == bounds[-1] == children.sum()
        and len(children) == len(backoffs) == states
        and (tokens[: size + 2] == np.arange(size + 2)).all()
        and (tokens[size + 2 :] <= size).all()
        and not np.isnan(log_probs).any()
        and np.isfinite(backoffs).all()
        and pieces in ((), pieces[:size])
    )
    if not fit:
        raise ValueError("the arrays do not fit each other")
    width = size + 2
    parents = np.repeat(np.arange(states), children)
    keys = parents * width + tokens
    if (np.diff(keys) <= 0).any():
        raise ValueError("the n-grams are not sorted")
    suffix_states = np.zeros(states, np.int64)
    levels: list[Level] = []
    for n in range(len(sizes)):
        own = slice(bounds[n], bounds[n + 1])
        before = 1 + (bounds[n - 1] if n else -1)  # state of the first context of these n-grams
        if n and (parents[own] < before).any():
            raise ValueError("an n-gram stands in the wrong level")
        suffix = _suffixes(keys, width, suffix_states, parents[own], tokens[own]) if n else None
        suffix = np.zeros(sizes[0], np.int64) if suffix is None else suffix
        if n < len(sizes) - 1:
            suffix_states[bounds[n] + 1 : bounds[n + 1] + 1] = suffix
        backoff = backoffs[bounds[n] + 1 : bounds[n + 1] + 1] if n < len(sizes) - 1 else np.zeros(sizes[n])
        levels.append(Level(parents[own] - before, tokens[own], suffix, log_probs[own], backoff))
    return assemble(levels, size, float(arrays["unknown"]), pieces)


def _suffixes(keys: Ints, width: int, suffix_states: Ints, parents: Ints, tokens: Ints) -> Ints:
    """State of the longest n-gram that ends each n-gram (context, token): its token after a shorter context.

    `suffix_states` are known for all shorter contexts.
    """
    contexts = suffix_states[parents]
    found = np.zeros(len(parents), np.int64)
    open_rows = np.arange(len(parents))
    while len(open_rows):
        wanted = contexts[open_rows] * width + tokens[open_rows]
        places = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
        hit = keys[places] == wanted
        found[open_rows[hit]] = places[hit] + 1  # the state of an n-gram follows its place
        open_rows = open_rows[~hit]
        contexts[open_rows] = suffix_states[contexts[open_rows]]
    return found
