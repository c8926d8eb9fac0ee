"""Downloading from everyayah.com, or a mirror of it: a folder for each reciter, a file for each verse.

One request at a time, at a limited rate: the server is run by volunteers. A file gets its name only when it
is complete, of the announced length, with the checksum of the server's list if there is one, and a recording;
an interrupted file is resumed at its last byte.
"""

from __future__ import annotations

import hashlib
import http.client
import re
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from quran_asr import __version__, audio
from quran_asr.errors import QuranAsrError
from quran_asr.files import parse_json
from quran_asr.records import VerseRef

SERVER = "https://everyayah.com/data"
TIMEOUT = 30.0
TRIES = 4
LARGEST = 64 << 20
"""Bytes of a verse."""
_LARGEST_LIST = 8 << 20
_BLOCK = 1 << 16
_GIVE_UP = 5
"""Consecutive failed files after which the server, or the connection, is taken to be at fault."""
_FOLDER = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?", re.ASCII)


@dataclass(frozen=True, slots=True)
class Recitation:
    """A recitation that the server offers."""

    folder: str
    """Its name in addresses and on the command line."""
    name: str
    bitrate: str


@dataclass(frozen=True, slots=True)
class MissingFile:
    """A verse that could not be downloaded, and why."""

    url: str
    reason: str


@dataclass(frozen=True, slots=True)
class DownloadReport:
    """The result of a download."""

    folder: Path
    fetched: int
    """Files."""
    bytes: int
    present: int
    """Files that already existed."""
    checked: int
    """Fetched files verified against a checksum of the server."""
    missing: tuple[MissingFile, ...]


class Server:
    """Sends requests one after another, at a limited rate per second."""

    def __init__(self, address: str = SERVER, rate: float = 4.0) -> None:
        """Sends no request yet.

        Raises:
            QuranAsrError: the address is not one of http or https.
        """
        parts = urllib.parse.urlsplit(address)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
            raise QuranAsrError(
                "is not the address of a server", where=address, remedy="write https://HOST/FOLDER"
            )
        self.address = address.rstrip("/")
        self._between = 1.0 / rate
        self._next = 0.0
        self._opener = urllib.request.build_opener(_SafeRedirects)

    def open(self, path: str, start: int = 0) -> http.client.HTTPResponse:
        """The response for a file from byte `start`; waits until the next request is due.

        Raises:
            urllib.error.HTTPError, OSError, http.client.HTTPException: as `urllib.request`.
        """
        now = time.monotonic()
        if now < self._next:
            time.sleep(self._next - now)
        self._next = max(now, self._next) + self._between
        headers = {"User-Agent": f"quran-asr/{__version__}", "Accept-Encoding": "identity"}
        if start:
            headers["Range"] = f"bytes={start}-"
        request = urllib.request.Request(f"{self.address}/{urllib.parse.quote(path)}", headers=headers)
        answer: http.client.HTTPResponse = self._opener.open(request, timeout=TIMEOUT)
        return answer

    def read(self, path: str) -> bytes | None:
        """A small file; None if the server does not have it.

        Raises:
            QuranAsrError: the server cannot be reached, or does not send a small file.
        """
        for attempt in range(TRIES):
            try:
                with self.open(path) as answer:
                    content = answer.read(_LARGEST_LIST + 1)
                if len(content) > _LARGEST_LIST:
                    raise QuranAsrError(
                        f"more than {_LARGEST_LIST:,} bytes",
                        where=f"{self.address}/{path}",
                        remedy="check the address, or name another mirror: --from URL",
                    )
                return None if _is_web_page(content) else content
            except urllib.error.HTTPError as error:
                if error.code in (403, 404, 410):
                    return None
                problem: Exception = error
            except (OSError, http.client.HTTPException) as error:
                problem = error
            _wait(attempt, problem)
        raise self._unreachable(problem, path)

    def _unreachable(self, error: Exception, path: str) -> QuranAsrError:
        return QuranAsrError(
            f"cannot be had ({_reason(error)})",
            where=f"{self.address}/{path}",
            remedy="check the connection, or name a mirror: --from URL",
        )


class _SafeRedirects(urllib.request.HTTPRedirectHandler):
    """Follows no redirection from https to anything else, nor from http to anything but http and https."""

    def redirect_request(
        self, req: urllib.request.Request, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        allowed = ("https",) if req.type == "https" else ("http", "https")
        if urllib.parse.urlsplit(newurl).scheme not in allowed:
            raise urllib.error.URLError(f"redirects to {ascii(newurl)[1:-1][:100]}, which is not https")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def recitations(server: Server) -> list[Recitation]:
    """The recitations that the server lists.

    Raises:
        QuranAsrError: it has no readable list.
    """
    content = server.read("recitations.js")
    where = f"{server.address}/recitations.js"
    if content is None:
        raise QuranAsrError(
            "the server has no list of recitations", where=where, remedy="name reciters yourself"
        )
    try:
        values = parse_json(content)
        entries = [one for key, one in values.items() if key.isdigit()]
        return sorted(
            (Recitation(one["subfolder"], one["name"], one.get("bitrate", "")) for one in entries),
            key=lambda one: one.folder.lower(),
        )
    except (ValueError, AttributeError, TypeError, KeyError):
        raise QuranAsrError(
            "not a list of recitations",
            where=where,
            remedy="check the address, or name another mirror: --from URL",
        ) from None


def wanted_files(
    reciters: Sequence[str], refs: Sequence[VerseRef], folder: Path
) -> tuple[list[tuple[str, Path]], int]:
    """(path on the server, local file) of each missing verse, and the number of existing ones.

    Raises:
        QuranAsrError: a reciter's name is not the name of a folder.
    """
    for reciter in reciters:
        if not _FOLDER.fullmatch(reciter) or ".." in reciter:
            raise QuranAsrError(
                f"`{reciter}` is not the folder of a reciter",
                remedy="quran-asr corpus download everyayah --list shows them",
            )
    every = [
        (
            f"{reciter}/{ref.surah:03d}{ref.ayah:03d}.mp3",
            folder / reciter / f"{ref.surah:03d}{ref.ayah:03d}.mp3",
        )
        for reciter in reciters
        for ref in refs
    ]
    files = [(path, target) for path, target in every if not target.is_file()]
    return files, len(every) - len(files)


def download(
    server: Server,
    reciters: Sequence[str],
    refs: Sequence[VerseRef],
    folder: Path,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> DownloadReport:
    """Fetch verses of reciters to `folder/RECITER/SSSAAA.mp3`, which `corpus scan` reads.

    Raises:
        QuranAsrError: a name is wrong, or several files in a row cannot be downloaded.
        OSError: the disk is full; finished files and the part of the current one are kept.
    """
    files, present = wanted_files(reciters, refs, folder)
    missing: list[MissingFile] = []
    fetched = size = checked = in_a_row = 0
    checksums: dict[str, dict[str, str]] = {}
    for done, (path, target) in enumerate(files):
        on_progress(done, len(files))
        reciter = path.rpartition("/")[0]
        if reciter not in checksums:
            checksums[reciter] = _checksums(server.read(f"{reciter}/000_checksum.md5"))
        checksum = checksums[reciter].get(target.name)
        try:
            _fetch(server, path, target, checksum)
        except _UnavailableError as error:
            missing.append(MissingFile(f"{server.address}/{path}", str(error)))
            in_a_row += 1
            if in_a_row == _GIVE_UP and not fetched:
                raise QuranAsrError(
                    f"gave up after {_GIVE_UP} files: {error}",
                    where=missing[0].url,
                    remedy="check the reciter with --list, or name a mirror: --from URL",
                ) from None
            continue
        in_a_row = 0
        fetched += 1
        size += target.stat().st_size
        checked += checksum is not None
    on_progress(len(files), len(files))
    return DownloadReport(folder, fetched, size, present, checked, tuple(missing))


class _UnavailableError(Exception):
    """A file that the server does not have, or that is not the expected one."""


def _fetch(server: Server, path: str, target: Path, checksum: str | None) -> None:
    """Download one file, in several tries if needed, each resuming the last one."""
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(target.name + ".part")
    problem: Exception | None = None
    for attempt in range(TRIES):
        try:
            whole = _resume(server, path, part)
        except urllib.error.HTTPError as error:
            if error.code == 416:  # the local part does not match the file on the server
                part.unlink(missing_ok=True)
            elif error.code < 500 and error.code != 429:
                raise _UnavailableError(f"the server answers {error.code}") from None
            problem, whole = error, False
        except (urllib.error.URLError, TimeoutError, ConnectionError, http.client.HTTPException) as error:
            problem, whole = error, False
        if whole:
            _refuse_unlike(part, checksum)
            part.replace(target)
            return
        _wait(attempt, problem)
    raise _UnavailableError(_reason(problem) if problem else "the connection ends before the file does")


def _resume(server: Server, path: str, part: Path) -> bool:
    """Append to the local part of a file; returns whether it is complete."""
    there = part.stat().st_size if part.exists() else 0
    with server.open(path, there) as answer:
        if there and not str(answer.headers.get("Content-Range", "")).startswith(f"bytes {there}-"):
            there = 0  # the server sends all of it
        announced = answer.headers.get("Content-Length")
        total = there + int(announced) if announced and announced.isdigit() else None
        if total is not None and total > LARGEST:
            raise _UnavailableError(f"too large for a verse: {total:,} bytes")
        size = there
        with part.open("ab" if there else "wb") as file:
            for block in iter(lambda: answer.read(_BLOCK), b""):
                if not size and _is_web_page(block):
                    raise _UnavailableError("a web page, not a recording")
                size += len(block)
                if size > LARGEST:
                    raise _UnavailableError(f"too large for a verse: more than {LARGEST:,} bytes")
                file.write(block)
    return size > 0 and total in (None, size)


def _refuse_unlike(part: Path, checksum: str | None) -> None:
    """Refuse and delete a file that does not match the server's list, or is not a recording."""
    if checksum is not None:
        with part.open("rb") as file:
            if hashlib.file_digest(file, "md5").hexdigest() != checksum:
                part.unlink()
                raise _UnavailableError("its checksum is not that of the server's list")
    try:
        audio.probe(part)
    except QuranAsrError as error:
        part.unlink()
        raise _UnavailableError(error.what) from None


def _checksums(content: bytes | None) -> dict[str, str]:
    """Name -> MD5 in hex, of lines like `<md5> *folder/001001.mp3`."""
    lines = (content or b"").decode("utf-8", errors="replace").splitlines()
    found = (re.fullmatch(r"\s*([0-9a-fA-F]{32})\s+\*?(.*\S)\s*", line) for line in lines)
    return {re.split(r"[/\\]", line[2])[-1]: line[1].lower() for line in found if line}


def _is_web_page(content: bytes) -> bool:
    head = content[:512].removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    return head.startswith((b"<!doctype", b"<html", b"<head", b"<script", b"<!--", b"<?xml"))


def _wait(attempt: int, error: Exception | None) -> None:
    """Seconds to wait: longer after each try, or as long as the server requests, up to a minute."""
    if attempt + 1 == TRIES:
        return
    asked = error.headers.get("Retry-After", "") if isinstance(error, urllib.error.HTTPError) else ""
    time.sleep(min(60.0, float(asked)) if asked.isdigit() else 0.5 * 2**attempt)


def _reason(error: Exception) -> str:
    if isinstance(error, urllib.error.HTTPError):
        return f"the server answers {error.code}"
    reason = getattr(error, "reason", None) or error
    return str(reason)[:160] or type(error).__name__


def refuse_unknown(reciters: Sequence[str], offered: Sequence[Recitation]) -> None:
    """Refuse reciters that the server does not list.

    Raises:
        QuranAsrError: with the most similar names.
    """
    folders = [one.folder for one in offered]
    for reciter in reciters:
        if reciter not in folders:
            near = get_close_matches(reciter, folders, n=3, cutoff=0.4)
            remedy = f"did you mean {' or '.join(near)}?" if near else "--list shows all"
            raise QuranAsrError(f"the server lists no reciter `{reciter}`", remedy=remedy)
