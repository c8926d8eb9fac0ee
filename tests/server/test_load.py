"""Many clients at once on a real socket, half of them broken: the others notice nothing."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("uvicorn", reason="needs the extra `serve`")
pytest.importorskip("websockets", reason="needs the extra `serve`")

import websockets

from quran_asr.runtime.recognizer import load
from quran_asr.server.service import Service
from quran_asr.server.session import Limits

sys.path.insert(0, str(Path(__file__).parent))
from conftest import running

START = '{"type": "start"}'
STOP = '{"type": "stop"}'
CLIENTS = 50


async def honest(port: int, pcm: bytes) -> list[str]:
    """All messages of a session that goes as it should, but for those that may change."""
    async with websockets.connect(f"ws://127.0.0.1:{port}/session", ping_interval=None) as socket:
        await socket.send(START)
        for at in range(0, len(pcm), 3200):
            await socket.send(pcm[at : at + 3200])
        await socket.send(STOP)
        answers = [str(answer) async for answer in socket]
    return [answer for answer in answers if json.loads(answer)["type"] != "position"]


async def flood(port: int, pcm: bytes) -> None:
    """Sends for as long as anybody takes it, and reads nothing."""
    async with websockets.connect(f"ws://127.0.0.1:{port}/session", ping_interval=None) as socket:
        await socket.send(START)
        with pytest.raises((TimeoutError, websockets.ConnectionClosed)):
            async with asyncio.timeout(3):
                while True:
                    await socket.send(os.urandom(60_000))


async def vanish(port: int, pcm: bytes) -> None:
    """Ends in the middle of a session without a word."""
    async with websockets.connect(f"ws://127.0.0.1:{port}/session", ping_interval=None) as socket:
        await socket.send(START)
        await socket.send(pcm[:32_000])
        socket.transport.abort()


async def talk_nonsense(port: int, pcm: bytes) -> None:
    async with websockets.connect(f"ws://127.0.0.1:{port}/session", ping_interval=None) as socket:
        await socket.send("{" * 1000)
        assert json.loads(await socket.recv())["type"] == "error"


async def send_half_samples(port: int, pcm: bytes) -> None:
    async with websockets.connect(f"ws://127.0.0.1:{port}/session", ping_interval=None) as socket:
        await socket.send(START)
        await socket.send(pcm[:3201])
        assert json.loads(await socket.recv())["type"] == "ready"
        assert json.loads(await socket.recv())["type"] == "error"


async def tear_a_frame(port: int, pcm: bytes) -> None:
    """A websocket frame that says 60,000 bytes and ends after ten."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(
        b"GET /session HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n" % port
    )
    await reader.readuntil(b"\r\n\r\n")
    writer.write(b"\x82\xfe\xea\x60" + b"\0" * 10)
    await writer.drain()
    writer.get_extra_info("socket").shutdown(socket.SHUT_RDWR)
    writer.close()


BROKEN: tuple[Callable[[int, bytes], Awaitable[None]], ...] = (
    flood,
    vanish,
    talk_nonsense,
    send_half_samples,
    tear_a_frame,
)


@pytest.mark.slow
def test_half_of_fifty_clients_are_broken_and_the_others_notice_nothing(
    small_bundle: Path, voice: np.ndarray
) -> None:
    recognizer = load(small_bundle, decoder="ctc", look_ahead_ms=480, threads=1)
    service = Service(recognizer, Limits(sessions=2 * CLIENTS, silence_seconds=120))
    pcm = (voice[:32_000] * 32_767).astype("<i2").tobytes()

    async def everybody(port: int) -> list[list[str]]:
        alone = await honest(port, pcm)
        good = [honest(port, pcm) for _ in range(CLIENTS // 2)]
        bad = [BROKEN[number % len(BROKEN)](port, pcm) for number in range(CLIENTS // 2)]
        found = await asyncio.gather(*good, *bad)
        return [alone, *(one for one in found if one is not None)]

    with running(service) as port:
        alone, *others = asyncio.run(everybody(port))
        assert json.loads(alone[-1]) == {"type": "end", "seconds": 2.0, "reason": "stop"}
        assert len(others) == CLIENTS // 2
        assert all(other == alone for other in others)
        again = asyncio.run(honest(port, pcm))
    assert again == alone
    assert service.open == 0
