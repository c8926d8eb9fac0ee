"""One change, one place: each extension is added to a copy of the package and works from its command line.

`CONTRIBUTING.md` has the table "to add X, touch Y". The edits below touch those files and no others.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from quran_asr import audio

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "src" / "quran_asr"


@dataclass(frozen=True)
class Extension:
    most: int
    """Files that it may take."""
    row: str
    """How its row of the table in CONTRIBUTING.md begins."""
    new: dict[str, str] = field(default_factory=dict)
    """File -> its text."""
    edits: dict[str, tuple[str, str]] = field(default_factory=dict)
    """File -> what stands there, and what comes in its place."""


EXTENSIONS = {
    "diagnostic": Extension(
        1,
        "| diagnostic rule |",
        new={
            "experiments/diagnostics/length.py": """
from quran_asr.experiments.diagnostics.diagnosis import Diagnosis, rule

@rule("any-step")
def any_step(curves):
    if curves.steps:
        yield Diagnosis("any-step", "note", f"{curves.steps} steps were made", (), "", "", curves.steps)
"""
        },
    ),
    "schedule": Extension(
        2,
        "| learning-rate schedule |",
        edits={
            "config/schema.py": ('Literal["NoamAnnealing",', 'Literal["Flat", "NoamAnnealing",'),
            "config/schedule.py": (
                '@schedule("CosineAnnealing")',
                '@schedule("Flat")\n'
                "def _flat(step: int, optim: Optim, d_model: int, total_steps: int) -> float:\n"
                "    return optim.lr\n\n\n"
                '@schedule("CosineAnnealing")',
            ),
        },
    ),
    "augmentation": Extension(
        2,
        "| augmentation |",
        edits={
            "config/schema.py": (
                "    codec_probability: Share",
                "    mute_probability: Share = 0.0\n    codec_probability: Share",
            ),
            "training/data/augmentation.py": (
                "    if settings.gain_db:",
                "    if settings.mute_probability > drawn.random():\n"
                "        samples = np.zeros_like(samples)\n"
                "    if settings.gain_db:",
            ),
        },
    ),
    "decoder": Extension(
        2,
        "| decoder |",
        new={
            "decoding/first_frame.py": """
from quran_asr.decoding.decoder import SearchResult
from quran_asr.decoding.partial import NOTHING
from quran_asr.records import Hypothesis

class FirstToken:
    '''The first token of a recording, whatever follows.'''

    def __init__(self, decoding, model):
        self.blank, self.start = model.blank, (0, False)

    def step(self, chunks, states):
        results = []
        for chunk, (frame, done) in zip(chunks, states, strict=True):
            best = chunk.ctc[:, : self.blank].argmax(axis=1).tolist()
            tokens = () if done or not best else (best[0],)
            found = Hypothesis(tokens, (frame,) * len(tokens), 0.0)
            results.append(SearchResult(found, state=(frame + len(best), done or bool(tokens))))
        return results

    def draft(self, state):
        return NOTHING
"""
        },
        edits={
            "decoding/options.py": (
                "DECODERS = {\n",
                'DECODERS = {\n    "first-token": "quran_asr.decoding.first_frame:FirstToken",\n',
            )
        },
    ),
    "target": Extension(
        2,
        "| export target |",
        new={
            "export/count.py": """
def write_count(model, shape, folder, look_ahead_frames):
    folder.mkdir(parents=True)
    (folder / "parameters").write_text(str(sum(p.numel() for p in model.parameters())))
"""
        },
        edits={
            "export/targets.py": (
                "TARGETS = {",
                'TARGETS = {"count": "quran_asr.export.count:write_count", ',
            )
        },
    ),
}


ONE_AFTER_ANOTHER = """
import json, sys
from quran_asr.cli.main import main
for words in json.loads(sys.argv[1]):
    try:
        main(words)
    except SystemExit as ended:
        if ended.code:
            raise
"""
"""Commands in one process, which imports torch and NeMo once."""


@dataclass(frozen=True)
class Extended:
    """A copy of the package with every extension in it."""

    folder: Path

    def run(self, *words: object) -> subprocess.CompletedProcess[str]:
        return self.python("-m", "quran_asr", *words)

    def python(self, *words: object) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, *map(str, words)],
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "PYTHONPATH": str(self.folder), "CUDA_VISIBLE_DEVICES": ""},
        )

    def done(self, *words: object) -> str:
        """What a command prints; it must succeed."""
        done = self.run(*words)
        assert done.returncode == 0, done.stderr
        return done.stdout


@pytest.fixture(scope="module")
def extended(tmp_path_factory: pytest.TempPathFactory) -> Extended:
    folder = tmp_path_factory.mktemp("extended")
    package = folder / "quran_asr"
    shutil.copytree(PACKAGE, package)  # with its bytecode, which stays valid for files that are not edited
    for extension in EXTENSIONS.values():
        for name, text in extension.new.items():
            assert not (package / name).exists()
            (package / name).write_text(text, encoding="utf-8")
        for name, (before, after) in extension.edits.items():
            text = (package / name).read_text(encoding="utf-8")
            assert text.count(before) == 1, (name, before)
            (package / name).write_text(text.replace(before, after), encoding="utf-8")
    return Extended(folder)


@pytest.mark.parametrize("kind", EXTENSIONS)
def test_an_extension_touches_the_files_that_the_contributing_guide_names(kind: str) -> None:
    extension = EXTENSIONS[kind]
    assert len(extension.new) + len(extension.edits) <= extension.most
    lines = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").splitlines()
    (row,) = [line for line in lines if line.startswith(extension.row)]
    for name in extension.edits:
        assert f"`{name}`" in row
    for name in extension.new:
        assert f"`{name.rpartition('/')[0]}/`" in row


def test_a_diagnostic_is_one_file(extended: Extended, tmp_path: Path) -> None:
    curve = tmp_path / "curve.csv"
    curve.write_text("step,train_loss\n" + "".join(f"{step},{5 - step / 40}\n" for step in range(1, 60)))
    diagnoses = json.loads(extended.done("watch", curve, "--json"))["diagnostics"]
    assert "any-step" in {diagnosis["code"] for diagnosis in diagnoses}


def test_a_schedule_is_a_name_and_a_function(extended: Extended) -> None:
    flat = ("model.optim.sched.name=Flat", "model.optim.lr=3e-4")
    planned = json.loads(extended.done("plan", "transfer", *flat, "--json"))
    assert planned["peak_learning_rate"] == pytest.approx(3e-4)
    refused = extended.run("plan", "transfer", "model.optim.sched.name=Flatt")
    assert refused.returncode == 2 and "did you mean `Flat`?" in refused.stderr


def test_the_key_of_an_augmentation_is_off_and_can_be_set(extended: Extended) -> None:
    def augment(*overrides: str) -> dict[str, Any]:
        shown: dict[str, Any] = json.loads(extended.done("recipe", "show", "laptop", *overrides, "--json"))
        return shown["recipe"]["quran"]["augment"]

    assert augment()["mute_probability"] == 0.0
    assert augment("quran.augment.mute_probability=0.5")["mute_probability"] == 0.5


@pytest.mark.slow
def test_an_augmentation_is_a_key_and_a_line_and_a_schedule_trains(
    extended: Extended, spoken: Path, tiny_overrides: tuple[str, ...], tmp_path: Path
) -> None:
    def command(name: str, *overrides: str) -> list[str]:
        words = ["train", "quickstart", "--train", str(spoken), "--validation", str(spoken), "--no-preflight"]
        last = ["quran.curriculum=null", "trainer.max_steps=1", f"exp_manager.exp_dir={tmp_path / name}"]
        return [*words, *tiny_overrides, *last, *overrides]

    def first_step(name: str) -> dict[str, Any]:
        (metrics,) = (tmp_path / name).rglob("metrics.jsonl")
        rows = [json.loads(line) for line in metrics.read_text(encoding="utf-8").splitlines()]
        return next(row for row in rows if row["split"] == "train")

    muting = ("quran.augment.mute_probability=1.0", "model.optim.sched.name=Flat", "model.optim.lr=0.00123")
    commands = [command("muted", *muting), command("audible")]
    done = extended.python("-c", ONE_AFTER_ANOTHER, json.dumps(commands))
    assert done.returncode == 0, done.stderr
    muted, audible = first_step("muted"), first_step("audible")
    assert muted["loss"] != pytest.approx(audible["loss"], rel=1e-4)
    assert muted["learning_rate"] == pytest.approx(0.00123)


@pytest.mark.slow
def test_a_decoder_is_a_class_and_a_line(extended: Extended, small_bundle: Path, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).standard_normal(32_000).astype(np.float32)
    audio.write(tmp_path / "a.wav", 0.1 * noise)
    words = ("transcribe", tmp_path / "a.wav", "--model", small_bundle, "--decoder", "first-token")
    _, text = extended.done(*words).rstrip("\n").split("\t")
    assert len(text.split()) == 1
    assert "first-token" in extended.done("transcribe", "--help")


@pytest.mark.slow
def test_an_export_target_is_a_function_and_a_line(
    extended: Extended, small_bundle: Path, tmp_path: Path
) -> None:
    model = small_bundle.parent / "model.nemo"
    extended.done("export", model, "--to", tmp_path / "bundle", "--target", "count")
    written = list((tmp_path / "bundle").glob("count/*ms/parameters"))
    assert written and all(int(file.read_text()) > 1000 for file in written)
