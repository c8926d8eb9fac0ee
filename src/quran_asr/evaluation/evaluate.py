"""Transcribe every clip of a manifest and compute the report."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from quran_asr.corpus.manifest import MADE_BY, find_line
from quran_asr.errors import Finding, QuranAsrError, counted
from quran_asr.evaluation.report import Report, ScoredClip, Setting, Unreadable, make_report
from quran_asr.evaluation.scoring import score_clips
from quran_asr.evaluation.training_data import TrainingData
from quran_asr.evaluation.transcripts import TRANSCRIPTS_NAME, write_transcripts
from quran_asr.files import write_json
from quran_asr.records import Segment, Transcript

Recognize = Callable[[Sequence[Segment]], Iterable[Transcript | QuranAsrError]]
"""Recognizes clips, in batches of its choice, and gives one answer for each, in their order; an error instead
of a transcript if a clip cannot be read."""

REPORT_NAME = "report.json"


def evaluate(
    segments: Sequence[Segment],
    recognize: Recognize,
    setting: Setting,
    training: TrainingData | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> tuple[Report, list[ScoredClip]]:
    """Recognize the clips and score the hypotheses.

    Args:
        segments: the clips with their references.
        recognize: the recognizer.
        setting: what is measured, for the report; its spelling is the one that is counted in.
        training: what the model was trained on; None when nobody knows.
        on_progress: called with (clips done, all clips).

    Returns:
        The report and every scored clip, in order. Unreadable clips are listed in `report.unreadable` and
        excluded from all counts.

    Raises:
        QuranAsrError: there is no clip, or none of them can be read.
        ValueError: `recognize` gave more or fewer answers than clips.
    """
    if not segments:
        raise QuranAsrError("there are no clips", where=setting.manifest, remedy=MADE_BY)
    transcribed: list[tuple[Segment, str]] = []
    unreadable: list[Unreadable] = []
    for done, (segment, answer) in enumerate(zip(segments, recognize(segments), strict=True), start=1):
        if isinstance(answer, QuranAsrError):
            unreadable.append(Unreadable(segment, answer.what))
        else:
            transcribed.append((segment, answer.text))
        if on_progress is not None:
            on_progress(done, len(segments))
    if not transcribed:
        first = unreadable[0]
        raise QuranAsrError(
            f"none of {counted(len(segments), 'clip')} can be read; the first: {first.reason}",
            where=first.segment.audio,
            remedy="fix or replace the recordings: `quran-asr corpus audit MANIFEST` checks each",
        )
    scores = score_clips(
        [(segment.text, *segment.also_accept) for segment, _ in transcribed],
        [text for _, text in transcribed],
        setting.spelling,
    )
    clips = [ScoredClip(segment, score) for (segment, _), score in zip(transcribed, scores, strict=True)]
    return make_report(clips, setting, training, unreadable), clips


def unreadable_findings(report: Report) -> list[Finding]:
    """One error that counts the unreadable clips and names the first; none if all could be read.

    It is named by its line where the manifest can be read, else by its recording.
    """
    if not report.unreadable:
        return []
    first, manifest = report.unreadable[0], report.setting.manifest
    where = find_line([manifest], first.segment) if Path(manifest).is_file() else first.segment.place
    left_out = len(report.unreadable)
    verb = "is excluded:" if left_out == 1 else "are excluded; the first:"
    return [
        Finding(
            severity="error",
            code="unreadable-clips",
            where=where,
            message=f"{left_out:,} of {counted(report.whole.clips + left_out, 'clip')} could not be read "
            f"and {verb} {first.reason}",
            remedy=f"fix or remove what {REPORT_NAME} lists under `unreadable`",
        )
    ]


def write_report(folder: Path, report: Report, clips: Sequence[ScoredClip]) -> None:
    """Write `report.json` and `transcripts.jsonl`, which has a line for each scored clip; atomically."""
    write_transcripts(folder / TRANSCRIPTS_NAME, clips)
    write_json(folder / REPORT_NAME, report.to_json())
