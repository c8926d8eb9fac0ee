"""What a kit does on the host, in order: unpack, look, test, benchmark, train, evaluate, bring out.

Each stage is a process of its own, and what is done is written down, so that the same command goes on after
being cut off at any moment. Results are brought out while the training goes on, and before the time is up.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from quran_asr.corpus.pieces import unpack
from quran_asr.files import sha256_of, write_atomically
from quran_asr.findings import QuranAsrError
from quran_asr.runs.children import StopAskedError, alone, asked_to_stop, start, stop
from quran_asr.runs.folder import RunFolder, runs_below
from quran_asr.runs.kits.kit import INDEX, read_index

GRACE_SECONDS = 60.0
"""A training that was asked to stop ends after its step and writes a checkpoint; so long it may take."""
BENCHMARK_SHARE = 0.3
"""Of the time of one call, at most, goes into the benchmark."""
RESERVE_SHARE, LEAST_RESERVE, MOST_RESERVE = 0.2, 20.0, 120.0
"""Of the time of one call, kept for evaluating and bringing out when the training has to stop for it."""
LOOK = """
import importlib.metadata, json, platform
facts = {"python": platform.python_version(), "platform": platform.platform()}
import torch
facts |= {"torch": torch.__version__, "cuda": torch.version.cuda, "cuda_available": torch.cuda.is_available()}
facts["gpus"] = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
try:
    import triton
    facts["triton"] = triton.__version__
except ImportError as error:
    facts["triton"] = f"not usable: {error}"
for name in ("lightning", "nemo-toolkit", "numpy"):
    facts[name] = importlib.metadata.version(name)
print("FACTS " + json.dumps(facts))
"""


@dataclass(slots=True)
class Host:
    """One call of the kit on the host."""

    kit: Path
    work: Path
    results: Path
    deadline: float
    """Seconds since the epoch; infinity without a limit."""
    seconds: float
    """Of the whole call; infinity without a limit."""
    every: float
    """Seconds between results."""
    tests: Path | None
    say: Callable[[str], None]
    state: dict[str, Any] = field(default_factory=dict)

    @property
    def left(self) -> float:
        return self.deadline - time.time()

    @property
    def reserve(self) -> float:
        if self.seconds == float("inf"):
            return 0.0
        return min(MOST_RESERVE, max(LEAST_RESERVE, RESERVE_SHARE * self.seconds))

    @property
    def grace(self) -> float:
        """Seconds that a process may take to end once it was asked to."""
        return min(GRACE_SECONDS, max(5.0, self.left / 2))

    @property
    def runs(self) -> Path:
        return self.work / "runs"

    @property
    def log(self) -> Path:
        return self.work / "log.txt"

    def run(self) -> RunFolder | None:
        """The run that was begun, if one was."""
        found = runs_below(self.runs) if self.runs.is_dir() else []
        return found[-1] if found else None

    def done(self, stage: str) -> bool:
        return self.state["stages"].get(stage, {}).get("state") in ("done", "left out")

    def tried(self, stage: str) -> bool:
        """Whether a stage was begun and came to an end of some kind."""
        return stage in self.state["stages"]

    def note(self, stage: str, state: str, **facts: Any) -> None:
        """Write down how a stage ended."""
        self.state["stages"][stage] = {"state": state, **facts}
        write_atomically(self.work / "state.json", (json.dumps(self.state, indent=1) + "\n").encode())
        self.say(f"{stage}: {state}" + "".join(f", {key} {value}" for key, value in facts.items()))


def run_kit(host: Host) -> int:
    """Do what is left to do, as far as the time goes.

    Returns:
        0: all is done, or the time is up and the results are out; 1: a stage failed; 130: asked to stop.

    Raises:
        QuranAsrError: the kit is not whole, another call works here, or the folder is another kit's.
    """
    host.work.mkdir(parents=True, exist_ok=True)
    with alone(host.work), asked_to_stop():
        _open_state(host)
        code = 0
        try:
            for stage in (_unpack, _look, _test, _benchmark, _train):
                stage(host)
        except StopAskedError:
            code = 130
        if code == 0:
            try:
                _measure(host)
            except StopAskedError:
                code = 130
        _bring_out(host, seconds=max(LEAST_RESERVE, min(host.left, 300.0)))
    failed = any(stage["state"] == "failed" for stage in host.state["stages"].values())
    finished = host.done("train") and host.done("evaluate")
    host.say(
        "finished: bring back " + str(host.results / "results")
        if finished
        else f"not finished: the same command goes on from here; so far {host.results / 'results'}"
    )
    return code or int(failed)


def _open_state(host: Host) -> None:
    identity = sha256_of(host.kit / INDEX)
    path = host.work / "state.json"
    try:
        host.state = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        host.state = {"kit": identity, "stages": {}, "calls": 0}
    except ValueError:
        raise QuranAsrError("is not JSON", where=str(path), remedy="name another folder: --work") from None
    if host.state.get("kit") != identity:
        raise QuranAsrError(
            "holds the work of another kit", where=str(host.work), remedy="name another folder: --work"
        )
    host.state["calls"] += 1
    host.state["index"] = read_index(host.kit, INDEX)["recipe_name"]
    write_atomically(path, (json.dumps(host.state, indent=1) + "\n").encode())


def _unpack(host: Host) -> None:
    if host.done("unpack"):
        return
    began = time.monotonic()
    data = host.work / "data"
    clips = unpack(sorted((host.kit / "data").glob("audio-*.tar")), data)
    for manifest in sorted((host.kit / "data").glob("*.jsonl")):
        write_atomically(data / manifest.name, manifest.read_bytes())
    host.note("unpack", "done", clips=clips, seconds=round(time.monotonic() - began, 1))


def _look(host: Host) -> None:
    if host.done("look"):
        return
    output = host.work / "look.txt"
    output.unlink(missing_ok=True)
    code = _child(host, [sys.executable, "-c", LOOK], until=host.deadline, output=output)
    said = output.read_text(encoding="utf-8", errors="replace") if output.is_file() else ""
    line = next((line for line in said.splitlines() if line.startswith("FACTS ")), None)
    if code != 0 or line is None:
        host.note("look", "cut" if code is None else "failed", said=said.strip()[-300:])
        if code is not None:
            last = next(iter(said.strip().splitlines()[-1:]), "no word")
            raise QuranAsrError(f"torch cannot be used here ({last[:200]})", where=str(output))
        return
    write_atomically(host.work / "environment.json", (line.removeprefix("FACTS ") + "\n").encode())
    facts = json.loads(line.removeprefix("FACTS "))
    gpus = ", ".join(facts["gpus"]) or "none that torch can use"
    host.note("look", "done", torch=facts["torch"], gpus=gpus, triton=facts["triton"])


def _test(host: Host) -> None:
    if host.tried("tests"):
        return
    if host.tests is None or not host.tests.is_dir():
        host.note("tests", "left out", why="no --tests FOLDER was given")
        return
    output = host.work / "tests.txt"
    words = [sys.executable, "-m", "pytest", "-m", "gpu", "-rs", "-q", "-p", "no:cacheprovider"]
    code = _child(host, [*words, str(host.tests / "train")], until=_until(host, 0.5), output=output)
    said = output.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-1:]
    host.note("tests", {None: "cut", 0: "done"}.get(code, "failed"), said=" ".join(said)[:200])


def _benchmark(host: Host) -> None:
    """Once: what was measured before it was cut off stands in its file."""
    if host.tried("benchmark"):
        return
    listed = subprocess.run(
        [sys.executable, "-m", "quran_asr", "--help"], capture_output=True, text=True, check=False
    )
    if "\n  benchmark " not in listed.stdout:
        host.note("benchmark", "left out", why="this version has no `benchmark training`")
        return
    words = [*_quran_asr(), "benchmark", "training", "--json", "--to", str(host.work / "benchmark.json")]
    began = time.monotonic()
    preset = read_index(host.kit, INDEX).get("benchmark") or []
    code = _child(host, [*words, *preset], until=_until(host, BENCHMARK_SHARE))
    state = {None: "cut", 0: "done"}.get(code, "failed")
    host.note("benchmark", state, seconds=round(time.monotonic() - began, 1))


def _train(host: Host) -> None:
    if host.done("train"):
        return
    run = host.run()
    data = host.work / "data"
    if run is not None:
        words = [*_quran_asr(), "train", "--resume", str(run.path)]
    else:
        words = [
            *_quran_asr(), "train", str(host.kit / "recipe.yaml"),
            "--train", str(data / "train.jsonl"), "--validation", str(data / "validation.jsonl"),
            f"exp_manager.exp_dir={json.dumps(str(host.runs))}",
        ]  # fmt: skip
    until = host.deadline - host.reserve
    if until - time.time() < 10:
        host.note("train", "cut", why="no time left in this call")
        return
    began = time.monotonic()
    code = _child(host, words, until=until, while_waiting=_bringing_out(host))
    seconds = round(time.monotonic() - began, 1)
    if code is None or code == 130:
        host.note("train", "cut", seconds=seconds)
    else:
        host.note("train", "done" if code == 0 else "failed", seconds=seconds)
        if code:
            log = host.log.read_text(encoding="utf-8", errors="replace").splitlines()
            host.say("\n".join(["the end of its log:", *log[-8:]]))
    _bring_out(host, seconds=max(LEAST_RESERVE, host.left))  # the weights first; measuring may be cut off


def _measure(host: Host) -> None:
    """The curves, then the test clips by the best model so far."""
    run = host.run()
    if (
        run is None
        or (run.best_model() is None and run.last_checkpoint() is None)
        or host.left < LEAST_RESERVE
    ):
        return
    words = [*_quran_asr(), "plot", str(run.path), "--out", str(host.work / "plot"), "--no-audio"]
    _child(host, words, until=host.deadline - LEAST_RESERVE)
    if host.done("evaluate") or host.left < LEAST_RESERVE:
        return
    manifest = host.work / "data" / "test.jsonl"
    words = [*_quran_asr(), "evaluate", str(run.path), str(manifest), "--to", str(host.work / "evaluation")]
    began = time.monotonic()
    code = _child(host, words, until=host.deadline - LEAST_RESERVE)
    seconds = round(time.monotonic() - began, 1)
    if code != 0:
        host.note("evaluate", "cut" if code in (None, 130) else "failed", seconds=seconds)
    elif host.done("train"):
        host.note("evaluate", "done", seconds=seconds)
    else:
        host.note("evaluate", "of the model so far", seconds=seconds)


def _export_words(host: Host) -> list[str]:
    place = ["--to", str(host.results), "--work", str(host.work)]
    return [*_quran_asr(), "kit", "--export", str(host.kit), *place]


def _bring_out(host: Host, seconds: float) -> None:
    code = _child(host, _export_words(host), until=time.time() + seconds, shielded=True)
    if code != 0:
        host.say(f"warning: the results could not be brought out; the log is {host.log}")


def _bringing_out(host: Host) -> Callable[[], None]:
    """Called again and again: brings out results every so many seconds, beside the training."""
    last = time.monotonic()
    child: subprocess.Popen[bytes] | None = None

    def tick() -> None:
        nonlocal last, child
        if child is not None and child.poll() is None:
            return
        if time.monotonic() - last >= host.every:
            last = time.monotonic()
            child = start(_export_words(host), host.log)

    return tick


def _child(
    host: Host,
    words: Sequence[str],
    *,
    until: float,
    output: Path | None = None,
    while_waiting: Callable[[], None] = lambda: None,
    shielded: bool = False,
) -> int | None:
    """Run a process to its end; its exit code, or None if it had to be stopped because the time was up."""
    process = start(words, output or host.log)
    try:
        while process.poll() is None:
            if time.time() > until:
                stop(process, host.grace)
                return None
            try:
                while_waiting()
                time.sleep(0.2)
            except StopAskedError:
                if not shielded:
                    raise
        return process.returncode
    except StopAskedError:
        stop(process, host.grace)
        raise
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def _until(host: Host, share: float) -> float:
    return min(host.deadline - host.reserve, time.time() + share * min(host.seconds, 3600.0))


def _quran_asr() -> list[str]:
    return [sys.executable, "-m", "quran_asr"]
