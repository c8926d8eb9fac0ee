"""Every `quran-asr` command in README and docs parses, and runs if it needs neither files nor a model."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

import click
import pytest

from quran_asr.cli.main import cli, main
from quran_asr.config.validation import known_keys

ROOT = Path(__file__).parents[2]
GENERATED = ROOT / "docs" / "reference" / "commands.md"
"""Made from the commands themselves; test_reference.py compares it with them."""

PAGES = [page for page in sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]) if page != GENERATED]


@dataclass(frozen=True, slots=True)
class Example:
    """One command of a page."""

    page: str
    line: str
    complete: bool
    """Whether it stands in a block of commands, and not in the middle of a sentence."""

    def words(self) -> list[str]:
        """What follows the program's name, up to a pipe."""
        words = shlex.split(self.line, comments=True)
        start = next(index for index, word in enumerate(words) if word.endswith("quran-asr")) + 1
        ends = [index for index, word in enumerate(words) if index >= start and word in {"|", ">", "&&", ";"}]
        return [word for word in words[start : ends[0] if ends else None] if word != "..."]


def blocks(text: str) -> list[str]:
    """The lines of commands in fenced blocks, continued lines joined."""
    found = re.findall(r"^```(?:bash)?\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    return [line.strip() for block in found for line in block.replace("\\\n", " ").splitlines()]


def examples() -> list[Example]:
    found = []
    for page in PAGES:
        name, text = page.relative_to(ROOT).as_posix(), page.read_text("utf-8")
        program = r"(^|\s|/)quran-asr [a-z-]"
        found += [Example(name, line, True) for line in blocks(text) if re.search(program, line)]
        prose = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
        spans = [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", prose)]
        found += [Example(name, span, False) for span in spans if span.startswith("quran-asr ")]
    return found


EXAMPLES = examples()


def command_of(words: list[str]) -> tuple[click.Context, click.Command, list[str]]:
    """The innermost command that the words name, and the words that are left for it."""
    command: click.Command = cli
    context = click.Context(cli, info_name="quran-asr")
    while isinstance(command, click.Group) and words and not words[0].startswith("-"):
        inner = command.get_command(context, words[0])
        assert inner is not None, f"no command `{words[0]}`"
        context, command, words = click.Context(inner, parent=context, info_name=words[0]), inner, words[1:]
    return context, command, words


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda one: f"{one.page}: {one.line[:60]}")
def test_a_command_of_the_docs_parses(example: Example) -> None:
    context, command, words = command_of(example.words())
    options, arguments, _ = command.make_parser(context).parse_args(list(words))
    for param in command.params:
        value = options.get(param.name or "")
        typed = isinstance(param.type, click.Choice | click.types.IntParamType | click.types.FloatParamType)
        if isinstance(param, click.Option) and typed and value is not None and not str(value).isupper():
            param.type_cast_value(context, value)
    if example.complete:
        wanted = [one for one in command.params if isinstance(one, click.Argument) and one.required]
        given = [word for word in words if not word.startswith("--")]
        assert len(given) >= len(wanted), f"{command.name} needs {[one.name for one in wanted]}"
    assert not [rest for rest in arguments if rest.startswith("--")]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_recipe_key_of_the_docs_exists(page: Path) -> None:
    known = known_keys()
    named = re.findall(
        r"(?<![\w/.-])~?((?:model|trainer|exp_manager|quran)\.[a-z_][\w.]*)(?==|`)", page.read_text("utf-8")
    )
    files = re.compile(r"\.(py|onnx|nemo|jsonl)$")
    assert [key for key in named if key not in known and not files.search(key)] == []


def runs_alone(example: Example) -> bool:
    """Whether a command needs no file, no model and no placeholder."""
    words = example.words() if example.complete else []
    if not words or any(word.isupper() or word.startswith("--to") for word in words):
        return False
    counted = words[0] == "plan" and "--clips" in words
    return words[0] == "text" or words[:2] in (["recipe", "list"], ["recipe", "show"]) or counted


RUNNABLE = {shlex.join(example.words()): example for example in EXAMPLES if runs_alone(example)}


@pytest.mark.parametrize("line", RUNNABLE)
def test_a_command_that_needs_nothing_runs(
    line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("QURAN_ASR_CACHE", str(tmp_path / "cache"))
    with pytest.raises(SystemExit) as end:
        main(shlex.split(line))
    out, err = capsys.readouterr()
    assert end.value.code in (None, 0, 1), err
    assert out


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text("utf-8").split()) < 700
