"""What the repository may hold: text of a readable size, in rooms that say what they are for."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = sorted((ROOT / "src" / "quran_asr").rglob("*.py"))
SCRIPTS = ["quickstart.sh", "test.sh", ".ci/run", "tools/environment.sh", "tools/lock.sh"]
NOT_OURS = {".png", ".xml", ".woff2", ".onnx", ".npz"}
"""Endings of files that nobody wrote here: pictures, the text of the Quran, a font, a model."""

FONT = ROOT / "src" / "quran_asr" / "server" / "page" / "amiri-quran.woff2"
"""Of the Uthmani script, so that the page needs no network."""

MODEL = ROOT / "src" / "quran_asr" / "models" / "default"
"""The bundle that commands use when no model is named; it may be absent."""
MOST_MODEL_BYTES = 20_000_000

LOCKS = ["build.txt", "core.txt", "lock.txt"]


def tracked() -> list[Path]:
    """All that git keeps or would keep."""
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    return [ROOT / name for name in listed.stdout.decode().split("\0") if name and (ROOT / name).is_file()]


def test_no_room_is_called_helpers() -> None:
    vague = {"utils", "util", "helpers", "helper", "common", "misc", "shared"}
    named = {part.removesuffix(".py") for path in SOURCES for part in path.relative_to(ROOT).parts}
    assert named & vague == set()


def test_the_repository_holds_text_only_but_for_pictures_in_docs_a_font_and_one_model() -> None:
    binary = []
    for path in tracked():
        content = path.read_bytes()
        picture = path.suffix in {".png", ".svg"} and path.is_relative_to(ROOT / "docs")
        font = path == FONT
        model = path.parent == MODEL
        if not (picture or font or model) and (b"\0" in content or len(content) > 2_000_000):
            binary.append(str(path.relative_to(ROOT)))
    assert binary == []


def test_the_bundle_in_the_package_records_the_files_that_it_has() -> None:
    if not MODEL.is_dir():
        pytest.skip(f"no model in {MODEL.relative_to(ROOT)} yet")
    for name, recorded in json.loads((MODEL / "bundle.json").read_text("utf-8"))["files"].items():
        content = (MODEL / name).read_bytes()
        assert recorded == {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}, name


def test_no_recording_or_model_is_tracked() -> None:
    suffixes = set(".wav .mp3 .flac .ogg .opus .m4a .nemo .ckpt .onnx .pt .npy .npz".split())
    found = [path for path in tracked() if path.suffix.lower() in suffixes]
    assert [str(path) for path in found if path.parent != MODEL or path.suffix not in {".onnx", ".npz"}] == []


def test_the_model_in_the_package_is_a_whole_bundle_and_small() -> None:
    files = [path for path in tracked() if path.is_relative_to(MODEL)]
    if not files:
        pytest.skip(f"no model in {MODEL.relative_to(ROOT)} yet")
    from quran_asr.runtime.bundle import read_bundle

    assert read_bundle(MODEL).precision == "int8-weights"
    assert sum(path.stat().st_size for path in files) <= MOST_MODEL_BYTES


def test_no_file_names_a_folder_of_somebodys_machine() -> None:
    private = re.compile(r"""(?<![\w.<{])/(?:home|work|root|Users)/\w""")
    own = Path(__file__)
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()[:100]}"
        for path in tracked()
        if path != own and path.suffix not in NOT_OURS
        for number, line in enumerate(path.read_text("utf-8").splitlines(), 1)
        if private.search(line)
    ]
    assert found == []


def test_only_ci_knows_where_recordings_may_lie() -> None:
    own = Path(__file__)
    found = {
        str(path.relative_to(ROOT))
        for path in tracked()
        if path != own and path.suffix not in NOT_OURS and "../shared" in path.read_text("utf-8")
    }
    assert found <= {".ci/run"}


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_script_is_executable_and_parses(script: str) -> None:
    path = ROOT / script
    assert os.access(path, os.X_OK)
    parsed = subprocess.run(["bash", "-n", str(path)], capture_output=True, text=True)
    assert parsed.returncode == 0, parsed.stderr


def pins(lock: str) -> dict[str, set[str]]:
    """Package -> its pinned versions (two where Python 3.11 and 3.12 differ)."""
    found: dict[str, set[str]] = {}
    for line in (ROOT / "requirements" / lock).read_text("utf-8").splitlines():
        pin = re.match(r"([a-z0-9][a-z0-9._-]*)==([^ ;\\]+)", line)
        if pin:
            found.setdefault(pin[1], set()).add(pin[2])
    return found


@pytest.mark.parametrize("lock", LOCKS)
def test_a_lock_is_portable(lock: str) -> None:
    """Hashes for every pin, no address or folder of the machine it was made on."""
    text = (ROOT / "requirements" / lock).read_text("utf-8")
    assert "tools/lock.sh" in text.splitlines()[1]
    assert not re.search(r"https?:|file:|--index-url|--find-links| @ |^-e", text, re.MULTILINE)
    for entry in re.split(r"\n(?=[a-z0-9])", text):
        if "==" in entry:
            assert "--hash=sha256:" in entry, entry.splitlines()[0]


def test_the_locks_leave_the_build_of_torch_open() -> None:
    """A hash would fit the CPU build or the CUDA build, not both."""
    for lock in LOCKS:
        builds = {name for name in pins(lock) if name in {"torch", "triton", "cuda-toolkit"}}
        assert builds | {name for name in pins(lock) if name.startswith("nvidia-")} == set()
    assert "torch" not in pins("core.txt")
    pinned = (ROOT / "requirements" / "torch.txt").read_text("utf-8").splitlines()[-1]
    assert re.fullmatch(r"torch==\d+\.\d+\.\d+", pinned)


def test_the_locks_hold_every_dependency_that_the_package_names() -> None:
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    extras = project["optional-dependencies"]

    def names(requirements: list[str]) -> set[str]:
        bare = {re.split(r"[\[<>=!~; ]", one)[0].lower().replace("_", "-") for one in requirements}
        return bare - {"quran-asr", "torch"}

    assert names(project["dependencies"] + extras["test"]) <= set(pins("core.txt"))
    wanted = [one for extra in ("train", "plot", "speak", "test", "dev") for one in extras[extra]]
    assert names(project["dependencies"] + wanted) <= set(pins("lock.txt"))


def test_the_same_pythons_are_named_everywhere() -> None:
    """The classifiers, the scripts, the hosted checks and the README."""
    import tomllib

    import yaml

    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    named = [one.rpartition(" :: ")[2] for one in project["classifiers"] if " :: 3." in one]
    scripts = (ROOT / "tools" / "environment.sh").read_text("utf-8")
    jobs = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text("utf-8"))["jobs"]
    assert re.findall(r"^pythons=\((.*)\)", scripts, re.MULTILINE) == [" ".join(named)]
    assert jobs["core"]["strategy"]["matrix"]["python"] == named
    assert len(jobs["core"]["strategy"]["matrix"]["os"]) == 3
    assert project["requires-python"] == f">={named[0]}"
    assert f"Python {named[0]} to {named[-1]}" in (ROOT / "README.md").read_text("utf-8")


def test_every_script_of_the_hosted_checks_exists() -> None:
    text = (ROOT / ".github" / "workflows" / "ci.yml").read_text("utf-8")
    for path in re.findall(r"(?<![\w/.])((?:tools|tests|requirements|\.ci)/[\w./]+\w)", text):
        assert (ROOT / path).exists(), path
