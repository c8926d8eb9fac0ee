"""The mean of a run's best checkpoints, kept only if its WER is lower than that of the best one.

Averaging the weights along the end of a training (Polyak & Juditsky 1992; for checkpoints e.g. Vaswani et al.
2017, section 6.1) often gains a little; whether it does here is measured, not assumed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from quran_asr.config.recipe import load_recipe
from quran_asr.errors import Finding, QuranAsrError, counted
from quran_asr.evaluation.confidence import Interval, intervals, method
from quran_asr.evaluation.evaluate import evaluate
from quran_asr.evaluation.report import Report, ScoredClip, Setting
from quran_asr.evaluation.transcripts import write_transcripts
from quran_asr.experiments.checkpoints import averageable, best_of, saved_in
from quran_asr.experiments.run_folder import RunFolder, rate_of
from quran_asr.records import Counts, Segment
from quran_asr.training.checkpoints import model_weights, replace_nemo, save_nemo
from quran_asr.training.cpu import choose_threads
from quran_asr.training.model import build_model
from quran_asr.training.nemo_archive import read_archive, read_weights
from quran_asr.training.recognizer import (
    AnyRecognizer,
    load_recognizer,
    put_weights,
    recognizer_of,
    restore_checkpoint,
)

Show = Callable[[int, int], None]
"""Called with (done, total)."""

SAME_CLIPS = 0.002
"""Rates this close may be the same clips on another device; further apart, they are other clips."""


def mean_weights(paths: Sequence[Path], on_progress: Show | None = None) -> dict[str, Tensor]:
    """The mean of the models in `.ckpt` files, summed in float64 and given back in each tensor's own type.

    One file is read at a time, and of it only the model. Running statistics of batch norms are averaged like
    weights; tensors of whole numbers (counters) are those of the first file.

    Args:
        paths: the best first.
        on_progress: called with (files read, all files).

    Raises:
        QuranAsrError: a file cannot be read, holds numbers that are not finite, or other tensors than the
            first.
    """
    first: dict[str, Tensor] = {}
    sums: dict[str, Tensor] = {}
    for done, path in enumerate(paths, start=1):
        weights = model_weights(path)
        if not first:
            first = {name: tensor.clone() for name, tensor in weights.items()}
            sums = {
                name: torch.zeros(tensor.shape, dtype=torch.float64)
                for name, tensor in weights.items()
                if tensor.is_floating_point()
            }
        _refuse_other_tensors(paths[0], first, path, weights)
        for name, total in sums.items():
            if not bool(torch.isfinite(weights[name]).all()):
                raise QuranAsrError(
                    f"holds numbers that are not finite (first in {name})",
                    where=str(path),
                    remedy="this checkpoint is broken: take it away and average the others",
                )
            total += weights[name]
        if on_progress is not None:
            on_progress(done, len(paths))
    return first | {name: (total / len(paths)).to(first[name].dtype) for name, total in sums.items()}


def _refuse_other_tensors(
    first_path: Path, first: dict[str, Tensor], path: Path, weights: dict[str, Tensor]
) -> None:
    odd = sorted(first.keys() ^ weights.keys())
    if odd:
        what = f"{odd[0]} is in one of them only"
    else:
        other = [name for name, tensor in first.items() if tensor.shape != weights[name].shape]
        if not other:
            return
        here, there = list(weights[other[0]].shape), list(first[other[0]].shape)
        what = f"{other[0]} has the shape {here} here and {there} there"
    raise QuranAsrError(
        f"is not a checkpoint of the same model as {first_path.name}: {what}",
        where=str(path),
        remedy="average checkpoints of one model only",
    )


@dataclass(frozen=True, slots=True)
class MeasuredModel:
    """One model on the validation clips."""

    model: Path
    words: Counts
    clips: int


@dataclass(frozen=True, slots=True)
class AverageResult:
    """What came of an average."""

    averaged: tuple[Path, ...]
    best: MeasuredModel
    """The run's best model until now."""
    average: MeasuredModel
    look_ahead_ms: int | None
    interval: Interval | None
    """Of the average's WER minus the best's, 95 %, both on the same clips."""
    interval_method: str
    written: Path | None
    """The `.nemo` of the average; None where it is not better, and was not kept."""
    ranked: bool
    """Whether it lies in `checkpoints`, where it is the run's best model now."""

    @property
    def difference(self) -> float:
        return self.average.words.rate - self.best.words.rate

    @property
    def within_noise(self) -> bool:
        return self.interval is None or self.interval[0] <= 0 <= self.interval[1]

    def to_json(self) -> dict[str, Any]:
        return {
            "averaged": [str(path) for path in self.averaged],
            "best": _measured_as_json(self.best),
            "average": _measured_as_json(self.average),
            "decoder": "transducer",
            "look_ahead_ms": self.look_ahead_ms,
            "difference": round(self.difference, 6),
            "difference_interval": None if self.interval is None else [round(b, 6) for b in self.interval],
            "interval_method": self.interval_method,
            "within_noise": self.within_noise,
            "kept": self.written is not None,
            "written": None if self.written is None else str(self.written),
            "ranked": self.ranked,
        }


def keep_if_better(
    run: RunFolder,
    weights: dict[str, Tensor],
    averaged: Sequence[Path],
    best: Path,
    segments: Sequence[Segment],
    *,
    own_clips: bool,
    to: Path | None = None,
    on_progress: Show | None = None,
) -> AverageResult:
    """Compare an average with the run's best model on the same clips; keep the average if it is better.

    Both are evaluated with the transducer at the widest look-ahead, as the validations of a training are. The
    average is written only if its WER is lower: to `checkpoints`, in the place of the `.nemo` there. Models
    are ranked there by the rates in their names, so where another device gives `best` another rate
    than its name has, the name of the average has that rate plus the difference measured. On clips other
    than those of the run's validations rates do not compare, and the average goes to the run's folder itself.

    Args:
        run: the run.
        weights: of the average, from `mean_weights`.
        averaged: the `.ckpt` files of which it is the mean, the best first.
        best: its best model, a `.ckpt` or an earlier average.
        segments: clips to recognize.
        own_clips: they are those of the run's own validations; where that is not known, the rate in the name
            of `best` decides.
        to: the file to write instead.
        on_progress: called with (clips done, all clips of both).

    Raises:
        QuranAsrError: the weights do not fit the run, `best` cannot be loaded, or no clip can be read.
    """
    recipe = load_recipe(run.recipe)
    model = build_model(recipe, run.tokenizer)
    put_weights(model, weights, averaged[0])
    choose_threads(model)
    # decoded whole, as the validations of a training are
    recognizer = load_recognizer(best, "transducer", pause_seconds=None)
    old, old_clips = _evaluate(recognizer, segments, _half(on_progress, 0, len(segments)))
    recognizer = recognizer_of(model, "average", "transducer", pause_seconds=None)
    new, new_clips = _evaluate(recognizer, segments, _half(on_progress, len(segments), len(segments)))
    named, measured, wer = rate_of(best), old.whole.spelled.words.rate, new.whole.spelled.words.rate
    ranked = named is not None and to is None and (own_clips or abs(named - measured) <= SAME_CLIPS)
    target = None
    if wer < measured:
        if ranked and named is not None and round(measured, 4) != named:
            wer = max(0.0, named + wer - measured)
        name = f"{recipe.name}--val_wer={wer:.4f}-average={len(averaged)}.nemo"
        target = to or (run.checkpoints if ranked else run.path) / name
        (replace_nemo if ranked else save_nemo)(model.cpu(), target)
        if ranked:
            write_transcripts(run.transcripts, new_clips)
    return AverageResult(
        averaged=tuple(averaged),
        best=MeasuredModel(best, old.whole.spelled.words, old.whole.clips),
        average=MeasuredModel(target or Path("average"), new.whole.spelled.words, new.whole.clips),
        look_ahead_ms=new.setting.look_ahead_ms,
        interval=difference_interval(new_clips, old_clips),
        interval_method=method([clip.segment.reciter for clip in old_clips]),
        written=target,
        ranked=ranked and target is not None,
    )


def average_at_end(
    run: RunFolder,
    segments: Sequence[Segment],
    step: int,
    best_wer: float | None,
    on_finding: Callable[[Finding], None],
) -> float | None:
    """What `quran.average` asks for when a training has come to its end; `average.json` reports it.

    Args:
        run: the run.
        segments: the clips of its validations.
        step: optimizer steps made.
        best_wer: lowest WER of its validations.
        on_finding: called with the result.

    Returns:
        The WER of the run's best model from now on.
    """
    saved = saved_in(run)
    usable, best = averageable(saved), best_of(saved)
    wanted = load_recipe(run.recipe).quran.average
    if len(usable) < 2 or best is None:
        what = f"no average of {wanted}: the run has {counted(len(usable), 'checkpoint')} with a rate"
        run.write_json("average.json", {"step": step, "kept": False, "averaged": []})
        on_finding(Finding("note", "average", "quran.average", what, ""))
        return best_wer
    paths = [one.path for one in usable[:wanted]]
    found = keep_if_better(run, mean_weights(paths), paths, best.path, segments, own_clips=True)
    run.write_json("average.json", {"step": step, **found.to_json()})
    noise = ", within the noise of these clips" if found.within_noise else ""
    what = (
        f"the mean of the {len(paths)} best checkpoints has a WER of {found.average.words.rate:.4f}, the "
        f"best model {found.best.words.rate:.4f}{noise}: it is {'kept' if found.written else 'not kept'}"
    )
    on_finding(Finding("note", "average", "quran.average", what, ""))
    return rate_of(found.written) if found.ranked and found.written is not None else best_wer


def _half(on_progress: Show | None, before: int, clips: int) -> Show | None:
    if on_progress is None:
        return None
    return lambda done, _: on_progress(before + done, 2 * clips)


def _evaluate(
    recognizer: AnyRecognizer, segments: Sequence[Segment], on_progress: Show | None
) -> tuple[Report, list[ScoredClip]]:
    setting = Setting(
        model=recognizer.name,
        decoder=recognizer.decoder,
        look_ahead_ms=recognizer.look_ahead_ms,
        spelling=recognizer.spelling,
        edition=recognizer.edition,
    )
    return evaluate(segments, recognizer.recognize_clips, setting, None, on_progress)


def difference_interval(new: Sequence[ScoredClip], old: Sequence[ScoredClip]) -> Interval | None:
    """95 % interval of new WER minus old WER over the same clips, which are drawn in pairs.

    The WER is linear in the errors, so the interval of the difference is that of a rate whose
    errors are the differences clip by clip (a paired bootstrap, see `measure.interval`).
    """
    errors = [a.score.words.errors - b.score.words.errors for a, b in zip(new, old, strict=True)]
    reference_lengths = [clip.score.words.reference_length for clip in old]
    reciters = [clip.segment.reciter for clip in old]
    return intervals(
        np.array(errors, np.int64)[:, None], np.array(reference_lengths, np.int64)[:, None], reciters
    )[0]


def same_model(archive: Path, checkpoint: Path) -> bool:
    """Whether a `.nemo` holds the weights of a `.ckpt`.

    Raises:
        QuranAsrError: one of them cannot be read.
    """
    there, here = read_weights(read_archive(archive)), model_weights(checkpoint)
    return there.keys() == here.keys() and all(torch.equal(there[name], here[name]) for name in here)


def export(checkpoint: Path, target: Path) -> None:
    """Write the model of a run's `.ckpt` as a stock `.nemo`, atomically.

    Raises:
        QuranAsrError: it cannot be read, or does not fit its run.
    """
    model = restore_checkpoint(checkpoint)
    target.parent.mkdir(parents=True, exist_ok=True)
    save_nemo(model, target)


def _measured_as_json(measured: MeasuredModel) -> dict[str, Any]:
    words = measured.words
    counts = {name: getattr(words, name) for name in ("hits", "substitutions", "insertions", "deletions")}
    return {
        "model": str(measured.model),
        "clips": measured.clips,
        "counts": counts,
        "wer": round(words.rate, 6),
    }
