"""Atomic file writes, checksums and the cache folder.

Files being written have a name of ours (`.quran-asr-...`) that nobody can guess and that names their
process, so that leftovers of a killed process are distinguished from files that a living one is writing.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import secrets
import shutil
import socket
import stat
import sys
import tempfile
import zlib
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from quran_asr.errors import QuranAsrError

_UNFINISHED = re.compile(
    r"\.quran-asr-(?P<host>[0-9a-f]{8})-(?P<pid>\d{1,10})-[0-9a-f]{16}\.unfinished(\.\w{1,8})?"
)

_DECODER = json.JSONDecoder()
_HALF = re.compile(r"\\u[dD][89a-fA-F]|[\ud800-\udfff]")


def cache_folder() -> Path:
    """Where downloads are kept: `$QURAN_ASR_CACHE`, else `quran-asr` in the platform's cache folder.

    The platform's is `~/Library/Caches` on macOS, `%LOCALAPPDATA%` on Windows, and elsewhere
    `$XDG_CACHE_HOME` or `~/.cache` (XDG Base Directory Specification). The folder need not exist.
    """
    named = os.environ.get("QURAN_ASR_CACHE")
    if named:
        return Path(named).expanduser().absolute()
    if sys.platform == "darwin":
        caches = Path.home() / "Library" / "Caches"
    elif sys.platform == "win32":
        caches = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    else:
        caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return caches / "quran-asr"


def refuse_foreign(folder: Path, ours: Collection[str], what: str) -> None:
    """Refuse to write into a folder of somebody else's.

    Args:
        folder: missing, empty, or with one of our files in it.
        ours: names of which one is there from the beginning on.
        what: the folder is to hold, for the message.

    Raises:
        QuranAsrError: it is not a folder, or holds other things alone.
    """
    if folder.exists() and not folder.is_dir():
        raise QuranAsrError("is a file", where=str(folder), remedy="name another folder: --to FOLDER")
    if folder.is_dir() and any(folder.iterdir()) and not any((folder / name).exists() for name in ours):
        raise QuranAsrError(
            f"is not empty, and no {what}", where=str(folder), remedy="name another folder: --to FOLDER"
        )


def require_writable(folder: Path) -> None:
    """Make a folder, and see that files can be made in it: before the work whose result goes there.

    Raises:
        OSError: it cannot be made or written in; it is named.
    """
    with named_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass


def sha256_of(path: Path) -> str:
    """Hex sha256 of a whole file, read in pieces.

    Raises:
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def parse_json(text: str | bytes, decoder: json.JSONDecoder | None = None) -> Any:
    """As `json.loads`, for text from anywhere.

    Args:
        text: UTF-8 where it is bytes.
        decoder: None for the standard one. Making one takes longer than parsing a line with it.

    Raises:
        ValueError: not JSON, nested without end, or with half a character (a lone surrogate), which no file
            and no terminal takes.
    """
    maybe_half = isinstance(text, str)  # UTF-8 itself holds none
    if isinstance(text, bytes):
        text = text.decode("utf-8")
    try:
        value = (decoder or _DECODER).decode(text)
        if (maybe_half or "\\u" in text) and _HALF.search(text):
            json.dumps(value, ensure_ascii=False).encode()
    except RecursionError:
        raise ValueError("is nested too deeply") from None
    except UnicodeEncodeError:
        raise ValueError("holds half a character (a lone surrogate)") from None
    return value


# Writing


@contextlib.contextmanager
def named_errors(place: Path) -> Iterator[None]:
    """Within this, an error of the system that names no file, as that of a full disk, names `place`.

    Raises:
        OSError: what was raised inside, with a file name.
    """
    try:
        yield
    except OSError as error:
        if error.filename is not None or error.errno is None:
            raise
        raise OSError(error.errno, error.strerror, str(place)) from error


@contextlib.contextmanager
def full_disk_named(place: Path, needed: int = 1 << 20) -> Iterator[None]:
    """As `named_errors`, for libraries whose error for a full disk is vague: the disk is checked then.

    Args:
        place: a file or folder that is written inside.
        needed: bytes that were to be written; also below `$TMPDIR`, where such libraries gather them first.

    Raises:
        OSError: one of both disks has no room for that, and it is named.
        Exception: what was raised inside, where both have.
    """
    try:
        with named_errors(place):
            yield
    except OSError:
        raise
    except Exception as error:
        for folder in (place if place.is_dir() else place.parent, Path(tempfile.gettempdir())):
            if folder.is_dir() and shutil.disk_usage(folder).free < needed:
                shown = place if folder in (place, place.parent) else folder
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(shown)) from error
        raise


def unfinished_path(folder: Path, suffix: str = "") -> Path:
    """A name in `folder` for something that is being written; nothing is made.

    Args:
        folder: where the finished file or folder will be.
        suffix: a file ending, for writers that look at it.
    """
    return folder / f".quran-asr-{_host_code()}-{os.getpid()}-{secrets.token_hex(8)}.unfinished{suffix}"


@contextlib.contextmanager
def replacing(target: Path, suffix: str = "") -> Iterator[Path]:
    """Give an empty file beside `target`, which takes its place when the block ends without an error.

    What was written is flushed to disk before the name changes hands, and the folder after it: a full disk
    or a power cut leaves the old file, and never half of the new one. The file has the permissions of the one
    that it replaces, and otherwise those that the umask leaves. Missing folders are made.

    Args:
        target: the file; where it is a link, the link is replaced and not what it names.
        suffix: as in `unfinished_path`.

    Raises:
        OSError: it cannot be written, `target` is named; the old file is untouched and nothing is left.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    unfinished = unfinished_path(target.parent, suffix)
    try:
        mode = _mode_of(target)
        # O_EXCL: where something stands under this name already, a link above all, nothing is opened.
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
        os.close(os.open(unfinished, flags, 0o666 if mode is None else mode | 0o600))
        yield unfinished
        with unfinished.open("rb+") as file:
            os.fsync(file.fileno())
        if mode is not None:
            unfinished.chmod(mode)
        unfinished.replace(target)
        _sync_folder(target.parent)
    except OSError as error:
        unfinished.unlink(missing_ok=True)
        if error.errno is None or error.filename not in (None, str(unfinished)):
            raise
        raise OSError(error.errno, error.strerror, str(target)) from error
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise


def write_atomically(path: Path, data: bytes) -> None:
    """Replace `path` by a file that holds `data`, as `replacing` does.

    Raises:
        OSError: it cannot be written; the old file is untouched and nothing is left beside it.
    """
    with replacing(path) as unfinished:
        unfinished.write_bytes(data)


def json_line(value: Any) -> str:
    """A value as a line of a JSON Lines file.

    Raises:
        ValueError: it holds NaN or an infinity, which JSON has not.
    """
    return json.dumps(value, ensure_ascii=False, allow_nan=False) + "\n"


def write_json(path: Path, value: Any) -> None:
    """Replace `path` by an indented JSON document, as `replacing` does.

    File names that are not UTF-8 are written as escapes: nothing that was measured is lost for them.

    Raises:
        ValueError: it holds NaN or an infinity, which JSON has not.
        OSError: as of `write_atomically`.
    """
    text = json.dumps(value, ensure_ascii=False, indent=2, allow_nan=False) + "\n"
    write_atomically(path, text.encode(errors="backslashreplace"))


def _mode_of(target: Path) -> int | None:
    """The permissions of a file; None where there is none, or something else."""
    try:
        mode = target.lstat().st_mode
    except FileNotFoundError:
        return None
    return mode & 0o777 if stat.S_ISREG(mode) else None


def _sync_folder(folder: Path) -> None:
    """So that the new name survives a power cut; Windows and some network disks have no way to."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


@contextlib.contextmanager
def temporary_folder() -> Iterator[Path]:
    """A folder below `$TMPDIR` that is gone when the block ends, also where SIGTERM ends it.

    Raises:
        OSError: none can be made, or it is full: it is named.
    """
    with tempfile.TemporaryDirectory(prefix="quran-asr-") as made, named_errors(Path(made)):
        yield Path(made)


def sweep(folder: Path) -> None:
    """Take away what killed processes of this machine had begun to write in `folder`; nothing else."""
    for path in folder.glob(".quran-asr-*"):
        name = _UNFINISHED.fullmatch(path.name)
        if name is None or name["host"] != _host_code() or is_alive(int(name["pid"])):
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


# Processes


def _host_code() -> str:
    return f"{zlib.crc32(socket.gethostname().encode()):08x}"


def is_alive(pid: int) -> bool:
    """Whether a process of this machine has this number."""
    if sys.platform == "win32":
        import ctypes

        handle = ctypes.windll.kernel32.OpenProcess(0x1000, False, pid)  # PROCESS_QUERY_LIMITED_INFORMATION
        if not handle:
            return False
        code = ctypes.c_ulong()
        ctypes.windll.kernel32.GetExitCodeProcess(handle, ctypes.byref(code))
        ctypes.windll.kernel32.CloseHandle(handle)
        return code.value == 259  # STILL_ACTIVE
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # another user's
        return True
    return _proc_stat(pid, 0) not in ("Z", "X")  # ended, and nobody has asked how


def started(pid: int) -> str | None:
    """When a process began, in clock ticks since this machine booted (proc(5), `starttime`); Linux only.

    It distinguishes a process from a later one with the same number.
    """
    return _proc_stat(pid, 19)


def _proc_stat(pid: int, field: int) -> str | None:
    """A field of /proc/PID/stat, counted from the one after the name."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
        return fields.rpartition(")")[2].split()[field]
    except (OSError, IndexError):
        return None
