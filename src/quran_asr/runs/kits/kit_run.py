"""The kit's front door on the host: `python3 kit/run.py --to RESULTS --minutes 9`.

Installs what the host lacks beside the host's own packages, without a network and without touching them, and
hands over to the package. Run again after whatever cut it off: it goes on. Standard library only, because
nothing else is there yet; in the kit this file is called run.py.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
import zipfile
from pathlib import Path

KIT = Path(__file__).resolve().parent


def main() -> None:
    began = time.time()
    options = read_options()
    if sys.version_info[:2] != (3, 12):
        fail(f"the wheels are for Python 3.12, this is {sys.version.split()[0]}", "start it with python3.12")
    index = KIT / "kit.json"
    if not index.is_file():
        fail(f"no kit.json beside {__file__}", "bring the whole kit")
    check_files(json.loads(index.read_text(encoding="utf-8"))["files"])
    identity = sha256_of(index)[:12]
    work = Path(options.work).absolute()
    site = install(work, identity)
    environment = dict(
        os.environ,
        PYTHONPATH=str(site),
        PYTHONNOUSERSITE="1",
        HF_HUB_OFFLINE="1",  # every wait for a network that is not there costs minutes
        WANDB_MODE="offline",
        QURAN_ASR_CACHE=str(work / "cache"),
    )
    words = ["--run", str(KIT), "--to", str(Path(options.to).absolute()), "--work", str(work)]
    words += ["--began", f"{began:.3f}", "--every", str(options.every)]
    if options.minutes is not None:
        words += ["--minutes", str(options.minutes)]
    if options.tests is not None:
        words += ["--tests", str(Path(options.tests).absolute())]
    say(f"ready after {time.time() - began:.0f} s")
    os.execve(sys.executable, [sys.executable, "-m", "quran_asr", "kit", *words], environment)


def read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Benchmark, train, evaluate, and leave the results.")
    parser.add_argument("--to", required=True, help="folder; its subfolder `results` is what to bring back")
    parser.add_argument("--work", default="kit-work", help="folder that stays on the host (kit-work)")
    parser.add_argument("--minutes", type=float, help="stop by then, results written; without: to the end")
    parser.add_argument("--every", type=float, default=3.0, help="minutes between results (3)")
    parser.add_argument("--tests", help="the folder `tests` of a checkout: run those that need a GPU")
    return parser.parse_args()


def check_files(files: dict[str, dict[str, object]]) -> None:
    """Every file of the kit is there as it was made."""
    for name, facts in files.items():
        path = KIT / name
        if not path.is_file() or path.stat().st_size != facts["bytes"] or sha256_of(path) != facts["sha256"]:
            fail(f"{name} of the kit is missing or was changed on the way", "bring the kit again")


def install(work: Path, identity: str) -> Path:
    """The folder with the kit's packages; made once, whole or not at all."""
    site = work / f"site-{identity}"
    if site.is_dir():
        return site
    work.mkdir(parents=True, exist_ok=True)
    unfinished = work / ".site"
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir()
    wheels = sorted(str(path) for path in (KIT / "wheels").glob("*.whl"))
    if wheels:
        say(f"installing {len(wheels)} wheels into {site}")
        pip = [sys.executable, "-m", "pip", "install", "--no-index", "--no-deps", "--no-compile", "--quiet"]
        options = ["--no-cache-dir", "--disable-pip-version-check", "--target", str(unfinished)]
        done = subprocess.run([*pip, *options, *wheels], capture_output=True, text=True, check=False)
        if done.returncode:
            said = (done.stderr.strip() or "no word").splitlines()[-1]
            fail(f"pip could not install the kit's wheels: {said}", "is this Linux on x86-64, with pip?")
    with zipfile.ZipFile(KIT / "package.zip") as archive:
        archive.extractall(unfinished)
    # Not by each of the processes that import NeMo. What it says is of other people's escape sequences.
    compiling = [sys.executable, "-W", "ignore", "-m", "compileall", "-q", "-j", "0", str(unfinished)]
    subprocess.run(compiling, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)
    unfinished.replace(site)
    return site


def sha256_of(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def fail(what: str, remedy: str) -> None:
    say(f"error: {what}\nhint: {remedy}")
    sys.exit(2)


if __name__ == "__main__":
    main()
