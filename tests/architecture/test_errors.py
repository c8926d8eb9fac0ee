"""Every error that a user can cause comes with what to do."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "src" / "quran_asr"


def without_remedy(path: Path) -> list[str]:
    """Lines of a file that make a `QuranAsrError` without one."""
    made = [
        node
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "QuranAsrError"
    ]
    bare = [call for call in made if "remedy" not in {keyword.arg for keyword in call.keywords}]
    return [f"{path.name}:{call.lineno} {ast.unparse(call)}" for call in bare]


@pytest.mark.parametrize("folder", sorted(path.name for path in PACKAGE.iterdir() if path.suffix != ".pyc"))
def test_an_error_has_a_hint(folder: str) -> None:
    place = PACKAGE / folder
    files = sorted(place.rglob("*.py")) if place.is_dir() else [place] if place.suffix == ".py" else []
    assert [line for file in files for line in without_remedy(file)] == []


def test_one_without_is_found(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text('raise QuranAsrError("wrong", where="x")\n', "utf-8")
    assert without_remedy(tmp_path / "a.py") == ["a.py:1 QuranAsrError('wrong', where='x')"]
