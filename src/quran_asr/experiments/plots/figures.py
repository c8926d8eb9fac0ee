"""The figures: series, colours, marks.

A training is known by its colour and by the shape of its marks, a series by the style of its line, so that
nothing rests on colour alone.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from quran_asr.errors import QuranAsrError
from quran_asr.experiments.curves import Curves, Point, Series
from quran_asr.experiments.diagnostics.diagnosis import Diagnosis
from quran_asr.experiments.diagnostics.progress import EXPECTED_PRETRAINED, EXPECTED_RANDOM
from quran_asr.experiments.plots.axes import Axis, Line, axes_of, line

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D


@dataclass(frozen=True, slots=True)
class Kind:
    """A series of a picture."""

    label: str
    series: Callable[[Curves], Series]
    style: Any
    dots: bool = False
    """Every point is shown: they are few, and each was measured for itself."""
    alone: bool = False
    """Only drawn where one training is."""


@dataclass(frozen=True, slots=True)
class Subject:
    """What one picture shows."""

    name: str
    title: str
    unit: str
    kinds: tuple[Kind, ...]
    logarithmic: bool = False
    from_zero: bool = False


def _training(key: str) -> Callable[[Curves], Series]:
    return lambda curves: curves.training.get(key, ())


def _validation(key: str) -> Callable[[Curves], Series]:
    return lambda curves: curves.validation.get(key, ())


_SUBJECTS = (
    Subject(
        "losses",
        "Losses",
        "loss (nats)",
        (
            Kind("training", _training("loss"), "-"),
            Kind("transducer", _training("transducer_loss"), (0, (5, 1.5)), alone=True),
            Kind("CTC", _training("ctc_loss"), (0, (1, 1.2)), alone=True),
            Kind("validation", _validation("loss"), (0, (6, 1.5, 1, 1.5)), dots=True),
        ),
        logarithmic=True,
    ),
    Subject(
        "wer",
        "Word error rates",
        "word error rate",
        (
            Kind("transducer", _validation("wer"), "-", dots=True),
            Kind("CTC", _validation("ctc_wer"), (0, (5, 1.5)), dots=True),
            Kind("some training clips", _validation("train_wer"), (0, (1, 1.2)), alone=True),
        ),
        from_zero=True,
    ),
    Subject(
        "learning_rate",
        "Learning rate",
        "learning rate",
        (Kind("learning rate", _training("learning_rate"), "-"),),
        from_zero=True,
    ),
    Subject(
        "gradient_norm",
        "Gradient norm",
        "norm before clipping",
        (Kind("gradient norm", _training("gradient_norm"), "-"),),
        logarithmic=True,
    ),
)


def subjects(curves: Sequence[Curves]) -> tuple[Subject, ...]:
    """The pictures of these trainings, in the order of a page."""
    return (*_SUBJECTS, _throughput(curves))


def _throughput(curves: Sequence[Curves]) -> Subject:
    """Audio trained on in a second where all trainings have it; else optimizer steps in a second."""
    title = "Throughput"
    if all(training.training.get("audio_seconds") for training in curves):
        kind = Kind("throughput", _audio_a_second, "-")
        return Subject("throughput", title, "seconds of audio a second", (kind,), from_zero=True)
    kind = Kind("throughput", _steps_a_second, "-")
    return Subject("throughput", title, "steps a second", (kind,), from_zero=True)


def _audio_a_second(curves: Curves) -> Series:
    seconds = {point.step: point.value for point in curves.training.get("step_seconds", ())}
    return tuple(
        Point(point.step, _share(point.value, seconds.get(point.step)), point.epoch, point.time)
        for point in curves.training.get("audio_seconds", ())
    )


def _steps_a_second(curves: Curves) -> Series:
    """By the time of a step, or else by the clock between two points, validations between them included."""
    if curves.in_epochs:
        return ()
    timed = curves.training.get("step_seconds", ())
    if timed:
        return tuple(Point(p.step, _share(1.0, p.value), p.epoch, p.time) for p in timed)
    points = [p for p in curves.training.get("loss", ()) if p.time is not None]
    return tuple(
        Point(b.step, _share(b.step - a.step, (b.time or 0) - (a.time or 0)), b.epoch, b.time)
        for a, b in pairwise(points)
        if (b.time or 0) > (a.time or 0)
    )


def _share(part: float | None, whole: float | None) -> float | None:
    return part / whole if part is not None and whole else None


COLOURS = ("#0072b2", "#d55e00", "#009e73", "#b2559b", "#8a6d00", "#3b97c9")
"""After Okabe and Ito, which stay apart for colour-blind readers; darkened where they were too light."""
SHAPES = ("o", "s", "^", "D", "v", "P", "X", "*")
MARKS_ON_A_LINE = 8
"""Shapes on a line of many points: enough to know it by."""


@dataclass(frozen=True, slots=True)
class Picture:
    """One subject, drawn for a screen and for a phone."""

    name: str
    """File name without ending."""
    title: str
    description: str
    """What is to be seen, for those who do not see it."""
    wide: bytes
    """PNG."""
    narrow: bytes
    """PNG for about 360 px."""


@dataclass(frozen=True, slots=True)
class Mark:
    """A diagnosis at its place on the curves of a training."""

    number: int
    """By which the page lists it."""
    run: int
    """Place of the training among those drawn."""
    diagnosis: Diagnosis


def draw(
    curves: Sequence[Curves],
    labels: Sequence[str],
    marks: Sequence[Mark] = (),
    on_progress: Callable[[int, int], None] | None = None,
) -> list[Picture]:
    """A picture of each subject of which some training has a number.

    Args:
        labels: what each training is called.
        marks: diagnoses to be drawn at their steps.
        on_progress: called with (pictures drawn, all pictures).

    Raises:
        QuranAsrError: matplotlib is not installed, or trainings in epochs and in steps cannot share an axis.
    """
    axes = axes_of(curves)
    chosen = subjects(curves)
    pictures = []
    for done, subject in enumerate(chosen, start=1):
        drawing = _Drawing(subject, curves, axes, labels, marks)
        if drawing.lines:
            wide, narrow = drawing.render(narrow=False), drawing.render(narrow=True)
            pictures.append(Picture(subject.name, subject.title, drawing.description(), wide, narrow))
        if on_progress is not None:
            on_progress(done, len(chosen))
    return pictures


def stack(pictures: Sequence[Picture]) -> bytes:
    """The wide pictures below each other as one PNG."""
    import numpy as np
    from matplotlib.image import imread, imsave

    rows = [np.rint(255 * imread(io.BytesIO(picture.wide))).astype(np.uint8) for picture in pictures]
    whole = io.BytesIO()
    imsave(whole, np.concatenate(rows), format="png")
    return whole.getvalue()


class _Drawing:
    """One subject of several trainings."""

    def __init__(
        self,
        subject: Subject,
        curves: Sequence[Curves],
        axes: Sequence[Axis],
        labels: Sequence[str],
        marks: Sequence[Mark],
    ) -> None:
        self.subject = subject
        self.curves, self.axes, self.labels, self.marks = curves, axes, labels, marks
        self.reached = max(axis.at(training.steps) for axis, training in zip(axes, curves, strict=True))
        """The end of the x axis, of every picture the same."""
        self.lines: list[tuple[int, Kind, Line]] = []
        """(place of the training, what, the line); only lines with a number in them."""
        for run, training in enumerate(curves):
            for kind in subject.kinds:
                if kind.alone and len(curves) > 1:
                    continue
                drawn = line(kind.series(training), axes[run])
                if drawn.numbers:
                    self.lines.append((run, kind, drawn))

    def description(self) -> str:
        """Each line from its first to its last number."""
        unit = self.axes[0].unit
        parts = []
        for run, kind, drawn in self.lines:
            (_, first), (x, last) = drawn.numbers[0], drawn.numbers[-1]
            name = f"{self.labels[run]}, {kind.label}" if len(self.curves) > 1 else kind.label
            parts.append(f"{name}: from {first:.4g} to {last:.4g} at {unit} {x:,.4g}")
        return f"{self.subject.title} by {unit}. {'; '.join(parts)}."

    def render(self, *, narrow: bool) -> bytes:
        whole = figure((4.1, 4.0) if narrow else (8.4, 4.2))
        axes = whole.subplots()
        for run, kind, drawn in self.lines:
            self._draw(axes, run, kind, drawn)
        if self.subject.name == "wer":
            self._draw_expected(axes)
        if self.subject.name == "gradient_norm":
            self._draw_clipping(axes)
        self._scale(axes)
        axes.set_xlim(0, self.reached * 1.02)
        axes.set_xlabel(self.axes[0].unit)
        axes.set_ylabel(self.subject.unit)
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
        self._draw_marks(axes, narrow)
        self._legend(whole, axes, narrow)
        picture = io.BytesIO()
        whole.savefig(picture, format="png", dpi=200 if narrow else 140)
        return picture.getvalue()

    def _draw(self, axes: Axes, run: int, kind: Kind, drawn: Line) -> None:
        colour = self._colour(run, kind)
        step = 1 if kind.dots and len(drawn.x) <= 40 else max(1, len(drawn.x) // MARKS_ON_A_LINE)
        shaped = kind.dots or len(self.curves) > 1 or len(drawn.numbers) == 1
        axes.plot(
            drawn.x,
            drawn.y,
            linestyle=kind.style,
            color=colour,
            linewidth=1.5,
            marker=self._shape(run, kind) if shaped else "",
            markevery=(0 if kind.dots else run * step // 3 % step, step),  # not all at the same places
            markersize=4.5,
            markerfacecolor="white" if kind.label == "CTC" else colour,
        )
        if drawn.low:
            axes.fill_between(drawn.x, drawn.low, drawn.high, color=colour, alpha=0.12, linewidth=0)

    def _colour(self, run: int, kind: Kind) -> str:
        """Of one training each series has its colour, of several each training."""
        place = run if len(self.curves) > 1 else self.subject.kinds.index(kind)
        return COLOURS[place % len(COLOURS)]

    def _shape(self, run: int, kind: Kind) -> str:
        place = run if len(self.curves) > 1 else self.subject.kinds.index(kind)
        return SHAPES[place % len(SHAPES)]

    def _draw_expected(self, axes: Axes) -> None:
        if self.axes[0].unit != "epoch":
            return
        starts = {_pretrained(training) for training in self.curves}
        for wanted, bands, name, colour, hatch in (
            (True, EXPECTED_PRETRAINED, "the guide expects, pretrained", COLOURS[0], ""),
            (False, EXPECTED_RANDOM, "the guide expects, random start", COLOURS[1], "////"),
        ):
            if wanted not in starts and None not in starts:
                continue
            for begin, end, low, high in bands:
                if begin < self.reached:
                    axes.fill_between(
                        [begin, end],
                        low,
                        high,
                        facecolor=f"{colour}22",
                        edgecolor=f"{colour}44",
                        hatch=hatch,
                        linewidth=0,
                        label=name if begin == 0 else None,
                    )

    def _draw_clipping(self, axes: Axes) -> None:
        limits = {c.recipe.trainer.gradient_clip_val for c in self.curves if c.recipe is not None}
        if len(limits) == 1 and (limit := limits.pop()):
            axes.axhline(limit, color="#555555", linewidth=1, linestyle=(0, (3, 3)), label="clipped above")

    def _scale(self, axes: Axes) -> None:
        lowest = min(y for _, _, drawn in self.lines for _, y in drawn.numbers)
        highest = max(y for _, _, drawn in self.lines for _, y in drawn.numbers)
        if self.subject.logarithmic and lowest > 0:
            from matplotlib.ticker import FuncFormatter

            axes.set_yscale("log")
            axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            axes.yaxis.set_minor_formatter(FuncFormatter(_minor_tick if highest < 500 * lowest else _no_tick))
        if self.subject.name == "wer":
            axes.set_ylim(0, min(1.5, max(1.05, 1.05 * highest)))
        elif self.subject.from_zero and lowest >= 0:
            axes.set_ylim(0, 1.08 * highest or 1.0)
        if self.subject.name == "learning_rate":
            axes.ticklabel_format(axis="y", style="sci", scilimits=(-3, -3), useMathText=True)

    def _draw_marks(self, axes: Axes, narrow: bool) -> None:
        """A line at each diagnosis, and above the picture its number and, where there is room, its name."""
        letter = (0.024 if narrow else 0.0105) * self.reached
        ends: list[float] = []  # of the labels in each row, from below
        for mark in sorted(self.marks, key=self._place):
            x, label = self._place(mark), str(mark.number)
            colour = "#b00020" if mark.diagnosis.severity == "error" else "#7a5c00"
            axes.axvline(x, color=colour, linewidth=1.2, linestyle=(0, (1, 1.5)))
            if not narrow:
                label += f" {mark.diagnosis.code}"
            width = letter * (len(label) + 2)
            to_the_left = x + width > 1.02 * self.reached
            start = x - width if to_the_left else x
            row = next((row for row, end in enumerate(ends) if end <= start), len(ends))
            ends[row : row + 1] = [start + width]
            axes.annotate(
                label,
                (x, 1.02 + (0.065 if narrow else 0.06) * row),
                xycoords=("data", "axes fraction"),
                ha="right" if to_the_left else "left",
                va="bottom",
                fontsize=8,
                color=colour,
            )

    def _place(self, mark: Mark) -> float:
        return self.axes[mark.run].at(mark.diagnosis.step or 0)

    def _legend(self, figure: Figure, axes: Axes, narrow: bool) -> None:
        handles: list[Any] = []
        kinds = list(dict.fromkeys(kind for _, kind, _ in self.lines))
        several = len(self.curves) > 1
        if several:
            for run in dict.fromkeys(run for run, _, _ in self.lines):
                colour, shape = self._colour(run, kinds[0]), self._shape(run, kinds[0])
                handles.append(_handle(self.labels[run], colour, "-", shape))
        if len(kinds) > 1:
            for kind in kinds:
                colour = "#333333" if several else self._colour(0, kind)
                shape = self._shape(0, kind) if kind.dots and not several else ""
                handles.append(_handle(kind.label, colour, kind.style, shape, hollow=kind.label == "CTC"))
        handles += axes.get_legend_handles_labels()[0]
        if handles:
            columns = 1 if narrow and several else 2 if narrow else 3
            figure.legend(
                handles=handles,
                loc="outside upper left",
                ncols=columns,
                fontsize=8,
                frameon=False,
                handlelength=3.2,
            )


def _handle(label: str, colour: str, style: Any, shape: str, *, hollow: bool = False) -> Line2D:
    from matplotlib.lines import Line2D

    return Line2D(
        [],
        [],
        color=colour,
        linestyle=style,
        marker=shape,
        markersize=4.5,
        markerfacecolor="white" if hollow else colour,
        label=plain(label),
    )


def plain(label: str, head: int = 20, tail: int = 19) -> str:
    """A label with `$` escaped, which matplotlib reads as mathematics, and shortened to head and tail."""
    short = label if len(label) <= head + tail + 3 else f"{label[:head]}...{label[-tail:]}"
    return short.replace("$", r"\$")


def _pretrained(curves: Curves) -> bool | None:
    """Whether it started from a trained model; None where unknown."""
    return None if curves.recipe is None else curves.recipe.init_from_pretrained_model is not None


def _minor_tick(value: float, _: int | None = None) -> str:
    """Between the powers of ten only 2 and 5 are named, so that labels do not touch."""
    first_digit = f"{value:e}"[0]
    return f"{value:g}" if first_digit in "25" else ""


def _no_tick(value: float, _: int | None = None) -> str:
    return ""


def figure(inches: tuple[float, float]) -> Figure:
    """An empty figure that is drawn without a screen.

    Raises:
        QuranAsrError: matplotlib is not installed.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise QuranAsrError(
            "drawing needs matplotlib, which is not installed", remedy="pip install 'quran-asr[plot]'"
        ) from None
    empty = Figure(figsize=inches, layout="constrained")
    FigureCanvasAgg(empty)
    return empty
