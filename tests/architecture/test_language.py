"""Help, messages, docs and docstrings use the field's terms: an earlier vocabulary does not come back."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from quran_asr.cli.main import SECTIONS, cli

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "src" / "quran_asr"

AVOIDED = {
    r"said|says?": "reference, report, print",
    r"hea(r|rs|rd|ring)": "hypothesis, recognize, transcribe",
    r"told|tells?": "report, show",
    r"spoken|speaks?": "synthesize, recite",
    r"sounds?": "audio, clip, recording",
    r"signs?|lookout|outlook": "diagnosis, diagnostics, forecast",
    r"arms?|sides?": "variant, split, worker",
    r"(?<!AdamW's )moments?": "result, time",
    r"pace": "speech rate",
    r"wish(es)?|handful": "option, subset",
    r"mend(s|ed)?": "fix",
    r"reckon(s|ed|ing)?": "estimate, compute",
    r"dear(er)?": "expensive",
    r"by heart": "overfit, memorize",
    r"goes? on|going on": "continue, resume",
    r"anew": "again, from the beginning",
    r"(?<!there )(is|are) no \w+": "is not a",
}
"""Pattern -> what to write instead."""

WRITTEN = re.compile("|".join(rf"\b(?:{pattern})\b" for pattern in AVOIDED), re.IGNORECASE)


def commands(path: str, command: click.Command) -> Iterator[tuple[str, click.Command]]:
    yield path, command
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            inner = command.get_command(context, name)
            assert inner is not None
            yield from commands(f"{path} {name}", inner)


COMMANDS = dict(commands("quran-asr", cli))


def instead(text: str) -> list[str]:
    """What is wrong in a text, each with what to write."""
    found = []
    for word in WRITTEN.finditer(text):
        better = next(to for pattern, to in AVOIDED.items() if re.fullmatch(pattern, word[0], re.IGNORECASE))
        found.append(f"`{word[0]}` in `{text.strip()[:100]}`: write {better}")
    return found


@pytest.mark.parametrize("path", COMMANDS)
def test_help_uses_the_terms_of_the_field(path: str) -> None:
    command = COMMANDS[path]
    texts = [command.help or "", command.short_help or "", command.epilog or ""]
    texts += [param.help or "" for param in command.params if isinstance(param, click.Option)]
    assert [one for text in texts for one in instead(text)] == []


def test_the_list_of_commands_uses_the_terms_of_the_field_too() -> None:
    lines = [line for section in SECTIONS.values() for _, line in section.values()]
    assert [one for text in [*SECTIONS, *lines] for one in instead(text)] == []
    assert all(line[0].isupper() and line.endswith(".") and len(line) <= 60 for line in lines)


def test_every_text_of_help_is_a_sentence() -> None:
    for path, command in COMMANDS.items():
        for param in command.params:
            if isinstance(param, click.Option):
                assert param.help, f"{path} {param.opts[0]} has no help"
                assert param.help[0].isupper() or param.help.split()[0] in {"uthmani", "cpu,"}, param.help
                assert param.help.endswith("."), f"{path} {param.opts[0]}: {param.help}"


def messages(file: Path) -> Iterator[tuple[int, str]]:
    """The strings of a file that a person may read: with a space in them, and not a docstring."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    silent = {
        id(node.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }
    for node in ast.walk(tree):
        is_text = isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in silent
        if is_text and " " in node.value.strip():
            yield node.lineno, node.value


FILES = sorted(PACKAGE.rglob("*.py"))
PACKAGES = sorted({file.relative_to(PACKAGE).parts[0] for file in FILES})
EXTRA = "quran-asr[speak]"
"""The name of an extra is a promise to who installs it."""


@pytest.mark.parametrize("package", PACKAGES)
def test_messages_use_the_terms_of_the_field(package: str) -> None:
    found = [
        f"{file.relative_to(PACKAGE)}:{line}: {wrong}"
        for file in FILES
        if file.relative_to(PACKAGE).parts[0] == package
        for line, text in messages(file)
        for wrong in instead(text.replace(EXTRA, ""))
    ]
    assert found == []


PROSE = re.compile(
    r"\b(said|hea(r|rs|rd|ring)|told|tells|spoken|speaks|mend(s|ed)?|pace|by heart|lookout|outlook"
    r"|anew|(go|goes|going|went|gone) on|given out|came out last)\b",
    re.IGNORECASE,
)
"""Avoided in docstrings, comments and names; `say`, `sound`, `side` and `sign` have other uses there."""


@pytest.mark.parametrize("package", PACKAGES)
def test_code_uses_the_terms_of_the_field(package: str) -> None:
    found = []
    for file in FILES:
        if file.relative_to(PACKAGE).parts[0] != package:
            continue
        for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1):
            if word := PROSE.search(line.replace("_", " ")):
                found.append(f"{file.relative_to(PACKAGE)}:{number}: `{word[0]}`")
    assert found == []


GENERATED = ROOT / "docs" / "reference" / "commands.md"
"""Made of help texts and docstrings, which are checked above."""
PAGES = [
    page
    for page in sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
    if page != GENERATED and page.name != "CHANGELOG.md"
]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_pages_use_the_terms_of_the_field(page: Path) -> None:
    text = re.sub(r"```.*?```|`[^`]*`", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    assert [wrong for line in text.splitlines() for wrong in instead(line)] == []


def test_a_word_that_came_back_is_found() -> None:
    assert instead("Which model hears it") == [
        "`hears` in `Which model hears it`: write hypothesis, recognize, transcribe"
    ]
    assert instead("the file is no checkpoint")
    assert not instead("there is no checkpoint") and not instead("there is nothing to compare with")
