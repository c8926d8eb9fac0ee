"""Files that are either whole or not there: an interrupted write leaves what stood there before."""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Collection
from pathlib import Path

from quran_asr.findings import QuranAsrError


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
        QuranAsrError: it is no folder, or holds other things alone.
    """
    if folder.exists() and not folder.is_dir():
        raise QuranAsrError("is a file", where=str(folder), remedy="name another folder: --to FOLDER")
    if folder.is_dir() and any(folder.iterdir()) and not any((folder / name).exists() for name in ours):
        raise QuranAsrError(
            f"is not empty, and no {what}", where=str(folder), remedy="name another folder: --to FOLDER"
        )


def write_atomically(path: Path, data: bytes) -> None:
    """Replace `path` by a file that holds `data`; missing folders are made.

    The bytes go to a file beside it and on to the disk before the name changes hands, so a full disk or a
    power cut leaves the old file, and never half of the new one.

    Raises:
        OSError: it cannot be written; the old file is untouched and nothing is left beside it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.unfinished")
    try:
        with unfinished.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise


def sha256_of(path: Path) -> str:
    """Hex sha256 of a whole file, read in pieces.

    Raises:
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
