"""State shared by all connections: the model, the limits, and the workers."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

import anyio.to_thread

from quran_asr.errors import QuranAsrError
from quran_asr.runtime.recognizer import Recognizer
from quran_asr.server.session import Limits
from quran_asr.server.turns import Schedule, Turns

TURN_SECONDS = 0.5
"""Seconds of audio that are processed before another session gets its turn."""

Result = TypeVar("Result")


@dataclass(slots=True)
class Service:
    """A model and its current use."""

    recognizer: Recognizer
    limits: Limits = field(default_factory=Limits)
    token: str = ""
    """Required of every session; empty: not required, and only names of this machine are accepted."""
    workers: int = 2
    """Threads that recognize."""
    open: int = 0
    """Sessions now."""
    uploads: int = 0
    """Recordings that are being received or followed."""
    _turns: Turns | None = None

    async def work(self, schedule: Schedule, followed: float, function: Callable[[], Result]) -> Result:
        """Call a function in a thread, when it is this session's turn.

        Args:
            schedule: of the session.
            followed: seconds of its audio so far.
            function: to be called.
        """
        if self._turns is None:
            self._turns = Turns(self.workers)
        async with self._turns.turn(schedule.ahead(followed)):
            return await anyio.to_thread.run_sync(function)

    def check_token(self, token: str) -> None:
        """Refuse another token than ours.

        Raises:
            QuranAsrError: it is wrong.
        """
        if self.token and not secrets.compare_digest(token.encode(), self.token.encode()):
            raise QuranAsrError(
                "the token is wrong", remedy="open the address that `quran-asr serve` printed last"
            )
