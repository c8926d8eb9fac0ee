"""How well the transducer agrees with a text that CTC has found.

CTC finds a place among all words of the Quran, and how far it stands out from them. A transducer is more
accurate, and weighs one text at a time: whether it recognizes that text, or would rather have another one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from quran_asr.decoding.transducer_beam import Scorer, search, start

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from quran_asr.decoding.decoder import Model

    Float32 = NDArray[np.float32]

ROWS = 1 << 13
"""Most pairs of frame and token in one call of the joint network."""


def agreement(encoded: Float32, tokens: Sequence[int], model: Model) -> float:
    """Nats by which a text is more probable than the best one of the own search: hardly ever above 0.

    Args:
        encoded: [n, J] frames of the encoder, projected for the joint.
        tokens: of the text.
        model: the networks.

    Raises:
        QuranAsrError: a score is NaN.
    """
    empty = np.zeros((model.prediction_layers, 1, model.prediction_width), np.float32)
    scorer = Scorer(model.predict, model.join)
    (best, *_) = search(encoded, scorer, start(scorer, (empty, empty), model.blank))
    own = log_likelihood(encoded, best.hypothesis.tokens, model)
    return log_likelihood(encoded, tokens, model) - max(own, log_likelihood(encoded, (), model))


def log_likelihood(encoded: Float32, tokens: Sequence[int], model: Model) -> float:
    """Natural log of a text's probability, summed over all alignments by the forward algorithm (A. Graves,
    "Sequence transduction with recurrent neural networks", arXiv:1211.3711, equation 16).

    Args:
        encoded: [n, J] frames of the encoder, projected for the joint; n is at least 1.
        tokens: of the text.
        model: the networks.
    """
    predicted = _predicted(tokens, model)
    places = len(predicted)
    arriving = np.full(places, -np.inf)
    arriving[0] = 0.0
    for begin in range(0, len(encoded), max(1, ROWS // places)):
        frames = encoded[begin : begin + max(1, ROWS // places)]
        rows = np.repeat(frames, places, axis=0), np.tile(predicted, (len(frames), 1))
        log_probs = model.join(*rows).astype(np.float64).reshape(len(frames), places, -1)
        for scores in log_probs:
            # A token leads from each place to the next in the same frame: a running sum of probabilities,
            # each scaled by what the tokens before it cost.
            emitted = np.append(0.0, np.cumsum(scores[np.arange(places - 1), list(tokens)]))
            here = np.logaddexp.accumulate(arriving - emitted) + emitted
            arriving = here + scores[:, model.blank]
    return float(arriving[-1])


def _predicted(tokens: Sequence[int], model: Model) -> Float32:
    """The prediction network's output before the first token and after each, [U + 1, J]."""
    empty = np.zeros((model.prediction_layers, 1, model.prediction_width), np.float32)
    state: tuple[Float32, ...] = (empty, empty)
    outputs = []
    for token in (model.blank, *tokens):
        output, state = model.predict(np.array([token], np.int64), state)
        outputs.append(output[0])
    return np.stack(outputs)
