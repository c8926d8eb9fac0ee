"""Models on the Hugging Face hub: found, downloaded, cached and verified.

They are kept in `$QURAN_ASR_CACHE/pretrained/<owner>/<name>/<revision>/`. Beside each file stands a record
with the sha256 that it had when it was first used, a file put there by hand included, and the file is
compared with it at every later use. To be quick, a file whose length and time of change are those of the
last comparison is not read again: one that is changed and dated back is not noticed. What Hugging Face's
own cache holds is used where it lies, and recorded in the same way.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlsplit

from huggingface_hub import constants, try_to_load_from_cache
from huggingface_hub.utils import WeakFileLock, build_hf_headers  # type: ignore[attr-defined]

from quran_asr.errors import QuranAsrError
from quran_asr.files import cache_folder, parse_json, write_atomically
from quran_asr.training.download import Progress, download_archive, file_sha256, is_archive, writing
from quran_asr.training.http import RequestError, fetch_json

KEY = "init_from_pretrained_model"
"""The recipe's key that names a model."""
_SHA256 = re.compile(r"[0-9a-f]{64}")
_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True, slots=True)
class OnHub:
    """A model by its place on the hub; all parts are fit for a path."""

    repository: str
    """`owner/name`"""
    revision: str | None
    """Branch, tag or commit; None: the hub's `main`."""
    file: str | None
    """None: the only `.nemo` there."""
    prefers_own_name: bool
    """Where there are several: `<name>.nemo` is meant, as NVIDIA calls its archives."""
    hint: str
    """What to say where the hub has no such model."""

    @property
    def likely_file(self) -> str:
        return self.file or f"{self.repository.split('/')[1]}.nemo"

    @property
    def page(self) -> str:
        return f"{_endpoint()[0]}/{self.repository}"

    @property
    def listing(self) -> str:
        endpoint = _endpoint()[0]
        of_revision = f"/revision/{quote(self.revision, safe='')}" if self.revision else ""
        return f"{endpoint}/api/models/{self.repository}{of_revision}?blobs=True"

    def url(self, file: str, commit: str | None = None) -> str:
        return f"{self.page}/resolve/{quote(commit or self.revision or 'main', safe='')}/{quote(file)}"

    def folder(self, commit: str | None = None) -> Path:
        revision = quote(commit or self.revision or "main", safe="")
        return cache_folder() / "pretrained" / self.repository / revision


@dataclass(frozen=True, slots=True)
class Kept:
    """A model's archive in a cache, checked."""

    path: Path
    sha256: str
    source: str
    """The URL that it came from, or `file` where somebody put it there."""


@dataclass(frozen=True, slots=True)
class _Record:
    """What is written beside a file, as JSON."""

    url: str | None
    """None: somebody put it there."""
    revision: str | None
    """The commit, where it is known."""
    etag: str | None
    bytes: int
    sha256: str
    date: str
    """ISO 8601, UTC: when it came, or was used first."""
    one_of_several: bool
    """The hub had other `.nemo` files beside it, so that the model's name alone does not mean it."""
    modified_ns: int
    """Time of change when it was last compared."""


@dataclass(frozen=True, slots=True)
class _Listed:
    """One `.nemo` as the hub lists it."""

    file: str
    commit: str | None
    bytes: int | None
    sha256: str | None
    one_of_several: bool


def fetch_model(model: OnHub, on_progress: Progress | None = None) -> Kept:
    """The archive of a model: from our cache, from Hugging Face's, or downloaded.

    Raises:
        QuranAsrError: no such model, no access, nothing to be reached, or not the file that it should be.
    """
    kept = _cached(model)
    if kept is None and (model.file or model.prefers_own_name):
        kept = _cached_by_hugging_face(model, model.likely_file, model.revision)
    if kept is not None:
        return kept
    try:
        if constants.HF_HUB_OFFLINE:
            raise RequestError("HF_HUB_OFFLINE is set")
        headers = _headers()
        listed = _choose(model, _list(model, headers))
        kept = _cached_by_hugging_face(model, listed.file, listed.commit)
        if kept is None:
            with _alone(model.folder()):  # another process may have been quicker
                kept = _cached(replace(model, file=listed.file)) or _download(
                    model, listed, headers, on_progress
                )
        return kept
    except RequestError as error:
        kept = _cached_by_hugging_face(model, model.likely_file, model.revision)
        if kept is not None:
            return kept
        raise _explained(error, model) from None


def is_inside(relative: str) -> bool:
    """Whether a path that came from outside stays in the folder that it is appended to."""
    return relative.isprintable() and all(
        part not in {"", ".", ".."} for part in re.split(r"[/\\]", relative)
    )


# The hub


def _endpoint() -> tuple[str, str]:
    """The hub's address, and `user:password` of it: the address is shown and recorded, the other never.

    Raises:
        QuranAsrError: `HF_ENDPOINT` is no address.
    """
    named = (os.environ.get("HF_ENDPOINT") or constants.ENDPOINT).rstrip("/")
    try:
        parts = urlsplit(named)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
            raise ValueError
    except ValueError:
        raise QuranAsrError(
            "is not the address of a hub", where="HF_ENDPOINT", remedy="write it as https://HOST, or unset it"
        ) from None
    secret, _, host = parts.netloc.rpartition("@")
    return parts._replace(netloc=host).geturl(), unquote(secret)


def _headers() -> dict[str, str]:
    """Of a request to the hub: who asks. The password of an address stands in the place of a token."""
    headers = build_hf_headers(library_name="quran-asr")
    secret = _endpoint()[1]
    if secret:
        headers["authorization"] = f"Basic {base64.b64encode(secret.encode()).decode()}"
    return headers


def _list(model: OnHub, headers: dict[str, str]) -> list[_Listed]:
    """All `.nemo` files of a model."""
    said = fetch_json(model.listing, headers)
    try:
        commit = said.get("sha")
        rows = [row for row in said["siblings"] if str(row["rfilename"]).endswith(".nemo")]
        if not (isinstance(commit, str) and _COMMIT.fullmatch(commit)):
            commit = None
        return [
            _Listed(row["rfilename"], commit, *_size_and_sha256(row), len(rows) > 1)
            for row in rows
            if is_inside(row["rfilename"])
        ]
    except (AttributeError, KeyError, TypeError):
        raise RequestError("answers with something that lists no files", status=200, passing=False) from None


def _size_and_sha256(row: dict[str, Any]) -> tuple[int | None, str | None]:
    stored = row.get("lfs") or {}
    size, sha256 = stored.get("size", row.get("size")), stored.get("sha256")
    known = isinstance(sha256, str) and _SHA256.fullmatch(sha256)
    return size if isinstance(size, int) else None, sha256 if known else None


def _choose(model: OnHub, listed: list[_Listed]) -> _Listed:
    names = ", ".join(row.file for row in listed[:8])
    if model.file or model.prefers_own_name:
        for row in listed:
            if row.file == model.likely_file:
                return row
    if model.file:
        has = f"it has {names}" if names else "it has no .nemo file at all"
        raise QuranAsrError(f"`{model.repository}` has no file `{model.file}`", where=KEY, remedy=has)
    if not listed:
        raise QuranAsrError(
            f"`{model.repository}` has no .nemo file", where=KEY, remedy=f"name a model of NeMo; {model.hint}"
        )
    if len(listed) > 1:
        at = f"@{model.revision}" if model.revision else ""
        raise QuranAsrError(
            f"`{model.repository}` has several .nemo files: {names}",
            where=KEY,
            remedy=f"name one, as in `{model.repository}{at}:{listed[0].file}`",
        )
    return listed[0]


def _download(model: OnHub, listed: _Listed, headers: dict[str, str], on_progress: Progress | None) -> Kept:
    url, path = model.url(listed.file, listed.commit), model.folder() / listed.file
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    came = download_archive(
        url, path, headers=headers, size=listed.bytes, sha256=listed.sha256, on_progress=on_progress
    )
    modified = path.stat().st_mtime_ns
    record = _Record(
        url, listed.commit, came.etag, came.bytes, came.sha256, _now(), listed.one_of_several, modified
    )
    _write(record, path)
    return Kept(path, came.sha256, url)


def _explained(error: RequestError, model: OnHub) -> QuranAsrError:
    """An answer of the hub in words, with what to do about it."""
    path = model.folder() / model.likely_file
    by_hand = (
        f"download {model.url(model.likely_file)} and put it at {path}, or name a file with `{KEY}=PATH`"
    )
    log_in = f"accept the conditions at {model.page} and log in with `hf auth login` (or set HF_TOKEN)"
    if model.page.startswith("http:"):
        log_in += "; no token is sent over plain http: use an https address in HF_ENDPOINT"
    what, remedy = f"the hub {error.reason}", by_hand
    if error.status is None:
        what = f"`{model.repository}` is not in the cache, and the hub cannot be reached ({error.reason})"
        if any(model.folder().glob("*.part")):
            what = f"the download of `{model.repository}` broke off: {error.reason}"
            remedy = f"the same command continues it; or {by_hand}"
    elif error.status == 403 or error.code == "GatedRepo":
        what, remedy = f"`{model.repository}` is given only to those who log in (HTTP {error.status})", log_in
    elif error.status == 401:  # the hub's answer for missing models too, to those who are not logged in
        what = f"the hub has no model `{model.repository}`, or gives it only to those who log in (HTTP 401)"
        remedy = f"{model.hint} Else {log_in}" if model.hint.endswith("?") else f"{log_in}; {model.hint}"
    elif error.status == 404 and error.code == "RevisionNotFound":
        what, remedy = (
            f"`{model.repository}` has no revision `{model.revision}`",
            f"see {model.page}/tree/main",
        )
    elif error.status == 404:
        what, remedy = f"the hub has no model `{model.repository}` (HTTP 404)", model.hint
    elif error.status == 429:
        asked = f" and asks to wait {error.wait:.0f} s" if error.wait else ""
        what = f"the hub takes no more requests for now (HTTP 429){asked}"
        remedy = f"try again later, or {by_hand}"
    elif error.status >= 500:
        what, remedy = f"the hub has trouble (HTTP {error.status})", f"try again later, or {by_hand}"
    return QuranAsrError(what, where=KEY, remedy=remedy)


# The caches


def _cached(model: OnHub) -> Kept | None:
    """The file in our cache; for a name without a file, the one there if the hub has no others beside it."""
    folder = model.folder()
    path = folder / model.likely_file
    if model.file is None and not path.is_file():
        lying = [path for path in folder.glob("*.nemo") if path.is_file()]
        path = lying[0] if len(lying) == 1 else path
    if not path.is_file():
        return None
    record = _read(path)
    named = model.file or model.prefers_own_name
    return None if record and record.one_of_several and not named else _checked(path, path, None, None)


def _cached_by_hugging_face(model: OnHub, file: str, revision: str | None) -> Kept | None:
    """The file in Hugging Face's own cache, `snapshots/<commit>/<file>`, a link to `blobs/<sha256>`."""
    found = try_to_load_from_cache(model.repository, file, revision=revision)
    if not isinstance(found, str):
        return None
    path = Path(found)
    commit = path.parents[file.count("/")].name
    blob = path.resolve().name
    recorded = model.folder(commit) / file
    return _checked(path, recorded, blob if _SHA256.fullmatch(blob) else None, model.url(file, commit))


def _checked(path: Path, recorded: Path, expected: str | None, url: str | None) -> Kept:
    """Compare a file with its record, which stands beside `recorded`; without one, make it.

    Args:
        expected: the sha256, if it is known without a record.
        url: what to record as its origin; None: somebody put it there.
    """
    state = path.stat()
    record = _read(recorded)
    if record is None or (record.bytes, record.modified_ns) != (state.st_size, state.st_mtime_ns):
        sha256 = file_sha256(path)
        should = record.sha256 if record else expected
        if should not in {None, sha256}:
            also = f" and {_beside(recorded)}" if record else ""
            raise QuranAsrError(
                f"has changed: its sha256 is {sha256[:12]}..., and should be {str(should)[:12]}...",
                where=str(path),
                remedy=f"delete it{also}, and get it again",
            )
        if not is_archive(path):
            raise QuranAsrError(
                "is no .nemo archive: it was cut off, or is something else under that name",
                where=str(path),
                remedy="delete it, and get it again",
            )
        fresh = _Record(url, None, None, state.st_size, sha256, _now(), False, 0)
        record = replace(record or fresh, modified_ns=state.st_mtime_ns)
        _write(record, recorded)
    return Kept(path, record.sha256, record.url or "file")


def _beside(path: Path) -> Path:
    return path.with_name(f"{path.name}.json")


def _read(path: Path) -> _Record | None:
    """The record of a file; None if there is none."""
    beside = _beside(path)
    try:
        said = parse_json(beside.read_text(encoding="utf-8"))
        record = _Record(**said)
        if _SHA256.fullmatch(record.sha256) and isinstance(record.bytes, int):
            return record
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError):
        pass
    raise QuranAsrError(
        "is not the record of a download",
        where=str(beside),
        remedy="delete it; the file is then recorded anew",
    )


def _write(record: _Record, path: Path) -> None:
    with writing(_beside(path)):
        write_atomically(_beside(path), (json.dumps(asdict(record), indent=2) + "\n").encode())


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Wait until no other process downloads into a folder."""
    with contextlib.ExitStack() as stack:
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
            stack.enter_context(WeakFileLock(folder / ".lock"))
        yield
