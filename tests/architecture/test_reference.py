"""docs/reference/commands.md is what tools/reference.py makes of the code now, and leaves nothing out."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import click
import pytest

from quran_asr.config.validation import known_keys, record_of

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "reference" / "commands.md").read_text(encoding="utf-8")


def load_tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location("reference_tool", ROOT / "tools" / "reference.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


tool = load_tool()
COMMANDS: dict[str, click.Command] = dict(tool.commands())


def test_the_reference_is_up_to_date() -> None:
    assert tool.reference() == PAGE, "run: python tools/reference.py"


@pytest.mark.parametrize("path", COMMANDS)
def test_a_command_has_an_example_of_itself(path: str) -> None:
    assert re.match(rf"Example: {path}( |$)", COMMANDS[path].epilog or ""), COMMANDS[path].epilog


@pytest.mark.parametrize("path", COMMANDS)
def test_a_command_stands_in_the_reference_with_each_option(path: str) -> None:
    section = re.split(rf"^#+ {path}$", PAGE, flags=re.MULTILINE)[1]
    section = re.split(r"^#", section, maxsplit=1, flags=re.MULTILINE)[0]
    options = [param for param in COMMANDS[path].params if isinstance(param, click.Option)]
    assert re.findall(r"^\| `(--[\w-]+)`", section, re.MULTILINE) == [option.opts[0] for option in options]


def test_every_recipe_key_stands_in_the_reference_once() -> None:
    keys = [key for key, kind in known_keys().items() if record_of(kind) is None]
    assert sorted(
        re.findall(r"^\| `([\w.]+)` \|", PAGE.partition("## Recipe keys")[2], re.MULTILINE)
    ) == sorted(keys)


@pytest.mark.parametrize(
    ("key", "row"),
    [
        ("trainer.max_steps", "whole number from 1; -1 for no limit | `-1` | Optimizer steps; training ends"),
        ("model.aux_ctc.ctc_loss_weight", "number from 0 up to 1 | `0.3` | Loss = (1 - weight) x transducer"),
        ("trainer.precision", "`32` or `bf16-mixed` | `bf16-mixed` |"),
        ("model.optim.sched.hold_ratio", "number from 0 up to 1, or `null` | `null` | Share of all steps"),
        ("quran.curriculum.latest_step", "whole number from 0 |  | Optimizer step at which"),
    ],
)
def test_a_key_is_reported_with_its_range_its_value_and_its_text(key: str, row: str) -> None:
    assert f"| `{key}` | {row}" in PAGE


def test_variables_are_listed_where_code_reads_them_only(tmp_path: Path) -> None:
    ours = "QURAN_ASR"  # in parts, or this file would be taken for one that reads them
    source = f'a = os.environ.get("{ours}_A")\nb = os.environ["{ours}_B"]\n# {ours}_C is only spoken of\n'
    (tmp_path / "some.py").write_text(source, encoding="utf-8")
    assert tool._variables(tmp_path) == {f"{ours}_A", f"{ours}_B"}


def test_the_check_reports_a_stale_page_and_leaves_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "docs" / "reference" / "commands.md"
    assert tool.main(["--check"], page) == 1
    assert tool.main([], page) == 0
    assert tool.main(["--check"], page) == 0
    stale = page.read_text(encoding="utf-8").replace("--look-ahead", "--look-behind")
    page.write_text(stale, encoding="utf-8")
    assert tool.main(["--check"], page) == 1
    assert page.read_text(encoding="utf-8") == stale
    assert "python tools/reference.py" in capsys.readouterr().err
    assert tool.main(["--chekc"], page) == 2
