"""Files that are either whole or not there: an interrupted write leaves what stood there before."""

from __future__ import annotations

import os
from pathlib import Path


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
