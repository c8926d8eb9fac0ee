"""The report of an evaluation: WER and CER with intervals, by reciter, length and training overlap."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from quran_asr.evaluation.confidence import Interval, intervals, method, rounded, rounded_interval
from quran_asr.evaluation.edit_distance import total
from quran_asr.evaluation.identification import IdentificationTable
from quran_asr.evaluation.scoring import ClipScore
from quran_asr.evaluation.training_data import TrainingData, cells
from quran_asr.records import Counts, Segment

LENGTHS = (("short", 0, 5), ("medium", 6, 20), ("long", 21, None))
"""Name, fewest and most reference words of a clip. Of the Quran's verses 25 % are short, 15 % long."""

WORST = 10
"""Clips that are shown as the worst: those with the most word errors."""

NO_NAME = "unknown"
"""Key of the clips that name no reciter."""


@dataclass(frozen=True, slots=True)
class Setting:
    """What was measured, and how."""

    model: str
    decoder: str
    look_ahead_ms: int | None
    """None when the model has but one."""
    spelling: str
    edition: str
    manifest: str = ""
    streaming: bool = False
    """In chunks as they arrive, or whole recordings."""
    language_model: Mapping[str, Any] | None = None
    """`lm` or `passage`, `lm_weight`, `token_bonus`, and `rescored` (length of the n-best lists, or None);
    None without a language model."""


@dataclass(frozen=True, slots=True)
class ScoredClip:
    """A clip with its score."""

    segment: Segment
    score: ClipScore

    def to_json(self) -> dict[str, Any]:
        """One line of `transcripts.jsonl`."""
        score = self.score
        return {
            **_place(self.segment),
            "reference": score.reference,
            "hypothesis": score.hypothesis,
            "counts": asdict(score.words),
            "character_counts": asdict(score.characters),
            "letters": {
                "counts": asdict(score.letters_words),
                "character_counts": asdict(score.letters_characters),
            },
            "spelling_only_errors": score.spelling_only_errors,
            "recognition_errors": score.recognition_errors,
            "lost": score.lost,
            "looping": score.looping,
        }


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A clip that could not be read, so that it is excluded from all counts."""

    segment: Segment
    reason: str


@dataclass(frozen=True, slots=True)
class Rates:
    """Counts, their rate and how sure it is."""

    words: Counts
    characters: Counts
    wer_interval: Interval | None
    cer_interval: Interval | None

    def to_json(self) -> dict[str, Any]:
        return {
            "counts": asdict(self.words),
            "character_counts": asdict(self.characters),
            "wer": rounded(self.words.rate),
            "wer_interval": rounded_interval(self.wer_interval),
            "cer": rounded(self.characters.rate),
            "cer_interval": rounded_interval(self.cer_interval),
        }


def rates(scores: Sequence[ClipScore], reciters: Sequence[str]) -> Rates:
    """The rates of some clips in the model's spelling, by these reciters."""
    errors = np.array([[score.words.errors, score.characters.errors] for score in scores], np.int64)
    lengths = [[score.words.reference_length, score.characters.reference_length] for score in scores]
    wer, cer = intervals(errors, np.array(lengths, np.int64), reciters)
    return Rates(total([s.words for s in scores]), total([s.characters for s in scores]), wer, cer)


@dataclass(frozen=True, slots=True)
class JoinedClips:
    """What clips lose when they are joined: the prediction network has seen little text across pauses."""

    clips: int
    """The first ones that have a neighbour of their reciter."""
    alone: Rates
    in_pairs: Rates

    def to_json(self) -> dict[str, Any]:
        return {"clips": self.clips, "alone": self.alone.to_json(), "in_pairs": self.in_pairs.to_json()}


@dataclass(frozen=True, slots=True)
class Group:
    """Some clips together: their counts are summed, then rates are made."""

    clips: int
    hours: float
    spelled: Rates
    """In the model's spelling."""
    letters: Rates

    def to_json(self) -> dict[str, Any]:
        head = {"clips": self.clips, "hours": round(self.hours, 6)}
        return {**head, **self.spelled.to_json(), "letters": self.letters.to_json()}


@dataclass(frozen=True, slots=True)
class StreamingStability:
    """Results of streaming: against whole files, and from one partial result to the next."""

    differing_clips: int
    """Clips whose words were others than those of the whole file."""
    words: int
    """Words shown for good."""
    grown: int
    """Times that a word already shown became longer."""
    replaced: int
    """Times that a word already shown became another one or was gone."""


@dataclass(frozen=True, slots=True)
class Report:
    """Error rates of a model on the clips of a manifest. Made by `make_report`."""

    setting: Setting
    whole: Group
    interval_method: str
    spelling_only_errors: int
    recognition_errors: int
    cells: Mapping[str, Group]
    """By `seen_reciter/unseen_text` and so on; the one key `unknown` when the training data are unknown."""
    reciters: Mapping[str, Group]
    lengths: Mapping[str, Group]
    """By the names of `LENGTHS`; a length without clips is left out."""
    worst: tuple[ScoredClip, ...]
    mostly_deleted: int
    looping_clips: int
    unreadable: tuple[Unreadable, ...]
    steadiness: StreamingStability | None = None
    """None where whole files were recognized."""
    joined: JoinedClips | None = None
    """None where no reciter has two clips."""
    identification: IdentificationTable | None = None
    """None where it was not asked for."""

    def to_json(self) -> dict[str, Any]:
        """Plain values for JSON; a rate that has no value is None, never NaN or inf."""
        setting = self.setting
        return {
            "model": setting.model,
            "manifest": setting.manifest,
            "decoder": setting.decoder,
            "look_ahead_ms": setting.look_ahead_ms,
            "streaming": setting.streaming,
            "language_model": None if setting.language_model is None else dict(setting.language_model),
            "spelling": setting.spelling,
            "edition": setting.edition,
            **self.whole.to_json(),
            "interval_method": self.interval_method,
            "spelling_only_errors": self.spelling_only_errors,
            "recognition_errors": self.recognition_errors,
            "cells": {name: group.to_json() for name, group in self.cells.items()},
            "reciters": {name: group.to_json() for name, group in self.reciters.items()},
            "lengths": {
                name: {"reference_words": [fewest, most], **self.lengths[name].to_json()}
                for name, fewest, most in LENGTHS
                if name in self.lengths
            },
            "worst": [
                {**clip.to_json(), "alignment": [asdict(edit) for edit in clip.score.edits()]}
                for clip in self.worst
            ],
            "mostly_deleted": self.mostly_deleted,
            "looping_clips": self.looping_clips,
            "steadiness": None if self.steadiness is None else asdict(self.steadiness),
            "joined": None if self.joined is None else self.joined.to_json(),
            "identification": None if self.identification is None else self.identification.to_json(),
            "unreadable": [{**_place(clip.segment), "reason": clip.reason} for clip in self.unreadable],
        }


def make_report(
    clips: Sequence[ScoredClip],
    setting: Setting,
    training: TrainingData | None = None,
    unreadable: Sequence[Unreadable] = (),
) -> Report:
    """Sum up the scores of clips.

    Args:
        clips: all clips that could be read.
        training: what the model was trained on; None when nobody knows.
        unreadable: clips that could not be read: listed, not counted.
    """
    cell = cells([clip.segment for clip in clips], training)
    by_errors = sorted(clips, key=lambda clip: (-clip.score.words.errors, clip.score.words.reference_length))
    lengths = {name: [clip for clip in clips if _length(clip) == name] for name, *_ in LENGTHS}
    return Report(
        setting=setting,
        whole=_group(clips),
        interval_method=method([clip.segment.reciter for clip in clips]),
        spelling_only_errors=sum(clip.score.spelling_only_errors for clip in clips),
        recognition_errors=sum(clip.score.recognition_errors for clip in clips),
        cells=_grouped(clips, cell),
        reciters=_grouped(clips, [clip.segment.reciter or NO_NAME for clip in clips]),
        lengths={name: _group(members) for name, members in lengths.items() if members},
        worst=tuple(clip for clip in by_errors[:WORST] if clip.score.words.errors),
        mostly_deleted=sum(clip.score.lost for clip in clips),
        looping_clips=sum(clip.score.looping for clip in clips),
        unreadable=tuple(unreadable),
    )


def _grouped(clips: Sequence[ScoredClip], names: Sequence[str]) -> dict[str, Group]:
    members: dict[str, list[ScoredClip]] = {name: [] for name in sorted(set(names))}
    for clip, name in zip(clips, names, strict=True):
        members[name].append(clip)
    return {name: _group(group) for name, group in members.items()}


def _group(clips: Sequence[ScoredClip]) -> Group:
    table = [
        [score.words for score in _scores(clips)],
        [score.characters for score in _scores(clips)],
        [score.letters_words for score in _scores(clips)],
        [score.letters_characters for score in _scores(clips)],
    ]
    errors = np.array([[counts.errors for counts in column] for column in table], np.int64).T
    reference_length = np.array(
        [[counts.reference_length for counts in column] for column in table], np.int64
    ).T
    words, characters, letters_words, letters_characters = (total(column) for column in table)
    wer, cer, letters_wer, letters_cer = intervals(
        errors, reference_length, [clip.segment.reciter for clip in clips]
    )
    return Group(
        clips=len(clips),
        hours=sum(clip.segment.duration for clip in clips) / 3600,
        spelled=Rates(words, characters, wer, cer),
        letters=Rates(letters_words, letters_characters, letters_wer, letters_cer),
    )


def _scores(clips: Sequence[ScoredClip]) -> list[ClipScore]:
    return [clip.score for clip in clips]


def _length(clip: ScoredClip) -> str:
    reference_length = clip.score.words.reference_length
    return next(name for name, _, most in LENGTHS if most is None or reference_length <= most)


def _place(segment: Segment) -> dict[str, Any]:
    return {
        "audio_filepath": segment.audio,
        "offset": segment.offset,
        "duration": segment.duration,
        "reciter": segment.reciter,
        "verses": [str(verse) for verse in segment.verses],
    }
