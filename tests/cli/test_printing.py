"""What is printed moves no cursor, breaks no stream, and goes through one filter."""

from __future__ import annotations

import ast
import contextlib
import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quran_asr.cli.main import main
from quran_asr.cli.output import (
    Json,
    Lines,
    Screen,
    echo,
    print_error,
    print_finding,
    print_json,
    print_table,
)
from quran_asr.decoding.partial import StreamingResult
from quran_asr.errors import Finding, QuranAsrError, printable
from quran_asr.records import TimedWord

PACKAGE = Path(__file__).parents[2] / "src" / "quran_asr"
ESCAPE = "\x1b]0;owned\x07\x1b[2J\x9b31m\r\x08\u202egpj.exe\ud800"
OBEYED = {*map(chr, range(32)), *map(chr, range(0x7F, 0xA0)), "\u202e", "\ud800"} - {"\n", "\t"}


@given(st.text(st.characters(exclude_categories=())))
def test_nothing_that_is_obeyed_comes_through_and_the_rest_stays(text: str) -> None:
    shown = printable(text)
    assert not OBEYED & set(shown)
    shown.encode()
    if not OBEYED & set(text) and not set(text) & set("\u202a\u202b\u202c\u202d\u2066\u2067\u2068\u2069"):
        assert shown == text or any("\ud800" <= letter <= "\udfff" for letter in text)


@given(st.dictionaries(st.text(), st.text()))
def test_json_means_the_same_afterwards(value: dict[str, str]) -> None:
    text = json.dumps(value, ensure_ascii=False)
    assert json.loads(printable(text)) == value


def test_all_doors_use_it(capsys: pytest.CaptureFixture[str]) -> None:
    echo(ESCAPE)
    echo(ESCAPE, err=True)
    print_error(QuranAsrError(ESCAPE, where=ESCAPE, remedy=ESCAPE))
    print_json({ESCAPE.removesuffix("\ud800"): ESCAPE.removesuffix("\ud800")})
    print_table(("reciter", ESCAPE), [(ESCAPE + "\nerror: made up", 1)])
    print_finding(Finding("warning", "code", ESCAPE, ESCAPE, ESCAPE))
    word = TimedWord(ESCAPE, 0.0, 1.0)
    out = io.StringIO()
    for view in (Lines(out), Json(out)):
        view.show(StreamingResult((word,), (word,), ()), 1.0)
        view.end()
    printed = "".join([*capsys.readouterr(), out.getvalue()])
    assert not OBEYED & set(printed)
    assert printed.count("\\u001b]0;owned\\u0007") >= 12
    assert "\nerror: made up" not in printed


def test_words_on_a_terminal_bring_no_escapes_of_their_own() -> None:
    out = io.StringIO()
    view = Screen(out, 80, colour=False)
    view.show(StreamingResult((TimedWord(ESCAPE, 0.0, 1.0),), (TimedWord(ESCAPE, 1.0, 2.0),), ()), 1.0)
    view.end()
    assert not OBEYED & set(out.getvalue().replace("\r\x1b[K", ""))


@pytest.mark.parametrize(
    "words",
    [
        ["text", "show", "2:\x9b2J"],
        ["\x9b2J"],
        ["plan", "\x9b2J.yaml"],
        ["plan", "small", "trainer.\x9b2J=1"],
        ["text", "show", "2:255", "\x9b2J"],
        ["evaluate", "none\x9b2J.jsonl", "--model", "none\x9b2J.nemo"],
        ["corpus", "scan", "none\x9b2J", "--to", "all.jsonl"],
    ],
)
def test_errors_and_usage_print_it_written_out(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(words)
    out, err = capsys.readouterr()
    assert end.value.code == 2
    assert "\x9b" not in out + err
    assert "\\u009b2J" in err


@pytest.mark.parametrize(
    ("words", "lines"),
    [
        ("transcribe", ["error: missing argument 'FILE...'", "hint: see `quran-asr transcribe --help`"]),
        ("train --resume", ["error: option '--resume' requires", "hint: see `quran-asr train --help`"]),
        (
            "checkpoints list --json=1 x",
            ["error: option '--json' does not", "hint: see `quran-asr checkpoints list --help`"],
        ),
        ("text show 112 --jsn", ["error: no such option", "hint: see `quran-asr text show --help`"]),
        (
            "corpus split a --to b",
            ["error: missing option '--by'", "hint: see `quran-asr corpus split --help`"],
        ),
        ("serve --port x", ["error: invalid value for '--port': 'x'", "hint: see `quran-asr serve --help`"]),
    ],
)
def test_wrong_use_is_one_line_and_a_hint(
    words: str, lines: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        main(words.split())
    out, err = capsys.readouterr()
    assert end.value.code == 2 and out == ""
    assert len(err.splitlines()) == 2
    assert all(line.startswith(begin) for line, begin in zip(err.splitlines(), lines, strict=True))


@pytest.mark.parametrize("words", [[], ["corpus"]])
def test_without_a_command_the_help_is_shown(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(words)
    out, err = capsys.readouterr()
    assert end.value.code == 2 and out == ""
    assert (err.startswith("Usage: quran-asr") and "Commands" in err) or "Use a model" in err


def test_errors_of_the_system_have_a_hint(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SystemExit) as end:
        main(["recipe", "new", str(tmp_path / "file" / "mine.yaml")])
    assert end.value.code == 2
    what, hint = capsys.readouterr().err.splitlines()
    assert what.startswith(f"error: {tmp_path}/file") and hint.startswith("hint: ")


@pytest.mark.slow
def test_a_folder_name_that_is_not_utf_8_ends_in_no_traceback(tmp_path: Path) -> None:
    folder = os.fsencode(tmp_path) + b"/b\xe4d"
    os.mkdir(folder)  # noqa: PTH102 - no text names it
    for words in ([b"corpus", b"scan", folder, b"--to", folder + b"/all.jsonl"], [b"plot", folder]):
        done = subprocess.run(
            [os.fsencode(sys.executable), b"-m", b"quran_asr", *words], capture_output=True, check=False
        )
        assert done.returncode in (1, 2), done.stderr
        assert b"Traceback" not in done.stderr
        done.stderr.decode()


def test_lines_beside_a_progress_bar_stand_alone() -> None:
    """On a terminal the bar is taken away for them, and drawn again below."""
    pty = pytest.importorskip("pty")
    code = (
        "from quran_asr.cli.output import echo, progress_bar\n"
        "with progress_bar('counting', 'files') as on_progress:\n"
        "    for n in range(3):\n"
        "        on_progress(n, 3)\n"
        "        echo(f'a\\t{n}')\n"
        "        echo(f'note {n}', err=True)\n"
    )
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm"}
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=theirs, stdout=theirs, stderr=theirs, env=environment
    ) as process:
        os.close(theirs)
        written = b""
        with contextlib.suppress(OSError):  # Linux reports the other end's exit so
            while part := os.read(ours, 4096):
                written += part
        os.close(ours)
    assert process.returncode == 0
    assert b"counting" in written
    for line in (b"a\t0", b"note 0", b"a\t2", b"note 2"):
        before = re.split(rb"\n|\x1b\[2K", written.partition(line)[0])[-1]
        assert re.sub(rb"\x1b\[[0-9;?]*[A-Za-z]|\r", b"", before) == b""


def test_a_terminal_without_arabic_ends_no_command(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONIOENCODING": "cp1252"}
    done = subprocess.run(
        [sys.executable, "-m", "quran_asr", "text", "show", "112:1"],
        capture_output=True,
        check=False,
        env=environment,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(b"112:1\t\\u")


def test_nobody_prints_past_the_filter() -> None:
    """Only the output of the command line and a measurement of our own print by themselves."""
    doors = {"cli/output.py", "cli/interrupt.py", "benchmark/loss.py"}
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        place = str(path.relative_to(PACKAGE))
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if not isinstance(node, ast.Call) or place in doors:
                continue
            name = ast.unparse(node.func)
            filtered = any(isinstance(n, ast.Name) and n.id == "printable" for n in ast.walk(node))
            prints = name in {"print", "click.echo", "click.secho", "sys.stdout.write", "sys.stderr.write"}
            if prints and not filtered:
                found.append(f"{place}:{node.lineno}: {ast.unparse(node)[:80]}")
    assert found == []
