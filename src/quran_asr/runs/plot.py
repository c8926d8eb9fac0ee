"""Curves of runs as a picture, and a page that holds the picture, the settings and the results."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quran_asr.files import write_atomically
from quran_asr.findings import QuranAsrError
from quran_asr.runs.expected import EXPECTED_PRETRAINED, EXPECTED_RANDOM
from quran_asr.runs.folder import RunFolder
from quran_asr.runs.parameters import count_parameters
from quran_asr.runs.recipe import load_recipe
from quran_asr.runs.schema import Recipe

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#8a6d00", "#56b4e9")
"""Okabe and Ito's, which stay apart for colour-blind readers."""


@dataclass(frozen=True, slots=True)
class Table:
    """A table of a report page."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""


@dataclass(frozen=True, slots=True)
class Example:
    """One recording of a report page: what was said and what was heard."""

    title: str
    said: str
    heard: str
    note: str = ""


@dataclass(frozen=True, slots=True)
class _Curves:
    """What a run's metrics say, ready to draw."""

    label: str
    recipe: Recipe
    rows: tuple[dict[str, Any], ...]
    steps_per_epoch: float | None
    """For runs that count epochs; None draws over optimizer steps."""

    def points(self, split: str, key: str) -> tuple[list[float], list[float]]:
        """Places on the x axis, and values; rows without the key are passed over."""
        unit = self.steps_per_epoch or 1.0
        found = [
            (row["step"] / unit, float(row[key]))
            for row in self.rows
            if row["split"] == split and isinstance(row.get(key), int | float)
        ]
        return [x for x, _ in found], [y for _, y in found]


def draw_curves(runs: Sequence[RunFolder]) -> bytes:
    """A PNG with losses, word error rates and the learning rate of the runs, one below the other.

    Behind the error rates of a run that counts epochs stand the bands that the guide expects.

    Raises:
        QuranAsrError: a run has no metrics, or matplotlib is not installed.
    """
    curves = _all_curves(runs)
    figure = _figure()
    losses, rates, learning = figure.subplots(3, 1, sharex=True, height_ratios=(3, 4, 2))
    for number, curve in enumerate(curves):
        prefix = f"{curve.label}: " if len(curves) > 1 else ""
        colours = _COLOURS if len(curves) == 1 else (_COLOURS[number % len(_COLOURS)],) * 3
        _draw_losses(losses, curve, prefix, colours)
        _draw_rates(rates, curve, prefix, colours)
        _line(learning, curve, "train", "learning_rate", f"{prefix}learning rate", colours[0], "-")
    _draw_expected(rates, curves)
    _label(losses, "loss (nats)", log=True)
    _label(rates, "word error rate")
    _label(learning, "learning rate")
    rates.set_ylim(0, min(1.5, max(1.05, rates.get_ylim()[1])))
    learning.set_ylim(bottom=0)
    learning.ticklabel_format(axis="y", style="sci", scilimits=(-3, -3))
    learning.set_xlim(left=0)
    learning.set_xlabel("epoch" if curves[0].steps_per_epoch else "optimizer step")
    figure.suptitle(curves[0].label if len(curves) == 1 else f"{len(curves)} runs", fontsize=11)
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=130)
    return picture.getvalue()


def render_report(
    runs: RunFolder | Sequence[RunFolder], out: Path, sections: Sequence[Table | Example] = ()
) -> tuple[Path, Path]:
    """Write `curves.png` and `report.html`, a page that needs nothing beside it.

    Args:
        runs: one run, or several to lay over each other.
        out: the folder for both files; made if missing.
        sections: what stands above the curves, for example an evaluation.

    Returns:
        The paths of the picture and of the page.

    Raises:
        QuranAsrError: a run has no metrics, or matplotlib is not installed.
    """
    chosen = [runs] if isinstance(runs, RunFolder) else list(runs)
    picture = draw_curves(chosen)
    curves = _all_curves(chosen)
    parts = [_section(section) for section in sections]
    parts.append(_picture(picture))
    for curve in curves:
        parts += [_section(_results(curve)), _section(_settings(curve))]
    title = ", ".join(curve.label for curve in curves)
    page = _PAGE.format(title=html.escape(title), body="\n".join(parts))
    write_atomically(out / "curves.png", picture)
    write_atomically(out / "report.html", page.encode())
    return out / "curves.png", out / "report.html"


# Reading


def _all_curves(runs: Sequence[RunFolder]) -> list[_Curves]:
    recipes = [load_recipe(run.recipe) for run in runs]
    in_epochs = all(_counts_epochs(recipe) for recipe in recipes)
    labels = [run.name for run in runs]
    if len(runs) > 1 and len({recipe.name for recipe in recipes}) == 1:
        labels = [run.path.name for run in runs]  # the name that they share says nothing
    return [
        _curves(run, recipe, label, in_epochs)
        for run, recipe, label in zip(runs, recipes, labels, strict=True)
    ]


def _curves(run: RunFolder, recipe: Recipe, label: str, in_epochs: bool) -> _Curves:
    rows = run.read_metrics()
    if not rows:
        raise QuranAsrError(
            "has no metrics yet", where=str(run.path), remedy="they come with the first steps of a training"
        )
    return _Curves(label, recipe, tuple(rows), _steps_per_epoch(rows) if in_epochs else None)


def _counts_epochs(recipe: Recipe) -> bool:
    return recipe.trainer.max_steps == -1


def _steps_per_epoch(rows: Sequence[dict[str, Any]]) -> float:
    """Optimizer steps in an epoch, from the last row of the last whole epoch; of one epoch, all of them."""
    last = max(int(row.get("epoch", 0)) for row in rows)
    if last == 0:
        return float(max(row["step"] for row in rows)) or 1.0
    before = [int(row["step"]) for row in rows if row.get("epoch", 0) < last]
    return max(1.0, max(before, default=1) / last)


# Drawing


def _figure() -> Figure:
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise QuranAsrError(
            "drawing needs matplotlib, which is not installed", remedy="pip install 'quran-asr[plot]'"
        ) from None
    figure = Figure(figsize=(8.5, 10), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _draw_losses(axes: Axes, curve: _Curves, prefix: str, colours: Sequence[str]) -> None:
    _line(axes, curve, "train", "loss", f"{prefix}loss", "#444444" if not prefix else colours[0], "-")
    if not prefix:
        _line(axes, curve, "train", "transducer_loss", "transducer", colours[0], "--")
        _line(axes, curve, "train", "ctc_loss", "CTC", colours[1], ":")
    _line(axes, curve, "validation", "loss", f"{prefix}validation", colours[2], "-", marker=".")


def _draw_rates(axes: Axes, curve: _Curves, prefix: str, colours: Sequence[str]) -> None:
    _line(axes, curve, "validation", "wer", f"{prefix}transducer", colours[0], "-", marker=".")
    _line(axes, curve, "validation", "ctc_wer", f"{prefix}CTC", colours[1], "--", marker=".")
    if not prefix:
        _line(axes, curve, "validation", "train_wer", "some training clips", colours[2], ":")


def _draw_expected(axes: Axes, curves: Sequence[_Curves]) -> None:
    if curves[0].steps_per_epoch is None:
        return
    pretrained = [curve.recipe.init_from_pretrained_model is not None for curve in curves]
    for wanted, bands, name, colour in (
        (True, EXPECTED_PRETRAINED, "the guide expects (pretrained)", "#0072b2"),
        (False, EXPECTED_RANDOM, "the guide expects (random start)", "#d55e00"),
    ):
        if wanted not in pretrained:
            continue
        reached = max(max(c.points("validation", "wer")[0], default=1.0) for c in curves)
        shown = [band for band in bands if band[0] < max(reached, 10)]
        for number, (begin, end, low, high) in enumerate(shown):
            label = name if number == 0 else None
            axes.fill_between([begin, end], low, high, color=colour, alpha=0.13, linewidth=0, label=label)


def _line(
    axes: Axes, curve: _Curves, split: str, key: str, label: str, colour: str, style: str, marker: str = ""
) -> None:
    places, values = curve.points(split, key)
    if places:
        marker = marker or ("." if len(places) == 1 else "")
        axes.plot(places, values, style, color=colour, label=label, marker=marker, linewidth=1.4)


def _minor_tick(value: float, _: int | None = None) -> str:
    """Between the powers of ten only 2 and 5 are named, so that labels do not touch."""
    first_digit = f"{value:e}"[0]
    return f"{value:g}" if first_digit in "25" else ""


def _label(axes: Axes, what: str, log: bool = False) -> None:
    axes.set_ylabel(what)
    axes.grid(alpha=0.25)
    lines = axes.get_lines()
    drawn: list[Any] = [line.get_ydata() for line in lines]
    if log and drawn and all(min(values) > 0 for values in drawn):
        from matplotlib.ticker import FuncFormatter

        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.yaxis.set_minor_formatter(FuncFormatter(_minor_tick))
    if lines and len(axes.get_legend_handles_labels()[1]) > 1:
        axes.legend(fontsize=8, framealpha=0.85, loc="upper right")


# The page


def _results(curve: _Curves) -> Table:
    rows: list[tuple[str, ...]] = []
    for key, name in (("wer", "word error rate, transducer"), ("ctc_wer", "word error rate, CTC")):
        places, values = curve.points("validation", key)
        if values:
            best = min(range(len(values)), key=values.__getitem__)
            unit = "epoch" if curve.steps_per_epoch else "step"
            rows.append((name, f"{values[best]:.4f}", f"{unit} {places[best]:,.0f}", f"{values[-1]:.4f}"))
    seconds = float(curve.rows[-1].get("time") or 0.0)
    note = f"{curve.rows[-1]['step']:,} optimizer steps in {_duration(seconds)}. Validation during training."
    return Table(f"Results of {curve.label}", ("", "best", "at", "last"), tuple(rows), note)


def _settings(curve: _Curves) -> Table:
    recipe = curve.recipe
    encoder, optim, trainer = recipe.model.encoder, recipe.model.optim, recipe.trainer
    parameters = count_parameters(recipe.model, recipe.quran.vocabulary_size)
    rows = (
        ("start", recipe.init_from_pretrained_model or "random weights"),
        ("parameters", f"{parameters / 1e6:,.2f} million"),
        ("encoder", f"{encoder.n_layers} layers of {encoder.d_model}"),
        ("spelling, vocabulary", f"{recipe.quran.spelling}, {recipe.quran.vocabulary_size:,} tokens"),
        ("effective batch", f"{recipe.effective_batch} clips at most"),
        ("learning rate", f"{optim.lr:g}, {optim.sched.name}, warm-up {optim.sched.warmup_steps:,} steps"),
        ("CTC weight", f"{recipe.model.aux_ctc.ctc_loss_weight:g}"),
        ("precision", str(trainer.precision)),
        ("seed", str(recipe.quran.seed)),
    )
    return Table(f"Settings of {curve.label}", ("", ""), rows, "All of them: recipe.yaml in the run folder.")


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _section(section: Table | Example) -> str:
    title = f"<h2>{html.escape(section.title)}</h2>"
    note = f'<p class="note">{html.escape(section.note)}</p>' if section.note else ""
    if isinstance(section, Example):
        lines = "".join(
            f'<p>{name}</p><p class="arabic" dir="rtl" lang="ar">{html.escape(text)}</p>'
            for name, text in (("said", section.said), ("heard", section.heard))
        )
        return f"<section>{title}{lines}{note}</section>"
    header = ""
    if any(section.header):
        header = f"<tr>{''.join(f'<th>{html.escape(cell)}</th>' for cell in section.header)}</tr>"
    body = "".join(
        f"<tr>{''.join(f'<td>{html.escape(cell)}</td>' for cell in row)}</tr>" for row in section.rows
    )
    return f'<section>{title}<div class="wide"><table>{header}{body}</table></div>{note}</section>'


def _picture(picture: bytes) -> str:
    data = base64.b64encode(picture).decode()
    name = "Losses, word error rates and learning rate over the training"
    return f'<section><h2>Curves</h2><img alt="{name}" src="data:image/png;base64,{data}"></section>'


_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 54rem; margin: 0 auto; padding: 1rem;
  color: #1b1b1b; background: #fff; overflow-wrap: anywhere; }}
h1 {{ font-size: 1.35rem; }} h2 {{ font-size: 1.1rem; margin: 2rem 0 .5rem; }}
img {{ max-width: 100%; height: auto; }}
.wide {{ overflow-x: auto; }}
table {{ border-collapse: collapse; }}
th, td {{ text-align: left; padding: .3rem .9rem .3rem 0; border-bottom: 1px solid #ddd;
  vertical-align: top; overflow-wrap: normal; }}
td {{ font-variant-numeric: tabular-nums; }}
.note {{ color: #555; font-size: .9rem; }}
.arabic {{ font-size: 1.4rem; line-height: 2; margin: 0 0 .5rem; }}
section > p {{ margin: .2rem 0; }}
</style>
</head>
<body>
<h1>{title}</h1>
{body}
</body>
</html>
"""
