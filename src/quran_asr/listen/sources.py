"""Sound files heard from beginning to end without ever being whole in memory."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from quran_asr import audio
from quran_asr.findings import QuranAsrError
from quran_asr.listen.resampling import Resampler

if TYPE_CHECKING:
    from collections.abc import Iterator

    from quran_asr.records import Samples


def pieces_of(path: str | Path, seconds: float = 1.0) -> Iterator[Samples]:
    """A sound file piece by piece; joined, the pieces are what `audio.read` gives.

    Args:
        path: wav, flac, mp3, ogg or opus, any channels, 8 to 192 kHz.
        seconds: about the length of a piece: the filter for other rates works in blocks of its own.

    Yields:
        float32 [samples], mono at 16 kHz; none is empty.

    Raises:
        QuranAsrError: no sound file, or empty, or of an unusual rate, before the first piece; damaged,
            truncated, or with a sample that is no number, when the reading comes there.
    """
    resampler: Resampler | None = None
    given = 0
    for block, rate in audio.blocks(path, seconds):
        resampler = resampler or Resampler(rate, where=str(path))
        if len(piece := resampler.push(block)):
            given += len(piece)
            yield piece
    if resampler is None:  # `blocks` gives one or refuses the file
        return
    if len(piece := resampler.finish()):
        yield piece
    elif not given:
        raise QuranAsrError(f"too short: {resampler.heard} samples at {resampler.rate} Hz", where=str(path))
