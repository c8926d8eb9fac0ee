"""What is said of recordings that hold less than a model hears."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from quran_asr.findings import Finding, QuranAsrError

if TYPE_CHECKING:
    from quran_asr.records import Segment


def rates_of(segments: Sequence[Segment]) -> dict[str, int]:
    """Recording -> hertz as stored; those that cannot be read are for the hearing to name."""
    from quran_asr.audio import probe

    rates: dict[str, int] = {}
    for audio in dict.fromkeys(segment.audio for segment in segments):
        with suppress(QuranAsrError, OSError):
            rates[audio] = probe(audio).rate
    return rates


def low_rate_notes(rates: Mapping[str, int]) -> list[Finding]:
    """One note of all recordings that are stored at less than 16 kHz; none if none is.

    Args:
        rates: recording -> hertz as stored.
    """
    from quran_asr.records import SAMPLE_RATE

    low = [(audio, rate) for audio, rate in rates.items() if rate < SAMPLE_RATE]
    if not low:
        return []
    where, rate = low[0]
    stored = f"stored at {rate:,} Hz"
    if len(rates) > 1:
        which = "is" if len(low) == 1 else "are"
        stored = f"{len(low):,} of {len(rates):,} recordings {which} stored at less than {SAMPLE_RATE:,} Hz, "
        stored += f"the first {where} at {rate:,} Hz"
        where, rate = "", max(rate for _, rate in low)
    return [
        Finding(
            "note",
            "low-rate",
            where,
            f"{stored}: nothing above {rate // 2:,} Hz is in it, and a model trained at {SAMPLE_RATE:,} Hz "
            "may hear it worse",
            f"take a recording of {SAMPLE_RATE:,} Hz or more; converting this one adds nothing",
        )
    ]
