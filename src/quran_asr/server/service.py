"""What all connections share: the model, the limits, and the places to work at."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

import anyio.to_thread

from quran_asr.errors import QuranAsrError
from quran_asr.runtime.recognizer import Recognizer
from quran_asr.server.session import Limits
from quran_asr.server.turns import Pace, Turns

TURN_SECONDS = 0.5
"""Of audio that is worked on before another session may have its turn."""

Result = TypeVar("Result")


@dataclass(slots=True)
class Service:
    """A model and who uses it now."""

    recognizer: Recognizer
    limits: Limits = field(default_factory=Limits)
    token: str = ""
    """Asked of every session; empty: none is, and only names of this machine are answered."""
    workers: int = 2
    """Threads that recognize."""
    open: int = 0
    """Sessions now."""
    uploads: int = 0
    """Recordings now that are received or followed."""
    _turns: Turns | None = None

    async def work(self, pace: Pace, followed: float, function: Callable[[], Result]) -> Result:
        """Call a function in a thread, once it is this session's turn.

        Args:
            pace: of the session.
            followed: seconds of its audio so far.
            function: to be called.
        """
        if self._turns is None:
            self._turns = Turns(self.workers)
        async with self._turns.turn(pace.ahead(followed)):
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
