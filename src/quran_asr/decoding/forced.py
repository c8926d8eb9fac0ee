"""Forced alignment: when each token of a known text is recited, each once and in order.

The plain Viterbi path of CTC. Where the recited text is not known exactly, use `search`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from quran_asr.decoding.ctc import check_scores
from quran_asr.errors import QuranAsrError

if TYPE_CHECKING:
    from numpy.typing import NDArray

FLOOR = 16.0
"""Nats: floor of a token's score in a frame."""


@dataclass(frozen=True, slots=True, eq=False)
class ForcedAlignment:
    """The best path through N tokens."""

    spans: NDArray[np.int64]
    """[N, 2]: first frame and frame after the last of each token."""
    losses: NDArray[np.float64]
    """[N]: nats by which the frames of a token, and the blanks after it, score less than the best token of
    each frame. Blanks before the first token count for it. 0 is best."""


def force(
    log_probs: NDArray[np.float32], tokens: Sequence[int], *, amid_speech: bool = False
) -> ForcedAlignment | None:
    """Align a text.

    Args:
        log_probs: [frames, vocabulary + 1], natural log, blank last.
        tokens: of the text.
        amid_speech: whether other speech may come before the text and behind it; frames there lose nothing.

    Returns:
        The best path; None where there are fewer frames than the tokens need.

    Raises:
        QuranAsrError: no token, or the scores are invalid.
    """
    if not tokens:
        raise QuranAsrError("no text to align", remedy="give at least one token of the text")
    check_scores(log_probs)
    spelt = np.asarray(tokens, np.int64)
    doubled = np.append(False, spelt[1:] == spelt[:-1])  # a blank must come between
    if len(log_probs) < len(spelt) + int(doubled.sum()):
        return None
    # States in order: blank, token 0, blank, token 1, ..., blank
    states = np.full(2 * len(spelt) + 1, log_probs.shape[1] - 1)
    states[1::2] = spelt
    no_jump = np.ones(len(states), np.bool_)
    no_jump[1::2] = doubled
    no_jump[1] = False
    kept = np.maximum(log_probs.astype(np.float64), -FLOOR)
    losses = (kept.max(axis=1, keepdims=True) - kept)[:, states]
    if amid_speech:
        losses[:, [0, -1]] = 0.0

    now = np.full(len(states), np.inf)
    now[:2] = losses[0, :2]
    ways = np.full((3, len(states)), np.inf)
    steps = np.zeros((len(losses), len(states)), np.int8)
    for frame in range(1, len(losses)):
        ways[0] = now
        ways[1, 1:] = now[:-1]
        ways[2, 2:] = now[:-2]
        ways[2, no_jump] = np.inf
        steps[frame] = ways.argmin(axis=0)
        now = ways.min(axis=0) + losses[frame]

    place = len(states) - 1 - int(now[-1] > now[-2])
    path = np.empty(len(losses), np.int64)
    for frame in reversed(range(len(losses))):
        path[frame] = place
        place -= int(steps[frame, place])
    of_token = np.maximum(path - 1, 0) // 2
    places = 2 * np.arange(len(spelt)) + 1
    spans = np.stack([np.searchsorted(path, places), np.searchsorted(path, places, "right")], axis=1)
    lost = np.zeros(len(spelt))
    np.add.at(lost, of_token, losses[np.arange(len(losses)), path])
    return ForcedAlignment(spans, lost)
