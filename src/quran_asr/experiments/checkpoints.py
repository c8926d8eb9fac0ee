"""The checkpoints of a run, read without torch: WER, step, integrity, and which may be pruned.

A `.ckpt` is a zip whose table of contents stands at its end, a `.nemo` is a tar: a file that was cut off is
recognised by that alone. No pickle is loaded; epoch and step are read from its opcodes.
"""

from __future__ import annotations

import filecmp
import math
import pickletools
import shutil
import zipfile
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from quran_asr.errors import QuranAsrError
from quran_asr.experiments.run_folder import RunFolder, average_of, epoch_of, rank_of, rate_of
from quran_asr.files import replacing
from quran_asr.tarfiles import TORN, open_tar

BEGINNING = 1 << 16
"""Bytes of a checkpoint's pickle in which epoch and step stand: they are its first entries."""

IN_NEMO = frozenset({"model_config.yaml", "model_weights.ckpt"})
MOST_MEMBERS = 1000


@dataclass(frozen=True, slots=True)
class CheckpointFile:
    """One file of the folder `checkpoints`."""

    path: Path
    wer: float | None
    """`val_wer=` of its name; of `last.ckpt` that of the validation at its step, if one was made."""
    epoch: int | None
    step: int | None
    """Optimizer steps made; None for a `.nemo`, which lacks it."""
    average: int | None
    """Number of checkpoints whose mean this `.nemo` is; None where it is not an average."""
    size: int
    """Bytes."""
    modified: float
    """Seconds since 1970."""
    torn: str | None
    """Why it cannot be read; None for a whole file."""
    measured: Mapping[str, Any]
    """The line of `metrics.jsonl` of the validation at its step; empty where there is none."""
    inode: tuple[int, int]
    links: int
    """Names under which the file system has this file."""

    @property
    def is_nemo(self) -> bool:
        return self.path.suffix == ".nemo"

    @property
    def ranked(self) -> bool:
        """Whether its name contains a rate: `last.ckpt` and files of others have none."""
        return rate_of(self.path) is not None

    def to_json(self) -> dict[str, Any]:
        exact = self.measured.get("wer")
        return {
            "file": str(self.path),
            "epoch": self.epoch,
            "step": self.step,
            "wer": self.wer if exact is None else exact,
            "ctc_wer": self.measured.get("ctc_wer"),
            "cer": self.measured.get("cer"),
            "average": self.average,
            "bytes": self.size,
            "modified": datetime.fromtimestamp(self.modified).astimezone().isoformat(timespec="seconds"),
            "torn": self.torn,
        }


def saved_in(run: RunFolder) -> list[CheckpointFile]:
    """All `.ckpt` and `.nemo` of a run, the lowest WER first, those without one at the end.

    A file that vanishes meanwhile (a training replaces its own) is left out.

    Raises:
        QuranAsrError: `metrics.jsonl` is broken.
    """
    validations = {row["step"]: row for row in run.read_metrics() if row["split"] == "validation"}
    found = []
    for path in run.checkpoints.glob("*"):
        if path.suffix in (".ckpt", ".nemo") and not path.name.startswith("."):
            try:
                found.append(_look_at(path, validations))
            except FileNotFoundError:
                continue
    return sorted(found, key=lambda one: rank_of(one.path))


def best_of(saved: Iterable[CheckpointFile], *, suffix: str = "") -> CheckpointFile | None:
    """The whole file with the lowest rate in its name; `.nemo` before an equal `.ckpt`."""
    ranked = [one for one in saved if one.ranked and one.torn is None and one.path.name.endswith(suffix)]
    return min(ranked, key=lambda one: rank_of(one.path), default=None)


def newest_whole(run: RunFolder) -> tuple[Path | None, str | None]:
    """Where a run can be continued: its `last.ckpt`, or where that is damaged the newest whole checkpoint.

    Every byte of the candidates is checked, up to the first that is whole.

    Returns:
        (the checkpoint, or None if there is none; why `last.ckpt` is not taken, or None if it is or is not
        there).

    Raises:
        QuranAsrError: there are checkpoints, and none is whole.
    """
    last = run.last_checkpoint()
    why = None if last is None else _damage(last)
    if last is not None and why is None:
        return last, None
    others = [one for one in saved_in(run) if one.ranked and not one.is_nemo]
    for one in sorted(others, key=lambda one: (one.step or 0, one.modified), reverse=True):
        if one.torn is None and _damage(one.path) is None:
            return one.path, why
    if last is None and not others:
        return None, None
    raise QuranAsrError(
        f"is damaged ({why or 'torn'}), and no other checkpoint of the run is whole",
        where=str(last or run.checkpoints),
        remedy="begin a new run from the run's .nemo: init_from_pretrained_model=FILE.nemo",
    )


def _damage(path: Path) -> str | None:
    """Why a `.ckpt` is not whole, by the checksum of each of its parts; None where it is."""
    try:
        with zipfile.ZipFile(path) as archive:
            bad = archive.testzip()
            if bad is None and not any(name.endswith("/data.pkl") for name in archive.namelist()):
                return "no weights in it"
    except OSError as error:
        return f"cannot be read ({error.strerror or error})"
    except (zipfile.BadZipFile, EOFError, ValueError, NotImplementedError, RuntimeError, zlib.error):
        return "torn, or not a checkpoint"
    return None if bad is None else "some of its bytes are wrong"


def averageable(saved: Iterable[CheckpointFile]) -> list[CheckpointFile]:
    """Whole checkpoints with a rate in the name, in the order given."""
    return [one for one in saved if one.ranked and not one.is_nemo and one.torn is None]


def source_of(nemo: CheckpointFile, saved: Sequence[CheckpointFile]) -> CheckpointFile | None:
    """The `.ckpt` with the weights of a `.nemo`, by their rates; None for an average."""
    if nemo.average is not None or not nemo.ranked:
        return None
    same = [one for one in saved if one.ranked and not one.is_nemo and one.wer == nemo.wer]
    return min(same, key=lambda one: (one.measured.get("wer", math.inf), one.step or 0), default=None)


@dataclass(frozen=True, slots=True)
class Pruning:
    """What `checkpoints prune` would do."""

    kept: tuple[CheckpointFile, ...]
    dropped: tuple[CheckpointFile, ...]
    foreign: tuple[CheckpointFile, ...]
    """Files that no training and no command of ours names like that: they stay."""


def prune(saved: Sequence[CheckpointFile], keep: int) -> Pruning:
    """Sort the files of a run: the `keep` best whole `.ckpt`, `last.ckpt` and the best `.nemo` stay."""
    foreign = [one for one in saved if not one.ranked and one.path.name != "last.ckpt"]
    kept = [one for one in saved if one.path.name == "last.ckpt"]
    kept += [one for one in saved if one.ranked and not one.is_nemo and one.torn is None][:keep]
    best = best_of(saved, suffix=".nemo")
    kept += [best] if best is not None else []
    dropped = [one for one in saved if one not in kept and one not in foreign]
    return Pruning(tuple(one for one in saved if one in kept), tuple(dropped), tuple(foreign))


def freed_bytes(deleted: Iterable[CheckpointFile]) -> int:
    """Bytes that the disk has got back: a file that still has another name frees nothing."""
    names: dict[tuple[int, int], list[CheckpointFile]] = {}
    for one in deleted:
        names.setdefault(one.inode, []).append(one)
    return sum(group[0].size for group in names.values() if len(group) >= group[0].links)


def copy_model(source: Path, target: Path) -> bool:
    """Copy a file, whole or not at all; False where the same file is there already.

    Raises:
        QuranAsrError: another file is there.
    """
    if target.exists():
        if filecmp.cmp(source, target, shallow=False):
            return False
        raise QuranAsrError(
            "already exists and is another file", where=str(target), remedy="name another, or remove it"
        )
    with replacing(target) as unfinished, source.open("rb") as read, unfinished.open("wb") as written:
        shutil.copyfileobj(read, written, 1 << 22)
    return True


def _look_at(path: Path, validations: Mapping[int, Mapping[str, Any]]) -> CheckpointFile:
    facts = path.stat()
    epoch, step, why = epoch_of(path), None, None
    if path.suffix == ".nemo":
        why = _why_no_archive(path)
    else:
        read_epoch, step, why = _stands_at(path)
        epoch = epoch if read_epoch is None else read_epoch
    measured = validations.get(step, {}) if step is not None else {}
    return CheckpointFile(
        path=path,
        wer=measured.get("wer") if rate_of(path) is None else rate_of(path),
        epoch=epoch,
        step=step,
        average=average_of(path),
        size=facts.st_size,
        modified=facts.st_mtime,
        torn=why,
        measured=measured,
        inode=(facts.st_dev, facts.st_ino),
        links=facts.st_nlink,
    )


def steps_made(checkpoint: Path) -> int | None:
    """Optimizer steps that a `.ckpt` has made; None where that cannot be read."""
    return _stands_at(checkpoint)[1]


def _stands_at(path: Path) -> tuple[int | None, int | None, str | None]:
    """Epoch, step, and why the file is not a checkpoint."""
    try:
        with zipfile.ZipFile(path) as archive:
            name = next(name for name in archive.namelist() if name.endswith("/data.pkl"))
            with archive.open(name) as pickled:
                numbers = _numbers(pickled.read(BEGINNING), ("epoch", "global_step"))
    except FileNotFoundError:
        raise
    except StopIteration:
        return None, None, "no weights in it"
    except OSError as error:
        return None, None, f"cannot be read ({error.strerror or error})"
    except (zipfile.BadZipFile, EOFError, ValueError, NotImplementedError, RuntimeError, zlib.error):
        return None, None, "torn, or not a checkpoint"
    return numbers.get("epoch"), numbers.get("global_step"), None


def _numbers(pickled: bytes, keys: Sequence[str]) -> dict[str, int]:
    """Whole numbers that follow these keys for the first time, by the opcodes: nothing is built or called."""
    found: dict[str, int] = {}
    key: str | None = None
    try:
        for opcode, argument, _ in pickletools.genops(pickled):
            if isinstance(argument, str):
                key = argument if argument in keys and argument not in found else None
            elif "PUT" not in opcode.name and opcode.name != "MEMOIZE":
                if key is not None and isinstance(argument, int):
                    found[key] = argument
                key = None
            if len(found) == len(keys):
                break
    except ValueError:  # the beginning ended
        pass
    return found


def _why_no_archive(path: Path) -> str | None:
    try:
        with open_tar(path) as archive:
            names = {Path(member.name).name for member in archive.members(MOST_MEMBERS)}
    except FileNotFoundError:
        raise
    except (QuranAsrError, *TORN):
        return "torn, or not an archive"
    missing = sorted(IN_NEMO - names)
    return f"has no {missing[0]}" if missing else None
