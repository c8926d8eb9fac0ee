"""A session: PCM in, messages out. No socket."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from quran_asr.errors import QuranAsrError
from quran_asr.runtime.following import Follower
from quran_asr.runtime.recognizer import Recognizer
from quran_asr.server.protocol import VERSION, End, Message, Ready, Start


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of each client and of all clients together."""

    sessions: int = 20
    """At once."""
    seconds: float = 4 * 3600.0
    """Seconds of audio in one session."""
    message_bytes: int = 64 * 1024
    silence_seconds: float = 30.0
    """Seconds without a message from the client, or with one that it does not accept, after which a session
    ends."""
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

    @property
    def seconds(self) -> float:
        """Seconds of audio so far."""
        return self._samples / self._rate

    def ready(self) -> Ready:
        """The first message."""
        limits, ahead = self._limits, self._recognizer.look_ahead_ms or 0
        name = self._recognizer.bundle.name
        return Ready(VERSION, name, ahead, limits.seconds, limits.message_bytes, limits.flag_below)

    def accept(self, pcm: bytes) -> tuple[Message, ...]:
        """Process more audio: 16-bit little-endian mono samples.

        Raises:
            QuranAsrError: half a sample, a message over the size limit, or the session has ended.
        """
        if self.ended:
            raise QuranAsrError("the session has ended", remedy="begin a new one")
        if len(pcm) > self._limits.message_bytes:
            raise QuranAsrError(
                f"a message holds {len(pcm):,} bytes; {self._limits.message_bytes:,} may come"
            )
        if len(pcm) % 2:
            raise QuranAsrError(f"a message of {len(pcm):,} bytes ends inside a 16-bit sample")
        samples = np.frombuffer(pcm, "<i2").astype(np.int16, copy=False)
        self._samples += len(samples)
        messages = self._follower.accept(samples, self._rate)
        return (*messages, *self._finish("limit")) if self.seconds >= self._limits.seconds else messages

    def finish(self) -> tuple[Message, ...]:
        """The recitation has ended: the last words, and `End`."""
        return () if self.ended else self._finish("stop")

    def _finish(self, reason: str) -> tuple[Message, ...]:
        self.ended = True
        return (*self._follower.finish(), End(self.seconds, reason))
