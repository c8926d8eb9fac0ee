"""The checks before a training, as `check` and `train` do them: torch is loaded when the first needs it."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from quran_asr.cli.printing import echo, print_finding, progress_bar
from quran_asr.cli.start import Wish, open_start
from quran_asr.findings import Finding, QuranAsrError, counted

if TYPE_CHECKING:
    from quran_asr.corpus.select import Selection
    from quran_asr.records import Segment
    from quran_asr.runs.checks.check import Line
    from quran_asr.runs.checks.check_text import Tokens
    from quran_asr.runs.checks.outcome import Outcomes
    from quran_asr.runs.folder import RunFolder
    from quran_asr.runs.schema import Recipe
    from quran_asr.train.loop import Start

GATE_STEPS = 300
"""For recipes that name none; small ones need 60 to 150."""
GATED_ON_A_CPU = 5_000_000
"""Parameters up to which a CPU learns a few clips by heart within a minute or two."""
TRAIN_SAMPLE = 20
"""Clips of each manifest that `train` decodes before it begins."""


class FromTrain:
    """The checks of the room `train` (see `runs.check.TorchChecks`)."""

    def __init__(self, recipe: Recipe, wish: Wish, folder: Path, gate_steps: int | None) -> None:
        """`folder` takes the tokenizer. `gate_steps`: None decides by recipe, size and device."""
        self.recipe = recipe
        self.wish = wish
        self.folder = folder
        self.gate_steps = gate_steps
        self._start: tuple[Start | None] | None = None

    def started(self) -> Start | None:
        """The pretrained model, looked for once."""
        if self._start is None:
            self._start = (open_start(self.recipe, self.wish),)
        return self._start[0]

    def tokenizer(self) -> Tokens:
        if self.wish.keep_tokens:
            from quran_asr.runs.folder import RunFolder
            from quran_asr.train.loop import prepare_tokenizer

            return prepare_tokenizer(self.recipe, RunFolder(self.folder), self.started())
        from quran_asr.train.tokenizer import make_tokenizer

        return make_tokenizer(self.recipe, self.folder / "tokenizer")

    def environment(self) -> Outcomes:
        from quran_asr.train.environment import torch_environment

        return torch_environment(self.recipe)

    def loss(self) -> Outcomes:
        from quran_asr.train.environment import in_one_line, training_device
        from quran_asr.train.loss.loss_check import check_loss

        try:
            return check_loss(training_device(self.recipe))
        except RuntimeError as error:
            raise in_one_line(error) from error

    def start(self, training: Sequence[Segment]) -> Outcomes:
        from quran_asr.train.start.start_check import check_start
        from quran_asr.train.tokenizer import Tokenizer

        start = self.started()
        return check_start(
            self.recipe,
            Tokenizer(self.folder / "tokenizer"),
            training,
            None if start is None else start.archive,
            allow_partial=self.wish.allow_partial,
            say=lambda text: echo(text, err=True),
        )

    def memory(self, training: Sequence[Segment]) -> Outcomes:
        from quran_asr.train.environment import in_one_line, training_device
        from quran_asr.train.memory.heaviest_batch import check_memory
        from quran_asr.train.tokenizer import Tokenizer

        device = training_device(self.recipe)
        try:
            return check_memory(self.recipe, Tokenizer(self.folder / "tokenizer"), training, device)
        except RuntimeError as error:
            raise in_one_line(error) from error

    def overfit(self, training: Sequence[Segment]) -> Outcomes:
        from quran_asr.runs.checks.outcome import skipped
        from quran_asr.runs.parameters import count_parameters
        from quran_asr.train.environment import in_one_line, training_device
        from quran_asr.train.preflight import gate_clips, judge, overfit_gate
        from quran_asr.train.tokenizer import Tokenizer

        device = training_device(self.recipe)
        parameters = count_parameters(self.recipe.model, self.recipe.quran.vocabulary_size)
        steps = self.recipe.quran.overfit_gate_steps if self.gate_steps is None else self.gate_steps
        if self.gate_steps == 0:
            return skipped("--gate-steps 0")
        if not steps and device.type == "cpu" and parameters > GATED_ON_A_CPU:
            return skipped(
                f"{parameters / 1e6:.1f} M parameters would learn by heart for many minutes on a CPU",
                f"--gate-steps {GATE_STEPS} does it all the same",
            )
        tokenizer = Tokenizer(self.folder / "tokenizer")
        clips = gate_clips(self.recipe, tokenizer, training)
        try:
            with progress_bar("overfit gate", "steps") as show:
                gate = overfit_gate(self.recipe, tokenizer, clips, steps or GATE_STEPS, show, device)
        except RuntimeError as error:
            raise in_one_line(error) from error
        return judge(gate, len(clips))


class TrainPreflight:
    """What `train` looks at before its run folder exists: what is quick, and what it does not do itself."""

    def __init__(self, recipe: Recipe, wish: Wish, chosen: tuple[Selection, Selection], folder: Path) -> None:
        from quran_asr.runs.checks.check import Preflight
        from quran_asr.runs.checks.check_data import Data
        from quran_asr.runs.planning.plan_start import TOO_LITTLE

        self.from_train = FromTrain(recipe, wish, folder, gate_steps=None)
        preflight = Preflight(
            recipe,
            self.from_train,
            progress_bar,
            sample=TRAIN_SAMPLE,
            data=Data(chosen[0].kept, chosen[1].kept),
            tolerated=(TOO_LITTLE,) if wish.allow_partial else (),
        )
        self.checks = preflight.checks()
        self.lines: list[Line] = []

    def light(self) -> bool:
        """Whether all is well that can be seen without torch."""
        return self._run([check.name for check in self.checks if not check.heavy])

    def heavy(self) -> bool:
        """Whether the rest is well. What arrives of a pretrained model, training says and judges itself.

        Raises:
            QuranAsrError: the pretrained model cannot be had.
        """
        from quran_asr.train.environment import training_device

        self.from_train.started()  # what cannot be had ends everything at once
        recipe = self.from_train.recipe
        names = ["environment", "loss"]
        if training_device(recipe).type == "cuda" and not self.from_train.wish.fit_memory:
            names.append("memory")
        if recipe.quran.overfit_gate_steps:
            names.append("overfit")
        well = self._run(names)
        passes = sum(line.status == "pass" for line in self.lines)
        warnings = sum(line.status == "warning" for line in self.lines)
        if well:
            told = f"{counted(passes, 'pass', 'passes')}, {counted(warnings, 'warning')}"
            echo(f"preflight: {told}", err=True)
        return well

    def tokenizer_for(self, run: RunFolder) -> None:
        """The run takes the tokenizer that was checked, instead of making it again."""
        from quran_asr.train.tokenizer import copy_tokenizer

        copy_tokenizer(self.from_train.folder / "tokenizer", run.tokenizer)

    def _run(self, names: Sequence[str]) -> bool:
        from quran_asr.runs.checks.check import has_failed, run

        checks = [check for check in self.checks if check.name in names]
        self.lines += run(checks, _show_as_finding, before=self.lines)
        return not has_failed(self.lines)


@contextlib.contextmanager
def train_preflight(
    recipe: Recipe, wish: Wish, chosen: tuple[Selection, Selection]
) -> Iterator[TrainPreflight]:
    """With a place for the tokenizer until there is a run folder."""
    with tempfile.TemporaryDirectory(prefix="quran-asr-") as folder:
        yield TrainPreflight(recipe, wish, chosen, Path(folder))


def pass_gate(recipe: Recipe, run: RunFolder, segments: Sequence[Segment]) -> None:
    """Stop before a training that cannot learn: a few clips must be learned by heart first.

    Raises:
        QuranAsrError: they were not learned within `quran.overfit_gate_steps`.
    """
    steps = recipe.quran.overfit_gate_steps
    if not steps:
        return
    from quran_asr.train.loop import prepare_tokenizer
    from quran_asr.train.preflight import gate_clips, judge, overfit_gate

    tokenizer = prepare_tokenizer(recipe, run)
    clips = gate_clips(recipe, tokenizer, segments)
    with progress_bar("overfit gate", "steps") as show:
        outcome = judge(overfit_gate(recipe, tokenizer, clips, steps, show), len(clips))
    if outcome.status == "failure":
        raise QuranAsrError(outcome.message, remedy=outcome.remedy)
    echo(f"overfit gate passed: {outcome.message}", err=True)


def show_line(line: Line, echo: Callable[[str], None]) -> None:
    """One line of `check`; colour on a terminal, and never needed."""
    colours = {"pass": "green", "note": "blue", "warning": "yellow", "failure": "red", "skipped": "cyan"}
    colour = colours[line.status]
    echo(f"{click.style(f'{line.status:8}', fg=colour)} {line.code:16} {line.message}")
    if line.remedy:
        echo(f"{'':25} hint: {line.remedy}")


def _show_as_finding(line: Line) -> None:
    if line.status in ("warning", "failure"):
        print_finding(
            Finding(
                "warning" if line.status == "warning" else "error", line.code, "", line.message, line.remedy
            )
        )
    elif line.check == "overfit":
        echo(f"overfit gate passed: {line.message}", err=True)
