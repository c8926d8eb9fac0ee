"""Fair scheduling: whose audio is processed next when more arrives than the processors can follow."""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import itertools
import time
from collections.abc import AsyncIterator

MOST_CREDIT_SECONDS = 5.0
"""Most seconds behind real time that count in favor of a session. One that was silent for long has no claim
to all of that time at once."""


class Schedule:
    """How far a session is ahead of real time: its audio minus the time since it began."""

    def __init__(self) -> None:
        self._begun = time.monotonic()

    def ahead(self, followed: float) -> float:
        """Seconds, negative if the session is behind.

        Args:
            followed: seconds of audio so far.
        """
        now = time.monotonic()
        self._begun = max(self._begun, now - followed - MOST_CREDIT_SECONDS)
        return followed - (now - self._begun)


class Turns:
    """A number of workers. Sessions that wait get one in order of how far they are ahead of real time.

    A reciter in real time is never ahead, and has priority over recordings and floods, which arrive faster
    and get the remaining time. Turns have to be short: a turn that has begun is not interrupted.
    """

    def __init__(self, places: int) -> None:
        self._free = places
        self._waiting: list[tuple[float, int, asyncio.Future[None]]] = []
        self._numbers = itertools.count()

    @contextlib.asynccontextmanager
    async def turn(self, ahead: float) -> AsyncIterator[None]:
        """Wait for a worker, and hold it.

        Args:
            ahead: seconds that the session is ahead of real time; the smallest value is served first.
        """
        if self._free:
            self._free -= 1
        else:
            place = asyncio.get_running_loop().create_future()
            heapq.heappush(self._waiting, (ahead, next(self._numbers), place))
            try:
                await place
            except asyncio.CancelledError:
                if place.done() and not place.cancelled():  # it was given the worker and cannot use it
                    self._pass_on()
                raise
        try:
            yield
        finally:
            self._pass_on()

    def _pass_on(self) -> None:
        while self._waiting:
            *_, place = heapq.heappop(self._waiting)
            if not place.done():
                place.set_result(None)
                return
        self._free += 1
