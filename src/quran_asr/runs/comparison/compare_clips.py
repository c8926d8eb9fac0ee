"""Word errors clip by clip: what two reports, or the best validations of trainings, have in common."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quran_asr.measure.paired import Difference, compare_errors
from quran_asr.measure.transcripts import HeardClip, read_transcripts

Key = tuple[str, float, float, str]
"""What makes a clip the same: file name with its folder, offset and duration in seconds, what was said."""


@dataclass(frozen=True, slots=True)
class Beside:
    """The word errors of two sides on the clips that both heard."""

    clips: int
    of_clips: tuple[int, int]
    """How many each heard."""
    difference: Difference

    def to_json(self) -> dict[str, Any]:
        found = self.difference
        return {
            "clips": self.clips,
            "of_clips": list(self.of_clips),
            "wer": [round(rate, 6) for rate in found.rates],
            "difference": round(found.difference, 6),
            "difference_interval": _rounded(found.difference_interval),
            "ratio": None if found.ratio is None else round(found.ratio, 6),
            "ratio_interval": _rounded(found.ratio_interval),
        }


def clips_of(transcripts: Path) -> dict[Key, HeardClip]:
    """The clips of a `transcripts.jsonl`.

    Raises:
        QuranAsrError: it cannot be read.
    """
    return {
        ("/".join(Path(clip.segment.audio).parts[-2:]), clip.segment.offset, clip.segment.duration,
         clip.segment.text): clip
        for clip in read_transcripts(transcripts)
    }  # fmt: skip


def set_beside(
    first: Sequence[dict[Key, HeardClip]], second: Sequence[dict[Key, HeardClip]]
) -> Beside | None:
    """Set two sides beside each other, each of one or several trainings.

    Returns:
        None where no clip with words in it was heard by all.
    """
    both = [key for key in first[0] if all(key in heard for heard in (*first, *second))]
    if not any(first[0][key].words.said for key in both):
        return None
    import numpy as np

    errors = [
        np.array([[heard[key].words.errors for key in both] for heard in side], np.int64)
        for side in (first, second)
    ]
    said = np.array([first[0][key].words.said for key in both], np.int64)
    reciters = [first[0][key].segment.reciter for key in both]
    found = compare_errors(errors[0], errors[1], said, reciters)
    return Beside(len(both), (len(first[0]), len(second[0])), found)


def _rounded(interval: tuple[float, float] | None) -> list[float] | None:
    return None if interval is None else [round(bound, 6) for bound in interval]
