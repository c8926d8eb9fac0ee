"""Every limit of a real server on a real socket: what it refuses, and that it serves the next one."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("uvicorn", reason="needs the extra `serve`")
pytest.importorskip("websockets", reason="needs the extra `serve`")
pytest.importorskip("httpx", reason="sends the recordings")

import httpx
import websockets

from quran_asr import audio
from quran_asr.runtime.recognizer import load
from quran_asr.server.service import Service
from quran_asr.server.session import Limits

sys.path.insert(0, str(Path(__file__).parent))
from conftest import running

START = '{"type": "start"}'
STOP = '{"type": "stop"}'


@pytest.fixture(scope="module")
def server(small_bundle: Path) -> Iterator[tuple[Service, int]]:
    recognizer = load(small_bundle, decoder="ctc", look_ahead_ms=480, threads=1)
    service = Service(recognizer)
    with running(service) as port:
        yield service, port


@pytest.fixture
def port(server: tuple[Service, int]) -> Iterator[int]:
    service, port = server
    service.limits, service.token = Limits(), ""
    yield port
    until = time.monotonic() + 300
    while (service.open or service.uploads) and time.monotonic() < until:
        time.sleep(0.05)
    assert service.open == service.uploads == 0  # whatever happened, nothing is left


@pytest.fixture(scope="module")
def pcm(voice: np.ndarray) -> bytes:
    return (voice[:32_000] * 32_767).astype("<i2").tobytes()


@pytest.fixture(scope="module")
def recording(voice: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    file = tmp_path_factory.mktemp("recording") / "two-seconds.wav"
    audio.write(file, voice[:32_000])
    return file.read_bytes()


def talk(port: int, *messages: str | bytes, **headers: str) -> tuple[list[dict[str, Any]], int | None]:
    """Send all, and receive all until the server closes; its messages, and the code."""

    async def session() -> tuple[list[dict[str, Any]], int | None]:
        address = f"ws://127.0.0.1:{port}/session"
        async with websockets.connect(address, additional_headers=headers, max_size=None) as socket:
            answers: list[dict[str, Any]] = []
            try:
                for message in messages:
                    await socket.send(message)
                async for answer in socket:
                    answers.append(json.loads(answer))
            except websockets.ConnectionClosed:
                pass
            return answers, socket.close_code

    return asyncio.run(session())


def send(port: int, body: Any, address: str = "recording", **headers: str) -> Any:
    return httpx.post(f"http://127.0.0.1:{port}/{address}", content=body, headers=headers, timeout=300)


def lines(answer: Any) -> list[dict[str, Any]]:
    return [json.loads(line) for line in answer.text.splitlines()]


def test_a_message_larger_than_allowed_closes_the_connection(port: int) -> None:
    _, code = talk(port, START, b"\0" * (2 * 65_536))
    assert code == 1009


def test_a_session_longer_than_allowed_ends(
    server: tuple[Service, int], port: int, pcm: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In audio; the clock, which ends a session too, stands still: a busy machine would reach it first."""
    monkeypatch.setattr("quran_asr.server.app.time", SimpleNamespace(monotonic=lambda: 0.0))
    server[0].limits = Limits(seconds=1.0)
    answers, code = talk(port, START, pcm[:60_000])
    assert answers[-1] == {"type": "end", "seconds": 1.0, "reason": "limit"}
    assert code == 1000


def test_a_session_that_drips_ends_by_the_clock(server: tuple[Service, int], port: int, pcm: bytes) -> None:
    """A client that sends next to nothing would keep its place for ever."""
    server[0].limits = Limits(seconds=1.0)

    async def drip() -> dict[str, Any]:
        async with websockets.connect(f"ws://127.0.0.1:{port}/session") as socket:
            await socket.send(START)
            for _ in range(50):
                await socket.send(pcm[:2])
                await asyncio.sleep(0.1)
                if socket.close_code is not None:
                    break
            return [json.loads(answer) async for answer in socket][-1]

    last = asyncio.run(drip())
    assert (last["type"], last["reason"]) == ("end", "limit")
    assert last["seconds"] < 0.1


def test_no_more_sessions_than_allowed(server: tuple[Service, int], port: int) -> None:
    server[0].limits = Limits(sessions=1)

    async def two() -> dict[str, Any]:
        address = f"ws://127.0.0.1:{port}/session"
        async with websockets.connect(address) as first, websockets.connect(address) as second:
            await first.send(START)
            await first.recv()
            await second.send(START)
            return json.loads(await second.recv())

    assert asyncio.run(two())["what"] == "too many sessions are open"


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "https://127.0.0.1"])
def test_another_site_gets_no_session_and_follows_no_recording(
    port: int, origin: str, recording: bytes
) -> None:
    with pytest.raises(websockets.InvalidStatus) as refused:
        talk(port, START, origin=origin)
    assert refused.value.response.status_code == 403
    assert send(port, recording, origin=origin).status_code == 403


@pytest.mark.slow
def test_a_recording_is_followed_with_its_progress(port: int, recording: bytes, pcm: bytes) -> None:
    answer = send(port, recording)
    assert answer.headers["content-type"] == "application/x-ndjson"
    found = lines(answer)
    assert found[0]["type"] == "ready"
    assert found[-1] == {"type": "end", "seconds": 2.0, "reason": "stop"}
    progress = [one for one in found if one["type"] == "progress"]
    assert [one["seconds"] for one in progress] == sorted({one["seconds"] for one in progress})
    assert (progress[-1]["seconds"], progress[-1]["of"]) == (2.0, 2.0)
    spoken, _ = talk(port, START, pcm[:32_000], pcm[32_000:], STOP)
    assert [one for one in found if one["type"] == "words"] == [
        one for one in spoken if one["type"] == "words"
    ]


def test_a_recording_may_be_expected_at_a_word(port: int, recording: bytes) -> None:
    assert lines(send(port, recording, "recording?at=112:1"))[-1]["type"] == "end"
    assert send(port, recording, "recording?at=here").status_code == 400
    answer = send(port, recording, "recording?at=1:1:9")
    assert (answer.status_code, answer.json()["what"]) == (400, "there is no word 1:1:9")


def test_what_is_no_recording_is_refused(port: int, recording: bytes) -> None:
    for body in (b"", b"hello" * 1000, recording[:20]):
        answer = send(port, body)
        assert answer.status_code == 415
        assert answer.json()["type"] == "error"
        assert "/" not in answer.json()["what"]  # no path of the server


def test_a_form_is_told_how_to_send_the_recording(port: int, recording: bytes) -> None:
    place = f"http://127.0.0.1:{port}/recording"
    answer = httpx.post(place, files={"file": ("verse.wav", recording)}, timeout=30)
    assert answer.status_code == 415
    assert "--data-binary" in answer.json()["remedy"]


@pytest.mark.slow
def test_a_recording_larger_than_allowed_is_refused(
    server: tuple[Service, int], port: int, recording: bytes
) -> None:
    server[0].limits = Limits(upload_bytes=len(recording) - 1)
    assert send(port, recording).status_code == 413

    def unmeasured() -> Iterator[bytes]:
        for at in range(0, len(recording), 5000):
            yield recording[at : at + 5000]

    assert send(port, unmeasured()).status_code == 413
    server[0].limits = Limits(upload_bytes=len(recording))
    assert send(port, unmeasured()).status_code == 200


def test_a_recording_longer_than_allowed_is_refused(
    server: tuple[Service, int], port: int, recording: bytes
) -> None:
    server[0].limits = Limits(seconds=1.5)
    answer = send(port, recording)
    assert answer.status_code == 413
    assert "the recording lasts 2 s" in answer.json()["what"]


@pytest.mark.slow
def test_no_more_recordings_than_allowed_and_none_that_never_arrives(
    server: tuple[Service, int], port: int, recording: bytes
) -> None:
    server[0].limits = Limits(uploads=1, upload_seconds=5.0)

    async def two() -> tuple[bytes, int]:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        head = f"POST /recording HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Length: 9999\r\n\r\n"
        writer.write(head.encode() + b"RIFF")
        await writer.drain()
        async with asyncio.timeout(60):
            while not server[0].uploads:
                await asyncio.sleep(0.01)
        async with httpx.AsyncClient() as client:
            second = await client.post(f"http://127.0.0.1:{port}/recording", content=recording)
        answer = await asyncio.wait_for(reader.readline(), 60)
        writer.close()
        return answer, second.status_code

    first, second = asyncio.run(two())
    assert second == 503
    assert first.startswith(b"HTTP/1.1 408")


def test_a_client_that_goes_while_its_recording_is_followed_leaves_nothing(
    port: int, voice: np.ndarray, tmp_path: Path
) -> None:
    audio.write(tmp_path / "longer.wav", np.tile(voice[:32_000], 30))
    body = (tmp_path / "longer.wav").read_bytes()
    with httpx.stream("POST", f"http://127.0.0.1:{port}/recording", content=body) as answer:
        assert json.loads(next(answer.iter_lines()))["type"] == "ready"


@pytest.mark.slow
def test_beyond_this_machine_a_token_is_asked_for(
    server: tuple[Service, int], port: int, recording: bytes
) -> None:
    server[0].token = "secret"
    assert send(port, recording).status_code == 401
    assert send(port, recording, authorization="Bearer wrong").status_code == 401
    assert send(port, recording, authorization="Bearer secret").status_code == 200
    answers, code = talk(port, START)
    assert answers[-1]["what"] == "the token is wrong"
    assert code == 1008
    assert talk(port, '{"type": "start", "token": "secret"}', STOP)[1] == 1000


class SlowFollower:
    """Takes a tenth of real time, and leaves the processor alone."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        pass

    def accept(self, samples: np.ndarray, rate: int) -> tuple[()]:
        time.sleep(0.1 * len(samples) / rate)
        return ()

    def finish(self) -> tuple[()]:
        return ()


@pytest.mark.slow
@pytest.mark.alone
def test_a_live_session_keeps_up_beside_floods(
    server: tuple[Service, int], pcm: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Others send as fast as they are let; who sends in real time is answered as if alone."""
    monkeypatch.setattr("quran_asr.server.session.Follower", SlowFollower)

    async def live(port: int) -> float:
        async with websockets.connect(f"ws://127.0.0.1:{port}/session") as socket:
            await socket.send(START)
            await socket.recv()
            begun = time.monotonic()
            for at in range(0, len(pcm), 3200):
                await asyncio.sleep(max(0.0, begun + at / 32_000 - time.monotonic()))
                await socket.send(pcm[at : at + 3200])
            await socket.send(STOP)
            async for _ in socket:
                pass
            return time.monotonic() - begun

    async def flood(port: int) -> None:
        async with websockets.connect(f"ws://127.0.0.1:{port}/session", ping_interval=None) as socket:
            await socket.send(START)
            await socket.recv()
            with contextlib.suppress(websockets.ConnectionClosed):
                while True:
                    await socket.send(pcm[:60_000])

    async def everybody(port: int) -> float:
        floods = [asyncio.create_task(flood(port)) for _ in range(6)]
        await asyncio.sleep(0.5)  # their buffers are full
        took = await live(port)
        for task in floods:
            task.cancel()
        return took

    with running(Service(server[0].recognizer)) as port:
        took = asyncio.run(everybody(port))
    assert took < 7  # the recitation lasts two seconds; if each message came in turn it would take 20 seconds
