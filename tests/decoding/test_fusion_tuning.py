"""The grid over weight and bonus."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quran_asr.decoding.arpa import read_arpa
from quran_asr.decoding.fusion import BONUSES, WEIGHTS, Candidate, Fusion, rescore, tune
from quran_asr.decoding.ngram_estimation import estimate
from quran_asr.errors import QuranAsrError
from quran_asr.records import Counts, Hypothesis

MODEL = estimate([[[0, 1]]], 2, order=2)
CLIPS = 96


class Clips:
    """Clips of ten words each; 0.7 with a bonus of 1.5 makes the fewest errors on most of them."""

    def __init__(self, seed: int) -> None:
        random = np.random.default_rng(seed)
        self.difficulty = random.uniform(0, 6, CLIPS)
        self.luck = {(weight, bonus): random.normal(0, 1, CLIPS) for weight in WEIGHTS for bonus in BONUSES}
        self.decoded = 0

    def evaluate(self, fusion: Fusion, clips: Sequence[int]) -> list[tuple[Counts, Counts]]:
        self.decoded += len(clips)
        point = fusion.lm_weight, fusion.token_bonus
        slope = 4 * abs(point[0] - 0.7) + 2 * abs(point[1] - 1.5)
        expected = self.difficulty[clips] + slope + self.luck[point][clips]
        errors = np.clip(expected.round(), 0, 10).astype(int).tolist()
        return [(Counts(hits=10 - one, substitutions=one), Counts(hits=50)) for one in errors]


def test_the_best_point_has_the_fewest_errors_and_then_the_smallest_weight() -> None:
    seen: list[tuple[int, int]] = []

    def evaluate(fusion: Fusion, clips: Sequence[int]) -> list[tuple[Counts, Counts]]:
        assert fusion.model is MODEL
        assert list(clips) == [0]
        errors = 2 if fusion.lm_weight >= 0.5 and fusion.token_bonus == 1 else 5
        return [(Counts(hits=10 - errors, substitutions=errors), Counts(hits=50))]

    points = tune(MODEL, evaluate, 1, (0.0, 0.5, 1.0), (0.0, 1.0), lambda *done: seen.append(done))
    assert seen == [(n, 6) for n in range(1, 7)]
    assert (points[0].lm_weight, points[0].token_bonus, points[0].words.errors) == (0.5, 1.0, 2)
    assert (points[1].lm_weight, points[1].token_bonus) == (1.0, 1.0)
    with pytest.raises(QuranAsrError, match="no weight or no bonus"):
        tune(MODEL, evaluate, 1, ())


def test_texts_that_the_language_model_excludes_have_a_score_and_come_last(tmp_path: Path) -> None:
    """A file of another tool may have no `<unk>`, and then no probability for some tokens."""
    (tmp_path / "few.arpa").write_text("\\data\\\nngram 1=2\n\n\\1-grams:\n-0.3\td\n-0.3\t</s>\n\n\\end\\\n")
    fusion = Fusion(read_arpa(tmp_path / "few.arpa", 3), lm_weight=0.5)
    texts = [(1, 2), (1,), (0, 0)]
    found = rescore([Candidate(Hypothesis(text, (0,) * len(text), 0.0), -1.0) for text in texts], fusion)
    assert [candidate.hypothesis.tokens for candidate in found] == [(0, 0), (1,), (1, 2)]
    assert all(np.isfinite(candidate.hypothesis.score) for candidate in found)


@pytest.mark.slow
@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000))
def test_points_that_are_clearly_worse_are_dropped_and_the_same_one_is_chosen(seed: int) -> None:
    raced, whole = Clips(seed), Clips(seed)
    seen: list[tuple[int, int]] = []
    points = tune(MODEL, raced.evaluate, CLIPS, on_progress=lambda *done: seen.append(done))
    every = tune(MODEL, whole.evaluate, CLIPS, whole_grid=True)
    assert points[0] == every[0]
    assert {point.clips for point in every} == {CLIPS}
    assert whole.decoded == CLIPS * len(every) == CLIPS * len(points)
    assert raced.decoded < whole.decoded / 2
    assert raced.decoded == sum(point.clips for point in points)
    totals = [total for _, total in seen]
    assert totals == sorted(totals, reverse=True)
    assert seen[-1] == (raced.decoded, raced.decoded)
    assert [point.clips for point in points] == sorted((p.clips for p in points), reverse=True)
