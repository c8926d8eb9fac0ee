"""The training data in numbers: clips, hours and words, from a manifest or from two numbers.

Nothing here opens a recording: a plan is made before the data are at hand.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from quran_asr.config.schema import Quran, Recipe, TrainData
from quran_asr.corpus.manifest import LONGEST_SECONDS, MADE_BY, parse_lines
from quran_asr.errors import QuranAsrError
from quran_asr.experiments.training_clips import has_windows, with_windows
from quran_asr.records import Segment, VerseRef
from quran_asr.text.quran import load_quran
from quran_asr.text.spelling import spell

WORDS_A_SECOND = 1.0
"""Of recitation, where the words are not known. Five reciters of single verses have 0.71 to 1.25."""

TOKENS_A_WORD = {
    "uthmani": ((64, 8.98), (128, 5.43), (256, 4.03), (512, 3.14), (1024, 2.53), (2048, 2.08), (8000, 1.46)),
    "diacritized": (
        *((48, 8.48), (64, 6.75), (128, 4.82), (256, 3.72)),
        *((512, 2.93), (1024, 2.38), (2048, 1.97), (8000, 1.40)),
    ),
    "letters": (
        *((48, 4.36), (64, 3.75), (128, 3.05), (256, 2.58)),
        *((512, 2.17), (1024, 1.83), (2048, 1.56), (8000, 1.19)),
    ),
}
"""Vocabulary -> tokens a word, measured: `train_tokenizer` and its encoding of all 6,236 verses."""


@dataclass(frozen=True, slots=True)
class Workload:
    """What there is to train on."""

    clips: int
    hours: float
    durations: tuple[float, ...] | None = None
    """Seconds of each clip that is kept, where the manifest is known."""
    left_out_clips: int = 0
    left_out_hours: float = 0.0
    """Of clips longer or shorter than the recipe admits."""
    longest: float | None = None
    """Seconds of the longest clip, kept or not, where the manifest is known."""
    words: int | None = None
    """Of the clips that are kept, where their text is known."""
    most_words: int | None = None
    """Of one clip."""
    unknown_characters: str = ""
    """Characters of the text that the Quran in this spelling lacks."""

    @property
    def mean_seconds(self) -> float:
        """Of a clip."""
        return self.hours * 3600 / self.clips if self.clips else 0.0


@dataclass(frozen=True, slots=True)
class ManifestClips:
    """What a plan reads of a manifest, column by column: a million clips take 20 MB and not 500."""

    manifest: str
    seconds: array[float]
    """Of each clip."""
    contents: array[int]
    """Of each clip the place in `different`."""
    reciters: array[int]
    """Of each clip the place in `names`."""
    different: tuple[tuple[str, tuple[str, ...]], ...]
    """Text as written (empty where the line has none) and verses, each pair once."""
    first_lines: array[int]
    """The number of the line in which each of them comes first."""
    names: tuple[str, ...]
    """Of the reciters."""


def read_clips(manifest: str | Path) -> ManifestClips:
    """The clips of a manifest, without a look at their recordings.

    Raises:
        QuranAsrError: no such manifest, an empty one, or a line that is not an object with a duration.
    """
    seconds, contents, reciters, first_lines = array("d"), array("L"), array("L"), array("L")
    different: dict[tuple[str, tuple[str, ...]], int] = {}
    names: dict[str, int] = {}
    for number, values in parse_lines(Path(manifest)):
        length = values.get("duration")
        known = isinstance(length, int | float) and not isinstance(length, bool)
        if length is None or not (known and 0 < length <= LONGEST_SECONDS):
            raise QuranAsrError(
                "has no `duration` in seconds",
                where=f"{manifest}:{number}",
                remedy='write the length of the clip, as in "duration": 4.2',
            )
        seconds.append(length)
        content = different.setdefault((_text(values), _verses(values)), len(different))
        if content == len(first_lines):
            first_lines.append(number)
        contents.append(content)
        reciters.append(names.setdefault(str(values.get("reciter", "")), len(names)))
    if not seconds:
        raise QuranAsrError("no line in it", where=str(manifest), remedy=MADE_BY)
    return ManifestClips(
        str(manifest), seconds, contents, reciters, tuple(different), first_lines, tuple(names)
    )


def weigh(durations: Sequence[float], recipe: Recipe, texts: Sequence[str] | None = None) -> Workload:
    """The workload of clips of these seconds: what the recipe's limits keep, and what they leave out.

    Args:
        texts: of the same clips, in the recipe's spelling; None where they are not known.
    """
    admitted = [_admits(recipe.model.train_ds, seconds) for seconds in durations]
    kept = tuple(seconds for seconds, taken in zip(durations, admitted, strict=True) if taken)
    words, different = None, set(texts or ())
    if texts is not None and all(texts):
        of = {text: len(text.split()) for text in different}
        words = [of[text] for text, taken in zip(texts, admitted, strict=True) if taken]
    return Workload(
        clips=len(kept),
        hours=sum(kept) / 3600,
        durations=kept,
        left_out_clips=len(durations) - len(kept),
        left_out_hours=max(0.0, sum(durations) - sum(kept)) / 3600,
        longest=max(durations, default=None),
        words=None if words is None else sum(words),
        most_words=None if words is None else max(words, default=0),
        unknown_characters="" if not words else _unknown_characters(different, recipe.quran.spelling),
    )


def weigh_manifests(manifests: Sequence[str], recipe: Recipe) -> Workload:
    """The workload of all clips of these manifests.

    Raises:
        QuranAsrError: as `read_clips`, or a verse that does not exist.
    """
    durations = array("d")
    texts: list[str] = []
    segments: list[Segment] = []
    joins = has_windows(recipe.quran.augment)
    for clips in map(read_clips, manifests):
        spelled = _spelled(clips, recipe.quran.spelling)
        durations.extend(clips.seconds)
        texts += map(spelled.__getitem__, clips.contents)
        if joins:
            segments += _segments(clips, spelled)
    return weigh_segments(segments, recipe) if joins else weigh(durations, recipe, texts)


def weigh_segments(segments: Sequence[Segment], recipe: Recipe) -> Workload:
    """The workload of these clips, and of the windows that the recipe makes of those it keeps."""
    kept = [segment for segment in segments if _admits(recipe.model.train_ds, segment.duration)]
    joined = with_windows(kept, recipe.quran, recipe.model.train_ds.max_duration)[len(kept) :]
    every = [*segments, *joined]
    return weigh([one.duration for one in every], recipe, [one.text for one in every])


def tokens_a_word(spelling: str, vocabulary: int) -> float:
    """Tokens of a word on average, between the measured sizes on a line over the logarithm of the size."""
    measured = TOKENS_A_WORD[spelling]
    if vocabulary <= measured[0][0]:
        return measured[0][1]
    for (low, many), (high, few) in pairwise(measured):
        if vocabulary <= high:
            share = math.log(vocabulary / low) / math.log(high / low)
            return many + (few - many) * share
    return measured[-1][1]


def expected_tokens(quran: Quran, words: float) -> float:
    """Tokens of so many words in the recipe's spelling and vocabulary."""
    return words * tokens_a_word(quran.spelling, quran.vocabulary_size)


def _text(values: dict[str, Any]) -> str:
    text = values.get("text")
    return text if isinstance(text, str) else ""


def _verses(values: dict[str, Any]) -> tuple[str, ...]:
    verses = values.get("verses")
    if not isinstance(verses, list) or not all(isinstance(verse, str) for verse in verses):
        return ()
    return tuple(verses)


def _admits(data: TrainData, seconds: float) -> bool:
    return data.min_duration <= seconds <= data.max_duration


def _segments(clips: ManifestClips, spelled: Sequence[str]) -> list[Segment]:
    verses = [_refs(named) for _, named in clips.different]
    return [
        Segment(clips.manifest, 0.0, seconds, verses[content], spelled[content], clips.names[reciter])
        for seconds, content, reciter in zip(clips.seconds, clips.contents, clips.reciters, strict=True)
    ]


def _refs(verses: Sequence[str]) -> tuple[VerseRef, ...]:
    """The verses, where all of them can be read: others are for `check` to find."""
    try:
        return tuple(map(VerseRef.parse, verses))
    except QuranAsrError:
        return ()


def _spelled(clips: ManifestClips, spelling: str) -> list[str]:
    """The words of `clips.different`: as training takes them, but written text beside verses is believed."""
    texts = []
    for (text, verses), line in zip(clips.different, clips.first_lines, strict=True):
        if text.strip():
            texts.append(spell(text, spelling))
            continue
        try:
            texts.append(load_quran(spelling).text(map(VerseRef.parse, verses)))
        except QuranAsrError as error:
            raise QuranAsrError(error.what, where=f"{clips.manifest}:{line}", remedy=error.remedy) from None
    return texts


def _unknown_characters(texts: set[str], spelling: str) -> str:
    known = set().union(*load_quran(spelling).verses.values())
    return "".join(sorted(set().union(*texts) - known))
