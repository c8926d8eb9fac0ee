"""What the tests of the runtime share."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from quran_asr.runtime.bundle import sealed


@pytest.fixture
def redescribe() -> Callable[..., None]:
    """Change `bundle.json` so that the checksums are those of the files as they are now."""

    def change(folder: Path, edit: Callable[[dict[str, Any]], None] = lambda described: None) -> None:
        path = folder / "bundle.json"
        described = json.loads(path.read_text(encoding="utf-8"))
        for name in described["files"]:
            content = (folder / name).read_bytes()
            record = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
            described["files"][name] = record
        edit(described)
        path.write_text(json.dumps(sealed(described)), encoding="utf-8")

    return change
