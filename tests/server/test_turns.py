"""Who is worked for next, where not all can be."""

from __future__ import annotations

import asyncio
import time

import pytest

from quran_asr.server.turns import MOST_CREDIT_SECONDS, Schedule, Turns


def test_the_one_furthest_behind_comes_first() -> None:
    async def everybody() -> list[float]:
        turns, served = Turns(1), []

        async def wait(ahead: float) -> None:
            async with turns.turn(ahead):
                served.append(ahead)

        async with turns.turn(0.0):
            waiting = [asyncio.create_task(wait(ahead)) for ahead in (30.0, -0.2, 5.0, -1.0)]
            await asyncio.sleep(0)
        await asyncio.gather(*waiting)
        return served

    assert asyncio.run(everybody()) == [-1.0, -0.2, 5.0, 30.0]


def test_who_leaves_the_queue_takes_no_place_with_him() -> None:
    async def everybody() -> int:
        turns, served = Turns(2), 0

        async def wait() -> None:
            nonlocal served
            async with turns.turn(0.0):
                served += 1
                await asyncio.sleep(0)

        async with turns.turn(0.0), turns.turn(0.0):
            waiting = [asyncio.create_task(wait()) for _ in range(10)]
            await asyncio.sleep(0)
            for task in waiting[::2]:
                task.cancel()
        waiting[1].cancel()  # it has been given a place, and has not taken it yet
        await asyncio.gather(*waiting, return_exceptions=True)
        async with asyncio.timeout(1), turns.turn(0.0), turns.turn(0.0):
            return served

    assert asyncio.run(everybody()) == 4


def test_a_session_that_was_silent_has_no_claim_to_all_that_time(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    pace = Schedule()
    now = 102.0
    assert pace.ahead(1.5) == -0.5
    assert pace.ahead(12.0) == 10.0
    now = 1000.0
    assert pace.ahead(12.0) == -MOST_CREDIT_SECONDS
    assert pace.ahead(20.0) == 8.0 - MOST_CREDIT_SECONDS
