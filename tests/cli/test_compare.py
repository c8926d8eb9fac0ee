"""`quran-asr compare`: recipes trained as processes, runs, reports, and all runs of a folder."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from quran_asr.cli.main import main
from quran_asr.config.recipe import load_recipe
from quran_asr.corpus.manifest import read_manifest
from quran_asr.corpus.synthesis import synthesize_corpus
from quran_asr.errors import QuranAsrError
from quran_asr.evaluation.evaluate import write_report
from quran_asr.evaluation.report import ScoredClip, Setting, make_report
from quran_asr.evaluation.scoring import score_clips
from quran_asr.experiments.comparison.studies import STUDIES, Part, Pretraining, Study, prepare
from quran_asr.experiments.comparison.trials import (
    Conditions,
    Question,
    keep_question,
    trials_of,
)
from quran_asr.experiments.comparison.variants import differences, make_variants
from quran_asr.experiments.run_folder import RunFolder, create_run, runs_below
from quran_asr.records import Segment, VerseRef

sys.path.insert(0, str(Path(__file__).parents[1]))
from processor import allowed

COMMAND = [sys.executable, "-m", "quran_asr", "compare", "recipes"]
TINY = (
    *("model.encoder.n_layers=1", "model.encoder.d_model=32", "model.encoder.n_heads=2"),
    *("model.encoder.subsampling_conv_channels=8", "model.decoder.prednet.pred_hidden=16"),
    *("model.joint.jointnet.joint_hidden=16", "model.decoding.greedy.max_symbols=1"),
    *("quran.vocabulary_size=48", "quran.curriculum=null", "quran.overfit_gate_steps=0"),
    *("model.optim.sched.warmup_steps=5", "trainer.log_every_n_steps=1"),
)

"""Overrides of `quickstart` for a model that trains in seconds and learns nothing."""
REFERENCE = "قل هو الله أحد"


def compare(*words: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(["compare", *words])
    assert isinstance(ended.value.code, int)
    return ended.value.code


def scored(hypotheses: Sequence[str], reciter: str = "somebody") -> list[ScoredClip]:
    scores = score_clips([[REFERENCE]] * len(hypotheses), hypotheses, "letters")
    return [
        ScoredClip(
            Segment(f"/data/{reciter}/{place}.flac", 0.0, 2.0, (VerseRef(112, 1),), REFERENCE, reciter), score
        )
        for place, score in enumerate(scores)
    ]


def a_run(folder: Path, day: int, *overrides: str, slope: float = 0.5, data: str = "aaaa") -> RunFolder:
    """A run of 10 validations whose WER falls by `slope` in all; its last has 1 of 4 words wrong."""
    run = create_run(folder, "quickstart", datetime(2026, 1, 1) + timedelta(days=day))
    run.write_recipe(load_recipe("quickstart", ["model.validation_ds.manifest_filepath=v.jsonl", *overrides]))
    facts = {"path": "/data/train.jsonl", "sha256": data, "clips": 10, "hours": 1.5}
    run.write_json("training_data.json", {"manifests": [facts], "reciters": [], "verses": [], "texts": []})
    for step in range(200, 2001, 200):
        row = {"step": step, "epoch": step // 300, "time": step / 10, "split": "validation"}
        run.append_metrics({**row, "wer": 1 - slope * step / 2000, "ctc_wer": 0.9})
    return run


def a_report(folder: Path, hypotheses: Sequence[str], **setting: Any) -> Path:
    values = {
        "model": "m.nemo",
        "decoder": "ctc",
        "look_ahead_ms": 0,
        "spelling": "letters",
        "edition": "simple",
    }
    clips = scored(hypotheses)
    write_report(folder, make_report(clips, Setting(**{**values, **setting})), clips)
    return folder


# Recipes


@pytest.fixture(scope="module")
def spoken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    refs = [VerseRef(112, ayah) for ayah in (1, 2)]
    return synthesize_corpus(refs, ["ar", "ar+m1"], tmp_path_factory.mktemp("spoken"), seed=0)


@pytest.mark.slow
def test_a_killed_comparison_continues_and_loses_nothing(spoken: Path, tmp_path: Path) -> None:
    folder = tmp_path / "comparison"
    words = [*COMMAND, "quickstart", "quickstart model.optim.lr=0.01"]
    words += ["--train", str(spoken), "--validation", str(spoken), "--to", str(folder), "--seeds", "1"]
    words += [*TINY, "trainer.max_steps=20", "trainer.val_check_interval=2"]
    first = folder / "trials" / "quickstart" / "seed-0"
    log = (tmp_path / "stderr.txt").open("w")
    begun = subprocess.Popen(words, stdout=log, stderr=log)
    until = time.monotonic() + 600
    while True:
        assert begun.poll() is None, (tmp_path / "stderr.txt").read_text()
        assert time.monotonic() < until
        runs = runs_below(first)
        if runs and runs[0].last_checkpoint() and len(runs[0].read_metrics()) > 4:
            break
        time.sleep(0.05)
    begun.send_signal(signal.SIGKILL)
    begun.wait()
    assert not (first / "ended.json").read_text()
    made = len(runs[0].read_metrics())

    done = subprocess.run([*words, "--json"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "quickstart, seed 0: continues" in done.stderr
    (run,) = runs_below(first)  # no second one was begun
    rows = run.read_metrics()
    assert made < len(rows)
    for split, steps in (("train", range(1, 21)), ("validation", range(2, 21, 2))):
        assert [row["step"] for row in rows if row["split"] == split] == list(steps)
    result = json.loads(done.stdout)
    assert [variant["seeds"] for variant in result["variants"]] == [[0], [0]]
    assert result["variants"][1]["differs_from_first"] == ["model.optim.lr: 0.001 -> 0.01"]
    assert result["variants"][0]["wer"]["100%"]["mean"] == pytest.approx(rows[-1]["wer"], abs=1e-5)
    assert result["budget"] == {"unit": "optimizer step", "amount": 20}
    assert (folder / "wer.png").read_bytes()[:4] == b"\x89PNG"

    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*.jsonl")}
    again = subprocess.run([*COMMAND, "--to", str(folder)], capture_output=True, text=True, check=False)
    assert again.returncode == 0 and "2 of 2 trials found" in again.stderr
    assert "quickstart model.optim.lr=0.01" in again.stdout
    assert before == {path: path.stat().st_mtime_ns for path in folder.rglob("*.jsonl")}


@pytest.mark.slow
def test_a_study_pretrains_and_hands_its_run_on(tmp_path: Path) -> None:
    study = Study(
        parts={"old": Part(("ar",), 0), "new": Part(("ar+m1",), 1)},
        variants=(("quickstart",), ("quickstart", "init_from_pretrained_model={pretrained}")),
        train="new",
        validation="old",
        shared=(*TINY, "trainer.max_steps=3", "trainer.val_check_interval=3"),
        pretraining=Pretraining(("quickstart", "quran.spelling=diacritized"), "old", "old"),
        verses=(VerseRef(112, 1), VerseRef(112, 2)),
    )
    random, started = prepare(study, tmp_path, [], Conditions())
    (run,) = runs_below(tmp_path / "pretraining")
    assert random.recipe.init_from_pretrained_model is None
    assert started.recipe.init_from_pretrained_model == str(run.path)
    assert (run.best_nemo(), load_recipe(run.recipe).quran.spelling) != (None, "letters")
    assert random.recipe.model.train_ds.manifests == (str(tmp_path / "corpus" / "new" / "manifest.jsonl"),)
    again = prepare(study, tmp_path, [], Conditions())  # nothing is done twice
    assert again == [random, started] and len(runs_below(tmp_path / "pretraining")) == 1


def test_manifests_are_looked_at_before_budgets(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("m.jsonl").write_text('{"audio_filepath": "none.flac", "duration": 1.0, "text": "قل"}\n', "utf-8")
    Path("broken.jsonl").write_text("garbage\n", "utf-8")
    unlike = ("quickstart", "quickstart trainer.max_steps=7")
    for data, message in (
        (("--train", "nope", "--validation", "m.jsonl"), "nope"),
        (("--train", "m.jsonl", "--validation", "broken.jsonl"), "broken.jsonl:1"),
        (("--train", "m.jsonl"), "no manifest is named with --validation"),
        (("--train", "m.jsonl", "--validation", "m.jsonl"), "trainer.max_steps"),
    ):
        assert compare("recipes", *unlike, *data) == 2
        assert message in capsys.readouterr().err


def test_a_trial_that_cannot_begin_explains_why(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    manifest = tmp_path / "m.jsonl"
    manifest.write_text('{"audio_filepath": "none.flac", "duration": 1.0, "text": "قل"}\n', encoding="utf-8")
    data = ["--train", str(manifest), "--validation", str(manifest), "--to", str(tmp_path / "to")]
    assert compare("recipes", "quickstart", "quickstart model.optim.lr=0.01", *data) == 2
    message = capsys.readouterr().err
    assert "the trial `quickstart, seed 0` ended with code" in message and "train.log" in message
    assert message.splitlines()[-1].startswith("hint: give the same command again")


@pytest.mark.slow
def test_a_trial_that_failed_late_is_reported_and_the_others_count(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = tmp_path / "m.jsonl"
    manifest.write_text('{"audio_filepath": "none.flac", "duration": 1.0, "text": "قل"}\n', encoding="utf-8")
    data = [f"model.{key}.manifest_filepath={manifest}" for key in ("train_ds", "validation_ds")]
    question = Question(
        tuple(make_variants([["quickstart"], ["quickstart", "model.optim.lr=0.01"]], data)), 2
    )
    keep_question(tmp_path / "to", question)
    for trial in trials_of(tmp_path / "to", question):
        run = a_run(trial.folder, 0, *data, f"quran.seed={trial.seed}", slope=0.5)
        if (trial.variant, trial.seed) == (question.variants[1], 1):
            (run.checkpoints / "last.ckpt").write_bytes(b"torn")  # it was validated, and cannot go on
        else:
            (trial.folder / "ended.json").write_text('{"interrupted": false, "stopped_by": null}')
    assert compare("recipes", "--to", str(tmp_path / "to"), "--json") == 1
    out, message = capsys.readouterr()
    assert [variant["seeds"] for variant in json.loads(out)["variants"]] == [[0, 1], [0]]
    assert "error [trial-failed] quickstart model.optim.lr=0.01, seed 1: " in message
    assert "last.ckpt: is damaged (torn, or not a checkpoint)" in message
    assert "it is excluded from all figures" in message
    assert "the same command runs it again" in message


def described(heading: str) -> set[str]:
    """Everything in backticks and quotes under a heading of formats.md, and what lies below it."""
    formats = (Path(__file__).parents[2] / "docs" / "reference" / "formats.md").read_text(encoding="utf-8")
    text = formats.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    return set(re.findall(r'[`"]([\w.%]+)[`"]', text))


def keys_of(value: Any) -> set[str]:
    if isinstance(value, dict):
        return set(value).union(*map(keys_of, value.values()))
    return set().union(*map(keys_of, value)) if isinstance(value, list) else set()


def test_every_key_of_the_result_is_described(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = [a_run(tmp_path, 0), a_run(tmp_path, 1, "model.optim.lr=0.01", slope=0.8)]
    reports = [
        a_report(tmp_path / name, [REFERENCE, hypothesis])
        for name, hypothesis in (("a", "قل"), ("b", REFERENCE))
    ]
    from_report = set(make_report(scored([REFERENCE]), Setting("m", "ctc", 0, "letters", "simple")).to_json())
    for words in (
        ["runs", *(str(run.path) for run in runs)],
        ["reports", *(str(one) for one in reports)],
        ["list", str(tmp_path)],
    ):
        assert compare(*words, "--json") == 0
        found = keys_of(json.loads(capsys.readouterr().out)) - from_report
        assert len(found) > 5 and found - described("Comparison") == set()


@pytest.mark.slow
def test_a_folder_of_somebody_elses_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "to").mkdir()
    (tmp_path / "to" / "notes.txt").write_text("mine")
    runs = [str(a_run(tmp_path, 0).path), str(a_run(tmp_path, 1, "model.optim.lr=0.01").path)]
    manifest = tmp_path / "m.jsonl"
    manifest.write_text('{"audio_filepath": "none.flac", "duration": 1.0, "text": "قل"}\n', encoding="utf-8")
    data = ["--train", str(manifest), "--validation", str(manifest)]
    for words in (["runs", *runs], ["recipes", "quickstart", "quickstart model.optim.lr=0.01", *data]):
        assert compare(*words, "--to", str(tmp_path / "to")) == 2
        assert "is not empty, and no comparison" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "to").iterdir()] == ["notes.txt"]
    for _ in range(2):  # its own folder is taken again
        assert compare("runs", *runs, "--to", str(tmp_path / "own")) == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--study", "augmentation"], "needs recordings of your own"),
        (["--study", "augmentation", "--train", "t.jsonl"], "needs recordings of your own"),
        (["--study", "augmentation", "--train", "t.jsonl", "--validation", "v.jsonl"], "t.jsonl"),
        (["--study", "pretraining", "--train", "t.jsonl"], "its own recipes and data"),
        (["--study", "voices"], "needs recordings of your own"),
        (["--study", "augmentation", "laptop"], "its own recipes and data"),
        (["--study", "augmentation", "--anyway"], "its own recipes and data"),
    ],
)
def test_a_study_has_its_data_or_takes_yours(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    assert compare("recipes", *words) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.rglob("*.yaml"))


def test_what_the_variants_of_a_study_differ_in_is_not_overridden(tmp_path: Path) -> None:
    study = Study(variants=(("quickstart",), ("quickstart", "quran.augment.gain_db=6")), shared=())
    for word in ("quran.augment.gain_db=5", "~quran.augment", "quran.augment={gain_db: 1}"):
        with pytest.raises(QuranAsrError, match="the variants of this study differ in"):
            prepare(study, tmp_path, [word], Conditions())


def recited(folder: Path, minutes: Sequence[int]) -> str:
    """A manifest of so many reciters, each with clips of 12 s of his first verses, five a minute."""
    audio = folder / "a.wav"
    audio.write_bytes(b"")
    lines = [
        {"audio_filepath": str(audio), "duration": 12.0, "verses": [f"2:{verse}"], "reciter": f"r{minute:02}"}
        for minute in minutes
        for verse in range(1, 5 * minute + 1)
    ]
    manifest = folder / "given.jsonl"
    manifest.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return json.dumps([str(manifest)])


def test_subsets_of_voices_have_equal_hours(tmp_path: Path) -> None:
    given = recited(tmp_path, [1, 6, 8, 10, 12, 14])
    words = [f"model.{key}.manifest_filepath={given}" for key in ("train_ds", "validation_ds")]
    variants = prepare(STUDIES["voices"], tmp_path, words, Conditions())
    assert [variant.name for variant in variants] == ["2 voices", "4 voices", "5 voices"]  # one has a minute
    assert [change.key for change in differences(variants[0].recipe, variants[2].recipe)] == [
        "model.train_ds.manifest_filepath"
    ]
    before: set[str] = set()
    for variant in variants:
        (manifest,) = variant.recipe.model.train_ds.manifests
        clips = read_manifest(manifest, "letters")
        seconds = Counter(clip.reciter for clip in clips)
        # 2 x 8 minutes: the third and the fourth most could have been drawn too
        assert sum(seconds.values()) == 80 and len(set(seconds.values())) == 1
        assert len(seconds) == int(variant.name.split()[0]) and before <= set(seconds)
        assert len({clip.verses for clip in clips}) >= 50 or len(seconds) < 4
        before = set(seconds)
    assert prepare(STUDIES["voices"], tmp_path, words, Conditions()) == variants


@pytest.mark.parametrize(
    ("minutes", "change", "message"),
    [([1, 2, 3], "r01", "have 3 reciters"), ([1, 2, 3, 4], "", "names no reciter")],
)
def test_subsets_of_voices_need_reciters(
    minutes: list[int], change: str, message: str, tmp_path: Path
) -> None:
    given = recited(tmp_path, minutes)
    manifest = Path(json.loads(given)[0])
    manifest.write_text(manifest.read_text("utf-8").replace("r01", change), "utf-8")
    with pytest.raises(QuranAsrError, match=message):
        prepare(STUDIES["voices"], tmp_path, [f"model.train_ds.manifest_filepath={given}"], Conditions())
    assert not (tmp_path / "corpus").exists()


def test_an_unknown_study_names_those_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    assert compare("recipes", "--study", "sleep") == 2
    assert "pretraining, initialization" in capsys.readouterr().err


# Runs


def test_runs_are_compared_and_seeds_are_taken_together(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = [
        a_run(tmp_path, 0, slope=0.50),
        a_run(tmp_path, 1, "quran.seed=1", slope=0.52),
        a_run(tmp_path, 2, "model.optim.lr=0.01", slope=0.90),
        a_run(tmp_path, 3, "model.optim.lr=0.01", "quran.seed=1", slope=0.92),
    ]
    assert compare("runs", *(str(run.path) for run in runs), "--json", "--to", str(tmp_path / "out")) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["kind"] == "runs" and [variant["seeds"] for variant in result["variants"]] == [
        [0, 1],
        [0, 1],
    ]
    assert result["variants"][0]["wer"]["100%"]["mean"] == pytest.approx(0.49)
    assert result["variants"][1]["differs_from_first"] == ["model.optim.lr: 0.001 -> 0.01"]
    # 1 - .9x = .5 and 1 - .92x = .48: at .5556 and .5652 of the budget
    times = result["variants"][1]["against_first"]["times_fewer"]
    assert times["seeds"] == pytest.approx([0.90 / 0.50, 0.92 / 0.52], abs=1e-5)
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "Against quickstart/2026-01-01_00-00-00" in page and "data:image/png" in page
    assert compare("runs", *(str(run.path) for run in runs)) == 0
    assert "times fewer" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"data": "bbbb"}, "has other training data than"),
        (
            {"overrides": ("model.validation_ds.manifest_filepath=w.jsonl",)},
            "has other validation clips than",
        ),
        ({"overrides": ("quran.spelling=uthmani",)}, "has other spelling than"),
    ],
)
def test_unlike_runs_are_refused_unless_they_are_wanted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], other: dict[str, Any], message: str
) -> None:
    first = a_run(tmp_path, 0)
    second = a_run(
        tmp_path, 1, "model.optim.lr=0.01", *other.get("overrides", ()), data=other.get("data", "aaaa")
    )
    assert compare("runs", str(first.path), str(second.path)) == 2
    assert message in capsys.readouterr().err
    assert compare("runs", str(first.path), str(second.path), "--anyway") == 0


def test_runs_with_other_clips_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = [a_run(tmp_path, 0), a_run(tmp_path, 1, "model.optim.lr=0.01")]
    for run, hypotheses in zip(runs, ([REFERENCE, REFERENCE], [REFERENCE]), strict=True):
        write_report(
            run.path,
            make_report(scored(hypotheses), Setting("m", "ctc", 0, "letters", "simple")),
            scored(hypotheses),
        )
    (runs[0].path / "report.json").unlink()
    assert compare("runs", str(runs[0].path), str(runs[1].path)) == 2
    assert "has other validation clips" in capsys.readouterr().err


# Reports


def test_reports_are_set_beside_each_other_clip_by_clip(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    worse = a_report(tmp_path / "a", ["قل هو الله", "قل", REFERENCE, "قل هو"])
    better = a_report(tmp_path / "b", [REFERENCE, "قل هو", REFERENCE, "قل هو الله"])
    assert compare("reports", str(worse), str(better / "report.json"), "--json") == 0
    result = json.loads(capsys.readouterr().out)
    beside = result["variants"][1]["against_first"]
    assert (beside["clips"], beside["wer"]) == (4, [6 / 16, 3 / 16])
    assert (beside["difference"], beside["ratio"]) == (-3 / 16, 0.5)
    assert beside["difference_interval"][1] <= 0
    assert compare("reports", str(worse), str(better)) == 0
    assert "x 0.50" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("setting", "hypotheses", "message"),
    [
        ({"spelling": "uthmani"}, [REFERENCE], "spelling letters and uthmani"),
        ({"edition": "uthmani"}, [REFERENCE], "edition simple and uthmani"),
        ({"decoder": "transducer"}, [REFERENCE], "decoder ctc and transducer"),
        ({}, [REFERENCE, REFERENCE], "1 and 2 clips, 1 of them the same"),
    ],
)
def test_unlike_reports_are_refused_unless_they_are_wanted(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    setting: dict[str, Any],
    hypotheses: list[str],
    message: str,
) -> None:
    first, second = a_report(tmp_path / "a", [REFERENCE]), a_report(tmp_path / "b", hypotheses, **setting)
    assert compare("reports", str(first), str(second)) == 2
    assert message in capsys.readouterr().err
    assert compare("reports", str(first), str(second), "--anyway") == 0
    assert message in capsys.readouterr().err  # and it is still reported


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("clips", "x"),
        ("clips", True),
        ("wer", "0.1"),
        ("wer_interval", [0, "1"]),
        ("model", 7),
        ("hours", None),
    ],
)
def test_a_report_with_a_wrong_value_is_named_with_its_key(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], key: str, value: object
) -> None:
    first, second = (a_report(tmp_path / name, [REFERENCE]) / "report.json" for name in "ab")
    second.write_text(json.dumps({**json.loads(second.read_text(encoding="utf-8")), key: value}))
    assert compare("reports", str(first), str(second)) == 2
    out, message = capsys.readouterr()
    assert out == "" and f"{second}: `{key}` is not " in message


def test_another_look_ahead_is_compared_and_reported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = (a_report(tmp_path / str(ms), [REFERENCE, "قل"], look_ahead_ms=ms) for ms in (0, 1040))
    (second / "transcripts.jsonl").unlink()
    assert compare("reports", str(first), str(second)) == 0
    message = capsys.readouterr().err
    assert "look_ahead_ms 0 and 1040" in message and "transcripts.jsonl is not beside" in message


def test_kinds_are_not_mixed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, report = a_run(tmp_path, 0), a_report(tmp_path / "r", [REFERENCE])
    for words, message in (
        (["recipes", str(run.path), str(report)], "is a run, not a recipe"),
        (["recipes", "quickstart", str(report)], "is a report, not a recipe"),
        (["runs", str(run.path), str(run.path)], "is named twice"),
        (["runs", str(run.path)], "nothing to compare with"),
        (["reports", str(report)], "nothing to compare with"),
        (["runs", str(report), str(run.path)], str(report)),
        (["reports", str(run.path), str(report)], "no report.json here"),
        (["recipes", str(tmp_path)], "compare list"),
        (["recipes"], "nothing to compare with"),
        (["recipes", "--to", str(tmp_path / "none")], "holds no comparison"),
    ):
        assert compare(*words) == 2
        assert message in capsys.readouterr().err, words


# All runs


@pytest.mark.slow
@pytest.mark.alone
def test_fifty_runs_are_listed_at_once_and_without_torch(tmp_path: Path) -> None:
    for day in range(50):
        a_run(tmp_path, day, f"quran.seed={day}")
    code = (
        "import json, sys, time; begun = time.process_time()\n"
        "from quran_asr.cli.main import main\n"
        "try: main(json.loads(sys.argv[1]))\n"
        "finally: print(json.dumps([time.process_time() - begun, sorted(sys.modules)]), file=sys.stderr)"
    )
    words = [sys.executable, "-c", code, json.dumps(["compare", "list", str(tmp_path), "--json"])]
    # Compiled once as for everybody, even where the tests themselves are set to write no bytecode.
    compiled = {"PYTHONPYCACHEPREFIX": str(tmp_path.parent / "compiled"), "PYTHONDONTWRITEBYTECODE": ""}
    fastest, limit = 9.0, allowed(0.5)
    for _ in range(3):
        done = subprocess.run(
            words, capture_output=True, text=True, check=True, env={**os.environ, **compiled}
        )
        seconds, modules = json.loads(done.stderr.splitlines()[-1])
        fastest = min(fastest, seconds)
        assert {"torch", "numpy", "matplotlib"} & set(modules) == set()
        if fastest < limit:
            break
    runs = json.loads(done.stdout)["runs"]
    assert len(runs) == 50 and runs[-1]["changes"] == ["quran.seed: 48 -> 49"]
    assert fastest < limit


def test_the_table_of_all_runs_numbers_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a_run(tmp_path, 0)
    a_run(tmp_path, 1, "quran.initialization=nemo", slope=0.75)
    assert compare("list", str(tmp_path)) == 0
    _, first, second = capsys.readouterr().out.splitlines()
    assert first.split()[:2] == ["1", "quickstart/2026-01-01_00-00-00"] and "and" in first
    assert re.search(r" 1 +quran\.initialization: data -> nemo$", second) and " 0.2500 " in second
    assert compare("list", str(tmp_path), "quickstart") == 2
