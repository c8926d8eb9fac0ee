"""Which packages a host lacks: the choice, against lists and wheels that are made here."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from pathlib import Path

import pytest

from quran_asr.findings import QuranAsrError
from quran_asr.runs.kits.host_packages import Pin, choose, read_host, read_lock, read_needs
from quran_asr.runs.recipe import load_recipe

ROOT = Path(__file__).parents[2]


def wheel(folder: Path, name: str, version: str, *needs: str) -> Path:
    path = folder / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        lines = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}"]
        lines += [f"Requires-Dist: {need}" for need in needs]
        archive.writestr(
            f"{name}-{version}.dist-info/METADATA", "\n".join(lines) + "\n\nRequires-Dist: lie\n"
        )
    return path


@pytest.fixture
def shop(tmp_path: Path) -> dict[str, Path]:
    return {
        "nemo": wheel(
            tmp_path, "nemo", "3.0",
            'lightning<=2.4,>2.2; extra == "asr"', "numpy>=2", "torch>=2.12", 'odd<1; python_version < "3.9"',
        ),
        "lightning": wheel(tmp_path, "lightning", "2.4", "packaging<25"),
        "packaging": wheel(tmp_path, "packaging", "24.2"),
        "numpy": wheel(tmp_path, "numpy", "2.5"),
    }  # fmt: skip


def test_a_host_keeps_what_it_has_unless_the_kit_refuses_it(shop: dict[str, Path]) -> None:
    pins = {name: Pin(name, path.name.split("-")[1], "") for name, path in shop.items()}
    pins["wandb"] = Pin("wandb", "1", "")
    asked: list[list[str]] = []

    def fetch(wanted: Sequence[Pin]) -> dict[str, Path]:
        asked.append([pin.name for pin in wanted])
        return {pin.name: shop[pin.name] for pin in wanted}

    host = {"torch": "2.11", "lightning": "2.6.6", "packaging": "26.3", "numpy": "2.5.2", "odd": "5"}
    choice = choose(pins, ["nemo", "lightning", "packaging", "numpy", "torch", "odd"], host, fetch)
    assert asked == [["nemo"], ["lightning"], ["packaging"]], "one replacement asks for the next"
    assert {one.name: one.why for one in choice.carried} == {
        "nemo": "",
        "lightning": "nemo wants lightning<=2.4,>2.2, there is 2.6.6",
        "packaging": "lightning wants packaging<25, there is 26.3",
    }
    assert choice.of_the_host == {"torch": "2.11", "numpy": "2.5.2", "odd": "5"}
    assert choice.left_out == ("wandb",)
    assert choice.unfit == ("nemo wants torch>=2.12, there is 2.11",), "torch belongs to the host's driver"


def test_a_version_that_is_not_known_passes_no_upper_limit(shop: dict[str, Path]) -> None:
    pins = {name: Pin(name, path.name.split("-")[1], "") for name, path in shop.items()}
    host = {"torch": "", "lightning": "", "numpy": ""}
    choice = choose(
        pins, ["nemo", "lightning", "numpy"], host, lambda asked: {p.name: shop[p.name] for p in asked}
    )
    assert [one.name for one in choice.carried] == ["lightning", "nemo"] and choice.unfit == ()


def test_torch_cannot_be_brought(shop: dict[str, Path]) -> None:
    with pytest.raises(QuranAsrError, match="the host lacks torch, which a kit cannot bring"):
        choose({"torch": Pin("torch", "2.13", "")}, ["torch"], {"pip": "26"}, lambda pins: {})


def test_a_list_of_a_host_is_read_as_pip_writes_it(tmp_path: Path) -> None:
    path = tmp_path / "host.txt"
    path.write_text("# a host\nPyYAML==6.0.3\ntyping_extensions\nmine @ file:///x/y.whl\n")
    assert read_host(path) == {"pyyaml": "6.0.3", "typing-extensions": "", "mine": ""}
    path.write_text("Package Version\n------- -------\n")
    with pytest.raises(QuranAsrError, match="no package in `Package Version`") as error:
        read_host(path)
    assert error.value.where == f"{path}:1" and "--format=freeze" in error.value.remedy


def test_the_lock_and_the_shipped_list_hold_whatever_is_needed() -> None:
    pins, host, needs = (
        read_lock(ROOT / "requirements" / "lock.txt"),
        read_host(Path("torch")),
        read_needs(load_recipe("small")),
    )
    assert {"nemo-toolkit", "lhotse", "hydra-core", "omegaconf", "antlr4-python3-runtime"} <= set(needs)
    assert "quran-asr" not in pins and host["torch"].startswith("2.11") and host["triton"].startswith("3.6")
    lost = sorted(name for name in needs if name not in pins and name not in host and name != "quran-asr")
    assert lost == []
    science = read_host(Path("science"))
    assert {name for name in host if not name.startswith("nvidia")} - {"cuda-toolkit"} <= science.keys()
    assert pins["numpy"].version.startswith("2.5"), "the pin for Python 3.12, not the one for 3.11"
    assert pins["numpy"].text.count("--hash=sha256:") > 3


def test_rooms_are_carried_where_a_recipe_has_some() -> None:
    rooms = load_recipe("small", ["quran.augment.room_probability=0.3"])
    assert set(read_needs(rooms)) - set(read_needs(load_recipe("base"))) == {"pyroomacoustics"}
    assert "pyroomacoustics" in read_lock(ROOT / "requirements" / "lock.txt")
