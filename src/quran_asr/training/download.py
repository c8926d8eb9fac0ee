"""Download of one large archive: resumed, checked, atomic.

Hugging Face's own download is not used: it checks the length alone and takes a page of HTML for a file.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from quran_asr.errors import QuranAsrError
from quran_asr.files import sha256_of, write_atomically
from quran_asr.tarfiles import TORN, open_tar
from quran_asr.training.http import Answer, RequestError, ask, patiently

Progress = Callable[[int, int], None]
"""Called with the bytes that are here and the bytes in all (0 where nobody knows); the first never falls."""


@dataclass(frozen=True, slots=True)
class Downloaded:
    """What is known of a file that has arrived."""

    bytes: int
    sha256: str
    """Hex, of the whole file as it lies on the disk."""
    etag: str | None


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

    Until then it is `<to>.part`, and `<to>.part.json` tells what it is a part of. A part is continued if the
    server still has the same file: its ETag says so (`If-Range`), or the sha256 at the end. One caller at a
    time: the lock is the caller's.

    Args:
        headers: for the server of `url`; `authorization` goes to no other.
        size: bytes, if known; else the server's `X-Linked-Size` or `Content-Length` is taken for true.
        sha256: hex, if known; else the server's `X-Linked-Etag` if it is one.

    Raises:
        RequestError: the server cannot be reached, refuses, or breaks off after all tries; the part stays.
        QuranAsrError: no archive, not the expected length or sha256, no room, cannot be written.
    """
    part = _Part(to.with_name(f"{to.name}.part"))
    report = _rising(on_progress)

    def fetch() -> _Arrived:
        return _fetch(url, part, headers, size, sha256, report)

    arrived = patiently(fetch, gained=part.bytes)
    found = file_sha256(part.path)
    if arrived.in_pieces and arrived.sha256 not in {None, found}:  # pieces of two files, or of a torn one
        part.drop()
        arrived = patiently(fetch, gained=part.bytes)
        found = file_sha256(part.path)
    if arrived.sha256 not in {None, found}:
        part.drop()
        raise QuranAsrError(
            f"what came has the sha256 {found[:12]}..., and the server says {str(arrived.sha256)[:12]}...; "
            "it was thrown away",
            where=url,
            remedy="try again; if it stays so, something on the way changes files",
        )
    if not is_archive(part.path):
        part.drop()
        raise QuranAsrError("what came is no .nemo archive; it was thrown away", where=url)
    part.put(to)
    return Downloaded(arrived.bytes, found, arrived.etag)


def file_sha256(path: Path) -> str:
    """Hex sha256 of a whole file.

    Raises:
        QuranAsrError: it cannot be read.
    """
    try:
        return sha256_of(path)
    except OSError as error:
        raise QuranAsrError(f"cannot be read ({error.strerror or error})", where=str(path)) from None


def is_archive(path: Path) -> bool:
    """Whether a file begins as a tar with something in it, plain or gzipped as NeMo writes them."""
    try:
        with open_tar(path) as archive:
            return archive.file.next() is not None
    except (QuranAsrError, *TORN):
        return False


@dataclass(frozen=True, slots=True)
class _Arrived:
    bytes: int
    sha256: str | None
    """What it should be."""
    etag: str | None
    in_pieces: bool


def _fetch(
    url: str, part: _Part, headers: Mapping[str, str], size: int | None, sha256: str | None, report: Progress
) -> _Arrived:
    """Ask once for what is missing, and append it."""
    here, etag = part.continued(url, sha256)
    if here and here == size:  # cut off between the last byte and the new name
        return _Arrived(here, sha256, etag, in_pieces=True)
    asked = dict(headers)
    if here:
        asked["Range"] = f"bytes={here}-"
    if here and etag:
        asked["If-Range"] = etag
    try:
        with ask(url, asked) as answer:
            if answer.headers.get("content-type", "").startswith("text/html"):
                raise QuranAsrError(
                    "a page of HTML came and not the file; it was thrown away",
                    where=url,
                    remedy="a proxy, a login page or a blocked address gives this: open it in a browser",
                )
            total = _length(answer, here, etag)
            in_pieces = answer.status == 206
            here = here if in_pieces else 0
            expected = size if size is not None else _number(answer.headers.get("x-linked-size"))
            if total is None:
                total = expected
            elif expected not in {None, total}:
                part.drop()
                raise _wrong_length(url, expected, total)
            sha256 = sha256 or _as_sha256(answer.headers.get("x-linked-etag"))
            etag = answer.headers.get("etag", etag)
            _need_room(part.path.parent, (total or here) - here)
            if not in_pieces:
                part.begin(url, etag, sha256)
            here = _append(part, answer, here, total, report)
    except RequestError as error:
        if error.status in {206, 416}:  # not the range that was asked for: begin anew
            part.drop()
        raise
    if total is not None and here > total:
        part.drop()
        raise _wrong_length(url, total, here)
    if total is not None and here < total:
        raise RequestError(f"the connection broke after {here:,} of {total:,} bytes")
    return _Arrived(here, sha256, etag, in_pieces)


def _length(answer: Answer, here: int, etag: str | None) -> int | None:
    """Bytes of the whole file as the answer tells them.

    Raises:
        RequestError: the answer is neither the whole file nor the rest that was asked for.
    """
    if answer.status == 200:
        return _number(answer.headers.get("content-length"))
    if answer.status != 206 or not here:
        raise RequestError(f"answers HTTP {answer.status}", status=answer.status, passing=False)
    content_range = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", answer.headers.get("content-range", ""))
    other_file = etag is not None and answer.headers.get("etag", etag) != etag
    if content_range is None or int(content_range.group(1)) != here or other_file:
        raise RequestError("answers with the rest of another file", status=206)
    return _number(content_range.group(2))


def _append(part: _Part, answer: Answer, here: int, total: int | None, report: Progress) -> int:
    """Write what comes as it comes, up to the chunk that goes beyond the end. Returns the part's bytes."""
    report(here, total or 0)
    with writing(part.path):
        file = part.path.open("ab")
    with file:
        for chunk in answer.body:
            with writing(part.path):
                file.write(chunk)
                file.flush()  # now, so that a killed process leaves it and a full disk is told here
            here += len(chunk)
            if total is not None and here > total:
                break
            report(here, total or 0)
    return here


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
        """Bytes to go on from, and the ETag that must still hold; a part of something else is dropped."""
        try:
            origin = json.loads(self.origin.read_text(encoding="utf-8"))
            of_url, etag, of_sha256 = origin["url"], origin["etag"], origin["sha256"]
        except (OSError, ValueError, KeyError, TypeError):
            of_url = etag = of_sha256 = None
        if not (isinstance(etag, str) and etag.isascii() and etag.isprintable()):
            etag = None
        same_file = of_sha256 == sha256 if sha256 else of_url == url and etag is not None
        if same_file and self.bytes():
            return self.bytes(), etag
        self.drop()
        return 0, None

    def begin(self, url: str, etag: str | None, sha256: str | None) -> None:
        self.drop()
        strong = etag if etag and not etag.startswith("W/") else None  # a weak one is no proof of equal bytes
        with writing(self.path):
            write_atomically(self.origin, json.dumps({"url": url, "etag": strong, "sha256": sha256}).encode())

    def drop(self) -> None:
        self.path.unlink(missing_ok=True)
        self.origin.unlink(missing_ok=True)

    def put(self, to: Path) -> None:
        with writing(to):
            with self.path.open("rb") as file:
                os.fsync(file.fileno())
            self.path.replace(to)
            self.origin.unlink(missing_ok=True)


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """What the system says of a file or folder of the cache that cannot be written, in one line."""
    try:
        yield
    except OSError as error:
        raise QuranAsrError(
            f"cannot be written ({error.strerror or error})",
            where=str(path),
            remedy="make room, or name another folder with the variable QURAN_ASR_CACHE",
        ) from None


def _need_room(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise QuranAsrError(
            f"{needed / 1e9:.2f} GB are to come, and {free / 1e9:.2f} GB are free",
            where=str(folder),
            remedy="make room, or name another folder with the variable QURAN_ASR_CACHE",
        )


def _wrong_length(url: str, expected: int | None, found: int) -> QuranAsrError:
    return QuranAsrError(
        f"the file should have {expected or 0:,} bytes, and {found:,} come; nothing was kept",
        where=url,
        remedy="try again later",
    )


def _rising(on_progress: Progress | None) -> Progress:
    """The same, never falling: a file that is begun anew does not run backwards."""
    highest = 0

    def report(done: int, total: int) -> None:
        nonlocal highest
        highest = max(highest, done)
        if on_progress is not None:
            on_progress(highest, total)

    return report


def _number(said: str | None) -> int | None:
    return int(said) if said is not None and said.isdecimal() else None


def _as_sha256(etag: str | None) -> str | None:
    found = re.fullmatch(r'"?([0-9a-f]{64})"?', etag or "")
    return found.group(1) if found else None
