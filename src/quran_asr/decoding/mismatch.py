"""Mismatches: words of the text in whose place the model recognizes something else.

An alignment places each word of the text where it is expected. Here each aligned word is compared with the
unconstrained recognition of the same frames, by the difference in nats. Weak models are also uncertain about
correct words, and more so for some voices, so a recording is compared with itself: a word is a mismatch if it
loses far more than its other words. A word in whose place the search has found other speech is one in any
case. A word that loses only because other speech beside it was taken for a part of it is none: it is set
apart from that speech.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from quran_asr.decoding.graph import Graph
from quran_asr.decoding.visits import HUB, LEAST_LOSS, Visit

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from quran_asr.decoding.vocabulary import Vocabulary
    from quran_asr.records import Hypothesis

LEAST_LOSS_A_TOKEN = 3.0
"""Nats that a word must lose for each of its tokens, besides `LEAST_LOSS` in all,"""
TIMES_TYPICAL = 2.5
"""and this multiple of the median loss per token in the recording. Chosen by false flags on
planted errors, see docs/results/accuracy.md."""
MOST_LOSS_AMID_A_TOKEN = 1.5
"""Nats for each of its tokens, and less than `LEAST_LOSS` in all, that a word amid other speech may lose."""


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
    words = _words(path)
    frames = np.array(free.frames, np.int64)
    found: dict[Visit, str] = {}
    for visit, least in zip(words, _least_losses(words), strict=True):
        if visit.loss < least and not visit.wrong:
            continue
        start = visit.start if visit.before is None else visit.before[1]
        begin, end = np.searchsorted(frames, (start, visit.end if visit.garbage is None else visit.garbage))
        recognized = vocabulary.text(free.tokens[begin:end])
        if recognized != graph.texts[visit.word]:
            found[visit] = recognized
    return found


def set_apart(path: Sequence[Visit]) -> dict[Visit, Visit]:
    """The words of a path that would be mismatches for nothing but other speech beside them: what the reciter
    adds, or what somebody else says. Each with the same word without that speech, which must be recognized
    well: one letter of a short word may be another one."""
    words = _words(path)
    return {
        visit: replace(
            visit,
            tokens=visit.amid.tokens,
            before=visit.amid.before,
            garbage=None if visit.amid.behind is None else visit.amid.behind[0],
            loss=visit.amid.loss,
        )
        for visit, least in zip(words, _least_losses(words), strict=True)
        if visit.loss >= least
        and visit.amid is not None
        and visit.amid.loss < min(LEAST_LOSS, MOST_LOSS_AMID_A_TOKEN * len(visit.tokens))
    }


def _words(path: Sequence[Visit]) -> list[Visit]:
    return [visit for visit in path if visit.word != HUB and visit.tokens]


def _least_losses(words: Sequence[Visit]) -> NDArray[np.float64]:
    """The loss from which each word is a mismatch."""
    losses = np.array([visit.loss for visit in words])
    lengths = np.array([len(visit.tokens) for visit in words], np.int64)
    wrong = np.array([visit.wrong for visit in words], np.bool_)
    typical = float(np.median((losses / lengths)[~wrong])) if not wrong.all() else 0.0
    least: NDArray[np.float64] = np.maximum(
        LEAST_LOSS, lengths * max(LEAST_LOSS_A_TOKEN, TIMES_TYPICAL * typical)
    )
    return least
