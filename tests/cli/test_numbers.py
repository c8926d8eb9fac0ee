"""Options that take numbers: what is none is refused by every command."""

from __future__ import annotations

import importlib

import click
import pytest

from quran_asr.cli.main import COMMANDS, main


def _options() -> list[tuple[str, str]]:
    """(command, option) of all that take a decimal number."""
    found = []

    def walk(path: str, command: click.Command) -> None:
        if isinstance(command, click.Group):
            for name, inner in command.commands.items():
                walk(f"{path} {name}", inner)
        found.extend(
            (path, one.opts[0]) for one in command.params if isinstance(one.type, click.types.FloatParamType)
        )

    for name, (place, _) in COMMANDS.items():
        module, _, attribute = place.partition(":")
        walk(name, getattr(importlib.import_module(module), attribute))
    return found


@pytest.mark.parametrize("number", ["nan", "inf", "-inf", "1e999"])
@pytest.mark.parametrize(("command", "option"), _options())
def test_what_is_not_a_finite_number_is_refused(
    command: str, option: str, number: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = {"corpus scan": ["x", "--to", "y"], "corpus split": ["x", "--to", "y"]}.get(command, ["x"])
    with pytest.raises(SystemExit) as ended:
        main([*command.split(), *words, f"{option}={number}"])
    assert ended.value.code == 2
    assert option in capsys.readouterr().err
