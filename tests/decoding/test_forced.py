"""Forced alignment against all paths, and on words that nobody recited."""

from __future__ import annotations

import sys
from itertools import pairwise, product
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quran_asr.decoding.forced import FLOOR, force
from quran_asr.errors import QuranAsrError

sys.path.insert(0, str(Path(__file__).parent))
from spoken import FRAME, TOKENIZER, Speech, verse


def spelt(path: tuple[int, ...], blank: int) -> list[int]:
    return [token for before, token in pairwise((blank, *path)) if token not in (blank, before)]


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 6), st.lists(st.integers(0, 1), min_size=1, max_size=4))
def test_it_is_the_best_of_all_paths(seed: int, frames: int, tokens: list[int]) -> None:
    log_probs = np.log(np.random.default_rng(seed).dirichlet([0.4] * 3, frames)).astype(np.float32)
    kept = np.maximum(log_probs.astype(np.float64), -FLOOR)
    losses = kept.max(axis=1, keepdims=True) - kept
    scores = [
        float(losses[np.arange(frames), path].sum())
        for path in product(range(3), repeat=frames)
        if spelt(path, 2) == tokens
    ]
    found = force(log_probs, tokens)
    if found is None:
        assert not scores
        return
    assert found.losses.sum() == pytest.approx(min(scores), abs=1e-6)
    assert (found.spans[:, 0] < found.spans[:, 1]).all() and (found.spans[1:, 0] >= found.spans[:-1, 1]).all()


def test_words_are_where_they_were_recited() -> None:
    words = verse("97:1")
    speech = Speech().pause(1).say(words)
    found = force(speech.log_probs(), TOKENIZER.encode(" ".join(words)))
    assert found is not None and found.losses.max() < 1
    firsts = np.cumsum([0, *(len(TOKENIZER.encode(word)) for word in words)])[:-1] + 1
    assert (found.spans[firsts, 0] * FRAME).tolist() == pytest.approx(speech.starts)


def test_amid_other_speech_only_the_words_themselves_count() -> None:
    speech = Speech().babble(2).pause(0.5).say(verse("97:2")).babble(2)
    tokens = TOKENIZER.encode(" ".join(verse("97:2")))
    scores = speech.log_probs()
    alone, amid = force(scores, tokens), force(scores, tokens, amid_speech=True)
    assert alone is not None and amid is not None
    assert amid.losses.max() < 1 and alone.losses.sum() > 20
    assert amid.spans[1, 0] * FRAME == pytest.approx(speech.starts[0])


def test_words_that_are_not_recited_cost() -> None:
    words = verse("2:255")
    scores = Speech().say(words[10:]).log_probs()
    found = force(scores, TOKENIZER.encode(" ".join(words)))
    assert found is not None
    quarter = len(found.losses) // 4
    assert found.losses[:quarter].mean() > 3 and found.losses[-quarter:].mean() < 0.1
    assert force(scores[:20], TOKENIZER.encode(" ".join(words))) is None
    with pytest.raises(QuranAsrError, match="no text"):
        force(scores, ())
