"""The frozen records that pass between packages. No record reads a disk."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from quran_asr.errors import QuranAsrError

if TYPE_CHECKING:  # text and recipes must start without numpy
    import numpy as np
    from numpy.typing import NDArray

    Samples = NDArray[np.float32]
    """Mono audio, float32 in about [-1, 1], shape [samples], 16,000 a second."""

SAMPLE_RATE = 16_000
"""Hertz. The rate of every recognizer here; `audio.read` brings other rates to it."""


@dataclass(frozen=True, slots=True, order=True)
class VerseRef:
    """A verse by its place: `VerseRef(2, 255)`, written `2:255`. Ordered as in the mushaf."""

    surah: int
    ayah: int

    def __str__(self) -> str:
        return f"{self.surah}:{self.ayah}"

    @classmethod
    def parse(cls, written: str) -> VerseRef:
        """Read `2:255`.

        Raises:
            QuranAsrError: not two whole numbers with a colon between (whether such a verse
                exists is checked by `Quran.verse`).
        """
        surah, colon, ayah = written.strip().partition(":")
        if not (
            colon and all(part.isascii() and part.isdigit() and len(part) < 10 for part in (surah, ayah))
        ):
            raise QuranAsrError(
                f"`{written[:40]}` is not a verse", remedy="write surah:verse, for example 2:255"
            )
        return cls(int(surah), int(ayah))


@dataclass(frozen=True, slots=True)
class TimedWord:
    """A recognized word, and when it was recited."""

    text: str
    start: float
    """Seconds from the beginning of the recording."""
    end: float
    """Seconds; not before `start`."""
    confidence: float | None = None
    """0 to 1; None when the recognizer gives none."""
    verse: VerseRef | None = None
    index: int | None = None
    """Place of the word in its verse, from 0."""
    mismatch: str | None = None
    """Of a word of the Quran, what was recognized in its place, where that disagrees; perhaps nothing, then
    empty. None where it agrees, or where nothing was compared."""


@dataclass(frozen=True, slots=True)
class Segment:
    """A stretch of a recording in which known words are recited: one line of a manifest."""

    audio: str
    """Path of the recording, absolute or relative to the working folder (manifests resolve theirs)."""
    offset: float
    """Seconds into the recording at which the stretch begins."""
    duration: float
    """Seconds."""
    verses: tuple[VerseRef, ...]
    """In recited order; a repeated verse appears twice; empty when only the text is known."""
    text: str
    """What is recited, in the spelling that the reader of the manifest asked for."""
    reciter: str
    """Empty when unknown."""
    also_accept: tuple[str, ...] = ()
    """Other texts that count as right."""
    parts: tuple[Segment, ...] = ()
    """Of a window of consecutive verses: the stretches, one after another. `audio` and `offset` are then
    the first one's, `duration` is the sum."""

    @property
    def place(self) -> str:
        """Where it is, for people: the file, and the second in it."""
        return f"{self.audio} at {self.offset:g} s" if self.offset else self.audio


@dataclass(frozen=True, slots=True)
class Emissions:
    """Scores of an acoustic model for every frame."""

    log_probs: NDArray[np.float32]
    """[frames, vocabulary + 1], natural log, blank last."""
    frame_seconds: float
    offset: float = 0.0
    """Seconds of the recording before the first frame."""


@dataclass(frozen=True, slots=True)
class Hypothesis:
    """A token sequence with the frame at which each token was emitted."""

    tokens: tuple[int, ...]
    frames: tuple[int, ...]
    score: float
    """Natural log."""
    log_probs: tuple[float, ...] = ()
    """Natural log of the probability of each token; empty when unknown."""


@dataclass(frozen=True, slots=True)
class Alternative:
    """An entry of an n-best list."""

    text: str
    score: float
    """Natural log, acoustic and language model with their weights: the list is sorted by it."""
    acoustic_score: float
    """Natural log of the probability of the text by the acoustic model."""


@dataclass(frozen=True, slots=True)
class Transcript:
    """The text that a recognizer found in one recording."""

    text: str
    words: tuple[TimedWord, ...] = ()
    verses: tuple[VerseRef, ...] = ()
    n_best: tuple[Alternative, ...] = ()
    """The most probable texts, the best first, where a list was asked for."""


@dataclass(frozen=True, slots=True)
class Counts:
    """Edit operations between a reference and a hypothesis. Rates are made from counts."""

    hits: int = 0
    substitutions: int = 0
    insertions: int = 0
    deletions: int = 0

    @property
    def reference_length(self) -> int:
        """Units in the reference."""
        return self.hits + self.substitutions + self.deletions

    @property
    def hypothesis_length(self) -> int:
        """Units in the hypothesis."""
        return self.hits + self.substitutions + self.insertions

    @property
    def errors(self) -> int:
        return self.substitutions + self.insertions + self.deletions

    @property
    def rate(self) -> float:
        """Errors per reference unit. Of an empty reference: 0.0 if the hypothesis is empty too, else inf."""
        if self.reference_length:
            return self.errors / self.reference_length
        return float("inf") if self.hypothesis_length else 0.0

    def __add__(self, other: Counts) -> Counts:
        return Counts(
            self.hits + other.hits,
            self.substitutions + other.substitutions,
            self.insertions + other.insertions,
            self.deletions + other.deletions,
        )
