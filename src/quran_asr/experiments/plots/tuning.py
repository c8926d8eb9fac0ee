"""The curve of a tuned language model: WER by weight, a line for each token bonus."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

from quran_asr.experiments.plots.figures import COLOURS, SHAPES, figure
from quran_asr.files import write_atomically


def plot_tuning(path: Path, points: Sequence[tuple[float, float, float, bool]], title: str) -> None:
    """Write the curve as PNG, atomically.

    Args:
        path: the file.
        points: (weight, bonus, WER, whether all clips were decoded) each.
        title: what was tuned, on what.

    Raises:
        QuranAsrError: matplotlib is not installed.
    """
    whole = figure((8.4, 4.6))
    axes = whole.subplots()
    for place, bonus in enumerate(sorted({bonus for _, bonus, _, _ in points})):
        line = sorted(point[:1] + point[2:] for point in points if point[1] == bonus)
        colour, shape = COLOURS[place % len(COLOURS)], SHAPES[place % len(SHAPES)]
        axes.plot(
            [weight for weight, _, _ in line],
            [100 * wer for _, wer, _ in line],
            color=colour,
            marker=shape,
            markersize=4.5,
            label=f"token bonus {bonus:g}",
        )
        dropped = [(weight, 100 * wer) for weight, wer, every in line if not every]
        if dropped:
            axes.plot(
                *zip(*dropped, strict=True), shape, color=colour, markersize=4.5, markerfacecolor="white"
            )
    if not all(every for _, _, _, every in points):
        axes.plot([], [], "o", color="grey", markerfacecolor="white", label="dropped: on some of the clips")
    weight, _, wer, _ = min(points, key=lambda point: (not point[3], point[2]))
    axes.annotate(f"{100 * wer:.1f} %", (weight, 100 * wer), textcoords="offset points", xytext=(4, -12))
    axes.set_ylim(top=min(100.0, axes.get_ylim()[1]))  # a bonus that is far too large repeats words
    axes.set_xlabel("weight of the language model")
    axes.set_ylabel("word error rate, %")
    axes.set_title(title, fontsize=10)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=8, frameon=False)
    picture = io.BytesIO()
    whole.savefig(picture, format="png", dpi=140)
    write_atomically(path, picture.getvalue())
