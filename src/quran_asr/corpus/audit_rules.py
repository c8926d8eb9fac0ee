"""Limits and rejection reasons of an audit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from quran_asr.corpus.clip_alignment import EDGE_SHARE, ClipAlignment
from quran_asr.corpus.measurements import Measured
from quran_asr.errors import Severity

Action = Literal["reject", "warn"]


@dataclass(frozen=True, slots=True)
class Limits:
    """Thresholds of the reasons. Deviations are in robust standard deviations of the reciter."""

    shortest: float = 0.4
    """Seconds."""
    silent_db: float = -55.0
    """Speech level, dBFS, below which a clip has no speech."""
    silence_share: float = 0.33
    """Share of the clip in pauses."""
    pause: float = 4.0
    """Seconds of a pause within the clip."""
    ends: float = 1.0
    """Seconds of silence before or after; more is a warning."""
    clipped: float = 0.012
    """Share of samples at full scale."""
    clipped_warning: float = 0.003
    noise_db: float = 5.0
    """Estimated signal-to-noise ratio, dB, under which a clip is rejected."""
    hiss_db: float = -32.5
    """Steady noise above 5 kHz relative to the whole clip, dB, above which it is rejected too,"""
    hiss_noise_db: float = 15.0
    """if the signal-to-noise ratio is also below this."""
    too_slow: float = 4.0
    """Deviations of the duration above that expected from the words."""
    too_fast: float = 3.5
    """And below it: pauses and repeated words make clips longer, nothing makes a complete clip much
    shorter."""
    speech_rate_warning: float = 3.2
    cut_rate: float = 1.5
    """Deviations below the expected duration that, with an edge as loud as speech, indicate a cut."""
    cut_edge: float = 2.5
    """and deviations of the level of that edge above the reciter's usual one,"""
    cut_edge_db: float = -12.0
    """and its level relative to the speech, dB."""
    misfit: float = 2.5
    """Nats per token by which the alignment of a clip with its words scores below the reciter's median,"""
    edge_misfit: float = 4.0
    """and by which that of the words at one end does,"""
    short_edge_misfit: float = 1.25
    """or, if the clip is too short for its words,"""
    short_duration: float = 1.0
    """by at least this many deviations."""
    words_misfit: float = 1.25
    """Nats per token below the reciter's median that a misfit may score without the other speech in the clip
    for it to hold all its words and more,"""
    extra_share: float = 0.5
    """and share of what one end loses that this other speech must account for."""


LIMITS = Limits()
LEAST_USUAL = -2.0
"""Nats per token: replaces a lower median of a reciter, whose clips may all be wrong."""


@dataclass(frozen=True, slots=True)
class ReasonKind:
    """A reason for rejection or warning."""

    action: Action
    severity: Severity
    """Severity of the finding that summarizes all clips with this reason."""
    meaning: str
    remedy: str


REASONS: dict[str, ReasonKind] = {
    "missing": ReasonKind("reject", "error", "the recording does not exist", "correct the path"),
    "unreadable": ReasonKind("reject", "error", "the recording cannot be decoded", "obtain a new copy"),
    "past-the-end": ReasonKind(
        "reject",
        "error",
        "the line goes past the end of the recording",
        "correct `offset` and `duration`; if the recording should be longer, obtain a new copy",
    ),
    "too-short": ReasonKind("reject", "warning", "too short to hold words", ""),
    "silent": ReasonKind("reject", "warning", "no speech in it", ""),
    "silence": ReasonKind("reject", "warning", "much of it is silence", "cut it at the speech"),
    "noise": ReasonKind("reject", "warning", "loud steady noise", ""),
    "clipping": ReasonKind(
        "reject", "warning", "cut off at full scale", "get a quieter copy of the recording"
    ),
    "cut-off": ReasonKind(
        "reject", "warning", "begins or ends within a word", "cut it again from the recording"
    ),
    "too-fast": ReasonKind(
        "reject", "warning", "shorter than its words take this reciter", "listen: are all words recited?"
    ),
    "too-slow": ReasonKind(
        "reject",
        "warning",
        "longer than its words take this reciter",
        "listen: other words, or repeated ones?",
    ),
    "other-words": ReasonKind(
        "reject", "error", "its words are not recognized in it", "listen, and name it as it is recited"
    ),
    "extra-words": ReasonKind(
        "reject",
        "error",
        "more is recited in it than its words",
        "listen, and cut it at its words or name all that is recited",
    ),
    "words-missing": ReasonKind(
        "reject", "warning", "the words at an end are not recognized", "cut it again from the recording"
    ),
    "shifted-numbering": ReasonKind(
        "reject",
        "error",
        "a run of clips that fit the verses beside theirs",
        "listen to one, and rename the run",
    ),
    "duplicate": ReasonKind("reject", "warning", "the audio of another clip of the same words", ""),
    "duplicate-conflict": ReasonKind(
        "reject",
        "error",
        "the audio of another clip that has other words or another reciter",
        "listen, and keep the right one",
    ),
    "text-differs": ReasonKind(
        "reject", "error", "text and verses disagree", "correct the verses or leave the text out"
    ),
    "foreign-letters": ReasonKind("reject", "warning", "letters that are not Arabic", "correct the text"),
    "odd-characters": ReasonKind("warn", "note", "characters that the spelling leaves out", ""),
    "marks-differ": ReasonKind("warn", "note", "the verse with other marks", ""),
    "basmala-in-text": ReasonKind(
        "warn",
        "warning",
        "a basmala precedes the verse",
        "is it recited? then make it a clip of its own",
    ),
    "unusual-speech-rate": ReasonKind("warn", "note", "a length that is rare for this reciter", ""),
    "some-clipping": ReasonKind("warn", "note", "some samples at full scale", ""),
    "silent-ends": ReasonKind("warn", "note", "long silence at an end", ""),
    "contained": ReasonKind("warn", "warning", "its audio is a part of another clip", ""),
}
"""Code -> what it means."""


@dataclass(frozen=True, slots=True)
class Reason:
    """One problem of one clip."""

    code: str
    detail: str
    value: float | None = None
    limit: float | None = None

    @property
    def action(self) -> Action:
        return REASONS[self.code].action


@dataclass(frozen=True, slots=True)
class ReciterBaseline:
    """Usual values of a reciter: medians and robust deviations of the measurements judged by them."""

    start_db: tuple[float, float]
    end_db: tuple[float, float]


def baseline_of(measured: Sequence[Measured]) -> ReciterBaseline:
    """Medians and deviations over the clips of a reciter that can be read."""

    def robust(values: Sequence[float], least: float) -> tuple[float, float]:
        if not values:
            return 0.0, least
        middle = float(np.median(values))
        return middle, max(least, 1.4826 * float(np.median(np.abs(np.asarray(values) - middle))))

    signals = [one.signal for one in measured if one.signal]
    return ReciterBaseline(
        start_db=robust([one.start_db for one in signals], 3.0),
        end_db=robust([one.end_db for one in signals], 3.0),
    )


def judge_alignments(
    alignments: Sequence[ClipAlignment | None], deviations: Sequence[float | None], limits: Limits
) -> list[Reason | None]:
    """The reason that follows from the alignment of each clip with its words, if any; of one reciter.

    Args:
        alignments: of his clips.
        deviations: of their durations, see `DurationModel.deviation`; None where it is not known.
        limits: where a measurement becomes a reason.
    """
    known = [one for one in alignments if one is not None]
    if not known:
        return [None] * len(alignments)
    whole = max(LEAST_USUAL, float(np.median([one.score for one in known])))
    edge = max(LEAST_USUAL, float(np.median([(one.first, one.last) for one in known])))

    def judged(one: ClipAlignment, deviation: float | None) -> Reason | None:
        if one.score < whole - limits.misfit:
            message = f"{one.score:.1f} nats a token, usually {whole:.1f}"
            of_words = one.score + one.extra
            if of_words < whole - limits.words_misfit:
                return Reason("other-words", message, one.score, whole - limits.misfit)
            message += f", {of_words:.1f} without the other speech"
            return Reason("extra-words", message, one.score, whole - limits.misfit)
        is_short = deviation is not None and deviation < -limits.short_duration
        least = edge - (limits.short_edge_misfit if is_short else limits.edge_misfit)
        for end, score in (("beginning", one.first), ("end", one.last)):
            if score < least:
                message = f"{score:.1f} nats a token at the {end}, usually {edge:.1f}"
                if one.extra > limits.extra_share * EDGE_SHARE * (edge - score):
                    return Reason("extra-words", message, score, least)
                if is_short:
                    message += f", and {deviation:+.1f} deviations of the duration"
                return Reason("words-missing", message, score, least)
        return None

    return [
        None if one is None else judged(one, deviation)
        for one, deviation in zip(alignments, deviations, strict=True)
    ]


def judge_signal(
    one: Measured, baseline: ReciterBaseline, deviation: float | None, limits: Limits
) -> list[Reason]:
    """Reasons from the signal of a clip and from the expected duration of its words.

    Args:
        one: the clip.
        baseline: of its reciter.
        deviation: `DurationModel.deviation`; None where it could not be judged.
        limits: the thresholds.
    """
    signal = one.signal
    if signal is None:
        code = "missing" if one.missing else "past-the-end" if one.past_end else "unreadable"
        return [Reason(code, one.error)]
    if signal.seconds < limits.shortest:
        return [Reason("too-short", f"{signal.seconds:.2f} s", signal.seconds, limits.shortest)]
    if signal.speech_db < limits.silent_db:
        return [Reason("silent", f"{signal.speech_db:.0f} dBFS", signal.speech_db, limits.silent_db)]
    reasons = []
    if signal.silence_share > limits.silence_share:
        share = signal.silence_share
        reasons.append(Reason("silence", f"{share:.0%} of it", share, limits.silence_share))
    elif signal.longest_pause > limits.pause:
        pause = signal.longest_pause
        reasons.append(Reason("silence", f"a pause of {pause:.1f} s", pause, limits.pause))
    elif max(signal.lead, signal.tail) > limits.ends:
        ends = max(signal.lead, signal.tail)
        reasons.append(
            Reason("silent-ends", f"{signal.lead:.1f} s before, {signal.tail:.1f} s after", ends, limits.ends)
        )
    hissing = signal.hiss_db > limits.hiss_db and signal.snr_db < limits.hiss_noise_db
    if hissing or signal.snr_db < limits.noise_db:
        message = f"about {signal.snr_db:.0f} dB, hiss {signal.hiss_db:.0f} dB"
        limit = limits.hiss_noise_db if hissing else limits.noise_db
        reasons.append(Reason("noise", message, signal.snr_db, limit))
    if signal.clipped_share > limits.clipped:
        share = signal.clipped_share
        reasons.append(Reason("clipping", f"{share:.1%} of the samples", share, limits.clipped))
    elif signal.clipped_share > limits.clipped_warning:
        share = signal.clipped_share
        reasons.append(Reason("some-clipping", f"{share:.1%} of the samples", share, limits.clipped_warning))
    return reasons + (_judge_duration(one, baseline, deviation, limits) if deviation is not None else [])


def _judge_duration(
    one: Measured, baseline: ReciterBaseline, deviation: float, limits: Limits
) -> list[Reason]:
    assert one.signal is not None
    reasons = []
    if deviation < -limits.cut_rate:
        for edge, level, (middle, spread) in (
            ("begins", one.signal.start_db, baseline.start_db),
            ("ends", one.signal.end_db, baseline.end_db),
        ):
            if level > limits.cut_edge_db and level > middle + limits.cut_edge * spread:
                message = f"{edge} at {level:.0f} dB of the speech, usually {middle:.0f}"
                reasons.append(Reason("cut-off", message, level, middle + limits.cut_edge * spread))
    if deviation > limits.too_slow:
        reasons.append(Reason("too-slow", f"{deviation:+.1f} deviations", deviation, limits.too_slow))
    elif deviation < -limits.too_fast:
        reasons.append(Reason("too-fast", f"{deviation:+.1f} deviations", deviation, -limits.too_fast))
    elif abs(deviation) > limits.speech_rate_warning and not reasons:
        reasons.append(
            Reason(
                "unusual-speech-rate", f"{deviation:+.1f} deviations", deviation, limits.speech_rate_warning
            )
        )
    return reasons
