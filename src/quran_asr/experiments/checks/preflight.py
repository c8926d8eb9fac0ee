"""All checks before a training: their order, their dependencies, their outcomes.

Those that need torch come from the room `train` as callables. Light ones come first, so that a wrong path is
reported before torch is loaded. A check that needs another which failed is skipped, and reported as skipped.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from quran_asr.config.schema import Recipe
from quran_asr.errors import QuranAsrError
from quran_asr.experiments.checks.data import (
    Data,
    Tokens,
    ctc_feasible,
    decodable,
    known_characters,
    read_data,
    round_trip,
)
from quran_asr.experiments.checks.leakage import (
    Contents,
    other_names,
    same_contents,
    seen_texts,
    shared_audio,
)
from quran_asr.experiments.checks.machine import disk_space, machine
from quran_asr.experiments.checks.outcome import Outcome, Outcomes, Status, of_finding, passed
from quran_asr.experiments.planning.plan import plan
from quran_asr.experiments.planning.workload import weigh_segments
from quran_asr.records import Segment

Bar = Callable[[str, str], AbstractContextManager[Callable[[int, int], None]]]
"""(title, unit) -> a progress bar as a context: a function of (done, total)."""


@dataclass(frozen=True, slots=True)
class Line:
    """What became of one check; a check may have several."""

    code: str
    """Stable kebab-case name for machines."""
    status: Status
    message: str
    remedy: str
    seconds: float
    """That the check took; of several lines of one check, the first has them."""
    check: str
    """Name of the check: its code, unless it has several findings."""


@dataclass(frozen=True, slots=True)
class Check:
    """Something to look at before a training."""

    name: str
    run: Callable[[], Outcomes]
    """May raise QuranAsrError: a failure too."""
    needs: tuple[str, ...] = ()
    """Names of checks that must not have failed."""
    heavy: bool = False
    """Loads torch."""


class HeavyChecks(Protocol):
    """What the room `train` looks at. Everything here may raise QuranAsrError, which is a failure."""

    def tokenizer(self) -> Tokens:
        """The tokenizer that the training will have. (Without torch, but of that room.)"""

    def environment(self) -> Outcomes:
        """Torch, driver, GPUs, precision."""

    def loss(self) -> Outcomes:
        """A lattice whose loss is known, on the device that trains."""

    def start(self, training: Sequence[Segment]) -> Outcomes:
        """What arrives of a pretrained model; or whether random weights let a signal through."""

    def memory(self, training: Sequence[Segment]) -> Outcomes:
        """Whether the heaviest batch fits."""

    def overfit(self, training: Sequence[Segment]) -> Outcomes:
        """Whether a few clips can be overfitted."""


def run(checks: Sequence[Check], on_line: Callable[[Line], None], before: Sequence[Line] = ()) -> list[Line]:
    """Do the checks in their order.

    Args:
        checks: what to look at.
        on_line: called with each line as soon as it is known.
        before: lines of checks that were done earlier.

    Returns:
        The new lines.
    """
    lines: list[Line] = []
    stopped = {line.check for line in before if line.status == "failure"}
    for check in checks:
        began = time.perf_counter()
        obstacles = [name for name in check.needs if name in stopped]
        if obstacles:
            outcomes: Sequence[Outcome] = [Outcome("skipped", f"rests on `{obstacles[0]}`, which failed")]
            stopped.add(check.name)
        else:
            outcomes = _outcomes(check)
        seconds = time.perf_counter() - began
        for outcome in outcomes:
            line = Line(
                outcome.code or check.name,
                outcome.status,
                outcome.message,
                outcome.remedy,
                round(seconds, 2),
                check.name,
            )
            seconds = 0.0
            lines.append(line)
            on_line(line)
            if outcome.status == "failure":
                stopped.add(check.name)
    return lines


def has_failed(lines: Sequence[Line]) -> bool:
    """Whether a training should not begin."""
    return any(line.status == "failure" for line in lines)


def as_json(recipe: str, lines: Sequence[Line]) -> dict[str, Any]:
    """What `check --json` prints."""
    rows = [{key: value for key, value in asdict(line).items() if key != "check"} for line in lines]
    return {"recipe": recipe, "checks": rows, "passed": not has_failed(lines)}


class Preflight:
    """The checks of one training, which hand on what they find: clips, their contents, the tokenizer."""

    def __init__(
        self,
        recipe: Recipe,
        torch_checks: HeavyChecks,
        bar: Bar,
        *,
        sample: int | None,
        data: Data | None = None,
        tolerated: Sequence[str] = (),
    ) -> None:
        """
        Args:
            recipe: what is to be trained.
            torch_checks: the heavy ones.
            bar: makes progress bars.
            sample: clips of each manifest whose audio is decoded; None for all.
            tolerated: codes of findings that were asked for, and are not reported.
            data: the clips, where they were read already; else they are read from the recipe's manifests.
        """
        self.recipe = recipe
        self.torch_checks = torch_checks
        self.bar = bar
        self.sample = sample
        self.tolerated = frozenset(tolerated)
        self._given = data
        self._data: Data | None = None
        self._contents: Contents | None = None
        self._tokens: Tokens | None = None

    def checks(self) -> list[Check]:
        """All of them, in the order in which they are done."""
        clips, text = ("manifests",), ("manifests", "tokenizer")
        torch_checks = self.torch_checks
        return [
            Check("manifests", self._manifests),
            Check("recipe", self._recipe, clips),
            Check("disk", lambda: disk_space(self.recipe)),
            Check("machine", lambda: machine(self.recipe, self.data), clips),
            Check("audio", self._audio, clips),
            Check("shared-audio", self._shared_audio, clips),
            Check(
                "reciter-names", lambda: other_names(self.data, self.contents), ("manifests", "shared-audio")
            ),
            Check("seen-texts", lambda: seen_texts(self.data), clips),
            Check("tokenizer", self._tokenizer, clips),
            Check("characters", lambda: known_characters(self.recipe, self.tokens, self.data), text),
            Check("ctc-length", lambda: ctc_feasible(self.recipe, self.tokens, self.data.training), text),
            Check("environment", torch_checks.environment, heavy=True),
            Check("loss", torch_checks.loss, ("environment",), heavy=True),
            Check(
                "start",
                lambda: torch_checks.start(self.data.training),
                (*text, "characters", "environment"),
                heavy=True,
            ),
            Check(
                "memory",
                lambda: torch_checks.memory(self.data.training),
                (*text, "characters", "environment", "loss"),
                heavy=True,
            ),
            Check(
                "overfit",
                lambda: torch_checks.overfit(self.data.training),
                (*text, "characters", "environment", "loss", "audio"),
                heavy=True,
            ),
        ]

    @property
    def data(self) -> Data:
        assert self._data is not None
        return self._data

    @property
    def contents(self) -> Contents:
        assert self._contents is not None
        return self._contents

    @property
    def tokens(self) -> Tokens:
        assert self._tokens is not None
        return self._tokens

    def _manifests(self) -> Outcomes:
        if self._given is not None:
            self._data = self._given
            return passed(self._data.described)
        self._data, outcomes = read_data(self.recipe)
        return outcomes

    def _recipe(self) -> Outcomes:
        work = weigh_segments(self.data.training, self.recipe)
        planned = plan(self.recipe, work, devices=self.recipe.trainer.devices)
        steps = (
            "no limit of steps" if planned.optimizer_steps is None else f"{planned.optimizer_steps:,} steps"
        )
        rate = planned.peak_learning_rate
        peak = "" if rate is None else f", rate up to {rate:.2e}"
        summary = f"{planned.parameters / 1e6:.1f} M parameters, {steps}{peak}"
        reported = [finding for finding in planned.findings if finding.code not in self.tolerated]
        return [passed(summary), *(of_finding(finding) for finding in reported)]

    def _audio(self) -> Outcomes:
        with self.bar("decoding a sample", "clips") as show:
            return decodable(self.data, self.sample, self.recipe.quran.seed, show)

    def _shared_audio(self) -> Outcomes:
        with self.bar("comparing files", "files") as show:
            self._contents = same_contents(self.data, show)
        return shared_audio(self.data, self._contents)

    def _tokenizer(self) -> Outcomes:
        self._tokens = self.torch_checks.tokenizer()
        return round_trip(self.recipe, self._tokens, self.data)


def _outcomes(check: Check) -> Sequence[Outcome]:
    try:
        given = check.run()
    except QuranAsrError as error:
        where = f"{error.where}: " if error.where else ""
        return [Outcome("failure", where + error.what, error.remedy)]
    except OSError as error:
        what = f"{error.filename or ''}: {error.strerror or error}".removeprefix(": ")
        return [Outcome("failure", what)]
    return [given] if isinstance(given, Outcome) else given
