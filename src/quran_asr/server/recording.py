"""A recording uploaded by a program: received, followed, and deleted."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import anyio.to_thread
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.types import Message, Receive, Scope, Send

from quran_asr import audio
from quran_asr.errors import QuranAsrError
from quran_asr.records import SAMPLE_RATE
from quran_asr.runtime.audio_input import blocks_of_file
from quran_asr.runtime.tracking import WordRef
from quran_asr.server import protocol
from quran_asr.server.protocol import Failure, Progress, Start, as_json, plain
from quran_asr.server.service import TURN_SECONDS, Service
from quran_asr.server.session import Session
from quran_asr.server.turns import Schedule

LINES = "application/x-ndjson"


class _RefusedError(Exception):
    """The request is answered with this status, and with `Failure` as its body."""

    def __init__(self, status: int, what: str, remedy: str = "") -> None:
        self.answer = JSONResponse(plain(Failure(what, remedy)), status)


async def follow_recording(request: Request) -> Response:
    """The messages of a session, one a line, for the recording that is the body of the request."""
    service: Service = request.app.state.service
    try:
        start = _start(request, service)
        if service.uploads >= service.limits.uploads:
            raise _RefusedError(503, "too many recordings are being followed", "try again later")
    except _RefusedError as refused:
        return refused.answer
    service.uploads += 1
    with contextlib.ExitStack() as stack:
        stack.callback(_one_less, service)
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="quran-asr-"))
        file = Path(folder) / "recording"
        try:
            _refuse_form(request)
            await _receive(request, service, file)
            seconds = await anyio.to_thread.run_sync(_seconds, file, service)
        except _RefusedError as refused:
            return refused.answer
        except ClientDisconnect:
            return Response(status_code=400)  # nobody reads it
        lines = _lines(service, start, file, seconds)
        return _Lines(lines, service.limits.silence_seconds, stack.pop_all())


def _one_less(service: Service) -> None:
    service.uploads -= 1


def _start(request: Request, service: Service) -> Start:
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    try:
        service.check_token(token if scheme.lower() == "bearer" else "")
    except QuranAsrError as error:
        raise _RefusedError(401, error.what, error.remedy) from None
    try:
        at = request.query_params.get("at")
        return Start(SAMPLE_RATE, None if at is None else WordRef.parse(at))
    except QuranAsrError as error:
        raise _RefusedError(400, error.what, error.remedy) from None


def _refuse_form(request: Request) -> None:
    """A form wraps the file in text of its own, which no decoder reads."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "multipart/form-data":
        raise _RefusedError(
            415, "a form, not a recording", "send the file itself as the body: curl --data-binary @FILE"
        )


async def _receive(request: Request, service: Service, file: Path) -> None:
    limits = service.limits
    too_large = _RefusedError(
        413, f"the recording has more than {limits.upload_bytes:,} bytes", "send it in parts"
    )
    length = request.headers.get("content-length", "")
    if length.isdigit() and int(length) > limits.upload_bytes:
        raise too_large
    received = 0
    try:
        with file.open("wb") as out:
            async with asyncio.timeout(limits.upload_seconds):
                async for part in request.stream():
                    received += len(part)
                    if received > limits.upload_bytes:
                        raise too_large
                    out.write(part)
    except TimeoutError:
        raise _RefusedError(408, f"the recording did not arrive within {limits.upload_seconds:g} s") from None


def _seconds(file: Path, service: Service) -> float:
    try:
        info = audio.probe(file)
    except QuranAsrError as error:
        raise _RefusedError(415, error.what, error.remedy) from None
    if info.seconds > service.limits.seconds:
        raise _RefusedError(
            413,
            f"the recording lasts {info.seconds:.0f} s; {service.limits.seconds:.0f} s are followed",
            "send it in parts",
        )
    return info.seconds


async def _lines(service: Service, start: Start, file: Path, seconds: float) -> AsyncIterator[str]:
    schedule = Schedule()
    try:
        session = await service.work(
            schedule, 0.0, lambda: Session(service.recognizer, start, service.limits)
        )
        yield _line(session.ready())
        blocks = blocks_of_file(file, TURN_SECONDS)
        while not session.ended:
            block = await service.work(schedule, session.seconds, partial(next, blocks, None))
            more = session.finish if block is None else partial(session.accept, block)
            for message in await service.work(schedule, session.seconds, more):
                yield _line(message)
            if not session.ended:
                yield _line(Progress(session.seconds, seconds))
    except QuranAsrError as error:  # too late for another status
        yield _line(Failure(error.what, error.remedy))


def _line(message: protocol.Message) -> str:
    return as_json(message) + "\n"


class _Lines(StreamingResponse):  # type: ignore[misc]
    """Ends if the client reads nothing for long, and cleans up in any case."""

    def __init__(
        self, lines: AsyncIterator[str], silence_seconds: float, stack: contextlib.ExitStack
    ) -> None:
        super().__init__(lines, media_type=LINES)
        self._silence_seconds = silence_seconds
        self._stack = stack

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def sent(message: Message) -> None:
            async with asyncio.timeout(self._silence_seconds):
                await send(message)

        with self._stack, contextlib.suppress(TimeoutError):
            await super().__call__(scope, receive, sent)
