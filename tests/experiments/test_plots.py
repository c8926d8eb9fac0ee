"""Pictures and pages of trainings, read back from the files."""

from __future__ import annotations

import base64
import io
import math
import re
import sys
from collections.abc import Sequence
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quran_asr.config.recipe import load_recipe
from quran_asr.errors import QuranAsrError
from quran_asr.experiments.curve_files import read_curves
from quran_asr.experiments.curves import Point, curves_of_rows
from quran_asr.experiments.plots.axes import Axis, axes_of, line
from quran_asr.experiments.plots.html_page import Example, Table
from quran_asr.experiments.plots.report import ReportFiles, render_report
from quran_asr.experiments.run_folder import RunFolder, create_run

needs_matplotlib = pytest.mark.skipif(
    not __import__("importlib.util").util.find_spec("matplotlib"), reason="needs the extra plot"
)
SUBJECTS = ["losses", "wer", "learning_rate", "gradient_norm", "throughput"]


def a_run(
    folder: Path, name: str = "transfer", rows: int = 40, second: int = 0, nan_from: int = 999
) -> RunFolder:
    """A run with metrics over four epochs of ten lines; from line `nan_from` on the loss is no number."""
    run = create_run(folder, name, datetime(2026, 11, 23, 12, 0, second))
    run.write_recipe(load_recipe(name))
    for number in range(1, rows + 1):
        step, epoch = number * 10, (number - 1) // 10
        base = {"step": step, "epoch": epoch, "time": step * 0.5}
        losses = {"loss": 40 / number, "transducer_loss": 45 / number, "ctc_loss": 30 / number}
        if number >= nan_from:
            losses["loss"] = math.nan
        rest = {
            "learning_rate": 1e-3 / number,
            "gradient_norm": 2.0,
            "audio_seconds": 30.0,
            "step_seconds": 0.5,
        }
        run.append_metrics({**base, "split": "train", **losses, **rest})
        if number % 10 == 0:
            rates = {"wer": 4.9 / number, "ctc_wer": 5.0 / number, "train_wer": 3.0 / number}
            run.append_metrics({**base, "split": "validation", "loss": 41 / number, **rates})
    return run


def render(runs: Sequence[RunFolder], out: Path, **options: Any) -> ReportFiles:
    return render_report([read_curves(run.path) for run in runs], out, **options)


@pytest.fixture(scope="module")
def one_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[ReportFiles, list[Any]]:
    """A run drawn once: what was written, and the figures."""
    folder = tmp_path_factory.mktemp("one-run")
    with pytest.MonkeyPatch.context() as monkeypatch:
        drawn = figures_drawn(monkeypatch)
        written = render(
            [a_run(folder)],
            folder / "out",
            sections=[
                Table("Evaluation", ("", "WER"), (("unseen voices & seen text", "0.049"),)),
                Example("One clip", reference="قل هو الله أحد", hypothesis="قل هو <الله>"),
            ],
        )
    return written, drawn


@pytest.mark.slow
@needs_matplotlib
def test_a_run_becomes_pictures_and_a_page_that_stands_alone(one_run: tuple[ReportFiles, list[Any]]) -> None:
    written, _ = one_run
    assert [path.stem for path in written.pictures] == ["curves", *SUBJECTS]
    assert sorted(path.name for path in written.page.parent.iterdir()) == sorted(
        [*(f"{name}.png" for name in ("curves", *SUBJECTS)), "report.html"]
    )
    text = written.page.read_text(encoding="utf-8")
    embedded = [base64.b64decode(data) for data in re.findall(r' src="data:image/png;base64,([^"]+)"', text)]
    assert embedded == [path.read_bytes() for path in written.pictures[1:]]
    assert not re.search(r'(src|srcset|href)="(?!data:|#)', text)
    assert "default-src 'none'" in text and "<script" not in text
    assert 'name="viewport"' in text and 'dir="rtl" lang="ar"' in text
    assert "unseen voices &amp; seen text" in text and "&lt;الله&gt;" in text
    for reference in (
        "0.1225",
        "0.1250",
        "epoch\N{NO-BREAK SPACE}4.0",
        "400 optimizer steps in 3.3 min",
        "114.75 million",
    ):
        assert reference in text
    assert "transducer: from 0.49 to 0.1225 at epoch 4" in text, (
        "what the picture shows, for those who do not see it"
    )


@needs_matplotlib
def test_the_curves_are_those_of_the_metrics(one_run: tuple[ReportFiles, list[Any]]) -> None:
    _, drawn = one_run
    losses, rates, learning, gradients, throughput = [figure.axes[0] for figure in drawn[::2]]
    assert labels_of(drawn[0]) == ["training", "transducer", "CTC", "validation"]
    transducer = rates.get_lines()[0]
    assert list(transducer.get_ydata()) == [pytest.approx(4.9 / n) for n in (10, 20, 30, 40)]
    assert list(transducer.get_xdata()) == [1, 2, 3, 4]  # epochs
    assert list(losses.get_lines()[0].get_ydata())[:2] == [40, 20]
    assert list(learning.get_lines()[0].get_ydata())[:2] == [1e-3, 5e-4]
    assert set(gradients.get_lines()[0].get_ydata()) == {2.0}
    assert set(throughput.get_lines()[0].get_ydata()) == {60.0}, "30 s of audio in half a second"
    assert "the guide expects, pretrained" in labels_of(drawn[2])
    assert not any("random" in label for label in labels_of(drawn[2]))
    band = rates.collections[0].get_paths()[0].get_extents()
    assert (band.x0, band.x1, band.y0, band.y1) == (0, 10, 0.40, 0.50), "the guide's first ten epochs"


@pytest.mark.slow
@needs_matplotlib
def test_two_runs_counted_in_steps_differ_by_more_than_colour_and_have_no_bands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = figures_drawn(monkeypatch)
    runs = [a_run(tmp_path, "quickstart"), a_run(tmp_path, "quickstart", rows=20, second=5)]
    render(runs, tmp_path)
    assert labels_of(drawn[2]) == ["2026-11-23_12-00-00", "2026-11-23_12-00-05", "transducer", "CTC"]
    for figure in drawn[::2]:
        assert figure.axes[0].get_xlabel() == "optimizer step"
        shapes = {line.get_marker() for line in figure.axes[0].get_lines()} - {"None"}
        assert len(shapes) == 2
    assert {figure.axes[0].get_xlim() for figure in drawn} == {(0, 408)}, "one axis for all pictures"


@pytest.mark.slow
@needs_matplotlib
def test_diagnoses_stand_on_the_curves_and_below_them_with_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = figures_drawn(monkeypatch)
    written = render([a_run(tmp_path, "quickstart", nan_from=31)], tmp_path)
    wide, narrow = drawn[2].axes[0], drawn[3].axes[0]
    (mark,) = [text for text in wide.texts if "not-a-number" in text.get_text()]
    assert mark.xy[0] == 310
    number = mark.get_text().split()[0]
    assert number in [text.get_text() for text in narrow.texts]
    text = written.page.read_text()
    assert f"<strong>{number}. Error</strong> <code>not-a-number</code> at step 310" in text
    assert "Cause: " in text and "<code>trainer.gradient_clip_val=1.0</code>" in text


@pytest.mark.slow
@needs_matplotlib
def test_event_files_and_tables_of_others_are_drawn_too(tmp_path: Path) -> None:
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.summary.writer.event_file_writer import EventFileWriter

    writer = EventFileWriter(str(tmp_path / "nemo"))
    for step in range(1, 60):
        values = {"train_loss": 90 / step, "epoch": step // 20, "val_wer": 1 / step, "global_step": step}
        summary = Summary(value=[Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()])
        writer.add_event(Event(wall_time=1e9 + step, step=step, summary=summary))
    writer.close()
    table = tmp_path / "mine.csv"
    table.write_text("step,train_loss,val_wer\n" + "".join(f"{n},{50 / n},{1 / n}\n" for n in range(1, 50)))
    curves = [read_curves(tmp_path / "nemo"), read_curves(table)]
    written = render_report(curves, tmp_path / "out")
    assert [path.stem for path in written.pictures] == ["curves", "losses", "wer", "throughput"]
    text = written.page.read_text()
    assert "nemo: 59 optimizer steps in 58 s" in text and "mine: 49 optimizer steps." in text
    assert "nemo, throughput: from 1 to 1 at optimizer step 59" in text, "steps by the clock"


@pytest.mark.slow
@needs_matplotlib
def test_a_table_of_epochs_is_drawn_over_epochs_and_over_nothing_else(tmp_path: Path) -> None:
    table = tmp_path / "epochs.csv"
    rows = [f"{epoch},{60 * epoch},{50 / epoch},1.0\n" for epoch in range(1, 40)]
    table.write_text("epoch,time,train_loss,val_wer\n" + "".join(rows))
    text = render_report([read_curves(table)], tmp_path / "out").page.read_text()
    assert "39 epochs in 39" in text and "<code>stuck-wer</code> at epoch 39" in text
    assert "39 optimizer steps" not in text and "at optimizer step" not in text and "at step " not in text
    steps = tmp_path / "steps.csv"
    steps.write_text("step,val_wer\n" + "".join(f"{step},0.5\n" for step in range(1, 40)))
    with pytest.raises(QuranAsrError, match="names epochs and no steps"):
        render_report([read_curves(table), read_curves(steps)], tmp_path / "out")


@pytest.mark.slow
@needs_matplotlib
@pytest.mark.parametrize("rows", [1, 2])
def test_a_run_that_has_just_begun_can_be_drawn(tmp_path: Path, rows: int) -> None:
    run = a_run(tmp_path, rows=rows)
    run.append_metrics({"step": 30, "epoch": 0, "time": 1.0, "split": "train", "loss": float("nan")})
    written = render([run], tmp_path)
    from PIL import Image

    assert min(Image.open(io.BytesIO(written.pictures[0].read_bytes())).size) > 800
    text = written.page.read_text()
    assert "No validation so far." in text and "No transcripts were found." in text
    assert "wer.png" not in [path.name for path in written.pictures]


@pytest.mark.slow
@needs_matplotlib
def test_a_series_without_a_number_is_left_out_and_a_run_without_any_is_named(tmp_path: Path) -> None:
    with pytest.raises(QuranAsrError, match="has no metrics yet"):
        render([a_run(tmp_path, rows=0)], tmp_path)
    without = render([a_run(tmp_path, rows=3, second=1, nan_from=1)], tmp_path).page.read_text()
    assert "transducer: from 45 to 15" in without and "training: from" not in without
    only = create_run(tmp_path, "transfer", datetime(2026, 11, 23, 13))
    only.write_recipe(load_recipe("transfer"))
    for step in (1, 2):
        only.append_metrics({"step": step, "epoch": 0, "time": 1.0, "split": "train", "loss": math.nan})
    with pytest.raises(QuranAsrError, match="has no metrics yet"):
        render([only], tmp_path)
    with pytest.raises(QuranAsrError, match="none of the series that are drawn"):
        other = {"step": 1, "epoch": 0, "time": 0.0, "split": "train", "mine": 1.0}
        render_report([curves_of_rows([other], "mine", "mine.csv")], tmp_path)


def test_without_matplotlib_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("matplotlib")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)  # as if it were not installed
    with pytest.raises(QuranAsrError, match=r"quran-asr\[plot\]"):
        render([a_run(tmp_path)], tmp_path)


# Where a step stands, and which are drawn


@given(st.lists(st.integers(1, 40), min_size=2, max_size=12), st.integers(1, 7))
def test_epochs_end_where_their_last_line_stands(lengths: list[int], every: int) -> None:
    rows, step, ends = [], 0, []
    for epoch, length in enumerate(lengths):
        for _ in range(length):
            step += every
            rows.append({"step": step, "epoch": epoch, "time": 0.0, "split": "train", "loss": 1.0})
        ends.append(step)
    (axis,) = axes_of([curves_of_rows(rows, "", "")])
    assert axis.unit == "epoch"
    assert [axis.at(end) for end in ends[:-1]] == pytest.approx(list(range(1, len(lengths))))
    assert len(lengths) - 1 < axis.at(ends[-1]) <= len(lengths) + 1e-9, "the last may be under way"
    places = [axis.at(row["step"]) for row in rows]
    assert all(a < b for a, b in pairwise([0.0, *places]))


@given(st.lists(st.none() | st.floats(-1e6, 1e6), min_size=1, max_size=400), st.integers(1, 50))
def test_a_thinned_line_keeps_within_what_was_measured(values: list[float | None], most: int) -> None:
    points = tuple(Point(step, value, None, None) for step, value in enumerate(values, start=1))
    drawn = line(points, Axis("optimizer step"), most)
    assert len(drawn.x) == min(most, len(points))
    assert drawn.x[-1] == len(values)
    numbers = [value for value in values if value is not None]
    assert bool(drawn.numbers) == bool(numbers)
    if drawn.low and numbers:
        assert min(y for y in drawn.low if math.isfinite(y)) == min(numbers)
        assert max(y for y in drawn.high if math.isfinite(y)) == max(numbers)
        for low, mean, high in zip(drawn.low, drawn.y, drawn.high, strict=True):
            assert math.isnan(mean) or low - 1e-6 <= mean <= high + 1e-6


def figures_drawn(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The figures that are drawn from now on: of each subject a wide one and a narrow one."""
    from quran_asr.experiments.plots import figures

    drawn: list[Any] = []
    make = figures.figure
    monkeypatch.setattr(figures, "figure", lambda inches: drawn.append(make(inches)) or drawn[-1])
    return drawn


def labels_of(figure: Any) -> list[str]:
    return [text.get_text() for legend in figure.legends for text in legend.get_texts()]


def test_names_are_as_short_as_keeps_them_apart() -> None:
    from quran_asr.experiments.plots.report import names

    def named(*of: str) -> list[str]:
        return names([curves_of_rows([], name, "") for name in of])

    assert named("laptop/a") == ["laptop/a"]
    assert named("laptop/a", "laptop/b") == ["a", "b"]
    assert named("laptop/a", "scratch/a") == ["laptop/a", "scratch/a"]
    assert named("x", "x") == ["1. x", "2. x"]
