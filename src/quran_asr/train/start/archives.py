"""`.nemo` archives from outside: looked through before anything in them is used.

An archive is a tar with a YAML configuration, weights and tokenizer files. Whoever wrote it could have put in
paths that leave the folder, classes that are none of NeMo's, references that read the environment, and a
pickle for weights. Each is refused in one line; nothing in an archive runs.
"""

from __future__ import annotations

import io
import re
import tarfile
import tempfile
import warnings
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import sentencepiece
import torch
import yaml
from torch import Tensor

from quran_asr.findings import QuranAsrError
from quran_asr.train.model import EncDecHybridRNNTCTCBPEModel, SaveRestoreConnector

CONFIG = "model_config.yaml"
WEIGHTS = "model_weights.ckpt"
MOST_MEMBERS = 1000
LARGEST_CONFIG = 5_000_000
"""Bytes. A vocabulary of 8,000 tokens takes a few hundred thousand."""
LARGEST_GROWTH = 10
"""Unpacked over packed: weights hardly compress, what grows more is a bomb."""
CLASS = re.compile(r"nemo\.(collections\.(asr|common|audio)|core)\.([a-z_0-9]+\.)*[A-Z]\w*")
"""Classes of NeMo's speech collections. No function can be named: they begin with a small letter."""
REFERENCE = re.compile(r"\$\{[A-Za-z_][\w.]*\}")
"""`${a.b}`, a value elsewhere in the configuration. Resolvers have a colon."""
ARTIFACTS = ("model_path", "vocab_path", "spe_tokenizer_vocab")
"""Keys of `tokenizer` that name files."""
DATA = ("train_ds", "validation_ds", "test_ds")

_TORN = (tarfile.TarError, EOFError, OSError, zlib.error, ValueError, OverflowError)


@dataclass(frozen=True, slots=True)
class Archive:
    """An archive that was looked through."""

    path: Path
    members: tuple[str, ...]
    """Names of its files as the tar has them."""
    config: Mapping[str, Any]
    """Its `model_config.yaml`: plain values, references resolved."""
    model_class: str
    pieces: tuple[str, ...] | None
    """Its tokens without the blank, in the order of their ids; None if it names none."""


def read_archive(path: Path) -> Archive:
    """Look an archive through; its weights are not read.

    Raises:
        QuranAsrError: no archive, torn, or holding what an archive of NeMo's does not hold.
    """
    with _opened(path) as tar:
        members = _checked_members(tar, path)
        config = _checked_config(_read(tar, members[CONFIG], LARGEST_CONFIG, path), path)
        names = {PurePosixPath(name).name for name in members}
        _refuse_foreign_files(config, names, path)
        tokenizer = _tokenizer_member(config, members)
        if tokenizer is None:
            pieces = _listed_pieces(config)
        else:
            pieces = _pieces(_read(tar, members[tokenizer], LARGEST_CONFIG * 4, path), f"{path}: {tokenizer}")
    return Archive(
        path, tuple(member.name for member in members.values()), config, str(config["target"]), pieces
    )


def read_weights(archive: Archive) -> dict[str, Tensor]:
    """Its state dict on the CPU, mapped from a file so that no second copy stands in memory.

    Raises:
        QuranAsrError: unreadable, or holding more than tensors by name.
    """
    with tempfile.TemporaryDirectory(prefix="quran-asr-") as folder:
        _extract(archive, Path(folder), only=WEIGHTS)
        return _load(Path(folder) / WEIGHTS, f"{archive.path}: {WEIGHTS}")


def extract_tokenizer(archive: Archive, folder: Path) -> None:
    """Put its tokenizer into a folder, under the names that a run's has.

    Raises:
        QuranAsrError: it has no SentencePiece tokenizer.
    """
    with tempfile.TemporaryDirectory(prefix="quran-asr-") as unpacked:
        _extract(archive, Path(unpacked))
        found = _tokenizer_member(archive.config, {path.name: path for path in Path(unpacked).iterdir()})
        if found is None:
            raise QuranAsrError("has no SentencePiece tokenizer", where=str(archive.path))
        folder.mkdir(parents=True, exist_ok=True)
        vocabulary = [piece for piece in archive.pieces or () if piece != "<unk>"]
        (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n", encoding="utf-8")
        (folder / "tokenizer.model").write_bytes((Path(unpacked) / found).read_bytes())


def restore(path: Path) -> EncDecHybridRNNTCTCBPEModel:
    """The hybrid model of an archive, restored by NeMo from files that were looked through.

    Raises:
        QuranAsrError: refused, or no hybrid transducer + CTC model.
    """
    archive = read_archive(path)
    if not archive.model_class.endswith(".EncDecHybridRNNTCTCBPEModel"):
        raise QuranAsrError(
            f"holds a {archive.model_class.rsplit('.', 1)[-1]}, not a hybrid transducer + CTC model",
            where=str(path),
            remedy="start a training from it with init_from_pretrained_model",
        )
    with tempfile.TemporaryDirectory(prefix="quran-asr-") as unpacked:
        folder = Path(unpacked)
        _extract(archive, folder)
        _load(folder / WEIGHTS, f"{path}: {WEIGHTS}")  # refuses a pickle before NeMo opens the file
        config = {key: value for key, value in archive.config.items() if key not in DATA}
        config["tokenizer"] = {**config.get("tokenizer", {}), "dir": str(folder)}
        (folder / CONFIG).write_text(yaml.safe_dump(config, allow_unicode=True), encoding="utf-8")
        connector = SaveRestoreConnector()
        connector.model_extracted_dir = str(folder)
        try:
            with warnings.catch_warnings():  # torch on the dropout of a one-layer LSTM
                warnings.simplefilter("ignore")
                return EncDecHybridRNNTCTCBPEModel.restore_from(
                    str(path), map_location="cpu", save_restore_connector=connector
                )
        except Exception as error:  # NeMo raises whatever its parts raise
            said = next(iter(str(error).splitlines()), type(error).__name__)[:120]
            raise QuranAsrError(f"NeMo cannot restore it ({said})", where=str(path)) from error


@contextmanager
def _opened(path: Path) -> Iterator[tarfile.TarFile]:
    if not path.is_file():
        raise QuranAsrError("no such archive", where=str(path))
    try:
        with tarfile.open(path, "r:*") as tar:
            yield tar
    except _TORN as error:
        if isinstance(error, QuranAsrError):
            raise
        said = next(iter(str(error).splitlines()), type(error).__name__).rstrip(":")[:80]
        raise QuranAsrError(
            f"not a whole .nemo archive ({said})", where=str(path), remedy="fetch or copy it again"
        ) from None


def _checked_members(tar: tarfile.TarFile, path: Path) -> dict[str, tarfile.TarInfo]:
    """Its files by their last names."""

    def refused(why: str, name: str) -> QuranAsrError:
        return QuranAsrError(
            f"refused: {why}", where=f"{path}: {name[:80]}", remedy="do not use this archive"
        )

    found: dict[str, tarfile.TarInfo] = {}
    size = 0
    on_disk = path.stat().st_size
    packed = not isinstance(tar.fileobj, io.BufferedReader)
    room = LARGEST_GROWTH * on_disk + LARGEST_CONFIG
    for count, member in enumerate(tar):
        name = member.name
        parts = PurePosixPath(name).parts
        if count >= MOST_MEMBERS:
            raise refused(f"more than {MOST_MEMBERS} files", name)
        if member.isdir():
            continue
        if not member.isreg() or member.issparse():
            raise refused("a link or device", name)
        if name.startswith("/") or ".." in parts or "\\" in name or "\0" in name or not parts:
            raise refused("a path that leaves the archive", name)
        if len([part for part in parts if part != "."]) > 1:
            raise refused("a folder within the archive", name)
        if parts[-1] in found:
            raise refused("the same file twice", name)
        size += member.size
        if not packed and member.offset_data + member.size > on_disk:
            raise QuranAsrError("it was cut off", where=f"{path}: {name[:80]}", remedy="get the file again")
        if size > room:
            raise refused("it unpacks to far more than it is", name)
        found[parts[-1]] = member
    for needed in (CONFIG, WEIGHTS):
        if needed not in found:
            raise QuranAsrError(f"has no `{needed}`: not a NeMo model", where=str(path))
    return found


def _read(tar: tarfile.TarFile, member: tarfile.TarInfo, most: int, path: Path) -> bytes:
    if member.size > most:
        raise QuranAsrError(
            f"refused: {member.size:,} bytes",
            where=f"{path}: {member.name}",
            remedy="do not use this archive",
        )
    file = tar.extractfile(member)
    content = b"" if file is None else file.read()
    if len(content) != member.size:
        raise QuranAsrError("is torn", where=f"{path}: {member.name}", remedy="fetch or copy it again")
    return content


def _checked_config(content: bytes, path: Path) -> dict[str, Any]:
    where = f"{path}: {CONFIG}"

    def refused(why: str) -> QuranAsrError:
        return QuranAsrError(f"refused: {why}", where=where, remedy="do not use this archive")

    try:
        text = content.decode("utf-8")
        if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text)):
            raise refused("aliases in the configuration")
        config = yaml.safe_load(text)
        if not isinstance(config, dict):
            raise refused("the configuration is no mapping")
        for key, value in _strings(config):
            if REFERENCE.sub("", value).find("${") >= 0:
                raise refused(f"`{key}: {value[:60]}` is more than a reference to another key")
            if key.endswith(("target", "_target_")) and not CLASS.fullmatch(value):
                raise refused(f"`{key}: {value[:60]}` is not a class of NeMo's speech models")
        resolved: dict[str, Any] = _resolved(config, config)
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError, ValueError) as error:
        if isinstance(error, QuranAsrError):
            raise
        said = next(iter(str(error).splitlines()), type(error).__name__)[:80]
        raise QuranAsrError(f"not a configuration ({said})", where=where) from None
    if not isinstance(resolved.get("target"), str):
        raise QuranAsrError("names no model class (`target`)", where=where)
    return resolved


def _strings(value: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Every string with the last key above it; keys are strings as well."""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield "", str(name)
            yield from _strings(inner, str(name))
    elif isinstance(value, list):
        for inner in value:
            yield from _strings(inner, key)
    elif isinstance(value, str):
        yield key, value


def _resolved(value: Any, root: dict[str, Any]) -> Any:
    if isinstance(value, dict):
        return {name: _resolved(inner, root) for name, inner in value.items()}
    if isinstance(value, list):
        return [_resolved(inner, root) for inner in value]
    if not isinstance(value, str) or "${" not in value:
        return value
    if not REFERENCE.fullmatch(value):
        raise ValueError(f"`{value[:60]}`: a reference within a text")
    found: Any = root
    for part in value[2:-1].split("."):
        found = found.get(part) if isinstance(found, dict) else None
    if isinstance(found, dict | list) or (isinstance(found, str) and "${" in found):
        raise ValueError(f"`{value[:60]}` does not refer to a plain value")
    return found


def _refuse_foreign_files(config: Mapping[str, Any], names: set[str], path: Path) -> None:
    """A tokenizer may only be read from the archive itself."""
    tokenizer = config.get("tokenizer") or {}
    if not isinstance(tokenizer, dict):
        raise QuranAsrError("`tokenizer` is no mapping", where=f"{path}: {CONFIG}")
    for key in ARTIFACTS:
        value = tokenizer.get(key)
        if value and (not str(value).startswith("nemo:") or str(value)[5:] not in names):
            raise QuranAsrError(
                f"refused: `tokenizer.{key}: {str(value)[:60]}` is no file of the archive",
                where=f"{path}: {CONFIG}",
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
        raise QuranAsrError("not a SentencePiece model", where=where) from None
    return tuple(processor.id_to_piece(i) for i in range(processor.get_piece_size()))


def _listed_pieces(config: Mapping[str, Any]) -> tuple[str, ...] | None:
    """Of a model without subwords: its configuration lists them."""
    for section in (config, config.get("joint"), config.get("decoder")):
        for key in ("labels", "vocabulary"):
            listed = section.get(key) if isinstance(section, dict) else None
            if isinstance(listed, list) and listed:
                return tuple(str(piece) for piece in listed)
    return None


def _extract(archive: Archive, folder: Path, only: str | None = None) -> None:
    """Its files under their last names, with nobody's rights and times."""
    with _opened(archive.path) as tar:
        for name, member in _checked_members(tar, archive.path).items():
            if only is not None and name != only:
                continue
            source = tar.extractfile(member)
            with (folder / name).open("xb") as target:
                while source is not None and (block := source.read(1 << 20)):
                    target.write(block)
            if (folder / name).stat().st_size != member.size:
                raise QuranAsrError("is torn", where=f"{archive.path}: {name}", remedy="fetch it again")


def _refuse_damage(file: Path, where: str) -> None:
    """Weights are a zip whose members have checksums, which torch does not look at.

    What is no zip, packed as torch does not pack, or saved without checksums (they are 0 then) is left for
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
    except (RuntimeError, NotImplementedError, *_TORN):
        raise broken from None


def _load(file: Path, where: str) -> dict[str, Tensor]:
    _refuse_damage(file, where)
    try:
        try:
            loaded = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
        except RuntimeError:  # the format before torch 1.6 cannot be mapped
            loaded = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises a dozen kinds for a torn or hostile file
        said = next(iter(str(error).splitlines()), type(error).__name__)[:100]
        raise QuranAsrError(
            f"weights that cannot be read as weights alone ({said})",
            where=where,
            remedy="do not use this archive",
        ) from None
    plain = isinstance(loaded, dict) and all(
        isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in loaded.items()
    )
    if not plain:
        raise QuranAsrError("holds more than tensors by name", where=where)
    return dict(loaded)
