"""Mismatches: words of the text in whose place the model recognizes something else.

An alignment places each word of the text where it is expected. Here each aligned word is compared with the
unconstrained recognition of the same frames, by the difference in nats. Weak models are also uncertain about
correct words, and more so for some voices, so a recording is compared with itself: a word is a mismatch if it
loses far more than its other words. A word in whose place the search has found other speech is one in any
case.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from quran_asr.decoding.graph import Graph
from quran_asr.decoding.visits import HUB, Visit

if TYPE_CHECKING:
    from quran_asr.decoding.vocabulary import Vocabulary
    from quran_asr.records import Hypothesis

LEAST_LOSS = 8.0
"""Nats that a word must lose at least,"""
LEAST_LOSS_A_TOKEN = 3.0
"""nats for each of its tokens,"""
TIMES_TYPICAL = 2.5
"""and this multiple of the median loss per token in the recording. Chosen by false flags on
planted errors, see docs/results/accuracy.md."""


def mismatches(
    graph: Graph, path: Sequence[Visit], free: Hypothesis, vocabulary: Vocabulary
) -> dict[Visit, str]:
    """The mismatches of a path.

    Args:
        graph: of the path.
        path: the whole path, as `search` gave it.
        free: what is recognized without the text, as `ctc.greedy` gives it for the whole recording.
        vocabulary: of its tokens.

    Returns:
        What is recognized instead of each such word, between its neighbours; perhaps nothing. A word that
        the recognition spells as it is written is never among them.
    """
    words = [visit for visit in path if visit.word != HUB and visit.tokens]
    if not words:
        return {}
    losses = np.array([visit.loss for visit in words])
    lengths = np.array([len(visit.tokens) for visit in words])
    wrong = np.array([visit.wrong for visit in words])
    typical = float(np.median((losses / lengths)[~wrong])) if not wrong.all() else 0.0
    least = np.maximum(LEAST_LOSS, lengths * max(LEAST_LOSS_A_TOKEN, TIMES_TYPICAL * typical))
    frames = np.array(free.frames, np.int64)
    found: dict[Visit, str] = {}
    for number in np.flatnonzero(wrong | (losses >= least)).tolist():
        visit = words[number]
        begin, end = np.searchsorted(frames, (visit.start, visit.end))
        recognized = vocabulary.text(free.tokens[begin:end])
        if recognized != graph.texts[visit.word]:
            found[visit] = recognized
    return found
