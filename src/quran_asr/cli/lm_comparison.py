"""`quran-asr evaluate --planted-errors`: what a language model gives, and what it hides."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from quran_asr.cli.output import echo, print_table, progress_bar
from quran_asr.errors import QuranAsrError

if TYPE_CHECKING:
    from quran_asr.decoding.decoder import EncoderOutput
    from quran_asr.evaluation.planted_errors import AlignedClip, Tally
    from quran_asr.evaluation.report import Report, ScoredClip, Setting
    from quran_asr.records import Segment
    from quran_asr.runtime.recognizer import Recognizer


@dataclass(frozen=True, slots=True)
class Comparison:
    """A recognizer without and with its language model, on the same clips."""

    without: Report
    fused: Report
    fused_clips: list[ScoredClip]
    planted: int
    """Recordings with an error."""
    recognizable: dict[str, tuple[Tally, Tally]]
    """Kind -> outcomes without and with, of the errors whose words are recognized in the unedited clips."""
    nearer: dict[str, tuple[Tally, Tally]]
    """Of all errors: to what the hypothesis as a whole is nearer, the recited words or the Quran's."""

    def to_json(self) -> dict[str, Any]:
        from quran_asr.evaluation.planted_errors import to_json

        def both(tallies: dict[str, tuple[Tally, Tally]]) -> dict[str, Any]:
            return {
                "without": to_json({kind: one for kind, (one, _) in tallies.items()}),
                "with": to_json({kind: one for kind, (_, one) in tallies.items()}),
            }

        return {
            **asdict(self.fused.setting),
            "without": {"wer": self.without.whole.spelled.words.rate, **_counts(self.without)},
            "with": {"wer": self.fused.whole.spelled.words.rate, **_counts(self.fused)},
            "planted_errors": self.planted,
            "recognizable": both(self.recognizable),
            "nearer": both(self.nearer),
        }


def _counts(report: Report) -> dict[str, Any]:
    rates = report.whole.to_json()
    return {name: rates[name] for name in ("wer", "wer_interval", "cer", "cer_interval", "clips")}


def compare(recognizer: Recognizer, segments: Sequence[Segment], setting: Setting) -> Comparison:
    """Recognize clips, and recordings with planted errors made of them, without and with the language model.

    The decoder is the same without and with it. The encoder runs once for each recording.

    Raises:
        QuranAsrError: no clip can be read, or none is long enough for an error.
    """
    from quran_asr import audio
    from quran_asr.evaluation.evaluate import evaluate
    from quran_asr.evaluation.planted_errors import (
        CONTROL,
        by_kind,
        nearer,
        outcome,
        plant_errors,
        recognizable,
        recognized_words,
    )
    from quran_asr.records import Transcript
    from quran_asr.runtime.n_best import decode, encode, encode_samples

    fused = recognizer.decoding
    alone = replace(fused, fusion=None)
    pieces: list[EncoderOutput | QuranAsrError] = []
    with progress_bar("encoding", "clips") as on_progress:
        for done, segment in enumerate(segments, start=1):
            try:
                pieces.append(encode(recognizer, segment))
            except QuranAsrError as error:
                pieces.append(error)
            on_progress(done, len(segments))
    readable = [piece for piece in pieces if not isinstance(piece, QuranAsrError)]
    reports, hypotheses = [], []
    for decoding in (alone, fused):
        texts = list(decode(recognizer, readable, decoding))
        left = iter(texts)
        answers = [p if isinstance(p, QuranAsrError) else Transcript(next(left)) for p in pieces]
        used = setting if decoding is fused else replace(setting, language_model=None)
        reports.append(evaluate(segments, lambda _, answers=answers: answers, used))  # type: ignore[misc]
        hypotheses.append(texts)

    clips: list[AlignedClip] = []
    recognized = []
    heads = [one for one, piece in zip(segments, pieces, strict=True) if not isinstance(piece, QuranAsrError)]
    with progress_bar("aligning", "clips") as on_progress:
        for done, (segment, piece, text) in enumerate(zip(heads, readable, hypotheses[0], strict=True), 1):
            if (clip := _aligned(recognizer, segment, piece)) is not None:
                clips.append(clip)
                recognized.append(recognized_words(clip, text))
            on_progress(done, len(heads))

    def read(segment: Segment) -> Any:
        return audio.read(segment.audio, segment.offset, segment.duration or None)

    planted, encoded = [], []
    with progress_bar("recognizing planted errors", "recordings") as on_progress:
        for one in plant_errors(clips, read):
            encoded.append(encode_samples(recognizer, one.samples, one.segment.place))
            planted.append(replace(one, samples=one.samples[:0]))  # the audio is not needed again
            on_progress(len(planted), 4 * len(clips))
    if not planted:
        raise QuranAsrError(
            "no clip is long enough for a planted error",
            where=setting.manifest,
            remedy="name a manifest of whole verses with `verses`, some of them of four words or more",
        )
    texts_of_planted = [list(decode(recognizer, encoded, decoding)) for decoding in (alone, fused)]
    errors = [one.kind != CONTROL for one in planted]
    tallies = []
    for judge, chosen in (
        (outcome, [recognizable(one, recognized) for one in planted]),
        (nearer, errors),
    ):
        without, with_model = (
            by_kind(planted, [judge(one, text) for one, text in zip(planted, texts, strict=True)], chosen)
            for texts in texts_of_planted
        )
        tallies.append({kind: (without[kind], with_model[kind]) for kind in without})
    return Comparison(reports[0][0], *reports[1], sum(errors), *tallies)


def _aligned(recognizer: Recognizer, segment: Segment, piece: EncoderOutput) -> AlignedClip | None:
    """The times of a clip's words; None where they are not recited once, in order and as a whole."""
    from quran_asr.evaluation.planted_errors import AlignedClip
    from quran_asr.runtime.alignment import align_scores, search_graph

    if not segment.verses:
        return None
    graph = search_graph(recognizer, segment.verses)
    found = align_scores(graph, [piece.ctc], recognizer.bundle.frame_seconds, follow_place=False)
    words = tuple(word for one in found.segments if one.verses for word in one.words)
    if " ".join(word.text for word in words) != segment.text:
        return None
    return AlignedClip(segment, words)


def print_comparison(comparison: Comparison) -> None:
    """Error rates and planted errors without and with the language model, in percent."""
    rows: list[tuple[object, ...]] = []
    for name, report in (("without", comparison.without), ("with", comparison.fused)):
        rates = report.whole.spelled
        errors = _percent(rates.words.rate), _percent(rates.characters.rate)
        rows.append((name, report.setting.decoder, *errors))
    print_table(("language model", "decoder", "WER %", "CER %"), rows)
    echo()
    echo(f"{comparison.planted:,} recordings with a planted error. Of those whose words are recognized in")
    echo("the unedited clips without a language model, what is recognized at the error, in percent:")
    _print_tallies(comparison.recognizable)
    echo()
    echo("Of all of them, to what the hypothesis as a whole is nearer, by its letters, in percent:")
    _print_tallies(comparison.nearer)


def _print_tallies(tallies: dict[str, tuple[Tally, Tally]]) -> None:
    print_table(
        ("", "recordings", "as recited", "corrected", "with LM: as recited", "corrected"),
        [
            (kind, without.errors, *_shares(without), *_shares(fused))
            for kind, (without, fused) in tallies.items()
            if without.errors
        ],
    )


def _shares(tally: Tally) -> tuple[float, float]:
    errors = max(1, tally.errors)
    return _percent(tally.as_recited / errors), _percent(tally.corrected / errors)


def _percent(rate: float) -> float:
    return round(100 * rate, 1)
