"""Checks of the data: manifests, audio, texts, tokenizer."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Protocol

from quran_asr import audio
from quran_asr.config.architecture import of_recipe
from quran_asr.config.schema import Recipe
from quran_asr.corpus.manifest import find_line, read_manifest
from quran_asr.corpus.text_check import unknown_characters_of
from quran_asr.errors import QuranAsrError, counted
from quran_asr.experiments.checks.outcome import Outcome, failure, of_finding, passed, some_of, warning
from quran_asr.experiments.training_clips import describe, hours, select
from quran_asr.records import Segment
from quran_asr.text.quran import load_quran

MOST_UNREADABLE = 0.05
"""Share of the sample from which training on what is left would be another training."""
SILENT = 1e-4
"""Peak under which a clip is silent: -80 dB, some two steps of 16 bits."""
LEFT_OVER_SECONDS, LEFT_OVER_SHARE = 0.5, 0.05
"""Seconds by which a file may be longer than the duration in its only line."""


@dataclass(frozen=True, slots=True)
class Data:
    """The clips that a recipe takes."""

    training: tuple[Segment, ...]
    validation: tuple[Segment, ...]

    @property
    def splits(self) -> tuple[tuple[str, tuple[Segment, ...]], ...]:
        return (("training", self.training), ("validation", self.validation))

    @property
    def described(self) -> str:
        """One line on how much there is."""
        reciters = counted(len({segment.reciter for segment in self.training}), "reciter")
        return (
            f"{counted(len(self.training), 'clip')} for training ({hours(self.training):.2f} h, {reciters}), "
            f"{len(self.validation):,} for validation ({hours(self.validation):.2f} h)"
        )


def read_data(recipe: Recipe) -> tuple[Data | None, list[Outcome]]:
    """The clips of the recipe's manifests, and what is wrong with the lines; None with a failure.

    Every line is looked at, so that all bad ones are counted at once.
    """
    outcomes: list[Outcome] = []
    kept = []
    for what, ds in (("training", recipe.model.train_ds), ("validation", recipe.model.validation_ds)):
        segments: list[Segment] = []
        for manifest in ds.manifests:
            found, wrong = _lines(manifest, recipe.quran.spelling)
            segments += found
            outcomes += wrong
        longest = ds.max_duration
        chosen = select(segments, shortest=recipe.model.train_ds.min_duration, longest=longest)
        key = f"model.{'train_ds' if what == 'training' else 'validation_ds'}.max_duration"
        left_out = describe(chosen, what=what, key=key, longest=longest or 0.0)
        outcomes += [of_finding(finding) for finding in left_out]
        if segments and not chosen.kept:
            outcomes.append(failure(f"no {what} clip is left", f"raise {key}"))
        kept.append(chosen.kept)
    data = Data(*kept)
    if any(outcome.status == "failure" for outcome in outcomes):
        return None, outcomes
    foreign = unknown_characters_of(recipe.model.train_ds.manifests + recipe.model.validation_ds.manifests)
    if foreign is not None:
        outcomes.append(of_finding(foreign))
    return data, [passed(data.described), *outcomes]


def _lines(manifest: str, spelling: str) -> tuple[list[Segment], list[Outcome]]:
    try:
        segments, findings = read_manifest(manifest, spelling, on_error="collect")
    except QuranAsrError as error:
        return [], [failure(f"{error.where}: {error.what}", error.remedy)]
    if not findings:
        return segments, []
    first = findings[0]
    many = f"{len(findings):,} of {len(segments) + len(findings):,} lines cannot be used, the first: "
    remedy = first.remedy or "fix or remove these lines: training refuses them"
    return segments, [failure(f"{many if len(findings) > 1 else ''}{first.where}: {first.message}", remedy)]


def decodable(
    data: Data,
    sample: int | None,
    seed: int,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[Outcome]:
    """Decode some clips of each split, the same every time.

    Args:
        data: the clips.
        sample: how many of each split; None for all.
        seed: of the draw. The longest clip and one of every kind of file are always among them.
        on_progress: called with (done, total).
    """
    lines_of = Counter(segment.audio for _, split in data.splits for segment in split)
    drawn = [segment for _, split in data.splits for segment in _draw(split, sample, seed)]
    unreadable: list[str] = []
    silent: list[str] = []
    left_over: list[str] = []
    formats: Counter[str] = Counter()
    for number, segment in enumerate(drawn, start=1):
        try:
            samples = audio.read(segment.audio, segment.offset, segment.duration)
            info = audio.probe(segment.audio)
            formats[f"{info.format} {info.rate / 1000:g} kHz"] += 1
            if max(float(samples.max()), -float(samples.min())) < SILENT:
                silent.append(segment.audio)
            rest = info.seconds - segment.duration
            alone = segment.offset == 0 and lines_of[segment.audio] == 1
            if alone and rest > max(LEFT_OVER_SECONDS, LEFT_OVER_SHARE * info.seconds):
                left_over.append(
                    f"{segment.audio} has {info.seconds:.2f} s, its line {segment.duration:.2f} s"
                )
        except QuranAsrError as error:
            unreadable.append(f"{error.where or segment.audio}: {error.what}")
        on_progress(number, len(drawn))
    kinds = ", ".join(kind for kind, _ in formats.most_common(4))
    total = sum(len(split) for _, split in data.splits)
    outcomes = [_unreadable(unreadable, len(drawn))] if unreadable else []
    if silent:
        report = failure if len(silent) >= MOST_UNREADABLE * len(drawn) else warning
        message = f"{some_of(len(silent), len(drawn))} decoded clips are silent, the first: {silent[0]}"
        outcomes.append(report(message, "`quran-asr corpus audit` finds and leaves out such clips"))
    if left_over:
        message = (
            f"{some_of(len(left_over), len(drawn))} files are longer than their only line: {left_over[0]}"
        )
        outcomes.append(warning(message, "the rest is not trained on: does the text cover the whole file?"))
    if not outcomes:
        return [passed(f"{len(drawn):,} of {total:,} clips decoded ({kinds}); durations as in the manifest")]
    return outcomes


def _unreadable(found: Sequence[str], drawn: int) -> Outcome:
    message = f"{some_of(len(found), drawn)} decoded clips cannot be read, the first: {found[0]}"
    remedy = "`quran-asr corpus scan` leaves such files out; `--sample all` counts them"
    return (failure if len(found) >= MOST_UNREADABLE * drawn else warning)(message, remedy)


def _draw(split: Sequence[Segment], sample: int | None, seed: int) -> list[Segment]:
    if sample is None or len(split) <= sample:
        return list(split)
    places = random.Random(seed).sample(range(len(split)), sample)
    kinds = {Path(split[i].audio).suffix.lower(): i for i in range(len(split) - 1, -1, -1)}
    longest = max(range(len(split)), key=lambda i: split[i].duration)
    drawn = {Path(split[i].audio).suffix.lower() for i in places}
    places += [i for kind, i in kinds.items() if kind not in drawn]
    return [split[i] for i in dict.fromkeys([*places, longest])]


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
    quran, remedy = load_quran(recipe.quran.spelling), _other_tokenizer(recipe.model.tokenizer.dir)
    verses = [quran.verse(ref) for ref in quran.refs]
    texts = {segment.text for _, split in data.splits for segment in split}
    lost_verses = [text for text in verses if not _survives(text, tokens)]
    outcomes = []
    if lost_verses:
        message = f"{some_of(len(lost_verses), len(verses))} verses are not reproduced by the tokenizer"
        outcomes.append(failure(f"{message}, the first: {lost_verses[0]}", remedy))
    # Characters that it lacks have a check of their own
    lost = [t for t in texts if tokens.unknown not in tokens.encode(t) and not _survives(t, tokens)]
    if lost:
        where = find_line(
            _manifests(recipe), next(s for _, split in data.splits for s in split if s.text in lost)
        )
        some = some_of(len(lost), len(texts))
        message = f"{some} texts are not reproduced by the tokenizer, the first in {where}"
        outcomes.append(failure(message, remedy))
    if not outcomes:
        message = f"{len(verses):,} verses and {len(texts):,} texts are reproduced by {tokens.size:,} tokens"
        outcomes.append(passed(message))
    if tokens.size != recipe.quran.vocabulary_size:
        message = f"the tokenizer has {tokens.size:,} tokens, the recipe {recipe.quran.vocabulary_size:,}"
        outcomes.append(warning(message, f"quran.vocabulary_size={tokens.size}"))
    return outcomes


def known_characters(recipe: Recipe, tokens: Tokens, data: Data) -> Outcome:
    """Whether any clip's text has a character that the tokenizer has never seen."""
    unknown_texts = {
        text
        for text in {s.text for _, split in data.splits for s in split}
        if tokens.unknown in tokens.encode(text)
    }
    if not unknown_texts:
        return passed("no text needs an unknown token")
    clips = [segment for _, split in data.splits for segment in split if segment.text in unknown_texts]
    alphabet = set("".join(tokens.pieces)) | {" "}
    letters = sorted({letter for text in unknown_texts for letter in text} - alphabet)
    shown = ", ".join(f"`{letter}` (U+{ord(letter):04X})" for letter in letters[:8])
    return failure(
        f"{counted(len(clips), 'clip')} with characters that the tokenizer does not know: {shown}; the "
        f"first in {find_line(_manifests(recipe), clips[0])}",
        f"is the text in the spelling `{recipe.quran.spelling}`? Fix it, or "
        + _other_tokenizer(recipe.model.tokenizer.dir),
    )


def ctc_feasible(recipe: Recipe, tokens: Tokens, training: Sequence[Segment]) -> Outcome:
    """Whether clips have a frame for each token, and one between equal neighbours (Graves et al. 2006).

    CTC has no alignment for others: their loss would be infinite, and is left out.
    """
    built = of_recipe(recipe.model, tokens.size)
    augment = recipe.quran.augment
    fastest = max(augment.speed) * max(augment.tempo) if augment is not None else 1.0
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


def _other_tokenizer(folder: str | None) -> str:
    if folder is None:
        return "this should not happen with a tokenizer of our own making"
    return "use a tokenizer of this program: model.tokenizer.dir=null"
