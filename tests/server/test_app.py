"""The server as its clients find it: pages, sessions, and what it refuses."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("starlette", reason="needs the extra `serve`")
pytest.importorskip("httpx", reason="Starlette's test client needs it")

from starlette.testclient import TestClient
from starlette.websockets import WebSocketDisconnect

from quran_asr.runtime.recognizer import load
from quran_asr.server.app import PAGE, build_app
from quran_asr.server.service import Service
from quran_asr.server.session import Limits
from quran_asr.text.quran import load_quran

HOME = "http://127.0.0.1:8765"
SESSION = "ws://127.0.0.1:8765/session"
FROM_ELSEWHERE = "ws://192.168.1.5:8765/session"
START = {"type": "start"}


@pytest.fixture(scope="module")
def service(small_bundle: Path) -> Service:
    recognizer = load(small_bundle, decoder="ctc", look_ahead_ms=480, threads=1)
    return Service(recognizer)


@pytest.fixture
def client(service: Service) -> Iterator[TestClient]:
    service.limits, service.token = Limits(), ""
    with TestClient(build_app(service), base_url=HOME) as client:
        yield client


def pcm(voice: np.ndarray, seconds: float) -> bytes:
    return (voice[: round(16_000 * seconds)] * 32_767).astype("<i2").tobytes()


def talk(
    client: TestClient, *messages: dict[str, Any] | bytes, address: str = SESSION
) -> list[dict[str, Any]]:
    """Send all, and hear all until the server closes."""
    answers = []
    with client.websocket_connect(address) as socket:
        for message in messages:
            if isinstance(message, bytes):
                socket.send_bytes(message)
            else:
                socket.send_text(json.dumps(message))
        try:
            while True:
                answers.append(json.loads(socket.receive_text()))
        except WebSocketDisconnect as closed:
            answers.append({"type": "closed", "code": closed.code})
    return answers


def test_the_page_needs_nothing_from_elsewhere(client: TestClient) -> None:
    for path, (_, kind) in PAGE.items():
        answer = client.get(path)
        assert answer.status_code == 200
        assert answer.headers["content-type"] == kind
        assert "default-src 'none'" in answer.headers["content-security-policy"]
    for path in ("/", "/page.js", "/page.css", "/microphone.js"):
        written = client.get(path).text
        sources = re.findall(r"""(?:src=|url\(|fetch\(|import\s)["'`]?https?:""", written)
        assert not sources


def test_only_the_page_is_served(client: TestClient) -> None:
    for path in ("/app.py", "/page/index.html", "/../pyproject.toml", "/%2e%2e/app.py", "/docs"):
        assert client.get(path).status_code == 404
    assert client.post("/").status_code == 405


def test_the_text_is_the_mushaf_word_by_word(client: TestClient) -> None:
    surahs = client.get("/text").json()
    assert len(surahs["surahs"]) == 114
    assert surahs["link"] == "https://tanzil.net"
    quran = load_quran("uthmani")
    last = client.get("/text/112").json()
    assert [" ".join(verse) for verse in last["verses"]] == [
        quran.verse(ref) for ref in quran.refs if ref.surah == 112
    ]
    assert client.get("/text/115").status_code == client.get("/text/0").status_code == 404


def test_a_session_begins_and_ends(client: TestClient, voice: np.ndarray) -> None:
    chunks = [pcm(voice, 3)[at : at + 3200] for at in range(0, 96_000, 3200)]
    answers = talk(client, START, *chunks, {"type": "stop"})
    assert answers[0]["type"] == "ready"
    assert answers[0]["version"] == 1
    assert answers[-2] == {"type": "end", "seconds": 3.0, "reason": "stop"}
    assert answers[-1] == {"type": "closed", "code": 1000}
    assert {answer["type"] for answer in answers[1:-2]} <= {"position", "words"}


def test_another_rate_is_converted(client: TestClient, voice: np.ndarray) -> None:
    answers = talk(client, START | {"rate": 48_000}, pcm(voice, 1.5), {"type": "stop"})
    assert answers[-2]["seconds"] == 0.5


def test_a_session_ends_at_its_longest(
    client: TestClient, service: Service, voice: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In audio; the clock, which ends a session too, stands still: a busy machine would reach it first."""
    monkeypatch.setattr("quran_asr.server.app.time", SimpleNamespace(monotonic=lambda: 0.0))
    service.limits = Limits(seconds=1.0)
    answers = talk(client, START, *[pcm(voice, 0.25)] * 4)
    assert answers[-2] == {"type": "end", "seconds": 1.0, "reason": "limit"}


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ([b"\0\0"], "the first message must be `start`"),
        ([{"type": "stop"}], "the first message must be `start`"),
        ([{"type": "dance"}], "neither `start` nor `stop`"),
        ([{"type": "start", "rate": 7}], "`rate` must be a whole number"),
        ([{"type": "start", "rate": True}], "`rate` must be a whole number"),
        ([{"type": "start", "at": "1:1:9"}], "there is no word 1:1:9"),
        ([{"type": "start", "at": "112:9"}], "there is no verse 112:9"),
        ([{"type": "start", "at": "1:1:²"}], "is not a word"),
        ([{"type": "start", "at": "\ud800"}], "is not a verse"),
        ([{"type": "start", "at": f"{'9' * 5000}:1:0"}], "is not a verse"),
        ([{"type": "start", "at": ["1"]}], "`at` must be a string"),
        ([START, b"\0\0\0"], "ends inside a 16-bit sample"),
        ([START, b"\0" * 65_538], "a message holds 65,538 bytes"),
        ([START, START], "the session has already begun"),
    ],
)
def test_what_a_client_does_wrong_is_reported_and_ends_its_session(
    client: TestClient, messages: list[dict[str, Any] | bytes], message: str
) -> None:
    *_, error, closed = talk(client, *messages)
    assert error["type"] == "error"
    assert message in error["what"]
    assert closed["code"] == 1008


def test_text_that_is_not_json_is_refused(client: TestClient) -> None:
    with client.websocket_connect(SESSION) as socket:
        socket.send_text("[" * 30_000)
        assert json.loads(socket.receive_text())["what"] == "the message is not JSON"


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "http://evil.example"},
        {"origin": "http://127.0.0.1:9999"},
        {"origin": "null"},
        {"host": "evil.example", "origin": "http://evil.example"},
        {"host": "evil.example"},
        {"host": "[", "origin": "http://["},
    ],
)
def test_other_sites_get_nothing(client: TestClient, headers: dict[str, str]) -> None:
    assert client.get("/", headers=headers).status_code == 403
    with pytest.raises(WebSocketDisconnect), client.websocket_connect(SESSION, headers=headers):
        pass


def test_our_own_page_and_programs_are_answered(client: TestClient) -> None:
    for headers in ({"origin": HOME}, {}, {"host": "localhost:8765", "origin": "http://localhost:8765"}):
        with client.websocket_connect(SESSION, headers=headers) as socket:
            socket.send_text(json.dumps(START))
            assert json.loads(socket.receive_text())["type"] == "ready"


def test_beyond_this_machine_a_token_is_asked_for(service: Service) -> None:
    service.limits, service.token = Limits(), "secret"
    with TestClient(build_app(service), base_url="http://192.168.1.5:8765") as client:
        assert client.get("/").status_code == 200
        for token in ("", "wrong", "sécret"):
            error = talk(client, START | {"token": token}, address=FROM_ELSEWHERE)[-2]
            assert error["what"] == "the token is wrong"
        with client.websocket_connect(FROM_ELSEWHERE) as socket:
            socket.send_text(json.dumps(START | {"token": "secret"}))
            assert json.loads(socket.receive_text())["type"] == "ready"


def test_sessions_are_limited_and_given_back(client: TestClient, service: Service) -> None:
    service.limits = Limits(sessions=1)
    with client.websocket_connect(SESSION) as first:
        first.send_text(json.dumps(START))
        assert json.loads(first.receive_text())["type"] == "ready"
        *_, error, closed = talk(client, START)
        assert error["what"] == "too many sessions are open"
        assert closed["code"] == 1013
    assert talk(client, START, {"type": "stop"})[-2]["type"] == "end"
    assert service.open == 0


def test_a_silent_client_is_ended(client: TestClient, service: Service) -> None:
    service.limits = Limits(silence_seconds=0.2)
    *_, error, closed = talk(client, START)
    assert error["what"] == "no message for 0.2 s"
    assert closed["code"] == 1013
    assert service.open == 0
