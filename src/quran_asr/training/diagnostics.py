"""Runs the diagnostic rules during a training, reports each finding once, and may stop it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from quran_asr.config.schema import Recipe
from quran_asr.errors import Finding
from quran_asr.experiments.curves import curves_of_rows
from quran_asr.experiments.diagnostics.diagnosis import Diagnosis
from quran_asr.experiments.diagnostics.rules import diagnose, unknown_codes
from quran_asr.experiments.run_folder import RunFolder

LOOK_EVERY = 300
"""Optimizer steps between two looks; a validation brings one too."""


class DiagnosticsCallback:
    """Applies `experiments/diagnostics/rules.py` to the lines that a training writes, in one process."""

    def __init__(
        self,
        run: RunFolder,
        recipe: Recipe,
        rows: Sequence[Mapping[str, Any]],
        on_finding: Callable[[Finding], None],
    ) -> None:
        """`rows`: the lines of earlier sessions. A diagnosis that they show does not end this one too.

        Raises:
            QuranAsrError: `quran.stop_on` names a code that no diagnostic has.
        """
        for error in unknown_codes(recipe.quran.stop_on):
            raise error
        self.run = run
        self.recipe = recipe
        self.on_finding = on_finding
        self.stopped_by: Diagnosis | None = None
        """The diagnosis that ends the training, once there is one."""
        self._rows = list(rows)
        self._share: float | None = None
        self._shown: set[str] = set()
        if rows:
            self._share = self._arrived()
            self._shown = {diagnosis.code for diagnosis in self._judge()}
        self._reported = set(self._shown)

    def add(self, row: Mapping[str, Any]) -> None:
        """Take in a line of `metrics.jsonl`."""
        if not self._rows:  # `transfer.json` is there once training begins
            self._share = self._arrived()
        self._rows.append(row)

    def look(self) -> None:
        """Diagnose the curves so far; report errors and warnings, each once."""
        diagnostics = self._judge()
        for diagnosis in diagnostics:
            finding = diagnosis.as_finding()
            if finding is not None and diagnosis.severity != "note" and diagnosis.code not in self._reported:
                self._reported.add(diagnosis.code)
                self.on_finding(finding)
            ends = diagnosis.code in self.recipe.quran.stop_on and diagnosis.code not in self._shown
            if ends and self.stopped_by is None:
                self.stopped_by = diagnosis
        self._shown = {diagnosis.code for diagnosis in diagnostics}

    def _judge(self) -> tuple[Diagnosis, ...]:
        curves = curves_of_rows(self._rows, self.run.name, str(self.run.path), self.recipe, self._share)
        return diagnose(curves)

    def _arrived(self) -> float | None:
        if not (self.run.path / "transfer.json").is_file():
            return None
        share: float = self.run.read_json("transfer.json")["encoder_share"]
        return share
