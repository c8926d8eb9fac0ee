"""`evaluate` and `transcribe` up to where a model is needed, and how a report looks."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from quran_asr import audio
from quran_asr.cli.evaluate import print_report
from quran_asr.cli.main import main
from quran_asr.errors import QuranAsrError
from quran_asr.evaluation.evaluate import evaluate
from quran_asr.evaluation.report import Report, Setting
from quran_asr.evaluation.training_data import TrainingData
from quran_asr.records import Segment, Transcript, VerseRef
from quran_asr.text.quran import load_quran


def run(capsys: pytest.CaptureFixture[str], *args: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as end:
        main(list(args))
    out, err = capsys.readouterr()
    return int(end.value.code or 0), out, err


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a model by name only, a recording and a manifest."""
    monkeypatch.chdir(tmp_path)
    audio.write(tmp_path / "112001.wav", np.full(16_000, 0.1, np.float32))
    (tmp_path / "model.nemo").write_bytes(b"not opened in these tests")
    line = {"audio_filepath": "112001.wav", "duration": 1.0, "verses": ["112:1"], "reciter": "husary"}
    (tmp_path / "test.jsonl").write_text(json.dumps(line) + "\n", encoding="utf-8")
    return tmp_path


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("evaluate test.jsonl --model none.nemo", "none.nemo: no such model"),
        ("evaluate none.jsonl --model model.nemo", "none.jsonl: no such manifest"),
        ("evaluate torn.jsonl --model model.nemo", "torn.jsonl:2: a torn line"),
        ("evaluate test.jsonl --model model.nemo --decoder beam", "'beam' is not one of 'transducer', 'ctc'"),
        ("evaluate test.jsonl --model model.nemo --look-ahead -1", "-1 is not in the range"),
        ("evaluate --model model.nemo", "missing argument 'MANIFEST'"),
        ("transcribe 112001.wav --model none.nemo", "none.nemo: no such model"),
        ("transcribe none.wav --model model.nemo", "none.wav"),
        ("transcribe page.mp3 --model model.nemo", "page.mp3"),
        ("transcribe . --model model.nemo", "this is a folder"),
        ("transcribe model.nemo 112001.wav", "name the model with --model model.nemo"),
        ("listen run", "name the model with --model run"),
        ("transcribe --model model.nemo", "missing argument 'FILE...'"),
    ],
)
def test_wrong_use_ends_at_once_with_what_is_wrong(
    folder: Path, capsys: pytest.CaptureFixture[str], arguments: str, message: str
) -> None:
    (folder / "torn.jsonl").write_text(
        (folder / "test.jsonl").read_text() + '{"audio_filepath": "112', "utf-8"
    )
    (folder / "page.mp3").write_text("<!DOCTYPE html><html>not found</html>")
    (folder / "run").mkdir()
    (folder / "run" / "recipe.yaml").write_text("{}")
    code, out, err = run(capsys, *arguments.split())
    assert (code, out) == (2, "")
    assert message in err
    assert "Traceback" not in err
    assert "torch" not in err


@pytest.mark.parametrize("command", ["evaluate test.jsonl", "transcribe 112001.wav", "listen 112001.wav"])
def test_without_a_model_the_one_in_the_package_is_used(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    asked: list[Path] = []

    def loaded(model: Path, **_: object) -> None:
        asked.append(Path(model))
        raise QuranAsrError("found")

    monkeypatch.setattr("quran_asr.runtime.recognizer.load", loaded)
    monkeypatch.setattr("quran_asr.runtime.bundle.DEFAULT_MODEL", folder / "default")
    code, out, err = run(capsys, *command.split())
    assert (code, out, asked) == (2, "", [])
    assert err == (
        "error: this installation contains no default model\n"
        "hint: name one with --model: a bundle, a .nemo, a .ckpt or a run folder\n"
    )
    (folder / "default").mkdir()
    (folder / "default" / "bundle.json").write_text("{}")
    assert run(capsys, *command.split())[0] == 2
    assert asked == [folder / "default"]


def test_letters_that_a_reference_lacks_are_reported_by_name(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = {"audio_filepath": "112001.wav", "duration": 1.0, "text": "قل hello"}
    (folder / "foreign.jsonl").write_text(json.dumps(line) + "\n", encoding="utf-8")
    _, out, err = run(capsys, "evaluate", "foreign.jsonl", "--model", "none.nemo")
    assert out == "" and "warning [foreign-letters] foreign.jsonl:1: 1 text has letters" in err
    assert "left out of the reference: `h` `e` `l` `o`" in err


@pytest.mark.parametrize(
    "command", ["evaluate test.jsonl --model model.nemo", "transcribe 112001.wav --model model.nemo"]
)
def test_without_the_training_packages_it_names_what_to_install(folder: Path, command: str) -> None:
    code = (
        "import sys, importlib.util as u; find = u.find_spec; "
        "u.find_spec = lambda name, *rest: None if name == 'torch' else find(name, *rest); "
        "from quran_asr.cli.main import main; main(sys.argv[1:])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *command.split()],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "error: this command needs torch, which the core install does not include\n"
        "hint: pip install 'quran-asr[train]'\n"
    )


@pytest.fixture
def trained(folder: Path) -> Path:
    """A run with a checkpoint by name only."""
    run = folder / "run"
    (run / "checkpoints").mkdir(parents=True)
    (run / "recipe.yaml").write_text("{}")
    (run / "checkpoints" / "small--val_wer=0.2500-step=20.ckpt").write_bytes(b"not opened")
    return run


def test_a_stream_without_a_bundle_names_the_checkpoint_and_what_exports_it(
    trained: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(
        "quran_asr.cli.options.find_spec", lambda name: None if name == "torch" else found(name)
    )
    code, out, err = run(capsys, "evaluate", "test.jsonl", "--model", "run", "--streaming")
    checkpoint = "run/checkpoints/small--val_wer=0.2500-step=20.ckpt"
    assert (code, out) == (2, "")
    assert err == (
        f"error: {checkpoint}: is not a bundle, and to export it this command needs torch, "
        "which the core install does not include\n"
        f"hint: pip install 'quran-asr[train]', or where that is installed: quran-asr export {checkpoint} "
        "--to FOLDER\n"
    )
    next((trained / "checkpoints").iterdir()).unlink()
    code, out, err = run(capsys, "evaluate", "test.jsonl", "--model", "run", "--streaming")
    assert (code, out) == (2, "") and err.startswith("error: run: the run has no checkpoint yet\n")


@pytest.mark.slow
def test_what_goes_wrong_with_a_bundle_that_is_made_for_once_is_reported_of_the_checkpoint(
    trained: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("nemo", reason="a bundle is made with the training packages")
    checkpoint = "run/checkpoints/small--val_wer=0.2500-step=20.ckpt"
    code, out, err = run(capsys, "evaluate", "test.jsonl", "--model", "run", "--streaming")
    assert (code, out) == (2, "")
    message = f"{checkpoint} is not a bundle: it is exported to a temporary one; to keep one: "
    assert f"{message}quran-asr export {checkpoint} --to FOLDER\n" in err
    assert f"error: {checkpoint}: cannot be exported to a bundle: " in err

    def made(model: Path, folder: Path, on_step: object) -> None:
        folder.mkdir()

    def loaded(bundle: Path, **asked: object) -> None:
        raise QuranAsrError("no look-ahead of 90 ms", where=str(bundle), remedy="it has: 80 ms")

    monkeypatch.setattr("quran_asr.export.bundle.export", made)
    monkeypatch.setattr("quran_asr.runtime.recognizer.load", loaded)
    code, out, err = run(capsys, "evaluate", "test.jsonl", "--model", "run", "--streaming")
    assert (code, out) == (2, "")
    assert err.endswith(f"error: {checkpoint}: no look-ahead of 90 ms\nhint: it has: 80 ms\n")


def test_a_bad_file_among_good_ones_is_named_even_when_no_model_can_be_loaded(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "empty.wav").touch()
    code, out, err = run(capsys, "transcribe", "empty.wav", "gone.wav", "--model", "model.nemo")
    assert (code, out) == (2, "")
    assert "empty.wav" in err and "gone.wav" in err and "2 of 2 files could not be transcribed" in err


def report(training: TrainingData | None) -> Report:
    quran = load_quran("diacritized")
    segments = [
        Segment(f"{name}.mp3", 0.0, 3.0, (VerseRef(112, ayah),), quran.verse(VerseRef(112, ayah)), name)
        for name in ("husary", "afasy")
        for ayah in (1, 2, 3)
    ]
    broken = QuranAsrError("the file is empty")
    hypotheses = [segments[0].text, "اللَّهُ", segments[2].text, "قُلْ بَلْ هُوَ اللَّهِ أَحَدٌ", segments[4].text]
    answers = [*(Transcript(text) for text in hypotheses), broken]
    setting = Setting("toy.nemo", "transducer", 80, "diacritized", "simple", "test.jsonl")
    return evaluate(segments, lambda asked: answers, setting, training)[0]


def test_a_report_on_the_screen_has_rates_in_percent_and_what_went_wrong(
    capsys: pytest.CaptureFixture[str],
) -> None:
    quran = load_quran("diacritized")
    known = Segment("a.mp3", 0.0, 1.0, (VerseRef(112, 1),), quran.verse(VerseRef(112, 1)), "husary")
    print_report(report(TrainingData.from_segments([known])))
    out = capsys.readouterr().out
    rows = {line[:26].strip(): line[26:].split() for line in out.splitlines()}
    assert rows["all"][:3] == ["5", "16", "18.75"]  # 3 errors in 4 + 2 + 4 + 4 + 2 words
    assert rows["reciter husary"][:3] == ["3", "10", "10.00"]
    assert rows["seen_reciter/seen_text"][:4] == ["1", "4", "0.00", "-"]
    assert "3 word errors: 2 recognition errors, 1 spelling-only (the letters agree)" in out
    assert "0 clips mostly deleted" in out and "1 unreadable" in out
    assert "clips within 2 reciters" in out and "--trained-on" not in out
    worst = out[out.index("afasy.mp3 at 0 s 112:1") :].splitlines()
    assert worst[1] == "  2 errors in 4 words"
    assert worst[2] == f"  reference:  {quran.verse(VerseRef(112, 1))}"
    words = quran.verse(VerseRef(112, 1)).split()
    assert [line.split() for line in worst[4:6]] == [
        ["insertion", "بَلْ"],
        ["substitution", words[2], "->", words[2].replace("\u064f", "\u0650")],
    ]
    assert "    deletion      " + quran.verse(VerseRef(112, 2)).split()[1] in out


def test_unknown_training_is_reported_with_what_to_do(capsys: pytest.CaptureFixture[str]) -> None:
    print_report(report(None))
    out = capsys.readouterr().out
    assert "training data unknown" in out
    assert "--trained-on" in out


@pytest.mark.parametrize("name", ["report.json", "stress.json"])
def test_a_report_of_something_else_is_not_written_over(name: str, tmp_path: Path, monkeypatch) -> None:
    from types import SimpleNamespace

    from quran_asr.cli.evaluate import _default_folder
    from quran_asr.evaluation.report import Setting

    monkeypatch.chdir(tmp_path)
    recognizer = SimpleNamespace(name="b", training_data=None)

    def folder(manifest: str, language_model: dict[str, object] | None = None) -> Path:
        setting = Setting("b", "ctc", 80, "letters", "simple", manifest, language_model=language_model)
        return _default_folder(recognizer, setting)

    first = folder("one/manifest.jsonl")
    first.mkdir(parents=True)
    (first / name).write_text('{"model": "b", "manifest": "one/manifest.jsonl"}')
    assert folder("one/manifest.jsonl") == first
    assert folder("other/manifest.jsonl") == first.with_name(f"{first.name}--2")

    quran = {"lm": "quran", "passage": None, "lm_weight": 0.5, "token_bonus": 1.0, "rescored": None}
    fused = folder("one/manifest.jsonl", quran)
    assert fused.name == f"{first.name}--lm"
    fused.mkdir()
    report = {"model": "b", "manifest": "one/manifest.jsonl", "language_model": quran}
    (fused / name).write_text(json.dumps(report))
    assert folder("one/manifest.jsonl", quran) == fused
    for other in ({"lm": "my.npz"}, {"lm_weight": 0.7}, {"lm": None, "passage": "78"}, {"rescored": 20}):
        assert folder("one/manifest.jsonl", quran | other) == fused.with_name(f"{fused.name}--2")


class _Hears:
    """Hears nothing, at once."""

    name, decoder, look_ahead_ms, spelling, edition = "model", "ctc", None, "letters", "simple"
    training_data = None

    def recognize_clips(self, segments: list[Segment]) -> list[Transcript]:
        return [Transcript("") for _ in segments]


def evaluated(folder: Path, monkeypatch: pytest.MonkeyPatch, *more: str) -> int:
    monkeypatch.setattr("quran_asr.cli.evaluate.load", lambda *_: _Hears())
    with pytest.raises(SystemExit) as end:
        main(["evaluate", "test.jsonl", "--model", "model.nemo", "--to", "out", *more])
    return int(end.value.code or 0)


def test_the_report_is_written_before_anything_is_printed(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> None:
        raise RuntimeError("a terminal that breaks")

    for name in ("print_report", "print_json"):
        monkeypatch.setattr(f"quran_asr.cli.evaluate.{name}", fails)
    for more in ((), ("--json",)):
        with pytest.raises(RuntimeError):
            evaluated(folder, monkeypatch, *more)
        assert json.loads((folder / "out" / "report.json").read_text())["clips"] == 1
        (folder / "out" / "report.json").unlink()


def test_escapes_in_the_name_of_a_reciter_are_printed_written_out(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    line = {"audio_filepath": "112001.wav", "duration": 1.0, "verses": ["112:1"], "reciter": "\x1b[2Jgone"}
    (folder / "test.jsonl").write_text(json.dumps(line) + "\n")
    assert evaluated(folder, monkeypatch) == 0
    out, _ = capsys.readouterr()
    assert "\x1b" not in out
    assert "\\u001b[2Jgone" in out
    assert evaluated(folder, monkeypatch, "--json") == 0
    assert "\x1b[2Jgone" in json.loads(capsys.readouterr().out)["reciters"]


def test_half_a_character_in_a_manifest_is_refused_before_the_model_is_loaded(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = '{"audio_filepath": "112001.wav", "duration": 1.0, "verses": ["112:1"], "reciter": "\\ud800"}\n'
    (folder / "test.jsonl").write_text(text)
    code, out, err = run(capsys, "evaluate", "test.jsonl", "--model", "model.nemo")
    assert (code, out) == (2, "")
    assert err.startswith("error: test.jsonl:1: ")
    assert "half a character" in err


def test_a_folder_name_that_is_not_utf_8_loses_no_report(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    odd = folder / os.fsdecode(b"odd-\xe4")
    odd.mkdir()
    for name in ("112001.wav", "test.jsonl", "model.nemo"):
        (folder / name).rename(odd / name)
    monkeypatch.chdir(odd)
    assert evaluated(odd, monkeypatch) == 0
    assert json.loads((odd / "out" / "report.json").read_text())["clips"] == 1
    line = json.loads((odd / "out" / "transcripts.jsonl").read_text())
    assert line["audio_filepath"] == str(odd / "112001.wav")
