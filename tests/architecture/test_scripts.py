"""The scripts at the root when something is missing: one clear line, exit status 1, and nothing half done.

Each test runs a copy of the scripts in an empty folder, with a PATH that holds only what a fresh machine has.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TOOLS = "bash env cat cksum cp df du dirname find grep mktemp rm sed sort tail tee tr awk head".split()
"""What the scripts use, all from a bare Debian. No Python, no pyenv, no nvidia-smi."""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """The scripts and locks without an environment, and a `bin` for the PATH."""
    folder = tmp_path / "checkout"
    folder.mkdir()
    for name in ("quickstart.sh", "test.sh", "pyproject.toml"):
        shutil.copy(ROOT / name, folder)
    for name in ("tools", "requirements"):
        shutil.copytree(ROOT / name, folder / name)
    tools = tmp_path / "bin"
    tools.mkdir()
    for name in TOOLS:
        place = shutil.which(name)
        if place:
            (tools / name).symlink_to(place)
    return folder


def stub(checkout: Path, name: str, body: str) -> None:
    """Put a small program first on the PATH."""
    path = checkout.parent / "bin" / name
    path.unlink(missing_ok=True)
    path.write_text(f"#!/bin/sh\n{body}\n", encoding="utf-8")
    path.chmod(0o755)


def real_python(checkout: Path, name: str = "") -> None:
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    stub(checkout, name or f"python{version}", f'exec "{sys.executable}" "$@"')


def run(checkout: Path, *command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    settings = {"PATH": str(checkout.parent / "bin"), "HOME": str(checkout.parent), **environment}
    return subprocess.run(
        ["bash", *command], cwd=checkout, env=settings, capture_output=True, text=True, timeout=300
    )


def message(done: subprocess.CompletedProcess[str]) -> str:
    """The one line that says what is wrong."""
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert done.returncode == 1, done.stderr
    assert len(errors) == 1, done.stderr
    assert done.stderr.splitlines()[-1] == errors[0]
    assert done.stdout == ""
    return errors[0]


@pytest.mark.parametrize("script", ["quickstart.sh", "test.sh"])
def test_without_python(checkout: Path, script: str) -> None:
    line = message(run(checkout, script))
    assert "no Python 3.11, 3.12, 3.13 or 3.14 on PATH;" in line
    assert "apt install python3 python3-venv" in line
    assert not (checkout / ".venv").exists()


def test_a_python_that_is_too_old_or_only_a_shim_does_not_count(checkout: Path) -> None:
    stub(checkout, "python3.11", "echo 'pyenv: python3.11: command not found' >&2; exit 127")
    stub(checkout, "python3", "echo 3.9")
    line = message(run(checkout, "quickstart.sh"))
    assert "no Python 3.11, 3.12, 3.13 or 3.14 on PATH (python3 is 3.9);" in line
    assert "uv python install 3.13" in line


def test_a_python_that_uv_installed_counts(checkout: Path) -> None:
    """uv keeps its Pythons away from the PATH."""
    real_python(checkout, "python-of-uv")
    place = checkout.parent / "bin" / "python-of-uv"
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    stub(checkout, "uv", f'[ "$4" = {version} ] && echo {place}')
    done = run(checkout, "tools/environment.sh", "find", version)
    assert (done.returncode, done.stdout.strip()) == (0, str(place))


def test_a_python_of_another_name_counts(checkout: Path) -> None:
    real_python(checkout, "python")
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    done = run(checkout, "tools/environment.sh", "find", "3.10", version)
    assert (done.returncode, done.stdout.strip()) == (0, str(checkout.parent / "bin" / "python"))
    assert run(checkout, "tools/environment.sh", "find", "3.10").returncode == 1


def test_without_the_venv_module(checkout: Path) -> None:
    """Debian's python3 without python3-venv: the version is right, `import ensurepip` fails."""
    stub(checkout, "python3", 'case "$2" in *version_info*) echo 3.11 ;; *) exit 1 ;; esac')
    line = message(run(checkout, "quickstart.sh"))
    assert "no venv module" in line
    assert "apt install python3-venv" in line
    assert not (checkout / ".venv").exists()


def test_without_disk_space(checkout: Path) -> None:
    real_python(checkout)
    stub(
        checkout,
        "df",
        "echo 'Filesystem 1024-blocks Used Available Capacity Mounted on'; echo 'x 9 9 512000 9% /'",
    )
    line = message(run(checkout, "quickstart.sh"))
    assert "no disk space" in line
    assert "has 500 MB free" in line
    assert not (checkout / ".venv").exists()


@pytest.fixture
def closed_port() -> Iterator[str]:
    """An address where nobody answers: bound, never listening."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{held.getsockname()[1]}/simple"


@pytest.mark.slow
def test_without_network(checkout: Path, closed_port: str) -> None:
    real_python(checkout)
    offline = {"PIP_INDEX_URL": closed_port, "PIP_NO_CACHE_DIR": "1", "PIP_CONFIG_FILE": os.devnull}
    assert "no network" in message(run(checkout, "tools/environment.sh", "core", **offline))
    # The environment is begun and not stamped: the next run goes on with it instead of trusting it.
    assert not (checkout / ".venv-core" / "stamp").exists()
    begun = (checkout / ".venv-core" / "made-in").stat().st_mtime_ns
    assert "no network" in message(run(checkout, "tools/environment.sh", "core", **offline))
    assert (checkout / ".venv-core" / "made-in").stat().st_mtime_ns == begun


@pytest.mark.slow
def test_a_disk_that_fills_up_meanwhile(checkout: Path) -> None:
    real_python(checkout)
    assert run(checkout, "tools/environment.sh", "core", PIP_INDEX_URL="http://127.0.0.1:9").returncode == 1
    fake = checkout / ".venv-core" / "bin" / "python"
    fake.unlink()
    fake.write_text(
        '#!/bin/sh\ncase "$*" in *install*) echo \'ERROR: Could not install packages due to an OSError: '
        "[Errno 28] No space left on device'; exit 1 ;; esac\n",
        encoding="utf-8",
    )
    fake.chmod(0o755)
    assert "no disk space left" in message(run(checkout, "tools/environment.sh", "core"))


def made(checkout: Path) -> Path:
    """An environment as a finished installation leaves it, but for the packages."""
    (checkout / ".venv" / "bin").mkdir(parents=True)
    stub(checkout, "python", "exit 0")
    shutil.copy(checkout.parent / "bin" / "python", checkout / ".venv" / "bin" / "python")
    command = "cat requirements/build.txt requirements/lock.txt requirements/torch.txt pyproject.toml | cksum"
    state = subprocess.run(["bash", "-c", command], cwd=checkout, capture_output=True, text=True, check=True)
    (checkout / ".venv" / "stamp").write_text(f"{state.stdout.strip()} {checkout}", encoding="utf-8")
    program = checkout / ".venv" / "bin" / "quran-asr"
    program.write_text('#!/bin/sh\necho "quran-asr $*"\n', encoding="utf-8")
    program.chmod(0o755)
    return checkout / ".venv"


def test_a_second_run_installs_nothing_and_passes_options_on(checkout: Path) -> None:
    made(checkout)
    done = run(checkout, "quickstart.sh", "--seed", "3")
    assert (done.returncode, done.stdout, done.stderr) == (0, "quran-asr quickstart --seed 3\n", "")


def test_a_changed_lock_or_a_moved_checkout_installs_again(checkout: Path) -> None:
    """There is no Python on this PATH to install with, and saying so shows that it was tried."""
    environment = made(checkout)
    (checkout.parent / "bin" / "python").unlink()
    (environment / "bin" / "python").write_text('#!/bin/sh\n[ "$1" = -c ]\n', encoding="utf-8")
    assert run(checkout, "quickstart.sh").returncode == 0
    moved = checkout.rename(checkout.with_name("moved"))
    assert "no Python" in message(run(moved, "quickstart.sh"))
    checkout = moved.rename(checkout)
    assert run(checkout, "quickstart.sh").returncode == 0
    with (checkout / "requirements" / "lock.txt").open("a", encoding="utf-8") as lock:
        lock.write("another==1.0\n")
    assert "no Python" in message(run(checkout, "quickstart.sh"))


def test_a_wrong_word_is_answered_with_the_usage(checkout: Path) -> None:
    assert "train, core, triton or find" in message(run(checkout, "tools/environment.sh", "everything"))


def test_a_failing_check_stops_the_tests_with_its_output(checkout: Path) -> None:
    environment = made(checkout)
    ruff = environment / "bin" / "ruff"
    ruff.write_text('#!/bin/sh\necho "src/x.py:1:1: F401 unused"\nexit 1\n', encoding="utf-8")
    ruff.chmod(0o755)
    done = run(checkout, "test.sh", "--fast")
    assert done.returncode == 1
    assert done.stderr.splitlines()[0] == "src/x.py:1:1: F401 unused"
    assert done.stderr.splitlines()[-1].startswith("error: lint (ruff check) failed")
