"""The grid over weight and bonus."""

from __future__ import annotations

import pytest

from quran_asr.decoding.fusion import Fusion, tune
from quran_asr.decoding.ngram_estimation import estimate
from quran_asr.errors import QuranAsrError
from quran_asr.records import Counts


def test_the_best_point_has_the_fewest_errors_and_then_the_smallest_weight() -> None:
    model = estimate([[[0, 1]]], 2, order=2)
    seen: list[tuple[int, int]] = []

    def evaluate(fusion: Fusion) -> tuple[Counts, Counts]:
        assert fusion.model is model
        errors = 2 if fusion.lm_weight >= 0.5 and fusion.token_bonus == 1 else 5
        return Counts(hits=10 - errors, substitutions=errors), Counts(hits=50)

    points = tune(model, evaluate, (0.0, 0.5, 1.0), (0.0, 1.0), lambda *done: seen.append(done))
    assert seen == [(n, 6) for n in range(1, 7)]
    assert (points[0].lm_weight, points[0].token_bonus, points[0].words.errors) == (0.5, 1.0, 2)
    assert (points[1].lm_weight, points[1].token_bonus) == (1.0, 1.0)
    with pytest.raises(QuranAsrError, match="no weight or no bonus"):
        tune(model, evaluate, ())
