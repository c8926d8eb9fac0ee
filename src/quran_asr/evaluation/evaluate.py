"""Transcribe every clip of a manifest and compute the report."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from quran_asr.corpus.manifest import find_line
from quran_asr.errors import Finding, QuranAsrError, counted
from quran_asr.evaluation.report import Report, ScoredClip, Setting, Unreadable, make_report
from quran_asr.evaluation.scoring import score_clips
from quran_asr.evaluation.training_data import TrainingData
from quran_asr.evaluation.transcripts import TRANSCRIPTS_NAME, write_transcripts
from quran_asr.files import write_atomically
from quran_asr.records import Segment, Transcript

Recognize = Callable[[Sequence[Segment]], Iterable[Transcript | QuranAsrError]]
"""Hears clips, batched as it likes, and gives one answer a clip in the order of the clips; an error in place
of a transcript where a clip cannot be heard."""

REPORT_NAME = "report.json"


def evaluate(
    segments: Sequence[Segment],
    recognize: Recognize,
    setting: Setting,
    training: TrainingData | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> tuple[Report, list[ScoredClip]]:
    """Hear the clips and score what was heard.

    Args:
        segments: the clips with what is said in them.
        recognize: what hears them.
        setting: what is measured, for the report; its spelling is the one that is counted in.
        training: what the model was trained on; None when nobody knows.
        on_progress: called with (clips heard, all clips).

    Returns:
        The report and every clip that was heard, in order. Clips that cannot be heard are listed in
        `report.unreadable` and are in no count.

    Raises:
        QuranAsrError: there is no clip, or not one of them can be heard.
        ValueError: `recognize` gave more or fewer answers than clips.
    """
    if not segments:
        raise QuranAsrError("there is no clip to hear", where=setting.manifest)
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
            f"not one of {len(segments)} clips can be heard; the first: {first.reason}",
            where=first.segment.audio,
        )
    scores = score_clips(
        [(segment.text, *segment.also_accept) for segment, _ in transcribed],
        [text for _, text in transcribed],
        setting.spelling,
    )
    clips = [ScoredClip(segment, score) for (segment, _), score in zip(transcribed, scores, strict=True)]
    return make_report(clips, setting, training, unreadable), clips


def unreadable_findings(report: Report) -> list[Finding]:
    """One error that counts the clips that could not be heard and names the first; none if all could.

    It is named by its line where the manifest can be read, else by its recording.
    """
    if not report.unreadable:
        return []
    first, manifest = report.unreadable[0], report.setting.manifest
    where = find_line([manifest], first.segment) if Path(manifest).is_file() else first.segment.place
    left_out = len(report.unreadable)
    verb = "is in no count:" if left_out == 1 else "are in no count; the first:"
    return [
        Finding(
            severity="error",
            code="unreadable-clips",
            where=where,
            message=f"{left_out:,} of {counted(report.whole.clips + left_out, 'clip')} could not be heard "
            f"and {verb} {first.reason}",
            remedy=f"mend or leave out what {REPORT_NAME} lists under `unreadable`",
        )
    ]


def write_report(folder: Path, report: Report, clips: Sequence[ScoredClip]) -> None:
    """Write `report.json` and, beside it, `transcripts.jsonl` with a line for each clip heard; atomically."""
    summary = json.dumps(report.to_json(), ensure_ascii=False, indent=2, allow_nan=False) + "\n"
    write_transcripts(folder / TRANSCRIPTS_NAME, clips)
    # A file name that is not UTF-8 is written as JSON writes it: nothing that was measured is lost for it.
    write_atomically(folder / REPORT_NAME, summary.encode(errors="backslashreplace"))
