"""`.nemo` archives from outside: inspected before anything in them is used.

An archive is a tar with a YAML configuration, weights and tokenizer files. Whoever wrote it could have put in
paths that leave the folder, classes that do more than compute, references that read the environment, and a
pickle for weights. Each is refused in one line; nothing in an archive runs.
"""

from __future__ import annotations

import io
import tarfile
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import sentencepiece
import torch
from torch import Tensor

from quran_asr.errors import QuranAsrError
from quran_asr.files import temporary_folder
from quran_asr.tarfiles import TORN, Tar, open_tar
from quran_asr.training.archive_config import parse, rebuild

CONFIG = "model_config.yaml"
WEIGHTS = "model_weights.ckpt"
MOST_MEMBERS = 1000
LARGEST_CONFIG = 500_000
"""Bytes. A vocabulary of 8,000 tokens takes 150,000."""
LARGEST_TOKENIZER = 20_000_000
"""Bytes."""
ARTIFACTS = ("model_path", "vocab_path", "spe_tokenizer_vocab")
"""Keys of `tokenizer` that name files."""


@dataclass(frozen=True, slots=True)
class Archive:
    """An archive that was looked through."""

    path: Path
    members: tuple[str, ...]
    """Names of its files as the tar has them."""
    config: Mapping[str, Any]
    """Its `model_config.yaml`, rebuilt by `rebuild`: nothing in it is copied unchecked."""
    model_class: str
    pieces: tuple[str, ...] | None
    """Its tokens without the blank, in the order of their ids; None without a SentencePiece model."""


def read_archive(path: Path) -> Archive:
    """Look an archive through; its weights are not read.

    Raises:
        QuranAsrError: no archive, torn, or holding what an archive of NeMo's does not hold.
    """
    where = f"{path}: {CONFIG}"
    with _opened(path) as tar:
        members = _checked_members(tar)
        config = rebuild(parse(_read(tar, members[CONFIG], LARGEST_CONFIG), where), where)
        _refuse_foreign_files(config, members, where)
        tokenizer = _tokenizer_member(config, members)
        pieces = None
        if tokenizer is not None:
            pieces = _pieces(_read(tar, members[tokenizer], LARGEST_TOKENIZER), f"{path}: {tokenizer}")
    return Archive(
        path, tuple(member.name for member in members.values()), config, str(config["target"]), pieces
    )


def read_weights(archive: Archive) -> dict[str, Tensor]:
    """Its state dict on the CPU, mapped from a file so that no second copy stands in memory.

    Raises:
        QuranAsrError: unreadable, or holding more than tensors by name.
    """
    with temporary_folder() as folder:
        _extract(archive, WEIGHTS, folder / WEIGHTS)
        return _load(folder / WEIGHTS, f"{archive.path}: {WEIGHTS}")


def extract_tokenizer(archive: Archive, folder: Path) -> None:
    """Put its tokenizer into a folder, under the names that a run's has.

    Raises:
        QuranAsrError: it has no SentencePiece tokenizer.
    """
    with _opened(archive.path) as tar:
        members = _checked_members(tar)
        found = _tokenizer_member(archive.config, members)
        if found is None:
            raise QuranAsrError(
                "has no SentencePiece tokenizer",
                where=str(archive.path),
                remedy="use a model whose archive has a `tokenizer.model`",
            )
        model = _read(tar, members[found], LARGEST_TOKENIZER)
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = [piece for piece in archive.pieces or () if piece != "<unk>"]
    (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n", encoding="utf-8")
    (folder / "tokenizer.model").write_bytes(model)


@contextmanager
def _opened(path: Path) -> Iterator[Tar]:
    if not path.is_file():
        raise QuranAsrError("no such archive", where=str(path), remedy="check the path of the .nemo")
    try:
        with open_tar(path) as tar:
            yield tar
    except TORN as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__).rstrip(":")[:80]
        raise QuranAsrError(
            f"not a whole .nemo archive ({reason})", where=str(path), remedy="fetch or copy it again"
        ) from None


def _checked_members(tar: Tar) -> dict[str, tarfile.TarInfo]:
    """Its files by their last names."""

    def refused(why: str, name: str) -> QuranAsrError:
        where = f"{tar.path}: {ascii(name)[1:-1][:80]}"
        return QuranAsrError(f"refused: {why}", where=where, remedy="do not use this archive")

    found: dict[str, tarfile.TarInfo] = {}
    for member in tar.members(MOST_MEMBERS):
        name = member.name
        parts = PurePosixPath(name).parts
        if member.isdir():
            continue
        if not member.isreg() or member.issparse():
            raise refused("a link or device", name)
        if name.startswith("/") or ".." in parts or "\\" in name or not name.isprintable() or not parts:
            raise refused("a path that leaves the archive", name)
        if len([part for part in parts if part != "."]) > 1:
            raise refused("a folder within the archive", name)
        if parts[-1] in found:
            raise refused("the same file twice", name)
        found[parts[-1]] = member
    for needed in (CONFIG, WEIGHTS):
        if needed not in found:
            raise QuranAsrError(
                f"has no `{needed}`: not a NeMo model",
                where=str(tar.path),
                remedy="use a .nemo that NeMo or `quran-asr train` wrote",
            )
    return found


def _read(tar: Tar, member: tarfile.TarInfo, most: int) -> bytes:
    where = f"{tar.path}: {member.name}"
    if member.size > most:
        raise QuranAsrError(f"refused: {member.size:,} bytes", where=where, remedy="do not use this archive")
    content = b"".join(tar.read(member))
    if len(content) != member.size:
        raise QuranAsrError("is truncated", where=where, remedy="fetch or copy it again")
    return content


def _refuse_foreign_files(config: Mapping[str, Any], members: Mapping[str, Any], where: str) -> None:
    """A tokenizer may only be read from the archive itself."""
    tokenizer = config.get("tokenizer") or {}
    for key in ARTIFACTS:
        value = tokenizer.get(key)
        if value and value.removeprefix("nemo:") not in members:
            raise QuranAsrError(
                f"refused: `tokenizer.{key}: {ascii(value)[1:-1][:60]}` is not a file of the archive",
                where=where,
                remedy="do not use this archive",
            )


def _tokenizer_member(config: Mapping[str, Any], members: Mapping[str, Any]) -> str | None:
    named = str((config.get("tokenizer") or {}).get("model_path") or "").removeprefix("nemo:")
    if named in members:
        return named if named.endswith(".model") else None
    return next((name for name in members if name.endswith("tokenizer.model")), None)


def _pieces(model: bytes, where: str) -> tuple[str, ...]:
    try:
        processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    except (RuntimeError, ValueError, TypeError):
        raise QuranAsrError(
            "not a SentencePiece model",
            where=where,
            remedy="fetch or copy the archive again, or use another model",
        ) from None
    return tuple(processor.id_to_piece(i) for i in range(processor.get_piece_size()))


def _extract(archive: Archive, name: str, target: Path) -> None:
    """One of its files, with nobody's rights and times."""
    with _opened(archive.path) as tar:
        member = _checked_members(tar)[name]
        with target.open("xb", buffering=0) as file:
            for block in tar.read(member):
                _write(file, block)
        if target.stat().st_size != member.size:
            raise QuranAsrError("is truncated", where=f"{archive.path}: {name}", remedy="fetch it again")


def _write(file: io.FileIO, block: bytes) -> None:
    """Write all of a block; what goes wrong is the disk's fault, not the archive's."""
    rest = memoryview(block)
    try:
        while rest:
            rest = rest[file.write(rest) :]
    except OSError as error:
        remedy = "free some space there, or set TMPDIR to a larger disk"
        what = f"cannot be written ({error.strerror})"
        raise QuranAsrError(what, where=str(file.name), remedy=remedy) from None


def _refuse_damage(file: Path, where: str) -> None:
    """Weights are a zip whose members have checksums, which torch does not look at.

    What is not a zip, packed as torch does not pack, or saved without checksums (they are 0 then) is left for
    torch to judge. 460 MB took 0.15 s on one core.
    """
    broken = QuranAsrError("is damaged: its checksum is another", where=where, remedy="get the file again")
    try:
        with zipfile.ZipFile(file) as weights:
            for member in weights.infolist():
                if member.compress_type != zipfile.ZIP_STORED or not member.CRC:
                    continue
                with weights.open(member) as content:
                    while content.read(1 << 20):
                        pass
    except zipfile.BadZipFile as error:
        if zipfile.is_zipfile(file):
            raise broken from error
    except (RuntimeError, NotImplementedError, *TORN):
        raise broken from None


def _load(file: Path, where: str) -> dict[str, Tensor]:
    _refuse_damage(file, where)
    try:
        try:
            loaded = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
        except RuntimeError:  # the format before torch 1.6 cannot be mapped
            loaded = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises a dozen kinds for a torn or hostile file
        reason = next(iter(str(error).splitlines()), type(error).__name__)[:100]
        raise QuranAsrError(
            f"weights that cannot be read as weights alone ({reason})",
            where=where,
            remedy="do not use this archive",
        ) from None
    plain = isinstance(loaded, dict) and all(
        isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in loaded.items()
    )
    if not plain:
        raise QuranAsrError("holds more than tensors by name", where=where, remedy="do not use this archive")
    return dict(loaded)
