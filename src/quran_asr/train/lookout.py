"""Judges the curves of a training while they grow: tells each sign once, and says when one is to end it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from quran_asr.findings import Finding
from quran_asr.runs.curves import curves_of_rows
from quran_asr.runs.folder import RunFolder
from quran_asr.runs.schema import Recipe
from quran_asr.runs.signs.sign import Sign
from quran_asr.runs.signs.signs import judge

LOOK_EVERY = 300
"""Optimizer steps between two looks; a validation brings one too."""


class Lookout:
    """The rules of `runs/signs/signs.py` over the lines that a training writes; one process looks."""

    def __init__(
        self,
        run: RunFolder,
        recipe: Recipe,
        rows: Sequence[Mapping[str, Any]],
        on_finding: Callable[[Finding], None],
    ) -> None:
        """`rows`: the lines of earlier sessions. A sign that they show does not end this one too."""
        self.run = run
        self.recipe = recipe
        self.on_finding = on_finding
        self.stopped_by: Sign | None = None
        """The sign that ends the training, once it is there."""
        self._rows = list(rows)
        self._share: float | None = None
        self._shown: set[str] = set()
        if rows:
            self._share = self._arrived()
            self._shown = {sign.code for sign in self._judge()}
        self._told = set(self._shown)

    def add(self, row: Mapping[str, Any]) -> None:
        """Take in a line of `metrics.jsonl`."""
        if not self._rows:  # `transfer.json` is there once training begins
            self._share = self._arrived()
        self._rows.append(row)

    def look(self) -> None:
        """Judge what is there now; tell errors and warnings, each once."""
        signs = self._judge()
        for sign in signs:
            finding = sign.as_finding()
            if finding is not None and sign.severity != "note" and sign.code not in self._told:
                self._told.add(sign.code)
                self.on_finding(finding)
            ends = sign.code in self.recipe.quran.stop_on and sign.code not in self._shown
            if ends and self.stopped_by is None:
                self.stopped_by = sign
        self._shown = {sign.code for sign in signs}

    def _judge(self) -> tuple[Sign, ...]:
        curves = curves_of_rows(self._rows, self.run.name, str(self.run.path), self.recipe, self._share)
        return judge(curves)

    def _arrived(self) -> float | None:
        if not (self.run.path / "transfer.json").is_file():
            return None
        share: float = self.run.read_json("transfer.json")["encoder_share"]
        return share
