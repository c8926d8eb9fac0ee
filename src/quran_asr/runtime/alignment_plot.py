"""Plot of an aligned recording: the waveform, the words below it, and the confidence of each."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from quran_asr import audio
from quran_asr.files import replacing
from quran_asr.records import SAMPLE_RATE
from quran_asr.runtime.alignment_formats import NOTHING, label

if TYPE_CHECKING:
    from quran_asr.records import Samples
    from quran_asr.runtime.alignment import AlignedRecording

ROW_SECONDS = 12.0
"""Of the recording in one row of the picture,"""
MOST_ROWS = 40
"""but no more rows than these."""
COLUMNS = 1500
"""Points of the waveform in a row."""
KIND_COLOURS = {"verse": "#0f766e", "repeat": "#7c3aed"}
"""Formulas are grey."""
WRONG = "#b91c1c"


def plot_alignment(recording: AlignedRecording, path: Path) -> None:
    """Draw a recording in rows from top to bottom, in the format of the suffix of `path`.

    Each word is a box from its start to its end, redder the lower its confidence; what was recognized in
    place of it is in red below it. A line over the words names the verse or the formula. Speech that is not
    aligned is shaded.

    Raises:
        QuranAsrError: the recording cannot be read.
        OSError: the file cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    samples = audio.read(recording.audio)
    seconds = max(recording.seconds, 1.0)
    row = max(ROW_SECONDS, seconds / MOST_ROWS)
    rows = int(np.ceil(seconds / row))
    figure = Figure(figsize=(16, 1.7 * rows + 0.6), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(rows, 1, squeeze=False)[:, 0]
    peak = max(float(np.abs(samples).max()), 1e-6)
    for number, axes in enumerate(grid):
        _draw(axes, recording, samples / peak, number * row, row)
    grid[-1].set_xlabel("seconds")
    figure.suptitle(f"{Path(recording.audio).name} · {recording.model}", fontsize=10)
    with replacing(path, path.suffix) as unfinished:
        figure.savefig(unfinished, dpi=90)


def _draw(axes: Any, recording: AlignedRecording, samples: Samples, start: float, seconds: float) -> None:
    end = start + seconds
    part = samples[round(start * SAMPLE_RATE) : round(end * SAMPLE_RATE)]
    width = max(1, round(seconds * SAMPLE_RATE) // COLUMNS)
    blocks = part[: len(part) // width * width].reshape(-1, width)
    times = start + (np.arange(len(blocks)) + 0.5) * width / SAMPLE_RATE
    axes.fill_between(times, blocks.min(axis=1), blocks.max(axis=1), color="#94a3b8", linewidth=0)
    for other in recording.unaligned:
        if other.start < end and other.end > start:
            axes.axvspan(other.start, other.end, color="#fca5a5", alpha=0.4, linewidth=0)
    for segment in recording.segments:
        if segment.start >= end or segment.end <= start:
            continue
        colour = KIND_COLOURS.get(segment.kind, "#64748b")
        axes.plot(
            [segment.start, segment.end], [1.12, 1.12], color=colour, linewidth=2, solid_capstyle="butt"
        )
        if start <= segment.start < end:
            caption = f"{label(segment)}  {segment.score:.2f}"
            axes.text(segment.start, 1.2, caption, fontsize=8, color=colour, va="bottom")
        for word in segment.words:
            if word.start < end and word.end > start:
                sure = 1.0 if word.confidence is None else word.confidence
                box = (1.0, 0.35 + 0.65 * sure, 0.35 + 0.65 * sure)
                axes.axvspan(
                    word.start, word.end, ymin=0.0, ymax=0.24, facecolor=box, edgecolor="#475569", lw=0.5
                )
                middle = (word.start + word.end) / 2
                if start <= middle < end:
                    axes.text(middle, -1.33, word.text, fontsize=10, ha="center", va="center")
                    if word.mismatch is not None:
                        recognized = word.mismatch or NOTHING
                        axes.text(
                            middle, -1.65, recognized, fontsize=8, color=WRONG, ha="center", va="center"
                        )
    axes.set_xlim(start, end)
    axes.set_ylim(-1.8, 1.75)
    axes.set_yticks([])
    axes.spines[["top", "left", "right"]].set_visible(False)
    axes.tick_params(labelsize=7)
