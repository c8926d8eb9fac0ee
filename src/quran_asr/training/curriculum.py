"""Curriculum for random starts: short clips and CTC alone until CTC has left its plateau.

From random weights the CTC loss first falls to a plateau and waits there until frames and letters begin to
match. The plateau is the entropy of the tokens: with one and the same distribution in every frame, blank
with probability 1 - U/T and token k with (U/T) q(k), the log-number of alignments, log C(T, U), cancels what
the frames cost, and sum(-q log q) is left for each token. Until CTC leaves it, a transducer learns the text
and not the audio, and long clips dilute the gradient; clips of any level, from rooms and with noise, keep
CTC on its plateau for longer. So the state of the run, not a share of its steps, decides when the transducer
joins, when clips grow and when the recipe's changes of the audio begin.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from quran_asr.config.schema import Curriculum as Settings

SMOOTHING = 0.98
"""Weight of the past in the running mean of the CTC loss: about 50 steps."""


@dataclass(slots=True)
class Curriculum:
    """Where a run stands. All of it goes into checkpoints."""

    token_entropy: float
    """Nats a token: where CTC has its plateau."""
    ctc_per_token: float | None = None
    """Running mean of the CTC loss in nats a token."""
    left_at: int | None = None
    """Optimizer step at which the plateau was left; None before."""

    def observe(self, settings: Settings | None, step: int, ctc_per_token: float) -> None:
        """Take in the CTC loss of one optimizer step and decide whether the plateau is left."""
        mean = ctc_per_token if self.ctc_per_token is None else self.ctc_per_token
        self.ctc_per_token = SMOOTHING * mean + (1 - SMOOTHING) * ctc_per_token
        if settings is None or self.left_at is not None:
            return
        if self.ctc_per_token < settings.plateau * self.token_entropy or step >= settings.latest_step:
            self.left_at = step

    def longest_seconds(self, settings: Settings | None, step: int, longest: float) -> float | None:
        """Longest clip of an epoch that begins at this step, at last `longest` seconds; None: all clips."""
        if settings is None:
            return None
        if self.left_at is None:
            return settings.first_seconds
        grown = (step - self.left_at) / max(1, settings.growth_steps)
        if grown >= 1:
            return None
        return settings.first_seconds + grown * (longest - settings.first_seconds)

    def longest_clip(
        self, settings: Settings | None, step: int, longest: float, durations: Sequence[float]
    ) -> float | None:
        """The same, but some of these clips are always admitted: else there would be nothing to train on."""
        admitted = self.longest_seconds(settings, step, longest)
        return None if admitted is None else max(admitted, 1.5 * min(durations))

    def ctc_weight(self, settings: Settings | None, step: int, total_steps: int | None, last: float) -> float:
        """Weight of the CTC loss, which ends as `last`; 1.0 means CTC alone."""
        if settings is None:
            return last
        if self.left_at is None:
            return 1.0
        if total_steps is None:
            return last
        passed = (step - self.left_at) / max(1, total_steps - self.left_at)
        return settings.ctc_loss_weight + min(1.0, passed) * (last - settings.ctc_loss_weight)


def token_entropy(texts: Iterable[Sequence[int]]) -> float:
    """Entropy of the tokens of a corpus, each drawn by itself, in nats."""
    counts = Counter(token for tokens in texts for token in tokens)
    total = sum(counts.values())
    return -sum(n / total * math.log(n / total) for n in counts.values())
