"""The web server: the page, the text that it shows, and a websocket for each session.

The page decodes recordings itself and sends PCM as from a microphone; programs can also upload a file, see
`recording`. No audio is stored.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from functools import lru_cache, partial
from importlib.resources import files
from urllib.parse import urlsplit

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import HTTPConnection, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocket, WebSocketDisconnect

from quran_asr.errors import QuranAsrError
from quran_asr.server import protocol
from quran_asr.server.protocol import Failure, Start, as_json, parse
from quran_asr.server.recording import follow_recording
from quran_asr.server.service import TURN_SECONDS, Service
from quran_asr.server.session import Session
from quran_asr.server.turns import Schedule
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


def build_app(service: Service) -> Starlette:
    """The application, for any ASGI server."""

    routes = [Route(path, _page, methods=["GET"]) for path in PAGE]
    app = Starlette(
        routes=[
            *routes,
            Route("/text", _surahs, methods=["GET"]),
            Route("/text/{surah:int}", _surah, methods=["GET"]),
            Route("/recording", follow_recording, methods=["POST"]),
            WebSocketRoute("/session", _session),
        ],
        middleware=[Middleware(_Guard, token=service.token)],
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
    except asyncio.CancelledError:  # the server ends, and has waited long enough
        return


async def _started(socket: WebSocket, service: Service) -> Start:
    message = await _received(socket, service)
    start = parse(message) if isinstance(message, str) else None
    if not isinstance(start, Start):
        raise QuranAsrError(
            "the first message must be `start`", remedy='send {"type": "start"} before audio and `stop`'
        )
    service.check_token(start.token)
    return start


async def _converse(socket: WebSocket, service: Service, start: Start) -> None:
    """Process a message and send the replies. Messages are read one at a time: a fast client has to wait."""
    begun, schedule = time.monotonic(), Schedule()
    session = await service.work(schedule, 0.0, lambda: Session(service.recognizer, start, service.limits))
    await _sent(socket, service, session.ready())
    while not session.ended:
        message = await _received(socket, service)
        if isinstance(message, bytes):
            for part in session.parts(message, TURN_SECONDS):
                follow = partial(session.accept, part)
                await _sent(socket, service, *await service.work(schedule, session.seconds, follow))
        elif not isinstance(parse(message), protocol.Stop):
            raise QuranAsrError(
                "the session has already begun",
                remedy="send audio or `stop`, and open another connection for another session",
            )
        late = time.monotonic() - begun > service.limits.seconds
        if late or isinstance(message, str):
            finish = partial(session.finish, "limit" if late else "stop")
            await _sent(socket, service, *await service.work(schedule, session.seconds, finish))
    await socket.close()


async def _received(socket: WebSocket, service: Service) -> str | bytes:
    async with asyncio.timeout(service.limits.silence_seconds):
        message = await socket.receive()
    if message["type"] == "websocket.disconnect":
        raise WebSocketDisconnect(message.get("code", 1000))
    text: str | None = message.get("text")
    data: bytes = message.get("bytes") or b""
    return data if text is None else text


async def _sent(socket: WebSocket, service: Service, *messages: protocol.Message) -> None:
    for message in messages:
        async with asyncio.timeout(service.limits.silence_seconds):
            await socket.send_text(as_json(message))


async def _fail(socket: WebSocket, service: Service, what: str, remedy: str, code: int = REFUSED) -> None:
    with contextlib.suppress(WebSocketDisconnect, RuntimeError, TimeoutError):
        await _sent(socket, service, Failure(what, remedy))
        await socket.close(code)
