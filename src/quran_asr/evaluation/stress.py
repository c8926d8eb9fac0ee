"""Robustness of a recognizer: the same clips joined, with silence, at other levels, degraded, higher.

Every condition is measured on the same clips as the clips as they are, so that the differences are those of
the condition; what is random is seeded by the number of the clip. The goals are those that a recognizer in
use has to meet: nobody cuts a recording into verses, starts it with a quarter of a second of silence, and
has the level of a studio.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice, zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from quran_asr import audio
from quran_asr.audio import Codec
from quran_asr.corpus.effects import (
    at_tempo,
    decaying_response,
    in_room,
    low_pass,
    overdriven,
    with_noise,
    without_silence,
)
from quran_asr.errors import QuranAsrError
from quran_asr.evaluation.confidence import method
from quran_asr.evaluation.report import JoinedClips, Rates, ScoredClip, Setting, rates
from quran_asr.evaluation.scoring import score_clips
from quran_asr.files import parse_json, write_json
from quran_asr.records import SAMPLE_RATE

if TYPE_CHECKING:
    from quran_asr.records import Samples, Segment

Recognize = Callable[["Samples"], str]
"""Text of a recording, float32 [samples] at 16 kHz."""

STRESS_NAME = "stress.json"
MOST_POINTS = 2.0
"""Points of WER that clips may lose when they are joined."""
MOST_RELATIVE = 0.10
"""Share by which WER may grow with silence before a clip and with its level."""
LONGEST_JOINED = 300.0
"""Seconds of a recording that all clips of a reciter are joined to."""
PAIRS = 30
"""Pairs of clips that every evaluation recognizes joined too."""
MP3_32 = Codec("MP3", "MPEG_LAYER_III", SAMPLE_RATE, 0.85, 1105)
GSM = Codec("WAV", "GSM610", 8000)


@dataclass(frozen=True, slots=True)
class StressRow:
    """One condition, measured."""

    group: str
    """`clips` or one of `GROUPS`."""
    condition: str
    rates: Rates
    clean: float | None
    """WER of the clips as they are; None for that row itself."""

    @property
    def relative(self) -> float | None:
        """By what share the WER is above that of the clips as they are; None where that is 0."""
        return None if not self.clean else self.rates.words.rate / self.clean - 1

    @property
    def most(self) -> float | None:
        """The WER that the condition may reach; None where it has no goal."""
        if self.clean is None:
            return None
        if self.group == "joined":
            return self.clean + MOST_POINTS / 100
        return self.clean * (1 + MOST_RELATIVE) if self.group in ("silence", "level") else None

    @property
    def met(self) -> bool | None:
        """Whether the goal of the condition is met; None where it has none."""
        return None if self.most is None else self.rates.words.rate <= self.most

    def to_json(self) -> dict[str, Any]:
        """As JSON holds it; rates are fractions."""
        head = {"group": self.group, "condition": self.condition}
        relative = None if self.relative is None else round(self.relative, 6)
        most = None if self.most is None else round(self.most, 6)
        return {**head, **self.rates.to_json(), "relative": relative, "goal": most, "met": self.met}


Change = Callable[["Samples", int], "Samples"]
"""A clip and its number, which seeds what is random -> the clip under the condition."""


def _silence(seconds: float) -> Change:
    silence = np.zeros(round(seconds * SAMPLE_RATE), np.float32)
    return lambda clip, _: np.concatenate([silence, without_silence(clip)])


def _peak(decibels: float) -> Change:
    return lambda clip, _: clip * np.float32(10 ** (decibels / 20) / max(np.abs(clip).max(initial=0.0), 1e-9))


def _noise(decibels: float) -> Change:
    return lambda clip, number: with_noise(clip, decibels, random.Random(number))


def _voice(factor: float) -> Change:
    return lambda clip, _: at_tempo(audio.resample(clip, round(SAMPLE_RATE * factor)), 1 / factor)


CONDITIONS: tuple[tuple[str, str, Change], ...] = (
    *(("silence", f"{seconds:g} s before", _silence(seconds)) for seconds in (0.0, 0.2, 0.33, 0.5, 1.0, 2.0)),
    *(("level", f"peak {decibels:g} dBFS", _peak(decibels)) for decibels in (0.0, -20.0, -35.0)),
    ("level", "clipped x4", lambda clip, _: overdriven(clip, 20 * np.log10(4.0))),
    ("noise", "noise at 20 dB", _noise(20.0)),
    ("noise", "noise at 10 dB", _noise(10.0)),
    ("room", "room, 0.5 s", lambda clip, number: in_room(clip, decaying_response(0.5, 3.0, number))),
    ("telephone", "telephone band", lambda clip, _: audio.through(GSM, low_pass(clip, 3400.0))),
    ("mp3", "MP3, 32 kbit/s", lambda clip, _: audio.through(MP3_32, clip)),
    *(("voice", f"voice {factor:g} times as high", _voice(factor)) for factor in (1.2, 1.4)),
)
"""Group, name and change of every condition that single clips are put into."""
GROUPS = ("joined", *dict.fromkeys(group for group, _, _ in CONDITIONS))


def chosen_groups(names: str) -> tuple[str, ...]:
    """The groups that `all` or names with commas between choose.

    Raises:
        QuranAsrError: there is no such group.
    """
    chosen = GROUPS if names == "all" else tuple(name.strip() for name in names.split(","))
    if unknown := [name for name in chosen if name not in GROUPS]:
        raise QuranAsrError(f"no stress condition `{unknown[0]}`", remedy=f"there are {', '.join(GROUPS)}")
    return chosen


@dataclass(frozen=True, slots=True)
class _Recording:
    reciter: str
    texts: tuple[str, ...]
    """Any of them is right; the first is the reference."""
    samples: Samples


def stress(
    segments: Sequence[Segment],
    recognize: Recognize,
    spelling: str,
    groups: Sequence[str] = GROUPS,
    on_progress: Callable[[int, int], None] | None = None,
) -> list[StressRow]:
    """Measure the clips as they are and under the conditions of some groups.

    Clips are joined reciter by reciter in the order of the manifest: in pairs, and all in recordings of up to
    five minutes.

    Args:
        segments: clips with their text.
        recognize: the recognizer.
        spelling: that is counted in.
        groups: from `GROUPS`.
        on_progress: called with (rows measured, all rows).

    Raises:
        QuranAsrError: a clip cannot be read, or none is given.
    """
    if not segments:
        raise QuranAsrError("no clips to measure", remedy="give a manifest with clips")
    clips = [
        _Recording(
            segment.reciter,
            (segment.text, *segment.also_accept),
            audio.read(segment.audio, segment.offset, segment.duration or None),
        )
        for segment in segments
    ]
    chosen = [condition for condition in CONDITIONS if condition[0] in groups]
    rows: list[StressRow] = []
    count = 1 + 2 * ("joined" in groups) + len(chosen)

    def measure(group: str, name: str, recordings: Sequence[_Recording]) -> None:
        texts = [recognize(recording.samples) for recording in recordings]
        scores = score_clips([recording.texts for recording in recordings], texts, spelling)
        measured = rates(scores, [recording.reciter for recording in recordings])
        rows.append(StressRow(group, name, measured, rows[0].rates.words.rate if rows else None))
        if on_progress is not None:
            on_progress(len(rows), count)

    measure("clips", "as they are", clips)
    if "joined" in groups:
        measure("joined", "in pairs", _joined(clips, 2))
        measure("joined", "all of a reciter", _joined(clips, None))
    for group, name, change in chosen:
        changed = [
            _Recording(clip.reciter, clip.texts, change(clip.samples, number))
            for number, clip in enumerate(clips)
        ]
        measure(group, name, changed)
    return rows


def _joined(clips: Sequence[_Recording], most: int | None) -> list[_Recording]:
    """Clips of one reciter behind each other, at most so many, or as many as five minutes hold."""
    found: list[list[_Recording]] = []
    for reciter in dict.fromkeys(clip.reciter for clip in clips):
        current: list[_Recording] = []
        for clip in clips:
            if clip.reciter != reciter:
                continue
            seconds = sum(len(one.samples) for one in (*current, clip)) / SAMPLE_RATE
            if current and (len(current) == most or seconds > LONGEST_JOINED):
                found.append(current)
                current = []
            current.append(clip)
        found.append(current)
    return [
        _Recording(
            group[0].reciter,
            (" ".join(clip.texts[0] for clip in group),),
            np.concatenate([clip.samples for clip in group]),
        )
        for group in found
    ]


def joined_pairs(clips: Sequence[ScoredClip], recognize: Recognize, spelling: str) -> JoinedClips | None:
    """The first clips again, joined in pairs of one reciter; None where no reciter has two.

    Args:
        clips: scored alone.
        recognize: the same recognizer.
        spelling: that is counted in.

    Raises:
        QuranAsrError: a clip cannot be read any more.
    """
    pairs = list(islice(_pairs(clips), PAIRS))
    if not pairs:
        return None
    texts = [
        recognize(
            np.concatenate(
                [
                    audio.read(clip.segment.audio, clip.segment.offset, clip.segment.duration or None)
                    for clip in pair
                ]
            )
        )
        for pair in pairs
    ]
    references = [(" ".join(clip.score.reference for clip in pair),) for pair in pairs]
    alone = [clip for pair in pairs for clip in pair]
    return JoinedClips(
        clips=len(alone),
        alone=rates([clip.score for clip in alone], [clip.segment.reciter for clip in alone]),
        in_pairs=rates(score_clips(references, texts, spelling), [pair[0].segment.reciter for pair in pairs]),
    )


def _pairs(clips: Sequence[ScoredClip]) -> Iterator[tuple[ScoredClip, ScoredClip]]:
    """Pairs of each reciter's clips in their order, from all reciters in turn."""
    of_reciter: dict[str, list[ScoredClip]] = {}
    for clip in clips:
        of_reciter.setdefault(clip.segment.reciter, []).append(clip)
    pairs = [zip(members[::2], members[1::2], strict=False) for members in of_reciter.values()]
    return (pair for row in zip_longest(*pairs) for pair in row if pair is not None)


def stress_json(rows: Sequence[StressRow], setting: Setting, segments: Sequence[Segment]) -> dict[str, Any]:
    """What `stress.json` holds."""
    return {
        **asdict(setting),
        "clips": len(segments),
        "hours": round(sum(segment.duration for segment in segments) / 3600, 6),
        "interval_method": method([segment.reciter for segment in segments]),
        "rows": [row.to_json() for row in rows],
    }


def write_stress(folder: Path, measured: dict[str, Any]) -> tuple[str, ...]:
    """Write `stress.json`, atomically, and keep its rows of other groups that belong to the same measurement.

    Rows of another model, setting or manifest are replaced, and so are those of a model or clips that have
    changed since, which the row of the clips as they are shows.

    Args:
        folder: where it is.
        measured: from `stress_json`.

    Returns:
        The groups whose rows were kept.
    """
    new = {row["group"] for row in measured["rows"]}
    kept = [row for row in _rows_before(folder / STRESS_NAME, measured) if row["group"] not in new]
    places = {group: place for place, group in enumerate(("clips", *GROUPS))}
    rows = sorted([*measured["rows"], *kept], key=lambda row: places[row["group"]])
    write_json(folder / STRESS_NAME, {**measured, "rows": rows})
    return tuple(dict.fromkeys(row["group"] for row in kept))


def _rows_before(path: Path, measured: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows of a file if it is of the same measurement, else none."""
    try:
        before = parse_json(path.read_text(encoding="utf-8"))
        rows = [row for row in before["rows"] if row["group"] in ("clips", *GROUPS)]
        same = {**before, "rows": rows[0]} == {**measured, "rows": measured["rows"][0]}
    except (OSError, ValueError, KeyError, TypeError, IndexError):
        return []  # there is none, or it is damaged
    return rows if same else []
