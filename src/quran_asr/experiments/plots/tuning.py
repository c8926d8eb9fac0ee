"""The curve of a tuned language model: WER by weight, a line for each token bonus."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

from quran_asr.experiments.plots.figures import COLOURS, SHAPES, figure
from quran_asr.files import write_atomically


def plot_tuning(path: Path, points: Sequence[tuple[float, float, float]], title: str) -> None:
    """Write the curve as PNG, atomically.

    Args:
        path: the file.
        points: (weight, bonus, WER) each.
        title: what was tuned, on what.

    Raises:
        QuranAsrError: matplotlib is not installed.
    """
    whole = figure((8.4, 4.6))
    axes = whole.subplots()
    for place, bonus in enumerate(sorted({bonus for _, bonus, _ in points})):
        line = sorted((weight, wer) for weight, one, wer in points if one == bonus)
        axes.plot(
            [weight for weight, _ in line],
            [100 * wer for _, wer in line],
            color=COLOURS[place % len(COLOURS)],
            marker=SHAPES[place % len(SHAPES)],
            markersize=4.5,
            label=f"token bonus {bonus:g}",
        )
    weight, _, wer = min(points, key=lambda point: point[2])
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
