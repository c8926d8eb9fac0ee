"""How often the right verses are found: the outcome for each clip, and their table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from quran_asr.errors import QuranAsrError
from quran_asr.records import Segment, VerseRef
from quran_asr.text.quran import load_quran

Verses = tuple[VerseRef, ...]
Places = tuple[Verses, ...]
"""The verses that were found, and those of equal wording that cannot be distinguished from them; empty when
nothing was found."""
Identify = Callable[[Sequence[Segment]], Iterable[Places | QuranAsrError]]
"""Gives one answer for each clip, in their order; an error if a clip cannot be read."""

Outcome = Literal["exact", "partial", "wrong", "nothing"]
OUTCOMES: tuple[Outcome, ...] = get_args(Outcome)
NO_NAME = "unknown"


@dataclass(frozen=True, slots=True)
class IdentifiedClip:
    """A clip whose verses are known, and those that were found."""

    segment: Segment
    found: Verses
    outcome: Outcome
    """`exact`: the same words, in order; `partial`: at least one verse of them; `wrong`: none."""
    recall: float
    """Share of the clip's verses that were found; 1 where `exact`."""
    precision: float
    """Share of the found verses that are the clip's; 0 where nothing was found."""

    def to_json(self) -> dict[str, Any]:
        return {
            "audio_filepath": self.segment.audio,
            "offset": self.segment.offset,
            "duration": self.segment.duration,
            "reciter": self.segment.reciter,
            "verses": [str(verse) for verse in self.segment.verses],
            "found": [str(verse) for verse in self.found],
            "outcome": self.outcome,
        }


@dataclass(frozen=True, slots=True)
class IdentificationCounts:
    """Some clips together."""

    outcomes: Mapping[Outcome, int]
    """In the order of `OUTCOMES`."""
    recall: float
    """Mean over the clips, as `precision`."""
    precision: float

    @property
    def clips(self) -> int:
        return sum(self.outcomes.values())

    def to_json(self) -> dict[str, Any]:
        return {
            "clips": self.clips,
            **{str(name): count for name, count in self.outcomes.items()},
            "recall": round(self.recall, 6),
            "precision": round(self.precision, 6),
        }


@dataclass(frozen=True, slots=True)
class IdentificationTable:
    """Of all clips of a manifest whose verses are known."""

    whole: IdentificationCounts
    reciters: Mapping[str, IdentificationCounts]
    missed: tuple[IdentifiedClip, ...]
    """All that are not exact."""

    def to_json(self) -> dict[str, Any]:
        return {
            **self.whole.to_json(),
            "reciters": {name: counts.to_json() for name, counts in self.reciters.items()},
            "missed": [clip.to_json() for clip in self.missed],
        }


def identification_table(
    segments: Sequence[Segment],
    identify: Identify,
    spelling: str,
    on_progress: Callable[[int, int], None] | None = None,
) -> IdentificationTable:
    """Identify the clips that name their verses, and count.

    Args:
        segments: the clips; those without verses, and those that cannot be read, are in no count.
        identify: finds the verses.
        spelling: of the segments' texts.
        on_progress: called with (clips done, clips to identify).

    Raises:
        QuranAsrError: no clip names its verses, or none of those can be read.
    """
    named = [segment for segment in segments if segment.verses]
    clips: list[IdentifiedClip] = []
    for done, (segment, places) in enumerate(zip(named, identify(named), strict=True), start=1):
        if not isinstance(places, QuranAsrError):
            clips.append(score_places(segment, places, spelling))
        if on_progress is not None:
            on_progress(done, len(named))
    if not clips:
        raise QuranAsrError(
            "no clip that can be read names its verses, so that identification cannot be scored",
            remedy="name them under `verses` in the manifest",
        )
    by_reciter: dict[str, list[IdentifiedClip]] = {}
    for clip in sorted(clips, key=lambda clip: clip.segment.reciter or NO_NAME):
        by_reciter.setdefault(clip.segment.reciter or NO_NAME, []).append(clip)
    return IdentificationTable(
        _counts(clips),
        {name: _counts(members) for name, members in by_reciter.items()},
        tuple(clip for clip in clips if clip.outcome != "exact"),
    )


def score_places(segment: Segment, places: Places, spelling: str) -> IdentifiedClip:
    """The outcome for one clip: verses of equal words count as the same, and so do equal places.

    Args:
        segment: what is recited; any text of its `also_accept` is right as well.
        places: what was found.
        spelling: of the segment's texts.
    """
    if not places:
        return IdentifiedClip(segment, (), "nothing", 0.0, 0.0)
    quran = load_quran(spelling)
    right = Counter(quran.verse(verse) for verse in segment.verses)
    accepted = {quran.text(segment.verses), *segment.also_accept}
    scored: list[tuple[float, float]] = []
    for verses in places:
        if quran.text(verses) in accepted:
            return IdentifiedClip(segment, verses, "exact", 1.0, 1.0)
        found = Counter(quran.verse(verse) for verse in verses)
        common = (right & found).total()
        scored.append((common / right.total(), common / found.total()))
    recall, precision = max(scored)
    return IdentifiedClip(segment, places[0], "partial" if recall else "wrong", recall, precision)


def _counts(clips: Sequence[IdentifiedClip]) -> IdentificationCounts:
    outcomes = Counter(clip.outcome for clip in clips)
    return IdentificationCounts(
        {name: outcomes[name] for name in OUTCOMES},
        sum(clip.recall for clip in clips) / len(clips),
        sum(clip.precision for clip in clips) / len(clips),
    )
