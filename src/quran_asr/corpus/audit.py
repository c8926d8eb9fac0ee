"""Audit of a manifest, with a model or without: which clips are fit to train on, and why others are not.

An audit reads, measures and judges, and changes nothing; `write_audit` then writes two manifests and the
measurements next to the audited manifest, which is not changed.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from quran_asr.corpus.audit_rules import (
    LIMITS,
    REASONS,
    Limits,
    Reason,
    baseline_of,
    judge_alignments,
    judge_signal,
)
from quran_asr.corpus.clip_alignment import ClipAlignment, align_clips
from quran_asr.corpus.duration_model import (
    FEWEST,
    DurationModel,
    RecitedVerse,
    find_shifted,
    fit_duration_model,
)
from quran_asr.corpus.fingerprint import find_copies
from quran_asr.corpus.manifest import MADE_BY, collect_lines, sidecar_of, write_manifest
from quran_asr.corpus.measurements import Effort, Measured, measure_clips
from quran_asr.corpus.phone_classes import PhoneCounts
from quran_asr.corpus.text_check import check_text, phones_of_segment
from quran_asr.errors import Finding, QuranAsrError, counted
from quran_asr.files import json_line, parse_json, write_atomically, write_json
from quran_asr.records import Segment

_NAMED = 3
"""Number of clips named in a finding."""

_SAME_AUDIO = 0.8
"""Share of the longer of two clips from which they count as copies of each other."""


@dataclass(frozen=True, slots=True)
class AuditedClip:
    """One clip, its measurements, and the reasons against it."""

    line: Mapping[str, Any]
    """As in the manifest, `audio_filepath` absolute."""
    segment: Segment
    measured: Measured
    expected: float | None
    """Seconds that the words should take at the reciter's speech rate; None where that is unknown."""
    deviation: float | None
    """log(measured / expected) in the reciter's robust standard deviations."""
    reasons: tuple[Reason, ...]
    alignment: ClipAlignment | None = None
    """Alignment with its words, if the audit has a model."""

    @property
    def kept(self) -> bool:
        return all(reason.action != "reject" for reason in self.reasons)

    @property
    def name(self) -> str:
        """Readable name of the clip: reciter and verses, or its path."""
        if not self.segment.verses:
            return self.segment.audio
        return " ".join(filter(None, [self.segment.reciter, *map(str, self.segment.verses[:3])]))


@dataclass(frozen=True, slots=True)
class AuditReport:
    """The result of an audit."""

    manifest: Path
    clips: tuple[AuditedClip, ...]
    """One for each readable line, in order."""
    findings: tuple[Finding, ...]
    """Summarized findings, errors first."""
    duration_models: dict[str, DurationModel]
    """Reciter -> speech rate; reciters without a readable clip are left out."""
    effort: Effort
    limits: Limits

    @property
    def clean(self) -> list[AuditedClip]:
        return [one for one in self.clips if one.kept]

    @property
    def rejects(self) -> list[AuditedClip]:
        return [one for one in self.clips if not one.kept]

    @property
    def reasons(self) -> dict[str, int]:
        """Code -> clips, in the order of `REASONS`."""
        counted = Counter(code for one in self.clips for code in {reason.code for reason in one.reasons})
        return {code: counted[code] for code in REASONS if counted[code]}


def audit(
    manifest: str | Path,
    *,
    limits: Limits = LIMITS,
    workers: int | None = None,
    executor: Executor | None = None,
    cache: Path | None = None,
    bundle: Path | None = None,
    on_progress: Callable[[int, int], None] | None = None,
    on_aligned: Callable[[int, int], None] | None = None,
) -> AuditReport:
    """Measure and judge every clip of a manifest. The same files give the same report.

    Args:
        manifest: its lines may be invalid; each such line is a finding.
        limits: for rejection.
        workers: processes; one for each processor if None.
        executor: where clips are measured, instead of in processes here.
        cache: of measurements between audits; None for no cache.
        bundle: folder of a model that aligns each clip with its words; None: no model.
        on_progress: called with (clips measured, clips).
        on_aligned: called with (clips aligned, clips).

    Raises:
        QuranAsrError: the manifest is missing, or none of its lines is usable.
    """
    lines, findings = collect_lines(manifest)
    if not lines:
        raise QuranAsrError(
            f"no usable line among {len(findings)}, the first: {findings[0].message}",
            where=findings[0].where,
            remedy=findings[0].remedy or MADE_BY,
        )
    segments = [segment for _, segment in lines]
    measured, effort = measure_clips(
        segments, cache=cache, workers=workers, executor=executor, on_progress=on_progress
    )
    alignments: list[ClipAlignment | None] = [None] * len(lines)
    if bundle is not None:
        alignments = align_clips(segments, bundle, workers=workers, executor=executor, on_progress=on_aligned)
    phones = [phones_of_segment(segment) for segment in segments]
    speech = [_speech_seconds(one, limits) for one in measured]
    duration_models = _duration_models(segments, speech, phones)
    by_reciter: dict[str, list[int]] = defaultdict(list)
    for index, segment in enumerate(segments):
        by_reciter[segment.reciter].append(index)

    reasons: list[list[Reason]] = [
        [Reason(code, detail) for code, detail in check_text(values, segment)] for values, segment in lines
    ]
    expected: list[float | None] = [None] * len(lines)
    deviations: list[float | None] = [None] * len(lines)
    for clip, seconds in enumerate(speech):
        if seconds is not None:
            duration_model = duration_models[segments[clip].reciter]
            expected[clip] = duration_model.expected(phones[clip])
            deviations[clip] = duration_model.deviation(seconds, phones[clip])
    for reciter, clips in by_reciter.items():
        baseline = baseline_of([measured[clip] for clip in clips])
        for clip in clips:
            reasons[clip] += judge_signal(measured[clip], baseline, deviations[clip], limits)
        misfits = judge_alignments(
            [alignments[clip] for clip in clips], [deviations[clip] for clip in clips], limits
        )
        for clip, misfit in zip(clips, misfits, strict=True):
            if misfit is not None:
                reasons[clip].append(misfit)
        if reciter in duration_models:
            _judge_numbering(reasons, clips, segments, speech, duration_models[reciter])
    _judge_copies(reasons, segments, measured)
    audited = tuple(
        AuditedClip(values, segment, one, expect, deviation, tuple(why), alignment)
        for (values, segment), one, expect, deviation, why, alignment in zip(
            lines, measured, expected, deviations, reasons, alignments, strict=True
        )
    )
    every = [*findings, *_summarized(audited), *_few_clips(duration_models)]
    order = ("error", "warning", "note")
    every.sort(key=lambda finding: order.index(finding.severity))
    return AuditReport(Path(manifest), audited, tuple(every), duration_models, effort, limits)


def _speech_seconds(one: Measured, limits: Limits) -> float | None:
    """Seconds of a clip without the silence at its ends; None where there is no speech."""
    signal = one.signal
    if signal is None or signal.speech_db < limits.silent_db or signal.seconds < limits.shortest:
        return None
    return signal.seconds - signal.lead - signal.tail


def _duration_models(
    segments: Sequence[Segment], speech: Sequence[float | None], phones: Sequence[PhoneCounts]
) -> dict[str, DurationModel]:
    """The speech rate of each reciter; for reciters with few clips, that of all clips together."""
    clips: dict[str, list[tuple[PhoneCounts, float]]] = defaultdict(list)
    for segment, seconds, counts in zip(segments, speech, phones, strict=True):
        if seconds is not None:
            clips[segment.reciter].append((counts, seconds))
    together: DurationModel | None = None
    duration_models = {}
    for reciter, pairs in clips.items():
        if len(pairs) >= FEWEST:
            duration_models[reciter] = fit_duration_model(*zip(*pairs, strict=True))
        else:
            if together is None:
                fitted = fit_duration_model(
                    *zip(*(pair for one in clips.values() for pair in one), strict=True)
                )
                together = DurationModel(fitted.seconds, fitted.scatter, fitted.clips, own=False)
            duration_models[reciter] = together
    return duration_models


def _judge_numbering(
    reasons: list[list[Reason]],
    clips: Sequence[int],
    segments: Sequence[Segment],
    speech: Sequence[float | None],
    duration_model: DurationModel,
) -> None:
    verses = [
        RecitedVerse(clip, segments[clip].verses[0], seconds)
        for clip in clips
        if (seconds := speech[clip]) is not None and len(segments[clip].verses) == 1
    ]
    for shift in find_shifted(verses, duration_model):
        beside = "after" if shift.by > 0 else "before"
        message = (
            f"{shift.first} to {shift.last} fit the verse {beside} each better "
            f"(evidence {shift.evidence:.0f} nats)"
        )
        for clip in shift.clips:
            reasons[clip].append(Reason("shifted-numbering", message, shift.evidence))


def _judge_copies(
    reasons: list[list[Reason]], segments: Sequence[Segment], measured: Sequence[Measured]
) -> None:
    """Reject copies: all but the first if the words are equal; all of them if words or reciters differ."""
    same: set[tuple[int, int]] = set()
    first_of: dict[str, int] = {}
    for clip, one in enumerate(measured):
        if one.signal and one.signal.level_db > -90 and one.digest:
            first = first_of.setdefault(one.digest, clip)
            if first != clip:
                same.add((first, clip))
    parts: list[tuple[int, int]] = []
    for copy in find_copies([one.fingerprint for one in measured]):
        if copy.overlap_of_longer >= _SAME_AUDIO:
            same.add((copy.first, copy.second))
        elif copy.overlap >= _SAME_AUDIO:
            shorter = min((copy.second, copy.first), key=lambda clip: measured[clip].fingerprint.length)
            parts.append((shorter, copy.first if shorter == copy.second else copy.second))

    def add(clip: int, code: str, other: int) -> None:
        if all(reason.code != code for reason in reasons[clip]):
            verses = ", ".join(map(str, segments[other].verses[:3]))
            who = " ".join(filter(None, [segments[other].reciter, verses]))
            reasons[clip].append(Reason(code, f"of {who or segments[other].audio} ({segments[other].audio})"))

    for first, second in sorted(same):
        alike = segments[first].text == segments[second].text
        if alike and segments[first].reciter == segments[second].reciter:
            add(second, "duplicate", first)
        else:
            add(first, "duplicate-conflict", second)
            add(second, "duplicate-conflict", first)
    for part, whole in parts:
        add(part, "contained", whole)


def _summarized(clips: Sequence[AuditedClip]) -> list[Finding]:
    """One finding for each reason, which names the most extreme clips."""
    found = []
    for code, kind in REASONS.items():
        those = [
            (one, next(reason for reason in one.reasons if reason.code == code))
            for one in clips
            if any(reason.code == code for reason in one.reasons)
        ]
        if those:
            those.sort(key=lambda pair: -_excess(pair[1]))
            # a run of shifted verses is listed once
            first = {(one.segment.reciter, reason.detail): one.name for one, reason in reversed(those)}
            names = [f"{name}: {detail}" for (_, detail), name in reversed(first.items())]
            named = "; ".join(names[:_NAMED])
            more = f"; {len(names) - _NAMED} more" if len(names) > _NAMED else ""
            done = "rejected" if kind.action == "reject" else "kept"
            message = f"{counted(len(those), 'clip')} {done}: {kind.meaning} ({named}{more})"
            found.append(Finding(kind.severity, code, "", message, kind.remedy))
    return found


def _excess(reason: Reason) -> float:
    """How far a value is beyond its limit, for the order in which clips are named."""
    if reason.value is None or not reason.limit:
        return 0.0
    return float(abs(np.log(max(abs(reason.value), 1e-6) / abs(reason.limit))))


def _few_clips(duration_models: Mapping[str, DurationModel]) -> list[Finding]:
    few = sorted(
        reciter or "(no name)"
        for reciter, duration_model in duration_models.items()
        if not duration_model.own
    )
    if not few:
        return []
    message = (
        f"{counted(len(few), 'reciter')} {'has' if len(few) == 1 else 'have'} fewer than {FEWEST} clips "
        f"({', '.join(few[:5])}{', ...' if few[5:] else ''}): "
        "their durations are judged by all clips together, which finds less"
    )
    return [Finding("note", "few-clips", "", message, "")]


def write_audit(report: AuditReport, to: str | Path) -> list[Path]:
    """Write `clean.jsonl`, `rejects.jsonl` and `audit.jsonl` into a folder, each atomically.

    Lines keep all their keys; rejects get one more, `audit`, with the reasons.

    Returns:
        The replaced files of an earlier audit.

    Raises:
        QuranAsrError: one of the files would replace the audited manifest, or a file that no audit wrote.
        OSError: the folder cannot be written.
    """
    folder = Path(to)
    clean, rejects, measurements = (folder / name for name in ("clean.jsonl", "rejects.jsonl", "audit.jsonl"))
    replaced = [path for path in (clean, rejects, measurements) if path.exists()]
    for path in replaced:
        if path.resolve() == report.manifest.resolve() or not _is_of_an_audit(path):
            raise QuranAsrError(
                "this file is there and no audit wrote it",
                where=str(path),
                remedy="write elsewhere with --to FOLDER",
            )
    meta = {
        "made_by": "corpus audit",
        "from": report.manifest.name,
        "limits": asdict(report.limits),
        "reasons": report.reasons,
    }
    write_atomically(measurements, "".join(json_line(clip_to_json(one)) for one in report.clips).encode())
    write_json(sidecar_of(measurements), meta)
    write_manifest(
        rejects,
        [{**one.line, "audit": {"reasons": reasons_to_json(one)}} for one in report.rejects],
        {**meta, "split": "rejects"},
    )
    write_manifest(clean, [one.line for one in report.clean], {**meta, "split": "clean"})
    return replaced


def _is_of_an_audit(path: Path) -> bool:
    try:
        sidecar = parse_json(sidecar_of(path).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(sidecar, dict) and sidecar.get("made_by") == "corpus audit"


def reasons_to_json(one: AuditedClip) -> list[dict[str, Any]]:
    return [
        {
            "code": reason.code,
            "action": reason.action,
            "detail": reason.detail,
            "value": None if reason.value is None else round(reason.value, 4),
            "limit": None if reason.limit is None else round(reason.limit, 4),
        }
        for reason in one.reasons
    ]


def clip_to_json(one: AuditedClip) -> dict[str, Any]:
    """One line of `audit.jsonl`."""
    signal = one.measured.signal
    return {
        "audio_filepath": one.segment.audio,
        "offset": one.segment.offset,
        "reciter": one.segment.reciter,
        "verses": [str(ref) for ref in one.segment.verses],
        "verdict": "keep" if one.kept else "reject",
        "reasons": reasons_to_json(one),
        "error": one.measured.error,
        "rate": one.measured.rate,
        "channels": one.measured.channels,
        "format": one.measured.format,
        "file_seconds": round(one.measured.file_seconds, 3),
        "letters_per_second": _letters_per_second(one),
        "expected_seconds": None if one.expected is None else round(one.expected, 3),
        "speech_rate_deviation": None if one.deviation is None else round(one.deviation, 2),
        "alignment": None
        if one.alignment is None
        else {key: round(value, 3) for key, value in asdict(one.alignment).items()},
        "signal": None if signal is None else {key: round(value, 4) for key, value in asdict(signal).items()},
    }


def _letters_per_second(one: AuditedClip) -> float | None:
    if one.measured.signal is None:
        return None
    return round(len(one.segment.text.replace(" ", "")) / one.measured.signal.seconds, 3)
