"""Endpoint detection: no token for a while, and silence where the signal level is known.

Reciters breathe between verses; then the words so far are final and the search restarts. But they also
hold vowels (madd) for two seconds and more, in which no token comes within a word: so a frame may
be the last of an utterance only where the audio itself is silent.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

SILENCE_DB = -20.0
"""A frame this far below the speech level is silence. Echo fills the pauses of many recordings: in 60
surahs (487 verses, 11 reciters) -32, -26 and -20 dB find 143, 180 and 239 pauses, and inside of 400 single
verses (5 reciters), where there should be none, 0, 1 and 3."""
FALL_DB = 1.0
"""dB per second by which the tracked speech level decays while the speech is softer."""
_TINY = np.finfo(np.float64).tiny
QUIET_SECONDS = 0.3
"""Seconds of silence that end an utterance; the closure of a stop or of a doubled letter is shorter."""


def frames_of(pause_seconds: float, frame_seconds: float) -> int:
    """A pause in whole frames, rounded up, at least 1."""
    return max(1, math.ceil(pause_seconds / frame_seconds - 1e-9))


@dataclass(frozen=True, slots=True)
class Loudness:
    """The reference level for silence, carried from one chunk of a stream to the next."""

    speech_db: float = -math.inf
    """Speech level so far."""
    quiet: int = 0
    """Frames of silence up to now."""


def levels(log_mel: NDArray[np.float32], subsampling: int) -> NDArray[np.float64]:
    """Level of each encoder frame in dB, [frames // subsampling], relative to an arbitrary reference.

    Args:
        log_mel: [frames, mels], natural log of the power, not normalized; an incomplete last group is
            ignored.
        subsampling: feature frames in an encoder frame.
    """
    whole = len(log_mel) // subsampling
    power = np.exp(log_mel[: whole * subsampling], dtype=np.float64)
    grouped = power.reshape(whole, subsampling * log_mel.shape[1]).mean(axis=1)
    return np.asarray(10 * np.log10(grouped + _TINY))


def may_end(
    levels_db: NDArray[np.float64], loudness: Loudness, frame_seconds: float
) -> tuple[NDArray[np.bool_], Loudness]:
    """After which frames of a chunk the audio allows an utterance to end, and the loudness after the chunk.

    Args:
        levels_db: [n], as `levels` gives them.
        loudness: after the previous chunk; `Loudness()` at first.
        frame_seconds: seconds of a frame.
    """
    needed = frames_of(QUIET_SECONDS, frame_seconds)
    speech, quiet = loudness.speech_db, loudness.quiet
    allowed = np.zeros(len(levels_db), np.bool_)
    for frame, level in enumerate(levels_db.tolist()):
        if level < speech + SILENCE_DB:
            quiet += 1
        else:
            quiet = 0
            speech = max(level, speech - FALL_DB * frame_seconds)
        allowed[frame] = quiet >= needed
    return allowed, Loudness(speech, quiet)


@dataclass(frozen=True, slots=True)
class Pause:
    """The rule for one chunk of one stream, frames counted from the beginning of the stream.

    An utterance is over after the first frame with which `patience` frames have passed since its last
    speech, that speech's own frame counted, if the audio allows it there.
    """

    patience: int
    allowed: NDArray[np.bool_] | None = None
    """[n], as `may_end` gives it; None: after any frame."""

    def over(self, place: int, frame: int, last: int | None) -> bool:
        """Whether the utterance is over after the frame at `place` of the chunk, `frame` of the stream.

        Args:
            place: of the frame in the chunk.
            frame: its number in the stream.
            last: frame of the stream with the utterance's last speech; None before its first.
        """
        waited = last is not None and frame + 1 - last >= self.patience
        return waited and (self.allowed is None or bool(self.allowed[place]))
