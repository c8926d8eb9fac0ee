"""Following with visits that are emitted soon: each once, whatever the chunks, also at a pause."""

from __future__ import annotations

import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quran_asr.decoding.follow import LIVE, finish_following, follow, open_path, start_following
from quran_asr.decoding.graph import Graph, build_graph
from quran_asr.decoding.visits import HUB, Visit

sys.path.insert(0, str(Path(__file__).parent))
from spoken import BLANK, FRAME, QURAN, TOKENIZER, Speech, verse

BEAM = 60.0
GRAPH: Graph = build_graph(QURAN, TOKENIZER, [ref for ref in QURAN.refs if ref.surah >= 109])
VERSES = [*(f"109:{ayah}" for ayah in range(1, 7)), *(f"112:{ayah}" for ayah in range(1, 5)), "114:1"]


def emitted(log_probs: np.ndarray, cuts: list[int], word: int | None = None) -> list[tuple[int, Visit]]:
    """Words of the text, each with the frame at which it was emitted; the chunks end at the cuts."""
    state, found, frame = start_following(GRAPH, word), [], 0
    for piece in np.split(log_probs, cuts):
        state, visits = follow(GRAPH, state, piece, BEAM, LIVE)
        frame += len(piece)
        found += [(frame, visit) for visit in visits]
    _, visits = finish_following(GRAPH, state, BEAM, LIVE)
    found += [(frame, visit) for visit in visits]
    return [(frame, visit) for frame, visit in found if visit.word != HUB and visit.tokens]


def words(found: list[tuple[int, Visit]]) -> list[str]:
    return [GRAPH.texts[visit.word] for _, visit in found]


def first(place: str) -> int:
    return next(
        node for node in range(GRAPH.formulas, GRAPH.words) if str(GRAPH.refs[GRAPH.verse[node]]) == place
    )


def test_the_last_word_is_emitted_while_the_reciter_pauses() -> None:
    before = verse("110:1") + verse("110:2")
    speech = Speech().say(before)
    ended = len(speech.log_probs())
    log_probs = speech.pause(6).say(verse("110:3")).log_probs()
    found = emitted(log_probs, list(range(7, len(log_probs), 7)), first("110:1"))
    assert words(found) == before + verse("110:3")
    at = [frame for frame, _ in found][: len(before)]
    assert LIVE.pause is not None
    assert at[-1] <= ended + LIVE.pause + LIVE.interval + 7
    assert at[-1] < ended + 6 / FRAME, "the next word begins only there"


def test_nothing_is_emitted_at_a_pause_while_the_last_word_is_in_doubt() -> None:
    """A word that is hardly recognized: with it and without it the paths are about as good."""
    before = verse("110:1") + verse("110:2")
    log_probs, begun, ended = with_a_faint_end(before)
    found = emitted(log_probs, list(range(7, len(log_probs), 7)), first("110:1"))
    assert words(found) == before + verse("110:3")
    assert next(frame for frame, visit in found if visit.start >= begun - 2) > ended + 4 / FRAME


def test_a_word_that_is_hardly_recognized_is_on_the_open_path() -> None:
    before = verse("110:1") + verse("110:2")
    log_probs, _, ended = with_a_faint_end(before)
    state, _ = follow(GRAPH, start_following(GRAPH, first("110:1")), log_probs[: ended + 6], BEAM, LIVE)
    assert GRAPH.texts[open_path(GRAPH, state)[-1].word] == before[-1]


def with_a_faint_end(before: list[str]) -> tuple[np.ndarray, int, int]:
    """The last of these words with a blank twice as probable as each letter, a pause, and the next verse;
    and the frames at which that word begins and ends."""
    speech = Speech().say(before[:-1])
    begun = len(speech.log_probs())
    ended = len(speech.say(before[-1:]).log_probs())
    log_probs = speech.pause(4).say(verse("110:3")).log_probs()
    faint = log_probs[begun:ended]
    tokens = np.flatnonzero(faint.argmax(axis=1) != BLANK)
    letters = faint[tokens].argmax(axis=1)
    share = np.full((len(tokens), BLANK + 1), 1e-4)
    share[:, BLANK] = 0.6
    share[np.arange(len(tokens)), letters] = 0.4
    faint[tokens] = np.log(share)
    return log_probs, begun, ended


@pytest.mark.slow
@settings(max_examples=40)
@given(
    st.lists(st.tuples(st.sampled_from(VERSES), st.sampled_from([0, 0.5, 2.5, 5])), min_size=1, max_size=6),
    st.floats(0.5, 2.5),
    st.integers(0, 2**16),
    st.data(),
)
def test_chunks_change_nothing_and_each_word_is_emitted_once(
    parts: list[tuple[str, float]], noise: float, seed: int, data: st.DataObject
) -> None:
    speech = Speech(noise=noise, seed=seed)
    for place, pause in parts:
        speech.say(verse(place)).pause(pause)
    log_probs = speech.log_probs()
    cuts = sorted(data.draw(st.lists(st.integers(0, len(log_probs)), max_size=12)))
    once = [visit for _, visit in emitted(log_probs, [])]
    assert [visit for _, visit in emitted(log_probs, cuts)] == once
    middles = [visit.tokens[len(visit.tokens) // 2][0] for visit in once]
    assert all(one < other for one, other in pairwise(middles))
