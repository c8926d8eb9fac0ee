"""The documentation builds as a site, with every page in the navigation and no broken link or anchor."""

from __future__ import annotations

import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

MISSING = "mkdocs is not here: pip install 'quran-asr[docs]'"

pytestmark = [pytest.mark.slow, pytest.mark.skipif(find_spec("material") is None, reason=MISSING)]


def build(project: Path, to: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(to)]
    return subprocess.run(command, cwd=project, capture_output=True, text=True, timeout=300)


def test_the_site_builds_strictly(tmp_path: Path) -> None:
    done = build(ROOT, tmp_path / "site")
    assert done.returncode == 0, done.stderr
    pages = {page.relative_to(ROOT / "docs").with_suffix("") for page in (ROOT / "docs").rglob("*.md")}
    for page in pages:
        folder = page.parent if page.name == "index" else page
        assert (tmp_path / "site" / folder / "index.html").is_file()


def test_a_broken_link_or_anchor_fails(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "docs", tmp_path / "docs")
    shutil.copy(ROOT / "mkdocs.yml", tmp_path)
    with (tmp_path / "docs" / "index.md").open("a", encoding="utf-8") as page:
        page.write("\n[x](guides/nowhere.md) and [y](guides/train.md#not-a-heading)\n")
    done = build(tmp_path, tmp_path / "site")
    assert done.returncode == 1
    assert "nowhere.md" in done.stderr
    assert "#not-a-heading" in done.stderr
