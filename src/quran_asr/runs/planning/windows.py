"""Windows of consecutive verses: what a reciter says in one go, made from clips of single verses."""

from __future__ import annotations

import random
from collections.abc import Sequence

from quran_asr.records import Segment, VerseRef
from quran_asr.runs.schema import Recipe
from quran_asr.text.quran import load_quran


def with_windows(segments: Sequence[Segment], recipe: Recipe) -> Sequence[Segment]:
    """The clips of a training, and after them the windows of consecutive verses that its recipe asks for."""
    augment = recipe.quran.augment
    if augment is None or augment.windows == 1:
        return segments
    longest = recipe.model.train_ds.max_duration
    whole = [segment for segment in segments if _is_whole(segment, recipe.quran.spelling)]
    return [*segments, *windows(whole, most=augment.windows, longest=longest, seed=recipe.quran.seed)]


def _is_whole(segment: Segment, spelling: str) -> bool:
    """Whether somebody who is known recites whole verses: parts of verses do not follow each other."""
    if not (segment.reciter and segment.verses):
        return False
    return segment.text == load_quran(spelling).text(segment.verses)


def windows(segments: Sequence[Segment], *, most: int, longest: float, seed: int) -> list[Segment]:
    """Joins of clips that follow each other in the mushaf, from one reciter; each clip is in at most one.

    A clip follows another when its first verse comes after the other's last, in the same surah. Where a
    reciter has a verse twice the first clip is taken. How many verses are joined is drawn, from two to
    `most`.

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
        parts: list[Segment] = []
        wanted = drawn.randint(2, max(2, most))
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
