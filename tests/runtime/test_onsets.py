"""Word starts behind a pause, against recordings whose sounds begin at a known sample."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quran_asr.decoding.path import AlignedSegment, Alignment, Unaligned
from quran_asr.records import SAMPLE_RATE, TimedWord, VerseRef
from quran_asr.runtime.onsets import Levels, at_rises

NOISE = 1e-4


def sounds(*spans: tuple[float, float], seconds: float = 6.0) -> np.ndarray:
    """Loud between the given seconds, quiet noise elsewhere."""
    samples = np.random.default_rng(0).normal(0, NOISE, round(seconds * SAMPLE_RATE)).astype(np.float32)
    for start, end in spans:
        samples[round(start * SAMPLE_RATE) : round(end * SAMPLE_RATE)] *= 1000
    return samples


def levels_of(samples: np.ndarray, size: int = 16_000) -> np.ndarray:
    levels = Levels()
    blocks = [samples[at : at + size] for at in range(0, len(samples), size)]
    assert sum(map(len, levels.noted(blocks))) == len(samples)
    return levels.decibels()


def words(*times: tuple[float, float]) -> Alignment:
    verse = VerseRef(112, 1)
    spoken = tuple(TimedWord("word", *span, verse=verse, index=at) for at, span in enumerate(times))
    return Alignment((AlignedSegment((verse,), spoken, "verse", "start", 0.0),), ())


def starts(alignment: Alignment) -> list[float]:
    return [word.start for segment in alignment.segments for word in segment.words]


@pytest.mark.parametrize("off", [-0.8, -0.2, -0.05, 0.1, 0.3])
def test_a_start_behind_a_pause_is_where_the_sound_begins(off: float) -> None:
    levels = levels_of(sounds((1.0, 2.0), (2.6, 4.0)))
    found = at_rises(words((1.0, 1.9), (2.6 + off, 3.8)), levels)
    assert starts(found) == pytest.approx([1.0, 2.6], abs=0.011)


def test_words_without_a_pause_before_them_stay() -> None:
    """The second one begins with the closure of a stop, the third one in the middle of a sound."""
    levels = levels_of(sounds((1.0, 2.0), (2.08, 4.0)))
    found = at_rises(words((1.0, 1.9), (2.0, 2.6), (2.9, 3.8)), levels)
    assert starts(found) == pytest.approx([1.0, 2.0, 2.9], abs=0.011)


def test_only_the_first_word_behind_a_pause_begins_there() -> None:
    levels = levels_of(sounds((1.0, 2.0), (2.6, 4.0)))
    assert starts(at_rises(words((1.0, 2.0), (2.65, 2.8), (2.8, 3.2)), levels)) == pytest.approx(
        [1.0, 2.6, 2.8], abs=0.011
    )


def test_nothing_ends_after_the_recording() -> None:
    levels = levels_of(sounds((1.0, 2.0), (2.6, 4.0), seconds=4.0))
    (segment,) = words((1.0, 1.9), (2.6, 4.11)).segments
    assert at_rises(Alignment((segment,), ()), levels).segments[0].end == pytest.approx(4.0)
    assert at_rises(Alignment((), (Unaligned(3.5, 4.16),)), levels).unaligned[0].end == pytest.approx(4.0)


def test_a_pause_far_away_and_silence_move_nothing() -> None:
    levels = levels_of(sounds((1.0, 2.0), (2.6, 4.0)))
    assert starts(at_rises(words((3.3, 3.9), (5.0, 5.5)), levels)) == [3.3, 5.0]
    assert starts(at_rises(words((7.0, 8.0)), levels)) == [7.0]


@pytest.mark.slow
@settings(max_examples=50)
@given(
    st.lists(st.tuples(st.floats(0, 0.8), st.floats(0.05, 0.8)), min_size=1, max_size=8),
    st.integers(1, 50_000),
)
def test_words_stay_in_order_however_the_recording_is_cut(gaps: list[tuple[float, float]], size: int) -> None:
    at, spans = 0.0, []
    for pause, length in gaps:
        spans.append((at + pause, at + pause + length))
        at = spans[-1][1]
    samples = sounds(*[(start + 0.2, end) for start, end in spans if end > start + 0.2], seconds=at + 1)
    found = at_rises(words(*spans), levels_of(samples))
    assert found == at_rises(words(*spans), levels_of(samples, size))
    times = [time for segment in found.segments for word in segment.words for time in (word.start, word.end)]
    assert times == sorted(times)


@settings(max_examples=25)
@given(st.lists(st.floats(0.45, 0.9), min_size=4, max_size=12), st.floats(0, 0.4), st.floats(0, 0.4))
def test_unaligned_stretches_overlap_no_word(lengths: list[float], early: float, late: float) -> None:
    """Words begin earlier than the frames of their tokens and of the stretches, by less than a word."""
    times = np.cumsum([0.3, *lengths]).tolist()
    spans = [(times[at], times[at + 1]) for at in range(0, len(times) - 1, 2)]
    gaps = [(before[1] - early, after[0] + late) for before, after in pairwise(spans)]
    seconds = times[-1] + 1
    aligned = replace(words(*spans), unaligned=tuple(Unaligned(*gap) for gap in gaps))
    found = at_rises(aligned, levels_of(sounds(*spans, seconds=seconds)))
    spoken = [word for segment in found.segments for word in segment.words]
    for stretch in found.unaligned:
        assert stretch.start < stretch.end
        assert all(word.end <= stretch.start or word.start >= stretch.end for word in spoken)
    for before, after in pairwise(spoken):
        gap = after.start - before.end
        assert gap <= 0 or any(before.end <= one.start < one.end <= after.start for one in found.unaligned)
