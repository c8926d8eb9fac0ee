"""Every writer that needs no torch, on a disk that is full or read-only: one line that names the place."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from quran_asr import audio
from quran_asr.cli.main import cli, errors_in_one_line, main
from quran_asr.config.recipe import load_recipe
from quran_asr.config.recipe_template import write_starter
from quran_asr.corpus.audit import audit, write_audit
from quran_asr.corpus.audit_page import write_page
from quran_asr.corpus.manifest import write_manifest
from quran_asr.corpus.packing import pack
from quran_asr.decoding.vocabulary import Vocabulary
from quran_asr.evaluation.evaluate import evaluate, write_report
from quran_asr.evaluation.report import Setting
from quran_asr.evaluation.transcripts import write_transcripts
from quran_asr.experiments.checkpoints import copy_model
from quran_asr.experiments.curve_files import read_curves
from quran_asr.experiments.planning.devices import Calibration, write_calibration
from quran_asr.experiments.plots.report import render_report
from quran_asr.experiments.run_folder import RunFolder, create_run
from quran_asr.files import write_atomically
from quran_asr.records import Segment, Transcript

SIZE = 4 << 20


@contextlib.contextmanager
def small_disk(place: Path, size: int = SIZE) -> Iterator[Path]:
    """A file system of its own at `place`; the test is skipped where none may be mounted."""
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(place)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        pytest.skip(f"no file system can be mounted here: {error}")
    if done.returncode:
        pytest.skip(f"no file system can be mounted here: {done.stderr.strip()}")
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


def fill(disk: Path, leave: int = 0) -> None:
    """Use up what is free but for some bytes."""
    with (disk / "filler").open("ab", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(1 << 16))
    with (disk / "filler").open("ab", buffering=0) as file:
        file.truncate(max(0, file.tell() - leave))


def drain(disk: Path) -> None:
    """Give back what `fill` took."""
    (disk / "filler").unlink()


def read_only(disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)


def message_of(writer: Callable[[], object], capsys: pytest.CaptureFixture[str]) -> str:
    """The one line with which a command ends when this fails in it; a hint may follow."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as end, errors_in_one_line(debug=False):
        writer()
    _, err = capsys.readouterr()
    assert end.value.code == 2, err
    lines = err.splitlines()
    assert lines[0].startswith("error: "), err
    assert all(line.startswith("hint: ") for line in lines[1:]), err
    return lines[0]


def unfinished_in(folder: Path) -> list[str]:
    """Names of what was being written, and of locks, at any depth."""
    return [
        os.path.relpath(os.path.join(place, name), folder)  # noqa: PTH118
        for place, folders, names in os.walk(folder)
        for name in (*folders, *names)
        if name.startswith(".")
    ]


Made = dict[str, Any]
Writer = Callable[[Path, Made], object]


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with small_disk(tmp_path_factory.mktemp("full") / "disk") as disk:
        yield disk


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """What the writers write, on a disk that has room."""
    folder = tmp_path_factory.mktemp("made")
    rng = np.random.default_rng(0)
    line = {
        "audio_filepath": str(folder / "112001.flac"),
        "duration": 2.0,
        "verses": ["112:1"],
        "reciter": "a",
    }
    audio.write(folder / "112001.flac", rng.normal(0, 0.1, 32_000).astype(np.float32))
    write_manifest(folder / "all.jsonl", [line])
    segment = Segment(line["audio_filepath"], 0.0, 2.0, (), "قل هو الله احد", "a")
    setting = Setting("model", "ctc", None, "letters", "simple")
    report, clips = evaluate([segment], lambda clips: [Transcript("قل") for _ in clips], setting)
    run = create_run(folder, "small")
    run.write_recipe(load_recipe("small"))
    for step in range(1, 30):
        run.append_metrics({"step": step, "epoch": 0, "time": 1.0, "split": "train", "loss": 1.0 / step})
    return {
        "line": line,
        "manifest": folder / "all.jsonl",
        "report": report,
        "clips": clips,
        "run": run,
        "audit": audit(folder / "all.jsonl", workers=1, cache=None),
        "sound": rng.normal(0, 0.1, 32_000).astype(np.float32),
        "vocabulary": Vocabulary(tuple(f"piece{number}" for number in range(1_000))),
        "curves": read_curves(run.path),
    }


def _go_back(folder: Path, made: Made) -> None:
    """What `--resume` does to the metrics of a run that had gone further; the run lies on the full disk."""
    RunFolder(folder / "run").rewind_metrics(3, validated=False)


def _command(*words: str) -> Writer:
    def writer(folder: Path, made: Made) -> None:
        with cli.make_context(
            "quran-asr", [word.replace("FOLDER", str(folder)) for word in words]
        ) as context:
            cli.invoke(context)

    return writer


WRITERS: dict[str, Writer] = {
    "a report": lambda folder, made: write_report(folder, made["report"], made["clips"]),
    "transcripts": lambda folder, made: write_transcripts(folder / "transcripts.jsonl", made["clips"]),
    "a manifest": lambda folder, made: write_manifest(folder / "all.jsonl", [made["line"]]),
    "an audit": lambda folder, made: write_audit(made["audit"], folder),
    "the page of an audit": lambda folder, made: write_page(made["audit"], folder / "audit.html"),
    "a wav": lambda folder, made: audio.write(folder / "a.wav", made["sound"]),
    "a flac": lambda folder, made: audio.write(folder / "a.flac", made["sound"]),
    "shards": lambda folder, made: pack(made["manifest"], folder / "shards", ThreadPoolExecutor(1)),
    "a recipe of one's own": lambda folder, made: write_starter(folder / "mine.yaml", "small", []),
    "a run's recipe": lambda folder, made: RunFolder(folder / "run").write_recipe(load_recipe("small")),
    "a run's facts": lambda folder, made: RunFolder(folder / "run").write_json("environment.json", {"a": 1}),
    "a run's metrics": lambda folder, made: RunFolder(folder / "run").append_metrics(
        {"step": 99, "text": "x" * 10_000}
    ),
    "a run's lock": lambda folder, made: RunFolder(folder / "run").held().__enter__(),
    "dropped metrics": _go_back,
    "a copied model": lambda folder, made: copy_model(made["run"].metrics, folder / "model.nemo"),
    "pictures and a page": lambda folder, made: render_report([made["curves"]], folder / "plot"),
    "a vocabulary": lambda folder, made: made["vocabulary"].write(folder / "vocabulary.txt"),
    "a calibration": lambda folder, made: write_calibration(
        Calibration("a device", "small", 1.0, 1.0, None, "2026-01-31")
    ),
    "`recipe new`": _command("recipe", "new", "FOLDER/mine.yaml", "--base", "small"),
    "`corpus split`": _command(
        "corpus", "split", "FOLDER/../../made.jsonl", "--by", "verse", "--to", "FOLDER/split"
    ),
}


@pytest.fixture(scope="module")
def settled(disk: Path, made: Made) -> Path:
    """The disk with a run and a report on it, from when it still had room."""
    run = RunFolder(disk / "run")
    run.path.mkdir()
    for step in range(1, 8):
        run.append_metrics({"step": step, "epoch": 0, "time": 1.0, "split": "train", "loss": 1.0})
    write_atomically(run.recipe, b"base: small\n")
    write_atomically(disk / "report.json", b"an earlier report")
    write_manifest(disk.parents[1] / "made.jsonl", lines_to_split(made))
    return disk


def lines_to_split(made: Made) -> list[Made]:
    """Of two reciters and four verses, for `corpus split`."""
    lines = []
    for verse in (1, 2, 3, 4):
        for reciter in ("a", "b"):
            path = Path(made["line"]["audio_filepath"]).with_name(f"{reciter}{verse}.wav")
            audio.write(path, made["sound"] / verse)
            line = {"audio_filepath": str(path), "verses": [f"112:{verse}"], "reciter": reciter}
            lines.append({**made["line"], **line})
    return lines


def state_of(disk: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(disk)): path.read_bytes()
        for path in disk.rglob("*")
        if path.is_file() and path.name != "filler"
    }


@pytest.mark.parametrize("name", WRITERS)
def test_a_full_disk_is_named_in_one_line_and_nothing_half_is_left(
    name: str, settled: Path, made: Made, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if name == "pictures and a page":
        pytest.importorskip("matplotlib")
    monkeypatch.setenv("QURAN_ASR_CACHE", str(settled / "cache"))
    before = state_of(settled)
    fill(settled)
    try:
        message = message_of(lambda: WRITERS[name](settled, made), capsys)
    finally:
        drain(settled)
    assert str(settled) in message
    assert "No space left on device" in message
    assert unfinished_in(settled) == []
    changed = {path for path, data in state_of(settled).items() if before.get(path) != data}
    assert not changed & before.keys(), "what stood there was touched"
    assert all(not (settled / path).read_bytes() for path in changed), "half of something was left"


@pytest.mark.parametrize("name", WRITERS)
def test_a_read_only_disk_is_named_in_one_line(
    name: str,
    made: Made,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if name == "pictures and a page":
        pytest.importorskip("matplotlib")
    with small_disk(tmp_path / "disk") as disk:
        monkeypatch.setenv("QURAN_ASR_CACHE", str(disk / "cache"))
        run = RunFolder(disk / "run")
        run.path.mkdir()
        for step in range(1, 8):
            run.append_metrics({"step": step, "epoch": 0, "time": 1.0, "split": "train", "loss": 1.0})
        write_manifest(tmp_path.parent / "made.jsonl", lines_to_split(made))
        read_only(disk)
        message = message_of(lambda: WRITERS[name](disk, made), capsys)
    assert str(disk) in message
    assert "Read-only file system" in message


def test_an_audit_continues_without_its_cache(settled: Path, made: Made, tmp_path: Path) -> None:
    write_manifest(tmp_path / "all.jsonl", [made["line"]])
    fill(settled)
    try:
        report = audit(tmp_path / "all.jsonl", workers=1, cache=settled / "cache" / "audit.sqlite")
    finally:
        drain(settled)
    assert len(report.clips) == 1


def test_a_full_temporary_folder_is_named(
    settled: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from quran_asr.files import temporary_folder

    def writer() -> None:
        with temporary_folder() as folder, (folder / "weights").open("wb") as file:
            file.write(bytes(1 << 20))

    monkeypatch.setattr("tempfile.tempdir", str(settled))
    fill(settled, leave=1 << 16)
    try:
        message = message_of(writer, capsys)
    finally:
        drain(settled)
    assert str(settled) in message
    assert [path for path in settled.iterdir() if path.name.startswith("quran-asr-")] == []


def test_no_temporary_folder_at_all_is_reported(
    settled: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from quran_asr.files import temporary_folder

    def writer() -> None:
        with temporary_folder():
            pytest.fail("there is one")

    monkeypatch.setattr("tempfile.tempdir", None)
    monkeypatch.setattr("tempfile._candidate_tempdir_list", lambda: [str(settled)])
    fill(settled)
    try:
        message = message_of(writer, capsys)
    finally:
        drain(settled)
    assert str(settled) in message


def test_a_command_ends_with_2(settled: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fill(settled)
    try:
        with pytest.raises(SystemExit) as end:
            main(["recipe", "new", str(settled / "mine.yaml"), "--base", "small"])
    finally:
        drain(settled)
    assert end.value.code == 2
    assert capsys.readouterr().err == (
        f"error: {settled}/mine.yaml: No space left on device\n"
        "hint: free some space and run the same command again\n"
    )


# What torch, NeMo, SentencePiece and ONNX write: of a full disk they say nothing, or something else

SMALL = (
    "model.encoder.n_layers=1",
    "model.encoder.d_model=32",
    "model.encoder.n_heads=2",
    "model.encoder.subsampling_conv_channels=8",
    "model.decoder.prednet.pred_hidden=16",
    "model.joint.jointnet.joint_hidden=16",
    "quran.vocabulary_size=48",
    "quran.overfit_gate_steps=0",
    "trainer.max_steps=2",
)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """A model of random weights, its `.nemo` and tokenizer."""
    pytest.importorskip("nemo", reason="needs the training packages")
    from quran_asr.training.checkpoints import save_nemo
    from quran_asr.training.model import build_model
    from quran_asr.training.tokenizer import train_tokenizer

    folder = tmp_path_factory.mktemp("trained")
    tokenizer = train_tokenizer("letters", 48, folder / "tokenizer")
    model = build_model(load_recipe("quickstart", SMALL), tokenizer.folder).eval()
    save_nemo(model, folder / "model.nemo")
    return {"model": model, "nemo": folder / "model.nemo", "tokenizer": tokenizer.folder}


def _checkpoint(folder: Path, made: Made) -> None:
    from quran_asr.training.checkpoints import WeightsOnlyCheckpoints

    WeightsOnlyCheckpoints().save_checkpoint({"state_dict": made["model"].state_dict()}, folder / "last.ckpt")


def _nemo(folder: Path, made: Made) -> None:
    from quran_asr.training.checkpoints import save_nemo

    save_nemo(made["model"], folder / "model.nemo")


def _tokenizer(folder: Path, made: Made) -> None:
    from quran_asr.training.tokenizer import train_tokenizer

    train_tokenizer("letters", 48, folder / "tokenizer")


def _copied_tokenizer(folder: Path, made: Made) -> None:
    from quran_asr.training.tokenizer import copy_tokenizer

    copy_tokenizer(made["tokenizer"], folder / "tokenizer")


def _graphs(folder: Path, made: Made) -> None:
    from quran_asr.export.graphs import write_graphs
    from quran_asr.training.streaming import model_shape

    write_graphs(made["model"], model_shape(made["model"], "model"), folder)


def _bundle(folder: Path, made: Made) -> None:
    from quran_asr.export.bundle import export

    export(made["nemo"], folder / "bundle")


def _sherpa(folder: Path, made: Made) -> None:
    from quran_asr.export.sherpa import write_sherpa
    from quran_asr.training.streaming import model_shape

    shape = model_shape(made["model"], "model")
    write_sherpa(made["model"], shape, folder / "sherpa", shape.look_aheads[0])


TRAINING_WRITERS: dict[str, Writer] = {
    "a checkpoint": _checkpoint,
    "a .nemo": _nemo,
    "a tokenizer": _tokenizer,
    "a copied tokenizer": _copied_tokenizer,
    "graphs": _graphs,
    "a bundle": _bundle,
}


@pytest.mark.slow
@pytest.mark.parametrize("leave", [0, 20_000, 120_000])
@pytest.mark.parametrize("name", TRAINING_WRITERS)
def test_a_full_disk_is_named_by_what_a_training_writes(
    name: str, leave: int, disk: Path, trained: Made, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also where the first part of it still fits."""
    if leave and "tokenizer" in name:
        pytest.skip("fits")
    shutil.rmtree(disk / "tokenizer", ignore_errors=True)
    before = state_of(disk)
    fill(disk, leave)
    try:
        message = message_of(lambda: TRAINING_WRITERS[name](disk, trained), capsys)
    finally:
        drain(disk)
    assert str(disk) in message
    assert "No space left on device" in message
    assert unfinished_in(disk) == []
    for path in disk.glob("*.onnx"):
        path.unlink()  # into an empty folder that `export` takes away
    shutil.rmtree(disk / "tokenizer", ignore_errors=True)
    assert state_of(disk) == before


@pytest.mark.slow
@pytest.mark.parametrize("writer", [_nemo, _sherpa])
def test_a_full_temporary_folder_is_named_by_what_gathers_there(
    writer: Writer,
    disk: Path,
    trained: Made,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(disk))
    before = state_of(disk)
    fill(disk, 20_000)
    try:
        message = message_of(lambda: writer(tmp_path, trained), capsys)
    finally:
        drain(disk)
    assert str(disk) in message
    assert state_of(disk) == before
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


@pytest.mark.slow
@pytest.mark.parametrize("leave", [0, 60_000, 400_000])
def test_a_training_on_a_full_disk_ends_in_one_line(
    disk: Path, trained: Made, tmp_path: Path, leave: int
) -> None:
    from quran_asr.corpus.synthesis import synthesize_corpus
    from quran_asr.records import VerseRef

    spoken = synthesize_corpus([VerseRef(112, 1), VerseRef(112, 2)], ["ar"], tmp_path / "spoken")
    words = [*SMALL, f"exp_manager.exp_dir={disk / 'runs'}", f"model.tokenizer.dir={trained['tokenizer']}"]
    command = ["train", "quickstart", *words, "--train", str(spoken), "--validation", str(spoken)]
    fill(disk, leave)
    try:
        done = subprocess.run(
            [sys.executable, "-m", "quran_asr", *command, "--no-preflight"],
            capture_output=True,
            text=True,
            check=False,
            timeout=900,
        )
    finally:
        drain(disk)
        shutil.rmtree(disk / "runs", ignore_errors=True)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert str(disk) in errors[0]
