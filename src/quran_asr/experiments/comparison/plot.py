"""A comparison as a picture and an HTML page: error rates over the budget, each seed and the mean."""

from __future__ import annotations

import html
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from quran_asr.experiments.comparison.results import DECODERS, Comparison
from quran_asr.experiments.plots.axes import Line, axes_of, line
from quran_asr.experiments.plots.figures import COLOURS, SHAPES, figure, plain
from quran_asr.experiments.plots.html_page import Part, Table, image, page
from quran_asr.files import write_atomically

PICTURE, PAGE = "wer.png", "report.html"


@dataclass(frozen=True, slots=True)
class DrawnVariant:
    """A variant ready to be drawn."""

    name: str
    seeds: tuple[Line, ...]
    middle: Line
    """Mean over seeds at the places where all of them were validated."""


def draw_comparison(comparison: Comparison, folder: Path, tables: Sequence[Table]) -> tuple[Path, Path]:
    """Write `wer.png` and `report.html`, a page that needs nothing beside it.

    Args:
        comparison: what is drawn.
        folder: where they go.
        tables: what stands above the picture on the page.

    Raises:
        QuranAsrError: matplotlib is not installed.
    """
    drawn = _drawn(comparison)
    wide, narrow = (_render(drawn, comparison, small) for small in (False, True))
    unit = comparison.unit
    message = "; ".join(
        f"{one.name}: from {one.middle.y[0]:.3g} to {one.middle.y[-1]:.3g} at {one.middle.x[-1]:,.4g}"
        for one in drawn
        if one.middle.x
    )
    figure_html = (
        f"<figure><figcaption>Word error rate, {html.escape(comparison.decoder)}</figcaption>"
        f"{image(wide, narrow, f'Word error rate by {unit}. {message}.')}</figure>"
    )
    title = " / ".join(variant.name for variant in drawn)
    write_atomically(folder / PICTURE, wide)
    write_atomically(folder / PAGE, page(title, [*tables, Part("Curves", figure_html)]))
    return folder / PICTURE, folder / PAGE


def _drawn(comparison: Comparison) -> list[DrawnVariant]:
    all_curves = [curves for result in comparison.results for curves in result.variant.curves]
    axes = iter(axes_of(all_curves))
    drawn = []
    for result in comparison.results:
        lines = tuple(
            line(curves.validation.get(DECODERS[comparison.decoder], ()), next(axes), most=10**9)
            for curves in result.variant.curves
        )
        rates = [dict(one.numbers) for one in lines]
        places = [x for x in sorted(rates[0]) if all(x in one for one in rates)]
        middle = Line(tuple(places), tuple(fmean(one[x] for one in rates) for x in places))
        drawn.append(DrawnVariant(result.variant.name, lines, middle))
    return drawn


def _render(drawn: Sequence[DrawnVariant], comparison: Comparison, narrow: bool) -> bytes:
    whole = figure((4.1, 4.0) if narrow else (8.4, 4.2))
    axes = whole.subplots()
    highest = 1.0
    for place, variant in enumerate(drawn):
        colour, shape = COLOURS[place % len(COLOURS)], SHAPES[place % len(SHAPES)]
        for one in variant.seeds:
            axes.plot(one.x, one.y, color=colour, linewidth=0.8, alpha=0.45)
        axes.plot(
            variant.middle.x,
            variant.middle.y,
            color=colour,
            linewidth=1.8,
            marker=shape,
            markersize=4.5,
            label=plain(variant.name, 60, 27),
        )
        highest = max(highest, *(y for one in variant.seeds for _, y in one.numbers))
    for share in (0.1, 0.5, 1.0):
        axes.axvline(share * comparison.budget, color="#999999", linewidth=0.8, linestyle=(0, (1, 2)))
    axes.set_xlim(0, comparison.budget * 1.02)
    axes.set_ylim(0, min(1.5, 1.05 * highest))
    axes.set_xlabel(comparison.unit)
    axes.set_ylabel("word error rate")
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    whole.legend(loc="outside upper left", ncols=1, fontsize=8, frameon=False)
    picture = io.BytesIO()
    whole.savefig(picture, format="png", dpi=200 if narrow else 140)
    return picture.getvalue()
