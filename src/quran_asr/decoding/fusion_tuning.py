"""Choose the weight of a language model and the token bonus on a validation set."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product

from quran_asr.decoding.fusion import Fusion
from quran_asr.decoding.language_model import LanguageModel
from quran_asr.errors import QuranAsrError
from quran_asr.records import Counts

WEIGHTS = (0.0, 0.3, 0.5, 0.7, 1.0, 1.4)
BONUSES = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0)


@dataclass(frozen=True, slots=True)
class TuningPoint:
    """One pair of settings and the errors made with it."""

    lm_weight: float
    token_bonus: float
    words: Counts
    characters: Counts


def tune(
    model: LanguageModel,
    evaluate: Callable[[Fusion], tuple[Counts, Counts]],
    weights: Sequence[float] = WEIGHTS,
    bonuses: Sequence[float] = BONUSES,
    on_progress: Callable[[int, int], None] | None = None,
) -> list[TuningPoint]:
    """Try every weight with every bonus.

    Args:
        model: the language model.
        evaluate: decodes the validation set, from kept encoder outputs, and counts the errors in words
            and in characters.
        weights: of the language model.
        bonuses: for every token.
        on_progress: called with the points done and their number.

    Returns:
        All points, the best first: fewest word errors, fewest character errors, smallest weight.

    Raises:
        QuranAsrError: no weight or no bonus to try, or one that makes no sense.
    """
    if not weights or not bonuses:
        raise QuranAsrError("no weight or no bonus to try", remedy="give at least one of each")
    points: list[TuningPoint] = []
    for weight, bonus in product(weights, bonuses):
        words, characters = evaluate(Fusion(model, weight, bonus))
        points.append(TuningPoint(weight, bonus, words, characters))
        if on_progress is not None:
            on_progress(len(points), len(weights) * len(bonuses))
    return sorted(
        points,
        key=lambda p: (p.words.errors, p.characters.errors, p.lm_weight, abs(p.token_bonus)),
    )
