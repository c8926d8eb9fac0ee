"""Pictures and pages of runs, read back from the files."""

from __future__ import annotations

import base64
import io
import re
import sys
from datetime import datetime
from pathlib import Path

import pytest

from quran_asr.findings import QuranAsrError
from quran_asr.runs.folder import RunFolder, create_run
from quran_asr.runs.plot import Example, Table, render_report
from quran_asr.runs.recipe import load_recipe

needs_matplotlib = pytest.mark.skipif(
    not __import__("importlib.util").util.find_spec("matplotlib"), reason="needs the extra plot"
)


def a_run(folder: Path, name: str = "transfer", rows: int = 40, second: int = 0) -> RunFolder:
    """A run with metrics over four epochs of ten lines."""
    run = create_run(folder, name, datetime(2026, 11, 23, 12, 0, second))
    run.write_recipe(load_recipe(name))
    for number in range(1, rows + 1):
        step, epoch = number * 10, (number - 1) // 10
        base = {"step": step, "epoch": epoch, "time": step * 0.5}
        losses = {"loss": 40 / number, "transducer_loss": 45 / number, "ctc_loss": 30 / number}
        run.append_metrics({**base, "split": "train", **losses, "learning_rate": 1e-3 / number})
        if number % 10 == 0:
            rates = {"wer": 4.9 / number, "ctc_wer": 5.0 / number, "train_wer": 3.0 / number}
            run.append_metrics({**base, "split": "validation", "loss": 41 / number, **rates})
    return run


@needs_matplotlib
def test_a_run_becomes_a_picture_and_a_page_that_stands_alone(tmp_path: Path) -> None:
    run = a_run(tmp_path)
    picture, page = render_report(
        run,
        tmp_path / "out",
        [
            Table("Evaluation", ("", "WER"), (("unseen voices & seen text", "0.049"),)),
            Example("One clip", said="قل هو الله أحد", heard="قل هو <الله>"),
        ],
    )
    assert picture.read_bytes().startswith(b"\x89PNG")
    text = page.read_text(encoding="utf-8")
    embedded = re.search(r'src="data:image/png;base64,([^"]+)"', text)
    assert embedded is not None and base64.b64decode(embedded.group(1)) == picture.read_bytes()
    assert not re.search(r'(src|href)="(?!data:)', text)
    assert 'name="viewport"' in text and 'dir="rtl" lang="ar"' in text
    assert "unseen voices &amp; seen text" in text and "&lt;الله&gt;" in text
    for said in ("0.1225", "0.1250", "epoch 4", "400 optimizer steps in 3.3 min", "114.75 million"):
        assert said in text


@needs_matplotlib
def test_the_curves_are_those_of_the_metrics(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = figures_drawn(monkeypatch)
    render_report(a_run(tmp_path), tmp_path)
    losses, rates, learning = drawn[0].axes
    lines = {line.get_label(): line for line in rates.get_lines()}
    assert list(lines["transducer"].get_ydata()) == [pytest.approx(4.9 / n) for n in (10, 20, 30, 40)]
    assert list(lines["transducer"].get_xdata()) == [1, 2, 3, 4]  # epochs
    assert {line.get_label() for line in losses.get_lines()} == {"loss", "transducer", "CTC", "validation"}
    assert learning.get_xlabel() == "epoch"
    assert "the guide expects (pretrained)" in rates.get_legend_handles_labels()[1]


@needs_matplotlib
def test_a_run_counted_in_steps_has_no_bands_and_two_runs_share_an_axis(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = figures_drawn(monkeypatch)
    short = a_run(tmp_path, "quickstart")
    render_report([short, a_run(tmp_path, "quickstart", rows=20, second=5)], tmp_path)
    _, rates, learning = drawn[0].axes
    labels = rates.get_legend_handles_labels()[1]
    assert not any("expects" in label for label in labels)
    assert sorted(labels) == [
        "2026-11-23_12-00-00: CTC",
        "2026-11-23_12-00-00: transducer",
        "2026-11-23_12-00-05: CTC",
        "2026-11-23_12-00-05: transducer",
    ]
    assert learning.get_xlabel() == "optimizer step"


@needs_matplotlib
def test_a_run_that_has_just_begun_can_be_drawn(tmp_path: Path) -> None:
    run = a_run(tmp_path, rows=1)
    run.append_metrics({"step": 20, "epoch": 0, "time": 1.0, "split": "train", "loss": float("nan")})
    picture, _ = render_report(run, tmp_path)
    from PIL import Image

    image = Image.open(io.BytesIO(picture.read_bytes()))
    assert min(image.size) > 800


@needs_matplotlib
def test_a_run_without_metrics_is_named(tmp_path: Path) -> None:
    with pytest.raises(QuranAsrError, match="has no metrics yet"):
        render_report(a_run(tmp_path, rows=0), tmp_path)


def test_without_matplotlib_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("matplotlib")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)  # as if it were not installed
    with pytest.raises(QuranAsrError, match=r"quran-asr\[plot\]"):
        render_report(a_run(tmp_path), tmp_path)


def figures_drawn(monkeypatch: pytest.MonkeyPatch) -> list:  # type: ignore[type-arg]
    """The figures that are drawn from now on."""
    from quran_asr.runs import plot

    drawn: list = []  # type: ignore[type-arg]
    make = plot._figure
    monkeypatch.setattr(plot, "_figure", lambda: drawn.append(make()) or drawn[-1])
    return drawn
