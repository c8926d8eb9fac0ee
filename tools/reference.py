"""Write docs/reference/commands.md: every command, every recipe key, the environment and the exit codes.

    python tools/reference.py            write it
    python tools/reference.py --check    exit 1 when it is stale, write nothing

All of it is read from the code: the click commands, the records of config/schema.py with the texts under
their fields, the values and comments of base.yaml.
"""

from __future__ import annotations

import ast
import inspect
import re
import sys
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, Literal, get_args, get_origin

import click

from quran_asr.cli.main import cli
from quran_asr.cli.main import main as program
from quran_asr.config import schema
from quran_asr.config.architecture import count_parameters
from quran_asr.config.recipe import SHIPPED, as_plain, as_scalar, find, load_recipe, resolve
from quran_asr.config.recipe_template import summary
from quran_asr.config.schema import Range, Recipe
from quran_asr.config.validation import alternatives, hints, record_of

ROOT = Path(__file__).resolve().parent.parent
TARGET = ROOT / "docs" / "reference" / "commands.md"

HEAD = """# Reference

Made from the code by `python tools/reference.py`. Do not edit it: a test compares it with the code.
"""

EXIT_CODES = {
    0: "Success. Notes and warnings may have been printed.",
    1: "A negative finding: a finding of severity `error`, no usable recording, no verse near the words.",
    2: "Wrong use or input. stderr has what is wrong, where, and what to do.",
    143: "Terminated by SIGTERM, without temporary files. A training ends with 130.",
    130: "Interrupted by Ctrl-C, a training also by SIGTERM. It leaves a run that `train --resume RUN` "
    "continues.",
}

VARIABLES = {
    "QURAN_ASR_DATA": "A folder of real recordings with `recitations/`, `surahs/` and `eval/`. Without it "
    "the tests that need recordings are skipped.",
    "QURAN_ASR_CACHE": "The folder for downloads; without it the platform's cache folder. Hugging Face's "
    "own variables (`HF_ENDPOINT`, `HF_TOKEN`, `HF_HUB_OFFLINE`) are followed too; a token is sent over "
    "https alone.",
}
"""What each variable is for. It is listed only where some code reads it."""

_READS_VARIABLE = re.compile(r"""(?:environ(?:\.get\(|\[)|getenv\()\s*["'](QURAN_ASR_\w+)["']""")


def reference() -> str:
    """The whole page."""
    parts = [HEAD, *_commands(), *_exit_codes(), *_environment(), *_recipes(), *_recipe_keys()]
    return "\n".join(part.rstrip() + "\n" for part in parts)


def main(arguments: Sequence[str], target: Path = TARGET) -> int:
    """Write the page, or with `--check` compare it; returns the exit code."""
    if list(arguments) not in ([], ["--check"]):
        print("usage: python tools/reference.py [--check]", file=sys.stderr)
        return 2
    page = reference()
    if not arguments:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(page, encoding="utf-8")
        print(f"{len(page.splitlines())} lines -> {target}")
        return 0
    if target.is_file() and target.read_text(encoding="utf-8") == page:
        return 0
    print(f"error: {target} is stale\nhint: python tools/reference.py", file=sys.stderr)
    return 1


# Commands


def commands() -> Iterator[tuple[str, click.Command]]:
    """(`quran-asr corpus scan`, the command) of the program itself and all that is below it."""
    yield from _below("quran-asr", cli)


def _below(path: str, command: click.Command) -> Iterator[tuple[str, click.Command]]:
    yield path, command
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            inner = command.get_command(context, name)
            assert inner is not None
            yield from _below(f"{path} {name}", inner)


def _commands() -> Iterator[str]:
    yield "## Commands"
    yield "`-h` or `--help` after any command shows its help. Data go to stdout, everything else to stderr."
    for path, command in commands():
        level = "#" * (2 + len(path.split()) if path != "quran-asr" else 3)
        yield f"{level} {path}"
        yield f"```\n{_usage(path, command)}\n```"
        yield _help(command)
        options = [param for param in command.params if isinstance(param, click.Option)]
        if options:
            yield _table(("option", "takes", "default", "what it does"), map(_option, options))
        yield f"```\n{(command.epilog or '').removeprefix('Example: ')}\n```"


def _usage(path: str, command: click.Command) -> str:
    words = [path, "[OPTION]..." if command.params else ""]
    for param in command.params:
        if isinstance(param, click.Argument):
            name = param.metavar or (param.name or "").upper()
            words.append(f"{name}..." if param.nargs == -1 and not name.endswith("...") else name)
    if isinstance(command, click.Group):
        words.append("COMMAND ...")
    return " ".join(filter(None, words))


def _help(command: click.Command) -> str:
    """Paragraphs; those that click keeps as they are (after `\\b`) are blocks of commands."""
    paragraphs = []
    for paragraph in inspect.cleandoc(command.help or "").split("\n\n"):
        kept = paragraph.removeprefix("\b\n")
        whole = paragraph == kept
        paragraphs.append(" ".join(kept.split()) if whole else f"```\n{textwrap.dedent(kept)}\n```")
    return "\n\n".join(paragraphs)


def _option(option: click.Option) -> tuple[str, str, str, str]:
    names = ", ".join(f"`{name}`" for name in (*option.opts, *option.secondary_opts))
    again = option.multiple and "may be repeated" not in (option.help or "").lower()
    # to_info_dict gives None for "no default", whatever a click release uses inside
    default = option.to_info_dict()["default"]
    shown = "" if option.is_flag or option.multiple or default is None else f"`{default}`"
    meaning = f"{option.help or ''}{' May be repeated.' if again else ''}".strip()
    return names, _takes(option), "(required)" if option.required else shown, meaning


def _takes(option: click.Option) -> str:
    if option.is_flag:
        return ""
    kind = option.type
    if isinstance(kind, click.Choice):
        return " or ".join(f"`{choice}`" for choice in kind.choices)
    if isinstance(kind, click.IntRange | click.FloatRange):
        what = "whole number" if isinstance(kind, click.IntRange) else "number"
        limits = [
            f"{'above' if kind.min_open else 'from'} {kind.min:g}" if kind.min is not None else "",
            f"{'below' if kind.max_open else 'up to'} {kind.max:g}" if kind.max is not None else "",
        ]
        written = f"`{option.metavar}`: {what}" if option.metavar else what
        return " ".join([written, *filter(None, limits)])
    if option.metavar:
        return f"`{option.metavar}`"
    if isinstance(kind, click.Path):
        return "path"
    return {"integer": "whole number", "float": "number"}.get(kind.name, kind.name)


def _exit_codes() -> Iterator[str]:
    documented = {int(code) for code in re.findall(r"\b\d+\b", program.__doc__ or "")}
    if documented != set(EXIT_CODES):
        raise SystemExit(
            f"error: cli/main.py names the exit codes {sorted(documented)}: update EXIT_CODES here"
        )
    yield "## Exit codes"
    yield _table(("code", "meaning"), [(str(code), meaning) for code, meaning in EXIT_CODES.items()])


# Environment


def _environment() -> Iterator[str]:
    yield "## Environment variables"
    in_package, in_tests = _variables(ROOT / "src"), _variables(ROOT / "tests")
    undescribed = (in_package | in_tests) - set(VARIABLES)
    if undescribed:
        raise SystemExit(f"error: the code reads {sorted(undescribed)}: say in VARIABLES what they are for")
    if not in_package:
        yield "The commands read no variable of their own. A recipe reads none either."
    rows = [
        (f"`{name}`", "commands" if name in in_package else "tests only", VARIABLES[name])
        for name in VARIABLES
        if name in in_package | in_tests
    ]
    if rows:
        yield _table(("variable", "read by", "what it is for"), rows)


def _variables(folder: Path) -> set[str]:
    """Names of our variables that some file under a folder reads."""
    files = folder.rglob("*.py")
    return {name for file in files for name in _READS_VARIABLE.findall(file.read_text(encoding="utf-8"))}


# Recipes


def _recipes() -> Iterator[str]:
    yield "## Recipes"
    yield (
        "RECIPE is one of these names or a file. Overrides are written as in Hydra: `key=value` sets a key, "
        "`+key=value` adds one that a file lacks, `++key=value` does either, and `~key` makes a key or a "
        "section `null` where that is allowed. A section that is off is turned on as a whole: "
        "`'quran.curriculum={first_seconds: 4, ...}'`."
    )
    rows = []
    for name in SHIPPED:
        loaded = load_recipe(name)
        size = count_parameters(loaded.model, loaded.quran.vocabulary_size)
        rows.append((f"`{name}`", f"{size / 1e6:.1f} M", summary(name)))
    yield _table(("recipe", "parameters", "what it is"), rows)


def _recipe_keys() -> Iterator[str]:
    yield "## Recipe keys"
    yield "The column `base` is the value in `base.yaml`. A key that is not here is an error."
    values = _base()
    for prefix, record, may_be_null in _sections(Recipe, ""):
        about = " ".join((record.__doc__ or "").split()).removeprefix(f"`{prefix}`").removeprefix(":").strip()
        yield f"### {f'`{prefix}`' if prefix else 'The top'}"
        lines = [about[:1].upper() + about[1:].rstrip(".") + "." if about and prefix else ""]
        if may_be_null:
            off = values.get(prefix, "") is None
            lines.append("`null` turns the whole section off" + (", as `base` does." if off else "."))
        if any(lines):
            yield " ".join(filter(None, lines))
        rows = []
        for name, kind in hints(record).items():
            key = f"{prefix}.{name}" if prefix else name
            if record_of(kind) is None:
                shown = f"`{as_scalar(values[key])}`" if key in values else ""
                rows.append((f"`{key}`", describe(kind), shown, _meaning(record, name, key, kind)))
        if rows:
            yield _table(("key", "takes", "base", "meaning"), rows)


def _sections(record: type, prefix: str, may_be_null: bool = False) -> Iterator[tuple[str, type, bool]]:
    """(dotted key, its record, whether it may be null) of every section, each before those inside it."""
    yield prefix, record, may_be_null
    for name, kind in hints(record).items():
        inner = record_of(kind)
        if inner is not None:
            key = f"{prefix}.{name}" if prefix else name
            yield from _sections(inner, key, NoneType in alternatives(kind))


def _meaning(record: type, name: str, key: str, kind: Any) -> str:
    """The text under the field, else the comment in base.yaml; and whether this version acts on the key."""
    comment = "" if get_origin(kind) is Literal else _comments().get(key, "")
    meaning = _texts().get((record.__name__, name)) or comment[:1].upper() + comment[1:]
    if meaning and not meaning.endswith("."):
        meaning += "."
    return meaning.strip()


def describe(kind: Any) -> str:
    """A type of the schema in words."""
    if get_origin(kind) is Annotated:
        bare, *rules = get_args(kind)
        limits = [_limits(rule) for rule in rules if isinstance(rule, Range)]
        return " ".join([describe(bare), *limits])
    if get_origin(kind) is Literal:
        return " or ".join(f"`{choice}`" for choice in get_args(kind))
    if get_origin(kind) is tuple:
        parts = get_args(kind)
        if not parts:
            return "`[]`"
        if parts[-1] is Ellipsis:
            return f"list of {describe(parts[0])}"
        return f"[{', '.join(map(describe, parts))}]"
    names = {bool: "`true` or `false`", int: "whole number", float: "number", str: "text", NoneType: "`null`"}
    if kind in names:
        return names[kind]
    choices = alternatives(kind)
    assert len(choices) > 1, f"no words for {kind}"
    return ", or ".join(map(describe, choices))


def _limits(rule: Range) -> str:
    if rule.low == -1 and rule.high is None:
        return "from 1; -1 for no limit"
    low = "" if rule.low is None else f"{'from' if rule.low_is_allowed else 'above'} {rule.low:g}"
    return " ".join(filter(None, [low, "" if rule.high is None else f"up to {rule.high:g}"]))


@cache
def _base() -> dict[str, Any]:
    """Dotted key -> its value in base.yaml."""
    return _flat(as_plain(load_recipe("base")))


@cache
def _texts() -> dict[tuple[str, str], str]:
    """(record, field) -> the text under the field."""
    found = {}
    for record in ast.parse(Path(schema.__file__).read_text(encoding="utf-8")).body:
        if not isinstance(record, ast.ClassDef):
            continue
        for field, text in zip(record.body, record.body[1:], strict=False):
            if (
                isinstance(field, ast.AnnAssign)
                and isinstance(field.target, ast.Name)
                and isinstance(text, ast.Expr)
                and isinstance(text.value, ast.Constant)
            ):
                found[record.name, field.target.id] = " ".join(str(text.value.value).split())
    return found


@cache
def _comments() -> dict[str, str]:
    """Dotted key -> the comment in base.yaml behind its value, else that in the line above."""
    lines = find("base")[0].read_text(encoding="utf-8").splitlines()
    found = {}
    for key, origin in resolve("base").origin.items():
        number = int(origin.rpartition(":")[2])
        above, line = lines[number - 2].strip(), lines[number - 1]
        comment = line.partition(" # ")[2] or (above[1:] if above.startswith("#") else "")
        if comment:
            found[key] = comment.strip().replace("<", "&lt;")
    return found


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in values.items():
        found |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return found


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    escaped = [[cell.replace("|", r"\|") for cell in row] for row in rows]
    lines = [header, ["---"] * len(header), *escaped]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
