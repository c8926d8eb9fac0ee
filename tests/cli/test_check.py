"""`quran-asr check`, and what `train` does of it, as typed."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from quran_asr.cli.main import main
from quran_asr.corpus.manifest import read_lines, write_manifest

TINY = (
    "model.encoder.n_layers=1",
    "model.encoder.d_model=32",
    "model.encoder.n_heads=2",
    "model.encoder.subsampling_conv_channels=8",
    "model.decoder.prednet.pred_hidden=16",
    "model.joint.jointnet.joint_hidden=16",
    "model.decoding.greedy.max_symbols=3",
    "quran.vocabulary_size=48",
    "quran.curriculum=null",
)
"""A model that learns nothing by heart, and trains in seconds."""

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Command:
    """Run a command in an empty folder: exit code, stdout, stderr."""
    monkeypatch.chdir(tmp_path)

    def run(*words: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            main([str(word) for word in words])
        printed = capsys.readouterr()
        return int(ended.value.code or 0), printed.out, printed.err

    return run


@pytest.fixture(scope="module")
def sides(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Training and validation manifests of two voices."""
    from quran_asr.corpus.synthesis import synthesize_corpus
    from quran_asr.records import VerseRef

    pytest.importorskip("espeakng_loader")
    refs = [VerseRef(112, ayah) for ayah in range(1, 5)]
    place = tmp_path_factory.mktemp("sides")
    return synthesize_corpus(refs, ["ar", "ar+m1"], place / "t", seed=0), synthesize_corpus(
        refs, ["ar+f2"], place / "v", seed=0
    )


def words(sides: tuple[Path, Path]) -> tuple[Any, ...]:
    return ("quickstart", "--train", sides[0], "--validation", sides[1], *TINY)


def test_wrong_use_is_reported_at_once(command: Command, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    before = "torch" in sys.modules
    code, _, err = command("check", "laptop")
    assert (code, "--train" in err) == (2, True)
    code, _, err = command("check", "laptop", "--train", "a", "--validation", "b", "--sample", "few")
    assert (code, "--sample" in err) == (2, True)
    assert before or "torch" not in sys.modules


@pytest.mark.slow
def test_check_passes_what_is_well_in_json_and_writes_nothing(
    command: Command, sides: tuple[Path, Path], tmp_path: Path
) -> None:
    code, out, _ = command("check", *words(sides), "--gate-steps", 0, "--json")
    result = json.loads(out)
    assert (code, result["passed"], result["recipe"]) == (0, True, "quickstart")
    assert [row["code"] for row in result["checks"]] == [
        *("manifests", "recipe", "disk", "machine", "audio", "shared-audio", "reciter-names", "seen-texts"),
        *("tokenizer", "characters", "ctc-length", "environment", "loss", "start", "memory", "overfit"),
    ]
    assert {row["status"] for row in result["checks"][:-1]} == {"pass"}
    assert result["checks"][-1]["status"] == "skipped"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_check_continues_after_a_failure_and_exits_1(
    command: Command, sides: tuple[Path, Path], tmp_path: Path
) -> None:
    lines = read_lines(sides[0])
    lines[2]["text"], lines[2]["verses"] = "قل هو الله احد " * 9, []
    write_manifest(tmp_path / "wrong.jsonl", lines)
    folder = tmp_path / "tokens"
    assert (
        command(
            "tokenizer", "quickstart", "quran.spelling=letters", "quran.vocabulary_size=48", "--to", folder
        )[0]
        == 0
    )
    code, out, _ = command(
        *("check", "quickstart", "--train", "wrong.jsonl", "--validation", sides[0], *TINY),
        *("--gate-steps", 10, "quran.spelling=diacritized", f"model.tokenizer.dir={folder}"),
        "model.decoding.greedy.max_symbols=2",
    )
    status = {line.split()[1]: line.split()[0] for line in out.splitlines() if not line.startswith(" ")}
    assert code == 1
    assert status["shared-audio"] == "warning"
    assert status["tokenizer"] == "failure"  # marks are lost
    assert status["characters"] == status["start"] == status["overfit"] == "skipped"
    assert status["loss"] == "pass"
    assert "hint: " in out
    assert "\x1b[" not in out


@pytest.mark.slow
def test_train_begins_nothing_that_fails_its_preflight(
    command: Command, sides: tuple[Path, Path], tmp_path: Path
) -> None:
    hopeless = (*words(sides), "quran.overfit_gate_steps=2", "trainer.max_steps=2")
    code, _, err = command("train", *hopeless)
    assert code == 1
    assert "error [overfit] 4 clips were not learned in 2 steps" in err
    assert list(tmp_path.iterdir()) == []
    code, _, err = command("train", *hopeless, "--no-preflight")
    assert code == 0
    assert "overfit" not in err
    assert len(list(tmp_path.glob("nemo_experiments/quickstart/*/recipe.yaml"))) == 1
    code, _, err = command("train", *words(sides), "quran.overfit_gate_steps=0", "trainer.max_steps=2")
    assert code == 0
    assert "preflight: 13 passes" in err


@pytest.mark.slow
def test_of_several_processes_the_first_decides_for_all(sides: tuple[Path, Path], tmp_path: Path) -> None:
    two = (
        "trainer.devices=2",
        "trainer.accelerator=cpu",
        "quran.overfit_gate_steps=2",
        "trainer.max_steps=2",
    )
    done = subprocess.run(
        [sys.executable, "-m", "quran_asr", "train", *map(str, words(sides)), *two],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        timeout=900,
    )
    assert done.returncode == 1, done.stderr
    assert done.stderr.count("were not learned in") == 1
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_text_under_a_checkpoints_name_is_not_a_checkpoint(command: Command, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    (tmp_path / "text.ckpt").write_text("hello\n")
    code, _, err = command("train", "small", "exp_manager.resume_from_checkpoint=text.ckpt")
    assert (code, "is not a checkpoint" in err) == (2, True)


def test_a_start_that_is_not_there_is_reported_before_the_data_are_read(
    command: Command, tmp_path: Path
) -> None:
    pytest.importorskip("torch")
    (tmp_path / "text.nemo").write_text("hello\n")
    for start, message in (("nope.nemo", "no such file"), ("text.nemo", "is no .nemo archive")):
        code, _, err = command("train", "small", f"init_from_pretrained_model={start}", "--train", "none")
        assert (code, message in err) == (2, True), err
