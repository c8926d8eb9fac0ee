"""Does the tokenizer keep every text, and is every clip long enough for its tokens?"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from statistics import median
from typing import Protocol

from quran_asr.corpus.manifest import find_line
from quran_asr.corpus.select import hours
from quran_asr.findings import counted
from quran_asr.records import Segment
from quran_asr.runs.architecture import of_recipe
from quran_asr.runs.checks.check_data import Data
from quran_asr.runs.checks.outcome import Outcome, failure, passed, some_of, warning
from quran_asr.runs.schema import Recipe
from quran_asr.text.quran import load_quran

LOST_WARNING, LOST_FAILURE = 0.001, 0.05
"""Share of the clips or hours that CTC cannot learn from."""
FASTEST = 25.0
"""Letters a second that nobody recites: the median of quick recitations is under 12."""


class Tokens(Protocol):
    """Text to token numbers and back."""

    @property
    def size(self) -> int:
        """Tokens without the blank."""

    @property
    def pieces(self) -> tuple[str, ...]: ...

    @property
    def unknown(self) -> int:
        """Number of the token for what the tokenizer does not know."""

    def encode(self, text: str) -> list[int]: ...

    def decode(self, tokens: Sequence[int]) -> str: ...


def round_trip(recipe: Recipe, tokens: Tokens, data: Data) -> list[Outcome]:
    """Every verse of the Quran and every text of both manifests, encoded and decoded again."""
    quran = load_quran(recipe.quran.spelling)
    verses = [quran.verse(ref) for ref in quran.refs]
    texts = {segment.text for _, side in data.sides for segment in side}
    lost_verses = [text for text in verses if not _survives(text, tokens)]
    outcomes = []
    if lost_verses:
        message = f"{some_of(len(lost_verses), len(verses))} verses do not survive the tokenizer"
        outcomes.append(failure(f"{message}, the first: {lost_verses[0]}", _other_tokenizer(recipe)))
    # Characters that it lacks are told by a check of their own
    lost = [t for t in texts if tokens.unknown not in tokens.encode(t) and not _survives(t, tokens)]
    if lost:
        where = find_line(
            _manifests(recipe), next(s for _, side in data.sides for s in side if s.text in lost)
        )
        message = f"{some_of(len(lost), len(texts))} texts do not survive the tokenizer, the first in {where}"
        outcomes.append(failure(message, _other_tokenizer(recipe)))
    if not outcomes:
        message = f"{len(verses):,} verses and {len(texts):,} texts survive {tokens.size:,} tokens"
        outcomes.append(passed(message))
    if tokens.size != recipe.quran.vocabulary_size:
        message = (
            f"the tokenizer has {tokens.size:,} tokens, the recipe says {recipe.quran.vocabulary_size:,}"
        )
        outcomes.append(warning(message, f"quran.vocabulary_size={tokens.size}"))
    return outcomes


def known_characters(recipe: Recipe, tokens: Tokens, data: Data) -> Outcome:
    """Whether any clip's text has a character that the tokenizer has never seen."""
    unknown_texts = {
        text
        for text in {s.text for _, side in data.sides for s in side}
        if tokens.unknown in tokens.encode(text)
    }
    if not unknown_texts:
        return passed("no text needs an unknown token")
    clips = [segment for _, side in data.sides for segment in side if segment.text in unknown_texts]
    alphabet = set("".join(tokens.pieces)) | {" "}
    letters = sorted({letter for text in unknown_texts for letter in text} - alphabet)
    shown = ", ".join(f"`{letter}` (U+{ord(letter):04X})" for letter in letters[:8])
    return failure(
        f"{counted(len(clips), 'clip')} with characters that the tokenizer does not know: {shown}; the "
        f"first in {find_line(_manifests(recipe), clips[0])}",
        f"is the text in the spelling `{recipe.quran.spelling}`? Mend it, or {_other_tokenizer(recipe)}",
    )


def ctc_feasible(recipe: Recipe, tokens: Tokens, training: Sequence[Segment]) -> Outcome:
    """Whether clips have a frame for each token, and one between equal neighbours (Graves et al. 2006).

    CTC has no alignment for others: their loss would be infinite, and is left out.
    """
    built = of_recipe(recipe.model, tokens.size)
    augment = recipe.quran.augment
    fastest = max(augment.speed) if augment is not None else 1.0
    needed = {text: _frames_needed(tokens.encode(text)) for text in {s.text for s in training}}
    lost = [s for s in training if built.frames(s.duration / fastest) < needed[s.text]]
    share = max(len(lost) / len(training), hours(lost) / hours(training))
    rule = "frames >= tokens + repeated neighbours"
    if not lost:
        return passed(f"{rule} in all {len(training):,} training clips")
    worst = max(lost, key=_letters_per_second)
    usual = median(_letters_per_second(segment) for segment in training)
    message = (
        f"{some_of(len(lost), len(training))} training clips with {hours(lost):.2f} h are too short for "
        f"their tokens ({rule}), the worst: {built.frames(worst.duration / fastest)} frames for "
        f"{needed[worst.text]}, {_letters_per_second(worst):.0f} letters a second where {usual:.0f} are "
        f"usual, in {find_line(recipe.model.train_ds.manifests, worst)}"
    )
    too_fast = sum(_letters_per_second(segment) > FASTEST for segment in lost)
    remedy = (
        "nobody recites that fast: the text is another recording's, or `duration` is wrong"
        if too_fast > len(lost) / 2
        else "a larger quran.vocabulary_size (fewer tokens), or a smaller model.encoder.subsampling_factor"
    )
    if share > LOST_FAILURE:
        return failure(message, remedy)
    return warning(message, remedy) if share > LOST_WARNING else passed(message)


def _survives(text: str, tokens: Tokens) -> bool:
    return tokens.decode(tokens.encode(text)) == text


def _frames_needed(encoded: Sequence[int]) -> int:
    repeats = sum(a == b for a, b in pairwise(encoded))
    return len(encoded) + repeats


def _letters_per_second(segment: Segment) -> float:
    return len(segment.text.replace(" ", "")) / segment.duration


def _manifests(recipe: Recipe) -> tuple[str, ...]:
    return recipe.model.train_ds.manifests + recipe.model.validation_ds.manifests


def _other_tokenizer(recipe: Recipe) -> str:
    if recipe.model.tokenizer.dir is None:
        return "this should not happen with a tokenizer of our own making"
    return "use a tokenizer of this program: model.tokenizer.dir=null"
