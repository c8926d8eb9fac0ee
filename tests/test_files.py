"""Files are whole or not there, whoever looks and whatever another process has planted in the folder."""

from __future__ import annotations

import json
import os
import re
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quran_asr import files
from quran_asr.files import parse_json, replacing, sweep, temporary_folder, unfinished_path, write_atomically


@pytest.fixture
def umask() -> Iterator[int]:
    before = os.umask(0o027)
    yield 0o027
    os.umask(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_what_is_written_is_there_alone(tmp_path: Path) -> None:
    write_atomically(tmp_path / "a" / "b.json", b"first")
    write_atomically(tmp_path / "a" / "b.json", b"second")
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["b.json"]
    assert (tmp_path / "a" / "b.json").read_bytes() == b"second"


def test_the_name_until_then_cannot_be_guessed_and_is_new(tmp_path: Path) -> None:
    names = {unfinished_path(tmp_path).name for _ in range(100)}
    assert len(names) == 100
    with replacing(tmp_path / "report.json") as first, replacing(tmp_path / "report.json") as second:
        assert first != second
        for name in (first.name, second.name):
            assert re.fullmatch(r"\.quran-asr-[0-9a-f]{8}-\d+-[0-9a-f]{16}\.unfinished", name)


def test_a_planted_link_is_not_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even where the name is known: what stands under it is neither opened nor removed."""
    precious = tmp_path / "precious"
    precious.write_text("untouched")
    planted = tmp_path / "out" / ".known.unfinished"
    planted.parent.mkdir()
    planted.symlink_to(precious)
    monkeypatch.setattr(files, "unfinished_path", lambda folder, suffix="": planted)
    with pytest.raises(FileExistsError):
        write_atomically(tmp_path / "out" / "report.json", b"mine")
    assert precious.read_text() == "untouched"
    assert not (tmp_path / "out" / "report.json").exists()


def test_the_old_name_of_this_process_is_not_used(tmp_path: Path) -> None:
    """Links under every name that the process number alone would give."""
    precious = tmp_path / "precious"
    precious.write_text("untouched")
    for name in (f".report.json.{os.getpid()}.unfinished", ".report.json.unfinished", ".report.json.tmp"):
        (tmp_path / name).symlink_to(precious)
    write_atomically(tmp_path / "report.json", b"mine")
    assert precious.read_text() == "untouched"


def test_a_link_at_the_target_is_replaced_and_what_it_names_stays(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_text("untouched")
    (tmp_path / "report.json").symlink_to(precious)
    write_atomically(tmp_path / "report.json", b"mine")
    assert precious.read_text() == "untouched"
    assert not (tmp_path / "report.json").is_symlink()


@pytest.mark.parametrize("kept", [0o600, 0o640, 0o664, 0o444])
def test_the_mode_of_what_is_replaced_is_kept(tmp_path: Path, umask: int, kept: int) -> None:
    target = tmp_path / "metrics.json"
    target.write_bytes(b"old")
    target.chmod(kept)
    seen = []
    with replacing(target) as unfinished:
        seen.append(mode(unfinished))
        unfinished.write_bytes(b"new")
    assert mode(target) == kept
    assert seen[0] & ~(kept | 0o600) == 0, "meanwhile nobody may read what was private"
    assert target.read_bytes() == b"new"


def test_a_new_file_follows_the_umask(tmp_path: Path, umask: int) -> None:
    write_atomically(tmp_path / "new.json", b"{}")
    assert mode(tmp_path / "new.json") == 0o666 & ~umask


def test_an_error_inside_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "model.nemo"
    target.write_bytes(b"old")
    for error in (KeyboardInterrupt, RuntimeError, SystemExit):
        with pytest.raises(error), replacing(target, suffix=".nemo") as unfinished:
            assert unfinished.suffix == ".nemo"
            unfinished.write_bytes(b"half")
            raise error
    assert [path.name for path in tmp_path.iterdir()] == ["model.nemo"]
    assert target.read_bytes() == b"old"


def test_an_error_of_the_system_names_the_target(tmp_path: Path) -> None:
    target = tmp_path / "folder"
    target.mkdir()
    (target / "file").touch()
    with pytest.raises(OSError, match=r"folder'") as raised:
        write_atomically(target, b"")
    assert raised.value.filename == str(target)
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_the_folder_goes_to_the_disk_after_the_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    sync, replace = os.fsync, Path.replace

    def fsync(handle: int) -> None:
        done.append("folder" if stat.S_ISDIR(os.fstat(handle).st_mode) else "file")
        sync(handle)

    def renamed(self: Path, target: Path) -> Path:
        done.append("name")
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(Path, "replace", renamed)
    write_atomically(tmp_path / "a.json", b"{}")
    assert done == ["file", "name", "folder"]


def dead_process() -> int:
    """The number of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_only_what_killed_processes_left_is_swept(tmp_path: Path) -> None:
    ours = unfinished_path(tmp_path).name
    dead = dead_process()
    left = ours.replace(f"-{os.getpid()}-", f"-{dead}-")
    left_folder = unfinished_path(tmp_path).name.replace(f"-{os.getpid()}-", f"-{dead}-")
    other_host = re.sub(r"asr-[0-9a-f]{8}-", "asr-00000000-", left)
    stay = [
        ".env",
        ".gitignore",
        ".notes.unfinished",
        f".report.json.{dead}.unfinished",
        ".quran-asr-notes",
        ours,
        other_host,
        "x" + left,
    ]
    for name in (*stay, left):
        (tmp_path / name).touch()
    (tmp_path / left_folder).mkdir()
    (tmp_path / left_folder / "graph").touch()
    (tmp_path / ".git").mkdir()
    sweep(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*stay, ".git"])


def test_a_link_to_a_folder_is_swept_as_a_link(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "file").touch()
    name = unfinished_path(tmp_path).name.replace(f"-{os.getpid()}-", f"-{dead_process()}-")
    (tmp_path / name).symlink_to(precious)
    sweep(tmp_path)
    assert (precious / "file").exists()
    assert not (tmp_path / name).is_symlink()


def test_a_temporary_folder_is_gone_afterwards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with temporary_folder() as folder:
        (folder / "file").touch()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@given(
    st.recursive(
        st.none() | st.booleans() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    )
)
def test_json_is_read_as_it_was_written(value: object) -> None:
    for text in (json.dumps(value), json.dumps(value, ensure_ascii=False)):
        assert parse_json(text) == parse_json(text.encode()) == value


@pytest.mark.parametrize(
    "text",
    [
        '{"reciter": "\\ud800"}',
        '["\\uDFFF"]',
        '{"\\udc80": 1}',
        '"\\ude00\\ud83d"',
        '"\ud800"',
        "[" * 100_000,
        "1" * 5_000,
        b'"\xff"',
    ],
)
def test_json_that_no_file_and_no_terminal_takes_is_refused(text: str | bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_json(text)


def test_a_pair_of_halves_is_a_character() -> None:
    assert parse_json('"\\ud83d\\ude00"') == "\U0001f600"


def test_a_killed_writer_leaves_a_name_that_is_swept(tmp_path: Path) -> None:
    code = (
        "import os, pathlib, signal; from quran_asr.files import replacing\n"
        f"with replacing(pathlib.Path({str(tmp_path / 'a.ckpt')!r})) as file:\n"
        "    file.write_bytes(b'half')\n    os.kill(os.getpid(), signal.SIGKILL)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -signal.SIGKILL
    assert len(list(tmp_path.iterdir())) == 1
    sweep(tmp_path)
    assert list(tmp_path.iterdir()) == []
