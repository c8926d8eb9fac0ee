"""Where the recognition disagrees with the text: words that are written otherwise than they were recited.

An alignment puts a word of the text wherever it is expected. Here each aligned word is weighed against the
free recognition of the same frames: by how many nats is the model surer of something else? Weak models are
unsure of right words too, and of some voices more than of others, so the measure of a recording is its own
words: a word disagrees if it loses far more than they do. A word in whose place the search has found other
speech disagrees in any case.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from quran_asr.decoding.graph import Graph
from quran_asr.decoding.search import HUB, Visit

if TYPE_CHECKING:
    from quran_asr.decoding.vocabulary import Vocabulary
    from quran_asr.records import Hypothesis

LEAST_LOSS = 8.0
"""Nats that a word must lose at least,"""
LEAST_LOSS_A_TOKEN = 3.0
"""nats for each of its tokens,"""
TIMES_TYPICAL = 2.5
"""and so many times what the words of the recording lose a token, in the median. Chosen by false flags on
planted errors, see docs/results/accuracy.md."""


def mismatches(
    graph: Graph, path: Sequence[Visit], free: Hypothesis, vocabulary: Vocabulary
) -> dict[Visit, str]:
    """The words of a path that the recognition disagrees with.

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
