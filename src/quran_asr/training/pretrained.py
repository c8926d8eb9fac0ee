"""Locates the pretrained model: NVIDIA name, Hugging Face id, path, run folder or bundle.

A name that gives nothing is an error. Nobody trains from random weights because a name was misspelt, a
variable was not set or a download broke off.

Downloads are kept in `$QURAN_ASR_CACHE/pretrained/<owner>/<name>/<revision>/`. Beside each file stands a
record with the sha256 that it had when it was first used, a file put there by hand included, and the file is
compared with it at every later use. To be quick, a file whose length and time of change are those of the
last comparison is not read again: one that is changed and dated back is not noticed. What Hugging Face's
own cache holds is used where it lies, and recorded in the same way.

Requests are made by `huggingface_hub`, file by file with its `http_get`: its `hf_hub_download` starts over
after an interruption, checks the length alone, and takes a page of HTML for a file.
"""

from __future__ import annotations

import base64
import contextlib
import difflib
import io
import os
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from glob import escape
from ipaddress import ip_address
from pathlib import Path
from typing import Any, BinaryIO, cast
from urllib.parse import quote, unquote, urljoin, urlsplit

from huggingface_hub import HfApi, constants, get_hf_file_metadata, try_to_load_from_cache
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from huggingface_hub.file_download import http_get
from huggingface_hub.utils import (  # type: ignore[attr-defined]
    WeakFileLock,
    build_hf_headers,
    validate_repo_id,
)

from quran_asr.errors import QuranAsrError
from quran_asr.experiments.planning.starting_point import IN_PACKAGE
from quran_asr.experiments.run_folder import RunFolder, open_run
from quran_asr.files import cache_folder, parse_json, sha256_of, write_json
from quran_asr.runtime.bundle import (
    DEFAULT_MODEL,
    DESCRIPTION,
    ENCODER,
    TRAINING_DATA,
    Bundle,
    is_bundle,
    read_bundle,
)
from quran_asr.tarfiles import is_archive

SHORT_NAMES = (
    "stt_en_fastconformer_transducer_large",
    "stt_en_fastconformer_hybrid_large_streaming_multi",
    "stt_ar_fastconformer_hybrid_large_pcd_v1.0",
)
"""NVIDIA's models that suit this program, `nvidia/<name>` on Hugging Face; other `stt_...` names work too."""
KEY = "init_from_pretrained_model"
"""The recipe's key that names a model."""

Progress = Callable[[int, int], None]
"""Called with the bytes that are here and the bytes in all (0 where nobody knows); the first never falls."""

_NETWORK = cast(tuple[type[Exception], ...], HfHubHTTPError.__bases__)
"""The base error of the HTTP library that the hub's client uses (it has changed twice), and OSError."""

_ID = re.compile(
    r"(?:(?P<owner>[\w.-]+)/)?(?P<model>[\w.-]+)(?:@(?P<revision>[\w./+-]+))?(?::(?P<file>[^:\\]+\.nemo))?",
    re.ASCII,
)
_PLAIN = re.compile(r"stt_[\w.-]+(@[^:]+)?(:.+)?", re.ASCII)
"""What NVIDIA's names look like without their owner."""
_SHA256 = re.compile(r"[0-9a-f]{64}")
_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True, slots=True)
class Pretrained:
    """A model's archive on this machine."""

    name: str
    """As written in the recipe."""
    path: Path
    """A local `.nemo` file, or the folder of a bundle."""
    sha256: str
    """Hex, of the whole file; of a bundle that of its `bundle.json`, which has those of the other files."""
    source: str
    """A URL, `file`, `run <path>`, or `bundle`."""
    training_data: Path | None = None
    """The `training_data.json` of the run or the bundle; None where what it was trained on is not known."""


def find_pretrained(name: str, on_progress: Progress | None = None) -> Pretrained:
    """The archive that a name stands for, downloaded if need be.

    Args:
        name: the path of a `.nemo`, a run's folder (its best), a bundle's folder, `default` (the bundle in
            the package), a name such as `stt_en_fastconformer_transducer_large`, or a Hugging Face id
            `owner/name`; behind the last two, where needed, `@revision` and `:file.nemo`.
        on_progress: called during a download.

    Raises:
        QuranAsrError: nothing of that name, no access, nothing to be reached, or not the file that it should
            be.
    """
    known = _located(name)
    return known if isinstance(known, Pretrained) else _fetch_model(known, on_progress)


def refuse_impossible_start(name: str) -> None:
    """Stop at a name that no model can be found by, before anything that takes time. Nothing is downloaded.

    Raises:
        QuranAsrError: no such file, no archive, or no name of a model.
    """
    _located(name)


# What a name means


@dataclass(frozen=True, slots=True)
class _OnHub:
    """A model by its place on the hub; all parts are fit for a path."""

    name: str
    """As written in the recipe."""
    repository: str
    """`owner/name`"""
    revision: str | None
    """Branch, tag or commit; None: the hub's `main`."""
    file: str | None
    """None: the only `.nemo` there."""
    prefers_own_name: bool
    """Where there are several: `<name>.nemo` is meant, as NVIDIA calls its archives."""

    @property
    def likely_file(self) -> str:
        return self.file or f"{self.repository.split('/')[1]}.nemo"

    @property
    def page(self) -> str:
        return f"{_endpoint()[0]}/{self.repository}"

    def url(self, file: str, commit: str | None = None) -> str:
        return f"{self.page}/resolve/{quote(commit or self.revision or 'main', safe='')}/{quote(file)}"

    def folder(self, commit: str | None = None) -> Path:
        revision = quote(commit or self.revision or "main", safe="")
        return cache_folder() / "pretrained" / self.repository / revision


def _located(name: str) -> Pretrained | _OnHub:
    if not name.strip():
        raise QuranAsrError(
            "is empty, as from a shell variable that is not set; training would begin from random weights",
            where=KEY,
            remedy=f"set the variable; if random weights are meant, use `{KEY}=null`",
        )
    if name == IN_PACKAGE:
        return _in_package()
    return _on_this_machine(name) or _on_hub(name)


def _in_package() -> Pretrained:
    if not is_bundle(DEFAULT_MODEL):
        raise QuranAsrError(
            "this installation contains no default model",
            where=f"{KEY}={IN_PACKAGE}",
            remedy="name a bundle, a .nemo or a run's folder",
        )
    return _bundle(IN_PACKAGE, DEFAULT_MODEL)


def _on_this_machine(name: str) -> Pretrained | None:
    """The file or the run that a name points to; None if it is not a path.

    `os.path` and not `Path`, whose methods raise at names that no file can have.
    """
    path = Path(os.path.expanduser(name))  # noqa: PTH111
    an_id = _PLAIN.fullmatch(name) is not None
    if os.path.isdir(path) and (is_bundle(path) or (path / ENCODER).is_file()):  # noqa: PTH112
        return _bundle(name, path)
    if os.path.isdir(path):  # noqa: PTH112
        return None if an_id and not (path / "recipe.yaml").is_file() else _best_of(name, path)
    if os.path.isfile(path) and path.suffix.lower() == ".nemo":  # noqa: PTH113
        return _archive(name, path, "file")
    if os.path.isfile(path) and not an_id:  # noqa: PTH113
        raise QuranAsrError(
            "is not a .nemo file",
            where=name,
            remedy="name the folder of the bundle"
            if path.suffix == ".onnx"
            else "name a .nemo; the .ckpt of a run is continued with `train --resume RUN`",
        )
    beginning = name.startswith((".", "~", "/", os.sep)) or "\\" in name
    if beginning or (name.endswith(".nemo") and ":" not in name):
        raise QuranAsrError("no such file", where=str(path.absolute()), remedy=f"correct `{KEY}={name}`")
    return None


def _best_of(name: str, folder: Path) -> Pretrained:
    if not RunFolder(folder).recipe.is_file() and (lying := sorted(folder.glob("*.nemo"))):
        raise QuranAsrError("is a folder and not a model", where=name, remedy=f"name the file: {lying[0]}")
    best = open_run(folder).best_nemo()
    if best is None:
        raise QuranAsrError(
            "this run has no `.nemo` with `val_wer=` in its name",
            where=name,
            remedy="wait for its first validation, or name another run",
        )
    return replace(_archive(name, best, f"run {folder}"), training_data=_recorded_in(folder))


def _bundle(name: str, folder: Path) -> Pretrained:
    refuse_unreadable(read_bundle(folder))
    return Pretrained(name, folder, _file_sha256(folder / DESCRIPTION), "bundle", _recorded_in(folder))


def _recorded_in(folder: Path) -> Path | None:
    recorded = folder / TRAINING_DATA  # runs and bundles give it one name
    return recorded if recorded.is_file() else None


def refuse_unreadable(bundle: Bundle) -> None:
    """Stop at a bundle that describes itself as one whose weights cannot be read back.

    Raises:
        QuranAsrError: its encoder computes in integers, or its layout is the first.
    """
    if bundle.precision not in ("float32", "int8-weights"):
        raise QuranAsrError(
            f"no training starts from a bundle of precision `{bundle.precision}`: its encoder computes in "
            "integers",
            where=str(bundle.folder),
            remedy="export the model with --int8-weights, or without --int8; or start from its .nemo",
        )
    if bundle.format < 2:
        raise QuranAsrError(
            "no training starts from a bundle of format 1",
            where=str(bundle.folder / DESCRIPTION),
            remedy="export the model again, or start from its .nemo",
        )


def _archive(name: str, path: Path, source: str) -> Pretrained:
    _refuse_other_files(path, "get the file again")
    return Pretrained(name, path, _file_sha256(path), source)


def _refuse_other_files(path: Path, remedy: str) -> None:
    if not is_archive(path):
        raise QuranAsrError(
            "is no .nemo archive: it was cut off, or is something else under that name",
            where=str(path),
            remedy=remedy,
        )


def _on_hub(name: str) -> _OnHub:
    """What a name means on Hugging Face."""
    found = _ID.fullmatch(name)
    if found is None or not (found["owner"] or _PLAIN.fullmatch(name)):
        raise QuranAsrError(f"there is no pretrained model `{name[:100]}`", where=KEY, remedy=_hint(name))
    repository = f"{found['owner'] or 'nvidia'}/{found['model']}"
    try:
        validate_repo_id(repository)
    except HFValidationError:
        raise QuranAsrError(
            f"`{repository[:100]}` is not a Hugging Face id", where=KEY, remedy=_hint(name)
        ) from None
    for part in (found["revision"], found["file"]):
        if part is not None and not _is_inside(part):
            raise QuranAsrError(
                f"`{part[:100]}` is not a revision or file of a model",
                where=KEY,
                remedy="write OWNER/NAME@REVISION:FILE.nemo with names as the hub lists them",
            )
    return _OnHub(name, repository, found["revision"], found["file"], found["owner"] is None)


def _is_inside(relative: str) -> bool:
    """Whether a path that came from outside stays in the folder that it is appended to."""
    return relative.isprintable() and all(
        part not in {"", ".", ".."} for part in re.split(r"[/\\]", relative)
    )


def _hint(name: str) -> str:
    """The nearest known name, or all of them."""
    if name == "last":
        return "name the run's folder: which run is the last changes from day to day"
    plain = re.split(r"[@:]", name.split("/")[-1])[0]
    near = difflib.get_close_matches(
        plain, [known for known in (IN_PACKAGE, *SHORT_NAMES) if known != plain], 1, 0.6
    )
    if near:
        return f"did you mean `{near[0]}`?"
    known = ", ".join((IN_PACKAGE, *SHORT_NAMES))
    return f"known names: {known}; or a Hugging Face id, the path of a .nemo, a run's folder, a bundle"


# The caches


@dataclass(frozen=True, slots=True)
class _Record:
    """What is written beside a file, as JSON."""

    url: str | None
    """None: somebody put it there."""
    revision: str | None
    """The commit, where it is known."""
    bytes: int
    sha256: str
    date: str
    """ISO 8601, UTC: when it came, or was used first."""
    one_of_several: bool
    """The hub had other `.nemo` files beside it, so that the model's name alone does not mean it."""
    modified_ns: int
    """Time of change when it was last compared."""


def _fetch_model(model: _OnHub, on_progress: Progress | None) -> Pretrained:
    """The archive of a model: from our cache, from Hugging Face's, or downloaded."""
    kept = _cached(model)
    if kept is None and (model.file or model.prefers_own_name):
        kept = _cached_by_hugging_face(model, model.likely_file, model.revision)
    if kept is not None:
        return kept
    try:
        headers = _headers()
        listed = _choose(model, _list(model, headers))
        kept = _cached_by_hugging_face(model, listed.file, listed.commit)
        if kept is None:
            with _alone(model.folder()):  # another process may have been quicker
                kept = _cached(replace(model, file=listed.file))
                kept = kept or _download(model, listed, headers, on_progress)
        return kept
    except _NETWORK as error:
        kept = _cached_by_hugging_face(model, model.likely_file, model.revision)
        if kept is not None:
            return kept
        raise _explained(error, model) from None


def _cached(model: _OnHub) -> Pretrained | None:
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
    return None if record and record.one_of_several and not named else _checked(model.name, path, path)


def _cached_by_hugging_face(model: _OnHub, file: str, revision: str | None) -> Pretrained | None:
    """The file in Hugging Face's own cache, `snapshots/<commit>/<file>`, a link to `blobs/<sha256>`."""
    found = try_to_load_from_cache(model.repository, file, revision=revision)
    if not isinstance(found, str):
        return None
    path = Path(found)
    commit = path.parents[file.count("/")].name
    blob = path.resolve().name
    expected = blob if _SHA256.fullmatch(blob) else None
    return _checked(model.name, path, model.folder(commit) / file, expected, model.url(file, commit))


def _checked(
    name: str, path: Path, recorded: Path, expected: str | None = None, url: str | None = None
) -> Pretrained:
    """Compare a file with its record, which stands beside `recorded`; without one, make it.

    Args:
        expected: the sha256, if it is known without a record.
        url: what to record as its origin; None: somebody put it there.
    """
    state = path.stat()
    record = _read(recorded)
    if record is None or (record.bytes, record.modified_ns) != (state.st_size, state.st_mtime_ns):
        sha256 = _file_sha256(path)
        should = record.sha256 if record else expected
        if should not in {None, sha256}:
            also = f" and {_beside(recorded)}" if record else ""
            raise QuranAsrError(
                f"has changed: its sha256 is {sha256[:12]}..., and should be {str(should)[:12]}...",
                where=str(path),
                remedy=f"delete it{also}, and get it again",
            )
        _refuse_other_files(path, "delete it, and get it again")
        fresh = _Record(url, None, state.st_size, sha256, _now(), False, 0)
        record = replace(record or fresh, modified_ns=state.st_mtime_ns)
        _write(record, recorded)
    return Pretrained(name, path, record.sha256, record.url or "file")


def _beside(path: Path) -> Path:
    return path.with_name(f"{path.name}.json")


def _read(path: Path) -> _Record | None:
    """The record of a file; None if there is none."""
    try:
        record = _Record(**parse_json(_beside(path).read_text(encoding="utf-8")))
        if _SHA256.fullmatch(record.sha256) and isinstance(record.bytes, int):
            return record
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError):
        pass
    raise QuranAsrError(
        "is not the record of a download",
        where=str(_beside(path)),
        remedy="delete it; the file is then recorded again",
    )


def _write(record: _Record, path: Path) -> None:
    with _writing(_beside(path)):
        write_json(_beside(path), asdict(record))


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _file_sha256(path: Path) -> str:
    try:
        return sha256_of(path)
    except OSError as error:
        raise QuranAsrError(
            f"cannot be read ({error.strerror or error})",
            where=str(path),
            remedy="check the permissions of the file, and the disk",
        ) from None


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Wait until no other process downloads into a folder."""
    with contextlib.ExitStack() as stack:
        with _writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
            stack.enter_context(WeakFileLock(folder / ".lock"))
        yield


@contextlib.contextmanager
def _writing(path: Path) -> Iterator[None]:
    """The system's error for a file or folder of the cache that cannot be written, in one line."""
    try:
        yield
    except OSError as error:
        raise QuranAsrError(
            f"cannot be written ({error.strerror or error})",
            where=str(path),
            remedy="make room, or name another folder with the variable QURAN_ASR_CACHE",
        ) from None


# The hub


@dataclass(frozen=True, slots=True)
class _Listed:
    """One `.nemo` as the hub lists it."""

    file: str
    commit: str | None
    bytes: int | None
    sha256: str | None
    """Hex; the hub has it of all files in its large storage, and so of all models."""
    one_of_several: bool


def _endpoint() -> tuple[str, str]:
    """The hub's address, and `user:password` of it: the address is shown and recorded, the other never.

    Raises:
        QuranAsrError: `HF_ENDPOINT` is not an address.
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
    """Of a request to the hub: who asks. The password of an address stands in the place of a token.

    Over plain http, where anybody on the way could read it, no token is sent.
    """
    address, secret = _endpoint()
    token = None if address.startswith("https:") and not secret else False
    headers = build_hf_headers(library_name="quran-asr", token=token)
    if secret:
        headers["authorization"] = f"Basic {base64.b64encode(secret.encode()).decode()}"
    return headers


def _list(model: _OnHub, headers: dict[str, str]) -> list[_Listed]:
    """All `.nemo` files of a model."""
    hub = HfApi(_endpoint()[0], token=False, headers=headers)
    try:
        answer = hub.model_info(
            model.repository,
            revision=model.revision,
            files_metadata=True,
            timeout=constants.HF_HUB_ETAG_TIMEOUT,
        )
        rows = [row for row in answer.siblings or () if row.rfilename.endswith(".nemo")]
        return [
            _Listed(
                row.rfilename,
                answer.sha if _COMMIT.fullmatch(answer.sha or "") else None,
                row.size if row.lfs is None else row.lfs.size,
                None if row.lfs is None else row.lfs.sha256,
                len(rows) > 1,
            )
            for row in rows
            if _is_inside(row.rfilename)
        ]
    except _NETWORK:
        raise
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError):
        raise QuranAsrError(
            "the hub answers with something that lists no files",
            where=KEY,
            remedy="a proxy or a login page gives this: open the hub's address in a browser",
        ) from None


def _choose(model: _OnHub, listed: list[_Listed]) -> _Listed:
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
            f"`{model.repository}` has no .nemo file",
            where=KEY,
            remedy=f"name a model of NeMo; {_hint(model.name)}",
        )
    if len(listed) > 1:
        at = f"@{model.revision}" if model.revision else ""
        raise QuranAsrError(
            f"`{model.repository}` has several .nemo files: {names}",
            where=KEY,
            remedy=f"name one, as in `{model.repository}{at}:{listed[0].file}`",
        )
    return listed[0]


def _explained(error: Exception, model: _OnHub) -> QuranAsrError:
    """An answer of the hub, or that there is none, in words, with what to do about it."""
    response = getattr(error, "response", None)
    status = None if response is None else int(response.status_code)
    code = "" if response is None else response.headers.get("x-error-code", "")
    reason = next(iter(str(error).splitlines()), type(error).__name__)[:100]
    if constants.HF_HUB_OFFLINE:
        reason = "HF_HUB_OFFLINE is set"
    path = model.folder() / model.likely_file
    by_hand = (
        f"download {model.url(model.likely_file)} and put it at {path}, or name a file with `{KEY}=PATH`"
    )
    log_in = f"accept the conditions at {model.page} and log in with `hf auth login` (or set HF_TOKEN)"
    if model.page.startswith("http:"):
        log_in += "; no token is sent over plain http: use an https address in HF_ENDPOINT"
    hint = _hint(model.name)
    what, remedy = f"the hub answers HTTP {status}", by_hand
    if status is None:
        what = f"`{model.repository}` is not in the cache, and the hub cannot be reached ({reason})"
        if any(model.folder().rglob("*.part")):
            what = f"the download of `{model.repository}` broke off: {reason}"
            remedy = f"the same command continues it; or {by_hand}"
    elif status == 403 or code == "GatedRepo":
        what, remedy = f"`{model.repository}` is given only to those who log in (HTTP {status})", log_in
    elif status == 401:  # the hub's answer for missing models too, to those who are not logged in
        what = f"the hub has no model `{model.repository}`, or gives it only to those who log in (HTTP 401)"
        remedy = f"{hint} Else {log_in}" if hint.endswith("?") else f"{log_in}; {hint}"
    elif status == 404 and code == "RevisionNotFound":
        what = f"`{model.repository}` has no revision `{model.revision}`"
        remedy = f"see {model.page}/tree/main"
    elif status == 404:
        what, remedy = f"the hub has no model `{model.repository}` (HTTP 404)", hint
    elif status == 429:
        what = "the hub takes no more requests for now (HTTP 429)"
        remedy = f"try again later, or {by_hand}"
    elif status >= 500:
        what, remedy = f"the hub has trouble (HTTP {status})", f"try again later, or {by_hand}"
    return QuranAsrError(what, where=KEY, remedy=remedy)


# The download


def _download(
    model: _OnHub, listed: _Listed, headers: dict[str, str], on_progress: Progress | None
) -> Pretrained:
    """Download a file into our cache, where it appears when all of it is there and checked.

    Until then it is a `.part` with the beginning of its sha256 in its name, and the next call continues it.
    One caller at a time: the lock is the caller's.
    """
    url, path = model.url(listed.file, listed.commit), model.folder() / listed.file
    _refuse_unsafe_redirect(url, headers)
    part = path.with_name(f"{path.name}.{(listed.sha256 or 'unchecked')[:12]}.part")
    with _writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        for stale in path.parent.glob(f"{escape(path.name)}.*.part"):
            if stale != part or listed.sha256 is None:  # nothing would show that the pieces belong together
                stale.unlink()
    here = part.stat().st_size if part.is_file() else 0
    if listed.bytes is not None and here > listed.bytes:
        part.unlink()
        here = 0
    _need_room(path.parent, (listed.bytes or here) - here)
    highest = 0

    def report(done: int) -> None:
        nonlocal highest
        highest = max(highest, done)  # of a file that is started over the count does not fall
        if on_progress is not None:
            on_progress(highest, listed.bytes or 0)

    sha256 = _fetch(url, part, here, listed, headers, report)
    if here and listed.sha256 != sha256:  # the beginning was damaged: all of it is downloaded again
        part.unlink()
        sha256 = _fetch(url, part, 0, listed, headers, report)
    if listed.sha256 not in {None, sha256}:
        part.unlink()
        raise QuranAsrError(
            f"what came has the sha256 {sha256[:12]}..., and the server has {str(listed.sha256)[:12]}...; "
            "it was thrown away",
            where=url,
            remedy="try again; if it stays so, something on the way changes files",
        )
    if not is_archive(part):
        part.unlink()
        raise QuranAsrError(
            "what came is no .nemo archive; it was thrown away",
            where=url,
            remedy="name another .nemo of this model, as in `OWNER/NAME:FILE.nemo`, or another model",
        )
    with _writing(path):
        part.replace(path)
        state = path.stat()
    several = listed.one_of_several
    _write(_Record(url, listed.commit, state.st_size, sha256, _now(), several, state.st_mtime_ns), path)
    return Pretrained(model.name, path, sha256, url)


def _fetch(
    url: str,
    part: Path,
    here: int,
    listed: _Listed,
    headers: dict[str, str],
    report: Callable[[int], None],
) -> str:
    """Get what is missing of a file behind the bytes that are here. Returns the sha256 of the whole."""
    with _writing(part):
        file = _Part(part, url, listed.bytes, report)
    with file:
        try:
            http_get(
                url,
                cast(BinaryIO, file),
                resume_size=here,
                headers=headers | {"accept-encoding": "identity"},  # lengths are those of the file itself
                expected_size=listed.bytes,
                tqdm_class=cast(Any, _Silent),
            )
        except OSError as error:
            # `http_get` raises a plain OSError for it. What it cannot reach is an error of its HTTP library.
            if isinstance(error, HfHubHTTPError | ConnectionError) or listed.bytes is None:
                raise
            raise _wrong_length(part, url, listed.bytes, part.stat().st_size) from None
        with _writing(part):
            os.fsync(file.fileno())
    return _file_sha256(part)


class _Part(io.FileIO):
    """A file that grows by what comes, unbuffered: a killed process leaves all of it."""

    def __init__(self, path: Path, url: str, total: int | None, report: Callable[[int], None]) -> None:
        """`total`: bytes that it may have; None if unknown. `report`: called with those that it has."""
        super().__init__(path, "ab")
        self.path, self.url, self.total, self.report = path, url, total, report
        report(self.tell())

    def write(self, chunk: Any, /) -> int:
        """Append all of it.

        Raises:
            QuranAsrError: it is HTML, goes beyond the length of the file, or cannot be written.
        """
        rest = memoryview(chunk)
        if self.tell() == 0 and bytes(rest[:64]).lstrip().startswith(b"<"):
            self.path.unlink()
            raise QuranAsrError(
                "a page of HTML came and not the file; it was thrown away",
                where=self.url,
                remedy="a proxy, a login page or a blocked address gives this: open it in a browser",
            )
        if self.total is not None and self.tell() + len(rest) > self.total:
            raise _wrong_length(self.path, self.url, self.total, self.tell() + len(rest))
        with _writing(self.path):
            while rest:
                rest = rest[super().write(rest) or 0 :]
        self.report(self.tell())
        return memoryview(chunk).nbytes


class _Silent:
    """In the place of a progress bar of the hub's client: `_Part` reports."""

    def __init__(self, **options: object) -> None:
        pass

    def __enter__(self) -> _Silent:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def update(self, count: float) -> None:
        pass


def _refuse_unsafe_redirect(url: str, headers: dict[str, str]) -> None:
    """Stop where a file's address leads to plain http, but for the same server and this machine."""
    location = "no URL"
    try:
        location = get_hf_file_metadata(url, token=False, headers=headers).location
        here, there = urlsplit(url), urlsplit(urljoin(url, location))
        nearby = there.hostname == here.hostname and _is_loopback(here.hostname or "")
        same = (there.scheme, there.netloc) == (here.scheme, here.netloc)
        safe = there.scheme == "https" or same or (there.scheme == "http" and nearby)
    except ValueError:  # of `urlsplit`, here or in the hub's client
        safe = False
    if not safe:
        raise QuranAsrError(
            f"redirects to `{ascii(location)[1:-1][:100]}`, which is not https",
            where=url,
            remedy=f"check HF_ENDPOINT, or download it by hand and use `{KEY}=PATH`",
        )


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def _need_room(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise QuranAsrError(
            f"{needed / 1e9:.2f} GB are to come, and {free / 1e9:.2f} GB are free",
            where=str(folder),
            remedy="make room, or name another folder with the variable QURAN_ASR_CACHE",
        )


def _wrong_length(part: Path, url: str, expected: int, found: int) -> QuranAsrError:
    part.unlink(missing_ok=True)
    return QuranAsrError(
        f"the file should have {expected:,} bytes, and {found:,} come; nothing was kept",
        where=url,
        remedy="try again later",
    )
