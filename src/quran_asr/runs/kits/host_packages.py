"""Which packages a host without a network lacks, chosen from the lock, and their wheels.

The host keeps what it has. A package is carried if it is needed (`kit_needs.txt`, measured by
`tools/kit_needs.py`) and the host lacks it, or has it in a version that another package in the kit refuses.
torch, Triton and the libraries of CUDA are never carried: they belong to the host's driver.
"""

from __future__ import annotations

import re
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from email.parser import HeaderParser
from pathlib import Path

from quran_asr.findings import QuranAsrError
from quran_asr.runs.schema import Recipe

PYTHON = "3.12"
HOSTS = Path(__file__).parent / "hosts"
"""Shipped lists of what hosts have."""
NEEDS = Path(__file__).parent / "kit_needs.txt"
SOURCE_ONLY = frozenset({"antlr4-python3-runtime"})
"""Published without a wheel; one is built here, and holds no compiled code."""
PLATFORMS = (
    *(f"manylinux_2_{minor}_x86_64" for minor in range(28, 16, -1)),
    "manylinux2014_x86_64",
    "manylinux2010_x86_64",
    "manylinux1_x86_64",
    "linux_x86_64",
)
"""Linux on x86-64 with glibc 2.28 or later; pip matches each name exactly."""
_NEVER = re.compile(r"torch|triton|cuda-toolkit|nvidia-.*")
_PIN = re.compile(r"(?P<name>[A-Za-z0-9][\w.-]*)==(?P<version>[^\s;\\]+)\s*(;\s*(?P<marker>[^\\\n]+))?")
_TARGET = {
    "implementation_name": "cpython",
    "os_name": "posix",
    "platform_machine": "x86_64",
    "platform_python_implementation": "CPython",
    "platform_system": "Linux",
    "python_full_version": f"{PYTHON}.0",
    "python_version": PYTHON,
    "sys_platform": "linux",
    "extra": "",
}
"""Environment markers of the host (PEP 508)."""
_EXTRAS = ("", "asr")
"""What a package needs by itself, and NeMo for speech: its cap on Lightning stands under that extra."""


@dataclass(frozen=True, slots=True)
class Pin:
    """One package of the lock."""

    name: str
    """Normalized (PEP 503)."""
    version: str
    text: str
    """Its lines in the lock, hashes included, as pip reads them."""


@dataclass(frozen=True, slots=True)
class Carried:
    """A wheel that goes into the kit."""

    name: str
    version: str
    file: str
    bytes: int
    why: str
    """Empty where the host simply lacks it."""


@dataclass(frozen=True, slots=True)
class Choice:
    """What is carried, and why the rest is not."""

    carried: tuple[Carried, ...]
    of_the_host: Mapping[str, str]
    """Needed and there already: name -> version, empty where the list gives none."""
    left_out: tuple[str, ...]
    """In the lock, lacking on the host, and touched by no training, evaluation or picture."""
    unfit: tuple[str, ...]
    """What the host has in a version that something refuses, and that is not carried all the same."""


def normalized(name: str) -> str:
    """A package's name as indexes compare it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def read_host(path: Path) -> dict[str, str]:
    """What a host has, from `pip list --format=freeze`: name -> version, empty where a line has none.

    Args:
        path: the list, or the name of a shipped one: `torch`, `science`.

    Raises:
        QuranAsrError: unreadable, or a line that names no package.
    """
    shipped = HOSTS / f"{path}.txt"
    if not path.exists() and len(path.parts) == 1 and shipped.is_file():
        path = shipped
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise QuranAsrError(f"cannot be read ({error})", where=str(path)) from None
    packages: dict[str, str] = {}
    for number, line in enumerate(lines, start=1):
        line = line.split("#", 1)[0].strip()
        if not line:
            continue
        found = re.fullmatch(r"([A-Za-z0-9][\w.-]*)(?:\s*==\s*(\S+)|\s*@.*)?", line)
        if found is None:
            raise QuranAsrError(
                f"no package in `{line[:60]}`",
                where=f"{path}:{number}",
                remedy="make the list with `python3 -m pip list --format=freeze` on the host",
            )
        packages[normalized(found[1])] = found[2] or ""
    if not packages:
        raise QuranAsrError("names no package", where=str(path))
    return packages


def read_needs(recipe: Recipe) -> list[str]:
    """Names of the packages that a training of this recipe touches."""
    augment = recipe.quran.augment
    rooms = augment is not None and augment.room_probability > 0
    needs = []
    for line in NEEDS.read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            name, _, part = line.partition(" ")
            if rooms or part.strip() != "rooms":
                needs.append(name)
    return needs


def read_lock(path: Path) -> dict[str, Pin]:
    """The pins of a lock that hold for the host's Python and system.

    Raises:
        QuranAsrError: no lock there.
    """
    from packaging.markers import Marker

    if not path.is_file():
        raise QuranAsrError(
            "no lock there",
            where=str(path),
            remedy="name one: --lock requirements/lock.txt",
        )
    pins: dict[str, Pin] = {}
    for entry in re.split(r"\n(?=[A-Za-z0-9])", path.read_text(encoding="utf-8")):
        found = _PIN.match(entry)
        if found is None:
            continue
        marker = found["marker"]
        if marker and not Marker(marker.strip()).evaluate(_TARGET):
            continue
        name = normalized(found["name"])
        hashes = re.findall(r"--hash=sha256:[0-9a-f]{64}", entry)
        text = " \\\n    ".join([f"{name}=={found['version']}", *hashes])
        pins[name] = Pin(name, found["version"], text + "\n")
    return pins


def choose(
    pins: Mapping[str, Pin],
    needs: Iterable[str],
    host: Mapping[str, str],
    fetch: Callable[[Sequence[Pin]], Mapping[str, Path]],
) -> Choice:
    """Choose and fetch, until no package of the kit refuses what the host has.

    Args:
        pins: the lock.
        needs: names of what is touched.
        host: what is there.
        fetch: gives a wheel for each of these pins.

    Raises:
        QuranAsrError: something needed is neither on the host nor in the lock.
    """
    needed = sorted({normalized(name) for name in needs} - {"quran-asr"})
    lacking = [name for name in needed if name not in host]
    if impossible := [name for name in lacking if name not in pins or _NEVER.fullmatch(name)]:
        raise QuranAsrError(
            f"the host lacks {', '.join(impossible)}, which a kit cannot bring",
            remedy="use a host that has torch with CUDA; or add the package to the lock",
        )
    why = dict.fromkeys(lacking, "")
    wheels: dict[str, Path] = {}
    refused: dict[str, str] = {}
    while missing := sorted(why.keys() - wheels.keys()):
        wheels |= fetch([pins[name] for name in missing])
        refused = refusals(wheels.values(), {name: v for name, v in host.items() if name not in why})
        for name, reason in refused.items():
            if name in pins and name in needed and not _NEVER.fullmatch(name):
                why[name] = reason
    carried = tuple(
        Carried(name, pins[name].version, wheels[name].name, wheels[name].stat().st_size, why[name])
        for name in sorted(why)
    )
    return Choice(
        carried=carried,
        of_the_host={name: host[name] for name in needed if name in host and name not in why},
        left_out=tuple(sorted(name for name in pins if name not in needed and name not in host)),
        unfit=tuple(reason for name, reason in sorted(refused.items()) if name not in why),
    )


def refusals(wheels: Iterable[Path], host: Mapping[str, str]) -> dict[str, str]:
    """Packages of the host that a wheel's metadata refuses: name -> who wants what.

    A version that is not known is refused where there is an upper limit.
    """
    from packaging.requirements import InvalidRequirement, Requirement
    from packaging.version import InvalidVersion, Version

    found: dict[str, str] = {}
    for wheel in sorted(wheels):
        who = wheel.name.split("-", 1)[0]
        for line in requirements_of(wheel):
            try:
                wanted = Requirement(line)
                name, marker = normalized(wanted.name), wanted.marker
                asked = not marker or any(marker.evaluate({**_TARGET, "extra": e}) for e in _EXTRAS)
                if name not in host or not asked:
                    continue
                have = host[name]
                if not have:
                    fits = all(one.operator in (">=", ">", "!=") for one in wanted.specifier)
                else:
                    fits = wanted.specifier.contains(Version(have), prereleases=True)
                if not fits:
                    there = f"there is {have}" if have else "and the host's version is not known"
                    found[name] = f"{who} wants {wanted.name}{wanted.specifier}, {there}"
            except (InvalidRequirement, InvalidVersion):
                continue  # an old package's free text: nothing that can be compared
    return found


def requirements_of(wheel: Path) -> list[str]:
    """`Requires-Dist` of a wheel.

    Raises:
        QuranAsrError: it is no wheel.
    """
    try:
        with zipfile.ZipFile(wheel) as archive:
            names = [n for n in archive.namelist() if re.fullmatch(r"[^/]+\.dist-info/METADATA", n)]
            text = archive.read(names[0]).decode("utf-8", errors="replace")
    except (zipfile.BadZipFile, IndexError, OSError, KeyError):
        raise QuranAsrError("is no wheel", where=str(wheel)) from None
    return HeaderParser().parsestr(text).get_all("Requires-Dist") or []


def download(pins: Sequence[Pin], folder: Path) -> dict[str, Path]:
    """Wheels of these pins for the host, from the package index that pip uses here; kept in `folder`.

    What lies there from an earlier time is used again. Every file is checked against the lock's hashes.

    Raises:
        QuranAsrError: pip cannot fetch or build one; its last line is named.
    """
    folder.mkdir(parents=True, exist_ok=True)
    ready = [pin for pin in pins if pin.name not in SOURCE_ONLY]
    source = [pin for pin in pins if pin.name in SOURCE_ONLY]
    if ready:
        platforms = [word for platform in PLATFORMS for word in ("--platform", platform)]
        target = ["--python-version", PYTHON, "--implementation", "cp", "--abi", "cp312", "--abi", "abi3"]
        _pip(["download", "--only-binary=:all:", *platforms, *target, "--abi", "none"], ready, folder)
    if source and not all(_wheel_in(folder, pin) for pin in source):
        _pip(["wheel", "--wheel-dir"], source, folder)
    found = {pin.name: _wheel_in(folder, pin) for pin in pins}
    if lost := [name for name, path in found.items() if path is None]:
        raise QuranAsrError(f"pip brought no wheel of {', '.join(lost)}", where=str(folder))
    return {name: path for name, path in found.items() if path is not None}


def _pip(command: list[str], pins: Sequence[Pin], folder: Path) -> None:
    listed = folder / ".wanted.txt"
    listed.write_text("".join(pin.text for pin in pins), encoding="utf-8")
    place = [str(folder)] if command[0] == "wheel" else ["--dest", str(folder), "--find-links", str(folder)]
    words = [*command, *place, "--no-deps", "--require-hashes", "--quiet", "-r", str(listed)]
    done = subprocess.run([sys.executable, "-m", "pip", *words], capture_output=True, text=True, check=False)
    listed.unlink()
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if "error" in line.lower()] or ["no word"]
        raise QuranAsrError(
            f"pip could not fetch what the kit needs: {said[-1].strip()[:200]}",
            remedy="run it again where the package index can be reached",
        )


def _wheel_in(folder: Path, pin: Pin) -> Path | None:
    for path in sorted(folder.glob("*.whl")):
        name, version, *_ = path.name.split("-")
        if (normalized(name), version) == (pin.name, pin.version):
            return path
    return None
