"""The command itself, served to other machines: over TLS, with the token of its address only."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import ssl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

pytest.importorskip("uvicorn", reason="needs the extra `serve`")
pytest.importorskip("websockets", reason="needs the extra `serve`")
pytest.importorskip("httpx", reason="fetches the page")

import httpx
import websockets

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl"),
]


@pytest.fixture(scope="module")
def address(small_bundle: Path) -> Iterator[Any]:
    words = ["serve", "--model", str(small_bundle), "--port", "0"]
    words += ["--host", "0.0.0.0", "--allow-network", "--tls"]
    with subprocess.Popen(
        [sys.executable, "-m", "quran_asr", *words], stdout=subprocess.PIPE, text=True, env=os.environ
    ) as server:
        assert server.stdout is not None
        yield urlsplit(server.stdout.readline().strip())
        server.terminate()
        assert server.wait(300) == 128 + signal.SIGTERM, "as every command that is terminated"


def trusting() -> ssl.SSLContext:
    """Trusts anybody, as one who chose *Advanced* and continued."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


def started(address: Any, token: str, **headers: str) -> dict[str, Any]:
    """The first answer to `start`."""

    async def session() -> dict[str, Any]:
        place = f"wss://127.0.0.1:{address.port}/session"
        async with websockets.connect(place, ssl=trusting(), additional_headers=headers) as socket:
            await socket.send(json.dumps({"type": "start", "token": token}))
            return json.loads(await socket.recv())

    return asyncio.run(session())


def test_the_address_has_a_token_that_cannot_be_guessed(address: Any) -> None:
    assert address.scheme == "https"
    assert len(address.fragment) >= 20
    assert started(address, address.fragment)["type"] == "ready"
    for token in ("", address.fragment[:-1], address.fragment.swapcase()):
        assert started(address, token)["what"] == "the token is wrong"


def test_the_page_comes_over_tls_only(address: Any) -> None:
    page = httpx.get(f"https://127.0.0.1:{address.port}/", verify=trusting())
    assert page.status_code == 200
    assert address.fragment not in page.text
    with pytest.raises(httpx.HTTPError):
        httpx.get(f"http://127.0.0.1:{address.port}/")


def test_another_site_gets_no_session_even_with_the_token(address: Any) -> None:
    with pytest.raises(websockets.InvalidStatus):
        started(address, address.fragment, origin="https://evil.example")
    own = f"https://127.0.0.1:{address.port}"
    assert started(address, address.fragment, origin=own)["type"] == "ready"


def test_a_recording_needs_the_token_too(address: Any) -> None:
    place = f"https://127.0.0.1:{address.port}/recording"
    assert httpx.post(place, content=b"x", verify=trusting()).status_code == 401
    headers = {"authorization": f"Bearer {address.fragment}"}
    assert httpx.post(place, content=b"x", verify=trusting(), headers=headers).status_code == 415
