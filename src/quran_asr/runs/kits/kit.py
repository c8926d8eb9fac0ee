"""The kit that goes to a host without a network, and the results that come back: their layout and limits.

    kit/       kit.json, run.py, recipe.yaml, package.zip, wheels/*.whl, data/{*.jsonl, audio-N.tar}
    results/   results.json, run.tar.gz, curves.png, report.json, weights-1.part ...

Both indexes name every file with its size and sha256. They come from outside, so nothing in them is believed.
"""

from __future__ import annotations

import io
import json
import re
import tarfile
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from quran_asr import __version__
from quran_asr.files import sha256_of, write_atomically
from quran_asr.findings import QuranAsrError
from quran_asr.tarfiles import TORN, open_tar

INDEX, RESULTS_INDEX = "kit.json", "results.json"
FORMAT = 1
MOST_FILES, LARGEST_FILE, LARGEST_RESULTS = 8, 16 << 20, 60 << 20
"""What may come back: files, bytes of one (each stays under), bytes of all."""
PART_BYTES = LARGEST_FILE - (64 << 10)
OTHER_FILES = 4
"""Files of the results beside the weights."""
LARGEST_OTHERS = (3 << 20) // 2
"""Bytes that they may take together, so that weights never are what does not fit."""
WEIGHTS = re.compile(r"weights-[1-9]\.part")
_RESULT = re.compile(r"results\.json|run\.tar\.gz|curves\.png|report\.json|weights-[1-9]\.part")
_RUN_FILE = re.compile(r"[A-Za-z0-9_-][\w.-]*(/[A-Za-z0-9_-][\w.=+-]*){0,3}")
_MOST_MEMBERS, _LARGEST_RUN = 500, 200 << 20
KEPT_OF_A_RUN = (
    "recipe.yaml", "recipe-to-step-*.yaml", "metrics.jsonl", "environment.json", "training_data.json",
    "transfer.json", "transcripts.jsonl", "tokenizer/*", "evaluations/*/*", "evaluations/*/*/*",
)  # fmt: skip
"""Of a run folder, what comes back in `run.tar.gz`."""


def describe_files(folder: Path, paths: Iterable[Path]) -> dict[str, dict[str, Any]]:
    """Name below `folder` -> size and sha256."""
    return {
        path.relative_to(folder).as_posix(): {"bytes": path.stat().st_size, "sha256": sha256_of(path)}
        for path in paths
    }


def write_index(folder: Path, name: str, values: Mapping[str, Any]) -> None:
    """The index of a kit or of results, over every other file of the folder; written last."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != name)
    document = {"format": FORMAT, "version": __version__, **values, "files": describe_files(folder, files)}
    write_atomically(
        folder / name, (json.dumps(document, ensure_ascii=False, indent=1, allow_nan=False) + "\n").encode()
    )


def read_index(folder: Path, name: str, *, only: re.Pattern[str] | None = None) -> dict[str, Any]:
    """An index whose files are all there, of the size and with the sha256 that it names.

    Args:
        only: what the name of a file may be; None allows any below the folder.

    Raises:
        QuranAsrError: no index, of another format, or a file that is missing, changed or not allowed.
    """
    path = folder / name
    try:
        if path.stat().st_size > 4 << 20:
            raise ValueError("too large")
        document = json.loads(path.read_text(encoding="utf-8"))
        files = document["files"]
        listed = {str(file): (int(facts["bytes"]), str(facts["sha256"])) for file, facts in files.items()}
    except FileNotFoundError:
        raise QuranAsrError(f"no {name} in it", where=str(folder)) from None
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise QuranAsrError("is no index of this program", where=str(path)) from None
    if document.get("format") != FORMAT:
        raise QuranAsrError(
            f"has the format {str(document.get('format'))[:20]}, this version reads {FORMAT}", where=str(path)
        )
    for file, (size, sha256) in listed.items():
        place = folder / file
        inside = not PurePosixPath(file).is_absolute() and ".." not in PurePosixPath(file).parts
        if not inside or (only is not None and not only.fullmatch(file)):
            raise QuranAsrError(f"refused: names the file `{file[:60]}`", where=str(path))
        if place.is_symlink() or not place.is_file() or place.stat().st_size != size:
            raise QuranAsrError(f"{file} is missing or not whole", where=str(folder), remedy="bring it again")
        if sha256_of(place) != sha256:
            raise QuranAsrError(f"{file} was changed on the way", where=str(folder), remedy="bring it again")
    return dict(document)


def pack_package(target: Path) -> None:
    """This package's own files as one zip, as they are installed here."""
    package = Path(__file__).parents[2]
    memory = io.BytesIO()
    with zipfile.ZipFile(memory, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(package.rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts:
                name = (Path(package.name) / path.relative_to(package)).as_posix()
                archive.writestr(zipfile.ZipInfo(name), path.read_bytes(), zipfile.ZIP_DEFLATED)
    write_atomically(target, memory.getvalue())


@dataclass(frozen=True, slots=True)
class HalfSize:
    """What a model's weights take on their way back."""

    bytes: int
    parts: int

    @property
    def fits(self) -> bool:
        room = LARGEST_RESULTS - LARGEST_OTHERS
        return self.bytes <= room and self.parts <= MOST_FILES - OTHER_FILES


def half_size(parameters: int) -> HalfSize:
    """Of so many parameters in half precision; names and shapes are some hundred kilobytes."""
    size = 2 * parameters + (300 << 10)
    return HalfSize(size, -(-size // PART_BYTES))


def pack_run(run: Path, others: Mapping[str, Path], target: Path) -> None:
    """What comes back of a run, without its weights: `run.tar.gz`.

    Args:
        run: its folder.
        others: name in the archive -> a file from elsewhere; those that are missing are passed over.
        target: the archive.
    """
    memory = io.BytesIO()
    paths = {path.relative_to(run).as_posix(): path for kept in KEPT_OF_A_RUN for path in run.glob(kept)}
    with tarfile.open(fileobj=memory, mode="w:gz", compresslevel=6) as tar:
        for name, path in sorted({**paths, **others}.items()):
            if path.is_file() and not path.name.startswith("."):
                data = path.read_bytes()
                member = tarfile.TarInfo(name)
                member.size, member.mode = len(data), 0o644
                tar.addfile(member, io.BytesIO(data))
    write_atomically(target, memory.getvalue())


def unpack_run(archive: Path, folder: Path) -> None:
    """Write the files of a `run.tar.gz` into an empty folder.

    Raises:
        QuranAsrError: torn, or holding something other than the plain files of a run.
    """
    try:
        with open_tar(archive, room=_LARGEST_RUN) as tar:
            for member in tar.members(_MOST_MEMBERS):
                plain = member.isreg() and _RUN_FILE.fullmatch(member.name) and ".." not in member.name
                if not plain or member.name.startswith("checkpoints"):
                    raise QuranAsrError(f"refused: `{member.name[:60]}` in it", where=str(archive))
                target = folder / member.name
                data = tar.read(member)
                try:
                    target.parent.mkdir(parents=True, exist_ok=True)
                    with target.open("xb") as file:
                        file.writelines(data)
                except OSError as error:  # not the archive's fault
                    what = f"cannot be written ({error.strerror})"
                    raise QuranAsrError(what, where=str(target)) from None
    except TORN as error:
        raise QuranAsrError(f"no archive that can be read ({error})", where=str(archive)) from None


def read_results(folder: Path) -> tuple[dict[str, Any], Sequence[Path]]:
    """The index of results that came back, and the parts of the weights in order; none where there are none.

    Raises:
        QuranAsrError: as `read_index`, or a part that is missing.
    """
    index = read_index(folder, RESULTS_INDEX, only=_RESULT)
    names = sorted(name for name in index["files"] if WEIGHTS.fullmatch(name))
    if names != [f"weights-{number}.part" for number in range(1, len(names) + 1)]:
        raise QuranAsrError("a part of the weights is missing", where=str(folder), remedy="bring it again")
    if "run.tar.gz" not in index["files"]:
        raise QuranAsrError("holds no run.tar.gz", where=str(folder), remedy="bring it again")
    return index, [folder / name for name in names]
