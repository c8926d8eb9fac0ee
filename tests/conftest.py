"""What every test shares: real recordings and GPUs where there are any, and calm settings for Hypothesis."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import settings

from quran_asr.config.recipe import load_recipe
from quran_asr.config.schema import Recipe
from quran_asr.corpus.manifest import read_manifest
from quran_asr.corpus.synthesis import synthesize_corpus
from quran_asr.locks import locked
from quran_asr.records import Segment, VerseRef

if TYPE_CHECKING:
    from quran_asr.training.tokenizer import Tokenizer

# Deadlines measure the machine's other work, not the code; the examples stay the same from run to run in CI.
settings.register_profile("house", deadline=None, print_blob=True, derandomize=bool(os.environ.get("CI")))
settings.load_profile("house")

# A shell that starts us in the background has its children ignore Ctrl-C, `nohup` hang-ups; ours would too.
signal.signal(signal.SIGINT, signal.default_int_handler)
if hasattr(signal, "SIGHUP"):
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--quickstart",
        type=Path,
        help="A quickstart that is there already (with its --json as figures.json), instead of training one.",
    )


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", "alone: measures time or needs all cores; ./test.sh runs it when the others are done"
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """With pytest-xdist: first the file whose tests train the quickstart, then those with most slow tests.

    So what is left for the end is short, and the processes end at about the same time. Other files that need
    the quickstart come when it has been trained: nobody waits for it.
    """
    if not hasattr(config, "workerinput"):
        return

    def file_of(item: pytest.Item) -> str:
        return item.nodeid.partition("::")[0]

    order = Counter(file_of(item) for item in items if item.get_closest_marker("slow"))
    needing = Counter(
        file_of(item) for item in items if "quickstart" in getattr(item, "fixturenames", ())
    ).most_common()
    for file, _ in needing:
        order[file] = 1
    if needing:
        order[needing[0][0]] = len(items)
    items.sort(key=lambda item: -order[file_of(item)])


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("data") and not os.environ.get("QURAN_ASR_DATA"):
        pytest.skip("needs real recordings: QURAN_ASR_DATA is not set")
    if item.get_closest_marker("gpu"):
        torch = pytest.importorskip("torch", reason="needs torch")
        if not torch.cuda.is_available():
            pytest.skip("needs a CUDA device")


@pytest.fixture(scope="session")
def recordings() -> Path:
    """The folder with `recitations/`, `surahs/` and `eval/`; the test is skipped where there is none."""
    named = os.environ.get("QURAN_ASR_DATA")
    if not named:
        pytest.skip("needs real recordings: QURAN_ASR_DATA is not set")
    folder = Path(named)
    if not (folder / "recitations").is_dir():
        pytest.fail(f"QURAN_ASR_DATA is {folder}, which has no folder recitations/")
    return folder


@dataclass(frozen=True)
class Done:
    code: int
    out: str
    err: str


Command = Callable[..., Done]


@pytest.fixture(scope="session")
def quran_asr() -> Command:
    """Run the real command in a process of its own."""

    def run(*words: object, cwd: Path | None = None, timeout: float = 900) -> Done:
        done = subprocess.run(
            [sys.executable, "-m", "quran_asr", *map(str, words)],
            capture_output=True,
            text=True,
            cwd=cwd,
            timeout=timeout,
            check=False,
            env={**os.environ, "COLUMNS": "110"},
        )
        return Done(done.returncode, done.stdout, done.stderr)

    return run


@pytest.fixture(scope="session")
def in_process() -> Command:
    """Run the command in this process, which has imported torch and NeMo: they take ten seconds in another.

    For tests of what a command does. What is imported, signals and memory need a process of their own.
    """
    pytest.importorskip("nemo", reason="needs the training packages")
    import quran_asr.training.trainer  # noqa: F401 - NeMo logs to what is stderr now, not to that of one command
    from quran_asr.cli.main import main

    def run(*words: object, cwd: Path | None = None) -> Done:
        out, err = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8") for _ in range(2))
        with (
            contextlib.chdir(cwd or Path.cwd()),
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
            pytest.raises(SystemExit) as ended,
        ):
            main([str(word) for word in words])
        texts = []
        for stream in (out, err):
            stream.flush()
            texts.append(stream.buffer.getvalue().decode("utf-8"))
        return Done(int(ended.value.code or 0), *texts)

    return run


@dataclass(frozen=True)
class Quickstart:
    figures: dict[str, Any]
    messages: str
    folder: Path


Once = Callable[[str, Callable[[Path], object]], Path]


@pytest.fixture(scope="session")
def once(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Once:
    """Have a folder made by the first process of pytest-xdist that asks for it; others take it as it is."""
    shared = tmp_path_factory.getbasetemp()
    if hasattr(request.config, "workerinput"):
        shared = shared.parent

    def folder(name: str, make: Callable[[Path], object]) -> Path:
        place, whole = shared / f"once-{name}", shared / f"once-{name}.whole"
        with locked(shared / f"once-{name}.lock", busy=f"{name} is being made", wait=1700):
            if not whole.exists():
                shutil.rmtree(place, ignore_errors=True)  # what a process that failed has left
                place.mkdir()
                make(place)
                whole.touch()
        return place

    return folder


@pytest.fixture(scope="session")
def quickstart(quran_asr: Command, once: Once, request: pytest.FixtureRequest) -> Quickstart:
    """`quran-asr quickstart --json`, whole: a model whose own error is small, trained once in a test run."""
    earlier = request.config.getoption("--quickstart")
    if earlier is not None:
        return Quickstart(json.loads((earlier / "figures.json").read_text()), "", earlier)

    def train(folder: Path) -> None:
        done = quran_asr("quickstart", "--to", folder / "quickstart", "--json", timeout=1700)
        assert done.code == 0, done.err
        (folder / "figures.json").write_text(done.out, encoding="utf-8")
        (folder / "messages.txt").write_text(done.err, encoding="utf-8")

    folder = once("quickstart", train)
    figures = json.loads((folder / "figures.json").read_text(encoding="utf-8"))
    return Quickstart(figures, (folder / "messages.txt").read_text(encoding="utf-8"), folder / "quickstart")


@pytest.fixture(scope="session")
def bundle(quickstart: Quickstart, in_process: Command, once: Once) -> Path:
    """The quickstart's model, exported: the folder."""

    def export(folder: Path) -> None:
        done = in_process("export", quickstart.figures["run"], "--to", folder / "bundle")
        assert done.code == 0, done.err

    return once("bundle", export) / "bundle"


TINY = (
    "model.encoder.n_layers=1",
    "model.encoder.d_model=32",
    "model.encoder.n_heads=2",
    "model.encoder.subsampling_conv_channels=8",
    "model.decoder.prednet.pred_hidden=16",
    "model.joint.jointnet.joint_hidden=16",
    "model.decoding.greedy.max_symbols=3",
    "quran.vocabulary_size=48",
    "quran.curriculum.first_seconds=3.0",
    "quran.overfit_gate_steps=0",
    "trainer.log_every_n_steps=1",
)
"""Overrides of `quickstart` for a model that trains in seconds and learns nothing."""


@pytest.fixture(scope="session")
def tiny_overrides() -> tuple[str, ...]:
    return TINY


@pytest.fixture(scope="session")
def spoken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A manifest of 112:1-4 by three voices."""
    refs = [VerseRef(112, ayah) for ayah in range(1, 5)]
    return synthesize_corpus(refs, ["ar", "ar+m1", "ar+f2"], tmp_path_factory.mktemp("spoken"), seed=0)


@pytest.fixture(scope="session")
def segments(spoken: Path) -> list[Segment]:
    return read_manifest(spoken, "letters")


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    from quran_asr.training.tokenizer import train_tokenizer

    return train_tokenizer("letters", 48, tmp_path_factory.mktemp("tokens") / "tokenizer")


@pytest.fixture
def tiny(spoken: Path) -> Recipe:
    return load_recipe("quickstart", [*TINY, f"model.train_ds.manifest_filepath={spoken}"])


SMALL = (
    "model.encoder.n_layers=1",
    "model.encoder.d_model=32",
    "model.encoder.n_heads=2",
    "model.encoder.subsampling_conv_channels=8",
    "model.decoder.prednet.pred_hidden=16",
    "model.joint.jointnet.joint_hidden=16",
    "quran.vocabulary_size=48",
)


@pytest.fixture(scope="session")
def small_bundle(once: Once) -> Path:
    """Made as every bundle, with random weights: it recognizes nothing, but says much, so changes show.

    The `.nemo` that it was made from lies beside it, as `model.nemo`.
    """
    pytest.importorskip("nemo", reason="a bundle is made with the training packages")

    def make(folder: Path) -> None:
        import torch

        from quran_asr.export.bundle import export
        from quran_asr.training.model import build_model
        from quran_asr.training.tokenizer import train_tokenizer

        tokenizer = train_tokenizer("letters", 48, folder / "tokenizer")
        torch.manual_seed(0)
        model = build_model(load_recipe("quickstart", SMALL), tokenizer.folder)
        with torch.no_grad():  # of tokens that are all improbable a beam search takes none
            model.joint.joint_net[-1].weight.mul_(30)
        model.save_to(str(folder / "model.nemo"))
        export(folder / "model.nemo", folder / "bundle")

    return once("small", make) / "bundle"


@pytest.fixture(scope="session")
def voice() -> np.ndarray:
    """Six seconds that come and go like speech, float32 at 16 kHz."""
    draw = np.random.default_rng(3)
    seconds = np.arange(96_000) / 16_000
    loudness = 0.2 * np.abs(np.sin(2 * np.pi * 1.3 * seconds))
    tone = np.sign(np.sin(2 * np.pi * (110 + 30 * np.sin(seconds)) * seconds))
    return (loudness * (tone + 0.5 * draw.standard_normal(len(seconds)))).astype(np.float32)
