"""Are the manifests usable, and is there sound behind them?"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from quran_asr import audio
from quran_asr.corpus.foreign import foreign_letters
from quran_asr.corpus.manifest import read_manifest
from quran_asr.corpus.select import describe, hours, select
from quran_asr.findings import QuranAsrError, counted
from quran_asr.records import Segment
from quran_asr.runs.checks.outcome import Outcome, failure, of_finding, passed, some_of, warning
from quran_asr.runs.schema import Recipe

MOST_UNREADABLE = 0.05
"""Share of the sample from which training on what is left would be another training."""
SILENT = 1e-4
"""Peak under which a clip has no sound: -80 dB, some two steps of 16 bits."""
LEFT_OVER_SECONDS, LEFT_OVER_SHARE = 0.5, 0.05
"""A file may be that much longer than its only line says."""


@dataclass(frozen=True, slots=True)
class Data:
    """The clips that a recipe takes."""

    training: tuple[Segment, ...]
    validation: tuple[Segment, ...]

    @property
    def sides(self) -> tuple[tuple[str, tuple[Segment, ...]], ...]:
        return (("training", self.training), ("validation", self.validation))

    @property
    def described(self) -> str:
        """One line on how much there is."""
        reciters = counted(len({segment.reciter for segment in self.training}), "reciter")
        return (
            f"{counted(len(self.training), 'clip')} for training ({hours(self.training):.2f} h, {reciters}), "
            f"{len(self.validation):,} for validation ({hours(self.validation):.2f} h)"
        )


def read_data(recipe: Recipe) -> tuple[Data | None, list[Outcome]]:
    """The clips of the recipe's manifests, and what is wrong with the lines; None with a failure.

    Every line is looked at, so that all bad ones are counted at once.
    """
    outcomes: list[Outcome] = []
    kept = []
    for what, ds in (("training", recipe.model.train_ds), ("validation", recipe.model.validation_ds)):
        segments: list[Segment] = []
        for manifest in ds.manifests:
            found, wrong = _lines(manifest, recipe.quran.spelling)
            segments += found
            outcomes += wrong
        longest = ds.max_duration
        chosen = select(segments, shortest=recipe.model.train_ds.min_duration, longest=longest)
        key = f"model.{'train_ds' if what == 'training' else 'validation_ds'}.max_duration"
        left_out = describe(chosen, what=what, key=key, longest=longest or 0.0)
        outcomes += [of_finding(finding) for finding in left_out]
        if segments and not chosen.kept:
            outcomes.append(failure(f"no {what} clip is left", f"raise {key}"))
        kept.append(chosen.kept)
    data = Data(*kept)
    if any(outcome.status == "failure" for outcome in outcomes):
        return None, outcomes
    foreign = foreign_letters(recipe.model.train_ds.manifests + recipe.model.validation_ds.manifests)
    if foreign is not None:
        outcomes.append(of_finding(foreign))
    return data, [passed(data.described), *outcomes]


def _lines(manifest: str, spelling: str) -> tuple[list[Segment], list[Outcome]]:
    try:
        segments, findings = read_manifest(manifest, spelling, on_error="collect")
    except QuranAsrError as error:
        return [], [failure(f"{error.where}: {error.what}", error.remedy)]
    if not findings:
        return segments, []
    first = findings[0]
    many = f"{len(findings):,} of {len(segments) + len(findings):,} lines cannot be used, the first: "
    remedy = first.remedy or "mend or remove these lines: training refuses them"
    return segments, [failure(f"{many if len(findings) > 1 else ''}{first.where}: {first.message}", remedy)]


def decodable(
    data: Data,
    sample: int | None,
    seed: int,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[Outcome]:
    """Decode some clips of each side, the same every time.

    Args:
        data: the clips.
        sample: how many of each side; None for all.
        seed: of the draw. The longest clip and one of every kind of file are always among them.
        on_progress: called with (done, total).
    """
    lines_of = Counter(segment.audio for _, side in data.sides for segment in side)
    drawn = [segment for _, side in data.sides for segment in _draw(side, sample, seed)]
    unreadable: list[str] = []
    silent: list[str] = []
    left_over: list[str] = []
    formats: Counter[str] = Counter()
    for number, segment in enumerate(drawn, start=1):
        try:
            samples = audio.read(segment.audio, segment.offset, segment.duration)
            info = audio.probe(segment.audio)
            formats[f"{info.format} {info.rate / 1000:g} kHz"] += 1
            if max(float(samples.max()), -float(samples.min())) < SILENT:
                silent.append(segment.audio)
            rest = info.seconds - segment.duration
            alone = segment.offset == 0 and lines_of[segment.audio] == 1
            if alone and rest > max(LEFT_OVER_SECONDS, LEFT_OVER_SHARE * info.seconds):
                left_over.append(
                    f"{segment.audio} has {info.seconds:.2f} s, its line {segment.duration:.2f} s"
                )
        except QuranAsrError as error:
            unreadable.append(f"{error.where or segment.audio}: {error.what}")
        on_progress(number, len(drawn))
    kinds = ", ".join(kind for kind, _ in formats.most_common(4))
    total = sum(len(side) for _, side in data.sides)
    outcomes = [_unreadable(unreadable, len(drawn))] if unreadable else []
    if silent:
        say = failure if len(silent) >= MOST_UNREADABLE * len(drawn) else warning
        message = f"{some_of(len(silent), len(drawn))} decoded clips are silent, the first: {silent[0]}"
        outcomes.append(say(message, "`quran-asr corpus audit` finds and leaves out such clips"))
    if left_over:
        message = (
            f"{some_of(len(left_over), len(drawn))} files are longer than their only line: {left_over[0]}"
        )
        outcomes.append(
            warning(message, "what lies behind is not heard: does the text cover the whole file?")
        )
    if not outcomes:
        return [passed(f"{len(drawn):,} of {total:,} clips decoded ({kinds}), as long as their lines say")]
    return outcomes


def _unreadable(found: Sequence[str], drawn: int) -> Outcome:
    message = f"{some_of(len(found), drawn)} decoded clips cannot be read, the first: {found[0]}"
    remedy = "`quran-asr corpus scan` leaves such files out; `--sample all` counts them"
    return (failure if len(found) >= MOST_UNREADABLE * drawn else warning)(message, remedy)


def _draw(side: Sequence[Segment], sample: int | None, seed: int) -> list[Segment]:
    if sample is None or len(side) <= sample:
        return list(side)
    places = random.Random(seed).sample(range(len(side)), sample)
    kinds = {Path(side[i].audio).suffix.lower(): i for i in range(len(side) - 1, -1, -1)}
    longest = max(range(len(side)), key=lambda i: side[i].duration)
    drawn = {Path(side[i].audio).suffix.lower() for i in places}
    places += [i for kind, i in kinds.items() if kind not in drawn]
    return [side[i] for i in dict.fromkeys([*places, longest])]
