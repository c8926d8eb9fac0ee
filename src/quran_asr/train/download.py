"""One large archive over HTTP: continued after a cut, checked, and never half in its place.

Session, proxies and certificates are those of Hugging Face's client. Its download is not used: that one checks
the length alone, takes a page of HTML for a file, and tries again unseen.
"""

from __future__ import annotations

import contextlib
import hashlib
import ipaddress
import json
import os
import re
import shutil
import tarfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from pathlib import Path
from time import sleep, time
from typing import Any, TypeVar, cast
from urllib.parse import urljoin, urlsplit

from huggingface_hub import constants, get_session
from huggingface_hub.errors import HfHubHTTPError

from quran_asr.files import write_atomically
from quran_asr.findings import QuranAsrError

Progress = Callable[[int, int], None]
"""Called with the bytes that are here and the bytes in all (0 where nobody knows); the first never falls."""

_T = TypeVar("_T")

_NETWORK = cast(tuple[type[Exception], ...], HfHubHTTPError.__bases__)
"""The base error of the HTTP library that the hub's client uses (it has changed twice), and OSError."""
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_MOST_REDIRECTS = 10
_PASSING = frozenset({408, 429, 500, 502, 503, 504})
"""HTTP answers that may be others in a minute."""
_LONGEST_JSON = 16 << 20


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a server is asked again."""

    tries: int = 6
    """Requests in a row that may fail."""
    unanswered: int = 2
    """The same where not even a first answer came: nobody waits long to hear that the network is off."""
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
        """HTTP status; None if no answer came."""
        self.code = code
        """The hub's word for it (`X-Error-Code`), e.g. `GatedRepo`."""
        self.wait = wait
        """Seconds that the server asks to be left alone."""
        self.passing = passing
        """Whether it is worth trying again."""


@dataclass(frozen=True, slots=True)
class Downloaded:
    """What is known of a file that has arrived."""

    bytes: int
    sha256: str
    """Hex, of the whole file as it lies on the disk."""
    etag: str | None


def file_sha256(path: Path) -> str:
    """Hex sha256 of a whole file.

    Raises:
        QuranAsrError: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise QuranAsrError(f"cannot be read ({error.strerror or error})", where=str(path)) from None


def fetch_json(url: str, headers: Mapping[str, str]) -> Any:
    """The JSON at a URL.

    Raises:
        RequestError: after all tries.
    """

    def once() -> Any:
        with _get(url, headers) as answer:
            content = bytearray()
            for chunk in answer.body:
                content += chunk
                if len(content) > _LONGEST_JSON:
                    raise RequestError("answers without end", status=answer.status, passing=False)
        try:
            return json.loads(content)
        except ValueError:
            kind = answer.headers.get("content-type", "something")
            raise RequestError(f"answers with {kind} and not JSON", status=200, passing=False) from None

    return _patiently(once, PATIENCE.unanswered)


def download_archive(
    url: str,
    to: Path,
    *,
    headers: Mapping[str, str],
    size: int | None = None,
    sha256: str | None = None,
    on_progress: Progress | None = None,
) -> Downloaded:
    """Download a tar archive to `to`, which appears when all of it is there and checked.

    Until then it is `<to>.part`, with what it is a part of in `<to>.part.json`. A part is continued if the
    server still has the same file: `If-Range` with its ETag says so, else the sha256 at the end. One caller
    at a time: the lock is the caller's.

    Args:
        headers: for the server of `url`; `authorization` goes to no other.
        size: bytes, if known; else the server's `X-Linked-Size` or `Content-Length` is taken for true.
        sha256: hex, if known; else the server's `X-Linked-Etag` if it is one.

    Raises:
        RequestError: the server could not be reached, refuses, or breaks off after all tries; the part stays.
        QuranAsrError: no archive, not the length or sha256 expected, no room, cannot be written.
    """
    part = _Part(to.with_name(f"{to.name}.part"))
    tell = _rising(on_progress)
    while True:
        in_pieces = part.bytes() > 0
        arrived = _patiently(
            lambda: _fetch(url, part, headers, size, sha256, tell), PATIENCE.tries, gained=part.bytes
        )
        found = file_sha256(part.path)
        if arrived.sha256 in {None, found}:
            break
        part.drop()
        if not in_pieces:
            raise QuranAsrError(
                f"what came has the sha256 {found[:12]}... and not {str(arrived.sha256)[:12]}... as the server "
                "says; it was thrown away",
                where=url,
                remedy="try again; if it stays so, something between here and there changes files",
            )
    if not tarfile.is_tarfile(part.path):
        part.drop()
        raise QuranAsrError("what came is no .nemo archive; it was thrown away", where=url)
    part.put(to)
    return Downloaded(arrived.bytes, found, arrived.etag)


# One part


@dataclass(frozen=True, slots=True)
class _Part:
    """The beginning of a file, and beside it what it is the beginning of."""

    path: Path

    @property
    def origin(self) -> Path:
        return self.path.with_name(f"{self.path.name}.json")

    def bytes(self) -> int:
        return self.path.stat().st_size if self.path.is_file() else 0

    def continued(self, url: str, sha256: str | None) -> tuple[int, str | None]:
        """Bytes to go on from and the ETag to hold against the server; a part of something else is dropped."""
        try:
            origin = json.loads(self.origin.read_text(encoding="utf-8"))
            of_url, etag, of_sha256 = origin["url"], origin["etag"], origin["sha256"]
        except (OSError, ValueError, KeyError, TypeError):
            of_url = etag = of_sha256 = None
        etag = etag if isinstance(etag, str) and etag.isascii() and etag.isprintable() else None
        same_file = of_sha256 == sha256 if sha256 else of_url == url and etag is not None
        if self.bytes() and same_file:
            return self.bytes(), etag
        self.drop()
        return 0, None

    def begin(self, url: str, etag: str | None, sha256: str | None) -> None:
        self.drop()
        strong = etag if etag and not etag.startswith("W/") else None
        said = {"url": url, "etag": strong, "sha256": sha256}
        with _writing(self.path):
            write_atomically(self.origin, json.dumps(said).encode())

    def drop(self) -> None:
        self.path.unlink(missing_ok=True)
        self.origin.unlink(missing_ok=True)

    def put(self, to: Path) -> None:
        with _writing(to):
            with self.path.open("rb") as file:
                os.fsync(file.fileno())
            self.path.replace(to)
        self.origin.unlink(missing_ok=True)


@dataclass(frozen=True, slots=True)
class _Arrived:
    bytes: int
    sha256: str | None
    etag: str | None


def _fetch(
    url: str, part: _Part, headers: Mapping[str, str], size: int | None, sha256: str | None, tell: Progress
) -> _Arrived:
    """Ask once for what is missing and append it."""
    here, etag = part.continued(url, sha256)
    if here and here == size:  # cut off between the last byte and the new name
        return _Arrived(here, sha256, etag)
    asked = dict(headers)
    if here:
        asked["Range"] = f"bytes={here}-"
    if here and etag:
        asked["If-Range"] = etag
    try:
        with _get(url, asked) as answer:
            if answer.headers.get("content-type", "").startswith("text/html"):
                raise QuranAsrError(
                    "a page of HTML came and not the file",
                    where=url,
                    remedy="a proxy, a login page or a blocked address gives this: open it in a browser",
                )
            total = _length(answer, here, etag)
            if answer.status == 200:
                here = 0
            size = size if size is not None else _number(answer.headers.get("x-linked-size"))
            if None not in (size, total) and size != total:
                raise _wrong_length(url, size, total)
            total = total if total is not None else size
            _need_room(part.path.parent, (total or here) - here)
            sha256 = sha256 or _as_sha256(answer.headers.get("x-linked-etag"))
            etag = answer.headers.get("etag")
            if not here:
                part.begin(url, etag, sha256)
            here = _append(part, answer.body, here, total, tell)
    except (RequestError, QuranAsrError) as error:
        if isinstance(error, RequestError) and error.status in (206, 416):  # not the range that was asked for
            part.drop()
        raise
    if total is not None and here > total:
        part.drop()
        raise _wrong_length(url, total, here)
    if total is not None and here < total:
        raise RequestError(f"the connection broke after {here:,} of {total:,} bytes")
    return _Arrived(here, sha256, etag)


def _append(part: _Part, body: Iterator[bytes], here: int, total: int | None, tell: Progress) -> int:
    """Write what comes as it comes, and no more than one chunk beyond the end. Returns the part's bytes."""
    tell(here, total or 0)
    with _writing(part.path), part.path.open("ab", buffering=0) as file:
        for chunk in body:
            written = 0
            while written < len(chunk):
                written += file.write(chunk[written:])
            here += len(chunk)
            if total is not None and here > total:
                break
            tell(here, total or 0)
    return here


def _length(answer: _Answer, here: int, etag: str | None) -> int | None:
    """Bytes of the whole file as the answer tells them.

    Raises:
        RequestError: the answer is neither the whole file nor the rest that was asked for.
    """
    if answer.status == 200:
        return _number(answer.headers.get("content-length"))
    if answer.status != 206 or not here:
        raise RequestError(f"answers HTTP {answer.status}", status=answer.status, passing=False)
    told = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", answer.headers.get("content-range", ""))
    another = etag is not None and answer.headers.get("etag", etag) != etag
    if told is None or int(told.group(1)) != here or another:
        raise RequestError("answers with the rest of another file", status=206)
    return _number(told.group(2))


# One request


@dataclass(frozen=True, slots=True)
class _Answer:
    status: int
    """200 to 299."""
    headers: Mapping[str, str]
    """Names in small letters; `x-linked-...` may come from a redirect on the way."""
    body: Iterator[bytes]
    """As it comes. Raises RequestError where it is cut."""


@contextlib.contextmanager
def _get(url: str, headers: Mapping[str, str]) -> Iterator[_Answer]:
    """Ask once, following redirects that are no step down in safety.

    Raises:
        RequestError: no answer, or one of 400 and above.
    """
    first = _origin(url)
    linked: dict[str, str] = {}
    with contextlib.ExitStack() as stack:
        for _ in range(_MOST_REDIRECTS):
            at_home = _origin(url) == first
            sent = {key: value for key, value in headers.items() if at_home or key.lower() != "authorization"}
            sent["Accept-Encoding"] = "identity"
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
            linked.update({key: value for key, value in said.items() if key.startswith("x-linked-")})
            url = _redirected(url, said.get("location", ""))
            stack.close()
        else:
            raise RequestError("redirects without end", status=310, passing=False)
        if response.status_code >= 400:
            raise RequestError(
                f"answers HTTP {response.status_code}",
                status=response.status_code,
                code=said.get("x-error-code", ""),
                wait=_seconds(said.get("retry-after")),
                passing=response.status_code in _PASSING,
            )
        yield _Answer(response.status_code, linked | said, _body(response))


def _body(response: Any) -> Iterator[bytes]:
    try:
        yield from response.iter_raw()
    except _NETWORK as error:
        raise RequestError(f"the connection broke ({_first_line(error)})") from error


def _patiently(once: Callable[[], _T], unanswered: int, gained: Callable[[], int] = lambda: 0) -> _T:
    """Try until it works or the patience is at its end.

    Args:
        unanswered: failures in a row without any answer that end it.
        gained: bytes that are here, so that a slow line that breaks now and then is not a dead one.
    """
    failures, counted_from = 0, gained()
    while True:
        try:
            return once()
        except RequestError as error:
            if gained() - counted_from >= PATIENCE.enough:
                failures, counted_from = 0, gained()
            failures += 1
            most = unanswered if error.status is None else PATIENCE.tries
            wait = PATIENCE.first_wait * 2 ** (failures - 1) if error.wait is None else error.wait
            if not error.passing or failures >= most or (error.wait or 0) > PATIENCE.longest_wait:
                raise
            sleep(min(wait, PATIENCE.longest_wait))


def _redirected(url: str, location: str) -> str:
    """Where a redirect leads, if that is https, the same server, or another port of the same loopback host."""
    target = urljoin(url, location)
    here, there = _origin(url), _origin(target)
    on_this_machine = there[0] == "http" and there[1] == here[1] and _is_loopback(here[1])
    if location and (there[0] == "https" or there == here or on_this_machine):
        return target
    raise RequestError(
        f"redirects to `{target[:100]}`, which is not https", status=302, passing=False
    )


def _origin(url: str) -> tuple[str, str, int | None]:
    try:
        parts = urlsplit(url)
        return parts.scheme, parts.hostname or "", parts.port or {"http": 80, "https": 443}.get(parts.scheme)
    except ValueError:
        raise RequestError(f"`{url[:100]}` is no URL", status=302, passing=False) from None


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


# Small readings


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


def _number(said: str | None) -> int | None:
    return int(said) if said is not None and said.isdecimal() else None


def _as_sha256(etag: str | None) -> str | None:
    found = re.fullmatch(r'"?([0-9a-f]{64})"?', etag or "")
    return found.group(1) if found else None


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)[:100]


def _rising(on_progress: Progress | None) -> Progress:
    """The same, never falling: a file that is begun anew does not run backwards."""
    highest = 0

    def tell(done: int, total: int) -> None:
        nonlocal highest
        highest = max(highest, done)
        if on_progress is not None:
            on_progress(highest, total)

    return tell


def _wrong_length(url: str, expected: int | None, found: int | None) -> QuranAsrError:
    return QuranAsrError(
        f"the file should have {expected or 0:,} bytes, and {found or 0:,} come; nothing was kept",
        where=url,
        remedy="try again later",
    )


def _need_room(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise QuranAsrError(
            f"{needed / 1e9:.2f} GB are to come, and {free / 1e9:.2f} GB are free",
            where=str(folder),
            remedy="free some space, or name another folder with the variable QURAN_ASR_CACHE",
        )


@contextlib.contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise QuranAsrError(
            f"cannot be written ({error.strerror or error})",
            where=str(path),
            remedy="name a folder with room with the variable QURAN_ASR_CACHE",
        ) from None
