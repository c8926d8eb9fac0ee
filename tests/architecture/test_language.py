"""Help texts and messages use the field's terms; words of an earlier private vocabulary do not come back."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from quran_asr.cli.main import SECTIONS, cli

PACKAGE = Path(__file__).parents[2] / "src" / "quran_asr"

AVOIDED = {
    r"said|says?": "reference, report, print",
    r"hea(r|rs|rd|ring)": "hypothesis, recognize, transcribe",
    r"told|tells?": "report, show",
    r"spoken|speaks?": "synthesize, recite",
    r"sounds?": "audio, clip, recording",
    r"signs?|lookout|outlook": "diagnosis, diagnostics, forecast",
    r"arms?|sides?": "variant, split, worker",
    r"moments?": "result",
    r"pace": "speech rate",
    r"wish(es)?|handful": "option, subset",
    r"mend(s|ed)?": "fix",
    r"learned? by heart": "overfit, memorize",
    r"hears best|goes? on": "WER, continue, resume",
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


@pytest.mark.parametrize("folder", ["cli", "benchmark", "evaluation", "decoding", "text"])
def test_messages_use_the_terms_of_the_field(folder: str) -> None:
    found = [
        f"{file.name}:{line}: {wrong}"
        for file in sorted((PACKAGE / folder).glob("*.py"))
        for line, text in messages(file)
        for wrong in instead(text)
    ]
    assert found == []


def test_a_word_that_came_back_is_found() -> None:
    assert instead("Which model hears it") == [
        "`hears` in `Which model hears it`: write hypothesis, recognize, transcribe"
    ]
    assert instead("the file is no checkpoint")
    assert not instead("there is no checkpoint") and not instead("there is nothing to compare with")
