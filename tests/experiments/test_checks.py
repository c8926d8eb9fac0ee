"""The checks that need no torch, each with a planted fault; and how checks rest on each other."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from quran_asr import audio
from quran_asr.config.recipe import load_recipe
from quran_asr.config.schema import Recipe
from quran_asr.errors import QuranAsrError
from quran_asr.experiments.checks import machine as check_machine
from quran_asr.experiments.checks.data import Data, decodable, read_data
from quran_asr.experiments.checks.leakage import other_names, same_contents, seen_texts, shared_audio
from quran_asr.experiments.checks.machine import disk_space, machine
from quran_asr.experiments.checks.outcome import Outcome, failure, passed, warning
from quran_asr.experiments.checks.preflight import Check, Line, as_json, has_failed, run

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write a manifest of noises: (file, reciter, verse, seconds in the line[, seconds in the file])."""

    def manifest(name: str, *clips: tuple[Any, ...], **keys: Any) -> Path:
        lines = []
        for number, (file, reciter, verse, text, *held) in enumerate(clips):
            path = tmp_path / file
            if not path.exists():
                seconds = held[0] if held else text
                noise = np.random.default_rng(hash((name, number)) % 2**32).normal(
                    0, 0.1, int(16_000 * seconds)
                )
                audio.write(path, noise.astype(np.float32))
            lines.append(
                {"audio_filepath": file, "duration": text, "reciter": reciter, "verses": [verse], **keys}
            )
        place = tmp_path / f"{name}.jsonl"
        place.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
        return place

    return manifest


def recipe_of(training: Path, validation: Path, *overrides: str) -> Recipe:
    return load_recipe(
        "quickstart",
        [
            f"model.train_ds.manifest_filepath={training}",
            f"model.validation_ds.manifest_filepath={validation}",
            *overrides,
        ],
    )


def data_of(training: Path, validation: Path, *overrides: str) -> Data:
    data, outcomes = read_data(recipe_of(training, validation, *overrides))
    assert data is not None, outcomes
    return data


# --- the order --------------------------------------------------------------------------------------


def broken() -> Outcome:
    raise QuranAsrError("is gone", where="a.jsonl", remedy="bring it back")


def test_what_rests_on_a_failure_is_left_out_and_reports_it() -> None:
    printed: list[Line] = []
    checks = [
        Check("first", broken),
        Check("second", lambda: passed("never reached"), needs=("first",)),
        Check("third", lambda: passed("never reached"), needs=("second",)),
        Check("fourth", lambda: [warning("so", "do"), Outcome("pass", "this", code="other")]),
    ]
    lines = run(checks, printed.append)
    assert lines == printed
    assert [(line.code, line.status) for line in lines] == [
        ("first", "failure"),
        ("second", "skipped"),
        ("third", "skipped"),
        ("fourth", "warning"),
        ("other", "pass"),
    ]
    assert lines[0].message == "a.jsonl: is gone"
    assert lines[0].remedy == "bring it back"
    assert "`first`" in lines[1].message
    assert has_failed(lines)
    assert not has_failed(lines[1:])


def test_earlier_lines_count() -> None:
    before = run([Check("first", lambda: failure("no", ""))], lambda line: None)
    assert (
        run([Check("second", lambda: passed(""), ("first",))], lambda line: None, before)[0].status
        == "skipped"
    )


def test_json_has_the_promised_keys() -> None:
    lines = run([Check("first", lambda: warning("so", "do"))], lambda line: None)
    (row,) = as_json("mine.yaml", lines)["checks"]
    assert as_json("mine.yaml", lines)["passed"] is True
    assert set(row) == {"code", "status", "message", "remedy", "seconds"}


# --- manifests and audio ----------------------------------------------------------------------------


def test_all_bad_lines_are_counted_and_the_first_is_named(write: Write) -> None:
    good = write("t", ("a.wav", "r", "112:1", 1.0))
    bad = write("v", ("b.wav", "r", "112:1", 1.0), ("c.wav", "r", "112:2", 1.0))
    with bad.open("a") as file:
        file.write('{"audio_filepath": "nowhere.wav", "duration": 1, "verses": ["1:1"]}\n{"audio')
    data, outcomes = read_data(recipe_of(good, bad))
    assert data is None
    (outcome,) = outcomes
    assert outcome.status == "failure"
    assert "2 of 4 lines" in outcome.message
    assert f"{bad}:3" in outcome.message
    assert "nowhere.wav" in outcome.message


def test_a_sample_is_decoded_the_same_every_time_with_the_longest_clip(write: Write) -> None:
    clips = [(f"{i}.wav", "r", "112:1", 0.5) for i in range(20)]
    data = data_of(
        write("t", *clips, ("long.wav", "r", "112:1", 0.9), ("x.flac", "r", "112:1", 0.5)),
        write("v", ("v.wav", "q", "112:1", 0.5)),
    )
    (outcome,) = decodable(data, 5, seed=0)
    assert outcome.status == "pass"
    decoded = int(outcome.message.split()[0])
    assert 6 <= decoded <= 8  # five, the longest, a flac, and the one of validation
    assert decodable(data, 5, seed=0) == [outcome]
    (whole,) = decodable(data, None, seed=0)
    assert whole.message.startswith("23 of 23")


def test_clips_that_cannot_be_read_warn_and_from_five_percent_fail(write: Write, tmp_path: Path) -> None:
    many = write("t", *((f"{i}.wav", "r", "112:1", 0.3) for i in range(30)))
    data = data_of(many, write("v", ("v.wav", "q", "112:1", 0.3)))
    content = (tmp_path / "7.wav").read_bytes()
    (tmp_path / "7.wav").write_bytes(content[: len(content) // 2])
    (outcome,) = decodable(data, None, seed=0)
    assert outcome.status == "warning"
    assert "7.wav" in outcome.message
    (tmp_path / "8.wav").write_text("no sound")
    (outcome,) = decodable(data, None, seed=0)
    assert outcome.status == "failure"
    assert "2 of 31" in outcome.message


def test_a_line_beyond_the_end_of_its_file_cannot_be_read(write: Write) -> None:
    data = data_of(write("t", ("a.wav", "r", "112:1", 2.0, 1.0)), write("v", ("v.wav", "q", "112:1", 0.5)))
    (outcome,) = decodable(data, None, seed=0)
    assert outcome.status == "failure"
    assert "the stretch ends at 2.00 s" in outcome.message


def test_a_file_longer_than_its_only_line_and_silence_are_reported(write: Write, tmp_path: Path) -> None:
    audio.write(tmp_path / "silent.wav", np.zeros(16_000, dtype=np.float32))
    training = write("t", ("a.wav", "r", "112:1", 1.0, 3.0), ("silent.wav", "r", "112:2", 1.0))
    outcomes = decodable(data_of(training, write("v", ("v.wav", "q", "112:1", 0.5))), None, seed=0)
    silent, longer = outcomes
    assert silent.status == "failure"
    assert "silent.wav" in silent.message
    assert longer.status == "warning"
    assert "has 3.00 s, its line 1.00 s" in longer.message


# --- leakage ----------------------------------------------------------------------------------------


def test_disjoint_splits_pass(write: Write) -> None:
    data = data_of(write("t", ("a.wav", "r", "112:1", 1.0)), write("v", ("b.wav", "q", "112:2", 1.0)))
    contents = same_contents(data)
    assert shared_audio(data, contents).status == "pass"
    assert other_names(data, contents).status == "pass"
    outcome = seen_texts(data)
    assert outcome.status == "pass"
    assert "unseen reciter/unseen text 100 %" in outcome.message


def test_the_same_recording_under_another_path_and_name_is_found(write: Write, tmp_path: Path) -> None:
    training = write("t", ("a.wav", "r", "112:1", 1.0), ("other.wav", "r", "112:2", 1.0))
    shutil.copy(tmp_path / "a.wav", tmp_path / "b.wav")
    (tmp_path / "c.wav").symlink_to(tmp_path / "other.wav")
    data = data_of(training, write("v", ("b.wav", "q", "112:1", 1.0), ("c.wav", "q", "112:2", 1.0)))
    contents = same_contents(data)
    shared = shared_audio(data, contents)
    assert shared.status == "warning"
    assert "2 of 2 (100.0 %)" in shared.message
    assert "2 of them under another path" in shared.message
    names = other_names(data, contents)
    assert names.status == "warning"
    assert "`q` is `r` (the same recordings)" in names.message


def test_stretches_of_one_recording_leak_where_they_overlap(write: Write) -> None:
    training = write("t", ("a.wav", "r", "112:1", 1.0, 4.0), offset=0.0)
    apart = data_of(training, write("v", ("a.wav", "r", "112:2", 1.0), offset=1.05))
    over = data_of(training, write("w", ("a.wav", "r", "112:2", 1.0), offset=0.5))
    assert shared_audio(apart, same_contents(apart)).status == "pass"
    assert shared_audio(over, same_contents(over)).status == "warning"


def test_verses_of_the_same_length_betray_a_reencoded_reciter(write: Write) -> None:
    verses = [f"2:{ayah}" for ayah in range(1, 8)]
    spread = (1.0, 1.31, 0.72, 1.57, 0.93, 1.18, 1.44)
    training = write("t", *((f"t{i}.wav", "r", v, spread[i]) for i, v in enumerate(verses)))
    copy = write("v", *((f"v{i}.wav", "q", v, spread[i] + 0.01) for i, v in enumerate(verses)))
    slower = write("w", *((f"w{i}.wav", "q", v, 1.1 * spread[i]) for i, v in enumerate(verses)))
    data = data_of(training, copy)
    found = other_names(data, same_contents(data))
    assert found.status == "warning"
    assert "verses of the same length" in found.message
    data = data_of(training, slower)
    assert other_names(data, same_contents(data)).status == "pass"


def test_another_spelling_of_a_name_and_no_name_are_reported(write: Write) -> None:
    training = write("t", ("a.wav", "Alafasy_128kbps", "112:1", 1.0))
    data = data_of(training, write("v", ("b.wav", "mishary-alafasy", "112:2", 1.1)))
    assert "`mishary-alafasy` may be `Alafasy_128kbps`" in other_names(data, same_contents(data)).message
    data = data_of(training, write("w", ("c.wav", "", "112:2", 1.1)))
    assert "1 clip without a reciter" in other_names(data, same_contents(data)).message


def test_a_random_split_of_rows_is_reported(write: Write) -> None:
    rows = [(f"{i}.wav", "r", f"112:{1 + i % 4}", 0.5) for i in range(8)]
    outcome = seen_texts(data_of(write("t", *rows[:6]), write("v", *rows[6:])))
    assert outcome.status == "warning"
    assert "seen reciter/seen text 100 %" in outcome.message


# --- the machine ------------------------------------------------------------------------------------


def test_a_full_disk_and_a_folder_that_is_a_file_fail(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    here = load_recipe("quickstart", [f"exp_manager.exp_dir={tmp_path / 'runs'}"])
    inside = load_recipe("quickstart", [f"exp_manager.exp_dir={tmp_path / 'file'}"])
    assert disk_space(here).status == "pass"
    assert "is not a folder" in disk_space(inside).message
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1_000_000))
    assert disk_space(here).status == "failure"
    assert disk_space(here).code == "disk-space"


def test_workers_cores_shared_memory_and_cache(
    write: Write, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    training, validation = write("t", ("a.wav", "r", "112:1", 1.0)), write("v", ("b.wav", "q", "112:1", 1.0))
    data = data_of(training, validation)
    monkeypatch.setattr(check_machine, "available_cores", lambda: 4)
    monkeypatch.setattr(check_machine, "SHARED_MEMORY", tmp_path)
    workers = ("model.train_ds.num_workers=3", "model.validation_ds.num_workers=3")
    assert [o.status for o in machine(recipe_of(training, validation, *workers), data)] == ["pass"]
    (many,) = machine(recipe_of(training, validation, "model.train_ds.num_workers=9"), data)
    assert "9 workers load data on 4 cores" in many.message
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1_000_000))
    (shared,) = machine(recipe_of(training, validation, *workers), data)
    assert "bus error" in shared.message
    monkeypatch.setattr(check_machine, "available_memory", lambda: 10_000)
    (cache,) = machine(recipe_of(training, validation), data)
    assert "more free memory" in cache.remedy
    monkeypatch.setattr(check_machine, "available_memory", lambda: 10**9)
    (cache,) = machine(recipe_of(training, validation, "quran.audio_cache_gb=0"), data)
    assert "quran.audio_cache_gb=0.1" in cache.remedy


def test_letters_that_spelling_leaves_out_are_reported(write: Write) -> None:
    training = write("t", ("a.wav", "A", "112:1", 3.0), text="hello قل world")
    _, outcomes = read_data(recipe_of(training, write("v", ("b.wav", "B", "112:2", 3.0))))
    foreign = {outcome.code: outcome for outcome in outcomes}["foreign-letters"]
    assert foreign.status == "warning"
    assert f"{training}:1" in foreign.message and "`h`" in foreign.message


def test_what_a_plan_notes_is_shown_as_a_note_with_its_hint(capsys: pytest.CaptureFixture[str]) -> None:
    from quran_asr.cli.training_setup import show_line
    from quran_asr.errors import Finding
    from quran_asr.experiments.checks.outcome import of_finding

    note = of_finding(Finding("note", "few-steps", "trainer.max_epochs", "few", "trainer.max_epochs=9"))
    for line in run([Check("recipe", lambda: note)], lambda line: None):
        show_line(line)
    assert capsys.readouterr().out.split() == [
        *("note", "few-steps", "trainer.max_epochs:", "few", "hint:", "trainer.max_epochs=9")
    ]


def test_one_of_a_kind_is_not_a_plural(write: Write) -> None:
    one = data_of(write("t", ("a.wav", "A", "112:1", 3.0)), write("v", ("b.wav", "B", "112:2", 3.0)))
    assert "1 clip for training" in one.described and "1 reciter)" in one.described


def test_a_silent_clip_is_sent_to_the_audit_which_detects_silence(write: Write, tmp_path: Path) -> None:
    audio.write(tmp_path / "a.wav", np.zeros(48_000, np.float32))
    data = data_of(write("t", ("a.wav", "A", "112:1", 3.0)), write("v", ("b.wav", "B", "112:2", 3.0)))
    assert "corpus audit" in decodable(data, None, 0)[0].remedy
