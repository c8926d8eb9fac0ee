"""What `train`, `check`, `sweep` and `quickstart` share: clips, starting weights, preflight checks."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from quran_asr.cli.output import echo, print_finding, print_findings, progress_bar
from quran_asr.errors import Finding, QuranAsrError, counted

if TYPE_CHECKING:
    from quran_asr.config.schema import Recipe
    from quran_asr.corpus.manifest import Moved
    from quran_asr.experiments.checks.data import Tokens
    from quran_asr.experiments.checks.outcome import Outcomes
    from quran_asr.experiments.checks.preflight import Line
    from quran_asr.experiments.run_folder import RunFolder
    from quran_asr.experiments.training_clips import Selection
    from quran_asr.records import Segment
    from quran_asr.training.trainer import Start


@dataclass(frozen=True, slots=True)
class StartOptions:
    """How a training is started."""

    allow_partial: bool
    """Little of the encoder may come from the pretrained model."""
    keep_tokens: bool
    """Its tokenizer is taken over."""
    preflight: bool = True
    fit_memory: bool = False
    """The largest batch that fits is looked for."""
    quiet: bool = False
    """Where the model was found need not be reported."""


def load(name: str, overrides: Sequence[str]) -> Recipe:
    """The recipe of that name or file under these overrides."""
    from quran_asr.config.recipe import load_recipe

    return load_recipe(name, overrides)


def start_from_checkpoint(recipe: Recipe) -> Recipe:
    """`exp_manager.resume_from_checkpoint=FILE.nemo` starts a new run from those weights.

    Raises:
        QuranAsrError: it is neither a `.nemo` nor a `.ckpt`.
    """
    given = recipe.exp_manager.resume_from_checkpoint
    if given is None:
        return recipe
    if not given.endswith(".nemo"):
        raise QuranAsrError(
            "neither a .nemo nor a .ckpt", where=f"exp_manager.resume_from_checkpoint={given}", remedy=""
        )
    echo(
        f"a .nemo contains no optimizer state: a new run starts from the weights of {given}, with a new "
        "optimizer and schedule (`--resume RUN` would continue its run)",
        err=True,
    )
    exp_manager = replace(recipe.exp_manager, resume_from_checkpoint=None)
    return replace(recipe, exp_manager=exp_manager, init_from_pretrained_model=given)


def open_start(recipe: Recipe, start_options: StartOptions) -> Start | None:
    """The model that the recipe starts from: found or downloaded, and its archive or bundle looked through.

    Raises:
        QuranAsrError: it cannot be had, or is not what it should be.
    """
    name = recipe.init_from_pretrained_model
    if name is None:
        return None
    from quran_asr.training.bundle_weights import read_exported
    from quran_asr.training.nemo_archive import read_archive
    from quran_asr.training.pretrained import find_pretrained

    with progress_bar(f"downloading {name}", "bytes") as show:
        found = find_pretrained(name, show)
    if not start_options.quiet:
        echo(f"start from {found.path} ({found.source})", err=True)
    archive = (
        read_exported(found.path, xscaling=recipe.model.encoder.xscaling)
        if found.path.is_dir()
        else read_archive(found.path)
    )
    from quran_asr.training.trainer import Start  # imports NeMo, which is for what was not refused

    return Start(
        found,
        archive,
        start_options.allow_partial,
        start_options.keep_tokens,
        lambda text: echo(text, err=True),
    )


def select_clips(recipe: Recipe, moved: Moved = ()) -> tuple[Selection, Selection]:
    """The clips of both manifests that the recipe takes; what it leaves out is reported on stderr.

    Args:
        recipe: names the manifests.
        moved: folders in which their recordings lay, and where they lie now.

    Raises:
        QuranAsrError: a manifest is missing, unreadable, or nothing in it is left.
    """
    from quran_asr.corpus.manifest import read_manifest
    from quran_asr.corpus.text_check import unknown_characters_of
    from quran_asr.experiments.training_clips import describe, select

    selections = []
    shortest = recipe.model.train_ds.min_duration
    for what, key, ds in (
        ("training", "train_ds", recipe.model.train_ds),
        ("validation", "validation_ds", recipe.model.validation_ds),
    ):
        if not ds.manifests:
            option = "--train" if what == "training" else "--validation"
            raise QuranAsrError(
                f"no {what} manifest",
                where=f"model.{key}.manifest_filepath",
                remedy=f"give one with {option} MANIFEST (`quran-asr corpus scan` makes one from recordings)",
            )
        segments = []
        for manifest in ds.manifests:
            segments += read_manifest(manifest, recipe.quran.spelling, moved=moved)
        selection = select(segments, shortest=shortest, longest=ds.max_duration)
        limit = ds.max_duration if ds.max_duration is not None else 0.0
        print_findings(describe(selection, what=what, key=f"model.{key}.max_duration", longest=limit))
        if not selection.kept:
            raise QuranAsrError(
                f"no {what} clip is left",
                where=str(ds.manifests[0]),
                remedy=f"raise model.{key}.max_duration, or cut the clips at pauses"
                if selection.too_long
                else f"name a manifest whose clips have text and last at least {shortest:g} s",
            )
        selections.append(selection)
    foreign = unknown_characters_of(recipe.model.train_ds.manifests + recipe.model.validation_ds.manifests)
    if foreign is not None:
        print_finding(foreign)
    return selections[0], selections[1]


def describe_data(recipe: Recipe, training: Selection, validation: Selection) -> str:
    """One line on what is trained on."""
    from quran_asr.experiments.training_clips import hours, with_windows

    reciters = counted(len({segment.reciter for segment in training.kept}), "reciter")
    longest = recipe.model.train_ds.max_duration
    joined = with_windows(training.kept, recipe.quran, longest)[len(training.kept) :]
    more = f" and on {counted(len(joined), 'window')} of consecutive verses ({hours(joined):.2f} h)"
    return (
        f"training on {counted(len(training.kept), 'clip')} ({training.hours:.2f} h, {reciters})"
        f"{more if joined else ''}, validation on {len(validation.kept):,} ({validation.hours:.2f} h)"
    )


GATE_STEPS = 300
"""For recipes that name none; small ones need 60 to 150."""
GATED_ON_A_CPU = 5_000_000
"""Parameters up to which a CPU overfits a few clips within a minute or two."""
TRAIN_SAMPLE = 20
"""Clips of each manifest that `train` decodes before it begins."""


class TorchChecks:
    """The checks that need torch (see `experiments.checks.preflight`)."""

    def __init__(
        self, recipe: Recipe, start_options: StartOptions, folder: Path, gate_steps: int | None
    ) -> None:
        """`folder` takes the tokenizer. `gate_steps`: None decides by recipe, size and device."""
        self.recipe = recipe
        self.start_options = start_options
        self.folder = folder
        self.gate_steps = gate_steps
        self._start: tuple[Start | None] | None = None

    def started(self) -> Start | None:
        """The pretrained model, looked for once."""
        if self._start is None:
            self._start = (open_start(self.recipe, self.start_options),)
        return self._start[0]

    def tokenizer(self) -> Tokens:
        if self.start_options.keep_tokens:
            from quran_asr.experiments.run_folder import RunFolder
            from quran_asr.training.trainer import prepare_tokenizer

            return prepare_tokenizer(self.recipe, RunFolder(self.folder), self.started())
        from quran_asr.training.tokenizer import make_tokenizer

        quran, source = self.recipe.quran, self.recipe.model.tokenizer.dir
        return make_tokenizer(self.folder / "tokenizer", quran.spelling, quran.vocabulary_size, source)

    def environment(self) -> Outcomes:
        from quran_asr.training.checks import torch_environment

        return torch_environment(self.recipe.trainer)

    def loss(self) -> Outcomes:
        from quran_asr.training.checks import check_loss, in_one_line
        from quran_asr.training.distributed import training_device

        try:
            return check_loss(training_device(self.recipe.trainer.accelerator))
        except RuntimeError as error:
            raise in_one_line(error) from error

    def start(self, training: Sequence[Segment]) -> Outcomes:
        from quran_asr.training.checks import check_start
        from quran_asr.training.tokenizer import Tokenizer

        start = self.started()
        return check_start(
            self.recipe,
            Tokenizer(self.folder / "tokenizer"),
            training,
            None if start is None else start.archive,
            allow_partial=self.start_options.allow_partial,
            report=lambda text: echo(text, err=True),
        )

    def memory(self, training: Sequence[Segment]) -> Outcomes:
        from quran_asr.training.checks import in_one_line
        from quran_asr.training.distributed import training_device
        from quran_asr.training.memory import check_memory
        from quran_asr.training.tokenizer import Tokenizer

        device = training_device(self.recipe.trainer.accelerator)
        try:
            return check_memory(self.recipe, Tokenizer(self.folder / "tokenizer"), training, device)
        except RuntimeError as error:
            raise in_one_line(error) from error

    def overfit(self, training: Sequence[Segment]) -> Outcomes:
        from quran_asr.config.architecture import count_parameters
        from quran_asr.experiments.checks.outcome import skipped
        from quran_asr.training.checks import diagnose, gate_clips, in_one_line, overfit_gate
        from quran_asr.training.distributed import training_device
        from quran_asr.training.tokenizer import Tokenizer

        device = training_device(self.recipe.trainer.accelerator)
        parameters = count_parameters(self.recipe.model, self.recipe.quran.vocabulary_size)
        steps = self.recipe.quran.overfit_gate_steps if self.gate_steps is None else self.gate_steps
        if self.gate_steps == 0:
            return skipped("--gate-steps 0")
        if not steps and device.type == "cpu" and parameters > GATED_ON_A_CPU:
            return skipped(
                f"{parameters / 1e6:.1f} M parameters would take many minutes on a CPU",
                f"--gate-steps {GATE_STEPS} runs it anyway",
            )
        tokenizer = Tokenizer(self.folder / "tokenizer")
        clips = gate_clips(self.recipe.model, tokenizer, training)
        try:
            with progress_bar("overfit gate", "steps") as show:
                gate = overfit_gate(self.recipe, tokenizer, clips, steps or GATE_STEPS, show, device)
        except RuntimeError as error:
            raise in_one_line(error) from error
        return diagnose(gate, len(clips))


class TrainPreflight:
    """What `train` looks at before its run folder exists: what is quick, and what it does not do itself."""

    def __init__(
        self, recipe: Recipe, start_options: StartOptions, chosen: tuple[Selection, Selection], folder: Path
    ) -> None:
        from quran_asr.experiments.checks.data import Data
        from quran_asr.experiments.checks.preflight import Preflight
        from quran_asr.experiments.planning.starting_point import TOO_LITTLE

        self.from_train = TorchChecks(recipe, start_options, folder, gate_steps=None)
        preflight = Preflight(
            recipe,
            self.from_train,
            progress_bar,
            sample=TRAIN_SAMPLE,
            data=Data(chosen[0].kept, chosen[1].kept),
            tolerated=(TOO_LITTLE,) if start_options.allow_partial else (),
        )
        self.checks = preflight.checks()
        self.lines: list[Line] = []

    def light(self) -> bool:
        """Whether all is well that can be seen without torch."""
        return self._run([check.name for check in self.checks if not check.heavy])

    def heavy(self) -> bool:
        """Whether the rest is well. Training itself reports and judges what arrives of a pretrained model.

        Raises:
            QuranAsrError: the pretrained model cannot be had.
        """
        from quran_asr.training.distributed import training_device

        self.from_train.started()  # what cannot be had ends everything at once
        recipe = self.from_train.recipe
        names = ["environment", "loss"]
        if (
            training_device(recipe.trainer.accelerator).type == "cuda"
            and not self.from_train.start_options.fit_memory
        ):
            names.append("memory")
        if recipe.quran.overfit_gate_steps:
            names.append("overfit")
        well = self._run(names)
        passes = sum(line.status == "pass" for line in self.lines)
        warnings = sum(line.status == "warning" for line in self.lines)
        if well:
            summary = f"{counted(passes, 'pass', 'passes')}, {counted(warnings, 'warning')}"
            echo(f"preflight: {summary}", err=True)
        return well

    def tokenizer_for(self, run: RunFolder) -> None:
        """The run takes the tokenizer that was checked, instead of making it again."""
        from quran_asr.training.tokenizer import copy_tokenizer

        copy_tokenizer(self.from_train.folder / "tokenizer", run.tokenizer)

    def _run(self, names: Sequence[str]) -> bool:
        from quran_asr.experiments.checks.preflight import has_failed, run

        checks = [check for check in self.checks if check.name in names]
        self.lines += run(checks, _show_as_finding, before=self.lines)
        return not has_failed(self.lines)


@contextlib.contextmanager
def train_preflight(
    recipe: Recipe, start_options: StartOptions, chosen: tuple[Selection, Selection]
) -> Iterator[TrainPreflight]:
    """With a place for the tokenizer until there is a run folder."""
    with tempfile.TemporaryDirectory(prefix="quran-asr-") as folder:
        yield TrainPreflight(recipe, start_options, chosen, Path(folder))


def pass_gate(recipe: Recipe, run: RunFolder, segments: Sequence[Segment]) -> None:
    """Stop before a training that cannot learn: a few clips must be overfitted first.

    Raises:
        QuranAsrError: they were not learned within `quran.overfit_gate_steps`.
    """
    steps = recipe.quran.overfit_gate_steps
    if not steps:
        return
    from quran_asr.training.checks import diagnose, gate_clips, overfit_gate
    from quran_asr.training.trainer import prepare_tokenizer

    tokenizer = prepare_tokenizer(recipe, run)
    clips = gate_clips(recipe.model, tokenizer, segments)
    with progress_bar("overfit gate", "steps") as show:
        outcome = diagnose(overfit_gate(recipe, tokenizer, clips, steps, show), len(clips))
    if outcome.status == "failure":
        raise QuranAsrError(outcome.message, remedy=outcome.remedy)
    echo(f"overfit gate passed: {outcome.message}", err=True)


def show_line(line: Line) -> None:
    """One line of `check`; colour on a terminal, and never needed."""
    colours = {"pass": "green", "note": "blue", "warning": "yellow", "failure": "red", "skipped": "cyan"}
    colour = colours[line.status]
    echo(f" {line.code:16} {line.message}", label=f"{line.status:8}", colour=colour)
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
