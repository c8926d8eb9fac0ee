"""HTTP requests with retries and safe redirects.

Session, proxies and certificates are those of Hugging Face's client. Its own requests are not used: they are
tried again unseen, and follow a redirect to anywhere.
"""

from __future__ import annotations

import contextlib
import ipaddress
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from time import sleep, time
from typing import Any, TypeVar, cast
from urllib.parse import urljoin, urlsplit

from huggingface_hub import constants, get_session
from huggingface_hub.errors import HfHubHTTPError

_T = TypeVar("_T")

_NETWORK = cast(tuple[type[Exception], ...], HfHubHTTPError.__bases__)
"""The base error of the HTTP library that the hub's client uses (it has changed twice), and OSError."""
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_MOST_REDIRECTS = 10
_PASSING = frozenset({408, 416, 429, 500, 502, 503, 504})
"""HTTP answers that may be others at the next try."""
_LONGEST_JSON = 16 << 20
_LONGEST_URL = 16 << 10
_HOST = re.compile(r"[a-z0-9._-]+|[0-9a-f:.]+")


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a server is asked again."""

    tries: int = 6
    """Requests in a row that may fail."""
    unanswered: int = 2
    """The same for a first question that nobody answers: who is offline should hear it soon."""
    first_wait: float = 1.0
    """Seconds before the second try; they double from try to try."""
    longest_wait: float = 60.0
    """Seconds. A server that asks (`Retry-After`) for a longer pause gets no further request."""
    enough: int = 8 << 20
    """Bytes; failures are counted anew when so many have come."""


PATIENCE = Patience()


class RequestError(Exception):
    """A request that gave nothing usable: no answer, or one that is an error."""

    def __init__(
        self,
        reason: str,
        *,
        status: int | None = None,
        code: str = "",
        wait: float | None = None,
        passing: bool = True,
    ) -> None:
        super().__init__(reason)
        self.reason = reason
        self.status = status
        """HTTP status; None if no whole answer came."""
        self.code = code
        """The hub's word for it (`X-Error-Code`), e.g. `GatedRepo`."""
        self.wait = wait
        """Seconds that the server asks to be left alone."""
        self.passing = passing
        """Whether it is worth trying again."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a server answers when all is well."""

    status: int
    """200 to 299."""
    headers: Mapping[str, str]
    """Names in small letters; `x-linked-...` may come from a redirect on the way."""
    body: Iterator[bytes]
    """As it comes. Raises RequestError where it is cut."""


def patiently(
    once: Callable[[], _T], *, unanswered: int | None = None, gained: Callable[[], int] = lambda: 0
) -> _T:
    """Try until it works or the patience is at its end.

    Args:
        unanswered: failures in a row without any answer that end it; else as many as of any kind.
        gained: bytes that are here, so that a slow line that breaks now and then is not a dead one.

    Raises:
        RequestError: the last one.
    """
    failures, counted_from = 0, gained()
    while True:
        try:
            return once()
        except RequestError as error:
            if gained() - counted_from >= PATIENCE.enough:
                failures, counted_from = 0, gained()
            failures += 1
            most = unanswered if unanswered is not None and error.status is None else PATIENCE.tries
            if not error.passing or failures >= most or (error.wait or 0) > PATIENCE.longest_wait:
                raise
            wait = PATIENCE.first_wait * 2 ** (failures - 1) if error.wait is None else error.wait
            sleep(min(wait, PATIENCE.longest_wait))


def fetch_json(url: str, headers: Mapping[str, str]) -> Any:
    """The JSON at a URL.

    Raises:
        RequestError: after all tries.
    """

    def once() -> Any:
        content = bytearray()
        with ask(url, headers) as answer:
            for chunk in answer.body:
                content += chunk
                if len(content) > _LONGEST_JSON:
                    raise RequestError("answers without end", status=answer.status, passing=False)
        try:
            return json.loads(content)
        except (ValueError, RecursionError):
            kind = answer.headers.get("content-type", "something")
            raise RequestError(
                f"answers with {kind}, not JSON", status=answer.status, passing=False
            ) from None

    return patiently(once, unanswered=PATIENCE.unanswered)


@contextlib.contextmanager
def ask(url: str, headers: Mapping[str, str]) -> Iterator[Answer]:
    """GET once, following redirects that are no step down in safety.

    Args:
        headers: `authorization` goes to the server of `url` and to no other, and a token over https alone.

    Raises:
        RequestError: no answer, one of 400 and above, or a redirect to plain http elsewhere.
    """
    first = _origin(url)
    linked: dict[str, str] = {}
    with contextlib.ExitStack() as stack:
        for _ in range(_MOST_REDIRECTS):
            at_home = _origin(url) == first
            sent = {key: value for key, value in headers.items() if key.lower() != "authorization"}
            if at_home and (secret := _secret(headers, first[0])):
                sent["authorization"] = secret
            sent["Accept-Encoding"] = "identity"  # lengths and ranges are those of the file itself
            request = get_session().stream(
                "GET", url, headers=sent, follow_redirects=False, timeout=constants.HF_HUB_DOWNLOAD_TIMEOUT
            )
            try:
                response = stack.enter_context(request)
            except _NETWORK as error:
                raise RequestError(_first_line(error)) from error
            said = {key.lower(): value for key, value in response.headers.items()}
            if response.status_code not in _REDIRECTS:
                break
            linked |= {key: value for key, value in said.items() if key.startswith("x-linked-")}
            url = _redirected(url, said.get("location", ""))
            stack.close()
        else:
            raise RequestError("redirects without end", passing=False)
        if not 200 <= response.status_code < 300:
            raise RequestError(
                f"answers HTTP {response.status_code}",
                status=response.status_code,
                code=said.get("x-error-code", ""),
                wait=_seconds(said.get("retry-after")),
                passing=response.status_code in _PASSING,
            )
        yield Answer(response.status_code, said | linked, _body(response))


def _secret(headers: Mapping[str, str], scheme: str) -> str | None:
    """What may be sent of `authorization`: over plain http anybody on the way could read a token."""
    given = next((value for key, value in headers.items() if key.lower() == "authorization"), None)
    return None if given is None or (scheme != "https" and given.startswith("Bearer ")) else given


def _body(response: Any) -> Iterator[bytes]:
    try:
        yield from response.iter_raw()
    except _NETWORK as error:
        raise RequestError(f"the connection broke ({_first_line(error)})") from error


def _redirected(url: str, location: str) -> str:
    """Where a redirect leads, if it is https, the same server, or another port of the same loopback host."""
    try:
        target = urljoin(url, location)
    except ValueError:
        raise RequestError(f"redirects to `{location[:100]}`, which is no URL", passing=False) from None
    here, there = _origin(url), _origin(target)
    on_this_machine = there[0] == "http" and there[1] == here[1] and _is_loopback(here[1])
    if location and (there[0] == "https" or there == here or on_this_machine):
        return target
    raise RequestError(f"redirects to `{target[:100]}`, which is not https", passing=False)


def _origin(url: str) -> tuple[str, str, int | None]:
    """Scheme, host and port, of a URL that the HTTP library can be given."""
    try:
        parts = urlsplit(url)
        scheme, host, port = parts.scheme, parts.hostname or "", parts.port
    except ValueError:
        host = ""
    if not (_HOST.fullmatch(host) and url.isascii() and url.isprintable() and len(url) <= _LONGEST_URL):
        raise RequestError(f"`{ascii(url)[1:100]}` is no URL", passing=False)
    return scheme, host, port or {"http": 80, "https": 443}.get(scheme)


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _seconds(retry_after: str | None) -> float | None:
    """`Retry-After` in seconds: a number, or a date."""
    if retry_after is None:
        return None
    if retry_after.strip().isdecimal():
        return float(retry_after)
    try:
        return max(0.0, parsedate_to_datetime(retry_after).timestamp() - time())
    except ValueError:
        return None


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)[:100]
