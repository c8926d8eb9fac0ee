"""Language models as ARPA files, which KenLM and NeMo read.

A token is one character there, chr(token + 100), as NeMo encodes tokens for its n-gram models
(`DEFAULT_TOKEN_OFFSET`); with `symbols` any other words stand for the tokens, the pieces themselves say.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from quran_asr.decoding.language_model import MOST_ORDER, LanguageModel, Level, assemble
from quran_asr.files import write_atomically
from quran_asr.findings import QuranAsrError

NEMO_OFFSET = 100
BEGIN, END, UNKNOWN = "<s>", "</s>", "<unk>"
NEVER = -99.0
"""What ARPA files have for the logarithm of 0."""


def nemo_symbols(vocabulary_size: int) -> tuple[str, ...]:
    """The character that stands for each token in NeMo's n-gram models."""
    return tuple(chr(token + NEMO_OFFSET) for token in range(vocabulary_size))


def write_arpa(model: LanguageModel, path: Path, symbols: Sequence[str] | None = None) -> None:
    """Write a model as ARPA, atomically.

    Args:
        model: what to write.
        path: the file.
        symbols: word for each of the V tokens, without white space; None takes NeMo's characters.

    Raises:
        QuranAsrError: the symbols are not V different words.
    """
    names = [*_checked(symbols, model.vocabulary_size), END, BEGIN]
    bounds = np.cumsum([0, *model.sizes])
    log10 = model.log_probs / math.log(10)
    log10[~np.isfinite(log10)] = NEVER
    parents = np.repeat(np.arange(len(model.first) - 1), np.diff(model.first))
    lines = ["\\data\\", *(f"ngram {n}={size}" for n, size in _orders(model)), ""]
    texts = [""]  # of every state
    for n, size in enumerate(model.sizes):
        lines.append(f"\\{n + 1}-grams:")
        places = range(bounds[n], bounds[n + 1])
        if n == 0:
            unknown = model.unknown / math.log(10) if math.isfinite(model.unknown) else NEVER
            lines.append(f"{unknown:.7g}\t{UNKNOWN}\t0")
        joined = [
            f"{texts[parent]} {names[token]}" if parent else names[token]
            for parent, token in zip(
                parents[bounds[n] : bounds[n + 1]].tolist(),
                model.tokens[bounds[n] : bounds[n + 1]].tolist(),
                strict=True,
            )
        ]
        scores = log10[bounds[n] : bounds[n + 1]].tolist()
        if n + 1 < model.order:
            backoffs = (model.backoffs[bounds[n] + 1 : bounds[n + 1] + 1] / math.log(10)).tolist()
            lines += [f"{p:.7g}\t{text}\t{b:.7g}" for p, text, b in zip(scores, joined, backoffs, strict=True)]
            texts += joined
        else:
            lines += [f"{p:.7g}\t{text}" for p, text in zip(scores, joined, strict=True)]
        assert len(places) == size
        lines.append("")
    write_atomically(path, ("\n".join([*lines, "\\end\\"]) + "\n").encode())


def read_arpa(
    path: Path,
    vocabulary_size: int,
    symbols: Sequence[str] | None = None,
    *,
    pieces: tuple[str, ...] = (),
) -> LanguageModel:
    """Read an ARPA file over the tokens of a vocabulary.

    Tokens that it lacks share the probability of its `<unk>`.

    Args:
        path: the file.
        vocabulary_size: V.
        symbols: as in `write_arpa`.
        pieces: of the vocabulary, to be kept with the model.

    Raises:
        QuranAsrError: the file is missing or not ARPA (`file:line`), has words that stand for no token, or
            lacks an n-gram that a longer one begins with.
    """
    names = {name: token for token, name in enumerate(_checked(symbols, vocabulary_size))}
    names |= {END: vocabulary_size, BEGIN: vocabulary_size + 1}
    places: dict[tuple[int, ...], int] = {(): 0}
    """State of each n-gram; of the longest ones none."""
    levels: list[Level] = []
    first_state = 1
    for entries in _sections(path, names):
        unknown = entries.pop((vocabulary_size + 2,), (NEVER, 0.0))[0]
        if not levels:
            base = unknown
            known = [(token,) in entries for token in range(vocabulary_size)]
            missing = max(1, known.count(False))
            share = unknown - math.log(missing) if unknown > NEVER else unknown
            entries = {
                (token,): entries.get((token,), (share, 0.0)) for token in range(vocabulary_size + 2)
            } | {(vocabulary_size + 1,): (-math.inf, entries.get((vocabulary_size + 1,), (0.0, 0.0))[1])}
        grams = list(entries)
        for gram in grams:
            if gram[:-1] not in places:
                raise QuranAsrError(
                    f"a {len(gram)}-gram begins with a {len(gram) - 1}-gram that is missing", where=str(path)
                )
        grams.sort(key=lambda gram: (places[gram[:-1]], gram[-1]))
        before = first_state - (len(levels[-1].token) if levels else first_state)
        levels.append(
            Level(
                np.array([places[gram[:-1]] for gram in grams], np.int64) - before,
                np.array([gram[-1] for gram in grams], np.int64),
                np.array([_longest(places, gram[1:]) for gram in grams], np.int64),
                np.array([entries[gram][0] for gram in grams]),
                np.array([entries[gram][1] for gram in grams]),
            )
        )
        places |= {gram: first_state + place for place, gram in enumerate(grams)}
        first_state += len(grams)
    left = -math.inf if not all(known) or base <= NEVER else base
    return assemble(levels, vocabulary_size, left, pieces)


def _longest(places: dict[tuple[int, ...], int], gram: tuple[int, ...]) -> int:
    while gram not in places:
        gram = gram[1:]
    return places[gram]


def _checked(symbols: Sequence[str] | None, vocabulary_size: int) -> tuple[str, ...]:
    if symbols is None:
        return nemo_symbols(vocabulary_size)
    words = tuple(symbols)
    wrong = [word for word in words if not word or any(space in word for space in " \t\n")]
    if wrong or len(words) != vocabulary_size or len({*words, END, BEGIN}) != vocabulary_size + 2:
        raise QuranAsrError(
            f"these are not {vocabulary_size} different words without white space",
            remedy="leave the symbols out: NeMo's characters are then written",
        )
    return words


def _orders(model: LanguageModel) -> list[tuple[int, int]]:
    return [(n, size + (n == 1)) for n, size in enumerate(model.sizes, start=1)]  # and <unk>


def _sections(path: Path, names: dict[str, int]) -> Iterator[dict[tuple[int, ...], tuple[float, float]]]:
    """The n-grams of each length with their log probability and back-off weight, natural logs."""
    unknown = len(names)
    names = {UNKNOWN: unknown, **names}
    entries: dict[tuple[int, ...], tuple[float, float]] = {}
    order, number = 0, 0
    ln10 = math.log(10)
    try:
        with path.open(encoding="utf-8", newline="\n") as lines:
            for number, line in enumerate(lines, start=1):
                line = line.rstrip("\n")
                if line.startswith("\\"):
                    if order:
                        yield entries
                    entries = {}
                    if line == "\\end\\":
                        if not order:
                            raise ValueError("it has no n-grams")
                        return
                    if line == "\\data\\":
                        continue
                    order += 1
                    if line != f"\\{order}-grams:" or order > MOST_ORDER:
                        raise ValueError(f"`{line[:40]}` where {order}-grams should begin")
                elif line and order:
                    score, gram, *backoff = line.split("\t")
                    words = tuple(names[word] for word in gram.split(" "))
                    if len(words) != order:
                        raise ValueError(f"{len(words)} words in a {order}-gram")
                    values = float(score) * ln10, float(backoff[0]) * ln10 if backoff else 0.0
                    if math.isnan(values[0]) or not math.isfinite(values[1]):
                        raise ValueError("a score is not a number")
                    if unknown not in words or order == 1:
                        entries[words] = values
    except KeyError as error:
        raise QuranAsrError(
            f"`{error.args[0]}` stands for no token of this vocabulary",
            where=f"{path}:{number}",
            remedy="build it with the tokenizer of this model",
        ) from error
    except FileNotFoundError as error:
        raise QuranAsrError("no such language model", where=str(path)) from error
    except (OSError, ValueError) as error:
        raise QuranAsrError(f"is not an ARPA file: {error}", where=f"{path}:{number}") from error
    raise QuranAsrError("the ARPA file ends before \\end\\", where=f"{path}:{number}", remedy="copy it again")
