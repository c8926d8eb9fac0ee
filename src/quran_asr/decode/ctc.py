"""CTC scores in, tokens out: the best path."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from quran_asr.findings import QuranAsrError
from quran_asr.records import Hypothesis


def greedy(log_probs: NDArray[np.float32]) -> Hypothesis:
    """The tokens of the best path: the best of every frame, repeats as one, blanks dropped.

    Args:
        log_probs: [frames, vocabulary + 1], natural log, blank last.

    Returns:
        Each token with the first frame of its run; the score is the log probability of the path (blanks
        too), so it is not the log probability of the text, which other paths spell as well.

    Raises:
        QuranAsrError: not two dimensions, no column, or a score that is NaN.
    """
    if log_probs.ndim != 2 or log_probs.shape[1] == 0:
        raise QuranAsrError(
            f"CTC scores have the shape {list(log_probs.shape)}, not [frames, vocabulary + 1]"
        )
    best = log_probs.argmax(axis=1)
    peaks = log_probs[np.arange(len(best)), best].astype(np.float64)
    if np.isnan(peaks).any():  # argmax answers with the first NaN of a frame
        frame = int(np.isnan(peaks).argmax())
        raise QuranAsrError(f"the CTC scores of frame {frame} hold NaN")
    blank = log_probs.shape[1] - 1
    begins = best != blank
    begins[1:] &= best[1:] != best[:-1]
    frames = np.flatnonzero(begins)
    return Hypothesis(tuple(best[frames].tolist()), tuple(frames.tolist()), float(peaks.sum()))
