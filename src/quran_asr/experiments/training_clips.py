"""Which clips of a manifest a recipe trains on, and windows of consecutive verses joined from them."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from quran_asr.config.schema import Augment, Quran
from quran_asr.errors import Finding, counted
from quran_asr.records import Segment, VerseRef
from quran_asr.text.quran import load_quran


def with_windows(segments: Sequence[Segment], quran: Quran, longest: float) -> Sequence[Segment]:
    """The clips of a training, followed by the windows of consecutive verses that its recipe asks for.

    Args:
        segments: the clips.
        quran: the recipe's section; its `augment`, `spelling` and `seed` count.
        longest: seconds of a window (`model.train_ds.max_duration`).
    """
    augment = quran.augment
    if augment is None or not has_windows(augment):
        return segments
    whole = [segment for segment in segments if _is_whole(segment, quran.spelling)]
    return [*segments, *windows(whole, most=augment.windows, longest=longest, seed=quran.seed)]


def has_windows(augment: Augment | None) -> bool:
    """Whether consecutive verses are joined."""
    return augment is not None and augment.windows > 1


def _is_whole(segment: Segment, spelling: str) -> bool:
    """Whether somebody who is known recites whole verses: parts of verses do not follow each other."""
    if not (segment.reciter and segment.verses):
        return False
    return segment.text == load_quran(spelling).text(segment.verses)


def windows(segments: Sequence[Segment], *, most: int, longest: float, seed: int) -> list[Segment]:
    """Joins of clips that follow each other in the mushaf, from one reciter; each clip is in at most one,
    but for the basmala.

    A clip follows another when its first verse comes after the other's last, in the same surah. Where a
    reciter has a verse twice the first clip is taken. How many verses are joined is drawn, from two to
    `most`. Before the first verse of a surah stands the basmala, if the reciter has 1:1: it is recited there,
    and a model that has met it without its words leaves it out.

    Args:
        segments: clips of whole verses; those that name no verses stay alone.
        most: clips in a window.
        longest: seconds of a window; what would be longer is not joined.
        seed: the same seed makes the same windows.

    Returns:
        The windows alone, in the order of their first clips.
    """
    drawn = random.Random(f"windows {seed}")
    first_with: dict[tuple[str, VerseRef], Segment] = {}
    for segment in segments:
        if segment.verses:
            first_with.setdefault((segment.reciter, segment.verses[0]), segment)
    taken: set[tuple[str, VerseRef]] = set()
    found = []
    for key in sorted(first_with):
        wanted = drawn.randint(2, max(2, most))
        parts = _basmala_before(*key, first_with)
        wanted += len(parts)
        while key in first_with and key not in taken and len(parts) < wanted:
            one = first_with[key]
            if sum(part.duration for part in parts) + one.duration > longest:
                break
            parts.append(one)
            taken.add(key)
            last = one.verses[-1]
            key = (one.reciter, VerseRef(last.surah, last.ayah + 1))
        if len(parts) > 1:
            found.append(_joined(parts))
    return found


BASMALA = VerseRef(1, 1)
WITHOUT_BASMALA = (1, 9)
"""Surahs that begin without it, or with it as their first verse."""


def _basmala_before(
    reciter: str, verse: VerseRef, first_with: Mapping[tuple[str, VerseRef], Segment]
) -> list[Segment]:
    """The reciter's clip of 1:1, as words that belong to no verse, if it is recited before this one."""
    clip = first_with.get((reciter, BASMALA))
    if clip is None or clip.verses != (BASMALA,) or verse.ayah != 1 or verse.surah in WITHOUT_BASMALA:
        return []
    return [replace(clip, verses=())]


def _joined(parts: Sequence[Segment]) -> Segment:
    first = parts[0]
    return Segment(
        audio=first.audio,
        offset=first.offset,
        duration=sum(part.duration for part in parts),
        verses=tuple(verse for part in parts for verse in part.verses),
        text=" ".join(part.text for part in parts),
        reciter=first.reciter,
        parts=tuple(parts),
    )


@dataclass(frozen=True, slots=True)
class Selection:
    """Clips within the limits of a recipe, and those outside."""

    kept: tuple[Segment, ...]
    too_long: tuple[Segment, ...]
    too_short: tuple[Segment, ...]
    without_text: tuple[Segment, ...]

    @property
    def hours(self) -> float:
        """Of what is kept."""
        return hours(self.kept)


def select(segments: Sequence[Segment], *, shortest: float, longest: float | None) -> Selection:
    """Sort clips by what a recipe takes; `shortest` and `longest` in seconds, None for no limit."""
    kept, too_long, too_short, silent = [], [], [], []
    for segment in segments:
        if not segment.text:
            silent.append(segment)
        elif longest is not None and segment.duration > longest:
            too_long.append(segment)
        elif segment.duration < shortest:
            too_short.append(segment)
        else:
            kept.append(segment)
    return Selection(tuple(kept), tuple(too_long), tuple(too_short), tuple(silent))


def describe(selection: Selection, *, what: str, key: str, longest: float | None) -> list[Finding]:
    """What was left out, one finding for each reason.

    Args:
        what: `training` or `validation`.
        key: dotted key of the limit, named in the remedy.
        longest: the limit in seconds.
    """
    total = sum(
        hours(part)
        for part in (selection.kept, selection.too_long, selection.too_short, selection.without_text)
    )
    findings = []
    if selection.too_long:
        lost = hours(selection.too_long)
        longest_clip = max(segment.duration for segment in selection.too_long)
        findings.append(
            Finding(
                "warning" if lost > 0.1 * total else "note",
                "clips-too-long",
                key,
                f"{counted(len(selection.too_long), f'{what} clip')} over {longest:g} s "
                f"{_are(selection.too_long)} left out: {lost:.2f} of {total:.2f} hours, "
                f"the first {selection.too_long[0].audio}",
                f"raise {key} (the longest has {longest_clip:.0f} s) or cut them at pauses",
            )
        )
    for code, part, why in (
        ("clips-too-short", selection.too_short, "too short"),
        ("clips-without-text", selection.without_text, "without text"),
    ):
        if part:
            findings.append(
                Finding(
                    "note",
                    code,
                    part[0].audio,
                    f"{counted(len(part), f'{what} clip')} {why} {_are(part)} left out "
                    f"({hours(part):.3f} hours)",
                    "",
                )
            )
    return findings


def _are(clips: Sequence[Segment]) -> str:
    return "is" if len(clips) == 1 else "are"


def hours(segments: Sequence[Segment]) -> float:
    """Audio of the segments in hours."""
    return sum(segment.duration for segment in segments) / 3600
