"""The core install alone: the wheel and its few dependencies, no torch, every room but `train`.

Runs in the environment that `tools/environment.sh core` makes; `./test.sh` calls it there.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import re
import shutil
import subprocess
import sys
import sysconfig
import wave
from pathlib import Path

import pytest

if importlib.util.find_spec("torch") is not None:
    pytest.skip("this environment has torch; ./test.sh runs it in .venv-core", allow_module_level=True)

MEGABYTES = 225
"""What the core install may add to an empty environment."""


def quran_asr(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """The installed command, away from the checkout."""
    command = shutil.which("quran-asr", path=sysconfig.get_path("scripts"))
    assert command is not None
    return subprocess.run(
        [command, *arguments], cwd=cwd, capture_output=True, encoding="utf-8", timeout=300, check=False
    )


def closure(name: str, seen: dict[str, importlib.metadata.Distribution]) -> None:
    """A distribution and all it needs without extras, by name."""
    key = re.sub(r"[-_.]+", "-", name).lower()
    if key in seen:
        return
    try:
        seen[key] = importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:  # needed on other systems only
        return
    for requirement in seen[key].requires or []:
        if "extra ==" not in requirement:
            closure(re.split(r"[\[<>=!~; (]", requirement)[0], seen)


def test_the_package_is_the_wheel_and_not_the_checkout(tmp_path: Path) -> None:
    import quran_asr

    assert quran_asr.__file__ is not None
    assert "site-packages" in quran_asr.__file__


def test_core_is_small_and_has_no_torch() -> None:
    found: dict[str, importlib.metadata.Distribution] = {}
    closure("quran-asr", found)
    assert {"quran-asr", "numpy", "click", "soundfile"} <= set(found)
    assert not {"torch", "lightning", "nemo-toolkit", "sentencepiece", "pydantic"} & set(found)
    size = 0
    for distribution in found.values():
        for file in distribution.files or []:
            place = Path(str(distribution.locate_file(file)))
            size += place.stat().st_size if place.is_file() else 0
    assert size / 1e6 < MEGABYTES, f"core takes {size / 1e6:.0f} MB"
    print(f"core takes {size / 1e6:.0f} MB")


def test_every_package_without_torch_can_be_imported() -> None:
    import quran_asr

    folder = Path(str(quran_asr.__file__)).parent
    names = [
        ".".join(("quran_asr", *path.relative_to(folder).with_suffix("").parts)).removesuffix(".__init__")
        for path in sorted(folder.rglob("*.py"))
        if path.relative_to(folder).parts[0] not in {"training", "export", "benchmark", "server"}
    ]
    code = "import importlib, sys\nfor n in sys.argv[1:]: importlib.import_module(n)\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code, *names], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "torch" not in done.stdout.split()


def test_a_verse_is_shown_with_its_source(tmp_path: Path) -> None:
    done = quran_asr("text", "show", "112:1", "--spelling", "letters", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "قل هو الله أحد" in done.stdout
    assert "tanzil.net" in done.stdout + done.stderr


def test_the_recipes_are_there(tmp_path: Path) -> None:
    done = quran_asr("recipe", "list", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for name in ("transfer", "scratch", "before", "large", "low-memory", "small", "quickstart"):
        assert name in done.stdout


def test_a_training_can_be_planned(tmp_path: Path) -> None:
    done = quran_asr("plan", "transfer", "--clips", "67399", "--hours", "56", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    plan = json.loads(done.stdout)
    assert plan["clips"] == 67399
    assert plan["batches_per_epoch"] * plan["effective_batch"] >= 67399


def test_a_folder_of_recordings_is_scanned(tmp_path: Path) -> None:
    reciter = tmp_path / "recordings" / "somebody"
    reciter.mkdir(parents=True)
    with wave.open(str(reciter / "112001.wav"), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16_000)
        file.writeframes(b"\x10\x00" * 32_000)
    done = quran_asr("corpus", "scan", "recordings", "--to", "all.jsonl", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (line,) = [json.loads(one) for one in (tmp_path / "all.jsonl").read_text("utf-8").splitlines()]
    assert line["duration"] == pytest.approx(2.0)
    assert line["verses"] == ["112:1"]


OFFLINE = """
import socket, sys
def refuse(*_): raise OSError("no network here")
socket.socket.connect = socket.getaddrinfo = refuse
from quran_asr.__main__ import main
sys.argv[1:] = ["transcribe", "verse.wav", "--json"]
main()
"""
"""The command without a network."""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="processor time of children is counted on Unix")
def test_a_recording_is_transcribed_offline_from_a_cold_start(tmp_path: Path) -> None:
    """Processor time, for a busy machine takes longer; on an idle one it is the time to wait, or more."""
    import resource

    import numpy as np

    from quran_asr import audio
    from quran_asr.runtime.bundle import DEFAULT_MODEL, is_bundle

    if not is_bundle(DEFAULT_MODEL):
        pytest.skip("no default model in the package yet")
    seconds = np.arange(5 * 16_000) / 16_000
    audio.write(tmp_path / "verse.wav", (0.2 * np.sin(400 * seconds * np.sin(seconds))).astype(np.float32))
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, "-c", OFFLINE],
        cwd=tmp_path,
        capture_output=True,
        encoding="utf-8",
        timeout=300,
        check=False,
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)[0]["audio_filepath"] == "verse.wav"
    took = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    assert took < 2.0, f"{took:.2f} s of processor time"


def test_what_training_lacks_is_reported_in_one_line(tmp_path: Path) -> None:
    done = quran_asr("train", "quickstart", "--train", "t.jsonl", "--validation", "v.jsonl", cwd=tmp_path)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) <= 2
