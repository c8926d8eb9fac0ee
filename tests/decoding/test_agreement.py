"""Agreement of the transducer with a text: the forward algorithm against all alignments, one by one."""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quran_asr.decoding import agreement as module
from quran_asr.decoding.agreement import agreement, log_likelihood
from quran_asr.decoding.decoder import Model
from quran_asr.decoding.transducer_beam import Scorer, search, start

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]

V, J, H = 3, 5, 4
EMPTY = np.zeros((1, 1, H), np.float32)


def random_model(seed: int) -> Model:
    """A small recurrent prediction network and a joint, of random weights."""
    random = np.random.default_rng(seed)
    embedding, recurrent = random.normal(size=(V + 1, H)), random.normal(size=(H, H))
    project, out = random.normal(size=(H, J)), random.normal(size=(J, V + 1))

    def predict(tokens: NDArray[np.int64], state: tuple[Floats, ...]) -> tuple[Floats, tuple[Floats, ...]]:
        hidden = np.tanh(embedding[tokens] + state[0][0] @ recurrent + 0.1)
        following = hidden[None].astype(np.float32)
        return (hidden @ project).astype(np.float32), (following, following)

    def join(encoded: Floats, predicted: Floats) -> Floats:
        logits = np.tanh(encoded + predicted) @ out
        normal: Floats = (logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)).astype(np.float32)
        return normal

    return Model(predict, join, 1, H, V, max_symbols=3, frame_seconds=0.08)


def one_by_one(model: Model, encoded: Floats, tokens: tuple[int, ...]) -> float:
    """The sum over all alignments: each says how many tokens every frame has."""
    outputs, state = [], (EMPTY, EMPTY)
    for token in (V, *tokens):
        output, state = model.predict(np.array([token]), state)
        outputs.append(output)
    total = -np.inf
    for counts in product(range(len(tokens) + 1), repeat=len(encoded)):
        if sum(counts) != len(tokens):
            continue
        place, path = 0, 0.0
        for frame, count in zip(encoded, counts, strict=True):
            for _ in range(count):
                path += float(model.join(frame[None], outputs[place])[0][tokens[place]])
                place += 1
            path += float(model.join(frame[None], outputs[place])[0][V])
        total = float(np.logaddexp(total, path))
    return total


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 5), st.lists(st.integers(0, V - 1), max_size=4), st.data())
def test_a_likelihood_is_the_sum_over_all_alignments(
    seed: int, frames: int, tokens: list[int], data: st.DataObject
) -> None:
    model = random_model(seed)
    encoded = np.random.default_rng(seed).normal(size=(frames, J)).astype(np.float32)
    with pytest.MonkeyPatch.context() as patch:  # few pairs in a call, or all
        patch.setattr(module, "ROWS", data.draw(st.sampled_from([1, 7, 1 << 13])))
        found = log_likelihood(encoded, tokens, model)
    assert found == pytest.approx(one_by_one(model, encoded, tuple(tokens)), abs=1e-4)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 12), st.lists(st.integers(0, V - 1), max_size=4))
def test_the_text_of_the_search_agrees_best_and_others_by_their_likelihood(
    seed: int, frames: int, tokens: list[int]
) -> None:
    model = random_model(seed)
    encoded = np.random.default_rng(seed).normal(size=(frames, J)).astype(np.float32)
    scorer = Scorer(model.predict, model.join)
    best = search(encoded, scorer, start(scorer, (EMPTY, EMPTY), V))[0].hypothesis.tokens
    own = max(log_likelihood(encoded, text, model) for text in (best, ()))
    for text in (best, tuple(tokens)):
        expected = log_likelihood(encoded, text, model) - own
        assert agreement(encoded, text, model) == pytest.approx(expected, abs=1e-9)
    assert agreement(encoded, best, model) <= 0
