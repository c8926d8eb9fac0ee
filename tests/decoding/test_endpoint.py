"""When an utterance is over: the rule, the loudness it looks at, and that every search follows it."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from quran_asr.decoding.ctc import PathState, greedy_chunk
from quran_asr.decoding.ctc_beam import beam_chunk, start
from quran_asr.decoding.endpoint import Loudness, Pause, frames_of, levels, may_end

FRAME = 0.08


def test_a_pause_is_whole_frames_rounded_up() -> None:
    assert [frames_of(seconds, FRAME) for seconds in (0.01, 0.08, 0.09, 0.24, 1.0)] == [1, 1, 2, 3, 13]


def test_levels_are_those_of_the_power() -> None:
    log_mel = np.log(np.concatenate([np.full((8, 80), 1.0), np.full((8, 80), 1e-3), np.full((3, 80), 5.0)]))
    assert levels(log_mel.astype(np.float32), 8) == pytest.approx([0, -30], abs=1e-3)
    assert levels(np.zeros((7, 80), np.float32), 8).shape == (0,)


def test_silence_is_far_below_the_speech_and_lasts() -> None:
    sound = np.array([-60.0] * 3 + [-20.0] * 5 + [-30.0] * 5 + [-60.0] * 6 + [-21.0] + [-60.0] * 2)
    allowed, after = may_end(sound, Loudness(), FRAME)
    # before the speech nothing is known; 0.3 s are 4 frames, so the fourth silent frame is the first allowed
    assert np.flatnonzero(allowed).tolist() == [16, 17, 18]
    assert after.quiet == 2
    assert after.speech_db == pytest.approx(-20, abs=1)


def test_speech_that_becomes_softer_is_still_speech() -> None:
    """A reciter who moves away from the microphone by 30 dB in a minute is never taken for silence."""
    allowed, _ = may_end(np.linspace(-10.0, -40.0, 750), Loudness(), FRAME)
    assert not allowed.any()


@given(st.lists(st.floats(-90, 0), max_size=60), st.lists(st.integers(0, 60), max_size=4))
def test_loudness_goes_on_over_pieces(sound: list[float], cuts: list[int]) -> None:
    whole, after = may_end(np.array(sound), Loudness(), FRAME)
    loudness, parts = Loudness(), []
    for begin, end in pairwise([0, *sorted(min(cut, len(sound)) for cut in cuts), len(sound)]):
        allowed, loudness = may_end(np.array(sound[begin:end]), loudness, FRAME)
        parts.append(allowed)
    assert np.concatenate(parts).tolist() == whole.tolist()
    assert loudness == after


def certain(voiced: list[bool]) -> NDArray[np.float32]:
    """CTC scores of a vocabulary of one token: the token where `voiced`, else blank."""
    return np.array([[-0.01, -4.6] if speaks else [-4.6, -0.01] for speaks in voiced], np.float32)


def by_definition(voiced: list[bool], patience: int, allowed: list[bool]) -> list[int]:
    """Ends, from the rule as it is written: look back from every frame."""
    ends: list[int] = []
    for now in range(len(voiced)):
        since = ends[-1] if ends else 0
        spoken = [frame for frame in range(since, now + 1) if voiced[frame]]
        if spoken and now + 1 - spoken[-1] >= patience and not voiced[now] and allowed[now]:
            ends.append(now + 1)
    return ends


@given(st.lists(st.tuples(st.booleans(), st.booleans()), max_size=40), st.integers(2, 5), st.integers(0, 40))
def test_both_ctc_searches_end_utterances_by_the_rule(
    frames: list[tuple[bool, bool]], patience: int, cut: int
) -> None:
    voiced, allowed = [voiced for voiced, _ in frames], [allowed for _, allowed in frames]
    expected = by_definition(voiced, patience, allowed)
    scores, mask = certain(voiced), np.array(allowed, np.bool_)
    path, beam = PathState(), start(1)
    path_ends: tuple[int, ...] = ()
    beam_ends: tuple[int, ...] = ()
    for part, allow in ((scores[:cut], mask[:cut]), (scores[cut:], mask[cut:])):
        _, ends, path = greedy_chunk(part.reshape(-1, 2), path, Pause(patience, allow))
        path_ends += ends
        _, ends, beam = beam_chunk(part.reshape(-1, 2), beam, pause=Pause(patience, allow))
        beam_ends += ends
    assert list(path_ends) == expected
    assert list(beam_ends) == expected
