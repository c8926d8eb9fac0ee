"""Who may import whom: the table of rooms, read against every import in the package.

An import inside a function counts like any other. Only `cli` (and the package's lazy front door) may import
rooms inside functions to start quickly; `runs` may do so with packages of an extra.
"""

from __future__ import annotations

import ast
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "src" / "quran_asr"

GROUND = frozenset(
    {
        "errors",
        "records",
        "files",
        "locks",
        "audio",
        "containers",
        "media",
        "mp3",
        "level_meter",
        "shards",
        "tarfiles",
    }
)
DOOR = "quran_asr"
"""The package's own `__init__`."""


@dataclass(frozen=True, slots=True)
class Room:
    """What one room may import."""

    rooms: frozenset[str]
    """Other rooms, or single modules of them as `decode.options`. Its own modules are always allowed."""
    packages: frozenset[str] = frozenset()
    """Packages outside the standard library, at module level or inside functions."""
    packages_in_functions: frozenset[str] = frozenset()
    """Packages that may be imported inside functions only: extras, and what start-up must not wait for."""


def room(rooms: str = "", packages: str = "", in_functions: str = "", ground: bool = True) -> Room:
    allowed = frozenset(rooms.split()) | (GROUND if ground else frozenset())
    return Room(allowed, frozenset(packages.split()), frozenset(in_functions.split()))


TABLE = {
    "errors": room(ground=False),
    "records": room("errors", "numpy", ground=False),
    "files": room("errors records", ground=False),
    "shards": room("errors", ground=False),
    "tarfiles": room("errors", ground=False),
    "locks": room("errors files", ground=False),
    "mp3": room(ground=False),
    "level_meter": room("errors", "numpy", ground=False),
    "containers": room("mp3", ground=False),
    "media": room("errors containers", "numpy", "av", ground=False),
    "sound_files": room("errors records containers media", "numpy soundfile soxr", ground=False),
    "audio": room("errors records files media shards sound_files", "numpy soundfile soxr", ground=False),
    "text": room(),
    "corpus": room("text decoding runtime", "numpy", "espeakng_loader pyarrow distributed"),
    "decoding": room("text", "numpy"),
    "runtime": room("text decoding", "numpy onnxruntime soxr", "sounddevice matplotlib"),
    "evaluation": room("text corpus", "numpy"),
    "config": room("text", "yaml"),
    "experiments": room(
        "text corpus evaluation config",
        "yaml",
        "numpy matplotlib tensorboard optuna packaging",
    ),
    "training": room(
        "text corpus decoding runtime evaluation config experiments",
        "numpy omegaconf yaml torch lightning nemo triton sentencepiece tensorboard huggingface_hub "
        "onnx soundfile",
        "pyroomacoustics scipy",
    ),
    "export": room(
        "text corpus decoding runtime evaluation config experiments training",
        "numpy torch nemo onnx onnxruntime",
    ),
    "benchmark": room(
        "text corpus decoding runtime evaluation config experiments training export",
        "numpy torch lightning nemo omegaconf sentencepiece onnx soundfile sherpa_onnx",
        "playwright websockets",
    ),
    "server": room("text decoding runtime", "numpy starlette anyio uvicorn"),
    "cli": room(
        "text corpus decoding runtime evaluation config experiments training export benchmark server",
        "click",
        "rich",
    ),
    "__main__": room("cli", ground=False),
    DOOR: room("text corpus decoding runtime evaluation config experiments training"),
}

LIGHT_FOR_CLI = frozenset({"errors", "cli", DOOR, "decoding.options", "export.targets"})
"""All that a module of `cli` may import before a command runs; rooms wait inside the command's function."""


@dataclass(frozen=True, slots=True)
class Import:
    """One import as it stands in a file."""

    importer: str
    """Dotted module name, for example `quran_asr.experiments.planning.plan`."""
    imported: str
    """Dotted module name, relative imports made absolute."""
    line: int
    in_function: bool
    for_types: bool
    """Under `if TYPE_CHECKING:`, so never run."""

    def __str__(self) -> str:
        return f"{self.importer} (line {self.line}) imports {self.imported}"


def module_name(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}


@cache
def tree(path: Path) -> ast.Module:
    """A module of the package, parsed once, and only by a process that runs these tests."""
    return ast.parse(path.read_text(encoding="utf-8"))


def imports_of(name: str, source: str | ast.Module, is_package: bool) -> list[Import]:
    found: list[Import] = []

    def visit(node: ast.AST, in_function: bool, for_types: bool) -> None:
        if isinstance(node, ast.Import):
            found.extend(
                Import(name, alias.name, node.lineno, in_function, for_types) for alias in node.names
            )
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = name.split(".") if is_package else name.split(".")[:-1]
                base = ".".join([*parents[: len(parents) - node.level + 1], *([base] if base else [])])
            for (
                alias
            ) in node.names:  # `from quran_asr.experiments import plan` imports the module, not a name
                whole = f"{base}.{alias.name}"
                found.append(
                    Import(name, whole if whole in MODULES else base, node.lineno, in_function, for_types)
                )
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            for child in node.body:
                visit(child, in_function, True)
            for child in node.orelse:
                visit(child, in_function, for_types)
            return
        inside = in_function or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for child in ast.iter_child_nodes(node):
            visit(child, inside, for_types)

    visit(ast.parse(source) if isinstance(source, str) else source, False, False)
    return found


@cache
def all_imports() -> list[Import]:
    return [
        found
        for name, path in MODULES.items()
        for found in imports_of(name, tree(path), path.name == "__init__.py")
    ]


SELDOM = {"quran_asr.runtime.shallow_fusion"}
"""Modules that most users of a room do not need, and that would delay the others: a tenth of a cold start."""


def room_of(module: str) -> str:
    return module.split(".")[1] if "." in module else DOOR


def is_ours(module: str) -> bool:
    return module == DOOR or module.startswith(f"{DOOR}.")


def offences(found: Import) -> list[str]:
    """What is wrong with one import by the table, in words; empty when nothing is."""
    here = room_of(found.importer)
    rules = TABLE[here]
    if is_ours(found.imported):
        there = room_of(found.imported)
        wrong = []
        allowed = there in {here, DOOR} or there in rules.rooms
        if not allowed and ".".join(found.imported.split(".")[1:3]) not in rules.rooms:
            wrong.append(f"{found}: {here} may not import {there}")
        if found.in_function and here not in {"cli", DOOR} and found.imported not in SELDOM:
            wrong.append(f"{found}: inside a function, which only cli may do")
        light = LIGHT_FOR_CLI & {there, ".".join(found.imported.split(".")[1:3])}
        if here == "cli" and not (found.in_function or found.for_types or light):
            wrong.append(f"{found}: at module level, so that --help waits for it")
        return wrong
    package = found.imported.split(".")[0]
    if package in sys.stdlib_module_names or package in rules.packages or found.for_types:
        return []
    if package in rules.packages_in_functions:
        return [] if found.in_function else [f"{found}: {package} may be imported inside functions only"]
    return [f"{found}: {here} may not import {package}"]


def circles(edges: dict[str, set[str]]) -> list[list[str]]:
    """Strongly connected components of more than one module (Tarjan)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def connect(node: str) -> None:
        index[node] = low[node] = len(index)
        stack.append(node)
        for other in sorted(edges.get(node, ())):
            if other not in index:
                connect(other)
                low[node] = min(low[node], low[other])
            elif other in stack:
                low[node] = min(low[node], index[other])
        if low[node] == index[node]:
            component = stack[stack.index(node) :]
            del stack[stack.index(node) :]
            if len(component) > 1:
                found.append(sorted(component))

    for node in sorted(edges):
        if node not in index:
            connect(node)
    return found


def test_every_module_has_a_room_in_the_table() -> None:
    assert len(MODULES) > 20
    assert {room_of(name) for name in MODULES} <= set(TABLE)


@pytest.mark.parametrize("name", sorted({room_of(name) for name in MODULES}))
def test_a_room_imports_only_what_the_table_allows(name: str) -> None:
    wrong = [
        offence for found in all_imports() if room_of(found.importer) == name for offence in offences(found)
    ]
    assert not wrong, "\n".join(wrong)


def test_no_module_imports_itself_in_a_circle() -> None:
    edges: dict[str, set[str]] = {name: set() for name in MODULES}
    for found in all_imports():
        if is_ours(found.imported) and found.imported not in {DOOR, found.importer}:
            edges[found.importer].add(found.imported)
    assert circles(edges) == []


@pytest.mark.parametrize(
    ("importer", "source", "complaint"),
    [
        (
            "quran_asr.text.quran",
            "from quran_asr.experiments import curves",
            "text may not import experiments",
        ),
        ("quran_asr.text.quran", "import numpy", "text may not import numpy"),
        ("quran_asr.evaluation.scoring", "def f():\n    import torch", "evaluation may not import torch"),
        ("quran_asr.evaluation.scoring", "def f():\n    from ..text import quran", "only cli may do"),
        ("quran_asr.experiments.planning.plan", "import numpy as np", "inside functions only"),
        (
            "quran_asr.experiments.planning.plan",
            "from quran_asr.decoding.ctc import greedy",
            "experiments may not import decoding",
        ),
        ("quran_asr.cli.train", "from quran_asr.training import trainer", "--help waits for it"),
        ("quran_asr.cli.text", "class A:\n    from quran_asr.text.quran import load_quran", "--help waits"),
        ("quran_asr.errors", "from quran_asr import records", "errors may not import records"),
    ],
)
def test_the_check_sees_what_is_forbidden(importer: str, source: str, complaint: str) -> None:
    (found,) = imports_of(importer, source, is_package=False)
    assert complaint in " ".join(offences(found))


def test_the_check_sees_a_circle() -> None:
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == [["a", "b", "c"]]
    assert circles({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == []


def test_every_module_can_be_imported_on_windows_and_macos() -> None:
    """What only Unix has is imported inside the function that needs it."""
    unix = {"fcntl", "grp", "posix", "pty", "pwd", "resource", "syslog", "termios", "tty"}
    found = [
        f"{path.relative_to(PACKAGE)}: {name}"
        for path in sorted(PACKAGE.rglob("*.py"))
        for statement in tree(path).body
        for name in (
            [alias.name for alias in statement.names]
            if isinstance(statement, ast.Import)
            else [statement.module or ""]
            if isinstance(statement, ast.ImportFrom)
            else []
        )
        if name in unix
    ]
    assert found == []
