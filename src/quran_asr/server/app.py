"""The web server: the page, the text that it shows, and a websocket for each session.

Recordings are not uploaded as files: the browser decodes them and sends PCM as from a microphone. No audio is
stored.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import socket
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

import anyio
import anyio.to_thread
import uvicorn
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import HTTPConnection, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocket, WebSocketDisconnect

from quran_asr.errors import QuranAsrError
from quran_asr.runtime.recognizer import Recognizer
from quran_asr.server import protocol
from quran_asr.server.protocol import Failure, Start, as_json, parse
from quran_asr.server.session import Limits, Session
from quran_asr.text.editions import SURAHS, load_edition
from quran_asr.text.quran import load_quran

PAGE = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/page.css": ("page.css", "text/css; charset=utf-8"),
    "/page.js": ("page.js", "text/javascript; charset=utf-8"),
    "/microphone.js": ("microphone.js", "text/javascript; charset=utf-8"),
    "/amiri-quran.woff2": ("amiri-quran.woff2", "font/woff2"),
    "/amiri-quran-OFL.txt": ("amiri-quran-OFL.txt", "text/plain; charset=utf-8"),
}
"""Path -> file in `page/`, and its type. Nothing else is served from there."""
WAITING_MESSAGES = 16
"""Queued messages of one client; more wait in its own buffers."""
HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; font-src 'self'; "
    "connect-src 'self'; media-src blob:; img-src 'self' data:; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "cross-origin-opener-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "cache-control": "no-cache",
}
LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})
REFUSED, TRY_LATER = 1008, 1013
"""Codes with which a websocket is closed (RFC 6455, section 7.4.1, and IANA's registry)."""

Result = TypeVar("Result")


@dataclass(slots=True)
class Service:
    """State shared by the connections."""

    recognizer: Recognizer
    limits: Limits = field(default_factory=Limits)
    token: str = ""
    """Required of every session; empty: not required, and only names of this machine are accepted."""
    workers: int = 2
    """Threads that recognize."""
    open: int = 0
    """Sessions now."""


def build_app(service: Service) -> Starlette:
    """The application, for any ASGI server."""

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        app.state.limiter = anyio.CapacityLimiter(service.workers)
        yield

    routes = [Route(path, _page, methods=["GET"]) for path in PAGE]
    app = Starlette(
        routes=[
            *routes,
            Route("/text", _surahs, methods=["GET"]),
            Route("/text/{surah:int}", _surah, methods=["GET"]),
            WebSocketRoute("/session", _session),
        ],
        middleware=[Middleware(_Guard, token=service.token)],
        lifespan=lifespan,
    )
    app.state.service = service
    return app


class _Guard:
    """Rejects requests that do not name this server, and sets the headers of every response."""

    def __init__(self, app: ASGIApp, token: str) -> None:
        self.app = app
        self.any_name = bool(token)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        wrong = refusal(HTTPConnection(scope), self.any_name)
        if wrong and scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": REFUSED, "reason": wrong})  # HTTP 403
        elif wrong:
            await PlainTextResponse(wrong, 403)(scope, receive, send)
        else:
            await self.app(scope, receive, _with_headers(send))


def refusal(connection: HTTPConnection, any_name: bool) -> str:
    """Why a connection is refused; empty if it is not.

    A page of another site can connect to any address, and its domain name can resolve to this server. The
    browser says in `Host` and `Origin` which names it used.

    Args:
        connection: HTTP or websocket.
        any_name: accept names other than those of this machine.
    """
    host = connection.headers.get("host", "")
    try:
        name = urlsplit(f"//{host}").hostname or ""
        origin = urlsplit(connection.headers.get("origin", "")).netloc
    except ValueError:
        return "the address is malformed"
    if not any_name and name not in LOOPBACK:
        return "this server answers only to names of its own machine"
    if "origin" in connection.headers and origin.lower() != host.lower():
        return "requests from other sites are refused"
    return ""


def _with_headers(send: Send) -> Send:
    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [
                *message.get("headers", []),
                *((name.encode(), value.encode()) for name, value in HEADERS.items()),
            ]
        await send(message)

    return sending


async def _page(request: Request) -> Response:
    name, kind = PAGE[request.url.path]
    return Response(_file(name), headers={"content-type": kind})


@lru_cache
def _file(name: str) -> bytes:
    return (files("quran_asr.server") / "page" / name).read_bytes()


async def _surahs(request: Request) -> Response:
    edition, quran = load_edition("uthmani"), load_quran("uthmani")
    names = zip(edition.chapter_names, quran.lengths, strict=True)
    surahs = [{"name": name, "verses": verses} for name, verses in names]
    return JSONResponse({"title": edition.title, "link": edition.link, "surahs": surahs})


async def _surah(request: Request) -> Response:
    surah = request.path_params["surah"]
    if not 1 <= surah <= SURAHS:
        return PlainTextResponse(f"surahs are numbered 1 to {SURAHS}", 404)
    edition, quran = load_edition("uthmani"), load_quran("uthmani")
    verses = [quran.verse(ref).split() for ref in quran.refs if ref.surah == surah]
    name = edition.chapter_names[surah - 1]
    return JSONResponse({"surah": surah, "name": name, "basmala": quran.basmala(surah), "verses": verses})


async def _session(socket: WebSocket) -> None:
    service: Service = socket.app.state.service
    await socket.accept()
    try:
        start = await _started(socket, service)
        if service.open >= service.limits.sessions:
            await _fail(socket, service, "too many sessions are open", "try again later", TRY_LATER)
            return
        service.open += 1
        try:
            await _converse(socket, service, start)
        finally:
            service.open -= 1
    except QuranAsrError as error:
        await _fail(socket, service, str(error).partition("\n")[0], error.remedy)
    except TimeoutError:
        await _fail(socket, service, f"no message for {service.limits.silence_seconds:g} s", "", TRY_LATER)
    except (WebSocketDisconnect, RuntimeError):  # Starlette raises either if the client has disconnected
        return


async def _started(socket: WebSocket, service: Service) -> Start:
    message = await _received(socket, service)
    start = parse(message) if isinstance(message, str) else None
    if not isinstance(start, Start):
        raise QuranAsrError("the first message must be `start`")
    if service.token and not secrets.compare_digest(start.token.encode(), service.token.encode()):
        raise QuranAsrError("the token is wrong", remedy="open the address that `quran-asr serve` printed")
    return start


async def _converse(socket: WebSocket, service: Service, start: Start) -> None:
    """Process a message and send the replies. Messages are read one at a time: a fast client has to wait."""
    limiter = socket.app.state.limiter

    async def work(function: Callable[[], Result]) -> Result:
        return await anyio.to_thread.run_sync(function, limiter=limiter)

    session = await work(lambda: Session(service.recognizer, start, service.limits))
    await _sent(socket, service, session.ready())
    while not session.ended:
        message = await _received(socket, service)
        if isinstance(message, bytes):
            answers = await work(lambda pcm=message: session.accept(pcm))  # type: ignore[misc]
        elif isinstance(parse(message), protocol.Stop):
            answers = await work(session.finish)
        else:
            raise QuranAsrError("the session has already begun")
        for answer in answers:
            await _sent(socket, service, answer)
    await socket.close()


async def _received(socket: WebSocket, service: Service) -> str | bytes:
    async with asyncio.timeout(service.limits.silence_seconds):
        message = await socket.receive()
    if message["type"] == "websocket.disconnect":
        raise WebSocketDisconnect(message.get("code", 1000))
    text: str | None = message.get("text")
    data: bytes = message.get("bytes") or b""
    return data if text is None else text


async def _sent(socket: WebSocket, service: Service, message: protocol.Message) -> None:
    async with asyncio.timeout(service.limits.silence_seconds):
        await socket.send_text(as_json(message))


async def _fail(socket: WebSocket, service: Service, what: str, remedy: str, code: int = REFUSED) -> None:
    with contextlib.suppress(WebSocketDisconnect, RuntimeError, TimeoutError):
        await _sent(socket, service, Failure(what, remedy))
        await socket.close(code)


def run(service: Service, listener: socket.socket, certificate: Path | None, key: Path | None) -> None:
    """Serve until Ctrl-C or SIGTERM.

    Args:
        service: the application's state.
        listener: bound and listening.
        certificate: PEM; None for no TLS.
        key: PEM, of the certificate.
    """
    build_server(service, certificate, key).run(sockets=[listener])


def build_server(
    service: Service, certificate: Path | None = None, key: Path | None = None
) -> uvicorn.Server:
    """The server, not yet running."""
    service.workers = max(1, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 2)
    config = uvicorn.Config(
        build_app(service),
        ws="websockets-sansio",
        ws_max_size=service.limits.message_bytes,
        ws_max_queue=WAITING_MESSAGES,
        ws_ping_interval=None,  # a client that has to wait cannot answer; `Limits` ends silent ones
        ws_per_message_deflate=False,  # a small message must not become a large one
        limit_concurrency=2 * service.limits.sessions + 100,
        timeout_keep_alive=5,
        timeout_graceful_shutdown=2,
        lifespan="on",
        log_level="warning",
        access_log=False,
        server_header=False,
        ssl_certfile=certificate,
        ssl_keyfile=key,
    )
    return uvicorn.Server(config)
