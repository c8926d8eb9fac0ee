"""Language models as ARPA files, which KenLM and NeMo read.

A token is one character there, chr(token + 100), as NeMo encodes tokens for its n-gram models
(`DEFAULT_TOKEN_OFFSET`); with `symbols` other words represent the tokens, for example the pieces themselves.
"""

from __future__ import annotations

import gzip
import math
import re
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TextIO

import numpy as np

from quran_asr.decoding.language_model import MOST_ORDER, LanguageModel, Level, assemble
from quran_asr.errors import QuranAsrError
from quran_asr.files import write_atomically

NEMO_OFFSET = 100
BEGIN, END, UNKNOWN = "<s>", "</s>", "<unk>"
NEVER = -99.0
"""The value that ARPA files use for the logarithm of 0."""
MOST = 1e-5
"""The largest logarithm that is read: a probability of 1 may be rounded up."""
LONGEST_LINE = 10_000
"""Characters: a small compressed file can unpack to one endless line."""
AGAIN = "copy it again, or build it again: quran-asr lm build --model MODEL"

Places = dict[tuple[int, ...], int]
Entries = dict[tuple[int, ...], tuple[float, float]]
"""Log probability and back-off weight of each n-gram, natural logs."""


def nemo_symbols(vocabulary_size: int) -> tuple[str, ...]:
    """The character that represents each token in NeMo's n-gram models."""
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
    log10 = model.log_probs / math.log(10)
    scores = np.where(np.isfinite(log10), log10, NEVER).tolist()
    backoffs = (model.backoffs / math.log(10)).tolist()
    parents = np.repeat(np.arange(len(model.first) - 1), np.diff(model.first)).tolist()
    tokens = model.tokens.tolist()
    unknown = model.unknown / math.log(10) if math.isfinite(model.unknown) else NEVER
    lines = ["\\data\\"]
    lines += [f"ngram {n}={size + (n == 1)}" for n, size in enumerate(model.sizes, start=1)]  # and <unk>
    texts = [""]  # of each state
    place = 0
    for n, size in enumerate(model.sizes, start=1):
        lines += ["", f"\\{n}-grams:"]
        if n == 1:
            lines.append(f"{unknown:.7g}\t{UNKNOWN}\t0")
        for at in range(place, place + size):
            text = f"{texts[parents[at]]} {names[tokens[at]]}" if n > 1 else names[tokens[at]]
            if n < model.order:
                lines.append(f"{scores[at]:.7g}\t{text}\t{backoffs[at + 1]:.7g}")
                texts.append(text)
            else:
                lines.append(f"{scores[at]:.7g}\t{text}")
        place += size
    write_atomically(path, "\n".join([*lines, "", "\\end\\", ""]).encode())


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
        QuranAsrError: the file is missing or not ARPA (`file:line`), has words that represent no token, or
            lacks an n-gram that is the prefix of a longer one.
    """
    names = {name: token for token, name in enumerate(_checked(symbols, vocabulary_size))}
    names |= {END: vocabulary_size, BEGIN: vocabulary_size + 1}
    places: Places = {(): 0}
    """State of each n-gram; the longest ones have none and need none."""
    levels: list[Level] = []
    unknown, first_state, before = -math.inf, 1, 0
    for entries in _sections(path, names):
        if not levels:
            entries, unknown = _with_all_tokens(entries, vocabulary_size)
        for gram in entries:
            if gram[:-1] not in places:
                raise QuranAsrError(
                    f"a {len(gram)}-gram begins with a {len(gram) - 1}-gram that is missing",
                    where=str(path),
                    remedy=AGAIN,
                )
        grams = sorted(entries, key=lambda gram: (places[gram[:-1]], gram[-1]))
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
        before, first_state = first_state, first_state + len(grams)
    return assemble(levels, vocabulary_size, unknown, pieces)


def _with_all_tokens(entries: Entries, vocabulary_size: int) -> tuple[Entries, float]:
    """The unigrams of every token, and the log probability left for anything else."""
    unknown = entries.get((vocabulary_size + 2,), (-math.inf, 0.0))[0]
    missing = sum((token,) not in entries for token in range(vocabulary_size))
    share = unknown - math.log(missing) if missing else 0.0
    whole: Entries = {(token,): entries.get((token,), (share, 0.0)) for token in range(vocabulary_size + 1)}
    begin = vocabulary_size + 1
    whole[begin,] = (-math.inf, entries.get((begin,), (0.0, 0.0))[1])
    return whole, -math.inf if missing else unknown


def _longest(places: Places, gram: tuple[int, ...]) -> int:
    while gram not in places:
        gram = gram[1:]
    return places[gram]


def _checked(symbols: Sequence[str] | None, vocabulary_size: int) -> tuple[str, ...]:
    if symbols is None:
        return nemo_symbols(vocabulary_size)
    words = tuple(symbols)
    wrong = [word for word in words if not word or any(space in word for space in " \t\r\n")]
    if wrong or len(words) != vocabulary_size or len({*words, END, BEGIN}) != vocabulary_size + 2:
        raise QuranAsrError(
            f"these are not {vocabulary_size} different words without white space",
            remedy="leave the symbols out: NeMo's characters are then written",
        )
    return words


def _sections(path: Path, names: dict[str, int]) -> Iterator[Entries]:
    """The n-grams of each length; `<unk>` is the token after those of `names`."""
    unknown = len(names)
    names = {UNKNOWN: unknown, UNKNOWN.upper(): unknown, **names}
    number = order = found = 0
    sizes: dict[int, int] = {}
    """Number of n-grams of each length that the head of the file names."""
    entries: Entries = {}
    try:
        with _opened(path) as lines:
            while line := lines.readline(LONGEST_LINE + 1):
                number += 1
                if len(line) > LONGEST_LINE:
                    raise ValueError(f"a line of more than {LONGEST_LINE:,} characters")
                line = line.strip(" \t\r\n")  # some tokens are other kinds of white space
                if line == "\\data\\":
                    continue
                if line.startswith("\\"):
                    if order:
                        _check_size(order, found, sizes)
                        yield entries
                    if line == "\\end\\" and order:
                        _check_size(order + 1, 0, sizes)
                        return
                    entries, order, found = {}, order + 1, 0
                    if line != f"\\{order}-grams:" or order > MOST_ORDER:
                        raise ValueError(f"`{line[:40]}` where {order}-grams should begin")
                elif line and order:
                    found += 1
                    gram, values = _entry(line, order, names)
                    if gram in entries:
                        raise ValueError(f"the {order}-gram stands there twice")
                    if order == 1 or unknown not in gram:
                        entries[gram] = values
                elif size := re.fullmatch(r"ngram\s+(\d+)\s*=\s*(\d+)", line):
                    sizes[int(size[1])] = int(size[2])
    except KeyError as error:
        raise QuranAsrError(
            f"`{error.args[0]}` stands for no token of this vocabulary",
            where=f"{path}:{number}",
            remedy="build it with the tokenizer of this model",
        ) from error
    except FileNotFoundError as error:
        raise QuranAsrError(
            "no such language model",
            where=str(path),
            remedy="name a file of `quran-asr lm build`, or `quran` for the one in the package",
        ) from error
    except (OSError, ValueError, EOFError, zlib.error) as error:
        where = f"{path}:{number}" if number else str(path)
        raise QuranAsrError(f"is not an ARPA file: {error}", where=where, remedy=AGAIN) from error
    raise QuranAsrError("the ARPA file ends before \\end\\", where=f"{path}:{number}", remedy="copy it again")


def _opened(path: Path) -> TextIO:
    """The lines of a file, which may be compressed with gzip and begin with a byte order mark."""
    with path.open("rb") as file:
        is_gzip = file.read(2) == b"\x1f\x8b"
    if is_gzip:
        return gzip.open(path, "rt", encoding="utf-8-sig", newline="\n")
    return path.open(encoding="utf-8-sig", newline="\n")


def _check_size(order: int, found: int, sizes: dict[int, int]) -> None:
    """A file that has lost lines would still be a model, of other probabilities."""
    if sizes and sizes.get(order, 0) != found:
        named = f"{found or 'no'} {order}-grams, but the head of the file names {sizes.get(order) or 'no'}"
        raise ValueError(f"it has {named}")


def _entry(line: str, order: int, names: dict[str, int]) -> tuple[tuple[int, ...], tuple[float, float]]:
    score, words, backoff = _fields(line, order)
    gram = tuple(names[word] for word in words)
    if len(gram) != order:
        raise ValueError(f"{len(gram)} words in a {order}-gram")
    log10, weight = float(score), float(backoff)
    if math.isnan(log10) or not math.isfinite(weight):
        raise ValueError("a score is not a number")
    if log10 > MOST:
        raise ValueError(f"{score} is a probability above 1: scores are logarithms to the base 10")
    ln10 = math.log(10)
    return gram, (log10 * ln10 if log10 > NEVER else -math.inf, weight * ln10)


def _fields(line: str, order: int) -> tuple[str, list[str], str]:
    """Score, words and back-off weight, with tabs between them or, by some tools, spaces alone."""
    if "\t" in line:
        score, text, *backoff = (part.strip(" ") for part in line.split("\t"))
        words = re.split(" +", text)
    else:
        score, *rest = re.split(" +", line)
        size = order if len(rest) <= order + 1 else len(rest)
        words, backoff = rest[:size], rest[size:]
    return score, words, backoff[0] if backoff else "0"
