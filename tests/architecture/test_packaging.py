"""Wheel and sdist: all that the package reads at run time is inside, and nothing else."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

from quran_asr import __version__
from quran_asr.cli.main import COMMANDS

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src" / "quran_asr"

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What is packed, without what an earlier build left."""
    copy = tmp_path_factory.mktemp("package")
    for name in ("pyproject.toml", "README.md", "LICENSE", "THIRD_PARTY_NOTICES.md"):
        shutil.copy(ROOT / name, copy)
    shutil.copytree(ROOT / "src", copy / "src", ignore=shutil.ignore_patterns("*.egg-info", "__pycache__"))
    return copy


def build_wheel(source: Path, to: Path) -> zipfile.ZipFile:
    build = [sys.executable, *"-m pip wheel --quiet --no-deps --no-build-isolation -w".split(), to, source]
    done = subprocess.run(build, cwd=to.parent, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr
    (made,) = to.glob("*.whl")
    return zipfile.ZipFile(made)


@pytest.fixture(scope="module")
def wheel(copy: Path) -> zipfile.ZipFile:
    return build_wheel(copy, copy / "out")


def kept(folder: Path) -> set[str]:
    """Files of the package in the checkout, as named in the wheel."""
    return {
        path.relative_to(ROOT / "src").as_posix()
        for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


def test_the_wheel_holds_the_package_and_nothing_else(wheel: zipfile.ZipFile) -> None:
    packed = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert packed == kept(SOURCE)
    assert {"quran_asr/py.typed", "quran_asr/recipes/base.yaml"} <= packed
    assert "quran_asr/text/data/quran-uthmani.xml" in packed


def test_the_wheel_has_the_default_model(wheel: zipfile.ZipFile) -> None:
    model = SOURCE / "models" / "default"
    if not model.is_dir():
        pytest.skip(f"no model in {model.relative_to(ROOT)} yet")
    for path in model.iterdir():
        assert wheel.read(f"quran_asr/models/default/{path.name}") == path.read_bytes()


def test_the_sdist_makes_the_same_wheel(copy: Path, wheel: zipfile.ZipFile, tmp_path: Path) -> None:
    script = "import setuptools.build_meta as backend, sys; print(backend.build_sdist(sys.argv[1]))"
    build = [sys.executable, "-c", script, str(tmp_path / "sdist")]
    (tmp_path / "sdist").mkdir()
    done = subprocess.run(build, cwd=copy, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr
    (archive,) = (tmp_path / "sdist").iterdir()
    assert archive.name == f"quran_asr-{__version__}.tar.gz"
    assert build_wheel(archive, tmp_path / "wheel").namelist() == wheel.namelist()


def test_every_command_of_the_table_is_inside(wheel: zipfile.ZipFile) -> None:
    for place, _ in COMMANDS.values():
        assert f"{place.partition(':')[0].replace('.', '/')}.py" in wheel.namelist()


def test_the_script_enters_where_ctrl_c_is_looked_after(wheel: zipfile.ZipFile) -> None:
    (name,) = (name for name in wheel.namelist() if name.endswith(".dist-info/entry_points.txt"))
    assert b"quran-asr = quran_asr.__main__:main" in wheel.read(name)


def test_the_text_is_packed_byte_for_byte(wheel: zipfile.ZipFile) -> None:
    for path in sorted((SOURCE / "text" / "data").glob("*.xml")):
        assert wheel.read(f"quran_asr/text/data/{path.name}") == path.read_bytes()


def test_licence_and_notices_travel_with_it(wheel: zipfile.ZipFile) -> None:
    licences = {name.rpartition("/")[2]: name for name in wheel.namelist() if ".dist-info/licenses/" in name}
    assert set(licences) == {"LICENSE", "THIRD_PARTY_NOTICES.md"}
    assert b"Apache License" in wheel.read(licences["LICENSE"])
    assert b"Tanzil" in wheel.read(licences["THIRD_PARTY_NOTICES.md"])


def test_the_metadata_keeps_torch_out_of_core(wheel: zipfile.ZipFile) -> None:
    (name,) = (name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
    metadata = Parser().parsestr(wheel.read(name).decode("utf-8"))
    assert metadata["Version"] == __version__
    needed = [one.lower() for one in metadata.get_all("Requires-Dist", [])]
    core = [one for one in needed if "extra ==" not in one]
    assert core
    assert not [one for one in core if one.startswith(("torch", "nemo", "lightning", "espeak", "matplotlib"))]
    assert 'torch>=2.6; extra == "train"' in needed
    assert "soundfile>=0.13" in core  # the first whose `write` takes a compression level
