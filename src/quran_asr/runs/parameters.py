"""How many parameters a recipe's model has, in closed form: `plan` needs no torch for it."""

from __future__ import annotations

import math

from quran_asr.runs.architecture import of_recipe
from quran_asr.runs.schema import Model


def count_parameters(model: Model, vocabulary_size: int) -> int:
    """Trainable parameters of NeMo's `EncDecHybridRNNTCTCBPEModel` with this model section.

    Args:
        model: the recipe's `model`.
        vocabulary_size: BPE tokens, without the blank.
    """
    return sum(math.prod(shape) for shape in of_recipe(model, vocabulary_size).shapes().values())
