"""FOLDER NUMBER: mutated configurations under an audit hook. `test_archive_config.py` runs it alone.

Each is written into an archive and read; what passes is rebuilt twice and must be the same. Prints JSON: how
many were refused and passed, and every event beyond reading the archive.
"""

from __future__ import annotations

import contextlib
import copy
import io
import json
import random
import socket
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from quran_asr.errors import QuranAsrError
from quran_asr.training.archive_config import parse, rebuild
from quran_asr.training.nemo_archive import CONFIG, WEIGHTS, Archive, read_archive

sys.path.insert(0, str(Path(__file__).parent))
from published_configs import PUBLISHED, as_yaml

KEYS = (
    "cls params target _target_ _partial_ _args_ _convert_ _recursive_ hf_kwargs custom_tokenizer langs "
    "trust_remote_code pretrained_model_name model_path vocab_path w_path val dir file ngram_lm_model "
    "kenlm_path boosting_tree augmentor manifest_filepath defaults hydra model rng optim adapter"
).split()
VALUES: tuple[Any, ...] = (
    "os.system",
    "builtins.eval",
    "subprocess.Popen",
    "nemo.collections.asr.parts.utils.diarization_utils.write_txt",
    "nemo.collections.asr.parts.utils.data_simulation_utils.get_cleaned_base_path",
    "nemo.collections.common.tokenizers.huggingface.auto_tokenizer.AutoTokenizer",
    "nemo.collections.asr.models.ASRModel.from_pretrained",
    "nemo.core.classes.common.Serialization.from_config_dict",
    "nemo.collections.asr.modules.ConformerEncoder",
    "nemo.collections.asr.modules.RNNTJoint",
    "${oc.env:HOME}",
    "${oc.create:{_target_: os.system}}",
    "${encoder.d_model}",
    "/etc/passwd",
    "https://example.org/x",
    "nemo:../../x",
    "planted",
    "",
    "\x1b[2J",
    "\ud7ff\u202e",
    0,
    -1,
    1,
    8,
    0.5,
    10**18,
    float("nan"),
    float("inf"),
    True,
    None,
    [],
    {},
    [[1, 2], [3]],
    {"_target_": "os.mkdir", "path": "planted"},
    {"cls": "os.mkdir", "params": {"path": "planted"}},
)
WATCHED = (
    "os.system os.exec os.fork os.forkpty os.posix_spawn os.spawn os.rename os.link os.symlink os.chmod "
    "os.truncate os.putenv shutil.copyfile shutil.move exec marshal.loads ctypes.dlopen"
).split()
ALLOWED_IMPORTS = frozenset({"datetime", "_datetime", "_strptime"})
"""Of the standard library, what a date in YAML needs for the first time."""
OURS = frozenset({"target", "_target_", "model_path", "vocab_path", "rng"})
TEMPORARY = frozenset({WEIGHTS, "tokenizer.model", "vocab.txt"})
"""What a temporary folder is emptied of, by names within it."""


def sections(value: Any) -> list[dict[str, Any]]:
    found = [value] if isinstance(value, dict) else []
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        found += sections(inner)
    return found


def mutated(config: dict[str, Any], chance: random.Random) -> dict[str, Any]:
    config = copy.deepcopy(config)
    for _ in range(chance.choice((1, 1, 1, 2, 3))):
        place = chance.choice(sections(config))
        names = list(place) or ["x"]
        what = chance.randrange(6)
        if what == 0:
            place[chance.choice(KEYS)] = copy.deepcopy(chance.choice(VALUES))
        elif what == 1:
            place[chance.choice(names)] = copy.deepcopy(chance.choice(VALUES))
        elif what == 2:
            place.pop(chance.choice(names), None)
        elif what == 3:  # a section of another place
            place[chance.choice(names)] = copy.deepcopy(chance.choice(sections(config)))
        elif what == 4:  # a key under another name
            name = chance.choice(names)
            place[chance.choice(KEYS)] = place.pop(name, None)
        else:
            name = chance.choice(names)
            if type(place.get(name)) in (int, float):
                place[name] = place[name] * chance.choice((-1, 0, 2, 0.5, 1000))
    return config


def repack(files: dict[str, bytes], config: dict[str, Any], path: Path) -> None:
    with tarfile.open(path, "w") as tar:
        for name, data in {**files, CONFIG: as_yaml(config)}.items():
            member = tarfile.TarInfo(f"./{name}")
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))


def unpack(archive: Path) -> dict[str, bytes]:
    with tarfile.open(archive) as tar:
        return {
            Path(member.name).name: file.read()
            for member in tar
            if (file := tar.extractfile(member)) is not None
        }


class Watch:
    """All that a process does beyond reading one archive, while it is on."""

    def __init__(self, folder: Path) -> None:
        self.on = False
        self.events: set[str] = set()
        self._readable = (str(folder), tempfile.gettempdir() + "/quran-asr-")
        self._writable = (tempfile.gettempdir() + "/quran-asr-",)
        self._known = frozenset(sys.modules)
        sys.addaudithook(self._record)

    def _record(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.on:
            return
        first = str(arguments[0]) if arguments else ""
        if event == "open":
            writes = bool((arguments[2] or 0) & 3) if isinstance(arguments[2], int) else False
            allowed = first.startswith(self._writable if writes else self._readable)
        elif event == "import":
            allowed = first in self._known or first in ALLOWED_IMPORTS
        elif event in ("os.mkdir", "os.remove", "os.rmdir", "shutil.rmtree"):
            allowed = first.startswith(self._writable) or first in TEMPORARY
        else:
            allowed = event not in WATCHED and not event.startswith(("socket.", "urllib.", "subprocess."))
        if not allowed:
            self.events.add(f"{event} {arguments!r}"[:200])


def watches(watch: Watch, folder: Path) -> None:
    """The hook sees what it is there for."""
    watch.on = True
    (folder / "planted").write_text("")
    (folder / "planted").unlink()
    import this  # noqa: F401

    with contextlib.suppress(OSError):
        socket.create_connection(("127.0.0.1", 9), timeout=1)
    subprocess.run([sys.executable, "-c", ""], check=True)
    watch.on = False
    seen = {event.split()[0] for event in watch.events}
    assert {"open", "import", "os.remove", "socket.connect", "subprocess.Popen"} <= seen, seen
    watch.events.clear()


def main(folder: Path, number: int, archive: Path | None) -> None:
    path = folder / "stranger.nemo"
    if archive is None:
        use: Callable[[Path], object] = read_archive
        files, configs = {WEIGHTS: b"weights"}, [made() for made in PUBLISHED]
        for config in configs:
            config["tokenizer"] = {"type": "bpe", "dir": "planted"}
    else:
        from quran_asr.training.recognizer import restore

        use, files = restore, unpack(archive)
        configs = [parse(files[CONFIG], "ours")]
    repack(files, configs[0], path)
    use(path)  # whatever is imported once is imported now
    watch = Watch(folder)
    with contextlib.redirect_stdout(io.StringIO()):
        watches(watch, folder)
    chance = random.Random(20)
    refused = passed = 0
    for _ in range(number):
        repack(files, mutated(chance.choice(configs), chance), path)
        watch.on = True
        try:
            found = use(path)
        except QuranAsrError as error:
            refused += 1
            assert "\n" not in error.what
            continue
        finally:
            watch.on = False
        passed += 1
        if isinstance(found, Archive):
            config = dict(found.config)
            assert rebuild(copy.deepcopy(config), "again") == config
            assert not set(KEYS) & {key for section in sections(config) for key in section} - OURS
    assert (archive is None) != any(name.split(".")[0] == "nemo" for name in sys.modules)
    assert sorted(entry.name for entry in folder.iterdir()) == ["stranger.nemo"]
    result = {"tried": number, "refused": refused, "passed": passed, "events": sorted(watch.events)}
    print(json.dumps(result))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]) if len(sys.argv) > 3 else None)
