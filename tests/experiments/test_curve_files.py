"""Curves read from run folders, event files and CSVs, and what is reported of files that hold none."""

from __future__ import annotations

import json
import random
import sys
from datetime import datetime
from pathlib import Path

import pytest

from quran_asr.config.recipe import load_recipe
from quran_asr.errors import QuranAsrError
from quran_asr.experiments.curve_files import read_curves
from quran_asr.experiments.curves import Point
from quran_asr.experiments.run_folder import create_run

pytest.importorskip("tensorboard")


def write_events(file: Path, scalars: dict[str, dict[int, float]], began: float = 1000.0) -> Path:
    """An event file as TensorBoard's own writer makes it: tag -> step -> value, a second a step."""
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.summary.writer.event_file_writer import EventFileWriter

    file.parent.mkdir(parents=True, exist_ok=True)
    before = set(file.parent.glob("*tfevents*"))
    writer = EventFileWriter(str(file.parent))
    for tag, points in scalars.items():
        for step, value in points.items():
            summary = Summary(value=[Summary.Value(tag=tag, simple_value=value)])
            writer.add_event(Event(wall_time=began + step, step=step, summary=summary))
    writer.close()
    (written,) = set(file.parent.glob("*tfevents*")) - before
    return written.rename(file)


def test_stock_tags_of_nemo_become_our_keys(tmp_path: Path) -> None:
    write_events(
        tmp_path / "events.out.tfevents.100.vm",
        {
            "train_loss": {9: 50.0, 19: float("nan")},
            "train_ctc_loss": {9: 40.0},
            "learning_rate": {9: 1e-3},
            "training_batch_wer": {19: 0.9},
            "val_wer": {19: 0.8},
            "val_wer_ctc": {19: 0.85},
            "val_loss": {19: 60.0},
            "global_step": {9: 9.0, 19: 19.0},
            "epoch": {9: 0.0, 19: 1.0},
        },
    )
    curves = read_curves(tmp_path)
    assert curves.recipe is None
    assert set(curves.training) == {"loss", "ctc_loss", "learning_rate"}
    assert set(curves.validation) == {"wer", "ctc_wer", "loss", "train_wer"}
    assert curves.training["loss"] == (Point(9, 50.0, 0.0, 0.0), Point(19, None, 1.0, 10.0))
    assert (curves.steps, curves.epoch) == (19, 1.0)


def test_a_resumed_nemo_run_is_one_curve_and_the_later_session_wins(tmp_path: Path) -> None:
    write_events(tmp_path / "run_0/events.out.tfevents.100.vm", {"val_wer": {10: 0.9, 20: 0.8, 30: 0.7}})
    write_events(tmp_path / "events.out.tfevents.200.vm", {"val_wer": {20: 0.6, 25: 0.5}}, began=2000.0)
    assert [(p.step, round(p.value or 0, 2)) for p in read_curves(tmp_path).validation["wer"]] == [
        (10, 0.9), (20, 0.6), (25, 0.5),
    ]  # fmt: skip


def test_a_folder_of_several_runs_asks_for_one(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_events(tmp_path / name / "events.out.tfevents.100.vm", {"val_wer": {10: 0.9}})
    with pytest.raises(QuranAsrError, match="holds 2 runs"):
        read_curves(tmp_path)
    assert read_curves(tmp_path / "a").name == "a"


def test_bytes_that_are_not_events_are_one_line(tmp_path: Path) -> None:
    """Torn and flipped copies of a whole file: what is left of it is read, or one error is reported."""
    whole = write_events(tmp_path / "events.out.tfevents.100.vm", {"val_wer": dict.fromkeys(range(50), 0.5)})
    good = whole.read_bytes()
    draw = random.Random(0)
    for number in range(40):
        bad = bytearray(good[: draw.randrange(len(good))])
        for _ in range(draw.randrange(4)):
            if bad:
                bad[draw.randrange(len(bad))] = draw.randrange(256)
        place = tmp_path / f"bad{number}" / "events.out.tfevents.100.vm"
        place.parent.mkdir()
        place.write_bytes(bytes(bad))
        try:
            assert read_curves(place).steps < 50
        except QuranAsrError as error:
            assert "\n" not in error.what


def test_without_tensorboard_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "events.out.tfevents.100.vm").write_bytes(b"")
    for name in [name for name in sys.modules if name.startswith("tensorboard")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "tensorboard", None)  # as if it were not installed
    with pytest.raises(QuranAsrError, match=r"quran-asr\[plot\]"):
        read_curves(tmp_path)


def test_our_own_run_brings_its_recipe_and_what_arrived(tmp_path: Path) -> None:
    run = create_run(tmp_path, "transfer", datetime(2026, 11, 24))
    run.write_recipe(load_recipe("transfer"))
    run.write_json("transfer.json", {"encoder_share": 0.97})
    base = {"step": 10, "epoch": 0, "time": 5.0}
    run.append_metrics({**base, "split": "train", "loss": 3.0, "transducer_loss": None})
    run.append_metrics({**base, "split": "validation", "wer": float("nan")})
    with run.metrics.open("a") as file:
        file.write('{"step": 20, "spl')  # torn: it is being written
    for path in (run.path, run.metrics):
        curves = read_curves(path)
        assert curves.recipe == load_recipe("transfer")
        assert curves.encoder_share == 0.97
        assert curves.training == {"loss": (Point(10, 3.0, 0.0, 5.0),)}  # CTC alone is no NaN
        assert curves.validation == {"wer": (Point(10, None, 0.0, 5.0),)}


def test_csv_with_our_keys_nemos_tags_and_gaps(tmp_path: Path) -> None:
    file = tmp_path / "metrics.csv"
    file.write_text("epoch,step,train_loss,val_wer,wer_of_mine\n0,10,50,,1\n0,20,nan,,2\n1,30,,0.7,3\n")
    curves = read_curves(file)
    assert [p.value for p in curves.training["loss"]] == [50.0, None]
    assert curves.validation["wer"] == (Point(30, 0.7, 1.0, None),)
    assert set(curves.training) == {"loss", "wer_of_mine"}


def test_csv_with_a_split_column_and_one_saved_from_tensorboard(tmp_path: Path) -> None:
    split = tmp_path / "a.csv"
    split.write_text("step,split,loss,wer\n1,train,9,\n2,validation,8,0.5\n")
    curves = read_curves(split)
    assert [p.value for p in curves.training["loss"]] == [9.0]
    assert [p.value for p in curves.validation["loss"]] == [8.0]
    saved = tmp_path / "run-.-tag-val_wer.csv"
    saved.write_text("Wall time,Step,Value\n1700000000.5,5,0.25\n")
    assert [p.value for p in read_curves(saved).validation["wer"]] == [0.25]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("a,b\n1,2\n", "no column `step`"),
        ("step,val_wer\n1,often\n", "`often` is not a number"),
        ("step,val_wer\n,0.5\n", "has no step"),
        ("step,val_wer\n", "holds no numbers"),
        ("step,val_wer\nstep,val_wer\n", "holds no numbers"),
        ("step,val_wer\n1,0.5\nstep,val_loss,val_wer\n", "x.csv:3: is a second header, with other columns"),
        ("val_wer,epoch\n0.5,1\nval_loss,epoch\n", "x.csv:3: is a second header, with other columns"),
    ],
)
def test_a_csv_that_is_none_is_one_line(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "x.csv").write_text(text)
    with pytest.raises(QuranAsrError, match=message):
        read_curves(tmp_path / "x.csv")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("step,val_wer\n0,0.5\n10,-0.1\n", "`val_wer` is below 0 at step 10"),
        ("step,val_wer,val_wer\n0,0.5,0.6\n", "two columns `val_wer`"),
    ],
)
def test_rates_that_cannot_be_are_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(QuranAsrError, match=message):
        read_curves(tmp_path / "a.csv")


def test_a_header_that_is_there_again_is_no_row(tmp_path: Path) -> None:
    """Of a log that a later session was appended to; a step made twice counts as the later session has it."""
    file = tmp_path / "x.csv"
    for header, text in (
        ("step,val_wer", "1,0.9\n2,0.8\n{}\n2,0.7\n3,0.6\n"),
        ("|Step|Wer|", "|1|0.9|\n{}\n|3|0.6|\n"),
    ):
        file.write_text(f"{header}\n{text.format(header)}")
        points = [(point.step, point.value) for point in read_curves(file).validation["wer"]]
        assert points == ([(1, 0.9), (2, 0.7), (3, 0.6)] if "," in header else [(1, 0.9), (3, 0.6)])


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(QuranAsrError, match="no such run"):
        read_curves(tmp_path / "nowhere")
    with pytest.raises(QuranAsrError, match="holds neither"):
        read_curves(tmp_path)
    (tmp_path / "x.csv").write_bytes(json.dumps({}).encode("utf-16"))
    with pytest.raises(QuranAsrError, match="neither a CSV"):
        read_curves(tmp_path / "x.csv")
