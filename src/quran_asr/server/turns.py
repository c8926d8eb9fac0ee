"""Whose audio is worked on next, where more comes in than the processors can follow."""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import itertools
import time
from collections.abc import AsyncIterator

MOST_CREDIT_SECONDS = 5.0
"""So far a session may fall behind the clock and still come first for it. One that was silent for long has no
claim to work for all that time at once."""


class Pace:
    """How far a session is ahead of the clock: its audio against the time since it began."""

    def __init__(self) -> None:
        self._begun = time.monotonic()

    def ahead(self, followed: float) -> float:
        """Seconds, negative where the session is behind.

        Args:
            followed: seconds of audio so far.
        """
        now = time.monotonic()
        self._begun = max(self._begun, now - followed - MOST_CREDIT_SECONDS)
        return followed - (now - self._begun)


class Turns:
    """A number of places to work at. Those who wait get them in order of how far they are ahead of the clock.

    Who recites in real time is never ahead, and comes before recordings and floods, which come faster and get
    what is left. Turns are to be short: a turn that has begun is not interrupted.
    """

    def __init__(self, places: int) -> None:
        self._free = places
        self._waiting: list[tuple[float, int, asyncio.Future[None]]] = []
        self._numbers = itertools.count()

    @contextlib.asynccontextmanager
    async def turn(self, ahead: float) -> AsyncIterator[None]:
        """Wait for a place, and hold it.

        Args:
            ahead: seconds that the session is ahead of the clock; the least comes first.
        """
        if self._free:
            self._free -= 1
        else:
            place = asyncio.get_running_loop().create_future()
            heapq.heappush(self._waiting, (ahead, next(self._numbers), place))
            try:
                await place
            except asyncio.CancelledError:
                if place.done() and not place.cancelled():  # it was given the place and cannot take it
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
