"""Transducer beam search with a language model: against the forward algorithm, and against itself cut."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from quran_asr.decoding.endpoint import Pause
from quran_asr.decoding.fusion import NO_FUSION, Candidate, Fusion, rescore
from quran_asr.decoding.language_model import LanguageModel
from quran_asr.decoding.ngram_estimation import estimate
from quran_asr.decoding.transducer import Hidden, greedy
from quran_asr.decoding.transducer import start as greedy_start
from quran_asr.decoding.transducer_beam import BeamSettings, Scorer, beam_chunk, search, start
from quran_asr.errors import QuranAsrError
from quran_asr.records import Hypothesis

V, J, H = 4, 6, 5
Floats = NDArray[np.float32]
DEFAULT = BeamSettings()
EMPTY = (np.zeros((1, 1, H), np.float32),)
EVERYTHING = BeamSettings(beam=100_000, least_probability=0, max_symbols=2)


class Networks:
    """A small recurrent prediction network and a joint of random weights, which count their calls."""

    def __init__(self, seed: int, talkative: float = 0.0, sharpness: float = 1.0) -> None:
        random = np.random.default_rng(seed)
        self.embedding = random.normal(size=(V + 1, H))
        self.recurrent, self.project = random.normal(size=(H, H)), random.normal(size=(H, J))
        self.out = random.normal(size=(J, V + 1)) * sharpness
        self.bias = np.array([0.0] * V + [-talkative])
        self.join_calls = self.predict_calls = 0

    def predict(self, tokens: NDArray[np.int64], hidden: Hidden) -> tuple[Floats, Hidden]:
        self.predict_calls += 1
        (h,) = hidden
        h = np.tanh(self.embedding[tokens] + h[0] @ self.recurrent + 0.1)
        return np.asarray(h @ self.project, np.float32), (np.asarray(h[None], np.float32),)

    def join(self, encoded: Floats, predicted: Floats) -> Floats:
        self.join_calls += 1
        logits = np.tanh(encoded + predicted) @ self.out + self.bias
        return np.asarray(logits - np.log(np.exp(logits).sum(axis=1, keepdims=True)), np.float32)

    def scorer(self, fusion: Fusion = NO_FUSION, settings: BeamSettings = DEFAULT) -> Scorer:
        return Scorer(self.predict, self.join, fusion, settings)

    def search(
        self,
        encoded: Floats,
        fusion: Fusion = NO_FUSION,
        settings: BeamSettings = DEFAULT,
        n_best: int = 1,
    ) -> list[Candidate]:
        scorer = self.scorer(fusion, settings)
        return search(encoded, scorer, start(scorer, EMPTY, V), n_best)


def random_frames(seed: int, frames: int) -> Floats:
    return np.random.default_rng(seed).normal(size=(frames, J)).astype(np.float32) * 1.5


def random_model(seed: int) -> LanguageModel:
    random = np.random.default_rng(seed)
    return estimate([[random.integers(0, V, random.integers(1, 7)).tolist()] for _ in range(6)], V, order=3)


def forward(networks: Networks, encoded: Floats, text: tuple[int, ...], most: int) -> float:
    """Log probability of a text: all alignments with at most `most` tokens in a frame (Graves 2012)."""
    predicted, hidden = networks.predict(np.array([V]), (np.zeros((1, 1, H), np.float32),))
    after = [predicted[0]]
    for token in text:
        predicted, hidden = networks.predict(np.array([token]), hidden)
        after.append(predicted[0])
    reached = np.full(len(text) + 1, -np.inf)
    reached[0] = 0.0
    for frame in encoded:
        scores = [networks.join(frame[None], one[None])[0].astype(np.float64) for one in after]
        total = np.full(len(text) + 1, -np.inf)
        for begin, count in product(range(len(text) + 1), range(most + 1)):
            end = begin + count
            if end <= len(text):
                path = reached[begin] + sum(scores[u][text[u]] for u in range(begin, end)) + scores[end][V]
                total[end] = np.logaddexp(total[end], path)
        reached = total
    return float(reached[-1])


def stream(
    networks: Networks,
    encoded: Floats,
    cuts: list[int],
    fusion: Fusion,
    settings: BeamSettings,
    pause: Pause | None = None,
) -> tuple[Hypothesis, tuple[int, ...]]:
    scorer = networks.scorer(fusion, settings)
    begin = start(scorer, EMPTY, V)
    state, found, ends = begin, [], ()
    bounds = [0, *sorted(min(cut, len(encoded)) for cut in cuts), len(encoded)]
    for nth in range(len(bounds) - 1):
        piece, more, state = beam_chunk(
            encoded[bounds[nth] : bounds[nth + 1]],
            state,
            scorer,
            begin,
            pause=pause,
            final=nth == len(bounds) - 2,
        )
        found.append(piece)
        ends += more
    return Hypothesis(
        sum((f.tokens for f in found), ()),
        sum((f.frames for f in found), ()),
        sum(f.score for f in found),
        sum((f.log_probs for f in found), ()),
    ), ends


@settings(max_examples=15)
@given(st.integers(0, 10_000), st.integers(1, 2), st.floats(0, 2), st.floats(-1, 2))
def test_a_full_beam_knows_the_score_of_every_text(
    seed: int, frames: int, weight: float, bonus: float
) -> None:
    networks, encoded, model = Networks(seed), random_frames(seed, frames), random_model(seed)
    fusion = Fusion(model, weight, bonus)
    found = networks.search(encoded, fusion=fusion, settings=EVERYTHING, n_best=100_000)
    lengths = range(2 * frames + 1)
    texts = [text for length in lengths for text in product(range(V), repeat=length)]
    assert sorted(candidate.hypothesis.tokens for candidate in found) == sorted(texts)
    for candidate in found[:20] + found[-5:]:
        text = candidate.hypothesis.tokens
        exact = forward(networks, encoded, text, most=2)
        language = model.score_sequences([text], end=False)[0].sum()
        assert candidate.acoustic == pytest.approx(exact, abs=1e-4)
        assert candidate.hypothesis.score == pytest.approx(
            exact + weight * language + bonus * len(text), abs=1e-4
        )
        assert list(candidate.hypothesis.frames) == sorted(candidate.hypothesis.frames)
    scores = [candidate.hypothesis.score for candidate in found]
    assert scores == sorted(scores, reverse=True)


@settings(max_examples=30)
@given(
    st.integers(0, 10_000),
    st.integers(0, 40),
    st.lists(st.integers(0, 40), max_size=6),
    st.integers(1, 8),
    st.sampled_from([0.0, 0.7]),
    st.sampled_from([None, 2, 5]),
    st.sampled_from([None, 3]),
    st.sampled_from([1.0, 2.0]),
    st.floats(-3, 1),
)
def test_cutting_changes_nothing(
    seed: int,
    frames: int,
    cuts: list[int],
    beam: int,
    weight: float,
    patience: int | None,
    commit: int | None,
    temperature: float,
    talkative: float,
) -> None:
    networks, encoded = Networks(seed, talkative, sharpness=3.0), random_frames(seed, frames)
    fusion = Fusion(random_model(seed), weight, 0.4)
    width = BeamSettings(beam, 1e-2, max_symbols=2, temperature=temperature, commit_frames=commit)
    pause = None if patience is None else Pause(patience)
    whole = stream(networks, encoded, [], fusion, width, pause)
    cut = stream(networks, encoded, cuts, fusion, width, pause)
    assert cut[1] == whole[1]
    assert (cut[0].tokens, cut[0].frames) == (whole[0].tokens, whole[0].frames)
    np.testing.assert_allclose(cut[0].log_probs, whole[0].log_probs, atol=1e-5)
    assert cut[0].score == pytest.approx(whole[0].score, abs=1e-3)
    if pause is None and frames:
        (best,) = networks.search(encoded, fusion=fusion, settings=width)
        assert best.hypothesis.tokens == whole[0].tokens


class Softened(Networks):
    """The joint network's logits are divided by a temperature before they are normalized."""

    def __init__(self, seed: int, temperature: float) -> None:
        super().__init__(seed)
        self.out, self.bias = self.out / temperature, self.bias / temperature


@settings(max_examples=15)
@given(st.integers(0, 10_000), st.sampled_from([0.5, 1.5, 2.0]))
def test_the_temperature_divides_the_logits(seed: int, temperature: float) -> None:
    encoded, softened = random_frames(seed, 2), Softened(seed, temperature)
    tempered = replace(EVERYTHING, temperature=temperature)
    for one in Networks(seed).search(encoded, settings=tempered, n_best=8):
        assert one.acoustic == pytest.approx(forward(softened, encoded, one.hypothesis.tokens, 2), abs=1e-4)


@settings(max_examples=30)
@given(st.integers(0, 10_000), st.integers(1, 30), st.integers(1, 8))
def test_without_weight_it_is_the_beam_without_a_language_model(seed: int, frames: int, beam: int) -> None:
    networks, encoded = Networks(seed, sharpness=3.0), random_frames(seed, frames)
    width = BeamSettings(beam)
    without = networks.search(encoded, settings=width, n_best=beam)
    zero = networks.search(encoded, fusion=Fusion(random_model(seed), 0.0), settings=width, n_best=beam)
    assert zero == without


@settings(max_examples=20)
@given(st.integers(0, 10_000))
def test_a_rescored_list_is_that_of_the_search(seed: int) -> None:
    networks, encoded = Networks(seed), random_frames(seed, 2)
    fusion = Fusion(random_model(seed), 0.8, 0.3)
    options = {"settings": EVERYTHING, "n_best": 100_000}
    fused = networks.search(encoded, fusion=fusion, **options)
    after = rescore(networks.search(encoded, **options), fusion)
    assert [c.hypothesis.tokens for c in after[:5]] == [c.hypothesis.tokens for c in fused[:5]]
    for one, other in zip(after, fused, strict=True):
        assert one.hypothesis.score == pytest.approx(other.hypothesis.score, abs=1e-4)


@settings(max_examples=30)
@given(st.integers(0, 10_000), st.integers(1, 30))
def test_a_wide_beam_is_no_worse_than_greedy_search(seed: int, frames: int) -> None:
    """The beam's best text has at least the probability of the greedy path."""
    networks, encoded = Networks(seed, talkative=-4.0, sharpness=2.0), random_frames(seed, frames)
    begin = greedy_start(networks.predict, EMPTY, V)
    (step,) = greedy(encoded[None], [frames], [begin], networks.predict, networks.join, max_symbols=6)
    assume(max(Counter(step.found.frames).values(), default=0) < 6)  # a full frame is left without a blank
    (best,) = networks.search(encoded, settings=BeamSettings(16, 1e-6, max_symbols=6))
    assert best.acoustic >= step.found.score - 1e-3


def test_all_texts_are_asked_in_one_call_and_quiet_frames_in_blocks() -> None:
    networks, encoded = Networks(1, talkative=-30.0), random_frames(1, 64)
    networks.search(encoded)
    assert (networks.join_calls, networks.predict_calls) == (8, 1)
    networks = Networks(1, sharpness=2.0)
    networks.search(encoded, settings=BeamSettings(8, max_symbols=1))
    assert networks.predict_calls <= 65
    assert networks.join_calls <= 65 + 8


def test_a_doubt_does_not_hold_words_back_for_ever() -> None:
    networks, encoded = Networks(7, talkative=-1.0, sharpness=0.5), random_frames(7, 80)
    waits = {}
    for commit in (None, 4):
        scorer = networks.scorer(settings=BeamSettings(least_probability=1e-6, commit_frames=commit))
        begin = start(scorer, EMPTY, V)
        state, late = begin, []
        for frame in range(80):
            _, _, state = beam_chunk(encoded[frame : frame + 1], state, scorer, begin)
            late.append(frame - min((tail.frames[0] for tail in state.tails if tail.tokens), default=frame))
        waits[commit] = max(late)
    assert waits[None] > 10  # otherwise this test shows nothing
    assert waits[4] <= 8


def test_after_a_pause_the_language_model_goes_on_from_the_text_before_it() -> None:
    """A reciter pauses within a verse: the next word is not taken for the first one of a verse."""
    blank = [0.01, 0.01, 0.01, 0.01, 0.96]
    frames = [[0.48, 0.01, 0.01, 0.01, 0.49], blank, blank, blank, [0.3, 0.3, 0.01, 0.01, 0.38], blank]
    encoded = np.log(np.array(frames, np.float32))

    def predict(tokens: NDArray[np.int64], hidden: Hidden) -> tuple[Floats, Hidden]:
        return np.zeros((len(tokens), V + 1), np.float32), hidden

    model = estimate([[(0, 1)]] * 3, V, order=3, smoothing="witten-bell")
    scorer = Scorer(predict, lambda encoded, _: encoded, Fusion(model, 1.0, 2.0), BeamSettings(max_symbols=1))
    begin = start(scorer, EMPTY, V)
    after_pause, ends, _ = beam_chunk(encoded, begin, scorer, begin, pause=Pause(3), final=True)
    assert (after_pause.tokens, ends) == ((0, 1), (3,))
    at_once, _, _ = beam_chunk(encoded[3:], begin, scorer, begin, pause=Pause(3), final=True)
    assert at_once.tokens == (0,)  # where the recording begins, a verse does


def test_scores_that_are_not_numbers_are_refused() -> None:
    networks, encoded = Networks(0), random_frames(0, 12)
    encoded[9] = np.nan
    with pytest.raises(QuranAsrError, match="frame 9 hold NaN"):
        networks.search(encoded)
