"""Recordings with planted errors hold exactly the words that they name; outcomes are judged at the error."""

from __future__ import annotations

from dataclasses import asdict, replace
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quran_asr.cli.lm_comparison import Comparison
from quran_asr.evaluation.evaluate import evaluate
from quran_asr.evaluation.planted_errors import (
    CONTROL,
    CUT_SHIFT,
    ERRORS,
    AlignedClip,
    PlantedError,
    Stretch,
    Tally,
    at_level,
    by_kind,
    cut_words,
    join,
    nearer,
    outcome,
    plant_errors,
    recognizable,
    recognized_words,
    to_json,
)
from quran_asr.evaluation.report import Setting
from quran_asr.records import SAMPLE_RATE, Segment, TimedWord, Transcript

if TYPE_CHECKING:
    from quran_asr.records import Samples

TEXTS = ("من شر الوسواس الخناس", "قل هو الله أحد", "فما يكذبك بعد بالدين حقا", "نعم")
SAME = "وما هو بالهزل إنهم"
"""Has a word of the second text."""
WORD, GAP = 4_000, 4_000
"""Samples of a word and of the silence behind it."""


def level_of(word: str) -> float:
    """Each word of these texts is a tone of its own amplitude."""
    words = [one for text in (*TEXTS, SAME) for one in text.split()]
    return 0.1 + 0.02 * words.index(word)


def audio_of(text: str) -> Samples:
    tone = np.where(np.arange(WORD) % 2, 1, -1)
    parts = [np.concatenate([level_of(word) * tone, np.zeros(GAP)]) for word in text.split()]
    return np.concatenate([np.zeros(GAP), *parts]).astype(np.float32)


def clip_of(text: str, reciter: str = "one", shift: float = 0.0) -> AlignedClip:
    starts = [(GAP + place * (WORD + GAP)) / SAMPLE_RATE for place in range(len(text.split()))]
    words = tuple(
        TimedWord(word, start + shift, start + WORD / SAMPLE_RATE)
        for word, start in zip(text.split(), starts, strict=True)
    )
    return AlignedClip(Segment(text, 0.0, 1.0, (), text, reciter), words)


def levels_in(samples: Samples) -> list[float]:
    """Amplitudes of the tones in a recording, in order."""
    loud = np.abs(samples) > 0.01
    edges = np.flatnonzero(np.diff(np.concatenate([[0], loud.astype(int), [0]])))
    return [float(np.median(np.abs(samples[a:b]))) for a, b in zip(edges[::2], edges[1::2], strict=True)]


@pytest.mark.slow
@given(seed=st.integers(0, 1_000), shift=st.floats(-0.04, 0.04))
def test_what_is_in_the_recording_is_what_is_named(seed: int, shift: float) -> None:
    clips = [clip_of(text, shift=shift) for text in TEXTS]
    planted = list(plant_errors(clips, lambda segment: audio_of(segment.audio), seed))
    assert [error.kind for error in planted] == [*ERRORS] * 3  # the last clip is too short
    for error in planted:
        assert " ".join(error.written) == error.segment.text
        expected = [level_of(word) for word in error.recited]
        if error.kind == "replaced":  # at the level of the word that it replaces
            expected[error.recited_places[0]] = level_of(error.written[error.recited_places[0]])
        assert levels_in(error.samples) == pytest.approx(expected, abs=0.008)
        shown = [error.recited[place] for place in error.recited_places]
        assert shown == [clips[clip].words[word].text for clip, word in error.sources]
        assert outcome(error, " ".join(error.recited)) == "as recited"
        assert outcome(error, " ".join(error.written)) == "corrected"
        assert outcome(error, "") == "other"
        assert nearer(error, " ".join(error.recited) + "ا") == "as recited"
        assert nearer(error, " ".join(error.written) + "ا") == "corrected"


def test_words_come_from_the_same_reciter_only() -> None:
    clips = [clip_of(TEXTS[0], "one"), clip_of(TEXTS[1], "two")]
    planted = list(plant_errors(clips, lambda segment: audio_of(segment.audio)))
    assert {error.kind for error in planted} == {"omitted", "exchanged"}


@pytest.mark.slow
@given(seed=st.integers(0, 1_000))
def test_the_control_has_a_word_replaced_by_the_same_word_from_between_others(seed: int) -> None:
    clips = [clip_of(text) for text in (TEXTS[1], SAME, "قل هو أحد نعم", TEXTS[3])]
    planted = list(plant_errors(clips, lambda segment: audio_of(segment.audio), seed))
    controls = {one.segment.text: one for one in planted if one.kind == CONTROL}
    assert {text: one.sources for text, one in controls.items()} == {
        TEXTS[1]: ((1, 1),),  # not from the third clip, where the word before it is the same
        SAME: controls[SAME].sources,
        "قل هو أحد نعم": ((1, 1),),
    }
    for text, one in controls.items():
        assert " ".join(one.recited) == " ".join(one.written) == text
        assert one.recited_places == range(1, 2)
        assert levels_in(one.samples) == pytest.approx([level_of(word) for word in text.split()], abs=0.008)
    tallies = to_json(by_kind(planted, ["as recited"] * len(planted), [True] * len(planted)))
    assert (tallies["same_word"]["errors"], tallies["all"]["errors"]) == (3, len(planted) - 3)


def error_of(kind: str, recited: str, written: str, places: range, there: range) -> PlantedError:
    segment = Segment("a", 0.0, 1.0, (), written, "one")
    nothing = np.zeros(0, np.float32)
    words = tuple(recited.split()), tuple(written.split())
    return PlantedError(kind, segment, nothing, *words, places, there, ((0, 1),))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("hypothesis", "expected"),
    [
        ("من الوسواس الخناس", "as recited"),
        ("في من الوسواس الناس", "as recited"),
        ("من شر الوسواس الخناس", "corrected"),
        ("شر الوسواس", "corrected"),
        ("من سر الوسواس الخناس", "other"),
        ("الخناس", "other"),
    ],
)
def test_an_omission_shows_in_its_neighbours(hypothesis: str, expected: str) -> None:
    error = error_of("omitted", "من الوسواس الخناس", "من شر الوسواس الخناس", range(2), range(1, 2))
    assert outcome(error, hypothesis) == expected


def test_only_recognized_words_count_as_recognizable() -> None:
    recognized = recognized_words(clip_of(TEXTS[1]), "قل هم الله")
    assert recognized == {0, 2}
    error = error_of("omitted", "من الوسواس", "من شر الوسواس", range(2), range(1, 2))
    assert not recognizable(error, [recognized])
    assert recognizable(error, [frozenset({1})])


def test_outcomes_are_counted_by_kind() -> None:
    error = error_of("omitted", "من الوسواس", "من شر الوسواس", range(2), range(1, 2))
    tallies = to_json(by_kind([error] * 3, ["as recited", "corrected", "other"], [True, True, False]))
    assert tallies["omitted"] == tallies["all"] == {"errors": 2, "as_recited": 1, "corrected": 1, "other": 0}
    assert tallies["replaced"]["errors"] == 0


def test_the_comparison_says_what_was_compared() -> None:
    """The file stays when another evaluation replaces the report beside it."""
    segment = Segment("a.flac", 0.0, 1.0, (), "قل هو", "a")
    language = {"lm": "quran", "passage": None, "lm_weight": 0.5, "token_bonus": 1.0, "rescored": None}
    fused = Setting("m", "transducer-beam", 480, "letters", "simple", "a.jsonl", language_model=language)
    alone = replace(fused, language_model=None)
    (without, _), (report, clips) = (
        evaluate([segment], lambda _: [Transcript("قل")], setting) for setting in (alone, fused)
    )
    tallies = {"all": (Tally(1), Tally(0, 1))}
    compared = Comparison(without, report, clips, 1, tallies, tallies).to_json()
    report_head = {key: value for key, value in report.to_json().items() if key in asdict(fused)}
    assert report_head["language_model"] == language and report_head["look_ahead_ms"] == 480
    assert {key: compared[key] for key in report_head} == report_head
    assert compared["without"]["wer"] == compared["with"]["wer"] == 0.5


def test_words_are_cut_before_the_start_that_the_alignment_gives() -> None:
    clip = clip_of(TEXTS[0])
    samples = audio_of(TEXTS[0])
    inner = [round((word.start + CUT_SHIFT) * SAMPLE_RATE) for word in clip.words[1:]]
    cut = cut_words(samples, clip.words)
    assert [(one.start, one.end) for one in cut] == list(pairwise([0, *inner, len(samples)]))
    too_late = [TimedWord(word.text, word.start + 9, word.end + 9) for word in clip.words]
    assert [one.end for one in cut_words(samples, too_late)] == [len(samples)] * len(clip.words)


RECORDING = np.random.default_rng(0).uniform(-1, 1, 4_000).astype(np.float32)


@given(bounds=st.lists(st.integers(400, 3_600), max_size=4, unique=True).map(sorted))
def test_stretches_of_one_recording_in_order_are_the_recording(bounds: list[int]) -> None:
    bounds = [0, *(bound for nth, bound in enumerate(bounds) if bound - ([0, *bounds][nth]) >= 320), 4_000]
    parted = [Stretch(RECORDING, start, end) for start, end in pairwise(bounds)]
    np.testing.assert_allclose(join(parted), RECORDING, atol=1e-6)


def test_stretches_of_two_recordings_meet_without_a_jump_or_a_gap() -> None:
    quiet, loud = np.full(4_000, 0.1, np.float32), np.full(4_000, 0.5, np.float32)
    joined = join([Stretch(quiet, 0, 2_000), Stretch(loud, 1_000, 3_000), Stretch(quiet, 500, 4_000)])
    assert len(joined) == 2_000 + 2_000 + 3_500
    assert np.abs(np.diff(joined)).max() < 0.4 / 300
    assert joined.min() >= 0.0999
    assert np.abs(joined[[1_000, 3_000, 5_000]] - [0.1, 0.5, 0.1]).max() < 1e-6


def test_a_word_is_brought_to_the_level_of_another() -> None:
    quiet, loud = np.full(4_000, 0.1, np.float32), np.full(4_000, 0.3, np.float32)
    lowered = at_level(Stretch(loud, 0, 1_000), Stretch(quiet, 0, 2_000))
    np.testing.assert_allclose(join([lowered]), 0.1, rtol=1e-5)
    assert at_level(Stretch(quiet, 0, 0), Stretch(loud, 0, 9)).gain == 1
