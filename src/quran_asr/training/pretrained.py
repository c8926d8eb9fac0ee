"""Locates the pretrained model: NVIDIA name, Hugging Face id, path or run folder.

A name that gives nothing is an error. Nobody trains from random weights because a name was misspelt, a
variable was not set or a download broke off.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

from quran_asr.errors import QuranAsrError
from quran_asr.experiments.run_folder import RunFolder, open_run
from quran_asr.training.download import file_sha256, is_archive
from quran_asr.training.hub import KEY, OnHub, fetch_model, is_inside

SHORT_NAMES = (
    "stt_en_fastconformer_transducer_large",
    "stt_en_fastconformer_hybrid_large_streaming_multi",
    "stt_ar_fastconformer_hybrid_large_pcd_v1.0",
)
"""NVIDIA's models that suit this program, `nvidia/<name>` on Hugging Face; other `stt_...` names work too."""

_ID = re.compile(
    r"(?:(?P<owner>[\w.-]+)/)?(?P<model>[\w.-]+)(?:@(?P<revision>[\w./+-]+))?(?::(?P<file>[^:\\]+\.nemo))?",
    re.ASCII,
)
_PLAIN = re.compile(r"stt_[\w.-]+(@[^:]+)?(:.+)?", re.ASCII)
"""What NVIDIA's names look like without their owner."""


@dataclass(frozen=True, slots=True)
class Pretrained:
    """A model's archive on this machine."""

    name: str
    """What the recipe says."""
    path: Path
    """A local `.nemo` file."""
    sha256: str
    """Hex, of the whole file."""
    source: str
    """A URL, `file`, or `run <path>`."""


def find_pretrained(name: str, on_progress: Callable[[int, int], None] | None = None) -> Pretrained:
    """The archive that a name stands for, downloaded if need be.

    Args:
        name: the path of a `.nemo`, a run's folder (its best), a name such as
            `stt_en_fastconformer_transducer_large`, or a Hugging Face id `owner/name`; behind the last two,
            where needed, `@revision` and `:file.nemo`. Downloads are kept and checked as `hub` says.
        on_progress: called during a download with the bytes that are here (never falling) and the bytes in
            all (0 where nobody knows).

    Raises:
        QuranAsrError: nothing of that name, nothing to be reached, or not the file that it should be.
    """
    known = _located(name)
    if isinstance(known, Pretrained):
        return known
    kept = fetch_model(known, on_progress)
    return Pretrained(name, kept.path, kept.sha256, kept.source)


def refuse_impossible_start(name: str) -> None:
    """Stop at a name that no model can be found by, before anything that takes time. Nothing is downloaded.

    Raises:
        QuranAsrError: no such file, no archive, or no name of a model.
    """
    _located(name)


def _located(name: str) -> Pretrained | OnHub:
    if not name.strip():
        raise QuranAsrError(
            "is empty, as from a shell variable that is not set; training would begin from random weights",
            where=KEY,
            remedy=f"set the variable; if random weights are meant, say `{KEY}=null`",
        )
    return _on_this_machine(name) or _on_hub(name)


def _on_this_machine(name: str) -> Pretrained | None:
    """The file or the run that a name points to; None if it is no path.

    `os.path` and not `Path`, whose methods raise at names that no file can have.
    """
    path = Path(os.path.expanduser(name))  # noqa: PTH111
    an_id = _PLAIN.fullmatch(name) is not None
    if os.path.isdir(path):  # noqa: PTH112
        return None if an_id and not (path / "recipe.yaml").is_file() else _best_of(name, path)
    if os.path.isfile(path) and path.suffix.lower() == ".nemo":  # noqa: PTH113
        return _archive(name, path, "file")
    if os.path.isfile(path) and not an_id:  # noqa: PTH113
        raise QuranAsrError(
            "is not a .nemo file",
            where=name,
            remedy="name a .nemo; the .ckpt of a run is continued with `train --resume RUN`",
        )
    beginning = name.startswith((".", "~", "/", os.sep)) or "\\" in name
    if beginning or (name.endswith(".nemo") and ":" not in name):
        raise QuranAsrError("no such file", where=str(path.absolute()), remedy=f"correct `{KEY}={name}`")
    return None


def _best_of(name: str, folder: Path) -> Pretrained:
    if not RunFolder(folder).recipe.is_file() and (lying := sorted(folder.glob("*.nemo"))):
        raise QuranAsrError("is a folder and not a model", where=name, remedy=f"name the file: {lying[0]}")
    best = open_run(folder).best_nemo()
    if best is None:
        raise QuranAsrError(
            "this run has no `.nemo` with `val_wer=` in its name",
            where=name,
            remedy="wait for its first validation, or name another run",
        )
    return _archive(name, best, f"run {folder}")


def _archive(name: str, path: Path, source: str) -> Pretrained:
    if not is_archive(path):
        raise QuranAsrError(
            "is no .nemo archive: it was cut off, or is something else under that name",
            where=str(path),
            remedy="get the file again",
        )
    return Pretrained(name, path, file_sha256(path), source)


def _on_hub(name: str) -> OnHub:
    """What a name means on Hugging Face."""
    found = _ID.fullmatch(name)
    if found is None or not (found["owner"] or _PLAIN.fullmatch(name)):
        raise QuranAsrError(f"there is no pretrained model `{name[:100]}`", where=KEY, remedy=_hint(name))
    repository = f"{found['owner'] or 'nvidia'}/{found['model']}"
    try:
        validate_repo_id(repository)
    except HFValidationError:
        raise QuranAsrError(
            f"`{repository[:100]}` is no Hugging Face id", where=KEY, remedy=_hint(name)
        ) from None
    for part in (found["revision"], found["file"]):
        if part is not None and not is_inside(part):
            raise QuranAsrError(f"`{part[:100]}` is no revision or file of a model", where=KEY)
    return OnHub(repository, found["revision"], found["file"], found["owner"] is None, _hint(name))


def _hint(name: str) -> str:
    """The nearest known name, or all of them."""
    if name == "last":
        return "name the run's folder: which run is the last changes from day to day"
    plain = re.split(r"[@:]", name.split("/")[-1])[0]
    near = difflib.get_close_matches(plain, [known for known in SHORT_NAMES if known != plain], 1, 0.6)
    if near:
        return f"did you mean `{near[0]}`?"
    return f"known names: {', '.join(SHORT_NAMES)}; or a Hugging Face id, the path of a .nemo, a run's folder"
