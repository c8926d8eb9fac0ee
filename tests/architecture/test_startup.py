"""`--help` of everything, and commands that touch no audio and no model, answer at once and without torch."""

from __future__ import annotations

import json
import os
import re
import resource
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import click
import pytest

from quran_asr.cli.main import COMMANDS, cli

sys.path.insert(0, str(Path(__file__).parents[1]))
from processor import allowed

LIMIT = 0.5
"""Seconds from the start of the process to its end."""

TYPE_NAME = re.compile(r"\b(INTEGER|FLOAT|TEXT)( RANGE)?\b")
"""What click prints as the value of an option without a metavar."""

HEAVY = {"numpy", "torch", "nemo", "lightning", "transformers", "sentencepiece", "matplotlib", "soundfile"}

SETTLED = [
    "text show 2:255 --spelling letters",
    "recipe list",
    "plan transfer --clips 67399 --hours 56",
    "plan before --device rtx3090 --json",
]
"""Whole commands that touch no audio and no model."""

REFUSED = [
    ("check compact --train none.jsonl --validation none.jsonl", "none.jsonl: no such manifest"),
    ("check compact", "no manifest to check"),
    ("check compact model.optim.lrr=1", "unknown key"),
    ("check compact --train none.jsonl --validation none.jsonl --sample few", "not a number of clips"),
]
"""Commands that are wrong, and what of them is reported."""

RUN = """
import json, sys
from quran_asr.cli.main import main
try:
    main(json.loads(sys.argv[1]))
finally:
    sys.stdout.flush()
    print("\\n" + json.dumps(sorted({name.partition(".")[0] for name in sys.modules})), file=sys.stderr)
"""


def processor_seconds() -> float:
    """What finished processes have used. On a busy machine the clock on the wall shows the others' work."""
    spent = resource.getrusage(resource.RUSAGE_CHILDREN)
    return spent.ru_utime + spent.ru_stime


def run(arguments: list[str], cwd: Path) -> tuple[subprocess.CompletedProcess[str], float, set[str]]:
    """One command in a fresh process: what came back, its seconds, the packages that it imported."""
    begun, used = time.perf_counter(), processor_seconds()
    process = [sys.executable, "-c", RUN, json.dumps(arguments)]
    # Compiled once as for everybody, even where the tests themselves are set to write no bytecode.
    compiled = {"PYTHONPYCACHEPREFIX": str(cwd.parent / "compiled"), "PYTHONDONTWRITEBYTECODE": ""}
    environment = {**os.environ, **compiled}
    done = subprocess.run(process, cwd=cwd, env=environment, capture_output=True, text=True, timeout=300)
    seconds = min(time.perf_counter() - begun, processor_seconds() - used)
    return done, seconds, set(json.loads(done.stderr.strip().splitlines()[-1]))


def answers_at_once(arguments: list[str], cwd: Path, code: int = 0) -> str:
    """Run it until it was quick once (the first run compiles); what it printed, its errors if `code`."""
    fastest, limit = float("inf"), allowed(LIMIT)
    for _ in range(5):
        done, seconds, packages = run(arguments, cwd)
        assert done.returncode == code, done.stderr
        assert packages & HEAVY == set(), f"`quran-asr {' '.join(arguments)}` imports {packages & HEAVY}"
        fastest = min(fastest, seconds)
        if fastest < limit:
            return done.stderr if code else done.stdout
    pytest.fail(f"`quran-asr {' '.join(arguments)}` took {fastest:.2f} s at best; {limit:.2f} s are allowed")


def subcommands(name: str) -> list[list[str]]:
    """`["corpus"], ["corpus", "scan"], ...`"""
    command = cli.get_command(click.Context(cli), name)
    assert command is not None
    below = sorted(command.commands) if isinstance(command, click.Group) else []
    return [[name], *([name, one] for one in below)]


def test_the_general_help_lists_every_command(tmp_path: Path) -> None:
    text = answers_at_once(["--help"], tmp_path)
    assert set(COMMANDS) <= set(text.split())


@pytest.mark.parametrize("name", COMMANDS)
def test_help_answers_at_once_and_ends_with_an_example(name: str, tmp_path: Path) -> None:
    for arguments in subcommands(name):
        text = answers_at_once([*arguments, "--help"], tmp_path)
        last = text.strip().split("\n\n")[-1]
        assert f"quran-asr {' '.join(arguments)}" in last, f"no example at the end of:\n{text}"
        assert "None]" not in text, f"a range without ends in:\n{text}"
        assert not TYPE_NAME.search(text), f"an option without a metavar in:\n{text}"
        commands = text.partition("\nCommands:\n")[2].splitlines()
        assert not [line for line in commands if line.endswith("...")], f"a sentence is cut in:\n{text}"


@pytest.mark.alone  # processor time, too, is longer beside a test that fills the caches
@pytest.mark.parametrize("command", [one for one in SETTLED if one.split()[0] in COMMANDS])
def test_what_touches_no_audio_and_no_model_answers_at_once(command: str, tmp_path: Path) -> None:
    assert answers_at_once(command.split(), tmp_path).strip()


@pytest.mark.parametrize(("command", "message"), REFUSED)
def test_what_is_wrong_is_reported_at_once(command: str, message: str, tmp_path: Path) -> None:
    if find_spec("nemo") is None:
        pytest.skip("needs the training packages")
    assert message in answers_at_once(command.split(), tmp_path, code=2)


def test_the_check_sees_heavy_imports(tmp_path: Path) -> None:
    code = RUN.replace("try:", "import email.mime.text as heavy\ntry:")
    done = subprocess.run(
        [sys.executable, "-c", code, '["--help"]'], cwd=tmp_path, capture_output=True, text=True, timeout=300
    )
    assert "email" in json.loads(done.stderr.strip().splitlines()[-1])
    assert "email" not in run(["--help"], tmp_path)[2]
