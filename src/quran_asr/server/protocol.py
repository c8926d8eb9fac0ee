"""The messages of a session, see docs/reference/protocol.md. Values without sockets."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, ClassVar

from quran_asr.errors import QuranAsrError
from quran_asr.records import SAMPLE_RATE
from quran_asr.runtime.tracking import Position, WordRef, Words

VERSION = 1
LOWEST_RATE, HIGHEST_RATE = 8_000, 192_000
"""Hertz."""


# From the client


@dataclass(frozen=True, slots=True)
class Start:
    """The first message of a session."""

    rate: int = SAMPLE_RATE
    """Hertz of the PCM that follows."""
    at: WordRef | None = None
    """Where the recitation is expected to begin; None: anywhere."""
    token: str = ""


@dataclass(frozen=True, slots=True)
class Stop:
    """The recitation has ended."""


def parse(text: str) -> Start | Stop:
    """Read a text message of a client.

    Raises:
        QuranAsrError: it is not a message of this protocol.
    """
    try:
        message = json.loads(text)
    except (ValueError, RecursionError):
        raise QuranAsrError(
            "the message is not JSON",
            remedy='send JSON, for example {"type": "start"}, and audio as binary messages',
        ) from None
    kind = message.get("type") if isinstance(message, dict) else None
    if kind == "stop":
        return Stop()
    if kind != "start":
        raise QuranAsrError(
            "the message is neither `start` nor `stop`", remedy='send {"type": "start"} or {"type": "stop"}'
        )
    rate, at, token = message.get("rate", SAMPLE_RATE), message.get("at"), message.get("token", "")
    if not isinstance(rate, int) or isinstance(rate, bool) or not LOWEST_RATE <= rate <= HIGHEST_RATE:
        raise QuranAsrError(
            f"`rate` must be a whole number from {LOWEST_RATE:,} to {HIGHEST_RATE:,}",
            remedy="give the sample rate of the audio in hertz, or leave it out for 16,000",
        )
    if at is not None and not isinstance(at, str):
        raise QuranAsrError(
            "`at` must be a string, as in 2:255:0",
            remedy="write surah:verse:index in quotation marks, or leave `at` out",
        )
    if not isinstance(token, str):
        raise QuranAsrError(
            "`token` must be a string",
            remedy="send what follows `#` in the address that `quran-asr serve` printed",
        )
    return Start(rate, None if at is None else WordRef.parse(at), token)


# From the server


@dataclass(frozen=True, slots=True)
class Ready:
    """The session has begun: the client may send PCM."""

    type: ClassVar[str] = "ready"
    version: int
    model: str
    look_ahead_ms: int
    max_seconds: float
    """Seconds of audio after which the session ends."""
    max_message_bytes: int
    flag_below: float
    """A final word with less confidence counts as recognized differently."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How much of a recording that was sent as a file has been followed."""

    type: ClassVar[str] = "progress"
    seconds: float
    of: float
    """Seconds of the whole recording."""


@dataclass(frozen=True, slots=True)
class End:
    """The session has ended: all words are final."""

    type: ClassVar[str] = "end"
    seconds: float
    """Seconds of audio."""
    reason: str
    """`stop`, or `limit` if the session reached the longest duration."""


@dataclass(frozen=True, slots=True)
class Failure:
    """The session has ended because of an error."""

    type: ClassVar[str] = "error"
    what: str
    remedy: str = ""


Message = Ready | Progress | Position | Words | End | Failure


def as_json(message: Message) -> str:
    """A message as it is sent to the client."""
    # What a client sent may be repeated in it, and half a surrogate pair is JSON but no text.
    return json.dumps(plain(message), ensure_ascii=False).encode("utf-8", "replace").decode()


def plain(message: Message) -> dict[str, Any]:
    """A message as values of JSON."""
    return {"type": message.type, **_plain(message)}


def _plain(value: Any) -> Any:
    if isinstance(value, WordRef):
        return str(value)
    if isinstance(value, tuple):
        return [_plain(one) for one in value]
    if isinstance(value, float):
        return round(value, 3)
    if hasattr(value, "__dataclass_fields__"):
        return {name: _plain(getattr(value, name)) for name in value.__dataclass_fields__ if name != "type"}
    return value
