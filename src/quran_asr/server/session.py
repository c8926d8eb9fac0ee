"""A session: samples in, messages out. No socket."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from quran_asr.errors import QuranAsrError
from quran_asr.runtime.following import Follower
from quran_asr.runtime.recognizer import Recognizer
from quran_asr.server.protocol import VERSION, End, Message, Ready, Start

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of each client and of all clients together."""

    sessions: int = 20
    """At once."""
    seconds: float = 4 * 3600.0
    """Seconds of audio in one session, and of wall-clock time from its first message to its last."""
    message_bytes: int = 64 * 1024
    silence_seconds: float = 30.0
    """Seconds without a message from the client, or with one that it does not accept, after which a session
    ends."""
    uploads: int = 2
    """Uploaded recordings processed at once."""
    upload_bytes: int = 256 * 1024 * 1024
    """Size limit of one uploaded recording."""
    upload_seconds: float = 600.0
    """Time limit for one upload."""
    flag_below: float = 0.01
    """Confidence under which a final word counts as recognized differently."""


class Session:
    """One recitation that is followed. Not to be used from two threads at once."""

    def __init__(self, recognizer: Recognizer, start: Start, limits: Limits) -> None:
        """Raises QuranAsrError: there is no such word to start at."""
        self._recognizer = recognizer
        self._rate = start.rate
        self._limits = limits
        self._samples = 0
        self._follower = Follower(recognizer, start.at, where="the session")
        self.ended = False

    def parts(self, pcm: bytes, seconds: float) -> Iterator[NDArray[np.int16]]:
        """The samples of a message, in parts for `accept`; none after the session has ended.

        Args:
            pcm: 16-bit little-endian samples, mono.
            seconds: length of a part; the last may be shorter.

        Raises:
            QuranAsrError: half a sample, or more than a message may hold.
        """
        if len(pcm) > self._limits.message_bytes:
            raise QuranAsrError(
                f"a message holds {len(pcm):,} bytes; {self._limits.message_bytes:,} may come",
                remedy="send 100 ms of audio per message",
            )
        if len(pcm) % 2:
            raise QuranAsrError(
                f"a message of {len(pcm):,} bytes ends inside a 16-bit sample",
                remedy="send whole samples: an even number of bytes in each message",
            )
        samples = np.frombuffer(pcm, "<i2").astype(np.int16, copy=False)
        step = round(seconds * self._rate)
        for at in range(0, len(samples), step):
            if not self.ended:
                yield samples[at : at + step]

    @property
    def seconds(self) -> float:
        """Seconds of audio so far."""
        return self._samples / self._rate

    def ready(self) -> Ready:
        """The first message."""
        limits, ahead = self._limits, self._recognizer.look_ahead_ms or 0
        name = self._recognizer.bundle.name
        return Ready(VERSION, name, ahead, limits.seconds, limits.message_bytes, limits.flag_below)

    def accept(self, samples: NDArray[Any]) -> tuple[Message, ...]:
        """Follow more audio.

        Args:
            samples: int16 or float32 [samples], mono.

        Raises:
            QuranAsrError: a sample is not a number or far too large, or the session has ended.
        """
        if self.ended:
            raise QuranAsrError("the session has ended", remedy="begin a new one")
        self._samples += len(samples)
        messages = self._follower.accept(samples, self._rate)
        return (*messages, *self.finish("limit")) if self.seconds >= self._limits.seconds else messages

    def finish(self, reason: str = "stop") -> tuple[Message, ...]:
        """The recitation has ended: the last words, and `End`."""
        if self.ended:
            return ()
        self.ended = True
        return (*self._follower.finish(), End(self.seconds, reason))
