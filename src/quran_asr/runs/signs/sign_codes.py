"""The names of the signs that something is wrong; what `quran.stop_on` takes."""

from __future__ import annotations

from typing import Literal

BadSign = Literal[
    "not-a-number",
    "stalled-start",
    "stuck-nothing-loaded",
    "stuck-wrong-text",
    "stuck-blank-collapse",
    "stuck-token-loops",
    "stuck-learned-by-heart",
    "stuck-wer",
    "divergence",
    "late-collapse",
    "overfitting",
    "generalization-gap",
    "plateau",
    "clipping",
    "data-wait",
    "drifting-apart",
]
