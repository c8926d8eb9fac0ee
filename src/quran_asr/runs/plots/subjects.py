"""What is drawn of a training: the series of each picture, and how each is told from the others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from quran_asr.runs.curves import Curves, Point, Series


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
    """Audio trained on in a second where all trainings say it; else optimizer steps in a second."""
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
