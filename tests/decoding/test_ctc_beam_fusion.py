"""CTC prefix beam search with a language model: against the sum over all alignments, and itself cut."""

from __future__ import annotations

from collections import defaultdict
from itertools import groupby, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from quran_asr.decoding.ctc_beam import beam_chunk, search, start
from quran_asr.decoding.endpoint import Pause
from quran_asr.decoding.fusion import Fusion, rescore
from quran_asr.decoding.language_model import LanguageModel
from quran_asr.decoding.ngram_estimation import estimate
from quran_asr.errors import QuranAsrError
from quran_asr.records import Hypothesis


def random_scores(seed: int, frames: int, vocabulary: int, sharpness: float = 1.0) -> NDArray[np.float32]:
    logits = np.random.default_rng(seed).normal(size=(frames, vocabulary + 1)) * sharpness
    return np.asarray(logits - np.log(np.exp(logits).sum(axis=1, keepdims=True)), np.float32)


def random_model(seed: int, vocabulary: int) -> LanguageModel:
    random = np.random.default_rng(seed)
    corpus = [[random.integers(0, vocabulary, random.integers(1, 7)).tolist()] for _ in range(6)]
    return estimate(corpus, vocabulary, order=3)


def all_texts(log_probs: NDArray[np.float32]) -> dict[tuple[int, ...], float]:
    """Log probability of every text: the sum over all alignments, each collapsed by the rule."""
    blank = log_probs.shape[1] - 1
    texts: dict[tuple[int, ...], float] = defaultdict(float)
    for path in product(range(blank + 1), repeat=len(log_probs)):
        text = tuple(token for token, _ in groupby(path) if token != blank)
        texts[text] += float(np.exp(sum(float(log_probs[t, token]) for t, token in enumerate(path))))
    return {text: float(np.log(probability)) for text, probability in texts.items()}


def stream(
    log_probs: NDArray[np.float32], cuts: list[int], fusion: Fusion, **options: object
) -> tuple[Hypothesis, tuple[int, ...]]:
    state, found, ends = start(log_probs.shape[1] - 1, fusion), [], ()
    bounds = [0, *sorted(min(cut, len(log_probs)) for cut in cuts), len(log_probs)]
    for nth in range(len(bounds) - 1):
        piece, more, state = beam_chunk(
            log_probs[bounds[nth] : bounds[nth + 1]],
            state,
            fusion=fusion,
            final=nth == len(bounds) - 2,
            **options,
        )
        found.append(piece)
        ends += more
    return Hypothesis(
        sum((f.tokens for f in found), ()),
        sum((f.frames for f in found), ()),
        sum(f.score for f in found),
        sum((f.log_probs for f in found), ()),
    ), ends


@given(st.integers(0, 10_000), st.integers(1, 5), st.integers(1, 3), st.floats(0, 2), st.floats(-1, 2))
def test_a_full_beam_knows_the_score_of_every_text(
    seed: int, frames: int, vocabulary: int, weight: float, bonus: float
) -> None:
    log_probs, model = random_scores(seed, frames, vocabulary), random_model(seed, vocabulary)
    fusion = Fusion(model, weight, bonus)
    found = search(log_probs, fusion=fusion, beam=10_000, least_probability=0, n_best=10_000)
    exact = all_texts(log_probs)
    assert {candidate.hypothesis.tokens for candidate in found} == set(exact)
    for candidate in found:
        text = candidate.hypothesis.tokens
        language = model.score_sequences([text], end=False)[0].sum()
        assert candidate.acoustic == pytest.approx(exact[text], abs=1e-4)
        whole = exact[text] + weight * language + bonus * len(text)
        assert candidate.hypothesis.score == pytest.approx(whole, abs=1e-4)
    scores = [candidate.hypothesis.score for candidate in found]
    assert scores == sorted(scores, reverse=True)
    best, _ = stream(log_probs, [], fusion, beam=10_000, least_probability=0)
    assert best.score == pytest.approx(scores[0], abs=1e-4)


@settings(max_examples=50)
@given(
    st.integers(0, 10_000),
    st.integers(0, 40),
    st.lists(st.integers(0, 40), max_size=6),
    st.integers(1, 8),
    st.sampled_from([0.0, 0.7]),
    st.sampled_from([None, 2, 5]),
)
def test_cutting_changes_nothing(
    seed: int, frames: int, cuts: list[int], beam: int, weight: float, patience: int | None
) -> None:
    log_probs = random_scores(seed, frames, 5, 3.0)
    fusion = Fusion(random_model(seed, 5), weight, 0.4)
    pause = None if patience is None else Pause(patience)
    whole = stream(log_probs, [], fusion, beam=beam, pause=pause)
    cut = stream(log_probs, cuts, fusion, beam=beam, pause=pause)
    assert cut[1] == whole[1]
    assert (cut[0].tokens, cut[0].frames, cut[0].log_probs) == (
        whole[0].tokens,
        whole[0].frames,
        whole[0].log_probs,
    )
    assert cut[0].score == pytest.approx(whole[0].score, abs=1e-6)


@settings(max_examples=50)
@given(
    st.integers(0, 10_000),
    st.integers(0, 40),
    st.integers(1, 12),
    st.floats(0.5, 4),
    st.sampled_from([0, 1e-3, 0.05]),
)
def test_with_weight_0_it_is_the_beam_without_one(
    seed: int, frames: int, beam: int, sharpness: float, least: float
) -> None:
    log_probs = random_scores(seed, frames, 5, sharpness)
    options = {"beam": beam, "least_probability": least, "pause": Pause(4)}
    expected = beam_chunk(log_probs, start(5), final=True, **options)[:2]
    fusion = Fusion(random_model(seed, 5), 0.0)
    found = beam_chunk(log_probs, start(5, fusion), fusion=fusion, final=True, **options)[:2]
    assert found == expected


@settings(max_examples=30)
@given(st.integers(0, 10_000))
def test_a_rescored_list_is_that_of_the_search(seed: int) -> None:
    """With a beam that keeps all, it does not matter whether the model comes in the search or after it."""
    log_probs, fusion = random_scores(seed, 4, 3), Fusion(random_model(seed, 3), 0.8, 0.3)
    options = {"beam": 10_000, "least_probability": 0, "n_best": 10_000}
    fused = search(log_probs, fusion=fusion, **options)
    after = rescore(search(log_probs, **options), fusion)
    assert [c.hypothesis.tokens for c in after[:5]] == [c.hypothesis.tokens for c in fused[:5]]
    for one, other in zip(after, fused, strict=True):
        assert one.hypothesis.score == pytest.approx(other.hypothesis.score, abs=1e-4)


def test_the_language_model_decides_what_the_sound_leaves_open() -> None:
    even = np.log(np.array([[0.45, 0.45, 0.1], [0.1, 0.1, 0.8], [0.45, 0.45, 0.1]], np.float32))
    for text in ((0, 1), (1, 0), (1, 1)):
        model = estimate([[text]] * 3, 2, order=2, smoothing="witten-bell")
        assert search(even, fusion=Fusion(model, 1.0, 2.0))[0].hypothesis.tokens == text


def test_after_a_pause_the_language_model_goes_on_from_the_text_before_it() -> None:
    """A reciter pauses within a verse: the next word is not taken for the first one of a verse."""
    blank, doubt = [0.01, 0.01, 0.98], [0.45, 0.45, 0.1]
    log_probs = np.log(np.array([[0.98, 0.01, 0.01], blank, blank, blank, doubt], np.float32))
    model = estimate([[(0, 1)]] * 3, 2, order=3, smoothing="witten-bell")
    fusion = Fusion(model, 1.0, 2.0)
    for cuts in ([], [2], [1, 2, 3, 4]):
        found, ends = stream(log_probs, cuts, fusion, pause=Pause(3))
        assert (found.tokens, ends) == ((0, 1), (3,))
    begins, _ = stream(log_probs[3:], [], fusion, pause=Pause(3))
    assert begins.tokens == (0,)  # where the recording begins, a verse does


@pytest.mark.parametrize("options", [{"lm_weight": 1.0}, {"lm_weight": -1.0}, {"token_bonus": np.nan}])
def test_weights_that_make_no_sense_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(QuranAsrError, match="lm_weight"):
        Fusion(**options)


def test_scores_that_are_not_numbers_are_refused() -> None:
    log_probs = random_scores(0, 3, 2)
    log_probs[1, 0] = np.nan
    with pytest.raises(QuranAsrError, match="frame 1 hold NaN"):
        search(log_probs)
