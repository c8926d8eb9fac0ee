"""When an utterance is over: no token for a while, and where the loudness is known, silence as well.

Reciters breathe between verses; then the words so far are final and the search starts anew. But they also
hold vowels (madd) for two seconds and more, in which no token comes although the word goes on: so a frame may
be the last of an utterance only where the sound itself is silent.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

SILENCE_DB = -32.0
"""A frame this far below the level of the speech is silence."""
SILENCE_DBFS = -70.0
"""And below this level it is silence whatever the speech is like."""
FALL_DB = 1.0
"""How much the level of the speech falls in a second in which only softer speech is heard."""
QUIET_SECONDS = 0.3
"""How long it must be silent at the end; the closure of a stop or of a doubled letter is shorter."""


def frames_of(pause_seconds: float, frame_seconds: float) -> int:
    """A pause in whole frames, rounded up, at least 1."""
    return max(1, math.ceil(pause_seconds / frame_seconds - 1e-9))


@dataclass(frozen=True, slots=True)
class Loudness:
    """What silence is measured against, carried from one piece of a stream into the next."""

    speech_db: float = -math.inf
    """Level of the speech so far, dB against full scale."""
    quiet: int = 0
    """Frames of silence up to now."""


def may_end(
    levels_db: Sequence[float] | NDArray[np.floating], loudness: Loudness, frame_seconds: float
) -> tuple[NDArray[np.bool_], Loudness]:
    """After which frames of a piece the sound allows an utterance to end, and the loudness after the piece.

    Args:
        levels_db: [n] root mean square of each frame's samples, dB against full scale; -inf for none.
        loudness: after the piece before; `Loudness()` at first.
        frame_seconds: seconds of a frame.
    """
    needed = frames_of(QUIET_SECONDS, frame_seconds)
    speech, quiet = loudness.speech_db, loudness.quiet
    allowed = np.zeros(len(levels_db), np.bool_)
    for frame, level in enumerate(np.asarray(levels_db, np.float64).tolist()):
        if level < max(speech + SILENCE_DB, SILENCE_DBFS):
            quiet += 1
        else:
            quiet = 0
            speech = max(level, speech - FALL_DB * frame_seconds)
        allowed[frame] = quiet >= needed
    return allowed, Loudness(speech, quiet)


@dataclass(frozen=True, slots=True)
class Pause:
    """The rule for one piece of one stream, frames counted from the beginning of the stream.

    An utterance is over after the first frame with which `patience` frames have passed since its last
    speech, that speech's own frame counted, if the sound allows it there.
    """

    patience: int
    allowed: NDArray[np.bool_] | None = None
    """[n], as `may_end` gives it; None: after any frame."""

    def over(self, place: int, frame: int, last: int | None) -> bool:
        """Is the utterance over after the frame at `place` of the piece, `frame` of the stream?

        Args:
            place: where the frame stands in the piece.
            frame: where it stands in the stream.
            last: frame of the stream with the utterance's last speech; None before its first.
        """
        waited = last is not None and frame + 1 - last >= self.patience
        return waited and (self.allowed is None or bool(self.allowed[place]))
